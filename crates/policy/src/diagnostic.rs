//! What is wrong with a policy text: the place, what was expected, and the next step.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// Lines longer than this are not shown in a rendered diagnostic, only named.
const SHOWN_LINE_BYTES_MAX: usize = 400;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// The line of the first byte, from 1.
    pub line: usize,
}

impl Span {
    /// From the beginning of one place to the end of a later one.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self {
            start: self.start,
            end: other.end.max(self.end),
            line: self.line,
        }
    }
}

/// Whether a policy can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// There is no policy.
    Error,
    /// There is one, and it may not be what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A word for programs, such as `unknown-label`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// The name of the text, as the caller gave it.
    pub file: String,
    /// Where.
    pub span: Span,
    /// The column of the first byte in characters, from 1.
    pub column: usize,
    /// What was expected there.
    pub expected: String,
    /// The next step.
    pub help: Option<String>,
}

/// A diagnostic before it knows its file.
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) code: &'static str,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) expected: String,
    pub(crate) help: Option<String>,
}

impl Problem {
    /// An error at a place.
    pub(crate) fn new(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        let (severity, message) = (Severity::Error, message.into());
        Self {
            severity,
            code,
            span,
            message,
            expected: String::new(),
            help: None,
        }
    }

    /// Only a warning.
    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// What was expected.
    pub(crate) fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = text.into();
        self
    }

    /// The next step.
    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// "did you mean", if a candidate is near; otherwise the text given.
    pub(crate) fn nearest<'a>(
        self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
        otherwise: &str,
    ) -> Self {
        match nearest(word, candidates) {
            Some(found) => self.help(format!("did you mean `{found}`?")),
            None => self.help(otherwise),
        }
    }

    /// Adds the file and the column.
    pub(crate) fn at(self, file: &str, text: &str) -> Diagnostic {
        let Self {
            severity,
            code,
            span,
            message,
            expected,
            help,
        } = self;
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |index| index + 1);
        let column = before[line_start..].chars().count() + 1;
        let (code, file) = (code.to_owned(), file.to_owned());
        Diagnostic {
            severity,
            code,
            message,
            file,
            span,
            column,
            expected,
            help,
        }
    }
}

/// The candidate nearest to a word by edits, if it is near enough to have been meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| (1..=limit).contains(edits))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and exchanges of neighbours between two names.
fn edits(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = row[j] + usize::from(a != b);
            let mut best = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

/// Renders diagnostics for people, with the lines of the text that they speak of. Bytes that are
/// not text are shown as replacement characters, and control characters never reach a terminal.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let rendered: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| render_one(diagnostic, &text))
        .collect();
    rendered.join("\n\n")
}

/// As [`render`], for a policy of several files: each diagnostic is shown in its own.
#[must_use]
pub fn render_parts(diagnostics: &[Diagnostic], parts: &[crate::Part<'_>]) -> String {
    let rendered: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| {
            let part = parts.iter().find(|part| part.name == diagnostic.file);
            let bytes = part.map_or(&[][..], |part| part.bytes);
            render_one(diagnostic, &String::from_utf8_lossy(bytes))
        })
        .collect();
    rendered.join("\n\n")
}

fn render_one(diagnostic: &Diagnostic, text: &str) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level
        .primary_title(diagnostic.message.as_str())
        .id(diagnostic.code.as_str());
    let start = floor(text, diagnostic.span.start);
    let end = floor(text, diagnostic.span.end);
    let line_start = text[..start].rfind('\n').map_or(0, |index| index + 1);
    let line_end = text[start..]
        .find('\n')
        .map_or(text.len(), |index| start + index);
    let line = text[line_start..line_end].trim_end_matches('\r');
    let mut group = if line.len() > SHOWN_LINE_BYTES_MAX {
        let origin = Origin::path(diagnostic.file.as_str())
            .line(diagnostic.span.line)
            .char_column(diagnostic.column);
        Group::with_title(title).element(origin)
    } else {
        let first = (start - line_start).min(line.len());
        let last = end.saturating_sub(line_start).min(line.len()).max(first);
        let mark = AnnotationKind::Primary
            .span(first..last)
            .label(diagnostic.expected.as_str());
        let snippet = Snippet::source(line)
            .line_start(diagnostic.span.line)
            .path(diagnostic.file.as_str())
            .annotation(mark);
        Group::with_title(title).element(snippet)
    };
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    Renderer::plain().render(&[group])
}

/// The nearest character boundary at or before a byte.
fn floor(text: &str, byte: usize) -> usize {
    text.floor_char_boundary(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["https", "pg", "ssh", "dns"];
        let check = |word, expected| assert_eq!(nearest(word, names), expected, "{word}");
        check("htps", Some("https"));
        check("hssh", Some("ssh"));
        check("gp", Some("pg"));
        check("postgres", None);
        check("", None);
    }

    #[test]
    fn a_long_line_is_named_and_not_shown() {
        let text = "x".repeat(SHOWN_LINE_BYTES_MAX + 1);
        let span = Span {
            start: 7,
            end: 8,
            line: 1,
        };
        let diagnostic = Problem::new("code", span, "wrong").at("file", &text);
        let rendered = render(std::slice::from_ref(&diagnostic), text.as_bytes());
        assert_eq!(rendered, "error[code]: wrong\n--> file:1:8");
        let shown = render(&[diagnostic], &text.as_bytes()[1..]);
        assert!(shown.contains("xxx"), "{shown}");
    }
}
