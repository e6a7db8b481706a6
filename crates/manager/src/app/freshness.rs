//! Statements of which release is the newest, as witnesses sign them. The manager only carries
//! them: what it could say itself would be worth nothing.

use super::releases::chain;
use super::{App, envelope_json, parse_envelope};
use crate::error::AppError;
use lictor_evidence::Body;
use lictor_store::{StoreError, Tx};
use lictor_wire::api::Published;
use lictor_wire::{Envelope, Freshness};

impl App {
    /// The newest statement, if there is one.
    pub(super) fn freshness(tx: &Tx) -> Result<Option<Envelope>, StoreError> {
        let stored = tx.freshness()?;
        stored.as_deref().map(parse_envelope).transpose()
    }

    /// Stores a statement that enough witnesses have signed, unless it lapsed or is older than the
    /// one that is there. The same may be sent again.
    pub(crate) fn publish_freshness(&self, envelope: &Envelope) -> Result<Published, AppError> {
        let (said, signers) =
            Freshness::verify(envelope, &self.trust).map_err(|error| refused(chain(&error)))?;
        let now_ms = self.now_ms();
        if now_ms > said.expires_ms {
            let why = format!("it lapsed at {} ms, it is {now_ms} ms", said.expires_ms);
            return Err(refused(vec![why]));
        }
        let mut state = self.lock()?;
        let known = state.store.read(Self::freshness)?;
        let known = known.map(|known| Freshness::unverified(&known)).transpose();
        let known = known.map_err(|error| AppError::Internal(error.to_string()))?;
        if known
            .as_ref()
            .is_some_and(|known| known.issued_ms > said.issued_ms)
        {
            return Err(refused(vec![
                "a statement that was written later is here".into(),
            ]));
        }
        let published = Published {
            generation: said.generation,
            digest: said.digest,
        };
        if known.as_ref() == Some(&said) {
            return Ok(published);
        }
        let text = envelope_json(envelope)?;
        let body = Body::FreshnessStated {
            generation: said.generation,
            release: said.digest,
            expires_ms: said.expires_ms,
            signers: signers.iter().map(|key| key.name().to_string()).collect(),
        };
        state.change(now_ms, |tx, journal| {
            tx.set_freshness(&text)?;
            journal.add(body)
        })?;
        Ok(published)
    }
}

fn refused(reasons: Vec<String>) -> AppError {
    AppError::Refused {
        what: "the statement of freshness is refused".into(),
        reasons,
    }
}
