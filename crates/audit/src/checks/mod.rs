//! The checks: pure functions of facts.

pub(crate) mod changes;
pub(crate) mod co_residence;
pub(crate) mod enforcement;
pub(crate) mod integrity;
pub(crate) mod moves;
pub(crate) mod rules;

use crate::catalogue::Context;
use crate::{Finding, Status};
use lictor_evidence::GuestFacts;

/// The subject of findings that are about no single thing.
const EVERYTHING: &str = "deployment";

/// One finding for each guest in scope; a single one if there is no release or no such guest.
fn per_guest(
    context: Context<'_>,
    judge: impl Fn(Context<'_>, &GuestFacts) -> Finding,
) -> Vec<Finding> {
    let Some(release) = context.facts.release() else {
        return vec![no_release()];
    };
    let findings: Vec<_> = context
        .facts
        .in_scope()
        .map(|guest| {
            let said = context.facts.said_by(&guest.guest);
            judge(context, guest).from(said.or(Some(release.index)))
        })
        .collect();
    if findings.is_empty() {
        let reason = "the newest release has no guest in scope";
        let finding = Finding::new(EVERYTHING, Status::NotApplicable, reason);
        return vec![finding.from([release.index]).at(confirmed(context))];
    }
    findings
}

fn no_release() -> Finding {
    Finding::new(
        EVERYTHING,
        Status::Unknown,
        "the log has no facts of any release",
    )
    .wants("the facts of a published release")
}

/// When it was last known which release is the newest: every entry of the manager confirms it.
fn confirmed(context: Context<'_>) -> Option<u64> {
    context.facts.manager_last.map(|(_, time_ms)| time_ms)
}

/// By whose leave the policy is only observed for a guest now, if it is.
fn observed(context: Context<'_>, guest: &GuestFacts) -> Option<String> {
    let observed = guest.observed.as_ref()?;
    let holds = observed.until_ms.is_none_or(|until| context.now_ms < until);
    holds.then(|| format!("by leave of {}", observed.owner))
}
