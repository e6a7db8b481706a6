//! Which guests run under this host's custody, and what a move still owes. It survives a restart:
//! two hosts must never both believe that a guest is theirs.

use lictor_types::{Digest, GuestId, HostId};
use lictor_wire::Envelope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a move still owes to its other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "duty", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Duty {
    /// The guest is leaving under this ticket.
    Leave {
        /// Signed by both ends.
        ticket: Envelope,
    },
    /// The guest has arrived, and its source has not signed the record yet.
    Confirm {
        /// The source.
        from: HostId,
        /// The ticket's digest.
        ticket: Digest,
        /// The record, signed by this host.
        record: Envelope,
        /// What the source signed when it fenced the guest.
        save: Envelope,
    },
}

/// What this host knows of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The newest custody epoch that this host knows of.
    pub epoch: u64,
    /// Whether the guest runs under this host's custody in that epoch.
    pub held: bool,
    /// Where its QEMU answers; none for a container.
    #[serde(default)]
    pub qmp: Option<PathBuf>,
    /// What is still owed.
    #[serde(default)]
    pub duty: Option<Duty>,
}

/// Every guest that was ever here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custody {
    guests: BTreeMap<GuestId, Entry>,
}

impl Custody {
    /// Whether the guest is under this host's custody.
    #[must_use]
    pub fn held(&self, guest: &GuestId) -> bool {
        self.guests.get(guest).is_some_and(|entry| entry.held)
    }

    /// The newest epoch that this host knows of; zero if it has never heard of the guest.
    #[must_use]
    pub fn epoch(&self, guest: &GuestId) -> u64 {
        self.guests.get(guest).map_or(0, |entry| entry.epoch)
    }

    /// What is still owed for the guest.
    #[must_use]
    pub fn duty(&self, guest: &GuestId) -> Option<&Duty> {
        self.guests.get(guest).and_then(|entry| entry.duty.as_ref())
    }

    /// All guests that are known.
    pub fn guests(&self) -> impl Iterator<Item = (&GuestId, &Entry)> {
        self.guests.iter()
    }

    /// Takes custody in this epoch, or in the known one if that is newer.
    pub fn take(&mut self, guest: &GuestId, epoch: u64) {
        let entry = self.guests.entry(guest.clone()).or_default();
        entry.epoch = entry.epoch.max(epoch);
        entry.held = true;
    }

    /// Gives custody up; the epoch stays known.
    pub fn give_up(&mut self, guest: &GuestId) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.held = false;
            entry.qmp = None;
            entry.duty = None;
        }
    }

    /// Remembers where the guest's QEMU answers.
    pub fn set_qmp(&mut self, guest: &GuestId, qmp: PathBuf) {
        self.guests.entry(guest.clone()).or_default().qmp = Some(qmp);
    }

    /// Remembers, or forgets, what is owed.
    pub fn set_duty(&mut self, guest: &GuestId, duty: Option<Duty>) {
        self.guests.entry(guest.clone()).or_default().duty = duty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_never_goes_back_and_outlives_custody() {
        let guest = GuestId::new("db").expect("a valid name");
        let mut custody = Custody::default();
        assert_eq!((custody.epoch(&guest), custody.held(&guest)), (0, false));
        custody.take(&guest, 3);
        custody.take(&guest, 2);
        assert_eq!((custody.epoch(&guest), custody.held(&guest)), (3, true));
        custody.give_up(&guest);
        assert_eq!((custody.epoch(&guest), custody.held(&guest)), (3, false));
    }
}
