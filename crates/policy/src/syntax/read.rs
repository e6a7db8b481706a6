//! From a sound text to its tree. Errors are short here: the parser is who explains them.

use super::form::{self, BASELINE, BASELINE_NAME, Form, Kind};
use super::{Document, Statement, SyntaxError, Value};
use crate::parse::lex::{Kind as Mark, Lexer, Token};

/// Reads a text.
///
/// # Errors
/// [`SyntaxError::Text`] at the first place that is no statement.
pub fn read(text: &str) -> Result<Document, SyntaxError> {
    let mut reader = Reader::new(text);
    let mut document = Document::default();
    loop {
        while reader.token.kind == Mark::Semicolon {
            reader.advance();
        }
        if reader.token.kind == Mark::End {
            break;
        }
        let found = reader.one(form::STATEMENTS, "a statement")?;
        document.statements.push(found);
        reader.remark(&mut document.statements);
    }
    document.comments = std::mem::take(&mut reader.comments);
    Ok(document)
}

struct Reader<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// Comments between the last token and this one that nobody took yet.
    comments: Vec<String>,
    /// The first of them stands on the line of the last token.
    beside: bool,
    /// An empty line is among what was skipped.
    gap: bool,
    /// Inside a tier words of statements are words of clauses.
    inside: bool,
}

type Found<T> = Result<T, SyntaxError>;

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        let mut reader = Self {
            text,
            lexer,
            token,
            comments: Vec::new(),
            beside: false,
            gap: false,
            inside: false,
        };
        reader.skipped(0, token.span.start);
        // What stands above the first token is beside nothing, and no gap.
        (reader.beside, reader.gap) = (false, false);
        reader
    }

    fn advance(&mut self) -> Token<'a> {
        let token = self.token;
        self.token = self.lexer.next();
        self.skipped(token.span.end, self.token.span.start);
        token
    }

    /// Takes the comments of a stretch without tokens.
    fn skipped(&mut self, from: usize, to: usize) {
        let stretch = &self.text[from..to];
        self.gap |= {
            let mut blank = stretch.split('\n').skip(1);
            let lines = stretch.matches('\n').count();
            lines > 1
                && blank
                    .by_ref()
                    .take(lines - 1)
                    .any(|line| line.trim().is_empty())
        };
        let had = !self.comments.is_empty();
        for (index, line) in stretch.split('\n').enumerate() {
            if let Some(at) = line.find('#') {
                self.beside |= index == 0 && !had;
                self.comments.push(line[at + 1..].trim().to_owned());
            }
        }
    }

    /// Gives the comment beside the last statement to it.
    fn remark(&mut self, statements: &mut [Statement]) {
        if std::mem::take(&mut self.beside)
            && let Some(last) = statements.last_mut()
            && !self.comments.is_empty()
        {
            last.remark = Some(self.comments.remove(0));
        }
    }

    fn error<T>(&self, what: &str) -> Found<T> {
        let line = self.token.span.line;
        let what = format!("expected {what}");
        Err(SyntaxError::Text { line, what })
    }

    fn word(&self) -> Option<&'a str> {
        match self.token.kind {
            Mark::Word(word) => Some(word),
            _ => None,
        }
    }

    fn one(&mut self, forms: &[Form], what: &str) -> Found<Statement> {
        let Some(form) = self.word().and_then(|word| form::of(forms, word)) else {
            return self.error(what);
        };
        self.form(form)
    }

    fn form(&mut self, form: &Form) -> Found<Statement> {
        let mut found = Statement {
            statement: form.word.to_owned(),
            comments: std::mem::take(&mut self.comments),
            gap: std::mem::take(&mut self.gap),
            ..Statement::default()
        };
        self.beside = false;
        self.advance();
        for (name, kind) in form.head {
            self.place(form, (name, *kind), &mut found)?;
        }
        let tier = form.word == "tier";
        let braced = !tier && self.inside && self.token.kind == Mark::Open;
        if braced {
            self.advance();
        }
        while let Some(word) = self.word()
            && let Some(clause) = form.clause(word)
            && (self.inside || tier || !self.next_statement())
        {
            self.advance();
            self.place(form, clause, &mut found)?;
        }
        if braced {
            self.close(&mut found)?;
        } else if tier {
            self.rules(&mut found)?;
        }
        Ok(found)
    }

    fn close(&mut self, found: &mut Statement) -> Found<()> {
        if self.token.kind != Mark::Close {
            return self.error("`}`");
        }
        found.comments.append(&mut self.comments);
        (self.beside, self.gap) = (false, false);
        self.advance();
        Ok(())
    }

    fn rules(&mut self, tier: &mut Statement) -> Found<()> {
        if self.token.kind != Mark::Open {
            return self.error("`{`");
        }
        tier.comments.append(&mut self.comments);
        self.advance();
        (self.inside, self.beside, self.gap) = (true, false, false);
        let baseline = tier.fields.get("name") == Some(&Value::Text(BASELINE_NAME.into()));
        let forms: &[Form] = if baseline {
            std::slice::from_ref(&BASELINE)
        } else {
            form::RULES
        };
        while self.token.kind != Mark::Close {
            if self.token.kind == Mark::Semicolon {
                self.advance();
                continue;
            }
            let rule = self.one(forms, "a rule or `}`")?;
            tier.rules.push(rule);
            self.remark(&mut tier.rules);
        }
        tier.rules_comments.append(&mut self.comments);
        (self.inside, self.beside, self.gap) = (false, false, false);
        self.advance();
        Ok(())
    }

    /// Whether the current word begins the next statement.
    fn next_statement(&self) -> bool {
        self.token.first
            && self
                .word()
                .is_some_and(|word| form::of(form::STATEMENTS, word).is_some())
    }

    fn ends(&self, form: &Form) -> bool {
        match self.token.kind {
            Mark::End | Mark::Open | Mark::Close | Mark::Semicolon => true,
            Mark::Word(word) => {
                let clause = form.clause(word).is_some();
                let rule = self.inside && form::of(form::RULES, word).is_some();
                clause || rule || (!self.inside && self.next_statement())
            }
            _ => false,
        }
    }

    fn place(
        &mut self,
        form: &Form,
        (name, kind): (&str, Kind),
        found: &mut Statement,
    ) -> Found<()> {
        let value = match kind {
            Kind::Mark(mark) => {
                let expected = if mark == ':' {
                    Mark::Colon
                } else {
                    Mark::Equals
                };
                if self.token.kind != expected {
                    return self.error(&format!("`{mark}`"));
                }
                self.take(found);
                return Ok(());
            }
            Kind::Keyword => {
                // The word before prefixes may be left out.
                if self.word() == Some(name) {
                    self.take(found);
                }
                return Ok(());
            }
            Kind::Flag => Value::Flag(true),
            Kind::Word => match self.word() {
                Some(word) => {
                    self.take(found);
                    Value::Text(word.to_owned())
                }
                None => return self.error("a word"),
            },
            Kind::Text => match self.token.kind {
                Mark::Text(text) => {
                    self.take(found);
                    Value::Text(text.to_owned())
                }
                _ => return self.error("a text in quotes"),
            },
            Kind::Words => Value::List(self.words(form, found)),
            Kind::List => Value::List(self.list(form, found)?),
            Kind::Raw => Value::Text(self.raw(form, found)?),
        };
        match (found.fields.get_mut(name), value) {
            (Some(Value::List(known)), Value::List(mut more)) => known.append(&mut more),
            (_, value) => {
                found.fields.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    /// Consumes a token inside of a statement: comments before it move above the statement.
    fn take(&mut self, found: &mut Statement) -> Token<'a> {
        found.comments.append(&mut self.comments);
        (self.beside, self.gap) = (false, false);
        self.advance()
    }

    fn words(&mut self, form: &Form, found: &mut Statement) -> Vec<String> {
        let mut words = Vec::new();
        while !self.ends(form) {
            match self.token.kind {
                Mark::Word(word) => words.push(word.to_owned()),
                Mark::Comma => {}
                _ => break,
            }
            self.take(found);
        }
        words
    }

    /// A list goes on behind a comma, or with a word that has a slash: a service's item.
    fn list(&mut self, form: &Form, found: &mut Statement) -> Found<Vec<String>> {
        let mut words = Vec::new();
        loop {
            let Some(word) = self.word().filter(|_| words.is_empty() || !self.ends(form)) else {
                return self.error("a word");
            };
            words.push(word.to_owned());
            self.take(found);
            if self.token.kind == Mark::Comma {
                self.take(found);
            } else if !self.word().is_some_and(|word| word.contains('/')) {
                return Ok(words);
            }
        }
    }

    /// Tokens as they are written, with one blank between words.
    fn raw(&mut self, form: &Form, found: &mut Statement) -> Found<String> {
        let mut text = String::new();
        let mut tight = true;
        while !self.ends(form) {
            let kind = self.token.kind;
            let closes = matches!(kind, Mark::Right | Mark::Comma);
            if !(tight || closes) {
                text.push(' ');
            }
            tight = kind == Mark::Left;
            let span = self.take(found).span;
            text.push_str(&self.text[span.start..span.end]);
        }
        if text.is_empty() {
            self.error("a selector or a claim")
        } else {
            Ok(text)
        }
    }
}
