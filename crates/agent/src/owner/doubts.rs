//! Guests that were taken without hearing from a host that may have had them: that host is asked
//! until it answers, and if it has the guest this one gives way.

use super::Owner;
use super::starts::Start;
use crate::AgentError;
use crate::input::Now;
use crate::moves::claim::{Doubt, doubted};
use lictor_evidence::Body;
use lictor_types::{GuestId, HostId, VnicState};
use lictor_wire::Refusal;
use lictor_wire::peer::Control;
use std::collections::BTreeSet;

impl Owner {
    /// Hosts that may have the guest, as the newest release and binding say. A host that is none of
    /// them any more cannot have it.
    pub(super) fn possible_hosts(&self, guest: &GuestId) -> BTreeSet<HostId> {
        let own = &self.host.config().host;
        let binding = self.host.bindings().guest(guest);
        let roster = self.host.roster().into_iter().map(|entry| entry.host);
        roster
            .filter(|host| host != own)
            .filter(|host| binding.is_some_and(|binding| binding.may_run_on(host)))
            .collect()
    }

    /// Asks again whoever was not heard.
    pub(super) fn repeat_doubts(&mut self) {
        let doubted = self.host.custody().guests();
        let doubted: Vec<_> = doubted
            .filter(|(_, entry)| !entry.doubts.is_empty())
            .map(|(guest, entry)| (guest.clone(), entry.doubts.clone()))
            .collect();
        for (guest, doubts) in doubted {
            let possible = self.possible_hosts(&guest);
            let left: BTreeSet<_> = doubts.intersection(&possible).cloned().collect();
            for host in &left {
                let guest = guest.clone();
                self.say(host, Control::Custody { guest });
            }
            if left != doubts {
                self.host
                    .note_custody(|custody| custody.doubt(&guest, left));
            }
        }
    }

    /// A host that was not heard when this one took the guest has spoken.
    pub(super) fn doubt_told(
        &mut self,
        from: &HostId,
        guest: &GuestId,
        held: bool,
        now: Now,
    ) -> Result<(), AgentError> {
        let mut doubts = self.host.custody().doubts(guest);
        match doubted(&mut doubts, from, held) {
            Doubt::None => Ok(()),
            Doubt::Settled => {
                self.host
                    .note_custody(|custody| custody.doubt(guest, doubts));
                Ok(())
            }
            Doubt::Lost => self.give_way(guest, from, now),
        }
    }

    /// Two hosts have the guest. The one that had asked nobody gives way, as it would have done had
    /// it heard the answer in time: its copy stays unheard until the other one ends.
    fn give_way(&mut self, guest: &GuestId, to: &HostId, now: Now) -> Result<(), AgentError> {
        let text = format!(
            "host {to} has it, too, and was not heard when custody was taken here: this host gives \
             way, its vnics here are in hold"
        );
        self.alarm(guest, text, now);
        let cause = "another host had custody before";
        let held = self.host.set_state(guest, VnicState::Hold, cause);
        let held = held.map(|held| self.note_all(held, now));
        let purged = self.host.purge(guest).map(drop);
        let saved = self.host.change_custody(|custody| custody.give_way(guest));
        let (left, at) = (guest.clone(), self.host.config().host.clone());
        self.note(Body::GuestLeft { guest: left, at }, now);
        let start = Start::again(self.host.custody().epoch(guest));
        self.claims.insert(guest.clone(), start);
        let asked = self.ask_custody(guest, now);
        held.and(purged).and(saved).and(asked)
    }

    /// A guest of which somebody may have a copy must not move: who is asked then would not know.
    pub(super) fn doubts_against(&self, guest: &GuestId) -> Option<Refusal> {
        let doubts = self.host.custody().doubts(guest);
        if doubts.is_empty() {
            return None;
        }
        let names: Vec<_> = doubts.iter().map(ToString::to_string).collect();
        let names = names.join(", ");
        let detail = format!(
            "it was taken without hearing from {names}, which may have it, too; bring it back, or \
             take it out of the guest's hosts or of the roster"
        );
        Some(Refusal::NotInCustody { detail })
    }
}
