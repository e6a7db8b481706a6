//! Moves and unprotected stays: what records, departures and placements make of each other.

mod support;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lictor_audit::Status;
use lictor_audit::verify::{Recheck, verify};
use lictor_evidence::{
    Body, Envelope, MOVE_RECORD_TYPE, MoveOutcome, MoveRecord, MoveSessions, MoveSide, PlacedBy,
    Readback, SigningKey, Source, VnicCounters, VnicReadback,
};
use lictor_types::{Digest, Generation, VnicId, VnicState};
use lictor_wire::api::{MoveEntry, MoveResult, MoveSigners, Pack, Placement, Role};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{AgentLog, Client, Server, guest, host};

/// Two agents with their logs, a connector and a reader.
struct World {
    server: Server,
    agents: [(Client, AgentLog); 2],
    connector: Client,
    reader: Client,
}

impl World {
    fn new() -> Self {
        let server = Server::start();
        server.with_release();
        let keys = &server.keys;
        let agents = [("a", &keys.agent), ("b", &keys.other_agent)]
            .map(|(name, key)| (server.enrol(Role::Agent, name), AgentLog::of(name, key)));
        let connector = server.enrol(Role::Connector, "libvirt");
        let reader = server.enrol(Role::Auditor, "eve");
        Self {
            server,
            agents,
            connector,
            reader,
        }
    }

    /// The agent of `a` (0) or `b` (1) says something.
    fn says(&mut self, agent: usize, time_ms: u64, body: Body) {
        let (client, log) = &mut self.agents[agent];
        let first = log.texts().len();
        log.add_at(time_ms, body);
        client.ok("POST", "/v1/evidence", &log.batch(first));
    }

    fn place(&self, name: &str, on: &str, (since_ms, error_ms): (u64, u64)) -> Value {
        let placement = Placement {
            guest: guest(name),
            host: host(on),
            since_ms,
            error_ms,
        };
        self.connector.ok("POST", "/v1/placements", &placement)
    }

    fn moves(&self) -> Vec<MoveEntry> {
        serde_json::from_value(self.reader.ok("GET", "/v1/moves", &())).expect("moves")
    }

    fn told(&self, kind: &str) -> Vec<Body> {
        let entries = self.server.entries().into_iter();
        entries
            .filter(|entry| entry.host == Source::Manager && entry.body.kind() == kind)
            .map(|entry| entry.body)
            .collect()
    }

    /// Where the inventory shows a guest: `db` is its first, `pc` its second.
    fn shown(&self, guest: usize) -> (Value, Value) {
        let inventory = self.reader.ok("GET", "/v1/inventory", &());
        let entry = &inventory["guests"][guest];
        (entry["host"].clone(), entry["protected"].clone())
    }
}

fn record(outcome: MoveOutcome) -> MoveRecord {
    let side = MoveSide {
        generation: Generation(1),
        tables: Digest::of(b"tables"),
    };
    MoveRecord {
        ticket: Digest::of(b"ticket"),
        guest: guest("db"),
        from: host("a"),
        to: host("b"),
        asked_by: "ops".into(),
        source: side.clone(),
        target: side,
        sessions: MoveSessions {
            sent: 4,
            accepted: 3,
            refused: BTreeMap::from([("state-full".into(), 1)]),
        },
        copied: None,
        counted: None,
        overridden: None,
        hold_since_ms: 4_000,
        fenced_ms: 4_900,
        opened_ms: 5_000,
        pause_us: 1_234,
        unprotected_ms: 0,
        unprotected_packets: Some(0),
        error_ms: 2,
        outcome,
    }
}

fn recorded(record: &MoveRecord, keys: &[&SigningKey]) -> Body {
    let signed = Envelope::sign(MOVE_RECORD_TYPE, &record.canonical_bytes(), keys);
    Body::MoveRecorded {
        record: Box::new(record.clone()),
        signed: Box::new(signed),
    }
}

fn placed(name: &str, at: &str, by: PlacedBy) -> Body {
    Body::GuestPlaced {
        guest: guest(name),
        at: host(at),
        by,
        protected: true,
    }
}

fn left(name: &str, at: &str) -> Body {
    Body::GuestLeft {
        guest: guest(name),
        at: host(at),
    }
}

#[test]
fn a_committed_move_that_both_ends_record_is_listed_once_and_moves_the_guest() {
    let mut world = World::new();
    world.says(0, 1_000, placed("db", "a", PlacedBy::Start));
    assert_eq!(world.shown(0).0, "a");
    let keys = [
        world.server.keys.agent.clone(),
        world.server.keys.other_agent.clone(),
    ];
    let record = record(MoveOutcome::Committed);
    let body = recorded(&record, &[&keys[0], &keys[1]]);
    world.says(1, 5_001, body.clone());
    world.says(1, 5_002, placed("db", "b", PlacedBy::Move));
    world.says(0, 5_003, left("db", "a"));
    world.says(0, 5_004, body);
    let expected = MoveEntry {
        guest: guest("db"),
        from: Some(host("a")),
        to: host("b"),
        outcome: MoveResult::Committed,
        time_ms: 5_000,
        asked_by: Some("ops".into()),
        ticket: Some(record.ticket),
        signers: Some(MoveSigners::Both),
        sessions: Some(record.sessions),
        pause_us: Some(1_234),
        unprotected_ms: 0,
        unprotected_until_ms: None,
        error_ms: 2,
        reasons: Vec::new(),
    };
    assert_eq!(world.moves(), [expected]);
    assert_eq!(world.shown(0).0, "b");
    assert_eq!(world.told("alarm"), []);
}

#[test]
fn a_record_counts_as_far_as_it_is_signed() {
    for (outcome, signers, counts) in [
        (MoveOutcome::Committed, MoveSigners::Both, true),
        (MoveOutcome::Committed, MoveSigners::Source, false),
        (MoveOutcome::Committed, MoveSigners::Target, false),
        (MoveOutcome::Committed, MoveSigners::Neither, false),
        (MoveOutcome::Aborted, MoveSigners::Source, true),
        (MoveOutcome::Aborted, MoveSigners::Target, false),
        (MoveOutcome::StateLost, MoveSigners::Target, true),
        (MoveOutcome::StateLost, MoveSigners::Source, false),
    ] {
        let mut world = World::new();
        world.says(0, 1_000, placed("db", "a", PlacedBy::Start));
        let keys = &world.server.keys;
        let signing: &[&SigningKey] = match signers {
            MoveSigners::Both => &[&keys.agent, &keys.other_agent],
            MoveSigners::Source => &[&keys.agent],
            MoveSigners::Target => &[&keys.other_agent],
            MoveSigners::Neither => &[&keys.owner],
        };
        let body = recorded(&record(outcome), signing);
        world.says(0, 6_000, body);
        let moves = world.moves();
        assert_eq!(moves.len(), 1, "{outcome:?} {signers:?}");
        assert_eq!(moves[0].signers, Some(signers), "{outcome:?}");
        let alarms = world.told("alarm").len();
        assert_eq!(alarms, usize::from(!counts), "{outcome:?} {signers:?}");
        let at = if counts && outcome != MoveOutcome::Aborted {
            "b"
        } else {
            "a"
        };
        assert_eq!(world.shown(0).0, at, "{outcome:?} {signers:?}");
    }
}

#[test]
fn two_copies_with_one_signature_each_are_one_move_with_both() {
    let mut world = World::new();
    let keys = [
        world.server.keys.agent.clone(),
        world.server.keys.other_agent.clone(),
    ];
    let record = record(MoveOutcome::Committed);
    world.says(0, 6_000, recorded(&record, &[&keys[0]]));
    world.says(1, 6_000, recorded(&record, &[&keys[1]]));
    let moves = world.moves();
    assert_eq!(moves.len(), 1);
    assert_eq!(moves[0].signers, Some(MoveSigners::Both));
    assert_eq!(world.shown(0).0, "b");
}

#[test]
fn a_host_without_part_in_a_move_is_not_believed_about_it() {
    let mut world = World::new();
    let mut elsewhere = record(MoveOutcome::Committed);
    (elsewhere.from, elsewhere.to) = (host("c"), host("d"));
    world.says(0, 6_000, recorded(&elsewhere, &[]));
    world.says(0, 6_001, placed("db", "b", PlacedBy::Found));
    assert_eq!(world.moves(), []);
    assert_eq!(world.told("alarm").len(), 1);
    assert_eq!(world.shown(0).0, Value::Null);
}

#[test]
fn a_record_that_arrives_late_does_not_put_the_guest_back() {
    let mut world = World::new();
    world.says(0, 9_000, placed("db", "a", PlacedBy::Move));
    let keys = &world.server.keys;
    let body = recorded(
        &record(MoveOutcome::Committed),
        &[&keys.agent, &keys.other_agent],
    );
    world.says(1, 9_500, body);
    assert_eq!(world.shown(0).0, "a");
    let stale = Placement {
        guest: guest("db"),
        host: host("bare"),
        since_ms: 8_000,
        error_ms: 50,
    };
    let post = ("POST", "/v1/placements");
    world
        .connector
        .refused(post, &stale, (409, "known to be on a since 9000"));
}

#[test]
fn a_refused_move_is_listed_with_every_reason() {
    let mut world = World::new();
    let reasons = vec!["no ids on b".to_owned(), "release 1 against 2".to_owned()];
    let refused = Body::MoveRefused {
        guest: guest("db"),
        from: host("a"),
        to: host("b"),
        reasons: reasons.clone(),
    };
    world.says(0, 7_000, refused);
    let moves = world.moves();
    assert_eq!(moves.len(), 1);
    assert_eq!(
        (moves[0].outcome, moves[0].time_ms, &moves[0].reasons),
        (MoveResult::Refused, 7_000, &reasons)
    );
}

#[test]
fn a_guest_on_a_host_without_an_agent_is_alarmed_as_its_owner_chose() {
    let world = World::new();
    assert_eq!(world.place("db", "bare", (1_000, 50))["choice"], "block");
    assert_eq!(world.told("unprotected-opened"), []);
    assert_eq!(world.told("alarm").len(), 1);
    assert_eq!(
        world.place("pc", "bare", (2_000, 50))["choice"],
        "allow-with-alarm"
    );
    assert_eq!(world.told("unprotected-opened").len(), 1);
    assert_eq!(world.told("alarm").len(), 2);
    let unknown = world.place("nobody", "bare", (2_000, 50));
    assert_eq!(unknown["choice"], "block", "unknown is strictest");
    assert_eq!(world.shown(1), (json!("bare"), json!(false)));
}

/// The only unprotected stay on the list: from, length, end, error.
fn stay(world: &World) -> (Option<String>, u64, Option<u64>, u64) {
    let moves = world.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    let entry = &moves[0];
    assert_eq!(entry.outcome, MoveResult::Unprotected);
    assert_eq!((&entry.guest, &entry.to), (&guest("pc"), &host("bare")));
    let from = entry.from.as_ref().map(ToString::to_string);
    let until_ms = entry.unprotected_until_ms;
    (from, entry.unprotected_ms, until_ms, entry.error_ms)
}

#[test]
fn an_unprotected_stay_lasts_from_the_placement_to_the_agents_word() {
    let mut world = World::new();
    world.says(0, 1_000, placed("pc", "a", PlacedBy::Start));
    world.says(0, 20_070, left("pc", "a"));
    world.place("pc", "bare", (20_000, 50));
    let (from, so_far_ms, until_ms, error_ms) = stay(&world);
    // The connector says 20,000 and the agent saw it until 20,070: 70 is more than the stated 50.
    assert_eq!((from.as_deref(), until_ms, error_ms), (Some("a"), None, 70));
    world.server.clock.forward(Duration::from_secs(60));
    assert!(stay(&world).1 >= so_far_ms + 60_000, "it grows");
    // An older word about another stay ends nothing.
    world.says(1, 19_000, placed("pc", "b", PlacedBy::Start));
    assert_eq!(stay(&world).2, None);
    world.says(1, 90_000, placed("pc", "b", PlacedBy::Move));
    assert_eq!(stay(&world), (Some("a".into()), 70_000, Some(90_000), 70));
    assert_eq!(world.shown(1).0, "b");
    let closed = world.told("unprotected-closed");
    let expected = Body::UnprotectedClosed {
        guest: guest("pc"),
        cause: "host-unprotected".into(),
        choice: "allow-with-alarm".into(),
        since_ms: 20_000,
        until_ms: 90_000,
        error_ms: 70,
    };
    assert_eq!(closed, [expected]);
}

#[test]
fn a_host_that_does_not_enforce_or_is_ahead_of_time_ends_or_holds_nothing() {
    let mut world = World::new();
    world.place("pc", "bare", (20_000, 50));
    let loose = Body::GuestPlaced {
        guest: guest("pc"),
        at: host("a"),
        by: PlacedBy::Found,
        protected: false,
    };
    world.says(0, 30_000, loose);
    assert_eq!(stay(&world).2, None, "nobody enforces there");
    let now_ms = (world.server.clock.clock())();
    let year_ms = 365 * 24 * 60 * 60 * 1_000;
    world.says(0, now_ms + year_ms, placed("db", "a", PlacedBy::Start));
    world.server.clock.forward(Duration::from_secs(1));
    world.place("db", "b", (now_ms + 900, 0));
    assert_eq!(world.shown(0).0, "b", "its year has not come yet");
}

#[test]
fn a_later_placement_ends_an_unprotected_stay_with_the_larger_error() {
    let world = World::new();
    world.place("pc", "a", (1_000, 5));
    world.place("pc", "bare", (20_000, 50));
    world.place("pc", "b", (21_000, 300));
    assert_eq!(stay(&world), (Some("a".into()), 1_000, Some(21_000), 300));
}

#[test]
fn a_departure_that_arrives_late_widens_the_error() {
    let mut world = World::new();
    world.says(0, 1_000, placed("pc", "a", PlacedBy::Start));
    world.place("pc", "bare", (20_000, 50));
    assert_eq!(stay(&world).3, 50);
    // A backlog: an earlier departure first, then the one that led there.
    world.says(0, 500, left("pc", "a"));
    world.says(0, 19_880, left("pc", "a"));
    assert_eq!(stay(&world).3, 120);
}

fn attached() -> Body {
    Body::VnicAttached {
        guest: guest("db"),
        vnic: VnicId(1),
        device: "db-0".parse().expect("a valid name"),
        how: "asked".into(),
        before_first_packet: true,
        excess_frames: 0,
        window_ms: 0,
    }
}

fn readback() -> Body {
    Body::Readback(Readback {
        generation: Generation(1),
        expected: Digest::of(b"tables of b"),
        found: Digest::of(b"tables of b"),
        vnics: vec![VnicReadback {
            vnic: VnicId(1),
            guest: guest("db"),
            hooks_ok: true,
            state: VnicState::Open,
            counters: VnicCounters::default(),
        }],
    })
}

/// What both agents say of a move that goes well, as of `now_ms`.
fn a_good_move(world: &World, now_ms: u64) -> Vec<(usize, u64, Body)> {
    let facts = world.told("release-facts");
    let Some(Body::ReleaseFacts(release)) = facts.first() else {
        panic!("no release was published: {facts:?}");
    };
    let loaded = Body::ReleaseLoaded {
        generation: Generation(1),
        release: release.digest,
        author: "author".into(),
        approvers: vec!["approver".into()],
        tables_expected: Digest::of(b"tables"),
        tables_found: Digest::of(b"tables"),
    };
    let admitted = Body::MoveAdmitted {
        ticket: Digest::of(b"ticket"),
        guest: guest("db"),
        from: host("a"),
        to: host("b"),
        controls: Vec::new(),
        overridden: None,
    };
    let record = MoveRecord {
        hold_since_ms: now_ms - 600,
        fenced_ms: now_ms - 510,
        opened_ms: now_ms - 500,
        ..record(MoveOutcome::Committed)
    };
    let keys = &world.server.keys;
    let recorded = recorded(&record, &[&keys.agent, &keys.other_agent]);
    [
        (0, 5_000, loaded.clone()),
        (1, 5_000, loaded),
        (0, 4_000, attached()),
        (0, 3_900, placed("db", "a", PlacedBy::Start)),
        (0, 700, admitted.clone()),
        (1, 690, admitted),
        (1, 600, attached()),
        (1, 499, placed("db", "b", PlacedBy::Move)),
        (1, 498, recorded.clone()),
        (0, 400, left("db", "a")),
        (0, 399, recorded),
        (1, 300, readback()),
    ]
    .map(|(agent, before_ms, body)| (agent, now_ms - before_ms, body))
    .into()
}

/// The report of the pack that the manager makes now, which an assessor's program has verified.
fn packed_findings(world: &World) -> BTreeMap<(String, String), Status> {
    let pack: Pack = serde_json::from_value(world.reader.ok("GET", "/v1/pack", &())).expect("it");
    let decode = |(path, text): (String, String)| (path, STANDARD.decode(text).expect("base64"));
    let files = pack.files.into_iter().map(decode).collect();
    let key = Some(&world.server.trust.manager);
    let outcome = verify(&files, key, Recheck::Reported).expect("the report is what entries say");
    assert!(outcome.compared);
    let findings = outcome.findings.expect("the pack has a report").into_iter();
    findings
        .map(|one| ((one.check, one.subject), one.status))
        .collect()
}

#[test]
fn a_move_that_both_agents_tell_of_passes_every_check_of_the_managers_pack() {
    let mut world = World::new();
    let before = packed_findings(&world);
    let status = |findings: &BTreeMap<(String, String), Status>, check: &str, subject: &str| {
        findings
            .get(&(check.to_owned(), subject.to_owned()))
            .copied()
    };
    assert_eq!(status(&before, "MOV-01", "db"), Some(Status::Unknown));
    assert_eq!(
        status(&before, "ENF-05", "deployment"),
        Some(Status::Unknown)
    );
    let now_ms = (world.server.clock.clock())();
    for (agent, time_ms, body) in a_good_move(&world, now_ms) {
        world.says(agent, time_ms, body);
    }
    let after = packed_findings(&world);
    for (check, subject) in [
        ("MOV-01", "db"),
        ("MOV-02", "db"),
        ("MOV-03", "db"),
        ("COR-01", "b"),
        ("COR-02", "b"),
        ("COR-03", "b"),
        ("ENF-01", "db, vnic 1"),
        ("ENF-05", "b"),
        ("RUL-01", "release 1"),
        ("RUL-02", "release 1"),
        ("CHG-01", "b"),
        ("LOG-01", "b"),
        ("LOG-01", "manager"),
    ] {
        let found = status(&after, check, subject);
        assert_eq!(found, Some(Status::Pass), "{check} {subject}: {after:#?}");
    }
}
