//! Links between agents: TLS 1.3 in which both ends prove the key that the release's roster pins.
//! Names, authorities and ages of certificates mean nothing here, so that no step of a move depends
//! on a manager or on a clock.
//!
//! Each agent sends over a connection that it opens itself, and reads from those that others open:
//! frames of one sender arrive in order, or the connection is lost and said to be.

use crate::AgentError;
use lictor_types::HostId;
use lictor_wire::peer::{Format, Frame};
use lictor_wire::{Refusal, RosterHost, SigningKey};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};
use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Connections that other agents may have open here; one more is closed at once.
pub const CONNECTIONS_MAX: usize = 256;
/// Frames that wait for one other agent; one more is refused.
pub const QUEUE_FRAMES_MAX: usize = 1_024;
/// How long connecting, a whole handshake of a caller or one write may take: well inside Load()'s
/// own deadline.
pub const STEP_LIMIT: Duration = Duration::from_millis(1_500);
/// How long another agent's host may say nothing, not even by its kernel, before its connections
/// are over. Longer than a switch takes to find another way.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(SILENCE_S as u64);
const SILENCE_S: u32 = 30;
/// Its kernel is asked when a connection has been quiet for so long, and then so often.
const PROBE_AFTER_S: u32 = 10;
const PROBE_EVERY_S: u32 = 5;

/// A host that dies says nothing of it, and its connections would take the places of others for as
/// long as this agent runs.
fn notice_silence(stream: &TcpStream) -> std::io::Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &PROBE_AFTER_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_EVERY_S)?;
    let probes = (SILENCE_S - PROBE_AFTER_S) / PROBE_EVERY_S;
    setsockopt(stream, sockopt::TcpKeepCount, &probes)?;
    // Of what was sent and is not acknowledged: the kernel would try for a quarter of an hour.
    setsockopt(stream, sockopt::TcpUserTimeout, &(SILENCE_S * 1_000))?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    Ok(())
}

/// A stream on which all of a handshake must end in time: a caller whose bytes trickle would
/// otherwise keep a connection from others for hours, and needs no key for that.
struct Until<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

impl Until<'_> {
    fn left(&self) -> std::io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

impl std::io::Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl std::io::Write for Until<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// RFC 8410: the bytes of a public key's structure before an Ed25519 key itself.
const ED25519_HEADER: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What arrives from other agents.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A frame from the agent of this host.
    Frame(HostId, Box<Frame>),
    /// A connection from or to this host has ended: frames may be missing.
    Lost(HostId, Loss),
}

/// Why frames may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The connection.
    Link,
    /// The two agents have no format in common.
    Format,
}

impl Loss {
    /// What that says against a move to this host.
    #[must_use]
    pub fn refusal(self, host: &HostId) -> Refusal {
        match self {
            Self::Link => Refusal::HostUnprotected {
                detail: format!("the agent of {host} cannot be reached"),
            },
            Self::Format => Refusal::Format {
                detail: format!("the agent of {host} speaks none of {}", Format::spoken()),
            },
        }
    }
}

/// Takes what arrives, in the thread that has read it: whoever waits for it is woken up by nobody
/// else. Says whether anybody still wants more.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(Incoming) -> bool + Send + Sync>);

impl Sink {
    /// One that calls this.
    pub fn new(take: impl Fn(Incoming) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    fn take(&self, incoming: Incoming) -> bool {
        (self.0)(incoming)
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Sink").finish()
    }
}

/// The hosts that the newest release knows. Replaced when a release is loaded.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<RwLock<Vec<RosterHost>>>);

impl Roster {
    /// Replaces the hosts.
    pub fn set(&self, hosts: Vec<RosterHost>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    fn find<T>(&self, pick: impl FnMut(&RosterHost) -> Option<T>) -> Option<T> {
        let hosts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().find_map(pick)
    }

    fn address(&self, host: &HostId) -> Option<SocketAddr> {
        self.find(|one| (one.host == *host).then_some(one.peer))
    }

    /// The host whose pinned key this certificate carries.
    fn owner(&self, certificate: &CertificateDer<'_>) -> Option<HostId> {
        let key = key_in(certificate)?;
        self.find(|one| (one.key.as_bytes() == key).then(|| one.host.clone()))
    }

    /// Whether a host's key is still this one.
    fn holds(&self, host: &HostId, key: &[u8]) -> bool {
        let same = |one: &RosterHost| one.host == *host && one.key.as_bytes() == key;
        self.find(|one| same(one).then_some(())).is_some()
    }
}

/// The key that a certificate carries.
fn key_in<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    parsed.subject_pki.raw.strip_prefix(&ED25519_HEADER)
}

/// Accepts exactly the keys of the roster, or of one host in it.
#[derive(Debug)]
struct Pinned {
    roster: Roster,
    only: Option<HostId>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let owner = self.roster.owner(certificate);
        match (&owner, &self.only) {
            (Some(_), None) => Ok(()),
            (Some(owner), Some(only)) if owner == only => Ok(()),
            _ => Err(rustls::Error::General(
                "the key is not the one that the roster pins for this host".into(),
            )),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

/// Only TLS 1.3 is offered; its absence here keeps an older handshake from ever being believed.
fn no_older_tls() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("agents speak TLS 1.3 only".into()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_older_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_older_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// This agent's own half of every connection.
#[derive(Debug)]
struct Identity {
    certificate: CertificateDer<'static>,
    pkcs8: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// The certificate is a wrapping that TLS asks for; only the key in it counts.
    fn new(key: &SigningKey) -> Result<Self, AgentError> {
        let failed = |error: rcgen::Error| tls(&error);
        let pkcs8 = key.to_pkcs8_der();
        let der = PrivatePkcs8KeyDer::from(pkcs8.clone());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)
            .map_err(failed)?;
        let params = rcgen::CertificateParams::default();
        let certificate = params.self_signed(&pair).map_err(failed)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pkcs8,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        })
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.clone()).into()
    }

    fn pinned(&self, roster: &Roster, only: Option<HostId>) -> Arc<Pinned> {
        Arc::new(Pinned {
            roster: roster.clone(),
            only,
            provider: Arc::clone(&self.provider),
        })
    }

    fn server(&self, roster: &Roster, format: Format) -> Result<Arc<ServerConfig>, AgentError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(self.pinned(roster, None))
            .with_single_cert(vec![self.certificate.clone()], self.key())
            .map_err(|error| tls(&error))?;
        // A resumed session would skip the check of the key against the newest roster.
        config.send_tls13_tickets = 0;
        config.alpn_protocols = format.named();
        Ok(Arc::new(config))
    }

    fn client(
        &self,
        (roster, host): (&Roster, &HostId),
        format: Format,
    ) -> Result<Arc<ClientConfig>, AgentError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls(&error))?
            .dangerous()
            .with_custom_certificate_verifier(self.pinned(roster, Some(host.clone())))
            .with_client_auth_cert(vec![self.certificate.clone()], self.key())
            .map_err(|error| tls(&error))?;
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = format.named();
        Ok(Arc::new(config))
    }
}

fn tls(error: &dyn std::fmt::Display) -> AgentError {
    AgentError::Refused(format!("the TLS identity of this agent: {error}"))
}

/// The links of one agent.
#[derive(Debug)]
pub struct Links {
    identity: Arc<Identity>,
    roster: Roster,
    format: Format,
    address: SocketAddr,
    incoming: Sink,
    queues: Mutex<HashMap<HostId, SyncSender<Frame>>>,
}

impl Links {
    /// Listens for other agents. What they send arrives at the receiver, in order for each of them.
    /// With each of them the newest format is spoken that it knows too, up to this one.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the address is taken or the key cannot serve TLS.
    pub fn open(
        key: &SigningKey,
        address: SocketAddr,
        roster: Roster,
        format: Format,
    ) -> Result<(Self, Receiver<Incoming>), AgentError> {
        let (incoming, receiver) = sync_channel(QUEUE_FRAMES_MAX);
        let sink = Sink::new(move |one| incoming.send(one).is_ok());
        let links = Self::open_into(sink, (key, address), roster, format)?;
        Ok((links, receiver))
    }

    /// The same, and what they send is given to a sink as it arrives.
    ///
    /// # Errors
    /// As for [`Links::open`].
    pub fn open_into(
        incoming: Sink,
        (key, address): (&SigningKey, SocketAddr),
        roster: Roster,
        format: Format,
    ) -> Result<Self, AgentError> {
        let taken = |error: std::io::Error| {
            AgentError::Refused(format!(
                "{address}: {error}; expected a free address for other agents, mend `peer` in the \
                 configuration"
            ))
        };
        let identity = Arc::new(Identity::new(key)?);
        let config = identity.server(&roster, format)?;
        let listener = listen(address).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let (sink, known) = (incoming.clone(), roster.clone());
        std::thread::spawn(move || accept(&listener, &config, &known, &sink));
        Ok(Self {
            identity,
            roster,
            format,
            address,
            incoming,
            queues: Mutex::default(),
        })
    }

    /// Where other agents reach this one.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queues a frame for another agent. If it cannot be delivered, [`Incoming::Lost`] says so.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the roster does not know the host or too much waits for it.
    pub fn send(&self, host: &HostId, frame: Frame) -> Result<(), AgentError> {
        if self.roster.address(host).is_none() {
            let what = format!("host {host} is not in the release's roster");
            return Err(AgentError::Refused(what));
        }
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(host.clone()).or_insert_with(|| {
            let (sender, receiver) = sync_channel(QUEUE_FRAMES_MAX);
            let outgoing = Outgoing {
                host: host.clone(),
                identity: Arc::clone(&self.identity),
                roster: self.roster.clone(),
                format: self.format,
            };
            let incoming = self.incoming.clone();
            std::thread::spawn(move || outgoing.run(&receiver, &incoming));
            sender
        });
        queue.try_send(frame).map_err(|_| {
            AgentError::Refused(format!(
                "{QUEUE_FRAMES_MAX} frames wait for host {host} already; is it reachable?"
            ))
        })
    }
}

struct Outgoing {
    host: HostId,
    identity: Arc<Identity>,
    roster: Roster,
    format: Format,
}

/// A connection to another agent, and what was agreed on it.
struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    format: Format,
}

impl Outgoing {
    /// Ends when the links are dropped.
    fn run(&self, frames: &Receiver<Frame>, incoming: &Sink) {
        let mut link: Option<Client> = None;
        while let Ok(frame) = frames.recv() {
            let said = self.say(&mut link, &frame);
            if let Err(error) = said {
                tracing::debug!(host = %self.host, %error, "a frame cannot be sent");
                link = None;
                let lost = Incoming::Lost(self.host.clone(), loss(&error));
                if !incoming.take(lost) {
                    return;
                }
            }
        }
    }

    /// A message for which an older agent has no words is not said: whoever waits for an answer has
    /// a deadline.
    fn say(&self, link: &mut Option<Client>, frame: &Frame) -> std::io::Result<()> {
        if link.as_ref().is_none_or(has_ended) {
            *link = None;
        }
        let client = match link {
            Some(client) => client,
            None => link.insert(self.connect()?),
        };
        match frame.encode(client.format) {
            Ok(bytes) => {
                client.stream.write_all(&bytes)?;
                client.stream.flush()
            }
            Err(error) => {
                tracing::warn!(host = %self.host, %error, "not said to an older agent");
                Ok(())
            }
        }
    }

    fn connect(&self) -> std::io::Result<Client> {
        let other = |error: AgentError| std::io::Error::other(error.chain());
        let address = self.roster.address(&self.host).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::NotFound, "not in the roster")
        })?;
        let config = self
            .identity
            .client((&self.roster, &self.host), self.format)
            .map_err(other)?;
        let mut stream = TcpStream::connect_timeout(&address, STEP_LIMIT)?;
        notice_silence(&stream)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STEP_LIMIT))?;
        stream.set_write_timeout(Some(STEP_LIMIT))?;
        // The name is never looked at: the key alone tells who answers.
        let name = ServerName::try_from("agent.invalid").map_err(std::io::Error::other)?;
        let mut tls = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        let format = Format::agreed(tls.alpn_protocol()).ok_or_else(no_format)?;
        let stream = StreamOwned::new(tls, stream);
        Ok(Client { stream, format })
    }
}

/// The other agent has named a format that this one had not.
fn no_format() -> std::io::Error {
    std::io::Error::other(rustls::Error::AlertReceived(
        AlertDescription::NoApplicationProtocol,
    ))
}

fn loss(error: &std::io::Error) -> Loss {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Loss::Format,
        _ => Loss::Link,
    }
}

/// The other end never says anything on this connection: whatever can be read is its end. Without
/// this look the first frame after a restart over there would be written into a dead connection.
fn has_ended(link: &Client) -> bool {
    let mut byte = [0];
    let quiet = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    let socket = &link.stream.sock;
    let silent = socket.set_nonblocking(true).is_ok() && socket.peek(&mut byte).is_err_and(quiet);
    !silent || socket.set_nonblocking(false).is_err()
}

/// At a boot the agent may begin before its address is there. If it failed then, libvirt would
/// start without it, and refuse each guest that is to start.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable && address.is_ipv4() => {
            tracing::warn!(%address, "this host does not have that address yet; see `peer`");
            listen_early(address)
        }
        bound => bound,
    }
}

fn listen_early(address: SocketAddr) -> std::io::Result<TcpListener> {
    let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let early = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&early, sockopt::ReuseAddr, &true)?;
    setsockopt(&early, sockopt::IpFreebind, &true)?;
    bind(early.as_raw_fd(), &SockaddrStorage::from(address))?;
    nix::sys::socket::listen(&early, Backlog::MAXCONN)?;
    Ok(early.into())
}

/// Ends when nobody reads what arrives any more.
fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, roster: &Roster, sink: &Sink) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (config, roster) = (Arc::clone(config), roster.clone());
        let (sink, open) = (sink.clone(), Arc::clone(&open));
        std::thread::spawn(move || {
            if let Err(error) = read(stream, config, &roster, &sink) {
                tracing::debug!(%error, "a connection from another agent has ended");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn read(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    roster: &Roster,
    sink: &Sink,
) -> std::io::Result<()> {
    notice_silence(&stream)?;
    stream.set_nodelay(true)?;
    let mut handshake = Until {
        stream: &stream,
        end: Instant::now() + STEP_LIMIT,
    };
    let mut tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut handshake)?;
    }
    let certificate = tls
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| certificate.clone().into_owned())
        .ok_or_else(|| std::io::Error::other("no certificate"))?;
    let left = || std::io::Error::other("its key has left the roster");
    let host = roster.owner(&certificate).ok_or_else(left)?;
    let key = key_in(&certificate).ok_or_else(left)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(Some(STEP_LIMIT))?;
    let format = Format::agreed(tls.alpn_protocol()).ok_or_else(no_format)?;
    let mut link = StreamOwned::new(tls, stream);
    let end = loop {
        let frame = match next(&mut link, format) {
            Ok(frame) => frame,
            Err(error) => break error,
        };
        // A release that was loaded meanwhile may have taken the key out.
        if !roster.holds(&host, key) {
            break left();
        }
        if !sink.take(Incoming::Frame(host.clone(), Box::new(frame))) {
            return Ok(());
        }
    };
    // Nobody may be left to hear it.
    sink.take(Incoming::Lost(host, Loss::Link));
    Err(end)
}

fn next(
    link: &mut StreamOwned<ServerConnection, TcpStream>,
    format: Format,
) -> std::io::Result<Frame> {
    let mut header = [0; 4];
    link.read_exact(&mut header)?;
    let length = Frame::length(header).map_err(std::io::Error::other)?;
    let mut body = vec![0; length];
    link.read_exact(&mut body)?;
    Frame::decode(format, &body).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_there_yet_is_listened_on_and_a_taken_one_is_not() {
        let early: SocketAddr = "192.0.2.77:0".parse().expect("an address of documentation");
        assert!(TcpListener::bind(early).is_err(), "no host has it");
        let listener = listen(early).expect("it may come");
        let taken = listener.local_addr().expect("bound");
        assert_eq!(taken.ip(), early.ip());
        let again = listen(taken).map_err(|error| error.kind());
        assert_eq!(again.err(), Some(ErrorKind::AddrInUse));
    }
}
