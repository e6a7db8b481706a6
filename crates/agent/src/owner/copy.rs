//! What goes along with a guest that leaves: its sessions in rounds while it runs, the rest when it
//! stands still, and what was counted of it.

use super::leaving::Leaving;
use super::{Owner, warn};
use crate::AgentError;
use crate::input::Now;
use crate::moves::rounds::{Next, REST_US, SILENCE_US};
use crate::moves::source;
use lictor_datapath::{Part, Told};
use lictor_evidence::MoveCopied;
use lictor_types::{Digest, GuestId, HostId, Tallies, VnicId};
use lictor_wire::Transcript;
use lictor_wire::local::MovePhase;
use lictor_wire::peer::{COUNTED_ROWS_MAX, Frame, GONE_MAX, Step};
use lictor_wire::sessions::{CHUNK_RECORDS_MAX, Chunk};
use std::collections::BTreeMap;

/// Sessions that are sent at once while the guest stands still: both ends and what is between them
/// work at the same time.
const PAUSE_RECORDS: usize = 2_048;

/// What was sent of a guest's sessions.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) told: BTreeMap<VnicId, Told>,
    /// The memory of what is sent next: the first touch of as much new memory for each chunk would
    /// take as long as reading the sessions.
    part: Part,
    /// Vnics of which this round has not told all yet.
    left: Vec<VnicId>,
    pub(super) transcript: Transcript,
    /// Sessions that were sent when the guest stood still.
    last_records: u64,
    /// The guest stands still, and everything was sent.
    sealed: bool,
}

/// How much of a round is sent at once.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// A chunk at most: the guest runs, and others have moves, too.
    Part,
    /// As much as possible: the guest stands still.
    Fast,
}

impl Copied {
    pub(super) fn count(&self) -> u64 {
        self.told.values().map(Told::count).sum()
    }
}

impl Leaving {
    /// The part of the record that says what the copy took.
    pub(super) fn copied(&self) -> MoveCopied {
        let Transcript { records, bytes, .. } = self.copy.transcript;
        MoveCopied {
            rounds: self.rounds.count(),
            records,
            last_records: self.copy.last_records,
            bytes,
        }
    }

    /// The guest goes on: what was sent last is not the last any more.
    pub(super) fn goes_on(&mut self) {
        if !self.is_fenced() {
            self.stopped = None;
            self.copy.sealed = false;
        }
    }

    /// A guest that stands still before its copy is complete waits for it.
    fn in_rounds(&self) -> bool {
        match self.machine.phase() {
            MovePhase::Copying => self.stopped.is_none() || self.machine.is_saving(),
            MovePhase::Copied => self.stopped.is_none(),
            _ => false,
        }
    }
}

impl Owner {
    /// What cannot be copied is given up while the guest still runs.
    pub(super) fn copy(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        match self.begin_copy(guest) {
            Ok(()) => Ok(()),
            Err(error) => self.no_copy(guest, &error, now),
        }
    }

    fn no_copy(&mut self, guest: &GuestId, error: &AgentError, now: Now) -> Result<(), AgentError> {
        self.set_cause(guest, error.chain());
        self.leave(guest, source::Event::Abandon, now)
    }

    /// The copy begins only when QEMU will ask before the guest leaves. Whoever moves a container
    /// asks at the agent's socket.
    fn begin_copy(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let guarded = self.watches.get(guest).is_some_and(|watch| watch.guarded)
            || self.is_container(guest)?;
        let side = self.host.move_side(guest)?;
        let vnics = self.host.vnics_of(guest);
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        leaving.copy_waits = !guarded;
        if guarded {
            leaving.side = Some(side);
            let untold = |vnic| (vnic, Told::default());
            leaving.copy.told = vnics.into_iter().map(untold).collect();
            leaving.rounds.begin();
        }
        Ok(())
    }

    pub(super) fn copy_if_waiting(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        if self.leaving.get(guest).is_some_and(|one| one.copy_waits) {
            return self.copy(guest, now);
        }
        Ok(())
    }

    /// QEMU says how a migration goes: its guest stops at any moment from then on, and the rounds
    /// come closer. One that stays is in no hurry any more.
    pub(super) fn pace(&mut self, guest: &GuestId, status: &str, now: Now) {
        let rest_us = match status {
            "active" => self.host.config().copy_rest_ms * 1_000,
            "failed" | "cancelled" => REST_US,
            _ => return,
        };
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.rounds.pace(rest_us, now.us);
        }
    }

    /// Goes on with the rounds of guests that leave, as far as their targets keep up.
    pub(super) fn rounds_due(&mut self, now: Now, which: impl Fn(&Leaving) -> bool) {
        let running = self.leaving.iter();
        let running = running.filter(|(_, one)| one.in_rounds() && which(one));
        let running: Vec<GuestId> = running.map(|(guest, _)| guest.clone()).collect();
        for guest in running {
            if let Err(error) = self.go_on(&guest, now) {
                let given_up = self.no_copy(&guest, &error, now);
                warn("a copy that cannot go on", given_up);
            }
        }
    }

    fn go_on(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        while let Some(leaving) = self.leaving.get_mut(guest).filter(|one| one.in_rounds()) {
            match leaving.rounds.next(now.us) {
                Next::Wait => break,
                Next::Silent => {
                    let seconds = SILENCE_US / 1_000_000;
                    let what = format!("the target has said nothing for {seconds} s");
                    return Err(AgentError::Refused(what));
                }
                Next::Copied => self.leave(guest, source::Event::CopySent, now)?,
                Next::Send => self.send_part(guest)?,
            }
        }
        Ok(())
    }

    /// Sends a chunk of a round at most, and says so if that was its end.
    fn send_part(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        if leaving.copy.left.is_empty() {
            leaving.copy.left = leaving.copy.told.keys().copied().collect();
        }
        self.send_vnic(guest, Pace::Part)?;
        let leaving = self.leaving.get_mut(guest);
        if let Some(leaving) = leaving.filter(|one| one.copy.left.is_empty()) {
            let number = leaving.rounds.ended();
            let (target, ticket) = (leaving.ticket.target.clone(), leaving.digest);
            self.tell(&target, ticket, Step::Round { number });
        }
        Ok(())
    }

    /// Sends what is left of the round for one vnic, or a part of that.
    fn send_vnic(&mut self, guest: &GuestId, pace: Pace) -> Result<(), AgentError> {
        let gone = || AgentError::Refused(format!("no move of guest {guest} is under way"));
        let leaving = self.leaving.get_mut(guest).ok_or_else(gone)?;
        let Some(vnic) = leaving.copy.left.last().copied() else {
            return Ok(());
        };
        let told = leaving.copy.told.get_mut(&vnic).ok_or_else(gone)?;
        let part = &mut leaving.copy.part;
        match pace {
            Pace::Part => self
                .host
                .export_part((vnic, told), CHUNK_RECORDS_MAX, part)?,
            Pace::Fast => self.host.export_part((vnic, told), PAUSE_RECORDS, part)?,
        }
        let part = std::mem::take(part);
        self.send_sessions(guest, vnic, &part)?;
        self.send_gone(guest, vnic, &part.gone);
        if let Some(leaving) = self.leaving.get_mut(guest) {
            if part.ended {
                leaving.copy.left.pop();
            }
            leaving.copy.part = part;
        }
        Ok(())
    }

    fn send_sessions(
        &mut self,
        guest: &GuestId,
        vnic: VnicId,
        part: &Part,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        for records in part.records.chunks(CHUNK_RECORDS_MAX) {
            let chunk = Chunk::of(part.table, records);
            leaving.copy.transcript.sessions(vnic, &chunk);
            leaving.rounds.sent(1, records.len() as u64);
            let frame = Frame::Sessions {
                ticket: leaving.digest,
                vnic,
                chunk,
            };
            self.links.send(&leaving.ticket.target, frame)?;
        }
        Ok(())
    }

    fn send_gone(&mut self, guest: &GuestId, vnic: VnicId, gone: &[(u32, u32)]) {
        for of_table in gone.chunk_by(|one, next| one.0 == next.0) {
            let table = of_table.first().map_or(0, |(table, _)| *table);
            for slots in of_table.chunks(GONE_MAX) {
                let slots: Vec<u32> = slots.iter().map(|(_, slot)| *slot).collect();
                let Some(leaving) = self.leaving.get_mut(guest) else {
                    return;
                };
                leaving.copy.transcript.gone(vnic, (table, &slots));
                let (target, ticket) = (leaving.ticket.target.clone(), leaving.digest);
                self.tell(&target, ticket, Step::Gone { vnic, table, slots });
            }
        }
    }

    /// The guest stands still: everything that is left is sent. QEMU says that it has stopped some
    /// milliseconds before it asks, so that this is done by then. What arrives for the guest
    /// meanwhile reaches it nowhere, and its peers will say it again to its next host.
    pub(super) fn seal(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        if leaving.machine.phase() < MovePhase::Copied || leaving.copy.sealed {
            return Ok(());
        }
        let before = leaving.copy.transcript.records;
        // A round that had begun has not seen the end of what it looked at first.
        if !leaving.copy.left.is_empty() {
            self.send_rest(guest)?;
        }
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.copy.left = leaving.copy.told.keys().copied().collect();
        }
        self.send_rest(guest)?;
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.copy.last_records = leaving.copy.transcript.records - before;
            leaving.copy.sealed = true;
        }
        Ok(())
    }

    fn send_rest(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let left = |one: &Leaving| !one.copy.left.is_empty();
        while self.leaving.get(guest).is_some_and(left) {
            self.send_vnic(guest, Pace::Fast)?;
        }
        Ok(())
    }

    pub(super) fn taken(&mut self, guest: &GuestId, chunks: u64) {
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.rounds.taken(chunks);
        }
    }

    pub(super) fn send_counted(
        &self,
        target: &HostId,
        ticket: Digest,
        counted: BTreeMap<VnicId, Tallies>,
    ) {
        for (vnic, tallies) in counted {
            let rows = Vec::from_iter(tallies);
            for rows in rows.chunks(COUNTED_ROWS_MAX) {
                let rows = rows.to_vec();
                self.tell(target, ticket, Step::Counted { vnic, rows });
            }
        }
    }
}
