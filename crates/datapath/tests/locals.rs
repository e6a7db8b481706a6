//! Two guests of one host: what one of them says must come in by its own device.

mod common;

use common::packets::{BACK, BACK6, OUT, arp, ether, icmp, ip, link, nd, syn_to, udp};
use common::{Bench, PEER_MAC, VNIC, privileged, run, spec};
use lictor_datapath::{Datapath, VnicSpec};
use lictor_types::{Direction, Link, Mac, VnicId, VnicState};

use Direction::{Egress, Ingress};

const PEER: VnicId = VnicId(2);
const DEVICE: &str = "host1";

fn peer() -> VnicSpec {
    VnicSpec {
        vnic: PEER,
        name: "guest-2".parse().expect("a valid name"),
        device: DEVICE.into(),
        mac: PEER_MAC,
        link: Link::PLAIN,
        endpoint: lictor_types::Endpoint::Guest,
        ..spec(64)
    }
}

/// The guest of the bench and its peer, which is open too.
fn bench() -> Bench {
    let mut bench = Bench::new();
    run("ip link add host1 type veth peer name guest1");
    bench.datapath.attach(&peer()).expect("attaches");
    bench
        .datapath
        .set_state(PEER, VnicState::Open)
        .expect("opens");
    bench
}

/// What claims to be the peer's, each in another way.
fn claims() -> Vec<(&'static str, Vec<u8>)> {
    let quoted = &ip(Egress, OUT, 17, &udp((5_000, 53)))[14..];
    let error = ip(Ingress, BACK, 1, &icmp(3, 3, 0, quoted));
    let group = Mac([0x33, 0x33, 0xff, 0, 0, 1]);
    let solicits = ip(
        Ingress,
        ("fd00::2", "ff02::1:ff00:1"),
        58,
        &nd(135, "fd00::1", 1, PEER_MAC),
    );
    let advertises = nd(136, "fd00::2", 2, PEER_MAC);
    let asks = arp(1, (PEER_MAC, "10.0.0.2"), (Mac([0; 6]), "10.0.0.1"));
    let announces = arp(1, (PEER_MAC, "10.0.0.2"), (Mac([0; 6]), "10.0.0.2"));
    vec![
        ("a conversation", syn_to(80, BACK, Ingress)),
        ("an ICMP error", error),
        ("an ARP request", link(Ingress, 0x0806, &asks)),
        ("an ARP announcement", link(Ingress, 0x0806, &announces)),
        (
            "a solicitation",
            ether(group, PEER_MAC, 0x86dd, &solicits[14..]),
        ),
        ("an advertisement", ip(Ingress, BACK6, 58, &advertises)),
        (
            "an advertisement of another sender",
            ip(Ingress, ("fe80::99", "fd00::1"), 58, &advertises),
        ),
    ]
}

/// The reasons for all claims, from the uplink and by the peer's device.
fn reasons(bench: &Bench) -> [Vec<String>; 2] {
    let text = |result: lictor_datapath::TestVerdict| format!("{}", result.reason);
    let uplink = claims().into_iter().map(|(_, frame)| {
        text(
            bench
                .datapath
                .test_run(VNIC, Ingress, &frame)
                .expect("runs"),
        )
    });
    let device = claims().into_iter().map(|(_, frame)| {
        let found = bench.datapath.test_run_from(PEER, VNIC, Ingress, &frame);
        text(found.expect("runs"))
    });
    [uplink.collect(), device.collect()]
}

#[test]
fn a_local_guest_speaks_by_its_own_device_only() {
    if !privileged() {
        return;
    }
    let bench = bench();
    let web = syn_to(80, BACK, Ingress);
    bench.check("from the uplink", Ingress, &web, "deny spoofed-local");
    let dns = ip(Egress, OUT, 17, &udp((5_000, 53)));
    bench.check(
        "what the error is about",
        Egress,
        &dns,
        "allow policy-allow",
    );
    let [uplink, device] = reasons(&bench);
    assert_eq!(uplink, vec!["spoofed-local"; claims().len()]);
    assert!(!device.contains(&"spoofed-local".to_owned()), "{device:?}");
    let own = bench
        .datapath
        .test_run_from(VNIC, VNIC, Ingress, &claims()[2].1);
    assert_eq!(
        own.expect("runs").reason.name(),
        "spoofed-local",
        "by its own"
    );
    bench.check(
        "others",
        Ingress,
        &syn_to(80, ("192.0.2.1", "10.0.0.1"), Ingress),
        "deny default-deny",
    );
}

#[test]
fn a_guest_that_is_not_here_may_speak_from_the_uplink() {
    if !privileged() {
        return;
    }
    let mut bench = bench();
    let dns = ip(Egress, OUT, 17, &udp((5_000, 53)));
    bench.check(
        "what the error is about",
        Egress,
        &dns,
        "allow policy-allow",
    );
    for (state, elsewhere) in [
        (VnicState::Hold, true),
        (VnicState::Cut, false),
        (VnicState::HandedOver, true),
        (VnicState::Open, false),
    ] {
        bench.datapath.set_state(PEER, state).expect("sets");
        let lies = reasons(&bench)[0].contains(&"spoofed-local".to_owned());
        assert_eq!(lies, !elsewhere, "{state}");
    }
    // A restarted agent finds the places as they were.
    bench.datapath = Datapath::open(&bench.root()).expect("opens");
    assert!(reasons(&bench)[0].contains(&"spoofed-local".to_owned()));
    bench.datapath.detach(PEER).expect("detaches");
    let frame = syn_to(80, BACK, Ingress);
    bench.check("detached", Ingress, &frame, "allow session");
    run(&format!("ip link set {DEVICE} down"));
    bench.datapath.attach(&peer()).expect("attaches");
    bench.check("attached again, in hold", Ingress, &frame, "allow session");
}

/// Another number at whose place in the table the search for the peer begins, too (`bpf/abi.h`).
fn number_that_meets_the_peers() -> VnicId {
    let begins = |number: u32| number.wrapping_mul(0x9e37_79b1) >> 19;
    let meets = |number: &u32| begins(*number) == begins(PEER.0);
    VnicId((PEER.0 + 1..).find(meets).expect("one in eight thousand"))
}

#[test]
fn a_guest_is_found_behind_one_whose_number_meets_its_own_and_after_that_has_gone() {
    if !privileged() {
        return;
    }
    let mut bench = Bench::new();
    let other = VnicSpec {
        vnic: number_that_meets_the_peers(),
        name: "guest-3".parse().expect("a valid name"),
        device: "host2".into(),
        mac: Mac([0x52, 0x54, 0, 0, 0, 3]),
        ..peer()
    };
    run("ip link add host2 type veth peer name guest2");
    run("ip link add host1 type veth peer name guest1");
    for spec in [&other, &peer()] {
        bench.datapath.attach(spec).expect("attaches");
        let opened = bench.datapath.set_state(spec.vnic, VnicState::Open);
        opened.expect("opens");
    }
    let web = syn_to(80, BACK, Ingress);
    bench.check("behind another", Ingress, &web, "deny spoofed-local");
    bench.datapath.detach(other.vnic).expect("detaches");
    bench.check("alone", Ingress, &web, "deny spoofed-local");
    bench.datapath.attach(&other).expect("attaches again");
    bench.datapath.detach(PEER).expect("detaches");
    bench.check("gone itself", Ingress, &web, "allow policy-allow");
}
