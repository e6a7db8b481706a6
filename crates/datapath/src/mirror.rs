//! Sessions that come from another host's table while it changes. The other host names a session by
//! the slot where it lies over there; this one remembers of each such slot its own name of the
//! session, eight bytes, and finds it by that: what has changed is written in place, so that a full
//! table takes a session that it has already, and what has gone is taken out without a look at
//! the others.

use crate::abi::{self, VnicConfig};
use crate::error::failed;
use crate::sessions::{newcomer, refused};
use crate::slots::{Earlier, Inserted, NAMES_FROM, name, slots_of_quota};
use crate::sys;
use crate::vnic::Vnic;
use crate::{Datapath, Error, ImportRefusal};
use lictor_types::{SessionRecord, VnicId, VnicState};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A session and the slot where it lies at the other host.
pub type SlotRecord = (u32, SessionRecord);

/// What the name of an empty slot is, and of one whose session was refused.
const EMPTY: u64 = 0;
const REFUSED: u64 = 1;
const _: () = assert!(REFUSED < NAMES_FROM);

/// What of another host's tables is in those of a vnic.
#[derive(Debug)]
pub struct Mirror {
    /// How many slots each table of the other host may have.
    bounds: [usize; abi::TABLES as usize],
    /// This host's name of the session in each slot over there.
    slots: [Vec<u64>; abi::TABLES as usize],
    /// Slots that are not empty.
    count: u64,
    /// Slots beyond the first that have the session of a name: one that was promoted while a round
    /// went on is told of twice.
    twins: HashMap<u64, u32>,
    refused: BTreeMap<(u32, u32), ImportRefusal>,
}

impl Mirror {
    /// Nothing yet, from a host that has no larger table than one of this quota.
    #[must_use]
    pub fn new(quota: u32) -> Self {
        Self {
            bounds: slots_of_quota(quota),
            slots: Default::default(),
            count: 0,
            twins: HashMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Sessions that the other host has.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Why sessions of it were not taken in, those of one reason together.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<ImportRefusal, u64> {
        let mut counts = BTreeMap::new();
        for refusal in self.refused.values() {
            *counts.entry(*refusal).or_default() += 1;
        }
        let twins: u64 = self.twins.values().copied().map(u64::from).sum();
        if twins > 0 {
            *counts.entry(ImportRefusal::Exists).or_default() += twins;
        }
        counts
    }

    /// The table's slots, as many as there may be: those that nobody writes to take no memory.
    fn table(&mut self, vnic: VnicId, (table, slot): (u32, u32)) -> Result<&mut Vec<u64>, Error> {
        let bound = self.bounds.get(table as usize).copied().unwrap_or(0);
        if slot as usize >= bound {
            let slots = bound;
            return Err(Error::Slot { vnic, slot, slots });
        }
        let slots = &mut self.slots[table as usize];
        if slots.is_empty() {
            *slots = vec![EMPTY; bound];
        }
        Ok(slots)
    }

    fn name(&self, (table, slot): (u32, u32)) -> u64 {
        self.slots[table as usize][slot as usize]
    }

    /// What lies in a slot now.
    fn set(&mut self, (table, slot): (u32, u32), name: u64) {
        let there = &mut self.slots[table as usize][slot as usize];
        self.count += u64::from(name != EMPTY);
        self.count -= u64::from(std::mem::replace(there, name) != EMPTY);
    }

    fn refuse(&mut self, place: (u32, u32), refusal: ImportRefusal) {
        self.set(place, REFUSED);
        self.refused.insert(place, refusal);
    }

    /// Whether a session that no longer lies in a slot is in none over there.
    fn leaves(&mut self, name: u64) -> bool {
        let Some(others) = self.twins.get_mut(&name) else {
            return true;
        };
        *others -= 1;
        if *others == 0 {
            self.twins.remove(&name);
        }
        false
    }
}

impl Datapath {
    /// Takes in what slots of one of another host's tables hold now, whatever they held before; see
    /// [`Mirror`]. Only sessions of which `own` knows the local address; no packet may pass.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`], and [`Error::Slot`] before anything is taken in.
    pub fn mirror(
        &self,
        (vnic, mirror): (VnicId, &mut Mirror),
        (table, records): (u32, &[SlotRecord]),
        own: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Error> {
        let here = self.vnic(vnic)?;
        if let Some(last) = records.iter().map(|(slot, _)| *slot).max() {
            mirror.table(vnic, (table, last))?;
        }
        here.mirror(mirror, (table, records), own)
    }

    /// Takes out what slots of one of another host's tables had held: they are empty now.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`], and [`Error::Slot`] before anything is taken out.
    pub fn mirror_gone(
        &self,
        (vnic, mirror): (VnicId, &mut Mirror),
        (table, slots): (u32, &[u32]),
    ) -> Result<(), Error> {
        let here = self.vnic(vnic)?;
        if let Some(last) = slots.iter().max() {
            mirror.table(vnic, (table, *last))?;
        }
        let now = here.now()?;
        for slot in slots {
            here.empty(mirror, (table, *slot), now);
        }
        Ok(())
    }
}

/// What may be taken in of a batch, where it lies over there, and the hash of its key here.
type Wanted<'a> = Vec<(&'a SlotRecord, u64)>;

impl Vnic {
    fn mirror(
        &self,
        mirror: &mut Mirror,
        (table, records): (u32, &[SlotRecord]),
        own: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Error> {
        let (config, now) = (self.config()?, self.now()?);
        let at = (&config, now);
        let mut resting = Vec::new();
        self.in_batches((records, |one| &one.1), |batch, hashes| {
            let wanted = self.wanted(mirror, (table, batch, hashes), at, &own);
            resting.extend(self.place(mirror, (table, wanted), at));
        });
        if !resting.is_empty() {
            self.end_rest()?;
            for (one, _) in self.place(mirror, (table, resting), (&config, self.now()?)) {
                mirror.refuse((table, one.0), ImportRefusal::TableFull);
            }
        }
        if config.state == VnicState::Open as u32 {
            let waiting = failed("waiting for the programs that run");
            self.sessions.settle(self.now()?).map_err(waiting)?;
        }
        Ok(())
    }

    /// Takes out what lay in the slots of a batch, and says what comes in its place.
    fn wanted<'a>(
        &self,
        mirror: &mut Mirror,
        (table, batch, hashes): (u32, &'a [SlotRecord], &[u64]),
        (config, now): (&VnicConfig, u64),
        own: &impl Fn(IpAddr) -> bool,
    ) -> Wanted<'a> {
        let mut wanted = Vec::with_capacity(batch.len());
        for (slot, _) in batch {
            sys::fetch(&mirror.slots[table as usize][*slot as usize..]);
        }
        for (one, hash) in batch.iter().zip(hashes) {
            let (slot, record) = one;
            let refusal = match own(record.key.local) {
                true => refused(record, config),
                false => Some(ImportRefusal::ForeignAddress),
            };
            let place = (table, *slot);
            if refusal.is_some() || mirror.name(place) != name(*hash) {
                self.empty(mirror, place, now);
            }
            match refusal {
                Some(refusal) => mirror.refuse(place, refusal),
                None => wanted.push((one, *hash)),
            }
        }
        wanted
    }

    /// Gives those for which the quota has room and the table no place: those that ended rest.
    fn place<'a>(
        &self,
        mirror: &mut Mirror,
        (table, wanted): (u32, Wanted<'a>),
        (config, now): (&VnicConfig, u64),
    ) -> Wanted<'a> {
        let mut resting = Vec::new();
        let mut told = Vec::with_capacity(wanted.len());
        let newcomers: Vec<_> = wanted
            .iter()
            .map(|(one, hash)| newcomer((&one.1, *hash), now))
            .collect();
        let at = (config.sessions_max, now, Earlier::GivesWay);
        self.sessions.insert_batch(&newcomers, at, &mut told);
        for ((one, hash), told) in wanted.into_iter().zip(told) {
            let (place, name) = ((table, one.0), name(hash));
            match told {
                Inserted::Done => mirror.set(place, name),
                Inserted::Exists | Inserted::Replaced => {
                    if mirror.name(place) != name {
                        // Another slot has it, too.
                        *mirror.twins.entry(name).or_default() += 1;
                    }
                    mirror.set(place, name);
                }
                Inserted::QuotaFull => {
                    self.empty(mirror, place, now);
                    mirror.refuse(place, ImportRefusal::TableFull);
                }
                Inserted::NoPlace => {
                    self.empty(mirror, place, now);
                    resting.push((one, hash));
                }
            }
        }
        resting
    }

    /// Nothing of another host lies in a slot any more.
    fn empty(&self, mirror: &mut Mirror, place: (u32, u32), now: u64) {
        let name = mirror.name(place);
        mirror.set(place, EMPTY);
        match name {
            EMPTY => {}
            REFUSED => drop(mirror.refused.remove(&place)),
            // It never came, or went already, if a program took it out: that is no fault.
            name if mirror.leaves(name) => drop(self.sessions.remove_named(name, now)),
            _ => {}
        }
    }
}
