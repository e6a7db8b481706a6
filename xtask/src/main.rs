//! The one developer door: `cargo xtask <task>`. One file per task.
//!
//! This program and `lictor-lab` build with nothing but Rust and the C compiler that it links with,
//! as `setup` must run before anything else can be built: neither may depend on a crate that needs
//! clang or libelf.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod deps;
mod edges;
mod fuzz;
mod kernel;
mod licence;
mod setup;
mod steps;
mod test;
mod tidy;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Everything a developer of Lictor runs",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing and build the lab's guest image; a second run does nothing.
    ///
    /// On Debian 12 as root it installs packages with apt; elsewhere it says which are missing. The
    /// guest's kernel is downloaded and unpacked below target/lab-cache, never installed.
    Setup,
    /// Set up, build, and show all of Lictor on real guests. Needs root, and three minutes at most.
    ///
    /// Writes target/demo: summary.json, the report and the evidence pack. It ends with 0 only if
    /// every step was shown.
    Demo {
        /// Leave everything up at the end, and say how to enter it.
        #[arg(long)]
        keep: bool,
    },
    /// Build the bench and run one of its parts. Needs root and a machine that is otherwise quiet.
    ///
    /// `program` is the firewall's program alone; `datapath` is every goal of the data plane,
    /// beside the bare bridge, nftables and iptables, in about seventeen minutes.
    Bench {
        /// Which part.
        #[arg(value_parser = PossibleValuesParser::new(bench::NAMES))]
        name: String,
        /// How the result is printed: `table` or `json`. Progress goes to standard error.
        #[arg(long, default_value = "table",
              value_parser = PossibleValuesParser::new(["table", "json"]))]
        output: String,
        /// Less of everything: a look, no figures to compare.
        #[arg(long)]
        quick: bool,
        /// A page whose figures `datapath` replaces by its own, such as docs/performance.md.
        #[arg(long)]
        write: Option<PathBuf>,
    },
    /// Look for faults of format, lints, tidiness, crate edges and dependencies; changes nothing.
    Check {
        /// Only these parts; all when none is named.
        #[arg(value_parser = PossibleValuesParser::new(check::names()))]
        parts: Vec<String>,
    },
    /// Try random cases for a time: the loaded program beside the model (needs root), spoiled
    /// policies, or spoiled files of every importer.
    ///
    /// What fails is written below target/fuzz, and the exit status tells.
    Fuzz {
        /// What is fuzzed.
        #[arg(value_parser = PossibleValuesParser::new(fuzz::NAMES))]
        name: String,
        /// For how long.
        #[arg(long, default_value_t = 10,
              value_parser = clap::value_parser!(u64).range(1..=fuzz::MINUTES_MAX))]
        minutes: u64,
        /// The first seed; another one each time unless it is given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run every test of the data plane and the agent's core on Debian 12's Linux 6.1, in a guest.
    ///
    /// Needs root.
    TestKernel,
    /// Set up, build, run every test, check. What CI runs. Needs root for the lab.
    Test,
    /// As `test`, with the long suites too (LICTOR_FULL=1).
    TestFull,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Demo { keep } => {
            let ending = if *keep {
                demo::Ending::Keep
            } else {
                demo::Ending::Remove
            };
            demo::run(ending)
        }
        Task::Bench {
            name,
            output,
            quick,
            write,
        } => {
            let mut arguments = vec![name.into(), "--output".into(), output.into()];
            arguments.extend(quick.then(|| "--quick".into()));
            if let Some(page) = write {
                arguments.extend(["--write".into(), page.into()]);
            }
            bench::run(&arguments)
        }
        Task::Fuzz {
            name,
            minutes,
            seed,
        } => fuzz::run(name, *minutes, *seed),
        Task::TestKernel => steps::timed(kernel::steps),
        Task::Check { parts } => steps::timed(|steps| check::steps(steps, parts)),
        Task::Test => steps::timed(|steps| test::steps(steps, test::Extent::Usual)),
        Task::TestFull => steps::timed(|steps| test::steps(steps, test::Extent::Full)),
    }
}

/// The workspace's folder.
fn root() -> Result<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .map(PathBuf::from)
        .context("xtask lies below the workspace")
}
