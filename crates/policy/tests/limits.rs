//! Every limit at its value and one past it, and texts made to exhaust the reader.

use lictor_policy::{
    CompileError, CompileInput, DIAGNOSTICS_MAX, LABEL_SETS_MAX, LABELS_MAX, Labels,
    NAME_BYTES_MAX, NESTING_MAX, PREFIXES_MAX, QUOTED_BYTES_MAX, SELECTOR_PARTS_MAX, compile,
    parse, render,
};
use lictor_types::{DECISIONS_PER_HOST_MAX, POLICY_TEXT_BYTES_MAX, RULES_MAX};
use std::time::{Duration, Instant};

const HEAD: &str = "policy \"p\" version 1\nlabel a : string\n";

fn codes(text: &str) -> Vec<String> {
    parse("p", text.as_bytes())
        .1
        .into_iter()
        .map(|diagnostic| diagnostic.code)
        .collect()
}

/// The text made for the limit is sound, the one made for one more has this diagnostic only.
fn check(limit: usize, text: impl Fn(usize) -> String, code: &str) {
    assert_eq!(
        codes(&format!("{HEAD}{}", text(limit))),
        [""; 0],
        "{code} at {limit}"
    );
    assert_eq!(
        codes(&format!("{HEAD}{}", text(limit + 1))),
        [code],
        "{code} past {limit}"
    );
}

#[test]
fn each_limit_holds_at_its_value_and_refuses_one_more() {
    check(
        NAME_BYTES_MAX,
        |n| format!("set {} = 10.0.0.0/8\n", "x".repeat(n)),
        "name-too-long",
    );
    check(
        QUOTED_BYTES_MAX,
        |n| format!("tier t allow-only owner \"{}\" {{ }}\n", "x".repeat(n)),
        "bad-text",
    );
    check(
        NESTING_MAX,
        |n| format!("scope s = {}a:x{}\n", "(".repeat(n), ")".repeat(n)),
        "nests-too-deep",
    );
    check(
        NESTING_MAX,
        |n| format!("scope s = {}a:x\n", "not ".repeat(n)),
        "nests-too-deep",
    );
    // The list itself is a part.
    let list = |n: usize| vec!["a:x"; n - 1].join(" & ");
    check(
        SELECTOR_PARTS_MAX + 1,
        |n| format!("scope s = {}\n", list(n)),
        "selector-too-large",
    );
    // One label is in the head.
    let labels = |n: usize| {
        (1..n)
            .map(|i| format!("label l{i} : string\n"))
            .collect::<String>()
    };
    check(LABELS_MAX, labels, "too-many-labels");
    let prefix = |i: usize| format!("10.{}.{}.0/24\n", i >> 8, i & 255);
    let split = |n: usize| {
        let rest = if n > 65_536 { "192.0.2.0/24" } else { "" };
        format!(
            "set s = {} {rest}\n",
            (0..n.min(65_536)).map(prefix).collect::<String>()
        )
    };
    check(PREFIXES_MAX, split, "too-many-prefixes");
}

#[test]
fn the_last_rule_fits_and_one_more_is_refused() {
    let rules = |n: usize| {
        let rule = |i: usize| format!("allow r{i} from a:x to a:y service any\n");
        format!(
            "tier t allow-only {{\n{}}}\n",
            (0..n).map(rule).collect::<String>()
        )
    };
    let text = format!("{HEAD}{}", rules(RULES_MAX));
    assert_eq!(codes(&text), [""; 0]);
    let found = codes(&format!("{HEAD}{}", rules(RULES_MAX + 1)));
    assert_eq!(found.first().map(String::as_str), Some("too-many-rules"));
}

#[test]
fn the_longest_text_fits_and_one_more_byte_is_refused() {
    let mut text = HEAD.as_bytes().to_vec();
    text.resize(POLICY_TEXT_BYTES_MAX, b'#');
    assert!(parse("p", &text).0.is_some());
    text.push(b'#');
    let (policy, diagnostics) = parse("p", &text);
    assert!(policy.is_none());
    assert_eq!(diagnostics[0].code, "text-too-long");
}

/// Bounded time, bounded stack (a test thread has 2 MiB) and a bounded report.
fn exhaust(name: &str, text: &str) {
    let begun = Instant::now();
    let (policy, diagnostics) = parse("p", text.as_bytes());
    assert!(policy.is_none(), "{name}");
    assert!(
        (1..=DIAGNOSTICS_MAX).contains(&diagnostics.len()),
        "{name}: {}",
        diagnostics.len()
    );
    let rendered = render(&diagnostics, text.as_bytes());
    assert!(
        rendered.len() < 1 << 20,
        "{name}: {} bytes rendered",
        rendered.len()
    );
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(30), "{name} took {taken:?}");
}

#[test]
fn a_million_of_anything_is_an_error_in_bounded_time_and_stack() {
    const MILLION: usize = 1_000_000;
    for part in [
        "{",
        "}",
        "(",
        "not ",
        "\"",
        "$ ",
        "tier t {",
        "policy ",
        "set x = y\n",
        "é",
        "&",
    ] {
        exhaust(part, &part.repeat(MILLION));
        exhaust(part, &format!("{HEAD}scope s = {}", part.repeat(MILLION)));
        exhaust(
            part,
            &format!("{HEAD}tier t ordered {{ allow r {}", part.repeat(MILLION)),
        );
    }
}

#[test]
fn scopes_of_scopes_can_not_grow_without_bound() {
    let mut doubled = format!("{HEAD}scope s0 = a:x\n");
    for i in 1..40 {
        let below = i - 1;
        doubled.push_str(&format!("scope s{i} = scope:s{below} & scope:s{below}\n"));
    }
    assert_eq!(
        codes(&doubled).first().map(String::as_str),
        Some("selector-too-large")
    );
    let mut deep = format!("{HEAD}scope s0 = a:x\n");
    for i in 1..100 {
        deep.push_str(&format!("scope s{i} = not scope:s{}\n", i - 1));
    }
    assert_eq!(codes(&deep), ["nests-too-deep"]);
}

#[test]
fn the_report_ends_at_its_limit() {
    let text = "set x = 10.0.0.1/8\n".repeat(DIAGNOSTICS_MAX * 2);
    let found = codes(&format!("{HEAD}{text}"));
    assert_eq!(found.len(), DIAGNOSTICS_MAX);
    assert_eq!(found.last().map(String::as_str), Some("too-many-problems"));
}

fn compiled(text: &str, label_sets: Vec<Labels>) -> Result<usize, CompileError> {
    let (policy, diagnostics) = parse("p", text.as_bytes());
    let policy = policy.unwrap_or_else(|| panic!("{}", render(&diagnostics, text.as_bytes())));
    let date = "2026-11-24".parse().expect("a date");
    let compiled = compile(&policy, &CompileInput { label_sets, date })?;
    let tables = lictor_policy::Tables::of(&compiled).expect("as compiled");
    let ids = compiled.identities.iter().map(|one| one.id);
    Ok(ids.map(|id| tables.decisions(id).len()).sum())
}

fn labels(value: &str) -> Labels {
    Labels::from([("a".to_owned(), value.to_owned())])
}

#[test]
fn too_many_label_sets_are_refused() {
    let sets = |n: usize| (0..n).map(|i| labels(&i.to_string())).collect();
    assert_eq!(compiled(HEAD, sets(LABEL_SETS_MAX)), Ok(0));
    let refused = compiled(HEAD, sets(LABEL_SETS_MAX + 1));
    assert!(
        matches!(refused, Err(CompileError::LabelSets { .. })),
        "{refused:?}"
    );
}

/// One guest with `peers` peers (one set of one address each). Each port is open to every other one
/// of them, by a rule of its own: no row says two things of these.
fn star(peers: usize, (inward, outward): (usize, usize), extra: bool) -> String {
    let mut text = HEAD.to_owned();
    for i in 0..peers {
        text.push_str(&format!("set s{i} = 10.0.{}.{}\n", i >> 8, i & 255));
    }
    text.push_str("tier t allow-only {\n");
    let half = |port: usize| {
        let sets = (0..peers).filter(|i| i % 2 == port % 2);
        let sets: Vec<String> = sets.map(|i| format!("set:s{i}")).collect();
        sets.join(" or ")
    };
    for i in 0..peers {
        // A rule for each peer makes each peer an identity of its own.
        text.push_str(&format!(
            "allow own{i} from set:s{i} to a:x service tcp/0\n"
        ));
    }
    for port in 1..=inward {
        let from = half(port);
        text.push_str(&format!(
            "allow in{port} from {from} to a:x service tcp/{port}\n"
        ));
    }
    for port in 0..outward {
        let to = half(port);
        text.push_str(&format!(
            "allow out{port} from a:x to {to} service tcp/{port}\n"
        ));
    }
    if extra {
        text.push_str("allow extra from a:x to outside & not set:s0 service udp/1\n");
    }
    text.push_str("}\n");
    text
}

#[test]
fn the_largest_table_fits_and_a_larger_one_is_refused_with_the_rules_to_blame() {
    let max = DECISIONS_PER_HOST_MAX as usize;
    let (peers, ports) = (2_048, (127, 127));
    assert_eq!(peers + peers / 2 * (ports.0 + ports.1), max);
    assert_eq!(
        compiled(&star(peers, ports, false), vec![labels("x")]),
        Ok(max)
    );
    let refused = compiled(&star(peers, ports, true), vec![labels("x")]);
    let Err(CompileError::Decisions {
        found,
        max: limit,
        blame,
        ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert!(found > max && limit == max);
    assert_eq!(blame.first().map(String::as_str), Some("t/extra (2048)"));
}

/// Everybody may talk to everybody but for a few: what a cluster without a policy for each pod is.
#[test]
fn three_thousand_classes_that_allow_each_other_take_a_few_rows_each() {
    let mut text = HEAD.to_owned();
    text.push_str("tier t ordered {\n");
    for i in 0..3_000 {
        text.push_str(&format!(
            "deny own{i} from a:v{i} to a:v{i} service tcp/{i}\n"
        ));
    }
    text.push_str("allow all from any to any service any\n}\n");
    let sets = (0..3_000).map(|i| labels(&format!("v{i}"))).collect();
    // Everything for everybody, and one port denied to one: at both ends of each.
    assert_eq!(compiled(&text, sets), Ok(3_000 * 4));
}

#[test]
fn bad_files_are_refused_with_their_place_and_bounded() {
    let begun = Instant::now();
    let check = |bytes: &[u8], expected: &str| {
        let (policy, found) = parse("p", bytes);
        assert!(policy.is_none(), "{expected}");
        let places: Vec<String> = found
            .iter()
            .map(|one| format!("{} {}:{}", one.code, one.span.line, one.column))
            .collect();
        assert_eq!(places.first().map(String::as_str), Some(expected));
    };
    let head = HEAD.as_bytes();
    check(&vec![b'a'; 100 << 20], "text-too-long 1:1");
    check(&[head, b"set a = 10.0.0.1/8\n"].concat(), "host-bits 3:9");
    check(
        &[head, b"label b : string \xff\n"].concat(),
        "not-utf8 3:18",
    );
    check(&[head, b"label a : string\n"].concat(), "defined-twice 3:7");
    // Names are defined above their use, so scopes can't form a circle.
    check(
        &[head, b"scope x = scope:y\nscope y = scope:x\n"].concat(),
        "unknown-scope 3:11",
    );
    check(
        &[head, b"scope x = scope:x\n"].concat(),
        "unknown-scope 3:11",
    );
    check(
        &[
            head,
            b"scope x = computed one-hop y\nscope y = computed one-hop x\n",
        ]
        .concat(),
        "unknown-scope 3:28",
    );
    let twice = b"tier t allow-only {\nallow r from a:x to a:y service tcp\n\
        allow r from a:x to a:y service udp }\n";
    check(&[head, twice].concat(), "defined-twice 5:7");
    let mixed = b"label b : string\r\nlabel c : string\nscope s = b:x\r\nset q = 1.2.3.4/8\r\n";
    check(&[head, mixed].concat(), "host-bits 6:9");
    assert!(begun.elapsed() < Duration::from_secs(30));
}
