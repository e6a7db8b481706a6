//! Migrations from which a guest could not come back, if its target did not take it. They end
//! before it is stopped, because the interlock's answer would come too late.

use super::Owner;
use crate::AgentError;
use crate::guests::Order;
use crate::input::Now;
use crate::moves::source;
use lictor_estate::qmp::Way;
use lictor_types::GuestId;

impl Owner {
    /// A migration has begun. One that writes a guest to a file has no return path either, so that
    /// only an admitted move needs it.
    pub(super) fn way_told(
        &mut self,
        guest: &GuestId,
        way: Way,
        now: Now,
    ) -> Result<(), AgentError> {
        let leaves = self.leaving_now(guest);
        let what = if way.post_copy {
            "as a post-copy: what runs at its target is not here any more"
        } else if leaves && !way.return_path {
            "without return-path: nobody would learn that its target did not take it"
        } else {
            return Ok(());
        };
        let Some(watch) = self.watches.get(guest) else {
            return Ok(());
        };
        // The target is told too, and has nothing to end. Where the owner lets the guest run
        // without an agent, nobody has to take it.
        if !self.host.custody().held(guest) || !watch.guarded {
            return Ok(());
        }
        watch.order(Order::Cancel);
        let text = format!("its migration was ended: it began {what}");
        self.alarm(guest, text.clone(), now);
        if !leaves {
            return Ok(());
        }
        self.set_cause(guest, text);
        self.leave(guest, source::Event::Abandon, now)
    }
}
