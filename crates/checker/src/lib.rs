//! Validates the results of `lictor policy prove` again. Of an intent that holds, its certificate
//! names who may stand before its ends, and nobody else may come; of one that does not, each
//! session of its counterexample is tried. No code of the prover or the evaluator is shared.
//!
//! It takes a plain form: ends by number, which of them each selector matches, the rules in force,
//! and the claims over those. That form is what it trusts.
#![forbid(unsafe_code)]

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Ends, 64 to a word.
type Bits = Vec<u64>;
/// Protocol, and port or what stands in its place.
type Port = (String, u32);

#[derive(Deserialize)]
struct Document {
    /// A name for each end, by its number.
    names: Vec<String>,
    sets: Vec<Bits>,
    /// Ends that are one guest alone.
    single: Bits,
    outside: Bits,
    quarantined: Bits,
    observed: Bits,
    /// Guests that run on where hosts lack the firewall.
    opens: Bits,
    /// Guests whose hosts lack the firewall: the present one, some, all.
    weak: [Bits; 3],
    fabric_trusted: bool,
    rules: Vec<Rule>,
    intents: Vec<Intent>,
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Rule {
    tier: usize,
    ordered: bool,
    action: String,
    at: String,
    service: Vec<Ports>,
    from: usize,
    to: usize,
    /// Whether the ends match what has no address: the far end of a frame that is not IP.
    nobody: (bool, bool),
    /// Whether it allows at some hours only: it makes nothing be always.
    part_of_day: bool,
}

#[derive(Clone, Deserialize)]
struct Ports {
    protocol: String,
    first: u32,
    last: u32,
}

#[derive(Deserialize)]
struct Intent {
    name: String,
    any_host: bool,
    claim: Claim,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Claim {
    NeverPath(Path),
    Only(Path),
    AlwaysPath(Path),
    /// Where guests may be, and how many hosts they may have left for it; any number if missing.
    Hosts(Vec<Place>, Option<usize>),
}

#[derive(Deserialize)]
struct Path {
    from: usize,
    to: usize,
    service: Vec<Ports>,
    hops: Option<usize>,
    /// Stops (or ends, if it is false) that are tolerated over a service, or over any.
    except: Vec<(bool, usize, Option<Vec<Ports>>)>,
}

/// A guest on a host.
#[derive(Deserialize)]
struct Place {
    guest: usize,
    host: usize,
    home: Option<usize>,
    /// Whether a control is missing there.
    lacks: bool,
    /// Whether it is of the one kind, and of the other, which must not meet if functions differ.
    kinds: (bool, bool),
    function: u32,
}

#[derive(Deserialize)]
struct Certificate {
    intent: String,
    held: bool,
    /// Of each: its ends, then who comes to them, then who comes to those, and so on.
    closures: Vec<Vec<Bits>>,
    hops: Vec<Hop>,
    forged_by: Option<usize>,
    /// Guests of the hops on hosts that lack the firewall, and on hosts that have it.
    placed: (Vec<usize>, Vec<usize>),
}

#[derive(Deserialize)]
struct Hop {
    from: usize,
    to: usize,
    protocol: String,
    port: u32,
}

/// How many intents hold, and how many do not: all of them as their certificates say.
///
/// # Errors
/// The document cannot be read, or a certificate is missing or wrong.
pub fn check(document: &[u8]) -> Result<(usize, usize), String> {
    let document: Document = serde_json::from_slice(document).map_err(|error| {
        format!("{error}; expected what `lictor policy prove --certificate` writes")
    })?;
    let check = Check::of(&document, |_| true)?;
    let steady = Check::of(&document, |rule| !rule.part_of_day)?;
    let (mut held, mut failed) = (0, 0);
    for intent in &document.intents {
        let mut own = document.certificates.iter();
        let own = own.find(|one| one.intent == intent.name);
        let one = own.ok_or_else(|| format!("intent {} has no certificate", intent.name))?;
        let always = matches!(intent.claim, Claim::AlwaysPath(_));
        let check = if always { &steady } else { &check };
        let result = match one.held {
            true => check.held(intent, one),
            false => check.failed(intent, one),
        };
        let wrong = |why| format!("the certificate of intent {} is wrong: {why}", intent.name);
        result.map_err(wrong)?;
        *(if one.held { &mut held } else { &mut failed }) += 1;
    }
    Ok((held, failed))
}

fn has(bits: &[u64], node: usize) -> bool {
    bits.get(node / 64)
        .is_some_and(|word| word >> (node % 64) & 1 == 1)
}

fn put(bits: &mut [u64], node: usize, inside: bool) {
    bits[node / 64] &= !(1 << (node % 64));
    bits[node / 64] |= u64::from(inside) << (node % 64);
}

fn list(bits: &[u64]) -> impl Iterator<Item = usize> + '_ {
    let words = bits.iter().enumerate().filter(|(_, word)| **word != 0);
    words.flat_map(|(at, _)| (at * 64..at * 64 + 64).filter(|node| has(bits, *node)))
}

fn contains(service: &[Ports], (protocol, port): &Port) -> bool {
    let inside = |one: &Ports| (one.first..=one.last).contains(port) && one.protocol == *protocol;
    service.iter().any(inside)
}

/// The document, and of each end the rules that name it as the destination.
struct Check<'a> {
    doc: &'a Document,
    toward: Vec<Vec<&'a Rule>>,
    frames: Vec<&'a Rule>,
    words: usize,
}

impl<'a> Check<'a> {
    fn of(doc: &'a Document, counts: fn(&Rule) -> bool) -> Result<Self, String> {
        let words = doc.names.len().div_ceil(64);
        let flags = [
            &doc.single,
            &doc.outside,
            &doc.quarantined,
            &doc.observed,
            &doc.opens,
        ];
        let levels = doc
            .certificates
            .iter()
            .flat_map(|one| one.closures.iter().flatten());
        let all = doc.sets.iter().chain(&doc.weak).chain(flags).chain(levels);
        if all.into_iter().any(|bits| bits.len() != words) {
            return Err(format!("a set of other than {words} words"));
        }
        let mut toward = vec![Vec::new(); words * 64];
        let rules = || doc.rules.iter().filter(|rule| counts(rule));
        for rule in rules() {
            let sets = (doc.sets.get(rule.from), doc.sets.get(rule.to));
            let (Some(_), Some(to)) = sets else {
                return Err("a rule without ends".into());
            };
            list(to).for_each(|node| toward[node].push(rule));
        }
        let ether = |rule: &&Rule| rule.service.iter().any(|one| one.protocol == "ether");
        let frames = rules().filter(ether).collect();
        Ok(Self {
            doc,
            toward,
            frames,
            words,
        })
    }

    fn set(&self, number: usize) -> Result<&Bits, String> {
        let set = self.doc.sets.get(number);
        set.ok_or_else(|| format!("there is no set {number}"))
    }

    fn name(&self, node: usize) -> &str {
        let name = self.doc.names.get(node);
        name.map_or("an end that is not there", String::as_str)
    }

    /// Who is open and who is cut, in some or in every placement that counts.
    fn overlay(&self, any: bool, every: bool) -> (Bits, Bits) {
        let [now, some, all] = &self.doc.weak;
        let (may, must) = if any { (some, all) } else { (now, now) };
        let (exposed, cut) = if every { (must, may) } else { (may, must) };
        let opens = &self.doc.opens;
        let open = exposed.iter().zip(opens).map(|(weak, opens)| weak & opens);
        let dead = cut.iter().zip(opens).map(|(weak, opens)| weak & !opens);
        (open.collect(), dead.collect())
    }

    /// Ports of a service at which anything changes for a destination.
    fn ports(&self, node: usize, service: &[Ports]) -> BTreeSet<Port> {
        let own = self.toward[node].iter().chain(&self.frames);
        let edges = own
            .flat_map(|rule| &rule.service)
            .flat_map(|one| [one.first, one.last + 1].map(|edge| (one.protocol.clone(), edge)));
        let starts = service.iter().map(|one| (one.protocol.clone(), one.first));
        edges
            .chain(starts)
            .filter(|port| contains(service, port))
            .collect()
    }

    /// What rules say, tier by tier, of all sources at once; or of everybody, whatever the source.
    fn walk<'r>(&'r self, rules: impl Iterator<Item = &'r &'a Rule>, everybody: bool) -> Bits
    where
        'a: 'r,
    {
        let (mut allowed, mut tier) = (vec![0; self.words], usize::MAX);
        let (mut closed, mut passed) = (allowed.clone(), allowed.clone());
        for rule in rules {
            if rule.ordered && rule.tier != tier {
                tier = rule.tier;
                passed.fill(0);
            }
            let (from, action) = (&self.doc.sets[rule.from], rule.action.as_str());
            for word in 0..self.words {
                let from = if everybody { u64::MAX } else { from[word] };
                let open = from & !closed[word];
                match (rule.ordered, action) {
                    (false, _) => allowed[word] |= open,
                    (true, "pass") => passed[word] |= open,
                    (true, _) => {
                        let fresh = open & !passed[word];
                        closed[word] |= fresh;
                        allowed[word] |= if action == "allow" { fresh } else { 0 };
                    }
                }
            }
        }
        allowed
    }

    /// The sources that reach a destination on a port, where some are open and some are cut.
    fn row(&self, node: usize, port: &Port, (open, dead): &(Bits, Bits)) -> Bits {
        let outside = has(&self.doc.outside, node);
        if has(dead, node) || has(&self.doc.quarantined, node) {
            return vec![0; self.words];
        }
        let speaks = |rule: &&&Rule, at: &str| {
            (rule.at == "both" || rule.at == at) && contains(&rule.service, port)
        };
        let ether = port.0 == "ether";
        let own = if ether {
            &self.frames
        } else {
            &self.toward[node]
        };
        let leaves = |rule: &&&Rule| speaks(rule, "egress") && (!ether || rule.nobody.1);
        let egress = self.walk(own.iter().filter(leaves), false);
        let asked = !outside && !has(open, node) && !has(&self.doc.observed, node);
        let arrives = |rule: &&&Rule| speaks(rule, "ingress") && (!ether || rule.nobody.0);
        let apart = ether || self.toward[node].iter().any(|rule| rule.at != "both");
        let ingress = match (asked, apart) {
            (false, _) => vec![u64::MAX; self.words],
            (true, false) => egress.clone(),
            (true, true) => self.walk(self.toward[node].iter().filter(arrives), ether),
        };
        let far = |word: usize| if outside { self.doc.outside[word] } else { 0 };
        let row = (0..self.words).map(|word| {
            let free = open[word] | self.doc.observed[word] | self.doc.outside[word];
            let none = self.doc.quarantined[word] | dead[word] | far(word);
            (egress[word] | free) & ingress[word] & !none
        });
        let mut row: Bits = row.collect();
        if has(&self.doc.single, node) {
            put(&mut row, node, false);
        }
        row
    }

    fn tolerated(&self, path: &Path, stop: bool, (node, port): (usize, &Port)) -> bool {
        path.except.iter().any(|(via, ends, service)| {
            let covers = service
                .as_ref()
                .is_none_or(|service| contains(service, port));
            *via == stop && covers && self.set(*ends).is_ok_and(|ends| has(ends, node))
        })
    }

    fn held(&self, intent: &Intent, one: &Certificate) -> Result<(), String> {
        let over = self.overlay(intent.any_host, false);
        let (path, mut sources) = match &intent.claim {
            Claim::Hosts(places, moves) => return self.clash(places, *moves).map_or(Ok(()), Err),
            Claim::AlwaysPath(path) => return self.always(path, intent.any_host),
            Claim::NeverPath(path) => (path, self.set(path.from)?.clone()),
            Claim::Only(path) => {
                let known = self.set(path.from)?.iter();
                let mut others: Bits = known.map(|word| !word).collect();
                (self.doc.names.len()..self.words * 64)
                    .for_each(|one| put(&mut others, one, false));
                (path, others)
            }
        };
        // Who is outside may come with every address of the outside.
        if !self.doc.fabric_trusted && list(&sources).any(|node| has(&self.doc.outside, node)) {
            list(&self.doc.outside).for_each(|node| put(&mut sources, node, true));
        }
        let mut targets: BTreeSet<usize> = list(self.set(path.to)?).collect();
        for closure in &one.closures {
            let first = closure.first().ok_or("a closure without ends")?;
            targets.retain(|target| !has(first, *target));
            let mut own = sources.clone();
            // Of one guest alone no chain leads back to itself.
            let mut ends = list(first);
            if let (Some(only), None) = (ends.next(), ends.next())
                && has(&self.doc.single, only)
            {
                put(&mut own, only, false);
            }
            self.closed(path, (&own, closure), &over)?;
        }
        let left = targets
            .first()
            .map(|node| format!("no closure ends at {}", self.name(*node)));
        left.map_or(Ok(()), Err)
    }

    /// Nobody comes to a level but from the next ones, and sources come to none.
    fn closed(
        &self,
        path: &Path,
        (sources, levels): (&Bits, &[Bits]),
        over: &(Bits, Bits),
    ) -> Result<(), String> {
        // An end that no exception names is looked at as such: who comes to it is on a level.
        let mut known = levels[0].clone();
        for (_, ends, _) in path.except.iter().filter(|(via, ..)| !via) {
            list(self.set(*ends)?).for_each(|node| put(&mut known, node, false));
        }
        for (distance, level) in levels.iter().enumerate() {
            if path.hops.is_some_and(|hops| distance >= hops) {
                break;
            }
            let next = levels
                .get(distance + 1)
                .into_iter()
                .flat_map(|next| list(next));
            next.for_each(|node| put(&mut known, node, true));
            let last = path.hops == Some(distance + 1);
            for node in list(level) {
                for port in self.ports(node, &path.service) {
                    if self.tolerated(path, distance > 0, (node, &port)) {
                        continue;
                    }
                    let row = self.row(node, &port, over);
                    let bad =
                        |source: &usize| has(sources, *source) || !last && !has(&known, *source);
                    if let Some(source) = list(&row).find(bad) {
                        let (from, to) = (self.name(source), self.name(node));
                        return Err(format!("{from} reaches {to} over {port:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn always(&self, path: &Path, any: bool) -> Result<(), String> {
        let over = self.overlay(any, true);
        for node in list(self.set(path.to)?) {
            for port in self.ports(node, &path.service) {
                let row = self.row(node, &port, &over);
                let itself = |source: usize| source == node && has(&self.doc.single, node);
                let mut from = list(self.set(path.from)?);
                if let Some(source) = from.find(|one| !has(&row, *one) && !itself(*one)) {
                    let (from, to) = (self.name(source), self.name(node));
                    return Err(format!("{from} does not reach {to} over {port:?}"));
                }
            }
        }
        Ok(())
    }

    /// A guest on a host that lacks a control, or two guests that meet and must not.
    fn clash(&self, places: &[Place], moves: Option<usize>) -> Option<String> {
        if let Some(one) = places.iter().find(|one| one.lacks) {
            return Some(format!("a host of guest {} may lack a control", one.guest));
        }
        let mut hosts: BTreeMap<usize, Vec<&Place>> = BTreeMap::new();
        places
            .iter()
            .for_each(|one| hosts.entry(one.host).or_default().push(one));
        let meet = |one: &Place, other: &Place| {
            let left: BTreeSet<usize> = [one, other]
                .into_iter()
                .filter_map(|place| place.home.filter(|home| *home != place.host))
                .collect();
            let kinds = one.kinds.0 && other.kinds.1 && one.function != other.function;
            kinds && one.guest != other.guest && moves.is_none_or(|moves| left.len() <= moves)
        };
        let mut pairs = places.iter().filter(|one| one.kinds.0).flat_map(|one| {
            let others = hosts.get(&one.host).into_iter().flatten();
            others.map(move |other| (one, *other))
        });
        let (one, other) = pairs.find(|(one, other)| meet(one, other))?;
        Some(format!("guests {} and {} may meet", one.guest, other.guest))
    }

    /// Tries the sessions of a counterexample, with the guests where it puts them.
    fn failed(&self, intent: &Intent, one: &Certificate) -> Result<(), String> {
        let (path, kind) = match &intent.claim {
            Claim::Hosts(places, moves) => {
                let found = self.clash(places, *moves).map(|_| ());
                return found.ok_or_else(|| "nothing clashes".into());
            }
            Claim::NeverPath(path) => (path, "never"),
            Claim::Only(path) => (path, "only"),
            Claim::AlwaysPath(path) => (path, "always"),
        };
        let mut over = self.overlay(false, false);
        let [now, some, all] = &self.doc.weak;
        let (may, must) = if intent.any_host {
            (some, all)
        } else {
            (now, now)
        };
        let places = one.placed.0.iter().map(|node| (*node, true));
        for (node, weak) in places.chain(one.placed.1.iter().map(|node| (*node, false))) {
            if node >= self.doc.names.len() || weak != has(if weak { may } else { must }, node) {
                return Err(format!("{} cannot be where it is placed", self.name(node)));
            }
            put(&mut over.0, node, weak && has(&self.doc.opens, node));
            put(&mut over.1, node, weak && !has(&self.doc.opens, node));
        }
        let (first, last) = one
            .hops
            .first()
            .zip(one.hops.last())
            .ok_or("there are no sessions")?;
        let begins = one.forged_by.unwrap_or(first.from);
        let outside = has(&self.doc.outside, begins) && has(&self.doc.outside, first.from);
        if one.forged_by.is_some() && (self.doc.fabric_trusted || !outside) {
            return Err("nobody forges addresses there".into());
        }
        let from = has(self.set(path.from)?, begins) != (kind == "only");
        if !from || !has(self.set(path.to)?, last.to) || begins >= self.doc.names.len() {
            return Err("its ends are not those of the claim".into());
        }
        for (at, hop) in one.hops.iter().enumerate() {
            let (port, stop) = ((hop.protocol.clone(), hop.port), at + 1 < one.hops.len());
            let long = path.hops.is_some_and(|most| at >= most) || kind != "never" && at > 0;
            if long || hop.to >= self.toward.len() || self.tolerated(path, stop, (hop.to, &port)) {
                return Err("the claim tolerates it".into());
            }
            let passes = has(&self.row(hop.to, &port, &over), hop.from);
            let joined = at == 0 || one.hops[at - 1].to == hop.from;
            let itself = hop.from == hop.to && has(&self.doc.single, hop.to);
            let shows = passes != (kind == "always") && joined && !itself;
            if !contains(&path.service, &port) || !shows {
                let (from, to) = (self.name(hop.from), self.name(hop.to));
                return Err(format!("{from} to {to} over {port:?} is not as it says"));
            }
        }
        Ok(())
    }
}
