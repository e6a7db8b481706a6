//! Sessions that leave in rounds while packets pass: first all of them, then what has changed since
//! the round before. What was told is remembered by slot, in eight bytes for each, so that a round
//! looks at one word of a session that nobody has heard of, and at nothing else of it.

use crate::Error;
use crate::abi;
use crate::events::key_of;
use crate::sessions::record;
use crate::slots::{Spot, ticks};
use crate::vnic::Vnic;
use lictor_types::{SessionKey, SessionRecord};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::ControlFlow;

/// A session's name in rounds: both ends of a move compute it from its key, and no guest can make
/// two sessions of one name. Zero is nobody's.
pub type Fingerprint = u64;

/// Fingerprints are as good as any hash of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// A set of sessions in nine bytes each.
pub type Fingerprints = HashSet<Fingerprint, BuildHasherDefault<AsItIs>>;

/// What of one vnic's sessions was told in the rounds so far.
#[derive(Debug, Default)]
pub struct Told {
    /// Who was in each slot of each table when it was looked at; zero: nobody.
    slots: [Vec<Fingerprint>; abi::TABLES as usize],
    known: Fingerprints,
    /// Told from two slots: one that was promoted while a round went on.
    twice: Fingerprints,
    /// No longer in the slot where they were.
    lost: Fingerprints,
    /// When the last whole round began, and when this one did. What was not heard of since is told.
    since: u32,
    begun: u32,
    /// The tables of this round that are not looked through yet, the next one last, and the bucket
    /// with which that goes on.
    tables: Vec<u32>,
    bucket: usize,
}

/// A part of a round.
#[derive(Debug, Default)]
pub struct Part {
    /// New, or heard of since the round before.
    pub records: Vec<SessionRecord>,
    /// At the end of a round: who was told before and is not there any more.
    pub gone: Option<Vec<Fingerprint>>,
}

impl Told {
    /// How many sessions whoever was told of them has now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Whether a round has begun and not ended.
    #[must_use]
    pub const fn within_round(&self) -> bool {
        !self.tables.is_empty()
    }

    fn leaves(&mut self, who: Fingerprint) {
        if who != 0 && !self.twice.remove(&who) {
            self.lost.insert(who);
        }
    }

    /// Notes who is in a slot.
    fn stays(&mut self, (table, index): (u32, usize), who: Fingerprint) {
        let before = std::mem::replace(&mut self.slots[table as usize][index], who);
        if before == who {
            return;
        }
        self.leaves(before);
        if who != 0 && !self.known.insert(who) && !self.lost.remove(&who) {
            self.twice.insert(who);
        }
    }

    fn begin(&mut self, now: u64, tables: impl Iterator<Item = (u32, usize)>) {
        self.begun = ticks(now);
        let mut sizes = [0; abi::TABLES as usize];
        for (table, size) in tables {
            self.tables.insert(0, table);
            sizes[table as usize] = size;
        }
        for (table, size) in sizes.into_iter().enumerate() {
            if self.slots[table].len() != size {
                // Another quota, another table: whoever is in it is told again.
                let before = std::mem::replace(&mut self.slots[table], vec![0; size]);
                before.into_iter().for_each(|who| self.leaves(who));
            }
        }
        let slots: usize = sizes.iter().sum();
        self.known
            .reserve(if self.known.is_empty() { slots / 2 } else { 0 });
    }

    /// What of a slot was not told yet.
    #[inline]
    fn look(
        &mut self,
        spot: &Spot<'_>,
        (table, now): (u32, u64),
        fingerprint: &impl Fn(&SessionKey) -> Fingerprint,
    ) -> Option<SessionRecord> {
        let index = spot.index();
        let before = self.slots[table as usize][index];
        let Some(seen) = spot.seen() else {
            if before != 0 {
                self.stays((table, index), 0);
            }
            return None;
        };
        // The clock is coarse: a packet within the round's own tick counts as later.
        let later = seen.wrapping_sub(self.since).cast_signed() >= 0;
        if before != 0 && !later {
            return None;
        }
        let found = spot.read();
        // It may have expired, or ended while it was read.
        let found = found.and_then(|(key, session)| record(&key, &session, now));
        let who = found.map_or(0, |found| fingerprint(&found.key));
        self.stays((table, index), who);
        found
    }

    fn end(&mut self) -> Vec<Fingerprint> {
        self.since = self.begun;
        let gone: Vec<_> = self.lost.drain().collect();
        gone.iter().for_each(|who| {
            self.known.remove(who);
        });
        gone
    }
}

impl Vnic {
    pub(crate) fn each_key(&self, mut sink: impl FnMut(SessionKey)) {
        self.sessions.each(|key, _| sink(key_of(key)));
    }

    /// Goes on with a round, or begins one, until another bucket could make it more than `max`
    /// records.
    pub(crate) fn export_part(
        &self,
        told: &mut Told,
        max: usize,
        fingerprint: impl Fn(&SessionKey) -> Fingerprint,
    ) -> Result<Part, Error> {
        let now = self.now()?;
        let mut part = Part::default();
        if !told.within_round() {
            told.begin(now, self.sessions.sizes());
            told.bucket = 0;
        }
        while let Some(table) = told.tables.last().copied() {
            let rest = self.sessions.walk(table, told.bucket, |spot| {
                let found = told.look(&spot, (table, now), &fingerprint);
                part.records.extend(found);
                if part.records.len() + abi::BUCKET_SLOTS <= max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            if let Some(bucket) = rest {
                told.bucket = bucket;
                return Ok(part);
            }
            told.tables.pop();
            told.bucket = 0;
        }
        part.gone = Some(told.end());
        Ok(part)
    }
}
