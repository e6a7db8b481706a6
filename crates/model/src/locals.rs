//! Where the guests of this host are. A packet from one of them comes in by its device; one that
//! comes in otherwise, from the uplink or another guest, lies about its source.

use lictor_types::{VnicId, VnicState};
use std::collections::BTreeMap;

/// The vnics that are attached on this host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locals(BTreeMap<VnicId, VnicState>);

impl Locals {
    pub(crate) fn set(&mut self, vnic: VnicId, state: VnicState) {
        self.0.insert(vnic, state);
    }

    /// The vnic, if it is attached here.
    pub(crate) fn here(&self, vnic: Option<VnicId>) -> Option<VnicId> {
        vnic.filter(|vnic| self.0.contains_key(vnic))
    }

    /// Whether a packet of this vnic, toward another one, did not come in by its device. In hold a
    /// guest may still run on the host that it comes from, and a handed-over one runs where it has
    /// gone: both speak from elsewhere rightly.
    pub(crate) fn lies(&self, source: Option<VnicId>, came_by: Option<VnicId>) -> bool {
        let custody = |vnic| matches!(self.0.get(&vnic), Some(VnicState::Open | VnicState::Cut));
        source.is_some_and(|vnic| custody(vnic) && came_by != Some(vnic))
    }
}
