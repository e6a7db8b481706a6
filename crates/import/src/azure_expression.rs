//! Expressions of Azure's templates, in brackets: as far as a template itself says what they are.
//! What only Azure knows stays unknown; a parameter without a value is a text of its own, `{name}`,
//! so that what is named by it and what refers to it stay the same.

use crate::azure_function as function;
use crate::value::scalar;
use serde_json::{Map, Value};
use std::cell::Cell;

/// Parameters and variables that name each other: more than this is a circle.
const DEPTH_MAX: usize = 32;
/// Values and bytes that the expressions of one file may make: each may be made of two others.
pub(crate) const WORK_MAX: usize = 8_000_000;
/// Turns of one loop, as Azure has it.
const TURNS_MAX: i64 = 800;

/// A text that is not an expression.
#[derive(Debug)]
struct Malformed;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    /// What parameters there are.
    pub parameters: &'a Value,
    /// What they are given.
    pub given: &'a Map<String, Value>,
    pub variables: &'a Value,
    /// Loops by their names, with the turn they are at, the innermost last.
    pub turns: Vec<(String, i64)>,
    /// What is left to be done.
    pub work: &'a Cell<usize>,
}

/// What is in the brackets of an expression.
fn inside(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.starts_with('[')).then_some(inner)
}

/// Names differ in case as they like.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    let alike = || {
        let mut fields = fields.iter();
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    fields
        .get(name)
        .or_else(|| alike().map(|(_, value)| value))
        .filter(|value| !value.is_null())
}

impl Scope<'_> {
    /// The same, in a turn of a loop.
    pub(crate) fn turn(&self, name: &str, index: i64) -> Self {
        let mut inner = self.clone();
        inner.turns.push((name.to_owned(), index));
        inner
    }

    /// The number of turns of a loop, if it is known.
    pub(crate) fn count(&self, copy: &Value) -> Option<i64> {
        let mut count = copy["count"].clone();
        self.write_out(&mut count);
        let count = count.as_i64().or_else(|| scalar(&count).parse().ok());
        count.filter(|count| (0..=TURNS_MAX).contains(count))
    }

    /// Writes every expression out that is known; the others stay as they are.
    pub(crate) fn write_out(&self, value: &mut Value) {
        self.write(value, 0);
    }

    fn write(&self, value: &mut Value, depth: usize) {
        match value {
            Value::String(text) => {
                if let Some(found) = inside(text).and_then(|inner| self.evaluate(inner, depth)) {
                    *value = found;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|one| self.write(one, depth)),
            Value::Object(fields) => {
                self.loops(fields, depth);
                fields.values_mut().for_each(|one| self.write(one, depth));
            }
            _ => {}
        }
    }

    /// Lists that a `copy` makes in the place of a field.
    fn loops(&self, fields: &mut Map<String, Value>, depth: usize) {
        let Some(Value::Array(loops)) = fields.get("copy").cloned() else {
            return;
        };
        let made = |one: &Value| -> Option<(String, Value)> {
            Some((scalar(one.get("name")?), self.list(one, depth)?))
        };
        let Some(made) = loops.iter().map(made).collect::<Option<Vec<_>>>() else {
            return;
        };
        fields.remove("copy");
        fields.extend(made);
    }

    fn list(&self, copy: &Value, depth: usize) -> Option<Value> {
        let name = scalar(&copy["name"]);
        let turns = 0..self.count(copy)?;
        let turns = turns.map(|index| {
            let mut one = copy["input"].clone();
            self.spend(&one)?;
            self.turn(&name, index).write(&mut one, depth + 1);
            Some(one)
        });
        turns.collect::<Option<Vec<_>>>().map(Value::Array)
    }

    /// The value of an expression, if it is one that is known here.
    fn evaluate(&self, text: &str, depth: usize) -> Option<Value> {
        let mut reader = Reader { rest: text.trim() };
        let found = self.term(&mut reader, depth).ok()?;
        found.filter(|_| reader.rest.is_empty())
    }

    fn term(&self, reader: &mut Reader<'_>, depth: usize) -> Result<Option<Value>, Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed);
        }
        if let Some(text) = reader.quoted() {
            return Ok(Some(text.into()));
        }
        let word = reader.word().ok_or(Malformed)?;
        if !reader.eat('(') {
            return Ok(word.parse::<i64>().ok().map(Value::from));
        }
        let mut given = Vec::new();
        while !reader.eat(')') {
            if !given.is_empty() && !reader.eat(',') {
                return Err(Malformed);
            }
            given.push(self.term(reader, depth + 1)?);
        }
        let mut found = self.call(word, &given, depth);
        loop {
            if reader.eat('.') {
                let name = reader.word().ok_or(Malformed)?;
                found = found.and_then(|value| field(&value, name).cloned());
            } else if reader.eat('[') {
                let at = self.term(reader, depth + 1)?;
                if !reader.eat(']') {
                    return Err(Malformed);
                }
                found = found.zip(at).and_then(|(value, at)| match &at {
                    Value::String(name) => field(&value, name).cloned(),
                    at => value.get(usize::try_from(at.as_i64()?).ok()?).cloned(),
                });
            } else {
                break;
            }
        }
        if let Some(value) = &found
            && self.spend(value).is_none()
        {
            return Ok(None);
        }
        Ok(found)
    }

    /// Counts what was made. `None` if it is too much.
    fn spend(&self, value: &Value) -> Option<()> {
        let left = self.work.get().checked_sub(weight(value));
        self.work.set(left.unwrap_or(0));
        left.map(drop)
    }

    fn call(&self, name: &str, given: &[Option<Value>], depth: usize) -> Option<Value> {
        let name = name.to_lowercase();
        let first = || given.first().and_then(Option::as_ref).map(scalar);
        match name.as_str() {
            "parameters" => self.parameter(&first()?, depth),
            "variables" => self.variable(&first()?, depth),
            "copyindex" => self.index(given),
            "if" => {
                let truth = given.first()?.as_ref()?.as_bool()?;
                given.get(if truth { 1 } else { 2 })?.clone()
            }
            _ => function::call(&name, given),
        }
    }

    /// A variable may be an expression, and so may what is in it.
    fn variable(&self, name: &str, depth: usize) -> Option<Value> {
        let Some(found) = field(self.variables, name) else {
            let loops = self.variables["copy"].as_array()?;
            let mut loops = loops.iter();
            let own = loops.find(|one| scalar(&one["name"]).eq_ignore_ascii_case(name))?;
            return self.list(own, depth + 1);
        };
        let mut found = found.clone();
        self.spend(&found)?;
        self.write(&mut found, depth + 1);
        Some(found)
    }

    fn parameter(&self, name: &str, depth: usize) -> Option<Value> {
        let mut given = self.given.iter();
        if let Some((_, value)) = given.find(|(key, _)| key.eq_ignore_ascii_case(name)) {
            return Some(value.clone());
        }
        let own = field(self.parameters, name)?;
        if let Some(default) = field(own, "defaultValue") {
            let mut found = default.clone();
            self.spend(&found)?;
            self.write(&mut found, depth + 1);
            return Some(found);
        }
        let kind = scalar(&own["type"]).to_lowercase();
        kind.ends_with("string")
            .then(|| format!("{{{name}}}").into())
    }

    /// The turn of a loop, the innermost one if none is named.
    fn index(&self, given: &[Option<Value>]) -> Option<Value> {
        let mut known = given.iter().map(Option::as_ref);
        let named = given
            .first()
            .and_then(Option::as_ref)
            .filter(|one| one.is_string());
        let at = match named {
            Some(name) => {
                known.next();
                let name = scalar(name);
                let mut turns = self.turns.iter().rev();
                turns.find(|(one, _)| one.eq_ignore_ascii_case(&name))?.1
            }
            None => self.turns.last()?.1,
        };
        let more = known.next().map_or(Some(0), |more| more?.as_i64())?;
        at.checked_add(more).map(Value::from)
    }
}

/// Values and bytes of texts.
fn weight(value: &Value) -> usize {
    1 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, one)| key.len() + weight(one))
            .sum(),
        _ => 0,
    }
}

/// The text of an expression that is left.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn eat(&mut self, wanted: char) -> bool {
        let left = self.rest.strip_prefix(wanted);
        self.rest = left.map_or(self.rest, str::trim_start);
        left.is_some()
    }

    /// A text in quotes; two of them are one inside.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut left = self.rest.strip_prefix('\'')?;
        loop {
            let (part, after) = left.split_once('\'')?;
            text.push_str(part);
            match after.strip_prefix('\'') {
                Some(after) => {
                    text.push('\'');
                    left = after;
                }
                None => {
                    self.rest = after.trim_start();
                    return Some(text);
                }
            }
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        let ends = |one: char| !one.is_ascii_alphanumeric() && one != '_' && one != '-';
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        (!word.is_empty()).then_some(word)
    }
}
