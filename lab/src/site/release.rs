//! What people sign: keys, releases made from a policy file, bindings of guests.

use super::Site;
use crate::guest::{GuestSpec, Service};
use anyhow::{Context, Result, bail};
use lictor_evidence::KeyName;
use lictor_policy::{CompileInput, Date, Labels, compile, parse};
use lictor_types::{
    DeploymentId, Epoch, Generation, GuestId, Mac, SESSIONS_PER_VNIC_DEFAULT, Segment, VnicId,
};
use lictor_wire::{Binding, Delegation, Envelope, Release, SigningKey, VnicBinding, release};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The one segment of a site.
const SEGMENT: Segment = Segment(1);
/// The prefix that a site's guests have their addresses in.
const PREFIX: &str = "10.77.0.0/16";
const PREFIX_LENGTH: u8 = 16;
/// Guests that the scope's owner may bind.
const GUESTS_MAX: u32 = 16;

/// The private keys of the people who sign. Each would keep their own on their own machine.
#[derive(Debug)]
pub struct Keys {
    /// Writes policy.
    pub author: SigningKey,
    /// Approves policy.
    pub approver: SigningKey,
    /// Binds guests.
    pub owner: SigningKey,
}

/// A new key from the system's randomness.
///
/// # Errors
/// The name is not one of a key.
pub fn key(name: &str) -> Result<SigningKey> {
    let name = KeyName::new(name)?;
    Ok(SigningKey::generate(name, &mut rand::rngs::OsRng))
}

impl Keys {
    pub(super) fn generate() -> Result<Self> {
        Ok(Self {
            author: key("ann")?,
            approver: key("ben")?,
            owner: key("olga")?,
        })
    }
}

/// A guest as its owner describes it: everything about it follows from its name and number.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// Its name.
    pub name: &'static str,
    /// Its vnic's number, and the last octet of its addresses.
    pub number: u8,
    /// Its labels.
    pub labels: &'static [(&'static str, &'static str)],
}

impl Guest {
    /// Its IPv4 address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// Its Ethernet address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        Mac([0x52, 0x54, 0, 0x77, 0, self.number])
    }

    /// What the lab starts.
    #[must_use]
    pub fn spec(&self, services: &[Service]) -> GuestSpec {
        GuestSpec {
            name: self.name.into(),
            mac: self.mac(),
            addresses: vec![(IpAddr::V4(self.address()), PREFIX_LENGTH)],
            gateways: Vec::new(),
            services: services.to_vec(),
        }
    }

    /// Its labels, as policy and bindings have them.
    #[must_use]
    pub fn labels(&self) -> Labels {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.labels.iter().map(pair).collect()
    }

    /// What the scope's owner signs about it. It may run on every host of the roster.
    ///
    /// # Errors
    /// The guest's name is too long for a vnic.
    pub fn binding(&self, deployment: &DeploymentId) -> Result<Binding> {
        Ok(Binding {
            deployment: deployment.clone(),
            epoch: Epoch(u64::from(self.number)),
            guest: GuestId::new(self.name)?,
            labels: self.labels(),
            vnics: vec![VnicBinding {
                vnic: VnicId(u32::from(self.number)),
                name: super::vnic_name(self.name)?,
                mac: self.mac(),
                segment: SEGMENT,
                sessions_max: SESSIONS_PER_VNIC_DEFAULT,
            }],
            hosts: Vec::new(),
            retired: false,
        })
    }
}

/// A release that nobody has signed yet.
#[derive(Debug, Clone)]
pub struct Draft(Release);

/// Who has signed a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// Its author only.
    ByAuthor,
    /// Its author and an approver.
    ByBoth,
}

impl Draft {
    /// Compiles a policy file into a release with the site's roster and one delegation, for today.
    ///
    /// # Errors
    /// The policy does not compile; all its diagnostics are in the error.
    pub fn compile(site: &Site, policy: &Path, generation: u64, guests: &[Guest]) -> Result<Self> {
        let text = std::fs::read(policy).with_context(|| format!("no {}", policy.display()))?;
        let (parsed, diagnostics) = parse(&policy.to_string_lossy(), &text);
        let Some(parsed) = parsed else {
            bail!("{} does not compile: {diagnostics:?}", policy.display());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let label_sets: Vec<Labels> = guests.iter().map(Guest::labels).collect();
        let input = CompileInput {
            label_sets: label_sets.clone(),
            date: Date::from_unix_seconds(now.as_secs()),
        };
        Ok(Self(Release {
            format: release::FORMAT,
            deployment: site.deployment().clone(),
            generation: Generation(generation),
            created_ms: u64::try_from(now.as_millis())?,
            policy: compile(&parsed, &input)?,
            roster: site.roster()?,
            delegations: vec![Delegation {
                key: site.keys.owner.verify_key(),
                labels: label_sets,
                guests_max: GUESTS_MAX,
                prefixes: vec![PREFIX.parse()?],
                segments: vec![SEGMENT],
            }],
        }))
    }

    /// The same release under another number.
    #[must_use]
    pub fn renumbered(&self, generation: u64) -> Self {
        let mut release = self.0.clone();
        release.generation = Generation(generation);
        Self(release)
    }

    /// The release.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.0
    }

    /// Signs it with the keys of the site.
    ///
    /// # Errors
    /// The approver's key is the author's.
    pub fn sign(&self, keys: &Keys, signed: Signed) -> Result<Envelope> {
        let mut envelope = self.0.sign(&keys.author);
        if signed == Signed::ByBoth {
            envelope.add_signature(&keys.approver)?;
        }
        Ok(envelope)
    }
}
