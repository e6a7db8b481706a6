//! `lictor policy simulate`: which live sessions a new policy would cut, and what it would refuse
//! besides of which no session lives just now.

use crate::caller::{Caller, Identity};
use crate::connectivity::read_estate;
use crate::host::listing::OfVnic;
use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::policy::diff::{self, packet};
use crate::texts::{self, Files};
use crate::{CliError, files};
use clap::{ArgGroup, Args};
use lictor_analysis::{Change, Effect, Live, Simulation, diff_live, simulate};
use lictor_policy::evaluate::Question;
use lictor_policy::{Date, End, Estate, Labels, Policy};
use lictor_types::{Direction, HostId, Protocol, words};
use lictor_wire::local::LiveSession;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Milliseconds between looks at what hosts have listed.
const POLL_MS: u64 = 200;

/// What `lictor policy simulate` takes.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true)
    .args(["live", "sessions", "old"])))]
pub(crate) struct Simulate {
    /// The new policy: a file, a directory of files, or several files by repeating this.
    #[arg(long = "policy", value_name = "FILE", required = true)]
    policy: Vec<PathBuf>,
    /// What `lictor host sessions` wrote on a host. Once for each host.
    #[arg(long, value_name = "FILE")]
    sessions: Vec<PathBuf>,
    /// Ask all hosts for their live sessions, over the manager.
    #[arg(long, conflicts_with = "sessions")]
    live: bool,
    /// How many seconds hosts have for that. Who has not answered then is named.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "live")]
    wait: u64,
    /// The policy that holds now, as `--policy`: all that it allows and the new one refuses, too,
    /// whether a session of it lives or not.
    #[arg(long, value_name = "FILE")]
    old: Vec<PathBuf>,
    /// An estate, in JSON or TOML: its guests' labels count, not those that were bound when the
    /// sessions were written.
    #[arg(long, value_name = "FILE")]
    estate: Option<PathBuf>,
    /// The day for which rules count as expired or not; today if not given.
    #[arg(long)]
    date: Option<Date>,
}

pub(crate) fn run(args: &Simulate, caller: &Caller, now_ms: u64) -> Result<Answer, CliError> {
    let policy = texts::read_sound(&Files::of(args.policy.clone()))?;
    let date = args.date.unwrap_or(Date::from_unix_seconds(now_ms / 1_000));
    let old = (!args.old.is_empty()).then(|| texts::read_sound(&Files::of(args.old.clone())));
    let old = old.transpose()?;
    let estate = args.estate.as_ref().map(|path| read_estate(path));
    let estate = estate.transpose()?;
    // Whatever may be wrong in files is told before anybody waits for hosts.
    let heard = match args.live {
        true => over_manager(&caller.open()?, args.wait)?,
        false => Heard::default(),
    };
    let (live, skipped) = match args.live {
        true => judged(heard.vnics, estate.as_ref(), date),
        false => live(&args.sessions, estate.as_ref(), date)?,
    };
    let listed = args.listed().then_some(live.as_slice());
    let refused = old
        .map(|old| refused((&old, &policy), date, listed))
        .transpose()?;
    let found = simulate(&policy, live.into_iter());
    let cut: u64 = found.cut.iter().map(|one| one.sessions).sum();
    let name = format!("{} version {}", policy.name, policy.version);
    let mut page = Page::default().fields([("policy", name.into()), ("as of", date.into())]);
    let mut value = json!({ "policy": policy.name, "version": policy.version, "date": date });
    // Without a listing nobody knows which sessions live: that is not the same as none.
    if args.listed() {
        page = told(
            page.fields([
                ("go on", found.kept.into()),
                ("would be cut", Cell::toned(Tone::good_if(cut == 0), cut)),
                ("not judged", skipped.into()),
            ]),
            &found,
        );
        value["kept"] = json!(found.kept);
        value["cut"] = json!(cut);
        value["not_judged"] = json!(skipped);
        value["groups"] = json!(found.cut);
    }
    let unknown = !heard.silent.is_empty() || heard.left_out > 0;
    if unknown {
        let (silent, left_out) = (names(&heard.silent), heard.left_out);
        let text = format!("not heard: {silent}; sessions that were not listed: {left_out}");
        page = page.line(Cell::toned(Tone::Doubt, text));
    }
    if args.live {
        value["not_heard"] = json!(heard.silent);
        value["left_out"] = json!(heard.left_out);
    }
    let mut same = cut == 0 && !unknown;
    if let Some(Refusals { closes, undecided }) = refused {
        same &= closes.is_empty() && undecided.is_empty();
        page = diff::told(page.section("would be refused"), closes.iter());
        if !undecided.is_empty() {
            let text = format!("not compared, too large: {}", undecided.join(", "));
            page = page.line(Cell::toned(Tone::Doubt, text));
        }
        value["refused"] = json!(closes);
        value["undecided"] = json!(undecided);
    }
    let ending = if same { Ending::Done } else { Ending::No };
    Ok(Answer::new(page, &value).ending(ending))
}

/// What the old policy allows and the new one does not.
struct Refusals {
    closes: Vec<Change>,
    /// Rules of which it would take too long to say what they change.
    undecided: Vec<String>,
}

/// Over every guest and address that there may ever be, with the live sessions among them, if they
/// are known.
fn refused(
    (old, new): (&Policy, &Policy),
    date: Date,
    live: Option<&[Live]>,
) -> Result<Refusals, CliError> {
    let found = match live {
        Some(live) => diff_live(old, new, date, live)?,
        None => lictor_analysis::diff(old, new, date)?,
    };
    let closes = found.changes.into_iter();
    Ok(Refusals {
        closes: closes.filter(|one| one.effect == Effect::Closes).collect(),
        undecided: found.undecided,
    })
}

impl Simulate {
    /// Whether live sessions are known.
    const fn listed(&self) -> bool {
        self.live || !self.sessions.is_empty()
    }
}

/// The live sessions of these files, and how many can't be judged. With an estate, guests have its
/// labels and not those that were bound when the files were written.
pub(super) fn live(
    paths: &[PathBuf],
    estate: Option<&Estate>,
    date: Date,
) -> Result<(Vec<Live>, u64), CliError> {
    let mut vnics: Vec<OfVnic> = Vec::new();
    for path in paths {
        let what = "live sessions as `lictor host sessions` writes them";
        let of_host: Vec<OfVnic> = files::read_json(path, what)?;
        vnics.extend(of_host);
    }
    Ok(judged(vnics, estate, date))
}

fn judged(mut vnics: Vec<OfVnic>, estate: Option<&Estate>, date: Date) -> (Vec<Live>, u64) {
    if let Some(estate) = estate {
        relabel(&mut vnics, estate);
    }
    let (mut live, mut skipped) = (Vec::new(), 0_u64);
    for vnic in &vnics {
        for session in &vnic.sessions {
            match question(vnic, session, date) {
                Some(one) => live.push(one),
                None => skipped += 1,
            }
        }
    }
    (live, skipped)
}

/// What hosts listed when they were asked, and which did not.
#[derive(Default)]
struct Heard {
    vnics: Vec<OfVnic>,
    silent: Vec<HostId>,
    left_out: u64,
}

/// Asks all hosts, and looks until each has listed its sessions. The number of looks is the limit,
/// not a clock.
fn over_manager(identity: &Identity, wait_s: u64) -> Result<Heard, CliError> {
    let asked = identity.client.ask_sessions()?;
    let mut heard = Heard {
        silent: asked.hosts,
        ..Heard::default()
    };
    for look in 0..=wait_s * 1_000 / POLL_MS {
        if look > 0 {
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
        let mut silent = Vec::new();
        for host in std::mem::take(&mut heard.silent) {
            let listed = identity.client.sessions(&host)?;
            let Some(listed) = listed.filter(|one| one.listed_ms >= asked.asked_ms) else {
                silent.push(host);
                continue;
            };
            heard.left_out += listed.listing.left_out;
            let pages = listed.listing.pages.into_iter();
            heard.vnics.extend(pages.map(OfVnic::from));
        }
        heard.silent = silent;
        if heard.silent.is_empty() {
            break;
        }
    }
    Ok(heard)
}

fn names(hosts: &[HostId]) -> String {
    match hosts {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(HostId::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Gives both ends of each session the labels that the estate has: the guest by its name, the other
/// end by its address, unless two guests have that.
fn relabel(vnics: &mut [OfVnic], estate: &Estate) {
    let mut by_name: BTreeMap<&str, &Labels> = BTreeMap::new();
    let mut by_address: BTreeMap<IpAddr, Option<&Labels>> = BTreeMap::new();
    for guest in &estate.guests {
        by_name.insert(&guest.name, &guest.labels);
        for address in &guest.addresses {
            let known = by_address.entry(*address);
            known
                .and_modify(|one| *one = None)
                .or_insert(Some(&guest.labels));
        }
    }
    for vnic in vnics {
        if let Some(labels) = by_name.get(vnic.guest.to_string().as_str()) {
            vnic.labels = (*labels).clone();
        }
        for session in &mut vnic.sessions {
            if let Some(Some(labels)) = by_address.get(&session.key.remote) {
                session.remote = End::Guest((*labels).clone());
            }
        }
    }
}

/// What would be cut.
pub(super) fn told(page: Page, found: &Simulation) -> Page {
    let rows = found.cut.iter().map(|one| {
        [
            (&one.guest).into(),
            Cell::toned(Tone::Bad, one.sessions),
            words::way(one.opened).into(),
            words::by(one.admitted_by.as_deref()).into(),
            words::by(one.cut_by.as_deref()).into(),
            one.reason.into(),
            packet(&one.example).into(),
        ]
    });
    let head = [
        "guest",
        "sessions",
        "begun",
        "admitted by",
        "cut by",
        "reason",
        "for instance",
    ];
    page.section("would be cut").table(head, rows)
}

/// The first packet of a session. Of an answered ICMP error, or of a protocol whose session is not
/// told by its ports, nothing more is known than the class.
fn question(vnic: &OfVnic, session: &LiveSession, date: Date) -> Option<Live> {
    let key = &session.key;
    let (own, other) = (End::Guest(vnic.labels.clone()), session.remote.clone());
    let egress = session.opened == Direction::Egress;
    let (source, destination) = if egress { (own, other) } else { (other, own) };
    let port = if egress {
        key.remote_port
    } else {
        key.local_port
    };
    let (protocol, port) = match key.protocol {
        6 => (Protocol::Tcp, port),
        17 => (Protocol::Udp, port),
        132 => (Protocol::Sctp, port),
        136 => (Protocol::UdpLite, port),
        // Only an echo makes a session: RFC 792 and RFC 4443.
        1 => (Protocol::Icmp, Protocol::icmp_port(8, 0)),
        58 => (Protocol::Icmpv6, Protocol::icmp_port(128, 0)),
        0 => return None,
        number => (Protocol::Other, number.into()),
    };
    Some(Live {
        guest: vnic.guest.to_string(),
        question: Question {
            source,
            destination,
            protocol,
            port,
            date,
        },
        opened: session.opened,
        rule: session.rule.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_types::{Segment, SessionKey, TcpState};
    use serde_json::Value;
    use std::fs;

    const POLICY: &str = "policy \"p\" version 2
label zone : one-of web db
tier guard ordered { deny old from zone:web to zone:db service tcp/3306 }
tier t allow-only { allow pg from zone:web to zone:db service tcp/5432, icmp/echo }
";

    fn session(opened: Direction, protocol: u8, port: u16, remote: &str) -> LiveSession {
        let egress = opened == Direction::Egress;
        let ports = if egress {
            [40_000, port]
        } else {
            [port, 40_000]
        };
        LiveSession {
            key: SessionKey {
                segment: Segment(1),
                protocol,
                local: [10, 0, 0, 1].into(),
                remote: [10, 0, 0, 2].into(),
                local_port: ports[0],
                remote_port: ports[1],
            },
            opened,
            state: TcpState::Established,
            remote: End::Guest([("zone".into(), remote.into())].into()),
            rule: Some("t/any".into()),
            packets: 9,
        }
    }

    #[test]
    fn sessions_that_the_new_policy_does_not_allow_are_told_by_guest_and_rule() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        fs::write(file("p"), POLICY).expect("written");
        let of = |guest: &str, zone: &str, sessions: Vec<LiveSession>| OfVnic {
            host: "a".parse().expect("a host"),
            guest: guest.parse().expect("a guest"),
            labels: [("zone".into(), zone.into())].into(),
            generation: lictor_types::Generation(1),
            sessions,
        };
        let (egress, ingress) = (Direction::Egress, Direction::Ingress);
        let web = vec![
            session(egress, 6, 5_432, "db"),
            session(egress, 6, 3_306, "db"),
            session(egress, 6, 3_306, "db"),
            session(egress, 1, 2, "db"),
        ];
        let db = vec![
            session(ingress, 6, 22, "web"),
            session(ingress, 6, 5_432, "web"),
        ];
        let listing = [of("web", "web", web), of("db", "db", db)];
        fs::write(file("s"), serde_json::to_vec(&listing).expect("plain")).expect("written");
        let args = Simulate {
            policy: vec![file("p")],
            sessions: vec![file("s")],
            live: false,
            wait: 0,
            old: Vec::new(),
            estate: None,
            date: None,
        };
        let answer = run(&args, &Caller::nobody(), 1_790_000_000_000).expect("an answer");
        assert_eq!(answer.ending, Ending::No);
        let told = (&answer.value["kept"], &answer.value["cut"]);
        assert_eq!(told, (&json!(3), &json!(3)));
        let groups = answer.value["groups"].as_array().expect("a list");
        let groups: Vec<_> = groups
            .iter()
            .map(|one| (&one["guest"], &one["sessions"], &one["cut_by"]))
            .collect();
        let expected = [
            (json!("web"), json!(2), json!("guard/old")),
            (json!("db"), json!(1), json!(null)),
        ];
        let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a, b, c)).collect();
        assert_eq!(groups, expected);
    }

    #[test]
    fn what_no_session_shows_is_told_by_the_policy_that_holds_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let more = "allow back from zone:db to zone:web service tcp/9000\n";
        let old = POLICY.replace("deny old", &format!("{more}allow old"));
        fs::write(file("old"), old).expect("written");
        fs::write(file("new"), POLICY).expect("written");
        let listing = [OfVnic {
            host: "a".parse().expect("a host"),
            guest: "web".parse().expect("a guest"),
            labels: [("zone".into(), "web".into())].into(),
            generation: lictor_types::Generation(1),
            sessions: vec![
                session(Direction::Egress, 6, 3_306, "db"),
                session(Direction::Egress, 6, 3_306, "db"),
                session(Direction::Egress, 6, 5_432, "db"),
            ],
        }];
        fs::write(file("s"), serde_json::to_vec(&listing).expect("plain")).expect("written");
        let check = |old: &str, sessions: &[&str], expected: Value, ending: Ending| {
            let args = Simulate {
                policy: vec![file("new")],
                sessions: sessions.iter().map(|name| file(name)).collect(),
                live: false,
                wait: 0,
                old: vec![file(old)],
                estate: None,
                date: None,
            };
            let answer = run(&args, &Caller::nobody(), 1_790_000_000_000).expect("an answer");
            let refused = answer.value["refused"].as_array().expect("a list");
            let told = refused
                .iter()
                .map(|one| json!([one["service"], one["live"]]));
            assert_eq!(told.collect::<Value>(), expected, "{sessions:?}");
            assert_eq!(answer.ending, ending);
        };
        let live = json!([["tcp/9000", 0], ["tcp/3306", 2]]);
        check("old", &["s"], live, Ending::No);
        // Nobody knows which sessions live: that is not the same as none.
        let unknown = json!([["tcp/9000", null], ["tcp/3306", null]]);
        check("old", &[], unknown, Ending::No);
        check("new", &[], json!([]), Ending::Done);
    }
}
