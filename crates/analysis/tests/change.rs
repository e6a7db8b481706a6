//! After a change of one rule, of one guest's labels or of its host, every intent is judged as if
//! everything had been read anew, and what is forbidden is shown on as short a chain.
//! `LICTOR_POLICIES` is the number of policies, `LICTOR_SEED` the first of them.

mod common;

use common::{Random, estate, parsed, policy_text, seeds, today};
use lictor_analysis::{Breach, Prover, Verdict};
use lictor_policy::{Estate, Policy};
use std::sync::Arc;

const POLICIES: u64 = 500;
const CHANGES: usize = 12;

fn change(
    random: &mut Random,
    (policy, estate): (&mut Policy, &mut Estate),
    (other, prover): (&Policy, &mut Prover),
) {
    let result = match random.below(4) {
        0 | 1 => {
            // A rule of another policy of the same kind, in the place of one that is there.
            let tiers: Vec<usize> = (0..policy.tiers.len())
                .filter(|tier| !policy.tiers[*tier].rules.is_empty())
                .collect();
            let Some(tier) = tiers.get(random.below(tiers.len().max(1) as u64) as usize) else {
                return;
            };
            let kind = policy.tiers[*tier].kind;
            let rules = other.tiers.iter().filter(|tier| tier.kind == kind);
            let rules: Vec<_> = rules.flat_map(|tier| &tier.rules).collect();
            let Some(rule) = rules.get(random.below(rules.len().max(1) as u64) as usize) else {
                return;
            };
            let index = random.below(policy.tiers[*tier].rules.len() as u64) as usize;
            policy.tiers[*tier].rules[index] = (*rule).clone();
            prover.set_rule((*tier, index), (*rule).clone())
        }
        2 if !estate.hosts.is_empty() => {
            let guest = random.below(estate.guests.len() as u64) as usize;
            let host = random.below(estate.hosts.len() as u64) as usize;
            estate.guests[guest].host = Some(estate.hosts[host].name.clone());
            prover.move_guest(guest, host)
        }
        _ => {
            let guest = random.below(estate.guests.len() as u64) as usize;
            let mut labels = estate.guests[guest].labels.clone();
            let (name, values) = [
                ("zone", ["cde", "corp", "dmz", "moon", ""].as_slice()),
                ("tier", ["web", "db", ""].as_slice()),
            ][random.below(2) as usize];
            match random.pick(values) {
                "" => labels.remove(name),
                value => labels.insert(name.into(), value.into()),
            };
            estate.guests[guest].labels = labels.clone();
            prover.relabel(guest, labels)
        }
    };
    result.expect("the places are there");
}

/// What becomes of an intent, as far as it is the same whoever looks for it: sessions of a chain.
fn outcome(verdict: &Verdict) -> (bool, usize) {
    match verdict {
        Verdict::Held => (true, 0),
        Verdict::Failed(Breach::Chain(chain)) => (false, chain.nodes.len()),
        Verdict::Failed(_) => (false, 0),
    }
}

/// The lines in which two things differ, and what there is now.
fn changed(before: &impl std::fmt::Debug, now: &impl std::fmt::Debug) -> String {
    let (before, now) = (format!("{before:#?}"), format!("{now:#?}"));
    let lines = before.lines().zip(now.lines());
    let lines = lines.filter(|(before, now)| before != now);
    let lines: Vec<_> = lines
        .map(|(one, two)| format!("{one} is now {two}"))
        .collect();
    format!("{}\n{now}", lines.join("\n"))
}

#[test]
fn a_change_is_judged_as_if_all_were_read_anew() {
    for seed in seeds(POLICIES) {
        let mut random = Random(seed);
        let text = policy_text(&mut random);
        let mut estate = estate(&mut random);
        let mut policy = parsed(&text, &text);
        let other = policy_text(&mut random);
        let other = parsed(&other, &other);
        let read = |policy: &Policy, estate: &Estate| {
            Prover::new(Arc::new(policy.clone()), Arc::new(estate.clone()), today()).expect("small")
        };
        let mut prover = read(&policy, &estate);
        prover.verdicts();
        for step in 0..CHANGES {
            let before = (policy.clone(), estate.clone());
            let facts = (&mut policy, &mut estate);
            change(&mut random, facts, (&other, &mut prover));
            let outcomes = |prover: &mut Prover| -> Vec<_> {
                let verdicts = prover.verdicts();
                verdicts.iter().map(outcome).collect()
            };
            let (found, expected) = (outcomes(&mut prover), outcomes(&mut read(&policy, &estate)));
            assert_eq!(
                found,
                expected,
                "seed {seed} step {step}\n{}\n{}",
                changed(&before.0, &policy),
                changed(&before.1, &estate)
            );
        }
    }
}
