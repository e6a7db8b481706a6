//! What differs between two compiled policies: what a person reads before the new one is signed,
//! and what a host has to change.

use crate::{Compiled, RuleInfo, Tables};
use lictor_types::{Decision, IdentityId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The difference, each list sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// Rules that are new, by name.
    pub rules_added: Vec<String>,
    /// Rules that are gone.
    pub rules_removed: Vec<String>,
    /// Rules of the same name that say something else.
    pub rules_changed: Vec<String>,
    /// Classes that are new.
    pub identities_added: Vec<IdentityId>,
    /// Classes that are gone.
    pub identities_removed: Vec<IdentityId>,
    /// Whether the ports are cut otherwise: then atoms have other numbers, and every row is new.
    pub atoms_changed: bool,
}

impl Delta {
    /// From an older policy to a newer one.
    #[must_use]
    pub fn of(old: &Compiled, new: &Compiled) -> Self {
        let (before, after) = (by_name(old), by_name(new));
        let missing = |one: &BTreeMap<&str, &RuleInfo>, other: &BTreeMap<&str, &RuleInfo>| {
            let names = one.keys().filter(|name| !other.contains_key(*name));
            names.map(|name| (*name).to_owned()).collect()
        };
        let changed = before.iter().filter(|(name, rule)| {
            let other = after.get(*name);
            other.is_some_and(|other| !rule.means_the_same(other))
        });
        let ids = |compiled: &Compiled| -> BTreeSet<IdentityId> {
            compiled.identities.iter().map(|one| one.id).collect()
        };
        let (known, now) = (ids(old), ids(new));
        Self {
            rules_added: missing(&after, &before),
            rules_removed: missing(&before, &after),
            rules_changed: changed.map(|(name, _)| (*name).to_owned()).collect(),
            identities_added: now.difference(&known).copied().collect(),
            identities_removed: known.difference(&now).copied().collect(),
            atoms_changed: old.atoms != new.atoms,
        }
    }
}

fn by_name(compiled: &Compiled) -> BTreeMap<&str, &RuleInfo> {
    let rules = compiled.rules.iter();
    rules.map(|rule| (rule.name.as_str(), rule)).collect()
}

/// The rows that a host with guests of some classes has to change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowsDelta {
    /// Decisions that are new or say something else.
    pub added: Vec<Decision>,
    /// Decisions that are gone, or said something else.
    pub removed: Vec<Decision>,
}

impl RowsDelta {
    /// From an older policy to a newer one, for these classes only.
    #[must_use]
    pub fn of(old: &Tables<'_>, new: &Tables<'_>, local: &BTreeSet<IdentityId>) -> Self {
        let mut delta = Self::default();
        for id in local {
            let (had, has) = (old.decisions(*id), new.decisions(*id));
            let missing = |one: &[Decision], other: &[Decision]| -> Vec<Decision> {
                let gone = one.iter().filter(|row| other.binary_search(row).is_err());
                gone.copied().collect()
            };
            delta.added.extend(missing(&has, &had));
            delta.removed.extend(missing(&had, &has));
        }
        delta
    }

    /// The newer rows, made of the older ones.
    #[must_use]
    pub fn apply(&self, decisions: &[Decision]) -> Vec<Decision> {
        let mut rows: BTreeSet<Decision> = decisions.iter().copied().collect();
        self.removed.iter().for_each(|row| {
            rows.remove(row);
        });
        rows.extend(self.added.iter().copied());
        rows.into_iter().collect()
    }
}
