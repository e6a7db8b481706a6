//! The goals of policy analysis, each measured by a file of its own, on one core.

pub mod certificate;
pub mod change;
pub mod compile;
pub mod diff;
pub mod lint;
pub mod proof;
pub mod world;

use crate::datapath::goals::{Goal, Sense};
use crate::report::Machine;
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write as _;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What is worth a comparison.
    Full,
    /// What is worth a look: small worlds, whose figures meet no goal.
    Quick,
}

/// What a row gives: its value, and what should be known beside it.
pub type Measured = Result<(f64, Option<String>)>;

/// One row of the table.
struct Row {
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    goal: f64,
    /// How it is measured.
    measure: fn(Extent) -> Measured,
}

const fn row(
    (id, what): (&'static str, &'static str),
    (unit, goal): (&'static str, f64),
    measure: fn(Extent) -> Measured,
) -> Row {
    Row {
        id,
        what,
        unit,
        goal,
        measure,
    }
}

/// All of them, in the order of the issue.
const ROWS: [Row; 9] = [
    row(
        ("proof", "20 intents, 10 k guests told apart, 10 k rules"),
        ("s", 1.0),
        proof::proof,
    ),
    row(
        ("proof-50k", "20 intents, 5 k guests told apart, 50 k rules"),
        ("s", 1.0),
        proof::proof_50k,
    ),
    row(
        ("change", "all intents after one change, 99th percentile"),
        ("ms", 5.0),
        change::change,
    ),
    row(
        ("compile", "compile, 10 k guests"),
        ("s", 2.0),
        compile::measure,
    ),
    row(
        ("delta", "compile after one change, 10 k guests"),
        ("s", 0.05),
        compile::delta,
    ),
    row(
        ("certificate", "check of all certificates, 10 k x 10 k"),
        ("s", 1.0),
        certificate::certificate,
    ),
    row(
        ("lint", "lint of 10 k imported rules"),
        ("s", 1.0),
        lint::measure,
    ),
    row(
        ("diff", "diff of two 5 k rule sets"),
        ("s", 1.0),
        diff::measure,
    ),
    row(
        ("mem", "memory of the proof, 10 k x 10 k"),
        ("GB", 1.0),
        proof::memory,
    ),
];

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `policy`.
    pub bench: &'static str,
    /// Where.
    pub machine: Machine,
    /// The goals, in the order of the issue.
    pub goals: Vec<Goal>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<14}{:>10}{:>8}{:>6}  what\n",
            "goal", "value", "bound", "met"
        );
        for goal in &self.goals {
            let value = goal.value.map_or("-".into(), |value| format!("{value:.3}"));
            let met = if goal.met { "yes" } else { "no" };
            let note = goal.note.as_deref().map(|note| format!(" ({note})"));
            let _ = writeln!(
                text,
                "{:<14}{value:>7} {:<2}{:>8}{met:>6}  {}{}",
                goal.id,
                goal.unit,
                goal.goal,
                goal.what,
                note.unwrap_or_default()
            );
        }
        text
    }
}

/// Measures every row, or those that are named.
///
/// # Errors
/// A world cannot be made, or what is measured gives a wrong answer.
pub fn run(extent: Extent, rows: &[String]) -> Result<Report> {
    let machine = Machine::here()?;
    let mut goals = Vec::new();
    for row in &ROWS {
        let asked = rows.is_empty() || rows.iter().any(|one| one == row.id);
        let measured = match asked {
            true => {
                eprintln!("bench: policy, {}", row.id);
                Some((row.measure)(extent)?)
            }
            false => None,
        };
        let (value, note) = measured.map_or((None, None), |(value, note)| (Some(value), note));
        goals.push(Goal {
            id: row.id,
            what: row.what,
            value,
            unit: row.unit,
            goal: row.goal,
            sense: Sense::AtMost,
            // A small world says nothing of the goal.
            met: extent == Extent::Full && value.is_some_and(|value| value <= row.goal),
            note,
        });
    }
    Ok(Report {
        bench: "policy",
        machine,
        goals,
    })
}

/// The ids of all rows.
#[must_use]
pub fn ids() -> [&'static str; ROWS.len()] {
    let mut ids = [""; ROWS.len()];
    for (id, row) in ids.iter_mut().zip(&ROWS) {
        *id = row.id;
    }
    ids
}
