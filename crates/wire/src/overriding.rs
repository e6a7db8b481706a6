//! The order by which one move of a guest to one host is admitted although protection is impaired
//! there, or at its source: for the causes that it names, and for no others.

use crate::order::{Order, Ordered, Terms};
use lictor_evidence::Overridden;
use lictor_policy::Cause;
use lictor_types::{DeploymentId, GuestId, HostId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The causes of which a refusal may be overridden. Not one that no agent at the target could
/// check, and not a clock that is not believed: an order is good for a time.
pub const CAUSES: [Cause; 6] = [
    Cause::ReleaseStale,
    Cause::ManagerUnreachable,
    Cause::StateFull,
    Cause::IdsMissing,
    Cause::MonitorMissing,
    Cause::EvidenceFull,
];

/// Leave for one guest to move to one host although something speaks against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// The installation.
    pub deployment: DeploymentId,
    /// The guest.
    pub guest: GuestId,
    /// Where the guest goes.
    pub to: HostId,
    /// What may speak against it; some of [`CAUSES`].
    pub causes: BTreeSet<Cause>,
    /// Why.
    pub justification: String,
    /// When it was written, in milliseconds of Unix time.
    pub issued_ms: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
}

impl Order for Override {
    const PAYLOAD_TYPE: &'static str = "application/vnd.lictor.override.v1+json";
    const COMMAND: &'static str = "lictor move override";

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

    fn check(&self) -> Result<(), String> {
        let other = self.causes.iter().find(|cause| !CAUSES.contains(cause));
        let expected = CAUSES.map(Cause::name).join(", ");
        match other {
            Some(other) => Err(format!(
                "{other} cannot be overridden; expected some of {expected}"
            )),
            None if self.causes.is_empty() => {
                Err(format!("it names no cause; expected some of {expected}"))
            }
            None => Ok(()),
        }
    }
}

impl Ordered<Override> {
    /// What evidence says of it.
    #[must_use]
    pub fn told(&self) -> Overridden {
        let order = &self.order;
        Overridden {
            order: self.digest,
            causes: order.causes.iter().map(ToString::to_string).collect(),
            signers: self.names(),
            justification: order.justification.clone(),
            expires_ms: order.expires_ms,
        }
    }
}
