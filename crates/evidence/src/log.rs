//! An append-only log over any storage. It never signs two checkpoints that contradict each other,
//! and it never opens on a storage that is behind what was signed.

use crate::merkle::leaf_hash;
use crate::tile::entry_length;
use crate::{Checkpoint, EvidenceError, LogProof, SigningKey, Tree, VerifyKey};
use lictor_types::Digest;

/// Where a log keeps its bytes. `append` and `store_checkpoint` return only when what they were
/// given survives a power cut; entries go to disk before the checkpoint that covers them.
pub trait Storage {
    /// Shows every entry, in order.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if it cannot be read.
    fn replay(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), EvidenceError>;

    /// One entry.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if there is none or it cannot be read.
    fn read(&self, index: u64) -> Result<Vec<u8>, EvidenceError>;

    /// Adds entries from `index` on, durably.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if they may not be on disk.
    fn append(&mut self, index: u64, entries: &[Vec<u8>]) -> Result<(), EvidenceError>;

    /// The newest signed checkpoint.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if it cannot be read.
    fn checkpoint(&self) -> Result<Option<String>, EvidenceError>;

    /// Replaces the newest signed checkpoint, durably.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if it may not be on disk.
    fn store_checkpoint(&mut self, text: &str) -> Result<(), EvidenceError>;
}

/// A storage without a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStorage {
    /// The entries.
    pub entries: Vec<Vec<u8>>,
    /// The newest signed checkpoint.
    pub checkpoint: Option<String>,
}

impl Storage for MemoryStorage {
    fn replay(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), EvidenceError> {
        self.entries.iter().for_each(|entry| visit(entry));
        Ok(())
    }

    fn read(&self, index: u64) -> Result<Vec<u8>, EvidenceError> {
        let place = usize::try_from(index).ok();
        let entry = place.and_then(|place| self.entries.get(place));
        entry
            .cloned()
            .ok_or_else(|| EvidenceError::Storage(format!("there is no entry {index}")))
    }

    fn append(&mut self, index: u64, entries: &[Vec<u8>]) -> Result<(), EvidenceError> {
        if index != self.entries.len() as u64 {
            let have = self.entries.len();
            return Err(EvidenceError::Storage(format!(
                "entry {index} after {have} entries"
            )));
        }
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    fn checkpoint(&self) -> Result<Option<String>, EvidenceError> {
        Ok(self.checkpoint.clone())
    }

    fn store_checkpoint(&mut self, text: &str) -> Result<(), EvidenceError> {
        self.checkpoint = Some(text.into());
        Ok(())
    }
}

/// The log. Its origin is its key's name.
#[derive(Debug)]
pub struct Log<S> {
    storage: S,
    key: VerifyKey,
    tree: Tree,
    signed: Option<(Checkpoint, String)>,
    failed: bool,
}

impl<S: Storage> Log<S> {
    /// Opens a log, or begins one if the storage is empty. `floor` is the newest checkpoint that
    /// someone else kept (a manager, a witness): without it a storage that was reverted as a whole,
    /// checkpoint included, looks sound.
    ///
    /// # Errors
    /// [`EvidenceError::RolledBack`] if the storage is behind or beside what was signed, other
    /// errors if it cannot be read or its checkpoint is not by `key`.
    pub fn open(
        storage: S,
        key: VerifyKey,
        floor: Option<&Checkpoint>,
    ) -> Result<Self, EvidenceError> {
        let mut tree = Tree::default();
        storage.replay(&mut |entry| tree.push(leaf_hash(entry)))?;
        let signed = match storage.checkpoint()? {
            Some(text) => Some((Checkpoint::verify(&text, &key)?, text)),
            None => None,
        };
        let own = signed.as_ref().map(|(checkpoint, _)| checkpoint);
        for known in own.into_iter().chain(floor) {
            check_floor(&tree, known)?;
        }
        Ok(Self {
            storage,
            key,
            tree,
            signed,
            failed: false,
        })
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.key.name().as_str()
    }

    /// The key that checkpoints are verified with.
    #[must_use]
    pub const fn key(&self) -> &VerifyKey {
        &self.key
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.len()
    }

    /// The tree over all entries.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The storage.
    #[must_use]
    pub const fn storage(&self) -> &S {
        &self.storage
    }

    /// Gives the storage back.
    #[must_use]
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Adds one entry durably and returns its index.
    ///
    /// # Errors
    /// As [`Log::append_all`].
    pub fn append(&mut self, entry: &[u8]) -> Result<u64, EvidenceError> {
        self.append_all(vec![entry.to_vec()])
    }

    /// Adds entries durably, all or none, and returns the first one's index.
    ///
    /// # Errors
    /// [`EvidenceError::Entry`] if one is too long; nothing is written then. A storage error closes
    /// the log: what is on disk is unknown until it is opened again.
    pub fn append_all(&mut self, entries: Vec<Vec<u8>>) -> Result<u64, EvidenceError> {
        self.check_usable()?;
        for entry in &entries {
            entry_length(entry)?;
        }
        let first = self.tree.len();
        self.storage
            .append(first, &entries)
            .inspect_err(|_| self.failed = true)?;
        entries
            .iter()
            .for_each(|entry| self.tree.push(leaf_hash(entry)));
        Ok(first)
    }

    /// The bytes of an entry.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if there is none.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, EvidenceError> {
        self.storage.read(index)
    }

    /// The bytes of all entries, for a pack.
    ///
    /// # Errors
    /// [`EvidenceError::Storage`] if they cannot be read.
    pub fn entries(&self) -> Result<Vec<Vec<u8>>, EvidenceError> {
        let mut entries = Vec::new();
        self.storage
            .replay(&mut |entry| entries.push(entry.to_vec()))?;
        Ok(entries)
    }

    /// The root over the first `size` entries; `None` if there are fewer.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        self.tree.root_at(size)
    }

    /// The newest signed checkpoint as text.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&str> {
        self.signed.as_ref().map(|(_, text)| text.as_str())
    }

    /// Signs the present state. The text leaves only after it is on disk, so that no crash makes
    /// the log forget what it promised. An unchanged log returns the same text.
    ///
    /// # Errors
    /// [`EvidenceError`] if the key is another log's, the state contradicts what was signed, or the
    /// storage fails.
    pub fn checkpoint(&mut self, key: &SigningKey) -> Result<String, EvidenceError> {
        self.check_usable()?;
        if key.verify_key() != self.key || key.name() != self.key.name() {
            let (found, expected) = (key.verify_key().id(), self.key.id());
            return Err(EvidenceError::Checkpoint(format!(
                "key {found}; expected {expected}"
            )));
        }
        if let Some((signed, text)) = &self.signed {
            check_floor(&self.tree, signed)?;
            if signed.size == self.tree.len() {
                return Ok(text.clone());
            }
        }
        let (origin, size, root) = (self.origin().into(), self.tree.len(), self.tree.root());
        let checkpoint = Checkpoint { origin, size, root };
        let text = checkpoint.sign(key)?;
        self.storage
            .store_checkpoint(&text)
            .inspect_err(|_| self.failed = true)?;
        self.signed = Some((checkpoint, text.clone()));
        Ok(text)
    }

    /// The path of an entry to the root over the first `size`.
    ///
    /// # Errors
    /// [`EvidenceError::Proof`] if there is no such entry.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Digest>, EvidenceError> {
        self.tree.inclusion(index, size)
    }

    /// The proof that the first `old` entries are a prefix of the first `new`.
    ///
    /// # Errors
    /// [`EvidenceError::Proof`] if the log was never of those sizes.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, EvidenceError> {
        self.tree.consistency(old, new)
    }

    /// The proof of an entry in one text, under the newest checkpoint.
    ///
    /// # Errors
    /// [`EvidenceError::Proof`] if nothing is signed yet or the entry is newer.
    pub fn proof(&self, index: u64) -> Result<LogProof, EvidenceError> {
        let (signed, text) = self
            .signed
            .as_ref()
            .ok_or_else(|| EvidenceError::Proof("the log has no checkpoint yet".into()))?;
        let hashes = self.tree.inclusion(index, signed.size)?;
        Ok(LogProof {
            index,
            hashes,
            checkpoint: text.clone(),
        })
    }

    fn check_usable(&self) -> Result<(), EvidenceError> {
        if self.failed {
            let text = "a write failed before; open the log again to learn what is on disk";
            return Err(EvidenceError::Storage(text.into()));
        }
        Ok(())
    }
}

fn check_floor(tree: &Tree, signed: &Checkpoint) -> Result<(), EvidenceError> {
    match tree.root_at(signed.size) {
        Some(root) if root == signed.root => Ok(()),
        Some(root) => Err(EvidenceError::rolled_back(
            signed,
            format!("the root {root}"),
        )),
        None => Err(EvidenceError::rolled_back(
            signed,
            format!("{} entries", tree.len()),
        )),
    }
}

/// Bytes of the check at the end of each frame.
const FRAME_CHECK_BYTES: usize = 8;

/// One entry as a log file holds it: length, entry, and the head of its leaf hash, by which a torn
/// write is told from a whole one.
///
/// # Errors
/// [`EvidenceError::Entry`] if it is too long.
pub fn frame(entry: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    let length = entry_length(entry)?.to_be_bytes();
    Ok([
        length.as_slice(),
        entry,
        &leaf_hash(entry).0[..FRAME_CHECK_BYTES],
    ]
    .concat())
}

/// What a log file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The whole entries.
    pub entries: Vec<Vec<u8>>,
    /// Bytes of the whole entries: cut the file here before the next append.
    pub valid_bytes: u64,
    /// Bytes of a torn write after them. They were never covered by a checkpoint.
    pub torn_bytes: u64,
}

/// Reads a log file, also after a crash in the middle of a write. A torn tail is cut only past the
/// newest signed checkpoint; damage before it is no crash, and refused.
///
/// # Errors
/// [`EvidenceError::RolledBack`] if what was signed is not whole.
pub fn recover(bytes: &[u8], signed: Option<&Checkpoint>) -> Result<Recovered, EvidenceError> {
    let (mut entries, mut rest, mut tree) = (Vec::new(), bytes, Tree::default());
    while let Some((entry, tail)) = split_frame(rest) {
        tree.push(leaf_hash(entry));
        entries.push(entry.to_vec());
        rest = tail;
    }
    if let Some(signed) = signed {
        check_floor(&tree, signed)?;
    }
    let torn_bytes = rest.len() as u64;
    Ok(Recovered {
        entries,
        valid_bytes: bytes.len() as u64 - torn_bytes,
        torn_bytes,
    })
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (check, rest) = rest.split_at_checked(FRAME_CHECK_BYTES)?;
    (leaf_hash(entry).0[..FRAME_CHECK_BYTES] == *check).then_some((entry, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyName, merkle};
    use lictor_types::EVIDENCE_ENTRY_BYTES_MAX;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key(seed: u64) -> SigningKey {
        let name = KeyName::new("lictor.test/log").expect("valid");
        SigningKey::generate(name, &mut StdRng::seed_from_u64(seed))
    }

    fn log_of(count: usize) -> Log<MemoryStorage> {
        let mut log = Log::open(MemoryStorage::default(), key(1).verify_key(), None).expect("new");
        log.append_all(
            (0..count)
                .map(|n| format!("entry {n}").into_bytes())
                .collect(),
        )
        .expect("ok");
        log
    }

    #[test]
    fn proofs_of_a_log_hold_under_its_checkpoint() {
        let mut log = log_of(5);
        let old = Checkpoint::verify(&log.checkpoint(&key(1)).expect("signs"), log.key());
        let old = old.expect("verifies");
        log.append(b"entry 5").expect("appends");
        let new = Checkpoint::verify(&log.checkpoint(&key(1)).expect("signs"), log.key());
        let new = new.expect("verifies");
        let proof = log.consistency(old.size, new.size).expect("both were");
        merkle::verify_consistency((old.size, old.root), (new.size, new.root), &proof).expect("ok");
        log.proof(5)
            .expect("signed")
            .verify(b"entry 5", log.key())
            .expect("holds");
        assert!(log.proof(6).is_err());
    }

    #[test]
    fn an_unchanged_log_signs_once_and_only_with_its_own_key() {
        let mut log = log_of(3);
        let text = log.checkpoint(&key(1)).expect("signs");
        assert_eq!(log.checkpoint(&key(1)).expect("same"), text);
        assert!(log.checkpoint(&key(2)).is_err());
    }

    #[test]
    fn a_storage_behind_or_beside_what_was_signed_is_refused() {
        let mut log = log_of(3);
        log.checkpoint(&key(1)).expect("signs");
        let whole = log.into_storage();
        let mut behind = whole.clone();
        behind.entries.pop();
        let mut beside = whole.clone();
        beside.entries[1][0] ^= 1;
        for storage in [behind, beside] {
            let opened = Log::open(storage, key(1).verify_key(), None);
            assert!(matches!(opened, Err(EvidenceError::RolledBack { .. })));
        }
        assert!(Log::open(whole.clone(), key(2).verify_key(), None).is_err());
        assert!(Log::open(whole, key(1).verify_key(), None).is_ok());
    }

    #[test]
    fn a_storage_reverted_as_a_whole_is_refused_by_a_checkpoint_kept_elsewhere() {
        let mut log = log_of(3);
        log.checkpoint(&key(1)).expect("signs");
        let snapshot = log.storage().clone();
        log.append(b"later").expect("appends");
        let kept = log.checkpoint(&key(1)).expect("signs");
        let kept = Checkpoint::verify(&kept, log.key()).expect("verifies");
        assert!(Log::open(snapshot.clone(), key(1).verify_key(), None).is_ok());
        let opened = Log::open(snapshot, key(1).verify_key(), Some(&kept));
        assert!(matches!(opened, Err(EvidenceError::RolledBack { .. })));
    }

    #[test]
    fn the_longest_entry_fits_and_one_byte_more_writes_nothing() {
        let mut log = log_of(0);
        log.append(&vec![0; EVIDENCE_ENTRY_BYTES_MAX])
            .expect("fits");
        let batch = vec![vec![1], vec![0; EVIDENCE_ENTRY_BYTES_MAX + 1]];
        assert!(matches!(
            log.append_all(batch),
            Err(EvidenceError::Entry(_))
        ));
        assert_eq!((log.size(), log.storage().entries.len()), (1, 1));
    }

    /// Fails after it wrote: the caller cannot know what is on disk.
    #[derive(Default)]
    struct Failing(MemoryStorage);

    impl Storage for Failing {
        fn replay(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), EvidenceError> {
            self.0.replay(visit)
        }
        fn read(&self, index: u64) -> Result<Vec<u8>, EvidenceError> {
            self.0.read(index)
        }
        fn append(&mut self, index: u64, entries: &[Vec<u8>]) -> Result<(), EvidenceError> {
            self.0.append(index, entries)?;
            Err(EvidenceError::Storage("no space".into()))
        }
        fn checkpoint(&self) -> Result<Option<String>, EvidenceError> {
            self.0.checkpoint()
        }
        fn store_checkpoint(&mut self, text: &str) -> Result<(), EvidenceError> {
            self.0.store_checkpoint(text)
        }
    }

    #[test]
    fn a_failed_write_closes_the_log_until_it_is_opened_again() {
        let mut log = Log::open(Failing::default(), key(1).verify_key(), None).expect("new");
        assert!(log.append(b"one").is_err());
        assert!(log.checkpoint(&key(1)).is_err());
        let reopened = Log::open(log.into_storage(), key(1).verify_key(), None).expect("opens");
        assert_eq!(reopened.size(), 1);
    }

    #[test]
    fn a_write_torn_at_any_byte_loses_only_what_no_checkpoint_covers() {
        let mut log = log_of(3);
        let text = log.checkpoint(&key(1)).expect("signs");
        let signed = Checkpoint::verify(&text, log.key()).expect("verifies");
        log.append(b"entry 3").expect("appends");
        let frames: Vec<_> = log
            .storage()
            .entries
            .iter()
            .map(|entry| frame(entry).expect("fits"))
            .collect();
        let (covered, file) = (frames[..3].concat().len(), frames.concat());
        for cut in 0..=file.len() {
            let found = recover(&file[..cut], Some(&signed));
            if cut < covered {
                assert!(
                    matches!(found, Err(EvidenceError::RolledBack { .. })),
                    "cut at {cut}"
                );
                continue;
            }
            let found = found.expect("what was signed is whole");
            assert_eq!(found.entries.len(), if cut == file.len() { 4 } else { 3 });
            assert_eq!(found.valid_bytes + found.torn_bytes, cut as u64);
        }
    }

    #[test]
    fn a_byte_altered_under_a_checkpoint_is_refused() {
        let mut log = log_of(3);
        let text = log.checkpoint(&key(1)).expect("signs");
        let signed = Checkpoint::verify(&text, log.key()).expect("verifies");
        let entries = &log.storage().entries;
        let file: Vec<u8> = entries
            .iter()
            .flat_map(|entry| frame(entry).expect("fits"))
            .collect();
        for index in 0..file.len() {
            let mut altered = file.clone();
            altered[index] ^= 1;
            assert!(recover(&altered, Some(&signed)).is_err(), "byte {index}");
        }
    }
}
