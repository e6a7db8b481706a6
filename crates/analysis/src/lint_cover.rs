//! Whether rules cover another one, all of them together: each is taken off what is left, and only
//! those that overlap are looked at. Exact; where it would take too many steps, it says so.

use crate::lint_region::{Region, Space, TooMany};
use lictor_policy::{At, PortRange, Rule, Service};
use lictor_types::Protocol;
use std::ops::Range;

/// Steps for one rule: what needs more is undecided.
const STEPS_MAX: usize = 20_000;
/// The rules that overlap most are taken off first.
const FIRST: usize = 16;

/// Ends of a session at which a rule speaks.
const EGRESS: u8 = 1;
const INGRESS: u8 = 2;

/// What a rule matches: every combination of these.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flows {
    ends: u8,
    pub(crate) from: Region,
    pub(crate) to: Region,
    ports: Vec<(u32, u32)>,
}

/// The least and largest numbers that a part may have, for a quick look.
#[derive(Debug, Clone, Copy)]
struct Hull {
    from: (u32, u32),
    to: (u32, u32),
    ports: (u32, u32),
    ends: u8,
    /// Whether the numbers are all there is to know.
    whole: bool,
}

impl Hull {
    fn of(space: &Flows) -> Self {
        let all = (0, u32::MAX);
        let (from, to) = (space.from.single(), space.to.single());
        let ports = match (space.ports.first(), space.ports.last()) {
            (Some(first), Some(last)) => (first.0, last.1),
            _ => (1, 0),
        };
        Self {
            from: from.unwrap_or(all),
            to: to.unwrap_or(all),
            ports,
            ends: space.ends,
            whole: from.is_some() && to.is_some() && space.ports.len() == 1,
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.from.0 <= other.from.1
            && other.from.0 <= self.from.1
            && self.to.0 <= other.to.1
            && other.to.0 <= self.to.1
            && self.ports.0 <= other.ports.1
            && other.ports.0 <= self.ports.1
            && self.ends & other.ends != 0
    }
}

impl Hull {
    /// How much of it the other one covers at most, for comparisons only.
    fn share(&self, other: &Self) -> f64 {
        let addresses = |one: (u32, u32), two: (u32, u32)| {
            let first = one.0.max(two.0);
            let last = one.1.min(two.1);
            f64::from(last.saturating_sub(first)) + 1.0
        };
        let (first, last) = (
            self.ports.0.max(other.ports.0),
            self.ports.1.min(other.ports.1),
        );
        let ports = f64::from(last.saturating_sub(first)) + 1.0;
        addresses(self.from, other.from) * addresses(self.to, other.to) * ports
    }
}

impl Flows {
    pub(crate) fn of(space: &Space<'_>, rule: &Rule) -> Result<Self, TooMany> {
        Ok(Self {
            ends: match rule.at {
                At::Both => EGRESS | INGRESS,
                At::Egress => EGRESS,
                At::Ingress => INGRESS,
            },
            from: space.region(&rule.from)?,
            to: space.region(&rule.to)?,
            ports: ports(&rule.service),
        })
    }

    /// Nothing is matched.
    pub(crate) fn is_empty(&self) -> bool {
        self.from.is_empty() || self.to.is_empty() || self.ports.is_empty() || self.ends == 0
    }

    /// Ports that it has in all.
    pub(crate) fn breadth(&self) -> u64 {
        self.ports
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1)
            .sum()
    }

    /// The same at the end that begins, or at the one that is asked.
    pub(crate) fn at(&self, egress: bool) -> Self {
        Self {
            ends: if egress { EGRESS } else { INGRESS },
            ..self.clone()
        }
    }

    /// Whether it speaks at this end.
    pub(crate) fn speaks(&self, egress: bool) -> bool {
        self.ends & if egress { EGRESS } else { INGRESS } != 0
    }

    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.ends & other.ends != 0
            && runs_meet(&self.ports, &other.ports)
            && self.from.meets(&other.from)
            && self.to.meets(&other.to)
    }

    /// Only what guests begin.
    pub(crate) fn begun_by_guests(self) -> Self {
        let from = self.from.guests();
        Self { from, ..self }
    }

    /// Only what outside addresses begin.
    pub(crate) fn begun_outside(self) -> Self {
        let from = self.from.outside();
        Self { from, ..self }
    }

    /// Only what guests are asked for.
    pub(crate) fn asked_of_guests(self) -> Self {
        let to = self.to.guests();
        Self { to, ..self }
    }

    /// Only what outside addresses are asked for.
    pub(crate) fn asked_outside(self) -> Self {
        let to = self.to.outside();
        Self { to, ..self }
    }

    /// A session between outside addresses passes no guest, and no policy decides about it.
    pub(crate) fn past_a_guest(self) -> Option<Self> {
        Some(self.begun_by_guests()).filter(|part| !part.is_empty())
    }

    /// Of every end alike, and of IP only.
    pub(crate) fn both_ends_ip(self) -> Self {
        let ip = [(0, ((Protocol::Ether as u32) << 16) - 1)];
        Self {
            ends: EGRESS | INGRESS,
            ports: common(&self.ports, &ip),
            ..self
        }
    }

    /// What both match.
    pub(crate) fn and(&self, other: &Self) -> Result<Self, TooMany> {
        Ok(Self {
            ends: self.ends & other.ends,
            from: self.from.and(&other.from)?,
            to: self.to.and(&other.to)?,
            ports: common(&self.ports, &other.ports),
        })
    }

    /// Both as one, if they differ in one part only. They have nothing in common.
    pub(crate) fn join(&self, other: &Self) -> Option<Self> {
        let same = (
            self.from == other.from,
            self.to == other.to,
            self.ports == other.ports,
        );
        let joined = match same {
            (true, true, _) => {
                let mut ports = [self.ports.as_slice(), &other.ports].concat();
                ports.sort_unstable();
                Self {
                    ports,
                    ..self.clone()
                }
            }
            (true, false, true) => Self {
                to: self.to.plus(&other.to).ok()?,
                ..self.clone()
            },
            (false, true, true) => Self {
                from: self.from.plus(&other.from).ok()?,
                ..self.clone()
            },
            _ => return None,
        };
        Some(joined)
    }

    /// Whether a port is among its ports.
    pub(crate) fn has_port(&self, protocol: Protocol, port: u16) -> bool {
        let port = (protocol as u32) << 16 | u32::from(port);
        self.ports
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// The first port.
    pub(crate) fn port(&self) -> (Protocol, u16) {
        let first = self.ports.first().map_or(0, |(first, _)| *first);
        split(first)
    }

    /// Its ports as the language writes them.
    pub(crate) fn service(&self) -> Service {
        let ranges = self.ports.iter().flat_map(|(first, last)| {
            // A run may go on over several protocols.
            (first >> 16..=last >> 16).map(move |number| {
                let (from, to) = (number << 16, number << 16 | 0xffff);
                let ((protocol, first), (_, last)) =
                    (split(from.max(*first)), split(to.min(*last)));
                PortRange {
                    protocol,
                    first,
                    last,
                }
            })
        });
        Service::new(ranges.collect())
    }

    /// Disjoint parts that are in this one and not in the other.
    pub(crate) fn without(&self, other: &Self, out: &mut Vec<Self>) -> Result<(), TooMany> {
        let push = |part: Self, out: &mut Vec<Self>| {
            if !part.is_empty() {
                out.push(part);
            }
        };
        let mut rest = self.clone();
        let from = rest.from.without(&other.from)?;
        push(
            Self {
                from,
                ..rest.clone()
            },
            out,
        );
        rest.from = rest.from.and(&other.from)?;
        let to = rest.to.without(&other.to)?;
        push(Self { to, ..rest.clone() }, out);
        rest.to = rest.to.and(&other.to)?;
        let ports = minus(&rest.ports, &other.ports);
        push(
            Self {
                ports,
                ..rest.clone()
            },
            out,
        );
        rest.ports = common(&rest.ports, &other.ports);
        rest.ends &= !other.ends;
        push(rest, out);
        Ok(())
    }
}

/// Whether rules cover another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cover {
    /// They leave something.
    Open,
    /// They leave nothing; those that are needed, by their numbers.
    Covered(Vec<usize>),
    /// It took too many steps.
    Undecided,
}

/// All rules, ready to be compared.
pub(crate) struct Rules {
    spaces: Vec<Option<Flows>>,
    hulls: Vec<Hull>,
    columns: Columns,
}

/// The hulls' numbers, each kind in a list of its own: a processor compares many of them at once.
#[derive(Debug, Default)]
struct Columns {
    from: (Vec<u32>, Vec<u32>),
    to: (Vec<u32>, Vec<u32>),
    ports: (Vec<u32>, Vec<u32>),
}

/// Rules that are looked at together.
const CHUNK: usize = 64;

impl Columns {
    fn of(hulls: &[Hull]) -> Self {
        let column = |of: fn(&Hull) -> (u32, u32)| hulls.iter().map(of).unzip();
        Self {
            from: column(|hull| hull.from),
            to: column(|hull| hull.to),
            ports: column(|hull| hull.ports),
        }
    }

    /// Which of a few rules in a row may overlap: no branch, so that each takes a part of a
    /// nanosecond.
    fn near(&self, own: &Hull, first: usize, end: usize) -> [bool; CHUNK] {
        let mut near = [false; CHUNK];
        let (from, to, ports) = (&self.from, &self.to, &self.ports);
        let rows = from.0[first..end]
            .iter()
            .zip(&from.1[first..end])
            .zip(to.0[first..end].iter().zip(&to.1[first..end]))
            .zip(ports.0[first..end].iter().zip(&ports.1[first..end]));
        for (near, (((from0, from1), (to0, to1)), (port0, port1))) in near.iter_mut().zip(rows) {
            *near = (own.from.0 <= *from1)
                & (*from0 <= own.from.1)
                & (own.to.0 <= *to1)
                & (*to0 <= own.to.1)
                & (own.ports.0 <= *port1)
                & (*port0 <= own.ports.1);
        }
        near
    }
}

impl Rules {
    pub(crate) fn of(spaces: Vec<Option<Flows>>) -> Self {
        // What has no region of its own may match everything.
        let none = Hull {
            from: (0, u32::MAX),
            to: (0, u32::MAX),
            ports: (0, u32::MAX),
            ends: EGRESS | INGRESS,
            whole: false,
        };
        let hull = |space: &Option<Flows>| space.as_ref().map_or(none, Hull::of);
        let hulls: Vec<Hull> = spaces.iter().map(hull).collect();
        Self {
            columns: Columns::of(&hulls),
            hulls,
            spaces,
        }
    }

    pub(crate) fn space(&self, rule: usize) -> Option<&Flows> {
        self.spaces[rule].as_ref()
    }

    /// Those rules that overlap some flows, in order.
    pub(crate) fn near(&self, flows: &Flows) -> Vec<usize> {
        let own = Hull::of(flows);
        let all = 0..self.spaces.len();
        let near = all.step_by(CHUNK).flat_map(|first| {
            let last = self.spaces.len().min(first + CHUNK);
            let near = self.columns.near(&own, first, last);
            (first..last).filter(move |other| near[other - first])
        });
        // A rule whose region is not known may match, and says so when it is asked.
        let meets = |other: &usize| match &self.spaces[*other] {
            Some(other) => other.meets(flows),
            None => true,
        };
        near.filter(meets).collect()
    }

    /// Those of a run of rules that overlap another one, in their order. A rule without a region is
    /// left out: it covers nothing that is known.
    pub(crate) fn overlapping(
        &self,
        rule: usize,
        others: Range<usize>,
    ) -> impl Iterator<Item = usize> {
        let own = &self.hulls[rule];
        let space = self.spaces[rule].as_ref();
        let end = others.end;
        let near = others.step_by(CHUNK).flat_map(move |first| {
            let last = end.min(first + CHUNK);
            let near = self.columns.near(own, first, last);
            (first..last).filter(move |other| near[other - first])
        });
        near.filter(move |other| {
            let (hull, other) = (&self.hulls[*other], self.spaces[*other].as_ref());
            let pair = space.zip(other);
            let whole = own.whole && hull.whole && own.ends & hull.ends != 0;
            pair.is_some_and(|(one, two)| whole || one.meets(two))
        })
    }

    /// Whether some rules, all of which overlap it, cover another one.
    pub(crate) fn covers(&self, rule: usize, by: &[usize]) -> Cover {
        let Some(space) = &self.spaces[rule] else {
            return Cover::Undecided;
        };
        self.covers_space(space, by)
    }

    /// The same of a part of a rule.
    pub(crate) fn covers_space(&self, space: &Flows, by: &[usize]) -> Cover {
        if by.is_empty() {
            return Cover::Open;
        }
        let by = self.largest_first(space, by);
        let mut steps = 0;
        match self.open(space.clone(), &by, &mut steps) {
            Err(TooMany) => Cover::Undecided,
            Ok(true) => Cover::Open,
            Ok(false) => Cover::Covered(self.needed(space, &by)),
        }
    }

    fn largest_first(&self, space: &Flows, by: &[usize]) -> Vec<usize> {
        if by.len() == 1 {
            return by.to_vec();
        }
        let own = Hull::of(space);
        let share = |rule: &usize| own.share(&self.hulls[*rule]);
        let mut by: Vec<(f64, usize)> = by.iter().map(|rule| (share(rule), *rule)).collect();
        let order = |one: &(f64, usize), two: &(f64, usize)| {
            two.0.total_cmp(&one.0).then(one.1.cmp(&two.1))
        };
        if by.len() > FIRST {
            by.select_nth_unstable_by(FIRST, order);
            by[..FIRST].sort_unstable_by(order);
        } else {
            by.sort_unstable_by(order);
        }
        by.into_iter().map(|(_, rule)| rule).collect()
    }

    /// Whether anything is left of a part. The first piece that is left answers, so that a rule
    /// that is not covered takes few steps.
    fn open(&self, part: Flows, by: &[usize], steps: &mut usize) -> Result<bool, TooMany> {
        let mut stack = vec![(part, 0)];
        while let Some((part, first)) = stack.pop() {
            let hull = Hull::of(&part);
            let meets = |place: &usize| {
                let (rule, other) = (by[*place], &self.hulls[by[*place]]);
                hull.meets(other)
                    && ((hull.whole && other.whole)
                        || self.spaces[rule]
                            .as_ref()
                            .is_some_and(|other| part.meets(other)))
            };
            let Some(place) = (first..by.len()).find(meets) else {
                return Ok(true);
            };
            *steps += 1;
            if *steps > STEPS_MAX {
                return Err(TooMany);
            }
            if let Some(other) = &self.spaces[by[place]] {
                let mut left = Vec::new();
                part.without(other, &mut left)?;
                stack.extend(left.into_iter().map(|piece| (piece, place + 1)));
            }
        }
        Ok(false)
    }

    /// Of rules that cover a space those that are needed, in order: each is left out if the rest
    /// suffices.
    fn needed(&self, space: &Flows, by: &[usize]) -> Vec<usize> {
        let mut kept: Vec<usize> = Vec::new();
        // The fewest in front that suffice.
        for rule in by {
            kept.push(*rule);
            let mut steps = 0;
            if self.open(space.clone(), &kept, &mut steps) == Ok(false) {
                break;
            }
        }
        let mut place = 0;
        while place < kept.len() && kept.len() > 1 {
            let mut rest = kept.clone();
            rest.remove(place);
            let mut steps = 0;
            match self.open(space.clone(), &rest, &mut steps) {
                Ok(false) => kept = rest,
                _ => place += 1,
            }
        }
        kept.sort_unstable();
        kept
    }

    /// The rule that overlaps most, of some that do.
    pub(crate) fn largest(&self, rule: usize, by: &[usize]) -> Option<usize> {
        let space = self.spaces[rule].as_ref()?;
        self.largest_first(space, by).first().copied()
    }
}

/// The protocol and the port of a number.
fn split(number: u32) -> (Protocol, u16) {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|one| *one as u32 == number >> 16);
    let port = u16::try_from(number & 0xffff).unwrap_or(u16::MAX);
    (protocol.unwrap_or(Protocol::Other), port)
}

/// Ports on one line over all protocols.
fn ports(service: &Service) -> Vec<(u32, u32)> {
    let number = |range: &PortRange, port: u16| (range.protocol as u32) << 16 | u32::from(port);
    let ranges = service.ranges().iter();
    let mut runs: Vec<(u32, u32)> = ranges
        .map(|range| (number(range, range.first), number(range, range.last)))
        .collect();
    runs.sort_unstable();
    runs
}

fn runs_meet(one: &[(u32, u32)], two: &[(u32, u32)]) -> bool {
    one.iter()
        .any(|a| two.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
}

fn common(one: &[(u32, u32)], two: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let pairs = one
        .iter()
        .flat_map(|a| two.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(first, last)| first <= last).collect()
}

fn minus(one: &[(u32, u32)], two: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut left = one.to_vec();
    for (low, high) in two {
        let cut = |(first, last): (u32, u32)| {
            let before = low.checked_sub(1).map(|end| (first, last.min(end)));
            let after = high.checked_add(1).map(|begin| (first.max(begin), last));
            [before, after]
                .into_iter()
                .flatten()
                .filter(|(first, last)| first <= last)
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left
}
