//! Fragments follow the first one of their datagram: packet sequences on the program and the model,
//! and real datagrams of 8 KB between two guests.

mod common;

use common::packets::{ACK, BACK, OUT, OUT6, SYN, Tcp, answer, icmp, ip, nd, syn_to, tcp, udp};
use common::{Bench, Case, GUEST_MAC, VNIC, check, privileged, tables};
use lictor_types::{Direction, HostTables, VnicState};
use std::time::Duration;

use Direction::{Egress, Ingress};

/// A fragment from `at` on; `more` come after it.
fn piece(
    ends: (&str, &str),
    (id, at, more): (u16, usize, bool),
    protocol: u8,
    body: &[u8],
) -> Vec<u8> {
    let direction = if ends.0.ends_with('1') {
        Egress
    } else {
        Ingress
    };
    if ends.0.contains(':') {
        let place = (at as u16 | u16::from(more)).to_be_bytes();
        let id = u32::from(id).to_be_bytes();
        let head = [&[protocol, 0][..], &place, &id].concat();
        return ip(direction, ends, 44, &[&head, body].concat());
    }
    let mut frame = ip(direction, ends, protocol, body);
    let place = (at / 8) as u16 | if more { 0x2000 } else { 0 };
    frame[14 + 4..14 + 6].copy_from_slice(&id.to_be_bytes());
    frame[14 + 6..14 + 8].copy_from_slice(&place.to_be_bytes());
    frame
}

/// The beginning of a DNS datagram: header and sixteen bytes.
fn dns() -> Vec<u8> {
    [udp((5_000, 53)), vec![0; 16]].concat()
}

fn first(id: u16) -> Vec<u8> {
    piece(OUT, (id, 0, true), 17, &dns())
}

fn later(id: u16, at: usize, more: bool) -> Vec<u8> {
    piece(OUT, (id, at, more), 17, &[0; 16])
}

#[test]
fn later_fragments_follow_the_first() {
    let first6 = |id| piece(OUT6, (id, 0, true), 17, &dns());
    let later6 = |id, protocol| piece(OUT6, (id, 24, false), protocol, &[0; 16]);
    let case = |what, frame, expected| (what, Egress, frame, expected);
    check(vec![
        case("before the first", later(1, 24, true), "deny fragment"),
        case("the first", first(1), "allow policy-allow"),
        case("the second", later(1, 24, true), "allow fragment-follows"),
        case("the last", later(1, 40, false), "allow fragment-follows"),
        case("after the last", later(1, 56, false), "deny fragment"),
        case("another datagram", later(2, 24, false), "deny fragment"),
        case(
            "another protocol",
            piece(OUT, (1, 24, false), 136, &[0; 16]),
            "deny fragment",
        ),
        case("the next datagram", first(2), "allow session"),
        case(
            "a lost one between",
            later(2, 400, true),
            "allow fragment-follows",
        ),
        case(
            "one that comes late",
            later(2, 24, true),
            "deny bad-fragment",
        ),
        case("the first again", first(2), "deny bad-fragment"),
        case("v6", first6(1), "allow policy-allow"),
        case(
            "its last, whatever protocol it names",
            later6(1, 6),
            "allow fragment-follows",
        ),
        case("v6 without a first", later6(2, 17), "deny fragment"),
        (
            "the other way",
            Ingress,
            piece(BACK, (1, 24, false), 17, &[0; 16]),
            "deny fragment",
        ),
    ]);
}

#[test]
fn overlapping_fragments_are_denied_and_the_others_stay() {
    let case = |what, frame, expected| (what, Egress, frame, expected);
    check(vec![
        case("the first", first(1), "allow policy-allow"),
        case("over the header", later(1, 16, true), "deny bad-fragment"),
        case("right behind", later(1, 24, true), "allow fragment-follows"),
        case("over it", later(1, 32, true), "deny bad-fragment"),
        case("the same again", later(1, 24, true), "deny bad-fragment"),
        case("the rest", later(1, 40, false), "allow fragment-follows"),
    ]);
}

#[test]
fn what_is_denied_stays_denied_in_pieces() {
    let smtp = [syn_to(25, OUT, Egress)[34..].to_vec(), vec![0; 4]].concat();
    let ping = [icmp(8, 0, 7, &[]), vec![0; 16]].concat();
    let solicits = nd(135, "fd00::2", 1, GUEST_MAC);
    let spoofed = ("10.0.0.91", "10.0.0.2");
    let case = |what, frame, expected| (what, Egress, frame, expected);
    check(vec![
        case(
            "SMTP",
            piece(OUT, (1, 0, true), 6, &smtp),
            "deny default-deny",
        ),
        case(
            "its rest",
            piece(OUT, (1, 24, false), 6, &[0; 16]),
            "deny fragment",
        ),
        case(
            "a foreign source",
            piece(spoofed, (2, 0, true), 17, &dns()),
            "deny spoofed-address",
        ),
        case(
            "its rest",
            piece(spoofed, (2, 24, false), 17, &[0; 16]),
            "deny fragment",
        ),
        case(
            "ping",
            piece(OUT, (3, 0, true), 1, &ping),
            "allow policy-allow",
        ),
        case(
            "its rest",
            piece(OUT, (3, 24, false), 1, &[0; 16]),
            "allow fragment-follows",
        ),
        case(
            "a solicitation",
            piece(OUT6, (4, 0, true), 58, &solicits),
            "deny bad-fragment",
        ),
    ]);
}

/// The window check sees the first fragment only, and learns of the others as they come.
#[test]
fn the_answer_to_a_segment_in_pieces_is_inside_the_window() {
    let segment = |seq, payload| {
        tcp(Tcp {
            ports: (4_000, 80),
            seq,
            ack: 101,
            flags: ACK,
            payload,
        })
    };
    let out = |body: &[u8]| ip(Egress, OUT, 6, body);
    let inward = |flags, seq, ack| ip(Ingress, BACK, 6, &answer(flags, seq, ack));
    let cases: Vec<Case> = vec![
        ("SYN", Egress, syn_to(80, OUT, Egress), "allow policy-allow"),
        (
            "SYN-ACK",
            Ingress,
            inward(SYN | ACK, 100, 2),
            "allow session",
        ),
        ("ACK", Egress, out(&segment(2, 0)), "allow session"),
        (
            "28 bytes",
            Egress,
            piece(OUT, (1, 0, true), 6, &segment(2, 28)),
            "allow session",
        ),
        (
            "and 16",
            Egress,
            piece(OUT, (1, 48, false), 6, &[0; 16]),
            "allow fragment-follows",
        ),
        (
            "all of it acknowledged",
            Ingress,
            inward(ACK, 101, 2 + 44),
            "allow session",
        ),
        (
            "one byte more",
            Ingress,
            inward(ACK, 101, 2 + 45),
            "deny tcp-window",
        ),
    ];
    check(cases);
}

#[test]
fn an_error_about_a_fragment_belongs_to_its_conversation() {
    let quoted = |frame: Vec<u8>| frame[14..].to_vec();
    let too_big = |body: Vec<u8>| ip(Ingress, BACK, 1, &icmp(3, 4, 0, &body));
    let too_big6 = |body: Vec<u8>| ip(Ingress, ("fd00::2", "fd00::1"), 58, &icmp(2, 0, 0, &body));
    let first6 = || piece(OUT6, (1, 0, true), 17, &dns());
    let later6 = || piece(OUT6, (1, 24, false), 17, &[0; 16]);
    check(vec![
        ("the first", Egress, first(1), "allow policy-allow"),
        (
            "about the first",
            Ingress,
            too_big(quoted(first(1))),
            "allow related",
        ),
        (
            "about a later one",
            Ingress,
            too_big(quoted(later(1, 24, true))),
            "deny unrelated",
        ),
        ("the first, v6", Egress, first6(), "allow policy-allow"),
        (
            "about it",
            Ingress,
            too_big6(quoted(first6())),
            "allow related",
        ),
        (
            "about a later one, v6",
            Ingress,
            too_big6(quoted(later6())),
            "deny unrelated",
        ),
    ]);
}

/// The tables under another rule, or without the one for DNS.
fn next_tables(keep: bool) -> HostTables {
    let mut tables = tables();
    tables.generation.0 += 1;
    if !keep {
        tables.decisions.retain(|decision| decision.rule.0 != 102);
    }
    tables
}

#[test]
fn fragments_end_with_time_state_and_rule() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::new();
    bench.check("first", Egress, &first(1), "allow policy-allow");
    bench.datapath.load(&next_tables(true)).expect("loads");
    bench.check(
        "other tables",
        Egress,
        &later(1, 24, true),
        "allow fragment-follows",
    );
    bench
        .datapath
        .set_state(VNIC, VnicState::Cut)
        .expect("cuts");
    bench.check("cut", Egress, &later(1, 40, true), "deny cut");
    bench
        .datapath
        .set_state(VNIC, VnicState::Open)
        .expect("opens");
    bench.datapath.load(&next_tables(false)).expect("loads");
    bench.check(
        "without the rule",
        Egress,
        &later(1, 40, true),
        "deny revoked",
    );
    bench.check(
        "and from then on",
        Egress,
        &later(1, 40, true),
        "deny fragment",
    );
    bench.datapath.load(&tables()).expect("loads");
    bench.check("a new one", Egress, &first(2), "allow policy-allow");
    let wait = |seconds| {
        let by = Duration::from_secs(seconds);
        bench.datapath.advance_clock(VNIC, by).expect("advances");
    };
    wait(25);
    bench.check(
        "after 25 s",
        Egress,
        &later(2, 24, true),
        "allow fragment-follows",
    );
    wait(5);
    bench.check("after 30 s", Egress, &later(2, 40, true), "deny fragment");
    bench.check("the number again", Egress, &first(2), "allow policy-allow");
}

/// A flood of beginnings pushes out datagrams of its own vnic, and no session.
#[test]
fn the_table_of_fragments_is_bounded() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    bench.check("first", Egress, &first(0), "allow policy-allow");
    for id in 1..=4_096 {
        bench.check("a flood", Egress, &first(id), "allow session");
    }
    bench.check("the oldest", Egress, &later(0, 24, true), "deny fragment");
    bench.check(
        "the newest",
        Egress,
        &later(4_096, 24, true),
        "allow fragment-follows",
    );
    assert_eq!(bench.datapath.session_count(VNIC).expect("counts"), 1);
}
