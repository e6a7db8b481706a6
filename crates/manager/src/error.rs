//! What can go wrong, once: [`AppError`] inside a call, [`ManagerError`] around the process.

use lictor_store::StoreError;
use std::path::PathBuf;

/// Why a call did not do as asked. `http::status` maps each to its status code.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The caller's message cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// The call needs a certificate and none that counts was shown.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller's role may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// There is nothing by that name.
    #[error("{0}")]
    NotFound(String),
    /// It does not fit what is stored; the answer says what would.
    #[error("{0}")]
    Conflict(String),
    /// The message is longer than its limit.
    #[error("{0}")]
    TooLarge(String),
    /// The message did not arrive in time.
    #[error("{0}")]
    TooSlow(String),
    /// It was understood and is not allowed: every reason is listed.
    #[error("{what}")]
    Refused {
        /// What was refused and what to do.
        what: String,
        /// Each thing that is wrong.
        reasons: Vec<String>,
    },
    /// The disk did not take it.
    #[error("the manager could not store this; nothing of it was kept")]
    Storage(#[from] StoreError),
    /// The manager's own state is broken. The detail goes to its journal, not to the caller.
    #[error("the manager failed: {0}")]
    Internal(String),
}

/// What to do about a file that cannot be used, where there is an obvious step.
fn next_step(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => {
            "; name a manager's directory with --dir, `lictor manager init` makes one"
        }
        std::io::ErrorKind::PermissionDenied => "; run this as the owner of that directory",
        std::io::ErrorKind::AlreadyExists => {
            "; nothing is overwritten: run the manager that is there, or choose another --dir"
        }
        _ => "",
    }
}

/// Why a manager cannot be made or run.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// A file cannot be read or written.
    #[error("{action} {} failed{}", path.display(), next_step(source))]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{}: {detail}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        detail: String,
    },
    /// An argument cannot be used.
    #[error("{0}")]
    Argument(String),
    /// A certificate cannot be made.
    #[error("a certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(String),
    /// The store cannot be opened.
    #[error("the store could not be used")]
    Store(#[from] StoreError),
    /// The log was cut or changed since its last checkpoint was signed.
    #[error(
        "the log holds {found} entries, but a checkpoint over {signed} was signed: it was rolled \
         back or changed ({detail}); restore the newest backup and keep this one for inquiry"
    )]
    RolledBack {
        /// Entries found.
        found: u64,
        /// Entries that the checkpoint covers.
        signed: u64,
        /// What does not fit.
        detail: String,
    },
    /// The address cannot be listened on.
    #[error("listening on {address} failed; choose a free address with --listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The state of a running manager cannot be changed.
    #[error("the manager could not do this")]
    App(#[from] AppError),
}
