//! The release: who has an address, which atom a port is in, what is decided.

use crate::event::Log;
use crate::verdict::Vnic;
use lictor_types::{
    AddressEntry, AddressKind, AtomId, AtomRange, Decision, Direction, Epoch, Generation,
    HostTables, IdentityId, Mac, Protocol, Reason, RuleId, SHARED_PER_VNIC_MAX, Segment,
    SessionKey, SharedId, Verdict, VnicId, Would,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

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
    pub(crate) shared: [Option<SharedId>; SHARED_PER_VNIC_MAX],
}

impl Place {
    /// Whether packets from and to an address are this vnic's.
    fn may_use(self, entry: &AddressEntry) -> bool {
        match entry.kind {
            AddressKind::Own | AddressKind::Routed => entry.vnic == Some(self.vnic),
            AddressKind::Shared(group) => self.shared.contains(&Some(group)),
        }
    }
}

/// What the policy says about a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judgement {
    pub(crate) reason: Reason,
    pub(crate) rule: RuleId,
    /// What would have been, were it not for observe mode.
    pub(crate) would: Option<Would>,
    /// New sessions in one second; 0: as many as come.
    pub(crate) limit: u32,
    /// What the rule says of reports.
    pub(crate) log: Log,
    /// Whether the guest is in observe mode.
    pub(crate) observe: bool,
    pub(crate) local_epoch: Epoch,
    pub(crate) remote_epoch: Epoch,
    /// The other end, if it is a guest.
    pub(crate) remote: Option<VnicId>,
}

impl Judgement {
    fn without_rule(reason: Reason) -> Self {
        Self {
            reason,
            rule: RuleId::DEFAULT,
            would: None,
            limit: 0,
            log: Log::default(),
            observe: false,
            local_epoch: Epoch(0),
            remote_epoch: Epoch(0),
            remote: None,
        }
    }

    /// Another outcome, which passes after all where the guest is in observe mode.
    #[must_use]
    pub(crate) fn with(self, reason: Reason) -> Self {
        if !self.observe || reason < Reason::PolicyDeny {
            return Self { reason, ..self };
        }
        let verdict = match reason {
            Reason::Rejected => Verdict::Reject,
            _ => Verdict::Deny,
        };
        let rule = self.rule;
        Self {
            reason: Reason::Observed,
            rule: RuleId::DEFAULT,
            would: Some(Would { verdict, rule }),
            ..self
        }
    }

    pub(crate) fn allows(&self) -> bool {
        self.reason < Reason::PolicyDeny
    }
}

impl Tables {
    pub(crate) fn new(tables: &HostTables, version: u64) -> Self {
        Self {
            version,
            generation: tables.generation,
            addresses: tables.addresses.clone(),
            atoms: tables.atoms.clone(),
            decisions: tables.decisions.iter().map(|d| (d.key(), *d)).collect(),
        }
    }

    /// The longest prefix of the segment that covers the address. Families do not cover each other.
    fn owner(&self, segment: Segment, address: IpAddr) -> Option<&AddressEntry> {
        self.addresses
            .iter()
            .filter(|entry| entry.segment == segment && entry.prefix.contains(&address))
            .max_by_key(|entry| entry.prefix.prefix_len())
    }

    /// The guest's vnic that has this address.
    pub(crate) fn vnic_of(&self, segment: Segment, address: IpAddr) -> Option<VnicId> {
        self.owner(segment, address)?.vnic
    }

    /// Whether nobody but this vnic may use the address.
    pub(crate) fn only(&self, place: Place, address: IpAddr) -> bool {
        let owner = self.owner(place.segment, address);
        owner.is_some_and(|entry| entry.vnic == Some(place.vnic))
    }

    /// Whether this vnic may say on the link that the address is its.
    pub(crate) fn bound(&self, place: Place, address: IpAddr) -> bool {
        let owner = self.owner(place.segment, address);
        owner.is_some_and(|entry| entry.kind != AddressKind::Routed && place.may_use(entry))
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
        vnic: &Vnic,
        key: &SessionKey,
        direction: Direction,
        icmp: u16,
    ) -> Judgement {
        // What is for a group is for the guest, if a rule lets it hear the sender.
        let own = match is_group(key.local) && direction == Direction::Ingress {
            true => IpAddr::V6(vnic.mac.link_local()),
            false => key.local,
        };
        let local = self.owner(key.segment, own);
        let place = vnic.place(key.segment);
        let Some(local) = local.filter(|entry| place.may_use(entry)) else {
            return Judgement::without_rule(match direction {
                Direction::Egress => Reason::SpoofedAddress,
                Direction::Ingress => Reason::ForeignAddress,
            });
        };
        let remote = self.owner(key.segment, key.remote);
        // The guest's own address as the sender of what comes toward it.
        let own = remote.is_some_and(|entry| entry.vnic == Some(vnic.vnic));
        if own && direction == Direction::Ingress {
            return Judgement::without_rule(Reason::SpoofedAddress);
        }
        let peer = remote.map_or(IdentityId::WORLD, |entry| entry.identity);
        let port = policy_port(key, direction, icmp);
        let atom = self.atom(Protocol::from_ip(key.protocol), port);
        let epochs = (local.epoch, remote.map_or(Epoch(0), |entry| entry.epoch));
        let judgement = self.decide((local.identity, peer, direction, atom), epochs);
        Judgement {
            observe: local.observe,
            remote: remote.and_then(|entry| entry.vnic),
            ..judgement
        }
        .with(judgement.reason)
    }

    /// The verdict on a frame that is neither IP nor one of the link's own protocols. It has no
    /// addresses: the guest is known by its vnic, the other end is nobody in particular. Only a
    /// rule that names the EtherType speaks of it; what no rule names keeps its own reason.
    pub(crate) fn judge_ether(
        &self,
        place: Place,
        mac: Mac,
        direction: Direction,
        ether_type: u16,
    ) -> Judgement {
        let own = self.owner(place.segment, IpAddr::V6(mac.link_local()));
        let Some(own) = own.filter(|entry| entry.vnic == Some(place.vnic)) else {
            return Judgement::without_rule(Reason::EtherType);
        };
        let atom = self.atom(Protocol::Ether, ether_type);
        let question = (own.identity, IdentityId::WORLD, direction, atom);
        match self.decide(question, (own.epoch, Epoch(0))) {
            Judgement {
                reason: Reason::DefaultDeny,
                ..
            } => Judgement::without_rule(Reason::EtherType),
            judgement => Judgement {
                observe: own.observe,
                ..judgement
            }
            .with(judgement.reason),
        }
    }

    fn decide(
        &self,
        (local, peer, direction, atom): (IdentityId, IdentityId, Direction, Option<AtomId>),
        (local_epoch, remote_epoch): (Epoch, Epoch),
    ) -> Judgement {
        let mut keys = Decision::keys(peer, atom.unwrap_or(AtomId::NONE));
        let decision = keys.find_map(|(peer, atom)| {
            let key = (local, peer, direction, atom);
            self.decisions.get(&key)
        });
        let reason = match decision.map(|decision| (decision.verdict, decision.rule)) {
            Some((Verdict::Allow, _)) => Reason::PolicyAllow,
            Some((Verdict::Reject, _)) => Reason::Rejected,
            None | Some((Verdict::Deny, RuleId::DEFAULT)) => Reason::DefaultDeny,
            Some((Verdict::Deny, _)) => Reason::PolicyDeny,
        };
        Judgement {
            reason,
            rule: decision.map_or(RuleId::DEFAULT, |decision| decision.rule),
            would: decision.and_then(|decision| decision.would),
            limit: decision.map_or(0, |decision| decision.limit),
            log: decision.map_or(Log::default(), |decision| Log {
                wanted: decision.log,
                limit: decision.log_limit,
            }),
            observe: false,
            local_epoch,
            remote_epoch,
            remote: None,
        }
    }
}

/// A multicast group, or all stations of the link (RFC 919).
fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// What stands in the port's place of a decision: the destination port as the opener sent it, type
/// and code of an ICMP message, or the number of any other protocol.
fn policy_port(key: &SessionKey, direction: Direction, icmp: u16) -> u16 {
    match Protocol::from_ip(key.protocol) {
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp | Protocol::UdpLite => match direction {
            Direction::Egress => key.remote_port,
            Direction::Ingress => key.local_port,
        },
        Protocol::Icmp | Protocol::Icmpv6 => icmp,
        Protocol::Other | Protocol::Ether => key.protocol.into(),
    }
}
