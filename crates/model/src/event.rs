//! What is reported of a packet, and how many reports a vnic and a rule may make in one second.

use crate::verdict::{Answer, Frame};
use crate::window::Window;
use lictor_types::{
    Direction, EVENTS_PER_VNIC_PER_SECOND, Generation, Reason, RuleId, SessionKey, Verdict, Would,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is reported of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When it came.
    pub at: Duration,
    /// From the guest or toward it.
    pub direction: Direction,
    /// What happened to it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// By which rule; [`RuleId::DEFAULT`] if by none.
    pub rule: RuleId,
    /// Of the release that was in force; zero where there was none.
    pub generation: Generation,
    /// What would have happened, were it not for observe mode.
    pub would: Option<Would>,
    /// The conversation; none where the packet was not understood so far.
    pub key: Option<SessionKey>,
    /// From the Ethernet header to the last byte.
    pub bytes: usize,
}

/// What the rule that decided says of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Log {
    pub(crate) wanted: bool,
    /// Reports in one second; 0: as many as come.
    pub(crate) limit: u16,
}

/// What was not reported, though it was worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unreported {
    /// The rule had made as many reports as it may in one second.
    pub limited: u64,
    /// The vnic had.
    pub lost: u64,
}

/// The reports of one vnic.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    of_vnic: Window,
    of_rules: BTreeMap<RuleId, Window>,
    pub(crate) unreported: Unreported,
}

/// Whether the policy decided, and not what came before or after it.
pub(crate) fn by_policy(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PolicyAllow
            | Reason::PolicyDeny
            | Reason::DefaultDeny
            | Reason::Rejected
            | Reason::Limited
            | Reason::Unproven
            | Reason::Stale
            | Reason::Dhcp
            | Reason::Adopted
    )
}

/// New sessions and denials by a rule if the rule says so; what passes in observe mode, what is
/// taken up in its midst, and all other denials always, but not those of a vnic that does not
/// forward at all.
fn worth_reporting(answer: &Answer) -> bool {
    match answer.reason {
        Reason::Observed | Reason::Adopted => true,
        Reason::Hold | Reason::HandedOver | Reason::Cut => false,
        Reason::DefaultDeny => true,
        reason if by_policy(reason) => answer.log.wanted,
        _ => answer.verdict == Verdict::Deny,
    }
}

impl Events {
    /// The report of a packet, if it is worth one and there is one left. `counted` is whether the
    /// vnic keeps track of the rule.
    pub(crate) fn report(
        &mut self,
        frame: &Frame<'_>,
        (answer, counted): (&Answer, bool),
        (key, generation): (Option<SessionKey>, Generation),
    ) -> Option<Event> {
        if !worth_reporting(answer) {
            return None;
        }
        let limit = answer.log.limit;
        if by_policy(answer.reason) && limit > 0 {
            // Where the rule can't be kept track of, it has none left.
            let window = self.of_rules.entry(answer.rule).or_default();
            if !counted || !window.take(frame.at, limit.into()) {
                self.unreported.limited += 1;
                return None;
            }
        }
        if !self.of_vnic.take(frame.at, EVENTS_PER_VNIC_PER_SECOND) {
            self.unreported.lost += 1;
            return None;
        }
        Some(Event {
            at: frame.at,
            direction: frame.direction,
            verdict: answer.verdict,
            reason: answer.reason,
            rule: answer.rule,
            generation,
            would: answer.would,
            key,
            bytes: frame.bytes.len(),
        })
    }
}
