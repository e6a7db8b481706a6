//! What may impair protection, and what the guest's owner may choose for that case. Both lists are
//! closed: an agent never meets a cause or a choice that it does not know.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
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

/// What the choices that hold at one guest ask of its host, all together. Each cause that forbids
/// something forbids it, whatever the others allow: the stricter wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Together {
    /// Why no session begins.
    pub sessions: BTreeSet<Cause>,
    /// Why the guest does not move.
    pub moves: BTreeSet<Cause>,
    /// Why no release and no binding is taken.
    pub changes: BTreeSet<Cause>,
}

impl Together {
    /// Of the causes that hold, with what was chosen for each.
    #[must_use]
    pub fn of(held: impl IntoIterator<Item = (Cause, Choice)>) -> Self {
        let mut together = Self::default();
        for (cause, choice) in held {
            let (sessions, moves, changes) = match choice {
                Choice::BlockNewSessions => (true, false, false),
                Choice::NoMoves | Choice::RefuseMove => (false, true, false),
                Choice::RefuseChanges => (false, true, true),
                // What asks nothing more, and what is enforced where it arises: at the interlock
                // and in the session table.
                Choice::KeepLastGood
                | Choice::MovesByAgents
                | Choice::AllowWithExpiry
                | Choice::Allow
                | Choice::Block
                | Choice::AllowWithAlarm
                | Choice::Strict
                | Choice::Adopt
                | Choice::DenyNew => (false, false, false),
            };
            let sets = [
                (&mut together.sessions, sessions),
                (&mut together.moves, moves),
                (&mut together.changes, changes),
            ];
            for (set, forbids) in sets {
                if forbids {
                    set.insert(cause);
                }
            }
        }
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Cause::{EngineHung, EvidenceFull, IdsMissing, ManagerUnreachable, ReleaseStale};

    #[test]
    fn where_several_hold_the_stricter_wins() {
        let check = |held: &[(Cause, Choice)], expected: [&[Cause]; 3]| {
            let found = Together::of(held.iter().copied());
            let sets = [found.sessions, found.moves, found.changes];
            let expected = expected.map(|causes| causes.iter().copied().collect());
            assert_eq!(sets, expected, "{held:?}");
        };
        check(&[], [&[], &[], &[]]);
        let block = Choice::BlockNewSessions;
        let keep = Choice::KeepLastGood;
        check(&[(EngineHung, keep), (ReleaseStale, keep)], [&[], &[], &[]]);
        check(
            &[(EngineHung, keep), (ReleaseStale, block)],
            [&[ReleaseStale], &[], &[]],
        );
        check(
            &[(EngineHung, block), (ReleaseStale, block)],
            [&[EngineHung, ReleaseStale], &[], &[]],
        );
        check(
            &[
                (ManagerUnreachable, Choice::MovesByAgents),
                (IdsMissing, Choice::RefuseMove),
            ],
            [&[], &[IdsMissing], &[]],
        );
        check(
            &[
                (ManagerUnreachable, Choice::NoMoves),
                (IdsMissing, Choice::AllowWithExpiry),
            ],
            [&[], &[ManagerUnreachable], &[]],
        );
        check(
            &[
                (EvidenceFull, Choice::RefuseChanges),
                (ManagerUnreachable, Choice::NoMoves),
            ],
            [&[], &[ManagerUnreachable, EvidenceFull], &[EvidenceFull]],
        );
        check(&[(EvidenceFull, Choice::Allow)], [&[], &[], &[]]);
    }

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
