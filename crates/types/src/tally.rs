//! What was counted of a vnic. It goes along with its guest, as sessions do: on the host where the
//! guest is, the tally is of every host where it has been.

use crate::{Direction, Reason, RuleId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// What was steered past the bridge.
    Steered(Direction),
    /// What got its verdict for this reason.
    Reason(Direction, Reason),
    /// What this rule decided.
    Rule(RuleId),
}

/// How much of it there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sessions that a rule opened.
    pub sessions: u64,
    /// Packets that a rule would have decided, were it not for observe mode.
    pub observed: u64,
}

/// All that was counted of one vnic; what never happened is left out.
pub type Tallies = BTreeMap<Counted, Tally>;

impl Tally {
    /// Both together. It wraps, so that what is given away can be more than what is there now.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
            sessions: self.sessions.wrapping_add(other.sessions),
            observed: self.observed.wrapping_add(other.observed),
        }
    }

    /// Without the other. It wraps, see [`Self::plus`].
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(other.packets),
            bytes: self.bytes.wrapping_sub(other.bytes),
            sessions: self.sessions.wrapping_sub(other.sessions),
            observed: self.observed.wrapping_sub(other.observed),
        }
    }
}
