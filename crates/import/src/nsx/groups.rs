//! Groups and their members: those that the manager printed, or what the group's expression gives.

use super::{EVERY, joined};
use crate::Effect;
use crate::draft::{Draft, address_run, prefix};
use crate::names::label;
use crate::value::{list, scalar, str};
use ipnet::IpNet;
use lictor_policy::Labels;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Groups inside each other.
const DEPTH_MAX: usize = 32;

/// What a group stands for.
#[derive(Debug, Clone, Default)]
struct Members {
    guests: BTreeSet<String>,
    prefixes: Vec<IpNet>,
}

/// All groups, and the guests that the file has.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: BTreeMap<String, Members>,
    names: BTreeMap<String, String>,
}

impl Groups {
    pub(super) fn read(draft: &mut Draft, value: &Value, path: &str) -> Self {
        let mut groups = Self::default();
        let resolver = Resolver::of(value);
        for group in resolver.groups.values() {
            let place = format!("{path}: group {}", str(group, "display_name"));
            let members = resolver.members(draft, group, (&place, 0));
            let key = key(group);
            groups
                .names
                .insert(key.clone(), str(group, "display_name").to_owned());
            groups.members.insert(key, members);
        }
        // A segment may stand where a group does.
        for segment in list(value, "segments") {
            let key = key(segment);
            let guests = resolver.of_segment(&key);
            groups
                .names
                .insert(key.clone(), str(segment, "display_name").to_owned());
            groups.members.insert(
                key,
                Members {
                    guests,
                    prefixes: Vec::new(),
                },
            );
        }
        for machine in list(value, "virtual_machines") {
            let id = id(machine);
            let addresses = resolver.addresses.get(&id).cloned().unwrap_or_default();
            let mut labels = Labels::new();
            for (key, members) in &groups.members {
                if members.guests.contains(&id) {
                    labels.insert(groups.label(key), "yes".into());
                }
            }
            let name = str(machine, "display_name");
            if addresses.is_empty() {
                draft.lives_in(name, resolver.networks(&id));
            }
            draft.guest(name.to_owned(), labels, addresses);
        }
        groups
    }

    fn label(&self, key: &str) -> String {
        let name = self.names.get(key).map_or(key, String::as_str);
        let twice = self.names.values().filter(|known| *known == name).count() > 1;
        label("group", if twice { key } else { name })
    }

    /// The ends that names stand for: groups, segments, addresses. None means any.
    pub(super) fn ends(
        &self,
        draft: &mut Draft,
        names: &[String],
        (place, effect): (&str, Effect),
    ) -> String {
        if names.is_empty() || names.iter().any(|name| name == EVERY) {
            return "any".to_owned();
        }
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        for name in names {
            if let Some(members) = self.members.get(name) {
                let own = draft.has(&self.label(name), "yes");
                parts.push(own);
                if !members.prefixes.is_empty() {
                    let hint = self.names.get(name).map_or("", String::as_str);
                    parts.push(draft.addresses(hint, &members.prefixes));
                }
            } else if let Some(prefixes) = addresses(name) {
                literal.extend(prefixes);
            } else {
                let what = format!("the group {name:?} is not in this file; nothing matches it");
                draft.note(effect, place, what);
            }
        }
        if !literal.is_empty() {
            parts.push(draft.addresses("", &literal));
        }
        joined(parts)
    }
}

/// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1-10.0.0.9`.
fn addresses(text: &str) -> Option<Vec<IpNet>> {
    address_run(text).or_else(|| prefix(text).map(|net| vec![net]))
}

fn key(value: &Value) -> String {
    match str(value, "path") {
        "" => str(value, "display_name").to_owned(),
        path => path.to_owned(),
    }
}

fn id(machine: &Value) -> String {
    match str(machine, "external_id") {
        "" => str(machine, "display_name").to_owned(),
        id => id.to_owned(),
    }
}

/// A segment's subnet: the network as it is printed, or that of its gateway.
fn subnet(value: &Value) -> Option<IpNet> {
    prefix(str(value, "network")).or_else(|| prefix(str(value, "gateway_address")))
}

/// The file, as the members of groups are found in it.
struct Resolver<'a> {
    groups: BTreeMap<String, &'a Value>,
    machines: &'a [Value],
    all_segments: &'a [Value],
    addresses: BTreeMap<String, Vec<IpAddr>>,
    segments: BTreeMap<String, BTreeSet<String>>,
    /// The subnets of segments.
    subnets: BTreeMap<String, Vec<IpNet>>,
}

impl<'a> Resolver<'a> {
    fn of(value: &'a Value) -> Self {
        let domains = list(value, "domains").iter();
        let groups = domains.flat_map(|domain| list(&domain["resources"], "groups"));
        let groups = groups.map(|group| (key(group), group)).collect();
        let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut ports: BTreeMap<&str, String> = BTreeMap::new();
        for vnic in list(value, "virtual_network_interface") {
            let owner = str(vnic, "owner_vm_id").to_owned();
            let info = list(vnic, "ip_address_info").iter();
            let given = info.flat_map(|info| list(info, "ip_addresses"));
            let given = given.filter_map(|text| scalar(text).parse::<IpAddr>().ok());
            addresses.entry(owner.clone()).or_default().extend(given);
            ports.insert(str(vnic, "lport_attachment_id"), owner);
        }
        let mut segments: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut subnets = BTreeMap::new();
        for segment in list(value, "segments") {
            let own = list(segment, "segment_ports").iter();
            let ids = own.map(|port| str(&port["attachment"], "id"));
            let guests = ids.filter_map(|id| ports.get(id).cloned()).collect();
            segments.insert(key(segment), guests);
            let nets = list(segment, "subnets").iter().filter_map(subnet);
            subnets.insert(key(segment), nets.collect());
        }
        Self {
            groups,
            machines: list(value, "virtual_machines"),
            all_segments: list(value, "segments"),
            addresses,
            segments,
            subnets,
        }
    }

    /// The subnets of the segments that a machine is attached to.
    fn networks(&self, id: &str) -> Vec<IpNet> {
        let own = self.segments.iter().filter(|(_, own)| own.contains(id));
        let nets = own.filter_map(|(key, _)| self.subnets.get(key));
        nets.flatten().copied().collect()
    }

    fn of_segment(&self, path: &str) -> BTreeSet<String> {
        self.segments.get(path).cloned().unwrap_or_default()
    }

    fn members(&self, draft: &mut Draft, group: &Value, (place, depth): (&str, usize)) -> Members {
        let listed = list(group, "vm_members")
            .iter()
            .map(|one| match str(one, "id") {
                "" => str(one, "display_name").to_owned(),
                id => id.to_owned(),
            });
        let mut members = Members {
            guests: listed.collect(),
            prefixes: Vec::new(),
        };
        let given = list(group, "ips_members")
            .iter()
            .filter_map(|text| addresses(&scalar(text)));
        members.prefixes.extend(given.flatten());
        let expression = list(group, "expression");
        let found = self.expression(draft, expression, (place, depth));
        members.prefixes.extend(found.prefixes);
        // What the manager printed is what it enforces; without it the expression is evaluated.
        if group["vm_members"].is_null() {
            members.guests.extend(found.guests);
        }
        members.prefixes.sort();
        members.prefixes.dedup();
        members
    }

    /// Terms and the words between them, from the left.
    fn expression(&self, draft: &mut Draft, terms: &[Value], at: (&str, usize)) -> Members {
        let mut found: Option<Members> = None;
        let mut both = false;
        for term in terms {
            if str(term, "resource_type") == "ConjunctionOperator" {
                both = str(term, "conjunction_operator") == "AND";
                continue;
            }
            let one = self.term(draft, term, at);
            found = Some(match found {
                None => one,
                Some(mut known) if both => {
                    known.guests = known.guests.intersection(&one.guests).cloned().collect();
                    known.prefixes.retain(|net| one.prefixes.contains(net));
                    known
                }
                Some(mut known) => {
                    known.guests.extend(one.guests);
                    known.prefixes.extend(one.prefixes);
                    known
                }
            });
        }
        found.unwrap_or_default()
    }

    fn term(&self, draft: &mut Draft, term: &Value, (place, depth): (&str, usize)) -> Members {
        let mut members = Members::default();
        if depth > DEPTH_MAX {
            let what = "groups inside groups in a circle, or too deep: the rest is left out";
            draft.note(Effect::Opens, place, what);
            return members;
        }
        match str(term, "resource_type") {
            "Condition" => members.guests = self.condition(draft, term, place),
            "NestedExpression" => {
                return self.expression(draft, list(term, "expressions"), (place, depth + 1));
            }
            "IPAddressExpression" => {
                let given = list(term, "ip_addresses").iter();
                let given = given.filter_map(|text| addresses(&scalar(text)));
                members.prefixes.extend(given.flatten());
            }
            "PathExpression" => {
                for path in list(term, "paths").iter().map(scalar) {
                    members.guests.extend(self.of_segment(&path));
                    if let Some(group) = self.groups.get(&path) {
                        let inner = self.members(draft, group, (place, depth + 1));
                        members.guests.extend(inner.guests);
                        members.prefixes.extend(inner.prefixes);
                    }
                }
            }
            "ExternalIDExpression" => {
                members
                    .guests
                    .extend(list(term, "external_ids").iter().map(scalar));
            }
            other => {
                let what = format!("the expression {other:?} is not known: it adds no member");
                draft.note(Effect::Opens, place, what);
            }
        }
        members
    }

    /// The machines on the segments that a condition is about.
    fn on_segments(&self, term: &Value) -> BTreeSet<String> {
        let values = |segment: &Value| match str(term, "key") {
            "Tag" => list(segment, "tags").iter().map(tag).collect(),
            _ => vec![str(segment, "display_name").to_owned()],
        };
        let unlike = str(term, "operator") == "NOTEQUALS";
        let told = self.all_segments.iter().filter(|segment| {
            let values: Vec<String> = values(segment);
            values.iter().any(|value| tells(term, value)) != unlike
        });
        told.flat_map(|segment| self.of_segment(&key(segment)))
            .collect()
    }

    fn condition(&self, draft: &mut Draft, term: &Value, place: &str) -> BTreeSet<String> {
        let (key, operator) = (str(term, "key"), str(term, "operator"));
        let kind = str(term, "member_type");
        if kind == "Segment" && ["Tag", "Name"].contains(&key) {
            return self.on_segments(term);
        }
        if kind != "VirtualMachine" {
            let what = format!("members of the type {kind:?} are no guests, and are left out");
            draft.note(Effect::Opens, place, what);
            return BTreeSet::new();
        }
        let values = |machine: &Value| -> Vec<String> {
            match key {
                "Tag" => list(machine, "tags").iter().map(tag).collect(),
                "Name" => vec![str(machine, "display_name").to_owned()],
                "OSName" => vec![str(&machine["guest_info"], "os_name").to_owned()],
                "ComputerName" => vec![str(&machine["guest_info"], "computer_name").to_owned()],
                _ => Vec::new(),
            }
        };
        let known = ["Tag", "Name", "OSName", "ComputerName"].contains(&key);
        let test = |value: &String| tells(term, value);
        let operators = ["EQUALS", "NOTEQUALS", "CONTAINS", "STARTSWITH", "ENDSWITH"];
        if !known || !operators.contains(&operator) {
            let what = format!("the condition {key} {operator} is not known: it adds no member");
            draft.note(Effect::Opens, place, what);
            return BTreeSet::new();
        }
        let inside =
            |machine: &&Value| values(machine).iter().any(test) != (operator == "NOTEQUALS");
        self.machines.iter().filter(inside).map(id).collect()
    }
}

/// Whether a condition is about a value.
fn tells(term: &Value, value: &str) -> bool {
    let wanted = str(term, "value");
    match str(term, "operator") {
        "CONTAINS" => value.contains(wanted),
        "STARTSWITH" => value.starts_with(wanted),
        "ENDSWITH" => value.ends_with(wanted),
        _ if str(term, "key") == "Tag" => same_tag(value, wanted),
        _ => value == wanted,
    }
}

fn tag(tag: &Value) -> String {
    format!("{}|{}", str(tag, "scope"), str(tag, "tag"))
}

/// `scope|tag`, or a tag of any scope.
fn same_tag(own: &str, wanted: &str) -> bool {
    match wanted.split_once('|') {
        Some(("", tag)) => own.split_once('|').is_some_and(|(_, name)| name == tag),
        Some(_) => own == wanted,
        None => own.split_once('|').is_some_and(|(_, name)| name == wanted),
    }
}
