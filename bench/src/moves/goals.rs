//! The goals of moves, and whether they are met. A goal that was not measured is not met.

use super::stats;
use crate::datapath::goals::{Goal, Row, Sense, row};
use crate::report::Spread;
use Sense::{AtLeast, AtMost};
use lictor_evidence::MoveCopied;

/// Moves of each kind below which an interval says little.
const PAUSES_MIN: usize = 50;
/// Moves after which nothing may be lost.
const LOST_MOVES_MIN: u32 = 100;
/// Sessions of a move that count as carried or in memory.
const SESSIONS_MIN: f64 = 1_000_000.0;

/// Everything that the goals are computed from. What was not measured is absent.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Sessions that were not there after some moves, and the moves.
    pub lost: Option<(u64, u32)>,
    /// QEMU's own time from STOP to RESUME, with Lictor.
    pub with_ms: Vec<f64>,
    /// Without.
    pub without_ms: Vec<f64>,
    /// From the first session sent to the last one taken in.
    pub copy_s: Vec<f64>,
    /// The same entries out of and into the kernel's own table, with conntrack-tools.
    pub conntrack_s: Option<f64>,
    /// The most sessions that a move carried, by the record and by the target's kernel.
    pub carried: Option<f64>,
    /// Frames that no rule allows and that came through, and over how long, and whether the
    /// capture would have seen them.
    pub leaked: Option<Leaked>,
    /// What became of guests that were moved round the protocol.
    pub cut: Option<Cut>,
    /// Bytes of an agent's own memory over what it has when idle.
    pub memory: Option<f64>,
    /// What the last record says.
    pub copied: Option<MoveCopied>,
}

/// What a capture on the fabric saw of denied conversations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leaked {
    /// Answers of the guest that has Lictor.
    pub frames: u64,
    /// From the first to the last of each move, summed up.
    pub span_ms: f64,
    /// Answers of the guest that has not: the capture and the questions work.
    pub control: u64,
}

/// Guests that were moved to a host without an agent, without their interlock.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cut {
    /// How many.
    pub moves: u32,
    /// How many of them were heard there at all.
    pub heard: u32,
    /// From the moment at which one ran there to the last frame of it, of the worst.
    pub longest_s: f64,
}

/// In the order of the issue.
const ROWS: [Row; 8] = [
    row(
        "lost",
        (AtMost, 0.0),
        "sessions",
        "established sessions lost over 100 moves",
    ),
    row(
        "pause",
        (AtMost, 5.0),
        "ms",
        "added to QEMU's pause, upper bound of the 95 % interval",
    ),
    row(
        "rate",
        (AtLeast, 20.0),
        "factor",
        "conntrack dump and restore, of the copy's time",
    ),
    row(
        "carried",
        (AtLeast, SESSIONS_MIN),
        "sessions",
        "carried by one move",
    ),
    row(
        "unprotected",
        (AtMost, 0.0),
        "ms",
        "in which denied packets came through",
    ),
    row(
        "unfiltered",
        (AtMost, 0.0),
        "packets",
        "denied and through, by the fabric's capture",
    ),
    row(
        "cut",
        (AtMost, 1.0),
        "s",
        "a guest on an unprotected host, until it is cut",
    ),
    row(
        "mem",
        (AtMost, 64.0),
        "MB",
        "an agent's memory in a move of 1 M sessions, over idle",
    ),
];

/// A value, if there is one, whether it may count, and what should be known beside it.
type Found = (Option<f64>, bool, Option<String>);

impl Measured {
    /// Every row of the issue's table.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        ROWS.iter().map(|row| self.goal(row)).collect()
    }

    fn goal(&self, row: &Row) -> Goal {
        let (value, counts, note) = self.found(row.id);
        let reached = value.is_some_and(|value| match row.sense {
            AtMost => value <= row.goal,
            AtLeast => value >= row.goal,
        });
        Goal {
            id: row.id,
            what: row.what,
            value,
            unit: row.unit,
            goal: row.goal,
            sense: row.sense,
            met: reached && counts,
            note,
        }
    }

    fn found(&self, id: &str) -> Found {
        let whole = self.carried.is_some_and(|carried| carried >= SESSIONS_MIN);
        match id {
            "lost" => self.lost(),
            "pause" => self.pause(whole),
            "rate" => self.rate(whole),
            "carried" => (self.carried, true, None),
            "unprotected" => self.leaked(|leaked| leaked.span_ms),
            "unfiltered" => self.leaked(|leaked| leaked.frames as f64),
            "mem" => (self.memory.map(|bytes| bytes / 1e6), whole, fewer(whole)),
            _ => self.cut(),
        }
    }

    fn cut(&self) -> Found {
        let Some(cut) = &self.cut else {
            return (None, false, None);
        };
        let Cut { moves, heard, .. } = cut;
        let note = format!("{heard} of {moves} were heard there");
        (Some(cut.longest_s), *moves > 0, Some(note))
    }

    fn lost(&self) -> Found {
        let Some((lost, moves)) = self.lost else {
            return (None, false, None);
        };
        let enough = moves >= LOST_MOVES_MIN;
        (Some(lost as f64), enough, Some(format!("{moves} moves")))
    }

    fn pause(&self, whole: bool) -> Found {
        let enough = self.with_ms.len().min(self.without_ms.len()) >= PAUSES_MIN;
        let Some(added) = stats::added(&self.with_ms, &self.without_ms) else {
            return (None, false, None);
        };
        let (pairs, mean) = (self.with_ms.len(), added.mean);
        let note = format!("{pairs} moves of each kind; the mean is {mean:.1} ms");
        (Some(added.high), enough && whole, Some(note))
    }

    fn rate(&self, whole: bool) -> Found {
        let copy = Spread::of(&self.copy_s).map(|spread| spread.median);
        let both = self.conntrack_s.zip(copy);
        let note = both.map(|(tools, copy)| format!("{tools:.2} s against {copy:.2} s"));
        (both.map(|(tools, copy)| tools / copy), whole, note)
    }

    /// A capture that sees nothing of a guest without a firewall proves nothing.
    fn leaked(&self, value: fn(&Leaked) -> f64) -> Found {
        let Some(leaked) = &self.leaked else {
            return (None, false, None);
        };
        let control = leaked.control;
        let note = format!("{control} of the guest without a firewall");
        (Some(value(leaked)), control > 0, Some(note))
    }
}

fn fewer(whole: bool) -> Option<String> {
    (!whole).then(|| format!("fewer than {SESSIONS_MIN} sessions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(measured: &Measured, id: &str, expected: (Option<f64>, bool)) {
        let goals = measured.goals();
        let goal = goals.iter().find(|goal| goal.id == id).expect("a row");
        assert_eq!((goal.value, goal.met), expected, "{goal:?}");
    }

    #[test]
    fn the_rows_are_those_of_the_issue_in_its_order() {
        let ids: Vec<_> = Measured::default()
            .goals()
            .iter()
            .map(|goal| goal.id)
            .collect();
        let issue = [
            "lost",
            "pause",
            "rate",
            "carried",
            "unprotected",
            "unfiltered",
            "cut",
            "mem",
        ];
        assert_eq!(ids, issue);
    }

    #[test]
    fn what_was_not_measured_or_too_little_is_not_met() {
        let nothing = Measured::default();
        assert!(
            nothing
                .goals()
                .iter()
                .all(|goal| !goal.met && goal.value.is_none())
        );
        let lost = |moves| Measured {
            lost: Some((0, moves)),
            ..Measured::default()
        };
        check(&lost(99), "lost", (Some(0.0), false));
        check(&lost(100), "lost", (Some(0.0), true));
        let leaked = |control| Measured {
            leaked: Some(Leaked {
                frames: 0,
                span_ms: 0.0,
                control,
            }),
            ..Measured::default()
        };
        check(&leaked(0), "unfiltered", (Some(0.0), false));
        check(&leaked(1), "unfiltered", (Some(0.0), true));
        let cut = |longest_s| Measured {
            cut: Some(Cut {
                moves: 2,
                heard: 1,
                longest_s,
            }),
            ..Measured::default()
        };
        check(&cut(1.5), "cut", (Some(1.5), false));
        check(&cut(0.5), "cut", (Some(0.5), true));
        let memory = |carried| Measured {
            memory: Some(60e6),
            carried: Some(carried),
            ..Measured::default()
        };
        check(&memory(100_000.0), "mem", (Some(60.0), false));
        check(&memory(1_000_000.0), "mem", (Some(60.0), true));
    }
}
