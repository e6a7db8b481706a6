//! Classes after a change: ends that no changed selector matches stay where they are, and all
//! others are sorted into classes again.

use super::identities::{self, Ends, Entity, id_of, prefix_rows, prefixes, selectors};
use super::place;
use crate::{Compiled, Identity, Labels, Policy, Selector};
use lictor_types::IdentityId;
use std::collections::BTreeSet;

/// The selectors of a policy, in the order of their texts, each with how often it is named.
#[derive(Debug)]
pub(super) struct Basis(Vec<(Selector, usize)>);

/// Where selectors went.
#[derive(Debug)]
pub(super) struct Places {
    /// The new place of each old one that is still there.
    moved: Vec<Option<u32>>,
    /// The places of those that are new.
    added: Vec<u32>,
    /// Whether all are where they were.
    same: bool,
}

impl Places {
    pub(super) fn of_old(&self, old: u32) -> Option<u32> {
        self.moved.get(old as usize).copied().flatten()
    }
}

impl Basis {
    /// Of a policy, with what is outside of its guests.
    pub(super) fn of(policy: &Policy) -> (Self, Outside) {
        let basis = identities::Basis::of(policy);
        let mut uses = vec![0; basis.selectors.len()];
        for selector in selectors(policy) {
            uses[basis.place(selector) as usize] += 1;
        }
        let (combinations, entities) = prefixes(policy);
        let truth = Ends::of(&BTreeSet::new(), &combinations).truth(&basis);
        let owned = |names: &BTreeSet<&str>| names.iter().map(|name| (*name).to_owned()).collect();
        let sets = [BTreeSet::new()].into_iter();
        let sets = sets.chain(combinations.iter().map(owned)).collect();
        let outside = Outside {
            sets,
            truth,
            entities,
        };
        let selectors = basis.selectors.into_iter().cloned().zip(uses);
        (Self(selectors.collect()), outside)
    }

    /// Takes selectors out and puts others in. Nothing if one was never there.
    pub(super) fn edit(
        &mut self,
        texts: &mut Vec<String>,
        gone: &[Selector],
        come: &[Selector],
    ) -> Option<Places> {
        let was = texts.len();
        let mut old: Vec<Option<u32>> = (0..u32::try_from(was).ok()?).map(Some).collect();
        for selector in come {
            let text = selector.to_string();
            match texts.binary_search(&text) {
                Ok(at) => self.0[at].1 += 1,
                Err(at) => {
                    texts.insert(at, text);
                    self.0.insert(at, (selector.clone(), 1));
                    old.insert(at, None);
                }
            }
        }
        for selector in gone {
            let at = place(texts, &selector.to_string())? as usize;
            self.0[at].1 = self.0[at].1.checked_sub(1)?;
            if self.0[at].1 == 0 {
                texts.remove(at);
                self.0.remove(at);
                old.remove(at);
            }
        }
        let mut places = Places {
            moved: vec![None; was],
            added: Vec::new(),
            same: false,
        };
        for (new, old) in (0..).zip(old) {
            match old {
                Some(old) => places.moved[old as usize] = Some(new),
                None => places.added.push(new),
            }
        }
        places.same = places.added.is_empty() && places.moved.iter().all(Option::is_some);
        Some(places)
    }

    /// The selectors of these places that match an end.
    fn matching(
        &self,
        among: impl Iterator<Item = u32>,
        guest: Option<&Labels>,
        sets: &BTreeSet<String>,
    ) -> Vec<u32> {
        let holds = |place: &u32| {
            let (selector, _) = &self.0[*place as usize];
            selector.holds(guest, &|name| sets.contains(name))
        };
        among.filter(holds).collect()
    }
}

/// Addresses that no guest has, as combinations of sets; the first one is no set at all.
#[derive(Debug)]
pub(super) struct Outside {
    sets: Vec<BTreeSet<String>>,
    truth: Vec<Vec<u32>>,
    entities: Vec<Entity>,
}

/// A change of classes.
pub(super) struct Regroup<'a> {
    pub(super) policy: &'a Policy,
    pub(super) basis: &'a Basis,
    pub(super) places: &'a Places,
    pub(super) outside: &'a mut Outside,
}

impl Regroup<'_> {
    /// Sorts the ends that selectors match otherwise, and the label sets that are new, into
    /// classes. Nothing if two classes would get one number.
    pub(super) fn run(
        &mut self,
        compiled: &mut Compiled,
        (gone, come): &(BTreeSet<Labels>, BTreeSet<Labels>),
    ) -> Option<()> {
        let mut loose: Vec<(Labels, Vec<u32>)> = Vec::new();
        let mut kept = Vec::with_capacity(compiled.identities.len() + come.len());
        for mut identity in std::mem::take(&mut compiled.identities) {
            if !gone.is_empty() && !identity.labels.is_empty() {
                identity.labels.retain(|labels| !gone.contains(labels));
                if identity.labels.is_empty() {
                    continue;
                }
            }
            self.sort((identity, &mut kept), &mut loose);
        }
        let count = u32::try_from(compiled.selectors.len()).ok()?;
        let none = BTreeSet::new();
        loose.extend(come.iter().map(|labels| {
            let truth = self.basis.matching(0..count, Some(labels), &none);
            (labels.clone(), truth)
        }));
        compiled.identities = kept;
        let scopes = self.policy.scopes.values().filter(|scope| scope.sensitive);
        let sensitive: BTreeSet<u32> = scopes
            .filter_map(|scope| place(&compiled.selectors, &scope.selector.to_string()))
            .collect();
        self.outside(compiled, &sensitive)?;
        for (labels, truth) in loose {
            let quarantine = self.policy.quarantines(&labels);
            let end = (true, quarantine, Some(labels));
            intern(compiled, (end, truth), &sensitive)?;
        }
        Some(())
    }

    /// A class stays if no selector that was taken out or put in matches any of its ends.
    fn sort(
        &self,
        (mut identity, kept): (Identity, &mut Vec<Identity>),
        loose: &mut Vec<(Labels, Vec<u32>)>,
    ) {
        if self.places.same {
            kept.push(identity);
            return;
        }
        let truth = identity.selectors.iter();
        let truth: Vec<u32> = truth.filter_map(|old| self.places.of_old(*old)).collect();
        if identity.labels.is_empty() {
            // Made again below, if anything has changed for anything outside.
            identity.selectors = truth;
            kept.push(identity);
            return;
        }
        let none = BTreeSet::new();
        let more = |labels: &Labels| {
            let added = self.places.added.iter().copied();
            self.basis.matching(added, Some(labels), &none)
        };
        let more: Vec<Vec<u32>> = identity.labels.iter().map(more).collect();
        if truth.len() == identity.selectors.len() && more.iter().all(Vec::is_empty) {
            identity.selectors = truth;
            kept.push(identity);
            return;
        }
        for (labels, more) in identity.labels.into_iter().zip(more) {
            let mut own: Vec<u32> = truth.iter().copied().chain(more).collect();
            own.sort_unstable();
            loose.push((labels, own));
        }
    }

    fn outside(&mut self, compiled: &mut Compiled, sensitive: &BTreeSet<u32>) -> Option<()> {
        if self.places.same {
            return Some(());
        }
        let mut others = false;
        for (sets, truth) in self.outside.sets.iter().zip(&mut self.outside.truth) {
            let kept = truth.iter().filter_map(|old| self.places.of_old(*old));
            let added = self.places.added.iter().copied();
            let more = self.basis.matching(added, None, sets);
            let mut now: Vec<u32> = kept.collect();
            others |= now.len() != truth.len() || !more.is_empty();
            now.extend(more);
            now.sort_unstable();
            *truth = now;
        }
        compiled.world.clone_from(self.outside.truth.first()?);
        if !others {
            return Some(());
        }
        compiled.identities.retain(|one| !one.labels.is_empty());
        let mut numbers = Vec::with_capacity(self.outside.truth.len());
        let world = compiled.world.clone();
        for truth in &self.outside.truth {
            let id = match *truth == world {
                true => IdentityId::WORLD,
                false => intern(compiled, ((false, false, None), truth.clone()), sensitive)?,
            };
            numbers.push(id);
        }
        compiled.prefixes = prefix_rows(&self.outside.entities, |one| numbers[one]);
        Some(())
    }
}

/// Whether it is a guest, whether it is in quarantine, its labels.
type End = (bool, bool, Option<Labels>);

/// Puts an end into its class, which may be new. Nothing if another class has the number.
fn intern(
    compiled: &mut Compiled,
    ((guest, quarantine, labels), truth): (End, Vec<u32>),
    sensitive: &BTreeSet<u32>,
) -> Option<IdentityId> {
    let id = id_of((guest, quarantine), &truth, &compiled.selectors);
    let identities = &mut compiled.identities;
    match identities.binary_search_by_key(&id, |one| one.id) {
        Ok(at) => {
            let one = &mut identities[at];
            let same = (one.quarantine, !one.labels.is_empty()) == (quarantine, guest);
            if !same || one.selectors != truth {
                return None;
            }
            if let Some(labels) = labels
                && let Err(at) = one.labels.binary_search(&labels)
            {
                one.labels.insert(at, labels);
            }
        }
        Err(at) => {
            let identity = Identity {
                id,
                labels: labels.into_iter().collect(),
                quarantine,
                sensitive: truth.iter().any(|one| sensitive.contains(one)),
                selectors: truth,
            };
            identities.insert(at, identity);
        }
    }
    Some(id)
}
