//! Services by their path, and entries written in a rule.

use super::EVERY;
use crate::Effect;
use crate::draft::{Draft, every_port, numbered};
use crate::value::{list, scalar, str};
use lictor_policy::PortRange;
use lictor_types::Protocol;
use serde_json::Value;
use std::collections::BTreeMap;

const DEPTH_MAX: usize = 8;

pub(super) struct Services(BTreeMap<String, Vec<Value>>);

impl Services {
    pub(super) fn read(value: &Value) -> Self {
        let services = list(value, "services").iter();
        let entry = |service: &Value| {
            let entries = list(service, "service_entries").to_vec();
            (str(service, "path").to_owned(), entries)
        };
        Self(services.map(entry).collect())
    }

    pub(super) fn of_rule(
        &self,
        draft: &mut Draft,
        rule: &Value,
        at: (&str, Effect),
    ) -> Vec<PortRange> {
        let named: Vec<String> = list(rule, "services").iter().map(scalar).collect();
        let inline = list(rule, "service_entries");
        if inline.is_empty() && (named.is_empty() || named.iter().any(|name| name == EVERY)) {
            return every_port();
        }
        let mut ranges = Vec::new();
        for name in named.iter().filter(|name| *name != EVERY) {
            self.service(draft, name, &mut ranges, (at, 0));
        }
        for entry in inline {
            self.entry(draft, entry, &mut ranges, (at, 0));
        }
        ranges
    }

    fn service(
        &self,
        draft: &mut Draft,
        name: &str,
        ranges: &mut Vec<PortRange>,
        (at, depth): ((&str, Effect), usize),
    ) {
        let Some(entries) = self.0.get(name).filter(|_| depth < DEPTH_MAX) else {
            draft.note(
                at.1,
                at.0,
                format!("the service {name:?} is not in this file; left out"),
            );
            return;
        };
        for entry in entries {
            self.entry(draft, entry, ranges, (at, depth));
        }
    }

    fn entry(
        &self,
        draft: &mut Draft,
        entry: &Value,
        ranges: &mut Vec<PortRange>,
        (at, depth): ((&str, Effect), usize),
    ) {
        let mut note = |what: String| draft.note(at.1, at.0, what);
        if !list(entry, "source_ports").is_empty() {
            // `at.1` is what becomes of traffic if the entry is left out.
            let allows = at.1 == Effect::Closes;
            let what = match allows {
                true => "source ports can't be said: the entry is left out, as it would allow more",
                false => "source ports can't be said: it holds for any, and denies more",
            };
            draft.note(Effect::Closes, at.0, what);
            if allows {
                return;
            }
            return self.entry(draft, &without(entry, "source_ports"), ranges, (at, depth));
        }
        match str(entry, "resource_type") {
            "L4PortSetServiceEntry" => match class(str(entry, "l4_protocol")) {
                Some(class) => ports(entry, class, ranges, note),
                None => note(format!(
                    "the protocol {:?} is not known",
                    str(entry, "l4_protocol")
                )),
            },
            "ALGTypeServiceEntry" => {
                let alg = str(entry, "alg");
                let udp = [
                    "TFTP",
                    "SUN_RPC_UDP",
                    "MS_RPC_UDP",
                    "NBNS_BROADCAST",
                    "NBDG_BROADCAST",
                ];
                let class = if udp.contains(&alg) {
                    Protocol::Udp
                } else {
                    Protocol::Tcp
                };
                note(format!(
                    "{alg}: the sessions that its sessions agree on are not followed"
                ));
                ports(entry, class, ranges, note);
            }
            "ICMPTypeServiceEntry" => ranges.push(icmp(entry)),
            "IGMPTypeServiceEntry" => ranges.push(numbered(2)),
            "IPProtocolServiceEntry" => match scalar(&entry["protocol_number"]).parse::<u8>() {
                Ok(number) => ranges.push(match Protocol::from_ip(number) {
                    Protocol::Other => numbered(number),
                    class => PortRange::all(class),
                }),
                Err(_) => note("a protocol without its number is left out".into()),
            },
            "NestedServiceServiceEntry" => {
                let name = str(entry, "nested_service_path").to_owned();
                self.service(draft, &name, ranges, (at, depth + 1));
            }
            other => note(format!(
                "the service entry {other:?} is not about IP, or not known"
            )),
        }
    }
}

fn without(entry: &Value, field: &str) -> Value {
    let mut entry = entry.clone();
    if let Some(object) = entry.as_object_mut() {
        object.remove(field);
    }
    entry
}

fn class(name: &str) -> Option<Protocol> {
    match name {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

/// No port is every port.
fn ports(
    entry: &Value,
    protocol: Protocol,
    ranges: &mut Vec<PortRange>,
    mut note: impl FnMut(String),
) {
    let given = list(entry, "destination_ports");
    if given.is_empty() {
        ranges.push(PortRange::all(protocol));
    }
    for text in given.iter().map(scalar) {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => ranges.push(PortRange {
                protocol,
                first,
                last,
            }),
            _ => note(format!("{text:?} is no range of ports, and is left out")),
        }
    }
}

fn icmp(entry: &Value) -> PortRange {
    let protocol = match str(entry, "protocol") {
        "ICMPv6" => Protocol::Icmpv6,
        _ => Protocol::Icmp,
    };
    let number = |field: &str| scalar(&entry[field]).parse::<u8>().ok();
    let (first, last) = match (number("icmp_type"), number("icmp_code")) {
        (None, _) => return PortRange::all(protocol),
        (Some(kind), Some(code)) => {
            let port = Protocol::icmp_port(kind, code);
            (port, port)
        }
        (Some(kind), None) => (
            Protocol::icmp_port(kind, 0),
            Protocol::icmp_port(kind, u8::MAX),
        ),
    };
    PortRange {
        protocol,
        first,
        last,
    }
}
