//! What an agent keeps in its state directory that others on its host need when it does not answer:
//! the signed release and bindings, and with them what a guest's owner chose for such a moment.

use crate::binding::{self, BindingLog, Bindings, BindingsRefused};
use crate::release::{self, Floor, ReleaseRefused, VerifiedRelease};
use crate::{Envelope, Trust};
use lictor_policy::{Cause, Choice, Date};
use lictor_types::{Epoch, GuestId};
use serde::{Deserialize, Serialize};

/// Whom the agent believes.
pub const TRUST: &str = "trust.json";
/// The last good release, as it was signed.
pub const RELEASE: &str = "release.json";
/// The last good bindings, as they were signed.
pub const BINDINGS: &str = "bindings.json";
/// The newest statement of which release is the newest, as it was signed.
pub const FRESHNESS: &str = "freshness.json";
/// The newest release that was enforced.
pub const FLOOR: &str = "floor.json";
/// What was let pass without the agent: one [`Passed`] a line. The agent records it, and takes the
/// file away.
pub const PASSED: &str = "passed.jsonl";
/// Bytes of that file; with so many, nothing more is let pass.
pub const PASSED_BYTES_MAX: u64 = 1 << 20;

/// The files of a state directory, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Whom the agent believes.
    pub trust: Trust,
    /// The last good release.
    pub release: Envelope,
    /// The newest release that was enforced.
    pub floor: Option<Floor>,
    /// The last good bindings.
    pub bindings: BindingLog,
}

/// Somebody let a guest pass because no agent answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// The guest.
    pub guest: GuestId,
    /// When, in milliseconds of Unix time.
    pub at_ms: u64,
}

/// Why what was kept says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    /// The release does not count.
    #[error("the release that the agent keeps does not count")]
    Release(#[from] ReleaseRefused),
    /// The bindings do not count.
    #[error("the bindings that the agent keeps do not count")]
    Bindings(#[from] BindingsRefused),
}

/// What a guest's owner chose for a cause, by what is enforced; a guest that is not known has the
/// strictest choice.
#[must_use]
pub fn choice(
    (release, bindings): (Option<&VerifiedRelease>, &Bindings),
    guest: &GuestId,
    cause: Cause,
    now_ms: u64,
) -> Choice {
    let known = release.zip(bindings.guest(guest));
    let chosen = known.and_then(|(release, binding)| {
        let policy = &release.release().policy;
        let today = Date::from_unix_seconds(now_ms / 1_000);
        Some(policy.choice_on(policy.identity_of(&binding.labels)?, cause, today))
    });
    chosen.unwrap_or(cause.default_choice())
}

impl Kept {
    /// The same, after every signature was checked as the agent does.
    ///
    /// # Errors
    /// [`KeptError`].
    pub fn choice(&self, guest: &GuestId, cause: Cause, now_ms: u64) -> Result<Choice, KeptError> {
        let release = release::verify(&self.release, &self.trust, self.floor)?;
        let bindings = binding::verify(&self.bindings, &release, Epoch(0))?;
        Ok(choice((Some(&release), &bindings), guest, cause, now_ms))
    }
}
