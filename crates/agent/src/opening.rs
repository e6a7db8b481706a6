//! What a target must still know if its agent is killed after it opened a guest's vnics and before
//! it heard that the guest runs. It is kept in the run directory, which is memory: no disk is
//! waited for while a guest stands still, and what a crash of the machine takes away went down with
//! the guest.

use crate::AgentError;
use lictor_evidence::MoveCopied;
use lictor_types::{Counted, GuestId, Tallies, Tally, VnicId};
use lictor_wire::{Envelope, Ticket};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What came with a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Came {
    /// Sessions that were taken in.
    pub(crate) accepted: u64,
    /// Sessions that were not, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) copied: MoveCopied,
    /// What was counted of it before it came.
    pub(crate) counted: BTreeMap<VnicId, Tallies>,
}

/// A move whose guest may begin to run here at any moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Opening {
    pub(crate) ticket: Ticket,
    /// What the source signed when it fenced the guest.
    pub(crate) save: Envelope,
    pub(crate) accepted: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) copied: MoveCopied,
    /// JSON has no maps whose keys are no strings.
    pub(crate) counted: Vec<(VnicId, Vec<(Counted, Tally)>)>,
    pub(crate) hold_since_ms: u64,
    pub(crate) opened_ms: u64,
    pub(crate) fenced_us: u64,
}

fn path(run_dir: &Path, guest: &GuestId) -> PathBuf {
    run_dir.join(format!("opening-{guest}.json"))
}

impl Opening {
    pub(crate) fn came(&self) -> Came {
        let rows = self.counted.iter().cloned();
        Came {
            accepted: self.accepted,
            refused: self.refused.clone(),
            copied: self.copied,
            counted: rows
                .map(|(vnic, rows)| (vnic, rows.into_iter().collect()))
                .collect(),
        }
    }

    /// Keeps it, whole or not at all.
    pub(crate) fn keep(&self, run_dir: &Path) -> Result<(), AgentError> {
        let path = path(run_dir, &self.ticket.guest);
        let partial = path.with_extension("partial");
        let failed = |error: std::io::Error| AgentError::io(&path, &error);
        let bytes =
            serde_json::to_vec(self).map_err(|error| AgentError::file(&path, error.to_string()))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&partial).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        std::fs::rename(&partial, &path).map_err(failed)
    }

    /// What an earlier life of the agent has kept of this guest.
    pub(crate) fn read(run_dir: &Path, guest: &GuestId) -> Result<Option<Self>, AgentError> {
        let path = path(run_dir, guest);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| AgentError::file(&path, error.to_string())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(&path, &error)),
        }
    }

    pub(crate) fn forget(run_dir: &Path, guest: &GuestId) -> Result<(), AgentError> {
        let path = path(run_dir, guest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(AgentError::io(&path, &error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_types::{DeploymentId, Digest, Generation, HostId, RuleId};
    use lictor_wire::SigningKey;

    #[test]
    fn what_is_kept_is_read_again_until_it_is_forgotten() {
        let name = "agent-a".parse().expect("a valid name");
        let key = SigningKey::generate(name, &mut rand::rngs::OsRng);
        let host = |name| HostId::new(name).expect("a valid name");
        let guest = GuestId::new("db").expect("a valid name");
        let tally = Tally {
            packets: 3,
            ..Tally::default()
        };
        let opening = Opening {
            ticket: Ticket {
                deployment: DeploymentId::new("test").expect("a valid name"),
                guest: guest.clone(),
                source: host("a"),
                target: host("b"),
                custody: 2,
                nonce: "00".into(),
                asked_by: "a test".into(),
                issued_ms: 1,
                deadline_ms: 2,
                generation: Generation(1),
                release: Digest::of(b"release"),
                overriding: None,
            },
            save: Envelope::sign("application/test", b"{}", &[&key]),
            accepted: 7,
            refused: BTreeMap::from([("foreign-address".into(), 1)]),
            copied: MoveCopied {
                rounds: 1,
                records: 8,
                last_records: 0,
                bytes: 9,
            },
            counted: vec![(VnicId(7), vec![(Counted::Rule(RuleId(1)), tally)])],
            hold_since_ms: 1,
            opened_ms: 2,
            fenced_us: 3,
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let read = || Opening::read(folder.path(), &guest).expect("readable");
        assert_eq!(read(), None);
        opening.keep(folder.path()).expect("kept");
        assert_eq!(read(), Some(opening.clone()));
        let counted = &opening.came().counted[&VnicId(7)];
        assert_eq!(counted[&Counted::Rule(RuleId(1))], tally);
        Opening::forget(folder.path(), &guest).expect("forgotten");
        Opening::forget(folder.path(), &guest).expect("there is none any more");
        assert_eq!(read(), None);
    }
}
