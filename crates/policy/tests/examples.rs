//! The policy of the demo, and every example of the language's page.

use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{
    Cause, Choice, CompileInput, Compiled, ControlName, Date, End, Labels, Part, Policy, compile,
    parse, parse_parts, render, render_parts,
};
use lictor_types::{Direction, HostTables, Protocol, Verdict};
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sound(name: &str, bytes: &[u8]) -> Policy {
    let (policy, diagnostics) = parse(name, bytes);
    assert!(diagnostics.is_empty(), "{}", render(&diagnostics, bytes));
    policy.expect("no diagnostics, hence a policy")
}

fn labels(text: &str) -> Labels {
    let pair = |word: &str| {
        word.split_once(':')
            .map(|(name, value)| (name.into(), value.into()))
    };
    text.split_whitespace().filter_map(pair).collect()
}

const GUESTS: [(&str, &str); 5] = [
    ("web", "zone:cde tier:web app:pay"),
    ("db", "zone:cde tier:db app:pay"),
    ("batch", "zone:cde tier:batch app:pay"),
    ("corp", "zone:corp app:office"),
    ("client", "zone:dmz tier:client"),
];

fn guest(name: &str) -> Labels {
    let found = GUESTS.iter().find(|(known, _)| *known == name);
    labels(found.expect("a guest of the demo").1)
}

fn date(text: &str) -> Date {
    text.parse().expect("a date")
}

fn compiled(policy: &Policy) -> Compiled {
    let label_sets = GUESTS.iter().map(|(name, _)| guest(name)).collect();
    let input = CompileInput {
        label_sets,
        date: date("2026-11-24"),
    };
    compile(policy, &input).expect("the demo's policy compiles")
}

/// The verdict and the rule, from the reference evaluator and from the tables at both ends.
fn check(policy: &Policy, flow: (&str, &str, Protocol, u16), expected: (Verdict, Option<&str>)) {
    let (source, destination, protocol, port) = flow;
    let (source, destination) = (guest(source), guest(destination));
    let question = Question {
        source: End::Guest(source.clone()),
        destination: End::Guest(destination.clone()),
        protocol,
        port,
        date: date("2026-11-24"),
    };
    let compiled = compiled(policy);
    let name = |rule| compiled.rule(rule).map(|rule| rule.name.as_str());
    let answer = evaluate(policy, &question);
    for ruling in [answer.egress, answer.ingress] {
        let ruling = ruling.expect("both ends are guests");
        assert_eq!(
            (ruling.verdict, ruling.rule.and_then(name)),
            expected,
            "{flow:?}"
        );
    }
    let id = |labels| compiled.identity_of(labels).expect("compiled in");
    let (source, destination) = (id(&source), id(&destination));
    let atom = compiled
        .atoms
        .iter()
        .find(|range| range.protocol == protocol && (range.first..=range.last).contains(&port));
    for (local, peer) in [(source, destination), (destination, source)] {
        let decisions = lictor_policy::Tables::of(&compiled)
            .expect("as compiled")
            .decisions(local);
        let tables = HostTables {
            decisions,
            ..HostTables::empty()
        };
        let direction = match local == source {
            true => Direction::Egress,
            false => Direction::Ingress,
        };
        let row = atom.and_then(|range| tables.decide((local, peer, direction), range.atom));
        let found = row.map_or((Verdict::Deny, None), |row| (row.verdict, name(row.rule)));
        assert_eq!(found, expected, "{flow:?} at {local}");
    }
}

#[test]
fn the_demos_flows_have_the_verdicts_of_its_readme() {
    use Protocol::{Icmp, Icmpv6, Tcp, Udp};
    use Verdict::{Allow, Deny};
    let first = sound("policy.lictor", &read("examples/pci/policy.lictor"));
    let second = sound(
        "policy-revoked.lictor",
        &read("examples/pci/policy-revoked.lictor"),
    );
    assert_eq!((first.version, second.version), (1, 2));
    for policy in [&first, &second] {
        check(
            policy,
            ("client", "web", Tcp, 8443),
            (Allow, Some("pay/portal")),
        );
        check(
            policy,
            ("web", "db", Tcp, 5432),
            (Allow, Some("pay/app-db")),
        );
        check(
            policy,
            ("batch", "db", Tcp, 5432),
            (Allow, Some("pay/batch-db")),
        );
        check(
            policy,
            ("web", "db", Icmp, 8 << 8),
            (Allow, Some("pay/diagnose")),
        );
        check(
            policy,
            ("web", "db", Icmpv6, 128 << 8),
            (Allow, Some("pay/diagnose")),
        );
        check(
            policy,
            ("corp", "db", Tcp, 5432),
            (Deny, Some("guard/corp-cde")),
        );
        check(
            policy,
            ("corp", "web", Udp, 9),
            (Deny, Some("guard/corp-cde")),
        );
        check(
            policy,
            ("db", "corp", Tcp, 443),
            (Deny, Some("guard/cde-corp")),
        );
        check(policy, ("db", "web", Tcp, 5432), (Deny, None));
        check(policy, ("client", "db", Tcp, 5432), (Deny, None));
        check(policy, ("web", "db", Tcp, 5433), (Deny, None));
    }
    check(
        &first,
        ("client", "web", Tcp, 22),
        (Allow, Some("pay/admin")),
    );
    check(&second, ("client", "web", Tcp, 22), (Deny, None));
}

#[test]
fn only_batch_may_run_unprotected_and_only_until_its_last_day() {
    let compiled = compiled(&sound("policy.lictor", &read("examples/pci/policy.lictor")));
    for (name, _) in GUESTS {
        let identity = compiled.identity_of(&guest(name)).expect("compiled in");
        let open = name == "batch";
        let expected = if open {
            Choice::AllowWithAlarm
        } else {
            Choice::Block
        };
        assert_eq!(
            compiled.choice(identity, Cause::HostUnprotected),
            expected,
            "{name}"
        );
        for (day, expected) in [("2029-12-31", expected), ("2030-01-01", Choice::Block)] {
            let found = compiled.choice_on(identity, Cause::HostUnprotected, date(day));
            assert_eq!(found, expected, "{name} on {day}");
        }
        let controls: Vec<&str> = compiled
            .required_controls(identity)
            .iter()
            .map(ControlName::as_str)
            .collect();
        let cde = guest(name).get("zone").is_some_and(|zone| zone == "cde");
        assert_eq!(
            controls,
            if cde { vec!["firewall"] } else { vec![] },
            "{name}"
        );
        let known = compiled.identity(identity).expect("listed");
        assert_eq!((known.sensitive, known.quarantine), (cde, false), "{name}");
    }
}

#[test]
fn revoking_a_rule_changes_no_identity_of_other_guests_and_no_other_rule() {
    let first = compiled(&sound("1", &read("examples/pci/policy.lictor")));
    let second = compiled(&sound("2", &read("examples/pci/policy-revoked.lictor")));
    for (name, _) in GUESTS {
        assert_eq!(
            first.identity_of(&guest(name)),
            second.identity_of(&guest(name)),
            "{name}"
        );
    }
    let gone: Vec<&str> = first
        .rules
        .iter()
        .filter(|rule| second.rule(rule.id).is_none())
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(gone, ["pay/admin"]);
    assert_ne!(first.digest(), second.digest());
}

#[test]
fn a_policy_of_several_files_is_sound() {
    let names = ["00-policy", "10-netsec", "20-payments"];
    let files = names.map(|name| {
        let path = format!("examples/shop/{name}.lictor");
        let bytes = read(&path);
        (path, bytes)
    });
    let parts = files.each_ref().map(|(name, bytes)| Part { name, bytes });
    let (policy, diagnostics) = parse_parts(&parts);
    assert!(
        diagnostics.is_empty(),
        "{}",
        render_parts(&diagnostics, &parts)
    );
    let policy = policy.expect("no diagnostics, hence a policy");
    let of = |file: &str| {
        let own = |rule: &&str| rule.ends_with(file);
        policy
            .rules()
            .filter_map(|(_, rule)| rule.file.as_deref())
            .filter(own)
            .count()
    };
    assert_eq!((of("10-netsec.lictor"), of("20-payments.lictor")), (3, 3));
}

/// The fenced blocks of the page with this word behind the fence, and the line of each.
fn blocks(page: &str, word: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        match &mut block {
            Some(_) if line.starts_with("```") => found.extend(block.take()),
            Some((_, text)) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line == format!("```{word}") => block = Some((number, String::new())),
            None => {}
        }
    }
    found
}

fn page() -> String {
    String::from_utf8(read("docs/policy-language.md")).expect("the page is text")
}

#[test]
fn every_policy_on_the_languages_page_is_sound_and_compiles() {
    let blocks = blocks(&page(), "lictor");
    assert!(
        blocks.len() >= 5,
        "the page has only {} examples",
        blocks.len()
    );
    for (line, text) in blocks {
        let text = match text.starts_with("policy ") {
            true => text,
            false => format!("{}{text}", preamble()),
        };
        let policy = sound(&format!("policy-language.md:{line}"), text.as_bytes());
        compiled(&policy);
    }
}

/// What the page's shorter examples take as given; the page shows the same lines first.
fn preamble() -> String {
    let (_, text) = blocks(&page(), "lictor")
        .into_iter()
        .next()
        .expect("the page has examples");
    let rules = text
        .find("tier guard")
        .expect("the first example has a guard");
    text[..rules].to_owned()
}

#[test]
fn every_diagnostic_on_the_languages_page_is_what_the_parser_says() {
    let (wrong, said) = (
        blocks(&page(), "lictor-wrong"),
        blocks(&page(), "diagnostic"),
    );
    assert!(!wrong.is_empty() && wrong.len() == said.len());
    for ((_, text), (line, said)) in wrong.into_iter().zip(said) {
        let (policy, diagnostics) = parse("shop.lictor", text.as_bytes());
        assert!(policy.is_none(), "line {line}");
        assert_eq!(
            render(&diagnostics, text.as_bytes()).trim_end(),
            said.trim_end(),
            "line {line}"
        );
    }
}
