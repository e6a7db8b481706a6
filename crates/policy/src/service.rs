//! Services: ranges of ports per protocol class.

use lictor_types::Protocol;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A run of ports of one protocol class, or of what stands in the port's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The protocol class.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
}

impl PortRange {
    /// Every port of a class.
    #[must_use]
    pub const fn all(protocol: Protocol) -> Self {
        Self {
            protocol,
            first: 0,
            last: protocol.port_max(),
        }
    }

    /// A protocol by name, without ports. `ip` and `ether` alone are no service.
    pub(crate) fn protocol_of(name: &str) -> Option<Protocol> {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, protocol)| *protocol)
    }

    /// A protocol that has a name but no ports, such as GRE.
    pub(crate) fn numbered(name: &str) -> Option<Self> {
        let number = NUMBERED.iter().find(|(known, _)| *known == name)?.1;
        Some(Self {
            protocol: Protocol::Other,
            first: number,
            last: number,
        })
    }

    /// What follows the slash: `443`, `1-9`, `echo`, `3/4`, `0x88cc`. `None` if it is no port of
    /// the protocol.
    pub(crate) fn ports_of(protocol: Protocol, text: &str) -> Option<Self> {
        let (first, last) = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => icmp_types(protocol, text)?,
            Protocol::Ether => span(text, |text| {
                let digits = text.strip_prefix("0x")?;
                let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let number = u16::from_str_radix(digits, 16).ok().filter(|_| plain)?;
                // IEEE 802.3, 3.2.6: what is less is a length.
                (number >= ETHER_TYPE_MIN).then_some(number)
            })?,
            _ => span(text, |text| number(text, protocol.port_max()))?,
        };
        Some(Self {
            protocol,
            first,
            last,
        })
    }
}

/// The classes that a text names, and how.
const NAMES: [(&str, Protocol); 8] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("sctp", Protocol::Sctp),
    ("udplite", Protocol::UdpLite),
    ("icmp", Protocol::Icmp),
    ("icmpv6", Protocol::Icmpv6),
    ("ip", Protocol::Other),
    ("ether", Protocol::Ether),
];

/// Protocols without ports that people expect by name.
const NUMBERED: [(&str, u16); 5] = [
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ospf", 89),
];

/// EtherTypes begin here.
const ETHER_TYPE_MIN: u16 = 0x0600;

fn number(text: &str, max: u16) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u16> = if digits { text.parse().ok() } else { None };
    number.filter(|number| *number <= max)
}

fn span(text: &str, one: impl Fn(&str) -> Option<u16>) -> Option<(u16, u16)> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (one(first)?, one(last)?),
        None => (one(text)?, one(text)?),
    };
    (first <= last).then_some((first, last))
}

/// `8`, `echo`, `3-5`, `3/4`, `3/0-4`. A type alone is all its codes.
fn icmp_types(protocol: Protocol, text: &str) -> Option<(u16, u16)> {
    let byte = |text: &str| number(text, u8::MAX.into());
    match (protocol, text) {
        // Echo request: RFC 792 and RFC 4443, section 4.1.
        (Protocol::Icmp, "echo") => return icmp_types(protocol, "8"),
        (Protocol::Icmpv6, "echo") => return icmp_types(protocol, "128"),
        _ => {}
    }
    if let Some((kind, codes)) = text.split_once('/') {
        let (kind, (first, last)) = (byte(kind)?, span(codes, byte)?);
        return Some((kind << 8 | first, kind << 8 | last));
    }
    let (first, last) = span(text, byte)?;
    Some((first << 8, last << 8 | 0xff))
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first, self.last);
        match self.protocol {
            Protocol::Icmp | Protocol::Icmpv6 => self.write_icmp(f),
            Protocol::Ether if first == last => write!(f, "ether/0x{first:04x}"),
            Protocol::Ether => write!(f, "ether/0x{first:04x}-0x{last:04x}"),
            // Bare `ip` would read as "every IP packet", which it is not.
            Protocol::Other if first == last => write!(f, "ip/{first}"),
            Protocol::Other => write!(f, "ip/{first}-{last}"),
            protocol if *self == Self::all(protocol) => write!(f, "{protocol}"),
            protocol if first == last => write!(f, "{protocol}/{first}"),
            protocol => write!(f, "{protocol}/{first}-{last}"),
        }
    }
}

impl PortRange {
    /// Whole types where the range covers them, and the codes of those that it covers in part.
    fn write_icmp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all(self.protocol) {
            return write!(f, "{}", self.protocol);
        }
        let (mut at, end) = (u32::from(self.first), u32::from(self.last));
        let mut comma = "";
        while at <= end {
            let (kind, code) = (at >> 8, at & 0xff);
            write!(f, "{comma}{}/{kind}", self.protocol)?;
            comma = ", ";
            // The last type of which all codes are in the range, plus one.
            let whole = (end + 1) >> 8;
            if code == 0 && whole > kind {
                if whole > kind + 1 {
                    write!(f, "-{}", whole - 1)?;
                }
                at = whole << 8;
                continue;
            }
            let last = end.min(kind << 8 | 0xff) & 0xff;
            write!(f, "/{code}")?;
            if last != code {
                write!(f, "-{last}")?;
            }
            at = (kind + 1) << 8;
        }
        Ok(())
    }
}

impl FromStr for PortRange {
    type Err = String;
    /// As a policy text writes one item of a service.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected tcp/PORT, udp/PORT, sctp/PORT, udplite/PORT, icmp/TYPE, \
                        icmp/TYPE/CODE, icmpv6/TYPE, ip/NUMBER or ether/0xTYPE";
        if let Some(range) = Self::numbered(text) {
            return Ok(range);
        }
        let (name, ports) = text.split_once('/').ok_or(expected)?;
        let protocol = Self::protocol_of(name);
        let protocol = protocol.ok_or_else(|| format!("{name:?} is no protocol; {expected}"))?;
        let range = Self::ports_of(protocol, ports);
        let range = range.ok_or_else(|| {
            let max = match protocol {
                Protocol::Icmp | Protocol::Icmpv6 => "255 for a type, 255 for a code".to_owned(),
                Protocol::Ether => "0xffff, from 0x0600".to_owned(),
                _ => protocol.port_max().to_string(),
            };
            format!("{text:?}: expected a number up to {max}")
        })?;
        match range.named() {
            Some(own) => Err(format!("{text} is written {own}; {expected}")),
            None => Ok(range),
        }
    }
}

impl PortRange {
    /// How a single number is written that must not be given as a number, because it has ports of
    /// its own or is never judged by a rule for its EtherType.
    pub(crate) fn named(&self) -> Option<&'static str> {
        if self.first != self.last {
            return None;
        }
        match (self.protocol, self.first) {
            (Protocol::Other, 1) => Some("icmp"),
            (Protocol::Other, 6) => Some("tcp"),
            (Protocol::Other, 17) => Some("udp"),
            (Protocol::Other, 58) => Some("icmpv6"),
            (Protocol::Other, 132) => Some("sctp"),
            (Protocol::Other, 136) => Some("udplite"),
            (Protocol::Ether, 0x0800 | 0x86dd) => Some("with IP services, such as tcp/443"),
            (Protocol::Ether, 0x0806 | 0x8035) => Some("nowhere: ARP needs no rule"),
            (Protocol::Ether, 0x8100 | 0x88a8) => Some("nowhere: a tag is no protocol"),
            _ => None,
        }
    }
}

/// Ranges in order, none touching another, so that equal services are equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service(Vec<PortRange>);

impl Service {
    /// Sorts and merges ranges.
    #[must_use]
    pub fn new(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last)
                    if last.protocol == range.protocol
                        && u32::from(range.first) <= u32::from(last.last) + 1 =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Every IP packet. Other EtherTypes are named or denied.
    #[must_use]
    pub fn any() -> Self {
        let ip = Protocol::ALL.into_iter();
        let ip = ip.filter(|protocol| *protocol != Protocol::Ether);
        Self::new(ip.map(PortRange::all).collect())
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether a packet to this port is of this service.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        let inside = |range: &PortRange| (range.first..=range.last).contains(&port);
        self.0
            .iter()
            .any(|range| range.protocol == protocol && inside(range))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::any() {
            return f.write_str("any");
        }
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_and_overlapping_ranges_merge() {
        let tcp = |first, last| PortRange {
            protocol: Protocol::Tcp,
            first,
            last,
        };
        let service = Service::new(vec![
            tcp(20, 30),
            tcp(65_535, 65_535),
            tcp(1, 9),
            tcp(10, 25),
        ]);
        assert_eq!(service.to_string(), "tcp/1-30, tcp/65535");
        assert!(service.contains(Protocol::Tcp, 30) && !service.contains(Protocol::Tcp, 31));
        assert!(!service.contains(Protocol::Udp, 5));
        assert_eq!(Service::any().to_string(), "any");
        assert!(!Service::any().contains(Protocol::Ether, 0x88cc));
    }

    /// What is written is read, and written again as it was, or as `expected`.
    fn check(text: &str, expected: &str) {
        let ranges: Result<Vec<PortRange>, String> = text.split(", ").map(str::parse).collect();
        let found = ranges.map(|ranges| Service::new(ranges).to_string());
        assert_eq!(found.as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn every_kind_of_service_is_written_as_it_is_read() {
        for text in [
            "tcp/443",
            "udp/1-9",
            "sctp/2905",
            "udplite/5004",
            "ip/47",
            "icmp/8",
            "icmp/3-5",
            "icmp/3/4",
            "icmpv6/1/0-4",
            "ether/0x88cc",
            "ether/0x88b5-0x88b6",
        ] {
            check(text, text);
        }
        check("icmp/echo, icmpv6/echo", "icmp/8, icmpv6/128");
        check("igmp, gre, esp, ah", "ip/2, ip/47, ip/50-51");
        // A run that begins and ends within types.
        check(
            "icmp/3/255, icmp/4, icmp/5/0",
            "icmp/3/255, icmp/4, icmp/5/0",
        );
        check("icmp/3/1-255, icmp/4-200", "icmp/3/1-255, icmp/4-200");
    }

    #[test]
    fn what_is_no_service_is_refused() {
        for text in [
            "tcp",
            "tcp/65536",
            "icmp/256",
            "icmp/3/256",
            "icmp/3/",
            "icmp//1",
            "ip/6",
            "ip/132",
            "ip/256",
            "ether/2054",
            "ether/0x0806",
            "ether/0x05ff",
            "ether/0x",
            "ether/0x+88c",
            "gre/1",
            "tcp/-1",
            "udp/9-1",
            "",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
        }
    }
}
