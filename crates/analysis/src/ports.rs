//! Ports as services cut them: runs of ports in the same services behave alike.

use lictor_policy::{PortRange, Service};
use lictor_types::Protocol;
use std::collections::BTreeMap;

/// What is in the first service and not in the second one.
#[must_use]
pub fn minus(one: &Service, two: &Service) -> Service {
    let mut rest = Vec::new();
    for range in one.ranges() {
        let mut from = u32::from(range.first);
        let cuts = two.ranges().iter();
        for cut in cuts.filter(|cut| cut.protocol == range.protocol) {
            let end = u32::from(range.last);
            let (first, last) = (u32::from(cut.first), u32::from(cut.last));
            if last < from || first > end {
                continue;
            }
            push(&mut rest, range.protocol, (from, first));
            from = last + 1;
        }
        push(&mut rest, range.protocol, (from, u32::from(range.last) + 1));
    }
    Service::new(rest)
}

fn push(rest: &mut Vec<PortRange>, protocol: Protocol, (from, end): (u32, u32)) {
    if from >= end {
        return;
    }
    if let (Ok(first), Ok(last)) = (u16::try_from(from), u16::try_from(end - 1)) {
        rest.push(PortRange {
            protocol,
            first,
            last,
        });
    }
}

/// Ports that the same services of a list cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// One of the ports.
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// A bit for each service of the list.
    covered: Vec<u64>,
}

impl Behaviour {
    pub(crate) fn covers(&self, service: usize) -> bool {
        self.covered[service / 64] >> (service % 64) & 1 == 1
    }
}

/// The behaviours of the ports of `claim` under a list of services, each once. Among them may be
/// one that nothing covers.
pub(crate) fn behaviours(claim: &Service, services: &[&Service]) -> Vec<Behaviour> {
    let words = services.len().div_ceil(64).max(1);
    let mut found: BTreeMap<Vec<u64>, (Protocol, u16)> = BTreeMap::new();
    let mut events: Vec<(u32, usize)> = Vec::new();
    for range in claim.ranges() {
        let (first, end) = (u32::from(range.first), u32::from(range.last) + 1);
        events.clear();
        for (index, service) in services.iter().enumerate() {
            let ranges = service.ranges();
            let from = ranges.partition_point(|own| {
                (own.protocol, u32::from(own.last)) < (range.protocol, first)
            });
            for own in &ranges[from..] {
                if own.protocol != range.protocol || u32::from(own.first) >= end {
                    break;
                }
                // A service's ranges do not touch: each event turns its bit over.
                events.push((u32::from(own.first).max(first), index));
                events.push((u32::from(own.last) + 1, index));
            }
        }
        events.sort_unstable();
        let mut covered = vec![0_u64; words];
        let (mut at, mut next) = (first, 0);
        while at < end {
            while let Some((position, index)) = events.get(next).filter(|(from, _)| *from <= at) {
                debug_assert!(*position == at, "events are met in order");
                covered[index / 64] ^= 1 << (index % 64);
                next += 1;
            }
            if !found.contains_key(&covered) {
                let port = u16::try_from(at).unwrap_or(u16::MAX);
                found.insert(covered.clone(), (range.protocol, port));
            }
            at = events.get(next).map_or(end, |(position, _)| *position);
        }
    }
    let behaviour = |(covered, (protocol, port))| Behaviour {
        protocol,
        port,
        covered,
    };
    found.into_iter().map(behaviour).collect()
}

/// The IP part of a service and the part that names EtherTypes.
pub(crate) fn split(service: &Service) -> (Service, Service) {
    let (ether, ip) = service
        .ranges()
        .iter()
        .partition(|range| range.protocol == Protocol::Ether);
    (Service::new(ip), Service::new(ether))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        let items = text.split(", ").filter(|item| !item.is_empty());
        Service::new(items.map(|item| item.parse().expect("a range")).collect())
    }

    #[test]
    fn what_is_taken_out_is_gone_and_the_rest_stays() {
        let check = |one: &str, two: &str, expected: &str| {
            assert_eq!(minus(&service(one), &service(two)).to_string(), expected);
        };
        check(
            "tcp/1-100",
            "tcp/20-30, tcp/50",
            "tcp/1-19, tcp/31-49, tcp/51-100",
        );
        check("tcp/1-100", "udp/1-100", "tcp/1-100");
        check("tcp/20-30", "tcp/1-100", "");
        check("tcp/0-65535", "tcp/65535", "tcp/0-65534");
        check("tcp/22, udp/53", "tcp/22", "udp/53");
        check("tcp/10-20", "tcp/5-12, tcp/18-30", "tcp/13-17");
    }

    #[test]
    fn ports_in_the_same_services_are_one_behaviour() {
        let check = |claim: &str, services: &[&str], expected: &[&str]| {
            let services: Vec<Service> = services.iter().map(|text| service(text)).collect();
            let list: Vec<&Service> = services.iter().collect();
            let found = behaviours(&service(claim), &list);
            let mut found: Vec<String> = found
                .iter()
                .map(|one| {
                    let inside = (0..list.len()).filter(|index| one.covers(*index));
                    let inside: Vec<String> = inside.map(|index| index.to_string()).collect();
                    format!("{}/{} {}", one.protocol, one.port, inside.join(","))
                })
                .collect();
            found.sort();
            assert_eq!(found, expected);
        };
        check("tcp/1-100", &[], &["tcp/1 "]);
        check(
            "tcp/1-100, udp/7",
            &["tcp/10-20", "tcp/15-30", "tcp/90-300"],
            &["tcp/1 ", "tcp/10 0", "tcp/15 0,1", "tcp/21 1", "tcp/90 2"],
        );
        check(
            "tcp/15-16, udp/0-65535",
            &["tcp/10-20, udp/65535", "udp/0-65534"],
            &["tcp/15 0", "udp/0 1"],
        );
    }
}
