//! Cuts the ports of every protocol at the ends of all ranges, and gives runs that the same
//! services cover the same atom, also across protocols.

use super::CompileError;
use crate::{PortRange, Service};
use lictor_types::{ATOMS_MAX, AtomId, AtomRange, Protocol};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Steps of the refinement below: a bound on time, far above what any real policy needs.
const STEPS_MAX: usize = 1 << 28;

/// The atoms, and which of them each service covers.
pub(super) struct Atoms {
    /// Runs of ports, sorted.
    pub(super) ranges: Vec<AtomRange>,
    covered: BTreeMap<Service, Vec<AtomId>>,
}

impl Atoms {
    /// The atoms that a service covers, sorted.
    pub(super) fn of(&self, service: &Service) -> &[AtomId] {
        self.covered.get(service).map_or(&[], Vec::as_slice)
    }
}

/// Cuts. Runs that no service covers get no atom.
pub(super) fn cut(services: &[&Service]) -> Result<Atoms, CompileError> {
    let distinct: BTreeSet<&Service> = services.iter().copied().collect();
    let runs = runs(&distinct);
    let classes = refine(&distinct, &runs)?;
    let numbers = numbers(&classes)?;
    let mut ranges: Vec<AtomRange> = Vec::new();
    for (run, class) in runs.iter().zip(&classes) {
        let Some(atom) = numbers.get(class).copied() else {
            continue;
        };
        match ranges.last_mut() {
            Some(last)
                if last.protocol == run.protocol
                    && last.atom == atom
                    && u32::from(last.last) + 1 == u32::from(run.first) =>
            {
                last.last = run.last;
            }
            _ => {
                let (protocol, first, last) = (run.protocol, run.first, run.last);
                ranges.push(AtomRange {
                    protocol,
                    first,
                    last,
                    atom,
                });
            }
        }
    }
    let covered = distinct.into_iter().map(|service| {
        let atoms: BTreeSet<AtomId> = covering(service, &runs)
            .filter_map(|index| numbers.get(&classes[index]).copied())
            .collect();
        (service.clone(), atoms.into_iter().collect())
    });
    Ok(Atoms {
        covered: covered.collect(),
        ranges,
    })
}

/// Every protocol's whole range, cut at both ends of every service's ranges.
fn runs(services: &BTreeSet<&Service>) -> Vec<PortRange> {
    let mut starts: BTreeMap<Protocol, BTreeSet<u32>> = Protocol::ALL
        .into_iter()
        .map(|protocol| (protocol, BTreeSet::from([0])))
        .collect();
    for range in services.iter().flat_map(|service| service.ranges()) {
        let cuts = starts.entry(range.protocol).or_default();
        cuts.insert(u32::from(range.first));
        cuts.insert(u32::from(range.last) + 1);
    }
    let mut runs = Vec::new();
    for (protocol, starts) in starts {
        let end = u32::from(protocol.port_max()) + 1;
        let starts: Vec<u32> = starts.into_iter().filter(|start| *start < end).collect();
        for (index, first) in starts.iter().enumerate() {
            let last = starts.get(index + 1).unwrap_or(&end) - 1;
            let port = |number: u32| u16::try_from(number).expect("below port_max + 1");
            runs.push(PortRange {
                protocol,
                first: port(*first),
                last: port(last),
            });
        }
    }
    runs
}

/// The indices of the runs that a service covers.
fn covering<'a>(service: &'a Service, runs: &'a [PortRange]) -> impl Iterator<Item = usize> + 'a {
    service.ranges().iter().flat_map(|range| {
        let key = |run: &PortRange| (run.protocol, run.first);
        let first = runs.partition_point(|run| key(run) < (range.protocol, range.first));
        let last = runs.partition_point(|run| key(run) <= (range.protocol, range.last));
        first..last
    })
}

/// Partition refinement: each service splits every class that it covers in part. Class 0 is what
/// nothing covers. Unlike a hash of the covering services this cannot collide.
fn refine(services: &BTreeSet<&Service>, runs: &[PortRange]) -> Result<Vec<u32>, CompileError> {
    let mut classes = vec![0_u32; runs.len()];
    let mut next = 1;
    let mut steps = 0;
    for service in services {
        let mut split: HashMap<u32, u32> = HashMap::new();
        for index in covering(service, runs) {
            steps += 1;
            let class = split.entry(classes[index]).or_insert_with(|| {
                next += 1;
                next - 1
            });
            classes[index] = *class;
        }
        if steps > STEPS_MAX {
            return Err(CompileError::Atoms {
                found: runs.len(),
                max: ATOMS_MAX as usize,
            });
        }
    }
    Ok(classes)
}

/// Numbers from 1, in the order of the first run of each class.
fn numbers(classes: &[u32]) -> Result<HashMap<u32, AtomId>, CompileError> {
    let mut numbers = HashMap::new();
    for class in classes.iter().filter(|class| **class != 0) {
        let found = numbers.len() + 1;
        if !numbers.contains_key(class) {
            let number = u16::try_from(found).ok();
            let number = number.filter(|number| u32::from(*number) <= ATOMS_MAX);
            let error = CompileError::Atoms {
                found,
                max: ATOMS_MAX as usize,
            };
            numbers.insert(*class, AtomId(number.ok_or(error)?));
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(services: &[&[(Protocol, u16, u16)]], expected: &str) {
        let services: Vec<Service> = services
            .iter()
            .map(|ranges| {
                let range = |&(protocol, first, last)| PortRange {
                    protocol,
                    first,
                    last,
                };
                Service::new(ranges.iter().map(range).collect())
            })
            .collect();
        let atoms = cut(&services.iter().collect::<Vec<_>>()).expect("few atoms");
        let text: Vec<String> = atoms
            .ranges
            .iter()
            .map(|range| {
                let AtomRange {
                    protocol,
                    first,
                    last,
                    atom,
                } = range;
                format!("{protocol} {first}-{last}={}", atom.0)
            })
            .collect();
        assert_eq!(text.join(", "), expected);
    }

    #[test]
    fn ranges_are_cut_where_services_overlap_and_merged_where_they_agree() {
        use Protocol::{Tcp, Udp};
        check(&[], "");
        check(&[&[(Tcp, 22, 22)]], "tcp 22-22=1");
        check(
            &[&[(Tcp, 53, 53), (Udp, 53, 53)]],
            "tcp 53-53=1, udp 53-53=1",
        );
        check(
            &[&[(Tcp, 10, 20)], &[(Tcp, 15, 30)]],
            "tcp 10-14=1, tcp 15-20=2, tcp 21-30=3",
        );
        check(
            &[&[(Tcp, 0, 65_535)], &[(Tcp, 65_535, 65_535)]],
            "tcp 0-65534=1, tcp 65535-65535=2",
        );
        check(&[&[(Tcp, 0, 0)], &[(Tcp, 1, 1)]], "tcp 0-0=1, tcp 1-1=2");
    }

    #[test]
    fn the_last_atom_fits_and_one_more_is_refused() {
        let single = |protocol, port| {
            Service::new(vec![PortRange {
                protocol,
                first: port,
                last: port,
            }])
        };
        let mut services: Vec<Service> = (0..u16::MAX - 1)
            .map(|port| single(Protocol::Tcp, port))
            .collect();
        let refs = |services: &[Service]| cut(&services.iter().collect::<Vec<_>>()).map(|_| ());
        assert_eq!(refs(&services), Ok(()));
        services.push(single(Protocol::Udp, 7));
        assert_eq!(
            refs(&services),
            Err(CompileError::Atoms {
                found: 65_535,
                max: 65_534
            })
        );
    }
}
