//! Guests that left a host without a move, and that no agent claims: somebody runs them where
//! nobody enforces. Every host then refuses them until one claims them.
//!
//! A host's word alone cuts nobody off. Each host that hears it asks all that may have the guest,
//! and the one that has it says so.

use super::{Owner, SECOND_US, warn};
use crate::AgentError;
use crate::custody::{Custody, Unclaimed};
use crate::impaired::Found;
use crate::input::Now;
use lictor_policy::Cause;
use lictor_types::{GuestId, HostId};
use lictor_wire::peer::Control;

/// How long the hosts have to claim a guest that has left one of them.
pub(super) const CLAIM_LIMIT_US: u64 = 10 * SECOND_US;

impl Owner {
    /// A guest has left this host, and nobody had asked Lictor.
    pub(super) fn left_unclaimed(&mut self, guest: &GuestId, at: Now) -> Result<(), AgentError> {
        let unclaimed = Unclaimed {
            epoch: self.host.custody().epoch(guest),
            since_ms: at.ms,
            from_here: true,
            quarantined: false,
        };
        self.wait_for_claim(guest, unclaimed, at)
    }

    fn wait_for_claim(
        &mut self,
        guest: &GuestId,
        unclaimed: Unclaimed,
        now: Now,
    ) -> Result<(), AgentError> {
        // Its owner lets it run where no agent is.
        if !self.guards(guest, now) {
            return Ok(());
        }
        let until_us = now.us + CLAIM_LIMIT_US;
        self.unclaimed.insert(guest.clone(), until_us);
        self.host
            .change_custody(|custody| custody.set_unclaimed(guest, Some(unclaimed)))
    }

    /// A host says that a guest has left it, and that it has not heard of it since.
    pub(super) fn unclaimed_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        epoch: u64,
        now: Now,
    ) -> Result<(), AgentError> {
        let custody = self.host.custody();
        if custody.held(guest) || self.claims.contains_key(guest) {
            return self.custody_asked(from, guest.clone(), now);
        }
        let bound = self.host.bindings().guest(guest);
        let was_there = bound.is_some_and(|binding| binding.may_run_on(from));
        let older = epoch < custody.epoch(guest);
        if !was_there || older || custody.unclaimed(guest).is_some() {
            return Ok(());
        }
        let unclaimed = Unclaimed {
            epoch,
            since_ms: now.ms,
            from_here: false,
            quarantined: false,
        };
        self.wait_for_claim(guest, unclaimed, now)
    }

    /// Asks for each of them who has it, says which have left this host, and cuts off whom nobody
    /// claims in time.
    pub(super) fn repeat_unclaimed(&mut self, now: Now) {
        let all = self.host.custody().guests();
        let all = all.filter_map(|(guest, entry)| Some((guest.clone(), entry.unclaimed?)));
        for (guest, unclaimed) in Vec::from_iter(all) {
            let done = self.unclaimed_due(&guest, unclaimed, now);
            warn("a guest that no agent claims", done);
        }
    }

    fn unclaimed_due(
        &mut self,
        guest: &GuestId,
        unclaimed: Unclaimed,
        now: Now,
    ) -> Result<(), AgentError> {
        if self.host.custody().held(guest) {
            return self.claimed_here(guest, now);
        }
        if self.host.bindings().guest(guest).is_none() || !self.guards(guest, now) {
            let why = "nobody minds any more where it runs";
            return self.lift(guest, unclaimed, why, now);
        }
        for host in self.possible_hosts(guest) {
            let guest = guest.clone();
            self.say(&host, Control::Custody { guest });
        }
        if unclaimed.from_here {
            let own = &self.host.config().host;
            let roster = self.host.roster().into_iter().map(|one| one.host);
            for host in roster.filter(|host| host != own) {
                let (guest, epoch) = (guest.clone(), unclaimed.epoch);
                self.say(&host, Control::Unclaimed { guest, epoch });
            }
        }
        // After a restart they have as long again.
        let until_us = now.us + CLAIM_LIMIT_US;
        let until_us = *self.unclaimed.entry(guest.clone()).or_insert(until_us);
        if unclaimed.quarantined || now.us < until_us {
            return Ok(());
        }
        self.quarantine(guest, unclaimed, now)
    }

    fn quarantine(
        &mut self,
        guest: &GuestId,
        unclaimed: Unclaimed,
        now: Now,
    ) -> Result<(), AgentError> {
        let unclaimed = Unclaimed {
            quarantined: true,
            ..unclaimed
        };
        let text = format!(
            "no agent claims it since custody epoch {} has ended: this host refuses its addresses \
             until one does",
            unclaimed.epoch
        );
        self.alarm(guest, text, now);
        let kept = |custody: &mut Custody| custody.set_unclaimed(guest, Some(unclaimed));
        let kept = self.host.change_custody(kept);
        kept.and(self.host.replan(now.ms))
    }

    /// Another host says whether it has a guest.
    pub(super) fn claim_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        (held, epoch): (bool, u64),
        now: Now,
    ) -> Result<(), AgentError> {
        let unclaimed = self.host.custody().unclaimed(guest);
        let Some(unclaimed) = unclaimed.filter(|one| held && epoch >= one.epoch) else {
            return Ok(());
        };
        if !self.possible_hosts(guest).contains(from) {
            return Ok(());
        }
        let why = format!("host {from} claims it in custody epoch {epoch}");
        self.lift(guest, unclaimed, &why, now)
    }

    /// This host has taken custody of the guest.
    pub(super) fn claimed_here(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let unclaimed = self.host.custody().unclaimed(guest);
        unclaimed.map_or(Ok(()), |unclaimed| {
            self.lift(guest, unclaimed, "this host has it now", now)
        })
    }

    fn lift(
        &mut self,
        guest: &GuestId,
        unclaimed: Unclaimed,
        why: &str,
        now: Now,
    ) -> Result<(), AgentError> {
        self.unclaimed.remove(guest);
        let kept = self
            .host
            .change_custody(|custody| custody.set_unclaimed(guest, None));
        if !unclaimed.quarantined {
            return kept;
        }
        let text = format!("its addresses are refused no longer: {why}");
        self.alarm(guest, text, now);
        kept.and(self.host.replan(now.ms))
    }

    /// What is recorded of guests that are cut off here.
    pub(super) fn quarantined(&self, now: Now) -> Vec<Found> {
        let cause = Cause::HostUnprotected;
        let quarantined = self.host.custody().quarantined();
        let found = quarantined.map(|(guest, unclaimed)| Found {
            guest: guest.clone(),
            cause,
            choice: self.host.choice(guest, cause, now.ms),
            detail: "no agent claims it, and its addresses are refused here".into(),
            since_ms: unclaimed.since_ms,
        });
        found.collect()
    }
}
