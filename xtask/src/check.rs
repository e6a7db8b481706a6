//! `check`: what a reviewer should not have to look for.

use crate::steps::{Steps, cargo, metadata};
use crate::{deps, edges, licence, root, tidy};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

type Part = (&'static str, fn() -> Result<()>);

const PARTS: [Part; 6] = [
    ("format", format),
    ("lint", lint),
    ("tidy", || verdict(tidy::faults(&root()?)?)),
    ("edges", crate_edges),
    ("dependencies", dependencies),
    ("cargo-deny", cargo_deny),
];

/// What the parts are called on the command line.
pub(crate) fn names() -> [&'static str; PARTS.len()] {
    PARTS.map(|(name, _)| name)
}

/// Runs the wanted parts, or all when none is named, and each of them whatever the others say.
pub(crate) fn steps(steps: &mut Steps, wanted: &[String]) -> Result<()> {
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|other| other == name) {
            continue;
        }
        if let Err(error) = steps.run(name, part) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("the check found faults in: {}", failed.join(", "));
    }
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])
}

fn lint() -> Result<()> {
    let clippy = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    cargo(&clippy, &[])
}

fn crate_edges() -> Result<()> {
    verdict(edges::faults(
        &read("docs/architecture.md")?,
        &metadata(&["--no-deps"])?,
    )?)
}

fn dependencies() -> Result<()> {
    let (deny, manifest) = (read("deny.toml")?, read("Cargo.toml")?);
    let mut faults = deps::faults(&deny, &manifest, &metadata(&["--no-deps"])?)?;
    faults.extend(licence::faults(&deny, &metadata(&[])?)?);
    verdict(faults)
}

/// Licences and reasons were checked without it; it adds bans and sources where it is installed.
fn cargo_deny() -> Result<()> {
    if has_cargo_deny() {
        return cargo(&["deny", "check", "bans", "licenses", "sources"], &[]);
    }
    eprintln!("cargo-deny is not installed: bans and sources are not checked");
    Ok(())
}

fn read(name: &str) -> Result<String> {
    let path = root()?.join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
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
