//! `lictor audit`: evidence packs, reports of them, and their verification.

use crate::caller::Caller;
use crate::output::{Answer, Cell, Page, Printing, Tone};
use crate::{CliError, files};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use lictor_audit::verify::{self, Outcome, Recheck};
use lictor_audit::{Profile, REPORT_JSON, Report, Status, html, json};
use lictor_evidence::pack::{self, Files};
use lictor_evidence::{Body, VerifyKey};
use std::path::{Path, PathBuf};

/// Fetch evidence packs, make reports of them and verify them.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Fetch a pack from the manager into a new directory, and verify it with the log's key of the
    /// trust file.
    Pack {
        /// The directory; it must not be there yet.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        caller: Caller,
    },
    /// Verify a pack and write the report of its entries.
    Report {
        /// The pack's directory.
        #[arg(long, value_name = "DIR")]
        pack: PathBuf,
        /// Where the page goes.
        #[arg(long, value_name = "FILE")]
        html: PathBuf,
        /// Where the report for programs goes.
        #[arg(long, value_name = "FILE")]
        json: PathBuf,
        /// The log's key as you learnt it elsewhere.
        #[arg(long, value_name = "VKEY")]
        key: Option<VerifyKey>,
    },
    /// Verify a pack offline, as `lictor-verify` does.
    Verify {
        /// The pack's directory.
        dir: PathBuf,
        /// The log's key as you learnt it elsewhere; without it the key in the pack is used and
        /// must be compared by its fingerprint.
        #[arg(long, value_name = "VKEY")]
        key: Option<VerifyKey>,
        /// Run the checks on the packed entries also where the pack has no report to compare with.
        #[arg(long)]
        recheck: bool,
    },
}

pub(crate) fn run(args: &AuditArgs) -> Result<Answer, CliError> {
    match &args.action {
        Action::Pack { out, caller } => fetch(out, caller),
        Action::Report {
            pack,
            html,
            json,
            key,
        } => report(pack, (html, json), key.as_ref()),
        Action::Verify { dir, key, recheck } => {
            let files = files::read_pack(dir)?;
            let recheck = if *recheck {
                Recheck::Always
            } else {
                Recheck::Reported
            };
            Ok(outcome(&verified(&files, key.as_ref(), recheck)?))
        }
    }
}

fn verified(files: &Files, key: Option<&VerifyKey>, recheck: Recheck) -> Result<Outcome, CliError> {
    verify::verify(files, key, recheck).map_err(|error| CliError::Pack(error.to_string()))
}

fn outcome(outcome: &Outcome) -> Answer {
    Answer::new(Page::default().text(verify::table(outcome)), outcome)
}

fn fetch(out: &Path, caller: &Caller) -> Result<Answer, CliError> {
    let identity = caller.open()?;
    if out.exists() {
        let what = "it is there already; choose a new directory";
        return Err(CliError::file(out, what));
    }
    let mut files = Files::new();
    for (path, text) in identity.client.pack()?.files {
        let bytes = STANDARD.decode(text).map_err(|error| {
            let what = format!("the manager sent {path:?} damaged ({error}); fetch it again");
            CliError::file(out, what)
        })?;
        files.insert(path, bytes);
    }
    files::write_pack(out, &files)?;
    let written = files::read_pack(out)?;
    let found = verified(&written, Some(&identity.trust.manager), Recheck::Reported)?;
    Ok(outcome(&found))
}

fn report(
    dir: &Path,
    (html_file, json_file): (&Path, &Path),
    key: Option<&VerifyKey>,
) -> Result<Answer, CliError> {
    let files = files::read_pack(dir)?;
    // A report of a pack that does not verify would be a page about nothing.
    let checked = verified(&files, key, Recheck::Always)?;
    let report = report_of(&files, key)?;
    files::write_new(html_file, html(&report).as_bytes())?;
    files::write_new(json_file, json(&report).as_bytes())?;
    Ok(report_answer(&report, &checked, (html_file, json_file)))
}

/// The packed report's time and profile, if there is one, so that both say the same.
fn report_of(files: &Files, key: Option<&VerifyKey>) -> Result<Report, CliError> {
    let refused = |why: &dyn std::fmt::Display| CliError::Pack(why.to_string());
    let verified = pack::verify(files, key).map_err(|error| refused(&error))?;
    // The entry that binds the pack itself was written after any report in it.
    let entries = match verified.entries.split_last() {
        Some((last, before)) if matches!(last.body, Body::PackBuilt { .. }) => before,
        _ => &verified.entries,
    };
    let newest = verified.entries.iter().map(|entry| entry.time_ms).max();
    let (now_ms, profile) = match files.get(REPORT_JSON) {
        None => (newest.unwrap_or_default(), Profile::default()),
        Some(packed) => {
            let packed: Report = serde_json::from_slice(packed).map_err(|error| refused(&error))?;
            (packed.now_ms, packed.profile)
        }
    };
    Report::new(entries, &verified.key, now_ms, profile).map_err(|error| refused(&error))
}

fn report_answer(report: &Report, checked: &Outcome, files: (&Path, &Path)) -> Answer {
    let page = Page::default().fields([
        ("log", report.log.origin.as_str().into()),
        ("fingerprint", report.log.fingerprint.into()),
        ("key was given", Cell::yes_no(checked.key_was_given)),
        ("as of", lictor_audit::utc(report.now_ms).into()),
        ("entries", report.log.entries.into()),
        ("page", files.0.display().into()),
        ("for programs", files.1.display().into()),
    ]);
    let summary = report.summary.iter();
    let summary = summary.map(|(word, count)| [word.as_str().into(), count.into()]);
    let page = page
        .section("summary")
        .table(["result", "findings"], summary);
    let open = report.findings.iter();
    let open = open.filter(|one| !matches!(one.status, Status::Pass | Status::NotApplicable));
    let rows = open.map(|one| {
        let tone = if one.status == Status::Fail {
            Tone::Bad
        } else {
            Tone::Doubt
        };
        [
            Cell::toned(tone, one.status.word()),
            one.check.as_str().into(),
            one.subject.as_str().into(),
            one.reason.as_str().into(),
        ]
    });
    let page = page
        .section("what does not pass")
        .table(["result", "check", "subject", "reason"], rows);
    Answer::new(page, report)
}
