//! `window NAME = DAYS... HOURS...` and `delegate NAME to "KEY" bind ...`.

use super::{Failed, Kind, Noun, Parsed, Parser, short};
use crate::{
    DELEGATIONS_MAX, Delegation, HOST_LABEL, Labels, Selector, Span, WINDOWS_MAX, Window,
    diagnostic::Problem,
};

/// Guests that one delegation may name.
const GUESTS_MAX: u64 = 1_000_000;

impl Parser<'_> {
    /// `window NAME = mon-fri sun 08-18`
    pub(super) fn window(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a window's name")?;
        let fresh = self.define(Noun::Window, &name, span);
        if self.policy.windows.len() >= WINDOWS_MAX {
            let message = format!("there are more than {WINDOWS_MAX} windows");
            self.report(Problem::new("too-many-windows", span, message).expected("one too many"));
            return Err(Failed);
        }
        self.expect(Kind::Equals, "=")?;
        let (mut found, mut any): (Option<Window>, bool) = (None, false);
        while !self.list_ends() {
            any = true;
            if let Some(part) = self.window_part()? {
                found = Some(found.map_or(part, |known| known.with(part)));
            }
            self.eat(Kind::Comma);
        }
        if !any {
            return self.unexpected("days such as mon-fri, or hours such as 08-18");
        }
        if let Some(window) = found.filter(|_| fresh) {
            self.policy.windows.insert(name, window.whole());
        }
        Ok(())
    }

    fn window_part(&mut self) -> Parsed<Option<Window>> {
        let Some(word) = self.word() else {
            return self.unexpected("days such as mon-fri, or hours such as 08-18");
        };
        let span = self.advance().span;
        let hours = word.starts_with(|first: char| first.is_ascii_digit());
        let part = match hours {
            true => Window::hours(word),
            false => Window::days(word),
        };
        if part.is_none() {
            let problem = if hours {
                let message = format!("`{}` are no hours of a day", short(word));
                Problem::new("bad-hours", span, message)
                    .expected("expected the hour of its beginning and that of its end: 08-18")
                    .help("whole hours in UTC; over midnight it is two: 22-24 00-06")
            } else {
                let message = format!("`{}` is not a day of the week", short(word));
                Problem::new("bad-days", span, message)
                    .expected("expected mon, tue, wed, thu, fri, sat, sun or a run such as mon-fri")
            };
            self.report(problem);
        }
        Ok(part)
    }

    /// The name of a window, behind `during`. `None` if it was reported.
    pub(super) fn during(&mut self) -> Parsed<Option<Window>> {
        let (name, span) = self.name("a window's name")?;
        let found = self.policy.windows.get(&name).copied();
        if found.is_none() && !self.defined.contains_key(&(Noun::Window, name.clone())) {
            self.unknown(Noun::Window, &name, span);
        }
        Ok(found)
    }

    /// `delegate NAME to "KEY" bind SELECTOR guests N [prefixes P...] [segments N...]`
    pub(super) fn delegation(&mut self) -> Parsed<()> {
        let start = self.advance().span;
        let (name, span) = self.name("a delegation's name")?;
        let fresh = self.define(Noun::Delegation, &name, span);
        if self.policy.delegations.len() >= DELEGATIONS_MAX {
            let message = format!("there are more than {DELEGATIONS_MAX} delegations");
            let problem = Problem::new("too-many-delegations", span, message);
            self.report(problem.expected("one too many"));
            return Err(Failed);
        }
        self.expect_word("to")?;
        let key = self.quoted("the key's name")?;
        self.expect_word("bind")?;
        let at = self.token.span;
        let selector = self.selector()?;
        let labels = self.label_sets(&selector, at)?;
        self.expect_word("guests")?;
        let guests = self.number("a number of guests", 1..=GUESTS_MAX)?;
        let (mut prefixes, mut segments) = (Vec::new(), Vec::new());
        while let Some(word @ ("prefixes" | "segments")) = self.word() {
            self.advance();
            while !self.list_ends() && !self.at_word("prefixes") && !self.at_word("segments") {
                if word == "prefixes" {
                    prefixes.extend(self.prefix()?);
                } else {
                    let found = self.number("a segment", 0..=u64::from(u32::MAX))?;
                    segments.extend(found.and_then(|found| u32::try_from(found).ok()));
                }
                self.eat(Kind::Comma);
            }
        }
        let line = self.place(start).1;
        let guests_max = guests
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0);
        if fresh {
            self.policy.delegations.push(Delegation {
                name,
                key,
                labels,
                guests_max,
                prefixes,
                segments,
                line,
            });
        }
        Ok(())
    }

    /// `a:x & b:* or a:y`: label sets, `*` for any value.
    fn label_sets(&mut self, selector: &Selector, at: Span) -> Parsed<Vec<Labels>> {
        let sets = match selector {
            Selector::Either(parts) => parts.iter().map(label_set).collect(),
            one => label_set(one).map(|set| vec![set]),
        };
        let Some(sets) = sets else {
            let problem = Problem::new("bad-delegation", at, "this is no list of label sets")
                .expected("expected label:value or label:*, joined by `&`; several joined by `or`")
                .help("write: bind zone:cde & app:* or zone:dmz");
            self.report(problem);
            return Err(Failed);
        };
        if sets.iter().any(|set: &Labels| set.contains_key(HOST_LABEL)) {
            let problem = Problem::new("bad-delegation", at, "hosts can't be delegated")
                .expected("who binds a host's own device binds the management plane");
            self.report(problem);
            return Err(Failed);
        }
        Ok(sets)
    }
}

fn label_set(selector: &Selector) -> Option<Labels> {
    let parts = match selector {
        Selector::All(parts) => parts.as_slice(),
        one => std::slice::from_ref(one),
    };
    let pair = |part: &Selector| match part {
        Selector::Label { name, value } => Some((name.clone(), value.clone())),
        Selector::Has(name) => Some((name.clone(), "*".to_owned())),
        _ => None,
    };
    parts.iter().map(pair).collect()
}
