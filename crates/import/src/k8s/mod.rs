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
mod shape;

use crate::draft::{Draft, Rule, every_port};
use crate::value::{documents, list, str};
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

/// Kinds that are rules.
const POLICIES: [&str; 4] = [
    "NetworkPolicy",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "ClusterNetworkPolicy",
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

impl Object {
    /// Whether a policy is of one of Kubernetes' own APIs: Calico and others have kinds of the same
    /// name that say other things.
    fn is_of_kubernetes(&self) -> bool {
        let version = str(&self.value, "apiVersion");
        let group = version.split_once('/').map_or(version, |(group, _)| group);
        matches!(group, "" | "extensions") || group.ends_with("networking.k8s.io")
    }
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
        for value in documents(source)? {
            collect(value, &source.path, (&mut draft, &mut objects));
        }
    }
    let is = |kinds: &'static [&'static str]| {
        move |object: &&Object| kinds.contains(&object.kind.as_str())
    };
    objects.retain(|object| {
        let other = POLICIES.contains(&object.kind.as_str()) && !object.is_of_kubernetes();
        if other {
            let what = format!(
                "not imported: {} is another API; what it denies is not denied",
                str(&object.value, "apiVersion")
            );
            draft.note(Effect::Opens, &object.place, what);
        }
        !other
    });
    objects.iter().try_for_each(shape::check)?;
    let policies = objects.iter().filter(is(&POLICIES[..1]));
    let policies: Vec<Object> = policies.cloned().collect();
    let admin = objects.iter().filter(is(&POLICIES[1..]));
    let admin: Vec<Object> = admin.cloned().collect();
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
fn collect(value: Value, path: &str, into: (&mut Draft, &mut Vec<Object>)) {
    let (draft, objects) = into;
    if let Value::Array(items) = value {
        for one in items {
            collect(one, path, (draft, objects));
        }
        return;
    }
    let kind = str(&value, "kind").to_owned();
    // Readers in Go take the field in any case.
    let items = ["items", "Items"]
        .into_iter()
        .find(|field| value[field].is_array());
    if let Some(items) = items.filter(|_| kind.ends_with("List")) {
        let item = kind.trim_end_matches("List").to_owned();
        for mut one in list(&value, items).to_vec() {
            // What a typed list holds need not say what it is.
            for (field, given) in [
                ("kind", item.as_str()),
                ("apiVersion", str(&value, "apiVersion")),
            ] {
                if one.is_object() && one[field].is_null() && !item.is_empty() {
                    one[field] = given.into();
                }
            }
            collect(one, path, (draft, objects));
        }
        return;
    }
    if kind.is_empty() {
        // Between two lines of dashes may be nothing.
        if !value.is_null() {
            draft.note(
                Effect::None,
                path,
                "a document without a kind is not imported",
            );
        }
        return;
    }
    let meta = &value["metadata"];
    let name = match str(meta, "name") {
        "" => str(meta, "generateName"),
        given => given,
    }
    .to_owned();
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
            || POLICIES.contains(&object.kind.as_str())
            || QUIET.contains(&object.kind.as_str());
        match object.kind.as_str() {
            "Service" | "Ingress" | "Route" => {
                let what = "not imported: it forwards, and allows nothing that the policies deny";
                draft.note(Effect::None, &object.place, what);
            }
            // Cilium's, Calico's: rules that are not read here.
            kind if !known && kind.contains("NetworkPolicy") => {
                let what =
                    "not imported: this kind is not known here; what it denies is not denied";
                draft.note(Effect::Opens, &object.place, what);
            }
            _ if !known => {
                let what = "not imported: this kind is not known here";
                draft.note(Effect::None, &object.place, what);
            }
            _ => {}
        }
    }
}
