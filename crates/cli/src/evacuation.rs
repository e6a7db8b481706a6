//! `lictor move evacuation`: the order of two persons by which a guest leaves a host whose agent is
//! broken, without its sessions.

use crate::local::Agent;
use crate::output::{Answer, Page};
use crate::{CliError, files, key};
use clap::{Args, Subcommand};
use lictor_types::{DeploymentId, GuestId, HostId};
use lictor_wire::evacuation::{JUSTIFICATION_CHARS_MAX, LIFE_MS_MAX, PAYLOAD_TYPE};
use lictor_wire::local::{Request, Response};
use lictor_wire::{Envelope, Evacuation};
use serde_json::json;
use std::path::{Path, PathBuf};

const HOUR_MS: u64 = 60 * 60 * 1_000;
/// Hours that an order may be good.
const HOURS: std::ops::RangeInclusive<u64> = 1..=LIFE_MS_MAX / HOUR_MS;
/// Bytes of a file with an order.
const ORDER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Action {
    /// Write an order for one guest, and sign it as an author.
    Write(Write),
    /// Sign an order as an approver, who is somebody else.
    Sign {
        /// The order.
        file: PathBuf,
        /// The key file of an approver.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Give an order to the agent of the host where the guest goes. It counts once.
    Present {
        /// The order.
        file: PathBuf,
        #[command(flatten)]
        agent: Agent,
    },
}

/// What an order says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Write {
    /// The guest.
    guest: GuestId,
    /// The host whose agent is broken.
    #[arg(long)]
    from: HostId,
    /// The host that it goes to.
    #[arg(long)]
    to: HostId,
    /// The installation.
    #[arg(long)]
    deployment: DeploymentId,
    /// Why.
    #[arg(long)]
    justification: String,
    /// Hours that the order is good.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(HOURS))]
    hours: u64,
    /// The key file of an author.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the order goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(action: &Action, now_ms: u64) -> Result<Answer, CliError> {
    match action {
        Action::Write(args) => write(args, now_ms),
        Action::Sign { file, key } => sign(file, key),
        Action::Present { file, agent } => present(file, agent),
    }
}

fn write(args: &Write, now_ms: u64) -> Result<Answer, CliError> {
    let length = args.justification.chars().count();
    if !(1..=JUSTIFICATION_CHARS_MAX).contains(&length) {
        let what = format!("expected 1 to {JUSTIFICATION_CHARS_MAX} characters, found {length}");
        return Err(CliError::argument("--justification", what));
    }
    if args.from == args.to {
        let what = "expected another host than --from; a guest that stays needs no order";
        return Err(CliError::argument("--to", what));
    }
    let order = Evacuation {
        deployment: args.deployment.clone(),
        guest: args.guest.clone(),
        from: args.from.clone(),
        to: args.to.clone(),
        justification: args.justification.clone(),
        issued_ms: now_ms,
        expires_ms: now_ms + args.hours * HOUR_MS,
    };
    let key = key::read(&args.key)?;
    let envelope = Envelope::sign(PAYLOAD_TYPE, &order.canonical_bytes(), &[&key]);
    files::write_new(&args.out, &bytes(&envelope))?;
    Ok(told(&order, &envelope))
}

fn sign(file: &Path, key: &Path) -> Result<Answer, CliError> {
    let (order, mut envelope) = read(file)?;
    let key = key::read(key)?;
    envelope.add_signature(&key).map_err(CliError::key(file))?;
    files::replace(file, &bytes(&envelope))?;
    Ok(told(&order, &envelope))
}

fn present(file: &Path, agent: &Agent) -> Result<Answer, CliError> {
    let (_, order) = read(file)?;
    match agent.ask(&Request::Evacuate { order })? {
        Response::Ordered {
            order,
            guest,
            expires_ms,
        } => {
            let page = Page::default().fields([
                ("guest", (&guest).into()),
                ("order", (&order).into()),
                ("good until", lictor_audit::utc(expires_ms).into()),
            ]);
            let page = page.line("the guest is opened here when it runs, without its sessions");
            let value = json!({ "guest": guest, "order": order, "expires_ms": expires_ms });
            Ok(Answer::new(page, &value))
        }
        other => Err(agent.unexpected(&other)),
    }
}

fn read(file: &Path) -> Result<(Evacuation, Envelope), CliError> {
    let bytes = files::read(file, ORDER_BYTES_MAX)?;
    let bad = |error: &dyn std::fmt::Display| CliError::file(file, error.to_string());
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
    let order = Evacuation::unverified(&envelope).map_err(|error| bad(&error))?;
    Ok((order, envelope))
}

fn bytes(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(envelope).expect("only string keys");
    bytes.push(b'\n');
    bytes
}

fn told(order: &Evacuation, envelope: &Envelope) -> Answer {
    let signatures = envelope.signatures().iter();
    let signatures: Vec<_> = signatures.map(|one| one.keyid.as_str()).collect();
    let page = Page::default().fields([
        ("guest", (&order.guest).into()),
        ("from", (&order.from).into()),
        ("to", (&order.to).into()),
        ("good until", lictor_audit::utc(order.expires_ms).into()),
        ("justification", order.justification.as_str().into()),
        ("signed by", signatures.join(", ").into()),
    ]);
    Answer::new(page, &json!({ "order": order, "signed_by": signatures }))
}
