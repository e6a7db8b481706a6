//! The manager: inventory, releases, moves and evidence behind one API over mutual TLS.
//!
//! One process and one directory. `app` decides and stores, one file for each resource; `http`
//! turns bytes into calls and errors into status codes. Nothing is acknowledged before it is on
//! disk, so the process may be killed at any instruction.
#![forbid(unsafe_code)]

mod app;
mod authority;
mod command;
mod error;
mod files;
mod http;
mod limits;
mod manager;

pub use app::Clock;
pub use command::{Args, run};
pub use error::{AppError, ManagerError};
pub use limits::*;
pub use manager::{Init, Manager, init, remove_agent, token};
