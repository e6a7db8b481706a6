//! What is wrong with rules that are all legal: those that never decide, that change nothing, that
//! contradict each other, that open too much, that nobody answers for.
//!
//! Rules are compared over every guest and address that there may ever be, not over today's estate,
//! and the answer is exact. Where it would take too long it is `undecided`, never a guess.

use crate::lint_cover::{Cover, Flows, Rules};
use crate::lint_region::Space;
use lictor_policy::{Action, Date, Mode, OnExpiry, Policy, Rule, Selector, Tier, TierKind};
use lictor_types::{Protocol, RuleId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Days before its last one on which a rule counts as expiring.
pub const EXPIRING_DAYS: u32 = 30;
/// Ports of one rule from which on it is too broad.
const BROAD_PORTS: u64 = 1_024;
/// Ports of a range that still count as naming one of them.
const NAMED_PORTS: u16 = 64;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LintCode {
    /// Other rules decide everything that it matches.
    Shadowed,
    /// One other rule decides everything that it matches, and says the opposite.
    Contradicting,
    /// Without it the same would happen.
    Redundant,
    /// It allows at one end what no rule allows at the other.
    HalfApplied,
    /// No guest and no address can match one of its ends.
    EmptySelector,
    /// It allows more than a rule should.
    OverBroad,
    /// It allows a service that is not encrypted or known to be attacked.
    InsecureService,
    /// Its last day is near, or over.
    Expiring,
    /// Nobody answers for it.
    Unowned,
    /// No packet has met it.
    Unused,
    /// It would take too long to say whether other rules cover it.
    Undecided,
}

impl LintCode {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Shadowed,
        Self::Contradicting,
        Self::Redundant,
        Self::HalfApplied,
        Self::EmptySelector,
        Self::OverBroad,
        Self::InsecureService,
        Self::Expiring,
        Self::Unowned,
        Self::Unused,
        Self::Undecided,
    ];

    /// The word for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shadowed => "shadowed",
            Self::Contradicting => "contradicting",
            Self::Redundant => "redundant",
            Self::HalfApplied => "half-applied",
            Self::EmptySelector => "empty-selector",
            Self::OverBroad => "over-broad",
            Self::InsecureService => "insecure-service",
            Self::Expiring => "expiring",
            Self::Unowned => "unowned",
            Self::Unused => "unused",
            Self::Undecided => "undecided",
        }
    }
}

/// Something that is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintFinding {
    /// What.
    pub code: LintCode,
    /// The rule, `tier/rule`.
    pub rule: String,
    /// Its number.
    pub id: RuleId,
    /// Who answers for it.
    pub owner: Option<String>,
    /// The file in which it stands, if the policy has several.
    pub file: Option<String>,
    /// Its line.
    pub line: usize,
    /// A sentence.
    pub message: String,
    /// The rules that make it so, `tier/rule`.
    pub others: Vec<String>,
}

/// What a lint takes besides the policy.
#[derive(Debug, Clone, Default)]
pub struct LintInput {
    /// Packets that each rule has decided, from the counters of all hosts. Without it no rule is
    /// called unused.
    pub hits: Option<BTreeMap<RuleId, u64>>,
}

/// Looks at every rule on a day. Findings stand in the order of the text, then of their codes.
#[must_use]
pub fn lint(policy: &Policy, date: Date, input: &LintInput) -> Vec<LintFinding> {
    let mut lint = Lint::of(policy, date);
    // From the last to the first: of two that stand in for each other the later one is meant, and
    // does not stand in for anything any more. So all that are found may be taken out together.
    let mut covered: Vec<Vec<LintFinding>> = vec![Vec::new(); lint.lines.len()];
    for place in (0..lint.lines.len()).rev() {
        covered[place] = lint.covered(place);
        let undecided = |one: &LintFinding| one.code == LintCode::Undecided;
        lint.gone[place] = covered[place].iter().any(|one| !undecided(one));
    }
    let mut findings = Vec::new();
    for (place, mut found) in covered.into_iter().enumerate() {
        found.extend(lint.half_applied(place));
        found.extend(lint.selectors(place));
        found.extend(lint.broad(place));
        found.extend(lint.insecure(place));
        found.extend(lint.expiring(place));
        found.extend(lint.unowned(place));
        found.extend(lint.unused(place, input));
        found.sort_by_key(|finding| finding.code);
        findings.append(&mut found);
    }
    findings
}

/// A rule where it stands.
struct Line<'p> {
    tier: &'p Tier,
    stage: usize,
    rule: &'p Rule,
    /// Whether it decides anything today.
    live: bool,
}

struct Lint<'p> {
    date: Date,
    lines: Vec<Line<'p>>,
    rules: Rules,
    /// Of each rule whether one before it in its tier passes some of it on: then it does not decide
    /// all of it before the tiers below.
    passed: Vec<bool>,
    /// Rules that change nothing, and are not counted as what stands in for others.
    gone: Vec<bool>,
}

impl<'p> Lint<'p> {
    fn of(policy: &'p Policy, date: Date) -> Self {
        let space = Space::of(policy);
        let mut lines = Vec::new();
        for (stage, tier) in policy.tiers.iter().enumerate() {
            for rule in &tier.rules {
                let kept = tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date);
                lines.push(Line {
                    tier,
                    stage,
                    rule,
                    live: kept && tier.mode == Mode::Enforce,
                });
            }
        }
        let spaces = lines.iter().map(|line| Flows::of(&space, line.rule).ok());
        let rules = Rules::of(spaces.collect());
        let passes = |place: usize| lines[place].rule.action == Action::Pass;
        let begins = |stage: usize| lines.partition_point(|line| line.stage < stage);
        // Few tiers pass anything on.
        let passing = (0..lines.len()).filter(|place| passes(*place));
        let passing: BTreeSet<usize> = passing.map(|place| lines[place].stage).collect();
        let passed = (0..lines.len()).map(|place| {
            let stage = lines[place].stage;
            let mut near = rules.overlapping(place, begins(stage)..place);
            passing.contains(&stage) && near.any(passes)
        });
        let passed = passed.collect();
        Self {
            date,
            passed,
            gone: vec![false; lines.len()],
            rules,
            lines,
        }
    }

    fn finding(&self, place: usize, code: LintCode, message: String) -> LintFinding {
        let rule = self.lines[place].rule;
        LintFinding {
            code,
            rule: rule.name.clone(),
            id: rule.id,
            owner: rule.owner.clone(),
            file: rule.file.clone(),
            line: rule.line,
            message,
            others: Vec::new(),
        }
    }

    fn names(&self, places: &[usize]) -> Vec<String> {
        let rules = places.iter().map(|place| self.lines[*place].rule);
        rules.map(|rule| rule.name.clone()).collect()
    }

    /// Whether a rule decides before another one, whatever either of them says.
    fn before(&self, other: usize, place: usize) -> bool {
        let (line, own) = (&self.lines[other], &self.lines[place]);
        // A window opens and closes, so such a rule does not always cover.
        if !line.live || line.tier.kind != TierKind::Ordered || line.rule.during.is_some() {
            return false;
        }
        if line.stage == own.stage {
            return other < place;
        }
        line.stage < own.stage && line.rule.action != Action::Pass && !self.passed[other]
    }

    /// Rules that decide all of it before, and those that would decide the same without it.
    fn covered(&self, place: usize) -> Vec<LintFinding> {
        let line = &self.lines[place];
        if !line.live || self.rules.space(place).is_some_and(Flows::is_empty) {
            return Vec::new();
        }
        if self.rules.space(place).is_none() {
            let message = "its selectors have too many parts to be compared".to_owned();
            return vec![self.finding(place, LintCode::Undecided, message)];
        }
        // Tiers stand in the order of evaluation, so nothing after it decides before it.
        let near = self.rules.overlapping(place, 0..place);
        let before: Vec<usize> = near.filter(|other| self.before(*other, place)).collect();
        match self.rules.covers(place, &before) {
            Cover::Covered(by) => vec![self.shadowed(place, &before, &by)],
            Cover::Undecided => {
                let message = "whether earlier rules decide all of it would take too many steps";
                vec![self.finding(place, LintCode::Undecided, message.to_owned())]
            }
            Cover::Open => self.redundant(place).into_iter().collect(),
        }
    }

    /// The rules that are needed, and of those that say the opposite the one that overlaps most:
    /// that is the one that somebody would have to change.
    fn shadowed(&self, place: usize, before: &[usize], by: &[usize]) -> LintFinding {
        let own = self.lines[place].rule.action;
        let opposite = |other: &usize| differs(own, self.lines[*other].rule.action);
        let mut others = by.to_vec();
        let opposed: Vec<usize> = before.iter().copied().filter(opposite).collect();
        if !others.iter().any(opposite) {
            others.extend(self.rules.largest(place, &opposed));
        }
        let names = self.names(&others);
        let single = by.len() == 1 && by.iter().all(opposite);
        let (code, message) = match single {
            true => (
                LintCode::Contradicting,
                format!(
                    "{} decides all of it before, and says the opposite",
                    names[0]
                ),
            ),
            false => (
                LintCode::Shadowed,
                format!("earlier rules decide all of it: {}", names.join(", ")),
            ),
        };
        LintFinding {
            others: names,
            ..self.finding(place, code, message)
        }
    }

    /// In an ordered tier what is left would be decided the same by the rules after it, before one
    /// that says otherwise; among application rules by the others together.
    fn redundant(&self, place: usize) -> Option<LintFinding> {
        let line = &self.lines[place];
        if line.rule.action == Action::Pass {
            return None;
        }
        let by = match line.tier.kind {
            TierKind::AllowOnly => self.applications(place),
            TierKind::Ordered => self.following(place),
        };
        let Cover::Covered(by) = self.rules.covers(place, &by) else {
            return None;
        };
        let names = self.names(&by);
        let message = format!("without it the same would happen, by {}", names.join(", "));
        Some(LintFinding {
            others: names,
            ..self.finding(place, LintCode::Redundant, message)
        })
    }

    /// Whether a rule allows whenever and as often as another one.
    fn as_long_and_often(&self, other: usize, place: usize) -> bool {
        let (one, own) = (self.lines[other].rule, self.lines[place].rule);
        let room = |rule: &Rule| rule.limit.unwrap_or(u32::MAX);
        (one.during.is_none() || one.during == own.during) && room(one) >= room(own)
    }

    /// Of two application rules that say the same only the later one is redundant.
    fn applications(&self, place: usize) -> Vec<usize> {
        let own = self.rules.space(place);
        let stands_in = |other: &usize| {
            let line = &self.lines[*other];
            let same = *other > place
                && self.rules.space(*other) == own
                && self.as_long_and_often(place, *other);
            *other != place
                && line.live
                && !self.gone[*other]
                && line.tier.kind == TierKind::AllowOnly
                && self.as_long_and_often(*other, place)
                && !same
        };
        let near = self.rules.overlapping(place, 0..self.lines.len());
        near.filter(stands_in).collect()
    }

    /// Rules of the same tier after it that do the same, up to the first that does otherwise.
    fn following(&self, place: usize) -> Vec<usize> {
        let line = &self.lines[place];
        let end = self
            .lines
            .partition_point(|other| other.stage <= line.stage);
        let same = |other: &usize| {
            let rule = self.lines[*other].rule;
            rule.action == line.rule.action && rule.limit == line.rule.limit
        };
        let tier = self.rules.overlapping(place, place + 1..end);
        let live = tier.filter(|other| self.lines[*other].live);
        let alike = live.take_while(same);
        alike.filter(|other| !self.gone[*other]).collect()
    }

    /// An allowance at one end that no allowance at the other end meets: no session comes of it.
    fn half_applied(&self, place: usize) -> Option<LintFinding> {
        let line = &self.lines[place];
        let space = self.rules.space(place)?;
        if !line.live || line.rule.action != Action::Allow {
            return None;
        }
        let [egress, ingress] = [true, false].map(|end| space.speaks(end));
        if egress == ingress {
            return None;
        }
        let mut other = space.at(!egress);
        // Only a guest is asked at its end; an outside address asks nobody.
        match egress {
            true => other.to = other.to.guests(),
            false => other.from = other.from.guests(),
        }
        let all_guests = match egress {
            true => other.to == space.to,
            false => other.from == space.from,
        };
        if other.is_empty() || !all_guests {
            return None;
        }
        let allows = |line: &Line<'_>| line.live && line.rule.action == Action::Allow;
        let met = self.lines.iter().enumerate().any(|(place, line)| {
            allows(line) && self.rules.space(place).is_some_and(|one| one.meets(&other))
        });
        let end = if egress { "asked" } else { "that begins" };
        let message = format!("it allows at one end only, and no rule allows it at the end {end}");
        (!met).then(|| self.finding(place, LintCode::HalfApplied, message))
    }

    fn selectors(&self, place: usize) -> Option<LintFinding> {
        let space = self.rules.space(place)?;
        let rule = self.lines[place].rule;
        let empty = [
            (&space.from, &rule.from, "from"),
            (&space.to, &rule.to, "to"),
        ];
        let (_, selector, word) = empty.into_iter().find(|(region, ..)| region.is_empty())?;
        let message = format!("no guest and no address can match `{word} {selector}`");
        Some(self.finding(place, LintCode::EmptySelector, message))
    }

    fn broad(&self, place: usize) -> Option<LintFinding> {
        let rule = self.lines[place].rule;
        let space = self.rules.space(place)?;
        if rule.action != Action::Allow || space.is_empty() {
            return None;
        }
        let wide = |selector: &Selector| {
            matches!(
                selector,
                Selector::Any | Selector::Guests | Selector::Outside
            )
        };
        let (from, to) = (wide(&rule.from), wide(&rule.to));
        let ports = space.breadth();
        let message = if from && to {
            format!("it allows `{}` to reach `{}`", rule.from, rule.to)
        } else if ports >= BROAD_PORTS && (from || to) {
            format!(
                "it allows {ports} ports from `{}` to `{}`",
                rule.from, rule.to
            )
        } else if rule.service == lictor_policy::Service::any() {
            "it allows every port; name those that are used".to_owned()
        } else {
            return None;
        };
        Some(self.finding(place, LintCode::OverBroad, message))
    }

    fn insecure(&self, place: usize) -> Option<LintFinding> {
        let rule = self.lines[place].rule;
        if rule.action != Action::Allow {
            return None;
        }
        let found = INSECURE.iter().find(|(protocol, port, ..)| {
            rule.service.ranges().iter().any(|range| {
                range.protocol == *protocol
                    && (range.first..=range.last).contains(port)
                    && range.last - range.first < NAMED_PORTS
            })
        });
        let (protocol, port, name, instead) = found?;
        let message = format!("it allows {name} ({protocol}/{port}): {instead}");
        Some(self.finding(place, LintCode::InsecureService, message))
    }

    fn expiring(&self, place: usize) -> Option<LintFinding> {
        let rule = self.lines[place].rule;
        let last = rule.expires?;
        let left = last.days_after(self.date);
        if left >= i64::from(EXPIRING_DAYS) {
            return None;
        }
        let kept = self.lines[place].tier.on_expiry == OnExpiry::KeepAndAlarm;
        let message = match (left < 0, kept) {
            (false, _) => format!("its last day is {last}, in {left} days"),
            (true, false) => format!("its last day was {last}: it allows nothing any more"),
            (true, true) => format!("its last day was {last}: its tier keeps it"),
        };
        Some(self.finding(place, LintCode::Expiring, message))
    }

    fn unowned(&self, place: usize) -> Option<LintFinding> {
        let owner = self.lines[place].rule.owner.as_ref();
        owner.is_none().then(|| {
            let message = "nobody answers for it: give it or its tier an owner".to_owned();
            self.finding(place, LintCode::Unowned, message)
        })
    }

    fn unused(&self, place: usize, input: &LintInput) -> Option<LintFinding> {
        let line = &self.lines[place];
        let hits = input
            .hits
            .as_ref()?
            .get(&line.rule.id)
            .copied()
            .unwrap_or(0);
        (hits == 0 && line.live).then(|| {
            let message = "no packet has met it, as the counters say".to_owned();
            self.finding(place, LintCode::Unused, message)
        })
    }
}

/// Whether one lets pass what the other does not.
fn differs(one: Action, other: Action) -> bool {
    let open = |action| action == Action::Allow;
    one != Action::Pass && other != Action::Pass && open(one) != open(other)
}

/// Services that send secrets in the clear, or are attacked as soon as they are reached.
const INSECURE: [(Protocol, u16, &str, &str); 22] = {
    use Protocol::{Tcp, Udp};
    const CLEAR: &str = "it sends passwords in the clear";
    const REMOTE: &str = "whoever reaches it can try passwords; let it come through a jump host";
    [
        (Tcp, 21, "FTP", "use SFTP"),
        (Tcp, 23, "telnet", "use SSH"),
        (
            Tcp,
            25,
            "SMTP",
            "use submission with TLS where a client sends",
        ),
        (Udp, 69, "TFTP", "it asks for no password at all"),
        (Tcp, 79, "finger", "it tells who is there"),
        (Tcp, 80, "HTTP", "use HTTPS"),
        (Tcp, 110, "POP3", CLEAR),
        (
            Tcp,
            111,
            "RPC's port mapper",
            "it tells what else can be attacked",
        ),
        (
            Udp,
            111,
            "RPC's port mapper",
            "it tells what else can be attacked",
        ),
        (Udp, 137, "NetBIOS", "use SMB 3 over tcp/445"),
        (Tcp, 139, "NetBIOS", "use SMB 3 over tcp/445"),
        (Tcp, 143, "IMAP", CLEAR),
        (
            Udp,
            161,
            "SNMP",
            "versions 1 and 2 send their password in the clear",
        ),
        (Tcp, 389, "LDAP", "use LDAPS"),
        (Tcp, 512, "rexec", CLEAR),
        (Tcp, 513, "rlogin", CLEAR),
        (Tcp, 514, "rsh", CLEAR),
        (
            Tcp,
            1433,
            "SQL Server",
            "encryption is not asked for by default",
        ),
        (
            Tcp,
            2049,
            "NFS",
            "before version 4 it believes what a client says",
        ),
        (Tcp, 3389, "RDP", REMOTE),
        (Tcp, 5900, "VNC", REMOTE),
        (Tcp, 6000, "X11", CLEAR),
    ]
};
