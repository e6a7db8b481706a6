//! `lictor-bench`: run it by `cargo xtask bench`, which builds it first.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand, ValueEnum};
use lictor_bench::datapath::load::Load;
use lictor_bench::datapath::path::Packet;
use lictor_bench::datapath::render::Colour;
use lictor_bench::datapath::topologies::ALL;
use lictor_bench::datapath::{Choice, Part};
use lictor_bench::{datapath, moves, policy, program};
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "lictor-bench",
    about = "Measures Lictor beside what it replaces",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// How the result is printed; progress goes to standard error.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Less of everything: a look, no figures to compare.
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The firewall's program alone: nanoseconds for each kind of packet.
    Program,
    /// All goals of the data plane, beside the bare bridge, nftables and iptables.
    Datapath {
        /// A page whose figures are replaced by these, such as docs/performance.md.
        #[arg(long)]
        write: Option<PathBuf>,
        /// Only these parts; the goals of the others count as not met.
        #[arg(long, value_enum, value_delimiter = ',')]
        part: Vec<Part>,
        /// Only these topologies, by their names in the tables, such as `lictor-one`.
        #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(topologies()))]
        topology: Vec<String>,
        /// Only these packets of the path.
        #[arg(long, value_delimiter = ',', value_parser = packet)]
        packet: Vec<Packet>,
        /// Only these loads from end to end.
        #[arg(long, value_delimiter = ',', value_parser = load)]
        load: Vec<Load>,
    },
    /// All goals of moves, beside moves of the same guest without Lictor: a quarter of an hour, and
    /// two minutes with `--quick`.
    Move {
        /// Only these parts; the goals of the others count as not met.
        #[arg(long, value_enum, value_delimiter = ',')]
        part: Vec<moves::Part>,
        /// So many moves of each part; with fewer than the goals ask for they count as not met.
        #[arg(long, value_parser = clap::value_parser!(u32).range(2..=1_000))]
        moves: Option<u32>,
        /// So many sessions change before a guest stops; with fewer than the goal asks for it
        /// counts as not met.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        changed: Option<u32>,
    },
    /// The goals of policy analysis: proofs, changes, certificates, memory.
    Policy {
        /// Only these rows; the goals of the others count as not met.
        #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(policy::ids()))]
        row: Vec<String>,
    },
    /// One proof of which the peak of memory is printed in bytes. Run by the row `mem`.
    #[command(name = policy::proof::MEMORY_CHILD, hide = true)]
    PolicyMemory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let extent = match arguments.quick {
        true => policy::Extent::Quick,
        false => policy::Extent::Full,
    };
    match &arguments.bench {
        Bench::Policy { row } => {
            let report = policy::run(extent, row)?;
            match arguments.output {
                Output::Table => print(&report.table()),
                Output::Json => print(&(serde_json::to_string(&report)? + "\n")),
            }
        }
        Bench::PolicyMemory => {
            let peak = policy::proof::memory_child(extent)?;
            print(&format!("{peak}\n"))
        }
        Bench::Program => {
            let extent = if arguments.quick {
                program::Extent::QUICK
            } else {
                program::Extent::FULL
            };
            let report = program::run(extent)?;
            match arguments.output {
                Output::Table => print(&report.table()),
                Output::Json => print(&(serde_json::to_string(&report)? + "\n")),
            }
        }
        Bench::Move {
            part,
            moves,
            changed,
        } => {
            let extent = of_moves(arguments).with(*moves).changing(*changed);
            let report = moves::run(&extent, &parts(part))?;
            match arguments.output {
                Output::Table => print(&report.table()),
                Output::Json => print(&(serde_json::to_string(&report)? + "\n")),
            }
        }
        Bench::Datapath {
            write,
            part,
            topology,
            packet,
            load,
        } => {
            let extent = if arguments.quick {
                datapath::Extent::QUICK
            } else {
                datapath::Extent::FULL
            };
            let choice = Choice {
                parts: parts(part),
                topologies: topology.clone(),
                packets: packet.clone(),
                loads: load.clone(),
            };
            let report = datapath::run(&extent, &choice)?;
            if let Some(page) = write {
                report.write(page)?;
            }
            match arguments.output {
                Output::Table => print(&report.table(colour())),
                Output::Json => print(&(serde_json::to_string(&report)? + "\n")),
            }
        }
    }
}

const fn of_moves(arguments: &Arguments) -> moves::Extent {
    if arguments.quick {
        moves::Extent::QUICK
    } else {
        moves::Extent::FULL
    }
}

fn topologies() -> [&'static str; ALL.len()] {
    ALL.map(|topology| topology.id)
}

fn packet(name: &str) -> Result<Packet, String> {
    let of_that_name = |packet: &Packet| packet.id() == name;
    Packet::USUAL.into_iter().find(of_that_name).ok_or_else(|| {
        let names = Packet::USUAL.map(Packet::id).join(", ");
        format!("no packet of the path is called so; there are {names}")
    })
}

fn load(name: &str) -> Result<Load, String> {
    let of_that_name = |load: &Load| load.id() == name;
    Load::ALL.into_iter().find(of_that_name).ok_or_else(|| {
        let names = Load::ALL.map(Load::id).join(", ");
        format!("no load is called so; there are {names}")
    })
}

/// Without a choice all of them.
fn parts<P: ValueEnum + Clone>(chosen: &[P]) -> Vec<P> {
    let all = P::value_variants();
    if chosen.is_empty() { all } else { chosen }.to_vec()
}

/// Colours only on a terminal, and only if `NO_COLOR` is unset or empty (no-color.org).
fn colour() -> Colour {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stdout().is_terminal() && !refused {
        Colour::On
    } else {
        Colour::Off
    }
}

/// Whoever reads may have had enough.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
