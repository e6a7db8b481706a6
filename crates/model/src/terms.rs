//! On which terms a conversation may begin, as the guest's owner chose for the case that protection
//! is impaired. Asked where there is no session: what is established goes on.

use lictor_types::Reason;
use std::time::Duration;

/// What the agent last said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// None may begin from then on; `None`: whether or not anybody proves verdicts.
    pub lease_until: Option<Duration>,
    /// Until then one that is under way may be taken up.
    pub adopt_until: Duration,
    /// None may begin: a newer release is known.
    pub stale: bool,
}

impl Terms {
    /// Why what a rule allows may not begin now.
    pub(crate) fn against(&self, now: Duration) -> Option<Reason> {
        let over = self.lease_until.is_some_and(|until| now >= until);
        match (self.stale, over) {
            (true, _) => Some(Reason::Stale),
            (false, true) => Some(Reason::Unproven),
            (false, false) => None,
        }
    }
}
