//! Which guests run under this host's custody, and what a move still owes. It survives a restart:
//! two hosts must never both believe that a guest is theirs.

use lictor_types::{Digest, GuestId, HostId};
use lictor_wire::Envelope;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Moves of one guest to this host whose sources have not confirmed them. With so many of them no
/// further move of the guest to this host is admitted.
pub const CONFIRMS_MAX: usize = 16;
/// How far beyond what is known here another host's word may carry an epoch: without a bound one
/// lie would use all epochs up, and no guest could be moved any more.
pub const EPOCH_JUMP_MAX: u64 = 1 << 32;

/// Tickets of one source for one guest that were admitted and have not lapsed, their moves given
/// up. With so many of them no further one is admitted.
pub const SPENT_MAX: usize = 64;

/// A ticket that was admitted here: it is good for one move, also after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// The ticket's digest.
    pub ticket: Digest,
    /// Who had asked.
    pub source: HostId,
    /// The custody epoch that it is for: one that is known here makes the ticket worthless. An
    /// order of two persons is for none, see [`Spent::ORDER`].
    pub custody: u64,
    /// When it lapses, in milliseconds of Unix time.
    pub deadline_ms: u64,
}

impl Spent {
    /// In the place of an epoch, of what is no ticket: no epoch makes it worthless.
    pub const ORDER: u64 = u64::MAX;
}

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

/// A guest that left a host without a move, and that no agent claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unclaimed {
    /// The custody epoch that ended then: a claim is for one that is no older.
    pub epoch: u64,
    /// Since when, in milliseconds of Unix time, as far as that is known here.
    pub since_ms: u64,
    /// It was this host that it left.
    pub from_here: bool,
    /// Nobody has claimed it in time: it is cut off here.
    pub quarantined: bool,
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
    /// Tickets that were admitted here and could be used again if they were forgotten.
    #[serde(default)]
    pub spent: Vec<Spent>,
    /// Hosts that were not heard when custody was taken, and may have the guest, too.
    #[serde(default)]
    pub doubts: BTreeSet<HostId>,
    /// An order by which the guest may come here, which was presented and not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Envelope>,
    /// An order that overrides reasons against a move from here, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overriding: Option<Envelope>,
    /// No agent claims it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed: Option<Unclaimed>,
    /// Its links were taken down here, and it left like that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// The order by which the guest was taken here, until the host that it names has heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evacuated: Option<Envelope>,
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
        entry.cut = false;
    }

    /// Remembers, or forgets, that no agent claims the guest.
    pub fn set_unclaimed(&mut self, guest: &GuestId, unclaimed: Option<Unclaimed>) {
        self.guests.entry(guest.clone()).or_default().unclaimed = unclaimed;
    }

    /// Since when no agent claims the guest, if none does.
    #[must_use]
    pub fn unclaimed(&self, guest: &GuestId) -> Option<Unclaimed> {
        self.guests.get(guest)?.unclaimed
    }

    /// Guests that are cut off here because no agent claims them.
    pub fn quarantined(&self) -> impl Iterator<Item = (&GuestId, Unclaimed)> {
        let all = self.guests.iter();
        let unclaimed = all.filter_map(|(guest, entry)| Some((guest, entry.unclaimed?)));
        unclaimed.filter(|(_, one)| one.quarantined)
    }

    /// Remembers, or forgets, that the guest's links were taken down here.
    pub fn set_cut(&mut self, guest: &GuestId, cut: bool) {
        self.guests.entry(guest.clone()).or_default().cut = cut;
    }

    /// Whether the guest left this host with its links down.
    #[must_use]
    pub fn left_cut(&self, guest: &GuestId) -> bool {
        let entry = self.guests.get(guest);
        entry.is_some_and(|entry| entry.cut && !entry.held)
    }

    /// Gives custody up; the epoch stays known, and so does what others must still hear.
    pub fn give_up(&mut self, guest: &GuestId) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.held = false;
            entry.qmp = None;
            entry.leave = None;
            entry.doubts.clear();
            entry.evacuated = None;
        }
    }

    /// Gives custody up of a guest whose QEMU is still here.
    pub fn give_way(&mut self, guest: &GuestId) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.held = false;
            entry.doubts.clear();
        }
    }

    /// Gives custody up of a guest that is gone from here, and goes on asking where it is.
    pub fn disown(&mut self, guest: &GuestId) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.held = false;
            entry.qmp = None;
        }
    }

    /// Hosts that may have the guest, too.
    #[must_use]
    pub fn doubts(&self, guest: &GuestId) -> BTreeSet<HostId> {
        let entry = self.guests.get(guest);
        entry.map(|entry| entry.doubts.clone()).unwrap_or_default()
    }

    /// Remembers which hosts may have the guest, too.
    pub fn doubt(&mut self, guest: &GuestId, hosts: BTreeSet<HostId>) {
        self.guests.entry(guest.clone()).or_default().doubts = hosts;
    }

    /// The order by which the guest was taken here, of which its last host has not heard.
    #[must_use]
    pub fn evacuated(&self, guest: &GuestId) -> Option<&Envelope> {
        let entry = self.guests.get(guest)?;
        entry.evacuated.as_ref()
    }

    /// Remembers by which order the guest was taken, if a host must still hear of that.
    pub fn evacuate(&mut self, guest: &GuestId, order: Option<Envelope>) {
        self.guests.entry(guest.clone()).or_default().evacuated = order;
    }

    /// That host has heard of it: what it knew of epochs is behind this host's.
    pub fn evacuation_heard(&mut self, guest: &GuestId, epoch: u64) {
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.evacuated = None;
            let believed = epoch.min(entry.epoch.saturating_add(EPOCH_JUMP_MAX));
            entry.epoch = entry.epoch.max(believed.saturating_add(1));
        }
    }

    /// Remembers, or forgets, an order by which the guest may come here.
    pub fn set_order(&mut self, guest: &GuestId, order: Option<Envelope>) {
        self.guests.entry(guest.clone()).or_default().order = order;
    }

    /// The order by which the guest may come here.
    #[must_use]
    pub fn order(&self, guest: &GuestId) -> Option<&Envelope> {
        self.guests.get(guest)?.order.as_ref()
    }

    /// Remembers, or forgets, an order that overrides reasons against a move from here.
    pub fn set_overriding(&mut self, guest: &GuestId, order: Option<Envelope>) {
        self.guests.entry(guest.clone()).or_default().overriding = order;
    }

    /// The order that overrides reasons against a move from here.
    #[must_use]
    pub fn overriding(&self, guest: &GuestId) -> Option<&Envelope> {
        self.guests.get(guest)?.overriding.as_ref()
    }

    /// Remembers a ticket that is being admitted, and forgets those that nobody can use any more.
    pub fn spend(&mut self, guest: &GuestId, ticket: Spent, now_ms: u64) {
        let entry = self.guests.entry(guest.clone()).or_default();
        let epoch = entry.epoch;
        entry
            .spent
            .retain(|one| one.deadline_ms >= now_ms && one.custody > epoch);
        entry.spent.push(ticket);
    }

    /// Whether the ticket was admitted here before.
    #[must_use]
    pub fn is_spent(&self, guest: &GuestId, ticket: &Digest) -> bool {
        let entry = self.guests.get(guest);
        entry.is_some_and(|entry| entry.spent.iter().any(|one| one.ticket == *ticket))
    }

    /// Tickets of a source for a guest that would still be good; orders are none.
    #[must_use]
    pub fn spent_by(&self, guest: &GuestId, source: &HostId, now_ms: u64) -> usize {
        let Some(entry) = self.guests.get(guest) else {
            return 0;
        };
        let good = |one: &&Spent| {
            let ticket = one.custody != Spent::ORDER;
            ticket && one.deadline_ms >= now_ms && one.custody > entry.epoch
        };
        let spent = entry.spent.iter().filter(good);
        spent.filter(|one| one.source == *source).count()
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

    #[test]
    fn a_ticket_is_spent_until_it_has_lapsed_or_its_epoch_is_known_also_after_a_restart() {
        let guest = GuestId::new("db").expect("a valid name");
        let [a, c] = ["a", "c"].map(|name| HostId::new(name).expect("a valid name"));
        let spent = |number: u8, deadline_ms| Spent {
            ticket: Digest::of(&[number]),
            source: a.clone(),
            custody: u64::from(number),
            deadline_ms,
        };
        let mut custody = Custody::default();
        custody.spend(&guest, spent(2, 50), 1);
        custody.spend(&guest, spent(3, 90), 1);
        let written = serde_json::to_vec(&custody).expect("it has a JSON form");
        let mut custody: Custody = serde_json::from_slice(&written).expect("it is read again");
        let good = |custody: &Custody, now_ms| custody.spent_by(&guest, &a, now_ms);
        assert_eq!((good(&custody, 50), good(&custody, 51)), (2, 1));
        assert_eq!(custody.spent_by(&guest, &c, 50), 0);
        assert!(custody.is_spent(&guest, &Digest::of(&[2])));
        custody.take(&guest, 3);
        assert_eq!(good(&custody, 50), 0, "nobody admits them any more");
        custody.spend(&guest, spent(4, 99), 50);
        assert!(!custody.is_spent(&guest, &Digest::of(&[2])), "forgotten");
        assert!(custody.is_spent(&guest, &Digest::of(&[4])));
    }
}
