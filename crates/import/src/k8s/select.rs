//! Label selectors, address blocks and ports.

use super::estate::{Cluster, NAMESPACE, NAMESPACE_KEY, port_label, port_value};
use crate::Effect;
use crate::draft::{self, Draft, NOBODY, all, either, every_port};
use crate::names::label;
use crate::value::{list, pairs, scalar, str, unknown};
use ipnet::IpNet;
use lictor_policy::PortRange;
use lictor_types::Protocol;
use serde_json::Value;

/// What a peer or a port is read for.
pub(super) struct Reading<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) cluster: &'a Cluster,
    pub(super) place: String,
    /// What becomes of traffic if a part can't be said: less is allowed, or less denied.
    pub(super) effect: Effect,
}

/// Ports, with the pods that have them under that name.
pub(super) struct Ports {
    pub(super) ranges: Vec<PortRange>,
    /// What the asked end must be besides.
    pub(super) only: String,
}

impl Reading<'_> {
    pub(super) fn lost(&mut self, what: impl Into<String>) {
        let (effect, place) = (self.effect, self.place.clone());
        self.draft.note(effect, &place, what);
    }

    pub(super) fn known(&mut self, value: &Value, fields: &[&str]) {
        for field in unknown(value, fields) {
            self.lost(format!(
                "the field {field} is not known here, and is left out"
            ));
        }
    }

    /// Whether all that narrows a selection is known. What is not known leaves out what allows,
    /// and is left out of what denies, which then denies more. Subjects, of which both is said,
    /// hold without it.
    pub(super) fn narrow(&mut self, value: &Value, fields: &[&str]) -> bool {
        let allows = self.effect == Effect::Closes;
        let (effect, what) = match self.effect {
            Effect::Closes => (Effect::Closes, "nothing matches what it narrows"),
            Effect::Opens => (Effect::Closes, "what it narrows holds without it"),
            Effect::None => (Effect::Opens, "what it narrows holds without it"),
        };
        let lost = unknown(value, fields);
        for field in &lost {
            let place = self.place.clone();
            let what = format!("the field {field} is not known here, and {what}");
            self.draft.note(effect, &place, what);
        }
        !allows || lost.is_empty()
    }

    /// Pods by their labels, or by those of their namespace.
    pub(super) fn labels(&mut self, prefix: &str, selector: &Value) -> String {
        if !self.narrow(selector, &["matchLabels", "matchExpressions"]) {
            return NOBODY.to_owned();
        }
        let mut parts = Vec::new();
        for (key, value) in pairs(&selector["matchLabels"]) {
            parts.push(self.pair(prefix, &key, &value));
        }
        for one in list(selector, "matchExpressions") {
            let key = str(one, "key");
            let values: Vec<String> = list(one, "values").iter().map(scalar).collect();
            let any: Vec<String> = values
                .iter()
                .map(|value| self.pair(prefix, key, value))
                .collect();
            parts.push(match str(one, "operator") {
                "In" => either(&any),
                "NotIn" => draft::not(&either(&any)),
                "Exists" => self.exists(prefix, key),
                "DoesNotExist" => draft::not(&self.exists(prefix, key)),
                other => {
                    self.lost(format!(
                        "the operator {other:?} is not known; nothing matches it"
                    ));
                    return NOBODY.to_owned();
                }
            });
        }
        parts.push("guests".into());
        // Every guest has its namespace; `guests` says it only where nothing else does.
        let positive = |part: &String| part != "guests" && !part.starts_with("not ");
        if parts.iter().any(positive) {
            parts.pop();
        }
        all(&parts)
    }

    fn pair(&mut self, prefix: &str, key: &str, value: &str) -> String {
        if prefix == "ns" && key == NAMESPACE_KEY {
            return self.draft.has(NAMESPACE, value);
        }
        self.draft.has(&label(prefix, key), value)
    }

    fn exists(&mut self, prefix: &str, key: &str) -> String {
        self.draft.any_of(&label(prefix, key))
    }

    pub(super) fn namespace(&mut self, name: &str) -> String {
        self.draft.has(NAMESPACE, name)
    }

    /// Addresses without some. They are those that no pod has.
    pub(super) fn block(&mut self, cidr: &str, except: &[Value]) -> String {
        let Some(whole) = self.prefix(cidr) else {
            return NOBODY.to_owned();
        };
        let mut parts = vec![self.draft.set("", [whole])];
        for one in except {
            if let Some(hole) = self.prefix(&scalar(one)) {
                parts.push(draft::not(&self.draft.set("", [hole])));
            }
        }
        all(&parts)
    }

    /// Networks of an admin's policy. Unlike an `ipBlock` they match what goes from pod to pod too,
    /// as the API says of `networks` and its conformance tests hold.
    pub(super) fn networks(&mut self, given: &[Value]) -> String {
        let nets: Vec<IpNet> = given
            .iter()
            .filter_map(|one| self.prefix(&scalar(one)))
            .collect();
        let narrow = nets.iter().any(|net| net.prefix_len() > 0);
        if narrow
            && self
                .draft
                .guests
                .iter()
                .any(|guest| guest.addresses.is_empty())
        {
            let what = "networks match no pod whose addresses are not in these files";
            let place = self.place.clone();
            self.draft.note(Effect::None, &place, what);
        }
        let (whole, parts): (Vec<IpNet>, Vec<IpNet>) =
            nets.into_iter().partition(|net| net.prefix_len() == 0);
        let mut found: Vec<String> = self.draft.everybody(&whole).into_iter().collect();
        if !parts.is_empty() {
            found.push(self.draft.addresses("", &parts));
        }
        either(&found)
    }

    fn prefix(&mut self, text: &str) -> Option<IpNet> {
        let found = draft::prefix(text);
        if found.is_none() {
            self.lost(format!("{text:?} is no prefix, and is left out"));
        }
        found
    }

    /// A port by its number, range or name: as many answers as pods use different ones.
    pub(super) fn port(&mut self, protocol: &str, port: &Value, end: &Value) -> Vec<Ports> {
        let class = match protocol {
            "" | "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => {
                self.lost(format!(
                    "the protocol {other:?} is not known, and is left out"
                ));
                return Vec::new();
            }
        };
        let range = |first, last| PortRange {
            protocol: class,
            first,
            last,
        };
        let one = |range| Ports {
            ranges: vec![range],
            only: "any".into(),
        };
        if port.is_null() {
            return vec![one(PortRange::all(class))];
        }
        if let Ok(first) = scalar(port).parse::<u16>() {
            let last = if end.is_null() {
                Some(first)
            } else {
                scalar(end).parse().ok()
            };
            let Some(last) = last.filter(|last| *last >= first) else {
                self.lost(format!(
                    "the port range {}-{} is empty",
                    scalar(port),
                    scalar(end)
                ));
                return Vec::new();
            };
            return vec![one(range(first, last))];
        }
        let name = scalar(port);
        let wanted = class.to_string().to_uppercase();
        let known = self.cluster.named.get(&name).into_iter().flatten();
        let known: Vec<_> = known
            .filter(|(protocol, _)| *protocol == wanted)
            .cloned()
            .collect();
        if known.is_empty() {
            self.lost(format!("no pod has a {wanted} port with the name {name:?}"));
        }
        let mut found = Vec::new();
        for named in known {
            found.push(Ports {
                ranges: vec![range(named.1, named.1)],
                only: self
                    .draft
                    .has(&port_label(&name, &named.0), &port_value(&named)),
            });
        }
        found
    }
}

/// No port is every port.
pub(super) fn every() -> Vec<Ports> {
    let only = "any".into();
    vec![Ports {
        ranges: every_port(),
        only,
    }]
}

/// Ports that ask nothing of the end are one rule.
pub(super) fn joined(ports: Vec<Ports>) -> Vec<Ports> {
    let (plain, mut named): (Vec<_>, Vec<_>) = ports.into_iter().partition(|one| one.only == "any");
    let ranges: Vec<PortRange> = plain.into_iter().flat_map(|one| one.ranges).collect();
    if !ranges.is_empty() {
        let only = "any".into();
        named.insert(0, Ports { ranges, only });
    }
    named
}
