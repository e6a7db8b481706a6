//! YAML whose tags say what a value is: `!Ref name` is `{"Ref": "name"}`, `!Sub text` is
//! `{"Fn::Sub": "text"}`, as CloudFormation's long form has it. Plain texts stay as they are
//! written.

use crate::value::{NODES_MAX, file, text};
use crate::{ImportError, Source};
use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Lists and maps inside of each other, as JSON's reader has it.
const DEPTH_MAX: usize = 128;

/// A list or map that is being read.
struct Open {
    kind: Kind,
    anchor: usize,
    tag: Option<String>,
    /// Where its values begin to be counted.
    nodes: usize,
}

enum Kind {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    documents: Vec<Value>,
    /// What anchors name, with the number of its values.
    anchors: BTreeMap<usize, (Value, usize)>,
    nodes: usize,
}

/// The documents of a YAML file with tags.
pub(crate) fn documents(source: &Source) -> Result<Vec<Value>, ImportError> {
    let mut reader = Reader::default();
    let mut parser = Parser::new_from_str(text(source)?);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| file(source, error.to_string()))?;
        reader.event(event).map_err(|what| {
            let line = span.start.line();
            file(source, format!("line {line}: {what}"))
        })?;
    }
    Ok(reader.documents)
}

impl Reader {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.nodes += 1;
                let value = match style {
                    ScalarStyle::Plain if tag.is_none() => plain(&text),
                    _ => text.into_owned().into(),
                };
                let value = tagged(value, written(tag.as_ref()));
                self.value(value, anchor, 1)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(Kind::List(Vec::new()), anchor, tag.as_ref())?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.begin(Kind::Map(Map::new(), None), anchor, tag.as_ref())?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(anchor) => {
                let own = self.anchors.get(&anchor);
                let (value, nodes) = own.ok_or("an alias inside of what it names")?.clone();
                self.nodes = self.nodes.saturating_add(nodes);
                self.value(value, 0, nodes)?;
            }
            _ => {}
        }
        match self.nodes > NODES_MAX {
            true => Err(format!(
                "more than {NODES_MAX} values; import a part of the file"
            )),
            false => Ok(()),
        }
    }

    fn begin(
        &mut self,
        kind: Kind,
        anchor: usize,
        tag: Option<&Cow<'_, Tag>>,
    ) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} levels of lists and maps"));
        }
        self.nodes += 1;
        self.open.push(Open {
            kind,
            anchor,
            tag: written(tag),
            nodes: self.nodes,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(done) = self.open.pop() else {
            return Ok(());
        };
        let value = match done.kind {
            Kind::List(items) => Value::Array(items),
            Kind::Map(fields, _) => Value::Object(fields),
        };
        let nodes = self.nodes - done.nodes + 1;
        self.value(tagged(value, done.tag), done.anchor, nodes)
    }

    /// A value that is complete goes where it belongs.
    fn value(&mut self, value: Value, anchor: usize, nodes: usize) -> Result<(), String> {
        if anchor > 0 {
            // What is kept for aliases is a copy.
            self.nodes = self.nodes.saturating_add(nodes);
            self.anchors.insert(anchor, (value.clone(), nodes));
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.documents.push(value),
            Some(Kind::List(items)) => items.push(value),
            Some(Kind::Map(fields, key)) => match key.take() {
                Some(key) => {
                    if fields.contains_key(&key) {
                        return Err(format!("the key {key:?} stands twice in one map"));
                    }
                    fields.insert(key, value);
                }
                None => {
                    let text = match value {
                        Value::String(text) => text,
                        Value::Bool(truth) => truth.to_string(),
                        _ => return Err("a key that is no text".into()),
                    };
                    *key = Some(text);
                }
            },
        }
        Ok(())
    }
}

/// A plain text; numbers stay texts, so that a port or an account keeps its zeros.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        text => text.into(),
    }
}

/// A tag of one's own, without its mark; YAML's tags of types say nothing new.
fn written(tag: Option<&Cow<'_, Tag>>) -> Option<String> {
    let tag = tag?;
    (tag.handle() == "!" && !tag.suffix().is_empty()).then(|| tag.suffix().to_owned())
}

fn tagged(value: Value, tag: Option<String>) -> Value {
    match tag.as_deref() {
        None => value,
        Some(name @ ("Ref" | "Condition")) => json!({ name: value }),
        Some(name) => json!({ format!("Fn::{name}"): value }),
    }
}
