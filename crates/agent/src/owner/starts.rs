//! Guests that start here, run here and end here: who has custody, and when their vnics open.

use super::arriving::Arriving;
use super::evacuated::spent;
use super::leaving::Leaving;
use super::wanted::unheard_of;
use super::{Owner, WATCH_AGAIN_US, warn};
use crate::AgentError;
use crate::awake::keep_awake;
use crate::guests::{AGAIN_LIMIT, News, Order, START_LIMIT};
use crate::input::{Now, Reply};
use crate::moves::claim::{Claim, First, Outcome};
use crate::moves::{source, target};
use lictor_estate::qmp::{Event, RunState};
use lictor_evidence::{Body, PlacedBy};
use lictor_types::{GuestId, HostId, VnicName, VnicState};
use lictor_wire::local::{Attach, Attached, Response};
use lictor_wire::peer::Control;
use std::collections::BTreeSet;
use std::path::Path;

/// How long the other hosts may take to say whether a guest is theirs: as long as one connection
/// may take, and a little more.
const CLAIM_LIMIT_US: u64 = 2_000_000;
/// How often they are asked again while one of them says that it is.
const CLAIM_AGAIN_US: u64 = 1_000_000;

/// A guest that was attached here and of which nobody knows yet whose it is.
#[derive(Debug)]
pub(super) struct Start {
    claim: Claim,
    alarmed: bool,
    /// A host that it has left had taken its links down.
    cut: bool,
    how: PlacedBy,
    pub(super) deadline_us: u64,
    replies: Vec<(Attached, Reply<Response>)>,
}

impl Start {
    /// A guest that is here and that another host has; its custody is asked for anew.
    pub(super) fn again(known: u64) -> Self {
        Self {
            claim: Claim::new(known),
            alarmed: true,
            cut: false,
            how: PlacedBy::Start,
            deadline_us: 0,
            replies: Vec::new(),
        }
    }

    /// Whether a host that it has left had taken its links down.
    pub(super) const fn arrives_cut(&self) -> bool {
        self.cut
    }

    /// A guest that came without its sessions, and runs.
    fn found(known: u64) -> Self {
        Self {
            how: PlacedBy::Found,
            alarmed: false,
            ..Self::again(known)
        }
    }
}

/// How a guest went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its QEMU has ended.
    Ended,
    /// Its last device is gone.
    DeviceGone,
    /// Its last device was let go of, and no QEMU of it is known.
    Detached,
    /// It has left for another host, and nobody had asked Lictor.
    Unasked,
}

impl Departure {
    const fn text(self) -> &'static str {
        match self {
            Self::Ended => "its QEMU has ended",
            Self::DeviceGone => "its last device is gone",
            Self::Detached => "its last device was let go of",
            Self::Unasked => "it has left without a move that Lictor admitted",
        }
    }
}

impl Owner {
    /// After a restart: asks the QEMUs again, goes on with moves that were under way. What fails
    /// for one guest is no reason to forget the others.
    pub(super) fn resume(&mut self, now: Now) {
        let known = self.host.custody().guests();
        let known: Vec<_> = known
            .map(|(guest, entry)| (guest.clone(), entry.clone()))
            .collect();
        for (guest, entry) in known {
            if let Some(ticket) = entry.leave
                && let Err(error) = self.resume_leaving(&guest, &ticket, now)
            {
                let text = format!("a move of it was under way: {}", error.chain());
                self.alarm(&guest, text, now);
            }
            if let Err(error) = self.resume_arriving(&guest, now) {
                let text = format!("it was about to arrive: {}", error.chain());
                self.alarm(&guest, text, now);
            }
            if let Some(qmp) = entry.qmp {
                let watched = self.watch(&guest, (&qmp, AGAIN_LIMIT), now);
                warn("watching a guest", watched);
            } else if entry.held {
                warn("opening a guest", self.settle(&guest, now));
            }
        }
    }

    pub(super) fn attach(
        &mut self,
        request: &Attach,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let beyond = self
            .guest_of(request)
            .is_some_and(|guest| self.beyond_budget(&guest));
        let attached = match beyond {
            true => self.host.attach_beyond(request, now.ms),
            false => self.host.attach(request, now.ms),
        };
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                let error = error.chain();
                let _ = reply.send(Response::Error { error });
                return Ok(());
            }
        };
        if self.host.is_own(&request.device) {
            let _ = reply.send(Response::Attached(attached));
            return Ok(());
        }
        let guest = attached.guest.clone();
        if let Some(qmp) = &request.qmp
            && let Err(error) = self.attach_qmp(&guest, qmp, now)
        {
            let error = error.chain();
            let _ = reply.send(Response::Error { error });
            return Ok(());
        }
        if request.incoming {
            let _ = reply.send(Response::Attached(attached));
            return self.ready(&guest, now);
        }
        self.claim(&guest, (attached, reply), now)
    }

    fn guest_of(&self, request: &Attach) -> Option<GuestId> {
        let own = request.device.parse().ok();
        let name = request.name.clone().or(own)?;
        let (binding, _) = self.host.bindings().by_name(&name)?;
        Some(binding.guest.clone())
    }

    fn attach_qmp(&mut self, guest: &GuestId, qmp: &Path, now: Now) -> Result<(), AgentError> {
        // One that nobody has seen end may have been killed, and another one started.
        let ended = self.unfenced_ends(guest, "its QEMU was named anew", now);
        warn("a guest that is attached anew", ended);
        self.host
            .change_custody(|custody| custody.set_qmp(guest, qmp.into()))?;
        self.watch(guest, (qmp, START_LIMIT), now)
    }

    /// Lets a vnic go, and the guest with its last one if no QEMU of it can be asked.
    pub(super) fn detach(&mut self, name: &VnicName, now: Now) -> Result<Response, AgentError> {
        let bound = self.host.bindings().by_name(name);
        let guest = bound.map(|(binding, _)| binding.guest.clone());
        self.host.detach(name, now.ms)?;
        if let Some(guest) = guest
            && self.host.vnics_of(&guest).is_empty()
            && self
                .watches
                .get(&guest)
                .is_none_or(|one| one.state.is_none())
        {
            self.watches.remove(&guest);
            self.gone(&guest, Departure::Detached, now)?;
        }
        Ok(Response::Detached)
    }

    fn claim(
        &mut self,
        guest: &GuestId,
        caller: (Attached, Reply<Response>),
        now: Now,
    ) -> Result<(), AgentError> {
        if self.host.custody().held(guest) {
            self.settle(guest, now)?;
            return self.answer(caller);
        }
        if let Some(start) = self.claims.get_mut(guest) {
            start.replies.push(caller);
            return Ok(());
        }
        let start = Start {
            claim: Claim::new(self.host.custody().epoch(guest)),
            alarmed: false,
            cut: false,
            how: PlacedBy::Start,
            deadline_us: 0,
            replies: vec![caller],
        };
        self.claims.insert(guest.clone(), start);
        self.ask_custody(guest, now)
    }

    pub(super) fn ask_custody(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let others = self.possible_hosts(guest);
        self.tell_order(guest, now);
        for host in &others {
            let guest = guest.clone();
            self.say(host, Control::Custody { guest });
        }
        if let Some(start) = self.claims.get_mut(guest) {
            start.claim.ask(others);
            start.deadline_us = now.us + CLAIM_LIMIT_US;
        }
        self.conclude(guest, now)
    }

    /// Another agent asks. A host on which the guest's vnics are open has it, whatever its memory
    /// says; and so, for its source, has one to which it has moved. What cannot be found out is not
    /// answered.
    pub(super) fn custody_asked(
        &mut self,
        from: &HostId,
        guest: GuestId,
        now: Now,
    ) -> Result<(), AgentError> {
        let arrives = self.arriving.get(&guest).is_some_and(Arriving::may_run);
        let open = self.host.states_of(&guest)?.contains(&VnicState::Open);
        let custody = self.host.custody();
        let mut held = custody.held(&guest) || custody.owes(&guest, from) || arrives || open;
        let epoch = custody.epoch(&guest);
        let bound = self.host.bindings().guest(&guest);
        let may_run = bound.is_some_and(|binding| binding.may_run_on(from));
        let mut ask = false;
        if let Some(start) = self.claims.get_mut(&guest).filter(|_| may_run) {
            match start.claim.asked(&self.host.config().host, from) {
                First::Own => held = true,
                First::Other => {
                    start.deadline_us = now.us + CLAIM_LIMIT_US;
                    ask = true;
                }
            }
        }
        let asked = guest.clone();
        let cut = !held && self.host.custody().left_cut(&guest);
        let told = Control::CustodyHeld {
            guest,
            held,
            epoch,
            cut,
        };
        self.say(from, told);
        if ask {
            self.say(from, Control::Custody { guest: asked });
        }
        Ok(())
    }

    pub(super) fn custody_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        (held, epoch): (bool, u64),
        now: Now,
    ) -> Result<(), AgentError> {
        let told = self.target_told(from, guest, held, now);
        warn("what the target of a move says", told);
        if let Some(start) = self.claims.get_mut(guest) {
            start.claim.told(from, held, epoch);
        }
        let claimed = self.claim_told(from, guest, (held, epoch), now);
        warn("a guest that no agent had claimed", claimed);
        let evacuated = self.evacuation_told(from, guest, (held, epoch));
        warn("a host that a guest was evacuated from", evacuated);
        let doubt = self.doubt_told(from, guest, held, now);
        warn("a host that was not heard before", doubt);
        self.conclude(guest, now)
    }

    pub(super) fn claim_lost(&mut self, host: &HostId, now: Now) -> Result<(), AgentError> {
        let mut guests = Vec::new();
        for (guest, start) in &mut self.claims {
            if start.claim.lost(host) {
                guests.push(guest.clone());
            }
        }
        for guest in guests {
            warn("a guest that starts", self.conclude(&guest, now));
        }
        Ok(())
    }

    pub(super) fn claims_due(&mut self, now: Now) -> Result<(), AgentError> {
        let due = self.claims.iter_mut();
        let due: Vec<GuestId> = due
            .filter(|(_, start)| start.deadline_us <= now.us)
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in due {
            let Some(start) = self.claims.get_mut(&guest) else {
                continue;
            };
            start.claim.late();
            let refused = start.how == PlacedBy::Found;
            let again =
                start.alarmed && (refused || matches!(start.claim.outcome(), Outcome::HeldBy(_)));
            let done = if again {
                self.ask_custody(&guest, now)
            } else {
                self.conclude(&guest, now)
            };
            warn("a guest that starts", done);
        }
        Ok(())
    }

    /// Everybody has spoken, or will not: the guest is ours unless it is somebody's.
    fn conclude(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let Some(start) = self.claims.get_mut(guest) else {
            return Ok(());
        };
        match start.claim.outcome() {
            Outcome::Waiting => Ok(()),
            Outcome::HeldBy(holder) => {
                start.deadline_us = now.us + CLAIM_AGAIN_US;
                let first = !std::mem::replace(&mut start.alarmed, true);
                let replies = std::mem::take(&mut start.replies);
                if first {
                    let text = format!(
                        "attached here, but host {holder} says that it runs under its custody; it \
                         is held until that ends"
                    );
                    self.alarm(guest, text, now);
                }
                replies
                    .into_iter()
                    .try_for_each(|caller| self.answer(caller))
            }
            Outcome::Ours { epoch, unheard } => {
                if self.refused_where_it_is(guest, &unheard, now)? {
                    return Ok(());
                }
                self.begin(guest, (epoch, &unheard), now)
            }
        }
    }

    /// A guest that came without having been handed over is taken if this host would have admitted
    /// it; else it stays in hold, and this is asked again.
    fn refused_where_it_is(
        &mut self,
        guest: &GuestId,
        unheard: &BTreeSet<HostId>,
        now: Now,
    ) -> Result<bool, AgentError> {
        let found = self.claims.get(guest);
        if found.is_none_or(|start| start.how != PlacedBy::Found) {
            return Ok(false);
        }
        let mut reasons = self.against_here(guest, now)?;
        reasons.extend(self.unguarded_against(guest));
        let silent = self.silent(guest, unheard, now);
        let silent = silent.iter();
        reasons.extend(silent.map(|host| unheard_of(host, "has not answered")));
        let Some(start) = self.claims.get_mut(guest).filter(|_| !reasons.is_empty()) else {
            return Ok(false);
        };
        start.deadline_us = now.us + CLAIM_AGAIN_US;
        if !std::mem::replace(&mut start.alarmed, true) {
            let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            let text = format!("its vnics stay in hold: {}", reasons.join("; "));
            self.alarm(guest, text, now);
        }
        Ok(true)
    }

    fn begin(
        &mut self,
        guest: &GuestId,
        (epoch, unheard): (u64, &BTreeSet<HostId>),
        now: Now,
    ) -> Result<(), AgentError> {
        let found = self.claims.get(guest).map(|start| start.how) == Some(PlacedBy::Found);
        let order = found.then(|| self.order_to_use(guest, now)).flatten();
        let mut unheard = unheard.clone();
        let told = order.as_ref();
        let told = told.filter(|(ordered, _)| unheard.remove(&ordered.order.from));
        let told = told.map(|(_, envelope)| envelope.clone());
        if !unheard.is_empty() {
            let names: Vec<_> = unheard.iter().map(ToString::to_string).collect();
            let text = format!(
                "custody was taken without hearing from {}",
                names.join(", ")
            );
            self.alarm(guest, text, now);
        }
        let saved = self.host.change_custody(|custody| {
            custody.take(guest, epoch);
            custody.doubt(guest, unheard);
            if let Some((ordered, _)) = &order {
                custody.spend(guest, spent(ordered), now.ms);
                custody.set_order(guest, None);
                custody.evacuate(guest, told);
            }
        });
        let start = self.claims.get(guest);
        let placed = Body::GuestPlaced {
            guest: guest.clone(),
            at: self.host.config().host.clone(),
            by: start.map_or(PlacedBy::Start, |start| start.how),
            protected: true,
        };
        self.note(placed, now);
        if found {
            // What came of a copy that was not handed over is nobody's session.
            warn("sessions of no move", self.host.purge(guest).map(drop));
            self.connect_arrived(guest, now);
        }
        warn("a guest that is claimed", self.claimed_here(guest, now));
        let recorded = order.map_or(Ok(()), |(ordered, _)| {
            self.record_evacuation(guest, &ordered, now)
        });
        let settled = self.settle(guest, now);
        self.claim_settled(guest);
        saved.and(recorded).and(settled)
    }

    /// Nothing is claimed any more: whoever waits for that gets the vnic's state as it is.
    pub(super) fn claim_settled(&mut self, guest: &GuestId) {
        let start = self.claims.remove(guest);
        for caller in start.into_iter().flat_map(|start| start.replies) {
            warn("answering", self.answer(caller));
        }
    }

    fn answer(&self, (attached, reply): (Attached, Reply<Response>)) -> Result<(), AgentError> {
        let states = self.host.states_of(&attached.guest)?;
        let state = states.first().copied().unwrap_or(attached.state);
        let _ = reply.send(Response::Attached(Attached { state, ..attached }));
        Ok(())
    }

    /// A host that a guest of unknown custody has left had taken its links down.
    pub(super) fn was_cut(&mut self, guest: &GuestId, cut: bool) {
        if let Some(start) = self.claims.get_mut(guest) {
            start.cut |= cut;
        }
    }

    /// Opens a guest's vnics if it is ours and runs. The last authority is local: custody and the
    /// guest's own run state. What fails is tried again.
    pub(super) fn settle(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let fenced = self.leaving.get(guest).is_some_and(Leaving::is_fenced);
        let entry = self
            .host
            .custody()
            .guests()
            .find(|(known, _)| *known == guest);
        let qemu = entry.is_some_and(|(_, entry)| entry.qmp.is_some());
        // A ticket that could not be taken up again: nobody knows who has the guest.
        let ticket = entry.is_some_and(|(_, entry)| entry.leave.is_some());
        let moving = fenced || (ticket && !self.leaving.contains_key(guest));
        let watch = self.watches.get(guest);
        let runs = watch.map_or(!qemu, |watch| watch.state == Some(RunState::Running));
        if !self.host.custody().held(guest) || moving || !runs || self.is_cut(guest) {
            return Ok(());
        }
        self.begins(guest, now);
        // A custody that a restart would forget opens nothing.
        let saved = self.host.save_custody();
        let opened = saved.and_then(|()| {
            let cause = "the guest runs here";
            self.host.set_state(guest, VnicState::Open, cause)
        });
        if opened.is_err() {
            self.unsettled.insert(guest.clone());
        }
        self.note_all(opened?, now);
        Ok(())
    }

    pub(super) fn news(
        &mut self,
        guest: &GuestId,
        number: u64,
        news: News,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(watch) = self.watches.get_mut(guest) else {
            return Ok(());
        };
        if watch.number != number {
            return Ok(());
        }
        match news {
            News::Guarded => {
                watch.guarded = true;
                self.copy_if_waiting(guest, now)?;
                self.ready(guest, now)
            }
            News::Unguarded => {
                watch.guarded = false;
                Ok(())
            }
            News::Nics(nics) => self.nics_told(guest, &nics, now),
            News::State(state) => self.runs(guest, state, now),
            News::Event(Event::Resumed) => self.runs(guest, RunState::Running, now),
            News::Event(Event::Stopped) => {
                keep_awake();
                watch.state = Some(RunState::Stopped);
                watch.since = now;
                watch.order(Order::Follow);
                if let Some(leaving) = self.leaving.get_mut(guest) {
                    leaving.stopped(now);
                }
                // What fails here fails again when QEMU asks, and is answered then.
                warn("the last part of a copy", self.seal(guest));
                Ok(())
            }
            News::Event(Event::Migration(status)) => {
                if status == "setup" {
                    watch.order(Order::Way);
                }
                self.pace(guest, &status, now);
                self.migrates(guest, &status, now);
                Ok(())
            }
            News::Cut(nics) => self.cut_off(guest, &nics, now),
            News::Connected => self.connected(guest, now),
            News::Way(way) => self.way_told(guest, way, now),
            News::Event(Event::Closed) => self.ended(guest, now),
            News::Event(Event::Shutdown) => Ok(()),
            News::Failed(text) => self.failed(guest, &text, now),
        }
    }

    /// It may run all the same: nothing is opened, nothing is given up, and it is asked again. A
    /// QEMU that nobody has heard of and that has no vnic here is none.
    fn failed(&mut self, guest: &GuestId, text: &str, now: Now) -> Result<(), AgentError> {
        self.watches.remove(guest);
        if self.host.vnics_of(guest).is_empty() {
            return self.gone(guest, Departure::Ended, now);
        }
        let again_us = now.us + WATCH_AGAIN_US;
        if self.blind.insert(guest.clone(), again_us).is_none() {
            self.alarm(guest, format!("its QEMU cannot be asked: {text}"), now);
        }
        Ok(())
    }

    fn runs(&mut self, guest: &GuestId, state: RunState, now: Now) -> Result<(), AgentError> {
        if let Some(watch) = self.watches.get_mut(guest)
            && watch.state != Some(state)
        {
            watch.state = Some(state);
            if state != RunState::Migrated {
                watch.since = now;
            }
        }
        self.blind.remove(guest);
        match state {
            RunState::Running => {
                if let Some(leaving) = self.leaving.get_mut(guest) {
                    leaving.goes_on();
                }
                let stays = self.leave(guest, source::Event::GuestResumed, now);
                warn("a guest that goes on", stays);
                let arrived = self.arrive(guest, target::Event::GuestResumed, now);
                warn("a guest that arrives", arrived);
                warn(
                    "a guest that nobody has announced",
                    self.unasked(guest, now),
                );
                self.settle(guest, now)
            }
            RunState::Incoming => self.ready(guest, now),
            RunState::Migrated => {
                let moving = self.leaving.get(guest).is_some_and(Leaving::is_fenced);
                if moving || !self.host.custody().held(guest) {
                    return Ok(());
                }
                self.left(guest, Departure::Unasked, now)
            }
            RunState::Stopped => Ok(()),
        }
    }

    /// A guest that came from somewhere without being handed over runs, but nobody hears it until
    /// every other host has said that it is not theirs. Its sessions are lost.
    fn unasked(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let known = self.host.custody().held(guest) || self.claims.contains_key(guest);
        let comes = self.arriving.get(guest).is_some_and(Arriving::may_run);
        if known || comes || self.host.vnics_of(guest).is_empty() {
            return Ok(());
        }
        let text = "runs here without having been handed over: its vnics are in hold until no \
                    other host has it";
        self.alarm(guest, text, now);
        self.because(guest, "the guest came without what its source had signed");
        self.arrive(guest, target::Event::Mismatch, now)?;
        let start = Start::found(self.host.custody().epoch(guest));
        self.claims.insert(guest.clone(), start);
        self.ask_custody(guest, now)
    }

    fn ended(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        self.watches.remove(guest);
        self.gone(guest, Departure::Ended, now)
    }

    /// The guest is not here any more, whatever was going on with it.
    pub(super) fn gone(
        &mut self,
        guest: &GuestId,
        how: Departure,
        now: Now,
    ) -> Result<(), AgentError> {
        self.claim_settled(guest);
        // Custody is given up below, and a move does not outlive it.
        let left = self.unfenced_ends(guest, how.text(), now);
        warn("a guest that ended while it was to leave", left);
        // A QEMU that can be asked says itself when it has ended: it may run without this device.
        if !self.watches.contains_key(guest) {
            self.blind.remove(guest);
            let left = self.leave(guest, source::Event::GuestGone, now);
            warn("a guest that ended while it was fenced", left);
        }
        let arrived = self.arriving_gone(guest, now);
        warn("a guest that ended while it was to arrive", arrived);
        if self.leaving.get(guest).is_some_and(Leaving::is_fenced) {
            return Ok(());
        }
        if self.host.custody().held(guest) {
            return self.left(guest, how, now);
        }
        if !self.watches.contains_key(guest) && self.host.custody().qmp(guest).is_some() {
            self.host
                .change_custody(|custody| custody.clear_qmp(guest))?;
        }
        Ok(())
    }

    /// Closes the guest's vnics and gives custody up.
    pub(super) fn left(
        &mut self,
        guest: &GuestId,
        how: Departure,
        now: Now,
    ) -> Result<(), AgentError> {
        if !self.host.custody().held(guest) {
            return Ok(());
        }
        // Each for itself: a guest that is gone must not stay ours because one of them fails.
        let shut = self.host.states_of(guest);
        let shut = shut.is_ok_and(|states| states.contains(&VnicState::Cut));
        let left_cut = (self.cut.remove(guest) || shut) && how == Departure::Unasked;
        let closed = self.host.set_state(guest, VnicState::Hold, how.text());
        let closed = closed.map(|closed| self.note_all(closed, now));
        let purged = self.host.purge(guest).map(drop);
        let saved = self.host.change_custody(|custody| {
            custody.give_up(guest);
            custody.set_cut(guest, left_cut);
        });
        if how == Departure::Unasked {
            self.alarm(guest, how.text(), now);
        }
        // What is recorded is when the guest stopped here, not when that was understood. A guest
        // whose device went before its stop was heard of ran until about now.
        let watch = self.watches.get(guest);
        let stopped = watch.filter(|watch| watch.state != Some(RunState::Running));
        let at = stopped.map_or(now, |watch| watch.since);
        if how == Departure::Unasked {
            warn("a guest that has left", self.left_unclaimed(guest, now));
        }
        let (guest, host) = (guest.clone(), self.host.config().host.clone());
        self.note(Body::GuestLeft { guest, at: host }, at);
        closed.and(purged).and(saved)
    }
}
