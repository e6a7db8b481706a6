//! The tamper-evident log: keys, signed notes, Merkle trees, proofs, packs.
#![forbid(unsafe_code)]
