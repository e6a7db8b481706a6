//! The loaded kernel programs against the model: random policies, random sequences of packets and
//! circumstances; after each packet the same verdict, reason and rule, and between them the same
//! events, sessions and counters.
//!
//! `LICTOR_SEED` begins at another case, `LICTOR_FULL=1` runs ten times as many packets.
//! `LICTOR_FUZZ_SECONDS` goes on for a time instead of a number of packets, and writes a difference
//! to the file that `LICTOR_FUZZ_FILE` names, if it is set: `cargo xtask fuzz` sets them.

#[path = "../common/mod.rs"]
mod common;
mod dhcp;
mod flow;
mod generate;
mod headers;
mod hunt;
mod pieces;
mod reports;
mod rig;
mod world;

use common::privileged;
use generate::case;
use hunt::{Until, hunt};
use lictor_datapath::Datapath;
use lictor_types::{Reason, RuleId};
use rig::{Rig, all_states, shrink};
use std::time::{Duration, Instant};

const SEED_DEFAULT: u64 = 20_260_101;
const PACKETS: usize = 1_000_000;
const PACKETS_FULL: usize = 10_000_000;
/// Where the kernel has no tcx. Such a one is tried in a guest without hardware virtualization.
const PACKETS_FEW: usize = 10_000;
/// What no event tells of: packets of what was allowed before, and of a vnic that is closed.
const SILENT: [Reason; 9] = [
    Reason::Session,
    Reason::Neighbour,
    Reason::Announcement,
    Reason::Related,
    Reason::Answer,
    Reason::FragmentFollows,
    Reason::Hold,
    Reason::HandedOver,
    Reason::Cut,
];
/// Of the case with a planted difference.
const STEPS_PLANTED: usize = 1_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text}; expected a number")),
    )
}

fn seed() -> u64 {
    number("LICTOR_SEED").unwrap_or(SEED_DEFAULT)
}

fn until() -> Until {
    let tcx = Datapath::check_kernel().expect("a kernel that will do").tcx;
    match (number("LICTOR_FUZZ_SECONDS"), tcx) {
        (Some(seconds), _) => Until::Moment(Instant::now() + Duration::from_secs(seconds)),
        (None, true) if number("LICTOR_FULL") == Some(1) => Until::Packets(PACKETS_FULL),
        (None, true) => Until::Packets(PACKETS),
        (None, false) => Until::Packets(PACKETS_FEW),
    }
}

#[test]
fn kernel_and_model_give_the_same_verdict_reason_rule_events_sessions_and_counters() {
    if !privileged() {
        return;
    }
    let (first, until) = (seed(), until());
    let found = hunt(first, until);
    if let Some(text) = found.difference {
        if let Some(file) = std::env::var_os("LICTOR_FUZZ_FILE") {
            std::fs::write(file, &text).expect("the file can be written");
        }
        panic!("{text}");
    }
    eprintln!("seeds {first} to {}: {:?}", found.next - 1, found.reached);
    if matches!(until, Until::Moment(_)) {
        return;
    }
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !found.reached.reasons.contains_key(reason))
        .collect();
    assert!(missing.is_empty(), "no packet reached {missing:?}");
    assert_eq!(found.reached.states, all_states(), "session states reached");
    let silent: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !found.reached.events.contains_key(reason))
        .copied()
        .collect();
    assert_eq!(silent, SILENT, "reasons without an event");
}

#[test]
fn a_planted_difference_is_found_and_shrunk_to_one_packet() {
    if !privileged() {
        return;
    }
    let (seed, mut rig) = (seed(), Rig::new());
    let mut case = case(seed, STEPS_PLANTED);
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
