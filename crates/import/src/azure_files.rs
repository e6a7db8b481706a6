//! Files about Azure's network: what the command line, the API and PowerShell print, and templates
//! with the files of their parameters.

use crate::azure_template::{given, is};
use crate::draft::Draft;
use crate::value::{json_values, json_values_of, text};
use crate::{Effect, ImportError, Source};
use serde_json::{Map, Value};

/// What a file holds.
pub(crate) enum File {
    /// A template, and what its parameters are given.
    Template(Value, Map<String, Value>),
    /// What was printed.
    Printed(Value),
}

const TEMPLATE: &str = "deploymenttemplate.json";
const PARAMETERS: &str = "deploymentparameters.json";

/// The values of all files, templates with their parameters.
pub(crate) fn read(sources: &[Source], draft: &mut Draft) -> Result<Vec<File>, ImportError> {
    let (mut files, mut parameters) = (Vec::new(), Vec::new());
    for source in sources {
        for value in values(source)? {
            match is(&value, PARAMETERS) {
                true => parameters.push((source.path.as_str(), given(&value))),
                false => files.push((source.path.as_str(), value)),
            }
        }
    }
    let templates = files.iter().filter(|(_, value)| is(value, TEMPLATE));
    let alone = templates.count() == 1;
    let mut found = Vec::new();
    for (path, value) in files {
        if !is(&value, TEMPLATE) {
            found.push(File::Printed(camel(value)));
            continue;
        }
        let stem = path.strip_suffix(".json").unwrap_or(path);
        let own = parameters.iter().filter(|(path, _)| {
            alone
                || path
                    .strip_prefix(stem)
                    .is_some_and(|end| end.starts_with('.'))
        });
        let own: Vec<_> = own.collect();
        if own.len() > 1 {
            let what = "several files have its parameters: its defaults are taken; import one";
            draft.note(Effect::Opens, &format!("template {path}"), what);
        }
        let given = match own.as_slice() {
            [(_, given)] => given.clone(),
            _ => Map::new(),
        };
        found.push(File::Template(value, given));
    }
    Ok(found)
}

/// The values of a file. Templates may have comments, commas behind the last one of a list, and
/// texts of several lines.
fn values(source: &Source) -> Result<Vec<Value>, ImportError> {
    let strict = json_values(source);
    if strict.is_ok() || !text(source)?.contains("$schema") {
        return strict;
    }
    let text = plain(text(source)?);
    json_values_of(source, &text).or(strict)
}

/// The same as JSON has it.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(one) = rest.chars().next() {
        let after = &rest[one.len_utf8()..];
        rest = match (one, after.chars().next()) {
            ('"', _) => quoted(after, &mut plain),
            ('/', Some('/')) => &after[after.find('\n').unwrap_or(after.len())..],
            ('/', Some('*')) => after.split_once("*/").map_or("", |(_, after)| after),
            (']' | '}', _) => {
                let kept = plain.trim_end().strip_suffix(',').map(str::len);
                plain.truncate(kept.unwrap_or(plain.len()));
                plain.push(one);
                after
            }
            _ => {
                plain.push(one);
                after
            }
        };
    }
    plain
}

/// Takes a text over to its closing quote; gives what is behind it.
fn quoted<'a>(text: &'a str, plain: &mut String) -> &'a str {
    plain.push('"');
    let mut escaped = false;
    for (at, one) in text.char_indices() {
        match one {
            '\n' => plain.push_str("\\n"),
            '\r' => plain.push_str("\\r"),
            '\t' => plain.push_str("\\t"),
            one => plain.push(one),
        }
        match one {
            '"' if !escaped => return &text[at + 1..],
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    ""
}

/// What PowerShell prints has the API's names with a capital.
fn camel(value: Value) -> Value {
    const THEIRS: [&str; 3] = [
        "SecurityRules",
        "IpConfigurations",
        "EffectiveSecurityRules",
    ];
    let theirs = |value: &Value| {
        THEIRS.iter().any(|name| !value[*name].is_null())
            || !value["Subnets"].is_null() && !value["AddressSpace"].is_null()
    };
    match value {
        Value::Array(items) => items.into_iter().map(camel).collect(),
        value if theirs(&value) => lowered(value),
        value => value,
    }
}

fn lowered(value: Value) -> Value {
    let name = |text: String| match text.as_bytes() {
        [first, ..] if first.is_ascii_uppercase() => text[..1].to_lowercase() + &text[1..],
        _ => text,
    };
    match value {
        Value::Array(items) => items.into_iter().map(lowered).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(fields.map(|(key, one)| (name(key), lowered(one))).collect())
        }
        value => value,
    }
}
