//! Where the vnics of this host are, for all of them to see: a packet from one of them must have
//! come in by its device.

use crate::Error;
use crate::abi::{self, Local, VnicConfig};
use crate::shared::Shared;
use lictor_types::{Endpoint, VnicId};
use std::collections::BTreeMap;
use std::io;

fn failed(source: io::Error) -> Error {
    Error::System {
        action: "keeping the places of this host's vnics",
        source,
    }
}

/// The vnic and the place of an entry of `local_places`, unless nobody is there, or any more.
fn of_entry(entry: u64) -> Option<(u32, u32)> {
    let (vnic, place) = (entry as u32, (entry >> 32) as u32);
    (vnic != 0).then(|| (vnic, place.wrapping_sub(1)))
}

fn entry_of(vnic: u32, place: u32) -> u64 {
    u64::from(vnic) | u64::from(place + 1) << 32
}

/// An entry of which somebody is gone: a search goes on beyond it.
const GONE: u64 = 1 << 32;

/// The entries of a vnic's search.
fn search_of(vnic: u32) -> std::ops::Range<u32> {
    let first = vnic.wrapping_mul(abi::LOCAL_PLACE_MIX) >> abi::LOCAL_PLACE_SHIFT;
    first..first + abi::LOCAL_PLACE_STEPS
}

impl Shared {
    fn entry(&self, index: u32) -> Result<u64, Error> {
        Ok(self.local_places.get(&index).map_err(failed)?.unwrap_or(0))
    }

    fn set_entry(&self, index: u32, entry: u64) -> Result<(), Error> {
        // The kernel copies a value of eight bytes at once: programs see the old or the new one.
        self.local_places.set(&index, &entry, 0).map_err(failed)
    }

    /// Where a vnic's entry is, and its place.
    fn find_place(&self, vnic: u32) -> Result<Option<(u32, u32)>, Error> {
        for index in search_of(vnic) {
            match self.entry(index)? {
                0 => return Ok(None),
                entry => match of_entry(entry) {
                    Some((its, place)) if its == vnic => return Ok(Some((index, place))),
                    _ => {}
                },
            }
        }
        Ok(None)
    }

    fn place_of(&self, vnic: u32) -> Result<Option<u32>, Error> {
        Ok(self.find_place(vnic)?.map(|(_, place)| place))
    }

    fn set_place(&self, vnic: u32, place: u32) -> Result<(), Error> {
        if let Some((index, _)) = self.find_place(vnic)? {
            return self.set_entry(index, entry_of(vnic, place));
        }
        for index in search_of(vnic) {
            if of_entry(self.entry(index)?).is_none() {
                return self.set_entry(index, entry_of(vnic, place));
            }
        }
        // With an eighth of the entries in use sixteen in a row do not meet by chance.
        Err(failed(io::Error::other(
            "too many vnics have numbers that meet; number this one anew",
        )))
    }

    fn clear_place(&self, vnic: u32) -> Result<(), Error> {
        let Some((index, _)) = self.find_place(vnic)? else {
            return Ok(());
        };
        let last = index + 1 == abi::LOCAL_PLACES || self.entry(index + 1)? == 0;
        self.set_entry(index, if last { 0 } else { GONE })
    }

    fn local(&self, place: u32) -> Result<Local, Error> {
        let local = self.locals.get(&place).map_err(failed)?;
        Ok(local.unwrap_or_default())
    }

    /// Says where a vnic is and whether it forwards, and returns one more than its place. A vnic
    /// without a place takes the first free one; there are as many as there may be vnics.
    pub(crate) fn set_local(&self, config: &VnicConfig, mtu: Option<u32>) -> Result<u32, Error> {
        let known = self.place_of(config.vnic)?;
        let place = match known {
            Some(place) => place,
            None => self.free_place()?,
        };
        let before = self.local(place)?;
        let local = Local {
            vnic: config.vnic,
            // What the hypervisor's own stack sends came in by no device.
            ifindex: match crate::vnic::endpoint_of(config) {
                Endpoint::Guest => config.ifindex,
                Endpoint::Host => 0,
            },
            state: config.state,
            mtu: mtu.unwrap_or(before.mtu),
            mac: config.mac,
            ..before
        };
        self.locals.set(&place, &local, 0).map_err(failed)?;
        self.set_place(config.vnic, place)?;
        if known.is_none() {
            self.touch()?;
        }
        Ok(place + 1)
    }

    /// Says by which bridge a vnic may be steered to and from, if by any, and after how many ticks
    /// the bridge must hear of it again; with its MTU.
    pub(crate) fn set_local_bridge(
        &self,
        vnic: VnicId,
        (bridge, refresh, mtu): (u32, u32, u32),
    ) -> Result<(), Error> {
        let Some(place) = self.place_of(vnic.0)? else {
            return Ok(());
        };
        let before = self.local(place)?;
        let local = Local {
            bridge,
            refresh,
            mtu,
            ..before
        };
        if local == before {
            return Ok(());
        }
        self.locals.set(&place, &local, 0).map_err(failed)
    }

    fn free_place(&self) -> Result<u32, Error> {
        for place in 0..abi::LOCALS_MAX {
            if self.local(place)?.vnic == 0 {
                return Ok(place);
            }
        }
        Err(failed(io::Error::other("every place is taken")))
    }

    /// Frees the place of a vnic, if it has one.
    pub(crate) fn remove_local(&self, vnic: VnicId) -> Result<(), Error> {
        let Some(place) = self.place_of(vnic.0)? else {
            return Ok(());
        };
        let free = Local::default();
        self.locals.set(&place, &free, 0).map_err(failed)?;
        self.clear_place(vnic.0)?;
        self.touch()
    }

    /// Makes the places agree with the vnics that are attached: a process may have ended between
    /// the two. Their MTU is kept, or unknown.
    pub(crate) fn restore_locals(&self, vnics: &BTreeMap<VnicId, VnicConfig>) -> Result<(), Error> {
        for (_, entry) in self.local_places.rows().map_err(failed)? {
            let Some((vnic, place)) = of_entry(entry) else {
                continue;
            };
            let stale = self.local(place)?.vnic != vnic;
            if stale || !vnics.contains_key(&VnicId(vnic)) {
                self.remove_local(VnicId(vnic))?;
            }
        }
        for config in vnics.values() {
            self.set_local(config, None)?;
        }
        Ok(())
    }
}
