//! What is read from the agent of this host into files: rules' counters and live sessions.

use crate::local::Agent;
use crate::output::{Answer, Page};
use crate::{CliError, files};
use clap::Args;
use lictor_policy::Labels;
use lictor_types::{Generation, GuestId, HostId};
use lictor_wire::local::{LiveSession, Request, Response, SessionPage};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What `lictor host counters` takes.
#[derive(Debug, Clone, Args)]
pub(super) struct Counters {
    /// A file that this command wrote on another host: its numbers are added. Once for each.
    #[arg(long, value_name = "FILE")]
    add: Vec<PathBuf>,
    /// Where the numbers go.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    agent: Agent,
}

/// What `lictor host sessions` takes.
#[derive(Debug, Clone, Args)]
pub(super) struct Sessions {
    /// Where the sessions go.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    agent: Agent,
}

/// The live sessions of one vnic, as the file has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfVnic {
    pub(crate) host: HostId,
    pub(crate) guest: GuestId,
    pub(crate) labels: Labels,
    pub(crate) generation: Generation,
    pub(crate) sessions: Vec<LiveSession>,
}

impl From<SessionPage> for OfVnic {
    fn from(page: SessionPage) -> Self {
        Self {
            host: page.host,
            guest: page.guest,
            labels: page.labels,
            generation: page.generation,
            sessions: page.sessions,
        }
    }
}

pub(super) fn counters(args: &Counters) -> Result<Answer, CliError> {
    let mut packets: BTreeMap<String, u64> = BTreeMap::new();
    let (mut first, mut loaded) = (0, None);
    loop {
        let part = match args.agent.ask(&Request::RuleCounters { first })? {
            Response::RuleCounters(part) => part,
            other => return Err(args.agent.unexpected(&other)),
        };
        // Rules of two releases in one file would say of neither which are unused.
        if loaded.is_some_and(|known| known != part.source) {
            let what = "another release was loaded meanwhile; ask again";
            return Err(args.agent.error(what));
        }
        loaded = Some(part.source);
        first += part.packets.len();
        let done = part.packets.is_empty() || first >= part.total;
        packets.extend(part.packets);
        if done {
            break;
        }
    }
    for path in &args.add {
        add(path, &mut packets)?;
    }
    let unused = packets.values().filter(|packets| **packets == 0).count();
    write(&args.out, &packets)?;
    let page = Page::default().fields([
        ("rules", packets.len().into()),
        ("of them without a packet", unused.into()),
        ("written to", args.out.display().into()),
    ]);
    Ok(Answer::new(page, &packets))
}

/// Adds what another host has counted under the same rules.
fn add(path: &Path, packets: &mut BTreeMap<String, u64>) -> Result<(), CliError> {
    let what = "what `lictor host counters` wrote: an object of rules and numbers of packets";
    let other: BTreeMap<String, u64> = files::read_json(path, what)?;
    if !other.keys().eq(packets.keys()) {
        let what = "it has other rules than the release of this host; both need the same one";
        return Err(CliError::file(path, what));
    }
    for (rule, count) in other {
        let sum = packets.entry(rule).or_default();
        *sum = sum.saturating_add(count);
    }
    Ok(())
}

pub(super) fn sessions(args: &Sessions) -> Result<Answer, CliError> {
    let report = match args.agent.ask(&Request::Status)? {
        Response::Status(report) => report,
        other => return Err(args.agent.unexpected(&other)),
    };
    let mut all: Vec<OfVnic> = Vec::new();
    let vnics = report.guests.iter().flat_map(|guest| &guest.vnics);
    for vnic in vnics {
        let mut found: Option<OfVnic> = None;
        loop {
            let after = found.as_ref().and_then(|one| one.sessions.last());
            let request = Request::Sessions {
                vnic: vnic.name.clone(),
                after: after.map(|session| session.key),
            };
            let page = match args.agent.ask(&request)? {
                Response::Sessions(page) => *page,
                other => return Err(args.agent.unexpected(&other)),
            };
            let more = page.more;
            match &mut found {
                Some(one) => one.sessions.extend(page.sessions),
                None => found = Some(OfVnic::from(page)),
            }
            if !more {
                break;
            }
        }
        all.extend(found);
    }
    write(&args.out, &all)?;
    let rows = all.iter().map(|one| {
        let count = one.sessions.len();
        [(&one.guest).into(), (&one.host).into(), count.into()]
    });
    let page = Page::default().table(["guest", "host", "sessions"], rows);
    let page = page.line(format!("written to {}", args.out.display()));
    let count: usize = all.iter().map(|one| one.sessions.len()).sum();
    Ok(Answer::new(
        page,
        &json!({ "vnics": all.len(), "sessions": count }),
    ))
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), CliError> {
    let mut bytes = serde_json::to_vec(value).expect("only string keys");
    bytes.push(b'\n');
    files::write_new(path, &bytes)
}
