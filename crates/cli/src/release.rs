//! Release files: an envelope of the release's canonical bytes, with as many signatures as it has
//! by now. The bytes that are signed never change, so signing adds a line and nothing else.

use crate::output::{Cell, Ending, Page, Tone};
use crate::{CliError, files, key};
use lictor_types::Digest;
use lictor_wire::release::{self, FORMAT, PAYLOAD_TYPE};
use lictor_wire::{Envelope, Release, Trust, VerifyKey};
use serde::Serialize;
use std::path::Path;

/// A release file. Its signatures need not be checked yet.
pub(crate) struct Draft {
    pub(crate) envelope: Envelope,
    pub(crate) release: Release,
    pub(crate) digest: Digest,
}

/// As what somebody signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Author,
    Approver,
}

impl Part {
    const fn word(self) -> &'static str {
        match self {
            Self::Author => "author",
            Self::Approver => "approver",
        }
    }

    fn keys(self, trust: &Trust) -> &[VerifyKey] {
        match self {
            Self::Author => &trust.authors,
            Self::Approver => &trust.approvers,
        }
    }
}

impl Draft {
    /// A release that nobody has signed.
    pub(crate) fn new(release: Release) -> Self {
        let payload = release.canonical_bytes();
        Self {
            envelope: Envelope::sign(PAYLOAD_TYPE, &payload, &[]),
            digest: Digest::of(&payload),
            release,
        }
    }

    /// Reads a release as an agent would, up to the signatures.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let bad = |detail: &dyn std::fmt::Display| CliError::not_a_release(path, detail);
        let bytes = files::read(path, files::RELEASE_BYTES_MAX)?;
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
        if envelope.payload_type() != PAYLOAD_TYPE {
            let found = format!("it holds {:?}", envelope.payload_type());
            return Err(bad(&found));
        }
        let payload = envelope.unverified_payload().map_err(|error| bad(&error))?;
        let release: Release = serde_json::from_slice(&payload).map_err(|error| bad(&error))?;
        if release.format != FORMAT {
            let found = format!(
                "it has format {}, this version reads {FORMAT}",
                release.format
            );
            return Err(bad(&found));
        }
        if release.canonical_bytes() != payload {
            return Err(bad(&"its bytes are not in canonical form"));
        }
        Ok(Self {
            envelope,
            digest: Digest::of(&payload),
            release,
        })
    }

    /// The file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        files::json(&self.envelope)
    }

    /// Adds a signature. Where it is known whom agents believe, a signature that they would not
    /// count is refused here already.
    pub(crate) fn sign(
        &mut self,
        path: &Path,
        part: Part,
        (key_file, trust): (&Path, Option<&Trust>),
    ) -> Result<(), CliError> {
        let key = key::read(key_file)?;
        let own = key.verify_key();
        if let Some(trust) = trust {
            self.must_count(path, part, (&own, trust))?;
        }
        let others = self.envelope.signatures().iter();
        if part == Part::Approver && others.filter(|one| one.keyid != own.id()).count() == 0 {
            let what = "no other person has signed it; have the author run `lictor policy sign` \
                        first";
            return Err(CliError::file(path, what));
        }
        self.envelope
            .add_signature(&key)
            .map_err(CliError::key(path))
    }

    fn must_count(
        &self,
        path: &Path,
        part: Part,
        (own, trust): (&VerifyKey, &Trust),
    ) -> Result<(), CliError> {
        let deployment = &trust.deployment;
        if self.release.deployment != *deployment {
            let found = &self.release.deployment;
            let what = format!(
                "made for deployment {found}, this is {deployment}; compile it with the site of \
                 {deployment}"
            );
            return Err(CliError::file(path, what));
        }
        let keys = part.keys(trust);
        if !keys.contains(own) {
            let (word, names) = (part.word(), names(keys));
            let what = format!(
                "key {} is no {word} of {deployment}; expected one of {names}",
                own.id()
            );
            return Err(CliError::argument("--key", what));
        }
        let author = self.envelope.verify(PAYLOAD_TYPE, &trust.authors);
        let author = author.ok().and_then(|by| by.signers.into_iter().next());
        match (part, author) {
            (Part::Author, _) => Ok(()),
            (Part::Approver, Some(author)) if author != *own => Ok(()),
            (Part::Approver, Some(_)) => Err(CliError::argument(
                "--key",
                "its holder is the author; expected another person to approve",
            )),
            (Part::Approver, None) => {
                let names = names(&trust.authors);
                let what = format!(
                    "no author has signed it; have one of {names} run `lictor policy sign` first"
                );
                Err(CliError::file(path, what))
            }
        }
    }

    /// What became of each signature, and whether an agent would load the release.
    pub(crate) fn standing(&self, trust: Option<&Trust>) -> Standing {
        let signature = |one: &lictor_evidence::EnvelopeSignature| SignatureState {
            key: one.keyid.clone(),
            state: trust.map_or(State::NotChecked, |trust| self.state(&one.keyid, trust)),
        };
        let signatures = self.envelope.signatures().iter().map(signature).collect();
        let (counts, refused) =
            match trust.map(|trust| release::verify(&self.envelope, trust, None)) {
                None => (None, None),
                Some(Ok(_)) => (Some(true), None),
                Some(Err(error)) => (Some(false), Some(error.to_string())),
            };
        Standing {
            signatures,
            counts,
            refused,
        }
    }

    fn state(&self, keyid: &str, trust: &Trust) -> State {
        let valid = |keys: &[VerifyKey]| {
            let key = keys.iter().find(|key| key.id() == *keyid)?;
            let found = self
                .envelope
                .verify(PAYLOAD_TYPE, std::slice::from_ref(key));
            Some(found.is_ok())
        };
        match (valid(&trust.authors), valid(&trust.approvers)) {
            (Some(true), Some(true)) => State::Either,
            (Some(true), _) => State::Author,
            (_, Some(true)) => State::Approver,
            (None, None) => State::UnknownKey,
            _ => State::Invalid,
        }
    }
}

fn names(keys: &[VerifyKey]) -> String {
    keys.iter()
        .map(VerifyKey::id)
        .collect::<Vec<_>>()
        .join(", ")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    NotChecked,
    Author,
    Approver,
    Either,
    UnknownKey,
    Invalid,
}

impl State {
    fn cell(self) -> Cell {
        match self {
            Self::NotChecked => Cell::toned(Tone::Doubt, "not checked: no trust file is named"),
            Self::Author => Cell::toned(Tone::Good, "valid, by an author"),
            Self::Approver => Cell::toned(Tone::Good, "valid, by an approver"),
            Self::Either => Cell::toned(Tone::Good, "valid, by an author who is an approver too"),
            Self::UnknownKey => Cell::toned(Tone::Bad, "by a key that the trust file lacks"),
            Self::Invalid => Cell::toned(Tone::Bad, "NOT VALID: other bytes were signed"),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct SignatureState {
    key: String,
    state: State,
}

/// What the signatures of a release amount to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Standing {
    signatures: Vec<SignatureState>,
    /// Whether an agent would load it; `None` if nobody said whom to believe.
    counts: Option<bool>,
    refused: Option<String>,
}

impl Standing {
    pub(crate) fn page(&self, page: Page) -> Page {
        let rows = self.signatures.iter();
        let rows = rows.map(|one| [one.key.as_str().into(), one.state.cell()]);
        let page = page.section("signatures").table(["key", "signature"], rows);
        match (&self.counts, &self.refused) {
            (Some(true), _) => page.line(Cell::toned(Tone::Good, "an agent loads this release")),
            (Some(false), Some(why)) => page.line(Cell::toned(Tone::Doubt, why)),
            _ => page,
        }
    }

    /// A signature that is false makes the whole answer a no.
    pub(crate) fn ending(&self) -> Ending {
        let wrong = |one: &SignatureState| one.state == State::Invalid;
        if self.signatures.iter().any(wrong) {
            Ending::No
        } else {
            Ending::Done
        }
    }
}
