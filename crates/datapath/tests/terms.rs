//! On which terms a conversation may begin, and proofs that leave no trace. The model is held
//! against the program in each step.

mod common;

use common::packets::{ACK, FIN, RST, SYN, Tcp, ip, tcp, udp};
use common::{Bench, GUEST_MAC, VNIC, model, privileged};
use lictor_datapath::{Lease, Terms, proof_frame};
use lictor_model::{Firewall, Frame};
use lictor_types::{Direction, Probe, TcpState};
use std::time::Duration;

use Direction::{Egress, Ingress};

const FREE: Terms = Terms {
    lease: Lease::Free,
    stale: false,
    adopt: Duration::ZERO,
};
/// When the clock of both stands at first.
const BEGINS: Duration = Duration::from_secs(1_000_000);
const MINUTE: Duration = Duration::from_secs(60);

/// The program and the model under one clock.
struct Both {
    bench: Bench,
    model: Firewall,
    now: Duration,
}

impl Both {
    fn new() -> Self {
        let mut both = Self {
            bench: Bench::new(),
            model: model(),
            now: BEGINS,
        };
        both.pass(Duration::ZERO);
        both
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.bench.datapath.fix_clock(VNIC, self.now).expect("sets");
    }

    fn set(&mut self, terms: Terms) {
        self.bench.datapath.set_terms(VNIC, &terms).expect("sets");
        self.model.set_terms(lictor_model::Terms {
            lease_until: match terms.lease {
                Lease::Free => None,
                Lease::For(time) => Some(self.now + time),
                Lease::Kept => panic!("the model is told an end"),
            },
            adopt_until: self.now + terms.adopt,
            stale: terms.stale,
        });
    }

    /// Expects "allow session 101" of both.
    fn check(&mut self, (what, direction): (&str, Direction), bytes: &[u8], expected: &str) {
        let kernel = self.bench.datapath.test_run(VNIC, direction, bytes);
        let kernel = kernel.expect("runs");
        let (verdict, reason, rule) = (kernel.verdict, kernel.reason, kernel.rule);
        assert_eq!(format!("{verdict} {reason} {rule}"), expected, "{what}");
        let model = self.model.judge(&Frame {
            direction,
            at: self.now,
            bytes,
            came_by: None,
        });
        let (verdict, reason, rule) = (model.verdict, model.reason, model.rule);
        assert_eq!(
            format!("{verdict} {reason} {rule}"),
            expected,
            "{what} (model)"
        );
    }
}

fn segment(direction: Direction, flags: u8, from: u16) -> Vec<u8> {
    let (ends, ports) = match direction {
        Egress => (("10.0.0.1", "10.0.0.2"), (from, 80)),
        Ingress => (("10.0.0.2", "10.0.0.1"), (80, from)),
    };
    let header = Tcp {
        ports,
        seq: 7_000,
        ack: 9_000,
        flags,
        payload: 10,
    };
    ip(direction, ends, 6, &tcp(header))
}

fn query(from: u16) -> Vec<u8> {
    ip(Egress, ("10.0.0.1", "10.0.0.2"), 17, &udp((from, 53)))
}

#[test]
fn when_the_lease_is_over_what_lives_goes_on_and_nothing_begins() {
    if !privileged() {
        return;
    }
    let mut both = Both::new();
    both.set(Terms {
        lease: Lease::For(MINUTE),
        ..FREE
    });
    let out = |what| (what, Egress);
    both.check(out("within"), &query(5_000), "allow policy-allow 102");
    both.pass(MINUTE / 4);
    both.check(out("again"), &query(5_000), "allow session 102");
    assert_eq!(both.bench.datapath.lease_over(VNIC).expect("reads"), None);
    both.pass(MINUTE / 4);
    both.check(out("it lives"), &query(5_000), "allow session 102");
    both.pass(MINUTE / 2 - Duration::from_millis(1));
    both.check(
        out("the last moment"),
        &query(5_001),
        "allow policy-allow 102",
    );
    both.pass(Duration::from_millis(1));
    both.check(out("it is over"), &query(5_002), "deny unproven 102");
    both.check(out("what lives"), &query(5_001), "allow session 102");
    both.check(
        out("denied anyway"),
        &ip(Egress, ("10.0.0.1", "10.0.0.2"), 17, &udp((5, 99))),
        "deny default-deny 0",
    );
    both.pass(MINUTE / 3);
    let over = both.bench.datapath.lease_over(VNIC).expect("reads");
    assert_eq!(over, Some(MINUTE / 3));
    // Nothing proven, nothing renewed.
    let kept = Terms {
        lease: Lease::Kept,
        ..FREE
    };
    both.bench.datapath.set_terms(VNIC, &kept).expect("sets");
    both.check(out("still over"), &query(5_002), "deny unproven 102");
    both.set(Terms {
        lease: Lease::For(MINUTE),
        ..FREE
    });
    both.check(out("renewed"), &query(5_002), "allow policy-allow 102");
    both.set(FREE);
    both.pass(MINUTE * 2);
    both.check(
        out("without a lease"),
        &query(5_003),
        "allow policy-allow 102",
    );
}

#[test]
fn a_lease_that_nobody_ever_proved_is_over() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    let kept = Terms {
        lease: Lease::Kept,
        ..FREE
    };
    bench.datapath.set_terms(VNIC, &kept).expect("sets");
    bench.check("nothing proven", Egress, &query(1), "deny unproven");
}

#[test]
fn under_a_stale_release_nothing_begins_and_what_lives_goes_on() {
    if !privileged() {
        return;
    }
    let mut both = Both::new();
    both.check(("before", Egress), &query(5_000), "allow policy-allow 102");
    both.set(Terms {
        stale: true,
        ..FREE
    });
    both.check(("it lives", Egress), &query(5_000), "allow session 102");
    both.check(("new", Egress), &query(5_001), "deny stale 102");
    let opens = segment(Egress, SYN, 5_001);
    both.check(("a SYN", Egress), &opens, "deny stale 101");
}

#[test]
fn a_conversation_is_taken_up_in_its_midst_as_its_policy_allows_and_for_a_time() {
    if !privileged() {
        return;
    }
    let mut both = Both::new();
    let go_on = |direction, from| segment(direction, ACK, from);
    let refused = "deny no-session 101";
    both.check(("by default", Egress), &go_on(Egress, 4_000), refused);
    both.set(Terms {
        adopt: MINUTE,
        ..FREE
    });
    both.check(
        ("its guest asked", Egress),
        &go_on(Egress, 4_000),
        "allow adopted 101",
    );
    both.check(
        ("an answer", Ingress),
        &go_on(Ingress, 4_000),
        "allow session 101",
    );
    both.check(
        ("its server speaks", Ingress),
        &go_on(Ingress, 4_001),
        "allow adopted 101",
    );
    both.check(
        ("its guest", Egress),
        &go_on(Egress, 4_001),
        "allow session 101",
    );
    for (what, flags) in [("an end", FIN | ACK), ("an answer to a SYN", SYN | ACK)] {
        both.check((what, Egress), &segment(Egress, flags, 4_002), refused);
    }
    both.check(
        ("a reset", Egress),
        &segment(Egress, RST | ACK, 4_002),
        refused,
    );
    let sessions = both.bench.datapath.export(VNIC).expect("exports");
    let of_model = both.model.sessions(both.now);
    assert_eq!(sessions.len(), 2);
    for (session, opened) in sessions.iter().zip([Egress, Egress]) {
        assert_eq!(
            (session.state, session.opened),
            (TcpState::Established, opened)
        );
    }
    assert_eq!(of_model.len(), 2);
    both.set(Terms {
        lease: Lease::For(Duration::ZERO),
        adopt: MINUTE,
        ..FREE
    });
    both.check(
        ("the stricter wins", Egress),
        &go_on(Egress, 4_003),
        "deny unproven 101",
    );
    both.set(Terms {
        adopt: MINUTE,
        ..FREE
    });
    both.pass(MINUTE - Duration::from_millis(1));
    both.check(
        ("the last moment", Egress),
        &go_on(Egress, 4_003),
        "allow adopted 101",
    );
    both.pass(Duration::from_millis(1));
    both.check(("it is over", Egress), &go_on(Egress, 4_004), refused);
}

#[test]
fn a_proof_says_what_the_policy_says_and_leaves_no_trace() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    bench.datapath.fix_clock(VNIC, BEGINS).expect("stops");
    bench.check("a session", Egress, &query(5_000), "allow policy-allow");
    let before = (
        bench.datapath.counters(VNIC).expect("reads"),
        bench.datapath.rule_counters().expect("reads"),
        bench.datapath.export(VNIC).expect("exports"),
    );
    let over = Terms {
        lease: Lease::For(Duration::ZERO),
        stale: true,
        ..FREE
    };
    for terms in [FREE, over] {
        bench.datapath.set_terms(VNIC, &terms).expect("sets");
        for (probe, direction, expected) in [
            (
                "udp 10.0.0.1:5000 > 10.0.0.2:53",
                Egress,
                "allow policy-allow 102",
            ),
            (
                "tcp 10.0.0.1:4000 > 10.0.0.2:80",
                Egress,
                "allow policy-allow 101",
            ),
            (
                "tcp [fd00::1]:4000 > [fd00::2]:80",
                Egress,
                "allow policy-allow 101",
            ),
            (
                "tcp 10.0.0.2:4000 > 10.0.0.1:80",
                Ingress,
                "allow policy-allow 100",
            ),
            (
                "tcp 10.0.0.2:4000 > 10.0.0.1:22",
                Ingress,
                "deny policy-deny 200",
            ),
            (
                "tcp 10.0.0.1:4000 > 10.0.0.2:25",
                Egress,
                "deny default-deny 0",
            ),
            (
                "ip/47 10.0.0.1 > 10.0.0.2",
                Egress,
                "allow policy-allow 107",
            ),
            (
                "udp 10.0.0.9:1 > 10.0.0.2:53",
                Egress,
                "deny spoofed-address 0",
            ),
        ] {
            let probe: Probe = probe.parse().expect("a probe");
            let frame = proof_frame(&probe, GUEST_MAC, direction);
            let found = bench.datapath.prove(VNIC, (direction, None), &frame);
            let found = found.expect("runs");
            let told = format!("{} {} {}", found.verdict, found.reason, found.rule);
            assert_eq!(told, expected, "{probe}");
        }
    }
    let after = (
        bench.datapath.counters(VNIC).expect("reads"),
        bench.datapath.rule_counters().expect("reads"),
        bench.datapath.export(VNIC).expect("exports"),
    );
    assert_eq!(after, before);
    bench.check("it lives", Egress, &query(5_000), "allow session");
}
