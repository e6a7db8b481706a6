//! The table rows of every local identity.

use super::{
    CompileError,
    atoms::Atoms,
    identities::{Class, Classes},
};
use crate::{
    Action, DECISIONS_TOTAL_MAX, Date, Labels, Log, OnExpiry, Policy, Rule, Selector, TierKind,
};
use lictor_types::{
    AtomId, DECISIONS_PER_HOST_MAX, Decision, Direction, IdentityId, RuleId, Verdict,
};
use std::collections::{BTreeMap, HashMap};

/// Rows written for one identity before rows of the same key are merged: a bound on time and memory
/// that is known before the first row is written.
const WRITES_MAX: usize = 16 * DECISIONS_PER_HOST_MAX as usize;
/// Rules named in a refusal.
const BLAME_MAX: usize = 5;

/// All rows, sorted.
pub(super) fn table(
    policy: &Policy,
    date: Date,
    classes: &Classes<'_>,
    atoms: &Atoms,
) -> Result<Vec<Decision>, CompileError> {
    let members = Members::of(policy, classes);
    let rules = live_rules(policy, date);
    let lines: Vec<Line<'_>> = rules
        .into_iter()
        .map(|(guard, rule)| Line {
            guard,
            rule,
            atoms: atoms.of(&rule.service),
        })
        .collect();
    let mut table = Vec::new();
    for local in classes.guests().filter(|class| !class.quarantine) {
        let mut rows = rows_of(local, &lines, &members)?;
        if table.len() + rows.len() > DECISIONS_TOTAL_MAX {
            let blame = blame(local, &lines, &members).1;
            return Err(CompileError::DecisionsTotal {
                max: DECISIONS_TOTAL_MAX,
                blame,
            });
        }
        table.append(&mut rows);
    }
    table.sort_unstable();
    Ok(table)
}

/// A rule in force.
struct Line<'a> {
    guard: bool,
    rule: &'a Rule,
    atoms: &'a [AtomId],
}

/// Which classes each selector of a rule matches. Classes in quarantine match none.
struct Members(BTreeMap<String, Vec<IdentityId>>);

impl Members {
    fn of(policy: &Policy, classes: &Classes<'_>) -> Self {
        let mut members = BTreeMap::new();
        for selector in policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]) {
            members.entry(selector.to_string()).or_insert_with(|| {
                let free = classes.all.iter().filter(|class| !class.quarantine);
                free.filter(|class| class.holds(selector))
                    .map(|class| class.id)
                    .collect()
            });
        }
        Self(members)
    }

    fn get(&self, selector: &Selector) -> &[IdentityId] {
        self.0.get(&selector.to_string()).map_or(&[], Vec::as_slice)
    }
}

/// The guard in its order, then the application rules by name. What the guard passes at its very
/// end goes on to the application tiers anyway, and needs no rows.
fn live_rules(policy: &Policy, date: Date) -> Vec<(bool, &Rule)> {
    let live = policy
        .rules()
        .filter(|(tier, rule)| tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date));
    let (guard, mut applications): (Vec<_>, Vec<_>) = live
        .map(|(tier, rule)| (tier.kind == TierKind::Ordered, rule))
        .partition(|(guard, _)| *guard);
    let mut guard = guard;
    while guard
        .last()
        .is_some_and(|(_, rule)| rule.action == Action::Pass)
    {
        guard.pop();
    }
    applications.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    guard.extend(applications);
    guard
}

/// Whose ends a rule opens for a local class in a direction: the peers, if the class matches.
fn peers<'a>(
    local: IdentityId,
    direction: Direction,
    rule: &Rule,
    members: &'a Members,
) -> &'a [IdentityId] {
    let (own, other) = match direction {
        Direction::Egress => (&rule.from, &rule.to),
        Direction::Ingress => (&rule.to, &rule.from),
    };
    // The classes come from a map sorted by id, so each list is sorted.
    if members.get(own).binary_search(&local).is_ok() {
        members.get(other)
    } else {
        &[]
    }
}

/// How many rows the rules of a class would write, and the rules that write most.
fn blame(local: &Class<'_>, lines: &[Line<'_>], members: &Members) -> (usize, Vec<String>) {
    let mut writes: Vec<(usize, &str)> = lines
        .iter()
        .map(|line| {
            let pairs: usize = [Direction::Egress, Direction::Ingress]
                .into_iter()
                .map(|direction| peers(local.id, direction, line.rule, members).len())
                .sum();
            (
                pairs.saturating_mul(line.atoms.len()),
                line.rule.name.as_str(),
            )
        })
        .collect();
    let total = writes
        .iter()
        .fold(0_usize, |total, (rows, _)| total.saturating_add(*rows));
    writes.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
    let named = writes.iter().filter(|(rows, _)| *rows > 0).take(BLAME_MAX);
    (
        total,
        named
            .map(|(rows, name)| format!("{name} ({rows})"))
            .collect(),
    )
}

/// What is known of a key so far.
struct Slot {
    action: Action,
    guard: bool,
    rule: RuleId,
    log: bool,
}

fn rows_of(
    local: &Class<'_>,
    lines: &[Line<'_>],
    members: &Members,
) -> Result<Vec<Decision>, CompileError> {
    let max = DECISIONS_PER_HOST_MAX as usize;
    let (writes, blamed) = blame(local, lines, members);
    let refuse = |found: usize, blame: Vec<String>| {
        let labels = local
            .label_sets
            .first()
            .map_or_else(Labels::new, |labels| (*labels).clone());
        CompileError::Decisions {
            labels,
            found,
            max,
            blame,
        }
    };
    if writes > WRITES_MAX {
        return Err(refuse(writes, blamed));
    }
    let mut rows = Vec::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        let mut slots: HashMap<(IdentityId, AtomId), Slot> = HashMap::new();
        for line in lines {
            for peer in peers(local.id, direction, line.rule, members) {
                for atom in line.atoms {
                    write(&mut slots, (*peer, *atom), line);
                }
            }
        }
        let kept = slots
            .into_iter()
            .filter(|(_, slot)| slot.action != Action::Pass);
        rows.extend(kept.map(|((peer, atom), slot)| Decision {
            local: local.id,
            peer,
            direction,
            atom,
            verdict: if slot.action == Action::Allow {
                Verdict::Allow
            } else {
                Verdict::Deny
            },
            rule: slot.rule,
            log: slot.log,
            limit: 0,
            log_limit: 0,
            would: None,
        }));
    }
    if rows.len() > max {
        return Err(refuse(rows.len(), blamed));
    }
    Ok(rows)
}

/// The first guard rule wins; where it passed, or none matched, the first application rule gives
/// its number and any of them turns the log on.
fn write(
    slots: &mut HashMap<(IdentityId, AtomId), Slot>,
    key: (IdentityId, AtomId),
    line: &Line<'_>,
) {
    let log = line.rule.log != Log::Off;
    let slot = Slot {
        action: line.rule.action,
        guard: line.guard,
        rule: line.rule.id,
        log,
    };
    match slots.get_mut(&key) {
        None => {
            slots.insert(key, slot);
        }
        Some(_) if line.guard => {}
        Some(known) if known.action == Action::Pass => *known = slot,
        Some(known) if !known.guard => known.log |= log,
        Some(_) => {}
    }
}
