//! Sessions that come in many at a time. Each lies somewhere else in a table that is much larger
//! than what a processor keeps, so that one after the other they would be waiting for memory: where
//! a whole batch goes is asked for before the first of it is looked at.

use super::{
    HEARD_OFFSET, MATCH, Place, Row, Slots, bucket_index, control_offset, control_word, controls,
    free, preferred, session_offset, slot_offset, stamp, state_of, ticks,
};
use crate::abi::{self, SessionKey, Slot};
use crate::sys;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::{Release, SeqCst};
use std::sync::atomic::fence;

/// Sessions of one batch: their lines are about as many as a processor can wait for at once.
pub(crate) const BATCH: usize = 16;

/// The least name of a session; what is less may mean something else.
pub(crate) const NAMES_FROM: u64 = 2;

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    Done,
    Exists,
    /// It has taken the place of one of its own key.
    Replaced,
    /// The quota has no room.
    QuotaFull,
    /// The quota has room, but every slot is taken or rests.
    NoPlace,
}

/// What becomes of a session that is there already under a newcomer's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// The newcomer is turned away: programs may be using the session.
    Stays,
    /// The newcomer takes its place. No packet passes, so nothing that a program writes is lost.
    GivesWay,
}

/// A session on its way in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer {
    pub(crate) slot: Slot,
    /// What this table makes of its key; see [`Slots::hash`].
    pub(crate) hash: u64,
    /// It goes to those that a flood may push out.
    pub(crate) half_open: bool,
}

impl Slots {
    /// Puts sessions in, each if there is none of its key, or in place of that one, and the quota
    /// has room. Says what became of each, in their order.
    ///
    /// As in the program, whoever puts a session in looks along its whole way again after it was
    /// published: of two that publish the same key at once, at least one sees the other.
    pub(crate) fn insert_batch(
        &self,
        newcomers: &[Newcomer],
        (quota, now, earlier): (u32, u64, Earlier),
        told: &mut Vec<Inserted>,
    ) {
        let first = told.len();
        let tables: Vec<u32> = self.in_use().collect();
        let main = self.current() & abi::TABLE_CURRENT_MASK;
        let lasting = newcomers.iter().filter(|newcomer| !newcomer.half_open);
        let mut room = self.reserve(lasting.count() as u32, quota);
        for newcomer in newcomers {
            let (key, hash) = (&newcomer.slot.key, newcomer.hash);
            let mut there = tables
                .iter()
                .filter_map(|table| self.find(*table, key, hash));
            told.push(match (there.next(), earlier) {
                (None, _) => self.insert(newcomer, (main, hash), now, &mut room),
                (Some(_), Earlier::Stays) => Inserted::Exists,
                (Some(row), Earlier::GivesWay) => {
                    self.replace((&row, newcomer), (main, hash), now, &mut room)
                }
            });
        }
        self.live().fetch_sub(room, SeqCst);
        fence(SeqCst);
        for (newcomer, told) in newcomers.iter().zip(&mut told[first..]) {
            let table = table_of(newcomer, main);
            if *told == Inserted::Done && self.thin(table, newcomer, now) > 0 {
                *told = Inserted::Exists;
            }
        }
    }

    /// Asks for the memory where sessions of these hashes go, each half-open or not. In a loop of
    /// its own: asking waits until the page of the memory is found, and a processor finds several
    /// pages at a time only if what asks for them stands close together.
    pub(crate) fn ask_for(&self, hashes: impl Iterator<Item = (u64, bool)>) {
        let main = self.current() & abi::TABLE_CURRENT_MASK;
        let (lasting, half) = (self.table(main), self.table(abi::TABLE_HALF_OPEN));
        for (hash, half_open) in hashes {
            let slot = slot_offset(preferred(hash));
            let goes_to = if half_open { half } else { lasting };
            for mapped in [lasting, half] {
                let bucket = bucket_index(mapped.len() as u64, hash, 0);
                mapped.fetch(bucket, control_offset(0), size_of::<u64>());
                if std::ptr::eq(mapped, goes_to) {
                    mapped.fetch(bucket, slot, size_of::<Slot>());
                }
            }
        }
    }

    /// Takes so many places of the quota, or as many as are left. The program takes them one at a
    /// time and sees these as taken.
    fn reserve(&self, wanted: u32, quota: u32) -> u32 {
        let before = self.live().fetch_add(wanted, SeqCst);
        let room = quota.saturating_sub(before).min(wanted);
        self.live().fetch_sub(wanted - room, SeqCst);
        room
    }

    fn insert(
        &self,
        newcomer: &Newcomer,
        (main, hash): (u32, u64),
        now: u64,
        room: &mut u32,
    ) -> Inserted {
        if !newcomer.half_open && *room == 0 {
            return Inserted::QuotaFull;
        }
        if !self.put(table_of(newcomer, main), &newcomer.slot, hash, now) {
            return Inserted::NoPlace;
        }
        *room -= u32::from(!newcomer.half_open);
        Inserted::Done
    }

    fn replace(
        &self,
        (row, newcomer): (&Row, &Newcomer),
        (main, hash): (u32, u64),
        now: u64,
        room: &mut u32,
    ) -> Inserted {
        let Place {
            table,
            bucket,
            slot,
        } = row.place;
        if table != table_of(newcomer, main) {
            self.remove_row(row, now);
            return match self.insert(newcomer, (main, hash), now, room) {
                Inserted::Done => Inserted::Replaced,
                refused => refused,
            };
        }
        let session = &newcomer.slot.session;
        let mapped = self.table(table);
        mapped.store(bucket, session_offset(slot), session);
        mapped.half(bucket, HEARD_OFFSET).store(ticks(now), SeqCst);
        self.hear((table, bucket), ticks(now));
        if newcomer.half_open {
            let word = row.control & !stamp(abi::CONTROL_STAMP_MASK) | stamp(session.seen);
            self.control(row.place).store(word, Release);
        }
        Inserted::Replaced
    }

    /// What a table of this vnic calls a session. No guest can make two of one name, because none
    /// knows the keys of the hash.
    pub(crate) fn name(&self, key: &SessionKey) -> u64 {
        name(self.hash(key))
    }

    /// Takes out the session of a name. Returns whether it was there.
    pub(crate) fn remove_named(&self, name: u64, now: u64) -> bool {
        let mut removed = false;
        for table in self.in_use() {
            // It never breaks off.
            let _ = self.along(table, name, |row| {
                if self.name(&row.slot.key) == name {
                    removed |= self.remove_row(&row, now);
                }
                ControlFlow::Continue(())
            });
        }
        removed
    }

    /// Takes out every copy of a session behind that which lies first. Returns how many went.
    fn thin(&self, table: u32, newcomer: &Newcomer, now: u64) -> u32 {
        let hash = newcomer.hash;
        if self.has_one_at_most(table, hash) {
            return 0;
        }
        let (mut first, mut removed) = (true, 0);
        // It never breaks off.
        let _ = self.copies(table, (&newcomer.slot.key, hash), |row| {
            removed += u32::from(!first && self.remove_row(&row, now));
            first = false;
            ControlFlow::Continue(())
        });
        removed
    }

    /// Whether a way is over after its first bucket, in which no two slots have the hash's tag:
    /// then no key of it is there twice, and no session need be read to say so.
    fn has_one_at_most(&self, table: u32, hash: u64) -> bool {
        let (mapped, bucket) = (self.table(table), self.bucket_at(table, hash, 0));
        let wanted = control_word(hash, 0, abi::SLOT_LIVE);
        let alike = controls(mapped, bucket)
            .into_iter()
            .filter(|control| control & MATCH == wanted);
        alike.count() <= 1
            && (table == abi::TABLE_HALF_OPEN || self.passed(table, bucket).load(SeqCst) == 0)
    }

    /// Claims a free slot, fills and publishes it. Returns whether there was one.
    pub(super) fn put(&self, table: u32, slot: &Slot, hash: u64, now: u64) -> bool {
        if table == abi::TABLE_HALF_OPEN {
            return self.put_into(table, (hash, 0), slot, now);
        }
        for step in 0..abi::BUCKET_STEPS {
            if self.put_into(table, (hash, step), slot, now) {
                return true;
            }
            let bucket = self.bucket_at(table, hash, step);
            self.passed(table, bucket).fetch_add(1, SeqCst);
        }
        self.unpass(table, hash, abi::BUCKET_STEPS);
        false
    }

    fn put_into(&self, table: u32, (hash, step): (u64, u32), slot: &Slot, now: u64) -> bool {
        let (mapped, bucket) = (self.table(table), self.bucket_at(table, hash, step));
        // The preferred slot first: that is where the program looks first.
        let slots = std::iter::once(preferred(hash)).chain(0..abi::BUCKET_SLOTS);
        for index in slots {
            let control = mapped.word(bucket, control_offset(index));
            let seen = control.load(SeqCst);
            if !free(seen, ticks(now)) {
                continue;
            }
            let claimed = control_word(hash, step, abi::SLOT_CLAIMED);
            if control
                .compare_exchange(seen, claimed, SeqCst, SeqCst)
                .is_err()
            {
                continue;
            }
            // Whoever still reads what lay here must find the claim after it.
            fence(Release);
            mapped.store(bucket, slot_offset(index), slot);
            let heard = if table == abi::TABLE_HALF_OPEN {
                stamp(slot.session.seen)
            } else {
                0
            };
            mapped.half(bucket, HEARD_OFFSET).store(ticks(now), SeqCst);
            control.store(control_word(hash, step, abi::SLOT_LIVE) | heard, Release);
            self.hear((table, bucket), ticks(now));
            return true;
        }
        false
    }

    /// Takes out the half-open copies of sessions that were put in beside them: a program that had
    /// looked for a session before it came has begun it anew. Returns how many went.
    pub(crate) fn settle(&self, now: u64) -> io::Result<u64> {
        sys::wait_for_programs()?;
        let mut removed = 0;
        self.each_row(abi::TABLE_HALF_OPEN, |row: &Row| {
            let twice = self.lasts(&row.slot.key);
            removed += u64::from(twice && self.remove_row(row, now));
        });
        Ok(removed)
    }

    /// Lets the places of sessions that have ended be taken again at once. A program may still be
    /// writing there, which is why they rest: those that run now are waited for instead.
    pub(crate) fn end_rest(&self) -> io::Result<()> {
        let resting: Vec<_> = self
            .in_use()
            .flat_map(|table| self.resting(table))
            .collect();
        sys::wait_for_programs()?;
        for (place, control) in resting {
            // Another may have taken it meanwhile.
            let _ = self
                .control(place)
                .compare_exchange(control, 0, SeqCst, SeqCst);
        }
        Ok(())
    }

    fn resting(&self, table: u32) -> impl Iterator<Item = (Place, u64)> + '_ {
        let places = (0..self.table(table).len()).flat_map(move |bucket| {
            (0..abi::BUCKET_SLOTS).map(move |slot| Place {
                table,
                bucket,
                slot,
            })
        });
        let words = places.map(|place| (place, self.control(place).load(SeqCst)));
        words.filter(|(_, control)| state_of(*control) == abi::SLOT_DEAD)
    }
}

/// What a table calls a session of this hash; see [`Slots::name`].
pub(crate) fn name(hash: u64) -> u64 {
    hash.max(NAMES_FROM)
}

const fn table_of(newcomer: &Newcomer, main: u32) -> u32 {
    if newcomer.half_open {
        abi::TABLE_HALF_OPEN
    } else {
        main
    }
}
