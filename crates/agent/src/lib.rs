//! The agent of one host: it verifies what two persons signed, loads it whole or not at all,
//! attaches to vnics before they carry traffic, reads everything back, and records what it did.
//!
//! [`Host`] is the core: no sockets, times as parameters. [`moves`] is the protocol by which a
//! guest's sessions change hosts, as two pure state machines. [`peer`] is the pinned connection
//! between two agents, [`interlock`] what QEMU asks before a guest leaves or runs. The owner joins
//! them: one thread, one queue of inputs; [`run`] is the shell around it.
#![forbid(unsafe_code)]

mod allowance;
mod awake;
mod clock;
mod command;
mod config;
mod control;
pub mod custody;
mod dbus;
mod error;
mod guests;
mod host;
mod impaired;
mod input;
pub mod interlock;
pub mod libvirt;
mod manager;
pub mod moves;
mod nics;
mod opening;
mod owner;
pub mod peer;
mod ready;
mod run;
pub mod state;
mod uplink;

pub use command::{Args, dispatch};
pub use config::{Config, ROUND_MS_MAX, ROUND_MS_MIN};
pub use control::{Control, ControlProbe};
pub use error::AgentError;
pub use host::{Arrival, Host, Offered, SAMPLES_PER_ROUND_MAX, Unproven};
pub use manager::Manager;
pub use run::run;
