//! Statements that define names, and those that ask for controls and choices.

use super::{
    Failed, Kind, Noun, Parsed, Parser,
    check::{ChoiceSpot, Ends},
    computed::{REACHES, Wanted},
    short,
};
use crate::{
    Cause, Choice, Computed, ControlName, ControlRequirement, Date, FailureChoice, HOST_LABEL,
    LABELS_MAX, Label, OBSERVATIONS_MAX, Observation, PREFIXES_MAX, Scope, Selector, Span,
    diagnostic::Problem,
};
use ipnet::IpNet;
use std::net::IpAddr;

/// Names that mean something else in a selector.
const RESERVED: [&str; 9] = [
    "scope", "set", HOST_LABEL, "any", "guests", "hosts", "outside", "not", "or",
];

/// Controls that the documentation names: a near miss of one of them is a slip.
const CONTROLS: [&str; 6] = ["firewall", "ids", "monitor", "time", "flowlog", "backup"];

/// Who answers for something, why, and until when.
#[derive(Default)]
pub(super) struct Answerable {
    pub(super) owner: Option<String>,
    pub(super) justification: Option<String>,
    pub(super) expires: Option<Date>,
}

impl Parser<'_> {
    /// `policy "name" version NUMBER`
    pub(super) fn header(&mut self) -> Parsed<()> {
        let span = self.advance().span;
        if self.has_header {
            let problem = Problem::new("defined-twice", span, "the policy has two headers")
                .expected("a policy has one header, in its first file")
                .help("remove this line");
            self.report(problem);
        }
        self.has_header = true;
        let at = self.token.span;
        let name = self.quoted("the policy's name")?;
        self.check_name("a policy's name", &name, at);
        self.expect_word("version")?;
        let version = self.number("a version", 1..=u64::MAX)?;
        (self.policy.name, self.policy.version) = (name, version.unwrap_or(0));
        Ok(())
    }

    /// `label NAME : string | one-of VALUE... [required] [exclusive]`
    pub(super) fn label(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a label's name")?;
        if RESERVED.contains(&name.as_str()) {
            let message = format!("`{name}` can't be a label: it has a meaning of its own");
            self.report(
                Problem::new("reserved-name", span, message).expected("choose another name"),
            );
        }
        let fresh = self.define(Noun::Label, &name, span);
        if self.policy.labels.len() >= LABELS_MAX {
            let message = format!("there are more than {LABELS_MAX} labels");
            self.report(Problem::new("too-many-labels", span, message).expected("one too many"));
            return Err(Failed);
        }
        // A placeholder, so that a broken definition is not reported again at every use.
        let any = Label {
            values: None,
            required: false,
            exclusive: false,
        };
        if fresh {
            self.policy.labels.insert(name.clone(), any.clone());
        }
        self.expect(Kind::Colon, ":")?;
        let values = match self.word() {
            Some("string") => {
                self.advance();
                None
            }
            Some("one-of") => {
                self.advance();
                Some(self.label_values()?)
            }
            _ => return self.unexpected("`string` or `one-of`"),
        };
        let mut label = Label { values, ..any };
        loop {
            match self.word() {
                Some("required") => label.required = true,
                Some("exclusive") => label.exclusive = true,
                _ => break,
            }
            self.advance();
        }
        if fresh {
            self.policy.labels.insert(name, label);
        }
        Ok(())
    }

    fn label_values(&mut self) -> Parsed<Vec<String>> {
        let mut values: Vec<String> = Vec::new();
        while !self.list_ends() && !self.at_word("required") && !self.at_word("exclusive") {
            let (value, span) = self.name("a label's value")?;
            if values.contains(&value) {
                let message = format!("value `{}` is listed twice", short(&value));
                self.report(Problem::new("defined-twice", span, message).expected("remove it"));
            } else {
                values.push(value);
            }
            self.eat(Kind::Comma);
        }
        if values.is_empty() {
            self.unexpected("the values that the label may have")
        } else {
            Ok(values)
        }
    }

    /// `set NAME = [prefix] PREFIX...`
    pub(super) fn set(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a set's name")?;
        let fresh = self.define(Noun::Set, &name, span);
        self.expect(Kind::Equals, "=")?;
        self.eat_word("prefix");
        let mut prefixes = Vec::new();
        let mut any = false;
        while !self.list_ends() {
            any = true;
            prefixes.extend(self.prefix()?);
            self.eat(Kind::Comma);
        }
        if !any {
            return self.unexpected("a prefix such as 203.0.113.16/28 or 2001:db8::/32");
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        if fresh {
            self.policy.sets.insert(name, prefixes);
        }
        Ok(())
    }

    /// `None` if it was reported.
    pub(super) fn prefix(&mut self) -> Parsed<Option<IpNet>> {
        let Some(word) = self.word() else {
            return self.unexpected("a prefix");
        };
        let span = self.advance().span;
        self.prefixes += 1;
        if self.prefixes > PREFIXES_MAX {
            let message = format!("there are more than {PREFIXES_MAX} prefixes");
            self.report(Problem::new("too-many-prefixes", span, message).expected("one too many"));
            self.stop();
            return Err(Failed);
        }
        let parsed = word
            .parse::<IpNet>()
            .or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
        let problem = match parsed {
            Err(_) if word == "fqdn" || is_domain(word) => no_domains(span),
            Err(_) => Problem::new(
                "bad-prefix",
                span,
                format!("`{}` is not a prefix", short(word)),
            )
            .expected("expected an address and a length, such as 203.0.113.16/28"),
            Ok(net) if net.addr() != net.network() => {
                let (whole, single) = (net.trunc(), IpNet::from(net.addr()));
                Problem::new("host-bits", span, format!("prefix {net} has host bits set"))
                    .expected("this address is inside the prefix, not its beginning")
                    .help(format!(
                        "write {whole} for the whole prefix, {single} for the address"
                    ))
            }
            Ok(IpNet::V6(net))
                if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some() =>
            {
                Problem::new(
                    "bad-prefix",
                    span,
                    format!("prefix {net} maps IPv4 into IPv6"),
                )
                .expected("no packet has such an address")
                .help("write the IPv4 prefix")
            }
            Ok(net) => return Ok(Some(net)),
        };
        self.report(problem);
        Ok(None)
    }

    /// `scope NAME = SELECTOR [sensitive]`
    pub(super) fn scope(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.name("a scope's name")?;
        self.expect(Kind::Equals, "=").inspect_err(|_| {
            self.defined
                .entry((Noun::Scope, name.clone()))
                .or_insert(span);
        })?;
        if self.eat_word("computed") {
            return self.computed_scope(name, span);
        }
        let selector = self.selector();
        // Defined only now: a scope can't name itself, so scopes can't form circles.
        let fresh = self.define(Noun::Scope, &name, span);
        let selector = selector?;
        let sensitive = self.eat_word("sensitive");
        if !sensitive && name == "cde" {
            let problem =
                Problem::new("not-sensitive", span, "scope `cde` is not marked sensitive")
                    .warning()
                    .expected("its rules need no owner, justification or expiry")
                    .help("end the line with the word: sensitive");
            self.report(problem);
        }
        if fresh {
            self.policy.scopes.insert(
                name,
                Scope {
                    selector,
                    sensitive,
                    computed: None,
                },
            );
        }
        Ok(())
    }

    /// `scope NAME = computed one-hop SCOPE [sensitive]`
    fn computed_scope(&mut self, name: String, span: Span) -> Parsed<()> {
        let reach = self.listed("reach", &REACHES.map(|(name, _)| name))?;
        let (of, at) = self.name("a scope's name")?;
        let fresh = self.define(Noun::Scope, &name, span);
        let base = match self.policy.scopes.get(&of) {
            Some(scope) if scope.computed.is_none() => scope.selector.clone(),
            Some(_) => {
                let message = format!("scope `{}` is computed itself", short(&of));
                let problem = Problem::new("computed-of-computed", at, message);
                self.report(problem.expected("expected a scope that is a selector"));
                return Ok(());
            }
            None => {
                self.unknown(Noun::Scope, &of, at);
                return Ok(());
            }
        };
        let sensitive = self.eat_word("sensitive");
        let found = REACHES
            .iter()
            .find(|(known, _)| Some(*known) == reach.as_deref());
        let Some((_, hops)) = found.filter(|_| fresh) else {
            return Ok(());
        };
        let how = Computed { of, hops: *hops };
        let scope = Scope {
            selector: Selector::Computed(name.clone()),
            sensitive,
            computed: Some(how.clone()),
        };
        self.policy.scopes.insert(name.clone(), scope);
        self.computed.push(Wanted {
            name,
            span,
            base,
            how,
        });
        Ok(())
    }

    /// `require SELECTOR controls NAME...`
    pub(super) fn requirement(&mut self) -> Parsed<()> {
        self.advance();
        let guests = self.selector()?;
        self.expect_word("controls")?;
        let controls = self.control_names()?;
        self.policy
            .controls
            .push(ControlRequirement { guests, controls });
        Ok(())
    }

    pub(super) fn control_names(&mut self) -> Parsed<Vec<ControlName>> {
        let mut names = Vec::new();
        // What an intent is quantified over follows without a mark.
        while !self.list_ends() && !self.at_word("on") && !self.at_word("under") {
            let (name, span) = self.name("a control's name")?;
            if let Some(near) = crate::diagnostic::nearest(&name, CONTROLS)
                && !CONTROLS.contains(&name.as_str())
            {
                let message = format!("control `{}` is not a usual one", short(&name));
                let problem = Problem::new("unusual-control", span, message)
                    .warning()
                    .expected("a host without it refuses the guest")
                    .help(format!("did you mean `{near}`?"));
                self.report(problem);
            }
            names.push(ControlName(name));
            self.eat(Kind::Comma);
        }
        if names.is_empty() {
            return self.unexpected("the names of controls, such as firewall");
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// `when CAUSE for SELECTOR choose CHOICE [owner ".."] [justification ".."] [expires DATE]`
    pub(super) fn failure_choice(&mut self) -> Parsed<()> {
        let start = self.advance().span;
        let before = self.marks();
        let causes: Vec<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        let cause: Option<Cause> = self
            .listed("cause", &causes)?
            .and_then(|name| name.parse().ok());
        self.expect_word("for")?;
        let guests = self.selector()?;
        self.expect_word("choose")?;
        let admitted = cause.map_or(Choice::ALL, Cause::choices);
        let choices: Vec<&str> = admitted.iter().map(|choice| choice.name()).collect();
        let chosen = self.token.span;
        let choice: Option<Choice> = self
            .listed("choice", &choices)?
            .and_then(|name| name.parse().ok());
        let Answerable {
            owner,
            justification,
            expires,
        } = self.answerable()?;
        if owner.is_none() {
            self.no_owner("this choice", start.to(chosen));
        }
        let (Some(cause), Some(choice), Some(owner)) = (cause, choice, owner) else {
            return Ok(());
        };
        let sound = self.marks() == before;
        self.spots.choices.push(ChoiceSpot { chosen, sound });
        let line = self.place(start).1;
        let row = FailureChoice {
            cause,
            guests,
            choice,
            owner,
            justification,
            expires,
            line,
        };
        self.policy.choices.push(row);
        Ok(())
    }

    /// `observe SELECTOR owner ".." [justification ".."] [expires DATE]`
    pub(super) fn observation(&mut self) -> Parsed<()> {
        let start = self.advance().span;
        let (guests, ends) = self.ends()?;
        let Answerable {
            owner,
            justification,
            expires,
        } = self.answerable()?;
        if self.policy.observed.len() >= OBSERVATIONS_MAX {
            let message = format!("there are more than {OBSERVATIONS_MAX} of these statements");
            let problem = Problem::new("too-many-observations", start, message);
            self.report(
                problem
                    .expected("one too many")
                    .help("merge their selectors"),
            );
            return Err(Failed);
        }
        let Some(owner) = owner else {
            self.no_owner("this statement", start.to(ends.span));
            return Ok(());
        };
        self.spots.observed.push(ends);
        self.policy.observed.push(Observation {
            guests,
            owner,
            justification,
            expires,
            line: self.place(start).1,
        });
        Ok(())
    }

    /// Owner, justification and last day, in any order.
    pub(super) fn answerable(&mut self) -> Parsed<Answerable> {
        let mut found = Answerable::default();
        while let Some(word @ ("owner" | "justification" | "expires")) = self.word() {
            let span = self.advance().span;
            let again = match word {
                "owner" => found.owner.replace(self.quoted("the owner")?).is_some(),
                "justification" => found
                    .justification
                    .replace(self.quoted("the justification")?)
                    .is_some(),
                _ => self
                    .date()?
                    .and_then(|date| found.expires.replace(date))
                    .is_some(),
            };
            if again {
                self.given_twice(word, span);
            }
        }
        Ok(found)
    }

    fn no_owner(&mut self, what: &str, span: Span) {
        let problem = Problem::new("no-owner", span, format!("{what} has no owner"))
            .expected("somebody must answer for it")
            .help("add: owner \"team@example\"");
        self.report(problem);
    }

    /// A word of a closed list. `None` if it was reported.
    pub(super) fn listed(&mut self, what: &str, list: &[&str]) -> Parsed<Option<String>> {
        let Some(word) = self.word() else {
            return self.unexpected(&format!("a {what}: {}", list.join(", ")));
        };
        let span = self.advance().span;
        if list.contains(&word) {
            return Ok(Some(word.to_owned()));
        }
        let message = format!("`{}` is not a {what} that is possible here", short(word));
        let mut problem = Problem::new("unknown-word", span, message)
            .expected(format!("expected one of {}", list.join(", ")));
        if let Some(near) = crate::diagnostic::nearest(word, list.iter().copied()) {
            problem = problem.help(format!("did you mean `{near}`?"));
        }
        self.report(problem);
        Ok(None)
    }

    pub(super) fn given_twice(&mut self, word: &str, span: Span) {
        let problem = Problem::new("defined-twice", span, format!("`{word}` is given twice"))
            .expected("the second one")
            .help("remove one of them");
        self.report(problem);
    }

    /// Both ends of something, with whether they were read without a mistake.
    pub(super) fn ends(&mut self) -> Parsed<(Selector, Ends)> {
        let before = self.marks();
        let start = self.token.span;
        let selector = self.selector()?;
        let sound = self.marks() == before;
        Ok((
            selector,
            Ends {
                span: start.to(self.previous),
                sound,
            },
        ))
    }
}

/// Whether a word looks like a domain name.
pub(super) fn is_domain(word: &str) -> bool {
    let letters = word.bytes().any(|byte| byte.is_ascii_alphabetic());
    letters && word.contains('.') && !word.contains(':')
}

/// Domain names are no ends: nothing here learns their addresses.
pub(super) fn no_domains(span: Span) -> Problem {
    Problem::new(
        "not-supported",
        span,
        "a set of domain names is not supported",
    )
    .expected("which addresses a name has is not in the policy")
    .help("write the prefixes, or send such traffic through a proxy and name that")
}
