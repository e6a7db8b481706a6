//! What a rule can say: reject, limits, observe mode. Hand-written, on the model and on the loaded
//! programs.

mod common;

use common::packets::{ACK, BACK, OUT, Tcp, answer, back, ether, ip, syn_to, tcp, udp, v4};
use common::{Bench, GUEST_MAC, PEER_MAC, SEGMENT, VNIC, address, privileged, spec};
use lictor_datapath::{Error, RuleCount};
use lictor_model::{Firewall, Frame};
use lictor_types::{
    AddressEntry, AddressKind, AtomId, AtomRange, Decision, Direction, Generation, HostTables,
    IdentityId, Link, Mac, Protocol, RULES_PER_VNIC_MAX, RuleId, Verdict, VnicState, Would,
};
use std::time::Duration;

use Direction::{Egress, Ingress};

/// Frames of an EtherType, as LLDP sends them.
const LLDP: u16 = 0x88cc;
const SECOND: Duration = Duration::from_secs(1);

fn would(verdict: Verdict, rule: u32) -> Option<Would> {
    let rule = RuleId(rule);
    Some(Would { verdict, rule })
}

/// A decision between guest 1 and guest 2 about port 1000 plus the atom.
fn row(direction: Direction, atom: u16, verdict: Verdict, rule: u32) -> Decision {
    Decision {
        local: IdentityId(1),
        peer: IdentityId(2),
        direction,
        atom: AtomId(atom),
        verdict,
        rule: RuleId(rule),
        log: true,
        limit: 0,
        log_limit: 0,
        would: None,
    }
}

fn tables(decisions: Vec<Decision>) -> HostTables {
    let ports = 1..=decisions.iter().map(|row| row.atom.0).max().unwrap_or(1);
    let atoms = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| {
            ports.clone().map(move |atom| AtomRange {
                protocol,
                first: 1_000 + atom,
                last: 1_000 + atom,
                atom: AtomId(atom),
            })
        });
    HostTables {
        atoms: atoms.collect(),
        decisions,
        ..common::tables()
    }
}

fn observed(mut tables: HostTables) -> HostTables {
    for entry in &mut tables.addresses {
        entry.observe = entry.vnic == Some(VNIC);
    }
    tables
}

/// The model and, with root, the programs, under one clock.
struct Pair {
    model: Firewall,
    bench: Option<Bench>,
    now: Duration,
}

impl Pair {
    fn new(tables: &HostTables) -> Self {
        let sessions_max = 8_192;
        let mut model = Firewall::new(lictor_model::Vnic {
            vnic: VNIC,
            mac: GUEST_MAC,
            segment: SEGMENT,
            sessions_max,
            link: Link::PLAIN,
        });
        model.set_state(VnicState::Open);
        let bench = privileged().then(|| {
            let mut bench = Bench::bare();
            let attached = bench.datapath.attach(&spec(sessions_max));
            attached.expect("attaches");
            let opened = bench.datapath.set_state(VNIC, VnicState::Open);
            opened.expect("opens");
            bench
        });
        let now = 1_000 * SECOND;
        let mut pair = Self { model, bench, now };
        pair.load(tables);
        pair.wait(SECOND);
        pair
    }

    fn load(&mut self, tables: &HostTables) {
        self.model.load(tables);
        if let Some(bench) = &mut self.bench {
            bench.datapath.load(tables).expect("loads");
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        if let Some(bench) = &self.bench {
            bench.datapath.fix_clock(VNIC, self.now).expect("sets");
        }
    }

    /// Asserts verdict and reason, then the rule, then what would have been, as in
    /// "allow policy-allow 7, would deny 8".
    fn check(&mut self, what: &str, direction: Direction, bytes: &[u8], expected: &str) {
        let answer = self.model.judge(&Frame {
            direction,
            at: self.now,
            came_by: None,
            bytes,
        });
        let text = |verdict, reason, rule, would: Option<Would>| {
            let would = would.map(|would| format!(", would {} {}", would.verdict, would.rule.0));
            format!("{verdict} {reason} {rule}{}", would.unwrap_or_default())
        };
        let found = text(answer.verdict, answer.reason, answer.rule.0, answer.would);
        assert_eq!(found, expected, "the model on {what} ({direction})");
        if let Some(bench) = &self.bench {
            let answer = bench.datapath.test_run(VNIC, direction, bytes);
            let answer = answer.expect("runs");
            let found = text(answer.verdict, answer.reason, answer.rule.0, answer.would);
            assert_eq!(found, expected, "the program on {what} ({direction})");
        }
    }

    /// Asserts a rule's packets, sessions and observed packets.
    fn counted(&self, rule: u32, expected: [u64; 3]) {
        let rule = RuleId(rule);
        let found = self.model.counters().rules.get(&rule);
        let found = found.map(|rule| [rule.packets, rule.sessions, rule.observed]);
        assert_eq!(found.unwrap_or_default(), expected, "the model, {rule}");
        if let Some(bench) = &self.bench {
            let counters = bench.datapath.rule_counters_of(VNIC).expect("reads");
            let found = counters.get(&rule).copied().unwrap_or_default();
            let found = [found.packets, found.sessions, found.observed];
            assert_eq!(found, expected, "the program, {rule}");
        }
    }
}

fn to(port: u16, from: u16) -> Vec<u8> {
    ip(Egress, OUT, 17, &udp((from, 1_000 + port)))
}

fn syn(port: u16, direction: Direction) -> Vec<u8> {
    let ends = if direction == Egress { OUT } else { BACK };
    syn_to(1_000 + port, ends, direction)
}

#[test]
fn a_rule_that_rejects_is_told_apart_from_one_that_denies() {
    let mut pair = Pair::new(&tables(vec![
        row(Egress, 1, Verdict::Reject, 11),
        row(Ingress, 1, Verdict::Reject, 12),
        row(Egress, 2, Verdict::Deny, 13),
    ]));
    pair.check("a SYN", Egress, &syn(1, Egress), "deny rejected 11");
    pair.check("a datagram", Egress, &to(1, 5), "deny rejected 11");
    pair.check("a SYN", Ingress, &syn(1, Ingress), "deny rejected 12");
    pair.check("a SYN", Egress, &syn(2, Egress), "deny policy-deny 13");
    pair.check("a SYN", Ingress, &syn(2, Ingress), "deny default-deny 0");
    pair.counted(11, [2, 0, 0]);
    pair.counted(12, [1, 0, 0]);
}

#[test]
fn a_limit_allows_so_many_new_sessions_in_a_second_and_leaves_live_ones_alone() {
    let mut pair = Pair::new(&tables(vec![Decision {
        limit: 2,
        ..row(Egress, 1, Verdict::Allow, 21)
    }]));
    for from in [1, 2] {
        pair.check("in time", Egress, &to(1, from), "allow policy-allow 21");
    }
    pair.check("too many", Egress, &to(1, 3), "deny limited 21");
    pair.check("a live one", Egress, &to(1, 2), "allow session 21");
    pair.wait(SECOND / 2);
    pair.check("in the same second", Egress, &to(1, 3), "deny limited 21");
    pair.wait(SECOND / 2);
    pair.check(
        "the next second",
        Egress,
        &to(1, 3),
        "allow policy-allow 21",
    );
    pair.counted(21, [5, 3, 0]);
}

#[test]
fn rules_in_observe_mode_only_say_what_they_would_have_done() {
    let mut pair = Pair::new(&tables(vec![
        Decision {
            would: would(Verdict::Deny, 32),
            ..row(Egress, 1, Verdict::Allow, 31)
        },
        Decision {
            would: would(Verdict::Allow, 33),
            ..row(Egress, 2, Verdict::Deny, 0)
        },
        Decision {
            would: would(Verdict::Reject, 34),
            ..row(Ingress, 2, Verdict::Deny, 35)
        },
    ]));
    let both = "allow policy-allow 31, would deny 32";
    pair.check("an allowed session", Egress, &to(1, 5), both);
    pair.check("its next packet", Egress, &to(1, 5), "allow session 31");
    let both = "deny default-deny 0, would allow 33";
    pair.check("a denied one", Egress, &to(2, 5), both);
    let both = "deny policy-deny 35, would reject 34";
    pair.check("another denied one", Ingress, &syn(2, Ingress), both);
    pair.counted(31, [1, 1, 0]);
    pair.counted(32, [0, 0, 1]);
    pair.counted(33, [0, 0, 1]);
    pair.counted(0, [1, 0, 0]);
}

#[test]
fn what_policy_denies_passes_at_an_observed_guest_until_it_is_enforced() {
    let enforced = tables(vec![
        row(Egress, 1, Verdict::Deny, 41),
        row(Egress, 2, Verdict::Reject, 42),
        Decision {
            limit: 1,
            ..row(Egress, 3, Verdict::Allow, 43)
        },
    ]);
    let mut pair = Pair::new(&observed(enforced.clone()));
    let seen = "allow observed 0, would deny 41";
    pair.check("a denied session", Egress, &syn(1, Egress), seen);
    let seen = "allow observed 0, would reject 42";
    pair.check("a rejected one", Egress, &to(2, 5), seen);
    pair.check(
        "within its limit",
        Egress,
        &to(3, 5),
        "allow policy-allow 43",
    );
    let seen = "allow observed 0, would deny 43";
    pair.check("beyond it", Egress, &to(3, 6), seen);
    let seen = "allow observed 0, would deny 0";
    pair.check("named by no rule", Ingress, &syn(9, Ingress), seen);
    // It is a session like any other.
    let reply = ip(Ingress, BACK, 17, &udp((1_002, 5)));
    pair.check("its answer", Ingress, &reply, "allow session 0");
    // Lies and what is not understood are no matter of policy.
    let liar = ip(Egress, ("10.0.0.99", "10.0.0.2"), 17, &udp((5, 1_001)));
    pair.check("a spoofed source", Egress, &liar, "deny spoofed-address 0");
    let tag = ether(PEER_MAC, GUEST_MAC, 0x88cc, &[0; 20]);
    pair.check("another EtherType", Egress, &tag, "deny ether-type 0");
    let stray = back(&answer(ACK, 7, 7));
    pair.check("a stray segment", Ingress, &stray, "deny no-session 0");
    pair.counted(41, [0, 0, 1]);
    pair.counted(0, [0, 0, 1]);
    pair.load(&enforced);
    let end = tcp(Tcp {
        ports: (4_000, 1_001),
        seq: 2,
        ack: 0,
        flags: ACK,
        payload: 0,
    });
    let end = ip(Egress, OUT, 6, &end);
    pair.check("enforced now", Egress, &end, "deny revoked 41");
}

/// A datagram from port 5 to another one.
fn sent(ends: (&str, &str), to: Mac, from: Mac, port: u16) -> Vec<u8> {
    let parse = |text: &str| text.parse().expect("an address");
    let packet = v4(parse(ends.0), parse(ends.1), 17, &udp((5, port)));
    ether(to, from, 0x0800, &packet)
}

#[test]
fn a_group_is_heard_if_a_rule_lets_the_guest_hear_the_sender_and_its_session_goes_one_way() {
    const MDNS: Mac = Mac([1, 0, 0x5e, 0, 0, 251]);
    let mut groups = tables(vec![
        row(Ingress, 1, Verdict::Allow, 71),
        Decision {
            peer: IdentityId(9),
            ..row(Egress, 1, Verdict::Allow, 72)
        },
        Decision {
            peer: IdentityId::WORLD,
            ..row(Egress, 2, Verdict::Allow, 73)
        },
    ]);
    // A set may name groups; one that is in no set is nobody in particular.
    groups.addresses.push(address("224.0.0.0/24", 9, 0, 0));
    let heard = |to, port| sent(("10.0.0.2", "224.0.0.251"), to, PEER_MAC, port);
    let mut pair = Pair::new(&groups);
    let seen = "allow policy-allow 71";
    pair.check("a group", Ingress, &heard(MDNS, 1_001), seen);
    let seen = "deny default-deny 0";
    pair.check("a port without a rule", Ingress, &heard(MDNS, 1_002), seen);
    let wrong = Mac([1, 0, 0x5e, 0, 0, 252]);
    let seen = "deny foreign-mac 0";
    pair.check("another group's MAC", Ingress, &heard(wrong, 1_001), seen);
    let all = sent(
        ("10.0.0.2", "255.255.255.255"),
        Mac([0xff; 6]),
        PEER_MAC,
        1_001,
    );
    pair.check("all stations", Ingress, &all, "allow policy-allow 71");
    // The guest's own answer is another conversation, and needs a rule.
    let reply = ip(Egress, OUT, 17, &udp((1_001, 5)));
    pair.check("an answer", Egress, &reply, "deny default-deny 0");
    let out = |group, port| sent(("10.0.0.1", group), MDNS, GUEST_MAC, port);
    let seen = "allow policy-allow 72";
    pair.check("to a set", Egress, &out("224.0.0.251", 1_001), seen);
    let seen = "allow policy-allow 73";
    pair.check("to no set", Egress, &out("239.1.1.1", 1_002), seen);
    let reply = ip(Ingress, BACK, 17, &udp((1_002, 5)));
    pair.check("an answer", Ingress, &reply, "deny default-deny 0");
}

/// The tables know hosts and prefixes, not which of them is a subnet of the link: 10.0.0.255 is one
/// more address, and nobody's.
#[test]
fn the_broadcast_address_of_a_subnet_is_an_address_like_any_other() {
    const ALL: Mac = Mac([0xff; 6]);
    let mut subnets = tables(vec![
        row(Ingress, 1, Verdict::Allow, 71),
        Decision {
            peer: IdentityId(9),
            ..row(Egress, 1, Verdict::Allow, 72)
        },
    ]);
    subnets.addresses.push(address("10.0.0.0/24", 9, 0, 0));
    subnets.addresses.push(AddressEntry {
        kind: AddressKind::Routed,
        ..address("10.7.0.0/24", 1, VNIC.0, 1)
    });
    let toward = |to, mac| sent(("10.0.0.2", to), mac, PEER_MAC, 1_001);
    let mut pair = Pair::new(&subnets);
    let seen = "deny foreign-address 0";
    pair.check("of its subnet", Ingress, &toward("10.0.0.255", ALL), seen);
    let alone = toward("10.0.0.255", GUEST_MAC);
    pair.check("for it alone", Ingress, &alone, seen);
    let seen = "allow policy-allow 71";
    pair.check(
        "all of the link",
        Ingress,
        &toward("255.255.255.255", ALL),
        seen,
    );
    // A router with a subnet behind it decides itself what it forwards (RFC 2644).
    pair.check("behind it", Ingress, &toward("10.7.0.255", ALL), seen);
    let own = |to| sent(("10.0.0.1", to), ALL, GUEST_MAC, 1_001);
    let seen = "allow policy-allow 72";
    pair.check("to a set with it", Egress, &own("10.0.0.255"), seen);
    let seen = "deny default-deny 0";
    pair.check("to no set", Egress, &own("10.1.0.255"), seen);
}

#[test]
fn an_ether_type_passes_by_a_rule_of_its_own_and_leaves_no_session() {
    let nobody = |direction, verdict, rule| Decision {
        peer: IdentityId::WORLD,
        ..row(direction, 1, verdict, rule)
    };
    let mut under = tables(vec![
        nobody(Egress, Verdict::Allow, 61),
        nobody(Ingress, Verdict::Deny, 62),
    ]);
    under.atoms = vec![AtomRange {
        protocol: Protocol::Ether,
        first: LLDP,
        last: LLDP,
        atom: AtomId(1),
    }];
    let out = ether(PEER_MAC, GUEST_MAC, LLDP, &[0; 20]);
    let back = ether(GUEST_MAC, PEER_MAC, LLDP, &[0; 20]);
    let other = ether(PEER_MAC, GUEST_MAC, LLDP + 1, &[0; 20]);
    let mut pair = Pair::new(&under);
    pair.check("LLDP", Egress, &out, "allow policy-allow 61");
    pair.check("LLDP", Ingress, &back, "deny policy-deny 62");
    pair.check("another one", Egress, &other, "deny ether-type 0");
    pair.counted(61, [1, 0, 0]);
    under.decisions[0].limit = 1;
    pair.load(&observed(under.clone()));
    pair.check("LLDP", Egress, &out, "allow policy-allow 61");
    let seen = "allow observed 0, would deny 61";
    pair.check("too much of it", Egress, &out, seen);
    let seen = "allow observed 0, would deny 62";
    pair.check("LLDP", Ingress, &back, seen);
    pair.check("another one", Egress, &other, "deny ether-type 0");
}

#[test]
fn a_rule_reports_no_more_events_than_its_limit() {
    let limited = Decision {
        log_limit: 3,
        ..row(Egress, 1, Verdict::Deny, 51)
    };
    let open = row(Egress, 2, Verdict::Deny, 52);
    let mut pair = Pair::new(&tables(vec![limited, open]));
    for from in 0..5 {
        pair.check("limited", Egress, &to(1, from), "deny policy-deny 51");
        pair.check("open", Egress, &to(2, from), "deny policy-deny 52");
    }
    let Some(bench) = &mut pair.bench else {
        return;
    };
    let mut events = [0; 2];
    let polled = bench.datapath.poll_events(Duration::ZERO, |event| {
        events[(event.rule.0 - 51) as usize] += 1;
    });
    assert_eq!((polled.expect("polls"), events), (8, [3, 5]));
    assert_eq!(bench.datapath.events_limited().expect("reads"), 2);
}

#[test]
fn where_no_rule_finds_room_any_more_a_limit_denies_and_the_rest_goes_uncounted() {
    let max = RULES_PER_VNIC_MAX as u16;
    let allow = |atom| row(Egress, atom, Verdict::Allow, atom.into());
    let mut rows: Vec<Decision> = (1..=max + 1).map(allow).collect();
    rows.push(Decision {
        limit: 5,
        ..allow(max + 2)
    });
    let mut pair = Pair::new(&tables(rows));
    for atom in 1..=max {
        let expected = format!("allow policy-allow {atom}");
        pair.check("one with room", Egress, &to(atom, 5), &expected);
    }
    let expected = format!("allow policy-allow {}", max + 1);
    pair.check("one too many", Egress, &to(max + 1, 5), &expected);
    let expected = format!("deny limited {}", max + 2);
    pair.check("one with a limit", Egress, &to(max + 2, 5), &expected);
    // Those that have their room keep it while there is none for others.
    let again = max - 500..=max;
    for atom in again.clone() {
        let expected = format!("allow policy-allow {atom}");
        pair.check("one with room, again", Egress, &to(atom, 6), &expected);
    }
    assert_eq!(pair.model.counters().uncounted, 2);
    let Some(bench) = &pair.bench else {
        return;
    };
    assert_eq!(bench.datapath.lost().expect("reads").1, 2, "uncounted");
    let rules = bench.datapath.rule_counters().expect("reads");
    assert_eq!(rules.len(), usize::from(max));
    for (rule, count) in rules {
        let times = 1 + u64::from(again.contains(&(rule.0 as u16)));
        let expected = RuleCount {
            packets: times,
            bytes: 42 * times,
            sessions: times,
            observed: 0,
        };
        assert_eq!(count, expected, "{rule:?}");
    }
}

#[test]
fn trap_8_a_number_that_the_kernel_cannot_hold_is_refused_and_the_last_good_tables_stay() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::new();
    let before = bench.datapath.read_back().expect("reads").digest();
    let fits = u64::from(u32::MAX);
    let mut tables = common::tables();
    tables.generation = Generation(fits + 1);
    let mut binding = common::tables();
    binding
        .addresses
        .push(address("10.0.0.77/32", 1, 7, fits + 1));
    for tables in [tables, binding] {
        let error = bench.datapath.load(&tables).expect_err("too large");
        assert!(matches!(error, Error::Row { .. }), "{error:?}");
        assert_eq!(bench.datapath.read_back().expect("reads").digest(), before);
    }
    let mut last = common::tables();
    last.generation = Generation(fits);
    bench.datapath.load(&last).expect("the largest one fits");
    assert_eq!(
        bench.datapath.read_back().expect("reads").generation,
        last.generation
    );
}
