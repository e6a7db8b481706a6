//! What is explained against what the reference evaluator says, over random policies.

mod common;

use common::{PORTS, Random, World, estate, parsed, policy_text, today};
use lictor_analysis::{Asked, EndSays, Ends, Explanation, Group, Part, Reach, explain, reach};
use lictor_policy::evaluate::{Answer, Question, Ruling, evaluate};
use lictor_policy::{End, Labels, Selector, Service, TierKind};
use lictor_types::{Direction, Reason, RuleId, Verdict};
use std::collections::BTreeMap;

const CASES: u64 = 100;

fn cases() -> u64 {
    let asked = std::env::var("LICTOR_POLICIES").ok();
    asked.map_or(CASES, |text| {
        text.parse().expect("LICTOR_POLICIES: a number")
    })
}

/// What is told of an end is what the evaluator says, and exactly the steps that it took decide.
fn agrees(says: Option<&EndSays>, ruling: Option<Ruling>, context: &str) {
    let (Some(says), Some(ruling)) = (says, ruling) else {
        assert_eq!(says.is_some(), ruling.is_some(), "{context}");
        return;
    };
    assert_eq!(says.verdict, ruling.verdict, "{context}");
    assert_eq!(says.reason, ruling.reason(), "{context}");
    let would = ruling.would.map(|would| would.verdict);
    assert_eq!(
        says.would.as_ref().map(|would| would.verdict),
        would,
        "{context}"
    );
    let observed = ruling.would.filter(|_| says.reason == Reason::Observed);
    let would_rule = observed.map(|would| would.rule);
    let holds = ruling
        .rule
        .or(would_rule)
        .filter(|id| *id != RuleId::DEFAULT);
    let decides = says.steps.iter().filter(|step| step.part == Part::Decides);
    let decides: Vec<&str> = decides.map(|step| step.rule.name.as_str()).collect();
    assert_eq!(
        decides.len(),
        usize::from(holds.is_some()),
        "{context}: {says:#?}"
    );
    if let Some(rule) = &says.rule {
        assert_eq!(decides, [rule.name.as_str()], "{context}");
    }
    let mut decided = false;
    for step in &says.steps {
        let later = matches!(step.part, Part::Decides | Part::Passes) && decided;
        assert!(
            !later || step.kind == TierKind::AllowOnly,
            "{context}: {says:#?}"
        );
        decided |= step.part == Part::Decides;
    }
    assert!(
        says.near.is_empty() || says.verdict != Verdict::Allow,
        "{context}"
    );
}

/// What counted, as the evaluator's own trace has it, by rule.
fn counted(answer: &Answer) -> BTreeMap<&str, bool> {
    let steps = answer.trace.iter();
    steps
        .map(|step| (step.name.as_str(), step.counted))
        .collect()
}

fn told(one: &Explanation) -> BTreeMap<&str, bool> {
    let mut told = BTreeMap::new();
    let sides = [&one.egress, &one.ingress];
    for step in sides.into_iter().flatten().flat_map(|says| &says.steps) {
        let counts = matches!(step.part, Part::Decides | Part::Passes | Part::AllowsToo);
        *told.entry(step.rule.name.as_str()).or_default() |= counts;
    }
    told
}

#[test]
fn an_explanation_says_what_the_reference_evaluator_says() {
    for seed in 0..cases() {
        let mut random = Random(seed);
        let text = policy_text(&mut random);
        let estate = estate(&mut random);
        let policy = parsed(&text, &format!("seed {seed}"));
        let world = World::of(&policy, &estate);
        for (source, destination) in world
            .actors
            .iter()
            .flat_map(|one| world.actors.iter().map(move |other| (one, other)))
        {
            for (protocol, port) in PORTS {
                let question = Question {
                    source: source.end.clone(),
                    destination: destination.end.clone(),
                    protocol,
                    port,
                    date: today(),
                };
                let context = format!("seed {seed}: {question:?}\n{text}");
                let answer = evaluate(&policy, &question);
                let one = explain(&policy, &question);
                assert_eq!(one.verdict, answer.verdict, "{context}");
                agrees(one.egress.as_ref(), answer.egress, &context);
                agrees(one.ingress.as_ref(), answer.ingress, &context);
                // Frames that are not IP look different to each end; the trace has one view.
                let both = one.egress.is_some() && one.ingress.is_some();
                if protocol != lictor_types::Protocol::Ether && both {
                    let (told, counted) = (told(&one), counted(&answer));
                    for (rule, counts) in told {
                        assert_eq!(counted.get(rule), Some(&counts), "{rule}: {context}");
                    }
                }
            }
        }
    }
}

fn names(group: &Group) -> Vec<String> {
    match group {
        Group::Guests(names) => names.clone(),
        Group::Outside { example, .. } => vec![example.to_string()],
    }
}

/// Whether a row lists a session, and by which rules.
fn listed<'a>(rows: &'a [Reach], pair: (&str, &str), question: &Question) -> Option<&'a Reach> {
    let mut rows = rows.iter().filter(|row| {
        names(&row.from).iter().any(|name| name == pair.0)
            && names(&row.to).iter().any(|name| name == pair.1)
            && row.service.contains(question.protocol, question.port)
    });
    let first = rows.next();
    assert!(
        rows.next().is_none(),
        "{pair:?} is listed twice for {question:?}"
    );
    first
}

#[test]
fn who_can_reach_what_is_every_pair_that_the_evaluator_allows_with_its_rules() {
    for seed in 0..cases() {
        let mut random = Random(seed ^ 0x5ea7);
        let text = policy_text(&mut random);
        let estate = estate(&mut random);
        let policy = parsed(&text, &format!("seed {seed}"));
        let world = World::of(&policy, &estate);
        let ends = match random.below(3) {
            0 => Ends::Member("g0".into()),
            1 => Ends::Selected(Selector::Any),
            _ => {
                let (name, value) = ("fn".into(), "b".into());
                Ends::Selected(Selector::Label { name, value })
            }
        };
        let asked = Asked {
            from: Ends::Selected(Selector::Any),
            to: ends.clone(),
            service: None,
            date: today(),
        };
        let rows = reach(&policy, &estate, &asked).expect("a small world");
        let meant = |name: &str, end: &End| match (&ends, end) {
            (Ends::Member(one), _) => one == name,
            (Ends::Selected(Selector::Any), _) => true,
            (_, End::Guest(labels)) => labels.get("fn").is_some_and(|value| value == "b"),
            _ => false,
        };
        let guests = || {
            world
                .actors
                .iter()
                .filter(|one| matches!(one.end, End::Guest(_)))
        };
        let any = Service::any();
        let ports = || PORTS.iter().filter(|(one, port)| any.contains(*one, *port));
        let pairs = guests().flat_map(|one| guests().map(move |other| (one, other)));
        // A guest never reaches itself; a group of several may list its own names twice.
        for (from, to) in pairs.filter(|(from, to)| from.name != to.name) {
            for (protocol, port) in ports() {
                let question = Question {
                    source: from.end.clone(),
                    destination: to.end.clone(),
                    protocol: *protocol,
                    port: *port,
                    date: today(),
                };
                let context = format!("seed {seed}: {question:?}\n{text}");
                let answer = evaluate(&policy, &question);
                let row = listed(&rows, (&from.name, &to.name), &question);
                let expected = answer.verdict == Verdict::Allow && meant(&to.name, &to.end);
                assert_eq!(row.is_some(), expected, "{context}");
                let Some(row) = row else { continue };
                let rule = |ruling: Option<Ruling>| ruling.and_then(|one| one.rule);
                for (lets, ruling) in [(&row.egress, answer.egress), (&row.ingress, answer.ingress)]
                {
                    let name = lets.as_ref().and_then(|one| one.rule.as_ref());
                    let known = policy.rules().find(|(_, one)| Some(one.id) == rule(ruling));
                    let known = known.map(|(_, one)| &one.name);
                    assert_eq!(name.map(|one| &one.name), known, "{context}");
                }
            }
        }
    }
}

const POLICY: &str = "policy \"p\" version 1
label zone : one-of cde corp dmz required
set users = 198.51.100.0/24
tier guard ordered owner \"net@example.com\" {
  deny office from zone:corp to zone:cde service tcp/22
  pass web from any to zone:dmz service tcp/443
}
tier pay allow-only owner \"pay@example.com\" {
  allow a from zone:corp to zone:dmz service tcp/443
  allow b from zone:corp or set:users to zone:dmz service tcp/443
  allow late from zone:corp to zone:dmz service tcp/8443 expires 2026-11-01
  allow in from any to zone:cde service tcp/25 at ingress
}
";

fn check(from: &str, to: &str, port: u16, expected: &[(Direction, &str)]) {
    let policy = parsed(POLICY, "the example");
    let end = |text: &str| match text.parse() {
        Ok(address) => End::Address(address),
        Err(_) => End::Guest(Labels::from([("zone".to_owned(), text.to_owned())])),
    };
    let question = Question {
        source: end(from),
        destination: end(to),
        protocol: lictor_types::Protocol::Tcp,
        port,
        date: today(),
    };
    let one = explain(&policy, &question);
    let mut told = Vec::new();
    for (direction, says) in [
        (Direction::Egress, &one.egress),
        (Direction::Ingress, &one.ingress),
    ] {
        let Some(says) = says else { continue };
        let steps = says.steps.iter();
        told.extend(
            steps.map(|one| (direction, format!("{} {}", one.rule.name, one.part.words()))),
        );
        let near = says.near.iter();
        told.extend(near.map(|one| {
            let clause = one.clause.name();
            (
                direction,
                format!("{} but for {clause} {}", one.rule.name, one.says),
            )
        }));
    }
    let told: Vec<(Direction, &str)> = told
        .iter()
        .map(|(end, text)| (*end, text.as_str()))
        .collect();
    assert_eq!(told, expected, "{from} to {to} tcp/{port}");
}

#[test]
fn each_end_tells_every_rule_that_matched_in_order_and_what_was_missed_by_one_clause() {
    use Direction::{Egress, Ingress};
    check(
        "corp",
        "dmz",
        443,
        &[
            (Egress, "guard/web hands over to the next tier"),
            (Egress, "pay/a decides"),
            (Egress, "pay/b allows too"),
            (Ingress, "guard/web hands over to the next tier"),
            (Ingress, "pay/a decides"),
            (Ingress, "pay/b allows too"),
        ],
    );
    check(
        "198.51.100.7",
        "dmz",
        443,
        &[
            (Ingress, "guard/web hands over to the next tier"),
            (Ingress, "pay/b decides"),
        ],
    );
    check(
        "198.51.100.7",
        "dmz",
        80,
        &[(Ingress, "pay/b but for service tcp/443")],
    );
    check(
        "corp",
        "dmz",
        8443,
        &[
            (Egress, "pay/late past its last day"),
            (Egress, "pay/a but for service tcp/443"),
            (Egress, "pay/b but for service tcp/443"),
            (Egress, "pay/late but for expires 2026-11-01"),
            (Ingress, "pay/late past its last day"),
            (Ingress, "pay/a but for service tcp/443"),
            (Ingress, "pay/b but for service tcp/443"),
            (Ingress, "pay/late but for expires 2026-11-01"),
        ],
    );
    check(
        "corp",
        "cde",
        25,
        &[
            (Egress, "pay/in speaks at the other end"),
            (Egress, "pay/in but for at ingress"),
            (Ingress, "pay/in decides"),
        ],
    );
    check(
        "moon",
        "dmz",
        443,
        &[
            (Egress, "guard/web not asked: an end is in quarantine"),
            (Ingress, "guard/web not asked: an end is in quarantine"),
        ],
    );
}
