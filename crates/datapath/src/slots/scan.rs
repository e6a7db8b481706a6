//! Whole tables, read in the order of their memory. Most buckets of a table that has room have one
//! session or none, so that reading is waiting for memory: what is read soon is asked for now.

use super::{Place, Row, Slots, control_offset, session_offset, slot_offset, state_of};
use crate::abi::{self, Bucket, Session, SessionKey, Slot};
use crate::sys::Mapped;
use std::mem::offset_of;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::SeqCst;

/// How many buckets ahead control words are asked for.
const CONTROLS_AHEAD: usize = 16;
/// How many buckets ahead live slots are: their control words have come by then.
const SLOTS_AHEAD: usize = 8;

/// One slot, of which nothing is read before it is asked for.
pub(crate) struct Spot<'a> {
    slots: &'a Slots,
    place: Place,
    live: bool,
}

impl Spot<'_> {
    /// Which slot of its table.
    pub(crate) const fn index(&self) -> usize {
        self.place.bucket * abi::BUCKET_SLOTS + self.place.slot
    }

    /// When its session was heard of last; `None` if there is none.
    #[inline]
    pub(crate) fn seen(&self) -> Option<u32> {
        let mapped = self.slots.table(self.place.table);
        let at = seen_offset(self.place.slot);
        self.live
            .then(|| mapped.half(self.place.bucket, at).load(SeqCst))
    }

    /// The session, if it is still there.
    pub(crate) fn read(&self) -> Option<(SessionKey, Session)> {
        let row = self.slots.read(self.place)?;
        Some((row.slot.key, row.slot.session))
    }
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

    /// Goes through the slots of a table from a bucket on until the visitor has enough, and to the
    /// end of the bucket then. Gives the bucket that comes next, if there is one. Only when a
    /// session was heard of is fetched ahead: that is all that most rounds look at.
    #[inline]
    pub(crate) fn walk(
        &self,
        table: u32,
        from: usize,
        mut visit: impl FnMut(Spot<'_>) -> ControlFlow<()>,
    ) -> Option<usize> {
        let mapped = self.table(table);
        for bucket in from..mapped.len() {
            ask_for(mapped, bucket, |slot| (seen_offset(slot), size_of::<u32>()));
            let mut enough = false;
            for slot in 0..abi::BUCKET_SLOTS {
                let control = mapped.word(bucket, control_offset(slot)).load(SeqCst);
                let place = Place {
                    table,
                    bucket,
                    slot,
                };
                enough |= visit(Spot {
                    slots: self,
                    place,
                    live: state_of(control) == abi::SLOT_LIVE,
                })
                .is_break();
            }
            if enough && bucket + 1 < mapped.len() {
                return Some(bucket + 1);
            }
        }
        None
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
