//! What a rule asks of a packet.

use super::lines::{Sets, Words};
use crate::draft::{Draft, NOBODY, address_run, all, not, numbered, prefix};
use crate::{Effect, draft};
use ipnet::{IpNet, Ipv4Net};
use lictor_policy::{PortRange, Service};
use lictor_types::Protocol;
use std::net::Ipv4Addr;

/// What packets must be to get where a rule stands.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) service: Service,
    pub(super) comment: String,
    /// A condition that can't be said.
    pub(super) unsaid: bool,
}

/// The condition of one rule by itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    from: Vec<String>,
    to: Vec<String>,
    service: Option<Service>,
    comment: String,
    pub(super) unsaid: bool,
    /// No packet that begins a session can match.
    pub(super) never: bool,
    pub(super) target: String,
    /// Whether what the target hands back does not come here again.
    pub(super) goto: bool,
}

impl Match {
    pub(super) fn and(&self, own: &Own) -> Self {
        let join = |outer: &str, parts: &[String]| {
            let mut list = vec![outer.to_owned()];
            list.extend_from_slice(parts);
            all(&list)
        };
        let service = own.service.as_ref();
        Self {
            from: join(&self.from, &own.from),
            to: join(&self.to, &own.to),
            service: service.map_or_else(|| self.service.clone(), |one| both(&self.service, one)),
            comment: own.comment.clone(),
            unsaid: self.unsaid || own.unsaid,
        }
    }

    /// What is left where a condition spares its packets: by who begins, by who is asked, by ports.
    pub(super) fn without(&self, own: &Own) -> Vec<Self> {
        let mut left = Vec::new();
        let mut rest = self.clone();
        if !own.from.is_empty() {
            let inside = all(&own.from);
            let from = all(&[rest.from.clone(), not(&inside)]);
            left.push(Self {
                from,
                ..rest.clone()
            });
            rest.from = all(&[rest.from, inside]);
        }
        if !own.to.is_empty() {
            let inside = all(&own.to);
            let to = all(&[rest.to.clone(), not(&inside)]);
            left.push(Self { to, ..rest.clone() });
            rest.to = all(&[rest.to, inside]);
        }
        if let Some(service) = &own.service {
            let service = minus(&rest.service, service);
            left.push(Self { service, ..rest });
        }
        left.retain(|one| !one.is_empty());
        left
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from == NOBODY || self.to == NOBODY || self.service.ranges().is_empty()
    }
}

/// Reads the condition of a rule.
pub(super) struct Reading<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) sets: &'a Sets,
    pub(super) place: &'a str,
    /// The chain of the kernel from which this one is called.
    pub(super) base: &'static str,
    pub(super) own: Own,
    pub(super) protocol: Option<Protocol>,
}

impl Reading<'_> {
    pub(super) fn read(mut self, words: &Words) -> Own {
        let mut at = 0;
        let mut negated = false;
        while let Some(word) = words.get(at) {
            at += 1;
            if word == "!" {
                negated = true;
                continue;
            }
            // A text may begin as an option does.
            let text = ["--comment", "--log-prefix", "--nflog-prefix"].contains(&word.as_str());
            // Older versions write the negation behind the option.
            if !text && words.get(at).is_some_and(|next| next == "!") {
                negated = true;
                at += 1;
            }
            let option = |next: &&String| text || !next.starts_with("--") && *next != "!";
            let values: Vec<&str> = words[at..]
                .iter()
                .take(2)
                .take_while(option)
                .map(String::as_str)
                .collect();
            at += self.option((word, negated), &values).min(values.len());
            negated = false;
        }
        self.own
    }

    /// Reads one option, and gives how many values it took.
    fn option(&mut self, (word, negated): (&str, bool), values: &[&str]) -> usize {
        let value = values.first().copied().unwrap_or_default();
        match word {
            "-s" | "--source" | "-d" | "--destination" => self.ends(word, value, negated),
            "--src-range" | "--dst-range" => {
                let nets = address_run(value).or_else(|| prefix(value).map(|net| vec![net]));
                self.told_ends((word, value, negated), nets);
            }
            "--match-set" => return self.set(values, negated),
            "-p" | "--protocol" => self.of_protocol(value, negated),
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => {
                let ranges = port_list(self.protocol, value);
                self.ranges((word, value, negated), ranges);
            }
            "--icmp-type" | "--icmpv6-type" if value != "any" => {
                let ranges = icmp(self.protocol, value);
                self.ranges((word, value, negated), ranges);
            }
            "--comment" => value.clone_into(&mut self.own.comment),
            "--state" | "--ctstate" => self.state(value, negated),
            "--dst-type" | "--src-type" => self.kind((word, value), negated),
            "-j" | "-g" | "--jump" | "--goto" => {
                value.clone_into(&mut self.own.target);
                self.own.goto = word.contains('g');
            }
            // No packet of a guest comes from the loopback or goes there.
            "-i" | "-o" | "--in-interface" | "--out-interface" if value == "lo" => {
                self.own.never |= !negated;
            }
            "-i" | "-o" | "--in-interface" | "--out-interface" if value == "+" => {}
            "--syn" => {
                self.own.never |= negated;
                return 0;
            }
            "--tcp-flags" => {
                let flags = values.get(1).copied().unwrap_or_default();
                self.own.never |= begins(value, flags) == negated;
                return 2;
            }
            "-m" | "--match" | "--reject-with" | "--log-prefix" | "--log-level" | "--set-mark"
            | "--icmp-type" | "--icmpv6-type" => {}
            other if other.starts_with('-') => {
                self.unsaid(other);
                return 0;
            }
            _ => return 0,
        }
        1
    }

    fn unsaid(&mut self, word: &str) {
        self.own.unsaid = true;
        let what = format!("the condition {word} can't be said");
        self.draft.note(Effect::None, self.place, what);
    }

    fn ends(&mut self, word: &str, list: &str, negated: bool) {
        let nets: Option<Vec<IpNet>> = list.split(',').map(network).collect();
        self.told_ends((word, list, negated), nets);
    }

    fn told_ends(&mut self, (word, text, negated): (&str, &str, bool), nets: Option<Vec<IpNet>>) {
        let Some(nets) = nets else {
            return self.unsaid(&format!("{word} {text}"));
        };
        let found = self.draft.network(&nets);
        let source = matches!(word, "-s" | "--source" | "--src-range");
        self.end(source, if negated { not(&found) } else { found });
    }

    fn end(&mut self, source: bool, found: String) {
        match source {
            true => self.own.from.push(found),
            false => self.own.to.push(found),
        }
    }

    /// `--match-set NAME src`, of sets with plain addresses that are in the files.
    fn set(&mut self, values: &[&str], negated: bool) -> usize {
        let (name, way) = match values {
            [name, way @ ("src" | "dst"), ..] => (*name, *way),
            _ => {
                self.unsaid(&format!("--match-set {}", values.join(" ")));
                return 2;
            }
        };
        let Some(set) = self.sets.get(name) else {
            self.unsaid(&format!("--match-set {name}, which is not in these files,"));
            return 2;
        };
        let inside = self.draft.named_network(name, &set.inside);
        let found = match set.holes.is_empty() {
            true => inside,
            false => {
                let holes = self.draft.network(&set.holes);
                format!("({})", all(&[inside, not(&holes)]))
            }
        };
        let found = if negated { not(&found) } else { found };
        self.end(way == "src", found);
        2
    }

    fn of_protocol(&mut self, name: &str, negated: bool) {
        let own = match name {
            "all" | "0" if negated => return self.own.never = true,
            "all" | "0" => return,
            name => match draft::ip_protocol(name) {
                Some(Ok(class)) => {
                    if !negated {
                        self.protocol = Some(class);
                    }
                    Service::new(vec![PortRange::all(class)])
                }
                Some(Err(number)) => Service::new(vec![numbered(number)]),
                None => return self.unsaid(&format!("-p {name}")),
            },
        };
        self.narrow(if negated {
            minus(&Service::any(), &own)
        } else {
            own
        });
    }

    /// What a value stands for; where that is not known, the rule is not widened.
    fn ranges(&mut self, (word, value, negated): (&str, &str, bool), own: Option<Vec<PortRange>>) {
        let Some(own) = own else {
            return self.unsaid(&format!("{word} {value}"));
        };
        let own = Service::new(own);
        let whole = own
            .ranges()
            .first()
            .map(|range| PortRange::all(range.protocol));
        let whole = Service::new(whole.into_iter().collect());
        self.narrow(if negated { minus(&whole, &own) } else { own });
    }

    fn narrow(&mut self, own: Service) {
        let known = self.own.service.as_ref();
        self.own.service = Some(known.map_or_else(|| own.clone(), |known| both(known, &own)));
    }

    /// A packet that begins a session is NEW and nothing else, but may come to an address that is
    /// translated.
    fn state(&mut self, states: &str, negated: bool) {
        let mut states = states.split(',');
        let new = states.clone().any(|state| state == "NEW");
        if !new && states.any(|state| ["DNAT", "SNAT"].contains(&state)) {
            return self.unsaid("--ctstate DNAT");
        }
        self.own.never |= new == negated;
    }

    /// What is local is the machine itself. Nothing here is sent to a group or to all.
    fn kind(&mut self, (word, value): (&str, &str), negated: bool) {
        let local = value == "LOCAL";
        let known = match (self.base, word) {
            ("INPUT", "--dst-type") | ("OUTPUT", "--src-type") => Some(local),
            ("FORWARD", _) if local => Some(false),
            (_, "--dst-type") if ["BROADCAST", "MULTICAST", "ANYCAST"].contains(&value) => {
                Some(false)
            }
            _ => None,
        };
        match known {
            Some(holds) => self.own.never |= holds == negated,
            None => self.unsaid(&format!("{word} {value}")),
        }
    }
}

/// A prefix; older versions print a mask of four bytes.
fn network(text: &str) -> Option<IpNet> {
    prefix(text).or_else(|| {
        let (address, mask) = text.split_once('/')?;
        let (address, mask): (Ipv4Addr, Ipv4Addr) = (address.parse().ok()?, mask.parse().ok()?);
        let net = Ipv4Net::with_netmask(address, mask).ok()?;
        Some(IpNet::V4(net.trunc()))
    })
}

/// Whether a packet that begins a TCP session has these flags, of those that are looked at: SYN
/// and no other.
fn begins(mask: &str, set: &str) -> bool {
    let has = |list: &str, flag: &str| list.split(',').any(|one| one == flag || one == "ALL");
    let flags = ["SYN", "ACK", "FIN", "RST", "URG", "PSH"];
    let looked = flags.iter().filter(|flag| has(mask, flag));
    looked
        .into_iter()
        .all(|flag| has(set, flag) == (*flag == "SYN"))
}

/// What two services share.
fn both(one: &Service, other: &Service) -> Service {
    let mut ranges = Vec::new();
    for a in one.ranges() {
        for b in other.ranges().iter().filter(|b| b.protocol == a.protocol) {
            let (first, last) = (a.first.max(b.first), a.last.min(b.last));
            if first <= last {
                ranges.push(PortRange { first, last, ..*a });
            }
        }
    }
    Service::new(ranges)
}

/// What a service has and another has not.
fn minus(one: &Service, other: &Service) -> Service {
    let mut left = Vec::new();
    for whole in one.ranges() {
        let mut next = Some(whole.first);
        let same = |hole: &&PortRange| hole.protocol == whole.protocol;
        for hole in other.ranges().iter().filter(same) {
            let Some(first) = next.filter(|first| hole.last >= *first && hole.first <= whole.last)
            else {
                continue;
            };
            if let Some(last) = hole.first.checked_sub(1).filter(|last| *last >= first) {
                left.push(PortRange {
                    first,
                    last,
                    ..*whole
                });
            }
            next = hole.last.checked_add(1);
        }
        if let Some(first) = next.filter(|first| *first <= whole.last) {
            left.push(PortRange { first, ..*whole });
        }
    }
    Service::new(left)
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

/// Types by their usual names.
const TYPES: [(&str, Protocol, u8, Option<u8>); 22] = [
    ("echo-reply", Protocol::Icmp, 0, None),
    ("destination-unreachable", Protocol::Icmp, 3, None),
    ("network-unreachable", Protocol::Icmp, 3, Some(0)),
    ("host-unreachable", Protocol::Icmp, 3, Some(1)),
    ("protocol-unreachable", Protocol::Icmp, 3, Some(2)),
    ("port-unreachable", Protocol::Icmp, 3, Some(3)),
    ("fragmentation-needed", Protocol::Icmp, 3, Some(4)),
    ("source-quench", Protocol::Icmp, 4, None),
    ("redirect", Protocol::Icmp, 5, None),
    ("echo-request", Protocol::Icmp, 8, None),
    ("time-exceeded", Protocol::Icmp, 11, None),
    ("parameter-problem", Protocol::Icmp, 12, None),
    ("destination-unreachable", Protocol::Icmpv6, 1, None),
    ("packet-too-big", Protocol::Icmpv6, 2, None),
    ("time-exceeded", Protocol::Icmpv6, 3, None),
    ("parameter-problem", Protocol::Icmpv6, 4, None),
    ("echo-request", Protocol::Icmpv6, 128, None),
    ("echo-reply", Protocol::Icmpv6, 129, None),
    ("router-solicitation", Protocol::Icmpv6, 133, None),
    ("router-advertisement", Protocol::Icmpv6, 134, None),
    ("neighbour-solicitation", Protocol::Icmpv6, 135, None),
    ("neighbour-advertisement", Protocol::Icmpv6, 136, None),
];

/// A type by its number or usual name, with a code if there is one.
pub(crate) fn icmp(protocol: Option<Protocol>, text: &str) -> Option<Vec<PortRange>> {
    let protocol = protocol.unwrap_or(Protocol::Icmp);
    let text = text.replace("neighbor-", "neighbour-");
    let mut names = TYPES.iter();
    let known = names.find(|(name, of, ..)| *name == text && *of == protocol);
    let (number, code) = match (known, text.split_once('/')) {
        (Some((_, _, number, code)), _) => (*number, *code),
        (None, Some((kind, code))) => (kind.parse().ok()?, Some(code.parse().ok()?)),
        (None, None) => (text.parse().ok()?, None),
    };
    let (first, last) = code.map_or((0, u8::MAX), |code| (code, code));
    Some(vec![PortRange {
        protocol,
        first: Protocol::icmp_port(number, first),
        last: Protocol::icmp_port(number, last),
    }])
}
