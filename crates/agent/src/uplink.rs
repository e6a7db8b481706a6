//! The thread that talks with the manager: it waits for the network so that the owner need not.

use crate::error::chain;
use crate::input::{Fetched, Input, Upload, Wants};
use crate::manager::Manager;
use crate::{AgentError, Host};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// What a round remembers of the one before.
pub(crate) struct Uplink {
    manager: Manager,
    inputs: SyncSender<Input>,
    round: Duration,
    wants: Wants,
}

impl Uplink {
    /// Connects as the enrolled agent of this host.
    ///
    /// # Errors
    /// [`AgentError`] if a file of the state directory is missing or broken.
    pub(crate) fn new(
        url: &str,
        host: &Host,
        inputs: SyncSender<Input>,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            manager: Manager::open(url, host.state())?,
            inputs,
            round: Duration::from_millis(host.config().round_ms),
            wants: Wants::default(),
        })
    }

    /// Goes on until the owner has ended.
    pub(crate) fn run(mut self) {
        loop {
            let begin = Instant::now();
            let fetched = match self.fetch() {
                Ok(fetched) => fetched,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "fetching from the manager failed");
                    None
                }
            };
            let (reply, answer) = sync_channel(1);
            let input = Input::Round {
                fetched: fetched.map(Box::new),
                wants: self.wants,
                reply,
            };
            if self.inputs.send(input).is_err() {
                return;
            }
            // A round that failed has no answer, and was logged; the next one may succeed. That the
            // owner has ended is seen when it is asked again.
            let more = match answer.recv() {
                Ok(Some(upload)) => self.upload(*upload),
                _ => false,
            };
            if !more {
                std::thread::sleep(self.round.saturating_sub(begin.elapsed()));
            }
        }
    }

    fn fetch(&self) -> Result<Option<Fetched>, AgentError> {
        let Some(document) = self.manager.release()? else {
            return Ok(None);
        };
        Ok(Some(Fetched {
            release: document.envelope,
            freshness: document.freshness,
            bindings: self.manager.bindings()?.log,
        }))
    }

    /// Each part stands alone: a manager that refuses a report still gets the evidence of it. Says
    /// whether it wants more at once: evidence that one batch does not hold, or live sessions.
    fn upload(&mut self, upload: Upload) -> bool {
        let warn = |what: &str, error: AgentError| {
            tracing::warn!(what, error = chain(&error), "telling the manager failed");
        };
        // The manager's own log says which it has: what it refuses now is offered again.
        for attestation in &upload.attestations {
            if let Err(error) = self.manager.attest(attestation) {
                warn("attest", error);
            }
        }
        match self.manager.report(&upload.report) {
            Ok(known) => {
                self.wants.next_entry = Some(self.wants.next_entry.unwrap_or(known.next));
                // What this round lists is sent below, and was not known to the manager yet.
                self.wants.sessions = known.sessions_wanted && upload.sessions.is_none();
            }
            Err(error) => warn("report", error),
        }
        if let Some(listing) = &upload.sessions
            && let Err(error) = self.manager.list_sessions(listing)
        {
            warn("sessions", error);
        }
        let Some(batch) = &upload.evidence else {
            return self.wants.sessions;
        };
        match self.manager.evidence(batch) {
            Ok(accepted) => {
                self.wants.next_entry = Some(accepted.next);
                !batch.proof.is_empty() || self.wants.sessions
            }
            Err(error) => {
                // What it has is asked for again: it may have been restored from a copy.
                self.wants.next_entry = None;
                warn("evidence", error);
                false
            }
        }
    }
}
