//! DSSE envelopes: bytes with a type and any number of signatures over both.

use crate::{EvidenceError, SigningKey, VerifyKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Signatures that one envelope may carry.
pub const SIGNATURES_PER_ENVELOPE_MAX: usize = 64;

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSignature {
    /// [`VerifyKey::id`] of the signer.
    pub keyid: String,
    /// The signature in base64.
    pub sig: String,
}

/// A DSSE envelope (version 1). What it holds is reached only through [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

/// A signature that does not count, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedSignature {
    /// The key id that the signature claims.
    pub keyid: String,
    /// Why it does not count.
    pub why: &'static str,
}

/// What came out of an envelope that at least one trusted key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// The trusted keys whose signature is valid, each once, in the order of the envelope.
    pub signers: Vec<VerifyKey>,
    /// Signatures that do not count.
    pub rejected: Vec<RejectedSignature>,
}

/// The pre-authentication encoding of DSSE: type and payload, each with its length, so that neither
/// can be shifted into the other.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// Wraps bytes and signs them with each key.
    #[must_use]
    pub fn sign(payload_type: &str, payload: &[u8], keys: &[&SigningKey]) -> Self {
        let message = pae(payload_type, payload);
        let signatures = keys.iter().map(|key| sign_one(key, &message)).collect();
        Self {
            payload_type: payload_type.into(),
            payload: STANDARD.encode(payload),
            signatures,
        }
    }

    /// Adds a signature over the same bytes.
    ///
    /// # Errors
    /// [`EvidenceError`] if the payload is not base64, the key has signed already or there is no
    /// room.
    pub fn add_signature(&mut self, key: &SigningKey) -> Result<(), EvidenceError> {
        let message = pae(&self.payload_type, &self.decode()?);
        let signature = sign_one(key, &message);
        if self
            .signatures
            .iter()
            .any(|present| present.keyid == signature.keyid)
        {
            return Err(EvidenceError::SignedTwice(signature.keyid));
        }
        if self.signatures.len() >= SIGNATURES_PER_ENVELOPE_MAX {
            let text =
                format!("an envelope holds at most {SIGNATURES_PER_ENVELOPE_MAX} signatures");
            return Err(EvidenceError::Note(text));
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// What the envelope says it holds.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The signatures, unchecked.
    #[must_use]
    pub fn signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }

    /// The bytes before any signature was checked: for showing a draft to an approver, never for
    /// acting on.
    ///
    /// # Errors
    /// [`EvidenceError::Note`] if the payload is not base64.
    pub fn unverified_payload(&self) -> Result<Vec<u8>, EvidenceError> {
        self.decode()
    }

    /// Opens the envelope. Only valid signatures by distinct keys out of `keys` count; all others
    /// are reported and never counted.
    ///
    /// # Errors
    /// [`EvidenceError`] if the type differs or not one trusted key has signed.
    pub fn verify(
        &self,
        payload_type: &str,
        keys: &[VerifyKey],
    ) -> Result<Verified, EvidenceError> {
        if self.payload_type != payload_type {
            let (found, expected) = (self.payload_type.clone(), payload_type.into());
            return Err(EvidenceError::PayloadType { found, expected });
        }
        let payload = self.decode()?;
        let message = pae(payload_type, &payload);
        let (mut signers, mut rejected) = (Vec::<VerifyKey>::new(), Vec::new());
        for signature in self.signatures.iter().take(SIGNATURES_PER_ENVELOPE_MAX) {
            match judge(signature, &message, keys, &signers) {
                Ok(key) => signers.push(key.clone()),
                Err(why) => {
                    rejected.push(RejectedSignature {
                        keyid: signature.keyid.clone(),
                        why,
                    });
                }
            }
        }
        if signers.is_empty() {
            return Err(not_signed(keys.len(), &rejected));
        }
        Ok(Verified {
            payload,
            signers,
            rejected,
        })
    }

    fn decode(&self) -> Result<Vec<u8>, EvidenceError> {
        let bad = |_| EvidenceError::Note("the envelope's payload is not base64".into());
        STANDARD.decode(&self.payload).map_err(bad)
    }
}

fn not_signed(trusted: usize, rejected: &[RejectedSignature]) -> EvidenceError {
    let words: Vec<_> = rejected
        .iter()
        .map(|one| format!("{} ({})", one.keyid, one.why))
        .collect();
    let seen = if words.is_empty() {
        "no signature".into()
    } else {
        words.join(", ")
    };
    EvidenceError::NotSigned { trusted, seen }
}

fn sign_one(key: &SigningKey, message: &[u8]) -> EnvelopeSignature {
    EnvelopeSignature {
        keyid: key.verify_key().id(),
        sig: STANDARD.encode(key.sign(message)),
    }
}

fn judge<'a>(
    signature: &EnvelopeSignature,
    message: &[u8],
    keys: &'a [VerifyKey],
    counted: &[VerifyKey],
) -> Result<&'a VerifyKey, &'static str> {
    let key = keys
        .iter()
        .find(|key| key.id() == signature.keyid)
        .ok_or("unknown key")?;
    if counted.contains(key) {
        return Err("counted already");
    }
    let bytes = STANDARD.decode(&signature.sig).map_err(|_| "not base64")?;
    if key.verifies(message, &bytes) {
        Ok(key)
    } else {
        Err("invalid signature")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyName;
    use rand::{SeedableRng as _, rngs::StdRng};

    const TYPE: &str = "application/vnd.lictor.test+json";

    fn key(name: &str, seed: u64) -> SigningKey {
        SigningKey::generate(
            KeyName::new(name).expect("valid"),
            &mut StdRng::seed_from_u64(seed),
        )
    }

    fn names(verified: &Verified) -> Vec<&str> {
        verified
            .signers
            .iter()
            .map(|key| key.name().as_str())
            .collect()
    }

    #[test]
    fn pre_authentication_encoding_is_the_one_of_the_specification() {
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            expected
        );
    }

    #[test]
    fn only_valid_signatures_of_distinct_trusted_keys_count() {
        let (author, approver, stranger) = (key("author", 1), key("approver", 2), key("other", 3));
        let mut envelope = Envelope::sign(TYPE, b"release", &[&author, &author]);
        envelope.add_signature(&approver).expect("first time");
        envelope.add_signature(&stranger).expect("first time");
        assert!(matches!(
            envelope.add_signature(&approver),
            Err(EvidenceError::SignedTwice(_))
        ));
        let keys = [author.verify_key(), approver.verify_key()];
        let verified = envelope.verify(TYPE, &keys).expect("signed");
        assert_eq!(names(&verified), ["author", "approver"]);
        let why: Vec<_> = verified.rejected.iter().map(|one| one.why).collect();
        assert_eq!(why, ["counted already", "unknown key"]);
    }

    #[test]
    fn one_secret_under_two_names_counts_once() {
        let (one, two) = (key("one", 7), key("two", 7));
        let envelope = Envelope::sign(TYPE, b"release", &[&one, &two]);
        let keys = [one.verify_key(), two.verify_key()];
        assert_eq!(
            names(&envelope.verify(TYPE, &keys).expect("signed")),
            ["one"]
        );
    }

    #[test]
    fn another_type_another_payload_or_another_key_is_refused() {
        let author = key("author", 1);
        let envelope = Envelope::sign(TYPE, b"release", &[&author]);
        let keys = [author.verify_key()];
        assert!(matches!(
            envelope.verify("text/plain", &keys),
            Err(EvidenceError::PayloadType { .. })
        ));
        let mut altered = envelope.clone();
        altered.payload = STANDARD.encode(b"RELEASE");
        assert!(matches!(
            altered.verify(TYPE, &keys),
            Err(EvidenceError::NotSigned { .. })
        ));
        let mut retyped = envelope.clone();
        retyped.payload_type = "text/plain".into();
        assert!(retyped.verify("text/plain", &keys).is_err());
        assert!(
            envelope
                .verify(TYPE, &[key("author", 2).verify_key()])
                .is_err()
        );
        assert!(envelope.verify(TYPE, &[]).is_err());
    }

    #[test]
    fn json_has_the_field_names_of_dsse() {
        let envelope = Envelope::sign(TYPE, b"x", &[&key("author", 1)]);
        let text = serde_json::to_string(&envelope).expect("serialises");
        assert!(text.starts_with(r#"{"payloadType":""#), "{text}");
        assert_eq!(
            serde_json::from_str::<Envelope>(&text).expect("parses"),
            envelope
        );
    }
}
