//! Conversations that check themselves: counter streams, echoes, one-shot attempts.

use crate::netns::Netns;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the lab's counter servers send a line, as the QEMU guests do.
pub const COUNTER_PERIOD: Duration = Duration::from_millis(10);

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a server's thread may take to notice that it was dropped.
const STOP_PAUSE: Duration = Duration::from_millis(200);
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Log {
    chunks: Vec<(Instant, Vec<u8>)>,
    ended: Option<String>,
}

/// What arrived on a counter stream and when. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StreamLog(Arc<Mutex<Log>>);

/// What a stream looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// How many numbers arrived.
    pub count: usize,
    /// The first number.
    pub first: Option<u64>,
    /// The last number.
    pub last: Option<u64>,
    /// Each number is the one before it plus one, and the stream did not begin anew.
    pub contiguous: bool,
    /// The longest time between two arrivals, or from the last arrival until now.
    pub largest_gap: Duration,
    /// The time since the last arrival.
    pub silent: Option<Duration>,
    /// Why the stream has ended, if it has.
    pub ended: Option<String>,
}

impl StreamLog {
    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        self.lock().chunks.push((Instant::now(), bytes.to_vec()));
    }

    fn drain(&self, mut source: impl Read) -> String {
        let mut buffer = [0; 4096];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return "closed by the peer".into(),
                Ok(length) => self.push(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Collects from a guest's data socket until its QEMU ends. Two QEMUs of one guest share a log:
    /// the source falls silent before the target runs, so their bytes follow each other.
    pub(crate) fn collect(&self, path: &Path) -> Result<()> {
        let socket = UnixStream::connect(path)
            .with_context(|| format!("no data channel on {}", path.display()))?;
        let log = self.clone();
        std::thread::spawn(move || log.drain(socket));
        Ok(())
    }

    /// The arrivals so far: a number, or `None` where an attempt ended.
    fn arrivals(&self) -> Vec<(Instant, Option<u64>)> {
        let log = self.lock();
        let mut arrivals = Vec::new();
        let mut line = String::new();
        for (at, bytes) in &log.chunks {
            for byte in bytes {
                match byte {
                    b'\n' => {
                        // A cut line or the mark E is no number: either way the stream broke there.
                        arrivals.push((*at, line.trim().parse().ok()));
                        line.clear();
                    }
                    other => line.push(char::from(*other)),
                }
            }
        }
        arrivals
    }

    /// Everything since the beginning.
    #[must_use]
    pub fn report(&self) -> StreamReport {
        self.report_where(|_| true)
    }

    /// What arrived after an instant; a gap that began before it does not count.
    #[must_use]
    pub fn report_since(&self, start: Instant) -> StreamReport {
        self.report_where(|at| at >= start)
    }

    fn report_where(&self, wanted: impl Fn(Instant) -> bool) -> StreamReport {
        let arrivals: Vec<_> = self
            .arrivals()
            .into_iter()
            .filter(|(at, _)| wanted(*at))
            .collect();
        let ended = self.lock().ended.clone();
        summarize(&arrivals, Instant::now(), ended)
    }

    /// Waits until this many numbers have arrived.
    ///
    /// # Errors
    /// They have not in time.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Result<StreamReport> {
        let start = Instant::now();
        loop {
            let report = self.report();
            if report.count >= count {
                return Ok(report);
            }
            if start.elapsed() > limit {
                anyhow::bail!("{count} numbers awaited for {limit:?}, got {report:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn summarize(
    arrivals: &[(Instant, Option<u64>)],
    now: Instant,
    ended: Option<String>,
) -> StreamReport {
    let numbers: Vec<u64> = arrivals.iter().filter_map(|(_, number)| *number).collect();
    let follows = |pair: &[(Instant, Option<u64>)]| match (pair[0].1, pair[1].1) {
        (Some(before), Some(after)) => before.checked_add(1) == Some(after),
        // A mark before the first number is an attempt that failed before the stream began.
        (None, _) => true,
        (Some(_), None) => false,
    };
    let silent = arrivals
        .last()
        .map(|(at, _)| now.saturating_duration_since(*at));
    let gaps = arrivals
        .windows(2)
        .map(|pair| pair[1].0.saturating_duration_since(pair[0].0));
    StreamReport {
        count: numbers.len(),
        first: numbers.first().copied(),
        last: numbers.last().copied(),
        contiguous: !numbers.is_empty() && arrivals.windows(2).all(follows),
        largest_gap: gaps.chain(silent).max().unwrap_or_default(),
        silent,
        ended,
    }
}

/// A client that holds one counter stream open.
#[derive(Debug)]
pub struct CounterStream {
    socket: TcpStream,
    log: StreamLog,
}

impl CounterStream {
    /// Connects from inside a namespace and records from then on.
    ///
    /// # Errors
    /// No connection within five seconds.
    pub fn hold(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let socket = netns.run(|| {
            TcpStream::connect_timeout(&to, CONNECT_LIMIT)
                .with_context(|| format!("no connection to {to}"))
        })?;
        let log = StreamLog::default();
        let (shared, source) = (log.clone(), socket.try_clone()?);
        std::thread::spawn(move || {
            let reason = shared.drain(source);
            shared.lock().ended = Some(reason);
        });
        Ok(Self { socket, log })
    }

    /// What has arrived.
    #[must_use]
    pub fn log(&self) -> &StreamLog {
        &self.log
    }

    /// The client's own end of the connection.
    ///
    /// # Errors
    /// The kernel does not know the socket any more.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }
}

impl Drop for CounterStream {
    fn drop(&mut self) {
        // Ends the reader thread; a connection that was reset needs nothing.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[derive(Debug)]
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, port: u16, serve: fn(TcpStream, &AtomicBool)) -> Result<Self> {
        // The unspecified IPv6 address takes IPv4 too.
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = netns.run(|| {
            TcpListener::bind(address).with_context(|| format!("cannot listen on port {port}"))
        })?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !shared.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        let stop = Arc::clone(&shared);
                        std::thread::spawn(move || serve(client, &stop));
                    }
                    Err(_) => std::thread::sleep(ACCEPT_PAUSE),
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Server {
    fn start_udp_echo(netns: &Netns, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let socket = netns.run(|| {
            UdpSocket::bind(address).with_context(|| format!("cannot bind to UDP port {port}"))
        })?;
        socket.set_read_timeout(Some(STOP_PAUSE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !shared.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // An answer that cannot leave is a lost datagram, which is UDP's right.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            eprintln!("lab: a server thread panicked");
        }
    }
}

/// A counter like the QEMU guests' own, in a namespace.
#[derive(Debug)]
pub struct CounterServer(#[expect(dead_code, reason = "held for its drop")] Server);

impl CounterServer {
    /// Listens on all addresses of the namespace, IPv4 and IPv6.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        Server::start(netns, port, |mut client, stop| {
            for number in 0_u64.. {
                let sent = client.write_all(format!("{number}\n").as_bytes());
                if sent.is_err() || stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(COUNTER_PERIOD);
            }
        })
        .map(Self)
    }
}

/// An echo server in a namespace, for TCP and UDP.
#[derive(Debug)]
pub struct EchoServer(#[expect(dead_code, reason = "held for its drop")] [Server; 2]);

impl EchoServer {
    /// Listens on all addresses of the namespace, IPv4 and IPv6.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let tcp = Server::start(netns, port, |mut client, stop| {
            let mut buffer = [0; 4096];
            // A quiet client must not keep the thread once the server is dropped.
            if client.set_read_timeout(Some(STOP_PAUSE)).is_err() {
                return;
            }
            while !stop.load(Ordering::Relaxed) {
                match client.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) if client.write_all(&buffer[..length]).is_ok() => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Ok(_) | Err(_) => return,
                }
            }
        })?;
        Ok(Self([tcp, Server::start_udp_echo(netns, port)?]))
    }
}

/// How one attempt to connect ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// After this long.
    Connected(Duration),
    /// The other side answered with a reset.
    Refused,
    /// No answer within the limit.
    TimedOut,
    /// Such as "no route to host".
    Failed(String),
}

/// Tries once to open a TCP connection from inside a namespace, and closes it again.
///
/// # Errors
/// The namespace is gone.
pub fn connect(netns: &Netns, to: SocketAddr, limit: Duration) -> Result<ConnectOutcome> {
    netns.run(|| {
        let start = Instant::now();
        Ok(match TcpStream::connect_timeout(&to, limit) {
            Ok(_) => ConnectOutcome::Connected(start.elapsed()),
            Err(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => ConnectOutcome::Refused,
                std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
                    ConnectOutcome::TimedOut
                }
                _ => ConnectOutcome::Failed(error.to_string()),
            },
        })
    })
}

fn udp_socket(to: SocketAddr) -> Result<UdpSocket> {
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket
        .connect(to)
        .with_context(|| format!("no way to {to}"))?;
    Ok(socket)
}

/// Sends one UDP datagram from inside a namespace.
///
/// # Errors
/// There is no route.
pub fn udp_send(netns: &Netns, to: SocketAddr, payload: &[u8]) -> Result<()> {
    netns.run(|| {
        udp_socket(to)?.send(payload)?;
        Ok(())
    })
}

/// Sends one UDP datagram and waits for one answer; `None` when none came in time.
///
/// # Errors
/// There is no route.
pub fn udp_request(
    netns: &Netns,
    to: SocketAddr,
    payload: &[u8],
    limit: Duration,
) -> Result<Option<Vec<u8>>> {
    netns.run(|| {
        let socket = udp_socket(to)?;
        socket.set_read_timeout(Some(limit))?;
        socket.send(payload)?;
        let mut buffer = vec![0; 65_536];
        Ok(socket
            .recv(&mut buffer)
            .ok()
            .map(|length| buffer[..length].to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arrivals: &[(u64, Option<u64>)], expected: (usize, bool, u64)) {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let arrivals: Vec<_> = arrivals
            .iter()
            .map(|(ms, number)| (at(*ms), *number))
            .collect();
        let now = arrivals.last().map_or(start, |(at, _)| *at);
        let report = summarize(&arrivals, now, None);
        let gap = u64::try_from(report.largest_gap.as_millis()).expect("small");
        assert_eq!(
            (report.count, report.contiguous, gap),
            expected,
            "{arrivals:?}"
        );
    }

    #[test]
    fn a_stream_is_contiguous_only_without_hole_repeat_or_restart() {
        check(&[], (0, false, 0));
        check(&[(0, Some(7)), (10, Some(8)), (40, Some(9))], (3, true, 30));
        check(&[(0, Some(7)), (10, Some(9))], (2, false, 10));
        check(&[(0, Some(7)), (10, Some(7))], (2, false, 10));
        check(&[(0, Some(7)), (10, None), (20, Some(0))], (2, false, 10));
        check(&[(0, None), (10, Some(0)), (20, Some(1))], (2, true, 10));
    }

    #[test]
    fn lines_are_joined_across_chunks_and_line_ends() {
        let log = StreamLog::default();
        for chunk in ["E\r\n1", "0\n11\r", "\n12\n1"] {
            log.push(chunk.as_bytes());
        }
        let report = log.report();
        assert_eq!(
            (report.first, report.last, report.count),
            (Some(10), Some(12), 3)
        );
        assert!(report.contiguous, "{report:?}");
    }
}
