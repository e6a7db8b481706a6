//! Steps with a name and a time, and the table of them at the end.

use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

struct Row {
    name: String,
    took: Duration,
    passed: bool,
}

/// The steps that have run.
#[derive(Default)]
pub(crate) struct Steps(Vec<Row>);

impl Steps {
    /// Runs one step; its time is kept whether it passes or not.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("==> {name}");
        let start = Instant::now();
        let result = work();
        self.0.push(Row {
            name: name.into(),
            took: start.elapsed(),
            passed: result.is_ok(),
        });
        result.with_context(|| format!("step `{name}` failed"))
    }

    fn print(&self) {
        eprintln!("\n{:<44} {:>9}", "step", "seconds");
        for row in &self.0 {
            let mark = if row.passed { "" } else { "  FAILED" };
            eprintln!("{:<44} {:>9.1}{mark}", row.name, row.took.as_secs_f64());
        }
        let total: Duration = self.0.iter().map(|row| row.took).sum();
        eprintln!("{:<44} {:>9.1}", "total", total.as_secs_f64());
    }
}

/// Runs the steps and prints their table, also after a failure.
pub(crate) fn timed(work: impl FnOnce(&mut Steps) -> Result<()>) -> Result<()> {
    let mut steps = Steps::default();
    let result = work(&mut steps);
    steps.print();
    result
}

/// Runs cargo in the workspace with its output shown.
pub(crate) fn cargo(args: &[&str], env: &[(&str, String)]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(crate::root()?)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("`cargo {}` ended with {status}", args.join(" "));
    }
    Ok(())
}

/// What `cargo metadata` says about the workspace.
pub(crate) fn metadata(more: &[&str]) -> Result<serde_json::Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(more)
        .current_dir(crate::root()?)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}
