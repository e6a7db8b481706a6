//! The words of one rule: what they mean, and when the firewall there takes no notice of them.

use super::macros::MACROS;
use super::{Names, bare};
use crate::draft::{self, every_port, numbered, prefix};
use ipnet::IpNet;
use lictor_policy::PortRange;
use lictor_types::Protocol;

/// Why the firewall there takes no notice of a rule, whatever its action. It would match more here
/// than anybody meant.
pub(super) fn mistake(words: &[&str], of_macro: bool, names: &Names) -> Option<&'static str> {
    let value = |names: &[&str]| {
        let mut pairs = words.chunks_exact(2);
        let named = pairs.find(|pair| names.contains(&pair[0].trim_start_matches('-')));
        named.map(|pair| pair[1].to_lowercase())
    };
    let ends: Vec<String> = ["source", "dest"]
        .iter()
        .filter_map(|end| value(&[end]))
        .collect();
    let mixed =
        |text: &String| text.contains(',') && text.split(',').any(|one| prefix(one).is_none());
    if ends.iter().any(mixed) {
        return Some("a list has something else than addresses");
    }
    let named = |item: &str| {
        names
            .aliases
            .get(&bare(item))
            .copied()
            .or_else(|| prefix(item))
    };
    let nets: Vec<IpNet> = ends
        .iter()
        .flat_map(|text| text.split(','))
        .filter_map(named)
        .collect();
    let v6 = |net: &IpNet| net.addr().is_ipv6();
    if nets.iter().any(v6) && !nets.iter().all(v6) {
        return Some("its addresses are of both families");
    }
    let protocol = value(&["p", "proto"]);
    let has = |known: &[&str]| protocol.as_deref().is_some_and(|one| known.contains(&one));
    let icmp = has(&["icmp", "icmpv6", "ipv6-icmp"]);
    let ports = has(&[
        "tcp", "udp", "sctp", "udplite", "dccp", "6", "17", "132", "136", "33",
    ]);
    if value(&["sport"]).is_some() && !ports {
        return Some("`sport` needs a protocol with ports");
    }
    if value(&["dport"]).is_some() && !(ports || icmp || of_macro) {
        return Some("`dport` needs a protocol with ports");
    }
    let kind = value(&["icmp-type"]).is_some();
    (kind && (!icmp || value(&["dport"]).is_some()))
        .then_some("`icmp-type` needs the protocol ICMP, and no `dport` besides")
}

pub(super) fn is_way(word: &str) -> bool {
    ["IN", "OUT"]
        .iter()
        .any(|way| word.eq_ignore_ascii_case(way))
}

pub(super) fn action(name: &str) -> Option<&'static str> {
    match name.to_uppercase().as_str() {
        "ACCEPT" => Some("allow"),
        "DROP" => Some("deny"),
        "REJECT" => Some("reject"),
        _ => None,
    }
}

pub(super) fn macro_ports(name: &str) -> Option<Vec<PortRange>> {
    let found = MACROS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))?
        .1;
    found.split(' ').map(|item| item.parse().ok()).collect()
}

pub(super) fn own_ports(
    protocol: Option<&str>,
    ports: Option<&str>,
    kind: Option<&str>,
) -> Option<Vec<PortRange>> {
    let class = match protocol.map(str::to_lowercase).as_deref() {
        None => return Some(every_port()),
        Some(name) => match draft::ip_protocol(name)? {
            Ok(class) => class,
            Err(number) => return Some(vec![numbered(number)]),
        },
    };
    if matches!(class, Protocol::Icmp | Protocol::Icmpv6) {
        return match kind.or(ports) {
            None | Some("any") => Some(vec![PortRange::all(class)]),
            Some(text) => crate::iptables::icmp(Some(class), text),
        };
    }
    let Some(ports) = ports else {
        return Some(vec![PortRange::all(class)]);
    };
    let items = ports
        .split(',')
        .map(|item| format!("{class}/{}", item.replace(':', "-")));
    items.map(|item| item.parse().ok()).collect()
}
