//! Evidence of hosts: taken over byte by byte, once, in order, and only under the host's signature.

use super::frontier::Frontier;
use super::{App, Peer};
use crate::error::AppError;
use crate::limits::{ENTRIES_PER_BATCH_MAX, MOVES_PER_ANSWER_MAX};
use lictor_evidence::{Body, Checkpoint, Entry, MoveRecord, Source, VerifyKey};
use lictor_store::{HostLog, Tx};
use lictor_types::{EVIDENCE_ENTRY_BYTES_MAX, HostId};
use lictor_wire::api::{EvidenceAccepted, EvidenceBatch};

impl App {
    /// Appends what follows the stored part of a host's log. What is stored already may come again,
    /// unchanged: an agent that was killed does not know what arrived.
    pub(crate) fn append_evidence(
        &self,
        peer: &Peer,
        batch: &EvidenceBatch,
    ) -> Result<EvidenceAccepted, AppError> {
        peer.must_be_host(&batch.host)?;
        let count = batch.entries.len();
        if count > ENTRIES_PER_BATCH_MAX {
            return Err(AppError::TooLarge(format!(
                "the batch has {count} entries; send at most {ENTRIES_PER_BATCH_MAX} at once"
            )));
        }
        let mut state = self.lock()?;
        let host = &batch.host;
        let mut frontier = state.log.host(host);
        let next = frontier.size();
        let new = state.store.read(|tx| new_entries(tx, batch, next))?;
        if new.is_empty() {
            return Ok(EvidenceAccepted { next });
        }
        let entries = parse(host, next, new)?;
        for text in new {
            frontier.push(text.as_bytes());
        }
        let key = state.store.read(|tx| agent_key(tx, host))?;
        check_checkpoint(&batch.checkpoint, &key, &frontier)?;
        let log = HostLog {
            next: frontier.size(),
            checkpoint: batch.checkpoint.clone(),
        };
        state.change(self.now_ms(), |tx, journal| {
            let first = journal.next();
            let mut moves = Vec::new();
            for (text, entry) in new.iter().zip(&entries) {
                let number = journal.add_verbatim(text.as_bytes());
                if let Body::MoveRecorded { record, .. } = &entry.body {
                    moves.push((number, move_json(record)?));
                }
            }
            let checkpoint = batch.checkpoint.clone();
            journal.add(Body::CheckpointAnchored {
                of: host.clone(),
                checkpoint,
            })?;
            journal.store(tx)?;
            tx.advance_host_log(host, first, &log)?;
            for (number, body) in moves {
                tx.add_move(number, &body)?;
            }
            Ok(())
        })?;
        let next = frontier.size();
        state.log.set_host(host, frontier);
        Ok(EvidenceAccepted { next })
    }

    /// The newest move records, the oldest of them first.
    pub(crate) fn moves(&self) -> Result<Vec<MoveRecord>, AppError> {
        let rows = self
            .lock()?
            .store
            .read(|tx| tx.moves(MOVES_PER_ANSWER_MAX))?;
        let broken = |error| AppError::Internal(format!("a stored move cannot be read: {error}"));
        rows.iter()
            .map(|row| serde_json::from_str(row).map_err(broken))
            .collect()
    }
}

fn move_json(record: &MoveRecord) -> Result<String, AppError> {
    serde_json::to_string(record).map_err(|error| AppError::Internal(error.to_string()))
}

/// The part of a batch that is not stored yet. The other part must be what is stored.
fn new_entries<'a>(tx: &Tx, batch: &'a EvidenceBatch, next: u64) -> Result<&'a [String], AppError> {
    let EvidenceBatch {
        host,
        first,
        entries,
        ..
    } = batch;
    let end = first.checked_add(entries.len() as u64);
    let Some(end) = end.filter(|_| *first <= next) else {
        return Err(AppError::Conflict(format!(
            "the batch of {host} begins with entry {first}, but {next} is next; send from there"
        )));
    };
    let known = tx.host_entries(host, *first, end.min(next) - first)?;
    for (number, (known, sent)) in (*first..).zip(known.iter().zip(entries)) {
        if known != sent.as_bytes() {
            return Err(AppError::Conflict(format!(
                "entry {number} of {host} is stored with other content; its log was rewritten, \
                 and {next} is next"
            )));
        }
    }
    Ok(&entries[known.len()..])
}

fn parse(host: &HostId, next: u64, texts: &[String]) -> Result<Vec<Entry>, AppError> {
    let mut entries = Vec::with_capacity(texts.len());
    for (number, text) in (next..).zip(texts) {
        let malformed = |why: String| {
            AppError::Malformed(format!("entry {number} of {host} is refused: {why}"))
        };
        if text.len() > EVIDENCE_ENTRY_BYTES_MAX {
            let what = format!(
                "{} bytes, at most {EVIDENCE_ENTRY_BYTES_MAX} fit",
                text.len()
            );
            return Err(malformed(what));
        }
        let entry =
            Entry::from_bytes(text.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        if entry.host != Source::Host(host.clone()) || entry.seq != number {
            let (writer, seq) = (&entry.host, entry.seq);
            return Err(malformed(format!(
                "it says that it is entry {seq} of {writer}"
            )));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn agent_key(tx: &Tx, host: &HostId) -> Result<VerifyKey, AppError> {
    let text = tx.host(host)?.and_then(|row| row.key);
    let text = text.ok_or_else(|| {
        AppError::Forbidden(format!("host {host} has no enrolled agent; enrol it again"))
    })?;
    text.parse()
        .map_err(|error| AppError::Internal(format!("the key of {host}: {error}")))
}

/// The host must have signed exactly the log that results here.
fn check_checkpoint(text: &str, key: &VerifyKey, log: &Frontier) -> Result<(), AppError> {
    let refused = |why: String| AppError::Refused {
        what: "the batch is refused, nothing was stored".into(),
        reasons: vec![why],
    };
    let checkpoint = Checkpoint::verify(text, key)
        .map_err(|error| refused(format!("its checkpoint does not verify: {error}")))?;
    let (size, root) = (log.size(), log.root());
    if checkpoint.size != size || checkpoint.root != root {
        let Checkpoint {
            size: found,
            root: signed,
            ..
        } = checkpoint;
        return Err(refused(format!(
            "its checkpoint covers {found} entries with root {signed}, the entries give {size} \
             with root {root}"
        )));
    }
    Ok(())
}
