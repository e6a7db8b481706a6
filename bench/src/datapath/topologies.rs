//! What is compared with what.

use super::plant::{Guard, Iptables, Nft, Topology, Wiring};
use super::sample::Row;
use crate::world::Protected;

/// What a vnic has unless its owner asks for more.
const QUOTA: u32 = lictor_types::SESSIONS_PER_VNIC_DEFAULT;
/// Guests of a host beside the two that are measured.
const OTHER_GUESTS: u32 = 50;

const fn topology(id: &'static str, what: &'static str, guard: Guard, rules: u32) -> Topology {
    Topology {
        id,
        what,
        wiring: Wiring::Bridge,
        guard,
        rules,
        quota: QUOTA,
    }
}

const fn hybrid(id: &'static str, what: &'static str, guard: Guard) -> Topology {
    Topology {
        wiring: Wiring::Hybrid,
        ..topology(id, what, guard, 10)
    }
}

const PHYSDEV: Guard = Guard::Iptables(Iptables::Physdev { others: 0 });
const PHYSDEV_MANY: Guard = Guard::Iptables(Iptables::Physdev {
    others: OTHER_GUESTS,
});

/// The topologies whose goals are ratios to it.
pub const NFT_10: &str = "nft-10";
/// Lictor on one vnic, with 10 rules.
pub const ONE: &str = "lictor-one";
/// Lictor on both vnics, with 10 rules.
pub const BOTH: &str = "lictor-both";
/// Lictor on both vnics, steered, with 10 rules.
pub const STEERED: &str = "lictor-steered";
/// Lictor on one vnic, with 1,000 rules.
pub const ONE_1K: &str = "lictor-one-1000";
/// Lictor on one vnic, with 100,000 rules.
pub const ONE_100K: &str = "lictor-one-100k";

/// All of the path's rounds, in the order of the tables.
pub const ALL: [Topology; 16] = [
    topology("none", "the bridge alone", Guard::None, 10),
    topology("hooks", "br_netfilter without rules", Guard::Hooks, 10),
    topology(
        NFT_10,
        "nftables + conntrack, 10 rules",
        Guard::Nft(Nft::Linear),
        10,
    ),
    topology(
        "nft-1000",
        "nftables + conntrack, 1,000 rules",
        Guard::Nft(Nft::Linear),
        1_000,
    ),
    topology(
        "nft-set-1000",
        "nftables + conntrack, a set of 1,000",
        Guard::Nft(Nft::Set),
        1_000,
    ),
    topology(
        "iptables-10",
        "iptables + conntrack, physdev, 10 rules",
        PHYSDEV,
        10,
    ),
    topology(
        "iptables-1000",
        "iptables + conntrack, physdev, 1,000 rules",
        PHYSDEV,
        1_000,
    ),
    topology(
        "iptables-50",
        "iptables, 10 rules, dispatch of 50 guests",
        PHYSDEV_MANY,
        10,
    ),
    hybrid("hybrid", "a bridge for each guest, no rules", Guard::None),
    hybrid(
        "hybrid-proxmox",
        "as Proxmox VE does, 10 rules",
        Guard::Iptables(Iptables::Proxmox),
    ),
    hybrid(
        "hybrid-openstack",
        "as OpenStack does, 10 rules",
        Guard::Iptables(Iptables::OpenStack),
    ),
    topology(
        ONE,
        "Lictor on one vnic, 10 rules",
        Guard::Lictor(Protected::Near),
        10,
    ),
    topology(
        ONE_1K,
        "Lictor on one vnic, 1,000 rules",
        Guard::Lictor(Protected::Near),
        1_000,
    ),
    topology(
        ONE_100K,
        "Lictor on one vnic, 100,000 rules",
        Guard::Lictor(Protected::Near),
        100_000,
    ),
    topology(
        BOTH,
        "Lictor on both vnics, 10 rules",
        Guard::Lictor(Protected::Both),
        10,
    ),
    topology(
        STEERED,
        "Lictor on both vnics, steered, 10 rules",
        Guard::Steered,
        10,
    ),
];

/// Whether the end-to-end loads run over it: the number of Lictor's rules changes nothing there.
#[must_use]
pub fn end_to_end(topology: &Topology) -> bool {
    ![ONE_1K, ONE_100K].contains(&topology.id)
}

/// Rows in the order of [`ALL`].
#[must_use]
pub fn in_order(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| ALL.iter().position(|other| other.id == row.topology));
    rows
}

/// Whether a goal is computed from it.
#[must_use]
pub fn of_a_goal(topology: &Topology) -> bool {
    [
        super::path::BASE,
        NFT_10,
        ONE,
        ONE_1K,
        ONE_100K,
        BOTH,
        STEERED,
    ]
    .contains(&topology.id)
}

/// A topology of [`ALL`] with room for a million sessions.
#[must_use]
pub fn with_a_million(id: &str) -> Option<Topology> {
    let topology = ALL.iter().find(|topology| topology.id == id)?;
    Some(Topology {
        quota: 1 << 20,
        ..*topology
    })
}
