//! `test` and `test-full`: from a clean clone to a verdict.

use crate::steps::{Steps, cargo};
use crate::{check, setup};
use anyhow::Result;

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What every change must pass.
    Usual,
    /// The long suites too.
    Full,
}

pub(crate) fn steps(steps: &mut Steps, extent: Extent) -> Result<()> {
    steps.run("setup", setup::run)?;
    let cache = lictor_lab::image::cache();
    std::fs::create_dir_all(&cache)?;
    let mut env = vec![(
        "LICTOR_LAB_CACHE",
        cache.canonicalize()?.display().to_string(),
    )];
    if extent == Extent::Full {
        env.push(("LICTOR_FULL", "1".into()));
    }
    steps.run("build", || {
        cargo(&["build", "--locked", "--workspace", "--all-targets"], &env)
    })?;
    steps.run("test", || cargo(&["test", "--locked", "--workspace"], &env))?;
    check::steps(steps, &[])
}
