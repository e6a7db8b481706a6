//! A target's agent that is killed in the middle of a guest's arrival, and comes back.

use super::Owner;
use super::arriving::{Arriving, Save};
use super::leaving::parse;
use crate::AgentError;
use crate::host::Arrival;
use crate::input::Now;
use crate::moves::target;
use crate::opening::Opening;
use lictor_types::GuestId;
use lictor_wire::peer::SaveRecord;

impl Owner {
    /// From the next moment on the guest may run here, and this agent may be killed.
    pub(super) fn keep_opening(&self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let arriving = self.arriving.get(guest);
        let Some((arriving, save)) = arriving.and_then(|one| one.save.as_ref().map(|s| (one, s)))
        else {
            let what = format!("guest {guest} has brought no record of its source");
            return Err(AgentError::Refused(what));
        };
        let came = arriving.came();
        let counted = came.counted.into_iter();
        let opening = Opening {
            ticket: arriving.ticket.clone(),
            save: save.envelope.clone(),
            accepted: came.accepted,
            refused: came.refused,
            copied: came.copied,
            counted: counted
                .map(|(vnic, tallies)| (vnic, tallies.into_iter().collect()))
                .collect(),
            hold_since_ms: arriving.hold_since.ms,
            opened_ms: now.ms,
            fenced_us: arriving.fenced_us,
        };
        opening.keep(&self.host.config().run_dir)
    }

    pub(super) fn forget_opening(&self, guest: &GuestId) -> Result<(), AgentError> {
        Opening::forget(&self.host.config().run_dir, guest)
    }

    /// Goes on with a move whose guest may have begun to run here while nobody looked. Its QEMU
    /// says whether it has.
    pub(super) fn resume_arriving(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        let Some(opening) = Opening::read(&self.host.config().run_dir, guest)? else {
            return Ok(());
        };
        let digest = opening.ticket.digest();
        let custody = self.host.custody();
        let (known, asked) = (custody.epoch(guest), opening.ticket.custody);
        if custody.owed(&digest).is_some() || known > asked {
            return self.forget_opening(guest);
        }
        let machine = if known == asked {
            target::Target::arrived()
        } else {
            target::Target::opened()
        };
        let SaveRecord::Move {
            count,
            digest: said,
            counted,
            fenced_ms,
            source: side,
            ..
        } = parse(&opening.save.unverified_payload()?)?
        else {
            let what = format!("what was kept of guest {guest} is of no move");
            return Err(AgentError::Refused(what));
        };
        let at = |ms| Now { ms, ..now };
        let arriving = Arriving {
            came: Some(opening.came()),
            attached: true,
            hold_since: at(opening.hold_since_ms),
            save: Some(Save {
                envelope: opening.save,
                count,
                digest: said,
                counted,
                fenced_ms,
                side,
            }),
            opened: Some(at(opening.opened_ms)),
            fenced_us: opening.fenced_us,
            ..Arriving::new(machine, opening.ticket, Arrival::default(), now)
        };
        self.arriving.insert(guest.clone(), arriving);
        Ok(())
    }
}
