//! `lictor host`: hosts as the manager knows them, and the agent of this one.

pub(crate) mod listing;

use crate::caller::Caller;
use crate::install::{self, InstallArgs};
use crate::local::Agent;
use crate::output::{Answer, Cell, Page, Printing, Tone};
use crate::show::list;
use crate::{CliError, Setting};
use clap::{Args, Subcommand};
use lictor_types::{Mode, VnicName};
use lictor_wire::api::{HostEntry, HostReport};
use lictor_wire::local::{Attach, Request, Response};
use lictor_wire::{MoreAddress, RosterHost};
use serde_json::json;
use std::net::IpAddr;
use std::path::PathBuf;

/// List hosts; attach, detach and look at vnics of this one.
#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// List the hosts that the manager knows.
    List {
        #[command(flatten)]
        caller: Caller,
    },
    /// Print the hosts as [[roster]] entries of a site file. Those who sign compare the keys with
    /// what the hosts themselves print.
    Roster {
        /// The cluster within which guests move.
        #[arg(long, default_value = "main")]
        cluster: String,
        #[command(flatten)]
        caller: Caller,
    },
    /// Write what libvirt and systemd need to know of the agent on this host.
    Install(InstallArgs),
    /// Take away what `install` wrote.
    Uninstall(InstallArgs),
    /// Attach to a device of this host before it can carry traffic.
    Attach(AttachArgs),
    /// Let go of a vnic whose device is gone or will go.
    Detach {
        /// The vnic's name.
        #[arg(long)]
        name: VnicName,
        #[command(flatten)]
        agent: Agent,
    },
    /// Say what a denial does at the hypervisor's own device: nothing but being counted, dropping
    /// the packet for a time and then observing again by itself, or dropping it for good.
    Mode {
        /// From the next packet on.
        #[arg(value_enum)]
        mode: ModeArg,
        /// How long a trial lasts unless `enforce` confirms it: 1 to 3600.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        #[command(flatten)]
        agent: Agent,
    },
    /// Say everything about this host.
    Status {
        #[command(flatten)]
        agent: Agent,
    },
    /// Write how many packets each rule has met on this host, for `lictor policy lint --counters`.
    Counters(listing::Counters),
    /// Write the live sessions of this host's vnics, for `lictor policy simulate`.
    Sessions(listing::Sessions),
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ModeArg {
    /// Count and report, drop nothing.
    Observe,
    /// Enforce for some seconds, then observe again.
    Trial,
    /// Enforce, and again after the next start of the host.
    Enforce,
}

#[derive(Debug, Clone, Args)]
struct AttachArgs {
    /// The device.
    #[arg(long)]
    device: String,
    /// The vnic's name, when the device is called otherwise.
    #[arg(long)]
    name: Option<VnicName>,
    /// Where QEMU offers the agent a QMP socket; none for a container.
    #[arg(long, value_name = "SOCKET")]
    qmp: Option<PathBuf>,
    /// An address that the management layer has given to the guest. Once for each.
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// An address of another kind: routed:PREFIX, shared:GROUP:ADDRESS or vlan:ID:ADDRESS. Once for
    /// each.
    #[arg(long = "more-address", value_name = "KIND:ADDRESS")]
    more: Vec<MoreAddress>,
    /// The guest comes from another host instead of starting here.
    #[arg(long)]
    incoming: bool,
    #[command(flatten)]
    agent: Agent,
}

pub(crate) fn run(args: &HostArgs, setting: &Setting) -> Result<Answer, CliError> {
    match &args.action {
        Action::List { caller } => hosts(caller, setting.now_ms),
        Action::Roster { cluster, caller } => roster(caller, cluster),
        Action::Install(args) => install::install(args),
        Action::Uninstall(args) => install::uninstall(args),
        Action::Attach(attach) => self::attach(attach),
        Action::Counters(args) => listing::counters(args),
        Action::Sessions(args) => listing::sessions(args),
        Action::Detach { name, agent } => {
            match agent.ask(&Request::Detach { name: name.clone() })? {
                Response::Detached => {
                    let page = Page::default().fields([("detached", name.into())]);
                    Ok(Answer::new(page, &json!({ "detached": name })))
                }
                other => Err(agent.unexpected(&other)),
            }
        }
        Action::Mode {
            mode,
            seconds,
            agent,
        } => set_mode(*mode, *seconds, agent),
        Action::Status { agent } => match agent.ask(&Request::Status)? {
            Response::Status(report) => Ok(Answer::new(status(&report), &report)),
            other => Err(agent.unexpected(&other)),
        },
    }
}

fn set_mode(mode: ModeArg, seconds: u64, agent: &Agent) -> Result<Answer, CliError> {
    let request = Request::HostMode {
        mode: match mode {
            ModeArg::Observe => Mode::Observe,
            ModeArg::Trial => Mode::Trial,
            ModeArg::Enforce => Mode::Enforce,
        },
        trial_s: seconds,
    };
    match agent.ask(&request)? {
        Response::HostMode { mode } => {
            let until = (mode == Mode::Trial).then(|| format!("observed again after {seconds} s"));
            let fields = [
                ("mode", mode_name(mode).into()),
                ("ends", Cell::optional(until)),
            ];
            Ok(Answer::new(
                Page::default().fields(fields),
                &json!({ "mode": mode }),
            ))
        }
        other => Err(agent.unexpected(&other)),
    }
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
        Mode::Trial => "trial",
    }
}

fn hosts(caller: &Caller, now_ms: u64) -> Result<Answer, CliError> {
    let hosts = caller.open()?.client.inventory()?.hosts;
    let row = |entry: &HostEntry| {
        let report = entry.report.as_ref();
        let age = report.map(|report| {
            let seconds = now_ms.saturating_sub(report.time_ms) / 1_000;
            format!("{seconds} s ago")
        });
        [
            (&entry.host).into(),
            Cell::yes_no(entry.protected),
            Cell::optional(report.map(|report| report.generation)),
            Cell::optional(report.map(|report| report.guests.len())),
            Cell::optional(age),
            Cell::optional(report.map(|report| report.peer)),
            Cell::optional(report.and_then(|report| report.refused.as_ref())),
        ]
    };
    let head = [
        "host",
        "protected",
        "release",
        "guests",
        "heard",
        "peer",
        "refused",
    ];
    let page = Page::default().table(head, hosts.iter().map(row));
    Ok(Answer::new(page, &hosts))
}

/// Hosts of the manager's inventory as a site file takes them.
fn roster(caller: &Caller, cluster: &str) -> Result<Answer, CliError> {
    let hosts = caller.open()?.client.inventory()?.hosts;
    let (roster, missing) = roster_of(&hosts, cluster);
    let text = roster_text(&roster, &missing);
    let missing: Vec<_> = missing.iter().map(|(host, _)| host).collect();
    let value = json!({ "roster": roster, "missing": missing });
    Ok(Answer::new(Page::default().text(text), &value))
}

type Missing<'a> = (&'a lictor_types::HostId, &'static str);

fn roster_of<'a>(hosts: &'a [HostEntry], cluster: &str) -> (Vec<RosterHost>, Vec<Missing<'a>>) {
    let (mut roster, mut missing) = (Vec::new(), Vec::new());
    for entry in hosts {
        match (&entry.key, &entry.report) {
            (Some(key), Some(report)) => roster.push(RosterHost {
                host: entry.host.clone(),
                cluster: cluster.into(),
                key: key.clone(),
                peer: report.peer,
            }),
            (None, _) => missing.push((&entry.host, "no agent is enrolled there")),
            (_, None) => missing.push((&entry.host, "its agent has not reported yet")),
        }
    }
    (roster, missing)
}

fn roster_text(roster: &[RosterHost], missing: &[Missing<'_>]) -> String {
    let entry = |one: &RosterHost| {
        let value = toml::to_string(one).expect("a roster entry is a flat table");
        format!("[[roster]]\n{value}")
    };
    let entries = roster.iter().map(entry);
    let left_out = missing
        .iter()
        .map(|(host, why)| format!("# {host} is left out: {why}\n"));
    entries.chain(left_out).collect::<Vec<_>>().join("\n")
}

fn attach(args: &AttachArgs) -> Result<Answer, CliError> {
    let request = Request::Attach(Attach {
        device: args.device.clone(),
        name: args.name.clone(),
        qmp: args.qmp.clone(),
        addresses: args.addresses.clone(),
        more: args.more.clone(),
        incoming: args.incoming,
    });
    let attached = match args.agent.ask(&request)? {
        Response::Attached(attached) => attached,
        other => return Err(args.agent.unexpected(&other)),
    };
    let before = attached.before_first_packet;
    let page = Page::default().fields([
        ("attached", args.device.as_str().into()),
        ("guest", (&attached.guest).into()),
        ("vnic", attached.vnic.into()),
        ("state", attached.state.into()),
        ("hook", attached.hook.as_str().into()),
        ("before the first packet", Cell::yes_no(before)),
        ("frames before", attached.excess_frames.into()),
    ]);
    Ok(Answer::new(page, &attached))
}

fn status(report: &HostReport) -> Page {
    let same = report.tables_expected == report.tables_found;
    let page = Page::default().fields([
        ("host", (&report.host).into()),
        ("agent", report.agent_version.as_str().into()),
        ("kernel", report.kernel.as_str().into()),
        ("hook", report.hook.as_str().into()),
        ("release", report.generation.into()),
        ("digest", Cell::optional(report.release)),
        ("bindings", report.epoch.into()),
        ("tables as compiled", Cell::yes_no(same)),
        ("hooks in place", Cell::yes_no(report.hooks_ok)),
        ("refused", Cell::optional(report.refused.as_ref())),
    ]);
    let controls = report.controls.iter().map(|one| {
        [
            one.name.as_str().into(),
            Cell::yes_no(one.healthy),
            one.provider.as_str().into(),
            one.version.as_str().into(),
        ]
    });
    let page = page
        .section("controls")
        .table(["control", "healthy", "provider", "version"], controls);
    let vnics = report.guests.iter().flat_map(|guest| {
        guest.vnics.iter().map(move |vnic| {
            let open = vnic.state == lictor_types::VnicState::Open;
            let tone = if open { Tone::Good } else { Tone::Doubt };
            [
                (&guest.guest).into(),
                (&vnic.name).into(),
                Cell::toned(tone, vnic.state),
                mode_name(vnic.mode).into(),
                guest.custody.into(),
                Cell::optional(guest.running.map(yes_no)),
                yes_no(guest.interlocked).into(),
                vnic.sessions.into(),
                pair(vnic.judged).into(),
                pair(vnic.allowed).into(),
                pair(vnic.device).into(),
                pair(vnic.counted).into(),
                list(&vnic.addresses).into(),
            ]
        })
    });
    let head = [
        "guest",
        "vnic",
        "state",
        "mode",
        "custody",
        "runs",
        "interlock",
        "sessions",
        "judged",
        "allowed",
        "device",
        "counted",
        "addresses",
    ];
    let page = page
        .section("vnics; packets are from the guest / toward it")
        .table(head, vnics);
    past_the_hooks(page, report)
}

/// The guests' NICs that no hook guards, if there are any.
fn past_the_hooks(page: Page, report: &HostReport) -> Page {
    let unguarded = report.guests.iter().flat_map(|guest| {
        guest.unguarded.iter().map(move |one| {
            [
                (&guest.guest).into(),
                Cell::toned(Tone::Bad, &one.nic),
                one.reason.as_str().into(),
            ]
        })
    });
    if report.guests.iter().all(|guest| guest.unguarded.is_empty()) {
        return page;
    }
    page.section("NICs that no hook guards: these guests are not protected")
        .table(["guest", "NIC", "why"], unguarded)
}

const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn pair([from, toward]: [u64; 2]) -> String {
    format!("{from}/{toward}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_evidence::{KeyName, SigningKey};

    #[test]
    fn the_printed_roster_is_what_a_site_reads() {
        let name = KeyName::new("agent-a").expect("a name");
        let entry = RosterHost {
            host: "a".parse().expect("a name"),
            cluster: "main".into(),
            key: SigningKey::generate(name, &mut rand::rngs::OsRng).verify_key(),
            peer: "[2001:db8::1]:7443".parse().expect("an address"),
        };
        let silent = "b".parse().expect("a name");
        let text = roster_text(
            std::slice::from_ref(&entry),
            &[(&silent, "its agent has not reported yet")],
        );
        assert!(text.contains("# b is left out"), "{text}");
        let read: toml::Table = toml::from_str(&text).expect("it is TOML");
        let read: Vec<RosterHost> = read["roster"].clone().try_into().expect("a roster");
        assert_eq!(read, [entry]);
    }
}
