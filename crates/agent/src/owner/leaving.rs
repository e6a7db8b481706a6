//! Guests that leave: the source's end of a move, executed.

use super::Owner;
use crate::AgentError;
use crate::custody::Duty;
use crate::error::chain;
use crate::guests::Order;
use crate::host::{Delta, Sessions};
use crate::input::{Now, Reply};
use crate::moves::{Message, source};
use lictor_datapath::Mark;
use lictor_evidence::{
    Body, ControlFact, MOVE_RECORD_TYPE, MoveOutcome, MoveRecord, MoveSessions, MoveSide,
};
use lictor_types::{Digest, Epoch, GuestId, HostId, SessionRecord, VnicId, VnicState};
use lictor_wire::local::{MovePhase, MoveStatus, Response};
use lictor_wire::peer::{Control, FORMAT, Frame, GONE_KEYS_MAX, SAVE_TYPE, SaveRecord, Step};
use lictor_wire::sessions::CHUNK_RECORDS_MAX;
use lictor_wire::{Envelope, Refusal, Ticket};
use rand::RngCore as _;
use std::collections::{BTreeMap, HashMap};

/// How long a ticket is good for: a large guest takes minutes to copy.
pub(crate) const TICKET_LIFE_MS: u64 = 600_000;
/// How long the target's agent may take to admit a move or to refuse it.
const ADMIT_LIMIT_US: u64 = 4_000_000;

/// What somebody wants to move.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) guest: GuestId,
    pub(super) target: HostId,
    pub(super) asked_by: String,
}

/// A guest on its way out.
#[derive(Debug)]
pub(super) struct Leaving {
    machine: source::Source,
    ticket: Ticket,
    digest: Digest,
    /// Who waits for the target's answer, and until when.
    asked: Option<(Reply<Response>, u64)>,
    sessions: Sessions,
    marks: BTreeMap<VnicId, Mark>,
    side: Option<MoveSide>,
    /// The copy waits until QEMU has the interlock.
    copy_waits: bool,
    /// The interlock was put in for this move only.
    guarded_for_move: bool,
    /// Its guest stands still since then, fenced or about to be.
    stopped: Option<Now>,
    fenced: Option<Now>,
    save: Option<Envelope>,
    save_reply: Option<Reply<Result<Vec<u8>, String>>>,
    record: Option<Envelope>,
    cause: Option<String>,
}

impl Leaving {
    fn new(machine: source::Source, ticket: Ticket) -> Self {
        Self {
            machine,
            digest: ticket.digest(),
            ticket,
            asked: None,
            sessions: Sessions::new(),
            marks: BTreeMap::new(),
            side: None,
            copy_waits: false,
            guarded_for_move: false,
            stopped: None,
            fenced: None,
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

    fn has_ended(&self) -> bool {
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
        self.asked.as_ref().map(|(_, deadline_us)| *deadline_us)
    }

    fn count(&self) -> u64 {
        self.sessions.values().map(HashMap::len).sum::<usize>() as u64
    }

    fn status(&self) -> MoveStatus {
        MoveStatus {
            guest: self.ticket.guest.clone(),
            phase: self.machine.phase(),
            sessions_sent: self.count(),
            cause: self.cause.clone(),
        }
    }

    /// The digest over what the target must have.
    fn state_digest(&self) -> Digest {
        state_digest(&self.sessions)
    }
}

pub(super) fn state_digest(sessions: &Sessions) -> Digest {
    let listed: Vec<(VnicId, Vec<SessionRecord>)> = sessions
        .iter()
        .map(|(vnic, known)| (*vnic, known.values().copied().collect()))
        .collect();
    lictor_wire::peer::state_digest(&listed)
}

impl Owner {
    pub(super) fn admit(
        &mut self,
        wanted: Wanted,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let reasons = self.against(&wanted);
        if !reasons.is_empty() {
            return self.refuse_move(&wanted, reasons, &reply, now);
        }
        let Some(release) = self.host.release() else {
            return Ok(());
        };
        let ticket = Ticket {
            deployment: release.release().deployment.clone(),
            guest: wanted.guest.clone(),
            source: self.host.config().host.clone(),
            target: wanted.target.clone(),
            custody: self.host.custody().epoch(&wanted.guest) + 1,
            nonce: nonce(),
            asked_by: wanted.asked_by,
            issued_ms: now.ms,
            deadline_ms: now.ms + TICKET_LIFE_MS,
            generation: release.release().generation,
            release: release.digest(),
        };
        let envelope = ticket.sign(self.host.key());
        let binding = self.host.bindings().guest(&wanted.guest);
        let bindings = binding.map_or(Epoch(0), |binding| binding.epoch);
        let mut leaving = Leaving::new(source::Source::default(), ticket);
        leaving.asked = Some((reply, now.us + ADMIT_LIMIT_US));
        if let Some(watch) = self.watches.get(&wanted.guest)
            && !watch.guarded
        {
            leaving.guarded_for_move = true;
            watch.order(Order::Guard);
        }
        self.leaving.insert(wanted.guest, leaving);
        let control = Control::Admit {
            format: FORMAT,
            bindings,
            ticket: envelope,
        };
        self.say(&wanted.target, control);
        Ok(())
    }

    /// What this end knows against a move, all of it.
    fn against(&self, wanted: &Wanted) -> Vec<Refusal> {
        let Wanted { guest, target, .. } = wanted;
        let mut reasons = Vec::new();
        let none = |detail: &str| Refusal::NotInCustody {
            detail: detail.into(),
        };
        if !self.host.custody().held(guest) {
            reasons.push(none("the guest is not under this host's custody"));
        }
        if !self.watches.contains_key(guest) {
            reasons.push(none(
                "no QEMU monitor of the guest is known here; attach its vnic with `qmp`",
            ));
        }
        if self.leaving.get(guest).is_some_and(|one| !one.has_ended()) {
            let detail = "it is leaving this host already".to_owned();
            reasons.push(Refusal::Busy { detail });
        }
        let release = self
            .host
            .release()
            .map(lictor_wire::VerifiedRelease::release);
        let known = release.is_some_and(|release| release.host(target).is_some());
        if !known || *target == self.host.config().host {
            reasons.push(Refusal::HostUnknown);
        }
        match self.host.bindings().guest(guest) {
            Some(binding) if !binding.may_run_on(target) => reasons.push(Refusal::HostNotAllowed),
            Some(_) => {}
            None => reasons.push(Refusal::GuestUnknown),
        }
        reasons
    }

    fn refuse_move(
        &mut self,
        wanted: &Wanted,
        reasons: Vec<Refusal>,
        reply: &Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let body = Body::MoveRefused {
            guest: wanted.guest.clone(),
            from: self.host.config().host.clone(),
            to: wanted.target.clone(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        self.host.record(body, now.ms)?;
        let _ = reply.send(Response::Refused { reasons });
        Ok(())
    }

    pub(super) fn leaving_by(&self, peer: &HostId, ticket: Digest) -> Option<GuestId> {
        let found = self
            .leaving
            .iter()
            .find(|(_, one)| one.digest == ticket && one.ticket.target == *peer);
        found.map(|(guest, _)| guest.clone())
    }

    pub(super) fn admitted(
        &mut self,
        from: &HostId,
        envelope: &Envelope,
        controls: Vec<ControlFact>,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(release) = self.host.release() else {
            return Ok(());
        };
        let ticket = match Ticket::verify(envelope, release, now.ms) {
            Ok(ticket) => ticket,
            Err(error) => return Err(AgentError::Refused(chain(&error))),
        };
        let Some(guest) = self.leaving_by(from, ticket.digest()) else {
            return Ok(());
        };
        let Some((reply, _)) = self
            .leaving
            .get_mut(&guest)
            .and_then(|one| one.asked.take())
        else {
            return Ok(());
        };
        // Durable before anything of the guest stands still.
        let duty = Duty::Leave {
            ticket: envelope.clone(),
        };
        self.host
            .change_custody(|custody| custody.set_duty(&guest, Some(duty)))?;
        let (digest, deadline_ms) = (ticket.digest(), ticket.deadline_ms);
        let body = Body::MoveAdmitted {
            ticket: digest,
            guest,
            from: ticket.source,
            to: ticket.target,
            controls,
        };
        self.note(body, now);
        let _ = reply.send(Response::Admitted {
            ticket: digest,
            deadline_ms,
        });
        Ok(())
    }

    pub(super) fn not_admitted(
        &mut self,
        from: &HostId,
        ticket: Digest,
        reasons: Vec<Refusal>,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(guest) = self.leaving_by(from, ticket) else {
            return Ok(());
        };
        self.drop_asked(&guest, reasons, now)
    }

    fn drop_asked(
        &mut self,
        guest: &GuestId,
        reasons: Vec<Refusal>,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        let Some((reply, _)) = leaving.asked.take() else {
            return Ok(());
        };
        let wanted = Wanted {
            guest: guest.clone(),
            target: leaving.ticket.target.clone(),
            asked_by: leaving.ticket.asked_by.clone(),
        };
        let unguard = leaving.guarded_for_move;
        self.leaving.remove(guest);
        if unguard && let Some(watch) = self.watches.get(guest) {
            watch.order(Order::Unguard);
        }
        self.refuse_move(&wanted, reasons, &reply, now)
    }

    pub(super) fn leaving_due(&mut self, now: Now) -> Result<(), AgentError> {
        let mut silent = Vec::new();
        let mut lapsed = Vec::new();
        for (guest, one) in &self.leaving {
            if one.deadline_us().is_some_and(|deadline| deadline <= now.us) {
                silent.push(guest.clone());
            } else if one.ticket.deadline_ms < now.ms && !one.has_ended() && !one.is_fenced() {
                lapsed.push(guest.clone());
            }
        }
        for guest in silent {
            let seconds = ADMIT_LIMIT_US / 1_000_000;
            let detail = format!("its agent has not answered within {seconds} s");
            self.drop_asked(&guest, vec![Refusal::HostUnprotected { detail }], now)?;
        }
        for guest in lapsed {
            self.leave(&guest, source::Event::Lapsed, now)?;
        }
        Ok(())
    }

    /// Before the fence a lost link ends the move; afterwards only QEMU or the target can.
    pub(super) fn leaving_lost(&mut self, host: &HostId, now: Now) -> Result<(), AgentError> {
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
                let detail = format!("the agent of {host} cannot be reached");
                self.drop_asked(&guest, vec![Refusal::HostUnprotected { detail }], now)?;
                continue;
            }
            self.set_cause(&guest, format!("the connection to {host} was lost"));
            self.leave(&guest, source::Event::Peer(Message::Nack), now)?;
        }
        Ok(())
    }

    fn set_cause(&mut self, guest: &GuestId, cause: String) {
        if let Some(leaving) = self.leaving.get_mut(guest) {
            leaving.cause.get_or_insert(cause);
        }
    }

    pub(super) fn abandon_all(&mut self, cause: &str, now: Now) -> Result<(), AgentError> {
        let open = self.leaving.iter();
        let open: Vec<GuestId> = open
            .filter(|(_, one)| one.asked.is_none() && !one.is_fenced() && !one.has_ended())
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in open {
            self.set_cause(&guest, cause.into());
            self.leave(&guest, source::Event::Abandon, now)?;
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

    /// Gives the source's machine an event and does what it says.
    pub(super) fn leave(
        &mut self,
        guest: &GuestId,
        event: source::Event,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        for action in leaving.machine.handle(event) {
            self.leave_action(guest, action, now)?;
        }
        Ok(())
    }

    fn leave_action(
        &mut self,
        guest: &GuestId,
        action: source::Action,
        now: Now,
    ) -> Result<(), AgentError> {
        match action {
            source::Action::Tell(message) => self.tell_target(guest, message, now),
            source::Action::SendCopy => self.send_copy(guest, now),
            source::Action::FenceAndSendDelta => self.fence(guest, now),
            source::Action::AnswerSnapshot => self.answer_snapshot(guest, now),
            source::Action::Unfence => self.unfence(guest, now),
            source::Action::Forget => self.forget(guest, now),
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

    /// The copy begins only when QEMU will ask before the guest leaves.
    fn send_copy(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let guarded = self.watches.get(guest).is_some_and(|watch| watch.guarded);
        let side = self.host.move_side(guest)?;
        let (sessions, marks) = self.host.copy_out(guest)?;
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        leaving.copy_waits = !guarded;
        if !guarded {
            return Ok(());
        }
        leaving.side = Some(side);
        leaving.sessions = sessions;
        leaving.marks = marks;
        let (target, ticket) = (leaving.ticket.target.clone(), leaving.digest);
        for (vnic, known) in &self.leaving[guest].sessions {
            let records: Vec<_> = known.values().copied().collect();
            self.send_sessions(&target, (ticket, *vnic), &records)?;
        }
        self.leave(guest, source::Event::CopySent, now)
    }

    pub(super) fn copy_if_waiting(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        if self.leaving.get(guest).is_some_and(|one| one.copy_waits) {
            return self.send_copy(guest, now);
        }
        Ok(())
    }

    fn send_sessions(
        &self,
        target: &HostId,
        (ticket, vnic): (Digest, VnicId),
        records: &[SessionRecord],
    ) -> Result<(), AgentError> {
        for chunk in records.chunks(CHUNK_RECORDS_MAX) {
            let records = chunk.to_vec();
            let frame = Frame::Sessions {
                ticket,
                vnic,
                records,
            };
            self.links.send(target, frame)?;
        }
        Ok(())
    }

    fn send_delta(
        &self,
        target: &HostId,
        ticket: Digest,
        deltas: &[Delta],
    ) -> Result<(), AgentError> {
        for delta in deltas {
            for keys in delta.gone.chunks(GONE_KEYS_MAX) {
                let (vnic, keys) = (delta.vnic, keys.to_vec());
                self.tell(target, ticket, Step::Gone { vnic, keys });
            }
            self.send_sessions(target, (ticket, delta.vnic), &delta.touched)?;
        }
        Ok(())
    }

    pub(super) fn save(
        &mut self,
        guest: &GuestId,
        reply: Reply<Result<Vec<u8>, String>>,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return self.snapshot(guest, &reply, now);
        };
        leaving.save_reply = Some(reply);
        self.leave(guest, source::Event::Save, now)
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
        if let Some(reply) = leaving.save_reply.take() {
            let _ = reply.send(answer.map_err(|error| error.chain()));
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
        let deltas = self.host.changes(&mut leaving.sessions, &leaving.marks)?;
        let record = SaveRecord::Move {
            ticket: leaving.digest,
            guest: guest.clone(),
            custody: leaving.ticket.custody - 1,
            count: leaving.count(),
            digest: leaving.state_digest(),
            fenced_ms: now.ms,
            source: leaving.side.clone().ok_or_else(gone)?,
        };
        let envelope = Envelope::sign(SAVE_TYPE, &json(&record)?, &[self.host.key()]);
        leaving.save = Some(envelope.clone());
        let (target, ticket) = (leaving.ticket.target.clone(), leaving.digest);
        self.send_delta(&target, ticket, &deltas)?;
        json(&envelope)
    }

    fn answer_snapshot(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let reply = self
            .leaving
            .get_mut(guest)
            .and_then(|one| one.save_reply.take());
        match reply {
            Some(reply) => self.snapshot(guest, &reply, now),
            None => Ok(()),
        }
    }

    /// Somebody saves the guest's state without a move that both ends admitted: nothing is fenced,
    /// and no session travels. A host that gets such a state does not open for it.
    fn snapshot(
        &mut self,
        guest: &GuestId,
        reply: &Reply<Result<Vec<u8>, String>>,
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
        let _ = reply.send(Ok(json(&envelope)?));
        let (guest, sessions) = (guest.clone(), 0);
        self.note(Body::SnapshotTaken { guest, sessions }, now);
        Ok(())
    }

    fn unfence(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let cause = "the guest goes on here";
        let opened = self.host.set_state(guest, VnicState::Open, cause)?;
        self.note_all(opened, now);
        // The target may know of the ticket's epoch: the next one is beyond it.
        let ticket = self.leaving.get(guest).map_or(0, |one| one.ticket.custody);
        self.host.change_custody(|custody| {
            let next = custody.epoch(guest).max(ticket) + 1;
            custody.take(guest, next);
        })
    }

    fn forget(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        self.host.purge(guest)?;
        let ticket = self.leaving.get(guest).map_or(0, |one| one.ticket.custody);
        self.host.change_custody(|custody| {
            custody.take(guest, ticket);
            custody.give_up(guest);
        })?;
        let (guest, at) = (guest.clone(), self.host.config().host.clone());
        self.note(Body::GuestLeft { guest, at }, now);
        Ok(())
    }

    /// The source alone signs that the guest went on here: the target may be dead.
    fn record_aborted(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let side = self.host.move_side(guest)?;
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        if let Some(reply) = leaving.save_reply.take() {
            let _ = reply.send(Err("the move was given up".into()));
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
                sent: leaving.count(),
                ..MoveSessions::default()
            },
            hold_since_ms: ticket.issued_ms,
            fenced_ms: fenced.map_or(0, |at| at.ms),
            opened_ms: fenced.map_or(0, |_| now.ms),
            pause_us: fenced.map_or(0, |at| now.since_us(at)),
            unprotected_ms: 0,
            unprotected_packets: Some(0),
            error_ms: 0,
            outcome: MoveOutcome::Aborted,
        };
        let unguard = leaving.guarded_for_move;
        let signed = Envelope::sign(
            MOVE_RECORD_TYPE,
            &record.canonical_bytes(),
            &[self.host.key()],
        );
        self.host
            .change_custody(|custody| custody.set_duty(guest, None))?;
        if unguard && let Some(watch) = self.watches.get(guest) {
            watch.order(Order::Unguard);
        }
        let (record, signed) = (Box::new(record), Box::new(signed));
        self.note(Body::MoveRecorded { record, signed }, now);
        Ok(())
    }

    pub(super) fn leaving_step(
        &mut self,
        guest: &GuestId,
        step: Step,
        now: Now,
    ) -> Result<(), AgentError> {
        let message = match step {
            Step::Ready => Message::Ready,
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

    /// The guest runs at the target. Sign what the target says of it, keep that durably, forget,
    /// and confirm: in this order. The target says it again until it hears of it.
    fn complete(
        &mut self,
        guest: &GuestId,
        record: &Envelope,
        save: &Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let known = self.leaving.get(guest).and_then(|one| one.record.clone());
        if let Some(record) = known {
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
            && found.source == source
            && found.outcome == MoveOutcome::Committed;
        if !same {
            return Err(refused("it names another ticket, host, count or release"));
        }
        Ok(found)
    }

    /// A fenced guest that nobody claims yet: the target is asked again.
    pub(super) fn repeat_leaving(&self) -> Result<(), AgentError> {
        for (guest, leaving) in &self.leaving {
            if leaving.machine.phase() == MovePhase::Committed {
                let guest = guest.clone();
                self.say(&leaving.ticket.target, Control::Custody { guest });
            }
        }
        Ok(())
    }

    /// The target says that it does not have the guest: it has released it.
    pub(super) fn target_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        held: bool,
        now: Now,
    ) -> Result<(), AgentError> {
        let waits = self.leaving.get(guest).is_some_and(|one| {
            one.ticket.target == *from && one.machine.phase() == MovePhase::Committed
        });
        if waits && !held {
            return self.leave(guest, source::Event::Peer(Message::Released), now);
        }
        Ok(())
    }

    /// After a restart: a guest that is fenced stays so until the target has spoken; a move that had
    /// not come so far is given up.
    pub(super) fn resume_leaving(
        &mut self,
        guest: &GuestId,
        envelope: &Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let ticket: Ticket = parse(&envelope.unverified_payload()?)?;
        let states = self.host.states_of(guest)?;
        if states.contains(&VnicState::HandedOver) {
            let leaving = Leaving::new(source::Source::restarted(), ticket);
            self.leaving.insert(guest.clone(), leaving);
            return Ok(());
        }
        let mut leaving = Leaving::new(source::Source::default(), ticket);
        leaving.cause = Some("the source's agent was restarted".into());
        self.leaving.insert(guest.clone(), leaving);
        self.leave(guest, source::Event::Abandon, now)
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, AgentError> {
    serde_json::to_vec(value).map_err(|error| AgentError::Refused(error.to_string()))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, AgentError> {
    serde_json::from_slice(bytes).map_err(|error| AgentError::Refused(error.to_string()))
}

/// 128 bits from the system's generator, as hexadecimal digits.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
