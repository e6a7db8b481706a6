//! Messages of DHCP and DHCPv6, most of them as clients and servers send them.

use crate::world::{FAR4, FAR6, OWN4, OWN6, STRANGER, VIRTUAL, VNICS};
use lictor_types::{Direction, Mac};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

fn pick<T: Copy>(from: &[T], rng: &mut StdRng) -> T {
    *from.choose(rng).expect("there are some")
}

/// Source, destination and body of a datagram.
pub(crate) fn message(
    vnic: usize,
    direction: Direction,
    rng: &mut StdRng,
) -> (String, String, Vec<u8>) {
    // Mostly the guest is the client.
    let to_server = (direction == Direction::Egress) == rng.gen_bool(0.8);
    let v6_family = rng.gen_bool(0.4);
    let (server, client) = if v6_family { (547, 546) } else { (67, 68) };
    let mut ports: (u16, u16) = match to_server {
        true => (client, server),
        false => (server, client),
    };
    if rng.gen_bool(0.04) {
        ports.0 = pick(&[67, 547, 53], rng);
    }
    let payload = match v6_family {
        true => vec![message_kind(to_server, rng), 1, 2, 3, 0, 0],
        false => bootp(vnic, to_server, rng),
    };
    let (own, far) = ends(vnic, v6_family, rng);
    let (source, destination) = match direction {
        Direction::Egress => (own, far),
        Direction::Ingress => (far, own),
    };
    (source, destination, datagram(ports, &payload, rng))
}

fn datagram(ports: (u16, u16), payload: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    if rng.gen_bool(0.05) {
        bytes.truncate(rng.gen_range(8..bytes.len()));
        let length = (bytes.len() as u16).to_be_bytes();
        bytes[4..6].copy_from_slice(&length);
    }
    bytes
}

fn message_kind(to_server: bool, rng: &mut StdRng) -> u8 {
    match (rng.gen_bool(0.9), to_server) {
        (true, true) => pick(&[1, 3, 4, 5, 6, 8, 9, 11], rng),
        (true, false) => pick(&[2, 7, 10], rng),
        (false, _) => rng.gen_range(0..16),
    }
}

fn bootp(vnic: usize, to_server: bool, rng: &mut StdRng) -> Vec<u8> {
    let operation = match (rng.gen_bool(0.92), to_server) {
        (true, true) => 1,
        (true, false) => 2,
        (false, _) => rng.gen_range(0..4),
    };
    let hardware: Mac = match rng.gen_range(0..20) {
        0 => STRANGER,
        1 => VIRTUAL,
        _ => VNICS[vnic].mac,
    };
    let mut bytes = vec![operation, 1, 6, 0];
    bytes.resize(28, 0);
    bytes.extend(hardware.0);
    bytes.resize(60, 0);
    if rng.gen_bool(0.04) {
        bytes[rng.gen_range(0..3)] = rng.gen_range(0..8);
    }
    bytes
}

/// The guest's end, and the other one.
fn ends(vnic: usize, v6_family: bool, rng: &mut StdRng) -> (String, String) {
    if v6_family {
        let link_local = VNICS[vnic].mac.link_local().to_string();
        let own = match rng.gen_range(0..10) {
            0..7 => link_local,
            7 => "::".into(),
            _ => pick(&OWN6[vnic], rng).into(),
        };
        let other = pick(
            &["ff02::1:2", "fe80::99", OWN6[1 - vnic][0], pick(&FAR6, rng)],
            rng,
        );
        return (own, other.into());
    }
    let own = pick(
        &[
            "0.0.0.0",
            "255.255.255.255",
            pick(&OWN4[vnic], rng),
            "10.0.0.77",
        ],
        rng,
    );
    let other = pick(
        &[
            "255.255.255.255",
            OWN4[1 - vnic][0],
            "0.0.0.0",
            pick(&FAR4, rng),
        ],
        rng,
    );
    (own.into(), other.into())
}
