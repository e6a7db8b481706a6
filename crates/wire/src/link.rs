//! What a binding and an attestation say of a vnic beyond one station with addresses of its own in
//! one segment.

use ipnet::IpNet;
use lictor_types::{AddressKind, Link, LinkError, Mac, Role, Segment, SharedId, Vlan, VlanId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::str::FromStr;

/// [`MoreAddress`]es in one attestation.
pub const MORE_ADDRESSES_MAX: usize = 64;

/// A vnic's link as its owner declares it; empty for one station in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkBinding {
    /// VLANs whose tag it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<Vlan>,
    /// MAC addresses beyond its first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<Mac>,
    /// Groups whose shared addresses it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedId>,
    /// What it may be for others on its link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
}

impl LinkBinding {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The link as the kernel has it.
    ///
    /// # Errors
    /// [`LinkError`] if something is too many, twice or impossible.
    pub fn link(&self) -> Result<Link, LinkError> {
        Link::PLAIN
            .with_vlans(&self.vlans)?
            .with_macs(&self.macs)?
            .with_shared(&self.shared)?
            .with_roles(&self.roles)
    }

    /// Where untagged frames (none) or those of a VLAN belong.
    #[must_use]
    pub fn segment(&self, own: Segment, vlan: Option<VlanId>) -> Option<Segment> {
        let Some(wanted) = vlan else {
            return Some(own);
        };
        let mut vlans = self.vlans.iter();
        vlans
            .find(|vlan| vlan.id == wanted)
            .map(|vlan| vlan.segment)
    }
}

/// An address of another kind, or in a VLAN. Written `routed:PREFIX`, `shared:GROUP:ADDRESS` or
/// `vlan:ID:ADDRESS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoreAddress {
    /// One address, or the prefix that is routed behind the guest.
    pub prefix: IpNet,
    /// What the guest may do with it.
    #[serde(default)]
    pub kind: AddressKind,
    /// The VLAN that it is in; none for untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
}

impl MoreAddress {
    /// An ordinary address.
    #[must_use]
    pub fn own(address: IpAddr) -> Self {
        Self {
            prefix: IpNet::from(address),
            kind: AddressKind::Own,
            vlan: None,
        }
    }

    /// Whether an address is this one, or one of the prefix.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        self.prefix.contains(&address)
    }

    /// Why it cannot be one of a vnic with this link, if it cannot.
    pub(crate) fn fault(&self, link: &LinkBinding) -> Option<String> {
        let prefix = self.prefix;
        if prefix.addr() != prefix.trunc().addr() {
            return Some(format!("{prefix} has bits beyond the prefix"));
        }
        let one = prefix.prefix_len() == prefix.max_prefix_len();
        match self.kind {
            AddressKind::Own | AddressKind::Shared(_) if !one => {
                return Some(format!(
                    "{prefix} is not one address; only a route is a prefix"
                ));
            }
            AddressKind::Shared(group) if !link.shared.contains(&group) => {
                return Some(format!(
                    "its binding does not list group {group} of {prefix}"
                ));
            }
            AddressKind::Own | AddressKind::Shared(_) | AddressKind::Routed => {}
        }
        let vlan = self.vlan?;
        let known = link.vlans.iter().any(|one| one.id == vlan);
        (!known).then(|| format!("its binding does not list VLAN {vlan} of {prefix}"))
    }
}

/// The text is no address of another kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none; expected routed:PREFIX, shared:GROUP:ADDRESS or vlan:ID:ADDRESS, for instance \
     shared:4:10.0.0.50"
)]
pub struct MoreAddressError(pub String);

impl FromStr for MoreAddress {
    type Err = MoreAddressError;
    fn from_str(text: &str) -> Result<Self, MoreAddressError> {
        let parsed = || -> Option<Self> {
            let (kind, rest) = text.split_once(':')?;
            let numbered = || {
                let (number, address) = rest.split_once(':')?;
                let address: IpAddr = address.parse().ok()?;
                Some((number, IpNet::from(address)))
            };
            let (kind, prefix, vlan) = match kind {
                "routed" => (AddressKind::Routed, rest.parse().ok()?, None),
                "shared" => {
                    let (group, prefix) = numbered()?;
                    (
                        AddressKind::Shared(SharedId(group.parse().ok()?)),
                        prefix,
                        None,
                    )
                }
                "vlan" => {
                    let (id, prefix) = numbered()?;
                    (
                        AddressKind::Own,
                        prefix,
                        Some(VlanId::new(id.parse().ok()?)?),
                    )
                }
                _ => return None,
            };
            Some(Self { prefix, kind, vlan })
        };
        parsed().ok_or_else(|| MoreAddressError(text.into()))
    }
}

/// Whether a MAC is that of a virtual router, which every router of a group may have (RFC 9568,
/// section 7.3).
pub(crate) fn of_virtual_router(mac: Mac) -> bool {
    matches!(mac.0, [0, 0, 0x5e, 0, 1 | 2, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_another_kind_are_read_from_their_text() {
        let read = |text: &str| text.parse::<MoreAddress>();
        let shared = read("shared:4:fd00::50").expect("a shared address");
        assert_eq!(shared.kind, AddressKind::Shared(SharedId(4)));
        assert_eq!(shared.prefix.to_string(), "fd00::50/128");
        let routed = read("routed:10.7.0.0/16").expect("a route");
        assert_eq!((routed.kind, routed.vlan), (AddressKind::Routed, None));
        let tagged = read("vlan:10:10.8.0.1").expect("an address in a VLAN");
        assert_eq!(tagged.vlan, VlanId::new(10));
        for bad in [
            "",
            "10.0.0.1",
            "own:10.0.0.1",
            "shared:x:10.0.0.1",
            "vlan:0:10.0.0.1",
        ] {
            assert_eq!(read(bad), Err(MoreAddressError(bad.into())));
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let text = r#"{"prefix": "10.0.0.1/32", "kind": "anycast"}"#;
        let error = serde_json::from_str::<MoreAddress>(text).expect_err("no such kind");
        assert!(error.to_string().contains("anycast"), "{error}");
    }
}
