//! The lines of `iptables-save`, `iptables -S` and `ipset save`.

use crate::draft::{Draft, address_run, prefix};
use crate::value::{file, text};
use crate::{Effect, ImportError, Source};
use ipnet::IpNet;
use std::collections::BTreeMap;

pub(super) type Words = Vec<String>;

#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The verdict at its end; `-` for a chain of one's own.
    pub(super) policy: String,
    pub(super) rules: Vec<(usize, Words)>,
}

/// A table `filter`. A file may have one of each family.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) v6: bool,
    pub(super) chains: BTreeMap<String, Chain>,
}

/// Sets of addresses: what is in them, and what is not though a prefix of theirs has it.
#[derive(Debug, Default)]
pub(super) struct Sets(BTreeMap<String, Set>);

#[derive(Debug, Default, Clone)]
pub(super) struct Set {
    pub(super) inside: Vec<IpNet>,
    pub(super) holes: Vec<IpNet>,
    /// Sets inside of this one.
    sets: Vec<String>,
    /// Whether it holds what is no plain address.
    odd: bool,
}

/// Sets inside of each other.
const DEPTH_MAX: usize = 8;
/// Rules of one file, those of chains that nobody calls included.
const LINES_MAX: usize = 262_144;

impl Sets {
    /// Reads `create` and `add` lines. Gives whether the file has such lines.
    pub(super) fn read(&mut self, source: &Source) -> Result<bool, ImportError> {
        let mut found = false;
        for line in text(source)?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["create" | "-N", name, kind, ..] if kind.contains(':') => {
                    found = true;
                    let plain = ["hash:ip", "hash:net", "bitmap:ip", "list:set"];
                    self.of(name).odd |= !plain.contains(kind);
                }
                ["add", name, item, flags @ ..] => {
                    found = true;
                    let own = self.of(name);
                    let nets = address_run(item).or_else(|| prefix(item).map(|net| vec![net]));
                    match (nets, flags.contains(&"nomatch")) {
                        (Some(nets), true) => own.holes.extend(nets),
                        (Some(nets), false) => own.inside.extend(nets),
                        (None, _) => own.sets.push((*item).to_owned()),
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn of(&mut self, name: &str) -> &mut Set {
        self.0.entry(name.to_owned()).or_default()
    }

    /// A set whose members are all known.
    pub(super) fn get(&self, name: &str) -> Option<Set> {
        self.whole(name, 0)
    }

    fn whole(&self, name: &str, depth: usize) -> Option<Set> {
        let own = self.0.get(name).filter(|set| !set.odd)?;
        let mut found = own.clone();
        for inner in &own.sets {
            let inner = (depth < DEPTH_MAX).then(|| self.whole(inner, depth + 1));
            let inner = inner.flatten()?;
            found.inside.extend(inner.inside);
            found.holes.extend(inner.holes);
        }
        Some(found)
    }
}

/// The tables `filter` of a file. What other tables deny is told.
pub(super) fn tables(source: &Source, draft: &mut Draft) -> Result<Vec<Table>, ImportError> {
    let path = source.path.to_lowercase();
    let mut reader = Reader {
        source,
        tables: Vec::new(),
        table: String::new(),
        rules: 0,
        v6: ["ip6", "v6"].iter().any(|part| path.contains(part)),
    };
    for (number, line) in (1..).zip(text(source)?.lines()) {
        reader.line(number, uncounted(line.trim()), draft)?;
    }
    Ok(reader.tables)
}

struct Reader<'a> {
    source: &'a Source,
    tables: Vec<Table>,
    table: String,
    rules: usize,
    /// What the file's name and the comment above a table say of its family.
    v6: bool,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str, draft: &mut Draft) -> Result<(), ImportError> {
        if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment, draft);
        } else if let Some(name) = line.strip_prefix('*') {
            name.trim().clone_into(&mut self.table);
            self.open();
        } else if line == "COMMIT" {
            self.table.clear();
        } else if self.table.is_empty() && self.tables.is_empty() && command(line) {
            // `iptables -S` prints no table's name.
            "filter".clone_into(&mut self.table);
            self.open();
            self.rule(number, line)?;
        } else if self.table == "filter" {
            self.rule(number, line)?;
        } else if line.starts_with("-A ") && (line.contains("-j DROP") || line.contains("-j REJ")) {
            let what = format!(
                "the table {} is not imported: what it denies is not denied",
                self.table
            );
            draft.note(Effect::Opens, &self.source.path, what);
        }
        Ok(())
    }

    fn comment(&mut self, comment: &str, draft: &mut Draft) {
        if comment.contains("Generated by") {
            self.v6 = comment.contains("ip6tables");
        }
        // nft tables that iptables can't print.
        if comment.contains("incompatible") {
            let what = format!("{}: what it denies is not denied", comment.trim());
            draft.note(Effect::Opens, &self.source.path, what);
        }
    }

    fn open(&mut self) {
        if self.table == "filter" {
            self.tables.push(Table {
                v6: self.v6,
                chains: BTreeMap::new(),
            });
        }
    }

    fn rule(&mut self, number: usize, line: &str) -> Result<(), ImportError> {
        let Some(table) = self.tables.last_mut() else {
            return Ok(());
        };
        let found = words(line);
        match found.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => {}
            ["-A" | "--append", ..] if self.rules >= LINES_MAX => {
                let what = format!("more than {LINES_MAX} rules; import a part of the file");
                return Err(file(self.source, what));
            }
            ["-A" | "--append", name, ..] => {
                self.rules += 1;
                let what = format!("line {number}: no chain {name:?}; expected `:{name} -` above");
                let chain = table.chains.get_mut(name);
                let chain = chain.ok_or_else(|| file(self.source, what))?;
                chain.rules.push((number, found[2..].to_vec()));
                table.v6 |= found.iter().any(|word| of_v6(word));
            }
            ["-P" | "--policy", name, policy, ..] => {
                policy.clone_into(&mut table.chains.entry(name.to_owned()).or_default().policy);
            }
            ["-N" | "--new-chain", name] => {
                "-".clone_into(&mut table.chains.entry(name.to_owned()).or_default().policy);
            }
            [head, ..] if head.starts_with(':') => {
                let policy = found.get(1).map_or("-", String::as_str);
                let own = table.chains.entry(head[1..].to_owned()).or_default();
                policy.clone_into(&mut own.policy);
            }
            _ => {
                let what = format!(
                    "line {number}: {line:?} is no line of iptables-save; expected `-A CHAIN ...`"
                );
                return Err(file(self.source, what));
            }
        }
        Ok(())
    }
}

fn command(line: &str) -> bool {
    ["-P ", "-N ", "-A "]
        .iter()
        .any(|head| line.starts_with(head))
}

/// Whether a word stands in rules of IPv6 only.
fn of_v6(word: &str) -> bool {
    let address = || prefix(word).is_some_and(|net| net.addr().is_ipv6());
    ["icmpv6", "ipv6-icmp", "icmp6-adm-prohibited"].contains(&word) || address()
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
