//! What it takes conntrack-tools to dump as many entries and to restore them.

use crate::datapath::topologies::{NFT_10, with_a_million};
use crate::datapath::{guard, million, plant::Plant, transfer};
use anyhow::{Context, Result};
use lictor_lab::Lab;
use std::time::Instant;

/// Seconds from the first entry out to the last one in.
pub(super) fn conntrack(sessions: u32) -> Result<f64> {
    eprintln!("bench: {sessions} sessions through conntrack-tools");
    let lab = Lab::new()?;
    million::make_room(&lab)?;
    let topology = with_a_million(NFT_10).with_context(|| format!("no topology {NFT_10}"))?;
    let plant = Plant::build(&lab, &topology)?;
    million::keep(&plant)?;
    guard::establish(&plant, sessions)?;
    let path = plant.hypervisor.folder().join("saved");
    let begin = Instant::now();
    transfer::dump(&plant, &path)?;
    let dumped = begin.elapsed();
    transfer::entries(&path, sessions)?;
    guard::conntrack(&plant, &["-F"])?;
    let begin = Instant::now();
    transfer::restore(&plant, &path)?;
    let took = dumped + begin.elapsed();
    Ok(took.as_secs_f64())
}
