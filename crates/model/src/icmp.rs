//! ICMP as conversations: echoes that are asked and answered, and errors about other conversations.

use crate::extension::{Chain, Fragment};
use crate::parse::{IP_ICMP, IP_ICMPV6, Ip, Message, bytes_at, has_ports, u16_at};
use lictor_types::{Direction, Segment, SessionKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a message is for (RFC 792; RFC 4443, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Echo,
    Reply,
    /// Names an inner packet and is still sent.
    Error,
    Other,
}

pub(crate) fn purpose(protocol: u8, kind: u8) -> Purpose {
    match (protocol, kind) {
        (IP_ICMP, 8) | (IP_ICMPV6, 128) => Purpose::Echo,
        (IP_ICMP, 0) | (IP_ICMPV6, 129) => Purpose::Reply,
        (IP_ICMP, 3 | 11 | 12) | (IP_ICMPV6, 1..=4) => Purpose::Error,
        _ => Purpose::Other,
    }
}

/// The ports of an echo's key: the identifier is the local one, and the remote one says who asked:
/// 1 for the guest, 2 for the other end.
pub(crate) fn echo_ports(purpose: Purpose, id: u16, direction: Direction) -> (u16, u16) {
    let asks = purpose == Purpose::Echo;
    let guest_asked = asks == (direction == Direction::Egress);
    (id, if guest_asked { 1 } else { 2 })
}

/// A conversation's key by the ends and ports that a packet names in its direction.
pub(crate) fn key(
    segment: Segment,
    protocol: u8,
    ends: [(IpAddr, u16); 2],
    direction: Direction,
) -> SessionKey {
    let [source, destination] = ends;
    let (local, remote) = match direction {
        Direction::Egress => (source, destination),
        Direction::Ingress => (destination, source),
    };
    SessionKey {
        segment,
        protocol,
        local: local.0,
        remote: remote.0,
        local_port: local.1,
        remote_port: remote.1,
    }
}

/// The inner packet of an error, as far as an error must quote it.
struct Inner {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// The first eight bytes of its transport header (RFC 792).
    transport: [u8; 8],
}

fn inner_ipv4(bytes: &[u8]) -> Option<Inner> {
    let header: [u8; 20] = bytes_at(bytes, 0)?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    // Only a first fragment has ports.
    if header[0] >> 4 != 4 || header_bytes < header.len() || offset != 0 {
        return None;
    }
    Some(Inner {
        source: Ipv4Addr::from(bytes_at::<4>(&header, 12)?).into(),
        destination: Ipv4Addr::from(bytes_at::<4>(&header, 16)?).into(),
        protocol: header[9],
        transport: bytes_at(bytes, header_bytes)?,
    })
}

fn inner_ipv6(bytes: &[u8]) -> Option<Inner> {
    let header: [u8; 40] = bytes_at(bytes, 0)?;
    let (chain, end) = Chain::follow(header[6], bytes.get(header.len()..)?);
    // Only a first fragment has ports.
    let first = chain.fragment.is_none_or(Fragment::first);
    if header[0] >> 4 != 6 || end.is_err() || !first {
        return None;
    }
    Some(Inner {
        source: Ipv6Addr::from(bytes_at::<16>(&header, 8)?).into(),
        destination: Ipv6Addr::from(bytes_at::<16>(&header, 24)?).into(),
        protocol: chain.protocol,
        transport: bytes_at(chain.body, 0)?,
    })
}

/// The key of the conversation that an error speaks of. Its inner packet went the other way.
///
/// The inner packet's addressee or a router between complains, to the inner packet's sender (RFC
/// 1122, 3.2.2; RFC 4443, 2.2). So an error toward the guest is addressed to the inner sender; one
/// from the guest, which is no router, comes from the inner addressee and goes to the inner sender.
pub(crate) fn related(
    ip: &Ip<'_>,
    message: &Message<'_>,
    segment: Segment,
    direction: Direction,
) -> Option<SessionKey> {
    let quoted = message.bytes.get(8..)?;
    let inner = match ip.source {
        IpAddr::V4(_) => inner_ipv4(quoted)?,
        IpAddr::V6(_) => inner_ipv6(quoted)?,
    };
    let by_guest = direction == Direction::Egress;
    if ip.destination != inner.source || (by_guest && ip.source != inner.destination) {
        return None;
    }
    let inner_direction = match direction {
        Direction::Egress => Direction::Ingress,
        Direction::Ingress => Direction::Egress,
    };
    let port = |at| u16_at(&inner.transport, at);
    let ports = match has_ports(inner.protocol) {
        true => (port(0)?, port(2)?),
        false => (0, 0),
    };
    let ends = [(inner.source, ports.0), (inner.destination, ports.1)];
    let mut key = key(segment, inner.protocol, ends, inner_direction);
    if matches!(inner.protocol, IP_ICMP | IP_ICMPV6) {
        let purpose = purpose(inner.protocol, inner.transport[0]);
        if !matches!(purpose, Purpose::Echo | Purpose::Reply) {
            return None;
        }
        (key.local_port, key.remote_port) = echo_ports(purpose, port(4)?, inner_direction);
    }
    Some(key)
}
