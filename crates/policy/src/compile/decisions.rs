//! The table rows of every local identity.

use super::{
    CompileError,
    atoms::Atoms,
    identities::{Class, Classes},
};
use crate::{
    Action, DECISIONS_TOTAL_MAX, Date, Labels, Mode, OnExpiry, Policy, Rule, Selector, Tier,
    TierKind,
    evaluate::{Report, allows_more},
};
use lictor_types::{
    AtomId, DECISIONS_PER_HOST_MAX, Decision, Direction, IdentityId, RuleId, Verdict, Would,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
        .map(|rule| Line::of(policy, rule, atoms))
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

/// The place of an ordered tier among all tiers. All application tiers are one stage, the last.
const APPLICATIONS: usize = usize::MAX;

fn stage(policy: &Policy, tier: &Tier) -> usize {
    let place = policy.tiers.iter().position(|one| std::ptr::eq(one, tier));
    match tier.kind {
        TierKind::Ordered => place.unwrap_or(0),
        TierKind::AllowOnly => APPLICATIONS,
    }
}

/// A rule in force.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    stage: usize,
    mode: Mode,
    pub(super) rule: &'a Rule,
    pub(super) atoms: &'a [AtomId],
}

impl<'a> Line<'a> {
    pub(super) fn of(policy: &Policy, (tier, rule): (&Tier, &'a Rule), atoms: &'a Atoms) -> Self {
        Self {
            stage: stage(policy, tier),
            mode: tier.mode,
            rule,
            atoms: atoms.of(&rule.service),
        }
    }
}

/// Which classes each selector of a rule matches. Classes in quarantine match none.
pub(super) struct Members(BTreeMap<String, Vec<IdentityId>>);

impl Members {
    pub(super) fn of(policy: &Policy, classes: &Classes<'_>) -> Self {
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

/// The ordered tiers in their order, then the application rules by name. What a tier passes at its
/// very end goes on to the next one anyway, and needs no rows. Rules with a window are there on
/// every day: a host leaves them out on others.
pub(super) fn live_rules(policy: &Policy, date: Date) -> Vec<(&Tier, &Rule)> {
    let mut rules = Vec::new();
    let mut applications = Vec::new();
    for tier in &policy.tiers {
        let kept = tier.on_expiry == OnExpiry::KeepAndAlarm;
        let live = tier.rules.iter().filter(|rule| kept || !rule.expired(date));
        let mut live: Vec<_> = live.map(|rule| (tier, rule)).collect();
        if tier.kind == TierKind::AllowOnly {
            applications.append(&mut live);
            continue;
        }
        while live
            .last()
            .is_some_and(|(_, rule)| rule.action == Action::Pass)
        {
            live.pop();
        }
        rules.append(&mut live);
    }
    applications.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    rules.append(&mut applications);
    rules
}

/// Whose ends a rule opens for a local class in a direction: the peers, if the class matches.
pub(super) fn peers<'a>(
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
    if rule.at.covers(direction) && members.get(own).binary_search(&local).is_ok() {
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
#[derive(Clone, Copy)]
struct Slot<'a> {
    stage: usize,
    mode: Mode,
    rule: &'a Rule,
    log: Report,
    /// A rule that would hold on other days.
    other_days: Option<&'a Rule>,
}

pub(super) type Key = (IdentityId, AtomId);
type Slots<'a> = HashMap<Key, Slot<'a>>;

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
    let observed = lines.iter().any(|line| line.mode == Mode::Observe);
    for direction in [Direction::Egress, Direction::Ingress] {
        let key = (local.id, direction);
        let enforced = slots(key, lines, members, &[Mode::Enforce])?;
        let all = match observed {
            true => slots(key, lines, members, &[Mode::Enforce, Mode::Observe])?,
            false => Slots::new(),
        };
        let keys: BTreeSet<Key> = enforced.keys().chain(all.keys()).copied().collect();
        rows.extend(keys.into_iter().filter_map(|at| {
            let would = all.get(&at).filter(|slot| slot.mode == Mode::Observe);
            row(key, at, (enforced.get(&at), would))
        }));
    }
    if rows.len() > max {
        return Err(refuse(rows.len(), blamed));
    }
    Ok(rows)
}

/// What the rules of tiers in these modes say.
fn slots<'a>(
    (local, direction): (IdentityId, Direction),
    lines: &[Line<'a>],
    members: &Members,
    modes: &[Mode],
) -> Result<Slots<'a>, CompileError> {
    let mut slots = Slots::new();
    for line in lines.iter().filter(|line| modes.contains(&line.mode)) {
        for peer in peers(local, direction, line.rule, members) {
            for atom in line.atoms {
                write(&mut slots, (*peer, *atom), line);
            }
        }
    }
    slots.retain(|_, slot| slot.rule.action != Action::Pass);
    clash(&slots)?;
    Ok(slots)
}

/// What the rules in force allow at an end, whatever their windows.
pub(super) fn allowed(
    key: (IdentityId, Direction),
    lines: &[Line<'_>],
    members: &Members,
) -> BTreeSet<Key> {
    let mut slots = Slots::new();
    for line in lines.iter().filter(|line| line.mode == Mode::Enforce) {
        for peer in peers(key.0, key.1, line.rule, members) {
            for atom in line.atoms {
                write(&mut slots, (*peer, *atom), line);
            }
        }
    }
    slots.retain(|_, slot| slot.rule.action == Action::Allow);
    slots.into_keys().collect()
}

fn clash(slots: &Slots<'_>) -> Result<(), CompileError> {
    let mut clashes: Vec<(&str, &str)> = slots
        .values()
        .filter_map(|slot| Some((slot.rule.name.as_str(), slot.other_days?.name.as_str())))
        .collect();
    clashes.sort_unstable();
    match clashes.first() {
        None => Ok(()),
        Some((one, other)) => Err(CompileError::Windows {
            one: (*one).to_owned(),
            other: (*other).to_owned(),
        }),
    }
}

const fn verdict(action: Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Reject => Verdict::Reject,
        Action::Deny | Action::Pass => Verdict::Deny,
    }
}

/// The row of a key: what takes effect, and what would.
fn row(
    (local, direction): (IdentityId, Direction),
    (peer, atom): Key,
    (slot, would): (Option<&Slot<'_>>, Option<&Slot<'_>>),
) -> Option<Decision> {
    let log = [slot, would].into_iter().flatten();
    let log = log.fold(Report::default(), |log, slot| log.or(slot.log));
    slot.or(would)?;
    Some(Decision {
        local,
        peer,
        direction,
        atom,
        verdict: slot.map_or(Verdict::Deny, |slot| verdict(slot.rule.action)),
        rule: slot.map_or(RuleId::DEFAULT, |slot| slot.rule.id),
        log: log.on,
        limit: slot.and_then(|slot| slot.rule.limit).unwrap_or(0),
        log_limit: log.limit.unwrap_or(0),
        would: would.map(|would| Would {
            verdict: verdict(would.rule.action),
            rule: would.rule.id,
        }),
    })
}

/// The first rule of an ordered tier wins; where it passed, or none matched, the next tier's does.
/// Of the application rules those without a window come first; the one that allows most gives its
/// number, the first by name among equals, and any of them turns the log on.
fn write<'a>(slots: &mut Slots<'a>, key: Key, line: &Line<'a>) {
    let slot = Slot {
        stage: line.stage,
        mode: line.mode,
        rule: line.rule,
        log: Report::of(line.rule),
        other_days: None,
    };
    let Some(known) = slots.get_mut(&key) else {
        slots.insert(key, slot);
        return;
    };
    if known.stage < line.stage && known.rule.action == Action::Pass {
        *known = slot;
    } else if known.stage == APPLICATIONS {
        merge(known, slot);
    }
}

fn merge<'a>(known: &mut Slot<'a>, slot: Slot<'a>) {
    match (known.rule.during, slot.rule.during) {
        (None, Some(_)) => {}
        (Some(_), None) => *known = slot,
        (one, other) => {
            if one != other {
                known.other_days = Some(slot.rule);
            }
            known.log = known.log.or(slot.log);
            if allows_more(slot.rule, known.rule) {
                (known.rule, known.mode) = (slot.rule, slot.mode);
            }
        }
    }
}
