//! A policy of several files: one per owner, read as one text. Places in it are told by file.

use super::{Parser, check, not_text};
use crate::{Diagnostic, PARTS_MAX, Policy, Severity, Span, diagnostic::Problem};
use lictor_types::POLICY_TEXT_BYTES_MAX;

/// One file of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// What the diagnostics call it.
    pub name: &'a str,
    /// Its text.
    pub bytes: &'a [u8],
}

/// Where a part lies in the whole text.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    start: usize,
    /// Lines before it.
    lines: usize,
}

impl Place {
    /// Of a text that has no parts.
    pub(super) fn whole(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            start: 0,
            lines: 0,
        }
    }
}

/// Reads a policy of one file. Every diagnostic of the text is returned, in the order of the text;
/// there is a policy only if none of them is an error. `name` is what they call the text.
#[must_use]
pub fn parse(name: &str, bytes: &[u8]) -> (Option<Policy>, Vec<Diagnostic>) {
    parse_parts(&[Part { name, bytes }])
}

/// Reads a policy of one or several files as one text, in the order given: the header stands in the
/// first, and a name is defined above its use or in a file before. See [`parse`].
#[must_use]
pub fn parse_parts(parts: &[Part<'_>]) -> (Option<Policy>, Vec<Diagnostic>) {
    let found = match refused(parts) {
        Some(diagnostic) => return (None, vec![diagnostic]),
        None => joined(parts),
    };
    let (text, places) = match found {
        Ok(found) => found,
        Err(diagnostics) => return (None, diagnostics),
    };
    let mut parser = Parser::new(&text, places);
    parser.document();
    check::check(&mut parser);
    let Parser {
        mut problems,
        policy,
        places,
        ..
    } = parser;
    problems.sort_by_key(|problem| (problem.span.start, problem.severity));
    let failed = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    let diagnostics = problems
        .into_iter()
        .map(|problem| tell(&places, &text, problem))
        .collect();
    ((!failed).then_some(policy), diagnostics)
}

/// What is refused before it is read.
fn refused(parts: &[Part<'_>]) -> Option<Diagnostic> {
    let start = Span {
        start: 0,
        end: 0,
        line: 1,
    };
    let name = parts.first().map_or("policy", |part| part.name);
    if parts.is_empty() || parts.len() > PARTS_MAX {
        let message = format!(
            "the policy has {} files; expected 1 to {PARTS_MAX}",
            parts.len()
        );
        let problem = Problem::new("too-many-files", start, message);
        return Some(problem.help("merge some of them").at(name, ""));
    }
    let mut found = 0_usize;
    for part in parts {
        found = found.saturating_add(part.bytes.len());
        if found > POLICY_TEXT_BYTES_MAX {
            let message =
                format!("the text has {found} bytes; at most {POLICY_TEXT_BYTES_MAX} fit");
            let problem = Problem::new("text-too-long", start, message).help("split the policy");
            return Some(problem.at(part.name, ""));
        }
    }
    None
}

/// One text of all parts, each on lines of its own.
fn joined(parts: &[Part<'_>]) -> Result<(String, Vec<Place>), Vec<Diagnostic>> {
    let mut text = String::new();
    let mut places = Vec::new();
    let mut lines = 0;
    let mut wrong = Vec::new();
    for part in parts {
        let one = match std::str::from_utf8(part.bytes) {
            Ok(one) => one,
            Err(error) => {
                wrong.push(not_text(part.name, part.bytes, error.valid_up_to()));
                continue;
            }
        };
        places.push(Place {
            name: part.name.to_owned(),
            start: text.len(),
            lines,
        });
        // Only the whole text may begin with a byte order mark.
        let one = match text.is_empty() {
            true => one,
            false => one.strip_prefix('\u{feff}').unwrap_or(one),
        };
        text.push_str(one);
        if parts.len() > 1 {
            text.push('\n');
        }
        lines += text[places.last().map_or(0, |place| place.start)..]
            .matches('\n')
            .count();
    }
    if wrong.is_empty() {
        Ok((text, places))
    } else {
        Err(wrong)
    }
}

fn part_of(places: &[Place], byte: usize) -> usize {
    places
        .partition_point(|place| place.start <= byte)
        .saturating_sub(1)
}

fn tell(places: &[Place], text: &str, mut problem: Problem) -> Diagnostic {
    let index = part_of(places, problem.span.start);
    let place = &places[index];
    let end = places.get(index + 1).map_or(text.len(), |next| next.start);
    problem.span.start -= place.start;
    problem.span.end = problem.span.end.min(end).saturating_sub(place.start);
    problem.span.line -= place.lines;
    problem.at(&place.name, &text[place.start..end])
}

impl Parser<'_> {
    /// The file, if there are several, and the line of a place.
    pub(super) fn place(&self, span: Span) -> (Option<String>, usize) {
        let place = &self.places[part_of(&self.places, span.start)];
        let file = (self.places.len() > 1).then(|| place.name.clone());
        (file, span.line - place.lines)
    }
}
