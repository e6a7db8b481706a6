//! What only one rule allows: what closing it would cut.

use super::CompileError;
use super::decisions::in_order;
use super::place;
use crate::tables::{Line, Slot, Tables};
use crate::{
    Action, CUTS_MAX, Compiled, Cut, Mode, OnExpiry, Policy, PortRange, Rule, Service, Tier,
};
use lictor_types::{AtomId, Direction, IdentityId, RuleId};
use std::collections::{BTreeMap, BTreeSet};

/// The policy on its day, with the rules that have ended still among the others.
pub(super) struct Cutter<'a> {
    tables: Tables<'a>,
    live: BTreeSet<RuleId>,
}

impl<'a> Cutter<'a> {
    pub(super) fn of(policy: &Policy, compiled: &'a Compiled) -> Result<Self, CompileError> {
        let date = compiled.date;
        let places: BTreeMap<&str, u32> = compiled
            .services
            .iter()
            .map(|row| row.service.as_str())
            .zip(0..)
            .collect();
        let lines = in_order(policy, |_, _| true)
            .into_iter()
            .filter_map(|(stage, rule)| {
                Some(Line {
                    stage,
                    rule: compiled.rule(rule.id)?,
                    from: place(&compiled.selectors, &rule.from.to_string())?,
                    to: place(&compiled.selectors, &rule.to.to_string())?,
                    service: *places.get(rule.service.to_string().as_str())?,
                })
            });
        let tables = Tables::with(compiled, lines.collect()).map_err(CompileError::Broken)?;
        let live = policy
            .rules()
            .filter(|(tier, rule)| tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date))
            .map(|(_, rule)| rule.id);
        Ok(Self {
            live: live.collect(),
            tables,
        })
    }

    /// The first cuts in order, and how many more there are.
    pub(super) fn cuts(&self, (tier, rule): (&Tier, &Rule)) -> (Vec<Cut>, usize) {
        if rule.action != Action::Allow || tier.mode != Mode::Enforce {
            return (Vec::new(), 0);
        }
        let mut found: BTreeMap<(IdentityId, IdentityId), BTreeSet<AtomId>> = BTreeMap::new();
        let own = self
            .tables
            .lines
            .iter()
            .find(|line| line.rule.id == rule.id);
        for direction in [Direction::Egress, Direction::Ingress] {
            let speaks = own.filter(|_| rule.at.covers(direction));
            let places = speaks.map_or(&[][..], |line| self.tables.members(line.ends(direction).0));
            for place in places.iter().filter(|place| **place != 0) {
                let local = self.tables.class(*place);
                self.at((local, direction), rule.id, &mut found);
            }
        }
        let more = found.len().saturating_sub(CUTS_MAX);
        let cut = |((from, to), atoms): ((IdentityId, IdentityId), BTreeSet<AtomId>)| Cut {
            from,
            to,
            service: self.service(&atoms).to_string(),
        };
        (found.into_iter().take(CUTS_MAX).map(cut).collect(), more)
    }

    fn at(
        &self,
        (local, direction): (IdentityId, Direction),
        rule: RuleId,
        found: &mut BTreeMap<(IdentityId, IdentityId), BTreeSet<AtomId>>,
    ) {
        if self
            .tables
            .compiled()
            .identity(local)
            .is_none_or(|one| one.labels.is_empty())
        {
            return;
        }
        let partition = self.tables.partition(local, direction);
        let with = partition.slots(&self.tables, |line| {
            line.rule.mode == Mode::Enforce
                && (line.rule.id == rule || self.live.contains(&line.rule.id))
        });
        let without = partition.slots(&self.tables, |line| {
            line.rule.mode == Mode::Enforce
                && line.rule.id != rule
                && self.live.contains(&line.rule.id)
        });
        let allows =
            |slot: &Slot| self.tables.lines[slot.line as usize].rule.action == Action::Allow;
        let open = |slot: &Option<Slot>| slot.as_ref().is_some_and(allows);
        let lost: Vec<Option<Slot>> = with
            .iter()
            .zip(&without)
            .map(|(with, without)| with.filter(|_| open(with) && !open(without)))
            .collect();
        let lost = partition.open(&lost, &|_| true);
        for (place, list) in (0..).zip(&lost.of) {
            let atoms = &lost.lists[*list as usize];
            if atoms.is_empty() {
                continue;
            }
            let peer = self.tables.class(place);
            let ends = match direction {
                Direction::Egress => (local, peer),
                Direction::Ingress => (peer, local),
            };
            found.entry(ends).or_default().extend(atoms);
        }
    }

    fn service(&self, atoms: &BTreeSet<AtomId>) -> Service {
        let ranges = self.tables.compiled().atoms.iter();
        let inside = ranges.filter(|range| atoms.contains(&range.atom));
        let range = |range: &lictor_types::AtomRange| PortRange {
            protocol: range.protocol,
            first: range.first,
            last: range.last,
        };
        Service::new(inside.map(range).collect())
    }
}
