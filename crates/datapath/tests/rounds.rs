//! Rounds of what has changed, beside a look at everything: whatever changes a table, and by
//! whichever way a packet goes, the rounds tell of it.

mod common;

use common::packets::{ACK, BACK, FIN, OUT, RST, SYN, Tcp, ip, tcp, udp};
use common::{Bench, VNIC, privileged};
use lictor_datapath::{Part, Told};
use lictor_types::{Direction, SessionRecord};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;
use std::time::Duration;

use Direction::{Egress, Ingress};

/// Below it are the ports of servers, some of which no guest may speak from.
const CLIENTS: u16 = 1_024;
/// Few enough that each of them comes again and again, in a table with far more buckets.
const CONVERSATIONS: u16 = 60;
const QUOTA: u32 = 4_096;
/// Longer than any session of these lives without a packet.
const LONG: Duration = Duration::from_secs(8 * 24 * 3_600);

/// What whoever hears of every round knows: the session in each slot.
type Known = BTreeMap<(u32, u32), SessionRecord>;

/// One round to its end in parts of about so many records.
fn round(bench: &Bench, told: &mut Told, known: &mut Known, max: usize) {
    let mut part = Part::default();
    loop {
        let exported = bench.datapath.export_part((VNIC, told), max, &mut part);
        exported.expect("exports");
        for (slot, record) in &part.records {
            // Each round tells times as of its own moment.
            let untimed = SessionRecord {
                idle_ms: 0,
                expires_in_ms: 0,
                ..*record
            };
            known.insert((part.table, *slot), untimed);
        }
        for slot in &part.gone {
            known.remove(slot);
        }
        if part.ended {
            return;
        }
    }
}

fn datagram(port: u16, direction: Direction) -> Vec<u8> {
    match direction {
        Egress => ip(direction, OUT, 17, &udp((CLIENTS + port, 53))),
        Ingress => ip(direction, BACK, 17, &udp((53, CLIENTS + port))),
    }
}

fn segment(port: u16, direction: Direction, (flags, seq, ack): (u8, u32, u32)) -> Vec<u8> {
    let ports = (CLIENTS + port, 80);
    let (ends, ports) = match direction {
        Egress => (OUT, ports),
        Ingress => (BACK, (ports.1, ports.0)),
    };
    let header = Tcp {
        ports,
        seq,
        ack,
        flags,
        payload: 0,
    };
    ip(direction, ends, 6, &tcp(header))
}

/// What one of the conversations may say next. Not every packet is one that passes.
fn packet(random: &mut StdRng) -> (Direction, Vec<u8>) {
    let port = random.gen_range(0..CONVERSATIONS);
    let direction = if random.r#gen() { Egress } else { Ingress };
    let words = [
        (Egress, (SYN, 100, 0)),
        (Ingress, (SYN | ACK, 500, 101)),
        (Egress, (ACK, 101, 501)),
        (Ingress, (ACK, 501, 101)),
        (Egress, (FIN | ACK, 101, 501)),
        (Ingress, (RST | ACK, 501, 101)),
    ];
    match random.gen_range(0..2) {
        0 => (direction, datagram(port, direction)),
        _ => {
            let (direction, word) = words[random.gen_range(0..words.len())];
            (direction, segment(port, direction, word))
        }
    }
}

/// Whatever the rounds have told so far is what a look at everything finds.
fn check(bench: &Bench, told: &mut Told, known: &mut Known, max: usize) {
    round(bench, told, known, max);
    assert_eq!(told.count(), known.len() as u64);
    let mut all = Known::new();
    round(bench, &mut Told::default(), &mut all, max);
    assert_eq!(*known, all);
}

#[test]
fn rounds_tell_of_every_change_whoever_makes_it() {
    if !privileged() {
        return;
    }
    for (seed, max) in [(1, 1), (2, 2_048)] {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::with(QUOTA);
        let (mut told, mut known) = (Told::default(), Known::new());
        for number in 0..400 {
            for _ in 0..random.gen_range(0..8) {
                let (direction, packet) = packet(&mut random);
                let judged = bench.datapath.test_run(VNIC, direction, &packet);
                judged.expect("judges");
            }
            if number % 20 == 0 {
                let all = bench.datapath.export(VNIC).expect("exports");
                let some: Vec<_> = all.iter().take(3).map(|record| record.key).collect();
                let removed = bench.datapath.remove_sessions(VNIC, &some);
                removed.expect("removes");
                bench
                    .datapath
                    .import(VNIC, &all[..all.len().min(1)])
                    .expect("imports");
            }
            if number % 150 == 149 {
                bench
                    .datapath
                    .resize(VNIC, QUOTA + number)
                    .expect("resizes");
            }
            check(&bench, &mut told, &mut known, max);
        }
        assert!(known.len() > usize::from(CONVERSATIONS) / 2, "{known:?}");
        expire(&bench, &mut told, &mut known, max);
    }
}

/// What has expired goes with the programs' own sweeps, a bucket at a time, and with the agent's.
fn expire(bench: &Bench, told: &mut Told, known: &mut Known, max: usize) {
    bench.datapath.advance_clock(VNIC, LONG).expect("advances");
    for port in CONVERSATIONS..CONVERSATIONS + 2_000 {
        bench.check(
            "asks",
            Egress,
            &datagram(port, Egress),
            "allow policy-allow",
        );
        bench.check("hears", Ingress, &datagram(port, Ingress), "allow session");
    }
    bench.datapath.sweep(VNIC).expect("sweeps");
    check(bench, told, known, max);
}
