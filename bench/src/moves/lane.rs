//! A guest that goes to and fro between two hosts: with agents and without.

use super::world::{DB, LIMIT, PLAIN, SERVICES, open};
use anyhow::{Context, Result, bail, ensure};
use lictor_evidence::{Body, Entry, MoveRecord, recover};
use lictor_lab::site::{Agent, Arrival, Site};
use lictor_lab::{Capture, Host, MigrateOptions, QemuGuest, wait};
use lictor_wire::local::{MovePhase, Response};
use serde_json::json;
use std::net::IpAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How often a move is looked at while sessions are copied.
const LOOK: Duration = Duration::from_millis(5);

/// How long a guest is listened for where it should not be heard: one that is not cut has not
/// ended by then, and its goal is missed.
const LISTEN: Duration = Duration::from_secs(3);

/// Between hosts with agents.
pub(super) struct Guarded {
    guest: QemuGuest,
    /// Where the guest is, and where it goes next.
    hosts: [&'static str; 2],
    /// Records that were read.
    records: usize,
}

/// One move with Lictor.
pub(super) struct Moved {
    /// QEMU's own pause.
    pub(super) pause: Duration,
    /// From the first session sent to the last one taken in.
    pub(super) copy: Duration,
    /// What both agents signed.
    pub(super) record: MoveRecord,
}

impl Guarded {
    pub(super) fn boot(site: &Site) -> Result<Self> {
        let a = site.agent("a")?;
        let guest = a.host().boot(&DB.spec(&SERVICES), |vnic| {
            a.attach(vnic, &[IpAddr::V4(DB.address())], Arrival::Start)
                .map(drop)
        })?;
        guest.wait_up(LIMIT)?;
        open(a)?;
        wait::until("the interlock", LIMIT, || {
            let report = a.guest(DB.name)?;
            Ok(report.filter(|report| report.interlocked).map(drop))
        })?;
        Ok(Self {
            guest,
            hosts: ["a", "b"],
            records: 0,
        })
    }

    /// The agent of the host where the guest is.
    pub(super) fn here<'a>(&self, site: &'a Site) -> Result<&'a Agent> {
        site.agent(self.hosts[0])
    }

    /// Moves the guest to the other host. `before_stop` runs when everything was copied, right
    /// before QEMU is told to migrate.
    pub(super) fn go(
        &mut self,
        site: &Site,
        before_stop: impl FnOnce(&Agent) -> Result<()>,
    ) -> Result<Moved> {
        let [from, to] = self.hosts.map(|host| site.agent(host));
        let (from, to) = (from?, to?);
        match from.admit(DB.name, to.name())? {
            Response::Admitted { .. } => {}
            other => bail!("not admitted: {other:?}"),
        }
        let target = to.host().receive(&DB.spec(&SERVICES), |vnic| {
            to.attach(vnic, &[IpAddr::V4(DB.address())], Arrival::Incoming)
                .map(drop)
        })?;
        let copy = copied(from)?;
        before_stop(from)?;
        let report = self.guest.migrate_to(&target, &MigrateOptions::default())?;
        ensure!(report.status == "completed", "{report:?}; {}", from.log());
        from.wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)?;
        open(to)?;
        // The source's QEMU ends, and its tap goes.
        self.guest = target;
        self.hosts.reverse();
        self.records += 1;
        let record = self.record(to)?;
        let pause = report.pause.context("both ends told of it")?;
        Ok(Moved {
            pause,
            copy,
            record,
        })
    }

    /// Somebody takes the interlock out and moves the guest to a host without an agent. Gives for
    /// how long it was heard there; it runs nowhere afterwards.
    pub(super) fn goes_astray(self, site: &Site, there: &Host) -> Result<Duration> {
        let fabric = site.lab().fabric();
        let home = Capture::start(fabric, &self.here(site)?.host().fabric_port())?;
        let astray = Capture::start(fabric, &there.fabric_port())?;
        let heard = || Ok((!home.from_mac(DB.mac()).is_empty()).then_some(()));
        wait::until("a guest that is heard at home", LIMIT, heard)?;
        let interlock = json!({ "id": format!("lictor-{}", DB.name) });
        self.guest.qmp().execute("object-del", interlock)?;
        let target = there.receive(&DB.spec(&SERVICES), |_| Ok(()))?;
        let report = self.guest.migrate_to(&target, &MigrateOptions::default())?;
        ensure!(report.status == "completed", "{report:?}");
        let resume = target
            .qmp()
            .wait(0, LIMIT, |event| event.name == "RESUME")?;
        std::thread::sleep(LISTEN);
        let since = UNIX_EPOCH + resume.at;
        let frames = astray.from_mac(DB.mac()).into_iter();
        let times = frames.filter_map(|frame| frame.wall.duration_since(since).ok());
        Ok(times.max().unwrap_or_default())
    }

    /// The newest record at the target, with both signatures.
    fn record(&self, agent: &Agent) -> Result<MoveRecord> {
        wait::until("the move's record", LIMIT, || {
            let bytes = std::fs::read(agent.state_dir().join("evidence.log"))?;
            let mut records = Vec::new();
            for entry in recover(&bytes, None)?.entries {
                if let Body::MoveRecorded { record, .. } = Entry::from_bytes(&entry)?.body {
                    records.push(*record);
                }
            }
            Ok((records.len() >= self.records)
                .then(|| records.pop())
                .flatten())
        })
    }
}

/// Waits until the migration may begin. Gives the time since the copy began.
fn copied(from: &Agent) -> Result<Duration> {
    let (end, mut began) = (Instant::now() + LIMIT, Instant::now());
    loop {
        let status = from.move_status(DB.name)?;
        match status.phase {
            MovePhase::Admitted => began = Instant::now(),
            MovePhase::Copying => {}
            MovePhase::Copied => return Ok(began.elapsed()),
            phase => bail!("the move is {phase:?}: {:?}", status.cause),
        }
        ensure!(Instant::now() < end, "nothing was copied within {LIMIT:?}");
        std::thread::sleep(LOOK);
    }
}

/// Between hosts that know nothing of Lictor.
pub(super) struct Plain {
    guest: QemuGuest,
    hosts: [Host; 2],
}

impl Plain {
    pub(super) fn boot(site: &Site) -> Result<Self> {
        let hosts = [site.lab().host("c")?, site.lab().host("d")?];
        let guest = hosts[0].boot(&PLAIN.spec(&SERVICES), |_| Ok(()))?;
        guest.wait_up(LIMIT)?;
        Ok(Self { guest, hosts })
    }

    /// Moves the guest to the other host. Gives QEMU's own pause.
    pub(super) fn go(&mut self) -> Result<Duration> {
        let target = self.hosts[1].receive(&PLAIN.spec(&SERVICES), |_| Ok(()))?;
        let report = self.guest.migrate_to(&target, &MigrateOptions::default())?;
        ensure!(report.status == "completed", "{report:?}");
        self.guest = target;
        self.hosts.reverse();
        report.pause.context("both ends told of it")
    }
}
