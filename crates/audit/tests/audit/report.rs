//! The report says what the entries say, needs nothing from outside, and cannot be dressed up.

use crate::world::{
    SEEN_MS, START_MS, Said, by, entries, good, guest, host, host_key, manager_key, placed, record,
    recorded,
};
use lictor_audit::verify::{Recheck, VerifyError, table, verify};
use lictor_audit::{
    CoResidence, MoveEnd, Profile, REPORT_HTML, REPORT_JSON, Report, Status, html, json,
};
use lictor_evidence::pack::{self, Draft, Files, PackFile};
use lictor_evidence::{
    Body, Entry, Log, MemoryStorage, MoveOutcome, PlacedBy, Source, TrustPolicy,
};
use std::collections::BTreeMap;

const NOW_MS: u64 = SEEN_MS + 1_000;

fn report(said: Said, now_ms: u64) -> Report {
    let key = manager_key().verify_key();
    Report::new(&entries(said), &key, now_ms, Profile::default()).expect("short entries")
}

/// A deployment with two zones on one host and a gap.
fn mixed() -> Said {
    let mut said = good();
    said.push((
        by("h2"),
        START_MS + 50_000,
        placed("web", "h2", PlacedBy::Found),
    ));
    let gap = Body::UnprotectedClosed {
        guest: guest("pay"),
        cause: "engine-hung <script>alert(1)</script>".into(),
        choice: "keep".into(),
        since_ms: START_MS + 51_000,
        until_ms: START_MS + 51_250,
        error_ms: 5,
    };
    said.push((Source::Manager, SEEN_MS, gap));
    said
}

fn packed(said: Said, carried: BTreeMap<String, PackFile>, made_ms: u64) -> Files {
    let key = manager_key();
    let mut log = Log::open(MemoryStorage::default(), key.verify_key(), None).expect("new");
    let entries = entries(said);
    for entry in &entries {
        log.append(&entry.to_bytes().expect("fits"))
            .expect("appends");
    }
    let draft = Draft::new(carried, &TrustPolicy::log_only(key.verify_key())).expect("usable");
    let seq = entries
        .iter()
        .filter(|entry| entry.host == Source::Manager)
        .count() as u64;
    let bound = Entry::new(Source::Manager, seq, made_ms, draft.entry());
    log.append(&bound.to_bytes().expect("fits"))
        .expect("appends");
    let checkpoint = log.checkpoint(&key).expect("signs");
    draft
        .finish(&log.entries().expect("in memory"), &checkpoint)
        .expect("verifies")
}

#[test]
fn a_page_refers_to_nothing_outside_itself_and_runs_nothing() {
    let page = html(&report(mixed(), NOW_MS));
    for outside in [
        "http:", "https:", "src=", "href=", "@import", "<script", "<link", "<iframe",
    ] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    let urls: Vec<_> = page
        .match_indices("url(")
        .map(|(at, _)| &page[at..at + 11])
        .collect();
    assert!(
        !urls.is_empty() && urls.iter().all(|url| *url == "url(#hatch)"),
        "{urls:?}"
    );
}

#[test]
fn a_page_shows_every_finding_in_words_and_all_three_readings() {
    let report = report(mixed(), NOW_MS);
    let page = html(&report);
    for finding in &report.findings {
        assert!(
            page.contains(&finding.status.word().replace('_', " ")),
            "{finding:#?}"
        );
        assert!(page.contains(&finding.check), "{finding:#?}");
    }
    for reading in CoResidence::ALL {
        let found = report.reading("h2", reading).expect("h2 is shared");
        assert!(page.contains(reading.word()), "{found:#?}");
    }
    let readings = CoResidence::ALL.map(|one| report.reading("h2", one).expect("judged").status);
    assert_eq!(readings, [Status::Fail, Status::Manual, Status::Pass]);
    for needed in [
        report.log.fingerprint.to_string(),
        report.log.key.to_string(),
        "prefers-color-scheme: dark".into(),
        "@media print".into(),
        "lang=\"en\"".into(),
        "250 ms, give or take 5 ms".into(),
    ] {
        assert!(page.contains(&needed), "the page lacks {needed}");
    }
}

#[test]
fn every_move_is_shown_with_its_end_and_its_signers() {
    let mut said = mixed();
    let mut aborted = record();
    aborted.outcome = MoveOutcome::Aborted;
    aborted.ticket = lictor_types::Digest::of(b"ticket 2");
    let refused = Body::MoveRefused {
        guest: guest("pay"),
        from: host("h1"),
        to: host("h3"),
        reasons: vec!["no ids there".into(), "no room".into()],
    };
    let early = START_MS + 10_000;
    let forged = recorded(aborted.clone(), &[&host_key("h2")]);
    said.push((by("h1"), early, recorded(aborted, &[&host_key("h1")])));
    said.push((by("h1"), early, refused));
    let report = report(said.clone(), NOW_MS);
    let ends: Vec<_> = report.moves.iter().map(|one| one.end).collect();
    assert_eq!(
        ends,
        [MoveEnd::Refused, MoveEnd::Aborted, MoveEnd::Committed]
    );
    let page = html(&report);
    for words in [
        "called off",
        "signed by the source alone",
        "signed by both ends",
        "no ids there; no room",
        "3 sessions sent, 3 accepted, 0 refused; packets waited 9.800 ms",
    ] {
        assert!(page.contains(words), "the page lacks {words}");
    }
    said.retain(|(_, time_ms, _)| *time_ms != early);
    said.push((by("h2"), early, forged));
    let report = self::report(said, NOW_MS);
    assert_eq!(report.moves[0].end, MoveEnd::Unproven);
}

#[test]
fn the_summary_counts_findings_and_leaves_other_readings_out() {
    let report = report(mixed(), NOW_MS);
    let counted = report
        .findings
        .iter()
        .filter(|one| report.counts(one))
        .count() as u64;
    assert_eq!(report.summary.values().sum::<u64>(), counted);
    let readings = report
        .findings
        .iter()
        .filter(|one| one.check.starts_with("COR-"))
        .count();
    let left_out = report.findings.len() as u64 - counted;
    assert_eq!(left_out, readings as u64 * 2 / 3);
}

#[test]
fn an_empty_log_makes_a_page_that_says_so() {
    let report = report(Vec::new(), NOW_MS);
    assert_eq!(report.summary["PASS"], 0);
    assert!(html(&report).contains("No entry says where any guest was."));
}

#[test]
fn json_is_read_back_as_it_was_written() {
    let report = report(mixed(), NOW_MS);
    assert_eq!(
        serde_json::from_str::<Report>(&json(&report)).expect("parses"),
        report
    );
}

#[test]
fn a_pack_with_its_report_verifies_and_says_the_same_again() {
    let files = packed(mixed(), report(mixed(), NOW_MS).files(), NOW_MS);
    let key = manager_key().verify_key();
    let outcome = verify(&files, Some(&key), Recheck::Always).expect("genuine");
    assert!(outcome.compared && outcome.key_was_given);
    let words = table(&outcome);
    for needed in [
        "VERIFIED",
        "MOV-02 pay",
        "the report says the same",
        "host h2: ",
    ] {
        assert!(words.contains(needed), "{words}");
    }
    let plain = verify(&files, None, Recheck::Reported).expect("genuine");
    assert_eq!(plain.findings, outcome.findings);
    assert!(table(&plain).contains("compare its fingerprint"));
}

#[test]
fn a_pack_without_a_report_is_checked_all_the_same() {
    let files = packed(good(), BTreeMap::new(), NOW_MS);
    let plain = verify(&files, None, Recheck::Reported).expect("genuine");
    assert_eq!((plain.findings.as_ref(), plain.compared), (None, false));
    assert!(table(&plain).contains("the pack has no report"));
    let outcome = verify(&files, None, Recheck::Always).expect("genuine");
    assert!(!outcome.compared);
    assert!(
        outcome
            .findings
            .expect("asked for")
            .iter()
            .any(|one| one.status == Status::Pass)
    );
}

fn refused(report: &Report, made_ms: u64, expected: &str) {
    let files = packed(mixed(), report.files(), made_ms);
    pack::verify(&files, None).expect("the manager signed it");
    match verify(&files, None, Recheck::Reported) {
        Err(VerifyError::Report { path, why }) => {
            assert!(
                format!("{path}: {why}").contains(expected),
                "{why} lacks {expected}"
            );
        }
        other => panic!("expected {expected}, got {other:?}"),
    }
}

/// The manager signs the manifest, so a manager that lies in its report is caught only by running
/// the checks again.
#[test]
fn a_report_that_its_own_entries_contradict_is_refused() {
    let honest = report(mixed(), NOW_MS);
    let mut dressed = honest.clone();
    let failed = dressed
        .findings
        .iter_mut()
        .find(|one| one.status == Status::Fail);
    failed.expect("the gap fails").status = Status::Pass;
    refused(&dressed, NOW_MS, "says PASS; the entries say FAIL");
    let mut shorter = honest.clone();
    shorter.findings.pop();
    refused(&shorter, NOW_MS, "findings; the entries make");
    let mut counted = honest.clone();
    counted.summary.insert("PASS".into(), 1_000);
    refused(&counted, NOW_MS, "other parts are not what entries say");
    let mut fewer = honest.clone();
    fewer.log.entries -= 1;
    refused(&fewer, NOW_MS, "covers");
    refused(
        &honest,
        NOW_MS + 24 * 60 * 60 * 1_000,
        "but the pack was made at",
    );
}

#[test]
fn a_page_that_says_something_else_than_the_report_is_refused() {
    let mut carried = report(mixed(), NOW_MS).files();
    let page = carried.get_mut(REPORT_HTML).expect("present");
    page.bytes = String::from_utf8_lossy(&page.bytes)
        .replace("FAIL", "PASS")
        .into_bytes();
    let files = packed(mixed(), carried, NOW_MS);
    let error = verify(&files, None, Recheck::Always)
        .expect_err("another page")
        .to_string();
    assert!(error.starts_with(REPORT_HTML), "{error}");
}

#[test]
fn an_altered_report_is_named_before_any_check_runs() {
    let mut files = packed(mixed(), report(mixed(), NOW_MS).files(), NOW_MS);
    files.get_mut(REPORT_JSON).expect("present")[40] ^= 1;
    let error = verify(&files, None, Recheck::Always)
        .expect_err("altered")
        .to_string();
    assert!(error.starts_with(REPORT_JSON), "{error}");
}
