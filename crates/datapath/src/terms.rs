//! On which terms a conversation may begin at a vnic, as its guest's owner chose for the case that
//! protection is impaired; and packets that nobody sends, which prove that verdicts are given.

use crate::abi;
use crate::error::failed;
use crate::explain::{STRANGER, body, frame};
use crate::vnic::Vnic;
use crate::{Datapath, Error, TestVerdict, sys};
use lictor_types::{Direction, Mac, Probe, VnicId};
use rand::RngCore as _;
use std::net::IpAddr;
use std::time::Duration;

/// Until when conversations may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Whether or not anybody proves verdicts.
    Free,
    /// From now on for so long.
    For(Duration),
    /// As was said last: nothing is proven. Where nothing was said it is over.
    Kept,
}

/// On which terms a conversation may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Until when any may.
    pub lease: Lease,
    /// None may: a newer release is known than the one that is loaded.
    pub stale: bool,
    /// For so long from now on one that is under way may be taken up in its midst.
    pub adopt: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Zero is no proof, and every frame from a device may carry it.
pub(crate) fn new_proof() -> u64 {
    rand::rngs::OsRng.next_u64() | 1
}

impl Vnic {
    pub(crate) fn terms(&self) -> Result<abi::Terms, Error> {
        let terms = self.terms.get(&0).map_err(failed("reading a vnic"))?;
        Ok(terms.unwrap_or_default())
    }

    pub(crate) fn write_terms(&self, terms: &abi::Terms) -> Result<(), Error> {
        self.terms
            .set(&0, terms, 0)
            .map_err(failed("writing a vnic"))
    }

    fn set_terms(&self, terms: &Terms) -> Result<(), Error> {
        let (now, before) = (self.now()?, self.terms()?);
        let lease_until_ns = match (terms.lease, before.lease_until_ns) {
            (Lease::Free, _) => 0,
            (Lease::For(time), _) => now.saturating_add(nanos(time)),
            (Lease::Kept, 0) => now,
            (Lease::Kept, before) => before,
        };
        self.write_terms(&abi::Terms {
            lease_until_ns,
            adopt_until_ns: now.saturating_add(nanos(terms.adopt)),
            flags: if terms.stale { abi::TERMS_STALE } else { 0 },
            ..before
        })
    }
}

/// With an option that asks every router to look, so that the program takes its long way whether or
/// not there is a session of such a packet.
fn by_the_long_way(probe: &Probe, frame: &[u8]) -> Vec<u8> {
    let (headers, option): (_, &[u8]) = match probe.source() {
        IpAddr::V4(_) => (14 + 20, &[148, 4, 0, 0]),
        IpAddr::V6(_) => (14 + 40, &[probe.protocol(), 0, 5, 2, 0, 0, 1, 0]),
    };
    let mut bytes = [&frame[..headers], option, &frame[headers..]].concat();
    match probe.source() {
        IpAddr::V4(_) => {
            let length = (bytes.len() - 14) as u16;
            bytes[14] = 0x46;
            bytes[16..18].copy_from_slice(&length.to_be_bytes());
        }
        IpAddr::V6(_) => {
            let length = (bytes.len() - headers) as u16;
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
            bytes[20] = 0;
        }
    }
    bytes
}

/// The frame of a packet that would begin a conversation of a guest, or with it.
#[must_use]
pub fn proof_frame(probe: &Probe, own: Mac, direction: Direction) -> Vec<u8> {
    let macs = match direction {
        Direction::Egress => (STRANGER, own),
        Direction::Ingress => (own, STRANGER),
    };
    by_the_long_way(probe, &frame(probe, macs, &body(probe, None, direction)))
}

impl Datapath {
    /// Says on which terms a conversation may begin at a vnic, from the next packet on.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn set_terms(&self, vnic: VnicId, terms: &Terms) -> Result<(), Error> {
        self.vnic(vnic)?.set_terms(terms)
    }

    /// For how long a vnic's lease has been over; `None` if it is not, or if it has none.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn lease_over(&self, vnic: VnicId) -> Result<Option<Duration>, Error> {
        let vnic = self.vnic(vnic)?;
        let (now, until) = (vnic.now()?, vnic.terms()?.lease_until_ns);
        let over = (until != 0).then(|| now.checked_sub(until)).flatten();
        Ok(over.map(Duration::from_nanos))
    }

    /// Runs a vnic's own program on a frame that nobody sends, one of [`proof_frame`]. What it says
    /// is the verdict alone: nothing is counted, reported, limited or remembered. A packet toward
    /// the guest comes in by the device of `came_by`, or by the uplink.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn prove(
        &self,
        vnic: VnicId,
        (direction, came_by): (Direction, Option<VnicId>),
        frame: &[u8],
    ) -> Result<TestVerdict, Error> {
        let vnic = self.vnic(vnic)?;
        let device = match came_by {
            Some(other) => self.vnic(other)?.config()?.ifindex,
            None => 0,
        };
        let given = sys::Given {
            ingress_ifindex: device,
            proof: vnic.terms()?.proof,
        };
        vnic.run(direction, frame, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_never_zero() {
        assert!((0..64).all(|_| new_proof() != 0));
    }
}
