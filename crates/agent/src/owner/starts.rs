//! Guests that start here, run here and end here: who has custody, and when their vnics open.

use super::Owner;
use crate::AgentError;
use crate::custody::Duty;
use crate::guests::{News, Order};
use crate::input::{Now, Reply};
use crate::moves::{source, target};
use lictor_estate::qmp::{Event, RunState};
use lictor_evidence::{Body, PlacedBy};
use lictor_types::{GuestId, HostId, VnicState};
use lictor_wire::local::{Attach, Attached, Response};
use lictor_wire::peer::Control;
use std::collections::BTreeSet;

/// How long the other hosts may take to say whether a guest is theirs: as long as one connection
/// may take, and a little more.
const CLAIM_LIMIT_US: u64 = 2_000_000;
/// How often they are asked again while one of them says that it is.
const CLAIM_AGAIN_US: u64 = 1_000_000;

/// A guest that was attached here and of which nobody knows yet whose it is.
#[derive(Debug)]
pub(super) struct Claim {
    waiting: BTreeSet<HostId>,
    unheard: BTreeSet<HostId>,
    newest: u64,
    held_by: Option<HostId>,
    alarmed: bool,
    pub(super) deadline_us: u64,
    replies: Vec<(Attached, Reply<Response>)>,
}

/// How a guest went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its QEMU has ended.
    Ended,
    /// Its last device is gone.
    DeviceGone,
    /// It has left for another host, and nobody had asked Lictor.
    Unasked,
}

impl Departure {
    const fn text(self) -> &'static str {
        match self {
            Self::Ended => "its QEMU has ended",
            Self::DeviceGone => "its last device is gone",
            Self::Unasked => "it has left without a move that Lictor admitted",
        }
    }
}

impl Owner {
    /// After a restart: asks the QEMUs again, goes on with moves that were under way.
    pub(super) fn resume(&mut self, now: Now) -> Result<(), AgentError> {
        let known = self.host.custody().guests();
        let known: Vec<_> = known
            .map(|(guest, entry)| (guest.clone(), entry.clone()))
            .collect();
        for (guest, entry) in known {
            if let Some(Duty::Leave { ticket }) = entry.duty {
                self.resume_leaving(&guest, &ticket, now)?;
            }
            if let Some(qmp) = entry.qmp {
                self.watch(&guest, &qmp, now)?;
            } else if entry.held {
                self.settle(&guest, now)?;
            }
        }
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        request: &Attach,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let (attached, attestation) = match self.host.attach(request, now.ms) {
            Ok(attached) => attached,
            Err(error) => {
                let error = error.chain();
                let _ = reply.send(Response::Error { error });
                return Ok(());
            }
        };
        self.attestations.extend(attestation);
        let guest = attached.guest.clone();
        if let Some(qmp) = &request.qmp {
            let qmp = qmp.clone();
            self.host
                .change_custody(|custody| custody.set_qmp(&guest, qmp))?;
            self.watch(&guest, &request.qmp.clone().unwrap_or_default(), now)?;
        }
        if request.incoming {
            let _ = reply.send(Response::Attached(attached));
            return self.ready(&guest, now);
        }
        self.claim(&guest, (attached, reply), now)
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
        if let Some(claim) = self.claims.get_mut(guest) {
            claim.replies.push(caller);
            return Ok(());
        }
        let claim = Claim {
            waiting: BTreeSet::new(),
            unheard: BTreeSet::new(),
            newest: self.host.custody().epoch(guest),
            held_by: None,
            alarmed: false,
            deadline_us: 0,
            replies: vec![caller],
        };
        self.claims.insert(guest.clone(), claim);
        self.ask_custody(guest, now)
    }

    fn ask_custody(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let own = &self.host.config().host;
        let roster = self.host.roster();
        let binding = self.host.bindings().guest(guest);
        let others: BTreeSet<HostId> = roster
            .into_iter()
            .map(|entry| entry.host)
            .filter(|host| host != own)
            .filter(|host| binding.is_some_and(|binding| binding.may_run_on(host)))
            .collect();
        for host in &others {
            let guest = guest.clone();
            self.say(host, Control::Custody { guest });
        }
        if let Some(claim) = self.claims.get_mut(guest) {
            claim.waiting = others;
            claim.unheard.clear();
            claim.held_by = None;
            claim.deadline_us = now.us + CLAIM_LIMIT_US;
        }
        self.conclude(guest, now)
    }

    /// Another agent asks. Of two hosts that claim a guest at once the one with the smaller name
    /// gets it.
    pub(super) fn custody_asked(
        &mut self,
        from: &HostId,
        guest: GuestId,
    ) -> Result<(), AgentError> {
        let custody = self.host.custody();
        let arrived = self
            .arriving
            .get(&guest)
            .is_some_and(super::arriving::Arriving::may_run);
        let first = self.claims.contains_key(&guest) && self.host.config().host < *from;
        let held = custody.held(&guest) || arrived || first;
        let epoch = custody.epoch(&guest);
        self.say(from, Control::CustodyHeld { guest, held, epoch });
        Ok(())
    }

    pub(super) fn custody_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        (held, epoch): (bool, u64),
        now: Now,
    ) -> Result<(), AgentError> {
        self.target_told(from, guest, held, now)?;
        let Some(claim) = self.claims.get_mut(guest) else {
            return Ok(());
        };
        claim.newest = claim.newest.max(epoch);
        if claim.waiting.remove(from) && held {
            claim.held_by = Some(from.clone());
        }
        self.conclude(guest, now)
    }

    pub(super) fn claim_lost(&mut self, host: &HostId, now: Now) -> Result<(), AgentError> {
        let mut guests = Vec::new();
        for (guest, claim) in &mut self.claims {
            if claim.waiting.remove(host) {
                claim.unheard.insert(host.clone());
                guests.push(guest.clone());
            }
        }
        guests
            .iter()
            .try_for_each(|guest| self.conclude(guest, now))
    }

    pub(super) fn claims_due(&mut self, now: Now) -> Result<(), AgentError> {
        let due = self
            .claims
            .iter()
            .filter(|(_, claim)| claim.deadline_us <= now.us);
        let due: Vec<GuestId> = due.map(|(guest, _)| guest.clone()).collect();
        for guest in due {
            let Some(claim) = self.claims.get_mut(&guest) else {
                continue;
            };
            if claim.held_by.is_some() {
                self.ask_custody(&guest, now)?;
                continue;
            }
            let waiting = std::mem::take(&mut claim.waiting);
            claim.unheard.extend(waiting);
            self.conclude(&guest, now)?;
        }
        Ok(())
    }

    /// Everybody has spoken, or will not: the guest is ours unless it is somebody's.
    fn conclude(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let Some(claim) = self.claims.get_mut(guest) else {
            return Ok(());
        };
        if !claim.waiting.is_empty() {
            return Ok(());
        }
        if let Some(holder) = claim.held_by.clone() {
            claim.deadline_us = now.us + CLAIM_AGAIN_US;
            let first = !std::mem::replace(&mut claim.alarmed, true);
            let replies = std::mem::take(&mut claim.replies);
            if first {
                let text = format!(
                    "attached here, but host {holder} says that it runs under its custody; it is \
                     held until that ends"
                );
                self.alarm(guest, text, now);
            }
            return replies
                .into_iter()
                .try_for_each(|caller| self.answer(caller));
        }
        let Some(claim) = self.claims.remove(guest) else {
            return Ok(());
        };
        if !claim.unheard.is_empty() {
            let names: Vec<_> = claim.unheard.iter().map(ToString::to_string).collect();
            let text = format!(
                "custody was taken without hearing from {}",
                names.join(", ")
            );
            self.alarm(guest, text, now);
        }
        self.host
            .change_custody(|custody| custody.take(guest, claim.newest + 1))?;
        let placed = Body::GuestPlaced {
            guest: guest.clone(),
            at: self.host.config().host.clone(),
            by: PlacedBy::Start,
            protected: true,
        };
        self.note(placed, now);
        self.settle(guest, now)?;
        claim
            .replies
            .into_iter()
            .try_for_each(|caller| self.answer(caller))
    }

    fn answer(&self, (attached, reply): (Attached, Reply<Response>)) -> Result<(), AgentError> {
        let states = self.host.states_of(&attached.guest)?;
        let state = states.first().copied().unwrap_or(attached.state);
        let _ = reply.send(Response::Attached(Attached { state, ..attached }));
        Ok(())
    }

    /// Opens a guest's vnics if it is ours and runs. The last authority is local: custody and the
    /// guest's own run state.
    pub(super) fn settle(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let moving = self
            .leaving
            .get(guest)
            .is_some_and(super::leaving::Leaving::is_fenced);
        let watched = self.host.custody().guests();
        let qemu = watched
            .filter(|(known, _)| *known == guest)
            .any(|(_, entry)| entry.qmp.is_some());
        let watch = self.watches.get(guest);
        let runs = watch.map_or(!qemu, |watch| watch.state == Some(RunState::Running));
        if !self.host.custody().held(guest) || moving || !runs {
            return Ok(());
        }
        let opened = self
            .host
            .set_state(guest, VnicState::Open, "the guest runs here")?;
        self.note_all(opened, now);
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
            News::State(state) => self.runs(guest, state, now),
            News::Event(Event::Resumed) => self.runs(guest, RunState::Running, now),
            News::Event(Event::Stopped) => {
                watch.state = Some(RunState::Stopped);
                watch.since = now;
                watch.order(Order::Follow);
                if let Some(leaving) = self.leaving.get_mut(guest) {
                    leaving.stopped(now);
                }
                Ok(())
            }
            News::Event(Event::Migration(status)) if status == "failed" => {
                self.alarm(guest, "QEMU says that a migration failed", now);
                Ok(())
            }
            News::Event(Event::Closed) => self.ended(guest, now),
            News::Event(Event::Shutdown | Event::Migration(_)) => Ok(()),
            News::Failed(text) => {
                // It may run all the same: nothing is opened, nothing is given up.
                self.watches.remove(guest);
                self.alarm(guest, format!("its QEMU cannot be asked: {text}"), now);
                Ok(())
            }
        }
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
        match state {
            RunState::Running => {
                self.leave(guest, source::Event::GuestResumed, now)?;
                self.arrive(guest, target::Event::GuestResumed, now)?;
                self.unasked(guest, now);
                self.settle(guest, now)
            }
            RunState::Incoming => self.ready(guest, now),
            RunState::Migrated => {
                let moving = self
                    .leaving
                    .get(guest)
                    .is_some_and(super::leaving::Leaving::is_fenced);
                if moving || !self.host.custody().held(guest) {
                    return Ok(());
                }
                self.left(guest, Departure::Unasked, now)
            }
            RunState::Stopped => Ok(()),
        }
    }

    /// A guest that came from somewhere without being handed over runs, but nobody hears it.
    fn unasked(&mut self, guest: &GuestId, now: Now) {
        let known = self.host.custody().held(guest) || self.claims.contains_key(guest);
        if known
            || self
                .arriving
                .get(guest)
                .is_some_and(super::arriving::Arriving::may_run)
        {
            return;
        }
        let text = "runs here without having been handed over: its vnics are in hold";
        self.alarm(guest, text, now);
    }

    fn ended(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        self.watches.remove(guest);
        self.leave(guest, source::Event::GuestGone, now)?;
        self.arrive(guest, target::Event::GuestGone, now)?;
        let moving = self
            .leaving
            .get(guest)
            .is_some_and(super::leaving::Leaving::is_fenced);
        if self.host.custody().held(guest) && !moving {
            return self.left(guest, Departure::Ended, now);
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
        let closed = self.host.set_state(guest, VnicState::Hold, how.text())?;
        self.host.purge(guest)?;
        self.host.change_custody(|custody| custody.give_up(guest))?;
        self.note_all(closed, now);
        if how == Departure::Unasked {
            self.alarm(guest, how.text(), now);
        }
        // What is recorded is when the guest stopped here, not when that was understood. A guest
        // whose device went before its stop was heard of ran until about now.
        let watch = self.watches.get(guest);
        let stopped = watch.filter(|watch| watch.state != Some(RunState::Running));
        let at = stopped.map_or(now, |watch| watch.since);
        let (guest, host) = (guest.clone(), self.host.config().host.clone());
        self.note(Body::GuestLeft { guest, at: host }, at);
        Ok(())
    }
}
