//! The report for people: one page without anything from outside.

use crate::time::utc;
use crate::timeline::{moves, picture};
use crate::{CHECKS, CoResidence, Finding, Framework, Report, Status};
use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

const STYLE: &str = include_str!("report.css");

/// A self-contained page: inline style, inline pictures, no script, nothing loaded.
#[must_use]
pub fn html(report: &Report) -> String {
    let title = format!("Evidence report of {}", report.log.origin);
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    p { "As of " time { (utc(report.now_ms)) } ", computed from "
                        (report.log.entries) " entries, read by profile "
                        strong { (report.profile.name) } "." }
                }
                main {
                    (summary(report))
                    (glance(report))
                    (matrix(report))
                    section aria-labelledby="timelines" {
                        h2 id="timelines" { "Guests and their protection over time" }
                        (picture(report))
                    }
                    (moves(report))
                    (findings(report))
                    (requirements(report))
                    (log(report))
                }
            }
        }
    };
    page.into_string()
}

/// A status as a word and a mark, never by colour alone.
fn badge(status: Status) -> Markup {
    let (class, mark) = match status {
        Status::Fail => ("fail", "\u{2717}"),
        Status::Unknown => ("unknown", "?"),
        Status::Manual => ("manual", "\u{270e}"),
        Status::Excepted => ("excepted", "!"),
        Status::Pass => ("pass", "\u{2713}"),
        Status::NotApplicable => ("na", "\u{2013}"),
    };
    markup! {
        span class={ "badge " (class) } {
            span aria-hidden="true" { (mark) } " " (status.word().replace('_', " "))
        }
    }
}

fn summary(report: &Report) -> Markup {
    let count = |status: Status| {
        report
            .summary
            .get(status.word())
            .copied()
            .unwrap_or_default()
    };
    markup! {
        section aria-labelledby="summary" {
            h2 id="summary" { "Summary" }
            ul class="tiles" {
                @for status in Status::ALL {
                    li { span class="number" { (count(status)) } (badge(status)) }
                }
            }
            p class="note" {
                "A fact that is missing or too old makes UNKNOWN, never PASS. An accepted "
                "violation is EXCEPTED, never PASS. Of the three readings of co-residence \
                 only \u{201c}"
                (report.profile.co_residence.word()) "\u{201d} is counted here."
            }
        }
    }
}

/// One line for each check: what it asks, its worst result, and about what.
fn glance(report: &Report) -> Markup {
    let of = |id: &str| -> Vec<&Finding> {
        report
            .findings
            .iter()
            .filter(|one| one.check == id)
            .collect()
    };
    markup! {
        section aria-labelledby="checks" {
            h2 id="checks" { "Checks" }
            div class="scroll" tabindex="0" role="region" aria-labelledby="checks" {
                table class="glance" {
                    thead { tr {
                        th scope="col" { "Check" } th scope="col" { "It asks" }
                        th scope="col" { "Result" } th scope="col" { "Subjects" }
                    } }
                    tbody {
                        @for check in &CHECKS {
                            @let findings = of(check.id);
                            tr {
                                th scope="row" { (check.id) }
                                td {
                                    (check.title)
                                    @if findings.iter().any(|one| !report.counts(one)) {
                                        span class="note" { " (another reading, not counted)" }
                                    }
                                }
                                td {
                                    @if let Some(worst) = findings.iter().map(|f| f.status).min() {
                                        (badge(worst))
                                    }
                                }
                                td { (subjects(&findings)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Subjects that the overview names for each result; the findings name them all.
const SUBJECTS_SHOWN_MAX: usize = 8;

/// The subjects by their result, the most pressing first.
fn subjects(findings: &[&Finding]) -> Markup {
    let with = |status: Status| -> Vec<&str> {
        findings
            .iter()
            .filter(|one| one.status == status)
            .map(|one| one.subject.as_str())
            .collect()
    };
    markup! {
        @for status in Status::ALL {
            @let names = with(status);
            @if !names.is_empty() {
                p {
                    @if findings.iter().any(|one| one.status != status) {
                        span class="note" { (status.word().replace('_', " ")) ": " }
                    }
                    (names[..names.len().min(SUBJECTS_SHOWN_MAX)].join("; "))
                    @if names.len() > SUBJECTS_SHOWN_MAX {
                        " and " (names.len() - SUBJECTS_SHOWN_MAX) " more"
                    }
                }
            }
        }
    }
}

fn matrix(report: &Report) -> Markup {
    markup! {
        section aria-labelledby="matrix" {
            h2 id="matrix" { "Who may share a host: three readings of 2.2.3" }
            div class="scroll" tabindex="0" role="region" aria-labelledby="matrix" {
                table {
                    thead { tr {
                        th scope="col" { "Host" }
                        @for reading in CoResidence::ALL {
                            th scope="col" {
                                (reading.word())
                                @if reading == report.profile.co_residence { " (counts)" }
                            }
                        }
                    } }
                    tbody {
                        @for host in report.shared_hosts() {
                            tr {
                                th scope="row" { (host) }
                                @for reading in CoResidence::ALL {
                                    td {
                                        @match report.reading(host, reading) {
                                            Some(finding) => {
                                                (badge(finding.status))
                                                p { (finding.reason) }
                                            }
                                            None => "not judged"
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn findings(report: &Report) -> Markup {
    let mut sorted: Vec<&Finding> = report.findings.iter().collect();
    sorted.sort_by_key(|finding| finding.status);
    markup! {
        section aria-labelledby="findings" {
            h2 id="findings" { "Findings" }
            div class="scroll" tabindex="0" role="region" aria-labelledby="findings" {
                table {
                    thead { tr {
                        th scope="col" { "Status" } th scope="col" { "Check" }
                        th scope="col" { "Subject" } th scope="col" { "Why" }
                        th scope="col" { "Evidence" }
                    } }
                    tbody { @for finding in sorted { (row(report, finding)) } }
                }
            }
        }
    }
}

fn row(report: &Report, finding: &Finding) -> Markup {
    let title = CHECKS
        .iter()
        .find(|check| check.id == finding.check)
        .map(|check| check.title);
    let entries: Vec<_> = finding.evidence.iter().map(ToString::to_string).collect();
    markup! {
        tr {
            td {
                (badge(finding.status))
                @if !report.counts(finding) { p class="note" { "another reading, not counted" } }
            }
            td {
                strong { (finding.check) } " v" (finding.version)
                p { (title.unwrap_or_default()) }
                p class="note" { "read as " (finding.interpretation) }
            }
            th scope="row" { (finding.subject)
                @if let Some(generation) = finding.generation {
                    p class="note" { "generation " (generation) }
                }
            }
            td {
                p { (finding.reason) }
                @if !finding.observed.is_empty() { p class="note" { "Seen: " (finding.observed) } }
                @if !finding.expected.is_empty() {
                    p class="note" { "Expected: " (finding.expected) }
                }
            }
            td {
                @match entries.as_slice() {
                    [] => "none",
                    [one] => { "entry " (one) }
                    more => { "entries " (more.join(", ")) }
                }
                @if let Some(at) = finding.collected_at {
                    p class="note when" { "seen " (utc(at)) }
                }
                @if let Some(until) = finding.valid_until {
                    p class="note when" { "good until " (utc(until)) }
                }
            }
        }
    }
}

fn requirements(report: &Report) -> Markup {
    let pci = Framework::pci();
    let worst = |check: &str| {
        report
            .findings
            .iter()
            .filter(|one| one.check == check)
            .map(|one| one.status)
            .min()
    };
    markup! {
        section aria-labelledby="requirements" {
            h2 id="requirements" { (pci.framework) " " (pci.version) ": which check serves what" }
            p class="note" { (pci.note) }
            div class="scroll" tabindex="0" role="region" aria-labelledby="requirements" {
                table {
                    thead { tr {
                        th scope="col" { "Requirement" } th scope="col" { "Objective" }
                        th scope="col" { "Checks, each with its worst finding" }
                    } }
                    tbody {
                        @for requirement in &pci.requirements {
                            tr {
                                th scope="row" { (requirement.id) }
                                td { (requirement.objective) }
                                td {
                                    @for check in CHECKS.iter().filter(|check| {
                                        pci.of(check.id).any(|one| one.id == requirement.id)
                                    }) {
                                        p { (check.id) " "
                                            @if let Some(status) = worst(check.id) {
                                                (badge(status))
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn log(report: &Report) -> Markup {
    let log = &report.log;
    markup! {
        section aria-labelledby="log" {
            h2 id="log" { "The log behind this page, and how to check it" }
            dl {
                dt { "Log" } dd { (log.origin) }
                dt { "Key" } dd { code { (log.key) } }
                dt { "Fingerprint of the key (SHA-256)" } dd { code { (log.fingerprint) } }
                dt { "Entries" } dd { (log.entries) }
                dt { "Merkle root over them" } dd { code { (log.root) } }
            }
            ol {
                li { "Compare the fingerprint with the one that was read out to you by somebody "
                     "who does not run this system." }
                li { "Run " code { "lictor-verify PACK --key '" (log.key) "'" }
                     " on a machine of your own. It needs no network." }
                li { "It accounts for every byte of the pack, names the file or the entry that "
                     "was altered, runs these checks again and compares." }
            }
            p class="note" {
                "The log proves that nothing was changed after it was written. It does not prove "
                "that what was written was true: that rests on the hosts' read-back and on what "
                "you see yourself."
            }
        }
    }
}
