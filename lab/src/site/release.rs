//! What people sign: keys, releases made from a policy file, bindings of guests.

use super::{Agent, Person, Programs, Site, command};
use crate::guest::{GuestSpec, Nic, Service};
use crate::host::Node;
use crate::wait;
use anyhow::{Context, Result, bail};
use lictor_evidence::KeyName;
use lictor_policy::Labels;
use lictor_types::{
    DeploymentId, Epoch, Generation, GuestId, Mac, SESSIONS_PER_VNIC_DEFAULT, Segment, VnicId,
};
use lictor_wire::{Binding, SigningKey, VnicBinding};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an agent may take to report for the first time.
const LIMIT: Duration = Duration::from_secs(60);
/// The one segment of a site.
const SEGMENT: Segment = Segment(1);
/// The prefixes that a site's guests have their addresses in, one for each vnic of a guest.
const PREFIXES: [&str; 2] = ["10.77.0.0/16", "10.78.0.0/16"];
const PREFIX_LENGTH: u8 = 16;
/// The second octet of the first vnic's prefix; each further vnic has the next one.
const FIRST: u8 = 77;
/// Between the numbers of two vnics of one guest.
const BETWEEN_VNICS: u8 = 100;
/// What the author knows of the estate, in the author's folder.
const ESTATE: &str = "estate.json";
/// Guests that the scope's owner may bind.
const GUESTS_MAX: u32 = 16;

/// The key files of the people who sign. Each would keep their own on their own machine.
#[derive(Debug)]
pub struct Keys {
    /// Writes policy.
    pub author: PathBuf,
    /// Approves policy.
    pub approver: PathBuf,
    /// Binds guests.
    pub owner: PathBuf,
}

/// A new key from the system's randomness, for tests that need no command.
///
/// # Errors
/// The name is not one of a key.
pub fn key(name: &str) -> Result<SigningKey> {
    let name = KeyName::new(name)?;
    Ok(SigningKey::generate(name, &mut rand::rngs::OsRng))
}

/// Makes a key file with `lictor key new`.
///
/// # Errors
/// The command fails.
pub fn key_file(desk: &Node, programs: &Programs, name: &str) -> Result<PathBuf> {
    let file = desk.folder().join(format!("{name}.key"));
    let mut new = desk.command(&programs.lictor.to_string_lossy());
    new.args(["key", "new", "--name", name, "--out"]).arg(&file);
    command::output(new)?;
    Ok(file)
}

/// Reads a key file that [`key_file`] made.
///
/// # Errors
/// It is not there, or no key file.
pub fn read_key(file: &Path) -> Result<SigningKey> {
    let text = std::fs::read_to_string(file)?;
    Ok(SigningKey::from_private_text(text.trim())?)
}

impl Keys {
    pub(super) fn make(desk: &Node, programs: &Programs) -> Result<Self> {
        Ok(Self {
            author: key_file(desk, programs, "ann")?,
            approver: key_file(desk, programs, "ben")?,
            owner: key_file(desk, programs, "olga")?,
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
    /// How many vnics it has, one or two: each is in a prefix of its own.
    pub vnics: u8,
}

impl Guest {
    /// The IPv4 address of its first vnic.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address_of(0)
    }

    /// The IPv4 address of one of its vnics.
    #[must_use]
    pub const fn address_of(&self, vnic: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, FIRST + vnic, 0, self.number)
    }

    /// The Ethernet address of its first vnic.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac_of(0)
    }

    /// The Ethernet address of one of its vnics.
    #[must_use]
    pub const fn mac_of(&self, vnic: u8) -> Mac {
        Mac([0x52, 0x54, 0, 0x77 + vnic, 0, self.number])
    }

    /// What the lab starts.
    #[must_use]
    pub fn spec(&self, services: &[Service]) -> GuestSpec {
        let addresses = |vnic| vec![(IpAddr::V4(self.address_of(vnic)), PREFIX_LENGTH)];
        let further = (1..self.vnics).map(|vnic| Nic {
            mac: self.mac_of(vnic),
            addresses: addresses(vnic),
        });
        GuestSpec {
            name: self.name.into(),
            mac: self.mac(),
            addresses: addresses(0),
            gateways: Vec::new(),
            services: services.to_vec(),
            more: further.collect(),
        }
    }

    /// Its labels, as policy and bindings have them.
    #[must_use]
    pub fn labels(&self) -> Labels {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.labels.iter().map(pair).collect()
    }

    /// What the scope's owner signs about it, for tests without a manager. It may run on every host
    /// of the roster.
    ///
    /// # Errors
    /// The guest's name is too long for a vnic.
    pub fn binding(&self, deployment: &DeploymentId) -> Result<Binding> {
        Ok(Binding {
            deployment: deployment.clone(),
            epoch: Epoch(u64::from(self.number)),
            guest: GuestId::new(self.name)?,
            labels: self.labels(),
            vnics: (0..self.vnics)
                .map(|vnic| {
                    Ok(VnicBinding {
                        vnic: self.vnic(vnic),
                        name: super::vnic_name(self.name, vnic.into())?,
                        mac: self.mac_of(vnic),
                        segment: SEGMENT,
                        sessions_max: SESSIONS_PER_VNIC_DEFAULT,
                        link: lictor_wire::LinkBinding::default(),
                    })
                })
                .collect::<Result<_>>()?,
            hosts: Vec::new(),
            retired: false,
            isolated: None,
        })
    }
}

impl Guest {
    /// Its labels as an inline table of TOML.
    fn labels_toml(&self) -> String {
        let pair = |(name, value): &(&str, &str)| format!("{name} = \"{value}\"");
        let pairs: Vec<_> = self.labels.iter().map(pair).collect();
        format!("{{ {} }}", pairs.join(", "))
    }

    /// The number of one of its vnics.
    #[must_use]
    pub const fn vnic(&self, vnic: u8) -> VnicId {
        VnicId(self.number as u32 + (vnic as u32) * (BETWEEN_VNICS as u32))
    }

    /// What `lictor guest bind` reads; each vnic with these lines more.
    pub(super) fn toml(&self, more: &str) -> Result<String> {
        let (vnics, most) = (usize::from(self.vnics), PREFIXES.len());
        if !(1..=most).contains(&vnics) {
            bail!(
                "guest {} has {vnics} vnics; expected 1 to {most}",
                self.name
            );
        }
        let labels = self.labels_toml();
        let mut text = format!("guest = \"{}\"\nlabels = {labels}\n", self.name);
        for vnic in 0..self.vnics {
            let name = super::vnic_name(self.name, vnic.into())?;
            let (number, mac) = (self.vnic(vnic), self.mac_of(vnic));
            text += &format!(
                "\n[[vnic]]\nnumber = {number}\nname = \"{name}\"\nmac = \"{mac}\"\n\
                 segment = {SEGMENT}\n{more}"
            );
        }
        Ok(text)
    }
}

/// A release file that nobody has signed yet.
#[derive(Debug, Clone)]
pub struct Draft {
    file: PathBuf,
    generation: Generation,
}

/// Who has signed a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// Its author only.
    ByAuthor,
    /// Its author and an approver.
    ByBoth,
}

impl Draft {
    /// Compiles a policy file with `lictor policy compile`, for the hosts of the manager's
    /// inventory and with one delegation, to the scope's owner.
    ///
    /// # Errors
    /// A command fails; all the policy's diagnostics are in the error.
    pub fn compile(site: &Site, policy: &Path, generation: u64, guests: &[Guest]) -> Result<Self> {
        let author = &site.people.author;
        let roster = roster(site)?;
        let sets: Vec<_> = guests.iter().map(Guest::labels_toml).collect();
        let text = format!(
            "deployment = \"{}\"\n\n{roster}\n[[delegations]]\nkey = \"{}\"\n\
             labels = [{}]\nguests_max = {GUESTS_MAX}\nprefixes = {PREFIXES:?}\n\
             segments = [{SEGMENT}]\n",
            site.deployment(),
            read_key(&site.keys.owner)?.verify_key(),
            sets.join(", "),
        );
        let description = author.dir().join("site.toml");
        std::fs::write(&description, text)?;
        let estate = author.dir().join(ESTATE);
        std::fs::write(&estate, estate_text(site, guests)?)?;
        let file = author.dir().join(format!("release-{generation}.json"));
        let mut compile = author.lictor();
        compile
            .args(["policy", "compile"])
            .arg(policy)
            .arg("--site")
            .arg(&description)
            .arg("--estate")
            .arg(&estate)
            .args(["--generation", &generation.to_string(), "--out"])
            .arg(&file);
        command::output(compile)?;
        let generation = Generation(generation);
        Ok(Self { file, generation })
    }

    /// Its number.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Signs it with `lictor policy sign` and, for the second signature, `lictor policy approve`.
    /// Returns the release file.
    ///
    /// # Errors
    /// A command fails.
    pub fn sign(&self, site: &Site, signed: Signed) -> Result<PathBuf> {
        let by = |person: &Person, word: &str, key: &Path| {
            let mut sign = person.lictor();
            sign.args(["policy", word])
                .arg(&self.file)
                .arg("--key")
                .arg(key);
            command::output(sign).map(drop)
        };
        by(&site.people.author, "sign", &site.keys.author)?;
        if signed == Signed::ByBoth {
            by(&site.people.approver, "approve", &site.keys.approver)?;
        }
        Ok(self.file.clone())
    }
}

/// What the author knows of the estate: the guests, and hosts with an agent. Intents are proved
/// over it.
fn estate_text(site: &Site, guests: &[Guest]) -> Result<String> {
    let guests: Vec<_> = guests
        .iter()
        .map(|guest| serde_json::json!({ "name": guest.name, "labels": guest.labels() }))
        .collect();
    let hosts: Vec<_> = site
        .agents()
        .map(|agent| serde_json::json!({ "name": agent.name(), "controls": ["firewall"] }))
        .collect();
    let estate = serde_json::json!({ "guests": guests, "hosts": hosts, "fabric_trusted": true });
    Ok(serde_json::to_string_pretty(&estate)?)
}

/// What `lictor host roster` prints, once every agent of the site is in it: it leaves out those
/// that have not reported yet.
fn roster(site: &Site) -> Result<String> {
    let author = &site.people.author;
    let whole = wait::seldom("a roster with every agent", LIMIT, || {
        let roster = author.types(&["host", "roster"])?;
        let named = |agent: &Agent| roster.contains(&format!("host = \"{}\"", agent.name()));
        Ok(site.agents().all(named).then_some(roster))
    });
    whole.with_context(|| {
        let logs: Vec<_> = site.agents().map(Agent::log).collect();
        logs.join("\n")
    })
}
