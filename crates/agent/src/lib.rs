//! The agent of one host: it verifies what two persons signed, loads it whole or not at all,
//! attaches to vnics before they carry traffic, reads everything back, and records what it did.
//!
//! [`Host`] is the core: one owner, no sockets, times as parameters. [`run`] is its shell.
//!
//! [`moves`] is the protocol by which a guest's sessions change hosts, as two pure state machines,
//! [`peer`] the pinned connection between two agents, and [`interlock`] what QEMU asks before a
//! guest leaves or runs. The shell that connects the three is not built yet: an agent refuses to
//! admit a move.
#![forbid(unsafe_code)]

mod command;
mod config;
mod error;
mod host;
pub mod interlock;
mod manager;
pub mod moves;
pub mod peer;
mod run;
pub mod state;

pub use command::{Args, dispatch};
pub use config::{Config, ROUND_MS_MAX, ROUND_MS_MIN};
pub use error::AgentError;
pub use host::{Host, Offered, SAMPLES_PER_ROUND_MAX};
pub use manager::Manager;
pub use run::run;
