//! What goes along with a guest that leaves: its sessions in rounds while it runs, the rest when it
//! stands still, and what was counted of it.

use super::{Owner, warn};
use crate::AgentError;
use crate::input::Now;
use crate::moves::rounds::{Next, SILENCE_US};
use crate::moves::source;
use lictor_datapath::Told;
use lictor_evidence::MoveCopied;
use lictor_types::{Digest, GuestId, HostId, SessionKey, SessionRecord, Tallies, VnicId};
use lictor_wire::Transcript;
use lictor_wire::local::MovePhase;
use lictor_wire::peer::{COUNTED_ROWS_MAX, Frame, GONE_MAX, Step};
use lictor_wire::sessions::{CHUNK_RECORDS_MAX, Chunk, fingerprint};
use std::collections::BTreeMap;

/// What was sent of a guest's sessions.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) told: BTreeMap<VnicId, Told>,
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
    /// At most so many sessions: the guest runs, and others have moves, too.
    Part(usize),
    /// As much as possible: the guest stands still.
    Fast,
}

impl Copied {
    pub(super) fn count(&self) -> u64 {
        self.told.values().map(Told::count).sum()
    }
}

impl super::leaving::Leaving {
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

    fn in_rounds(&self) -> bool {
        let phases = [MovePhase::Copying, MovePhase::Copied];
        phases.contains(&self.machine.phase()) && self.stopped.is_none()
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

    /// The copy begins only when QEMU will ask before the guest leaves.
    fn begin_copy(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let guarded = self.watches.get(guest).is_some_and(|watch| watch.guarded);
        let side = self.host.move_side(guest)?;
        let vnics = self.host.vnics_of(guest)?;
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

    /// Goes on with the rounds of every guest that leaves, as far as their targets keep up.
    pub(super) fn rounds_due(&mut self, now: Now) {
        let running = self.leaving.iter().filter(|(_, one)| one.in_rounds());
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
                Next::Send(most) => self.send_part(guest, most)?,
            }
        }
        Ok(())
    }

    /// Sends at most so many sessions of a round, and says so if that was its end.
    fn send_part(&mut self, guest: &GuestId, mut most: usize) -> Result<(), AgentError> {
        loop {
            let Some(leaving) = self.leaving.get_mut(guest) else {
                return Ok(());
            };
            if leaving.copy.left.is_empty() {
                leaving.copy.left = leaving.copy.told.keys().copied().collect();
            }
            let sent = self.send_vnic(guest, Pace::Part(most))?;
            let Some(leaving) = self.leaving.get_mut(guest) else {
                return Ok(());
            };
            if leaving.copy.left.is_empty() {
                let number = leaving.rounds.ended();
                let (target, ticket) = (leaving.ticket.target.clone(), leaving.digest);
                self.tell(&target, ticket, Step::Round { number });
                return Ok(());
            }
            // The next vnic's records go into chunks of their own.
            most = most.saturating_sub(sent.next_multiple_of(CHUNK_RECORDS_MAX));
            if most == 0 {
                return Ok(());
            }
        }
    }

    /// Sends what is left of the round for one vnic, or a part of that. Gives how many sessions.
    fn send_vnic(&mut self, guest: &GuestId, pace: Pace) -> Result<usize, AgentError> {
        let gone = || AgentError::Refused(format!("no move of guest {guest} is under way"));
        let leaving = self.leaving.get_mut(guest).ok_or_else(gone)?;
        let ticket = leaving.digest;
        let Some(vnic) = leaving.copy.left.last().copied() else {
            return Ok(0);
        };
        let told = leaving.copy.told.get_mut(&vnic).ok_or_else(gone)?;
        let name = |key: &SessionKey| fingerprint(&ticket, key);
        let part = match pace {
            Pace::Part(most) => self.host.export_part((vnic, told), most, name)?,
            Pace::Fast => self.host.export_fast((vnic, told), name)?,
        };
        let target = leaving.ticket.target.clone();
        self.send_sessions(guest, (&target, ticket, vnic), &part.records)?;
        if let Some(gone) = part.gone {
            self.send_gone(guest, (&target, ticket, vnic), &gone);
            if let Some(leaving) = self.leaving.get_mut(guest) {
                leaving.copy.left.pop();
            }
        }
        Ok(part.records.len())
    }

    fn send_sessions(
        &mut self,
        guest: &GuestId,
        (target, ticket, vnic): (&HostId, Digest, VnicId),
        records: &[SessionRecord],
    ) -> Result<(), AgentError> {
        for records in records.chunks(CHUNK_RECORDS_MAX) {
            let chunk = Chunk::of(records);
            if let Some(leaving) = self.leaving.get_mut(guest) {
                leaving.copy.transcript.sessions(vnic, &chunk);
                leaving.rounds.sent(1, records.len() as u64);
            }
            let frame = Frame::Sessions {
                ticket,
                vnic,
                chunk,
            };
            self.links.send(target, frame)?;
        }
        Ok(())
    }

    fn send_gone(
        &mut self,
        guest: &GuestId,
        (target, ticket, vnic): (&HostId, Digest, VnicId),
        gone: &[u64],
    ) {
        for fingerprints in gone.chunks(GONE_MAX) {
            if let Some(leaving) = self.leaving.get_mut(guest) {
                leaving.copy.transcript.gone(vnic, fingerprints);
            }
            let fingerprints = fingerprints.to_vec();
            self.tell(target, ticket, Step::Gone { vnic, fingerprints });
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
        let left = |one: &super::leaving::Leaving| !one.copy.left.is_empty();
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
