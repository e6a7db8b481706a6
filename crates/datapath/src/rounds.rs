//! Sessions that leave in rounds while packets pass: first all of them, then what has changed since
//! the round before. What was told is remembered by slot, in eight bytes for each, so that a round
//! looks at one word of a session that nobody has heard of, and at nothing else of it.

use crate::Error;
use crate::abi;
use crate::events::key_of;
use crate::sessions::record;
use crate::slots::ticks;
use crate::vnic::Vnic;
use lictor_types::{SessionKey, SessionRecord};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Buckets that are looked through at once while the guest runs.
const STEP: usize = 64;
/// The same while it stands still: what they may hold fits into the memory of an agent.
const FAST_STEP: usize = 65_536;
/// Processors that look through a table together; more wait for memory.
const THREADS_MAX: usize = 4;

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

    /// Notes what was found in a step. Says whether it was the round's last one.
    fn take(&mut self, step: Step, changes: Vec<(usize, Fingerprint)>) -> bool {
        for (index, who) in changes {
            self.stays((step.table, index), who);
        }
        self.bucket = step.buckets.end;
        let slots = &self.slots[step.table as usize];
        if self.bucket * abi::BUCKET_SLOTS >= slots.len() {
            self.tables.pop();
            self.bucket = 0;
        }
        self.tables.is_empty()
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

    /// Goes on with a round, or begins one, until another step could make it more than `max`
    /// records.
    pub(crate) fn export_part(
        &self,
        told: &mut Told,
        max: usize,
        fingerprint: impl Fn(&SessionKey) -> Fingerprint,
    ) -> Result<Part, Error> {
        let mut part = Part::default();
        while part.records.len() + STEP * abi::BUCKET_SLOTS <= max.max(STEP * abi::BUCKET_SLOTS) {
            let (now, step) = (self.now()?, self.step(told, STEP)?);
            let found = self.differences(told, step.clone(), (now, &fingerprint));
            part.records.extend(found.records);
            if told.take(step, found.changes) {
                part.gone = Some(told.end());
                break;
            }
        }
        Ok(part)
    }

    /// As [`Vnic::export_part`], with all processors, for when a guest stands still: much of a
    /// table at once.
    pub(crate) fn export_fast(
        &self,
        told: &mut Told,
        fingerprint: impl Fn(&SessionKey) -> Fingerprint + Sync,
    ) -> Result<Part, Error> {
        let mut part = Part::default();
        let (now, step) = (self.now()?, self.step(told, FAST_STEP)?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let each = step.buckets.len().div_ceil(threads.min(THREADS_MAX)).max(1);
        let starts = step.buckets.clone().step_by(each);
        let shares: Vec<_> = starts.map(|start| step.from(start, each)).collect();
        let look = |share: Step| self.differences(told, share, (now, &fingerprint));
        let found: Vec<Found> = std::thread::scope(|scope| {
            let (first, others) = shares
                .split_first()
                .map_or((None, [].as_slice()), |(one, more)| {
                    (Some(one.clone()), more)
                });
            let others: Vec<_> = others
                .iter()
                .map(|share| scope.spawn(|| look(share.clone())))
                .collect();
            let first = first.map(look);
            let joined = others.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            first.into_iter().chain(joined).collect()
        });
        let mut changes = Vec::new();
        for one in found {
            part.records.extend(one.records);
            changes.extend(one.changes);
        }
        if told.take(step, changes) {
            part.gone = Some(told.end());
        }
        Ok(part)
    }

    /// What comes next of a round.
    fn step(&self, told: &mut Told, most: usize) -> Result<Step, Error> {
        if !told.within_round() {
            told.begin(self.now()?, self.sessions.sizes());
        }
        let table = told.tables.last().copied().unwrap_or_default();
        let buckets = told.slots[table as usize].len() / abi::BUCKET_SLOTS;
        let end = buckets.min(told.bucket + most);
        Ok(Step {
            table,
            buckets: told.bucket..end,
        })
    }

    fn differences(
        &self,
        told: &Told,
        step: Step,
        (now, fingerprint): (u64, &impl Fn(&SessionKey) -> Fingerprint),
    ) -> Found {
        let mut found = Found::default();
        let slots = step.buckets.start * abi::BUCKET_SLOTS..step.buckets.end * abi::BUCKET_SLOTS;
        let known = &told.slots[step.table as usize][slots];
        let of_step = (step.table, step.buckets);
        self.sessions
            .differences(of_step, known, told.since, |index, session| {
                // It may have expired, or ended while it was read.
                let session = session.and_then(|(key, session)| record(&key, &session, now));
                let who = session.map_or(0, |session| fingerprint(&session.key));
                found.changes.push((index, who));
                found.records.extend(session);
            });
        found
    }
}

/// Some buckets of a table.
#[derive(Debug, Clone)]
struct Step {
    table: u32,
    buckets: Range<usize>,
}

impl Step {
    fn from(&self, start: usize, most: usize) -> Self {
        Self {
            table: self.table,
            buckets: start..self.buckets.end.min(start + most),
        }
    }
}

/// What was found in a step: sessions, and who is in which slot now.
#[derive(Debug, Default)]
struct Found {
    records: Vec<SessionRecord>,
    changes: Vec<(usize, Fingerprint)>,
}
