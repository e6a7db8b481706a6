//! Golden tables: one packet, one verdict, one reason, through the loaded program.

mod common;

use common::packets::{
    ACK, ALL, BACK, BACK6, OUT, OUT6, SYN, Tcp, answer, arp, back, ether, icmp, ip, link, nd,
    syn_to, tcp, udp,
};
use common::{GUEST_MAC, PEER_MAC, check};
use lictor_types::{Direction, Mac, Reason};
use std::collections::BTreeSet;

use Direction::{Egress, Ingress};

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
            "no source",
            Egress,
            ip(Egress, ("0.0.0.0", "255.255.255.255"), 17, &udp((68, 53))),
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
            link(Egress, 0x8100, &[0x0f; 40]),
            "deny vlan",
        ),
        (
            "PPPoE",
            Egress,
            link(Egress, 0x8863, &[0; 40]),
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
            "more fragments, but no multiple of eight",
            Egress,
            edit(14 + 6, 0x20),
            "deny bad-fragment",
        ),
        ("a later fragment", Egress, edit(14 + 7, 2), "deny fragment"),
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
            ip(Egress, OUT6, 44, &[17, 0, 0, 16, 0, 0, 0, 0, 0]),
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
fn every_reason_of_the_program_is_reached_by_some_case() {
    let source = concat!(
        include_str!("verdicts.rs"),
        include_str!("sessions.rs"),
        include_str!("headers.rs"),
        include_str!("locals.rs"),
        include_str!("rules.rs"),
        include_str!("refusals.rs"),
        include_str!("fragments.rs"),
        include_str!("guards.rs"),
        include_str!("terms.rs"),
        include_str!("tracking.rs")
    );
    let named: BTreeSet<&str> = Reason::ALL
        .iter()
        .map(|reason| reason.name())
        .filter(|name| {
            let ends = ["\"", " "];
            ends.iter().any(|end| {
                source.contains(&format!("\"allow {name}{end}"))
                    || source.contains(&format!("\"deny {name}{end}"))
            })
        })
        .collect();
    let all: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(named, all);
}
