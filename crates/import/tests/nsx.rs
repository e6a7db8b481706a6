//! NSX configurations against the expected connectivity of np-guard's vmware-analyzer.

mod support;

use lictor_import::{Effect, Format, import};
use lictor_policy::{Peer, Service};
use lictor_types::Protocol;
use std::collections::BTreeMap;
use support::{allowed, gunzip, imported, shared, source};

const CASES: [&str; 8] = [
    "Example1",
    "Example1d",
    "ExampleDumbeldore",
    "ExampleExclude",
    "ExampleGroup1",
    "ExampleGroup2",
    "ExampleGroup3",
    "ExampleGroup4",
];

/// Configurations without expected results: they import, and nothing of them is lost that opens.
const OTHERS: [&str; 13] = [
    "Example1a",
    "Example1aRedundantRuleIn",
    "Example1aRedundantRuleInOut",
    "Example1c",
    "ExampleExprAndConds",
    "ExampleExprTwoScopes",
    "ExampleHogwarts",
    "ExampleTwoDeniesSimple",
    "basic_jump_to_app_test",
    "default_allow_first",
    "default_deny_first",
    "no_redundant_rules",
    "two_allow_default_deny",
];

/// `TCP dst-ports: 445`, `ICMP,TCP` or `All Connections` of a service.
fn said(service: &Service) -> String {
    let whole = |protocol| {
        service
            .ranges()
            .contains(&lictor_policy::PortRange::all(protocol))
    };
    let three = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp];
    if three.iter().all(|protocol| whole(*protocol)) {
        return "All Connections".into();
    }
    let mut parts = Vec::new();
    for protocol in three {
        let own = service
            .ranges()
            .iter()
            .filter(|range| range.protocol == protocol);
        let ports: Vec<String> = own
            .map(|range| match range.first == range.last {
                true => range.first.to_string(),
                false => format!("{}-{}", range.first, range.last),
            })
            .collect();
        let name = protocol.to_string().to_uppercase();
        match (whole(protocol), ports.is_empty()) {
            (true, _) => parts.push(name),
            (false, false) => parts.push(format!("{name} dst-ports: {}", ports.join(","))),
            _ => {}
        }
    }
    parts.join(",")
}

#[test]
fn imported_rules_connect_what_the_analyzer_expects() {
    for case in CASES {
        let (Some(config), Some(text)) = (
            shared(&format!("nsx/{case}.json.gz")),
            shared(&format!("nsx/{case}.expected.txt")),
        ) else {
            return;
        };
        let text = String::from_utf8(text).expect("text");
        let rows = text.lines().skip(2).filter(|line| line.contains('|'));
        let expected: BTreeMap<(String, String), String> = rows
            .map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                (
                    (cells[0].to_owned(), cells[1].to_owned()),
                    cells[2].to_owned(),
                )
            })
            .collect();
        let imported = imported(Format::Nsx, &[source(case, &gunzip(&config))]);
        let estate = imported.estate.clone().expect("machines");
        // The analyzer shows outside addresses only where rules name them.
        let named = expected.keys().any(|(from, to)| {
            [from, to]
                .iter()
                .any(|end| end.starts_with(|c: char| c.is_ascii_digit()))
        });
        let shown = |peer: &Peer| match peer {
            Peer::Guest(name) => Some(name.clone()),
            Peer::Outside(first, last) if first == last => Some(first.to_string()),
            Peer::Outside(..) => None,
        };
        let list = allowed(&imported, &estate);
        let found: BTreeMap<(String, String), String> = list
            .iter()
            .filter(|one| {
                named
                    || [&one.from, &one.to]
                        .iter()
                        .all(|end| matches!(end, Peer::Guest(_)))
            })
            .filter_map(|one| Some(((shown(&one.from)?, shown(&one.to)?), said(&one.service))))
            .collect();
        assert_eq!(found, expected, "{case}\n{}", imported.policy);
    }
}

#[test]
fn every_configuration_is_imported_and_nothing_opens_by_it() {
    for case in OTHERS {
        let Some(config) = shared(&format!("nsx/{case}.json.gz")) else {
            return;
        };
        let imported = imported(Format::Nsx, &[source(case, &gunzip(&config))]);
        let opens: Vec<_> = imported
            .notes
            .iter()
            .filter(|note| note.effect == Effect::Opens)
            .collect();
        assert!(opens.is_empty(), "{case}: {opens:?}");
        assert!(imported.rules > 0, "{case}");
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    for bytes in [&b"{"[..], b"[]", b"{\"domains\": 3}", b"\xff"] {
        assert!(import(Format::Nsx, "n", &[source("x.json", bytes)]).is_err());
    }
    assert!(import(Format::Nsx, "n", &[]).is_err());
}
