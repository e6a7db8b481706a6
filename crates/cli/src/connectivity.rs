//! `lictor policy connectivity`: every allowed pair of an estate with its ports.

use crate::output::{self, Answer, Cell, Page, Rows, Tone};
use crate::texts::{self, Files};
use crate::{CliError, Colour, files};
use clap::Args;
use lictor_policy::{
    CompileInput, Compiled, Connections, Date, Estate, Peer, PortRange, Service, compile,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;
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
    let quarantined = estate.quarantined(&policy).map(str::to_owned).collect();
    let listed = Listed {
        head: json!({"policy": policy.name, "version": policy.version, "date": date}),
        compiled,
        estate,
        date,
        path: args.estate.clone(),
        quarantined,
    };
    // What can't be listed is told before a byte is printed.
    listed.connections()?;
    Ok(Answer::rows(Box::new(listed)))
}

/// All pairs, which are found again for each print: there may be millions.
struct Listed {
    head: Value,
    compiled: Compiled,
    estate: Estate,
    date: Date,
    path: PathBuf,
    quarantined: Vec<String>,
}

/// A pair as programs read it.
#[derive(Serialize)]
struct Row<'a> {
    from: String,
    from_kind: &'static str,
    ranges: &'a [PortRange],
    services: &'a [String],
    to: String,
    to_kind: &'static str,
}

impl Listed {
    fn connections(&self) -> Result<Connections<'_>, CliError> {
        let found = Connections::of(&self.compiled, &self.estate, self.date);
        found.map_err(|error| CliError::file(&self.path, error.to_string()))
    }
}

impl Rows for Listed {
    fn table(&self, out: &mut dyn Write, colour: Colour) -> Result<(), CliError> {
        let mut found = self.connections()?;
        let mut widths = ["from".len(), "to".len()];
        let mut any = false;
        let measure: Result<(), CliError> = found.each(|from, to, _| {
            any = true;
            for (width, peer) in widths.iter_mut().zip([from, to]) {
                *width = Cell::from(peer).width().max(*width);
            }
            Ok(())
        });
        measure?;
        let mut row = |cells: [Cell; 3]| {
            let mut text = String::new();
            output::write_row(&mut text, &cells, &widths, colour);
            out.write_all(text.as_bytes()).map_err(CliError::Output)
        };
        if any {
            row(["from", "to", "ports"].map(|name| Cell::toned(Tone::Head, name)))?;
        }
        found.each(|from, to, service| row([from.into(), to.into(), service.into()]))?;
        let mut page = Page::default();
        if !any {
            page = page.line("none");
        }
        if !self.quarantined.is_empty() {
            page = page.line(format!("in quarantine: {}", self.quarantined.join(", ")));
        }
        let below = page.render(colour);
        out.write_all(below.as_bytes()).map_err(CliError::Output)
    }

    fn json(&self, out: &mut dyn Write) -> Result<(), CliError> {
        let mut found = self.connections()?;
        let mut before = "\n    ";
        // Runs of pairs mostly share their ports.
        let mut last = (Service::any(), vec!["any".to_owned()]);
        out.write_all(b"{\n  \"connections\": [")
            .map_err(CliError::Output)?;
        found.each(|from, to, service| {
            if last.0 != *service {
                let names = service.ranges().iter().map(ToString::to_string);
                last = (service.clone(), names.collect());
                if *service == Service::any() {
                    last.1 = vec!["any".to_owned()];
                }
            }
            let row = Row {
                from: from.to_string(),
                from_kind: kind(from),
                ranges: service.ranges(),
                services: &last.1,
                to: to.to_string(),
                to_kind: kind(to),
            };
            let text = serde_json::to_string(&row).expect("a row has only string keys");
            let written = write!(out, "{before}{text}").map_err(CliError::Output);
            before = ",\n    ";
            written
        })?;
        let (head, quarantined) = (&self.head, json!(self.quarantined));
        writeln!(
            out,
            "\n  ],\n  \"date\": {},\n  \"policy\": {},\n  \"quarantined\": {quarantined},\n  \
             \"version\": {}\n}}",
            head["date"], head["policy"], head["version"]
        )
        .map_err(CliError::Output)
    }
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
        let wrong = |error| {
            CliError::file(
                path,
                format!("\n{error}\nexpected an estate, in JSON or TOML"),
            )
        };
        toml::from_str(&files::text(path, bytes)?).map_err(wrong)?
    };
    match estate.faults().as_slice() {
        [] => Ok(estate),
        [fault] => Err(CliError::file(path, fault)),
        faults => Err(CliError::file(path, format!("\n{}", faults.join("\n")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estate_on_the_languages_page_is_one() {
        let page = include_str!("../../../docs/policy-language.md");
        let (_, after) = page.split_once("```toml\n").expect("an estate");
        let (text, _) = after.split_once("```").expect("its end");
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("estate.toml");
        std::fs::write(&path, text).expect("write");
        let estate = read_estate(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(estate.guests.len(), 1);
        let other = text.replace("\"h2\"\n", "\"h3\"\n");
        std::fs::write(&path, other).expect("write");
        let error = read_estate(&path)
            .expect_err("a host is missing")
            .to_string();
        let said = "estate.toml: guest web-1 names host h2, which is not among `hosts`";
        assert!(error.ends_with(said), "{error}");
    }
}
