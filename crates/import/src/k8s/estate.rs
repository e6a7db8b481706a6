//! Pods and workloads as guests: one guest for all pods of a workload that no selector tells apart.

use super::Object;
use crate::Effect;
use crate::draft::Draft;
use crate::names::{label, word};
use crate::value::{list, pairs, scalar, str};
use lictor_policy::Labels;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Kinds that are read here.
pub(super) const KINDS: [&str; 12] = [
    "Namespace",
    "Pod",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "ReplicationController",
    "VirtualMachine",
    "VirtualMachineInstance",
    "DeploymentConfig",
];

/// The label with a pod's namespace.
pub(super) const NAMESPACE: &str = "namespace";
/// What the API server puts on every namespace.
pub(super) const NAMESPACE_KEY: &str = "kubernetes.io/metadata.name";

/// A named port of pods: its protocol and number.
pub(super) type Named = (String, u16);

/// What selectors and ports are resolved by.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Which ports pods have under a name.
    pub(super) named: BTreeMap<String, BTreeSet<Named>>,
}

/// A port's value in a guest's label.
pub(super) fn port_value((protocol, number): &Named) -> String {
    format!("{}-{number}", protocol.to_lowercase())
}

/// The label of a named port. A pod may have one name twice, for different protocols.
pub(super) fn port_label(name: &str, protocol: &str) -> String {
    match protocol {
        "TCP" => label("port", name),
        other => label("port", &format!("{name}.{}", other.to_lowercase())),
    }
}

struct Workload {
    name: String,
    namespace: String,
    labels: Vec<(String, String)>,
    ports: Vec<(String, Named)>,
    addresses: Vec<IpAddr>,
}

pub(super) fn read(draft: &mut Draft, objects: &[Object]) -> Cluster {
    let mut cluster = Cluster::default();
    let mut spaces: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.kind == "Namespace") {
        spaces.insert(&object.name, pairs(&object.value["metadata"]["labels"]));
    }
    for object in objects {
        let Some(found) = workload(draft, object) else {
            continue;
        };
        for (name, port) in &found.ports {
            cluster
                .named
                .entry(name.clone())
                .or_default()
                .insert(port.clone());
        }
        let own = spaces
            .get(found.namespace.as_str())
            .cloned()
            .unwrap_or_default();
        let labels = labels(&found, own);
        draft.guest(found.name, labels, found.addresses);
    }
    draft.has_estate = true;
    cluster
}

fn labels(found: &Workload, space: Vec<(String, String)>) -> Labels {
    let mut labels = Labels::from([(NAMESPACE.to_owned(), word(&found.namespace))]);
    for (key, value) in &found.labels {
        labels.insert(label("pod", key), word(value));
    }
    labels.insert(label("ns", NAMESPACE_KEY), word(&found.namespace));
    for (key, value) in space {
        labels.insert(label("ns", &key), word(&value));
    }
    for (name, port) in &found.ports {
        // Of two containers' ports of one name and protocol, the first one's is used.
        let label = port_label(name, &port.0);
        labels.entry(label).or_insert_with(|| port_value(port));
    }
    labels
}

/// The pods of an object, if it has any.
fn workload(draft: &mut Draft, object: &Object) -> Option<Workload> {
    let value = &object.value;
    let (kind, meta, spec) = match object.kind.as_str() {
        "Pod" | "VirtualMachineInstance" => (&object.kind, &value["metadata"], &value["spec"]),
        "CronJob" => {
            let template = &value["spec"]["jobTemplate"]["spec"]["template"];
            (&object.kind, &template["metadata"], &template["spec"])
        }
        kind if KINDS.contains(&kind) && kind != "Namespace" => {
            let template = &value["spec"]["template"];
            (&object.kind, &template["metadata"], &template["spec"])
        }
        _ => return None,
    };
    if spec["hostNetwork"] == true {
        let what = "a pod in its host's network: many networks apply no policy to it; here it is a \
                    guest like others";
        draft.note(Effect::None, &object.place, what);
    }
    let owner = list(&value["metadata"], "ownerReferences").first();
    // A node owns its static pods only in name.
    let owner = owner.filter(|owner| kind == "Pod" && str(owner, "kind") != "Node");
    let (name, kind) = match owner {
        Some(owner) if str(owner, "kind").is_empty() => (str(owner, "name"), kind.as_str()),
        Some(owner) => (str(owner, "name"), str(owner, "kind")),
        None => (object.name.as_str(), kind.as_str()),
    };
    let status = &value["status"];
    let given = list(status, "podIPs").iter().map(|one| str(one, "ip"));
    let addresses: BTreeSet<IpAddr> = given
        .chain([str(status, "podIP")])
        .filter_map(|text| text.parse().ok())
        .collect();
    Some(Workload {
        name: format!("{}/{name}[{kind}]", object.namespace),
        namespace: object.namespace.clone(),
        labels: pairs(&meta["labels"]),
        ports: ports(spec),
        addresses: addresses.into_iter().collect(),
    })
}

fn ports(spec: &Value) -> Vec<(String, Named)> {
    let containers = list(spec, "containers")
        .iter()
        .chain(list(spec, "initContainers"));
    let ports = containers.flat_map(|container| list(container, "ports"));
    let named = ports.filter_map(|port| {
        let number = scalar(&port["containerPort"]).parse().ok()?;
        let protocol = match str(port, "protocol") {
            "" => "TCP",
            given => given,
        };
        let name = str(port, "name");
        (!name.is_empty()).then(|| (name.to_owned(), (protocol.to_owned(), number)))
    });
    named.collect()
}
