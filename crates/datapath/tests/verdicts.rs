//! Golden tables: one packet, one verdict, one reason, through the loaded program.

mod common;

use common::packets::{ACK, FIN, RST, SYN, Tcp, arp, ether, icmp, ip, link, nd, tcp, udp, v4};
use common::{Bench, GUEST_MAC, PEER_MAC, VNIC, privileged, tables};
use lictor_types::{Direction, Mac, Reason, VnicState};
use std::collections::BTreeSet;
use std::time::Duration;

use Direction::{Egress, Ingress};

type Case = (&'static str, Direction, Vec<u8>, &'static str);

const ALL: Mac = Mac([0xff; 6]);
const OUT: (&str, &str) = ("10.0.0.1", "10.0.0.2");
const BACK: (&str, &str) = ("10.0.0.2", "10.0.0.1");
const OUT6: (&str, &str) = ("fd00::1", "fd00::2");
const BACK6: (&str, &str) = ("fd00::2", "fd00::1");

/// Runs the packets in order on one bench.
fn check(cases: Vec<Case>) -> Option<Bench> {
    if !privileged() {
        return None;
    }
    let bench = Bench::new();
    for (what, direction, packet, expected) in cases {
        bench.check(what, direction, &packet, expected);
    }
    Some(bench)
}

fn segment(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp(Tcp {
        ports: (4_000, 80),
        seq,
        ack,
        flags,
        payload: 0,
    })
}

fn answer(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp(Tcp {
        ports: (80, 4_000),
        seq,
        ack,
        flags,
        payload: 0,
    })
}

fn out(body: &[u8]) -> Vec<u8> {
    ip(Egress, OUT, 6, body)
}

fn back(body: &[u8]) -> Vec<u8> {
    ip(Ingress, BACK, 6, body)
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

fn syn_to(port: u16, ends: (&str, &str), direction: Direction) -> Vec<u8> {
    ip(
        direction,
        ends,
        6,
        &tcp(Tcp {
            ports: (4_000, port),
            seq: 1,
            ack: 0,
            flags: SYN,
            payload: 0,
        }),
    )
}

#[test]
fn policy_decides_new_conversations_in_both_families() {
    check(vec![
        (
            "web out",
            Egress,
            syn_to(80, OUT, Egress),
            "allow policy-allow",
        ),
        (
            "web in",
            Ingress,
            syn_to(80, BACK, Ingress),
            "allow policy-allow",
        ),
        (
            "web out, v6",
            Egress,
            syn_to(80, OUT6, Egress),
            "allow policy-allow",
        ),
        (
            "web in, v6",
            Ingress,
            syn_to(80, BACK6, Ingress),
            "allow policy-allow",
        ),
        (
            "ssh in",
            Ingress,
            syn_to(22, BACK, Ingress),
            "deny policy-deny",
        ),
        (
            "smtp out",
            Egress,
            syn_to(25, OUT, Egress),
            "deny default-deny",
        ),
        (
            "web to a set",
            Egress,
            syn_to(80, ("10.0.0.1", "192.0.2.1"), Egress),
            "deny default-deny",
        ),
        (
            "a port without an atom",
            Egress,
            ip(Egress, OUT, 17, &udp((9, 9))),
            "deny default-deny",
        ),
        (
            "DNS",
            Egress,
            ip(Egress, OUT, 17, &udp((5_000, 53))),
            "allow policy-allow",
        ),
        (
            "its answer",
            Ingress,
            ip(Ingress, BACK, 17, &udp((53, 5_000))),
            "allow session",
        ),
        (
            "GRE",
            Egress,
            ip(Egress, OUT, 47, &[0; 8]),
            "allow policy-allow",
        ),
        (
            "GRE back",
            Ingress,
            ip(Ingress, BACK, 47, &[0; 8]),
            "allow session",
        ),
        (
            "ESP",
            Egress,
            ip(Egress, OUT, 50, &[0; 8]),
            "deny default-deny",
        ),
    ]);
}

#[test]
fn echoes_are_sessions_by_who_asked() {
    check(vec![
        (
            "ping",
            Egress,
            ip(Egress, OUT, 1, &icmp(8, 0, 7, &[])),
            "allow policy-allow",
        ),
        (
            "pong",
            Ingress,
            ip(Ingress, BACK, 1, &icmp(0, 0, 7, &[])),
            "allow session",
        ),
        (
            "pong to another id",
            Ingress,
            ip(Ingress, BACK, 1, &icmp(0, 0, 8, &[])),
            "deny no-session",
        ),
        (
            "ping from there",
            Ingress,
            ip(Ingress, BACK, 1, &icmp(8, 0, 7, &[])),
            "allow policy-allow",
        ),
        (
            "pong to there",
            Egress,
            ip(Egress, OUT, 1, &icmp(0, 0, 7, &[])),
            "allow session",
        ),
        (
            "ping, v6",
            Egress,
            ip(Egress, OUT6, 58, &icmp(128, 0, 7, &[])),
            "allow policy-allow",
        ),
        (
            "pong, v6",
            Ingress,
            ip(Ingress, BACK6, 58, &icmp(129, 0, 7, &[])),
            "allow session",
        ),
        (
            "timestamp",
            Egress,
            ip(Egress, OUT, 1, &icmp(13, 0, 7, &[])),
            "deny default-deny",
        ),
    ]);
}

#[test]
fn nobody_speaks_or_listens_under_a_foreign_name() {
    let frame = |to, from, body: &[u8]| ether(to, from, 0x0800, body);
    let web = syn_to(80, OUT, Egress)[14..].to_vec();
    let inward = syn_to(80, BACK, Ingress)[14..].to_vec();
    let other = Mac([0x52, 0x54, 0, 0, 0, 9]);
    let group = Mac([1, 0, 0x5e, 0, 0, 251]);
    check(vec![
        (
            "a foreign MAC",
            Egress,
            frame(PEER_MAC, other, &web),
            "deny spoofed-mac",
        ),
        (
            "a foreign source",
            Egress,
            syn_to(80, ("10.0.0.9", "10.0.0.2"), Egress),
            "deny spoofed-address",
        ),
        (
            "the peer's source",
            Egress,
            syn_to(80, BACK, Egress),
            "deny spoofed-address",
        ),
        (
            "a foreign source, v6",
            Egress,
            syn_to(80, ("fd00::9", "fd00::2"), Egress),
            "deny spoofed-address",
        ),
        (
            "DHCP discover",
            Egress,
            ip(Egress, ("0.0.0.0", "255.255.255.255"), 17, &udp((68, 67))),
            "deny spoofed-address",
        ),
        (
            "flooded",
            Ingress,
            frame(other, PEER_MAC, &inward),
            "deny foreign-mac",
        ),
        (
            "an IPv4 group",
            Ingress,
            frame(group, PEER_MAC, &inward),
            "deny foreign-mac",
        ),
        (
            "another's address",
            Ingress,
            syn_to(80, ("10.0.0.2", "10.0.0.9"), Ingress),
            "deny foreign-address",
        ),
        (
            "its own address as sender",
            Ingress,
            syn_to(80, ("10.0.0.1", "10.0.0.1"), Ingress),
            "deny spoofed-address",
        ),
        (
            "broadcast, own address",
            Ingress,
            frame(ALL, PEER_MAC, &inward),
            "allow policy-allow",
        ),
        (
            "a reply without a session",
            Ingress,
            back(&answer(ACK, 1, 1)),
            "deny no-session",
        ),
    ]);
}

#[test]
fn arp_tells_the_truth_about_its_sender() {
    let other = Mac([0x52, 0x54, 0, 0, 0, 9]);
    let none = Mac([0; 6]);
    let say = |op, from: (Mac, &str), to: (Mac, &str)| link(Egress, 0x0806, &arp(op, from, to));
    let hear =
        |op, from: (Mac, &str), to: (Mac, &str)| ether(ALL, PEER_MAC, 0x0806, &arp(op, from, to));
    let (me, peer) = ((GUEST_MAC, "10.0.0.1"), (PEER_MAC, "10.0.0.2"));
    check(vec![
        (
            "asks",
            Egress,
            say(1, me, (none, "10.0.0.2")),
            "allow neighbour",
        ),
        (
            "probes",
            Egress,
            say(1, (GUEST_MAC, "0.0.0.0"), (none, "10.0.0.1")),
            "allow neighbour",
        ),
        ("replies", Egress, say(2, me, peer), "allow neighbour"),
        (
            "a foreign address",
            Egress,
            say(2, (GUEST_MAC, "10.0.0.9"), peer),
            "deny spoofed-neighbour",
        ),
        (
            "a foreign MAC",
            Egress,
            say(2, (other, "10.0.0.1"), peer),
            "deny spoofed-neighbour",
        ),
        (
            "replies as nobody",
            Egress,
            say(2, (GUEST_MAC, "0.0.0.0"), peer),
            "deny spoofed-neighbour",
        ),
        (
            "is asked",
            Ingress,
            hear(1, peer, (none, "10.0.0.1")),
            "allow neighbour",
        ),
        ("is answered", Ingress, hear(2, peer, me), "allow neighbour"),
        (
            "a peer announces",
            Ingress,
            hear(1, peer, (none, "10.0.0.2")),
            "allow neighbour",
        ),
        (
            "asks for others",
            Ingress,
            hear(1, peer, (none, "10.0.0.9")),
            "deny foreign-address",
        ),
        (
            "answers others",
            Ingress,
            hear(2, peer, (other, "10.0.0.9")),
            "deny foreign-address",
        ),
        (
            "claims the guest's",
            Ingress,
            hear(1, (PEER_MAC, "10.0.0.1"), (none, "10.0.0.1")),
            "deny spoofed-neighbour",
        ),
        (
            "another operation",
            Egress,
            say(3, me, peer),
            "deny bad-header",
        ),
        (
            "cut short",
            Egress,
            link(Egress, 0x0806, &arp(1, me, peer)[..20]),
            "deny truncated",
        ),
        (
            "QEMU announces",
            Egress,
            ether(
                ALL,
                GUEST_MAC,
                0x8035,
                &arp(3, (GUEST_MAC, "0.0.0.0"), (GUEST_MAC, "0.0.0.0")),
            ),
            "allow announcement",
        ),
        (
            "announces another",
            Egress,
            ether(
                ALL,
                GUEST_MAC,
                0x8035,
                &arp(3, (other, "0.0.0.0"), (other, "0.0.0.0")),
            ),
            "deny spoofed-neighbour",
        ),
        (
            "an announcement toward it",
            Ingress,
            ether(
                ALL,
                PEER_MAC,
                0x8035,
                &arp(3, (PEER_MAC, "0.0.0.0"), (PEER_MAC, "0.0.0.0")),
            ),
            "deny ether-type",
        ),
    ]);
}

#[test]
fn neighbour_discovery_tells_the_truth_about_its_sender() {
    let nodes = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let group = Mac([0x33, 0x33, 0xff, 0, 0, 1]);
    let say = |ends, body: &[u8]| ip(Egress, ends, 58, body);
    let hear = |to: Mac, ends, body: &[u8]| {
        let frame = ip(Ingress, ends, 58, body);
        ether(to, PEER_MAC, 0x86dd, &frame[14..])
    };
    let solicited = ("fd00::2", "ff02::1:ff00:1");
    let mut far = say(OUT6, &nd(136, "fd00::1", 2, GUEST_MAC));
    far[14 + 7] = 64;
    check(vec![
        (
            "asks",
            Egress,
            say(OUT6, &nd(135, "fd00::2", 1, GUEST_MAC)),
            "allow neighbour",
        ),
        (
            "asks with another's MAC",
            Egress,
            say(OUT6, &nd(135, "fd00::2", 1, PEER_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "asks as another",
            Egress,
            say(BACK6, &nd(135, "fd00::2", 1, GUEST_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "DAD for its own",
            Egress,
            say(("::", "ff02::1:ff00:1"), &nd(135, "fd00::1", 14, GUEST_MAC)),
            "allow neighbour",
        ),
        (
            "DAD for another's",
            Egress,
            say(("::", "ff02::1:ff00:2"), &nd(135, "fd00::2", 14, GUEST_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "answers",
            Egress,
            say(OUT6, &nd(136, "fd00::1", 2, GUEST_MAC)),
            "allow neighbour",
        ),
        (
            "answers for another",
            Egress,
            say(OUT6, &nd(136, "fd00::2", 2, GUEST_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "answers with another's MAC",
            Egress,
            say(OUT6, &nd(136, "fd00::1", 2, PEER_MAC)),
            "deny spoofed-neighbour",
        ),
        ("from beyond the link", Egress, far, "deny bad-header"),
        (
            "seeks a router",
            Egress,
            say(("fd00::1", "ff02::2"), &icmp(133, 0, 0, &[])),
            "allow neighbour",
        ),
        (
            "plays the router",
            Egress,
            say(("fd00::1", "ff02::1"), &icmp(134, 0, 0, &[0; 8])),
            "deny spoofed-neighbour",
        ),
        (
            "redirects",
            Egress,
            say(OUT6, &icmp(137, 0, 0, &[0; 32])),
            "deny spoofed-neighbour",
        ),
        (
            "is asked",
            Ingress,
            hear(group, solicited, &nd(135, "fd00::1", 1, PEER_MAC)),
            "allow neighbour",
        ),
        (
            "a group that is not its own",
            Ingress,
            hear(group, solicited, &nd(135, "fd00::9:9", 1, PEER_MAC)),
            "deny foreign-mac",
        ),
        (
            "asks for others",
            Ingress,
            hear(group, solicited, &nd(135, "fd00::9:0:1", 1, PEER_MAC)),
            "deny foreign-address",
        ),
        (
            "is answered",
            Ingress,
            hear(GUEST_MAC, BACK6, &nd(136, "fd00::2", 2, PEER_MAC)),
            "allow neighbour",
        ),
        (
            "a peer announces",
            Ingress,
            hear(
                nodes,
                ("fd00::2", "ff02::1"),
                &nd(136, "fd00::2", 2, PEER_MAC),
            ),
            "allow neighbour",
        ),
        (
            "claims the guest's",
            Ingress,
            hear(GUEST_MAC, BACK6, &nd(136, "fd00::1", 2, PEER_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "claims the guest's MAC",
            Ingress,
            hear(GUEST_MAC, BACK6, &nd(136, "fd00::2", 2, GUEST_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "a router that policy allows",
            Ingress,
            hear(nodes, ("fe80::99", "ff02::1"), &icmp(134, 0, 0, &[0; 8])),
            "allow policy-allow",
        ),
        (
            "a router that it does not",
            Ingress,
            hear(nodes, ("fd00::2", "ff02::1"), &icmp(134, 0, 0, &[0; 8])),
            "deny default-deny",
        ),
        (
            "a redirect",
            Ingress,
            hear(GUEST_MAC, BACK6, &icmp(137, 0, 0, &[0; 32])),
            "deny spoofed-neighbour",
        ),
    ]);
}

#[test]
fn what_is_not_understood_is_denied() {
    let web = syn_to(80, OUT, Egress);
    let edit = |at: usize, value: u8| {
        let mut frame = syn_to(80, OUT, Egress);
        frame[at] = value;
        frame
    };
    let options = |next: u8| [&[next, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    let web6 = tcp(Tcp {
        ports: (4_001, 80),
        seq: 1,
        ack: 0,
        flags: SYN,
        payload: 0,
    });
    let chain = [
        options(60),
        options(60),
        options(60),
        options(60),
        options(60),
        options(6),
    ]
    .concat();
    check(vec![
        (
            "a VLAN tag",
            Egress,
            link(Egress, 0x8100, &[0; 40]),
            "deny ether-type",
        ),
        (
            "LLDP",
            Egress,
            link(Egress, 0x88cc, &[0; 40]),
            "deny ether-type",
        ),
        (
            "a length beyond the frame",
            Egress,
            edit(14 + 3, 0xff),
            "deny truncated",
        ),
        ("version 5", Egress, edit(14, 0x55), "deny bad-header"),
        ("header length 4", Egress, edit(14, 0x44), "deny bad-header"),
        (
            "more fragments",
            Egress,
            edit(14 + 6, 0x20),
            "deny fragment",
        ),
        ("a later fragment", Egress, edit(14 + 7, 1), "deny fragment"),
        (
            "a group as source",
            Egress,
            edit(14 + 12, 224),
            "deny bad-header",
        ),
        (
            "loopback as source",
            Egress,
            edit(14 + 12, 127),
            "deny bad-header",
        ),
        (
            "TCP cut short",
            Egress,
            ip(Egress, OUT, 6, &web[34..44]),
            "deny truncated",
        ),
        (
            "TCP offset 4",
            Egress,
            edit(34 + 12, 0x40),
            "deny bad-header",
        ),
        (
            "TCP offset beyond",
            Egress,
            edit(34 + 12, 0xf0),
            "deny truncated",
        ),
        (
            "UDP length 7",
            Egress,
            ip(Egress, OUT, 17, &[0, 9, 0, 53, 0, 7, 0, 0]),
            "deny truncated",
        ),
        (
            "ICMPv6 over IPv4",
            Egress,
            ip(Egress, OUT, 58, &[128; 8]),
            "deny bad-header",
        ),
        (
            "v4-mapped on the wire",
            Egress,
            ip(Egress, ("::ffff:10.0.0.1", "fd00::2"), 6, &web6),
            "deny bad-header",
        ),
        (
            "a fragment header",
            Egress,
            ip(Egress, OUT6, 44, &[6, 0, 0, 0, 0, 0, 0, 0]),
            "deny fragment",
        ),
        (
            "a routing header",
            Egress,
            ip(Egress, OUT6, 43, &[6, 0, 0, 0, 0, 0, 0, 0]),
            "deny extension-header",
        ),
        (
            "options are followed",
            Egress,
            ip(Egress, OUT6, 0, &[options(6), web6.clone()].concat()),
            "allow policy-allow",
        ),
        (
            "too many headers",
            Egress,
            ip(Egress, OUT6, 60, &[chain, web6].concat()),
            "deny extension-header",
        ),
        (
            "hop-by-hop not first",
            Egress,
            ip(Egress, OUT6, 60, &[options(0), options(6)].concat()),
            "deny bad-header",
        ),
    ]);
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
            "deny tcp-invalid",
        ),
        (
            "an answer far ahead",
            Ingress,
            back(&answer(ACK, 501, 9_000_000)),
            "deny tcp-invalid",
        ),
        (
            "SYN and FIN",
            Egress,
            out(&segment(SYN | FIN, 201, 501)),
            "deny tcp-invalid",
        ),
        (
            "no flags",
            Egress,
            out(&segment(0, 201, 501)),
            "deny tcp-invalid",
        ),
        (
            "a reset outside",
            Ingress,
            back(&answer(RST, 7_000_000, 0)),
            "deny tcp-invalid",
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
            "deny tcp-invalid",
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

#[test]
fn a_full_table_denies_only_what_is_new() {
    if !privileged() {
        return;
    }
    let bench = Bench::with(2);
    let query = |port| ip(Egress, OUT, 17, &udp((port, 53)));
    bench.check("first", Egress, &query(1), "allow policy-allow");
    bench.check("second", Egress, &query(2), "allow policy-allow");
    bench.check("one too many", Egress, &query(3), "deny session-table-full");
    bench.check("first again", Egress, &query(1), "allow session");
    bench
        .datapath
        .advance_clock(VNIC, Duration::from_secs(31))
        .expect("advances");
    assert_eq!(bench.datapath.sweep(VNIC).expect("sweeps"), 2);
    bench.check("after the sweep", Egress, &query(3), "allow policy-allow");
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
fn every_reason_of_the_program_is_reached_by_some_case() {
    let source = include_str!("verdicts.rs");
    let named: BTreeSet<&str> = Reason::ALL
        .iter()
        .map(|reason| reason.name())
        .filter(|name| {
            source.contains(&format!("\"allow {name}\""))
                || source.contains(&format!("\"deny {name}\""))
        })
        .collect();
    let all: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(named, all);
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
