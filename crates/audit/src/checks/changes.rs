//! Who made and who approved what is in force.

use super::EVERYTHING;
use crate::catalogue::Context;
use crate::facts::{At, Load};
use crate::{Finding, Status};
use lictor_evidence::ReleaseFacts;
use lictor_types::HostId;
use std::collections::BTreeSet;

/// CHG-01.
pub(crate) fn approved(context: Context<'_>) -> Vec<Finding> {
    let loaded = context.facts.loaded();
    if loaded.is_empty() {
        let finding = Finding::new(EVERYTHING, Status::Unknown, "no host has loaded a release");
        return vec![finding.wants("a release loaded by an agent")];
    }
    loaded
        .into_iter()
        .map(|(host, load)| judge(context, host, load))
        .collect()
}

fn judge(context: Context<'_>, host: &HostId, at: &At<Load>) -> Finding {
    let load = &at.value;
    let published: Vec<_> = context
        .facts
        .releases
        .iter()
        .filter(|one| one.value.generation == load.generation)
        .collect();
    let heard = context.facts.heard.get(host).copied();
    let same = published
        .iter()
        .rev()
        .find(|one| one.value.digest == load.release);
    let finding = match (same, published.last()) {
        (Some(release), _) => {
            let faults = faults(load, &release.value);
            let by = format!(
                "by {}, approved by {}",
                load.author,
                load.approvers.join(", ")
            );
            Finding::judged(
                host.as_str(),
                &faults,
                "written by one and approved by others",
            )
            .saw(by)
            .from([release.index])
        }
        (None, Some(other)) => {
            let reason = format!(
                "generation {} has another digest than published",
                load.generation
            );
            Finding::new(host.as_str(), Status::Fail, reason)
                .saw(load.release.to_string())
                .from([other.index])
        }
        (None, None) => {
            let reason = format!("no facts of generation {} were published", load.generation);
            Finding::new(host.as_str(), Status::Unknown, reason)
        }
    };
    finding
        .wants("an author, enough approvers who are others, and a reason")
        .from([at.index])
        .at(heard)
        .of(Some(load.generation))
}

/// Counts what the agent itself verified, not what the manager says about it.
fn faults(load: &Load, release: &ReleaseFacts) -> Vec<String> {
    let mut faults = Vec::new();
    if load.author.is_empty() {
        faults.push("no author's signature".to_owned());
    }
    let others: BTreeSet<_> = load
        .approvers
        .iter()
        .filter(|name| **name != load.author && !name.is_empty())
        .collect();
    let needed = release.approvals_required.max(1) as usize;
    if others.len() < needed {
        faults.push(format!(
            "{} approvals by others; {needed} are needed",
            others.len()
        ));
    }
    if load.approvers.contains(&load.author) {
        faults.push(format!("{} approved their own change", load.author));
    }
    if release.reason.trim().is_empty() {
        faults.push("no reason for the change".to_owned());
    }
    faults
}
