//! What the prover says of an intent is what plain loops over the reference evaluator say, for
//! every placement of a small estate. `LICTOR_POLICIES` is the number of policies, `LICTOR_SEED`
//! the first of them.

mod common;

use common::{Random, World, estate, parsed, policy_text, seeds, today};
use lictor_analysis::{Prover, Verdict};
use lictor_policy::{
    Claim, ControlName, Hour, Intent, Interpretation, Moment, Policy, Rule, Service, TierKind,
};
use std::collections::BTreeSet;
use std::sync::Arc;

const POLICIES: u64 = 400;

/// Whether an intent holds, by enumeration.
fn holds(world: &World<'_>, intent: &Intent) -> bool {
    let any = intent.any_host || intent.failures > 0;
    let placements = || world.placements(any);
    match &intent.claim {
        Claim::NeverPath { .. } => !placements().iter().any(|one| chain(world, intent, one)),
        Claim::AlwaysPath { from, to, service } => placements().iter().all(|placement| {
            let (from, to) = (world.matching(from), world.matching(to));
            let mut pairs = from
                .iter()
                .flat_map(|from| to.iter().map(move |to| (*from, *to)));
            pairs.all(|(from, to)| {
                let mut ports = World::ports(service).into_iter();
                from == to || ports.all(|port| world.passes(placement, (from, to), port))
            })
        }),
        Claim::Only { from, to, service } => !placements().iter().any(|placement| {
            let known = world.matching(from);
            let forges = !world.estate.fabric_trusted
                && known.iter().any(|one| !world.is_guest(*one))
                && (0..world.actors.len()).any(|one| !world.is_guest(one) && !known.contains(&one));
            let ports = World::ports(service);
            let reaches = |from: usize, to: usize| {
                ports
                    .iter()
                    .any(|port| world.passes(placement, (from, to), *port))
            };
            world.matching(to).into_iter().any(|to| {
                (0..world.actors.len()).any(|from| {
                    let counts = !known.contains(&from) || forges && !world.is_guest(from);
                    counts && reaches(from, to)
                })
            })
        }),
        Claim::Controls { guests, controls } => world.matching(guests).into_iter().all(|guest| {
            let places = match world.actors[guest].host {
                None => world.places(guest, true),
                Some(_) => world.places(guest, any),
            };
            !world.is_guest(guest)
                || places.into_iter().all(|host| {
                    host.is_some_and(|host| {
                        let has = &world.estate.hosts[host].controls;
                        let mut needed = controls.iter().map(ControlName::as_str);
                        needed.all(|one| has.iter().any(|known| known == one))
                    })
                })
        }),
        Claim::Apart {
            one,
            other,
            interpretation,
        } => apart(world, intent, (one, other, *interpretation)),
    }
}

fn apart(
    world: &World<'_>,
    intent: &Intent,
    (one, other, interpretation): (
        &lictor_policy::Selector,
        &lictor_policy::Selector,
        Interpretation,
    ),
) -> bool {
    let any = intent.any_host || intent.failures > 0;
    let (ones, others) = (world.matching(one), world.matching(other));
    let function = |actor: usize| match &world.actors[actor].end {
        lictor_policy::End::Guest(labels) => labels.get("fn").cloned(),
        lictor_policy::End::Address(_) => None,
    };
    let clash = |a: usize, b: usize| match interpretation {
        Interpretation::Hypervisor => false,
        Interpretation::ZoneBased => ones.contains(&a) && others.contains(&b),
        Interpretation::Strict => {
            let kinds = ones.contains(&a) && (others.contains(&b) || ones.contains(&b));
            kinds && function(a) != function(b)
        }
    };
    // A guest of which nobody knows where it is may be anywhere.
    let places = |actor: usize| match world.actors[actor].host {
        None => world.places(actor, true),
        Some(_) => world.places(actor, any),
    };
    let guests: Vec<usize> = (0..world.actors.len())
        .filter(|actor| world.is_guest(*actor))
        .collect();
    let mut pairs = guests
        .iter()
        .flat_map(|a| guests.iter().map(move |b| (*a, *b)));
    !pairs.any(|(a, b)| {
        let hosts: Vec<usize> = places(a).into_iter().flatten().collect();
        let meet = places(b).into_iter().flatten().any(|host| {
            let moved = [a, b]
                .into_iter()
                .filter_map(|actor| world.actors[actor].host);
            let left: BTreeSet<usize> = moved.filter(|from| *from != host).collect();
            let enough = intent.any_host || left.len() <= intent.failures as usize;
            hosts.contains(&host) && enough
        });
        a != b && meet && clash(a, b)
    })
}

/// Whether a chain that counts leads from one to another end, under one placement.
fn chain(world: &World<'_>, intent: &Intent, placement: &[Option<usize>]) -> bool {
    let Claim::NeverPath {
        from,
        to,
        service,
        hops,
        except,
    } = &intent.claim
    else {
        return false;
    };
    let mut sources = world.matching(from);
    if !world.estate.fabric_trusted && sources.iter().any(|one| !world.is_guest(*one)) {
        sources.extend((0..world.actors.len()).filter(|one| !world.is_guest(*one)));
    }
    let targets = world.matching(to);
    let service = service.clone().unwrap_or_else(Service::any);
    let ports = World::ports(&service);
    let counts = |to: usize, via: bool, port: usize| {
        let mut tolerated = except.iter().filter(|one| {
            one.via == via
                && one.ends.matches(&world.actors[to].end, &world.policy.sets)
                && one
                    .service
                    .as_ref()
                    .is_none_or(|service| World::ports(service).contains(&port))
        });
        tolerated.next().is_none()
    };
    let step = |from: usize, to: usize, via: bool| {
        ports
            .iter()
            .any(|port| counts(to, via, *port) && world.passes(placement, (from, to), *port))
    };
    let hops = hops.map_or(usize::MAX, |hops| hops as usize);
    sources.iter().any(|source| {
        let mut reached: BTreeSet<usize> = BTreeSet::from([*source]);
        for _ in 0..hops.min(world.actors.len() + 1) {
            let end = |from: &usize| {
                targets
                    .iter()
                    .any(|to| to != source && step(*from, *to, false))
            };
            if reached.iter().any(end) {
                return true;
            }
            let next = (0..world.actors.len())
                .filter(|to| reached.iter().any(|from| step(*from, *to, true)));
            let next: Vec<usize> = next.collect();
            reached.extend(next);
        }
        false
    })
}

/// Lets rules that only allow do so at some hours, at random.
fn at_noon(policy: &mut Policy, random: &mut Random) {
    let noon = "mon-fri 11-14".parse().expect("a window");
    let tiers = policy.tiers.iter_mut();
    let rules = tiers
        .filter(|tier| tier.kind == TierKind::AllowOnly)
        .flat_map(|tier| &mut tier.rules);
    for rule in rules.filter(|_| random.below(2) == 0) {
        rule.during = Some(noon);
    }
}

/// A policy as it is at an hour.
fn at_hour(policy: &Policy, hour: u8) -> Policy {
    let moment = Moment {
        date: today(),
        hour: Hour::At(hour),
    };
    let mut policy = policy.clone();
    for tier in &mut policy.tiers {
        let open = |rule: &Rule| rule.during.is_none_or(|window| window.is_open(moment));
        tier.rules.retain(open);
    }
    policy
}

#[test]
fn what_must_always_be_is_at_every_hour_and_what_must_never_be_at_none() {
    let mut differ = 0;
    for seed in 0..POLICIES {
        let mut random = Random(seed + 40_000);
        let text = policy_text(&mut random);
        let estate = Arc::new(estate(&mut random));
        let mut policy = parsed(&text, &text);
        at_noon(&mut policy, &mut random);
        let hours = [0, 12].map(|hour| at_hour(&policy, hour));
        let worlds = [0, 1].map(|place| World::of(&hours[place], &estate));
        let policy = Arc::new(policy);
        let mut prover = Prover::new(policy.clone(), estate.clone(), today()).expect("small");
        let verdicts = prover.verdicts();
        for (intent, verdict) in policy.intents.iter().zip(verdicts) {
            let each = [0, 1].map(|place| holds(&worlds[place], intent));
            let (found, expected) = (verdict == Verdict::Held, each == [true; 2]);
            differ += usize::from(each[0] != each[1]);
            assert_eq!(found, expected, "seed {seed}\n{text}\n{intent}\n{each:?}");
        }
        let document = prover.certify().expect("small");
        let document = serde_json::to_vec(&document).expect("plain");
        let checked = lictor_checker::check(&document);
        assert!(checked.is_ok(), "seed {seed}\n{text}\n{checked:?}");
    }
    assert!(differ > 20, "{differ} intents hold at some hours only");
}

fn check(seed: u64, counts: &mut [u64; 2]) {
    let mut random = Random(seed);
    let text = policy_text(&mut random);
    let estate = Arc::new(estate(&mut random));
    let policy = Arc::new(parsed(&text, &format!("seed {seed}\n{text}")));
    let mut prover = Prover::new(policy.clone(), estate.clone(), today()).expect("small");
    let verdicts = prover.verdicts();
    let world = World::of(&policy, &estate);
    for (intent, verdict) in policy.intents.iter().zip(verdicts) {
        let expected = holds(&world, intent);
        let found = verdict == Verdict::Held;
        counts[usize::from(expected)] += 1;
        assert_eq!(
            found, expected,
            "seed {seed}\n{text}\n{estate:#?}\n{intent}\n{verdict:?}"
        );
    }
}

#[test]
fn prover_and_reference_agree_on_every_intent_over_every_placement() {
    let mut counts = [0; 2];
    for seed in seeds(POLICIES) {
        check(seed, &mut counts);
    }
    let [failed, held] = counts;
    assert!(failed > 100 && held > 100, "{failed} failed, {held} held");
}
