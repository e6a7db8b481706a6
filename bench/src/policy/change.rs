//! How long all intents take after one change: a rule, a guest's labels, a guest's host.

use super::world::{self, Size};
use super::{Extent, Measured};
use crate::clock;
use anyhow::{Context, Result, ensure};
use lictor_analysis::{Prover, Verdict};
use lictor_policy::{Action, Labels, Policy, Rule};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;

/// Changes of each kind.
const CHANGES: usize = 200;
pub(super) const SEED: u64 = 5;

/// The 99th percentile over changes of all three kinds, in milliseconds.
///
/// # Errors
/// The world is not what it should be, or a change is judged otherwise than all anew.
pub fn change(extent: Extent) -> Measured {
    let (size, changes) = match extent {
        Extent::Full => (Size::TEN, CHANGES),
        Extent::Quick => (Size::SMALL, CHANGES / 10),
    };
    let (policy, estate) = (world::policy(size)?, world::estate(size));
    let mut prover = Prover::new(Arc::new(policy), Arc::new(estate), world::today()?)?;
    prover.verdicts();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut values = Vec::new();
    let mut note = Vec::new();
    for (name, change) in KINDS {
        let mut own = Vec::new();
        for _ in 0..changes {
            own.push(change(&mut prover, &mut random).context(name)?);
        }
        own.sort_by(f64::total_cmp);
        let (median, most) = (own[own.len() / 2], own[own.len() - 1]);
        let late = own[late(own.len())];
        note.push(format!(
            "{name} {median:.2}, p99 {late:.2}, at most {most:.2}"
        ));
        values.extend(own);
    }
    values.sort_by(f64::total_cmp);
    let (policy, estate) = (prover.policy().clone(), prover.estate().clone());
    let mut anew = Prover::new(Arc::new(policy), Arc::new(estate), world::today()?)?;
    let held = |prover: &mut Prover| -> Vec<bool> {
        let verdicts = prover.verdicts().into_iter();
        verdicts.map(|one| one == Verdict::Held).collect()
    };
    ensure!(
        held(&mut anew) == held(&mut prover),
        "what was found in steps differs from what is found anew"
    );
    Ok((
        values[late(values.len())],
        Some(format!("medians: {}", note.join("; "))),
    ))
}

/// The place of the 99th percentile among so many sorted values.
fn late(count: usize) -> usize {
    (count * 99).div_ceil(100).saturating_sub(1)
}

type Change = fn(&mut Prover, &mut StdRng) -> Result<f64>;

const KINDS: [(&str, Change); 3] = [("rule", rule), ("labels", labels), ("host", host)];

fn timed(prover: &mut Prover, change: impl FnOnce(&mut Prover) -> Result<()>) -> Result<f64> {
    let start = clock::thread()?;
    change(prover)?;
    prover.verdicts();
    Ok((clock::thread()? - start).as_secs_f64() * 1e3)
}

/// A rule gets the ends and the action of another rule.
pub(super) fn other_rule(policy: &Policy, random: &mut StdRng) -> Result<((usize, usize), Rule)> {
    let tiers = &policy.tiers;
    let full = tiers.iter().position(|tier| tier.rules.len() > 100);
    let tier = match random.gen_bool(0.1) {
        true => tiers.iter().position(|tier| tier.name == "guard"),
        false => full,
    };
    let tier = tier.context("a tier with rules")?;
    let rules = &tiers[tier].rules;
    let (one, other) = (
        random.gen_range(0..rules.len()),
        random.gen_range(0..rules.len()),
    );
    let mut rule = rules[one].clone();
    rule.to = rules[other].to.clone();
    rule.service = rules[other].service.clone();
    if rule.action == Action::Deny {
        rule.action = Action::Reject;
    }
    Ok(((tier, one), rule))
}

/// A guest gets a label of another one.
pub(super) fn other_labels<'a>(
    count: usize,
    labels: impl Fn(usize) -> &'a Labels,
    random: &mut StdRng,
) -> (usize, Labels) {
    let (one, other) = (random.gen_range(0..count), random.gen_range(0..count));
    let mut own = labels(one).clone();
    let name = ["app", "tier", "zone"][random.gen_range(0..3)];
    own.insert(name.into(), labels(other)[name].clone());
    (one, own)
}

fn rule(prover: &mut Prover, random: &mut StdRng) -> Result<f64> {
    let (place, rule) = other_rule(prover.policy(), random)?;
    timed(prover, |prover| Ok(prover.set_rule(place, rule)?))
}

fn labels(prover: &mut Prover, random: &mut StdRng) -> Result<f64> {
    let guests = &prover.estate().guests;
    let (one, labels) = other_labels(guests.len(), |place| &guests[place].labels, random);
    timed(prover, |prover| Ok(prover.relabel(one, labels)?))
}

fn host(prover: &mut Prover, random: &mut StdRng) -> Result<f64> {
    let guest = random.gen_range(0..prover.estate().guests.len());
    let host = random.gen_range(0..prover.estate().hosts.len());
    timed(prover, |prover| Ok(prover.move_guest(guest, host)?))
}
