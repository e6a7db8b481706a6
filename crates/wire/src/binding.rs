//! Bindings: what changes daily without two persons. Labels are signed by a delegated key,
//! addresses by the agent that hosts the guest; both must lie inside a delegation of the release.

use crate::link::of_virtual_router;
use crate::{Delegation, Envelope, Release, SigningKey, VerifiedRelease, VerifyKey};
use crate::{LinkBinding, MORE_ADDRESSES_MAX, MoreAddress};
use ipnet::IpNet;
use lictor_policy::{Date, Labels};
use lictor_types::{
    AddressKind, DeploymentId, Epoch, GuestId, HostId, IdentityId, Mac, SESSIONS_PER_VNIC_DEFAULT,
    Segment, SharedId, VNICS_PER_GUEST_MAX, VnicId, VnicName,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The payload type under which a binding is signed.
pub const BINDING_TYPE: &str = "application/vnd.lictor.binding.v1+json";
/// The payload type under which addresses are attested.
pub const ATTESTATION_TYPE: &str = "application/vnd.lictor.addresses.v1+json";

/// A guest's interface, as its owner declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnicBinding {
    /// Its number, the same on every host.
    pub vnic: VnicId,
    /// The name that its device has on a host.
    pub name: VnicName,
    /// Its first MAC address.
    pub mac: Mac,
    /// The L2 domain it is on.
    pub segment: Segment,
    /// How many sessions it may have.
    #[serde(default = "sessions_max_default")]
    pub sessions_max: u32,
    /// What it may be on its link beyond that.
    #[serde(default, skip_serializing_if = "LinkBinding::is_plain")]
    pub link: LinkBinding,
}

fn sessions_max_default() -> u32 {
    SESSIONS_PER_VNIC_DEFAULT
}

/// What a guest is: its labels, its vnics and where it may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The installation.
    pub deployment: DeploymentId,
    /// Its place in the log of bindings: unique, and a newer one of the same guest replaces it.
    pub epoch: Epoch,
    /// The guest.
    pub guest: GuestId,
    /// The labels that the policy sees.
    pub labels: Labels,
    /// Its interfaces.
    pub vnics: Vec<VnicBinding>,
    /// Hosts it may run on; empty means every host of the roster.
    #[serde(default)]
    pub hosts: Vec<HostId>,
    /// Set when the guest is gone: its addresses and its numbers are free again.
    #[serde(default)]
    pub retired: bool,
    /// Set while the guest is cut off, whatever the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<Isolation>,
}

/// By whose word a guest is cut off, why and until when. It only ever narrows: whoever may bind the
/// guest may say it alone, and when its last day is over, what the release says holds again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub justification: String,
    /// The last day on which it holds.
    pub expires: Date,
}

/// Bytes of an isolation's owner, and of its justification.
pub const ISOLATION_TEXT_BYTES_MAX: usize = 1_024;

/// Which addresses a vnic has, said by the agent that hosts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressAttestation {
    /// The installation.
    pub deployment: DeploymentId,
    /// The host whose agent signs.
    pub host: HostId,
    /// The guest.
    pub guest: GuestId,
    /// Its vnic.
    pub vnic: VnicId,
    /// Grows with each attestation of this vnic, on whichever host.
    pub sequence: u64,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of another kind, and those in VLANs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<MoreAddress>,
}

impl Binding {
    /// Signs it.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Envelope {
        let bytes = serde_json::to_vec(self).expect("a binding has only string keys");
        Envelope::sign(BINDING_TYPE, &bytes, &[key])
    }

    /// Whether the guest is cut off on a day.
    #[must_use]
    pub fn is_isolated(&self, today: Date) -> bool {
        self.isolated
            .as_ref()
            .is_some_and(|one| today <= one.expires)
    }

    /// Whether the guest may run on this host.
    #[must_use]
    pub fn may_run_on(&self, host: &HostId) -> bool {
        self.hosts.is_empty() || self.hosts.contains(host)
    }
}

impl AddressAttestation {
    /// Signs it with the hosting agent's key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Envelope {
        let bytes = serde_json::to_vec(self).expect("an attestation has only string keys");
        Envelope::sign(ATTESTATION_TYPE, &bytes, &[key])
    }
}

/// The whole state of the binding log as it is passed around: envelopes only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingLog {
    /// Signed [`Binding`]s, the newest of each guest.
    pub bindings: Vec<Envelope>,
    /// Signed [`AddressAttestation`]s, the newest of each vnic.
    pub attestations: Vec<Envelope>,
}

/// Checked bindings: the newest of each guest, and the addresses of each vnic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    guests: BTreeMap<GuestId, Binding>,
    addresses: BTreeMap<VnicId, AddressAttestation>,
    quarantined: BTreeSet<GuestId>,
}

impl Bindings {
    /// The same, but these guests are cut off here whatever their bindings say, and what was
    /// established with them is judged anew: no agent claims them.
    #[must_use]
    pub fn with_quarantine(&self, guests: impl IntoIterator<Item = GuestId>) -> Self {
        Self {
            quarantined: guests.into_iter().collect(),
            ..self.clone()
        }
    }

    /// Whether the guest is cut off because no agent claims it.
    #[must_use]
    pub fn is_quarantined(&self, guest: &GuestId) -> bool {
        self.quarantined.contains(guest)
    }

    /// Every guest that is not retired.
    pub fn guests(&self) -> impl Iterator<Item = &Binding> {
        self.guests.values().filter(|binding| !binding.retired)
    }

    /// The binding of a guest.
    #[must_use]
    pub fn guest(&self, guest: &GuestId) -> Option<&Binding> {
        self.guests.get(guest).filter(|binding| !binding.retired)
    }

    /// The guest and vnic with this device name.
    #[must_use]
    pub fn by_name(&self, name: &VnicName) -> Option<(&Binding, &VnicBinding)> {
        self.guests().find_map(|binding| {
            binding
                .vnics
                .iter()
                .find(|vnic| vnic.name == *name)
                .map(|vnic| (binding, vnic))
        })
    }

    /// The addresses attested for a vnic.
    #[must_use]
    pub fn addresses(&self, vnic: VnicId) -> &[IpAddr] {
        self.addresses
            .get(&vnic)
            .map_or(&[], |attestation| &attestation.addresses)
    }

    /// The addresses of another kind, and those in VLANs, attested for a vnic.
    #[must_use]
    pub fn more_addresses(&self, vnic: VnicId) -> &[MoreAddress] {
        self.addresses
            .get(&vnic)
            .map_or(&[], |attestation| &attestation.more)
    }

    /// Everything that is attested for the vnics of a guest.
    pub fn claims<'a>(
        &'a self,
        binding: &'a Binding,
    ) -> impl Iterator<Item = (&'a VnicBinding, MoreAddress)> {
        let own = |address: &IpAddr| MoreAddress::own(*address);
        binding.vnics.iter().flat_map(move |vnic| {
            let more = self.more_addresses(vnic.vnic).iter().copied();
            let all = self.addresses(vnic.vnic).iter().map(own).chain(more);
            all.map(move |claim| (vnic, claim))
        })
    }

    /// The newest attestation of a vnic.
    #[must_use]
    pub fn attestation(&self, vnic: VnicId) -> Option<&AddressAttestation> {
        self.addresses.get(&vnic)
    }

    /// The newest epoch of all.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.guests
            .values()
            .map(|binding| binding.epoch)
            .max()
            .unwrap_or_default()
    }
}

/// Why a set of bindings is refused. It is refused whole; what was loaded stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} binding(s) refused, nothing was loaded: {}", .reasons.len(), .reasons.join("; "))]
pub struct BindingsRefused {
    /// One sentence for each thing that is wrong.
    pub reasons: Vec<String>,
}

/// Checks every signature, delegation and number of a binding log against a release.
///
/// # Errors
/// [`BindingsRefused`] lists everything that is wrong, not only the first.
pub fn verify(
    log: &BindingLog,
    release: &VerifiedRelease,
    floor: Epoch,
) -> Result<Bindings, BindingsRefused> {
    let release = release.release();
    let mut check = Check {
        release,
        reasons: Vec::new(),
        bindings: Bindings::default(),
    };
    let signers = check.guests(&log.bindings);
    check.uniqueness();
    check.attestations(&log.attestations, &signers);
    check.address_conflicts();
    if check.bindings.epoch() < floor {
        let found = check.bindings.epoch();
        check.refuse(format!(
            "the newest binding has epoch {found}, but {floor} was already loaded"
        ));
    }
    check.end()
}

/// As [`verify`], for whoever has loaded bindings already: nothing of them may go back, guest by
/// guest and vnic by vnic. The newest epoch of all says nothing about one guest: a manager could
/// show an older binding of it, which its owner did sign once, beside a newer one of another.
///
/// # Errors
/// [`BindingsRefused`] lists everything that is wrong, not only the first.
pub fn verify_since(
    log: &BindingLog,
    release: &VerifiedRelease,
    known: &Bindings,
) -> Result<Bindings, BindingsRefused> {
    let found = verify(log, release, known.epoch())?;
    let mut check = Check {
        release: release.release(),
        reasons: Vec::new(),
        bindings: found,
    };
    check.guests_since(known);
    check.addresses_since(known);
    check.end()
}

struct Check<'a> {
    release: &'a Release,
    reasons: Vec<String>,
    bindings: Bindings,
}

impl<'a> Check<'a> {
    fn refuse(&mut self, reason: String) {
        self.reasons.push(reason);
    }

    fn end(self) -> Result<Bindings, BindingsRefused> {
        let Self {
            reasons, bindings, ..
        } = self;
        if reasons.is_empty() {
            Ok(bindings)
        } else {
            Err(BindingsRefused { reasons })
        }
    }

    /// Retired guests stay in the log, so a guest that is missing was left out.
    fn guests_since(&mut self, known: &Bindings) {
        for (guest, known) in &known.guests {
            let epoch = known.epoch;
            let reason = match self.bindings.guests.get(guest) {
                None => format!("guest {guest} is missing, but its epoch {epoch} was loaded"),
                Some(found) if found.epoch < epoch => format!(
                    "guest {guest} has epoch {}, but its epoch {epoch} was loaded",
                    found.epoch
                ),
                Some(found) if found.epoch == epoch && found != known => {
                    format!("guest {guest} has a second binding with epoch {epoch}")
                }
                Some(_) => continue,
            };
            self.refuse(reason);
        }
    }

    /// An attestation may only vanish with the binding or the host that it rested on.
    fn addresses_since(&mut self, known: &Bindings) {
        for (vnic, known) in &known.addresses {
            let (guest, sequence) = (&known.guest, known.sequence);
            let rests = self.release.host(&known.host).is_some()
                && self.bindings.guest(guest).is_some_and(|binding| {
                    binding.may_run_on(&known.host)
                        && binding.vnics.iter().any(|entry| entry.vnic == *vnic)
                });
            let found = self.bindings.addresses.get(vnic);
            if rests && found.is_none_or(|found| found.sequence < sequence) {
                self.refuse(format!(
                    "the addresses of {guest} on vnic {vnic} are older than number {sequence}, \
                     which was loaded"
                ));
            }
        }
    }

    /// Verifies each binding and returns the delegation that each guest was bound under.
    fn guests(&mut self, envelopes: &[Envelope]) -> BTreeMap<GuestId, &'a Delegation> {
        let keys: Vec<VerifyKey> = self
            .release
            .delegations
            .iter()
            .map(|delegation| delegation.key.clone())
            .collect();
        let mut signers = BTreeMap::new();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for (index, envelope) in envelopes.iter().enumerate() {
            let Some((binding, signer)) = self.open_binding(index, envelope, &keys) else {
                continue;
            };
            let Some(delegation) = self.delegation_for(&binding, &signer) else {
                continue;
            };
            if !binding.retired {
                *counts.entry(signer.to_string()).or_default() += 1;
            }
            signers.insert(binding.guest.clone(), delegation);
            if let Some(other) = self.bindings.guests.insert(binding.guest.clone(), binding) {
                self.refuse(format!("guest {} is bound twice in one log", other.guest));
            }
        }
        for delegation in &self.release.delegations {
            let count = counts
                .get(&delegation.key.to_string())
                .copied()
                .unwrap_or_default();
            if count > delegation.guests_max {
                let (name, max) = (delegation.key.name(), delegation.guests_max);
                self.refuse(format!(
                    "key {name} has bound {count} guests, delegated are {max}"
                ));
            }
        }
        signers
    }

    fn open_binding(
        &mut self,
        index: usize,
        envelope: &Envelope,
        keys: &[VerifyKey],
    ) -> Option<(Binding, VerifyKey)> {
        let Ok(verified) = envelope.verify(BINDING_TYPE, keys) else {
            self.refuse(format!(
                "binding {index} is not signed by a key that the release delegates to"
            ));
            return None;
        };
        let signer = verified.signers.into_iter().next()?;
        let binding: Binding = match serde_json::from_slice(&verified.payload) {
            Ok(binding) => binding,
            Err(error) => {
                self.refuse(format!("binding {index} cannot be read: {error}"));
                return None;
            }
        };
        if binding.deployment != self.release.deployment {
            let (guest, found) = (&binding.guest, &binding.deployment);
            self.refuse(format!(
                "the binding of {guest} was made for deployment {found}"
            ));
            return None;
        }
        Some((binding, signer))
    }

    /// Somebody answers for an isolation, and says why.
    fn isolation(&mut self, binding: &Binding) {
        let Some(isolated) = &binding.isolated else {
            return;
        };
        let guest = &binding.guest;
        for (text, what) in [
            (&isolated.owner, "an owner"),
            (&isolated.justification, "a justification"),
        ] {
            if text.trim().is_empty() || text.len() > ISOLATION_TEXT_BYTES_MAX {
                self.refuse(format!(
                    "the isolation of guest {guest} needs {what} of at most \
                     {ISOLATION_TEXT_BYTES_MAX} bytes"
                ));
            }
        }
    }

    /// The delegation of the signer that covers labels, segments and size of the binding.
    fn delegation_for(&mut self, binding: &Binding, signer: &VerifyKey) -> Option<&'a Delegation> {
        let guest = &binding.guest;
        let found = self
            .release
            .delegations
            .iter()
            .find(|delegation| delegation.key == *signer && delegation.covers(&binding.labels));
        let Some(delegation) = found else {
            let (name, labels) = (signer.name(), &binding.labels);
            self.refuse(format!(
                "key {name} may not bind the labels {labels:?} of guest {guest}"
            ));
            return None;
        };
        if !binding.retired && self.release.policy.identity_of(&binding.labels).is_none() {
            let (labels, generation) = (&binding.labels, self.release.generation);
            self.refuse(format!(
                "guest {guest}: release {generation} has no identity for the labels {labels:?}; \
                 compile a release that lists them"
            ));
        }
        self.isolation(binding);
        if binding.vnics.len() > VNICS_PER_GUEST_MAX {
            let count = binding.vnics.len();
            self.refuse(format!(
                "guest {guest} has {count} vnics, at most {VNICS_PER_GUEST_MAX}"
            ));
        }
        for vnic in &binding.vnics {
            if let Err(error) = vnic.link.link() {
                self.refuse(format!("guest {guest}, vnic {}: {error}", vnic.vnic));
            }
            let mut vlans = vnic.link.vlans.iter();
            if let Some(vlan) = vlans.find(|vlan| vlan.segment == vnic.segment) {
                let (vnic, vlan) = (vnic.vnic, vlan.id);
                self.refuse(format!(
                    "guest {guest}, vnic {vnic}: VLAN {vlan} leads to the segment of untagged \
                     frames; expected another one"
                ));
            }
            let vlans = vnic.link.vlans.iter().map(|vlan| vlan.segment);
            for segment in [vnic.segment].into_iter().chain(vlans) {
                if delegation.segments.contains(&segment) {
                    continue;
                }
                let name = signer.name();
                self.refuse(format!(
                    "key {name} may not bind {guest} in segment {segment}"
                ));
            }
            if vnic.vnic == VnicId(0) || vnic.mac.0[0] & 1 == 1 || vnic.sessions_max == 0 {
                let (vnic, mac) = (vnic.vnic, vnic.mac);
                self.refuse(format!(
                    "guest {guest}, vnic {vnic}: expected a number above 0, a unicast MAC \
                     (found {mac}) and room for at least one session"
                ));
            }
        }
        Some(delegation)
    }

    /// Vnic numbers, device names and MACs within a segment must be unique.
    fn uniqueness(&mut self) {
        let mut numbers = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut macs = BTreeMap::new();
        let mut reasons = Vec::new();
        for binding in self.bindings.guests() {
            for vnic in &binding.vnics {
                let guest = &binding.guest;
                if let Some(other) = numbers.insert(vnic.vnic, guest) {
                    reasons.push(format!(
                        "vnic {} is bound to {other} and {guest}",
                        vnic.vnic
                    ));
                }
                if let Some(other) = names.insert(&vnic.name, guest) {
                    reasons.push(format!(
                        "device {} is bound to {other} and {guest}",
                        vnic.name
                    ));
                }
                let more = vnic
                    .link
                    .macs
                    .iter()
                    .filter(|mac| !of_virtual_router(**mac));
                for mac in more.chain([&vnic.mac]) {
                    if let Some(other) = macs.insert((vnic.segment, *mac), guest) {
                        reasons.push(format!("MAC {mac} is bound to {other} and {guest}"));
                    }
                }
            }
        }
        self.reasons.append(&mut reasons);
    }

    fn attestations(
        &mut self,
        envelopes: &[Envelope],
        signers: &BTreeMap<GuestId, &'a Delegation>,
    ) {
        let keys: Vec<VerifyKey> = self
            .release
            .roster
            .iter()
            .map(|host| host.key.clone())
            .collect();
        for (index, envelope) in envelopes.iter().enumerate() {
            let Ok(verified) = envelope.verify(ATTESTATION_TYPE, &keys) else {
                self.refuse(format!(
                    "attestation {index} is not signed by an agent of the roster"
                ));
                continue;
            };
            let attestation: AddressAttestation = match serde_json::from_slice(&verified.payload) {
                Ok(attestation) => attestation,
                Err(error) => {
                    self.refuse(format!("attestation {index} cannot be read: {error}"));
                    continue;
                }
            };
            if let Some(reason) = self.attestation_fault(&attestation, &verified.signers, signers) {
                self.refuse(reason);
                continue;
            }
            let known = self.bindings.addresses.get(&attestation.vnic);
            if known.is_none_or(|known| known.sequence < attestation.sequence) {
                self.bindings
                    .addresses
                    .insert(attestation.vnic, attestation);
            }
        }
    }

    fn attestation_fault(
        &self,
        attestation: &AddressAttestation,
        signed_by: &[VerifyKey],
        signers: &BTreeMap<GuestId, &'a Delegation>,
    ) -> Option<String> {
        let AddressAttestation {
            host, guest, vnic, ..
        } = attestation;
        if attestation.deployment != self.release.deployment {
            return Some(format!(
                "the addresses of {guest} were attested for another deployment"
            ));
        }
        let signer = self.release.host(host).map(|entry| &entry.key);
        if signer.is_none_or(|key| !signed_by.contains(key)) {
            return Some(format!(
                "the addresses of {guest} are not signed by the agent of {host}"
            ));
        }
        let Some(binding) = self.bindings.guest(guest) else {
            return Some(format!(
                "addresses are attested for {guest}, which no binding names"
            ));
        };
        if !binding.vnics.iter().any(|entry| entry.vnic == *vnic) {
            return Some(format!(
                "addresses are attested for vnic {vnic}, which {guest} has not"
            ));
        }
        if !binding.may_run_on(host) {
            return Some(format!(
                "{host} attests addresses of {guest}, which may not run there"
            ));
        }
        let delegation = signers.get(guest)?;
        if attestation.more.len() > MORE_ADDRESSES_MAX {
            let count = attestation.more.len();
            return Some(format!(
                "{count} addresses of another kind for {guest}; at most {MORE_ADDRESSES_MAX}"
            ));
        }
        let bound = binding.vnics.iter().find(|entry| entry.vnic == *vnic)?;
        let fault = |more: &MoreAddress| more.fault(&bound.link);
        if let Some(fault) = attestation.more.iter().find_map(fault) {
            return Some(format!("an address of {guest}: {fault}"));
        }
        let own = attestation.addresses.iter().copied().map(IpNet::from);
        let more = attestation.more.iter().map(|more| more.prefix);
        own.chain(more).find_map(|wanted| {
            let mut prefixes = delegation.prefixes.iter();
            let inside = prefixes.any(|prefix| prefix.contains(&wanted));
            (!inside).then(|| {
                let wanted = text(wanted);
                format!("{wanted} of {guest} is outside the delegated prefixes")
            })
        })
    }

    /// One address in one segment belongs to one vnic, or to one group of guests that the policy
    /// sees alike.
    fn address_conflicts(&mut self) {
        let mut owners: BTreeMap<_, (Claim, &GuestId)> = BTreeMap::new();
        let mut reasons = Vec::new();
        for binding in self.bindings.guests() {
            let guest = &binding.guest;
            let identity = self.release.policy.identity_of(&binding.labels);
            for (vnic, more) in self.bindings.claims(binding) {
                let Some(segment) = vnic.link.segment(vnic.segment, more.vlan) else {
                    continue;
                };
                let claim = match more.kind {
                    AddressKind::Own | AddressKind::Routed => Claim::Vnic(vnic.vnic),
                    AddressKind::Shared(group) => Claim::Group(group, identity),
                };
                let known = owners.insert((segment, more.prefix), (claim, guest));
                if let Some((other, holder)) = known
                    && (other != claim || matches!(claim, Claim::Vnic(_)))
                {
                    let address = text(more.prefix);
                    reasons.push(format!("{address} is claimed by {holder} and {guest}"));
                }
            }
        }
        self.reasons.append(&mut reasons);
    }
}

/// For whom an address is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Vnic(VnicId),
    Group(SharedId, Option<IdentityId>),
}

/// An address without the length that says nothing.
fn text(prefix: IpNet) -> String {
    match prefix.prefix_len() == prefix.max_prefix_len() {
        true => prefix.addr().to_string(),
        false => prefix.to_string(),
    }
}
