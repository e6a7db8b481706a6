//! The formats in which agents talk to each other: the newest one and the one before it, so that
//! the agents of a cluster can be upgraded one after the other while guests move. Two agents agree
//! in the hello of their TLS connection; one that speaks format 4 names none there.

use super::{Control, Step};
use crate::{Envelope, Refusal};
use lictor_evidence::ControlFact;
use lictor_types::{Digest, Epoch, GuestId};
use serde::{Deserialize, Serialize};

/// A format that this version speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// The one before: a guest is handed over only if its move was asked for at its source.
    Four,
    /// The newest one: a target may ask for a guest that comes to it.
    Five,
}

impl Format {
    /// What is spoken with agents that speak it too.
    pub const NEWEST: Self = Self::Five;
    const ALL: [Self; 2] = [Self::Five, Self::Four];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// The format of this number, if this version speaks it.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }

    /// All that this version speaks, for people.
    #[must_use]
    pub fn spoken() -> String {
        let numbers = Self::ALL.map(|one| one.number().to_string());
        numbers.join(" and ")
    }

    fn name(self) -> Vec<u8> {
        format!("lictor/{}", self.number()).into_bytes()
    }

    /// What an agent that speaks this format at most names in its hello, the newest first.
    #[must_use]
    pub fn named(self) -> Vec<Vec<u8>> {
        if self == Self::Four {
            return Vec::new();
        }
        let spoken = Self::ALL.into_iter().filter(|one| *one <= self);
        spoken.map(Self::name).collect()
    }

    /// What two agents have agreed on. A name that this version does not know was not its own.
    #[must_use]
    pub fn agreed(name: Option<&[u8]>) -> Option<Self> {
        match name {
            None => Some(Self::Four),
            Some(name) => Self::ALL.into_iter().find(|one| one.name() == name),
        }
    }
}

/// What can be said in format 4. It does not change with [`Control`] any more: its agents refuse a
/// word or a field that they do not know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Four {
    Custody {
        guest: GuestId,
    },
    CustodyHeld {
        guest: GuestId,
        held: bool,
        epoch: u64,
    },
    Admit(Asked),
    Admitted {
        ticket: Envelope,
        controls: Vec<ControlFact>,
    },
    NotAdmitted {
        ticket: Digest,
        reasons: Vec<Refusal>,
    },
    Check(Asked),
    Checked {
        ticket: Digest,
        reasons: Vec<Refusal>,
        controls: Vec<ControlFact>,
    },
    Move {
        ticket: Digest,
        step: Step,
    },
}

/// What a source asks in format 4.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    format: u32,
    bindings: Epoch,
    ticket: Envelope,
}

/// The nearest reason that format 4 has: protection at the target is not what the guest needs.
fn in_words_of_four(reason: Refusal) -> Refusal {
    match reason {
        Refusal::Impaired { cause, detail } => Refusal::HostUnprotected {
            detail: format!("{cause}: {detail}"),
        },
        Refusal::Override { .. } => Refusal::HostUnprotected {
            detail: reason.to_string(),
        },
        other => other,
    }
}

impl Four {
    /// A message in the words of format 4, if it has such words.
    pub(super) fn of(control: Control) -> Option<Self> {
        let asked = |bindings, ticket| Asked {
            format: Format::Four.number(),
            bindings,
            ticket,
        };
        Some(match control {
            Control::Custody { guest } => Self::Custody { guest },
            Control::CustodyHeld {
                guest, held, epoch, ..
            } => Self::CustodyHeld { guest, held, epoch },
            Control::Admit {
                bindings, ticket, ..
            } => Self::Admit(asked(bindings, ticket)),
            Control::Admitted { ticket, controls } => Self::Admitted { ticket, controls },
            Control::NotAdmitted { ticket, reasons } => {
                let reasons = reasons.into_iter().map(in_words_of_four).collect();
                Self::NotAdmitted { ticket, reasons }
            }
            Control::Check {
                bindings, ticket, ..
            } => Self::Check(asked(bindings, ticket)),
            Control::Checked {
                ticket,
                reasons,
                controls,
            } => Self::Checked {
                ticket,
                reasons: reasons.into_iter().map(in_words_of_four).collect(),
                controls,
            },
            Control::Move { ticket, step } => Self::Move { ticket, step },
            Control::Wanted { .. }
            | Control::NotHandedOver { .. }
            | Control::Evacuated { .. }
            | Control::Unclaimed { .. } => {
                return None;
            }
        })
    }
}

impl From<Four> for Control {
    fn from(four: Four) -> Self {
        match four {
            Four::Custody { guest } => Self::Custody { guest },
            Four::CustodyHeld { guest, held, epoch } => Self::CustodyHeld {
                guest,
                held,
                epoch,
                cut: false,
            },
            Four::Admit(asked) => Self::Admit {
                format: asked.format,
                bindings: asked.bindings,
                ticket: asked.ticket,
            },
            Four::Admitted { ticket, controls } => Self::Admitted { ticket, controls },
            Four::NotAdmitted { ticket, reasons } => Self::NotAdmitted { ticket, reasons },
            Four::Check(asked) => Self::Check {
                format: asked.format,
                bindings: asked.bindings,
                ticket: asked.ticket,
            },
            Four::Checked {
                ticket,
                reasons,
                controls,
            } => Self::Checked {
                ticket,
                reasons,
                controls,
            },
            Four::Move { ticket, step } => Self::Move { ticket, step },
        }
    }
}
