//! References and functions of CloudFormation templates, as far as a template answers them. What
//! it does not answer is a text in braces, such as `{Office}`, which is no address and no port.

use crate::Effect;
use crate::draft::{Draft, prefix};
use crate::value::{items, scalar, str};
use ipnet::IpNet;
use serde_json::{Map, Value};

/// Values that the functions of one template may ask for: each may ask for two others.
const WORK_MAX: usize = 1_000_000;
/// Bytes of a text that functions make.
const TEXT_MAX: usize = 65_536;
/// Conditions and properties that name each other: more than this is a circle.
const DEPTH_MAX: usize = 64;

/// A template, of which references within it are followed.
pub(crate) struct Template<'a> {
    value: &'a Value,
    stack: &'a str,
    draft: &'a mut Draft,
    work: usize,
    depth: usize,
}

impl<'a> Template<'a> {
    pub(crate) fn new(value: &'a Value, stack: &'a str, draft: &'a mut Draft) -> Self {
        Self {
            value,
            stack,
            draft,
            work: WORK_MAX,
            depth: 0,
        }
    }

    pub(crate) fn note(&mut self, resource: &str, effect: Effect, what: impl Into<String>) {
        let place = format!("resource {}", self.own(resource));
        self.draft.note(effect, &place, what);
    }

    /// What a resource is called here.
    pub(crate) fn own(&self, name: &str) -> String {
        match self.stack {
            "" => name.to_owned(),
            stack => format!("{stack}.{name}"),
        }
    }

    /// Whether a resource with this condition is made.
    pub(crate) fn made(&mut self, name: &str, condition: &Value) -> bool {
        if condition.is_null() {
            return true;
        }
        let known = self.condition(name, &serde_json::json!({ "Condition": condition }));
        known.unwrap_or_else(|| {
            let what = format!("whether {condition} holds is not known: it is taken to hold");
            self.note(name, Effect::Opens, what);
            true
        })
    }

    /// A value, its references followed. What is not to be there is null.
    pub(crate) fn answer(&mut self, place: &str, value: &Value) -> Value {
        self.work = self.work.saturating_sub(1);
        if self.work == 0 || self.depth >= DEPTH_MAX {
            return unknown("more than can be followed");
        }
        self.depth += 1;
        let found = match value {
            Value::Array(items) => {
                let items = items.iter().map(|one| self.answer(place, one));
                items.filter(|one| !one.is_null()).collect()
            }
            Value::Object(fields) => match single(fields) {
                Some((name, given)) => self.function(place, name, given),
                None => {
                    let fields = fields.iter();
                    let fields = fields.map(|(key, one)| (key.clone(), self.answer(place, one)));
                    Value::Object(fields.collect())
                }
            },
            plain => plain.clone(),
        };
        self.depth -= 1;
        found
    }

    fn function(&mut self, place: &str, name: &str, given: &Value) -> Value {
        if name == "Fn::If" {
            return self.choice(place, given);
        }
        if name == "Fn::Sub" {
            return self.substituted(place, given);
        }
        let given = self.answer(place, given);
        let at = |at: usize| given.get(at).cloned().unwrap_or_default();
        let found = match name {
            "Ref" => Some(self.reference(place, &scalar(&given))),
            "Fn::GetAtt" => Some(match given.as_array() {
                Some(path) => {
                    let path: Vec<String> = path.iter().map(scalar).collect();
                    self.attribute(place, &path.join("."))
                }
                None => self.attribute(place, &scalar(&given)),
            }),
            "Fn::Join" => {
                let parts: Vec<String> = items(&at(1)).iter().map(scalar).collect();
                Some(parts.join(&scalar(&at(0))).into())
            }
            "Fn::Select" => {
                let index = scalar(&at(0)).parse::<usize>().ok();
                index.and_then(|index| at(1).get(index).cloned())
            }
            "Fn::Split" => {
                let (mark, text) = (scalar(&at(0)), scalar(&at(1)));
                let known = !mark.is_empty() && !text.contains('{');
                known.then(|| text.split(mark.as_str()).map(Value::from).collect())
            }
            "Fn::FindInMap" => {
                let [map, first, second] = [at(0), at(1), at(2)].map(|one| scalar(&one));
                let found = &self.value["Mappings"][&map][&first][&second];
                (!found.is_null()).then(|| found.clone())
            }
            "Fn::Cidr" => blocks(&at(0), &at(1), &at(2)),
            _ => None,
        };
        let short = |value: &Value| value.as_str().is_none_or(|text| text.len() <= TEXT_MAX);
        found
            .filter(short)
            .unwrap_or_else(|| unknown(&format!("{name} {given}")))
    }

    fn choice(&mut self, place: &str, given: &Value) -> Value {
        let condition = serde_json::json!({ "Condition": given[0] });
        let holds = self.condition(place, &condition).unwrap_or_else(|| {
            let what = format!(
                "whether {} holds is not known: it is taken to hold",
                given[0]
            );
            self.note(place, Effect::Opens, what);
            true
        });
        self.answer(place, &given[if holds { 1 } else { 2 }])
    }

    /// Whether a condition holds, if the template says so.
    fn condition(&mut self, place: &str, value: &Value) -> Option<bool> {
        self.work = self.work.saturating_sub(1);
        if self.work == 0 || self.depth >= DEPTH_MAX {
            return None;
        }
        let (name, given) = value.as_object().and_then(single)?;
        self.depth += 1;
        let all = |own: &mut Self| -> Vec<Option<bool>> {
            let given = given.as_array().into_iter().flatten();
            given.map(|one| own.condition(place, one)).collect()
        };
        let found = match name {
            "Condition" => {
                let own = &self.value["Conditions"][&scalar(given)];
                self.condition(place, own)
            }
            "Fn::Equals" => {
                let [left, right] = [0, 1].map(|at| scalar(&self.answer(place, &given[at])));
                let open = left.contains('{') || right.contains('{');
                (!open).then(|| left == right)
            }
            "Fn::Not" => all(self).first().copied().flatten().map(|holds| !holds),
            "Fn::And" => decided(&all(self), false),
            "Fn::Or" => decided(&all(self), true),
            _ => None,
        };
        self.depth -= 1;
        found
    }

    /// A resource by its name, a parameter by its default.
    fn reference(&mut self, place: &str, name: &str) -> Value {
        if name == "AWS::NoValue" {
            return Value::Null;
        }
        if !self.value["Resources"][name].is_null() {
            return self.own(name).into();
        }
        let own = &self.value["Parameters"][name];
        let (default, kind) = (&own["Default"], str(own, "Type"));
        if default.is_null() || kind.starts_with("AWS::SSM::") {
            return unknown(name);
        }
        let default = self.answer(place, default);
        match kind.starts_with("List<") || kind == "CommaDelimitedList" {
            true if scalar(&default).is_empty() => Value::Array(Vec::new()),
            true => {
                let text = scalar(&default);
                text.split(',').map(|one| Value::from(one.trim())).collect()
            }
            false => default,
        }
    }

    /// What a resource has: a group's number is the group.
    fn attribute(&mut self, place: &str, path: &str) -> Value {
        let (name, attribute) = path.split_once('.').unwrap_or((path, ""));
        let own = &self.value["Resources"][name];
        let kind = str(own, "Type");
        let property = match attribute {
            "GroupId" | "PrefixListId" if kind.starts_with("AWS::EC2::") => {
                return self.own(name).into();
            }
            "CidrBlock" => &own["Properties"]["CidrBlock"],
            "PrivateIp" => &own["Properties"]["PrivateIpAddress"],
            _ => &Value::Null,
        };
        match property.is_null() {
            true => unknown(path),
            false => self.answer(place, property),
        }
    }

    /// `${name}` is what the function's own map, or a reference or attribute of that name is.
    fn substituted(&mut self, place: &str, given: &Value) -> Value {
        let (text, map) = match given {
            Value::Array(parts) => (
                scalar(parts.first().unwrap_or(&Value::Null)),
                self.answer(place, parts.get(1).unwrap_or(&Value::Null)),
            ),
            text => (scalar(text), Value::Null),
        };
        let mut found = String::new();
        let mut rest = text.as_str();
        while let Some((head, tail)) = rest.split_once("${") {
            found.push_str(head);
            let Some((name, after)) = tail.split_once('}') else {
                rest = tail;
                break;
            };
            let name = name.trim();
            match name.strip_prefix('!') {
                Some(literal) => found.push_str(&format!("${{{literal}}}")),
                None if !map[name].is_null() => found.push_str(&scalar(&map[name])),
                None if name.contains('.') => {
                    found.push_str(&scalar(&self.attribute(place, name)));
                }
                None => found.push_str(&scalar(&self.reference(place, name))),
            }
            if found.len() > TEXT_MAX {
                return unknown("a text that is too long");
            }
            rest = after;
        }
        found.push_str(rest);
        found.into()
    }
}

/// A function has one field.
fn single(fields: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, given) = fields.iter().next().filter(|_| fields.len() == 1)?;
    let function = name == "Ref" || name == "Condition" || name.starts_with("Fn::");
    function.then_some((name, given))
}

fn unknown(what: &str) -> Value {
    format!("{{{what}}}").into()
}

/// `decides` as soon as one is so, whatever the others are; unknown if one is, otherwise.
fn decided(truths: &[Option<bool>], decides: bool) -> Option<bool> {
    match truths.contains(&Some(decides)) {
        true => Some(decides),
        false if truths.contains(&None) => None,
        false => Some(!decides),
    }
}

/// So many parts of a network, each of so many bits.
fn blocks(block: &Value, count: &Value, bits: &Value) -> Option<Value> {
    let bits = scalar(bits).parse::<u8>().unwrap_or(8);
    let count = scalar(count)
        .parse::<usize>()
        .ok()
        .filter(|count| *count <= 256)?;
    let parts: Vec<Value> = match prefix(&scalar(block))? {
        IpNet::V4(net) => {
            let parts = net.subnets(32_u8.checked_sub(bits)?).ok()?;
            parts
                .take(count)
                .map(|one| one.to_string().into())
                .collect()
        }
        IpNet::V6(net) => {
            let parts = net.subnets(128_u8.checked_sub(bits)?).ok()?;
            parts
                .take(count)
                .map(|one| one.to_string().into())
                .collect()
        }
    };
    Some(parts.into())
}
