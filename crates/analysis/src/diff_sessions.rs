//! What a new policy would do to sessions that live: which it would cut, and on whose account.

use crate::explain::explain;
use crate::lint_cover::Flows;
use crate::lint_region::Space;
use lictor_policy::Policy;
use lictor_policy::evaluate::{Question, evaluate};
use lictor_types::{Direction, Reason, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A session as one of its two ends holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The guest whose table it is in.
    pub guest: String,
    /// Its first packet, whoever sent it.
    pub question: Question,
    /// `Egress` if the guest began it.
    pub opened: Direction,
    /// The rule that admitted it.
    pub rule: Option<String>,
}

/// Sessions of one guest that the same rules admitted and would cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuts {
    /// The guest.
    pub guest: String,
    /// `Egress` if the guest began them.
    pub opened: Direction,
    /// The rule that admitted them.
    pub admitted_by: Option<String>,
    /// Why they would be cut.
    pub reason: Reason,
    /// The rule that would cut them; the default deny has none.
    pub cut_by: Option<String>,
    /// How many.
    pub sessions: u64,
    /// The first packet of one of them.
    pub example: Question,
}

/// What would become of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Simulation {
    /// How many go on.
    pub kept: u64,
    /// The others, the largest groups first.
    pub cut: Vec<Cuts>,
}

/// Judges sessions by a policy as hosts would with the next packet of each: at the end whose table
/// it is.
#[must_use]
pub fn simulate(policy: &Policy, sessions: impl Iterator<Item = Live>) -> Simulation {
    let mut simulation = Simulation::default();
    let mut groups: BTreeMap<_, Cuts> = BTreeMap::new();
    for live in sessions {
        let one = explain(policy, &live.question);
        let says = match live.opened {
            Direction::Egress => one.egress,
            Direction::Ingress => one.ingress,
        };
        let Some(says) = says.filter(|says| says.verdict != Verdict::Allow) else {
            simulation.kept += 1;
            continue;
        };
        let cut_by = says.rule.map(|rule| rule.name);
        let key = (
            live.guest.clone(),
            live.opened,
            live.rule.clone(),
            cut_by.clone(),
        );
        let group = groups.entry(key).or_insert_with(|| Cuts {
            guest: live.guest,
            opened: live.opened,
            admitted_by: live.rule,
            reason: says.reason,
            cut_by,
            sessions: 0,
            example: live.question,
        });
        group.sessions += 1;
    }
    simulation.cut = groups.into_values().collect();
    simulation
        .cut
        .sort_by_key(|one| std::cmp::Reverse(one.sessions));
    simulation
}

/// First packets that an older version lets pass and a newer one refuses, of sessions that live.
pub(crate) struct Refused(Vec<(Question, u64)>);

impl Refused {
    /// Both versions are asked about each packet once, however many sessions began like it.
    pub(crate) fn of([old, new]: &[Policy; 2], live: &[Live]) -> Self {
        let mut questions: Vec<&Question> = live.iter().map(|one| &one.question).collect();
        questions.sort_by_cached_key(|one| format!("{one:?}"));
        let groups = questions.chunk_by(|one, other| one == other);
        let refused = groups.filter(|same| {
            let allows = |policy| evaluate(policy, same[0]).verdict == Verdict::Allow;
            allows(old) && !allows(new)
        });
        Self(
            refused
                .map(|same| (same[0].clone(), same.len() as u64))
                .collect(),
        )
    }

    /// How many of the sessions are among some flows.
    pub(crate) fn within(&self, space: &Space<'_>, flows: &Flows) -> u64 {
        let inside = self.0.iter().filter(|(packet, _)| {
            flows.has_port(packet.protocol, packet.port)
                && flows.from.meets(&space.point(&packet.source))
                && flows.to.meets(&space.point(&packet.destination))
        });
        inside.map(|(_, count)| count).sum()
    }
}
