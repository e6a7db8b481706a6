//! What `iptables-save` and `ip6tables-save` print: the table `filter`.
//!
//! The machine itself is what has the label `machine:yes`: INPUT is what comes to it, OUTPUT what
//! it begins. FORWARD is between all others; a network there is a set, and guests whose addresses
//! lie in it need a label that the report names. Chains of one's own are written out where they are
//! called. Where a condition can't be said, an allowing rule is left out and a denying one holds
//! without it: both only close.

use crate::draft::{Draft, Rule, all, not, numbered, prefix};
use crate::value::{file, text};
use crate::{Effect, ImportError, Source};
use ipnet::IpNet;
use lictor_policy::{PortRange, Service};
use lictor_types::Protocol;
use std::collections::BTreeMap;

/// Chains called from chains.
const DEPTH_MAX: usize = 32;
/// Rules after all calls are written out.
const RULES_MAX: usize = 65_536;
const MACHINE: &str = "machine";

type Words = Vec<String>;

#[derive(Debug, Default)]
struct Chain {
    /// The verdict at its end; `-` for a chain of one's own.
    policy: String,
    rules: Vec<(usize, Words)>,
}

/// What a packet must be.
#[derive(Debug, Clone)]
struct Match {
    from: String,
    to: String,
    service: Option<Service>,
    comment: String,
    /// A condition that can't be said.
    unsaid: bool,
    /// Only packets of sessions that are there already.
    old: bool,
}

pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut found = false;
    draft.tier("filter");
    for source in sources {
        let chains = chains(source, &mut draft)?;
        if chains.is_empty() {
            continue;
        }
        found = true;
        let machine = draft.has(MACHINE, "yes");
        let v6 = ["ip6tables", "icmpv6"]
            .iter()
            .any(|word| text(source).is_ok_and(|all| all.contains(word)));
        let what = "of one family only; between guests its rules hold for both, since guests are \
                    matched by labels";
        draft.note(Effect::None, &source.path, what);
        for (chain, at) in [("INPUT", "ingress"), ("OUTPUT", "egress"), ("FORWARD", "")] {
            let Some(top) = chains.get(chain) else {
                continue;
            };
            let whole = if v6 { "::/0" } else { "0.0.0.0/0" };
            let whole: Vec<IpNet> = prefix(whole).into_iter().collect();
            let family = draft.everybody(&whole).unwrap_or_default();
            let others = all(&[not(&machine), family.clone()]);
            let (from, to) = match chain {
                "INPUT" => (family, machine.clone()),
                "OUTPUT" => (machine.clone(), family),
                _ => (others.clone(), others),
            };
            let start = Match {
                from,
                to,
                service: None,
                comment: String::new(),
                unsaid: false,
                old: false,
            };
            let mut walk = Walk {
                draft: &mut draft,
                chains: &chains,
                path: &source.path,
                at,
                count: 0,
            };
            walk.chain(chain, &start, 0)?;
            let action = if top.policy == "ACCEPT" {
                "allow"
            } else {
                "deny"
            };
            walk.rule(&format!("{chain}.policy"), action, &start);
        }
    }
    match found {
        true => Ok(draft),
        false => Err(ImportError::Nothing {
            what: "table `filter` of iptables-save",
        }),
    }
}

/// The chains of the table `filter`. What other tables deny is told.
fn chains(source: &Source, draft: &mut Draft) -> Result<BTreeMap<String, Chain>, ImportError> {
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    let mut table = "";
    for (number, line) in (1..).zip(text(source)?.lines()) {
        let line = uncounted(line.trim());
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if table != "filter" {
            if line.starts_with("-A ") && (line.contains("-j DROP") || line.contains("-j REJECT")) {
                let what =
                    format!("the table {table} is not imported: what it denies is not denied");
                draft.note(Effect::Opens, &source.path, what);
            }
        } else if let Some(line) = line.strip_prefix(':') {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let policy = words.next().unwrap_or("-").to_owned();
            chains.entry(name).or_default().policy = policy;
        } else if line.starts_with("-A ") || line.starts_with("--append ") {
            let words = words(line);
            let name = words.get(1).cloned().unwrap_or_default();
            let chain = chains.get_mut(&name);
            let what =
                format!("line {number}: no chain {name:?}; expected `:{name} - [0:0]` above");
            let chain = chain.ok_or_else(|| file(source, what))?;
            chain.rules.push((number, words[2..].to_vec()));
        } else if !line.is_empty() && !line.starts_with('#') && line != "COMMIT" {
            let what = format!(
                "line {number}: {line:?} is no line of iptables-save; expected `-A CHAIN ...`"
            );
            return Err(file(source, what));
        }
    }
    Ok(chains)
}

/// Without the counters that `iptables-save -c` puts before a rule.
fn uncounted(line: &str) -> &str {
    let counters = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    counters.map_or(line, |(_, rule)| rule)
}

/// Words, with texts in quotes as one.
fn words(line: &str) -> Words {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut escaped, mut any) = (false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                any = true;
            }
            ' ' | '\t' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

struct Walk<'a> {
    draft: &'a mut Draft,
    chains: &'a BTreeMap<String, Chain>,
    path: &'a str,
    at: &'static str,
    count: usize,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, outer: &Match, depth: usize) -> Result<(), ImportError> {
        let chains = self.chains;
        let Some(chain) = chains.get(name).filter(|_| depth <= DEPTH_MAX) else {
            let what = format!("the chain {name} is missing, or chains call each other too deep");
            return Err(ImportError::File {
                path: self.path.to_owned(),
                what,
            });
        };
        let last = chain.rules.len();
        for (index, (line, words)) in chain.rules.iter().enumerate() {
            self.count += 1;
            if self.count > RULES_MAX {
                let what = format!("more than {RULES_MAX} rules with all chains written out");
                return Err(ImportError::File {
                    path: self.path.to_owned(),
                    what,
                });
            }
            let place = format!("{}:{line}", self.path);
            let (found, target) = self.condition(&place, words, outer);
            let name = format!("{name}.{}", index + 1);
            match target.as_str() {
                _ if found.old => {
                    let what = "about sessions that are there already: every session's answers \
                                pass here without a rule";
                    self.draft.note(Effect::None, &place, what);
                }
                "ACCEPT" if found.unsaid => {
                    self.draft
                        .note(Effect::Closes, &place, "left out, as it would allow more");
                }
                "ACCEPT" => self.rule(&name, "allow", &found),
                "DROP" | "REJECT" => {
                    if found.unsaid {
                        let what = "holds without that condition: it denies more";
                        self.draft.note(Effect::Closes, &place, what);
                    }
                    let action = if target == "DROP" { "deny" } else { "reject" };
                    self.rule(&name, action, &found);
                }
                "RETURN" if index + 1 == last && depth > 0 => {}
                "RETURN" => {
                    let what = "RETURN before the end of a chain can't be said: the rules below it \
                                hold for what it would have spared";
                    self.draft.note(Effect::Opens, &place, what);
                }
                "" | "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" => {
                    let what = format!("{target} is no verdict, and is left out");
                    self.draft.note(Effect::None, &place, what);
                }
                own if chains.contains_key(own) => self.chain(own, &found, depth + 1)?,
                other => {
                    let what = format!("the target {other} can't be said; the rule is left out");
                    self.draft.note(Effect::Opens, &place, what);
                }
            }
        }
        Ok(())
    }

    fn rule(&mut self, name: &str, action: &'static str, found: &Match) {
        let service = found.service.clone().unwrap_or_else(Service::any);
        self.draft.rule(Rule {
            name: name.to_owned(),
            action,
            from: found.from.clone(),
            to: found.to.clone(),
            service: service.ranges().to_vec(),
            at: self.at,
            comment: found.comment.clone(),
            ..Rule::default()
        });
    }

    /// The condition of a rule with that of whoever called its chain, and the target.
    fn condition(&mut self, place: &str, words: &[String], outer: &Match) -> (Match, String) {
        let mut found = outer.clone();
        let mut target = String::new();
        let (mut protocol, mut ports): (Option<Protocol>, Option<Vec<PortRange>>) = (None, None);
        let mut negated = false;
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().cloned().unwrap_or_default();
            match word.as_str() {
                "!" => {
                    negated = true;
                    continue;
                }
                "-s" | "--source" => {
                    found.from = self.ends(place, &found.from, (&value(), negated));
                }
                "-d" | "--destination" => {
                    found.to = self.ends(place, &found.to, (&value(), negated));
                }
                "-p" | "--protocol" if !negated => match value().as_str() {
                    "all" | "0" => {}
                    name => match class(name) {
                        Some(Ok(class)) => protocol = Some(class),
                        Some(Err(number)) => ports = Some(vec![numbered(number)]),
                        None => self.unsaid(place, &format!("-p {name}"), &mut found),
                    },
                },
                "--dport" | "--dports" | "--destination-port" | "--destination-ports"
                    if !negated =>
                {
                    let list = value();
                    let own = port_list(protocol, &list);
                    ports = self.told(own, (place, word, &list), &mut found);
                }
                "--icmp-type" | "--icmpv6-type" if !negated => {
                    let kind = value();
                    let own = icmp(protocol, &kind);
                    ports = self.told(own, (place, word, &kind), &mut found);
                }
                "--comment" => found.comment = value(),
                "--state" | "--ctstate" => self.state(place, &value(), negated, &mut found),
                "-j" | "-g" | "--jump" | "--goto" => target = value(),
                "-i" | "-o" if value() == "lo" && !negated => {
                    found.old = true;
                }
                "-m" | "--match" => {
                    let _ = value();
                }
                "--reject-with" | "--log-prefix" | "--log-level" | "--set-mark" => {
                    let _ = value();
                }
                "--tcp-flags" => {
                    let _ = (value(), value());
                    self.unsaid(place, word, &mut found);
                }
                other if other.starts_with('-') => self.unsaid(place, other, &mut found),
                _ => {}
            }
            negated = false;
        }
        let own = ports.or_else(|| protocol.map(|class| vec![PortRange::all(class)]));
        found.service = match (found.service, own) {
            (known, None) => known,
            (None, Some(own)) => Some(Service::new(own)),
            (Some(known), Some(own)) => Some(intersection(&known, &Service::new(own))),
        };
        (found, target)
    }

    /// What a value stands for; where that is not known, the rule is not widened.
    fn told(
        &mut self,
        ports: Option<Vec<PortRange>>,
        (place, word, value): (&str, &str, &str),
        found: &mut Match,
    ) -> Option<Vec<PortRange>> {
        if ports.is_none() && value != "any" {
            self.unsaid(place, &format!("{word} {value}"), found);
        }
        ports
    }

    fn unsaid(&mut self, place: &str, word: &str, found: &mut Match) {
        found.unsaid = true;
        let what = format!("the condition {word} can't be said");
        self.draft.note(Effect::None, place, what);
    }

    fn state(&mut self, place: &str, states: &str, negated: bool, found: &mut Match) {
        let new = states.split(',').any(|state| state == "NEW");
        match (negated, new, states) {
            (false, true, _) => {}
            (false, false, _) => found.old = true,
            (true, _, "NEW") => found.old = true,
            _ => self.unsaid(place, "! --ctstate", found),
        }
    }

    fn ends(&mut self, place: &str, outer: &str, (list, negated): (&str, bool)) -> String {
        let nets: Vec<IpNet> = list.split(',').filter_map(prefix).collect();
        if nets.len() != list.split(',').count() {
            self.draft.note(
                Effect::Opens,
                place,
                format!("{list:?} has what is no prefix"),
            );
        }
        let found = self.draft.network(&nets);
        let found = if negated { not(&found) } else { found };
        all(&[outer.to_owned(), found])
    }
}

fn class(name: &str) -> Option<Result<Protocol, u8>> {
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

/// Nothing if one of them is no number: what a name stands for is not in the file.
fn port_list(protocol: Option<Protocol>, list: &str) -> Option<Vec<PortRange>> {
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let first = if first.is_empty() {
            Some(0)
        } else {
            first.parse().ok()
        };
        let last = if last.is_empty() {
            Some(u16::MAX)
        } else {
            last.parse().ok()
        };
        Some(PortRange {
            protocol,
            first: first?,
            last: last?,
        })
    };
    list.split(',').map(range).collect()
}

/// A type by its number or usual name; nothing else is narrowed.
fn icmp(protocol: Option<Protocol>, text: &str) -> Option<Vec<PortRange>> {
    let protocol = protocol.unwrap_or(Protocol::Icmp);
    let (kind, code) = text
        .split_once('/')
        .map_or((text, None), |(kind, code)| (kind, Some(code)));
    let number: u8 = match (protocol, kind) {
        (Protocol::Icmp, "echo-request") => 8,
        (Protocol::Icmp, "echo-reply") => 0,
        (Protocol::Icmp, "destination-unreachable") => 3,
        (Protocol::Icmp, "time-exceeded") => 11,
        (Protocol::Icmp, "parameter-problem") => 12,
        (Protocol::Icmpv6, "echo-request") => 128,
        (Protocol::Icmpv6, "echo-reply") => 129,
        (_, other) => other.parse().ok()?,
    };
    let codes = code.and_then(|code| code.parse::<u8>().ok());
    let (first, last) = codes.map_or((0, u8::MAX), |code| (code, code));
    Some(vec![PortRange {
        protocol,
        first: Protocol::icmp_port(number, first),
        last: Protocol::icmp_port(number, last),
    }])
}

fn intersection(one: &Service, other: &Service) -> Service {
    let mut ranges = Vec::new();
    for a in one.ranges() {
        for b in other.ranges().iter().filter(|b| b.protocol == a.protocol) {
            let (first, last) = (a.first.max(b.first), a.last.min(b.last));
            if first <= last {
                ranges.push(PortRange {
                    protocol: a.protocol,
                    first,
                    last,
                });
            }
        }
    }
    Service::new(ranges)
}
