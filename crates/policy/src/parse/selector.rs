//! Selectors: `zone:cde & not (tier:web or tier:db)`. Names are looked up and scopes written out.

use super::declare::{is_domain, no_domains};
use super::{Failed, Kind, Noun, Parsed, Parser, short};
use crate::{
    HOST_LABEL, NESTING_MAX, SELECTOR_PARTS_MAX, SELECTOR_PARTS_TOTAL_MAX, Selector, Span,
    diagnostic::Problem,
};
use ipnet::IpNet;
use std::net::IpAddr;

impl<'a> Parser<'a> {
    /// `and-list or and-list ...`. A name that is not known is reported and stands for `any`, so
    /// that the rest of the statement is read too.
    pub(super) fn selector(&mut self) -> Parsed<Selector> {
        self.selector_parts = 0;
        let start = self.token.span;
        let selector = self.either(0)?;
        let (_, depth) = selector.size();
        // A leaf is one level of its own.
        if depth > NESTING_MAX + 1 {
            return self.too_deep(start.to(self.previous));
        }
        Ok(selector)
    }

    fn either(&mut self, depth: usize) -> Parsed<Selector> {
        let mut parts = vec![self.all(depth)?];
        while self.eat_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Selector::Either))
    }

    fn all(&mut self, depth: usize) -> Parsed<Selector> {
        let mut parts = vec![self.unary(depth)?];
        loop {
            if self.at_word("and") {
                let problem = Problem::new("syntax", self.token.span, "`and` is written `&`")
                    .expected("expected `&`")
                    .help("write: zone:cde & tier:db");
                self.report(problem);
                self.advance();
            } else if !self.eat(Kind::And) {
                return Ok(one_or(parts, Selector::All));
            }
            parts.push(self.unary(depth)?);
        }
    }

    fn unary(&mut self, depth: usize) -> Parsed<Selector> {
        if depth > NESTING_MAX {
            return self.too_deep(self.token.span);
        }
        if self.eat_word("not") {
            self.count_parts(1)?;
            return Ok(Selector::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.eat(Kind::Left) {
            let inner = self.either(depth + 1)?;
            self.expect(Kind::Right, ")")?;
            return Ok(inner);
        }
        let Some(word) = self.word() else {
            return self.unexpected("a selector such as zone:cde, scope:cde, set:users or any");
        };
        let span = self.token.span;
        let leaf = self.leaf(word, span)?;
        self.count_parts(leaf.size().0)?;
        Ok(leaf)
    }

    fn leaf(&mut self, word: &'a str, span: Span) -> Parsed<Selector> {
        let plain = match word {
            "any" => Some(Selector::Any),
            "guests" => Some(Selector::Guests),
            "hosts" => Some(Selector::Hosts),
            "outside" => Some(Selector::Outside),
            _ => None,
        };
        if let Some(selector) = plain {
            self.advance();
            return Ok(selector);
        }
        if word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok() {
            self.advance();
            let problem =
                Problem::new("bare-address", span, "an address can't stand in a selector")
                    .expected("expected a set of addresses")
                    .help(format!(
                        "define `set NAME = prefix {word}` and write set:NAME"
                    ));
            self.report(problem);
            return Ok(Selector::Any);
        }
        let key = word.split_once(':').map_or(word, |(key, _)| key);
        let names = ["fqdn", "dns", "domain"].contains(&key) && word != key;
        if is_domain(word) || names && !self.policy.labels.contains_key(key) {
            self.advance();
            self.report(no_domains(span));
            return Ok(Selector::Any);
        }
        let Some((key, value)) = word.split_once(':') else {
            return self.bare(word);
        };
        self.advance();
        match key {
            "scope" => self.scope_named(value, span),
            "set" => self.set_named(value, span),
            HOST_LABEL => {
                self.check_name("a host's name", value, span);
                let (name, value) = (key.to_owned(), value.to_owned());
                Ok(Selector::Label { name, value })
            }
            _ => self.label_valued(key, value, span),
        }
    }

    /// A word without a colon: perhaps the name of something.
    fn bare<T>(&mut self, word: &'a str) -> Parsed<T> {
        let name = |noun| (noun, word.to_owned());
        let help = if self.defined.contains_key(&name(Noun::Scope)) {
            Some(format!("did you mean `scope:{word}`?"))
        } else if self.defined.contains_key(&name(Noun::Set)) {
            Some(format!("did you mean `set:{word}`?"))
        } else {
            let listed = |values: &Vec<String>| values.iter().any(|value| value == word);
            let mut labels = self.policy.labels.iter();
            let found = labels.find(|(_, label)| label.values.as_ref().is_some_and(listed));
            found.map(|(name, _)| format!("did you mean `{name}:{word}`?"))
        };
        let message = format!("expected a selector, found `{}`", short(word));
        let problem = Problem::new("syntax", self.token.span, message)
            .expected(
                "expected label:value, scope:NAME, set:NAME, host:NAME, any, guests, hosts or \
                 outside",
            )
            .help(help.unwrap_or_else(|| "labels are written without blanks: zone:cde".into()));
        self.report(problem);
        Err(Failed)
    }

    fn scope_named(&mut self, name: &str, span: Span) -> Parsed<Selector> {
        if let Some(scope) = self.policy.scopes.get(name) {
            // The size is checked before the copy is made: scopes of scopes grow fast.
            let (parts, _) = scope.selector.size();
            let selector =
                (self.selector_parts + parts <= SELECTOR_PARTS_MAX).then(|| scope.selector.clone());
            return match selector {
                Some(selector) => Ok(selector),
                None => self.too_large(span),
            };
        }
        if !self.defined.contains_key(&(Noun::Scope, name.to_owned())) {
            self.unknown(Noun::Scope, name, span);
        }
        Ok(Selector::Any)
    }

    fn set_named(&mut self, name: &str, span: Span) -> Parsed<Selector> {
        if !self.defined.contains_key(&(Noun::Set, name.to_owned())) {
            self.unknown(Noun::Set, name, span);
        }
        Ok(Selector::Set(name.to_owned()))
    }

    fn label_valued(&mut self, name: &str, value: &str, span: Span) -> Parsed<Selector> {
        let Some(label) = self.policy.labels.get(name) else {
            self.unknown(Noun::Label, name, span);
            return Ok(Selector::Any);
        };
        if value == "*" {
            return Ok(Selector::Has(name.to_owned()));
        }
        if let Some(values) = &label.values
            && !values.iter().any(|known| known == value)
        {
            let listed = values.join(", ");
            let message = format!("label `{name}` has no value `{}`", short(value));
            let problem = Problem::new("unknown-value", span, message)
                .expected(format!("expected one of {}", short(&listed)))
                .nearest(
                    value,
                    values.iter().map(String::as_str),
                    "add the value to the label's list, or use one of those",
                );
            self.report(problem);
            return Ok(Selector::Any);
        }
        self.check_name("a label's value", value, span);
        Ok(Selector::Label {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    fn count_parts(&mut self, parts: usize) -> Parsed<()> {
        self.selector_parts += parts;
        self.selector_parts_total += parts;
        if self.selector_parts > SELECTOR_PARTS_MAX {
            return self.too_large(self.previous);
        }
        if self.selector_parts_total > SELECTOR_PARTS_TOTAL_MAX {
            let message =
                format!("all selectors together have more than {SELECTOR_PARTS_TOTAL_MAX} parts");
            let problem = Problem::new("selectors-too-large", self.previous, message)
                .expected("one too many; the rest of the text was not read")
                .help("give guests one label that says what this expression says");
            self.report(problem);
            self.stop();
            return Err(Failed);
        }
        Ok(())
    }

    fn too_large<T>(&mut self, span: Span) -> Parsed<T> {
        let message = format!("the selector has more than {SELECTOR_PARTS_MAX} parts");
        let problem = Problem::new("selector-too-large", span, message)
            .expected("one too many, with the scopes it names written out")
            .help("give guests one label that says what this expression says");
        self.report(problem);
        Err(Failed)
    }

    /// Reading stops: what nests so deep is not a slip, and the rest would only repeat the report.
    fn too_deep<T>(&mut self, span: Span) -> Parsed<T> {
        let message = format!("the selector nests deeper than {NESTING_MAX} levels");
        let problem = Problem::new("nests-too-deep", span, message)
            .expected("one too deep; the rest of the text was not read")
            .help("name a part of it with `scope`, or give guests a label for it");
        self.report(problem);
        self.stop();
        Err(Failed)
    }
}

fn one_or(mut parts: Vec<Selector>, many: fn(Vec<Selector>) -> Selector) -> Selector {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            many(parts)
        }
        None => many(parts),
    }
}
