//! Whole tables, read in the order of their memory. Most buckets of a table that has room have one
//! session or none, so that reading is waiting for memory: what is read soon is asked for now.

use super::heard::heard_at;
use super::{
    HEARD_OFFSET, Place, Row, Slots, control_offset, controls, session_offset, slot_offset,
    state_of,
};
use crate::abi::{self, Bucket, Session, SessionKey, Slot};
use crate::sys::{self, Mapped};
use std::mem::offset_of;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering::SeqCst;

/// How many buckets ahead control words are asked for.
const CONTROLS_AHEAD: usize = 16;
/// How many buckets ahead live slots are: their control words have come by then.
const SLOTS_AHEAD: usize = 8;

/// Buckets that are gathered before they are looked at, and then before what differs is read.
const GATHERED: usize = 16;

/// Which buckets of a table are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Look {
    #[default]
    Each,
    /// Those of which programs have written down that they were heard of.
    Heard,
}

/// Tells the sessions of one slot from each other: half of their hash, as in the control word.
pub(crate) type Tag = u32;
/// What no session's tag is.
pub(crate) const NOBODY: Tag = 0;

const fn tag_of(control: u64) -> Tag {
    (control >> 32) as u32 | 1
}

/// Who is in a slot.
fn who(control: u64) -> Tag {
    if state_of(control) == abi::SLOT_LIVE {
        tag_of(control)
    } else {
        NOBODY
    }
}

/// Whether in each slot of a bucket is who was told of. Without a branch for each of them: that
/// would take longer than waiting for the memory.
fn same(controls: [u64; abi::BUCKET_SLOTS], told: &[Tag]) -> bool {
    let differing = controls
        .into_iter()
        .zip(told)
        .map(|(control, told)| who(control) ^ told);
    differing.fold(0, |all, one| all | one) == 0
}

/// The clock is coarse: what happens within a tick counts as later.
pub(crate) fn earlier(ticks: u32, since: u32) -> bool {
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
    /// session that is new or was heard of since, with its tag, or none where one was. `sink` gets
    /// the slot's number, what was told of it and what is there, and gives what is told of it now.
    ///
    /// Of a bucket that nobody has heard of only the control words are read, and not even those if
    /// what was heard is written down (`look`). What is looked at is gathered from many buckets
    /// before it is read, so that its memory is asked for together.
    #[inline]
    pub(crate) fn differences(
        &self,
        (table, buckets): (u32, Range<usize>),
        told: &mut [Tag],
        (look, since): (Look, u32),
        mut sink: impl FnMut(usize, Tag, Option<(Tag, SessionKey, Session)>) -> Tag,
    ) {
        let mapped = self.table(table);
        let first = buckets.start * abi::BUCKET_SLOTS;
        let told_of = |bucket: usize| {
            let start = bucket * abi::BUCKET_SLOTS - first;
            start..start + abi::BUCKET_SLOTS
        };
        let written = self.heard(table).filter(|_| look == Look::Heard);
        let silent = |bucket: &usize| {
            written.is_some_and(|heard| earlier(heard_at(heard, *bucket).load(SeqCst), since))
        };
        let mut wanted = buckets.filter(|bucket| !silent(bucket));
        let (mut differing, mut places) = (Vec::with_capacity(GATHERED), Vec::new());
        let mut gathered = Vec::with_capacity(GATHERED);
        loop {
            gathered.extend(wanted.by_ref().take(GATHERED));
            if gathered.is_empty() {
                return;
            }
            for bucket in &gathered {
                mapped.fetch(*bucket, control_offset(0), size_of::<u64>());
                sys::fetch(&told[told_of(*bucket)]);
            }
            for bucket in gathered.drain(..) {
                let quiet = self.quiet((table, bucket), since);
                if !quiet || !same(controls(mapped, bucket), &told[told_of(bucket)]) {
                    self.ask_for_seen((table, bucket), quiet);
                    differing.push((bucket, quiet));
                }
            }
            for (bucket, quiet) in differing.drain(..) {
                let of_bucket = (&told[told_of(bucket)], since);
                self.ask_for_differing((table, bucket, quiet), of_bucket, &mut places);
            }
            for place in places.drain(..) {
                let index = place.bucket * abi::BUCKET_SLOTS + place.slot;
                let found = self.read(place).map(|row| {
                    let tag = tag_of(row.control);
                    (tag, row.slot.key, row.slot.session)
                });
                let told = &mut told[index - first];
                *told = sink(index, *told, found);
            }
        }
    }

    /// Asks for what says when each session of a bucket was heard of.
    fn ask_for_seen(&self, (table, bucket): (u32, usize), quiet: bool) {
        let mapped = self.table(table);
        for slot in live(mapped, bucket).filter(|_| !quiet) {
            mapped.fetch(bucket, seen_offset(slot), size_of::<u32>());
        }
    }

    /// Lists the slots of a bucket that differ from what was told of them, and asks for their
    /// sessions.
    fn ask_for_differing(
        &self,
        (table, bucket, quiet): (u32, usize, bool),
        (told, since): (&[Tag], u32),
        places: &mut Vec<Place>,
    ) {
        let mapped = self.table(table);
        for (slot, control) in controls(mapped, bucket).into_iter().enumerate() {
            let now = who(control);
            let heard = now != NOBODY && !quiet && !self.silent((table, bucket), slot, since);
            if now == told[slot] && !heard {
                continue;
            }
            if now != NOBODY {
                mapped.fetch(bucket, slot_offset(slot), size_of::<Slot>());
            }
            places.push(Place {
                table,
                bucket,
                slot,
            });
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
        sink: impl FnMut(Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.scan_part((table, 0..self.table(table).len()), sink)
    }

    /// The same of some buckets.
    #[inline]
    pub(super) fn scan_part(
        &self,
        (table, buckets): (u32, Range<usize>),
        mut sink: impl FnMut(Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mapped = self.table(table);
        for bucket in buckets {
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
