//! What the loaded program says of packets that nobody sends, and that asking leaves no trace.

mod common;

use common::packets::{ACK, BACK, OUT, SYN, answer, back, ip, udp};
use common::{Bench, VNIC, privileged};
use lictor_types::{Direction, Probe, TcpState, VnicState};
use std::time::Duration;

use Direction::{Egress, Ingress};

/// The answer as "allow policy-allow 101".
fn told(bench: &Bench, probe: &str, direction: Option<Direction>) -> String {
    let probe: Probe = probe.parse().expect("a probe");
    let found = bench.datapath.explain(VNIC, &probe, direction);
    let answer = found.expect("explains").answer;
    format!("{} {} {}", answer.verdict, answer.reason, answer.rule)
}

#[test]
fn the_program_is_asked_and_nothing_is_left_behind() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::new();
    // Its session lives as long as this takes, and not a millisecond of it passes.
    let stopped = Duration::from_secs(1_000_000);
    bench.datapath.fix_clock(VNIC, stopped).expect("stops");
    let query = ip(Egress, OUT, 17, &udp((5_000, 53)));
    bench.check("a query", Egress, &query, "allow policy-allow");
    let before = (
        bench.datapath.counters(VNIC).expect("reads"),
        bench.datapath.rule_counters().expect("reads"),
        bench.datapath.export(VNIC).expect("exports"),
    );
    while bench
        .datapath
        .poll_events(Duration::ZERO, drop)
        .expect("polls")
        > 0
    {}
    for (probe, direction, expected) in [
        (
            "tcp 10.0.0.1:4000 > 10.0.0.2:80",
            None,
            "allow policy-allow 101",
        ),
        (
            "tcp 10.0.0.2:4000 > 10.0.0.1:80",
            None,
            "allow policy-allow 100",
        ),
        (
            "tcp 10.0.0.2:4000 > 10.0.0.1:22",
            None,
            "deny policy-deny 200",
        ),
        (
            "tcp 10.0.0.1:4000 > 10.0.0.2:25",
            None,
            "deny default-deny 0",
        ),
        (
            "tcp 10.0.0.1:4000 > 10.0.0.2:80 ack",
            None,
            "deny no-session 101",
        ),
        (
            "tcp [fd00::1]:4000 > [fd00::2]:80",
            None,
            "allow policy-allow 101",
        ),
        (
            "udp 10.0.0.1:4000 > 10.0.0.2:53",
            None,
            "allow policy-allow 102",
        ),
        ("udp 10.0.0.1:5000 > 10.0.0.2:53", None, "allow session 102"),
        ("udp 10.0.0.2:53 > 10.0.0.1:5000", None, "allow session 102"),
        (
            "sctp 10.0.0.1:4000 > 10.0.0.2:80",
            None,
            "allow policy-allow 110",
        ),
        ("icmp/8 10.0.0.1 > 10.0.0.2", None, "allow policy-allow 103"),
        (
            "icmpv6/128 fd00::1 > fd00::2",
            None,
            "allow policy-allow 105",
        ),
        ("ip/47 10.0.0.1 > 10.0.0.2", None, "allow policy-allow 107"),
        (
            "udp 10.0.0.9:1 > 10.0.0.2:53",
            Some(Egress),
            "deny spoofed-address 0",
        ),
        (
            "udp 10.0.0.2:1 > 10.0.0.9:53",
            Some(Ingress),
            "deny foreign-address 0",
        ),
        (
            "udp 10.0.0.1:1 > 10.0.0.1:53",
            Some(Ingress),
            "deny spoofed-address 0",
        ),
    ] {
        assert_eq!(told(&bench, probe, direction), expected, "{probe}");
    }
    let after = (
        bench.datapath.counters(VNIC).expect("reads"),
        bench.datapath.rule_counters().expect("reads"),
        bench.datapath.export(VNIC).expect("exports"),
    );
    assert_eq!(after, before);
    assert_eq!(after.2.len(), 1, "the query's session");
    let events = bench
        .datapath
        .poll_events(Duration::ZERO, |event| panic!("{event:?}"));
    assert_eq!(events.expect("polls"), 0);
    let layouts = std::fs::read_dir(bench.root()).expect("lists");
    let vnics = layouts.map(|layout| layout.expect("lists").path().join("vnics"));
    let pins = vnics
        .filter(|path| path.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).expect("lists"));
    assert_eq!(pins.count(), 1, "only the vnic's own");
}

#[test]
fn a_session_goes_on_in_the_answer_and_not_in_the_table() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    let flow = "tcp 10.0.0.1:4000 > 10.0.0.2:80";
    let syn = common::packets::syn_to(80, OUT, Egress);
    bench.check("SYN", Egress, &syn, "allow policy-allow");
    bench.check(
        "SYN-ACK",
        Ingress,
        &back(&answer(SYN | ACK, 500, 2)),
        "allow session",
    );
    let reply = "tcp 10.0.0.2:80 > 10.0.0.1:4000";
    for (probe, expected) in [
        (format!("{flow} ack"), "allow session 101"),
        (format!("{flow} fin"), "allow session 101"),
        (format!("{reply} rst"), "allow session 101"),
        (format!("{reply} syn"), "deny tcp-invalid 101"),
    ] {
        assert_eq!(told(&bench, &probe, None), expected, "{probe}");
    }
    let session = bench.datapath.export(VNIC).expect("exports")[0];
    assert_eq!(
        (session.state, session.packets),
        (TcpState::SynReceived, [1, 1])
    );
    assert_eq!(BACK.0, "10.0.0.2");
    bench
        .datapath
        .set_state(VNIC, VnicState::Cut)
        .expect("cuts");
    assert_eq!(told(&bench, flow, None), "deny cut 0");
}
