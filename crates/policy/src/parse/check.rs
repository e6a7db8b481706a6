//! Checks that need the whole text: which rules touch sensitive scopes, whether owners stay within
//! their tiers, whether weak choices are justified.

use super::{Parser, computed};
use crate::{
    Action, At, Choice, Label, Observation, Policy, PortRange, Rule, Scope, Selector, Span, Tier,
    TierKind, diagnostic::Problem, overlap::satisfiable,
};
use lictor_types::Protocol;
use std::collections::{BTreeMap, HashMap};

/// An end as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) span: Span,
    /// Whether it was read without a mistake: if not, it says nothing about what was meant.
    pub(super) sound: bool,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RuleSpot {
    pub(super) name: Span,
    pub(super) from: Ends,
    pub(super) to: Ends,
}

/// Where a tier stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct TierSpot {
    pub(super) name: Span,
    pub(super) within: Option<Ends>,
}

/// Where a choice stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChoiceSpot {
    pub(super) chosen: Span,
    pub(super) sound: bool,
}

/// Places of what the policy holds, in the same order as the policy holds them.
#[derive(Debug, Default)]
pub(super) struct Spots {
    pub(super) tiers: Vec<TierSpot>,
    pub(super) rules: Vec<Vec<RuleSpot>>,
    pub(super) choices: Vec<ChoiceSpot>,
    pub(super) observed: Vec<Ends>,
}

/// Runs all checks.
pub(super) fn check(parser: &mut Parser<'_>) {
    let spots = std::mem::take(&mut parser.spots);
    let mut tiers = std::mem::take(&mut parser.policy.tiers);
    computed::write_out(parser, &mut tiers);
    let mut sensitive = Sensitive::of(&parser.policy);
    let mut problems = Vec::new();
    order_of_tiers(&tiers, &spots, &mut problems);
    for ((tier, spot), rules) in tiers.iter_mut().zip(&spots.tiers).zip(&spots.rules) {
        let within = tier
            .within
            .take()
            .filter(|_| spot.within.is_none_or(|ends| ends.sound));
        for (rule, spot) in tier.rules.iter_mut().zip(rules) {
            if !(spot.from.sound && spot.to.sound) {
                continue;
            }
            rule.touches_sensitive = sensitive.touched_by(rule);
            nobody_in_particular(rule, spot, &mut problems);
            sensitive_rule(rule, spot, &mut problems);
            related_sessions(rule, spot, &mut problems);
            if let Some(within) = &within {
                inside(&parser.policy.labels, within, (rule, spot), &mut problems);
            }
        }
        tier.within = within;
    }
    for (choice, spot) in parser.policy.choices.iter().zip(&spots.choices) {
        if spot.sound {
            let touches = sensitive.touches(&choice.guests);
            weak_choice(choice, touches, spot.chosen, &mut problems);
        }
    }
    for (observation, spot) in parser.policy.observed.iter().zip(&spots.observed) {
        if spot.sound && sensitive.touches(&observation.guests) {
            sensitive_observation(observation, spot.span, &mut problems);
        }
    }
    let mut standing = parser.standing_tiers();
    for rule in standing.iter_mut().flat_map(|tier| &mut tier.rules) {
        // It speaks at its guests' end only: whom they talk with does not matter.
        rule.touches_sensitive = match rule.at {
            At::Egress => sensitive.touches(&rule.from),
            At::Ingress => sensitive.touches(&rule.to),
            At::Both => sensitive.touched_by(rule),
        };
    }
    standing.append(&mut tiers);
    parser.policy.tiers = standing;
    problems
        .into_iter()
        .for_each(|problem| parser.report(problem));
}

fn order_of_tiers(tiers: &[Tier], spots: &Spots, problems: &mut Vec<Problem>) {
    let mut applications = false;
    for (tier, spot) in tiers.iter().zip(&spots.tiers) {
        applications |= tier.kind == TierKind::AllowOnly;
        let problem = match tier.kind {
            TierKind::Ordered if applications => Problem::new(
                "late-guard",
                spot.name,
                "an ordered tier stands below an allow-only one",
            )
            .expected("ordered tiers decide before all others, in the order of the text")
            .help("move it above the allow-only tiers"),
            TierKind::Ordered if spot.within.is_some() => {
                let message = "an ordered tier speaks for the whole policy";
                Problem::new("guard-within", spot.name, message)
                    .expected("it can't be limited by `within`")
                    .help("remove `within`")
            }
            _ => continue,
        };
        problems.push(problem);
    }
}

/// The sensitive scopes, and which selectors may match in one of them.
struct Sensitive {
    labels: BTreeMap<String, Label>,
    scopes: Vec<Scope>,
    known: HashMap<String, bool>,
}

impl Sensitive {
    fn of(policy: &Policy) -> Self {
        let scopes = policy.scopes.values().filter(|scope| scope.sensitive);
        let (labels, scopes) = (policy.labels.clone(), scopes.cloned().collect());
        Self {
            labels,
            scopes,
            known: HashMap::new(),
        }
    }

    fn touches(&mut self, selector: &Selector) -> bool {
        let text = selector.to_string();
        if let Some(known) = self.known.get(&text) {
            return *known;
        }
        let mut scopes = self.scopes.iter();
        let touches = scopes
            .any(|scope| satisfiable(&self.labels, &[(selector, true), (&scope.selector, true)]));
        self.known.insert(text, touches);
        touches
    }

    fn touched_by(&mut self, rule: &Rule) -> bool {
        self.touches(&rule.from) || self.touches(&rule.to)
    }
}

/// What opens a sensitive scope needs someone to answer for it, a reason and an end.
fn sensitive_rule(rule: &Rule, spot: &RuleSpot, problems: &mut Vec<Problem>) {
    if !rule.touches_sensitive || rule.action != Action::Allow {
        return;
    }
    let missing: Vec<&str> = [
        (rule.owner.is_none(), "owner"),
        (rule.justification.is_none(), "justification"),
        (rule.expires.is_none(), "expires"),
    ]
    .into_iter()
    .filter_map(|(missing, clause)| missing.then_some(clause))
    .collect();
    if missing.is_empty() {
        return;
    }
    let message = format!(
        "rule `{}` touches a sensitive scope and has no {}",
        rule.name,
        missing.join(", no ")
    );
    let problem = Problem::new("incomplete-metadata", spot.name, message)
        .expected("needs owner, justification and expires")
        .help("add them, or narrow `from` and `to` until they are outside of the scope");
    problems.push(problem);
}

/// Services whose clients open further sessions on ports that they agree on: FTP (RFC 959), TFTP
/// (RFC 1350), ONC RPC (RFC 1833), DCE RPC. Nobody follows their conversations here.
const RELATED: [(Protocol, u16, &str); 5] = [
    (Protocol::Tcp, 21, "FTP"),
    (Protocol::Udp, 69, "TFTP"),
    (Protocol::Tcp, 111, "RPC"),
    (Protocol::Udp, 111, "RPC"),
    (Protocol::Tcp, 135, "RPC"),
];

/// A rule for the first session of such a service says nothing of the others.
fn related_sessions(rule: &Rule, spot: &RuleSpot, problems: &mut Vec<Problem>) {
    let whole = |protocol| rule.service.ranges().contains(&PortRange::all(protocol));
    let mut related = RELATED
        .iter()
        .filter(|(protocol, port, _)| rule.service.contains(*protocol, *port) && !whole(*protocol));
    let Some((protocol, port, name)) = related.next().filter(|_| rule.action == Action::Allow)
    else {
        return;
    };
    let message = format!(
        "rule `{}` allows {name}, whose other sessions no rule follows",
        rule.name
    );
    let problem = Problem::new("related-sessions", spot.name, message)
        .warning()
        .expected(format!(
            "{protocol}/{port} only agrees on the ports of further sessions"
        ))
        .help("fix the server's ports and allow those too, or use SFTP, HTTPS or NFSv4");
    problems.push(problem);
}

/// A frame that is not IP has no addresses, so its other end is in no set and is no guest: a rule
/// that asks for more than that would never match.
fn nobody_in_particular(rule: &Rule, spot: &RuleSpot, problems: &mut Vec<Problem>) {
    let mut ranges = rule.service.ranges().iter();
    let nobody = |selector: &Selector| selector.holds(None, &|_| false);
    if !ranges.any(|range| range.protocol == Protocol::Ether)
        || nobody(&rule.from)
        || nobody(&rule.to)
    {
        return;
    }
    let message = format!(
        "rule `{}` names an EtherType between particular ends",
        rule.name
    );
    let problem = Problem::new("ether-peer", spot.name, message)
        .expected("such a frame tells nothing about its other end")
        .help("write `any` or `outside` for the end that is not the guest");
    problems.push(problem);
}

/// The owner of a tier opens their own guests only: whom a rule leads to is inside `within`. Where
/// it leads to addresses outside of every guest, the guests it leads from are.
fn inside(
    labels: &BTreeMap<String, Label>,
    within: &Selector,
    (rule, spot): (&Rule, &RuleSpot),
    problems: &mut Vec<Problem>,
) {
    // A host is nobody's guest, and no owner opens one outside of their tier either.
    let outside = &Selector::Outside;
    if satisfiable(
        labels,
        &[(&rule.to, true), (outside, false), (within, false)],
    ) {
        let message = format!(
            "rule `{}` leads to guests outside of its tier's `within`",
            rule.name
        );
        let problem = Problem::new("outside-within", spot.to.span, message)
            .expected(format!("not only guests that match {}", shown(within)))
            .help(format!(
                "add `& {}` if that is what is meant",
                shown(within)
            ));
        problems.push(problem);
    }
    let leaves = satisfiable(labels, &[(&rule.to, true), (outside, true)]);
    let own = Selector::All(vec![
        Selector::Not(Box::new(Selector::Outside)),
        within.clone(),
    ]);
    if leaves && satisfiable(labels, &[(&rule.from, true), (&own, false)]) {
        let message = format!(
            "rule `{}` leads outside from others than its tier's `within`",
            rule.name
        );
        let problem = Problem::new("outside-within", spot.from.span, message)
            .expected(format!("not only guests that match {}", shown(within)))
            .help(format!(
                "add `& {}`, or let `to` name guests only",
                shown(within)
            ));
        problems.push(problem);
    }
}

/// Observe mode opens a guest to all: in a sensitive scope that needs a reason and an end.
fn sensitive_observation(one: &Observation, span: Span, problems: &mut Vec<Problem>) {
    let missing = match (one.justification.is_none(), one.expires.is_none()) {
        (false, false) => return,
        (true, true) => "justification and expires",
        (true, false) => "justification",
        (false, true) => "expires",
    };
    let message = format!("observe mode in a sensitive scope needs {missing}");
    let problem = Problem::new("incomplete-metadata", span, message)
        .expected("what the policy denies would pass here")
        .help("add: justification \"why\" expires 2026-12-31");
    problems.push(problem);
}

fn shown(selector: &Selector) -> String {
    let text = selector.to_string();
    match selector {
        Selector::Either(_) => format!("({text})"),
        _ => text,
    }
}

fn weak_choice(
    choice: &crate::FailureChoice,
    touches_sensitive: bool,
    span: Span,
    problems: &mut Vec<Problem>,
) {
    if !choice.cause.weakens(choice.choice) {
        return;
    }
    let named = choice.choice == Choice::AllowWithExpiry;
    let no_expiry = choice.expires.is_none() && (named || touches_sensitive);
    let no_reason = choice.justification.is_none() && touches_sensitive;
    if !no_expiry && !no_reason {
        return;
    }
    let missing = match (no_reason, no_expiry) {
        (true, true) => "justification and expires",
        (true, false) => "justification",
        _ => "expires",
    };
    let message = format!(
        "`{}` weakens the default and needs {missing}",
        choice.choice
    );
    let problem = Problem::new("incomplete-metadata", span, message)
        .expected(format!("the default is {}", choice.cause.default_choice()))
        .help("add: justification \"why\" expires 2026-12-31");
    problems.push(problem);
}
