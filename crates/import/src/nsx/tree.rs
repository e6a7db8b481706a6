//! What the manager's API prints, brought into one form: `domains` with groups and security
//! policies, `services`, `segments`, `virtual_machines`. It prints trees of `children`, as the
//! hierarchical API does, or lists of `results`, each in a file of its own.

use crate::value::objects;
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
}

/// One configuration of what the API printed; nothing if none of it is of the policy API.
pub(super) fn gathered<'a>(values: impl Iterator<Item = &'a Value>) -> Option<Value> {
    let mut found = Found::default();
    for value in values {
        objects(value, &mut |value, fields| found.object(value, fields));
    }
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
            "gateway_policies": found.gateway,
        }}],
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
        let list = match fields.get("resource_type").and_then(Value::as_str) {
            Some("Group") => &mut self.groups,
            Some("SecurityPolicy") => {
                let mut policy = value.clone();
                for rule in children(value, "Rule") {
                    push(&mut policy, "rules", rule);
                }
                self.policies.push(policy);
                return true;
            }
            Some("GatewayPolicy") => &mut self.gateway,
            Some("Service") => &mut self.services,
            Some("Segment") => {
                self.ports.extend(children(value, "SegmentPort"));
                &mut self.segments
            }
            Some("SegmentPort") => &mut self.ports,
            Some("VirtualMachine") => &mut self.machines,
            Some("VirtualNetworkInterface") => &mut self.vnics,
            _ => return false,
        };
        list.push(value.clone());
        true
    }
}

/// What `ChildRule` and the like hold, each under its own name.
fn children(value: &Value, name: &str) -> Vec<Value> {
    let children = value["children"].as_array().into_iter().flatten();
    let inner = children.map(|child| &child[name]);
    inner.filter(|inner| inner.is_object()).cloned().collect()
}
