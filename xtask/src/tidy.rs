//! Tidiness: lengths and words. Works on text that rustfmt has formatted, so a function ends at the
//! first closing brace with its own indentation.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

const COLUMNS_MAX: usize = 100;
const FUNCTION_MAX: usize = 70;
const FILE_MAX: usize = 700;

/// Spelt in halves, so that this file passes its own rule.
const BANNED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("#[ig", "nore"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Columns,
    Function,
    File,
}

/// Files that a rule does not fit, each with its reason.
const EXEMPT: [(&str, Rule, &str); 0] = [];

/// Every fault in the files that git knows or would add.
pub(crate) fn faults(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in files(root)? {
        let path = root.join(&file);
        // A file that is deleted and not yet committed is still listed.
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        faults.extend(check(&file, &text));
    }
    for (name, rule, reason) in EXEMPT {
        if !root.join(name).exists() {
            faults.push(format!(
                "tidy exempts {name} from {rule:?} ({reason}), but it is gone"
            ));
        }
    }
    Ok(faults)
}

fn files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .args(["--", "*.rs", "*.c", "*.h"])
        .current_dir(root)
        .output()
        .context("cannot run git, which lists the files to check")?;
    if !output.status.success() {
        bail!(
            "git ls-files: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

fn exempt(file: &str, rule: Rule) -> bool {
    EXEMPT
        .iter()
        .any(|(name, other, _)| *name == file && *other == rule)
}

/// The faults of one file. Test code may be long: its cases are data.
fn check(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", index + 1);
        let columns = line.chars().count();
        if columns > COLUMNS_MAX && !exempt(file, Rule::Columns) {
            faults.push(format!(
                "{place}: {columns} columns; expected at most {COLUMNS_MAX}"
            ));
        }
        for word in BANNED.iter().filter(|word| line.contains(**word)) {
            faults.push(format!(
                "{place}: {word:?} is banned; finish it or write an issue"
            ));
        }
    }
    let code = production(file, text);
    let lines = code.iter().filter(|line| is_code(line)).count();
    if lines > FILE_MAX && !exempt(file, Rule::File) {
        faults.push(format!(
            "{file}: {lines} lines of code; expected at most {FILE_MAX}"
        ));
    }
    if !exempt(file, Rule::Function) && file.ends_with(".rs") {
        faults.extend(long_functions(file, &code));
    }
    faults
}

/// The lines before the test module; none of a file that is all tests.
fn production<'a>(file: &str, text: &'a str) -> Vec<&'a str> {
    if file
        .split('/')
        .any(|part| part == "tests" || part == "tests.rs")
    {
        return Vec::new();
    }
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .collect()
}

fn is_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

fn long_functions(file: &str, lines: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((indent, name)) = function(line) else {
            continue;
        };
        let closing = format!("{}}}", " ".repeat(indent));
        let body = lines[start..].iter().take_while(|line| **line != closing);
        // A declaration without a body ends where it began.
        let declared = |line: &str| line.ends_with(';') && line.find('{').is_none();
        let count = if declared(line) {
            1
        } else {
            body.filter(|l| is_code(l)).count() + 1
        };
        if count > FUNCTION_MAX {
            faults.push(format!(
                "{file}:{}: function {name} has {count} lines; expected at most {FUNCTION_MAX}",
                start + 1
            ));
        }
    }
    faults
}

/// The indentation and name of the function that begins on this line.
fn function(line: &str) -> Option<(usize, &str)> {
    let words = line.trim_start();
    let indent = line.len() - words.len();
    let (before, rest) = words.split_once("fn ")?;
    let qualifier = |word: &str| {
        let pure = word.split('(').next().unwrap_or(word);
        matches!(
            pure,
            "pub" | "const" | "async" | "unsafe" | "extern" | "in" | "\"C\""
        )
    };
    let single = !before.split_whitespace().all(qualifier) || line.trim_end().ends_with('}');
    if single {
        return None;
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    (end > 0).then(|| (indent, &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(file: &str, text: &str, expected: &[&str]) {
        assert_eq!(check(file, text), expected, "{text}");
    }

    fn function_of(lines: usize) -> String {
        format!(
            "    pub(crate) fn f() {{\n{}    }}\n",
            "        g();\n".repeat(lines - 2)
        )
    }

    #[test]
    fn each_limit_holds_at_itself_and_fails_one_above() {
        expect("a.rs", &"x".repeat(100), &[]);
        expect(
            "a.rs",
            &"é".repeat(101),
            &["a.rs:1: 101 columns; expected at most 100"],
        );
        expect("a.rs", &function_of(70), &[]);
        let fault = "a.rs:1: function f has 71 lines; expected at most 70";
        expect("a.rs", &function_of(71), &[fault]);
        expect("a.rs", &"x\n".repeat(700), &[]);
        expect(
            "a.rs",
            &"x\n".repeat(701),
            &["a.rs: 701 lines of code; expected at most 700"],
        );
    }

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let padded = function_of(70).replacen("g();\n", "g();\n\n        // Why.\n", 5);
        expect("a.rs", &padded, &[]);
        expect(
            "a.rs",
            &format!("x\n#[cfg(test)]\n{}", function_of(90)),
            &[],
        );
        expect("crates/a/tests/b.rs", &function_of(90), &[]);
    }

    #[test]
    fn banned_words_are_found_with_their_place() {
        for word in BANNED {
            let text = format!("x\n// {word}");
            let fault = format!("a.c:2: {word:?} is banned; finish it or write an issue");
            expect("a.c", &text, &[&fault]);
        }
    }
}
