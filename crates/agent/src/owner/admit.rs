//! Asking for a move: what the source itself knows against it, the ticket, the target's answer.

use super::Owner;
use super::leaving::Leaving;
use crate::AgentError;
use crate::error::chain;
use crate::guests::Order;
use crate::input::{Now, Reply};
use crate::moves::admission::TICKET_LIFE_MS;
use crate::moves::source;
use lictor_evidence::{Body, ControlFact};
use lictor_types::{Digest, Epoch, GuestId, HostId};
use lictor_wire::local::Response;
use lictor_wire::peer::{Control, FORMAT};
use lictor_wire::{Envelope, Refusal, Ticket};
use rand::RngCore as _;

/// How long the target's agent may take to admit a move or to refuse it.
pub(super) const ADMIT_LIMIT_US: u64 = 4_000_000;

/// Who waits for a target's answer.
#[derive(Debug)]
pub(super) enum Asker {
    /// Somebody at the agent's socket.
    Caller(Reply<Response>),
    /// The target itself, which knows what it says.
    Target,
}

impl Asker {
    /// A caller may have gone.
    pub(super) fn answer(self, response: Response) {
        if let Self::Caller(reply) = self {
            let _ = reply.send(response);
        }
    }
}

/// What somebody wants to move.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) guest: GuestId,
    pub(super) target: HostId,
    pub(super) asked_by: String,
}

impl Owner {
    pub(super) fn admit(
        &mut self,
        wanted: Wanted,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        self.make_way(&wanted, now);
        if let Some(ticket) = self.admitted_unasked(&wanted) {
            let _ = reply.send(ticket);
            return Ok(());
        }
        let reasons = self.against(&wanted, now);
        if !reasons.is_empty() {
            self.refuse_move(&wanted, reasons, Asker::Caller(reply), now);
            return Ok(());
        }
        self.ask_to_admit(wanted, Asker::Caller(reply), now)
    }

    /// Asks the target, which nothing speaks against here.
    pub(super) fn ask_to_admit(
        &mut self,
        wanted: Wanted,
        asker: Asker,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(ticket) = self.ticket(&wanted, now) else {
            return Ok(());
        };
        let envelope = ticket.sign(self.host.key());
        let binding = self.host.bindings().guest(&wanted.guest);
        let bindings = binding.map_or(Epoch(0), |binding| binding.epoch);
        let mut leaving = Leaving::new(source::Source::default(), ticket);
        leaving.unasked = matches!(asker, Asker::Target);
        leaving.asked = Some((asker, now.us + ADMIT_LIMIT_US));
        if let Some(watch) = self.watches.get(&wanted.guest)
            && !watch.guarded
        {
            leaving.guarded_for_move = true;
            watch.order(Order::Guard);
        }
        self.leaving.insert(wanted.guest.clone(), leaving);
        let control = Control::Admit {
            format: FORMAT,
            bindings,
            ticket: envelope,
        };
        self.say(&wanted.target, control);
        self.unpark(&wanted.guest, now)
    }

    /// The very move that is asked for here may have been found by its target a moment ago.
    fn admitted_unasked(&self, wanted: &Wanted) -> Option<Response> {
        let leaving = self.leaving.get(&wanted.guest)?;
        let same = leaving.unasked && leaving.ticket.target == wanted.target;
        let signed = leaving.asked.is_none() && !leaving.has_ended();
        (same && signed).then_some(Response::Admitted {
            ticket: leaving.digest,
            deadline_ms: leaving.ticket.deadline_ms,
        })
    }

    /// What both ends are to sign; none without a release.
    pub(super) fn ticket(&self, wanted: &Wanted, now: Now) -> Option<Ticket> {
        let release = self.host.release()?;
        Some(Ticket {
            deployment: release.release().deployment.clone(),
            guest: wanted.guest.clone(),
            source: self.host.config().host.clone(),
            target: wanted.target.clone(),
            custody: self.host.custody().epoch(&wanted.guest).saturating_add(1),
            nonce: nonce(),
            asked_by: wanted.asked_by.clone(),
            issued_ms: now.ms,
            deadline_ms: now.ms + TICKET_LIFE_MS,
            generation: release.release().generation,
            release: release.digest(),
            overriding: self
                .override_for(&wanted.guest, &wanted.target, now)
                .map(|(_, envelope)| envelope),
        })
    }

    /// What this end knows against a move, all of it.
    pub(super) fn against(&self, wanted: &Wanted, now: Now) -> Vec<Refusal> {
        let Wanted { guest, target, .. } = wanted;
        let mut reasons = Vec::new();
        let none = |detail: &str| Refusal::NotInCustody {
            detail: detail.into(),
        };
        if !self.host.custody().held(guest) {
            reasons.push(none("the guest is not under this host's custody"));
        }
        // What cannot be read is no container.
        let container = self.is_container(guest).unwrap_or(false);
        if !self.watches.contains_key(guest) && !container {
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
        reasons.extend(self.doubts_against(guest));
        reasons.extend(self.evacuation_against(guest));
        reasons.extend(self.unguarded_against(guest));
        let overridden = self.override_for(guest, target, now);
        let overridden = overridden.map(|(ordered, _)| ordered.order.causes);
        reasons.extend(self.chosen_against(guest, &overridden.unwrap_or_default(), now));
        reasons
    }

    fn refuse_move(&mut self, wanted: &Wanted, reasons: Vec<Refusal>, asker: Asker, now: Now) {
        let body = Body::MoveRefused {
            guest: wanted.guest.clone(),
            from: self.host.config().host.clone(),
            to: wanted.target.clone(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        self.note(body, now);
        asker.answer(Response::Refused { reasons });
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
        if self
            .leaving
            .get(&guest)
            .is_none_or(|one| one.asked.is_none())
        {
            return Ok(());
        }
        // Durable before anything of the guest stands still: after a restart this alone says that
        // another host may have it.
        let order = self.spent_order(&ticket);
        let overridden = self.told_overridden(&ticket).map(Box::new);
        let kept = self.host.change_custody(|custody| {
            custody.set_leave(&guest, Some(envelope.clone()));
            if let Some(order) = order {
                custody.spend(&guest, order, now.ms);
                custody.set_overriding(&guest, None);
            }
        });
        if let Err(error) = kept {
            self.set_cause(&guest, error.chain());
            self.leave(&guest, source::Event::Abandon, now)?;
            return self
                .host
                .change_custody(|custody| custody.set_leave(&guest, None));
        }
        let asked = self
            .leaving
            .get_mut(&guest)
            .and_then(|one| one.asked.take());
        let Some((asker, _)) = asked else {
            return Ok(());
        };
        self.leave(&guest, source::Event::Admitted, now)?;
        let (digest, deadline_ms) = (ticket.digest(), ticket.deadline_ms);
        let body = Body::MoveAdmitted {
            ticket: digest,
            guest,
            from: ticket.source,
            to: ticket.target,
            controls,
            overridden,
        };
        self.note(body, now);
        asker.answer(Response::Admitted {
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

    pub(super) fn drop_asked(
        &mut self,
        guest: &GuestId,
        reasons: Vec<Refusal>,
        now: Now,
    ) -> Result<(), AgentError> {
        let Some(leaving) = self.leaving.get_mut(guest) else {
            return Ok(());
        };
        let Some((asker, _)) = leaving.asked.take() else {
            return Ok(());
        };
        let wanted = Wanted {
            guest: guest.clone(),
            target: leaving.ticket.target.clone(),
            asked_by: leaving.ticket.asked_by.clone(),
        };
        let unguard = leaving.guarded_for_move;
        // The target may admit it all the same, a moment later.
        self.leave(guest, source::Event::Abandon, now)?;
        self.leaving.remove(guest);
        if unguard && let Some(watch) = self.watches.get(guest) {
            watch.order(Order::Unguard);
        }
        self.refuse_move(&wanted, reasons, asker, now);
        Ok(())
    }
}

/// 128 bits from the system's generator, as hexadecimal digits.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
