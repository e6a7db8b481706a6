//! What `iptables-save` and `ip6tables-save` print, table `filter`; `ipset save` beside it.
//!
//! The machine itself is what has the label `machine:yes`: INPUT is what comes to it, OUTPUT what
//! it begins. FORWARD is between all others; a network there is a set, and guests whose addresses
//! lie in it need a label that the report names. Chains of one's own are written out where they are
//! called, for what no `RETURN` above has spared. Where a condition can't be said, an allowing rule
//! is left out and a denying one holds without it: both only close.

mod condition;
mod lines;

use crate::draft::{Draft, Rule, all, not, prefix};
use crate::{Effect, ImportError, Source};
pub(crate) use condition::icmp;
use condition::{Match, Own, Reading};
use ipnet::IpNet;
use lictor_policy::Service;
use lines::{Sets, Table};

/// Chains called from chains.
const DEPTH_MAX: usize = 32;
/// Rules after all calls are written out.
const RULES_MAX: usize = 65_536;
/// Parts into which what is left in a chain may fall.
const PARTS_MAX: usize = 64;
const MACHINE: &str = "machine";

/// Targets after which the next rule is looked at.
const NO_VERDICT: [&str; 22] = [
    "",
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "TCPMSS",
    "CT",
    "NOTRACK",
    "TRACE",
    "SET",
    "CLASSIFY",
    "TOS",
    "DSCP",
    "TTL",
    "HL",
    "CHECKSUM",
    "AUDIT",
    "SECMARK",
    "CONNSECMARK",
    "RATEEST",
    "LED",
];

pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut sets = Sets::default();
    let mut found = false;
    draft.tier("filter");
    let mut of_sets = Vec::new();
    for source in sources {
        of_sets.push(sets.read(source)?);
    }
    for (source, of_sets) in sources.iter().zip(of_sets) {
        let tables = lines::tables(source, &mut draft)?;
        if tables.is_empty() && !of_sets {
            draft.note(
                Effect::None,
                &source.path,
                "no table `filter`; it is not read",
            );
        }
        for table in &tables {
            found = true;
            one(&mut draft, (table, &sets), &source.path)?;
        }
    }
    match found {
        true => Ok(draft),
        false => Err(ImportError::Nothing {
            what: "table `filter` of iptables-save",
        }),
    }
}

fn one(draft: &mut Draft, (table, sets): (&Table, &Sets), path: &str) -> Result<(), ImportError> {
    let machine = draft.has(MACHINE, "yes");
    let what = "of one family only; between guests its rules hold for both, since guests are \
                matched by labels";
    draft.note(Effect::None, path, what);
    for (chain, at) in [("INPUT", "ingress"), ("OUTPUT", "egress"), ("FORWARD", "")] {
        let Some(top) = table.chains.get(chain) else {
            continue;
        };
        let whole = if table.v6 { "::/0" } else { "0.0.0.0/0" };
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
            service: Service::any(),
            comment: String::new(),
            unsaid: false,
        };
        let mut walk = Walk {
            draft,
            table,
            sets,
            path,
            base: chain,
            at,
            count: 0,
        };
        walk.chain(chain, vec![start.clone()], 0)?;
        let action = match top.policy.as_str() {
            "ACCEPT" => "allow",
            _ => "deny",
        };
        walk.rule(&format!("{chain}.policy"), action, &start);
    }
    Ok(())
}

struct Walk<'a> {
    draft: &'a mut Draft,
    table: &'a Table,
    sets: &'a Sets,
    path: &'a str,
    base: &'static str,
    at: &'static str,
    count: usize,
}

/// Where a rule stands.
struct At<'a> {
    name: &'a str,
    place: &'a str,
    depth: usize,
}

impl Walk<'_> {
    /// Writes out a chain for what comes to it, in parts of which none has packets of another.
    fn chain(&mut self, name: &str, mut left: Vec<Match>, depth: usize) -> Result<(), ImportError> {
        let table = self.table;
        let Some(chain) = table.chains.get(name).filter(|_| depth <= DEPTH_MAX) else {
            let what = format!("the chain {name} is missing, or chains call each other too deep");
            return Err(self.refused(what));
        };
        for (index, (line, words)) in chain.rules.iter().enumerate() {
            self.count += left.len();
            if self.count > RULES_MAX {
                let what = format!("more than {RULES_MAX} rules with all chains written out");
                return Err(self.refused(what));
            }
            let place = format!("{}:{line}", self.path);
            let reading = Reading {
                draft: self.draft,
                sets: self.sets,
                place: &place,
                base: self.base,
                own: Own::default(),
                protocol: None,
            };
            let own = reading.read(words);
            if own.never {
                let what = "no packet that begins a session between guests or with others: every \
                            session's answers pass here without a rule";
                self.draft.note(Effect::None, &place, what);
                continue;
            }
            let at = At {
                name: &format!("{name}.{}", index + 1),
                place: &place,
                depth,
            };
            self.target(&own, &mut left, &at)?;
        }
        Ok(())
    }

    fn refused(&self, what: String) -> ImportError {
        let path = self.path.to_owned();
        ImportError::File { path, what }
    }

    /// What becomes of the packets that match. `left` is then what the next rule sees.
    fn target(&mut self, own: &Own, left: &mut Vec<Match>, at: &At<'_>) -> Result<(), ImportError> {
        let inner = || -> Vec<Match> {
            let parts = left.iter().map(|one| one.and(own));
            parts.filter(|one| !one.is_empty()).collect()
        };
        match own.target.as_str() {
            "ACCEPT" => self.verdict("allow", &inner(), at),
            "DROP" | "TARPIT" => self.verdict("deny", &inner(), at),
            "REJECT" => self.verdict("reject", &inner(), at),
            "RETURN" => self.spare(own, left, at.place),
            none if NO_VERDICT.contains(&none) => {
                let what = format!("{none} is no verdict, and is left out");
                self.draft.note(Effect::None, at.place, what);
            }
            chain if self.table.chains.contains_key(chain) => {
                self.chain(chain, inner(), at.depth + 1)?;
                if own.goto {
                    self.spare(own, left, at.place);
                }
            }
            other => {
                let what = format!("the target {other} can't be said; the rule is left out");
                self.draft.note(Effect::Opens, at.place, what);
            }
        }
        Ok(())
    }

    fn verdict(&mut self, action: &'static str, parts: &[Match], at: &At<'_>) {
        for part in parts {
            match (part.unsaid, action) {
                (true, "allow") => {
                    let what = "left out, as it would allow more";
                    self.draft.note(Effect::Closes, at.place, what);
                    continue;
                }
                (true, _) => {
                    let what = "holds without that condition: it denies more";
                    self.draft.note(Effect::Closes, at.place, what);
                }
                (false, _) => {}
            }
            self.rule(at.name, action, part);
        }
    }

    /// Packets that match do not come to the rules below in this chain.
    fn spare(&mut self, own: &Own, left: &mut Vec<Match>, place: &str) {
        let parts: Vec<Match> = left.iter().flat_map(|one| one.without(own)).collect();
        if !own.unsaid && parts.len() <= PARTS_MAX {
            *left = parts;
            return;
        }
        // Which packets are spared can't be said: what is allowed below is left out, what is denied
        // holds for all.
        for one in left {
            one.unsaid = true;
        }
        let what = "which packets this spares the rules below it can't be said";
        self.draft.note(Effect::Closes, place, what);
    }

    fn rule(&mut self, name: &str, action: &'static str, found: &Match) {
        self.draft.rule(Rule {
            name: name.to_owned(),
            action,
            from: found.from.clone(),
            to: found.to.clone(),
            service: found.service.ranges().to_vec(),
            at: self.at,
            comment: found.comment.clone(),
            ..Rule::default()
        });
    }
}
