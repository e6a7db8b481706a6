//! What the checks make of moves as two agents and a manager tell them: twice, by halves, called
//! off, or to a host without an agent.

use crate::checks::{FRESH_MS, expect, find, findings, with, without};
use crate::world::{
    SEEN_MS, START_MS, Said, attached, by, entries, good, guest, guest_facts, host, host_key,
    placed, record, recorded, release, ticket,
};
use lictor_audit::{Facts, Status};
use lictor_evidence::{
    Body, GuestFacts, MoveOutcome, MoveRecord, MoveSide, MoveSigners, Overridden, PlacedBy,
    SigningKey, Source,
};
use lictor_types::{Digest, Epoch, Generation};

const MOVES: [&str; 3] = ["MOV-01", "MOV-02", "MOV-03"];

fn admitted_by_source() -> (Source, u64, Body) {
    let body = Body::MoveAdmitted {
        ticket: ticket(),
        guest: guest("pay"),
        from: host("h1"),
        to: host("h2"),
        controls: Vec::new(),
        overridden: None,
    };
    (by("h1"), START_MS + 27_990, body)
}

/// The good world, with other records of the move and perhaps no arrival.
fn with_records(records: Vec<(Source, Body)>, arrival: bool) -> Said {
    let mut said = without(|body| match body {
        Body::MoveRecorded { .. } => true,
        Body::GuestPlaced { by, .. } => !arrival && *by == PlacedBy::Move,
        _ => false,
    });
    let at = |(source, body)| (source, START_MS + 30_100, body);
    said.extend(records.into_iter().map(at));
    said
}

fn ended(outcome: MoveOutcome) -> MoveRecord {
    MoveRecord {
        outcome,
        ..record()
    }
}

fn keys() -> [SigningKey; 2] {
    [host_key("h1"), host_key("h2")]
}

fn expect_each(said: &Said, expected: [(Status, &str); 3]) {
    for (check, expected) in MOVES.into_iter().zip(expected) {
        expect(said.clone(), (check, "pay"), expected);
    }
}

const PASS: (Status, &str) = (Status::Pass, "");

#[test]
fn what_both_ends_tell_counts_once() {
    let [h1, h2] = keys();
    let whole = recorded(record(), &[&h1, &h2]);
    let twice = vec![(by("h2"), whole.clone()), (by("h1"), whole)];
    let halves = vec![
        (by("h1"), recorded(record(), &[&h1])),
        (by("h2"), recorded(record(), &[&h2])),
    ];
    for records in [twice, halves] {
        let mut said = with_records(records, true);
        said.push(admitted_by_source());
        let facts = Facts::from_entries(&entries(said.clone())).expect("short entries");
        assert_eq!((facts.moves.len(), facts.admissions.len()), (1, 1));
        assert_eq!(facts.moves[0].value.signers, MoveSigners::Both);
        expect_each(&said, [PASS; 3]);
    }
}

#[test]
fn only_the_target_speaks_of_its_controls() {
    let mut said = without(|body| matches!(body, Body::MoveAdmitted { .. }));
    said.push(admitted_by_source());
    expect(
        said,
        ("MOV-01", "pay"),
        (Status::Unknown, "no entry of h2 says which controls"),
    );
}

#[test]
fn a_move_that_was_called_off_needs_the_word_of_the_source() {
    let [h1, h2] = keys();
    let aborted = ended(MoveOutcome::Aborted);
    let by_source = vec![(by("h1"), recorded(aborted.clone(), &[&h1]))];
    expect_each(
        &with_records(by_source, false),
        [PASS, PASS, (Status::NotApplicable, "no move took place")],
    );
    let by_target = vec![(by("h2"), recorded(aborted, &[&h2]))];
    let why = "called off is not its source's, but by the target alone";
    expect_each(
        &with_records(by_target, false),
        [
            (Status::Unknown, why),
            (Status::Unknown, why),
            (Status::Fail, why),
        ],
    );
}

#[test]
fn a_lost_source_leaves_the_word_of_the_target() {
    let [h1, h2] = keys();
    let lost = ended(MoveOutcome::StateLost);
    let by_target = vec![(by("h2"), recorded(lost.clone(), &[&h2]))];
    expect_each(&with_records(by_target, true), [PASS; 3]);
    let by_source = vec![(by("h1"), recorded(lost, &[&h1]))];
    expect(
        with_records(by_source, true),
        ("MOV-03", "pay"),
        (Status::Fail, "not signed by the target"),
    );
}

#[test]
fn two_endings_of_one_move_contradict_each_other() {
    let [h1, h2] = keys();
    let both = vec![
        (by("h1"), recorded(ended(MoveOutcome::Aborted), &[&h1])),
        (by("h2"), recorded(record(), &[&h1, &h2])),
    ];
    expect(
        with_records(both, true),
        ("MOV-03", "pay"),
        (Status::Fail, "contradict each other"),
    );
}

/// Of a move that two persons let pass although something spoke against it.
#[test]
fn an_order_that_overrides_a_reason_is_no_pass_and_excuses_only_what_it_names() {
    let [h1, h2] = keys();
    let by_order = |causes: &[&str], target: MoveSide| {
        let overridden = Overridden {
            order: Digest::of(b"an order"),
            causes: causes.iter().map(ToString::to_string).collect(),
            signers: vec!["ann".into(), "ben".into()],
            justification: "the rack burns".into(),
            expires_ms: SEEN_MS,
        };
        let record = MoveRecord {
            target,
            overridden: Some(overridden),
            ..record()
        };
        let whole = recorded(record, &[&h1, &h2]);
        with_records(vec![(by("h1"), whole.clone()), (by("h2"), whole)], true)
    };
    let same = record().target;
    let newer = MoveSide {
        generation: Generation(8),
        ..same.clone()
    };
    let named = "overridden by ann and ben: the rack burns";
    for (causes, target, expected) in [
        (["ids-missing"], same.clone(), (Status::Excepted, named)),
        (["release-stale"], newer.clone(), (Status::Excepted, named)),
        (
            ["release-stale"],
            newer.clone(),
            (Status::Excepted, "into 8"),
        ),
        (["ids-missing"], newer, (Status::Fail, "into 8")),
    ] {
        expect(by_order(&causes, target), ("MOV-03", "pay"), expected);
    }
}

#[test]
fn a_record_says_where_the_guest_is_when_the_target_does_not() {
    let [h1, h2] = keys();
    let records = vec![(by("h1"), recorded(record(), &[&h1, &h2]))];
    let said = with_records(records, false);
    expect_each(&said, [PASS; 3]);
    expect(said, ("ENF-01", "pay, vnic 1"), (Status::Pass, "at h2"));
    let half = vec![(by("h1"), recorded(record(), &[&h1]))];
    expect(
        with_records(half, false),
        ("ENF-01", "pay, vnic 1"),
        (Status::Pass, "at h1"),
    );
}

#[test]
fn a_host_without_part_in_a_move_is_not_heard() {
    let said = with([(
        by("h3"),
        SEEN_MS,
        recorded(ended(MoveOutcome::Aborted), &[]),
    )]);
    expect_each(&said, [PASS; 3]);
}

#[test]
fn each_arrival_needs_a_record_of_its_own() {
    let back = [
        (
            by("h1"),
            START_MS + 40_000,
            placed("pay", "h1", PlacedBy::Move),
        ),
        (
            by("h2"),
            START_MS + 41_000,
            placed("pay", "h2", PlacedBy::Move),
        ),
    ];
    expect(
        with(back),
        ("MOV-03", "pay"),
        (Status::Unknown, "no record of the move to h1"),
    );
    expect(
        with([(
            by("h2"),
            START_MS + 30_050,
            placed("pay", "h2", PlacedBy::Move),
        )]),
        ("MOV-01", "pay"),
        PASS,
    );
}

#[test]
fn a_host_that_does_not_say_how_it_attached_leaves_a_doubt() {
    let mut said = good();
    said.retain(|(source, _, body)| {
        *source != by("h2") || !matches!(body, Body::VnicAttached { .. })
    });
    expect(
        said,
        ("MOV-02", "pay"),
        (
            Status::Unknown,
            "no entry of h2 says how vnic 1 was attached",
        ),
    );
}

#[test]
fn an_unprotected_stay_fails_while_it_lasts_and_afterwards() {
    let since_ms = START_MS + 45_000;
    let opened = Body::UnprotectedOpened {
        guest: guest("pay"),
        cause: "host-unprotected".into(),
        choice: "allow-with-alarm".into(),
        since_ms,
        error_ms: 70,
    };
    let mut bare = placed("pay", "bare", PlacedBy::Found);
    if let Body::GuestPlaced { protected, .. } = &mut bare {
        *protected = false;
    }
    let left = Body::GuestLeft {
        guest: guest("pay"),
        at: host("h2"),
    };
    let mut said = with([
        (by("h2"), since_ms + 50, left),
        (Source::Manager, since_ms + 90, bare),
        (Source::Manager, since_ms + 90, opened),
    ]);
    expect(
        said.clone(),
        ("MOV-02", "pay"),
        (Status::Fail, "still open"),
    );
    expect(
        said.clone(),
        ("MOV-01", "pay"),
        (Status::Fail, "arrived at bare"),
    );
    expect(
        said.clone(),
        ("ENF-01", "pay, vnic 1"),
        (Status::Fail, "at bare, where no agent enforces"),
    );
    let closed = Body::UnprotectedClosed {
        guest: guest("pay"),
        cause: "host-unprotected".into(),
        choice: "allow-with-alarm".into(),
        since_ms,
        until_ms: since_ms + 8_000,
        error_ms: 70,
    };
    said.extend([
        (by("h1"), since_ms + 8_000, attached("pay", 1)),
        (
            by("h1"),
            since_ms + 8_000,
            placed("pay", "h1", PlacedBy::Start),
        ),
        (Source::Manager, since_ms + 8_100, closed),
    ]);
    expect(
        said.clone(),
        ("MOV-02", "pay"),
        (Status::Fail, "unprotected for 8000 ms (give or take 70)"),
    );
    expect(said, ("ENF-01", "pay, vnic 1"), (Status::Pass, "at h1"));
}

fn bound(name: &str, facts: Option<GuestFacts>) -> (Source, u64, Body) {
    let body = Body::GuestBound {
        release: release().digest,
        epoch: Epoch(9),
        guest: guest(name),
        facts: facts.map(Box::new),
    };
    (Source::Manager, SEEN_MS, body)
}

#[test]
fn a_guest_bound_after_the_release_is_checked_too() {
    let facts = GuestFacts {
        in_scope: true,
        ..guest_facts("pay2", 9)
    };
    let said = entries(with([bound("pay2", Some(facts))]));
    let entry = said
        .iter()
        .position(|entry| entry.body.kind() == "guest-bound");
    let entry = entry.expect("it was said") as u64;
    let found = findings(&said, FRESH_MS);
    for check in MOVES {
        let of = find(&found, check, "pay2");
        assert_eq!(of.status, Status::Unknown);
        assert!(of.evidence.contains(&entry), "{of:#?}");
        assert_eq!(find(&found, check, "pay").status, Status::Pass);
    }
    assert_eq!(find(&found, "RUL-02", "release 7").status, Status::Pass);
    let retired = findings(&entries(with([bound("pay", None)])), FRESH_MS);
    let of = find(&retired, "MOV-01", "deployment");
    assert_eq!(of.status, Status::NotApplicable, "{of:#?}");
}

#[test]
fn the_newest_facts_are_those_after_the_newest_release() {
    let facts = GuestFacts {
        in_scope: false,
        ..guest_facts("pay", 1)
    };
    let again = Body::ReleaseFacts(Box::new(release()));
    let said = with([
        bound("pay", Some(facts.clone())),
        (Source::Manager, SEEN_MS, again),
    ]);
    expect(said, ("MOV-01", "pay"), PASS);
    let mut foreign = bound("pay", Some(facts));
    if let Body::GuestBound { release, .. } = &mut foreign.2 {
        *release = ticket();
    }
    expect(with([foreign]), ("MOV-01", "pay"), PASS);
}

#[test]
fn who_comes_into_a_computed_scope_or_leaves_it_is_told_until_a_release_is_made_with_them() {
    let scope = ("RUL-03", "scope connected");
    let within = |name: &str, computed: &[&str]| GuestFacts {
        computed: computed.iter().map(|one| (*one).to_owned()).collect(),
        ..guest_facts(name, 9)
    };
    expect(
        with([bound("web2", Some(within("web2", &[])))]),
        scope,
        PASS,
    );
    let came = bound("web2", Some(within("web2", &["connected"])));
    expect(with([came.clone()]), scope, (Status::Fail, "web2 came"));
    let left = bound("web", Some(within("web", &[])));
    expect(with([left]), scope, (Status::Fail, "web left"));
    expect(
        with([bound("web", None)]),
        scope,
        (Status::Fail, "web left"),
    );
    let mut again = release();
    again.guests.push(within("web2", &["connected"]));
    let again = Body::ReleaseFacts(Box::new(again));
    expect(with([came, (Source::Manager, SEEN_MS, again)]), scope, PASS);
    let mut without = release();
    without
        .guests
        .iter_mut()
        .for_each(|one| one.computed.clear());
    let without = Body::ReleaseFacts(Box::new(without));
    let deployment = ("RUL-03", "deployment");
    let none = (Status::NotApplicable, "no guest is in a computed scope");
    expect(
        with([(Source::Manager, SEEN_MS, without)]),
        deployment,
        none,
    );
}

#[test]
fn a_later_binding_does_not_rewrite_who_shared_a_host() {
    let joined = (
        by("h2"),
        START_MS + 50_000,
        placed("web", "h2", PlacedBy::Found),
    );
    let retagged = GuestFacts {
        zone: "cde".into(),
        ..guest_facts("web", 2)
    };
    let said = with([joined, bound("web", Some(retagged))]);
    expect(said, ("COR-01", "h2"), (Status::Fail, "zone web"));
}
