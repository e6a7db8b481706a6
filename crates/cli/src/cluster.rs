//! `lictor cluster`: whether the hosts among which guests move are alike.

use crate::CliError;
use crate::caller::Caller;
use crate::guest::verified;
use crate::output::{Answer, Cell, Ending, Page, Printing, Tone};
use clap::{Args, Subcommand};
use lictor_types::{GuestId, HostId};
use lictor_wire::api::{HostEntry, HostReport};
use lictor_wire::{Bindings, VerifiedRelease};
use serde::Serialize;
use std::collections::BTreeMap;

/// How far a host's clock may seem off before it is named. What is compared is when a report was
/// made and when it was received, so that a slow network looks like a slow clock.
pub const CLOCK_MS_MAX: u64 = 5_000;

/// Compare the hosts of a cluster.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Say in what the hosts of a cluster differ: controls, versions, what is read back from the
    /// kernel, clocks, evidence. Ends with 1 if they do.
    Parity {
        /// The cluster.
        #[arg(long, default_value = "main")]
        cluster: String,
        /// Only the hosts to which this guest may move, and the controls that it requires.
        #[arg(long)]
        guest: Option<GuestId>,
    },
}

/// One host, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Compared {
    host: HostId,
    protected: bool,
    heard_s: Option<u64>,
    /// How far its clock seems off, in milliseconds.
    clock_ms: Option<i64>,
    /// Entries of its evidence that the manager has.
    evidence: u64,
    report: Option<HostReport>,
}

/// Hosts that differ in one respect: each value with its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    what: String,
    values: BTreeMap<String, Vec<HostId>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Parity {
    cluster: String,
    guest: Option<GuestId>,
    alike: bool,
    differences: Vec<Difference>,
    hosts: Vec<Compared>,
}

pub(crate) fn run(args: &ClusterArgs, now_ms: u64) -> Result<Answer, CliError> {
    let Action::Parity { cluster, guest } = &args.action;
    let identity = args.caller.open()?;
    let inventory = identity.client.inventory()?;
    let (verified, bindings) = verified(&identity)?;
    let (names, required) = wanted(cluster, guest.as_ref(), (&verified, &bindings))?;
    let find = |host: &HostId| inventory.hosts.iter().find(|one| one.host == *host);
    let hosts = names.iter().map(|host| compared(host, find(host), now_ms));
    let hosts: Vec<Compared> = hosts.collect();
    let differences = differences(&hosts, &required);
    let parity = Parity {
        cluster: cluster.clone(),
        guest: guest.clone(),
        alike: differences.is_empty(),
        differences,
        hosts,
    };
    let ending = if parity.alike {
        Ending::Done
    } else {
        Ending::No
    };
    Ok(Answer::new(page(&parity), &parity).ending(ending))
}

/// The hosts to compare, and the controls that each of them must have.
fn wanted(
    cluster: &str,
    guest: Option<&GuestId>,
    (release, bindings): (&VerifiedRelease, &Bindings),
) -> Result<(Vec<HostId>, Vec<String>), CliError> {
    let release = release.release();
    let roster = release.roster.iter().filter(|one| one.cluster == cluster);
    let mut names: Vec<HostId> = roster.map(|one| one.host.clone()).collect();
    if names.is_empty() {
        let what = format!("the newest release has no host in {cluster:?}; see its roster");
        return Err(CliError::argument("--cluster", what));
    }
    let Some(guest) = guest else {
        return Ok((names, Vec::new()));
    };
    let binding = bindings.guest(guest).ok_or_else(|| {
        let what = format!("no guest {guest} is bound; see `lictor guest list`");
        CliError::argument("--guest", what)
    })?;
    names.retain(|host| binding.may_run_on(host));
    let policy = &release.policy;
    let required = policy
        .identity_of(&binding.labels)
        .map(|identity| policy.required_controls(identity))
        .unwrap_or_default();
    Ok((names, required.iter().map(ToString::to_string).collect()))
}

fn compared(host: &HostId, entry: Option<&HostEntry>, now_ms: u64) -> Compared {
    let report = entry.and_then(|entry| entry.report.clone());
    let heard_ms = entry.and_then(|entry| entry.heard_ms);
    let clock_ms = report
        .as_ref()
        .zip(heard_ms)
        .and_then(|(report, heard_ms)| {
            let difference = i128::from(report.time_ms) - i128::from(heard_ms);
            i64::try_from(difference).ok()
        });
    Compared {
        host: host.clone(),
        protected: entry.is_some_and(|entry| entry.protected),
        heard_s: heard_ms.map(|heard_ms| now_ms.saturating_sub(heard_ms) / 1_000),
        clock_ms,
        evidence: entry.map_or(0, |entry| entry.evidence),
        report,
    }
}

/// What is the same on alike hosts, each with its name and how it is read.
type Respect = (&'static str, fn(&HostReport) -> String);
const RESPECTS: [Respect; 7] = [
    ("agent", |one| one.agent_version.clone()),
    ("kernel", |one| one.kernel.clone()),
    ("hook", |one| one.hook.clone()),
    ("release", |one| match one.release {
        Some(digest) => format!("{} {digest}", one.generation),
        None => "none".into(),
    }),
    ("bindings", |one| one.epoch.to_string()),
    ("read back as compiled", |one| {
        yes_no(one.tables_expected == one.tables_found)
    }),
    ("hooks in place", |one| yes_no(one.hooks_ok)),
];

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn differences(hosts: &[Compared], required: &[String]) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |what: &str, good: Option<&str>, read: &dyn Fn(&Compared) -> String| {
        let mut values: BTreeMap<String, Vec<HostId>> = BTreeMap::new();
        for host in hosts {
            values
                .entry(read(host))
                .or_default()
                .push(host.host.clone());
        }
        let same = values.len() < 2;
        if !same || good.is_some_and(|good| values.keys().any(|value| value != good)) {
            let what = what.to_owned();
            found.push(Difference { what, values });
        }
    };
    compare("protected", Some("yes"), &|one| yes_no(one.protected));
    for (what, read) in RESPECTS {
        compare(what, None, &|one| {
            one.report.as_ref().map_or_else(|| "unknown".into(), read)
        });
    }
    let mut names: Vec<String> = required.to_vec();
    let reports = hosts.iter().filter_map(|one| one.report.as_ref());
    names.extend(reports.flat_map(|one| one.controls.iter().map(|control| control.name.clone())));
    names.sort_unstable();
    names.dedup();
    for name in names {
        let good = required.contains(&name);
        compare(&format!("control {name}"), None, &|one| control(one, &name));
        if good {
            let what = format!("control {name}, which the guest requires");
            compare(&what, Some("healthy"), &|one| health(one, &name));
        }
    }
    compare("clock", Some("near"), &|one| clock(one));
    found
}

fn control(one: &Compared, name: &str) -> String {
    let controls = one.report.iter().flat_map(|report| &report.controls);
    let found = controls.into_iter().find(|control| control.name == name);
    found.map_or_else(
        || "missing".into(),
        |control| format!("{} {}", control.provider, control.version),
    )
}

fn health(one: &Compared, name: &str) -> String {
    let mut controls = one.report.iter().flat_map(|report| &report.controls);
    let healthy = controls.any(|control| control.name == name && control.healthy);
    if healthy { "healthy" } else { "not healthy" }.into()
}

fn clock(one: &Compared) -> String {
    match one.clock_ms {
        None => "unknown".into(),
        Some(off) if off.unsigned_abs() <= CLOCK_MS_MAX => "near".into(),
        Some(off) => format!("{off} ms off"),
    }
}

fn page(parity: &Parity) -> Page {
    let rows = parity.hosts.iter().map(|one| {
        let report = one.report.as_ref();
        let healthy = |report: &HostReport| {
            let all = report.controls.iter();
            let named = all.map(|one| match one.healthy {
                true => format!("{} {}", one.name, one.version),
                false => format!("{} {} (not healthy)", one.name, one.version),
            });
            named.collect::<Vec<_>>().join(", ")
        };
        [
            (&one.host).into(),
            Cell::yes_no(one.protected),
            Cell::optional(report.map(|report| report.generation)),
            Cell::optional(report.and_then(|report| report.release)),
            Cell::optional(report.map(|one| yes_no(one.tables_expected == one.tables_found))),
            Cell::optional(report.map(|report| &report.agent_version)),
            Cell::optional(report.map(|report| &report.kernel)),
            Cell::optional(report.map(healthy)),
            Cell::optional(one.clock_ms),
            Cell::optional(one.heard_s),
            one.evidence.into(),
        ]
    });
    let head = [
        "host",
        "protected",
        "release",
        "digest",
        "read back",
        "agent",
        "kernel",
        "controls",
        "clock ms",
        "heard s",
        "evidence",
    ];
    let whose = parity
        .guest
        .as_ref()
        .map(|guest| format!("hosts to which {guest} may move"));
    let page = Page::default().fields([
        ("cluster", parity.cluster.as_str().into()),
        ("compared", Cell::optional(whose)),
        ("alike", Cell::yes_no(parity.alike)),
    ]);
    let page = page.table(head, rows);
    if parity.alike {
        return page;
    }
    let differs = parity.differences.iter().flat_map(|difference| {
        difference.values.iter().map(|(value, hosts)| {
            let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            [
                Cell::toned(Tone::Doubt, &difference.what),
                value.into(),
                hosts.join(", ").into(),
            ]
        })
    });
    page.section("in what they differ")
        .table(["what", "is", "on"], differs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_types::{Digest, Epoch, Generation};
    use lictor_wire::api::ControlState;

    fn host(name: &str) -> Compared {
        let digest = Digest::of(b"tables");
        let control = ControlState {
            name: "firewall".into(),
            provider: "lictor".into(),
            version: "1".into(),
            healthy: true,
        };
        Compared {
            host: HostId::new(name).expect("a name"),
            protected: true,
            heard_s: Some(1),
            clock_ms: Some(-20),
            evidence: 7,
            report: Some(HostReport {
                host: HostId::new(name).expect("a name"),
                time_ms: 1,
                agent_version: "1".into(),
                kernel: "6.1".into(),
                hook: "tcx".into(),
                generation: Generation(3),
                release: Some(digest),
                epoch: Epoch(5),
                tables_expected: digest,
                tables_found: digest,
                hooks_ok: true,
                controls: vec![control],
                guests: Vec::new(),
                refused: None,
                peer: "127.0.0.1:7443".parse().expect("an address"),
            }),
        }
    }

    fn check(change: impl FnOnce(&mut Compared), required: &[&str], expected: &[&str]) {
        let mut hosts = [host("a"), host("b")];
        change(&mut hosts[1]);
        let required: Vec<String> = required.iter().map(ToString::to_string).collect();
        let found = differences(&hosts, &required);
        let found: Vec<&str> = found.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(found, expected);
    }

    fn report(one: &mut Compared) -> &mut HostReport {
        one.report.as_mut().expect("it has reported")
    }

    #[test]
    fn alike_hosts_have_no_differences_and_each_difference_is_named() {
        check(|_| {}, &["firewall"], &[]);
        check(
            |one| report(one).generation = Generation(4),
            &[],
            &["release"],
        );
        check(|one| report(one).kernel = "6.12".into(), &[], &["kernel"]);
        check(|one| report(one).epoch = Epoch(6), &[], &["bindings"]);
        check(|one| one.clock_ms = Some(5_001), &[], &["clock"]);
        check(|one| one.clock_ms = Some(5_000), &[], &[]);
        check(|one| one.evidence = 0, &[], &[]);
        check(
            |one| report(one).tables_found = Digest::of(b"other"),
            &[],
            &["read back as compiled"],
        );
        check(
            |one| report(one).controls[0].version = "2".into(),
            &[],
            &["control firewall"],
        );
    }

    #[test]
    fn what_a_guest_requires_and_no_host_has_is_a_difference_too() {
        let ids = "control ids, which the guest requires";
        check(|_| {}, &["ids"], &[ids]);
        let firewall = "control firewall, which the guest requires";
        check(
            |one| report(one).controls[0].healthy = false,
            &["firewall"],
            &[firewall],
        );
    }

    #[test]
    fn a_host_that_was_never_heard_differs_in_all() {
        let mut silent = host("b");
        (silent.protected, silent.report, silent.clock_ms) = (false, None, None);
        let found = differences(&[host("a"), silent], &[]);
        let named = found.iter().any(|one| one.what == "protected");
        assert!(named && found.len() > RESPECTS.len(), "{found:?}");
    }
}
