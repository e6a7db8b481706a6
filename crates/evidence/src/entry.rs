//! Entries: what happened, in one closed list, as canonical JSON.

use crate::EvidenceError;
use crate::body::Body;
use lictor_types::{EVIDENCE_ENTRY_BYTES_MAX, HostId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The version of the entry format.
pub const ENTRY_VERSION: u32 = 1;

const MANAGER: &str = "manager";

/// Who wrote an entry. No host may be called `manager`: its entries would read as the manager's, so
/// a manager refuses to enrol it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// The manager.
    Manager,
    /// A host's agent.
    Host(HostId),
}

impl Source {
    /// The host, if it is one.
    #[must_use]
    pub const fn host(&self) -> Option<&HostId> {
        match self {
            Self::Manager => None,
            Self::Host(host) => Some(host),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager => f.pad(MANAGER),
            Self::Host(host) => host.fmt(f),
        }
    }
}

impl FromStr for Source {
    type Err = lictor_types::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == MANAGER {
            Ok(Self::Manager)
        } else {
            HostId::new(text).map(Self::Host)
        }
    }
}

impl TryFrom<String> for Source {
    type Error = lictor_types::IdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// [`ENTRY_VERSION`].
    pub v: u32,
    /// Who wrote it.
    pub host: Source,
    /// Its place among its writer's entries, from 0 without gaps: a host's index in its own log.
    pub seq: u64,
    /// When, by the writer's clock, in milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    pub body: Body,
}

impl Entry {
    /// An entry of the present version.
    #[must_use]
    pub const fn new(host: Source, seq: u64, time_ms: u64, body: Body) -> Self {
        Self {
            v: ENTRY_VERSION,
            host,
            seq,
            time_ms,
            body,
        }
    }

    /// The bytes that are logged.
    ///
    /// # Errors
    /// [`EvidenceError::Entry`] if they are too many: log a digest of large things instead.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EvidenceError> {
        let bytes = serde_json::to_vec(self).expect("an entry has only string keys");
        if bytes.len() > EVIDENCE_ENTRY_BYTES_MAX {
            let (kind, found) = (self.body.kind(), bytes.len());
            let text = format!("{kind} has {found} bytes; at most {EVIDENCE_ENTRY_BYTES_MAX} fit");
            return Err(EvidenceError::Entry(text));
        }
        Ok(bytes)
    }

    /// Reads logged bytes. Only the canonical spelling counts: another one would have another hash
    /// for the same meaning.
    ///
    /// # Errors
    /// [`EvidenceError::Entry`] if kind, version or spelling are not known.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let entry: Self = serde_json::from_slice(bytes)
            .map_err(|error| EvidenceError::Entry(error.to_string()))?;
        if entry.v != ENTRY_VERSION {
            let text = format!("version {}; expected {ENTRY_VERSION}", entry.v);
            return Err(EvidenceError::Entry(text));
        }
        if entry.to_bytes()? != bytes {
            return Err(EvidenceError::Entry("not in canonical form".into()));
        }
        Ok(entry)
    }

    /// Names an entry that may be damaged: whatever of kind, writer and number can still be read.
    #[must_use]
    pub fn describe(bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let field = |name: &str| {
            let (_, rest) = text.split_once(name)?;
            let end = rest.find(['"', ',', '}'])?;
            Some(
                rest[..end]
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(64)
                    .collect::<String>(),
            )
        };
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unreadable".into());
        let kind = or_unknown(field(r#""kind":""#));
        let (host, seq) = (
            or_unknown(field(r#""host":""#)),
            or_unknown(field(r#""seq":"#)),
        );
        format!("{kind} of {host}, seq {seq}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        let host = Source::Host(HostId::new("h1").expect("valid"));
        let body = Body::Alarm {
            subject: "vnic 7".into(),
            text: text.into(),
        };
        Entry::new(host, 3, 1_700_000_000_000, body)
    }

    #[test]
    fn entries_have_one_spelling() {
        let bytes = entry("look").to_bytes().expect("fits");
        let text = String::from_utf8(bytes.clone()).expect("JSON is UTF-8");
        let body = r#"{"kind":"alarm","subject":"vnic 7","text":"look"}"#;
        let expected =
            format!(r#"{{"v":1,"host":"h1","seq":3,"time_ms":1700000000000,"body":{body}}}"#);
        assert_eq!(text, expected);
        assert_eq!(Entry::from_bytes(&bytes), Ok(entry("look")));
        for other in [
            text.replace(r#""v":1"#, r#""v":2"#),
            text.replace(r#""v":1,"#, r#""v": 1,"#),
            text.replace("alarm", "alert"),
            text.replace(r#""text""#, r#""more":1,"text""#),
            text.replace(r#""host":"h1","seq":3"#, r#""seq":3,"host":"h1""#),
        ] {
            assert_ne!(other, text);
            assert!(Entry::from_bytes(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn the_longest_entry_fits_and_one_byte_more_is_refused() {
        let room = EVIDENCE_ENTRY_BYTES_MAX - entry("").to_bytes().expect("fits").len();
        assert!(entry(&"x".repeat(room)).to_bytes().is_ok());
        assert!(matches!(
            entry(&"x".repeat(room + 1)).to_bytes(),
            Err(EvidenceError::Entry(_))
        ));
    }

    #[test]
    fn a_damaged_entry_is_named_by_what_is_left_of_it() {
        let mut bytes = entry("look").to_bytes().expect("fits");
        assert_eq!(Entry::describe(&bytes), "alarm of h1, seq 3");
        let last = bytes.len() - 4;
        bytes[last] ^= 0x80;
        assert_eq!(Entry::describe(&bytes), "alarm of h1, seq 3");
        assert_eq!(
            Entry::describe(b"x"),
            "unreadable of unreadable, seq unreadable"
        );
    }

    #[test]
    fn the_kind_that_is_named_is_the_kind_that_is_written() {
        let bytes = entry("look").to_bytes().expect("fits");
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(value["body"]["kind"], entry("look").body.kind());
    }

    #[test]
    fn a_host_cannot_pass_as_the_manager() {
        assert_eq!("manager".parse(), Ok(Source::Manager));
        assert_eq!(
            "h1".parse(),
            Ok(Source::Host(HostId::new("h1").expect("valid")))
        );
        assert!("H1".parse::<Source>().is_err());
    }
}
