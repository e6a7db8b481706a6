//! The pause that QEMU tells of, with Lictor and without, in turns; and what else the moves of a
//! large table show.

use super::Extent;
use super::goals::{Leaked, Measured};
use super::lost::{far, fill, port, present, tables, vnic};
use super::memory::{Watch, own};
use super::probes::Probes;
use super::world::{DB, World};
use anyhow::{Context, Result, ensure};
use lictor_lab::frame::{Datagram, udp4};
use lictor_lab::site::Agent;
use lictor_types::{Direction, Mac, Verdict};

/// Moves of which too little had changed when the guest stopped are made again, so often at most.
const AGAIN_MAX: u32 = 3;
const UPLINK: Mac = Mac([0x52, 0x54, 0, 0x77, 1, 1]);

pub(super) fn measure(world: &mut World, extent: &Extent, measured: &mut Measured) -> Result<()> {
    let mut idle = Vec::new();
    for agent in world.site.agents() {
        idle.push((agent.pid()?, own(agent.pid()?)?));
    }
    fill(world.guarded.here(&world.site)?, extent.sessions)?;
    let probes = Probes::begin(world.site.lab())?;
    let mut leaked = Leaked {
        frames: 0,
        span_ms: 0.0,
        control: 0,
    };
    for number in 1..=extent.pause_moves {
        eprintln!("bench: pause, move {number} of {}", extent.pause_moves);
        // Only the first one finds agents that have never carried a large table.
        let watch = (number == 1).then(|| Watch::begin(idle.clone()));
        let mark = probes.mark();
        with_lictor(world, extent, measured).with_context(|| format!("move {number}"))?;
        let through = probes.answers(DB.mac(), mark)?;
        leaked.frames += through.frames;
        leaked.span_ms += through.span_ms;
        if let Some(watch) = watch {
            measured.memory = Some(watch.end()? as f64);
        }
        let pause = world.plain.go()?;
        measured.without_ms.push(pause.as_secs_f64() * 1e3);
    }
    leaked.control = probes.answers(super::world::PLAIN.mac(), 0)?.frames;
    measured.leaked = Some(leaked);
    let there = present(world.guarded.here(&world.site)?)?.len();
    let carried = measured.carried.context("no move was made")?;
    measured.carried = Some(carried.min(there as f64));
    world.streams_are_whole()
}

fn with_lictor(world: &mut World, extent: &Extent, measured: &mut Measured) -> Result<()> {
    for _ in 0..AGAIN_MAX {
        let moved = world
            .guarded
            .go(&world.site, |agent| touch(agent, extent.changed))?;
        let copied = moved
            .record
            .copied
            .context("the record tells of the copy")?;
        measured.copied = Some(copied);
        measured.copy_s.push(moved.copy.as_secs_f64());
        let accepted = moved.record.sessions.accepted as f64;
        let least = measured.carried.unwrap_or(accepted);
        measured.carried = Some(least.min(accepted));
        // A round that came between had less left for the pause: that would be too easy.
        if copied.last_records >= u64::from(extent.changed) {
            measured.with_ms.push(moved.pause.as_secs_f64() * 1e3);
            return Ok(());
        }
        eprintln!(
            "bench: only {} sessions changed; again",
            copied.last_records
        );
    }
    anyhow::bail!(
        "a round comes between each time: {} sessions must change",
        extent.changed
    )
}

/// Gives a packet of so many sessions to the guest's own program.
fn touch(agent: &Agent, count: u32) -> Result<()> {
    let datapath = tables(agent)?;
    for number in 0..count {
        let datagram = Datagram {
            mac: (UPLINK, DB.mac()),
            ip: (far(number), DB.address()),
            port: port(),
        };
        let verdict = datapath.test_run(vnic(), Direction::Ingress, &udp4(&datagram, b"bench"))?;
        ensure!(verdict.verdict == Verdict::Allow, "{verdict:?}");
    }
    Ok(())
}
