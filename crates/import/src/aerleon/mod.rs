//! Policies and definitions of Aerleon and Capirca: `.pol` and YAML policies, `.net`, `.svc` and
//! YAML definitions. A filter becomes an ordered tier; its terms speak of addresses, as sets.

mod icmp;
mod pol;

use crate::draft::{Draft, Rule, every_port, ip_protocol, not, numbered, prefix};
use crate::value::{list, scalar, str, text, yaml};
use crate::{Effect, ImportError, Source};
use icmp::TYPES;
use ipnet::IpNet;
use lictor_policy::{Date, PortRange};
use lictor_types::Protocol;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Names inside names.
const DEPTH_MAX: usize = 32;

/// A term: its fields, each with all its words.
type Fields = BTreeMap<String, Vec<String>>;

#[derive(Debug, Default)]
struct Filter {
    place: String,
    /// Platforms that it is for, each with its options.
    targets: Vec<Vec<String>>,
    terms: Vec<(String, Fields)>,
}

#[derive(Debug, Default)]
struct Names {
    networks: BTreeMap<String, Vec<String>>,
    services: BTreeMap<String, Vec<String>>,
}

pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut names = Names::default();
    let mut filters = Vec::new();
    let includes: BTreeMap<&str, &Source> = sources
        .iter()
        .map(|source| (base(&source.path), source))
        .collect();
    for source in sources {
        match source.path.rsplit('.').next().unwrap_or_default() {
            "net" => definitions(text(source)?, &mut names.networks),
            "svc" => definitions(text(source)?, &mut names.services),
            "pol" => pol::read(&mut draft, source, &includes, &mut filters)?,
            "yaml" | "yml" => {
                for value in yaml(source)? {
                    document(
                        &mut draft,
                        source,
                        &value,
                        (&includes, &mut names, &mut filters),
                    )?;
                }
            }
            _ => {}
        }
    }
    if filters.is_empty() {
        return Err(ImportError::Nothing {
            what: "filters with terms (.pol or YAML)",
        });
    }
    if filters.len() > 1 {
        let what = "filters stand at different places there; here they follow one another, each a \
                    tier: import those that belong together";
        draft.note(Effect::Opens, "all filters", what);
    }
    for (index, filter) in filters.iter().enumerate() {
        draft.tier(&format!("filter-{}", index + 1));
        for (name, fields) in &filter.terms {
            if filter.has(&mut draft, name, fields) {
                term(&mut draft, &names, (&filter.place, name), fields);
            }
        }
        let mut targets = filter.targets.iter();
        if targets.any(|one| accepts(one)) {
            let only = filters.len() == 1 && filter.targets.iter().all(|one| accepts(one));
            rest(&mut draft, &filter.place, only);
        }
    }
    Ok(draft)
}

/// Whether a target accepts what no term matches: the policy of a chain of netfilter.
fn accepts(target: &[String]) -> bool {
    let (platform, options) = target
        .split_first()
        .map_or(("", &[][..]), |(one, rest)| (one, rest));
    let chains = ["iptables", "speedway", "nftables"].contains(&platform);
    chains && options.iter().any(|word| word == "ACCEPT")
}

/// What no term matches, where the filter accepts that.
fn rest(draft: &mut Draft, place: &str, only: bool) {
    if !only {
        let what = "what no term matches is accepted there; here the next filter is asked, or it \
                    is denied";
        return draft.note(Effect::Closes, place, what);
    }
    draft.rule(Rule {
        name: "default".to_owned(),
        action: "allow",
        from: "any".to_owned(),
        to: "any".to_owned(),
        service: every_port(),
        ..Rule::default()
    });
}

impl Filter {
    /// Whether a term is for any of its platforms; it is noted if not for all.
    fn has(&self, draft: &mut Draft, name: &str, fields: &Fields) -> bool {
        let empty = Vec::new();
        let get = |field: &str| fields.get(field).unwrap_or(&empty);
        let (only, without) = (get("platform"), get("platform-exclude"));
        if only.is_empty() && without.is_empty() {
            return true;
        }
        let platforms = self.targets.iter().filter_map(|target| target.first());
        let meant =
            |one: &&String| (only.is_empty() || only.contains(*one)) && !without.contains(*one);
        let (all, own) = (platforms.clone().count(), platforms.filter(meant).count());
        let place = format!("{}: term {name}", self.place);
        if all > 0 && own == 0 {
            draft.note(
                Effect::None,
                &place,
                "for other platforms only, and left out",
            );
            return false;
        }
        if all == 0 || own < all {
            let effect = match get("action").first().map(String::as_str) {
                Some("accept") => Effect::Opens,
                _ => Effect::Closes,
            };
            draft.note(
                effect,
                &place,
                "only for some platforms there; here for all",
            );
        }
        true
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `NAME = a b # comment`, with more words on lines of their own.
fn definitions(text: &str, names: &mut BTreeMap<String, Vec<String>>) {
    let mut name = String::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words = match line.split_once('=') {
            Some((given, rest)) => {
                name = given.trim().to_owned();
                rest
            }
            None => line,
        };
        let own = names.entry(name.clone()).or_default();
        own.extend(words.split_whitespace().map(str::to_owned));
    }
}

/// A YAML file: definitions, a policy, or terms to be included.
fn document(
    draft: &mut Draft,
    source: &Source,
    value: &Value,
    (includes, names, filters): (&BTreeMap<&str, &Source>, &mut Names, &mut Vec<Filter>),
) -> Result<(), ImportError> {
    for (name, network) in value["networks"].as_object().into_iter().flatten() {
        let items = list(network, "values").iter();
        let words = items.map(|item| match str(item, "address") {
            "" => [str(item, "ip"), str(item, "name"), str(item, "fqdn")]
                .into_iter()
                .find(|text| !text.is_empty())
                .unwrap_or_default()
                .to_owned(),
            address => address.to_owned(),
        });
        names
            .networks
            .entry(name.clone())
            .or_default()
            .extend(words);
    }
    for (name, service) in value["services"].as_object().into_iter().flatten() {
        let items = match service.as_array() {
            Some(items) => items.as_slice(),
            None => list(service, "values"),
        };
        let words = items.iter().map(|item| match str(item, "name") {
            "" => format!("{}/{}", scalar(&item["port"]), str(item, "protocol")),
            name => name.to_owned(),
        });
        names
            .services
            .entry(name.clone())
            .or_default()
            .extend(words);
    }
    for (index, filter) in list(value, "filters").iter().enumerate() {
        let place = format!("{}: filter {}", source.path, index + 1);
        let mut terms = Vec::new();
        for one in list(filter, "terms") {
            yaml_term(draft, one, (&place, includes, 0), &mut terms)?;
        }
        let targets = filter["header"]["targets"]
            .as_object()
            .into_iter()
            .flatten();
        let targets = targets.map(|(platform, options)| {
            let options = scalar(options);
            let words = [platform.as_str()]
                .into_iter()
                .chain(options.split_whitespace());
            words.map(str::to_owned).collect()
        });
        let targets = targets.collect();
        filters.push(Filter {
            place,
            targets,
            terms,
        });
    }
    Ok(())
}

fn yaml_term(
    draft: &mut Draft,
    value: &Value,
    (place, includes, depth): (&str, &BTreeMap<&str, &Source>, usize),
    terms: &mut Vec<(String, Fields)>,
) -> Result<(), ImportError> {
    let include = str(value, "include");
    if !include.is_empty() {
        let Some(source) = includes.get(base(include)).filter(|_| depth < DEPTH_MAX) else {
            let what = format!(
                "the included file {include} is not among the files, or they include each other; \
                 left out"
            );
            draft.note(Effect::Opens, place, what);
            return Ok(());
        };
        for document in yaml(source)? {
            for one in list(&document, "terms") {
                yaml_term(draft, one, (place, includes, depth + 1), terms)?;
            }
        }
        return Ok(());
    }
    let mut fields = Fields::new();
    for (field, value) in value.as_object().into_iter().flatten() {
        let words: Vec<String> = match value {
            Value::Array(items) => items.iter().map(scalar).collect(),
            one if field == "comment" => vec![scalar(one)],
            one => scalar(one).split_whitespace().map(str::to_owned).collect(),
        };
        fields.insert(field.clone(), words);
    }
    terms.push((str(value, "name").to_owned(), fields));
    Ok(())
}

impl Names {
    /// Prefixes of names and addresses. A name that is not defined is noted.
    fn prefixes(&self, draft: &mut Draft, words: &[String], at: (&str, Effect)) -> Vec<IpNet> {
        let mut found = BTreeSet::new();
        let mut open: Vec<(&str, usize)> = words.iter().map(|word| (word.as_str(), 0)).collect();
        while let Some((word, depth)) = open.pop() {
            if let Some(net) = prefix(word) {
                found.insert(net);
            } else if let Some(inner) = self.networks.get(word).filter(|_| depth < DEPTH_MAX) {
                open.extend(inner.iter().map(|word| (word.as_str(), depth + 1)));
            } else {
                draft.note(
                    at.1,
                    at.0,
                    format!("the network {word:?} is not in these files"),
                );
            }
        }
        found.into_iter().collect()
    }

    /// `80/tcp`, `1024-65535/udp` or names of them, for the protocols of a term.
    fn ports(
        &self,
        draft: &mut Draft,
        (words, protocols): (&[String], &[Protocol]),
        at: (&str, Effect),
    ) -> Vec<PortRange> {
        let mut found = Vec::new();
        let mut open: Vec<(&str, usize)> = words.iter().map(|word| (word.as_str(), 0)).collect();
        while let Some((word, depth)) = open.pop() {
            if let Some(inner) = self.services.get(word).filter(|_| depth < DEPTH_MAX) {
                open.extend(inner.iter().map(|word| (word.as_str(), depth + 1)));
                continue;
            }
            let (ports, name) = word.split_once('/').unwrap_or((word, ""));
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
                draft.note(
                    at.1,
                    at.0,
                    format!("the service {word:?} is not in these files"),
                );
                continue;
            };
            let wanted = |protocol: &&Protocol| name.is_empty() || protocol.to_string() == name;
            for protocol in protocols.iter().filter(wanted) {
                found.push(PortRange {
                    protocol: *protocol,
                    first,
                    last,
                });
            }
        }
        found
    }
}

/// Fields that are read, or say nothing about who may talk with whom.
const KNOWN: [&str; 37] = [
    "name",
    "comment",
    "owner",
    "action",
    "protocol",
    "source-address",
    "destination-address",
    "address",
    "source-exclude",
    "destination-exclude",
    "destination-port",
    "port",
    "source-port",
    "icmp-type",
    "option",
    "expiration",
    "logging",
    "log-limit",
    "log_name",
    "log-name",
    "counter",
    "policer",
    "platform",
    "platform-exclude",
    "verbatim",
    "stateless-reply",
    "qos",
    "loss-priority",
    "forwarding-class",
    "traffic-class-count",
    "dscp-set",
    "timeout",
    "priority",
    "port-mirror",
    "profile-settings",
    "version",
    "restrict-address-family",
];

/// Options that narrow nothing for packets that begin sessions.
const OPTIONS: [&str; 5] = ["sample", "initial", "tcp-initial", "syn", "inactive"];

fn term(draft: &mut Draft, names: &Names, (place, name): (&str, &str), fields: &Fields) {
    let place = format!("{place}: term {name}");
    let empty = Vec::new();
    let get = |field: &str| fields.get(field).unwrap_or(&empty);
    let action = match get("action").first().map(String::as_str) {
        Some("accept") => "allow",
        Some("deny") => "deny",
        Some("reject" | "reject-with-tcp-rst") => "reject",
        Some("next") => {
            let what = "goes on with the next term, and decides nothing; left out";
            return draft.note(Effect::None, &place, what);
        }
        other => {
            let what = match other {
                Some(other) => format!("the action {other} can't be said; the term is left out"),
                None => "it has no action, and is left out".to_owned(),
            };
            return draft.note(Effect::Opens, &place, what);
        }
    };
    let allows = action == "allow";
    let effect = match allows {
        true => Effect::Closes,
        false => Effect::Opens,
    };
    if !sayable(draft, fields, (&place, allows)) {
        return;
    }
    let at = (place.as_str(), effect);
    let protocols = protocols(draft, get("protocol"), at);
    let service = ports(draft, names, fields, (&protocols, at));
    let expires = last_day(draft, get("expiration"), (&place, allows));
    // `address` is either side's: one rule for each.
    let sides: &[(&str, &str)] = match get("address").is_empty() {
        true => &[("source-address", "destination-address")],
        false => &[
            ("address", "destination-address"),
            ("source-address", "address"),
        ],
    };
    for (source, destination) in sides {
        let from = ends(draft, names, fields, ((*source, "source-exclude"), at));
        let to = ends(
            draft,
            names,
            fields,
            ((*destination, "destination-exclude"), at),
        );
        draft.rule(Rule {
            name: name.to_owned(),
            action,
            from,
            to,
            service: service.clone(),
            owner: get("owner").join(" "),
            comment: get("comment").join(" "),
            expires: expires.clone(),
            log: !get("logging").is_empty(),
            ..Rule::default()
        });
    }
}

/// The last day on which a term holds: the one before its expiration, on which it is left out
/// there. What denies goes on here.
fn last_day(draft: &mut Draft, words: &[String], (place, allows): (&str, bool)) -> String {
    let Some(word) = words.first() else {
        return String::new();
    };
    let Some(day) = word.parse::<Date>().ok().and_then(before) else {
        let what = format!("the expiration {word:?} is no date, and is left out");
        draft.note(Effect::Opens, place, what);
        return String::new();
    };
    if !allows {
        let what = "the term ends there; here what denies goes on";
        draft.note(Effect::Closes, place, what);
    }
    day.to_string()
}

/// The day before. A policy's dates begin in 1970.
fn before(day: Date) -> Option<Date> {
    let since = day.days_after(Date::from_unix_seconds(0));
    let seconds = u64::try_from(since - 1).ok()?.checked_mul(86_400)?;
    Some(Date::from_unix_seconds(seconds))
}

/// Whether a term can be a rule, with notes of what it would lose.
fn sayable(draft: &mut Draft, fields: &Fields, (place, allows): (&str, bool)) -> bool {
    let empty = Vec::new();
    let get = |field: &str| fields.get(field).unwrap_or(&empty);
    let options = get("option");
    if options.iter().any(|word| word.contains("established")) {
        let what = "about sessions that are there already: answers pass here without a rule";
        draft.note(Effect::None, place, what);
        return false;
    }
    if options.iter().any(|word| word == "inactive") {
        draft.note(Effect::None, place, "inactive, and left out");
        return false;
    }
    let unknown = fields
        .keys()
        .filter(|field| !KNOWN.contains(&field.as_str()));
    let mut unsaid: Vec<String> = unknown.cloned().collect();
    let odd = options
        .iter()
        .filter(|word| !OPTIONS.contains(&word.as_str()));
    unsaid.extend(odd.map(|word| format!("option {word}")));
    for field in ["source-port", "restrict-address-family"] {
        if !get(field).is_empty() {
            unsaid.push(field.to_owned());
        }
    }
    for what in &unsaid {
        draft.note(
            Effect::None,
            place,
            format!("the condition {what} can't be said"),
        );
    }
    if !unsaid.is_empty() {
        let what = match allows {
            true => "left out, as it would allow more without a condition",
            false => "holds without that condition: it denies more",
        };
        draft.note(Effect::Closes, place, what);
    }
    unsaid.is_empty() || !allows
}

fn ends(
    draft: &mut Draft,
    names: &Names,
    fields: &Fields,
    ((field, exclude), at): ((&str, &str), (&str, Effect)),
) -> String {
    let empty = Vec::new();
    let given = fields.get(field).unwrap_or(&empty);
    let everything = given.iter().any(|word| word == "ANY" || word == "any");
    let inside = match given.is_empty() || everything {
        true => "any".to_owned(),
        false => {
            let nets = names.prefixes(draft, given, at);
            let hint = match given.as_slice() {
                [only] => only.clone(),
                _ => String::new(),
            };
            draft.named_network(&hint, &nets)
        }
    };
    let holes = fields.get(exclude).unwrap_or(&empty);
    if holes.is_empty() {
        return inside;
    }
    // What is not excluded for want of its addresses is the other way round.
    let effect = match at.1 {
        Effect::Closes => Effect::Opens,
        _ => Effect::Closes,
    };
    let nets = names.prefixes(draft, holes, (at.0, effect));
    let holes = draft.named_network("", &nets);
    crate::draft::all(&[inside, not(&holes)])
}

/// The protocols of a term, each with all its ports.
fn protocols(draft: &mut Draft, words: &[String], at: (&str, Effect)) -> Vec<PortRange> {
    let mut found = Vec::new();
    for word in words {
        match ip_protocol(word) {
            Some(Ok(class)) => found.push(PortRange::all(class)),
            Some(Err(number)) => found.push(numbered(number)),
            None => draft.note(
                at.1,
                at.0,
                format!("the protocol {word:?} is not known here"),
            ),
        }
    }
    found
}

/// Whether a protocol has ports.
fn has_ports(range: &PortRange) -> bool {
    use Protocol::{Sctp, Tcp, Udp, UdpLite};
    [Tcp, Udp, Sctp, UdpLite].contains(&range.protocol)
}

fn ports(
    draft: &mut Draft,
    names: &Names,
    fields: &Fields,
    (protocols, at): (&[PortRange], (&str, Effect)),
) -> Vec<PortRange> {
    let words = |field: &str| fields.get(field).cloned().unwrap_or_default();
    let mut wanted = words("destination-port");
    wanted.extend(words("port"));
    if !words("port").is_empty() {
        let what = "`port` is either side's there; here the asked one's";
        draft.note(at.1, at.0, what);
    }
    let named = !words("protocol").is_empty();
    if !wanted.is_empty() {
        let with: Vec<Protocol> = match named {
            false => vec![Protocol::Tcp, Protocol::Udp],
            true => protocols
                .iter()
                .filter(|one| has_ports(one))
                .map(|one| one.protocol)
                .collect(),
        };
        let mut ranges: Vec<PortRange> = protocols
            .iter()
            .filter(|one| !has_ports(one))
            .copied()
            .collect();
        ranges.extend(names.ports(draft, (&wanted, &with), at));
        return ranges;
    }
    let types = words("icmp-type");
    let mut ranges = Vec::new();
    for own in protocols {
        let icmp = matches!(own.protocol, Protocol::Icmp | Protocol::Icmpv6);
        match icmp && !types.is_empty() {
            true => ranges.extend(icmp_ranges(draft, (&types, own.protocol), at)),
            false => ranges.push(*own),
        }
    }
    match named {
        true => ranges,
        false => every_port(),
    }
}

fn icmp_ranges(
    draft: &mut Draft,
    (types, protocol): (&[String], Protocol),
    at: (&str, Effect),
) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    for name in types {
        let known = TYPES.iter().find(|(known, ..)| known == name);
        let kind = known.and_then(|(_, v4, v6)| match protocol {
            Protocol::Icmp => *v4,
            _ => *v6,
        });
        match kind {
            Some(kind) => ranges.push(PortRange {
                protocol,
                first: Protocol::icmp_port(kind, 0),
                last: Protocol::icmp_port(kind, u8::MAX),
            }),
            None => draft.note(
                at.1,
                at.0,
                format!("the {protocol} type {name:?} is not known here"),
            ),
        }
    }
    ranges
}
