//! `lictor move evacuation`: the order by which a guest leaves a host whose agent is broken,
//! without its sessions.

use crate::CliError;
use crate::order::{Terms, Written};
use crate::output::Cell;
use clap::Args;
use lictor_types::HostId;
use lictor_wire::local::Request;
use lictor_wire::{Envelope, Evacuation};

/// What an order says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Write {
    /// The host whose agent is broken.
    #[arg(long)]
    from: HostId,
    #[command(flatten)]
    terms: Terms,
}

impl Written for Write {
    type Order = Evacuation;

    const TAKEN: &'static str = "the guest is opened here when it runs, without its sessions";

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn order(&self, issued_ms: u64, expires_ms: u64) -> Result<Evacuation, CliError> {
        let Terms {
            guest,
            to,
            deployment,
            justification,
            ..
        } = self.terms.clone();
        if self.from == to {
            let what = "expected another host than --from; a guest that stays needs no order";
            return Err(CliError::argument("--to", what));
        }
        Ok(Evacuation {
            deployment,
            guest,
            from: self.from.clone(),
            to,
            justification,
            issued_ms,
            expires_ms,
        })
    }

    fn cells(order: &Evacuation) -> [(&'static str, Cell); 1] {
        [("from", (&order.from).into())]
    }

    fn request(order: Envelope) -> Request {
        Request::Evacuate { order }
    }
}
