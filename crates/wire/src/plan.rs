//! The host plan's first half: what the kernel of one host must hold, as a pure function of a
//! release, its bindings and the host's name. Agents load it; an auditor can compute it again.

use crate::{Bindings, VerifiedRelease};
use ipnet::IpNet;
use lictor_policy::{Compiled, Date};
use lictor_types::{
    AddressEntry, Decision, Digest, Epoch, HostId, HostTables, IdentityId, RuleId, Segment,
    TableError, Verdict,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Why no plan can be made. Nothing is loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The host is not in the release.
    #[error("host {host} is not in the roster of release {generation}; publish one that names it")]
    UnknownHost {
        /// The host.
        host: HostId,
        /// The release.
        generation: lictor_types::Generation,
    },
    /// The tables do not fit or contradict each other.
    #[error("the tables of this host cannot be built")]
    Tables(#[from] TableError),
}

/// Builds the tables of one host: the addresses of every guest and every set, and the decisions of
/// the guests that may run here. A rule whose last day is over decides nothing any more, and a guest
/// whose observation is over is enforced: both can only close.
///
/// # Errors
/// [`PlanError`] if the host is unknown or its tables do not fit.
pub fn host_tables(
    release: &VerifiedRelease,
    bindings: &Bindings,
    host: &HostId,
    today: Date,
) -> Result<HostTables, PlanError> {
    let release = release.release();
    let policy = &release.policy;
    if release.host(host).is_none() {
        let generation = release.generation;
        return Err(PlanError::UnknownHost {
            host: host.clone(),
            generation,
        });
    }
    let mut addresses = Vec::new();
    let mut segments: BTreeSet<Segment> = BTreeSet::new();
    let mut local: BTreeSet<IdentityId> = BTreeSet::new();
    for binding in bindings.guests() {
        let Some(identity) = policy.identity_of(&binding.labels) else {
            continue;
        };
        if binding.may_run_on(host) {
            local.insert(identity);
        }
        for vnic in &binding.vnics {
            segments.insert(vnic.segment);
            let link_local = [IpAddr::V6(vnic.mac.link_local())];
            let attested = bindings.addresses(vnic.vnic).iter();
            for address in attested.chain(&link_local).collect::<BTreeSet<_>>() {
                addresses.push(AddressEntry {
                    segment: vnic.segment,
                    prefix: IpNet::from(*address),
                    identity,
                    vnic: Some(vnic.vnic),
                    epoch: binding.epoch,
                    kind: lictor_types::AddressKind::Own,
                    observe: policy.observed_on(identity, today).is_some(),
                });
            }
        }
    }
    for segment in segments {
        for entry in &policy.prefixes {
            let (prefix, identity) = (entry.prefix, entry.identity);
            addresses.push(AddressEntry {
                segment,
                prefix,
                identity,
                vnic: None,
                epoch: Epoch(0),
                kind: lictor_types::AddressKind::Own,
                observe: false,
            });
        }
    }
    let local: Vec<IdentityId> = local.into_iter().collect();
    let tables = HostTables {
        generation: release.generation,
        epoch: bindings.epoch(),
        addresses: without_shadowed_sets(addresses),
        atoms: policy.atoms.clone(),
        decisions: in_force(policy, &local, today),
    };
    Ok(tables.canonical()?)
}

/// The decisions of these classes without those of rules that have ended. What another rule would
/// have said in the ended one's place, the release does not tell: until one is compiled for a later
/// day, such traffic is denied.
fn in_force(policy: &Compiled, local: &[IdentityId], today: Date) -> Vec<Decision> {
    let ended = policy.ended_by(today);
    let alive = |mut row: Decision| {
        row.would = row.would.filter(|would| !ended.contains(&would.rule));
        if !ended.contains(&row.rule) {
            return Some(row);
        }
        row.would?;
        Some(Decision {
            verdict: Verdict::Deny,
            rule: RuleId::DEFAULT,
            limit: 0,
            log_limit: 0,
            ..row
        })
    };
    policy.decisions_for(local).filter_map(alive).collect()
}

/// The digest of what the tables say about the guests of one class: the ports that no rule tells
/// apart, and every decision. It is the same on all hosts that enforce one release.
#[must_use]
pub fn class_digest(tables: &HostTables, identity: IdentityId) -> Digest {
    let class = HostTables {
        generation: tables.generation,
        epoch: Epoch(0),
        addresses: Vec::new(),
        atoms: tables.atoms.clone(),
        decisions: tables
            .decisions
            .iter()
            .filter(|decision| decision.local == identity)
            .copied()
            .collect(),
    };
    class.digest()
}

/// A set of one address that a guest has is the guest's: guests are matched by labels only.
fn without_shadowed_sets(mut addresses: Vec<AddressEntry>) -> Vec<AddressEntry> {
    let bound: BTreeSet<(Segment, IpNet)> = addresses
        .iter()
        .filter(|entry| entry.vnic.is_some())
        .map(|entry| (entry.segment, entry.prefix))
        .collect();
    addresses
        .retain(|entry| entry.vnic.is_some() || !bound.contains(&(entry.segment, entry.prefix)));
    addresses
}
