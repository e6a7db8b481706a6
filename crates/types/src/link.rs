//! What a vnic may be on its link beyond one station in one segment.

use crate::{Mac, Segment};
use serde::{Deserialize, Serialize};
use std::fmt;

/// VLANs whose tag a vnic may use.
pub const VLANS_PER_VNIC_MAX: usize = 4;
/// MAC addresses of a vnic beyond its first.
pub const MORE_MACS_MAX: usize = 3;
/// Groups of vnics that share addresses and that one vnic may be in.
pub const SHARED_PER_VNIC_MAX: usize = 4;
/// The VLANs of IEEE 802.1Q: 0 is no VLAN and 4095 is reserved.
const VLAN_ID_MAX: u16 = 4_094;

/// The number of a VLAN on the wire, 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN with this number, unless it is 0 or above 4094.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            1..=VLAN_ID_MAX => Some(Self(number)),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = LinkError;
    fn try_from(number: u16) -> Result<Self, LinkError> {
        Self::new(number).ok_or(LinkError::VlanId(number))
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> u16 {
        vlan.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// A VLAN and the L2 domain that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// Its number in the tag.
    pub id: VlanId,
    /// The domain, which is another one than that of untagged frames.
    pub segment: Segment,
}

/// What a guest may be for others on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Role {
    /// It may send router advertisements.
    Router = 1,
    /// It may answer as a DHCP server.
    DhcpServer = 2,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 2] = [Self::Router, Self::DhcpServer];
}

/// A group of vnics that share addresses, as VRRP routers do. Not zero.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct SharedId(pub u32);

impl fmt::Display for SharedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// What a vnic may be on its link beyond one station in one segment. Unused places are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Link {
    /// VLANs whose tag it may use. Every other tag is denied.
    pub vlans: [Option<Vlan>; VLANS_PER_VNIC_MAX],
    /// MAC addresses beyond its first one.
    pub more_macs: [Option<Mac>; MORE_MACS_MAX],
    /// Groups whose shared addresses it may use.
    pub shared: [Option<SharedId>; SHARED_PER_VNIC_MAX],
    /// What it may be for others.
    pub roles: [Option<Role>; Role::ALL.len()],
}

/// Why a vnic cannot be on its link like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No such VLAN.
    #[error("VLAN {0} does not exist; expected 1 to 4094")]
    VlanId(u16),
    /// More than there is room for.
    #[error("{found} {what}; a vnic has at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// The same thing twice.
    #[error("{0} is listed twice")]
    Twice(String),
    /// The address names a group of stations.
    #[error("MAC {0} names a group of stations, or none; expected that of one station")]
    NoStation(Mac),
    /// Group zero.
    #[error("group 0 is no group of vnics; number groups from 1")]
    NoGroup,
}

fn places<T: Copy + PartialEq + fmt::Debug, const N: usize>(
    what: &'static str,
    list: &[T],
) -> Result<[Option<T>; N], LinkError> {
    if list.len() > N {
        return Err(LinkError::TooMany {
            what,
            found: list.len(),
            max: N,
        });
    }
    let mut places = [None; N];
    for (index, value) in list.iter().enumerate() {
        if list[..index].contains(value) {
            return Err(LinkError::Twice(format!("{value:?} of the {what}")));
        }
        places[index] = Some(*value);
    }
    Ok(places)
}

impl Link {
    /// One station in one segment.
    pub const PLAIN: Self = Self {
        vlans: [None; VLANS_PER_VNIC_MAX],
        more_macs: [None; MORE_MACS_MAX],
        shared: [None; SHARED_PER_VNIC_MAX],
        roles: [None; Role::ALL.len()],
    };

    /// With VLANs.
    ///
    /// # Errors
    /// [`LinkError`] if they are too many or one is listed twice.
    pub fn with_vlans(self, vlans: &[Vlan]) -> Result<Self, LinkError> {
        let ids: Vec<VlanId> = vlans.iter().map(|vlan| vlan.id).collect();
        places::<VlanId, VLANS_PER_VNIC_MAX>("VLANs", &ids)?;
        let vlans = places("VLANs", vlans)?;
        Ok(Self { vlans, ..self })
    }

    /// With MAC addresses beyond the first.
    ///
    /// # Errors
    /// [`LinkError`] if they are too many, one is listed twice or is not that of one station.
    pub fn with_macs(self, macs: &[Mac]) -> Result<Self, LinkError> {
        if let Some(mac) = macs.iter().find(|mac| !mac.is_station()) {
            return Err(LinkError::NoStation(*mac));
        }
        let more_macs = places("more MACs", macs)?;
        Ok(Self { more_macs, ..self })
    }

    /// With groups whose addresses it shares.
    ///
    /// # Errors
    /// [`LinkError`] if they are too many, one is listed twice or is zero.
    pub fn with_shared(self, shared: &[SharedId]) -> Result<Self, LinkError> {
        if shared.contains(&SharedId(0)) {
            return Err(LinkError::NoGroup);
        }
        let shared = places("groups of shared addresses", shared)?;
        Ok(Self { shared, ..self })
    }

    /// With roles.
    ///
    /// # Errors
    /// [`LinkError`] if one is listed twice.
    pub fn with_roles(self, roles: &[Role]) -> Result<Self, LinkError> {
        let roles = places("roles", roles)?;
        Ok(Self { roles, ..self })
    }

    /// The domain that this VLAN leads to, if the vnic may use it.
    #[must_use]
    pub fn segment(&self, vlan: u16) -> Option<Segment> {
        let mut vlans = self.vlans.iter().flatten();
        vlans
            .find(|known| known.id.number() == vlan)
            .map(|known| known.segment)
    }

    /// Whether it may be this for others.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&Some(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_zero_and_4095_do_not_exist() {
        for number in [0, 4_095, u16::MAX] {
            assert_eq!(VlanId::try_from(number), Err(LinkError::VlanId(number)));
        }
        for number in [1, 4_094] {
            assert!(VlanId::new(number).is_some(), "{number}");
        }
    }

    #[test]
    fn one_place_too_many_and_repetitions_are_refused() {
        let mac = |last| Mac([0x52, 0x54, 0, 0, 0, last]);
        let four = [mac(1), mac(2), mac(3), mac(4)];
        assert!(Link::PLAIN.with_macs(&four[..3]).is_ok());
        let found = Link::PLAIN
            .with_macs(&four)
            .map_err(|error| error.to_string());
        assert_eq!(found, Err("4 more MACs; a vnic has at most 3".into()));
        let vlan = |id, segment| Vlan {
            id: VlanId::new(id).expect("a VLAN"),
            segment: Segment(segment),
        };
        assert!(Link::PLAIN.with_vlans(&[vlan(1, 7), vlan(1, 8)]).is_err());
        assert!(Link::PLAIN.with_roles(&[Role::Router; 2]).is_err());
    }

    #[test]
    fn groups_of_stations_and_group_zero_are_refused() {
        for mac in [Mac([0x33, 0x33, 0, 0, 0, 1]), Mac([0; 6])] {
            assert_eq!(
                Link::PLAIN.with_macs(&[mac]),
                Err(LinkError::NoStation(mac))
            );
        }
        assert_eq!(
            Link::PLAIN.with_shared(&[SharedId(0)]),
            Err(LinkError::NoGroup)
        );
    }

    #[test]
    fn a_vlan_leads_to_its_segment_only() {
        let vlan = Vlan {
            id: VlanId::new(10).expect("a VLAN"),
            segment: Segment(8),
        };
        let link = Link::PLAIN.with_vlans(&[vlan]).expect("one VLAN");
        assert_eq!(link.segment(10), Some(Segment(8)));
        assert_eq!(link.segment(11), None);
    }
}
