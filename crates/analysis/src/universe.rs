//! The ends that an analysis speaks of, in classes: guests with equal labels, as far as a selector
//! asks for them, and outside addresses in the same sets. A class is a node, a selector is a set of
//! nodes, and each selector is turned into its set once.

use crate::outside::{self, OutsideClass};
use crate::vocabulary::{Expr, Filed, Key, Vocabulary, WEAK};
use crate::{AnalysisError, Bits};
use ipnet::IpNet;
use lictor_policy::{ControlName, Estate, HOST_LABEL, Labels, Policy, Selector};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Classes of ends that one analysis takes.
pub const NODES_MAX: usize = 131_072;
/// Nodes that changes may add before everything is built anew.
const SPARE: usize = 64;

/// A guest, or a host's own device that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its first address, if it has one.
    pub address: Option<IpAddr>,
    /// The host that it runs on, by its place in the estate.
    pub host: Option<u32>,
    /// The hosts that it may run on; any if there are none.
    pub may_run_on: Vec<u32>,
    /// Which of its hosts enforce nothing.
    pub weak: Weak,
}

/// Hosts of a guest that lack the firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weak {
    /// The one that it runs on.
    pub now: bool,
    /// At least one that it may run on.
    pub some: bool,
    /// All that it may run on.
    pub every: bool,
}

impl Weak {
    fn of(member: &Member, weak_hosts: &[bool]) -> Self {
        let lacks = |host: &u32| weak_hosts.get(*host as usize).copied().unwrap_or_default();
        let now = member.host.as_ref().is_some_and(lacks);
        let any = weak_hosts.contains(&true);
        let (some, every) = if member.may_run_on.is_empty() {
            (any, any && !weak_hosts.contains(&false))
        } else {
            let hosts = || member.may_run_on.iter().chain(&member.host);
            (hosts().any(lacks), hosts().all(lacks))
        };
        Self { now, some, every }
    }
}

/// What a node stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// These members, by their places in [`Universe::members`]. Empty if all have left.
    Guests(Vec<u32>),
    /// Outside addresses; this is one of them.
    Outside(IpAddr),
}

/// The number of a selector that has been turned into its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(u32);

/// What a change of labels did to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relabelled {
    /// The node that the member has left.
    pub(crate) left: usize,
    /// The node that it is of now.
    pub(crate) joined: usize,
    /// Whether nobody was of that node before.
    pub(crate) fresh: bool,
}

/// All nodes, and the sets of all selectors that were asked for.
#[derive(Debug, Clone)]
pub struct Universe {
    members: Vec<Member>,
    hosts: Vec<String>,
    nodes: Vec<Kind>,
    of_member: Vec<usize>,
    keys: HashMap<Key, usize>,
    /// Nodes that all members have left, with the keys that they had.
    empty: Vec<(usize, Key)>,
    weak_hosts: Vec<bool>,
    outside: Vec<OutsideClass>,
    words: usize,
    vocabulary: Vocabulary,
    leaves: Leaves,
    selectors: Vec<(Expr, Bits)>,
    filed: Filed,
    interned: HashMap<Selector, SelectorId>,
}

/// The sets from which all others are made.
#[derive(Debug, Clone, Default)]
struct Leaves {
    all: Bits,
    guests: Bits,
    devices: Bits,
    outside: Bits,
    labels: HashMap<(u32, u32), Bits>,
    has: HashMap<u32, Bits>,
    sets: HashMap<String, Bits>,
}

impl Universe {
    /// The ends of an estate, as finely as these policies tell them apart.
    ///
    /// # Errors
    /// [`AnalysisError::Nodes`] if there are too many classes.
    pub fn of(policies: &[&Policy], estate: &Estate) -> Result<Self, AnalysisError> {
        let vocabulary = Vocabulary::of(policies);
        let members = members(estate);
        let addresses = addresses(estate);
        let mut sets: BTreeMap<&str, BTreeSet<IpNet>> = BTreeMap::new();
        for policy in policies {
            for name in &vocabulary.sets {
                let prefixes = policy.sets.get(name).into_iter().flatten();
                sets.entry(name).or_default().extend(prefixes);
            }
        }
        let outside = outside::classes(&sets, &addresses);
        let mut universe = Self {
            hosts: estate.hosts.iter().map(|host| host.name.clone()).collect(),
            nodes: Vec::new(),
            of_member: vec![0; members.len()],
            keys: HashMap::new(),
            empty: Vec::new(),
            weak_hosts: weak_hosts(estate),
            words: 0,
            leaves: Leaves::default(),
            selectors: Vec::new(),
            filed: Filed::default(),
            interned: HashMap::new(),
            members,
            outside,
            vocabulary,
        };
        universe.sort()?;
        Ok(universe)
    }

    /// Outside classes first, then guests in the order of their labels, so that the members of a
    /// selector lie close together.
    fn sort(&mut self) -> Result<(), AnalysisError> {
        let mut classes: BTreeMap<Key, Vec<u32>> = BTreeMap::new();
        for (place, member) in (0..).zip(&self.members) {
            let key = self.vocabulary.key(&member.labels, member.weak);
            classes.entry(key).or_default().push(place);
        }
        let found = self.outside.len() + classes.len();
        if found > NODES_MAX {
            let max = NODES_MAX;
            return Err(AnalysisError::Nodes { found, max });
        }
        self.words = (found + SPARE).div_ceil(64);
        let empty = Bits::empty(self.words);
        self.leaves = Leaves {
            all: empty.clone(),
            guests: empty.clone(),
            devices: empty.clone(),
            outside: empty,
            ..Leaves::default()
        };
        for class in self.outside.clone() {
            let node = self.nodes.len();
            self.nodes.push(Kind::Outside(class.example));
            self.leaves.all.insert(node);
            self.leaves.outside.insert(node);
            for name in class.sets {
                let words = self.words;
                let set = self.leaves.sets.entry(name);
                set.or_insert_with(|| Bits::empty(words)).insert(node);
            }
        }
        for (key, members) in classes {
            let node = self.nodes.len();
            for member in &members {
                self.of_member[*member as usize] = node;
            }
            self.nodes.push(Kind::Guests(members));
            self.enter(node, &key);
            self.keys.insert(key, node);
        }
        Ok(())
    }

    /// Writes a guest's node into the sets that its labels name.
    fn enter(&mut self, node: usize, key: &Key) {
        let host = self.vocabulary.labels.get(HOST_LABEL);
        let host = host.map_or(0, |(label, _)| *label);
        let device = key.iter().any(|(label, _)| *label == host);
        let leaves = &mut self.leaves;
        leaves.all.insert(node);
        let own = if device {
            &mut leaves.devices
        } else {
            &mut leaves.guests
        };
        own.insert(node);
        for (label, value) in key.iter().filter(|(label, _)| *label != WEAK) {
            let empty = || Bits::empty(self.words);
            let labels = leaves.labels.entry((*label, *value));
            labels.or_insert_with(empty).insert(node);
            leaves.has.entry(*label).or_insert_with(empty).insert(node);
        }
    }

    /// The set of a selector. It is made once; asking again is cheap.
    ///
    /// # Errors
    /// [`AnalysisError::Unknown`] if the selector asks for a label value or a set that none of the
    /// policies named when the universe was made: classes may not be fine enough for it.
    pub fn select(&mut self, selector: &Selector) -> Result<SelectorId, AnalysisError> {
        if let Some(known) = self.interned.get(selector) {
            return Ok(*known);
        }
        let unknown = || AnalysisError::Unknown(selector.to_string());
        let expr = self.vocabulary.look_up(selector).ok_or_else(unknown)?;
        let bits = self.evaluate(&expr);
        let number = u32::try_from(self.selectors.len()).unwrap_or(u32::MAX);
        let leaves = &self.leaves;
        self.filed.file((number, &expr), |label, value| {
            let bits = match value {
                Some(value) => leaves.labels.get(&(label, value)),
                None => leaves.has.get(&label),
            };
            bits.map_or(0, Bits::count)
        });
        self.selectors.push((expr, bits));
        let id = SelectorId(number);
        self.interned.insert(selector.clone(), id);
        Ok(id)
    }

    /// The nodes that a selector matches, if it was asked for before.
    #[must_use]
    pub fn known(&self, selector: &Selector) -> Option<&Bits> {
        self.interned.get(selector).map(|id| self.bits(*id))
    }

    /// The nodes that a selector matches.
    #[must_use]
    pub fn bits(&self, id: SelectorId) -> &Bits {
        &self.selectors[id.0 as usize].1
    }

    fn evaluate(&self, expr: &Expr) -> Bits {
        let leaves = &self.leaves;
        let found = match expr {
            Expr::All => Some(&leaves.all),
            Expr::Guests => Some(&leaves.guests),
            Expr::Devices => Some(&leaves.devices),
            Expr::Outside => Some(&leaves.outside),
            Expr::Nobody => None,
            Expr::Label(label, value) => leaves.labels.get(&(*label, *value)),
            Expr::Has(label) => leaves.has.get(label),
            Expr::Set(name) => leaves.sets.get(name),
            Expr::Not(inner) => {
                let mut bits = leaves.all.clone();
                bits.without(&self.evaluate(inner));
                return bits;
            }
            Expr::And(parts) => {
                let mut parts = parts.iter().map(|part| self.evaluate(part));
                let mut bits = parts.next().unwrap_or_else(|| leaves.all.clone());
                parts.for_each(|part| bits.and(&part));
                return bits;
            }
            Expr::Or(parts) => {
                let mut bits = Bits::empty(self.words);
                parts.iter().for_each(|part| bits.or(&self.evaluate(part)));
                return bits;
            }
        };
        found.cloned().unwrap_or_else(|| Bits::empty(self.words))
    }

    /// Gives a member other labels. `None` if there is no room for one more node.
    pub(crate) fn relabel(&mut self, member: usize, labels: Labels) -> Option<Relabelled> {
        let was = self.key(member);
        self.members[member].labels = labels;
        self.regroup(member, was)
    }

    /// Puts a member on another host.
    pub(crate) fn put(&mut self, member: usize, host: Option<u32>) -> Option<Relabelled> {
        let was = self.key(member);
        self.members[member].host = host;
        self.members[member].weak = Weak::of(&self.members[member], &self.weak_hosts);
        self.regroup(member, was)
    }

    fn key(&self, member: usize) -> Key {
        let member = &self.members[member];
        self.vocabulary.key(&member.labels, member.weak)
    }

    /// The selectors that match a node of guests.
    pub(crate) fn matching(&self, node: usize) -> Vec<SelectorId> {
        let Some(Kind::Guests(members)) = self.nodes.get(node) else {
            return Vec::new();
        };
        let Some(first) = members.first() else {
            return Vec::new();
        };
        let candidates = self.filed.candidates(&self.key(*first as usize));
        let ids = candidates.into_iter().map(SelectorId);
        ids.filter(|id| self.bits(*id).has(node)).collect()
    }

    /// The node of a key, which may be a new one, or one that all have left.
    fn seat(&mut self, key: &Key) -> Option<usize> {
        if let Some(known) = self.keys.get(key).copied() {
            self.empty.retain(|(node, _)| *node != known);
            return Some(known);
        }
        let node = if let Some((node, old)) = self.empty.pop() {
            self.keys.remove(&old);
            node
        } else if self.nodes.len() < self.words * 64 {
            self.nodes.push(Kind::Guests(Vec::new()));
            self.nodes.len() - 1
        } else {
            return None;
        };
        self.keys.insert(key.clone(), node);
        Some(node)
    }

    /// Sorts a member in again, after its labels or its host have changed.
    fn regroup(&mut self, member: usize, was: Key) -> Option<Relabelled> {
        let place = u32::try_from(member).ok()?;
        let key = self.key(member);
        let left = self.of_member[member];
        let joined = self.seat(&key)?;
        if left == joined {
            let fresh = false;
            return Some(Relabelled {
                left,
                joined,
                fresh,
            });
        }
        self.of_member[member] = joined;
        if let Kind::Guests(members) = &mut self.nodes[left] {
            members.retain(|known| *known != place);
        }
        let Kind::Guests(members) = &mut self.nodes[joined] else {
            return None;
        };
        members.push(place);
        let fresh = members.len() == 1;
        if fresh {
            self.enter(joined, &key);
            let device = self.leaves.devices.has(joined);
            // In no other selector's set: whoever was this node before was taken out of all.
            for number in self.filed.candidates(&key) {
                let (expr, bits) = &mut self.selectors[number as usize];
                bits.set(joined, expr.holds(&key, device));
            }
        }
        if matches!(&self.nodes[left], Kind::Guests(members) if members.is_empty()) {
            self.leave(left, &was);
            self.empty.push((left, was));
        }
        Some(Relabelled {
            left,
            joined,
            fresh,
        })
    }

    /// Takes a node that has no members any more out of the sets that its labels named.
    fn leave(&mut self, node: usize, key: &Key) {
        let leaves = &mut self.leaves;
        let one = [&mut leaves.all, &mut leaves.guests, &mut leaves.devices];
        one.into_iter().for_each(|bits| bits.remove(node));
        for (label, value) in key {
            let labels = leaves.labels.get_mut(&(*label, *value));
            let sets = labels.into_iter().chain(leaves.has.get_mut(label));
            sets.for_each(|bits| bits.remove(node));
        }
        for number in self.filed.candidates(key) {
            self.selectors[number as usize].1.remove(node);
        }
    }

    /// Words of every set.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words
    }

    /// Nodes, those that all members have left included.
    #[must_use]
    pub fn nodes(&self) -> &[Kind] {
        &self.nodes
    }

    /// Guests and devices.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The hosts' names, in the order of the estate.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The node of a member.
    #[must_use]
    pub fn node_of(&self, member: usize) -> usize {
        self.of_member[member]
    }

    /// The node of an address that no guest has.
    #[must_use]
    pub fn node_of_address(&self, address: IpAddr, policy: &Policy) -> Option<usize> {
        let named = self.vocabulary.sets.iter();
        let sets: BTreeSet<String> = named
            .filter(|name| {
                let set = policy.sets.get(*name).into_iter().flatten();
                set.into_iter().any(|prefix| prefix.contains(&address))
            })
            .cloned()
            .collect();
        self.outside.iter().position(|class| class.sets == sets)
    }

    /// The labels of a node of guests; those of its first member where they differ in what no
    /// selector asks for.
    #[must_use]
    pub fn labels(&self, node: usize) -> Option<&Labels> {
        match self.nodes.get(node)? {
            Kind::Guests(members) => {
                let first = members.first()?;
                Some(&self.members[*first as usize].labels)
            }
            Kind::Outside(_) => None,
        }
    }

    /// Every node that has members.
    #[must_use]
    pub fn all(&self) -> &Bits {
        &self.leaves.all
    }

    /// Every node of outside addresses.
    #[must_use]
    pub fn outside(&self) -> &Bits {
        &self.leaves.outside
    }

    /// Whether a node is more than one end: only then one of it can talk to another one.
    #[must_use]
    pub fn is_several(&self, node: usize) -> bool {
        match &self.nodes[node] {
            Kind::Guests(members) => members.len() > 1,
            Kind::Outside(_) => true,
        }
    }

    /// The nodes of guests for which something holds, asked of one member of each.
    #[must_use]
    pub fn guests_where(&self, holds: impl Fn(&Labels) -> bool) -> Bits {
        let mut bits = Bits::empty(self.words);
        for node in 0..self.nodes.len() {
            if self.labels(node).is_some_and(&holds) {
                bits.insert(node);
            }
        }
        bits
    }

    /// Bytes that the sets occupy.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let sets = self.selectors.iter().map(|(_, bits)| bits.bytes());
        let labels = self.leaves.labels.values().map(Bits::bytes);
        sets.chain(labels).sum()
    }
}

/// Hosts without the firewall.
pub(crate) fn weak_hosts(estate: &Estate) -> Vec<bool> {
    let lacks = |controls: &[String]| !controls.iter().any(|one| one == ControlName::FIREWALL);
    let hosts = estate.hosts.iter();
    hosts.map(|host| lacks(&host.controls)).collect()
}

fn members(estate: &Estate) -> Vec<Member> {
    let hosts: HashMap<&str, u32> = estate
        .hosts
        .iter()
        .zip(0..)
        .map(|(host, place)| (host.name.as_str(), place))
        .collect();
    let place = |name: &String| hosts.get(name.as_str()).copied();
    let guests = estate.guests.iter().map(|guest| Member {
        name: guest.name.clone(),
        labels: guest.labels.clone(),
        address: guest.addresses.first().copied(),
        host: guest.host.as_ref().and_then(place),
        may_run_on: guest.may_run_on.iter().filter_map(place).collect(),
        weak: Weak::default(),
    });
    let devices = estate.hosts.iter().filter(|host| host.bound);
    let devices = devices.map(|host| Member {
        name: host.name.clone(),
        labels: host.device_labels(),
        address: host.addresses.first().copied(),
        host: place(&host.name),
        may_run_on: place(&host.name).into_iter().collect(),
        weak: Weak::default(),
    });
    let mut members: Vec<Member> = guests.chain(devices).collect();
    let weak_hosts = weak_hosts(estate);
    for member in &mut members {
        member.weak = Weak::of(member, &weak_hosts);
    }
    members
}

/// Addresses that are no outside addresses. A device that is not bound is an address as any other.
fn addresses(estate: &Estate) -> BTreeSet<IpAddr> {
    let guests = estate.guests.iter().flat_map(|guest| &guest.addresses);
    let hosts = estate.hosts.iter().filter(|host| host.bound);
    guests
        .chain(hosts.flat_map(|host| &host.addresses))
        .copied()
        .collect()
}
