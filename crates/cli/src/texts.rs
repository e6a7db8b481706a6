//! Policy texts: one file or several, as text or in the JSON form; checked and laid out.

use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::policy::scopes;
use crate::release::Draft;
use crate::{CliError, files};
use clap::{Args, ValueEnum};
use lictor_policy::syntax::{self, Document};
use lictor_policy::{Diagnostic, Part, Policy, Severity, parse_parts, render_parts, sarif};
use lictor_types::POLICY_TEXT_BYTES_MAX;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// How a policy's files end, when a directory of them is named.
const EXTENSION: &str = "lictor";

/// The files of a policy.
#[derive(Debug, Clone, Args)]
pub(crate) struct Files {
    /// The policy: its text or its JSON form; several files, the one with the header first; or a
    /// directory, of which all *.lictor are read in the order of their names.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Files {
    pub(crate) const fn of(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// The first one's name: that of the policy, if it is the only one.
    pub(crate) fn first(&self) -> String {
        let first = self.files.first();
        first.map_or_else(String::new, |path| path.display().to_string())
    }
}

/// What `lictor policy check` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    files: Files,
    /// A release: say which of its label sets are in a computed scope that were not when it was
    /// signed, or no longer.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
}

/// What `lictor policy fmt` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fmt {
    #[command(flatten)]
    files: Files,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = To::Text)]
    to: To,
    /// Change the files instead of printing them.
    #[arg(long, conflicts_with_all = ["check", "to"])]
    write: bool,
    /// Print the names of files that are laid out otherwise, and end with 1 if there are any.
    #[arg(long, conflicts_with = "to")]
    check: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// The text.
    Text,
    /// The JSON form.
    Json,
}

/// A file, as text.
struct Text {
    path: PathBuf,
    name: String,
    bytes: Vec<u8>,
}

/// Reads the files and turns the JSON form into text.
fn read_texts(files: &Files) -> Result<Vec<Text>, CliError> {
    let mut texts = Vec::new();
    for path in paths(&files.files)? {
        let mut bytes = files::read(&path, POLICY_TEXT_BYTES_MAX)?;
        if syntax::is_json(&bytes) {
            let wrong = |error: syntax::SyntaxError| CliError::file(&path, error.to_string());
            let document = Document::from_json(&bytes).map_err(wrong)?;
            bytes = document.text().map_err(wrong)?.into_bytes();
        }
        let name = path.display().to_string();
        texts.push(Text { path, name, bytes });
    }
    Ok(texts)
}

fn paths(given: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut paths = Vec::new();
    for path in given {
        if !path.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let failed = |error: std::io::Error| CliError::io(path, &error);
        let mut inside = Vec::new();
        for item in fs::read_dir(path).map_err(failed)? {
            let item = item.map_err(failed)?.path();
            if item.extension().is_some_and(|end| end == EXTENSION) {
                inside.push(item);
            }
        }
        if inside.is_empty() {
            let what = format!("the directory has no *.{EXTENSION}; expected a policy's files");
            return Err(CliError::file(path, what));
        }
        inside.sort();
        paths.extend(inside);
    }
    Ok(paths)
}

fn parts(texts: &[Text]) -> Vec<Part<'_>> {
    texts
        .iter()
        .map(|text| Part {
            name: &text.name,
            bytes: &text.bytes,
        })
        .collect()
}

/// Reads a policy that has no errors.
pub(crate) fn read_sound(files: &Files) -> Result<Policy, CliError> {
    let texts = read_texts(files)?;
    let parts = parts(&texts);
    let (policy, diagnostics) = parse_parts(&parts);
    policy.ok_or_else(|| CliError::Policy {
        path: texts
            .first()
            .map(|text| text.path.clone())
            .unwrap_or_default(),
        diagnostics: render_parts(&diagnostics, &parts),
    })
}

/// As [`read_sound`], of one file or directory.
pub(crate) fn read_one(path: &Path) -> Result<Policy, CliError> {
    let files = vec![path.to_path_buf()];
    read_sound(&Files { files })
}

pub(crate) fn check(args: &Check) -> Result<Answer, CliError> {
    let texts = read_texts(&args.files)?;
    let signed = args.release.as_ref().map(|path| Draft::read(path));
    let signed = signed.transpose()?;
    let parts = parts(&texts);
    let (policy, diagnostics) = parse_parts(&parts);
    let is = |severity| {
        let of = |one: &&Diagnostic| one.severity == severity;
        diagnostics.iter().filter(of).count()
    };
    let (errors, warnings) = (is(Severity::Error), is(Severity::Warning));
    let mut page = Page::default();
    if !diagnostics.is_empty() {
        page = page.text(render_parts(&diagnostics, &parts));
    }
    let (tone, ending) = match policy {
        Some(_) => (Tone::Good, Ending::Done),
        None => (Tone::Bad, Ending::No),
    };
    let names: Vec<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    let file = names.join(", ");
    let rules = policy.as_ref().map(|one| one.rules().count());
    let sum = match rules {
        Some(rules) => format!("{file}: {rules} rules, {warnings} warnings"),
        None => format!("{file}: {errors} errors, {warnings} warnings"),
    };
    let mut value = json!({
        "file": file, "policy": policy.as_ref().map(|one| &one.name),
        "version": policy.as_ref().map(|one| one.version), "rules": rules,
        "errors": errors, "warnings": warnings, "diagnostics": diagnostics,
    });
    let mut page = page.line(Cell::toned(tone, sum));
    if let (Some(policy), Some(signed)) = (&policy, signed) {
        let changes = scopes::since_signed(policy, &signed.release.policy);
        page = scopes::told(page, &changes);
        value["scopes"] = json!(changes);
    }
    let answer = Answer::new(page, &value).ending(ending);
    Ok(answer.sarif(sarif(&diagnostics)))
}

pub(crate) fn fmt(args: &Fmt) -> Result<Answer, CliError> {
    let mut page = Page::default();
    let mut changed = Vec::new();
    let mut formatted = Vec::new();
    for path in paths(&args.files.files)? {
        let bytes = files::read(&path, POLICY_TEXT_BYTES_MAX)?;
        let wrong = |error: syntax::SyntaxError| CliError::file(&path, error.to_string());
        let json = syntax::is_json(&bytes);
        let document = match json {
            true => Document::from_json(&bytes),
            false => syntax::read(&files::text(&path, bytes.clone())?),
        };
        let document = document.map_err(wrong)?;
        // A file stays what it is where it is changed in its place.
        let as_json = if args.write || args.check {
            json
        } else {
            args.to == To::Json
        };
        let text = match as_json {
            true => document.to_json(),
            false => document.text().map_err(wrong)?,
        };
        if text.as_bytes() != bytes {
            changed.push(path.display().to_string());
            if args.write {
                files::replace(&path, text.as_bytes())?;
            }
        }
        if !(args.write || args.check) {
            page = page.text(text.clone());
        }
        formatted.push(json!({
            "file": path.display().to_string(), "text": text, "document": document,
        }));
    }
    if args.write || args.check {
        let word = if args.write {
            "changed"
        } else {
            "laid out otherwise"
        };
        for name in &changed {
            page = page.line(format!("{name}: {word}"));
        }
        page = page.line(format!(
            "{} of {} files: {word}",
            changed.len(),
            formatted.len()
        ));
    }
    let ending = match args.check && !changed.is_empty() {
        true => Ending::No,
        false => Ending::Done,
    };
    let value = json!({ "changed": changed, "files": formatted });
    Ok(Answer::new(page, &value).ending(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(path: &Path) -> Files {
        let files = vec![path.to_path_buf()];
        Files { files }
    }

    #[test]
    fn a_directory_is_one_policy_and_its_layout_is_changed_in_place() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        let error = read_one(dir.path()).expect_err("empty").to_string();
        assert!(error.contains("has no *.lictor"), "{error}");
        fs::write(
            path("a.lictor"),
            "policy \"p\"  version 1\nlabel a : string\n",
        )
        .expect("written");
        fs::write(path("b.lictor"), "scope s=a:x\n").expect("written");
        fs::write(path("notes.txt"), "not read").expect("written");
        let policy = read_one(dir.path()).expect("sound");
        assert!(policy.scopes.contains_key("s"));
        let run = |write, check| {
            let files = files(dir.path());
            let to = To::Text;
            fmt(&Fmt {
                files,
                to,
                write,
                check,
            })
            .expect("laid out")
        };
        assert_eq!(run(false, true).ending, Ending::No);
        assert_eq!(run(true, false).ending, Ending::Done);
        assert_eq!(run(false, true).ending, Ending::Done);
        let text = fs::read_to_string(path("b.lictor")).expect("read");
        assert_eq!(text, "scope s = a:x\n");
    }

    #[test]
    fn the_json_form_is_read_as_the_text() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("p.json");
        let text = "policy \"p\" version 4\nlabel a : string\n";
        let json = syntax::read(text).expect("sound").to_json();
        fs::write(&path, json).expect("written");
        assert_eq!(read_one(&path).expect("sound").version, 4);
        fs::write(&path, "{\"statements\": 3}").expect("written");
        let error = read_one(&path).expect_err("no list").to_string();
        assert!(error.contains("JSON form"), "{error}");
    }
}
