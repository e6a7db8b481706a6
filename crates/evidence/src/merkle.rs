//! The Merkle tree of RFC 6962 and RFC 9162, section 2.1: roots, inclusion and consistency.

use crate::EvidenceError;
use lictor_types::Digest;
use sha2::{Digest as _, Sha256};

/// The hash of one entry. The prefix keeps leaves and nodes apart.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(entry);
    Digest(hash.finalize().into())
}

/// The hash of two subtrees.
#[must_use]
pub fn node_hash(left: Digest, right: Digest) -> Digest {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left.0);
    hash.update(right.0);
    Digest(hash.finalize().into())
}

/// Leaf hashes and the hashes of all complete subtrees, so that roots and proofs cost a logarithm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// `levels[k][n]` covers the leaves from `n << k`, `1 << k` of them.
    levels: Vec<Vec<Digest>>,
}

/// The largest power of two below `size`, which must be above one.
const fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

fn bad(text: impl Into<String>) -> EvidenceError {
    EvidenceError::Proof(text.into())
}

impl Tree {
    /// A tree over leaf hashes.
    #[must_use]
    pub fn from_leaves(leaves: impl IntoIterator<Item = Digest>) -> Self {
        let mut tree = Self::default();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Digest) {
        let (mut level, mut hash) = (0, leaf);
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let row = &mut self.levels[level];
            row.push(hash);
            if row.len() % 2 == 1 {
                return;
            }
            hash = node_hash(row[row.len() - 2], row[row.len() - 1]);
            level += 1;
        }
    }

    /// Leaves.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.leaves().len() as u64
    }

    /// Whether there is no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves().is_empty()
    }

    /// The leaf hashes.
    #[must_use]
    pub fn leaves(&self) -> &[Digest] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// Complete subtrees of `1 << level` leaves.
    pub(crate) fn row(&self, level: usize) -> &[Digest] {
        self.levels.get(level).map_or(&[], Vec::as_slice)
    }

    /// The root over the first `size` leaves; `None` if there are fewer.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        if size > self.len() {
            return None;
        }
        Some(if size == 0 {
            Digest::of(b"")
        } else {
            self.subtree(0, size)
        })
    }

    /// The root over all leaves.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root_at(self.len())
            .expect("a tree has as many leaves as it has")
    }

    fn subtree(&self, first: u64, size: u64) -> Digest {
        if size.is_power_of_two() {
            let level = size.trailing_zeros();
            return self.levels[level as usize][(first >> level) as usize];
        }
        let left = split(size);
        node_hash(
            self.subtree(first, left),
            self.subtree(first + left, size - left),
        )
    }

    /// The path from leaf `index` to the root over the first `size` leaves, leaf's sibling first.
    ///
    /// # Errors
    /// [`EvidenceError::Proof`] if the leaf or the size lies outside the tree.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Digest>, EvidenceError> {
        if index >= size || size > self.len() {
            let have = self.len();
            return Err(bad(format!(
                "no entry {index} among {size} of {have} entries"
            )));
        }
        let (mut proof, mut first, mut size, mut index) = (Vec::new(), 0, size, index);
        while size > 1 {
            let left = split(size);
            if index < left {
                proof.push(self.subtree(first + left, size - left));
                size = left;
            } else {
                proof.push(self.subtree(first, left));
                (first, index, size) = (first + left, index - left, size - left);
            }
        }
        proof.reverse();
        Ok(proof)
    }

    /// The proof that the first `old` leaves are a prefix of the first `new`.
    ///
    /// # Errors
    /// [`EvidenceError::Proof`] if the sizes are not 1 <= old <= new <= len.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, EvidenceError> {
        if old == 0 || old > new || new > self.len() {
            let have = self.len();
            return Err(bad(format!("no way from {old} to {new} of {have} entries")));
        }
        let (mut proof, mut first, mut size, mut old) = (Vec::new(), 0, new, old);
        let mut known = true;
        while old != size {
            let left = split(size);
            if old <= left {
                proof.push(self.subtree(first + left, size - left));
                size = left;
            } else {
                proof.push(self.subtree(first, left));
                (first, old, size) = (first + left, old - left, size - left);
                known = false;
            }
        }
        if !known {
            proof.push(self.subtree(first, size));
        }
        proof.reverse();
        Ok(proof)
    }
}

/// Checks an inclusion proof (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`EvidenceError::Proof`] if the path does not lead from the leaf to the root.
pub fn verify_inclusion(
    leaf: Digest,
    (index, size): (u64, u64),
    root: Digest,
    proof: &[Digest],
) -> Result<(), EvidenceError> {
    if index >= size {
        return Err(bad(format!("entry {index} is not among {size}")));
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for &sibling in proof {
        if last == 0 {
            return Err(bad("the path is too long"));
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == root {
        return Ok(());
    }
    Err(bad(format!(
        "the path of entry {index} does not lead to the root over {size} entries"
    )))
}

/// Checks a consistency proof (RFC 9162, section 2.1.4.2) between (size, root) pairs.
///
/// # Errors
/// [`EvidenceError::Proof`] if the old tree is not shown to be a prefix of the new one.
pub fn verify_consistency(
    (old, old_root): (u64, Digest),
    (new, new_root): (u64, Digest),
    proof: &[Digest],
) -> Result<(), EvidenceError> {
    let fails = || {
        bad(format!(
            "{old} entries are not shown to be the first of {new}"
        ))
    };
    if old > new {
        return Err(fails());
    }
    if old == new || old == 0 {
        let same = if old == 0 {
            old_root == Digest::of(b"")
        } else {
            old_root == new_root
        };
        return if same && proof.is_empty() {
            Ok(())
        } else {
            Err(fails())
        };
    }
    let (first, rest) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or_else(fails)?;
        (*first, rest)
    };
    let shift = (old - 1).trailing_ones();
    let (mut node, mut last) = ((old - 1) >> shift, (new - 1) >> shift);
    let (mut old_hash, mut new_hash) = (first, first);
    for &sibling in rest {
        if last == 0 {
            return Err(fails());
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, old_hash);
            new_hash = node_hash(sibling, new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    let leads = last == 0 && old_hash == old_root && new_hash == new_root;
    if leads { Ok(()) } else { Err(fails()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlog_tiles::{Hash, HashReader, check_record, check_tree, stored_hashes, tree_hash};

    const LEAVES: u64 = 40;

    #[derive(Default)]
    struct Theirs(Vec<Hash>);

    impl HashReader for Theirs {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
            Ok(indexes
                .iter()
                .map(|index| self.0[usize::try_from(*index).expect("small")])
                .collect())
        }
    }

    fn both() -> (Tree, Theirs) {
        let (mut ours, mut theirs) = (Tree::default(), Theirs::default());
        for index in 0..LEAVES {
            let entry = format!("entry {index}");
            ours.push(leaf_hash(entry.as_bytes()));
            let hashes = stored_hashes(index, entry.as_bytes(), &theirs).expect("stores");
            theirs.0.extend(hashes);
        }
        (ours, theirs)
    }

    #[test]
    fn roots_equal_the_published_crates() {
        let (ours, theirs) = both();
        for size in 0..=LEAVES {
            let expected = tree_hash(size, &theirs).expect("hashes").0;
            assert_eq!(ours.root_at(size), Some(Digest(expected)), "size {size}");
        }
        assert_eq!(ours.root_at(LEAVES + 1), None);
    }

    #[test]
    fn the_published_crate_accepts_our_inclusion_proofs_and_so_do_we() {
        let (ours, _) = both();
        for size in 1..=LEAVES {
            for index in 0..size {
                let proof = ours.inclusion(index, size).expect("inside");
                let root = ours.root_at(size).expect("inside");
                let leaf = ours.leaves()[usize::try_from(index).expect("small")];
                let theirs = proof.iter().map(|hash| Hash(hash.0)).collect();
                check_record(&theirs, size, Hash(root.0), index, Hash(leaf.0)).expect("theirs");
                verify_inclusion(leaf, (index, size), root, &proof).expect("ours");
                let other = leaf_hash(b"another");
                assert!(verify_inclusion(other, (index, size), root, &proof).is_err());
                if let [_, short @ ..] = proof.as_slice() {
                    assert!(verify_inclusion(leaf, (index, size), root, short).is_err());
                }
            }
            assert!(ours.inclusion(size, size).is_err());
        }
    }

    #[test]
    fn the_published_crate_accepts_our_consistency_proofs_and_so_do_we() {
        let (ours, _) = both();
        for new in 1..=LEAVES {
            for old in 1..=new {
                let proof = ours.consistency(old, new).expect("inside");
                let root = |size| ours.root_at(size).expect("inside");
                let theirs = proof.iter().map(|hash| Hash(hash.0)).collect();
                check_tree(&theirs, new, Hash(root(new).0), old, Hash(root(old).0))
                    .expect("theirs");
                verify_consistency((old, root(old)), (new, root(new)), &proof).expect("ours");
                let forged = leaf_hash(b"forged");
                assert!(verify_consistency((old, forged), (new, root(new)), &proof).is_err());
            }
            assert!(ours.consistency(new + 1, new).is_err());
        }
    }
}
