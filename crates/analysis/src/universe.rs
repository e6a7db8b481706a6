//! The ends that an analysis speaks of, in classes: guests with equal labels, as far as a selector
//! asks for them, and outside addresses in the same sets. A class is a node, a selector is a set of
//! nodes, and each selector is turned into its set once.

use crate::outside::{self, OutsideClass};
use crate::{AnalysisError, Bits};
use ipnet::IpNet;
use lictor_policy::{Estate, HOST_LABEL, Labels, Policy, Selector};
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
    /// The hosts that it may run on.
    pub may_run_on: Vec<u32>,
}

/// What a node stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// These members, by their places in [`Universe::members`]. Empty if all have left.
    Guests(Vec<u32>),
    /// Outside addresses; this is one of them.
    Outside(IpAddr),
}

/// The interned labels that selectors ask for: (label, value), sorted. 0 is every other value.
type Key = Vec<(u32, u32)>;

/// The number of a selector that has been turned into its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(u32);

/// What selectors ask for.
#[derive(Debug, Clone, Default)]
struct Vocabulary {
    labels: HashMap<String, (u32, HashMap<String, u32>)>,
    sets: BTreeSet<String>,
}

impl Vocabulary {
    fn of(policies: &[&Policy]) -> Self {
        let mut vocabulary = Self::default();
        vocabulary.label(HOST_LABEL, None);
        for policy in policies {
            for selector in selectors(policy) {
                vocabulary.add(selector);
            }
            // Whoever is in quarantine is told apart from who is not.
            for (name, label) in &policy.labels {
                if label.required || label.values.is_some() {
                    vocabulary.label(name, None);
                }
                for value in label.values.iter().flatten() {
                    vocabulary.label(name, Some(value));
                }
            }
        }
        vocabulary
    }

    fn label(&mut self, name: &str, value: Option<&str>) {
        let next = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        if !self.labels.contains_key(name) {
            self.labels.insert(name.to_owned(), (next, HashMap::new()));
        }
        if let (Some(value), Some((_, values))) = (value, self.labels.get_mut(name))
            && !values.contains_key(value)
        {
            let next = u32::try_from(values.len() + 1).unwrap_or(u32::MAX);
            values.insert(value.to_owned(), next);
        }
    }

    fn add(&mut self, selector: &Selector) {
        match selector {
            Selector::Label { name, value } => self.label(name, Some(value)),
            Selector::Has(name) => self.label(name, None),
            Selector::Set(name) => {
                if !self.sets.contains(name) {
                    self.sets.insert(name.clone());
                }
            }
            Selector::Not(inner) => self.add(inner),
            Selector::All(parts) | Selector::Either(parts) => {
                parts.iter().for_each(|part| self.add(part));
            }
            Selector::Any
            | Selector::Guests
            | Selector::Hosts
            | Selector::Outside
            | Selector::Computed(_) => {}
        }
    }

    /// Whether a selector asks for nothing that is not known.
    fn knows(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Label { name, value } => self.value(name, value).is_some(),
            Selector::Has(name) => self.labels.contains_key(name),
            Selector::Set(name) => self.sets.contains(name),
            Selector::Not(inner) => self.knows(inner),
            Selector::All(parts) | Selector::Either(parts) => {
                parts.iter().all(|part| self.knows(part))
            }
            _ => true,
        }
    }

    fn value(&self, name: &str, value: &str) -> Option<(u32, u32)> {
        let (label, values) = self.labels.get(name)?;
        Some((*label, *values.get(value)?))
    }

    fn key(&self, labels: &Labels) -> Key {
        let known = labels.iter().filter_map(|(name, value)| {
            let (label, values) = self.labels.get(name)?;
            Some((*label, values.get(value).copied().unwrap_or_default()))
        });
        let mut key: Key = known.collect();
        key.sort_unstable();
        key
    }
}

/// Every selector of a policy, intents included.
fn selectors(policy: &Policy) -> impl Iterator<Item = &Selector> {
    let rules = policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]);
    let scopes = policy.scopes.values().map(|scope| &scope.selector);
    let controls = policy.controls.iter().map(|one| &one.guests);
    let choices = policy.choices.iter().map(|one| &one.guests);
    let observed = policy.observed.iter().map(|one| &one.guests);
    let intents = policy.intents.iter().flat_map(|one| one.claim.selectors());
    rules
        .chain(scopes)
        .chain(controls)
        .chain(choices)
        .chain(observed)
        .chain(intents)
}

/// All nodes, and the sets of all selectors that were asked for.
#[derive(Debug, Clone)]
pub struct Universe {
    members: Vec<Member>,
    hosts: Vec<String>,
    nodes: Vec<Kind>,
    of_member: Vec<usize>,
    keys: HashMap<Key, usize>,
    outside: Vec<OutsideClass>,
    words: usize,
    vocabulary: Vocabulary,
    leaves: Leaves,
    selectors: Vec<(Selector, Bits)>,
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
            words: 0,
            leaves: Leaves::default(),
            selectors: Vec::new(),
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
            let key = self.vocabulary.key(&member.labels);
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
        for (label, value) in key {
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
        if !self.vocabulary.knows(selector) {
            return Err(AnalysisError::Unknown(selector.to_string()));
        }
        let bits = self.evaluate(selector);
        let id = SelectorId(u32::try_from(self.selectors.len()).unwrap_or(u32::MAX));
        self.selectors.push((selector.clone(), bits));
        self.interned.insert(selector.clone(), id);
        Ok(id)
    }

    /// The nodes that a selector matches.
    #[must_use]
    pub fn bits(&self, id: SelectorId) -> &Bits {
        &self.selectors[id.0 as usize].1
    }

    fn evaluate(&self, selector: &Selector) -> Bits {
        let leaves = &self.leaves;
        let found = match selector {
            Selector::Any => Some(&leaves.all),
            Selector::Guests => Some(&leaves.guests),
            Selector::Hosts => Some(&leaves.devices),
            Selector::Outside => Some(&leaves.outside),
            Selector::Label { name, value } => {
                let key = self.vocabulary.value(name, value);
                key.and_then(|key| leaves.labels.get(&key))
            }
            Selector::Has(name) => {
                let label = self.vocabulary.labels.get(name);
                label.and_then(|(label, _)| leaves.has.get(label))
            }
            Selector::Set(name) => leaves.sets.get(name),
            Selector::Computed(_) => None,
            Selector::Not(inner) => {
                let mut bits = leaves.all.clone();
                bits.without(&self.evaluate(inner));
                return bits;
            }
            Selector::All(parts) => {
                let mut bits = leaves.all.clone();
                parts.iter().for_each(|part| bits.and(&self.evaluate(part)));
                return bits;
            }
            Selector::Either(parts) => {
                let mut bits = Bits::empty(self.words);
                parts.iter().for_each(|part| bits.or(&self.evaluate(part)));
                return bits;
            }
        };
        found.cloned().unwrap_or_else(|| Bits::empty(self.words))
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
    });
    let devices = estate.hosts.iter().filter(|host| host.bound);
    let devices = devices.map(|host| Member {
        name: host.name.clone(),
        labels: host.device_labels(),
        address: host.addresses.first().copied(),
        host: place(&host.name),
        may_run_on: place(&host.name).into_iter().collect(),
    });
    guests.chain(devices).collect()
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
