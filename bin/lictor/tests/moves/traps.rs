//! Twelve traps into which firewalls that move with their guests have fallen, and the test that
//! holds each. Those that are not in this file are where what they need is.
//!
//! 1. Both ends on one host, either moves, both come back: `trap_1`.
//! 2. One session or 200,000 take the same path: in part, `cargo xtask bench move` with 10 k to 1 M
//!    sessions, counted one by one.
//! 3. Many guests at once, helpers mixed up: not yet.
//! 4. A move that ends at any phase: `trap_4`; every interleaving in
//!    `crates/agent/tests/never_open_twice.rs`.
//! 5. The source waits for the target and leaves the peer's half alone: `trap_1`.
//! 6. A daemon that is killed: `bin/lictor/tests/agent.rs`,
//!    `no_packet_is_lost_or_unjudged_while_the_agent_dies_restarts_and_reloads`.
//! 7. A tap before its rules: `every_packet_that_a_device_carried_got_a_verdict` there.
//! 8. One invalid rule: `crates/datapath/tests/lifecycle.rs`,
//!    `what_was_loaded_is_read_back_and_what_does_not_fit_is_refused`.
//! 9. Somebody else flushes the hooks: `crates/agent/tests/host.rs`,
//!    `a_hook_that_somebody_removed_is_put_back_and_each_time_is_recorded`.
//! 10. A target without engine or version: `crates/agent/tests/admission.rs`,
//!     `each_reason_is_found`.
//! 11. Policy is narrowed while the guest is on its way: `trap_11`.
//! 12. Numbers in the evidence are the kernel's:
//!     `a_live_session_follows_the_guest_to_another_host_and_back`.

use super::*;

/// Sessions of a guest's vnic, as its host's kernel has them.
fn sessions(agent: &Agent, guest: &Guest) -> Result<u64> {
    let report = agent.guest(guest.name)?.context("it is attached here")?;
    Ok(report.vnics[0].sessions)
}

/// Moves a guest that runs these services and returns its new QEMU.
fn move_guest(
    (guest, services): (&Guest, &[Service]),
    qemu: &QemuGuest,
    (from, to): (&Agent, &Agent),
) -> Result<QemuGuest> {
    admitted(from, guest, to.name())?;
    let target = to.host().receive(&guest.spec(services), |vnic| {
        to.attach(vnic, &addresses(guest), Arrival::Incoming)
            .map(drop)
    })?;
    from.wait_for_phase(guest.name, &[MovePhase::Copied], LIMIT)?;
    let report = qemu.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    from.wait_for_phase(guest.name, &[MovePhase::Done], LIMIT)?;
    wait_for(to, guest, |one| one.vnics[0].state == VnicState::Open)?;
    Ok(target)
}

#[test]
fn trap_1_either_end_of_a_conversation_on_one_host_moves_and_comes_back() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let site = site()?;
    let [a, b] = ["a", "b"].map(|host| site.agent(host).expect("made with the site"));
    let asks = [Service::Stream(SocketAddr::from((DB.address(), PG)))];
    let mut db = boot(a, &DB, &SERVICES)?;
    let mut web = boot(a, &WEB, &asks)?;
    for guest in [&DB, &WEB] {
        wait_for(a, guest, |one| one.interlocked)?;
    }
    let stream = web.stream().clone();
    let goes_on = |after: &str| -> Result<()> {
        let count = stream.report().count;
        let report = stream
            .wait_for(count + 50, LIMIT)
            .context(after.to_owned())?;
        assert!(report.contiguous, "{after}: {report:?}");
        Ok(())
    };
    goes_on("both on a")?;
    web = move_guest((&WEB, &asks), &web, (a, b))?;
    goes_on("the one that asks has left")?;
    // Its peer's half is the peer's.
    assert!(sessions(a, &DB)? >= 1);
    db = move_guest((&DB, &SERVICES), &db, (a, b))?;
    goes_on("both on b")?;
    db = move_guest((&DB, &SERVICES), &db, (b, a))?;
    goes_on("the one that answers is back")?;
    assert!(sessions(b, &WEB)? >= 1);
    web = move_guest((&WEB, &asks), &web, (b, a))?;
    goes_on("both are back")?;
    drop((db, web));
    Ok(())
}

/// How a move is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By the management layer, when the ticket is signed.
    AbandonedAdmitted,
    /// By the management layer, when everything is copied.
    AbandonedCopied,
    /// The target's QEMU is killed when everything is copied.
    TargetKilledCopied,
    /// By QEMU's own command, when the guest is stopped and not saved yet.
    CancelledStopped,
    /// The target's QEMU is killed when the guest is stopped and not saved yet.
    TargetKilledStopped,
}

impl End {
    const ALL: [Self; 5] = [
        Self::AbandonedAdmitted,
        Self::AbandonedCopied,
        Self::TargetKilledCopied,
        Self::CancelledStopped,
        Self::TargetKilledStopped,
    ];

    const fn stopped(self) -> bool {
        matches!(self, Self::CancelledStopped | Self::TargetKilledStopped)
    }
}

fn abandon(agent: &Agent) -> Result<()> {
    let guest = lictor_types::GuestId::new(DB.name)?;
    let answer = agent.ask(&lictor_wire::local::Request::MoveAbandon { guest })?;
    assert_eq!(answer, Response::Abandoned);
    Ok(())
}

/// Begins a move and ends it like that. The target's QEMU is gone afterwards.
fn ended(world: &World, end: End) -> Result<()> {
    admitted(world.a(), &DB, "b")?;
    if end == End::AbandonedAdmitted {
        return abandon(world.a());
    }
    let mut target = receive(world.b(), &DB)?;
    world
        .a()
        .wait_for_phase(DB.name, &[MovePhase::Copied], LIMIT)?;
    if end.stopped() {
        let options = MigrateOptions {
            pause_before_switchover: true,
            ..MigrateOptions::default()
        };
        let mark = world.db.qmp().mark();
        world.db.start_migration(&target, &options)?;
        let stopped = |event: &lictor_lab::Event| event.status() == Some("pre-switchover");
        world.db.qmp().wait(mark, LIMIT, stopped)?;
    }
    match end {
        End::AbandonedAdmitted => {}
        End::AbandonedCopied => abandon(world.a())?,
        End::TargetKilledCopied => target.process().kill()?,
        End::CancelledStopped => drop(world.db.qmp().execute("migrate_cancel", json!({}))?),
        End::TargetKilledStopped => {
            target.process().kill()?;
            let go = json!({ "state": "pre-switchover" });
            // QEMU may have seen by itself that nobody is there any more.
            drop(world.db.qmp().execute("migrate-continue", go));
        }
    }
    drop(target);
    Ok(())
}

#[test]
fn trap_4_a_move_that_ends_at_any_phase_leaves_the_source_its_state_and_the_target_none()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    for (number, end) in (1..).zip(End::ALL) {
        ended(&world, end).with_context(|| format!("{end:?}"))?;
        world
            .a()
            .wait_for_phase(DB.name, &[MovePhase::Aborted], LIMIT)
            .with_context(|| format!("{end:?}: {}", world.a().log()))?;
        world.stream_goes_on().with_context(|| format!("{end:?}"))?;
        assert_eq!(state(world.a(), &DB)?.1, VnicState::Open, "{end:?}");
        let records = wait_recorded(world.a(), number)?;
        assert_eq!(records.len(), number, "{end:?}: {records:?}");
        let last = &records[number - 1].0;
        assert_eq!(last.outcome, MoveOutcome::Aborted, "{end:?}");
        wait::until("a target that has forgotten", LIMIT, || {
            let there = world.b().guest(DB.name)?;
            let vnics = there.into_iter().flat_map(|one| one.vnics);
            let left: u64 = vnics
                .map(|vnic| vnic.sessions + u64::from(vnic.state == VnicState::Open))
                .sum();
            Ok((left == 0).then_some(()))
        })
        .with_context(|| format!("{end:?}"))?;
    }
    let _there = migrate(&world.db, world.a(), world.b())?;
    world.stream_goes_on()
}

#[test]
fn trap_11_a_policy_that_is_narrowed_on_the_way_ends_the_move_and_then_the_session() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    admitted(world.a(), &DB, "b")?;
    let target = receive(world.b(), &DB)?;
    world
        .a()
        .wait_for_phase(DB.name, &[MovePhase::Copied], LIMIT)?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pci/policy.lictor");
    let text = std::fs::read_to_string(example)?;
    let narrow = text.replacen("service pg     = tcp/5432", "service pg     = tcp/5433", 1);
    assert_ne!(text, narrow);
    let policy = world.site.people.author.dir().join("narrow.lictor");
    std::fs::write(&policy, narrow)?;
    let draft = Draft::compile(&world.site, &policy, 2, &[WEB, DB, BATCH])?;
    let release = draft.sign(&world.site, Signed::ByBoth)?;
    world.site.publish(&release)?.done()?;
    world
        .a()
        .wait_for_phase(DB.name, &[MovePhase::Aborted], LIMIT)?;
    drop(target);
    // What was admitted by a rule that is no more ends with its next packet, here and there.
    let quiet = Duration::from_secs(2);
    let silent = || -> Result<()> {
        wait::until("a stream that has ended", LIMIT, || {
            let report = world.stream.log().report();
            Ok(report.silent.filter(|silent| *silent > quiet).map(drop))
        })
    };
    silent()?;
    let count = world.stream.log().report().count;
    wait::until("the narrow release on both hosts", LIMIT, || {
        let mut generations = Vec::new();
        for agent in world.site.agents() {
            generations.push(agent.status()?.generation.0);
        }
        Ok((generations == [2, 2]).then_some(()))
    })?;
    let _there = migrate(&world.db, world.a(), world.b())?;
    silent()?;
    assert_eq!(world.stream.log().report().count, count);
    Ok(())
}
