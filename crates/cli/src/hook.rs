//! `lictor hook`: what libvirt asks before it starts a guest. A hook must never call libvirt, which
//! waits for it; it asks the agent, and what it refuses libvirt does not do.

mod unguarded;

use crate::CliError;
use crate::domain::{Domain, QemuArgument, Tap};
use crate::local::Agent;
use crate::output::{Answer, Page, Printing};
use clap::{Args, Subcommand};
use lictor_types::GuestId;
use lictor_wire::local::{
    Attach, MovePhase, MoveStatus, Request, Response, interlock_socket, monitor_socket,
};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use unguarded::Weight;

/// Bytes of one domain's XML.
const DOMAIN_BYTES_MAX: usize = 4 << 20;
/// Milliseconds between two looks at sessions that come ahead of their guest.
const LOOK_MS: u64 = 20;
/// How often it is looked: for 30 s, in which many millions of sessions come.
const LOOKS_MAX: u64 = 30_000 / LOOK_MS;

/// Answer hooks of a management layer on this host.
#[derive(Debug, Clone, Args)]
pub struct HookArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Answer libvirt's hook for QEMU; the domain's XML comes on standard input. Ends with 1, and
    /// says why, if the guest must not start or come.
    Qemu(Qemu),
    /// Add the agent's monitor and the interlock to a domain's XML on standard input, for `virsh
    /// define`.
    Domain {
        /// Leave the interlock out, for a guest that its owner lets run where no agent is.
        #[arg(long)]
        monitor_only: bool,
        #[command(flatten)]
        agent: Agent,
    },
}

/// The arguments of libvirt's hook, in its order.
#[derive(Debug, Clone, Args)]
struct Qemu {
    /// The domain's name.
    domain: String,
    /// What libvirt is about to do.
    operation: String,
    /// At which point of that.
    sub_operation: String,
    /// More about it, or `-`.
    extra: Option<String>,
    /// The agent's state directory. A guest whose owner lets it run where no agent is then passes
    /// when none answers, by the signed policy that is kept there.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    agent: Agent,
}

/// What a hook has to do at one of libvirt's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// A guest wants to come; its XML may still be changed.
    Coming,
    /// A guest is started from a file; its XML may still be changed.
    Restoring,
    /// Nothing was made yet.
    Preparing,
    /// The taps are there, and QEMU is not.
    Starting,
    /// QEMU is there and waits; of a guest that comes, nothing has come yet.
    Started,
    /// Nothing to say.
    Other,
}

impl Point {
    fn of(operation: &str, sub_operation: &str) -> Self {
        match (operation, sub_operation) {
            ("migrate", "begin") => Self::Coming,
            ("restore", "begin") => Self::Restoring,
            ("prepare", "begin") => Self::Preparing,
            ("start", "begin") => Self::Starting,
            ("started", "begin") => Self::Started,
            _ => Self::Other,
        }
    }
}

pub(crate) fn run(args: &HookArgs, input: &mut dyn Read, now_ms: u64) -> Result<Answer, CliError> {
    match &args.action {
        Action::Qemu(qemu) => answer(qemu, input, now_ms),
        Action::Domain {
            monitor_only,
            agent,
        } => {
            let (mut domain, guest) = read(input)?;
            let run_dir = agent.run_dir()?;
            let monitor = monitor(run_dir, &guest);
            if *monitor_only {
                return rewritten(&mut domain, &[monitor]);
            }
            rewritten(&mut domain, &[interlock(run_dir, &guest), monitor])
        }
    }
}

fn answer(qemu: &Qemu, input: &mut dyn Read, now_ms: u64) -> Result<Answer, CliError> {
    let agent = &qemu.agent;
    let point = Point::of(&qemu.operation, &qemu.sub_operation);
    if point == Point::Other {
        return Ok(Answer::new(Page::default(), &Value::Null));
    }
    let (mut domain, guest) = read(input)?;
    let who = guest.clone();
    if let Some(state) = &qemu.state
        && let Some(silence) = agent.silence(&Request::MoveExpected { guest: who })
    {
        let weight = if point == Point::Starting {
            Weight::Start
        } else {
            Weight::Question
        };
        unguarded::pass((state, &guest), weight, silence, now_ms)?;
        return Ok(quiet(&guest, false));
    }
    // Without an agent nothing would come of it, so it ends before anything is made.
    let mut coming = coming(agent, &guest)?;
    if point == Point::Coming && coming.is_none() {
        coming = Some(wanted(agent, &guest)?);
    }
    match (point, &coming) {
        (Point::Coming | Point::Restoring, _) => {
            let run_dir = agent.run_dir()?;
            let arguments = [interlock(run_dir, &guest), monitor(run_dir, &guest)];
            return rewritten(&mut domain, &arguments);
        }
        (Point::Starting, _) => {
            for tap in domain.taps().map_err(of_domain)? {
                attach(agent, &guest, tap, coming.is_some())?;
            }
        }
        (Point::Started, Some(_)) => wait_for_sessions(agent, &guest)?,
        (Point::Started, None) | (Point::Preparing | Point::Other, _) => {}
    }
    Ok(quiet(&guest, coming.is_some()))
}

/// The guest's sessions come first: stopped before they are here, it would not be let in.
fn wait_for_sessions(agent: &Agent, guest: &GuestId) -> Result<(), CliError> {
    let mut last = None;
    for _ in 0..LOOKS_MAX {
        let Some(status) = coming(agent, guest)? else {
            break;
        };
        if status.phase >= MovePhase::Copied {
            return Ok(());
        }
        last = Some(status);
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    let last = last.map_or_else(
        || "given up".into(),
        |last| {
            let (phase, sessions) = (last.phase, last.sessions_sent);
            format!("{phase:?} with {sessions} sessions")
        },
    );
    Err(agent.error(format!(
        "the sessions of guest {guest} have not come, its move is {last}; `lictor move status \
         {guest}` where it runs says why"
    )))
}

/// Libvirt takes what a hook prints for a new domain, so it prints nothing.
fn quiet(guest: &GuestId, incoming: bool) -> Answer {
    Answer::new(
        Page::default(),
        &json!({ "guest": guest, "incoming": incoming }),
    )
}

fn of_domain(what: String) -> CliError {
    CliError::file(Path::new("standard input"), what)
}

fn read(input: &mut dyn Read) -> Result<(Domain, GuestId), CliError> {
    let mut xml = Vec::new();
    let mut limited = input.take(DOMAIN_BYTES_MAX as u64 + 1);
    let read = limited.read_to_end(&mut xml);
    read.map_err(|error| CliError::io(Path::new("standard input"), &error))?;
    if xml.len() > DOMAIN_BYTES_MAX {
        return Err(of_domain(format!(
            "expected a domain of at most {DOMAIN_BYTES_MAX} bytes"
        )));
    }
    let domain = Domain::parse(&xml).map_err(of_domain)?;
    let guest = domain.guest().map_err(of_domain)?;
    Ok((domain, guest))
}

fn rewritten(domain: &mut Domain, arguments: &[QemuArgument]) -> Result<Answer, CliError> {
    domain.add(arguments).map_err(of_domain)?;
    let xml = domain.print().map_err(of_domain)?;
    let value = json!({ "domain": xml });
    Ok(Answer::new(Page::default().text(xml), &value))
}

/// How far the guest is that was admitted to come here.
fn coming(agent: &Agent, guest: &GuestId) -> Result<Option<MoveStatus>, CliError> {
    let guest = guest.clone();
    match agent.ask(&Request::MoveExpected { guest })? {
        Response::Move(status) => Ok(Some(status)),
        Response::Unexpected => Ok(None),
        other => Err(agent.unexpected(&other)),
    }
}

/// Nobody has asked for the move of a guest that is about to come: both ends are asked now.
fn wanted(agent: &Agent, guest: &GuestId) -> Result<MoveStatus, CliError> {
    let who = guest.clone();
    match agent.ask(&Request::MoveWanted { guest: who })? {
        Response::Move(status) => Ok(status),
        Response::Unexpected => Err(agent.error(format!(
            "guest {guest} was not admitted to come here, and no host of the release has it; \
             start it instead"
        ))),
        Response::Refused { reasons } => {
            let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            Err(agent.error(format!(
                "guest {guest} was not admitted to come here: {}",
                reasons.join("; ")
            )))
        }
        other => Err(agent.unexpected(&other)),
    }
}

fn attach(agent: &Agent, guest: &GuestId, tap: Tap, incoming: bool) -> Result<(), CliError> {
    let device = tap.device;
    let request = Request::Attach(Attach {
        device: device.clone(),
        name: None,
        qmp: Some(monitor_socket(agent.run_dir()?, guest)),
        addresses: tap.addresses,
        more: Vec::new(),
        incoming,
    });
    match agent.ask(&request)? {
        Response::Attached(attached) if attached.guest == *guest => Ok(()),
        Response::Attached(attached) => Err(agent.error(format!(
            "{device} is bound to guest {}, but the domain is {guest}; name its tap as its own \
             binding does",
            attached.guest
        ))),
        other => Err(agent.unexpected(&other)),
    }
}

/// A comma ends a value of QEMU's options; twice it is one.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Where QEMU lets the agent ask it, beside libvirt's own monitor.
fn monitor(run_dir: &Path, guest: &GuestId) -> QemuArgument {
    let path = |run_dir: &Path| escaped(&monitor_socket(run_dir, guest));
    let (begins, open) = ("unix:", ",server=on,wait=off");
    QemuArgument {
        option: "-qmp",
        value: format!("{begins}{}{open}", path(run_dir)),
        begins: begins.into(),
        ends: format!("{}{open}", path(Path::new("/"))),
    }
}

/// QEMU does not even start with it where no agent listens.
fn interlock(run_dir: &Path, guest: &GuestId) -> QemuArgument {
    let begins = format!("dbus-vmstate,id=lictor-{guest},addr=unix:path=");
    let path = escaped(&interlock_socket(run_dir, guest));
    QemuArgument {
        option: "-object",
        value: format!("{begins}{path}"),
        begins,
        ends: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_speaks_only_before_a_guest_starts() {
        let check = |operation, sub, expected| assert_eq!(Point::of(operation, sub), expected);
        check("migrate", "begin", Point::Coming);
        check("prepare", "begin", Point::Preparing);
        check("start", "begin", Point::Starting);
        check("started", "begin", Point::Started);
        check("restore", "begin", Point::Restoring);
        check("stopped", "end", Point::Other);
        check("release", "end", Point::Other);
        check("reconnect", "begin", Point::Other);
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        hook: HookArgs,
    }

    #[test]
    fn without_an_agent_nothing_starts_or_comes() {
        use clap::Parser as _;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("agent.sock").display().to_string();
        let check = |operation: &str, vetoed: bool| {
            let line = format!("hook qemu db {operation} begin - --socket {socket}");
            let line = Line::try_parse_from(line.split(' ')).expect("a hook's arguments");
            let mut xml = &b"<domain><name>db</name></domain>"[..];
            match run(&line.hook, &mut xml, 0) {
                Ok(answer) => {
                    assert!(!vetoed, "{operation}");
                    assert_eq!(answer.page.render(crate::Colour::Off), "");
                }
                Err(error) => assert!(vetoed, "{operation}: {error}"),
            }
        };
        check("migrate", true);
        check("prepare", true);
        check("start", true);
        check("restore", true);
        check("started", true);
        check("stopped", false);
        check("reconnect", false);
    }
}
