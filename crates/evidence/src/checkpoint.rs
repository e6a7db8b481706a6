//! C2SP checkpoints and tlog-proofs: what is kept outside a log to hold it to its past.

use crate::merkle::{leaf_hash, verify_inclusion};
use crate::{EvidenceError, Note, SigningKey, VerifyKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use lictor_types::Digest;
use std::{fmt, fmt::Write as _, str::FromStr};

const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Hashes in one inclusion proof: as many as a 64-bit tree is high.
const PROOF_HASHES_MAX: usize = 64;

/// A tree head: which log, how many entries, and the root over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, which is its key's name too.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
}

impl Checkpoint {
    /// The note with one signature. Only [`crate::Log`] calls it: signing belongs behind its
    /// refusal to contradict itself.
    pub(crate) fn sign(&self, key: &SigningKey) -> Result<String, EvidenceError> {
        let mut note = Note::new(self.to_string())?;
        note.sign(key);
        Ok(note.to_string())
    }

    /// Reads a signed checkpoint.
    ///
    /// # Errors
    /// [`EvidenceError`] if the text is malformed, the key has not signed it, or the origin is
    /// another log's.
    pub fn verify(text: &str, key: &VerifyKey) -> Result<Self, EvidenceError> {
        let note: Note = text.parse()?;
        if !note.is_signed_by(key) {
            return Err(EvidenceError::Note(format!("not signed by {}", key.id())));
        }
        let checkpoint: Self = note.text().parse()?;
        if checkpoint.origin != key.name().as_str() {
            let (found, expected) = (&checkpoint.origin, key.name());
            return Err(EvidenceError::Checkpoint(format!(
                "origin {found}; expected {expected}"
            )));
        }
        Ok(checkpoint)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\n{}\n{}",
            self.origin,
            self.size,
            STANDARD.encode(self.root.0)
        )
    }
}

impl FromStr for Checkpoint {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        let bad = || EvidenceError::Checkpoint("expected the lines origin, size, root".into());
        let mut lines = text.lines();
        let mut next = || lines.next().filter(|line| !line.is_empty()).ok_or_else(bad);
        let (origin, size, root) = (next()?.to_owned(), next()?, next()?);
        let checkpoint = Self {
            origin,
            size: size.parse().map_err(|_| bad())?,
            root: decode_hash(root).ok_or_else(bad)?,
        };
        // Comparing the text refuses leading zeros, signs and extension lines in one go.
        if checkpoint.to_string() == text {
            Ok(checkpoint)
        } else {
            Err(bad())
        }
    }
}

fn decode_hash(line: &str) -> Option<Digest> {
    Some(Digest(STANDARD.decode(line).ok()?.try_into().ok()?))
}

/// An inclusion proof with its checkpoint in one text (C2SP tlog-proof), without extra data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProof {
    /// Which entry.
    pub index: u64,
    /// The path, leaf's sibling first.
    pub hashes: Vec<Digest>,
    /// The signed checkpoint, as text.
    pub checkpoint: String,
}

impl LogProof {
    /// Checks that the entry is in the log that the key signs for.
    ///
    /// # Errors
    /// [`EvidenceError`] if signature or path fail.
    pub fn verify(&self, entry: &[u8], key: &VerifyKey) -> Result<Checkpoint, EvidenceError> {
        let checkpoint = Checkpoint::verify(&self.checkpoint, key)?;
        let place = (self.index, checkpoint.size);
        verify_inclusion(leaf_hash(entry), place, checkpoint.root, &self.hashes)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{PROOF_HEADER}\nindex {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", STANDARD.encode(hash.0))?;
        }
        f.write_char('\n')?;
        f.write_str(&self.checkpoint)
    }
}

impl FromStr for LogProof {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        let bad = || EvidenceError::Proof("the text is not a tlog-proof of version 1".into());
        let (head, checkpoint) = text.split_once("\n\n").ok_or_else(bad)?;
        let mut lines = head.lines();
        if lines.next() != Some(PROOF_HEADER) {
            return Err(bad());
        }
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .ok_or_else(bad)?;
        let index = index.parse().map_err(|_| bad())?;
        let hashes: Option<Vec<_>> = lines.take(PROOF_HASHES_MAX + 1).map(decode_hash).collect();
        let hashes = hashes
            .filter(|list| list.len() <= PROOF_HASHES_MAX)
            .ok_or_else(bad)?;
        let proof = Self {
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
        };
        if proof.to_string() == text {
            Ok(proof)
        } else {
            Err(bad())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyName, Tree};
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key() -> SigningKey {
        let name = KeyName::new("lictor.test/log").expect("valid");
        SigningKey::generate(name, &mut StdRng::seed_from_u64(1))
    }

    fn signed() -> (Checkpoint, String) {
        let root = Tree::from_leaves([leaf_hash(b"a"), leaf_hash(b"b")]).root();
        let checkpoint = Checkpoint {
            origin: "lictor.test/log".into(),
            size: 2,
            root,
        };
        let text = checkpoint.sign(&key()).expect("signs");
        (checkpoint, text)
    }

    #[test]
    fn the_published_crate_reads_our_checkpoints() {
        let (ours, _) = signed();
        let theirs = tlog_tiles::Checkpoint::from_bytes(ours.to_string().as_bytes());
        let theirs = theirs.expect("reads");
        assert_eq!((theirs.origin(), theirs.size()), ("lictor.test/log", 2));
        assert_eq!(theirs.hash().0, ours.root.0);
    }

    #[test]
    fn a_checkpoint_of_another_log_or_another_spelling_is_refused() {
        let (checkpoint, text) = signed();
        assert_eq!(
            Checkpoint::verify(&text, &key().verify_key()),
            Ok(checkpoint.clone())
        );
        let other = Checkpoint {
            origin: "another".into(),
            ..checkpoint.clone()
        };
        let other = other.sign(&key()).expect("signs");
        assert!(matches!(
            Checkpoint::verify(&other, &key().verify_key()),
            Err(EvidenceError::Checkpoint(_))
        ));
        let plain = checkpoint.to_string();
        for bad in [
            plain.replace("\n2\n", "\n02\n"),
            plain.replace("\n2\n", "\n+2\n"),
            plain + "x\n",
        ] {
            assert!(bad.parse::<Checkpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proof_leads_from_its_entry_to_the_checkpoint() {
        let (_, text) = signed();
        let proof = LogProof {
            index: 0,
            hashes: vec![leaf_hash(b"b")],
            checkpoint: text,
        };
        let read: LogProof = proof.to_string().parse().expect("parses");
        assert_eq!(read, proof);
        assert_eq!(
            read.verify(b"a", &key().verify_key()).expect("holds").size,
            2
        );
        assert!(read.verify(b"b", &key().verify_key()).is_err());
        assert!(
            proof
                .to_string()
                .replace("index 0", "index 00")
                .parse::<LogProof>()
                .is_err()
        );
    }
}
