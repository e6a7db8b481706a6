//! Which packets prove that a vnic's program gives the verdicts of the plan, and what it must say
//! of them: by the model, which was written from the meaning and not from the program.

use lictor_datapath::{VnicSpec, proof_frame};
use lictor_model::{Firewall, Frame, Vnic};
use lictor_types::{
    AddressEntry, AddressKind, AtomId, AtomRange, Decision, Direction, HostTables, IdentityId,
    Probe, Protocol, Reason, RuleId, Verdict, VnicId, VnicState,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A packet that nobody sends, and what must be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) probe: Probe,
    pub(super) direction: Direction,
    /// By whose device it comes in, if its sender is a guest of this host.
    pub(super) came_by: Option<VnicId>,
    pub(super) frame: Vec<u8>,
    pub(super) expected: (Reason, RuleId),
}

/// Addresses of documentation (RFC 5737, RFC 3849), for the other end of a row about anybody.
const ANYBODY4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const ANYBODY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));
/// A port of nobody's in particular.
const PORT: u16 = 49_151;
/// Ports of which more is asked than what the policy says: DHCP's.
const GUARDED: [u16; 4] = [67, 68, 546, 547];

/// The other end of a packet: its address, and the guest that has it.
type Peer = (IpAddr, Option<VnicId>);

struct Chooser<'a> {
    tables: &'a HostTables,
    own: &'a AddressEntry,
}

impl Chooser<'_> {
    fn is_own_family(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.own.prefix.addr().is_ipv4()
    }

    fn anybody(&self) -> Peer {
        match self.own.prefix.addr() {
            IpAddr::V4(_) => (ANYBODY4, None),
            IpAddr::V6(_) => (ANYBODY6, None),
        }
    }

    fn peer(&self, identity: IdentityId) -> Option<Peer> {
        if [IdentityId::ANY, IdentityId::WORLD].contains(&identity) {
            return Some(self.anybody());
        }
        let rows = self.tables.addresses.iter();
        let found = rows
            .filter(|row| row.segment == self.own.segment)
            .find(|row| {
                let address = row.prefix.network();
                row.identity == identity
                    && row.kind == AddressKind::Own
                    && row.vnic != self.own.vnic
                    && self.is_own_family(address)
                    && !address.is_multicast()
                    && !address.is_unspecified()
            });
        found.map(|row| (row.prefix.network(), row.vnic))
    }

    fn service(&self, atom: AtomId) -> Option<(&'static str, u16)> {
        self.tables.atoms.iter().find_map(|range| {
            let wanted = range.atom == atom || (atom == AtomId::ANY && range.atom != AtomId::NONE);
            let name = match range.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp if !GUARDED.contains(&range.first) => "udp",
                _ => return None,
            };
            wanted.then_some((name, range.first))
        })
    }

    /// A packet that the row is about.
    fn probe(&self, row: &Decision) -> Option<(Probe, Option<VnicId>)> {
        let (peer, service) = (self.peer(row.peer)?, self.service(row.atom)?);
        self.written(row.direction, peer, service)
    }

    fn written(
        &self,
        direction: Direction,
        (peer, vnic): Peer,
        (protocol, port): (&str, u16),
    ) -> Option<(Probe, Option<VnicId>)> {
        let end = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
        let own = self.own.prefix.network();
        let (from, to) = match direction {
            Direction::Egress => (end(own, PORT), end(peer, port)),
            Direction::Ingress => (end(peer, PORT), end(own, port)),
        };
        let probe = format!("{protocol} {from} > {to}").parse().ok()?;
        let came_by = vnic.filter(|_| direction == Direction::Ingress);
        Some((probe, came_by))
    }
}

/// What is said of two addresses and a port by the whole tables is said by these rows of them.
fn about(tables: &HostTables, own: &AddressEntry, probe: &Probe) -> HostTables {
    let ends = [probe.source(), probe.destination()];
    let (class, port) = probe.service();
    let covers = |row: &&AddressEntry| ends.iter().any(|end| row.prefix.contains(end));
    let holds = |row: &&AtomRange| row.protocol == class && (row.first..=row.last).contains(&port);
    let decides = |row: &&Decision| row.local == own.identity;
    HostTables {
        generation: tables.generation,
        epoch: tables.epoch,
        addresses: tables.addresses.iter().filter(covers).copied().collect(),
        atoms: tables.atoms.iter().filter(holds).copied().collect(),
        decisions: tables.decisions.iter().filter(decides).copied().collect(),
    }
}

/// For each direction a packet that a row allows, one that a row denies, and one of which no row
/// need speak; as far as the tables have such for this vnic. `here` are the vnics of this host.
pub(super) fn choose(tables: &HostTables, spec: &VnicSpec, here: &BTreeSet<VnicId>) -> Vec<Proof> {
    let is_own = |row: &&AddressEntry| {
        row.vnic == Some(spec.vnic) && row.segment == spec.segment && row.kind == AddressKind::Own
    };
    let own = tables.addresses.iter().filter(is_own);
    let Some(own) = own.min_by_key(|row| (row.prefix.addr().is_ipv6(), row.prefix.addr())) else {
        return Vec::new();
    };
    let chooser = Chooser { tables, own };
    let mut proofs = Vec::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        let mut probes = Vec::new();
        for wanted in [Verdict::Allow, Verdict::Deny] {
            let rows = tables.decisions.iter();
            let mut rows = rows.filter(|row| {
                row.local == own.identity && row.direction == direction && row.verdict == wanted
            });
            probes.extend(rows.find_map(|row| chooser.probe(row)));
        }
        probes.extend(chooser.written(direction, chooser.anybody(), ("tcp", PORT)));
        for (probe, came_by) in probes {
            let came_by = came_by.filter(|vnic| here.contains(vnic));
            let frame = proof_frame(&probe, spec.mac, direction);
            let expected = expected(&about(tables, own, &probe), spec, (direction, &frame));
            proofs.push(Proof {
                probe,
                direction,
                came_by,
                frame,
                expected,
            });
        }
    }
    proofs
}

fn expected(
    tables: &HostTables,
    spec: &VnicSpec,
    (direction, bytes): (Direction, &[u8]),
) -> (Reason, RuleId) {
    let mut model = Firewall::new(Vnic {
        vnic: spec.vnic,
        mac: spec.mac,
        segment: spec.segment,
        sessions_max: spec.sessions_max,
        link: spec.link,
    });
    model.load(tables);
    model.set_state(VnicState::Open);
    let answer = model.judge(&Frame {
        direction,
        at: Duration::ZERO,
        bytes,
        came_by: None,
    });
    (answer.reason, answer.rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_types::{Endpoint, Epoch, Generation, Link, Mac, Segment, VnicName};

    fn address(prefix: &str, identity: u32, vnic: u32) -> AddressEntry {
        AddressEntry {
            segment: Segment(7),
            prefix: prefix.parse().expect("a prefix"),
            identity: IdentityId(identity),
            vnic: (vnic != 0).then_some(VnicId(vnic)),
            epoch: Epoch(1),
            kind: AddressKind::Own,
            observe: false,
        }
    }

    fn row(peer: IdentityId, direction: Direction, verdict: Verdict, rule: u32) -> Decision {
        Decision {
            local: IdentityId(1),
            peer,
            direction,
            atom: AtomId(1),
            verdict,
            rule: RuleId(rule),
            log: false,
            limit: 1,
            log_limit: 0,
            would: None,
        }
    }

    fn tables(decisions: Vec<Decision>) -> HostTables {
        HostTables {
            generation: Generation(1),
            epoch: Epoch(1),
            addresses: vec![address("10.0.0.1/32", 1, 1), address("10.0.0.2/32", 2, 2)],
            atoms: vec![AtomRange {
                protocol: Protocol::Tcp,
                first: 80,
                last: 80,
                atom: AtomId(1),
            }],
            decisions,
        }
    }

    fn check(tables: &HostTables, expected: &[&str]) {
        let spec = VnicSpec {
            vnic: VnicId(1),
            name: VnicName::new("one").expect("a name"),
            device: "one".into(),
            mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
            segment: Segment(7),
            sessions_max: 16,
            link: Link::PLAIN,
            endpoint: Endpoint::Guest,
        };
        let proofs = choose(tables, &spec, &BTreeSet::from([VnicId(2)]));
        let told = proofs.iter().map(|proof| {
            let (reason, rule) = proof.expected;
            let by = proof.came_by.map_or(0, |vnic| vnic.0);
            format!("{} by {by}: {reason} {rule}", proof.probe)
        });
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn both_ways_are_proven_by_what_the_tables_allow_and_deny() {
        let peer = IdentityId(2);
        check(
            &tables(vec![
                row(peer, Direction::Egress, Verdict::Allow, 5),
                row(IdentityId::ANY, Direction::Egress, Verdict::Deny, 6),
                row(peer, Direction::Ingress, Verdict::Allow, 7),
            ]),
            &[
                "tcp 10.0.0.1:49151 > 10.0.0.2:80 syn by 0: policy-allow 5",
                "tcp 10.0.0.1:49151 > 198.51.100.1:80 syn by 0: policy-deny 6",
                "tcp 10.0.0.1:49151 > 198.51.100.1:49151 syn by 0: default-deny 0",
                "tcp 10.0.0.2:49151 > 10.0.0.1:80 syn by 2: policy-allow 7",
                "tcp 198.51.100.1:49151 > 10.0.0.1:49151 syn by 0: default-deny 0",
            ],
        );
    }

    #[test]
    fn without_any_row_the_default_deny_is_proven() {
        check(
            &tables(Vec::new()),
            &[
                "tcp 10.0.0.1:49151 > 198.51.100.1:49151 syn by 0: default-deny 0",
                "tcp 198.51.100.1:49151 > 10.0.0.1:49151 syn by 0: default-deny 0",
            ],
        );
    }

    #[test]
    fn a_vnic_without_an_address_in_the_tables_proves_nothing() {
        let mut none = tables(Vec::new());
        none.addresses.clear();
        check(&none, &[]);
    }
}
