//! Every pair that a policy lets begin a session, with its ports. Computed from the tables, so that
//! what is listed is what is loaded.

use crate::{Compiled, Date, Estate, PortRange, Service};
use ipnet::IpNet;
use lictor_types::{AtomId, Decision, Direction, IdentityId, Protocol, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Pairs that are listed at most.
pub const CONNECTIONS_MAX: usize = 4_194_304;

/// One end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// A guest, or a host's own device, by name.
    Guest(String),
    /// Addresses that no guest has, from the first to the last.
    Outside(IpAddr, IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(name) => f.pad(name),
            Self::Outside(first, last) => f.pad(&format!("{first}-{last}")),
        }
    }
}

/// A pair and what may pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Connection {
    /// Who begins.
    pub from: Peer,
    /// Who is asked.
    pub to: Peer,
    /// On which ports; IP only.
    pub service: Service,
}

/// Why there is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectivityError {
    /// A guest of the estate was not compiled in.
    #[error("guest {0} has labels that the policy was not compiled for")]
    Unknown(String),
    /// The list would be too long.
    #[error("more than {CONNECTIONS_MAX} pairs are allowed; list a part of the estate")]
    TooMany,
}

/// What one end lets pass toward, or from, a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Open {
    Atoms(BTreeSet<AtomId>),
    /// In observe mode.
    All,
}

/// Lists every allowed pair of an estate on a day, sorted. Guests in quarantine are in none.
///
/// # Errors
/// [`ConnectivityError`] if a guest was not compiled in or there are too many pairs.
pub fn connectivity(
    compiled: &Compiled,
    estate: &Estate,
    date: Date,
) -> Result<Vec<Connection>, ConnectivityError> {
    let tables = Tables::of(compiled, date);
    let mut ends: BTreeMap<IdentityId, Vec<&str>> = BTreeMap::new();
    for (name, labels) in estate.ends() {
        let unknown = || ConnectivityError::Unknown(name.to_owned());
        let id = compiled.identity_of(&labels).ok_or_else(unknown)?;
        ends.entry(id).or_default().push(name);
    }
    let runs = runs(compiled);
    let mut list = Vec::new();
    for (id, names) in &ends {
        for (peer, others) in &ends {
            let service = tables.both(*id, *peer);
            if service.ranges().is_empty() {
                continue;
            }
            let pairs = names
                .iter()
                .flat_map(|from| others.iter().map(move |to| (from, to)));
            for (from, to) in pairs {
                if from != to {
                    let (from, to) = (Peer::Guest((*from).into()), Peer::Guest((*to).into()));
                    push(&mut list, from, to, &service)?;
                }
            }
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            for (first, last, service) in outside(&tables, &runs, *id, direction) {
                for name in names {
                    let own = Peer::Guest((*name).into());
                    let out = Peer::Outside(first, last);
                    match direction {
                        Direction::Egress => push(&mut list, own, out, &service)?,
                        Direction::Ingress => push(&mut list, out, own, &service)?,
                    }
                }
            }
        }
    }
    list.sort();
    Ok(list)
}

fn push(
    list: &mut Vec<Connection>,
    from: Peer,
    to: Peer,
    service: &Service,
) -> Result<(), ConnectivityError> {
    if list.len() >= CONNECTIONS_MAX {
        return Err(ConnectivityError::TooMany);
    }
    let service = service.clone();
    list.push(Connection { from, to, service });
    Ok(())
}

struct Tables<'a> {
    compiled: &'a Compiled,
    rows: HashMap<(IdentityId, IdentityId, Direction), BTreeSet<AtomId>>,
    observed: BTreeSet<IdentityId>,
}

impl<'a> Tables<'a> {
    fn of(compiled: &'a Compiled, date: Date) -> Self {
        let ended = compiled.ended_by(date);
        let mut rows: HashMap<_, BTreeSet<AtomId>> = HashMap::new();
        let live = |row: &&Decision| row.verdict == Verdict::Allow && !ended.contains(&row.rule);
        for row in compiled.decisions.iter().filter(live) {
            let key = (row.local, row.peer, row.direction);
            rows.entry(key).or_default().insert(row.atom);
        }
        let ids = compiled.identities.iter().map(|one| one.id);
        let observed = ids
            .filter(|id| compiled.observed_on(*id, date).is_some())
            .collect();
        Self {
            compiled,
            rows,
            observed,
        }
    }

    fn open(&self, local: IdentityId, peer: IdentityId, direction: Direction) -> Open {
        if self.observed.contains(&local) {
            return Open::All;
        }
        Open::Atoms(
            self.rows
                .get(&(local, peer, direction))
                .cloned()
                .unwrap_or_default(),
        )
    }

    /// What both ends let pass.
    fn both(&self, from: IdentityId, to: IdentityId) -> Service {
        let egress = self.open(from, to, Direction::Egress);
        let ingress = self.open(to, from, Direction::Ingress);
        self.service(&match (egress, ingress) {
            (Open::Atoms(one), Open::Atoms(other)) => {
                Open::Atoms(one.intersection(&other).copied().collect())
            }
            (Open::All, other) | (other, Open::All) => other,
        })
    }

    fn service(&self, open: &Open) -> Service {
        let Open::Atoms(atoms) = open else {
            return Service::any();
        };
        let inside = self
            .compiled
            .atoms
            .iter()
            .filter(|range| range.protocol != Protocol::Ether && atoms.contains(&range.atom));
        let range = |range: &lictor_types::AtomRange| PortRange {
            protocol: range.protocol,
            first: range.first,
            last: range.last,
        };
        Service::new(inside.map(range).collect())
    }
}

/// Outside addresses in runs of one class, both families, in order.
fn runs(compiled: &Compiled) -> Vec<(IpAddr, IpAddr, IdentityId)> {
    let mut runs = Vec::new();
    for v4 in [true, false] {
        let family = compiled
            .prefixes
            .iter()
            .filter(|row| row.prefix.addr().is_ipv4() == v4);
        let mut rows: Vec<(IpNet, IdentityId)> =
            family.map(|row| (row.prefix, row.identity)).collect();
        rows.sort_by_key(|(prefix, _)| (bits(prefix.network()), prefix.prefix_len()));
        let end = if v4 { u128::from(u32::MAX) } else { u128::MAX };
        // Prefixes nest or are disjoint: a stack of those that are open.
        let mut open: Vec<(u128, IdentityId)> = vec![(end, IdentityId::WORLD)];
        let mut next = Some(0_u128);
        let mut family = Vec::new();
        for (prefix, identity) in rows {
            let (first, last) = (bits(prefix.network()), bits(prefix.broadcast()));
            close(&mut open, &mut next, first.checked_sub(1), &mut family);
            open.push((last, identity));
        }
        close(&mut open, &mut next, Some(end), &mut family);
        let address = |bits| address(bits, v4);
        let family = family.into_iter();
        runs.extend(family.map(|(first, last, id)| (address(first), address(last), id)));
    }
    runs
}

/// Emits runs from `next` up to `until`, and closes what ends there.
fn close(
    open: &mut Vec<(u128, IdentityId)>,
    next: &mut Option<u128>,
    until: Option<u128>,
    runs: &mut Vec<(u128, u128, IdentityId)>,
) {
    let Some(until) = until else {
        return;
    };
    while let (Some(first), Some((last, identity))) = (*next, open.last().copied()) {
        if first > until {
            return;
        }
        let end = last.min(until);
        if first <= end {
            runs.push((first, end, identity));
            *next = end.checked_add(1);
        }
        if last > until {
            return;
        }
        open.pop();
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if v4 => IpAddr::V4(Ipv4Addr::from(bits)),
        _ => IpAddr::V6(Ipv6Addr::from(bits)),
    }
}

/// Runs of outside addresses with the same ports, as long as they can be, without those with none.
fn outside(
    tables: &Tables<'_>,
    runs: &[(IpAddr, IpAddr, IdentityId)],
    local: IdentityId,
    direction: Direction,
) -> Vec<(IpAddr, IpAddr, Service)> {
    let mut known: HashMap<IdentityId, Service> = HashMap::new();
    let mut found: Vec<(IpAddr, IpAddr, Service)> = Vec::new();
    let mut joined = false;
    for (first, last, peer) in runs {
        let service = known
            .entry(*peer)
            .or_insert_with(|| tables.service(&tables.open(local, *peer, direction)));
        if service.ranges().is_empty() {
            joined = false;
            continue;
        }
        match found.last_mut() {
            Some((begin, end, same))
                if joined && same == service && begin.is_ipv4() == first.is_ipv4() =>
            {
                *end = *last;
            }
            _ => found.push((*first, *last, service.clone())),
        }
        joined = true;
    }
    found
}
