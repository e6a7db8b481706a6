//! Two agents' links over the loopback: the pinned key is accepted, every other one is not.

use lictor_agent::peer::{Incoming, Links, Loss, Roster};
use lictor_evidence::KeyName;
use lictor_types::{GuestId, HostId};
use lictor_wire::peer::{Control, Format, Frame};
use lictor_wire::{Refusal, RosterHost, SigningKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn host(name: &str) -> HostId {
    HostId::new(name).expect("a valid name")
}

fn key(name: &str) -> SigningKey {
    SigningKey::generate(
        KeyName::new(name).expect("a valid name"),
        &mut rand::rngs::OsRng,
    )
}

fn entry(name: &str, key: &SigningKey, peer: SocketAddr) -> RosterHost {
    RosterHost {
        host: host(name),
        cluster: "main".into(),
        key: key.verify_key(),
        peer,
    }
}

fn ask(number: u32) -> Frame {
    Frame::Control(Control::Custody {
        guest: GuestId::new(format!("guest-{number}")).expect("a valid name"),
    })
}

struct Agent {
    key: SigningKey,
    roster: Roster,
    links: Links,
    incoming: Receiver<Incoming>,
}

impl Agent {
    fn new(name: &str) -> Self {
        Self::speaking(name, Format::NEWEST)
    }

    fn speaking(name: &str, format: Format) -> Self {
        let (key, roster) = (key(name), Roster::default());
        let any = "127.0.0.1:0".parse().expect("an address");
        let opened = Links::open(&key, any, roster.clone(), format);
        let (links, incoming) = opened.expect("listens");
        Self {
            key,
            roster,
            links,
            incoming,
        }
    }

    fn entry(&self, name: &str) -> RosterHost {
        entry(name, &self.key, self.links.address())
    }

    fn next(&self) -> Incoming {
        self.incoming
            .recv_timeout(LIMIT)
            .expect("something arrives")
    }
}

#[test]
fn frames_between_pinned_agents_arrive_in_order_with_their_sender() {
    let (a, b) = (Agent::new("a"), Agent::new("b"));
    for one in [&a, &b] {
        one.roster.set(vec![a.entry("a"), b.entry("b")]);
    }
    for number in 0..100 {
        a.links.send(&host("b"), ask(number)).expect("queued");
    }
    for number in 0..100 {
        assert_eq!(b.next(), Incoming::Frame(host("a"), Box::new(ask(number))));
    }
    b.links.send(&host("a"), ask(7)).expect("queued");
    assert_eq!(a.next(), Incoming::Frame(host("b"), Box::new(ask(7))));
}

#[test]
fn an_agent_with_a_foreign_key_is_not_heard() {
    let (a, b) = (Agent::new("a"), Agent::new("b"));
    a.roster.set(vec![a.entry("a"), b.entry("b")]);
    let other = entry("a", &key("a"), a.links.address());
    b.roster.set(vec![other, b.entry("b")]);
    a.links.send(&host("b"), ask(1)).expect("queued");
    // In TLS 1.3 the client learns of the refusal after its own handshake has ended.
    let quiet = b.incoming.recv_timeout(Duration::from_millis(500));
    assert!(quiet.is_err(), "{quiet:?}");
}

#[test]
fn nothing_is_sent_to_an_agent_that_shows_another_hosts_key() {
    let (a, b) = (Agent::new("a"), Agent::new("b"));
    // `c` is a host of the roster, but the key at its address is b's.
    let wrong = entry("c", &key("c"), b.links.address());
    for one in [&a, &b] {
        one.roster
            .set(vec![a.entry("a"), b.entry("b"), wrong.clone()]);
    }
    a.links.send(&host("c"), ask(1)).expect("queued");
    assert_eq!(a.next(), Incoming::Lost(host("c"), Loss::Link));
    assert!(b.incoming.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn a_key_that_leaves_the_roster_is_not_heard_any_more() {
    let (a, b) = (Agent::new("a"), Agent::new("b"));
    for one in [&a, &b] {
        one.roster.set(vec![a.entry("a"), b.entry("b")]);
    }
    a.links.send(&host("b"), ask(1)).expect("queued");
    assert_eq!(b.next(), Incoming::Frame(host("a"), Box::new(ask(1))));
    b.roster.set(vec![b.entry("b")]);
    a.links.send(&host("b"), ask(2)).expect("queued");
    assert_eq!(b.next(), Incoming::Lost(host("a"), Loss::Link));
}

#[test]
fn an_agent_that_is_gone_is_said_to_be_lost() {
    let a = Agent::new("a");
    let nobody = "127.0.0.1:1".parse().expect("an address");
    a.roster
        .set(vec![a.entry("a"), entry("b", &key("b"), nobody)]);
    a.links.send(&host("b"), ask(1)).expect("queued");
    assert_eq!(a.next(), Incoming::Lost(host("b"), Loss::Link));
    let unknown = a.links.send(&host("z"), ask(1)).expect_err("refused");
    assert!(unknown.chain().contains("roster"), "{unknown}");
}

#[test]
fn two_agents_speak_the_newest_format_that_both_know() {
    use Format::{Five, Four};
    let wanted = || {
        let guest = GuestId::new("db").expect("a valid name");
        Frame::Control(Control::Wanted { guest })
    };
    for (ours, theirs) in [(Five, Five), (Five, Four), (Four, Five), (Four, Four)] {
        let (a, b) = (Agent::speaking("a", ours), Agent::speaking("b", theirs));
        for one in [&a, &b] {
            one.roster.set(vec![a.entry("a"), b.entry("b")]);
        }
        // Format 4 has no words for the first one, and the connection outlives that.
        let mut expected = vec![ask(1)];
        if (ours, theirs) == (Five, Five) {
            expected.insert(0, wanted());
        }
        for frame in [wanted(), ask(1)] {
            a.links.send(&host("b"), frame).expect("queued");
        }
        for frame in expected {
            let arrived = Incoming::Frame(host("a"), Box::new(frame));
            assert_eq!(b.next(), arrived, "{ours:?} to {theirs:?}");
        }
    }
}

/// An agent of a version to come, which speaks none of the formats of this one.
fn agent_to_come(key: &SigningKey) -> SocketAddr {
    let pkcs8 = PrivatePkcs8KeyDer::from(key.to_pkcs8_der());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519);
    let params = rcgen::CertificateParams::default();
    let certificate = params.self_signed(&pair.expect("its key")).expect("signed");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::from(pkcs8))
        .expect("a certificate");
    config.alpn_protocols = vec![b"lictor/1000".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut tls = ServerConnection::new(Arc::new(config)).expect("a connection");
        while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
    });
    address
}

#[test]
fn an_agent_with_which_no_format_is_shared_is_a_reason_of_its_own() {
    let (a, later) = (Agent::new("a"), key("b"));
    let address = agent_to_come(&later);
    a.roster
        .set(vec![a.entry("a"), entry("b", &later, address)]);
    a.links.send(&host("b"), ask(1)).expect("queued");
    assert_eq!(a.next(), Incoming::Lost(host("b"), Loss::Format));
    let Refusal::Format { detail } = Loss::Format.refusal(&host("b")) else {
        panic!("another reason");
    };
    assert_eq!(detail, "the agent of b speaks none of 5 and 4");
}

/// Bytes that a caller lets trickle; a ClientHello may be a hundred times as long.
const TRICKLE_MAX: usize = 100;

#[test]
fn a_caller_whose_handshake_trickles_is_hung_up_on() {
    let agent = Agent::new("a");
    let mut caller = TcpStream::connect(agent.links.address()).expect("listens");
    let pause = Some(Duration::from_millis(100));
    caller.set_read_timeout(pause).expect("set");
    // The head of a TLS record of 16,000 bytes; each byte comes well within any one read's limit.
    let hello = [0x16, 0x03, 0x01, 0x3e, 0x80, 0x01, 0x00, 0x3e, 0x7c];
    let trickle = hello
        .into_iter()
        .chain(std::iter::repeat(0))
        .take(TRICKLE_MAX);
    let quiet = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    let ended = trickle.into_iter().any(|byte| {
        let said = caller.write_all(&[byte]);
        let heard = caller.read(&mut [0; 64]);
        said.is_err()
            || heard.is_ok_and(|length| length == 0)
            || caller
                .read(&mut [0; 64])
                .is_err_and(|error| !quiet.contains(&error.kind()))
    });
    assert!(ended, "still connected after {TRICKLE_MAX} bytes");
}
