//! The `lictor` command.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A firewall in the hypervisor that travels with the guest.
#[derive(Debug, Parser)]
#[command(name = "lictor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run or enrol the agent of this host.
    Agent(lictor_agent::Args),
    /// Make or run a manager.
    Manager(lictor_manager::Args),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lictor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Agent(args) => lictor_agent::dispatch(args)?,
        Command::Manager(args) => lictor_manager::run(args, &mut std::io::stdout())?,
    }
    Ok(())
}
