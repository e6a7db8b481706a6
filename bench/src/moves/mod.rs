//! Every goal of moves: real guests in QEMU between real agents, beside moves of the same guest
//! without Lictor, in turns.

mod cut;
pub mod goals;
mod lane;
mod lost;
mod memory;
mod pause;
mod probes;
mod rate;
mod stats;
mod world;

use crate::datapath::goals::Goal;
use crate::report::{Machine, Spread};
use anyhow::Result;
use clap::ValueEnum;
use goals::Measured;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Instant;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Whether figures may be compared.
    pub thorough: bool,
    /// Moves after which sessions are looked for one by one.
    pub lost_moves: u32,
    /// Sessions of each of them.
    pub lost_sessions: u32,
    /// Moves with Lictor, and as many without.
    pub pause_moves: u32,
    /// Sessions of each of them.
    pub sessions: u32,
    /// Of those, how many change before the guest is stopped.
    pub changed: u32,
    /// Moves round the protocol to a host without an agent.
    pub cuts: u32,
}

impl Extent {
    /// What is worth a comparison; about a quarter of an hour.
    pub const FULL: Self = Self {
        thorough: true,
        lost_moves: 100,
        lost_sessions: 100_000,
        pause_moves: 50,
        sessions: 1_000_000,
        changed: 10_000,
        cuts: 10,
    };
    /// The same with another number of moves of each part, if one is asked for.
    #[must_use]
    pub const fn with(mut self, moves: Option<u32>) -> Self {
        if let Some(moves) = moves {
            (self.pause_moves, self.lost_moves, self.cuts) = (moves, moves, moves);
        }
        self
    }

    /// The same with another number of sessions that change before a guest stops.
    #[must_use]
    pub const fn changing(mut self, changed: Option<u32>) -> Self {
        if let Some(changed) = changed {
            self.changed = changed;
        }
        self
    }

    /// What is worth a look; about two minutes.
    pub const QUICK: Self = Self {
        thorough: false,
        lost_moves: 4,
        lost_sessions: 10_000,
        pause_moves: 4,
        sessions: 100_000,
        changed: 1_000,
        cuts: 2,
    };
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `move`.
    pub bench: &'static str,
    /// Whether this was only a look: its figures are no ground for a comparison.
    pub quick: bool,
    /// Where.
    pub machine: Machine,
    /// Seconds that it took.
    pub took_s: f64,
    /// In the order of the issue.
    pub goals: Vec<Goal>,
    /// QEMU's own pause in moves with Lictor, in milliseconds.
    pub pause_with_ms: Option<Spread>,
    /// The same without.
    pub pause_without_ms: Option<Spread>,
    /// How much longer the mean pause is with Lictor, and the 95 % interval of that.
    pub added_ms: Option<stats::Interval>,
    /// Seconds from the first session sent to the last one taken in, while the guest ran.
    pub copy_s: Option<Spread>,
    /// What the last move record says of its copy.
    pub copied: Option<lictor_evidence::MoveCopied>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for goal in &self.goals {
            let value = goal
                .value
                .map_or_else(|| "none".into(), |value| format!("{value:.3}"));
            let met = if goal.met { "met" } else { "not met" };
            let sense = goal.sense.sign();
            let (id, unit, what) = (goal.id, goal.unit, goal.what);
            let bound = format!("{sense} {} {unit}", goal.goal);
            let note = goal
                .note
                .as_ref()
                .map_or_else(String::new, |note| format!(" ({note})"));
            let _ = writeln!(text, "{id:<12}{value:>14}  {bound:<20}{met:<9}{what}{note}");
        }
        text
    }
}

/// What is measured; the goals of the others count as not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What conntrack-tools take, to which the copies of the part `pause` are compared.
    Rate,
    /// Moves of a large table, in turns with moves without Lictor.
    Pause,
    /// Moves after each of which every session is looked for.
    Lost,
    /// Moves of a guest that has no interlock any more to a host without an agent.
    Cut,
}

/// Measures the parts. Needs root; makes namespaces and removes them.
///
/// # Errors
/// Something refuses, or a move fails.
pub fn run(extent: &Extent, parts: &[Part]) -> Result<Report> {
    let (machine, begin) = (Machine::here()?, Instant::now());
    let mut measured = Measured::default();
    if parts.contains(&Part::Rate) {
        measured.conntrack_s = Some(rate::conntrack(extent.sessions)?);
    }
    if parts.iter().any(|part| *part != Part::Rate) {
        let mut world = world::World::build()?;
        if parts.contains(&Part::Pause) {
            pause::measure(&mut world, extent, &mut measured)?;
        }
        if parts.contains(&Part::Lost) {
            lost::measure(&mut world, extent, &mut measured)?;
        }
        // The last one, because nobody comes back.
        if parts.contains(&Part::Cut) {
            cut::measure(world, extent, &mut measured)?;
        }
    }
    Ok(Report {
        bench: "move",
        quick: !extent.thorough,
        machine,
        took_s: begin.elapsed().as_secs_f64(),
        goals: measured.goals(),
        pause_with_ms: Spread::of(&measured.with_ms),
        pause_without_ms: Spread::of(&measured.without_ms),
        added_ms: stats::added(&measured.with_ms, &measured.without_ms),
        copy_s: Spread::of(&measured.copy_s),
        copied: measured.copied,
    })
}
