//! The tamper-evident log: keys, envelopes, signed notes, Merkle trees, proofs, entries, packs.
//!
//! Pure: no I/O, no clock, no randomness of its own. Storage is the [`Storage`] trait, and a log
//! file's recovery is a function of its bytes ([`recover`]).
#![forbid(unsafe_code)]

mod body;
mod chain;
mod checkpoint;
mod entry;
mod envelope;
mod error;
mod facts;
mod keys;
mod log;
pub mod merkle;
mod note;
pub mod pack;
mod signers;
pub mod tile;
mod trust;

pub use body::{
    Body, ControlFact, KeyRole, MOVE_RECORD_TYPE, MoveCopied, MoveCounted, MoveOutcome, MoveRecord,
    MoveSessions, MoveSide, Overridden, PlacedBy, Readback, SessionSample, UnguardedNic,
    VnicCounters, VnicReadback,
};
pub use chain::{ChainFault, HostChain, host_chains};
pub use checkpoint::{Checkpoint, LogProof};
pub use entry::{ENTRY_VERSION, Entry, Source};
pub use envelope::{
    Envelope, EnvelopeSignature, RejectedSignature, SIGNATURES_PER_ENVELOPE_MAX, Verified,
};
pub use error::EvidenceError;
pub use facts::{GuestFacts, Observed, ReleaseFacts, RuleFacts, SegmentationTest};
pub use keys::{KEY_NAME_BYTES_MAX, KeyName, SigningKey, VerifyKey};
pub use log::{Log, MemoryStorage, Recovered, Storage, frame, recover};
pub use merkle::Tree;
pub use note::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX, Note, NoteSignature, WitnessKey};
pub use signers::MoveSigners;
pub use trust::{TRUST_LINES_MAX, TrustPolicy};
