//! Sequences of packets: what a conversation becomes, by packets, time, state and release.

mod common;

use common::packets::{
    ACK, ALL, BACK, FIN, OUT, OUT6, RST, SYN, Tcp, answer, arp, back, ether, icmp, ip, link,
    syn_to, tcp, udp, v4,
};
use common::{Bench, Case, GUEST_MAC, VNIC, check, privileged, tables};
use lictor_types::{Direction, Mac, Reason, VnicState};
use std::time::Duration;

use Direction::{Egress, Ingress};

fn segment(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp(Tcp {
        ports: (4_000, 80),
        seq,
        ack,
        flags,
        payload: 0,
    })
}

fn out(body: &[u8]) -> Vec<u8> {
    ip(Egress, OUT, 6, body)
}

fn handshake() -> Vec<Case> {
    vec![
        (
            "SYN",
            Egress,
            out(&segment(SYN, 100, 0)),
            "allow policy-allow",
        ),
        (
            "SYN-ACK",
            Ingress,
            back(&answer(SYN | ACK, 500, 101)),
            "allow session",
        ),
        ("ACK", Egress, out(&segment(ACK, 101, 501)), "allow session"),
    ]
}

#[test]
fn tcp_follows_its_states_and_windows() {
    let mut cases = handshake();
    let data = |seq, payload| {
        out(&tcp(Tcp {
            ports: (4_000, 80),
            seq,
            ack: 501,
            flags: ACK,
            payload,
        }))
    };
    cases.extend(vec![
        ("data", Egress, data(101, 100), "allow session"),
        (
            "data beyond the window",
            Egress,
            data(900_000, 100),
            "deny tcp-window",
        ),
        (
            "an answer far ahead",
            Ingress,
            back(&answer(ACK, 501, 9_000_000)),
            "deny tcp-window",
        ),
        (
            "SYN and FIN",
            Egress,
            out(&segment(SYN | FIN, 201, 501)),
            "deny tcp-flags",
        ),
        (
            "no flags",
            Egress,
            out(&segment(0, 201, 501)),
            "deny tcp-flags",
        ),
        (
            "a reset outside",
            Ingress,
            back(&answer(RST, 7_000_000, 0)),
            "deny tcp-window",
        ),
        (
            "FIN",
            Egress,
            out(&segment(FIN | ACK, 201, 501)),
            "allow session",
        ),
        (
            "FIN back",
            Ingress,
            back(&answer(FIN | ACK, 501, 202)),
            "allow session",
        ),
        (
            "last ACK",
            Egress,
            out(&segment(ACK, 202, 502)),
            "allow session",
        ),
        (
            "the same ports anew",
            Egress,
            out(&segment(SYN, 90_000, 0)),
            "allow policy-allow",
        ),
        (
            "a refusal of something else",
            Ingress,
            back(&answer(RST | ACK, 0, 7)),
            "deny tcp-window",
        ),
        (
            "a stale SYN-ACK is passed on",
            Ingress,
            back(&answer(SYN | ACK, 1, 7)),
            "allow session",
        ),
        (
            "the guest resets it",
            Egress,
            out(&segment(RST, 7, 0)),
            "allow session",
        ),
        (
            "and gets its answer",
            Ingress,
            back(&answer(SYN | ACK, 600, 90_001)),
            "allow session",
        ),
        (
            "a reset inside",
            Ingress,
            back(&answer(RST | ACK, 601, 90_001)),
            "allow session",
        ),
        (
            "anew after the reset",
            Egress,
            out(&segment(SYN, 5, 0)),
            "allow policy-allow",
        ),
        (
            "refused",
            Ingress,
            back(&answer(RST | ACK, 0, 6)),
            "allow session",
        ),
    ]);
    check(cases);
}

#[test]
fn icmp_errors_need_a_live_session() {
    let inner = |ends: (&str, &str), ports| ip(Egress, ends, 17, &udp(ports))[14..].to_vec();
    let told = |body: &[u8]| {
        ip(
            Ingress,
            ("203.0.113.1", "10.0.0.1"),
            1,
            &icmp(3, 3, 0, body),
        )
    };
    let told6 = |body: &[u8]| ip(Ingress, ("fd00::99", "fd00::1"), 58, &icmp(2, 0, 0, body));
    check(vec![
        (
            "DNS",
            Egress,
            ip(Egress, OUT, 17, &udp((5_000, 53))),
            "allow policy-allow",
        ),
        (
            "a router complains",
            Ingress,
            told(&inner(OUT, (5_000, 53))),
            "allow related",
        ),
        (
            "about another port",
            Ingress,
            told(&inner(OUT, (5_001, 53))),
            "deny unrelated",
        ),
        (
            "about what it never sent",
            Ingress,
            told(&inner(BACK, (53, 5_000))),
            "deny unrelated",
        ),
        ("about nothing", Ingress, told(&[]), "deny unrelated"),
        (
            "DNS, v6",
            Egress,
            ip(Egress, OUT6, 17, &udp((5_000, 53))),
            "allow policy-allow",
        ),
        (
            "packet too big",
            Ingress,
            told6(&inner(OUT6, (5_000, 53))),
            "allow related",
        ),
        (
            "too big for another",
            Ingress,
            told6(&inner(OUT6, (5_002, 53))),
            "deny unrelated",
        ),
        (
            "the guest complains",
            Egress,
            ip(Egress, OUT, 1, &icmp(3, 3, 0, &inner(BACK, (53, 5_000)))),
            "allow related",
        ),
        (
            "as another",
            Egress,
            ip(Egress, BACK, 1, &icmp(3, 3, 0, &inner(BACK, (53, 5_000)))),
            "deny unrelated",
        ),
    ]);
}

#[test]
fn sessions_expire_by_the_clock() {
    let Some(bench) = check(handshake()) else {
        return;
    };
    let ack = back(&answer(ACK, 501, 101));
    bench
        .datapath
        .advance_clock(VNIC, Duration::from_secs(7_400))
        .expect("advances");
    bench.check("within the time-out", Ingress, &ack, "allow session");
    bench
        .datapath
        .advance_clock(VNIC, Duration::from_secs(7_441))
        .expect("advances");
    assert_eq!(bench.datapath.session_count(VNIC).expect("counts"), 0);
    bench.check("after it", Ingress, &ack, "deny no-session");
}

#[test]
fn a_vnic_that_is_not_open_forwards_nothing() {
    let Some(bench) = check(handshake()) else {
        return;
    };
    let announce = ether(
        ALL,
        GUEST_MAC,
        0x8035,
        &arp(3, (GUEST_MAC, "0.0.0.0"), (GUEST_MAC, "0.0.0.0")),
    );
    for (state, expected) in [
        (VnicState::Hold, "deny hold"),
        (VnicState::HandedOver, "deny handed-over"),
        (VnicState::Cut, "deny cut"),
    ] {
        bench.datapath.set_state(VNIC, state).expect("sets");
        bench.check("data", Egress, &out(&segment(ACK, 101, 501)), expected);
        bench.check("data", Ingress, &back(&answer(ACK, 501, 101)), expected);
        bench.check("announcement", Egress, &announce, expected);
    }
    bench
        .datapath
        .set_state(VNIC, VnicState::Open)
        .expect("opens");
    bench.check(
        "goes on",
        Egress,
        &out(&segment(ACK, 101, 501)),
        "allow session",
    );
}

#[test]
fn without_a_release_only_the_announcement_passes() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::bare();
    bench.datapath.attach(&common::spec(16)).expect("attaches");
    bench.check(
        "before the agent decides",
        Egress,
        &syn_to(80, OUT, Egress),
        "deny hold",
    );
    bench
        .datapath
        .set_state(VNIC, VnicState::Open)
        .expect("opens");
    bench.check("SYN", Egress, &syn_to(80, OUT, Egress), "deny no-release");
    let ask = link(
        Egress,
        0x0806,
        &arp(1, (GUEST_MAC, "10.0.0.1"), (Mac([0; 6]), "10.0.0.2")),
    );
    bench.check("ARP", Egress, &ask, "deny no-release");
}

/// Below it are the ports of servers, some of which no guest may speak from.
const CLIENTS: u16 = 1_024;

fn query(port: u16) -> Vec<u8> {
    ip(Egress, OUT, 17, &udp((CLIENTS + port, 53)))
}

fn reply(port: u16) -> Vec<u8> {
    ip(Ingress, BACK, 17, &udp((53, CLIENTS + port)))
}

#[test]
fn a_full_table_denies_only_what_is_answered_anew() {
    if !privileged() {
        return;
    }
    let bench = Bench::with(2);
    for port in [1, 2] {
        bench.check("asked", Egress, &query(port), "allow policy-allow");
        bench.check("answered", Ingress, &reply(port), "allow session");
    }
    bench.check("one more asks", Egress, &query(3), "allow policy-allow");
    bench.check(
        "one too many",
        Ingress,
        &reply(3),
        "deny session-table-full",
    );
    bench.check("first again", Egress, &query(1), "allow session");
    let later = |seconds| {
        let by = Duration::from_secs(seconds);
        bench.datapath.advance_clock(VNIC, by).expect("advances");
    };
    later(181);
    bench.check("asks again", Egress, &query(3), "allow policy-allow");
    bench.check(
        "those that expired make room",
        Ingress,
        &reply(3),
        "allow session",
    );
    later(181);
    assert_eq!(bench.datapath.sweep(VNIC).expect("sweeps"), 1);
    assert_eq!(bench.datapath.sweep(VNIC).expect("sweeps"), 0);
}

#[test]
fn a_flood_pushes_out_no_session_that_was_answered() {
    if !privileged() {
        return;
    }
    const QUOTA: u32 = 1_024;
    let bench = Bench::with(QUOTA);
    for port in 1..=500 {
        bench.check("asked", Egress, &query(port), "allow policy-allow");
        bench.check("answered", Ingress, &reply(port), "allow session");
    }
    let before = bench.datapath.session_count(VNIC).expect("counts");
    for number in 0..10 * QUOTA as u16 {
        let asked = query(1_000 + number);
        bench.check("one of the flood", Egress, &asked, "allow policy-allow");
    }
    let after = bench.datapath.session_count(VNIC).expect("counts");
    assert!(after - before < 2 * u64::from(QUOTA), "{after} sessions");
    for port in 1..=500 {
        bench.check("still there", Ingress, &reply(port), "allow session");
    }
    bench.check("a new one", Egress, &query(501), "allow policy-allow");
    bench.check("and its answer", Ingress, &reply(501), "allow session");
}

/// A log that is sent and never answered is no flood: while it is heard of, others make room.
#[test]
fn who_goes_on_without_an_answer_is_not_pushed_out() {
    if !privileged() {
        return;
    }
    const QUOTA: u16 = 1_024;
    const TICK: Duration = Duration::from_millis(2);
    const LOG: u16 = 1;
    let bench = Bench::with(QUOTA.into());
    bench.check("the log", Egress, &query(LOG), "allow policy-allow");
    for number in 0..10 * QUOTA {
        if number % 64 == 0 {
            bench.datapath.advance_clock(VNIC, TICK).expect("advances");
            bench.check("the log", Egress, &query(LOG), "allow session");
        }
        let asked = query(1_000 + number);
        bench.check("one of the flood", Egress, &asked, "allow policy-allow");
    }
    bench.check("the log", Egress, &query(LOG), "allow session");
    let sessions = bench.datapath.export(VNIC).expect("exports");
    let log = sessions
        .iter()
        .find(|session| session.key.local_port == CLIENTS + LOG);
    let heard = log.map(|session| session.packets[0]);
    assert_eq!(heard, Some(2 + 10 * u64::from(QUOTA) / 64));
}

/// Buckets of a small table are full now and again, and sessions lie behind them.
#[test]
fn sessions_come_and_go_in_a_small_table_and_none_is_lost() {
    if !privileged() {
        return;
    }
    const QUOTA: u16 = 100;
    let bench = Bench::with(QUOTA.into());
    let ask = |ports: std::ops::RangeInclusive<u16>| {
        for port in ports {
            let run = |way, frame: &[u8]| bench.datapath.test_run(VNIC, way, frame);
            run(Egress, &query(port)).expect("runs");
            let answered = run(Ingress, &reply(port)).expect("runs");
            assert_eq!(answered.reason, Reason::Session, "port {port}");
        }
    };
    ask(1..=QUOTA);
    for round in 0..40 {
        let mut sessions = bench.datapath.export(VNIC).expect("exports");
        assert_eq!(sessions.len(), QUOTA.into(), "round {round}");
        sessions.sort_by_key(|session| session.key.local_port);
        let first: Vec<_> = sessions[..50].iter().map(|session| session.key).collect();
        let gone = bench.datapath.remove_sessions(VNIC, &first);
        assert_eq!(gone.expect("removes"), 50, "round {round}");
        let rest = Duration::from_millis(40);
        bench.datapath.advance_clock(VNIC, rest).expect("advances");
        let next = (round + 2) * 50;
        ask(next + 1..=next + 50);
    }
}

#[test]
fn a_larger_quota_keeps_every_session_and_its_counters() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::with(500);
    for port in 1..=500 {
        bench.check("asked", Egress, &query(port), "allow policy-allow");
        bench.check("answered", Ingress, &reply(port), "allow session");
    }
    let sorted = |bench: &Bench| {
        let mut sessions = bench.datapath.export(VNIC).expect("exports");
        sessions.sort_by_key(|session| session.key);
        let without_age = |session: &mut lictor_types::SessionRecord| {
            (session.idle_ms, session.expires_in_ms) = (0, 0);
        };
        sessions.iter_mut().for_each(without_age);
        sessions
    };
    let before = sorted(&bench);
    assert_eq!(before.len(), 500);
    bench.check("asked", Egress, &query(501), "allow policy-allow");
    bench.check("no room", Ingress, &reply(501), "deny session-table-full");
    bench.datapath.resize(VNIC, 100_000).expect("grows");
    bench.check("room", Ingress, &reply(501), "allow session");
    let mut after = sorted(&bench);
    after.retain(|session| session.key.local_port != CLIENTS + 501);
    assert_eq!(after, before);
    bench.datapath.resize(VNIC, 100).expect("shrinks");
    assert_eq!(bench.datapath.export(VNIC).expect("exports").len(), 501);
    bench.check("asked", Egress, &query(502), "allow policy-allow");
    bench.check("no room", Ingress, &reply(502), "deny session-table-full");
    bench.datapath.set_budget(1_000);
    let refused = bench
        .datapath
        .resize(VNIC, 1_001)
        .expect_err("beyond the budget");
    assert!(refused.to_string().contains("1000"), "{refused}");
}

#[test]
fn a_revoked_rule_ends_its_session_with_the_next_packet() {
    let Some(mut bench) = check(handshake()) else {
        return;
    };
    bench.datapath.load(&tables()).expect("loads");
    bench.check(
        "an equal release",
        Egress,
        &out(&segment(ACK, 101, 501)),
        "allow session",
    );
    let mut revoked = tables();
    revoked.decisions.retain(|decision| decision.rule.0 != 101);
    bench.datapath.load(&revoked).expect("loads");
    bench.check(
        "the next packet, from there",
        Ingress,
        &back(&answer(ACK, 501, 101)),
        "deny revoked",
    );
    bench.check(
        "and nothing after it",
        Egress,
        &out(&segment(ACK, 101, 501)),
        "deny no-session",
    );
}

#[test]
fn a_retagged_peer_is_judged_again() {
    let Some(mut bench) = check(handshake()) else {
        return;
    };
    let retag = |identity, epoch| {
        let mut tables = tables();
        tables.addresses[3] = common::address("10.0.0.2/32", identity, 2, epoch);
        tables
    };
    bench.datapath.load(&retag(2, 8)).expect("loads");
    bench.check(
        "rebound, still allowed",
        Egress,
        &out(&segment(ACK, 101, 501)),
        "allow session",
    );
    let session = bench.datapath.export(VNIC).expect("exports")[0];
    assert_eq!(
        session.remote_epoch.0, 8,
        "the session remembers the new binding"
    );
    bench.datapath.load(&retag(3, 9)).expect("loads");
    bench.check(
        "another identity",
        Egress,
        &out(&segment(ACK, 101, 501)),
        "deny revoked",
    );
}

#[test]
fn counters_and_events_equal_the_packets() {
    let mut cases = handshake();
    cases.push((
        "ssh in",
        Ingress,
        syn_to(22, BACK, Ingress),
        "deny policy-deny",
    ));
    cases.push((
        "smtp out",
        Egress,
        syn_to(25, OUT, Egress),
        "deny default-deny",
    ));
    let Some(mut bench) = check(cases) else {
        return;
    };
    let counters = bench.datapath.counters(VNIC).expect("reads");
    assert_eq!(counters.egress.seen.packets, 3);
    assert_eq!(counters.egress.allowed().packets, 2);
    assert_eq!(counters.egress.reason(Reason::DefaultDeny).packets, 1);
    assert_eq!(counters.ingress.seen.packets, 2);
    assert_eq!(counters.ingress.denied().packets, 1);
    let rules = bench.datapath.rule_counters().expect("reads");
    let sessions: Vec<_> = rules
        .iter()
        .map(|(rule, count)| (rule.0, count.sessions))
        .collect();
    assert_eq!(sessions, [(0, 0), (101, 1), (200, 0)]);
    let mut events = Vec::new();
    let wait = Duration::from_millis(100);
    bench
        .datapath
        .poll_events(wait, |event| events.push(event))
        .expect("polls");
    let found: Vec<_> = events
        .iter()
        .map(|event| (event.reason, event.rule.0))
        .collect();
    let expected = [
        (Reason::PolicyAllow, 101),
        (Reason::PolicyDeny, 200),
        (Reason::DefaultDeny, 0),
    ];
    assert_eq!(found, expected);
    assert_eq!(events[0].key.local.to_string(), "10.0.0.1");
    assert_eq!((events[0].key.remote_port, events[0].generation.0), (80, 5));
    assert_eq!(bench.datapath.lost().expect("reads"), (0, 0));
    let unused = v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, &[]);
    assert_eq!(unused.len(), 20, "an IPv4 header without options");
}
