//! Third-party cases from the folder `shared/data` beside the repository, and what the imported
//! policies allow. Where the folder is not there the tests say so and check nothing.

#![allow(dead_code, reason = "each test program uses a part")]

use lictor_import::{Effect, Format, Imported, Source, import};
use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{
    CompileInput, Connection, Date, End, Estate, Labels, Policy, PortRange, Service, compile,
    connectivity, parse, render,
};
use lictor_types::{Protocol, Verdict};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

/// A file of the shared data; `None` with a loud word if it is not there.
pub(crate) fn shared(path: &str) -> Option<Vec<u8>> {
    let given = std::env::var_os("LICTOR_SHARED").map(PathBuf::from);
    let root =
        given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    let path = root.join("data").join(path);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!(
                "SKIPPED: {}: {error}; put the shared data there",
                path.display()
            );
            None
        }
    }
}

/// The files of a gzipped archive, by path.
pub(crate) fn archive(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().expect("a path").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("read");
        files.insert(path, bytes);
    }
    files
}

pub(crate) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut text)
        .expect("gzip");
    text
}

pub(crate) fn source(path: &str, bytes: &[u8]) -> Source {
    Source {
        path: path.to_owned(),
        bytes: bytes.to_vec(),
    }
}

/// Imports texts that must be sound.
pub(crate) fn imported(format: Format, sources: &[Source]) -> Imported {
    import(format, "imported", sources).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn policy(imported: &Imported) -> Policy {
    let (policy, diagnostics) = parse("imported", imported.policy.as_bytes());
    policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, imported.policy.as_bytes())))
}

/// Every allowed pair.
pub(crate) fn allowed(imported: &Imported, estate: &Estate) -> Vec<Connection> {
    let policy = policy(imported);
    let date: Date = "2026-11-27".parse().expect("a date");
    let label_sets = estate.label_sets();
    let compiled = compile(&policy, &CompileInput { label_sets, date });
    let compiled = compiled.unwrap_or_else(|error| panic!("{error}\n{}", imported.policy));
    connectivity(&compiled, estate, date).expect("few")
}

/// The part of a service that the suites speak of: `all`, or ports of TCP, UDP and SCTP.
pub(crate) fn ports(service: &Service) -> String {
    let mut text = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for range in service
            .ranges()
            .iter()
            .filter(|range| range.protocol == protocol)
        {
            text.push(format!("{protocol} {}-{}", range.first.max(1), range.last));
        }
    }
    let text = text.join(" ");
    if text == "tcp 1-65535 udp 1-65535 sctp 1-65535" {
        "all".to_owned()
    } else {
        text
    }
}

/// A guest of the estate by its name, labels such as `machine:yes`, or an address.
fn end(imported: &Imported, text: &str) -> End {
    if let Ok(address) = text.parse() {
        return End::Address(address);
    }
    let guests = imported.estate.iter().flat_map(|estate| &estate.guests);
    let found = guests.into_iter().find(|guest| guest.name == text);
    let labels = || {
        let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<Labels>()
    };
    End::Guest(found.map_or_else(labels, |guest| guest.labels.clone()))
}

/// `from to service`, and the verdicts at egress and ingress.
pub(crate) fn check(imported: &Imported, question: &str, expected: &str) {
    let words: Vec<&str> = question.split(' ').collect();
    let range: PortRange = words[2].parse().expect("a service");
    let date: Date = "2026-11-27".parse().expect("a date");
    let question_asked = Question {
        source: end(imported, words[0]),
        destination: end(imported, words[1]),
        protocol: range.protocol,
        port: range.first,
        date,
    };
    let answer = evaluate(&policy(imported), &question_asked);
    let word = |verdict: Option<Verdict>| verdict.map_or("-".to_owned(), |one| one.to_string());
    let said = [answer.egress, answer.ingress].map(|one| word(one.map(|one| one.verdict)));
    assert_eq!(said.join(" "), expected, "{question}\n{}", imported.policy);
}

pub(crate) fn noted(imported: &Imported, effect: Effect, part: &str) {
    let found = imported.notes.iter().any(|note| {
        note.effect == effect && (note.what.contains(part) || note.place.contains(part))
    });
    assert!(found, "{part:?} is not noted: {:?}", imported.notes);
}
