//! Whether what was approved is what the kernels do.

use super::{EVERYTHING, no_release, observed};
use crate::catalogue::Context;
use crate::facts::{At, Stay, VnicChange, VnicFact};
use crate::{Finding, Status};
use lictor_evidence::{GuestFacts, Readback};
use lictor_types::{HostId, VnicId};
use std::collections::BTreeMap;

/// ENF-01.
pub(crate) fn covered(context: Context<'_>) -> Vec<Finding> {
    let Some(release) = context.facts.release() else {
        return vec![no_release()];
    };
    let mut findings = Vec::new();
    for guest in context.facts.in_scope() {
        if guest.vnics.is_empty() {
            let reason = "the release names no vnic of it";
            findings.push(Finding::new(guest.guest.as_str(), Status::Unknown, reason));
        }
        findings.extend(guest.vnics.iter().map(|vnic| cover(context, guest, *vnic)));
        findings.extend(past_the_hooks(context, guest));
    }
    if findings.is_empty() {
        let reason = "the newest release has no guest in scope";
        let finding = Finding::new(EVERYTHING, Status::NotApplicable, reason);
        findings.push(finding.at(super::confirmed(context)));
    }
    let expected = "an attached program, first in order, at the host where the guest is";
    let with = |finding: Finding| finding.wants(expected).from([release.index]);
    findings.into_iter().map(with).collect()
}

/// A finding for each NIC of a guest whose frames pass no hook, by the newest word of its host.
fn past_the_hooks(context: Context<'_>, guest: &GuestFacts) -> Vec<Finding> {
    let facts = context.facts;
    let Some(stay) = facts.stay_now(&guest.guest) else {
        return Vec::new();
    };
    let said = facts
        .nics
        .iter()
        .filter(|at| at.value.host == stay.host && at.value.guest == guest.guest)
        .max_by_key(|at| (at.time_ms, at.index));
    let nics = said.into_iter().flat_map(|at| {
        at.value.nics.iter().map(move |one| {
            let subject = format!("{}, NIC {}", guest.guest, one.nic);
            let reason = format!("at {} no hook guards it: {}", stay.host, one.reason);
            Finding::new(subject, Status::Fail, reason).from([at.index, stay.index])
        })
    });
    let heard = facts.heard.get(&stay.host).copied();
    nics.map(|finding| finding.at(heard)).collect()
}

fn cover(context: Context<'_>, guest: &GuestFacts, vnic: VnicId) -> Finding {
    let facts = context.facts;
    let subject = format!("{}, vnic {vnic}", guest.guest);
    let Some(stay) = facts.stay_now(&guest.guest) else {
        let placed = facts.stays.iter().any(|stay| stay.guest == guest.guest);
        return if placed {
            let finding = Finding::new(subject, Status::NotApplicable, "the guest runs nowhere");
            finding.at(super::confirmed(context))
        } else {
            Finding::new(subject, Status::Unknown, "no entry says where the guest is")
        };
    };
    let heard = facts.heard.get(&stay.host).copied();
    if !stay.protected {
        let reason = format!("at {}, where no agent enforces", stay.host);
        return Finding::new(subject, Status::Fail, reason)
            .from([stay.index])
            .at(super::confirmed(context));
    }
    let finding = match newest(context, stay, vnic) {
        Sight::Attached(index) => {
            let at = &stay.host;
            let (status, reason) = match observed(context, guest) {
                Some(by) => (
                    Status::Fail,
                    format!("attached at {at}, but only observing: what is denied passes, {by}"),
                ),
                None => (Status::Pass, format!("attached at {at}")),
            };
            Finding::new(subject, status, reason).from([index])
        }
        Sight::Loose(index) => {
            let reason = format!("at {} no program is first in its path", stay.host);
            Finding::new(subject, Status::Fail, reason).from([index])
        }
        Sight::Unseen => {
            let reason = format!("{} has not said how the vnic is", stay.host);
            Finding::new(subject, Status::Unknown, reason)
        }
    };
    finding.from([stay.index]).at(heard)
}

enum Sight {
    Attached(u64),
    Loose(u64),
    Unseen,
}

/// The newest word of the host about the vnic: an attach, a detach or a read-back.
fn newest(context: Context<'_>, stay: &Stay, vnic: VnicId) -> Sight {
    let ours = |at: &&At<VnicFact>| {
        let fact = &at.value;
        fact.host == stay.host && fact.guest == stay.guest && fact.vnic == vnic
    };
    let change = context
        .facts
        .vnics
        .iter()
        .filter(ours)
        .max_by_key(|at| (at.time_ms, at.index));
    let change = change.map(|at| {
        let attached = matches!(at.value.change, VnicChange::Attached { .. });
        (at.time_ms, at.index, attached)
    });
    let seen = context
        .facts
        .readback(&stay.host)
        .into_iter()
        .find_map(|at| {
            let mut vnics = at.value.1.vnics.iter();
            let one = vnics.find(|one| one.vnic == vnic && one.guest == stay.guest)?;
            Some((at.time_ms, at.index, one.hooks_ok))
        });
    match change.into_iter().chain(seen).max() {
        Some((_, index, true)) => Sight::Attached(index),
        Some((_, index, false)) => Sight::Loose(index),
        None => Sight::Unseen,
    }
}

/// ENF-05.
pub(crate) fn as_approved(context: Context<'_>) -> Vec<Finding> {
    if context.facts.release().is_none() {
        return vec![no_release()];
    }
    let mut hosts = BTreeMap::<&HostId, Vec<&GuestFacts>>::new();
    for guest in context.facts.in_scope() {
        if let Some(stay) = context.facts.stay_now(&guest.guest) {
            hosts.entry(&stay.host).or_default().push(guest);
        }
    }
    if hosts.is_empty() {
        let known = context.facts.in_scope().next().is_some();
        let status = if known {
            Status::Unknown
        } else {
            Status::NotApplicable
        };
        let finding = Finding::new(
            EVERYTHING,
            status,
            "no host is known to run a guest in scope",
        );
        return vec![finding.at(super::confirmed(context))];
    }
    hosts
        .into_iter()
        .map(|(host, guests)| read_back(context, host, &guests))
        .collect()
}

fn read_back(context: Context<'_>, host: &HostId, guests: &[&GuestFacts]) -> Finding {
    let readbacks = context.facts.readback(host);
    let Some(first) = readbacks.first() else {
        return Finding::new(
            host.as_str(),
            Status::Unknown,
            "the host never read its kernel back",
        );
    };
    let mut faults = Vec::new();
    for at in &readbacks {
        faults.extend(readback_faults(&at.value.1));
    }
    for vnic in guests.iter().flat_map(|guest| &guest.vnics) {
        let seen = readbacks
            .iter()
            .any(|at| at.value.1.vnics.iter().any(|v| v.vnic == *vnic));
        if !seen {
            faults.push(format!("vnic {vnic} is not among those read back"));
        }
    }
    let drifts =
        context.facts.drifts.iter().filter(|at| {
            at.value.host == *host && !at.value.repaired && at.time_ms >= first.time_ms
        });
    let mut evidence: Vec<_> = readbacks.iter().map(|at| at.index).collect();
    for at in drifts {
        faults.push(format!("drift of {}, not repaired", at.value.subject));
        evidence.push(at.index);
    }
    let readback = &first.value.1;
    let vnics: usize = readbacks.iter().map(|at| at.value.1.vnics.len()).sum();
    let found = readback.found.short();
    Finding::judged(host.as_str(), &faults, "the kernel holds what was loaded")
        .saw(format!("tables {found}, {vnics} vnics"))
        .wants(format!(
            "tables {}, every program attached and first",
            readback.expected.short()
        ))
        .from(evidence)
        .at(Some(first.time_ms))
        .of(Some(readback.generation))
}

fn readback_faults(readback: &Readback) -> Vec<String> {
    let mut faults = Vec::new();
    if readback.expected != readback.found {
        let (expected, found) = (readback.expected.short(), readback.found.short());
        faults.push(format!(
            "the kernel holds tables {found}; loaded were {expected}"
        ));
    }
    for vnic in &readback.vnics {
        let (id, counters) = (vnic.vnic, vnic.counters);
        if !vnic.hooks_ok {
            faults.push(format!("vnic {id}: no program is first in its path"));
        }
        // Sampled one after the other while packets flow, but allowed and denied are read before
        // seen: more verdicts than packets cannot be.
        if counters.allowed.saturating_add(counters.denied) > counters.seen {
            faults.push(format!("vnic {id}: more verdicts than packets"));
        }
    }
    faults
}
