//! Azure's templates (ARM): expressions in brackets are written out as far as the template itself
//! says what they are, loops and conditions followed, and a resource that stands beside or inside
//! of another one becomes a part of that one, as the management API prints it.

use crate::Effect;
use crate::azure_expression::{Scope, WORK_MAX};
use crate::azure_function::id;
use crate::draft::Draft;
use crate::value::{list, scalar, str};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;

/// What is read of a template; what else it makes is nothing to a firewall.
const READ: [&str; 6] = [
    "microsoft.network/networksecuritygroups",
    "microsoft.network/networksecuritygroups/securityrules",
    "microsoft.network/virtualnetworks",
    "microsoft.network/virtualnetworks/subnets",
    "microsoft.network/networkinterfaces",
    "microsoft.compute/virtualmachinescalesets",
];
const DEPLOYMENT: &str = "microsoft.resources/deployments";
/// Resources of one file, loops written out.
const RESOURCES_MAX: usize = 100_000;

/// Whether a value is a template, or what a template's parameters are given.
pub(crate) fn is(value: &Value, kind: &str) -> bool {
    str(value, "$schema").to_lowercase().contains(kind)
}

/// The values in a file of parameters.
pub(crate) fn given(value: &Value) -> Map<String, Value> {
    let own = value["parameters"].as_object().into_iter().flatten();
    let own = own.filter(|(_, one)| !one["value"].is_null());
    own.map(|(name, one)| (name.clone(), one["value"].clone()))
        .collect()
}

/// The resources of a template in the API's form.
pub(crate) fn resources(
    value: &Value,
    given: &Map<String, Value>,
    draft: &mut Draft,
) -> Vec<Value> {
    let work = Cell::new(WORK_MAX);
    let scope = Scope {
        parameters: &value["parameters"],
        variables: &value["variables"],
        turns: Vec::new(),
        work: &work,
        given,
    };
    let mut maker = Maker {
        found: Vec::new(),
        draft,
    };
    maker.template(value, &scope);
    if work.get() == 0 {
        let what = "its expressions make too much, and not all of them are written out";
        maker.draft.note(Effect::Opens, "template", what);
    }
    joined(maker.found, draft)
}

struct Maker<'a> {
    found: Vec<Value>,
    draft: &'a mut Draft,
}

impl Maker<'_> {
    fn template(&mut self, value: &Value, scope: &Scope<'_>) {
        let mut flat = Vec::new();
        // The newer form has resources by symbolic names.
        let own: Vec<&Value> = match &value["resources"] {
            Value::Object(named) => named.values().collect(),
            given => given.as_array().into_iter().flatten().collect(),
        };
        for one in own {
            flatten(one, ("", "", &Value::Null), &mut flat);
        }
        for one in &flat {
            let kind = str(one, "type").to_lowercase();
            // What exists already is only referred to.
            if one["existing"] != true && (READ.contains(&kind.as_str()) || kind == DEPLOYMENT) {
                self.turns(one, scope);
            }
        }
    }

    /// A resource as often as its loop says.
    fn turns(&mut self, one: &Value, scope: &Scope<'_>) {
        let copy = &one["copy"];
        if copy.is_null() {
            return self.resource(one, scope);
        }
        let Some(count) = scope.count(copy) else {
            let what = "how often its `copy` makes it is not known: it stands here once";
            self.note(one, Effect::Opens, what);
            return self.resource(one, &scope.turn(str(copy, "name"), 0));
        };
        for index in 0..count {
            self.resource(one, &scope.turn(str(copy, "name"), index));
        }
    }

    fn resource(&mut self, one: &Value, scope: &Scope<'_>) {
        if self.found.len() >= RESOURCES_MAX {
            let what = format!("more than {RESOURCES_MAX} resources; the others are left out");
            return self.draft.note(Effect::Opens, "template", what);
        }
        let mut condition = one["condition"].clone();
        scope.write_out(&mut condition);
        match scalar(&condition).to_lowercase().as_str() {
            "false" => return,
            "" | "true" => {}
            _ => {
                let what = "whether its `condition` holds is not known: it stands here";
                self.note(one, Effect::Opens, what);
            }
        }
        if str(one, "type").eq_ignore_ascii_case(DEPLOYMENT) {
            return self.deployment(one, scope);
        }
        let mut one = one.clone();
        scope.write_out(&mut one);
        local(&mut one);
        if open_loop(&one["properties"]) {
            let what = "what its `copy` makes is not known, and is left out";
            self.note(&one, Effect::Opens, what);
        }
        if one["id"].is_null() {
            one["id"] = id(str(&one, "type"), str(&one, "name")).into();
        }
        self.found.push(one);
    }

    /// A template inside of this one: its own names, or those around it.
    fn deployment(&mut self, one: &Value, scope: &Scope<'_>) {
        let own = &one["properties"];
        let inner = &own["template"];
        if !is(inner, "deploymenttemplate.json") {
            return self.note(one, Effect::Opens, "a linked template is not read");
        }
        if !str(&own["expressionEvaluationOptions"], "scope").eq_ignore_ascii_case("inner") {
            return self.template(inner, scope);
        }
        let mut parameters = own["parameters"].clone();
        scope.write_out(&mut parameters);
        let given = given(&json!({ "parameters": parameters }));
        let inside = Scope {
            parameters: &inner["parameters"],
            variables: &inner["variables"],
            given: &given,
            turns: Vec::new(),
            work: scope.work,
        };
        self.template(inner, &inside);
    }

    fn note(&mut self, one: &Value, effect: Effect, what: &str) {
        let place = format!("template: {} {}", str(one, "type"), str(one, "name"));
        self.draft.note(effect, &place, what);
    }
}

/// Whether a loop is left that was not written out.
fn open_loop(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(open_loop),
        Value::Object(fields) => {
            fields.get("copy").is_some_and(Value::is_array) || fields.values().any(open_loop)
        }
        _ => false,
    }
}

/// Ids without subscription and resource group, which a template does not say of what it makes.
fn local(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("/subscriptions/") => {
            if let Some(at) = text.find("/providers/") {
                text.drain(..at);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(local),
        Value::Object(fields) => fields.values_mut().for_each(local),
        _ => {}
    }
}

/// A resource, and those inside of it under their full types and names, in the loop around them.
fn flatten(value: &Value, (types, names, copy): (&str, &str, &Value), flat: &mut Vec<Value>) {
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
        if !fields.contains_key("copy") {
            fields.insert("copy".into(), copy.clone());
        }
    }
    let copy = one["copy"].clone();
    flat.push(one);
    for inner in list(value, "resources") {
        flatten(inner, (&kind, &name, &copy), flat);
    }
}

/// The name of what is inside of another resource; both may be expressions.
fn nested_name(outer: &str, own: &str) -> String {
    let text = |name: &str| match name
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        Some(expression) => expression.to_owned(),
        None => format!("'{}'", name.replace('\'', "''")),
    };
    match outer {
        "" => own.to_owned(),
        outer => format!("[concat({}, '/', {})]", text(outer), text(own)),
    }
}

/// Subnets that stand in their network have no id of their own there.
fn name_inner(outer: &mut Value, field: &str) {
    let outer_id = str(outer, "id").to_owned();
    let list = outer["properties"][field].as_array_mut();
    for inner in list.into_iter().flatten() {
        if inner["id"].is_null() {
            inner["id"] = format!("{outer_id}/{field}/{}", str(inner, "name")).into();
        }
    }
}

/// Rules go into their groups, subnets into their networks. Where the outer one is not in the
/// template, it is made: a rule that nobody has would be lost without a word.
fn joined(resources: Vec<Value>, draft: &mut Draft) -> Vec<Value> {
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
            if !group["properties"][*field].is_null() {
                let place = format!("template: {} {}", str(group, "type"), str(group, "name"));
                let what = format!("its {field} are not known: taken as none");
                draft.note(Effect::Opens, &place, what);
            }
            group["properties"][*field] = json!([]);
        }
        name_inner(group, field);
    }
    let key = |kind: &str, name: &str| (kind.to_lowercase(), name.to_lowercase());
    let places = whole.iter().enumerate();
    let places = places.map(|(at, one)| (key(str(one, "type"), str(one, "name")), at));
    // Of two of one name the first one is meant.
    let mut places: BTreeMap<_, usize> = places.rev().collect();
    for mut part in parts {
        let Some(field) = field(&part) else { continue };
        let names = str(&part, "name").to_owned();
        let (outer, own) = names.rsplit_once('/').unwrap_or(("", &names));
        let kind = kind(&part);
        let outer_kind = kind.rsplit_once('/').map_or("", |(outer, _)| outer);
        part["name"] = own.into();
        let at = *places.entry(key(outer_kind, outer)).or_insert_with(|| {
            let place = format!("template: {outer_kind} {outer}");
            let what = "is not in the template: of its parts only those are known that are";
            draft.note(Effect::Opens, &place, what);
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
