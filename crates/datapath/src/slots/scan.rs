//! Whole tables, read in the order of their memory. Most buckets of a table that has room have one
//! session or none, so that reading is waiting for memory: what is read soon is asked for now.

use super::{
    HEARD_OFFSET, Place, Row, Slots, control_offset, controls, session_offset, slot_offset,
    state_of,
};
use crate::abi::{self, Bucket, Session, SessionKey, Slot};
use crate::sys::Mapped;
use std::mem::offset_of;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering::SeqCst;

/// How many buckets ahead control words are asked for.
const CONTROLS_AHEAD: usize = 16;
/// How many buckets ahead live slots are: their control words have come by then.
const SLOTS_AHEAD: usize = 8;

/// Tells the sessions of one slot from each other: half of their hash, as in the control word.
pub(crate) type Tag = u32;
/// What no session's tag is.
pub(crate) const NOBODY: Tag = 0;

const fn tag_of(control: u64) -> Tag {
    (control >> 32) as u32 | 1
}

/// The clock is coarse: what happens within a tick counts as later.
fn earlier(ticks: u32, since: u32) -> bool {
    ticks.wrapping_sub(since).cast_signed() < 0
}

const fn seen_offset(slot: usize) -> usize {
    session_offset(slot) + offset_of!(Session, seen)
}

impl Slots {
    /// The tables that have sessions now, in the order in which sessions go from one to another,
    /// each with its number of slots.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let size = |table| (table, self.table(table).len() * abi::BUCKET_SLOTS);
        self.in_use().map(size)
    }

    /// Looks through some buckets of a table for what differs from what was told of their slots: a
    /// session that is new or was heard of since, with its tag, or none where one was. Of a bucket
    /// that nobody has heard of only the control words are read.
    #[inline]
    pub(crate) fn differences(
        &self,
        (table, buckets): (u32, Range<usize>),
        told: &[Tag],
        since: u32,
        mut sink: impl FnMut(usize, Option<(Tag, SessionKey, Session)>),
    ) {
        let mapped = self.table(table);
        let first = buckets.start;
        let told_of = |bucket: usize| {
            let start = (bucket - first) * abi::BUCKET_SLOTS;
            told.get(start..start + abi::BUCKET_SLOTS)
        };
        for bucket in buckets {
            if let Some(told) = told_of(bucket + SLOTS_AHEAD) {
                self.ask_for_differences((table, bucket + SLOTS_AHEAD), told, since);
            }
            let told = told_of(bucket).unwrap_or_default();
            let quiet = self.quiet((table, bucket), since);
            for (slot, control) in controls(mapped, bucket).into_iter().enumerate() {
                let index = bucket * abi::BUCKET_SLOTS + slot;
                if state_of(control) != abi::SLOT_LIVE {
                    if told[slot] != NOBODY {
                        sink(index, None);
                    }
                    continue;
                }
                let place = (table, bucket);
                let same = told[slot] == tag_of(control);
                if same && (quiet || self.silent(place, slot, since)) {
                    continue;
                }
                let place = Place {
                    table,
                    bucket,
                    slot,
                };
                let found = self.read(place).map(|row| {
                    let tag = tag_of(row.control);
                    (tag, row.slot.key, row.slot.session)
                });
                sink(index, found);
            }
        }
    }

    /// Asks for what a look at a bucket will read.
    fn ask_for_differences(&self, (table, bucket): (u32, usize), told: &[Tag], since: u32) {
        let mapped = self.table(table);
        if bucket + CONTROLS_AHEAD < mapped.len() {
            mapped.fetch(bucket + CONTROLS_AHEAD, control_offset(0), size_of::<u64>());
        }
        let quiet = self.quiet((table, bucket), since);
        for slot in live(mapped, bucket) {
            let control = mapped.word(bucket, control_offset(slot)).load(SeqCst);
            if told[slot] != tag_of(control) {
                mapped.fetch(bucket, slot_offset(slot), size_of::<Slot>());
            } else if !quiet {
                mapped.fetch(bucket, seen_offset(slot), size_of::<u32>());
            }
        }
    }

    /// Whether nobody has heard of any session of a bucket since then. Half-open sessions say that
    /// each for itself.
    fn quiet(&self, (table, bucket): (u32, usize), since: u32) -> bool {
        let heard = self.table(table).half(bucket, HEARD_OFFSET).load(SeqCst);
        table != abi::TABLE_HALF_OPEN && earlier(heard, since)
    }

    /// Whether nobody has heard of a session since then.
    fn silent(&self, (table, bucket): (u32, usize), slot: usize, since: u32) -> bool {
        let seen = self.table(table).half(bucket, seen_offset(slot));
        earlier(seen.load(SeqCst), since)
    }

    /// Hands over every session, the half-open ones first. One that is promoted meanwhile may come
    /// twice, as it was and as it is, but it is not left out.
    #[inline]
    pub(crate) fn each(&self, mut sink: impl FnMut(&SessionKey, &Session)) {
        self.each_half_open(&mut sink);
        self.each_lasting(sink);
    }

    pub(crate) fn each_half_open(&self, mut sink: impl FnMut(&SessionKey, &Session)) {
        self.each_row(abi::TABLE_HALF_OPEN, |row| {
            sink(&row.slot.key, &row.slot.session);
        });
    }

    #[inline]
    pub(crate) fn each_lasting(&self, mut sink: impl FnMut(&SessionKey, &Session)) {
        for table in self.lasting() {
            self.each_row(table, |row| sink(&row.slot.key, &row.slot.session));
        }
    }

    /// Whether a session is there that no flood can push out.
    pub(crate) fn lasts(&self, key: &SessionKey) -> bool {
        let hash = self.hash(key);
        self.lasting()
            .any(|table| self.find(table, key, hash).is_some())
    }

    #[inline]
    pub(super) fn each_row(&self, table: u32, mut sink: impl FnMut(&Row)) {
        // It never breaks off.
        let _ = self.scan(table, |row| {
            sink(&row);
            ControlFlow::Continue(())
        });
    }

    /// Hands over the live slots of a table until the sink has enough.
    #[inline]
    pub(super) fn scan(
        &self,
        table: u32,
        mut sink: impl FnMut(Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mapped = self.table(table);
        for bucket in 0..mapped.len() {
            ask_for(mapped, bucket, |slot| {
                (slot_offset(slot), size_of::<Slot>())
            });
            for slot in live(mapped, bucket) {
                let place = Place {
                    table,
                    bucket,
                    slot,
                };
                if let Some(row) = self.read(place) {
                    sink(row)?;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// `part` says which bytes of a live slot are used soon.
#[inline]
fn ask_for(mapped: &Mapped<Bucket>, bucket: usize, part: impl Fn(usize) -> (usize, usize)) {
    if bucket + CONTROLS_AHEAD < mapped.len() {
        let ahead = bucket + CONTROLS_AHEAD;
        mapped.fetch(ahead, control_offset(0), size_of::<u64>());
    }
    if bucket + SLOTS_AHEAD < mapped.len() {
        let ahead = bucket + SLOTS_AHEAD;
        for slot in live(mapped, ahead) {
            let (offset, bytes) = part(slot);
            mapped.fetch(ahead, offset, bytes);
        }
    }
}

/// The live slots of a bucket.
fn live(mapped: &Mapped<Bucket>, bucket: usize) -> impl Iterator<Item = usize> + '_ {
    (0..abi::BUCKET_SLOTS).filter(move |slot| {
        let control = mapped.word(bucket, control_offset(*slot)).load(SeqCst);
        state_of(control) == abi::SLOT_LIVE
    })
}
