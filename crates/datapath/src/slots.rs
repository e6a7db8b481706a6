//! The session tables of one vnic, in this process's memory. `bpf/table.h` says how they work; this
//! is the same protocol from the other side: what it does, programs may be doing at the same
//! moment.

use crate::abi::{self, Bucket, Session, SessionKey, Slot, TableInfo};
use crate::sys::{self, Map, Mapped, Shape};
use libbpf_sys as c;
use rand::RngCore;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

/// Half-open sessions of one vnic: as many as its quota, within these bounds. A flood of one-way
/// conversations pushes out the oldest of them.
const HALF_OPEN: std::ops::RangeInclusive<u32> = 1_024..=8_192;
/// Slots for each hundred sessions of the quota. At full quota every tenth session lies in another
/// bucket than its first.
const SLOTS_PER_HUNDRED: u64 = 128;
/// With fewer a key's way would come by the same bucket twice.
const BUCKETS_MIN: u32 = 2 * abi::BUCKET_STEPS;
/// Sessions that are moved to a larger table between two waits for the running programs.
const MOVED_AT_ONCE: usize = 16_384;

const BUCKETS: Shape = Shape {
    kind: c::BPF_MAP_TYPE_ARRAY,
    name: "sessions_table",
    key: 4,
    value: size_of::<Bucket>(),
    entries: 1,
    flags: c::BPF_F_MMAPABLE | c::BPF_F_INNER_MAP,
};
const OUTER: Shape = Shape {
    kind: c::BPF_MAP_TYPE_ARRAY_OF_MAPS,
    name: "sessions",
    key: 4,
    value: 4,
    entries: abi::TABLES,
    flags: 0,
};
const INFO: Shape = Shape {
    kind: c::BPF_MAP_TYPE_ARRAY,
    name: "session_table",
    key: 4,
    value: size_of::<TableInfo>(),
    entries: 1,
    flags: c::BPF_F_MMAPABLE,
};

/// The time of the tables, of 2^20 ns each.
pub(crate) fn ticks(ns: u64) -> u32 {
    (ns >> 20) as u32
}

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    Done,
    Exists,
    Full,
}

/// Where a slot is: a table, a bucket in it, a slot of that.
#[derive(Debug, Clone, Copy)]
struct Place {
    table: u32,
    bucket: usize,
    slot: usize,
}

/// A live slot, read.
struct Row {
    place: Place,
    control: u64,
    slot: Slot,
}

/// The tables of one vnic.
#[derive(Debug)]
pub(crate) struct Slots {
    outer: Map<u32, u32>,
    info_fd: OwnedFd,
    info: Mapped<TableInfo>,
    tables: [Option<Mapped<Bucket>>; abi::TABLES as usize],
    keys: [u64; abi::HASH_WORDS + 1],
}

fn buckets_for(slots: u64) -> u32 {
    let buckets = slots.div_ceil(abi::BUCKET_SLOTS as u64);
    u32::try_from(buckets).unwrap_or(u32::MAX).max(BUCKETS_MIN)
}

fn buckets_of_quota(quota: u32) -> u32 {
    buckets_for((u64::from(quota) * SLOTS_PER_HUNDRED).div_ceil(100))
}

fn create(buckets: u32) -> io::Result<OwnedFd> {
    let shape = Shape {
        entries: buckets,
        ..BUCKETS
    };
    sys::map_create(&shape, None)
}

const fn control_offset(slot: usize) -> usize {
    offset_of!(Bucket, control) + slot * size_of::<u64>()
}

const fn slot_offset(slot: usize) -> usize {
    offset_of!(Bucket, slots) + slot * size_of::<Slot>()
}

const fn session_offset(slot: usize) -> usize {
    slot_offset(slot) + offset_of!(Slot, session)
}

const fn buckets_offset(table: u32) -> usize {
    offset_of!(TableInfo, buckets) + table as usize * size_of::<u32>()
}

fn control_word(hash: u64, passed: u32, state: u64) -> u64 {
    hash << 32 | u64::from(passed) << abi::CONTROL_PASSED_SHIFT | state
}

fn state_of(control: u64) -> u64 {
    control & abi::CONTROL_STATE_MASK
}

fn bucket_index(buckets: u64, hash: u64, step: u32) -> usize {
    let mixed = (hash as u32).wrapping_mul(0x9e37_79b1);
    let stride = abi::STRIDE_MAX - (mixed >> abi::STRIDE_SHIFT);
    let place = ((hash >> 32) as u32).wrapping_add(step.wrapping_mul(stride));
    ((u64::from(place) * buckets) >> 32) as usize
}

fn preferred(hash: u64) -> usize {
    let slot = (hash >> 4 & 7) as usize;
    if slot < abi::BUCKET_SLOTS { slot } else { 0 }
}

fn dead_word(now: u32) -> u64 {
    u64::from(now & abi::CONTROL_STAMP_MASK) << abi::CONTROL_STAMP_SHIFT | abi::SLOT_DEAD
}

fn free(control: u64, now: u32) -> bool {
    match state_of(control) {
        0 => true,
        abi::SLOT_DEAD => {
            let died = (control >> abi::CONTROL_STAMP_SHIFT) as u32;
            now.wrapping_sub(died) & abi::CONTROL_STAMP_MASK >= abi::SLOT_REST_TICKS
        }
        _ => false,
    }
}

impl Slots {
    /// Makes the tables for a quota of sessions, with a hash of their own.
    pub(crate) fn create(quota: u32) -> io::Result<Self> {
        let template = create(1)?;
        let outer: Map<u32, u32> = Map::new(sys::map_create(&OUTER, Some(template.as_fd()))?)?;
        let info_fd = sys::map_create(&INFO, None)?;
        let mut info = TableInfo::default();
        let mut random = rand::rngs::OsRng;
        info.hash_keys = std::array::from_fn(|_| random.next_u64());
        let half = quota.clamp(*HALF_OPEN.start(), *HALF_OPEN.end());
        for (table, buckets) in [
            (0, buckets_of_quota(quota)),
            (abi::TABLE_HALF_OPEN, buckets_for(half.into())),
        ] {
            sys::set_inner(&outer, table, create(buckets)?.as_fd())?;
            info.buckets[table as usize] = buckets;
        }
        Map::<u32, TableInfo>::new(info_fd.try_clone()?)?.set(&0, &info, 0)?;
        Self::open(outer.into_fd(), info_fd)
    }

    /// Finds the tables that were made before.
    pub(crate) fn open(outer: OwnedFd, info_fd: OwnedFd) -> io::Result<Self> {
        let outer = Map::new(outer)?;
        let info: Mapped<TableInfo> = Mapped::new(info_fd.as_fd())?;
        let keys = info.load::<TableInfo>(0, 0).hash_keys;
        let mut tables = [const { None }; abi::TABLES as usize];
        for (index, table) in tables.iter_mut().enumerate() {
            if let Some(inner) = sys::inner_map(&outer, index as u32)? {
                *table = Some(Mapped::new(inner.as_fd())?);
            }
        }
        let slots = Self {
            outer,
            info_fd,
            info,
            tables,
            keys,
        };
        for table in [
            slots.current() & abi::TABLE_CURRENT_MASK,
            abi::TABLE_HALF_OPEN,
        ] {
            let there = slots.tables[table as usize].as_ref().map(Mapped::len);
            if there != Some(slots.buckets(table) as usize) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a session table has another size than its header says",
                ));
            }
        }
        Ok(slots)
    }

    pub(crate) fn outer_fd(&self) -> BorrowedFd<'_> {
        self.outer.fd()
    }

    pub(crate) fn info_fd(&self) -> BorrowedFd<'_> {
        self.info_fd.as_fd()
    }

    fn current(&self) -> u32 {
        let offset = offset_of!(TableInfo, current);
        self.info.half(0, offset).load(SeqCst)
    }

    fn buckets(&self, table: u32) -> u32 {
        self.info.half(0, buckets_offset(table)).load(SeqCst)
    }

    fn live(&self) -> &std::sync::atomic::AtomicU32 {
        self.info.half(0, offset_of!(TableInfo, live))
    }

    /// Bytes of all tables, as the kernel allocates them.
    pub(crate) fn bytes(&self) -> u64 {
        let tables = self.tables.iter().flatten();
        tables
            .map(|table| (table.len() * size_of::<Bucket>()) as u64)
            .sum()
    }

    fn hash(&self, key: &SessionKey) -> u64 {
        let mut words = [0u32; abi::HASH_WORDS];
        let octets = key.local.iter().chain(&key.remote).copied();
        for (index, octet) in octets.enumerate() {
            words[index / 4] |= u32::from(octet) << (index % 4 * 8);
        }
        words[8] = u32::from(key.local_port) | u32::from(key.remote_port) << 16;
        words[9] = key.domain;
        let mut sum = self.keys[abi::HASH_WORDS];
        for (key, word) in self.keys.iter().zip(words) {
            sum = sum.wrapping_add(key.wrapping_mul(word.into()));
        }
        sum ^= sum >> 32;
        sum = sum.wrapping_mul(abi::HASH_MIX);
        sum ^ (sum >> 29)
    }

    fn bucket_at(&self, table: u32, hash: u64, step: u32) -> usize {
        bucket_index(self.buckets(table).into(), hash, step)
    }

    fn table(&self, table: u32) -> &Mapped<Bucket> {
        let there = self.tables[table as usize].as_ref();
        there.expect("a table that the header names was opened")
    }

    fn control(&self, place: Place) -> &std::sync::atomic::AtomicU64 {
        self.table(place.table)
            .word(place.bucket, control_offset(place.slot))
    }

    /// The tables that have sessions now: the current one, its predecessor if that is being
    /// emptied, the half-open one.
    fn in_use(&self) -> Vec<u32> {
        let current = self.current();
        let main = current & abi::TABLE_CURRENT_MASK;
        let draining = current & abi::TABLE_DRAINING != 0;
        let mut tables = vec![main, abi::TABLE_HALF_OPEN];
        if draining {
            tables.push(main ^ 1);
        }
        tables
    }

    fn read(&self, place: Place) -> Option<Row> {
        let control = self.control(place).load(SeqCst);
        if state_of(control) != abi::SLOT_LIVE {
            return None;
        }
        let slot = self
            .table(place.table)
            .load(place.bucket, slot_offset(place.slot));
        // It may have ended, and another begun, while it was copied.
        (self.control(place).load(SeqCst) == control).then_some(Row {
            place,
            control,
            slot,
        })
    }

    fn rows_of(&self, table: u32) -> impl Iterator<Item = Row> + '_ {
        (0..self.table(table).len())
            .flat_map(move |bucket| {
                (0..abi::BUCKET_SLOTS).map(move |slot| Place {
                    table,
                    bucket,
                    slot,
                })
            })
            .filter_map(|place| self.read(place))
    }

    /// Hands over every session, the half-open ones too.
    pub(crate) fn each(&self, mut sink: impl FnMut(&SessionKey, &Session)) {
        for table in self.in_use() {
            for row in self.rows_of(table) {
                sink(&row.slot.key, &row.slot.session);
            }
        }
    }

    fn steps(&self, table: u32, hash: u64) -> impl Iterator<Item = (u32, usize)> + '_ {
        let steps = if table == abi::TABLE_HALF_OPEN {
            1
        } else {
            abi::BUCKET_STEPS
        };
        (0..steps).map(move |step| (step, self.bucket_at(table, hash, step)))
    }

    fn find_all(&self, table: u32, key: &SessionKey) -> Vec<Row> {
        let hash = self.hash(key);
        let mut found = Vec::new();
        for (_, bucket) in self.steps(table, hash) {
            for slot in 0..abi::BUCKET_SLOTS {
                let place = Place {
                    table,
                    bucket,
                    slot,
                };
                let control = self.control(place).load(SeqCst);
                if control >> 32 != hash & 0xffff_ffff {
                    continue;
                }
                found.extend(self.read(place).filter(|row| row.slot.key == *key));
            }
            if table == abi::TABLE_HALF_OPEN || self.passed(table, bucket).load(SeqCst) == 0 {
                break;
            }
        }
        found
    }

    fn passed(&self, table: u32, bucket: usize) -> &std::sync::atomic::AtomicU32 {
        self.table(table).half(bucket, offset_of!(Bucket, passed))
    }

    /// Takes out a slot that was read, unless it has changed since. Returns whether it went.
    fn kill(&self, row: &Row, now: u32) -> bool {
        let swapped =
            self.control(row.place)
                .compare_exchange(row.control, dead_word(now), SeqCst, SeqCst);
        if swapped.is_err() {
            return false;
        }
        if row.place.table != abi::TABLE_HALF_OPEN {
            let passed =
                (row.control >> abi::CONTROL_PASSED_SHIFT & abi::CONTROL_PASSED_MASK) as u32;
            self.unpass(row.place.table, self.hash(&row.slot.key), passed);
        }
        true
    }

    fn unpass(&self, table: u32, hash: u64, steps: u32) {
        for step in 0..steps {
            let bucket = self.bucket_at(table, hash, step);
            self.passed(table, bucket).fetch_sub(1, SeqCst);
        }
    }

    /// Takes out a session wherever it is. Returns whether it was there.
    pub(crate) fn remove(&self, key: &SessionKey, now: u64) -> bool {
        let rows = self
            .in_use()
            .into_iter()
            .flat_map(|table| self.find_all(table, key));
        let mut removed = false;
        for row in rows {
            removed |= self.remove_row(&row, now);
        }
        removed
    }

    fn remove_row(&self, row: &Row, now: u64) -> bool {
        let gone = self.kill(row, ticks(now));
        if gone && row.place.table != abi::TABLE_HALF_OPEN {
            self.live().fetch_sub(1, SeqCst);
        }
        gone
    }

    /// Takes out every session that `wanted` names. Returns how many went.
    pub(crate) fn remove_where(&self, now: u64, wanted: impl Fn(&Session) -> bool) -> u64 {
        let mut removed = 0;
        for table in self.in_use() {
            for row in self.rows_of(table) {
                removed += u64::from(wanted(&row.slot.session) && self.remove_row(&row, now));
            }
        }
        removed
    }

    /// Puts a session in, if there is none of its key and the quota has room. One without an answer
    /// goes to the half-open ones.
    pub(crate) fn insert(&self, slot: &Slot, half_open: bool, quota: u32, now: u64) -> Inserted {
        let exists = |table| !self.find_all(table, &slot.key).is_empty();
        if self.in_use().into_iter().any(exists) {
            return Inserted::Exists;
        }
        if half_open {
            return self.put(abi::TABLE_HALF_OPEN, slot, now);
        }
        if self.live().fetch_add(1, SeqCst) < quota {
            let table = self.current() & abi::TABLE_CURRENT_MASK;
            if self.put(table, slot, now) == Inserted::Done {
                return Inserted::Done;
            }
        }
        self.live().fetch_sub(1, SeqCst);
        Inserted::Full
    }

    fn put(&self, table: u32, slot: &Slot, now: u64) -> Inserted {
        let hash = self.hash(&slot.key);
        for (step, bucket) in self.steps(table, hash) {
            // The preferred slot first: that is where the program looks first.
            for index in std::iter::once(preferred(hash)).chain(0..abi::BUCKET_SLOTS) {
                let place = Place {
                    table,
                    bucket,
                    slot: index,
                };
                if self.claim(place, control_word(hash, step, abi::SLOT_CLAIMED), now) {
                    self.table(table).store(bucket, slot_offset(index), *slot);
                    let live = control_word(hash, step, abi::SLOT_LIVE);
                    self.control(place).store(live, SeqCst);
                    return Inserted::Done;
                }
            }
            if table != abi::TABLE_HALF_OPEN {
                self.passed(table, bucket).fetch_add(1, SeqCst);
            }
        }
        if table != abi::TABLE_HALF_OPEN {
            self.unpass(table, hash, abi::BUCKET_STEPS);
        }
        Inserted::Full
    }

    fn claim(&self, place: Place, word: u64, now: u64) -> bool {
        let control = self.control(place);
        let seen = control.load(SeqCst);
        free(seen, ticks(now)) && control.compare_exchange(seen, word, SeqCst, SeqCst).is_ok()
    }

    /// Replaces the table by one for another quota while packets pass. Every session stays, with
    /// its windows and counters.
    ///
    /// New sessions go to the new table from the first moment; the others are looked for in both
    /// until each was moved. A packet that found its session in the old slot may still write there
    /// after it was copied, so the difference is carried over once the running programs are done.
    pub(crate) fn resize(&mut self, quota: u32, now: u64) -> io::Result<()> {
        self.finish_resize(now)?;
        let old = self.current() & abi::TABLE_CURRENT_MASK;
        let new = old ^ 1;
        // Sessions beyond a lower quota stay too.
        let live = self.live().load(SeqCst);
        let buckets = buckets_of_quota(quota.max(live));
        let inner = create(buckets)?;
        let mapped = Mapped::new(inner.as_fd())?;
        sys::set_inner(&self.outer, new, inner.as_fd())?;
        self.tables[new as usize] = Some(mapped);
        self.info
            .half(0, buckets_offset(new))
            .store(buckets, SeqCst);
        self.set_current(new | abi::TABLE_DRAINING);
        // Programs that began before this still insert into the old table.
        sys::wait_for_programs()?;
        self.finish_resize(now)
    }

    fn set_current(&self, current: u32) {
        let offset = offset_of!(TableInfo, current);
        self.info.half(0, offset).store(current, SeqCst);
    }

    /// Empties the predecessor of the current table, if there is one: after a crash, too.
    pub(crate) fn finish_resize(&mut self, now: u64) -> io::Result<()> {
        let current = self.current();
        if current & abi::TABLE_DRAINING == 0 {
            return Ok(());
        }
        let new = current & abi::TABLE_CURRENT_MASK;
        let old = new ^ 1;
        loop {
            let batch: Vec<Row> = self.rows_of(old).take(MOVED_AT_ONCE).collect();
            if batch.is_empty() {
                break;
            }
            self.move_rows(&batch, new, now)?;
        }
        self.set_current(new);
        sys::wait_for_programs()?;
        self.tables[old as usize] = None;
        self.outer.remove(&old)?;
        Ok(())
    }

    fn move_rows(&self, batch: &[Row], new: u32, now: u64) -> io::Result<()> {
        let mut moved = Vec::with_capacity(batch.len());
        for row in batch {
            if self.put(new, &row.slot, now) != Inserted::Done {
                return Err(io::Error::other(
                    "the new session table has no room; the old one stays in use beside it",
                ));
            }
            if self.kill(row, ticks(now)) {
                moved.push(row);
            } else if let Some(copy) = self.find_all(new, &row.slot.key).first() {
                // It ended while it was copied.
                self.kill(copy, ticks(now));
            }
        }
        sys::wait_for_programs()?;
        for row in moved {
            let place = row.place;
            let late: Session = self
                .table(place.table)
                .load(place.bucket, session_offset(place.slot));
            if late != row.slot.session {
                self.carry(new, row, &late);
            }
        }
        Ok(())
    }

    /// Adds to a session's new slot what a program wrote into the old one after it was copied.
    fn carry(&self, new: u32, row: &Row, late: &Session) {
        let Some(copy) = self.find_all(new, &row.slot.key).into_iter().next() else {
            return;
        };
        let Place { bucket, slot, .. } = copy.place;
        let table = self.table(new);
        let start = session_offset(slot);
        if copy.slot.session == row.slot.session {
            table.store(bucket, start, *late);
            return;
        }
        for side in 0..2 {
            let word = side * size_of::<u64>();
            let packets = start + offset_of!(Session, packets) + word;
            let bytes = start + offset_of!(Session, bytes) + word;
            let before = &row.slot.session;
            let more = late.packets[side].wrapping_sub(before.packets[side]);
            table.word(bucket, packets).fetch_add(more, SeqCst);
            let more = late.bytes[side].wrapping_sub(before.bytes[side]);
            table.word(bucket, bytes).fetch_add(more, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use std::collections::BTreeSet;

    #[test]
    fn a_way_never_comes_by_the_same_bucket_twice() {
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let extremes = [0, u64::MAX, 1, u64::from(u32::MAX), 1 << 63];
        let hashes = extremes
            .into_iter()
            .chain((0..1_000).map(|_| random.r#gen()));
        for hash in hashes {
            for buckets in [BUCKETS_MIN, BUCKETS_MIN + 1, 1_000, 191_740, u32::MAX] {
                let way: BTreeSet<_> = (0..abi::BUCKET_STEPS)
                    .map(|step| bucket_index(buckets.into(), hash, step))
                    .collect();
                assert_eq!(way.len(), abi::BUCKET_STEPS as usize, "{hash} of {buckets}");
                assert!(way.iter().all(|bucket| *bucket < buckets as usize));
            }
        }
    }
}
