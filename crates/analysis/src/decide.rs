//! One session on one port: which rule decides at which end, and why without one.

use crate::overlay::{Overlay, Quantifier, Quantity};
use crate::prove::Prover;
use crate::relation::part_of_day;
use crate::universe::Kind;
use lictor_policy::{Action, Rule, Tier, TierKind};
use lictor_types::{Direction, Protocol};
use std::cmp::Reverse;

/// What decides at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A rule, by its tier and its place there.
    Rule(u32, u32),
    /// No rule: the default deny.
    Default,
    /// One of the ends is in quarantine.
    Quarantine,
    /// The guest is only observed.
    Observed,
    /// Its host enforces nothing, and the owner lets it run.
    Unprotected,
    /// Its host enforces nothing, so it is cut from the network.
    Cut,
    /// It is no guest: nothing is enforced there.
    Outside,
}

/// What one end says, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Whether the session passes there.
    pub allows: bool,
    /// Why.
    pub because: Because,
}

impl Prover {
    /// What both ends say to a session between two nodes on one port.
    #[must_use]
    pub(crate) fn said(
        &self,
        (source, node): (usize, usize),
        (protocol, port): (Protocol, u16),
        quantifier: Quantifier,
    ) -> [Said; 2] {
        let overlay = &self.overlays[&quantifier];
        [Direction::Egress, Direction::Ingress].map(|direction| {
            let own = match direction {
                Direction::Egress => source,
                Direction::Ingress => node,
            };
            let other = source + node - own;
            if let Some(said) = self.settled(overlay, own, other) {
                return said;
            }
            let decided = match overlay.is_quarantined(other) {
                true => None,
                false => self.decide((source, node), (protocol, port), (direction, quantifier)),
            };
            let said = decided.map_or(
                Said {
                    allows: false,
                    because: Because::Default,
                },
                |(tier, rule)| Said {
                    allows: self.rule(tier, rule).1.action == Action::Allow,
                    because: Because::Rule(tier, rule),
                },
            );
            match overlay.is_open(own) && !said.allows {
                true => Said {
                    allows: true,
                    because: Because::Observed,
                },
                false => said,
            }
        })
    }

    /// What is said at an end whatever the rules say.
    fn settled(&self, overlay: &Overlay, own: usize, other: usize) -> Option<Said> {
        let said = |allows, because| Some(Said { allows, because });
        let outside = |node: usize| matches!(self.universe.nodes()[node], Kind::Outside(_));
        if outside(own) {
            // What passes no guest is never allowed.
            return said(!outside(other), Because::Outside);
        }
        if overlay.is_cut(own) {
            return said(false, Because::Cut);
        }
        if overlay.unprotected.has(own) {
            return said(true, Because::Unprotected);
        }
        if overlay.is_open(own) {
            return None;
        }
        // A frame that is not IP has nobody at its far end, and nobody is in no quarantine; but
        // then that end denies it by itself.
        if overlay.is_quarantined(own) || overlay.is_quarantined(other) {
            return said(false, Because::Quarantine);
        }
        None
    }

    /// A tier and its rule.
    pub(crate) fn rule(&self, tier: u32, rule: u32) -> (&Tier, &Rule) {
        let tier = &self.policy.tiers[tier as usize];
        (tier, &tier.rules[rule as usize])
    }

    /// The rule that decides at one end, in the words of the language's page.
    fn decide(
        &self,
        (source, node): (usize, usize),
        (protocol, port): (Protocol, u16),
        (direction, quantifier): (Direction, Quantifier),
    ) -> Option<(u32, u32)> {
        let always = quantifier.quantity == Quantity::Every;
        let matching =
            self.relation
                .matching((source, node), (direction, protocol), &self.universe);
        let matching = matching.into_iter().filter(|place| {
            let (_, rule) = self.rule(place.0, place.1);
            rule.service.contains(protocol, port) && !(always && part_of_day(rule))
        });
        let mut passed = None;
        let mut best: Option<(u32, u32)> = None;
        for place in matching {
            let (tier, rule) = self.rule(place.0, place.1);
            match (tier.kind, rule.action) {
                (TierKind::Ordered, _) if passed == Some(place.0) => {}
                (TierKind::Ordered, Action::Pass) => passed = Some(place.0),
                (TierKind::Ordered, _) => return Some(place),
                (TierKind::AllowOnly, _) => {
                    let rank = |place: (u32, u32)| {
                        let rule = self.rule(place.0, place.1).1;
                        let room = Reverse(rule.limit.unwrap_or(u32::MAX));
                        (rule.during.is_some(), room, &rule.name)
                    };
                    if best.is_none_or(|known| rank(place) < rank(known)) {
                        best = Some(place);
                    }
                }
            }
        }
        best
    }
}
