//! Computed scopes: who can reach a scope, or be reached by it, over the rules that allow. Only
//! rules that allow count, and they can't name computed scopes, so membership never depends on
//! itself; rules that deny may name them. What is computed is a selector over labels, so it holds
//! for guests that are not there yet.

use super::Parser;
use crate::{
    Action, Claim, Computed, Label, Mode, SELECTOR_PARTS_MAX, SELECTOR_PARTS_TOTAL_MAX, Selector,
    Span, Tier, diagnostic::Problem, overlap::satisfiable,
};
use std::collections::BTreeMap;

/// A computed scope as it was read.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) span: Span,
    pub(super) base: Selector,
    pub(super) how: Computed,
}

/// Writes computed scopes out wherever they are named. The tiers are those of the text.
pub(super) fn write_out(parser: &mut Parser<'_>, tiers: &mut [Tier]) {
    let wanted = std::mem::take(&mut parser.computed);
    if wanted.is_empty() {
        return;
    }
    let names_one = |selector: &Selector| {
        let mut found = false;
        selector.visit(&mut |leaf| found |= matches!(leaf, Selector::Computed(_)));
        found
    };
    let mut problems = Vec::new();
    let standing = parser
        .standing
        .iter()
        .flatten()
        .map(|rule| (Mode::Enforce, rule));
    let of_tiers = tiers
        .iter()
        .flat_map(|tier| tier.rules.iter().map(|rule| (tier.mode, rule)));
    let mut sides = Vec::new();
    for (mode, rule) in standing.chain(of_tiers) {
        if rule.action != Action::Allow || mode != Mode::Enforce {
            continue;
        }
        if names_one(&rule.from) || names_one(&rule.to) {
            let spot = wanted.first().map_or(parser.previous, |one| one.span);
            let message = format!("rule `{}` allows by a computed scope", rule.name);
            let problem = Problem::new("computed-in-allow", spot, message)
                .expected("this scope follows from the rules that allow, so none can name it")
                .help("name labels in that rule");
            problems.push(problem);
            continue;
        }
        sides.push((rule.from.clone(), rule.to.clone()));
    }
    let mut found = BTreeMap::new();
    for one in &wanted {
        let selector = closure(&parser.policy.labels, &sides, one);
        if selector.size().0 > SELECTOR_PARTS_MAX {
            let message = format!(
                "computed scope `{}` has more than {SELECTOR_PARTS_MAX} parts",
                one.name
            );
            let problem = Problem::new("selector-too-large", one.span, message)
                .expected("too many different rules allow toward or from it")
                .help("give the guests one label that says what this scope says");
            problems.push(problem);
        } else {
            found.insert(one.name.clone(), selector);
        }
    }
    let mut writer = Writer {
        found: &found,
        parts: 0,
    };
    writer.policy(parser, tiers);
    if writer.parts > SELECTOR_PARTS_TOTAL_MAX {
        let spot = wanted.first().map_or(parser.previous, |one| one.span);
        let message =
            format!("all selectors together have more than {SELECTOR_PARTS_TOTAL_MAX} parts");
        problems.push(
            Problem::new("selectors-too-large", spot, message)
                .expected("computed scopes are written out wherever they are named"),
        );
    }
    problems
        .into_iter()
        .for_each(|problem| parser.report(problem));
}

/// Guests and hosts that the rules join with the base, in so many steps, without the base.
fn closure(
    labels: &BTreeMap<String, Label>,
    sides: &[(Selector, Selector)],
    wanted: &Wanted,
) -> Selector {
    let mut parts: BTreeMap<String, Selector> = BTreeMap::new();
    let mut reached = wanted.base.clone();
    let mut known: BTreeMap<(String, usize), bool> = BTreeMap::new();
    for step in 0.. {
        if wanted.how.hops.is_some_and(|hops| step >= hops) {
            break;
        }
        let before = parts.len();
        let mut meets = |side: &Selector| {
            let key = (side.to_string(), before);
            *known
                .entry(key)
                .or_insert_with(|| satisfiable(labels, &[(side, true), (&reached, true)]))
        };
        let mut next = Vec::new();
        for (from, to) in sides {
            if meets(to) {
                next.push(from);
            }
            if meets(from) {
                next.push(to);
            }
        }
        parts.extend(
            next.into_iter()
                .map(|side| (side.to_string(), side.clone())),
        );
        if parts.len() == before {
            break;
        }
        let all = parts.values().cloned().chain([wanted.base.clone()]);
        reached = Selector::Either(all.collect());
    }
    let inside = Selector::Not(Box::new(Selector::Outside));
    let joined = Selector::Either(parts.into_values().collect());
    Selector::All(vec![
        inside,
        Selector::Not(Box::new(wanted.base.clone())),
        joined,
    ])
}

struct Writer<'a> {
    found: &'a BTreeMap<String, Selector>,
    parts: usize,
}

impl Writer<'_> {
    fn policy(&mut self, parser: &mut Parser<'_>, tiers: &mut [Tier]) {
        for tier in tiers {
            tier.within
                .iter_mut()
                .for_each(|within| self.selector(within));
            for rule in &mut tier.rules {
                self.selector(&mut rule.from);
                self.selector(&mut rule.to);
            }
        }
        let policy = &mut parser.policy;
        let scopes = policy.scopes.values_mut().map(|one| &mut one.selector);
        let controls = policy.controls.iter_mut().map(|one| &mut one.guests);
        let choices = policy.choices.iter_mut().map(|one| &mut one.guests);
        let observed = policy.observed.iter_mut().map(|one| &mut one.guests);
        let all = scopes.chain(controls).chain(choices).chain(observed);
        all.for_each(|selector| self.selector(selector));
        let claims = policy.intents.iter_mut().map(|one| &mut one.claim);
        claims.for_each(|claim| self.claim(claim));
        let standing = parser.standing.iter_mut().flatten();
        standing.for_each(|rule| {
            self.selector(&mut rule.from);
            self.selector(&mut rule.to);
        });
    }

    fn claim(&mut self, claim: &mut Claim) {
        match claim {
            Claim::NeverPath {
                from, to, except, ..
            } => {
                self.selector(from);
                self.selector(to);
                except
                    .iter_mut()
                    .for_each(|one| self.selector(&mut one.ends));
            }
            Claim::AlwaysPath { from, to, .. } | Claim::Only { from, to, .. } => {
                self.selector(from);
                self.selector(to);
            }
            Claim::Controls { guests, .. } => self.selector(guests),
            Claim::Apart { one, other, .. } => {
                self.selector(one);
                self.selector(other);
            }
        }
    }

    /// Nothing more is written once there is too much: the text is refused then.
    fn selector(&mut self, selector: &mut Selector) {
        match selector {
            Selector::Computed(name) => {
                let found = self
                    .found
                    .get(name)
                    .filter(|_| self.parts <= SELECTOR_PARTS_TOTAL_MAX);
                let written = found.cloned().unwrap_or(Selector::Any);
                self.parts += written.size().0;
                *selector = written;
            }
            Selector::Not(inner) => self.selector(inner),
            Selector::All(parts) | Selector::Either(parts) => {
                parts.iter_mut().for_each(|part| self.selector(part));
            }
            _ => {}
        }
    }
}

/// How far a computed scope reaches.
pub(crate) const REACHES: [(&str, Option<u32>); 4] = [
    ("one-hop", Some(1)),
    ("two-hops", Some(2)),
    ("three-hops", Some(3)),
    ("closure", None),
];
