//! The result as tables: for a terminal, and for docs/performance.md.

use super::Report;
use super::goals::Goal;
use super::sample::Row;
use super::topologies::ALL;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;

/// Whether a terminal shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Green for what is met, red for what is not.
    On,
    /// Plain text.
    Off,
}

impl Colour {
    fn paint(self, text: &str, met: bool) -> String {
        let code = if met { 32 } else { 31 };
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text.into(),
        }
    }
}

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn goal_cells(goal: &Goal) -> [String; 5] {
    let sense = goal.sense.sign();
    let value = goal.value.map_or_else(|| "none".into(), number);
    let met = if goal.met { "met" } else { "not met" };
    let bound = format!("{sense} {} {}", goal.goal, goal.unit);
    [goal.id.into(), value, bound, met.into(), what(goal)]
}

fn what(goal: &Goal) -> String {
    match &goal.note {
        Some(note) => format!("{} ({note})", goal.what),
        None => goal.what.into(),
    }
}

/// Name of the topology for people.
fn named(id: &str) -> &str {
    let topology = ALL.iter().find(|topology| topology.id == id);
    topology.map_or(id, |topology| topology.what)
}

impl Report {
    fn sections(&self) -> [(&'static str, &[Row]); 4] {
        [
            ("the hypervisor's part of the way", &self.path),
            ("the same with a million sessions", &self.million),
            ("end to end", &self.loads),
            ("100,000 sessions out and in", &self.transfer),
        ]
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let quick = if self.quick {
            " A quick look: no ground for a comparison."
        } else {
            ""
        };
        format!(
            "{}, {} cores, Linux {}, {} MB; load {} as it began; took {:.0} s.{quick}",
            machine.cpu, machine.cores, machine.kernel, machine.memory, machine.load, self.took_s
        )
    }

    /// For a terminal.
    #[must_use]
    pub fn table(&self, colour: Colour) -> String {
        let mut text = self.heading() + "\n\n";
        let head = ["goal", "value", "bound", "", "what"];
        let _ = writeln!(
            text,
            "{:<12}{:>10}  {:<16}{:<8} {}",
            head[0], head[1], head[2], head[3], head[4]
        );
        for goal in &self.goals {
            let [id, value, bound, met, what] = goal_cells(goal);
            let met = colour.paint(&format!("{met:<8}"), goal.met);
            let _ = writeln!(text, "{id:<12}{value:>10}  {bound:<16}{met} {what}");
        }
        for (title, rows) in self.sections() {
            let _ = writeln!(
                text,
                "\n{title}\n{:<42}{:<9}{:>9} {:<3}{:>9}{:>8}{:>18}",
                "topology", "kind", "median", "", "added", "ratio", "least to most"
            );
            for row in rows {
                let [median, added, ratio, least, most] = cells(row);
                let _ = writeln!(
                    text,
                    "{:<42}{:<9}{median:>9} {:<3}{added:>9}{ratio:>8}{:>18}",
                    named(&row.topology),
                    row.kind,
                    row.unit,
                    format!("{least} to {most}")
                );
            }
        }
        text
    }

    /// For a page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text =
            self.heading() + "\n\n| goal | value | bound | | what |\n|---|---|---|---|---|\n";
        for goal in &self.goals {
            let cells = goal_cells(goal).map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        for (title, rows) in self.sections() {
            let _ = writeln!(
                text,
                "\n### {title}\n\n| topology | kind | median | unit | added | ratio | least \
                 | most |\n\
                 |---|---|---|---|---|---|---|---|"
            );
            for row in rows {
                let [median, added, ratio, least, most] = cells(row);
                let _ = writeln!(
                    text,
                    "| {} | {} | {median} | {} | {added} | {ratio} | {least} | {most} |",
                    named(&row.topology),
                    row.kind,
                    row.unit
                );
            }
        }
        text
    }

    /// Replaces the figures of a page by these.
    ///
    /// # Errors
    /// The page has no place for them, or cannot be written.
    pub fn write(&self, page: &Path) -> Result<()> {
        let at = || format!("the page {}", page.display());
        let text = std::fs::read_to_string(page).with_context(at)?;
        let place = || format!("{} has no lines {BEGIN} and {END}", page.display());
        let (head, rest) = text.split_once(BEGIN).with_context(place)?;
        let (_, tail) = rest.split_once(END).with_context(place)?;
        let figures = self.markdown();
        std::fs::write(page, format!("{head}{BEGIN}\n{figures}{END}{tail}")).with_context(at)
    }
}

/// Median, added, ratio, least and most.
fn cells(row: &Row) -> [String; 5] {
    let or_none = |spread: Option<crate::report::Spread>| {
        spread.map_or_else(String::new, |spread| number(spread.median))
    };
    let value = row.value;
    let [least, most] = [value.min, value.max].map(number);
    [
        number(value.median),
        or_none(row.added),
        or_none(row.ratio),
        least,
        most,
    ]
}
