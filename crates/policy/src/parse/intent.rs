//! `assert NAME : ...`

use super::{Failed, Kind, Noun, Parsed, Parser};
use crate::{Claim, Exception, FAILURES_MAX, HOPS_MAX, Intent, Interpretation, Service};

impl Parser<'_> {
    pub(super) fn intent(&mut self) -> Parsed<()> {
        let (file, line) = self.place(self.token.span);
        self.advance();
        let (name, span) = self.name("an intent's name")?;
        let fresh = self.define(Noun::Intent, &name, span);
        self.expect(Kind::Colon, ":")?;
        let claim = match self.word() {
            Some("never") => self.never_path()?,
            Some("always") => self.always_path()?,
            Some("only") => self.only()?,
            Some("host") => self.apart()?,
            _ => self.needed_controls()?,
        };
        let (any_host, failures) = self.quantifier()?;
        if fresh {
            self.policy.intents.push(Intent {
                name,
                claim,
                any_host,
                failures,
                file,
                line,
            });
        }
        Ok(())
    }

    /// `on any-host`, `under failures K`, in any order.
    fn quantifier(&mut self) -> Parsed<(bool, u32)> {
        let (mut any_host, mut failures) = (false, None);
        while let Some(word @ ("on" | "under")) = self.word() {
            let span = self.advance().span;
            let again = if word == "on" {
                self.expect_word("any-host")?;
                std::mem::replace(&mut any_host, true)
            } else {
                self.expect_word("failures")?;
                let found = self.number("a number of hosts", 0..=FAILURES_MAX)?;
                failures.replace(found.unwrap_or(0)).is_some()
            };
            if again {
                self.given_twice(word, span);
            }
        }
        let failures = failures.and_then(|count| u32::try_from(count).ok());
        Ok((any_host, failures.unwrap_or(0)))
    }

    fn never_path(&mut self) -> Parsed<Claim> {
        self.advance();
        self.expect_word("path")?;
        self.expect_word("from")?;
        let from = self.selector()?;
        self.expect_word("to")?;
        let to = self.selector()?;
        let (mut service, mut hops) = (None, None);
        let mut except = Vec::new();
        while let Some(word @ ("service" | "within" | "except")) = self.word() {
            // On a line of its own `service NAME = ...` is the next statement.
            if word == "service" && self.token.first {
                break;
            }
            let span = self.advance().span;
            let again = match word {
                "service" => service.replace(self.service()?).is_some(),
                "within" => {
                    let found = self.number("a number of hops", 1..=u64::from(HOPS_MAX))?;
                    self.expect_word("hops")?;
                    hops.replace(found).is_some()
                }
                _ => {
                    except.push(self.exception()?);
                    false
                }
            };
            if again {
                self.given_twice(word, span);
            }
        }
        let hops = hops
            .flatten()
            .and_then(|number: u64| u32::try_from(number).ok());
        Ok(Claim::NeverPath {
            from,
            to,
            service,
            hops,
            except,
        })
    }

    fn exception(&mut self) -> Parsed<Exception> {
        let via = self.eat_word("via");
        if !via {
            self.eat_word("to");
        }
        let ends = self.selector()?;
        let service = if self.at_word("service") && !self.token.first {
            Some(self.service_clause()?)
        } else {
            None
        };
        Ok(Exception { via, ends, service })
    }

    fn service_clause(&mut self) -> Parsed<Service> {
        self.expect_word("service")?;
        self.service()
    }

    fn always_path(&mut self) -> Parsed<Claim> {
        self.advance();
        self.expect_word("path")?;
        self.expect_word("from")?;
        let from = self.selector()?;
        self.expect_word("to")?;
        let to = self.selector()?;
        let service = self.service_clause()?;
        Ok(Claim::AlwaysPath { from, to, service })
    }

    fn only(&mut self) -> Parsed<Claim> {
        self.advance();
        let from = self.selector()?;
        self.expect_word("reaches")?;
        let to = self.selector()?;
        let service = self.service_clause()?;
        Ok(Claim::Only { from, to, service })
    }

    fn apart(&mut self) -> Parsed<Claim> {
        self.advance();
        self.expect_word("never")?;
        self.expect_word("runs")?;
        self.expect(Kind::Left, "(")?;
        let one = self.selector()?;
        self.expect_word("with")?;
        let other = self.selector()?;
        self.expect(Kind::Right, ")")?;
        self.expect_word("interpretation")?;
        let names = Interpretation::ALL.map(Interpretation::name);
        let word = self.listed("interpretation", &names)?;
        let found = Interpretation::ALL
            .into_iter()
            .find(|item| Some(item.name()) == word.as_deref());
        let interpretation = found.ok_or(Failed)?;
        Ok(Claim::Apart {
            one,
            other,
            interpretation,
        })
    }

    fn needed_controls(&mut self) -> Parsed<Claim> {
        let guests = self.selector()?;
        self.expect_word("requires")?;
        // "host control", "controls": whose they are is plain either way.
        self.eat_word("host");
        if !self.eat_word("control") {
            self.expect_word("controls")?;
        }
        let controls = self.control_names()?;
        Ok(Claim::Controls { guests, controls })
    }
}
