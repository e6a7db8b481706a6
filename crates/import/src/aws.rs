//! Security groups of AWS. A group becomes a label; its rules speak at the end of its members only.

use crate::draft::{Draft, Rule, either, every_port, numbered, prefix};
use crate::names::label;
use crate::value::{json_values, list, objects, scalar, str, text};
use crate::{Effect, ImportError, Source, aws_template, aws_terraform, tagged};
use ipnet::IpNet;
use lictor_policy::{Labels, PortRange};
use lictor_types::Protocol;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const YES: &str = "yes";

/// What is said of the filters of subnets.
pub(crate) const NO_ACLS: &str = "network ACLs filter subnets without sessions, and are not \
    imported: what they deny is not denied by them here";

/// What the files have, whatever they wrap it into: the command line's answers, what `--query`
/// takes out of them, several answers in one file.
#[derive(Debug, Default)]
struct Found {
    groups: Vec<Value>,
    instances: Vec<Value>,
    vnics: Vec<Value>,
    /// Rules that `describe-security-group-rules` prints apart from their groups.
    rules: Vec<Value>,
    /// Network ACLs, which are not imported: their filters keep no sessions.
    acls: Vec<Value>,
    /// The prefixes of prefix lists.
    lists: BTreeMap<String, Vec<IpNet>>,
}

/// A guest's groups and addresses, and the groups of each of its interfaces.
#[derive(Debug, Default)]
struct Instance {
    labels: Labels,
    addresses: Vec<String>,
    vnics: BTreeSet<BTreeSet<String>>,
}

impl Found {
    /// Takes an object, if it is one of ours.
    fn object(&mut self, value: &Value, fields: &Map<String, Value>) -> bool {
        let has = |name: &str| fields.contains_key(name);
        let permits = has("IpPermissions") || has("IpPermissionsEgress");
        if has("SecurityGroupRuleId") {
            self.rules.push(value.clone());
        } else if has("GroupId") && (permits || has("GroupName") && has("Description")) {
            self.groups.push(value.clone());
        } else if has("InstanceId") && (has("SecurityGroups") || has("NetworkInterfaces")) {
            self.instances.push(value.clone());
        } else if has("NetworkInterfaceId") && has("Groups") {
            self.vnics.push(value.clone());
        } else if has("NetworkAclId") && has("Entries") {
            self.acls.push(value.clone());
        } else if has("PrefixListId") && (has("Cidrs") || has("Entries")) {
            let cidrs = list(value, "Cidrs").iter().map(scalar);
            let entries = list(value, "Entries")
                .iter()
                .map(|one| scalar(&one["Cidr"]));
            let nets = cidrs.chain(entries).filter_map(|text| prefix(&text));
            let own = self.lists.entry(str(value, "PrefixListId").to_owned());
            own.or_default().extend(nets);
        } else {
            return false;
        }
        true
    }

    /// Rules that are printed apart, as those of their groups are.
    fn join_rules(&mut self) {
        for rule in &self.rules {
            let field = match rule["IsEgress"] == true {
                true => "IpPermissionsEgress",
                false => "IpPermissions",
            };
            let id = str(rule, "GroupId");
            let at = self.groups.iter().position(|one| str(one, "GroupId") == id);
            let at = at.unwrap_or_else(|| {
                self.groups.push(serde_json::json!({"GroupId": id}));
                self.groups.len() - 1
            });
            let group = &mut self.groups[at];
            match group[field].as_array_mut() {
                Some(rules) => rules.push(joined(rule)),
                None => group[field] = serde_json::json!([joined(rule)]),
            }
        }
    }
}

/// A rule that is printed apart, in the form of those of a group.
pub(crate) fn joined(rule: &Value) -> Value {
    let mut own = serde_json::json!({
        "IpProtocol": rule["IpProtocol"], "FromPort": rule["FromPort"], "ToPort": rule["ToPort"],
    });
    let said = &rule["Description"];
    if !rule["CidrIpv4"].is_null() {
        own["IpRanges"] = serde_json::json!([{"CidrIp": rule["CidrIpv4"], "Description": said}]);
    }
    if !rule["CidrIpv6"].is_null() {
        own["Ipv6Ranges"] =
            serde_json::json!([{"CidrIpv6": rule["CidrIpv6"], "Description": said}]);
    }
    if !rule["ReferencedGroupInfo"].is_null() {
        own["UserIdGroupPairs"] = serde_json::json!([rule["ReferencedGroupInfo"]]);
    }
    if !rule["PrefixListId"].is_null() {
        own["PrefixListIds"] = serde_json::json!([{"PrefixListId": rule["PrefixListId"]}]);
    }
    own
}

/// The values of all files; templates may be YAML. What one of several templates calls its own is
/// told apart by the name of its file.
fn read(sources: &[Source]) -> Result<Vec<(String, Value)>, ImportError> {
    let mut found = Vec::new();
    for source in sources {
        let json = text(source)?.trim_start().starts_with(['{', '[']);
        let values = match json {
            true => json_values(source)?,
            false => tagged::documents(source)?,
        };
        let file = source.path.rsplit('/').next().unwrap_or(&source.path);
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        found.extend(values.into_iter().map(|value| (stem.to_owned(), value)));
    }
    let templates = found.iter().filter(|(_, value)| aws_template::is(value));
    if templates.count() == 1 {
        found.iter_mut().for_each(|(stack, _)| stack.clear());
    }
    Ok(found)
}

/// What `aws ec2 describe-security-groups`, `describe-instances`, `describe-network-interfaces`
/// and their like print.
pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut found = Found::default();
    let mut draft = Draft::default();
    for (stack, value) in read(sources)? {
        let printed = match aws_template::is(&value) {
            true => Some(aws_template::resources(&value, &stack, &mut draft)),
            false => aws_terraform::resources(&value),
        };
        for value in printed.unwrap_or_else(|| vec![value]) {
            objects(&value, &mut |value, fields| found.object(value, fields));
        }
    }
    found.join_rules();
    if found.groups.is_empty() {
        return Err(ImportError::Nothing {
            what: "SecurityGroups",
        });
    }
    for acl in found.acls.iter().filter(|acl| !open(acl)) {
        let place = format!("network ACL {}", str(acl, "NetworkAclId"));
        draft.note(Effect::Opens, &place, NO_ACLS);
    }
    guests(&mut draft, &found);
    draft.tier("security-groups");
    let mut known: BTreeSet<(String, String)> = BTreeSet::new();
    for group in &found.groups {
        // Two files may have the same group.
        if known.insert((str(group, "GroupId").to_owned(), group.to_string())) {
            group_rules(&mut draft, group, &found.lists);
        }
    }
    Ok(draft)
}

/// Whether an ACL lets everything pass both ways, as the one does that nobody has touched.
fn open(acl: &Value) -> bool {
    let first = |egress: bool| {
        let own = list(acl, "Entries").iter();
        let own = own.filter(|one| one["Egress"] == egress && !one["CidrBlock"].is_null());
        own.min_by_key(|one| one["RuleNumber"].as_u64())
    };
    let everything = |one: &Value| {
        let all = (scalar(&one["Protocol"]), scalar(&one["CidrBlock"]));
        str(one, "RuleAction") == "allow" && all == ("-1".to_owned(), "0.0.0.0/0".to_owned())
    };
    [true, false]
        .iter()
        .all(|way| first(*way).is_some_and(everything))
}

fn guests(draft: &mut Draft, found: &Found) {
    let mut instances: BTreeMap<String, Instance> = BTreeMap::new();
    let id = |instance: &Value| str(instance, "InstanceId").to_owned();
    for instance in &found.instances {
        // What is gone keeps its name for an hour, and has no groups.
        if str(&instance["State"], "Name") == "terminated" {
            continue;
        }
        let own = instances.entry(id(instance)).or_default();
        own.read(instance);
        for vnic in list(instance, "NetworkInterfaces") {
            own.read(vnic);
            own.vnics.insert(group_ids(vnic));
        }
    }
    for vnic in &found.vnics {
        let owner = match str(&vnic["Attachment"], "InstanceId") {
            "" => str(vnic, "NetworkInterfaceId").to_owned(),
            id => id.to_owned(),
        };
        let own = instances.entry(owner).or_default();
        own.read(vnic);
        own.vnics.insert(group_ids(vnic));
    }
    for (name, own) in instances {
        if own.vnics.len() > 1 {
            let what = "its interfaces have different groups: here all of them hold for each";
            draft.note(Effect::Opens, &format!("instance {name}"), what);
        }
        let addresses = own.addresses.iter().filter_map(|text| text.parse().ok());
        draft.guest(name, own.labels, addresses.collect());
    }
}

/// The groups of an instance or of an interface.
fn group_ids(value: &Value) -> BTreeSet<String> {
    let groups = list(value, "SecurityGroups")
        .iter()
        .chain(list(value, "Groups"));
    groups
        .map(|group| str(group, "GroupId").to_owned())
        .collect()
}

impl Instance {
    fn read(&mut self, value: &Value) {
        for id in group_ids(value) {
            self.labels.insert(label("sg", &id), YES.into());
        }
        let mut add = |text: &str| self.addresses.push(text.to_owned());
        add(str(value, "PrivateIpAddress"));
        for one in list(value, "PrivateIpAddresses") {
            add(str(one, "PrivateIpAddress"));
        }
        for one in list(value, "Ipv6Addresses") {
            add(str(one, "Ipv6Address"));
        }
    }
}

fn group_rules(draft: &mut Draft, group: &Value, lists: &BTreeMap<String, Vec<IpNet>>) {
    let id = str(group, "GroupId");
    let place = format!("security group {id} {}", str(group, "GroupName"));
    let own = draft.has(&label("sg", id), YES);
    for (field, at) in [
        ("IpPermissions", "ingress"),
        ("IpPermissionsEgress", "egress"),
    ] {
        for (index, rule) in list(group, field).iter().enumerate() {
            let (peers, comment) = aws_peers(draft, rule, (&place, lists));
            let service = aws_ports(draft, rule, &place);
            let [from, to] = match at {
                "ingress" => [peers, own.clone()],
                _ => [own.clone(), peers],
            };
            draft.rule(Rule {
                name: format!("{id}.{at}-{}", index + 1),
                action: "allow",
                from,
                to,
                service,
                at,
                comment,
                ..Rule::default()
            });
        }
    }
}

fn aws_peers(
    draft: &mut Draft,
    rule: &Value,
    (place, lists): (&str, &BTreeMap<String, Vec<IpNet>>),
) -> (String, String) {
    let mut comments = BTreeSet::new();
    let mut nets = Vec::new();
    for (field, key) in [("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")] {
        for range in list(rule, field) {
            comments.insert(str(range, "Description").to_owned());
            match prefix(str(range, key)) {
                Some(net) => nets.push(net),
                None => {
                    let text = scalar(&range[key]);
                    let what = match text.contains('{') {
                        true => format!("{text} is not answered by the template: left out"),
                        false => format!("{text:?} is no prefix, and is left out"),
                    };
                    draft.note(Effect::Closes, place, what);
                }
            }
        }
    }
    for one in list(rule, "PrefixListIds") {
        comments.insert(str(one, "Description").to_owned());
        let id = str(one, "PrefixListId");
        match lists.get(id) {
            Some(own) => nets.extend(own),
            None => {
                let what = format!("the prefix list {id} is not in these files");
                draft.note(Effect::Closes, place, what);
            }
        }
    }
    let mut parts = Vec::new();
    if !nets.is_empty() {
        parts.push(draft.addresses("", &nets));
    }
    for pair in list(rule, "UserIdGroupPairs") {
        comments.insert(str(pair, "Description").to_owned());
        let id = str(pair, "GroupId");
        if id.starts_with('{') {
            let what = format!("the group {id} is not answered by the template: nobody is in it");
            draft.note(Effect::Closes, place, what);
        }
        parts.push(draft.has(&label("sg", id), YES));
    }
    comments.remove("");
    let comment = comments.into_iter().collect::<Vec<_>>().join("; ");
    (either(&parts), comment)
}

fn aws_ports(draft: &mut Draft, rule: &Value, place: &str) -> Vec<PortRange> {
    // Templates write numbers as texts too. What is there and is no number is no port at all.
    let number = |field: &str| match scalar(&rule[field]).as_str() {
        "" => -1,
        text => text.parse::<i64>().unwrap_or(i64::MAX),
    };
    let (from, to) = (number("FromPort"), number("ToPort"));
    let name = scalar(&rule["IpProtocol"]);
    let protocol = match name.as_str() {
        "-1" | "all" => return every_port(),
        "tcp" | "6" => Protocol::Tcp,
        "udp" | "17" => Protocol::Udp,
        "icmp" | "1" => return icmp(Protocol::Icmp, from, to),
        "icmpv6" | "58" => return icmp(Protocol::Icmpv6, from, to),
        other => match other
            .parse::<u8>()
            .map(|number| (number, Protocol::from_ip(number)))
        {
            Ok((number, Protocol::Other)) => return vec![numbered(number)],
            Ok((_, class)) => class,
            Err(_) => {
                draft.note(
                    Effect::Closes,
                    place,
                    format!("the protocol {other:?} is not known"),
                );
                return Vec::new();
            }
        },
    };
    match (u16::try_from(from), u16::try_from(to)) {
        (Ok(first), Ok(last)) if first <= last => vec![PortRange {
            protocol,
            first,
            last,
        }],
        _ if from == -1 && to == -1 => vec![PortRange::all(protocol)],
        _ => {
            let [from, to] = ["FromPort", "ToPort"].map(|field| scalar(&rule[field]));
            let what = format!("the ports {from} to {to} are no range; the rule is left out");
            draft.note(Effect::Closes, place, what);
            Vec::new()
        }
    }
}

fn icmp(protocol: Protocol, kind: i64, code: i64) -> Vec<PortRange> {
    let byte = |number: i64| u8::try_from(number).ok();
    let (first, last) = match (byte(kind), byte(code)) {
        (None, _) if kind == -1 => return vec![PortRange::all(protocol)],
        (None, _) => return Vec::new(),
        (Some(_), None) if code != -1 => return Vec::new(),
        (Some(kind), Some(code)) => (
            Protocol::icmp_port(kind, code),
            Protocol::icmp_port(kind, code),
        ),
        (Some(kind), None) => (
            Protocol::icmp_port(kind, 0),
            Protocol::icmp_port(kind, u8::MAX),
        ),
    };
    vec![PortRange {
        protocol,
        first,
        last,
    }]
}
