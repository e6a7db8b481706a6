//! The checks by name, and which requirements they serve, as versioned data.

use crate::checks::{changes, co_residence, enforcement, integrity, moves, rules};
use crate::finding::{DAY_MS, HOUR_MS, Kind};
use crate::{CoResidence, Facts, Finding, Profile};
use serde::Deserialize;
use std::sync::LazyLock;

/// What a check runs with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) now_ms: u64,
    pub(crate) profile: &'a Profile,
}

impl Context<'_> {
    /// Whether an event is recent enough to count.
    pub(crate) const fn counts(&self, time_ms: u64) -> bool {
        time_ms.saturating_add(self.profile.window_ms) >= self.now_ms
    }
}

/// One check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its id, which never changes its meaning without a new version.
    pub id: &'static str,
    /// Its version.
    pub version: u32,
    /// What it asks.
    pub title: &'static str,
    /// How long its facts are good for.
    pub validity_ms: u64,
    /// The reading of co-residence that it belongs to, if it is one of three.
    pub reading: Option<CoResidence>,
    kind: Kind,
    run: fn(Context<'_>) -> Vec<Finding>,
}

impl Check {
    const fn event(id: &'static str, title: &'static str, run: Run) -> Self {
        let kind = Kind::Event;
        Self {
            id,
            version: 1,
            title,
            validity_ms: DAY_MS,
            reading: None,
            kind,
            run,
        }
    }

    const fn state(id: &'static str, title: &'static str, run: Run) -> Self {
        Self {
            kind: Kind::State,
            ..Self::event(id, title, run)
        }
    }

    const fn reading(self, reading: CoResidence) -> Self {
        Self {
            reading: Some(reading),
            ..self
        }
    }

    const fn good_for(self, validity_ms: u64) -> Self {
        Self {
            validity_ms,
            ..self
        }
    }

    /// Runs the check over the facts as of `now_ms`.
    #[must_use]
    pub fn run(&self, facts: &Facts, now_ms: u64, profile: &Profile) -> Vec<Finding> {
        let settle = |mut finding: Finding| {
            finding.check = self.id.into();
            finding.version = self.version;
            finding.settle((self.kind, self.validity_ms), now_ms, profile)
        };
        (self.run)(Context {
            facts,
            now_ms,
            profile,
        })
        .into_iter()
        .map(settle)
        .collect()
    }
}

type Run = fn(Context<'_>) -> Vec<Finding>;

/// Every check of this version.
pub const CHECKS: [Check; 13] = [
    Check::event(
        "MOV-01",
        "Every move was admitted, with every control in place",
        moves::admitted,
    ),
    Check::event(
        "MOV-02",
        "No packet passed without a verdict",
        moves::no_gap,
    ),
    Check::event(
        "MOV-03",
        "The same rules on both sides of a move",
        moves::same_rules,
    ),
    Check::event("COR-01", "Zones never share a host", co_residence::strict)
        .reading(CoResidence::Strict),
    Check::event(
        "COR-02",
        "Zones that share a host are isolated",
        co_residence::isolated,
    )
    .reading(CoResidence::Isolated),
    Check::event(
        "COR-03",
        "Zones that share a host are hardened alike",
        co_residence::highest,
    )
    .reading(CoResidence::Highest),
    Check::state(
        "ENF-01",
        "Every vnic in scope is under control",
        enforcement::covered,
    ),
    Check::state(
        "ENF-05",
        "The kernel holds what was approved",
        enforcement::as_approved,
    )
    .good_for(HOUR_MS),
    Check::state(
        "RUL-01",
        "What is not allowed is denied, both ways",
        rules::default_deny,
    ),
    Check::state(
        "RUL-02",
        "Every allow has an owner, a reason and a service",
        rules::complete,
    ),
    Check::state(
        "RUL-03",
        "Who is in a computed scope is who was when the release was published",
        rules::computed,
    ),
    Check::event(
        "CHG-01",
        "Every release in force was approved by others",
        changes::approved,
    ),
    Check::event(
        "LOG-01",
        "The log was only ever added to",
        integrity::append_only,
    ),
];

/// Runs every check, in the order of the catalogue.
#[must_use]
pub fn run(facts: &Facts, now_ms: u64, profile: &Profile) -> Vec<Finding> {
    CHECKS
        .iter()
        .flat_map(|check| check.run(facts, now_ms, profile))
        .collect()
}

/// A framework's clause, in our words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Its number.
    pub id: String,
    /// What it is for.
    pub objective: String,
}

/// Which requirements a check serves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The check.
    pub check: String,
    /// The requirements' numbers.
    pub requirements: Vec<String>,
}

/// A framework in one version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// Its name.
    pub framework: String,
    /// Its version.
    pub version: String,
    /// Where the words come from.
    pub note: String,
    /// Its clauses, as far as a check serves them.
    pub requirements: Vec<Requirement>,
    /// Which check serves which.
    pub checks: Vec<Mapping>,
}

static PCI: LazyLock<Framework> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/pci-dss-4.0.1.json"))
        .expect("the built-in catalogue is read by a test")
});

impl Framework {
    /// PCI DSS in the version that this crate knows.
    #[must_use]
    pub fn pci() -> &'static Self {
        &PCI
    }

    /// The requirements that a check serves.
    pub fn of<'a>(&'a self, check: &'a str) -> impl Iterator<Item = &'a Requirement> {
        let mapping = self
            .checks
            .iter()
            .filter(move |mapping| mapping.check == check);
        mapping
            .flat_map(|mapping| &mapping.requirements)
            .filter_map(|id| {
                self.requirements
                    .iter()
                    .find(|requirement| requirement.id == *id)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_serves_a_requirement_and_every_requirement_is_served() {
        let pci = Framework::pci();
        for check in CHECKS {
            let mapping = pci.checks.iter().find(|mapping| mapping.check == check.id);
            let listed = &mapping.expect("each check is mapped").requirements;
            assert_eq!(pci.of(check.id).count(), listed.len(), "{}", check.id);
            assert!(!listed.is_empty(), "{}", check.id);
        }
        assert_eq!(pci.checks.len(), CHECKS.len());
        for requirement in &pci.requirements {
            let served = pci
                .checks
                .iter()
                .any(|one| one.requirements.contains(&requirement.id));
            assert!(served, "{}", requirement.id);
        }
    }
}
