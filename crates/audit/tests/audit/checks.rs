//! Each check passes on facts that are in order, fails on one thing wrong, and says UNKNOWN on
//! facts that are missing or too old.

use crate::world::{
    SEEN_MS, START_MS, Said, attached, by, entries, good, guest, guest_facts, host, host_key,
    manager_key, placed, record, recorded, release,
};
use lictor_audit::{CHECKS, Exception, Facts, Finding, Profile, Report, Status, run};
use lictor_evidence::{Body, Entry, Observed, PlacedBy, ReleaseFacts, Source, UnguardedNic};
use lictor_types::{Digest, VnicId};

pub(crate) const FRESH_MS: u64 = SEEN_MS + 1_000;
const STALE_MS: u64 = SEEN_MS + 25 * 60 * 60 * 1_000;

pub(crate) fn findings(entries: &[Entry], now_ms: u64) -> Vec<Finding> {
    let facts = Facts::from_entries(entries).expect("short entries");
    run(&facts, now_ms, &Profile::default())
}

pub(crate) fn find<'a>(findings: &'a [Finding], check: &str, subject: &str) -> &'a Finding {
    findings
        .iter()
        .find(|one| one.check == check && one.subject == subject)
        .unwrap_or_else(|| panic!("no finding {check} of {subject} in {findings:#?}"))
}

pub(crate) fn expect(said: Said, (check, subject): (&str, &str), expected: (Status, &str)) {
    let findings = findings(&entries(said), FRESH_MS);
    let found = find(&findings, check, subject);
    assert_eq!(found.status, expected.0, "{found:#?}");
    assert!(
        found.reason.contains(expected.1),
        "{:?} lacks {:?}",
        found.reason,
        expected.1
    );
    if expected.0 == Status::Fail {
        assert!(
            !found.evidence.is_empty(),
            "a FAIL names its entries: {found:#?}"
        );
    }
}

/// Everything said but what matches.
pub(crate) fn without(matches: impl Fn(&Body) -> bool) -> Said {
    let mut said = good();
    let before = said.len();
    said.retain(|(_, _, body)| !matches(body));
    assert_ne!(said.len(), before, "the edit must change something");
    said
}

/// Everything said, with each body passed through an edit.
pub(crate) fn edited(edit: impl Fn(&mut Body)) -> Said {
    let mut said = good();
    let before = said.clone();
    said.iter_mut().for_each(|(_, _, body)| edit(body));
    assert_ne!(said, before, "the edit must change something");
    said
}

fn with_release(edit: impl Fn(&mut ReleaseFacts)) -> Said {
    edited(|body| {
        if let Body::ReleaseFacts(release) = body {
            edit(release);
        }
    })
}

pub(crate) fn with(extra: impl IntoIterator<Item = (Source, u64, Body)>) -> Said {
    let mut said = good();
    said.extend(extra);
    said
}

fn with_record(edit: impl Fn(&mut lictor_evidence::MoveRecord)) -> Said {
    edited(|body| {
        if matches!(body, Body::MoveRecorded { .. }) {
            let mut changed = record();
            edit(&mut changed);
            *body = recorded(changed, &[&host_key("h1"), &host_key("h2")]);
        }
    })
}

/// `web` joins `pay` at h2: two zones on one host.
fn shared(edit: impl Fn(&mut ReleaseFacts)) -> Said {
    let mut said = with([(
        by("h2"),
        START_MS + 50_000,
        placed("web", "h2", PlacedBy::Found),
    )]);
    for (_, _, body) in &mut said {
        if let Body::ReleaseFacts(release) = body {
            edit(release);
        }
    }
    said
}

const SUBJECTS: [(&str, &str); 13] = [
    ("MOV-01", "pay"),
    ("MOV-02", "pay"),
    ("MOV-03", "pay"),
    ("COR-01", "h2"),
    ("COR-02", "h2"),
    ("COR-03", "h2"),
    ("ENF-01", "pay, vnic 1"),
    ("ENF-05", "h2"),
    ("RUL-01", "release 7"),
    ("RUL-02", "release 7"),
    ("RUL-03", "scope connected"),
    ("CHG-01", "h2"),
    ("LOG-01", "h2"),
];

#[test]
fn every_check_passes_when_all_is_in_order() {
    for (check, subject) in SUBJECTS {
        expect(good(), (check, subject), (Status::Pass, ""));
    }
    let listed: Vec<_> = SUBJECTS.iter().map(|(check, _)| *check).collect();
    assert_eq!(listed, CHECKS.map(|check| check.id));
}

#[test]
fn every_check_says_unknown_when_its_facts_are_too_old() {
    let findings = findings(&entries(good()), STALE_MS);
    for (check, subject) in SUBJECTS {
        let found = find(&findings, check, subject);
        assert_eq!(found.status, Status::Unknown, "{found:#?}");
        assert!(found.reason.contains("too old"), "{found:#?}");
        assert!(
            found.valid_until.is_some_and(|until| until < STALE_MS),
            "{found:#?}"
        );
    }
    assert!(
        findings.iter().all(|one| one.status != Status::Pass),
        "{findings:#?}"
    );
}

#[test]
fn every_check_says_unknown_of_facts_from_the_future() {
    let findings = findings(&entries(good()), START_MS - 60_000);
    assert!(
        findings.iter().all(|one| one.status != Status::Pass),
        "{findings:#?}"
    );
}

#[test]
fn every_check_says_unknown_when_nothing_is_known() {
    let findings = findings(&[], FRESH_MS);
    for check in CHECKS {
        let of: Vec<_> = findings
            .iter()
            .filter(|one| one.check == check.id)
            .collect();
        assert!(!of.is_empty(), "{}", check.id);
        assert!(
            of.iter().all(|one| one.status == Status::Unknown),
            "{of:#?}"
        );
    }
}

#[test]
fn moves_without_leave_fail() {
    let not_admitted = without(|body| matches!(body, Body::MoveAdmitted { .. }));
    expect(
        not_admitted,
        ("MOV-01", "pay"),
        (Status::Fail, "without an admission"),
    );
    let unhealthy = edited(|body| {
        if let Body::MoveAdmitted { controls, .. } = body {
            controls[0].healthy = false;
        }
    });
    expect(
        unhealthy,
        ("MOV-01", "pay"),
        (Status::Fail, "without a healthy firewall"),
    );
    let other_ticket = with_record(|record| record.ticket = Digest::of(b"other"));
    expect(
        other_ticket,
        ("MOV-01", "pay"),
        (Status::Fail, "ticket nobody admitted"),
    );
    let aborted = with_record(|record| record.outcome = lictor_evidence::MoveOutcome::Aborted);
    expect(
        aborted,
        ("MOV-01", "pay"),
        (Status::Fail, "without an admission"),
    );
    let restarted = with([(by("h2"), SEEN_MS, placed("pay", "h2", PlacedBy::Restart))]);
    expect(
        restarted,
        ("MOV-01", "pay"),
        (Status::Fail, "without an admission"),
    );
    let at_home = without(|body| {
        matches!(
            body,
            Body::MoveAdmitted { .. }
                | Body::MoveRecorded { .. }
                | Body::GuestPlaced {
                    by: PlacedBy::Move,
                    ..
                }
        )
    });
    expect(
        at_home,
        ("MOV-01", "pay"),
        (Status::NotApplicable, "did not move"),
    );
    let nowhere =
        without(|body| matches!(body, Body::GuestPlaced { .. } | Body::MoveRecorded { .. }));
    expect(
        nowhere,
        ("MOV-01", "pay"),
        (Status::Unknown, "no entry says where"),
    );
}

#[test]
fn a_claim_about_another_host_does_not_count() {
    let said = with([(by("h1"), SEEN_MS, placed("pay", "h3", PlacedBy::Found))]);
    expect(said, ("MOV-01", "pay"), (Status::Pass, ""));
}

#[test]
fn packets_without_a_verdict_fail() {
    let late = edited(|body| {
        if let Body::VnicAttached {
            before_first_packet,
            excess_frames,
            window_ms,
            ..
        } = body
        {
            (*before_first_packet, *excess_frames, *window_ms) = (false, 628, 41);
        }
    });
    expect(
        late,
        ("MOV-02", "pay"),
        (Status::Fail, "628 frames in 41 ms"),
    );
    let gap = with_record(|record| record.unprotected_ms = 12);
    expect(
        gap,
        ("MOV-02", "pay"),
        (Status::Fail, "unprotected for 12 ms"),
    );
    let packets = with_record(|record| record.unprotected_packets = Some(3));
    expect(packets, ("MOV-02", "pay"), (Status::Fail, "3 packets"));
    let uncounted = with_record(|record| record.unprotected_packets = None);
    expect(
        uncounted,
        ("MOV-02", "pay"),
        (Status::Unknown, "nobody counted"),
    );
    let unattached = without(|body| matches!(body, Body::VnicAttached { .. }));
    expect(
        unattached,
        ("MOV-02", "pay"),
        (Status::Unknown, "how vnic 1 was attached"),
    );
    let (cause, choice) = ("host-unprotected".to_owned(), "allow".to_owned());
    let (since_ms, error_ms) = (START_MS + 50_000, 20);
    let opened = Body::UnprotectedOpened {
        guest: guest("pay"),
        cause: cause.clone(),
        choice: choice.clone(),
        since_ms,
        error_ms,
    };
    let closed = Body::UnprotectedClosed {
        guest: guest("pay"),
        cause,
        choice,
        since_ms,
        until_ms: since_ms + 700,
        error_ms,
    };
    let open = with([(Source::Manager, SEEN_MS, opened.clone())]);
    expect(open, ("MOV-02", "pay"), (Status::Fail, "still open"));
    let both = with([
        (Source::Manager, SEEN_MS, opened),
        (Source::Manager, SEEN_MS, closed),
    ]);
    expect(
        both,
        ("MOV-02", "pay"),
        (Status::Fail, "unprotected for 700 ms (give or take 20)"),
    );
}

#[test]
fn a_violation_that_happened_stays_one_however_old_it_is() {
    let gap = with_record(|record| record.unprotected_ms = 12);
    let findings = findings(&entries(gap), STALE_MS);
    assert_eq!(find(&findings, "MOV-02", "pay").status, Status::Fail);
}

#[test]
fn other_rules_on_the_other_side_fail() {
    let tables = with_record(|record| record.target.tables = Digest::of(b"other"));
    expect(
        tables,
        ("MOV-03", "pay"),
        (Status::Fail, "other tables at h2"),
    );
    let older = with_record(|record| record.target.generation.0 = 6);
    expect(
        older,
        ("MOV-03", "pay"),
        (Status::Fail, "from generation 7 into 6"),
    );
    let unrecorded = without(|body| matches!(body, Body::MoveRecorded { .. }));
    expect(
        unrecorded,
        ("MOV-03", "pay"),
        (Status::Unknown, "no record of the move"),
    );
    for signers in [
        vec![host_key("h1")],
        vec![host_key("h2")],
        vec![manager_key()],
    ] {
        let half = edited(|body| {
            if matches!(body, Body::MoveRecorded { .. }) {
                *body = recorded(record(), &signers.iter().collect::<Vec<_>>());
            }
        });
        expect(
            half,
            ("MOV-03", "pay"),
            (Status::Fail, "not signed by both"),
        );
    }
}

#[test]
fn a_record_that_differs_from_what_was_signed_fails() {
    let mut said = with_record(|record| record.unprotected_ms = 12);
    for (_, _, body) in &mut said {
        if let Body::MoveRecorded { record: shown, .. } = body {
            shown.unprotected_ms = 0;
        }
    }
    expect(
        said,
        ("MOV-03", "pay"),
        (Status::Fail, "not signed by both"),
    );
}

#[test]
fn three_readings_of_co_residence_differ_on_the_same_facts() {
    expect(shared(|_| {}), ("COR-01", "h2"), (Status::Fail, "zone cde"));
    expect(
        shared(|_| {}),
        ("COR-02", "h2"),
        (Status::Manual, "a person must judge"),
    );
    expect(shared(|_| {}), ("COR-03", "h2"), (Status::Pass, ""));
    let uneven = || shared(|release| release.guests[1].baseline = 1);
    expect(uneven(), ("COR-03", "h2"), (Status::Fail, "levels 2 and 1"));
    let unstated = || shared(|release| release.guests[1].baseline = 0);
    expect(
        unstated(),
        ("COR-03", "h2"),
        (Status::Unknown, "no stated level"),
    );
    let untested = || shared(|release| release.segmentation_tests.clear());
    expect(
        untested(),
        ("COR-02", "h2"),
        (Status::Fail, "no segmentation test"),
    );
    let failed = || shared(|release| release.segmentation_tests[0].passed = false);
    expect(failed(), ("COR-02", "h2"), (Status::Fail, "failed"));
    let old = || shared(|release| release.segmentation_tests[0].tested_ms = 1);
    expect(old(), ("COR-02", "h2"), (Status::Fail, "too old"));
    let open = || shared(|release| release.default_deny_ingress = false);
    expect(
        open(),
        ("COR-02", "h2"),
        (Status::Fail, "does not deny by default"),
    );
    let zoneless = || shared(|release| release.guests[1].zone.clear());
    expect(
        zoneless(),
        ("COR-01", "h2"),
        (Status::Unknown, "to which zone web belongs"),
    );
    let stranger = || shared(|release| release.guests.truncate(1));
    expect(
        stranger(),
        ("COR-01", "h2"),
        (Status::Unknown, "to which zone web belongs"),
    );
}

#[test]
fn a_later_label_does_not_rewrite_who_shared_a_host() {
    let mut retagged = release();
    retagged.guests[1].zone = "cde".into();
    retagged.digest = Digest::of(b"release 8");
    let mut said = shared(|_| {});
    said.push((
        Source::Manager,
        SEEN_MS,
        Body::ReleaseFacts(Box::new(retagged)),
    ));
    expect(said, ("COR-01", "h2"), (Status::Fail, "zone web"));
}

#[test]
fn a_guest_for_which_the_policy_is_only_observed_is_not_under_control() {
    let observed = |until_ms| {
        with_release(|release| {
            release.guests[0].observed = Some(Observed {
                owner: "shop".into(),
                until_ms,
            });
        })
    };
    let fails = (Status::Fail, "only observing");
    expect(observed(None), ("ENF-01", "pay, vnic 1"), fails);
    expect(observed(Some(u64::MAX)), ("ENF-01", "pay, vnic 1"), fails);
    // Its rules count as not enforced, too.
    let passes = (Status::Fail, "passes at pay, which is only observed");
    expect(observed(None), ("RUL-01", "release 7"), passes);
    expect(
        observed(Some(1)),
        ("RUL-01", "release 7"),
        (Status::Pass, "every guest in scope"),
    );
    let elsewhere = with_release(|release| {
        release.guests[0].in_scope = false;
        release.guests[0].observed = Some(Observed {
            owner: "shop".into(),
            until_ms: None,
        });
    });
    expect(elsewhere, ("RUL-01", "release 7"), (Status::Pass, ""));
    // It is over.
    expect(
        observed(Some(1)),
        ("ENF-01", "pay, vnic 1"),
        (Status::Pass, "attached"),
    );
}

#[test]
fn a_guest_in_scope_that_the_policy_excludes_is_not_under_default_deny() {
    let excluded = |touches_scope, expires_ms| {
        with_release(|release| {
            for side in ["from", "to"] {
                let mut rule = release.rules[0].clone();
                rule.name = format!("exclude/legacy.{side}");
                (rule.owner, rule.touches_scope) = ("shop".into(), touches_scope);
                (rule.verdict, rule.expires_ms) = (lictor_types::Verdict::Allow, Some(expires_ms));
                release.rules.push(rule);
            }
        })
    };
    let named = "the guests of the exclusion legacy, by leave of shop";
    let one = ("RUL-01", "release 7");
    expect(excluded(true, u64::MAX), one, (Status::Fail, named));
    expect(excluded(false, u64::MAX), one, (Status::Pass, ""));
    expect(excluded(true, 1), one, (Status::Pass, ""));
}

#[test]
fn a_vnic_out_of_control_fails() {
    let detached = Body::VnicDetached {
        guest: guest("pay"),
        vnic: VnicId(1),
        cause: "x".into(),
    };
    let gone = with([(by("h2"), SEEN_MS + 1, detached)]);
    expect(
        gone,
        ("ENF-01", "pay, vnic 1"),
        (Status::Fail, "no program is first"),
    );
    let loose = edited(|body| {
        if let Body::Readback(readback) = body {
            readback.vnics[0].hooks_ok = false;
        }
    });
    expect(
        loose.clone(),
        ("ENF-01", "pay, vnic 1"),
        (Status::Fail, "no program is first"),
    );
    expect(
        loose,
        ("ENF-05", "h2"),
        (Status::Fail, "no program is first"),
    );
    let bare = edited(|body| {
        if let Body::GuestPlaced { protected, .. } = body {
            *protected = false;
        }
    });
    expect(
        bare,
        ("ENF-01", "pay, vnic 1"),
        (Status::Fail, "no agent enforces"),
    );
    let second = with_release(|release| release.guests[0].vnics.push(VnicId(9)));
    expect(
        second.clone(),
        ("ENF-01", "pay, vnic 9"),
        (Status::Unknown, "has not said"),
    );
    expect(
        second,
        ("ENF-05", "h2"),
        (Status::Fail, "vnic 9 is not among"),
    );
    let left = Body::GuestLeft {
        guest: guest("pay"),
        at: host("h2"),
    };
    let stopped = with([(by("h2"), SEEN_MS, left)]);
    expect(
        stopped,
        ("ENF-01", "pay, vnic 1"),
        (Status::NotApplicable, "runs nowhere"),
    );
    let out = with_release(|release| release.guests[0].in_scope = false);
    expect(
        out,
        ("ENF-01", "deployment"),
        (Status::NotApplicable, "no guest in scope"),
    );
}

#[test]
fn a_nic_that_no_hook_guards_fails_until_it_is_gone() {
    let told = |host: &str, nics: &[&str]| {
        let nics = nics.iter().map(|nic| UnguardedNic {
            nic: (*nic).into(),
            reason: "a vhost-user port".into(),
        });
        let body = Body::NicsUnguarded {
            guest: guest("pay"),
            nics: nics.collect(),
        };
        (by(host), SEEN_MS + 1, body)
    };
    let fast = with([told("h2", &["fast"])]);
    let (vnic, nic) = (("ENF-01", "pay, vnic 1"), ("ENF-01", "pay, NIC fast"));
    expect(fast.clone(), nic, (Status::Fail, "a vhost-user port"));
    expect(fast, vnic, (Status::Pass, "attached"));
    for over in [told("h2", &[]), told("h2", &["slow"])] {
        let said = with([told("h2", &["fast"]), over]);
        let found = findings(&entries(said), FRESH_MS);
        assert!(found.iter().all(|one| one.subject != "pay, NIC fast"));
    }
    // Another host's word about it is none.
    let found = findings(&entries(with([told("h1", &["fast"])])), FRESH_MS);
    assert!(found.iter().all(|one| one.subject != "pay, NIC fast"));
}

#[test]
fn a_kernel_that_holds_something_else_fails() {
    let differs = edited(|body| {
        if let Body::Readback(readback) = body {
            readback.found = Digest::of(b"other");
        }
    });
    expect(differs, ("ENF-05", "h2"), (Status::Fail, "loaded were"));
    let invented = edited(|body| {
        if let Body::Readback(readback) = body {
            readback.vnics[0].counters.allowed = 100;
        }
    });
    expect(
        invented,
        ("ENF-05", "h2"),
        (Status::Fail, "more verdicts than packets"),
    );
    let drift = |repaired| Body::Drift {
        subject: "filter of tap1".into(),
        expected: "ours first".into(),
        found: "another".into(),
        repaired,
    };
    let drifted = with([(by("h2"), SEEN_MS + 1, drift(false))]);
    expect(drifted, ("ENF-05", "h2"), (Status::Fail, "not repaired"));
    let repaired = with([(by("h2"), SEEN_MS + 1, drift(true))]);
    expect(repaired, ("ENF-05", "h2"), (Status::Pass, ""));
    let silent = without(|body| matches!(body, Body::Readback(_)));
    expect(silent, ("ENF-05", "h2"), (Status::Unknown, "never read"));
}

#[test]
fn a_state_seen_failing_long_ago_is_unknown() {
    let differs = edited(|body| {
        if let Body::Readback(readback) = body {
            readback.found = Digest::of(b"other");
        }
    });
    let findings = findings(&entries(differs), STALE_MS);
    let found = find(&findings, "ENF-05", "h2");
    assert_eq!(found.status, Status::Unknown);
    assert!(found.reason.contains("it said FAIL"), "{found:#?}");
}

#[test]
fn open_or_unexplained_rules_fail() {
    let open = with_release(|release| release.default_deny_egress = false);
    expect(
        open,
        ("RUL-01", "release 7"),
        (Status::Fail, "egress is allowed"),
    );
    let orphan = with_release(|release| release.rules[0].owner.clear());
    expect(
        orphan,
        ("RUL-02", "release 7"),
        (Status::Fail, "web-to-pay: no owner"),
    );
    let blank = with_release(|release| release.rules[0].justification = "  ".into());
    expect(
        blank,
        ("RUL-02", "release 7"),
        (Status::Fail, "no justification"),
    );
    let unnamed = with_release(|release| release.rules[0].service.clear());
    expect(
        unnamed,
        ("RUL-02", "release 7"),
        (Status::Fail, "no service"),
    );
    let ended = with_release(|release| release.rules[0].expires_ms = Some(FRESH_MS));
    expect(
        ended,
        ("RUL-02", "release 7"),
        (Status::Fail, "past its end"),
    );
    let elsewhere = with_release(|release| {
        release.rules[0].owner.clear();
        release.rules[0].touches_scope = false;
    });
    expect(elsewhere, ("RUL-02", "release 7"), (Status::Pass, ""));
}

#[test]
fn releases_that_nobody_else_approved_fail() {
    let load = |edit: fn(&mut String, &mut Vec<String>)| {
        edited(move |body| {
            if let Body::ReleaseLoaded {
                author, approvers, ..
            } = body
            {
                edit(author, approvers);
            }
        })
    };
    let alone = load(|_, approvers| approvers.clear());
    expect(
        alone,
        ("CHG-01", "h2"),
        (Status::Fail, "0 approvals by others"),
    );
    let own = load(|author, approvers| approvers[0].clone_from(author));
    expect(
        own,
        ("CHG-01", "h2"),
        (Status::Fail, "0 approvals by others"),
    );
    let anonymous = load(|author, _| author.clear());
    expect(anonymous, ("CHG-01", "h2"), (Status::Fail, "no author"));
    let two = with_release(|release| release.approvals_required = 2);
    expect(
        two,
        ("CHG-01", "h2"),
        (Status::Fail, "1 approvals by others; 2 are needed"),
    );
    let silent = with_release(|release| release.reason.clear());
    expect(silent, ("CHG-01", "h2"), (Status::Fail, "no reason"));
    let other = with_release(|release| release.digest = Digest::of(b"other"));
    expect(
        other,
        ("CHG-01", "h2"),
        (Status::Fail, "another digest than published"),
    );
    let unpublished = with_release(|release| release.generation.0 = 6);
    expect(
        unpublished,
        ("CHG-01", "h2"),
        (Status::Unknown, "no facts of generation 7"),
    );
}

#[test]
fn a_log_with_a_hole_fails() {
    let whole = entries(good());
    let of_h2: Vec<_> = (0..whole.len())
        .filter(|n| whole[*n].host == by("h2"))
        .collect();
    let mut holed = whole.clone();
    holed.remove(of_h2[1]);
    assert_eq!(
        find(&findings(&holed, FRESH_MS), "LOG-01", "h2").status,
        Status::Fail
    );
    let mut rewritten = whole.clone();
    rewritten[of_h2[1]].body = attached("pay", 3);
    let found = findings(&rewritten, FRESH_MS);
    let found = find(&found, "LOG-01", "h2");
    assert_eq!(found.status, Status::Fail);
    assert!(found.reason.contains("another root"), "{found:#?}");
    let mut managers = whole.clone();
    managers.remove(1);
    assert_eq!(
        find(&findings(&managers, FRESH_MS), "LOG-01", "manager").status,
        Status::Fail
    );
    let mut unsigned = whole;
    unsigned.retain(|entry| !matches!(entry.body, Body::CheckpointAnchored { .. }));
    assert_eq!(
        find(&findings(&unsigned, FRESH_MS), "LOG-01", "h2").status,
        Status::Unknown
    );
}

#[test]
fn an_accepted_violation_is_excepted_and_only_until_it_ends() {
    let exception = |owner: &str, until_ms| Exception {
        check: "MOV-02".into(),
        subject: "pay".into(),
        owner: owner.into(),
        reason: "planned work".into(),
        until_ms,
    };
    for (exception, expected) in [
        (exception("eve", FRESH_MS + 1), Status::Excepted),
        (exception("eve", FRESH_MS), Status::Fail),
        (exception("", FRESH_MS + 1), Status::Fail),
        (
            Exception {
                subject: "web".into(),
                ..exception("eve", FRESH_MS + 1)
            },
            Status::Fail,
        ),
    ] {
        let profile = Profile {
            exceptions: vec![exception],
            ..Profile::default()
        };
        let said = entries(with_record(|record| record.unprotected_ms = 12));
        let key = manager_key().verify_key();
        let report = Report::new(&said, &key, FRESH_MS, profile).expect("short entries");
        assert_eq!(find(&report.findings, "MOV-02", "pay").status, expected);
        assert_eq!(
            report.summary["EXCEPTED"],
            u64::from(expected == Status::Excepted)
        );
    }
}

#[test]
fn a_release_in_parts_counts_only_when_all_are_there() {
    let mut big = release();
    big.guests = (1..2_000)
        .map(|n| guest_facts(&format!("web{n}"), n))
        .collect();
    big.guests.push(guest_facts("pay", 1));
    let parts = big.split();
    assert!(parts.len() > 1);
    let mut said = without(|body| matches!(body, Body::ReleaseFacts(_)));
    let part = |part: ReleaseFacts| {
        (
            Source::Manager,
            START_MS,
            Body::ReleaseFacts(Box::new(part)),
        )
    };
    said.extend(parts[..parts.len() - 1].iter().cloned().map(part));
    expect(
        said.clone(),
        ("MOV-01", "deployment"),
        (Status::Unknown, "no facts of any release"),
    );
    said.extend(parts.last().cloned().map(part));
    expect(said, ("MOV-01", "pay"), (Status::Pass, ""));
}
