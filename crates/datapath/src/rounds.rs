//! Sessions that leave in rounds while packets pass: first all of them, then what has changed since
//! the round before. A session is named by the slot where it lies. What was told is remembered by
//! slot, in four bytes for each, so that a round looks at the control words of sessions that nobody
//! has heard of, and at nothing else of them.

use crate::abi;
use crate::events::key_of;
use crate::mirror::SlotRecord;
use crate::sessions::record;
use crate::slots::{Look, NOBODY, Tag, earlier, ticks};
use crate::vnic::Vnic;
use crate::{Datapath, Error};
use lictor_types::{SessionKey, VnicId};
use std::ops::Range;

/// A program says that it has found a session, then it changes it: what was in between when its
/// bucket was looked at is told of in the next round. Far longer than any program runs.
const SLACK_TICKS: u32 = 8;
/// Buckets that are looked through at once.
const STEP: usize = 64;
/// The same where only those are looked at that were heard of.
const STEP_HEARD: usize = 1_024;
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
    /// Since when programs write down which buckets they hear of.
    listened: Option<u32>,
    /// How this round looks through each table.
    looks: [Look; abi::TABLES as usize],
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

    /// Gives what must be said before anything else: slots whose numbers mean another place now.
    /// Nothing is read beside them, because a record may be of the same slot. `look` says whether
    /// what was heard since the last round is written down.
    fn begin(
        &mut self,
        (now, look): (u64, Look),
        tables: impl Iterator<Item = (u32, usize)>,
    ) -> Vec<(u32, u32)> {
        self.begun = ticks(now);
        self.looks = [look; abi::TABLES as usize];
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
            self.looks[table] = Look::Each;
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

    /// What was told of the slots of a step.
    fn of(&mut self, step: &Step) -> &mut [Tag] {
        let slots = step.buckets.start * abi::BUCKET_SLOTS..step.buckets.end * abi::BUCKET_SLOTS;
        &mut self.slots[step.table as usize][slots]
    }

    /// Notes what was found in a step. Says whether it was the round's last one.
    fn take(&mut self, step: &Step, found: Found) -> bool {
        self.count = self.count + found.new - found.gone.len() as u64;
        let gone = found.gone.into_iter();
        self.gone.extend(gone.map(|index| (step.table, index)));
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
    /// Goes on with a round of what was not told yet, until there are `max` records or a few more,
    /// or a table is at its end; see [`Told`]. `part` is overwritten and keeps its memory.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn export_part(
        &self,
        (vnic, told): (VnicId, &mut Told),
        max: usize,
        part: &mut Part,
    ) -> Result<(), Error> {
        self.vnic(vnic)?.export_part(told, max, part)
    }

    /// Whoever was told of a vnic's sessions is told no more.
    pub fn export_ended(&self, vnic: VnicId) {
        // One whose device has gone tells nobody anything.
        if let Ok(vnic) = self.vnic(vnic) {
            vnic.sessions.listen_no_more();
        }
    }
}

impl Vnic {
    pub(crate) fn each_key(&self, mut sink: impl FnMut(SessionKey)) {
        self.sessions.each(|key, _| sink(key_of(key)));
    }

    fn export_part(&self, told: &mut Told, max: usize, part: &mut Part) -> Result<(), Error> {
        let now = self.now()?;
        self.begin_part(told, now, part);
        if !part.gone.is_empty() {
            return Ok(());
        }
        // A step of a table that is full adds as many.
        let enough = max.saturating_sub(STEP * abi::BUCKET_SLOTS);
        while part.records.is_empty() || part.records.len() < enough {
            let (step, since) = (step(told), told.since);
            if step.table != part.table {
                break;
            }
            let found = self.differences(&step, told.of(&step), (since, now), &mut part.records);
            if told.take(&step, found) {
                part.gone.append(&mut told.end());
                part.ended = true;
                break;
            }
        }
        Ok(())
    }

    /// Makes a part that comes next of a round, which may be a new one.
    fn begin_part(&self, told: &mut Told, now: u64, part: &mut Part) {
        part.records.clear();
        part.ended = false;
        part.gone = Vec::new();
        if !told.within_round() {
            let look = self.look(told, now);
            part.gone = told.begin((now, look), self.sessions.sizes());
        }
        part.table = told.tables.last().copied().unwrap_or_default();
    }

    /// How a round that begins now looks through the tables. A program that had begun before it was
    /// to write down what it hears of has ended when a slack is over: each bucket is looked at once
    /// more after that.
    fn look(&self, told: &mut Told, now: u64) -> Look {
        let listened = told.listened.filter(|_| self.sessions.listens());
        let Some(listened) = listened else {
            self.sessions.listen(now);
            told.listened = Some(ticks(now));
            return Look::Each;
        };
        let over = listened.wrapping_add(SLACK_TICKS);
        if earlier(told.begun, over) {
            Look::Each
        } else {
            Look::Heard
        }
    }

    /// Looks through a step and notes what is told of it.
    fn differences(
        &self,
        step: &Step,
        told: &mut [Tag],
        (since, now): (u32, u64),
        records: &mut Vec<SlotRecord>,
    ) -> Found {
        let mut found = Found::default();
        let of_step = (step.table, step.buckets.clone());
        self.sessions
            .differences(of_step, told, (step.look, since), |index, before, there| {
                // It may have expired, or ended while it was read.
                let there =
                    there.and_then(|(tag, key, session)| Some((tag, record(&key, &session, now)?)));
                let who = there.map_or(NOBODY, |(tag, _)| tag);
                match (before, who) {
                    (NOBODY, NOBODY) => {}
                    (NOBODY, _) => found.new += 1,
                    (_, NOBODY) => found.gone.push(index as u32),
                    _ => {}
                }
                records.extend(there.map(|(_, record)| (index as u32, record)));
                who
            });
        found
    }
}

/// What comes next of a round.
fn step(told: &Told) -> Step {
    let table = told.tables.last().copied().unwrap_or_default();
    let buckets = told.slots[table as usize].len() / abi::BUCKET_SLOTS;
    let look = told.looks[table as usize];
    let most = match look {
        Look::Each => STEP,
        Look::Heard => STEP_HEARD,
    };
    Step {
        table,
        look,
        buckets: told.bucket..buckets.min(told.bucket + most),
    }
}

/// Some buckets of a table.
#[derive(Debug)]
struct Step {
    table: u32,
    look: Look,
    buckets: Range<usize>,
}

/// What was found in a step.
#[derive(Debug, Default)]
struct Found {
    /// Slots of which nobody was told before.
    new: u64,
    /// Slots of which one was told, and which are empty.
    gone: Vec<u32>,
}
