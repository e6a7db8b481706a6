//! What the analyses say, asked of the kernel: every hop of every counterexample of random policies
//! goes through the loaded programs (`BPF_PROG_TEST_RUN`), and both explanations agree.

#[path = "../../crates/analysis/tests/common/mod.rs"]
mod common;

use common::{Random, World, estate, parsed, policy_text, today};
use lictor_analysis::{Counterexample, EndSays, Hop, Outcome, Prover, SaidHow, Words, explain};
use lictor_datapath::{Datapath, VnicSpec, mount_bpffs};
use lictor_lab::privileged;
use lictor_policy::evaluate::Question;
use lictor_policy::{CompileInput, Compiled, End, Estate, Labels, Policy, Tables, compile};
use lictor_types::{
    AddressEntry, AddressKind, Direction, Endpoint, Epoch, Generation, HostTables, Link, Mac,
    Probe, Protocol, RuleId, Segment, Verdict, VnicId, VnicName, VnicState,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;

const SEGMENT: Segment = Segment(7);
/// Guests and devices of the largest random estate.
const ENDS_MAX: u8 = 7;
const POLICIES: u64 = 20;
/// Fewer would mean that the policies fail no intents, or that nothing of it is replayed.
const REPLAYED_MIN: usize = 8;
/// Policies of which some packets are explained, and how many of each: every question loads the
/// program once more.
const EXPLAINED: u64 = 5;
const PACKETS: usize = 6;

fn run(words: &str) {
    let mut parts = words.split_whitespace();
    let program = parts.next().expect("a program");
    let output = Command::new(program)
        .args(parts)
        .output()
        .expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{words}`: {errors}");
}

/// Vnics in a network namespace of this thread, under the tables of one policy after the other.
struct Kernel {
    datapath: Datapath,
    folder: tempfile::TempDir,
    generation: u64,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let unmounted = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.folder.path().display());
        }
    }
}

/// The addresses of the end with this number: no set of the random policies has them.
fn address(number: u8, v4: bool) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(172, 16, 0, number).into(),
        false => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

impl Kernel {
    fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
        let folder = tempfile::tempdir().expect("a folder");
        mount_bpffs(folder.path()).expect("mounts");
        let mut datapath = Datapath::open(folder.path()).expect("opens");
        for number in 1..=ENDS_MAX {
            run(&format!(
                "ip link add h{number} type veth peer name g{number}"
            ));
            let spec = VnicSpec {
                vnic: VnicId(number.into()),
                name: VnicName::new(format!("v{number}")).expect("a name"),
                device: format!("h{number}"),
                mac: Mac([0x52, 0x54, 0, 0, 1, number]),
                segment: SEGMENT,
                sessions_max: 64,
                link: Link::PLAIN,
                endpoint: Endpoint::Guest,
            };
            datapath.attach(&spec).expect("attaches");
        }
        Self {
            datapath,
            folder,
            generation: 0,
        }
    }

    fn load(&mut self, compiled: &Compiled, ends: &[(String, Labels)]) {
        self.generation += 1;
        let mut addresses = Vec::new();
        let mut identities = Vec::new();
        for (number, (_, labels)) in (1..).zip(ends) {
            let identity = compiled.identity_of(labels).expect("it was compiled in");
            identities.push(identity);
            let observe = compiled.observed_on(identity, today()).is_some();
            addresses.extend([true, false].map(|v4| AddressEntry {
                segment: SEGMENT,
                prefix: address(number, v4).into(),
                identity,
                vnic: Some(VnicId(number.into())),
                epoch: Epoch(1),
                kind: AddressKind::Own,
                observe,
            }));
        }
        addresses.extend(compiled.prefixes.iter().map(|row| AddressEntry {
            segment: SEGMENT,
            prefix: row.prefix,
            identity: row.identity,
            vnic: None,
            epoch: Epoch(0),
            kind: AddressKind::Own,
            observe: false,
        }));
        identities.sort_unstable();
        identities.dedup();
        let tables = Tables::of(compiled).expect("holds together");
        let tables = HostTables {
            generation: Generation(self.generation),
            epoch: Epoch(1),
            addresses,
            atoms: compiled.atoms.clone(),
            decisions: identities
                .iter()
                .flat_map(|one| tables.decisions(*one))
                .collect(),
        };
        let tables = tables.canonical().expect("fits");
        self.datapath.load(&tables).expect("loads");
        for number in 1..=ENDS_MAX {
            let vnic = VnicId(number.into());
            self.datapath
                .set_state(vnic, VnicState::Open)
                .expect("opens");
        }
    }

    /// The verdict, the reason and the rule of a vnic's loaded program.
    fn says(&self, number: u8, probe: &Probe, way: Direction) -> (Verdict, String, RuleId) {
        let found = self
            .datapath
            .explain(VnicId(number.into()), probe, Some(way));
        let answer = found.expect("it runs").answer;
        (answer.verdict, answer.reason.to_string(), answer.rule)
    }
}

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
        kernel.load(&compiled, &self.ends);
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
    let mut kernel = Kernel::new();
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
    let mut kernel = Kernel::new();
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
