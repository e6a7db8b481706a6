//! Sessions that leave in rounds while packets pass: first all of them, then what has changed since
//! the round before. A session is named by the slot where it lies. What was told is remembered by
//! slot, in four bytes for each, so that a round looks at the control words of sessions that nobody
//! has heard of, and at nothing else of them.

use crate::abi;
use crate::events::key_of;
use crate::mirror::SlotRecord;
use crate::sessions::record;
use crate::slots::{NOBODY, Tag, ticks};
use crate::vnic::Vnic;
use crate::{Datapath, Error};
use lictor_types::{SessionKey, VnicId};
use std::ops::Range;
use std::sync::OnceLock;

/// A program says that it has found a session, then it changes it: what was in between when its
/// bucket was looked at is told of in the next round. Far longer than any program runs.
const SLACK_TICKS: u32 = 8;
/// Buckets that are looked through at once while the guest runs.
const STEP: usize = 64;
/// The same while it stands still: what they may hold fits into the memory of an agent.
const FAST_STEP: usize = 32_768;
/// Processors that look through a table together; more wait for memory.
const THREADS_MAX: usize = 4;
/// How many that are. Asking takes half a millisecond, in a pause once for each step.
static THREADS: OnceLock<usize> = OnceLock::new();

fn threads() -> usize {
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    there.min(THREADS_MAX)
}

/// What of one vnic's sessions was told in the rounds so far.
#[derive(Debug, Default)]
pub struct Told {
    /// Who was in each slot of each table when it was looked at.
    slots: [Vec<Tag>; abi::TABLES as usize],
    /// Slots of which a session was told.
    count: u64,
    /// Slots of which one was told, and in which there is none any more.
    gone: Vec<(u32, u32)>,
    /// When the last whole round began, and when this one did. What was not heard of since is told.
    since: u32,
    begun: u32,
    /// The tables of this round that are not looked through yet, the next one last, and the bucket
    /// with which that goes on.
    tables: Vec<u32>,
    bucket: usize,
}

/// A part of a round: what lies in some slots of one table, then which slots are empty now.
#[derive(Debug, Default)]
pub struct Part {
    /// The table of the records.
    pub table: u32,
    /// New in their slots, or heard of since the round before; in the order of their slots.
    pub records: Vec<SlotRecord>,
    /// Tables and slots of which a session was told before, and which have none any more.
    pub gone: Vec<(u32, u32)>,
    /// Whether the round is at its end.
    pub ended: bool,
}

impl Told {
    /// How many sessions whoever was told of them has now.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether a round has begun and not ended.
    #[must_use]
    pub const fn within_round(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Notes who is in a slot.
    fn stays(&mut self, (table, index): (u32, usize), who: Tag) {
        let before = std::mem::replace(&mut self.slots[table as usize][index], who);
        match (before, who) {
            (NOBODY, NOBODY) => {}
            (NOBODY, _) => self.count += 1,
            (_, NOBODY) => {
                self.count -= 1;
                self.gone.push((table, index as u32));
            }
            _ => {}
        }
    }

    /// Gives what must be said before anything else: slots whose numbers mean another place now.
    fn begin(&mut self, now: u64, tables: impl Iterator<Item = (u32, usize)>) -> Vec<(u32, u32)> {
        self.begun = ticks(now);
        let mut sizes = [0; abi::TABLES as usize];
        for (table, size) in tables {
            self.tables.insert(0, table);
            sizes[table as usize] = size;
        }
        let mut first = Vec::new();
        for (table, size) in sizes.into_iter().enumerate() {
            if self.slots[table].len() == size {
                continue;
            }
            // Another quota, another table: whoever is in it is told again.
            let before = std::mem::replace(&mut self.slots[table], vec![NOBODY; size]);
            let told = before.iter().enumerate().filter(|(_, who)| **who != NOBODY);
            let empty: Vec<_> = told
                .map(|(index, _)| (table as u32, index as u32))
                .collect();
            self.count -= empty.len() as u64;
            // Where there is no table any more its sessions are told of elsewhere before it goes.
            let gone = if size == 0 {
                &mut self.gone
            } else {
                &mut first
            };
            gone.extend(empty);
        }
        first
    }

    /// Notes what was found in a step. Says whether it was the round's last one.
    fn take(&mut self, step: &Step, changes: Vec<(usize, Tag)>) -> bool {
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

    fn end(&mut self) -> Vec<(u32, u32)> {
        self.since = self.begun.wrapping_sub(SLACK_TICKS);
        std::mem::take(&mut self.gone)
    }
}

impl Datapath {
    /// Goes on with a round of what was not told yet, until there are almost `max` records or a
    /// table is at its end; see [`Told`].
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn export_part(&self, vnic: VnicId, told: &mut Told, max: usize) -> Result<Part, Error> {
        self.vnic(vnic)?.export_part(told, max)
    }

    /// The same with all processors and of much of a table, for a guest that stands still.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn export_fast(&self, vnic: VnicId, told: &mut Told) -> Result<Part, Error> {
        self.vnic(vnic)?.export_fast(told)
    }
}

impl Vnic {
    pub(crate) fn each_key(&self, mut sink: impl FnMut(SessionKey)) {
        self.sessions.each(|key, _| sink(key_of(key)));
    }

    fn export_part(&self, told: &mut Told, max: usize) -> Result<Part, Error> {
        let now = self.now()?;
        let mut part = self.begin_part(told, now);
        while part.records.len() + STEP * abi::BUCKET_SLOTS <= max.max(STEP * abi::BUCKET_SLOTS) {
            let step = step(told, STEP);
            if step.table != part.table {
                break;
            }
            let found = self.differences(told, &step, now);
            part.records.extend(found.records);
            if told.take(&step, found.changes) {
                (part.gone, part.ended) = (told.end(), true);
                break;
            }
        }
        Ok(part)
    }

    fn export_fast(&self, told: &mut Told) -> Result<Part, Error> {
        let now = self.now()?;
        let mut part = self.begin_part(told, now);
        let step = step(told, FAST_STEP);
        let threads = *THREADS.get_or_init(threads);
        let each = step.buckets.len().div_ceil(threads).max(1);
        let starts = step.buckets.clone().step_by(each);
        let shares: Vec<_> = starts.map(|start| step.from(start, each)).collect();
        let look = |share: &Step| self.differences(told, share, now);
        let found: Vec<Found> = std::thread::scope(|scope| {
            let (first, others) = shares.split_first().unzip();
            let others = others.into_iter().flatten();
            let others: Vec<_> = others.map(|share| scope.spawn(|| look(share))).collect();
            let first = first.map(look);
            let joined = others.into_iter().map(|thread| {
                let joined = thread.join();
                joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            first.into_iter().chain(joined).collect()
        });
        let mut changes = Vec::new();
        for one in found {
            part.records.extend(one.records);
            changes.extend(one.changes);
        }
        if told.take(&step, changes) {
            part.gone.extend(told.end());
            part.ended = true;
        }
        Ok(part)
    }

    /// The part that comes next of a round, which may be a new one.
    fn begin_part(&self, told: &mut Told, now: u64) -> Part {
        let gone = match told.within_round() {
            true => Vec::new(),
            false => told.begin(now, self.sessions.sizes()),
        };
        Part {
            table: told.tables.last().copied().unwrap_or_default(),
            gone,
            ..Part::default()
        }
    }

    fn differences(&self, told: &Told, step: &Step, now: u64) -> Found {
        let mut found = Found::default();
        let buckets = step.buckets.clone();
        let slots = buckets.start * abi::BUCKET_SLOTS..buckets.end * abi::BUCKET_SLOTS;
        let known = &told.slots[step.table as usize][slots];
        let of_step = (step.table, buckets);
        self.sessions
            .differences(of_step, known, told.since, |index, there| {
                // It may have expired, or ended while it was read.
                let there =
                    there.and_then(|(tag, key, session)| Some((tag, record(&key, &session, now)?)));
                let who = there.map_or(NOBODY, |(tag, _)| tag);
                found.changes.push((index, who));
                let record = there.map(|(_, record)| (index as u32, record));
                found.records.extend(record);
            });
        found
    }
}

/// What comes next of a round.
fn step(told: &Told, most: usize) -> Step {
    let table = told.tables.last().copied().unwrap_or_default();
    let buckets = told.slots[table as usize].len() / abi::BUCKET_SLOTS;
    let end = buckets.min(told.bucket + most);
    Step {
        table,
        buckets: told.bucket..end,
    }
}

/// Some buckets of a table.
#[derive(Debug)]
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
    records: Vec<SlotRecord>,
    changes: Vec<(usize, Tag)>,
}
