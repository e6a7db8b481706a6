//! Guests that somebody moves round the protocol: the interlock is taken out over another monitor,
//! and the migration goes to a host that has no agent.

use super::choices::{site_with, wait_impaired, weaker};
use super::stages::Fabric;
use super::*;
use lictor_lab::{Capture, Frame, Host};
use lictor_policy::{Cause, Choice};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longer than the stream is silent by itself.
const SILENCE: Duration = Duration::from_secs(2);

/// Takes the interlock out as somebody does who has the hypervisor's own monitor.
pub(super) fn disarm(guest: &QemuGuest, name: &str) -> Result<()> {
    let object = json!({ "id": format!("lictor-{name}") });
    guest.qmp().execute("object-del", object)?;
    Ok(())
}

/// A world in which db has no interlock any more, an unprotected host c, and a QEMU there that
/// waits for it.
pub(super) fn disarmed() -> Result<(World, Host, QemuGuest)> {
    disarmed_on(site()?)
}

fn disarmed_on(site: Site) -> Result<(World, Host, QemuGuest)> {
    let world = world_on(site)?;
    let c = world.site.lab().host("c")?;
    disarm(&world.db, DB.name)?;
    let target = c.receive(&DB.spec(&SERVICES), |_| Ok(()))?;
    Ok((world, c, target))
}

/// When the guest first ran there.
fn resumed(guest: &QemuGuest) -> Result<SystemTime> {
    let resume = guest.qmp().wait(0, LIMIT, |event| event.name == "RESUME")?;
    Ok(UNIX_EPOCH + resume.at)
}

/// What the guest's own device at an unprotected host has sent since it runs there.
fn sent(capture: &Capture, guest: &Guest, since: SystemTime) -> Vec<Frame> {
    let frames = capture.from_mac(guest.mac());
    frames.into_iter().filter(|one| one.wall > since).collect()
}

pub(super) fn alarmed(agent: &Agent, guest: &Guest, words: &str) -> Result<()> {
    let about = format!("guest {}", guest.name);
    wait_body(agent, |body| {
        matches!(body, Body::Alarm { subject, text } if *subject == about && text.contains(words))
    })
    .with_context(|| format!("an alarm: {words}; {}", agent.log()))
}

#[test]
fn a_guest_moved_round_the_protocol_arrives_cut_unless_its_owner_lets_it_pass() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let (world, c, target) = disarmed()?;
    let hosts = [world.a().host(), world.b().host(), &c];
    let fabric = Fabric::watch_hosts(&world.site, &hosts)?;
    let capture = Capture::start(world.site.lab().fabric(), &c.fabric_port())?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    let since = resumed(&target)?;
    std::thread::sleep(SILENCE);
    let found = sent(&capture, &DB, since);
    assert_eq!(found.len(), 0, "{:?}; {}", found.first(), world.a().log());
    alarmed(world.a(), &DB, "links down of ")?;
    wait_for(world.a(), &DB, |one| {
        one.custody == 0 && one.vnics[0].state == VnicState::Hold
    })?;

    // Its owner chose that batch may run where no agent is: the same migration, and it is heard.
    let batch = boot(world.a(), &BATCH, &SERVICES)?;
    let there = c.receive(&BATCH.spec(&SERVICES), |_| Ok(()))?;
    let report = batch.migrate_to(&there, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    let since = resumed(&there)?;
    wait::until("a guest that is heard", LIMIT, || {
        Ok((!sent(&capture, &BATCH, since).is_empty()).then_some(()))
    })?;
    fabric.forwarded_in_turn(&DB, &["a"]);
    fabric.forwarded_in_turn(&BATCH, &["a", "c"]);
    Ok(())
}

/// Its next host admits it without its sessions, and sees to it that it is heard.
#[test]
fn a_guest_that_was_cut_has_its_links_again_where_it_is_admitted() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let (mut world, c, cut) = disarmed()?;
    let hosts = [world.a().host(), world.b().host(), &c];
    let fabric = Fabric::watch_hosts(&world.site, &hosts)?;
    let report = world.db.migrate_to(&cut, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    alarmed(world.a(), &DB, "links down of ")?;
    wait_for(world.a(), &DB, |one| one.custody == 0)?;
    // The agent that took the links down says so also in its next life.
    world.site.restart_agent("a")?;
    let target = receive(world.b(), &DB)?;
    let report = cut.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    wait_for(world.b(), &DB, |one| {
        one.custody > 1 && one.vnics[0].state == VnicState::Open
    })
    .with_context(|| world.b().log())?;
    alarmed(world.b(), &DB, "had taken its links down")?;
    let _stream = hold_stream(&world.web, DB.address())?;
    fabric.forwarded_in_turn(&DB, &["a", "b"]);
    Ok(())
}

/// Its owner chose that what was established goes on without what is known of it.
#[test]
fn a_guest_that_comes_without_its_sessions_keeps_them_if_its_owner_chose_to_adopt() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let site = site_with(&[WEB, DB, BATCH], &weaker("state-lost", "adopt"))?;
    let (world, _c, cut) = disarmed_on(site)?;
    let report = world.db.migrate_to(&cut, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    wait_for(world.a(), &DB, |one| one.custody == 0)?;
    let target = receive(world.b(), &DB)?;
    let report = cut.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    wait_for(world.b(), &DB, |one| one.vnics[0].state == VnicState::Open)
        .with_context(|| world.b().log())?;
    world.stream_goes_on()?;
    // It was taken up, and that was recorded as what it is.
    wait_impaired(world.b(), Cause::StateLost, Choice::Adopt)
}

#[test]
fn a_guest_that_was_cut_and_stays_has_its_links_and_its_interlock_again() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let (world, _c, target) = disarmed()?;
    // Slow enough to be looked at and cancelled.
    let slow = MigrateOptions {
        bandwidth: 1 << 20,
        ..MigrateOptions::default()
    };
    world.db.start_migration(&target, &slow)?;
    wait_for(world.a(), &DB, |one| one.vnics[0].state == VnicState::Cut)?;
    alarmed(world.a(), &DB, "without its interlock")?;
    world.db.qmp().execute("migrate_cancel", json!({}))?;
    wait_for(world.a(), &DB, |one| {
        one.interlocked && one.vnics[0].state == VnicState::Open
    })?;
    drop(target);
    world.stream_goes_on()
}
