//! Small random policies and estates, with what the reference evaluator says of each packet.

#![allow(dead_code, reason = "each test uses its own part")]

use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{
    Cause, Choice, Date, End, Estate, EstateGuest, EstateHost, Labels, Policy, Selector, Service,
    parse, render,
};
use lictor_types::{Protocol, Verdict};
use std::fmt::Write as _;
use std::ops::Range;

/// As many seeds as `LICTOR_POLICIES` says, or else as usual, from `LICTOR_SEED` on.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok();
        given.map_or(default, |text| text.parse().expect("a number"))
    };
    let first = number("LICTOR_SEED", 0);
    first..first + number("LICTOR_POLICIES", usual)
}

/// SplitMix64: a whole test from one number.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

const HEAD: &str = "policy \"random\" version 1
label zone : one-of cde corp dmz required
label tier : one-of web db
label fn : string
set wide = 10.0.0.0/8 2001:db8::/32
set mid = 10.1.0.0/16 192.0.2.0/24
scope cde = zone:cde
window work = mon-fri
";

const SERVICES: [&str; 8] = [
    "any",
    "tcp",
    "tcp/22",
    "tcp/20-30",
    "tcp/25-443, udp/53",
    "tcp/80, ip/47",
    "icmp/echo",
    "ether/0x88cc",
];

/// Both sides of every place where a service begins or ends.
pub(crate) const PORTS: [(Protocol, u16); 18] = [
    (Protocol::Tcp, 0),
    (Protocol::Tcp, 20),
    (Protocol::Tcp, 22),
    (Protocol::Tcp, 23),
    (Protocol::Tcp, 25),
    (Protocol::Tcp, 31),
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 81),
    (Protocol::Tcp, 444),
    (Protocol::Udp, 0),
    (Protocol::Udp, 53),
    (Protocol::Udp, 54),
    (Protocol::Icmp, 0x0800),
    (Protocol::Icmp, 0x0900),
    (Protocol::Other, 47),
    (Protocol::Other, 48),
    (Protocol::Ether, 0x88cc),
    (Protocol::Ether, 0x88cd),
];

fn selector(random: &mut Random, depth: u64) -> String {
    const LEAVES: [&str; 12] = [
        "any",
        "guests",
        "outside",
        "hosts",
        "zone:cde",
        "zone:corp",
        "zone:dmz",
        "tier:web",
        "tier:db",
        "fn:a",
        "set:wide",
        "set:mid",
    ];
    if depth == 0 || random.below(2) == 0 {
        return random.pick(&LEAVES).to_owned();
    }
    let one = selector(random, depth - 1);
    match random.below(3) {
        0 => format!("not ({one})"),
        1 => format!("({one}) & ({})", selector(random, depth - 1)),
        _ => format!("({one}) or ({})", selector(random, depth - 1)),
    }
}

fn rules(random: &mut Random, actions: &[&str], count: u64) -> String {
    let mut text = String::new();
    for index in 0..count {
        let action = random.pick(actions);
        let (mut from, to) = (selector(random, 1), selector(random, 1));
        let at = random.pick(&["", "", "", "at egress", "at ingress"]);
        let service = random.pick(&SERVICES);
        if service.starts_with("ether") {
            from = random.pick(&["any", "outside"]).to_owned();
        }
        let expires = match (action, random.below(5)) {
            ("allow", 0) => "expires 2026-11-23",
            _ => "",
        };
        writeln!(
            text,
            "{action} r{index} from {from} to {to} service {service} {at} {expires}"
        )
        .expect("text takes all");
    }
    text
}

fn intents(random: &mut Random, count: u64) -> String {
    let mut text = String::new();
    for index in 0..count {
        let (from, to) = (selector(random, 1), selector(random, 1));
        let service = random.pick(&SERVICES);
        let over = random.pick(&["", "on any-host", "under failures 1"]);
        let claim = match random.below(8) {
            0 => format!("always path from {from} to {to} service {service}"),
            1 | 2 => format!("only {from} reaches {to} service {service}"),
            3 => format!("{} requires host control ids", selector(random, 1)),
            4 => format!(
                "host never runs ({from} with {to}) interpretation {}",
                random.pick(&["strict", "zone-based", "hypervisor"])
            ),
            _ => {
                let service = random.pick(&["", "service tcp", "service tcp/22, udp/53"]);
                let hops = random.pick(&["", "within 1 hops", "within 2 hops", "within 3 hops"]);
                let mut except = String::new();
                for _ in 0..random.below(3) {
                    let word = random.pick(&["via", "to"]);
                    let ends = selector(random, 0);
                    let over = random.pick(&["", "service tcp/22", "service tcp/20-80"]);
                    write!(except, " except {word} {ends} {over}").expect("text takes all");
                }
                format!("never path from {from} to {to} {service} {hops}{except}")
            }
        };
        writeln!(text, "assert i{index} : {claim} {over}").expect("text takes all");
    }
    text
}

pub(crate) fn policy_text(random: &mut Random) -> String {
    let mut text = HEAD.to_owned();
    for name in ["guard", "second"] {
        let count = random.below(4);
        let rules = rules(random, &["allow", "deny", "reject", "pass"], count);
        let seen = random.pick(&["", "", "observe"]);
        writeln!(text, "tier {name} ordered {seen} {{\n{rules}}}").expect("text takes all");
    }
    for name in ["zeta", "alpha"] {
        let count = random.below(4);
        let rules = rules(random, &["allow"], count);
        writeln!(text, "tier {name} allow-only {{\n{rules}}}").expect("text takes all");
    }
    if random.below(4) == 0 {
        let guests = selector(random, 0);
        writeln!(text, "observe {guests} owner \"o\"").expect("text takes all");
    }
    if random.below(4) == 0 {
        let guests = selector(random, 0);
        let word = random.pick(&["isolate", "exclude"]);
        writeln!(
            text,
            "{word} s {guests} owner \"o\" justification \"j\" expires 2029-01-31"
        )
        .expect("text takes all");
    }
    if random.below(2) == 0 {
        let guests = selector(random, 0);
        writeln!(
            text,
            "when host-unprotected for {guests} choose allow-with-alarm owner \"o\""
        )
        .expect("text takes all");
    }
    let count = 4;
    text.push_str(&intents(random, count));
    text
}

pub(crate) fn estate(random: &mut Random) -> Estate {
    let hosts: Vec<EstateHost> = (0..random.below(4))
        .map(|index| EstateHost {
            name: format!("h{index}"),
            bound: random.below(3) == 0,
            controls: [("firewall", 2), ("ids", 1)]
                .iter()
                .filter(|(_, odds)| random.below(3) < *odds)
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            ..EstateHost::default()
        })
        .collect();
    let some_host = |random: &mut Random| match hosts.is_empty() {
        true => None,
        false => Some(
            hosts[random.below(hosts.len() as u64) as usize]
                .name
                .clone(),
        ),
    };
    let guests = (0..2 + random.below(3)).map(|index| {
        let mut labels = Labels::new();
        for (name, values) in [
            (
                "zone",
                ["cde", "corp", "dmz", "cde", "corp", "moon", ""].as_slice(),
            ),
            ("tier", &["web", "db", ""]),
            ("fn", &["a", "b"]),
        ] {
            let value = random.pick(values);
            if !value.is_empty() {
                labels.insert(name.into(), value.into());
            }
        }
        let may_run_on = (0..random.below(3))
            .filter_map(|_| some_host(random))
            .collect();
        EstateGuest {
            name: format!("g{index}"),
            labels,
            host: some_host(random).filter(|_| random.below(4) > 0),
            may_run_on,
            ..EstateGuest::default()
        }
    });
    let guests = guests.collect();
    Estate {
        guests,
        fabric_trusted: random.below(4) > 0,
        hosts,
    }
}

pub(crate) fn parsed(text: &str, context: &str) -> Policy {
    let (policy, diagnostics) = parse("random", text.as_bytes());
    policy.unwrap_or_else(|| panic!("{context}\n{}", render(&diagnostics, text.as_bytes())))
}

pub(crate) fn today() -> Date {
    "2026-11-24".parse().expect("a date")
}

/// An end of the small world: a guest or device by its place, or an outside address.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) end: End,
    pub(crate) name: String,
    pub(crate) host: Option<usize>,
    pub(crate) may: Vec<usize>,
    pub(crate) open: bool,
}

/// Outside addresses: two of each class of the two sets.
const ADDRESSES: [&str; 8] = [
    "9.0.0.0",
    "11.0.0.0",
    "10.0.0.1",
    "10.2.0.1",
    "10.1.0.0",
    "10.1.0.1",
    "192.0.2.1",
    "192.0.2.7",
];

/// Everything about a small world, by plain loops and the reference evaluator.
pub(crate) struct World<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) estate: &'a Estate,
    pub(crate) actors: Vec<Actor>,
    /// By source, destination and port: whether each end lets it pass, if it is asked.
    said: Vec<Vec<Vec<(bool, bool)>>>,
    weak: Vec<bool>,
}

impl<'a> World<'a> {
    pub(crate) fn of(policy: &'a Policy, estate: &'a Estate) -> Self {
        let host = |name: &String| estate.hosts.iter().position(|host| host.name == *name);
        let mut actors: Vec<Actor> = Vec::new();
        for guest in &estate.guests {
            actors.push(Actor {
                end: End::Guest(guest.labels.clone()),
                name: guest.name.clone(),
                host: guest.host.as_ref().and_then(host),
                may: guest.may_run_on.iter().filter_map(host).collect(),
                open: opens(policy, &guest.labels),
            });
        }
        for (place, device) in estate.hosts.iter().enumerate().filter(|(_, one)| one.bound) {
            actors.push(Actor {
                end: End::Guest(device.device_labels()),
                name: device.name.clone(),
                host: Some(place),
                may: vec![place],
                open: opens(policy, &device.device_labels()),
            });
        }
        for address in ADDRESSES {
            actors.push(Actor {
                end: End::Address(address.parse().expect("an address")),
                name: address.into(),
                host: None,
                may: Vec::new(),
                open: false,
            });
        }
        let weak = estate.hosts.iter();
        let weak = weak.map(|host| !host.controls.iter().any(|one| one == "firewall"));
        let mut world = Self {
            policy,
            estate,
            said: Vec::new(),
            weak: weak.collect(),
            actors,
        };
        world.said = (0..world.actors.len())
            .map(|from| world.row(from))
            .collect();
        world
    }

    fn row(&self, from: usize) -> Vec<Vec<(bool, bool)>> {
        let ask = |to: usize, (protocol, port): (Protocol, u16)| {
            let question = Question {
                source: self.actors[from].end.clone(),
                destination: self.actors[to].end.clone(),
                protocol,
                port,
                date: today(),
            };
            let answer = evaluate(self.policy, &question);
            let passes = |ruling: Option<lictor_policy::evaluate::Ruling>| {
                ruling.is_none_or(|ruling| ruling.verdict == Verdict::Allow)
            };
            (passes(answer.egress), passes(answer.ingress))
        };
        (0..self.actors.len())
            .map(|to| PORTS.iter().map(|port| ask(to, *port)).collect())
            .collect()
    }

    pub(crate) fn is_guest(&self, actor: usize) -> bool {
        matches!(self.actors[actor].end, End::Guest(_))
    }

    pub(crate) fn matching(&self, selector: &Selector) -> Vec<usize> {
        (0..self.actors.len())
            .filter(|actor| selector.matches(&self.actors[*actor].end, &self.policy.sets))
            .collect()
    }

    /// Hosts that an actor may be on; `None` is nowhere in particular.
    pub(crate) fn places(&self, actor: usize, any: bool) -> Vec<Option<usize>> {
        let one = &self.actors[actor];
        if !self.is_guest(actor) || !any {
            return vec![one.host];
        }
        let mut hosts: Vec<usize> = match one.may.is_empty() {
            true => (0..self.estate.hosts.len()).collect(),
            false => one.may.iter().copied().chain(one.host).collect(),
        };
        hosts.sort_unstable();
        hosts.dedup();
        match hosts.is_empty() {
            true => vec![None],
            false => hosts.into_iter().map(Some).collect(),
        }
    }

    /// Every joint placement of the guests.
    pub(crate) fn placements(&self, any: bool) -> Vec<Vec<Option<usize>>> {
        let mut all: Vec<Vec<Option<usize>>> = vec![Vec::new()];
        for actor in 0..self.actors.len() {
            let places = self.places(actor, any);
            all = all
                .into_iter()
                .flat_map(|known| {
                    places.iter().map(move |place| {
                        let mut longer = known.clone();
                        longer.push(*place);
                        longer
                    })
                })
                .collect();
        }
        all
    }

    /// Whether each end lets a packet pass, if it is asked, on a host with the firewall.
    pub(crate) fn said(&self, from: usize, to: usize, port: usize) -> (bool, bool) {
        self.said[from][to][port]
    }

    /// Whether a session begins under a placement, on a port by its place in [`PORTS`].
    pub(crate) fn passes(
        &self,
        placement: &[Option<usize>],
        (from, to): (usize, usize),
        port: usize,
    ) -> bool {
        if from == to || !self.is_guest(from) && !self.is_guest(to) {
            return false;
        }
        let (egress, ingress) = self.said[from][to][port];
        let at = |actor: usize, said: bool| {
            let weak = placement[actor].is_some_and(|host| self.weak[host]);
            if weak { self.actors[actor].open } else { said }
        };
        at(from, egress) && at(to, ingress)
    }

    /// Places in [`PORTS`] of a service.
    pub(crate) fn ports(service: &Service) -> Vec<usize> {
        let inside = |port: &usize| service.contains(PORTS[*port].0, PORTS[*port].1);
        (0..PORTS.len()).filter(inside).collect()
    }
}

/// The strictest choice for unprotected hosts, in plain words.
fn opens(policy: &Policy, labels: &Labels) -> bool {
    let end = End::Guest(labels.clone());
    let chosen: Vec<Choice> = policy
        .choices
        .iter()
        .filter(|one| one.cause == Cause::HostUnprotected && one.guests.matches(&end, &policy.sets))
        .map(|one| one.choice)
        .collect();
    !policy.quarantines(labels)
        && chosen.contains(&Choice::AllowWithAlarm)
        && !chosen.contains(&Choice::Block)
}
