//! What may impair protection, and what the guest's owner may choose for that case. Both lists are
//! closed: an agent never meets a cause or a choice that it does not know.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The text is not one of a closed list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}; expected one of {expected}")]
pub struct UnknownName {
    /// What the text was meant to name.
    pub kind: &'static str,
    /// The text as given.
    pub text: String,
    /// The list.
    pub expected: String,
}

macro_rules! names {
    (
        $(#[$doc:meta])* $name:ident $kind:literal
        { $($(#[$item_doc:meta])* $item:ident $text:literal)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$item,)*];

            /// The name as the policy text writes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$item => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|item| item.name() == text).ok_or_else(|| {
                    let names: Vec<&str> = Self::ALL.iter().map(|item| item.name()).collect();
                    UnknownName { kind: $kind, text: text.into(), expected: names.join(", ") }
                })
            }
        }
    };
}

names! {
    /// Why protection is impaired.
    Cause "cause" {
        /// The guest landed where no agent enforces.
        HostUnprotected "host-unprotected"
        /// The kernel-side lease was not renewed by a proven verdict.
        EngineHung "engine-hung"
        /// A newer generation is known, or the freshness statement expired.
        ReleaseStale "release-stale"
        /// The manager is silent.
        ManagerUnreachable "manager-unreachable"
        /// The source died before it handed over the sessions.
        StateLost "state-lost"
        /// The session quota of the vnic or of the host is used up.
        StateFull "state-full"
        /// The target host has no intrusion detection.
        IdsMissing "ids-missing"
        /// The target host has no monitoring.
        MonitorMissing "monitor-missing"
        /// The evidence log can take no more.
        EvidenceFull "evidence-full"
        /// The host's time is not trusted.
        TimeUntrusted "time-untrusted"
    }
}

names! {
    /// What the guest's owner wants then.
    Choice "choice" {
        /// The guest does not run there, or is cut from the network.
        Block "block"
        /// The guest runs without protection; every open minute is counted and alarmed.
        AllowWithAlarm "allow-with-alarm"
        /// Established sessions go on, new ones are denied.
        BlockNewSessions "block-new-sessions"
        /// The last good release goes on as it is.
        KeepLastGood "keep-last-good"
        /// The guest stays where it is.
        NoMoves "no-moves"
        /// Agents agree on moves among themselves.
        MovesByAgents "moves-by-agents"
        /// Only new sessions; what was established must begin again.
        Strict "strict"
        /// Mid-stream packets that the policy allows begin a session.
        Adopt "adopt"
        /// New sessions are denied, established ones stay.
        DenyNew "deny-new"
        /// The guest does not move there.
        RefuseMove "refuse-move"
        /// The guest may move there until the choice expires.
        AllowWithExpiry "allow-with-expiry"
        /// Enforcement goes on; changes and moves are refused.
        RefuseChanges "refuse-changes"
        /// Enforcement goes on, and so do changes and moves.
        Allow "allow"
    }
}

impl Cause {
    /// The choices that this cause admits, the strictest first.
    #[must_use]
    pub const fn choices(self) -> &'static [Choice] {
        match self {
            Self::HostUnprotected => &[Choice::Block, Choice::AllowWithAlarm],
            Self::EngineHung | Self::ReleaseStale => {
                &[Choice::BlockNewSessions, Choice::KeepLastGood]
            }
            Self::ManagerUnreachable => &[Choice::NoMoves, Choice::MovesByAgents],
            Self::StateLost => &[Choice::Strict, Choice::Adopt],
            Self::StateFull => &[Choice::DenyNew],
            Self::IdsMissing | Self::MonitorMissing => {
                &[Choice::RefuseMove, Choice::AllowWithExpiry]
            }
            Self::EvidenceFull | Self::TimeUntrusted => &[Choice::RefuseChanges, Choice::Allow],
        }
    }

    /// What holds when the policy says nothing.
    #[must_use]
    pub const fn default_choice(self) -> Choice {
        match self {
            Self::HostUnprotected => Choice::Block,
            Self::EngineHung | Self::ReleaseStale => Choice::KeepLastGood,
            Self::ManagerUnreachable => Choice::MovesByAgents,
            Self::StateLost => Choice::Strict,
            Self::StateFull => Choice::DenyNew,
            Self::IdsMissing | Self::MonitorMissing => Choice::RefuseMove,
            Self::EvidenceFull | Self::TimeUntrusted => Choice::RefuseChanges,
        }
    }

    /// The place of a choice among this cause's choices: 0 is the strictest. `None` if the cause
    /// does not admit it.
    #[must_use]
    pub fn rank(self, choice: Choice) -> Option<usize> {
        self.choices()
            .iter()
            .position(|candidate| *candidate == choice)
    }

    /// Whether a choice protects less than the default.
    #[must_use]
    pub fn weakens(self, choice: Choice) -> bool {
        self.rank(choice) > self.rank(self.default_choice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_admitted_and_every_choice_is_used() {
        for cause in Cause::ALL {
            assert!(cause.rank(cause.default_choice()).is_some(), "{cause}");
            assert!(!cause.weakens(cause.default_choice()), "{cause}");
            assert_eq!(cause.name().parse(), Ok(*cause));
        }
        for choice in Choice::ALL {
            assert!(
                Cause::ALL.iter().any(|cause| cause.rank(*choice).is_some()),
                "{choice}"
            );
            assert_eq!(choice.name().parse(), Ok(*choice));
        }
    }

    #[test]
    fn an_open_choice_weakens_and_a_closed_one_does_not() {
        assert!(Cause::HostUnprotected.weakens(Choice::AllowWithAlarm));
        assert!(Cause::StateLost.weakens(Choice::Adopt));
        assert!(!Cause::EngineHung.weakens(Choice::BlockNewSessions));
        assert!(!Cause::EngineHung.weakens(Choice::KeepLastGood));
    }
}
