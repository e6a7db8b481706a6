//! The ticket: what two agents sign before a guest moves, single use and short-lived.

use crate::{Envelope, SigningKey, VerifiedRelease};
use lictor_types::{DeploymentId, Digest, Generation, GuestId, HostId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The payload type under which a ticket is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.lictor.ticket.v1+json";

/// Leave to move one guest from one host to another, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The installation.
    pub deployment: DeploymentId,
    /// The guest.
    pub guest: GuestId,
    /// Where it is.
    pub source: HostId,
    /// Where it goes.
    pub target: HostId,
    /// The custody epoch that the target will have: one more than the source has.
    pub custody: u64,
    /// Makes the ticket single use: 32 hexadecimal digits.
    pub nonce: String,
    /// Who asked for the move, as the management layer names them.
    pub asked_by: String,
    /// When it was issued, in milliseconds of Unix time.
    pub issued_ms: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub deadline_ms: u64,
    /// The release that both ends enforce.
    pub generation: Generation,
    /// Its digest.
    pub release: Digest,
    /// The order of two persons that overrides reasons against this move, see
    /// [`crate::overriding`]. An older agent does not know such tickets, and answers none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overriding: Option<Box<Envelope>>,
}

/// One reason against a move. A refusal lists all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Refusal {
    /// No agent answers for the target.
    HostUnprotected {
        /// What was tried.
        detail: String,
    },
    /// The target is not in the release's roster.
    HostUnknown,
    /// The binding does not list the target.
    HostNotAllowed,
    /// The two ends enforce different releases.
    ReleaseDiffers {
        /// At the source.
        source: Generation,
        /// At the target.
        target: Generation,
    },
    /// A control that the guest requires is missing or unhealthy on the target.
    ControlMissing {
        /// The control.
        control: String,
    },
    /// No room for the guest's sessions or vnics.
    NoRoom {
        /// What is full.
        detail: String,
    },
    /// The target does not know the guest's binding.
    GuestUnknown,
    /// The source does not have custody of the guest.
    NotInCustody {
        /// What is known.
        detail: String,
    },
    /// The guest has NICs that no hook guards, and they would go along.
    Unguarded {
        /// Which, and why.
        detail: String,
    },
    /// Protection is impaired at one end, and the guest's owner chose that it does not move then.
    Impaired {
        /// The cause.
        cause: String,
        /// What was found, and what was chosen.
        detail: String,
    },
    /// The order that was to override reasons does not count there.
    Override {
        /// Why.
        detail: String,
    },
    /// The formats do not match.
    Format {
        /// What is expected and found.
        detail: String,
    },
    /// The target has a move of this guest under way.
    Busy {
        /// Which.
        detail: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostUnprotected { detail } => write!(f, "no agent protects the target: {detail}"),
            Self::HostUnknown => f.write_str("the target is not in the release's roster"),
            Self::HostNotAllowed => f.write_str("the guest's binding does not list the target"),
            Self::ReleaseDiffers { source, target } => {
                write!(
                    f,
                    "the source enforces release {source}, the target {target}"
                )
            }
            Self::ControlMissing { control } => {
                write!(
                    f,
                    "the control {control} that the guest requires is not healthy there"
                )
            }
            Self::NoRoom { detail } => write!(f, "no room: {detail}"),
            Self::GuestUnknown => f.write_str("the target has no binding of the guest"),
            Self::NotInCustody { detail } => write!(f, "the source has no custody: {detail}"),
            Self::Unguarded { detail } => write!(f, "not all of its NICs are guarded: {detail}"),
            Self::Impaired { cause, detail } => write!(f, "{cause}: {detail}"),
            Self::Override { detail } => write!(f, "the override does not count: {detail}"),
            Self::Format { detail } => write!(f, "the formats differ: {detail}"),
            Self::Busy { detail } => write!(f, "another move is under way: {detail}"),
        }
    }
}

/// Why a ticket is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// A signature is missing.
    #[error("the ticket is not signed by the agent of {0}")]
    NotSigned(HostId),
    /// The bytes cannot be read.
    #[error("the ticket cannot be read: {0}")]
    Malformed(String),
    /// It names a host that the release does not know, or another deployment.
    #[error("the ticket names {0}, which the release does not know")]
    Unknown(String),
    /// It has lapsed.
    #[error("the ticket lapsed at {deadline_ms} ms, it is {now_ms} ms")]
    Lapsed {
        /// The end.
        deadline_ms: u64,
        /// The time now.
        now_ms: u64,
    },
}

impl Ticket {
    /// Signs it as one of the two ends; the other adds its signature to the envelope.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Envelope {
        Envelope::sign(PAYLOAD_TYPE, &self.canonical_bytes(), &[key])
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a ticket has only string keys")
    }

    /// What names this ticket in records and evidence.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical_bytes())
    }

    /// Opens an envelope that both ends must have signed.
    ///
    /// # Errors
    /// [`TicketError`] says which signature or which fact is missing.
    pub fn verify(
        envelope: &Envelope,
        release: &VerifiedRelease,
        now_ms: u64,
    ) -> Result<Self, TicketError> {
        let ticket = Self::proposed(envelope, release, now_ms)?;
        signed_by(envelope, release, &ticket.target)?;
        Ok(ticket)
    }

    /// Opens an envelope that the source must have signed, before the target adds its signature.
    ///
    /// # Errors
    /// [`TicketError`] says which signature or which fact is missing.
    pub fn proposed(
        envelope: &Envelope,
        release: &VerifiedRelease,
        now_ms: u64,
    ) -> Result<Self, TicketError> {
        let payload = envelope
            .unverified_payload()
            .map_err(|error| TicketError::Malformed(error.to_string()))?;
        let ticket: Self = serde_json::from_slice(&payload)
            .map_err(|error| TicketError::Malformed(error.to_string()))?;
        let deployment = &release.release().deployment;
        if ticket.deployment != *deployment {
            return Err(TicketError::Unknown(format!(
                "deployment {}",
                ticket.deployment
            )));
        }
        if release.release().host(&ticket.target).is_none() {
            return Err(TicketError::Unknown(format!("host {}", ticket.target)));
        }
        signed_by(envelope, release, &ticket.source)?;
        if now_ms > ticket.deadline_ms {
            return Err(TicketError::Lapsed {
                deadline_ms: ticket.deadline_ms,
                now_ms,
            });
        }
        Ok(ticket)
    }
}

fn signed_by(
    envelope: &Envelope,
    release: &VerifiedRelease,
    host: &HostId,
) -> Result<(), TicketError> {
    let entry = release
        .release()
        .host(host)
        .ok_or_else(|| TicketError::Unknown(format!("host {host}")))?;
    envelope
        .verify(PAYLOAD_TYPE, std::slice::from_ref(&entry.key))
        .map(drop)
        .map_err(|_| TicketError::NotSigned(host.clone()))
}
