//! What differs between two compiled policies: what a host has to change, and what a person reads
//! before the new one is signed.

use crate::Compiled;
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
    /// Decisions that are new or say something else.
    pub decisions_added: Vec<Decision>,
    /// Decisions that are gone, or said something else.
    pub decisions_removed: Vec<Decision>,
}

impl Delta {
    /// From an older policy to a newer one. Applying it to the older one's decisions gives the
    /// newer one's.
    #[must_use]
    pub fn of(old: &Compiled, new: &Compiled) -> Self {
        // Neither the place of a rule in the text nor the layout of it means anything.
        let rules = |compiled: &Compiled| -> BTreeMap<String, String> {
            let meaning = |rule: &crate::RuleInfo| {
                let plain = crate::RuleInfo {
                    order: 0,
                    line: 0,
                    file: None,
                    text: String::new(),
                    ..rule.clone()
                };
                serde_json::to_string(&plain).expect("only string keys")
            };
            let each = compiled.rules.iter();
            each.map(|rule| (rule.name.clone(), meaning(rule)))
                .collect()
        };
        let (before, after) = (rules(old), rules(new));
        let ids = |compiled: &Compiled| -> BTreeSet<IdentityId> {
            compiled.identities.iter().map(|one| one.id).collect()
        };
        let (known, now) = (ids(old), ids(new));
        let rows = |compiled: &Compiled| -> BTreeSet<Decision> {
            compiled.decisions.iter().copied().collect()
        };
        let (had, has) = (rows(old), rows(new));
        let missing = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            let names = one.keys().filter(|name| !other.contains_key(*name));
            names.cloned().collect()
        };
        let changed = before
            .iter()
            .filter(|(name, text)| after.get(*name).is_some_and(|other| other != *text));
        Self {
            rules_added: missing(&after, &before),
            rules_removed: missing(&before, &after),
            rules_changed: changed.map(|(name, _)| name.clone()).collect(),
            identities_added: now.difference(&known).copied().collect(),
            identities_removed: known.difference(&now).copied().collect(),
            atoms_changed: old.atoms != new.atoms,
            decisions_added: has.difference(&had).copied().collect(),
            decisions_removed: had.difference(&has).copied().collect(),
        }
    }

    /// The newer policy's decisions, made of the older one's.
    #[must_use]
    pub fn apply(&self, decisions: &[Decision]) -> Vec<Decision> {
        let mut rows: BTreeSet<Decision> = decisions.iter().copied().collect();
        self.decisions_removed.iter().for_each(|row| {
            rows.remove(row);
        });
        rows.extend(self.decisions_added.iter().copied());
        rows.into_iter().collect()
    }
}
