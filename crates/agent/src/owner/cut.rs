//! Guests that somebody moves round the protocol: a migration has begun, and the interlock is gone.
//!
//! Without the object no QEMU asks this agent, and none at the other end needs one, so that the
//! guest would run bare where no agent is. If its owner chose that this must not be, its NICs lose
//! their links while it still runs here: that is a part of the devices' state, so the guest arrives
//! cut wherever it goes, and no one there need do anything.

use super::Owner;
use super::starts::Start;
use crate::AgentError;
use crate::guests::Order;
use crate::input::Now;
use lictor_types::{GuestId, VnicState};

impl Owner {
    /// QEMU tells how a migration of the guest goes.
    pub(super) fn migrates(&mut self, guest: &GuestId, status: &str, now: Now) {
        let owned = self.host.custody().held(guest);
        let stays = matches!(status, "failed" | "cancelled");
        if status == "failed" {
            self.alarm(guest, "QEMU says that a migration failed", now);
        }
        let guarded = self.guards(guest, now);
        let Some(watch) = self.watches.get(guest) else {
            return;
        };
        if matches!(status, "setup" | "active") && owned && guarded {
            watch.order(Order::CutUnlessGuarded);
        } else if stays && self.cut.contains(guest) {
            watch.order(Order::Guard);
            watch.order(Order::Connect);
        }
    }

    /// The guest goes without its interlock, and its NICs were cut off, or could not be.
    pub(super) fn cut_off(
        &mut self,
        guest: &GuestId,
        nics: &Result<Vec<String>, String>,
        now: Now,
    ) -> Result<(), AgentError> {
        if let Some(watch) = self.watches.get_mut(guest) {
            watch.guarded = false;
        }
        if !self.cut.insert(guest.clone()) {
            return Ok(());
        }
        let text = match nics {
            Ok(nics) => format!(
                "somebody migrates it without its interlock: it is cut, links down of {}",
                nics.join(", ")
            ),
            Err(error) => format!(
                "somebody migrates it without its interlock, and its links cannot be taken down: \
                 {error}"
            ),
        };
        self.alarm(guest, text, now);
        let cause = "it migrates without its interlock";
        let cut = self.host.set_state(guest, VnicState::Cut, cause)?;
        self.note_all(cut, now);
        Ok(())
    }

    /// The guest has stayed, and its NICs have their links again.
    pub(super) fn connected(&mut self, guest: &GuestId, now: Now) -> Result<(), AgentError> {
        if !self.cut.remove(guest) {
            return Ok(());
        }
        let cause = "its NICs have their links again";
        let held = self.host.set_state(guest, VnicState::Hold, cause)?;
        self.note_all(held, now);
        self.settle(guest, now)
    }

    /// A guest that was cut when it left its last host is admitted here: its links come first.
    pub(super) fn connect_arrived(&mut self, guest: &GuestId, now: Now) {
        if !self.claims.get(guest).is_some_and(Start::arrives_cut) {
            return;
        }
        let text = "a host that it left had taken its links down: it is admitted here, and they \
                    are brought up";
        self.alarm(guest, text, now);
        if let Some(watch) = self.watches.get(guest) {
            watch.order(Order::Connect);
            self.cut.insert(guest.clone());
        }
    }

    /// Whether a guest that runs here has no links, or had none when this agent's last life ended:
    /// they come first, its vnics open when they are there.
    pub(super) fn is_cut(&mut self, guest: &GuestId) -> bool {
        if self.cut.contains(guest) {
            return true;
        }
        let states = self.host.states_of(guest);
        let cut = states.is_ok_and(|states| states.contains(&VnicState::Cut));
        if let Some(watch) = self.watches.get(guest).filter(|_| cut) {
            watch.order(Order::Connect);
            self.cut.insert(guest.clone());
        }
        cut
    }
}
