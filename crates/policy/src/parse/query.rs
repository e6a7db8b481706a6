//! A selector outside of every policy text: what a person asks about a policy that was read.

use super::{Kind, Noun, Parser, parts};
use crate::{Diagnostic, Policy, QUERY_BYTES_MAX, Selector, Span, diagnostic::Problem};

impl Policy {
    /// Reads a selector in the words of this policy: its labels, sets and scopes. `name` is what
    /// the diagnostics call the text.
    ///
    /// # Errors
    /// Every diagnostic.
    pub fn selector(&self, name: &str, text: &str) -> Result<Selector, Vec<Diagnostic>> {
        let start = Span {
            start: 0,
            end: 0,
            line: 1,
        };
        if text.len() > QUERY_BYTES_MAX {
            let found = text.len();
            let message = format!("the selector has {found} bytes; at most {QUERY_BYTES_MAX} fit");
            let problem = Problem::new("text-too-long", start, message);
            let problem = problem.help("name it with `scope` in the policy");
            return Err(vec![problem.at(name, "")]);
        }
        let mut parser = Parser::new(text, vec![parts::Place::whole(name)]);
        parser.policy.labels.clone_from(&self.labels);
        parser.policy.sets.clone_from(&self.sets);
        parser.policy.scopes.clone_from(&self.scopes);
        let sets = self.sets.keys().map(|name| (Noun::Set, name.clone()));
        let scopes = self.scopes.keys().map(|name| (Noun::Scope, name.clone()));
        parser.defined = sets.chain(scopes).map(|noun| (noun, start)).collect();
        let selector = parser.selector();
        if selector.is_ok() && parser.token.kind != Kind::End {
            let message = format!("expected the end of the selector, found {}", parser.found());
            let problem = Problem::new("syntax", parser.token.span, message);
            parser.report(problem.expected("join selectors with `&` or `or`"));
        }
        match selector {
            Ok(selector) if parser.problems.is_empty() => Ok(selector),
            _ => {
                let problems = parser.problems.into_iter();
                Err(problems.map(|one| one.at(name, text)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{QUERY_BYTES_MAX, parse, render};

    const POLICY: &str = "policy \"p\" version 1
label zone : one-of cde corp
set users = 10.0.0.0/8
scope cde = zone:cde or set:users
";

    fn check(text: &str, expected: Result<&str, &str>) {
        let (policy, _) = parse("p", POLICY.as_bytes());
        let found = policy.expect("sound").selector("--to", text);
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected),
            (Err(found), Err(expected)) => {
                let text = render(&found, text.as_bytes());
                assert!(text.contains(expected), "no {expected:?} in {text}");
            }
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_selector_is_read_in_the_words_of_the_policy() {
        check("zone:cde", Ok("zone:cde"));
        check(
            "scope:cde & not zone:corp",
            Ok("(zone:cde or set:users) & not zone:corp"),
        );
        check("set:users or host:h1", Ok("set:users or host:h1"));
    }

    #[test]
    fn what_is_no_selector_of_the_policy_is_refused_with_what_was_expected() {
        check("zone:moon", Err("expected one of cde, corp"));
        check("set:nobody", Err("unknown set `nobody`"));
        check("zone:cde zone:corp", Err("join selectors"));
        check(
            "zone:cde tier t allow-only { allow a from any",
            Err("join selectors"),
        );
        check("", Err("expected"));
        check("(zone:cde", Err("expected"));
        check(&" ".repeat(QUERY_BYTES_MAX + 1), Err("at most 65536 fit"));
    }
}
