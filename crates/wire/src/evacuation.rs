//! The order by which a guest leaves a host whose agent is broken: without its sessions, once, to
//! one host.

use crate::order::{Order, Terms};
use lictor_types::{DeploymentId, GuestId, HostId};
use serde::{Deserialize, Serialize};

/// Leave for one guest to come to one host without what its source has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evacuation {
    /// The installation.
    pub deployment: DeploymentId,
    /// The guest.
    pub guest: GuestId,
    /// The host whose agent is broken.
    pub from: HostId,
    /// Where the guest goes.
    pub to: HostId,
    /// Why.
    pub justification: String,
    /// When it was written, in milliseconds of Unix time.
    pub issued_ms: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
}

impl Order for Evacuation {
    const PAYLOAD_TYPE: &'static str = "application/vnd.lictor.evacuation.v1+json";
    const COMMAND: &'static str = "lictor move evacuation";

    fn terms(&self) -> Terms<'_> {
        Terms {
            deployment: &self.deployment,
            guest: &self.guest,
            to: &self.to,
            justification: &self.justification,
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
        }
    }
}
