//! How long a policy takes from its rules to what is signed.

use super::world::{self, Size};
use super::{Extent, Measured};
use anyhow::{Context as _, Result, ensure};
use lictor_policy::{CompileInput, Compiled, Policy, Tables, compile};
use std::time::Instant;

const ROUNDS: usize = 3;
/// Guests of one host.
pub(super) const GUESTS: usize = 40;

/// The whole of it, with the bytes that are signed and one host's rows. The text is read before.
///
/// # Errors
/// The world is not what it should be.
pub fn measure(extent: Extent) -> Measured {
    let size = match extent {
        Extent::Full => Size::TEN,
        Extent::Quick => Size::SMALL,
    };
    let (policy, input) = world(size)?;
    let mut least = f64::MAX;
    let mut note = String::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let compiled = compile(&policy, &input)?;
        let compiling = start.elapsed().as_secs_f64();
        let digest = compiled.digest();
        let rows = rows(&compiled)?;
        least = least.min(start.elapsed().as_secs_f64());
        let classes = compiled.identities.len();
        ensure!(
            size != Size::TEN || classes >= 10_000,
            "only {classes} classes"
        );
        note = format!(
            "{} rules, {classes} classes, compiled in {compiling:.3} s, {rows} rows of a host with \
             {GUESTS} guests, digest {}",
            compiled.rules.len(),
            digest.short()
        );
    }
    Ok((least, Some(note)))
}

pub(super) fn world(size: Size) -> Result<(Policy, CompileInput)> {
    let policy = world::policy(size)?;
    let label_sets = world::estate(size).label_sets();
    let date = world::today()?;
    Ok((policy, CompileInput { label_sets, date }))
}

fn rows(compiled: &Compiled) -> Result<usize> {
    let tables = Tables::of(compiled).context("what was compiled")?;
    let guests = compiled
        .identities
        .iter()
        .filter(|one| !one.labels.is_empty());
    Ok(guests
        .take(GUESTS)
        .map(|one| tables.decisions(one.id).len())
        .sum())
}
