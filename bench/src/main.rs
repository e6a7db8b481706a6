//! `lictor-bench`: run it by `cargo xtask bench`, which builds it first.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use lictor_bench::program;
use std::io::{ErrorKind, Write as _};
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
    Trial,
    /// The firewall's program alone: nanoseconds for each kind of packet.
    Program,
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
    match arguments.bench {
        Bench::Trial => lictor_bench::datapath::trial(),
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
    }
}

/// Whoever reads may have had enough.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
