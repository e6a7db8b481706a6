//! Running the project's own programs as a person does.

use anyhow::{Context, Result, bail};
use std::process::{Command, Output};

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// It cannot be started.
pub fn run(mut command: Command) -> Result<Output> {
    let _making = crate::command::making();
    command
        .output()
        .with_context(|| format!("cannot run {command:?}"))
}

/// Runs a command that must succeed and returns what it printed.
///
/// # Errors
/// It fails; its own words are in the error.
pub fn output(command: Command) -> Result<String> {
    let text = format!("{command:?}");
    let output = run(command)?;
    if !output.status.success() {
        bail!("{text} ended with {}: {}", output.status, words(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All that a command printed, in one text.
#[must_use]
pub fn words(output: &Output) -> String {
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&all).trim().to_owned()
}
