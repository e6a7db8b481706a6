//! QEMUs that end, or are replaced, while a move is open that nobody would give up: the guest can
//! move again at once, and not only when the ticket has lapsed.

use super::before::check;
use super::held::unread;
use super::*;
use lictor_types::GuestId;
use lictor_wire::local::Request;

/// A signal of Linux on x86.
const STOP: i32 = 19;

/// The move is over at both ends, its record says why, and nothing speaks against the next one.
fn given_up(a: &Agent, part: &str) -> Result<()> {
    let status = a.wait_for_phase(DB.name, &[MovePhase::Aborted], LIMIT)?;
    let cause = status.cause.unwrap_or_default();
    assert!(cause.contains(part), "{cause}");
    let records = wait_recorded(a, 1)?;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].0.outcome, MoveOutcome::Aborted);
    Ok(())
}

fn may_move(a: &Agent) -> Result<()> {
    wait_for(a, &DB, |one| one.interlocked)?;
    assert_eq!(check(a, DB.name, "b")?.0, []);
    Ok(())
}

/// Its target has asked for the guest because a QEMU waited there, which has ended when the source
/// answers.
#[test]
fn a_move_that_was_found_ends_with_the_qemu_that_waited() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let (a, b) = (world.a(), world.b());
    let before = unread(a, b.host())?;
    a.pause()?;
    let target = receive(b, &DB)?;
    // It asks as soon as it knows that QEMU waits; what else it says may come before.
    wait::until("a question that nobody has read", LIMIT, || {
        let waits = |one: GuestReport| one.running == Some(false);
        let asked = b.guest(DB.name)?.is_some_and(waits);
        Ok((asked && unread(a, b.host())? > before).then_some(()))
    })?;
    drop(target);
    wait::until("a target that knows that its QEMU has ended", LIMIT, || {
        let ended = |one: &GuestReport| one.vnics.is_empty() && one.running.is_none();
        Ok(b.guest(DB.name)?.as_ref().is_none_or(ended).then_some(()))
    })?;
    a.go_on()?;
    wait::until("a move that has begun", LIMIT, || {
        Ok(a.move_status(DB.name).ok().map(drop))
    })?;
    given_up(a, "the QEMU that waited for the guest has ended")?;
    may_move(a)?;
    let _there = migrate(&world.db, a, b)?;
    world.stream_goes_on()
}

/// A hook has asked for the guest before its QEMU was made, and that did not come to live.
#[test]
fn a_move_that_a_hook_has_asked_for_ends_with_the_device_that_was_made_for_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let (a, b) = (world.a(), world.b());
    let guest = GuestId::new(DB.name)?;
    let answer = b.ask(&Request::MoveWanted { guest })?;
    assert!(matches!(answer, Response::Move(_)), "{answer:?}");
    let failed = b.host().receive(&DB.spec(&SERVICES), |vnic| {
        b.attach(vnic, &addresses(&DB), Arrival::Incoming)?;
        bail!("no QEMU is started")
    });
    assert!(failed.is_err(), "{failed:?}");
    given_up(a, "the guest did not come to run")?;
    may_move(a)?;
    let _there = migrate(&world.db, a, b)?;
    world.stream_goes_on()
}

/// QEMU lives, so that nothing but its device says that the guest is not here any more.
#[test]
fn a_guest_whose_last_device_goes_while_it_is_to_leave_does_not_leave() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let target = copied(world.a(), world.b())?;
    let device = &world.db.vnic().device;
    (world.a().host().netns()).ip(&format!("link del {device}"))?;
    given_up(world.a(), "its last device is gone")?;
    drop((target, world.db));
    let _again = boot(world.site.agent("a")?, &DB, &SERVICES)?;
    may_move(world.site.agent("a")?)
}

/// The earlier QEMU does not get to say that it has ended: it stands still, and its tap is another
/// one's.
#[test]
fn a_guest_whose_qemu_is_replaced_while_it_is_to_leave_does_not_leave() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let target = copied(world.a(), world.b())?;
    world.db.process().signal(STOP)?;
    let a = world.site.agent("a")?;
    a.pause()?;
    let device = &world.db.vnic().device;
    a.host().netns().ip(&format!("link del {device}"))?;
    let again = a.host().boot(&DB.spec(&SERVICES), |vnic| {
        a.go_on()?;
        a.attach(vnic, &addresses(&DB), Arrival::Start).map(drop)
    })?;
    given_up(a, "its QEMU was named anew")?;
    again.wait_up(LIMIT)?;
    drop(target);
    may_move(a)
}
