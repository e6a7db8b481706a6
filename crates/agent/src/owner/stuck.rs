//! Migrations that have failed, of which QEMU does not hear. It waits for its target's last word on
//! a connection on which it has nothing to say itself, so that a host that went down, or one word
//! that was lost, lets the guest stand still for good.

use super::Owner;
use super::leaving::Leaving;
use crate::guests::Order;
use crate::input::Now;
use crate::moves::rounds::SILENCE_US;
use lictor_estate::qmp::RunState;
use lictor_types::GuestId;

/// How long QEMU may take to hear what its target's agent has said.
const BACK_US: u64 = 1_000_000;

impl Leaving {
    /// Why a guest that stands still since then need not do so any longer. Before a grant the
    /// target cannot open, and after it only the target can say that it has not.
    fn stuck(&self, still: Now, now: Now) -> Option<&'static str> {
        // Whoever stops a guest later has his own reasons.
        let over = |since: Option<Now>, limit| {
            since.is_some_and(|one| still.us <= one.us && now.since_us(one) >= limit)
        };
        if over(self.back, BACK_US) {
            return Some("its target does not take it, and its QEMU has not heard so");
        }
        let asked = self.is_granted() || self.has_ended() || self.machine.is_back();
        (!asked && over(self.fenced, SILENCE_US))
            .then_some("its target has not asked for it since it was stopped")
    }
}

impl Owner {
    /// Ends the migrations of guests that stand still for nothing: they go on here.
    pub(super) fn repeat_stuck(&mut self, now: Now) {
        let still = |guest: &GuestId| {
            let watch = self.watches.get(guest)?;
            (watch.state == Some(RunState::Stopped)).then_some(watch.since)
        };
        let leaving = self.leaving.iter().filter(|(_, one)| !one.cancelled);
        let stuck = leaving.filter_map(|(guest, one)| {
            let why = one.stuck(still(guest)?, now)?;
            Some((guest.clone(), why))
        });
        for (guest, why) in Vec::from_iter(stuck) {
            if let Some(leaving) = self.leaving.get_mut(&guest) {
                leaving.cancelled = true;
            }
            if let Some(watch) = self.watches.get(&guest) {
                watch.order(Order::Cancel);
            }
            self.alarm(&guest, format!("its migration was ended: {why}"), now);
        }
    }
}
