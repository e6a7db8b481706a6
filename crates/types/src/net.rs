//! Words of the wire: direction, protocol, verdict, MAC address, vnic state.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Relative to the guest, always. A tc hook on a tap or veth sees the reverse; that mapping is made
/// in one place in `bpf/firewall.bpf.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Direction {
    /// From the guest.
    Egress = 0,
    /// Toward the guest.
    Ingress = 1,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// The protocol classes that port atoms are cut for. Any other IP protocol is `Other` and carries
/// its number where a port would be. The numbers are an append-only list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// TCP; the port is the destination port.
    Tcp = 0,
    /// UDP; the port is the destination port.
    Udp = 1,
    /// ICMP for IPv4; the port is the type times 256 plus the code.
    Icmp = 2,
    /// ICMPv6; the port is the type times 256 plus the code.
    Icmpv6 = 3,
    /// Every other IP protocol; the port is its number.
    Other = 4,
    /// SCTP; the port is the destination port.
    Sctp = 5,
    /// UDP-Lite; the port is the destination port.
    UdpLite = 6,
    /// What is neither IP nor one of the link's own protocols; the port is the EtherType.
    Ether = 7,
}

impl Protocol {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Tcp,
        Self::Udp,
        Self::Icmp,
        Self::Icmpv6,
        Self::Other,
        Self::Sctp,
        Self::UdpLite,
        Self::Ether,
    ];

    /// The largest value that stands in the port's place.
    #[must_use]
    pub const fn port_max(self) -> u16 {
        match self {
            Self::Other => 255,
            _ => u16::MAX,
        }
    }

    /// What stands in the port's place of an ICMP message.
    #[must_use]
    pub const fn icmp_port(kind: u8, code: u8) -> u16 {
        u16::from_be_bytes([kind, code])
    }

    /// Classifies an IP protocol number.
    #[must_use]
    pub const fn from_ip(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            132 => Self::Sctp,
            136 => Self::UdpLite,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
            Self::Other => "other",
            Self::Sctp => "sctp",
            Self::UdpLite => "udplite",
            Self::Ether => "ether",
        })
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Verdict {
    /// Dropped silently.
    Deny = 0,
    /// Forwarded.
    Allow = 1,
    /// Dropped, and the sender is told. A rule says so; what happens to a packet is deny.
    Reject = 2,
}

impl Verdict {
    /// The verdict with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Deny),
            1 => Some(Self::Allow),
            2 => Some(Self::Reject),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Reject => "reject",
        })
    }
}

/// Whether a vnic forwards. A new vnic begins in `Hold`; nothing opens by time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum VnicState {
    /// Drop and count: not decided yet, or the guest does not run here.
    Hold = 0,
    /// The policy decides.
    Open = 1,
    /// Drop and count: the sessions have left for another host.
    HandedOver = 2,
    /// Drop and count: cut by its owner's choice.
    Cut = 3,
}

impl VnicState {
    /// The state with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Hold),
            1 => Some(Self::Open),
            2 => Some(Self::HandedOver),
            3 => Some(Self::Cut),
            _ => None,
        }
    }
}

impl fmt::Display for VnicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hold => "hold",
            Self::Open => "open",
            Self::HandedOver => "handed-over",
            Self::Cut => "cut",
        })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// The text is not six pairs of hexadecimal digits, or names a group of stations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MAC address {0:?} is not valid; expected six hexadecimal pairs such as 52:54:00:12:34:56")]
pub struct MacError(pub String);

impl Mac {
    /// Whether one station may have it: it names no group and is not all zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The IPv6 link-local address that modified EUI-64 (RFC 4291, appendix A) makes of it.
    #[must_use]
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let mut octets = [
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ];
        octets[1] = 0x80;
        octets.into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.into());
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs
                .next()
                .filter(|pair| pair.len() == 2)
                .ok_or_else(error)?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        if pairs.next().is_some() {
            return Err(error());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// Whose device it is that the programs hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u16)]
pub enum Endpoint {
    /// A tap, or the host's side of a veth pair: what it receives comes from the guest.
    #[default]
    Guest = 0,
    /// The device of the hypervisor's own addresses: what it receives goes toward the host.
    Host = 1,
}

/// What a denial does at one vnic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The packet is dropped.
    #[default]
    Enforce,
    /// It passes, and is counted and reported under its reason.
    Observe,
    /// It is dropped until a moment, and passes from then on unless somebody confirms.
    Trial,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trips_and_bad_text_is_refused() {
        let mac: Mac = "52:54:00:12:34:56".parse().expect("valid");
        assert_eq!(mac.to_string(), "52:54:00:12:34:56");
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:254:00:12:34:56",
            "zz:54:00:12:34:56",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn link_local_follows_modified_eui_64() {
        let mac: Mac = "52:54:00:12:34:56".parse().expect("valid");
        assert_eq!(mac.link_local().to_string(), "fe80::5054:ff:fe12:3456");
    }
}
