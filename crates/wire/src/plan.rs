//! The host plan's first half: what the kernel of one host must hold, as a pure function of a
//! release, its bindings and the host's name. Agents load it; an auditor can compute it again.

use crate::{Binding, Bindings, VerifiedRelease};
use ipnet::IpNet;
use lictor_policy::{BrokenTables, Compiled, Moment, Tables};
use lictor_types::{
    AddressEntry, AddressKind, AtomId, Decision, Digest, Direction, Epoch, HostId, HostTables,
    IdentityId, RuleId, Segment, TableError, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Tells the rows of a guest in quarantine from those of its binding: sessions with it that are
/// older must not go on, nor those go on afterwards that were judged meanwhile.
const QUARANTINE_EPOCH: u64 = 1 << 31;

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
    /// The release's policy was not made by the compiler.
    #[error("the release's policy does not hold together")]
    Broken(#[from] BrokenTables),
}

/// Builds the tables of one host: the addresses of every guest and every set, and the decisions of
/// the guests that may run here. A rule whose last day is over decides nothing any more, and a
/// guest whose observation is over is enforced: both can only close.
///
/// # Errors
/// [`PlanError`] if the host is unknown or its tables do not fit.
pub fn host_tables(
    release: &VerifiedRelease,
    bindings: &Bindings,
    host: &HostId,
    now: impl Into<Moment>,
) -> Result<HostTables, PlanError> {
    let now = now.into();
    let today = now.date;
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
            segments.extend(vnic.link.vlans.iter().map(|vlan| vlan.segment));
        }
        let quarantined = bindings.is_quarantined(&binding.guest);
        let isolated = quarantined || binding.is_isolated(today);
        let class = match isolated {
            true => (IdentityId::ISOLATED, false),
            false => (identity, policy.observed_on(identity, today).is_some()),
        };
        let mask = if quarantined { QUARANTINE_EPOCH } else { 0 };
        addresses.extend(guest_addresses(bindings, binding, class, mask));
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
                kind: AddressKind::Own,
                observe: false,
            });
        }
    }
    let local: Vec<IdentityId> = local.into_iter().collect();
    let tables = HostTables {
        generation: release.generation,
        epoch: bindings.epoch(),
        atoms: policy.atoms.clone(),
        decisions: with_isolation(in_force(policy, &local, now)?, (&local, &addresses)),
        addresses: without_shadowed_sets(once_for_each_group(isolate_groups(addresses))),
    };
    Ok(tables.canonical()?)
}

/// What a guest has: all that is attested, and the link-local address of each vnic in each of its
/// segments.
fn guest_addresses(
    bindings: &Bindings,
    binding: &Binding,
    (identity, observe): (IdentityId, bool),
    mask: u64,
) -> Vec<AddressEntry> {
    let row = |segment, prefix, vnic, kind| AddressEntry {
        segment,
        prefix,
        identity,
        vnic,
        epoch: Epoch(binding.epoch.0 ^ mask),
        kind,
        observe,
    };
    let mut rows: BTreeSet<AddressEntry> = BTreeSet::new();
    for vnic in &binding.vnics {
        let link_local = IpNet::from(IpAddr::V6(vnic.mac.link_local()));
        let vlans = vnic.link.vlans.iter().map(|vlan| vlan.segment);
        for segment in [vnic.segment].into_iter().chain(vlans) {
            rows.insert(row(segment, link_local, Some(vnic.vnic), AddressKind::Own));
        }
    }
    for (vnic, claim) in bindings.claims(binding) {
        // A VLAN that the binding does not list is refused with the attestation.
        let Some(segment) = vnic.link.segment(vnic.segment, claim.vlan) else {
            continue;
        };
        let holder = match claim.kind {
            AddressKind::Own | AddressKind::Routed => Some(vnic.vnic),
            AddressKind::Shared(_) => None,
        };
        rows.insert(row(segment, claim.prefix, holder, claim.kind));
    }
    rows.into_iter().collect()
}

/// An address that an isolated guest shares is cut off with it: whoever of the group has it at the
/// moment is not told apart.
fn isolate_groups(mut addresses: Vec<AddressEntry>) -> Vec<AddressEntry> {
    let shared = |row: &AddressEntry| matches!(row.kind, AddressKind::Shared(_));
    let cut: BTreeSet<_> = addresses
        .iter()
        .filter(|row| shared(row) && row.identity == IdentityId::ISOLATED)
        .map(|row| (row.segment, row.prefix))
        .collect();
    for row in &mut addresses {
        if shared(row) && cut.contains(&(row.segment, row.prefix)) {
            (row.identity, row.observe) = (IdentityId::ISOLATED, false);
        }
    }
    addresses
}

/// Nobody here talks with an isolated guest either. At its own end it has no decisions at all.
fn with_isolation(
    mut decisions: Vec<Decision>,
    (local, addresses): (&[IdentityId], &[AddressEntry]),
) -> Vec<Decision> {
    let isolated = |row: &AddressEntry| row.identity == IdentityId::ISOLATED;
    if addresses.iter().any(isolated) {
        let ways = [Direction::Egress, Direction::Ingress];
        decisions.extend(local.iter().flat_map(|local| {
            ways.map(|direction| Decision {
                local: *local,
                peer: IdentityId::ISOLATED,
                direction,
                atom: AtomId::ANY,
                verdict: Verdict::Deny,
                rule: RuleId::DEFAULT,
                log: true,
                limit: 0,
                log_limit: 0,
                would: None,
            })
        }));
    }
    decisions
}

/// A shared address is one row, as new as the newest binding of its group.
fn once_for_each_group(addresses: Vec<AddressEntry>) -> Vec<AddressEntry> {
    let mut shared: BTreeMap<_, AddressEntry> = BTreeMap::new();
    let mut rows = Vec::new();
    for entry in addresses {
        if !matches!(entry.kind, AddressKind::Shared(_)) {
            rows.push(entry);
            continue;
        }
        let key = (entry.segment, entry.prefix, entry.kind, entry.identity);
        let known = shared.entry(key).or_insert(entry);
        known.epoch = known.epoch.max(entry.epoch);
    }
    rows.extend(shared.into_values());
    rows
}

/// The decisions of these classes without those of rules that have ended. What another rule would
/// have said in the ended one's place, the release does not tell: until one is compiled for a later
/// day, such traffic is denied.
fn in_force(
    policy: &Compiled,
    local: &[IdentityId],
    now: Moment,
) -> Result<Vec<Decision>, BrokenTables> {
    let tables = Tables::of(policy)?;
    let ended = policy.ended_by(now);
    let alive = |mut row: Decision| {
        row.would = row.would.filter(|would| !ended.contains(&would.rule));
        if !ended.contains(&row.rule) {
            return row;
        }
        // The row stays: one about more peers or ports would answer in its place.
        Decision {
            verdict: Verdict::Deny,
            rule: RuleId::DEFAULT,
            log: row.log && row.would.is_some(),
            limit: 0,
            log_limit: 0,
            ..row
        }
    };
    let rows = local.iter().flat_map(|local| tables.decisions(*local));
    Ok(needed(rows.map(alive).collect()))
}

/// Leaves out denials that say no more than the default does: under them lies no row that says
/// something else.
fn needed(mut rows: Vec<Decision>) -> Vec<Decision> {
    let bare = |row: &Decision| {
        (row.verdict, row.rule, row.would) == (Verdict::Deny, RuleId::DEFAULT, None) && !row.log
    };
    let says = rows.iter().filter(|row| !bare(row)).map(Decision::key);
    let says: BTreeSet<_> = says.collect();
    rows.retain(|row| {
        let (local, peer, direction, atom) = row.key();
        // A row about a peer lies above everybody's rows, about whatever ports they are.
        let everybody = |first, last| {
            let key = |atom| (local, IdentityId::ANY, direction, atom);
            says.range(key(first)..=key(last)).next().is_some()
        };
        let under = match (peer == IdentityId::ANY, atom == AtomId::ANY) {
            (true, true) => false,
            (true, false) => everybody(AtomId::ANY, AtomId::ANY),
            (false, true) => everybody(AtomId::NONE, AtomId::ANY),
            (false, false) => {
                let own = (local, peer, direction, AtomId::ANY);
                let all = everybody(AtomId::ANY, AtomId::ANY);
                says.contains(&own) || everybody(atom, atom) || all
            }
        };
        !bare(row) || under
    });
    rows
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
            // Who is cut off at the moment is no part of a release.
            .filter(|decision| decision.peer != IdentityId::ISOLATED)
            .copied()
            .collect(),
    };
    class.digest()
}

/// A set of one address that a guest has is the guest's: guests are matched by labels only.
fn without_shadowed_sets(mut addresses: Vec<AddressEntry>) -> Vec<AddressEntry> {
    let bound: BTreeSet<(Segment, IpNet)> = addresses
        .iter()
        .filter(|entry| of_guest(entry))
        .map(|entry| (entry.segment, entry.prefix))
        .collect();
    addresses.retain(|entry| of_guest(entry) || !bound.contains(&(entry.segment, entry.prefix)));
    addresses
}

fn of_guest(entry: &AddressEntry) -> bool {
    entry.vnic.is_some() || entry.kind != AddressKind::Own
}
