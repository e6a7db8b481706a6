//! Rules of other firewalls as a policy in `ordered` tiers, the estate where the source has one,
//! and a report of what could not be said. Nothing is dropped silently: what has no equal is a note
//! with its place, which says whether leaving it out closes or opens something. Pure: files are
//! given as bytes.
#![forbid(unsafe_code)]

mod aerleon;
mod aws;
mod aws_function;
mod aws_template;
mod aws_terraform;
mod azure;
mod azure_expression;
mod azure_files;
mod azure_function;
mod azure_template;
mod draft;
mod iptables;
mod k8s;
mod names;
mod nsx;
mod proxmox;
mod tagged;
mod value;

use lictor_policy::Estate;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Bytes of all files of one source.
pub const SOURCE_BYTES_MAX: usize = 256 << 20;
/// Notes of one report; the last one says that there are more.
pub const NOTES_MAX: usize = 100_000;

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path, as the report calls it.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What kind of rules a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Kubernetes NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy.
    K8s,
    /// NSX-T's distributed firewall, in JSON.
    Nsx,
    /// AWS security groups, as `describe-security-groups` and `describe-instances` print them.
    Sg,
    /// Azure network security groups, as `az network nsg list` prints them.
    Nsg,
    /// What `iptables-save` and `ip6tables-save` print.
    Iptables,
    /// Proxmox VE's firewall files.
    Proxmox,
    /// Policies and definitions of Aerleon and Capirca.
    Aerleon,
}

impl Format {
    /// All of them, by the names that the command line takes.
    pub const ALL: [(&str, Self); 7] = [
        ("k8s", Self::K8s),
        ("nsx", Self::Nsx),
        ("sg", Self::Sg),
        ("nsg", Self::Nsg),
        ("iptables", Self::Iptables),
        ("proxmox", Self::Proxmox),
        ("aerleon", Self::Aerleon),
    ];
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        let names = Self::ALL.map(|(name, _)| name).join(", ");
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| format!("expected one of {names}"))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(_, format)| format == self);
        f.pad(found.map_or("", |(name, _)| name))
    }
}

/// What becomes of traffic because something could not be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Something is allowed that the source denies: look at it before the policy is used.
    Opens,
    /// Something is denied that the source allows.
    Closes,
    /// Nothing, or nothing that is a verdict.
    None,
}

/// Something that could not be said, or is said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    /// What becomes of traffic.
    pub effect: Effect,
    /// The file and object.
    pub place: String,
    /// What it is, and what was done.
    pub what: String,
}

/// What an import gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The policy's text, in its canonical layout.
    pub policy: String,
    /// The estate, if the source has guests.
    pub estate: Option<Estate>,
    /// What could not be said.
    pub notes: Vec<Note>,
    /// Rules of the policy.
    pub rules: usize,
}

/// Why nothing was imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The files are too large together.
    #[error("the files have more than {SOURCE_BYTES_MAX} bytes together; import a part of them")]
    TooLarge,
    /// A file is not of the format.
    #[error("{path}: {what}")]
    File {
        /// Which.
        path: String,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// There is nothing to import.
    #[error("no {what} in these files; check the path and --from")]
    Nothing {
        /// What was looked for.
        what: &'static str,
    },
    /// There are more rules than a policy can have.
    #[error(
        "{0} rules; a policy has at most {max}: import a part of them",
        max = lictor_types::RULES_MAX
    )]
    Rules(usize),
    /// The policy would pass a limit of the language.
    #[error("the imported policy is refused:\n{0}")]
    Policy(String),
}

/// Imports a source. `name` becomes the policy's name.
///
/// # Errors
/// [`ImportError`] if a file can't be read as its format, or the policy would pass a limit.
pub fn import(format: Format, name: &str, sources: &[Source]) -> Result<Imported, ImportError> {
    let total: usize = sources.iter().map(|source| source.bytes.len()).sum();
    if total > SOURCE_BYTES_MAX {
        return Err(ImportError::TooLarge);
    }
    let draft = match format {
        Format::K8s => k8s::import(sources),
        Format::Nsx => nsx::import(sources),
        Format::Sg => aws::import(sources),
        Format::Nsg => azure::import(sources),
        Format::Iptables => iptables::import(sources),
        Format::Proxmox => proxmox::import(sources),
        Format::Aerleon => aerleon::import(sources),
    }?;
    draft.finish(name)
}
