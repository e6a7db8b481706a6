//! Frames, byte by byte. Checksums stay zero: the firewall leaves them to the ends.

use super::{GUEST_MAC, PEER_MAC};
use lictor_types::{Direction, Mac};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// The broadcast address.
pub const ALL: Mac = Mac([0xff; 6]);
/// From the guest to its peer, and back, in both families.
pub const OUT: (&str, &str) = ("10.0.0.1", "10.0.0.2");
pub const BACK: (&str, &str) = ("10.0.0.2", "10.0.0.1");
pub const OUT6: (&str, &str) = ("fd00::1", "fd00::2");
pub const BACK6: (&str, &str) = ("fd00::2", "fd00::1");

pub fn ether(to: Mac, from: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), body].concat()
}

/// Between the guest and its peer, whichever way.
pub fn link(direction: Direction, kind: u16, body: &[u8]) -> Vec<u8> {
    match direction {
        Direction::Egress => ether(PEER_MAC, GUEST_MAC, kind, body),
        Direction::Ingress => ether(GUEST_MAC, PEER_MAC, kind, body),
    }
}

pub fn v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len() as u16).to_be_bytes();
    let head = [
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0,
    ];
    [&head[..], &from.octets(), &to.octets(), body].concat()
}

pub fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&head[..], &from.octets(), &to.octets(), body].concat()
}

/// An IP packet of either family in its frame.
pub fn ip(direction: Direction, ends: (&str, &str), protocol: u8, body: &[u8]) -> Vec<u8> {
    let parse = |text: &str| text.parse().expect("a valid address");
    match (parse(ends.0), parse(ends.1)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            link(direction, 0x0800, &v4(from, to, protocol, body))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            link(direction, 0x86dd, &v6(from, to, protocol, body))
        }
        ends => panic!("{ends:?} are of two families"),
    }
}

#[derive(Clone, Copy)]
pub struct Tcp {
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload: usize,
}

pub fn tcp(header: Tcp) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(header.ports.0.to_be_bytes());
    bytes.extend(header.ports.1.to_be_bytes());
    bytes.extend(header.seq.to_be_bytes());
    bytes.extend(header.ack.to_be_bytes());
    bytes.extend([0x50, header.flags]);
    bytes.extend(1_000u16.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.resize(20 + header.payload, 0);
    bytes
}

pub fn udp(ports: (u16, u16)) -> Vec<u8> {
    let mut bytes = ports.0.to_be_bytes().to_vec();
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend([0, 8, 0, 0]);
    bytes
}

/// Type, code and the word where an echo has identifier and sequence.
pub fn icmp(kind: u8, code: u8, id: u16, body: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    [&[kind, code, 0, 0, id[0], id[1], 0, 1][..], body].concat()
}

pub fn arp(operation: u16, sender: (Mac, &str), target: (Mac, &str)) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv4Addr>().expect("a valid address").octets();
    let head = [0, 1, 8, 0, 6, 4];
    let (from, to) = (octets(sender.1), octets(target.1));
    [
        &head[..],
        &operation.to_be_bytes(),
        &sender.0.0,
        &from,
        &target.0.0,
        &to,
    ]
    .concat()
}

/// A neighbour solicitation (135) or advertisement (136) with one option (1: source, 2: target).
pub fn nd(kind: u8, target: &str, option: u8, mac: Mac) -> Vec<u8> {
    let target = target
        .parse::<Ipv6Addr>()
        .expect("a valid address")
        .octets();
    [
        &[kind, 0, 0, 0, 0, 0, 0, 0][..],
        &target,
        &[option, 1],
        &mac.0,
    ]
    .concat()
}

/// What a web server on the peer sends to the guest's port 4000.
pub fn answer(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp(Tcp {
        ports: (80, 4_000),
        seq,
        ack,
        flags,
        payload: 0,
    })
}

/// A TCP segment toward the guest.
pub fn back(body: &[u8]) -> Vec<u8> {
    ip(Direction::Ingress, BACK, 6, body)
}

pub fn syn_to(port: u16, ends: (&str, &str), direction: Direction) -> Vec<u8> {
    let syn = Tcp {
        ports: (4_000, port),
        seq: 1,
        ack: 0,
        flags: SYN,
        payload: 0,
    };
    ip(direction, ends, 6, &tcp(syn))
}
