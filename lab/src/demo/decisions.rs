//! What an agent wrote down about a decision of its kernel.

use super::evidence;
use super::world::World;
use anyhow::Result;
use lictor_evidence::{Body, SessionSample};
use lictor_types::{Reason, Verdict};

/// Which decision is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) guest: &'static str,
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    /// The rule; empty where none decides.
    pub(super) rule: &'static str,
    /// The receiver's port, where the packet was understood so far.
    pub(super) port: Option<u16>,
}

impl Wanted {
    fn is(&self, sample: &SessionSample) -> bool {
        sample.guest.as_str() == self.guest
            && sample.verdict == self.verdict
            && sample.reason == self.reason
            && sample.rule == self.rule
            && self.port.is_none_or(|port| sample.destination_port == port)
    }
}

/// Waits for a decision in the evidence after a mark, and says it in words.
pub(super) fn find(world: &World, since: usize, wanted: Wanted) -> Result<String> {
    let what = format!("a decision like {wanted:?}");
    evidence::find(&world.site, (&what, since), |entry| match &entry.body {
        Body::SessionDecided(sample) if wanted.is(sample) => Some(say(sample, &entry.host)),
        _ => None,
    })
}

fn say(sample: &SessionSample, host: &lictor_evidence::Source) -> String {
    let verdict = match sample.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "dropped",
        Verdict::Reject => "rejected",
    };
    let rule = match sample.rule.as_str() {
        "" => String::new(),
        rule => format!(", rule {rule}"),
    };
    format!(
        "{verdict} on {host} at {}: {}{rule}",
        sample.guest, sample.reason
    )
}
