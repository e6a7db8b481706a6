//! Proxmox VE's firewall files: `cluster.fw`, `VMID.fw` and `host.fw`. A guest is `vm:VMID`; its
//! rules speak at its own end. What concerns hosts speaks at their own devices: first the rules of
//! a host, then those of the cluster, then what the management network may always do.

mod macros;
mod words;

use crate::draft::{Draft, NOBODY, Rule, address_run, either, every_port, not, numbered, prefix};
use crate::value::{file, text};
use crate::{Effect, ImportError, Source};
use ipnet::IpNet;
use lictor_policy::{Labels, PortRange};
use std::collections::BTreeMap;
use std::net::IpAddr;
use words::{action, is_way, macro_ports, mistake, own_ports};

/// Lines of one file that say something.
const LINES_MAX: usize = 262_144;

/// What the management network may ask of hosts, whatever the rules say: the pages and the API,
/// consoles, SSH, migrations.
const MANAGEMENT: &str = "tcp/8006 tcp/5900-5999 tcp/3128 tcp/22 tcp/60000-60050";

/// What a host may ask of the others in its network, whatever the rules say.
const BESIDE: &str = "tcp/8006 tcp/22 tcp/5900-5999 tcp/3128";

/// The alias of the hosts' own network.
const LOCAL_NETWORK: &str = "local_network";

/// A file in its sections: the section's name and its argument, and its lines.
type Sections = Vec<(String, String, Vec<String>)>;

/// Names that all files share, and those of one guest.
#[derive(Debug, Default, Clone)]
struct Names {
    aliases: BTreeMap<String, IpNet>,
    sets: BTreeMap<String, Set>,
    groups: BTreeMap<String, Vec<String>>,
    /// The set of this name that the data centre has.
    blacklist: Option<Set>,
}

/// Networks, and what of them is not meant.
type Set = (Vec<IpNet>, Vec<IpNet>);

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
    shared.blacklist = shared.sets.get("blacklist").cloned();
    let guest = |stem: &str| stem.bytes().all(|byte| byte.is_ascii_digit());
    for (stem, _, sections) in files.iter().filter(|(stem, ..)| guest(stem)) {
        let labels = Labels::from([("vm".to_owned(), stem.clone())]);
        draft.guest(format!("vm-{stem}"), labels, own_addresses(sections));
    }
    for (stem, path, _) in files.iter().filter(|(stem, ..)| !guest(stem)) {
        match (Kind::of(stem), node(path)) {
            (Kind::Host, Some(name)) => draft.host(&name),
            // Rules for every host say nothing of who they are: one stands for all.
            _ => draft.host("host"),
        }
    }
    // The rules of a host come before those of the cluster.
    files.sort_by_key(|(stem, ..)| stem == "cluster");
    draft.tier("firewall");
    for (stem, path, sections) in &files {
        let mut names = shared.clone();
        names.read(&mut draft, path, sections);
        let kind = Kind::of(stem);
        let own = match kind {
            Kind::Guest => draft.has("vm", stem),
            Kind::Host => host(path),
            Kind::Cluster => "hosts".to_owned(),
        };
        File {
            draft: &mut draft,
            names: &names,
            path,
            own,
            stem,
        }
        .rules(sections, kind);
    }
    Ok(draft)
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Guest,
    Host,
    Cluster,
}

impl Kind {
    fn of(stem: &str) -> Self {
        match stem {
            "host" => Self::Host,
            "cluster" => Self::Cluster,
            _ => Self::Guest,
        }
    }
}

/// The host of `nodes/NAME/host.fw`; without such a folder, all of them.
fn host(path: &str) -> String {
    node(path).map_or_else(|| "hosts".to_owned(), |name| format!("host:{name}"))
}

fn node(path: &str) -> Option<String> {
    let mut parts = path.rsplit('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some(name), Some("nodes")) => Some(crate::names::word(name)),
        _ => None,
    }
}

/// The addresses that a guest's filter lets it use.
fn own_addresses(sections: &Sections) -> Vec<IpAddr> {
    let filters = sections
        .iter()
        .filter(|(name, set, _)| name == "IPSET" && set.to_lowercase().starts_with("ipfilter-"));
    let lines = filters.flat_map(|(_, _, lines)| lines);
    let nets = lines.filter_map(|line| prefix(plain(line)));
    let single = nets.filter(|net| net.prefix_len() == net.max_prefix_len());
    single.map(|net| net.addr()).collect()
}

fn sections(source: &Source) -> Result<Sections, ImportError> {
    let mut sections: Sections = Vec::new();
    let mut lines = 0;
    for (number, line) in (1..).zip(text(source)?.lines()) {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            let what = format!("line {number}: a section without `]`");
            let (head, _) = head.split_once(']').ok_or_else(|| file(source, what))?;
            let (name, argument) = head.split_once(char::is_whitespace).unwrap_or((head, ""));
            let name = name.to_uppercase();
            sections.push((name, argument.trim().to_owned(), Vec::new()));
        } else if !line.is_empty() && !line.starts_with('#') {
            lines += 1;
            if lines > LINES_MAX {
                let what = format!("more than {LINES_MAX} lines; import a part of the file");
                return Err(file(source, what));
            }
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
                let Some(set) = self.sets.get(&bare(name)) else {
                    draft.note(
                        at.1,
                        at.0,
                        format!("the IP set {name:?} is not in these files"),
                    );
                    continue;
                };
                parts.push(within(draft, &bare(name), set));
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

/// Ends with an address of a set.
fn within(draft: &mut Draft, name: &str, (inside, holes): &Set) -> String {
    let set = draft.addresses(name, inside);
    match holes.is_empty() {
        true => set,
        false => {
            let holes = draft.addresses("", holes);
            format!("({set} & {})", not(&holes))
        }
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
    fn rules(&mut self, sections: &Sections, kind: Kind) {
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        for (_, _, lines) in sections.iter().filter(|(name, ..)| name == "OPTIONS") {
            for line in lines {
                if let Some((key, value)) = plain(line).split_once(':') {
                    options.insert(key.trim().to_lowercase(), value.trim().to_owned());
                }
            }
        }
        let enable = options.get("enable").map(|value| value != "0");
        match kind {
            Kind::Guest if enable != Some(true) => return self.off("this guest"),
            Kind::Host if enable == Some(false) => return self.off("this host"),
            Kind::Cluster if enable != Some(true) => {
                let what = "the firewall of the data centre is off there, and everything is \
                            allowed; here the rules hold as if it were on";
                self.draft.note(Effect::Closes, self.path, what);
            }
            _ => {}
        }
        if kind != Kind::Guest {
            self.igmp();
        }
        self.blacklist();
        let lines = sections.iter().filter(|(name, ..)| name == "RULES");
        for (index, line) in lines.flat_map(|(_, _, lines)| lines).enumerate() {
            self.line(line, &format!("{}.{}", self.stem, index + 1), true);
        }
        if kind == Kind::Cluster {
            self.management();
        }
        if kind != Kind::Host {
            for (option, way, fallback) in
                [("policy_in", "IN", "DROP"), ("policy_out", "OUT", "ACCEPT")]
            {
                let policy = options.get(option).map_or(fallback, String::as_str);
                if let Some(action) = action(policy) {
                    self.end(option, way, action);
                }
            }
        }
        self.others(&options);
    }

    fn off(&mut self, whose: &str) {
        let what =
            format!("the firewall of {whose} is off there: everything is allowed at its end");
        self.draft.note(Effect::None, self.path, what);
        self.end("off", "IN", "allow");
        self.end("off", "OUT", "allow");
    }

    /// Hosts' groups of receivers work whatever the rules say.
    fn igmp(&mut self) {
        for way in ["IN", "OUT"] {
            let found = Options {
                from: "any".into(),
                to: "any".into(),
                ports: vec![numbered(2)],
                log: false,
                unsaid: false,
            };
            let name = format!("{}.igmp.{}", self.stem, way.to_lowercase());
            self.write((&name, way, "allow"), found, "");
        }
    }

    /// Who is in the data centre's set `blacklist` gets to no guest and no host.
    fn blacklist(&mut self) {
        if let Some(set) = self.names.blacklist.clone() {
            let found = Options {
                from: within(self.draft, "blacklist", &set),
                to: "any".into(),
                ports: every_port(),
                log: false,
                unsaid: false,
            };
            let name = format!("{}.blacklist", self.stem);
            self.write((&name, "IN", "deny"), found, "");
        }
    }

    /// What the set `management` may do at hosts, and hosts in their own network. That network is
    /// in the set; these files tell it only by the alias `local_network`.
    fn management(&mut self) {
        let own = self.names.aliases.get(LOCAL_NETWORK).copied();
        let named = self.names.sets.get("management").cloned();
        let (mut inside, holes) = named.unwrap_or_default();
        inside.extend(own);
        if own.is_none() {
            let what = "the hosts' own network is in the IP set `management` there, and hosts may \
                        always ask each other for SSH and pages: name it by the alias \
                        `local_network`";
            self.draft.note(Effect::Closes, self.path, what);
        }
        let what = "what the hosts' cluster says to itself (corosync, udp/5404-5405) is in none of \
                    these files";
        self.draft.note(Effect::Closes, self.path, what);
        let ends = match inside.is_empty() {
            true => NOBODY.to_owned(),
            false => within(self.draft, "management", &(inside, holes)),
        };
        let beside = own.map_or_else(
            || NOBODY.to_owned(),
            |own| self.draft.addresses(LOCAL_NETWORK, &[own]),
        );
        let rule = |from: String, to: String, ports: &str| {
            let ports = ports.split(' ').filter_map(|item| item.parse().ok());
            Options {
                from,
                to,
                ports: ports.collect(),
                log: false,
                unsaid: false,
            }
        };
        let found = rule(ends, "any".into(), MANAGEMENT);
        self.write(("cluster.management", "IN", "allow"), found, "");
        let found = rule("any".into(), beside, BESIDE);
        self.write(("cluster.local_network", "OUT", "allow"), found, "");
    }

    /// Options that are not read. Some let something in.
    fn others(&mut self, options: &BTreeMap<String, String>) {
        let known = ["enable", "policy_in", "policy_out", "dhcp"];
        if self.own.starts_with("vm:") && options.get("dhcp").is_none_or(|value| value != "0") {
            let what = "DHCP is let through there, by its ports at both ends; here it needs a rule";
            self.draft.note(Effect::Closes, self.path, what);
        }
        for (key, value) in options
            .iter()
            .filter(|(key, _)| !known.contains(&key.as_str()))
        {
            let opens = key == "radv" && value != "0";
            let (effect, what) = match opens {
                true => (
                    Effect::Closes,
                    "lets in what no rule here does, and is left out",
                ),
                false => (Effect::None, "is not about rules, and is left out"),
            };
            let what = format!("the option {key}: {value} {what}");
            self.draft.note(effect, self.path, what);
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
            [head, group, rest @ ..] if groups && head.eq_ignore_ascii_case("GROUP") => {
                if !rest.is_empty() {
                    self.draft
                        .note(Effect::Opens, &place, "the interface can't be said");
                }
                self.group(group, name, &place);
            }
            [way, target, options @ ..] if is_way(way) => {
                let way = way.to_uppercase();
                self.one((&way, *target, options), (name, &place), comment.trim());
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
        if let Some(mistake) = mistake(options, name_of_macro.is_some(), self.names) {
            let what = format!("no rule there either, as {mistake}; left out");
            self.draft.note(Effect::None, place, what);
            return;
        }
        let effect = if action == "allow" {
            Effect::Closes
        } else {
            Effect::Opens
        };
        let Some(mut found) = self.options(options, name_of_macro, (place, effect)) else {
            return;
        };
        self.own_side(way, &mut found, place);
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

    /// A condition on the addresses of the own end, which these files do not tell: it would match
    /// nothing, and a denial would be lost.
    fn own_side(&mut self, way: &str, found: &mut Options, place: &str) {
        let side = match way {
            "IN" => &mut found.to,
            _ => &mut found.from,
        };
        let name = format!("vm-{}", self.stem);
        let mut guests = self.draft.guests.iter();
        let told = guests.any(|guest| guest.name == name && !guest.addresses.is_empty());
        if side == "any" || told {
            return;
        }
        "any".clone_into(side);
        found.unsaid = true;
        let what = "the addresses of its own end are not in these files, so it can't be said which \
                    of them are meant";
        self.draft.note(Effect::None, place, what);
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
        if macro_name.is_some() && (protocol.is_some() || ports.is_some()) {
            found.unsaid = true;
            let what = "ports besides those of a macro can't be said";
            self.draft.note(Effect::None, at.0, what);
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
