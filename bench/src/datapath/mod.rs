//! Every goal of the data plane's speed, measured beside what it replaces.

pub mod agent;
pub mod flood;
pub mod footprint;
pub mod goals;
pub mod guard;
pub mod load;
pub mod million;
pub mod path;
pub mod plant;
pub mod render;
pub mod sample;
pub mod tools;
pub mod topologies;
pub mod transfer;
mod turns;

use crate::injector::Injector;
use crate::report::Machine;
use anyhow::Result;
use goals::{Goal, Measured};
use lictor_lab::Lab;
use plant::{Plant, Topology};
use sample::Row;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What can be left out: its goals are then not measured, and so not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// A vnic's memory, an agent's memory and an agent's restart.
    Footprint,
    /// A flood of conversations that nobody answers.
    Flood,
    /// Sessions out and in.
    Transfer,
    /// The hypervisor's part of the way.
    Path,
    /// The way from guest to guest.
    Loads,
    /// The hypervisor's part of the way with a million sessions.
    Million,
}

/// What is measured of all that can be.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Which parts.
    pub parts: Vec<Part>,
    /// Which topologies of the ways and loads, by their names; empty: as the extent says.
    pub topologies: Vec<String>,
    /// Which packets of the path; empty: every kind.
    pub packets: Vec<path::Packet>,
    /// Which loads from end to end; empty: every one.
    pub loads: Vec<load::Load>,
}

impl Choice {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn has_topology(&self, extent: &Extent, topology: &Topology) -> bool {
        if self.topologies.is_empty() {
            (extent.topologies)(topology)
        } else {
            self.topologies.iter().any(|id| id == topology.id)
        }
    }

    fn has_load(&self, load: load::Load) -> bool {
        self.loads.is_empty() || self.loads.contains(&load)
    }

    fn has_packet(&self, packet: path::Packet) -> bool {
        self.packets.is_empty() || self.packets.contains(&packet)
    }
}

/// How much of everything is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Whether figures may be compared.
    pub thorough: bool,
    /// Which topologies, unless some are chosen: all, or only those of the goals.
    pub topologies: fn(&Topology) -> bool,
    /// The path.
    pub path: path::Extent,
    /// The path with a million sessions.
    pub million: path::Extent,
    /// The end-to-end loads.
    pub loads: load::Extent,
    /// Rounds of the transfer.
    pub transfer: u32,
    /// The flood.
    pub flood: flood::Extent,
    /// The quota of the vnic whose memory is measured.
    pub memory: u32,
    /// Vnics of the restart.
    pub vnics: u32,
}

impl Extent {
    /// What is worth a comparison; about seventeen minutes.
    pub const FULL: Self = Self {
        thorough: true,
        topologies: |_| true,
        path: path::Extent {
            rounds: 5,
            packets: 30_000,
            repeats: 14,
            misses: 20_000,
        },
        million: path::Extent {
            rounds: 5,
            packets: 50_000,
            repeats: 20,
            misses: 0,
        },
        loads: load::Extent {
            rounds: 5,
            repeats: 20,
            lasting: Duration::from_millis(25),
        },
        transfer: 5,
        flood: flood::Extent {
            established: 1_000,
            quotas: 10,
            genuine: 500,
        },
        memory: 131_072,
        vnics: 500,
    };

    /// What is worth a look; at most a minute and a half.
    pub const QUICK: Self = Self {
        thorough: false,
        topologies: topologies::of_a_goal,
        path: path::Extent {
            rounds: 2,
            packets: 40_000,
            repeats: 5,
            misses: 20_000,
        },
        million: path::Extent {
            rounds: 2,
            packets: 200_000,
            repeats: 3,
            misses: 0,
        },
        loads: load::Extent {
            rounds: 2,
            repeats: 3,
            lasting: Duration::from_millis(40),
        },
        transfer: 1,
        flood: flood::Extent {
            established: 200,
            quotas: 10,
            genuine: 100,
        },
        memory: 32_768,
        vnics: 20,
    };
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `datapath`.
    pub bench: &'static str,
    /// Whether this was only a look: its figures are no ground for a comparison.
    pub quick: bool,
    /// Where.
    pub machine: Machine,
    /// Seconds that it took.
    pub took_s: f64,
    /// The goals.
    pub goals: Vec<Goal>,
    /// Every topology and kind of packet on the hypervisor's part of the way, in nanoseconds of one
    /// packet.
    pub path: Vec<Row>,
    /// The same with a million sessions.
    pub million: Vec<Row>,
    /// End to end, in nanoseconds of one datagram, round trip, connection or segment.
    pub loads: Vec<Row>,
    /// 100,000 sessions out and in, in milliseconds.
    pub transfer: Vec<Row>,
    /// The flood.
    pub flood: Option<flood::Outcome>,
    /// A vnic's memory.
    pub memory: Option<footprint::Memory>,
    /// A restart.
    pub restart: Option<footprint::Restart>,
}

/// Measures these parts. Needs root; makes namespaces and removes them, also after Ctrl-C.
///
/// # Errors
/// A tool is missing, something refuses, or a packet went where it must not.
pub fn run(extent: &Extent, choice: &Choice) -> Result<Report> {
    let (machine, begin) = (Machine::here()?, Instant::now());
    tools::check(&std::env::var_os("PATH").unwrap_or_default())?;
    let measured = measure(extent, choice)?;
    Ok(Report {
        bench: "datapath",
        quick: !extent.thorough,
        machine,
        took_s: begin.elapsed().as_secs_f64(),
        goals: measured.goals(),
        path: topologies::in_order(measured.path.rows(path::BASE, "ns")),
        million: topologies::in_order(measured.million.rows(path::BASE, "ns")),
        loads: topologies::in_order(measured.loads.rows(path::BASE, "ns")),
        transfer: measured.transfer.rows(transfer::CONNTRACK, "ms"),
        flood: measured.flood,
        memory: measured.memory,
        restart: measured.restart,
    })
}

fn measure(extent: &Extent, choice: &Choice) -> Result<Measured> {
    let mut measured = Measured::default();
    if choice.has(Part::Footprint) {
        measured.memory = Some(footprint::memory(extent.memory)?);
        eprintln!("bench: an agent with one vnic");
        measured.agent = Some(agent::resident()?);
        eprintln!("bench: a restart with {} vnics", extent.vnics);
        measured.restart = Some(footprint::restart(extent.vnics)?);
    }
    if choice.has(Part::Flood) {
        eprintln!("bench: a flood");
        measured.flood = Some(flood::run(extent.flood)?);
    }
    if choice.has(Part::Transfer) {
        measured.transfer = transfer::rounds(extent.transfer)?;
    }
    if choice.has(Part::Path) || choice.has(Part::Loads) {
        ways(extent, choice, &mut measured)?;
    }
    if choice.has(Part::Million) {
        measured.million = million::rounds(extent.million)?;
    }
    Ok(measured)
}

/// The path and the end-to-end loads, over the same plants.
fn ways(extent: &Extent, choice: &Choice, measured: &mut Measured) -> Result<()> {
    let lab = Lab::new()?;
    let mut plants = Vec::new();
    for topology in topologies::ALL
        .iter()
        .filter(|topology| choice.has_topology(extent, topology))
    {
        eprintln!("bench: building {}", topology.id);
        plants.push(Plant::build(&lab, topology)?);
    }
    if choice.has(Part::Path) {
        let mut injector = Injector::load()?;
        for plant in &plants {
            plant.open_path(&injector)?;
        }
        let kinds: Vec<_> = path::Packet::USUAL
            .into_iter()
            .filter(|packet| choice.has_packet(*packet))
            .collect();
        let samples = &mut measured.path;
        path::rounds(&plants, &mut injector, (extent.path, &kinds), samples)?;
        for plant in &plants {
            plant.close_path()?;
        }
    }
    if choice.has(Part::Loads) {
        plants.retain(|plant| topologies::end_to_end(&plant.topology));
        let loads = load::Load::ALL.into_iter();
        let loads: Vec<_> = loads.filter(|load| choice.has_load(*load)).collect();
        load::rounds(&plants, &loads, extent.loads, &mut measured.loads)?;
    }
    Ok(())
}
