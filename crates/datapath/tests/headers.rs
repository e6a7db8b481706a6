//! Golden tables of what stands before a transport header: tags, options, extension headers, and
//! each of them cut short.

mod common;

use common::packets::{
    ALL, BACK, BACK6, OUT, OUT6, arp, ether, icmp, ip, link, nd, syn_to, udp, v4,
};
use common::{Bench, Case, GUEST_MAC, PEER_MAC, SEGMENT, VIRTUAL_MAC, check, model, privileged};
use lictor_model::Frame;
use lictor_types::{Direction, Segment, Verdict};
use std::time::Duration;

use Direction::{Egress, Ingress};

/// The frame with tags in it, the outer one first.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (kind, control) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}

#[test]
fn a_tag_leads_to_the_vlan_that_the_vnic_may_use_and_to_no_other() {
    let web = || syn_to(80, OUT, Egress);
    let other = || syn_to(80, ("10.8.0.1", "10.8.0.2"), Egress);
    let answer = || ip(Ingress, ("10.8.0.2", "10.8.0.1"), 17, &udp((53, 5_000)));
    let asks = || {
        let body = arp(1, (GUEST_MAC, "10.8.0.1"), (GUEST_MAC, "10.8.0.2"));
        link(Egress, 0x0806, &body)
    };
    let dns = || ip(Egress, ("10.8.0.1", "10.8.0.2"), 17, &udp((5_000, 53)));
    let cases: Vec<Case> = vec![
        ("no tag", Egress, web(), "allow policy-allow"),
        (
            "priority only",
            Egress,
            tagged(&web(), &[(0x8100, 0xe000)]),
            "allow session",
        ),
        (
            "its VLAN",
            Egress,
            tagged(&other(), &[(0x8100, 10)]),
            "allow policy-allow",
        ),
        (
            "with priority",
            Egress,
            tagged(&dns(), &[(0x8100, 0x600a)]),
            "allow policy-allow",
        ),
        (
            "answered there",
            Ingress,
            tagged(&answer(), &[(0x8100, 10)]),
            "allow session",
        ),
        (
            "answered elsewhere",
            Ingress,
            answer(),
            "deny foreign-address",
        ),
        (
            "asks there",
            Egress,
            tagged(&asks(), &[(0x8100, 10)]),
            "allow neighbour",
        ),
        ("asks elsewhere", Egress, asks(), "deny spoofed-neighbour"),
        (
            "an address of no VLAN",
            Egress,
            tagged(&web(), &[(0x8100, 10)]),
            "deny spoofed-address",
        ),
        (
            "an address of the VLAN",
            Egress,
            other(),
            "deny spoofed-address",
        ),
        (
            "another VLAN",
            Egress,
            tagged(&other(), &[(0x8100, 11)]),
            "deny vlan",
        ),
        (
            "VLAN 4095",
            Egress,
            tagged(&other(), &[(0x8100, 4_095)]),
            "deny vlan",
        ),
        (
            "a provider's tag",
            Egress,
            tagged(&other(), &[(0x88a8, 10)]),
            "deny vlan",
        ),
        (
            "two tags",
            Egress,
            tagged(&other(), &[(0x8100, 10), (0x8100, 10)]),
            "deny vlan",
        ),
        (
            "QinQ",
            Egress,
            tagged(&other(), &[(0x88a8, 10), (0x8100, 10)]),
            "deny vlan",
        ),
        (
            "priority twice",
            Egress,
            tagged(&web(), &[(0x8100, 0), (0x8100, 0)]),
            "deny vlan",
        ),
        (
            "toward it",
            Ingress,
            tagged(&answer(), &[(0x8100, 11)]),
            "deny vlan",
        ),
        (
            "half a tag",
            Egress,
            ether(ALL, GUEST_MAC, 0x8100, &[0, 10, 8]),
            "deny truncated",
        ),
    ];
    let bench = check(cases);
    let Some(bench) = bench else { return };
    let sessions = bench.datapath.export(common::VNIC).expect("exports");
    let mut segments: Vec<Segment> = sessions.iter().map(|record| record.key.segment).collect();
    segments.sort_unstable();
    assert_eq!(segments, [SEGMENT, Segment(8), Segment(8)]);
}

#[test]
fn a_vnic_speaks_with_each_of_its_macs_and_hears_each() {
    let body = |frame: Vec<u8>| frame[14..].to_vec();
    let out = || body(syn_to(80, OUT, Egress));
    let inward = || body(syn_to(80, BACK, Ingress));
    let reply = |mac| arp(2, (mac, "10.0.0.1"), (PEER_MAC, "10.0.0.2"));
    let virtual_out = ether(PEER_MAC, VIRTUAL_MAC, 0x0800, &out());
    let virtual_in = ether(VIRTUAL_MAC, PEER_MAC, 0x0800, &inward());
    let says = ether(PEER_MAC, VIRTUAL_MAC, 0x0806, &reply(VIRTUAL_MAC));
    let lies = ether(PEER_MAC, VIRTUAL_MAC, 0x0806, &reply(PEER_MAC));
    let hears = ether(
        ALL,
        PEER_MAC,
        0x0806,
        &arp(2, (VIRTUAL_MAC, "10.0.0.2"), (PEER_MAC, "0.0.0.0")),
    );
    let zero = ether(PEER_MAC, lictor_types::Mac([0; 6]), 0x0800, &out());
    check(vec![
        ("out", Egress, virtual_out, "allow policy-allow"),
        ("in", Ingress, virtual_in, "allow policy-allow"),
        ("ARP", Egress, says, "allow neighbour"),
        ("a lie in ARP", Egress, lies, "deny spoofed-neighbour"),
        (
            "its MAC in another's mouth",
            Ingress,
            hears,
            "deny spoofed-neighbour",
        ),
        (
            "an unused place is no MAC",
            Egress,
            zero,
            "deny spoofed-mac",
        ),
    ]);
}

fn with_options(options: &[u8]) -> Vec<u8> {
    let mut packet = v4(
        [10, 0, 0, 1].into(),
        [10, 0, 0, 2].into(),
        17,
        &udp((5_000, 53)),
    );
    let mut padded = options.to_vec();
    padded.resize(options.len().next_multiple_of(4), 0);
    packet[0] = 0x45 + padded.len() as u8 / 4;
    packet[3] += padded.len() as u8;
    packet.splice(20..20, padded);
    link(Egress, 0x0800, &packet)
}

#[test]
fn ipv4_options_that_lead_elsewhere_or_record_are_denied() {
    let case = |what, options: &[u8], expected| (what, Egress, with_options(options), expected);
    check(vec![
        case("none", &[], "allow policy-allow"),
        case("router alert", &[148, 4, 0, 0], "allow session"),
        case("padding", &[1, 1, 1, 0], "allow session"),
        case("forty times nothing", &[1; 40], "allow session"),
        case("after the end anything", &[0, 131, 3, 4], "allow session"),
        case(
            "loose source route",
            &[131, 7, 4, 10, 0, 0, 9],
            "deny ip-option",
        ),
        case(
            "strict source route",
            &[137, 7, 4, 10, 0, 0, 9],
            "deny ip-option",
        ),
        case("record route", &[7, 7, 4, 0, 0, 0, 0], "deny ip-option"),
        case("time stamp", &[68, 8, 5, 0, 0, 0, 0, 0], "deny ip-option"),
        case(
            "a security label",
            &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "deny ip-option",
        ),
        case(
            "a router alert of three bytes",
            &[148, 3, 0, 0],
            "deny ip-option",
        ),
        case(
            "a router alert beyond the header",
            &[1, 1, 1, 148],
            "deny ip-option",
        ),
        case(
            "a source route behind padding",
            &[1, 1, 131, 3, 4],
            "deny ip-option",
        ),
        case("an unknown option", &[222, 4, 0, 0], "deny ip-option"),
    ]);
}

/// The chain from its first kind on; `body` is what follows.
fn chain(first: u8, body: &[u8]) -> Vec<u8> {
    ip(Egress, OUT6, first, body)
}

fn dns() -> Vec<u8> {
    udp((5_000, 53))
}

/// A hop-by-hop or destination header with six bytes of options.
fn options(next: u8, six: [u8; 6]) -> Vec<u8> {
    [&[next, 0][..], &six].concat()
}

#[test]
fn extension_headers_are_followed_or_denied() {
    let padded = |next| options(next, [1, 4, 0, 0, 0, 0]);
    let alert = options(17, [5, 2, 0, 0, 1, 0]);
    let routing = |kind, left| vec![17, 0, kind, left, 0, 0, 0, 0];
    let auth = |next, units: u8| {
        let mut bytes = vec![next, units];
        bytes.resize((usize::from(units) + 2) * 4, 7);
        bytes
    };
    let then = |parts: &[&[u8]]| [parts.concat(), dns()].concat();
    let case = |what, first, body: Vec<u8>, expected| (what, Egress, chain(first, &body), expected);
    check(vec![
        case("none", 17, then(&[]), "allow policy-allow"),
        case("hop-by-hop", 0, then(&[&padded(17)]), "allow session"),
        case("router alert", 0, then(&[&alert]), "allow session"),
        case("destination", 60, then(&[&padded(17)]), "allow session"),
        case(
            "both",
            0,
            then(&[&padded(60), &padded(17)]),
            "allow session",
        ),
        case(
            "six times padding",
            60,
            then(&[&options(17, [0; 6])]),
            "allow session",
        ),
        case(
            "tunnel limit",
            60,
            then(&[&options(17, [4, 1, 4, 1, 1, 0])]),
            "allow session",
        ),
        case(
            "hop-by-hop second",
            60,
            then(&[&padded(0), &padded(17)]),
            "deny bad-header",
        ),
        case(
            "jumbo",
            0,
            then(&[&options(17, [0xc2, 4, 0, 1, 0, 0])]),
            "deny ip-option",
        ),
        case(
            "home address",
            60,
            then(&[&options(17, [0xc9, 4, 0, 0, 0, 0])]),
            "deny ip-option",
        ),
        case(
            "an option beyond",
            60,
            then(&[&options(17, [1, 5, 0, 0, 0, 0])]),
            "deny ip-option",
        ),
        case(
            "nine options",
            60,
            then(&[&[17, 1], &[0; 14]]),
            "deny ip-option",
        ),
        case(
            "a routing header of type 0",
            43,
            then(&[&routing(0, 0)]),
            "deny extension-header",
        ),
        case(
            "segments left",
            43,
            then(&[&routing(4, 1)]),
            "deny extension-header",
        ),
        case(
            "no segments left",
            43,
            then(&[&routing(4, 0)]),
            "allow session",
        ),
        case("AH", 51, then(&[&auth(17, 4)]), "allow session"),
        case(
            "AH of eight bytes",
            51,
            then(&[&auth(17, 0)]),
            "deny bad-header",
        ),
        case(
            "AH of twenty bytes",
            51,
            then(&[&auth(17, 3)]),
            "deny bad-header",
        ),
        case(
            "AH twice",
            51,
            then(&[&auth(51, 4), &auth(17, 4)]),
            "deny extension-header",
        ),
        case(
            "mobility",
            135,
            vec![59, 0, 0, 0, 0, 0, 0, 0],
            "deny default-deny",
        ),
        case(
            "mobility and more",
            135,
            then(&[&[17, 0, 0, 0, 0, 0, 0, 0]]),
            "deny extension-header",
        ),
        case(
            "HIP and more",
            139,
            then(&[&[17, 0, 0, 0, 0, 0, 0, 0]]),
            "deny extension-header",
        ),
        case(
            "ESP ends it",
            60,
            [padded(50), vec![0; 8]].concat(),
            "deny default-deny",
        ),
        case("nothing follows", 59, Vec::new(), "deny default-deny"),
        case(
            "GRE behind options",
            60,
            [padded(47), vec![0; 8]].concat(),
            "allow policy-allow",
        ),
        case(
            "an atomic fragment",
            44,
            then(&[&[17, 0, 0, 0, 0, 0, 0, 9]]),
            "allow session",
        ),
    ]);
}

#[test]
fn transport_headers_say_what_they_can_hold() {
    let sctp = |chunk: u8, length: u16| {
        let mut bytes = vec![0x0f, 0xa0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, chunk, 0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(32, 0);
        bytes
    };
    let lite = |covered: u16| {
        let covered = covered.to_be_bytes();
        vec![0x13, 0x88, 0, 53, covered[0], covered[1], 0, 0, 1, 2]
    };
    let case = |what, protocol, body: Vec<u8>, expected| {
        (what, Egress, ip(Egress, OUT, protocol, &body), expected)
    };
    let listener = |hops| {
        let mut frame = ip(
            Egress,
            ("fd00::1", "ff02::16"),
            58,
            &icmp(143, 0, 0, &[0; 8]),
        );
        frame[14 + 7] = hops;
        frame
    };
    check(vec![
        case("an INIT for no tag", 132, sctp(1, 20), "deny sctp-invalid"),
        case("a chunk of three bytes", 132, sctp(1, 3), "deny bad-header"),
        case("a chunk beyond", 132, sctp(1, 21), "deny truncated"),
        case("UDP-Lite, all covered", 136, lite(0), "deny default-deny"),
        case("UDP-Lite, its header", 136, lite(8), "deny default-deny"),
        case("UDP-Lite, less", 136, lite(7), "deny bad-header"),
        case(
            "UDP-Lite, more than there is",
            136,
            lite(11),
            "deny truncated",
        ),
        ("MLD", Egress, listener(1), "deny default-deny"),
        (
            "MLD from beyond the link",
            Egress,
            listener(64),
            "deny bad-header",
        ),
    ]);
}

#[test]
fn other_ether_types_pass_by_a_rule_that_names_them() {
    let frame = |direction, kind| link(direction, kind, &[0; 40]);
    let in_vlan = tagged(&frame(Egress, 0x88cc), &[(0x8100, 10)]);
    let case =
        |what, direction, kind, expected| (what, direction, frame(direction, kind), expected);
    check(vec![
        case("named", Egress, 0x88cc, "allow policy-allow"),
        case("named, the other way", Ingress, 0x88cc, "deny ether-type"),
        case("not named", Egress, 0x8863, "deny ether-type"),
        case("a length", Egress, 40, "deny ether-type"),
        (
            "in a VLAN without the guest",
            Egress,
            in_vlan,
            "deny ether-type",
        ),
    ]);
}

#[test]
fn a_first_fragment_has_its_whole_transport_header() {
    let fragment = |place: u16, protocol, body: &[u8]| {
        let mut frame = ip(Egress, OUT, protocol, body);
        frame[14 + 6..14 + 8].copy_from_slice(&place.to_be_bytes());
        frame
    };
    let v6 = |next: u8, place: u16, body: &[u8]| {
        let place = place.to_be_bytes();
        let head = [next, 0, place[0], place[1], 0, 0, 0, 1];
        chain(44, &[&head[..], body].concat())
    };
    let more = 0x2000;
    let case = |what, frame, expected| (what, Egress, frame, expected);
    check(vec![
        case(
            "eight bytes of TCP",
            fragment(more, 6, &[0; 8]),
            "deny tiny-fragment",
        ),
        case(
            "the rest of them",
            fragment(1, 6, &[0; 12]),
            "deny tiny-fragment",
        ),
        case(
            "no header",
            v6(60, 1, &[17, 1, 1, 4, 0, 0, 0, 0]),
            "deny tiny-fragment",
        ),
        case("half of it", v6(6, 1, &[0; 16]), "deny tiny-fragment"),
        case(
            "eleven bytes, more",
            fragment(more, 17, &[0; 11]),
            "deny bad-fragment",
        ),
        case("no bytes", fragment(more, 17, &[]), "deny bad-fragment"),
        case(
            "beyond 65,535",
            fragment(0x1fff, 17, &[0; 8]),
            "deny bad-fragment",
        ),
        case("at 65,515", fragment(0x1ffc, 17, &[0; 8]), "deny fragment"),
        case(
            "beyond 65,535, v6",
            v6(17, 0xfff8, &[0; 8]),
            "deny bad-fragment",
        ),
    ]);
}

/// A packet of each kind and how many bytes of the frame its headers take.
fn whole() -> Vec<(&'static str, Vec<u8>, usize)> {
    let v6 = |next, body: Vec<u8>| ip(Egress, OUT6, next, &body);
    let options = options(17, [1, 4, 0, 0, 0, 0]);
    let auth = [vec![17, 4], vec![7; 22]].concat();
    let routing = vec![17, 0, 4, 0, 0, 0, 0, 0];
    let atomic = vec![17, 0, 0, 0, 0, 0, 0, 9];
    let sctp = [vec![0; 12], vec![1, 0, 0, 20], vec![0; 16]].concat();
    let long = |body: Vec<u8>| [body, dns(), vec![0; 8]].concat();
    let mut syn = syn_to(80, OUT, Egress)[34..].to_vec();
    syn[12] = 0x60;
    syn.extend([2, 4, 5, 180]);
    vec![
        ("TCP with an option", ip(Egress, OUT, 6, &syn), 34 + 24),
        ("UDP", ip(Egress, OUT, 17, &dns()), 34 + 8),
        (
            "UDP-Lite",
            ip(Egress, OUT, 136, &[0x13, 0x88, 0, 53, 0, 0, 0, 0]),
            34 + 8,
        ),
        ("ICMP", ip(Egress, OUT, 1, &icmp(8, 0, 1, &[])), 34 + 8),
        ("SCTP", ip(Egress, OUT, 132, &sctp), 34 + 16),
        ("IPv4 options", with_options(&[148, 4, 0, 0]), 38 + 8),
        ("UDP over IPv6", v6(17, dns()), 54 + 8),
        ("ICMPv6", v6(58, icmp(128, 0, 1, &[])), 54 + 8),
        ("hop-by-hop", v6(0, long(options.clone())), 54 + 8 + 8),
        ("destination", v6(60, long(options)), 54 + 8 + 8),
        ("routing", v6(43, long(routing)), 54 + 8 + 8),
        ("AH", v6(51, long(auth)), 54 + 24 + 8),
        ("an atomic fragment", v6(44, long(atomic)), 54 + 8 + 8),
        ("mobility", v6(135, vec![59, 0, 0, 0, 0, 0, 0, 0]), 54 + 8),
        (
            "solicitation",
            v6(58, nd(135, "fd00::2", 1, GUEST_MAC)),
            54 + 24,
        ),
    ]
}

/// The frame's first bytes, with the IP length that belongs to them.
fn shorter(frame: &[u8], bytes: usize) -> Vec<u8> {
    let mut cut = frame[..bytes].to_vec();
    let (at, length) = match cut[12] {
        0x08 => (14 + 2, bytes - 14),
        _ => (14 + 4, bytes - 54),
    };
    cut[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    cut
}

#[test]
fn every_header_cut_at_every_byte_is_denied_by_program_and_model() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    let mut model = model();
    for (what, frame, headers) in whole() {
        let first = if frame[12] == 0x08 { 34 } else { 54 };
        for bytes in first..headers {
            for cut in [frame[..bytes].to_vec(), shorter(&frame, bytes)] {
                let answer = model.judge(&Frame {
                    direction: Egress,
                    at: Duration::ZERO,
                    bytes: &cut,
                    came_by: None,
                });
                let expected = format!("{} {}", answer.verdict, answer.reason);
                assert_eq!(
                    answer.verdict,
                    Verdict::Deny,
                    "{what}, {bytes} bytes: {expected}"
                );
                let place = format!("{what}, {bytes} bytes");
                bench.check(&place, Egress, &cut, &expected);
            }
        }
    }
    for (what, kind, body) in [
        (
            "ARP",
            0x0806,
            arp(1, (GUEST_MAC, "10.0.0.1"), (GUEST_MAC, "10.0.0.2")),
        ),
        (
            "RARP",
            0x8035,
            arp(3, (GUEST_MAC, "0.0.0.0"), (GUEST_MAC, "0.0.0.0")),
        ),
    ] {
        for bytes in 1..body.len() {
            let cut = link(Egress, kind, &body[..bytes]);
            bench.check(what, Egress, &cut, "deny truncated");
        }
    }
    let fits = ip(Ingress, BACK6, 58, &nd(135, "fd00::1", 1, PEER_MAC));
    bench.check("a whole one", Ingress, &fits, "allow neighbour");
}
