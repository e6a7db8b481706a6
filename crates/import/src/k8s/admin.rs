//! AdminNetworkPolicy, BaselineAdminNetworkPolicy, and their successor ClusterNetworkPolicy.

use super::select::{Ports, Reading, every, joined};
use super::{Object, estate::Cluster};
use crate::Effect;
use crate::draft::{Draft, NOBODY, Rule, all, either};
use crate::value::{list, scalar, str};
use serde_json::Value;

/// Above the network policies or below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Admin,
    Baseline,
}

impl Level {
    fn of(object: &Object) -> Self {
        let tier = str(&object.value["spec"], "tier");
        match object.kind.as_str() {
            "BaselineAdminNetworkPolicy" => Self::Baseline,
            "ClusterNetworkPolicy" if tier.eq_ignore_ascii_case("baseline") => Self::Baseline,
            _ => Self::Admin,
        }
    }
}

pub(super) fn rules(draft: &mut Draft, cluster: &Cluster, policies: &[Object], level: Level) {
    let mut own: Vec<&Object> = policies
        .iter()
        .filter(|one| Level::of(one) == level)
        .collect();
    own.sort_by_key(|one| {
        let priority = one.value["spec"]["priority"].as_i64().unwrap_or(i64::MAX);
        (priority, one.name.clone())
    });
    let twice = |pair: &&[&Object]| {
        let priority = |one: &Object| one.value["spec"]["priority"].as_i64();
        priority(pair[0]).is_some() && priority(pair[0]) == priority(pair[1])
    };
    for pair in own.windows(2).filter(twice) {
        let what = format!(
            "same priority as {}: the order between them is by name",
            pair[1].name
        );
        draft.note(Effect::None, &pair[0].place, what);
    }
    for policy in own {
        let spec = &policy.value["spec"];
        let mut reading = Reading {
            draft,
            cluster,
            place: policy.place.clone(),
            effect: Effect::None,
        };
        reading.known(spec, &["priority", "subject", "ingress", "egress", "tier"]);
        let subject = pods(&mut reading, &spec["subject"]);
        for (at, field) in [("ingress", "from"), ("egress", "to")] {
            for (index, rule) in list(spec, at).iter().enumerate() {
                let Some(action) = action(&mut reading, rule) else {
                    continue;
                };
                reading.known(rule, &["name", "action", field, "ports", "protocols"]);
                let peers = list(rule, field);
                let peers: Vec<String> = peers.iter().map(|one| peer(&mut reading, one)).collect();
                let peers = either(&peers);
                let given = str(rule, "name");
                let name = match given {
                    "" => format!("{}.{at}-{}", policy.name, index + 1),
                    given => format!("{}.{at}-{}.{given}", policy.name, index + 1),
                };
                for ports in ports(&mut reading, rule) {
                    let (from, to) = match at {
                        "ingress" => (peers.clone(), subject.clone()),
                        _ => (subject.clone(), peers.clone()),
                    };
                    reading.draft.rule(Rule {
                        name: name.clone(),
                        action,
                        from,
                        to: all(&[to, ports.only]),
                        service: ports.ranges,
                        at,
                        ..Rule::default()
                    });
                }
            }
        }
    }
}

fn action(reading: &mut Reading<'_>, rule: &Value) -> Option<&'static str> {
    let (action, effect) = match str(rule, "action") {
        "Allow" | "Accept" => ("allow", Effect::Closes),
        "Deny" => ("deny", Effect::Opens),
        "Pass" => ("pass", Effect::Opens),
        other => {
            reading.effect = Effect::Opens;
            reading.lost(format!(
                "the action {other:?} is not known; the rule is left out"
            ));
            return None;
        }
    };
    reading.effect = effect;
    Some(action)
}

/// A subject or a peer that is pods.
fn pods(reading: &mut Reading<'_>, value: &Value) -> String {
    if !value["namespaces"].is_null() {
        let namespaces = &value["namespaces"];
        // An early version of the API had one more level here.
        let selector = match &namespaces["namespaceSelector"] {
            Value::Null => namespaces,
            inner => inner,
        };
        return reading.labels("ns", selector);
    }
    let pods = &value["pods"];
    if pods.is_null() {
        return NOBODY.to_owned();
    }
    if !reading.narrow(pods, &["namespaceSelector", "podSelector"]) {
        return NOBODY.to_owned();
    }
    let spaces = reading.labels("ns", &pods["namespaceSelector"]);
    let own = reading.labels("pod", &pods["podSelector"]);
    match (spaces.as_str(), own.as_str()) {
        (_, "guests") => spaces,
        ("guests", _) => own,
        _ => all(&[spaces, own]),
    }
}

fn peer(reading: &mut Reading<'_>, value: &Value) -> String {
    let fields = ["namespaces", "pods", "networks", "nodes", "domainNames"];
    if !reading.narrow(value, &fields) {
        return NOBODY.to_owned();
    }
    if !value["nodes"].is_null() {
        reading.lost("nodes as peers are not imported: bind the hosts' own devices and name them");
    }
    if !value["domainNames"].is_null() {
        reading.lost("domain names as peers can't be said");
    }
    let networks = list(value, "networks");
    if !networks.is_empty() {
        return reading.networks(networks);
    }
    pods(reading, value)
}

fn ports(reading: &mut Reading<'_>, rule: &Value) -> Vec<Ports> {
    let mut found = Vec::new();
    let (ports, protocols) = (list(rule, "ports"), list(rule, "protocols"));
    if ports.is_empty() && protocols.is_empty() {
        return every();
    }
    let null = Value::Null;
    for port in ports {
        let (number, range, named) = (&port["portNumber"], &port["portRange"], &port["namedPort"]);
        found.extend(if !number.is_null() {
            reading.port(str(number, "protocol"), &number["port"], &null)
        } else if !range.is_null() {
            reading.port(str(range, "protocol"), &range["start"], &range["end"])
        } else if !named.is_null() {
            named_port(reading, named)
        } else {
            reading.lost("a port that is neither a number, a range nor a name is left out");
            Vec::new()
        });
    }
    for one in protocols {
        for (field, protocol) in [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")] {
            let ports = &one[field];
            if ports.is_null() {
                continue;
            }
            let port = &ports["destinationPort"];
            found.extend(match &port["range"] {
                Value::Null => reading.port(protocol, &port["number"], &null),
                range => reading.port(protocol, &range["start"], &range["end"]),
            });
        }
        if !one["destinationNamedPort"].is_null() {
            found.extend(named_port(reading, &one["destinationNamedPort"]));
        }
        reading.known(one, &["tcp", "udp", "sctp", "destinationNamedPort"]);
    }
    joined(found)
}

/// A port by its name alone: of every protocol for which a pod has one of this name.
fn named_port(reading: &mut Reading<'_>, name: &Value) -> Vec<Ports> {
    let known = reading.cluster.named.get(&scalar(name));
    let known = known.cloned().unwrap_or_default();
    let mut any = Vec::new();
    for protocol in ["TCP", "UDP", "SCTP"] {
        if known.iter().any(|(own, _)| own == protocol) {
            any.extend(reading.port(protocol, name, &Value::Null));
        }
    }
    if any.is_empty() {
        reading.lost(format!(
            "no pod has a port with the name {:?}",
            scalar(name)
        ));
    }
    any
}
