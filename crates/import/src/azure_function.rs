//! The functions of Azure's template expressions, of values that are known.

use crate::azure_expression::field;
use crate::value::scalar;
use lictor_types::Digest;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;

/// Bytes of a text, or items of a list, that one function may make.
const MADE_MAX: usize = 1 << 20;

/// What a function gives. `None` if that is not known here.
pub(crate) fn call(name: &str, given: &[Option<Value>]) -> Option<Value> {
    if let Some(found) = environment(name) {
        return Some(found);
    }
    // What decides is the first of these that is known to be so, whatever the others are.
    if let Some(decides) = [("or", true), ("and", false)]
        .iter()
        .find_map(|(own, value)| (*own == name).then_some(*value))
    {
        let truths: Vec<Option<bool>> = given.iter().map(|one| one.as_ref()?.as_bool()).collect();
        return match truths.contains(&Some(decides)) {
            true => Some(decides.into()),
            false if truths.contains(&None) => None,
            false => Some((!decides).into()),
        };
    }
    let given: Vec<Value> = given.iter().cloned().collect::<Option<_>>()?;
    if let Some(found) = naming(name, &given) {
        return Some(found);
    }
    // What a parameter without a value has in it, nobody can say.
    let open = |one: &Value| one.as_str().is_some_and(|text| text.contains('{'));
    if given.iter().any(open) {
        return None;
    }
    logic(name, &given)
        .or_else(|| number(name, &given))
        .or_else(|| text(name, &given))
        .or_else(|| list(name, &given))
}

/// What Azure knows where it makes the resources.
fn environment(name: &str) -> Option<Value> {
    Some(match name {
        "resourcegroup" => json!({
            "name": "{resourceGroup}", "location": "{location}",
            "id": "/subscriptions/{subscription}/resourceGroups/{resourceGroup}",
        }),
        "subscription" => json!({
            "subscriptionId": "{subscription}", "id": "/subscriptions/{subscription}",
            "tenantId": "{tenant}",
        }),
        "deployment" => json!({"name": "{deployment}"}),
        "true" => true.into(),
        "false" => false.into(),
        _ => return None,
    })
}

/// A resource's id: types and names by turns, as the API writes them.
pub(crate) fn id(kind: &str, name: &str) -> String {
    let mut types = kind.split('/');
    let provider = types.next().unwrap_or_default();
    let mut text = format!("/providers/{provider}");
    for (kind, name) in types.zip(name.split('/')) {
        text.push_str(&format!("/{kind}/{name}"));
    }
    text
}

/// What makes names, of which a part may be open.
fn naming(name: &str, given: &[Value]) -> Option<Value> {
    let first = given.first().map(scalar).unwrap_or_default();
    Some(match name {
        "concat" if given.iter().any(Value::is_array) => {
            let lists = given.iter().map(|one| one.as_array().cloned());
            let lists: Vec<Vec<Value>> = lists.collect::<Option<_>>()?;
            Value::Array(lists.concat())
        }
        "concat" => given.iter().map(scalar).collect::<String>().into(),
        "string" => first.into(),
        "tolower" => first.to_lowercase().into(),
        "toupper" => first.to_uppercase().into(),
        "format" => {
            let parts = given.iter().skip(1).map(scalar);
            let parts: Vec<String> = parts.collect();
            let longest = parts.iter().map(String::len).max().unwrap_or(0);
            if first.len().saturating_mul(longest + 1) > MADE_MAX {
                return None;
            }
            let places = parts.iter().zip(0..);
            places
                .fold(first, |text, (one, place)| {
                    text.replace(&format!("{{{place}}}"), one)
                })
                .into()
        }
        "resourceid" | "subscriptionresourceid" | "tenantresourceid" => {
            let kind = given.iter().position(|one| scalar(one).contains('/'))?;
            let names: Vec<String> = given[kind + 1..].iter().map(scalar).collect();
            id(&scalar(&given[kind]), &names.join("/")).into()
        }
        // Not what Azure makes of it, but the same for the same parts.
        "uniquestring" | "guid" => {
            let text = Value::Array(given.to_vec()).to_string();
            Digest::of(text.as_bytes()).to_string()[..13].into()
        }
        "createarray" => Value::Array(given.to_vec()),
        "createobject" => {
            let pairs = given.chunks_exact(2);
            let fields = pairs.map(|pair| (scalar(&pair[0]), pair[1].clone()));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        "array" => match &given.first()? {
            Value::Array(items) => items.clone().into(),
            other => json!([other]),
        },
        "union" if given.iter().all(Value::is_object) => {
            let fields = given.iter().filter_map(Value::as_object).cloned();
            Value::Object(fields.flatten().collect())
        }
        "union" => {
            let mut items: Vec<Value> = Vec::new();
            for one in given
                .iter()
                .flat_map(|one| one.as_array().into_iter().flatten())
            {
                // Of lists as long as rules have it, not of any.
                if items.len() > 1_000 {
                    return None;
                }
                if !items.contains(one) {
                    items.push(one.clone());
                }
            }
            Value::Array(items)
        }
        "coalesce" => given.iter().find(|one| !one.is_null())?.clone(),
        _ => return None,
    })
}

fn logic(name: &str, given: &[Value]) -> Option<Value> {
    let (left, right) = (given.first()?, given.get(1));
    let order = || match (left, right?) {
        (Value::Number(left), Value::Number(right)) => Some(left.as_i64()?.cmp(&right.as_i64()?)),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    };
    Some(Value::Bool(match name {
        "not" => !left.as_bool()?,
        "bool" => match scalar(left).to_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return None,
        },
        "equals" => match (left, right?) {
            // Values are compared as they are, texts in whatever case.
            (Value::String(left), Value::String(right)) => left.eq_ignore_ascii_case(right),
            (left, right) => left == right,
        },
        "greater" => order()? == Ordering::Greater,
        "less" => order()? == Ordering::Less,
        "greaterorequals" => order()? != Ordering::Less,
        "lessorequals" => order()? != Ordering::Greater,
        "empty" => length(left)? == 0,
        "contains" => match left {
            Value::String(text) => text.contains(&scalar(right?)),
            Value::Array(items) => items.contains(right?),
            Value::Object(_) => field(left, &scalar(right?)).is_some(),
            _ => return None,
        },
        "startswith" => begins(left.as_str()?, &scalar(right?)),
        "endswith" => scalar(left)
            .to_lowercase()
            .ends_with(&scalar(right?).to_lowercase()),
        _ => return None,
    }))
}

fn begins(text: &str, head: &str) -> bool {
    text.to_lowercase().starts_with(&head.to_lowercase())
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Array(items) => Some(items.len()),
        Value::Object(fields) => Some(fields.len()),
        Value::Null => Some(0),
        _ => None,
    }
}

fn number(name: &str, given: &[Value]) -> Option<Value> {
    let whole = |at: usize| -> Option<i64> { given.get(at)?.as_i64() };
    let found = match name {
        "int" => scalar(given.first()?).parse::<i64>().ok()?,
        "length" => i64::try_from(length(given.first()?)?).ok()?,
        "add" => whole(0)?.checked_add(whole(1)?)?,
        "sub" => whole(0)?.checked_sub(whole(1)?)?,
        "mul" => whole(0)?.checked_mul(whole(1)?)?,
        "div" => whole(0)?.checked_div(whole(1)?)?,
        "mod" => whole(0)?.checked_rem(whole(1)?)?,
        "min" | "max" => {
            let items = match given {
                [Value::Array(items)] => items.as_slice(),
                given => given,
            };
            let items = items.iter().map(Value::as_i64);
            let items: Vec<i64> = items.collect::<Option<_>>()?;
            let items = items.into_iter();
            if name == "min" {
                items.min()?
            } else {
                items.max()?
            }
        }
        _ => return None,
    };
    Some(found.into())
}

fn text(name: &str, given: &[Value]) -> Option<Value> {
    let text = given.first()?.as_str()?;
    let other = |at: usize| given.get(at).map(scalar);
    let place = |at: usize| usize::try_from(given.get(at)?.as_i64()?).ok();
    Some(match name {
        "trim" => text.trim().into(),
        "replace" => {
            let (from, to) = (other(1)?, other(2)?);
            if from.is_empty() || text.len().saturating_mul(to.len() + 1) > MADE_MAX {
                return None;
            }
            text.replace(&from, &to).into()
        }
        "split" => {
            let marks = match given.get(1)? {
                Value::Array(marks) => marks.iter().map(scalar).collect(),
                mark => vec![scalar(mark)],
            };
            let marks: Vec<char> = marks.iter().filter_map(|one| one.chars().next()).collect();
            let parts = text.split(marks.as_slice()).map(Value::from);
            Value::Array(parts.collect())
        }
        "substring" => {
            let rest = text.chars().skip(place(1)?);
            let count = given.get(2).map_or(Some(usize::MAX), |_| place(2))?;
            rest.take(count).collect::<String>().into()
        }
        "padleft" => {
            let width = place(1).filter(|width| *width <= MADE_MAX)?;
            let with = other(2).and_then(|text| text.chars().next()).unwrap_or(' ');
            let missing = width.saturating_sub(text.chars().count());
            let pad: String = std::iter::repeat_n(with, missing).collect();
            format!("{pad}{text}").into()
        }
        "indexof" => {
            let at = text.to_lowercase().find(&other(1)?.to_lowercase());
            at.and_then(|at| i64::try_from(at).ok())
                .unwrap_or(-1)
                .into()
        }
        "json" => serde_json::from_str(text).ok()?,
        "first" => text.chars().next()?.to_string().into(),
        "last" => text.chars().last()?.to_string().into(),
        _ => return None,
    })
}

fn list(name: &str, given: &[Value]) -> Option<Value> {
    let place = |at: usize| usize::try_from(given.get(at)?.as_i64()?).ok();
    if name == "range" {
        let (first, count) = (given.first()?.as_i64()?, place(1)?);
        let last = first.checked_add(i64::try_from(count).ok()?)?;
        return (count <= MADE_MAX).then(|| (first..last).collect::<Vec<i64>>().into());
    }
    let items = given.first()?.as_array()?;
    Some(match name {
        "first" => items.first()?.clone(),
        "last" => items.last()?.clone(),
        "skip" => items.iter().skip(place(1)?).cloned().collect(),
        "take" => items.iter().take(place(1)?).cloned().collect(),
        "flatten" => {
            let inner = items.iter().map(|one| one.as_array().cloned());
            Value::Array(inner.collect::<Option<Vec<_>>>()?.concat())
        }
        "join" => {
            let mark = scalar(given.get(1)?);
            if items.len().saturating_mul(mark.len() + 1) > MADE_MAX {
                return None;
            }
            let parts: Vec<String> = items.iter().map(scalar).collect();
            parts.join(&mark).into()
        }
        _ => return None,
    })
}
