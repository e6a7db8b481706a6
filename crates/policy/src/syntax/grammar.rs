//! What editors and other programs need to know of the language: a TextMate grammar and the JSON
//! schema of the JSON form. Both are made of the table of forms and the closed lists of words.

use super::form::{BASELINE, Form, Kind, RULES, STATEMENTS};
use crate::{At, Cause, Choice, Interpretation, Log, parse::REACHES};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Words of intents, and those between the parts of a statement.
const PHRASES: [&str; 22] = [
    "never",
    "always",
    "path",
    "only",
    "reaches",
    "host",
    "runs",
    "with",
    "interpretation",
    "requires",
    "control",
    "controls",
    "hops",
    "within",
    "except",
    "via",
    "on",
    "any-host",
    "under",
    "failures",
    "computed",
    "all",
];

/// Words that join or stand for ends.
const ENDS: [&str; 6] = ["any", "guests", "hosts", "outside", "not", "or"];

/// Words of a closed list.
fn constants() -> BTreeSet<&'static str> {
    let mut words: BTreeSet<&str> = BTreeSet::from(["drop", "keep-and-alarm"]);
    words.extend(Log::ALL.map(Log::name));
    words.extend(At::NAMED.map(|(name, _)| name));
    words.extend(Cause::ALL.iter().map(|cause| cause.name()));
    words.extend(Choice::ALL.iter().map(|choice| choice.name()));
    words.extend(Interpretation::ALL.map(Interpretation::name));
    words.extend(REACHES.map(|(name, _)| name));
    words
}

/// Words of the table of forms that are written as they are.
fn keywords() -> BTreeSet<&'static str> {
    let mut words: BTreeSet<&str> = PHRASES.into_iter().collect();
    for form in STATEMENTS.iter().chain(RULES).chain([&BASELINE]) {
        words.insert(form.word);
        words.extend(form.clauses.iter().map(|(word, _)| *word));
        let head = form.head.iter().filter(|(_, kind)| *kind == Kind::Keyword);
        words.extend(head.map(|(word, _)| *word));
    }
    words
}

/// Whole words: the characters of names must not go on before or behind.
fn pattern(words: impl IntoIterator<Item = &'static str>) -> String {
    // The longest first, or `log` would match the beginning of `log-limit`.
    let mut words: Vec<&str> = words.into_iter().collect();
    words.sort_by_key(|word| (std::cmp::Reverse(word.len()), *word));
    format!("(?<![\\w.:/@+*-])({})(?![\\w.:/@+*-])", words.join("|"))
}

/// The TextMate grammar, as editors load it.
#[must_use]
pub fn grammar() -> Value {
    let statements = STATEMENTS.iter().map(|form| form.word);
    let one =
        |name: &str, pattern: String| json!({ "name": format!("{name}.lictor"), "match": pattern });
    let actions = RULES.iter().map(|form| form.word);
    json!({
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "Lictor policy",
        "scopeName": "source.lictor",
        "fileTypes": ["lictor"],
        "patterns": [
            one("comment.line.number-sign", "#.*$".into()),
            json!({
                "name": "string.quoted.double.lictor", "begin": "\"", "end": "\"|$",
            }),
            one("keyword.declaration", format!("^\\s*{}", pattern(statements))),
            one("keyword.control", pattern(actions)),
            one("constant.language", pattern(constants())),
            one("support.constant", pattern(ENDS)),
            one("keyword.other", pattern(keywords())),
            one("constant.numeric.date", "(?<![\\w.-])\\d{4}-\\d{2}-\\d{2}(?![\\w.-])".into()),
            one(
                "constant.other.service",
                "(?<![\\w.:/-])(tcp|udp|sctp|udplite|icmp|icmpv6|ip|ether)/[\\w/-]+".into(),
            ),
            one("constant.other.prefix", "(?<![\\w.:])[0-9a-fA-F:.]+/\\d+".into()),
            one("variable.other", "[A-Za-z0-9][\\w.-]*:[\\w.*-]+".into()),
            one("keyword.operator", "[&=:,]".into()),
        ],
    })
}

fn of_kind(kind: Kind) -> Value {
    match kind {
        Kind::Flag => json!({ "const": true }),
        Kind::Words | Kind::List => json!({
            "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1 },
        }),
        _ => json!({ "type": "string", "minLength": 1 }),
    }
}

fn object(form: &Form, rules: Option<&str>) -> Value {
    let mut properties = Map::new();
    properties.insert("statement".into(), json!({ "const": form.word }));
    let lines = json!({ "type": "array", "items": { "type": "string" } });
    properties.insert("comments".into(), lines.clone());
    properties.insert("remark".into(), json!({ "type": "string" }));
    properties.insert("gap".into(), json!({ "type": "boolean" }));
    properties.extend(
        form.fields()
            .map(|(name, kind)| (name.to_owned(), of_kind(kind))),
    );
    if let Some(rules) = rules {
        let of = json!({ "type": "array", "items": { "$ref": rules } });
        properties.insert("rules".into(), of);
        properties.insert("rules_comments".into(), lines);
    }
    let mut required = vec!["statement"];
    let fixed = |(_, kind): &&(&str, Kind)| !matches!(kind, Kind::Mark(_) | Kind::Keyword);
    required.extend(form.head.iter().filter(fixed).map(|(name, _)| *name));
    json!({
        "type": "object", "additionalProperties": false, "required": required,
        "properties": properties,
    })
}

/// The JSON schema (2020-12) of the JSON form.
#[must_use]
pub fn schema() -> Value {
    let rules: Vec<Value> = RULES.iter().map(|form| object(form, None)).collect();
    let rules = rules.into_iter().chain([object(&BASELINE, None)]);
    let statements = STATEMENTS.iter().map(|form| {
        let rules = (form.word == "tier").then_some("#/$defs/rule");
        object(form, rules)
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://lictor.invalid/policy.schema.json",
        "title": "The JSON form of a Lictor policy",
        "type": "object",
        "additionalProperties": false,
        "required": ["statements"],
        "properties": {
            "statements": { "type": "array", "items": { "$ref": "#/$defs/statement" } },
            "comments": { "type": "array", "items": { "type": "string" } },
        },
        "$defs": {
            "statement": { "anyOf": statements.collect::<Vec<_>>() },
            "rule": { "anyOf": rules.collect::<Vec<_>>() },
        },
    })
}
