//! The hypervisor's part of the way: frames are injected at the near guest's port, go through guard
//! and bridge, and are counted and dropped as they enter the far guest. No guest's stack has a part
//! in it, so what a guard adds is seen undiluted.

use super::guard;
use super::plant::{Guard, Plant, Topology, port};
use super::sample::Samples;
use super::turns;
use crate::clock;
use crate::injector::{Choose, FarEnd, Injector, Plan};
use crate::world::{self, Side};
use anyhow::{Context, Result, bail};
use lictor_types::Reason;
use std::time::Duration;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Rounds; each measures every topology.
    pub rounds: u32,
    /// Packets of established conversations in one run.
    pub packets: u32,
    /// Runs of each plant and kind of packet in one round; the least counts.
    pub repeats: u32,
    /// Packets that begin a conversation, or are denied, in one run.
    pub misses: u32,
}

/// One kind of packet on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// Of any of this many established conversations.
    Established(u32),
    /// The first of its conversation.
    New,
    /// To a port that no rule names.
    Denied,
}

impl Packet {
    /// The kinds of the usual rounds, in the order in which they are measured: what is established
    /// ends with the first miss.
    pub const USUAL: [Self; 4] = [
        Self::Established(1),
        Self::Established(FLOWS),
        Self::New,
        Self::Denied,
    ];

    /// Its name in tables and in JSON.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            Self::Established(1) => "est-1".into(),
            Self::Established(1_000) => "est-1k".into(),
            Self::Established(1_000_000) => "est-1m".into(),
            Self::Established(flows) => format!("est-{flows}"),
            Self::New => "new".into(),
            Self::Denied => "deny".into(),
        }
    }
}

/// Sessions in the tables while the usual rounds run.
pub const FLOWS: u32 = 1_000;
/// Rules with which a miss takes a linear filter microseconds.
const MANY_RULES: u32 = 1_000;
/// What arrives late has this long.
const PATIENCE: Duration = Duration::from_millis(200);

/// Runs all rounds over plants whose paths are open.
///
/// # Errors
/// A packet arrived that must not, or did not arrive and must.
pub fn rounds(
    plants: &[Plant],
    injector: &mut Injector,
    (extent, kinds): (Extent, &[Packet]),
    samples: &mut Samples,
) -> Result<()> {
    for round in 0..extent.rounds {
        eprintln!("bench: path, round {} of {}", round + 1, extent.rounds);
        samples.begin_round();
        for plant in plants {
            guard::establish(plant, FLOWS)?;
        }
        let mut probe = Probe::here(injector)?;
        for &packet in kinds {
            match packet {
                Packet::Established(_) => probe.established(plants, packet, extent, samples)?,
                Packet::New | Packet::Denied => probe.misses(plants, packet, extent, samples)?,
            }
        }
    }
    Ok(())
}

/// Where a miss takes microseconds, fewer of them tell as much.
fn misses(topology: &Topology, extent: Extent) -> u32 {
    if topology.rules >= MANY_RULES && topology.tracked() {
        extent.misses / 10
    } else {
        extent.misses
    }
}

/// The topology that the others are compared with.
pub const BASE: &str = "none";

/// What measures a plant, on one processor.
#[derive(Debug)]
pub struct Probe<'a> {
    injector: &'a mut Injector,
    cpu: usize,
}

impl<'a> Probe<'a> {
    /// On the processor that is idle now.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn here(injector: &'a mut Injector) -> Result<Self> {
        let cpu = clock::idlest()?;
        Ok(Self { injector, cpu })
    }

    /// Measures packets of the sessions that are loaded.
    ///
    /// # Errors
    /// Not all of them arrived.
    pub fn established(
        &mut self,
        plants: &[Plant],
        packet: Packet,
        extent: Extent,
        samples: &mut Samples,
    ) -> Result<()> {
        turns::least(plants, extent.repeats, (&packet.id(), samples), |plant| {
            self.run(plant, packet, extent.packets)
        })
    }

    fn misses(
        &mut self,
        plants: &[Plant],
        packet: Packet,
        extent: Extent,
        samples: &mut Samples,
    ) -> Result<()> {
        turns::least(plants, extent.repeats, (&packet.id(), samples), |plant| {
            guard::clear(plant)?;
            self.run(plant, packet, misses(&plant.topology, extent))
        })
    }

    /// One run: nanoseconds of a packet, after it was made sure where the packets went.
    fn run(&mut self, plant: &Plant, packet: Packet, count: u32) -> Result<f64> {
        let topology = &plant.topology;
        let (choose, destination) = match packet {
            Packet::Established(flows) => (Choose::Random(flows), world::PORT_ALLOWED),
            Packet::New => (Choose::Next(0), world::PORT_ALLOWED),
            Packet::Denied => (Choose::Random(world::FLOWS_MAX), world::PORT_DENIED),
        };
        let plan = Plan {
            choose,
            prefixes: topology.rules,
            far_first: world::FAR_FIRST,
            far: FarEnd::Destination,
        };
        let frame = world::datagram(destination)?;
        let before = self.injector.arrived()?;
        let earlier = judged(plant, packet)?;
        let netns = plant.hypervisor.netns();
        let (injector, cpu) = (&mut *self.injector, self.cpu);
        let cost = netns.run(|| {
            clock::pin(cpu)?;
            injector.inject(port(Side::Near), (&plan, &frame, count))
        })?;
        let expected = match packet {
            Packet::Denied if !topology.is_open() => 0,
            _ => u64::from(count),
        };
        self.arrivals(before + expected)
            .with_context(|| format!("{}, {}", topology.id, packet.id()))?;
        let after = judged(plant, packet)?;
        let judged = (after.0 - earlier.0, after.1 - earlier.1);
        held(plant, (packet, u64::from(count)), judged)?;
        Ok(cost.ns)
    }

    /// A packet that was lost must not count as one that was carried, nor the other way round.
    fn arrivals(&self, expected: u64) -> Result<()> {
        let begin = std::time::Instant::now();
        loop {
            let arrived = self.injector.arrived()?;
            if arrived == expected {
                return Ok(());
            }
            if arrived > expected || begin.elapsed() > PATIENCE {
                let off = i128::from(arrived) - i128::from(expected);
                bail!("{off:+} packets arrived beyond those that should have");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether Lictor judged every packet as what it is, and steered it if it is to.
fn held(plant: &Plant, (packet, count): (Packet, u64), judged: (u64, u64)) -> Result<()> {
    let Some(datapath) = &plant.datapath else {
        return Ok(());
    };
    let steers = plant.topology.guard == Guard::Steered;
    // Now and then one goes by the bridge, which must not forget the stations.
    let fewest = match packet {
        Packet::Established(_) if steers => count - count / 100 - 1,
        _ => 0,
    };
    if judged.0 != count || judged.1 < fewest {
        let reasons = datapath.counters(Side::Near.vnic())?.egress.reasons;
        bail!(
            "{}, {}: of {count} packets Lictor judged {} as that and steered {}; {reasons:?}",
            plant.topology.id,
            packet.id(),
            judged.0,
            judged.1
        );
    }
    Ok(())
}

/// How many packets of this kind the near vnic has seen, and how many it has steered, if Lictor
/// guards it.
fn judged(plant: &Plant, packet: Packet) -> Result<(u64, u64)> {
    let Some(datapath) = &plant.datapath else {
        return Ok((0, 0));
    };
    let reason = match packet {
        Packet::Established(_) => Reason::Session,
        Packet::New => Reason::PolicyAllow,
        Packet::Denied => Reason::DefaultDeny,
    };
    let egress = datapath.counters(Side::Near.vnic())?.egress;
    Ok((egress.reason(reason).packets, egress.steered.packets))
}

/// Whether what is loaded is still there after a phase with many sessions.
///
/// # Errors
/// Some have expired: what was measured was not what it says.
pub fn still_established(plant: &Plant, flows: u32) -> Result<()> {
    let left = match (&plant.datapath, plant.topology.guard) {
        (Some(datapath), _) => {
            let mut left = u64::MAX;
            for side in plant.topology.protected() {
                left = left.min(datapath.session_count(side.vnic())?);
            }
            left
        }
        (None, Guard::None | Guard::Hooks) => return Ok(()),
        (None, _) => {
            let path = "/proc/sys/net/netfilter/nf_conntrack_count";
            let netns = plant.hypervisor.netns();
            let text = netns.run(|| Ok(std::fs::read_to_string(path)?))?;
            text.trim().parse().context("nf_conntrack_count")?
        }
    };
    if left < u64::from(flows) {
        bail!("{}: {left} of {flows} sessions are left", plant.topology.id);
    }
    Ok(())
}
