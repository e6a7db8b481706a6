//! What a check says about one subject.

use lictor_types::Generation;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The result of a check. Only `PASS` is a pass: what is not known, excepted or left to a person is
/// never shown as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// The facts show a violation.
    Fail,
    /// There are no facts, or they are too old.
    Unknown,
    /// A person must judge.
    Manual,
    /// A violation that its owner has accepted for a limited time.
    Excepted,
    /// The facts show that it holds.
    Pass,
    /// There is nothing to check.
    NotApplicable,
}

impl Status {
    /// All, the most pressing first.
    pub const ALL: [Self; 6] = [
        Self::Fail,
        Self::Unknown,
        Self::Manual,
        Self::Excepted,
        Self::Pass,
        Self::NotApplicable,
    ];

    /// The word that reports use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
            Self::Manual => "MANUAL",
            Self::Excepted => "EXCEPTED",
            Self::Pass => "PASS",
            Self::NotApplicable => "NOT_APPLICABLE",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The three readings of "one primary function per component" that assessors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoResidence {
    /// Zones never share a host.
    Strict,
    /// Zones may share a host if they are isolated from each other, with proof.
    Isolated,
    /// Zones may share a host if all are hardened to the highest level there.
    Highest,
}

impl CoResidence {
    /// All, the strictest first.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Isolated, Self::Highest];

    /// The word that reports use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Isolated => "isolated",
            Self::Highest => "highest",
        }
    }
}

/// A violation that its owner has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The check.
    pub check: String,
    /// The subject, as findings name it.
    pub subject: String,
    /// Who answers for it.
    pub owner: String,
    /// Why it is acceptable.
    pub reason: String,
    /// Until when.
    pub until_ms: u64,
}

impl Exception {
    fn covers(&self, finding: &Finding, now_ms: u64) -> bool {
        let complete = !self.owner.trim().is_empty() && !self.reason.trim().is_empty();
        let same = self.check == finding.check && self.subject == finding.subject;
        complete && same && now_ms < self.until_ms
    }
}

/// How the facts are read. It travels in the report, so that a recheck reads them the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The reading of co-residence that counts; the others are shown beside it.
    pub co_residence: CoResidence,
    /// How far back events count.
    pub window_ms: u64,
    /// How old a segmentation test may be.
    pub segmentation_age_max_ms: u64,
    /// What the owners have accepted.
    pub exceptions: Vec<Exception>,
}

pub(crate) const HOUR_MS: u64 = 60 * 60 * 1_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: "pci-dss-4.0.1".into(),
            co_residence: CoResidence::Isolated,
            window_ms: 366 * DAY_MS,
            segmentation_age_max_ms: 366 * DAY_MS,
            exceptions: Vec::new(),
        }
    }
}

/// How far clocks of honest hosts may differ.
pub(crate) const CLOCK_TOLERANCE_MS: u64 = 1_000;
/// Evidence indices in one finding; the count in the text is always the full one.
pub(crate) const EVIDENCE_PER_FINDING_MAX: usize = 100;

/// What kind of fact a check rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something that happened: a violation stays one, however long ago.
    Event,
    /// How something is: too old a fact says nothing any more, neither good nor bad.
    State,
}

/// What a check says about one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The check's id.
    pub check: String,
    /// The check's version.
    pub version: u32,
    /// What was checked.
    pub subject: String,
    /// The result.
    pub status: Status,
    /// Why, in a sentence.
    pub reason: String,
    /// What the facts say.
    pub observed: String,
    /// What would pass.
    pub expected: String,
    /// Indices of the entries that it rests on.
    pub evidence: Vec<u64>,
    /// When the newest of those facts was collected.
    pub collected_at: Option<u64>,
    /// When they are too old.
    pub valid_until: Option<u64>,
    /// The release that it speaks of.
    pub generation: Option<Generation>,
    /// The reading under which it holds.
    pub interpretation: String,
}

impl Finding {
    pub(crate) fn new(
        subject: impl Into<String>,
        status: Status,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            check: String::new(),
            version: 0,
            subject: subject.into(),
            status,
            reason: reason.into(),
            observed: String::new(),
            expected: String::new(),
            evidence: Vec::new(),
            collected_at: None,
            valid_until: None,
            generation: None,
            interpretation: String::new(),
        }
    }

    /// A verdict from a list of faults: none is a pass.
    pub(crate) fn judged(subject: impl Into<String>, faults: &[String], good: &str) -> Self {
        match faults {
            [] => Self::new(subject, Status::Pass, good),
            [first] => Self::new(subject, Status::Fail, first.clone()),
            [first, rest @ ..] => Self::new(
                subject,
                Status::Fail,
                format!("{first}; and {} more", rest.len()),
            )
            .saw(
                faults
                    .iter()
                    .take(20)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
        }
    }

    pub(crate) fn saw(mut self, observed: impl Into<String>) -> Self {
        if self.observed.is_empty() {
            self.observed = observed.into();
        }
        self
    }

    pub(crate) fn wants(mut self, expected: impl Into<String>) -> Self {
        self.expected = expected.into();
        self
    }

    pub(crate) fn from(mut self, entries: impl IntoIterator<Item = u64>) -> Self {
        self.evidence.extend(entries);
        self.evidence.sort_unstable();
        self.evidence.dedup();
        self.evidence.truncate(EVIDENCE_PER_FINDING_MAX);
        self
    }

    pub(crate) const fn at(mut self, collected_at: Option<u64>) -> Self {
        self.collected_at = collected_at;
        self
    }

    pub(crate) const fn of(mut self, generation: Option<Generation>) -> Self {
        self.generation = generation;
        self
    }

    pub(crate) fn read_as(mut self, reading: CoResidence) -> Self {
        self.interpretation = reading.word().into();
        self
    }

    /// Takes back what the age of the facts does not allow to say, and applies exceptions.
    pub(crate) fn settle(
        mut self,
        (kind, validity_ms): (Kind, u64),
        now_ms: u64,
        profile: &Profile,
    ) -> Self {
        if self.interpretation.is_empty() {
            self.interpretation.clone_from(&profile.name);
        }
        self.valid_until = self.collected_at.map(|at| at.saturating_add(validity_ms));
        let early = self
            .collected_at
            .is_some_and(|at| at > now_ms + CLOCK_TOLERANCE_MS);
        let stale = self.valid_until.is_none_or(|until| until < now_ms);
        let takes_back = match self.status {
            Status::Pass | Status::Manual | Status::NotApplicable => true,
            Status::Fail => kind == Kind::State,
            Status::Unknown | Status::Excepted => false,
        };
        if takes_back && (early || stale) {
            let why = match self.collected_at {
                None => "no fact says when this was seen",
                Some(_) if early => "the newest fact is dated in the future",
                Some(_) => "the newest fact is too old",
            };
            self.reason = format!("{why}; it said {}: {}", self.status, self.reason);
            self.status = Status::Unknown;
        }
        let accepted = profile
            .exceptions
            .iter()
            .find(|one| one.covers(&self, now_ms));
        if let (Status::Fail, Some(exception)) = (self.status, accepted) {
            self.status = Status::Excepted;
            let (owner, why) = (&exception.owner, &exception.reason);
            self.reason = format!("accepted by {owner}: {why}; it said FAIL: {}", self.reason);
        }
        self
    }
}
