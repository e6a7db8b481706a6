//! What two lists of connections differ in: pairs of named ends, as an estate has them. Policies,
//! labels, addresses and guests may all have changed between the two.

use crate::diff::Effect;
use crate::ports::minus;
use lictor_policy::{Connection, Peer, Service};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Ports on which a pair may begin sessions by one list only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PairChange {
    /// By which list.
    pub effect: Effect,
    /// Who begins.
    pub from: Peer,
    /// Who is asked.
    pub to: Peer,
    /// On which ports.
    pub service: Service,
}

/// Compares two lists of connections. Outside addresses are compared one by one, however the two
/// lists cut them into runs.
#[must_use]
pub fn diff_pairs(old: &[Connection], new: &[Connection]) -> Vec<PairChange> {
    let cuts = cuts(old.iter().chain(new));
    let (before, after) = (refined(old, &cuts), refined(new, &cuts));
    let none = Service::new(Vec::new());
    let mut changes = Vec::new();
    for (effect, has, had) in [
        (Effect::Opens, &after, &before),
        (Effect::Closes, &before, &after),
    ] {
        for (pair, service) in has {
            let service = minus(service, had.get(pair).unwrap_or(&none));
            if !service.ranges().is_empty() {
                let (from, to) = pair.clone();
                changes.push(PairChange {
                    effect,
                    from,
                    to,
                    service,
                });
            }
        }
    }
    joined(changes)
}

type Pairs = BTreeMap<(Peer, Peer), Service>;

/// The first addresses of all runs, and those behind the last.
fn cuts<'a>(connections: impl Iterator<Item = &'a Connection>) -> BTreeSet<IpAddr> {
    let mut cuts = BTreeSet::new();
    for peer in connections.flat_map(|one| [&one.from, &one.to]) {
        if let Peer::Outside(first, last) = peer {
            cuts.insert(*first);
            cuts.extend(after(*last));
        }
    }
    cuts
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_add(1)
            .map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(address) => {
            let next = u128::from(address).checked_add(1);
            next.map(|next| IpAddr::V6(next.into()))
        }
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).saturating_sub(1).into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).saturating_sub(1).into()),
    }
}

fn refined(connections: &[Connection], cuts: &BTreeSet<IpAddr>) -> Pairs {
    let parts = |peer: &Peer| match peer {
        Peer::Guest(_) => vec![peer.clone()],
        Peer::Outside(first, last) => {
            let mut begins: Vec<IpAddr> = cuts.range(*first..=*last).copied().collect();
            begins.push(*first);
            begins.sort_unstable();
            begins.dedup();
            let ends = begins[1..].iter().map(|next| before(*next)).chain([*last]);
            begins
                .iter()
                .zip(ends)
                .map(|(first, last)| Peer::Outside(*first, last))
                .collect()
        }
    };
    let mut pairs = Pairs::new();
    for one in connections {
        let (from, to) = (parts(&one.from), parts(&one.to));
        for from in &from {
            for to in &to {
                let known = pairs.entry((from.clone(), to.clone()));
                let known = known.or_insert_with(|| Service::new(Vec::new()));
                let ranges = known.ranges().iter().chain(one.service.ranges());
                *known = Service::new(ranges.copied().collect());
            }
        }
    }
    pairs
}

/// Runs that touch and have the same ports are one again.
fn joined(mut changes: Vec<PairChange>) -> Vec<PairChange> {
    for outer in [Side::From, Side::To] {
        let key = |one: &PairChange| {
            let (inner, other) = outer.of(one);
            (
                one.effect,
                other.clone(),
                one.service.clone(),
                inner.clone(),
            )
        };
        changes.sort_by_cached_key(key);
        let mut whole: Vec<PairChange> = Vec::new();
        for one in changes {
            let alike = whole.last_mut().filter(|last| {
                let same = (last.effect, &last.service) == (one.effect, &one.service);
                same && outer.of(last).1 == outer.of(&one).1
            });
            let next = match (alike.map(|last| outer.of_mut(last)), outer.of(&one).0) {
                (Some(Peer::Outside(_, last)), Peer::Outside(first, end))
                    if after(*last) == Some(*first) =>
                {
                    *last = *end;
                    None
                }
                _ => Some(one),
            };
            whole.extend(next);
        }
        changes = whole;
    }
    changes.sort();
    changes
}

/// Which end of a pair.
#[derive(Debug, Clone, Copy)]
enum Side {
    From,
    To,
}

impl Side {
    /// This end, and the other one.
    fn of(self, one: &PairChange) -> (&Peer, &Peer) {
        match self {
            Self::From => (&one.from, &one.to),
            Self::To => (&one.to, &one.from),
        }
    }

    fn of_mut(self, one: &mut PairChange) -> &mut Peer {
        match self {
            Self::From => &mut one.from,
            Self::To => &mut one.to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Connection> {
        let peer = |text: &str| match text.split_once('-') {
            Some((first, last)) => {
                let [first, last] = [first, last].map(|one| one.parse().expect("an address"));
                Peer::Outside(first, last)
            }
            None => Peer::Guest(text.to_owned()),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let ranges = words[2..].iter().map(|one| one.parse().expect("a range"));
                Connection {
                    from: peer(words[0]),
                    to: peer(words[1]),
                    service: Service::new(ranges.collect()),
                }
            })
            .collect()
    }

    #[test]
    fn pairs_are_compared_port_by_port_and_address_by_address() {
        let check = |old: &str, new: &str, expected: &[&str]| {
            let found = diff_pairs(&list(old), &list(new));
            let told = found.iter().map(|one| {
                let effect = if one.effect == Effect::Opens {
                    '+'
                } else {
                    '-'
                };
                format!("{effect} {} {} {}", one.from, one.to, one.service)
            });
            assert_eq!(told.collect::<Vec<_>>(), expected, "{old}\n{new}");
        };
        check("a b tcp/1-9", "a b tcp/1-9", &[]);
        check(
            "a b tcp/1-9",
            "a b tcp/5-12",
            &["+ a b tcp/10-12", "- a b tcp/1-4"],
        );
        check("a b tcp/1", "b a tcp/1", &["+ b a tcp/1", "- a b tcp/1"]);
        // Other runs of the same addresses are no change.
        check(
            "10.0.0.0-10.0.0.9 a tcp/1",
            "10.0.0.0-10.0.0.4 a tcp/1\n10.0.0.5-10.0.0.9 a tcp/1",
            &[],
        );
        check(
            "10.0.0.0-10.0.0.9 a tcp/1",
            "10.0.0.3-10.0.0.5 a tcp/1-2",
            &[
                "+ 10.0.0.3-10.0.0.5 a tcp/2",
                "- 10.0.0.0-10.0.0.2 a tcp/1",
                "- 10.0.0.6-10.0.0.9 a tcp/1",
            ],
        );
        check(
            "",
            "a 10.0.0.0-10.0.0.4 tcp/1\na 10.0.0.5-10.0.0.9 tcp/1\na ::1-::2 tcp/1",
            &["+ a 10.0.0.0-10.0.0.9 tcp/1", "+ a ::1-::2 tcp/1"],
        );
        check(
            "0.0.0.0-255.255.255.255 a tcp/1",
            "255.255.255.255-255.255.255.255 a tcp/1",
            &["- 0.0.0.0-255.255.255.254 a tcp/1"],
        );
    }
}
