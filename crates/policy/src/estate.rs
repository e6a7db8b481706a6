//! The estate as analyses see it: guests with labels and addresses, hosts with controls. Observed
//! by connectors, or written by an importer; never part of a release.

use crate::{Labels, Policy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Guests and hosts of one estate.
pub const ESTATE_ENTRIES_MAX: usize = 1_000_000;
/// Bytes of a name of the estate: environments have longer names than policies.
pub const ESTATE_NAME_BYTES_MAX: usize = 253;

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estate {
    /// The guests.
    #[serde(default)]
    pub guests: Vec<EstateGuest>,
    /// The hosts.
    #[serde(default)]
    pub hosts: Vec<EstateHost>,
    /// Whether addresses that arrive from the fabric are taken to be true.
    #[serde(default)]
    pub fabric_trusted: bool,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstateGuest {
    /// Its name, unique among guests and hosts.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The host that it runs on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The hosts that it may run on; any if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_run_on: Vec<String>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstateHost {
    /// Its name, unique among guests and hosts.
    pub name: String,
    /// Labels of its own device beside `host`; the device is an end of its own only if it is bound.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether its own device is bound, so that rules speak of it as `host:NAME`.
    #[serde(default)]
    pub bound: bool,
    /// Its own addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The controls that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<String>,
}

impl EstateHost {
    /// The labels of its own device.
    #[must_use]
    pub fn device_labels(&self) -> Labels {
        let mut labels = self.labels.clone();
        labels.insert(crate::HOST_LABEL.to_owned(), self.name.clone());
        labels
    }
}

impl Estate {
    /// Everything that is wrong with it, a sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let found = self.guests.len() + self.hosts.len();
        if found > ESTATE_ENTRIES_MAX {
            faults.push(format!(
                "{found} guests and hosts; at most {ESTATE_ENTRIES_MAX} fit"
            ));
            return faults;
        }
        let hosts: BTreeSet<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        let guests = self.guests.iter().map(|guest| guest.name.as_str());
        let mut seen = BTreeSet::new();
        for name in guests.chain(self.hosts.iter().map(|host| host.name.as_str())) {
            if name.is_empty() || name.len() > ESTATE_NAME_BYTES_MAX {
                faults.push(format!(
                    "the name {name:?} has {} bytes; expected 1 to {ESTATE_NAME_BYTES_MAX}",
                    name.len()
                ));
            } else if !seen.insert(name) {
                faults.push(format!("{name} is there twice; names are unique"));
            }
        }
        for guest in &self.guests {
            let own = guest.host.iter().chain(&guest.may_run_on);
            for host in own.filter(|host| !hosts.contains(host.as_str())) {
                faults.push(format!(
                    "guest {} names host {host}, which is not among `hosts`",
                    guest.name
                ));
            }
        }
        faults
    }

    /// The label sets to compile for: those of guests, and of hosts' own devices that are bound.
    #[must_use]
    pub fn label_sets(&self) -> Vec<Labels> {
        self.ends().map(|(_, labels)| labels).collect()
    }

    /// Every end that a host enforces at, by name.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&str, Labels)> {
        let guests = self
            .guests
            .iter()
            .map(|guest| (guest.name.as_str(), guest.labels.clone()));
        let hosts = self.hosts.iter().filter(|host| host.bound);
        guests.chain(hosts.map(|host| (host.name.as_str(), host.device_labels())))
    }

    /// Guests that the policy has in quarantine: legal, and seldom meant.
    pub fn quarantined<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = &'a str> {
        let cut = self
            .guests
            .iter()
            .filter(|guest| policy.quarantines(&guest.labels));
        cut.map(|guest| guest.name.as_str())
    }
}
