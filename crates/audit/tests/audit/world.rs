//! A small deployment: two hosts, a guest in scope that moves, and one out of scope that stays.

use lictor_evidence::{
    Body, ControlFact, Entry, Envelope, GuestFacts, KeyName, KeyRole, Log, MOVE_RECORD_TYPE,
    MemoryStorage, MoveOutcome, MoveRecord, MoveSessions, MoveSide, PlacedBy, Readback,
    ReleaseFacts, RuleFacts, SegmentationTest, SigningKey, Source, VnicCounters, VnicReadback,
};
use lictor_types::{Digest, Generation, GuestId, HostId, Verdict, VnicId, VnicName, VnicState};
use rand::{SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;

/// When the deployment begins.
pub(crate) const START_MS: u64 = 1_800_000_000_000;
/// When the newest facts were collected.
pub(crate) const SEEN_MS: u64 = START_MS + 60_000;

/// What is said, before it has numbers.
pub(crate) type Said = Vec<(Source, u64, Body)>;

pub(crate) fn key(name: &str, seed: u64) -> SigningKey {
    SigningKey::generate(
        KeyName::new(name).expect("valid"),
        &mut StdRng::seed_from_u64(seed),
    )
}

pub(crate) fn manager_key() -> SigningKey {
    key("lictor.test/manager", 1)
}

pub(crate) fn host_key(host: &str) -> SigningKey {
    key(
        &format!("lictor.test/{host}"),
        if host == "h1" { 2 } else { 3 },
    )
}

pub(crate) fn host(name: &str) -> HostId {
    HostId::new(name).expect("valid")
}

pub(crate) fn guest(name: &str) -> GuestId {
    GuestId::new(name).expect("valid")
}

pub(crate) fn by(name: &str) -> Source {
    Source::Host(host(name))
}

fn control(name: &str) -> ControlFact {
    ControlFact {
        control: name.into(),
        version: "1".into(),
        healthy: true,
    }
}

pub(crate) fn guest_facts(name: &str, vnic: u32) -> GuestFacts {
    let zone = if name == "pay" { "cde" } else { "web" };
    GuestFacts {
        guest: guest(name),
        labels: BTreeMap::from([("zone".into(), zone.into())]),
        zone: zone.into(),
        in_scope: name == "pay",
        baseline: 2,
        vnics: vec![VnicId(vnic)],
        controls: vec!["firewall".into()],
        observed: None,
        computed: match name {
            "web" => vec!["connected".into()],
            _ => Vec::new(),
        },
    }
}

pub(crate) fn release() -> ReleaseFacts {
    let rule = RuleFacts {
        name: "web-to-pay".into(),
        owner: "shop".into(),
        justification: "the shop takes payments".into(),
        ticket: String::new(),
        expires_ms: None,
        service: "https".into(),
        touches_scope: true,
        verdict: Verdict::Allow,
    };
    ReleaseFacts {
        generation: Generation(7),
        digest: Digest::of(b"release 7"),
        part: 0,
        parts: 1,
        default_deny_egress: true,
        default_deny_ingress: true,
        rules: vec![rule],
        guests: vec![guest_facts("pay", 1), guest_facts("web", 2)],
        hosts: vec![host("h1"), host("h2")],
        author: "ann".into(),
        approvers: vec!["ben".into()],
        approvals_required: 1,
        reason: "open the shop".into(),
        ticket: String::new(),
        segmentation_tests: vec![SegmentationTest {
            zones: ("cde".into(), "web".into()),
            tested_ms: START_MS,
            passed: true,
        }],
    }
}

pub(crate) fn ticket() -> Digest {
    Digest::of(b"ticket 1")
}

pub(crate) fn record() -> MoveRecord {
    let side = MoveSide {
        generation: Generation(7),
        tables: Digest::of(b"pay's tables"),
    };
    MoveRecord {
        ticket: ticket(),
        guest: guest("pay"),
        from: host("h1"),
        to: host("h2"),
        asked_by: "operator".into(),
        source: side.clone(),
        target: side,
        sessions: MoveSessions {
            sent: 3,
            accepted: 3,
            refused: BTreeMap::new(),
        },
        copied: None,
        counted: None,
        overridden: None,
        hold_since_ms: START_MS + 29_000,
        fenced_ms: START_MS + 29_990,
        opened_ms: START_MS + 30_000,
        pause_us: 9_800,
        unprotected_ms: 0,
        unprotected_packets: Some(0),
        error_ms: 2,
        outcome: MoveOutcome::Committed,
    }
}

pub(crate) fn recorded(record: MoveRecord, signers: &[&SigningKey]) -> Body {
    let signed = Envelope::sign(MOVE_RECORD_TYPE, &record.canonical_bytes(), signers);
    Body::MoveRecorded {
        record: Box::new(record),
        signed: Box::new(signed),
    }
}

pub(crate) fn placed(name: &str, at: &str, by: PlacedBy) -> Body {
    Body::GuestPlaced {
        guest: guest(name),
        at: host(at),
        by,
        protected: true,
    }
}

pub(crate) fn attached(name: &str, vnic: u32) -> Body {
    Body::VnicAttached {
        guest: guest(name),
        vnic: VnicId(vnic),
        device: VnicName::new(format!("tap{vnic}")).expect("valid"),
        how: "hook".into(),
        before_first_packet: true,
        excess_frames: 0,
        window_ms: 0,
    }
}

pub(crate) fn readback(name: &str, vnic: u32) -> Readback {
    let counters = VnicCounters {
        seen: 10,
        allowed: 8,
        denied: 2,
        device: 10,
    };
    Readback {
        generation: Generation(7),
        expected: Digest::of(b"tables"),
        found: Digest::of(b"tables"),
        vnics: vec![VnicReadback {
            vnic: VnicId(vnic),
            guest: guest(name),
            hooks_ok: true,
            state: VnicState::Open,
            counters,
        }],
    }
}

fn loaded() -> Body {
    Body::ReleaseLoaded {
        generation: Generation(7),
        release: Digest::of(b"release 7"),
        author: "ann".into(),
        approvers: vec!["ben".into()],
        tables_expected: Digest::of(b"tables"),
        tables_found: Digest::of(b"tables"),
    }
}

/// Everything as it should be: `pay` starts at h1 and moves to h2; `web` starts at h1 after that.
pub(crate) fn good() -> Said {
    let manager = |at, body| (Source::Manager, START_MS + at, body);
    let enrol = |name: &str| Body::KeyEnrolled {
        role: KeyRole::Agent,
        for_host: Some(host(name)),
        key: host_key(name).verify_key(),
    };
    let admitted = Body::MoveAdmitted {
        ticket: ticket(),
        guest: guest("pay"),
        from: host("h1"),
        to: host("h2"),
        controls: vec![control("firewall")],
        overridden: None,
    };
    vec![
        manager(0, enrol("h1")),
        manager(0, enrol("h2")),
        manager(10, Body::ReleaseFacts(Box::new(release()))),
        (by("h1"), START_MS + 100, loaded()),
        (by("h2"), START_MS + 100, loaded()),
        (by("h1"), START_MS + 200, attached("pay", 1)),
        (
            by("h1"),
            START_MS + 300,
            placed("pay", "h1", PlacedBy::Start),
        ),
        (by("h2"), START_MS + 28_000, admitted),
        (by("h2"), START_MS + 29_000, attached("pay", 1)),
        (
            by("h2"),
            START_MS + 30_000,
            placed("pay", "h2", PlacedBy::Move),
        ),
        (
            by("h2"),
            START_MS + 30_100,
            recorded(record(), &[&host_key("h1"), &host_key("h2")]),
        ),
        (by("h1"), START_MS + 40_000, attached("web", 2)),
        (
            by("h1"),
            START_MS + 40_100,
            placed("web", "h1", PlacedBy::Start),
        ),
        (by("h1"), SEEN_MS, Body::Readback(readback("web", 2))),
        (by("h2"), SEEN_MS, Body::Readback(readback("pay", 1))),
    ]
}

/// Gives numbers, and lets each host sign its log at the end.
pub(crate) fn entries(said: Said) -> Vec<Entry> {
    let mut next = BTreeMap::<Source, u64>::new();
    let mut logs = BTreeMap::<Source, Log<MemoryStorage>>::new();
    let mut entries = Vec::new();
    let mut number = |source: &Source| {
        let next = next.entry(source.clone()).or_default();
        *next += 1;
        *next - 1
    };
    for (source, time_ms, body) in said {
        let entry = Entry::new(source.clone(), number(&source), time_ms, body);
        if let Source::Host(name) = &source {
            let log = logs.entry(source.clone()).or_insert_with(|| {
                let key = host_key(name.as_str()).verify_key();
                Log::open(MemoryStorage::default(), key, None).expect("new")
            });
            log.append(&entry.to_bytes().expect("fits"))
                .expect("appends");
        }
        entries.push(entry);
    }
    for (source, mut log) in logs {
        let of = source.host().expect("only hosts have logs here").clone();
        let checkpoint = log.checkpoint(&host_key(of.as_str())).expect("signs");
        let body = Body::CheckpointAnchored { of, checkpoint };
        entries.push(Entry::new(
            Source::Manager,
            number(&Source::Manager),
            SEEN_MS,
            body,
        ));
    }
    entries
}
