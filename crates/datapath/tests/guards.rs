//! Golden tables of who may play the server: DHCP, DHCPv6 and router advertisements.

mod common;

use common::packets::{ALL, arp, ether, icmp, ip, link, nd, v4, v6};
use common::{Bench, Case, GUEST_MAC, PEER_MAC, VNIC, check, model_with, privileged, spec, tables};
use lictor_datapath::VnicSpec;
use lictor_model::Frame;
use lictor_types::{
    AddressEntry, AddressKind, Direction, HostTables, IdentityId, Link, Mac, Role, SharedId,
    VnicState,
};
use std::time::Duration;

use Direction::{Egress, Ingress};

const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);

/// The guest may reach a DHCP server at 10.0.0.2, in the world and at a link-local address: atom 3
/// holds ports 53, 67 and 547.
fn with_dhcp() -> HostTables {
    let mut tables = tables();
    let udp = tables
        .atoms
        .iter()
        .find(|atom| atom.first == 53)
        .copied()
        .expect("there is one for DNS");
    for port in [67, 547] {
        tables.atoms.push(lictor_types::AtomRange {
            first: port,
            last: port,
            ..udp
        });
    }
    let dns = tables
        .decisions
        .iter()
        .find(|decision| decision.rule.0 == 102)
        .copied()
        .expect("there is a rule for DNS");
    for peer in [0, 4] {
        tables.decisions.push(lictor_types::Decision {
            peer: IdentityId(peer),
            ..dns
        });
    }
    tables
}

fn datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length, [0, 0]].concat();
    bytes.extend(payload);
    bytes
}

fn bootp(operation: u8, hardware: Mac) -> Vec<u8> {
    let mut bytes = vec![operation, 1, 6, 0];
    bytes.resize(28, 0);
    bytes.extend(hardware.0);
    bytes.resize(240, 0);
    bytes
}

/// From the guest to all.
fn asks(source: &str, operation: u8, hardware: Mac) -> Vec<u8> {
    let body = datagram((68, 67), &bootp(operation, hardware));
    let source = source.parse().expect("an address");
    let packet = v4(source, [255; 4].into(), 17, &body);
    ether(ALL, GUEST_MAC, 0x0800, &packet)
}

/// From a server toward the guest.
fn answers(server: &str, to: &str, operation: u8, hardware: Mac) -> Vec<u8> {
    let body = datagram((67, 68), &bootp(operation, hardware));
    let parse = |text: &str| text.parse().expect("an address");
    ether(
        GUEST_MAC,
        PEER_MAC,
        0x0800,
        &v4(parse(server), parse(to), 17, &body),
    )
}

/// Runs the packets on the model and the program under these tables and roles.
fn checked(tables: &HostTables, roles: &[Role], cases: Vec<Case>) {
    let link = Link::PLAIN.with_roles(roles).expect("roles");
    let Some(bench) = on_both(tables, link, cases) else {
        return;
    };
    let sessions = bench.datapath.session_count(VNIC).expect("counts");
    assert_eq!(sessions, 0, "no message makes a session");
}

fn on_both(tables: &HostTables, link: Link, cases: Vec<Case>) -> Option<Bench> {
    let mut model = model_with(tables, link);
    for (what, direction, packet, expected) in &cases {
        let answer = model.judge(&Frame {
            direction: *direction,
            at: Duration::ZERO,
            bytes: packet,
            came_by: None,
        });
        let found = format!("{} {}", answer.verdict, answer.reason);
        assert_eq!(found, *expected, "the model on {what} ({direction})");
    }
    if !privileged() {
        return None;
    }
    let mut bench = Bench::bare();
    let spec = VnicSpec { link, ..spec(64) };
    bench.datapath.attach(&spec).expect("attaches");
    bench.datapath.load(tables).expect("loads");
    bench
        .datapath
        .set_state(VNIC, VnicState::Open)
        .expect("opens");
    for (what, direction, packet, expected) in cases {
        bench.check(what, direction, &packet, expected);
    }
    Some(bench)
}

#[test]
fn a_guest_asks_and_is_answered_by_servers_that_policy_lets_it_reach() {
    let cut = |frame: Vec<u8>, bytes: usize| {
        let mut frame = frame[..14 + 20 + 8 + bytes].to_vec();
        frame[14 + 3] = (20 + 8 + bytes) as u8;
        frame[14 + 2] = 0;
        frame[34 + 4..34 + 6].copy_from_slice(&(8 + bytes as u16).to_be_bytes());
        frame
    };
    let all = "255.255.255.255";
    checked(
        &with_dhcp(),
        &[],
        vec![
            (
                "discovers",
                Egress,
                asks("0.0.0.0", 1, GUEST_MAC),
                "allow dhcp",
            ),
            (
                "renews",
                Egress,
                asks("10.0.0.1", 1, GUEST_MAC),
                "allow dhcp",
            ),
            (
                "as another",
                Egress,
                asks("10.0.0.9", 1, GUEST_MAC),
                "deny spoofed-address",
            ),
            (
                "for another",
                Egress,
                asks("0.0.0.0", 1, OTHER),
                "deny spoofed-hardware",
            ),
            (
                "answers",
                Egress,
                asks("0.0.0.0", 2, GUEST_MAC),
                "deny rogue-server",
            ),
            (
                "operation 3",
                Egress,
                asks("0.0.0.0", 3, GUEST_MAC),
                "deny bad-header",
            ),
            (
                "33 bytes",
                Egress,
                cut(asks("0.0.0.0", 1, GUEST_MAC), 33),
                "deny truncated",
            ),
            (
                "34 bytes",
                Egress,
                cut(asks("0.0.0.0", 1, GUEST_MAC), 34),
                "allow dhcp",
            ),
            (
                "is offered",
                Ingress,
                answers("10.0.0.2", all, 2, GUEST_MAC),
                "allow dhcp",
            ),
            (
                "an address not bound yet",
                Ingress,
                answers("10.0.0.2", "10.0.0.77", 2, GUEST_MAC),
                "allow dhcp",
            ),
            (
                "an offer for another",
                Ingress,
                answers("10.0.0.2", all, 2, OTHER),
                "deny spoofed-hardware",
            ),
            (
                "a request as an answer",
                Ingress,
                answers("10.0.0.2", all, 1, GUEST_MAC),
                "deny bad-header",
            ),
            (
                "of no friend",
                Ingress,
                answers("192.0.2.1", all, 2, GUEST_MAC),
                "deny default-deny",
            ),
            (
                "another client asks",
                Ingress,
                {
                    let body = datagram((68, 67), &bootp(1, OTHER));
                    ether(
                        ALL,
                        OTHER,
                        0x0800,
                        &v4([0; 4].into(), [255; 4].into(), 17, &body),
                    )
                },
                "deny default-deny",
            ),
        ],
    );
}

#[test]
fn without_a_rule_nobody_is_asked() {
    check(vec![
        (
            "discovers",
            Egress,
            asks("0.0.0.0", 1, GUEST_MAC),
            "deny default-deny",
        ),
        (
            "is offered",
            Ingress,
            answers("10.0.0.2", "255.255.255.255", 2, GUEST_MAC),
            "deny default-deny",
        ),
    ]);
}

#[test]
fn only_a_server_speaks_as_one() {
    let says = |ports| {
        ip(
            Egress,
            ("10.0.0.1", "10.0.0.2"),
            17,
            &datagram(ports, &[0; 8]),
        )
    };
    let says6 = |ports| {
        ip(
            Egress,
            ("fd00::1", "fd00::2"),
            17,
            &datagram(ports, &[7, 0, 0, 0]),
        )
    };
    let client = || {
        let body = datagram((68, 67), &bootp(1, OTHER));
        ether(
            ALL,
            OTHER,
            0x0800,
            &v4([0; 4].into(), [255; 4].into(), 17, &body),
        )
    };
    let mut tables = with_dhcp();
    let dns = tables
        .decisions
        .iter()
        .find(|decision| decision.rule.0 == 102)
        .copied();
    let heard = lictor_types::Decision {
        direction: Ingress,
        peer: IdentityId(0),
        ..dns.expect("there is a rule for DNS")
    };
    tables.decisions.push(heard);
    checked(
        &tables,
        &[],
        vec![
            (
                "a server's answer",
                Egress,
                says((67, 68)),
                "deny rogue-server",
            ),
            ("a relay", Egress, says((67, 67)), "deny rogue-server"),
            (
                "a DHCPv6 server's answer",
                Egress,
                says6((547, 546)),
                "deny rogue-server",
            ),
        ],
    );
    checked(
        &tables,
        &[Role::DhcpServer],
        vec![
            (
                "its answer is the policy's",
                Egress,
                says((67, 68)),
                "deny default-deny",
            ),
            ("a client asks", Ingress, client(), "allow dhcp"),
        ],
    );
}

#[test]
fn dhcpv6_passes_between_a_link_local_client_and_its_server() {
    let own = GUEST_MAC.link_local().to_string();
    let asks = |source: &str, kind: u8| {
        let body = datagram((546, 547), &[kind, 0, 0, 1]);
        let parse = |text: &str| text.parse().expect("an address");
        let group = Mac([0x33, 0x33, 0, 1, 0, 2]);
        ether(
            group,
            GUEST_MAC,
            0x86dd,
            &v6(parse(source), parse("ff02::1:2"), 17, &body),
        )
    };
    let answers = |kind: u8| {
        let body = datagram((547, 546), &[kind, 0, 0, 1]);
        ip(Ingress, ("fe80::99", &own), 17, &body)
    };
    checked(
        &with_dhcp(),
        &[],
        vec![
            ("solicits", Egress, asks(&own, 1), "allow dhcp"),
            (
                "as another",
                Egress,
                asks("fe80::99", 1),
                "deny spoofed-address",
            ),
            ("as nobody", Egress, asks("::", 1), "deny spoofed-address"),
            ("replies", Egress, asks(&own, 7), "deny rogue-server"),
            ("relays", Egress, asks(&own, 12), "deny bad-header"),
            ("is advertised to", Ingress, answers(2), "allow dhcp"),
            ("is solicited", Ingress, answers(1), "deny bad-header"),
        ],
    );
}

#[test]
fn only_a_router_advertises_and_is_asked() {
    let own = GUEST_MAC.link_local().to_string();
    let nodes = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let routers = Mac([0x33, 0x33, 0, 0, 0, 2]);
    let advertises = |mac: Mac| {
        let option = [&[0; 8][..], &[1, 1], &mac.0].concat();
        let frame = ip(Egress, (&own, "ff02::1"), 58, &icmp(134, 0, 0, &option));
        ether(nodes, GUEST_MAC, 0x86dd, &frame[14..])
    };
    let redirects = || {
        ip(
            Egress,
            ("fd00::1", "fd00::2"),
            58,
            &icmp(137, 0, 0, &[0; 32]),
        )
    };
    let is_asked = |mac: Mac| {
        let option = [&[1, 1][..], &mac.0].concat();
        let frame = ip(
            Ingress,
            ("fe80::99", "ff02::2"),
            58,
            &icmp(133, 0, 0, &option),
        );
        ether(routers, PEER_MAC, 0x86dd, &frame[14..])
    };
    checked(
        &tables(),
        &[],
        vec![
            (
                "advertises",
                Egress,
                advertises(GUEST_MAC),
                "deny spoofed-neighbour",
            ),
            ("redirects", Egress, redirects(), "deny spoofed-neighbour"),
            ("is asked", Ingress, is_asked(PEER_MAC), "deny foreign-mac"),
        ],
    );
    checked(
        &tables(),
        &[Role::Router],
        vec![
            (
                "its advertisement is the policy's",
                Egress,
                advertises(GUEST_MAC),
                "deny default-deny",
            ),
            (
                "for another station",
                Egress,
                advertises(OTHER),
                "deny spoofed-neighbour",
            ),
            ("redirects", Egress, redirects(), "deny spoofed-neighbour"),
            ("is asked", Ingress, is_asked(PEER_MAC), "allow neighbour"),
            (
                "in its own name",
                Ingress,
                is_asked(GUEST_MAC),
                "deny spoofed-neighbour",
            ),
        ],
    );
}

/// The guest is in group 4, which shares 10.0.0.50 and fd00::50, and routes for 10.7.0.0/16.
#[test]
fn shared_addresses_are_for_all_of_a_group_and_routed_ones_not_for_the_link() {
    let mut tables = tables();
    for prefix in ["10.0.0.50/32", "fd00::50/128"] {
        tables.addresses.push(AddressEntry {
            kind: AddressKind::Shared(SharedId(4)),
            ..common::address(prefix, 1, 0, 1)
        });
    }
    tables.addresses.push(AddressEntry {
        kind: AddressKind::Routed,
        ..common::address("10.7.0.0/16", 1, 1, 1)
    });
    let (shared, routed) = ("10.0.0.50", "10.7.0.5");
    let says = |address| {
        link(
            Egress,
            0x0806,
            &arp(2, (GUEST_MAC, address), (PEER_MAC, "10.0.0.2")),
        )
    };
    let hears = |address| {
        link(
            Ingress,
            0x0806,
            &arp(2, (PEER_MAC, address), (GUEST_MAC, "10.0.0.1")),
        )
    };
    let asked = |address| {
        link(
            Ingress,
            0x0806,
            &arp(1, (PEER_MAC, "10.0.0.2"), (OTHER, address)),
        )
    };
    let tells = |target| {
        ip(
            Egress,
            ("fd00::1", "fd00::2"),
            58,
            &nd(136, target, 2, GUEST_MAC),
        )
    };
    let told = |target| {
        ip(
            Ingress,
            ("fd00::2", "fd00::1"),
            58,
            &nd(136, target, 2, PEER_MAC),
        )
    };
    let out = |from| ip(Egress, (from, "10.0.0.2"), 47, &[0; 8]);
    let cases = || -> Vec<Case> {
        vec![
            (
                "speaks as the group",
                Egress,
                out(shared),
                "allow policy-allow",
            ),
            (
                "claims its address",
                Egress,
                says(shared),
                "allow neighbour",
            ),
            (
                "another of the group does",
                Ingress,
                hears(shared),
                "allow neighbour",
            ),
            ("is asked for it", Ingress, asked(shared), "allow neighbour"),
            (
                "claims it, v6",
                Egress,
                tells("fd00::50"),
                "allow neighbour",
            ),
            (
                "another does, v6",
                Ingress,
                told("fd00::50"),
                "allow neighbour",
            ),
            (
                "another claims its own",
                Ingress,
                told("fd00::1"),
                "deny spoofed-neighbour",
            ),
            ("forwards", Egress, out(routed), "allow policy-allow"),
            (
                "claims what it forwards for",
                Egress,
                says(routed),
                "deny spoofed-neighbour",
            ),
            (
                "another claims that",
                Ingress,
                hears(routed),
                "deny spoofed-neighbour",
            ),
            (
                "is asked for it",
                Ingress,
                asked(routed),
                "deny foreign-address",
            ),
        ]
    };
    let link = Link::PLAIN.with_shared(&[SharedId(4)]).expect("a group");
    on_both(&tables, link, cases());
    let outside = Link::PLAIN.with_shared(&[SharedId(5)]).expect("a group");
    on_both(
        &tables,
        outside,
        vec![
            (
                "speaks as the group",
                Egress,
                out(shared),
                "deny spoofed-address",
            ),
            (
                "claims its address",
                Egress,
                says(shared),
                "deny spoofed-neighbour",
            ),
            (
                "one of the group does",
                Ingress,
                hears(shared),
                "allow neighbour",
            ),
            (
                "is asked for it",
                Ingress,
                asked(shared),
                "deny foreign-address",
            ),
        ],
    );
}
