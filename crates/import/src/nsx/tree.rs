//! What the manager's API prints, brought into one form: `domains` with groups and security
//! policies, `services`, `segments`, `virtual_machines`. It prints trees of `children`, as the
//! hierarchical API does, or lists of `results`, each in a file of its own.

use crate::value::{objects, scalar, str};
use serde_json::{Map, Value, json};

/// Objects by what they are.
#[derive(Debug, Default)]
struct Found {
    groups: Vec<Value>,
    policies: Vec<Value>,
    services: Vec<Value>,
    segments: Vec<Value>,
    ports: Vec<Value>,
    machines: Vec<Value>,
    vnics: Vec<Value>,
    gateway: Vec<Value>,
    /// Rules that are printed without their policies.
    rules: Vec<Value>,
    /// Paths of groups to which no rule applies.
    excluded: Vec<Value>,
    intrusion: Vec<Value>,
}

/// One configuration of what the API printed; nothing if none of it is of the policy API.
pub(super) fn gathered<'a>(values: impl Iterator<Item = &'a Value>) -> Option<Value> {
    let mut found = Found::default();
    for value in values {
        objects(value, &mut |value, fields| found.object(value, fields));
    }
    found.join_rules();
    if found.groups.is_empty() && found.policies.is_empty() {
        return None;
    }
    for port in &found.ports {
        let parent = &port["parent_path"];
        let of = found.segments.iter_mut().find(|one| &one["path"] == parent);
        if let Some(segment) = of {
            push(segment, "segment_ports", port.clone());
        }
    }
    Some(json!({
        "domains": [{"resources": {
            "groups": found.groups, "security_policies": found.policies,
            "gateway_policies": found.gateway, "intrusion_policies": found.intrusion,
        }}],
        "excluded": found.excluded,
        "services": found.services, "segments": found.segments,
        "virtual_machines": found.machines, "virtual_network_interface": found.vnics,
    }))
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object[field].as_array_mut() {
        Some(items) => items.push(item),
        None => object[field] = json!([item]),
    }
}

impl Found {
    /// Takes an object, if it is one of ours.
    fn object(&mut self, value: &Value, fields: &Map<String, Value>) -> bool {
        let kind = fields.get("resource_type").and_then(Value::as_str);
        let Some(kind) = kind.filter(|kind| !kind.starts_with("Child")) else {
            return false;
        };
        // What a tree of objects takes away, and what holds it, is not there.
        if truth(value, "marked_for_delete") {
            return true;
        }
        let mut one = value.clone();
        let list = match kind {
            "Group" => {
                name(&mut one, "/infra/domains/default/groups");
                &mut self.groups
            }
            "SecurityPolicy" => {
                name(&mut one, "/infra/domains/default/security-policies");
                for rule in children(value, "Rule") {
                    push(&mut one, "rules", rule);
                }
                &mut self.policies
            }
            "Rule" => {
                name(&mut one, "");
                &mut self.rules
            }
            "PolicyExcludeList" => {
                let own = value["members"].as_array().into_iter().flatten();
                self.excluded.extend(own.cloned());
                return true;
            }
            "GatewayPolicy" => &mut self.gateway,
            "IdsSecurityPolicy" | "IdsGatewayPolicy" => &mut self.intrusion,
            "Service" => {
                name(&mut one, "/infra/services");
                for entry in children(value, "ServiceEntry") {
                    push(&mut one, "service_entries", entry);
                }
                &mut self.services
            }
            "Segment" => {
                name(&mut one, "/infra/segments");
                for mut port in children(value, "SegmentPort") {
                    port["parent_path"] = one["path"].clone();
                    self.ports.push(port);
                }
                &mut self.segments
            }
            "SegmentPort" => &mut self.ports,
            "VirtualMachine" => &mut self.machines,
            "VirtualNetworkInterface" => &mut self.vnics,
            _ => return false,
        };
        list.push(one);
        true
    }

    /// Lists of policies come without their rules, which are lists of their own.
    fn join_rules(&mut self) {
        for rule in std::mem::take(&mut self.rules) {
            let parent = str(&rule, "parent_path");
            let parent = match (parent, str(&rule, "path").rsplit_once("/rules/")) {
                ("", Some((parent, _))) => parent,
                (parent, _) => parent,
            };
            let mut own = self.policies.iter_mut();
            match own.find(|policy| str(policy, "path") == parent) {
                Some(policy) => push(policy, "rules", rule),
                None => {
                    let name = parent.rsplit('/').next().unwrap_or(parent);
                    self.policies.push(json!({
                        "path": parent, "display_name": name, "rules": [rule],
                        "missing": true,
                    }));
                }
            }
        }
    }
}

/// What is sent to the manager has an id where what it prints has a path; the id is the name then.
fn name(one: &mut Value, folder: &str) {
    let id = str(one, "id").to_owned();
    if id.is_empty() {
        return;
    }
    if str(one, "path").is_empty() && !folder.is_empty() {
        one["path"] = format!("{folder}/{id}").into();
    }
    if str(one, "display_name").is_empty() {
        one["display_name"] = id.into();
    }
}

/// A truth, which may be written as a text.
pub(super) fn truth(value: &Value, field: &str) -> bool {
    scalar(&value[field]).eq_ignore_ascii_case("true")
}

/// What `ChildRule` and the like hold, each under its own name.
fn children(value: &Value, name: &str) -> Vec<Value> {
    let children = value["children"].as_array().into_iter().flatten();
    let inner = children.map(|child| &child[name]);
    let inner = inner.filter(|inner| inner.is_object() && !truth(inner, "marked_for_delete"));
    inner.cloned().collect()
}
