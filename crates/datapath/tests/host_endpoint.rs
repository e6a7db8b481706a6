//! The hypervisor's own stack behind the same programs: observed first, then on trial, then
//! guarded.

mod common;

use common::guests::{Guest, bridge, link_up, plug};
use common::{GUEST_MAC, PEER_MAC, VNIC, privileged, run, spec, tables};
use lictor_datapath::{Datapath, VnicSpec};
use lictor_types::{Endpoint, Mode, Reason, VnicState};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(700);
const MINUTE: Duration = Duration::from_secs(60);

/// Whether the peer gets a connection to a port of the host.
fn reaches(peer: &Guest, port: u16) -> bool {
    let address = SocketAddr::from(([10, 0, 0, 1], port));
    let listener = TcpListener::bind(address).expect("binds");
    let reached = peer.run(move || TcpStream::connect_timeout(&address, WAIT).is_ok());
    drop(listener);
    reached
}

fn host(bpffs: &common::Bpffs) -> (Datapath, Guest) {
    bridge();
    run(&format!("ip link set br0 address {GUEST_MAC}"));
    run("ip addr add 10.0.0.1/24 dev br0");
    let peer = Guest::new();
    plug(&peer, "port0", &PEER_MAC.to_string(), 2);
    link_up(&peer, "port0");
    let mut datapath = Datapath::open(bpffs.path()).expect("opens");
    datapath.load(&tables()).expect("loads");
    let up = (0..20).any(|_| reaches(&peer, 80));
    assert!(up, "the bridge forwards");
    let own = VnicSpec {
        device: "br0".into(),
        endpoint: Endpoint::Host,
        link: lictor_types::Link::PLAIN,
        ..spec(64)
    };
    datapath.attach(&own).expect("attaches");
    (datapath, peer)
}

#[test]
fn the_host_is_observed_first_and_comes_back_by_itself_after_a_trial() {
    if !privileged() {
        return;
    }
    common::own_namespace();
    let bpffs = common::Bpffs::new();
    let (datapath, peer) = host(&bpffs);
    let mode = || datapath.vnics().expect("reads")[0].mode;
    let denied = || {
        let counters = datapath.counters(VNIC).expect("reads");
        counters.ingress.reason(Reason::PolicyDeny).packets
    };
    assert_eq!(mode(), Mode::Observe);
    assert_eq!(datapath.state(VNIC).expect("reads"), VnicState::Open);
    assert!(reaches(&peer, 22), "what policy denies passes");
    let observed = denied();
    assert!(observed > 0, "and is counted");

    datapath.set_mode(VNIC, Mode::Trial, MINUTE).expect("sets");
    assert_eq!(mode(), Mode::Trial);
    assert!(!reaches(&peer, 22), "a trial enforces");
    assert!(reaches(&peer, 80), "what policy allows passes");
    assert!(denied() > observed);
    datapath.advance_clock(VNIC, MINUTE).expect("advances");
    assert_eq!(mode(), Mode::Observe, "nobody has confirmed");
    assert!(reaches(&peer, 22));

    datapath.set_mode(VNIC, Mode::Trial, MINUTE).expect("sets");
    datapath
        .set_mode(VNIC, Mode::Enforce, MINUTE)
        .expect("confirms");
    datapath.advance_clock(VNIC, 10 * MINUTE).expect("advances");
    assert_eq!(mode(), Mode::Enforce);
    assert!(!reaches(&peer, 22), "confirmed is for good");
    assert!(reaches(&peer, 80));
}

#[test]
fn the_hosts_mode_outlives_whoever_set_it() {
    if !privileged() {
        return;
    }
    common::own_namespace();
    let bpffs = common::Bpffs::new();
    let (datapath, peer) = host(&bpffs);
    datapath
        .set_mode(VNIC, Mode::Enforce, MINUTE)
        .expect("sets");
    drop(datapath);
    assert!(!reaches(&peer, 22), "enforced without anybody");
    let datapath = Datapath::open(bpffs.path()).expect("opens again");
    let status = datapath.vnics().expect("reads").remove(0);
    assert_eq!(
        (status.mode, status.spec.endpoint),
        (Mode::Enforce, Endpoint::Host)
    );
    assert!(status.hooks.intact());
}
