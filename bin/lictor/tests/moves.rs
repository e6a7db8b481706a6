//! Live migrations of real QEMU guests between hosts with agents: sessions go along, and what is
//! not handed over does not move.

mod common;

use anyhow::{Context as _, Result};
use common::{Agent, BATCH, DB, LIMIT, WEB, address, enrolled};
use lictor_evidence::{Body, MoveOutcome, MoveRecord};
use lictor_lab::{
    CounterStream, Image, Lab, MigrateOptions, NsGuest, Process, QemuGuest, Service, image,
};
use lictor_types::VnicState;
use lictor_wire::Refusal;
use lictor_wire::local::{MovePhase, Response};
use std::net::SocketAddr;

const PG: u16 = 5432;

/// Hosts a and b with agents, web on a as a namespace guest, db on a in QEMU, and a stream from one
/// to the other.
struct World {
    // Agents end before the hosts that they run on.
    process_a: Process,
    _process_b: Process,
    stream: CounterStream,
    db: QemuGuest,
    _web: NsGuest,
    a: Agent,
    b: Agent,
    lab: Lab,
}

fn services() -> [Service; 1] {
    [Service::Counter(PG)]
}

fn world() -> Result<World> {
    Image::build(&image::cache())?;
    let lab = Lab::new()?;
    let (host_a, host_b) = (lab.host("a")?, lab.host("b")?);
    let mut agents = enrolled(&[&host_a, &host_b])?;
    let (b, a) = (agents.remove(1), agents.remove(0));
    let (process_a, process_b) = (a.start()?, b.start()?);
    let web = a.namespace_guest(WEB)?;
    let db = a.boot(DB, &services())?;
    a.wait_for(DB, |one| one.interlocked && one.running == Some(true))?;
    let stream = CounterStream::hold(web.netns(), SocketAddr::from((address(DB), PG)))?;
    stream.log().wait_for(20, LIMIT)?;
    Ok(World {
        process_a,
        _process_b: process_b,
        stream,
        db,
        _web: web,
        a,
        b,
        lab,
    })
}

impl World {
    fn stream_goes_on(&self) -> Result<()> {
        let count = self.stream.log().report().count;
        let report = self.stream.log().wait_for(count + 50, LIMIT)?;
        assert!(report.contiguous && report.ended.is_none(), "{report:?}");
        Ok(())
    }
}

fn recorded(agent: &Agent) -> Result<Vec<(MoveRecord, usize)>> {
    let bodies = agent.evidence()?.into_iter();
    let records = bodies.filter_map(|body| match body {
        Body::MoveRecorded { record, signed } => Some((*record, signed.signatures().len())),
        _ => None,
    });
    Ok(records.collect())
}

/// Moves a guest and returns its new QEMU.
fn migrate(guest: &QemuGuest, number: u8, from: &Agent, to: &Agent) -> Result<QemuGuest> {
    let admitted = from.admit(number, to.host.node().name())?;
    assert!(
        matches!(admitted, Response::Admitted { .. }),
        "{admitted:?}"
    );
    let target = to.receive(number, &services())?;
    from.wait_phase(number, MovePhase::Copied)?;
    let report = guest.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    from.wait_phase(number, MovePhase::Done)?;
    to.wait_for(number, |one| one.vnics[0].state == VnicState::Open)
        .with_context(|| format!("the guest's console: {}", target.console()))?;
    Ok(target)
}

#[test]
fn a_live_session_follows_the_guest_to_another_host_and_back() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let there = migrate(&world.db, DB, &world.a, &world.b)?;
    world.stream_goes_on()?;
    assert_eq!(world.a.guest(DB)?.expect("still attached").custody, 0);
    drop(world.db);
    let here = migrate(&there, DB, &world.b, &world.a)?;
    drop(there);
    let count = world.stream.log().report().count;
    let report = world.stream.log().wait_for(count + 50, LIMIT)?;
    assert!(report.contiguous && report.ended.is_none(), "{report:?}");

    let (at_a, at_b) = (recorded(&world.a)?, recorded(&world.b)?);
    assert_eq!(at_a.len(), 2, "{at_a:?}");
    assert_eq!(at_a, at_b, "both ends keep the same records");
    for (record, signatures) in &at_a {
        assert_eq!(*signatures, 2, "{record:?}");
        assert_eq!(record.outcome, MoveOutcome::Committed);
        assert!(record.sessions.sent >= 1, "{record:?}");
        assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
        assert_eq!(record.source, record.target, "{record:?}");
        assert_eq!(record.unprotected_packets, Some(0), "{record:?}");
        assert!(record.pause_us > 0, "{record:?}");
    }
    assert_eq!(world.a.guest(DB)?.expect("here again").custody, 3);
    drop(here);
    drop(world.lab);
    Ok(())
}

#[test]
fn a_move_to_a_host_without_an_agent_is_refused_and_rolls_back() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let c = world.lab.host("c")?;
    let answer = world.a.admit(DB, "c")?;
    let unknown = [Refusal::HostUnknown];
    assert!(
        matches!(&answer, Response::Refused { reasons } if *reasons == unknown),
        "{answer:?}"
    );
    // Somebody migrates it all the same.
    let target = c.receive(&common::spec(DB, &services()), |_| Ok(()))?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "failed", "{report:?}");
    world.stream_goes_on()?;
    world.a.wait_for(DB, |one| {
        one.custody == 1 && one.vnics[0].state == VnicState::Open
    })?;
    let refused = world.a.evidence()?;
    assert!(
        refused
            .iter()
            .any(|body| matches!(body, Body::MoveRefused { to, .. } if to.as_str() == "c"))
    );
    Ok(())
}

#[test]
fn a_migration_to_a_protected_host_that_nobody_admitted_fails_there() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let target = world.b.receive(DB, &services())?;
    world.b.wait_for(DB, |one| one.interlocked)?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "failed", "{report:?}");
    world.stream_goes_on()?;
    let state = world.b.guest(DB)?.map(|one| one.vnics[0].state);
    assert_ne!(state, Some(VnicState::Open));
    Ok(())
}

#[test]
fn a_target_that_dies_after_the_copy_leaves_the_guest_with_its_sessions_at_the_source() -> Result<()>
{
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let admitted = world.a.admit(DB, "b")?;
    assert!(
        matches!(admitted, Response::Admitted { .. }),
        "{admitted:?}"
    );
    let target = world.b.receive(DB, &services())?;
    world.a.wait_phase(DB, MovePhase::Copied)?;
    drop(target);
    world.a.wait_phase(DB, MovePhase::Aborted)?;
    world.stream_goes_on()?;
    let records = recorded(&world.a)?;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].0.outcome, MoveOutcome::Aborted);
    // The guest can move afterwards.
    let there = migrate(&world.db, DB, &world.a, &world.b)?;
    world.stream_goes_on()?;
    drop(there);
    Ok(())
}

#[test]
fn a_snapshot_fences_nothing() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    world.db.snapshot("one")?;
    world.stream_goes_on()?;
    let one = world.a.guest(DB)?.expect("here");
    assert_eq!((one.custody, one.vnics[0].state), (1, VnicState::Open));
    let bodies = world.a.evidence()?;
    assert!(
        bodies
            .iter()
            .any(|body| matches!(body, Body::SnapshotTaken { .. }))
    );
    let fenced = |body: &Body| {
        matches!(
            body,
            Body::VnicState {
                to: VnicState::HandedOver,
                ..
            }
        )
    };
    assert!(!bodies.iter().any(fenced));
    Ok(())
}

#[test]
fn a_guest_whose_owner_allows_it_moves_to_an_unprotected_host_and_that_is_recorded() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let batch = world.a.boot(BATCH, &[])?;
    world.a.wait_for(BATCH, |one| one.running == Some(true))?;
    let interlocked = |one: Option<lictor_wire::api::GuestReport>| one.map(|one| one.interlocked);
    assert_eq!(interlocked(world.a.guest(BATCH)?), Some(false));
    let c = world.lab.host("c")?;
    let target = c.receive(&common::spec(BATCH, &[]), |_| Ok(()))?;
    let report = batch.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    world.a.wait_for(BATCH, |one| {
        one.custody == 0 && one.vnics[0].state == VnicState::Hold
    })?;
    let bodies = world.a.evidence()?;
    let left =
        |body: &Body| matches!(body, Body::GuestLeft { guest, .. } if guest.as_str() == "batch");
    let alarm =
        |body: &Body| matches!(body, Body::Alarm { subject, .. } if subject.contains("batch"));
    assert!(bodies.iter().any(left) && bodies.iter().any(alarm));
    Ok(())
}

#[test]
fn a_guest_can_leave_after_its_agent_was_killed_and_started_again() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    world.process_a.kill()?;
    world.process_a = world.a.start()?;
    world
        .a
        .wait_for(DB, |one| one.interlocked && one.running == Some(true))?;
    let there = migrate(&world.db, DB, &world.a, &world.b)?;
    world.stream_goes_on()?;
    drop(there);
    Ok(())
}
