//! `check`: what a reviewer should not have to look for.

use crate::steps::{Steps, cargo, metadata};
use crate::{deps, edges, licence, root, tidy};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

pub(crate) fn steps(steps: &mut Steps) -> Result<()> {
    steps.run("format", || cargo(&["fmt", "--all", "--check"], &[]))?;
    steps.run("lint", || {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--"];
        cargo(&[&clippy[..], &["-D", "warnings"]].concat(), &[])
    })?;
    steps.run("tidy", || verdict(tidy::faults(&root()?)?))?;
    steps.run("crate edges", || {
        let path = root()?.join("docs/architecture.md");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        verdict(edges::faults(&text, &metadata(&["--no-deps"])?)?)
    })?;
    steps.run("dependencies", || {
        let read = |name: &str| -> Result<String> {
            let path = root()?.join(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let (deny, manifest) = (read("deny.toml")?, read("Cargo.toml")?);
        let mut faults = deps::faults(&deny, &manifest, &metadata(&["--no-deps"])?)?;
        faults.extend(licence::faults(&deny, &metadata(&[])?)?);
        verdict(faults)
    })?;
    if has_cargo_deny() {
        steps.run("cargo-deny", || {
            cargo(&["deny", "check", "bans", "licenses", "sources"], &[])
        })?;
    }
    Ok(())
}

/// All faults at once, one per line.
fn verdict(faults: Vec<String>) -> Result<()> {
    for fault in &faults {
        eprintln!("{fault}");
    }
    match faults.len() {
        0 => Ok(()),
        1 => bail!("1 fault"),
        count => bail!("{count} faults"),
    }
}

fn has_cargo_deny() -> bool {
    let mut version = Command::new("cargo-deny");
    version
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}
