//! The rules in force as lines of the compiled policy, and whether the tables that hosts make of
//! them fit.

use super::{CompileError, atoms::Atoms, identities::Basis};
use crate::tables::{APPLICATIONS, Line, Tables};
use crate::{
    Action, Compiled, Date, Identity, Labels, LineRow, OnExpiry, Policy, Rule, ServiceRow, Tier,
    TierKind,
};
use lictor_types::{DECISIONS_PER_HOST_MAX, Direction};
use std::collections::{BTreeMap, BTreeSet};

/// Rules named in a refusal.
const BLAME_MAX: usize = 5;

/// The lines of a policy, and the services that they name.
pub(super) struct Lines {
    pub(super) lines: Vec<LineRow>,
    pub(super) services: Vec<ServiceRow>,
}

impl Lines {
    /// Those of the rules in force on a day.
    pub(super) fn of(policy: &Policy, date: Date, basis: &Basis<'_>, atoms: &Atoms) -> Self {
        let mut services: BTreeMap<String, ServiceRow> = BTreeMap::new();
        for (_, rule) in policy.rules() {
            let text = rule.service.to_string();
            services.entry(text).or_insert_with_key(|text| ServiceRow {
                service: text.clone(),
                atoms: atoms.of(&rule.service).to_vec(),
            });
        }
        let places: BTreeMap<String, u32> = services.keys().cloned().zip(0..).collect();
        let line = |(stage, rule): (u32, &Rule)| LineRow {
            rule: rule.id,
            stage,
            from: basis.place(&rule.from),
            to: basis.place(&rule.to),
            service: places[&rule.service.to_string()],
        };
        let live = |tier: &Tier, rule: &Rule| {
            tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date)
        };
        Self {
            lines: in_order(policy, live).into_iter().map(line).collect(),
            services: services.into_values().collect(),
        }
    }
}

/// The ordered tiers in their order, each a stage, then the application rules by name, which are
/// one stage. What a tier passes at its very end goes on to the next one anyway, and needs no line.
/// Rules with a window are there on every day: a host leaves them out on others.
pub(super) fn in_order(policy: &Policy, live: impl Fn(&Tier, &Rule) -> bool) -> Vec<(u32, &Rule)> {
    let mut rules = Vec::new();
    let mut applications = Vec::new();
    for (stage, tier) in (0..).zip(&policy.tiers) {
        let all = tier.rules.iter().filter(|rule| live(tier, rule));
        if tier.kind == TierKind::AllowOnly {
            applications.extend(all.map(|rule| (APPLICATIONS, rule)));
            continue;
        }
        let mut all: Vec<_> = all.map(|rule| (stage, rule)).collect();
        while all
            .last()
            .is_some_and(|(_, rule)| rule.action == Action::Pass)
        {
            all.pop();
        }
        rules.append(&mut all);
    }
    applications.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    rules.append(&mut applications);
    rules
}

/// Refuses what no host's table could hold, before any row is made.
pub(super) fn check(compiled: &Compiled) -> Result<(), CompileError> {
    let tables = Tables::of(compiled).map_err(CompileError::Broken)?;
    let free = || {
        compiled
            .identities
            .iter()
            .filter(|one| !one.quarantine && !one.labels.is_empty())
    };
    windows(&tables, free())?;
    let max = DECISIONS_PER_HOST_MAX as usize;
    for identity in free() {
        if bound(&tables, identity) <= max {
            continue;
        }
        let found = tables.count(identity.id);
        if found > max {
            let blame = blame(&tables, identity);
            let labels = identity
                .labels
                .first()
                .map_or_else(Labels::new, Clone::clone);
            return Err(CompileError::Decisions {
                labels,
                found,
                max,
                blame,
            });
        }
    }
    Ok(())
}

/// Two rules with different windows can only clash at an end at which both speak.
fn windows<'a>(
    tables: &Tables<'_>,
    identities: impl Iterator<Item = &'a Identity>,
) -> Result<(), CompileError> {
    let days = |line: &Line<'_>| line.rule.during;
    let distinct: BTreeSet<_> = tables.lines.iter().filter_map(days).collect();
    if distinct.len() < 2 {
        return Ok(());
    }
    let mut clashes = BTreeSet::new();
    for identity in identities {
        for direction in [Direction::Egress, Direction::Ingress] {
            let lines = tables.lines_of(identity.id, direction).into_iter();
            let here: BTreeSet<_> = lines
                .filter_map(|line| days(&tables.lines[line as usize]))
                .collect();
            if here.len() > 1 {
                clashes.extend(tables.clashes(identity.id, direction));
            }
        }
    }
    match clashes.first() {
        None => Ok(()),
        Some((one, other)) => Err(CompileError::Windows {
            one: (*one).to_owned(),
            other: (*other).to_owned(),
        }),
    }
}

/// Rows that surely suffice for a class. Of each rule either a row for each peer and atom, or,
/// where it covers most atoms, one for each peer about all atoms and one for each atom that it
/// leaves out: what a cell says follows from the rules that cover it, so no other cell says
/// anything else.
fn bound(tables: &Tables<'_>, identity: &Identity) -> usize {
    let atoms = tables.atoms();
    rows(tables, identity)
        .map(|(_, peers, ports)| peers * ports.min(1 + atoms.saturating_sub(ports)))
        .sum()
}

/// The rules that write most for a class, with a row for each peer and atom.
fn blame(tables: &Tables<'_>, identity: &Identity) -> Vec<String> {
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, peers, ports) in rows(tables, identity) {
        *sums.entry(name).or_default() += peers * ports;
    }
    let mut sums: Vec<(&str, usize)> = sums.into_iter().filter(|(_, rows)| *rows > 0).collect();
    sums.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
    let named = sums.into_iter().take(BLAME_MAX);
    named
        .map(|(name, rows)| format!("{name} ({rows})"))
        .collect()
}

/// The rules that speak at the ends of a class, with how many peers and atoms each covers.
fn rows<'t>(
    tables: &'t Tables<'_>,
    identity: &Identity,
) -> impl Iterator<Item = (&'t str, usize, usize)> {
    let id = identity.id;
    [Direction::Egress, Direction::Ingress]
        .into_iter()
        .flat_map(move |direction| {
            tables.lines_of(id, direction).into_iter().map(move |line| {
                let line = &tables.lines[line as usize];
                let peers = tables.members(line.ends(direction).1).len();
                (
                    line.rule.name.as_str(),
                    peers,
                    tables.service(line.service).len(),
                )
            })
        })
}
