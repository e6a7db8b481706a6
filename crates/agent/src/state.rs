//! The state directory: what an agent must still know after any crash. Every file is replaced as a
//! whole (write, fsync, rename, fsync of the folder), so a reader sees the old or the new one.

use crate::AgentError;
use crate::custody::Custody;
use crate::impaired::Kept;
use lictor_evidence::{Checkpoint, EvidenceError, SigningKey, Storage, VerifyKey, frame, recover};
use lictor_types::Mode;
use lictor_wire::binding::BindingLog;
pub use lictor_wire::kept::TRUST;
use lictor_wire::kept::{BINDINGS, FLOOR, FRESHNESS, PASSED, Passed, RELEASE};
use lictor_wire::release::Floor;
use lictor_wire::{Envelope, Trust};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The key that signs its evidence, its attestations and its tickets.
pub const KEY: &str = "agent.key";
/// The key of its certificate for the manager.
pub const CERTIFICATE_KEY: &str = "certificate.key";
/// Its certificate for the manager.
pub const CERTIFICATE: &str = "certificate.pem";
/// The manager's authority.
pub const AUTHORITY: &str = "authority.pem";
const CUSTODY: &str = "custody.json";
const IMPAIRED: &str = "impaired.json";
const HOST_MODE: &str = "host-mode.json";
const LOCK: &str = "lock";
/// What was let pass without an agent, while it is recorded.
const PASSED_TAKEN: &str = "passed.taken";
const LOG: &str = "evidence.log";
const CHECKPOINT: &str = "evidence.checkpoint";

/// An agent's state directory.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Names the directory; it is made when something is written.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.into())
    }

    /// The path of one file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Takes the directory for one agent: two would each write over the other's log and take its
    /// socket away. The lock ends with the process, however that ends.
    ///
    /// # Errors
    /// [`AgentError::File`] if another agent has it, or it cannot be made.
    pub fn lock(&self) -> Result<File, AgentError> {
        let path = self.path(LOCK);
        let failed = |error: std::io::Error| AgentError::file(&path, error.to_string());
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => AgentError::file(
                &path,
                "another agent runs on this state directory; end it first, or give this one a \
                 directory of its own",
            ),
            std::fs::TryLockError::Error(error) => failed(error),
        })?;
        Ok(file)
    }

    /// The trust file.
    ///
    /// # Errors
    /// [`AgentError::NotEnrolled`] if there is none, [`AgentError::File`] if it cannot be read.
    pub fn trust(&self) -> Result<Trust, AgentError> {
        self.read_json(TRUST)?
            .ok_or_else(|| AgentError::NotEnrolled {
                path: self.path(TRUST),
            })
    }

    /// The agent's key.
    ///
    /// # Errors
    /// As for [`Self::trust`].
    pub fn key(&self) -> Result<SigningKey, AgentError> {
        let path = self.path(KEY);
        let bytes = self
            .read(KEY)?
            .ok_or_else(|| AgentError::NotEnrolled { path: path.clone() })?;
        let text =
            String::from_utf8(bytes).map_err(|error| AgentError::file(&path, error.to_string()))?;
        SigningKey::from_private_text(text.trim())
            .map_err(|error| AgentError::file(&path, error.to_string()))
    }

    /// The last good release, as it was signed.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn release(&self) -> Result<Option<Envelope>, AgentError> {
        self.read_json(RELEASE)
    }

    /// The last good bindings, as they were signed.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn bindings(&self) -> Result<BindingLog, AgentError> {
        Ok(self.read_json(BINDINGS)?.unwrap_or_default())
    }

    /// The newest statement of which release is the newest, as it was signed.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn freshness(&self) -> Result<Option<Envelope>, AgentError> {
        self.read_json(FRESHNESS)
    }

    /// Keeps a statement of which release is the newest.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn keep_freshness(&self, envelope: &Envelope) -> Result<(), AgentError> {
        self.write_json(FRESHNESS, envelope)
    }

    /// The newest release that was enforced here.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn floor(&self) -> Result<Option<Floor>, AgentError> {
        self.read_json(FLOOR)
    }

    /// What impaired the protection of guests when the agent last said so.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub(crate) fn impaired(&self) -> Result<Vec<Kept>, AgentError> {
        Ok(self.read_json(IMPAIRED)?.unwrap_or_default())
    }

    /// Keeps that.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub(crate) fn keep_impaired(&self, kept: &[Kept]) -> Result<(), AgentError> {
        self.write_json(IMPAIRED, &kept)
    }

    /// Keeps a release that is about to be loaded. The floor goes first: a crash between the two
    /// leaves an agent that refuses older releases, never one that accepts them.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn keep_release(&self, envelope: &Envelope, floor: Floor) -> Result<(), AgentError> {
        self.write_json(FLOOR, &floor)?;
        self.write_json(RELEASE, envelope)
    }

    /// What libvirt's hook has let pass while no agent answered. It stays until it was recorded,
    /// see [`StateDir::passed_recorded`]; what is added meanwhile comes next time.
    ///
    /// # Errors
    /// [`AgentError::File`], also for a line that cannot be read.
    pub fn passed(&self) -> Result<Vec<Passed>, AgentError> {
        let (from, to) = (self.path(PASSED), self.path(PASSED_TAKEN));
        if !to.exists() {
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Vec::new());
                }
                renamed => renamed.map_err(|error| AgentError::io(&from, &error))?,
            }
        }
        let bytes = self.read(PASSED_TAKEN)?.unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        let read = |line| {
            serde_json::from_slice(line).map_err(|error| AgentError::file(&to, error.to_string()))
        };
        lines.map(read).collect()
    }

    /// Everything that [`StateDir::passed`] has told is recorded.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn passed_recorded(&self) -> Result<(), AgentError> {
        let path = self.path(PASSED_TAKEN);
        std::fs::remove_file(&path).map_err(|error| AgentError::io(&path, &error))
    }

    /// Keeps bindings that were loaded.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn keep_bindings(&self, log: &BindingLog) -> Result<(), AgentError> {
        self.write_json(BINDINGS, log)
    }

    /// Which guests are under this host's custody.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn custody(&self) -> Result<Custody, AgentError> {
        Ok(self.read_json(CUSTODY)?.unwrap_or_default())
    }

    /// Keeps custody.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn keep_custody(&self, custody: &Custody) -> Result<(), AgentError> {
        self.write_json(CUSTODY, custody)
    }

    /// What a denial does at the hypervisor's own device; observed until somebody confirmed more.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn host_mode(&self) -> Result<Mode, AgentError> {
        Ok(self.read_json(HOST_MODE)?.unwrap_or(Mode::Observe))
    }

    /// Keeps that.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn keep_host_mode(&self, mode: Mode) -> Result<(), AgentError> {
        self.write_json(HOST_MODE, &mode)
    }

    /// Writes JSON, durably and whole.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| AgentError::file(&self.path(name), error.to_string()))?;
        self.write(name, &bytes)
    }

    /// Writes a file with mode 0600, durably and whole.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), AgentError> {
        let path = self.path(name);
        replace(&self.0, &path, bytes).map_err(|error| AgentError::file(&path, error.to_string()))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, AgentError> {
        let path = self.path(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::io(&path, &error)),
        }
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AgentError> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| AgentError::file(&self.path(name), error.to_string()))?;
        Ok(Some(value))
    }
}

fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    File::open(folder)?.sync_all()
}

/// The evidence log's file: frames of entries, and beside it the newest signed checkpoint.
#[derive(Debug)]
pub struct LogFile {
    state: StateDir,
    file: File,
    /// How long the file is as far as it counts.
    bytes: u64,
    entries: Vec<Vec<u8>>,
}

impl LogFile {
    /// Opens the log, and cuts a torn write off its end: such an entry was never signed.
    ///
    /// # Errors
    /// [`EvidenceError::RolledBack`] if the file is behind its signed checkpoint, or
    /// [`EvidenceError::Storage`].
    pub fn open(state: &StateDir, key: &VerifyKey) -> Result<Self, EvidenceError> {
        let text = read_checkpoint(state)?;
        let signed = text
            .map(|text| Checkpoint::verify(&text, key))
            .transpose()?;
        std::fs::create_dir_all(&state.0).map_err(storage)?;
        let path = state.path(LOG);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(storage)?;
        let bytes = std::fs::read(&path).map_err(storage)?;
        let recovered = recover(&bytes, signed.as_ref())?;
        if recovered.torn_bytes > 0 {
            file.set_len(recovered.valid_bytes).map_err(storage)?;
            file.sync_all().map_err(storage)?;
        }
        Ok(Self {
            state: state.clone(),
            file,
            bytes: recovered.valid_bytes,
            entries: recovered.entries,
        })
    }
}

fn storage(error: impl std::fmt::Display) -> EvidenceError {
    EvidenceError::Storage(error.to_string())
}

fn read_checkpoint(state: &StateDir) -> Result<Option<String>, EvidenceError> {
    let bytes = state.read(CHECKPOINT).map_err(storage)?;
    bytes
        .map(|bytes| String::from_utf8(bytes).map_err(storage))
        .transpose()
}

impl Storage for LogFile {
    fn replay(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), EvidenceError> {
        self.entries.iter().for_each(|entry| visit(entry));
        Ok(())
    }

    fn read(&self, index: u64) -> Result<Vec<u8>, EvidenceError> {
        let place = usize::try_from(index).ok();
        place
            .and_then(|place| self.entries.get(place).cloned())
            .ok_or_else(|| EvidenceError::Storage(format!("there is no entry {index}")))
    }

    fn append(&mut self, index: u64, entries: &[Vec<u8>]) -> Result<(), EvidenceError> {
        if index != self.entries.len() as u64 {
            let have = self.entries.len();
            return Err(EvidenceError::Storage(format!(
                "entry {index} after {have} entries"
            )));
        }
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend(frame(entry)?);
        }
        let written = self.file.write_all(&bytes);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // Half an entry in the middle would cut off all that comes after it.
            self.file.set_len(self.bytes).map_err(storage)?;
            return Err(storage(error));
        }
        self.bytes += bytes.len() as u64;
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    fn checkpoint(&self) -> Result<Option<String>, EvidenceError> {
        read_checkpoint(&self.state)
    }

    fn store_checkpoint(&mut self, text: &str) -> Result<(), EvidenceError> {
        self.state
            .write(CHECKPOINT, text.as_bytes())
            .map_err(storage)
    }
}
