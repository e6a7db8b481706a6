//! Packets as kernels make them between two real stacks: datagrams in fragments, super-packets of
//! the segmentation offload, and data that lies in pages of a file. What the program counted is
//! held against what the receiver got.

mod common;

use common::guests::{Guest, bridge, link_up, plug};
use common::packets::{ip, udp};
use common::{DEVICE, GUEST_MAC, PEER_MAC, VNIC, privileged, run, spec, tables};
use lictor_datapath::{Datapath, VnicCounters};
use lictor_types::{Direction, Reason, Segment, VnicState};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(5);
/// Fragments at an MTU of 1,500: one first, five later ones.
const DATAGRAM_BYTES: usize = 8_000;
const LATER_FRAGMENTS: u64 = 5;
const STREAM_BYTES: usize = 4 << 20;
/// Ethernet, at the MTU of the guests.
const FRAME_BYTES_MAX: u64 = 1_514;

struct Site {
    datapath: Datapath,
    guest: Guest,
    peer: Guest,
    _bpffs: common::Bpffs,
}

/// The guest, protected, and its peer on a bridge.
fn site() -> Site {
    common::own_namespace();
    let bpffs = common::Bpffs::new();
    let mut datapath = Datapath::open(bpffs.path()).expect("opens");
    bridge();
    let (guest, peer) = (Guest::new(), Guest::new());
    plug(&guest, DEVICE, &GUEST_MAC.to_string(), 1);
    plug(&peer, "host1", &PEER_MAC.to_string(), 2);
    datapath.attach(&spec(64)).expect("attaches");
    let mut tables = tables();
    let link_local = format!("{}/128", PEER_MAC.link_local());
    tables.addresses.push(common::address(&link_local, 2, 2, 2));
    datapath.load(&tables).expect("loads");
    datapath.set_state(VNIC, VnicState::Open).expect("opens");
    link_up(&guest, DEVICE);
    link_up(&peer, "host1");
    Site {
        datapath,
        guest,
        peer,
        _bpffs: bpffs,
    }
}

impl Site {
    fn counters(&self) -> VnicCounters {
        self.datapath.counters(VNIC).expect("reads")
    }
}

/// Bytes that tell if one is missing, or in another place.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Sends a datagram to an echo on the peer's DNS port, and gets it back.
fn echoed(site: &Site, near: &'static str, far: &'static str) -> Vec<u8> {
    let server = site.peer.run(move || UdpSocket::bind(far).expect("binds"));
    let echo = std::thread::spawn(move || {
        server.set_read_timeout(Some(WAIT)).expect("sets");
        let mut buffer = vec![0; 65_536];
        let (bytes, from) = server.recv_from(&mut buffer).expect("the datagram comes");
        server.send_to(&buffer[..bytes], from).expect("sends");
    });
    let back = site.guest.run(move || {
        let socket = UdpSocket::bind(near).expect("binds");
        socket.set_read_timeout(Some(WAIT)).expect("sets");
        socket
            .send_to(&pattern(DATAGRAM_BYTES), far)
            .expect("sends");
        let mut buffer = vec![0; 65_536];
        let bytes = socket.recv(&mut buffer).expect("it comes back");
        buffer[..bytes].to_vec()
    });
    echo.join().expect("the echo ends");
    back
}

#[test]
fn datagrams_in_fragments_arrive_whole_both_ways() {
    if !privileged() {
        return;
    }
    let site = site();
    for (round, near, far) in [
        (1, "10.0.0.1:5000", "10.0.0.2:53"),
        (2, "[fd00::1]:5000", "[fd00::2]:53"),
    ] {
        assert_eq!(echoed(&site, near, far), pattern(DATAGRAM_BYTES), "{far}");
        let counters = site.counters();
        for direction in [&counters.egress, &counters.ingress] {
            let follows = direction.reason(Reason::FragmentFollows).packets;
            assert_eq!(follows, round * LATER_FRAGMENTS, "{counters:?}");
        }
    }
    let counters = site.counters();
    for reason in [Reason::Fragment, Reason::BadFragment, Reason::TinyFragment] {
        for direction in [&counters.egress, &counters.ingress] {
            assert_eq!(direction.reason(reason).packets, 0, "{counters:?}");
        }
    }
}

/// A stream from one guest to a server on the other, out of the pages of a file.
fn stream(from: &Guest, to: &Guest, at: &'static str) -> Vec<u8> {
    let address: SocketAddr = at.parse().expect("a valid address");
    let listener = to.run(move || TcpListener::bind(address).expect("binds"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        stream.set_read_timeout(Some(WAIT)).expect("sets");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the stream ends");
        received
    });
    from.run(move || {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&pattern(STREAM_BYTES)).expect("writes");
        file.seek(SeekFrom::Start(0)).expect("seeks");
        let mut stream = TcpStream::connect_timeout(&address, WAIT).expect("connects");
        // From a file to a socket this is sendfile(2): the data stays in the file's pages.
        let sent = std::io::copy(&mut file, &mut stream).expect("sends");
        assert_eq!(sent, STREAM_BYTES as u64);
    });
    server.join().expect("the server ends")
}

#[test]
fn super_packets_and_paged_data_are_judged_and_counted_as_they_are() {
    if !privileged() {
        return;
    }
    let site = site();
    let received = stream(&site.guest, &site.peer, "10.0.0.2:80");
    assert!(
        received == pattern(STREAM_BYTES),
        "the peer got another stream"
    );
    let received = stream(&site.peer, &site.guest, "[fd00::1]:80");
    assert!(
        received == pattern(STREAM_BYTES),
        "the guest got another stream"
    );
    let counters = site.counters();
    for direction in [&counters.egress, &counters.ingress] {
        let session = direction.reason(Reason::Session);
        assert!(session.bytes > STREAM_BYTES as u64, "{counters:?}");
        let average = session.bytes / session.packets;
        assert!(average > FRAME_BYTES_MAX, "no super-packets: {counters:?}");
        assert_eq!(
            direction.reason(Reason::TcpWindow).packets,
            0,
            "{counters:?}"
        );
        assert_eq!(
            direction.reason(Reason::Truncated).packets,
            0,
            "{counters:?}"
        );
    }
    let sessions = site.datapath.export(VNIC).expect("exports");
    for way in [0, 1] {
        let counted: u64 = sessions.iter().map(|session| session.bytes[way]).sum();
        assert!(counted > STREAM_BYTES as u64, "{sessions:?}");
    }
    run(&format!("ip link set {DEVICE} down"));
    let (device, counters) = (site.datapath.device_counters(VNIC), site.counters());
    let device = device.expect("reads");
    assert_eq!(device.from_guest.packets, counters.egress.seen.packets);
    assert_eq!(
        device.toward_guest.packets,
        counters.ingress.allowed().packets
    );
}

/// Sends a frame as it is out of the guest's own interface.
fn send_raw(frame: &[u8]) {
    let found = nix::ifaddrs::getifaddrs()
        .expect("interfaces are listed")
        .filter(|one| one.interface_name == "eth0")
        .find_map(|one| {
            one.address
                .as_ref()
                .and_then(|at| at.as_link_addr().copied())
        });
    let eth0 = found.expect("the guest has eth0");
    let packet = AddressFamily::Packet;
    let raw = socket(packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("opens");
    bind(raw.as_raw_fd(), &eth0).expect("binds");
    let sent = send(raw.as_raw_fd(), frame, MsgFlags::empty()).expect("sends");
    assert_eq!(sent, frame.len());
}

/// The host's kernel takes a tag off each frame that it receives, before any program sees it.
#[test]
fn a_tag_that_was_taken_off_counts_as_the_one_in_the_frame() {
    if !privileged() {
        return;
    }
    let site = site();
    let plain = ip(
        Direction::Egress,
        ("10.8.0.1", "10.8.0.2"),
        17,
        &udp((5_000, 53)),
    );
    for (tags, reason, count) in [
        (&[(0x8100u16, 10u16)][..], Reason::PolicyAllow, 1),
        (&[(0x8100, 0x600a)], Reason::Session, 1),
        (&[(0x8100, 11)], Reason::Vlan, 1),
        (&[(0x88a8, 10)], Reason::Vlan, 2),
        (&[(0x8100, 10), (0x8100, 10)], Reason::Vlan, 3),
        (&[(0x88a8, 10), (0x8100, 10)], Reason::Vlan, 4),
    ] {
        let mut frame = plain[..12].to_vec();
        for (kind, control) in tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(&plain[12..]);
        site.guest.run(move || send_raw(&frame));
        let counted = || site.counters().egress.reason(reason).packets;
        for _ in 0..100 {
            if counted() == count {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(counted(), count, "{tags:?}: {:?}", site.counters());
    }
    let sessions = site.datapath.export(VNIC).expect("exports");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].key.segment, Segment(8));
}
