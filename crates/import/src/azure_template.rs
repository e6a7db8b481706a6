//! Azure's templates (ARM): expressions in brackets are written out as far as the template itself
//! says what they are, and a resource that stands beside or inside of another one becomes a part of
//! that one, as the management API prints it.

use crate::Effect;
use crate::draft::Draft;
use crate::value::{list, scalar, str};
use serde_json::{Map, Value, json};

/// Parameters and variables that name each other: more than this is a circle.
const DEPTH_MAX: usize = 32;

/// A template's own names.
struct Template<'a> {
    parameters: &'a Value,
    variables: &'a Value,
}

/// The resources of a template in the API's form; `None` if it is none.
pub(crate) fn resources(value: &Value, draft: &mut Draft) -> Option<Vec<Value>> {
    let schema = str(value, "$schema").to_lowercase();
    if !schema.contains("deploymenttemplate.json") {
        return None;
    }
    let template = Template {
        parameters: &value["parameters"],
        variables: &value["variables"],
    };
    let mut flat = Vec::new();
    match &value["resources"] {
        // The newer form has them by symbolic names.
        Value::Object(named) => named
            .values()
            .for_each(|one| flatten(one, "", "", &mut flat)),
        given => given
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|one| flatten(one, "", "", &mut flat)),
    }
    let mut found: Vec<Value> = Vec::new();
    for mut one in flat {
        template.write_out(&mut one);
        let place = format!("template: {} {}", str(&one, "type"), str(&one, "name"));
        if !one["copy"].is_null() || !one["condition"].is_null() {
            let what = "stands here once, whatever its `copy` or `condition` says";
            draft.note(Effect::None, &place, what);
        }
        if str(&one, "type").eq_ignore_ascii_case("Microsoft.Resources/deployments") {
            let inner = resources(&one["properties"]["template"], draft);
            match inner {
                Some(inner) => found.extend(inner),
                None => draft.note(Effect::Opens, &place, "a linked template is not read"),
            }
            continue;
        }
        if one["id"].is_null() {
            one["id"] = id(str(&one, "type"), str(&one, "name")).into();
        }
        found.push(one);
    }
    Some(joined(found))
}

/// A resource, and those inside of it under their full types and names.
fn flatten(value: &Value, types: &str, names: &str, flat: &mut Vec<Value>) {
    let full = |outer: &str, own: &str| match outer {
        "" => own.to_owned(),
        outer => format!("{outer}/{own}"),
    };
    let mut one = value.clone();
    let (kind, name) = (
        full(types, str(value, "type")),
        nested_name(names, str(value, "name")),
    );
    if let Value::Object(fields) = &mut one {
        fields.remove("resources");
        fields.insert("type".into(), kind.clone().into());
        fields.insert("name".into(), name.clone().into());
    }
    flat.push(one);
    for inner in list(value, "resources") {
        flatten(inner, &kind, &name, flat);
    }
}

/// The name of what is inside of another resource; both may be expressions.
fn nested_name(outer: &str, own: &str) -> String {
    let text = |name: &str| match inside(name) {
        Some(expression) => expression.to_owned(),
        None => format!("'{}'", name.replace('\'', "''")),
    };
    match outer {
        "" => own.to_owned(),
        outer => format!("[concat({}, '/', {})]", text(outer), text(own)),
    }
}

/// Rules go into their groups, subnets into their networks. Where the outer one is not in the
/// template, it is made: a rule that nobody has would be lost without a word.
fn joined(resources: Vec<Value>) -> Vec<Value> {
    const PARTS: [(&str, &str); 2] = [
        (
            "microsoft.network/networksecuritygroups/securityrules",
            "securityRules",
        ),
        ("microsoft.network/virtualnetworks/subnets", "subnets"),
    ];
    let kind = |one: &Value| str(one, "type").to_lowercase();
    let field = |one: &Value| {
        let found = PARTS.iter().find(|(known, _)| *known == kind(one));
        found.map(|(_, field)| *field)
    };
    let (parts, mut whole): (Vec<_>, Vec<_>) =
        resources.into_iter().partition(|one| field(one).is_some());
    for group in &mut whole {
        let outer = PARTS.iter().find(|(known, _)| {
            known
                .rsplit_once('/')
                .is_some_and(|(outer, _)| outer == kind(group))
        });
        let Some((_, field)) = outer else { continue };
        if !group["properties"].is_object() {
            group["properties"] = Value::Object(Map::new());
        }
        if !group["properties"][*field].is_array() {
            group["properties"][*field] = json!([]);
        }
        // Subnets that stand in their network have no id of their own there.
        let (outer_id, lists) = (str(group, "id").to_owned(), *field);
        for inner in group["properties"][lists]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            if inner["id"].is_null() {
                inner["id"] = format!("{outer_id}/{lists}/{}", str(inner, "name")).into();
            }
        }
    }
    for mut part in parts {
        let Some(field) = field(&part) else { continue };
        let names = str(&part, "name").to_owned();
        let (outer, own) = names.rsplit_once('/').unwrap_or(("", &names));
        let kind = kind(&part);
        let outer_kind = kind.rsplit_once('/').map_or("", |(outer, _)| outer);
        part["name"] = own.into();
        let at = whole.iter().position(|one| {
            str(one, "type").eq_ignore_ascii_case(outer_kind)
                && str(one, "name").eq_ignore_ascii_case(outer)
        });
        let at = at.unwrap_or_else(|| {
            whole.push(json!({
                "type": outer_kind, "name": outer, "id": id(outer_kind, outer),
                "properties": { field: [] },
            }));
            whole.len() - 1
        });
        if let Some(list) = whole[at]["properties"][field].as_array_mut() {
            list.push(part);
        }
    }
    whole
}

/// A resource's id: types and names by turns, as the API writes them.
fn id(kind: &str, name: &str) -> String {
    let mut types = kind.split('/');
    let provider = types.next().unwrap_or_default();
    let mut text = format!("/providers/{provider}");
    for (kind, name) in types.zip(name.split('/')) {
        text.push_str(&format!("/{kind}/{name}"));
    }
    text
}

/// What is in the brackets of an expression.
fn inside(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.starts_with('[')).then_some(inner)
}

impl Template<'_> {
    /// Writes every expression out that the template itself answers; the others stay as they are.
    fn write_out(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(found) = inside(text).and_then(|inner| self.evaluate(inner, 0)) {
                    *value = found;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|one| self.write_out(one)),
            Value::Object(fields) => fields.values_mut().for_each(|one| self.write_out(one)),
            _ => {}
        }
    }

    /// The value of an expression, if it is one that is known here.
    fn evaluate(&self, text: &str, depth: usize) -> Option<Value> {
        let mut reader = Reader { rest: text.trim() };
        let found = self.term(&mut reader, depth)?;
        reader.rest.is_empty().then_some(found)
    }

    fn term(&self, reader: &mut Reader<'_>, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        if let Some(text) = reader.quoted() {
            return Some(text.into());
        }
        let word = reader.word()?;
        if !reader.eat('(') {
            return word.parse::<i64>().ok().map(Value::from);
        }
        let mut given = Vec::new();
        while !reader.eat(')') {
            if !given.is_empty() && !reader.eat(',') {
                return None;
            }
            given.push(self.term(reader, depth + 1)?);
        }
        let mut found = self.call(word, &given, depth)?;
        while reader.eat('.') {
            found = found.get(reader.word()?)?.clone();
        }
        Some(found)
    }

    fn call(&self, name: &str, given: &[Value], depth: usize) -> Option<Value> {
        let first = given.first().map(scalar).unwrap_or_default();
        let mut found = match name.to_lowercase().as_str() {
            "parameters" => self.parameters[&first]["defaultValue"].clone(),
            "variables" => self.variables[&first].clone(),
            "concat" => given.iter().map(scalar).collect::<String>().into(),
            "tolower" => first.to_lowercase().into(),
            "toupper" => first.to_uppercase().into(),
            "format" => given
                .iter()
                .skip(1)
                .zip(0..)
                .fold(first, |text, (one, place)| {
                    text.replace(&format!("{{{place}}}"), &scalar(one))
                })
                .into(),
            "resourceid" | "subscriptionresourceid" => {
                let kind = given.iter().position(|one| scalar(one).contains('/'))?;
                let names: Vec<String> = given[kind + 1..].iter().map(scalar).collect();
                id(&scalar(&given[kind]), &names.join("/")).into()
            }
            _ => return None,
        };
        if found.is_null() {
            return None;
        }
        // A variable may be an expression, and so may what is in it.
        if let Some(inner) = found.as_str().and_then(inside) {
            found = self.evaluate(inner, depth + 1)?;
        }
        Some(found)
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
