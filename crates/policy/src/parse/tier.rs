//! Tiers and their rules.

use super::{
    Failed, Kind, Noun, Parsed, Parser, STATEMENTS,
    check::{Ends, RuleSpot, TierSpot},
    short,
    standing::Standing,
};
use crate::{
    Action, At, Date, LIMIT_MAX, LOG_LIMIT_MAX, Log, Mode, OnExpiry, Rule, Selector, Service, Span,
    Tier, TierKind, Window, diagnostic::Problem,
};
use lictor_types::RULES_MAX;
use std::collections::HashSet;

/// Words that begin a clause of a rule.
pub(crate) const CLAUSES: [&str; 13] = [
    "from",
    "to",
    "service",
    "at",
    "owner",
    "justification",
    "requirement",
    "review",
    "expires",
    "during",
    "log",
    "log-limit",
    "limit",
];

/// Words that begin a rule.
pub(crate) const ACTIONS: [&str; 4] = ["allow", "deny", "reject", "pass"];

/// The longest time between reviews, in days.
const REVIEW_DAYS_MAX: u32 = 3_650;

/// A rule while its clauses are read.
#[derive(Default)]
struct Draft {
    seen: Vec<&'static str>,
    from: Option<(Selector, Ends)>,
    to: Option<(Selector, Ends)>,
    service: Option<Service>,
    at: Option<At>,
    owner: Option<String>,
    justification: Option<String>,
    requirements: Vec<String>,
    review_days: Option<u32>,
    expires: Option<Date>,
    during: Option<Window>,
    log: Option<Log>,
    log_limit: Option<u16>,
    limit: Option<u32>,
}

impl Parser<'_> {
    /// `tier NAME ordered | unordered allow-only
    /// [observe] [owner ".."] [within SELECTOR] [on-expiry ..] { .. }`
    /// or `tier baseline { deny all [log ..] }`
    pub(super) fn tier(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a tier's name")?;
        if name == "baseline" {
            return self.baseline(span);
        }
        if name == Standing::Isolate.word() || name == Standing::Exclude.word() {
            let message = format!("`{name}` can't be a tier: it has a meaning of its own");
            let problem = Problem::new("reserved-name", span, message);
            self.report(problem.expected("choose another name"));
        }
        self.define(Noun::Tier, &name, span);
        let kind = self.tier_kind()?;
        let mut tier = Tier {
            name,
            kind,
            mode: Mode::Enforce,
            owner: None,
            within: None,
            on_expiry: OnExpiry::Drop,
            rules: Vec::new(),
        };
        let mut within = None;
        while self.token.kind != Kind::Open {
            match self.word() {
                Some("observe") => {
                    self.advance();
                    tier.mode = Mode::Observe;
                }
                Some("owner") => {
                    self.advance();
                    tier.owner = Some(self.quoted("the owner")?);
                }
                Some("within") => {
                    self.advance();
                    let (selector, ends) = self.ends()?;
                    (tier.within, within) = (Some(selector), Some(ends));
                }
                Some("on-expiry") => {
                    self.advance();
                    let word = self.listed("choice", &["drop", "keep-and-alarm"])?;
                    if word.as_deref() == Some("keep-and-alarm") {
                        tier.on_expiry = OnExpiry::KeepAndAlarm;
                    }
                }
                _ => return self.unexpected("`{`, `observe`, `owner`, `within` or `on-expiry`"),
            }
        }
        let ended = self.rules_of(&mut tier);
        self.spots.tiers.push(TierSpot { name: span, within });
        self.policy.tiers.push(tier);
        ended
    }

    fn tier_kind(&mut self) -> Parsed<TierKind> {
        if self.eat_word("ordered") {
            return Ok(TierKind::Ordered);
        }
        let unordered = self.eat_word("unordered");
        if self.eat_word("allow-only") {
            return Ok(TierKind::AllowOnly);
        }
        self.unexpected(if unordered {
            "`allow-only`"
        } else {
            "`ordered` or `unordered allow-only`"
        })
    }

    fn baseline(&mut self, span: Span) -> Parsed<()> {
        if self.has_baseline {
            let problem = Problem::new("defined-twice", span, "the baseline is given twice")
                .expected("the second one")
                .help("remove one of them");
            self.report(problem);
        }
        self.has_baseline = true;
        self.expect(Kind::Open, "{")?;
        if self.at_word("allow") {
            let problem = Problem::new(
                "open-baseline",
                self.token.span,
                "the baseline can only deny",
            )
            .expected("expected `deny all`")
            .help("allow what is needed in a tier");
            self.report(problem);
            return Err(Failed);
        }
        self.expect_word("deny")?;
        self.expect_word("all")?;
        if self.eat_word("log") {
            self.policy.baseline_log = self.log_level()?.unwrap_or(Log::Off);
        }
        self.expect(Kind::Close, "}")
    }

    fn rules_of(&mut self, tier: &mut Tier) -> Parsed<()> {
        self.expect(Kind::Open, "{")?;
        let level = self.braces;
        let mut names = HashSet::new();
        let mut spots = Vec::new();
        let ended = loop {
            match self.token.kind {
                Kind::Close => {
                    self.advance();
                    break Ok(());
                }
                Kind::Semicolon => {
                    self.advance();
                }
                Kind::End => break self.unexpected("a rule or `}`"),
                _ => match self.rule(tier, &mut names) {
                    Ok(spot) => spots.extend(spot),
                    Err(Failed) => {
                        if self.recover_rule(level) {
                            break if self.braces < level {
                                Ok(())
                            } else {
                                Err(Failed)
                            };
                        }
                    }
                },
            }
        };
        self.spots.rules.push(spots);
        ended
    }

    /// Skips to the next rule of the tier. True if the tier ends instead.
    fn recover_rule(&mut self, level: usize) -> bool {
        loop {
            match self.token.kind {
                Kind::End => return true,
                Kind::Word(word) if self.token.first && ACTIONS.contains(&word) => {
                    self.braces = level;
                    return false;
                }
                // Inside a tier `service` is a clause.
                Kind::Word(word)
                    if self.token.first && word != "service" && STATEMENTS.contains(&word) =>
                {
                    return true;
                }
                _ => {}
            }
            self.advance();
            if self.braces < level {
                return true;
            }
        }
    }

    /// `allow | deny | reject | pass NAME [{] CLAUSES [}]`. `None` if the rule is incomplete.
    fn rule(&mut self, tier: &mut Tier, names: &mut HashSet<String>) -> Parsed<Option<RuleSpot>> {
        let start = self.token.span;
        let Some(action) = self.action()? else {
            return Err(Failed);
        };
        let (short_name, span) = self.name("a rule's name")?;
        self.rules += 1;
        if self.rules > RULES_MAX {
            let problem = Problem::new(
                "too-many-rules",
                span,
                format!("there are more than {RULES_MAX} rules"),
            )
            .expected("one too many; the rest of the text was not read")
            .help("merge rules, or split the policy");
            self.report(problem);
            self.stop();
            return Err(Failed);
        }
        if action != Action::Allow && tier.kind == TierKind::AllowOnly {
            let message = format!("tier `{}` can only allow", short(&tier.name));
            let problem = Problem::new("deny-in-allow-only", start, message)
                .expected("expected `allow`")
                .help("put what denies or passes into the ordered tier; all else is denied anyway");
            self.report(problem);
        }
        if !names.insert(short_name.clone()) {
            let message = format!("rule `{}` is defined twice in its tier", short(&short_name));
            let problem = Problem::new("defined-twice", span, message).help("rename one of them");
            self.report(problem.expected("the second one"));
        }
        let braced = self.eat(Kind::Open);
        let draft = self.clauses()?;
        if braced {
            self.expect(Kind::Close, "}")?;
        } else if !self.rule_ends() {
            return self.unexpected(&format!(
                "a clause ({}) or the next rule",
                CLAUSES.join(", ")
            ));
        }
        let text = self.text[start.start..self.previous.end].replace("\r\n", "\n");
        let name = format!("{}/{short_name}", tier.name);
        let built = self.build(
            tier,
            draft,
            Head {
                action,
                name,
                span,
                begin: start,
                text,
            },
        );
        Ok(built.map(|(rule, spot)| {
            tier.rules.push(rule);
            spot
        }))
    }

    fn rule_ends(&self) -> bool {
        match self.token.kind {
            Kind::Word(word) => ACTIONS.contains(&word),
            kind => matches!(kind, Kind::Close | Kind::Semicolon | Kind::End),
        }
    }

    fn action(&mut self) -> Parsed<Option<Action>> {
        let word = self.listed("rule", &ACTIONS)?;
        Ok(word.map(|word| match word.as_str() {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            "reject" => Action::Reject,
            _ => Action::Pass,
        }))
    }

    fn clauses(&mut self) -> Parsed<Draft> {
        let mut draft = Draft::default();
        loop {
            let word = self.word();
            let Some(clause) = CLAUSES.iter().copied().find(|clause| Some(*clause) == word) else {
                // A slip in a clause's own name should not read as "expected `}`".
                if let Some(near) = word.and_then(|word| crate::diagnostic::nearest(word, CLAUSES))
                    && !self.rule_ends()
                {
                    let message = format!("unknown clause {}", self.found());
                    let problem = Problem::new("unknown-clause", self.token.span, message)
                        .expected(format!("expected one of {}", CLAUSES.join(", ")))
                        .help(format!("did you mean `{near}`?"));
                    self.report(problem);
                    return Err(Failed);
                }
                return Ok(draft);
            };
            let span = self.advance().span;
            if draft.seen.contains(&clause) && clause != "requirement" {
                self.given_twice(clause, span);
            }
            draft.seen.push(clause);
            self.clause(clause, &mut draft)?;
        }
    }

    fn clause(&mut self, clause: &str, draft: &mut Draft) -> Parsed<()> {
        match clause {
            "from" => draft.from = Some(self.ends()?),
            "to" => draft.to = Some(self.ends()?),
            "service" => draft.service = Some(self.service()?),
            "at" => {
                let word = self.listed("end", &At::NAMED.map(|(name, _)| name))?;
                let named = At::NAMED
                    .iter()
                    .find(|(name, _)| Some(*name) == word.as_deref());
                draft.at = named.map(|(_, at)| *at);
            }
            "owner" => draft.owner = Some(self.quoted("the owner")?),
            "justification" => draft.justification = Some(self.quoted("the justification")?),
            "requirement" => self.requirements(&mut draft.requirements)?,
            "review" => draft.review_days = self.review()?,
            "expires" => draft.expires = self.date()?,
            "during" => draft.during = self.during()?,
            "limit" => draft.limit = self.rate(LIMIT_MAX)?,
            "log-limit" => draft.log_limit = self.rate(LOG_LIMIT_MAX)?,
            _ => draft.log = self.log_level()?,
        }
        Ok(())
    }

    fn requirements(&mut self, list: &mut Vec<String>) -> Parsed<()> {
        loop {
            let Some(word) = self.word() else {
                return self.unexpected("a requirement such as pci:1.2.5");
            };
            let span = self.advance().span;
            match word.split_once(':') {
                Some((framework, clause)) => {
                    self.check_name("a framework", framework, span);
                    self.check_name("a clause of a framework", clause, span);
                }
                None => {
                    let message = format!("`{}` is not a requirement", short(word));
                    let problem = Problem::new("bad-requirement", span, message)
                        .expected("expected framework:clause, such as pci:1.2.5");
                    self.report(problem);
                }
            }
            list.push(word.to_owned());
            if !self.eat(Kind::Comma) {
                return Ok(());
            }
        }
    }

    fn review(&mut self) -> Parsed<Option<u32>> {
        let Some(word) = self.word() else {
            return self.unexpected("days such as 180d");
        };
        let span = self.advance().span;
        let digits = word
            .strip_suffix('d')
            .filter(|days| days.bytes().all(|b| b.is_ascii_digit()));
        let days = digits.and_then(|days| days.parse().ok());
        let days = days.filter(|days| (1..=REVIEW_DAYS_MAX).contains(days));
        if days.is_none() {
            let message = format!("`{}` is not a time between reviews", short(word));
            let problem = Problem::new("bad-review", span, message)
                .expected(format!("expected 1d to {REVIEW_DAYS_MAX}d"));
            self.report(problem);
        }
        Ok(days)
    }

    /// `100/s`. `None` if it was reported.
    fn rate<T: TryFrom<u64>>(&mut self, max: u64) -> Parsed<Option<T>> {
        let Some(word) = self.word() else {
            return self.unexpected("a rate such as 100/s");
        };
        let span = self.advance().span;
        let digits = word
            .strip_suffix("/s")
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let rate = digits.and_then(|digits| digits.parse().ok());
        let rate = rate.filter(|rate| (1..=max).contains(rate));
        if rate.is_none() {
            let message = format!("`{}` is not a rate", short(word));
            let problem = Problem::new("bad-rate", span, message)
                .expected(format!("expected 1/s to {max}/s"));
            self.report(problem);
        }
        Ok(rate.and_then(|rate| T::try_from(rate).ok()))
    }

    fn log_level(&mut self) -> Parsed<Option<Log>> {
        let names = Log::ALL.map(Log::name);
        let word = self.listed("log level", &names)?;
        Ok(word.and_then(|word| Log::ALL.into_iter().find(|level| level.name() == word)))
    }

    fn build(&mut self, tier: &Tier, draft: Draft, head: Head) -> Option<(Rule, RuleSpot)> {
        let mandatory = ["from", "to", "service"];
        let missing: Vec<&str> = mandatory
            .into_iter()
            .filter(|clause| !draft.seen.contains(clause))
            .collect();
        if !missing.is_empty() {
            let missing = missing.join("`, `");
            let message = format!("rule `{}` has no `{missing}`", short(&head.name));
            let problem = Problem::new("incomplete-rule", head.span, message)
                .expected("a rule needs `from`, `to` and `service`")
                .help("`any` stands for every end and for every service");
            self.report(problem);
        }
        if draft.expires.is_some() && head.action != Action::Allow {
            let message = format!(
                "a rule that does not allow can't expire: `{}`",
                short(&head.name)
            );
            let problem = Problem::new("deny-expires", head.span, message)
                .expected("its end would open what it closed")
                .help("remove `expires`");
            self.report(problem);
        }
        if draft.during.is_some() && tier.kind == TierKind::Ordered {
            let message = format!(
                "rule `{}` of an ordered tier has a window",
                short(&head.name)
            );
            let problem = Problem::new("ordered-window", head.span, message)
                .expected("on other days a lower tier would decide, which no host's table tells")
                .help("move it to an allow-only tier");
            self.report(problem);
        }
        self.check_limits(&draft, &head);
        let ((from, from_ends), (to, to_ends)) = (draft.from?, draft.to?);
        let (file, line) = self.place(head.begin);
        let rule = Rule {
            id: Rule::id_of(&head.name),
            name: head.name,
            action: head.action,
            from,
            to,
            service: draft.service?,
            at: draft.at.unwrap_or_default(),
            owner: draft.owner.or_else(|| tier.owner.clone()),
            justification: draft.justification,
            requirements: draft.requirements,
            review_days: draft.review_days,
            expires: draft.expires,
            during: draft.during,
            log: draft.log.unwrap_or(Log::Off),
            log_limit: draft.log_limit,
            limit: draft.limit,
            touches_sensitive: false,
            file,
            line,
            text: head.text,
        };
        Some((
            rule,
            RuleSpot {
                name: head.span,
                from: from_ends,
                to: to_ends,
            },
        ))
    }
}

impl Parser<'_> {
    /// A limit without anything to limit is a slip.
    fn check_limits(&mut self, draft: &Draft, head: &Head) {
        let name = short(&head.name);
        let silent = draft.log.is_none_or(|log| log == Log::Off);
        let problem = if draft.limit.is_some() && head.action != Action::Allow {
            let message = format!("rule `{name}` limits what it does not allow");
            Problem::new("deny-limit", head.span, message)
                .expected("`limit` is about new sessions")
                .help("remove `limit`")
        } else if draft.log_limit.is_some() && silent {
            let message = format!("rule `{name}` limits events that it does not report");
            Problem::new("log-limit-off", head.span, message)
                .expected("`log-limit` is about events")
                .help("add `log new`, or remove `log-limit`")
        } else {
            return;
        };
        self.report(problem);
    }
}

/// What stands before the clauses.
struct Head {
    action: Action,
    name: String,
    span: Span,
    begin: Span,
    text: String,
}
