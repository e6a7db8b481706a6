//! How long it takes to say what two versions of a large policy let pass differently.

use super::{Extent, Measured, lint, world};
use anyhow::{Result, ensure};
use lictor_analysis::{Diff, Effect, diff};
use lictor_policy::{Action, Policy};
use std::time::Instant;

const ROUNDS: usize = 3;
/// One rule in so many does the opposite in the newer version, another one is gone, and a third one
/// stands where its neighbour stood.
const CHANGED: usize = 100;
/// Wildcards at an end, as in the access lists of [`lint`].
const WILDCARDS: f64 = 0.02;

/// Two versions of imported rules.
///
/// # Errors
/// The rules are not what they should be, or something is undecided.
pub fn measure(extent: Extent) -> Measured {
    let count = match extent {
        Extent::Full => 5_000,
        Extent::Quick => 500,
    };
    let (old, new) = versions(count)?;
    let date = world::today()?;
    let mut least = f64::MAX;
    let mut found = Diff::default();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        found = diff(&old, &new, date)?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    let undecided = found.undecided.len();
    ensure!(undecided == 0, "{undecided} rules are undecided");
    let changes = |effect| {
        found
            .changes
            .iter()
            .filter(|one| one.effect == effect)
            .count()
    };
    let note = format!(
        "{} and {} rules, {} changed, {} gone, {} openings and {} closings, each with a packet",
        old.rules().count(),
        new.rules().count(),
        found.rules_changed.len(),
        found.rules_removed.len(),
        changes(Effect::Opens),
        changes(Effect::Closes)
    );
    Ok((least, Some(note)))
}

/// One end of each rule is a guest, or no policy would decide about it.
fn versions(count: usize) -> Result<(Policy, Policy)> {
    let old = lint::policy_of(lint::Ends::Guests, count, WILDCARDS)?;
    let mut new = old.clone();
    for tier in &mut new.tiers {
        for (place, rule) in tier.rules.iter_mut().enumerate() {
            if place % CHANGED == 7 {
                rule.action = match rule.action {
                    Action::Allow => Action::Deny,
                    _ => Action::Allow,
                };
            }
        }
        for place in (0..tier.rules.len().saturating_sub(1)).filter(|place| place % CHANGED == 31) {
            tier.rules.swap(place, place + 1);
        }
        let mut place = 0;
        tier.rules.retain(|_| {
            place += 1;
            place % CHANGED != 57
        });
    }
    Ok((old, new))
}
