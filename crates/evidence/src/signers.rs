//! Which ends of a move have signed its record, and when that is enough.

use crate::body::{MOVE_RECORD_TYPE, MoveOutcome, MoveRecord};
use crate::{Envelope, VerifyKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which ends of a move have signed its record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveSigners {
    /// Neither: nothing in it is believed.
    #[default]
    Neither,
    /// The source alone.
    Source,
    /// The target alone.
    Target,
    /// Both.
    Both,
}

impl MoveSigners {
    const fn of(source: bool, target: bool) -> Self {
        match (source, target) {
            (false, false) => Self::Neither,
            (true, false) => Self::Source,
            (false, true) => Self::Target,
            (true, true) => Self::Both,
        }
    }

    const fn source(self) -> bool {
        matches!(self, Self::Source | Self::Both)
    }

    const fn target(self) -> bool {
        matches!(self, Self::Target | Self::Both)
    }

    /// The signers of two copies of one record.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self::of(
            self.source() || other.source(),
            self.target() || other.target(),
        )
    }

    /// Whether a record that ended so may be believed. A guest that changed host needs both ends'
    /// word. A move that was called off needs only the source's, as the target may be dead and the
    /// guest never ran there; where the source was lost, the target's.
    #[must_use]
    pub const fn suffice_for(self, outcome: MoveOutcome) -> bool {
        match outcome {
            MoveOutcome::Committed => self.source() && self.target(),
            MoveOutcome::Aborted => self.source(),
            MoveOutcome::StateLost => self.target(),
        }
    }
}

impl fmt::Display for MoveSigners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Neither => "neither end",
            Self::Source => "the source alone",
            Self::Target => "the target alone",
            Self::Both => "both ends",
        })
    }
}

impl MoveRecord {
    /// Which ends have signed exactly this record, by the keys that each end may sign with.
    #[must_use]
    pub fn signers(
        &self,
        signed: &Envelope,
        source: &[VerifyKey],
        target: &[VerifyKey],
    ) -> MoveSigners {
        let bytes = self.canonical_bytes();
        let by = |keys: &[VerifyKey]| {
            let verified = signed.verify(MOVE_RECORD_TYPE, keys);
            verified.is_ok_and(|verified| verified.payload == bytes)
        };
        MoveSigners::of(by(source), by(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_needs_the_ends_that_can_still_speak() {
        use MoveSigners::{Both, Neither, Source, Target};
        for (signers, enough) in [
            (Neither, [false, false, false]),
            (Source, [false, true, false]),
            (Target, [false, false, true]),
            (Both, [true, true, true]),
        ] {
            let outcomes = [
                MoveOutcome::Committed,
                MoveOutcome::Aborted,
                MoveOutcome::StateLost,
            ];
            let found = outcomes.map(|outcome| signers.suffice_for(outcome));
            assert_eq!(found, enough, "{signers}");
            assert_eq!(signers.and(Neither), signers);
            assert_eq!(signers.and(Both), Both);
        }
        assert_eq!(Source.and(Target), Both);
    }
}
