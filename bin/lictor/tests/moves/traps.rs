//! Twelve traps into which firewalls that move with their guests have fallen. Tests hold each, here
//! or where what they need is, each by its number in its name; the last one here holds that none
//! is missing.
//!
//! 1. Both ends on one host, either moves, both come back.
//! 2. One session or 200,000 take the same path, and what does not fit is counted.
//! 3. Many guests at once.
//! 4. A move that ends at any phase; every interleaving in `never_open_twice.rs`.
//! 5. The source forgets when the target has confirmed, and leaves the peer's half alone.
//! 6. A daemon that is killed, is upgraded, or hangs.
//! 7. A tap before its rules.
//! 8. One invalid rule.
//! 9. Somebody else flushes the hooks.
//! 10. A target without room, engine or version.
//! 11. Policy is narrowed while the guest is on its way.
//! 12. Numbers in the evidence are the kernel's.

use super::held::Way;
use super::stages::Fabric;
use super::*;
use lictor_agent::moves::stage::Stage;

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
    let fabric = Fabric::watch(&site)?;
    let [a, b] = ends(&site);
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
    for guest in [&DB, &WEB] {
        fabric.forwarded_in_turn(guest, &["a", "b", "a"]);
    }
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

/// Web stands beside db at the source, and the two talk all the time. After the target has opened,
/// and also when the guest runs there and its agent stands still, everything is kept.
#[test]
fn trap_5_a_source_forgets_when_its_target_has_confirmed_and_leaves_the_peers_half() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    let (a, b) = (world.a(), world.b());
    let way = Way {
        db: &world.db,
        from: a,
        to: b,
    };
    let target = way.bring(Stage::Opened)?.0.target;
    let target = target.context("a QEMU at the target")?;
    let kept = |when: &str| -> Result<()> {
        assert_eq!(state(a, &DB)?, (1, VnicState::HandedOver), "{when}");
        let both = (sessions(a, &DB)?, sessions(a, &WEB)?);
        assert!(both.0 >= 1 && both.1 >= 1, "{when}: {both:?}");
        Ok(())
    };
    kept("the target has opened")?;
    b.pause()?;
    target.qmp().execute("cont", json!({}))?;
    world.stream_goes_on()?;
    kept("the guest runs there, and nobody has said so")?;
    b.go_on()?;
    a.wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)?;
    assert_eq!(state(a, &DB)?, (0, VnicState::HandedOver));
    assert_eq!(sessions(a, &DB)?, 0);
    assert!(sessions(a, &WEB)? >= 1);
    world.stream_goes_on()?;
    fabric.forwarded_in_turn(&DB, &["a", "b"]);
    Ok(())
}

#[test]
fn trap_11_a_policy_that_is_narrowed_on_the_way_ends_the_move_and_then_the_session() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let target = copied(world.a(), world.b())?;
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

/// A guest of the tests of many at once: another database beside [`DB`].
const fn database(name: &'static str, number: u8) -> Guest {
    Guest {
        name,
        number,
        labels: DB.labels,
        vnics: 1,
    }
}

const DATABASES: [Guest; 8] = [
    DB,
    database("db1", 21),
    database("db2", 22),
    database("db3", 23),
    database("db4", 24),
    database("db5", 25),
    database("db6", 26),
    database("db7", 27),
];

/// Guests that move at once; each is a QEMU of its own at either end, which two cores feel.
fn at_once() -> &'static [Guest] {
    let count = if lictor_lab::full() { 8 } else { 3 };
    &DATABASES[..count]
}

/// What one of many guests that move at once is made of.
struct Mover {
    guest: &'static Guest,
    stream: CounterStream,
    here: QemuGuest,
    there: QemuGuest,
}

impl Mover {
    fn goes_on(&self, more: usize) -> Result<()> {
        let count = self.stream.log().report().count;
        let report = self.stream.log().wait_for(count + more, LIMIT);
        let report = report.with_context(|| self.guest.name)?;
        assert!(
            report.contiguous && report.ended.is_none(),
            "{}: {report:?}",
            self.guest.name
        );
        Ok(())
    }
}

/// Many guests leave one host for another at once. Each has a conversation of its own, and each
/// record says what this guest had: helpers that mixed two guests up would break both.
#[test]
fn trap_3_many_guests_move_at_once_and_none_gets_what_belongs_to_another() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let guests = at_once();
    let mut bound = vec![WEB];
    bound.extend_from_slice(guests);
    let site = site_of(&bound)?;
    let fabric = Fabric::watch(&site)?;
    let [a, b] = ends(&site);
    let web = plug_in(a, &WEB)?;
    let mut movers = Vec::new();
    for guest in guests {
        let here = boot(a, guest, &SERVICES)?;
        let stream = hold_stream(&web, guest.address())?;
        wait_for(a, guest, |one| one.interlocked)?;
        admitted(a, guest, b.name())?;
        let there = receive(b, guest)?;
        movers.push(Mover {
            guest,
            stream,
            here,
            there,
        });
    }
    for mover in &movers {
        a.wait_for_phase(mover.guest.name, &[MovePhase::Copied], LIMIT)?;
    }
    let options = MigrateOptions::default();
    let mut marks = Vec::new();
    for mover in &movers {
        marks.push(mover.here.qmp().mark());
        mover.here.start_migration(&mover.there, &options)?;
    }
    for (mover, mark) in movers.iter().zip(marks) {
        let report = mover.here.finish_migration(&mover.there, mark, &options)?;
        assert_eq!(
            report.status, "completed",
            "{}: {report:?}",
            mover.guest.name
        );
    }
    for mover in &movers {
        a.wait_for_phase(mover.guest.name, &[MovePhase::Done], LIMIT)?;
        mover.goes_on(50)?;
    }
    let records = wait_recorded(a, movers.len())?;
    let mut moved: Vec<&str> = records.iter().map(|(one, _)| one.guest.as_str()).collect();
    moved.sort_unstable();
    let mut wanted: Vec<&str> = guests.iter().map(|one| one.name).collect();
    wanted.sort_unstable();
    assert_eq!(moved, wanted);
    for (record, signatures) in &records {
        assert_eq!((record.outcome, *signatures), (MoveOutcome::Committed, 2));
        assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
        assert!(record.sessions.refused.is_empty(), "{record:?}");
        assert_eq!(record.unprotected_packets, Some(0), "{record:?}");
    }
    for guest in guests {
        fabric.forwarded_in_turn(guest, &["a", "b"]);
    }
    Ok(())
}

#[test]
fn every_trap_has_a_test_by_its_number() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = [
        "bin/lictor/tests",
        "crates/agent/tests",
        "crates/datapath/tests",
    ];
    let mut text = String::new();
    let mut left: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                left.push(entry?.path());
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(path)?);
        }
    }
    let missing: Vec<u8> = (1..=12)
        .filter(|number| !text.contains(&format!("fn trap_{number}_")))
        .collect();
    assert_eq!(missing, [0; 0], "traps without a test");
    Ok(())
}
