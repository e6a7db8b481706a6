//! The order by which a guest leaves a host whose agent is broken: without its sessions, once, to
//! one host. Two persons sign it, as they sign a release; the guest's next agent believes nobody
//! else about it.

use crate::{Envelope, Trust, VerifyKey};
use lictor_types::{DeploymentId, Digest, GuestId, HostId};
use serde::{Deserialize, Serialize};

/// The payload type under which an order is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.lictor.evacuation.v1+json";
/// For how long an order may be good.
pub const LIFE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;
/// Characters of a justification.
pub const JUSTIFICATION_CHARS_MAX: usize = 1_024;

/// Leave for one guest to come to one host without what its source has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evacuation {
    /// The installation.
    pub deployment: DeploymentId,
    /// The guest.
    pub guest: GuestId,
    /// The host whose agent is broken.
    pub from: HostId,
    /// Where the guest goes.
    pub to: HostId,
    /// Why.
    pub justification: String,
    /// When it was written, in milliseconds of Unix time.
    pub issued_ms: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
}

/// An order that two persons have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// What it says.
    pub order: Evacuation,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Who signed it, the author first.
    pub signers: Vec<VerifyKey>,
}

/// Why an order does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvacuationRefused {
    /// An author has not signed it, or too few approvers besides.
    #[error(
        "the order needs the signatures of an author and of {needed} approver(s) besides, it has \
         {found}; have them run `lictor move evacuation sign`"
    )]
    NotSigned {
        /// Approvals that it needs.
        needed: usize,
        /// Who has signed.
        found: String,
    },
    /// It cannot be read.
    #[error("it is no order: {0}; expected what `lictor move evacuation write` writes")]
    Malformed(String),
    /// It is for another installation.
    #[error("the order is for deployment {found}; expected one for {expected}")]
    Elsewhere {
        /// The one that it names.
        found: DeploymentId,
        /// The one that is here.
        expected: DeploymentId,
    },
    /// Its time is over, or longer than one may be.
    #[error(
        "the order is good until {expires_ms} ms, it is {now_ms} ms; write another one, good for \
         at most {LIFE_MS_MAX} ms"
    )]
    Lapsed {
        /// Its end.
        expires_ms: u64,
        /// The time now.
        now_ms: u64,
    },
}

impl Evacuation {
    /// The bytes that are signed.
    ///
    /// # Panics
    /// Never: an order has only string keys.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an order has only string keys")
    }

    /// Opens an order that has not been signed by everybody yet.
    ///
    /// # Errors
    /// [`EvacuationRefused::Malformed`].
    pub fn unverified(envelope: &Envelope) -> Result<Self, EvacuationRefused> {
        let malformed = EvacuationRefused::Malformed;
        if envelope.payload_type() != PAYLOAD_TYPE {
            return Err(malformed(format!("it holds {:?}", envelope.payload_type())));
        }
        let payload = envelope.unverified_payload();
        let payload = payload.map_err(|error| malformed(error.to_string()))?;
        let order: Self =
            serde_json::from_slice(&payload).map_err(|error| malformed(error.to_string()))?;
        if order.canonical_bytes() != payload {
            return Err(malformed("its bytes are not in canonical form".into()));
        }
        Ok(order)
    }

    /// Opens an order that counts now.
    ///
    /// # Errors
    /// [`EvacuationRefused`].
    pub fn verify(
        envelope: &Envelope,
        trust: &Trust,
        now_ms: u64,
    ) -> Result<Ordered, EvacuationRefused> {
        let ordered = Self::signed(envelope, trust)?;
        let order = &ordered.order;
        let life_ms = order.expires_ms.saturating_sub(order.issued_ms);
        if now_ms > order.expires_ms || life_ms > LIFE_MS_MAX {
            let expires_ms = order.expires_ms;
            return Err(EvacuationRefused::Lapsed { expires_ms, now_ms });
        }
        Ok(ordered)
    }

    /// Opens an order that two persons have signed, whenever it was good.
    ///
    /// # Errors
    /// [`EvacuationRefused`].
    pub fn signed(envelope: &Envelope, trust: &Trust) -> Result<Ordered, EvacuationRefused> {
        let signers = trust.two_persons(envelope, PAYLOAD_TYPE);
        let needed = trust.approvals_required.max(1) as usize;
        let signers = signers.map_err(|found| {
            let names: Vec<_> = found.iter().map(|key| key.name().to_string()).collect();
            let found = if names.is_empty() {
                "none that counts".into()
            } else {
                names.join(", ")
            };
            EvacuationRefused::NotSigned { needed, found }
        })?;
        let order = Self::unverified(envelope)?;
        if order.deployment != trust.deployment {
            let expected = trust.deployment.clone();
            let found = order.deployment;
            return Err(EvacuationRefused::Elsewhere { found, expected });
        }
        let digest = Digest::of(&order.canonical_bytes());
        Ok(Ordered {
            order,
            digest,
            signers,
        })
    }
}
