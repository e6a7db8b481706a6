//! Every policy of a small universe, every packet that it can tell apart: the reference evaluator,
//! the compiled tables, the prover and the loaded programs say the same of each.
//!
//! `LICTOR_STRIDE` says how many policies are passed over for one that is tried; with 1 all are.
//! `LICTOR_FIRST` is the first of them: with a stride of 20, the firsts from 0 to 19 are all of
//! them in twenty parts, which may be run one after the other.

mod kernel;

use kernel::{Kernel, address, mac};
use lictor_analysis::{Prover, Verdict as Proved};
use lictor_lab::privileged;
use lictor_policy::evaluate::{Question, Ruling, evaluate};
use lictor_policy::{
    CompileInput, Compiled, Date, End, Estate, EstateGuest, Labels, Policy, Rule, compile, parse,
    render,
};
use lictor_types::{Decision, Direction, HostTables, IdentityId, Protocol, RuleId, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A prime, so that every rule is met in every place.
const STRIDE: usize = 397;
const PORTS: [u16; 3] = [1, 2, 3];
/// The ends: two guests, an address in a set, one in none. Of each a selector for it alone.
const ENDS: [&str; 4] = ["zone:a", "zone:b", "set:s", "outside & not set:s"];
const GUESTS: usize = 2;
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const WORLD: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

const SELECTORS: [&str; 4] = ["zone:a", "zone:b", "set:s", "any"];
const SERVICES: [&str; 2] = ["udp/1", "udp/1-2"];
const ACTIONS: [&str; 4] = ["allow", "deny", "reject", "pass"];

fn today() -> Date {
    "2026-11-24".parse().expect("a date")
}

/// Two ends of which one is a guest.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    let ends = || 0..ENDS.len();
    let all = ends().flat_map(move |from| ends().map(move |to| (from, to)));
    all.filter(|(from, to)| from != to && (*from < GUESTS || *to < GUESTS))
}

/// All rules of one place, by their actions and ends at which they speak.
fn rules(name: &str, actions: &[&str], places: &[&str]) -> String {
    let mut text = String::new();
    let mut count = 0;
    for action in actions {
        for from in SELECTORS {
            for to in SELECTORS {
                for (service, at) in SERVICES
                    .iter()
                    .flat_map(|one| places.iter().map(move |at| (one, at)))
                {
                    let ends = format!("from {from} to {to} service {service} {at}");
                    writeln!(text, "{action} {name}{count} {ends}").expect("text takes all");
                    count += 1;
                }
            }
        }
    }
    text
}

/// The policy without rules, and all rules of each of three places.
struct Universe {
    policy: Policy,
    first: Vec<Rule>,
    second: Vec<Rule>,
    last: Vec<Rule>,
}

impl Universe {
    fn new() -> Self {
        let places = ["", "at egress", "at ingress"];
        let mut text = format!(
            "policy \"small\" version 1\nlabel zone : one-of a b required\nset s = 192.0.2.0/24\n\
             tier guard ordered {{\n{}{}}}\ntier apps allow-only {{\n{}}}\n",
            rules("f", &ACTIONS, &places),
            rules("s", &ACTIONS, &[""]),
            rules("l", &ACTIONS[..1], &places),
        );
        for (from, to) in pairs() {
            let (source, end) = (ENDS[from], ENDS[to]);
            for port in PORTS {
                let claim = format!("always path from {source} to {end} service udp/{port}");
                writeln!(text, "assert p{from}{to}{port} : {claim}").expect("text takes all");
            }
            let claim = format!("never path from {source} to {end} service udp/1-3");
            writeln!(text, "assert c{from}{to} : {claim}").expect("text takes all");
        }
        let (policy, diagnostics) = parse("small", text.as_bytes());
        let told = || render(&diagnostics, text.as_bytes());
        let mut policy = policy.unwrap_or_else(|| panic!("{}", told()));
        let guard = std::mem::take(&mut policy.tiers[0].rules);
        let (second, first) = guard
            .into_iter()
            .partition(|rule| rule.name.starts_with("guard/s"));
        let last = std::mem::take(&mut policy.tiers[1].rules);
        Self {
            policy,
            first,
            second,
            last,
        }
    }

    /// Each rule of the first place with each of the last place or none; each of the first place
    /// that speaks at both ends with each of the second, above a rule that allows everything.
    fn policies(&self) -> Vec<[Option<&Rule>; 3]> {
        let lasts = || self.last.iter().map(Some).chain([None]);
        let one = self
            .first
            .iter()
            .flat_map(|first| lasts().map(move |last| [Some(first), None, last]));
        let all = self.last.iter().rev().find(|rule| at_both(rule));
        let two = self.first.iter().filter(|rule| at_both(rule));
        let two = two.flat_map(|first| {
            let seconds = self.second.iter();
            seconds.map(move |second| [Some(first), Some(second), all])
        });
        one.chain(two).collect()
    }

    fn with(&self, [first, second, last]: [Option<&Rule>; 3]) -> Policy {
        let mut policy = self.policy.clone();
        policy.tiers[0].rules = [first, second].into_iter().flatten().cloned().collect();
        policy.tiers[1].rules = last.into_iter().cloned().collect();
        policy
    }
}

fn at_both(rule: &Rule) -> bool {
    rule.at == lictor_policy::At::Both
}

fn end(number: usize) -> End {
    match number {
        0 | 1 => End::Guest(labels(number)),
        2 => End::Address(INSIDE),
        _ => End::Address(WORLD),
    }
}

fn labels(number: usize) -> Labels {
    let value = ["a", "b"][number];
    [("zone".to_owned(), value.to_owned())].into()
}

/// What both ends say, by pair and port.
type Said = BTreeMap<(usize, usize, u16), [Option<Ruling>; 2]>;

fn reference(policy: &Policy) -> Said {
    let mut said = Said::new();
    for (from, to) in pairs() {
        for port in PORTS {
            let question = Question {
                source: end(from),
                destination: end(to),
                protocol: Protocol::Udp,
                port,
                date: today(),
            };
            let answer = evaluate(policy, &question);
            said.insert((from, to, port), [answer.egress, answer.ingress]);
        }
    }
    said
}

fn passes(said: &[Option<Ruling>; 2]) -> bool {
    let allows = |one: Option<Ruling>| one.is_none_or(|one| one.verdict == Verdict::Allow);
    said.iter().copied().all(allows)
}

/// The tables, read as the data plane reads them.
struct Rows<'a> {
    tables: &'a HostTables,
    rows: BTreeMap<(IdentityId, IdentityId, Direction, lictor_types::AtomId), Decision>,
}

impl<'a> Rows<'a> {
    fn of(tables: &'a HostTables) -> Self {
        let rows = tables.decisions.iter().map(|row| (row.key(), *row));
        let rows = rows.collect();
        Self { tables, rows }
    }

    fn identity(&self, number: usize) -> IdentityId {
        let address = wire_address(number);
        let rows = self.tables.addresses.iter();
        let longest = rows
            .filter(|row| row.prefix.contains(&address))
            .max_by_key(|row| row.prefix.prefix_len());
        longest.map_or(IdentityId::WORLD, |row| row.identity)
    }

    fn says(&self, (own, far): (usize, usize), way: Direction, port: u16) -> (Verdict, RuleId) {
        let mut atoms = self.tables.atoms.iter();
        let atom = atoms.find(|range| {
            range.protocol == Protocol::Udp && (range.first..=range.last).contains(&port)
        });
        let (own, far) = (self.identity(own), self.identity(far));
        let row = atom.and_then(|range| {
            let mut keys = Decision::keys(far, range.atom);
            keys.find_map(|(peer, atom)| self.rows.get(&(own, peer, way, atom)))
        });
        row.map_or((Verdict::Deny, RuleId::DEFAULT), |row| {
            (row.verdict, row.rule)
        })
    }
}

fn wire_address(number: usize) -> IpAddr {
    match number {
        0 | 1 => address(number as u8 + 1, true),
        2 => INSIDE,
        _ => WORLD,
    }
}

/// A datagram from one end to the other, as it passes the vnic of one of them.
fn frame((from, to): (usize, usize), ports: (u16, u16)) -> Vec<u8> {
    let link = |number: usize| mac(if number < GUESTS { number as u8 + 1 } else { 9 });
    let octets = |number: usize| match wire_address(number) {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("all ends have addresses of the older family"),
    };
    // 28 bytes, a life of 64, UDP; the checksum is the ends' affair.
    let head = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    [
        &link(to).0[..],
        &link(from).0,
        &[8, 0],
        &head,
        &octets(from),
        &octets(to),
        &ports.0.to_be_bytes(),
        &ports.1.to_be_bytes(),
        &[0, 8, 0, 0],
    ]
    .concat()
}

fn prove(policy: Policy, estate: &Arc<Estate>, said: &Said, context: &str) {
    let names: Vec<String> = policy.intents.iter().map(|one| one.name.clone()).collect();
    let mut prover = Prover::new(Arc::new(policy), estate.clone(), today()).expect("it is small");
    let found: BTreeMap<String, bool> = names
        .into_iter()
        .zip(prover.verdicts())
        .map(|(name, verdict)| (name, verdict == Proved::Held))
        .collect();
    // Who is reached over any number of sessions: Warshall's way.
    let mut reached = [[false; ENDS.len()]; ENDS.len()];
    for (&(from, to, port), said) in said {
        let held = found[&format!("p{from}{to}{port}")];
        assert_eq!(held, passes(said), "{from} to {to} on {port}\n{context}");
        reached[from][to] |= passes(said);
    }
    for stop in 0..ENDS.len() {
        for from in 0..ENDS.len() {
            for to in 0..ENDS.len() {
                reached[from][to] |= reached[from][stop] && reached[stop][to];
            }
        }
    }
    for (from, to) in pairs() {
        let held = found[&format!("c{from}{to}")];
        assert_eq!(held, !reached[from][to], "paths {from} to {to}\n{context}");
    }
}

/// One policy, said four times. The number of packets that passed.
fn compare(
    kernel: &mut Kernel,
    (policy, estate): (Policy, &Arc<Estate>),
    source_port: &mut u16,
    context: &str,
) -> usize {
    let said = reference(&policy);
    let label_sets = (0..GUESTS).map(labels).collect();
    let date = today();
    let input = CompileInput { label_sets, date };
    let compiled: Compiled = compile(&policy, &input).expect("it compiles");
    let ends = [0, 1].map(|number| (ENDS[number].to_owned(), labels(number)));
    let tables = kernel.load(&compiled, (&ends, date));
    let rows = Rows::of(&tables);
    let mut passed = 0;
    for (&(from, to, port), rulings) in &said {
        *source_port = if *source_port < 1_024 {
            1_024
        } else {
            *source_port
        }
        .wrapping_add(1);
        let frame = frame((from, to), (*source_port, port));
        let asked = [
            (from, to, Direction::Egress),
            (to, from, Direction::Ingress),
        ];
        for ((own, far, way), ruling) in asked.into_iter().zip(rulings) {
            let Some(ruling) = ruling else { continue };
            let rule = ruling.rule.unwrap_or(RuleId::DEFAULT);
            let told = || format!("{from} to {to} on {port}, {way}\n{context}");
            let found = rows.says((own, far), way, port);
            assert_eq!(found, (ruling.verdict, rule), "the tables, {}", told());
            let neighbour = way == Direction::Ingress && far < GUESTS;
            let came = (frame.as_slice(), neighbour.then_some(far as u8 + 1));
            let judged = kernel.judges(own as u8 + 1, came, way);
            let found = (judged.reason, judged.rule);
            assert_eq!(found, (ruling.reason(), rule), "the kernel, {}", told());
            let allowed = judged.verdict == Verdict::Allow;
            assert_eq!(allowed, ruling.verdict == Verdict::Allow, "{}", told());
            passed += usize::from(allowed);
        }
    }
    prove(policy, estate, &said, context);
    passed
}

#[test]
fn reference_tables_prover_and_kernel_agree_on_every_policy_of_a_small_universe() {
    if !privileged() {
        return;
    }
    let number = |name: &str, usual: usize| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => usual,
    };
    let (first, stride) = (number("LICTOR_FIRST", 0), number("LICTOR_STRIDE", STRIDE));
    let universe = Universe::new();
    let guest = |number: usize| EstateGuest {
        name: ENDS[number].into(),
        labels: labels(number),
        addresses: vec![wire_address(number)],
        ..EstateGuest::default()
    };
    let estate = Arc::new(Estate {
        guests: (0..GUESTS).map(guest).collect(),
        fabric_trusted: true,
        ..Estate::default()
    });
    let mut kernel = Kernel::new(GUESTS as u8);
    let (mut tried, mut passed, mut source_port) = (0, 0, 0);
    for chosen in universe.policies().into_iter().skip(first).step_by(stride) {
        let texts = chosen.iter().flatten().map(|rule| rule.text.as_str());
        let context = texts.collect::<Vec<_>>().join("\n");
        let policy = universe.with(chosen);
        passed += compare(&mut kernel, (policy, &estate), &mut source_port, &context);
        tried += 1;
    }
    println!("{tried} policies were tried, {passed} packets passed an end");
    assert!(passed > tried, "the policies are too tight: {passed}");
}
