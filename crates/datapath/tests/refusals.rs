//! The answers to packets that a rule rejects: by hand, and as real stacks hear them.

mod common;

use common::guests::{Guest, bridge, link_up, plug};
use common::packets::{BACK, BACK6, OUT, OUT6, SYN, Tcp, ether, icmp, ip, syn_to, tcp, udp};
use common::{Bench, DEVICE, GUEST_MAC, PEER_MAC, VNIC, privileged, run, spec, tables};
use lictor_datapath::{Datapath, How};
use lictor_types::{Direction, HostTables, IdentityId, Mac, Protocol, Reason, Verdict, VnicState};
use nix::libc;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use Direction::{Egress, Ingress};

const WAIT: Duration = Duration::from_millis(1_000);
/// Each takes at most [`WAIT`].
const CARRIER_TRIES: usize = 10;
const ANSWERS_PER_SECOND: usize = 100;

/// Between guest 1 and guest 2, ssh, DNS, echoes and GRE are rejected both ways.
fn rejecting() -> HostTables {
    let mut tables = tables();
    let template = tables.decisions[0];
    tables.decisions.clear();
    for direction in [Egress, Ingress] {
        for range in &tables.atoms {
            tables.decisions.push(lictor_types::Decision {
                peer: IdentityId(2),
                direction,
                atom: range.atom,
                verdict: match range.protocol {
                    Protocol::Tcp if range.first != 22 => Verdict::Allow,
                    _ => Verdict::Reject,
                },
                ..template
            });
        }
    }
    tables
}

/// A bench whose clock stands still.
fn bench() -> Option<Bench> {
    if !privileged() {
        return None;
    }
    let mut bench = Bench::new();
    bench.datapath.load(&rejecting()).expect("loads");
    let second = Duration::from_secs(1_000);
    bench.datapath.fix_clock(VNIC, second).expect("sets");
    Some(bench)
}

fn answered(bench: &Bench, direction: Direction, packet: &[u8]) -> Option<Vec<u8>> {
    let run = bench.datapath.test_run(VNIC, direction, packet);
    let run = run.expect("runs");
    assert_eq!((run.verdict, run.reason), (Verdict::Deny, Reason::Rejected));
    run.answer
}

fn other(direction: Direction) -> Direction {
    match direction {
        Egress => Ingress,
        Ingress => Egress,
    }
}

#[test]
fn an_answer_goes_back_where_its_packet_came_from_and_passes_once() {
    let Some(bench) = bench() else {
        return;
    };
    let packets = [
        (Egress, syn_to(22, OUT, Egress), 6, 20),
        (Ingress, syn_to(22, BACK, Ingress), 6, 20),
        (Egress, syn_to(22, OUT6, Egress), 6, 20),
        (Egress, ip(Egress, OUT, 17, &udp((9, 53))), 1, 36),
        (Ingress, ip(Ingress, BACK6, 17, &udp((9, 53))), 58, 56),
        (Egress, ip(Egress, OUT, 1, &icmp(8, 0, 7, &[])), 1, 36),
        (Egress, ip(Egress, OUT, 47, &[0; 20]), 1, 36),
    ];
    for (direction, packet, protocol, bytes) in packets {
        let answer = answered(&bench, direction, &packet).expect("it can be answered");
        let (header, at) = if packet[12] == 8 { (20, 23) } else { (40, 20) };
        assert_eq!(answer.len(), 14 + header + bytes, "{answer:02x?}");
        assert_eq!(answer[at], protocol, "{answer:02x?}");
        assert_eq!(
            [&answer[6..12], &answer[..6]],
            [&packet[..6], &packet[6..12]]
        );
        let (from, to) = if header == 20 {
            (26..30, 30..34)
        } else {
            (22..38, 38..54)
        };
        assert_eq!(answer[from.clone()], packet[to.clone()]);
        assert_eq!(answer[to], packet[from]);
        if protocol == 6 {
            // RFC 9293, 3.10.7.1, to a SYN with sequence number 1: a reset that acknowledges 2.
            assert_eq!(
                answer[14 + header + 4..14 + header + 14],
                [0, 0, 0, 0, 0, 0, 0, 2, 0x50, 20]
            );
        } else {
            let kind: &[u8] = if protocol == 1 { &[3, 13] } else { &[1, 1] };
            assert_eq!(&answer[14 + header..][..2], kind);
            assert_eq!(answer[14 + header + 8..], packet[14..14 + header + 8]);
        }
        let back = other(direction);
        let mut forged = answer.clone();
        *forged.last_mut().expect("not empty") ^= 1;
        if protocol == 6 {
            bench.check("a forged one", back, &forged, "deny no-session");
        }
        bench.check("the answer", back, &answer, "allow answer");
        let again = bench.datapath.test_run(VNIC, back, &answer).expect("runs");
        assert_eq!(again.verdict, Verdict::Deny, "once only: {}", again.reason);
    }
    let counters = bench.datapath.counters(VNIC).expect("reads");
    assert_eq!(counters.ingress.reason(Reason::Answer).packets, 5);
    assert_eq!(counters.egress.reason(Reason::Answer).packets, 2);
}

#[test]
fn what_must_not_or_cannot_be_answered_is_a_plain_denial() {
    let Some(bench) = bench() else {
        return;
    };
    let options = |mut packet: Vec<u8>| {
        packet[14] = 0x46;
        packet[17] += 4;
        packet.splice(34..34, [1, 1, 1, 1]);
        packet
    };
    let to_all = |mut packet: Vec<u8>| {
        packet[..6].copy_from_slice(&Mac([0xff; 6]).0);
        packet
    };
    let dns = ip(Egress, OUT, 17, &udp((9, 53)));
    for (what, packet) in [
        ("to every station", to_all(dns.clone())),
        ("with IP options", options(dns)),
        ("less than an error quotes", ip(Egress, OUT, 47, &[0; 4])),
    ] {
        assert_eq!(answered(&bench, Egress, &packet), None, "{what}");
    }
    let reset = Tcp {
        ports: (4_000, 22),
        seq: 1,
        ack: 0,
        flags: 4,
        payload: 0,
    };
    let reset = ip(Egress, OUT, 6, &tcp(reset));
    let run = bench.datapath.test_run(VNIC, Egress, &reset).expect("runs");
    assert_eq!((run.reason, run.answer), (Reason::NoSession, None));
    let liar = ip(Egress, ("10.0.0.9", "10.0.0.2"), 17, &udp((9, 53)));
    let run = bench.datapath.test_run(VNIC, Egress, &liar).expect("runs");
    assert_eq!((run.reason, run.answer), (Reason::SpoofedAddress, None));
    let lldp = ether(PEER_MAC, GUEST_MAC, 0x88cc, &[0; 40]);
    let run = bench.datapath.test_run(VNIC, Egress, &lldp).expect("runs");
    assert_eq!((run.reason, run.answer), (Reason::EtherType, None));
}

#[test]
fn answers_have_a_limit_for_each_second() {
    let Some(bench) = bench() else {
        return;
    };
    let syn = |port: usize| {
        let syn = Tcp {
            ports: (port as u16, 22),
            seq: 1,
            ack: 0,
            flags: SYN,
            payload: 0,
        };
        ip(Egress, OUT, 6, &tcp(syn))
    };
    let made = (0..ANSWERS_PER_SECOND + 50)
        .filter(|port| answered(&bench, Egress, &syn(1_000 + port)).is_some())
        .count();
    assert_eq!(made, ANSWERS_PER_SECOND);
    let later = Duration::from_secs(1_001);
    bench.datapath.fix_clock(VNIC, later).expect("sets");
    assert!(answered(&bench, Egress, &syn(9)).is_some());
}

/// The port of a listener before, whose client gave up, may be taken for a moment.
fn listen(address: SocketAddr) -> TcpListener {
    let begin = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < WAIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            listener => return listener.expect("binds"),
        }
    }
}

/// What a client hears that connects to where somebody listens.
fn connects(client: &Guest, server: &Guest, to: &str) -> Option<i32> {
    let address: SocketAddr = to.parse().expect("a valid address");
    let listener = server.run(move || listen(address));
    let heard = client.run(move || match TcpStream::connect_timeout(&address, WAIT) {
        Ok(_) => None,
        Err(error) => Some(error.raw_os_error().unwrap_or(libc::ETIMEDOUT)),
    });
    drop(listener);
    heard
}

/// What a client hears after a datagram.
fn asks(client: &Guest, to: &str) -> Option<i32> {
    let address: SocketAddr = to.parse().expect("a valid address");
    client.run(move || {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).expect("binds");
        socket.connect(address).expect("connects");
        socket.set_read_timeout(Some(WAIT)).expect("sets");
        socket.send(b"hello").expect("sends");
        let error = socket.recv(&mut [0; 8]).expect_err("nobody answers");
        error.raw_os_error()
    })
}

fn real_stacks(how: How) {
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
    datapath.attach(&spec(1_024)).expect("attaches");
    let mut tables = rejecting();
    let link_local = format!("{}/128", PEER_MAC.link_local());
    tables.addresses.push(common::address(&link_local, 2, 2, 2));
    datapath.load(&tables).expect("loads");
    datapath.set_state(VNIC, VnicState::Open).expect("opens");
    link_up(&guest, DEVICE);
    link_up(&peer, "host1");
    // A bridge takes a moment to notice that a port has a carrier.
    let talk = || connects(&guest, &peer, "10.0.0.2:80").is_none();
    assert!((0..CARRIER_TRIES).any(|_| talk()), "no carrier");
    // Where nothing is rejected they talk, so that a refusal below is the firewall's.
    for (client, server, to) in [
        (&guest, &peer, ["10.0.0.2", "[fd00::2]"]),
        (&peer, &guest, ["10.0.0.1", "[fd00::1]"]),
    ] {
        for (to, told) in to.into_iter().zip([libc::EHOSTUNREACH, libc::EACCES]) {
            assert_eq!(connects(client, server, &format!("{to}:80")), None, "{to}");
            let refused = connects(client, server, &format!("{to}:22"));
            assert_eq!(refused, Some(libc::ECONNREFUSED), "{to}");
            assert_eq!(asks(client, &format!("{to}:53")), Some(told), "{to}");
        }
    }
    run(&format!("ip link set {DEVICE} down"));
    let counters = datapath.counters(VNIC).expect("reads");
    let device = datapath.device_counters(VNIC).expect("reads");
    assert!(
        counters.egress.reason(Reason::Answer).packets >= 4,
        "{counters:?}"
    );
    assert!(
        counters.ingress.reason(Reason::Answer).packets >= 4,
        "{counters:?}"
    );
    // No device received what the firewall said in the guest's name, and it sent all the rest.
    assert_eq!(device.from_guest.packets, counters.egress.seen.packets);
    assert_eq!(
        device.toward_guest.packets,
        counters.ingress.allowed().packets
    );
}

#[test]
fn real_stacks_are_refused_at_once_by_tcx() {
    if privileged() && common::has_tcx() {
        real_stacks(How::Tcx);
    }
}

#[test]
fn real_stacks_are_refused_at_once_by_clsact() {
    real_stacks(How::Clsact);
}
