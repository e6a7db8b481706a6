//! An oracle of another kind: policy text and compiled tables as binary decision diagrams, which
//! are the same diagram if and only if both say the same of **every** packet: each combination of
//! labels, each address of both families, each port. The diagrams are made of what the language
//! says, with neither the evaluator nor the compiler's own classes.
//! `LICTOR_POLICIES` is the number of policies, `LICTOR_SEED` the first of them.

mod common;

use common::{Random, guests, number, parsed, policy_text, today};
use ipnet::IpNet;
use lictor_policy::{
    Action, At, CompileInput, Compiled, End, HOST_LABEL, Labels, Mode, OnExpiry, Policy, Rule,
    Selector, Service, TierKind, compile,
};
use lictor_types::{Decision, Direction, IdentityId, Protocol, Verdict};
use oxidd::bdd::{BDDFunction as Diagram, BDDManagerRef};
use oxidd::{BooleanFunction as _, Function as _, Manager as _, ManagerRef as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;

const POLICIES: u64 = 60;
/// Room for nodes and for results of operations.
const NODES: usize = 1 << 20;

/// Labels and their values as the random policies have them; a value that no policy names counts
/// as another one.
const LABELS: [(&str, &[&str]); 4] = [
    ("zone", &["cde", "corp", "dmz", "moon"]),
    ("tier", &["web", "db"]),
    ("app", &["pay", "shop"]),
    (HOST_LABEL, &["h1", "h2"]),
];
/// Bits of a label: 0 is that it is missing.
const VALUE: u32 = 3;
const FAMILY: u32 = 128;
const PORT: u32 = 16;

/// The variables of one end.
#[derive(Clone)]
struct Vars {
    /// Whether it is an address.
    outside: u32,
    labels: u32,
    /// Whether the address is of IPv4, and its bits from the highest.
    v4: u32,
    address: u32,
}

struct Space {
    manager: BDDManagerRef,
    vars: Vec<Diagram>,
    local: Vars,
    peer: Vars,
    protocol: Range<u32>,
    port: Range<u32>,
}

impl Space {
    fn new() -> Self {
        let labels = VALUE * LABELS.len() as u32;
        let end = |first: u32| Vars {
            outside: first,
            labels: first + 1,
            v4: first + 1 + labels,
            address: first + 2 + labels,
        };
        let size = 2 + labels + FAMILY;
        let protocol = 2 * size..2 * size + 3;
        let port = protocol.end..protocol.end + PORT;
        let manager = oxidd::bdd::new_manager(NODES, NODES, 1);
        let vars = manager.with_manager_exclusive(|manager| {
            let range = manager.add_vars(port.end);
            let vars = range.map(|var| Diagram::var(manager, var).expect("room"));
            vars.collect()
        });
        let (local, peer) = (end(0), end(size));
        Self {
            manager,
            vars,
            local,
            peer,
            protocol,
            port,
        }
    }

    fn constant(&self, value: bool) -> Diagram {
        self.manager.with_manager_shared(|manager| match value {
            true => Diagram::t(manager),
            false => Diagram::f(manager),
        })
    }

    fn bit(&self, var: u32, value: bool) -> Diagram {
        let var = &self.vars[var as usize];
        if value { var.clone() } else { not(var) }
    }

    /// That the first bits of a run of variables are those of a number, from the highest.
    fn leading(&self, vars: Range<u32>, value: u128, count: u32) -> Diagram {
        let width = vars.end - vars.start;
        let bits = vars.take(count as usize).zip((0..width).rev());
        // From the last variable up, so that each step adds one node.
        let mut bits: Vec<(u32, u32)> = bits.collect();
        bits.reverse();
        bits.into_iter()
            .fold(self.constant(true), |found, (var, place)| {
                and(&self.bit(var, value >> place & 1 == 1), &found)
            })
    }

    fn equal(&self, vars: Range<u32>, value: u32) -> Diagram {
        let width = vars.end - vars.start;
        self.leading(vars, value.into(), width)
    }

    /// That a number is at least, or at most, another one.
    fn bounded(&self, vars: Range<u32>, bound: u16, least: bool) -> Diagram {
        let width = vars.end - vars.start;
        let places = vars.zip((0..width).rev());
        let mut places: Vec<(u32, u32)> = places.collect();
        places.reverse();
        places
            .into_iter()
            .fold(self.constant(true), |below, (var, place)| {
                let set = bound >> place & 1 == 1;
                let own = self.bit(var, set);
                // Where the bound's bit leaves room, the other value decides at once.
                match set == least {
                    true => and(&own, &below),
                    false => or(&self.bit(var, !set), &below),
                }
            })
    }

    fn label(&self, of: &Vars, name: &str) -> Option<(Range<u32>, &'static [&'static str])> {
        let place = LABELS.iter().position(|(label, _)| *label == name)?;
        let first = of.labels + VALUE * place as u32;
        Some((first..first + VALUE, LABELS[place].1))
    }

    fn has_value(&self, of: &Vars, name: &str, value: &str) -> Diagram {
        let known = self.label(of, name);
        let place = known.as_ref().and_then(|(_, values)| {
            let mut values = values.iter().zip(1..);
            values.find(|(known, _)| **known == value)
        });
        match (known.as_ref(), place) {
            (Some((vars, _)), Some((_, number))) => self.equal(vars.clone(), number),
            _ => self.constant(false),
        }
    }

    fn has(&self, of: &Vars, name: &str) -> Diagram {
        match self.label(of, name) {
            Some((vars, _)) => not(&self.equal(vars, 0)),
            None => self.constant(false),
        }
    }

    fn guest(&self, of: &Vars, labels: &Labels) -> Diagram {
        LABELS
            .iter()
            .rev()
            .fold(self.constant(true), |found, (name, _)| {
                let own = match labels.get(*name) {
                    Some(value) => self.has_value(of, name, value),
                    None => not(&self.has(of, name)),
                };
                and(&own, &found)
            })
    }

    fn prefix(&self, of: &Vars, net: &IpNet) -> Diagram {
        let (bits, v4) = match net.network() {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, true),
            IpAddr::V6(address) => (u128::from(address), false),
        };
        let address = of.address..of.address + FAMILY;
        let own = self.leading(address, bits, net.prefix_len().into());
        and(&self.bit(of.v4, v4), &own)
    }

    /// What a selector says of an end, by the words of the language.
    fn selector(&self, of: &Vars, policy: &Policy, selector: &Selector) -> Diagram {
        let guest = self.bit(of.outside, false);
        let inner = |one: &Selector| self.selector(of, policy, one);
        match selector {
            Selector::Any => self.constant(true),
            Selector::Guests => and(&guest, &not(&self.has(of, HOST_LABEL))),
            Selector::Hosts => and(&guest, &self.has(of, HOST_LABEL)),
            Selector::Outside => not(&guest),
            Selector::Label { name, value } => and(&guest, &self.has_value(of, name, value)),
            Selector::Has(name) => and(&guest, &self.has(of, name)),
            Selector::Set(name) => {
                let nets = policy.sets[name].iter();
                let inside = nets.fold(self.constant(false), |found, net| {
                    or(&found, &self.prefix(of, net))
                });
                and(&not(&guest), &inside)
            }
            Selector::Computed(name) => panic!("{name} is not written out"),
            Selector::Not(one) => not(&inner(one)),
            Selector::All(parts) => parts
                .iter()
                .fold(self.constant(true), |found, one| and(&found, &inner(one))),
            Selector::Either(parts) => parts
                .iter()
                .fold(self.constant(false), |found, one| or(&found, &inner(one))),
        }
    }

    fn ports(&self, protocol: Protocol, first: u16, last: u16) -> Diagram {
        let of = self.equal(self.protocol.clone(), protocol as u32);
        let least = self.bounded(self.port.clone(), first, true);
        let most = self.bounded(self.port.clone(), last, false);
        and(&of, &and(&least, &most))
    }

    fn service(&self, service: &Service) -> Diagram {
        let ranges = service.ranges().iter();
        ranges.fold(self.constant(false), |found, range| {
            or(&found, &self.ports(range.protocol, range.first, range.last))
        })
    }

    /// Every packet of IP that there can be at an end: any guest that was compiled in, its peer a
    /// guest that was compiled in or an address, a port that its protocol has.
    fn packets(&self, sets: &[Labels]) -> Diagram {
        let of = |end: &Vars| {
            sets.iter().fold(self.constant(false), |found, labels| {
                or(&found, &self.guest(end, labels))
            })
        };
        let local = and(&self.bit(self.local.outside, false), &of(&self.local));
        let guest = and(&self.bit(self.peer.outside, false), &of(&self.peer));
        let address = self.peer.address + 32..self.peer.address + FAMILY;
        let rest = self.equal(address.clone(), 0);
        let v4 = self.bit(self.peer.v4, true);
        let address = and(&self.bit(self.peer.outside, true), &or(&not(&v4), &rest));
        let ports = Protocol::ALL
            .into_iter()
            .filter(|protocol| *protocol != Protocol::Ether)
            .fold(self.constant(false), |found, protocol| {
                or(&found, &self.ports(protocol, 0, protocol.port_max()))
            });
        and(&local, &and(&or(&guest, &address), &ports))
    }
}

fn and(one: &Diagram, other: &Diagram) -> Diagram {
    one.and(other).expect("room for nodes")
}

fn or(one: &Diagram, other: &Diagram) -> Diagram {
    one.or(other).expect("room for nodes")
}

fn not(one: &Diagram) -> Diagram {
    one.not().expect("room for nodes")
}

/// What the text of a policy lets pass at one end, in the order that the language documents.
struct Meaning<'a> {
    space: &'a Space,
    policy: &'a Policy,
    direction: Direction,
}

impl Meaning<'_> {
    fn allowed(&self) -> Diagram {
        let space = self.space;
        let mut open = space.constant(true);
        let mut allowed = space.constant(false);
        let kinds = [TierKind::Ordered, TierKind::AllowOnly];
        for kind in kinds {
            let tiers = self.policy.tiers.iter();
            for tier in tiers.filter(|tier| tier.kind == kind && tier.mode == Mode::Enforce) {
                // What a `pass` hands over skips the rest of its tier.
                let mut here = open.clone();
                for rule in &tier.rules {
                    if tier.on_expiry == OnExpiry::Drop && rule.expired(today()) {
                        continue;
                    }
                    let found = and(&here, &self.rule(rule));
                    match rule.action {
                        Action::Allow => allowed = or(&allowed, &found),
                        Action::Deny | Action::Reject | Action::Pass => {}
                    }
                    if kind == TierKind::Ordered {
                        here = and(&here, &not(&found));
                        if rule.action != Action::Pass {
                            open = and(&open, &not(&found));
                        }
                    }
                }
            }
        }
        let of = [&space.local, &space.peer].map(|end| self.quarantined(end));
        let cut = or(&of[0], &of[1]);
        let allowed = and(&allowed, &not(&cut));
        or(&allowed, &and(&self.observed(), &not(&of[0])))
    }

    fn rule(&self, rule: &Rule) -> Diagram {
        let space = self.space;
        let speaks = match rule.at {
            At::Both => true,
            At::Egress => self.direction == Direction::Egress,
            At::Ingress => self.direction == Direction::Ingress,
        };
        if !speaks || !rule.on_its_day(today()) {
            return space.constant(false);
        }
        let (from, to) = match self.direction {
            Direction::Egress => (&space.local, &space.peer),
            Direction::Ingress => (&space.peer, &space.local),
        };
        let from = space.selector(from, self.policy, &rule.from);
        let to = space.selector(to, self.policy, &rule.to);
        and(&and(&from, &to), &space.service(&rule.service))
    }

    /// Guests without a required label, or with a value that is not listed. Hosts need none.
    fn quarantined(&self, of: &Vars) -> Diagram {
        let space = self.space;
        let mut wrong = space.constant(false);
        for (name, label) in &self.policy.labels {
            let has = space.has(of, name);
            if label.required {
                wrong = or(&wrong, &not(&has));
            }
            if let Some(values) = &label.values {
                let listed = values.iter().fold(not(&has), |found, value| {
                    or(&found, &space.has_value(of, name, value))
                });
                wrong = or(&wrong, &not(&listed));
            }
        }
        let guest = and(
            &space.bit(of.outside, false),
            &not(&space.has(of, HOST_LABEL)),
        );
        and(&guest, &wrong)
    }

    fn observed(&self) -> Diagram {
        let space = self.space;
        let own = self.policy.observed.iter();
        let own = own.filter(|one| one.expires.is_none_or(|last| last >= today()));
        own.fold(space.constant(false), |found, one| {
            or(
                &found,
                &space.selector(&space.local, self.policy, &one.guests),
            )
        })
    }
}

/// What the rows of the compiled tables let pass, looked up as the kernel does.
fn loaded(space: &Space, compiled: &Compiled, sets: &[Labels], way: Direction) -> Diagram {
    let tables = lictor_policy::Tables::of(compiled).expect("as compiled");
    let classes = classes(space, compiled, sets);
    let ended = compiled.ended_by(today());
    let mut locals: BTreeMap<IdentityId, Diagram> = BTreeMap::new();
    for labels in sets {
        let id = compiled.identity_of(labels).expect("compiled in");
        let own = space.guest(&space.local, labels);
        let known = locals.entry(id).or_insert_with(|| space.constant(false));
        *known = or(known, &own);
    }
    let mut ports: HashMap<Vec<usize>, Diagram> = HashMap::new();
    let mut found = space.constant(false);
    for (id, local) in locals {
        let rows = tables.decisions(id).into_iter().map(|row| (row.key(), row));
        let rows: BTreeMap<_, Decision> = rows.collect();
        let mut peers = space.constant(false);
        for (peer, members) in &classes {
            let passes = |atom| {
                let mut keys = Decision::keys(*peer, atom);
                let row = keys.find_map(|(peer, atom)| rows.get(&(id, peer, way, atom)));
                row.is_some_and(|row| row.verdict == Verdict::Allow && !ended.contains(&row.rule))
            };
            let open: Vec<usize> = (0..compiled.atoms.len())
                .filter(|place| passes(compiled.atoms[*place].atom))
                .collect();
            let ports = ports.entry(open).or_insert_with_key(|open| {
                open.iter().fold(space.constant(false), |found, place| {
                    let range = &compiled.atoms[*place];
                    or(
                        &found,
                        &space.ports(range.protocol, range.first, range.last),
                    )
                })
            });
            peers = or(&peers, &and(members, ports));
        }
        // Of an observed class every packet passes, also where no rule makes an atom.
        if compiled.observed_on(id, today()).is_some() {
            peers = space.constant(true);
        }
        found = or(&found, &and(&local, &peers));
    }
    found
}

/// The peers of each class: guests by the labels that were compiled, addresses by the longest
/// prefix.
fn classes(space: &Space, compiled: &Compiled, sets: &[Labels]) -> BTreeMap<IdentityId, Diagram> {
    let mut classes: BTreeMap<IdentityId, Diagram> = BTreeMap::new();
    let mut add = |id, members: Diagram| {
        let known = classes.entry(id).or_insert_with(|| space.constant(false));
        *known = or(known, &members);
    };
    let peer = &space.peer;
    for labels in sets {
        let id = compiled.identity_of(labels).expect("compiled in");
        let guest = space.bit(peer.outside, false);
        add(id, and(&guest, &space.guest(peer, labels)));
    }
    let mut rows: Vec<_> = compiled.prefixes.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.prefix.prefix_len()));
    let mut left = space.bit(peer.outside, true);
    for row in rows {
        let own = and(&left, &space.prefix(peer, &row.prefix));
        left = and(&left, &not(&own));
        add(row.identity, own);
    }
    add(IdentityId::WORLD, left);
    classes
}

#[test]
fn text_and_tables_are_the_same_diagram() {
    let sets = guests();
    let first = number("LICTOR_SEED", 0);
    let mut distinct = BTreeSet::new();
    for seed in first..first + number("LICTOR_POLICIES", POLICIES) {
        let space = Space::new();
        let text = policy_text(&mut Random(seed));
        let policy = parsed(&text, &format!("seed {seed}\n{text}"));
        let input = CompileInput {
            label_sets: sets.clone(),
            date: today(),
        };
        let compiled = compile(&policy, &input).expect("small");
        let packets = space.packets(&sets);
        for direction in [Direction::Egress, Direction::Ingress] {
            let meaning = Meaning {
                space: &space,
                policy: &policy,
                direction,
            };
            let said = and(&packets, &meaning.allowed());
            let held = and(&packets, &loaded(&space, &compiled, &sets, direction));
            distinct.insert(said.node_count());
            assert!(
                said == held,
                "seed {seed}, {direction:?}: {}\n{text}",
                difference(&space, &said, &held)
            );
        }
    }
    assert!(
        distinct.len() > 10,
        "the policies are too alike: {distinct:?} nodes"
    );
}

/// A packet of which the two say different things, as values of variables.
fn difference(space: &Space, one: &Diagram, other: &Diagram) -> String {
    let odd = one.xor(other).expect("room for nodes");
    let Some(cube) = odd.pick_cube(|_, _, _| false) else {
        return "nothing".to_owned();
    };
    let set = cube.iter().zip(0_u32..);
    let set: Vec<u32> = set
        .filter(|(value, _)| **value == oxidd::util::OptBool::True)
        .map(|(_, var)| var)
        .collect();
    let ends = [&space.local, &space.peer].map(|end| (end.outside, end.labels, end.v4));
    format!(
        "variables {set:?} are set; ends (outside, labels, v4) {ends:?}, protocol {:?}, port {:?}",
        space.protocol, space.port
    )
}

/// The language's own words for an end are those of the selector's evaluator.
#[test]
fn a_selector_is_the_diagram_of_the_ends_that_it_matches() {
    let space = Space::new();
    let sets = guests();
    for seed in 0..40 {
        let text = policy_text(&mut Random(seed));
        let policy = parsed(&text, &text);
        for (_, rule) in policy.rules() {
            let diagram = space.selector(&space.peer, &policy, &rule.from);
            for labels in &sets {
                let expected = rule.from.matches(&End::Guest(labels.clone()), &policy.sets);
                let own = and(
                    &space.bit(space.peer.outside, false),
                    &space.guest(&space.peer, labels),
                );
                let found = and(&own, &diagram).satisfiable();
                assert_eq!(found, expected, "{} {labels:?}", rule.from);
            }
        }
    }
}
