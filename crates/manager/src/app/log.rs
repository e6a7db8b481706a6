//! The manager's own log: entries become durable with the change that they tell of, then a
//! checkpoint over them is signed, and only then is the caller answered.

use super::frontier::Frontier;
use super::{App, State};
use crate::error::{AppError, ManagerError};
use lictor_evidence::{Body, Checkpoint, Entry, Note, SigningKey, Source, VerifyKey};
use lictor_store::{Store, Tx};
use lictor_types::HostId;
use lictor_wire::api::Entries;
use std::collections::BTreeMap;

/// Entries read at once when a log is checked.
const READ_ENTRIES: u64 = 1_024;

/// The manager's log and what it contains of the hosts' logs.
pub(super) struct Log {
    key: SigningKey,
    frontier: Frontier,
    hosts: BTreeMap<HostId, Frontier>,
    /// Entries that the manager wrote itself: the number of its next one.
    own: u64,
}

/// The entries of one change. They are stored with it or not at all.
pub(crate) struct Journal {
    now_ms: u64,
    own: u64,
    first: u64,
    stored: usize,
    entries: Vec<Vec<u8>>,
}

impl Journal {
    /// Tells of something that the manager did or saw.
    pub(crate) fn add(&mut self, body: Body) -> Result<(), AppError> {
        let entry = Entry::new(Source::Manager, self.own, self.now_ms, body);
        let bytes = entry
            .to_bytes()
            .map_err(|error| AppError::Internal(error.to_string()))?;
        self.entries.push(bytes);
        self.own += 1;
        Ok(())
    }

    /// Takes over an entry of a host's log, byte by byte, and returns the number that it gets.
    pub(super) fn add_verbatim(&mut self, bytes: &[u8]) -> u64 {
        self.entries.push(bytes.to_vec());
        self.next() - 1
    }

    /// The time of the change, in milliseconds of Unix time by the manager's clock.
    pub(super) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The number that the next entry will have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Writes what was added so far, so that other rows of the same change can point at it.
    pub(super) fn store(&mut self, tx: &Tx) -> Result<(), AppError> {
        tx.append_entries(
            self.first + self.stored as u64,
            &self.entries[self.stored..],
        )?;
        self.stored = self.entries.len();
        Ok(())
    }
}

impl Log {
    /// Reads the whole log and refuses one that was cut or changed.
    pub(super) fn open(store: &mut Store, key: SigningKey) -> Result<Self, ManagerError> {
        let (size, signed) =
            store.read(|tx| Ok::<_, AppError>((tx.log_size()?, tx.checkpoint()?)))?;
        let signed = signed
            .map(|(_, note)| read_checkpoint(&note, &key.verify_key()))
            .transpose()?;
        let mut frontier = Frontier::default();
        let covers = |frontier: &Frontier| {
            signed
                .as_ref()
                .is_some_and(|signed| signed.size == frontier.size())
        };
        let mut root_then = covers(&frontier).then(|| frontier.root());
        while frontier.size() < size {
            let entries = store.read(|tx| tx.entries(frontier.size(), READ_ENTRIES))?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                frontier.push(&entry);
                if covers(&frontier) {
                    root_then = Some(frontier.root());
                }
            }
        }
        let (found, signed_size) = (frontier.size(), signed.as_ref().map_or(0, |s| s.size));
        let rolled_back = |detail: &str| {
            let detail = detail.to_owned();
            Err(ManagerError::RolledBack {
                found,
                signed: signed_size,
                detail,
            })
        };
        if found != size {
            return rolled_back("entries are missing from its middle");
        }
        if signed_size > found {
            return rolled_back("entries are missing from its end");
        }
        if signed.is_some_and(|signed| root_then != Some(signed.root)) {
            return rolled_back("the root of those entries is not the one signed");
        }
        let hosts = open_hosts(store)?;
        let theirs = hosts.values().map(Frontier::size).sum::<u64>();
        let Some(own) = found.checked_sub(theirs) else {
            return rolled_back("hosts' logs hold more entries than it");
        };
        let mut log = Self {
            key,
            frontier,
            hosts,
            own,
        };
        // A crash between storing entries and signing leaves a tail that no checkpoint covers yet.
        if found > signed_size {
            log.sign(store)?;
        }
        Ok(log)
    }

    /// Signs a checkpoint over everything stored. The entries are durable when this is called.
    fn sign(&mut self, store: &mut Store) -> Result<(), AppError> {
        let internal =
            |error: lictor_evidence::EvidenceError| AppError::Internal(error.to_string());
        let checkpoint = Checkpoint {
            origin: self.key.name().to_string(),
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        let mut note = Note::new(checkpoint.to_string()).map_err(internal)?;
        note.sign(&self.key);
        store.write(|tx| tx.set_checkpoint(checkpoint.size, &note.to_string()))?;
        Ok(())
    }

    /// Whether nothing was ever told.
    pub(super) fn is_empty(&self) -> bool {
        self.frontier.size() == 0
    }

    /// The log of a host as far as it is stored.
    pub(super) fn host(&self, host: &HostId) -> Frontier {
        self.hosts.get(host).cloned().unwrap_or_default()
    }

    /// Replaces it once the batch that extends it is durable.
    pub(super) fn set_host(&mut self, host: &HostId, frontier: Frontier) {
        self.hosts.insert(host.clone(), frontier);
    }
}

fn read_checkpoint(note: &str, key: &VerifyKey) -> Result<Checkpoint, AppError> {
    Checkpoint::verify(note, key).map_err(|error| {
        AppError::Internal(format!("the stored checkpoint is not this log's: {error}"))
    })
}

fn open_hosts(store: &mut Store) -> Result<BTreeMap<HostId, Frontier>, ManagerError> {
    let mut hosts = BTreeMap::new();
    for (name, log) in store.read(Tx::host_logs)? {
        let host: HostId = name
            .parse()
            .map_err(|_| AppError::Internal(format!("the store names a host {name:?}")))?;
        let mut frontier = Frontier::default();
        while frontier.size() < log.next {
            let entries = store.read(|tx| tx.host_entries(&host, frontier.size(), READ_ENTRIES))?;
            if entries.is_empty() {
                let (found, signed) = (frontier.size(), log.next);
                let detail = format!("entries of host {host} are missing");
                return Err(ManagerError::RolledBack {
                    found,
                    signed,
                    detail,
                });
            }
            for entry in entries {
                frontier.push(&entry);
            }
        }
        hosts.insert(host, frontier);
    }
    Ok(hosts)
}

impl State {
    /// Runs a change and stores it together with the entries that tell of it. When this returns,
    /// both are durable; then a checkpoint over them is signed.
    pub(super) fn change<T>(
        &mut self,
        now_ms: u64,
        body: impl FnOnce(&Tx, &mut Journal) -> Result<T, AppError>,
    ) -> Result<T, AppError> {
        let first = self.log.frontier.size();
        let own = self.log.own;
        let mut journal = Journal {
            now_ms,
            own,
            first,
            stored: 0,
            entries: Vec::new(),
        };
        let value = self.store.write(|tx| {
            let value = body(tx, &mut journal)?;
            journal.store(tx)?;
            Ok::<_, AppError>(value)
        })?;
        self.log.own = journal.own;
        for entry in &journal.entries {
            self.log.frontier.push(entry);
        }
        if !journal.entries.is_empty()
            && let Err(error) = self.log.sign(&mut self.store)
        {
            // The change itself is durable, so the caller must not hear that it failed. The next
            // change, or the next start, signs over these entries.
            tracing::error!(%error, "the checkpoint over new entries could not be stored");
        }
        Ok(value)
    }
}

impl App {
    /// The newest signed checkpoint.
    pub(crate) fn checkpoint(&self) -> Result<String, AppError> {
        let found = self.lock()?.store.read(Tx::checkpoint)?;
        let missing = || AppError::NotFound("the log is empty, nothing was signed yet".into());
        found.map(|(_, note)| note).ok_or_else(missing)
    }

    /// Entries of the log.
    pub(crate) fn entries(&self, first: u64, count: u64) -> Result<Entries, AppError> {
        let entries = self.lock()?.store.read(|tx| tx.entries(first, count))?;
        let texts: Result<Vec<_>, _> = entries.into_iter().map(String::from_utf8).collect();
        let entries =
            texts.map_err(|_| AppError::Internal("a stored entry is not a text".into()))?;
        Ok(Entries { first, entries })
    }
}
