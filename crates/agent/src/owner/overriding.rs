//! Orders of two persons that override what speaks against one move. The order goes along in the
//! ticket: both ends verify it by their own trust files, sign it with the ticket, and use it up
//! when the move is admitted, whatever becomes of that.

use super::Owner;
use crate::AgentError;
use crate::custody::{Custody, Spent};
use crate::error::chain;
use crate::input::Now;
use lictor_evidence::Overridden;
use lictor_policy::Cause;
use lictor_types::{GuestId, HostId};
use lictor_wire::local::Response;
use lictor_wire::{Envelope, Order as _, Ordered, Override, Refusal, Ticket};
use std::collections::BTreeSet;

/// What an order overrides.
pub(super) type Causes = BTreeSet<Cause>;

impl Owner {
    /// Somebody presents an order for a guest that is here. The last one counts.
    pub(super) fn present_override(
        &mut self,
        envelope: &Envelope,
        now: Now,
    ) -> Result<Response, AgentError> {
        let ordered = self.believed(envelope, now).map_err(AgentError::Refused)?;
        let (order, own) = (&ordered.order, &self.host.config().host);
        let guest = order.guest.clone();
        if order.to == *own || !self.host.custody().held(&guest) {
            return Err(AgentError::Refused(format!(
                "the order lets guest {guest} move to host {}; present it to the agent of the host \
                 where that guest runs, this is {own}",
                order.to
            )));
        }
        let response = Response::Ordered {
            order: ordered.digest,
            guest: guest.clone(),
            expires_ms: order.expires_ms,
        };
        let kept = |custody: &mut Custody| custody.set_overriding(&guest, Some(envelope.clone()));
        self.host.change_custody(kept)?;
        Ok(response)
    }

    /// An order that counts now, by this host's own trust file and clock, and was not used here.
    fn believed(&self, envelope: &Envelope, now: Now) -> Result<Ordered<Override>, String> {
        // What is good for a time is worth what the clock is.
        if let Some(doubt) = self.clock.doubt(now) {
            return Err(format!(
                "whether the order has lapsed is not known: {doubt}"
            ));
        }
        let ordered = Override::verify(envelope, self.host.trust(), now.ms);
        let ordered = ordered.map_err(|error| chain(&error))?;
        let guest = &ordered.order.guest;
        if self.host.custody().is_spent(guest, &ordered.digest) {
            return Err(format!(
                "this order for guest {guest} was used before; write another"
            ));
        }
        Ok(ordered)
    }

    /// The order for this move that was presented here, if there is one that counts.
    pub(super) fn override_for(
        &self,
        guest: &GuestId,
        target: &HostId,
        now: Now,
    ) -> Option<(Ordered<Override>, Box<Envelope>)> {
        let envelope = self.host.custody().overriding(guest)?;
        let ordered = self.believed(envelope, now).ok()?;
        (ordered.order.to == *target).then(|| (ordered, Box::new(envelope.clone())))
    }

    /// What the order in a ticket overrides at this end; or why it overrides nothing.
    pub(super) fn overridden(&self, ticket: &Ticket, now: Now) -> Result<Causes, Refusal> {
        let Some(envelope) = &ticket.overriding else {
            return Ok(Causes::new());
        };
        let refused = |detail| Refusal::Override { detail };
        let order = self.believed(envelope, now).map_err(refused)?.order;
        if order.guest != ticket.guest || order.to != ticket.target {
            let (guest, to) = (&order.guest, &order.to);
            return Err(refused(format!("it is for a move of {guest} to {to}")));
        }
        Ok(order.causes)
    }

    /// What was spent with a ticket: the ticket's own order.
    pub(super) fn spent_order(&self, ticket: &Ticket) -> Option<Spent> {
        let ordered = self.order_of(ticket)?;
        Some(Spent {
            ticket: ordered.digest,
            source: ticket.source.clone(),
            custody: Spent::ORDER,
            // A clock that says less than that later is not believed.
            deadline_ms: ordered.order.expires_ms,
        })
    }

    /// The order in a ticket that both ends have signed, whether it has lapsed since or not.
    pub(super) fn order_of(&self, ticket: &Ticket) -> Option<Ordered<Override>> {
        let envelope = ticket.overriding.as_ref()?;
        Override::signed(envelope, self.host.trust()).ok()
    }

    /// What evidence says of the order in a ticket.
    pub(super) fn told_overridden(&self, ticket: &Ticket) -> Option<Overridden> {
        self.order_of(ticket).map(|ordered| ordered.told())
    }

    /// Whether a guest that comes here was let in beyond the host's budget of sessions.
    pub(super) fn beyond_budget(&self, guest: &GuestId) -> bool {
        let arriving = self.arriving.get(guest);
        let ticket = arriving.filter(|one| !one.machine.ended());
        let ordered = ticket.and_then(|one| self.order_of(&one.ticket));
        ordered.is_some_and(|ordered| ordered.order.causes.contains(&Cause::StateFull))
    }
}
