//! What managers, agents and people send each other: trust, releases, bindings, tickets, sessions
//! and the manager's API. Types, their signatures and their checks; no sockets and no clock.
//!
//! Everything that changes what a kernel enforces arrives as an [`Envelope`] and becomes a checked
//! type only through a `verify` function here, so an agent cannot load what nobody signed.
#![forbid(unsafe_code)]

pub mod api;
mod batch;
pub mod binding;
pub mod evacuation;
pub mod freshness;
pub mod gate;
pub mod kept;
pub mod link;
pub mod local;
pub mod order;
pub mod overriding;
pub mod peer;
pub mod plan;
pub mod release;
pub mod sessions;
pub mod ticket;
mod transcript;

pub use batch::next_batch;
pub use binding::{AddressAttestation, Binding, Bindings, BindingsRefused, Isolation, VnicBinding};
pub use evacuation::Evacuation;
pub use freshness::{Freshness, FreshnessRefused, Witnesses};
pub use gate::{Exception, ExceptionRefused, Proved};
pub use lictor_evidence::{Envelope, SigningKey, VerifyKey};
pub use link::{LinkBinding, MORE_ADDRESSES_MAX, MoreAddress, MoreAddressError};
pub use order::{Order, OrderRefused, Ordered};
pub use overriding::Override;
pub use plan::{PlanError, class_digest, host_tables};
pub use release::{Delegation, Release, ReleaseRefused, RosterHost, Trust, VerifiedRelease};
pub use ticket::{Refusal, Ticket, TicketError};
pub use transcript::Transcript;
