//! Services: ranges of ports per protocol class.

use lictor_types::Protocol;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A run of ports of one protocol class; for ICMP a run of types, for other protocols of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The protocol class.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Other {
            // Bare `ip` would read as "every IP packet", which it is not.
            f.write_str("ip")?;
        } else {
            write!(f, "{}", self.protocol)?;
            if (self.first, self.last) == (0, self.protocol.port_max()) {
                return Ok(());
            }
        }
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
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

    /// Every packet.
    #[must_use]
    pub fn any() -> Self {
        let all = |protocol: Protocol| PortRange {
            protocol,
            first: 0,
            last: protocol.port_max(),
        };
        Self::new(Protocol::ALL.into_iter().map(all).collect())
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
    }
}
