//! Ed25519 keys with a name, in the text forms of C2SP signed-note.

use crate::EvidenceError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::Signer as _;
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fmt, hash, str::FromStr};

/// Bytes of a key's name.
pub const KEY_NAME_BYTES_MAX: usize = 255;

/// The algorithm byte of Ed25519 in signed-note.
pub(crate) const ALGORITHM_ED25519: u8 = 0x01;
/// The algorithm byte of a timestamped Ed25519 cosignature.
pub(crate) const ALGORITHM_COSIGNATURE: u8 = 0x04;

const PRIVATE_PREFIX: &str = "lictor-private+";
/// A PKCS #8 version 1 header for an Ed25519 seed (RFC 8410, section 7).
const PKCS8_HEADER: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Whose key it is: printable text without spaces or `+`, as signed-note demands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(String);

impl KeyName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`EvidenceError::KeyName`] if it is empty, too long, or has a space, a control or a `+`.
    pub fn new(text: impl Into<String>) -> Result<Self, EvidenceError> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= KEY_NAME_BYTES_MAX;
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
        if fits && text.chars().all(plain) {
            Ok(Self(text))
        } else {
            Err(EvidenceError::KeyName(text))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for KeyName {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        Self::new(text)
    }
}

impl TryFrom<String> for KeyName {
    type Error = EvidenceError;
    fn try_from(text: String) -> Result<Self, EvidenceError> {
        Self::new(text)
    }
}

impl From<KeyName> for String {
    fn from(name: KeyName) -> Self {
        name.0
    }
}

/// The note key hash: the first four bytes of SHA-256 over name, newline, algorithm and key.
pub(crate) fn key_hash(name: &str, algorithm: u8, public: &[u8; 32]) -> u32 {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([b'\n', algorithm]);
    hash.update(public);
    let digest = hash.finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// A public key and its name. Two keys are equal if their key material is: one secret under two
/// names never counts as two persons.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VerifyKey {
    name: KeyName,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifyKey {
    /// A key from its 32 bytes, for instance out of a peer's certificate.
    ///
    /// # Errors
    /// [`EvidenceError::Key`] if the bytes are not a point of the curve.
    pub fn from_bytes(name: KeyName, bytes: &[u8; 32]) -> Result<Self, EvidenceError> {
        let bad = || EvidenceError::Key(format!("{name}: the bytes are no Ed25519 public key"));
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| bad())?;
        // A weak key verifies signatures that nobody made.
        if key.is_weak() {
            Err(bad())
        } else {
            Ok(Self { name, key })
        }
    }

    /// Whose key it is.
    #[must_use]
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The note key hash.
    #[must_use]
    pub fn hash(&self) -> u32 {
        key_hash(self.name.as_str(), ALGORITHM_ED25519, self.as_bytes())
    }

    /// What names the key in signatures and reports: name and key hash.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}+{:08x}", self.name, self.hash())
    }

    /// SHA-256 of the text form, for reading out over the telephone.
    #[must_use]
    pub fn fingerprint(&self) -> lictor_types::Digest {
        lictor_types::Digest::of(self.to_string().as_bytes())
    }

    /// Whether the signature is this key's over exactly these bytes.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl PartialEq for VerifyKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for VerifyKey {}
impl PartialOrd for VerifyKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for VerifyKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
impl hash::Hash for VerifyKey {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.id(), encode_key(self.as_bytes()))
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifyKey {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        let (name, hash, bytes) = decode_key(text)?;
        let key = Self::from_bytes(name, &bytes)?;
        check_hash(&key, hash)?;
        Ok(key)
    }
}

impl TryFrom<String> for VerifyKey {
    type Error = EvidenceError;
    fn try_from(text: String) -> Result<Self, EvidenceError> {
        text.parse()
    }
}

impl From<VerifyKey> for String {
    fn from(key: VerifyKey) -> Self {
        key.to_string()
    }
}

/// A private key and its name. `Debug` shows only the public half.
#[derive(Clone)]
pub struct SigningKey {
    name: KeyName,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// A new key.
    #[must_use]
    pub fn generate<R: CryptoRng + RngCore>(name: KeyName, rng: &mut R) -> Self {
        Self {
            name,
            key: ed25519_dalek::SigningKey::generate(rng),
        }
    }

    /// Whose key it is.
    #[must_use]
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// The public half.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs bytes as they are. Use [`crate::Envelope`] or [`crate::Note`] for anything stored:
    /// both separate one use of a key from another.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// The text of a key file. Keep it where only its owner reads.
    #[must_use]
    pub fn to_private_text(&self) -> String {
        let id = self.verify_key().id();
        format!("{PRIVATE_PREFIX}{id}+{}", encode_key(&self.key.to_bytes()))
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`EvidenceError::Key`] never repeats the secret.
    pub fn from_private_text(text: &str) -> Result<Self, EvidenceError> {
        let text = text
            .trim_end()
            .strip_prefix(PRIVATE_PREFIX)
            .ok_or_else(|| {
                EvidenceError::Key(format!("a private key must begin with {PRIVATE_PREFIX}"))
            })?;
        let (name, hash, bytes) = decode_key(text)?;
        let key = Self {
            name,
            key: ed25519_dalek::SigningKey::from_bytes(&bytes),
        };
        check_hash(&key.verify_key(), hash)?;
        Ok(key)
    }

    /// The key as PKCS #8, for TLS: an agent's TLS identity is the key in the roster.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> Vec<u8> {
        [PKCS8_HEADER.as_slice(), &self.key.to_bytes()].concat()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verify_key().id())
    }
}

impl FromStr for SigningKey {
    type Err = EvidenceError;
    fn from_str(text: &str) -> Result<Self, EvidenceError> {
        Self::from_private_text(text)
    }
}

fn encode_key(bytes: &[u8; 32]) -> String {
    STANDARD.encode([[ALGORITHM_ED25519].as_slice(), bytes].concat())
}

fn decode_key(text: &str) -> Result<(KeyName, u32, [u8; 32]), EvidenceError> {
    let shape = || EvidenceError::Key("expected name+hash+base64, as the key was printed".into());
    let mut parts = text.splitn(3, '+');
    let mut next = || parts.next().ok_or_else(shape);
    let (name, hash, encoded) = (KeyName::new(next()?)?, next()?, next()?);
    let plain = hash.len() == 8
        && hash
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let hash = u32::from_str_radix(hash, 16)
        .ok()
        .filter(|_| plain)
        .ok_or_else(shape)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| shape())?;
    let [ALGORITHM_ED25519, bytes @ ..] = bytes.as_slice() else {
        return Err(EvidenceError::Key(format!(
            "{name}: only Ed25519 keys are understood"
        )));
    };
    Ok((name, hash, bytes.try_into().map_err(|_| shape())?))
}

fn check_hash(key: &VerifyKey, hash: u32) -> Result<(), EvidenceError> {
    if key.hash() == hash {
        return Ok(());
    }
    Err(EvidenceError::Key(format!(
        "{}: the key hash is {hash:08x}, the key itself says {:08x}; copy the key again",
        key.name,
        key.hash()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn key() -> SigningKey {
        let name = KeyName::new("lictor.test/alpha").expect("valid");
        SigningKey::generate(name, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn both_text_forms_round_trip() {
        let key = key();
        let public: VerifyKey = key.verify_key().to_string().parse().expect("parses");
        assert_eq!(public.to_string(), key.verify_key().to_string());
        let private = SigningKey::from_private_text(&key.to_private_text()).expect("parses");
        assert_eq!(private.to_private_text(), key.to_private_text());
        assert!(!format!("{key:?}").contains(&key.to_private_text()[40..]));
    }

    #[test]
    fn every_altered_character_of_a_public_key_is_refused() {
        let text = key().verify_key().to_string();
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] ^= 1;
            let Ok(altered) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(
                altered.parse::<VerifyKey>().is_err(),
                "{altered} must be refused"
            );
        }
    }

    #[test]
    fn names_that_signed_note_forbids_are_refused() {
        let long = "a".repeat(KEY_NAME_BYTES_MAX + 1);
        for bad in ["", "a b", "a+b", "a\nb", "a\u{2003}b", long.as_str()] {
            assert!(KeyName::new(bad).is_err(), "{bad:?} must be refused");
        }
        assert!(KeyName::new("a".repeat(KEY_NAME_BYTES_MAX)).is_ok());
    }

    #[test]
    fn one_secret_under_two_names_is_one_key() {
        let one = key().verify_key();
        let name = KeyName::new("another").expect("valid");
        let two = VerifyKey::from_bytes(name, one.as_bytes()).expect("valid");
        assert_eq!(one, two);
    }

    #[test]
    fn the_published_crate_reads_our_keys_and_verifies_our_signatures() {
        use signed_note::Verifier as _;
        let key = key();
        let theirs = signed_note::StandardVerifier::new(&key.verify_key().to_string());
        let theirs = theirs.expect("our key in their words");
        assert_eq!(theirs.key_id(), key.verify_key().hash());
        assert!(theirs.verify(b"message", &key.sign(b"message")));
        assert!(!theirs.verify(b"massage", &key.sign(b"message")));
    }
}
