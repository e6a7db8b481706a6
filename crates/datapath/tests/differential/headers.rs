//! Tags, options and extension headers, most of them as they should be.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

fn pick<T: Copy>(from: &[T], rng: &mut StdRng) -> T {
    *from.choose(rng).expect("there are some")
}

/// Puts a VLAN tag, sometimes two, into a frame.
pub(crate) fn tagged(frame: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    let tags = 1 + usize::from(rng.gen_bool(0.1));
    for _ in 0..tags {
        let kind: u16 = if rng.gen_bool(0.9) { 0x8100 } else { 0x88a8 };
        let vlan: u16 = pick(&[10, 10, 10, 10, 0, 0, 11, 4_095, 12], rng);
        let priority = u16::from(rng.gen_bool(0.2)) << 13;
        bytes.extend(kind.to_be_bytes());
        bytes.extend((vlan | priority).to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// Puts options into an IPv4 packet that has none.
pub(crate) fn with_options(packet: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..rng.gen_range(1..4) {
        match rng.gen_range(0..12) {
            0..5 => options.extend([148, 4, 0, 0]),
            5..8 => options.push(1),
            8 => options.push(0),
            9 => options.extend([pick(&[131, 137, 7, 68, 130], rng), 7, 4, 0, 0, 0, 0]),
            10 => options.extend([148, rng.gen_range(0..6)]),
            _ => options.push(rng.r#gen()),
        }
    }
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), pick(&[0, 1], rng));
    let length = (packet.len() + options.len()) as u16;
    let mut bytes = packet[..20].to_vec();
    bytes[0] = 0x40 | (5 + options.len() as u8 / 4);
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes.extend(options);
    bytes.extend(&packet[20..]);
    bytes
}

/// A chain of extension headers before a transport header.
pub(crate) fn extended(protocol: u8, body: &[u8], rng: &mut StdRng) -> (u8, Vec<u8>) {
    let count = rng.gen_range(1..=3) + usize::from(rng.gen_bool(0.1)) * 3;
    let kinds: Vec<u8> = (0..count)
        .map(|place| match rng.gen_range(0..40) {
            0..12 if place == 0 => 0,
            0 => 0,
            1..9 => 43,
            9..13 => 51,
            13..15 => 44,
            15 => pick(&[135, 139, 140], rng),
            _ => 60,
        })
        .collect();
    let mut chain = Vec::new();
    for (place, kind) in kinds.iter().enumerate() {
        let next = kinds.get(place + 1).copied().unwrap_or(protocol);
        chain.extend(header(*kind, next, rng));
    }
    chain.extend(body);
    (kinds[0], chain)
}

fn header(kind: u8, next: u8, rng: &mut StdRng) -> Vec<u8> {
    let odd = rng.gen_bool(0.1);
    match kind {
        43 => {
            let (routing, left) = match odd {
                true => (pick(&[0, 2, 4], rng), rng.gen_range(0..2)),
                false => (4, 0),
            };
            vec![next, 0, routing, left, 0, 0, 0, 0]
        }
        // Neither offset nor more fragments: the packet is whole.
        44 => vec![next, 0, 0, 0, 0, 0, 0, rng.r#gen()],
        51 => {
            let units = if odd { rng.gen_range(0..4) } else { 4 };
            let mut bytes = vec![next, units];
            bytes.resize((usize::from(units) + 2) * 4, 7);
            bytes
        }
        135 | 139 | 140 => vec![if odd { next } else { 59 }, 0, 0, 0, 0, 0, 0, 0],
        _ => options_header(next, odd, rng),
    }
}

fn options_header(next: u8, odd: bool, rng: &mut StdRng) -> Vec<u8> {
    let units = u8::from(rng.gen_bool(0.2));
    let room = 6 + usize::from(units) * 8;
    let mut options = match rng.gen_range(0..4) {
        0 => vec![5, 2, 0, 0],
        1 => vec![4, 1, 3],
        2 => vec![0; rng.gen_range(0..4)],
        _ => Vec::new(),
    };
    if odd {
        let kind = pick(&[0xc2, 0xc9, 1, 5, 7], rng);
        options.extend([kind, rng.gen_range(0..8), 0]);
    }
    let left = room.saturating_sub(options.len());
    match left {
        0 => options.truncate(room),
        1 => options.push(0),
        _ => {
            options.extend([1, left as u8 - 2]);
            options.resize(room, 0);
        }
    }
    [vec![next, units], options].concat()
}
