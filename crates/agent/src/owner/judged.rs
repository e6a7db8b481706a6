//! What this end has against a guest's coming: every reason, from the ticket that its source offers
//! and how this host stands.

use super::Owner;
use super::overriding::Causes;
use crate::AgentError;
use crate::allowance::Heard;
use crate::custody::{CONFIRMS_MAX, SPENT_MAX};
use crate::input::Now;
use crate::moves::admission::{self, Question, Standing};
use lictor_evidence::{Body, ControlFact};
use lictor_types::{Epoch, GuestId, HostId};
use lictor_wire::{Envelope, Refusal, Ticket};

/// A ticket that a source offers, and what speaks against it here.
pub(super) struct Judged {
    pub(super) ticket: Ticket,
    pub(super) reasons: Vec<Refusal>,
    pub(super) controls: Vec<ControlFact>,
}

impl Owner {
    /// What this end has against a guest's coming. Nothing, if the question is not answered.
    pub(super) fn judged(
        &mut self,
        from: &HostId,
        (format, binding): (u32, Epoch),
        envelope: &Envelope,
        now: Now,
    ) -> Result<Option<Judged>, AgentError> {
        let Some(release) = self.host.release().cloned() else {
            return Ok(None);
        };
        let ticket = match Ticket::proposed(envelope, &release, now.ms) {
            Ok(ticket) if ticket.source == *from => ticket,
            Ok(_) | Err(_) => {
                let what = format!("host {from} offers a ticket that is not its own, or lapsed");
                return Err(AgentError::Refused(what));
            }
        };
        match self.allowance.ask(from, now) {
            Heard::Yes => {}
            Heard::NotAnyMore => {
                let (subject, text) = (format!("host {from}"), "it asks for moves too often");
                let text = text.to_owned();
                self.note(Body::Alarm { subject, text }, now);
                return Ok(None);
            }
            Heard::No => return Ok(None),
        }
        // A device that went with its guest a moment ago is no fault of this host.
        self.reconcile(now)?;
        let controls = self.host.controls()?;
        let busy = self.busy(&ticket, now.ms);
        let waived = self.waived(&ticket.guest, now);
        let overridden = self.overridden(&ticket, now);
        let (overridden, not_overridden) = match overridden {
            Ok(causes) => (causes, None),
            Err(refusal) => (Causes::new(), Some(refusal)),
        };
        let chosen = self.chosen_against(&ticket.guest, &overridden, now);
        let standing = Standing {
            host: &self.host.config().host,
            release: &release,
            binding: self.host.bindings().guest(&ticket.guest),
            controls: &controls,
            waived: &waived,
            overridden: &overridden,
            chosen: &chosen,
            vnics: self.host.attached()?,
            sessions_left: self.host.sessions_left()?,
            custody: self.host.custody().epoch(&ticket.guest),
            held: self.host.custody().held(&ticket.guest),
            busy: busy.as_deref(),
            now_ms: now.ms,
        };
        let question = Question {
            ticket: &ticket,
            format,
            binding,
        };
        let mut reasons = admission::reasons(&question, &standing);
        reasons.extend(not_overridden);
        Ok(Some(Judged {
            ticket,
            reasons,
            controls,
        }))
    }

    /// What this end has against a guest that is here already, and of which no source has asked.
    pub(super) fn against_here(
        &self,
        guest: &GuestId,
        now: Now,
    ) -> Result<Vec<Refusal>, AgentError> {
        let Some(release) = self.host.release() else {
            return Ok(vec![Refusal::GuestUnknown]);
        };
        let controls = self.host.controls()?;
        let here = self.host.vnics_of(guest).len();
        let waived = self.waived(guest, now);
        let overridden = Causes::new();
        let chosen = self.chosen_against(guest, &overridden, now);
        let standing = Standing {
            host: &self.host.config().host,
            release,
            binding: self.host.bindings().guest(guest),
            controls: &controls,
            waived: &waived,
            overridden: &overridden,
            chosen: &chosen,
            vnics: self.host.attached()?.saturating_sub(here),
            // Its quota was taken when it was attached.
            sessions_left: u64::MAX,
            custody: self.host.custody().epoch(guest),
            held: false,
            busy: None,
            now_ms: now.ms,
        };
        Ok(admission::reasons_here(&standing))
    }

    fn busy(&self, ticket: &Ticket, now_ms: u64) -> Option<String> {
        let unconfirmed = self.host.custody().unconfirmed(&ticket.guest);
        if unconfirmed >= CONFIRMS_MAX {
            return Some(format!("{unconfirmed} that no source has confirmed"));
        }
        if self
            .host
            .custody()
            .is_spent(&ticket.guest, &ticket.digest())
        {
            return Some("this very ticket was admitted before".to_owned());
        }
        let spent = (self.host.custody()).spent_by(&ticket.guest, &ticket.source, now_ms);
        if spent >= SPENT_MAX {
            return Some(format!("{spent} that were given up and have not lapsed"));
        }
        let other = self.arriving.get(&ticket.guest)?;
        let same = other.digest == ticket.digest();
        let busy = !other.machine.ended() || same || other.lacks_record();
        busy.then(|| format!("ticket {} from {}", other.digest, other.ticket.source))
    }
}
