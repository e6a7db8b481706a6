//! Sessions, looked for one by one in the kernel of the guest's next host after each of many moves.

use super::Extent;
use super::goals::Measured;
use super::world::{DB, LOAD_PORT, World};
use anyhow::{Context, Result, ensure};
use lictor_datapath::Datapath;
use lictor_lab::site::Agent;
use lictor_types::{
    Direction, Epoch, Generation, RuleId, Segment, SessionKey, SessionRecord, TcpEnd, TcpState,
    VnicId,
};
use std::collections::HashSet;
use std::net::Ipv4Addr;

/// The far ends' first address.
const FAR: u32 = 0x6440_0000;
const FAR_PORT: u16 = 40_000;
/// Long enough for the longest bench.
const LIFE_MS: u32 = 6 * 3_600_000;
const IDLE_MS: u32 = 10_000;

pub(super) fn vnic() -> VnicId {
    VnicId(u32::from(DB.number))
}

/// The far end of a session.
pub(super) fn far(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FAR + number)
}

pub(super) fn port() -> (u16, u16) {
    (FAR_PORT, LOAD_PORT)
}

fn session(number: u32) -> SessionRecord {
    SessionRecord {
        key: SessionKey {
            segment: Segment(1),
            protocol: 17,
            local: DB.address().into(),
            remote: far(number).into(),
            local_port: LOAD_PORT,
            remote_port: FAR_PORT,
        },
        opened: Direction::Ingress,
        state: TcpState::Established,
        rule: RuleId(1),
        generation: Generation(1),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(0),
        idle_ms: IDLE_MS,
        expires_in_ms: LIFE_MS,
        packets: [1, 1],
        bytes: [64, 64],
        tcp: [TcpEnd::default(); 2],
    }
}

/// The pinned tables of an agent's host, beside the agent itself.
pub(super) fn tables(agent: &Agent) -> Result<Datapath> {
    let node = agent.host().node();
    node.netns().run(|| Ok(Datapath::open(&node.bpffs())?))
}

/// Gives the guest so many sessions of the bench in place of those that it has. The streams' own
/// stay.
pub(super) fn fill(agent: &Agent, count: u32) -> Result<()> {
    let sessions: Vec<_> = (0..count).map(session).collect();
    let datapath = tables(agent)?;
    datapath.remove_sessions(vnic(), &Vec::from_iter(present(agent)?))?;
    let receipt = datapath.import(vnic(), &sessions)?;
    ensure!(
        receipt.imported == u64::from(count),
        "{} of {count} sessions were taken in: {:?}",
        receipt.imported,
        receipt.refused.first()
    );
    Ok(())
}

/// The far addresses of the guest's sessions.
pub(super) fn present(agent: &Agent) -> Result<HashSet<SessionKey>> {
    let mut keys = HashSet::new();
    tables(agent)?.each_key(vnic(), |key| {
        keys.insert(key);
    })?;
    keys.retain(|key| key.local_port == LOAD_PORT && key.protocol == 17);
    Ok(keys)
}

/// Moves the guest again and again.
pub(super) fn measure(world: &mut World, extent: &Extent, measured: &mut Measured) -> Result<()> {
    let source = world.guarded.here(&world.site)?;
    fill(source, extent.lost_sessions)?;
    let before = present(source)?;
    ensure!(
        before.len() == extent.lost_sessions as usize,
        "{} of them",
        before.len()
    );
    let mut lost = 0;
    for number in 1..=extent.lost_moves {
        eprintln!("bench: lost, move {number} of {}", extent.lost_moves);
        let moved = world.guarded.go(&world.site, |_| Ok(()));
        moved.with_context(|| format!("move {number}"))?;
        let now = present(world.guarded.here(&world.site)?)?;
        lost += before.difference(&now).count() as u64;
    }
    world.streams_are_whole()?;
    measured.lost = Some((lost, extent.lost_moves));
    Ok(())
}
