//! Explores every interleaving of two hosts that start the same guest while a third one, which is
//! asked too, is down: at most one of them gets it.

use lictor_agent::custody::EPOCH_JUMP_MAX;
use lictor_agent::moves::claim::{Claim, First, Outcome};
use lictor_types::HostId;
use std::collections::{BTreeSet, HashSet, VecDeque};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Word {
    Ask,
    Held(bool),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Node {
    claim: Option<Claim>,
    began: bool,
    held: bool,
    /// What is on its way to this host.
    inbox: VecDeque<Word>,
}

/// Hosts `a` and `b`; `c` never answers.
type World = [Node; 2];

fn host(name: &str) -> HostId {
    HostId::new(name).expect("a valid name")
}

fn names() -> [HostId; 2] {
    ["a", "b"].map(host)
}

fn conclude(node: &mut Node) {
    let outcome = node.claim.as_ref().map(Claim::outcome);
    if matches!(outcome, Some(Outcome::Ours { .. })) {
        node.claim = None;
        node.held = true;
    }
}

fn deliver(world: &mut World, to: usize) {
    let names = names();
    let (own, other) = (&names[to], &names[1 - to]);
    let Some(word) = world[to].inbox.pop_front() else {
        return;
    };
    match word {
        Word::Ask => {
            let first = world[to]
                .claim
                .as_mut()
                .map(|claim| claim.asked(own, other));
            let held = world[to].held || first == Some(First::Own);
            world[1 - to].inbox.push_back(Word::Held(held));
            if first == Some(First::Other) {
                world[1 - to].inbox.push_back(Word::Ask);
            }
        }
        Word::Held(held) => {
            if let Some(claim) = &mut world[to].claim {
                claim.told(other, held, 0);
            }
            conclude(&mut world[to]);
        }
    }
}

fn next(world: &World) -> Vec<World> {
    let mut worlds = Vec::new();
    let mut step = |change: &dyn Fn(&mut World)| {
        let mut world = world.clone();
        change(&mut world);
        worlds.push(world);
    };
    for at in 0..2 {
        if !world[at].began {
            step(&|w| {
                let mut claim = Claim::new(0);
                claim.ask(BTreeSet::from([names()[1 - at].clone(), host("c")]));
                w[at].claim = Some(claim);
                w[at].began = true;
                w[1 - at].inbox.push_back(Word::Ask);
            });
        }
        if !world[at].inbox.is_empty() {
            step(&|w| deliver(w, at));
        }
        if world[at].claim.is_some() {
            step(&|w| {
                if let Some(claim) = &mut w[at].claim {
                    claim.lost(&host("c"));
                }
                conclude(&mut w[at]);
            });
        }
    }
    worlds
}

#[test]
fn of_two_hosts_that_start_a_guest_at_once_exactly_one_gets_it() {
    let begin = World::default();
    let mut seen = HashSet::from([begin.clone()]);
    let mut queue = VecDeque::from([begin]);
    while let Some(world) = queue.pop_front() {
        assert!(!(world[0].held && world[1].held), "both: {world:?}");
        let quiet = world.iter().all(|node| node.began && node.inbox.is_empty());
        let lost = |node: &Node| {
            let outcome = node.claim.as_ref().map(Claim::outcome);
            !matches!(outcome, Some(Outcome::Waiting))
        };
        if quiet && world.iter().all(lost) {
            assert!(world[0].held || world[1].held, "nobody: {world:?}");
        }
        for world in next(&world) {
            assert!(seen.len() < 100_000, "the exploration is bounded");
            if seen.insert(world.clone()) {
                queue.push_back(world);
            }
        }
    }
    assert!(seen.len() > 50, "{}", seen.len());
}

#[test]
fn a_lie_about_the_epoch_does_not_use_epochs_up_and_is_heard_only_when_asked() {
    let mut claim = Claim::new(3);
    claim.ask(BTreeSet::from([host("b")]));
    claim.told(&host("z"), true, 99);
    assert_eq!(claim.outcome(), Outcome::Waiting);
    claim.told(&host("b"), false, u64::MAX);
    let Outcome::Ours { epoch, unheard } = claim.outcome() else {
        panic!("{claim:?}");
    };
    assert_eq!(epoch, 3 + EPOCH_JUMP_MAX + 1);
    assert!(unheard.is_empty());
}
