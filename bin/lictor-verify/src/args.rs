//! What the command takes.

use clap::{Parser, ValueEnum};
use lictor_audit::verify::Recheck;
use lictor_evidence::VerifyKey;
use std::path::PathBuf;

/// Verify an evidence pack offline. Exit status: 0 verified, 1 refused, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// The directory of the pack.
    pub(crate) pack: PathBuf,
    /// The log's key (name+hash+base64) as you learnt it elsewhere; without it the key in the pack
    /// is used and must be compared by its fingerprint.
    #[arg(long, value_name = "VKEY")]
    pub(crate) key: Option<VerifyKey>,
    /// Run the checks on the packed entries also if the pack has no report. Where it has one they
    /// are always run, and a report that says something else is refused.
    #[arg(long)]
    recheck: bool,
    /// How to print the outcome.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// How to print the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Args {
    pub(crate) const fn recheck(&self) -> Recheck {
        if self.recheck {
            Recheck::Always
        } else {
            Recheck::Reported
        }
    }
}
