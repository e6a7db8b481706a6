//! The refusal of a packet that a rule rejects, and how it is known where it passes. Packets on the
//! wire have whole checksums, so what the program does where a device sums them is not here.

use crate::icmp::{self, Purpose};
use crate::parse::{IP_ICMP, IP_ICMPV6, IP_TCP, Ip, Transport, u16_at};
use crate::window::Window;
use std::net::IpAddr;
use std::time::Duration;

/// Answers of one vnic in one second.
const ANSWERS_PER_SECOND: u32 = 100;
/// How long an answer may take to where it is let pass.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
const ETHER_BYTES: usize = 14;
const MAC_BYTES: usize = 6;
const HOPS: u8 = 64;
/// Of the transport header, as RFC 792 asks.
const QUOTE_BYTES: usize = 8;
const SCTP: u8 = 132;

/// The answers of one vnic.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    window: Window,
    /// What is on its way, and until when it is waited for.
    expected: Vec<(Vec<u8>, Duration)>,
}

impl Answers {
    /// The answer to a rejected frame, if it can be made.
    pub(crate) fn make(&mut self, frame: &[u8], ip: &Ip<'_>, now: Duration) -> Option<Vec<u8>> {
        let answer = refusal(frame, ip)?;
        if !self.window.take(now, ANSWERS_PER_SECOND) {
            return None;
        }
        self.expected.push((answer.clone(), now + ON_ITS_WAY));
        Some(answer)
    }

    /// Whether a frame is an answer on its way. It is, once.
    pub(crate) fn expect(&mut self, frame: &[u8], now: Duration) -> bool {
        self.expected.retain(|(_, until)| *until > now);
        let same = |(answer, _): &(Vec<u8>, Duration)| answer.get(12..) == frame.get(12..);
        let found = self.expected.iter().position(same);
        found.map(|place| self.expected.remove(place)).is_some()
    }
}

/// RFC 1122, 3.2.2 names what an error must not answer. What carries options or headers that would
/// have to be taken out is left alone, and so is SCTP.
fn refusal(frame: &[u8], ip: &Ip<'_>) -> Option<Vec<u8>> {
    let group = frame.first()? & 1 == 1 || ip.destination.is_multicast();
    let broadcast = matches!(ip.destination, IpAddr::V4(to) if to.octets()[0] >= 224);
    if group || broadcast || ip.source.is_unspecified() || ip.fragment.is_some() {
        return None;
    }
    let (header, body) = match ip.source {
        IpAddr::V4(_) if u16_at(frame, 12)? == 0x0800 && frame.get(ETHER_BYTES)? == &0x45 => {
            (20, usize::from(u16_at(frame, ETHER_BYTES + 2)?) - 20)
        }
        IpAddr::V6(_)
            if u16_at(frame, 12)? == 0x86dd && frame.get(ETHER_BYTES + 6)? == &ip.protocol =>
        {
            (40, usize::from(u16_at(frame, ETHER_BYTES + 4)?))
        }
        _ => return None,
    };
    let quote = frame.get(ETHER_BYTES..ETHER_BYTES + header + QUOTE_BYTES)?;
    let (protocol, answer) = match &ip.transport {
        _ if ip.protocol == SCTP || body < QUOTE_BYTES => return None,
        Transport::Tcp(segment) => {
            let mut tcp = segment.destination.to_be_bytes().to_vec();
            tcp.extend(segment.source.to_be_bytes());
            tcp.extend([0; 4]);
            // RFC 9293, 3.10.7.1: the numbers of a reset where no connection is.
            let acknowledged = segment.sequence.wrapping_add(segment.payload + 1);
            tcp.extend(acknowledged.to_be_bytes());
            tcp.extend([0x50, 0x14]);
            tcp.extend([0; 6]);
            (IP_TCP, tcp)
        }
        Transport::Icmp(message) if icmp::purpose(ip.protocol, message.kind) != Purpose::Echo => {
            return None;
        }
        _ => {
            // RFC 1812, 5.2.7.1, and RFC 4443, 3.1: administratively prohibited.
            let (protocol, kind, code) = match ip.source {
                IpAddr::V4(_) => (IP_ICMP, 3, 13),
                IpAddr::V6(_) => (IP_ICMPV6, 1, 1),
            };
            (protocol, [&[kind, code, 0, 0, 0, 0, 0, 0], quote].concat())
        }
    };
    Some(framed(frame, ip, protocol, answer))
}

/// The answer with its checksum, in a packet and a frame to where the other one came from.
fn framed(frame: &[u8], ip: &Ip<'_>, protocol: u8, mut answer: Vec<u8>) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let ends = [octets(ip.destination), octets(ip.source)].concat();
    let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
    let pseudo = match protocol {
        // RFC 792: an ICMP message is summed alone.
        IP_ICMP => Vec::new(),
        _ => [&ends[..], &length.to_be_bytes(), &[0, protocol]].concat(),
    };
    let at = if protocol == IP_TCP { 16 } else { 2 };
    let sum = checksum(&[&pseudo[..], &answer].concat());
    answer[at..at + 2].copy_from_slice(&sum);
    let header = match ip.source {
        IpAddr::V4(_) => {
            let total = (length + 20).to_be_bytes();
            let head = [
                0x45, 0, total[0], total[1], 0, 0, 0x40, 0, HOPS, protocol, 0, 0,
            ];
            let mut header = [&head[..], &ends].concat();
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            header
        }
        IpAddr::V6(_) => {
            let length = length.to_be_bytes();
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, HOPS];
            [&head[..], &ends].concat()
        }
    };
    let (to, from) = (&frame[MAC_BYTES..2 * MAC_BYTES], &frame[..MAC_BYTES]);
    [to, from, &frame[12..ETHER_BYTES], &header, &answer].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u64::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(u16::MAX)).to_be_bytes()
}
