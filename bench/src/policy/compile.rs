//! How long a policy takes from its rules to what is signed.

use super::world::{self, Size};
use super::{Extent, Measured, change};
use crate::clock;
use anyhow::{Context as _, Result, ensure};
use lictor_policy::{CompileInput, Compiled, Compiler, Policy, Tables, compile};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::sync::Arc;
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

/// Changes that are compiled; their median counts.
const CHANGES: usize = 60;

/// One rule, or one guest's labels, and all compiled again, with the digest that is signed.
///
/// # Errors
/// The world is not what it should be, or what is compiled differs from a full compilation.
pub fn delta(extent: Extent) -> Measured {
    let (size, changes) = match extent {
        Extent::Full => (Size::TEN, CHANGES),
        Extent::Quick => (Size::SMALL, CHANGES / 10),
    };
    let (policy, mut input) = world(size)?;
    let mut policy = Arc::new(policy);
    let mut compiler = Compiler::new();
    compiler.compile(&policy, &input)?;
    let mut random = StdRng::seed_from_u64(change::SEED);
    let mut values = Vec::new();
    let mut digests = Vec::new();
    for number in 0..changes {
        if number % 2 == 0 {
            let mut next = Policy::clone(&policy);
            let (place, rule) = change::other_rule(&next, &mut random)?;
            next.tiers[place.0].rules[place.1] = rule;
            policy = Arc::new(next);
        } else {
            let (one, labels) = change::other_labels(
                input.label_sets.len(),
                |place| &input.label_sets[place],
                &mut random,
            );
            input.label_sets[one] = labels;
        }
        let start = clock::thread()?;
        let compiled = compiler.compile(&policy, &input)?;
        let compiling = (clock::thread()? - start).as_secs_f64();
        let digest = compiled.digest();
        values.push((clock::thread()? - start).as_secs_f64());
        digests.push((compiling, digest));
    }
    let (_, last) = digests.last().context("a change")?;
    ensure!(
        compile(&policy, &input)?.digest() == *last,
        "what was compiled in steps differs from what is compiled anew"
    );
    ensure!(
        compiler.full() == 1,
        "{} changes were compiled in full",
        compiler.full() - 1
    );
    values.sort_by(f64::total_cmp);
    let mut compiling: Vec<f64> = digests.iter().map(|(compiling, _)| *compiling).collect();
    compiling.sort_by(f64::total_cmp);
    let most = values.last().context("a change")?;
    let note = format!(
        "the median of {changes} changes, at most {most:.3}; without the digest {:.3}",
        compiling[compiling.len() / 2]
    );
    Ok((values[values.len() / 2], Some(note)))
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
