//! `lictor placement`: what a management layer tells the manager.

use crate::CliError;
use crate::caller::Caller;
use crate::output::{Answer, Cell, Page, Printing, Tone};
use clap::{Args, Subcommand};
use lictor_types::{GuestId, HostId};
use lictor_wire::api::Placement;

/// Report where guests are. For a connector of a management layer.
#[derive(Debug, Clone, Args)]
pub struct PlacementArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Report that a guest began to run on a host, protected or not.
    Report {
        /// The guest.
        #[arg(long)]
        guest: GuestId,
        /// The host.
        #[arg(long)]
        host: HostId,
        /// When it began to run there, in milliseconds of Unix time.
        #[arg(long)]
        since_ms: u64,
        /// How far off that time may be, in milliseconds.
        #[arg(long)]
        error_ms: u64,
    },
}

pub(crate) fn run(args: &PlacementArgs) -> Result<Answer, CliError> {
    let Action::Report {
        guest,
        host,
        since_ms,
        error_ms,
    } = &args.action;
    let placement = Placement {
        guest: guest.clone(),
        host: host.clone(),
        since_ms: *since_ms,
        error_ms: *error_ms,
    };
    let placed = args.caller.open()?.client.place(&placement)?;
    let choice = placed.choice.as_ref();
    let choice = choice.map_or_else(|| "-".into(), |choice| Cell::toned(Tone::Doubt, choice));
    let page = Page::default().fields([
        ("guest", guest.into()),
        ("host", host.into()),
        ("an agent is enrolled there", Cell::yes_no(placed.protected)),
        ("the owner's choice", choice),
    ]);
    Ok(Answer::new(page, &placed))
}
