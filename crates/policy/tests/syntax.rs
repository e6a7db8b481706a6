//! The tree of a text: the formatter, the JSON form, its schema and the editor's grammar.

use lictor_policy::syntax::{Document, format, grammar, read, schema};
use lictor_policy::{Cause, Choice, Policy, parse, render};
use serde_json::Value;
use std::path::PathBuf;

fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The policies of the examples and of the language's page.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "examples/pci/policy.lictor",
        "examples/pci/policy-revoked.lictor",
    ]
    .map(file)
    .to_vec();
    let page = file("docs/policy-language.md");
    let mut rest = page.as_str();
    while let Some(at) = rest.find("```lictor\n") {
        let block = &rest[at + 10..];
        let end = block.find("```").expect("the block ends");
        texts.push(block[..end].to_owned());
        rest = &block[end..];
    }
    texts.extend(
        ["00-policy", "10-netsec", "20-payments"]
            .map(|name| file(&format!("examples/shop/{name}.lictor"))),
    );
    assert!(texts.len() > 8, "the page has few examples");
    texts
}

fn meaning(text: &str) -> Option<Policy> {
    let (policy, diagnostics) = parse("p", text.as_bytes());
    let Some(mut policy) = policy else {
        assert!(
            !text.starts_with("policy"),
            "{}",
            render(&diagnostics, text.as_bytes())
        );
        return None;
    };
    policy.source = lictor_types::Digest([0; 32]);
    for rule in policy.tiers.iter_mut().flat_map(|tier| &mut tier.rules) {
        (rule.line, rule.text) = (0, String::new());
    }
    policy.choices.iter_mut().for_each(|one| one.line = 0);
    policy.observed.iter_mut().for_each(|one| one.line = 0);
    policy.intents.iter_mut().for_each(|one| one.line = 0);
    policy.delegations.iter_mut().for_each(|one| one.line = 0);
    Some(policy)
}

fn comments(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once('#'))
        .map(|(_, comment)| comment.trim())
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn formatting_keeps_meaning_and_comments_and_does_nothing_the_second_time() {
    for text in texts() {
        let once = format(&text).expect("sound");
        assert_eq!(format(&once).expect("sound"), once);
        assert_eq!(comments(&once), comments(&text), "{once}");
        assert_eq!(meaning(&once), meaning(&text), "{once}");
        let long = once.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None);
    }
}

#[test]
fn the_json_form_loses_nothing_and_fits_its_schema() {
    let schema = schema();
    for text in texts() {
        let document = read(&text).expect("sound");
        let json = document.to_json();
        let again = Document::from_json(json.as_bytes()).expect("what was written");
        assert_eq!(again, document);
        assert_eq!(again.text(), format(&text));
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(fault(&schema, &schema, &value), None, "{json}");
    }
}

#[test]
fn a_layout_is_what_it_is() {
    let text = "# head\npolicy \"p\"   version 1\n\n\n\nlabel zone :one-of a b # zones\n# sets\n\
        set s = 10.0.0.0/8,192.0.2.1\n\
        tier t unordered allow-only owner \"o\" within (zone:a  or zone:b) { # first\n\
        # why\nallow r { from zone:a # from\n to zone:b service tcp/1,tcp/2 \
        justification \"a long sentence that says why this rule is there and needed\" \
        expires 2029-01-01 } # behind\n\n\
        allow q from zone:a to zone:b service tcp/9\n# end\n}\n\
        assert a : never path from zone:a\n  to zone:b within 3 hops\n# last\n";
    let expected = "# head\npolicy \"p\" version 1\n\nlabel zone : one-of a b  # zones\n# sets\n\
        set s = prefix 10.0.0.0/8 192.0.2.1\n\
        tier t unordered allow-only owner \"o\" within (zone:a or zone:b) {\n  \
        # first\n  # why\n  # from\n  allow r {\n    \
        from zone:a to zone:b service tcp/1, tcp/2\n    \
        justification \"a long sentence that says why this rule is there and needed\"\n    \
        expires 2029-01-01\n  }  # behind\n\n  \
        allow q from zone:a to zone:b service tcp/9\n  # end\n}\n\
        assert a : never path from zone:a to zone:b within 3 hops\n# last\n";
    assert_eq!(format(text).expect("sound"), expected);
}

#[test]
fn a_json_form_that_is_no_policy_is_refused_with_its_place() {
    let check = |statements: &str, part: &str| {
        let json = format!("{{\"statements\":[{statements}]}}");
        let error = Document::from_json(json.as_bytes())
            .expect_err(statements)
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    check("{\"statement\":\"lable\"}", "statement 1");
    check(
        "{\"statement\":\"label\",\"name\":\"a\",\"strin\":true}",
        "unknown field \"strin\"",
    );
    check(
        "{\"statement\":\"label\",\"string\":true}",
        "\"name\" is missing",
    );
    check(
        "{\"statement\":\"label\",\"name\":\"a\",\"string\":\"x\"}",
        "expected true",
    );
    check(
        "{\"statement\":\"policy\",\"name\":\"a\\\"b\",\"version\":\"1\"}",
        "quotation marks",
    );
    check(
        "{\"statement\":\"scope\",\"name\":\"a\",\"selector\":\"any\\nset x = 10.0.0.0/8\"}",
        "statement 1",
    );
    check(
        "{\"statement\":\"set\",\"name\":\"a\",\"prefixes\":[\"10.0.0.0/8 sensitive\"]}",
        "1",
    );
    check(
        "{\"statement\":\"set\",\"name\":\"a\",\"prefixes\":[\"b\"],\"remark\":\"b\\nc\"}",
        "",
    );
    assert!(Document::from_json(b"{").is_err() && Document::from_json(b"[]").is_err());
}

#[test]
fn the_files_for_editors_are_those_of_this_version() {
    for (path, value) in [
        ("docs/editor/lictor.tmLanguage.json", grammar()),
        ("docs/editor/policy.schema.json", schema()),
    ] {
        let expected = format!("{value:#}\n");
        if std::env::var_os("LICTOR_WRITE_EDITOR_FILES").is_some() {
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
            std::fs::write(root.join(path), &expected).expect("written");
        }
        assert!(
            file(path) == expected,
            "{path}: run the test with LICTOR_WRITE_EDITOR_FILES=1"
        );
    }
}

#[test]
fn every_word_of_a_policy_has_a_colour() {
    let grammar = grammar();
    let patterns = grammar["patterns"].as_array().expect("a list");
    let words: Vec<&str> = patterns
        .iter()
        .filter_map(|one| one["match"].as_str())
        .filter_map(|text| text.split_once(")(")?.1.split_once(')'))
        .flat_map(|(words, _)| words.split('|'))
        .collect();
    let mut expected: Vec<&str> = Vec::new();
    expected.extend(Cause::ALL.iter().map(|cause| cause.name()));
    expected.extend(Choice::ALL.iter().map(|choice| choice.name()));
    // Every bare word of the examples that is no name in them.
    let texts = texts();
    for text in &texts {
        let plain = |line: &&str| !line.trim_start().starts_with('#');
        for line in text.lines().filter(plain) {
            let outside = line.split('"').step_by(2).collect::<Vec<_>>();
            let first = outside
                .iter()
                .flat_map(|part| part.split_whitespace())
                .next();
            expected.extend(first.filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())));
        }
    }
    for word in expected {
        assert!(words.contains(&word), "{word}");
    }
}

/// The part of JSON schema that the schema uses. `None` if the value fits.
fn fault(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    if let Some(path) = schema["$ref"].as_str() {
        return fault(root, root.pointer(&path[1..]).expect("a definition"), value);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|one| fault(root, one, value).is_none());
        return (!fits).then(|| format!("{value} fits none"));
    }
    if let Some(only) = schema.get("const") {
        return (only != value).then(|| format!("{value} is not {only}"));
    }
    let wrong = |what: &str| Some(format!("{value} is no {what}"));
    match schema["type"].as_str().expect("a type") {
        "string" if !value.is_string() => wrong("string"),
        "boolean" if !value.is_boolean() => wrong("boolean"),
        "array" => {
            let Some(items) = value.as_array() else {
                return wrong("array");
            };
            items
                .iter()
                .find_map(|item| fault(root, &schema["items"], item))
        }
        "object" => {
            let Some(object) = value.as_object() else {
                return wrong("object");
            };
            let mut required = schema["required"].as_array().into_iter().flatten();
            if let Some(name) =
                required.find(|name| !object.contains_key(name.as_str().unwrap_or("")))
            {
                return Some(format!("{value} has no {name}"));
            }
            object
                .iter()
                .find_map(|(name, value)| match schema["properties"].get(name) {
                    Some(own) => fault(root, own, value),
                    None => Some(format!("{name} is unknown")),
                })
        }
        _ => None,
    }
}
