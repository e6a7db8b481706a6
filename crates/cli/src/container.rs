//! `lictor move fence`, `open` and `complete`: what QEMU says of a guest by itself, said by whoever
//! freezes a container, carries it over and thaws it.

use crate::local::Agent;
use crate::output::{Answer, Page};
use crate::{CliError, files};
use clap::Args;
use lictor_types::GuestId;
use lictor_wire::Envelope;
use lictor_wire::local::{ContainerStep, LINE_BYTES_MAX, Request, Response};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
pub(crate) struct Fence {
    /// The guest.
    guest: GuestId,
    /// Its cgroup (version 2): the agent looks whether it is frozen, and refuses if it is not.
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Where to write what the source has signed; it goes to the target with the container.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    agent: Agent,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Open {
    /// The guest.
    guest: GuestId,
    /// What `lictor move fence` has written at the source.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    #[command(flatten)]
    agent: Agent,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Complete {
    /// The guest.
    guest: GuestId,
    #[command(flatten)]
    agent: Agent,
}

fn ask(agent: &Agent, guest: &GuestId, step: ContainerStep) -> Result<Response, CliError> {
    let guest = guest.clone();
    agent.ask(&Request::Container { guest, step })
}

pub(crate) fn fence(args: &Fence) -> Result<Answer, CliError> {
    // Asked first: a container that was fenced for nothing is cut off until somebody gives up.
    if args.out.exists() {
        let what = "it exists already; name a new file";
        return Err(CliError::file(&args.out, what.to_owned()));
    }
    let cgroup = args.cgroup.clone();
    let record = match ask(&args.agent, &args.guest, ContainerStep::Fence { cgroup })? {
        Response::Fenced { record } => record,
        other => return Err(args.agent.unexpected(&other)),
    };
    files::write_new(&args.out, &files::json(&record))?;
    let page = Page::default()
        .line("its vnics are shut here; bring it to its target, with the record")
        .fields([("record", args.out.display().to_string().into())]);
    Ok(Answer::new(page, &json!({ "record": args.out })))
}

pub(crate) fn open(args: &Open) -> Result<Answer, CliError> {
    let bytes = files::read(&args.record, LINE_BYTES_MAX)?;
    let record: Envelope = serde_json::from_slice(&bytes).map_err(|error| {
        let what = format!("{error}; expected what `lictor move fence` writes");
        CliError::file(&args.record, what)
    })?;
    match ask(&args.agent, &args.guest, ContainerStep::Open { record })? {
        Response::Opened => {
            let page = Page::default().line("its vnics are open here: thaw it, then say so");
            Ok(Answer::new(page, &json!({ "opened": true })))
        }
        other => Err(args.agent.unexpected(&other)),
    }
}

pub(crate) fn complete(args: &Complete) -> Result<Answer, CliError> {
    match ask(&args.agent, &args.guest, ContainerStep::Complete)? {
        Response::Completed => {
            let page = Page::default().line("it is this host's; its source hears of it");
            Ok(Answer::new(page, &json!({ "completed": true })))
        }
        other => Err(args.agent.unexpected(&other)),
    }
}
