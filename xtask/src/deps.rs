//! Each third-party crate has a reason, and each reason a crate.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// The faults of the reasons in deny.toml against the root manifest and the members' dependencies.
pub(crate) fn faults(deny: &str, manifest: &str, metadata: &Value) -> Result<Vec<String>> {
    let reasons = reasons(deny);
    let named = named(manifest)?;
    let direct = direct(metadata)?;
    let mut faults = Vec::new();
    for name in named
        .union(&direct)
        .filter(|name| !reasons.contains(name.as_str()))
    {
        faults.push(format!(
            "deny.toml: add the line \"# reason {name}: <why it is needed>\""
        ));
    }
    for name in reasons
        .iter()
        .filter(|name| !named.contains(**name) && !direct.contains(**name))
    {
        faults.push(format!(
            "deny.toml: there is a reason for {name}, which nothing uses"
        ));
    }
    for name in direct.difference(&named) {
        faults.push(format!(
            "{name} is used, but not named in [workspace.dependencies]"
        ));
    }
    Ok(faults)
}

/// Lines of the form `# reason <crate>: <why>`, with a why that is more than blanks.
fn reasons(deny: &str) -> BTreeSet<&str> {
    let lines = deny
        .lines()
        .filter_map(|line| line.strip_prefix("# reason "));
    let pairs = lines.filter_map(|line| line.split_once(": "));
    pairs
        .filter(|(_, why)| !why.trim().is_empty())
        .map(|(name, _)| name)
        .collect()
}

fn named(manifest: &str) -> Result<BTreeSet<String>> {
    let manifest: toml::Value = toml::from_str(manifest).context("Cargo.toml")?;
    let table = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies")?.as_table())
        .context("Cargo.toml has no [workspace.dependencies]")?;
    let foreign = table.iter().filter(|(_, spec)| spec.get("path").is_none());
    Ok(foreign.map(|(name, _)| name.clone()).collect())
}

fn direct(metadata: &Value) -> Result<BTreeSet<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let all = packages
        .iter()
        .filter_map(|package| package["dependencies"].as_array())
        .flatten();
    let foreign = all.filter(|dependency| !dependency["source"].is_null());
    Ok(foreign
        .filter_map(|dependency| dependency["name"].as_str())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expect(deny: &str, used: &[&str], expected: &[&str]) {
        let manifest = "[workspace.dependencies]\nown = { path = \"x\" }\nserde = \"1\"\n";
        let used = used
            .iter()
            .map(|name| json!({ "name": name, "source": "registry" }));
        let metadata = json!({ "packages": [{ "dependencies": used.collect::<Vec<_>>() }] });
        assert_eq!(
            faults(deny, manifest, &metadata).expect("sound input"),
            expected,
            "{deny}"
        );
    }

    #[test]
    fn reasons_and_crates_match_one_to_one() {
        expect("# reason serde: formats", &["serde"], &[]);
        let add = "deny.toml: add the line \"# reason serde: <why it is needed>\"";
        expect("", &["serde"], &[add]);
        expect("# reason serde:  ", &[], &[add]);
        let stale = "deny.toml: there is a reason for rand, which nothing uses";
        expect(
            "# reason serde: formats\n# reason rand: nonces",
            &[],
            &[stale],
        );
        let unnamed = "rand is used, but not named in [workspace.dependencies]";
        expect(
            "# reason serde: formats\n# reason rand: nonces",
            &["rand"],
            &[unnamed],
        );
    }
}
