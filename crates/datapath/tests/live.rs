//! Real stacks: two guests as network namespaces on a bridge, one of them protected.

mod common;

use common::guests::{Guest, bridge, link_up, plug};
use common::{DEVICE, GUEST_MAC, PEER_MAC, SEGMENT, VNIC, privileged, run, spec, tables};
use lictor_datapath::{Datapath, How, VnicSpec};
use lictor_types::{Decision, Direction, IdentityId, Link, Reason, Verdict, VnicId, VnicState};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// For what does not get through.
const MOMENT: Duration = Duration::from_millis(1_000);
/// For what does: on a busy machine, or in a guest without hardware virtualization, a SYN may have
/// to go out more than once.
const PATIENCE: Duration = Duration::from_secs(15);

/// A child of another test may hold a copy of the last listener's socket until it has become its
/// own program.
fn bound(address: SocketAddr) -> TcpListener {
    for _ in 0..100 {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result.expect("binds"),
        }
    }
    panic!("{address} stays in use");
}

fn reaches(from: &Guest, server: &Guest, to: &str) -> bool {
    talk((from, server), to, PATIENCE)
}

fn is_cut_off(from: &Guest, server: &Guest, to: &str) -> bool {
    !talk((from, server), to, MOMENT)
}

/// Whether a line sent to a listener at `to` comes back in that time.
fn talk((from, server): (&Guest, &Guest), to: &str, wait: Duration) -> bool {
    let address: SocketAddr = to.parse().expect("a valid address");
    let listener = server.run(move || bound(address));
    let echo = std::thread::spawn(move || {
        listener.set_nonblocking(true).expect("sets");
        let begin = Instant::now();
        while begin.elapsed() < wait + MOMENT / 2 {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("sets");
                let mut line = [0; 5];
                return stream
                    .read_exact(&mut line)
                    .and_then(|()| stream.write_all(&line))
                    .is_ok();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let heard = from.run(move || {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, wait) else {
            return false;
        };
        stream.set_read_timeout(Some(wait)).expect("sets");
        let mut line = [0; 5];
        stream.write_all(b"hello").is_ok() && stream.read_exact(&mut line).is_ok()
    });
    echo.join().expect("the server ends") && heard
}

fn check(how: How) {
    if !privileged() {
        return;
    }
    common::own_namespace();
    let bpffs = common::Bpffs::new();
    let mut datapath = Datapath::open(bpffs.path()).expect("opens");
    if how == How::Clsact {
        datapath.prefer_clsact();
    }
    bridge();
    let (guest, peer) = (Guest::new(), Guest::new());
    plug(&guest, DEVICE, &GUEST_MAC.to_string(), 1);
    plug(&peer, "host1", &PEER_MAC.to_string(), 2);
    let attachment = datapath.attach(&spec(1_024)).expect("attaches");
    assert_eq!(attachment.how, how);
    assert!(attachment.was_enslaved && !attachment.was_up);
    let mut tables = tables();
    let world = common::address(&format!("{}/128", PEER_MAC.link_local()), 2, 2, 2);
    assert_eq!(world.segment, SEGMENT);
    tables.addresses.push(world);
    tables.decisions.extend(mirrored(&tables.decisions));
    datapath.load(&tables).expect("loads");
    datapath.attach(&peer_spec()).expect("attaches");
    datapath.set_state(PEER, VnicState::Open).expect("opens");
    link_up(&guest, DEVICE);
    link_up(&peer, "host1");
    assert!(
        is_cut_off(&peer, &guest, "10.0.0.1:80"),
        "nothing passes in hold"
    );
    datapath.set_state(VNIC, VnicState::Open).expect("opens");
    assert!(
        reaches(&peer, &guest, "10.0.0.1:80"),
        "TCP toward the guest"
    );
    assert!(reaches(&guest, &peer, "10.0.0.2:80"), "TCP from the guest");
    assert!(
        reaches(&peer, &guest, "[fd00::1]:80"),
        "TCP toward the guest, v6"
    );
    assert!(
        reaches(&guest, &peer, "[fd00::2]:80"),
        "TCP from the guest, v6"
    );
    assert!(is_cut_off(&peer, &guest, "10.0.0.1:22"), "a denied port");
    guest.run(|| run("ip addr add 10.0.0.7/24 dev eth0"));
    let spoofed = guest.run(|| {
        let socket = std::net::UdpSocket::bind("10.0.0.7:53").expect("binds");
        socket
            .connect("10.0.0.2:53")
            .and_then(|()| socket.send(b"lie"))
            .is_ok()
    });
    assert!(spoofed, "the guest's own stack sends it");
    std::thread::sleep(Duration::from_millis(100));
    let counters = datapath.counters(VNIC).expect("reads");
    assert!(
        counters.ingress.reason(Reason::PolicyDeny).packets > 0,
        "{counters:?}"
    );
    let lies = counters.egress.reason(Reason::SpoofedAddress).packets
        + counters.egress.reason(Reason::SpoofedNeighbour).packets;
    assert!(lies > 0, "{counters:?}");
    let [own, peers] = [VNIC, PEER].map(|vnic| datapath.counters(vnic).expect("reads"));
    assert_eq!(from_elsewhere(&datapath), 0, "{own:?}");
    assert_eq!(
        peers.ingress.reason(Reason::SpoofedLocal).packets,
        0,
        "{peers:?}"
    );
    impostor(&datapath, &guest);
    reconcile(&datapath);
}

const PEER: VnicId = VnicId(2);

fn peer_spec() -> VnicSpec {
    VnicSpec {
        vnic: PEER,
        name: "guest-2".parse().expect("a valid name"),
        device: "host1".into(),
        mac: PEER_MAC,
        link: Link::PLAIN,
        ..spec(64)
    }
}

/// What the peer may do: whatever the guest lets it, and hear what the guest may say.
fn mirrored(decisions: &[Decision]) -> Vec<Decision> {
    let with_peer = decisions.iter().filter(|row| row.peer == IdentityId(2));
    let mirror = |row: &Decision| Decision {
        local: IdentityId(2),
        peer: IdentityId(1),
        direction: match row.direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        },
        verdict: Verdict::Allow,
        ..*row
    };
    with_peer.map(mirror).collect()
}

/// A station on the uplink in the peer's name, heard by nobody.
fn impostor(datapath: &Datapath, guest: &Guest) {
    let rogue = Guest::new();
    plug(&rogue, "uplink0", "52:54:00:00:00:77", 2);
    link_up(&rogue, "uplink0");
    guest.run(|| run("ip neigh flush dev eth0"));
    let before = from_elsewhere(datapath);
    assert!(
        is_cut_off(&rogue, guest, "10.0.0.1:80"),
        "as the peer, from the uplink"
    );
    assert!(
        from_elsewhere(datapath) > before,
        "{:?}",
        datapath.counters(VNIC)
    );
    run("ip link del uplink0");
}

fn from_elsewhere(datapath: &Datapath) -> u64 {
    let counters = datapath.counters(VNIC).expect("reads");
    counters.ingress.reason(Reason::SpoofedLocal).packets
}

/// Everything the device received was judged, and it sent exactly what was allowed.
fn reconcile(datapath: &Datapath) {
    run(&format!("ip link set {DEVICE} down"));
    let counters = datapath.counters(VNIC).expect("reads");
    let device = datapath.device_counters(VNIC).expect("reads");
    assert_eq!(device.from_guest.packets, counters.egress.seen.packets);
    assert_eq!(
        device.toward_guest.packets,
        counters.ingress.allowed().packets
    );
}

#[test]
fn a_bridge_of_two_guests_by_tcx() {
    if privileged() && common::has_tcx() {
        check(How::Tcx);
    }
}

#[test]
fn a_bridge_of_two_guests_by_clsact() {
    check(How::Clsact);
}
