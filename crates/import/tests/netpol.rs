//! Kubernetes policies against the expected connections of np-guard's netpol-analyzer.

mod support;

use lictor_import::{Format, Source, import};
use lictor_policy::Peer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use support::{allowed, archive, ports, shared, source};

/// Cases that need what is no policy of the pod network: secondary and user-defined networks.
const OTHER_NETWORKS: [&str; 3] = ["nad_", "udn_", "cudn_"];

/// `src dst` to ports; of outside addresses the ends of all runs, so that cuts mean nothing.
type Pairs = BTreeMap<(String, String), Runs>;
type Runs = BTreeMap<(u32, u32), String>;

fn expected(text: &str) -> Pairs {
    let mut pairs = Pairs::new();
    for line in text.lines().filter(|line| line.contains(" => ")) {
        let (ends, conn) = line.split_once(" : ").expect("a connection");
        let (from, to) = ends.split_once(" => ").expect("two ends");
        if from.contains("{ingress-controller}") {
            continue;
        }
        let conn = conns(conn);
        let runs = |end: &str| -> Vec<(u32, u32)> {
            let Some(ranges) = end.strip_suffix("[External]") else {
                return vec![(0, 0)];
            };
            let runs = ranges.split(',').map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let bits = |text: &str| u32::from(text.parse::<Ipv4Addr>().expect("an address"));
                (bits(first), bits(last))
            });
            runs.collect()
        };
        let name = |end: &str| match end.ends_with("[External]") {
            true => "outside".to_owned(),
            false => end.to_owned(),
        };
        let own = pairs.entry((name(from), name(to))).or_default();
        let outside = if from.ends_with("[External]") {
            from
        } else {
            to
        };
        own.extend(runs(outside).into_iter().map(|run| (run, conn.clone())));
    }
    pairs
        .into_iter()
        .map(|(ends, runs)| (ends, joined(runs)))
        .collect()
}

/// `TCP 80,443-445,UDP 53` as [`ports`] writes it.
fn conns(text: &str) -> String {
    if text == "All Connections" {
        return "all".into();
    }
    let mut parts = Vec::new();
    let mut protocol = String::new();
    for item in text.split(',') {
        let ports = match item.split_once(' ') {
            Some((name, ports)) => {
                protocol = name.to_lowercase();
                ports
            }
            None => item,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let rank = ["tcp", "udp", "sctp"]
            .iter()
            .position(|name| *name == protocol);
        let first: u16 = first.parse().expect("a port");
        parts.push((rank, first, format!("{protocol} {first}-{last}")));
    }
    parts.sort();
    parts
        .into_iter()
        .map(|(_, _, text)| text)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs that touch and have the same ports are one.
fn joined(runs: Runs) -> Runs {
    let mut list: Vec<((u32, u32), String)> = Vec::new();
    for ((first, last), conn) in runs {
        match list.last_mut() {
            Some(((_, end), same)) if end.checked_add(1) == Some(first) && *same == conn => {
                *end = last;
            }
            _ => list.push(((first, last), conn)),
        }
    }
    list.into_iter().collect()
}

fn found(sources: &[Source]) -> Result<(Pairs, String), String> {
    let imported = import(Format::K8s, "imported", sources).map_err(|error| error.to_string())?;
    let estate = imported.estate.clone().expect("pods");
    let mut pairs = Pairs::new();
    for one in allowed(&imported, &estate) {
        let conn = ports(&one.service);
        if conn.is_empty() {
            continue;
        }
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => Some(u32::from(address)),
            IpAddr::V6(_) => None,
        };
        let mut run = (0, 0);
        let mut name = |peer: &Peer| match peer {
            // The suite shows one workload even where its pods' labels differ.
            Peer::Guest(name) => name.split('#').next().map(str::to_owned),
            Peer::Outside(first, last) => {
                run = (bits(*first)?, bits(*last)?);
                Some("outside".to_owned())
            }
        };
        let (Some(from), Some(to)) = (name(&one.from), name(&one.to)) else {
            continue;
        };
        if from == to {
            continue;
        }
        pairs.entry((from, to)).or_default().insert(run, conn);
    }
    let pairs = pairs
        .into_iter()
        .map(|(ends, runs)| (ends, joined(runs)))
        .collect();
    Ok((pairs, imported.policy))
}

#[test]
fn imported_policies_allow_what_the_analyzer_expects() {
    let Some(bytes) = shared("netpol/netpol-analyzer-cases.tar.gz") else {
        return;
    };
    let files = archive(&bytes);
    let end = "_connlist_output.txt";
    let (mut passed, mut failed) = (0, Vec::new());
    let cases: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.strip_prefix("tests/")?.split('/').next())
        .collect();
    for case in cases {
        let Some(text) = files.get(&format!("test_outputs/connlist/{case}{end}")) else {
            continue;
        };
        if OTHER_NETWORKS.iter().any(|word| case.contains(word)) {
            continue;
        }
        let inside = format!("tests/{case}/");
        let sources: Vec<Source> = files
            .iter()
            .filter(|(path, _)| path.starts_with(&inside))
            .filter(|(path, _)| {
                [".yaml", ".yml", ".json"]
                    .iter()
                    .any(|end| path.ends_with(end))
            })
            .map(|(path, bytes)| source(path, bytes))
            .collect();
        let expected = expected(&String::from_utf8_lossy(text));
        match found(&sources) {
            Ok((found, _)) if found == expected => passed += 1,
            Ok((found, _)) => failed.push(difference(case, &found, &expected)),
            Err(error) => failed.push(format!("{case}: {error}")),
        }
    }
    eprintln!("{passed} cases passed");
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        failed.len() + passed,
        failed.join("\n")
    );
    assert!(passed >= 35, "only {passed} cases were found");
}

fn difference(case: &str, found: &Pairs, expected: &Pairs) -> String {
    let mut text = format!("{case}:");
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    for key in keys
        .into_iter()
        .filter(|key| found.get(*key) != expected.get(*key))
        .take(4)
    {
        let show = |pairs: &Pairs| format!("{:?}", pairs.get(key));
        text.push_str(&format!(
            "\n  {key:?}\n    found {}\n    expected {}",
            show(found),
            show(expected)
        ));
    }
    text
}
