//! Whether the log was only ever added to.

use crate::catalogue::Context;
use crate::{Finding, Status};
use lictor_evidence::HostChain;

/// LOG-01. That the manager's own checkpoint covers these entries is for the pack's verification;
/// here its numbering and the hosts' logs are held against each other.
pub(crate) fn append_only(context: Context<'_>) -> Vec<Finding> {
    let facts = context.facts;
    let manager = match facts.manager_last {
        None => Finding::new("manager", Status::Unknown, "no entry of the manager"),
        Some((index, time_ms)) => {
            let gaps = &facts.manager_gaps;
            let faults: Vec<_> = gaps
                .iter()
                .map(|index| format!("entry {index} does not follow the manager's one before"))
                .collect();
            Finding::judged(
                "manager",
                &faults,
                "its entries follow each other without a gap",
            )
            .from(gaps.iter().copied().chain([index]))
            .at(Some(time_ms))
        }
    };
    let manager = manager.wants("numbers without a gap");
    let hosts = facts.chains.iter().map(|chain| of_host(context, chain));
    [manager].into_iter().chain(hosts).collect()
}

fn of_host(context: Context<'_>, chain: &HostChain) -> Finding {
    let faults: Vec<_> = chain.faults.iter().map(ToString::to_string).collect();
    let evidence = chain.faults.iter().map(lictor_evidence::ChainFault::index);
    let host = chain.host.as_str();
    let finding = match &chain.anchored {
        None if faults.is_empty() => {
            let reason = "none of its checkpoints was anchored";
            Finding::new(host, Status::Unknown, reason).saw(format!("{} entries", chain.entries))
        }
        anchored => {
            let covered = anchored.as_ref().map_or(0, |checkpoint| checkpoint.size);
            let reason = "its entries are those it signed, without a gap";
            Finding::judged(host, &faults, reason).saw(format!(
                "{} entries, {covered} under its signed checkpoint",
                chain.entries
            ))
        }
    };
    let at = chain
        .anchored_at
        .and_then(|index| context.facts.time_of(index));
    finding
        .wants("numbers without a gap and the root that the host signed")
        .from(evidence.chain(chain.anchored_at))
        .at(at)
}
