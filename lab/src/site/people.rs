//! People and connectors: a role, a certificate, the commands that they type. What no command shows
//! is asked of the manager's API with the same certificate.

use super::{Manager, Programs, command};
use crate::host::Node;
use anyhow::{Context, Result, bail};
use lictor_client::{Client, ClientError, Credentials};
use lictor_wire::api::Role;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What became of something that may be refused.
#[derive(Debug, Clone)]
pub enum Answer<T> {
    /// It was done.
    Ok(T),
    /// It was refused, in these words.
    Refused(String),
}

impl<T> Answer<T> {
    /// What was to be done, and was.
    ///
    /// # Errors
    /// It was refused; the words are in the error.
    pub fn done(self) -> Result<T> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Refused(words) => bail!("refused: {words}"),
        }
    }
}

/// Somebody with a directory that `lictor enroll` has written, at a desk on the management fabric.
#[derive(Debug)]
pub struct Person {
    name: String,
    desk: Node,
    program: PathBuf,
    url: String,
}

impl Person {
    /// Exchanges a one-time token for a certificate with `lictor enroll`. The manager's log then
    /// says whose the signing key is, if there is one.
    ///
    /// # Errors
    /// The command fails.
    pub fn enrol(
        (manager, desk): (&Manager, &Node),
        programs: &Programs,
        (role, name): (Role, &str),
        key: Option<&Path>,
    ) -> Result<Self> {
        let person = Self {
            name: name.into(),
            desk: desk.clone(),
            program: programs.lictor.clone(),
            url: manager.url(),
        };
        let token = manager.token(role, name)?;
        let mut enroll = person.lictor();
        enroll
            .args(["enroll", "--manager", &person.url, "--token", &token])
            .arg("--authority")
            .arg(manager.authority())
            .arg("--dir")
            .arg(person.dir());
        if let Some(key) = key {
            enroll.arg("--key").arg(key);
        }
        command::output(enroll)?;
        Ok(person)
    }

    /// What `lictor enroll` wrote.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.desk.folder().join(&self.name)
    }

    /// The `lictor` command, typed at this person's desk.
    #[must_use]
    pub fn lictor(&self) -> Command {
        let mut lictor = self.desk.command(&self.program.to_string_lossy());
        lictor.env("LICTOR_DIR", self.dir());
        lictor
    }

    /// Types a command that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn types<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let mut lictor = self.lictor();
        lictor.args(words);
        command::output(lictor)
    }

    /// Calls the API over a connection of its own.
    ///
    /// # Errors
    /// The manager refuses, or nobody answers.
    pub fn call<T: Send>(
        &self,
        call: impl FnOnce(&Client) -> Result<T, ClientError> + Send,
    ) -> Result<T> {
        let read = |name: &str| std::fs::read(self.dir().join(name));
        let (certificate, key) = (read("certificate.pem")?, read("certificate.key")?);
        let credentials = Credentials {
            certificate: &certificate,
            key: &key,
            authority: &read("authority.pem")?,
        };
        // The manager's address exists only on the management fabric.
        let netns = self.desk.netns();
        netns
            .run(|| Ok(call(&Client::new(&self.url, &credentials)?)?))
            .with_context(|| self.name.clone())
    }
}
