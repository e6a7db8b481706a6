//! A vnic's memory, by the kernel's own account of each map and program, and what a restart takes.

use super::guard;
use super::plant::{DEVICE, port};
use crate::world::{self, Protected, Side};
use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType};
use lictor_datapath::{Datapath, VnicSpec};
use lictor_lab::{Lab, Node};
use lictor_types::{Direction, Mac, SESSIONS_PER_VNIC_DEFAULT, VnicId, VnicName, VnicState};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// What a vnic takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes of everything of a vnic with the least quota: programs, counters, state, least tables.
    pub idle_bytes: u64,
    /// The same with the default quota, and full.
    pub default_bytes: u64,
    /// The same with a quota that is larger.
    pub large_bytes: u64,
    /// That quota.
    pub quota: u32,
}

impl Memory {
    /// Bytes of each session that a quota is raised by.
    #[must_use]
    pub fn session_bytes(&self) -> f64 {
        let more = self.large_bytes.saturating_sub(self.default_bytes);
        let sessions = self.quota.saturating_sub(SESSIONS_PER_VNIC_DEFAULT);
        more as f64 / f64::from(sessions.max(1))
    }
}

/// Measures one vnic's maps and programs with three quotas, full each time. The largest must be
/// above the default.
///
/// # Errors
/// The kernel does not say what a map takes, or the table does not take its quota.
pub fn memory(quota: u32) -> Result<Memory> {
    let lab = Lab::new()?;
    let node = lab.node("memory")?;
    for side in Side::BOTH {
        let port = port(side);
        let words = format!("link add {port} type veth peer name {port}-{DEVICE}");
        node.netns().ip(&words)?;
    }
    node.netns().run(|| {
        let mut datapath = Datapath::open(&node.bpffs())?;
        datapath.load(&world::tables(10, Protected::Both).canonical()?)?;
        // What the first vnic has in common with the second is the host's.
        attach(&mut datapath, &guard::spec(Side::Far, 1)?)?;
        let shared = objects(&datapath, &[Side::Far])?;
        let mut full = |quota: u32| -> Result<u64> {
            attach(&mut datapath, &guard::spec(Side::Near, quota)?)?;
            let sessions = world::sessions(Side::Near, quota, 10);
            let taken = datapath.import(Side::Near.vnic(), &sessions)?.imported;
            // A table with a bounded search may refuse one in ten thousand just below its quota.
            ensure!(
                taken + u64::from(quota / 1_000) >= u64::from(quota),
                "the table took {taken} of its quota of {quota} sessions"
            );
            let all = objects(&datapath, &Side::BOTH)?;
            datapath.detach(Side::Near.vnic())?;
            let own = all
                .iter()
                .filter(|(object, _)| !shared.contains_key(object));
            Ok(own.map(|(_, bytes)| bytes).sum())
        };
        let memory = Memory {
            idle_bytes: full(1)?,
            default_bytes: full(SESSIONS_PER_VNIC_DEFAULT)?,
            large_bytes: full(quota)?,
            quota,
        };
        // A table that is not seen must not pass as one that takes nothing.
        ensure!(
            memory.session_bytes() >= 64.0,
            "{memory:?}: these are not all the maps, as a session alone has more bytes"
        );
        Ok(memory)
    })
}

fn attach(datapath: &mut Datapath, spec: &VnicSpec) -> Result<()> {
    datapath.attach(spec)?;
    datapath.set_state(spec.vnic, VnicState::Open)?;
    Ok(())
}

/// What the kernel keeps, by kind and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Map(u32),
    Program(u32),
}

/// The vnics' programs and every map that these can reach, with its bytes.
fn objects(datapath: &Datapath, sides: &[Side]) -> Result<BTreeMap<Object, u64>> {
    let mut found = BTreeMap::new();
    let mut programs = Vec::new();
    for side in sides {
        for direction in [Direction::Egress, Direction::Ingress] {
            let program = datapath.program(side.vnic(), direction)?;
            let number = program.as_raw_fd();
            if let Some((Object::Program(id), bytes)) = describe(&number.to_string())? {
                programs.push(id);
                found.insert(Object::Program(id), bytes);
            }
        }
    }
    let query = libbpf_rs::query::ProgInfoQueryOptions::default().include_map_ids(true);
    for info in libbpf_rs::query::ProgInfoIter::with_query_opts(query) {
        if programs.contains(&info.id) {
            for id in &info.map_ids {
                add_map(*id, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// A map, and those that it holds if it is one of maps.
fn add_map(id: u32, found: &mut BTreeMap<Object, u64>) -> Result<()> {
    let map = MapHandle::from_map_id(id).with_context(|| format!("map {id}"))?;
    let number = map.as_fd().as_raw_fd().to_string();
    found.extend(describe(&number)?);
    if map.map_type() != MapType::ArrayOfMaps {
        return Ok(());
    }
    for key in map.keys() {
        let inner = map.lookup(&key, MapFlags::ANY)?;
        if let Some(id) = inner.as_deref().and_then(|id| id.first_chunk().copied()) {
            add_map(u32::from_ne_bytes(id), found)?;
        }
    }
    Ok(())
}

/// What a descriptor of this process is, if it is a map or a program.
fn describe(number: &str) -> Result<Option<(Object, u64)>> {
    let path = Path::new("/proc/self/fdinfo").join(number);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let field = |name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        value.trim().parse::<u64>().ok()
    };
    let id = |name| field(name).and_then(|id| u32::try_from(id).ok());
    let object = id("map_id:")
        .map(Object::Map)
        .or_else(|| id("prog_id:").map(Object::Program));
    let Some(object) = object else {
        return Ok(None);
    };
    let bytes = field("memlock:");
    let bytes = bytes.with_context(|| format!("{} has no memlock", path.display()))?;
    Ok(Some((object, bytes)))
}

/// How long it takes to attach many vnics, and to find them again after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Restart {
    /// Vnics.
    pub vnics: u32,
    /// Milliseconds of wall time for each that is new: programs loaded, verified and attached.
    pub new_ms: f64,
    /// Milliseconds of wall time for each after a restart: everything opened and read back, and
    /// attached again if it were missing.
    pub again_ms: f64,
}

/// Attaches many vnics to as many devices, then does what an agent does as it starts.
///
/// # Errors
/// A vnic is not found again as it was.
pub fn restart(vnics: u32) -> Result<Restart> {
    const TIMES: u32 = 3;
    let lab = Lab::new()?;
    let node = lab.node("restart")?;
    let specs = (1..=vnics).map(tap).collect::<Result<Vec<_>>>()?;
    devices(&node, &specs)?;
    node.netns().run(|| {
        let begin = Instant::now();
        let mut datapath = Datapath::open(&node.bpffs())?;
        datapath.load(&world::tables(10, Protected::Near).canonical()?)?;
        for spec in &specs {
            attach(&mut datapath, spec)?;
        }
        let each = |time: Instant| time.elapsed().as_secs_f64() * 1e3 / f64::from(vnics);
        let new_ms = each(begin);
        let mut again_ms = f64::MAX;
        for _ in 0..TIMES {
            drop(datapath);
            let begin = Instant::now();
            datapath = Datapath::open(&node.bpffs())?;
            for spec in &specs {
                let attached = datapath.attach(spec)?;
                ensure!(attached.adopted, "{} was not found again", spec.device);
            }
            again_ms = again_ms.min(each(begin));
        }
        for spec in &specs {
            let hooks = datapath.verify_hooks(spec.vnic)?;
            let both = hooks.egress.attached && hooks.ingress.attached;
            ensure!(both, "{} is not attached", spec.device);
        }
        Ok(Restart {
            vnics,
            new_ms,
            again_ms,
        })
    })
}

fn tap(number: u32) -> Result<VnicSpec> {
    let [_, _, high, low] = number.to_be_bytes();
    Ok(VnicSpec {
        vnic: VnicId(number),
        name: VnicName::new(format!("guest-{number}"))?,
        device: format!("tap{number}"),
        mac: Mac([0x52, 0x54, 0, 1, high, low]),
        ..guard::spec(Side::Near, 1_024)?
    })
}

fn devices(node: &Node, specs: &[VnicSpec]) -> Result<()> {
    let mut batch = String::new();
    for spec in specs {
        let device = &spec.device;
        let _ = writeln!(batch, "link add {device} type veth peer name g{device}");
    }
    let mut command = node.command("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().context("cannot run ip")?;
    let mut input = child.stdin.take().context("the child has an input")?;
    input.write_all(batch.as_bytes())?;
    drop(input);
    let status = child.wait()?;
    ensure!(status.success(), "ip ended with {status}");
    Ok(())
}
