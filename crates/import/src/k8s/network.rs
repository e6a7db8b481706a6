//! NetworkPolicy: what any of them allows a selected pod, and nothing else.

use super::select::{Ports, Reading, every, joined};
use super::{Object, estate::Cluster};
use crate::Effect;
use crate::draft::{Draft, NOBODY, Rule, all, either, every_port};
use crate::value::{list, str};
use serde_json::Value;

pub(super) fn rules(draft: &mut Draft, cluster: &Cluster, policies: &[Object]) {
    let mut closed = Vec::new();
    for policy in policies {
        let spec = &policy.value["spec"];
        let mut reading = Reading {
            draft,
            cluster,
            place: policy.place.clone(),
            effect: Effect::None,
        };
        reading.known(spec, &["podSelector", "policyTypes", "ingress", "egress"]);
        let space = reading.namespace(&policy.namespace);
        let pods = reading.labels("pod", &spec["podSelector"]);
        reading.effect = Effect::Closes;
        let pods = all(&[space, pods]).replace(" & guests", "");
        for (at, ends, field) in [("ingress", "from", "ingress"), ("egress", "to", "egress")] {
            if !affects(spec, at) {
                continue;
            }
            for (index, rule) in list(spec, field).iter().enumerate() {
                reading.known(rule, &[ends, "ports"]);
                let name = format!("{}.{}.{at}-{}", policy.namespace, policy.name, index + 1);
                let peers = peers(&mut reading, policy, rule, ends);
                for ports in ports(&mut reading, rule) {
                    allow(&mut reading, &name, (at, &pods, &peers), ports);
                }
            }
            closed.push((at, pods.clone(), policy));
        }
    }
    for (at, pods, policy) in closed {
        let any = || "any".to_owned();
        let (from, to) = if at == "ingress" {
            (any(), pods)
        } else {
            (pods, any())
        };
        draft.rule(Rule {
            name: format!("{}.{}.{at}-rest", policy.namespace, policy.name),
            action: "deny",
            from,
            to,
            service: every_port(),
            at,
            ..Rule::default()
        });
    }
}

/// Without `policyTypes` a policy is about ingress, and about egress if it has such rules.
fn affects(spec: &Value, at: &str) -> bool {
    let types = list(spec, "policyTypes");
    match types.is_empty() {
        true => at == "ingress" || !list(spec, "egress").is_empty(),
        false => types.iter().any(|one| {
            one.as_str()
                .is_some_and(|name| name.eq_ignore_ascii_case(at))
        }),
    }
}

fn peers(reading: &mut Reading<'_>, policy: &Object, rule: &Value, field: &str) -> String {
    let peers = list(rule, field);
    if peers.is_empty() {
        return "any".into();
    }
    let found: Vec<String> = peers
        .iter()
        .map(|peer| one(reading, policy, peer))
        .collect();
    either(&found)
}

fn one(reading: &mut Reading<'_>, policy: &Object, peer: &Value) -> String {
    if !reading.narrow(peer, &["podSelector", "namespaceSelector", "ipBlock"]) {
        return NOBODY.to_owned();
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        reading.known(block, &["cidr", "except"]);
        let what =
            "an ipBlock matches addresses that no guest has; pods are matched by labels only";
        let place = reading.place.clone();
        reading.draft.note(Effect::None, &place, what);
        return reading.block(str(block, "cidr"), list(block, "except"));
    }
    let spaces = match &peer["namespaceSelector"] {
        Value::Null => reading.namespace(&policy.namespace),
        selector => reading.labels("ns", selector),
    };
    let pods = reading.labels("pod", &peer["podSelector"]);
    match (spaces.as_str(), pods.as_str()) {
        (_, "guests") => spaces,
        ("guests", _) => pods,
        _ => all(&[spaces, pods]),
    }
}

fn ports(reading: &mut Reading<'_>, rule: &Value) -> Vec<Ports> {
    let ports = list(rule, "ports");
    if ports.is_empty() {
        return every();
    }
    let mut found = Vec::new();
    for port in ports {
        reading.known(port, &["protocol", "port", "endPort"]);
        found.extend(reading.port(str(port, "protocol"), &port["port"], &port["endPort"]));
    }
    joined(found)
}

fn allow(
    reading: &mut Reading<'_>,
    name: &str,
    (at, pods, peers): (&'static str, &str, &str),
    ports: Ports,
) {
    let (from, to) = if at == "ingress" {
        (peers, pods)
    } else {
        (pods, peers)
    };
    reading.draft.rule(Rule {
        name: name.to_owned(),
        action: "allow",
        from: from.to_owned(),
        to: all(&[to.to_owned(), ports.only]),
        service: ports.ranges,
        at,
        ..Rule::default()
    });
}
