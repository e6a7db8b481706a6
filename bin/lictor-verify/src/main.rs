//! Verifies an evidence pack offline: `lictor-verify PACK_DIR [--key VKEY] [--recheck]`.
//!
//! Exit status: 0 verified, 1 refused (the file or the entry is named), 2 wrong usage.
#![forbid(unsafe_code)]

mod args;
mod files;

use args::{Args, Output};
use clap::Parser as _;
use lictor_audit::verify::{self, Outcome};
use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    match verify_pack(&args).and_then(|outcome| print(&args, &outcome)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("NOT VERIFIED {why}");
            ExitCode::FAILURE
        }
    }
}

fn verify_pack(args: &Args) -> Result<Outcome, String> {
    let files = files::read(&args.pack)?;
    verify::verify(&files, args.key.as_ref(), args.recheck()).map_err(|error| error.to_string())
}

/// A reader who closes the pipe early has seen enough; that is no failure.
fn print(args: &Args, outcome: &Outcome) -> Result<(), String> {
    let text = match args.output {
        Output::Table => verify::table(outcome),
        Output::Json => serde_json::to_string_pretty(outcome).map_err(|e| e.to_string())? + "\n",
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
