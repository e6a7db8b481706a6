//! `lictor policy explain`: why one packet passes or not, with every tier and rule at both ends; or
//! who can reach what.

mod reach;

use crate::connectivity::read_estate;
use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::release::Draft;
use crate::texts::{self, Files};
use crate::{CliError, Setting, explain as flow, site};
use clap::{ArgGroup, Args};
use lictor_analysis::{EndSays, Ends, Explanation, explain};
use lictor_policy::evaluate::Question;
use lictor_policy::{
    Date, End, Estate, Labels, Policy, PortRange, Service, TierKind, nearest, render,
};
use lictor_types::{Direction, Probe, Protocol, Verdict, words};
use serde_json::json;
use std::net::IpAddr;
use std::path::PathBuf;

/// What `lictor policy explain` takes.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true)
    .args(["packet", "from", "to"])))]
pub(crate) struct Explain {
    /// The policy: a file, a directory of files, or several files by repeating this.
    #[arg(long = "policy", value_name = "FILE", required = true)]
    policy: Vec<PathBuf>,
    /// The estate, in JSON or TOML: guests with labels and addresses, and hosts.
    #[arg(long, value_name = "FILE")]
    estate: PathBuf,
    /// One packet, such as "tcp 10.0.0.1:4000 > 10.0.0.2:80", as `lictor explain --vnic` takes it.
    #[arg(long, conflicts_with_all = ["from", "to", "service"])]
    packet: Option<Probe>,
    /// Who begins: a guest's name, an address, or a selector such as "zone:dmz & tier:web".
    #[arg(long, value_name = "ENDS")]
    from: Option<String>,
    /// Who is asked, likewise. Without --from or without --to: who can reach what.
    #[arg(long, value_name = "ENDS")]
    to: Option<String>,
    /// On which ports: a service of the policy, tcp/443, udp/1000-2000, icmp/echo and the like.
    #[arg(long)]
    service: Option<String>,
    /// The release that was compiled of this policy: its number and digest are told, and its tables
    /// must say the same.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// The day for which rules count as expired or not; the release's if there is one, else today.
    #[arg(long, conflicts_with = "release")]
    date: Option<Date>,
}

/// What everything is asked of.
struct Read {
    policy: Policy,
    estate: Estate,
    release: Option<Draft>,
    date: Date,
}

pub(crate) fn run(args: &Explain, setting: &Setting) -> Result<Answer, CliError> {
    let policy = texts::read_sound(&Files::of(args.policy.clone()))?;
    let release = args.release.as_deref().map(Draft::read).transpose()?;
    if let (Some(draft), Some(path)) = (&release, &args.release)
        && draft.release.policy.source != policy.source
    {
        let (found, expected) = (draft.release.policy.source, policy.source);
        let what = format!(
            "it was compiled of the text with digest {found}, the policy given has {expected}; \
             give the text that was compiled"
        );
        return Err(CliError::file(path, what));
    }
    let today = Date::from_unix_seconds(setting.now_ms / 1_000);
    let of_release = release.as_ref().map(|draft| draft.release.policy.date);
    let read = Read {
        estate: read_estate(&args.estate)?,
        date: of_release.or(args.date).unwrap_or(today),
        policy,
        release,
    };
    if let Some(packet) = args.packet {
        return read.packet(&packet);
    }
    let ends = |argument, text: &Option<String>| {
        text.as_deref()
            .map(|text| read.ends(argument, text))
            .transpose()
    };
    let (from, to) = (ends("--from", &args.from)?, ends("--to", &args.to)?);
    let service = args.service.as_deref();
    let service = service.map(|text| read.service(text)).transpose()?;
    if let (Some(from), Some(to), Some(service)) = (&from, &to, &service)
        && let Some(question) = read.single(from, to, service)
    {
        return read.one(&question, None);
    }
    read.reach(reach::Wanted { from, to, service })
}

impl Read {
    fn guests(&self) -> impl Iterator<Item = (&str, Labels, &[IpAddr])> {
        let guests = self.estate.guests.iter();
        let guests = guests.map(|one| {
            let (name, labels) = (one.name.as_str(), one.labels.clone());
            (name, labels, one.addresses.as_slice())
        });
        let hosts = self.estate.hosts.iter().filter(|host| host.bound);
        guests.chain(hosts.map(|host| {
            let labels = host.device_labels();
            (host.name.as_str(), labels, host.addresses.as_slice())
        }))
    }

    /// Whose an address is. Two guests with one address need a name.
    fn owner(&self, address: IpAddr) -> Result<Option<(&str, Labels)>, CliError> {
        let mut owners = self.guests().filter(|(.., own)| own.contains(&address));
        let first = owners.next();
        if let (Some((one, ..)), Some((other, ..))) = (&first, owners.next()) {
            let what =
                format!("{address} is {one}'s and {other}'s; name the guest with --from and --to");
            return Err(CliError::argument("--packet/--from/--to", what));
        }
        Ok(first.map(|(name, labels, _)| (name, labels)))
    }

    /// A guest's name, an address, or a selector, in this order.
    fn ends(&self, argument: &'static str, text: &str) -> Result<Ends, CliError> {
        if self.guests().any(|(name, ..)| name == text) {
            return Ok(Ends::Member(text.to_owned()));
        }
        if let Ok(address) = text.parse() {
            let owner = self.owner(address)?;
            return Ok(owner.map_or(Ends::Address(address), |(name, _)| {
                Ends::Member(name.to_owned())
            }));
        }
        let selected = self.policy.selector(argument, text);
        selected.map(Ends::Selected).map_err(|found| {
            let shown = render(&found, text.as_bytes());
            let near = nearest(text, self.guests().map(|(name, ..)| name));
            let near = near.map_or_else(String::new, |name| {
                format!(" (did you mean the guest `{name}`?)")
            });
            let what =
                format!("no guest of the estate{near}, no address and no selector:\n{shown}");
            CliError::argument(argument, what)
        })
    }

    /// Names of services and what the language writes for them, with commas between.
    fn service(&self, text: &str) -> Result<Service, CliError> {
        let mut ranges: Vec<PortRange> = Vec::new();
        for item in text.split(',').map(str::trim) {
            if let Some(known) = self.policy.services.get(item) {
                ranges.extend(known.ranges());
            } else if item == "any" {
                ranges.extend(Service::any().ranges());
            } else {
                let wrong = |error| {
                    let known: Vec<&str> =
                        self.policy.services.keys().map(String::as_str).collect();
                    let what = format!("{error}; services of the policy: {}", known.join(", "));
                    CliError::argument("--service", what)
                };
                ranges.push(item.parse().map_err(wrong)?);
            }
        }
        Ok(Service::new(ranges))
    }

    fn end(&self, ends: &Ends) -> Option<End> {
        match ends {
            Ends::Member(name) => {
                let mut guests = self.guests();
                let found = guests.find(|(known, ..)| known == name);
                found.map(|(_, labels, _)| End::Guest(labels))
            }
            Ends::Address(address) => Some(End::Address(*address)),
            Ends::Selected(_) => None,
        }
    }

    /// One packet, if that is what is asked for. A type of ICMP alone stands for its code 0.
    fn single(&self, from: &Ends, to: &Ends, service: &Service) -> Option<Question> {
        let [range] = service.ranges() else {
            return None;
        };
        let icmp = matches!(range.protocol, Protocol::Icmp | Protocol::Icmpv6);
        let whole = icmp && range.first & 0xff == 0 && range.last == range.first | 0xff;
        (range.first == range.last || whole).then_some(())?;
        Some(Question {
            source: self.end(from)?,
            destination: self.end(to)?,
            protocol: range.protocol,
            port: range.first,
            date: self.date,
        })
    }

    fn packet(&self, packet: &Probe) -> Result<Answer, CliError> {
        let end = |address| -> Result<End, CliError> {
            let owner = self.owner(address)?;
            Ok(owner.map_or(End::Address(address), |(_, labels)| End::Guest(labels)))
        };
        let (protocol, port) = packet.service();
        let question = Question {
            source: end(packet.source())?,
            destination: end(packet.destination())?,
            protocol,
            port,
            date: self.date,
        };
        self.one(&question, Some(packet))
    }

    fn one(&self, question: &Question, packet: Option<&Probe>) -> Result<Answer, CliError> {
        let one = explain(&self.policy, question);
        let mut says = vec!["reference evaluator"];
        if let Some(draft) = &self.release {
            flow::tables_agree(&self.policy, &draft.release.policy, question)?;
            says.push("the release's tables");
        }
        let page = head(&one, packet).fields([
            ("policy", self.policy_text().into()),
            ("release", self.release_text()),
            ("as of", self.date.into()),
            ("says", says.join(" and ").into()),
        ]);
        let sides = [
            (Direction::Egress, "at the source", &one.egress),
            (Direction::Ingress, "at the destination", &one.ingress),
        ];
        let page = sides.into_iter().fold(page, |page, (way, title, says)| {
            says.as_ref()
                .map_or(Page::default(), |says| side(way, title, says))
                .after(page)
        });
        let ending = match one.verdict {
            Verdict::Allow => Ending::Done,
            Verdict::Deny | Verdict::Reject => Ending::No,
        };
        let value = json!({
            "policy": self.policy.name, "version": self.policy.version,
            "release": self.release_value(), "date": self.date, "packet": packet, "by": says,
            "explained": one,
        });
        Ok(Answer::new(page, &value).ending(ending))
    }

    fn policy_text(&self) -> String {
        format!("{} version {}", self.policy.name, self.policy.version)
    }

    fn release_text(&self) -> Cell {
        let told = self
            .release
            .as_ref()
            .map(|draft| format!("generation {}, {}", draft.release.generation, draft.digest));
        Cell::optional(told)
    }

    fn release_value(&self) -> serde_json::Value {
        json!(self.release.as_ref().map(|draft| {
            json!({ "generation": draft.release.generation, "digest": draft.digest })
        }))
    }
}

fn end_text(end: &End) -> String {
    match end {
        End::Guest(labels) => format!("a guest with {}", site::text(labels)),
        End::Address(address) => format!("{address}, outside"),
    }
}

fn head(one: &Explanation, packet: Option<&Probe>) -> Page {
    let question = &one.question;
    let range = PortRange {
        protocol: question.protocol,
        first: question.port,
        last: question.port,
    };
    let good = one.verdict == Verdict::Allow;
    Page::default().fields([
        ("verdict", Cell::toned(Tone::good_if(good), one.verdict)),
        ("reason", one.reason.into()),
        ("packet", Cell::optional(packet)),
        ("from", end_text(&question.source).into()),
        ("to", end_text(&question.destination).into()),
        ("service", range.to_string().into()),
    ])
}

/// What one end says, with every rule that matched and those that missed by one clause.
fn side(way: Direction, title: &str, says: &EndSays) -> Page {
    let rule = says.rule.as_ref().map(|rule| rule.name.as_str());
    let mut told = words::said(says.verdict, says.reason, rule);
    if let Some(would) = &says.would {
        told = format!(
            "{told}; {}",
            words::would(would.verdict, would.rule.as_deref())
        );
    }
    let tone = Tone::good_if(says.verdict == Verdict::Allow);
    let told = Cell::toned(tone, format!("{}: {told}", words::way(way)));
    let rows = says.steps.iter().map(|step| {
        let kind = match step.kind {
            TierKind::Ordered => "ordered",
            TierKind::AllowOnly => "allow-only",
        };
        let expired = if step.expired {
            ", past its last day"
        } else {
            ""
        };
        let part = step.part.words();
        let part = match step.part {
            lictor_analysis::Part::Decides => Cell::toned(tone, format!("{part}{expired}")),
            lictor_analysis::Part::Expired => part.into(),
            _ => format!("{part}{expired}").into(),
        };
        [
            format!("{} ({kind})", step.tier).into(),
            (&step.rule.name).into(),
            step.action.into(),
            part,
            Cell::optional(step.rule.owner.as_ref()),
            place(&step.rule),
        ]
    });
    let head = ["tier", "rule", "action", "part", "owner", "line"];
    let page = Page::default().section(title).line(told).table(head, rows);
    if says.near.is_empty() {
        return page;
    }
    let rows = says.near.iter().map(|miss| {
        let clause = format!("{} {}", miss.clause.name(), miss.says);
        [(&miss.rule.name).into(), clause.into(), place(&miss.rule)]
    });
    let page = page
        .section("would allow, but for one clause")
        .table(["rule", "clause", "line"], rows);
    match says.near_more {
        0 => page,
        more => page.line(format!("and {more} more")),
    }
}

fn place(rule: &lictor_analysis::RuleName) -> Cell {
    match &rule.file {
        Some(file) => format!("{file}:{}", rule.line).into(),
        None => rule.line.into(),
    }
}

#[cfg(test)]
mod tests;
