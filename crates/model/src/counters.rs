//! What a vnic counts.

use crate::event::by_policy;
use crate::verdict::{Answer, Frame};
use lictor_types::{Direction, RULES_PER_VNIC_MAX, Reason, RuleId};
use std::collections::BTreeMap;

/// Packets and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// What a rule decided: packets that opened a session or were denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCount {
    /// The packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sessions that it opened.
    pub sessions: u64,
    /// Packets that it would have decided, were it not for observe mode.
    pub observed: u64,
}

/// What a vnic has counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Every packet, from the guest and toward it.
    pub seen: [Count; 2],
    /// By direction and reason.
    pub reasons: BTreeMap<(Direction, Reason), Count>,
    /// By rule; the default deny is [`RuleId::DEFAULT`].
    pub rules: BTreeMap<RuleId, RuleCount>,
    /// What found no room there.
    pub uncounted: u64,
}

impl Counters {
    /// The counters of a rule, if there is room for one more. The kernel program may find none for
    /// a rule after 4,096 others, if its number meets those of others.
    pub(crate) fn rule(&mut self, rule: RuleId) -> Option<&mut RuleCount> {
        if self.rules.len() >= RULES_PER_VNIC_MAX as usize && !self.rules.contains_key(&rule) {
            return None;
        }
        Some(self.rules.entry(rule).or_default())
    }

    /// Counts a packet.
    pub(crate) fn count(&mut self, frame: &Frame<'_>, answer: &Answer) {
        let bytes = frame.bytes.len() as u64;
        let add = |count: &mut Count| {
            count.packets += 1;
            count.bytes += bytes;
        };
        // An answer in the guest's name was sent by no guest.
        if (answer.reason, frame.direction) != (Reason::Answer, Direction::Egress) {
            add(&mut self.seen[frame.direction as usize]);
        }
        let of_reason = (frame.direction, answer.reason);
        add(self.reasons.entry(of_reason).or_default());
        if by_policy(answer.reason) {
            match self.rule(answer.rule) {
                Some(rule) => {
                    rule.packets += 1;
                    rule.bytes += bytes;
                }
                None => self.uncounted += 1,
            }
        }
        if let Some(would) = answer.would {
            match self.rule(would.rule) {
                Some(rule) => rule.observed += 1,
                None => self.uncounted += 1,
            }
        }
    }
}
