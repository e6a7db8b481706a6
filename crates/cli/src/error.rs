//! What can go wrong for someone who types a command: the place, what was expected, the next step.

use crate::files::RELEASE_BYTES_MAX;
use std::io;
use std::path::{Path, PathBuf};

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file cannot be read, written or understood.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, what was expected, and the next step.
        what: String,
    },
    /// An argument cannot be used.
    #[error("{argument}: {what}")]
    Argument {
        /// Which.
        argument: &'static str,
        /// What is wrong, what was expected, and the next step.
        what: String,
    },
    /// No directory of a person was named, so nobody knows which manager to call as whom.
    #[error(
        "no manager is named; expected --manager-dir DIR or LICTOR_DIR with what `lictor enroll` \
         wrote"
    )]
    NoManager,
    /// A policy has errors, which the diagnostics show.
    #[error("{}: the policy has errors:\n{diagnostics}", path.display())]
    Policy {
        /// The text.
        path: PathBuf,
        /// Every diagnostic, rendered with its place.
        diagnostics: String,
    },
    /// The tables of a policy do not fit.
    #[error("the policy cannot be compiled")]
    Compile(#[from] lictor_policy::CompileError),
    /// A release whose policy does not hold together.
    #[error(transparent)]
    Broken(#[from] lictor_policy::BrokenTables),
    /// The estate or the policy is too large to be analysed.
    #[error("the policy cannot be analysed")]
    Analysis(#[from] lictor_analysis::AnalysisError),
    /// A release is not one that an agent would load.
    #[error("the release does not count")]
    Release(#[from] lictor_wire::ReleaseRefused),
    /// The manager's bindings do not hold under its release.
    #[error("the manager's bindings do not count")]
    Bindings(#[from] lictor_wire::BindingsRefused),
    /// A key or a signature.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file with the key or the signed document.
        path: PathBuf,
        /// Why.
        source: lictor_evidence::EvidenceError,
    },
    /// A certificate request cannot be made, or the certificate that came cannot be read.
    #[error("enrolment: {0}")]
    Certificate(String),
    /// The manager.
    #[error(transparent)]
    Manager(#[from] lictor_client::ClientError),
    /// The agent on this host.
    #[error("the agent at {}: {what}", socket.display())]
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// What happened and the next step.
        what: String,
    },
    /// A pack is not genuine, or its report not what it says.
    #[error("NOT VERIFIED {0}")]
    Pack(String),
    /// The output cannot be written.
    #[error("the output cannot be written")]
    Output(#[source] io::Error),
}

impl CliError {
    pub(crate) fn file(path: &Path, what: impl Into<String>) -> Self {
        let (path, what) = (path.into(), what.into());
        Self::File { path, what }
    }

    /// A failed system call on a file, with the next step where there is an obvious one.
    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        let step = match error.kind() {
            io::ErrorKind::NotFound => "; check the path",
            io::ErrorKind::PermissionDenied => "; run this as its owner or as root",
            io::ErrorKind::AlreadyExists => {
                "; nothing is overwritten here, choose another path or move the old one away"
            }
            _ => "",
        };
        Self::file(path, format!("{error}{step}"))
    }

    pub(crate) fn argument(argument: &'static str, what: impl Into<String>) -> Self {
        let what = what.into();
        Self::Argument { argument, what }
    }

    pub(crate) fn key(path: &Path) -> impl FnOnce(lictor_evidence::EvidenceError) -> Self {
        let path = path.into();
        move |source| Self::Key { path, source }
    }

    pub(crate) fn not_a_release(path: &Path, detail: impl std::fmt::Display) -> Self {
        Self::file(
            path,
            format!(
                "not a release: {detail}; expected what `lictor policy compile` wrote, at most \
                 {RELEASE_BYTES_MAX} bytes"
            ),
        )
    }
}
