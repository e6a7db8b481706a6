//! `lictor policy diff`: what two versions of a policy let pass that the other one does not.

use super::{scopes, simulate};
use crate::CliError;
use crate::connectivity::read_estate;
use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::texts::{self, Files};
use clap::Args;
use lictor_analysis::{Change, Effect, PairChange, diff, diff_live, diff_pairs};
use lictor_policy::evaluate::Question;
use lictor_policy::{
    CompileInput, Compiler, Connection, ConnectivityError, Date, End, Estate, Policy, PortRange,
    connectivity,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `lictor policy diff` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyDiff {
    /// The older version: a file, or a directory of files.
    old: PathBuf,
    /// The newer version.
    new: PathBuf,
    /// The day for which rules count as expired or not; today if not given.
    #[arg(long)]
    date: Option<Date>,
    /// An estate, in JSON or TOML: which of its guests and addresses may talk otherwise, too.
    #[arg(long, value_name = "FILE")]
    estate: Option<PathBuf>,
    /// The estate under the newer version, if that has changed as well.
    #[arg(long, value_name = "FILE", requires = "estate")]
    estate_new: Option<PathBuf>,
    /// What `lictor host sessions` wrote on a host: which live sessions the newer version would
    /// cut, too. Once for each host.
    #[arg(long, value_name = "FILE")]
    sessions: Vec<PathBuf>,
}

/// Pairs that are listed; the others are counted.
const PAIRS_LISTED_MAX: usize = 100_000;

pub(crate) fn run(args: &PolicyDiff, now_ms: u64) -> Result<Answer, CliError> {
    let read = |path: &PathBuf| texts::read_sound(&Files::of(vec![path.clone()])).map(Arc::new);
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let date = args.date.unwrap_or(Date::from_unix_seconds(now_ms / 1_000));
    let path = args.estate_new.as_ref().or(args.estate.as_ref());
    let newer = path.map(|path| read_estate(path)).transpose()?;
    let sessions = (!args.sessions.is_empty())
        .then(|| simulate::live(&args.sessions, newer.as_ref(), date))
        .transpose()?;
    let found = match &sessions {
        Some((live, _)) => diff_live(&old, &new, date, live)?,
        None => diff(&old, &new, date)?,
    };
    let mut page = Page::default().fields([
        (
            "older",
            format!("{} version {}", old.name, old.version).into(),
        ),
        (
            "newer",
            format!("{} version {}", new.name, new.version).into(),
        ),
        ("rules added", list(&found.rules_added)),
        ("rules removed", list(&found.rules_removed)),
        ("rules changed", list(&found.rules_changed)),
        ("undecided", list(&found.undecided)),
    ]);
    for (sensitive, title) in [(true, "sensitive scopes"), (false, "everything else")] {
        let changes = found
            .changes
            .iter()
            .filter(|one| one.sensitive == sensitive);
        page = told(page.section(title), changes);
    }
    page = scopes::told(page, &found.scopes);
    let differs = [found.changes.is_empty(), found.scopes.is_empty()];
    let mut same = differs.iter().all(|one| *one) && found.undecided.is_empty();
    let mut value = json!({
        "old": { "policy": old.name, "version": old.version },
        "new": { "policy": new.name, "version": new.version },
        "date": date, "diff": found,
    });
    if let (Some(before), Some(path), Some(after)) = (&args.estate, path, &newer) {
        let older = read_estate(before)?;
        // One compiler for both: of the newer version it makes what the change has touched.
        let mut compiler = Compiler::new();
        let before = connections(&mut compiler, &old, (before, &older), date)?;
        let after = connections(&mut compiler, &new, (path, after), date)?;
        let mut changes = diff_pairs(&before, &after);
        same &= changes.is_empty();
        let left_out = changes.len().saturating_sub(PAIRS_LISTED_MAX);
        changes.truncate(PAIRS_LISTED_MAX);
        page = pairs(page, &changes, left_out);
        value["pairs"] = json!(changes);
        value["pairs_left_out"] = json!(left_out);
    }
    if let Some((live, skipped)) = sessions {
        let cut = lictor_analysis::simulate(&new, live.into_iter());
        same &= cut.cut.is_empty();
        page = simulate::told(page.fields([("sessions not judged", skipped.into())]), &cut);
        value["sessions"] = json!({
            "kept": cut.kept, "not_judged": skipped, "cut": cut.cut,
        });
    }
    let ending = if same { Ending::Done } else { Ending::No };
    Ok(Answer::new(page, &value).ending(ending))
}

fn connections(
    compiler: &mut Compiler,
    policy: &Arc<Policy>,
    (path, estate): (&Path, &Estate),
    date: Date,
) -> Result<Vec<Connection>, CliError> {
    let label_sets = estate.label_sets();
    let compiled = compiler.compile(policy, &CompileInput { label_sets, date })?;
    let wrong = |error: ConnectivityError| CliError::file(path, error.to_string());
    connectivity(compiled, estate, date).map_err(wrong)
}

fn pairs(page: Page, changes: &[PairChange], left_out: usize) -> Page {
    let rows = changes.iter().map(|one| {
        [
            effect(one.effect),
            one.from.to_string().into(),
            one.to.to_string().into(),
            one.service.to_string().into(),
        ]
    });
    let page = page.section("pairs of the estate");
    let page = page.table(["", "from", "to", "ports"], rows);
    match left_out {
        0 => page,
        _ => page.line(Cell::toned(Tone::Doubt, format!("and {left_out} more"))),
    }
}

fn effect(effect: Effect) -> Cell {
    match effect {
        Effect::Opens => Cell::toned(Tone::Bad, "opens"),
        Effect::Closes => Cell::toned(Tone::Doubt, "closes"),
    }
}

fn list(names: &[String]) -> Cell {
    Cell::optional((!names.is_empty()).then(|| names.join(", ")))
}

/// Changes with the rules of both versions, and with the live sessions among them.
pub(super) fn told<'a>(page: Page, changes: impl Iterator<Item = &'a Change>) -> Page {
    let head = [
        "",
        "from",
        "to",
        "ports",
        "for instance",
        "allowed by",
        "denied by",
        "live sessions",
    ];
    page.table(head, changes.map(row))
}

fn row(change: &Change) -> [Cell; 8] {
    let denied = change.denied_by.as_deref().unwrap_or("the default");
    [
        effect(change.effect),
        (&change.from).into(),
        (&change.to).into(),
        (&change.service).into(),
        packet(&change.packet).into(),
        list(&change.allowed_by),
        denied.into(),
        Cell::optional(change.live),
    ]
}

pub(super) fn packet(packet: &Question) -> String {
    let end = |end: &End| match end {
        End::Address(address) => address.to_string(),
        End::Guest(labels) if labels.is_empty() => "a guest without labels".to_owned(),
        End::Guest(labels) => {
            let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
            pairs.collect::<Vec<_>>().join(",")
        }
    };
    let (protocol, first, last) = (packet.protocol, packet.port, packet.port);
    let port = PortRange {
        protocol,
        first,
        last,
    };
    format!(
        "{} to {} {port}",
        end(&packet.source),
        end(&packet.destination)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEAD: &str = "policy \"p\" version 1\nlabel zone : one-of web db old\n";

    #[test]
    fn two_estates_are_compared_pair_by_pair_and_live_sessions_by_the_newer_labels() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let rule = "tier t allow-only { allow pg from zone:web to zone:db service tcp/5432 }\n";
        let policy = write("p", &format!("{HEAD}{rule}"));
        let estate = |zone: &str| {
            let guest = |name: &str, zone: &str, last: u8| {
                format!(
                    "[[guests]]\nname = \"{name}\"\nlabels = {{ zone = \"{zone}\" }}\n\
                     addresses = [\"10.0.0.{last}\"]\n"
                )
            };
            guest("a", zone, 1) + &guest("b", "web", 2) + &guest("c", "db", 3)
        };
        let (before, after) = (estate("web"), estate("old"));
        let (before, after) = (write("before", &before), write("after", &after));
        let session = json!({
            "key": { "segment": 1, "protocol": 6, "local": "10.0.0.3", "remote": "10.0.0.1",
                "local_port": 5432, "remote_port": 40000 },
            "opened": "ingress", "state": "established", "remote": { "guest": { "zone": "web" } },
            "rule": "t/pg", "packets": 4,
        });
        let listing = json!([{ "host": "h", "guest": "c", "labels": { "zone": "db" },
            "generation": 1, "sessions": [session] }]);
        let listing = write("s", &listing.to_string());
        let compare = |estate_new: Option<PathBuf>| {
            let args = PolicyDiff {
                old: policy.clone(),
                new: policy.clone(),
                date: None,
                estate: Some(before.clone()),
                estate_new,
                sessions: vec![listing.clone()],
            };
            run(&args, 1_790_000_000_000).expect("an answer")
        };
        let same = compare(None);
        assert_eq!(same.ending, Ending::Done, "{}", same.value);
        assert_eq!(same.value["sessions"]["kept"], 1);
        let found = compare(Some(after));
        assert_eq!(found.ending, Ending::No);
        let pairs = found.value["pairs"].as_array().expect("a list");
        let told = pairs
            .iter()
            .map(|one| (&one["effect"], &one["from"]["guest"]));
        let told: Vec<_> = told.collect();
        assert_eq!(told, [(&json!("closes"), &json!("a"))]);
        let cut = &found.value["sessions"]["cut"][0];
        assert_eq!((&cut["guest"], &cut["sessions"]), (&json!("c"), &json!(1)));
    }
}
