//! Spoiled policies: the reader never panics, and what it takes is laid out, written as JSON and
//! compiled as it stands. `cargo xtask fuzz policy` goes on for as long as is wanted.

mod common;

#[path = "common/mutate.rs"]
mod mutate;

use common::{Random, guests, policy_text, today};
use lictor_policy::syntax::{Document, format, read};
use lictor_policy::{CompileInput, compile, parse, render};

const TEXTS: u64 = 3_000;

const WORDS: [&str; 28] = [
    "(",
    ")",
    "{",
    "}",
    "\"",
    "\n",
    "\r\n",
    "#",
    "&",
    " or ",
    " not ",
    ":",
    "set ",
    "label ",
    "scope s = scope:s ",
    "scope:cde",
    "tier x ordered { ",
    "allow x ",
    "from any ",
    "to any ",
    "service any ",
    "expires 2026-02-30 ",
    "10.0.0.1/8",
    "2001:db8::1/32",
    "assert i : never path ",
    "\u{202e}",
    "\u{0}",
    "é",
];

fn check(text: &[u8]) {
    let (policy, diagnostics) = parse("fuzz", text);
    let shown = render(&diagnostics, text);
    assert!(
        policy.is_some() || !shown.is_empty(),
        "refused without a word"
    );
    let Ok(plain) = std::str::from_utf8(text) else {
        assert!(policy.is_none(), "what is not UTF-8 is no policy");
        return;
    };
    if let Ok(document) = read(plain) {
        let json = document.to_json();
        assert_eq!(
            Document::from_json(json.as_bytes()).expect("as written"),
            document
        );
    }
    let Some(policy) = policy else {
        return;
    };
    let once = format(plain).expect("a sound text");
    assert_eq!(format(&once).expect("laid out"), once);
    let (again, _) = parse("fuzz", once.as_bytes());
    let again = again.unwrap_or_else(|| panic!("the layout of a sound text is refused:\n{once}"));
    assert_eq!(again.tiers.len(), policy.tiers.len());
    let input = CompileInput {
        label_sets: guests(),
        date: today(),
    };
    let (one, other) = (compile(&policy, &input), compile(&again, &input));
    assert_eq!(one.is_ok(), other.is_ok());
    if let (Ok(one), Ok(other)) = (one, other) {
        assert_eq!((one.lines, one.identities), (other.lines, other.identities));
    }
}

#[test]
fn spoiled_policies_are_refused_or_mean_what_they_say() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/");
    let examples = [
        "shop/00-policy",
        "shop/10-netsec",
        "shop/20-payments",
        "pci/policy",
    ];
    let mut seeds: Vec<Vec<u8>> = examples
        .iter()
        .map(|name| std::fs::read(format!("{root}{name}.lictor")).expect("an example"))
        .collect();
    seeds.extend((0..60).map(|seed| policy_text(&mut Random(seed)).into_bytes()));
    mutate::fuzz(
        TEXTS,
        |random| mutate::mutated(&seeds, &WORDS, random),
        check,
    );
}
