//! From bytes to fields. What is not understood has a reason instead.

use crate::extension::{Chain, Fragment, ipv4_fragment, ipv4_options};
use crate::sctp::Chunk;
use lictor_types::{Link, Mac, Reason};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Options of a TCP segment that are looked at, padding included.
const TCP_OPTIONS_MAX: usize = 10;
/// The largest window scale (RFC 7323, 2.3: more means this).
pub(crate) const SCALE_MAX: u8 = 14;

pub(crate) const IP_ICMP: u8 = 1;
pub(crate) const IP_TCP: u8 = 6;
pub(crate) const IP_UDP: u8 = 17;
pub(crate) const IP_ICMPV6: u8 = 58;
pub(crate) const IP_SCTP: u8 = 132;
pub(crate) const IP_UDP_LITE: u8 = 136;

/// Whether a protocol's conversations are told apart by ports.
pub(crate) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IP_TCP | IP_UDP | IP_SCTP | IP_UDP_LITE)
}

/// A frame as far as it is understood.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// The L2 domain: the vnic's own, or that of the VLAN.
    pub(crate) segment: lictor_types::Segment,
    pub(crate) content: Content<'a>,
}

/// What the EtherType says. The bodies of ARP and RARP are read where they are judged.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Arp(&'a [u8]),
    Rarp(&'a [u8]),
    /// Another EtherType.
    Other(u16),
    Ip(Ip<'a>),
}

#[derive(Debug)]
pub(crate) struct Ip<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) transport: Transport<'a>,
}

#[derive(Debug)]
pub(crate) enum Transport<'a> {
    Tcp(Segment),
    /// UDP and UDP-Lite.
    Udp {
        source: u16,
        destination: u16,
        payload: &'a [u8],
    },
    Sctp {
        source: u16,
        destination: u16,
        chunk: Chunk,
    },
    Icmp(Message<'a>),
    /// No ports: another protocol, or a later fragment.
    Other,
}

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: Flags,
    /// As it stands in the header, not scaled.
    pub(crate) window: u16,
    /// Bytes.
    pub(crate) payload: u32,
    pub(crate) options: TcpOptions,
}

/// What is read of a segment's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TcpOptions {
    /// The window scale that a SYN offers (RFC 7323, 2.2).
    pub(crate) scale: Option<u8>,
    /// Whether a SYN permits selective acknowledgements (RFC 2018, 2).
    pub(crate) sack_permitted: bool,
    /// How far beyond the acknowledgement the highest edge of selectively acknowledged blocks
    /// lies, in bytes.
    pub(crate) sack_ahead: u32,
}

/// The flags of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    pub(crate) fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    pub(crate) fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    pub(crate) fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// What a conversation begins with.
    pub(crate) fn opens(self) -> bool {
        self.syn() && !self.ack()
    }

    /// What neither begins nor ends a conversation.
    pub(crate) fn goes_on(self) -> bool {
        self.ack() && !self.syn() && !self.fin() && !self.rst()
    }

    /// Combinations that no sender makes (RFC 9293, 3.10.7): a SYN that ends or resets, a FIN that
    /// resets, and anything but a SYN or a RST that acknowledges nothing.
    pub(crate) fn impossible(self) -> bool {
        let two_of_three = [self.syn(), self.fin(), self.rst()]
            .into_iter()
            .filter(|flag| *flag)
            .count()
            > 1;
        two_of_three || !(self.syn() || self.rst() || self.ack())
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The identifier, if it is an echo.
    pub(crate) id: u16,
    /// All of it, header included.
    pub(crate) bytes: &'a [u8],
}

/// Bytes at an offset, if there are as many.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_be_bytes)
}

/// A whole frame. `own` is the segment of untagged ones.
pub(crate) fn frame<'a>(
    bytes: &'a [u8],
    own: lictor_types::Segment,
    link: &Link,
) -> Result<Packet<'a>, Reason> {
    let to = Mac(bytes_at(bytes, 0).ok_or(Reason::Truncated)?);
    let from = Mac(bytes_at(bytes, 6).ok_or(Reason::Truncated)?);
    let kind = u16_at(bytes, 12).ok_or(Reason::Truncated)?;
    let (segment, kind, body) = untagged(kind, &bytes[14..], own, link)?;
    let content = match kind {
        0x0806 => Content::Arp(body),
        0x8035 => Content::Rarp(body),
        0x0800 => Content::Ip(ipv4(body)?),
        0x86dd => Content::Ip(ipv6(body)?),
        // Smaller numbers are lengths (IEEE 802.3, 3.2.6), whose frames name no protocol here.
        0x0600.. => Content::Other(kind),
        _ => return Err(Reason::EtherType),
    };
    Ok(Packet {
        to,
        from,
        segment,
        content,
    })
}

/// Segment, EtherType and body behind a VLAN tag, if there is one. VLAN 0 is no VLAN: such a tag
/// carries a priority only (IEEE 802.1Q, 6.9). A second tag and a provider's tag lead to networks
/// that no binding can name.
fn untagged<'a>(
    kind: u16,
    body: &'a [u8],
    own: lictor_types::Segment,
    link: &Link,
) -> Result<(lictor_types::Segment, u16, &'a [u8]), Reason> {
    const CUSTOMER: u16 = 0x8100;
    const PROVIDER: u16 = 0x88a8;
    if !matches!(kind, CUSTOMER | PROVIDER) {
        return Ok((own, kind, body));
    }
    let control = u16_at(body, 0).ok_or(Reason::Truncated)?;
    let inner = u16_at(body, 2).ok_or(Reason::Truncated)?;
    if kind != CUSTOMER || matches!(inner, CUSTOMER | PROVIDER) {
        return Err(Reason::Vlan);
    }
    let segment = match control & 0x0fff {
        0 => own,
        vlan => link.segment(vlan).ok_or(Reason::Vlan)?,
    };
    Ok((segment, inner, &body[4..]))
}

fn ipv4(bytes: &[u8]) -> Result<Ip<'_>, Reason> {
    let header: [u8; 20] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_bytes < header.len() {
        return Err(Reason::BadHeader);
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let whole = bytes.get(..length).ok_or(Reason::Truncated)?;
    let body = whole.get(header_bytes..).ok_or(Reason::Truncated)?;
    ipv4_options(&whole[header.len()..header_bytes])?;
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    // RFC 1122, 3.2.1.3: neither a group nor the loopback network may be a source; class E and the
    // limited broadcast are no station either.
    if source.octets()[0] >= 224 || source.is_loopback() {
        return Err(Reason::BadHeader);
    }
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let fragment = ipv4_fragment(&header, body.len());
    if let Some(fragment) = fragment {
        fragment.check(header_bytes)?;
    }
    Ok(Ip {
        source: source.into(),
        destination: destination.into(),
        hops: header[8],
        protocol: header[9],
        fragment,
        transport: transport(header[9], IP_ICMP, body, fragment)?,
    })
}

fn ipv6(bytes: &[u8]) -> Result<Ip<'_>, Reason> {
    let header: [u8; 40] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let body = bytes[40..].get(..length).ok_or(Reason::Truncated)?;
    let source: Ipv6Addr = bytes_at::<16>(&header, 8).ok_or(Reason::Truncated)?.into();
    let destination: Ipv6Addr = bytes_at::<16>(&header, 24).ok_or(Reason::Truncated)?.into();
    // RFC 4291, 2.5.3 and 2.7. A v4-mapped address on the wire would be taken for the IPv4 address
    // that it contains.
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    if source.is_multicast() || source.is_loopback() || mapped(source) || mapped(destination) {
        return Err(Reason::BadHeader);
    }
    let (chain, end) = Chain::follow(header[6], body);
    let fragment = chain.fragment;
    end.map_err(|reason| complete(reason, fragment))?;
    if let Some(fragment) = fragment {
        fragment.check(chain.repeated)?;
    }
    Ok(Ip {
        source: source.into(),
        destination: destination.into(),
        hops: header[7],
        protocol: chain.protocol,
        fragment,
        transport: transport(chain.protocol, IP_ICMPV6, chain.body, fragment)?,
    })
}

/// A first fragment must have all headers up to the transport header: what lies in the next one
/// can't be judged (RFC 1858, RFC 7112).
fn complete(reason: Reason, fragment: Option<Fragment>) -> Reason {
    match (reason, fragment) {
        (Reason::Truncated, Some(_)) => Reason::TinyFragment,
        _ => reason,
    }
}

/// ICMP belongs to one family each (RFC 4443, section 1). A later fragment has no header.
fn transport(
    protocol: u8,
    icmp_of_family: u8,
    body: &[u8],
    fragment: Option<Fragment>,
) -> Result<Transport<'_>, Reason> {
    if fragment.is_some_and(|fragment| !fragment.first()) {
        return Ok(Transport::Other);
    }
    let whole = fragment.is_none();
    let parsed = match protocol {
        IP_TCP => tcp(body).map(Transport::Tcp),
        IP_UDP => udp(body, whole),
        IP_UDP_LITE => udp_lite(body, whole),
        IP_SCTP => sctp(body, whole),
        IP_ICMP | IP_ICMPV6 if protocol != icmp_of_family => Err(Reason::BadHeader),
        IP_ICMP | IP_ICMPV6 => icmp(body).map(Transport::Icmp),
        _ => Ok(Transport::Other),
    };
    parsed.map_err(|reason| complete(reason, fragment))
}

fn tcp(bytes: &[u8]) -> Result<Segment, Reason> {
    let header: [u8; 20] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    let header_bytes = usize::from(header[12] >> 4) * 4;
    if header_bytes < header.len() {
        return Err(Reason::BadHeader);
    }
    let options = bytes.get(20..header_bytes).ok_or(Reason::Truncated)?;
    let flags = Flags(header[13]);
    let word = |at| u32_at(&header, at).ok_or(Reason::Truncated);
    let half = |at| u16_at(&header, at).ok_or(Reason::Truncated);
    Ok(Segment {
        source: half(0)?,
        destination: half(2)?,
        sequence: word(4)?,
        acknowledgement: word(8)?,
        flags,
        window: half(14)?,
        payload: (bytes.len() - header_bytes) as u32,
        options: tcp_options(options, flags, word(8)?),
    })
}

/// The options that the tracker knows. A malformed one ends the search; of one that comes twice
/// the last counts, as for most receivers.
fn tcp_options(mut options: &[u8], flags: Flags, acknowledgement: u32) -> TcpOptions {
    let mut found = TcpOptions::default();
    for _ in 0..TCP_OPTIONS_MAX {
        let (kind, body, rest) = match *options {
            [] | [0, ..] => break,
            [1, ref rest @ ..] => {
                options = rest;
                continue;
            }
            [kind, length, ref rest @ ..] => {
                let body = usize::from(length).checked_sub(2);
                match body.and_then(|body| rest.split_at_checked(body)) {
                    Some((body, rest)) => (kind, body, rest),
                    None => break,
                }
            }
            [_] => break,
        };
        match (kind, body) {
            (3, [shift]) if flags.syn() => found.scale = Some((*shift).min(SCALE_MAX)),
            (4, []) if flags.syn() => found.sack_permitted = true,
            (5, blocks) if !flags.syn() => {
                let ahead = sack_ahead(blocks, acknowledgement);
                found.sack_ahead = found.sack_ahead.max(ahead);
            }
            _ => {}
        }
        options = rest;
    }
    found
}

/// The highest right edge of the blocks (RFC 2018, 3), from the acknowledgement on. What lies
/// behind it was received twice (RFC 2883).
fn sack_ahead(blocks: &[u8], acknowledgement: u32) -> u32 {
    let (blocks, []) = blocks.as_chunks::<8>() else {
        return 0;
    };
    let ahead = blocks.iter().map(|[.., a, b, c, d]| {
        let edge = u32::from_be_bytes([*a, *b, *c, *d]);
        edge.wrapping_sub(acknowledgement)
    });
    ahead.filter(|ahead| *ahead < 1 << 31).max().unwrap_or(0)
}

fn ports<'a>(bytes: &'a [u8], header: &[u8; 8]) -> Transport<'a> {
    Transport::Udp {
        payload: &bytes[header.len()..],
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
    }
}

/// A fragment has the length of the whole datagram.
fn udp(bytes: &[u8], whole: bool) -> Result<Transport<'_>, Reason> {
    let header: [u8; 8] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if length < header.len() || (whole && length > bytes.len()) {
        return Err(Reason::Truncated);
    }
    Ok(ports(bytes, &header))
}

/// UDP-Lite (RFC 3828): the checksum covers everything, or at least the header.
fn udp_lite(bytes: &[u8], whole: bool) -> Result<Transport<'_>, Reason> {
    let header: [u8; 8] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    match usize::from(u16::from_be_bytes([header[4], header[5]])) {
        1..8 => Err(Reason::BadHeader),
        covered if whole && covered > bytes.len() => Err(Reason::Truncated),
        _ => Ok(ports(bytes, &header)),
    }
}

/// The common header and the head of the first chunk (RFC 9260, 3).
fn sctp(bytes: &[u8], whole: bool) -> Result<Transport<'_>, Reason> {
    let header: [u8; 16] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length < 4 {
        return Err(Reason::BadHeader);
    }
    if whole && length > bytes.len() - 12 {
        return Err(Reason::Truncated);
    }
    // INIT and INIT-ACK begin with the tag that is wanted (RFC 9260, 3.3.2 and 3.3.3).
    let wanted = match header[12] {
        1 | 2 if length >= 8 => u32_at(bytes, 16).unwrap_or(0),
        _ => 0,
    };
    Ok(Transport::Sctp {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
        chunk: Chunk {
            tag: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            kind: header[12],
            reflected: header[13] & 1 != 0,
            wanted,
        },
    })
}

fn icmp(bytes: &[u8]) -> Result<Message<'_>, Reason> {
    let header: [u8; 8] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    Ok(Message {
        kind: header[0],
        code: header[1],
        id: u16::from_be_bytes([header[4], header[5]]),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scale, permission and edge of a segment that acknowledges 1,000.
    fn check(flags: u8, options: &[u8], expected: (Option<u8>, bool, u32)) {
        let found = tcp_options(options, Flags(flags), 1_000);
        let found = (found.scale, found.sack_permitted, found.sack_ahead);
        assert_eq!(found, expected, "{options:?}");
    }

    #[test]
    fn a_syn_offers_and_any_other_segment_reports() {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        // From 2,000 to 3,000; from 100 to 900; beyond the end of the numbers.
        const BLOCKS: [u8; 26] = [
            5, 26, 0, 0, 7, 208, 0, 0, 11, 184, 0, 0, 0, 100, 0, 0, 3, 132, 0, 0, 0, 0, 255, 0, 0,
            0,
        ];
        let nothing = (None, false, 0);
        check(SYN, &[1, 3, 3, 7, 4, 2], (Some(7), true, 0));
        check(SYN, &[3, 3, 200, 3, 3, 2], (Some(2), false, 0));
        check(SYN, &[3, 3, 200], (Some(14), false, 0));
        check(SYN, &[3, 4, 7, 7, 4, 3, 0, 4, 2], (None, true, 0));
        check(SYN, &BLOCKS, nothing);
        check(ACK, &[3, 3, 7, 4, 2], nothing);
        check(ACK, &BLOCKS, (None, false, 2_000));
        check(ACK, &BLOCKS[..25], nothing);
        check(ACK, &[0, 4, 2], nothing);
        check(ACK, &[5, 2], nothing);
        check(ACK, &[5, 1], nothing);
        // The eleventh option.
        let late = [&[1; 10][..], &BLOCKS].concat();
        check(ACK, &late, nothing);
    }
}
