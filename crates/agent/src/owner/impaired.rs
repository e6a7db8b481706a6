//! What impairs the protection of the guests of this host, and what their owners chose for that:
//! found in each round, recorded, and asked before a move or a change.

use super::overriding::Causes;
use super::{Owner, warn};
use crate::AgentError;
use crate::impaired::Found;
use crate::input::Now;
use crate::moves::admission::CONTROLS;
use lictor_evidence::Body;
use lictor_policy::{Cause, Choice, Together};
use lictor_types::GuestId;
use lictor_wire::Refusal;
use std::collections::BTreeSet;

/// A cause that holds now, and what was found.
type Held = (Cause, String);

impl Owner {
    /// Proves verdicts as often as leases need it, and records what holds.
    pub(super) fn protect(&mut self, now: Now) -> Result<(), AgentError> {
        if self.next_beat.us <= now.us {
            // A few of them may fail to come in time.
            self.next_beat.us = now.us + self.host.config().lease_s * 1_000_000 / 6;
            self.unproven = self.host.heartbeat(now.ms)?;
        }
        let found = self.found(now)?;
        let bodies = self.impairments.round(found, now.ms);
        self.note_all(bodies, now);
        if let Some(kept) = self.impairments.to_keep(now.ms) {
            self.host.keep_impaired(&kept)?;
            self.impairments.kept(now.ms);
        }
        Ok(())
    }

    /// What holds at this host, whoever its guests are.
    fn held_here(&self, now: Now) -> Vec<Held> {
        let mut held = Vec::new();
        let stale = self.host.stale(now.ms);
        held.extend(stale.map(|why| (Cause::ReleaseStale, why)));
        let config = self.host.config();
        let silent_s = now.since_us(self.heard_manager) / 1_000_000;
        if config.manager.is_some() && silent_s >= config.manager_silence_s {
            let detail = format!("the manager has been silent for {silent_s} s");
            held.push((Cause::ManagerUnreachable, detail));
        }
        if let Some(why) = self.host.unrecorded() {
            held.push((
                Cause::EvidenceFull,
                format!("evidence cannot be written: {why}"),
            ));
        }
        held.extend(self.clock.doubt(now).map(|why| (Cause::TimeUntrusted, why)));
        held
    }

    fn found(&self, now: Now) -> Result<Vec<Found>, AgentError> {
        let here = self.held_here(now);
        let mut found = self.quarantined(now);
        for guest in self.host.guests_here()? {
            let mut held = here.clone();
            held.extend(self.host.full(&guest).map(|why| (Cause::StateFull, why)));
            held.extend(self.missing(&guest));
            let adopts_ms = self.host.adopts_for(&guest, now.ms);
            if adopts_ms > 0 {
                let detail = format!("its sessions are taken up in their midst for {adopts_ms} ms");
                held.push((Cause::StateLost, detail));
            }
            let mut add = |(cause, detail), since_ms| {
                found.push(Found {
                    guest: guest.clone(),
                    cause,
                    choice: self.host.choice(&guest, cause, now.ms),
                    detail,
                    since_ms,
                });
            };
            held.into_iter().for_each(|held| add(held, now.ms));
            let unproven = self.unproven.iter().find(|one| one.guest == guest);
            if let Some(one) = unproven {
                let over_ms = u64::try_from(one.over.as_millis()).unwrap_or(u64::MAX);
                let held = (Cause::EngineHung, one.detail.clone());
                add(held, now.ms.saturating_sub(over_ms));
            }
        }
        Ok(found)
    }

    /// Controls that a guest requires and that this host does not give it.
    fn missing(&self, guest: &GuestId) -> Vec<Held> {
        let missing = self.host.missing(guest).into_iter();
        let of = |(name, why): (String, String)| {
            let (cause, _) = CONTROLS.into_iter().find(|(_, control)| *control == name)?;
            Some((cause, format!("the control {name} is missing here: {why}")))
        };
        missing.filter_map(of).collect()
    }

    /// What this end has against a guest's moving, by its owner's choices for what holds here and
    /// was not overridden.
    pub(super) fn chosen_against(
        &self,
        guest: &GuestId,
        overridden: &Causes,
        now: Now,
    ) -> Vec<Refusal> {
        let held = self.held_here(now);
        let choice = |cause: Cause| self.host.choice(guest, cause, now.ms);
        let together = Together::of(held.iter().map(|(cause, _)| (*cause, choice(*cause))));
        let against = held
            .into_iter()
            .filter(|(cause, _)| together.moves.contains(cause) && !overridden.contains(cause));
        // Both ends may have found the same: whoever reads it must see two.
        let host = &self.host.config().host;
        let against = against.map(|(cause, detail)| Refusal::Impaired {
            cause: cause.name().into(),
            detail: format!("{detail} at host {host}; its owner chose {}", choice(cause)),
        });
        against.collect()
    }

    /// Whether a release or binding may be taken now: not if the owner of a guest that is here
    /// refuses that, or if nobody is here who allows it. What is refused is recorded once.
    pub(super) fn may_change(&mut self, now: Now) -> Result<bool, AgentError> {
        let held = self.held_here(now);
        let guests = self.host.guests_here()?;
        let choices = |cause: Cause| -> Vec<Choice> {
            let chosen = guests
                .iter()
                .map(|guest| self.host.choice(guest, cause, now.ms));
            let chosen: BTreeSet<Choice> = chosen.collect();
            match chosen.is_empty() {
                true => vec![cause.default_choice()],
                false => chosen.into_iter().collect(),
            }
        };
        let pairs = held
            .iter()
            .flat_map(|(cause, _)| choices(*cause).into_iter().map(|choice| (*cause, choice)));
        let together = Together::of(pairs);
        let why = held
            .into_iter()
            .find(|(cause, _)| together.changes.contains(cause));
        let known = self.refused_change;
        self.refused_change = why.as_ref().map(|(cause, _)| *cause);
        if let Some((cause, detail)) = why
            && known != Some(cause)
        {
            let subject = format!("host {}", self.host.config().host);
            let text = format!("no release and no binding is taken: {cause}: {detail}");
            self.note(Body::Alarm { subject, text }, now);
        }
        Ok(self.refused_change.is_none())
    }

    /// Before the vnics of a guest open that has lost its sessions.
    pub(super) fn begins(&mut self, guest: &GuestId, now: Now) {
        warn("a guest without sessions", self.host.begins(guest, now.ms));
    }

    /// Which controls the guest's owner lets be missing for now.
    pub(super) fn waived(&self, guest: &GuestId, now: Now) -> Vec<&'static str> {
        let allows = |cause| self.host.choice(guest, cause, now.ms) == Choice::AllowWithExpiry;
        let waived = CONTROLS.into_iter().filter(|(cause, _)| allows(*cause));
        waived.map(|(_, control)| control).collect()
    }

    pub(super) const fn heard_manager(&mut self, now: Now) {
        self.heard_manager = now;
    }
}
