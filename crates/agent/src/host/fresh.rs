//! Which release is the newest: by what two persons signed and the manager offers, and by what
//! witnesses say apart from the manager.

use super::Host;
use crate::AgentError;
use crate::state::StateDir;
use lictor_wire::release::Floor;
use lictor_wire::{Envelope, Freshness, ReleaseRefused, Trust, VerifiedRelease};

/// What was kept of the witnesses' word. What does not count is as good as nothing.
pub(super) fn kept(state: &StateDir, trust: &Trust) -> Result<Option<Freshness>, AgentError> {
    let kept = state.freshness()?;
    let said = kept.and_then(|envelope| Freshness::verify(&envelope, trust).ok());
    Ok(said.map(|(said, _)| said))
}

impl Host {
    /// Takes a statement of which release is the newest, unless a later one is known. The release
    /// that decides goes on deciding.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if it does not count, [`AgentError::File`].
    pub fn witness(&mut self, envelope: &Envelope) -> Result<(), AgentError> {
        let (said, _) = Freshness::verify(envelope, &self.trust)
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        let known = self.fresh.as_ref();
        if known.is_some_and(|known| known.issued_ms >= said.issued_ms) {
            return Ok(());
        }
        self.state.keep_freshness(envelope)?;
        self.fresh = Some(said);
        Ok(())
    }

    /// Why the release that decides is not the newest, or is not known to be. Another host's word
    /// is no knowledge, nor is silence: only what two persons signed, and what witnesses did.
    #[must_use]
    pub fn stale(&self, now_ms: u64) -> Option<String> {
        if let Some((known, why)) = &self.newer {
            let decides = self.generation();
            return Some(format!(
                "release {known} is known and {decides} decides: {why}"
            ));
        }
        self.trust.freshness.as_ref()?;
        let decides = self.release.as_ref()?;
        match &self.fresh {
            Some(said) => said.against(decides, now_ms),
            None => Some(format!(
                "no witness has said yet that release {} is the newest",
                self.generation()
            )),
        }
    }

    /// Whether a release may be taken by what witnesses named: a host that forgot, or that is new,
    /// learns from them what is too old. What was enforced here already goes on.
    pub(super) fn witnessed(
        &self,
        offered: &VerifiedRelease,
        floor: Option<Floor>,
    ) -> Result<(), ReleaseRefused> {
        if floor.is_some_and(|floor| floor.digest == offered.digest()) {
            return Ok(());
        }
        let allows = |said: &Freshness| {
            let generation = offered.release().generation;
            said.allows(generation, offered.digest())
        };
        self.fresh.as_ref().map_or(Ok(()), allows)
    }
}
