//! Freshness: a short-lived statement of which release is the newest, signed by somebody who does
//! not distribute releases. Whoever distributes them can withhold the newest, and then the
//! statement either names a newer one or lapses.

use crate::release::{Floor, Release, ReleaseRefused, VerifiedRelease};
use crate::{Envelope, SigningKey, Trust, VerifyKey};
use lictor_types::{DeploymentId, Digest, Generation};
use serde::{Deserialize, Serialize};

/// The payload type under which a statement is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.lictor.freshness.v1+json";
/// For how long a statement may hold, in milliseconds.
pub const LIFE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Whose statements count. They are kept apart from whoever runs the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnesses {
    /// Their keys.
    pub keys: Vec<VerifyKey>,
    /// How many of them must have signed a statement.
    pub required: u32,
}

impl Witnesses {
    /// How many must have signed, whatever the file says.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.required.max(1) as usize
    }
}

/// Which release was the newest when this was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// The installation.
    pub deployment: DeploymentId,
    /// The release's number.
    pub generation: Generation,
    /// The digest of its signed bytes.
    pub digest: Digest,
    /// When it was written, in milliseconds of Unix time.
    pub issued_ms: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
}

/// Why a statement does not count. What was known before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FreshnessRefused {
    /// The trust file names no witnesses.
    #[error(
        "the trust file names nobody who says which release is the newest; expected `freshness` \
         with keys in it"
    )]
    NoWitnesses,
    /// Too few witnesses have signed it.
    #[error(
        "the statement of freshness carries {found} valid signature(s), expected {needed} of \
         {expected}; have them run `lictor policy freshness sign`"
    )]
    NotSigned {
        /// Valid signatures found.
        found: usize,
        /// Signatures needed.
        needed: usize,
        /// The names of those who may.
        expected: String,
    },
    /// It cannot be read.
    #[error(
        "it is no statement of freshness: {detail}; expected what `lictor policy freshness write` \
         writes"
    )]
    Malformed {
        /// What is wrong.
        detail: String,
    },
    /// It is for another installation.
    #[error("the statement of freshness is for deployment {found}; expected one for {expected}")]
    Elsewhere {
        /// The one that it names.
        found: DeploymentId,
        /// The one that is here.
        expected: DeploymentId,
    },
    /// It holds for longer than one may, or from a time after its end.
    #[error(
        "the statement of freshness is good from {issued_ms} to {expires_ms} ms; expected at most \
         {LIFE_MS_MAX} ms"
    )]
    Life {
        /// When it was written.
        issued_ms: u64,
        /// Its end.
        expires_ms: u64,
    },
}

impl Freshness {
    /// That a release is the newest, from now on for that long.
    #[must_use]
    pub fn of(release: &Release, now_ms: u64, life_ms: u64) -> Self {
        Self {
            deployment: release.deployment.clone(),
            generation: release.generation,
            digest: Digest::of(&release.canonical_bytes()),
            issued_ms: now_ms,
            expires_ms: now_ms.saturating_add(life_ms),
        }
    }

    /// The bytes that are signed.
    ///
    /// # Panics
    /// Never: a statement has only string keys.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a statement has only string keys")
    }

    /// Signs it, by any number of keys; more signatures may be added to the envelope.
    #[must_use]
    pub fn sign(&self, keys: &[&SigningKey]) -> Envelope {
        Envelope::sign(PAYLOAD_TYPE, &self.canonical_bytes(), keys)
    }

    /// Opens a statement that has not been signed by everybody yet.
    ///
    /// # Errors
    /// [`FreshnessRefused::Malformed`], [`FreshnessRefused::Life`].
    pub fn unverified(envelope: &Envelope) -> Result<Self, FreshnessRefused> {
        let malformed = |detail: String| FreshnessRefused::Malformed { detail };
        if envelope.payload_type() != PAYLOAD_TYPE {
            return Err(malformed(format!("it holds {:?}", envelope.payload_type())));
        }
        let payload = envelope.unverified_payload();
        let payload = payload.map_err(|error| malformed(error.to_string()))?;
        let said: Self =
            serde_json::from_slice(&payload).map_err(|error| malformed(error.to_string()))?;
        if said.canonical_bytes() != payload {
            return Err(malformed("its bytes are not in canonical form".into()));
        }
        let life_ms = said.expires_ms.checked_sub(said.issued_ms);
        if life_ms.is_none_or(|life_ms| life_ms > LIFE_MS_MAX) {
            let (issued_ms, expires_ms) = (said.issued_ms, said.expires_ms);
            return Err(FreshnessRefused::Life {
                issued_ms,
                expires_ms,
            });
        }
        Ok(said)
    }

    /// Opens a statement that enough witnesses have signed. Whether it has lapsed is another
    /// question: one that has still tells of a release. Also who of them has signed it.
    ///
    /// # Errors
    /// [`FreshnessRefused`].
    pub fn verify(
        envelope: &Envelope,
        trust: &Trust,
    ) -> Result<(Self, Vec<VerifyKey>), FreshnessRefused> {
        let witnesses = trust.freshness.as_ref();
        let witnesses = witnesses.ok_or(FreshnessRefused::NoWitnesses)?;
        let verified = envelope.verify(PAYLOAD_TYPE, &witnesses.keys);
        let signers = verified.map(|one| one.signers).unwrap_or_default();
        let found = signers.len();
        let needed = witnesses.needed();
        if found < needed {
            let names = witnesses.keys.iter().map(|key| key.name().to_string());
            return Err(FreshnessRefused::NotSigned {
                found,
                needed,
                expected: names.collect::<Vec<_>>().join(", "),
            });
        }
        let said = Self::unverified(envelope)?;
        if said.deployment != trust.deployment {
            return Err(FreshnessRefused::Elsewhere {
                found: said.deployment,
                expected: trust.deployment.clone(),
            });
        }
        Ok((said, signers))
    }

    /// Why what decides is stale by this statement, if it is. A release that is newer than the one
    /// that is named is what the witness will name next.
    #[must_use]
    pub fn against(&self, decides: &VerifiedRelease, now_ms: u64) -> Option<String> {
        let own = decides.release().generation;
        let named = self.generation;
        if named > own {
            return Some(format!(
                "a witness says that release {named} is the newest, and {own} decides"
            ));
        }
        if named == own && self.digest != decides.digest() {
            return Some(format!(
                "a witness says that release {own} is {}, and {} decides",
                self.digest,
                decides.digest()
            ));
        }
        (now_ms > self.expires_ms).then(|| {
            format!(
                "no witness has said since {} ms of Unix time that release {own} is the newest",
                self.expires_ms
            )
        })
    }

    /// Whether a release may be taken, as what a witness named is the least that may be.
    ///
    /// # Errors
    /// [`ReleaseRefused::RolledBack`], [`ReleaseRefused::Equivocation`].
    pub fn allows(&self, generation: Generation, digest: Digest) -> Result<(), ReleaseRefused> {
        let floor = Floor {
            generation: self.generation,
            digest: self.digest,
        };
        floor.allows(generation, digest)
    }
}
