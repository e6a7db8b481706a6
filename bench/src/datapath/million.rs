//! A million established conversations, any of which the next packet may belong to: what is
//! measured is the memory that a packet touches.

use super::path::{self, Extent, Probe};
use super::plant::Plant;
use super::sample::Samples;
use super::topologies::{BOTH, NFT_10, ONE, with_a_million};
use super::{guard, path::BASE};
use crate::injector::Injector;
use anyhow::{Context, Result};
use lictor_lab::Lab;
use std::path::Path;

/// Conversations.
pub const FLOWS: u32 = 1_000_000;
/// Two for each conversation, as conntrack keeps both directions; a power of two.
const CONNTRACK_MAX: &str = "2500000";
const CONNTRACK_BUCKETS: &str = "1048576";
/// Longer than this phase: what expires meanwhile would be measured as something else.
const CONNTRACK_TIMEOUT_S: &str = "3600";

/// Runs the phase.
///
/// # Errors
/// As of [`path::rounds`], or not all conversations are there at the end.
pub fn rounds(extent: Extent) -> Result<Samples> {
    let lab = Lab::new()?;
    make_room(&lab)?;
    let mut injector = Injector::load()?;
    let mut plants = Vec::new();
    for id in [BASE, NFT_10, ONE, BOTH] {
        eprintln!("bench: {FLOWS} sessions, {id}");
        let topology = with_a_million(id).with_context(|| format!("no topology {id}"))?;
        let plant = Plant::build(&lab, &topology)?;
        if topology.tracked() {
            keep(&plant)?;
        }
        guard::establish(&plant, FLOWS)?;
        plant.open_path(&injector)?;
        plants.push(plant);
    }
    let (mut samples, packet) = (Samples::default(), path::Packet::Established(FLOWS));
    for round in 0..extent.rounds {
        eprintln!(
            "bench: {FLOWS} sessions, round {} of {}",
            round + 1,
            extent.rounds
        );
        samples.begin_round();
        Probe::here(&mut injector)?.established(&plants, packet, extent, &mut samples)?;
    }
    for plant in &plants {
        path::still_established(plant, FLOWS)?;
    }
    Ok(samples)
}

/// Lets the machine's conntrack have as many entries, until the lab ends.
pub(crate) fn make_room(lab: &Lab) -> Result<()> {
    for (name, value) in [("max", CONNTRACK_MAX), ("buckets", CONNTRACK_BUCKETS)] {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        lab.machine_setting(Path::new(&path), value)?;
    }
    Ok(())
}

/// Keeps a plant's entries for as long as a bench needs them.
pub(crate) fn keep(plant: &Plant) -> Result<()> {
    let key = "net/netfilter/nf_conntrack_udp_timeout_stream";
    plant.hypervisor.netns().sysctl(key, CONNTRACK_TIMEOUT_S)
}
