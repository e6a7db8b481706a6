//! What two versions of a policy let pass that the other one does not: exact over every guest and
//! address that there may ever be. Only where a rule is new, gone, moved or says something else can
//! anything differ, so only there both versions are asked, and what they say is taken off each
//! other.

use crate::AnalysisError;
use crate::diff_scopes::{ScopeChange, scopes};
use crate::diff_sessions::{Live, Refused};
use crate::lint_cover::{Flows, Rules};
use crate::lint_region::{Space, TooMany};
use lictor_policy::evaluate::{Answer, Question, evaluate};
use lictor_policy::{Action, Date, End, Mode, OnExpiry, Policy, Rule, TierKind};
use lictor_types::Verdict;
use serde::Serialize;
use std::collections::BTreeMap;

/// Pieces that may be made where one rule changed: what needs more is undecided.
const PIECES_MAX: usize = 20_000;

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The newer version allows it, the older one does not.
    Opens,
    /// The other way round.
    Closes,
}

/// Sessions that only one version allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which version.
    pub effect: Effect,
    /// Who begins them, as an expression over labels, sets and addresses.
    pub from: String,
    /// Who is asked.
    pub to: String,
    /// On which ports.
    pub service: String,
    /// Whether an end may be in a sensitive scope of either version.
    pub sensitive: bool,
    /// The first packet of one of them.
    pub packet: Question,
    /// The rules that allow it, in the version that does, `tier/rule`.
    pub allowed_by: Vec<String>,
    /// The rule that denies it in the other one; none for the default deny.
    pub denied_by: Option<String>,
    /// How many live sessions are among what closes; none if nobody knows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Diff {
    /// What opens and what closes, sensitive scopes first.
    pub changes: Vec<Change>,
    /// Computed scopes that have other members.
    pub scopes: Vec<ScopeChange>,
    /// Rules that only the newer version has.
    pub rules_added: Vec<String>,
    /// Rules that only the older one has.
    pub rules_removed: Vec<String>,
    /// Rules that match, do or precede something else.
    pub rules_changed: Vec<String>,
    /// Rules and scopes of which it would take too long to say what they change.
    pub undecided: Vec<String>,
}

/// Compares two versions on a day. What guests in observe mode let pass is left out.
///
/// # Errors
/// [`AnalysisError::Disagree`] if the reference evaluator says otherwise: a fault of this program.
pub fn diff(old: &Policy, new: &Policy, date: Date) -> Result<Diff, AnalysisError> {
    compare((old, new), date, None)
}

/// Compares two versions on a day, and counts the live sessions in each change that closes.
///
/// # Errors
/// As [`diff`].
pub fn diff_live(
    old: &Policy,
    new: &Policy,
    date: Date,
    live: &[Live],
) -> Result<Diff, AnalysisError> {
    compare((old, new), date, Some(live))
}

fn compare(
    (old, new): (&Policy, &Policy),
    date: Date,
    live: Option<&[Live]>,
) -> Result<Diff, AnalysisError> {
    let [space, newer] = Space::joint(old, new);
    let (before, after) = (Side::of(&space, old, date), Side::of(&newer, new, date));
    let (scopes, undecided) = scopes([&space, &newer]);
    let mut diff = Diff {
        scopes,
        undecided,
        ..Diff::default()
    };
    let changed = changed(&before, &after, &mut diff);
    let mut found: Vec<(Effect, Flows)> = Vec::new();
    let mut done: Vec<Flows> = Vec::new();
    for (name, flows) in changed {
        let Some(flows) = flows else {
            diff.undecided.push(name);
            continue;
        };
        match differing(&flows, &done, (&before, &after)) {
            Ok(pieces) => found.extend(pieces),
            Err(TooMany) => diff.undecided.push(name),
        }
        done.push(flows);
    }
    let policies = [plain(old), plain(new)];
    let told = Teller {
        space: &space,
        date,
        refused: live.map(|live| Refused::of(&policies, live)),
        policies,
        sensitive: sensitive(&space, old)
            .into_iter()
            .chain(sensitive(&newer, new))
            .collect(),
    };
    for (effect, flows) in merged(found) {
        diff.changes.push(told.change(effect, &flows)?);
    }
    diff.changes.sort_by(|one, other| {
        let key = |change: &Change| {
            let ends = (
                change.from.clone(),
                change.to.clone(),
                change.service.clone(),
            );
            (!change.sensitive, change.effect, ends)
        };
        key(one).cmp(&key(other))
    });
    Ok(diff)
}

/// Without observe mode.
fn plain(policy: &Policy) -> Policy {
    Policy {
        observed: Vec::new(),
        ..policy.clone()
    }
}

fn sensitive(space: &Space<'_>, policy: &Policy) -> Vec<crate::lint_region::Region> {
    let scopes = policy.scopes.values().filter(|scope| scope.sensitive);
    scopes
        .filter_map(|scope| space.region(&scope.selector).ok())
        .collect()
}

/// A rule in force.
struct Line<'p> {
    rule: &'p Rule,
    /// All application tiers are one stage, the last.
    stage: usize,
}

/// One version.
struct Side<'p> {
    lines: Vec<Line<'p>>,
    rules: Rules,
}

impl<'p> Side<'p> {
    fn of(space: &Space<'_>, policy: &'p Policy, date: Date) -> Self {
        let mut lines = Vec::new();
        for (stage, tier) in policy.tiers.iter().enumerate() {
            let stage = match tier.kind {
                TierKind::Ordered => stage,
                TierKind::AllowOnly => usize::MAX,
            };
            let live = tier.rules.iter().filter(|rule| {
                let kept = tier.on_expiry == OnExpiry::KeepAndAlarm || !rule.expired(date);
                kept && tier.mode == Mode::Enforce && rule.on_its_day(date)
            });
            lines.extend(live.map(|rule| Line { rule, stage }));
        }
        let flows = lines.iter().map(|line| Flows::of(space, line.rule).ok());
        Self {
            rules: Rules::of(flows.collect()),
            lines,
        }
    }

    /// The parts of some flows that this version lets begin, both ends taken together.
    fn allowed(&self, flows: &Flows) -> Result<Vec<Flows>, TooMany> {
        let mut allowed = Vec::new();
        // An end without a guest enforces nothing.
        let mut begun = vec![flows.clone().begun_outside()];
        self.at_end(flows.clone().begun_by_guests().at(true), &mut begun)?;
        for part in begun.into_iter().filter(|part| !part.is_empty()) {
            let outside = part.clone().asked_outside();
            if !outside.is_empty() {
                allowed.extend(outside.past_a_guest());
            }
            self.at_end(part.asked_of_guests().at(false), &mut allowed)?;
        }
        Ok(allowed)
    }

    /// The first rule of an ordered tier that matches decides or passes on; then any application
    /// rule allows.
    fn at_end(&self, flows: Flows, allowed: &mut Vec<Flows>) -> Result<(), TooMany> {
        if flows.is_empty() {
            return Ok(());
        }
        let near = self.rules.near(&flows);
        let mut stack = vec![(flows, 0)];
        let mut pieces = 0;
        while let Some((part, first)) = stack.pop() {
            pieces += 1;
            if pieces > PIECES_MAX {
                return Err(TooMany);
            }
            let flows = |place: usize| self.rules.space(near[place]).ok_or(TooMany);
            let mut place = first;
            while place < near.len() && !flows(place)?.meets(&part) {
                place += 1;
            }
            if place == near.len() {
                continue;
            }
            let line = &self.lines[near[place]];
            let mut rest = Vec::new();
            part.without(flows(place)?, &mut rest)?;
            stack.extend(rest.into_iter().map(|rest| (rest, place + 1)));
            let inside = part.and(flows(place)?)?;
            match line.rule.action {
                Action::Allow => allowed.push(inside),
                Action::Deny | Action::Reject => {}
                Action::Pass => {
                    let later = |rule: &usize| self.lines[*rule].stage <= line.stage;
                    stack.push((inside, near.partition_point(later)));
                }
            }
        }
        Ok(())
    }
}

/// Rules that are new, gone or different, with what they match in the one or the other version.
fn changed(old: &Side<'_>, new: &Side<'_>, diff: &mut Diff) -> Vec<(String, Option<Flows>)> {
    let places = |side: &Side<'_>| -> BTreeMap<String, usize> {
        let lines = side.lines.iter().map(|line| line.rule.name.clone());
        lines.zip(0..).collect()
    };
    let (before, after) = (places(old), places(new));
    let mut changed = Vec::new();
    let mut add = |name: &str, side: &Side<'_>, place: usize| {
        changed.push((name.to_owned(), side.rules.space(place).cloned()));
    };
    let mut same: Vec<(usize, usize)> = Vec::new();
    for (name, place) in &before {
        match after.get(name) {
            None => {
                diff.rules_removed.push(name.clone());
                add(name, old, *place);
            }
            Some(other) if says_the_same((old, *place), (new, *other)) => {
                same.push((*place, *other));
            }
            Some(other) => {
                diff.rules_changed.push(name.clone());
                add(name, old, *place);
                add(name, new, *other);
            }
        }
    }
    for (name, place) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        diff.rules_added.push(name.clone());
        add(name, new, *place);
    }
    for place in moved(same, old) {
        let name = &old.lines[place].rule.name;
        diff.rules_changed.push(name.clone());
        add(name, old, place);
    }
    diff.rules_changed.sort();
    changed
}

fn says_the_same((old, place): (&Side<'_>, usize), (new, other): (&Side<'_>, usize)) -> bool {
    let (one, two) = (&old.lines[place], &new.lines[other]);
    let kind = |line: &Line<'_>| line.stage == usize::MAX;
    let flows = old.rules.space(place).zip(new.rules.space(other));
    one.rule.action == two.rule.action
        && kind(one) == kind(two)
        && flows.is_some_and(|(one, two)| one == two)
}

/// Rules of ordered tiers that stand elsewhere among the others: all but a longest list of those
/// that stand in one order in both versions. The order of application rules means nothing.
fn moved(mut same: Vec<(usize, usize)>, old: &Side<'_>) -> Vec<usize> {
    same.retain(|(place, _)| old.lines[*place].stage != usize::MAX);
    same.sort_unstable();
    // Patience sorting: the last element of the best list of each length, and what came before it.
    let mut tails: Vec<usize> = Vec::new();
    let mut previous = vec![usize::MAX; same.len()];
    for (index, (_, other)) in same.iter().enumerate() {
        let length = tails.partition_point(|tail| same[*tail].1 < *other);
        if let Some(before) = length.checked_sub(1) {
            previous[index] = tails[before];
        }
        match tails.get_mut(length) {
            Some(tail) => *tail = index,
            None => tails.push(index),
        }
    }
    let mut kept = vec![false; same.len()];
    let mut next = tails.last().copied();
    while let Some(index) = next {
        kept[index] = true;
        next = Some(previous[index]).filter(|before| *before != usize::MAX);
    }
    let moved = same.iter().zip(kept).filter(|(_, kept)| !kept);
    moved.map(|((place, _), _)| *place).collect()
}

/// What the versions say differently of some flows, without those that were compared before.
fn differing(
    flows: &Flows,
    done: &[Flows],
    (old, new): (&Side<'_>, &Side<'_>),
) -> Result<Vec<(Effect, Flows)>, TooMany> {
    let mut left = vec![flows.clone().both_ends_ip()];
    for other in done {
        let other = other.clone().both_ends_ip();
        left = without(left, &other)?;
    }
    let mut found = Vec::new();
    for part in left.into_iter().filter(|part| !part.is_empty()) {
        let (before, after) = (old.allowed(&part)?, new.allowed(&part)?);
        for (effect, had, has) in [
            (Effect::Opens, &before, &after),
            (Effect::Closes, &after, &before),
        ] {
            let mut only: Vec<Flows> = has.iter().map(|one| one.clone().both_ends_ip()).collect();
            for other in had {
                only = without(only, &other.clone().both_ends_ip())?;
            }
            found.extend(only.into_iter().map(|flows| (effect, flows)));
        }
    }
    Ok(found)
}

fn without(pieces: Vec<Flows>, other: &Flows) -> Result<Vec<Flows>, TooMany> {
    let mut left = Vec::new();
    for piece in pieces {
        match piece.meets(other) {
            true => piece.without(other, &mut left)?,
            false => left.push(piece),
        }
        if left.len() > PIECES_MAX {
            return Err(TooMany);
        }
    }
    Ok(left)
}

/// Pieces that differ in one part only are one.
fn merged(mut found: Vec<(Effect, Flows)>) -> Vec<(Effect, Flows)> {
    loop {
        let before = found.len();
        let mut kept: Vec<(Effect, Flows)> = Vec::new();
        for (effect, flows) in found {
            // A look back over a bounded distance: pieces of one rule lie close together.
            let near = kept.iter_mut().rev().take(256);
            let joined = near
                .filter(|(other, _)| *other == effect)
                .find_map(|(_, other)| other.join(&flows).map(|joined| *other = joined));
            if joined.is_none() {
                kept.push((effect, flows));
            }
        }
        found = kept;
        if found.len() == before {
            return found;
        }
    }
}

/// Says changes in words, each with a packet that the reference evaluator has answered.
struct Teller<'p> {
    space: &'p Space<'p>,
    date: Date,
    policies: [Policy; 2],
    refused: Option<Refused>,
    sensitive: Vec<crate::lint_region::Region>,
}

impl Teller<'_> {
    fn change(&self, effect: Effect, flows: &Flows) -> Result<Change, AnalysisError> {
        let (protocol, port) = flows.port();
        let end = |region| self.space.example(region);
        let (source, destination) = end(&flows.from)
            .zip(end(&flows.to))
            .unwrap_or((End::Guest(BTreeMap::new()), End::Guest(BTreeMap::new())));
        let packet = Question {
            source,
            destination,
            protocol,
            port,
            date: self.date,
        };
        let [old, new] = [0, 1].map(|version| evaluate(&self.policies[version], &packet));
        let (open, shut) = match effect {
            Effect::Opens => ((&new, &self.policies[1]), (&old, &self.policies[0])),
            Effect::Closes => ((&old, &self.policies[0]), (&new, &self.policies[1])),
        };
        let words = (self.space.text(&flows.from), self.space.text(&flows.to));
        if (open.0.verdict, shut.0.verdict) == (Verdict::Allow, Verdict::Allow)
            || open.0.verdict != Verdict::Allow
        {
            return Err(AnalysisError::Disagree(format!(
                "{} to {}",
                words.0, words.1
            )));
        }
        let meets = |region: &crate::lint_region::Region| {
            region.meets(&flows.from) || region.meets(&flows.to)
        };
        Ok(Change {
            effect,
            from: words.0,
            to: words.1,
            service: flows.service().to_string(),
            sensitive: self.sensitive.iter().any(meets),
            packet,
            allowed_by: rules_of(open, |verdict| verdict == Verdict::Allow),
            denied_by: rules_of(shut, |verdict| verdict != Verdict::Allow)
                .into_iter()
                .next(),
            live: match (effect, &self.refused) {
                (Effect::Closes, Some(refused)) => Some(refused.within(self.space, flows)),
                _ => None,
            },
        })
    }
}

/// The rules that decided so at either end.
fn rules_of((answer, policy): (&Answer, &Policy), wanted: impl Fn(Verdict) -> bool) -> Vec<String> {
    let rulings = [answer.egress, answer.ingress].into_iter().flatten();
    let ids = rulings
        .filter(|ruling| wanted(ruling.verdict))
        .filter_map(|ruling| ruling.rule);
    let mut names: Vec<String> = ids
        .filter_map(|id| policy.rules().find(|(_, rule)| rule.id == id))
        .map(|(_, rule)| rule.name.clone())
        .collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_policy::{Labels, parse, render};
    use lictor_types::Protocol;
    use std::fmt::Write as _;

    const HEAD: &str = "policy \"p\" version 1
label zone : one-of cde corp dmz required
label app : string
set wide = 10.0.0.0/8
set low = 10.0.0.0/9
set high = 10.128.0.0/9 2001:db8::/32
scope cde = zone:cde sensitive
";

    fn today() -> Date {
        "2026-11-24".parse().expect("a date")
    }

    fn policy(rules: &str) -> Policy {
        let text = format!("{HEAD}{rules}");
        let (policy, diagnostics) = parse("p", text.as_bytes());
        policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, text.as_bytes())))
    }

    /// Changes as `effect from -> to service`, with a star where a sensitive scope is touched.
    fn check(old: &str, new: &str, expected: &[&str]) {
        let found = diff(&policy(old), &policy(new), today()).expect("decided");
        assert!(found.undecided.is_empty(), "{:?}", found.undecided);
        let text = |change: &Change| {
            let star = if change.sensitive { "*" } else { "" };
            let (from, to, service) = (&change.from, &change.to, &change.service);
            format!("{star}{:?} {from} -> {to} {service}", change.effect)
        };
        let texts: Vec<String> = found.changes.iter().map(text).collect();
        assert_eq!(texts, expected, "{old}\n{new}");
    }

    fn ordered(rules: &str) -> String {
        format!("tier g ordered owner \"o\" {{\n{rules}}}\n")
    }

    #[test]
    fn a_change_is_told_by_what_it_opens_and_closes() {
        let base = "allow a from zone:corp to zone:dmz service tcp/443\n";
        check(&ordered(base), &ordered(base), &[]);
        let wider = "allow a from zone:corp to zone:dmz service tcp/440-443\n";
        let opens = "Opens zone:corp -> zone:dmz tcp/440-442";
        check(&ordered(base), &ordered(wider), &[opens]);
        let closes = "Closes zone:corp -> zone:dmz tcp/440-442";
        check(&ordered(wider), &ordered(base), &[closes]);
        let denied = "deny x from app:old to any service any\n";
        check(
            &ordered(base),
            &ordered(&format!("{denied}{base}")),
            &["Closes zone:corp & app:old -> zone:dmz tcp/443"],
        );
        // A rule that another one covers opens nothing.
        let more = "allow b from zone:corp & app:x to zone:dmz service tcp/443\n";
        check(&ordered(base), &ordered(&format!("{base}{more}")), &[]);
        let card = "allow c from set:low to zone:cde service tcp/443 owner \"o\" \
                    justification \"j\" expires 2029-12-31\n";
        check(
            &ordered(base),
            &ordered(&format!("{base}{card}")),
            &["*Opens set:low -> zone:cde tcp/443"],
        );
    }

    #[test]
    fn the_order_of_rules_counts_where_it_means_something() {
        let (deny, allow) = (
            "deny d from app:old to zone:dmz service tcp/443\n",
            "allow a from zone:corp to zone:dmz service tcp/443\n",
        );
        check(
            &ordered(&format!("{deny}{allow}")),
            &ordered(&format!("{allow}{deny}")),
            &["Opens zone:corp & app:old -> zone:dmz tcp/443"],
        );
        let tier = |rules: &str| format!("tier a allow-only owner \"o\" {{\n{rules}}}\n");
        let other = "allow b from zone:dmz to zone:corp service tcp/443\n";
        check(
            &tier(&format!("{allow}{other}")),
            &tier(&format!("{other}{allow}")),
            &[],
        );
    }

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let place = (mixed ^ (mixed >> 31)) % list.len() as u64;
            list[usize::try_from(place).expect("small")]
        }
    }

    fn random_text(random: &mut Random) -> String {
        let ends = [
            "any",
            "guests",
            "outside",
            "zone:corp",
            "not zone:dmz",
            "app:x",
            "app:*",
            "set:low",
            "set:wide",
            "set:high or app:x",
            "guests & not app:x",
        ];
        let mut text = String::new();
        for (tier, kind, actions) in [
            ("g", "ordered", &["allow", "deny", "pass", "reject"][..]),
            ("h", "ordered", &["allow", "deny"][..]),
            ("a", "allow-only", &["allow"][..]),
        ] {
            let _ = writeln!(text, "tier {tier} {kind} owner \"o\" {{");
            for rule in ["r1", "r2", "r3"] {
                let (action, from, to) =
                    (random.pick(actions), random.pick(&ends), random.pick(&ends));
                let service = random.pick(&["any", "tcp/22", "tcp/20-30", "tcp, udp/53"]);
                let at = random.pick(&["", "", "at egress", "at ingress"]);
                let _ = writeln!(
                    text,
                    "{action} {rule} from {from} to {to} service {service} {at} \
                     justification \"j\" {}",
                    if action == "allow" {
                        "expires 2029-12-31"
                    } else {
                        ""
                    }
                );
            }
            text.push_str("}\n");
        }
        text
    }

    fn all_ends() -> Vec<End> {
        let mut ends = Vec::new();
        for zone in [Some("cde"), Some("corp"), Some("dmz"), None] {
            for app in [None, Some("x"), Some("unheard")] {
                let pairs = [("zone", zone), ("app", app)];
                let pairs = pairs.iter().filter_map(|(name, value)| {
                    value.map(|value| ((*name).to_owned(), value.to_owned()))
                });
                ends.push(End::Guest(pairs.collect::<Labels>()));
            }
        }
        for address in ["10.0.0.1", "10.200.0.1", "2001:db8::1", "11.0.0.1"] {
            ends.push(End::Address(address.parse().expect("an address")));
        }
        ends
    }

    /// Every packet about which the versions differ is in a change, and no other one is.
    #[test]
    fn changes_are_exactly_what_the_reference_says_differently() {
        let (ends, mut differing) = (all_ends(), 0);
        for seed in 0..120 {
            let mut random = Random(seed);
            let (one, two) = (random_text(&mut random), random_text(&mut random));
            // A change of one rule, half of the time.
            let two = match seed % 2 {
                0 => two,
                _ => one.replacen("tcp/22", "tcp/21-23", 1),
            };
            let (old, new) = (policy(&one), policy(&two));
            let found = pieces(&old, &new);
            let [space, _] = Space::joint(&old, &new);
            for source in &ends {
                for destination in &ends {
                    for port in [19_u16, 21, 22, 25, 40_000] {
                        let packet = Question {
                            source: source.clone(),
                            destination: destination.clone(),
                            protocol: Protocol::Tcp,
                            port,
                            date: today(),
                        };
                        let said = [&old, &new].map(|one| evaluate(one, &packet).verdict);
                        let expected = match said.map(|verdict| verdict == Verdict::Allow) {
                            [false, true] => Some(Effect::Opens),
                            [true, false] => Some(Effect::Closes),
                            _ => None,
                        };
                        let (from, to) = (space.point(source), space.point(destination));
                        let inside = found.iter().filter(|(_, flows)| {
                            flows.has_port(Protocol::Tcp, port)
                                && flows.from.meets(&from)
                                && flows.to.meets(&to)
                        });
                        let told: Vec<Effect> = inside.map(|(effect, _)| *effect).collect();
                        let told = (told.first().copied(), told.len() < 2);
                        assert_eq!(told, (expected, true), "{packet:?}\n{one}\n{two}");
                        differing += usize::from(expected.is_some());
                    }
                }
            }
            diff(&old, &new, today()).expect("both interpreters agree");
        }
        assert!(differing > 1_000, "only {differing} packets differ");
    }

    fn pieces(old: &Policy, new: &Policy) -> Vec<(Effect, Flows)> {
        let [space, newer] = Space::joint(old, new);
        let sides = (
            Side::of(&space, old, today()),
            Side::of(&newer, new, today()),
        );
        let (mut found, mut done, mut names) = (Vec::new(), Vec::new(), Diff::default());
        for (name, flows) in changed(&sides.0, &sides.1, &mut names) {
            let flows = flows.unwrap_or_else(|| panic!("{name}"));
            found.extend(differing(&flows, &done, (&sides.0, &sides.1)).expect("few"));
            done.push(flows);
        }
        merged(found)
    }
}
