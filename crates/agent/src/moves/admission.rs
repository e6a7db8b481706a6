//! Whether a host may take a guest: every reason against it, as a pure function of what was asked
//! and how the host stands.

use crate::custody::EPOCH_JUMP_MAX;
use lictor_evidence::ControlFact;
use lictor_policy::Cause;
use lictor_types::{Epoch, HostId, VNICS_PER_HOST_MAX};
use lictor_wire::peer::Format;
use lictor_wire::{Binding, Refusal, Ticket, VerifiedRelease};
use std::collections::BTreeSet;

/// How long a ticket is good for: a large guest takes minutes to copy. A target takes twice that
/// for a clock that goes wrong, and for no more: a ticket keeps other moves of its guest away.
pub const TICKET_LIFE_MS: u64 = 600_000;

/// Controls of which an owner says what happens where they are missing.
pub(crate) const CONTROLS: [(Cause, &str); 2] = [
    (Cause::IdsMissing, "ids"),
    (Cause::MonitorMissing, "monitor"),
];

/// What the source asks.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The ticket, whose source has signed it.
    pub ticket: &'a Ticket,
    /// The format that the source speaks.
    pub format: u32,
    /// The epoch of the guest's binding at the source.
    pub binding: Epoch,
}

/// How the target stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The target.
    pub host: &'a HostId,
    /// What it enforces.
    pub release: &'a VerifiedRelease,
    /// The guest's binding there.
    pub binding: Option<&'a Binding>,
    /// Its controls, as it saw them work.
    pub controls: &'a [ControlFact],
    /// Controls that the guest's owner lets be missing for now.
    pub waived: &'a [&'static str],
    /// Causes that an order of two persons overrides.
    pub overridden: &'a BTreeSet<Cause>,
    /// What its owner's other choices have against it, by what is impaired there.
    pub chosen: &'a [Refusal],
    /// Vnics attached there.
    pub vnics: usize,
    /// Sessions of the host's budget that no vnic has.
    pub sessions_left: u64,
    /// The guest's custody epoch that it knows of.
    pub custody: u64,
    /// Whether it has custody itself.
    pub held: bool,
    /// Another move of the guest, if one is under way.
    pub busy: Option<&'a str>,
    /// The time here, in milliseconds of Unix time.
    pub now_ms: u64,
}

/// Every reason against the move; none means that it is admitted.
#[must_use]
pub fn reasons(question: &Question<'_>, standing: &Standing<'_>) -> Vec<Refusal> {
    let ticket = question.ticket;
    let mut reasons = Vec::new();
    if Format::of(question.format).is_none() {
        let (found, expected) = (question.format, Format::spoken());
        let detail = format!("the source speaks {found}, the target {expected}");
        reasons.push(Refusal::Format { detail });
    }
    if ticket.target != *standing.host {
        reasons.push(Refusal::HostUnknown);
    }
    let other = ticket.release != standing.release.digest();
    if other && !standing.overridden.contains(&Cause::ReleaseStale) {
        reasons.push(Refusal::ReleaseDiffers {
            source: ticket.generation,
            target: standing.release.release().generation,
        });
    }
    if standing.held || ticket.custody <= standing.custody {
        let (asked, known) = (ticket.custody, standing.custody);
        let detail = format!("the ticket is for epoch {asked}, the target knows of {known}");
        reasons.push(Refusal::NotInCustody { detail });
    }
    if ticket.custody > standing.custody.saturating_add(EPOCH_JUMP_MAX) {
        let detail = format!("epoch {} is beyond belief", ticket.custody);
        reasons.push(Refusal::NotInCustody { detail });
    }
    if ticket.deadline_ms > standing.now_ms.saturating_add(2 * TICKET_LIFE_MS) {
        let detail = format!("the ticket is good for more than {TICKET_LIFE_MS} ms");
        reasons.push(Refusal::Format { detail });
    }
    if let Some(other) = standing.busy {
        let detail = other.to_owned();
        reasons.push(Refusal::Busy { detail });
    }
    match standing.binding {
        Some(binding) if binding.epoch >= question.binding => {
            reasons.extend(for_binding(binding, standing));
        }
        _ => reasons.push(Refusal::GuestUnknown),
    }
    reasons
}

/// Every reason against a guest that is here already, without a ticket.
#[must_use]
pub fn reasons_here(standing: &Standing<'_>) -> Vec<Refusal> {
    let bound = standing.binding;
    bound.map_or_else(
        || vec![Refusal::GuestUnknown],
        |binding| for_binding(binding, standing),
    )
}

fn for_binding(binding: &Binding, standing: &Standing<'_>) -> Vec<Refusal> {
    let mut reasons = standing.chosen.to_vec();
    if !binding.may_run_on(standing.host) {
        reasons.push(Refusal::HostNotAllowed);
    }
    let room = (VNICS_PER_HOST_MAX as usize).saturating_sub(standing.vnics);
    if binding.vnics.len() > room {
        let wanted = binding.vnics.len();
        let detail = format!("{wanted} vnics asked for, {room} left of {VNICS_PER_HOST_MAX}");
        reasons.push(Refusal::NoRoom { detail });
    }
    let wanted: u64 = binding
        .vnics
        .iter()
        .map(|vnic| u64::from(vnic.sessions_max))
        .sum();
    let full = wanted > standing.sessions_left;
    if full && !standing.overridden.contains(&Cause::StateFull) {
        let left = standing.sessions_left;
        let detail = format!(
            "{wanted} sessions asked for, {left} of the host's budget left; lower the guest's \
             quota, or raise `sessions` of the target's agent"
        );
        reasons.push(Refusal::NoRoom { detail });
    }
    let policy = &standing.release.release().policy;
    let required = policy
        .identity_of(&binding.labels)
        .map(|identity| policy.required_controls(identity))
        .unwrap_or_default();
    for control in required.iter().map(ToString::to_string) {
        let healthy = |one: &ControlFact| one.control == control && one.healthy;
        let cause = CONTROLS.iter().find(|(_, name)| *name == control);
        let waived = standing.waived.contains(&control.as_str())
            || cause.is_some_and(|(cause, _)| standing.overridden.contains(cause));
        if !waived && !standing.controls.iter().any(healthy) {
            reasons.push(Refusal::ControlMissing { control });
        }
    }
    reasons
}
