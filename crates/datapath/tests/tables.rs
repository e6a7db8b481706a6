//! What the rows of the tables mean, and which rows are refused.

mod common;

use common::packets::ip;
use common::packets::udp;
use common::{Bench, privileged};
use lictor_datapath::Error;
use lictor_types::{AtomId, Decision, Direction, HostTables, IdentityId, RuleId, Verdict};

use Direction::{Egress, Ingress};

#[test]
fn the_longest_prefix_decides_whether_it_is_found_by_hash_or_in_the_trie() {
    if !privileged() {
        return;
    }
    let friend = [("20.0.0.0/8", 2), ("20.1.0.0/16", 3), ("20.1.1.0/24", 2)];
    // With the prefix of the test's own tables these are more lengths than are tried by hash.
    let more = [("30.0.0.0/9", 3), ("30.0.0.0/11", 3), ("30.0.0.0/13", 2)];
    for rows in [&friend[..], &[friend, more].concat()] {
        let mut bench = Bench::new();
        let mut tables = common::tables();
        let entry = |(prefix, identity): &(&str, u32)| common::address(prefix, *identity, 0, 0);
        tables.addresses.extend(rows.iter().map(entry));
        bench.datapath.load(&tables).expect("loads");
        for (to, expected) in [
            ("20.0.0.1", "allow policy-allow"),
            ("20.1.0.1", "deny default-deny"),
            ("20.1.1.1", "allow policy-allow"),
            ("20.2.1.1", "allow policy-allow"),
            ("21.0.0.1", "deny default-deny"),
        ] {
            let packet = ip(Egress, ("10.0.0.1", to), 17, &udp((4_053, 53)));
            bench.check(to, Egress, &packet, expected);
        }
    }
}

/// What `10.0.0.1` may send with UDP to a peer's port, by rows of (peer, atom, rule).
fn check_rows(rows: &[(IdentityId, AtomId, i32)], cases: &[(&str, u16, &str)]) {
    let mut bench = Bench::new();
    let mut tables = common::tables();
    let like = tables.decisions[0];
    let row = |(peer, atom, rule): &(IdentityId, AtomId, i32)| Decision {
        peer: *peer,
        atom: *atom,
        direction: Egress,
        rule: RuleId(rule.unsigned_abs()),
        verdict: if *rule > 0 {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        ..like
    };
    tables.decisions = rows.iter().map(row).collect();
    bench.datapath.load(&tables).expect("loads");
    for (peer, port, expected) in cases {
        let packet = ip(Egress, ("10.0.0.1", peer), 17, &udp((4_053, *port)));
        let name = format!("{peer} {port} by {rows:?}");
        bench.check(&name, Egress, &packet, expected);
        let back = ip(Ingress, (peer, "10.0.0.1"), 17, &udp((*port, 4_054)));
        bench.check(&name, Ingress, &back, "deny default-deny");
    }
}

/// The peers of the test's tables: a guest, a prefix, and somebody whom no row names.
const GUEST: &str = "10.0.0.2";
const PREFIX: &str = "192.0.2.1";
const STRANGER: &str = "203.0.113.9";
const ALLOW: &str = "allow policy-allow";
const DENY: &str = "deny policy-deny";
const DEFAULT: &str = "deny default-deny";

#[test]
fn what_nothing_more_exact_answers_is_answered_by_any() {
    if !privileged() {
        return;
    }
    let (guest, dns) = (IdentityId(2), AtomId(3));
    let (all, any) = (IdentityId::ANY, AtomId::ANY);
    check_rows(
        &[(guest, any, 1)],
        &[(GUEST, 53, ALLOW), (STRANGER, 53, DEFAULT)],
    );
    let everybody = [
        (GUEST, 53, ALLOW),
        (PREFIX, 53, ALLOW),
        (STRANGER, 53, ALLOW),
    ];
    check_rows(&[(all, dns, 1)], &everybody);
    check_rows(&[(all, any, 1)], &everybody);
    // The exact row, then the peer's, then the port's, then that of all.
    check_rows(
        &[(guest, dns, 1), (guest, any, -2), (all, any, -3)],
        &[(GUEST, 53, ALLOW), (STRANGER, 53, DENY)],
    );
    check_rows(
        &[(guest, any, 1), (all, dns, -2)],
        &[(GUEST, 53, ALLOW), (PREFIX, 53, DENY)],
    );
    check_rows(&[(all, dns, 1), (all, any, -2)], &[(GUEST, 53, ALLOW)]);
    // What is in no atom is what no rule speaks of.
    check_rows(
        &[(all, any, 1)],
        &[(GUEST, 54, DEFAULT), (STRANGER, 54, DEFAULT)],
    );
}

type Edit = fn(&mut HostTables);

#[test]
fn rows_that_could_never_hold_are_refused() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::new();
    let edits: [(&str, Edit); 3] = [
        ("bits beyond the prefix", |tables| {
            tables
                .addresses
                .push(common::address("10.9.0.1/16", 3, 0, 0));
        }),
        ("about no atom", |tables| {
            tables.decisions[0].atom = AtomId::NONE;
        }),
        ("for any atom", |tables| tables.atoms[0].atom = AtomId::ANY),
    ];
    for (why, edit) in edits {
        let mut wrong = common::tables();
        edit(&mut wrong);
        let before = bench.datapath.read_back().expect("reads");
        let error = bench.datapath.load(&wrong).expect_err(why);
        assert!(matches!(error, Error::Row { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(bench.datapath.read_back().expect("reads"), before, "{why}");
    }
}
