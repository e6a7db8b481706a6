//! Security groups in Terraform's state and plans, in the form in which AWS itself prints them.

use crate::value::{list, scalar, str};
use serde_json::{Value, json};

/// The resources of a state or plan, as AWS would print them. `None` if it is none.
pub(crate) fn resources(value: &Value) -> Option<Vec<Value>> {
    if str(value, "terraform_version").is_empty() && value["format_version"].is_null() {
        return None;
    }
    let mut found = Vec::new();
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
    Some(found)
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
