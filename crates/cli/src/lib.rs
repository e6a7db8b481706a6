//! What people type and read. Each module is one command: its arguments, what it does, and how the
//! result looks; [`run`] joins them. Commands that sign work without a manager, on files; those
//! that call one know it by the directory that `lictor enroll` wrote.
#![forbid(unsafe_code)]

mod audit;
mod caller;
mod cluster;
mod connectivity;
mod container;
mod domain;
mod error;
mod evacuation;
mod explain;
mod files;
mod freshness;
mod guest;
mod help;
mod hook;
mod host;
mod import;
mod install;
mod key;
mod loaded;
mod local;
mod moves;
mod order;
mod output;
mod overriding;
mod placement;
mod policy;
mod release;
mod show;
mod site;
mod texts;

pub use audit::AuditArgs;
pub use caller::{Caller, EnrollArgs, TokenArgs};
pub use cluster::{CLOCK_MS_MAX, ClusterArgs};
pub use error::CliError;
pub use explain::ExplainArgs;
pub use files::{KEY_BYTES_MAX, RELEASE_BYTES_MAX, TEXT_BYTES_MAX};
pub use guest::GuestArgs;
pub use help::{HelpArgs, help};
pub use hook::HookArgs;
pub use host::HostArgs;
pub use key::KeyArgs;
pub use local::{ANSWER_MS_MAX, Agent};
pub use moves::{MoveArgs, WAIT_S_MAX};
pub use output::{Colour, Ending, Output, Printing};
pub use placement::PlacementArgs;
pub use policy::PolicyArgs;
pub use site::{DELEGATIONS_MAX, ROSTER_HOSTS_MAX};

use clap::Subcommand;
use std::io::Write;

/// A command of people.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Exchange a one-time token for a certificate.
    Enroll(EnrollArgs),
    /// Make a one-time token for somebody else. For a platform admin.
    Token(TokenArgs),
    /// Make and show signing keys.
    Key(KeyArgs),
    /// Check, compile, show, sign, approve and publish policy.
    Policy(PolicyArgs),
    /// Bind, retire and list guests.
    Guest(GuestArgs),
    /// List hosts; attach, detach and look at vnics of this one.
    Host(HostArgs),
    /// Compare the hosts of a cluster.
    Cluster(ClusterArgs),
    /// Answer hooks of a management layer on this host.
    Hook(HookArgs),
    /// Check, admit, watch, give up and list moves.
    Move(MoveArgs),
    /// Report where guests are. For a connector of a management layer.
    Placement(PlacementArgs),
    /// Fetch evidence packs, make reports of them and verify them.
    Audit(AuditArgs),
    /// Say what policy says about one flow, by which rule and on whose account.
    Explain(ExplainArgs),
}

/// What a command knows of the world around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Now, in milliseconds of Unix time.
    pub now_ms: u64,
    /// Who runs the command.
    pub user: String,
    /// Whether the output shows colours.
    pub colour: Colour,
}

/// Does what a command says and writes the result to `out`.
///
/// # Errors
/// [`CliError`] with place, expectation and next step.
pub fn run(command: &Command, setting: &Setting, out: &mut dyn Write) -> Result<Ending, CliError> {
    let (printing, answer) = match command {
        Command::Enroll(args) => (&args.printing, caller::enroll(args)?),
        Command::Token(args) => (&args.printing, caller::token(args)?),
        Command::Key(args) => (&args.printing, key::run(args)?),
        Command::Policy(args) => (&args.printing, policy::run(args, setting)?),
        Command::Guest(args) => (&args.printing, guest::run(args)?),
        Command::Host(args) => (&args.printing, host::run(args, setting)?),
        Command::Cluster(args) => (&args.printing, cluster::run(args, setting.now_ms)?),
        Command::Hook(args) => (
            &args.printing,
            hook::run(args, &mut std::io::stdin(), setting.now_ms)?,
        ),
        Command::Move(args) => (&args.printing, moves::run(args, setting)?),
        Command::Placement(args) => (&args.printing, placement::run(args)?),
        Command::Audit(args) => (&args.printing, audit::run(args)?),
        Command::Explain(args) => (&args.printing, explain::run(args, setting)?),
    };
    answer.write(out, (printing.output, setting.colour))?;
    Ok(answer.ending)
}
