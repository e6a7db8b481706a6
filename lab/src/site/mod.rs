//! A site: a lab in which the real manager and the real agents run as processes, and people with
//! keys and certificates of their own make releases and bindings. The demo and the tests of whole
//! flows share it.

mod agent;
pub mod command;
mod manager;
pub mod pci;
mod people;
mod release;

pub use agent::{Agent, Arrival, PEER_PORT, vnic_name};
pub use manager::{Manager, PORT};
pub use people::{Answer, Person};
pub use release::{Draft, Guest, Keys, Signed, key, key_file, read_key};

use crate::host::{Host, Lab, Node};
use crate::libvirt::{self, Libvirt};
use crate::wait;
use anyhow::{Context, Result};
use lictor_evidence::Entry;
use lictor_types::DeploymentId;
use lictor_wire::api::Role;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The project's own programs, as they were built.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The `lictor` command.
    pub lictor: PathBuf,
    /// The assessor's `lictor-verify` command.
    pub verify: PathBuf,
}

/// Everybody who calls the manager, one for each role that a site needs.
#[derive(Debug)]
pub struct People {
    /// Writes and publishes releases.
    pub author: Person,
    /// Approves releases.
    pub approver: Person,
    /// Publishes bindings.
    pub owner: Person,
    /// Reads evidence.
    pub auditor: Person,
    /// Reports placements.
    pub connector: Person,
}

/// A running site. Its processes end when it drops, and everything else with its lab.
#[derive(Debug)]
pub struct Site {
    /// Who calls the manager.
    pub people: People,
    /// Who signs.
    pub keys: Keys,
    agents: BTreeMap<String, Agent>,
    manager: Manager,
    programs: Programs,
    deployment: DeploymentId,
    evidence: Mutex<Vec<Entry>>,
    lab: Lab,
}

/// Entries that a site reads; more would be no lab any more.
const ENTRIES_MAX: usize = 1 << 20;
/// How long an agent may take to report for the first time.
const LIMIT: Duration = Duration::from_secs(60);
/// Entries that one call asks for; the manager may give fewer and is asked again.
const ENTRIES_PER_CALL: u64 = 1_000;

impl Site {
    /// Makes a lab with a manager, and enrols one person or connector for each role.
    ///
    /// # Errors
    /// The caller is not root, or one of the programs fails.
    pub fn new(programs: Programs, deployment: &str) -> Result<Self> {
        let deployment = DeploymentId::new(deployment)?;
        let lab = Lab::new()?;
        let desk = lab.node("desk")?;
        let keys = Keys::make(&desk, &programs)?;
        let public = |file| read_key(file).map(|key| key.verify_key());
        let (author, approver) = (public(&keys.author)?, public(&keys.approver)?);
        let node = lab.node("manager")?;
        let mut manager = Manager::init(node, &programs, &deployment, (&author, &approver))?;
        manager.start()?;
        let enrol = |role, name: &str, key: Option<&PathBuf>| {
            let key = key.map(PathBuf::as_path);
            Person::enrol((&manager, &desk), &programs, (role, name), key)
        };
        let people = People {
            author: enrol(Role::PolicyAuthor, "ann", Some(&keys.author))?,
            approver: enrol(Role::PolicyApprover, "ben", Some(&keys.approver))?,
            owner: enrol(Role::ScopeOwner, "olga", Some(&keys.owner))?,
            auditor: enrol(Role::Auditor, "alex", None)?,
            connector: enrol(Role::Connector, "hypervisor", None)?,
        };
        Ok(Self {
            people,
            keys,
            agents: BTreeMap::new(),
            manager,
            programs,
            deployment,
            evidence: Mutex::default(),
            lab,
        })
    }

    /// Makes a host whose agent is enrolled, runs and has reported: only its first report brings
    /// its address into the roster. It enforces nothing before the release names it.
    ///
    /// # Errors
    /// The agent cannot be enrolled or does not start.
    pub fn protected_host(&mut self, name: &str) -> Result<Host> {
        self.protected_host_with(name, |agent| agent)
    }

    /// The same with an agent that is configured in another way.
    ///
    /// # Errors
    /// As for [`Site::protected_host`].
    pub fn protected_host_with(
        &mut self,
        name: &str,
        configured: impl FnOnce(Agent) -> Agent,
    ) -> Result<Host> {
        let host = self.lab.host(name)?;
        self.protect(name, configured(Agent::new(&host, &self.programs)))?;
        Ok(host)
    }

    /// The same with libvirt, and its hooks as `lictor host install` writes them.
    ///
    /// # Errors
    /// As for [`Site::protected_host`], or libvirt does not start.
    pub fn libvirt_host(&mut self, name: &str) -> Result<Libvirt> {
        let host = self.lab.host(name)?;
        let agent = Agent::new(&host, &self.programs).with_qemu_group(libvirt::QEMU_USER);
        let mut install = host.node().command(&self.programs.lictor.to_string_lossy());
        install
            .args(["host", "install", "--root"])
            .arg(host.libvirt_root())
            .arg("--program")
            .arg(&self.programs.lictor)
            .arg("--socket")
            .arg(agent.socket())
            .arg("--state")
            .arg(agent.state_dir());
        command::output(install)?;
        self.protect(name, agent)?;
        host.libvirt()
    }

    fn protect(&mut self, name: &str, mut agent: Agent) -> Result<()> {
        agent.enrol(&self.manager)?;
        agent.start()?;
        self.agents.insert(name.into(), agent);
        let author = &self.people.author;
        let entry = format!("host = \"{name}\"");
        wait::until("a host in the roster", LIMIT, || {
            let roster = author.types(&["host", "roster"])?;
            Ok(roster.contains(&entry).then_some(()))
        })
    }

    /// The agent of a protected host.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn agent(&self, host: &str) -> Result<&Agent> {
        self.agents
            .get(host)
            .with_context(|| format!("host {host} has no agent"))
    }

    /// Kills an agent at once.
    ///
    /// # Errors
    /// There is none on this host.
    pub fn kill_agent(&mut self, host: &str) -> Result<()> {
        let agent = self.agents.get_mut(host);
        agent
            .with_context(|| format!("host {host} has no agent"))?
            .kill()
    }

    /// Starts an agent that was killed.
    ///
    /// # Errors
    /// There is none on this host, or it does not start.
    pub fn start_agent(&mut self, host: &str) -> Result<()> {
        let agent = self.agents.get_mut(host);
        agent
            .with_context(|| format!("host {host} has no agent"))?
            .start()
    }

    /// Kills an agent at once and starts it again.
    ///
    /// # Errors
    /// There is none on this host, or it does not start.
    pub fn restart_agent(&mut self, host: &str) -> Result<()> {
        let agent = self.agents.get_mut(host);
        let agent = agent.with_context(|| format!("host {host} has no agent"))?;
        agent.kill()?;
        agent.start()
    }

    /// Kills an agent at once and starts another one in its place. It speaks no newer format than
    /// this one with the others, if one is given.
    ///
    /// # Errors
    /// There is none on this host, or it does not start.
    pub fn replace_agent(&mut self, host: &str, format: Option<u32>) -> Result<()> {
        let agent = self.agents.get_mut(host);
        let agent = agent.with_context(|| format!("host {host} has no agent"))?;
        agent.kill()?;
        agent.speak(format);
        agent.configure(Some(&self.manager.url()))?;
        agent.start()
    }

    /// Every agent.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// The manager.
    #[must_use]
    pub const fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Kills the manager at once. Nobody needs it for what was published already.
    ///
    /// # Errors
    /// The kernel does not know the process any more.
    pub fn kill_manager(&mut self) -> Result<()> {
        self.manager.kill()
    }

    /// Starts the manager that was killed.
    ///
    /// # Errors
    /// It does not listen in time.
    pub fn start_manager(&mut self) -> Result<()> {
        self.manager.start()
    }

    /// The project's programs.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The lab beneath.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The name of the installation.
    #[must_use]
    pub const fn deployment(&self) -> &DeploymentId {
        &self.deployment
    }

    /// Sends a release file to the manager, signed as it is.
    ///
    /// # Errors
    /// Nobody answers. A refusal is an answer.
    pub fn publish(&self, release: &Path) -> Result<Answer<()>> {
        let mut publish = self.people.author.lictor();
        publish.args(["policy", "publish"]).arg(release);
        let output = command::run(publish)?;
        Ok(match output.status.code() {
            Some(0) => Answer::Ok(()),
            _ => Answer::Refused(command::words(&output)),
        })
    }

    /// Publishes a guest's binding, signed by the scope's owner.
    ///
    /// # Errors
    /// The manager refuses it.
    pub fn bind(&self, guest: &Guest) -> Result<()> {
        self.bind_text(guest, &guest.toml("")?)
    }

    /// The same, with another quota of sessions than the usual one.
    ///
    /// # Errors
    /// The manager refuses it.
    pub fn bind_with_quota(&self, guest: &Guest, sessions: u32) -> Result<()> {
        let quota = format!("sessions_max = {sessions}\n");
        self.bind_text(guest, &guest.toml(&quota)?)
    }

    fn bind_text(&self, guest: &Guest, text: &str) -> Result<()> {
        let owner = &self.people.owner;
        let file = owner.dir().join(format!("{}.toml", guest.name));
        std::fs::write(&file, text)?;
        let mut bind = owner.lictor();
        bind.args(["guest", "bind"])
            .arg(&file)
            .arg("--key")
            .arg(&self.keys.owner);
        command::output(bind).map(drop)
    }

    /// The evidence that the manager has, from an entry on, as an auditor reads it.
    ///
    /// # Errors
    /// The manager refuses, or an entry is not of this version.
    pub fn evidence_from(&self, first: usize) -> Result<Vec<Entry>> {
        // The log only grows: what was read once is not asked for again.
        let mut known = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        while known.len() < ENTRIES_MAX {
            let next = known.len() as u64;
            let auditor = &self.people.auditor;
            let part = auditor.call(|client| client.entries(next, ENTRIES_PER_CALL))?;
            if part.entries.is_empty() {
                break;
            }
            for text in &part.entries {
                known.push(Entry::from_bytes(text.as_bytes())?);
            }
        }
        Ok(known.iter().skip(first).cloned().collect())
    }

    /// A further node of the management fabric.
    ///
    /// # Errors
    /// The name is taken, or the lab is full.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.lab.node(name)
    }
}
