//! The loaded kernel programs against the model: random policies, random sequences of packets and
//! circumstances; after each packet the same verdict, reason and rule, and between them the same
//! sessions and counters.
//!
//! `LICTOR_SEED` begins at another case, `LICTOR_FULL=1` runs a million packets.

#[path = "../common/mod.rs"]
mod common;
mod dhcp;
mod flow;
mod generate;
mod headers;
mod pieces;
mod rig;
mod world;

use common::privileged;
use generate::{Case, case, case_without_release};
use lictor_datapath::Datapath;
use lictor_types::{Reason, RuleId};
use rig::{Difference, Rig, all_states, shrink};

const SEED_DEFAULT: u64 = 20_260_101;
const PACKETS_USUAL: usize = 60_000;
/// Where the kernel has no tcx. Such a one is tried in a guest without hardware virtualization.
const PACKETS_FEW: usize = 10_000;
const PACKETS_FULL: usize = 1_000_000;
/// A load takes as long as thousands of packets.
const STEPS_PER_CASE: usize = 1_000;

fn packets() -> usize {
    let full = std::env::var_os("LICTOR_FULL").is_some_and(|value| value == "1");
    let tcx = Datapath::check_kernel().expect("a kernel that will do").tcx;
    match (full, tcx) {
        (true, _) => PACKETS_FULL,
        (false, true) => PACKETS_USUAL,
        (false, false) => PACKETS_FEW,
    }
}

fn seed() -> u64 {
    match std::env::var("LICTOR_SEED") {
        Ok(text) => text.parse().expect("LICTOR_SEED is a number"),
        Err(_) => SEED_DEFAULT,
    }
}

/// The tables stay out of it: the seed gives them.
fn tell(rig: &mut Rig, seed: u64, case: &Case, found: Difference) -> String {
    let (least, difference) = shrink(rig, case, found);
    let steps: Vec<_> = least.steps.iter().map(|step| format!("{step:?}")).collect();
    format!(
        "kernel and model differ; run again with LICTOR_SEED={seed}\n{}\n{}",
        steps.join("\n"),
        difference.text
    )
}

#[test]
fn kernel_and_model_give_the_same_verdict_reason_rule_sessions_and_counters() {
    if !privileged() {
        return;
    }
    let (packets, first, mut rig) = (packets(), seed(), Rig::new());
    let unloaded = case_without_release(first, STEPS_PER_CASE);
    if let Some(found) = rig.run(&unloaded) {
        panic!(
            "before any release: {}",
            tell(&mut rig, first, &unloaded, found)
        );
    }
    let mut seed = first;
    while rig.reached.packets < packets {
        let case = case(seed, STEPS_PER_CASE);
        if let Some(found) = rig.run(&case) {
            panic!("{}", tell(&mut rig, seed, &case, found));
        }
        seed += 1;
    }
    eprintln!("seeds {first} to {}: {:?}", seed - 1, rig.reached);
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !rig.reached.reasons.contains_key(reason))
        .collect();
    assert!(missing.is_empty(), "no packet reached {missing:?}");
    assert_eq!(rig.reached.states, all_states(), "session states reached");
}

#[test]
fn a_planted_difference_is_found_and_shrunk_to_one_packet() {
    if !privileged() {
        return;
    }
    let (seed, mut rig) = (seed(), Rig::new());
    let mut case = case(seed, STEPS_PER_CASE);
    for tables in &mut case.model_tables {
        for decision in &mut tables.decisions {
            decision.rule = RuleId(decision.rule.0 + 1_000);
        }
    }
    let found = rig.run(&case).expect("another rule is a difference");
    let (least, difference) = shrink(&mut rig, &case, found);
    assert_eq!(
        least.steps.len(),
        1,
        "{:?}: {}",
        least.steps,
        difference.text
    );
}
