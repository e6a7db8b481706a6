//! Guests that arrive: the target's end of a move, executed.

use super::leaving::{parse, state_digest};
use super::{Owner, warn};
use crate::AgentError;
use crate::custody::Duty;
use crate::guests::Order;
use crate::host::Arrival;
use crate::input::{Now, Reply};
use crate::moves::admission::{self, Question, Standing};
use crate::moves::{Message, target};
use lictor_estate::qmp::RunState;
use lictor_evidence::{
    Body, ControlFact, MOVE_RECORD_TYPE, MoveOutcome, MoveRecord, MoveSessions, MoveSide, PlacedBy,
};
use lictor_types::{
    Digest, Epoch, GuestId, HostId, LOAD_DEADLINE_MS, SessionRecord, VnicId, VnicState,
};
use lictor_wire::peer::{Control, SAVE_TYPE, SaveRecord, Step};
use lictor_wire::{Envelope, Refusal, Ticket, VerifyKey};

/// A guest on its way in.
#[derive(Debug)]
pub(super) struct Arriving {
    machine: target::Target,
    ticket: Ticket,
    digest: Digest,
    attached: bool,
    arrival: Arrival,
    hold_since: Now,
    load: Option<(Reply<Result<(), String>>, Now)>,
    save: Option<Save>,
    opened: Option<Now>,
    fenced_us: u64,
    record: Option<Envelope>,
    cause: Option<String>,
}

/// What the source had signed when it fenced the guest.
#[derive(Debug)]
struct Save {
    envelope: Envelope,
    count: u64,
    digest: Digest,
    fenced_ms: u64,
    side: MoveSide,
}

/// What Save() returned, with whoever of the roster has signed it.
struct Opened {
    envelope: Envelope,
    record: SaveRecord,
    signers: Vec<VerifyKey>,
}

impl Arriving {
    pub(super) const fn may_run(&self) -> bool {
        self.machine.may_run()
    }

    pub(super) fn pause_since(&self) -> Option<Now> {
        self.load.as_ref().map(|(_, since)| *since)
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        let since = self.pause_since()?;
        Some(since.us + LOAD_DEADLINE_MS * 1_000)
    }
}

impl Owner {
    /// The source asks whether the guest may come.
    pub(super) fn asked(
        &mut self,
        from: &HostId,
        (format, binding): (u32, Epoch),
        mut envelope: Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(release) = self.host.release().cloned() else {
            return Ok(());
        };
        let ticket = match Ticket::proposed(&envelope, &release, now.ms) {
            Ok(ticket) if ticket.source == *from => ticket,
            Ok(_) | Err(_) => {
                let what = format!("host {from} offers a ticket that is not its own, or lapsed");
                return Err(AgentError::Refused(what));
            }
        };
        // A device that went with its guest a moment ago is no fault of this host.
        self.reconcile(now)?;
        let controls = self.host.controls()?;
        let busy = self.busy(&ticket);
        let standing = Standing {
            host: &self.host.config().host,
            release: &release,
            binding: self.host.bindings().guest(&ticket.guest),
            controls: &controls,
            vnics: self.host.attached()?,
            custody: self.host.custody().epoch(&ticket.guest),
            held: self.host.custody().held(&ticket.guest),
            busy: busy.as_deref(),
        };
        let question = Question {
            ticket: &ticket,
            format,
            binding,
        };
        let reasons = admission::reasons(&question, &standing);
        if !reasons.is_empty() {
            return self.refuse_ticket(&ticket, reasons, now);
        }
        envelope.add_signature(self.host.key())?;
        self.begin_arriving(ticket, &controls, now)?;
        let ticket = envelope;
        self.say(from, Control::Admitted { ticket, controls });
        Ok(())
    }

    fn busy(&self, ticket: &Ticket) -> Option<String> {
        let other = self.arriving.get(&ticket.guest)?;
        let open = !other.machine.ended() && other.ticket.deadline_ms > 0;
        let same = other.digest == ticket.digest();
        (open || same).then(|| format!("ticket {} from {}", other.digest, other.ticket.source))
    }

    fn refuse_ticket(
        &mut self,
        ticket: &Ticket,
        reasons: Vec<Refusal>,
        now: Now,
    ) -> Result<(), AgentError> {
        let body = Body::MoveRefused {
            guest: ticket.guest.clone(),
            from: ticket.source.clone(),
            to: ticket.target.clone(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        self.note(body, now);
        let digest = ticket.digest();
        let ticket_digest = Control::NotAdmitted {
            ticket: digest,
            reasons,
        };
        self.say(&ticket.source, ticket_digest);
        Ok(())
    }

    fn begin_arriving(
        &mut self,
        ticket: Ticket,
        controls: &[ControlFact],
        now: Now,
    ) -> Result<(), AgentError> {
        let (guest, digest) = (ticket.guest.clone(), ticket.digest());
        let body = Body::MoveAdmitted {
            ticket: digest,
            guest: guest.clone(),
            from: ticket.source.clone(),
            to: ticket.target.clone(),
            controls: controls.to_vec(),
        };
        self.note(body, now);
        let arriving = Arriving {
            machine: target::Target::default(),
            ticket,
            digest,
            attached: false,
            arrival: Arrival::default(),
            hold_since: now,
            load: None,
            save: None,
            opened: None,
            fenced_us: 0,
            record: None,
            cause: None,
        };
        self.arriving.insert(guest.clone(), arriving);
        if let Some(watch) = self.watches.get(&guest)
            && !watch.guarded
        {
            watch.order(Order::Guard);
        }
        // The vnics may be attached already.
        self.ready(&guest, now)
    }

    pub(super) fn arriving_by(&self, peer: &HostId, ticket: Digest) -> Option<GuestId> {
        let found = self
            .arriving
            .iter()
            .find(|(_, one)| one.digest == ticket && one.ticket.source == *peer);
        found.map(|(guest, _)| guest.clone())
    }

    /// Tells the source once everything is in its place: every vnic in hold, the interlock in a
    /// QEMU that waits for the guest.
    pub(super) fn ready(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let bound = self.host.bindings().guest(guest);
        let bound = bound.map_or(usize::MAX, |binding| binding.vnics.len());
        let states = self.host.states_of(guest)?;
        let held = states.len() == bound && states.iter().all(|state| *state == VnicState::Hold);
        let waits = self
            .watches
            .get(guest)
            .is_some_and(|watch| watch.guarded && watch.state == Some(RunState::Incoming));
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        if arriving.attached || !held || !waits {
            return Ok(());
        }
        arriving.attached = true;
        arriving.hold_since = now;
        // What an earlier stay of the guest left behind is not what is arriving now.
        self.host.purge(guest)?;
        self.arrive(guest, target::Event::Attached, now)
    }

    pub(super) fn sessions(
        &mut self,
        from: &HostId,
        (ticket, vnic): (Digest, VnicId),
        records: &[SessionRecord],
    ) -> Result<(), AgentError> {
        let Some(guest) = self.arriving_by(from, ticket) else {
            return Ok(());
        };
        let Some(arriving) = self.arriving.get_mut(&guest) else {
            return Ok(());
        };
        if arriving.machine.ended() || !self.host.vnics_of(&guest)?.contains(&vnic) {
            return Ok(());
        }
        self.host.take_in(vnic, records, &mut arriving.arrival)
    }

    pub(super) fn load(
        &mut self,
        guest: &GuestId,
        state: &[u8],
        reply: Reply<Result<(), String>>,
        now: Now,
    ) -> Result<(), AgentError> {
        let saved = self.open_record(guest, state);
        let ended = |one: &super::Arriving| one.machine.ended();
        if self.arriving.get(guest).is_none_or(ended) {
            return self.load_unasked(guest, saved, &reply, now);
        }
        let event = match saved {
            Ok(opened) => self.expected(guest, opened),
            Err(error) => Err(error),
        };
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        arriving.load = Some((reply, now));
        match event {
            Ok(()) => self.arrive(guest, target::Event::Load, now),
            Err(error) => {
                arriving.cause = Some(error.chain());
                self.arrive(guest, target::Event::LoadForeign, now)
            }
        }
    }

    /// Opens what Save() returned: some host of the roster must have signed it.
    fn open_record(&self, guest: &GuestId, state: &[u8]) -> Result<Opened, AgentError> {
        let envelope: Envelope = parse(state)?;
        let keys: Vec<_> = self.host.roster().into_iter().map(|one| one.key).collect();
        let verified = envelope.verify(SAVE_TYPE, &keys)?;
        let record: SaveRecord = parse(&verified.payload)?;
        let (SaveRecord::Move { guest: named, .. } | SaveRecord::Snapshot { guest: named, .. }) =
            &record;
        if named != guest {
            let what = format!("the record is of guest {named}, not of {guest}");
            return Err(AgentError::Refused(what));
        }
        Ok(Opened {
            envelope,
            record,
            signers: verified.signers,
        })
    }

    /// Whether the record is the one that this ticket's source had to sign.
    fn expected(&mut self, guest: &GuestId, opened: Opened) -> Result<(), AgentError> {
        let refused = |what: &str| Err(AgentError::Refused(what.to_owned()));
        let release = self.host.release().cloned();
        let Some((arriving, release)) = self.arriving.get_mut(guest).zip(release) else {
            return refused("no move of the guest is under way");
        };
        let SaveRecord::Move {
            ticket,
            custody,
            count,
            digest,
            fenced_ms,
            source,
            ..
        } = opened.record
        else {
            return refused("the guest was saved without fencing it: no move, a snapshot");
        };
        if ticket != arriving.digest || custody + 1 != arriving.ticket.custody {
            return refused("the record belongs to another move");
        }
        if arriving.ticket.release != release.digest() {
            return refused("another release was loaded since the move was admitted");
        }
        let roster = release.release().host(&arriving.ticket.source);
        let by_source = roster.is_some_and(|one| opened.signers.contains(&one.key));
        if !by_source {
            return refused("the record is not signed by the source");
        }
        arriving.save = Some(Save {
            envelope: opened.envelope,
            count,
            digest,
            fenced_ms,
            side: source,
        });
        Ok(())
    }

    /// A state that no move brought: of a snapshot taken here, which begins another epoch and keeps
    /// no session, or of something that must not run here.
    fn load_unasked(
        &mut self,
        guest: &GuestId,
        saved: Result<Opened, AgentError>,
        reply: &Reply<Result<(), String>>,
        now: Now,
    ) -> Result<(), AgentError> {
        let answer = match saved {
            Ok(Opened {
                record: SaveRecord::Snapshot { .. },
                ..
            }) if self.host.custody().held(guest) => {
                self.host.purge(guest)?;
                let next = self.host.custody().epoch(guest) + 1;
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
        let _ = reply.send(answer);
        Ok(())
    }

    /// Gives the target's machine an event and does what it says.
    pub(super) fn arrive(
        &mut self,
        guest: &GuestId,
        event: target::Event,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        for action in arriving.machine.handle(event) {
            if action == target::Action::Check && !self.state_matches(guest) {
                return self.arrive(guest, target::Event::Mismatch, now);
            }
            self.arrive_action(guest, action, now)?;
        }
        Ok(())
    }

    fn state_matches(&mut self, guest: &GuestId) -> bool {
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return false;
        };
        let Some(save) = &arriving.save else {
            return false;
        };
        let sessions = &arriving.arrival.sessions;
        let count = sessions
            .values()
            .map(std::collections::HashMap::len)
            .sum::<usize>() as u64;
        let same = count == save.count && state_digest(sessions) == save.digest;
        if !same {
            let wanted = save.count;
            let text = format!("{count} sessions arrived, not the {wanted} that were signed for");
            arriving.cause = Some(text);
        }
        same
    }

    fn arrive_action(
        &mut self,
        guest: &GuestId,
        action: target::Action,
        now: Now,
    ) -> Result<(), AgentError> {
        match action {
            target::Action::Tell(message) => {
                self.tell_source(guest, message);
                Ok(())
            }
            target::Action::Check => Ok(()),
            target::Action::Open => self.open_arrived(guest, now),
            target::Action::AnswerLoaded => {
                self.answer_load(guest, Ok(()));
                Ok(())
            }
            target::Action::AnswerFailed => {
                let cause = self.arriving.get(guest).and_then(|one| one.cause.clone());
                let cause = cause.unwrap_or_else(|| "the source has not let the guest go".into());
                self.answer_load(guest, Err(cause));
                Ok(())
            }
            target::Action::HoldAndPurge => self.hold_and_purge(guest, now),
            target::Action::TakeCustody => self.take_custody(guest, now),
        }
    }

    fn answer_load(&mut self, guest: &GuestId, answer: Result<(), String>) {
        let load = self.arriving.get_mut(guest).and_then(|one| one.load.take());
        if let Some((reply, _)) = load {
            // QEMU may have given up and hung up.
            let _ = reply.send(answer);
        }
    }

    fn tell_source(&self, guest: &GuestId, message: Message) {
        let Some(arriving) = self.arriving.get(guest) else {
            return;
        };
        let cause = || {
            let cause = arriving.cause.clone();
            cause.unwrap_or_else(|| "the guest did not come to run".into())
        };
        let step = match message {
            Message::Ready => Step::Ready,
            Message::Commit => Step::Commit,
            Message::Nack => Step::Nack { cause: cause() },
            Message::Released => Step::Released,
            Message::Complete => {
                let save = arriving.save.as_ref().map(|save| save.envelope.clone());
                let Some((record, save)) = arriving.record.clone().zip(save) else {
                    return;
                };
                Step::Complete { record, save }
            }
            // The source's words; the target's machine never says them.
            Message::Copied
            | Message::Delta
            | Message::Granted
            | Message::Refused
            | Message::Abort => return,
        };
        self.tell(&arriving.ticket.source, arriving.digest, step);
    }

    /// A vnic that cannot be opened leaves the guest without network, never open at two hosts.
    fn open_arrived(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let opened = self
            .host
            .set_state(guest, VnicState::Open, "handed over from another host");
        if let Some(arriving) = self.arriving.get_mut(guest) {
            arriving.opened = Some(now);
        }
        let opened = opened?;
        self.note_all(opened, now);
        Ok(())
    }

    fn hold_and_purge(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        if let Some(arriving) = self.arriving.get_mut(guest) {
            arriving.opened = None;
        }
        let cause = "the move was not completed";
        let held = self.host.set_state(guest, VnicState::Hold, cause)?;
        self.note_all(held, now);
        self.host.purge(guest).map(drop)
    }

    /// The guest runs here: it is ours from now on, durably, and the record says so.
    fn take_custody(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let side = self.host.move_side(guest)?;
        let frames = self.host.frames_before(guest)?;
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        let Some(save) = &arriving.save else {
            return Ok(());
        };
        let ticket = &arriving.ticket;
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
                accepted: arriving.arrival.accepted(),
                refused: arriving.arrival.refused(),
            },
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
        let (epoch, duty) = (
            ticket.custody,
            Duty::Confirm {
                from: ticket.source.clone(),
                ticket: arriving.digest,
                record: signed,
                save: save.envelope.clone(),
            },
        );
        self.host.change_custody(|custody| {
            custody.take(guest, epoch);
            custody.set_duty(guest, Some(duty));
        })?;
        let placed = Body::GuestPlaced {
            guest: guest.clone(),
            at: self.host.config().host.clone(),
            by: PlacedBy::Move,
            protected: true,
        };
        self.note(placed, now);
        Ok(())
    }

    pub(super) fn arriving_step(
        &mut self,
        guest: &GuestId,
        step: Step,
        now: Now,
    ) -> Result<(), AgentError> {
        let message = match step {
            Step::Copied => Message::Copied,
            Step::Gone { vnic, keys } => return self.sessions_gone(guest, vnic, &keys),
            Step::Delta => Message::Delta,
            Step::Granted { fenced_us } => {
                if let Some(arriving) = self.arriving.get_mut(guest) {
                    arriving.fenced_us = fenced_us;
                }
                Message::Granted
            }
            Step::Refused => {
                self.because(guest, "the source has refused the commit");
                Message::Refused
            }
            Step::Abort { cause } => {
                self.because(guest, &cause);
                Message::Abort
            }
            Step::Recorded { record } => return self.recorded(guest, record, now),
            // The target's own words.
            _ => return Ok(()),
        };
        self.arrive(guest, target::Event::Peer(message), now)
    }

    fn because(&mut self, guest: &GuestId, cause: &str) {
        if let Some(arriving) = self.arriving.get_mut(guest) {
            arriving.cause = Some(cause.to_owned());
        }
    }

    fn sessions_gone(
        &mut self,
        guest: &GuestId,
        vnic: VnicId,
        keys: &[lictor_types::SessionKey],
    ) -> Result<(), AgentError> {
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        if arriving.machine.ended() {
            return Ok(());
        }
        self.host.take_out(vnic, keys, &mut arriving.arrival)
    }

    /// The source has signed too: the move is over for both.
    fn recorded(&mut self, guest: &GuestId, signed: Envelope, now: Now) -> Result<(), AgentError> {
        let Some(Duty::Confirm { record, from, .. }) = self.host.custody().duty(guest).cloned()
        else {
            return Ok(());
        };
        let key = self.host.roster().into_iter().find(|one| one.host == from);
        let key = key.map(|one| one.key);
        let source = key.ok_or_else(|| AgentError::Refused(format!("{from} left the roster")))?;
        let verified = signed.verify(MOVE_RECORD_TYPE, std::slice::from_ref(&source))?;
        if verified.payload != record.unverified_payload()? {
            self.alarm(guest, "the source has signed another move record", now);
            return Ok(());
        }
        let record = Box::new(parse(&verified.payload)?);
        let signed = Box::new(signed);
        self.note(Body::MoveRecorded { record, signed }, now);
        self.host
            .change_custody(|custody| custody.set_duty(guest, None))?;
        self.arriving.remove(guest);
        if !self.guards(guest, now)
            && let Some(watch) = self.watches.get(guest)
        {
            watch.order(Order::Unguard);
        }
        Ok(())
    }

    pub(super) fn arriving_due(&mut self, now: Now) -> Result<(), AgentError> {
        let due = self.arriving.iter();
        let due: Vec<GuestId> = due
            .filter(|(_, one)| one.deadline_us().is_some_and(|deadline| deadline <= now.us))
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in due {
            let limit = format!("the source has not answered within {LOAD_DEADLINE_MS} ms");
            self.because(&guest, &limit);
            self.arrive(&guest, target::Event::Deadline, now)?;
        }
        // A ticket is good for one move and for its time.
        let lapsed = |one: &Arriving| one.machine.ended() && one.record.is_none();
        self.arriving
            .retain(|_, one| !(lapsed(one) && one.ticket.deadline_ms < now.ms));
        Ok(())
    }

    pub(super) fn arriving_lost(&mut self, host: &HostId, now: Now) -> Result<(), AgentError> {
        let from = self.arriving.iter();
        let from: Vec<GuestId> = from
            .filter(|(_, one)| one.ticket.source == *host)
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in from {
            self.because(&guest, &format!("the connection to {host} was lost"));
            self.arrive(&guest, target::Event::PeerLost, now)?;
        }
        Ok(())
    }

    /// What the source has not confirmed is said again, also after a restart.
    pub(super) fn repeat_arriving(&self) -> Result<(), AgentError> {
        for (_, entry) in self.host.custody().guests() {
            if let Some(Duty::Confirm {
                from,
                ticket,
                record,
                save,
            }) = &entry.duty
            {
                let (record, save) = (record.clone(), save.clone());
                self.tell(from, *ticket, Step::Complete { record, save });
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
        let owed = self.host.custody().guests().find(|(_, entry)| {
            matches!(&entry.duty, Some(Duty::Confirm { ticket: owed, .. }) if *owed == ticket)
        });
        let Some(guest) = owed.map(|(guest, _)| guest.clone()) else {
            return Ok(());
        };
        let result = self.recorded(&guest, record, now);
        warn("a confirmation", result);
        Ok(())
    }
}
