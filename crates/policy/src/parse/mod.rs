//! Recursive descent from text to a resolved policy. It goes on after a mistake at the next rule or
//! statement, so that one run reports everything; names are looked up as they are read, and what
//! needs the whole text is checked at the end.

mod check;
mod computed;
mod declare;
mod delegate;
mod intent;
pub(crate) mod lex;
mod parts;
mod query;
mod selector;
mod service;
mod standing;
mod tier;

use crate::{
    DIAGNOSTICS_MAX, Date, Diagnostic, Log, NAME_BYTES_MAX, Policy, QUOTED_BYTES_MAX, Rule, Span,
    diagnostic::Problem,
};
pub use parts::{Part, parse, parse_parts};

pub(crate) use computed::REACHES;
#[cfg(test)]
pub(crate) use tier::{ACTIONS, CLAUSES};

use lex::{Kind, Lexer, Token};
use lictor_types::Digest;
use standing::Standing;
use std::collections::{BTreeMap, HashMap};

/// The statement was given up; why was already reported.
#[derive(Debug)]
struct Failed;

type Parsed<T> = Result<T, Failed>;

/// Words that begin a statement.
pub(crate) const STATEMENTS: [&str; 14] = [
    "policy", "label", "set", "service", "window", "scope", "isolate", "exclude", "tier",
    "require", "observe", "when", "delegate", "assert",
];

fn not_text(name: &str, bytes: &[u8], start: usize) -> Diagnostic {
    let valid = std::str::from_utf8(&bytes[..start]).unwrap_or_default();
    let line = valid.matches('\n').count() + 1;
    let span = Span {
        start,
        end: start + 1,
        line,
    };
    Problem::new(
        "not-utf8",
        span,
        format!("byte 0x{:02x} is not UTF-8 text", bytes[start]),
    )
    .expected("not text")
    .help("save the file as UTF-8")
    .at(name, valid)
}

/// What kinds of names a text defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Noun {
    Label,
    Set,
    Service,
    Scope,
    Tier,
    Intent,
    Window,
    Isolation,
    Exclusion,
    Delegation,
}

impl Noun {
    const fn word(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Set => "set",
            Self::Service => "service",
            Self::Scope => "scope",
            Self::Tier => "tier",
            Self::Intent => "assert",
            Self::Window => "window",
            Self::Isolation => "isolate",
            Self::Exclusion => "exclude",
            Self::Delegation => "delegate",
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Where each file begins.
    places: Vec<parts::Place>,
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// Where the last consumed token ended.
    previous: Span,
    /// Braces that are open.
    braces: usize,
    problems: Vec<Problem>,
    policy: Policy,
    /// Where each name was defined, also if its definition is broken.
    defined: HashMap<(Noun, String), Span>,
    /// Where names are defined in the whole text; made when a name is first found missing.
    anywhere: Option<HashMap<(&'a str, &'a str), usize>>,
    has_header: bool,
    has_baseline: bool,
    computed: Vec<computed::Wanted>,
    /// Rules of isolations and of exclusions.
    standing: [Vec<Rule>; 2],
    rules: usize,
    prefixes: usize,
    selector_parts: usize,
    selector_parts_total: usize,
    /// What the check at the end needs to point at.
    spots: check::Spots,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, places: Vec<parts::Place>) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        let mut parser = Self {
            text,
            places,
            lexer,
            token,
            previous: Span {
                start: 0,
                end: 0,
                line: 1,
            },
            braces: 0,
            problems: Vec::new(),
            policy: Policy {
                name: String::new(),
                version: 0,
                source: Digest::of(text.as_bytes()),
                labels: BTreeMap::new(),
                sets: BTreeMap::new(),
                services: BTreeMap::new(),
                windows: BTreeMap::new(),
                scopes: BTreeMap::new(),
                tiers: Vec::new(),
                baseline_log: Log::Off,
                controls: Vec::new(),
                choices: Vec::new(),
                observed: Vec::new(),
                delegations: Vec::new(),
                intents: Vec::new(),
            },
            defined: HashMap::new(),
            anywhere: None,
            has_header: false,
            has_baseline: false,
            computed: Vec::new(),
            standing: [Vec::new(), Vec::new()],
            rules: 0,
            prefixes: 0,
            selector_parts: 0,
            selector_parts_total: 0,
            spots: check::Spots::default(),
        };
        parser.settle();
        parser
    }

    fn document(&mut self) {
        if !self.at_word("policy") {
            let problem = Problem::new("no-header", self.token.span, "the policy has no header")
                .expected("expected `policy \"name\" version NUMBER` before everything else")
                .help("begin the file with a line such as: policy \"shop\" version 1");
            self.report(problem);
        }
        while self.token.kind != Kind::End {
            if self.token.kind == Kind::Semicolon {
                self.advance();
            } else if self.statement().is_err() {
                self.recover();
            }
        }
    }

    fn statement(&mut self) -> Parsed<()> {
        let Some(word) = self.word() else {
            return self.no_statement();
        };
        match word {
            "policy" => self.header(),
            "label" => self.label(),
            "set" => self.set(),
            "service" => self.service_definition(),
            "scope" => self.scope(),
            "tier" => self.tier(),
            "require" => self.requirement(),
            "observe" => self.observation(),
            "isolate" => self.standing(Standing::Isolate),
            "exclude" => self.standing(Standing::Exclude),
            "window" => self.window(),
            "delegate" => self.delegation(),
            "when" => self.failure_choice(),
            "assert" => self.intent(),
            _ => self.no_statement(),
        }
    }

    fn no_statement<T>(&mut self) -> Parsed<T> {
        let message = format!("expected a statement, found {}", self.found());
        let otherwise = format!("a statement begins with {}", STATEMENTS.join(", "));
        let problem = Problem::new("syntax", self.token.span, message)
            .expected("not the beginning of a statement")
            .nearest(self.word().unwrap_or(""), STATEMENTS, &otherwise);
        self.report(problem);
        self.advance();
        Err(Failed)
    }

    /// Skips to the next statement. Inside braces `service` is a clause and not a statement.
    fn recover(&mut self) {
        loop {
            match self.token.kind {
                Kind::End => return,
                Kind::Word(word)
                    if self.token.first
                        && STATEMENTS.contains(&word)
                        && (self.braces == 0 || word != "service") =>
                {
                    self.braces = 0;
                    return;
                }
                Kind::Semicolon if self.braces == 0 => return,
                _ => {}
            }
            self.advance();
        }
    }

    /// Reports a problem. When there are too many, one says so and reading ends.
    fn report(&mut self, problem: Problem) {
        if self.problems.len() + 1 < DIAGNOSTICS_MAX {
            self.problems.push(problem);
        } else if self.problems.len() < DIAGNOSTICS_MAX {
            let message = "there are more problems than are shown";
            let problem = Problem::new("too-many-problems", problem.span, message)
                .expected("the rest of the text was not read")
                .help("mend those above and try again");
            self.problems.push(problem);
            self.stop();
        }
    }

    /// How many problems there are: unchanged means that what was read is sound.
    fn marks(&self) -> usize {
        self.problems.len()
    }

    /// Reads nothing more.
    fn stop(&mut self) {
        self.lexer.stop();
        self.token = self.lexer.next();
    }

    /// Consumes the current token.
    fn advance(&mut self) -> Token<'a> {
        let token = self.token;
        match token.kind {
            Kind::Open => self.braces += 1,
            Kind::Close => self.braces = self.braces.saturating_sub(1),
            _ => {}
        }
        self.previous = token.span;
        self.token = self.lexer.next();
        self.settle();
        token
    }

    /// Reports what is not a token at all and goes on behind it.
    fn settle(&mut self) {
        loop {
            let (message, expected, help) = match self.token.kind {
                Kind::Unclosed => (
                    "a text has no end on its line",
                    "begins here",
                    "close it with \"",
                ),
                Kind::Unknown(_) => (
                    "these characters mean nothing here",
                    "expected a word, a mark or a text in quotes",
                    "names are ASCII letters, digits, '-', '_' and '.'; a comment begins with #",
                ),
                _ => return,
            };
            let problem = Problem::new("syntax", self.token.span, message);
            // The lexer goes on before the report: a report may end the reading.
            let first = self.token.first;
            self.token = self.lexer.next();
            self.token.first |= first;
            self.report(problem.expected(expected).help(help));
        }
    }

    fn word(&self) -> Option<&'a str> {
        match self.token.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    fn at_word(&self, word: &str) -> bool {
        self.word() == Some(word)
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn eat(&mut self, kind: Kind<'_>) -> bool {
        let found = self.token.kind == kind;
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, kind: Kind<'_>, text: &str) -> Parsed<()> {
        if self.eat(kind) {
            Ok(())
        } else {
            self.unexpected(&format!("`{text}`"))
        }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.eat_word(word) {
            Ok(())
        } else {
            self.unexpected(&format!("`{word}`"))
        }
    }

    /// The current token is not what it should be.
    fn unexpected<T>(&mut self, expected: &str) -> Parsed<T> {
        let message = format!("expected {expected}, found {}", self.found());
        let problem = Problem::new("syntax", self.token.span, message)
            .expected(format!("expected {expected}"));
        self.report(problem);
        Err(Failed)
    }

    /// The current token, for a message.
    fn found(&self) -> String {
        match self.token.kind {
            Kind::End => "the end of the text".to_owned(),
            Kind::Word(word) => format!("`{}`", short(word)),
            Kind::Text(text) => format!("the text {:?}", short(text)),
            _ => format!(
                "`{}`",
                &self.text[self.token.span.start..self.token.span.end]
            ),
        }
    }

    /// Whether the current token can't continue a list: a mark, or the next statement.
    fn list_ends(&self) -> bool {
        match self.word() {
            Some(word) => self.token.first && STATEMENTS.contains(&word),
            None => true,
        }
    }

    /// A name that is being given.
    fn name(&mut self, what: &str) -> Parsed<(String, Span)> {
        let Some(word) = self.word() else {
            return self.unexpected(what);
        };
        let span = self.advance().span;
        self.check_name(what, word, span);
        Ok((word.to_owned(), span))
    }

    fn check_name(&mut self, what: &str, word: &str, span: Span) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let begins = word
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric);
        let problem = if word.len() > NAME_BYTES_MAX {
            let found = word.len();
            Problem::new(
                "name-too-long",
                span,
                format!("{what} has {found} characters"),
            )
            .expected(format!("at most {NAME_BYTES_MAX} characters"))
            .help("shorten it")
        } else if !begins || !word.bytes().all(plain) {
            let message = format!("`{}` can't be {what}", short(word));
            Problem::new("bad-name", span, message)
                .expected("expected letters, digits, '-', '_' and '.', a letter or digit first")
        } else {
            return;
        };
        self.report(problem);
    }

    /// A text in quotes.
    fn quoted(&mut self, what: &str) -> Parsed<String> {
        let Kind::Text(text) = self.token.kind else {
            return self.unexpected(&format!("{what} in quotes"));
        };
        let span = self.advance().span;
        if text.trim().is_empty() || text.len() > QUOTED_BYTES_MAX {
            let message = format!("{what} has {} bytes", text.len());
            let problem = Problem::new("bad-text", span, message).expected(format!(
                "expected 1 to {QUOTED_BYTES_MAX} bytes, not only blanks"
            ));
            self.report(problem);
        } else if text.chars().any(char::is_control) {
            let message = format!("{what} has a control character");
            self.report(Problem::new("bad-text", span, message).expected("expected plain text"));
        }
        Ok(text.to_owned())
    }

    /// A whole number in a range. `None` if it was reported.
    fn number(&mut self, what: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<Option<u64>> {
        let Some(word) = self.word() else {
            return self.unexpected(what);
        };
        let span = self.advance().span;
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        let number = word
            .parse()
            .ok()
            .filter(|number| digits && range.contains(number));
        if number.is_none() {
            let problem = Problem::new(
                "bad-number",
                span,
                format!("`{}` is not {what}", short(word)),
            )
            .expected(format!(
                "expected a number from {} to {}",
                range.start(),
                range.end()
            ));
            self.report(problem);
        }
        Ok(number)
    }

    /// A date. `None` if it was reported.
    fn date(&mut self) -> Parsed<Option<Date>> {
        let Some(word) = self.word() else {
            return self.unexpected("a date");
        };
        let span = self.advance().span;
        let date: Option<Date> = word.parse().ok();
        if date.is_none() {
            let problem =
                Problem::new("bad-date", span, format!("`{}` is not a date", short(word)))
                    .expected("expected year-month-day such as 2026-12-31");
            self.report(problem);
        }
        Ok(date)
    }

    /// Notes that a name is defined. A second definition is reported.
    fn define(&mut self, noun: Noun, name: &str, span: Span) -> bool {
        let Some(known) = self.defined.insert((noun, name.to_owned()), span) else {
            return true;
        };
        self.defined.insert((noun, name.to_owned()), known);
        let (word, line) = (noun.word(), known.line);
        let message = format!("{word} `{}` is defined twice", short(name));
        let problem = Problem::new("defined-twice", span, message)
            .expected(format!("first defined on line {line}"))
            .help("remove or rename one of them");
        self.report(problem);
        false
    }

    /// A name that nothing above defines: says where it is defined below, or what is like it.
    fn unknown(&mut self, noun: Noun, name: &str, span: Span) {
        let word = noun.word();
        let code = match noun {
            Noun::Label => "unknown-label",
            Noun::Set => "unknown-set",
            Noun::Service => "unknown-service",
            Noun::Window => "unknown-window",
            _ => "unknown-scope",
        };
        let problem = Problem::new(code, span, format!("unknown {word} `{}`", short(name)))
            .expected(format!("no {word} of this name is defined above"));
        let problem = if let Some(line) = self.defined_below(word, name) {
            problem.help(format!(
                "it is defined on line {line}; move that above its use"
            ))
        } else {
            let known = self.defined.keys().filter(|(kind, _)| *kind == noun);
            let otherwise = format!("define it above: {word} {} ...", short(name));
            problem.nearest(name, known.map(|(_, name)| name.as_str()), &otherwise)
        };
        self.report(problem);
    }

    fn defined_below(&mut self, word: &str, name: &str) -> Option<usize> {
        let text = self.text;
        let index = self.anywhere.get_or_insert_with(|| {
            let mut lexer = Lexer::new(text);
            let mut index = HashMap::new();
            let mut window = [lexer.next(), lexer.next(), lexer.next()];
            while window[0].kind != Kind::End {
                // The mark tells the definition of a service from its use in a rule.
                if let [
                    Kind::Word(word),
                    Kind::Word(name),
                    Kind::Equals | Kind::Colon,
                ] = window.map(|token| token.kind)
                {
                    index.entry((word, name)).or_insert(window[1].span.line);
                }
                window = [window[1], window[2], lexer.next()];
            }
            index
        });
        index.get(&(word, name)).copied()
    }
}

/// A text cut to a length that a message bears.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_BYTES_MAX)]
}
