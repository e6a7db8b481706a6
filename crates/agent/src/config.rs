//! The agent's configuration file.

use crate::AgentError;
use lictor_types::{HostId, SESSIONS_PER_HOST_DEFAULT, Timeouts};
use lictor_wire::peer::Format;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where an agent keeps things and whom it asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This host's name, as the release's roster has it.
    pub host: HostId,
    /// Keys, the trust file, the last good release, the log. Mode 0700.
    pub state_dir: PathBuf,
    /// The control socket.
    pub run_dir: PathBuf,
    /// The group of the user as which QEMU runs, such as `libvirt-qemu`. Without it QEMU is root's.
    #[serde(default)]
    pub qemu_group: Option<String>,
    /// A folder on a BPF file system: what is pinned there outlives the agent.
    pub pin_root: PathBuf,
    /// Where other agents reach this one.
    pub peer: SocketAddr,
    /// The newest format that is spoken with other agents; without it the newest that this version
    /// knows. For a cluster that must be able to go back to its older agents.
    #[serde(default)]
    pub peer_format: Option<u32>,
    /// The manager's URL; without it the agent goes on with what is in its state directory.
    #[serde(default)]
    pub manager: Option<String>,
    /// The device of the hypervisor's own addresses, which the same programs guard. Observed until
    /// somebody asks for more.
    #[serde(default)]
    pub host_device: Option<String>,
    /// Whether sessions between two guests of this host may go past its bridges. Switch it off
    /// where something else must see them there.
    #[serde(default = "steering_default")]
    pub steering: bool,
    /// Sessions of all guests of this host together; each takes 200 bytes of kernel memory.
    #[serde(default = "sessions_default")]
    pub sessions: u64,
    /// Milliseconds between two rounds of fetching, reconciling and reporting.
    #[serde(default = "round_ms_default")]
    pub round_ms: u64,
    /// Seconds without a packet after which a session is over.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// The shortest round: below it the agent would do nothing but read the kernel back.
pub const ROUND_MS_MIN: u64 = 50;
/// The longest round: a host must be heard of within a minute.
pub const ROUND_MS_MAX: u64 = 60_000;

const fn round_ms_default() -> u64 {
    1_000
}

const fn steering_default() -> bool {
    true
}

const fn sessions_default() -> u64 {
    SESSIONS_PER_HOST_DEFAULT
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`AgentError::File`] names the file and what is wrong in it.
    pub fn read(path: &Path) -> Result<Self, AgentError> {
        let file = |what: String| AgentError::file(path, what);
        let text = std::fs::read_to_string(path).map_err(|error| AgentError::io(path, &error))?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| file(format!("{error}; docs/operations.md has an example")))?;
        if !(ROUND_MS_MIN..=ROUND_MS_MAX).contains(&config.round_ms) {
            let found = config.round_ms;
            return Err(file(format!(
                "round_ms is {found}; expected {ROUND_MS_MIN} to {ROUND_MS_MAX}"
            )));
        }
        if let Some(found) = config.peer_format
            && Format::of(found).is_none()
        {
            let expected = Format::spoken();
            return Err(file(format!("peer_format is {found}; expected {expected}")));
        }
        config
            .timeouts
            .check()
            .map_err(|error| file(error.to_string()))?;
        Ok(config)
    }

    /// The newest format that is spoken with other agents.
    #[must_use]
    pub fn format(&self) -> Format {
        self.peer_format
            .and_then(Format::of)
            .unwrap_or(Format::NEWEST)
    }
}
