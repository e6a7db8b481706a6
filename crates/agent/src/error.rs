//! What can go wrong in an agent.

use std::path::{Path, PathBuf};

/// Why an agent cannot go on, or cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file cannot be read, written or understood.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The agent has no trust file: nobody enrolled it.
    #[error("{} is missing; enrol this host with `lictor agent enroll` first", path.display())]
    NotEnrolled {
        /// What is missing.
        path: PathBuf,
    },
    /// The kernel refused something.
    #[error("the data plane refused")]
    Datapath(#[from] lictor_datapath::Error),
    /// The log refused something.
    #[error("the evidence log refused")]
    Evidence(#[from] lictor_evidence::EvidenceError),
    /// The tables of this host cannot be built.
    #[error("no plan for this host")]
    Plan(#[from] lictor_wire::PlanError),
    /// The manager did not answer as expected.
    #[error("the manager at {url}: {what}")]
    Manager {
        /// Where.
        url: String,
        /// What happened.
        what: String,
    },
    /// A caller asked for something that is not possible now.
    #[error("{0}")]
    Refused(String),
}

impl AgentError {
    pub(crate) fn file(path: &Path, what: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            what: what.into(),
        }
    }

    /// A failed system call on a file, with the next step where there is an obvious one.
    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        let step = match error.kind() {
            std::io::ErrorKind::NotFound => "; check the path",
            std::io::ErrorKind::PermissionDenied => "; run this as root",
            _ => "",
        };
        Self::file(path, format!("{error}{step}"))
    }

    /// The whole chain in one line, for answers and logs at the edge.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with everything beneath it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
