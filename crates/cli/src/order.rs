//! Orders of two persons about a move: written and signed by an author, signed by an approver,
//! given to an agent. What each kind says is in a module of its own.

use crate::local::Agent;
use crate::output::{Answer, Cell, Page};
use crate::{CliError, files, key};
use clap::{Args, Subcommand};
use lictor_types::{DeploymentId, GuestId, HostId};
use lictor_wire::Envelope;
use lictor_wire::local::{Request, Response};
use lictor_wire::order::{JUSTIFICATION_CHARS_MAX, LIFE_MS_MAX, Order};
use serde_json::json;
use std::path::{Path, PathBuf};

const HOUR_MS: u64 = 60 * 60 * 1_000;
/// Hours that an order may be good.
const HOURS: std::ops::RangeInclusive<u64> = 1..=LIFE_MS_MAX / HOUR_MS;
/// Bytes of a file with an order.
const ORDER_BYTES_MAX: usize = 64 << 10;

/// What may be done with an order, which `W` says.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Action<W: Args> {
    /// Write an order for one guest, and sign it as an author.
    Write(W),
    /// Sign an order as an approver, who is somebody else.
    Sign {
        /// The order.
        file: PathBuf,
        /// The key file of an approver.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Give an order to the agent of the host that it is for. It counts once.
    Present {
        /// The order.
        file: PathBuf,
        #[command(flatten)]
        agent: Agent,
    },
}

/// What every order says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Terms {
    /// The guest.
    pub(crate) guest: GuestId,
    /// The host that it goes to.
    #[arg(long)]
    pub(crate) to: HostId,
    /// The installation.
    #[arg(long)]
    pub(crate) deployment: DeploymentId,
    /// Why.
    #[arg(long)]
    pub(crate) justification: String,
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

/// What is typed to write an order of one kind.
pub(crate) trait Written: Args {
    type Order: Order;

    /// What an agent says to an order of this kind that it took.
    const TAKEN: &'static str;

    fn terms(&self) -> &Terms;

    /// The order, good for this time.
    fn order(&self, issued_ms: u64, expires_ms: u64) -> Result<Self::Order, CliError>;

    /// What only this kind says, for people.
    fn cells(order: &Self::Order) -> [(&'static str, Cell); 1];

    fn request(order: Envelope) -> Request;
}

pub(crate) fn run<W: Written>(action: &Action<W>, now_ms: u64) -> Result<Answer, CliError> {
    match action {
        Action::Write(args) => write(args, now_ms),
        Action::Sign { file, key } => sign::<W>(file, key),
        Action::Present { file, agent } => present::<W>(file, agent),
    }
}

fn write<W: Written>(args: &W, now_ms: u64) -> Result<Answer, CliError> {
    let terms = args.terms();
    let length = terms.justification.chars().count();
    if !(1..=JUSTIFICATION_CHARS_MAX).contains(&length) {
        let what = format!("expected 1 to {JUSTIFICATION_CHARS_MAX} characters, found {length}");
        return Err(CliError::argument("--justification", what));
    }
    let order = args.order(now_ms, now_ms + terms.hours * HOUR_MS)?;
    let key = key::read(&terms.key)?;
    let payload_type = W::Order::PAYLOAD_TYPE;
    let envelope = Envelope::sign(payload_type, &order.canonical_bytes(), &[&key]);
    files::write_new(&terms.out, &files::json(&envelope))?;
    Ok(told::<W>(&order, &envelope))
}

fn sign<W: Written>(file: &Path, key: &Path) -> Result<Answer, CliError> {
    let (order, mut envelope) = read::<W::Order>(file)?;
    let key = key::read(key)?;
    envelope.add_signature(&key).map_err(CliError::key(file))?;
    files::replace(file, &files::json(&envelope))?;
    Ok(told::<W>(&order, &envelope))
}

fn present<W: Written>(file: &Path, agent: &Agent) -> Result<Answer, CliError> {
    let (_, order) = read::<W::Order>(file)?;
    match agent.ask(&W::request(order))? {
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
            let value = json!({ "guest": guest, "order": order, "expires_ms": expires_ms });
            Ok(Answer::new(page.line(W::TAKEN), &value))
        }
        other => Err(agent.unexpected(&other)),
    }
}

fn read<O: Order>(file: &Path) -> Result<(O, Envelope), CliError> {
    let bytes = files::read(file, ORDER_BYTES_MAX)?;
    let bad = |error: &dyn std::fmt::Display| CliError::file(file, error.to_string());
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
    let order = O::unverified(&envelope).map_err(|error| bad(&error))?;
    Ok((order, envelope))
}

fn told<W: Written>(order: &W::Order, envelope: &Envelope) -> Answer {
    let signatures = envelope.signatures().iter();
    let signatures: Vec<_> = signatures.map(|one| one.keyid.as_str()).collect();
    let terms = order.terms();
    let page = Page::default()
        .fields([("guest", terms.guest.into())])
        .fields(W::cells(order))
        .fields([
            ("to", terms.to.into()),
            ("good until", lictor_audit::utc(terms.expires_ms).into()),
            ("justification", terms.justification.into()),
            ("signed by", signatures.join(", ").into()),
        ]);
    Answer::new(page, &json!({ "order": order, "signed_by": signatures }))
}
