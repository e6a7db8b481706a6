//! Security groups in CloudFormation templates, in the form in which AWS itself prints them.
//! References and functions are followed as far as the template says what they are.

use crate::Effect;
use crate::aws::joined;
use crate::aws_function::Template;
use crate::draft::Draft;
use crate::value::{items, scalar, str};
use serde_json::{Value, json};

/// Fields in which resources say which groups they are in.
const MEMBERS: [&str; 4] = [
    "SecurityGroupIds",
    "SecurityGroups",
    "VPCSecurityGroups",
    "VpcSecurityGroupIds",
];

/// What is read besides what has such a field.
const READ: [&str; 7] = [
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::Instance",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::PrefixList",
    "AWS::EC2::LaunchTemplate",
];

/// Whether a value is a template.
pub(crate) fn is(value: &Value) -> bool {
    let typed = |one: &Value| str(one, "Type").contains("::");
    let resources = value["Resources"].as_object();
    resources.is_some_and(|all| all.values().any(typed))
}

/// The resources of a template, as AWS would print them. `stack` tells apart what several templates
/// call by one name.
pub(crate) fn resources(value: &Value, stack: &str, draft: &mut Draft) -> Vec<Value> {
    let own = value["Resources"].as_object();
    let mut reader = Stack {
        template: Template::new(value, stack, draft),
    };
    let own = own.into_iter().flatten();
    own.flat_map(|(name, one)| reader.resource(name, one))
        .collect()
}

struct Stack<'a> {
    template: Template<'a>,
}

impl Stack<'_> {
    fn resource(&mut self, name: &str, one: &Value) -> Vec<Value> {
        if let Some(word) = name.strip_prefix("Fn::ForEach::") {
            let what = format!("the loop {word} is not written out: what it makes is left out");
            self.template.note(name, Effect::Opens, what);
            return Vec::new();
        }
        let kind = str(one, "Type");
        if kind == "AWS::EC2::NetworkAclEntry" {
            self.template
                .note(name, Effect::Opens, crate::aws::NO_ACLS.to_owned());
            return Vec::new();
        }
        let read = READ.contains(&kind) || !members(&one["Properties"]).is_empty();
        if !read || !self.template.made(name, &one["Condition"]) {
            return Vec::new();
        }
        let own = self.template.answer(name, &one["Properties"]);
        match kind {
            "AWS::EC2::SecurityGroup" => vec![self.group(name, &own)],
            "AWS::EC2::SecurityGroupIngress" | "AWS::EC2::SecurityGroupEgress" => {
                vec![self.apart(name, &own, kind.ends_with("Egress"))]
            }
            "AWS::EC2::Instance" => vec![self.instance(name, &own)],
            "AWS::EC2::NetworkInterface" => {
                let mut vnic = vnic(&own);
                vnic["NetworkInterfaceId"] = self.template.own(name).into();
                vec![vnic]
            }
            "AWS::EC2::PrefixList" => {
                vec![json!({"PrefixListId": self.template.own(name), "Entries": own["Entries"]})]
            }
            // Machines are made of it: one guest stands for all of them.
            "AWS::EC2::LaunchTemplate" => {
                vec![self.instance(name, &own["LaunchTemplateData"])]
            }
            _ => self.member(name, &own).into_iter().collect(),
        }
    }

    fn apart(&self, name: &str, own: &Value, egress: bool) -> Value {
        let mut rule = rule(own);
        rule["SecurityGroupRuleId"] = self.template.own(name).into();
        rule["IsEgress"] = egress.into();
        let id = match &own["GroupId"] {
            Value::Null => &own["GroupName"],
            id => id,
        };
        rule["GroupId"] = scalar(id).into();
        rule
    }

    fn instance(&self, name: &str, own: &Value) -> Value {
        let vnics: Vec<Value> = items(&own["NetworkInterfaces"]).iter().map(vnic).collect();
        let ids = fields(own, &["SecurityGroupIds", "SecurityGroups"]);
        json!({
            "InstanceId": self.template.own(name), "NetworkInterfaces": vnics,
            "PrivateIpAddress": own["PrivateIpAddress"], "SecurityGroups": groups(ids),
        })
    }

    /// Whatever else has groups: a balancer, a database, a function.
    fn member(&self, name: &str, own: &Value) -> Option<Value> {
        let groups = groups(members(own));
        let some = groups.as_array().is_some_and(|all| !all.is_empty());
        some.then(|| json!({"InstanceId": self.template.own(name), "SecurityGroups": groups}))
    }

    fn group(&self, name: &str, own: &Value) -> Value {
        let rules = |field: &str| -> Vec<Value> {
            let rules = items(&own[field]);
            rules.iter().map(|one| joined(&rule(one))).collect()
        };
        let (ingress, mut egress) = (rules("SecurityGroupIngress"), rules("SecurityGroupEgress"));
        if egress.is_empty() {
            // A group that says nothing about what leaves lets everything leave.
            egress.push(json!({
                "IpProtocol": "-1",
                "IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            }));
        }
        json!({
            "GroupId": self.template.own(name), "GroupName": str(own, "GroupName"),
            "IpPermissions": ingress, "IpPermissionsEgress": egress,
        })
    }
}

/// A rule as `describe-security-group-rules` prints it.
fn rule(own: &Value) -> Value {
    let first = |fields: &[&str]| {
        let given = fields.iter().map(|field| &own[*field]);
        let mut given = given.filter(|value| !value.is_null());
        given.next().cloned().unwrap_or_default()
    };
    let peer = first(&[
        "SourceSecurityGroupId",
        "DestinationSecurityGroupId",
        "SourceSecurityGroupName",
    ]);
    let mut rule = json!({
        "IpProtocol": own["IpProtocol"], "Description": own["Description"],
        "FromPort": own["FromPort"], "ToPort": own["ToPort"],
        "CidrIpv4": own["CidrIp"], "CidrIpv6": own["CidrIpv6"],
        "PrefixListId": first(&["SourcePrefixListId", "DestinationPrefixListId"]),
    });
    if !peer.is_null() {
        rule["ReferencedGroupInfo"] = json!({"GroupId": scalar(&peer)});
    }
    rule
}

fn vnic(own: &Value) -> Value {
    json!({
        "Groups": groups(fields(own, &["GroupSet", "Groups"])),
        "PrivateIpAddress": own["PrivateIpAddress"],
        "PrivateIpAddresses": own["PrivateIpAddresses"],
    })
}

fn fields(own: &Value, names: &[&str]) -> Vec<Value> {
    names.iter().flat_map(|name| items(&own[*name])).collect()
}

fn groups(ids: Vec<Value>) -> Value {
    let ids = ids.iter().filter(|id| !id.is_null());
    ids.map(|id| json!({"GroupId": scalar(id)})).collect()
}

/// The values of all fields that name groups.
fn members(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list.iter().flat_map(members).collect(),
        Value::Object(all) => {
            let inner = all
                .iter()
                .map(|(key, one)| match MEMBERS.contains(&key.as_str()) {
                    true => items(one),
                    false => members(one),
                });
            inner.flatten().collect()
        }
        _ => Vec::new(),
    }
}
