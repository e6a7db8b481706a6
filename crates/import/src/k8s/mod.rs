//! Kubernetes: NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy and
//! ClusterNetworkPolicy, with pods and workloads as guests.
//!
//! Three ordered tiers, in the order of the API: `admin` (first match by priority, `pass` goes on),
//! `network-policies` (what allows, and then a denial for each pod that a policy selects), and
//! `default` (the baseline policies, and then everything). Each rule speaks at one end only, since
//! there egress and ingress are decided apart.

mod admin;
mod estate;
mod network;
mod select;

use crate::draft::{Draft, Rule, every_port};
use crate::value::{list, str, yaml};
use crate::{Effect, ImportError, Source};
use serde_json::Value;

/// Kinds that say nothing about who may talk with whom inside the pod network.
const QUIET: [&str; 18] = [
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "StorageClass",
    "CustomResourceDefinition",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "Endpoints",
    "Event",
    "Node",
    "ResourceQuota",
    "LimitRange",
];

/// An object and where it stands.
#[derive(Debug, Clone)]
struct Object {
    value: Value,
    kind: String,
    namespace: String,
    name: String,
    place: String,
}

pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut objects = Vec::new();
    let ends = [".yaml", ".yml", ".json"];
    for source in sources {
        // A directory of manifests holds other files too.
        if sources.len() > 1 && !ends.iter().any(|end| source.path.ends_with(end)) {
            draft.note(
                Effect::None,
                &source.path,
                "neither YAML nor JSON, and is not read",
            );
            continue;
        }
        for value in yaml(source)? {
            collect(value, &source.path, &mut objects);
        }
    }
    let is = |kinds: &'static [&'static str]| {
        move |object: &&Object| kinds.contains(&object.kind.as_str())
    };
    let policies: Vec<Object> = objects
        .iter()
        .filter(is(&["NetworkPolicy"]))
        .cloned()
        .collect();
    let admin: Vec<Object> = objects
        .iter()
        .filter(is(&[
            "AdminNetworkPolicy",
            "BaselineAdminNetworkPolicy",
            "ClusterNetworkPolicy",
        ]))
        .cloned()
        .collect();
    let cluster = estate::read(&mut draft, &objects);
    if policies.is_empty() && admin.is_empty() && draft.guests.is_empty() {
        return Err(ImportError::Nothing {
            what: "network policies and pods",
        });
    }
    others(&mut draft, &objects);
    draft.tier("admin");
    admin::rules(&mut draft, &cluster, &admin, admin::Level::Admin);
    draft.tier("network-policies");
    network::rules(&mut draft, &cluster, &policies);
    draft.tier("default");
    admin::rules(&mut draft, &cluster, &admin, admin::Level::Baseline);
    // A pod that nothing selects may talk with all.
    draft.rule(Rule {
        name: "open".into(),
        action: "allow",
        from: "any".into(),
        to: "any".into(),
        service: every_port(),
        comment: "Kubernetes allows what no policy selects".into(),
        ..Rule::default()
    });
    Ok(draft)
}

/// Lists are taken apart.
fn collect(value: Value, path: &str, objects: &mut Vec<Object>) {
    let kind = str(&value, "kind").to_owned();
    if kind.ends_with("List") && value["items"].is_array() {
        let item = kind.trim_end_matches("List").to_owned();
        for mut one in list(&value, "items").to_vec() {
            if one["kind"].is_null() && !item.is_empty() {
                one["kind"] = item.clone().into();
            }
            collect(one, path, objects);
        }
        return;
    }
    if kind.is_empty() {
        return;
    }
    let meta = &value["metadata"];
    let name = str(meta, "name").to_owned();
    let namespace = match str(meta, "namespace") {
        "" => "default",
        given => given,
    }
    .to_owned();
    let place = format!("{path}: {kind} {namespace}/{name}");
    objects.push(Object {
        kind,
        namespace,
        name,
        place,
        value,
    });
}

/// What else stands there: a service or an ingress opens nothing that the policies close.
fn others(draft: &mut Draft, objects: &[Object]) {
    for object in objects {
        let known = estate::KINDS.contains(&object.kind.as_str())
            || object.kind.ends_with("NetworkPolicy")
            || QUIET.contains(&object.kind.as_str());
        match object.kind.as_str() {
            "Service" | "Ingress" | "Route" => {
                let what = "not imported: it forwards, and allows nothing that the policies deny";
                draft.note(Effect::None, &object.place, what);
            }
            _ if !known => {
                let what = "not imported: this kind is not known here";
                draft.note(Effect::None, &object.place, what);
            }
            _ => {}
        }
    }
}
