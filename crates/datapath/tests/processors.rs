//! Two processors at once on one conversation, and what happens when something is full. The frames
//! of a round are put on the program by two threads, each bound to a processor of its own.

mod common;

use common::packets::{ACK, BACK, OUT, SYN, ip, udp};
use common::{Bench, VNIC, privileged};
use lictor_datapath::Datapath;
use lictor_types::{Direction, Reason, TcpState};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use Direction::{Egress, Ingress};

const ROUNDS: u16 = 4_000;
/// Turns that a thread waits without giving way.
const SPINS: u32 = 10_000;

/// Lets two threads go on at the same moment, without the kernel in between.
struct Gate {
    arrived: AtomicUsize,
}

impl Gate {
    fn pass(&self, turn: usize) {
        self.arrived.fetch_add(1, SeqCst);
        let mut spins = 0;
        while self.arrived.load(SeqCst) < 2 * (turn + 1) {
            spins += 1;
            match spins % SPINS {
                0 => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

fn bind(number: usize) {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("reads");
    let allowed: Vec<_> = (0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).expect("in range"))
        .collect();
    let mut own = nix::sched::CpuSet::new();
    own.set(allowed[number % allowed.len()]).expect("in range");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &own).expect("binds");
}

/// The frames of one round, each put on by both threads at once.
type Round = Vec<(Direction, Vec<u8>)>;

/// Longer than the place of a session that ended waits before it is taken again.
const PAUSE: Duration = Duration::from_millis(40);
/// Of the vnic's clock, which goes on with the rounds only: a slow machine outlasts no session.
const BEGIN: Duration = Duration::from_secs(1_000);

/// Gives what both were told. A pause lies before each round.
fn on_two_processors(bench: &Bench, rounds: &[Round]) -> [Vec<Vec<Reason>>; 2] {
    let gate = Gate {
        arrived: AtomicUsize::new(0),
    };
    let run = |number: usize| {
        bind(number);
        let datapath = Datapath::open(&bench.root()).expect("opens");
        let mut turn = 0;
        let put = |(direction, frame): &(Direction, Vec<u8>)| {
            gate.pass(turn);
            turn += 1;
            let answer = datapath.test_run(VNIC, *direction, frame);
            answer.expect("runs").reason
        };
        let mut put = put;
        let play = |(at, round): (Duration, &Round)| {
            if number == 0 {
                datapath.fix_clock(VNIC, at).expect("sets");
            }
            round.iter().map(&mut put).collect()
        };
        let moments = (0..).map(|number| BEGIN + PAUSE * number);
        moments.zip(rounds).map(play).collect()
    };
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|number| scope.spawn(move || run(number)));
        threads.map(|thread| thread.join().expect("a thread ends"))
    })
}

/// Each round was one conversation: one session, answered for in every counter.
fn check(rounds: &[Round], rule: u32, state: TcpState) {
    let bench = Bench::with(16_384);
    let told = on_two_processors(&bench, rounds);
    for (number, (one, other)) in told[0].iter().zip(&told[1]).enumerate() {
        let first = BTreeSet::from([one[0], other[0]]);
        assert!(
            first.contains(&Reason::PolicyAllow)
                && first.is_subset(&[Reason::PolicyAllow, Reason::Session].into()),
            "round {number}: {one:?}, {other:?}"
        );
        let rest = one[1..].iter().chain(&other[1..]);
        let odd: Vec<_> = rest.filter(|reason| **reason != Reason::Session).collect();
        assert!(odd.is_empty(), "round {number}: {one:?}, {other:?}");
    }
    let sessions = bench.datapath.export(VNIC).expect("exports");
    let keys: BTreeSet<_> = sessions.iter().map(|session| session.key).collect();
    assert_eq!(
        (keys.len(), sessions.len()),
        (rounds.len(), rounds.len()),
        "one session for each key, none twice"
    );
    assert!(sessions.iter().all(|session| session.state == state));
    let rules = bench.datapath.rule_counters().expect("reads");
    let counted = rules.iter().find(|(id, _)| id.0 == rule).expect("counted");
    assert_eq!(counted.1.sessions, rounds.len() as u64, "new sessions");
    let counters = bench.datapath.counters(VNIC).expect("reads");
    for (direction, counters) in [(Egress, &counters.egress), (Ingress, &counters.ingress)] {
        let frames = rounds.iter().flatten().filter(|(way, _)| *way == direction);
        let expected = 2 * frames.count() as u64;
        assert_eq!(counters.seen.packets, expected, "{direction}");
        assert_eq!(counters.allowed().packets, expected, "{direction}");
    }
    assert_eq!(
        bench.datapath.purge(VNIC).expect("purges"),
        rounds.len() as u64
    );
    assert_eq!(bench.datapath.session_count(VNIC).expect("counts"), 0);
}

#[test]
fn two_processors_open_one_conversation_of_datagrams() {
    if !privileged() {
        return;
    }
    let round = |port| {
        let query = ip(Egress, OUT, 17, &udp((port, 53)));
        let answer = ip(Ingress, BACK, 17, &udp((53, port)));
        vec![(Egress, query.clone()), (Ingress, answer), (Egress, query)]
    };
    let rounds: Vec<_> = (10_000..10_000 + ROUNDS).map(round).collect();
    check(&rounds, 102, TcpState::Established);
}

#[test]
fn two_processors_open_one_tcp_conversation() {
    if !privileged() {
        return;
    }
    let segment = |direction, port: u16, (flags, seq, ack): (u8, u32, u32)| {
        let (ends, ports) = match direction {
            Egress => (OUT, [port, 80]),
            Ingress => (BACK, [80, port]),
        };
        let mut bytes = ports.map(u16::to_be_bytes).concat();
        bytes.extend(seq.to_be_bytes());
        bytes.extend(ack.to_be_bytes());
        bytes.extend([0x50, flags, 4, 0, 0, 0, 0, 0]);
        (direction, ip(direction, ends, 6, &bytes))
    };
    let round = |port| {
        vec![
            segment(Egress, port, (SYN, 100, 0)),
            segment(Ingress, port, (SYN | ACK, 500, 101)),
            segment(Egress, port, (ACK, 101, 501)),
            segment(Ingress, port, (ACK, 501, 101)),
        ]
    };
    let rounds: Vec<_> = (10_000..10_000 + ROUNDS).map(round).collect();
    check(&rounds, 101, TcpState::Established);
}

/// Both ends of a quota: what is beyond it is denied, and nothing that stands is lost.
#[test]
fn two_processors_never_pass_the_quota() {
    if !privileged() {
        return;
    }
    const QUOTA: u32 = 256;
    let bench = Bench::with(QUOTA);
    let round = |port| {
        vec![
            (Egress, ip(Egress, OUT, 17, &udp((port, 53)))),
            (Ingress, ip(Ingress, BACK, 17, &udp((53, port)))),
        ]
    };
    let rounds: Vec<_> = (10_000..10_600).map(round).collect();
    let told = on_two_processors(&bench, &rounds);
    let sessions = bench.datapath.export(VNIC).expect("exports");
    let answered = sessions
        .iter()
        .filter(|session| session.state == TcpState::Established);
    let promoted: BTreeSet<_> = answered.map(|session| session.key.local_port).collect();
    assert_eq!(promoted.len(), QUOTA as usize);
    // Beyond the quota no answer passes on either processor. Within it one may be refused: it comes
    // while the other processor takes the last place for the same session.
    for (port, (one, other)) in (10_000..).zip(told[0].iter().zip(&told[1])) {
        let passed = [one[1], other[1]].contains(&Reason::Session);
        assert_eq!(passed, promoted.contains(&port), "{port}");
    }
    let full = |thread: &Vec<Vec<Reason>>| {
        let answers = thread.iter().map(|round| round[1]);
        answers
            .filter(|reason| *reason == Reason::SessionTableFull)
            .count()
    };
    let denied = bench.datapath.counters(VNIC).expect("reads").ingress;
    let denied = denied.reason(Reason::SessionTableFull).packets as usize;
    assert_eq!(denied, full(&told[0]) + full(&told[1]));
}

/// An event that finds no room is counted: nothing is silently lost.
#[test]
fn events_that_find_no_room_are_counted() {
    if !privileged() {
        return;
    }
    const BATCH: u64 = 1_000;
    const BATCHES: u64 = 20;
    let mut bench = Bench::new();
    let odd = ip(
        Egress,
        OUT,
        6,
        &[
            0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 3, 4, 0, 0, 0, 0, 0,
        ],
    );
    for _ in 0..BATCHES {
        for _ in 0..BATCH {
            bench.check("SYN and FIN", Egress, &odd, "deny tcp-flags");
        }
        // Each second has its own share of events.
        let second = Duration::from_secs(1);
        bench
            .datapath
            .advance_clock(VNIC, second)
            .expect("advances");
    }
    let mut events = 0;
    let mut poll = || {
        let found = bench.datapath.poll_events(Duration::ZERO, |event| {
            assert_eq!(event.reason, Reason::TcpFlags);
            events += 1;
        });
        found.expect("polls")
    };
    while poll() > 0 {}
    let (lost, _) = bench.datapath.lost().expect("reads");
    assert!(lost > 0, "a ring of a megabyte is full");
    assert_eq!(events + lost, BATCH * BATCHES);
}
