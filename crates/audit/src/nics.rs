//! What agents say of guests' NICs that no hook guards.

use crate::facts::At;
use lictor_evidence::{Body, UnguardedNic};
use lictor_types::{GuestId, HostId};

/// Which NICs of a guest no hook guarded from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicsFact {
    /// Where.
    pub host: HostId,
    /// Who.
    pub guest: GuestId,
    /// They; none if that was over.
    pub nics: Vec<UnguardedNic>,
}

impl NicsFact {
    /// What a host says, if it is about that.
    pub(crate) fn of((index, time_ms): (u64, u64), host: &HostId, body: &Body) -> Option<At<Self>> {
        let Body::NicsUnguarded { guest, nics } = body else {
            return None;
        };
        let value = Self {
            host: host.clone(),
            guest: guest.clone(),
            nics: nics.clone(),
        };
        Some(At {
            index,
            time_ms,
            value,
        })
    }
}
