//! Security groups in CloudFormation templates and in Terraform's state and plans, in the form in
//! which AWS itself prints them.

use crate::Effect;
use crate::aws::joined;
use crate::draft::Draft;
use crate::value::{items, list, scalar, str};
use serde_json::{Map, Value, json};

/// The resources of a template, state or plan, as AWS would print them. `None` if it is none.
pub(crate) fn resources(value: &Value, draft: &mut Draft) -> Option<Vec<Value>> {
    let typed = |one: &Value| str(one, "Type").starts_with("AWS::");
    let template = value["Resources"].as_object();
    if let Some(resources) = template.filter(|all| all.values().any(typed)) {
        let template = Template { value, draft };
        return Some(template.read(resources));
    }
    let mut found = Vec::new();
    if !str(value, "terraform_version").is_empty() || !value["format_version"].is_null() {
        for root in [&value["values"], &value["planned_values"]] {
            module(&root["root_module"], &mut found);
        }
        for one in list(value, "resources") {
            for instance in list(one, "instances") {
                let name = format!("{}.{}", str(one, "type"), str(one, "name"));
                state(
                    str(one, "type"),
                    &instance["attributes"],
                    (&name, &mut found),
                );
            }
        }
        return Some(found);
    }
    None
}

/// A template, of which references within it are followed.
struct Template<'a> {
    value: &'a Value,
    draft: &'a mut Draft,
}

impl Template<'_> {
    fn read(mut self, resources: &Map<String, Value>) -> Vec<Value> {
        let mut found = Vec::new();
        for (name, one) in resources {
            let own = &one["Properties"];
            match str(one, "Type") {
                "AWS::EC2::SecurityGroup" => found.push(self.group(name, own)),
                kind @ ("AWS::EC2::SecurityGroupIngress" | "AWS::EC2::SecurityGroupEgress") => {
                    let mut rule = self.rule(name, own);
                    rule["SecurityGroupRuleId"] = name.as_str().into();
                    rule["IsEgress"] = kind.ends_with("Egress").into();
                    let id = match &own["GroupId"] {
                        Value::Null => &own["GroupName"],
                        id => id,
                    };
                    rule["GroupId"] = self.text(name, id).into();
                    found.push(rule);
                }
                "AWS::EC2::Instance" => {
                    let ids = ["SecurityGroupIds", "SecurityGroups"].into_iter();
                    let ids = ids.flat_map(|field| items(&own[field])).collect();
                    let vnics = list(own, "NetworkInterfaces").iter();
                    let vnics: Vec<Value> = vnics.map(|vnic| self.vnic(name, vnic)).collect();
                    let mut instance = json!({"InstanceId": name, "NetworkInterfaces": vnics});
                    instance["SecurityGroups"] = self.groups(name, ids);
                    instance["PrivateIpAddress"] = own["PrivateIpAddress"].clone();
                    found.push(instance);
                }
                "AWS::EC2::NetworkInterface" => {
                    let mut vnic = self.vnic(name, own);
                    vnic["NetworkInterfaceId"] = name.as_str().into();
                    found.push(vnic);
                }
                _ => {}
            }
        }
        found
    }

    fn group(&mut self, name: &str, own: &Value) -> Value {
        let mut rules = |field: &str| -> Vec<Value> {
            let rules = list(own, field).iter();
            rules.map(|rule| joined(&self.rule(name, rule))).collect()
        };
        let (ingress, mut egress) = (rules("SecurityGroupIngress"), rules("SecurityGroupEgress"));
        if own["SecurityGroupEgress"].is_null() {
            // A group that says nothing about what leaves lets everything leave.
            egress.push(json!({
                "IpProtocol": "-1",
                "IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            }));
        }
        let title = self.text(name, &own["GroupName"]);
        json!({
            "GroupId": name, "GroupName": title,
            "IpPermissions": ingress, "IpPermissionsEgress": egress,
        })
    }

    /// A rule as `describe-security-group-rules` prints it.
    fn rule(&mut self, name: &str, own: &Value) -> Value {
        let mut text = |fields: &[&str]| {
            let given = fields.iter().map(|field| &own[*field]);
            let given = given.into_iter().find(|value| !value.is_null());
            given.map_or(Value::Null, |value| self.text(name, value).into())
        };
        let peer = text(&[
            "SourceSecurityGroupId",
            "DestinationSecurityGroupId",
            "SourceSecurityGroupName",
        ]);
        let mut rule = json!({
            "IpProtocol": text(&["IpProtocol"]), "Description": text(&["Description"]),
            "FromPort": text(&["FromPort"]), "ToPort": text(&["ToPort"]),
            "CidrIpv4": text(&["CidrIp"]), "CidrIpv6": text(&["CidrIpv6"]),
            "PrefixListId": text(&["SourcePrefixListId", "DestinationPrefixListId"]),
        });
        if !peer.is_null() {
            rule["ReferencedGroupInfo"] = json!({"GroupId": peer});
        }
        rule
    }

    fn vnic(&mut self, name: &str, own: &Value) -> Value {
        let groups = self.groups(name, items(&own["GroupSet"]));
        json!({
            "Groups": groups,
            "PrivateIpAddress": own["PrivateIpAddress"],
            "PrivateIpAddresses": own["PrivateIpAddresses"],
        })
    }

    fn groups(&mut self, name: &str, ids: Vec<Value>) -> Value {
        let ids = ids.iter().map(|id| json!({"GroupId": self.text(name, id)}));
        ids.collect()
    }

    /// A value, or what it refers to: a resource by its name, a parameter by its default.
    fn text(&mut self, place: &str, value: &Value) -> String {
        if !value.is_object() {
            return scalar(value);
        }
        let of = match (&value["Ref"], &value["Fn::GetAtt"]) {
            (Value::String(name), _) => name.clone(),
            (_, Value::Array(path)) => path.first().map(scalar).unwrap_or_default(),
            (_, Value::String(path)) => path.split('.').next().unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        if !self.value["Resources"][&of].is_null() {
            return of;
        }
        let default = &self.value["Parameters"][&of]["Default"];
        if default.is_null() {
            let what = format!("{value} is not answered by the template, and is left out");
            self.draft
                .note(Effect::Closes, &format!("resource {place}"), what);
        }
        scalar(default)
    }
}

fn module(module: &Value, found: &mut Vec<Value>) {
    for one in list(module, "resources") {
        state(
            str(one, "type"),
            &one["values"],
            (str(one, "address"), found),
        );
    }
    for inner in list(module, "child_modules") {
        self::module(inner, found);
    }
}

/// A resource of Terraform's, of which a plan does not know every id: then it goes by its address.
fn state(kind: &str, own: &Value, (address, found): (&str, &mut Vec<Value>)) {
    let id = match str(own, "id") {
        "" => address,
        id => id,
    };
    let groups = |field: &str| -> Value {
        let ids = list(own, field).iter();
        ids.map(|id| json!({"GroupId": scalar(id)})).collect()
    };
    match kind {
        "aws_security_group" | "aws_default_security_group" => {
            let rules = |field: &str| -> Vec<Value> {
                let rules = list(own, field).iter();
                rules.map(|rule| permission(id, rule)).collect()
            };
            found.push(json!({
                "GroupId": id, "GroupName": str(own, "name"),
                "IpPermissions": rules("ingress"), "IpPermissionsEgress": rules("egress"),
            }));
        }
        "aws_security_group_rule" => {
            let of = str(own, "security_group_id");
            let field = match str(own, "type") {
                "egress" => "IpPermissionsEgress",
                _ => "IpPermissions",
            };
            found.push(json!({"GroupId": of, field: [permission(of, own)]}));
        }
        "aws_vpc_security_group_ingress_rule" | "aws_vpc_security_group_egress_rule" => {
            let mut rule = json!({
                "SecurityGroupRuleId": id, "GroupId": own["security_group_id"],
                "IsEgress": kind.contains("egress"), "IpProtocol": own["ip_protocol"],
                "FromPort": own["from_port"], "ToPort": own["to_port"],
                "CidrIpv4": own["cidr_ipv4"], "CidrIpv6": own["cidr_ipv6"],
                "PrefixListId": own["prefix_list_id"], "Description": own["description"],
            });
            if !own["referenced_security_group_id"].is_null() {
                let peer = &own["referenced_security_group_id"];
                rule["ReferencedGroupInfo"] = json!({"GroupId": peer});
            }
            found.push(rule);
        }
        "aws_instance" => found.push(json!({
            "InstanceId": id, "SecurityGroups": groups("vpc_security_group_ids"),
            "PrivateIpAddress": own["private_ip"],
        })),
        "aws_network_interface" => found.push(json!({
            "NetworkInterfaceId": id, "Groups": groups("security_groups"),
            "PrivateIpAddress": own["private_ip"],
        })),
        "aws_ec2_managed_prefix_list" => {
            let entries = list(own, "entry").iter();
            let entries: Vec<Value> = entries.map(|one| json!({"Cidr": one["cidr"]})).collect();
            found.push(json!({"PrefixListId": id, "Entries": entries}));
        }
        _ => {}
    }
}

/// A block `ingress` or `egress`, as AWS prints it.
fn permission(group: &str, rule: &Value) -> Value {
    let said = &rule["description"];
    let of = |field: &str, key: &str| -> Value {
        let items = list(rule, field).iter();
        items
            .map(|one| json!({key: one, "Description": said}))
            .collect()
    };
    let mut peers: Vec<Value> = list(rule, "security_groups").to_vec();
    let one = &rule["source_security_group_id"];
    peers.extend((!one.is_null()).then(|| one.clone()));
    peers.extend((rule["self"] == true).then(|| group.into()));
    let peers: Vec<Value> = peers.iter().map(|id| json!({"GroupId": id})).collect();
    json!({
        "IpProtocol": rule["protocol"], "FromPort": rule["from_port"], "ToPort": rule["to_port"],
        "IpRanges": of("cidr_blocks", "CidrIp"), "Ipv6Ranges": of("ipv6_cidr_blocks", "CidrIpv6"),
        "PrefixListIds": of("prefix_list_ids", "PrefixListId"), "UserIdGroupPairs": peers,
    })
}
