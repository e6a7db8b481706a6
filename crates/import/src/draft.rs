//! A policy that is being put together: names are made, repetitions merged, notes taken.

use crate::names::{Unique, word};
use crate::{Effect, ImportError, Imported, NOTES_MAX, Note};
use ipnet::IpNet;
use lictor_policy::{
    Estate, EstateGuest, EstateHost, Labels, PortRange, Service, parse, render, syntax,
};
use lictor_types::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

/// A rule of the source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) action: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) service: Vec<PortRange>,
    /// `egress`, `ingress` or nothing.
    pub(crate) at: &'static str,
    pub(crate) owner: String,
    pub(crate) comment: String,
    pub(crate) expires: String,
    pub(crate) log: bool,
}

#[derive(Debug)]
struct Tier {
    name: String,
    rules: Vec<Rule>,
    names: Unique,
}

/// What becomes a policy.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    labels: BTreeSet<String>,
    sets: BTreeMap<Vec<IpNet>, String>,
    set_names: Unique,
    tiers: Vec<Tier>,
    pub(crate) guests: Vec<EstateGuest>,
    hosts: Vec<EstateHost>,
    pub(crate) has_estate: bool,
    /// Rules that were put into tiers.
    rules: usize,
    /// The networks of guests whose addresses the source does not tell.
    networks: BTreeMap<String, Vec<IpNet>>,
    notes: BTreeSet<Note>,
}

impl Draft {
    pub(crate) fn note(&mut self, effect: Effect, place: &str, what: impl Into<String>) {
        let note = |what| Note {
            effect,
            place: place.to_owned(),
            what,
        };
        let found = note(what.into());
        if self.notes.len() + 1 < NOTES_MAX {
            self.notes.insert(found);
        } else if self.notes.len() < NOTES_MAX {
            self.notes
                .insert(note("there are more notes than are kept".into()));
        }
    }

    /// `label:value`, declared.
    pub(crate) fn has(&mut self, label: &str, value: &str) -> String {
        self.labels.insert(label.to_owned());
        format!("{label}:{}", word(value))
    }

    /// `label:*`, declared.
    pub(crate) fn any_of(&mut self, label: &str) -> String {
        self.labels.insert(label.to_owned());
        format!("{label}:*")
    }

    /// `set:NAME` of these prefixes: the same prefixes are the same set.
    pub(crate) fn set(&mut self, hint: &str, prefixes: impl IntoIterator<Item = IpNet>) -> String {
        let merged: BTreeSet<IpNet> = prefixes.into_iter().map(|net| net.trunc()).collect();
        let prefixes: Vec<IpNet> = merged.into_iter().collect();
        if prefixes.is_empty() {
            return NOBODY.to_owned();
        }
        if let Some(name) = self.sets.get(&prefixes) {
            return format!("set:{name}");
        }
        let name = match (hint, prefixes.as_slice()) {
            ("", [only]) => format!(
                "net-{}",
                only.to_string().replace(':', "-").replace('/', "_")
            ),
            ("", _) => "nets".to_owned(),
            _ => hint.to_owned(),
        };
        let name = self.set_names.name(&name);
        self.sets.insert(prefixes, name.clone());
        format!("set:{name}")
    }

    /// Ends with these addresses: outside ones by their set, and guests of the estate that have one
    /// of them by a label, since guests are matched by labels only.
    pub(crate) fn addresses(&mut self, hint: &str, prefixes: &[IpNet]) -> String {
        if let Some(everybody) = self.everybody(prefixes) {
            return everybody;
        }
        let set = self.set(hint, prefixes.iter().copied());
        let inside = |address: &IpAddr| prefixes.iter().any(|net| net.contains(address));
        let whole = |one: &IpNet| prefixes.iter().any(|net| net.contains(one));
        let networks = std::mem::take(&mut self.networks);
        let own = |guest: &EstateGuest| {
            let lives = networks.get(&guest.name).filter(|nets| !nets.is_empty());
            let lives = lives.is_some_and(|nets| nets.iter().all(whole));
            guest.addresses.iter().any(inside) || guest.addresses.is_empty() && lives
        };
        if !self.guests.iter().any(own) {
            self.networks = networks;
            return set;
        }
        let label = format!("in.{}", set.trim_start_matches("set:"));
        let label = word(&label);
        for guest in self.guests.iter_mut().filter(|guest| own(guest)) {
            guest.labels.insert(label.clone(), "yes".into());
        }
        self.networks = networks;
        let inside = self.has(&label, "yes");
        format!("({set} or {inside})")
    }

    /// A guest whose addresses the source does not tell lies in these networks.
    pub(crate) fn lives_in(&mut self, guest: &str, networks: Vec<IpNet>) {
        if !networks.is_empty() {
            let what = "its addresses are not told: it is where its segment's subnet is";
            self.note(Effect::None, &format!("guest {guest}"), what);
            self.networks.insert(guest.to_owned(), networks);
        }
    }

    /// A network of a source that has no guests: outside addresses, and guests that are given the
    /// label of the network.
    pub(crate) fn network(&mut self, prefixes: &[IpNet]) -> String {
        self.named_network("", prefixes)
    }

    /// As [`Self::network`], with a name of the source.
    pub(crate) fn named_network(&mut self, hint: &str, prefixes: &[IpNet]) -> String {
        if let Some(everybody) = self.everybody(prefixes) {
            return everybody;
        }
        let set = self.set(hint, prefixes.iter().copied());
        if set == NOBODY {
            return set;
        }
        let label = word(&format!("in.{}", set.trim_start_matches("set:")));
        let what = format!("guests with an address in {set} need the label {label}:yes");
        self.note(Effect::None, "networks", what);
        let inside = self.has(&label, "yes");
        format!("({set} or {inside})")
    }

    /// All addresses of a family: outside ones of that family, and every guest, whose family no
    /// rule can tell. `None` if the prefixes are not that.
    pub(crate) fn everybody(&mut self, prefixes: &[IpNet]) -> Option<String> {
        let whole = |v4: bool| {
            let mut of = prefixes.iter().filter(|net| net.prefix_len() == 0);
            of.any(|net| net.addr().is_ipv4() == v4)
        };
        match (whole(true), whole(false)) {
            (true, true) => Some("any".into()),
            (false, false) => None,
            _ => {
                let set = self.set("", prefixes.iter().copied());
                Some(format!("(not outside or {set})"))
            }
        }
    }

    /// Opens a tier; rules go into the last one.
    pub(crate) fn tier(&mut self, name: &str) {
        self.tiers.push(Tier {
            name: name.to_owned(),
            rules: Vec::new(),
            names: Unique::default(),
        });
    }

    pub(crate) fn rule(&mut self, rule: Rule) {
        if rule.from == NOBODY || rule.to == NOBODY || rule.service.is_empty() {
            let place = format!("rule {}", rule.name);
            self.note(Effect::None, &place, "it matches nothing, and is left out");
            return;
        }
        self.rules += 1;
        // What passes the limit is refused at the end; until then it takes no room.
        if self.rules > lictor_types::RULES_MAX {
            return;
        }
        if let Some(tier) = self.tiers.last_mut() {
            let name = tier.names.name(&rule.name);
            tier.rules.push(Rule { name, ..rule });
        }
    }

    /// A guest, by its name and labels; the labels that no selector names are left out at the end.
    pub(crate) fn guest(&mut self, name: String, labels: Labels, addresses: Vec<IpAddr>) {
        self.has_estate = true;
        self.guests.push(EstateGuest {
            name,
            labels,
            addresses,
            ..EstateGuest::default()
        });
    }

    /// A hypervisor, whose own device is an end.
    pub(crate) fn host(&mut self, name: &str) {
        self.has_estate = true;
        if self.hosts.iter().all(|known| known.name != name) {
            self.hosts.push(EstateHost {
                name: name.to_owned(),
                bound: true,
                ..EstateHost::default()
            });
        }
    }

    /// The text, checked, with the estate.
    pub(crate) fn finish(mut self, name: &str) -> Result<Imported, ImportError> {
        if self.rules > lictor_types::RULES_MAX {
            return Err(ImportError::Rules(self.rules));
        }
        self.merge_guests();
        let text = self.text(name);
        let (policy, diagnostics) = parse(name, text.as_bytes());
        for one in diagnostics.iter().filter(|_| policy.is_some()) {
            let what = format!("{}: {}", one.code, one.message);
            self.note(Effect::None, "the imported policy", what);
        }
        let Some(policy) = policy else {
            return Err(ImportError::Policy(render(&diagnostics, text.as_bytes())));
        };
        let policy_text = syntax::format(&text);
        let policy_text = policy_text.map_err(|error| ImportError::Policy(error.to_string()))?;
        let guests = std::mem::take(&mut self.guests);
        let hosts = std::mem::take(&mut self.hosts);
        let estate = self.has_estate.then(|| Estate {
            guests,
            hosts,
            ..Estate::default()
        });
        Ok(Imported {
            policy: policy_text,
            estate,
            notes: self.notes.into_iter().collect(),
            rules: policy.rules().count(),
        })
    }

    /// Labels that no selector names mean nothing. Guests of one name that differ in no other are
    /// one guest; those that do differ get names of their own.
    fn merge_guests(&mut self) {
        let mut merged: BTreeMap<(String, Labels), BTreeSet<IpAddr>> = BTreeMap::new();
        for mut guest in std::mem::take(&mut self.guests) {
            guest.labels.retain(|label, _| self.labels.contains(label));
            let known = merged.entry((guest.name, guest.labels)).or_default();
            known.extend(guest.addresses);
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for ((name, labels), addresses) in merged {
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            let name = if *count > 1 {
                format!("{name}#{count}")
            } else {
                name
            };
            self.guests.push(EstateGuest {
                name,
                labels,
                addresses: addresses.into_iter().collect(),
                ..EstateGuest::default()
            });
        }
    }

    fn text(&self, name: &str) -> String {
        let mut text = format!("policy \"{}\" version 1\n\n", word(name));
        for label in &self.labels {
            let _ = writeln!(text, "label {label} : string");
        }
        text.push('\n');
        for (prefixes, name) in &self.sets {
            let list: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "set {name} = prefix {}", list.join(" "));
        }
        for tier in &self.tiers {
            let _ = writeln!(text, "\ntier {} ordered {{", word(&tier.name));
            for rule in &tier.rules {
                rule.write(&mut text);
            }
            text.push_str("}\n");
        }
        text.push_str("\ntier baseline { deny all }\n");
        text
    }
}

/// A selector that no end matches.
pub(crate) const NOBODY: &str = "not any";

impl Rule {
    fn write(&self, text: &mut String) {
        let service = Service::new(self.service.clone());
        let _ = write!(
            text,
            "{} {} {{ from {} to {} service {service}",
            self.action, self.name, self.from, self.to
        );
        if !self.at.is_empty() {
            let _ = write!(text, " at {}", self.at);
        }
        for (clause, value) in [("owner", &self.owner), ("justification", &self.comment)] {
            let value = quoted(value);
            if !value.is_empty() {
                let _ = write!(text, " {clause} \"{value}\"");
            }
        }
        if !self.expires.is_empty() && self.action == "allow" {
            let _ = write!(text, " expires {}", self.expires);
        }
        if self.log {
            text.push_str(" log new");
        }
        text.push_str(" }\n");
    }
}

/// What can stand in quotes.
fn quoted(text: &str) -> String {
    let plain = |c: char| {
        if c == '"' {
            '\''
        } else if c.is_control() {
            ' '
        } else {
            c
        }
    };
    let text: String = text.chars().map(plain).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text[..text.floor_char_boundary(lictor_policy::QUOTED_BYTES_MAX)]
        .trim()
        .to_owned()
}

/// Joins selectors that must all hold.
pub(crate) fn all(parts: &[String]) -> String {
    let mut list: Vec<String> = Vec::new();
    for part in parts.iter().filter(|part| part.as_str() != "any") {
        if part == NOBODY {
            return NOBODY.to_owned();
        }
        list.push(grouped(part));
    }
    if list.is_empty() {
        "any".into()
    } else {
        list.join(" & ")
    }
}

/// Joins selectors of which one must hold.
pub(crate) fn either(parts: &[String]) -> String {
    let mut list: Vec<&str> = Vec::new();
    for part in parts.iter().filter(|part| part.as_str() != NOBODY) {
        if part == "any" {
            return part.clone();
        }
        if !list.contains(&part.as_str()) {
            list.push(part);
        }
    }
    match list.as_slice() {
        [] => NOBODY.to_owned(),
        [only] => (*only).to_owned(),
        many => many.join(" or "),
    }
}

/// What does not match a selector.
pub(crate) fn not(part: &str) -> String {
    match part {
        "any" => NOBODY.to_owned(),
        NOBODY => "any".to_owned(),
        part => format!("not ({part})"),
    }
}

/// In parentheses where `or` would bind otherwise.
fn grouped(part: &str) -> String {
    let mut depth = 0_usize;
    for word in part.split(' ') {
        if word == "or" && depth == 0 {
            return format!("({part})");
        }
        depth += word.matches('(').count();
        depth = depth.saturating_sub(word.matches(')').count());
    }
    part.to_owned()
}

/// Every IP packet.
pub(crate) fn every_port() -> Vec<PortRange> {
    Service::any().ranges().to_vec()
}

/// A prefix with its host bits cleared, or a single address.
pub(crate) fn prefix(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().map(|net| net.trunc());
    net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()
}

/// The prefixes of `10.0.0.1-10.0.0.9`. `None` if it is no run of addresses.
pub(crate) fn address_run(text: &str) -> Option<Vec<IpNet>> {
    let (first, last) = text.split_once('-')?;
    match (first.trim().parse().ok()?, last.trim().parse().ok()?) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Some(
            ipnet::Ipv4Subnets::new(first, last, 0)
                .map(IpNet::from)
                .collect(),
        ),
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Some(
            ipnet::Ipv6Subnets::new(first, last, 0)
                .map(IpNet::from)
                .collect(),
        ),
        _ => None,
    }
}

/// An IP protocol that has no class of its own.
pub(crate) fn numbered(number: u8) -> PortRange {
    PortRange {
        protocol: Protocol::Other,
        first: number.into(),
        last: number.into(),
    }
}

/// An IP protocol by its name or number: a class, or the number of one without a class.
pub(crate) fn ip_protocol(name: &str) -> Option<Result<Protocol, u8>> {
    let number = match name {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" | "ipv6-icmp" => 58,
        "sctp" => 132,
        "udplite" => 136,
        "esp" => 50,
        "ah" => 51,
        "gre" => 47,
        "igmp" => 2,
        "ipip" | "ipencap" => 4,
        "egp" => 8,
        "rsvp" => 46,
        "eigrp" => 88,
        "l2tp" => 115,
        "dccp" => 33,
        "ipv6" => 41,
        "ospf" => 89,
        "pim" => 103,
        "vrrp" => 112,
        other => other.parse().ok()?,
    };
    Some(match Protocol::from_ip(number) {
        Protocol::Other => Err(number),
        class => Ok(class),
    })
}
