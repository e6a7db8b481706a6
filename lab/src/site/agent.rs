//! An agent as a process on a host, and what may be asked on its socket.

use super::manager::log_of;
use super::{Manager, Programs, command};
use crate::host::Host;
use crate::{Process, Vnic, wait};
use anyhow::{Context, Result, bail};
use lictor_types::{GuestId, HostId, VnicName};
use lictor_wire::api::{GuestReport, HostReport, Role};
use lictor_wire::local::{Attach, Attached, MovePhase, MoveStatus, Request, Response, SOCKET};
use nix::sys::signal::Signal;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// The port on which agents listen for each other.
pub const PEER_PORT: u16 = 7443;
/// How often an agent of a site fetches, reads back and reports, in milliseconds.
const ROUND_MS: u64 = 200;
/// What `sd_notify(3)` says of a service that is ready.
const READY: &[u8] = b"READY=1";
const LIMIT: Duration = Duration::from_secs(20);

/// How a guest comes to its vnic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It starts on this host.
    Start,
    /// It migrates in from another host.
    Incoming,
}

/// An agent's directory on its host, and its process while it runs.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    program: PathBuf,
    process: Option<Process>,
    /// Further lines of its configuration.
    more: String,
    /// The newest format that it speaks with others, if it is an older one.
    format: Option<u32>,
}

impl Agent {
    /// An agent with a directory of its own on this host; nothing is written yet.
    #[must_use]
    pub fn new(host: &Host, programs: &Programs) -> Self {
        Self {
            host: host.clone(),
            program: programs.lictor.clone(),
            process: None,
            more: String::new(),
            format: None,
        }
    }

    /// Makes it an agent that knows no newer format than this, or one of this version. Counts from
    /// its next configuration on.
    pub const fn speak(&mut self, format: Option<u32>) {
        self.format = format;
    }

    /// Whether the guests' QEMUs will run as somebody else than root: as a member of this group.
    #[must_use]
    pub fn with_qemu_group(self, group: &str) -> Self {
        self.with_line(&format!("qemu_group = \"{group}\""))
    }

    /// A further line of its configuration.
    #[must_use]
    pub fn with_line(mut self, line: &str) -> Self {
        self.more.push_str(line);
        self.more.push('\n');
        self
    }

    /// Writes the configuration file; `manager` is the URL to report to, if any.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, manager: Option<&str>) -> Result<()> {
        let folder = self.folder();
        std::fs::create_dir_all(&folder)?;
        let manager = manager.map_or_else(String::new, |url| format!("manager = \"{url}\"\n"));
        let format = self.format;
        let format = format.map_or_else(String::new, |format| format!("peer_format = {format}\n"));
        let text = format!(
            "host = \"{}\"\nstate_dir = \"{state}\"\nrun_dir = \"{run}\"\npin_root = \"{pins}\"\n\
             peer = \"{}:{PEER_PORT}\"\nround_ms = {ROUND_MS}\n{manager}{format}{more}",
            self.name(),
            self.host.node().management(),
            state = self.state_dir().display(),
            run = folder.join("run").display(),
            pins = self.host.node().bpffs().display(),
            more = self.more,
        );
        std::fs::write(self.config(), text)?;
        Ok(())
    }

    /// Enrols this host at a manager with a one-time token of it.
    ///
    /// # Errors
    /// A command fails.
    pub fn enrol(&self, manager: &Manager) -> Result<()> {
        self.configure(Some(&manager.url()))?;
        let token = manager.token(Role::Agent, self.name())?;
        let mut enroll = self.host.node().command(&self.program.to_string_lossy());
        enroll
            .args(["agent", "enroll", "--config"])
            .arg(self.config())
            .arg("--authority")
            .arg(manager.authority())
            .args(["--token", &token]);
        command::output(enroll).map(drop)
    }

    /// Starts the agent and waits until it says, as to a service manager, that it is ready. From
    /// then on it answers on its socket.
    ///
    /// # Errors
    /// It ends or does not answer in time; its own words are in the error.
    pub fn start(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.log_file())?;
        let mut run = self.host.node().command(&self.program.to_string_lossy());
        let notify = self.folder().join("notify.sock");
        match std::fs::remove_file(&notify) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let manager = UnixDatagram::bind(&notify)?;
        manager.set_nonblocking(true)?;
        run.args(["agent", "run", "--config"])
            .arg(self.config())
            .env("NOTIFY_SOCKET", &notify)
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = Process::start("the agent", run)?;
        let mut word = [0; 64];
        wait::until("an agent that is ready", LIMIT, || {
            if let Some(status) = process.ended()? {
                bail!("the agent ended with {status}: {}", self.log());
            }
            let ready = manager
                .recv(&mut word)
                .is_ok_and(|length| word[..length] == *READY);
            Ok(ready.then_some(()))
        })?;
        self.status()?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the agent at once. What it has put into the kernel stays.
    ///
    /// # Errors
    /// The kernel does not know the process any more.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// Lets its process stand still: it lives, and does nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets its process go on, whether it stood still or not.
    ///
    /// # Errors
    /// It does not run.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref();
        let process = process.with_context(|| format!("no agent runs on {}", self.name()))?;
        process.signal(signal as i32)
    }

    /// The id of its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let process = self.process.as_ref();
        process
            .map(Process::pid)
            .with_context(|| format!("the agent of {} does not run", self.name()))
    }

    /// The host that it runs on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The host's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.node().name()
    }

    /// The folder of its configuration, state and socket.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.host.node().folder().join("agent")
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder().join("agent.toml")
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("run").join(SOCKET)
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("agent.log")
    }

    /// What the process has said.
    #[must_use]
    pub fn log(&self) -> String {
        log_of(&self.log_file())
    }

    /// Asks one thing on the agent's socket.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn ask(&self, request: &Request) -> Result<Response> {
        let path = self.socket();
        let mut stream = UnixStream::connect(&path)
            .with_context(|| format!("no agent answers on {}", path.display()))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        serde_json::from_str(&answer)
            .with_context(|| format!("the agent of {} answers {answer:?}", self.name()))
    }

    /// Everything about the host.
    ///
    /// # Errors
    /// The agent does not answer, or says an error.
    pub fn status(&self) -> Result<HostReport> {
        match self.ask(&Request::Status)? {
            Response::Status(report) => Ok(*report),
            other => bail!("{} gives no status: {other:?}", self.name()),
        }
    }

    /// What the agent says of one guest, if it is known there.
    ///
    /// # Errors
    /// As for [`Agent::status`].
    pub fn guest(&self, guest: &str) -> Result<Option<GuestReport>> {
        let mut guests = self.status()?.guests.into_iter();
        Ok(guests.find(|report| report.guest.as_str() == guest))
    }

    /// Attaches to a device before it can carry traffic.
    ///
    /// # Errors
    /// The agent refuses; its words are in the error.
    pub fn attach(&self, vnic: &Vnic, addresses: &[IpAddr], arrival: Arrival) -> Result<Attached> {
        let request = Request::Attach(Attach {
            device: vnic.device.clone(),
            name: Some(vnic_name(&vnic.guest, vnic.number)?),
            qmp: vnic.qmp.clone(),
            addresses: addresses.to_vec(),
            more: Vec::new(),
            incoming: arrival == Arrival::Incoming,
        });
        match self.ask(&request)? {
            Response::Attached(attached) => Ok(attached),
            other => bail!("{} does not attach {}: {other:?}", self.name(), vnic.guest),
        }
    }

    /// Asks the agent of the source to admit a move.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn admit(&self, guest: &str, target: &str) -> Result<Response> {
        self.ask(&Request::MoveAdmit {
            guest: GuestId::new(guest)?,
            target: HostId::new(target)?,
            asked_by: "the lab".into(),
        })
    }

    /// How far a move of this guest is.
    ///
    /// # Errors
    /// The agent knows of none.
    pub fn move_status(&self, guest: &str) -> Result<MoveStatus> {
        let guest = GuestId::new(guest)?;
        match self.ask(&Request::MoveStatus { guest })? {
            Response::Move(status) => Ok(status),
            other => bail!("{} knows of no move: {other:?}", self.name()),
        }
    }

    /// Waits until a move has come to one of these phases.
    ///
    /// # Errors
    /// It has not in time.
    pub fn wait_for_phase(
        &self,
        guest: &str,
        phases: &[MovePhase],
        limit: Duration,
    ) -> Result<MoveStatus> {
        let mut last = None;
        wait::until("a phase of the move", limit, || {
            let status = self.move_status(guest)?;
            let there = phases.contains(&status.phase);
            last = Some(status.clone());
            Ok(there.then_some(status))
        })
        .with_context(|| format!("{guest} on its way to one of {phases:?}; last seen: {last:?}"))
    }
}

/// The name of one of a guest's vnics, the same on every host.
///
/// # Errors
/// The guest's name is too long for it.
pub fn vnic_name(guest: &str, number: usize) -> Result<VnicName> {
    Ok(VnicName::new(format!("{guest}-{number}"))?)
}
