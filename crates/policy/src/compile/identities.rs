//! Classes of guests and outside addresses with equal truth over the policy's selectors.
//!
//! Each selector is turned once into the set of all ends that it matches, as words of bits, and
//! each end then knows the selectors that match it: time follows the number of matches and not
//! that of ends times selectors.

use super::CompileError;
use crate::{HOST_LABEL, Identity, Labels, Policy, PrefixRow, Scope, Selector, model::number_of};
use ipnet::IpNet;
use lictor_types::{Digest, IdentityId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The members' common properties.
#[derive(Debug)]
pub(super) struct Class<'a> {
    pub(super) id: IdentityId,
    pub(super) guest: bool,
    pub(super) quarantine: bool,
    pub(super) sensitive: bool,
    pub(super) label_sets: Vec<&'a Labels>,
    /// The selectors that match, by their places, sorted.
    truth: Vec<u32>,
}

/// All classes by id, the world included and first.
pub(super) struct Classes<'a> {
    pub(super) all: Vec<Class<'a>>,
    pub(super) prefixes: Vec<PrefixRow>,
    pub(super) basis: Basis<'a>,
}

impl<'a> Classes<'a> {
    /// Sorts label sets and prefixes into classes.
    pub(super) fn of(
        policy: &'a Policy,
        label_sets: &BTreeSet<&'a Labels>,
    ) -> Result<Self, CompileError> {
        let basis = Basis::of(policy);
        let (combinations, entities) = prefixes(policy);
        let ends = Ends::of(label_sets, &combinations);
        let truth = ends.truth(&basis);
        let sensitive = sensitive(policy, &basis);
        let mut classes = Interned::default();
        let mut numbers: Vec<IdentityId> = Vec::with_capacity(truth.len());
        for (end, truth) in truth.into_iter().enumerate() {
            let labels = ends.guests.get(end.wrapping_sub(1)).copied();
            let class = Class {
                id: IdentityId::WORLD,
                guest: labels.is_some(),
                quarantine: labels.is_some_and(|labels| policy.quarantines(labels)),
                sensitive: truth.iter().any(|one| sensitive.contains(one)),
                label_sets: Vec::new(),
                truth,
            };
            let id = classes.intern(class, &basis)?;
            if let (Some(labels), Some(class)) = (labels, classes.by_id.get_mut(&id)) {
                class.label_sets.push(labels);
            }
            numbers.push(id);
        }
        let first = 1 + ends.guests.len();
        let number = |combination: usize| match combination {
            0 => IdentityId::WORLD,
            other => numbers[first + other - 1],
        };
        let prefixes = prefix_rows(&entities, number);
        Ok(Self {
            all: classes.by_id.into_values().collect(),
            prefixes,
            basis,
        })
    }

    /// The classes as the compiled policy lists them, sorted by id and without the world.
    pub(super) fn identities(&self) -> Vec<Identity> {
        let named = self
            .all
            .iter()
            .filter(|class| class.id != IdentityId::WORLD);
        let identity = |class: &Class<'_>| Identity {
            id: class.id,
            labels: class.label_sets.iter().copied().cloned().collect(),
            quarantine: class.quarantine,
            sensitive: class.sensitive,
            selectors: class.truth.clone(),
        };
        named.map(identity).collect()
    }

    /// The selectors that match the world.
    pub(super) fn world(&self) -> Vec<u32> {
        let world = self.all.first();
        world.map_or_else(Vec::new, |class| class.truth.clone())
    }
}

/// Every selector that tells ends apart, as often as it is named. Expired rules count: a date must
/// not change ids.
pub(super) fn selectors(policy: &Policy) -> impl Iterator<Item = &Selector> {
    let rules = policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]);
    let named = |scope: &&Scope| scope.sensitive || scope.computed.is_some();
    let scopes = policy.scopes.values().filter(named);
    let controls = policy.controls.iter().map(|one| &one.guests);
    let choices = policy.choices.iter().map(|choice| &choice.guests);
    let observed = policy.observed.iter().map(|one| &one.guests);
    rules
        .chain(scopes.map(|scope| &scope.selector))
        .chain(controls)
        .chain(choices)
        .chain(observed)
}

/// The selectors that tell ends apart, in the order of their texts.
pub(super) struct Basis<'p> {
    pub(super) texts: Vec<String>,
    pub(super) selectors: Vec<&'p Selector>,
    places: HashMap<&'p Selector, u32>,
}

impl<'p> Basis<'p> {
    pub(super) fn of(policy: &'p Policy) -> Self {
        let all = selectors(policy);
        let mut places: HashMap<&Selector, u32> = HashMap::new();
        let mut texts: BTreeMap<String, Vec<&Selector>> = BTreeMap::new();
        for selector in all {
            if places.insert(selector, 0).is_none() {
                texts
                    .entry(selector.to_string())
                    .or_default()
                    .push(selector);
            }
        }
        let mut basis = Self {
            texts: Vec::with_capacity(texts.len()),
            selectors: Vec::with_capacity(texts.len()),
            places,
        };
        for (place, (text, same)) in (0..).zip(texts) {
            basis.selectors.extend(same.first());
            basis.texts.push(text);
            // One text may be made of trees that nest otherwise: they mean the same.
            for selector in same {
                basis.places.insert(selector, place);
            }
        }
        basis
    }

    /// The place of a selector of the policy.
    pub(super) fn place(&self, selector: &Selector) -> u32 {
        let place = self.places.get(selector);
        *place.expect("every selector of the policy is in the basis")
    }
}

/// The places of the selectors whose members are sensitive.
fn sensitive(policy: &Policy, basis: &Basis<'_>) -> BTreeSet<u32> {
    let scopes = policy.scopes.values().filter(|scope| scope.sensitive);
    scopes.map(|scope| basis.place(&scope.selector)).collect()
}

/// Every end that is told apart: the world, the label sets, then the combinations of sets.
pub(super) struct Ends<'a> {
    guests: Vec<&'a Labels>,
    count: usize,
    labels: HashMap<&'a str, HashMap<&'a str, Vec<u32>>>,
    hosts: Vec<u32>,
    sets: HashMap<&'a str, Vec<u32>>,
}

type Words = Vec<u64>;

impl<'a> Ends<'a> {
    pub(super) fn of(
        label_sets: &BTreeSet<&'a Labels>,
        combinations: &[BTreeSet<&'a str>],
    ) -> Self {
        let guests: Vec<&Labels> = label_sets.iter().copied().collect();
        let mut ends = Self {
            count: 1 + guests.len() + combinations.len(),
            guests,
            labels: HashMap::new(),
            hosts: Vec::new(),
            sets: HashMap::new(),
        };
        for (end, labels) in (1..).zip(&ends.guests) {
            for (name, value) in *labels {
                let values = ends.labels.entry(name).or_default();
                values.entry(value).or_default().push(end);
            }
            if labels.contains_key(HOST_LABEL) {
                ends.hosts.push(end);
            }
        }
        let first = u32::try_from(1 + ends.guests.len()).unwrap_or(u32::MAX);
        for (end, names) in (first..).zip(combinations) {
            for name in names {
                ends.sets.entry(name).or_default().push(end);
            }
        }
        ends
    }

    /// For each end the selectors that match it.
    pub(super) fn truth(&self, basis: &Basis<'_>) -> Vec<Vec<u32>> {
        let mut truth = vec![Vec::new(); self.count];
        for (place, selector) in (0..).zip(&basis.selectors) {
            for (index, word) in self.evaluate(selector).into_iter().enumerate() {
                let mut rest = word;
                while rest != 0 {
                    truth[index * 64 + rest.trailing_zeros() as usize].push(place);
                    rest &= rest - 1;
                }
            }
        }
        truth
    }

    fn empty(&self) -> Words {
        vec![0; self.count.div_ceil(64)]
    }

    fn listed<'b>(&self, ends: impl IntoIterator<Item = &'b u32>) -> Words {
        let mut words = self.empty();
        for end in ends {
            words[*end as usize / 64] |= 1 << (end % 64);
        }
        words
    }

    /// The ends from one number up to another, which is not among them.
    fn between(&self, first: usize, end: usize) -> Words {
        let mut words = self.empty();
        (first..end).for_each(|end| words[end / 64] |= 1 << (end % 64));
        words
    }

    fn not(&self, mut words: Words) -> Words {
        let all = self.between(0, self.count);
        for (word, all) in words.iter_mut().zip(all) {
            *word = all & !*word;
        }
        words
    }

    fn evaluate(&self, selector: &Selector) -> Words {
        let guests = 1 + self.guests.len();
        let join = |parts: &[Selector], join: fn(&mut u64, u64)| {
            let mut parts = parts.iter().map(|part| self.evaluate(part));
            let first = parts.next();
            let joined = parts.fold(first, |words, part| {
                let mut words = words?;
                let pairs = words.iter_mut().zip(part);
                pairs.for_each(|(word, other)| join(word, other));
                Some(words)
            });
            joined.unwrap_or_else(|| self.empty())
        };
        match selector {
            Selector::Any => self.between(0, self.count),
            Selector::Guests => {
                let mut words = self.between(1, guests);
                for (word, host) in words.iter_mut().zip(self.listed(&self.hosts)) {
                    *word &= !host;
                }
                words
            }
            Selector::Hosts => self.listed(&self.hosts),
            Selector::Outside => self.not(self.between(1, guests)),
            Selector::Label { name, value } => {
                let values = self.labels.get(name.as_str());
                self.listed(
                    values
                        .and_then(|values| values.get(value.as_str()))
                        .into_iter()
                        .flatten(),
                )
            }
            Selector::Has(name) => {
                let values = self.labels.get(name.as_str()).into_iter().flatten();
                self.listed(values.flat_map(|(_, ends)| ends))
            }
            Selector::Set(name) => self.listed(self.sets.get(name.as_str()).into_iter().flatten()),
            Selector::Computed(_) => self.empty(),
            Selector::Not(inner) => self.not(self.evaluate(inner)),
            Selector::All(parts) if parts.is_empty() => self.between(0, self.count),
            Selector::All(parts) => join(parts, |word, other| *word &= other),
            Selector::Either(parts) => join(parts, |word, other| *word |= other),
        }
    }
}

/// A prefix with the combination of sets of its addresses, and of those around it.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) prefix: IpNet,
    pub(super) combination: usize,
    pub(super) outer: usize,
}

/// Prefixes nest or are disjoint, so the sets of an address are those of its longest prefix and of
/// all that contain that one: no prefix needs to be cut. Combination 0 is no set at all, the first
/// that is returned is combination 1.
pub(super) fn prefixes(policy: &Policy) -> (Vec<BTreeSet<&str>>, Vec<Entity>) {
    let mut sets: BTreeMap<IpNet, BTreeSet<&str>> = BTreeMap::new();
    for (name, prefixes) in &policy.sets {
        for prefix in prefixes {
            sets.entry(*prefix).or_default().insert(name);
        }
    }
    let mut known: HashMap<BTreeSet<&str>, usize> = HashMap::new();
    let mut combinations = Vec::new();
    let mut entities = Vec::new();
    let mut stack: Vec<(IpNet, BTreeSet<&str>, usize)> = Vec::new();
    for (prefix, mut names) in sets {
        while stack
            .last()
            .is_some_and(|(outer, ..)| !outer.contains(&prefix))
        {
            stack.pop();
        }
        let outer = stack.last().map_or(0, |(_, _, combination)| *combination);
        if let Some((_, inherited, _)) = stack.last() {
            names.extend(inherited);
        }
        let combination = *known.entry(names.clone()).or_insert_with(|| {
            combinations.push(names.clone());
            combinations.len()
        });
        entities.push(Entity {
            prefix,
            combination,
            outer,
        });
        stack.push((prefix, names, combination));
    }
    (combinations, entities)
}

/// The prefixes that say something else than the one around them, given each combination's class.
pub(super) fn prefix_rows(
    entities: &[Entity],
    number: impl Fn(usize) -> IdentityId,
) -> Vec<PrefixRow> {
    let told = entities
        .iter()
        .filter(|entity| number(entity.combination) != number(entity.outer));
    let row = |entity: &Entity| PrefixRow {
        prefix: entity.prefix,
        identity: number(entity.combination),
    };
    let mut prefixes: Vec<PrefixRow> = told.map(row).collect();
    prefixes.sort();
    prefixes
}

/// Classes by number, and their numbers by what is true of them.
#[derive(Default)]
struct Interned<'a> {
    by_id: BTreeMap<IdentityId, Class<'a>>,
    numbers: HashMap<(bool, bool, Vec<u32>), IdentityId>,
}

impl<'a> Interned<'a> {
    /// The first class is the world: addresses without a set.
    fn intern(
        &mut self,
        mut class: Class<'a>,
        basis: &Basis<'_>,
    ) -> Result<IdentityId, CompileError> {
        let key = (class.guest, class.quarantine, class.truth.clone());
        if let Some(known) = self.numbers.get(&key) {
            return Ok(*known);
        }
        if !self.by_id.is_empty() {
            class.id = id_of((class.guest, class.quarantine), &class.truth, &basis.texts);
        }
        let id = class.id;
        if let Some(known) = self.by_id.get(&id) {
            let (one, other) = (text(known, basis), text(&class, basis));
            let number = id.0;
            return Err(CompileError::IdentityCollision { one, other, number });
        }
        self.numbers.insert(key, id);
        self.by_id.insert(id, class);
        Ok(id)
    }
}

fn text(class: &Class<'_>, basis: &Basis<'_>) -> String {
    let names = class.truth.iter();
    let names: Vec<&str> = names
        .map(|place| basis.texts[*place as usize].as_str())
        .collect();
    names.join("; ")
}

/// Only what holds is hashed: a new selector changes the numbers of those it matches, and no other.
pub(super) fn id_of(
    (guest, quarantine): (bool, bool),
    truth: &[u32],
    texts: &[String],
) -> IdentityId {
    let kind = if guest { "guest" } else { "address" };
    let mut text = format!("lictor identity v1\n{kind}\n");
    if quarantine {
        text.push_str("quarantine\n");
    }
    for place in truth {
        text.push_str(&texts[*place as usize]);
        text.push('\n');
    }
    IdentityId(number_of(&Digest::of(text.as_bytes())))
}
