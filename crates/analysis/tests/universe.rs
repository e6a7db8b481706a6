//! Nodes are as fine as selectors need, and the set of a selector is what it matches.

use lictor_analysis::{Kind, Universe};
use lictor_policy::{End, Estate, EstateGuest, EstateHost, Labels, Policy, parse, render};

const POLICY: &str = "policy \"p\" version 1
label zone : one-of cde corp dmz required
label app : string
label serial : string
set wide = 10.0.0.0/8 2001:db8::/32
set mid = 10.1.0.0/16
scope cde = zone:cde
scope outer = not (scope:cde or set:mid)
scope some = app:pay & zone:dmz or set:wide & not set:mid or host:h1
tier t allow-only {
  allow a from app:* to hosts service tcp/22
  allow b from guests to outside service tcp/80
}
assert n : never path from zone:corp to app:till
";

fn policy() -> Policy {
    let (policy, diagnostics) = parse("p", POLICY.as_bytes());
    policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, POLICY.as_bytes())))
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// Guests of every kind, each twice with another serial number, which no selector asks for.
fn estate() -> Estate {
    let mut estate = Estate::default();
    for zone in ["", "zone=cde", "zone=corp", "zone=dmz", "zone=moon"] {
        for app in ["", "app=pay", "app=till", "app=other"] {
            for serial in ["serial=1", "serial=2"] {
                estate.guests.push(EstateGuest {
                    name: format!("g{}", estate.guests.len()),
                    labels: labels(&format!("{zone},{app},{serial}")),
                    ..EstateGuest::default()
                });
            }
        }
    }
    estate.guests[0].addresses = vec!["10.1.0.0".parse().expect("an address")];
    for name in ["h1", "h2"] {
        estate.hosts.push(EstateHost {
            name: name.into(),
            bound: true,
            ..EstateHost::default()
        });
    }
    estate
}

#[test]
fn a_selector_has_the_nodes_whose_members_it_matches() {
    let (policy, estate) = (policy(), estate());
    let mut universe = Universe::of(&[&policy], &estate).expect("small");
    let rules = policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]);
    let scopes = policy.scopes.values().map(|scope| &scope.selector);
    for selector in rules.chain(scopes) {
        let id = universe.select(selector).expect("named by the policy");
        for (place, member) in universe.members().iter().enumerate() {
            let expected = selector.matches(&End::Guest(member.labels.clone()), &policy.sets);
            let found = universe.bits(id).has(universe.node_of(place));
            assert_eq!(found, expected, "{selector} {member:?}");
        }
        for (node, kind) in universe.nodes().iter().enumerate() {
            if let Kind::Outside(address) = kind {
                let expected = selector.matches(&End::Address(*address), &policy.sets);
                assert_eq!(
                    universe.bits(id).has(node),
                    expected,
                    "{selector} {address}"
                );
            }
        }
    }
}

#[test]
fn what_no_selector_asks_for_makes_no_class() {
    let (policy, estate) = (policy(), estate());
    let universe = Universe::of(&[&policy], &estate).expect("small");
    // Twenty label sets without the serial number, two devices, and three outside classes: none,
    // wide, wide and mid.
    assert_eq!(universe.nodes().len(), 25);
    assert_eq!(universe.node_of(0), universe.node_of(1));
    assert_eq!(universe.outside().count(), 3);
    let node = |text: &str| universe.node_of_address(text.parse().expect("ip"), &policy);
    assert_eq!(node("10.1.2.3"), node("10.1.255.255"));
    assert_ne!(node("10.1.2.3"), node("10.2.0.0"));
    assert_eq!(node("192.0.2.1"), node("2001:db9::"));
}

#[test]
fn a_selector_that_nobody_named_is_refused() {
    let (policy, estate) = (policy(), estate());
    let mut universe = Universe::of(&[&policy], &estate).expect("small");
    let unknown = lictor_policy::Selector::Label {
        name: "app".into(),
        value: "new".into(),
    };
    let error = universe.select(&unknown).expect_err("unknown").to_string();
    assert!(error.contains("app:new"), "{error}");
}
