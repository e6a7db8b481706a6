//! A packet that nobody sends, as a person types it to ask what would become of it.

use crate::Protocol;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Characters of a probe's text.
pub const PROBE_TEXT_MAX: usize = 256;

/// Flags of a TCP probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeFlags {
    /// It opens.
    Syn,
    /// It answers.
    SynAck,
    /// It goes on.
    Ack,
    /// It closes.
    Fin,
    /// It resets.
    Rst,
}

impl ProbeFlags {
    const NAMED: [(&'static str, Self); 5] = [
        ("syn", Self::Syn),
        ("syn-ack", Self::SynAck),
        ("ack", Self::Ack),
        ("fin", Self::Fin),
        ("rst", Self::Rst),
    ];

    /// As they stand in the header.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Syn => 0x02,
            Self::SynAck => 0x12,
            Self::Ack => 0x10,
            Self::Fin => 0x11,
            Self::Rst => 0x14,
        }
    }
}

/// What the packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// TCP between these ports.
    Tcp {
        /// The sender's.
        from: u16,
        /// The addressee's.
        to: u16,
        /// Its flags.
        flags: ProbeFlags,
    },
    /// UDP between these ports.
    Udp {
        /// The sender's.
        from: u16,
        /// The addressee's.
        to: u16,
    },
    /// SCTP's INIT between these ports.
    Sctp {
        /// The sender's.
        from: u16,
        /// The addressee's.
        to: u16,
    },
    /// ICMP or ICMPv6, by the family of the addresses.
    Icmp {
        /// The message's type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Another IP protocol.
    Other {
        /// Its number.
        protocol: u8,
    },
}

/// A packet that nobody sends. Both addresses are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Probe {
    source: IpAddr,
    destination: IpAddr,
    kind: ProbeKind,
}

/// Why a text is no probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no packet; expected for instance \"tcp 10.0.0.1:4000 > 10.0.0.2:80\" with \
     syn, syn-ack, ack, fin or rst behind it if it is no SYN, \
     \"udp [fd00::1]:4000 > [fd00::2]:53\", \"sctp ...\", \"icmp/8 10.0.0.1 > 10.0.0.2\", \
     \"icmpv6/1/4 ...\" or \"ip/47 ...\"; both ends of one family"
)]
pub struct ProbeError(pub String);

impl Probe {
    /// Who sends it.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// To whom it goes.
    #[must_use]
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// What it carries.
    #[must_use]
    pub const fn kind(&self) -> ProbeKind {
        self.kind
    }

    /// The IP protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self.kind {
            ProbeKind::Tcp { .. } => 6,
            ProbeKind::Udp { .. } => 17,
            ProbeKind::Sctp { .. } => 132,
            ProbeKind::Icmp { .. } if self.source.is_ipv4() => 1,
            ProbeKind::Icmp { .. } => 58,
            ProbeKind::Other { protocol } => protocol,
        }
    }

    /// The class and the port, or what stands in its place, by which policy knows it.
    #[must_use]
    pub const fn service(&self) -> (Protocol, u16) {
        match self.kind {
            ProbeKind::Tcp { to, .. } => (Protocol::Tcp, to),
            ProbeKind::Udp { to, .. } => (Protocol::Udp, to),
            ProbeKind::Sctp { to, .. } => (Protocol::Sctp, to),
            ProbeKind::Icmp { kind, code } => {
                let class = match self.source {
                    IpAddr::V4(_) => Protocol::Icmp,
                    IpAddr::V6(_) => Protocol::Icmpv6,
                };
                (class, Protocol::icmp_port(kind, code))
            }
            ProbeKind::Other { protocol } => (Protocol::Other, protocol as u16),
        }
    }
}

/// The ends, and the ports if there are some.
fn ends(kind: &str, from: &str, to: &str) -> Option<(IpAddr, IpAddr, [u16; 2])> {
    if matches!(kind, "tcp" | "udp" | "sctp") {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().ok()?, to.parse().ok()?);
        return Some((from.ip(), to.ip(), [from.port(), to.port()]));
    }
    Some((from.parse().ok()?, to.parse().ok()?, [0; 2]))
}

fn kind(words: &str, [from, to]: [u16; 2], flags: Option<&str>) -> Option<ProbeKind> {
    let mut parts = words.split('/');
    let (name, mut number) = (parts.next()?, || parts.next());
    let found = match name {
        "tcp" => {
            let flags = flags.unwrap_or("syn");
            let known = ProbeFlags::NAMED.iter().find(|(name, _)| *name == flags);
            let (_, flags) = *known?;
            ProbeKind::Tcp { from, to, flags }
        }
        "udp" => ProbeKind::Udp { from, to },
        "sctp" => ProbeKind::Sctp { from, to },
        "icmp" | "icmpv6" => ProbeKind::Icmp {
            kind: number()?.parse().ok()?,
            code: number().map_or(Some(0), |code| code.parse().ok())?,
        },
        "ip" => ProbeKind::Other {
            protocol: number()?.parse().ok()?,
        },
        _ => return None,
    };
    (parts.next().is_none() && (flags.is_none() || name == "tcp")).then_some(found)
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let read = || {
            let words: Vec<_> = text.split_whitespace().collect();
            let (what, from, to, flags) = match words[..] {
                [what, from, ">", to] => (what, from, to, None),
                [what, from, ">", to, flags] => (what, from, to, Some(flags)),
                _ => return None,
            };
            let (source, destination, ports) = ends(what, from, to)?;
            let kind = kind(what, ports, flags)?;
            let family_fits = match what.split('/').next()? {
                "icmp" => source.is_ipv4(),
                "icmpv6" => source.is_ipv6(),
                _ => true,
            };
            // What has a form of its own is not asked about by its number.
            let plain = match kind {
                ProbeKind::Other { protocol } => !matches!(protocol, 1 | 6 | 17 | 58 | 132 | 136),
                _ => true,
            };
            (source.is_ipv4() == destination.is_ipv4() && family_fits && plain).then_some(Self {
                source,
                destination,
                kind,
            })
        };
        let short = text.chars().count() <= PROBE_TEXT_MAX;
        short
            .then(read)
            .flatten()
            .ok_or_else(|| ProbeError(text.chars().take(PROBE_TEXT_MAX).collect()))
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (self.source, self.destination);
        let end = SocketAddr::new;
        match self.kind {
            ProbeKind::Tcp { from, to, flags } => {
                let known = ProbeFlags::NAMED.iter().find(|(_, one)| *one == flags);
                let name = known.map_or("", |(name, _)| *name);
                let (from, to) = (end(source, from), end(destination, to));
                write!(f, "tcp {from} > {to} {name}")
            }
            ProbeKind::Udp { from, to } => {
                write!(f, "udp {} > {}", end(source, from), end(destination, to))
            }
            ProbeKind::Sctp { from, to } => {
                write!(f, "sctp {} > {}", end(source, from), end(destination, to))
            }
            ProbeKind::Icmp { kind, code } => {
                let name = if source.is_ipv4() { "icmp" } else { "icmpv6" };
                write!(f, "{name}/{kind}/{code} {source} > {destination}")
            }
            ProbeKind::Other { protocol } => {
                write!(f, "ip/{protocol} {source} > {destination}")
            }
        }
    }
}

impl TryFrom<String> for Probe {
    type Error = ProbeError;
    fn try_from(text: String) -> Result<Self, ProbeError> {
        text.parse()
    }
}

impl From<Probe> for String {
    fn from(probe: Probe) -> Self {
        probe.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_written_as_it_is_read() {
        for text in [
            "tcp 10.0.0.1:4000 > 10.0.0.2:80 syn",
            "tcp [fd00::1]:4000 > [fd00::2]:80 syn-ack",
            "tcp 10.0.0.1:4000 > 10.0.0.2:80 rst",
            "udp 10.0.0.1:4000 > 10.0.0.2:53",
            "sctp 10.0.0.1:4000 > 10.0.0.2:80",
            "icmp/8/0 10.0.0.1 > 10.0.0.2",
            "icmpv6/1/4 fd00::1 > fd00::2",
            "ip/47 10.0.0.1 > 10.0.0.2",
        ] {
            let probe: Probe = text.parse().expect(text);
            assert_eq!(probe.to_string(), text);
        }
        let short: Probe = "tcp 10.0.0.1:1 > 10.0.0.2:2".parse().expect("a SYN");
        assert_eq!(short.to_string(), "tcp 10.0.0.1:1 > 10.0.0.2:2 syn");
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for text in [
            "",
            "tcp 10.0.0.1 > 10.0.0.2:80",
            "tcp 10.0.0.1:1 10.0.0.2:80",
            "tcp 10.0.0.1:1 > [fd00::2]:80",
            "tcp 10.0.0.1:1 > 10.0.0.2:80 urg",
            "udp 10.0.0.1:1 > 10.0.0.2:80 syn",
            "icmp 10.0.0.1 > 10.0.0.2",
            "icmp/8 fd00::1 > fd00::2",
            "icmpv6/128 10.0.0.1 > 10.0.0.2",
            "icmp/8/0/0 10.0.0.1 > 10.0.0.2",
            "ip/6 10.0.0.1 > 10.0.0.2",
            "ip/256 10.0.0.1 > 10.0.0.2",
            "arp 10.0.0.1 > 10.0.0.2",
            &format!("tcp{}10.0.0.1:1 > 10.0.0.2:80", " ".repeat(PROBE_TEXT_MAX)),
        ] {
            assert!(text.parse::<Probe>().is_err(), "{text}");
        }
    }
}
