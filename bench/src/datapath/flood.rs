//! A flood of half-open conversations toward a guest that serves, while others are established and
//! genuine ones begin. The SYNs come from a million addresses and ports that nobody has; the
//! guest's own stack answers each, so that both directions are seen.

use super::plant::{Guard, Plant, Topology, Wiring, port};
use crate::clock;
use crate::injector::{Choose, FarEnd, Injector, Plan};
use crate::world::{self, PORT_ALLOWED, PORTS_SERVED, Protected, Side};
use anyhow::{Context, Result, bail, ensure};
use lictor_lab::Lab;
use lictor_types::{Reason, SESSIONS_PER_VNIC_DEFAULT};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Conversations that are established before.
    pub established: usize,
    /// SYNs, as a multiple of the quota.
    pub quotas: u32,
    /// Genuine conversations that are begun at least, while the flood goes on.
    pub genuine: u32,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// The guest's quota of sessions.
    pub quota: u32,
    /// SYNs of the flood that Lictor let in.
    pub flood: u64,
    /// SYNs of the flood that found no room.
    pub refused: u64,
    /// Conversations that were established before.
    pub established: usize,
    /// Of those, how many no longer answered after it.
    pub lost: usize,
    /// Genuine conversations that were tried meanwhile.
    pub tried: u32,
    /// Of those, how many answered.
    pub succeeded: u32,
    /// What the first of the others met.
    pub failure: Option<String>,
}

impl Outcome {
    /// The share of the genuine conversations that succeeded.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.succeeded) / f64::from(self.tried.max(1))
    }
}

/// SYNs between two looks at how far the genuine ones are.
const BATCH: u32 = 4_096;
/// However slow the genuine ones are, the flood ends.
const BATCHES_MAX: u32 = 400;
/// Before a client would send its SYN a second time: what only works then has not worked.
const PATIENCE: Duration = Duration::from_millis(900);
/// Far prefixes from which the flood comes.
const PREFIXES: u32 = 10;
/// Files of both ends of each conversation, and some.
const FILES: u64 = 8_192;

const TOPOLOGY: Topology = Topology {
    id: "flood",
    what: "Lictor on a server's vnic",
    wiring: Wiring::Bridge,
    guard: Guard::Lictor(Protected::Far),
    rules: PREFIXES,
    quota: SESSIONS_PER_VNIC_DEFAULT,
};

/// Floods.
///
/// # Errors
/// The plant does not work before the flood, or the flood does not get to it.
pub fn run(extent: Extent) -> Result<Outcome> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES.min(most), most)?;
    let lab = Lab::new()?;
    let plant = Plant::build(&lab, &TOPOLOGY)?;
    let mut injector = Injector::load()?;
    let near = plant.hypervisor.netns();
    near.run(|| injector.open_port(port(Side::Near)))?;
    // Answers to the flood go back to where it came from, and die there.
    let gateway = Side::Near.address();
    plant
        .guest(Side::Far)
        .netns()
        .ip(&format!("route add {}/9 via {gateway}", world::FAR_FIRST))?;
    let serve = |port| {
        let address = SocketAddr::from((Side::Far.address(), port));
        let far = plant.guest(Side::Far).netns();
        far.run(|| Ok(TcpListener::bind(address)?))
    };
    let (_flooded, server) = (serve(PORT_ALLOWED)?, serve(PORTS_SERVED[0])?);
    let mut pairs = Vec::new();
    for number in 0..extent.established {
        let pair = open(&plant, &server);
        pairs.push(pair.with_context(|| format!("conversation {number} before the flood"))?);
    }
    let before = counters(&plant)?;
    let Genuine {
        tried,
        succeeded,
        failure,
    } = flood(&plant, (&mut injector, &server), extent)?;
    let after = counters(&plant)?;
    let lost = pairs.iter().filter(|pair| echo(pair).is_err()).count();
    let let_in = (after.0 - before.0).saturating_sub(u64::from(tried));
    ensure!(
        let_in > u64::from(TOPOLOGY.quota),
        "only {let_in} SYNs of the flood were let in: it was no flood"
    );
    Ok(Outcome {
        quota: TOPOLOGY.quota,
        flood: let_in,
        refused: after.1 - before.1,
        established: pairs.len(),
        lost,
        tried,
        succeeded,
        failure,
    })
}

type Pair = (TcpStream, TcpStream);

/// Both ends of a new conversation that has carried a byte each way.
fn open(plant: &Plant, server: &TcpListener) -> Result<Pair> {
    let to = server.local_addr()?;
    let near = plant.guest(Side::Near).netns();
    let client = near.run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    let own = client.local_addr()?;
    server.set_nonblocking(true)?;
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        // Some that were given up may still wait to be taken.
        match server.accept() {
            Ok((accepted, from)) if from == own => {
                accepted.set_nonblocking(false)?;
                let pair = (client, accepted);
                echo(&pair)?;
                return Ok(pair);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(100));
            }
            other => drop(other?),
        }
    }
    bail!("the server's end does not know of it")
}

fn echo((client, server): &Pair) -> Result<()> {
    let mut byte = [b'e'];
    for (mut from, mut to) in [(client, server), (server, client)] {
        to.set_read_timeout(Some(PATIENCE))?;
        from.write_all(&byte)?;
        to.read_exact(&mut byte)?;
    }
    Ok(())
}

/// New sessions and those that found no room, toward the server.
fn counters(plant: &Plant) -> Result<(u64, u64)> {
    let datapath = plant.datapath.as_ref().context("Lictor guards it")?;
    let ingress = datapath.counters(Side::Far.vnic())?.ingress;
    let count = |reason| ingress.reason(reason).packets;
    let allowed = count(Reason::PolicyAllow);
    Ok((allowed, count(Reason::SessionTableFull)))
}

/// The genuine conversations.
#[derive(Debug, Default)]
struct Genuine {
    tried: u32,
    succeeded: u32,
    failure: Option<String>,
}

/// Floods while genuine conversations are begun.
fn flood(
    plant: &Plant,
    (injector, server): (&mut Injector, &TcpListener),
    extent: Extent,
) -> Result<Genuine> {
    let (over, tried) = (AtomicBool::new(false), AtomicU32::new(0));
    let cpu = clock::idlest()?;
    std::thread::scope(|scope| {
        let genuine = scope.spawn(|| {
            let mut all = Genuine::default();
            while !over.load(Ordering::Relaxed) {
                match open(plant, server) {
                    Ok(_) => all.succeeded += 1,
                    Err(error) => all.failure = all.failure.or(Some(format!("{error:#}"))),
                }
                all.tried = tried.fetch_add(1, Ordering::Relaxed) + 1;
            }
            all
        });
        let flooded = plant.hypervisor.netns().run(|| {
            clock::pin(cpu)?;
            pour(injector, extent, &tried)
        });
        over.store(true, Ordering::Relaxed);
        let genuine = genuine
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        flooded.map(|()| genuine)
    })
}

/// Floods until there were SYNs enough, and genuine conversations enough beside them.
fn pour(injector: &mut Injector, extent: Extent, tried: &AtomicU32) -> Result<()> {
    let frame = world::syn(PORT_ALLOWED)?;
    let wanted = TOPOLOGY.quota * extent.quotas;
    for batch in 0..BATCHES_MAX {
        if batch * BATCH >= wanted && tried.load(Ordering::Relaxed) >= extent.genuine {
            return Ok(());
        }
        let plan = Plan {
            choose: Choose::Next(batch * BATCH % world::FLOWS_MAX),
            prefixes: PREFIXES,
            far_first: world::FAR_FIRST,
            far: FarEnd::Source,
        };
        injector.inject(port(Side::Near), (&plan, &frame, BATCH))?;
    }
    let tried = tried.load(Ordering::Relaxed);
    bail!(
        "{BATCHES_MAX} batches of {BATCH} SYNs went by while only {tried} of {} genuine \
         conversations could be tried",
        extent.genuine
    )
}
