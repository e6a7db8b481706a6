//! Datagrams in pieces, most of them as a sender makes them.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A piece of a datagram.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    /// In units of eight bytes.
    offset: usize,
    more: bool,
    bytes: Vec<u8>,
}

/// Cuts a datagram; some pieces come twice, too early, or overlap.
pub(crate) fn cut(body: &[u8], rng: &mut StdRng) -> Vec<Piece> {
    let id = rng.gen_range(1..4);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < body.len() {
        // Mostly whole transport headers first.
        let units = match (at, rng.gen_bool(0.92)) {
            (0, true) => rng.gen_range(5..8),
            _ => rng.gen_range(1..6),
        };
        let end = (at + units * 8).min(body.len());
        pieces.push(Piece {
            id,
            offset: at / 8,
            more: end < body.len(),
            bytes: body[at..end].to_vec(),
        });
        at = end;
    }
    if rng.gen_bool(0.25) {
        spoil(&mut pieces, rng);
    }
    pieces
}

fn spoil(pieces: &mut Vec<Piece>, rng: &mut StdRng) {
    let Some(index) = (0..pieces.len()).collect::<Vec<_>>().choose(rng).copied() else {
        return;
    };
    match rng.gen_range(0..7) {
        0 => drop(pieces.remove(index)),
        1 => pieces.push(pieces[index].clone()),
        2 => pieces.swap(0, index),
        3 => pieces[index].offset = pieces[index].offset.saturating_sub(1),
        4 => pieces[index].more = !pieces[index].more,
        5 => pieces[index].offset = *[0, 1, 2, 8_180, 8_191].choose(rng).expect("some"),
        _ => {
            let less = pieces[index]
                .bytes
                .len()
                .saturating_sub(rng.gen_range(1..9));
            pieces[index].bytes.truncate(less);
        }
    }
}

impl Piece {
    /// The IPv4 packet, if it had no fragment fields, with them.
    pub(crate) fn ipv4(&self, packet: &mut [u8]) {
        let place = self.offset as u16 | if self.more { 0x2000 } else { 0 };
        packet[4..6].copy_from_slice(&(self.id as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&place.to_be_bytes());
    }

    /// Protocol and body of the IPv6 packet.
    pub(crate) fn ipv6(&self, protocol: u8) -> (u8, Vec<u8>) {
        let place = ((self.offset as u16) << 3 | u16::from(self.more)).to_be_bytes();
        let mut body = vec![protocol, 0, place[0], place[1]];
        body.extend(self.id.to_be_bytes());
        body.extend(&self.bytes);
        (44, body)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}
