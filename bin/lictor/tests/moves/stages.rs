//! Faults at stages of a move of real QEMUs: those at which a real QEMU can be held, one of each
//! kind. Every fault at every stage of the protocol is in `crates/agent/tests/never_open_twice`,
//! which holds both ends and lets anything happen in any order; here QEMU, kernel, disk and links
//! are what they are.

use super::*;
use lictor_agent::moves::stage::{Fault, Stage};
use lictor_lab::{Capture, Host, Way};

/// A fault, where it strikes, and all that must be true afterwards follows: the guest goes on at
/// its source, its stream is whole, the record says so, and the target keeps nothing of it.
const STAYS: [(Stage, Fault); 5] = [
    (Stage::Copied, Fault::FabricCut),
    (Stage::Fenced, Fault::TargetAgentKilled),
    (Stage::Fenced, Fault::TargetQemuKilled),
    (Stage::Loading, Fault::Cancelled),
    (Stage::Opened, Fault::TargetQemuKilled),
];

/// What hosts give to the fabric.
pub(super) struct Fabric(Vec<(String, Capture)>);

impl Fabric {
    /// Looks at hosts a and b.
    pub(super) fn watch(site: &Site) -> Result<Self> {
        let [a, b] = [site.agent("a")?, site.agent("b")?].map(Agent::host);
        Self::watch_hosts(site, &[a, b])
    }

    pub(super) fn watch_hosts(site: &Site, hosts: &[&Host]) -> Result<Self> {
        let begin = |host: &&Host| {
            let capture = Capture::start(site.lab().fabric(), &host.fabric_port())?;
            Ok((host.node().name().to_owned(), capture))
        };
        hosts.iter().map(begin).collect::<Result<_>>().map(Self)
    }

    /// The hosts that have forwarded frames which the guest itself has sent, in order. Each stands
    /// there once for a stay: two that forward at once stand there again and again.
    pub(super) fn stays_of(&self, guest: &Guest) -> Vec<&str> {
        let mut frames = Vec::new();
        for (host, capture) in &self.0 {
            assert_eq!(capture.missed(), 0, "frames that nobody looked at");
            let sent = capture.from_mac(guest.mac()).into_iter();
            let sent = sent.filter(|frame| frame.way == Way::Received);
            frames.extend(sent.map(|frame| (frame.wall, host.as_str())));
        }
        frames.sort_unstable();
        let mut hosts: Vec<_> = frames.into_iter().map(|(_, host)| host).collect();
        hosts.dedup();
        hosts
    }

    /// That no two hosts forwarded the guest's own frames: those that did, one after the other, are
    /// some of these in this order.
    pub(super) fn forwarded_in_turn(&self, guest: &Guest, order: &[&str]) {
        let found = self.stays_of(guest);
        let mut rest = order.iter();
        let in_turn = found.iter().all(|host| rest.any(|one| one == host));
        assert!(in_turn, "{found:?} forwarded, not in turn: {order:?}");
    }
}

impl World {
    fn link_of_b(&self, state: &str) -> Result<()> {
        let port = self.b().host().fabric_port().replacen('t', "m", 1);
        let fabric = self.site.lab().fabric();
        fabric.ip(&format!("link set {port} {state}")).map(drop)
    }

    /// Brings a move of db to b to this stage, and no further.
    fn bring(&self, stage: Stage) -> Result<QemuGuest> {
        admitted(self.a(), &DB, "b")?;
        let target = receive(self.b(), &DB)?;
        self.a()
            .wait_for_phase(DB.name, &[MovePhase::Copied], LIMIT)?;
        match stage {
            Stage::Copied => return Ok(target),
            // The target's agent says nothing, so that Load() waits for it.
            Stage::Fenced | Stage::Loading => self.b().pause()?,
            // The target's QEMU does not let the guest run by itself.
            Stage::Opened => drop(target.qmp().execute("stop", json!({}))?),
            other => bail!("no QEMU can be held at {other:?}"),
        }
        self.db
            .start_migration(&target, &MigrateOptions::default())?;
        let phase = if stage == Stage::Opened {
            MovePhase::Committed
        } else {
            MovePhase::Fenced
        };
        self.a().wait_for_phase(DB.name, &[phase], LIMIT)?;
        if stage == Stage::Opened {
            wait_for(self.b(), &DB, |one| one.vnics[0].state == VnicState::Open)?;
        }
        Ok(target)
    }

    fn strike(&mut self, fault: Fault, target: &mut QemuGuest) -> Result<()> {
        match fault {
            Fault::FabricCut => self.link_of_b("down"),
            Fault::TargetAgentKilled => self.site.restart_agent("b"),
            Fault::TargetQemuKilled => {
                target.process().kill()?;
                // Whether it was stopped or not.
                self.b().go_on()
            }
            Fault::Cancelled => {
                self.db.qmp().execute("migrate_cancel", json!({}))?;
                self.b().go_on()
            }
            Fault::ManagerKilled => self.site.kill_manager(),
            other => bail!("{other:?} is left to the exploration"),
        }
    }
}

#[test]
fn a_fault_at_a_stage_of_a_real_migration_leaves_the_guest_at_its_source() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    for (number, (stage, fault)) in (1..).zip(STAYS) {
        let case = format!("{fault:?} at {stage:?}");
        stays(&mut world, (stage, fault), number).with_context(|| {
            let logs = (world.a().log(), world.b().log());
            format!("{case}: {logs:?}")
        })?;
        fabric.forwarded_in_turn(&DB, &["a"]);
    }
    // Nothing of all that keeps it from moving.
    let _there = migrate(&world.db, world.a(), world.b())?;
    world.stream_goes_on()?;
    assert_eq!(fabric.stays_of(&DB).last(), Some(&"b"));
    Ok(())
}

fn stays(world: &mut World, (stage, fault): (Stage, Fault), number: usize) -> Result<()> {
    let mut target = world.bring(stage)?;
    world.strike(fault, &mut target)?;
    let aborted = [MovePhase::Aborted];
    if fault == Fault::FabricCut {
        // Whoever talks to the target finds that out; the next round does.
        world.a().wait_for_phase(DB.name, &aborted, LIMIT)?;
        world.link_of_b("up")?;
    }
    drop(target);
    if stage == Stage::Opened {
        // QEMU had completed; the management layer lets its guest go on.
        world.db.qmp().execute("cont", json!({}))?;
    }
    world.a().wait_for_phase(DB.name, &aborted, LIMIT)?;
    world.stream_goes_on()?;
    assert_eq!(state(world.a(), &DB)?.1, VnicState::Open);
    let records = wait_recorded(world.a(), number)?;
    assert_eq!(records.len(), number, "{records:?}");
    assert_eq!(records[number - 1].0.outcome, MoveOutcome::Aborted);
    wait::until("a target that has forgotten", LIMIT, || {
        let there = world.b().guest(DB.name)?;
        let vnics = there.into_iter().flat_map(|one| one.vnics);
        let left: u64 = vnics
            .map(|vnic| vnic.sessions + u64::from(vnic.state == VnicState::Open))
            .sum();
        Ok((left == 0).then_some(()))
    })
}

/// The same guest, there and back again and again. Each stay is an epoch of its own.
#[test]
fn a_guest_that_moves_again_and_again_keeps_its_stream() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let moves = if lictor_lab::full() { 20 } else { 4 };
    let mut world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    for number in 1..=moves {
        let hosts = if number % 2 == 1 {
            (world.a(), world.b())
        } else {
            (world.b(), world.a())
        };
        let there =
            migrate(&world.db, hosts.0, hosts.1).with_context(|| format!("move {number}"))?;
        assert_eq!(state(hosts.1, &DB)?, (number + 1, VnicState::Open));
        world.db = there;
        world.stream_goes_on()?;
    }
    let stays = fabric.stays_of(&DB);
    let most = usize::try_from(moves)? + 1;
    assert!(stays.contains(&"b") && stays.len() <= most, "{stays:?}");
    let records = wait_recorded(world.a(), usize::try_from(moves)?)?;
    assert!(records.iter().all(|(record, signatures)| {
        record.outcome == MoveOutcome::Committed && *signatures == 2
    }));
    Ok(())
}

#[test]
fn a_target_whose_agent_is_killed_before_the_guest_runs_there_completes_the_move() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let mut target = world.bring(Stage::Opened)?;
    world.strike(Fault::ManagerKilled, &mut target)?;
    world.strike(Fault::TargetAgentKilled, &mut target)?;
    assert_eq!(state(world.b(), &DB)?.1, VnicState::Open);
    target.qmp().execute("cont", json!({}))?;
    world
        .a()
        .wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)?;
    world.stream_goes_on()?;
    assert_eq!(state(world.b(), &DB)?, (2, VnicState::Open));
    let (at_a, at_b) = (wait_recorded(world.a(), 1)?, wait_recorded(world.b(), 1)?);
    assert_eq!(at_a, at_b, "both ends keep the same record");
    let (record, signatures) = &at_a[0];
    assert_eq!((record.outcome, *signatures), (MoveOutcome::Committed, 2));
    assert!(record.sessions.accepted >= 1, "{record:?}");
    assert!(
        record.counted.as_ref().is_some_and(|one| one.judged > 0),
        "{record:?}"
    );
    let kept = world.b().folder().join("run").join("opening-db.json");
    wait::until("nothing kept of the arrival", LIMIT, || {
        Ok((!kept.exists()).then_some(()))
    })
}
