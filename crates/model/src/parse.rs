//! From bytes to fields. What is not understood has a reason instead.

use lictor_types::{Mac, Reason};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv6 headers that are followed to the transport header.
const EXTENSION_HEADERS_MAX: usize = 4;
/// Options of a SYN that are looked at for the window scale.
const TCP_OPTIONS_MAX: usize = 10;
/// The largest window scale (RFC 7323, 2.3: more means this).
pub(crate) const SCALE_MAX: u8 = 14;

pub(crate) const IP_ICMP: u8 = 1;
pub(crate) const IP_TCP: u8 = 6;
pub(crate) const IP_UDP: u8 = 17;
pub(crate) const IP_ICMPV6: u8 = 58;

/// A frame as far as it is understood.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) content: Content<'a>,
}

/// What the EtherType says. The bodies of ARP and RARP are read where they are judged.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Arp(&'a [u8]),
    Rarp(&'a [u8]),
    Ip(Ip<'a>),
}

#[derive(Debug)]
pub(crate) struct Ip<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    pub(crate) transport: Transport<'a>,
}

#[derive(Debug)]
pub(crate) enum Transport<'a> {
    Tcp(Segment),
    Udp { source: u16, destination: u16 },
    Icmp(Message<'a>),
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
    /// The window scale that a SYN offers.
    pub(crate) scale: Option<u8>,
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

/// A whole frame.
pub(crate) fn frame(bytes: &[u8]) -> Result<Packet<'_>, Reason> {
    let to = Mac(bytes_at(bytes, 0).ok_or(Reason::Truncated)?);
    let from = Mac(bytes_at(bytes, 6).ok_or(Reason::Truncated)?);
    let kind = u16_at(bytes, 12).ok_or(Reason::Truncated)?;
    let body = &bytes[14..];
    let content = match kind {
        0x0806 => Content::Arp(body),
        0x8035 => Content::Rarp(body),
        0x0800 => Content::Ip(ipv4(body)?),
        0x86dd => Content::Ip(ipv6(body)?),
        _ => return Err(Reason::EtherType),
    };
    Ok(Packet { to, from, content })
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
    // More fragments, or an offset: without reassembly the ports can't be trusted.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(Reason::Fragment);
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    // RFC 1122, 3.2.1.3: neither a group nor the loopback network may be a source; class E and the
    // limited broadcast are no station either.
    if source.octets()[0] >= 224 || source.is_loopback() {
        return Err(Reason::BadHeader);
    }
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    Ok(Ip {
        source: source.into(),
        destination: destination.into(),
        hops: header[8],
        protocol: header[9],
        transport: transport(header[9], IP_ICMP, body)?,
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
    let (protocol, body) = extensions(header[6], body)?;
    Ok(Ip {
        source: source.into(),
        destination: destination.into(),
        hops: header[7],
        protocol,
        transport: transport(protocol, IP_ICMPV6, body)?,
    })
}

/// Follows the headers that may precede a transport header. A routing header can carry a packet
/// past the check of its destination (RFC 5095); AH, mobility, HIP and Shim6 are not followed.
fn extensions(mut next: u8, mut body: &[u8]) -> Result<(u8, &[u8]), Reason> {
    const HOP_BY_HOP: u8 = 0;
    const DESTINATION: u8 = 60;
    for place in 0..=EXTENSION_HEADERS_MAX {
        match next {
            44 => return Err(Reason::Fragment),
            43 | 51 | 135 | 139 | 140 => return Err(Reason::ExtensionHeader),
            // RFC 8200, 4.1: only directly after the IPv6 header.
            HOP_BY_HOP if place > 0 => return Err(Reason::BadHeader),
            HOP_BY_HOP | DESTINATION => {}
            _ => return Ok((next, body)),
        }
        let [following, units] = bytes_at(body, 0).ok_or(Reason::Truncated)?;
        body = body
            .get((usize::from(units) + 1) * 8..)
            .ok_or(Reason::Truncated)?;
        next = following;
    }
    Err(Reason::ExtensionHeader)
}

/// ICMP belongs to one family each (RFC 4443, section 1).
fn transport(protocol: u8, icmp_of_family: u8, body: &[u8]) -> Result<Transport<'_>, Reason> {
    match protocol {
        IP_TCP => tcp(body).map(Transport::Tcp),
        IP_UDP => udp(body),
        IP_ICMP | IP_ICMPV6 if protocol != icmp_of_family => Err(Reason::BadHeader),
        IP_ICMP | IP_ICMPV6 => icmp(body).map(Transport::Icmp),
        _ => Ok(Transport::Other),
    }
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
        scale: flags.syn().then(|| scale(options)).flatten(),
    })
}

/// The window scale option (RFC 7323, 2.2). A malformed option ends the search.
fn scale(mut options: &[u8]) -> Option<u8> {
    for _ in 0..TCP_OPTIONS_MAX {
        match *options {
            [] | [0, ..] => return None,
            [1, ..] => options = &options[1..],
            [3, 3, shift, ..] => return Some(shift.min(SCALE_MAX)),
            [3, ..] => return None,
            [_, length, ..] if length >= 2 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
    None
}

fn udp(bytes: &[u8]) -> Result<Transport<'_>, Reason> {
    let header: [u8; 8] = bytes_at(bytes, 0).ok_or(Reason::Truncated)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if length < header.len() || length > bytes.len() {
        return Err(Reason::Truncated);
    }
    Ok(Transport::Udp {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
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
