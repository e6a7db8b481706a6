//! The report: findings, readings and timelines, all computed from entries.

use crate::facts::{Facts, Stay};
use crate::{CHECKS, CoResidence, Finding, Profile, Status, html};
use lictor_evidence::pack::PackFile;
use lictor_evidence::{Entry, EvidenceError, MoveOutcome, MoveRecord, MoveSigners, VerifyKey};
use lictor_types::{Digest, GuestId, HostId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The report for programs.
pub const REPORT_JSON: &str = "report.json";
/// The report for people.
pub const REPORT_HTML: &str = "report.html";

const FORMAT: &str = "lictor-report/1";

/// Which log the report is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFacts {
    /// The log's name.
    pub origin: String,
    /// The log's key.
    pub key: VerifyKey,
    /// SHA-256 of the key's text, to be compared with what was read out elsewhere.
    pub fingerprint: Digest,
    /// Entries that the report was computed from.
    pub entries: u64,
    /// The Merkle root over them.
    pub root: Digest,
}

/// A stretch of a guest's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Where.
    pub host: HostId,
    /// Since when.
    pub since_ms: u64,
    /// Until when: the report's time if it still is there.
    pub until_ms: u64,
    /// Whether an agent enforces there.
    pub protected: bool,
    /// The entry that says so.
    pub entry: u64,
}

/// Time without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Why.
    pub cause: String,
    /// Since when.
    pub since_ms: u64,
    /// Until when: the report's time if it still lasts.
    pub until_ms: u64,
    /// How far those may be off.
    pub error_ms: u64,
    /// The entry that says so.
    pub entry: u64,
}

/// How a move ended, as the report shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveEnd {
    /// The guest runs at the target.
    Committed,
    /// The guest went on at the source.
    Aborted,
    /// The source was lost.
    StateLost,
    /// It was refused before it began.
    Refused,
    /// There is a record, and too few ends have signed it.
    Unproven,
}

impl MoveEnd {
    /// The words that reports use.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "called off",
            Self::StateLost => "source lost",
            Self::Refused => "refused",
            Self::Unproven => "not proven",
        }
    }
}

/// A move that took place, was called off or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Who.
    pub guest: GuestId,
    /// From where.
    pub from: HostId,
    /// To where.
    pub to: HostId,
    /// When: the opening at the target, the fence of one that was called off, the refusal.
    pub time_ms: u64,
    /// How it ended.
    pub end: MoveEnd,
    /// Who has signed its record; `None` for a refusal.
    pub signers: Option<MoveSigners>,
    /// What was measured: sessions, waits, times without a verdict; or why it was refused.
    pub measured: String,
    /// The entry that says so.
    pub entry: u64,
}

/// One guest over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeline {
    /// Who.
    pub guest: GuestId,
    /// Whether an assessor counts it in.
    pub in_scope: bool,
    /// Where it was.
    pub spans: Vec<Span>,
    /// When it was unprotected.
    pub gaps: Vec<Gap>,
}

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The format's name and version.
    pub format: String,
    /// As of when.
    pub now_ms: u64,
    /// How the facts were read.
    pub profile: Profile,
    /// The log.
    pub log: LogFacts,
    /// How many findings have each status, the readings of co-residence that do not count left out.
    pub summary: BTreeMap<String, u64>,
    /// The findings, in the order of the catalogue.
    pub findings: Vec<Finding>,
    /// The guests over time.
    pub timelines: Vec<Timeline>,
    /// The moves, the oldest first.
    pub moves: Vec<Move>,
}

impl Report {
    /// Computes a report over all of `entries` as of `now_ms`.
    ///
    /// # Errors
    /// [`EvidenceError`] if an entry is too long to have been logged.
    pub fn new(
        entries: &[Entry],
        key: &VerifyKey,
        now_ms: u64,
        profile: Profile,
    ) -> Result<Self, EvidenceError> {
        let facts = Facts::from_entries(entries)?;
        let mut tree = lictor_evidence::Tree::default();
        for entry in entries {
            tree.push(lictor_evidence::merkle::leaf_hash(&entry.to_bytes()?));
        }
        let findings = crate::run(&facts, now_ms, &profile);
        let mut summary: BTreeMap<String, u64> = Status::ALL
            .iter()
            .map(|status| (status.word().to_owned(), 0))
            .collect();
        for finding in findings.iter().filter(|finding| counts(finding, &profile)) {
            *summary.entry(finding.status.word().to_owned()).or_default() += 1;
        }
        let log = LogFacts {
            origin: key.name().to_string(),
            key: key.clone(),
            fingerprint: key.fingerprint(),
            entries: facts.entries,
            root: tree.root(),
        };
        let timelines = timelines(&facts, now_ms);
        Ok(Self {
            format: FORMAT.into(),
            now_ms,
            profile,
            log,
            summary,
            findings,
            timelines,
            moves: moves(&facts),
        })
    }

    /// What one reading of co-residence says about one host.
    #[must_use]
    pub fn reading(&self, host: &str, reading: CoResidence) -> Option<&Finding> {
        let check = CHECKS.iter().find(|check| check.reading == Some(reading))?;
        self.findings
            .iter()
            .find(|one| one.check == check.id && one.subject == host)
    }

    /// The hosts that co-residence was judged for.
    #[must_use]
    pub fn shared_hosts(&self) -> BTreeSet<&str> {
        let readings = self.findings.iter().filter(|one| reading_of(one).is_some());
        readings.map(|one| one.subject.as_str()).collect()
    }

    /// Whether a finding counts in the summary: of the three readings only the profile's does.
    #[must_use]
    pub fn counts(&self, finding: &Finding) -> bool {
        counts(finding, &self.profile)
    }

    /// The report as the files of a pack.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, PackFile> {
        let entries: BTreeSet<u64> = self
            .findings
            .iter()
            .flat_map(|one| one.evidence.iter().copied())
            .collect();
        let file = |text: String| PackFile {
            bytes: text.into_bytes(),
            entries: entries.iter().copied().collect(),
        };
        BTreeMap::from([
            (REPORT_JSON.to_owned(), file(json(self))),
            (REPORT_HTML.to_owned(), file(html(self))),
        ])
    }
}

fn reading_of(finding: &Finding) -> Option<CoResidence> {
    CHECKS
        .iter()
        .find(|check| check.id == finding.check)?
        .reading
}

fn counts(finding: &Finding, profile: &Profile) -> bool {
    reading_of(finding).is_none_or(|reading| reading == profile.co_residence)
}

/// The report for programs.
#[must_use]
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report has only string keys");
    text.push('\n');
    text
}

fn moves(facts: &Facts) -> Vec<Move> {
    let recorded = facts.moves.iter().map(|at| {
        let record = &at.value.record;
        let (end, time_ms) = match record.outcome {
            MoveOutcome::Aborted => (MoveEnd::Aborted, record.fenced_ms),
            MoveOutcome::Committed => (MoveEnd::Committed, record.opened_ms),
            MoveOutcome::StateLost => (MoveEnd::StateLost, record.opened_ms),
        };
        Move {
            guest: record.guest.clone(),
            from: record.from.clone(),
            to: record.to.clone(),
            time_ms,
            end: if at.value.counts() {
                end
            } else {
                MoveEnd::Unproven
            },
            signers: Some(at.value.signers),
            measured: measured(record),
            entry: at.index,
        }
    });
    let refused = facts.refusals.iter().map(|at| Move {
        guest: at.value.guest.clone(),
        from: at.value.from.clone(),
        to: at.value.to.clone(),
        time_ms: at.time_ms,
        end: MoveEnd::Refused,
        signers: None,
        measured: at.value.reasons.join("; "),
        entry: at.index,
    });
    let mut moves: Vec<_> = recorded.chain(refused).collect();
    moves.sort_by_key(|one| (one.time_ms, one.entry));
    moves
}

fn measured(record: &MoveRecord) -> String {
    let sessions = &record.sessions;
    let refused: u64 = sessions.refused.values().sum();
    let (milli, micro) = (record.pause_us / 1_000, record.pause_us % 1_000);
    let overridden = record.overridden.as_ref();
    let overridden = overridden.map_or_else(String::new, |one| format!("; {one}"));
    format!(
        "{} sessions sent, {} accepted, {refused} refused; packets waited {milli}.{micro:03} ms; \
         {} ms without a verdict, give or take {} ms{overridden}",
        sessions.sent, sessions.accepted, record.unprotected_ms, record.error_ms
    )
}

fn timelines(facts: &Facts, now_ms: u64) -> Vec<Timeline> {
    let in_scope: BTreeSet<_> = facts.in_scope().map(|guest| &guest.guest).collect();
    let span = |stay: &Stay| Span {
        host: stay.host.clone(),
        since_ms: stay.since_ms,
        until_ms: stay.until_ms.unwrap_or(now_ms).max(stay.since_ms),
        protected: stay.protected,
        entry: stay.index,
    };
    let timeline = |guest: &GuestId| Timeline {
        guest: guest.clone(),
        in_scope: in_scope.contains(guest),
        spans: facts
            .stays
            .iter()
            .filter(|stay| stay.guest == *guest)
            .map(span)
            .collect(),
        gaps: facts
            .unprotected
            .iter()
            .filter(|at| at.value.guest == *guest)
            .map(|at| Gap {
                cause: at.value.cause.clone(),
                since_ms: at.value.since_ms,
                until_ms: at.value.until_ms.unwrap_or(now_ms).max(at.value.since_ms),
                error_ms: at.value.error_ms,
                entry: at.index,
            })
            .collect(),
    };
    facts.guests().into_iter().map(timeline).collect()
}
