//! What a vnic may be on its link, in the words of its pinned value and back.

use crate::abi::{self, VnicConfig};
use lictor_types::{Link, Mac, Role, Segment, SharedId, Vlan, VlanId};

/// Writes the link into a vnic's value.
pub(crate) fn with_link(config: VnicConfig, link: &Link) -> VnicConfig {
    let vlan = |vlan: Option<Vlan>| {
        vlan.map_or_else(abi::Vlan::default, |vlan| abi::Vlan {
            segment: vlan.segment.0,
            id: vlan.id.number(),
            pad: 0,
        })
    };
    let mac = |mac: Option<Mac>| {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&mac.map_or([0; 6], |mac| mac.0));
        bytes
    };
    let roles = link.roles.iter().flatten();
    VnicConfig {
        vlans: link.vlans.map(vlan),
        more_macs: link.more_macs.map(mac),
        shared: link.shared.map(|group| group.map_or(0, |group| group.0)),
        roles: roles.fold(0, |roles, role| roles | *role as u8),
        ..config
    }
}

/// The link that a vnic's value holds. A VLAN that does not exist is none, as for the program.
pub(crate) fn link_of(config: &VnicConfig) -> Link {
    let vlan = |vlan: abi::Vlan| {
        VlanId::new(vlan.id).map(|id| Vlan {
            id,
            segment: Segment(vlan.segment),
        })
    };
    let mac = |bytes: [u8; 8]| {
        let [a, b, c, d, e, f, ..] = bytes;
        Some(Mac([a, b, c, d, e, f])).filter(|mac| mac.0 != [0; 6])
    };
    let mut roles = [None; Role::ALL.len()];
    let held = |role: &&Role| config.roles & **role as u8 != 0;
    for (place, role) in roles.iter_mut().zip(Role::ALL.iter().filter(held)) {
        *place = Some(*role);
    }
    Link {
        vlans: config.vlans.map(vlan),
        more_macs: config.more_macs.map(mac),
        shared: config
            .shared
            .map(|group| (group != 0).then_some(SharedId(group))),
        roles,
    }
}

/// Whether this is one of the domains that the vnic is in.
pub(crate) fn has_segment(config: &VnicConfig, segment: Segment) -> bool {
    let vlans = config.vlans.iter().filter(|vlan| vlan.id != 0);
    let mut segments = vlans.map(|vlan| vlan.segment);
    config.segment == segment.0 || segments.any(|known| known == segment.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_comes_back_as_it_was_written() {
        let vlan = |id, segment| Vlan {
            id: VlanId::new(id).expect("a VLAN"),
            segment: Segment(segment),
        };
        let link = Link::PLAIN
            .with_vlans(&[vlan(10, 8), vlan(4_094, 9)])
            .and_then(|link| link.with_macs(&[Mac([0, 0, 0x5e, 0, 1, 7])]))
            .and_then(|link| link.with_shared(&[SharedId(3)]))
            .and_then(|link| link.with_roles(&[Role::DhcpServer]))
            .expect("a link");
        for link in [Link::PLAIN, link] {
            let config = with_link(VnicConfig::default(), &link);
            assert_eq!(link_of(&config), link);
        }
        let config = with_link(VnicConfig::default(), &link);
        assert!(has_segment(&config, Segment(9)) && !has_segment(&config, Segment(10)));
    }
}
