//! The nouns of Lictor. Every other crate speaks in these types; this one does no I/O, reads no
//! clock and knows no format but serde's.
//!
//! One word has one meaning (see `docs/architecture.md`, glossary): *ingress* is toward the guest
//! and
//! *egress* is from the guest, always; a *port* is a layer-4 port and never an interface.
#![forbid(unsafe_code)]

mod id;
mod limits;
mod link;
mod net;
mod probe;
mod reason;
mod session;
mod tables;
mod tally;
mod timeouts;

pub mod words;

pub use id::{
    DeploymentId, Epoch, Generation, GuestId, HostId, IdError, IdentityId, RuleId, Segment, VnicId,
    VnicName,
};
pub use limits::*;
pub use link::{
    Link, LinkError, MORE_MACS_MAX, Role, SHARED_PER_VNIC_MAX, SharedId, VLANS_PER_VNIC_MAX, Vlan,
    VlanId,
};
pub use net::{Direction, Endpoint, Mac, MacError, Mode, Protocol, Verdict, VnicState};
pub use probe::{PROBE_TEXT_MAX, Probe, ProbeError, ProbeFlags, ProbeKind};
pub use reason::Reason;
pub use session::{SessionKey, SessionRecord, TcpEnd, TcpState};
pub use tables::{
    AddressEntry, AddressKind, AtomId, AtomRange, Decision, Digest, HostTables, TableError, Would,
};
pub use tally::{Counted, Tallies, Tally};
pub use timeouts::{TIMEOUT_MAX_S, TIMEOUT_MIN_S, TimeoutError, Timeouts};
