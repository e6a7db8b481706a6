//! The release: who has an address, which atom a port is in, what is decided.

use crate::parse::{IP_ICMP, IP_ICMPV6, IP_TCP, IP_UDP};
use lictor_types::{
    AddressEntry, AtomId, AtomRange, Decision, Direction, Epoch, Generation, HostTables,
    IdentityId, Protocol, Reason, RuleId, Segment, SessionKey, Verdict, VnicId,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a decision is looked up by: local identity, peer identity, direction, atom.
type Question = (IdentityId, IdentityId, Direction, AtomId);

/// The tables of one load.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    /// Grows by one with every load, also of equal tables.
    pub(crate) version: u64,
    pub(crate) generation: Generation,
    addresses: Vec<AddressEntry>,
    atoms: Vec<AtomRange>,
    decisions: BTreeMap<Question, Decision>,
}

/// Whose addresses are looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) vnic: VnicId,
    pub(crate) segment: Segment,
}

/// What the policy says about a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judgement {
    pub(crate) reason: Reason,
    pub(crate) rule: RuleId,
    pub(crate) local_epoch: Epoch,
    pub(crate) remote_epoch: Epoch,
}

impl Judgement {
    fn without_rule(reason: Reason) -> Self {
        Self {
            reason,
            rule: RuleId::DEFAULT,
            local_epoch: Epoch(0),
            remote_epoch: Epoch(0),
        }
    }
}

impl Tables {
    pub(crate) fn new(tables: &HostTables, version: u64) -> Self {
        let question = |d: &Decision| (d.local, d.peer, d.direction, d.atom);
        Self {
            version,
            generation: tables.generation,
            addresses: tables.addresses.clone(),
            atoms: tables.atoms.clone(),
            decisions: tables.decisions.iter().map(|d| (question(d), *d)).collect(),
        }
    }

    /// The longest prefix of the segment that covers the address. Families do not cover each other.
    fn owner(&self, segment: Segment, address: IpAddr) -> Option<&AddressEntry> {
        self.addresses
            .iter()
            .filter(|entry| entry.segment == segment && entry.prefix.contains(&address))
            .max_by_key(|entry| entry.prefix.prefix_len())
    }

    /// Whether the address is one of this vnic's own.
    pub(crate) fn bound(&self, place: Place, address: IpAddr) -> bool {
        self.owner(place.segment, address)
            .is_some_and(|entry| entry.vnic == Some(place.vnic))
    }

    /// Atom zero is no atom.
    fn atom(&self, protocol: Protocol, port: u16) -> Option<AtomId> {
        self.atoms
            .iter()
            .find(|range| range.protocol == protocol && (range.first..=range.last).contains(&port))
            .map(|range| range.atom)
            .filter(|atom| atom.0 != 0)
    }

    /// The verdict on a conversation in the direction in which it is, or was, opened. Both ends'
    /// bindings come first: an address that is not this vnic's own has no identity to judge by.
    pub(crate) fn judge(
        &self,
        vnic: VnicId,
        key: &SessionKey,
        direction: Direction,
        icmp_kind: u8,
    ) -> Judgement {
        let local = self.owner(key.segment, key.local);
        let Some(local) = local.filter(|entry| entry.vnic == Some(vnic)) else {
            return Judgement::without_rule(match direction {
                Direction::Egress => Reason::SpoofedAddress,
                Direction::Ingress => Reason::ForeignAddress,
            });
        };
        let remote = self.owner(key.segment, key.remote);
        // The guest's own address as the sender of what comes toward it.
        let own = remote.is_some_and(|entry| entry.vnic == Some(vnic));
        if own && direction == Direction::Ingress {
            return Judgement::without_rule(Reason::SpoofedAddress);
        }
        let peer = remote.map_or(IdentityId::WORLD, |entry| entry.identity);
        let port = policy_port(key, direction, icmp_kind);
        let decision = self
            .atom(Protocol::from_ip(key.protocol), port)
            .and_then(|atom| self.decisions.get(&(local.identity, peer, direction, atom)));
        let reason = match decision.map(|decision| decision.verdict) {
            Some(Verdict::Allow) => Reason::PolicyAllow,
            Some(Verdict::Deny) => Reason::PolicyDeny,
            None => Reason::DefaultDeny,
        };
        Judgement {
            reason,
            rule: decision.map_or(RuleId::DEFAULT, |decision| decision.rule),
            local_epoch: local.epoch,
            remote_epoch: remote.map_or(Epoch(0), |entry| entry.epoch),
        }
    }
}

/// What stands in the port's place of a decision: the destination port as the opener sent it, the
/// type of an ICMP message, or the number of any other protocol.
fn policy_port(key: &SessionKey, direction: Direction, icmp_kind: u8) -> u16 {
    match key.protocol {
        IP_TCP | IP_UDP => match direction {
            Direction::Egress => key.remote_port,
            Direction::Ingress => key.local_port,
        },
        IP_ICMP | IP_ICMPV6 => icmp_kind.into(),
        number => number.into(),
    }
}
