//! Verifying a pack and running its checks again: all that `lictor-verify` does.

use crate::report::{REPORT_HTML, REPORT_JSON, json};
use crate::{Finding, Profile, Report, html};
use lictor_evidence::pack::{self, Files, PackError};
use lictor_evidence::{Body, ChainFault, EvidenceError, VerifyKey};
use lictor_types::Digest;
use serde::Serialize;
use std::fmt::Write as _;

/// Why a pack is refused.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A byte is not what was logged.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The facts could not be read.
    #[error(transparent)]
    Facts(#[from] EvidenceError),
    /// The report is not what its own entries say.
    #[error("{path}: {why}")]
    Report {
        /// The file.
        path: &'static str,
        /// What differs.
        why: String,
    },
}

/// When the checks are run again: on the packed entries, at the packed time, and compared with the
/// packed report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// If the pack carries a report.
    Reported,
    /// In any case, also where there is nothing to compare with.
    Always,
}

/// A host's log as the pack tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostLog {
    /// The host.
    pub host: String,
    /// Its entries.
    pub entries: u64,
    /// How many its newest good checkpoint covers.
    pub anchored: u64,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The log's name.
    pub origin: String,
    /// The log's key.
    pub key: String,
    /// SHA-256 of the key's text.
    pub fingerprint: Digest,
    /// Whether the caller named the key, or it came out of the pack itself.
    pub key_was_given: bool,
    /// Entries.
    pub entries: u64,
    /// The root over them.
    pub root: Digest,
    /// Files.
    pub files: u64,
    /// The hosts' logs.
    pub hosts: Vec<HostLog>,
    /// The findings of the recheck; `None` if the pack has no report and none was asked for.
    pub findings: Option<Vec<Finding>>,
    /// Whether the pack has a report that the recheck was compared with.
    pub compared: bool,
}

/// Verifies a pack and runs its checks again.
///
/// # Errors
/// [`VerifyError`] names the file or the entry.
pub fn verify(
    files: &Files,
    key: Option<&VerifyKey>,
    recheck: Recheck,
) -> Result<Outcome, VerifyError> {
    let verified = pack::verify(files, key)?;
    let reported = files.contains_key(REPORT_JSON);
    let report = match recheck {
        Recheck::Reported if !reported => None,
        Recheck::Reported | Recheck::Always => Some(run_again(files, &verified)?),
    };
    let host = |chain: &lictor_evidence::HostChain| HostLog {
        host: chain.host.to_string(),
        entries: chain.entries,
        anchored: chain
            .anchored
            .as_ref()
            .map_or(0, |checkpoint| checkpoint.size),
        faults: chain.faults.iter().map(ChainFault::to_string).collect(),
    };
    Ok(Outcome {
        origin: verified.checkpoint.origin.clone(),
        key: verified.key.to_string(),
        fingerprint: verified.key.fingerprint(),
        key_was_given: key.is_some(),
        entries: verified.checkpoint.size,
        root: verified.checkpoint.root,
        files: files.len() as u64,
        hosts: verified.chains.iter().map(host).collect(),
        compared: reported,
        findings: report.map(|report| report.findings),
    })
}

/// The entry that binds the pack itself was written after the report, so it is not part of it.
fn run_again(files: &Files, verified: &pack::Verified) -> Result<Report, VerifyError> {
    let entries = match verified.entries.split_last() {
        Some((last, before)) if matches!(last.body, Body::PackBuilt { .. }) => before,
        _ => &verified.entries,
    };
    let Some(packed) = files.get(REPORT_JSON) else {
        let now_ms = verified
            .entries
            .iter()
            .map(|entry| entry.time_ms)
            .max()
            .unwrap_or_default();
        return Ok(Report::new(
            entries,
            &verified.key,
            now_ms,
            Profile::default(),
        )?);
    };
    let fault = |why: String| VerifyError::Report {
        path: REPORT_JSON,
        why,
    };
    let packed_report: Report =
        serde_json::from_slice(packed).map_err(|error| fault(error.to_string()))?;
    let (claimed, found) = (packed_report.log.entries, entries.len() as u64);
    if claimed != found {
        return Err(fault(format!(
            "it covers {claimed} entries; the pack has {found}"
        )));
    }
    let now_ms = packed_report.now_ms;
    check_time(verified, now_ms).map_err(fault)?;
    let again = Report::new(
        entries,
        &verified.key,
        now_ms,
        packed_report.profile.clone(),
    )?;
    if let Some(why) = difference(&packed_report.findings, &again.findings) {
        return Err(fault(why));
    }
    if json(&again).as_bytes() != packed.as_slice() {
        return Err(fault(
            "its findings agree, but other parts are not what entries say".into(),
        ));
    }
    if files
        .get(REPORT_HTML)
        .is_some_and(|page| page != html(&again).as_bytes())
    {
        let why = "the page is not what the entries say, or another version drew it".into();
        return Err(VerifyError::Report {
            path: REPORT_HTML,
            why,
        });
    }
    Ok(again)
}

/// A report dated back would show stale facts as fresh: the entry that binds the pack says when it
/// was made.
fn check_time(verified: &pack::Verified, now_ms: u64) -> Result<(), String> {
    let made_ms = verified.entries.last().map_or(0, |entry| entry.time_ms);
    if made_ms.abs_diff(now_ms) <= REPORT_AGE_MAX_MS {
        return Ok(());
    }
    let (made, now) = (crate::time::utc(made_ms), crate::time::utc(now_ms));
    Err(format!(
        "it is as of {now}, but the pack was made at {made}"
    ))
}

/// How long before its pack a report may be computed.
const REPORT_AGE_MAX_MS: u64 = 5 * 60 * 1_000;

fn difference(packed: &[Finding], again: &[Finding]) -> Option<String> {
    let name = |finding: &Finding| format!("{} of {}", finding.check, finding.subject);
    for (packed, again) in packed.iter().zip(again) {
        if packed != again {
            let (name, was, is) = (name(packed), packed.status, again.status);
            return Some(format!(
                "{name} says {was}; the entries say {is} ({})",
                again.reason
            ));
        }
    }
    let (was, is) = (packed.len(), again.len());
    (was != is).then(|| format!("it has {was} findings; the entries make {is}"))
}

/// The outcome as lines for a person.
#[must_use]
pub fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        text.write_fmt(words)
            .and_then(|()| text.write_char('\n'))
            .expect("a String takes all");
    };
    let Outcome {
        origin,
        fingerprint,
        entries,
        files,
        root,
        ..
    } = outcome;
    line(format_args!(
        "VERIFIED {files} files, {entries} entries of {origin}"
    ));
    line(format_args!("root         {root}"));
    line(format_args!("key          {}", outcome.key));
    line(format_args!("fingerprint  {fingerprint}"));
    if !outcome.key_was_given {
        line(format_args!(
            "NOTE the key came out of the pack itself: compare its fingerprint with"
        ));
        line(format_args!(
            "     one that you learnt elsewhere, or give it with --key"
        ));
    }
    for host in &outcome.hosts {
        let HostLog {
            host,
            entries,
            anchored,
            faults,
        } = host;
        line(format_args!(
            "host {host}: {entries} entries, {anchored} under its own checkpoint"
        ));
        faults
            .iter()
            .for_each(|fault| line(format_args!("  FAULT {fault}")));
    }
    let Some(findings) = &outcome.findings else {
        line(format_args!(
            "NOTE the pack has no report; --recheck runs the checks all the same"
        ));
        return text;
    };
    for Finding {
        status,
        check,
        subject,
        reason,
        ..
    } in findings
    {
        line(format_args!("{status:<14} {check} {subject}: {reason}"));
    }
    line(format_args!(
        "{}",
        if outcome.compared {
            "The checks were run again; the report says the same."
        } else {
            "The checks were run; the pack has no report to compare with."
        }
    ));
    text
}
