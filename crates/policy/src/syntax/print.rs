//! From a tree to its text: one statement or rule a line where it fits, a clause a line where not.

use super::form::{self, BASELINE, BASELINE_NAME, Field, Form, Kind};
use super::{Document, Statement, SyntaxError, Value};

/// Columns of a line, where words allow it.
const COLUMNS: usize = 100;
const INDENT: &str = "  ";

pub(super) fn document(document: &Document) -> Result<String, SyntaxError> {
    let mut text = String::new();
    for (index, statement) in document.statements.iter().enumerate() {
        if index > 0 && statement.gap {
            text.push('\n');
        }
        let place = (index + 1).to_string();
        statement_text(&mut text, form::STATEMENTS, statement, ("", &place))?;
    }
    comments(&mut text, &document.comments, "")?;
    Ok(text)
}

fn wrong<T>(place: &str, what: impl Into<String>) -> Result<T, SyntaxError> {
    let (place, what) = (place.to_owned(), what.into());
    Err(SyntaxError::Statement { place, what })
}

fn comments(text: &mut String, comments: &[String], indent: &str) -> Result<(), SyntaxError> {
    for comment in comments {
        if comment.contains(['\n', '\r']) {
            return wrong(
                "with a comment",
                "a comment has one line; expected a list of lines",
            );
        }
        let line = format!("{indent}# {comment}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(())
}

fn statement_text(
    text: &mut String,
    forms: &[Form],
    statement: &Statement,
    (indent, place): (&str, &str),
) -> Result<(), SyntaxError> {
    let Some(form) = form::of(forms, &statement.statement) else {
        let words: Vec<&str> = forms.iter().map(|form| form.word).collect();
        let what = format!("{:?}: expected {}", statement.statement, words.join(", "));
        return wrong(place, what);
    };
    if let Some(name) = statement
        .fields
        .keys()
        .find(|name| !form.fields().any(|(own, _)| own == *name))
    {
        let fields: Vec<&str> = form.fields().map(|(name, _)| name).collect();
        return wrong(
            place,
            format!("unknown field {name:?}; expected {}", fields.join(", ")),
        );
    }
    comments(text, &statement.comments, indent)?;
    let mut head = form.word.to_owned();
    for field in form.head {
        part(&mut head, *field, statement, place)?;
    }
    let mut clauses = Vec::new();
    for (name, kind) in form.clauses {
        if let Some(value) = statement.fields.get(*name) {
            clauses.push(clause((name, *kind), value, place)?);
        }
    }
    let remark = match &statement.remark {
        Some(remark) => format!("  # {remark}"),
        None => String::new(),
    };
    if form.word == "tier" {
        return tier_text(text, statement, (&head, &clauses), (&remark, place));
    }
    if !statement.rules.is_empty() {
        return wrong(place, "only a tier has rules");
    }
    let line = std::iter::once(head.clone()).chain(clauses.iter().cloned());
    let line = format!("{indent}{}", line.collect::<Vec<_>>().join(" "));
    if line.chars().count() <= COLUMNS || clauses.is_empty() {
        text.push_str(&format!("{line}{remark}\n"));
        return Ok(());
    }
    broken(text, (indent, &head), &clauses, &remark);
    Ok(())
}

/// A head and its clauses on lines of their own; those of a rule in braces.
fn broken(text: &mut String, (indent, head): (&str, &str), clauses: &[String], remark: &str) {
    let braces = !indent.is_empty();
    text.push_str(&format!(
        "{indent}{head}{}\n",
        if braces { " {" } else { "" }
    ));
    let mut line = String::new();
    let mut lines = Vec::new();
    for one in clauses {
        let own = one.contains('"');
        let fits =
            indent.len() + INDENT.len() + line.chars().count() + one.chars().count() < COLUMNS;
        if !line.is_empty() && (own || !fits) {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(one);
        if own {
            lines.push(std::mem::take(&mut line));
        }
    }
    lines.extend((!line.is_empty()).then_some(line));
    let last = lines.len();
    for (index, line) in lines.into_iter().enumerate() {
        let end = if index + 1 == last && !braces {
            remark
        } else {
            ""
        };
        text.push_str(&format!("{indent}{INDENT}{line}{end}\n"));
    }
    if braces {
        text.push_str(&format!("{indent}}}{remark}\n"));
    }
}

fn tier_text(
    text: &mut String,
    tier: &Statement,
    (head, clauses): (&str, &[String]),
    (remark, place): (&str, &str),
) -> Result<(), SyntaxError> {
    let line = std::iter::once(head.to_owned()).chain(clauses.iter().cloned());
    let line = line.collect::<Vec<_>>().join(" ");
    let baseline = tier.fields.get("name") == Some(&Value::Text(BASELINE_NAME.into()));
    let forms: &[Form] = if baseline {
        std::slice::from_ref(&BASELINE)
    } else {
        form::RULES
    };
    if line.chars().count() + 2 <= COLUMNS {
        text.push_str(&line);
    } else {
        text.push_str(head);
        clauses
            .iter()
            .for_each(|clause| text.push_str(&format!("\n{INDENT}{clause}")));
    }
    text.push_str(" {\n");
    for (index, rule) in tier.rules.iter().enumerate() {
        if index > 0 && rule.gap {
            text.push('\n');
        }
        let place = format!("{place}, rule {}", index + 1);
        statement_text(text, forms, rule, (INDENT, &place))?;
    }
    comments(text, &tier.rules_comments, INDENT)?;
    text.push_str(&format!("}}{remark}\n"));
    Ok(())
}

fn part(
    head: &mut String,
    (name, kind): Field,
    statement: &Statement,
    place: &str,
) -> Result<(), SyntaxError> {
    match kind {
        Kind::Mark(mark) => head.push_str(&format!(" {mark}")),
        Kind::Keyword => head.push_str(&format!(" {name}")),
        _ => {
            let Some(value) = statement.fields.get(name) else {
                return wrong(place, format!("field {name:?} is missing"));
            };
            head.push(' ');
            head.push_str(&value_text((name, kind), value, place)?);
        }
    }
    Ok(())
}

fn clause((name, kind): Field, value: &Value, place: &str) -> Result<String, SyntaxError> {
    let text = value_text((name, kind), value, place)?;
    Ok(if text.is_empty() {
        name.to_owned()
    } else {
        format!("{name} {text}")
    })
}

fn value_text((name, kind): Field, value: &Value, place: &str) -> Result<String, SyntaxError> {
    let expected = match (kind, value) {
        (Kind::Flag, Value::Flag(true)) => return Ok(String::new()),
        (Kind::Word | Kind::Raw, Value::Text(text)) if !text.trim().is_empty() => {
            return Ok(text.clone());
        }
        (Kind::Text, Value::Text(text)) if !text.contains(['"', '\n', '\r']) => {
            return Ok(format!("\"{text}\""));
        }
        (Kind::Words, Value::List(list)) if !list.is_empty() => return Ok(list.join(" ")),
        (Kind::List, Value::List(list)) if !list.is_empty() => return Ok(list.join(", ")),
        (Kind::Flag, _) => "true, or no such field",
        (Kind::Text, _) => "a text of one line without quotation marks",
        (Kind::Words | Kind::List, _) => "a list of words",
        _ => "a text",
    };
    wrong(place, format!("field {name:?}: expected {expected}"))
}
