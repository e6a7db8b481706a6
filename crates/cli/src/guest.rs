//! `lictor guest`: which guest has which labels, vnics and hosts.

use crate::caller::{Caller, Identity};
use crate::output::{Answer, Cell, Page, Printing, Tone};
use crate::show::list;
use crate::{CliError, files, key, site};
use clap::{Args, Subcommand};
use lictor_policy::{Date, Labels};
use lictor_types::{Epoch, GuestId, HostId, Mac, SESSIONS_PER_VNIC_DEFAULT, Segment};
use lictor_types::{VnicId, VnicName};
use lictor_wire::api::BindingDocument;
use lictor_wire::binding::{self, BindingLog};
use lictor_wire::{
    AddressAttestation, Binding, Bindings, Envelope, Isolation, LinkBinding, VerifiedRelease,
    VnicBinding, release,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Bind, retire, isolate and list guests.
#[derive(Debug, Clone, Args)]
pub struct GuestArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Sign and publish what a guest is: labels, vnics, hosts.
    Bind {
        /// The guest.
        #[arg(value_name = "TOML")]
        file: PathBuf,
        /// The key of a delegation of the release in force.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Sign and publish that a guest is gone: its addresses and numbers are free again.
    Retire {
        /// The guest.
        guest: GuestId,
        /// The key of a delegation of the release in force.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Sign and publish that a guest is cut off from everybody until a day is over. Nobody else has
    /// to sign, and nothing else changes.
    Isolate(Isolate),
    /// Sign and publish that a guest is isolated no more: what the release says holds again.
    Rejoin {
        /// The guest.
        guest: GuestId,
        /// The key of a delegation of the release in force.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// List guests, with where they are and whether an agent protects them there.
    List,
    /// Write the binding log to a file, for `lictor explain --bindings`.
    Export {
        /// Where it goes.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Clone, Args)]
struct Isolate {
    /// The guest.
    guest: GuestId,
    /// Who answers for it.
    #[arg(long)]
    owner: String,
    /// Why.
    #[arg(long)]
    justification: String,
    /// The last day on which it holds.
    #[arg(long, value_name = "DATE")]
    expires: Date,
    /// The key of a delegation of the release in force.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// A guest as its owner writes it down.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestFile {
    guest: GuestId,
    labels: Labels,
    #[serde(default)]
    hosts: Vec<HostId>,
    #[serde(default, rename = "vnic")]
    vnics: Vec<VnicFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct VnicFile {
    number: VnicId,
    name: VnicName,
    mac: Mac,
    segment: Segment,
    #[serde(default = "sessions_default")]
    sessions_max: u32,
    #[serde(default)]
    link: LinkBinding,
}

const fn sessions_default() -> u32 {
    SESSIONS_PER_VNIC_DEFAULT
}

pub(crate) fn run(args: &GuestArgs) -> Result<Answer, CliError> {
    let identity = args.caller.open()?;
    match &args.action {
        Action::Bind { file, key } => bind(&identity, file, key),
        Action::Retire { guest, key } => retire(&identity, guest, key),
        Action::Isolate(one) => isolate(&identity, one),
        Action::Rejoin { guest, key } => {
            let (binding, epoch) = again(&identity, guest)?;
            let isolated = None;
            publish(
                &identity,
                &Binding {
                    epoch,
                    isolated,
                    ..binding
                },
                key,
            )
        }
        Action::List => guests(&identity),
        Action::Export { out } => export(&identity, out),
    }
}

fn bind(identity: &Identity, file: &Path, key: &Path) -> Result<Answer, CliError> {
    let guest: GuestFile = files::read_toml(file)?;
    if guest.vnics.is_empty() {
        let what = "no [[vnic]]; expected one for each interface of the guest";
        return Err(CliError::file(file, what));
    }
    let vnic = |one: VnicFile| VnicBinding {
        vnic: one.number,
        name: one.name,
        mac: one.mac,
        segment: one.segment,
        sessions_max: one.sessions_max,
        link: one.link,
    };
    let binding = Binding {
        deployment: identity.trust.deployment.clone(),
        epoch: next_epoch(&verified(identity)?.1)?,
        guest: guest.guest,
        labels: guest.labels,
        vnics: guest.vnics.into_iter().map(vnic).collect(),
        hosts: guest.hosts,
        retired: false,
        isolated: None,
    };
    publish(identity, &binding, key)
}

/// The binding of a guest, and the epoch of the next one.
fn again(identity: &Identity, guest: &GuestId) -> Result<(Binding, Epoch), CliError> {
    let (_, bindings) = verified(identity)?;
    let known = bindings.guest(guest).ok_or_else(|| {
        let what = format!("{guest} is not bound; see `lictor guest list`");
        CliError::argument("GUEST", what)
    })?;
    Ok((known.clone(), next_epoch(&bindings)?))
}

fn retire(identity: &Identity, guest: &GuestId, key: &Path) -> Result<Answer, CliError> {
    let (binding, epoch) = again(identity, guest)?;
    let retired = true;
    publish(
        identity,
        &Binding {
            epoch,
            retired,
            ..binding
        },
        key,
    )
}

fn isolate(identity: &Identity, one: &Isolate) -> Result<Answer, CliError> {
    let (binding, epoch) = again(identity, &one.guest)?;
    let isolated = Some(Isolation {
        owner: one.owner.clone(),
        justification: one.justification.clone(),
        expires: one.expires,
    });
    publish(
        identity,
        &Binding {
            epoch,
            isolated,
            ..binding
        },
        &one.key,
    )
}

fn publish(identity: &Identity, binding: &Binding, key: &Path) -> Result<Answer, CliError> {
    let signed = binding.sign(&key::read(key)?);
    let published = identity.client.publish_binding(&signed)?;
    let hosts = if binding.hosts.is_empty() {
        "every host of the roster".to_owned()
    } else {
        list(&binding.hosts)
    };
    let state = match &binding.isolated {
        _ if binding.retired => "retired",
        Some(_) => "isolated",
        None => "bound",
    };
    let vnics: Vec<&VnicName> = binding.vnics.iter().map(|vnic| &vnic.name).collect();
    let page = Page::default().fields([
        (state, (&binding.guest).into()),
        ("labels", site::text(&binding.labels).into()),
        ("vnics", list(&vnics).into()),
        ("may run on", hosts.into()),
        ("isolated", isolated(Some(binding))),
        ("epoch", binding.epoch.into()),
        ("digest", published.digest.into()),
    ]);
    let value = json!({ "binding": binding, "digest": published.digest });
    Ok(Answer::new(page, &value))
}

fn isolated(binding: Option<&Binding>) -> Cell {
    let told = binding
        .and_then(|binding| binding.isolated.as_ref())
        .map(|one| {
            format!(
                "until {}, by {}: {}",
                one.expires, one.owner, one.justification
            )
        });
    match told {
        Some(told) => Cell::toned(Tone::Doubt, told),
        None => Cell::optional(None::<String>),
    }
}

/// The newest release and its bindings, checked as an agent checks them: a manager that lies about
/// epochs would have people sign numbers that nobody can follow.
pub(crate) fn verified(identity: &Identity) -> Result<(VerifiedRelease, Bindings), CliError> {
    let document = identity.client.release()?.ok_or_else(|| {
        let what = "the manager has no release yet; bindings need its delegations";
        CliError::argument("--manager-dir", what)
    })?;
    let release = release::verify(&document.envelope, &identity.trust, None)?;
    let log = identity.client.bindings()?.log;
    let bindings = binding::verify(&log, &release, Epoch::default())?;
    Ok((release, bindings))
}

fn next_epoch(bindings: &Bindings) -> Result<Epoch, CliError> {
    let next = bindings.epoch().0.checked_add(1);
    next.map(Epoch)
        .ok_or_else(|| CliError::argument("--manager-dir", "the epochs are used up"))
}

#[derive(Serialize)]
struct Listed<'a> {
    guest: &'a GuestId,
    labels: &'a Labels,
    host: Option<&'a HostId>,
    protected: bool,
    epoch: Option<Epoch>,
    vnics: Vec<&'a VnicName>,
    addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolated: Option<&'a Isolation>,
}

fn guests(identity: &Identity) -> Result<Answer, CliError> {
    let inventory = identity.client.inventory()?;
    let bindings = match identity.client.release()? {
        Some(_) => verified(identity)?.1,
        None => Bindings::default(),
    };
    let listed: Vec<Listed<'_>> = inventory
        .guests
        .iter()
        .map(|entry| {
            let binding = bindings.guest(&entry.guest);
            let vnics = || binding.iter().flat_map(|binding| &binding.vnics);
            Listed {
                guest: &entry.guest,
                labels: &entry.labels,
                host: entry.host.as_ref(),
                protected: entry.protected,
                epoch: binding.map(|binding| binding.epoch),
                vnics: vnics().map(|vnic| &vnic.name).collect(),
                addresses: vnics()
                    .flat_map(|vnic| bindings.addresses(vnic.vnic))
                    .copied()
                    .collect(),
                isolated: binding.and_then(|binding| binding.isolated.as_ref()),
            }
        })
        .collect();
    let rows = listed.iter().map(|one| {
        [
            one.guest.into(),
            site::text(one.labels).into(),
            Cell::optional(one.host),
            Cell::yes_no(one.protected),
            Cell::optional(one.epoch),
            list(&one.vnics).into(),
            list(&one.addresses).into(),
            isolated(bindings.guest(one.guest)),
        ]
    });
    let head = [
        "guest",
        "labels",
        "host",
        "protected",
        "epoch",
        "vnics",
        "addresses",
        "isolated",
    ];
    Ok(Answer::new(Page::default().table(head, rows), &listed))
}

fn export(identity: &Identity, out: &Path) -> Result<Answer, CliError> {
    let document = identity.client.bindings()?;
    files::write_new(out, &files::json(&document))?;
    let (bindings, attestations) = (document.log.bindings.len(), document.log.attestations.len());
    let page = Page::default().fields([
        ("file", out.display().into()),
        ("revision", document.revision.into()),
        ("bindings", bindings.into()),
        ("attestations", attestations.into()),
    ]);
    let value = json!({
        "file": out, "revision": document.revision, "bindings": bindings,
        "attestations": attestations,
    });
    Ok(Answer::new(page, &value))
}

/// Guests by name and by address, for questions.
pub(crate) struct Directory {
    guests: BTreeMap<GuestId, Labels>,
    addresses: BTreeMap<IpAddr, BTreeSet<GuestId>>,
}

impl Directory {
    /// Out of a file, without checking signatures: good for a question, not for acting on.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let what = "what `lictor guest export` wrote";
        let document: BindingDocument = files::read_json(path, what)?;
        let BindingLog {
            bindings,
            attestations,
        } = document.log;
        let mut directory = Self {
            guests: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        for envelope in &bindings {
            let binding: Binding = payload(path, envelope)?;
            if !binding.retired {
                directory.guests.insert(binding.guest, binding.labels);
            }
        }
        for envelope in &attestations {
            let AddressAttestation {
                guest, addresses, ..
            } = payload(path, envelope)?;
            for address in addresses {
                directory.own(address, &guest);
            }
        }
        Ok(directory)
    }

    /// Out of the manager's log, after checking it.
    pub(crate) fn verified(identity: &Identity) -> Result<Self, CliError> {
        let (_, bindings) = verified(identity)?;
        let mut directory = Self {
            guests: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        for binding in bindings.guests() {
            let (guest, labels) = (binding.guest.clone(), binding.labels.clone());
            directory.guests.insert(guest, labels);
            for vnic in &binding.vnics {
                for address in bindings.addresses(vnic.vnic) {
                    directory.own(*address, &binding.guest);
                }
            }
        }
        Ok(directory)
    }

    fn own(&mut self, address: IpAddr, guest: &GuestId) {
        let owners = self.addresses.entry(address).or_default();
        owners.insert(guest.clone());
    }

    pub(crate) fn labels(&self, guest: &GuestId) -> Result<&Labels, CliError> {
        self.guests.get(guest).ok_or_else(|| {
            let what = format!("no binding names the guest {guest}; see `lictor guest list`");
            CliError::argument("--from/--to", what)
        })
    }

    /// The guest with this address, if it is one guest's. Two segments may use the same addresses.
    pub(crate) fn by_address(
        &self,
        address: &IpAddr,
    ) -> Result<Option<(&GuestId, &Labels)>, CliError> {
        let owners: Vec<&GuestId> = self.addresses.get(address).into_iter().flatten().collect();
        match owners.as_slice() {
            [] => Ok(None),
            [guest] => Ok(Some((guest, self.labels(guest)?))),
            several => {
                let names = list(several);
                let what = format!("{address} is used by {names}; name the guest instead");
                Err(CliError::argument("--from/--to", what))
            }
        }
    }
}

fn payload<T: DeserializeOwned>(path: &Path, envelope: &Envelope) -> Result<T, CliError> {
    let bytes = envelope.unverified_payload().map_err(CliError::key(path))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = format!("{error}; expected what `lictor guest export` wrote");
        CliError::file(path, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_file_is_read_or_refused_with_the_line() {
        let check = |text: &str, expected: Result<u32, &str>| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("db.toml");
            std::fs::write(&path, text).expect("written");
            match (files::read_toml::<GuestFile>(&path), expected) {
                (Ok(guest), Ok(sessions)) => assert_eq!(guest.vnics[0].sessions_max, sessions),
                (Err(error), Err(part)) => {
                    let error = error.to_string();
                    assert!(error.contains(part), "expected {part:?} in {error}");
                }
                (found, expected) => panic!("{found:?}, expected {expected:?}:\n{text}"),
            }
        };
        let vnic = "[[vnic]]\nnumber = 11\nname = \"db-0\"\nmac = \"52:54:00:00:00:0b\"\n\
                    segment = 1\n";
        let head = "guest = \"db\"\nlabels = { zone = \"cde\" }\n";
        check(&[head, vnic].concat(), Ok(SESSIONS_PER_VNIC_DEFAULT));
        check(&[head, vnic, "sessions_max = 9\n"].concat(), Ok(9));
        check(&[head, vnic, "speed = 9\n"].concat(), Err("line 8"));
        let group = vnic.replace("52:54", "zz:54");
        check(&[head, &group].concat(), Err("six hexadecimal pairs"));
        check(vnic, Err("guest"));
    }
}
