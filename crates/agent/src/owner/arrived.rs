//! Guests that have arrived: custody, the target's part of the move record, and what the source
//! must hear of it.

use super::arriving::{Arriving, Opened};
use super::leaving::parse;
use super::{Owner, warn};
use crate::AgentError;
use crate::custody::Confirm;
use crate::guests::Order;
use crate::host::judged_of;
use crate::input::{LoadReply, Now};
use lictor_evidence::{
    Body, MOVE_RECORD_TYPE, MoveCounted, MoveOutcome, MoveRecord, MoveSessions, PlacedBy,
};
use lictor_types::{Counted, Digest, GuestId, HostId, Tallies, VnicId};
use lictor_wire::Envelope;
use lictor_wire::local::{MovePhase, MoveStatus, Response};
use lictor_wire::peer::{SaveRecord, Step, counted_digest};
use std::collections::BTreeMap;

fn move_counted(counted: &BTreeMap<VnicId, Tallies>) -> MoveCounted {
    let rules = counted.values().flat_map(BTreeMap::keys);
    let rules = rules.filter(|counted| matches!(counted, Counted::Rule(_)));
    MoveCounted {
        judged: counted.values().flat_map(judged_of).sum(),
        rules: rules.count() as u64,
        digest: counted_digest(counted),
    }
}

impl Arriving {
    /// How far the move is, as far as a hook of the management layer must know.
    fn status(&self) -> MoveStatus {
        let phase = match (self.attached, self.copied) {
            (false, _) => MovePhase::Admitted,
            (true, false) => MovePhase::Copying,
            (true, true) => MovePhase::Copied,
        };
        MoveStatus {
            guest: self.ticket.guest.clone(),
            phase,
            sessions_sent: self.arrival.count(),
            cause: self.cause.clone(),
        }
    }
}

impl Owner {
    /// Whether the management layer may let the guest come, and how far its sessions are: a hook of
    /// it asks before it makes anything, and before the guest's memory comes.
    pub(super) fn move_expected(&self, guest: &GuestId) -> Response {
        let arriving = self.arriving.get(guest);
        let expected = arriving.filter(|one| !one.machine.ended());
        expected.map_or(Response::Unexpected, |one| Response::Move(one.status()))
    }

    /// A state that no move brought: of a snapshot taken here, which begins another epoch and keeps
    /// no session, or of something that must not run here.
    pub(super) fn load_unasked(
        &mut self,
        guest: &GuestId,
        saved: Result<Opened, AgentError>,
        reply: &LoadReply,
        now: Now,
    ) -> Result<(), AgentError> {
        let answer = match saved {
            Ok(Opened {
                record: SaveRecord::Snapshot { .. },
                signers,
                ..
            }) if self.host.custody().held(guest)
                && signers.contains(&self.host.key().verify_key()) =>
            {
                self.host.purge(guest)?;
                self.host.lost_sessions(guest, now.ms)?;
                let next = self.host.custody().epoch(guest).saturating_add(1);
                self.host
                    .change_custody(|custody| custody.take(guest, next))?;
                let reverted = Body::GuestPlaced {
                    guest: guest.clone(),
                    at: self.host.config().host.clone(),
                    by: PlacedBy::Revert,
                    protected: true,
                };
                self.note(reverted, now);
                Ok(())
            }
            Ok(_) => Err("this host has not admitted a move of the guest".to_owned()),
            Err(error) => Err(error.chain()),
        };
        if let Err(cause) = &answer {
            self.alarm(guest, format!("its state was refused: {cause}"), now);
        }
        reply.send(answer);
        Ok(())
    }

    /// The guest runs here: it is ours from now on, durably, and a record says so. Custody does not
    /// depend on the record, which is made later if it cannot be made now.
    pub(super) fn take_custody(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let epoch = self.arriving.get(guest).map_or(0, |one| one.ticket.custody);
        let counted = self.arriving.get(guest).map(|one| one.came().counted);
        let added = counted.map_or(Ok(()), |counted| self.host.tallies_arrived(guest, &counted));
        let (confirm, failed) = match self.confirmation(guest) {
            Ok(confirm) => (confirm, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let recorded = confirm.is_some();
        let saved = self.host.change_custody(|custody| {
            custody.take(guest, epoch);
            if let Some(confirm) = confirm {
                custody.owe(guest, confirm);
            }
        });
        let placed = Body::GuestPlaced {
            guest: guest.clone(),
            at: self.host.config().host.clone(),
            by: PlacedBy::Move,
            protected: true,
        };
        self.note(placed, now);
        warn("a guest that is claimed", self.claimed_here(guest, now));
        self.claim_settled(guest);
        if recorded && saved.is_ok() {
            warn("what was kept of an arrival", self.forget_opening(guest));
        }
        saved.and(failed).and(added)
    }

    /// The record of a move as the target signs it, and what its source must hear of it.
    fn confirmation(&mut self, guest: &GuestId) -> Result<Option<Confirm>, AgentError> {
        let side = self.host.move_side(guest)?;
        let frames = self.host.frames_before(guest)?;
        let ticket = self.arriving.get(guest).map(|one| &one.ticket);
        let overridden = ticket.and_then(|ticket| self.told_overridden(ticket));
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(None);
        };
        let Some(save) = &arriving.save else {
            return Ok(None);
        };
        let (ticket, came) = (&arriving.ticket, arriving.came());
        let record = MoveRecord {
            ticket: arriving.digest,
            guest: guest.clone(),
            from: ticket.source.clone(),
            to: ticket.target.clone(),
            asked_by: ticket.asked_by.clone(),
            source: save.side.clone(),
            target: side,
            sessions: MoveSessions {
                sent: save.count,
                accepted: came.accepted,
                refused: came.refused,
            },
            copied: Some(came.copied),
            counted: Some(move_counted(&came.counted)),
            overridden,
            hold_since_ms: arriving.hold_since.ms,
            fenced_ms: save.fenced_ms,
            opened_ms: arriving.opened.map_or(0, |at| at.ms),
            pause_us: arriving.fenced_us,
            // The vnics were in hold before the guest could run here, and fenced at the source
            // before it stopped running there: what is left is what the devices had carried.
            unprotected_ms: 0,
            unprotected_packets: Some(frames),
            error_ms: 0,
            outcome: MoveOutcome::Committed,
        };
        let signed = Envelope::sign(
            MOVE_RECORD_TYPE,
            &record.canonical_bytes(),
            &[self.host.key()],
        );
        arriving.record = Some(signed.clone());
        Ok(Some(Confirm {
            from: ticket.source.clone(),
            ticket: arriving.digest,
            record: signed,
            save: save.envelope.clone(),
        }))
    }

    /// The source has signed too: the move is over for both.
    pub(super) fn recorded(
        &mut self,
        ticket: Digest,
        signed: Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let owed = self.host.custody().owed(&ticket);
        let owed = owed.map(|(guest, confirm)| (guest.clone(), confirm.clone()));
        let Some((guest, Confirm { record, from, .. })) = owed else {
            return Ok(());
        };
        let key = self.host.roster().into_iter().find(|one| one.host == from);
        let key = key.map(|one| one.key);
        let source = key.ok_or_else(|| AgentError::Refused(format!("{from} left the roster")))?;
        let verified = signed.verify(MOVE_RECORD_TYPE, std::slice::from_ref(&source))?;
        if verified.payload != record.unverified_payload()? {
            self.alarm(&guest, "the source has signed another move record", now);
            return Ok(());
        }
        let record = Box::new(parse(&verified.payload)?);
        let signed = Box::new(signed);
        self.note(Body::MoveRecorded { record, signed }, now);
        self.host
            .change_custody(|custody| custody.confirmed(&ticket))?;
        if self
            .arriving
            .get(&guest)
            .is_some_and(|one| one.digest == ticket)
        {
            self.arriving.remove(&guest);
        }
        let arriving = self.arriving.contains_key(&guest) || self.leaving_now(&guest);
        if !arriving
            && !self.guards(&guest, now)
            && let Some(watch) = self.watches.get(&guest)
        {
            watch.order(Order::Unguard);
        }
        Ok(())
    }

    /// What the source has not confirmed is said again, also after a restart: but only once it is
    /// on the disk, since the source forgets the guest when it hears it.
    pub(super) fn repeat_arriving(&mut self) -> Result<(), AgentError> {
        let lacking = self.arriving.iter().filter(|(_, one)| one.lacks_record());
        let lacking: Vec<GuestId> = lacking.map(|(guest, _)| guest.clone()).collect();
        for guest in lacking {
            match self.confirmation(&guest) {
                Ok(Some(confirm)) => {
                    let changed = self
                        .host
                        .change_custody(|custody| custody.owe(&guest, confirm));
                    if changed.is_ok() {
                        warn("what was kept of an arrival", self.forget_opening(&guest));
                    }
                    warn("what a source must hear", changed);
                }
                Ok(None) => {}
                Err(error) => warn("the record of a move", Err(error)),
            }
        }
        self.host.save_custody()?;
        for (_, entry) in self.host.custody().guests() {
            for confirm in &entry.confirm {
                let (record, save) = (confirm.record.clone(), confirm.save.clone());
                let step = Step::Complete { record, save };
                self.tell(&confirm.from, confirm.ticket, step);
            }
        }
        Ok(())
    }

    /// A step of a move that this life of the agent does not know: only a confirmation counts.
    pub(super) fn stray_step(
        &mut self,
        from: &HostId,
        ticket: Digest,
        step: Step,
        now: Now,
    ) -> Result<(), AgentError> {
        let Step::Recorded { record } = step else {
            tracing::debug!(%from, %ticket, "a step of a move that is not known here");
            return Ok(());
        };
        self.recorded(ticket, record, now)
    }
}
