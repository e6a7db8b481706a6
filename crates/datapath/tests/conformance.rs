//! Where the program once differed from the model. Each case is a packet, or a sequence, that the
//! differential test shrank to, with the clause that decides.

mod common;

use common::packets::{ACK, ALL, BACK, FIN, OUT, OUT6, RST, SYN, arp, ether, icmp, ip, nd, udp};
use common::{Case, GUEST_MAC, PEER_MAC, VNIC, check};
use lictor_types::{Direction, Mac, TcpEnd, TcpState};

use Direction::{Egress, Ingress};

/// RFC 903: QEMU asks for its own address, and nothing else is an announcement.
#[test]
fn only_a_request_of_reversed_arp_is_an_announcement() {
    let announce = |operation| {
        let me = (GUEST_MAC, "0.0.0.0");
        ether(ALL, GUEST_MAC, 0x8035, &arp(operation, me, me))
    };
    let mut other_hardware = announce(3);
    other_hardware[14] = 0xb5;
    check(vec![
        ("a request", Egress, announce(3), "allow announcement"),
        ("a reply", Egress, announce(4), "deny bad-header"),
        ("of ARP", Egress, announce(1), "deny bad-header"),
        ("other hardware", Egress, other_hardware, "deny bad-header"),
    ]);
}

/// An error passes by the rule of the session that it speaks of.
#[test]
fn an_icmp_error_names_the_rule_of_its_session() {
    let query = ip(Egress, OUT, 17, &udp((5_000, 53)));
    let error = icmp(3, 3, 0, &query[14..]);
    let error = ip(Ingress, ("203.0.113.1", "10.0.0.1"), 1, &error);
    let Some(bench) = check(vec![("DNS", Egress, query, "allow policy-allow")]) else {
        return;
    };
    let answer = bench.datapath.test_run(VNIC, Ingress, &error);
    let answer = answer.expect("runs");
    assert_eq!((answer.reason.name(), answer.rule.0), ("related", 102));
}

/// RFC 4861, 4.6 and 6.1.1: options have the length that they say, those of a router solicitation
/// speak of the guest too, and a target is an IPv6 address.
#[test]
fn neighbour_messages_are_read_to_their_end() {
    let asks = |tail: &[u8]| [&nd(135, "fd00::2", 1, GUEST_MAC), tail].concat();
    let too_long = [14, 2, 0, 0, 0, 0, 0, 0];
    let seeks = |mac: Mac| icmp(133, 0, 0, &[&[1, 1][..], &mac.0].concat());
    let told = |target| ip(Egress, OUT6, 58, &nd(136, target, 2, GUEST_MAC));
    check(vec![
        (
            "whole",
            Egress,
            ip(Egress, OUT6, 58, &asks(&[])),
            "allow neighbour",
        ),
        (
            "a last option that is cut off",
            Egress,
            ip(Egress, OUT6, 58, &asks(&too_long)),
            "deny truncated",
        ),
        (
            "a router, with its own MAC",
            Egress,
            ip(Egress, ("fd00::1", "ff02::2"), 58, &seeks(GUEST_MAC)),
            "allow neighbour",
        ),
        (
            "a router, with another's",
            Egress,
            ip(Egress, ("fd00::1", "ff02::2"), 58, &seeks(PEER_MAC)),
            "deny spoofed-neighbour",
        ),
        (
            "its IPv6 address",
            Egress,
            told("fd00::1"),
            "allow neighbour",
        ),
        (
            "its IPv4 address",
            Egress,
            told("::ffff:10.0.0.1"),
            "deny bad-header",
        ),
    ]);
}

/// RFC 1122, 3.2.2: an error goes to the sender of the packet that it quotes, which lies inside it.
#[test]
fn an_icmp_error_goes_to_the_sender_of_what_it_quotes() {
    let back = ip(Ingress, ("10.0.0.2", "10.0.0.1"), 17, &udp((53, 5_000)));
    let quote = &back[14..];
    let query = ip(Egress, OUT, 17, &udp((5_000, 53)));
    let complain = |to| ip(Egress, ("10.0.0.1", to), 1, &icmp(3, 3, 0, quote));
    let mut short = complain("10.0.0.2");
    // The IP packet ends within the quote; the rest is the frame's padding.
    short[14 + 3] -= 1;
    check(vec![
        ("DNS", Egress, query, "allow policy-allow"),
        (
            "to the server",
            Egress,
            complain("10.0.0.2"),
            "allow related",
        ),
        (
            "to another",
            Egress,
            complain("192.0.2.7"),
            "deny unrelated",
        ),
        ("cut short", Egress, short, "deny unrelated"),
    ]);
}

struct Segment<'a> {
    flags: u8,
    seq: u32,
    ack: u32,
    options: &'a [u8],
    payload: &'a [u8],
}

impl Segment<'_> {
    const fn plain(flags: u8, seq: u32, ack: u32) -> Self {
        Self {
            flags,
            seq,
            ack,
            options: &[],
            payload: &[],
        }
    }

    /// With a window of 1,000.
    fn frame(&self, direction: Direction) -> Vec<u8> {
        let (ends, ports) = match direction {
            Egress => (OUT, [4_000u16, 80]),
            Ingress => (BACK, [80, 4_000]),
        };
        let mut bytes = ports.map(u16::to_be_bytes).concat();
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
        bytes.extend(1_000u16.to_be_bytes());
        bytes.extend([0; 4]);
        ip(
            direction,
            ends,
            6,
            &[&bytes, self.options, self.payload].concat(),
        )
    }
}

/// RFC 7323, 2.2: both sides offer scaling, or there is none; an option ends with its header.
#[test]
fn windows_are_scaled_only_if_both_sides_offered_it() {
    // Were the answer's scale of 14 taken, its window of 1,000 would be 16 million.
    let answered = |options: &'static [u8], expected| {
        let handshake = [
            (Egress, SYN, 100, 0, options),
            (Ingress, SYN | ACK, 500, 101, &[1, 3, 3, 14][..]),
        ];
        let mut cases: Vec<Case> = handshake
            .into_iter()
            .map(|(direction, flags, seq, ack, options)| {
                let payload = if direction == Egress {
                    &[3, 7, 3][..]
                } else {
                    &[]
                };
                let ack = if ack == 0 { 0 } else { ack + 3 };
                let segment = Segment {
                    options,
                    payload,
                    ..Segment::plain(flags, seq, ack)
                };
                let reason = if direction == Egress {
                    "allow policy-allow"
                } else {
                    "allow session"
                };
                ("handshake", direction, segment.frame(direction), reason)
            })
            .collect();
        let ack = Segment::plain(ACK, 104, 501).frame(Egress);
        cases.push(("ACK", Egress, ack, "allow session"));
        let window = Segment::plain(ACK, 501, 104).frame(Ingress);
        cases.push(("a window", Ingress, window, "allow session"));
        let data = Segment::plain(ACK, 1_000_000, 501).frame(Egress);
        cases.push(("data far ahead", Egress, data, expected));
        check(cases);
    };
    answered(&[1, 3, 3, 7], "allow session");
    answered(&[1, 1, 1, 1], "deny tcp-window");
    // The option's length and shift would be payload.
    answered(&[1, 1, 1, 3], "deny tcp-window");
}

fn handshake() -> Vec<Case> {
    let plain = |flags, seq, ack, direction| Segment::plain(flags, seq, ack).frame(direction);
    vec![
        (
            "SYN",
            Egress,
            plain(SYN, 100, 0, Egress),
            "allow policy-allow",
        ),
        (
            "SYN-ACK",
            Ingress,
            plain(SYN | ACK, 500, 101, Ingress),
            "allow session",
        ),
        ("ACK", Egress, plain(ACK, 101, 501, Egress), "allow session"),
    ]
}

/// RFC 9293, 3.10.7.4: the window ends before 1,101; a probe of a closed one may stand there.
#[test]
fn a_segment_begins_no_later_than_where_the_window_ends() {
    let at = |seq| Segment::plain(ACK, seq, 501).frame(Egress);
    let mut cases = handshake();
    cases.push(("one beyond", Egress, at(1_102), "deny tcp-window"));
    cases.push(("at the end", Egress, at(1_101), "allow session"));
    check(cases);
}

/// RFC 9293, 3.4: a SYN takes a sequence number, also where it is the first that a host sees.
#[test]
fn a_syn_ack_after_a_move_that_lost_the_windows_counts_itself() {
    let syn = Segment::plain(SYN, 100, 0).frame(Egress);
    let Some(bench) = check(vec![("SYN", Egress, syn, "allow policy-allow")]) else {
        return;
    };
    let mut records = bench.datapath.export(VNIC).expect("exports");
    records[0].tcp = [TcpEnd::default(); 2];
    bench.datapath.purge(VNIC).expect("purges");
    bench.datapath.import(VNIC, &records).expect("imports");
    for (what, direction, segment) in [
        ("SYN-ACK", Ingress, Segment::plain(SYN | ACK, 500, 101)),
        ("ACK", Egress, Segment::plain(ACK, 101, 501)),
        ("data", Egress, Segment::plain(ACK, 101, 501)),
    ] {
        bench.check(what, direction, &segment.frame(direction), "allow session");
    }
}

/// RFC 9293, 3.10.7.4: after a reset the conversation does not exist; a late FIN revives nothing.
#[test]
fn a_fin_after_a_reset_leaves_the_session_closed() {
    let mut cases = handshake();
    for (what, flags) in [("a reset", RST | ACK), ("a late FIN", FIN | ACK)] {
        let segment = Segment::plain(flags, 501, 101).frame(Ingress);
        cases.push((what, Ingress, segment, "allow session"));
    }
    let Some(bench) = check(cases) else {
        return;
    };
    let session = bench.datapath.export(VNIC).expect("exports")[0];
    assert_eq!(session.state, TcpState::Closed);
    assert!(session.expires_in_ms <= 10_000, "{session:?}");
}
