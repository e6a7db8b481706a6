//! What can be wrong with a key, a signature, a proof or a log.

use crate::Checkpoint;
use thiserror::Error;

/// Every failure of this crate but a pack's, which names files and entries.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvidenceError {
    /// A key name with a character that signed-note forbids.
    #[error("key name {0:?} is not valid; expected 1 to 255 bytes without spaces, controls or '+'")]
    KeyName(String),
    /// A key's text form is damaged.
    #[error("not a key: {0}")]
    Key(String),
    /// The envelope holds something else than what was asked for.
    #[error("the envelope holds {found:?}; expected {expected:?}")]
    PayloadType {
        /// What the envelope says.
        found: String,
        /// What the caller asked for.
        expected: String,
    },
    /// No signature of the envelope is by a key that the caller trusts.
    #[error("no valid signature by any of {trusted} trusted keys; seen: {seen}")]
    NotSigned {
        /// How many keys were tried.
        trusted: usize,
        /// What became of each signature, in words.
        seen: String,
    },
    /// A second signature by the same key.
    #[error("{0} has signed already")]
    SignedTwice(String),
    /// A signed note is malformed or not signed by the expected key.
    #[error("signed note: {0}")]
    Note(String),
    /// The text of a note is not a checkpoint.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// A proof that does not lead to the root, or cannot be made.
    #[error("proof: {0}")]
    Proof(String),
    /// A tile or an entry bundle is malformed.
    #[error("tile: {0}")]
    Tile(String),
    /// An entry is not canonical, unknown or too long.
    #[error("entry: {0}")]
    Entry(String),
    /// The stored log is behind or beside what was signed: never continue such a log.
    #[error(
        "the log of {origin} was rolled back: {size} entries with root {root} were signed, the \
         storage has {found}; restore the storage or begin a new log with a new key"
    )]
    RolledBack {
        /// The log.
        origin: String,
        /// Entries that were signed.
        size: u64,
        /// The root that was signed.
        root: String,
        /// What the storage has, in words.
        found: String,
    },
    /// The storage failed.
    #[error("storage: {0}")]
    Storage(String),
}

impl EvidenceError {
    pub(crate) fn rolled_back(signed: &Checkpoint, found: String) -> Self {
        Self::RolledBack {
            origin: signed.origin.clone(),
            size: signed.size,
            root: signed.root.to_string(),
            found,
        }
    }
}
