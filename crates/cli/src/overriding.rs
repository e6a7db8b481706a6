//! `lictor move override`: the order by which one move is admitted although something speaks
//! against it.

use crate::CliError;
use crate::order::{Terms, Written};
use crate::output::Cell;
use clap::Args;
use lictor_policy::Cause;
use lictor_wire::local::Request;
use lictor_wire::{Envelope, Order as _, Override};

/// What an order says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Write {
    /// What may speak against the move, such as `ids-missing`; again for each cause.
    #[arg(long = "cause", value_name = "CAUSE", required = true)]
    causes: Vec<Cause>,
    #[command(flatten)]
    terms: Terms,
}

impl Written for Write {
    type Order = Override;

    const TAKEN: &'static str = "the next move of the guest to that host uses it up";

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn order(&self, issued_ms: u64, expires_ms: u64) -> Result<Override, CliError> {
        let Terms {
            guest,
            to,
            deployment,
            justification,
            ..
        } = self.terms.clone();
        let order = Override {
            deployment,
            guest,
            to,
            causes: self.causes.iter().copied().collect(),
            justification,
            issued_ms,
            expires_ms,
        };
        let check = order.check();
        check.map_err(|what| CliError::argument("--cause", what))?;
        Ok(order)
    }

    fn cells(order: &Override) -> [(&'static str, Cell); 1] {
        let causes: Vec<_> = order.causes.iter().map(ToString::to_string).collect();
        [("overrides", causes.join(", ").into())]
    }

    fn request(order: Envelope) -> Request {
        Request::Override { order }
    }
}
