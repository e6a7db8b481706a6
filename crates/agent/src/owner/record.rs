//! The source's part of a move record: what it signs, and what it does not.

use super::Owner;
use super::leaving::{Leaving, parse};
use crate::AgentError;
use crate::guests::Order;
use crate::input::Now;
use crate::moves::{Message, source};
use lictor_evidence::{Body, MOVE_RECORD_TYPE, MoveOutcome, MoveRecord, MoveSessions};
use lictor_types::GuestId;
use lictor_wire::Envelope;
use lictor_wire::local::MovePhase;
use lictor_wire::peer::{SAVE_TYPE, SaveRecord, Step};

impl Owner {
    /// The source alone signs that the guest did not leave: the target may be dead. The ticket is
    /// forgotten last, so that a crash in between records this twice rather than never.
    pub(super) fn record_aborted(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let unguard = self
            .leaving
            .get(guest)
            .is_some_and(|one| one.guarded_for_move);
        if unguard && let Some(watch) = self.watches.get(guest) {
            watch.order(Order::Unguard);
        }
        match self.aborted(guest, now) {
            Ok(Some(body)) => self.note(body, now),
            Ok(None) => return Ok(()),
            Err(error) => {
                let text = format!("its move was given up, which cannot be signed: {error}");
                self.alarm(guest, text, now);
            }
        }
        self.flush()?;
        self.host
            .change_custody(|custody| custody.set_leave(guest, None))
    }

    fn aborted(&mut self, guest: &GuestId, now: Now) -> Result<Option<Body>, AgentError> {
        // What was enforced when the copy was made is known if a retired guest is not any more.
        let now_enforced = self.host.move_side(guest);
        let ticket = self.leaving.get(guest).map(|one| &one.ticket);
        let overridden = ticket.and_then(|ticket| self.told_overridden(ticket));
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(None);
        };
        let copied = leaving.side.clone();
        let side = now_enforced.or_else(|error| copied.ok_or(error))?;
        if let Some((reply, _)) = leaving.save_reply.take() {
            reply.send(Err("the move was given up".into()));
        }
        let (ticket, fenced) = (&leaving.ticket, leaving.fenced);
        let record = MoveRecord {
            ticket: leaving.digest,
            guest: guest.clone(),
            from: ticket.source.clone(),
            to: ticket.target.clone(),
            asked_by: ticket.asked_by.clone(),
            source: side.clone(),
            target: side,
            sessions: MoveSessions {
                sent: leaving.copy.count(),
                ..MoveSessions::default()
            },
            copied: Some(leaving.copied()),
            counted: None,
            overridden,
            hold_since_ms: ticket.issued_ms,
            fenced_ms: fenced.map_or(0, |at| at.ms),
            opened_ms: fenced.map_or(0, |_| now.ms),
            pause_us: fenced.map_or(0, |at| now.since_us(at)),
            unprotected_ms: 0,
            unprotected_packets: Some(0),
            error_ms: 0,
            outcome: MoveOutcome::Aborted,
        };
        let signed = Envelope::sign(
            MOVE_RECORD_TYPE,
            &record.canonical_bytes(),
            &[self.host.key()],
        );
        let (record, signed) = (Box::new(record), Box::new(signed));
        Ok(Some(Body::MoveRecorded { record, signed }))
    }

    /// The guest runs at the target. Sign what the target says of it, keep that durably, forget,
    /// and confirm: in this order. The target says it again until it hears of it.
    pub(super) fn complete(
        &mut self,
        guest: &GuestId,
        record: &Envelope,
        save: &Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let known = self.leaving.get(guest).and_then(|one| one.record.clone());
        if let Some(record) = known {
            // The target forgets that it owes this: what is owed here must be on the disk.
            self.host.save_custody()?;
            return self.confirm(guest, record);
        }
        let Some(leaving) = self.leaving.get(guest) else {
            return Ok(());
        };
        if leaving.machine.phase() != MovePhase::Committed {
            return Ok(());
        }
        let checked = match self.check_record(leaving, record, save) {
            Ok(checked) => checked,
            Err(error) => {
                let text = format!("the target's move record is not what happened: {error}");
                self.alarm(guest, text, now);
                return Ok(());
            }
        };
        let mut signed = record.clone();
        signed.add_signature(self.host.key())?;
        let body = Body::MoveRecorded {
            record: Box::new(checked),
            signed: Box::new(signed.clone()),
        };
        self.flush()?;
        self.host.record(body, now.ms)?;
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.record = Some(signed.clone());
        }
        self.leave(guest, source::Event::Peer(Message::Complete), now)?;
        self.confirm(guest, signed)
    }

    fn confirm(&self, guest: &GuestId, record: Envelope) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get(guest) else {
            return Ok(());
        };
        self.tell(
            &leaving.ticket.target,
            leaving.digest,
            Step::Recorded { record },
        );
        Ok(())
    }

    /// The target's record against what this end had signed when it fenced the guest.
    fn check_record(
        &self,
        leaving: &Leaving,
        record: &Envelope,
        save: &Envelope,
    ) -> Result<MoveRecord, AgentError> {
        let refused = |what: &str| AgentError::Refused(what.to_owned());
        let ticket = &leaving.ticket;
        let release = self.host.release().ok_or_else(|| refused("no release"))?;
        let target = release.release().host(&ticket.target);
        let target = target.ok_or_else(|| refused("the target is not in the roster"))?;
        let verified = record.verify(MOVE_RECORD_TYPE, std::slice::from_ref(&target.key))?;
        let found: MoveRecord = parse(&verified.payload)?;
        let own = self.host.key().verify_key();
        let promised = save.verify(SAVE_TYPE, std::slice::from_ref(&own))?;
        let SaveRecord::Move {
            ticket: digest,
            count,
            counted,
            source,
            ..
        } = parse(&promised.payload)?
        else {
            return Err(refused("it carries no record of a move"));
        };
        let same = found.ticket == leaving.digest
            && digest == leaving.digest
            && found.guest == ticket.guest
            && found.from == ticket.source
            && found.to == ticket.target
            && found.sessions.sent == count
            && counted.is_none_or(|digest| {
                let said = found.counted.as_ref();
                said.is_some_and(|said| said.digest == digest)
            })
            && found.source == source
            && found.outcome == MoveOutcome::Committed;
        if !same {
            return Err(refused(
                "it names another ticket, host, count, counters or release",
            ));
        }
        Ok(found)
    }
}
