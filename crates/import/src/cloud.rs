//! Security groups of AWS and Azure. A group becomes a label; its rules speak at the end of its
//! members only.

use crate::draft::{Draft, Rule, all, either, every_port, numbered, prefix};
use crate::names::label;
use crate::value::{json_values, list, scalar, str};
use crate::{Effect, ImportError, Source};
use lictor_policy::{Labels, PortRange};
use lictor_types::Protocol;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const YES: &str = "yes";

/// Values of a field of all files, whether the file is the list or has it.
fn gathered(values: &[(String, Value)], field: &str) -> Vec<Value> {
    values
        .iter()
        .flat_map(|(_, value)| list(value, field))
        .cloned()
        .collect()
}

fn read(sources: &[Source]) -> Result<Vec<(String, Value)>, ImportError> {
    let mut found = Vec::new();
    for source in sources {
        let values = json_values(source)?.into_iter();
        found.extend(values.map(|value| (source.path.clone(), value)));
    }
    Ok(found)
}

/// What `aws ec2 describe-security-groups`, `describe-instances` and
/// `describe-network-interfaces` print.
pub(crate) fn aws(sources: &[Source]) -> Result<Draft, ImportError> {
    let values = read(sources)?;
    let groups = gathered(&values, "SecurityGroups");
    if groups.is_empty() {
        return Err(ImportError::Nothing {
            what: "SecurityGroups",
        });
    }
    let mut draft = Draft::default();
    let mut instances: BTreeMap<String, (Labels, Vec<String>)> = BTreeMap::new();
    let reservations = gathered(&values, "Reservations");
    for instance in reservations.iter().flat_map(|one| list(one, "Instances")) {
        aws_instance(instance, str(instance, "InstanceId"), &mut instances);
        for vnic in list(instance, "NetworkInterfaces") {
            aws_instance(vnic, str(instance, "InstanceId"), &mut instances);
        }
    }
    for vnic in gathered(&values, "NetworkInterfaces") {
        let owner = match str(&vnic["Attachment"], "InstanceId") {
            "" => str(&vnic, "NetworkInterfaceId").to_owned(),
            id => id.to_owned(),
        };
        aws_instance(&vnic, &owner, &mut instances);
    }
    for (name, (labels, addresses)) in instances {
        let addresses = addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        draft.guest(name, labels, addresses);
    }
    draft.tier("security-groups");
    for group in &groups {
        let id = str(group, "GroupId");
        let place = format!("security group {id} {}", str(group, "GroupName"));
        let own = draft.has(&label("sg", id), YES);
        for (field, at) in [
            ("IpPermissions", "ingress"),
            ("IpPermissionsEgress", "egress"),
        ] {
            for (index, rule) in list(group, field).iter().enumerate() {
                let (peers, comment) = aws_peers(&mut draft, rule, &place);
                let service = aws_ports(&mut draft, rule, &place);
                let ends = if at == "ingress" {
                    [peers, own.clone()]
                } else {
                    [own.clone(), peers]
                };
                let [from, to] = ends;
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
    Ok(draft)
}

fn aws_instance(
    value: &Value,
    owner: &str,
    instances: &mut BTreeMap<String, (Labels, Vec<String>)>,
) {
    let (labels, addresses) = instances.entry(owner.to_owned()).or_default();
    for group in list(value, "SecurityGroups")
        .iter()
        .chain(list(value, "Groups"))
    {
        labels.insert(label("sg", str(group, "GroupId")), YES.into());
    }
    addresses.push(str(value, "PrivateIpAddress").to_owned());
    for one in list(value, "PrivateIpAddresses") {
        addresses.push(str(one, "PrivateIpAddress").to_owned());
    }
    for one in list(value, "Ipv6Addresses") {
        addresses.push(str(one, "Ipv6Address").to_owned());
    }
}

fn aws_peers(draft: &mut Draft, rule: &Value, place: &str) -> (String, String) {
    let mut comments = BTreeSet::new();
    let mut nets = Vec::new();
    for (field, key) in [("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")] {
        for range in list(rule, field) {
            comments.insert(str(range, "Description").to_owned());
            match prefix(str(range, key)) {
                Some(net) => nets.push(net),
                None => draft.note(
                    Effect::Closes,
                    place,
                    "a range that is no prefix is left out",
                ),
            }
        }
    }
    let mut parts = Vec::new();
    if !nets.is_empty() {
        parts.push(draft.addresses("", &nets));
    }
    for pair in list(rule, "UserIdGroupPairs") {
        comments.insert(str(pair, "Description").to_owned());
        parts.push(draft.has(&label("sg", str(pair, "GroupId")), YES));
    }
    for one in list(rule, "PrefixListIds") {
        let what = format!(
            "the prefix list {} is not in these files",
            str(one, "PrefixListId")
        );
        draft.note(Effect::Closes, place, what);
    }
    comments.remove("");
    let comment = comments.into_iter().collect::<Vec<_>>().join("; ");
    (either(&parts), comment)
}

fn aws_ports(draft: &mut Draft, rule: &Value, place: &str) -> Vec<PortRange> {
    let number = |field: &str| rule[field].as_i64().unwrap_or(-1);
    let (from, to) = (number("FromPort"), number("ToPort"));
    let name = scalar(&rule["IpProtocol"]);
    let protocol = match name.as_str() {
        "-1" => return every_port(),
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
            let what = format!("the ports {from} to {to} are no range; the rule is left out");
            draft.note(Effect::Closes, place, what);
            Vec::new()
        }
    }
}

fn icmp(protocol: Protocol, kind: i64, code: i64) -> Vec<PortRange> {
    let byte = |number: i64| u8::try_from(number).ok();
    let (first, last) = match (byte(kind), byte(code)) {
        (None, _) => return vec![PortRange::all(protocol)],
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

/// What `az network nsg list` and `az network nic list` print.
pub(crate) fn azure(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut groups = Vec::new();
    let mut nics = Vec::new();
    for (_, value) in read(sources)? {
        let items = match (&value, value["value"].as_array()) {
            (Value::Array(items), _) => items.clone(),
            (_, Some(items)) => items.clone(),
            _ => vec![value],
        };
        for item in items {
            let own = |field: &str| !property(&item, field).is_null();
            if own("securityRules") {
                groups.push(item);
            } else if own("ipConfigurations") {
                nics.push(item);
            }
        }
    }
    if groups.is_empty() {
        return Err(ImportError::Nothing {
            what: "network security groups",
        });
    }
    let mut draft = Draft::default();
    azure_guests(&mut draft, &groups, &nics);
    draft.tier("security-groups");
    for group in &groups {
        azure_group(&mut draft, group);
    }
    Ok(draft)
}

/// Fields are flat as the command line prints them, and under `properties` as the API does.
fn property<'a>(value: &'a Value, field: &str) -> &'a Value {
    match &value[field] {
        Value::Null => &value["properties"][field],
        found => found,
    }
}

/// The last part of a resource's id.
fn short(value: &Value) -> String {
    let id = str(value, "id");
    id.rsplit('/').next().unwrap_or(id).to_owned()
}

fn azure_guests(draft: &mut Draft, groups: &[Value], nics: &[Value]) {
    for nic in nics {
        let mut labels = Labels::new();
        let own = short(property(nic, "networkSecurityGroup"));
        if !own.is_empty() {
            labels.insert(label("nsg", &own), YES.into());
        }
        let mut addresses = Vec::new();
        let empty = Vec::new();
        for config in property(nic, "ipConfigurations")
            .as_array()
            .unwrap_or(&empty)
        {
            let address = property(config, "privateIPAddress").as_str();
            addresses.extend(address.and_then(|text| text.parse::<IpAddr>().ok()));
            let asgs = property(config, "applicationSecurityGroups").as_array();
            for asg in asgs.into_iter().flatten() {
                labels.insert(label("asg", &short(asg)), YES.into());
            }
            let subnet = str(property(config, "subnet"), "id");
            let of_subnet = groups.iter().filter(|group| {
                let subnets = property(group, "subnets").as_array();
                subnets
                    .into_iter()
                    .flatten()
                    .any(|one| !subnet.is_empty() && str(one, "id") == subnet)
            });
            for group in of_subnet {
                labels.insert(label("nsg", str(group, "name")), YES.into());
            }
        }
        let name = match short(property(nic, "virtualMachine")) {
            machine if machine.is_empty() => str(nic, "name").to_owned(),
            machine => machine,
        };
        if labels
            .keys()
            .filter(|name| name.starts_with("nsg."))
            .count()
            > 1
        {
            let what = "two groups, of the interface and of its subnet: there both must allow, \
                        here the first that says something decides";
            draft.note(Effect::Opens, &name, what);
        }
        draft.guest(name, labels, addresses);
    }
}

fn azure_group(draft: &mut Draft, group: &Value) {
    let name = str(group, "name");
    let own = draft.has(&label("nsg", name), YES);
    let empty = Vec::new();
    let given = |field: &str| property(group, field).as_array().unwrap_or(&empty).clone();
    let mut rules = given("securityRules");
    let defaults = given("defaultSecurityRules");
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
    rules.extend(defaults);
    rules.sort_by_key(|rule| property(rule, "priority").as_i64().unwrap_or(i64::MAX));
    for rule in &rules {
        let place = format!("network security group {name}: rule {}", str(rule, "name"));
        let text = |field: &str| scalar(property(rule, field));
        let allows = text("access").eq_ignore_ascii_case("allow");
        let effect = if allows {
            Effect::Closes
        } else {
            Effect::Opens
        };
        let inbound = text("direction").eq_ignore_ascii_case("inbound");
        let from = azure_ends(draft, rule, "source", (&place, effect));
        let to = azure_ends(draft, rule, "destination", (&place, effect));
        let sources = both(rule, "sourcePortRange");
        if sources.iter().any(|port| port != "*") {
            let what = "source ports can't be said: the rule holds for any";
            draft.note(
                if allows {
                    Effect::Opens
                } else {
                    Effect::Closes
                },
                &place,
                what,
            );
        }
        let service = azure_ports(draft, rule, (&place, effect));
        let mut ends = [from, to];
        let side = usize::from(inbound);
        ends[side] = all(&[ends[side].clone(), own.clone()]);
        let [from, to] = ends;
        draft.rule(Rule {
            name: format!("{name}.{}", str(rule, "name")),
            action: if allows { "allow" } else { "deny" },
            from,
            to,
            service,
            at: if inbound { "ingress" } else { "egress" },
            comment: text("description"),
            ..Rule::default()
        });
    }
}

/// A field and its plural.
fn both(rule: &Value, field: &str) -> Vec<String> {
    let plural = if field.ends_with("Prefix") {
        format!("{field}es")
    } else {
        format!("{field}s")
    };
    let many = property(rule, &plural).as_array();
    let mut found: Vec<String> = many.into_iter().flatten().map(scalar).collect();
    let one = scalar(property(rule, field));
    if !one.is_empty() {
        found.push(one);
    }
    found
}

fn azure_ends(draft: &mut Draft, rule: &Value, side: &str, at: (&str, Effect)) -> String {
    let mut parts = Vec::new();
    let mut nets = Vec::new();
    for text in both(rule, &format!("{side}AddressPrefix")) {
        match text.as_str() {
            "*" | "Any" => parts.push("any".into()),
            "Internet" => parts.push("outside".into()),
            "VirtualNetwork" => {
                let what =
                    "VirtualNetwork is taken as all guests: peered networks are outside here";
                draft.note(Effect::None, at.0, what);
                parts.push("guests".into());
            }
            "AzureLoadBalancer" => nets.extend(prefix(AZURE_PROBE)),
            other => match prefix(other) {
                Some(net) => nets.push(net),
                None => {
                    let what = format!("the service tag {other:?} has no addresses in these files");
                    draft.note(at.1, at.0, what);
                }
            },
        }
    }
    if !nets.is_empty() {
        parts.push(draft.addresses("", &nets));
    }
    let groups = property(rule, &format!("{side}ApplicationSecurityGroups")).as_array();
    for group in groups.into_iter().flatten() {
        parts.push(draft.has(&label("asg", &short(group)), YES));
    }
    either(&parts)
}

fn azure_ports(draft: &mut Draft, rule: &Value, at: (&str, Effect)) -> Vec<PortRange> {
    let name = scalar(property(rule, "protocol")).to_lowercase();
    let protocols: &[Protocol] = match name.as_str() {
        "*" | "any" => &[Protocol::Tcp, Protocol::Udp],
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
    let ports = both(rule, "destinationPortRange");
    let every = ports.is_empty() || ports.iter().any(|port| port == "*");
    if every && protocols.len() > 1 {
        return every_port();
    }
    let mut ranges = Vec::new();
    for protocol in protocols.iter().copied() {
        if every {
            ranges.push(PortRange::all(protocol));
        }
        for text in ports.iter().filter(|port| *port != "*") {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if first <= last => {
                    ranges.push(PortRange {
                        protocol,
                        first,
                        last,
                    });
                }
                _ => draft.note(at.1, at.0, format!("{text:?} is no range of ports")),
            }
        }
    }
    ranges
}
