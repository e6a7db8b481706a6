//! The manager as a process on a node of its own.

use super::{Programs, command};
use crate::host::Node;
use crate::{Process, wait};
use anyhow::{Context, Result, bail};
use lictor_types::DeploymentId;
use lictor_wire::api::Role;
use lictor_wire::{Trust, VerifyKey};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where every manager of a site listens, on its node's management address.
pub const PORT: u16 = 8443;

const LIMIT: Duration = Duration::from_secs(20);
/// The signal that asks a process to end.
const TERMINATE: i32 = 15;

/// A manager's directory, and the process that serves it while it runs.
#[derive(Debug)]
pub struct Manager {
    node: Node,
    program: PathBuf,
    process: Option<Process>,
}

impl Manager {
    /// Makes a manager with `lictor manager init`, without starting it.
    ///
    /// # Errors
    /// The command fails.
    pub fn init(
        node: Node,
        programs: &Programs,
        deployment: &DeploymentId,
        (author, approver): (&VerifyKey, &VerifyKey),
    ) -> Result<Self> {
        let manager = Self {
            node,
            program: programs.lictor.clone(),
            process: None,
        };
        let mut init = manager.command();
        init.args(["manager", "init", "--output", "json", "--dir"])
            .arg(manager.dir())
            .args(["--deployment", deployment.as_str()])
            .args(["--author", &author.to_string()])
            .args(["--approver", &approver.to_string()])
            .args(["--name", &manager.node.management().to_string()]);
        command::output(init)?;
        Ok(manager)
    }

    /// Copies the whole directory to another node, as someone with root rights on the manager can:
    /// keys, authority, trust file and store. The copy answers to its own node's address.
    ///
    /// # Errors
    /// A file cannot be copied or changed.
    pub fn copy(&self, node: Node) -> Result<Self> {
        let copy = Self {
            node,
            program: self.program.clone(),
            process: None,
        };
        std::fs::create_dir_all(copy.dir())?;
        for entry in std::fs::read_dir(self.dir())?.flatten() {
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), copy.dir().join(entry.file_name()))?;
            }
        }
        let settings = copy.dir().join("manager.json");
        let text = std::fs::read_to_string(&settings)?;
        let (own, other) = (self.node.management(), copy.node.management());
        std::fs::write(
            &settings,
            text.replace(&own.to_string(), &other.to_string()),
        )?;
        Ok(copy)
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// The process ends, or does not listen in time; its own words are in the error.
    pub fn start(&mut self) -> Result<()> {
        let log = self.node.folder().join("manager.log");
        let file = std::fs::File::create(&log)?;
        let mut run = self.command();
        run.args(["manager", "run", "--dir"])
            .arg(self.dir())
            .arg("--listen")
            .arg(format!("{}:{PORT}", self.node.management()))
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut process = Process::start("the manager", run)?;
        wait::until("a manager that listens", LIMIT, || {
            let said = std::fs::read_to_string(&log)?;
            if let Some(status) = process.ended()? {
                bail!("the manager ended with {status}: {said}");
            }
            Ok(said.contains("listening on").then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Asks the process to end and waits until it has.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(TERMINATE)?;
            process.wait(LIMIT)?;
        }
        Ok(())
    }

    /// Kills the process at once.
    ///
    /// # Errors
    /// The kernel does not know it any more.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// A one-time token, as `lictor manager token` prints it.
    ///
    /// # Errors
    /// The command fails.
    pub fn token(&self, role: Role, name: &str) -> Result<String> {
        let mut token = self.command();
        token
            .args(["manager", "token", "--dir"])
            .arg(self.dir())
            .args(["--role", role.name(), "--name", name]);
        Ok(command::output(token)?.trim().to_owned())
    }

    /// Whom this manager tells everybody to believe.
    ///
    /// # Errors
    /// There is no readable trust file.
    pub fn trust(&self) -> Result<Trust> {
        let path = self.trust_file();
        let bytes = std::fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// The trust file.
    #[must_use]
    pub fn trust_file(&self) -> PathBuf {
        self.dir().join("trust.json")
    }

    /// The authority's certificate, which people and agents are given by hand.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir().join("authority.pem")
    }

    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.node.management())
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.node.folder().join("manager")
    }

    /// What the process has said.
    #[must_use]
    pub fn log(&self) -> String {
        log_of(&self.node.folder().join("manager.log"))
    }

    fn command(&self) -> std::process::Command {
        self.node.command(&self.program.to_string_lossy())
    }
}

/// A log that may not be there yet.
pub(super) fn log_of(path: &Path) -> String {
    std::fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}
