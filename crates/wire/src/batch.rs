//! Cutting a host's log into batches that a manager takes one by one.

use crate::api::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, EvidenceBatch};
use lictor_evidence::{EvidenceError, Log, SigningKey, Storage};
use lictor_types::HostId;

/// The entries of a host's log from `first` on, as many as one batch holds, under a checkpoint over
/// the whole log; `None` if there are none.
///
/// # Errors
/// [`EvidenceError`] if the log cannot be read or signed.
pub fn next_batch<S: Storage>(
    host: &HostId,
    log: &mut Log<S>,
    key: &SigningKey,
    first: u64,
) -> Result<Option<EvidenceBatch>, EvidenceError> {
    let size = log.size();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for index in first..size {
        let entry = log.entry(index)?;
        bytes += entry.len();
        if entries.len() == BATCH_ENTRIES_MAX || bytes > BATCH_BYTES_MAX {
            break;
        }
        let text = String::from_utf8(entry)
            .map_err(|error| EvidenceError::Entry(format!("entry {index}: {error}")))?;
        entries.push(text);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let checkpoint = log.checkpoint(key)?;
    let end = first + entries.len() as u64;
    let proof = if end < size {
        log.consistency(end, size)?
    } else {
        Vec::new()
    };
    Ok(Some(EvidenceBatch {
        host: host.clone(),
        first,
        entries,
        checkpoint,
        proof,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BATCH_PROOF_HASHES_MAX;
    use lictor_evidence::merkle::{leaf_hash, verify_consistency};
    use lictor_evidence::{Checkpoint, KeyName, MemoryStorage, Tree};
    use lictor_types::{EVIDENCE_ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX};
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key() -> SigningKey {
        let name = KeyName::new("lictor.test/a").expect("a valid name");
        SigningKey::generate(name, &mut StdRng::seed_from_u64(1))
    }

    fn log(entries: usize, bytes: usize) -> Log<MemoryStorage> {
        let mut log = Log::open(MemoryStorage::default(), key().verify_key(), None).expect("new");
        log.append_all(vec![vec![b'"'; bytes]; entries])
            .expect("short entries");
        log
    }

    /// Cuts the log to its end and verifies each batch as a manager does.
    fn check(mut log: Log<MemoryStorage>, expected: &[usize]) {
        let host = HostId::new("a").expect("a valid name");
        let (mut next, mut counts, mut tree) = (0, Vec::new(), Tree::default());
        while let Some(batch) = next_batch(&host, &mut log, &key(), next).expect("a whole log") {
            assert_eq!(batch.first, next);
            for entry in &batch.entries {
                tree.push(leaf_hash(entry.as_bytes()));
            }
            let signed = Checkpoint::verify(&batch.checkpoint, log.key()).expect("signed");
            let (here, whole) = ((tree.len(), tree.root()), (signed.size, signed.root));
            verify_consistency(here, whole, &batch.proof).expect("the first part of the log");
            assert!(batch.proof.len() <= BATCH_PROOF_HASHES_MAX);
            assert_eq!(batch.proof.is_empty(), here == whole);
            let message = serde_json::to_vec(&batch).expect("JSON");
            assert!(message.len() <= MESSAGE_BYTES_MAX, "{}", message.len());
            counts.push(batch.entries.len());
            next = tree.len();
        }
        assert_eq!((next, counts.as_slice()), (log.size(), expected));
    }

    #[test]
    fn a_log_is_cut_at_the_limits_and_not_before() {
        let most = BATCH_BYTES_MAX / EVIDENCE_ENTRY_BYTES_MAX;
        assert!(most < BATCH_ENTRIES_MAX);
        check(log(0, 1), &[]);
        check(log(BATCH_ENTRIES_MAX, 1), &[BATCH_ENTRIES_MAX]);
        check(log(BATCH_ENTRIES_MAX + 1, 1), &[BATCH_ENTRIES_MAX, 1]);
        check(log(most, EVIDENCE_ENTRY_BYTES_MAX), &[most]);
        check(log(most + 1, EVIDENCE_ENTRY_BYTES_MAX), &[most, 1]);
        check(log(3 * most, EVIDENCE_ENTRY_BYTES_MAX), &[most, most, most]);
    }
}
