//! Steering between two guests of one host, each condition with what happens without it.

mod common;

use common::guests::{Guest, link_up, plug};
use common::{DEVICE, GUEST_MAC, PEER_MAC, VNIC, privileged, run, spec, tables};
use lictor_datapath::{Datapath, VnicCounters, VnicSpec};
use lictor_types::{Decision, Direction, IdentityId, Link, VnicId, VnicState};
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

const PEER: VnicId = VnicId(2);
const PEER_DEVICE: &str = "host1";
const WAIT: Duration = Duration::from_millis(300);
/// Ask and answer so often in a burst.
const ROUNDS: u64 = 40;

/// Two guests on a bridge, both protected and open.
struct Pair {
    datapath: Datapath,
    guest: Guest,
    peer: Guest,
    _bpffs: common::Bpffs,
}

impl Pair {
    fn new() -> Self {
        common::own_namespace();
        let bpffs = common::Bpffs::new();
        let mut datapath = Datapath::open(bpffs.path()).expect("opens");
        run("ip link add br0 type bridge forward_delay 0 mcast_snooping 0 ageing_time 400");
        run("ip link set br0 up");
        let (guest, peer) = (Guest::new(), Guest::new());
        plug(&guest, DEVICE, &GUEST_MAC.to_string(), 1);
        plug(&peer, PEER_DEVICE, &PEER_MAC.to_string(), 2);
        let mut tables = tables();
        let mirrored = mirrored(&tables.decisions);
        tables.decisions.extend(mirrored);
        datapath.load(&tables).expect("loads");
        let peer_spec = VnicSpec {
            vnic: PEER,
            name: "guest-2".parse().expect("a valid name"),
            device: PEER_DEVICE.into(),
            mac: PEER_MAC,
            link: Link::PLAIN,
            ..spec(64)
        };
        for spec in [spec(64), peer_spec] {
            datapath.attach(&spec).expect("attaches");
            datapath
                .set_state(spec.vnic, VnicState::Open)
                .expect("opens");
        }
        link_up(&guest, DEVICE);
        link_up(&peer, PEER_DEVICE);
        let pair = Self {
            datapath,
            guest,
            peer,
            _bpffs: bpffs,
        };
        // Ports and neighbours take their time to come up.
        let up = (0..20).any(|_| pair.ask(64, 1, Duration::ZERO) == 1);
        assert!(up, "the guests hear each other");
        pair
    }

    fn counters(&self) -> [VnicCounters; 2] {
        [VNIC, PEER].map(|vnic| self.datapath.counters(vnic).expect("reads"))
    }

    /// Packets that the guest had steered so far.
    fn steered(&self) -> u64 {
        self.counters()[0].egress.steered.packets
    }

    /// A conversation from the guest to the peer, and how many of its questions were answered.
    fn ask(&self, size: usize, rounds: u64, pause: Duration) -> u64 {
        let socket = serve(&self.peer);
        let answered = ask(&self.guest, size, rounds, pause);
        drop(socket);
        answered
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
        ..*row
    };
    with_peer.map(mirror).collect()
}

/// An echo on UDP port 53 that ends with this value.
struct Echo(
    Option<std::thread::JoinHandle<()>>,
    std::sync::mpsc::Sender<()>,
);

impl Drop for Echo {
    fn drop(&mut self) {
        let _ended = self.1.send(());
        if let Some(thread) = self.0.take() {
            thread.join().expect("the echo ends");
        }
    }
}

/// Another test's child may hold a copy of the socket before for as long as it takes to start.
fn bind(address: &str) -> UdpSocket {
    for _ in 0..100 {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.expect("binds"),
        }
    }
    panic!("{address} stays in use");
}

fn serve(guest: &Guest) -> Echo {
    let socket = guest.run(|| bind("10.0.0.2:53"));
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("sets");
    let (end, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while ended.try_recv().is_err() {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], from).expect("answers");
            }
        }
    });
    Echo(Some(thread), end)
}

fn ask(guest: &Guest, size: usize, rounds: u64, pause: Duration) -> u64 {
    guest.run(move || {
        let socket = bind("10.0.0.1:4053");
        socket.connect("10.0.0.2:53").expect("connects");
        socket.set_read_timeout(Some(WAIT)).expect("sets");
        let mut answered = 0;
        let mut buffer = [0; 2_048];
        for _ in 0..rounds {
            let asked = socket.send(&vec![7; size]).is_ok();
            answered += u64::from(asked && socket.recv(&mut buffer).is_ok());
            std::thread::sleep(pause);
        }
        answered
    })
}

fn burst(pair: &Pair) -> u64 {
    pair.ask(64, ROUNDS, Duration::ZERO)
}

/// Seconds since the bridge has heard of a station.
fn heard_of(mac: &str) -> Option<u32> {
    let shown = Command::new("bridge")
        .args(["-s", "fdb", "show", "br", "br0"])
        .output()
        .expect("bridge runs");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with(mac) && !line.contains("permanent"))?;
    // "used 7/2": looked up, and updated.
    let mut used = line.split_whitespace().skip_while(|word| *word != "used");
    used.nth(1)?.split_once('/')?.1.parse().ok()
}

#[test]
fn sessions_between_two_guests_go_past_the_bridge_with_equal_counters() {
    if !privileged() {
        return;
    }
    let mut pair = Pair::new();
    let mut seen = Vec::new();
    for (on, vnics) in [(false, 0), (true, 2), (false, 0)] {
        assert_eq!(pair.datapath.set_steering(on).expect("looks"), vnics);
        let [guest, peer] = pair.counters();
        assert_eq!(burst(&pair), ROUNDS, "steering is {on}");
        let [guest_after, peer_after] = pair.counters();
        let steered = guest_after.egress.steered.packets - guest.egress.steered.packets;
        // The first packet of a conversation and now and then one more go through the bridge.
        assert_eq!(steered > ROUNDS / 2, on, "{steered} packets were steered");
        let session = |of: &VnicCounters| of.ingress.reason(lictor_types::Reason::Session).packets;
        seen.push(session(&peer_after) - session(&peer));
        let allowed = guest_after.egress.allowed().packets - guest.egress.allowed().packets;
        let judged = peer_after.ingress.seen.packets - peer.ingress.seen.packets;
        assert!(
            judged >= ROUNDS && allowed >= ROUNDS,
            "{judged} of {allowed}"
        );
    }
    assert!(
        seen[1..].windows(2).all(|pair| pair[0] == pair[1]),
        "{seen:?}"
    );
}

#[test]
fn isolated_ports_are_not_steered_past_their_isolation() {
    if !privileged() {
        return;
    }
    let mut pair = Pair::new();
    pair.datapath.set_steering(true).expect("looks");
    assert_eq!(burst(&pair), ROUNDS);
    for device in [DEVICE, PEER_DEVICE] {
        run(&format!(
            "ip link set {device} type bridge_slave isolated on"
        ));
    }
    assert_eq!(pair.datapath.refresh_steering().expect("looks"), 0);
    let before = pair.steered();
    assert_eq!(
        pair.ask(64, 3, Duration::ZERO),
        0,
        "the bridge separates them"
    );
    assert_eq!(pair.steered(), before);
}

#[test]
fn what_the_bridge_would_drop_as_too_long_is_not_steered() {
    if !privileged() {
        return;
    }
    let mut pair = Pair::new();
    pair.datapath.set_steering(true).expect("looks");
    assert_eq!(pair.ask(1_400, 3, Duration::ZERO), 3);
    run(&format!("ip link set {PEER_DEVICE} mtu 1000"));
    pair.datapath.refresh_steering().expect("looks");
    assert_eq!(
        pair.ask(1_400, 3, Duration::ZERO),
        0,
        "too long for the port"
    );
    assert_eq!(pair.ask(64, 3, Duration::ZERO), 3);
}

#[test]
fn the_bridge_goes_on_to_know_who_is_steered() {
    if !privileged() {
        return;
    }
    let mut pair = Pair::new();
    pair.datapath.set_steering(true).expect("looks");
    let macs = [GUEST_MAC, PEER_MAC].map(|mac| mac.to_string());
    // Longer than the bridge remembers, which is four seconds.
    assert_eq!(pair.ask(64, 70, Duration::from_millis(100)), 70);
    assert!(pair.steered() > 35);
    for mac in macs {
        let age = heard_of(&mac);
        assert!(age.is_some_and(|age| age <= 3), "{mac}: {age:?} s ago");
    }
}

#[test]
fn a_peer_whose_device_vanished_is_found_by_the_bridge() {
    if !privileged() {
        return;
    }
    let mut pair = Pair::new();
    pair.datapath.set_steering(true).expect("looks");
    assert_eq!(burst(&pair), ROUNDS);
    let before = pair.steered();
    assert!(before > 0);
    // The guest dies and comes back on another host: behind the uplink, as seen from here.
    run(&format!("ip link del {PEER_DEVICE}"));
    let elsewhere = Guest::new();
    plug(&elsewhere, "uplink0", &PEER_MAC.to_string(), 2);
    link_up(&elsewhere, "uplink0");
    pair.datapath
        .set_state(PEER, VnicState::HandedOver)
        .expect("the agent has let it go");
    pair.datapath
        .set_state(PEER, VnicState::Open)
        .expect("or believes that it is back");
    let sent = pair.guest.run(|| {
        let socket = bind("10.0.0.1:4053");
        socket.connect("10.0.0.2:53").expect("connects");
        (0..40)
            .filter(|_| {
                std::thread::sleep(Duration::from_millis(50));
                socket.send(b"anyone there?").is_ok()
            })
            .count()
    });
    assert_eq!(sent, 40);
    let after = pair.counters()[0].egress.seen.packets;
    let steered = pair.steered() - before;
    assert!(
        steered < 20,
        "{steered} of {after} went to a device that is gone"
    );
}
