//! `demo`: all of Lictor on real guests, from a clean clone.

use crate::steps::cargo;
use crate::{root, setup};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// What becomes of hosts and guests when everything was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// They go.
    Remove,
    /// They stay until the person who looks at them is done.
    Keep,
}

/// Sets up, builds what ships, and hands the terminal to the demo itself.
pub(crate) fn run(ending: Ending) -> Result<()> {
    setup::run()?;
    let packages = ["-p", "lictor", "-p", "lictor-verify", "-p", "lictor-lab"];
    let mut build = vec!["build", "--locked", "--release", "--bins"];
    build.extend(packages);
    cargo(&build, &[])?;
    let root = root()?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join("release/lictor-demo");
    let mut demo = Command::new(&program);
    demo.current_dir(&root)
        .env("LICTOR_LAB_CACHE", lictor_lab::image::cache());
    if ending == Ending::Keep {
        demo.arg("--keep");
    }
    let status = demo
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("not everything was shown; see target/demo/summary.json");
    }
    Ok(())
}
