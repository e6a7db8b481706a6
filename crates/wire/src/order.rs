//! Orders: what two persons sign for one guest, as they sign a release, and what counts once until
//! it lapses. An agent believes nobody else about it.

use crate::{Envelope, Trust, VerifyKey};
use lictor_types::{DeploymentId, Digest, GuestId, HostId};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// For how long an order may be good.
pub const LIFE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;
/// Characters of a justification.
pub const JUSTIFICATION_CHARS_MAX: usize = 1_024;

/// What every order says.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// The guest.
    pub guest: &'a GuestId,
    /// Where the guest goes.
    pub to: &'a HostId,
    /// Why.
    pub justification: &'a str,
    /// When it was written, in milliseconds of Unix time.
    pub issued_ms: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
}

/// An order that two persons have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered<T> {
    /// What it says.
    pub order: T,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Who signed it, the author first.
    pub signers: Vec<VerifyKey>,
}

impl<T> Ordered<T> {
    /// The names of those who signed it.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let signers = self.signers.iter();
        signers.map(|key| key.name().to_string()).collect()
    }
}

/// Why an order does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// An author has not signed it, or too few approvers besides.
    #[error(
        "the order needs the signatures of an author and of {needed} approver(s) besides, it has \
         {found}; have them run `{command} sign`"
    )]
    NotSigned {
        /// Approvals that it needs.
        needed: usize,
        /// Who has signed.
        found: String,
        /// What signs it.
        command: &'static str,
    },
    /// It cannot be read.
    #[error("it is no such order: {detail}; expected what `{command} write` writes")]
    Malformed {
        /// What is wrong.
        detail: String,
        /// What writes one.
        command: &'static str,
    },
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

/// A kind of order.
pub trait Order: Serialize + DeserializeOwned {
    /// The payload type under which it is signed.
    const PAYLOAD_TYPE: &'static str;
    /// The command whose `write`, `sign` and `present` are about it.
    const COMMAND: &'static str;

    /// What it has in common with every other kind.
    fn terms(&self) -> Terms<'_>;

    /// What is wrong with what only this kind says, if anything is.
    ///
    /// # Errors
    /// In words.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The bytes that are signed.
    ///
    /// # Panics
    /// Never: an order has only string keys.
    #[must_use]
    fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an order has only string keys")
    }

    /// Opens an order that has not been signed by everybody yet.
    ///
    /// # Errors
    /// [`OrderRefused::Malformed`].
    fn unverified(envelope: &Envelope) -> Result<Self, OrderRefused> {
        let malformed = |detail: String| OrderRefused::Malformed {
            detail,
            command: Self::COMMAND,
        };
        if envelope.payload_type() != Self::PAYLOAD_TYPE {
            return Err(malformed(format!("it holds {:?}", envelope.payload_type())));
        }
        let payload = envelope.unverified_payload();
        let payload = payload.map_err(|error| malformed(error.to_string()))?;
        let order: Self =
            serde_json::from_slice(&payload).map_err(|error| malformed(error.to_string()))?;
        if order.canonical_bytes() != payload {
            return Err(malformed("its bytes are not in canonical form".into()));
        }
        order.check().map_err(malformed)?;
        Ok(order)
    }

    /// Opens an order that counts now.
    ///
    /// # Errors
    /// [`OrderRefused`].
    fn verify(
        envelope: &Envelope,
        trust: &Trust,
        now_ms: u64,
    ) -> Result<Ordered<Self>, OrderRefused> {
        let ordered = Self::signed(envelope, trust)?;
        let terms = ordered.order.terms();
        let life_ms = terms.expires_ms.saturating_sub(terms.issued_ms);
        if now_ms > terms.expires_ms || life_ms > LIFE_MS_MAX {
            let expires_ms = terms.expires_ms;
            return Err(OrderRefused::Lapsed { expires_ms, now_ms });
        }
        Ok(ordered)
    }

    /// Opens an order that two persons have signed, whenever it was good.
    ///
    /// # Errors
    /// [`OrderRefused`].
    fn signed(envelope: &Envelope, trust: &Trust) -> Result<Ordered<Self>, OrderRefused> {
        let signers = trust.two_persons(envelope, Self::PAYLOAD_TYPE);
        let signers = signers.map_err(|found| {
            let names: Vec<_> = found.iter().map(|key| key.name().to_string()).collect();
            let found = match names.is_empty() {
                true => "none that counts".into(),
                false => names.join(", "),
            };
            OrderRefused::NotSigned {
                needed: trust.approvals_needed(),
                found,
                command: Self::COMMAND,
            }
        })?;
        let order = Self::unverified(envelope)?;
        let found = order.terms().deployment.clone();
        if found != trust.deployment {
            let expected = trust.deployment.clone();
            return Err(OrderRefused::Elsewhere { found, expected });
        }
        let digest = Digest::of(&order.canonical_bytes());
        Ok(Ordered {
            order,
            digest,
            signers,
        })
    }
}
