//! Every counterexample replays: hop by hop the reference evaluator says what is shown, under the
//! placement that is shown, and without the rules that are named the intent holds.

mod common;

use common::{PORTS, Random, World, estate, parsed, policy_text, today};
use lictor_analysis::{Counterexample, Finding, Hop, Likelihood, Outcome, Placed, Prover, Remedy};
use lictor_policy::evaluate::{Question, Ruling, evaluate};
use lictor_policy::{Claim, End, Intent, Policy};
use lictor_types::{Protocol, Verdict};
use std::sync::Arc;

const POLICIES: u64 = 400;

/// What was seen, to prove that the test tests.
#[derive(Debug, Default)]
struct Seen {
    hops: u64,
    longest: usize,
    cuts: u64,
    moved: u64,
    possible: u64,
    denied: u64,
}

fn end(world: &World<'_>, name: &str) -> End {
    let known = world.actors.iter().find(|actor| actor.name == name);
    known.map_or_else(
        || End::Address(name.parse().expect("a guest's name or an address")),
        |actor| actor.end.clone(),
    )
}

/// Whether a host that enforces nothing decides at an end instead of the rules.
fn unprotected(world: &World<'_>, name: &str, placement: &[Placed]) -> Option<bool> {
    let actor = world.actors.iter().find(|actor| actor.name == name)?;
    let placed = placement.iter().find(|one| one.guest == name);
    let hosts = &world.estate.hosts;
    let host = match placed {
        Some(placed) => hosts.iter().position(|host| host.name == placed.host),
        None => actor.host,
    };
    let weak = host.is_some_and(|host| !hosts[host].controls.iter().any(|one| one == "firewall"));
    weak.then_some(actor.open)
}

/// Replays a hop; returns whether both ends let it pass.
fn replay(world: &World<'_>, hop: &Hop, placement: &[Placed], context: &str) -> bool {
    let question = Question {
        source: end(world, &hop.from.name),
        destination: end(world, &hop.to.name),
        protocol: hop.packet.protocol,
        port: hop.packet.port,
        date: today(),
    };
    let answer = evaluate(world.policy, &question);
    let check = |name: &str, ruling: Option<Ruling>, said: &lictor_analysis::SaidHow| {
        let expected = match (ruling, unprotected(world, name, placement)) {
            // What passes no guest is never allowed.
            (None, _) => answer.egress.is_some() || answer.ingress.is_some(),
            (Some(_), Some(open)) => open,
            (Some(ruling), None) => {
                let id = said
                    .rule
                    .as_ref()
                    .map(|rule| lictor_policy::Rule::id_of(&rule.name));
                assert_eq!(id, ruling.rule, "{context}\n{hop:#?}\n{answer:#?}");
                ruling.verdict == Verdict::Allow
            }
        };
        assert_eq!(said.allows, expected, "{context}\n{hop:#?}\n{answer:#?}");
        expected
    };
    let egress = check(&hop.from.name, answer.egress, &hop.egress);
    let ingress = check(&hop.to.name, answer.ingress, &hop.ingress);
    egress && ingress
}

fn without(policy: &Policy, rules: &[lictor_analysis::RuleName]) -> Policy {
    let mut policy = policy.clone();
    for tier in &mut policy.tiers {
        tier.rules
            .retain(|rule| rules.iter().all(|one| one.name != rule.name));
    }
    policy
}

fn check(world: &World<'_>, (intent, finding): (&Intent, &Finding), seen: &mut Seen) {
    let Outcome::Failed {
        counterexample,
        remedy,
    } = &finding.outcome
    else {
        return;
    };
    let context = format!("{intent}\n{finding:#?}");
    match &**counterexample {
        Counterexample::Path {
            hops,
            likelihood,
            placement,
            ..
        } => {
            seen.longest = seen.longest.max(hops.len());
            seen.moved += placement.iter().filter(|one| one.moved).count() as u64;
            seen.possible += u64::from(*likelihood == Likelihood::Possible);
            for (at, hop) in hops.iter().enumerate() {
                seen.hops += 1;
                assert!(at == 0 || hops[at - 1].to == hop.from, "{context}");
                assert!(replay(world, hop, placement, &context), "{context}");
            }
            if let Claim::NeverPath {
                hops: Some(most), ..
            } = &intent.claim
            {
                assert!(hops.len() <= *most as usize, "{context}");
            }
        }
        Counterexample::Denied { hop, placement, .. } => {
            seen.denied += 1;
            assert!(!replay(world, hop, placement, &context), "{context}");
            return;
        }
        Counterexample::Lacks { .. }
        | Counterexample::Nowhere { .. }
        | Counterexample::Together { .. } => return,
    }
    if let Remedy::Rules { rules } = remedy {
        assert!(!rules.is_empty(), "{context}");
        seen.cuts += 1;
        let rest = Arc::new(without(world.policy, rules));
        let estate = Arc::new(world.estate.clone());
        let place = rest.intents.iter().position(|one| one.name == intent.name);
        let mut prover = Prover::new(rest, estate, today()).expect("small");
        let found = prover.finding(place.expect("the same intents"));
        assert!(
            matches!(found.outcome, Outcome::Held { .. }),
            "{context}\n{found:#?}"
        );
    }
}

#[test]
fn every_counterexample_replays_and_every_remedy_helps() {
    let mut seen = Seen::default();
    for seed in 0..POLICIES {
        let mut random = Random(seed + 5_000_000);
        let text = policy_text(&mut random);
        let estate = Arc::new(estate(&mut random));
        let policy = Arc::new(parsed(&text, &text));
        let world = World::of(&policy, &estate);
        let mut prover = Prover::new(policy.clone(), estate.clone(), today()).expect("small");
        let findings = prover.findings();
        for one in policy.intents.iter().zip(&findings) {
            check(&world, one, &mut seen);
        }
    }
    assert!(
        seen.hops > 100 && seen.longest > 1 && seen.cuts > 50,
        "{seen:?}"
    );
    assert!(seen.moved > 5 && seen.denied > 20, "{seen:?}");
    assert!(PORTS.contains(&(Protocol::Tcp, 22)));
}
