//! Releases: verified as an agent verifies them, and only if the bindings hold under them too.

use super::bindings::{check, stored_log};
use super::{App, State, envelope_json, parse_envelope};
use crate::error::AppError;
use lictor_evidence::Body;
use lictor_policy::Date;
use lictor_store::{ReleaseRow, StoreError};
use lictor_wire::api::{Published, ReleaseDocument};
use lictor_wire::release::{Floor, verify};
use lictor_wire::{Envelope, ReleaseRefused, VerifiedRelease, gate};
use std::error::Error;
use std::sync::Arc;

impl App {
    /// The newest release.
    pub(crate) fn newest_release(&self) -> Result<ReleaseDocument, AppError> {
        let (row, freshness) = self
            .lock()?
            .store
            .read(|tx| Ok::<_, StoreError>((tx.newest_release()?, Self::freshness(tx)?)))?;
        let row = row.ok_or_else(|| AppError::NotFound("no release is published yet".into()))?;
        let envelope = parse_envelope(&row.envelope)?;
        Ok(ReleaseDocument {
            generation: row.generation,
            envelope,
            freshness,
        })
    }

    /// Stores a release that author and approvers have signed. The newest may be sent again.
    pub(crate) fn publish_release(&self, envelope: &Envelope) -> Result<Published, AppError> {
        let mut state = self.lock()?;
        let now_ms = self.now_ms();
        let release = match self.judge(&mut state, envelope) {
            Ok(release) => release,
            Err(error) => {
                if let AppError::Refused { reasons, .. } = &error {
                    let body = Body::ReleaseRefused {
                        reason: reasons.join("; "),
                    };
                    state.change(now_ms, |_, journal| journal.add(body))?;
                }
                return Err(error);
            }
        };
        let generation = release.release().generation;
        let published = Published {
            generation,
            digest: release.digest(),
        };
        if state
            .release
            .as_ref()
            .is_some_and(|known| known.digest() == release.digest())
        {
            return Ok(published);
        }
        let row = ReleaseRow {
            generation,
            digest: release.digest(),
            envelope: envelope_json(envelope)?,
        };
        state.change(now_ms, |tx, journal| {
            tx.add_release(&row)?;
            let bindings = check(stored_log(tx)?, &release)?;
            super::facts::release_facts(&release, &bindings, &self.trust)
                .into_iter()
                .try_for_each(|facts| journal.add(facts))
        })?;
        state.release = Some(Arc::new(release));
        Ok(published)
    }

    fn judge(&self, state: &mut State, envelope: &Envelope) -> Result<VerifiedRelease, AppError> {
        let floor = state.release.as_ref().map(|release| Floor {
            generation: release.release().generation,
            digest: release.digest(),
        });
        let release = verify(envelope, &self.trust, floor).map_err(|error| AppError::Refused {
            what: "the release is refused".into(),
            reasons: chain(&error),
        })?;
        // On the manager's own day too: an exception that has ended makes no new release.
        let today = Date::from_unix_seconds(self.now_ms() / 1_000);
        let open = gate::unproved(release.release(), &self.trust.approvers, today);
        if !open.is_empty() {
            let open = open.join(", ");
            return Err(AppError::Refused {
                what: "the release is refused".into(),
                reasons: vec![ReleaseRefused::Unproved { open }.to_string()],
            });
        }
        // Agents refuse bindings whole: a release that lacks what is bound would freeze them all.
        let log = state.store.read(stored_log)?;
        match check(log, &release) {
            Err(AppError::Refused { reasons, .. }) => Err(AppError::Refused {
                what: "the release is refused: the bindings in force do not hold under it".into(),
                reasons,
            }),
            Err(error) => Err(error),
            Ok(_) => Ok(release),
        }
    }
}

/// Texts of an error and its causes.
pub(super) fn chain(error: &dyn Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts
}
