//! Guests whose NICs are not all behind a hook: told in every report, recorded whenever it changes,
//! and a reason against a move.

use super::{Owner, SECOND_US};
use crate::AgentError;
use crate::guests::Order;
use crate::input::Now;
use crate::nics::unguarded;
use lictor_estate::nics::Nic;
use lictor_estate::qmp::RunState;
use lictor_evidence::Body;
use lictor_types::GuestId;
use lictor_wire::Refusal;

/// How often a QEMU is asked what its NICs are plugged into: one may be added while it runs.
const LOOK_EVERY_US: u64 = 10 * SECOND_US;

impl Owner {
    /// Asks every QEMU once in a while.
    pub(super) fn ask_for_nics(&mut self, now: Now) {
        if self.next_look.us > now.us {
            return;
        }
        self.next_look.us = now.us + LOOK_EVERY_US;
        let watches = self.watches.values();
        watches.for_each(|watch| watch.order(Order::Look));
    }

    /// Holds a guest's NICs, as its QEMU has told them now, against its attached vnics, and records
    /// what has changed. Of a guest that has left, nothing is asked any more.
    pub(super) fn nics_told(
        &mut self,
        guest: &GuestId,
        nics: &Result<Vec<Nic>, String>,
        now: Now,
    ) -> Result<(), AgentError> {
        let found = unguarded(nics, &self.host.hooked(guest)?);
        let known = self.host.custody().unguarded(guest);
        let Some(watch) = self.watches.get_mut(guest) else {
            return Ok(());
        };
        // After a restart nothing is remembered but whether there were any.
        let same = found == watch.unguarded && known != found.is_empty();
        if same || watch.state == Some(RunState::Migrated) {
            return Ok(());
        }
        watch.unguarded.clone_from(&found);
        let some = !found.is_empty();
        let who = guest.clone();
        let body = Body::NicsUnguarded {
            guest: who,
            nics: found,
        };
        self.note(body, now);
        self.host
            .change_custody(|custody| custody.set_unguarded(guest, some))
    }

    /// What speaks against a move of a guest: its frames would go past the target's hooks too.
    pub(super) fn unguarded_against(&self, guest: &GuestId) -> Option<Refusal> {
        let unguarded = &self.watches.get(guest)?.unguarded;
        let all = unguarded.iter();
        let all: Vec<_> = all
            .map(|one| format!("{}: {}", one.nic, one.reason))
            .collect();
        let detail = all.join("; ");
        (!detail.is_empty()).then_some(Refusal::Unguarded { detail })
    }
}
