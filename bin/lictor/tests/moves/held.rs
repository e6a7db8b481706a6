//! A move of a real guest that is held at one stage: agents and QEMUs that stand still, so that
//! nothing goes on by itself until a fault has struck.

use super::*;
use lictor_agent::moves::stage::Stage;
use lictor_lab::site::PEER_PORT;
use lictor_lab::{Host, Tripwire};
use lictor_types::{GuestId, HostId};
use lictor_wire::local::Request;
use std::os::unix::net::UnixStream;

/// Signals of Linux on x86.
const STOP: i32 = 19;
const CONTINUE: i32 = 18;

/// A move that is under way, as whoever began it has it in hand.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) target: Option<QemuGuest>,
    /// The source's agent is to answer here.
    pub(super) asked: Option<UnixStream>,
    /// QEMU migrates, or has.
    pub(super) started: bool,
}

impl Held {
    fn of(target: QemuGuest) -> Self {
        Self {
            target: Some(target),
            ..Self::default()
        }
    }

    fn target(&mut self) -> Result<&mut QemuGuest> {
        self.target.as_mut().context("a QEMU at the target")
    }
}

/// The guest at its source, and where it is to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) db: &'a QemuGuest,
    pub(super) from: &'a Agent,
    pub(super) to: &'a Agent,
}

impl Way<'_> {
    /// Brings a move to this stage, and no further. One that has met a deadline on the way, as on a
    /// busy machine, has not come there.
    pub(super) fn bring(&self, stage: Stage) -> Result<(Held, bool)> {
        match stage {
            Stage::Asked => self.asked(),
            Stage::Admitted => self.admitted(),
            Stage::Held => self.hold(),
            Stage::Copying => self.copying(),
            Stage::Copied => self.copied(),
            Stage::Stopped => self.stopped(),
            Stage::Fenced => self.fenced(),
            Stage::Loading => self.loading(),
            Stage::Asking => self.asking(),
            Stage::Granted => self.granted(),
            Stage::Opening => self.opening(),
            Stage::Opened => self.opened(),
            Stage::Runs => self.runs(),
            Stage::Recorded => self.recorded(),
        }
    }

    /// The target does not answer as long as it stands still.
    fn asked(&self) -> Result<(Held, bool)> {
        self.to.pause()?;
        let request = Request::MoveAdmit {
            guest: GuestId::new(DB.name)?,
            target: HostId::new(self.to.name())?,
            asked_by: "the lab".into(),
        };
        let mut stream = UnixStream::connect(self.from.socket())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(&[serde_json::to_vec(&request)?, b"\n".to_vec()].concat())?;
        wait::until("a move that is asked for", LIMIT, || {
            // Of the first one nothing is known before it begins.
            let phase = self.from.move_status(DB.name).map(|status| status.phase);
            Ok(matches!(phase, Ok(MovePhase::Admitted)).then_some(()))
        })?;
        let held = Held {
            asked: Some(stream),
            ..Held::default()
        };
        Ok((held, true))
    }

    fn admitted(&self) -> Result<(Held, bool)> {
        super::admitted(self.from, &DB, self.to.name())?;
        Ok((Held::default(), true))
    }

    /// The source's agent stands still, and what the target's has said waits for it.
    fn hold(&self) -> Result<(Held, bool)> {
        self.admitted()?;
        let before = unread(self.from, self.to.host())?;
        self.from.pause()?;
        let held = Held::of(receive(self.to, &DB)?);
        self.waits_for(self.from, self.to.host(), before)?;
        Ok((held, true))
    }

    /// The target's agent takes nothing in.
    fn copying(&self) -> Result<(Held, bool)> {
        let (held, _) = self.hold()?;
        self.to.pause()?;
        self.from.go_on()?;
        self.phase(&[MovePhase::Copying])?;
        Ok((held, true))
    }

    fn copied(&self) -> Result<(Held, bool)> {
        self.admitted()?;
        let held = Held::of(receive(self.to, &DB)?);
        self.phase(&[MovePhase::Copied])?;
        Ok((held, true))
    }

    fn stopped(&self) -> Result<(Held, bool)> {
        let (mut held, _) = self.copied()?;
        let options = MigrateOptions {
            pause_before_switchover: true,
            ..MigrateOptions::default()
        };
        let mark = self.db.qmp().mark();
        self.db.start_migration(held.target()?, &options)?;
        held.started = true;
        let stopped = |event: &lictor_lab::Event| event.status() == Some("pre-switchover");
        self.db.qmp().wait(mark, LIMIT, stopped)?;
        Ok((held, true))
    }

    /// The target's QEMU reads nothing: what the source's has written waits in the kernel.
    fn fenced(&self) -> Result<(Held, bool)> {
        let (mut held, _) = self.stopped()?;
        held.target()?.process().signal(STOP)?;
        let go = json!({ "state": "pre-switchover" });
        self.db.qmp().execute("migrate-continue", go)?;
        let phase = self.phase(&[MovePhase::Fenced, MovePhase::Aborted])?;
        Ok((held, phase == MovePhase::Fenced))
    }

    /// The target's QEMU has asked its agent, which has not read it.
    fn loading(&self) -> Result<(Held, bool)> {
        let (mut held, reached) = self.fenced()?;
        self.to.pause()?;
        held.target()?.process().signal(CONTINUE)?;
        if reached {
            wait::until("a Load() that nobody has read", LIMIT, || {
                Ok(load_waits(self.to)?.then_some(()))
            })?;
        }
        Ok((held, reached))
    }

    /// The target's agent has asked the source's, which has not read it.
    fn asking(&self) -> Result<(Held, bool)> {
        let (mut held, reached) = self.fenced()?;
        self.from.pause()?;
        let before = unread(self.from, self.to.host())?;
        held.target()?.process().signal(CONTINUE)?;
        self.waits_for(self.from, self.to.host(), before)?;
        Ok((held, reached))
    }

    fn granted(&self) -> Result<(Held, bool)> {
        let (held, _) = self.asking()?;
        self.to.pause()?;
        self.from.go_on()?;
        let phase = self.phase(&[MovePhase::Committed, MovePhase::Aborted])?;
        Ok((held, phase == MovePhase::Committed))
    }

    /// The target's agent has kept what it needs to know of a guest that may run, and nothing else.
    fn opening(&self) -> Result<(Held, bool)> {
        let kept = opening_file(self.to);
        let wire = Tripwire::arm(self.to.pid()?, kept, LIMIT)?;
        let (mut held, reached) = self.fenced()?;
        if reached {
            held.target()?.process().signal(CONTINUE)?;
            wire.wait()?;
        }
        Ok((held, reached))
    }

    /// The target's QEMU does not let the guest run by itself.
    fn opened(&self) -> Result<(Held, bool)> {
        let (mut held, _) = self.copied()?;
        let target = held.target()?;
        target.qmp().execute("stop", json!({}))?;
        self.db
            .start_migration(target, &MigrateOptions::default())?;
        held.started = true;
        let phase = self.phase(&[MovePhase::Committed, MovePhase::Aborted])?;
        let reached = phase == MovePhase::Committed;
        if reached {
            wait_for(self.to, &DB, |one| one.vnics[0].state == VnicState::Open)?;
            self.db.ended()?;
        }
        Ok((held, reached))
    }

    /// The source's agent stands still.
    fn runs(&self) -> Result<(Held, bool)> {
        let (mut held, reached) = self.opened()?;
        if reached {
            self.from.pause()?;
            held.target()?.qmp().execute("cont", json!({}))?;
            wait_for(self.to, &DB, |one| {
                one.custody > 0 && one.running == Some(true)
            })?;
        }
        Ok((held, reached))
    }

    fn recorded(&self) -> Result<(Held, bool)> {
        let (held, _) = self.copied()?;
        let target = held.target.as_ref().context("a QEMU at the target")?;
        self.db
            .start_migration(target, &MigrateOptions::default())?;
        let phase = self.phase(&[MovePhase::Done, MovePhase::Aborted])?;
        let held = Held {
            started: true,
            ..held
        };
        Ok((held, phase == MovePhase::Done))
    }

    fn phase(&self, phases: &[MovePhase]) -> Result<MovePhase> {
        let status = self.from.wait_for_phase(DB.name, phases, LIMIT);
        Ok(status
            .with_context(|| format!("{}; {}", self.from.log(), self.to.log()))?
            .phase)
    }

    fn waits_for(&self, agent: &Agent, other: &Host, before: u64) -> Result<()> {
        wait::until("a word that nobody has read", LIMIT, || {
            Ok((unread(agent, other)? > before).then_some(()))
        })
    }
}

/// A QEMU whose guest leaves.
pub(super) trait Migrates {
    /// Waits until QEMU says that its migration has ended, in whichever way.
    fn ended(&self) -> Result<String>;
}

impl Migrates for QemuGuest {
    fn ended(&self) -> Result<String> {
        wait::until("the end of a migration", LIMIT, || {
            let query = self.qmp().execute("query-migrate", json!({}))?;
            let status = query["status"].as_str().unwrap_or_default().to_owned();
            let over = ["completed", "failed", "cancelled"].contains(&status.as_str());
            Ok(over.then_some(status))
        })
    }
}

/// Where a target's agent keeps what it needs to know if it is killed before the guest runs.
pub(super) fn opening_file(agent: &Agent) -> PathBuf {
    let file = format!("opening-{}.json", DB.name);
    agent.folder().join("run").join(file)
}

/// Lets everything go on that stands still.
pub(super) fn release(agents: &[&Agent], held: &mut Held) -> Result<()> {
    if let Some(target) = &mut held.target
        && target.process().ended()?.is_none()
    {
        target.process().signal(CONTINUE)?;
    }
    for agent in agents {
        if agent.pid().is_ok() {
            agent.go_on()?;
        }
    }
    Ok(())
}

/// Bytes of another host's agent that this one has not read.
pub(super) fn unread(agent: &Agent, other: &Host) -> Result<u64> {
    const ADDRESS: usize = 1;
    const REMOTE: usize = 2;
    const QUEUES: usize = 4;
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", agent.pid()?))?;
    // Addresses as the kernel has them, numbers of a little-endian machine.
    let other = u32::from_le_bytes(other.node().management().octets());
    let (other, port) = (format!("{other:08X}:"), format!(":{PEER_PORT:04X}"));
    let mut bytes = 0;
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [ours, theirs, queues] = [ADDRESS, REMOTE, QUEUES].map(|at| words[at]);
        if theirs.starts_with(&other) && (ours.ends_with(&port) || theirs.ends_with(&port)) {
            let queue = queues.split_once(':').context("two queues")?.1;
            bytes += u64::from_str_radix(queue, 16)?;
        }
    }
    Ok(bytes)
}

/// Whether QEMU has asked this agent something that it has not read.
fn load_waits(agent: &Agent) -> Result<bool> {
    const QUEUE: usize = 1;
    let mut ss = agent.host().node().command("ss");
    let output = ss.args(["-xnH", "state", "established"]).output()?;
    let folder = agent.folder().join("run").display().to_string();
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(lines.any(|words| {
        let ours = words.iter().any(|word| word.starts_with(&folder));
        ours && words.get(QUEUE).is_some_and(|bytes| *bytes != "0")
    }))
}
