//! `bench`: builds what is measured and what measures, and hands over.

use crate::steps::cargo;
use crate::{root, setup};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::process::Command;

/// The bench's parts.
pub(crate) const NAMES: [&str; 4] = ["program", "datapath", "move", "policy"];

/// Sets up, builds, and runs the bench with its own arguments.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    setup::run()?;
    let build = ["build", "--locked", "--release", "--bins"];
    let packages = ["-p", "lictor", "-p", "lictor-bench"];
    cargo(&[build.as_slice(), &packages].concat(), &[])?;
    let root = root()?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join("release/lictor-bench");
    let status = Command::new(&program)
        .args(arguments)
        .current_dir(&root)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("the bench ended with {status}; its own words are above");
    }
    Ok(())
}
