//! End to end: the two guests' own stacks talk over the plant, both on one processor. What counts
//! is the processor time of both ends and of everything between them.

use super::guard;
use super::path::BASE;
use super::plant::{DEVICE, Plant};
use super::sample::Samples;
use super::turns;
use crate::clock;
use crate::world::{PORTS_SERVED, Side};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// What the guests say to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Small UDP datagrams one way.
    Datagrams,
    /// One byte and its answer, over one TCP connection.
    RoundTrips,
    /// A TCP connection for each byte and its answer.
    Connections,
    /// A TCP stream in frames of 1500 bytes, without segmentation offloads.
    Stream,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Datagrams,
        Self::RoundTrips,
        Self::Connections,
        Self::Stream,
    ];

    /// Its name in tables and in JSON.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Datagrams => "udp",
            Self::RoundTrips => "rr",
            Self::Connections => "crr",
            Self::Stream => "tcp-1500",
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Rounds, as of the path.
    pub rounds: u32,
    /// Runs of each load and plant in one round; the least counts.
    pub repeats: u32,
    /// How long each run lasts.
    pub lasting: Duration,
}

/// What a silent peer is given.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes in a segment of a 1500-byte packet, with timestamps.
const SEGMENT_BYTES: f64 = 1_448.0;
/// What one write of the stream hands over.
const WRITE_BYTES: usize = 128 << 10;
/// The last byte of a load.
const QUIT: u8 = b'q';

/// Runs all rounds. The values are nanoseconds for each packet, round trip, connection or segment.
///
/// # Errors
/// A load does not get through.
pub fn rounds(
    plants: &[Plant],
    loads: &[Load],
    extent: Extent,
    samples: &mut Samples,
) -> Result<()> {
    for round in 0..extent.rounds {
        eprintln!(
            "bench: end to end, round {} of {}",
            round + 1,
            extent.rounds
        );
        samples.begin_round();
        let cpu = clock::idlest()?;
        for &load in loads {
            turns::least(plants, extent.repeats, (load.id(), samples), |plant| {
                // What earlier runs left behind is no part of this one.
                guard::clear(plant)?;
                run(plant, load, (cpu, extent.lasting))
                    .with_context(|| format!("{}, {}", plant.topology.id, load.id()))
            })?;
        }
    }
    for load in loads {
        ensure!(
            samples.values(BASE, load.id()).len() == extent.rounds as usize,
            "the bare bridge was not measured in every round"
        );
    }
    Ok(())
}

/// Units that went through, and the processor time of one end.
struct End {
    units: u64,
    used: Duration,
}

fn run(plant: &Plant, load: Load, (cpu, lasting): (usize, Duration)) -> Result<f64> {
    if load == Load::Stream {
        offloads(plant, "off")?;
    }
    let deferred = clock::deferred(cpu)?;
    let ends = both_ends(plant, load, (cpu, lasting));
    let deferred = clock::deferred(cpu)?.saturating_sub(deferred);
    if load == Load::Stream {
        offloads(plant, "on")?;
    }
    let (near, far) = ends?;
    ensure!(near.units > 0, "nothing was carried");
    // The last datagrams may wait in the socket when the far end looks.
    let (least, most) = (near.units.min(far.units), near.units.max(far.units));
    ensure!(
        least as f64 >= most as f64 * 0.99,
        "{} were sent and {} arrived",
        near.units,
        far.units
    );
    let used = near.used + far.used + deferred;
    Ok(used.as_secs_f64() * 1e9 / near.units as f64)
}

fn offloads(plant: &Plant, state: &str) -> Result<()> {
    for side in Side::BOTH {
        let mut command = plant.guest(side).command("ethtool");
        command.args(["-K", DEVICE]);
        for offload in ["tso", "gso", "gro", "tx"] {
            command.args([offload, state]);
        }
        lictor_lab::site::command::output(command)?;
    }
    Ok(())
}

fn both_ends(plant: &Plant, load: Load, when: (usize, Duration)) -> Result<(End, End)> {
    let (cpu, lasting) = when;
    let server = SocketAddr::from((Side::Far.address(), PORTS_SERVED[0]));
    let (near, far) = (plant.guest(Side::Near), plant.guest(Side::Far));
    std::thread::scope(|scope| {
        let (ready, is_ready) = channel();
        let (stop, stopped) = channel::<()>();
        let far = scope.spawn(move || {
            far.netns().run(move || {
                clock::pin(cpu)?;
                match load {
                    Load::Datagrams => swallow(server, &ready, &stopped),
                    _ => serve(load, server, &ready),
                }
            })
        });
        let near = match is_ready.recv() {
            Ok(()) => near.netns().run(|| {
                clock::pin(cpu)?;
                ask(load, server, lasting)
            }),
            Err(_) => bail_later(),
        };
        drop(stop);
        // A server that waits for a client that failed must be let go.
        if near.is_err() && load != Load::Datagrams {
            let _ = plant
                .guest(Side::Far)
                .netns()
                .run(|| Ok(TcpStream::connect(server)?.write_all(&[QUIT])?));
        }
        let far = far
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (near, far) {
            (Ok(near), Ok(far)) => Ok((near, far)),
            (_, Err(error)) | (Err(error), _) => Err(error),
        }
    })
}

fn bail_later() -> Result<End> {
    bail!("the server did not start")
}

fn ask(load: Load, server: SocketAddr, lasting: Duration) -> Result<End> {
    let before = clock::thread()?;
    let units = match load {
        Load::Datagrams => send_datagrams(server, lasting)?,
        Load::RoundTrips => round_trips(server, lasting)?,
        Load::Connections => connections(server, lasting)?,
        Load::Stream => stream(server, lasting)?,
    };
    let used = clock::thread()?.saturating_sub(before);
    Ok(End { units, used })
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn send_datagrams(server: SocketAddr, lasting: Duration) -> Result<u64> {
    const BETWEEN_LOOKS: u64 = 256;
    let socket = UdpSocket::bind((Side::Near.address(), 0))?;
    socket.connect(server)?;
    // Guards treat a conversation that was never answered as one that begins, packet by packet.
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 8]).context("no answer to the first")?;
    let (payload, begin) = ([0_u8; 18], Instant::now());
    let mut sent = 0;
    while begin.elapsed() < lasting {
        for _ in 0..BETWEEN_LOOKS {
            socket.send(&payload)?;
        }
        sent += BETWEEN_LOOKS;
    }
    Ok(sent)
}

fn round_trips(server: SocketAddr, lasting: Duration) -> Result<u64> {
    let mut stream = connect(server)?;
    let (mut byte, begin, mut units) = ([b'r'], Instant::now(), 0);
    while begin.elapsed() < lasting {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        units += 1;
    }
    stream.write_all(&[QUIT])?;
    Ok(units)
}

fn connections(server: SocketAddr, lasting: Duration) -> Result<u64> {
    let (begin, mut units) = (Instant::now(), 0);
    while begin.elapsed() < lasting {
        let mut stream = connect(server)?;
        let mut byte = [b'c'];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        // The server closes first, so that its ports of no limit linger and not ours.
        ensure!(stream.read(&mut byte)? == 0, "the server says too much");
        units += 1;
    }
    connect(server)?.write_all(&[QUIT])?;
    Ok(units)
}

fn stream(server: SocketAddr, lasting: Duration) -> Result<u64> {
    let mut stream = connect(server)?;
    let (bytes, begin) = (vec![0_u8; WRITE_BYTES], Instant::now());
    let mut sent = 0_u64;
    while begin.elapsed() < lasting {
        stream.write_all(&bytes)?;
        sent += bytes.len() as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Everything has arrived when the other end closes too.
    ensure!(stream.read(&mut [0])? == 0, "the server says something");
    Ok((sent as f64 / SEGMENT_BYTES) as u64)
}

fn serve(load: Load, address: SocketAddr, ready: &Sender<()>) -> Result<End> {
    let listener = TcpListener::bind(address)?;
    ready.send(())?;
    let mut units = 0;
    let mut before = None;
    loop {
        let (mut stream, _) = listener.accept()?;
        if before.is_none() {
            before = Some(clock::thread()?);
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let (served, more) = converse(load, &mut stream)?;
        units += served;
        if !more {
            break;
        }
    }
    let used = clock::thread()?.saturating_sub(before.unwrap_or_default());
    Ok(End { units, used })
}

/// How many units one connection had, and whether another one is to come.
fn converse(load: Load, stream: &mut TcpStream) -> Result<(u64, bool)> {
    if load == Load::Stream {
        let (mut bytes, mut received) = (vec![0; WRITE_BYTES], 0);
        loop {
            match stream.read(&mut bytes)? {
                0 => return Ok(((received as f64 / SEGMENT_BYTES) as u64, false)),
                more => received += more as u64,
            }
        }
    }
    let (mut byte, mut units) = ([0], 0);
    loop {
        if stream.read(&mut byte)? == 0 || byte[0] == QUIT {
            return Ok((units, false));
        }
        stream.write_all(&byte)?;
        units += 1;
        if load == Load::Connections {
            return Ok((units, true));
        }
    }
}

/// A receiver that takes nothing out of its socket: what arrives is counted by its stack and
/// dropped, so that the way there is what costs.
fn swallow(
    address: SocketAddr,
    ready: &Sender<()>,
    stopped: &std::sync::mpsc::Receiver<()>,
) -> Result<End> {
    let socket = UdpSocket::bind(address)?;
    setsockopt(&socket, sockopt::RcvBuf, &4_096)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let before = overflowed()?;
    ready.send(())?;
    let mut first = [0; 8];
    let (length, from) = socket.recv_from(&mut first)?;
    socket.send_to(&first[..length], from)?;
    let _ = stopped.recv_timeout(Duration::from_secs(60));
    socket.set_nonblocking(true)?;
    let mut kept = 0;
    loop {
        match socket.recv(&mut [0; 64]) {
            Ok(_) => kept += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(End {
        units: overflowed()?.saturating_sub(before) + kept,
        used: Duration::ZERO,
    })
}

/// Datagrams that this namespace's sockets had no room for.
fn overflowed() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no line Udp in net/snmp")?;
    let place = names.split(' ').position(|name| name == "RcvbufErrors");
    let value = place.and_then(|place| values.split(' ').nth(place));
    value
        .and_then(|value| value.parse().ok())
        .context("no RcvbufErrors in net/snmp")
}
