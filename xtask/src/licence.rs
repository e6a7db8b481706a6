//! The licence of everything linked, held against the list in deny.toml.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// Every crate whose licence expression the allowed licences do not satisfy.
pub(crate) fn faults(deny: &str, metadata: &Value) -> Result<Vec<String>> {
    let allowed = allowed(deny)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let foreign = packages
        .iter()
        .filter(|package| !package["source"].is_null());
    let mut faults = Vec::new();
    for package in foreign {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(expression) if satisfied(expression, &allowed) => {}
            Some(expression) => {
                faults.push(format!(
                    "{name} has licence {expression:?}, which deny.toml allows not"
                ));
            }
            None => faults.push(format!("{name} states no licence")),
        }
    }
    Ok(faults)
}

fn allowed(deny: &str) -> Result<BTreeSet<String>> {
    let deny: toml::Value = toml::from_str(deny).context("deny.toml")?;
    let list = deny
        .get("licenses")
        .and_then(|licences| licences.get("allow")?.as_array())
        .context("deny.toml has no list `allow` in [licenses]")?;
    Ok(list
        .iter()
        .filter_map(|name| name.as_str())
        .map(str::to_owned)
        .collect())
}

/// Evaluates an SPDX expression: OR binds loosest, then AND; `A/B` is the old form of OR; `X WITH
/// Y` is a licence of its own. What does not parse is not satisfied.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        words: &words,
        allowed,
    };
    parser
        .any()
        .is_some_and(|result| result && parser.words.is_empty())
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut result = self.all()?;
        while self.take("OR") {
            result |= self.all()?;
        }
        Some(result)
    }

    fn all(&mut self) -> Option<bool> {
        let mut result = self.one()?;
        while self.take("AND") {
            result &= self.one()?;
        }
        Some(result)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let result = self.any()?;
            return self.take(")").then_some(result);
        }
        let mut name = self.next()?.to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.next()?);
        }
        Some(self.allowed.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_satisfied_as_spdx_says() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]
            .map(String::from)
            .into();
        let check = |text, expected| assert_eq!(satisfied(text, &allowed), expected, "{text}");
        check("MIT", true);
        check("GPL-3.0-only", false);
        check("GPL-3.0-only OR MIT", true);
        check("GPL-3.0-only/MIT", true);
        check("GPL-3.0-only AND MIT", false);
        check("MIT AND ISC", true);
        check("MIT OR GPL-3.0-only AND Zlib", true);
        check("(MIT OR GPL-3.0-only) AND Zlib", false);
        check("Apache-2.0 WITH LLVM-exception", true);
        check("Apache-2.0", false);
        for broken in ["", "(MIT", "MIT)", "MIT OR", "MIT ISC"] {
            check(broken, false);
        }
    }
}
