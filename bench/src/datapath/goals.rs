//! The goals, and whether they are met. A goal that was not measured is not met.

use super::flood;
use super::footprint::{Memory, Restart};
use super::path::{BASE, Packet};
use super::sample::Samples;
use super::topologies::{BOTH, NFT_10, ONE, ONE_1K, ONE_100K, STEERED};
use super::{load::Load, transfer};
use serde::Serialize;

/// Everything that the goals are computed from. What was not measured is absent.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The rounds of the path.
    pub path: Samples,
    /// The rounds with a million sessions.
    pub million: Samples,
    /// The rounds of the end-to-end loads.
    pub loads: Samples,
    /// The rounds of the transfer.
    pub transfer: Samples,
    /// The flood.
    pub flood: Option<flood::Outcome>,
    /// A vnic's memory.
    pub memory: Option<Memory>,
    /// Bytes of an agent.
    pub agent: Option<f64>,
    /// A restart with many vnics.
    pub restart: Option<Restart>,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Goal {
    /// Its id there.
    pub id: &'static str,
    /// For people.
    pub what: &'static str,
    /// What was measured; absent if nothing was.
    pub value: Option<f64>,
    /// Of `value` and `goal`.
    pub unit: &'static str,
    /// The bound.
    pub goal: f64,
    /// Which side of the bound is good: `<=` or `>=`.
    pub sense: Sense,
    /// Whether it is reached.
    pub met: bool,
    /// What should be known beside the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Which side of a bound is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Sense {
    /// As much or less.
    #[serde(rename = "<=")]
    AtMost,
    /// As much or more.
    #[serde(rename = ">=")]
    AtLeast,
}

impl Sense {
    /// As it is written.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::AtMost => "<=",
            Self::AtLeast => ">=",
        }
    }
}

use Sense::{AtLeast, AtMost};

/// One row before it is measured.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) sense: Sense,
    pub(crate) goal: f64,
}

pub(crate) const fn row(
    id: &'static str,
    (sense, goal): (Sense, f64),
    unit: &'static str,
    what: &'static str,
) -> Row {
    Row {
        id,
        what,
        unit,
        sense,
        goal,
    }
}

const SHARE: &str = "share";
const FACTOR: &str = "factor";

/// In the order of the issue.
const ROWS: [Row; 19] = [
    row(
        "est-one",
        (AtMost, 0.16),
        SHARE,
        "added to an established packet, one vnic, of nft's",
    ),
    row(
        "est-both",
        (AtMost, 0.23),
        SHARE,
        "added to an established packet, both vnics, of nft's",
    ),
    row(
        "steered",
        (AtMost, 0.90),
        SHARE,
        "an established packet, both vnics, steered, of the bridge's",
    ),
    row(
        "est-1m",
        (AtMost, 0.28),
        SHARE,
        "added with 1 M random sessions, one vnic, of nft's",
    ),
    row(
        "new",
        (AtMost, 0.40),
        SHARE,
        "added to a new session's first packet, of nft's",
    ),
    row(
        "new-1k",
        (AtMost, 1.10),
        FACTOR,
        "the same with 1,000 rules, to that with 10",
    ),
    row(
        "new-100k",
        (AtMost, 2.0),
        FACTOR,
        "the same with 100,000 rules, to that with 10",
    ),
    row(
        "deny",
        (AtMost, 0.75),
        SHARE,
        "a denied packet, of the bridge's forwarded one",
    ),
    row(
        "udp",
        (AtMost, 1.05),
        FACTOR,
        "a small datagram end to end, one vnic, to the bridge's",
    ),
    row(
        "rr",
        (AtMost, 1.05),
        FACTOR,
        "a round trip end to end, one vnic, to the bridge's",
    ),
    row(
        "crr",
        (AtMost, 1.05),
        FACTOR,
        "a connection end to end, one vnic, to the bridge's",
    ),
    row(
        "flood-lost",
        (AtMost, 0.0),
        "sessions",
        "established sessions lost in a flood",
    ),
    row(
        "flood-new",
        (AtLeast, 0.99),
        SHARE,
        "genuine connections that succeed in a flood",
    ),
    row(
        "export",
        (AtLeast, 40.0),
        FACTOR,
        "100 k sessions out, faster than conntrack -L",
    ),
    row(
        "import",
        (AtLeast, 40.0),
        FACTOR,
        "100 k sessions in, faster than conntrack -R",
    ),
    row(
        "mem-session",
        (AtMost, 200.0),
        "bytes",
        "memory of each session that a quota is raised by",
    ),
    row(
        "mem-idle",
        (AtMost, 1.0),
        "MB",
        "memory of a vnic with the least quota",
    ),
    row(
        "mem-agent",
        (AtMost, 40.0),
        "MB",
        "resident memory of an agent with one vnic",
    ),
    row(
        "attach-500",
        (AtMost, 10.0),
        "ms",
        "restart of an agent with 500 vnics, for each",
    ),
];

const MEGABYTE: f64 = 1e6;

impl Measured {
    fn value(&self, id: &str) -> Option<f64> {
        let (one, new) = (Packet::Established(1).id(), Packet::New.id());
        let denied = Packet::Denied.id();
        let many = Packet::Established(super::million::FLOWS).id();
        let path = |topology, kind: &str| self.path.share((topology, NFT_10, BASE), kind);
        let rules = |topology| self.path.share((topology, ONE, BASE), &new);
        let load = |load: Load| self.loads.ratio(ONE, BASE, load.id());
        let (tools, own) = (transfer::CONNTRACK, transfer::LICTOR);
        match id {
            "est-one" => path(ONE, &one),
            "est-both" => path(BOTH, &one),
            "steered" => self.path.ratio(STEERED, BASE, &one),
            "est-1m" => self.million.share((ONE, NFT_10, BASE), &many),
            "new" => path(ONE, &new),
            "new-1k" => rules(ONE_1K),
            "new-100k" => rules(ONE_100K),
            "deny" => self.path.ratio(ONE, BASE, &denied),
            "udp" => load(Load::Datagrams),
            "rr" => load(Load::RoundTrips),
            "crr" => load(Load::Connections),
            "flood-lost" => self.flood.as_ref().map(|flood| flood.lost as f64),
            "flood-new" => self.flood.as_ref().map(flood::Outcome::share),
            "export" => self.transfer.ratio(tools, own, transfer::EXPORT),
            "import" => self.transfer.ratio(tools, own, transfer::IMPORT),
            "mem-session" => self.memory.map(|memory| memory.session_bytes()),
            "mem-idle" => self
                .memory
                .map(|memory| memory.idle_bytes as f64 / MEGABYTE),
            "mem-agent" => self.agent.map(|bytes| bytes / MEGABYTE),
            "attach-500" => self.restart.map(|restart| restart.again_ms),
            _ => None,
        }
    }

    fn note(&self, id: &str) -> Option<String> {
        match id {
            "flood-new" => self.flood.as_ref().map(|flood| {
                let why = flood.failure.as_ref();
                let why = why.map_or_else(String::new, |why| format!("; a failure: {why}"));
                format!(
                    "{} of {} tried, while {} SYNs of the flood were let in and {} found no \
                     room{why}",
                    flood.succeeded, flood.tried, flood.flood, flood.refused
                )
            }),
            "flood-lost" => self
                .flood
                .as_ref()
                .map(|flood| format!("of {}", flood.established)),
            "mem-session" => self.memory.map(|memory| {
                let all = memory.default_bytes as f64 / MEGABYTE;
                format!("a vnic with the default quota takes {all:.2} MB in all")
            }),
            "attach-500" => self.restart.map(|restart| {
                format!(
                    "{} vnics; the first time, with loading and verifying, {:.1} ms each",
                    restart.vnics, restart.new_ms
                )
            }),
            _ => None,
        }
    }

    /// Every goal, in the order of the issue.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        ROWS.iter()
            .map(|row| {
                let value = self.value(row.id);
                let within = |value: f64| match row.sense {
                    AtMost => value <= row.goal,
                    AtLeast => value >= row.goal,
                };
                Goal {
                    id: row.id,
                    what: row.what,
                    value,
                    unit: row.unit,
                    goal: row.goal,
                    sense: row.sense,
                    met: value.is_some_and(within),
                    note: self.note(row.id),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(measured: &Measured, id: &str) -> Goal {
        let goals = measured.goals().into_iter();
        goals
            .into_iter()
            .find(|goal| goal.id == id)
            .expect("one of the goals")
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let nothing = Measured::default().goals();
        assert!(nothing.iter().all(|goal| goal.value.is_none() && !goal.met));
        let ids: Vec<_> = nothing.iter().map(|goal| goal.id).collect();
        let expected = "est-one est-both steered est-1m new new-1k new-100k deny udp rr crr \
                        flood-lost flood-new export import mem-session mem-idle mem-agent \
                        attach-500";
        assert_eq!(ids.join(" "), expected);
    }

    #[test]
    fn shares_are_of_what_is_added() {
        let mut measured = Measured::default();
        for (topology, ns) in [(BASE, 100.0), (NFT_10, 200.0), (ONE, 115.0), (BOTH, 125.0)] {
            measured.path.add(topology, "est-1", ns);
        }
        let one = goal(&measured, "est-one");
        assert_eq!((one.value, one.met), (Some(0.15), true));
        let both = goal(&measured, "est-both");
        assert_eq!((both.value, both.met), (Some(0.25), false));
    }

    #[test]
    fn faster_means_less_time_than_the_tools() {
        let mut measured = Measured::default();
        measured
            .transfer
            .add(transfer::CONNTRACK, transfer::EXPORT, 400.0);
        measured
            .transfer
            .add(transfer::LICTOR, transfer::EXPORT, 8.0);
        let export = goal(&measured, "export");
        assert_eq!((export.value, export.met), (Some(50.0), true));
    }
}
