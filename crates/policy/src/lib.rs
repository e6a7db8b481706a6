//! The policy language: text to rules to identities and decision tables.
//!
//! [`parse`] turns bytes into a resolved [`Policy`] and every diagnostic at once,
//! [`mod@evaluate`] says what the policy means for one packet, and [`compile`] turns policy and
//! label sets into the tables that are signed, loaded and read back. Nothing here does I/O or reads
//! a clock: the date is a parameter. The language is described in `docs/policy-language.md`.
#![forbid(unsafe_code)]

mod compile;
mod compiled;
mod connectivity;
mod date;
mod delegation;
mod delta;
mod diagnostic;
mod estate;
mod failure;
mod intent;
mod limits;
mod model;
mod overlap;
mod parse;
mod sarif;
mod selector;
mod service;
mod tables;
mod window;

pub mod evaluate;
pub mod syntax;

pub use compile::{CompileError, CompileInput, Compiler, compile};
pub use compiled::{
    ChoiceRow, Compiled, ControlRow, Cut, Expired, ExpiredAction, Identity, IntentText, LineRow,
    ObserveRow, PrefixRow, RuleInfo, ScopeMembers, ServiceRow,
};
pub use connectivity::{
    CONNECTIONS_MAX, Connection, Connections, ConnectivityError, Peer, connectivity,
};
pub use date::{Date, DateError};
pub use delegation::Delegation;
pub use delta::{Delta, RowsDelta};
pub use diagnostic::{Diagnostic, Severity, Span, nearest, render, render_parts};
pub use estate::{ESTATE_ENTRIES_MAX, ESTATE_NAME_BYTES_MAX, Estate, EstateGuest, EstateHost};
pub use failure::{Cause, Choice, Together, UnknownName};
pub use intent::{Claim, Exception, Intent, Interpretation};
pub use limits::*;
pub use model::{
    Action, At, Computed, ControlName, ControlRequirement, FailureChoice, HOST_LABEL, Label,
    Labels, Log, Mode, Observation, OnExpiry, Policy, Rule, Scope, Tier, TierKind,
};
pub use parse::{Part, parse, parse_parts};
pub use sarif::{sarif, sarif_log, sarif_place};
pub use selector::{End, Selector};
pub use service::{PortRange, Service};
pub use tables::{BrokenTables, Open, Tables};
pub use window::{Hour, Moment, Window, WindowError};
