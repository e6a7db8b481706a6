//! The session tables of one vnic, in this process's memory. `bpf/table.h` says how they work; this
//! is the same protocol from the other side: what it does, programs may be doing at the same
//! moment.

mod heard;
mod intake;
mod scan;

use crate::abi::{self, Bucket, Session, SessionKey, Slot, TableInfo};
use crate::sys::{self, Map, Mapped, Shape};
use libbpf_sys as c;
use rand::RngCore;
use std::io;
use std::mem::offset_of;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::{AtomicUsize, fence};

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

/// Buckets of each table that a sweep looks through at once, if it is one in parts.
const SWEPT_AT_ONCE: usize = 65_536;

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
    entries: abi::TABLES + 1,
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

pub(crate) use intake::{BATCH, Earlier, Inserted, NAMES_FROM, Newcomer, name};
pub(crate) use scan::{Look, NOBODY, Tag, earlier};

/// What of a control word tells a live slot of a key: the hash's tag and the state.
const MATCH: u64 = 0xffff_ffff << 32 | abi::CONTROL_STATE_MASK;

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
    /// When each bucket was heard of; not in tables that an older version made.
    heard: Option<Mapped<Bucket>>,
    keys: [u64; abi::HASH_WORDS + 1],
    /// The bucket of each table with which a sweep in parts goes on.
    hand: AtomicUsize,
}

fn buckets_for(slots: u64) -> u32 {
    let buckets = slots.div_ceil(abi::BUCKET_SLOTS as u64);
    u32::try_from(buckets).unwrap_or(u32::MAX).max(BUCKETS_MIN)
}

fn buckets_of_quota(quota: u32) -> u32 {
    buckets_for((u64::from(quota) * SLOTS_PER_HUNDRED).div_ceil(100))
}

/// The most slots of each table of a vnic that has had this quota and no larger one.
pub(crate) fn slots_of_quota(quota: u32) -> [usize; abi::TABLES as usize] {
    let slots = |buckets: u32| buckets as usize * abi::BUCKET_SLOTS;
    let mut most = [slots(buckets_of_quota(quota)); abi::TABLES as usize];
    most[abi::TABLE_HALF_OPEN as usize] = slots(buckets_for((*HALF_OPEN.end()).into()));
    most
}

const fn buckets_for_heard(buckets: u32) -> u32 {
    buckets.div_ceil(1 << abi::HEARD_SHIFT)
}

fn create(buckets: u32) -> io::Result<OwnedFd> {
    let shape = Shape {
        entries: buckets,
        ..BUCKETS
    };
    sys::map_create(&shape, None)
}

const HEARD_OFFSET: usize = offset_of!(Bucket, heard);

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

/// When a half-open session was heard of last, in its control word: whoever looks for the one to
/// give up reads no session.
fn stamp(seen: u32) -> u64 {
    u64::from(seen & abi::CONTROL_STAMP_MASK) << abi::CONTROL_STAMP_SHIFT
}

/// Whether the same session is still there; it may have been heard of meanwhile.
fn same_tenant(one: u64, other: u64) -> bool {
    (one ^ other) & !stamp(abi::CONTROL_STAMP_MASK) == 0
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
    stamp(now) | abi::SLOT_DEAD
}

#[inline]
fn controls(table: &Mapped<Bucket>, bucket: usize) -> [u64; abi::BUCKET_SLOTS] {
    std::array::from_fn(|slot| table.word(bucket, control_offset(slot)).load(SeqCst))
}

fn free(control: u64, now: u32) -> bool {
    match state_of(control) {
        0 => true,
        // Processors may be a tick apart: what is about to die has just died.
        abi::SLOT_DEAD => {
            let died = (control >> abi::CONTROL_STAMP_SHIFT) as u32;
            let age = now.wrapping_sub(died) & abi::CONTROL_STAMP_MASK;
            (abi::SLOT_REST_TICKS..=abi::CONTROL_STAMP_MASK - abi::SLOT_REST_TICKS).contains(&age)
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
        let heard = create(buckets_for_heard(buckets_of_quota(quota)))?;
        sys::set_inner(&outer, abi::TABLE_HEARD, heard.as_fd())?;
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
        let heard = sys::inner_map(&outer, abi::TABLE_HEARD)?;
        let heard = heard.map(|heard| Mapped::new(heard.as_fd())).transpose()?;
        let slots = Self {
            heard,
            outer,
            info_fd,
            info,
            tables,
            keys,
            hand: AtomicUsize::new(0),
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

    /// About as many sessions as there are, for whoever makes room for them.
    pub(crate) fn expected(&self) -> usize {
        let half_open = self.table(abi::TABLE_HALF_OPEN).len() * abi::BUCKET_SLOTS;
        self.live().load(SeqCst) as usize + half_open
    }

    /// How many sessions there are, whether or not their time is over. Only those that are half
    /// open are looked at, and there are few of them.
    pub(crate) fn held(&self) -> u64 {
        let mut half_open = 0;
        let mapped = self.table(abi::TABLE_HALF_OPEN);
        for bucket in 0..mapped.len() {
            let states = controls(mapped, bucket).map(state_of);
            half_open += states
                .into_iter()
                .filter(|state| *state == abi::SLOT_LIVE)
                .count();
        }
        u64::from(self.live().load(SeqCst)) + half_open as u64
    }

    /// Bytes of all tables, as the kernel allocates them.
    pub(crate) fn bytes(&self) -> u64 {
        let tables = self.tables.iter().flatten();
        tables
            .map(|table| (table.len() * size_of::<Bucket>()) as u64)
            .sum()
    }

    /// What the tables of this vnic make of a key. No guest can foresee it.
    pub(crate) fn hash(&self, key: &SessionKey) -> u64 {
        let word = |octets: &[u8; 16], at: usize| {
            u32::from_ne_bytes(std::array::from_fn(|index| octets[at * 4 + index]))
        };
        let ports = u32::from(key.local_port) | u32::from(key.remote_port) << 16;
        let mut sum = self.keys[abi::HASH_WORDS];
        let mut add = |index: usize, word: u32| {
            sum = sum.wrapping_add(self.keys[index].wrapping_mul(word.into()));
        };
        for index in 0..4 {
            add(index, word(&key.local, index));
            add(index + 4, word(&key.remote, index));
        }
        add(8, ports);
        add(9, key.domain);
        abi::hash_mixed(sum)
    }

    fn bucket_at(&self, table: u32, hash: u64, step: u32) -> usize {
        bucket_index(self.table(table).len() as u64, hash, step)
    }

    fn table(&self, table: u32) -> &Mapped<Bucket> {
        let there = self.tables[table as usize].as_ref();
        there.expect("a table that the header names was opened")
    }

    fn control(&self, place: Place) -> &std::sync::atomic::AtomicU64 {
        self.table(place.table)
            .word(place.bucket, control_offset(place.slot))
    }

    /// The tables that have sessions now, in the order in which sessions go from one to another:
    /// whoever looks through them in turn misses none that goes on meanwhile.
    fn in_use(&self) -> impl Iterator<Item = u32> + use<> {
        std::iter::once(abi::TABLE_HALF_OPEN).chain(self.lasting())
    }

    /// The predecessor of the current table, if that is being emptied, and the current one.
    fn lasting(&self) -> impl Iterator<Item = u32> + use<> {
        let current = self.current();
        let main = current & abi::TABLE_CURRENT_MASK;
        let draining = current & abi::TABLE_DRAINING != 0;
        draining
            .then_some(main ^ 1)
            .into_iter()
            .chain(std::iter::once(main))
    }

    fn read(&self, place: Place) -> Option<Row> {
        let control = self.control(place).load(SeqCst);
        if state_of(control) != abi::SLOT_LIVE {
            return None;
        }
        let slot = self
            .table(place.table)
            .load(place.bucket, slot_offset(place.slot));
        fence(Acquire);
        // It may have ended, and another begun, while it was copied.
        same_tenant(self.control(place).load(SeqCst), control).then_some(Row {
            place,
            control,
            slot,
        })
    }

    /// Every copy of a key in a table, that which lies first before the others, until the sink has
    /// enough.
    fn copies(
        &self,
        table: u32,
        (key, hash): (&SessionKey, u64),
        mut sink: impl FnMut(Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.along(table, hash, |row| match row.slot.key == *key {
            true => sink(row),
            false => ControlFlow::Continue(()),
        })
    }

    /// Every session along a hash's way that has its tag, until the sink has enough. A bucket that
    /// is full counts who passed it; in the half-open table a key has one.
    fn along(
        &self,
        table: u32,
        hash: u64,
        mut sink: impl FnMut(Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mapped = self.table(table);
        let wanted = control_word(hash, 0, abi::SLOT_LIVE);
        for step in 0..abi::BUCKET_STEPS {
            let bucket = bucket_index(mapped.len() as u64, hash, step);
            for (slot, control) in controls(mapped, bucket).into_iter().enumerate() {
                if control & MATCH != wanted {
                    continue;
                }
                let place = Place {
                    table,
                    bucket,
                    slot,
                };
                if let Some(row) = self.read(place) {
                    sink(row)?;
                }
            }
            if table == abi::TABLE_HALF_OPEN || self.passed(table, bucket).load(SeqCst) == 0 {
                break;
            }
        }
        ControlFlow::Continue(())
    }

    fn find(&self, table: u32, key: &SessionKey, hash: u64) -> Option<Row> {
        let mut found = None;
        // It breaks off with what it has found.
        let _ = self.copies(table, (key, hash), |row| {
            found = Some(row);
            ControlFlow::Break(())
        });
        found
    }

    fn passed(&self, table: u32, bucket: usize) -> &std::sync::atomic::AtomicU32 {
        self.table(table).half(bucket, offset_of!(Bucket, passed))
    }

    /// Takes out a slot that was read, unless it has changed since. Returns whether it went.
    fn kill(&self, row: &Row, now: u32) -> bool {
        let swapped = self
            .control(row.place)
            .fetch_update(SeqCst, SeqCst, |control| {
                same_tenant(control, row.control).then(|| dead_word(now))
            });
        if swapped.is_err() {
            return false;
        }
        self.hear((row.place.table, row.place.bucket), now);
        let passed = (row.control >> abi::CONTROL_PASSED_SHIFT & abi::CONTROL_PASSED_MASK) as u32;
        if row.place.table != abi::TABLE_HALF_OPEN && passed > 0 {
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
        let hash = self.hash(key);
        let mut removed = false;
        for table in self.in_use() {
            // It never breaks off.
            let _ = self.copies(table, (key, hash), |row| {
                removed |= self.remove_row(&row, now);
                ControlFlow::Continue(())
            });
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
            self.each_row(table, |row| {
                removed += u64::from(wanted(&row.slot.session) && self.remove_row(row, now));
            });
        }
        removed
    }

    /// The same in as many buckets of each table as are looked at in a moment, from where the last
    /// look has ended.
    pub(crate) fn remove_some(&self, now: u64, wanted: impl Fn(&Session) -> bool) -> u64 {
        let mut removed = 0;
        let hand = self.hand.load(SeqCst);
        let mut next = 0;
        for table in self.in_use() {
            let buckets = self.table(table).len();
            let first = if hand < buckets { hand } else { 0 };
            let end = buckets.min(first + SWEPT_AT_ONCE);
            // It never breaks off.
            let _ = self.scan_part((table, first..end), |row| {
                removed += u64::from(wanted(&row.slot.session) && self.remove_row(&row, now));
                ControlFlow::Continue(())
            });
            next = next.max(if end < buckets { end } else { 0 });
        }
        self.hand.store(next, SeqCst);
        removed
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
        // The old one is told of until it is empty.
        self.make_heard(buckets.max(self.buckets(old)))?;
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
            let mut batch = Vec::new();
            let full = |batch: &Vec<Row>| match batch.len() {
                MOVED_AT_ONCE => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
            // What is left over comes with the next batch.
            let _ = self.scan(old, |row| {
                batch.push(row);
                full(&batch)
            });
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
            let hash = self.hash(&row.slot.key);
            if !self.put(new, &row.slot, hash, now) {
                return Err(io::Error::other(
                    "the new session table has no room; the old one stays in use beside it",
                ));
            }
            if self.kill(row, ticks(now)) {
                moved.push(row);
            } else if let Some(copy) = self.find(new, &row.slot.key, hash) {
                // It ended while it was copied.
                self.kill(&copy, ticks(now));
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
        let hash = self.hash(&row.slot.key);
        let Some(copy) = self.find(new, &row.slot.key, hash) else {
            return;
        };
        let Place { bucket, slot, .. } = copy.place;
        let table = self.table(new);
        let start = session_offset(slot);
        if copy.slot.session == row.slot.session {
            table.store(bucket, start, late);
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
