//! Every pair that a policy lets begin a session, with its ports. Computed from the tables, so that
//! what is listed is what is loaded.

use crate::{BrokenTables, Compiled, Date, Estate, PortRange, Service, Tables};
use ipnet::IpNet;
use lictor_types::{AtomId, Direction, IdentityId, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

/// Pairs that [`connectivity`] collects at most; [`Connections::each`] has no such limit.
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
    /// The compiled policy does not hold together.
    #[error(transparent)]
    Broken(#[from] BrokenTables),
    /// The list would be too long.
    #[error("more than {CONNECTIONS_MAX} pairs are allowed; take them one by one")]
    TooMany,
}

/// Collects every allowed pair of an estate on a day, sorted. Guests in quarantine are in none.
///
/// # Errors
/// [`ConnectivityError`] if a guest was not compiled in or there are too many pairs.
pub fn connectivity(
    compiled: &Compiled,
    estate: &Estate,
    date: Date,
) -> Result<Vec<Connection>, ConnectivityError> {
    let mut list = Vec::new();
    Connections::of(compiled, estate, date)?.each(|from, to, service| {
        if list.len() >= CONNECTIONS_MAX {
            return Err(ConnectivityError::TooMany);
        }
        list.push(Connection {
            from: from.clone(),
            to: to.clone(),
            service: service.clone(),
        });
        Ok(())
    })?;
    Ok(list)
}

/// The allowed pairs of an estate, one after the other: what is kept grows with the classes and
/// with the names of guests, not with the pairs, of which there may be millions.
pub struct Connections<'a> {
    open: Opened<'a>,
    runs: Vec<(IpAddr, IpAddr, IdentityId)>,
    /// Guests and bound hosts, by name.
    ends: Vec<(Peer, IdentityId)>,
}

impl<'a> Connections<'a> {
    /// Makes the tables of every class that the estate has.
    ///
    /// # Errors
    /// [`ConnectivityError`] if a guest was not compiled in, or the tables do not hold together.
    pub fn of(
        compiled: &'a Compiled,
        estate: &Estate,
        date: Date,
    ) -> Result<Self, ConnectivityError> {
        let tables = Tables::of(compiled)?;
        let known = tables.by_labels();
        let mut ends = Vec::new();
        for (name, labels) in estate.ends() {
            let unknown = || ConnectivityError::Unknown(name.to_owned());
            let id = known.get(&labels).copied().ok_or_else(unknown)?;
            ends.push((Peer::Guest(name.to_owned()), id));
        }
        ends.sort();
        let ids: BTreeSet<IdentityId> = ends.iter().map(|(_, id)| *id).collect();
        let open = Opened::of(&tables, date, ids.into_iter());
        let runs = runs(compiled);
        Ok(Self { open, runs, ends })
    }

    /// Calls `f` with every pair in order: by who begins, then by who is asked.
    ///
    /// # Errors
    /// The first error of `f`, which ends it.
    pub fn each<E>(
        &mut self,
        mut f: impl FnMut(&Peer, &Peer, &Service) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out: HashMap<IdentityId, Vec<Run>> = HashMap::new();
        for (from, id) in &self.ends {
            for (to, peer) in self.ends.iter().filter(|(to, _)| to != from) {
                let service = self.open.both(*id, *peer);
                if !service.ranges().is_empty() {
                    f(from, to, service)?;
                }
            }
            let runs = out
                .entry(*id)
                .or_insert_with(|| outside(&mut self.open, &self.runs, *id, Direction::Egress));
            for (first, last, service) in runs.iter() {
                f(from, &Peer::Outside(*first, *last), service)?;
            }
        }
        self.incoming(f)
    }

    /// What comes from outside: runs of each class, and for each run the guests of its classes.
    fn incoming<E>(
        &mut self,
        mut f: impl FnMut(&Peer, &Peer, &Service) -> Result<(), E>,
    ) -> Result<(), E> {
        let ids: BTreeSet<IdentityId> = self.ends.iter().map(|(_, id)| *id).collect();
        let mut found: BTreeMap<(IpAddr, IpAddr), HashMap<IdentityId, Service>> = BTreeMap::new();
        for id in ids {
            for (first, last, service) in
                outside(&mut self.open, &self.runs, id, Direction::Ingress)
            {
                found.entry((first, last)).or_default().insert(id, service);
            }
        }
        for ((first, last), services) in found {
            let from = Peer::Outside(first, last);
            for (to, id) in &self.ends {
                if let Some(service) = services.get(id) {
                    f(&from, to, service)?;
                }
            }
        }
        Ok(())
    }
}

/// A list of atoms, by its place. 0 is everything: the end is only observed.
type List = u32;

/// What each end lets pass toward, or from, each class. Lists that are alike are kept once.
struct Opened<'a> {
    compiled: &'a Compiled,
    lists: Vec<Vec<AtomId>>,
    of: HashMap<(IdentityId, Direction), Rc<[List]>>,
    places: HashMap<IdentityId, usize>,
    services: HashMap<(List, List), Service>,
}

impl<'a> Opened<'a> {
    fn of(tables: &Tables<'a>, date: Date, ids: impl Iterator<Item = IdentityId>) -> Self {
        let compiled = tables.compiled();
        let ended = compiled.ended_by(date);
        let mut lists = vec![Vec::new()];
        let mut known: HashMap<Vec<AtomId>, List> = HashMap::new();
        let mut of = HashMap::new();
        // Classes that differ in nothing that rules say share what they let pass.
        let mut shared: BTreeSet<Rc<[List]>> = BTreeSet::new();
        for id in ids {
            let observed = compiled.observed_on(id, date).is_some();
            for direction in [Direction::Egress, Direction::Ingress] {
                let open = tables.open(id, direction, &ended);
                let places: Vec<List> = open
                    .lists
                    .into_iter()
                    .map(|list| match observed {
                        true => 0,
                        false => *known.entry(list).or_insert_with_key(|list| {
                            lists.push(list.clone());
                            u32::try_from(lists.len() - 1).unwrap_or(u32::MAX)
                        }),
                    })
                    .collect();
                let peers: Rc<[List]> = open
                    .of
                    .iter()
                    .map(|group| places[*group as usize])
                    .collect();
                shared.insert(Rc::clone(&peers));
                let peers = shared.get(&peers).unwrap_or(&peers);
                of.insert((id, direction), Rc::clone(peers));
            }
        }
        let identities = compiled.identities.iter().map(|one| one.id);
        let places = [IdentityId::WORLD].into_iter().chain(identities).zip(0..);
        Self {
            compiled,
            lists,
            of,
            places: places.collect(),
            services: HashMap::new(),
        }
    }

    fn list(&self, local: IdentityId, peer: IdentityId, direction: Direction) -> List {
        let lists = &self.of[&(local, direction)];
        lists[self.places[&peer]]
    }

    /// What both ends let pass.
    fn both(&mut self, from: IdentityId, to: IdentityId) -> &Service {
        let egress = self.list(from, to, Direction::Egress);
        let ingress = self.list(to, from, Direction::Ingress);
        self.service((egress, ingress))
    }

    /// What one end lets pass.
    fn one(&mut self, local: IdentityId, peer: IdentityId, direction: Direction) -> &Service {
        let list = self.list(local, peer, direction);
        self.service((list, 0))
    }

    fn service(&mut self, (one, other): (List, List)) -> &Service {
        let (compiled, lists) = (self.compiled, &self.lists);
        self.services.entry((one, other)).or_insert_with(|| {
            if (one, other) == (0, 0) {
                return Service::any();
            }
            let holds = |list: List, atom: &AtomId| {
                list == 0 || lists[list as usize].binary_search(atom).is_ok()
            };
            let inside = compiled.atoms.iter().filter(|range| {
                let both = holds(one, &range.atom) && holds(other, &range.atom);
                both && range.protocol != Protocol::Ether
            });
            let range = |range: &lictor_types::AtomRange| PortRange {
                protocol: range.protocol,
                first: range.first,
                last: range.last,
            };
            Service::new(inside.map(range).collect())
        })
    }
}

/// Outside addresses from the first to the last, and what may pass.
type Run = (IpAddr, IpAddr, Service);

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
    open: &mut Opened<'_>,
    runs: &[(IpAddr, IpAddr, IdentityId)],
    local: IdentityId,
    direction: Direction,
) -> Vec<Run> {
    let mut known: HashMap<IdentityId, Service> = HashMap::new();
    let mut found: Vec<Run> = Vec::new();
    let mut joined = false;
    for (first, last, peer) in runs {
        let service = known
            .entry(*peer)
            .or_insert_with(|| open.one(local, *peer, direction).clone());
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
