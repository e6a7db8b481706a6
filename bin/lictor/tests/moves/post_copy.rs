//! Post-copies that reach a host with an agent: the guest runs there before all of its memory is
//! there, and nothing of it may be heard before that host has taken it.

use super::stages::Fabric;
use super::*;
use lictor_evidence::PlacedBy;
use lictor_lab::{Capture, Way};

/// Bytes per second until the switch, and after it: so slow that the guest has not all of its
/// memory while the test looks.
const SLOW: [u64; 2] = [1 << 20, 1 << 18];

fn post_copy() -> Value {
    json!({ "capabilities": [{ "capability": "postcopy-ram", "state": true }] })
}

/// Migrates as a post-copy. It is begun, and the guest stands still at its source.
fn begin(guest: &QemuGuest, target: &QemuGuest) -> Result<()> {
    for qemu in [guest, target] {
        // It needs userfaultfd(2) of the kernel.
        (qemu.qmp()).execute("migrate-set-capabilities", post_copy())?;
    }
    let slow = MigrateOptions {
        bandwidth: SLOW[0],
        ..MigrateOptions::default()
    };
    let mark = guest.qmp().mark();
    guest.start_migration(target, &slow)?;
    let active = |event: &lictor_lab::Event| event.status() == Some("active");
    guest.qmp().wait(mark, LIMIT, active)?;
    bandwidth(guest, SLOW[1])?;
    guest.qmp().execute("migrate-start-postcopy", json!({}))?;
    let over = |event: &lictor_lab::Event| event.status() == Some("postcopy-active");
    guest.qmp().wait(mark, LIMIT, over).map(drop)
}

/// Zero is without a limit.
fn bandwidth(guest: &QemuGuest, limit: u64) -> Result<()> {
    let parameters = json!({ "max-postcopy-bandwidth": limit });
    let set = guest.qmp().execute("migrate-set-parameters", parameters);
    set.map(drop)
}

/// How its migration is, as the source's QEMU says.
fn status(guest: &QemuGuest) -> Result<String> {
    let query = guest.qmp().execute("query-migrate", json!({}))?;
    Ok(query["status"].as_str().unwrap_or_default().to_owned())
}

fn heard(capture: &Capture) -> usize {
    let frames = capture.from_mac(DB.mac()).into_iter();
    frames.filter(|one| one.way == Way::Received).count()
}

/// It comes from a host where no agent is, and another that may have it is silent.
#[test]
fn a_guest_that_comes_as_a_post_copy_is_heard_when_every_host_has_said_that_it_is_not_its_own()
-> Result<()> {
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
    let capture = Capture::start(site.lab().fabric(), &b.host().fabric_port())?;
    a.pause()?;
    begin(&db, &target)?;
    // It runs, and pulls its memory: what it says ends in hold.
    wait_for(b, &DB, |one| one.running == Some(true))?;
    wait_for(b, &DB, |one| one.vnics[0].judged[0] > 0)?;
    let one = b.guest(DB.name)?.context("it runs on b")?;
    assert_eq!((one.custody, one.vnics[0].state), (0, VnicState::Hold));
    assert_eq!(one.vnics[0].allowed, [0, 0], "{one:?}");
    assert_eq!(
        (heard(&capture), status(&db)?.as_str()),
        (0, "postcopy-active")
    );
    a.go_on()?;
    wait_for(b, &DB, |one| {
        (one.custody, one.vnics[0].state) == (1, VnicState::Open)
    })
    .with_context(|| b.log())?;
    bandwidth(&db, 0)?;
    let _stream = hold_stream(&web, DB.address())?;
    assert!(heard(&capture) > 0);
    wait_body(b, |body| {
        matches!(body, Body::GuestPlaced { guest, by: PlacedBy::Found, .. }
            if guest.as_str() == DB.name)
    })
}

/// Nobody ends it, because its agent is dead: its target does not take it.
#[test]
fn a_guest_whose_agent_is_dead_does_not_run_where_a_post_copy_brings_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    let target = receive(world.b(), &DB)?;
    world.site.kill_agent("a")?;
    begin(&world.db, &target)?;
    wait::until("a target that does not take it", LIMIT, || {
        Ok(target.qmp().closed().then_some(()))
    })?;
    wait::until("a source that knows", LIMIT, || {
        Ok((status(&world.db)? == "postcopy-paused").then_some(()))
    })?;
    assert_eq!(state(world.b(), &DB)?, (0, VnicState::Hold));
    drop(target);
    // QEMU lets it go on nowhere after that. Nothing of ours keeps it from being started again.
    world.site.start_agent("a")?;
    wait_for(world.a(), &DB, |one| one.running == Some(false))?;
    world.db.process().kill()?;
    fabric.forwarded_in_turn(&DB, &["a"]);
    let World {
        _watched: watched,
        db,
        web,
        site,
        ..
    } = world;
    drop(db);
    let _db = boot(site.agent("a")?, &DB, &SERVICES)?;
    let _stream = hold_stream(&web, DB.address())?;
    // It reads what hosts have on their disks.
    drop(watched);
    Ok(())
}
