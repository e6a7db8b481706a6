//! The reference evaluator: what a policy means for the first packet of one session, in plain loops
//! over the resolved text. It knows no identities, atoms or tables, so that those can be tested
//! against it.

use crate::{Action, At, Date, End, Log, Mode, OnExpiry, Policy, Rule, Selector, Tier, TierKind};
use lictor_types::{Direction, Protocol, Reason, RuleId, Verdict, Would};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

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

impl Question {
    /// The question as it is asked at one end. A frame that is not IP has no addresses: to each end
    /// the other one is nobody in particular.
    #[must_use]
    pub fn seen_at(&self, direction: Direction) -> Self {
        let mut seen = self.clone();
        if self.protocol == Protocol::Ether {
            match direction {
                Direction::Egress => seen.destination = NOBODY,
                Direction::Ingress => seen.source = NOBODY,
            }
        }
        seen
    }
}

/// Which clauses of a rule a question meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matches {
    /// Who begins.
    pub from: bool,
    /// Who is asked.
    pub to: bool,
    /// The service.
    pub service: bool,
}

impl Matches {
    /// Compares a rule with a question, clause by clause.
    #[must_use]
    pub fn of(policy: &Policy, rule: &Rule, question: &Question) -> Self {
        let holds = |selector: &Selector, end: &End| match (question.protocol, end) {
            (Protocol::Ether, End::Address(_)) => selector.holds(None, &|_| false),
            _ => selector.matches(end, &policy.sets),
        };
        Self {
            from: holds(&rule.from, &question.source),
            to: holds(&rule.to, &question.destination),
            service: rule.service.contains(question.protocol, question.port),
        }
    }

    /// Whether the rule speaks of the packet.
    #[must_use]
    pub const fn all(self) -> bool {
        self.from && self.to && self.service
    }
}

/// What one end says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decided; none for quarantine, the default deny and what passes in observe
    /// mode.
    pub rule: Option<RuleId>,
    /// Whether it is reported as an event.
    pub log: bool,
    /// Events of the rule in one second, if there is a limit.
    pub log_limit: Option<u16>,
    /// New sessions of the rule in one second, if there is a limit.
    pub limit: Option<u32>,
    /// What would have happened, were it not for observe mode.
    pub would: Option<Would>,
}

impl Ruling {
    /// Why, as the data plane says it. Only observe mode allows without a rule.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match (self.verdict, self.rule) {
            (Verdict::Allow, None) => Reason::Observed,
            (Verdict::Allow, Some(_)) => Reason::PolicyAllow,
            (Verdict::Reject, _) => Reason::Rejected,
            (Verdict::Deny, Some(_)) => Reason::PolicyDeny,
            (Verdict::Deny, None) => Reason::DefaultDeny,
        }
    }

    /// No rule allows it.
    const fn default_deny(log: Log) -> Self {
        Self {
            verdict: Verdict::Deny,
            rule: None,
            log: !matches!(log, Log::Off),
            log_limit: None,
            limit: None,
            would: None,
        }
    }

    /// What happens at a guest for which the policy is only observed.
    #[must_use]
    pub const fn observed(self) -> Self {
        if matches!(self.verdict, Verdict::Allow) {
            return self;
        }
        let rule = match self.rule {
            Some(rule) => rule,
            None => RuleId::DEFAULT,
        };
        let verdict = self.verdict;
        Self {
            verdict: Verdict::Allow,
            rule: None,
            would: Some(Would { verdict, rule }),
            ..self
        }
    }
}

/// Whether something is reported, and how often in one second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    pub(crate) on: bool,
    pub(crate) limit: Option<u16>,
}

impl Report {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self {
            on: rule.log != Log::Off,
            limit: rule.log_limit,
        }
    }

    /// Both together: whoever reports without a limit has none.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self.on, other.on) {
            (true, true) => Self {
                on: true,
                limit: self.limit.zip(other.limit).map(|(one, two)| one.max(two)),
            },
            (false, _) => other,
            (_, false) => self,
        }
    }
}

/// Whether a rule's limit leaves more room than another's. Among rules that all allow, the one that
/// allows most is the one that holds, or adding a rule could close something.
pub(crate) fn allows_more(one: &Rule, other: &Rule) -> bool {
    let room = |rule: &Rule| rule.limit.unwrap_or(u32::MAX);
    room(one) > room(other)
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
    /// At which end it speaks.
    #[serde(default, skip_serializing_if = "At::is_both")]
    pub at: At,
    /// Whether it took part: rules after the decision, expired ones that were dropped, and those of
    /// a tier in observe mode did not.
    pub counted: bool,
    /// Whether its tier takes effect.
    pub mode: Mode,
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
    let (source, destination) = (&question.source, &question.destination);
    let of_source = question.seen_at(Direction::Egress);
    let of_destination = question.seen_at(Direction::Ingress);
    let asked = |question, direction| Asked {
        question,
        direction,
    };
    let egress = at(policy, source, asked(&of_source, Direction::Egress));
    let ingress = at(
        policy,
        destination,
        asked(&of_destination, Direction::Ingress),
    );
    let said = [egress, ingress];
    let worst = said
        .into_iter()
        .flatten()
        .map(|ruling| ruling.verdict)
        .find(|verdict| *verdict != Verdict::Allow);
    let verdict = match said {
        [None, None] => Verdict::Deny,
        _ => worst.unwrap_or(Verdict::Allow),
    };
    Answer {
        egress,
        ingress,
        verdict,
        trace: trace(policy, question, free(policy, question)),
    }
}

/// An end without an address.
const NOBODY: End = End::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// What is said at an end, if it is a guest.
fn at(policy: &Policy, end: &End, asked: Asked<'_>) -> Option<Ruling> {
    let End::Guest(labels) = end else {
        return None;
    };
    let ruling = if free(policy, asked.question) {
        let enforced = decide(policy, asked, &[Mode::Enforce]);
        let all = decide(policy, asked, &[Mode::Enforce, Mode::Observe]);
        ruling(policy, enforced, all)
    } else {
        Ruling::default_deny(policy.baseline_log)
    };
    Some(match policy.observes(labels, asked.question.date) {
        true => ruling.observed(),
        false => ruling,
    })
}

/// Whether neither end is in quarantine.
fn free(policy: &Policy, question: &Question) -> bool {
    let mut ends = [&question.source, &question.destination].into_iter();
    ends.all(|end| match end {
        End::Guest(labels) => !policy.quarantines(labels),
        End::Address(_) => true,
    })
}

/// The rule that decides, and how what it says is reported.
#[derive(Clone, Copy)]
struct Decided<'a> {
    tier: &'a Tier,
    rule: &'a Rule,
    log: Report,
}

/// What takes effect, with what the rules of tiers in observe mode would have said.
fn ruling(policy: &Policy, enforced: Option<Decided<'_>>, all: Option<Decided<'_>>) -> Ruling {
    let would = all.filter(|decided| decided.tier.mode == Mode::Observe);
    let reports = [enforced, would].into_iter().flatten();
    let log = reports.fold(Report::default(), |log, decided| log.or(decided.log));
    let would = would.map(|decided| Would {
        verdict: verdict(decided.rule.action),
        rule: decided.rule.id,
    });
    let Some(Decided { rule, .. }) = enforced else {
        let ruling = Ruling::default_deny(policy.baseline_log);
        return Ruling {
            log: ruling.log || log.on,
            log_limit: log.limit,
            would,
            ..ruling
        };
    };
    Ruling {
        verdict: verdict(rule.action),
        rule: Some(rule.id),
        log: log.on,
        log_limit: log.limit,
        limit: rule.limit,
        would,
    }
}

const fn verdict(action: Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Reject => Verdict::Reject,
        Action::Deny | Action::Pass => Verdict::Deny,
    }
}

/// What one end asks: of it, only rules that speak at that end answer.
#[derive(Clone, Copy)]
struct Asked<'a> {
    question: &'a Question,
    direction: Direction,
}

/// The rules of a tier that match at this end and are in force.
fn candidates<'a>(
    policy: &'a Policy,
    tier: &'a Tier,
    asked: Asked<'a>,
) -> impl Iterator<Item = &'a Rule> {
    tier.rules.iter().filter(move |rule| {
        rule.at.covers(asked.direction)
            && live(tier, rule, asked.question.date)
            && matches(policy, rule, asked.question)
    })
}

/// The first rule that matches of each ordered tier decides, or passes to the next. If none has
/// decided, any rule of the application tiers that matches allows. Those without a window of time
/// come before those with one; of them the one that allows most is the one reported, and the first
/// by name among equals, so that the order of the text means nothing.
fn decide<'a>(policy: &'a Policy, asked: Asked<'a>, modes: &[Mode]) -> Option<Decided<'a>> {
    let of_kind = |kind| {
        let tiers = policy.tiers.iter();
        tiers.filter(move |tier| tier.kind == kind && modes.contains(&tier.mode))
    };
    for tier in of_kind(TierKind::Ordered) {
        let first = candidates(policy, tier, asked).next();
        if let Some(rule) = first.filter(|rule| rule.action != Action::Pass) {
            let log = Report::of(rule);
            return Some(Decided { tier, rule, log });
        }
    }
    let mut found: Option<Decided<'a>> = None;
    for tier in of_kind(TierKind::AllowOnly) {
        for rule in candidates(policy, tier, asked) {
            let one = Decided {
                tier,
                rule,
                log: Report::of(rule),
            };
            found = Some(found.map_or(one, |known| better(known, one)));
        }
    }
    found
}

/// Which of two allowing rules holds, and what both report.
fn better<'a>(known: Decided<'a>, one: Decided<'a>) -> Decided<'a> {
    match (known.rule.during, one.rule.during) {
        (None, Some(_)) => return known,
        (Some(_), None) => return one,
        _ => {}
    }
    let log = known.log.or(one.log);
    let more = allows_more(one.rule, known.rule);
    let equal = !more && !allows_more(known.rule, one.rule);
    let chosen = if more || (equal && one.rule.name < known.rule.name) {
        one
    } else {
        known
    };
    Decided { log, ..chosen }
}

/// Every rule that matches, in the order of evaluation, and whether it took part at either end.
fn trace(policy: &Policy, question: &Question, free: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut open = [free; 2];
    for tier in &policy.tiers {
        let mut decided = [false; 2];
        for rule in tier
            .rules
            .iter()
            .filter(|rule| matches(policy, rule, question))
        {
            let live = live(tier, rule, question.date) && tier.mode == Mode::Enforce;
            let mut counted = false;
            for direction in [Direction::Egress, Direction::Ingress] {
                let end = direction as usize;
                if !(live && open[end] && !decided[end] && rule.at.covers(direction)) {
                    continue;
                }
                counted = true;
                decided[end] = tier.kind == TierKind::Ordered;
                open[end] &= tier.kind == TierKind::AllowOnly || rule.action == Action::Pass;
            }
            steps.push(step(tier, rule, question.date, counted));
        }
    }
    steps
}

fn matches(policy: &Policy, rule: &Rule, question: &Question) -> bool {
    // The service first: it is cheap, and most rules are of another one.
    rule.service.contains(question.protocol, question.port)
        && Matches::of(policy, rule, question).all()
}

fn live(tier: &Tier, rule: &Rule, date: Date) -> bool {
    rule.on_its_day(date) && (tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date))
}

fn step(tier: &Tier, rule: &Rule, date: Date, counted: bool) -> Step {
    let expired = rule.expired(date);
    Step {
        rule: rule.id,
        name: rule.name.clone(),
        action: rule.action,
        at: rule.at,
        counted,
        mode: tier.mode,
        expired,
    }
}
