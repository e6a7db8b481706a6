//! What the demo has shown, for people and for programs.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was to be shown.
    pub name: String,
    /// Whether it was. What was not tried was not shown.
    pub ok: bool,
    /// What was seen, or why it was not shown.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// One move, or one that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRow {
    /// Who.
    pub guest: String,
    /// From which host.
    pub from: String,
    /// To which host.
    pub to: String,
    /// `committed`, `refused` or `unprotected`.
    pub outcome: String,
    /// Sessions that the source sent.
    pub sessions_sent: u64,
    /// Sessions that the target took over.
    pub sessions_accepted: u64,
    /// Sessions that it refused.
    pub sessions_refused: u64,
    /// The longest silence of a stream of the guest, in milliseconds by its receiver's clock.
    pub stream_gap_ms: Option<u64>,
    /// How long the guest could be reached without a verdict, in milliseconds; `null` is unknown.
    pub unprotected_ms: Option<u64>,
    /// How far `unprotected_ms` may be off, in milliseconds.
    pub error_ms: Option<u64>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// The moves in order.
    pub moves: Vec<MoveRow>,
    /// Where the report is; empty if none was written.
    pub report: String,
    /// Where the evidence pack is; empty if none was written.
    pub pack: String,
}

/// The file below the demo's folder.
pub const SUMMARY: &str = "summary.json";

impl Summary {
    /// Whether every step was shown, and there was one.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }

    /// Writes `summary.json` into a folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(SUMMARY);
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The tables that a person reads at the end.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let mark = if step.ok { "shown" } else { "NOT SHOWN" };
            let seconds = std::time::Duration::from_millis(step.took_ms).as_secs_f64();
            let name = &step.name;
            writeln!(text, "{mark:<9}  {seconds:>5.1} s  {name}").expect("a String takes all");
        }
        if !self.moves.is_empty() {
            text.push('\n');
            text.push_str(
                "guest   from to  outcome      sent accepted refused  gap ms  unprotected ms\n",
            );
        }
        for row in &self.moves {
            let known = |value: Option<u64>| value.map_or("unknown".into(), |ms| ms.to_string());
            let error = row
                .error_ms
                .map_or_else(String::new, |ms| format!(" +-{ms}"));
            writeln!(
                text,
                "{:<7} {:<4} {:<3} {:<12} {:>4} {:>8} {:>7} {:>7}  {}{error}",
                row.guest,
                row.from,
                row.to,
                row.outcome,
                row.sessions_sent,
                row.sessions_accepted,
                row.sessions_refused,
                known(row.stream_gap_ms),
                known(row.unprotected_ms),
            )
            .expect("a String takes all");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ok: bool) -> Step {
        Step {
            name: "a thing".into(),
            ok,
            detail: "seen".into(),
            took_ms: 1_500,
        }
    }

    #[test]
    fn a_summary_holds_only_if_each_step_and_at_least_one_was_shown() {
        let check = |steps: &[bool], expected: bool| {
            let steps = steps.iter().map(|ok| step(*ok)).collect();
            let summary = Summary {
                steps,
                ..Summary::default()
            };
            assert_eq!(summary.holds(), expected, "{summary:?}");
        };
        check(&[], false);
        check(&[true], true);
        check(&[true, false], false);
    }

    #[test]
    fn the_table_says_what_was_not_shown_and_what_is_unknown() {
        let summary = Summary {
            steps: vec![step(true), step(false)],
            moves: vec![MoveRow {
                guest: "db".into(),
                from: "a".into(),
                to: "b".into(),
                outcome: "committed".into(),
                sessions_sent: 2,
                sessions_accepted: 2,
                sessions_refused: 0,
                stream_gap_ms: Some(70),
                unprotected_ms: None,
                error_ms: None,
            }],
            ..Summary::default()
        };
        let table = summary.table();
        assert!(table.contains("NOT SHOWN    1.5 s  a thing"), "{table}");
        assert!(table.contains("unknown"), "{table}");
    }
}
