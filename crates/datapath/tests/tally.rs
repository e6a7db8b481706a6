//! What was counted of a guest goes along with it from host to host, and nothing is counted twice.

mod common;

use common::packets::{BACK, OUT, ip, udp};
use common::{Bench, VNIC, privileged};
use lictor_datapath::Datapath;
use lictor_types::{Counted, Direction, Reason, RuleId, Tallies, Tally};

use Direction::{Egress, Ingress};

/// A query, its answer, and something that no rule allows.
fn traffic(bench: &Bench, ports: std::ops::Range<u16>) {
    for port in ports {
        let query = ip(Egress, OUT, 17, &udp((port, 53)));
        let answer = ip(Ingress, BACK, 17, &udp((53, port)));
        let other = ip(Egress, OUT, 17, &udp((port, 54)));
        bench.check("asks", Egress, &query, "allow policy-allow");
        bench.check("is answered", Ingress, &answer, "allow session");
        bench.check("asks elsewhere", Egress, &other, "deny default-deny");
    }
}

fn tally(bench: &Bench) -> Tallies {
    bench.datapath.tally(VNIC).expect("reads")
}

/// What `count` rounds of [`traffic`] make, wherever they were.
fn check(found: &Tallies, count: u64) {
    let of = |counted| found.get(&counted).copied().unwrap_or_default();
    assert_eq!(
        of(Counted::Reason(Egress, Reason::PolicyAllow)).packets,
        count
    );
    assert_eq!(
        of(Counted::Reason(Egress, Reason::DefaultDeny)).packets,
        count
    );
    assert_eq!(of(Counted::Reason(Ingress, Reason::Session)).packets, count);
    let rule = of(Counted::Rule(RuleId(102)));
    assert_eq!((rule.packets, rule.sessions), (count, count));
    let default = of(Counted::Rule(RuleId::DEFAULT));
    assert_eq!((default.packets, default.sessions), (count, 0));
}

/// As the agents do it: what the source has counted goes to the target, and is off the source.
fn moves(from: &Bench, to: &Bench) {
    let counted = tally(from);
    to.datapath.add_tally(VNIC, &counted).expect("adds");
    from.datapath.take_tally(VNIC, &counted).expect("takes");
    assert_eq!(tally(from), Tallies::new(), "all of it has gone");
}

#[test]
fn a_guest_that_comes_and_goes_is_counted_once() {
    if !privileged() {
        return;
    }
    let here = Bench::new();
    let own = |bench: &Bench| bench.datapath.counters(VNIC).expect("reads");
    traffic(&here, 2_000..2_005);
    let counted = tally(&here);
    check(&counted, 5);
    let before = own(&here);
    let there = Bench::new();
    traffic(&there, 2_000..2_001);
    moves(&here, &there);
    check(&tally(&there), 6);
    traffic(&there, 2_005..2_008);
    check(&tally(&there), 9);
    assert_eq!(own(&there).egress.seen.packets, 8, "of this host alone");
    assert_eq!(own(&here), before, "the kernel's own counters stay");
    for _ in 0..3 {
        moves(&there, &here);
        check(&tally(&here), 9);
        moves(&here, &there);
        check(&tally(&there), 9);
    }
    moves(&there, &here);
    traffic(&here, 2_008..2_009);
    check(&tally(&here), 10);
    // Another life of the agent finds the same.
    let again = Datapath::open(&here.root()).expect("opens");
    check(&again.tally(VNIC).expect("reads"), 10);
}

#[test]
fn every_counter_goes_along() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    let number = |number: u64| Tally {
        packets: number,
        bytes: 2 * number,
        sessions: 3 * number,
        observed: u64::MAX - number,
    };
    let reasons = [Egress, Ingress].into_iter().flat_map(|direction| {
        let reasons = Reason::ALL.iter();
        let reasons = reasons.map(move |reason| Counted::Reason(direction, *reason));
        reasons.chain([Counted::Steered(direction)])
    });
    let rules = (0..lictor_types::RULES_PER_VNIC_MAX).map(|rule| Counted::Rule(RuleId(rule)));
    let counted: Tallies = reasons.chain(rules).zip((1..).map(number)).collect();
    bench.datapath.add_tally(VNIC, &counted).expect("adds");
    assert_eq!(tally(&bench), counted);
    bench.datapath.take_tally(VNIC, &counted).expect("takes");
    assert_eq!(tally(&bench), Tallies::new());
}
