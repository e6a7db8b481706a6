//! Why a policy says what it says of one packet: at each end every tier and rule that matched, in
//! the order of evaluation, what became of each, and which rules it missed by one clause.

use crate::RuleName;
use lictor_policy::evaluate::{Matches, Question, Ruling, evaluate};
use lictor_policy::{Action, Date, End, Mode, OnExpiry, Policy, Rule, Tier, TierKind};
use lictor_types::{Direction, Reason, RuleId, Verdict};
use serde::{Deserialize, Serialize};

/// Rules that were missed by one clause and are listed; the rest is counted.
pub const NEAR_MAX: usize = 16;

/// What a policy says of the first packet of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub question: Question,
    /// Allow if every end that is a guest allows.
    pub verdict: Verdict,
    /// Why: of the first end that does not allow, else of the first one.
    pub reason: Reason,
    /// At the source, if it is a guest.
    pub egress: Option<EndSays>,
    /// At the destination, if it is a guest.
    pub ingress: Option<EndSays>,
}

/// What one end says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSays {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decides, if one does.
    pub rule: Option<RuleName>,
    /// What would happen, were it not for observe mode.
    pub would: Option<WouldSay>,
    /// Every rule that matches at this end, in the order of evaluation.
    pub steps: Vec<RuleStep>,
    /// Where no rule allows: those that would, but for one clause.
    pub near: Vec<NearMiss>,
    /// How many more there are of those.
    pub near_more: usize,
}

/// What would happen, were it not for observe mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldSay {
    /// What.
    pub verdict: Verdict,
    /// By which rule; the default deny has none.
    pub rule: Option<String>,
}

/// A rule that matches, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStep {
    /// Its tier.
    pub tier: String,
    /// How the tier's rules relate.
    pub kind: TierKind,
    /// The rule.
    pub rule: RuleName,
    /// What it does.
    pub action: Action,
    /// What became of it.
    pub part: Part,
    /// Its last day is over.
    pub expired: bool,
}

/// What became of a rule that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It decides.
    Decides,
    /// It hands over to the next tier.
    Passes,
    /// It allows too; another rule is the one that holds and is reported.
    AllowsToo,
    /// An earlier rule has decided.
    DecidedBefore,
    /// It speaks at the other end only.
    OtherEnd,
    /// Its last day is over.
    Expired,
    /// It does not allow on this day of the week.
    OtherDay,
    /// Its tier is observed: it takes no effect.
    Observed,
    /// An end is in quarantine, where no rule is asked.
    Quarantine,
}

impl Part {
    /// The same for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Decides => "decides",
            Self::Passes => "hands over to the next tier",
            Self::AllowsToo => "allows too",
            Self::DecidedBefore => "decided before",
            Self::OtherEnd => "speaks at the other end",
            Self::Expired => "past its last day",
            Self::OtherDay => "not on this day of the week",
            Self::Observed => "does not count: its tier is observed",
            Self::Quarantine => "not asked: an end is in quarantine",
        }
    }
}

/// A rule that would allow, but for one clause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleName,
    /// The clause.
    pub clause: Clause,
    /// What the clause says.
    pub says: String,
}

/// A clause of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clause {
    /// Who begins.
    From,
    /// Who is asked.
    To,
    /// The ports.
    Service,
    /// At which end it speaks.
    At,
    /// Its last day.
    Expires,
    /// The days of the week.
    During,
}

impl Clause {
    /// As the language writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::Service => "service",
            Self::At => "at",
            Self::Expires => "expires",
            Self::During => "during",
        }
    }
}

/// Explains what a policy says of a packet. The verdicts are the reference evaluator's.
#[must_use]
pub fn explain(policy: &Policy, question: &Question) -> Explanation {
    let answer = evaluate(policy, question);
    let says = |ruling: Option<Ruling>, direction| {
        let seen = question.seen_at(direction);
        let mut ends = [&seen.source, &seen.destination].into_iter();
        let free = ends.all(|end| !quarantined(policy, end));
        let asked = Asked {
            policy,
            question: &seen,
            direction,
            free,
        };
        ruling.map(|ruling| asked.says(ruling))
    };
    let egress = says(answer.egress, Direction::Egress);
    let ingress = says(answer.ingress, Direction::Ingress);
    let reason = {
        let both = || [&egress, &ingress].into_iter().flatten();
        let worst = both().find(|says| says.verdict != Verdict::Allow);
        let told = worst.or_else(|| both().next());
        // Between two outside addresses there is no guest, and no rule.
        told.map_or(Reason::DefaultDeny, |says| says.reason)
    };
    Explanation {
        question: question.clone(),
        verdict: answer.verdict,
        reason,
        egress,
        ingress,
    }
}

fn quarantined(policy: &Policy, end: &End) -> bool {
    match end {
        End::Guest(labels) => policy.quarantines(labels),
        End::Address(_) => false,
    }
}

pub(crate) fn rule_name(tier: &Tier, rule: &Rule) -> RuleName {
    RuleName {
        name: rule.name.clone(),
        owner: rule.owner.clone().or_else(|| tier.owner.clone()),
        file: rule.file.clone(),
        line: rule.line,
    }
}

/// What is asked at one end.
struct Asked<'a> {
    policy: &'a Policy,
    question: &'a Question,
    direction: Direction,
    free: bool,
}

impl Asked<'_> {
    fn says(&self, ruling: Ruling) -> EndSays {
        let named = |id: RuleId| self.policy.rules().find(|(_, rule)| rule.id == id);
        let (near, near_more) = match ruling.verdict {
            Verdict::Allow => (Vec::new(), 0),
            Verdict::Deny | Verdict::Reject => self.near(),
        };
        EndSays {
            verdict: ruling.verdict,
            reason: ruling.reason(),
            rule: ruling
                .rule
                .and_then(named)
                .map(|(tier, rule)| rule_name(tier, rule)),
            would: ruling.would.map(|would| WouldSay {
                verdict: would.verdict,
                rule: named(would.rule).map(|(_, rule)| rule.name.clone()),
            }),
            steps: self.steps(holding(&ruling)),
            near,
            near_more,
        }
    }

    /// Walks the tiers as evaluation does. Only which of several rules of the application tiers
    /// holds is taken from the evaluator.
    fn steps(&self, holds: Option<RuleId>) -> Vec<RuleStep> {
        let mut steps = Vec::new();
        let mut open = true;
        for tier in &self.policy.tiers {
            let mut decided = false;
            for rule in &tier.rules {
                if !Matches::of(self.policy, rule, self.question).all() {
                    continue;
                }
                let part = match self.out_of_play(tier, rule) {
                    Some(part) => part,
                    None if !open || decided => Part::DecidedBefore,
                    None if tier.kind == TierKind::AllowOnly => match holds == Some(rule.id) {
                        true => Part::Decides,
                        false => Part::AllowsToo,
                    },
                    None if rule.action == Action::Pass => Part::Passes,
                    None => Part::Decides,
                };
                if tier.kind == TierKind::Ordered {
                    decided |= matches!(part, Part::Decides | Part::Passes);
                    open &= part != Part::Decides;
                }
                steps.push(RuleStep {
                    tier: tier.name.clone(),
                    kind: tier.kind,
                    rule: rule_name(tier, rule),
                    action: rule.action,
                    part,
                    expired: rule.expired(self.question.date),
                });
            }
        }
        steps
    }

    /// Why a rule that matches is not asked at all.
    fn out_of_play(&self, tier: &Tier, rule: &Rule) -> Option<Part> {
        if !self.free {
            return Some(Part::Quarantine);
        }
        if !rule.at.covers(self.direction) {
            return Some(Part::OtherEnd);
        }
        if gone(tier, rule, self.question.date) {
            return Some(Part::Expired);
        }
        if !rule.on_its_day(self.question.date) {
            return Some(Part::OtherDay);
        }
        (tier.mode == Mode::Observe).then_some(Part::Observed)
    }

    fn near(&self) -> (Vec<NearMiss>, usize) {
        let (mut near, mut more) = (Vec::new(), 0);
        if !self.free {
            return (near, more);
        }
        let enforced = self
            .policy
            .rules()
            .filter(|(tier, rule)| tier.mode == Mode::Enforce && rule.action == Action::Allow);
        for (tier, rule) in enforced {
            let Some((clause, says)) = self.missed(tier, rule) else {
                continue;
            };
            if near.len() == NEAR_MAX {
                more += 1;
                continue;
            }
            near.push(NearMiss {
                rule: rule_name(tier, rule),
                clause,
                says,
            });
        }
        (near, more)
    }

    /// The only clause that keeps a rule from speaking here.
    fn missed(&self, tier: &Tier, rule: &Rule) -> Option<(Clause, String)> {
        let date = self.question.date;
        let matches = Matches::of(self.policy, rule, self.question);
        let at = match self.direction {
            Direction::Egress => "ingress",
            Direction::Ingress => "egress",
        };
        let expires = || {
            rule.expires
                .map_or_else(String::new, |date| date.to_string())
        };
        let during = || {
            rule.during
                .map_or_else(String::new, |days| days.to_string())
        };
        let clauses: [(bool, Clause, &dyn Fn() -> String); 6] = [
            (matches.from, Clause::From, &|| rule.from.to_string()),
            (matches.to, Clause::To, &|| rule.to.to_string()),
            (matches.service, Clause::Service, &|| {
                rule.service.to_string()
            }),
            (rule.at.covers(self.direction), Clause::At, &|| {
                at.to_owned()
            }),
            (!gone(tier, rule, date), Clause::Expires, &expires),
            (rule.on_its_day(date), Clause::During, &during),
        ];
        let mut missed = clauses.iter().filter(|(holds, ..)| !holds);
        match (missed.next(), missed.next()) {
            (Some((_, clause, says)), None) => Some((*clause, says())),
            _ => None,
        }
    }
}

/// Whether its end has taken a rule out.
fn gone(tier: &Tier, rule: &Rule, date: Date) -> bool {
    tier.on_expiry == OnExpiry::Drop && rule.expired(date)
}

/// The rule that decides, also where observe mode lets everything pass.
fn holding(ruling: &Ruling) -> Option<RuleId> {
    if ruling.rule.is_some() {
        return ruling.rule;
    }
    let observed = ruling.reason() == Reason::Observed;
    let would = ruling.would.filter(|_| observed)?.rule;
    (would != RuleId::DEFAULT).then_some(would)
}
