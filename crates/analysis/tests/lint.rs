//! What a lint finds, each by a small policy; and that what it says of covered rules is what the
//! reference evaluator does.

use lictor_analysis::{LintCode, LintInput, lint};
use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{Date, End, Labels, Policy, parse, render};
use lictor_types::Protocol;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HEAD: &str = "policy \"p\" version 1
label zone : one-of cde corp dmz required
label app : string
set wide = 10.0.0.0/8
set low = 10.0.0.0/9
set high = 10.128.0.0/9 2001:db8::/32
set none = 192.0.2.0/24
window work = mon-fri
";

fn today() -> Date {
    "2026-11-24".parse().expect("a date")
}

fn policy(rules: &str) -> Policy {
    let text = format!("{HEAD}{rules}");
    let (policy, diagnostics) = parse("p", text.as_bytes());
    policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, text.as_bytes())))
}

/// Findings as `code rule: other other`, without those of rules that nobody owns.
fn check(rules: &str, expected: &[&str]) {
    let findings = lint(&policy(rules), today(), &LintInput::default());
    let texts: Vec<String> = findings
        .iter()
        .map(|finding| {
            let code = finding.code.name();
            format!("{code} {}: {}", finding.rule, finding.others.join(" "))
        })
        .collect();
    let texts: Vec<&str> = texts
        .iter()
        .map(|text| text.trim_end_matches([':', ' ']))
        .collect();
    assert_eq!(texts, expected, "{rules}");
}

fn ordered(rules: &str) -> String {
    format!("tier g ordered owner \"o\" {{\n{rules}}}\n")
}

fn applications(rules: &str) -> String {
    format!("tier a allow-only owner \"o\" {{\n{rules}}}\n")
}

#[test]
fn a_rule_that_others_decide_before_is_shadowed_with_those_that_are_needed() {
    let last = "allow c from set:wide to zone:dmz service tcp/410-420\n";
    check(
        &ordered(&format!(
            "allow x from set:none to zone:dmz service tcp/410-420\n\
             allow a from set:low to zone:dmz service tcp/400-430\n\
             allow b from set:high to zone:dmz service tcp/410-420\n{last}"
        )),
        &["shadowed g/c: g/a g/b"],
    );
    // One port is left.
    check(
        &ordered(&format!(
            "allow a from set:low to zone:dmz service tcp/410-420\n\
             allow b from set:high to zone:dmz service tcp/411-420\n{last}"
        )),
        &["redundant g/a: g/c"],
    );
    // All values of a label together are everybody that is not in quarantine, but for hosts.
    check(
        &ordered(
            "deny a from zone:cde or zone:corp to zone:dmz service tcp/22\n\
             deny b from zone:dmz or hosts to zone:dmz service tcp/22\n\
             reject c from guests to zone:dmz service tcp/22\n",
        ),
        &["shadowed g/c: g/a g/b"],
    );
}

#[test]
fn one_rule_that_says_the_opposite_contradicts() {
    check(
        &ordered(
            "deny a from any to zone:dmz service tcp\n\
             allow b from zone:corp to zone:dmz service tcp/22\n",
        ),
        &["contradicting g/b: g/a"],
    );
    let guard = ordered("deny a from zone:corp to guests service tcp/22 at ingress\n");
    // At the other end it still speaks.
    check(
        &format!(
            "{guard}{}",
            applications("allow b from zone:corp to zone:dmz service tcp/22\n")
        ),
        &[],
    );
}

#[test]
fn a_rule_is_redundant_if_the_same_would_happen_without_it() {
    check(
        &applications(
            "allow a from zone:corp to zone:dmz service tcp/22\n\
             allow b from zone:corp to zone:dmz service tcp/22, tcp/40\n\
             allow c from zone:corp to zone:dmz service tcp/22, tcp/40\n",
        ),
        &["redundant a/a: a/b", "redundant a/c: a/b"],
    );
    // The same rule twice, though it has a limit or a window.
    for clause in ["limit 5/s", "during work"] {
        let text = applications(&format!(
            "allow a from zone:corp to zone:dmz service tcp/22 {clause}\n\
             allow b from zone:corp to zone:dmz service tcp/22 {clause}\n"
        ));
        check(&text, &["redundant a/b: a/a"]);
    }
    check(
        &applications(
            "allow a from zone:corp to zone:dmz service tcp/22 limit 5/s\n\
             allow b from zone:corp to zone:dmz service tcp/22 limit 9/s\n",
        ),
        &["redundant a/a: a/b"],
    );
    check(
        &ordered(
            "deny a from zone:corp to zone:dmz service tcp/22\n\
             deny b from zone:corp to zone:dmz service tcp/22\n",
        ),
        &["shadowed g/b: g/a"],
    );
    // Each of the three could go, but not all of them.
    check(
        &applications(
            "allow a from zone:corp or zone:cde to zone:dmz service tcp/22\n\
             allow b from zone:corp to zone:dmz service tcp/22\n\
             allow c from zone:cde to zone:dmz service tcp/22\n",
        ),
        &["redundant a/b: a/a", "redundant a/c: a/a"],
    );
    check(
        &ordered(
            "allow a from zone:corp to zone:dmz service tcp/22\n\
             deny b from app:x to zone:dmz service tcp/22\n\
             allow c from zone:corp to zone:dmz service tcp\n",
        ),
        &[],
    );
}

#[test]
fn half_applied_empty_broad_insecure_expiring_and_unowned_rules_are_found() {
    check(
        &applications("allow a from zone:corp to zone:dmz service tcp/443 at egress\n"),
        &["half-applied a/a"],
    );
    check(
        &applications(
            "allow a from zone:corp to zone:dmz service tcp/443 at egress\n\
             allow b from guests to zone:dmz service tcp/443 at ingress\n",
        ),
        &[],
    );
    check(
        &applications("allow a from zone:corp & zone:dmz to app:x service tcp/443\n"),
        &["empty-selector a/a"],
    );
    check(
        &applications("allow a from any to guests service tcp/443\n"),
        &["over-broad a/a"],
    );
    check(
        &applications("allow a from zone:corp to app:x service tcp/20-24\n"),
        &["insecure-service a/a"],
    );
    check(
        &applications("allow a from zone:corp to app:x service tcp/443 expires 2026-12-01\n"),
        &["expiring a/a"],
    );
    check(
        "tier a allow-only {\nallow a from zone:corp to app:x service tcp/443\n}\n",
        &["unowned a/a"],
    );
}

#[test]
fn a_rule_without_hits_is_unused_only_if_there_are_counters() {
    let policy = policy(&applications(
        "allow a from zone:corp to app:x service tcp/443\n\
         allow b from zone:corp to app:y service tcp/443\n",
    ));
    let id = |name: &str| {
        let rule = policy.rules().find(|(_, rule)| rule.name == name);
        rule.expect("there").1.id
    };
    let input = LintInput {
        hits: Some(BTreeMap::from([(id("a/a"), 7)])),
    };
    let found = lint(&policy, today(), &input);
    let found: Vec<_> = found
        .iter()
        .map(|one| (one.code, one.rule.as_str()))
        .collect();
    assert_eq!(found, [(LintCode::Unused, "a/b")]);
}

#[test]
fn many_labels_take_few_steps_and_too_many_cases_are_undecided() {
    let labels: String = (0..40)
        .map(|i| format!("label l{i} : one-of a b\n"))
        .collect();
    let codes = |rules: &str, rule: &str| -> Vec<LintCode> {
        let policy = policy(&format!("{labels}{}", ordered(rules)));
        let found = lint(&policy, today(), &LintInput::default());
        let found = found.iter().filter(|one| one.rule == rule);
        found.map(|one| one.code).collect()
    };
    // Each rule takes one value of another label away.
    let mut rules = String::new();
    for i in 0..40 {
        let (first, last) = (i + 401, 600 - i);
        let _ = writeln!(
            rules,
            "deny r{i} from l{i}:a to l{i}:b service tcp/{first}-{last}"
        );
    }
    rules.push_str("allow last from guests to app:x service tcp/490-500\n");
    assert_eq!(codes(&rules, "g/last"), []);
    // 2^13 cases of one selector.
    let pair = |i: usize| format!("(l{}:a or l{}:b)", 2 * i, 2 * i + 1);
    let pairs: Vec<String> = (0..13).map(pair).collect();
    let wide = format!(
        "allow wide from {} to app:x service tcp/400\n",
        pairs.join(" & ")
    );
    assert_eq!(codes(&wide, "g/wide"), [LintCode::Undecided]);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[usize::try_from(self.below(list.len() as u64)).expect("small")]
    }
}

const ENDS: [&str; 12] = [
    "any",
    "guests",
    "outside",
    "zone:cde",
    "zone:corp",
    "not zone:dmz",
    "app:x",
    "app:*",
    "set:low",
    "set:wide",
    "set:high or app:x",
    "guests & not app:x",
];

/// Each end that anything tells apart.
fn ends() -> Vec<End> {
    let mut ends = Vec::new();
    for zone in ["cde", "corp", "dmz"] {
        for app in [None, Some("x"), Some("other")] {
            let mut labels = Labels::from([("zone".to_owned(), zone.to_owned())]);
            labels.extend(app.map(|app| ("app".to_owned(), app.to_owned())));
            ends.push(End::Guest(labels));
        }
    }
    for address in ["10.0.0.1", "10.200.0.1", "2001:db8::1", "11.0.0.1"] {
        ends.push(End::Address(address.parse().expect("an address")));
    }
    ends
}

/// Rules that are called shadowed or redundant change nothing when they are taken out, each alone
/// and all together.
#[test]
fn what_is_said_of_covered_rules_is_what_the_reference_does() {
    let (ends, mut found) = (ends(), 0);
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut text = String::from(HEAD);
        for (tier, kind, actions) in [
            ("g", "ordered", &["allow", "deny", "pass", "deny"][..]),
            ("h", "ordered", &["allow", "deny"][..]),
            ("a", "allow-only", &["allow"][..]),
        ] {
            let _ = writeln!(text, "tier {tier} {kind} owner \"o\" {{");
            for rule in 0..=random.below(3) {
                let (action, from) = (random.pick(actions), random.pick(&ENDS));
                let to = random.pick(&ENDS);
                let service = random.pick(&["any", "tcp/22", "tcp/20-30", "tcp, udp/53"]);
                let at = random.pick(&["", "", "at egress", "at ingress"]);
                let _ = writeln!(
                    text,
                    "{action} r{rule} from {from} to {to} service {service} {at}"
                );
            }
            text.push_str("}\n");
        }
        let (policy, diagnostics) = parse("p", text.as_bytes());
        let policy = policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, text.as_bytes())));
        let findings = lint(&policy, today(), &LintInput::default());
        let covered: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.code <= LintCode::Redundant)
            .map(|finding| finding.rule.as_str())
            .collect();
        // All of them at once, and each of them alone.
        let names: Vec<Vec<&str>> = covered.iter().map(|name| vec![*name]).collect();
        for names in names.into_iter().chain([covered]) {
            found += usize::from(!names.is_empty());
            let mut without = policy.clone();
            for tier in &mut without.tiers {
                tier.rules
                    .retain(|rule| !names.contains(&rule.name.as_str()));
            }
            assert_eq!(
                verdicts(&policy, &ends),
                verdicts(&without, &ends),
                "{names:?} in\n{text}"
            );
        }
    }
    assert!(found > 100, "only {found} covered rules");
}

fn verdicts(policy: &Policy, ends: &[End]) -> Vec<[Option<lictor_types::Verdict>; 2]> {
    let mut verdicts = Vec::new();
    for source in ends {
        for destination in ends {
            for (protocol, port) in [
                (Protocol::Tcp, 19),
                (Protocol::Tcp, 22),
                (Protocol::Tcp, 25),
                (Protocol::Udp, 53),
                (Protocol::Other, 47),
            ] {
                let (source, destination) = (source.clone(), destination.clone());
                let date = today();
                let question = Question {
                    source,
                    destination,
                    protocol,
                    port,
                    date,
                };
                let answer = evaluate(policy, &question);
                verdicts
                    .push([answer.egress, answer.ingress].map(|one| one.map(|one| one.verdict)));
            }
        }
    }
    verdicts
}
