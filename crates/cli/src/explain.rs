//! `lictor explain`: what policy says about the first packet of one session, or what the loaded
//! program of this host says about a packet (`loaded.rs`).
//!
//! Two readers may answer, and if both do they must agree: the reference evaluator over the policy
//! text, and the tables of a release, which are what hosts load.

use crate::caller::Caller;
use crate::guest::Directory;
use crate::loaded::Loaded;
use crate::output::{Answer, Cell, Page, Printing, Tone};
use crate::release::Draft;
use crate::{CliError, Setting, site, texts};
use clap::Args;
use lictor_policy::evaluate::{self, Question, Ruling, Step, evaluate};
use lictor_policy::{Compiled, Date, End, Labels, Mode, Policy, PortRange, Tables};
use lictor_types::{Direction, HostTables, IdentityId, Protocol, Reason, RuleId, Verdict, Would};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Say what policy says about one flow, by which rule and on whose account; or with --vnic what the
/// program that this host has loaded says about one packet, step by step.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The policy text: answered by the reference evaluator, with every rule that matches.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["release", "vnic"])]
    policy: Option<PathBuf>,
    /// The release: answered by its tables. With --policy too, both must say the same.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// Bindings as `lictor guest export` writes them, to look up guests; else the manager is asked.
    #[arg(long, value_name = "FILE")]
    bindings: Option<PathBuf>,
    /// Who begins: labels such as zone=dmz,tier=client, a guest's name, or an address.
    #[arg(long, required_unless_present = "vnic")]
    from: Option<EndText>,
    /// Who is asked: labels, a guest's name, or an address.
    #[arg(long, required_unless_present = "vnic")]
    to: Option<EndText>,
    /// tcp/PORT, udp/PORT, icmp/TYPE, icmpv6/TYPE or ip/NUMBER.
    #[arg(long, required_unless_present = "vnic")]
    service: Option<ServiceText>,
    #[command(flatten)]
    loaded: Loaded,
    /// The day for which rules count as expired; the release's if there is one, else today.
    #[arg(long, conflicts_with = "release")]
    date: Option<Date>,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// One end as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum EndText {
    Labels(Labels),
    Address(IpAddr),
    Guest(lictor_types::GuestId),
}

impl FromStr for EndText {
    type Err = String;
    fn from_str(input: &str) -> Result<Self, String> {
        if let Ok(address) = input.parse() {
            return Ok(Self::Address(address));
        }
        if !input.contains('=') {
            let guest = input.parse().map_err(|error| {
                format!("{error}; expected labels such as zone=dmz, a guest's name or an address")
            })?;
            return Ok(Self::Guest(guest));
        }
        let mut labels = Labels::new();
        for pair in input.split(',') {
            let (name, value) = pair
                .split_once('=')
                .filter(|(name, value)| !name.is_empty() && !value.is_empty())
                .ok_or_else(|| format!("{pair:?}: expected label=value"))?;
            if labels.insert(name.into(), value.into()).is_some() {
                return Err(format!(
                    "the label {name} is given twice; a guest has one value"
                ));
            }
        }
        Ok(Self::Labels(labels))
    }
}

/// A service as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ServiceText {
    protocol: Protocol,
    port: u16,
}

impl FromStr for ServiceText {
    type Err = String;
    fn from_str(input: &str) -> Result<Self, String> {
        let range: PortRange = input.parse()?;
        let whole = range.last == range.first
            || (matches!(range.protocol, Protocol::Icmp | Protocol::Icmpv6)
                && range.first & 0xff == 0
                && range.last == range.first | 0xff);
        if !whole {
            return Err(format!("{input:?}: expected one service and not a range"));
        }
        // A type of ICMP alone stands for its code 0, which is what is sent.
        let (protocol, port) = (range.protocol, range.first);
        Ok(Self { protocol, port })
    }
}

/// What is said at one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Side {
    verdict: Verdict,
    reason: Reason,
    rule: Option<RuleId>,
    /// What would happen, were it not for observe mode.
    would: Option<Would>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Sides {
    /// At the source, if it is a guest.
    egress: Option<Side>,
    /// At the destination, if it is a guest.
    ingress: Option<Side>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RuleWords {
    name: String,
    tier: String,
    owner: Option<String>,
    justification: Option<String>,
    expires: Option<Date>,
}

#[derive(Debug, Clone, Serialize)]
struct Explained {
    from: End,
    to: End,
    service: String,
    date: Date,
    verdict: Verdict,
    reason: Reason,
    #[serde(flatten)]
    sides: Sides,
    rule: Option<RuleWords>,
    /// The names of rules that would decide, were it not for observe mode.
    would_be: BTreeMap<RuleId, String>,
    by: Vec<&'static str>,
    trace: Vec<Step>,
    notes: Vec<String>,
}

pub(crate) fn run(args: &ExplainArgs, setting: &Setting) -> Result<Answer, CliError> {
    let (Some(from), Some(to), Some(service)) = (&args.from, &args.to, args.service) else {
        return args.loaded.run();
    };
    let text = args.policy.as_deref().map(texts::read_one).transpose()?;
    let draft = args.release.as_deref().map(Draft::read).transpose()?;
    if let (Some(text), Some(draft), Some(path)) = (&text, &draft, &args.policy)
        && text.source != draft.release.policy.source
    {
        let (found, expected) = (text.source, draft.release.policy.source);
        let what = format!(
            "its digest is {found}, the release was compiled from {expected}; give the text that \
             was compiled"
        );
        return Err(CliError::file(path, what));
    }
    let mut notes = Vec::new();
    let mut ends = Ends {
        args,
        directory: None,
        notes: &mut notes,
    };
    let (from, to) = (ends.resolve(from)?, ends.resolve(to)?);
    let today = || Date::from_unix_seconds(setting.now_ms / 1_000);
    let compiled = draft.as_ref().map(|draft| &draft.release.policy);
    let date = compiled
        .map(|one| one.date)
        .or(args.date)
        .unwrap_or_else(today);
    let question = Question {
        source: from,
        destination: to,
        protocol: service.protocol,
        port: service.port,
        date,
    };
    let readers = Readers {
        text: text.as_ref(),
        compiled,
    };
    Ok(page(&readers.answer(&question, notes)?))
}

/// Looks ends up. Bindings are only asked for when a name or an address needs them.
struct Ends<'a> {
    args: &'a ExplainArgs,
    directory: Option<Directory>,
    notes: &'a mut Vec<String>,
}

impl Ends<'_> {
    fn resolve(&mut self, end: &EndText) -> Result<End, CliError> {
        match end {
            EndText::Labels(labels) => Ok(End::Guest(labels.clone())),
            EndText::Guest(guest) => {
                let what = format!(
                    "{guest} is a guest's name, but nothing says what it is; give --bindings or \
                     --manager-dir, or labels such as zone=dmz"
                );
                let directory = self.directory()?;
                let directory = directory.ok_or_else(|| CliError::argument("--from/--to", what))?;
                Ok(End::Guest(directory.labels(guest)?.clone()))
            }
            EndText::Address(address) => {
                let Some(directory) = self.directory()? else {
                    let note = format!("{address} is taken as no guest's: no bindings are given");
                    self.notes.push(note);
                    return Ok(End::Address(*address));
                };
                let Some((guest, labels)) = directory.by_address(address)? else {
                    return Ok(End::Address(*address));
                };
                let (note, labels) = (format!("{address} is {guest}'s"), labels.clone());
                self.notes.push(note);
                Ok(End::Guest(labels))
            }
        }
    }

    fn directory(&mut self) -> Result<Option<&Directory>, CliError> {
        if self.directory.is_none() {
            let (directory, note) = match (&self.args.bindings, self.args.caller.trust()?) {
                (Some(path), _) => {
                    let note = "bindings are taken as the file has them: nobody verified them";
                    (Directory::read(path)?, note)
                }
                (None, Some(_)) => {
                    let identity = self.args.caller.open()?;
                    (
                        Directory::verified(&identity)?,
                        "bindings are the manager's, verified",
                    )
                }
                (None, None) => return Ok(None),
            };
            self.notes.push(note.into());
            self.directory = Some(directory);
        }
        Ok(self.directory.as_ref())
    }
}

struct Readers<'a> {
    text: Option<&'a Policy>,
    compiled: Option<&'a Compiled>,
}

impl Readers<'_> {
    fn answer(&self, question: &Question, notes: Vec<String>) -> Result<Explained, CliError> {
        for (argument, end) in [
            ("--from", &question.source),
            ("--to", &question.destination),
        ] {
            self.must_know(argument, end)?;
        }
        let said = self.text.map(|text| evaluate(text, question));
        let reference = said.as_ref().map(sides);
        let tables = self.compiled.map(|compiled| look_up(compiled, question));
        let tables = tables.transpose()?;
        let (sides, by) = match (reference, tables) {
            (Some(one), Some(other)) if one != other => return Err(differ(&one, &other)),
            (Some(one), Some(_)) => (one, vec!["reference evaluator", "the release's tables"]),
            (Some(one), None) => (one, vec!["reference evaluator"]),
            (None, Some(other)) => (other, vec!["the release's tables"]),
            (None, None) => {
                return Err(CliError::argument("--policy", "expected it or --release"));
            }
        };
        let (verdict, reason) = together(&sides);
        let deciding = [&sides.egress, &sides.ingress];
        let rule = deciding.into_iter().flatten().find_map(|side| side.rule);
        let would = deciding.into_iter().flatten().filter_map(|side| side.would);
        let would_be: BTreeMap<RuleId, String> = would
            .filter_map(|would| Some((would.rule, self.words(would.rule)?.name)))
            .collect();
        Ok(Explained {
            from: question.source.clone(),
            to: question.destination.clone(),
            service: service_text(question),
            date: question.date,
            verdict,
            reason,
            sides,
            rule: rule.and_then(|rule| self.words(rule)),
            would_be,
            by,
            trace: said.map(|answer| answer.trace).unwrap_or_default(),
            notes,
        })
    }

    /// A label that nobody declared would silently match nothing.
    fn must_know(&self, argument: &'static str, end: &End) -> Result<(), CliError> {
        let End::Guest(labels) = end else {
            return Ok(());
        };
        let unknown = self.text.map(|text| site::unknown_labels(labels, text));
        if let Some(unknown) = unknown.filter(|unknown| !unknown.is_empty()) {
            return Err(CliError::argument(argument, unknown.join("; ")));
        }
        let Some(compiled) = self.compiled else {
            return Ok(());
        };
        if compiled.identity_of(labels).is_some() {
            return Ok(());
        }
        let known = compiled.identities.iter().flat_map(|one| &one.labels);
        let known: Vec<String> = known.map(site::text).collect();
        let (labels, known) = (site::text(labels), known.join(" | "));
        let what = format!(
            "the release has no identity for {labels}, so no such guest can be bound; expected \
             one of {known}"
        );
        Err(CliError::argument(argument, what))
    }

    fn words(&self, id: RuleId) -> Option<RuleWords> {
        let of_text = self.text.and_then(|text| {
            let (tier, rule) = text.rules().find(|(_, rule)| rule.id == id)?;
            Some(RuleWords {
                name: rule.name.clone(),
                tier: tier.name.clone(),
                owner: rule.owner.clone().or_else(|| tier.owner.clone()),
                justification: rule.justification.clone(),
                expires: rule.expires,
            })
        });
        of_text.or_else(|| {
            let rule = self.compiled?.rule(id)?;
            Some(RuleWords {
                name: rule.name.clone(),
                tier: rule.tier.clone(),
                owner: rule.owner.clone(),
                justification: rule.justification.clone(),
                expires: rule.expires,
            })
        })
    }
}

fn sides(answer: &evaluate::Answer) -> Sides {
    Sides {
        egress: answer.egress.map(side),
        ingress: answer.ingress.map(side),
    }
}

fn side(ruling: Ruling) -> Side {
    Side {
        verdict: ruling.verdict,
        reason: ruling.reason(),
        rule: ruling.rule,
        would: ruling.would,
    }
}

fn differ(one: &Sides, other: &Sides) -> CliError {
    let what = format!(
        "the text says {one:?}, the tables {other:?}; do not publish this release, and report it"
    );
    CliError::argument("--release", what)
}

/// Whether a release's tables say what the text does.
pub(crate) fn tables_agree(
    policy: &Policy,
    compiled: &Compiled,
    question: &Question,
) -> Result<(), CliError> {
    let readers = Readers {
        text: Some(policy),
        compiled: Some(compiled),
    };
    readers.must_know("--from", &question.source)?;
    readers.must_know("--to", &question.destination)?;
    let (one, other) = (
        sides(&evaluate(policy, question)),
        look_up(compiled, question)?,
    );
    match one == other {
        true => Ok(()),
        false => Err(differ(&one, &other)),
    }
}

/// What a host that loaded the release finds.
fn look_up(compiled: &Compiled, question: &Question) -> Result<Sides, CliError> {
    let tables = Tables::of(compiled)?;
    let identity = |end: &End| match end {
        End::Guest(labels) => compiled.identity_of(labels).unwrap_or(IdentityId::WORLD),
        End::Address(address) => compiled
            .prefixes
            .iter()
            .filter(|row| row.prefix.contains(address))
            .max_by_key(|row| row.prefix.prefix_len())
            .map_or(IdentityId::WORLD, |row| row.identity),
    };
    let ended = compiled.ended_by(question.date);
    let peer = |end: &End| match question.protocol {
        Protocol::Ether => IdentityId::WORLD,
        _ => identity(end),
    };
    let atom = compiled.atoms.iter().find(|range| {
        range.protocol == question.protocol && (range.first..=range.last).contains(&question.port)
    });
    let at = |local, peer, direction| {
        let rows = HostTables {
            decisions: tables.decisions(local),
            ..HostTables::empty()
        };
        let key = (local, peer, direction);
        let decision = atom.and_then(|range| rows.decide(key, range.atom));
        let decision = decision.filter(|row| !ended.contains(&row.rule));
        let rule = decision.map(|row| row.rule);
        let one = Ruling {
            verdict: decision.map_or(Verdict::Deny, |row| row.verdict),
            rule: rule.filter(|rule| *rule != RuleId::DEFAULT),
            would: decision.and_then(|row| row.would),
            log: false,
            log_limit: None,
            limit: None,
        };
        side(match compiled.observed_on(local, question.date) {
            Some(_) => one.observed(),
            None => one,
        })
    };
    let guest = |end: &End| matches!(end, End::Guest(_));
    let (source, destination) = (&question.source, &question.destination);
    Ok(Sides {
        egress: guest(&question.source)
            .then(|| at(identity(source), peer(destination), Direction::Egress)),
        ingress: guest(&question.destination)
            .then(|| at(identity(destination), peer(source), Direction::Ingress)),
    })
}

/// Allow if every end that is a guest allows.
fn together(sides: &Sides) -> (Verdict, Reason) {
    let both = [&sides.egress, &sides.ingress];
    let mut said = both.into_iter().flatten();
    let Some(first) = said.next() else {
        return (Verdict::Deny, Reason::DefaultDeny);
    };
    let worst = said
        .find(|side| side.verdict != Verdict::Allow)
        .unwrap_or(first);
    let worst = if first.verdict != Verdict::Allow {
        first
    } else {
        worst
    };
    (worst.verdict, worst.reason)
}

fn service_text(question: &Question) -> String {
    let (protocol, port) = (question.protocol, question.port);
    let range = PortRange {
        protocol,
        first: port,
        last: port,
    };
    range.to_string()
}

fn end_text(end: &End) -> String {
    match end {
        End::Guest(labels) => format!("a guest with {}", site::text(labels)),
        End::Address(address) => format!("{address}, outside"),
    }
}

fn page(one: &Explained) -> Answer {
    let good = one.verdict == Verdict::Allow;
    let at = |side: &Option<Side>| {
        Cell::optional(side.as_ref().map(|side| {
            let would = side.would.map(|would| {
                let rule = one
                    .would_be
                    .get(&would.rule)
                    .map_or("no rule", String::as_str);
                format!("; would {} by {rule}", would.verdict)
            });
            format!(
                "{} ({}){}",
                side.verdict,
                side.reason,
                would.unwrap_or_default()
            )
        }))
    };
    let rule = one.rule.as_ref();
    let page = Page::default().fields([
        ("verdict", Cell::toned(Tone::good_if(good), one.verdict)),
        ("reason", one.reason.into()),
        ("from", end_text(&one.from).into()),
        ("to", end_text(&one.to).into()),
        ("service", one.service.as_str().into()),
        ("as of", one.date.into()),
        ("at the source", at(&one.sides.egress)),
        ("at the destination", at(&one.sides.ingress)),
        ("rule", Cell::optional(rule.map(|rule| &rule.name))),
        ("tier", Cell::optional(rule.map(|rule| &rule.tier))),
        (
            "owner",
            Cell::optional(rule.and_then(|rule| rule.owner.as_ref())),
        ),
        (
            "why",
            Cell::optional(rule.and_then(|rule| rule.justification.as_ref())),
        ),
        (
            "expires",
            Cell::optional(rule.and_then(|rule| rule.expires)),
        ),
        ("says", one.by.join(" and ").into()),
    ]);
    let page = match one.trace.as_slice() {
        [] => page,
        trace => {
            let rows = trace.iter().map(|step| {
                let counts = match (step.counted, step.expired, step.mode) {
                    (_, _, Mode::Observe) => "does not count: its tier is observed",
                    (true, false, _) => "counts",
                    (true, true, _) => "counts, past its last day",
                    (false, true, _) => "past its last day",
                    (false, false, _) => "does not count: decided before",
                };
                [step.name.as_str().into(), step.action.into(), counts.into()]
            });
            page.section("every rule that matches")
                .table(["rule", "action", "part"], rows)
        }
    };
    let page = one.notes.iter().fold(page, Page::line);
    Answer::new(page, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_policy::{CompileInput, compile, parse};

    fn pci() -> (Policy, Compiled) {
        let text = include_bytes!("../../../examples/pci/policy.lictor");
        let (policy, diagnostics) = parse("policy.lictor", text);
        let policy = policy.unwrap_or_else(|| panic!("{diagnostics:?}"));
        let sets = [
            "zone=dmz,tier=client",
            "zone=cde,app=pay,tier=web",
            "zone=cde,app=pay,tier=db",
            "zone=corp",
        ];
        let input = CompileInput {
            label_sets: sets.map(labels).into(),
            date: Date::new(2026, 11, 24).expect("a day"),
        };
        let compiled = compile(&policy, &input).expect("it compiles");
        (policy, compiled)
    }

    fn labels(text: &str) -> Labels {
        match text.parse() {
            Ok(EndText::Labels(labels)) => labels,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn end(text: &str) -> End {
        match text.parse().expect("an end") {
            EndText::Labels(labels) => End::Guest(labels),
            EndText::Address(address) => End::Address(address),
            EndText::Guest(guest) => panic!("{guest} needs bindings"),
        }
    }

    fn ask(flow: [&str; 3]) -> Question {
        let [from, to, service] = flow;
        let service: ServiceText = service.parse().expect("a service");
        Question {
            source: end(from),
            destination: end(to),
            protocol: service.protocol,
            port: service.port,
            date: Date::new(2026, 11, 24).expect("a day"),
        }
    }

    const CLIENT: &str = "zone=dmz,tier=client";
    const WEB: &str = "zone=cde,app=pay,tier=web";
    const DB: &str = "zone=cde,app=pay,tier=db";

    #[test]
    fn text_and_tables_say_the_same_with_rule_tier_and_owner() {
        let (policy, compiled) = pci();
        let check = |flow: [&str; 3], reason: Reason, rule: Option<&str>| {
            for (text, tables) in [(true, true), (true, false), (false, true)] {
                let readers = Readers {
                    text: text.then_some(&policy),
                    compiled: tables.then_some(&compiled),
                };
                let answer = readers.answer(&ask(flow), Vec::new()).expect("an answer");
                assert_eq!(answer.reason, reason, "{flow:?}");
                let found = answer.rule.as_ref().map(|rule| rule.name.as_str());
                assert_eq!(found, rule, "{flow:?}");
                if text && let Some(rule) = answer.rule {
                    assert!(rule.owner.is_some(), "{rule:?}");
                    assert!(rule.name.starts_with(&rule.tier), "{rule:?}");
                }
            }
        };
        check(
            [CLIENT, WEB, "tcp/8443"],
            Reason::PolicyAllow,
            Some("pay/portal"),
        );
        check(
            [WEB, DB, "tcp/5432"],
            Reason::PolicyAllow,
            Some("pay/app-db"),
        );
        check(
            [WEB, DB, "icmp/8"],
            Reason::PolicyAllow,
            Some("pay/diagnose"),
        );
        check([WEB, DB, "tcp/5433"], Reason::DefaultDeny, None);
        check(
            ["zone=corp", DB, "tcp/5432"],
            Reason::PolicyDeny,
            Some("guard/corp-cde"),
        );
        check(
            [DB, "zone=corp", "tcp/1"],
            Reason::PolicyDeny,
            Some("guard/cde-corp"),
        );
        check([WEB, "192.0.2.1", "tcp/443"], Reason::DefaultDeny, None);
        check(
            ["192.0.2.1", "192.0.2.2", "tcp/443"],
            Reason::DefaultDeny,
            None,
        );
    }

    #[test]
    fn an_end_that_the_policy_does_not_know_is_an_error_and_no_denial() {
        let (policy, compiled) = pci();
        let check = |from: &str, (text, tables): (bool, bool), expected: &str| {
            let readers = Readers {
                text: text.then_some(&policy),
                compiled: tables.then_some(&compiled),
            };
            let error = readers.answer(&ask([from, DB, "tcp/5432"]), Vec::new());
            let error = error.expect_err("it is unknown").to_string();
            assert!(error.contains(expected), "expected {expected:?} in {error}");
            assert!(error.starts_with("--from"), "{error}");
        };
        check(
            "zome=dmz",
            (true, true),
            "declares no label zome; expected one of app, tier, zone",
        );
        check(
            "zone=moon",
            (true, false),
            "no value moon; expected one of cde, corp, dmz",
        );
        check(
            "zone=dmz,tier=web",
            (false, true),
            "no identity for tier=web,zone=dmz",
        );
    }

    #[test]
    fn what_is_typed_is_understood_or_refused_with_what_was_expected() {
        let check = |text: &str, expected: Option<(Protocol, u16)>| {
            let found = text.parse::<ServiceText>();
            let found = found.map(|one| (one.protocol, one.port));
            assert_eq!(found.clone().ok(), expected, "{text}");
            if let Err(error) = found {
                assert!(error.contains("expected"), "{error}");
            }
        };
        check("tcp/5432", Some((Protocol::Tcp, 5432)));
        check("ip/47", Some((Protocol::Other, 47)));
        check("icmpv6/255", Some((Protocol::Icmpv6, 255 << 8)));
        check("icmp/3/4", Some((Protocol::Icmp, 3 << 8 | 4)));
        check("sctp/1", Some((Protocol::Sctp, 1)));
        check("gre", Some((Protocol::Other, 47)));
        check("ether/0x88cc", Some((Protocol::Ether, 0x88cc)));
        for bad in [
            "tcp",
            "tcp/65536",
            "icmp/256",
            "icmp/3-4",
            "tcp/1-2",
            "ip/6",
            "tcp/-1",
            "",
        ] {
            check(bad, None);
        }
        for bad in [
            "zone=",
            "=cde",
            "zone=cde,",
            "zone=cde,zone=corp",
            "Not A Name",
            "",
        ] {
            assert!(bad.parse::<EndText>().is_err(), "{bad:?}");
        }
        let guest = "db".parse::<EndText>();
        assert_eq!(guest, Ok(EndText::Guest("db".parse().expect("a name"))));
    }
}
