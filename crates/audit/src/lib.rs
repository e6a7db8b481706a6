//! Checks over packed facts, findings and reports. Pure: the time is a parameter, and every number
//! comes out of entries.
//!
//! [`Facts`] sorts entries, [`run`] judges them, [`Report`] shows the result, and [`verify`]
//! does all of it again for an assessor.
#![forbid(unsafe_code)]

mod catalogue;
mod checks;
pub mod facts;
mod finding;
mod html;
mod nics;
mod report;
mod stays;
mod time;
mod timeline;
pub mod verify;

pub use catalogue::{CHECKS, Check, Framework, Mapping, Requirement, run};
pub use facts::Facts;
pub use finding::{CoResidence, Exception, Finding, Profile, Status};
pub use html::html;
pub use nics::NicsFact;
pub use report::{
    Gap, LogFacts, Move, MoveEnd, REPORT_HTML, REPORT_JSON, Report, Span, Timeline, json,
};
pub use time::utc;
