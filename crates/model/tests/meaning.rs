//! The model by itself, without a kernel: time, quota, loads, moves and counters. Packets of every
//! kind are in the golden tables of `crates/datapath/tests`, which hold the model too.

use lictor_model::{Firewall, Frame, Vnic};
use lictor_types::{
    AddressEntry, AtomId, AtomRange, Decision, Direction, Epoch, Generation, HostTables,
    IdentityId, Link, Mac, Protocol, RuleId, Segment, Verdict, VnicId, VnicState,
};
use std::time::Duration;

use Direction::{Egress, Ingress};

const GUEST: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const PEER: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);
const OUT: ([u8; 4], [u8; 4]) = ([10, 0, 0, 1], [10, 0, 0, 2]);

/// The guest (10.0.0.1) may ask the peer's DNS, by this rule.
fn tables(rule: u32) -> HostTables {
    let address = |prefix: &str, identity, vnic| AddressEntry {
        segment: Segment(7),
        prefix: prefix.parse().expect("a valid prefix"),
        identity: IdentityId(identity),
        vnic: Some(VnicId(vnic)),
        epoch: Epoch(1),
        kind: lictor_types::AddressKind::Own,
        observe: false,
    };
    HostTables {
        generation: Generation(5),
        epoch: Epoch(1),
        addresses: vec![address("10.0.0.1/32", 1, 1), address("10.0.0.2/32", 2, 2)],
        atoms: vec![AtomRange {
            protocol: Protocol::Udp,
            first: 53,
            last: 53,
            atom: AtomId(1),
        }],
        decisions: vec![Decision {
            local: IdentityId(1),
            peer: IdentityId(2),
            direction: Egress,
            atom: AtomId(1),
            verdict: Verdict::Allow,
            rule: RuleId(rule),
            log: false,
            limit: 0,
            log_limit: 0,
            would: None,
        }],
    }
}

fn open(sessions_max: u32) -> Firewall {
    let mut model = Firewall::new(Vnic {
        vnic: VnicId(1),
        mac: GUEST,
        segment: Segment(7),
        sessions_max,
        link: Link::PLAIN,
    });
    model.load(&tables(9));
    model.set_state(VnicState::Open);
    model
}

/// A datagram between the guest's port and the peer's 53.
fn datagram(direction: Direction, port: u16) -> Vec<u8> {
    let (to, from) = match direction {
        Egress => (PEER, GUEST),
        Ingress => (GUEST, PEER),
    };
    let (source, destination) = match direction {
        Egress => (OUT.0, OUT.1),
        Ingress => (OUT.1, OUT.0),
    };
    let ports = match direction {
        Egress => [port, 53],
        Ingress => [53, port],
    };
    let mut bytes = [&to.0[..], &from.0, &[8, 0]].concat();
    bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(ports.map(u16::to_be_bytes).concat());
    bytes.extend([0, 8, 0, 0]);
    bytes
}

/// Asserts verdict, reason and rule, as "allow session 9".
fn check(model: &mut Firewall, at_s: u64, packet: (Direction, u16), expected: &str) {
    let (direction, port) = packet;
    let answer = model.judge(&Frame {
        direction,
        at: Duration::from_secs(at_s),
        bytes: &datagram(direction, port),
        came_by: None,
    });
    let found = format!("{} {} {}", answer.verdict, answer.reason, answer.rule);
    assert_eq!(found, expected, "{direction} port {port} at {at_s} s");
}

#[test]
fn a_session_ends_at_the_very_moment_of_its_time_out() {
    let mut model = open(8);
    check(&mut model, 0, (Egress, 1), "allow policy-allow 9");
    check(&mut model, 29, (Ingress, 1), "allow session 9");
    check(&mut model, 29 + 179, (Ingress, 1), "allow session 9");
    check(
        &mut model,
        29 + 179 + 180,
        (Ingress, 1),
        "deny default-deny 0",
    );
}

#[test]
fn the_quota_counts_answered_sessions_until_they_expire() {
    let mut model = open(1);
    check(&mut model, 0, (Egress, 1), "allow policy-allow 9");
    check(&mut model, 0, (Egress, 2), "allow policy-allow 9");
    check(&mut model, 0, (Ingress, 1), "allow session 9");
    check(&mut model, 1, (Ingress, 2), "deny session-table-full 9");
    check(&mut model, 1, (Egress, 2), "allow session 9");
    check(&mut model, 179, (Egress, 2), "allow policy-allow 9");
    check(&mut model, 179, (Ingress, 2), "deny session-table-full 9");
    check(&mut model, 180, (Ingress, 2), "allow session 9");
}

#[test]
fn a_load_judges_again_and_a_revoked_session_is_gone() {
    let mut model = open(8);
    check(&mut model, 0, (Egress, 1), "allow policy-allow 9");
    model.load(&tables(10));
    check(&mut model, 0, (Ingress, 1), "allow session 10");
    let mut revoked = tables(10);
    revoked.decisions.clear();
    model.load(&revoked);
    check(&mut model, 0, (Ingress, 1), "deny revoked 0");
    assert_eq!(model.sessions(Duration::ZERO), []);
}

#[test]
fn a_session_survives_a_move_with_its_remaining_time() {
    let (mut source, mut target) = (open(8), open(8));
    check(&mut source, 0, (Egress, 1), "allow policy-allow 9");
    let records = source.sessions(Duration::from_secs(20));
    let (arrival, left) = (1_000, 10);
    target.import(&records, Duration::from_secs(arrival));
    assert_eq!(target.sessions(Duration::from_secs(arrival)), records);
    let mut late = target.clone();
    check(
        &mut target,
        arrival + left - 1,
        (Ingress, 1),
        "allow session 9",
    );
    check(
        &mut late,
        arrival + left,
        (Ingress, 1),
        "deny default-deny 0",
    );
}

#[test]
fn counters_equal_the_packets() {
    let mut model = open(8);
    check(&mut model, 0, (Egress, 1), "allow policy-allow 9");
    check(&mut model, 0, (Ingress, 1), "allow session 9");
    check(&mut model, 0, (Ingress, 2), "deny default-deny 0");
    let counters = model.counters();
    assert_eq!(counters.seen.map(|count| count.packets), [1, 2]);
    assert_eq!(counters.seen.map(|count| count.bytes), [42, 84]);
    let rules: Vec<_> = counters
        .rules
        .iter()
        .map(|(rule, count)| (rule.0, count.packets, count.sessions))
        .collect();
    assert_eq!(rules, [(0, 1, 0), (9, 1, 1)]);
}
