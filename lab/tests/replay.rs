//! What the analyses say, asked of the kernel: every hop of every counterexample of random policies
//! goes through the loaded programs (`BPF_PROG_TEST_RUN`), and both explanations agree.

#[path = "../../crates/analysis/tests/common/mod.rs"]
mod common;
mod kernel;

use common::{Random, World, estate, parsed, policy_text, today};
use kernel::{Kernel, address};
use lictor_analysis::{Counterexample, EndSays, Hop, Outcome, Prover, SaidHow, Words, explain};
use lictor_lab::privileged;
use lictor_policy::evaluate::Question;
use lictor_policy::{CompileInput, End, Estate, Labels, Policy, compile};
use lictor_types::{Direction, Probe, Protocol, RuleId, Verdict};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Guests and devices of the largest random estate.
const ENDS_MAX: u8 = 7;
const POLICIES: u64 = 20;
/// Fewer would mean that the policies fail no intents, or that nothing of it is replayed.
const REPLAYED_MIN: usize = 8;
/// Policies of which some packets are explained, and how many of each: every question loads the
/// program once more.
const EXPLAINED: u64 = 5;
const PACKETS: usize = 6;

/// A random policy over a random estate of which every end has a vnic.
struct Case {
    text: String,
    policy: Policy,
    estate: Estate,
    ends: Vec<(String, Labels)>,
}

impl Case {
    fn of(seed: u64) -> Self {
        let mut random = Random(seed);
        // Beside random intents two that seldom hold both.
        let text = policy_text(&mut random)
            + "assert live : always path from guests to guests service tcp/22\n\
               assert apart : never path from any to guests service tcp/20-80\n";
        let mut estate = estate(&mut random);
        for (number, guest) in (1..).zip(&mut estate.guests) {
            guest.addresses = vec![address(number, true)];
        }
        // Where a host has no firewall, no program is asked.
        for host in &mut estate.hosts {
            host.controls = vec!["firewall".into()];
        }
        let policy = parsed(&text, &format!("seed {seed}"));
        let guests = estate.guests.iter();
        let guests = guests.map(|guest| (guest.name.clone(), guest.labels.clone()));
        let hosts = estate.hosts.iter().filter(|host| host.bound);
        let hosts = hosts.map(|host| (host.name.clone(), host.device_labels()));
        Self {
            ends: guests.chain(hosts).collect(),
            text,
            policy,
            estate,
        }
    }

    fn loaded(&self, kernel: &mut Kernel) {
        let label_sets = self.ends.iter().map(|(_, labels)| labels.clone()).collect();
        let date = today();
        let input = CompileInput { label_sets, date };
        let compiled = compile(&self.policy, &input).expect("it compiles");
        kernel.load(&compiled, (&self.ends, date));
    }

    fn number(&self, name: &str) -> Option<u8> {
        let place = self.ends.iter().position(|(known, _)| known == name)?;
        u8::try_from(place + 1).ok()
    }

    /// The first packet of a session, if it is one that a probe can be.
    fn probe(&self, [from, to]: [&str; 2], (protocol, port): (Protocol, u16)) -> Option<Probe> {
        let outside = |name: &str| name.parse::<IpAddr>().ok();
        let v4 = [from, to]
            .into_iter()
            .find_map(outside)
            .is_none_or(|one| one.is_ipv4());
        let end = |name: &str| {
            outside(name).or_else(|| self.number(name).map(|number| address(number, v4)))
        };
        let (from, to) = (end(from)?, end(to)?);
        let at = |address: IpAddr, port| std::net::SocketAddr::new(address, port);
        let text = match protocol {
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                format!("{protocol} {} > {}", at(from, 49_152), at(to, port))
            }
            Protocol::Icmp | Protocol::Icmpv6 => {
                format!("{protocol}/{}/{} {from} > {to}", port >> 8, port & 0xff)
            }
            Protocol::Other => format!("ip/{port} {from} > {to}"),
            _ => return None,
        };
        text.parse().ok()
    }

    fn rule_name(&self, id: RuleId) -> Option<&str> {
        let rule = self.policy.rules().find(|(_, rule)| rule.id == id);
        rule.map(|(_, rule)| rule.name.as_str())
    }
}

/// Every hop of every counterexample, at both ends that rules are asked at.
fn replay(kernel: &Kernel, case: &Case, hop: &Hop, context: &str) -> usize {
    let names = [hop.from.name.as_str(), hop.to.name.as_str()];
    let asked = (hop.packet.protocol, hop.packet.port);
    let Some(probe) = case.probe(names, asked) else {
        return 0;
    };
    let ends: [(&str, &SaidHow, Direction); 2] = [
        (names[0], &hop.egress, Direction::Egress),
        (names[1], &hop.ingress, Direction::Ingress),
    ];
    let mut replayed = 0;
    for (name, said, way) in ends {
        let unasked = matches!(
            said.because,
            Words::Outside | Words::HostUnprotected | Words::HostUnprotectedBlock
        );
        let Some(number) = case.number(name).filter(|_| !unasked) else {
            continue;
        };
        let (verdict, reason, rule) = kernel.says(number, &probe, way);
        let told = format!("{probe} at {name} ({way}): {verdict} {reason}\n{context}");
        assert_eq!(verdict == Verdict::Allow, said.allows, "{told}");
        let named = said.rule.as_ref().map(|rule| rule.name.as_str());
        assert_eq!(case.rule_name(rule), named, "{told}");
        replayed += 1;
    }
    replayed
}

#[test]
fn every_counterexample_replays_in_the_kernel_hop_by_hop() {
    if !privileged() {
        return;
    }
    let mut kernel = Kernel::new(ENDS_MAX);
    let mut replayed = BTreeMap::new();
    for seed in 0..POLICIES {
        let case = Case::of(seed);
        let (policy, estate) = (Arc::new(case.policy.clone()), Arc::new(case.estate.clone()));
        let mut prover = Prover::new(policy, estate, today()).expect("it is small");
        let findings = prover.findings();
        let failed = findings
            .iter()
            .filter_map(|finding| match &finding.outcome {
                Outcome::Failed { counterexample, .. } => Some((finding, &**counterexample)),
                Outcome::Held { .. } => None,
            });
        let mut is_loaded = false;
        for (finding, counterexample) in failed {
            let (kind, hops) = match counterexample {
                Counterexample::Path { hops, .. } => ("path", hops.as_slice()),
                Counterexample::Denied { hop, .. } => ("denied", std::slice::from_ref(&**hop)),
                _ => continue,
            };
            if !is_loaded {
                case.loaded(&mut kernel);
                is_loaded = true;
            }
            let context = format!("seed {seed}, {}\n{}", finding.statement, case.text);
            for hop in hops {
                *replayed.entry(kind).or_insert(0) += replay(&kernel, &case, hop, &context);
            }
        }
    }
    for kind in ["path", "denied"] {
        let found = replayed.get(kind).copied().unwrap_or(0);
        assert!(
            found >= REPLAYED_MIN,
            "only {found} ends of kind {kind} were replayed"
        );
    }
}

#[test]
fn the_policys_explanation_is_the_kernels() {
    if !privileged() {
        return;
    }
    let mut kernel = Kernel::new(ENDS_MAX);
    for seed in 1_000..1_000 + EXPLAINED {
        let case = Case::of(seed);
        case.loaded(&mut kernel);
        let world = World::of(&case.policy, &case.estate);
        let mut random = Random(seed);
        let mut pick = |count: usize| random.below(count as u64) as usize;
        for _ in 0..PACKETS {
            let (from, to) = (
                &world.actors[pick(world.actors.len())],
                &world.actors[pick(case.ends.len())],
            );
            let (protocol, port) = common::PORTS[pick(common::PORTS.len())];
            if from.name == to.name {
                continue;
            }
            let Some(probe) = case.probe([&from.name, &to.name], (protocol, port)) else {
                continue;
            };
            let (protocol, port) = probe.service();
            let question = Question {
                source: from.end.clone(),
                destination: to.end.clone(),
                protocol,
                port,
                date: today(),
            };
            let one = explain(&case.policy, &question);
            let ends: [(&str, &Option<EndSays>, &End, Direction); 2] = [
                (&from.name, &one.egress, &from.end, Direction::Egress),
                (&to.name, &one.ingress, &to.end, Direction::Ingress),
            ];
            for (name, says, end, way) in ends {
                let Some(says) = says else {
                    assert!(matches!(end, End::Address(_)), "{name}");
                    continue;
                };
                let number = case.number(name).expect("it has a vnic");
                let (verdict, reason, rule) = kernel.says(number, &probe, way);
                let named = says.rule.as_ref().map(|rule| rule.name.as_str());
                let expected = (says.verdict, says.reason.to_string(), named);
                let found = (verdict, reason, case.rule_name(rule));
                assert_eq!(
                    found, expected,
                    "seed {seed}: {probe} at {name}\n{}",
                    case.text
                );
            }
        }
    }
}
