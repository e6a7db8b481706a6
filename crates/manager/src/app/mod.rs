//! What the manager does, one file for each resource. Nothing here knows HTTP; every function
//! blocks, takes the state for as long as it runs, and reads the clock that it was given.

mod bindings;
mod evidence;
mod facts;
mod freshness;
mod frontier;
mod hosts;
mod log;
mod moves;
mod pack;
mod placements;
mod releases;
mod sessions;
mod trust;
mod unprotected;

pub(crate) use trust::{Peer, issue_token};

use crate::authority::Authority;
use crate::error::{AppError, ManagerError};
use lictor_evidence::SigningKey;
use lictor_store::{Store, StoreError, Tx};
use lictor_wire::{Envelope, Trust, VerifiedRelease};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard};

/// Milliseconds of Unix time.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The manager without its sockets.
pub(crate) struct App {
    state: Mutex<State>,
    /// Apart from the state: nothing of it is durable, and who reads it waits for no transaction.
    sessions: Mutex<sessions::Asked>,
    authority: Authority,
    trust: Trust,
    clock: Clock,
}

/// All that changes. One lock: SQLite has one writer anyway, and the log has one end.
pub(crate) struct State {
    store: Store,
    log: log::Log,
    release: Option<Arc<VerifiedRelease>>,
}

/// What an app is made of.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) key: SigningKey,
    pub(crate) authority: Authority,
    pub(crate) trust: Trust,
    pub(crate) clock: Clock,
}

/// Whether the manager works, and what it holds.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
    revision: u64,
    entries: u64,
}

impl App {
    /// Opens the log, and verifies the newest release again: what the disk says is not believed.
    pub(crate) fn open(mut parts: Parts) -> Result<Self, ManagerError> {
        let log = log::Log::open(&mut parts.store, parts.key)?;
        let release = match parts.store.read(Tx::newest_release)? {
            None => None,
            Some(row) => {
                let envelope = parse_envelope(&row.envelope)?;
                let release = lictor_wire::release::verify(&envelope, &parts.trust, None);
                let release = release.map_err(|error| AppError::Refused {
                    what: format!("the stored release {} is refused", row.generation),
                    reasons: releases::chain(&error),
                })?;
                Some(Arc::new(release))
            }
        };
        let mut state = State {
            store: parts.store,
            log,
            release,
        };
        if state.log.is_empty() {
            state.change((parts.clock)(), |_, journal| {
                trust::tell(&parts.trust, journal)
            })?;
        }
        let state = Mutex::new(state);
        let Parts {
            authority,
            trust,
            clock,
            ..
        } = parts;
        Ok(Self {
            state,
            sessions: Mutex::default(),
            authority,
            trust,
            clock,
        })
    }

    fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// A call that panicked may have left the log in memory behind the log on disk: only a restart,
    /// which reads it again, is safe.
    fn lock(&self) -> Result<MutexGuard<'_, State>, AppError> {
        self.state.lock().map_err(|_| {
            AppError::Internal("an earlier call broke off; restart the manager".into())
        })
    }

    /// Whether the state can be read.
    pub(crate) fn health(&self) -> Result<Health, AppError> {
        let mut state = self.lock()?;
        let (revision, entries) = state
            .store
            .read(|tx| Ok::<_, AppError>((tx.revision()?, tx.log_size()?)))?;
        Ok(Health {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
            revision,
            entries,
        })
    }
}

fn parse_envelope(text: &str) -> Result<Envelope, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt {
        detail: error.to_string(),
    })
}

fn envelope_json(envelope: &Envelope) -> Result<String, AppError> {
    serde_json::to_string(envelope).map_err(|error| AppError::Internal(error.to_string()))
}
