//! `lictor policy connectivity`: every allowed pair of an estate with its ports.

use crate::output::{Answer, Page};
use crate::texts::{self, Files};
use crate::{CliError, files};
use clap::Args;
use lictor_policy::{CompileInput, Date, Estate, Peer, compile, connectivity};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What `lictor policy connectivity` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connectivity {
    /// The policy: a file, a directory of files, or several files by repeating this.
    #[arg(long = "policy", value_name = "FILE", required = true)]
    policy: Vec<PathBuf>,
    /// The estate, in JSON or TOML: guests with labels and addresses, and hosts.
    #[arg(long, value_name = "FILE")]
    estate: PathBuf,
    /// The day for which rules count as expired or not; today if not given.
    #[arg(long)]
    date: Option<Date>,
}

#[cfg(test)]
impl Connectivity {
    pub(crate) fn of(policy: PathBuf, estate: PathBuf) -> Self {
        let (policy, date) = (vec![policy], None);
        Self {
            policy,
            estate,
            date,
        }
    }
}

pub(crate) fn run(args: &Connectivity, now_ms: u64) -> Result<Answer, CliError> {
    let policy = texts::read_sound(&Files::of(args.policy.clone()))?;
    let estate = read_estate(&args.estate)?;
    let date = args.date.unwrap_or(Date::from_unix_seconds(now_ms / 1_000));
    let label_sets = estate.label_sets();
    let compiled = compile(&policy, &CompileInput { label_sets, date })?;
    let wrong =
        |error: lictor_policy::ConnectivityError| CliError::file(&args.estate, error.to_string());
    let list = connectivity(&compiled, &estate, date).map_err(wrong)?;
    let rows = list
        .iter()
        .map(|one| [(&one.from).into(), (&one.to).into(), (&one.service).into()]);
    let quarantined: Vec<&str> = estate.quarantined(&policy).collect();
    let mut page = Page::default().table(["from", "to", "ports"], rows);
    if !quarantined.is_empty() {
        page = page.line(format!("in quarantine: {}", quarantined.join(", ")));
    }
    let connections: Vec<Value> = list
        .iter()
        .map(|one| {
            let services = one.service.ranges().iter().map(ToString::to_string);
            json!({
                "from": one.from.to_string(), "from_kind": kind(&one.from),
                "to": one.to.to_string(), "to_kind": kind(&one.to),
                "services": if one.service == lictor_policy::Service::any() {
                    vec!["any".to_owned()]
                } else {
                    services.collect()
                },
                "ranges": one.service.ranges(),
            })
        })
        .collect();
    let value = json!({
        "policy": policy.name, "version": policy.version, "date": date,
        "connections": connections, "quarantined": quarantined,
    });
    Ok(Answer::new(page, &value))
}

const fn kind(peer: &Peer) -> &'static str {
    match peer {
        Peer::Guest(_) => "guest",
        Peer::Outside(..) => "outside",
    }
}

/// Reads an estate. Every fault is named at once.
pub(crate) fn read_estate(path: &Path) -> Result<Estate, CliError> {
    let bytes = files::read(path, files::RELEASE_BYTES_MAX)?;
    let estate: Estate = if bytes.trim_ascii_start().first() == Some(&b'{') {
        let wrong = |error| CliError::file(path, format!("{error}; expected an estate"));
        serde_json::from_slice(&bytes).map_err(wrong)?
    } else {
        let wrong = |error| CliError::file(path, format!("\n{error}"));
        toml::from_str(&files::text(path, bytes)?).map_err(wrong)?
    };
    match estate.faults().as_slice() {
        [] => Ok(estate),
        faults => Err(CliError::file(path, format!("\n{}", faults.join("\n")))),
    }
}
