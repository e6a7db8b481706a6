//! Network security groups of Azure. A group becomes a label; its rules speak at the end of its
//! members only. Where an interface and its subnet have a group each, both must allow: the subnet's
//! is a tier of its own above, in which what it allows is handed over.

use crate::azure_files::{File, read};
use crate::azure_template;
use crate::draft::{Draft, NOBODY, Rule, all, either, every_port, numbered, prefix};
use crate::names::label;
use crate::value::{items, scalar, str};
use crate::{Effect, ImportError, Source};
use ipnet::IpNet;
use lictor_policy::{Labels, PortRange};
use lictor_types::Protocol;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const YES: &str = "yes";

/// Azure's rules that stand in every group if the file does not list them: name, priority, way,
/// access, source, destination.
const AZURE_DEFAULTS: [(&str, i64, &str, &str, &str, &str); 6] = [
    (
        "AllowVnetInBound",
        65_000,
        "Inbound",
        "Allow",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    (
        "AllowAzureLoadBalancerInBound",
        65_001,
        "Inbound",
        "Allow",
        "AzureLoadBalancer",
        "*",
    ),
    ("DenyAllInBound", 65_500, "Inbound", "Deny", "*", "*"),
    (
        "AllowVnetOutBound",
        65_000,
        "Outbound",
        "Allow",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    (
        "AllowInternetOutBound",
        65_001,
        "Outbound",
        "Allow",
        "*",
        "Internet",
    ),
    ("DenyAllOutBound", 65_500, "Outbound", "Deny", "*", "*"),
];

/// The load balancer's probes come from here.
const AZURE_PROBE: &str = "168.63.129.16/32";

/// What the files have.
#[derive(Debug, Default)]
struct Found {
    groups: Vec<Group>,
    nics: Vec<Value>,
    /// Groups as they take effect, and where.
    effective: Vec<Value>,
    /// Rules that are printed without their groups, by the groups' ids.
    rules: BTreeMap<String, Vec<Value>>,
    /// Subnets by their id, with the id of their group; ids differ in case as they like.
    subnets: BTreeMap<String, String>,
    /// The prefixes of service tags, as the file that Azure publishes has them.
    tags: BTreeMap<String, Vec<IpNet>>,
}

/// A group, by the name that labels have.
#[derive(Debug)]
struct Group {
    id: String,
    name: String,
    value: Value,
}

/// What a rule is read for: its place, and what becomes of traffic if a part of it is left out.
type At<'a> = (&'a str, Effect);

/// What `az network nsg list`, `nic list`, `vnet list` print, the API's form of it, templates, and
/// the published service tags.
pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut found = Found::default();
    let mut draft = Draft::default();
    for file in read(sources, &mut draft)? {
        match file {
            File::Template(value, given) => {
                let own = azure_template::resources(&value, &given, &mut draft);
                own.iter().for_each(|one| found.walk(one));
            }
            File::Printed(value) => found.walk(&value),
        }
    }
    found.join();
    if found.groups.is_empty() {
        return Err(ImportError::Nothing {
            what: "network security groups",
        });
    }
    found.name_apart();
    let above = guests(&mut draft, &found);
    if !above.is_empty() {
        draft.tier("subnets");
        for group in found.groups.iter().filter(|one| above.contains(&one.name)) {
            group_rules(&mut draft, group, (&found.tags, Level::Subnet));
        }
    }
    draft.tier("security-groups");
    for group in &found.groups {
        group_rules(&mut draft, group, (&found.tags, Level::Only));
    }
    Ok(draft)
}

impl Found {
    fn walk(&mut self, value: &Value) {
        if let Value::Array(items) = value {
            return items.iter().for_each(|item| self.walk(item));
        }
        for wrapper in ["value", "resources", "data"] {
            if let Some(items) = value[wrapper].as_array() {
                items.iter().for_each(|item| self.walk(item));
            }
        }
        let own = |field: &str| !property(value, field).is_null();
        if own("effectiveSecurityRules") {
            self.effective.push(value.clone());
        } else if own("securityRules") || own("defaultSecurityRules") {
            self.group(value.clone());
        } else if own("ipConfigurations") {
            self.nics.push(value.clone());
        } else if own("virtualMachineProfile") {
            self.scale_set(value);
        } else if own("subnets") {
            for subnet in list_of(value, "subnets") {
                self.subnet(subnet);
            }
        } else if own("addressPrefix") && own("networkSecurityGroup") {
            self.subnet(value);
        } else if own("access") && own("direction") && own("priority") {
            let id = str(value, "id").to_lowercase();
            let group = id.split("/securityrules/").next().unwrap_or_default();
            let group = group
                .split("/defaultsecurityrules/")
                .next()
                .unwrap_or_default();
            let rules = self.rules.entry(group.to_owned()).or_default();
            rules.push(value.clone());
        } else {
            for tag in value["values"].as_array().into_iter().flatten() {
                let nets = list_of(tag, "addressPrefixes").iter();
                let nets = nets.filter_map(|one| prefix(&scalar(one)));
                self.tags
                    .insert(str(tag, "name").to_lowercase(), nets.collect());
            }
        }
    }

    fn group(&mut self, value: Value) {
        let name = match str(&value, "name") {
            "" => short(&value),
            name => name.to_owned(),
        };
        let id = match str(&value, "id") {
            "" => name.to_lowercase(),
            id => id.to_lowercase(),
        };
        self.subnets_of(&value, &id);
        self.groups.push(Group { id, name, value });
    }

    fn subnet(&mut self, subnet: &Value) {
        let group = str(property(subnet, "networkSecurityGroup"), "id");
        if !group.is_empty() {
            let id = str(subnet, "id").to_lowercase();
            self.subnets.insert(id, group.to_lowercase());
        }
    }

    /// The interfaces that each machine of a scale set gets: one guest stands for all of them.
    fn scale_set(&mut self, value: &Value) {
        let profile = &property(value, "virtualMachineProfile")["networkProfile"];
        for nic in list_of(profile, "networkInterfaceConfigurations") {
            let mut nic = nic.clone();
            nic["name"] = format!("{}.{}", str(value, "name"), str(&nic, "name")).into();
            self.nics.push(nic);
        }
    }

    /// What is printed apart joins the groups and interfaces that it is of.
    fn join(&mut self) {
        for (id, rules) in std::mem::take(&mut self.rules) {
            let at = self.groups.iter().position(|group| group.id == id);
            let group = match at {
                Some(at) => &mut self.groups[at],
                None => {
                    let name = id.rsplit('/').next().unwrap_or(&id).to_owned();
                    self.group(serde_json::json!({"name": name, "id": id}));
                    let last = self.groups.len() - 1;
                    &mut self.groups[last]
                }
            };
            let (default, own): (Vec<Value>, Vec<Value>) = rules
                .into_iter()
                .partition(|rule| str(rule, "id").to_lowercase().contains("/default"));
            for (field, rules) in [("securityRules", own), ("defaultSecurityRules", default)] {
                let mut all = list_of(&group.value, field).to_vec();
                all.extend(rules);
                group.value[field] = all.into();
            }
        }
        for one in std::mem::take(&mut self.effective) {
            self.in_effect(&one);
        }
    }

    /// A group as it takes effect at an interface. Its rules are those of the group itself, with
    /// those that Azure adds.
    fn in_effect(&mut self, one: &Value) {
        let group = property(one, "networkSecurityGroup");
        let id = str(group, "id").to_lowercase();
        if !self.groups.iter().any(|known| known.id == id) {
            self.group(serde_json::json!({
                "id": group["id"], "name": short(group), "securityRules": [],
                "defaultSecurityRules": property(one, "effectiveSecurityRules"),
            }));
        }
        let at = property(one, "association");
        let subnet = str(property(at, "subnet"), "id").to_lowercase();
        let nic = property(at, "networkInterface");
        if !subnet.is_empty() {
            self.subnets.insert(subnet, id);
        } else if !self.nics.iter().any(|known| same_id(known, nic)) && nic["id"].is_string() {
            self.nics.push(serde_json::json!({
                "id": nic["id"], "name": short(nic), "networkSecurityGroup": group,
            }));
        }
    }

    fn subnets_of(&mut self, group: &Value, id: &str) {
        for subnet in list_of(group, "subnets") {
            let subnet = str(subnet, "id").to_lowercase();
            self.subnets.insert(subnet, id.to_owned());
        }
    }

    /// Groups of one name in different places are different groups.
    fn name_apart(&mut self) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for group in &self.groups {
            *counts.entry(group.name.to_lowercase()).or_default() += 1;
        }
        for group in &mut self.groups {
            if counts[&group.name.to_lowercase()] > 1 && !group.id.is_empty() {
                group.name = group.id.clone();
            }
        }
    }

    /// The name of a group by its id; the last part of the id if it is not in the files.
    fn name(&self, id: &str) -> Option<String> {
        let id = id.to_lowercase();
        let last = id.rsplit('/').next().filter(|last| !last.is_empty())?;
        let mut own = self.groups.iter();
        let exact = own.find(|group| group.id == id);
        let mut alike = self.groups.iter();
        let exact = exact.or_else(|| alike.find(|group| group.name.eq_ignore_ascii_case(last)));
        Some(exact.map_or_else(|| last.to_owned(), |group| group.name.clone()))
    }
}

/// A list, flat or under `properties`.
fn list_of<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    property(value, field).as_array().map_or(&[], Vec::as_slice)
}

/// Fields are flat as the command line prints them, and under `properties` as the API does.
fn property<'a>(value: &'a Value, field: &str) -> &'a Value {
    match &value[field] {
        Value::Null => &value["properties"][field],
        found => found,
    }
}

fn same_id(one: &Value, other: &Value) -> bool {
    str(one, "id").eq_ignore_ascii_case(str(other, "id"))
}

/// The last part of a resource's id.
fn short(value: &Value) -> String {
    let id = str(value, "id");
    id.rsplit('/').next().unwrap_or(id).to_owned()
}

/// Guests with their groups' labels. Gives the groups of subnets that stand above those of
/// interfaces.
fn guests(draft: &mut Draft, found: &Found) -> BTreeSet<String> {
    let mut above = BTreeSet::new();
    for nic in &found.nics {
        let own = found.name(str(property(nic, "networkSecurityGroup"), "id"));
        let mut labels = Labels::new();
        let mut addresses = Vec::new();
        let mut of_subnets = BTreeSet::new();
        for config in list_of(nic, "ipConfigurations") {
            let address = property(config, "privateIPAddress").as_str();
            let address = address.or_else(|| property(config, "privateIpAddress").as_str());
            addresses.extend(address.and_then(|text| text.parse::<IpAddr>().ok()));
            for asg in list_of(config, "applicationSecurityGroups") {
                labels.insert(label("asg", &short(asg)), YES.into());
            }
            let subnet = str(property(config, "subnet"), "id").to_lowercase();
            let group = found.subnets.get(&subnet);
            of_subnets.extend(group.and_then(|id| found.name(id)));
        }
        let name = match short(property(nic, "virtualMachine")) {
            machine if machine.is_empty() => str(nic, "name").to_owned(),
            machine => machine,
        };
        if own.is_none() && of_subnets.is_empty() {
            let what = "no group is about this guest: there everything is allowed, here nothing";
            draft.note(Effect::Closes, &format!("guest {name}"), what);
        }
        for group in of_subnets {
            let both = own.as_ref().is_some_and(|own| *own != group);
            let level = if both { Level::Subnet } else { Level::Only };
            labels.insert(level.label(&group), YES.into());
            if both {
                above.insert(group);
            }
        }
        if let Some(own) = own {
            labels.insert(Level::Only.label(&own), YES.into());
        }
        draft.guest(name, labels, addresses);
    }
    above
}

/// Where a group decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// For a subnet, above the group of an interface.
    Subnet,
    /// Alone.
    Only,
}

impl Level {
    fn label(self, group: &str) -> String {
        let kind = match self {
            Self::Subnet => "subnet-nsg",
            Self::Only => "nsg",
        };
        label(kind, group)
    }
}

fn group_rules(
    draft: &mut Draft,
    group: &Group,
    (tags, level): (&BTreeMap<String, Vec<IpNet>>, Level),
) {
    let own = draft.has(&level.label(&group.name), YES);
    let mut rules = list_of(&group.value, "securityRules").to_vec();
    let defaults = list_of(&group.value, "defaultSecurityRules");
    if defaults.is_empty() {
        rules.extend(
            AZURE_DEFAULTS.map(|(name, priority, way, access, from, to)| {
                serde_json::json!({
                    "name": name, "priority": priority, "direction": way, "access": access,
                    "protocol": "*", "sourceAddressPrefix": from, "destinationAddressPrefix": to,
                    "sourcePortRange": "*", "destinationPortRange": "*",
                })
            }),
        );
    }
    rules.extend_from_slice(defaults);
    let priority = |rule: &Value| scalar(property(rule, "priority")).parse::<i64>().ok();
    for rule in rules.iter().filter(|rule| priority(rule).is_none()) {
        let place = format!(
            "network security group {}: {}",
            group.name,
            str(rule, "name")
        );
        let what = "its priority is no number: it stands behind all others";
        draft.note(Effect::Opens, &place, what);
    }
    rules.sort_by_key(|rule| priority(rule).unwrap_or(i64::MAX));
    for rule in &rules {
        one_rule(draft, rule, (group, &own), (tags, level));
    }
}

fn one_rule(
    draft: &mut Draft,
    rule: &Value,
    (group, own): (&Group, &str),
    (tags, level): (&BTreeMap<String, Vec<IpNet>>, Level),
) {
    let name = &group.name;
    let place = format!("network security group {name}: rule {}", str(rule, "name"));
    let text = |field: &str| scalar(property(rule, field));
    let allows = text("access").eq_ignore_ascii_case("allow");
    let effect = match allows {
        true => Effect::Closes,
        false => Effect::Opens,
    };
    let sources = both(rule, "sourcePortRange");
    let every = |port: &String| ["*", "any", "0-65535"].contains(&port.to_lowercase().as_str());
    if !sources.iter().all(every) {
        let what = match allows {
            true => "source ports can't be said: left out, as it would allow more",
            false => "source ports can't be said: holds for any, and denies more",
        };
        draft.note(Effect::Closes, &place, what);
        if allows {
            return;
        }
    }
    let inbound = text("direction").eq_ignore_ascii_case("inbound");
    let known = inbound || text("direction").eq_ignore_ascii_case("outbound");
    if !known || !allows && !text("access").eq_ignore_ascii_case("deny") {
        let what = "its direction or access is not known; the rule is left out";
        draft.note(Effect::Opens, &place, what);
        return;
    }
    let from = ends(draft, rule, ("source", tags), (&place, effect));
    let to = ends(draft, rule, ("destination", tags), (&place, effect));
    let service = azure_ports(draft, rule, (&place, effect));
    let mut ends = [from, to];
    let side = usize::from(inbound);
    ends[side] = all(&[ends[side].clone(), own.to_owned()]);
    let [from, to] = ends;
    draft.rule(Rule {
        name: format!("{name}.{}", str(rule, "name")),
        action: match (allows, level) {
            (true, Level::Only) => "allow",
            (true, Level::Subnet) => "pass",
            (false, _) => "deny",
        },
        from,
        to,
        service,
        at: if inbound { "ingress" } else { "egress" },
        comment: text("description"),
        ..Rule::default()
    });
}

/// A field and its plural.
fn both(rule: &Value, field: &str) -> Vec<String> {
    let plural = if field.ends_with("Prefix") {
        format!("{field}es")
    } else {
        format!("{field}s")
    };
    let many = property(rule, &plural);
    let mut found: Vec<String> = items(many).iter().map(scalar).collect();
    let one = items(property(rule, field));
    found.extend(one.iter().map(scalar).filter(|one| !one.is_empty()));
    // An empty text is not said.
    found.retain(|one| !one.is_empty());
    found
}

fn ends(
    draft: &mut Draft,
    rule: &Value,
    (side, tags): (&str, &BTreeMap<String, Vec<IpNet>>),
    at: At<'_>,
) -> String {
    let mut parts = Vec::new();
    let mut nets = Vec::new();
    let given = both(rule, &format!("{side}AddressPrefix"));
    for text in given.iter().flat_map(|text| several(text)) {
        match text.to_lowercase().as_str() {
            "*" | "any" => parts.push("any".into()),
            "internet" => parts.push("outside".into()),
            "virtualnetwork" => {
                let what =
                    "VirtualNetwork is taken as all guests: peered networks are outside here";
                draft.note(Effect::None, at.0, what);
                parts.push("guests".into());
            }
            "azureloadbalancer" => nets.extend(prefix(AZURE_PROBE)),
            other => match (prefix(text), tags.get(other)) {
                (Some(net), _) => nets.push(net),
                (None, Some(own)) => nets.extend(own),
                (None, None) => {
                    let what = match text.contains(['[', '{']) {
                        true => format!("{text:?} is not answered by the template"),
                        false => {
                            format!("the service tag {text:?} has no addresses in these files")
                        }
                    };
                    draft.note(at.1, at.0, what);
                }
            },
        }
    }
    if !nets.is_empty() {
        parts.push(draft.addresses("", &nets));
    }
    let field = format!("{side}ApplicationSecurityGroups");
    for group in list_of(rule, &field) {
        parts.push(draft.has(&label("asg", &short(group)), YES));
    }
    if parts.is_empty() {
        return NOBODY.to_owned();
    }
    either(&parts)
}

/// Several in one text, as the portal lets one write them. An expression of a template is one.
fn several(text: &str) -> Vec<&str> {
    match text.starts_with('[') {
        true => vec![text],
        false => text.split(',').map(str::trim).collect(),
    }
}

fn azure_ports(draft: &mut Draft, rule: &Value, at: At<'_>) -> Vec<PortRange> {
    let name = scalar(property(rule, "protocol")).to_lowercase();
    let protocols: &[Protocol] = match name.as_str() {
        "*" | "any" | "all" => &[Protocol::Tcp, Protocol::Udp],
        "tcp" => &[Protocol::Tcp],
        "udp" => &[Protocol::Udp],
        "icmp" => return vec![PortRange::all(Protocol::Icmp)],
        "icmpv6" => return vec![PortRange::all(Protocol::Icmpv6)],
        "esp" => return vec![numbered(50)],
        "ah" => return vec![numbered(51)],
        other => {
            draft.note(at.1, at.0, format!("the protocol {other:?} is not known"));
            return Vec::new();
        }
    };
    let given = both(rule, "destinationPortRange");
    let ports: Vec<&str> = given.iter().flat_map(|text| several(text)).collect();
    let all = |port: &&str| ["*", "any", "0-65535"].contains(&port.to_lowercase().as_str());
    let every = ports.is_empty() || ports.iter().any(all);
    if every && protocols.len() > 1 {
        return every_port();
    }
    let mut ranges = Vec::new();
    for protocol in protocols.iter().copied() {
        if every {
            ranges.push(PortRange::all(protocol));
        }
        for text in ports.iter().filter(|port| !all(port)) {
            let (first, last) = text.split_once('-').unwrap_or((*text, *text));
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if first <= last => {
                    ranges.push(PortRange {
                        protocol,
                        first,
                        last,
                    });
                }
                _ if text.contains(['[', '{']) => {
                    let what = format!("{text:?} is not answered by the template");
                    draft.note(at.1, at.0, what);
                }
                _ => draft.note(at.1, at.0, format!("{text:?} is no range of ports")),
            }
        }
    }
    ranges
}
