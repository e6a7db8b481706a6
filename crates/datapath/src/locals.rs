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

impl Shared {
    fn local(&self, place: u32) -> Result<Local, Error> {
        let local = self.locals.get(&place).map_err(failed)?;
        Ok(local.unwrap_or_default())
    }

    /// Says where a vnic is and whether it forwards, and returns one more than its place. A vnic
    /// without a place takes the first free one; there are as many as there may be vnics.
    pub(crate) fn set_local(&self, config: &VnicConfig, mtu: Option<u32>) -> Result<u32, Error> {
        let known = self.local_places.get(&config.vnic).map_err(failed)?;
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
        self.local_places
            .set(&config.vnic, &place, 0)
            .map_err(failed)?;
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
        let Some(place) = self.local_places.get(&vnic.0).map_err(failed)? else {
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
        let Some(place) = self.local_places.get(&vnic.0).map_err(failed)? else {
            return Ok(());
        };
        let free = Local::default();
        self.locals.set(&place, &free, 0).map_err(failed)?;
        self.local_places.remove(&vnic.0).map_err(failed)?;
        self.touch()
    }

    /// Makes the places agree with the vnics that are attached: a process may have ended between
    /// the two. Their MTU is kept, or unknown.
    pub(crate) fn restore_locals(&self, vnics: &BTreeMap<VnicId, VnicConfig>) -> Result<(), Error> {
        for (vnic, place) in self.local_places.rows().map_err(failed)? {
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
