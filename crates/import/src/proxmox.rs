//! Proxmox VE's firewall files: `cluster.fw`, `VMID.fw` and `host.fw`. A guest is `vm:VMID`; its
//! rules speak at its own end. What concerns hosts speaks at their own devices.

use crate::draft::{Draft, NOBODY, Rule, address_run, either, every_port, not, prefix};
use crate::value::{file, text};
use crate::{Effect, ImportError, Source};
use ipnet::IpNet;
use lictor_policy::{Labels, PortRange};
use lictor_types::Protocol;
use std::collections::BTreeMap;

/// Macros of pve-firewall that are protocols and ports.
const MACROS: [(&str, &str); 34] = [
    ("SSH", "tcp/22"),
    ("HTTP", "tcp/80"),
    ("HTTPS", "tcp/443"),
    ("Web", "tcp/80 tcp/443"),
    ("DNS", "tcp/53 udp/53"),
    ("NTP", "udp/123"),
    ("SMTP", "tcp/25"),
    ("SMTPS", "tcp/465"),
    ("Submission", "tcp/587"),
    ("IMAP", "tcp/143"),
    ("IMAPS", "tcp/993"),
    ("POP3", "tcp/110"),
    ("POP3S", "tcp/995"),
    ("FTP", "tcp/21"),
    ("TFTP", "udp/69"),
    ("Telnet", "tcp/23"),
    ("LDAP", "tcp/389"),
    ("LDAPS", "tcp/636"),
    ("MySQL", "tcp/3306"),
    ("PostgreSQL", "tcp/5432"),
    ("RDP", "tcp/3389"),
    ("SMB", "udp/135 udp/445 udp/137-139 tcp/135 tcp/139 tcp/445"),
    ("SNMP", "udp/161-162 tcp/161"),
    ("Syslog", "udp/514 tcp/514"),
    ("Ping", "icmp/8"),
    ("Trcrt", "udp/33434-33524 icmp/8"),
    ("Rsync", "tcp/873"),
    ("Git", "tcp/9418"),
    ("VNC", "tcp/5900-5909"),
    ("DHCPfwd", "udp/67-68"),
    ("MSSQL", "tcp/1433"),
    ("Squid", "tcp/3128"),
    ("Munin", "tcp/4949"),
    ("Ceph", "tcp/6789 tcp/3300 tcp/6800-7300"),
];

/// A file in its sections: the section's name and its argument, and its lines.
type Sections = Vec<(String, String, Vec<String>)>;

/// Names that all files share, and those of one guest.
#[derive(Debug, Default, Clone)]
struct Names {
    aliases: BTreeMap<String, IpNet>,
    sets: BTreeMap<String, (Vec<IpNet>, Vec<IpNet>)>,
    groups: BTreeMap<String, Vec<String>>,
}

pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut files = Vec::new();
    for source in sources {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        let known = |stem: &&str| {
            let guest = !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit());
            guest || ["cluster", "host"].contains(stem)
        };
        let stem = name.strip_suffix(".fw").filter(known);
        if let Some(stem) = stem {
            files.push((stem.to_owned(), source.path.clone(), sections(source)?));
        }
    }
    if files.is_empty() {
        let what = "cluster.fw, host.fw or VMID.fw";
        return Err(ImportError::Nothing { what });
    }
    let mut draft = Draft::default();
    let mut shared = Names::default();
    for (_, path, sections) in files.iter().filter(|(stem, ..)| stem == "cluster") {
        shared.read(&mut draft, path, sections);
    }
    let guest = |stem: &str| stem.bytes().all(|byte| byte.is_ascii_digit());
    for (stem, ..) in files.iter().filter(|(stem, ..)| guest(stem)) {
        let labels = Labels::from([("vm".to_owned(), stem.clone())]);
        draft.guest(format!("vm-{stem}"), labels, Vec::new());
    }
    draft.tier("firewall");
    for (stem, path, sections) in &files {
        let mut names = shared.clone();
        names.read(&mut draft, path, sections);
        let own = match guest(stem) {
            true => draft.has("vm", stem),
            false => "hosts".to_owned(),
        };
        File {
            draft: &mut draft,
            names: &names,
            path,
            own,
            stem,
        }
        .rules(sections, guest(stem));
    }
    Ok(draft)
}

fn sections(source: &Source) -> Result<Sections, ImportError> {
    let mut sections: Sections = Vec::new();
    for (number, line) in (1..).zip(text(source)?.lines()) {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            let what = format!("line {number}: a section without `]`");
            let (head, _) = head.split_once(']').ok_or_else(|| file(source, what))?;
            let (name, argument) = head.split_once(char::is_whitespace).unwrap_or((head, ""));
            let name = name.to_uppercase();
            sections.push((name, argument.trim().to_owned(), Vec::new()));
        } else if !line.is_empty() && !line.starts_with('#') {
            let what = format!("line {number}: a line before any section");
            let last = sections.last_mut().ok_or_else(|| file(source, what))?;
            last.2.push(line.to_owned());
        }
    }
    Ok(sections)
}

fn plain(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// Names are of the data centre (`dc/`) or of the guest; here the guest's hide the others.
fn bare(name: &str) -> String {
    name.trim_start_matches("dc/")
        .trim_start_matches("guest/")
        .to_lowercase()
}

impl Names {
    fn read(&mut self, draft: &mut Draft, path: &str, sections: &Sections) {
        for (name, _, lines) in sections.iter().filter(|(name, ..)| name == "ALIASES") {
            for line in lines {
                let mut words = plain(line).split_whitespace();
                if let (Some(alias), Some(net)) = (words.next(), words.next().and_then(prefix)) {
                    self.aliases.insert(bare(alias), net);
                } else {
                    let place = format!("{path}: {name}");
                    draft.note(Effect::Closes, &place, format!("{line:?} is no alias"));
                }
            }
        }
        for (name, argument, lines) in sections {
            let argument = plain(argument);
            if name == "IPSET" {
                let mut set = (Vec::new(), Vec::new());
                for line in lines {
                    let (word, hole) = match plain(line).strip_prefix('!') {
                        Some(word) => (word.trim(), true),
                        None => (plain(line), false),
                    };
                    let net = self
                        .aliases
                        .get(&bare(word))
                        .copied()
                        .or_else(|| prefix(word));
                    let list = if hole { &mut set.1 } else { &mut set.0 };
                    match net {
                        Some(net) => list.push(net),
                        None => {
                            let place = format!("{path}: IPSET {argument}");
                            draft.note(Effect::Opens, &place, format!("{word:?} is left out"));
                        }
                    }
                }
                self.sets.insert(bare(argument), set);
            } else if name == "GROUP" {
                self.groups.insert(argument.to_lowercase(), lines.clone());
            }
        }
    }

    /// `10.0.0.0/8`, `alias`, `+ipset`, a range, or several with commas.
    fn ends(&self, draft: &mut Draft, text: &str, at: (&str, Effect)) -> String {
        let mut parts = Vec::new();
        let mut nets = Vec::new();
        for item in text.split(',').map(str::trim) {
            if let Some(name) = item.strip_prefix('+') {
                let Some((inside, holes)) = self.sets.get(&bare(name)) else {
                    draft.note(
                        at.1,
                        at.0,
                        format!("the IP set {name:?} is not in these files"),
                    );
                    continue;
                };
                let set = draft.addresses(&bare(name), inside);
                parts.push(match holes.is_empty() {
                    true => set,
                    false => {
                        let holes = draft.addresses("", holes);
                        format!("({set} & {})", not(&holes))
                    }
                });
            } else if let Some(net) = self.aliases.get(&bare(item)) {
                nets.push(*net);
            } else if let Some(net) = prefix(item) {
                nets.push(net);
            } else if let Some(range) = address_run(item) {
                nets.extend(range);
            } else {
                draft.note(
                    at.1,
                    at.0,
                    format!("{item:?} is no address, alias or IP set"),
                );
            }
        }
        if !nets.is_empty() {
            parts.push(draft.addresses("", &nets));
        }
        either(&parts)
    }
}

struct File<'a> {
    draft: &'a mut Draft,
    names: &'a Names,
    path: &'a str,
    own: String,
    stem: &'a str,
}

impl File<'_> {
    fn rules(&mut self, sections: &Sections, guest: bool) {
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        for (_, _, lines) in sections.iter().filter(|(name, ..)| name == "OPTIONS") {
            for line in lines {
                if let Some((key, value)) = plain(line).split_once(':') {
                    options.insert(key.trim().to_lowercase(), value.trim().to_owned());
                }
            }
        }
        let on = options.get("enable").is_some_and(|value| value != "0");
        if !on && guest {
            let what = "the firewall of this guest is off there: everything is allowed at its end";
            self.draft.note(Effect::None, self.path, what);
            self.end("off", "IN", "allow");
            self.end("off", "OUT", "allow");
            return;
        }
        let lines = sections.iter().filter(|(name, ..)| name == "RULES");
        for (index, line) in lines.flat_map(|(_, _, lines)| lines).enumerate() {
            self.line(line, &format!("{}.{}", self.stem, index + 1), true);
        }
        if guest {
            for (option, way, fallback) in
                [("policy_in", "IN", "DROP"), ("policy_out", "OUT", "ACCEPT")]
            {
                let policy = options.get(option).map_or(fallback, String::as_str);
                if let Some(action) = action(policy) {
                    self.end(option, way, action);
                }
            }
        }
        let known = ["enable", "policy_in", "policy_out"];
        for (key, value) in options
            .iter()
            .filter(|(key, _)| !known.contains(&key.as_str()))
        {
            let what = format!("the option {key}: {value} is not about rules, and is left out");
            self.draft.note(Effect::None, self.path, what);
        }
    }

    /// What holds for all else at the own end.
    fn end(&mut self, name: &str, way: &str, action: &'static str) {
        let name = format!("{}.{name}.{}", self.stem, way.to_lowercase());
        let everything = Options {
            from: "any".into(),
            to: "any".into(),
            ports: every_port(),
            log: false,
            unsaid: false,
        };
        self.write((&name, way, action), everything, "");
    }

    fn write(
        &mut self,
        (name, way, action): (&str, &str, &'static str),
        found: Options,
        comment: &str,
    ) {
        let join = |part: String, own: &str| crate::draft::all(&[part, own.to_owned()]);
        let (from, to, at) = match way {
            "IN" => (found.from, join(found.to, &self.own), "ingress"),
            _ => (join(found.from, &self.own), found.to, "egress"),
        };
        self.draft.rule(Rule {
            name: name.to_owned(),
            action,
            from,
            to,
            service: found.ports,
            at,
            comment: comment.to_owned(),
            log: found.log,
            ..Rule::default()
        });
    }

    fn line(&mut self, line: &str, name: &str, groups: bool) {
        let place = format!("{}: {line}", self.path);
        let (text, comment) = line.split_once('#').unwrap_or((line, ""));
        let text = text.trim();
        if text.starts_with('|') {
            self.draft
                .note(Effect::None, &place, "disabled, and left out");
            return;
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["GROUP", group, rest @ ..] if groups => {
                if !rest.is_empty() {
                    self.draft
                        .note(Effect::Opens, &place, "the interface can't be said");
                }
                self.group(group, name, &place);
            }
            [way @ ("IN" | "OUT"), target, options @ ..] => {
                self.one((*way, *target, options), (name, &place), comment.trim());
            }
            _ => {
                self.draft.note(
                    Effect::Opens,
                    &place,
                    "not a rule that is known here; left out",
                );
            }
        }
    }

    fn group(&mut self, group: &str, name: &str, place: &str) {
        let Some(lines) = self.names.groups.get(&group.to_lowercase()).cloned() else {
            let what = format!("the group {group} is not in these files; left out");
            self.draft.note(Effect::Opens, place, what);
            return;
        };
        for (index, line) in lines.iter().enumerate() {
            self.line(line, &format!("{name}.{group}.{}", index + 1), false);
        }
    }

    fn one(
        &mut self,
        (way, target, options): (&str, &str, &[&str]),
        (name, place): (&str, &str),
        comment: &str,
    ) {
        let (name_of_macro, verdict) = match target.split_once('(') {
            Some((name, verdict)) => (Some(name), verdict.trim_end_matches(')')),
            None => (None, target),
        };
        let Some(action) = action(verdict) else {
            self.draft.note(
                Effect::Opens,
                place,
                format!("the action {target} is not known"),
            );
            return;
        };
        let effect = if action == "allow" {
            Effect::Closes
        } else {
            Effect::Opens
        };
        let Some(found) = self.options(options, name_of_macro, (place, effect)) else {
            return;
        };
        if found.unsaid {
            let what = match action {
                "allow" => "left out, as it would allow more",
                _ => "holds without that condition: denies more",
            };
            self.draft.note(Effect::Closes, place, what);
            if action == "allow" {
                return;
            }
        }
        self.write((name, way, action), found, comment);
    }

    fn options(
        &mut self,
        words: &[&str],
        macro_name: Option<&str>,
        at: (&str, Effect),
    ) -> Option<Options> {
        let mut found = Options {
            from: "any".into(),
            to: "any".into(),
            ports: Vec::new(),
            log: false,
            unsaid: false,
        };
        let (mut protocol, mut ports, mut kind) = (None, None, None);
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let value = rest.next().copied().unwrap_or_default();
            match word.trim_start_matches('-') {
                "source" => found.from = self.names.ends(self.draft, value, at),
                "dest" => found.to = self.names.ends(self.draft, value, at),
                "p" | "proto" => protocol = Some(value),
                "dport" => ports = Some(value),
                "icmp-type" => kind = Some(value),
                "log" => found.log = value != "nolog",
                other => {
                    found.unsaid = true;
                    self.draft
                        .note(Effect::None, at.0, format!("{other} can't be said"));
                }
            }
        }
        if found.from == NOBODY || found.to == NOBODY {
            return None;
        }
        found.ports = match macro_name {
            Some(name) => macro_ports(name),
            None => own_ports(protocol, ports, kind),
        }
        .or_else(|| {
            let what = "the macro, protocol or ports are not known here; the rule is left out";
            self.draft.note(at.1, at.0, what);
            None
        })?;
        Some(found)
    }
}

struct Options {
    from: String,
    to: String,
    ports: Vec<PortRange>,
    log: bool,
    unsaid: bool,
}

fn action(name: &str) -> Option<&'static str> {
    match name {
        "ACCEPT" => Some("allow"),
        "DROP" => Some("deny"),
        "REJECT" => Some("reject"),
        _ => None,
    }
}

fn macro_ports(name: &str) -> Option<Vec<PortRange>> {
    let found = MACROS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))?
        .1;
    found.split(' ').map(|item| item.parse().ok()).collect()
}

fn own_ports(
    protocol: Option<&str>,
    ports: Option<&str>,
    kind: Option<&str>,
) -> Option<Vec<PortRange>> {
    let class = match protocol.map(str::to_lowercase).as_deref() {
        None => return Some(every_port()),
        Some("tcp" | "6") => Protocol::Tcp,
        Some("udp" | "17") => Protocol::Udp,
        Some("sctp") => Protocol::Sctp,
        Some("icmp" | "1") => Protocol::Icmp,
        Some("icmpv6" | "ipv6-icmp" | "58") => Protocol::Icmpv6,
        Some(name @ ("gre" | "esp" | "ah" | "igmp" | "ospf")) => {
            return name.parse().ok().map(|range| vec![range]);
        }
        Some(_) => return None,
    };
    if matches!(class, Protocol::Icmp | Protocol::Icmpv6) {
        let text = match kind.or(ports) {
            None => return Some(vec![PortRange::all(class)]),
            Some("echo-request") => "echo",
            Some(other) => other,
        };
        return format!("{class}/{text}")
            .parse()
            .ok()
            .map(|range| vec![range]);
    }
    let Some(ports) = ports else {
        return Some(vec![PortRange::all(class)]);
    };
    let items = ports
        .split(',')
        .map(|item| format!("{class}/{}", item.replace(':', "-")));
    items.map(|item| item.parse().ok()).collect()
}
