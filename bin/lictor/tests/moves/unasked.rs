//! Migrations of which nobody has told Lictor: both ends decide when they see them.

use super::stages::Fabric;
use super::*;
use lictor_evidence::PlacedBy;

/// Waits until a QEMU has stopped its guest for the last part of its migration.
fn wait_stopped(guest: &QemuGuest, mark: usize) -> Result<()> {
    let stopped = |event: &lictor_lab::Event| event.name == "STOP";
    guest.qmp().wait(mark, LIMIT, stopped).map(drop)
}

fn handed_over(world: &World, asked_by: &str) -> Result<()> {
    world
        .a()
        .wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)
        .with_context(|| format!("{}; {}", world.a().log(), world.b().log()))?;
    wait_for(world.b(), &DB, |one| {
        (one.custody, one.vnics[0].state) == (2, VnicState::Open)
    })?;
    world.stream_goes_on()?;
    let (at_a, at_b) = (wait_recorded(world.a(), 1)?, wait_recorded(world.b(), 1)?);
    assert_eq!(at_a, at_b, "both ends keep the same record");
    let (record, signatures) = &at_a[0];
    assert_eq!((record.outcome, *signatures), (MoveOutcome::Committed, 2));
    assert!(record.asked_by.starts_with(asked_by), "{record:?}");
    assert!(record.sessions.sent >= 1, "{record:?}");
    assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
    assert_eq!(record.unprotected_packets, Some(0), "{record:?}");
    Ok(())
}

#[test]
fn a_migration_that_nobody_has_asked_for_is_admitted_late_and_takes_its_sessions_along()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    let target = receive(world.b(), &DB)?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    let logs = || format!("{report:?}; {}; {}", world.a().log(), world.b().log());
    assert_eq!(report.status, "completed", "{}", logs());
    handed_over(&world, "nobody: host b found it")?;
    fabric.forwarded_in_turn(&DB, &["a", "b"]);
    Ok(())
}

/// The migration is faster than the target's agent: its guest stands still until that has signed
/// and has taken the sessions in.
#[test]
fn a_guest_that_is_stopped_before_its_copy_is_complete_waits_for_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    admitted(world.a(), &DB, "b")?;
    let target = world.b().host().receive(&DB.spec(&SERVICES), |vnic| {
        world.b().attach(vnic, &addresses(&DB), Arrival::Incoming)?;
        world.b().pause()
    })?;
    let (mark, options) = (world.db.qmp().mark(), MigrateOptions::default());
    world.db.start_migration(&target, &options)?;
    wait_stopped(&world.db, mark)?;
    world.b().go_on()?;
    let report = world.db.finish_migration(&target, mark, &options)?;
    assert_eq!(report.status, "completed", "{report:?}");
    handed_over(&world, "the lab")?;
    fabric.forwarded_in_turn(&DB, &["a", "b"]);
    Ok(())
}

#[test]
fn a_migration_against_which_something_speaks_ends_with_the_reason_at_both_ends() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world_on(site_on(&["a", "b", "c"], &[WEB, DB])?)?;
    let c = world.site.agent("c")?;
    let hosts = ["a", "b", "c"].map(|host| world.site.agent(host).map(Agent::host));
    let hosts = hosts.into_iter().collect::<Result<Vec<_>>>()?;
    let fabric = Fabric::watch_hosts(&world.site, &hosts)?;
    // Somebody wants it elsewhere.
    admitted(world.a(), &DB, "b")?;
    let target = receive(c, &DB)?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "failed", "{report:?}");
    world.stream_goes_on()?;
    assert_eq!(state(world.a(), &DB)?, (1, VnicState::Open));
    assert_eq!(state(c, &DB)?.1, VnicState::Hold);
    fabric.forwarded_in_turn(&DB, &["a"]);
    let detail = "it is leaving this host already".to_owned();
    let reason = Refusal::Busy { detail }.to_string();
    wait_body(
        world.a(),
        |body| matches!(body, Body::MoveRefused { reasons, .. } if reasons.contains(&reason)),
    )?;
    wait_body(
        c,
        |body| matches!(body, Body::Alarm { text, .. } if text.contains(&reason)),
    )
}

/// It comes from a host where no agent is: there are no sessions to be had, and it is protected
/// from its first step here.
#[test]
fn a_guest_that_comes_from_an_unprotected_host_is_heard_when_no_other_host_has_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let site = site()?;
    let [a, b] = ends(&site);
    let web = plug_in(a, &WEB)?;
    let c = site.lab().host("c")?;
    let db = c.boot_with(&DB.spec(&SERVICES), &[], |_| Ok(()))?;
    db.wait_up(LIMIT)?;
    let target = receive(b, &DB)?;
    let report = db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}; {}", b.log());
    wait_for(b, &DB, |one| {
        (one.custody, one.vnics[0].state) == (1, VnicState::Open)
    })
    .with_context(|| b.log())?;
    let _stream = hold_stream(&web, DB.address())?;
    wait_body(b, |body| {
        matches!(body, Body::GuestPlaced { guest, by: PlacedBy::Found, .. }
            if guest.as_str() == DB.name)
    })
}
