//! The list of allowed pairs is what the reference evaluator says, for every pair and port.

use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{
    CONNECTIONS_MAX, CompileInput, Connection, Connections, ConnectivityError, Date, End, Estate,
    EstateGuest, EstateHost, Labels, Peer, compile, connectivity, parse, render,
};
use lictor_types::{Protocol, Verdict};
use std::net::IpAddr;

const TEXT: &str = "policy \"p\" version 1
label app : one-of web db log required
set wide = 10.0.0.0/8 2001:db8::/32
set near = 10.1.0.0/16
set last = 255.255.255.255 10.255.255.255
window work = mon-fri
tier g ordered {
  deny a from app:web to set:near service tcp/443
  allow b from set:last to app:db service any
  allow m from app:log to host:h1 service tcp/22
  allow n from app:log to any service tcp/22 at egress
}
tier t allow-only {
  allow c from app:web to app:db service tcp/5432, icmp/echo
  allow d from app:web to set:wide service tcp/443
  allow e from outside to app:web service tcp/80-90
  allow f from app:db to app:db service tcp/7000 during work
}
observe app:log owner \"o\"
";

fn labels(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn estate() -> Estate {
    let guest = |(name, app): (&str, &str)| EstateGuest {
        name: name.to_owned(),
        labels: labels(app),
        ..EstateGuest::default()
    };
    let guests = [
        ("w1", "web"),
        ("w2", "web"),
        ("d1", "db"),
        ("d2", "db"),
        ("l1", "log"),
        ("q", "x"),
    ];
    let host = |(name, bound): (&str, bool)| EstateHost {
        name: name.to_owned(),
        bound,
        ..EstateHost::default()
    };
    Estate {
        guests: guests.map(guest).to_vec(),
        hosts: [("h1", true), ("h2", false)].map(host).to_vec(),
        fabric_trusted: true,
    }
}

fn list(date: &str) -> (lictor_policy::Policy, Vec<Connection>) {
    let (policy, diagnostics) = parse("p", TEXT.as_bytes());
    let policy = policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, TEXT.as_bytes())));
    let estate = estate();
    let date: Date = date.parse().expect("a date");
    let label_sets = estate.label_sets();
    let compiled = compile(&policy, &CompileInput { label_sets, date }).expect("small");
    let list = connectivity(&compiled, &estate, date).expect("few");
    (policy, list)
}

#[test]
fn every_pair_and_port_is_listed_exactly_if_the_reference_allows_it() {
    let ports = [
        (Protocol::Tcp, 22),
        (Protocol::Tcp, 79),
        (Protocol::Tcp, 80),
        (Protocol::Tcp, 90),
        (Protocol::Tcp, 91),
        (Protocol::Tcp, 443),
        (Protocol::Tcp, 5432),
        (Protocol::Tcp, 7000),
        (Protocol::Udp, 53),
        (Protocol::Icmp, 8 << 8),
        (Protocol::Other, 47),
    ];
    let addresses = [
        "0.0.0.0",
        "9.255.255.255",
        "10.0.0.0",
        "10.1.0.0",
        "10.1.255.255",
        "10.2.0.0",
        "10.255.255.255",
        "11.0.0.0",
        "255.255.255.255",
        "::",
        "2001:db8::",
        "2001:db9::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ];
    let mut ends: Vec<(Peer, End)> = Vec::new();
    for guest in estate().guests {
        ends.push((Peer::Guest(guest.name), End::Guest(guest.labels)));
    }
    let host = Labels::from([("host".to_owned(), "h1".to_owned())]);
    ends.push((Peer::Guest("h1".to_owned()), End::Guest(host)));
    for address in addresses {
        let address: IpAddr = address.parse().expect("an address");
        ends.push((Peer::Outside(address, address), End::Address(address)));
    }
    let inside = |listed: &Peer, end: &Peer| match (listed, end) {
        (Peer::Outside(first, last), Peer::Outside(address, _)) => {
            first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
        }
        _ => listed == end,
    };
    for day in ["2026-11-27", "2026-11-28"] {
        let (policy, list) = list(day);
        for (from, source) in &ends {
            for (to, destination) in ends.iter().filter(|(to, _)| to != from) {
                for (protocol, port) in ports {
                    let question = Question {
                        source: source.clone(),
                        destination: destination.clone(),
                        protocol,
                        port,
                        date: day.parse().expect("a date"),
                    };
                    let expected = evaluate(&policy, &question).verdict == Verdict::Allow;
                    let found = list.iter().any(|one| {
                        inside(&one.from, from)
                            && inside(&one.to, to)
                            && one.service.contains(protocol, port)
                    });
                    assert_eq!(found, expected, "{day} {from} {to} {protocol}/{port}");
                }
            }
        }
    }
}

#[test]
fn outside_addresses_are_listed_in_the_longest_runs() {
    let (_, list) = list("2026-11-27");
    let of = |from: &str| -> Vec<String> {
        let own = list.iter().filter(|one| one.from.to_string() == from);
        let outside = own.filter(|one| matches!(one.to, Peer::Outside(..)));
        outside
            .map(|one| format!("{} {}", one.to, one.service))
            .collect()
    };
    assert_eq!(
        of("w1"),
        [
            "10.0.0.0-10.0.255.255 tcp/443",
            "10.2.0.0-10.255.255.255 tcp/443",
            "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff tcp/443",
        ]
    );
    assert_eq!(of("q"), [""; 0]);
}

#[test]
fn an_estate_that_contradicts_itself_is_refused_whole() {
    let mut estate = estate();
    assert_eq!(estate.faults(), [""; 0]);
    estate.guests[0].name = "h1".to_owned();
    estate.guests[1].host = Some("h9".to_owned());
    estate.guests[2].name = String::new();
    let faults = estate.faults().join("\n");
    for part in [
        "h1 is there twice",
        "guest w2 names host h9",
        "\"\" has 0 bytes",
    ] {
        assert!(faults.contains(part), "{faults}");
    }
}

#[test]
fn millions_of_pairs_are_listed_one_by_one_in_the_order_of_the_list() {
    let (policy, list) = list("2026-11-27");
    assert!(list.is_sorted());
    let date: Date = "2026-11-27".parse().expect("a date");
    let mut large = estate();
    let one = large.guests[2].clone();
    // With the host's own device and outside addresses these are more pairs than are collected.
    let count = 2_049;
    large.guests = (0..count)
        .map(|number| EstateGuest {
            name: format!("d{number}"),
            ..one.clone()
        })
        .collect();
    let label_sets = large.label_sets();
    let compiled = compile(&policy, &CompileInput { label_sets, date }).expect("small");
    assert!(count * (count - 1) > CONNECTIONS_MAX);
    let refused = connectivity(&compiled, &large, date);
    assert_eq!(refused, Err(ConnectivityError::TooMany));
    let mut pairs = 0;
    let mut found = Connections::of(&compiled, &large, date).expect("compiled");
    let all: Result<(), ()> = found.each(|from, to, _| {
        pairs += usize::from(matches!((from, to), (Peer::Guest(_), Peer::Guest(_))));
        Ok(())
    });
    assert_eq!((all, pairs), (Ok(()), count * (count - 1)));
    let ended = found.each(|from, _, _| Err(from.clone()));
    assert!(ended.is_err(), "the first error ends it");
}
