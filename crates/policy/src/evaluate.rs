//! The reference evaluator: what a policy means for the first packet of one session, in plain loops
//! over the resolved text. It knows no identities, atoms or tables, so that those can be tested
//! against it.

use crate::{Action, Date, End, Log, OnExpiry, Policy, Rule, Tier, TierKind};
use lictor_types::{Protocol, RuleId, Verdict};
use serde::{Deserialize, Serialize};

/// The first packet of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Who begins.
    pub source: End,
    /// Who is asked.
    pub destination: End,
    /// The protocol class.
    pub protocol: Protocol,
    /// The destination port, or what stands in its place.
    pub port: u16,
    /// The day.
    pub date: Date,
}

/// What one end says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// Allow or deny.
    pub verdict: Verdict,
    /// The rule that decided; none for quarantine and the default deny.
    pub rule: Option<RuleId>,
    /// Whether it is reported as an event.
    pub log: bool,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The rule.
    pub rule: RuleId,
    /// Its name.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Whether it took part: rules after the decision, and expired ones that were dropped, did not.
    pub counted: bool,
    /// Whether its last day is over.
    pub expired: bool,
}

/// What the policy says, for each end by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// At the source, if it is a guest.
    pub egress: Option<Ruling>,
    /// At the destination, if it is a guest.
    pub ingress: Option<Ruling>,
    /// Allow if every end that is a guest allows. A session between two outside addresses passes no
    /// guest and is never allowed by a policy.
    pub verdict: Verdict,
    /// Every rule that matches the packet, in the order of evaluation.
    pub trace: Vec<Step>,
}

/// Answers a question.
#[must_use]
pub fn evaluate(policy: &Policy, question: &Question) -> Answer {
    let mut trace = Vec::new();
    let ruling = decide(policy, question, &mut trace);
    let at = |end: &End| matches!(end, End::Guest(_)).then_some(ruling);
    let (egress, ingress) = (at(&question.source), at(&question.destination));
    let verdict = if egress.is_some() || ingress.is_some() {
        ruling.verdict
    } else {
        Verdict::Deny
    };
    Answer {
        egress,
        ingress,
        verdict,
        trace,
    }
}

fn decide(policy: &Policy, question: &Question, trace: &mut Vec<Step>) -> Ruling {
    let guarded = guard(policy, question, trace);
    let open = !matches!(guarded, Some((_, Action::Allow | Action::Deny)));
    let allowed = applications(policy, question, trace, open);
    let quarantined = |end: &End| match end {
        End::Guest(labels) => policy.quarantines(labels),
        End::Address(_) => false,
    };
    if quarantined(&question.source) || quarantined(&question.destination) {
        trace.iter_mut().for_each(|step| step.counted = false);
        return Ruling {
            verdict: Verdict::Deny,
            rule: None,
            log: policy.baseline_log != Log::Off,
        };
    }
    if let Some((rule, action @ (Action::Allow | Action::Deny))) = guarded {
        let verdict = if action == Action::Allow {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        return Ruling {
            verdict,
            rule: Some(rule.id),
            log: rule.log != Log::Off,
        };
    }
    match allowed {
        Some(ruling) => ruling,
        None => Ruling {
            verdict: Verdict::Deny,
            rule: None,
            log: policy.baseline_log != Log::Off,
        },
    }
}

/// The first rule of the guard that matches.
fn guard<'a>(
    policy: &'a Policy,
    question: &Question,
    trace: &mut Vec<Step>,
) -> Option<(&'a Rule, Action)> {
    let mut decided = None;
    for (tier, rule) in policy
        .rules()
        .filter(|(tier, _)| tier.kind == TierKind::Ordered)
    {
        if !matches(policy, rule, question) {
            continue;
        }
        let counted = decided.is_none() && live(tier, rule, question.date);
        trace.push(step(rule, question.date, counted));
        if counted {
            decided = Some((rule, rule.action));
        }
    }
    decided
}

/// The application tiers: any rule that matches allows. The first by name is the one reported, so
/// that the order of the text means nothing.
fn applications(
    policy: &Policy,
    question: &Question,
    trace: &mut Vec<Step>,
    open: bool,
) -> Option<Ruling> {
    let mut first: Option<&Rule> = None;
    let mut log = false;
    for (tier, rule) in policy
        .rules()
        .filter(|(tier, _)| tier.kind == TierKind::AllowOnly)
    {
        if !matches(policy, rule, question) {
            continue;
        }
        let counted = open && live(tier, rule, question.date);
        trace.push(step(rule, question.date, counted));
        if counted {
            log |= rule.log != Log::Off;
            if first.is_none_or(|known| rule.name < known.name) {
                first = Some(rule);
            }
        }
    }
    first.map(|rule| Ruling {
        verdict: Verdict::Allow,
        rule: Some(rule.id),
        log,
    })
}

fn matches(policy: &Policy, rule: &Rule, question: &Question) -> bool {
    rule.service.contains(question.protocol, question.port)
        && rule.from.matches(&question.source, &policy.sets)
        && rule.to.matches(&question.destination, &policy.sets)
}

fn live(tier: &Tier, rule: &Rule, date: Date) -> bool {
    tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date)
}

fn step(rule: &Rule, date: Date, counted: bool) -> Step {
    let expired = rule.expired(date);
    Step {
        rule: rule.id,
        name: rule.name.clone(),
        action: rule.action,
        counted,
        expired,
    }
}
