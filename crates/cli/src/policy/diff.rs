//! `lictor policy diff`: what two versions of a policy let pass that the other one does not.

use crate::CliError;
use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::texts::{self, Files};
use clap::Args;
use lictor_analysis::{Change, Effect, diff};
use lictor_policy::evaluate::Question;
use lictor_policy::{Date, End, PortRange};
use serde_json::json;
use std::path::PathBuf;

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
}

pub(crate) fn run(args: &PolicyDiff, now_ms: u64) -> Result<Answer, CliError> {
    let read = |path: &PathBuf| texts::read_sound(&Files::of(vec![path.clone()]));
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let date = args.date.unwrap_or(Date::from_unix_seconds(now_ms / 1_000));
    let found = diff(&old, &new, date)?;
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
        let head = [
            "",
            "from",
            "to",
            "ports",
            "for instance",
            "allowed by",
            "denied by",
        ];
        page = page.section(title).table(head, changes.map(row));
    }
    let same = found.changes.is_empty() && found.undecided.is_empty();
    let value = json!({
        "old": { "policy": old.name, "version": old.version },
        "new": { "policy": new.name, "version": new.version },
        "date": date, "diff": found,
    });
    let ending = if same { Ending::Done } else { Ending::No };
    Ok(Answer::new(page, &value).ending(ending))
}

fn list(names: &[String]) -> Cell {
    Cell::optional((!names.is_empty()).then(|| names.join(", ")))
}

fn row(change: &Change) -> [Cell; 7] {
    let effect = match change.effect {
        Effect::Opens => Cell::toned(Tone::Bad, "opens"),
        Effect::Closes => Cell::toned(Tone::Doubt, "closes"),
    };
    let denied = change.denied_by.as_deref().unwrap_or("the default");
    [
        effect,
        (&change.from).into(),
        (&change.to).into(),
        (&change.service).into(),
        packet(&change.packet).into(),
        list(&change.allowed_by),
        denied.into(),
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
