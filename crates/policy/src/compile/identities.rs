//! Classes of guests and outside addresses with equal truth over the policy's selectors.

use super::CompileError;
use crate::{Identity, Labels, Policy, PrefixRow, Scope, Selector, model::number_of};
use ipnet::IpNet;
use lictor_types::{Digest, IdentityId};
use std::collections::{BTreeMap, BTreeSet};

/// The members' common properties.
#[derive(Debug)]
pub(super) struct Class<'a> {
    pub(super) id: IdentityId,
    pub(super) guest: bool,
    pub(super) quarantine: bool,
    pub(super) sensitive: bool,
    pub(super) label_sets: Vec<&'a Labels>,
    truth: BTreeSet<String>,
}

impl Class<'_> {
    /// Whether a selector of the policy holds for the members.
    pub(super) fn holds(&self, selector: &Selector) -> bool {
        self.truth.contains(&selector.to_string())
    }
}

/// All classes, the world included.
pub(super) struct Classes<'a> {
    pub(super) all: Vec<Class<'a>>,
    pub(super) prefixes: Vec<PrefixRow>,
}

impl<'a> Classes<'a> {
    /// Sorts label sets and prefixes into classes.
    pub(super) fn of(
        policy: &Policy,
        label_sets: &BTreeSet<&'a Labels>,
    ) -> Result<Self, CompileError> {
        let basis = basis(policy);
        let mut builder = Builder {
            basis: &basis,
            policy,
            classes: BTreeMap::new(),
        };
        let world = builder.class(None, &|_| false)?;
        for labels in label_sets {
            let id = builder.class(Some(labels), &|_| false)?;
            let class = builder
                .classes
                .get_mut(&id)
                .expect("made in the line above");
            class.label_sets.push(labels);
        }
        let prefixes = builder.prefixes(world)?;
        Ok(Self {
            all: builder.classes.into_values().collect(),
            prefixes,
        })
    }

    /// The classes of guests.
    pub(super) fn guests(&self) -> impl Iterator<Item = &Class<'a>> {
        self.all.iter().filter(|class| class.guest)
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
            selectors: class.truth.iter().cloned().collect(),
        };
        named.map(identity).collect()
    }
}

/// The selectors that tell guests apart, by text. Expired rules count: a date must not change ids.
fn basis(policy: &Policy) -> BTreeMap<String, &Selector> {
    let rules = policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]);
    let named = |scope: &&Scope| scope.sensitive || scope.computed.is_some();
    let scopes = policy.scopes.values().filter(named);
    let controls = policy
        .controls
        .iter()
        .map(|requirement| &requirement.guests);
    let choices = policy.choices.iter().map(|choice| &choice.guests);
    let observed = policy.observed.iter().map(|one| &one.guests);
    rules
        .chain(scopes.map(|scope| &scope.selector))
        .chain(controls)
        .chain(choices)
        .chain(observed)
        .map(|selector| (selector.to_string(), selector))
        .collect()
}

struct Builder<'p, 'a> {
    basis: &'p BTreeMap<String, &'p Selector>,
    policy: &'p Policy,
    classes: BTreeMap<IdentityId, Class<'a>>,
}

impl Builder<'_, '_> {
    /// The class of a guest, or of addresses about which only their sets are known.
    fn class(
        &mut self,
        guest: Option<&Labels>,
        in_set: &dyn Fn(&str) -> bool,
    ) -> Result<IdentityId, CompileError> {
        let matching = self
            .basis
            .iter()
            .filter(|(_, selector)| selector.holds(guest, in_set));
        let truth: BTreeSet<String> = matching.map(|(text, _)| text.clone()).collect();
        let quarantine = guest.is_some_and(|labels| self.policy.quarantines(labels));
        let mut sensitive = self.policy.scopes.values().filter(|scope| scope.sensitive);
        let class = Class {
            id: IdentityId::WORLD,
            guest: guest.is_some(),
            quarantine,
            sensitive: sensitive.any(|scope| scope.selector.holds(guest, in_set)),
            label_sets: Vec::new(),
            truth,
        };
        self.intern(class)
    }

    fn intern(&mut self, mut class: Class<'_>) -> Result<IdentityId, CompileError> {
        let same = |known: &Class<'_>| {
            (known.guest, known.quarantine, &known.truth)
                == (class.guest, class.quarantine, &class.truth)
        };
        // The first class made is the world: addresses without a set.
        if self.classes.get(&IdentityId::WORLD).is_none_or(same) {
            self.classes
                .entry(IdentityId::WORLD)
                .or_insert(owned(class));
            return Ok(IdentityId::WORLD);
        }
        class.id = id_of(&class);
        match self.classes.get(&class.id) {
            None => {
                let id = class.id;
                self.classes.insert(id, owned(class));
                Ok(id)
            }
            Some(known) if same(known) => Ok(class.id),
            Some(known) => {
                let text = |truth: &BTreeSet<String>| {
                    truth
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join("; ")
                };
                let (one, other) = (text(&known.truth), text(&class.truth));
                Err(CompileError::IdentityCollision {
                    one,
                    other,
                    number: class.id.0,
                })
            }
        }
    }

    /// Prefixes nest or are disjoint, so the sets of an address are those of its longest prefix and
    /// of all that contain that one: no prefix needs to be cut.
    fn prefixes(&mut self, world: IdentityId) -> Result<Vec<PrefixRow>, CompileError> {
        let mut sets: BTreeMap<IpNet, BTreeSet<&str>> = BTreeMap::new();
        let policy = self.policy;
        for (name, prefixes) in &policy.sets {
            for prefix in prefixes {
                sets.entry(*prefix).or_default().insert(name);
            }
        }
        let mut rows = Vec::new();
        let mut stack: Vec<(IpNet, BTreeSet<&str>, IdentityId)> = Vec::new();
        for (prefix, mut names) in sets {
            while stack
                .last()
                .is_some_and(|(outer, ..)| !outer.contains(&prefix))
            {
                stack.pop();
            }
            let outer = stack.last().map_or(world, |(_, _, identity)| *identity);
            if let Some((_, inherited, _)) = stack.last() {
                names.extend(inherited);
            }
            let identity = self.class(None, &|name| names.contains(name))?;
            if identity != outer {
                rows.push(PrefixRow { prefix, identity });
            }
            stack.push((prefix, names, identity));
        }
        rows.sort();
        Ok(rows)
    }
}

/// A class without label sets borrows nothing: they are added by the caller.
fn owned<'a>(class: Class<'_>) -> Class<'a> {
    let Class {
        id,
        guest,
        quarantine,
        sensitive,
        truth,
        ..
    } = class;
    Class {
        id,
        guest,
        quarantine,
        sensitive,
        truth,
        label_sets: Vec::new(),
    }
}

/// Only what holds is hashed: a new selector changes the numbers of those it matches, and no other.
fn id_of(class: &Class<'_>) -> IdentityId {
    let kind = if class.guest { "guest" } else { "address" };
    let mut text = format!("lictor identity v1\n{kind}\n");
    if class.quarantine {
        text.push_str("quarantine\n");
    }
    for selector in &class.truth {
        text.push_str(selector);
        text.push('\n');
    }
    IdentityId(number_of(&Digest::of(text.as_bytes())))
}
