//! The root of a growing Merkle log in logarithmic space. A batch is tried on a copy, so that one
//! that is refused leaves nothing behind.

use lictor_evidence::merkle::{leaf_hash, node_hash};
use lictor_types::Digest;

/// The complete subtrees of a log, the largest first (RFC 6962, section 2.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Frontier {
    size: u64,
    peaks: Vec<Digest>,
}

impl Frontier {
    /// Adds an entry.
    pub(super) fn push(&mut self, entry: &[u8]) {
        let mut node = leaf_hash(entry);
        // Each one-bit at the end of the old size is a complete subtree that this leaf completes.
        for _ in 0..self.size.trailing_ones() {
            let left = self
                .peaks
                .pop()
                .expect("one peak for each one-bit of the size");
            node = node_hash(left, node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The number of entries.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The root over all entries.
    pub(super) fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Digest::of(b"");
        };
        peaks.fold(*last, |right, left| node_hash(*left, right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_evidence::merkle::Tree;

    #[test]
    fn the_root_is_the_trees_root_at_every_size() {
        let mut frontier = Frontier::default();
        let mut tree = Tree::default();
        for number in 0..70_u32 {
            assert_eq!(
                (frontier.size(), frontier.root()),
                (tree.len(), tree.root())
            );
            let entry = number.to_le_bytes();
            frontier.push(&entry);
            tree.push(leaf_hash(&entry));
        }
    }
}
