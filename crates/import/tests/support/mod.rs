//! Third-party cases from the folder `shared/data` beside the repository, and what the imported
//! policies allow. Where the folder is not there the tests say so and check nothing.

#![allow(dead_code, reason = "each test program uses a part")]

use lictor_import::{Format, Imported, Source, import};
use lictor_policy::{
    CompileInput, Connection, Date, Estate, Policy, Service, compile, connectivity, parse, render,
};
use lictor_types::Protocol;
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
