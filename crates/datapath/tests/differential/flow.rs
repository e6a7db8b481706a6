//! A conversation as its two ends would have it, with lapses.

use crate::common::packets::{ACK, FIN, RST, SYN, icmp};
use crate::generate::odd_flags;
use crate::world::{FAR4, FAR6, OWN4, OWN6};
use lictor_types::Direction;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use Direction::{Egress, Ingress};

/// One end of a TCP conversation.
#[derive(Debug, Clone, Default)]
struct End {
    /// What it sends next.
    next: u32,
    /// What the other end lets it send.
    allowed: u32,
    scale: Option<u8>,
    window: u16,
    fin: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) vnic: usize,
    pub(crate) protocol: u8,
    pub(crate) local: &'static str,
    remote: &'static str,
    opener: Direction,
    ports: (u16, u16),
    ends: [End; 2],
    /// Of SCTP: what each side's packets carry.
    tags: [u32; 2],
    /// Packets so far.
    said: usize,
}

struct Segment {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    payload: usize,
    options: Vec<u8>,
}

fn other(direction: Direction) -> Direction {
    match direction {
        Egress => Ingress,
        Ingress => Egress,
    }
}

impl Flow {
    pub(crate) fn random(rng: &mut StdRng) -> Self {
        // The second vnic's table is soon full.
        let vnic = usize::from(rng.gen_bool(0.3));
        let v6_family = rng.gen_bool(0.4);
        let (own, far): ([&[&'static str]; 2], &[&'static str]) = match v6_family {
            true => ([&OWN6[0], &OWN6[1]], &FAR6),
            false => ([&OWN4[0], &OWN4[1]], &FAR4),
        };
        let pick = |from: &[&'static str], rng: &mut StdRng| *from.choose(rng).expect("some");
        let local = match rng.gen_bool(0.97) {
            true => pick(own[vnic], rng),
            false => pick(far, rng),
        };
        let remote = match rng.gen_range(0..20) {
            0 => pick(own[vnic], rng),
            1..8 => pick(own[1 - vnic], rng),
            8 => pick(far, rng),
            _ => pick(&far[..4], rng),
        };
        let icmp = if v6_family { 58 } else { 1 };
        let protocol = *[6, 6, 6, 6, 6, 17, 17, icmp, icmp, 47, 132, 132]
            .choose(rng)
            .expect("some");
        let client = *[4_000, 4_001, 60_000].choose(rng).expect("some");
        let server = *[22, 53, 80, 1_024].choose(rng).expect("some");
        let opener = *[Egress, Ingress].choose(rng).expect("two");
        Self {
            vnic,
            protocol,
            local,
            remote,
            opener,
            ports: (client, server),
            ends: Default::default(),
            tags: [1, 2],
            said: 0,
        }
    }

    /// Source and destination of a packet in this direction.
    pub(crate) fn ends(&self, direction: Direction) -> (&'static str, &'static str) {
        match direction {
            Egress => (self.local, self.remote),
            Ingress => (self.remote, self.local),
        }
    }

    fn ports(&self, direction: Direction) -> (u16, u16) {
        match direction == self.opener {
            true => self.ports,
            false => (self.ports.1, self.ports.0),
        }
    }

    /// What is said next, and by whom.
    pub(crate) fn next(&mut self, rng: &mut StdRng) -> (Direction, Vec<u8>) {
        let direction = match (self.said, rng.gen_bool(0.9)) {
            (0 | 2, true) | (1, false) => self.opener,
            (1, true) | (0 | 2, false) => other(self.opener),
            _ => *[Egress, Ingress].choose(rng).expect("two"),
        };
        let body = match self.protocol {
            6 => self.segment(direction, rng),
            132 => self.chunk(direction, rng),
            _ => self.sample(direction, rng),
        };
        self.said += 1;
        (direction, body)
    }

    /// Something that this flow may have said, without moving it.
    pub(crate) fn sample(&self, direction: Direction, rng: &mut StdRng) -> Vec<u8> {
        let ports = self.ports(direction);
        match self.protocol {
            6 => self.written(
                direction,
                &Segment {
                    flags: ACK,
                    seq: self.ends[direction as usize].next,
                    ack: self.ends[other(direction) as usize].next,
                    window: 1_000,
                    payload: 10,
                    options: Vec::new(),
                },
            ),
            17 => {
                let payload = rng.gen_range(0..30);
                let length = (8 + payload) as u16;
                let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
                bytes.extend(length.to_be_bytes());
                bytes.resize(8 + payload, 0);
                bytes
            }
            1 | 58 => {
                let asks = (direction == self.opener) != rng.gen_bool(0.03);
                let kind = match (self.protocol, asks) {
                    (1, true) => 8,
                    (1, false) => 0,
                    (_, true) => 128,
                    (_, false) => 129,
                };
                icmp(kind, 0, self.ports.0, &[0; 16])
            }
            132 => self.chunked(direction, (0, 0), (self.tags[direction as usize], 0)),
            _ => vec![0; rng.gen_range(0..40)],
        }
    }

    /// An SCTP packet of one chunk: its kind and flags, its tag and the tag that it wants.
    fn chunked(&self, direction: Direction, (kind, flags): (u8, u8), tags: (u32, u32)) -> Vec<u8> {
        let ports = self.ports(direction);
        let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        bytes.extend(tags.0.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([kind, flags, 0, 8]);
        bytes.extend(tags.1.to_be_bytes());
        bytes
    }

    /// What is said next of an association: mostly what belongs there.
    fn chunk(&mut self, direction: Direction, rng: &mut StdRng) -> Vec<u8> {
        let orderly = [1, 2, 10, 11];
        let kind = match orderly.get(self.said) {
            Some(kind) if rng.gen_bool(0.85) => *kind,
            _ => {
                let kinds = [0, 0, 0, 3, 4, 5, 1, 2, 10, 11, 6, 7, 8, 9, 14, 15, 192];
                *kinds.choose(rng).expect("some")
            }
        };
        let tag = match (kind, rng.gen_range(0..20)) {
            (1, 1..) => 0,
            (_, 0) => *[0, 1, 2, 3, 4, 5].choose(rng).expect("some"),
            (_, 1) => self.tags[other(direction) as usize],
            _ => self.tags[direction as usize],
        };
        let wanted = match kind {
            1 | 2 => *[0, 1, 2, 3, 4, 5, 6, 7].choose(rng).expect("some"),
            _ => 0,
        };
        // Sometimes the flow goes on as if it had begun anew.
        if wanted != 0 && (self.said < 2 || rng.gen_bool(0.7)) {
            self.tags[other(direction) as usize] = wanted;
        }
        let flags = u8::from(rng.gen_bool(0.2));
        let mut bytes = self.chunked(direction, (kind, flags), (tag, wanted));
        if rng.gen_bool(0.03) {
            bytes[15] = *[4, 5, 7].choose(rng).expect("some");
            bytes.truncate(12 + usize::from(bytes[15]));
        }
        bytes
    }

    fn written(&self, direction: Direction, segment: &Segment) -> Vec<u8> {
        let ports = self.ports(direction);
        let header = 20 + segment.options.len();
        let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        bytes.extend(segment.seq.to_be_bytes());
        bytes.extend(segment.ack.to_be_bytes());
        bytes.extend([(header as u8 / 4) << 4, segment.flags]);
        bytes.extend(segment.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&segment.options);
        // Bytes that would be a window scale, were they read as options.
        bytes.resize(header + segment.payload, 3);
        bytes
    }

    fn segment(&mut self, direction: Direction, rng: &mut StdRng) -> Vec<u8> {
        let mut segment = match self.said {
            0 => self.syn(direction, rng),
            // Both open at once.
            1 | 2 if rng.gen_bool(0.1) => self.syn(direction, rng),
            1 => self.syn_ack(direction, rng),
            2 if rng.gen_bool(0.1) => self.syn_ack(direction, rng),
            _ if rng.gen_bool(0.03) => self.syn(direction, rng),
            _ if rng.gen_bool(0.02) => self.syn_ack(direction, rng),
            _ => self.data(direction, rng),
        };
        if rng.gen_bool(0.15) {
            self.lapse(direction, &mut segment, rng);
            return self.written(direction, &segment);
        }
        self.advance(direction, &segment);
        self.written(direction, &segment)
    }

    fn syn(&mut self, direction: Direction, rng: &mut StdRng) -> Segment {
        let start = *[0, 1_000, u32::MAX - 50, 0x7fff_ff00]
            .choose(rng)
            .expect("some");
        let (options, scale) = options(rng);
        let end = &mut self.ends[direction as usize];
        *end = End {
            next: start,
            scale,
            ..End::default()
        };
        Segment {
            flags: SYN,
            seq: start,
            ack: 0,
            window: window(rng),
            payload: if rng.gen_bool(0.05) {
                rng.gen_range(0..20)
            } else {
                0
            },
            options,
        }
    }

    fn syn_ack(&mut self, direction: Direction, rng: &mut StdRng) -> Segment {
        Segment {
            flags: SYN | ACK,
            ack: self.ends[other(direction) as usize].next,
            ..self.syn(direction, rng)
        }
    }

    fn data(&mut self, direction: Direction, rng: &mut StdRng) -> Segment {
        let (end, peer) = (
            &self.ends[direction as usize],
            &self.ends[other(direction) as usize],
        );
        let answers_fin = peer.fin && !end.fin && rng.gen_bool(0.5);
        let flags = match rng.gen_range(0..100) {
            _ if answers_fin => FIN | ACK,
            0..8 => FIN | ACK,
            8..11 => RST,
            11..13 => RST | ACK,
            _ => ACK,
        };
        Segment {
            flags,
            seq: end.next,
            ack: peer.next,
            window: window(rng),
            payload: *[0, 0, 1, 100, 1_400].choose(rng).expect("some"),
            options: match rng.gen_range(0..10) {
                0 => TIMESTAMPS.to_vec(),
                1 => selective(peer.next, rng),
                2 => options(rng).0,
                _ => Vec::new(),
            },
        }
    }

    fn advance(&mut self, direction: Direction, segment: &Segment) {
        let length = segment.payload as u32
            + u32::from(segment.flags & SYN != 0)
            + u32::from(segment.flags & FIN != 0);
        let end = &mut self.ends[direction as usize];
        end.next = segment.seq.wrapping_add(length);
        end.window = segment.window;
        end.fin |= segment.flags & FIN != 0;
        let scale = match segment.flags & SYN {
            0 => end.scale.unwrap_or(0),
            _ => 0,
        };
        let advertised = (u32::from(segment.window) << scale).max(1);
        if segment.flags & ACK != 0 {
            let peer = &mut self.ends[other(direction) as usize];
            peer.allowed = segment.ack.wrapping_add(advertised);
        }
    }

    /// A retransmission, a number at or beyond a bound, flags that do not belong.
    fn lapse(&self, direction: Direction, segment: &mut Segment, rng: &mut StdRng) {
        let (end, peer) = (
            &self.ends[direction as usize],
            &self.ends[other(direction) as usize],
        );
        let near = rng.gen_range(0..5u32).wrapping_sub(2);
        match rng.gen_range(0..11) {
            0 => segment.seq = segment.seq.wrapping_sub(rng.gen_range(1..2_000)),
            1 => segment.seq = end.allowed.wrapping_add(near),
            2 => {
                let reaches = [1_000, 1, 65_535, 66_000, 131_070, 132_000];
                let reach = *reaches.choose(rng).expect("some");
                segment.seq = end.next.wrapping_sub(reach).wrapping_add(near);
            }
            3 => segment.ack = peer.next.wrapping_add(near),
            4 => {
                let lag = *[66_000, 132_000].choose(rng).expect("some");
                segment.ack = peer.next.wrapping_sub(lag).wrapping_add(near);
            }
            // Only its blocks are fresh.
            10 => {
                segment.ack = peer.next.wrapping_sub(rng.gen_range(0..140_000));
                segment.options = selective(peer.next, rng);
            }
            5 => segment.ack = rng.r#gen(),
            6 => segment.seq = rng.r#gen(),
            7 => {
                segment.flags = *[RST, RST | ACK].choose(rng).expect("some");
                segment.seq = end.next.wrapping_add(near);
            }
            8 => {
                segment.flags = RST;
                segment.seq = peer.allowed.wrapping_sub(rng.gen_range(0..1_100));
            }
            _ => segment.flags = odd_flags(rng),
        }
    }
}

fn window(rng: &mut StdRng) -> u16 {
    *[0, 1, 500, 1_000, 29_200, 65_535]
        .choose(rng)
        .expect("some")
}

/// As RFC 7323, appendix A, lays them out.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// Selective acknowledgements of blocks around the end of what was sent, with or without time
/// stamps before them.
fn selective(sent: u32, rng: &mut StdRng) -> Vec<u8> {
    let stamped = rng.gen_bool(0.5);
    let mut bytes = if stamped { TIMESTAMPS.to_vec() } else { vec![] };
    let blocks = rng.gen_range(0..=if stamped { 3 } else { 4 });
    bytes.extend([1, 1, 5, 2 + 8 * blocks]);
    for _ in 0..blocks {
        let behind = *[0, 0, 1, 100, 1_000, 70_000].choose(rng).expect("some");
        let right = sent.wrapping_sub(behind);
        let right = right.wrapping_add(u32::from(rng.gen_bool(0.05)));
        bytes.extend(right.wrapping_sub(100).to_be_bytes());
        bytes.extend(right.to_be_bytes());
    }
    if rng.gen_bool(0.05)
        && let Some(byte) = bytes.choose_mut(rng)
    {
        *byte = rng.r#gen();
    }
    bytes
}

/// Options of a SYN, and the scale that they offer if they are read as they should be.
fn options(rng: &mut StdRng) -> (Vec<u8>, Option<u8>) {
    let mut bytes = Vec::new();
    let mut scale = None;
    for _ in 0..rng.gen_range(0..6) {
        match rng.gen_range(0..8) {
            0 => bytes.extend([2, 4, 5, 180]),
            1 => bytes.extend([4, 2]),
            2 => bytes.extend([8, 10, 0, 0, 0, 0, 0, 0, 0, 0]),
            3 => bytes.extend([1, 1, 1]),
            4 | 5 => {
                let shift = *[0, 2, 7, 14, 15, 200].choose(rng).expect("some");
                bytes.extend([3, 3, shift]);
                scale = Some(shift.min(14));
            }
            _ => bytes.push(1),
        }
    }
    bytes.truncate(40);
    let full = bytes.len().next_multiple_of(4);
    let fill = *[0, 1, 3].choose(rng).expect("some");
    bytes.resize(full, fill);
    if rng.gen_bool(0.05)
        && let Some(byte) = bytes.choose_mut(rng)
    {
        *byte = rng.r#gen();
    }
    (bytes, scale)
}
