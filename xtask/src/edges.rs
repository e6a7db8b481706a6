//! The edges between the workspace's crates, held against the table in docs/architecture.md.
//!
//! The table stands under the heading "Crate edges" and has the columns `crate`, `layer`, `may
//! use`. A layer is a number, `bin` or `dev`; `*` in the last column means every crate. Tests may
//! use any crate of layer `dev` and nothing else beyond the table.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const HEADING: &str = "Crate edges";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Number(u32),
    Bin,
    Dev,
}

#[derive(Debug)]
struct Row {
    layer: Layer,
    uses: BTreeSet<String>,
}

type Table = BTreeMap<String, Row>;

/// Every edge that the table does not allow, and every way in which the table itself is wrong.
pub(crate) fn faults(architecture: &str, metadata: &Value) -> Result<Vec<String>> {
    let table = parse(architecture)?;
    let edges = edges(metadata)?;
    let mut faults = table_faults(&table);
    for name in table.keys().filter(|name| !edges.contains_key(*name)) {
        faults.push(format!(
            "docs/architecture.md names the crate {name}, which does not exist"
        ));
    }
    for (name, uses) in &edges {
        let Some(row) = table.get(name) else {
            faults.push(format!(
                "crate {name} has no row in docs/architecture.md, \"{HEADING}\""
            ));
            continue;
        };
        for (used, kind) in uses {
            let listed = row.uses.contains("*") || row.uses.contains(used);
            let dev = table
                .get(used)
                .is_some_and(|other| other.layer == Layer::Dev);
            if !(listed || dev && *kind == Kind::Test) {
                faults.push(format!(
                    "crate {name} uses {used}, which docs/architecture.md does not allow"
                ));
            }
        }
    }
    Ok(faults)
}

fn parse(text: &str) -> Result<Table> {
    let mut lines = text
        .lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != HEADING);
    lines
        .next()
        .with_context(|| format!("docs/architecture.md has no heading \"{HEADING}\""))?;
    let rows = lines
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'))
        .filter(|row| !row.trim_start().starts_with(['-', ':']));
    let mut table = Table::new();
    for row in rows {
        let cells: Vec<_> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        let [name, layer, uses] = cells.as_slice() else {
            bail!(
                "row {row:?} of \"{HEADING}\" has {} cells; expected 3",
                cells.len()
            );
        };
        if name == "crate" {
            continue;
        }
        let layer = match (layer.as_str(), layer.parse()) {
            ("bin", _) => Layer::Bin,
            ("dev", _) => Layer::Dev,
            (_, Ok(number)) => Layer::Number(number),
            _ => bail!("crate {name} has layer {layer:?}; expected a number, `bin` or `dev`"),
        };
        let uses = uses
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let row = Row {
            layer,
            uses: uses.map(str::to_owned).collect(),
        };
        if table.insert(name.clone(), row).is_some() {
            bail!("crate {name} has two rows under \"{HEADING}\"");
        }
    }
    if table.is_empty() {
        bail!("docs/architecture.md has no table under \"{HEADING}\"");
    }
    Ok(table)
}

/// Edges go down; inside layer 1 those that are named may exist.
fn table_faults(table: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, row) in table {
        for used in row.uses.iter().filter(|used| *used != "*") {
            let Some(other) = table.get(used) else {
                faults.push(format!(
                    "docs/architecture.md: {name} may use {used}, which has no row"
                ));
                continue;
            };
            let beside = other.layer == row.layer && row.layer == Layer::Number(1);
            if other.layer >= row.layer && !beside {
                faults.push(format!(
                    "docs/architecture.md: the edge {name} -> {used} goes not down"
                ));
            }
        }
    }
    faults
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Product,
    Test,
}

type Edges = BTreeMap<String, BTreeSet<(String, Kind)>>;

fn edges(metadata: &Value) -> Result<Edges> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut edges = Edges::new();
    for package in packages {
        let all = package["dependencies"].as_array().into_iter().flatten();
        // A dependency without a source lies in this workspace.
        let own = all.filter(|dependency| dependency["source"].is_null());
        let uses = own.map(|dependency| {
            let kind = if dependency["kind"] == "dev" {
                Kind::Test
            } else {
                Kind::Product
            };
            (text(&dependency["name"]), kind)
        });
        edges.insert(text(&package["name"]), uses.collect());
    }
    Ok(edges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expect(rows: &str, uses: &[(&str, &str, &str)], expected: &[&str]) {
        let text = format!(
            "# House\n\n## {HEADING}\n\n| crate | layer | may use |\n|---|---|---|\n{rows}\n\
             ## Next\n"
        );
        let package = |name: &str| {
            let own = uses.iter().filter(|(from, ..)| *from == name);
            let own = own.map(|(_, to, kind)| {
                let kind = (!kind.is_empty()).then_some(*kind);
                json!({ "name": to, "source": null, "kind": kind })
            });
            json!({ "name": name, "dependencies": own.collect::<Vec<_>>() })
        };
        let packages: Vec<_> = ["a", "b", "lab"].map(package).to_vec();
        let faults = faults(&text, &json!({ "packages": packages })).expect("a sound table");
        assert_eq!(faults, expected, "{rows}");
    }

    const ROWS: &str = "| `a` | 0 | |\n| b | 1 | a |\n| lab | dev | * |";

    #[test]
    fn only_the_edges_of_the_table_are_allowed() {
        expect(
            ROWS,
            &[("b", "a", ""), ("lab", "b", ""), ("a", "lab", "dev")],
            &[],
        );
        let up = "crate a uses b, which docs/architecture.md does not allow";
        expect(ROWS, &[("a", "b", "")], &[up]);
        expect(ROWS, &[("a", "b", "dev")], &[up]);
        let lab = "crate b uses lab, which docs/architecture.md does not allow";
        expect(ROWS, &[("b", "lab", "build")], &[lab]);
    }

    #[test]
    fn a_table_that_is_wrong_itself_is_a_fault() {
        let up = ROWS.replace("| 0 | |", "| 0 | b |");
        expect(
            &up,
            &[],
            &["docs/architecture.md: the edge a -> b goes not down"],
        );
        let gone = format!("{ROWS}\n| c | 2 | a |");
        let fault = "docs/architecture.md names the crate c, which does not exist";
        expect(&gone, &[], &[fault]);
        let short = ROWS.replace("| b | 1 | a |\n", "");
        let fault = "crate b has no row in docs/architecture.md, \"Crate edges\"";
        expect(&short, &[], &[fault]);
    }

    #[test]
    fn a_page_without_a_sound_table_is_an_error() {
        for bad in [
            "",
            "## Crate edges\n",
            "## Crate edges\n| a | top | |",
            "## Crate edges\n| a |",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
