//! `assert NAME : ...`

use super::{Failed, Kind, Noun, Parsed, Parser};
use crate::{Claim, Exception, HOPS_MAX, Intent, Interpretation, Service};

impl Parser<'_> {
    pub(super) fn intent(&mut self) -> Parsed<()> {
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
        if fresh {
            self.policy.intents.push(Intent { name, claim });
        }
        Ok(())
    }

    fn never_path(&mut self) -> Parsed<Claim> {
        self.advance();
        self.expect_word("path")?;
        self.expect_word("from")?;
        let from = self.selector()?;
        self.expect_word("to")?;
        let to = self.selector()?;
        let (mut service, mut hops, mut failures) = (None, None, None);
        let mut except = Vec::new();
        while let Some(word @ ("service" | "within" | "except" | "under" | "on")) = self.word() {
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
                "except" => {
                    except.push(self.exception()?);
                    false
                }
                "under" => {
                    self.expect_word("failures")?;
                    failures
                        .replace(self.number("a number of hosts", 0..=1_000)?)
                        .is_some()
                }
                // Every path on any host is the only reading there is.
                _ => {
                    self.expect_word("any-host")?;
                    false
                }
            };
            if again {
                self.given_twice(word, span);
            }
        }
        let small = |found: Option<Option<u64>>| {
            found
                .flatten()
                .and_then(|number| u32::try_from(number).ok())
        };
        let (hops, failures) = (small(hops), small(failures));
        Ok(Claim::NeverPath {
            from,
            to,
            service,
            hops,
            except,
            failures,
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
        self.expect_word("controls")?;
        let controls = self.control_names()?;
        Ok(Claim::Controls { guests, controls })
    }
}
