//! Evidence of hosts: taken over byte by byte, once, in order, and only under the host's signature.

use super::frontier::Frontier;
use super::moves::Effects;
use super::{App, Peer};
use crate::error::AppError;
use lictor_evidence::merkle::verify_consistency;
use lictor_evidence::{Body, Checkpoint, Entry, Source, VerifyKey};
use lictor_store::{HostLog, Tx};
use lictor_types::{EVIDENCE_ENTRY_BYTES_MAX, HostId};
use lictor_wire::api::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, BATCH_PROOF_HASHES_MAX, EvidenceAccepted, EvidenceBatch,
};

impl App {
    /// Appends what follows the stored part of a host's log. What is stored already may come again,
    /// unchanged: an agent that was killed does not know what arrived.
    pub(crate) fn append_evidence(
        &self,
        peer: &Peer,
        batch: &EvidenceBatch,
    ) -> Result<EvidenceAccepted, AppError> {
        peer.must_be_host(&batch.host)?;
        check_limits(batch)?;
        let mut state = self.lock()?;
        let host = &batch.host;
        let mut frontier = state.log.host(host);
        let next = frontier.size();
        let new = state.store.read(|tx| new_entries(tx, batch, next))?;
        if new.is_empty() {
            return Ok(EvidenceAccepted { next });
        }
        let entries = parse(host, next, new)?;
        let (key, promised) = state.store.read(|tx| promises(tx, host))?;
        for text in new {
            frontier.push(text.as_bytes());
            check_promise(promised.as_ref(), host, &frontier)?;
        }
        let signed = check_checkpoint(batch, &key, &frontier)?;
        if promised.is_some_and(|promised| signed.size < promised.size) {
            return Err(rewritten(host, signed.size));
        }
        let whole = signed.size == frontier.size();
        let log = HostLog {
            next: frontier.size(),
            checkpoint: batch.checkpoint.clone(),
        };
        let release = state.release.clone();
        state.change(self.now_ms(), |tx, journal| {
            let first = journal.next();
            for text in new {
                journal.add_verbatim(text.as_bytes());
            }
            // An anchored checkpoint speaks of entries that are here; the last part brings one.
            if whole {
                journal.add(Body::CheckpointAnchored {
                    of: host.clone(),
                    checkpoint: batch.checkpoint.clone(),
                })?;
            }
            journal.store(tx)?;
            tx.advance_host_log(host, first, &log)?;
            let mut effects = Effects {
                tx,
                journal,
                host,
                release: release.as_deref(),
            };
            (first..)
                .zip(&entries)
                .try_for_each(|(number, entry)| effects.entry(number, entry))
        })?;
        let next = frontier.size();
        state.log.set_host(host, frontier);
        Ok(EvidenceAccepted { next })
    }
}

fn check_limits(batch: &EvidenceBatch) -> Result<(), AppError> {
    let bytes: usize = batch.entries.iter().map(String::len).sum();
    for (what, found, most) in [
        ("entries", batch.entries.len(), BATCH_ENTRIES_MAX),
        ("bytes of entries", bytes, BATCH_BYTES_MAX),
        ("hashes of proof", batch.proof.len(), BATCH_PROOF_HASHES_MAX),
    ] {
        if found > most {
            return Err(AppError::TooLarge(format!(
                "the batch has {found} {what}; send at most {most} at once"
            )));
        }
    }
    Ok(())
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

/// The key of a host's agent, and the newest checkpoint that it has signed, which may cover more
/// than is stored. One by a key that was removed since binds nobody.
fn promises(tx: &Tx, host: &HostId) -> Result<(VerifyKey, Option<Checkpoint>), AppError> {
    let text = tx.host(host)?.and_then(|row| row.key);
    let text = text.ok_or_else(|| {
        AppError::Forbidden(format!("host {host} has no enrolled agent; enrol it again"))
    })?;
    let key: VerifyKey = text
        .parse()
        .map_err(|error| AppError::Internal(format!("the key of {host}: {error}")))?;
    let promised = tx
        .host_log(host)?
        .and_then(|log| Checkpoint::verify(&log.checkpoint, &key).ok());
    Ok((key, promised))
}

/// A part was taken under a checkpoint that covers more. When that size is reached, the root must
/// be the one that was signed then: the rest of a log is bound as soon as its first part is here.
fn check_promise(
    promised: Option<&Checkpoint>,
    host: &HostId,
    log: &Frontier,
) -> Result<(), AppError> {
    let reached = promised.filter(|promised| promised.size == log.size());
    if reached.is_some_and(|promised| promised.root != log.root()) {
        return Err(rewritten(host, log.size()));
    }
    Ok(())
}

fn rewritten(host: &HostId, size: u64) -> AppError {
    AppError::Conflict(format!(
        "the checkpoint of {host} over {size} entries contradicts one that it signed before; its \
         log was rewritten"
    ))
}

/// The host must have signed exactly the log that results here, or one that begins with it.
fn check_checkpoint(
    batch: &EvidenceBatch,
    key: &VerifyKey,
    log: &Frontier,
) -> Result<Checkpoint, AppError> {
    let refused = |why: String| AppError::Refused {
        what: "the batch is refused, nothing was stored".into(),
        reasons: vec![why],
    };
    let signed = Checkpoint::verify(&batch.checkpoint, key)
        .map_err(|error| refused(format!("its checkpoint does not verify: {error}")))?;
    let (size, root) = (log.size(), log.root());
    let proven = verify_consistency((size, root), (signed.size, signed.root), &batch.proof);
    if let Err(error) = proven {
        let Checkpoint {
            size: found,
            root: other,
            ..
        } = &signed;
        return Err(refused(format!(
            "its checkpoint covers {found} entries with root {other}, the entries give {size} \
             with root {root}: {error}"
        )));
    }
    Ok(signed)
}
