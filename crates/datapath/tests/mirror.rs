//! Sessions that come from slots of another host's tables while those change.

mod common;

use common::{Bench, SEGMENT, VNIC, privileged};
use lictor_datapath::{Error, ImportRefusal, Mirror, SlotRecord};
use lictor_types::{
    Direction, Epoch, Generation, RuleId, Segment, SessionKey, SessionRecord, TcpEnd, TcpState,
    VnicState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const QUOTA: u32 = 1_024;
const LOCAL: [u8; 4] = [10, 0, 0, 1];
/// Of the other host: sessions that last, and those without an answer.
const MAIN: u32 = 0;
const HALF_OPEN: u32 = 2;

fn session(port: u16, packets: u64) -> SessionRecord {
    SessionRecord {
        key: SessionKey {
            segment: SEGMENT,
            protocol: 17,
            local: IpAddr::from(LOCAL),
            remote: IpAddr::from([10, 0, 0, 2]),
            local_port: port,
            remote_port: 53,
        },
        opened: Direction::Egress,
        state: TcpState::Established,
        rule: RuleId(1),
        generation: Generation(1),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(1),
        idle_ms: 0,
        expires_in_ms: 3_600_000,
        packets: [packets; 2],
        bytes: [1; 2],
        tcp: [TcpEnd::default(); 2],
    }
}

fn unanswered(port: u16) -> SessionRecord {
    SessionRecord {
        state: TcpState::Unreplied,
        ..session(port, 1)
    }
}

/// A vnic in hold, and what came into it.
struct Ground {
    bench: Bench,
    mirror: Mirror,
}

impl Ground {
    fn new() -> Self {
        let bench = Bench::with(QUOTA);
        let held = bench.datapath.set_state(VNIC, VnicState::Hold);
        held.expect("holds");
        Self {
            bench,
            mirror: Mirror::new(QUOTA),
        }
    }

    fn comes(&mut self, table: u32, records: &[SlotRecord]) {
        let own = |local| local == IpAddr::from(LOCAL);
        let here = (VNIC, &mut self.mirror);
        let taken = self.bench.datapath.mirror(here, (table, records), own);
        taken.expect("taken in");
    }

    fn goes(&mut self, table: u32, slots: &[u32]) {
        let here = (VNIC, &mut self.mirror);
        let taken = self.bench.datapath.mirror_gone(here, (table, slots));
        taken.expect("taken out");
    }

    /// Which sessions are here, with their packets, and of how many slots.
    fn check(&self, expected: &[(u16, u64)], slots: u64) {
        let found = self.bench.datapath.export(VNIC).expect("exports");
        let found: BTreeSet<_> = found
            .iter()
            .map(|record| (record.key.local_port, record.packets[0]))
            .collect();
        assert_eq!(Vec::from_iter(found), expected);
        assert_eq!(self.mirror.count(), slots);
        let refused: u64 = self.mirror.refused().values().sum();
        assert_eq!(slots - refused, expected.len() as u64);
    }
}

#[test]
fn what_a_slot_holds_is_here_and_nothing_that_it_held_before() {
    if !privileged() {
        return;
    }
    let mut ground = Ground::new();
    ground.comes(MAIN, &[(5, session(1, 1)), (900, session(2, 1))]);
    ground.check(&[(1, 1), (2, 1)], 2);
    ground.comes(MAIN, &[(5, session(1, 7)), (900, session(3, 1))]);
    ground.check(&[(1, 7), (3, 1)], 2);
    // Both change places.
    ground.comes(MAIN, &[(5, session(3, 2)), (900, session(1, 8))]);
    ground.check(&[(1, 8), (3, 2)], 2);
    // Slots that were empty already.
    ground.goes(MAIN, &[5, 6]);
    ground.goes(HALF_OPEN, &[5]);
    ground.check(&[(1, 8)], 1);
}

#[test]
fn a_session_in_two_slots_stays_until_it_is_in_none() {
    if !privileged() {
        return;
    }
    let mut ground = Ground::new();
    ground.comes(HALF_OPEN, &[(3, unanswered(1))]);
    ground.check(&[(1, 1)], 1);
    // It was promoted while the round went on: it lasts, and its first slot is not empty yet.
    ground.comes(MAIN, &[(8, session(1, 2))]);
    assert_eq!(
        ground.mirror.refused(),
        BTreeMap::from([(ImportRefusal::Exists, 1)])
    );
    ground.check(&[(1, 2)], 2);
    ground.goes(HALF_OPEN, &[3]);
    ground.check(&[(1, 2)], 1);
    // What is reset goes the other way.
    ground.comes(HALF_OPEN, &[(3, unanswered(1))]);
    ground.goes(MAIN, &[8]);
    ground.check(&[(1, 1)], 1);
    ground.goes(HALF_OPEN, &[3]);
    ground.check(&[], 0);
}

#[test]
fn a_full_table_takes_what_it_has_already_and_each_place_that_is_left() {
    if !privileged() {
        return;
    }
    let mut ground = Ground::new();
    let all = |packets| -> Vec<SlotRecord> {
        let ports = 0..QUOTA as u16;
        ports
            .map(|port| (u32::from(port), session(1_000 + port, packets)))
            .collect()
    };
    for packets in 1..=3 {
        ground.comes(MAIN, &all(packets));
        let here: Vec<_> = (0..QUOTA as u16)
            .map(|port| (1_000 + port, packets))
            .collect();
        ground.check(&here, QUOTA.into());
    }
    ground.comes(MAIN, &[(QUOTA, session(1, 1))]);
    let full = BTreeMap::from([(ImportRefusal::TableFull, 1)]);
    assert_eq!(ground.mirror.refused(), full);
    // A session takes the place of the one that had its slot, and then the refused one comes in.
    ground.comes(MAIN, &[(0, session(2, 1))]);
    ground.goes(MAIN, &[1]);
    ground.comes(MAIN, &[(QUOTA, session(1, 1))]);
    assert_eq!(ground.mirror.refused(), BTreeMap::new());
    let count = ground.bench.datapath.session_count(VNIC).expect("counts");
    assert_eq!((count, ground.mirror.count()), (QUOTA.into(), QUOTA.into()));
}

#[test]
fn what_may_not_come_is_counted_with_its_reason_until_it_goes() {
    if !privileged() {
        return;
    }
    let mut ground = Ground::new();
    let (mut foreign, mut elsewhere) = (session(1, 1), session(2, 1));
    foreign.key.local = IpAddr::from([10, 0, 0, 9]);
    elsewhere.key.segment = Segment(9);
    let expired = SessionRecord {
        expires_in_ms: 0,
        ..session(3, 1)
    };
    ground.comes(MAIN, &[(0, session(4, 1))]);
    ground.comes(MAIN, &[(0, foreign), (1, elsewhere), (2, expired)]);
    let reasons = [
        ImportRefusal::ForeignAddress,
        ImportRefusal::OtherSegment,
        ImportRefusal::Expired,
    ];
    let reasons = reasons.map(|reason| (reason, 1));
    assert_eq!(ground.mirror.refused(), BTreeMap::from(reasons));
    ground.check(&[], 3);
    ground.goes(MAIN, &[0, 1, 2]);
    assert_eq!(ground.mirror.refused(), BTreeMap::new());
    ground.check(&[], 0);
}

#[test]
fn a_slot_or_a_table_that_the_other_host_cannot_have_is_refused_before_anything_is_taken() {
    if !privileged() {
        return;
    }
    let mut ground = Ground::new();
    let own = |_| true;
    for (table, slot) in [(MAIN, u32::MAX), (MAIN, 1 << 20), (3, 0), (u32::MAX, 0)] {
        let records = [(0, session(1, 1)), (slot, session(2, 1))];
        let here = (VNIC, &mut ground.mirror);
        let taken = ground.bench.datapath.mirror(here, (table, &records), own);
        assert!(matches!(taken, Err(Error::Slot { .. })), "{taken:?}");
        let here = (VNIC, &mut ground.mirror);
        let taken = ground.bench.datapath.mirror_gone(here, (table, &[slot]));
        assert!(matches!(taken, Err(Error::Slot { .. })), "{taken:?}");
        ground.check(&[], 0);
    }
}
