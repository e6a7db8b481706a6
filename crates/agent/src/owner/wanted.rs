//! Guests that come although nobody has asked for their move: their target asks for it when their
//! QEMU waits there, or when the management layer is about to make one, and their source then asks
//! for the move like anybody else. So both ends decide as always, with every reason, while the
//! migration may go on already.

use super::admit::{ADMIT_LIMIT_US, Asker, Wanted};
use super::arriving::Arriving;
use super::{Owner, warn};
use crate::AgentError;
use crate::allowance::Heard;
use crate::input::{Now, Reply, SaveReply};
use crate::moves::target;
use lictor_estate::qmp::RunState;
use lictor_evidence::Body;
use lictor_types::{GuestId, HostId, VnicState};
use lictor_wire::local::Response;
use lictor_wire::peer::Control;
use lictor_wire::{Refusal, Ticket};
use std::collections::BTreeSet;

/// How long a guest that is saved waits for a target that wants it. Without one it is a snapshot,
/// which takes much longer than that by itself.
const PARK_LIMIT_US: u64 = 250_000;

/// QEMU asks for the state of a guest that nobody wants to move.
#[derive(Debug)]
pub(super) struct Parked {
    reply: SaveReply,
    pub(super) deadline_us: u64,
}

/// A guest that this end has asked for.
#[derive(Debug)]
pub(super) struct Asking {
    /// Hosts that may have it and have not answered.
    waiting: BTreeSet<HostId>,
    reasons: Vec<Refusal>,
    pub(super) deadline_us: u64,
    replies: Vec<Reply<Response>>,
}

/// Who has asked for a move that its target has found on its way, as the ticket says.
fn found_by(target: &HostId) -> String {
    format!("nobody: host {target} found it on its way")
}

/// Whether the target has asked for the move itself.
fn was_found(ticket: &Ticket) -> bool {
    ticket.asked_by == found_by(&ticket.target)
}

pub(super) fn unheard_of(host: &HostId, why: &str) -> Refusal {
    let detail = format!("host {host}, which may have it, {why}");
    Refusal::NotInCustody { detail }
}

impl Owner {
    /// The management layer is about to let a guest come.
    pub(super) fn move_wanted(&mut self, guest: &GuestId, reply: Reply<Response>, now: Now) {
        let known = self.move_expected(guest);
        if known != Response::Unexpected || self.host.custody().held(guest) {
            let _ = reply.send(known);
            return;
        }
        self.want(guest, Some(reply), now);
    }

    /// A QEMU waits here for a guest whose move nobody has asked for. It is asked for once: what
    /// another answer would take is another migration.
    pub(super) fn want_if_it_waits(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let bound = self.host.bindings().guest(guest);
        let bound = bound.map_or(usize::MAX, |binding| binding.vnics.len());
        let states = self.host.states_of(guest)?;
        let shut = |state: &VnicState| matches!(state, VnicState::Hold | VnicState::HandedOver);
        let attached = states.len() == bound && states.iter().all(shut);
        let held = self.host.custody().held(guest) || self.leaving_now(guest);
        let Some(watch) = self.watches.get_mut(guest) else {
            return Ok(());
        };
        let waits = watch.state == Some(RunState::Incoming);
        if !attached || held || !waits || std::mem::replace(&mut watch.wanted, true) {
            return Ok(());
        }
        self.want(guest, None, now);
        Ok(())
    }

    fn want(&mut self, guest: &GuestId, reply: Option<Reply<Response>>, now: Now) {
        if let Some(asking) = self.asking.get_mut(guest) {
            asking.replies.extend(reply);
            return;
        }
        let others = self.possible_hosts(guest);
        for host in &others {
            let guest = guest.clone();
            self.say(host, Control::Wanted { guest });
        }
        let asking = Asking {
            waiting: others,
            reasons: Vec::new(),
            deadline_us: now.us + ADMIT_LIMIT_US,
            replies: Vec::from_iter(reply),
        };
        self.asking.insert(guest.clone(), asking);
        self.conclude_asking(guest, now);
    }

    /// A host where a guest of this one may run wants it.
    pub(super) fn wanted(
        &mut self,
        from: &HostId,
        guest: GuestId,
        now: Now,
    ) -> Result<(), AgentError> {
        if !self.host.custody().held(&guest) {
            let reasons = Vec::new();
            self.say(from, Control::NotHandedOver { guest, reasons });
            return Ok(());
        }
        let leaving = self.leaving.get(&guest).filter(|one| !one.has_ended());
        // It is asked already, or has signed.
        if leaving.is_some_and(|one| one.ticket.target == *from) {
            return Ok(());
        }
        if self.allowance.ask(from, now) != Heard::Yes {
            return Ok(());
        }
        let wanted = Wanted {
            guest: guest.clone(),
            target: from.clone(),
            asked_by: found_by(from),
        };
        let reasons = self.against(&wanted, now);
        if reasons.is_empty() {
            return self.ask_to_admit(wanted, Asker::Target, now);
        }
        let body = Body::MoveRefused {
            guest: guest.clone(),
            from: self.host.config().host.clone(),
            to: from.clone(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        self.note(body, now);
        self.say(from, Control::NotHandedOver { guest, reasons });
        Ok(())
    }

    /// A host answers that it does not ask for the move.
    pub(super) fn not_handed_over(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        reasons: Vec<Refusal>,
        now: Now,
    ) {
        if let Some(asking) = self.asking.get_mut(guest)
            && asking.waiting.remove(from)
        {
            asking.reasons.extend(reasons);
            self.conclude_asking(guest, now);
        }
    }

    pub(super) fn asking_lost(&mut self, host: &HostId, now: Now) {
        let about = self.asking.iter_mut();
        let about: Vec<GuestId> = about
            .filter_map(|(guest, one)| one.waiting.remove(host).then(|| guest.clone()))
            .collect();
        for guest in about {
            if let Some(asking) = self.asking.get_mut(&guest) {
                asking.reasons.push(unheard_of(host, "cannot be reached"));
            }
            self.conclude_asking(&guest, now);
        }
    }

    pub(super) fn asking_due(&mut self, now: Now) {
        let due = self.asking.iter();
        let due: Vec<GuestId> = due
            .filter(|(_, one)| one.deadline_us <= now.us)
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in due {
            if let Some(asking) = self.asking.get_mut(&guest) {
                let silent = std::mem::take(&mut asking.waiting);
                let silent = silent
                    .iter()
                    .map(|host| unheard_of(host, "has not answered"));
                asking.reasons.extend(silent);
            }
            self.conclude_asking(&guest, now);
        }
    }

    /// Its source has asked, and this end has signed: whoever waits goes on.
    pub(super) fn asking_settled(&mut self, guest: &GuestId) {
        let asking = self.asking.remove(guest);
        for reply in asking.into_iter().flat_map(|one| one.replies) {
            let _ = reply.send(self.move_expected(guest));
        }
    }

    /// Whether a move that was found on its way is no more when its source has asked at last: the
    /// QEMU for which it was asked for has ended meanwhile, and no hook says that one will be made.
    pub(super) fn found_in_vain(&self, ticket: &Ticket) -> bool {
        let hook = self.asking.get(&ticket.guest);
        let hook = hook.is_some_and(|one| !one.replies.is_empty());
        let watch = self.watches.get(&ticket.guest);
        let waits = watch.is_some_and(|watch| watch.state == Some(RunState::Incoming));
        was_found(ticket) && !hook && !waits
    }

    /// The guest's QEMU here has ended, or its last device has gone; a QEMU that can be asked says
    /// itself when it ends. A move that somebody has asked for by name waits for the next one. One
    /// that was found ends with what was found, because nobody else would give it up.
    pub(super) fn arriving_gone(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let watch = self.watches.get(guest);
        let unheard = watch.is_none_or(|watch| watch.state.is_none());
        let gone = |one: &Arriving| match one.attached {
            true => watch.is_none(),
            false => was_found(&one.ticket) && unheard,
        };
        if self.arriving.get(guest).is_some_and(gone) {
            return self.arrive(guest, target::Event::GuestGone, now);
        }
        Ok(())
    }

    /// Everybody has spoken, or will not, and nobody hands the guest over.
    fn conclude_asking(&mut self, guest: &GuestId, now: Now) {
        let over = |one: &mut Asking| one.waiting.is_empty();
        let Some(asking) = self
            .asking
            .get_mut(guest)
            .and_then(|one| over(one).then_some(one))
        else {
            return;
        };
        let reasons = std::mem::take(&mut asking.reasons);
        let replies = std::mem::take(&mut asking.replies);
        self.asking.remove(guest);
        if self.watches.get(guest).is_some_and(|watch| watch.wanted) {
            let said: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            let why = if said.is_empty() {
                "no host has it".to_owned()
            } else {
                said.join("; ")
            };
            let text = format!("its QEMU waits here, and its move is not admitted: {why}");
            self.alarm(guest, text, now);
        }
        for reply in replies {
            let answer = if reasons.is_empty() {
                Response::Unexpected
            } else {
                Response::Refused {
                    reasons: reasons.clone(),
                }
            };
            // The hook may have given up.
            let _ = reply.send(answer);
        }
    }

    /// The guest stands still, and its target may not have said yet that it wants it.
    pub(super) fn park(
        &mut self,
        guest: &GuestId,
        reply: SaveReply,
        now: Now,
    ) -> Result<(), AgentError> {
        if !self.host.custody().held(guest) || self.possible_hosts(guest).is_empty() {
            return self.snapshot(guest, &reply, now);
        }
        let deadline_us = now.us + PARK_LIMIT_US;
        let parked = Parked { reply, deadline_us };
        // QEMU asks one thing at a time, and hangs up if it asks again.
        self.parked.insert(guest.clone(), parked);
        Ok(())
    }

    /// A move of the guest has begun: what QEMU has asked is asked of that.
    pub(super) fn unpark(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        match self.parked.remove(guest) {
            Some(parked) => self.save(guest, parked.reply, now),
            None => Ok(()),
        }
    }

    pub(super) fn parked_due(&mut self, now: Now) {
        let due = self
            .parked
            .extract_if(.., |_, one| one.deadline_us <= now.us);
        for (guest, parked) in Vec::from_iter(due) {
            let answered = self.snapshot(&guest, &parked.reply, now);
            warn("a snapshot", answered);
        }
    }

    /// Whoever asks for a move by name goes before a target that has found its guest on its way.
    pub(super) fn make_way(&mut self, wanted: &Wanted, now: Now) {
        let leaving = self.leaving.get(&wanted.guest);
        let unasked = leaving.filter(|one| one.unasked && !one.is_fenced() && !one.has_ended());
        if unasked.is_some_and(|one| one.ticket.target != wanted.target) {
            let cause = format!("a move to {} was asked for", wanted.target);
            self.set_cause(&wanted.guest, cause);
            let left = self.leave(&wanted.guest, crate::moves::source::Event::Abandon, now);
            warn("a move that gives way to another", left);
        }
    }
}
