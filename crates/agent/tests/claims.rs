//! Explores every interleaving of two hosts that start the same guest while a third one, which is
//! asked too, is down: at most one of them gets it.

use lictor_agent::custody::EPOCH_JUMP_MAX;
use lictor_agent::moves::claim::{Claim, Doubt, First, Outcome, doubted};
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
    /// Who may have it, too.
    doubts: BTreeSet<HostId>,
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
    if let Some(Outcome::Ours { unheard, .. }) = node.claim.as_ref().map(Claim::outcome) {
        node.claim = None;
        node.held = true;
        node.doubts = unheard;
    }
}

/// A claim begins, or asks anew.
fn ask(world: &mut World, at: usize) {
    let other = names()[1 - at].clone();
    let node = &mut world[at];
    let claim = node.claim.get_or_insert_with(|| Claim::new(0));
    claim.ask(BTreeSet::from([other, host("c")]));
    world[1 - at].inbox.push_back(Word::Ask);
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
            if doubted(&mut world[to].doubts, other, held) == Doubt::Lost {
                world[to].held = false;
                world[to].doubts.clear();
                ask(world, to);
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
                ask(w, at);
                w[at].began = true;
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

fn holder(held: bool, doubts: &[&str]) -> Node {
    Node {
        held,
        began: true,
        doubts: doubts.iter().copied().map(host).collect(),
        ..Node::default()
    }
}

/// Whoever holds with doubts asks again each second, and so does whoever waits for another host.
fn a_second_later(world: &mut World) {
    for at in 0..2 {
        let claims = matches!(
            world[at].claim.as_ref().map(Claim::outcome),
            Some(Outcome::HeldBy(_))
        );
        if claims {
            ask(world, at);
        } else if world[at].held && world[at].doubts.contains(&names()[1 - at]) {
            world[1 - at].inbox.push_back(Word::Ask);
        }
        if let Some(claim) = &mut world[at].claim {
            claim.lost(&host("c"));
        }
        conclude(&mut world[at]);
    }
}

/// Two hosts that had each other's word for nothing hear each other again, in any order of words.
/// Gives which of them has the guest in the end.
fn converges(begin: World) -> BTreeSet<usize> {
    let mut ends = BTreeSet::new();
    for order in 0_u32..1 << 12 {
        let mut world = begin.clone();
        for step in 0..12 {
            if step % 4 == 0 {
                a_second_later(&mut world);
            }
            deliver(&mut world, (order >> step & 1) as usize);
        }
        for _ in 0..6 {
            for _ in 0..100 {
                let Some(at) = (0..2).find(|at| !world[*at].inbox.is_empty()) else {
                    break;
                };
                deliver(&mut world, at);
            }
            assert!(world.iter().all(|node| node.inbox.is_empty()), "{world:?}");
            a_second_later(&mut world);
        }
        let holders: Vec<usize> = (0..2).filter(|at| world[*at].held).collect();
        assert_eq!(holders.len(), 1, "order {order:b}: {world:?}");
        ends.extend(holders);
    }
    ends
}

#[test]
fn two_hosts_that_took_a_guest_apart_from_each_other_converge_when_they_meet() {
    let both = [holder(true, &["b"]), holder(true, &["a"])];
    converges(both);
    // Who had it before keeps it, whatever its name.
    let first = [holder(true, &[]), holder(true, &["a"])];
    assert_eq!(converges(first), BTreeSet::from([0]));
    let second = [holder(true, &["b"]), holder(true, &[])];
    assert_eq!(converges(second), BTreeSet::from([1]));
}

#[test]
fn a_guest_that_is_taken_in_doubt_is_not_lost_to_a_host_that_only_wants_it() {
    let mut world = [Node::default(), holder(true, &["a"])];
    world[0].began = true;
    ask(&mut world, 0);
    deliver(&mut world, 1);
    deliver(&mut world, 0);
    let held_by = world[0].claim.as_ref().map(Claim::outcome);
    assert_eq!(held_by, Some(Outcome::Waiting), "c has not answered");
    for _ in 0..6 {
        a_second_later(&mut world);
        while let Some(at) = (0..2).find(|at| !world[*at].inbox.is_empty()) {
            deliver(&mut world, at);
        }
    }
    assert!(world[1].held && !world[0].held, "b keeps it: {world:?}");
}
