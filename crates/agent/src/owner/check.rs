//! Whether a guest could move now, for whoever asks before anyone tries: what both ends know
//! against it, all at once. Nothing is admitted, promised or recorded.

use super::Owner;
use super::admit::{ADMIT_LIMIT_US, Wanted};
use crate::AgentError;
use crate::input::{Now, Reply};
use crate::peer::Loss;
use lictor_evidence::ControlFact;
use lictor_types::{Digest, Epoch, HostId};
use lictor_wire::local::Response;
use lictor_wire::peer::{Control, FORMAT};
use lictor_wire::{Envelope, Refusal};

/// Questions of that kind that may wait for other hosts at once.
pub(super) const CHECKS_MAX: usize = 64;

/// Somebody waits for what another host says.
#[derive(Debug)]
pub(super) struct Check {
    target: HostId,
    /// What this end knows against it.
    reasons: Vec<Refusal>,
    reply: Reply<Response>,
    deadline_us: u64,
}

impl Check {
    /// The caller may have gone.
    fn answer(self, theirs: Vec<Refusal>, controls: Vec<ControlFact>) {
        let mut reasons = self.reasons;
        for reason in theirs {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let _ = self.reply.send(Response::Checked { reasons, controls });
    }
}

impl Owner {
    pub(super) fn move_check(
        &mut self,
        wanted: &Wanted,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let reasons = self.against(wanted, now);
        let check = Check {
            target: wanted.target.clone(),
            reasons,
            reply,
            deadline_us: now.us + ADMIT_LIMIT_US,
        };
        // Nobody can be asked who is in no roster.
        let ticket = self.ticket(wanted, now);
        let Some(ticket) = ticket.filter(|_| !check.reasons.contains(&Refusal::HostUnknown)) else {
            check.answer(Vec::new(), Vec::new());
            return Ok(());
        };
        if self.checks.len() >= CHECKS_MAX {
            let error = format!("{CHECKS_MAX} such questions wait already; ask again in a moment");
            let _ = check.reply.send(Response::Error { error });
            return Ok(());
        }
        let binding = self.host.bindings().guest(&wanted.guest);
        let control = Control::Check {
            format: FORMAT,
            bindings: binding.map_or(Epoch(0), |binding| binding.epoch),
            ticket: ticket.sign(self.host.key()),
        };
        self.checks.insert(ticket.digest(), check);
        self.say(&wanted.target, control);
        Ok(())
    }

    /// The source of a guest asks what this end has against its coming.
    pub(super) fn asked_to_check(
        &mut self,
        from: &HostId,
        asked: (u32, Epoch),
        envelope: &Envelope,
        now: Now,
    ) -> Result<(), AgentError> {
        if let Some(judged) = self.judged(from, asked, envelope, now)? {
            let control = Control::Checked {
                ticket: judged.ticket.digest(),
                reasons: judged.reasons,
                controls: judged.controls,
            };
            self.say(from, control);
        }
        Ok(())
    }

    pub(super) fn checked(
        &mut self,
        from: &HostId,
        ticket: &Digest,
        (reasons, controls): (Vec<Refusal>, Vec<ControlFact>),
    ) {
        if self
            .checks
            .get(ticket)
            .is_some_and(|one| one.target == *from)
            && let Some(check) = self.checks.remove(ticket)
        {
            check.answer(reasons, controls);
        }
    }

    pub(super) fn checks_due(&mut self, now: Now) {
        let seconds = ADMIT_LIMIT_US / 1_000_000;
        let detail = format!("its agent has not answered within {seconds} s");
        let refusal = Refusal::HostUnprotected { detail };
        self.end_checks(&refusal, |one| one.deadline_us <= now.us);
    }

    pub(super) fn checks_lost(&mut self, host: &HostId, loss: Loss) {
        self.end_checks(&loss.refusal(host), |one| one.target == *host);
    }

    fn end_checks(&mut self, refusal: &Refusal, ends: impl Fn(&Check) -> bool) {
        let over = self.checks.extract_if(.., |_, one| ends(one));
        for (_, check) in over {
            check.answer(vec![refusal.clone()], Vec::new());
        }
    }
}
