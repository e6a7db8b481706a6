//! What the firewall's program alone costs, without a device, a bridge or a stack: each copy of a
//! frame is given to it by a tail call, and the same loop with an empty program is taken off.
//!
//! Every conversation among the loaded ones is as likely as any other, so the rows with many
//! sessions include the misses of the processor's caches. The program's code, the tables and the
//! rest of the memory that one packet touches are hot, as on a host that is busy with this guest.

use crate::clock;
use crate::injector::{Choose, FarEnd, Injector, Plan};
use crate::report::{Machine, Spread};
use crate::world::{self, Protected, Side};
use anyhow::{Context, Result, bail, ensure};
use lictor_datapath::{Datapath, VnicSpec};
use lictor_lab::{Lab, Node};
use lictor_types::{Direction, Reason, SESSIONS_PER_VNIC_DEFAULT, VnicName, VnicState};
use serde::Serialize;
use std::fmt::Write as _;

const DEVICE: &str = "host0";

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Times that each case runs. The least counts.
    pub rounds: u32,
    /// Packets of one run.
    pub packets: u32,
    /// The most sessions that are loaded.
    pub flows_max: u32,
}

impl Extent {
    /// What is worth a comparison.
    pub const FULL: Self = Self {
        rounds: 9,
        packets: 1_000_000,
        flows_max: 1_000_000,
    };
    /// What is worth a look.
    pub const QUICK: Self = Self {
        rounds: 3,
        packets: 200_000,
        flows_max: 100_000,
    };
}

/// One kind of packet.
#[derive(Debug, Clone, Copy)]
struct Case {
    id: &'static str,
    rules: u32,
    flows: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Established,
    New,
    Deny,
}

/// New conversations of one run: they must fit into the table.
const NEW_MAX: u32 = 200_000;

const CASES: [Case; 9] = {
    const fn case(id: &'static str, rules: u32, flows: u32, kind: Kind) -> Case {
        Case {
            id,
            rules,
            flows,
            kind,
        }
    }
    [
        case("est-1", 10, 1, Kind::Established),
        case("est-1k", 10, 1_000, Kind::Established),
        case("est-100k", 10, 100_000, Kind::Established),
        case("est-1m", 10, 1_000_000, Kind::Established),
        case("new", 10, 0, Kind::New),
        case("new-1k", 1_000, 0, Kind::New),
        case("new-100k", 100_000, 0, Kind::New),
        case("deny", 10, 0, Kind::Deny),
        case("deny-100k", 100_000, 0, Kind::Deny),
    ]
};

/// One kind of packet, measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which.
    pub id: String,
    /// Rules of the release.
    pub rules: u32,
    /// Sessions in the table.
    pub sessions: u32,
    /// Nanoseconds of the program alone: the least of all rounds.
    pub ns: f64,
    /// The same over all rounds.
    pub spread: Spread,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `program`.
    pub bench: &'static str,
    /// Where.
    pub machine: Machine,
    /// Nanoseconds of the loop with an empty program, which are taken off every row.
    pub floor_ns: f64,
    /// One row for each kind of packet.
    pub rows: Vec<Row>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<12}{:>9}{:>11}{:>9}{:>9}{:>9}\n",
            "packet", "rules", "sessions", "ns", "median", "most"
        );
        for row in &self.rows {
            let Row { ns, spread, .. } = row;
            let (rules, sessions) = (row.rules, row.sessions);
            let _ = writeln!(
                text,
                "{:<12}{rules:>9}{sessions:>11}{ns:>9.1}{:>9.1}{:>9.1}",
                row.id, spread.median, spread.max
            );
        }
        let _ = writeln!(text, "taken off each row: {:.1} ns", self.floor_ns);
        text
    }
}

/// Measures every case. Needs root; makes a namespace and removes it.
///
/// # Errors
/// Something refuses, or the program judges a packet otherwise than its row says.
pub fn run(extent: Extent) -> Result<Report> {
    let machine = Machine::here()?;
    let lab = Lab::new()?;
    let node = lab.node("bench")?;
    let (floor_ns, rows) = node.netns().run(|| measure(&node, extent))?;
    Ok(Report {
        bench: "program",
        machine,
        floor_ns,
        rows,
    })
}

fn measure(node: &Node, extent: Extent) -> Result<(f64, Vec<Row>)> {
    node.netns()
        .ip(&format!("link add {DEVICE} type veth peer name guest0"))?;
    clock::pin(clock::idlest()?)?;
    let mut injector = Injector::load()?;
    let mut datapath = Datapath::open(&node.bpffs())?;
    let floor = floor(&mut injector, extent)?;
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| case.flows <= extent.flows_max) {
        eprintln!("bench: program, {}", case.id);
        prepare(&mut datapath, case)?;
        let mut values = Vec::new();
        for round in 0..extent.rounds {
            let ns = once(&mut injector, &datapath, (case, extent, round))?;
            values.push(ns - floor);
        }
        let spread = Spread::of(&values).context("no round was run")?;
        rows.push(Row {
            id: case.id.into(),
            rules: case.rules,
            sessions: case.flows,
            ns: spread.min,
            spread,
        });
    }
    datapath.detach(Side::Near.vnic())?;
    Ok((floor, rows))
}

fn floor(injector: &mut Injector, extent: Extent) -> Result<f64> {
    let plan = plan(Choose::Random(1_000), 10);
    let frame = world::datagram(world::PORT_ALLOWED)?;
    let mut least = f64::MAX;
    for _ in 0..extent.rounds {
        let cost = injector.replay(None, (&plan, &frame, extent.packets))?;
        least = least.min(cost.ns);
    }
    Ok(least)
}

fn plan(choose: Choose, prefixes: u32) -> Plan {
    Plan {
        choose,
        prefixes,
        far_first: world::FAR_FIRST,
        far: FarEnd::Destination,
    }
}

/// An open vnic with the sessions of a case and the default quota, if they fit into that.
fn prepare(datapath: &mut Datapath, case: &Case) -> Result<()> {
    let vnic = Side::Near.vnic();
    // Just below its quota a table may refuse one session in many thousand.
    let room = match case.kind {
        Kind::New => NEW_MAX,
        Kind::Established | Kind::Deny => case.flows + case.flows / 32,
    };
    // Attaching with another quota begins with an empty table; so does detaching.
    if datapath
        .vnics()?
        .iter()
        .any(|status| status.spec.vnic == vnic)
    {
        datapath.detach(vnic)?;
    }
    datapath.attach(&VnicSpec {
        vnic,
        name: VnicName::new("bench")?,
        device: DEVICE.into(),
        mac: Side::Near.mac(),
        segment: world::SEGMENT,
        sessions_max: SESSIONS_PER_VNIC_DEFAULT.max(case.flows).max(room),
        link: lictor_types::Link::PLAIN,
        endpoint: lictor_types::Endpoint::Guest,
    })?;
    datapath.load(&world::tables(case.rules, Protected::Near).canonical()?)?;
    datapath.set_state(vnic, VnicState::Open)?;
    let sessions = world::sessions(Side::Near, case.flows, case.rules);
    let receipt = datapath.import(vnic, &sessions)?;
    ensure!(
        receipt.imported == u64::from(case.flows),
        "only {} of {} sessions were taken in",
        receipt.imported,
        case.flows
    );
    Ok(())
}

/// The gross cost of one run, after holding its verdicts against the case.
fn once(injector: &mut Injector, datapath: &Datapath, what: (&Case, Extent, u32)) -> Result<f64> {
    let (case, extent, round) = what;
    let vnic = Side::Near.vnic();
    let (choose, port, reason, packets) = match case.kind {
        Kind::Established => (
            Choose::Random(case.flows),
            world::PORT_ALLOWED,
            Reason::Session,
            extent.packets,
        ),
        Kind::New => (
            Choose::Next(round * NEW_MAX % world::FLOWS_MAX),
            world::PORT_ALLOWED,
            Reason::PolicyAllow,
            extent.packets.min(NEW_MAX),
        ),
        Kind::Deny => (
            Choose::Random(world::FLOWS_MAX),
            world::PORT_DENIED,
            Reason::DefaultDeny,
            extent.packets,
        ),
    };
    let frame = world::datagram(port)?;
    let counted = || -> Result<u64> {
        let counters = datapath.counters(vnic)?;
        Ok(counters.egress.reason(reason).packets)
    };
    let before = counted()?;
    let program = datapath.program(vnic, Direction::Egress)?;
    let plan = plan(choose, case.rules);
    let cost = injector.replay(Some(program), (&plan, &frame, packets))?;
    let judged = counted()? - before;
    if judged != u64::from(packets) {
        let all = datapath.counters(vnic)?.egress.reasons;
        bail!(
            "{}: {judged} of {packets} packets were {reason}; {all:?}",
            case.id
        );
    }
    if case.kind == Kind::New {
        datapath.purge(vnic)?;
    }
    Ok(cost.ns)
}
