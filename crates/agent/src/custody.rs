//! Which guests run under this host's custody, and what a move still owes. It survives a restart:
//! two hosts must never both believe that a guest is theirs.

use lictor_types::{Digest, GuestId, HostId};
use lictor_wire::Envelope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Moves of one guest to this host whose sources have not confirmed them. With so many of them no
/// further move of the guest to this host is admitted.
pub const CONFIRMS_MAX: usize = 16;
/// How far beyond what is known here another host's word may carry an epoch: without a bound one
/// lie would use all epochs up, and no guest could be moved any more.
pub const EPOCH_JUMP_MAX: u64 = 1 << 32;

/// A guest has arrived, and its source has not signed the record yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// The source.
    pub from: HostId,
    /// The ticket's digest.
    pub ticket: Digest,
    /// The record, signed by this host.
    pub record: Envelope,
    /// What the source signed when it fenced the guest.
    pub save: Envelope,
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
    /// Whether evidence says last that some of its NICs are guarded by no hook.
    #[serde(default)]
    pub unguarded: bool,
    /// The ticket under which it is leaving, signed by both ends.
    #[serde(default)]
    pub leave: Option<Envelope>,
    /// What its sources must still hear of; it outlives the guest's stay.
    #[serde(default)]
    pub confirm: Vec<Confirm>,
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

    /// The guest whose arrival under this ticket its source must still hear of.
    #[must_use]
    pub fn owed(&self, ticket: &Digest) -> Option<(&GuestId, &Confirm)> {
        let all = self.guests.iter().flat_map(|(guest, entry)| {
            let confirm = entry.confirm.iter();
            confirm.map(move |confirm| (guest, confirm))
        });
        all.into_iter()
            .find(|(_, confirm)| confirm.ticket == *ticket)
    }

    /// Whether this host must still hear that the guest has left it.
    #[must_use]
    pub fn owes(&self, guest: &GuestId, host: &HostId) -> bool {
        let entry = self.guests.get(guest);
        entry.is_some_and(|entry| entry.confirm.iter().any(|one| one.from == *host))
    }

    /// How many sources must still hear of the guest.
    #[must_use]
    pub fn unconfirmed(&self, guest: &GuestId) -> usize {
        self.guests
            .get(guest)
            .map_or(0, |entry| entry.confirm.len())
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

    /// Gives custody up; the epoch stays known, and so does what others must still hear.
    pub fn give_up(&mut self, guest: &GuestId) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.held = false;
            entry.qmp = None;
            entry.leave = None;
        }
    }

    /// Where the guest's QEMU answers; none for a container.
    #[must_use]
    pub fn qmp(&self, guest: &GuestId) -> Option<&Path> {
        self.guests
            .get(guest)
            .and_then(|entry| entry.qmp.as_deref())
    }

    /// Forgets where the guest's QEMU answered: it has ended.
    pub fn clear_qmp(&mut self, guest: &GuestId) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.qmp = None;
        }
    }

    /// Remembers where the guest's QEMU answers.
    pub fn set_qmp(&mut self, guest: &GuestId, qmp: PathBuf) {
        self.guests.entry(guest.clone()).or_default().qmp = Some(qmp);
    }

    /// Remembers what evidence says of the guest's NICs.
    pub fn set_unguarded(&mut self, guest: &GuestId, unguarded: bool) {
        self.guests.entry(guest.clone()).or_default().unguarded = unguarded;
    }

    /// Whether evidence says last that some of the guest's NICs are guarded by no hook.
    #[must_use]
    pub fn unguarded(&self, guest: &GuestId) -> bool {
        self.guests.get(guest).is_some_and(|entry| entry.unguarded)
    }

    /// Remembers, or forgets, under which ticket the guest is leaving.
    pub fn set_leave(&mut self, guest: &GuestId, ticket: Option<Envelope>) {
        self.guests.entry(guest.clone()).or_default().leave = ticket;
    }

    /// Remembers what a source must hear.
    pub fn owe(&mut self, guest: &GuestId, confirm: Confirm) {
        let entry = self.guests.entry(guest.clone()).or_default();
        entry.confirm.push(confirm);
    }

    /// The source has heard it.
    pub fn confirmed(&mut self, ticket: &Digest) {
        for entry in self.guests.values_mut() {
            entry.confirm.retain(|one| one.ticket != *ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_wire::SigningKey;

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

    #[test]
    fn what_a_source_must_hear_outlives_the_stay_and_the_next_move() {
        let key = SigningKey::generate(
            "agent-b".parse().expect("a valid name"),
            &mut rand::rngs::OsRng,
        );
        let envelope = || Envelope::sign("application/test", b"{}", &[&key]);
        let (guest, other) = (
            GuestId::new("db").expect("a valid name"),
            HostId::new("z").expect("a valid name"),
        );
        let mut custody = Custody::default();
        for name in ["a", "c"] {
            let from = HostId::new(name).expect("a valid name");
            let confirm = Confirm {
                from: from.clone(),
                ticket: Digest::of(name.as_bytes()),
                record: envelope(),
                save: envelope(),
            };
            custody.take(&guest, 2);
            custody.owe(&guest, confirm);
            custody.set_leave(&guest, Some(envelope()));
            custody.give_up(&guest);
            assert!(custody.owes(&guest, &from), "{name}");
        }
        assert_eq!(custody.unconfirmed(&guest), 2);
        assert!(!custody.owes(&guest, &other));
        let ticket = Digest::of(b"a");
        assert_eq!(custody.owed(&ticket).map(|(guest, _)| guest), Some(&guest));
        custody.confirmed(&ticket);
        assert_eq!(custody.owed(&ticket), None);
        assert_eq!(custody.unconfirmed(&guest), 1);
    }
}
