//! The agent's configuration file.

use crate::AgentError;
use crate::control::{self, Control};
use crate::moves::rounds::REST_US;
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
    /// Milliseconds between two rounds of a copy while the guest migrates: what of its sessions
    /// changes in one of them is left for the pause.
    #[serde(default = "copy_rest_ms_default")]
    pub copy_rest_ms: u64,
    /// Seconds for which a proven verdict counts, where a guest's owner chose that no session
    /// begins without one.
    #[serde(default = "lease_s_default")]
    pub lease_s: u64,
    /// Seconds of silence after which the manager counts as unreachable.
    #[serde(default = "manager_silence_s_default")]
    pub manager_silence_s: u64,
    /// What else protects guests on this host, and how it is asked whether it works.
    #[serde(default)]
    pub controls: Vec<Control>,
    /// Seconds without a packet after which a session is over.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// The shortest round: below it the agent would do nothing but read the kernel back.
pub const ROUND_MS_MIN: u64 = 50;
/// The longest round: a host must be heard of within a minute.
pub const ROUND_MS_MAX: u64 = 60_000;

/// The shortest rest between two rounds of a copy: below it both agents would do nothing else.
const COPY_REST_MS_MIN: u64 = 10;
/// The longest one is as long as before the migration.
const COPY_REST_MS_MAX: u64 = REST_US / 1_000;

/// The shortest lease.
const LEASE_S_MIN: u64 = 5;
/// The longest lease, and the longest silence of a manager: an hour.
const LEASE_S_MAX: u64 = 3_600;

const fn lease_s_default() -> u64 {
    30
}

const fn manager_silence_s_default() -> u64 {
    60
}

const fn round_ms_default() -> u64 {
    1_000
}

const fn copy_rest_ms_default() -> u64 {
    100
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
        if !(COPY_REST_MS_MIN..=COPY_REST_MS_MAX).contains(&config.copy_rest_ms) {
            let found = config.copy_rest_ms;
            return Err(file(format!(
                "copy_rest_ms is {found}; expected {COPY_REST_MS_MIN} to {COPY_REST_MS_MAX}"
            )));
        }
        // What a round puts off for a guest that stands still must not end a lease.
        let least_s = LEASE_S_MIN.max(config.round_ms.saturating_mul(3).div_ceil(1_000));
        for (name, found) in [
            ("lease_s", config.lease_s),
            ("manager_silence_s", config.manager_silence_s),
        ] {
            if !(least_s..=LEASE_S_MAX).contains(&found) {
                return Err(file(format!(
                    "{name} is {found}; expected {least_s} to {LEASE_S_MAX}, three rounds at least"
                )));
            }
        }
        control::check(&config.controls).map_err(&file)?;
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
