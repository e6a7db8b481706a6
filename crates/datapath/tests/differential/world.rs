//! Two vnics, the addresses around them, and random tables over both.

use crate::common::address;
use lictor_model::Vnic;
use lictor_types::{
    AddressEntry, AddressKind, AtomId, AtomRange, Decision, Direction, Epoch, Generation,
    HostTables, IdentityId, Link, Mac, Protocol, Role, RuleId, Segment, SharedId, Verdict, Vlan,
    VlanId, VnicId, Would,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::net::IpAddr;

pub(crate) const SEGMENT: Segment = Segment(7);

/// The VLAN that the first vnic may use, and where it leads.
const VLAN: Vlan = Vlan {
    id: match VlanId::new(10) {
        Some(id) => id,
        None => panic!("VLAN 10 exists"),
    },
    segment: Segment(8),
};
/// The virtual MAC of a VRRP router.
pub(crate) const VIRTUAL: Mac = Mac([0, 0, 0x5e, 0, 1, 7]);
const LINK: Link = Link {
    vlans: [Some(VLAN), None, None, None],
    more_macs: [Some(VIRTUAL), None, None],
    shared: [Some(SharedId(4)), None, None, None],
    ..Link::PLAIN
};

/// The second vnic has room for few sessions, so that its table fills.
pub(crate) const VNICS: [Vnic; 2] = [
    Vnic {
        vnic: VnicId(1),
        mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
        segment: SEGMENT,
        sessions_max: 512,
        link: LINK,
    },
    Vnic {
        vnic: VnicId(2),
        mac: Mac([0x52, 0x54, 0, 0, 0, 2]),
        segment: SEGMENT,
        sessions_max: 6,
        link: Link {
            roles: [Some(Role::Router), Some(Role::DhcpServer)],
            shared: [None, Some(SharedId(9)), Some(SharedId(4)), None],
            ..Link::PLAIN
        },
    },
];

/// Some other station on the link.
pub(crate) const STRANGER: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);

/// The addresses of the vnics, of each family.
pub(crate) const OWN4: [[&str; 2]; 2] = [["10.0.0.1", "10.0.1.5"], ["10.0.0.2", "10.0.0.3"]];
pub(crate) const OWN6: [[&str; 2]; 2] = [["fd00::1", "fd00:1::5"], ["fd00::2", "fd00::3"]];
/// A guest elsewhere, a named prefix, an address in no row, a group, the limited broadcast.
pub(crate) const FAR4: [&str; 6] = [
    "10.0.0.9",
    "192.0.2.7",
    "192.0.2.130",
    "198.51.100.1",
    "224.0.0.251",
    "255.255.255.255",
];
pub(crate) const FAR6: [&str; 5] = [
    "fd00::9",
    "2001:db8::7",
    "2001:db9::1",
    "fe80::99",
    "ff02::fb",
];

/// Whether an address of this vnic is somewhere in a frame.
pub(crate) fn speaks_of(vnic: usize, frame: &[u8]) -> bool {
    let own = OWN4[vnic].iter().chain(&OWN6[vnic]);
    let link_local = IpAddr::V6(VNICS[vnic].mac.link_local());
    let addresses = own.map(|text| text.parse().expect("an address"));
    let mut octets = addresses.chain([link_local]).map(|address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    });
    octets.any(|octets| frame.windows(octets.len()).any(|part| part == octets))
}

const IDENTITIES: u32 = 5;
const ATOMS: u16 = 6;
/// Where runs of ports may begin; the large ones are types of ICMP, with code 0 or 1.
const CUTS: [u16; 16] = [
    0, 1, 9, 22, 47, 53, 80, 134, 1_024, 0x0800, 0x0801, 0x8000, 0x8001, 0x8600, 0x88cc, 60_000,
];

fn addresses(rng: &mut StdRng) -> Vec<AddressEntry> {
    let links = VNICS.map(|vnic| format!("{}/128", vnic.mac.link_local()));
    let rows = [
        ("10.0.0.1/32", 1),
        ("10.0.1.0/28", 1),
        ("fd00::1/128", 1),
        ("fd00:1::/64", 1),
        (links[0].as_str(), 1),
        ("10.0.0.2/32", 2),
        ("10.0.0.3/32", 2),
        ("fd00::2/128", 2),
        ("fd00::3/128", 2),
        (links[1].as_str(), 2),
        ("10.0.0.9/32", 9),
        ("fd00::9/128", 9),
        ("10.0.0.0/8", 0),
        ("192.0.2.0/24", 0),
        ("192.0.2.128/25", 0),
        ("::/0", 0),
        ("2001:db8::/32", 0),
    ];
    let mut rows: Vec<AddressEntry> = rows
        .iter()
        .filter(|_| !rng.gen_bool(0.02))
        .copied()
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(prefix, vnic)| {
            let identity = rng.gen_range(0..IDENTITIES);
            let entry = AddressEntry {
                observe: rng.gen_bool(0.05),
                ..address(prefix, identity, vnic, rng.gen_range(1..4))
            };
            match (prefix, rng.gen_bool(0.5)) {
                ("10.0.1.0/28" | "fd00:1::/64", true) => AddressEntry {
                    kind: AddressKind::Routed,
                    ..entry
                },
                ("10.0.0.3/32" | "fd00::3/128" | "10.0.0.9/32" | "fd00::9/128", true) => {
                    AddressEntry {
                        kind: AddressKind::Shared(SharedId(4)),
                        vnic: None,
                        ..entry
                    }
                }
                _ => entry,
            }
        })
        .collect();
    // The same addresses elsewhere mean something else.
    let elsewhere = |entry: &AddressEntry| AddressEntry {
        segment: Segment(8),
        vnic: match entry.kind {
            AddressKind::Shared(_) => None,
            AddressKind::Own | AddressKind::Routed => Some(VnicId(1)),
        },
        ..*entry
    };
    rows.extend(rows.clone().iter().map(elsewhere));
    rows
}

fn atoms(rng: &mut StdRng) -> Vec<AtomRange> {
    let mut rows = Vec::new();
    for protocol in Protocol::ALL {
        let mut first = 0;
        for next in CUTS[1..].iter().map(|cut| cut - 1).chain([u16::MAX]) {
            if first > protocol.port_max() || !rng.gen_bool(0.8) {
                continue;
            }
            let last = next.min(protocol.port_max());
            if rng.gen_bool(0.97) {
                rows.push(AtomRange {
                    protocol,
                    first,
                    last,
                    atom: AtomId(match rng.gen_bool(0.03) {
                        true => 0,
                        false => rng.gen_range(1..=ATOMS),
                    }),
                });
            }
            first = last.saturating_add(1);
        }
    }
    rows
}

const VERDICTS: [Verdict; 3] = [Verdict::Allow, Verdict::Deny, Verdict::Reject];

/// What a random rule says; the key is the caller's.
fn decision(rng: &mut StdRng) -> Decision {
    let verdict = match rng.gen_range(0..100) {
        0..6 => Verdict::Deny,
        6..9 => Verdict::Reject,
        _ => Verdict::Allow,
    };
    // Only a denial may be the default one.
    let default = verdict == Verdict::Deny && rng.gen_bool(0.3);
    Decision {
        local: IdentityId(0),
        peer: IdentityId(0),
        direction: Direction::Egress,
        atom: AtomId(0),
        verdict,
        rule: match default {
            true => RuleId::DEFAULT,
            false => RuleId(rng.gen_range(1..60)),
        },
        log: rng.gen_bool(0.5),
        limit: if rng.gen_bool(0.2) {
            rng.gen_range(1..3)
        } else {
            0
        },
        log_limit: if rng.gen_bool(0.2) { 1 } else { 0 },
        would: rng.gen_bool(0.1).then(|| Would {
            verdict: *VERDICTS.choose(rng).expect("there are some"),
            rule: RuleId(rng.gen_range(0..60)),
        }),
    }
}

/// Rows about one peer and one atom, and rows about any of them: mostly the former, or hardly any.
fn decisions(rng: &mut StdRng) -> Vec<Decision> {
    let (exact, any) = if rng.gen_bool(0.5) {
        (0.9, 0.1)
    } else {
        (0.2, 0.5)
    };
    let mut rows = Vec::new();
    for local in (0..IDENTITIES).map(IdentityId) {
        for peer in (0..IDENTITIES).map(IdentityId).chain([IdentityId::ANY]) {
            for direction in [Direction::Egress, Direction::Ingress] {
                for atom in (1..=ATOMS).map(AtomId).chain([AtomId::ANY]) {
                    let particular = peer != IdentityId::ANY && atom != AtomId::ANY;
                    if rng.gen_bool(if particular { exact } else { any }) {
                        rows.push(Decision {
                            local,
                            peer,
                            direction,
                            atom,
                            ..decision(rng)
                        });
                    }
                }
            }
        }
    }
    rows
}

/// Tables of a random policy.
pub(crate) fn tables(rng: &mut StdRng) -> HostTables {
    HostTables {
        generation: Generation(rng.gen_range(1..1_000)),
        epoch: Epoch(rng.gen_range(1..1_000)),
        addresses: addresses(rng),
        atoms: atoms(rng),
        decisions: decisions(rng),
    }
}

/// The next release or binding: a little is different, or nothing is.
pub(crate) fn successor(tables: &HostTables, rng: &mut StdRng) -> HostTables {
    let mut next = tables.clone();
    next.generation = Generation(next.generation.0 + 1);
    match rng.gen_range(0..4) {
        0 => {}
        1 => next.decisions.retain(|_| rng.gen_bool(0.8)),
        2 => {
            for decision in &mut next.decisions {
                if decision.rule != RuleId::DEFAULT && rng.gen_bool(0.3) {
                    decision.rule = RuleId(rng.gen_range(60..120));
                }
            }
        }
        _ => {
            let count = rng.gen_range(1..4);
            for _ in 0..count {
                if let Some(entry) = next.addresses.choose_mut(rng) {
                    entry.identity = IdentityId(rng.gen_range(0..IDENTITIES));
                    entry.epoch = Epoch(entry.epoch.0 + 1);
                }
            }
        }
    }
    next
}
