//! What hosts forward while guests move, and moves in a row. Every fault at every stage is in
//! `product.rs`.

use super::held::Way as Moves;
use super::*;
use lictor_agent::moves::stage::Stage;
use lictor_lab::{Capture, Host, Way};

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

/// Looks at what a site's hosts give to the fabric of a guest, from a test's beginning to its end:
/// each host that forwards what the guest sends has said before that it is placed there.
pub(super) struct Watched {
    fabric: Fabric,
    evidence: Vec<PathBuf>,
    guest: Guest,
}

impl Watched {
    pub(super) fn begin(site: &Site, guest: &Guest) -> Result<Self> {
        let hosts: Vec<_> = site.agents().map(Agent::host).collect();
        Ok(Self {
            fabric: Fabric::watch_hosts(site, &hosts)?,
            evidence: site.agents().map(evidence_file).collect(),
            guest: *guest,
        })
    }

    /// How often the guest was placed somewhere, by hosts' own words.
    fn placed(&self) -> Result<usize> {
        let mut placed = 0;
        for file in &self.evidence {
            let bodies = evidence_in(file)?.into_iter();
            let here = |body: &Body| match body {
                Body::GuestPlaced { guest, .. } => guest.as_str() == self.guest.name,
                _ => false,
            };
            placed += bodies.filter(here).count();
        }
        Ok(placed)
    }

    fn in_turn(&self) -> Result<()> {
        let mut last = Default::default();
        wait::until("a placement for each stay", LIMIT, || {
            last = (self.fabric.stays_of(&self.guest).len(), self.placed()?);
            Ok((last.0 <= last.1).then_some(()))
        })
        .with_context(|| format!("hosts that forwarded in turn, and placements: {last:?}"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A test that has failed says why by itself.
        if !std::thread::panicking()
            && let Err(error) = self.in_turn()
        {
            panic!(
                "two hosts forwarded what {} sent: {error:#}",
                self.guest.name
            );
        }
    }
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
    let way = Moves {
        db: &world.db,
        from: world.a(),
        to: world.b(),
    };
    let held = way.bring(Stage::Opened)?.0;
    let target = held.target.context("a QEMU at the target")?;
    world.site.kill_manager()?;
    world.site.restart_agent("b")?;
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
