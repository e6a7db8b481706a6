//! Policies and definitions of Aerleon and Capirca: `.pol` and YAML policies, `.net`, `.svc` and
//! YAML definitions. A filter becomes an ordered tier; its terms speak of addresses, as sets.

use crate::draft::{Draft, Rule, every_port, not, prefix};
use crate::value::{list, scalar, str, text, yaml};
use crate::{Effect, ImportError, Source};
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
            "pol" => pol(&mut draft, source, &includes, &mut filters)?,
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
            term(&mut draft, &names, (&filter.place, name), fields);
        }
    }
    Ok(draft)
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
            "" => str(item, "name").to_owned(),
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
            yaml_term(draft, one, (&place, includes), &mut terms)?;
        }
        filters.push(Filter { place, terms });
    }
    Ok(())
}

fn yaml_term(
    draft: &mut Draft,
    value: &Value,
    (place, includes): (&str, &BTreeMap<&str, &Source>),
    terms: &mut Vec<(String, Fields)>,
) -> Result<(), ImportError> {
    let include = str(value, "include");
    if !include.is_empty() {
        let Some(source) = includes.get(base(include)) else {
            let what = format!("the included file {include} is not among the files; left out");
            draft.note(Effect::Opens, place, what);
            return Ok(());
        };
        for document in yaml(source)? {
            for one in list(&document, "terms") {
                // An included file includes no further ones.
                if one["include"].is_null() {
                    yaml_term(draft, one, (place, includes), terms)?;
                }
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

/// The text form: `header { .. }` begins a filter, `term NAME { field:: words }` follow.
fn pol(
    draft: &mut Draft,
    source: &Source,
    includes: &BTreeMap<&str, &Source>,
    filters: &mut Vec<Filter>,
) -> Result<(), ImportError> {
    let (mut header, mut open): (bool, Option<(String, Fields)>) = (false, None);
    let mut lines: Vec<String> = Vec::new();
    for line in text(source)?.lines() {
        let Some(include) = line.trim().strip_prefix("#include") else {
            lines.push(line.to_owned());
            continue;
        };
        let name = include.trim().trim_matches(['\'', '"']);
        match includes.get(base(name)) {
            Some(included) => lines.extend(text(included)?.lines().map(str::to_owned)),
            None => {
                let what = format!("the included file {name} is not among the files; left out");
                draft.note(Effect::Opens, &source.path, what);
            }
        }
    }
    let mut count = 0;
    let mut last = String::new();
    for line in &lines {
        let quoted = line.contains('"');
        let line = match quoted {
            true => line.trim(),
            false => line.split('#').next().unwrap_or_default().trim(),
        };
        if let Some(name) = line.strip_prefix("term ") {
            let name = name.trim_end_matches('{').trim().to_owned();
            open = Some((name, Fields::new()));
        } else if line.starts_with("header") {
            header = true;
            count += 1;
            let place = format!("{}: filter {count}", source.path);
            filters.push(Filter {
                place,
                terms: Vec::new(),
            });
        } else if line.starts_with('}') {
            if let (Some(done), Some(filter)) = (open.take(), filters.last_mut()) {
                filter.terms.push(done);
            }
            header = false;
        } else if let (Some((_, fields)), false) = (&mut open, header) {
            let (field, words) = match line.split_once("::") {
                Some((field, words)) if !field.contains(' ') => {
                    last = field.to_owned();
                    (field, words)
                }
                _ => (last.as_str(), line),
            };
            let own = fields.entry(field.to_owned()).or_default();
            match quoted {
                true => own.push(words.trim().trim_matches('"').to_owned()),
                false => own.extend(words.split_whitespace().map(str::to_owned)),
            }
        }
    }
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
const KNOWN: [&str; 24] = [
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
    "counter",
    "policer",
    "platform",
    "platform-exclude",
    "verbatim",
    "stateless-reply",
    "target-resources",
];

fn term(draft: &mut Draft, names: &Names, (place, name): (&str, &str), fields: &Fields) {
    let place = format!("{place}: term {name}");
    let empty = Vec::new();
    let get = |field: &str| fields.get(field).unwrap_or(&empty);
    let action = match get("action").first().map(String::as_str) {
        Some("accept") => "allow",
        Some("deny") => "deny",
        Some("reject" | "reject-with-tcp-rst") => "reject",
        other => {
            let what = format!("the action {other:?} can't be said; the term is left out");
            draft.note(Effect::Opens, &place, what);
            return;
        }
    };
    let allows = action == "allow";
    let effect = if allows {
        Effect::Closes
    } else {
        Effect::Opens
    };
    if !sayable(draft, fields, (&place, allows)) {
        return;
    }
    let at = (place.as_str(), effect);
    let protocols = protocols(draft, get("protocol"), at);
    let service = ports(draft, names, fields, (&protocols, at));
    let from = ends(draft, names, fields, ("source", at));
    let to = ends(draft, names, fields, ("destination", at));
    let last_day = get("expiration")
        .first()
        .and_then(|text| text.parse::<Date>().ok());
    draft.rule(Rule {
        name: name.to_owned(),
        action,
        from,
        to,
        service,
        owner: get("owner").join(" "),
        comment: get("comment").join(" "),
        expires: last_day.map_or(String::new(), |day| day.to_string()),
        log: !get("logging").is_empty(),
        ..Rule::default()
    });
}

/// Whether a term can be a rule, with notes of what it would lose.
fn sayable(draft: &mut Draft, fields: &Fields, (place, allows): (&str, bool)) -> bool {
    let given = |field: &str| fields.get(field).is_some_and(|words| !words.is_empty());
    let mut options = fields.get("option").into_iter().flatten();
    if options.any(|word| word.contains("established")) {
        let what = "about sessions that are there already: answers pass here without a rule";
        draft.note(Effect::None, place, what);
        return false;
    }
    let mut unsaid = given("source-port");
    for field in fields
        .keys()
        .filter(|field| !KNOWN.contains(&field.as_str()))
    {
        unsaid = true;
        draft.note(
            Effect::None,
            place,
            format!("the condition {field} can't be said"),
        );
    }
    if unsaid {
        let what = match allows {
            true => "left out, as it would allow more without a condition",
            false => "holds without that condition: it denies more",
        };
        draft.note(Effect::Closes, place, what);
    }
    !(unsaid && allows)
}

fn ends(
    draft: &mut Draft,
    names: &Names,
    fields: &Fields,
    (side, at): (&str, (&str, Effect)),
) -> String {
    let words = |field: String| fields.get(&field).cloned().unwrap_or_default();
    let mut given = words(format!("{side}-address"));
    given.extend(words("address".into()));
    let everything = given.iter().any(|word| word == "ANY");
    let inside = match given.is_empty() || everything {
        true => "any".to_owned(),
        false => {
            let nets = names.prefixes(draft, &given, at);
            let hint = if given.len() == 1 {
                given[0].clone()
            } else {
                String::new()
            };
            draft.named_network(&hint, &nets)
        }
    };
    let holes = words(format!("{side}-exclude"));
    if holes.is_empty() {
        return inside;
    }
    let nets = names.prefixes(draft, &holes, at);
    let holes = draft.named_network("", &nets);
    crate::draft::all(&[inside, not(&holes)])
}

fn protocols(draft: &mut Draft, words: &[String], at: (&str, Effect)) -> Vec<Protocol> {
    let mut found = Vec::new();
    for word in words {
        match word.as_str() {
            "tcp" => found.push(Protocol::Tcp),
            "udp" => found.push(Protocol::Udp),
            "sctp" => found.push(Protocol::Sctp),
            "icmp" => found.push(Protocol::Icmp),
            "icmpv6" | "ipv6-icmp" => found.push(Protocol::Icmpv6),
            "gre" | "esp" | "ah" | "igmp" | "ospf" => {}
            other => draft.note(
                at.1,
                at.0,
                format!("the protocol {other:?} is not known here"),
            ),
        }
    }
    found
}

/// Types of ICMP by the names of the RFCs.
const TYPES: [(&str, u8, u8); 12] = [
    ("echo-reply", 0, 129),
    ("unreachable", 3, 1),
    ("source-quench", 4, 0),
    ("redirect", 5, 0),
    ("echo-request", 8, 128),
    ("time-exceeded", 11, 3),
    ("parameter-problem", 12, 4),
    ("destination-unreachable", 3, 1),
    ("packet-too-big", 0, 2),
    ("router-solicit", 0, 133),
    ("router-advertisement", 9, 134),
    ("redirect-message", 0, 137),
];

fn ports(
    draft: &mut Draft,
    names: &Names,
    fields: &Fields,
    (protocols, at): (&[Protocol], (&str, Effect)),
) -> Vec<PortRange> {
    let words = |field: &str| fields.get(field).cloned().unwrap_or_default();
    let mut wanted = words("destination-port");
    wanted.extend(words("port"));
    if !words("port").is_empty() {
        draft.note(
            Effect::Closes,
            at.0,
            "`port` is either side's there; here the asked one's",
        );
    }
    let named = words("protocol");
    let mut ranges: Vec<PortRange> = named.iter().filter_map(|name| name.parse().ok()).collect();
    if !wanted.is_empty() {
        let with: Vec<Protocol> = match protocols.is_empty() {
            true => vec![Protocol::Tcp, Protocol::Udp],
            false => protocols.to_vec(),
        };
        ranges.extend(names.ports(draft, (&wanted, &with), at));
        return ranges;
    }
    let types = words("icmp-type");
    for protocol in protocols.iter().copied() {
        let icmp = matches!(protocol, Protocol::Icmp | Protocol::Icmpv6);
        if !icmp || types.is_empty() {
            ranges.push(PortRange::all(protocol));
            continue;
        }
        for name in &types {
            let found = TYPES.iter().find(|(known, ..)| known == name);
            let Some((_, v4, v6)) = found else {
                draft.note(
                    at.1,
                    at.0,
                    format!("the ICMP type {name:?} is not known here"),
                );
                continue;
            };
            let kind = if protocol == Protocol::Icmp { *v4 } else { *v6 };
            ranges.push(PortRange {
                protocol,
                first: Protocol::icmp_port(kind, 0),
                last: Protocol::icmp_port(kind, u8::MAX),
            });
        }
    }
    if ranges.is_empty() && named.is_empty() {
        every_port()
    } else {
        ranges
    }
}
