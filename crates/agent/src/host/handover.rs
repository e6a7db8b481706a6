//! What a move needs of a host: its side of the record, its sessions out and in, custody.

use super::Host;
use crate::AgentError;
use crate::custody::Custody;
use lictor_datapath::{ImportRefusal, Mark};
use lictor_evidence::MoveSide;
use lictor_policy::{Cause, Choice, Date};
use lictor_types::{
    Counted, GuestId, RULES_PER_VNIC_MAX, Reason, SessionKey, SessionRecord, Tallies, Tally, VnicId,
};
use lictor_wire::sessions::CHUNK_RECORDS_MAX;
use lictor_wire::{MoreAddress, class_digest};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A guest's sessions as one end of a move knows them, by vnic.
pub(crate) type Sessions = BTreeMap<VnicId, HashMap<SessionKey, SessionRecord>>;

/// A binding may have been given fewer sessions since its vnic was attached at the source.
const ARRIVAL_FACTOR: usize = 2;

/// Rows that a vnic's tally can have: each reason and what was steered, both ways, and its rules.
const TALLY_ROWS_MAX: usize = 2 * (Reason::ALL.len() + 1) + RULES_PER_VNIC_MAX as usize;

/// What has arrived of a guest so far.
#[derive(Debug, Default)]
pub struct Arrival {
    /// What the source has.
    pub(crate) sessions: Sessions,
    /// What was counted of it before it came.
    pub(crate) counted: BTreeMap<VnicId, Tallies>,
    /// What this host did not take of it.
    refused: HashMap<(VnicId, SessionKey), &'static str>,
}

impl Arrival {
    /// Sessions that were taken in.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        let all: usize = self.sessions.values().map(HashMap::len).sum();
        (all - self.refused.len()) as u64
    }

    /// Sessions that were not, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for reason in self.refused.values() {
            *counts.entry((*reason).to_owned()).or_default() += 1;
        }
        counts
    }
}

/// What changed since the copy, of one vnic.
#[derive(Debug)]
pub(crate) struct Delta {
    pub(crate) vnic: VnicId,
    pub(crate) touched: Vec<SessionRecord>,
    pub(crate) gone: Vec<SessionKey>,
}

const fn reason(refusal: ImportRefusal) -> &'static str {
    match refusal {
        ImportRefusal::OtherSegment => "other-segment",
        ImportRefusal::Expired => "expired",
        ImportRefusal::TableFull => "session-table-full",
        ImportRefusal::Exists => "exists",
    }
}

impl Host {
    /// Which guests are under this host's custody.
    #[must_use]
    pub const fn custody(&self) -> &Custody {
        &self.custody
    }

    /// Changes custody, durably.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn change_custody(&mut self, change: impl FnOnce(&mut Custody)) -> Result<(), AgentError> {
        change(&mut self.custody);
        self.custody_unsaved = true;
        self.save_custody()
    }

    /// Writes custody again if its last change may not be on the disk: a full disk that has room
    /// again must not leave behind what a restart would get wrong.
    ///
    /// # Errors
    /// [`AgentError::File`].
    pub fn save_custody(&mut self) -> Result<(), AgentError> {
        if self.custody_unsaved {
            self.state.keep_custody(&self.custody)?;
            self.custody_unsaved = false;
        }
        Ok(())
    }

    /// What the guest's owner chose for a cause, today.
    #[must_use]
    pub fn choice(&self, guest: &GuestId, cause: Cause, now_ms: u64) -> Choice {
        let binding = self.bindings.guest(guest);
        let known = self.release.as_ref().zip(binding);
        let chosen = known.and_then(|(release, binding)| {
            let policy = &release.release().policy;
            let today = Date::from_unix_seconds(now_ms / 1_000);
            Some(policy.choice_on(policy.identity_of(&binding.labels)?, cause, today))
        });
        chosen.unwrap_or(cause.default_choice())
    }

    /// What the kernel enforces for a guest, read back now.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if there is no release or binding, [`AgentError::Datapath`].
    pub fn move_side(&self, guest: &GuestId) -> Result<MoveSide, AgentError> {
        let known = self.release.as_ref().zip(self.bindings.guest(guest));
        let identity = known.and_then(|(release, binding)| {
            let policy = &release.release().policy;
            policy.identity_of(&binding.labels)
        });
        let identity = identity.ok_or_else(|| {
            AgentError::Refused(format!("no release on this host knows guest {guest}"))
        })?;
        let tables = self.found()?;
        Ok(MoveSide {
            generation: tables.generation,
            tables: class_digest(&tables, identity),
        })
    }

    /// Every session of a guest, and the moment before they were read.
    pub(crate) fn copy_out(
        &self,
        guest: &GuestId,
    ) -> Result<(Sessions, BTreeMap<VnicId, Mark>), AgentError> {
        let (mut sessions, mut marks) = (Sessions::new(), BTreeMap::new());
        for vnic in self.vnics_of(guest)? {
            marks.insert(vnic, self.datapath.mark(vnic)?);
            let records = self.datapath.export(vnic)?;
            sessions.insert(vnic, by_key(&records));
        }
        Ok((sessions, marks))
    }

    /// What changed since then, and brings `sessions` up to date.
    pub(crate) fn changes(
        &self,
        sessions: &mut Sessions,
        marks: &BTreeMap<VnicId, Mark>,
    ) -> Result<Vec<Delta>, AgentError> {
        let mut deltas = Vec::new();
        for (vnic, known) in sessions {
            let Some(mark) = marks.get(vnic) else {
                continue;
            };
            let keys: HashSet<SessionKey> = known.keys().copied().collect();
            let changes = self.datapath.export_changed(*vnic, *mark, &keys)?;
            known.retain(|key, _| !changes.gone.contains(key));
            known.extend(by_key(&changes.touched));
            deltas.push(Delta {
                vnic: *vnic,
                touched: changes.touched,
                gone: changes.gone,
            });
        }
        Ok(deltas)
    }

    /// Takes sessions of a guest in, each only if one end of it is an address of that vnic. What
    /// came before under the same key is replaced.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the source sends more than its table can hold, or for a vnic that
    /// is not this guest's: it may lie.
    pub fn take_in(
        &self,
        (guest, vnic): (&GuestId, VnicId),
        records: &[SessionRecord],
        arrival: &mut Arrival,
    ) -> Result<(), AgentError> {
        self.own_vnic(guest, vnic)?;
        let own = self.own_addresses(vnic);
        let known = arrival.sessions.entry(vnic).or_default();
        let max = self.sessions_max(vnic).saturating_mul(ARRIVAL_FACTOR);
        if known.len() + records.len() > max + CHUNK_RECORDS_MAX {
            let what = format!("more than {max} sessions arrive for vnic {vnic}");
            return Err(AgentError::Refused(what));
        }
        let replaced: Vec<SessionKey> = records
            .iter()
            .map(|record| record.key)
            .filter(|key| known.contains_key(key))
            .collect();
        self.datapath.remove_sessions(vnic, &replaced)?;
        known.extend(by_key(records));
        let (ours, foreign): (Vec<_>, Vec<_>) = records
            .iter()
            .partition(|record| own.iter().any(|own| own.covers(record.key.local)));
        let receipt = self.datapath.import(vnic, &ours)?;
        for record in records {
            arrival.refused.remove(&(vnic, record.key));
        }
        for (key, refusal) in receipt.refused {
            arrival.refused.insert((vnic, key), reason(refusal));
        }
        for record in foreign {
            let key: SessionKey = record.key;
            arrival.refused.insert((vnic, key), "foreign-address");
        }
        Ok(())
    }

    /// What was counted of a guest's vnics, here and before it came here.
    pub(crate) fn tallies(&self, guest: &GuestId) -> Result<BTreeMap<VnicId, Tallies>, AgentError> {
        let vnics = self.vnics_of(guest)?.into_iter();
        vnics
            .map(|vnic| Ok((vnic, self.datapath.tally(vnic)?)))
            .collect()
    }

    /// Takes off what goes along with a guest that has left.
    pub(crate) fn tallies_left(
        &self,
        guest: &GuestId,
        counted: &BTreeMap<VnicId, Tallies>,
    ) -> Result<(), AgentError> {
        let take = |vnic, tallies: &Tallies| self.datapath.take_tally(vnic, tallies);
        self.each_tally(guest, counted, take)
    }

    /// Adds what came along with a guest that has arrived.
    pub(crate) fn tallies_arrived(
        &self,
        guest: &GuestId,
        counted: &BTreeMap<VnicId, Tallies>,
    ) -> Result<(), AgentError> {
        let add = |vnic, tallies: &Tallies| self.datapath.add_tally(vnic, tallies);
        self.each_tally(guest, counted, add)
    }

    /// Of the vnics that are here: one whose device has gone took its counters with it.
    fn each_tally(
        &self,
        guest: &GuestId,
        counted: &BTreeMap<VnicId, Tallies>,
        change: impl Fn(VnicId, &Tallies) -> Result<(), lictor_datapath::Error>,
    ) -> Result<(), AgentError> {
        for vnic in self.vnics_of(guest)? {
            if let Some(tallies) = counted.get(&vnic) {
                change(vnic, tallies)?;
            }
        }
        Ok(())
    }

    /// Notes what the source has counted of a vnic.
    ///
    /// # Errors
    /// [`AgentError::Refused`] for a vnic that is not this guest's, or for more rows than a vnic
    /// can have.
    pub fn note_counted(
        &self,
        (guest, vnic): (&GuestId, VnicId),
        rows: Vec<(Counted, Tally)>,
        arrival: &mut Arrival,
    ) -> Result<(), AgentError> {
        self.own_vnic(guest, vnic)?;
        let tallies = arrival.counted.entry(vnic).or_default();
        tallies.extend(rows);
        if tallies.len() > TALLY_ROWS_MAX {
            let what = format!("more than {TALLY_ROWS_MAX} counters arrive for vnic {vnic}");
            return Err(AgentError::Refused(what));
        }
        Ok(())
    }

    /// Removes sessions that the source no longer has.
    ///
    /// # Errors
    /// [`AgentError::Refused`] for a vnic that is not this guest's: the sessions of other guests
    /// here are none of the source's business.
    pub fn take_out(
        &self,
        (guest, vnic): (&GuestId, VnicId),
        keys: &[SessionKey],
        arrival: &mut Arrival,
    ) -> Result<(), AgentError> {
        self.own_vnic(guest, vnic)?;
        self.datapath.remove_sessions(vnic, keys)?;
        for key in keys {
            if let Some(known) = arrival.sessions.get_mut(&vnic) {
                known.remove(key);
            }
            arrival.refused.remove(&(vnic, *key));
        }
        Ok(())
    }

    fn own_vnic(&self, guest: &GuestId, vnic: VnicId) -> Result<(), AgentError> {
        if self.vnics_of(guest)?.contains(&vnic) {
            return Ok(());
        }
        let what = format!("vnic {vnic} is none that guest {guest} has here");
        Err(AgentError::Refused(what))
    }

    fn sessions_max(&self, vnic: VnicId) -> usize {
        let mut bound = self.bindings.guests().flat_map(|guest| &guest.vnics);
        let found = bound.find(|bound| bound.vnic == vnic);
        found.map_or(0, |bound| bound.sessions_max as usize)
    }

    /// Every address and prefix that the vnic may use, in whichever of its segments.
    fn own_addresses(&self, vnic: VnicId) -> Vec<MoreAddress> {
        let guests = self.bindings.guests();
        let claims = guests.flat_map(|guest| self.bindings.claims(guest));
        let own = claims.filter(|(bound, _)| bound.vnic == vnic);
        let bound = self.bindings.guests().flat_map(|guest| &guest.vnics);
        let link_local = bound
            .filter(|bound| bound.vnic == vnic)
            .map(|bound| MoreAddress::own(bound.mac.link_local().into()));
        own.map(|(_, claim)| claim).chain(link_local).collect()
    }

    /// Removes every session of a guest.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn purge(&self, guest: &GuestId) -> Result<u64, AgentError> {
        let mut purged = 0;
        for vnic in self.vnics_of(guest)? {
            purged += self.datapath.purge(vnic)?;
        }
        Ok(purged)
    }

    /// Frames that the guest's devices had carried when they were attached: without a verdict.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn frames_before(&self, guest: &GuestId) -> Result<u64, AgentError> {
        let vnics = self.vnics_of(guest)?;
        let statuses = self.datapath.vnics()?;
        let ours = statuses
            .iter()
            .filter(|status| vnics.contains(&status.spec.vnic));
        Ok(ours.flat_map(|status| status.packets_before).sum())
    }
}

fn by_key(records: &[SessionRecord]) -> HashMap<SessionKey, SessionRecord> {
    records.iter().map(|record| (record.key, *record)).collect()
}
