//! The site file: what a release says beside the policy. A person writes it, two persons sign what
//! comes of it.

use crate::{CliError, files};
use lictor_policy::{HOST_LABEL, Labels, Policy};
use lictor_types::DeploymentId;
use lictor_wire::{Delegation, RosterHost};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Hosts in one roster.
pub const ROSTER_HOSTS_MAX: usize = 4_096;
/// Delegations in one release.
pub const DELEGATIONS_MAX: usize = 4_096;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    /// The installation.
    pub(crate) deployment: DeploymentId,
    /// Label sets to compile beside those that the delegations name in full.
    #[serde(default)]
    label_sets: Vec<Labels>,
    /// The hosts' pinned keys.
    #[serde(default)]
    pub(crate) roster: Vec<RosterHost>,
    /// Who may bind what.
    #[serde(default)]
    pub(crate) delegations: Vec<Delegation>,
}

/// Reads a site and checks it against the policy. Every fault is named at once.
pub(crate) fn read(path: &Path, policy: &Policy) -> Result<Site, CliError> {
    let site: Site = files::read_toml(path)?;
    let faults = [
        roster_faults(&site.roster),
        delegation_faults(&site),
        label_faults(&site, policy),
        beyond_policy(&site.delegations, policy),
    ];
    match faults.concat().as_slice() {
        [] => Ok(site),
        faults => Err(CliError::file(path, format!("\n{}", faults.join("\n")))),
    }
}

impl Site {
    /// Every full label set: those listed, and those of delegations without a `*`.
    pub(crate) fn label_sets(&self) -> BTreeSet<Labels> {
        let delegated = self.delegations.iter().flat_map(|one| &one.labels);
        let full = delegated.filter(|labels| !open(labels));
        full.chain(&self.label_sets).cloned().collect()
    }
}

fn open(labels: &Labels) -> bool {
    labels.values().any(|value| value == "*")
}

fn roster_faults(roster: &[RosterHost]) -> Vec<String> {
    let mut faults = Vec::new();
    if roster.is_empty() || roster.len() > ROSTER_HOSTS_MAX {
        let found = roster.len();
        faults.push(format!(
            "[[roster]] has {found} hosts; expected 1 to {ROSTER_HOSTS_MAX}, as \
             `lictor host roster` prints them"
        ));
    }
    let mut hosts = BTreeSet::new();
    let mut keys = BTreeMap::new();
    for RosterHost { host, key, .. } in roster {
        if !hosts.insert(host) {
            faults.push(format!("[[roster]] names {host} twice; keep one entry"));
        } else if let Some(other) = keys.insert(key, host) {
            faults.push(format!(
                "[[roster]] gives {other} and {host} one key; an agent has a key of its own"
            ));
        }
    }
    faults
}

fn delegation_faults(site: &Site) -> Vec<String> {
    let mut faults = Vec::new();
    let count = site.delegations.len();
    if count > DELEGATIONS_MAX {
        faults.push(format!(
            "[[delegations]] has {count} entries; expected at most {DELEGATIONS_MAX}"
        ));
    }
    let sets = site.label_sets();
    for delegation in &site.delegations {
        let name = delegation.key.name();
        for labels in delegation.labels.iter().filter(|labels| open(labels)) {
            let one = Delegation {
                labels: vec![labels.clone()],
                ..delegation.clone()
            };
            if !sets.iter().any(|set| one.covers(set)) {
                let labels = text(labels);
                faults.push(format!(
                    "the delegation of {name} allows {labels}, which fits no label set; a release \
                     is compiled for sets that are known: add them to label_sets"
                ));
            }
        }
    }
    faults
}

/// A policy that says what may be delegated says it for every site.
fn beyond_policy(delegations: &[Delegation], policy: &Policy) -> Vec<String> {
    if policy.delegations.is_empty() {
        return Vec::new();
    }
    let faults = delegations.iter().filter_map(|one| {
        let name = one.key.name();
        let inside = policy.delegations.iter().any(|leave| {
            leave.key == name.to_string()
                && one.guests_max <= leave.guests_max
                && one.labels.iter().all(|labels| leave.covers_labels(labels))
                && one
                    .prefixes
                    .iter()
                    .all(|prefix| leave.covers_prefix(prefix))
                && one
                    .segments
                    .iter()
                    .all(|segment| leave.segments.contains(&segment.0))
        });
        let said = || {
            format!(
                "the delegation of {name} goes beyond what the policy delegates to {name}; \
                 narrow it, or change the policy's `delegate` statements"
            )
        };
        (!inside).then(said)
    });
    faults.collect()
}

/// Labels that the policy does not declare would be bound and mean nothing.
fn label_faults(site: &Site, policy: &Policy) -> Vec<String> {
    let sets = site.label_sets();
    if sets.is_empty() {
        return vec![
            "no label set is known; expected [[delegations]] with labels, or label_sets".into(),
        ];
    }
    let faults = sets.iter().flat_map(|set| unknown_labels(set, policy));
    faults.collect::<BTreeSet<_>>().into_iter().collect()
}

/// What a policy does not know of a label set, a sentence each.
pub(crate) fn unknown_labels(labels: &Labels, policy: &Policy) -> Vec<String> {
    let fault = |(name, value): (&String, &String)| {
        // A host's own label needs no declaration.
        if name == HOST_LABEL {
            return None;
        }
        let Some(label) = policy.labels.get(name) else {
            let known: Vec<&str> = policy.labels.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Some(format!(
                "the policy declares no label {name}; expected one of {known}"
            ));
        };
        let values = label.values.as_ref().filter(|list| !list.contains(value))?;
        let values = values.join(", ");
        Some(format!(
            "the label {name} has no value {value}; expected one of {values}"
        ))
    };
    labels.iter().filter_map(fault).collect()
}

/// A label set as people write it.
pub(crate) fn text(labels: &Labels) -> String {
    if labels.is_empty() {
        return "(no labels)".into();
    }
    let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "policy \"t\" version 1\n\
        label zone : one-of cde corp\nlabel app : string\n\
        tier baseline { deny all }\n";

    fn key(name: &str) -> String {
        let name = lictor_evidence::KeyName::new(name).expect("a name");
        lictor_evidence::SigningKey::generate(name, &mut rand::rngs::OsRng)
            .verify_key()
            .to_string()
    }

    fn roster(host: &str, key: &str) -> String {
        format!(
            "[[roster]]\nhost = \"{host}\"\ncluster = \"main\"\nkey = \"{key}\"\n\
             peer = \"10.0.0.1:7443\"\n"
        )
    }

    fn delegation(labels: &str) -> String {
        format!(
            "[[delegations]]\nkey = \"{}\"\nlabels = [{labels}]\nguests_max = 4\n\
             prefixes = [\"10.1.0.0/16\"]\nsegments = [1]\n",
            key("owner")
        )
    }

    fn check(text: &str, expected: Result<&[&str], &str>) {
        let (policy, diagnostics) = lictor_policy::parse("t", POLICY.as_bytes());
        let policy = policy.unwrap_or_else(|| panic!("{diagnostics:?}"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("site.toml");
        std::fs::write(&path, text).expect("written");
        match (read(&path, &policy), expected) {
            (Ok(site), Ok(sets)) => {
                let found: Vec<String> = site.label_sets().iter().map(super::text).collect();
                assert_eq!(found, sets, "{text}");
            }
            (Err(error), Err(part)) => {
                let error = error.to_string();
                assert!(error.contains(part), "expected {part:?} in {error}");
                assert!(error.contains("site.toml"), "{error}");
            }
            (found, expected) => panic!("{found:?}, expected {expected:?}:\n{text}"),
        }
    }

    #[test]
    fn the_limits_of_a_site_hold_at_themselves_and_fail_one_above() {
        let key = key("a").parse::<lictor_wire::VerifyKey>().expect("a key");
        let host = RosterHost {
            host: "a".parse().expect("a name"),
            cluster: "main".into(),
            key: key.clone(),
            peer: "10.0.0.1:7443".parse().expect("an address"),
        };
        let too_many = |count| {
            let faults = roster_faults(&vec![host.clone(); count]);
            faults
                .iter()
                .any(|fault| fault.contains("expected 1 to 4096"))
        };
        assert!(!too_many(ROSTER_HOSTS_MAX) && too_many(ROSTER_HOSTS_MAX + 1));
        let delegation = Delegation {
            key,
            labels: Vec::new(),
            guests_max: 1,
            prefixes: Vec::new(),
            segments: Vec::new(),
        };
        let mut site = Site {
            deployment: "prod".parse().expect("a name"),
            label_sets: Vec::new(),
            roster: vec![host],
            delegations: vec![delegation.clone(); DELEGATIONS_MAX],
        };
        assert_eq!(delegation_faults(&site), Vec::<String>::new());
        site.delegations.push(delegation);
        let faults = delegation_faults(&site);
        assert!(faults[0].contains("expected at most 4096"), "{faults:?}");
    }

    #[test]
    fn a_site_is_taken_whole_or_refused_with_the_place() {
        let head = "deployment = \"prod\"\n";
        let (a, b) = (roster("a", &key("a")), roster("b", &key("b")));
        let full = delegation("{ zone = \"cde\" }, { zone = \"corp\", app = \"x\" }");
        check(
            &[head, &a, &b, &full].concat(),
            Ok(&["app=x,zone=corp", "zone=cde"]),
        );
        let open = delegation("{ zone = \"*\" }");
        let listed = "label_sets = [{ zone = \"cde\" }]\n";
        check(&[head, listed, &a, &open].concat(), Ok(&["zone=cde"]));
        check(&[head, &a, &open].concat(), Err("add them to label_sets"));
        check(&[head, &full].concat(), Err("`lictor host roster`"));
        check(&[head, &a, &a, &full].concat(), Err("names a twice"));
        let shared = key("a");
        let twice = [roster("a", &shared), roster("b", &shared)].concat();
        check(&[head, &twice, &full].concat(), Err("one key"));
        check(&[head, &a].concat(), Err("no label set is known"));
        let moon = delegation("{ zone = \"moon\" }");
        check(
            &[head, &a, &moon].concat(),
            Err("zone has no value moon; expected one of cde, corp"),
        );
        let tier = delegation("{ tier = \"db\" }");
        check(
            &[head, &a, &tier].concat(),
            Err("declares no label tier; expected one of app, zone"),
        );
        check(&[head, "hosts = 3\n"].concat(), Err("hosts"));
        let altered = key("a").replace('+', "+0");
        check(&[head, &roster("a", &altered)].concat(), Err("line 5"));
        check(&a, Err("deployment"));
    }
}
