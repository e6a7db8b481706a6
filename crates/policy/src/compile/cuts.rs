//! What only one rule allows: what closing it would cut.

use super::atoms::Atoms;
use super::decisions::{Line, Members, allowed, live_rules, peers};
use super::identities::Classes;
use crate::{Action, CUTS_MAX, Cut, Date, Mode, Policy, PortRange, Rule, Service, Tier};
use lictor_types::{AtomId, Direction, IdentityId};
use std::collections::{BTreeMap, BTreeSet};

/// The policy on a day, as each expired rule is looked at.
pub(super) struct Cutter<'a> {
    policy: &'a Policy,
    atoms: &'a Atoms,
    members: Members,
    lines: Vec<Line<'a>>,
    guests: Vec<IdentityId>,
}

impl<'a> Cutter<'a> {
    pub(super) fn of(
        policy: &'a Policy,
        date: Date,
        classes: &Classes<'_>,
        atoms: &'a Atoms,
    ) -> Self {
        let live = live_rules(policy, date).into_iter();
        let free = classes.guests().filter(|class| !class.quarantine);
        Self {
            policy,
            atoms,
            members: Members::of(policy, classes),
            lines: live.map(|rule| Line::of(policy, rule, atoms)).collect(),
            guests: free.map(|class| class.id).collect(),
        }
    }

    /// The first cuts in order, and how many more there are.
    pub(super) fn cuts(&self, (tier, rule): (&Tier, &Rule)) -> (Vec<Cut>, usize) {
        if rule.action != Action::Allow || tier.mode != Mode::Enforce {
            return (Vec::new(), 0);
        }
        // Only rules about the same ports can allow, or deny, the same.
        let own: BTreeSet<AtomId> = self.atoms.of(&rule.service).iter().copied().collect();
        let same = |line: &&Line<'_>| line.atoms.iter().any(|atom| own.contains(atom));
        let without: Vec<Line<'_>> = self
            .lines
            .iter()
            .filter(same)
            .filter(|line| line.rule.id != rule.id)
            .copied()
            .collect();
        let with = self.with(tier, rule, &without);
        let mut found: BTreeMap<(IdentityId, IdentityId), BTreeSet<AtomId>> = BTreeMap::new();
        for local in &self.guests {
            for direction in [Direction::Egress, Direction::Ingress] {
                if peers(*local, direction, rule, &self.members).is_empty() {
                    continue;
                }
                let before = allowed((*local, direction), &with, &self.members);
                let after = allowed((*local, direction), &without, &self.members);
                for (peer, atom) in before.difference(&after) {
                    let ends = match direction {
                        Direction::Egress => (*local, *peer),
                        Direction::Ingress => (*peer, *local),
                    };
                    found.entry(ends).or_default().insert(*atom);
                }
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

    /// The rule at its place among the others: before the first one of a later tier.
    fn with<'b>(&'b self, tier: &Tier, rule: &'b Rule, others: &[Line<'b>]) -> Vec<Line<'b>> {
        let place = |id| self.policy.rules().position(|(_, known)| known.id == id);
        let own = place(rule.id);
        let ordered = tier.kind == crate::TierKind::Ordered;
        let later = |line: &Line<'_>| ordered && place(line.rule.id) > own;
        let at = others.iter().position(later).unwrap_or(others.len());
        let mut lines = others.to_vec();
        lines.insert(at, Line::of(self.policy, (tier, rule), self.atoms));
        lines
    }

    fn service(&self, atoms: &BTreeSet<AtomId>) -> Service {
        let inside = self
            .atoms
            .ranges
            .iter()
            .filter(|range| atoms.contains(&range.atom));
        let range = |range: &lictor_types::AtomRange| PortRange {
            protocol: range.protocol,
            first: range.first,
            last: range.last,
        };
        Service::new(inside.map(range).collect())
    }
}
