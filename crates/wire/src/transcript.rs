//! Everything that a source says of a guest's sessions, as one digest that both ends keep up with
//! while it is said: the pause of a move compares two digests and reads no table.

use crate::sessions::Chunk;
use lictor_types::{Digest, VnicId};

const SESSIONS: u8 = 1;
const GONE: u8 = 2;

/// What was said so far, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript {
    digest: Digest,
    /// Chunks of sessions.
    pub chunks: u64,
    /// Sessions in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Default for Transcript {
    fn default() -> Self {
        Self {
            digest: Digest::of(b"lictor transcript v2"),
            chunks: 0,
            records: 0,
            bytes: 0,
        }
    }
}

impl Transcript {
    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Sessions that are new or have changed.
    pub fn sessions(&mut self, vnic: VnicId, chunk: &Chunk) {
        self.chunks += 1;
        self.records += chunk.count();
        self.bytes += chunk.bytes().len() as u64;
        self.add(SESSIONS, vnic, chunk.digest());
    }

    /// Slots of a table that are empty now.
    pub fn gone(&mut self, vnic: VnicId, (table, slots): (u32, &[u32])) {
        let words = std::iter::once(&table).chain(slots);
        let bytes: Vec<u8> = words.flat_map(|one| one.to_le_bytes()).collect();
        self.add(GONE, vnic, Digest::of(&bytes));
    }

    fn add(&mut self, kind: u8, vnic: VnicId, what: Digest) {
        let mut bytes = self.digest.0.to_vec();
        bytes.push(kind);
        bytes.extend(vnic.0.to_le_bytes());
        bytes.extend(what.0);
        self.digest = Digest::of(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_sees_every_word_its_order_its_vnic_and_its_kind() {
        let said = |words: &[(u32, &[u32])]| {
            let mut transcript = Transcript::default();
            for (vnic, gone) in words {
                transcript.gone(VnicId(*vnic), (0, gone));
            }
            transcript.digest()
        };
        let mut of_table_1 = Transcript::default();
        of_table_1.gone(VnicId(1), (1, &[7]));
        of_table_1.gone(VnicId(2), (0, &[8]));
        let one = said(&[(1, &[7]), (2, &[8])]);
        assert_eq!(one, said(&[(1, &[7]), (2, &[8])]));
        for other in [
            said(&[(2, &[8]), (1, &[7])]),
            said(&[(1, &[8]), (2, &[7])]),
            said(&[(1, &[7])]),
            said(&[(1, &[7, 8])]),
            said(&[]),
            of_table_1.digest(),
        ] {
            assert_ne!(one, other);
        }
        let mut transcript = Transcript::default();
        transcript.sessions(VnicId(1), &Chunk::of(0, &[]));
        assert_ne!(transcript.digest(), said(&[(1, &[])]));
        assert_eq!((transcript.chunks, transcript.records), (1, 0));
    }
}
