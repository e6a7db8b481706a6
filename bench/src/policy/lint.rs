//! How long a lint of imported rules takes: five-tuples of prefixes and ports with the traits that
//! `ClassBench`'s seeds have, many of them nested, some with wildcards, some covered.

use super::{Extent, Measured, world};
use anyhow::{Context as _, Result, bail, ensure};
use lictor_analysis::{LintCode, LintInput, lint};
use lictor_policy::{Policy, parse, render};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

/// Rules of each kind of set: few wildcards as in access lists, many as in firewalls.
const KINDS: [(&str, f64); 2] = [("access list", 0.02), ("firewall", 0.25)];
const ROUNDS: usize = 3;
/// Open bits of both addresses and the port of a rule, of 82.
const BREADTH_MAX: u32 = 64;

/// The slower one of both kinds.
///
/// # Errors
/// The rules are not what they should be, or something is undecided.
pub fn measure(extent: Extent) -> Measured {
    let count = match extent {
        Extent::Full => 10_000,
        Extent::Quick => 500,
    };
    let (mut slowest, mut notes) = (0_f64, Vec::new());
    for (kind, wildcards) in KINDS {
        let policy = policy_of(Ends::Prefixes, count, wildcards)?;
        let date = world::today()?;
        let mut least = f64::MAX;
        let mut found = BTreeMap::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let findings = lint(&policy, date, &LintInput::default());
            least = least.min(start.elapsed().as_secs_f64());
            found.clear();
            for finding in findings {
                *found.entry(finding.code).or_insert(0) += 1;
            }
        }
        let count = |code: LintCode| found.get(&code).copied().unwrap_or(0);
        let undecided = count(LintCode::Undecided);
        ensure!(
            undecided == 0,
            "{undecided} rules of the {kind} are undecided"
        );
        slowest = slowest.max(least);
        notes.push(format!(
            "{kind} {least:.3} s, {} shadowed, {} contradicting, {} redundant, 0 undecided",
            count(LintCode::Shadowed),
            count(LintCode::Contradicting),
            count(LintCode::Redundant),
        ));
    }
    Ok((slowest, Some(notes.join("; "))))
}

/// What the rules lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Prefixes at both ends, as in a list for a router.
    Prefixes,
    /// Guests of an application, which prefixes reach.
    Guests,
}

/// An ordered tier of five-tuples.
pub(super) fn policy_of(ends: Ends, count: usize, wildcards: f64) -> Result<Policy> {
    let text = text(ends, count, wildcards)?;
    let (policy, diagnostics) = parse("imported", text.as_bytes());
    match policy {
        Some(policy) => Ok(policy),
        None => bail!("{}", render(&diagnostics, text.as_bytes())),
    }
}

fn text(ends: Ends, count: usize, wildcards: f64) -> Result<String> {
    let mut random = StdRng::seed_from_u64(7);
    let mut sets: BTreeMap<String, usize> = BTreeMap::new();
    let mut rules: Vec<(u32, String)> = Vec::new();
    while rules.len() < count {
        let mut breadth = 0;
        let mut end = || -> Result<String> {
            if random.gen_bool(wildcards) {
                breadth += 32;
                return Ok("outside".to_owned());
            }
            let next = sets.len();
            let (prefix, length) = prefix(&mut random)?;
            breadth += 32 - length;
            let place = sets.entry(prefix).or_insert(next);
            Ok(format!("set:p{place}"))
        };
        let from = end()?;
        let to = match ends {
            Ends::Prefixes => end()?,
            Ends::Guests => format!("app:a{}", random.gen_range(0..200)),
        };
        let action = if random.gen_bool(0.7) {
            "allow"
        } else {
            "deny"
        };
        let (service, wide) = service(&mut random, wildcards);
        breadth += wide;
        // What everything covers stands at the very end of a set, and once.
        if breadth < BREADTH_MAX {
            rules.push((
                breadth,
                format!("{action} from {from} to {to} service {service}"),
            ));
        }
    }
    // The narrow ones first, as people and ClassBench's generator write them.
    rules.sort_by_key(|(breadth, _)| *breadth);
    let rules = rules
        .iter()
        .enumerate()
        .map(|(place, (_, rule))| rule.replacen(" from", &format!(" r{place} from"), 1) + "\n");
    let rules: String = rules.collect();
    let mut text = String::from("policy \"imported\" version 1\nlabel app : string\n");
    for (prefix, place) in sets {
        writeln!(text, "set p{place} = {prefix}")?;
    }
    writeln!(text, "tier imported ordered owner \"bench\" {{\n{rules}}}")?;
    Ok(text)
}

/// Prefixes lie below few large ones, and get rarer the longer they are.
fn prefix(random: &mut StdRng) -> Result<(String, u32)> {
    let length = *[8, 16, 16, 20, 24, 24, 24, 27, 28, 32, 32, 32]
        .get(random.gen_range(0..12))
        .context("a length")?;
    let site: u32 = random.gen_range(0..24);
    let below: u32 = random.gen_range(0..1 << 16);
    let address = (10 + site % 6) << 24 | (site / 6) << 20 | below << 4;
    let address = address & (u32::MAX << (32 - length));
    let address = std::net::Ipv4Addr::from(address);
    Ok((format!("{address}/{length}"), length))
}

/// A service, and how many bits of the ports it leaves open.
fn service(random: &mut StdRng, wildcards: f64) -> (String, u32) {
    const PORTS: [u16; 16] = [
        22, 25, 53, 80, 110, 123, 143, 389, 443, 993, 1_521, 3_306, 5_432, 8_080, 8_443, 9_100,
    ];
    if random.gen_bool(wildcards) {
        return ("any".to_owned(), 18);
    }
    let protocol = if random.gen_bool(0.75) { "tcp" } else { "udp" };
    match random.gen_range(0..10) {
        0 => (format!("{protocol}/1024-65535"), 15),
        1 => (protocol.to_owned(), 16),
        2 => {
            let first: u16 = random.gen_range(1_024..60_000);
            let last = first + random.gen_range(1..2_000);
            (format!("{protocol}/{first}-{last}"), 10)
        }
        3 => (format!("{protocol}/{}", random.gen_range(1_024..60_000)), 0),
        _ => (
            format!("{protocol}/{}", PORTS[random.gen_range(0..PORTS.len())]),
            0,
        ),
    }
}
