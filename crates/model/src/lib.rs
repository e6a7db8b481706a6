//! The stateful reference firewall of one vnic in plain Rust: packets in; verdicts, events,
//! sessions and counters out. It is what the kernel program means, and
//! `crates/datapath/tests/differential` compares the two packet by packet.
//!
//! Speed is no aim here, being read is. The model does no I/O and reads no clock; it knows packets
//! as they are on the wire, and so neither offloaded super-packets nor tags that a device took off.
//!
//! One module for each concern, in the order in which a packet meets them: [`Firewall::judge`] in
//! `verdict` leads through `parse`, `antispoof`, `session` with `tcp`, `sctp` and `icmp`, and
//! `policy`.
#![forbid(unsafe_code)]

mod answer;
mod antispoof;
mod counters;
mod event;
mod extension;
mod fragment;
mod guard;
mod icmp;
mod locals;
mod parse;
mod policy;
mod sctp;
mod session;
mod tcp;
mod terms;
mod verdict;
mod window;

pub use counters::{Count, Counters, RuleCount};
pub use event::{Event, Unreported};
pub use terms::Terms;
pub use verdict::{Answer, Firewall, Frame, Vnic};
