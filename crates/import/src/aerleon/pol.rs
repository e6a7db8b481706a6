//! The text form of a policy: `header { .. }` begins a filter, `term NAME { field:: words }`
//! follow. Line breaks mean nothing but the end of a comment.

use super::{DEPTH_MAX, Fields, Filter, base};
use crate::draft::Draft;
use crate::value::{file, text};
use crate::{Effect, ImportError, Source};
use std::collections::BTreeMap;

/// Words and signs of a policy with all that it includes.
const TOKENS_MAX: usize = 4_000_000;

/// A platform with its options, in a header.
const TARGET: &str = "target";

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    /// `field::`
    Field(String),
    Word(String),
}

/// Reads a policy's filters.
pub(super) fn read(
    draft: &mut Draft,
    source: &Source,
    includes: &BTreeMap<&str, &Source>,
    filters: &mut Vec<Filter>,
) -> Result<(), ImportError> {
    let mut tokens = Vec::new();
    lex(draft, source, (includes, 0), &mut tokens)?;
    let mut reader = Reader {
        source,
        filters,
        count: 0,
        header: false,
        open: None,
        field: String::new(),
    };
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) if reader.open.is_none() && !reader.header => {
                let name = match tokens.next_if(|next| matches!(next, Token::Word(_))) {
                    Some(Token::Word(name)) => name,
                    _ => String::new(),
                };
                if tokens.next() != Some(Token::Open) {
                    return Err(reader.wrong(&format!("{word} {name}")));
                }
                reader.begin(&word, name)?;
            }
            other => reader.inside(other)?,
        }
    }
    match reader.open.is_some() || reader.header {
        true => Err(reader.wrong("the end of the file")),
        false => Ok(()),
    }
}

struct Reader<'a> {
    source: &'a Source,
    filters: &'a mut Vec<Filter>,
    count: usize,
    header: bool,
    open: Option<(String, Fields)>,
    field: String,
}

impl Reader<'_> {
    fn wrong(&self, found: &str) -> ImportError {
        let what = format!(
            "{:?} after {} filters; expected `header {{ .. }}`, `term NAME {{ .. }}` and `field:: \
             words` inside of them",
            found.trim(),
            self.count
        );
        file(self.source, what)
    }

    fn begin(&mut self, word: &str, name: String) -> Result<(), ImportError> {
        match word {
            "header" => {
                self.header = true;
                self.count += 1;
                let place = format!("{}: filter {}", self.source.path, self.count);
                self.filters.push(Filter {
                    place,
                    ..Filter::default()
                });
            }
            "term" if self.count > 0 => self.open = Some((name, Fields::new())),
            other => return Err(self.wrong(other)),
        }
        self.field.clear();
        Ok(())
    }

    fn inside(&mut self, token: Token) -> Result<(), ImportError> {
        match token {
            Token::Close if self.header => self.header = false,
            Token::Close => match (self.open.take(), self.filters.last_mut()) {
                (Some(done), Some(filter)) => filter.terms.push(done),
                _ => return Err(self.wrong("}")),
            },
            Token::Open => return Err(self.wrong("{")),
            Token::Field(name) => {
                if let Some((_, fields)) = &mut self.open {
                    fields.entry(name.clone()).or_default();
                } else if name == TARGET
                    && let Some(filter) = self.filters.last_mut()
                {
                    filter.targets.push(Vec::new());
                }
                self.field = name;
            }
            Token::Word(word) => {
                if let Some((_, fields)) = &mut self.open {
                    fields.entry(self.field.clone()).or_default().push(word);
                } else if self.field == TARGET
                    && let Some(filter) = self.filters.last_mut()
                    && let Some(target) = filter.targets.last_mut()
                {
                    target.push(word);
                }
            }
        }
        Ok(())
    }
}

/// The tokens of a file with those of the files that it includes.
fn lex(
    draft: &mut Draft,
    source: &Source,
    (includes, depth): (&BTreeMap<&str, &Source>, usize),
    tokens: &mut Vec<Token>,
) -> Result<(), ImportError> {
    let mut quoted: Option<String> = None;
    for line in text(source)?.lines() {
        if quoted.is_none()
            && let Some(name) = line.trim().strip_prefix("#include")
        {
            let name = name.trim().trim_matches(['\'', '"']);
            match includes.get(base(name)).filter(|_| depth < DEPTH_MAX) {
                Some(inner) => lex(draft, inner, (includes, depth + 1), tokens)?,
                None => {
                    let what = format!(
                        "the included file {name} is not among the files, or they include each \
                         other; left out"
                    );
                    draft.note(Effect::Opens, &source.path, what);
                }
            }
            continue;
        }
        words(line, &mut quoted, tokens);
        if tokens.len() > TOKENS_MAX {
            let what = format!("more than {TOKENS_MAX} words; import a part of the policy");
            return Err(file(source, what));
        }
    }
    Ok(())
}

/// The words of a line. A text in quotes may go on over the end of a line.
fn words(line: &str, quoted: &mut Option<String>, tokens: &mut Vec<Token>) {
    let mut word = String::new();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (&mut *quoted, c) {
            (Some(text), '\\') if rest.peek() == Some(&'"') => {
                text.push('"');
                rest.next();
            }
            (Some(_), '"') => tokens.extend(quoted.take().map(Token::Word)),
            (Some(text), c) => text.push(c),
            (None, '"') => {
                end(&mut word, tokens);
                *quoted = Some(String::new());
            }
            (None, '#') => break,
            (None, '{' | '}') => {
                end(&mut word, tokens);
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            (None, ':') if rest.peek() == Some(&':') && !word.contains(':') => {
                rest.next();
                tokens.push(Token::Field(std::mem::take(&mut word)));
            }
            // Lists may stand in brackets, with commas.
            (None, c) if c.is_whitespace() || "[](),".contains(c) => end(&mut word, tokens),
            (None, c) => word.push(c),
        }
    }
    end(&mut word, tokens);
    if let Some(text) = quoted {
        text.push(' ');
    }
}

fn end(word: &mut String, tokens: &mut Vec<Token>) {
    if !word.is_empty() {
        tokens.push(Token::Word(std::mem::take(word)));
    }
}
