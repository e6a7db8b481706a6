//! The rules in force as lines of the compiled policy, and whether the tables that hosts make of
//! them fit.

use super::{CompileError, atoms::Atoms, identities::Basis};
use crate::tables::{APPLICATIONS, Line, Tables};
use crate::{
    Action, At, BrokenTables, Compiled, Date, Identity, Labels, LineRow, OnExpiry, Policy, Rule,
    Service, ServiceRow, Tier, TierKind,
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
        let services = service_rows(policy.rules().map(|(_, rule)| &rule.service), atoms);
        let places = services.iter().map(|row| row.service.clone());
        let places: BTreeMap<String, u32> = places.zip(0..).collect();
        let line = |(stage, rule): (u32, &Rule)| LineRow {
            rule: rule.id,
            stage,
            from: basis.place(&rule.from),
            to: basis.place(&rule.to),
            service: places[&rule.service.to_string()],
        };
        Self {
            lines: in_force(policy, date).into_iter().map(line).collect(),
            services,
        }
    }
}

/// The services that rules name, by their texts.
pub(super) fn service_rows<'a>(
    services: impl Iterator<Item = &'a Service>,
    atoms: &Atoms,
) -> Vec<ServiceRow> {
    let mut rows: BTreeMap<String, ServiceRow> = BTreeMap::new();
    for service in services {
        let text = service.to_string();
        rows.entry(text).or_insert_with_key(|text| ServiceRow {
            service: text.clone(),
            atoms: atoms.of(service).to_vec(),
        });
    }
    rows.into_values().collect()
}

/// The rules in force on a day, in the order of evaluation, each with its stage.
pub(super) fn in_force(policy: &Policy, date: Date) -> Vec<(u32, &Rule)> {
    in_order(policy, |tier, rule| {
        tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date)
    })
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
    let free = || {
        compiled
            .identities
            .iter()
            .filter(|one| !one.quarantine && !one.labels.is_empty())
    };
    let lines = compiled.lines.iter();
    let days: BTreeSet<_> = lines
        .filter_map(|line| compiled.rule(line.rule).and_then(|rule| rule.during))
        .collect();
    let max = DECISIONS_PER_HOST_MAX as usize;
    let bounds = Bounds::of(compiled).map_err(CompileError::Broken)?;
    let mut large = free().filter(|one| bounds.of_class(one) > max).peekable();
    if days.len() < 2 && large.peek().is_none() {
        return Ok(());
    }
    let tables = Tables::of(compiled).map_err(CompileError::Broken)?;
    windows(&tables, free())?;
    for identity in large {
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

/// Rows that surely suffice for the lines that name a selector at an end. Of each rule either a row
/// for each peer and atom, or, where it covers most atoms, one for each peer about all atoms and
/// one for each atom that it leaves out: what a cell says follows from the rules that cover it, so
/// no other cell says anything else.
struct Bounds(Vec<usize>);

impl Bounds {
    fn of(compiled: &Compiled) -> Result<Self, BrokenTables> {
        let selectors = compiled.selectors.len();
        let mut members = vec![0_usize; selectors];
        let classes = compiled.identities.iter().filter(|one| !one.quarantine);
        let truths = classes.map(|one| &one.selectors).chain([&compiled.world]);
        for place in truths.flatten() {
            *at(&mut members, *place, "a class")? += 1;
        }
        let atoms = compiled.atoms.iter().map(|range| range.atom.0).max();
        let atoms = usize::from(atoms.unwrap_or(0));
        let services = compiled.services.iter();
        let mut ports: Vec<usize> = services
            .map(|row| {
                row.atoms
                    .len()
                    .min(1 + atoms.saturating_sub(row.atoms.len()))
            })
            .collect();
        let mut sums = vec![0_usize; selectors];
        for line in &compiled.lines {
            let speaks = compiled.rule(line.rule).map_or(At::Both, |rule| rule.at);
            let ports = *at(&mut ports, line.service, "a line")?;
            let ends = [
                (Direction::Egress, line.from, line.to),
                (Direction::Ingress, line.to, line.from),
            ];
            for (_, local, peer) in ends.into_iter().filter(|(end, ..)| speaks.covers(*end)) {
                let peers = *at(&mut members, peer, "a line")?;
                *at(&mut sums, local, "a line")? += peers.saturating_mul(ports);
            }
        }
        Ok(Self(sums))
    }

    fn of_class(&self, identity: &Identity) -> usize {
        let sums = identity.selectors.iter();
        let sums = sums.filter_map(|place| self.0.get(*place as usize));
        sums.fold(0, |sum, own| sum.saturating_add(*own))
    }
}

fn at<'v>(
    values: &'v mut [usize],
    number: u32,
    list: &'static str,
) -> Result<&'v mut usize, BrokenTables> {
    let have = values.len();
    let broken = BrokenTables::new(list, number, ("the selectors and services", have));
    values.get_mut(number as usize).ok_or(broken)
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
