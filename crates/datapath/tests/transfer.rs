//! Sessions that leave and enter a table while others begin and end in it.

mod common;

use common::packets::{BACK, OUT, ip, udp};
use common::{Bench, SEGMENT, VNIC, privileged};
use lictor_datapath::{Datapath, ImportRefusal};
use lictor_types::{
    Direction, Epoch, Generation, Reason, RuleId, SessionKey, SessionRecord, TcpEnd, TcpState,
    VnicState,
};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use Direction::{Egress, Ingress};

/// Longer than the place of a session that ended waits before it is taken again.
const REST: Duration = Duration::from_millis(40);

/// An answered query, whose every number says which one it is.
fn session(port: u16) -> SessionRecord {
    let end = TcpEnd {
        end: port.into(),
        end_max: port.into(),
        window_max: port.into(),
        acked: port.into(),
        ..TcpEnd::default()
    };
    SessionRecord {
        key: SessionKey {
            segment: SEGMENT,
            protocol: 17,
            local: OUT.0.parse().expect("an address"),
            remote: OUT.1.parse().expect("an address"),
            local_port: port,
            remote_port: 53,
        },
        opened: Egress,
        state: TcpState::Established,
        rule: RuleId(port.into()),
        generation: Generation(port.into()),
        local_epoch: Epoch(port.into()),
        remote_epoch: Epoch(port.into()),
        idle_ms: 0,
        expires_in_ms: 3_600_000,
        packets: [port.into(); 2],
        bytes: [port.into(); 2],
        tcp: [end; 2],
    }
}

fn sessions(ports: RangeInclusive<u16>) -> Vec<SessionRecord> {
    ports.map(session).collect()
}

/// All that was put in, and nothing of another session.
fn is_whole(found: &SessionRecord) -> bool {
    let untimed = SessionRecord {
        idle_ms: 0,
        expires_in_ms: 3_600_000,
        ..*found
    };
    untimed == session(found.key.local_port)
}

fn ports(records: &[SessionRecord]) -> Vec<u16> {
    let mut ports: Vec<_> = records.iter().map(|record| record.key.local_port).collect();
    ports.sort_unstable();
    ports
}

/// As many as the quota go in, and not one more: nothing that ended is counted still.
fn check_room(bench: &Bench, quota: u16) {
    bench.datapath.purge(VNIC).expect("purges");
    let receipt = bench
        .datapath
        .import(VNIC, &sessions(1_024..=1_024 + quota));
    let receipt = receipt.expect("imports");
    let refused = vec![(session(1_024 + quota).key, ImportRefusal::TableFull)];
    assert_eq!((receipt.imported, receipt.refused), (quota.into(), refused));
}

/// Waits without the kernel in between, so that two threads are at the same place at once.
fn wait_until(number: &AtomicUsize, reached: usize) {
    let mut spins = 0;
    while number.load(SeqCst) < reached {
        spins += 1;
        match spins % 10_000 {
            0 => std::thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
}

#[test]
fn what_the_program_begins_meanwhile_is_there_once() {
    if !privileged() {
        return;
    }
    // Of the half-open sessions of one bucket the eighth pushes out another; with room for so many
    // no bucket of this test has eight.
    const QUOTA: u16 = 8_192;
    const SLICE: usize = 16;
    let bench = Bench::with(QUOTA.into());
    let coming = sessions(2_000..=3_599);
    let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run = |way, frame: &[u8]| {
        let told = bench.datapath.test_run(VNIC, way, frame).expect("runs");
        let passes = [Reason::PolicyAllow, Reason::Session];
        assert!(passes.contains(&told.reason), "{told:?}");
    };
    let begin = || {
        for (number, record) in coming.iter().enumerate() {
            wait_until(&taken, number / SLICE);
            let port = record.key.local_port;
            let query = ip(Egress, OUT, 17, &udp((port, 53)));
            let answer = ip(Ingress, BACK, 17, &udp((53, port)));
            begun.store(number + 1, SeqCst);
            run(Egress, &query);
            if port % 2 == 0 {
                run(Ingress, &answer);
            }
        }
    };
    let take_in = |number: usize, slice: &[SessionRecord]| {
        wait_until(&begun, number * SLICE + SLICE / 2);
        let receipt = bench.datapath.import(VNIC, slice).expect("imports");
        taken.store(number + 1, SeqCst);
        let mut refused = receipt.refused.iter();
        assert!(refused.all(|(_, refusal)| *refusal == ImportRefusal::Exists));
        let all = receipt.imported + receipt.refused.len() as u64;
        assert_eq!(all, SLICE as u64);
    };
    std::thread::scope(|scope| {
        scope.spawn(begin);
        for (number, slice) in coming.chunks(SLICE).enumerate() {
            take_in(number, slice);
        }
    });
    let found = bench.datapath.export(VNIC).expect("exports");
    assert_eq!(ports(&found), ports(&coming));
    let count = bench.datapath.session_count(VNIC).expect("counts");
    assert_eq!(count, coming.len() as u64);
    check_room(&bench, QUOTA);
}

#[test]
fn what_goes_out_is_whole_while_others_end_and_begin() {
    if !privileged() {
        return;
    }
    const QUOTA: u16 = 1_024;
    let bench = Bench::with(QUOTA.into());
    bench
        .datapath
        .set_state(VNIC, VnicState::Hold)
        .expect("sets");
    let staying = 2_000..=2_499;
    let coming = [3_000..=3_399, 4_000..=4_399];
    let import = |ports: RangeInclusive<u16>| {
        let receipt = bench.datapath.import(VNIC, &sessions(ports));
        assert_eq!(receipt.expect("imports").refused, []);
    };
    import(staying.clone());
    let goes_on = AtomicBool::new(true);
    let known: BTreeSet<u16> = coming.iter().cloned().flatten().collect();
    let read = || {
        let datapath = Datapath::open(&bench.root()).expect("opens");
        let mut exports = 0;
        while goes_on.load(SeqCst) {
            let found = datapath.export(VNIC).expect("exports");
            assert!(found.iter().all(is_whole));
            let (stayed, others): (Vec<_>, Vec<_>) = ports(&found)
                .into_iter()
                .partition(|port| staying.contains(port));
            assert_eq!(stayed, Vec::from_iter(staying.clone()));
            assert!(others.iter().all(|port| known.contains(port)));
            exports += 1;
        }
        exports
    };
    let exports = std::thread::scope(|scope| {
        let reader = scope.spawn(read);
        for round in 0..400 {
            let ports = &coming[round % 2];
            import(ports.clone());
            let keys: Vec<_> = ports.clone().map(|port| session(port).key).collect();
            let gone = bench.datapath.remove_sessions(VNIC, &keys);
            assert_eq!(gone.expect("removes"), keys.len() as u64);
            bench.datapath.advance_clock(VNIC, REST).expect("advances");
        }
        goes_on.store(false, SeqCst);
        reader.join().expect("the reader ends")
    });
    assert!(exports > 0);
    check_room(&bench, QUOTA);
}

#[test]
fn what_has_ended_leaves_its_room_at_once_to_what_comes_in() {
    if !privileged() {
        return;
    }
    const QUOTA: u16 = 1_000;
    let bench = Bench::with(QUOTA.into());
    for round in 0..6 {
        let first = 2_000 + round * QUOTA;
        let coming = sessions(first..=first + QUOTA - 1);
        let receipt = bench.datapath.import(VNIC, &coming).expect("imports");
        assert_eq!((receipt.imported, receipt.refused), (QUOTA.into(), vec![]));
        let keys: Vec<_> = coming.iter().map(|record| record.key).collect();
        let gone = bench.datapath.remove_sessions(VNIC, &keys);
        assert_eq!(gone.expect("removes"), u64::from(QUOTA), "round {round}");
    }
    check_room(&bench, QUOTA);
}

#[test]
fn what_is_refused_is_named_with_its_reason() {
    if !privileged() {
        return;
    }
    let bench = Bench::with(64);
    let foreign = |port| {
        let mut record = session(port);
        record.key.segment.0 += 5;
        record
    };
    let expired = |port| SessionRecord {
        expires_in_ms: 0,
        ..session(port)
    };
    let coming = [
        session(2_000),
        foreign(2_001),
        session(2_000),
        expired(2_002),
        session(2_003),
    ];
    let receipt = bench.datapath.import(VNIC, &coming).expect("imports");
    let mut refused: Vec<_> = receipt
        .refused
        .iter()
        .map(|(key, refusal)| (key.local_port, *refusal))
        .collect();
    refused.sort_unstable_by_key(|(port, _)| *port);
    let expected = [
        (2_000, ImportRefusal::Exists),
        (2_001, ImportRefusal::OtherSegment),
        (2_002, ImportRefusal::Expired),
    ];
    assert_eq!((receipt.imported, refused.as_slice()), (2, &expected[..]));
    let again = bench.datapath.import(VNIC, &coming).expect("imports");
    assert_eq!((again.imported, again.refused.len()), (0, coming.len()));
    let found = bench.datapath.export(VNIC).expect("exports");
    assert_eq!(ports(&found), [2_000, 2_003]);
    check_room(&bench, 64);
}

#[test]
fn a_sweep_in_parts_comes_by_every_session_of_a_large_table() {
    if !privileged() {
        return;
    }
    const COUNT: u32 = 400_000;
    let passing = |number: u32| {
        let mut record = session(7);
        record.key.remote = std::net::Ipv4Addr::from(0x6440_0000 + number).into();
        record.expires_in_ms = 1_000;
        record
    };
    let bench = Bench::with(COUNT);
    let records: Vec<_> = (0..COUNT).map(passing).collect();
    let receipt = bench.datapath.import(VNIC, &records).expect("imports");
    assert_eq!(receipt.imported, COUNT.into());
    let held = || bench.datapath.sessions_held(VNIC).expect("counts");
    let swept = || bench.datapath.sweep_part(VNIC).expect("sweeps");
    let by = Duration::from_secs(2);
    bench.datapath.advance_clock(VNIC, by).expect("advances");
    assert_eq!(held(), COUNT.into(), "expired, and not taken out");
    let first = swept();
    assert!((1..u64::from(COUNT)).contains(&first), "{first} at once");
    assert_eq!((first + swept(), held()), (COUNT.into(), 0));
}
