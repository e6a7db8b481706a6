//! Reading JSON and YAML trees whose fields may be anything.

use crate::ImportError;
use crate::Source;
use serde_json::{Map, Value};

/// Documents of one YAML file: a cluster has thousands of objects.
const DOCUMENTS_MAX: usize = 1_000_000;
/// Lists, maps and scalars of one YAML or JSON file: a tree takes many times the bytes of its text.
pub(crate) const NODES_MAX: usize = 4_000_000;

/// Parts of a YAML file that are kept for its aliases: what a reader copies for each level of them.
const ANCHORED_MAX: usize = 100_000;

/// The documents of a YAML file. Aliases are bounded: a short text can't become a large tree.
pub(crate) fn yaml(source: &Source) -> Result<Vec<Value>, ImportError> {
    let options = serde_saphyr::options! {
        // `n` and `no` are names as others are.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: DOCUMENTS_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
            max_recorded_anchor_events: ANCHORED_MAX,
        },
    };
    serde_saphyr::from_multiple_with_options(text(source)?, options)
        .map_err(|error| file(source, refused(&error)))
}

/// What the reader of YAML has said, and of its limits which it is.
fn refused(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::budget::BudgetBreach;
    let plain = error.without_snippet();
    let line = plain.location().map_or(0, |location| location.line());
    let what = match plain {
        serde_saphyr::Error::Budget { breach, .. } => match breach {
            BudgetBreach::Depth { .. } => "lists and maps inside of each other too deep".to_owned(),
            BudgetBreach::Documents { .. } => format!("more than {DOCUMENTS_MAX} documents"),
            BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => {
                format!("more than {NODES_MAX} values")
            }
            other => format!("more than is read of one file ({other:?})"),
        },
        // Where an alias stands, the reader has only words for it.
        other if other.to_string().contains("recorded_anchor") => {
            format!("aliases stand for more than {ANCHORED_MAX} parts of the file")
        }
        _ => return error.to_string(),
    };
    format!("line {line}: {what}; import a part of the file")
}

/// The documents of a YAML file, or the values of a JSON file. JSON that tools write may have tabs,
/// which YAML has no place for.
pub(crate) fn documents(source: &Source) -> Result<Vec<Value>, ImportError> {
    if text(source)?.trim_start().starts_with(['{', '['])
        && let Ok(values) = json_values(source)
    {
        return Ok(values);
    }
    yaml(source)
}

/// The values of a JSON file, one or one after the other.
pub(crate) fn json_values(source: &Source) -> Result<Vec<Value>, ImportError> {
    json_values_of(source, text(source)?)
}

/// The values of a file of which the text was made plain.
pub(crate) fn json_values_of(source: &Source, text: &str) -> Result<Vec<Value>, ImportError> {
    let values = serde_json::Deserializer::from_str(bounded(source, text)?).into_iter();
    let values: Result<Vec<Value>, _> = values.collect();
    values.map_err(|error| file(source, error.to_string()))
}

/// Gives the objects of a tree to `take`, each before what it holds. What is inside of one that was
/// taken is not looked at. JSON is read at most 128 levels deep, so this is too.
pub(crate) fn objects(value: &Value, take: &mut impl FnMut(&Value, &Map<String, Value>) -> bool) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| objects(item, take)),
        Value::Object(fields) if !take(value, fields) => {
            fields.values().for_each(|inner| objects(inner, take));
        }
        _ => {}
    }
}

/// A JSON file.
pub(crate) fn json(source: &Source) -> Result<Value, ImportError> {
    serde_json::from_str(bounded(source, text(source)?)?)
        .map_err(|error| file(source, error.to_string()))
}

/// A JSON text whose tree is not too large. Each value but the first of a list or map has a comma
/// or colon before it, or a bracket, so that those are counted, outside of texts.
fn bounded<'a>(source: &Source, text: &'a str) -> Result<&'a str, ImportError> {
    let (mut nodes, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b':' | b'[' | b'{' if !quoted => nodes += 1,
            _ => {}
        }
    }
    match nodes > NODES_MAX {
        true => {
            let what = format!("more than {NODES_MAX} values; import a part of the file");
            Err(file(source, what))
        }
        false => Ok(text),
    }
}

/// The text of a file, without the mark that some editors put before it.
pub(crate) fn text(source: &Source) -> Result<&str, ImportError> {
    let text = std::str::from_utf8(&source.bytes).map_err(|error| {
        let at = error.valid_up_to();
        file(source, format!("byte {at} is not UTF-8; expected a text"))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

pub(crate) fn file(source: &Source, what: impl Into<String>) -> ImportError {
    let (path, what) = (source.path.clone(), what.into());
    ImportError::File { path, what }
}

/// The items of a list; none if it is none.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list, or the one that is given in its place: it is not nothing.
pub(crate) fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.clone(),
        other => vec![other.clone()],
    }
}

/// A text; nothing if it is none.
pub(crate) fn str<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Texts and numbers of a map, in order.
pub(crate) fn pairs(value: &Value) -> Vec<(String, String)> {
    let object = value.as_object().into_iter().flatten();
    object
        .map(|(key, value)| (key.clone(), scalar(value)))
        .collect()
}

/// A text, a number or a truth as a text.
pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Fields that nobody here reads.
pub(crate) fn unknown<'a>(value: &'a Value, known: &[&str]) -> Vec<&'a str> {
    let object = value.as_object().into_iter().flatten();
    let used = object.filter(|(_, value)| !value.is_null());
    let keys = used.map(|(key, _)| key.as_str());
    keys.filter(|key| !known.contains(key)).collect()
}
