//! The `lictor` command.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use lictor_cli::{Colour, Ending, Setting};
use std::io::{IsTerminal as _, stderr, stdout};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

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
    #[command(flatten)]
    People(lictor_cli::Command),
    #[command(flatten)]
    Help(lictor_cli::HelpArgs),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(colour(stderr().is_terminal()) == Colour::On)
        .init();
    match run(Cli::parse()) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::No) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lictor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<Ending> {
    match cli.command {
        Command::Agent(args) => lictor_agent::dispatch(args)?,
        Command::Manager(args) => lictor_manager::run(args, &mut stdout())?,
        Command::People(command) => {
            return Ok(lictor_cli::run(&command, &setting(), &mut stdout())?);
        }
        Command::Help(args) => lictor_cli::help(&args, Cli::command(), &mut stdout())?,
    }
    Ok(Ending::Done)
}

fn setting() -> Setting {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let user = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    Setting {
        now_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        // Behind sudo the person counts, not root.
        user: user("SUDO_USER")
            .or_else(|| user("USER"))
            .unwrap_or_else(|| "not named".into()),
        colour: colour(stdout().is_terminal()),
    }
}

fn colour(terminal: bool) -> Colour {
    Colour::of(terminal, std::env::var_os("NO_COLOR").as_deref())
}
