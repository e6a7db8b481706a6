//! Guests that arrive: the target's end of a move, executed.

use super::judged::Judged;
use super::leaving::{Leaving, parse};
use super::{Owner, warn};
use crate::AgentError;
use crate::awake::keep_awake;
use crate::custody::Spent;
use crate::guests::Order;
use crate::host::Arrival;
use crate::input::{LoadReply, Now};
use crate::moves::rounds::TAKEN_EVERY_CHUNKS;
use crate::moves::{Message, target};
use crate::opening::Came;
use lictor_estate::qmp::RunState;
use lictor_evidence::{Body, ControlFact, MoveSide};
use lictor_policy::Cause;
use lictor_types::{
    Counted, Digest, Epoch, GuestId, HostId, LOAD_DEADLINE_MS, Tally, VnicId, VnicState,
};
use lictor_wire::peer::{
    COUNTED_ROWS_MAX, Control, GONE_MAX, SAVE_TYPE, SaveRecord, Step, counted_digest,
};
use lictor_wire::sessions::Chunk;
use lictor_wire::{Envelope, Refusal, Ticket, VerifyKey};

/// A guest on its way in.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) machine: target::Target,
    pub(super) ticket: Ticket,
    pub(super) digest: Digest,
    pub(super) attached: bool,
    /// The first full copy is here.
    pub(super) copied: bool,
    pub(super) arrival: Arrival,
    /// What had come before the agent was restarted.
    pub(super) came: Option<Came>,
    pub(super) hold_since: Now,
    pub(super) load: Option<(LoadReply, Now)>,
    pub(super) save: Option<Save>,
    pub(super) opened: Option<Now>,
    pub(super) fenced_us: u64,
    pub(super) record: Option<Envelope>,
    pub(super) cause: Option<String>,
}

/// What the source had signed when it fenced the guest.
#[derive(Debug)]
pub(super) struct Save {
    pub(super) envelope: Envelope,
    pub(super) count: u64,
    pub(super) digest: Digest,
    pub(super) counted: Option<Digest>,
    pub(super) fenced_ms: u64,
    pub(super) side: MoveSide,
}

/// What Save() returned, with whoever of the roster has signed it.
pub(super) struct Opened {
    envelope: Envelope,
    pub(super) record: SaveRecord,
    pub(super) signers: Vec<VerifyKey>,
}

impl Arriving {
    pub(super) fn new(machine: target::Target, ticket: Ticket, arrival: Arrival, now: Now) -> Self {
        Self {
            machine,
            digest: ticket.digest(),
            ticket,
            attached: false,
            copied: false,
            arrival,
            came: None,
            hold_since: now,
            load: None,
            save: None,
            opened: None,
            fenced_us: 0,
            record: None,
            cause: None,
        }
    }

    /// What has come with the guest.
    pub(super) fn came(&self) -> Came {
        self.came.clone().unwrap_or_else(|| Came {
            accepted: self.arrival.accepted(),
            refused: self.arrival.refused(),
            copied: self.arrival.copied(),
            counted: self.arrival.counted.clone(),
        })
    }

    /// Whether the guest may come to run here. Once it has, custody says whether it is here.
    pub(super) const fn may_run(&self) -> bool {
        self.machine.may_run() && !self.machine.ended()
    }

    /// The guest has come, and nothing is signed yet that says so.
    pub(super) const fn lacks_record(&self) -> bool {
        self.machine.may_run() && self.machine.ended() && self.record.is_none()
    }

    /// Everything is in its place: sessions come, and then QEMU brings the guest at any moment.
    pub(super) const fn is_awaited(&self) -> bool {
        self.attached && !self.machine.ended()
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
        asked: (u32, Epoch),
        mut envelope: Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(judged) = self.judged(from, asked, &envelope, now)? else {
            return Ok(());
        };
        let Judged {
            ticket,
            reasons,
            controls,
        } = judged;
        if !reasons.is_empty() {
            return self.refuse_ticket(&ticket, reasons, now);
        }
        envelope.add_signature(self.host.key())?;
        let guest = ticket.guest.clone();
        let spent = Spent {
            ticket: ticket.digest(),
            source: ticket.source.clone(),
            custody: ticket.custody,
            deadline_ms: ticket.deadline_ms,
        };
        let order = self.spent_order(&ticket);
        let in_vain = self.found_in_vain(&ticket);
        // Durable before it is admitted: a ticket is good for one move, also after a crash.
        self.host.change_custody(|custody| {
            custody.spend(&guest, spent, now.ms);
            if let Some(order) = order {
                custody.spend(&guest, order, now.ms);
            }
        })?;
        self.begin_arriving(ticket, &controls, now);
        let ticket = envelope;
        // Nothing else that this end says of the move counts before this.
        self.say(from, Control::Admitted { ticket, controls });
        if in_vain {
            self.because(&guest, "the QEMU that waited for the guest has ended");
            return self.arrive(&guest, target::Event::GuestGone, now);
        }
        // The vnics may be attached already.
        self.ready(&guest, now)
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
        let not_admitted = Control::NotAdmitted {
            ticket: digest,
            reasons: reasons.clone(),
        };
        self.say(&ticket.source, not_admitted);
        self.not_handed_over(&ticket.source, &ticket.guest, reasons, now);
        Ok(())
    }

    fn begin_arriving(&mut self, ticket: Ticket, controls: &[ControlFact], now: Now) {
        let (guest, digest) = (ticket.guest.clone(), ticket.digest());
        let body = Body::MoveAdmitted {
            ticket: digest,
            guest: guest.clone(),
            from: ticket.source.clone(),
            to: ticket.target.clone(),
            controls: controls.to_vec(),
            overridden: self.told_overridden(&ticket).map(Box::new),
        };
        self.note(body, now);
        let (machine, arrival) = (target::Target::default(), Arrival::default());
        let arriving = Arriving::new(machine, ticket, arrival, now);
        self.arriving.insert(guest.clone(), arriving);
        self.asking_settled(&guest);
        if let Some(watch) = self.watches.get(&guest)
            && !watch.guarded
        {
            watch.order(Order::Guard);
        }
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
        let arriving = self.arriving.get(guest);
        if arriving.is_none_or(|one| one.machine.ended()) {
            return self.want_if_it_waits(guest, now);
        }
        if arriving.is_none_or(|one| one.attached) {
            return Ok(());
        }
        let mut states = self.host.states_of(guest)?;
        let fenced = self.leaving.get(guest).is_some_and(Leaving::is_fenced);
        if states.contains(&VnicState::HandedOver) && !self.host.custody().held(guest) && !fenced {
            // Its device outlived the guest's last stay here.
            let cause = "the guest is coming back";
            let held = self.host.set_state(guest, VnicState::Hold, cause)?;
            self.note_all(held, now);
            states = self.host.states_of(guest)?;
        }
        let held = states.len() == bound && states.iter().all(|state| *state == VnicState::Hold);
        let waits = self
            .watches
            .get(guest)
            .is_some_and(|watch| watch.guarded && watch.state == Some(RunState::Incoming));
        if !held || !(waits || self.is_container(guest)?) {
            return Ok(());
        }
        // What an earlier stay of the guest left behind is not what is arriving now.
        self.host.purge(guest)?;
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        arriving.attached = true;
        arriving.hold_since = now;
        self.arrive(guest, target::Event::Attached, now)
    }

    pub(super) fn sessions(
        &mut self,
        from: &HostId,
        (ticket, vnic): (Digest, VnicId),
        chunk: &Chunk,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(guest) = self.arriving_by(from, ticket) else {
            return Ok(());
        };
        let Some(arriving) = self.arriving.get_mut(&guest) else {
            return Ok(());
        };
        if !arriving.machine.takes_sessions() {
            return Ok(());
        }
        let arrival = &mut arriving.arrival;
        if let Err(error) = self.host.take_in((&guest, vnic), chunk, arrival) {
            arriving.cause = Some(error.chain());
            return self.arrive(&guest, target::Event::Mismatch, now);
        }
        let chunks = arriving.arrival.transcript.chunks;
        if chunks.is_multiple_of(TAKEN_EVERY_CHUNKS) {
            self.tell(from, ticket, Step::Taken { chunks });
        }
        Ok(())
    }

    /// The source's round is at its end: it hears how far this end has come.
    fn round_arrived(&mut self, guest: &GuestId) -> Result<(), AgentError> {
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        if !arriving.machine.takes_sessions() {
            return Ok(());
        }
        arriving.arrival.round_ends();
        let chunks = arriving.arrival.transcript.chunks;
        let (source, ticket) = (arriving.ticket.source.clone(), arriving.digest);
        self.tell(&source, ticket, Step::Taken { chunks });
        Ok(())
    }

    pub(super) fn load(
        &mut self,
        guest: &GuestId,
        state: &[u8],
        reply: LoadReply,
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
        let ticket = self.arriving.get(guest).map(|one| &one.ticket);
        let ordered = ticket.and_then(|ticket| self.order_of(ticket));
        let stale =
            ordered.is_some_and(|ordered| ordered.order.causes.contains(&Cause::ReleaseStale));
        let Some((arriving, release)) = self.arriving.get_mut(guest).zip(release) else {
            return refused("no move of the guest is under way");
        };
        let SaveRecord::Move {
            ticket,
            custody,
            count,
            digest,
            counted,
            fenced_ms,
            source,
            ..
        } = opened.record
        else {
            return refused("the guest was saved without fencing it: no move, a snapshot");
        };
        if ticket != arriving.digest || custody.checked_add(1) != Some(arriving.ticket.custody) {
            return refused("the record belongs to another move");
        }
        if arriving.ticket.release != release.digest() && !stale {
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
            counted,
            fenced_ms,
            side: source,
        });
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
            if action == target::Action::Open {
                if let Err(error) = self.open_arrived(guest, now) {
                    self.because(guest, &error.chain());
                    return self.arrive(guest, target::Event::NotOpened, now);
                }
                continue;
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
        let count = arriving.arrival.count();
        let as_said = arriving.arrival.transcript.digest() == save.digest;
        let same = count == save.count && as_said;
        let counted = counted_digest(&arriving.arrival.counted);
        let as_counted = save.counted.is_none_or(|digest| digest == counted);
        if !same {
            let wanted = save.count;
            let text = format!("{count} sessions arrived, not the {wanted} that were signed for");
            arriving.cause = Some(text);
        } else if !as_counted {
            let text = "the counters that arrived are not those that were signed for";
            arriving.cause = Some(text.to_owned());
        }
        same && as_counted
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
            // These two may end in another event, see above.
            target::Action::Check | target::Action::Open => Ok(()),
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
            reply.send(answer);
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

    fn open_arrived(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        self.keep_opening(guest, now)?;
        let opened = self
            .host
            .open_whole(guest, "handed over from another host")?;
        if let Some(arriving) = self.arriving.get_mut(guest) {
            arriving.opened = Some(now);
        }
        self.note_all(opened, now);
        Ok(())
    }

    fn hold_and_purge(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        if let Some(arriving) = self.arriving.get_mut(guest) {
            arriving.opened = None;
        }
        warn("what was kept of an arrival", self.forget_opening(guest));
        let cause = "the move was not completed";
        let held = self.host.set_state(guest, VnicState::Hold, cause)?;
        self.note_all(held, now);
        self.host.purge(guest).map(drop)
    }

    pub(super) fn arriving_step(
        &mut self,
        guest: &GuestId,
        step: Step,
        now: Now,
    ) -> Result<(), AgentError> {
        let message = match step {
            Step::Copied => {
                if let Some(arriving) = self.arriving.get_mut(guest) {
                    arriving.copied = true;
                }
                Message::Copied
            }
            Step::Gone { vnic, table, slots } => {
                return self.sessions_gone(guest, vnic, (table, &slots), now);
            }
            Step::Round { .. } => return self.round_arrived(guest),
            Step::Counted { vnic, rows } => return self.counted(guest, vnic, rows, now),
            Step::Delta => {
                // QEMU asks next.
                keep_awake();
                Message::Delta
            }
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
            Step::Recorded { record } => {
                let ticket = self.arriving.get(guest).map(|one| one.digest);
                return ticket.map_or(Ok(()), |ticket| self.recorded(ticket, record, now));
            }
            // The target's own words.
            _ => return Ok(()),
        };
        self.arrive(guest, target::Event::Peer(message), now)
    }

    pub(super) fn because(&mut self, guest: &GuestId, cause: &str) {
        if let Some(arriving) = self.arriving.get_mut(guest) {
            arriving.cause = Some(cause.to_owned());
        }
    }

    fn sessions_gone(
        &mut self,
        guest: &GuestId,
        vnic: VnicId,
        (table, slots): (u32, &[u32]),
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        if slots.len() > GONE_MAX || !arriving.machine.takes_sessions() {
            return Ok(());
        }
        let arrival = &mut arriving.arrival;
        let gone = (table, slots);
        if let Err(error) = self.host.take_out((guest, vnic), gone, arrival) {
            arriving.cause = Some(error.chain());
            return self.arrive(guest, target::Event::Mismatch, now);
        }
        Ok(())
    }

    fn counted(
        &mut self,
        guest: &GuestId,
        vnic: VnicId,
        rows: Vec<(Counted, Tally)>,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(arriving) = self.arriving.get_mut(guest) else {
            return Ok(());
        };
        if rows.len() > COUNTED_ROWS_MAX || !arriving.machine.takes_sessions() {
            return Ok(());
        }
        let arrival = &mut arriving.arrival;
        if let Err(error) = self.host.note_counted((guest, vnic), rows, arrival) {
            arriving.cause = Some(error.chain());
            return self.arrive(guest, target::Event::Mismatch, now);
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
            let ended = self.arrive(&guest, target::Event::Deadline, now);
            warn("a load that is late", ended);
            // Whatever the move has come to: QEMU does not wait any longer.
            self.answer_load(&guest, Err(limit));
        }
        // A ticket is good for one move and for its time.
        let lapsed =
            |one: &Arriving| one.machine.ended() && one.record.is_none() && !one.lacks_record();
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
            let given_up = self.arrive(&guest, target::Event::PeerLost, now);
            warn("a move whose source was lost", given_up);
        }
        Ok(())
    }
}
