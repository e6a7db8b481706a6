//! Guests that leave a host whose agent is broken, by an order of two persons: without what their
//! source would have signed, and without their sessions.

use super::{Owner, warn};
use crate::AgentError;
use crate::custody::{Custody, Spent};
use crate::error::chain;
use crate::input::Now;
use lictor_estate::qmp::RunState;
use lictor_evidence::{Body, MOVE_RECORD_TYPE, MoveOutcome, MoveRecord, MoveSessions};
use lictor_types::{GuestId, HostId, VnicState};
use lictor_wire::local::Response;
use lictor_wire::peer::Control;
use lictor_wire::{Envelope, Evacuation, Order as _, Ordered, Refusal};
use std::collections::BTreeSet;

type Order = Ordered<Evacuation>;

/// It is used once, also after a restart; so it is kept for good.
pub(super) fn spent(ordered: &Order) -> Spent {
    Spent {
        ticket: ordered.digest,
        source: ordered.order.from.clone(),
        custody: Spent::ORDER,
        deadline_ms: u64::MAX,
    }
}

impl Owner {
    /// Somebody presents an order for a guest that comes here, or is here and in hold.
    pub(super) fn evacuate(
        &mut self,
        envelope: &Envelope,
        now: Now,
    ) -> Result<Response, AgentError> {
        let refused = |what: String| Err(AgentError::Refused(what));
        let ordered = Evacuation::verify(envelope, self.host.trust(), now.ms);
        let ordered = ordered.map_err(|error| AgentError::Refused(chain(&error)))?;
        let (order, own) = (&ordered.order, &self.host.config().host);
        let guest = order.guest.clone();
        if order.to != *own {
            let to = &order.to;
            return refused(format!(
                "the order is for host {to}, this is {own}; present it there"
            ));
        }
        if self.host.custody().is_spent(&guest, &ordered.digest) {
            return refused(format!(
                "this order for guest {guest} was used before; write another"
            ));
        }
        if self.host.custody().held(&guest) {
            return refused(format!(
                "guest {guest} is under this host's custody already"
            ));
        }
        if !self.possible_hosts(&guest).contains(&order.from) {
            let from = &order.from;
            return refused(format!(
                "guest {guest} may not run on host {from}, or is bound nowhere: nobody waits for \
                 that host's word"
            ));
        }
        let response = Response::Ordered {
            order: ordered.digest,
            guest: guest.clone(),
            expires_ms: order.expires_ms,
        };
        let envelope = envelope.clone();
        let kept = |custody: &mut Custody| custody.set_order(&guest, Some(envelope));
        self.host.change_custody(kept)?;
        Ok(response)
    }

    /// The order for a guest that was presented here, if it counts now.
    fn good_order(&self, guest: &GuestId, now: Now) -> Option<(Order, &Envelope)> {
        let envelope = self.host.custody().order(guest)?;
        let ordered = Evacuation::verify(envelope, self.host.trust(), now.ms).ok()?;
        Some((ordered, envelope))
    }

    /// The host that an order takes the guest from: its silence keeps nobody waiting.
    pub(super) fn ordered_from(&self, guest: &GuestId, now: Now) -> Option<HostId> {
        let (ordered, _) = self.good_order(guest, now)?;
        Some(ordered.order.from)
    }

    /// That host is told before it is asked whose the guest is.
    pub(super) fn tell_order(&self, guest: &GuestId, now: Now) {
        if let Some((ordered, envelope)) = self.good_order(guest, now) {
            let order = envelope.clone();
            self.say(&ordered.order.from, Control::Evacuated { order });
        }
    }

    /// An order for a guest that is taken now, and its envelope. Whoever takes it spends it.
    pub(super) fn order_to_use(&self, guest: &GuestId, now: Now) -> Option<(Order, Envelope)> {
        let (ordered, envelope) = self.good_order(guest, now)?;
        Some((ordered, envelope.clone()))
    }

    /// What became of an evacuation is told like what becomes of a move whose source is lost.
    pub(super) fn record_evacuation(
        &mut self,
        guest: &GuestId,
        ordered: &Order,
        now: Now,
    ) -> Result<(), AgentError> {
        let side = self.host.move_side(guest)?;
        let frames = self.host.frames_before(guest)?;
        let order = &ordered.order;
        let signers = ordered.names().join(" and ");
        let record = MoveRecord {
            ticket: ordered.digest,
            guest: guest.clone(),
            from: order.from.clone(),
            to: order.to.clone(),
            asked_by: format!("{signers}, without its sessions: {}", order.justification),
            source: side.clone(),
            target: side,
            sessions: MoveSessions::default(),
            copied: None,
            counted: None,
            overridden: None,
            hold_since_ms: now.ms,
            fenced_ms: 0,
            opened_ms: now.ms,
            pause_us: 0,
            unprotected_ms: 0,
            unprotected_packets: Some(frames),
            error_ms: 0,
            outcome: MoveOutcome::StateLost,
        };
        let bytes = record.canonical_bytes();
        let signed = Envelope::sign(MOVE_RECORD_TYPE, &bytes, &[self.host.key()]);
        let (record, signed) = (Box::new(record), Box::new(signed));
        self.note(Body::MoveRecorded { record, signed }, now);
        Ok(())
    }

    /// A guest that was here was taken by order while this agent could not be heard. A copy that
    /// runs, or only stands still, is not let go of: then the order is wrong.
    pub(super) fn evacuated(
        &mut self,
        from: &HostId,
        envelope: &Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        let ordered = Evacuation::signed(envelope, self.host.trust());
        let ordered = ordered.map_err(|error| AgentError::Refused(chain(&error)))?;
        let order = &ordered.order;
        if order.to != *from || order.from != self.host.config().host {
            let what = format!("host {from} shows an order that is not about it and this host");
            return Err(AgentError::Refused(what));
        }
        let guest = order.guest.clone();
        let custody = self.host.custody();
        let held = custody.held(&guest) && !custody.is_spent(&guest, &ordered.digest);
        let state = self.watches.get(&guest).map(|watch| watch.state);
        let gone = matches!(state, None | Some(Some(RunState::Migrated)));
        if held && gone && !self.leaving_now(&guest) {
            let ended = self.let_evacuated_go(&guest, &ordered, now);
            warn("a guest that was evacuated", ended);
        }
        self.custody_asked(from, guest, now)
    }

    fn let_evacuated_go(
        &mut self,
        guest: &GuestId,
        ordered: &Order,
        now: Now,
    ) -> Result<(), AgentError> {
        let text = format!("it was evacuated to host {} by order", ordered.order.to);
        self.alarm(guest, text.clone(), now);
        let held = self.host.set_state(guest, VnicState::Hold, &text);
        let held = held.map(|held| self.note_all(held, now));
        let purged = self.host.purge(guest).map(drop);
        let spent = spent(ordered);
        let saved = self.host.change_custody(|custody| {
            custody.spend(guest, spent, now.ms);
            custody.give_way(guest);
        });
        let (left, at) = (guest.clone(), self.host.config().host.clone());
        self.note(Body::GuestLeft { guest: left, at }, now);
        held.and(purged).and(saved)
    }

    /// A host that was silent when its guest was taken by order is told until it has heard of it.
    pub(super) fn repeat_evacuations(&self) {
        for (_, entry) in self.host.custody().guests() {
            let order = entry.evacuated.as_ref();
            let from = order.and_then(|order| Some((Evacuation::unverified(order).ok()?, order)));
            if let Some((said, order)) = from {
                let order = order.clone();
                self.say(&said.from, Control::Evacuated { order });
            }
        }
    }

    /// That host has spoken. What it knew of epochs is known here from now on.
    pub(super) fn evacuation_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        (held, epoch): (bool, u64),
    ) -> Result<(), AgentError> {
        let waits = self.evacuated_from(guest).as_ref() == Some(from);
        if held || !waits || !self.host.custody().held(guest) {
            return Ok(());
        }
        self.host
            .change_custody(|custody| custody.evacuation_heard(guest, epoch))
    }

    fn evacuated_from(&self, guest: &GuestId) -> Option<HostId> {
        let order = self.host.custody().evacuated(guest)?;
        Evacuation::unverified(order).ok().map(|order| order.from)
    }

    /// A guest of which its last host still believes that it has it.
    pub(super) fn evacuation_against(&self, guest: &GuestId) -> Option<Refusal> {
        let from = self.evacuated_from(guest)?;
        let detail = format!("host {from}, which it was evacuated from, has not heard of that yet");
        Some(Refusal::NotInCustody { detail })
    }

    /// Hosts whose silence speaks against a guest that was found here.
    pub(super) fn silent(
        &self,
        guest: &GuestId,
        unheard: &BTreeSet<HostId>,
        now: Now,
    ) -> BTreeSet<HostId> {
        let ordered = self.ordered_from(guest, now);
        let silent = unheard
            .iter()
            .filter(|host| Some(*host) != ordered.as_ref());
        silent.cloned().collect()
    }
}
