//! The release: one compiled policy, the hosts' pinned keys and the delegations, immutable and
//! signed. [`verify`] is the only way to a [`VerifiedRelease`], and agents load nothing else.

use crate::freshness::Witnesses;
use crate::gate::{self, Proved};
use crate::{Envelope, SigningKey, VerifyKey};
use ipnet::IpNet;
use lictor_policy::{Compiled, Labels};
use lictor_types::{DeploymentId, Digest, Generation, HostId, Segment};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The payload type under which a release is signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.lictor.release.v1+json";
/// The only format that this version reads and writes.
pub const FORMAT: u32 = 1;

/// Whom an agent believes, pinned when it enrols and kept on its own disk: a manager cannot change
/// it by sending something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The installation.
    pub deployment: DeploymentId,
    /// Who may write policy.
    pub authors: Vec<VerifyKey>,
    /// Who may approve it.
    pub approvers: Vec<VerifyKey>,
    /// How many approvers must have signed. At least one, and never the author.
    pub approvals_required: u32,
    /// The manager's log.
    pub manager: VerifyKey,
    /// Who says which release is the newest; without it, nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Witnesses>,
}

impl Trust {
    /// Who of an author and as many approvers as it takes has signed an envelope of this type: the
    /// author first, who is none of the approvers.
    ///
    /// # Errors
    /// Those who have, if they are too few.
    pub fn two_persons(
        &self,
        envelope: &Envelope,
        payload_type: &str,
    ) -> Result<Vec<VerifyKey>, Vec<VerifyKey>> {
        let (author, approvers) = self.signers(envelope, payload_type);
        let enough = author.is_some() && approvers.len() >= self.approvals_needed();
        let signers = author.into_iter().chain(approvers).collect();
        if enough { Ok(signers) } else { Err(signers) }
    }

    /// How many approvers must have signed, whatever the file says.
    #[must_use]
    pub fn approvals_needed(&self) -> usize {
        self.approvals_required.max(1) as usize
    }

    /// The author who has signed, and those of the approvers who are somebody else.
    fn signers(
        &self,
        envelope: &Envelope,
        payload_type: &str,
    ) -> (Option<VerifyKey>, Vec<VerifyKey>) {
        let of = |keys: &[VerifyKey]| {
            let verified = envelope.verify(payload_type, keys);
            verified.map(|one| one.signers).unwrap_or_default()
        };
        let author = of(&self.authors).into_iter().next();
        let approvers = of(&self.others(author.as_ref()));
        (author, approvers)
    }

    fn others(&self, author: Option<&VerifyKey>) -> Vec<VerifyKey> {
        let approvers = self.approvers.iter();
        let others = approvers.filter(|key| Some(*key) != author);
        others.cloned().collect()
    }
}

/// A host that agents know each other by: no step of a move depends on a manager or on the age of a
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterHost {
    /// The host.
    pub host: HostId,
    /// The cluster that guests move within.
    pub cluster: String,
    /// The agent's key: it signs tickets, attestations, evidence, and its TLS identity is this key.
    pub key: VerifyKey,
    /// Where its agent listens for other agents.
    pub peer: SocketAddr,
}

/// Who may bind what. A binding outside every delegation of its signer is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// The key that signs the bindings.
    pub key: VerifyKey,
    /// Label sets that may be bound, each a full set; `*` stands for any value. An empty list
    /// allows none.
    pub labels: Vec<Labels>,
    /// The most guests that the key may have bound at once.
    pub guests_max: u32,
    /// The prefixes inside which addresses may be attested for those guests.
    pub prefixes: Vec<IpNet>,
    /// The segments in which those guests may have vnics.
    pub segments: Vec<Segment>,
}

impl Delegation {
    /// Whether this delegation covers exactly these labels.
    #[must_use]
    pub fn covers(&self, labels: &Labels) -> bool {
        self.labels.iter().any(|allowed| {
            allowed.len() == labels.len()
                && labels.iter().all(|(name, value)| {
                    allowed
                        .get(name)
                        .is_some_and(|want| want == "*" || want == value)
                })
        })
    }
}

/// The compiled and proven result of one policy version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// [`FORMAT`].
    pub format: u32,
    /// The installation it was made for.
    pub deployment: DeploymentId,
    /// Its monotonic number.
    pub generation: Generation,
    /// When it was made, in milliseconds of Unix time. Never used to open or drop anything.
    pub created_ms: u64,
    /// Rules, identities, decision tables, controls and choices.
    pub policy: Compiled,
    /// The hosts' pinned keys.
    pub roster: Vec<RosterHost>,
    /// Who may bind what.
    pub delegations: Vec<Delegation>,
    /// What was proved of the policy's intents; nothing if it states none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved: Option<Proved>,
}

impl Release {
    /// The bytes that are signed.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release has only string keys and no floats")
    }

    /// Signs it; more signatures may be added to the envelope.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Envelope {
        Envelope::sign(PAYLOAD_TYPE, &self.canonical_bytes(), &[key])
    }

    /// The host of this name, if the release knows it.
    #[must_use]
    pub fn host(&self, host: &HostId) -> Option<&RosterHost> {
        self.roster.iter().find(|entry| entry.host == *host)
    }
}

/// A release whose signatures, deployment and number have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRelease {
    release: Release,
    digest: Digest,
    author: VerifyKey,
    approvers: Vec<VerifyKey>,
}

impl VerifiedRelease {
    /// The release.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// The digest of the signed bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed as author.
    #[must_use]
    pub fn author(&self) -> &VerifyKey {
        &self.author
    }

    /// Who signed as approvers, the author not among them.
    #[must_use]
    pub fn approvers(&self) -> &[VerifyKey] {
        &self.approvers
    }
}

/// Why a release is refused. The last good one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefused {
    /// No author of the trust file signed these bytes.
    #[error(
        "the release carries no valid signature of an author; expected one of {expected}; \
         have the author sign it"
    )]
    NoAuthor {
        /// The authors' key names.
        expected: String,
    },
    /// Too few approvers besides the author.
    #[error(
        "the release carries {found} valid approval(s) by a second person, expected {needed} of \
         {expected}; have an approver sign it"
    )]
    NotApproved {
        /// Valid approvals found.
        found: usize,
        /// Approvals needed.
        needed: usize,
        /// The approvers' key names.
        expected: String,
    },
    /// The signed bytes are not a release that this version reads.
    #[error("the signed document is not a release in format {FORMAT}: {detail}")]
    Malformed {
        /// What is wrong.
        detail: String,
    },
    /// Made for another installation.
    #[error("the release was made for deployment {found}, this is {expected}")]
    WrongDeployment {
        /// The one it names.
        found: DeploymentId,
        /// The one that is here.
        expected: DeploymentId,
    },
    /// Its policy states what nobody proved.
    #[error(
        "these intents of its policy are not proved, and no exception that counts names them: \
         {open}; compile it with `lictor policy compile --estate`"
    )]
    Unproved {
        /// Their names, and why exceptions do not count.
        open: String,
    },
    /// Older than what is enforced.
    #[error("the release has generation {found}, but generation {floor} was already enforced here")]
    RolledBack {
        /// Its number.
        found: Generation,
        /// The newest number seen.
        floor: Generation,
    },
    /// Two documents with one number.
    #[error("generation {generation} was already seen as {known}, this one is {found}")]
    Equivocation {
        /// The number.
        generation: Generation,
        /// The digest known.
        known: Digest,
        /// The digest of this one.
        found: Digest,
    },
}

/// What an agent remembers of the newest release that it enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Its number.
    pub generation: Generation,
    /// Its digest.
    pub digest: Digest,
}

impl Floor {
    /// Whether a release of this number and digest may follow.
    ///
    /// # Errors
    /// [`ReleaseRefused::RolledBack`], [`ReleaseRefused::Equivocation`].
    pub fn allows(self, generation: Generation, digest: Digest) -> Result<(), ReleaseRefused> {
        if generation < self.generation {
            return Err(ReleaseRefused::RolledBack {
                found: generation,
                floor: self.generation,
            });
        }
        if generation == self.generation && digest != self.digest {
            return Err(ReleaseRefused::Equivocation {
                generation,
                known: self.digest,
                found: digest,
            });
        }
        Ok(())
    }
}

/// Checks author, approvers, deployment, proofs and number, in that order: nothing of an unsigned
/// document is parsed.
///
/// # Errors
/// [`ReleaseRefused`] names the first check that failed, what was expected and the next step.
pub fn verify(
    envelope: &Envelope,
    trust: &Trust,
    floor: Option<Floor>,
) -> Result<VerifiedRelease, ReleaseRefused> {
    let (author, approvers, payload) = verify_signers(envelope, trust)?;
    let release: Release =
        serde_json::from_slice(&payload).map_err(|error| ReleaseRefused::Malformed {
            detail: error.to_string(),
        })?;
    if release.format != FORMAT {
        let detail = format!("it says format {}", release.format);
        return Err(ReleaseRefused::Malformed { detail });
    }
    // A second encoding of the same release would have another digest: only the canonical one
    // counts.
    if release.canonical_bytes() != payload {
        let detail = "its bytes are not in canonical form".to_owned();
        return Err(ReleaseRefused::Malformed { detail });
    }
    if release.deployment != trust.deployment {
        return Err(ReleaseRefused::WrongDeployment {
            found: release.deployment,
            expected: trust.deployment.clone(),
        });
    }
    // On the release's own day: what expires later neither opens nor drops anything here.
    let open = gate::unproved(&release, &trust.approvers, release.policy.date);
    if !open.is_empty() {
        let open = open.join(", ");
        return Err(ReleaseRefused::Unproved { open });
    }
    let digest = Digest::of(&payload);
    floor.map_or(Ok(()), |floor| floor.allows(release.generation, digest))?;
    Ok(VerifiedRelease {
        release,
        digest,
        author,
        approvers,
    })
}

type Signers = (VerifyKey, Vec<VerifyKey>, Vec<u8>);

fn verify_signers(envelope: &Envelope, trust: &Trust) -> Result<Signers, ReleaseRefused> {
    let names = |keys: &[VerifyKey]| {
        let names = keys.iter().map(|key| key.name().to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    let (author, approvers) = trust.signers(envelope, PAYLOAD_TYPE);
    // Its bytes are read only once an author's signature was found to be over them.
    let (author, payload) = author
        .zip(envelope.unverified_payload().ok())
        .ok_or_else(|| ReleaseRefused::NoAuthor {
            expected: names(&trust.authors),
        })?;
    let needed = trust.approvals_needed();
    if approvers.len() < needed {
        return Err(ReleaseRefused::NotApproved {
            found: approvers.len(),
            needed,
            expected: names(&trust.others(Some(&author))),
        });
    }
    Ok((author, approvers, payload))
}
