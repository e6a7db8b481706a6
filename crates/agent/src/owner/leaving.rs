//! Guests that leave: the source's end of a move, executed.

use super::admit::{ADMIT_LIMIT_US, Asker};
use super::copy::Copied;
use super::{Owner, warn};
use crate::AgentError;
use crate::input::{Now, SaveReply};
use crate::moves::{Message, rounds::Rounds, source};
use crate::peer::Loss;
use lictor_evidence::{Body, MoveSide};
use lictor_types::{Digest, GuestId, HostId, LOAD_DEADLINE_MS, Tallies, VnicId, VnicState};
use lictor_wire::local::{MovePhase, MoveStatus, Response};
use lictor_wire::peer::{Control, SAVE_TYPE, SaveRecord, Step, counted_digest};
use lictor_wire::{Envelope, Refusal, Ticket};
use std::collections::BTreeMap;

/// How long a guest may stand still until everything that it needs to leave is there.
const SAVE_LIMIT_US: u64 = LOAD_DEADLINE_MS * 1_500;

/// A guest on its way out.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) machine: source::Source,
    pub(super) ticket: Ticket,
    pub(super) digest: Digest,
    /// Who waits for the target's answer, and until when.
    pub(super) asked: Option<(Asker, u64)>,
    /// Nobody has asked for the move by name.
    pub(super) unasked: bool,
    pub(super) rounds: Rounds,
    pub(super) copy: Copied,
    /// What was counted until the fence; not known to an agent that was restarted since.
    pub(super) counted: Option<BTreeMap<VnicId, Tallies>>,
    pub(super) side: Option<MoveSide>,
    /// The copy waits until QEMU has the interlock.
    pub(super) copy_waits: bool,
    /// The interlock was put in for this move only.
    pub(super) guarded_for_move: bool,
    /// Its guest stands still since then, fenced or about to be.
    pub(super) stopped: Option<Now>,
    pub(super) fenced: Option<Now>,
    /// The target has said that it does not take the guest, which was fenced.
    pub(super) back: Option<Now>,
    /// QEMU was told to end the migration.
    pub(super) cancelled: bool,
    pub(super) save: Option<Envelope>,
    /// QEMU's question, and when it came.
    pub(super) save_reply: Option<(SaveReply, Now)>,
    pub(super) record: Option<Envelope>,
    pub(super) cause: Option<String>,
}

impl Leaving {
    pub(super) fn new(machine: source::Source, ticket: Ticket) -> Self {
        Self {
            machine,
            digest: ticket.digest(),
            ticket,
            asked: None,
            unasked: false,
            rounds: Rounds::default(),
            copy: Copied::default(),
            counted: None,
            side: None,
            copy_waits: false,
            guarded_for_move: false,
            stopped: None,
            fenced: None,
            back: None,
            cancelled: false,
            save: None,
            save_reply: None,
            record: None,
            cause: None,
        }
    }

    pub(super) fn is_fenced(&self) -> bool {
        matches!(
            self.machine.phase(),
            MovePhase::Fenced | MovePhase::Committed
        )
    }

    pub(super) fn is_granted(&self) -> bool {
        self.machine.phase() == MovePhase::Committed
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.machine.phase(), MovePhase::Done | MovePhase::Aborted)
    }

    pub(super) fn pause_since(&self) -> Option<Now> {
        self.stopped.filter(|_| !self.has_ended())
    }

    /// QEMU has stopped the guest and will ask next: nothing may be in the way of that.
    pub(super) fn stopped(&mut self, now: Now) {
        self.stopped = Some(now);
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        let asked = self.asked.as_ref().map(|(_, deadline_us)| *deadline_us);
        let round = self
            .rounds
            .due_us()
            .filter(|_| !self.is_fenced() && !self.has_ended());
        let saved = self.save_deadline_us();
        asked.into_iter().chain(round).chain(saved).min()
    }

    /// Until when QEMU, and with it the guest, waits for the copy.
    fn save_deadline_us(&self) -> Option<u64> {
        let waits = self
            .save_reply
            .as_ref()
            .filter(|_| self.machine.is_saving());
        waits.map(|(_, since)| since.us + SAVE_LIMIT_US)
    }

    fn status(&self) -> MoveStatus {
        MoveStatus {
            guest: self.ticket.guest.clone(),
            phase: self.machine.phase(),
            sessions_sent: self.copy.count(),
            cause: self.cause.clone(),
        }
    }
}

impl Owner {
    pub(super) fn leaving_by(&self, peer: &HostId, ticket: Digest) -> Option<GuestId> {
        let found = self
            .leaving
            .iter()
            .find(|(_, one)| one.digest == ticket && one.ticket.target == *peer);
        found.map(|(guest, _)| guest.clone())
    }

    pub(super) fn leaving_due(&mut self, now: Now) -> Result<(), AgentError> {
        let mut silent = Vec::new();
        let mut lapsed = Vec::new();
        let mut saves = Vec::new();
        for (guest, one) in &self.leaving {
            if one
                .save_deadline_us()
                .is_some_and(|deadline| deadline <= now.us)
            {
                saves.push(guest.clone());
            }
            let asked = one.asked.as_ref().map(|(_, deadline_us)| *deadline_us);
            if asked.is_some_and(|deadline| deadline <= now.us) {
                silent.push(guest.clone());
            } else if one.ticket.deadline_ms < now.ms && self.can_lapse(guest, one) {
                lapsed.push(guest.clone());
            }
        }
        for guest in saves {
            self.save_late(&guest, now);
        }
        for guest in silent {
            let seconds = ADMIT_LIMIT_US / 1_000_000;
            let detail = format!("its agent has not answered within {seconds} s");
            let refusal = Refusal::HostUnprotected { detail };
            let dropped = self.drop_asked(&guest, vec![refusal], now);
            warn("a move that nobody admits", dropped);
        }
        for guest in lapsed {
            let lapsed = self.leave(&guest, source::Event::Lapsed, now);
            warn("a move that has lapsed", lapsed);
        }
        Ok(())
    }

    /// Before the fence a ticket lapses. After it, it does for a guest that has ended here, once:
    /// the target's host may have died with it, and it must be able to start elsewhere.
    fn can_lapse(&self, guest: &GuestId, leaving: &Leaving) -> bool {
        if leaving.is_fenced() {
            return leaving.machine.is_missing() && self.host.custody().held(guest);
        }
        !leaving.has_ended()
    }

    /// Before the fence a lost link ends the move; afterwards only QEMU or the target can.
    pub(super) fn leaving_lost(
        &mut self,
        host: &HostId,
        loss: Loss,
        now: Now,
    ) -> Result<(), AgentError> {
        let toward = self.leaving.iter();
        let toward: Vec<GuestId> = toward
            .filter(|(_, one)| one.ticket.target == *host && !one.is_fenced() && !one.has_ended())
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in toward {
            if self
                .leaving
                .get(&guest)
                .is_some_and(|one| one.asked.is_some())
            {
                let dropped = self.drop_asked(&guest, vec![loss.refusal(host)], now);
                warn("a move whose target was lost", dropped);
                continue;
            }
            self.set_cause(&guest, format!("the connection to {host} was lost"));
            let ended = self.leave(&guest, source::Event::Peer(Message::Nack), now);
            warn("a move whose target was lost", ended);
        }
        Ok(())
    }

    pub(super) fn set_cause(&mut self, guest: &GuestId, cause: String) {
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.cause.get_or_insert(cause);
        }
    }

    pub(super) fn abandon_all(&mut self, cause: &str, now: Now) -> Result<(), AgentError> {
        let open = self.leaving.iter();
        let open: Vec<GuestId> = open
            .filter(|(_, one)| !one.is_fenced() && !one.has_ended())
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in open {
            self.set_cause(&guest, cause.into());
            let given_up = self.leave(&guest, source::Event::Abandon, now);
            warn("a move for another release", given_up);
        }
        Ok(())
    }

    pub(super) fn move_status(&self, guest: &GuestId) -> Result<Response, AgentError> {
        let leaving = self.leaving.get(guest).ok_or_else(|| {
            AgentError::Refused(format!("no move of guest {guest} has begun on this host"))
        })?;
        Ok(Response::Move(leaving.status()))
    }

    pub(super) fn move_abandon(
        &mut self,
        guest: &GuestId,
        now: Now,
    ) -> Result<Response, AgentError> {
        if self.is_container(guest)?
            && let Some(answer) = self.abandon_container(guest, now)?
        {
            return Ok(answer);
        }
        let leaving = self.leaving.get(guest);
        let open = leaving.is_some_and(|one| !one.is_fenced() && !one.has_ended());
        if !open {
            return Err(AgentError::Refused(format!(
                "no move of guest {guest} can be given up here: none has begun, or it is fenced"
            )));
        }
        self.set_cause(guest, "given up by the management layer".into());
        self.leave(guest, source::Event::Abandon, now)?;
        Ok(Response::Abandoned)
    }

    /// The guest is not here any more, or is not the one that it was: a move that is not fenced
    /// ends with it. One that is goes on, as the guest may be its target's.
    pub(super) fn unfenced_ends(
        &mut self,
        guest: &GuestId,
        cause: &str,
        now: Now,
    ) -> Result<(), AgentError> {
        let leaving = self.leaving.get(guest);
        if leaving.is_none_or(|one| one.has_ended() || one.is_fenced()) {
            return Ok(());
        }
        self.set_cause(guest, cause.into());
        self.leave(guest, source::Event::GuestGone, now)
    }

    pub(super) fn leaving_now(&self, guest: &GuestId) -> bool {
        self.leaving.get(guest).is_some_and(|one| !one.has_ended())
    }

    /// Gives the source's machine an event and does what it says: all of it, because a guest that
    /// could not be opened must still be recorded, and its target must still hear of it.
    pub(super) fn leave(
        &mut self,
        guest: &GuestId,
        event: source::Event,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        let mut result = Ok(());
        let fenced = leaving.is_fenced() && !leaving.machine.is_back();
        let actions = leaving.machine.handle(event);
        if fenced && leaving.machine.is_back() {
            leaving.back = Some(now);
        }
        for action in actions {
            let done = self.leave_action(guest, action, now);
            if result.is_ok() {
                result = done;
            } else {
                warn("a step of a move", done);
            }
        }
        // A move that ended before the target had answered: somebody waits for that answer.
        let Some(leaving) = self.leaving.get_mut(guest).filter(|one| one.has_ended()) else {
            return result;
        };
        self.host.export_ended(leaving.copy.told.keys().copied());
        if let Some((asker, _)) = leaving.asked.take() {
            let cause = leaving.cause.clone();
            let error = cause.unwrap_or_else(|| "the guest has ended meanwhile".into());
            asker.answer(Response::Error { error });
        }
        // One that was started here again meanwhile, and is this host's, waited for this.
        warn("a guest whose move is over", self.settle(guest, now));
        result
    }

    fn leave_action(
        &mut self,
        guest: &GuestId,
        action: source::Action,
        now: Now,
    ) -> Result<(), AgentError> {
        match action {
            source::Action::Tell(message) => self.tell_target(guest, message, now),
            source::Action::SendCopy => self.copy(guest, now),
            source::Action::FenceAndSendDelta => self.fence(guest, now),
            source::Action::AnswerSnapshot => self.answer_snapshot(guest, now),
            source::Action::Unfence => self.unfence(guest, now),
            source::Action::Forget => {
                let left = self.tallies_left(guest);
                self.forget(guest, now).and(left)
            }
            source::Action::LetGo => self.let_go(guest, now),
            source::Action::Disown => self.disown(guest, now),
            source::Action::RecordAborted => self.record_aborted(guest, now),
        }
    }

    fn tell_target(
        &mut self,
        guest: &GuestId,
        message: Message,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get(guest) else {
            return Ok(());
        };
        let cause = || leaving.cause.clone().unwrap_or_else(|| "given up".into());
        let step = match message {
            Message::Copied => Step::Copied,
            Message::Delta => Step::Delta,
            Message::Granted => Step::Granted {
                fenced_us: leaving.fenced.map_or(0, |fenced| now.since_us(fenced)),
            },
            Message::Refused => Step::Refused,
            Message::Abort => Step::Abort { cause: cause() },
            // The target's words; the source's machine never says them.
            Message::Ready
            | Message::Commit
            | Message::Nack
            | Message::Released
            | Message::Complete => return Ok(()),
        };
        self.tell(&leaving.ticket.target, leaving.digest, step);
        Ok(())
    }

    /// What went along with the guest is not counted here any more. An agent that was restarted
    /// does not know what that was; packets that came after the fence go with it then.
    fn tallies_left(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let sent = self
            .leaving
            .get_mut(guest)
            .and_then(|one| one.counted.take());
        let sent = sent.map_or_else(|| self.host.tallies(guest), Ok)?;
        self.host.tallies_left(guest, &sent)
    }

    pub(super) fn save(
        &mut self,
        guest: &GuestId,
        reply: SaveReply,
        now: Now,
    ) -> Result<(), AgentError> {
        let leaving = self.leaving.get_mut(guest);
        let Some(leaving) = leaving.filter(|one| !one.has_ended()) else {
            return self.park(guest, reply, now);
        };
        leaving.save_reply = Some((reply, now));
        self.leave(guest, source::Event::Save, now)
    }

    /// The migration was so fast that the guest stands still before it may leave: it goes on here.
    fn save_late(&mut self, guest: &GuestId, now: Now) {
        let text = format!(
            "it was stopped for its migration before its sessions were copied, and they were not \
             within {} ms: it stays",
            SAVE_LIMIT_US / 1_000
        );
        self.alarm(guest, text, now);
        let answered = self.leave(guest, source::Event::SaveLate, now);
        warn("a guest that stands still for too long", answered);
    }

    /// The guest stands still: fence all its vnics, send what changed, answer QEMU. What fails here
    /// fails the migration, and the guest goes on with its vnics open again.
    fn fence(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let answer = self.fenced_record(guest, now);
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        let failed = answer.as_ref().err().map(AgentError::chain);
        if let Some(cause) = &failed {
            leaving.cause.get_or_insert(cause.clone());
        }
        if let Some((reply, _)) = leaving.save_reply.take() {
            reply.send(answer.map_err(|error| error.chain()));
        }
        match failed {
            Some(cause) => Err(AgentError::Refused(cause)),
            None => Ok(()),
        }
    }

    fn fenced_record(&mut self, guest: &GuestId, now: Now) -> Result<Vec<u8>, AgentError> {
        let cause = "its guest stands still and moves";
        let fenced = self.host.set_state(guest, VnicState::HandedOver, cause)?;
        self.note_all(fenced, now);
        let gone = || AgentError::Refused(format!("no move of guest {guest} is under way"));
        let leaving = self.leaving.get_mut(guest).ok_or_else(gone)?;
        leaving.fenced = Some(now);
        leaving.stopped.get_or_insert(now);
        self.seal(guest)?;
        let counted = self.host.tallies(guest)?;
        let leaving = self.leaving.get_mut(guest).ok_or_else(gone)?;
        let record = SaveRecord::Move {
            ticket: leaving.digest,
            guest: guest.clone(),
            custody: leaving.ticket.custody - 1,
            count: leaving.copy.count(),
            digest: leaving.copy.transcript.digest(),
            counted: Some(counted_digest(&counted)),
            fenced_ms: now.ms,
            source: leaving.side.clone().ok_or_else(gone)?,
        };
        let envelope = Envelope::sign(SAVE_TYPE, &json(&record)?, &[self.host.key()]);
        leaving.save = Some(envelope.clone());
        let (target, ticket) = (leaving.ticket.target.clone(), leaving.digest);
        leaving.counted = Some(counted.clone());
        self.send_counted(&target, ticket, counted);
        json(&envelope)
    }

    fn answer_snapshot(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let reply = self
            .leaving
            .get_mut(guest)
            .and_then(|one| one.save_reply.take());
        match reply {
            Some((reply, _)) => self.snapshot(guest, &reply, now),
            None => Ok(()),
        }
    }

    /// Somebody saves the guest's state without a move that both ends admitted: nothing is fenced,
    /// and no session travels. A host that gets such a state does not open for it.
    pub(super) fn snapshot(
        &mut self,
        guest: &GuestId,
        reply: &SaveReply,
        now: Now,
    ) -> Result<(), AgentError> {
        let release = self
            .host
            .release()
            .map(lictor_wire::VerifiedRelease::release);
        let record = SaveRecord::Snapshot {
            guest: guest.clone(),
            custody: self.host.custody().epoch(guest),
            taken_ms: now.ms,
            generation: release
                .map(|release| release.generation)
                .unwrap_or_default(),
        };
        let envelope = Envelope::sign(SAVE_TYPE, &json(&record)?, &[self.host.key()]);
        reply.send(Ok(json(&envelope)?));
        let (guest, sessions) = (guest.clone(), 0);
        self.note(Body::SnapshotTaken { guest, sessions }, now);
        Ok(())
    }

    fn unfence(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let cause = "the guest goes on here";
        let opened = self.host.set_state(guest, VnicState::Open, cause);
        if opened.is_err() {
            self.unsettled.insert(guest.clone());
        }
        let opened = opened.map(|opened| self.note_all(opened, now));
        // The target may know of the ticket's epoch: the next one is beyond it.
        let ticket = self.leaving.get(guest).map_or(0, |one| one.ticket.custody);
        let saved = self.host.change_custody(|custody| {
            let next = custody.epoch(guest).max(ticket).saturating_add(1);
            custody.take(guest, next);
        });
        opened.and(saved)
    }

    /// The guest is elsewhere: that comes first, because this host would be believed otherwise.
    fn forget(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let ticket = self.leaving.get(guest).map_or(0, |one| one.ticket.custody);
        let saved = self.host.change_custody(|custody| {
            custody.take(guest, ticket);
            custody.give_up(guest);
        });
        let (left, at) = (guest.clone(), self.host.config().host.clone());
        self.note(Body::GuestLeft { guest: left, at }, now);
        let purged = self.host.purge(guest).map(drop);
        saved.and(purged)
    }

    /// The guest ended here while it was fenced, and its target does not have it.
    fn let_go(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let cause = "the guest ended while it was to move";
        let held = self.host.set_state(guest, VnicState::Hold, cause);
        let held = held.map(|held| self.note_all(held, now));
        let forgotten = self.forget(guest, now);
        held.and(forgotten)
    }

    /// Its host may be dead, and the guest with it.
    fn disown(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let target = self.leaving.get(guest).map(|one| one.ticket.target.clone());
        let target = target.map_or_else(String::new, |target| format!(" {target}"));
        let text = format!(
            "it was let go to host{target}, which has not been heard of since: it may start \
             elsewhere, and the record is made when that host is heard"
        );
        self.alarm(guest, text, now);
        self.host.change_custody(|custody| custody.disown(guest))
    }

    pub(super) fn leaving_step(
        &mut self,
        guest: &GuestId,
        step: Step,
        now: Now,
    ) -> Result<(), AgentError> {
        let message = match step {
            Step::Ready => Message::Ready,
            Step::Taken { chunks } => {
                self.taken(guest, chunks);
                return Ok(());
            }
            Step::Commit => Message::Commit,
            Step::Nack { cause } => {
                self.set_cause(guest, cause);
                Message::Nack
            }
            Step::Released => Message::Released,
            Step::Complete { record, save } => {
                return self.complete(guest, &record, &save, now);
            }
            // The source's own words.
            _ => return Ok(()),
        };
        self.leave(guest, source::Event::Peer(message), now)
    }

    /// A fenced guest that nobody claims yet: the target is asked again.
    pub(super) fn repeat_leaving(&self) {
        for (guest, leaving) in &self.leaving {
            if leaving.machine.must_ask() {
                let guest = guest.clone();
                self.say(&leaving.ticket.target, Control::Custody { guest });
            }
        }
    }

    /// The target says that it does not have the guest: it has released it.
    pub(super) fn target_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        held: bool,
        now: Now,
    ) -> Result<(), AgentError> {
        let waits = self
            .leaving
            .get(guest)
            .is_some_and(|one| one.ticket.target == *from && one.machine.must_ask());
        if waits && !held {
            return self.leave(guest, source::Event::Peer(Message::Released), now);
        }
        Ok(())
    }

    /// After a restart: a guest that is fenced stays so until the target has spoken; a move that
    /// had not come so far is given up.
    pub(super) fn resume_leaving(
        &mut self,
        guest: &GuestId,
        envelope: &Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let ticket: Ticket = parse(&envelope.unverified_payload()?)?;
        let states = self.host.states_of(guest)?;
        // A device may have been made anew since the fence, so that only this says that there was
        // none: every vnic is open.
        let open = states.iter().all(|state| *state == VnicState::Open);
        if states.is_empty() || !open {
            let machine = match self.host.custody().held(guest) {
                true => source::Source::restarted(),
                // A guest that was let go stays under custody until that is given up.
                false => source::Source::disowned(),
            };
            let leaving = Leaving::new(machine, ticket);
            self.leaving.insert(guest.clone(), leaving);
            if states.is_empty() {
                return self.leave(guest, source::Event::GuestGone, now);
            }
            return Ok(());
        }
        let mut leaving = Leaving::new(source::Source::default(), ticket);
        leaving.cause = Some("the source's agent was restarted".into());
        self.leaving.insert(guest.clone(), leaving);
        self.leave(guest, source::Event::Admitted, now)?;
        self.leave(guest, source::Event::Abandon, now)
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, AgentError> {
    serde_json::to_vec(value).map_err(|error| AgentError::Refused(error.to_string()))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, AgentError> {
    serde_json::from_slice(bytes).map_err(|error| AgentError::Refused(error.to_string()))
}
