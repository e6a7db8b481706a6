//! What a move needs of a host: its side of the record, its sessions out and in, custody.

use super::Host;
use crate::AgentError;
use crate::custody::Custody;
use crate::impaired::Kept;
use lictor_datapath::{ImportRefusal, Mirror, Part, Told};
use lictor_evidence::{Body, MoveCopied, MoveSide, PlacedBy};
use lictor_policy::{Cause, Choice};
use lictor_types::{Counted, GuestId, RULES_PER_VNIC_MAX, Reason, Tallies, Tally, VnicId};
use lictor_wire::sessions::{Chunk, SlotRecord};
use lictor_wire::{MoreAddress, Transcript, class_digest};
use std::collections::BTreeMap;

/// A binding may have been given fewer sessions since its vnic was attached at the source.
const ARRIVAL_FACTOR: u32 = 2;

/// Rows that a vnic's tally can have: each reason and what was steered, both ways, and its rules.
const TALLY_ROWS_MAX: usize = 2 * (Reason::ALL.len() + 1) + RULES_PER_VNIC_MAX as usize;

/// What has arrived of a guest so far.
#[derive(Debug, Default)]
pub struct Arrival {
    /// What is here of the source's tables.
    mirrors: BTreeMap<VnicId, Mirror>,
    /// The memory of the chunk that is read.
    records: Vec<SlotRecord>,
    /// What was counted of it before it came.
    pub(crate) counted: BTreeMap<VnicId, Tallies>,
    /// Everything that was said of it.
    pub(crate) transcript: Transcript,
    rounds: u64,
    /// What had been said when the last round ended.
    until_round: u64,
}

impl Arrival {
    /// Sessions that the source has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.mirrors.values().map(Mirror::count).sum()
    }

    /// Sessions that were taken in.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.count() - self.refused().values().sum::<u64>()
    }

    /// Sessions that were not, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (refusal, count) in self.mirrors.values().flat_map(Mirror::refused) {
            *counts.entry(reason(refusal).to_owned()).or_default() += count;
        }
        counts
    }

    /// What the copy took, as the record says it.
    pub(crate) const fn copied(&self) -> MoveCopied {
        let Transcript { records, bytes, .. } = self.transcript;
        MoveCopied {
            rounds: self.rounds,
            records,
            last_records: records - self.until_round,
            bytes,
        }
    }

    pub(crate) const fn round_ends(&mut self) {
        self.rounds += 1;
        self.until_round = self.transcript.records;
    }
}

const fn reason(refusal: ImportRefusal) -> &'static str {
    match refusal {
        ImportRefusal::OtherSegment => "other-segment",
        ImportRefusal::Expired => "expired",
        ImportRefusal::TableFull => "session-table-full",
        ImportRefusal::Exists => "exists",
        ImportRefusal::ForeignAddress => "foreign-address",
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

    /// Changes what may be asked again after a crash; it is durable with the next round.
    pub(crate) fn note_custody(&mut self, change: impl FnOnce(&mut Custody)) {
        change(&mut self.custody);
        self.custody_unsaved = true;
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

    /// What impaired the protection of guests when an earlier life of the agent last said so.
    pub(crate) fn kept_impaired(&self) -> Result<Vec<Kept>, AgentError> {
        self.state.impaired()
    }

    /// Keeps that for the next life.
    pub(crate) fn keep_impaired(&self, kept: &[Kept]) -> Result<(), AgentError> {
        self.state.keep_impaired(kept)
    }

    /// What the guest's owner chose for a cause, today.
    #[must_use]
    pub fn choice(&self, guest: &GuestId, cause: Cause, now_ms: u64) -> Choice {
        let enforced = (self.release.as_ref(), &self.bindings);
        lictor_wire::kept::choice(enforced, guest, cause, now_ms)
    }

    /// Records what libvirt's hook has let pass while no agent answered here.
    ///
    /// # Errors
    /// [`AgentError::File`], or evidence that cannot be written: it is tried again then.
    pub fn record_passed(&mut self, now_ms: u64) -> Result<(), AgentError> {
        let all = self.state.passed()?;
        for passed in &all {
            let (subject, at_ms) = (format!("guest {}", passed.guest), passed.at_ms);
            let text = format!(
                "no agent answered when libvirt started it here, {} s ago, and its owner lets it \
                 run all the same",
                now_ms.saturating_sub(at_ms) / 1_000
            );
            self.record(Body::Alarm { subject, text }, now_ms)?;
            let placed = Body::GuestPlaced {
                guest: passed.guest.clone(),
                at: self.config.host.clone(),
                by: PlacedBy::Found,
                protected: false,
            };
            self.record(placed, now_ms)?;
        }
        if all.is_empty() {
            return Ok(());
        }
        self.state.passed_recorded()
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

    /// Goes on with a round of what of a vnic's sessions was not told yet.
    pub(crate) fn export_part(
        &self,
        of: (VnicId, &mut Told),
        max: usize,
        part: &mut Part,
    ) -> Result<(), AgentError> {
        Ok(self.datapath.export_part(of, max, part)?)
    }

    /// Nothing of a guest is exported any more.
    pub(crate) fn export_ended(&self, vnics: impl Iterator<Item = VnicId>) {
        vnics.for_each(|vnic| self.datapath.export_ended(vnic));
    }

    /// Takes sessions of a guest in, each only if one end of it is an address of that vnic. What
    /// came before of the same slots is replaced.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the source sends what is no session, more than its table can
    /// hold, or for a vnic that is not this guest's: it may lie.
    pub fn take_in(
        &self,
        (guest, vnic): (&GuestId, VnicId),
        chunk: &Chunk,
        arrival: &mut Arrival,
    ) -> Result<(), AgentError> {
        self.own_vnic(guest, vnic)?;
        let mut records = std::mem::take(&mut arrival.records);
        let read = chunk.read_into(&mut records);
        read.map_err(|error| {
            AgentError::Refused(format!("sessions that arrive for vnic {vnic}: {error}"))
        })?;
        arrival.transcript.sessions(vnic, chunk);
        let own = self.own_addresses((guest, vnic));
        let mirror = self.mirror((guest, vnic), arrival);
        let of_table = (chunk.table(), records.as_slice());
        let taken = self.datapath.mirror((vnic, mirror), of_table, |local| {
            own.iter().any(|own| own.covers(local))
        });
        arrival.records = records;
        Ok(taken?)
    }

    fn mirror<'a>(
        &self,
        (guest, vnic): (&GuestId, VnicId),
        arrival: &'a mut Arrival,
    ) -> &'a mut Mirror {
        let quota = || self.sessions_max((guest, vnic));
        arrival
            .mirrors
            .entry(vnic)
            .or_insert_with(|| Mirror::new(quota().saturating_mul(ARRIVAL_FACTOR)))
    }

    /// Takes out what the source has no more in slots of a table.
    ///
    /// # Errors
    /// [`AgentError::Refused`] for a vnic that is not this guest's: the sessions of other guests
    /// here are none of the source's business; [`AgentError::Datapath`] for slots that the source
    /// cannot have.
    pub fn take_out(
        &self,
        (guest, vnic): (&GuestId, VnicId),
        (table, slots): (u32, &[u32]),
        arrival: &mut Arrival,
    ) -> Result<(), AgentError> {
        self.own_vnic(guest, vnic)?;
        arrival.transcript.gone(vnic, (table, slots));
        let mirror = self.mirror((guest, vnic), arrival);
        Ok(self.datapath.mirror_gone((vnic, mirror), (table, slots))?)
    }

    /// What was counted of a guest's vnics, here and before it came here.
    pub(crate) fn tallies(&self, guest: &GuestId) -> Result<BTreeMap<VnicId, Tallies>, AgentError> {
        let vnics = self.vnics_of(guest).into_iter();
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
        for vnic in self.vnics_of(guest) {
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

    fn own_vnic(&self, guest: &GuestId, vnic: VnicId) -> Result<(), AgentError> {
        if self.vnics_of(guest).contains(&vnic) {
            return Ok(());
        }
        let what = format!("vnic {vnic} is none that guest {guest} has here");
        Err(AgentError::Refused(what))
    }

    fn sessions_max(&self, (guest, vnic): (&GuestId, VnicId)) -> u32 {
        let binding = self.bindings.guest(guest).into_iter();
        let mut bound = binding.flat_map(|binding| &binding.vnics);
        let found = bound.find(|bound| bound.vnic == vnic);
        found.map_or(0, |bound| bound.sessions_max)
    }

    /// Every address and prefix that the vnic may use, in whichever of its segments.
    fn own_addresses(&self, (guest, vnic): (&GuestId, VnicId)) -> Vec<MoreAddress> {
        let Some(binding) = self.bindings.guest(guest) else {
            return Vec::new();
        };
        let claims = self.bindings.claims(binding);
        let own = claims.filter(|(bound, _)| bound.vnic == vnic);
        let bound = binding.vnics.iter();
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
        for vnic in self.vnics_of(guest) {
            purged += self.datapath.purge(vnic)?;
        }
        Ok(purged)
    }

    /// Frames that the guest's devices had carried when they were attached: without a verdict.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn frames_before(&self, guest: &GuestId) -> Result<u64, AgentError> {
        let mut frames = 0;
        for vnic in self.vnics_of(guest) {
            let before = self.datapath.status(vnic)?.packets_before;
            frames += before.into_iter().sum::<u64>();
        }
        Ok(frames)
    }
}
