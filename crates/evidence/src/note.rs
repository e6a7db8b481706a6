//! C2SP signed notes and timestamped cosignatures.

use crate::keys::{ALGORITHM_COSIGNATURE, key_hash};
use crate::{EvidenceError, KeyName, SigningKey, VerifyKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr};

/// Bytes of one note with its signatures.
pub const NOTE_BYTES_MAX: usize = 1 << 20;
/// Signature lines of one note.
pub const NOTE_SIGNATURES_MAX: usize = 100;

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The signer's name.
    pub name: KeyName,
    /// The signer's key hash.
    pub hash: u32,
    /// What follows the key hash: the signature, and for a cosignature its time before it.
    pub bytes: Vec<u8>,
}

/// Text and signature lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// An unsigned note.
    ///
    /// # Errors
    /// [`EvidenceError::Note`] if the text does not end in a newline or has control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, EvidenceError> {
        let text = text.into();
        let control = text.chars().any(|c| c.is_control() && c != '\n');
        if !text.ends_with('\n') || control || text.len() > NOTE_BYTES_MAX {
            return Err(bad(
                "the text must end in a newline and have no control characters",
            ));
        }
        Ok(Self {
            text,
            signatures: Vec::new(),
        })
    }

    /// The signed text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, unchecked.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The same text with one of its signatures: each must stand by itself.
    pub(crate) fn only(&self, index: usize) -> Self {
        Self {
            text: self.text.clone(),
            signatures: vec![self.signatures[index].clone()],
        }
    }

    /// Adds the log's own signature.
    pub fn sign(&mut self, key: &SigningKey) {
        let public = key.verify_key();
        let bytes = key.sign(self.text.as_bytes()).to_vec();
        self.signatures.push(NoteSignature {
            name: public.name().clone(),
            hash: public.hash(),
            bytes,
        });
    }

    /// Adds a witness's signature with its time.
    pub fn cosign(&mut self, key: &SigningKey, time_s: u64) {
        let witness = WitnessKey(key.verify_key());
        let signature = key.sign(cosigned(&self.text, time_s).as_bytes());
        let bytes = [time_s.to_be_bytes().as_slice(), &signature].concat();
        let name = key.name().clone();
        self.signatures.push(NoteSignature {
            name,
            hash: witness.hash(),
            bytes,
        });
    }

    /// Whether the key has signed the text.
    #[must_use]
    pub fn is_signed_by(&self, key: &VerifyKey) -> bool {
        self.signatures.iter().any(|signature| {
            signature.name == *key.name()
                && signature.hash == key.hash()
                && key.verifies(self.text.as_bytes(), &signature.bytes)
        })
    }

    /// When the witness saw the text, in seconds since 1970; `None` if it has not cosigned.
    #[must_use]
    pub fn cosigned_at(&self, witness: &WitnessKey) -> Option<u64> {
        self.signatures.iter().find_map(|signature| {
            let ours = signature.name == *witness.0.name() && signature.hash == witness.hash();
            let (time, bytes) = signature.bytes.split_first_chunk::<8>()?;
            let time_s = u64::from_be_bytes(*time);
            let message = cosigned(&self.text, time_s);
            (ours && witness.0.verifies(message.as_bytes(), bytes)).then_some(time_s)
        })
    }
}

fn bad(text: impl Into<String>) -> EvidenceError {
    EvidenceError::Note(text.into())
}

fn cosigned(text: &str, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for NoteSignature { name, hash, bytes } in &self.signatures {
            let encoded = STANDARD.encode([hash.to_be_bytes().as_slice(), bytes].concat());
            writeln!(f, "\u{2014} {name} {encoded}")?;
        }
        Ok(())
    }
}

impl FromStr for Note {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(bad("longer than 1 MiB"));
        }
        let split = text
            .rfind("\n\n")
            .ok_or_else(|| bad("no empty line before the signatures"))?;
        let mut note = Self::new(&text[..=split])?;
        let lines = &text[split + 2..];
        if !lines.ends_with('\n') {
            return Err(bad("the last signature line has no newline"));
        }
        for line in lines.lines() {
            if note.signatures.len() >= NOTE_SIGNATURES_MAX {
                return Err(bad(format!("more than {NOTE_SIGNATURES_MAX} signatures")));
            }
            note.signatures.push(parse_signature(line)?);
        }
        Ok(note)
    }
}

fn parse_signature(line: &str) -> Result<NoteSignature, EvidenceError> {
    let malformed = || bad("a signature line must read: dash, key name, base64");
    let rest = line.strip_prefix("\u{2014} ").ok_or_else(malformed)?;
    let (name, encoded) = rest.split_once(' ').ok_or_else(malformed)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| malformed())?;
    let (hash, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
    if rest.is_empty() {
        return Err(malformed());
    }
    let name = KeyName::new(name)?;
    Ok(NoteSignature {
        name,
        hash: u32::from_be_bytes(*hash),
        bytes: rest.to_vec(),
    })
}

/// The public key of a witness: the same Ed25519 key under the cosignature algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey(pub VerifyKey);

impl WitnessKey {
    /// The key hash under the cosignature algorithm.
    #[must_use]
    pub fn hash(&self) -> u32 {
        key_hash(
            self.0.name().as_str(),
            ALGORITHM_COSIGNATURE,
            self.0.as_bytes(),
        )
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[ALGORITHM_COSIGNATURE].as_slice(), self.0.as_bytes()].concat();
        write!(
            f,
            "{}+{:08x}+{}",
            self.0.name(),
            self.hash(),
            STANDARD.encode(key)
        )
    }
}

impl FromStr for WitnessKey {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        let shape = || EvidenceError::Key("expected a witness key: name+hash+base64".into());
        let mut parts = text.splitn(3, '+');
        let name = KeyName::new(parts.next().ok_or_else(shape)?)?;
        let encoded = parts.nth(1).ok_or_else(shape)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| shape())?;
        let [ALGORITHM_COSIGNATURE, key @ ..] = bytes.as_slice() else {
            return Err(shape());
        };
        let key: &[u8; 32] = key.try_into().map_err(|_| shape())?;
        let witness = Self(VerifyKey::from_bytes(name, key)?);
        if witness.to_string() == text {
            Ok(witness)
        } else {
            Err(shape())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key(name: &str, seed: u64) -> SigningKey {
        SigningKey::generate(
            KeyName::new(name).expect("valid"),
            &mut StdRng::seed_from_u64(seed),
        )
    }

    #[test]
    fn the_published_crate_verifies_our_notes() {
        let key = key("lictor.test/log", 1);
        let mut note = Note::new("lictor.test/log\n0\nhash\n").expect("valid");
        note.sign(&key);
        let theirs = signed_note::Note::from_bytes(note.to_string().as_bytes()).expect("reads");
        let verifier = signed_note::StandardVerifier::new(&key.verify_key().to_string());
        let list = signed_note::VerifierList::new(vec![Box::new(verifier.expect("our key"))]);
        let (verified, unverified) = theirs.verify(&list).expect("verifies");
        assert_eq!((verified.len(), unverified.len()), (1, 0));
    }

    #[test]
    fn a_note_survives_its_text_form_and_no_altered_byte_does() {
        let key = key("log", 1);
        let mut note = Note::new("text\n\nmore\n").expect("valid");
        note.sign(&key);
        let text = note.to_string();
        assert_eq!(text.parse::<Note>().expect("parses"), note);
        assert!(note.is_signed_by(&key.verify_key()));
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] ^= 1;
            let verified = String::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<Note>().ok())
                .is_some_and(|note| note.is_signed_by(&key.verify_key()));
            assert!(!verified, "byte {index} may not be altered");
        }
    }

    #[test]
    fn a_cosignature_counts_for_its_witness_and_its_time_only() {
        let (log, witness) = (key("log", 1), key("witness", 2));
        let mut note = Note::new("log\n1\nroot\n").expect("valid");
        note.sign(&log);
        note.cosign(&witness, 1_700_000_000);
        let public: WitnessKey = WitnessKey(witness.verify_key())
            .to_string()
            .parse()
            .expect("parses");
        assert_eq!(note.cosigned_at(&public), Some(1_700_000_000));
        assert_eq!(note.cosigned_at(&WitnessKey(log.verify_key())), None);
        note.signatures[1].bytes[7] ^= 1;
        assert_eq!(note.cosigned_at(&public), None);
    }
}
