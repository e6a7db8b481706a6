//! Who shares a host with whom, under three readings of the same clause.

use super::no_release;
use crate::catalogue::Context;
use crate::facts::Stay;
use crate::{CoResidence, Finding, Status};
use lictor_evidence::{GuestFacts, ReleaseFacts};
use lictor_types::{GuestId, HostId};
use std::collections::{BTreeMap, BTreeSet};

/// Two guests at one host at one time.
struct Pair<'a> {
    stays: [&'a Stay; 2],
    zones: [String; 2],
    baselines: [u32; 2],
    since_ms: u64,
}

impl Pair<'_> {
    fn mixes(&self) -> bool {
        self.zones[0] != self.zones[1]
    }

    fn names(&self) -> String {
        let [a, b] = self.stays.map(|stay| &stay.guest);
        let [zone_a, zone_b] = &self.zones;
        format!("{a} (zone {zone_a}) with {b} (zone {zone_b})")
    }

    fn indices(&self) -> [u64; 2] {
        self.stays.map(|stay| stay.index)
    }
}

/// What is known about one host.
struct Company<'a> {
    pairs: Vec<Pair<'a>>,
    /// Guests there that no release speaks of, or speaks of without a zone.
    strangers: BTreeSet<&'a GuestId>,
    evidence: BTreeSet<u64>,
}

/// The facts of a guest that were the newest at some time of the interval. Looking
/// only at today's labels would let a retag rewrite the past.
fn facts_in<'a>(
    context: Context<'a>,
    guest: &GuestId,
    (since_ms, until_ms): (u64, u64),
) -> Vec<&'a GuestFacts> {
    let said = context.facts.said_of(guest);
    let in_force = |n: &usize| {
        let ends = said.get(n + 1).is_some_and(|next| next.0 <= since_ms);
        said[*n].0 <= until_ms && !ends
    };
    let found: Vec<_> = (0..said.len())
        .filter(in_force)
        .filter_map(|n| said[n].1)
        .collect();
    if !found.is_empty() {
        return found;
    }
    // Placed before it was first published: the first thing that was ever said about it.
    said.iter()
        .find_map(|(_, facts)| *facts)
        .into_iter()
        .collect()
}

/// Every host at which a guest in scope was, with who else was there at the same time.
fn companies(context: Context<'_>) -> BTreeMap<&HostId, Company<'_>> {
    let mut companies = BTreeMap::<&HostId, Company<'_>>::new();
    let counts = |stay: &&Stay| context.counts(stay.until_ms.unwrap_or(context.now_ms));
    let stays: Vec<_> = context.facts.stays.iter().filter(counts).collect();
    let end = |stay: &Stay| stay.until_ms.unwrap_or(context.now_ms);
    for stay in &stays {
        let facts = facts_in(context, &stay.guest, (stay.since_ms, end(stay)));
        if !facts.iter().any(|one| one.in_scope) {
            continue;
        }
        let company = companies.entry(&stay.host).or_insert_with(|| Company {
            pairs: Vec::new(),
            strangers: BTreeSet::new(),
            evidence: BTreeSet::new(),
        });
        company.evidence.insert(stay.index);
        for other in stays
            .iter()
            .filter(|o| o.host == stay.host && o.guest != stay.guest)
        {
            let since_ms = stay.since_ms.max(other.since_ms);
            let until_ms = end(stay).min(end(other));
            if since_ms >= until_ms {
                continue;
            }
            let ours = facts_in(context, &stay.guest, (since_ms, until_ms));
            let theirs = facts_in(context, &other.guest, (since_ms, until_ms));
            for (list, guest) in [(&ours, &stay.guest), (&theirs, &other.guest)] {
                if list.is_empty() || list.iter().any(|one| one.zone.is_empty()) {
                    company.strangers.insert(guest);
                }
            }
            for (a, b) in ours.iter().flat_map(|a| theirs.iter().map(move |b| (a, b))) {
                company.pairs.push(Pair {
                    stays: [stay, other],
                    zones: [a.zone.clone(), b.zone.clone()],
                    baselines: [a.baseline, b.baseline],
                    since_ms,
                });
            }
        }
    }
    companies
}

fn per_host(
    context: Context<'_>,
    reading: CoResidence,
    judge: impl Fn(&Company<'_>) -> Finding,
) -> Vec<Finding> {
    if context.facts.releases.is_empty() {
        return vec![no_release().read_as(reading)];
    }
    let companies = companies(context);
    if companies.is_empty() {
        let known = context.facts.in_scope().next().is_some();
        let (status, reason) = if known {
            (Status::Unknown, "no entry says where any guest in scope is")
        } else {
            (
                Status::NotApplicable,
                "the newest release has no guest in scope",
            )
        };
        let finding = Finding::new(super::EVERYTHING, status, reason);
        return vec![finding.at(super::confirmed(context)).read_as(reading)];
    }
    let one = |(host, company): (&&HostId, &Company<'_>)| {
        let mut finding = judge(company);
        finding.subject = host.to_string();
        let newest = company.pairs.iter().map(|pair| pair.since_ms).max();
        let heard = context.facts.heard.get(*host).copied().max(newest);
        finding
            .from(company.evidence.iter().copied())
            .at(heard)
            .read_as(reading)
    };
    companies.iter().map(one).collect()
}

/// Facts that nobody has given never add up to a pass.
fn unless_strangers(company: &Company<'_>, finding: Finding) -> Finding {
    match company.strangers.first() {
        Some(guest) if finding.status != Status::Fail => {
            let reason = format!("no release says to which zone {guest} belongs");
            Finding {
                status: Status::Unknown,
                reason,
                ..finding
            }
        }
        _ => finding,
    }
}

/// COR-01.
pub(crate) fn strict(context: Context<'_>) -> Vec<Finding> {
    per_host(context, CoResidence::Strict, |company| {
        let mixed: Vec<_> = company
            .pairs
            .iter()
            .filter(|p| p.mixes() && !p.zones.iter().any(String::is_empty))
            .collect();
        let faults: Vec<_> = mixed.iter().map(|pair| pair.names()).collect();
        let finding = Finding::judged("", &faults, "one zone only in the window")
            .wants("guests of one zone only")
            .from(mixed.iter().flat_map(|pair| pair.indices()));
        unless_strangers(company, finding)
    })
}

/// COR-02. Shared channels (memory, file systems, devices) are not collected by this version: what
/// the network proves is never stretched to a pass.
pub(crate) fn isolated(context: Context<'_>) -> Vec<Finding> {
    per_host(context, CoResidence::Isolated, |company| {
        let mixed: Vec<_> = company.pairs.iter().filter(|pair| pair.mixes()).collect();
        if mixed.is_empty() {
            let finding = Finding::new("", Status::Pass, "one zone only, nothing to isolate");
            return unless_strangers(company, finding);
        }
        let release = context.facts.release().expect("checked by the caller");
        let mut faults = Vec::new();
        if !(release.value.default_deny_egress && release.value.default_deny_ingress) {
            faults.push("the release does not deny by default in both directions".to_owned());
        }
        let pairs: BTreeSet<_> = mixed.iter().map(|pair| sorted(&pair.zones)).collect();
        faults.extend(
            pairs
                .iter()
                .filter_map(|pair| untested(context, &release.value, pair)),
        );
        let unprotected = mixed
            .iter()
            .flat_map(|pair| pair.stays)
            .find(|stay| !stay.protected);
        faults.extend(unprotected.map(|stay| format!("no agent enforces for {}", stay.guest)));
        let finding = if faults.is_empty() {
            let reason = "the network holds; a person must judge memory, files and devices that \
                          the zones may share";
            Finding::new("", Status::Manual, reason)
        } else {
            Finding::judged("", &faults, "")
        };
        let finding = finding
            .wants("default deny, a current segmentation test per pair, no shared channel")
            .from([release.index])
            .from(mixed.iter().flat_map(|pair| pair.indices()));
        unless_strangers(company, finding)
    })
}

fn sorted([a, b]: &[String; 2]) -> (String, String) {
    if a <= b {
        (a.clone(), b.clone())
    } else {
        (b.clone(), a.clone())
    }
}

fn untested(
    context: Context<'_>,
    release: &ReleaseFacts,
    pair: &(String, String),
) -> Option<String> {
    let (a, b) = pair;
    let newest = release
        .segmentation_tests
        .iter()
        .filter(|test| test.zones == *pair || test.zones == (b.clone(), a.clone()))
        .max_by_key(|test| test.tested_ms);
    let oldest_ms = context
        .now_ms
        .saturating_sub(context.profile.segmentation_age_max_ms);
    match newest {
        None => Some(format!("no segmentation test between {a} and {b}")),
        Some(test) if !test.passed => Some(format!("the test between {a} and {b} failed")),
        Some(test) if test.tested_ms < oldest_ms => {
            Some(format!("the test between {a} and {b} is too old"))
        }
        Some(_) => None,
    }
}

/// COR-03.
pub(crate) fn highest(context: Context<'_>) -> Vec<Finding> {
    per_host(context, CoResidence::Highest, |company| {
        let differs = |pair: &&Pair<'_>| {
            pair.baselines[0] != pair.baselines[1] && !pair.baselines.contains(&0)
        };
        let uneven: Vec<_> = company.pairs.iter().filter(differs).collect();
        let words = |pair: &&Pair<'_>| {
            let [a, b] = pair.baselines;
            format!("{}: levels {a} and {b}", pair.names())
        };
        let faults: Vec<_> = uneven.iter().map(words).collect();
        let finding = Finding::judged("", &faults, "all at the highest level present")
            .wants("every guest at the highest level on the host")
            .from(uneven.iter().flat_map(|pair| pair.indices()));
        let unstated = company.pairs.iter().any(|pair| pair.baselines.contains(&0));
        if unstated && finding.status == Status::Pass {
            let reason = "a guest there has no stated level".to_owned();
            return Finding {
                status: Status::Unknown,
                reason,
                ..finding
            };
        }
        finding
    })
}
