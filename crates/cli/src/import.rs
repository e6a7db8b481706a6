//! `lictor policy import`: another firewall's rules as a policy, an estate and a report.

use crate::output::{Answer, Cell, Page, Tone};
use crate::{CliError, files};
use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser as _};
use lictor_import::{Effect, Format, ImportError, Imported, SOURCE_BYTES_MAX, Source};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Files of one source.
const FILES_MAX: usize = 65_536;
/// Directories of a source inside each other.
const DEPTH_MAX: usize = 32;
/// What the import writes into its directory.
const POLICY: &str = "policy.lictor";
const ESTATE: &str = "estate.json";
const REPORT: &str = "report.json";

/// What `lictor policy import` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Import {
    /// What the files are.
    #[arg(long, value_parser = formats())]
    from: Format,
    /// A file, or a directory whose files are read together.
    path: PathBuf,
    /// The policy's name.
    #[arg(long, default_value = "imported")]
    name: String,
    /// A directory that is not there yet: gets policy.lictor, report.json and, where the source
    /// has guests, estate.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn formats() -> impl clap::builder::TypedValueParser<Value = Format> {
    let names = Format::ALL.map(|(name, _)| name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Format>())
}

pub(crate) fn run(args: &Import) -> Result<Answer, CliError> {
    let mut sources = Vec::new();
    gather(&args.path, 0, &mut sources)?;
    let imported = lictor_import::import(args.from, &args.name, &sources);
    let imported = imported.map_err(|error| match error {
        ImportError::File { path, what } => CliError::file(Path::new(&path), what),
        error => CliError::file(&args.path, error.to_string()),
    })?;
    fs::create_dir(&args.out).map_err(|error| CliError::io(&args.out, &error))?;
    let written = write(args, &imported)?;
    let count = |effect| {
        imported
            .notes
            .iter()
            .filter(|note| note.effect == effect)
            .count()
    };
    let (opens, closes) = (count(Effect::Opens), count(Effect::Closes));
    let mut page = Page::default();
    let notes = imported.notes.iter().map(|note| {
        let effect = match note.effect {
            Effect::Opens => Cell::toned(Tone::Bad, "opens"),
            Effect::Closes => Cell::toned(Tone::Doubt, "closes"),
            Effect::None => "-".into(),
        };
        [
            effect,
            note.place.as_str().into(),
            note.what.as_str().into(),
        ]
    });
    page = page.table(["effect", "where", "what could not be said"], notes);
    let guests = imported.estate.as_ref().map(|estate| estate.guests.len());
    let sum = format!(
        "{}: {} rules, {} guests; {opens} notes open something, {closes} close something",
        args.out.display(),
        imported.rules,
        guests.unwrap_or(0),
    );
    let tone = if opens > 0 { Tone::Doubt } else { Tone::Good };
    page = page.line(Cell::toned(tone, sum));
    let value = json!({
        "from": args.from.to_string(), "rules": imported.rules, "guests": guests,
        "files": written, "notes": imported.notes, "opens": opens, "closes": closes,
    });
    Ok(Answer::new(page, &value))
}

/// The files by what they are.
fn write(args: &Import, imported: &Imported) -> Result<serde_json::Value, CliError> {
    let path = |name: &str| args.out.join(name);
    let json = |value: &serde_json::Value| format!("{value:#}\n").into_bytes();
    files::write_new(&path(POLICY), imported.policy.as_bytes())?;
    let report = json!({ "from": args.from.to_string(), "notes": imported.notes });
    files::write_new(&path(REPORT), &json(&report))?;
    if let Some(estate) = &imported.estate {
        files::write_new(&path(ESTATE), &json(&json!(estate)))?;
    }
    let shown = |name: &str| path(name).display().to_string();
    Ok(json!({
        "policy": shown(POLICY),
        "report": shown(REPORT),
        "estate": imported.estate.as_ref().map(|_| shown(ESTATE)),
    }))
}

/// Every file, in the order of the paths. Links are not followed.
fn gather(path: &Path, depth: usize, sources: &mut Vec<Source>) -> Result<(), CliError> {
    if path.is_dir() {
        if depth >= DEPTH_MAX {
            return Err(CliError::file(
                path,
                format!("more than {DEPTH_MAX} directories deep"),
            ));
        }
        let failed = |error: std::io::Error| CliError::io(path, &error);
        let mut inside = Vec::new();
        for item in fs::read_dir(path).map_err(failed)? {
            let item = item.map_err(failed)?;
            if !item.file_type().map_err(failed)?.is_symlink() {
                inside.push(item.path());
            }
        }
        inside.sort();
        return inside
            .iter()
            .try_for_each(|item| gather(item, depth + 1, sources));
    }
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    if depth > 0 && hidden {
        return Ok(());
    }
    let used: usize = sources.iter().map(|source| source.bytes.len()).sum();
    if sources.len() >= FILES_MAX {
        return Err(CliError::file(
            path,
            format!("more than {FILES_MAX} files; import a part"),
        ));
    }
    let bytes = files::read(path, SOURCE_BYTES_MAX.saturating_sub(used))?;
    let path = path.display().to_string();
    sources.push(Source { path, bytes });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectivity::{self, Connectivity};
    use crate::output::{Colour, Output};

    const DAY_MS: u64 = 20_784 * 24 * 60 * 60 * 1_000;

    #[test]
    fn what_was_imported_is_read_by_the_next_command() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        let groups = r#"{"SecurityGroups":[{"GroupId":"sg-1","GroupName":"web","IpPermissions":
            [{"IpProtocol":"tcp","FromPort":443,"ToPort":443,
              "UserIdGroupPairs":[{"GroupId":"sg-1"}],"PrefixListIds":[{"PrefixListId":"pl"}]}],
            "IpPermissionsEgress":[{"IpProtocol":"-1","IpRanges":[{"CidrIp":"0.0.0.0/0"}]}]}],
            "Reservations":[{"Instances":[
            {"InstanceId":"i-1","SecurityGroups":[{"GroupId":"sg-1"}]},
            {"InstanceId":"i-2","SecurityGroups":[{"GroupId":"sg-1"}]}]}]}"#;
        fs::write(path("sg.json"), groups).expect("written");
        let args = |out: &str| Import {
            from: Format::Sg,
            path: path("sg.json"),
            name: "aws".into(),
            out: path(out),
        };
        let answer = run(&args("out")).expect("imported");
        assert_eq!(
            (&answer.value["rules"], &answer.value["closes"]),
            (&json!(2), &json!(1))
        );
        let error = run(&args("out")).err().expect("is there").to_string();
        assert!(error.contains("choose another path"), "{error}");
        let asked = Connectivity::of(path("out/policy.lictor"), path("out/estate.json"));
        let listed = connectivity::run(&asked, DAY_MS);
        let mut printed = Vec::new();
        let listed = listed.expect("compiles");
        let json = (Output::Json, Colour::Off);
        listed.write(&mut printed, json).expect("printed");
        let listed: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
        let pairs = listed["connections"].as_array().expect("a list").iter();
        let guests = pairs.filter(|one| one["to_kind"] == "guest" && one["from_kind"] == "guest");
        let shown: Vec<String> = guests
            .map(|one| format!("{} {} {}", one["from"], one["to"], one["services"]))
            .collect();
        assert_eq!(
            shown,
            [
                "\"i-1\" \"i-2\" [\"tcp/443\"]",
                "\"i-2\" \"i-1\" [\"tcp/443\"]"
            ]
        );
        fs::write(path("sg.json"), "{").expect("written");
        let error = run(&args("other")).err().expect("no JSON").to_string();
        assert!(
            error.contains("sg.json") && !path("other").exists(),
            "{error}"
        );
    }
}
