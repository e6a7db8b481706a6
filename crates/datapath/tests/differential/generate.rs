//! Random cases: mostly conversations that make sense, with what may go wrong in them.

use crate::common::packets::{ACK, FIN, RST, SYN, arp, ether, icmp, nd, v4, v6};
use crate::dhcp;
use crate::flow::Flow;
use crate::headers::{extended, tagged, with_options};
use crate::pieces::cut;
use crate::world::{self, FAR4, FAR6, OWN4, OWN6, STRANGER, VIRTUAL, VNICS};
use lictor_types::{Direction, HostTables, Mac, Timeouts, VnicState};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::fmt;

use Direction::{Egress, Ingress};

/// Conversations that a case keeps going at once.
const FLOWS_MAX: usize = 16;
/// Time-outs and some of their parts, in seconds: multiples of five.
const CLOCK_STEPS: [u64; 13] = [5, 5, 5, 5, 10, 10, 25, 30, 60, 175, 240, 600, 7_435];
/// What test_run refuses to run on is left out: no byte after the Ethernet header, or fewer than
/// the IP header that the EtherType promises (EINVAL since about Linux 6.18).
fn frame_min(bytes: &[u8]) -> usize {
    match bytes[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 14 + 1,
    }
}

/// What a move keeps of TCP windows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory {
    Kept,
    Lost,
}

#[derive(Clone)]
pub(crate) enum Step {
    Packet {
        vnic: usize,
        direction: Direction,
        /// By which local vnic's device it came in.
        came_by: Option<usize>,
        bytes: Vec<u8>,
    },
    Clock {
        seconds: u64,
    },
    Load {
        tables: usize,
    },
    State {
        vnic: usize,
        state: VnicState,
    },
    Sweep {
        vnic: usize,
    },
    Terms {
        vnic: usize,
        /// Seconds from now; none: without a lease.
        lease: Option<u64>,
        adopt: u64,
        stale: bool,
    },
    Timeouts {
        timeouts: Timeouts,
    },
    Handover {
        vnic: usize,
        memory: Memory,
    },
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet {
                vnic,
                direction,
                came_by,
                bytes,
            } => {
                let by = came_by.map(|other| VNICS[other].vnic);
                write!(f, "vnic {} {direction} by {by:?} ", VNICS[*vnic].vnic)?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Clock { seconds } => write!(f, "clock + {seconds} s"),
            Self::Load { tables } => write!(f, "load tables {tables}"),
            Self::State { vnic, state } => write!(f, "vnic {} {state}", VNICS[*vnic].vnic),
            Self::Timeouts { timeouts } => write!(f, "{timeouts:?}"),
            Self::Terms {
                vnic,
                lease,
                adopt,
                stale,
            } => {
                let vnic = VNICS[*vnic].vnic;
                write!(f, "vnic {vnic} lease {lease:?} adopt {adopt} stale {stale}")
            }
            Self::Sweep { vnic } => write!(f, "vnic {} sweep", VNICS[*vnic].vnic),
            Self::Handover { vnic, memory } => {
                write!(
                    f,
                    "vnic {} handed over, windows {memory:?}",
                    VNICS[*vnic].vnic
                )
            }
        }
    }
}

/// A sequence of steps over a few tables, of which the first are loaded at the start. The model's
/// tables are the same, unless a test plants a difference.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) tables: Vec<HostTables>,
    pub(crate) model_tables: Vec<HostTables>,
    pub(crate) steps: Vec<Step>,
}

/// A case by its seed.
pub(crate) fn case(seed: u64, steps: usize) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let first = world::tables(&mut rng);
    let second = world::successor(&first, &mut rng);
    let third = world::successor(&second, &mut rng);
    let tables = vec![first, second, third];
    let steps = Generator::new(rng).steps(steps);
    Case {
        model_tables: tables.clone(),
        tables,
        steps,
    }
}

/// A case before any tables are loaded.
pub(crate) fn case_without_release(seed: u64, steps: usize) -> Case {
    let mut case = case(seed, steps);
    case.steps.retain(|step| !matches!(step, Step::Load { .. }));
    (case.tables, case.model_tables) = (Vec::new(), Vec::new());
    case
}

struct Generator {
    rng: StdRng,
    flows: Vec<Flow>,
}

/// A frame on its way.
struct Sent {
    vnic: usize,
    direction: Direction,
    bytes: Vec<u8>,
}

impl Generator {
    fn new(rng: StdRng) -> Self {
        Self {
            rng,
            flows: Vec::new(),
        }
    }

    fn steps(mut self, count: usize) -> Vec<Step> {
        let mut steps = Vec::with_capacity(count);
        while steps.len() < count {
            if self.rng.gen_bool(0.03) {
                self.circumstance(&mut steps);
                continue;
            }
            self.send(&mut steps);
        }
        steps
    }

    /// A packet, sometimes spoilt on its way, or one in pieces.
    fn send(&mut self, steps: &mut Vec<Step>) {
        if !self.flows.is_empty() && self.rng.gen_bool(0.04) {
            return self.send_in_pieces(steps);
        }
        let sent = self.packet();
        self.put(sent, steps);
    }

    /// What a conversation says next, or an error about it; now and then time passes in between, or
    /// other tables are loaded.
    fn send_in_pieces(&mut self, steps: &mut Vec<Step>) {
        let index = self.rng.gen_range(0..self.flows.len());
        let flow = &mut self.flows[index];
        let (direction, mut body) = flow.next(&mut self.rng);
        let (vnic, protocol, ends) = (flow.vnic, flow.protocol, flow.ends(direction));
        body.resize(body.len() + self.rng.gen_range(0..120), 3);
        if self.rng.gen_bool(0.03) {
            body = nd(135, "fd00::1", 1, VNICS[vnic].mac);
            body.resize(60, 0);
        }
        for piece in cut(&body, &mut self.rng) {
            let mut sent = match ends.0.contains(':') {
                true => self.frame(vnic, direction, ends, piece.ipv6(protocol)),
                false => self.frame(vnic, direction, ends, (protocol, piece.bytes())),
            };
            if !ends.0.contains(':') {
                piece.ipv4(&mut sent.bytes[14..]);
            }
            if self.rng.gen_bool(0.02) {
                steps.push(Step::Clock { seconds: 30 });
            }
            if self.rng.gen_bool(0.02) {
                let tables = self.rng.gen_range(0..3);
                steps.push(Step::Load { tables });
            }
            self.put(sent, steps);
        }
    }

    fn put(&mut self, sent: Sent, steps: &mut Vec<Step>) {
        let Sent {
            vnic,
            direction,
            mut bytes,
        } = sent;
        if self.rng.gen_bool(0.04) {
            bytes = tagged(&bytes, &mut self.rng);
        }
        if self.rng.gen_bool(0.06) {
            self.spoil(&mut bytes);
        }
        bytes.resize(bytes.len().max(14 + 1), 0);
        bytes.resize(bytes.len().max(frame_min(&bytes)), 0);
        let other = 1 - vnic;
        let came_by = match direction {
            // What speaks of the other vnic mostly comes from it.
            Ingress if self.rng.gen_bool(0.97) == world::speaks_of(other, &bytes) => Some(other),
            _ => None,
        };
        steps.push(Step::Packet {
            vnic,
            direction,
            came_by,
            bytes,
        });
    }

    /// Time, tables, state. A vnic that is closed opens again soon.
    fn circumstance(&mut self, steps: &mut Vec<Step>) {
        let vnic = self.rng.gen_range(0..VNICS.len());
        match self.rng.gen_range(0..22) {
            20.. => self.terms(vnic, steps),
            0..10 => steps.push(Step::Clock {
                seconds: *CLOCK_STEPS.choose(&mut self.rng).expect("there are some"),
            }),
            // A load takes as long as thousands of packets.
            10 if self.rng.gen_bool(0.4) => steps.push(Step::Load {
                tables: self.rng.gen_range(0..3),
            }),
            10..14 => {
                let states = [VnicState::Hold, VnicState::HandedOver, VnicState::Cut];
                let state = *states.choose(&mut self.rng).expect("there are some");
                steps.push(Step::State { vnic, state });
                for _ in 0..3 {
                    self.send(steps);
                }
                let state = VnicState::Open;
                steps.push(Step::State { vnic, state });
            }
            14..17 => steps.push(Step::Sweep { vnic }),
            17 => steps.push(Step::Timeouts {
                timeouts: self.timeouts(),
            }),
            _ => steps.push(Step::Handover {
                vnic,
                memory: match self.rng.gen_bool(0.5) {
                    true => Memory::Kept,
                    false => Memory::Lost,
                },
            }),
        }
    }

    /// Mostly such that conversations may begin; where none may, for a few packets.
    fn terms(&mut self, vnic: usize, steps: &mut Vec<Step>) {
        let terms = Step::Terms {
            vnic,
            lease: self.rng.gen_bool(0.5).then(|| self.rng.gen_range(0..120)),
            adopt: *[0, 0, 30, 600].choose(&mut self.rng).expect("some"),
            stale: self.rng.gen_bool(0.2),
        };
        steps.push(terms);
        for _ in 0..self.rng.gen_range(1..20) {
            self.send(steps);
        }
        if self.rng.gen_bool(0.7) {
            steps.push(Step::Terms {
                vnic,
                lease: None,
                adopt: *[0, 30, 600].choose(&mut self.rng).expect("some"),
                stale: false,
            });
        }
    }

    /// Multiples of five seconds, as all time-outs are, or those of a host that sets none.
    fn timeouts(&mut self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        for (name, _) in Timeouts::default().named() {
            if self.rng.gen_bool(0.4) {
                let seconds = [5, 10, 30, 60, 240, 600];
                timeouts.set(name, *seconds.choose(&mut self.rng).expect("some"));
            }
        }
        timeouts
    }

    fn packet(&mut self) -> Sent {
        match self.rng.gen_range(0..100) {
            0..7 => {
                let flow = Flow::random(&mut self.rng);
                if self.flows.len() >= FLOWS_MAX {
                    let oldest = self.rng.gen_range(0..self.flows.len());
                    self.flows.swap_remove(oldest);
                }
                self.flows.push(flow);
                self.go_on(self.flows.len() - 1)
            }
            7..76 if !self.flows.is_empty() => {
                let flow = self.rng.gen_range(0..self.flows.len());
                self.go_on(flow)
            }
            76..84 if !self.flows.is_empty() => self.error(),
            84..88 => self.arp(),
            88..92 => self.nd(),
            92..94 => self.dhcp(),
            94..96 => self.icmp_other(),
            _ => self.oddity(),
        }
    }

    fn go_on(&mut self, index: usize) -> Sent {
        let flow = &mut self.flows[index];
        let (direction, body) = flow.next(&mut self.rng);
        let protocol = flow.protocol;
        let (vnic, ends) = (flow.vnic, flow.ends(direction));
        let body = match ends.0.contains(':') && self.rng.gen_bool(0.1) {
            true => extended(protocol, &body, &mut self.rng),
            false => (protocol, body),
        };
        self.frame(vnic, direction, ends, body)
    }

    /// An IP packet in its frame.
    fn frame(
        &mut self,
        vnic: usize,
        direction: Direction,
        ends: (&str, &str),
        (protocol, body): (u8, Vec<u8>),
    ) -> Sent {
        let bytes = match ends.0.contains(':') {
            true => {
                let parse = |text: &str| text.parse().expect("an address");
                let packet = v6(parse(ends.0), parse(ends.1), protocol, &body);
                self.link(vnic, direction, 0x86dd, packet)
            }
            false => {
                let parse = |text: &str| text.parse().expect("an address");
                let mut packet = v4(parse(ends.0), parse(ends.1), protocol, &body);
                if self.rng.gen_bool(0.02) {
                    packet = with_options(&packet, &mut self.rng);
                }
                self.link(vnic, direction, 0x0800, packet)
            }
        };
        Sent {
            vnic,
            direction,
            bytes,
        }
    }

    fn link(&mut self, vnic: usize, direction: Direction, kind: u16, body: Vec<u8>) -> Vec<u8> {
        let own = VNICS[vnic].mac;
        let other = match self.rng.gen_bool(0.98) {
            true => STRANGER,
            false => Mac([0xff; 6]),
        };
        let near = match self.rng.gen_range(0..200) {
            0..3 => VNICS[1 - vnic].mac,
            3..6 => VIRTUAL,
            _ => own,
        };
        match direction {
            Egress => ether(other, near, kind, &body),
            Ingress => {
                let to = match self.rng.gen_range(0..100) {
                    0..2 => Mac([0xff; 6]),
                    2..4 => Mac([0x33, 0x33, 0, 0, 0, 1]),
                    4 => Mac([0x33, 0x33, 0xff, 0, 0, 1]),
                    5 => Mac([1, 0, 0x5e, 0, 0, 251]),
                    _ => near,
                };
                ether(to, other, kind, &body)
            }
        }
    }

    /// An ICMP error about a conversation, sometimes about what was never sent.
    fn error(&mut self) -> Sent {
        let index = self.rng.gen_range(0..self.flows.len());
        let inner_direction = *[Egress, Ingress].choose(&mut self.rng).expect("two");
        let flow = &mut self.flows[index];
        let vnic = flow.vnic;
        let v6_family = flow.local.contains(':');
        let ends = flow.ends(inner_direction);
        let protocol = flow.protocol;
        let body = flow.sample(inner_direction, &mut self.rng);
        let mut quoted = self
            .frame(vnic, inner_direction, ends, (protocol, body))
            .bytes[14..]
            .to_vec();
        if self.rng.gen_bool(0.2) {
            self.spoil(&mut quoted);
        }
        if self.rng.gen_bool(0.1) {
            quoted.truncate(self.rng.gen_range(0..=quoted.len().min(60)));
        }
        let kinds: &[u8] = if v6_family {
            &[1, 2, 3, 4]
        } else {
            &[3, 11, 12]
        };
        let kind = *kinds.choose(&mut self.rng).expect("some");
        let body = icmp(kind, self.rng.gen_range(0..5), 0, &quoted);
        let direction = match (inner_direction, self.rng.gen_bool(0.95)) {
            (Egress, true) | (Ingress, false) => Ingress,
            _ => Egress,
        };
        // A router may complain instead of the addressee, and some complain to others.
        let (mut from, mut to) = (ends.1, ends.0);
        let far: &[&'static str] = if v6_family { &FAR6 } else { &FAR4 };
        if self.rng.gen_bool(0.3) {
            from = far.choose(&mut self.rng).expect("some");
        }
        if self.rng.gen_bool(0.1) {
            to = far.choose(&mut self.rng).expect("some");
        }
        let mut sent = self.frame(
            vnic,
            direction,
            (from, to),
            (if v6_family { 58 } else { 1 }, body),
        );
        // The IP length may leave part of the quote outside.
        if self.rng.gen_bool(0.05) {
            let at = if v6_family { 14 + 5 } else { 14 + 3 };
            sent.bytes[at] = sent.bytes[at].saturating_sub(self.rng.gen_range(1..40));
        }
        sent
    }

    fn dhcp(&mut self) -> Sent {
        let (vnic, direction) = self.side();
        let (source, destination, body) = dhcp::message(vnic, direction, &mut self.rng);
        let mut sent = self.frame(vnic, direction, (&source, &destination), (17, body));
        if direction == Ingress && destination == "ff02::1:2" && self.rng.gen_bool(0.8) {
            sent.bytes[..6].copy_from_slice(&[0x33, 0x33, 0, 1, 0, 2]);
        }
        sent
    }

    fn arp(&mut self) -> Sent {
        let (vnic, direction) = self.side();
        let own = OWN4[vnic].choose(&mut self.rng).expect("some");
        let far = ["10.0.0.9", "10.0.0.2", "10.0.0.1", "0.0.0.0", "192.0.2.7"];
        let far = far.choose(&mut self.rng).expect("some");
        let (mine, other) = ((VNICS[vnic].mac, *own), (STRANGER, *far));
        let pairs = [(mine, other), (other, mine), (mine, mine), (other, other)];
        let weights = match direction {
            Egress => [8, 1, 2, 1],
            Ingress => [1, 8, 1, 3],
        };
        let choice = rand::distributions::WeightedIndex::new(weights).expect("positive");
        let (mut sender, mut target) = pairs[self.rng.sample(choice)];
        if self.rng.gen_bool(0.1) {
            sender.1 = "0.0.0.0";
        }
        if self.rng.gen_bool(0.1) {
            target.1 = sender.1;
        }
        let bytes = match self.rng.gen_bool(0.3) {
            true => {
                let operation = *[3, 3, 3, 4].choose(&mut self.rng).expect("some");
                let body = arp(operation, (sender.0, "0.0.0.0"), (sender.0, "0.0.0.0"));
                self.link(vnic, direction, 0x8035, body)
            }
            false => {
                let operation = *[1, 1, 2, 2, 3].choose(&mut self.rng).expect("some");
                self.link(vnic, direction, 0x0806, arp(operation, sender, target))
            }
        };
        Sent {
            vnic,
            direction,
            bytes,
        }
    }

    fn nd(&mut self) -> Sent {
        let (vnic, direction) = self.side();
        let link_local = VNICS[vnic].mac.link_local().to_string();
        let names = [
            OWN6[vnic][0],
            OWN6[vnic][1],
            link_local.as_str(),
            OWN6[1 - vnic][0],
            "fe80::99",
            "::",
            "ff02::1",
            "ff02::1:ff00:1",
            "ff02::1:ff00:9",
        ];
        let mut name = |weights: [u32; 9]| {
            let choice = rand::distributions::WeightedIndex::new(weights).expect("positive");
            names[self.rng.sample(choice)]
        };
        let (own, far) = ([6, 2, 2, 1, 1, 2, 0, 0, 0], [1, 1, 1, 6, 3, 1, 0, 0, 0]);
        let (source, mut target) = match direction {
            Egress => (name(own), name([3, 2, 2, 4, 1, 0, 1, 0, 0])),
            Ingress => (name(far), name([5, 2, 2, 3, 1, 0, 1, 0, 0])),
        };
        let destination = name([2, 1, 1, 2, 1, 0, 3, 3, 1]);
        let mapped = format!("::ffff:{}", OWN4[vnic][0]);
        if self.rng.gen_bool(0.05) {
            target = &mapped;
        }
        let mac = match self.rng.gen_bool(0.8) == (direction == Egress) {
            true => VNICS[vnic].mac,
            false => STRANGER,
        };
        let kind = *[133, 134, 135, 135, 135, 136, 136, 136, 137]
            .choose(&mut self.rng)
            .expect("some");
        let option = *[1, 2, 14, 5].choose(&mut self.rng).expect("some");
        let mut body = nd(kind, target, option, mac);
        if matches!(kind, 133 | 134) {
            // No target: an options list right after the header.
            body.drain(8..24);
        }
        self.nd_options(&mut body);
        let ends = (source.to_owned(), destination.to_owned());
        let mut sent = self.frame(vnic, direction, (&ends.0, &ends.1), (58, body));
        let to = match self.rng.gen_range(0..5) {
            0 => [0x33, 0x33, 0, 0, 0, 1],
            4 => [0x33, 0x33, 0, 0, 0, 2],
            1 | 2 => {
                let octets = ends
                    .1
                    .parse::<std::net::Ipv6Addr>()
                    .expect("an address")
                    .octets();
                [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
            }
            _ => VNICS[vnic].mac.0,
        };
        if direction == Ingress {
            sent.bytes[..6].copy_from_slice(&to);
        }
        if self.rng.gen_bool(0.05) {
            sent.bytes[14 + 7] = 64;
        }
        sent
    }

    /// More options, none, or a last one that is longer than what is there.
    fn nd_options(&mut self, body: &mut Vec<u8>) {
        match self.rng.gen_range(0..12) {
            0 => body.truncate(body.len() - 8),
            1 => body.truncate(body.len() - self.rng.gen_range(1..8)),
            2 | 3 => {
                for _ in 0..self.rng.gen_range(1..8) {
                    body.extend([14, 1, 0, 0, 0, 0, 0, 0]);
                }
            }
            4 => body.extend([14, 2, 0, 0, 0, 0, 0, 0]),
            5 => body.extend([14, 0, 0, 0, 0, 0, 0, 0]),
            _ => {}
        }
    }

    fn side(&mut self) -> (usize, Direction) {
        let direction = *[Egress, Ingress].choose(&mut self.rng).expect("two");
        (self.rng.gen_range(0..VNICS.len()), direction)
    }

    /// A random pair of ends, sometimes not the vnic's own.
    fn ends(&mut self, vnic: usize, direction: Direction) -> (&'static str, &'static str) {
        let v6_family = self.rng.gen_bool(0.5);
        let (own, far): (&[&'static str], &[&'static str]) = match v6_family {
            true => (&OWN6[vnic], &FAR6),
            false => (&OWN4[vnic], &FAR4),
        };
        let near = match self.rng.gen_bool(0.9) {
            true => own.choose(&mut self.rng).expect("some"),
            false => far.choose(&mut self.rng).expect("some"),
        };
        let other = far.choose(&mut self.rng).expect("some");
        match direction {
            Egress => (near, other),
            Ingress => (other, near),
        }
    }

    /// Messages that nobody answers, and answers that nobody asked for.
    fn icmp_other(&mut self) -> Sent {
        let (vnic, direction) = self.side();
        let ends = self.ends(vnic, direction);
        let v6_family = ends.0.contains(':');
        let kinds: &[u8] = if v6_family {
            &[129, 130, 131, 143, 134]
        } else {
            &[0, 5, 9, 13]
        };
        let kind = *kinds.choose(&mut self.rng).expect("some");
        let body = icmp(kind, 0, self.rng.gen_range(0..4), &[0; 8]);
        self.frame(
            vnic,
            direction,
            ends,
            (if v6_family { 58 } else { 1 }, body),
        )
    }

    /// What hardly anyone sends.
    fn oddity(&mut self) -> Sent {
        let (vnic, direction) = self.side();
        let ends = self.ends(vnic, direction);
        let v6_family = ends.0.contains(':');
        let mut bytes: Vec<u8> = (0..self.rng.gen_range(1..80))
            .map(|_| self.rng.r#gen())
            .collect();
        match self.rng.gen_range(0..7) {
            0 => {
                let kinds = [
                    0x8100, 0x88a8, 0x88cc, 0x8863, 0x0800, 0x86dd, 0x0806, 0x8035, 0,
                ];
                let kind = *kinds.choose(&mut self.rng).expect("some");
                let bytes = self.link(vnic, direction, kind, bytes);
                Sent {
                    vnic,
                    direction,
                    bytes,
                }
            }
            1 => {
                // A fragment, or what looks like one.
                let mut sent = self.frame(vnic, direction, ends, (17, vec![0; 24]));
                if v6_family {
                    sent.bytes[14 + 6] = 44;
                } else {
                    sent.bytes[14 + 6] =
                        *[0x20, 0x40, 0x80, 0].choose(&mut self.rng).expect("some");
                    sent.bytes[14 + 7] = self.rng.gen_range(0..3);
                }
                sent
            }
            2 => {
                let protocol = *[0, 2, 43, 44, 50, 51, 59, 60, 132, 135, 136, 139, 140]
                    .choose(&mut self.rng)
                    .expect("some");
                self.frame(vnic, direction, ends, (protocol, bytes))
            }
            3 if v6_family => {
                bytes.truncate(20);
                let protocol = *[6, 17, 58, 47, 59].choose(&mut self.rng).expect("some");
                let body = extended(protocol, &bytes, &mut self.rng);
                self.frame(vnic, direction, ends, body)
            }
            4 => {
                // IPv4 options, sometimes beyond the packet.
                let mut sent = self.frame(vnic, direction, ends, (47, vec![1; 24]));
                if !v6_family {
                    sent.bytes[14] = 0x40 | self.rng.gen_range(4..=15);
                }
                sent
            }
            5 => {
                let protocol = *[1, 6, 17, 58].choose(&mut self.rng).expect("some");
                bytes.truncate(self.rng.gen_range(0..24));
                self.frame(vnic, direction, ends, (protocol, bytes))
            }
            _ => {
                let from = [
                    "127.0.0.1",
                    "224.0.0.1",
                    "240.0.0.1",
                    "0.0.0.0",
                    "255.255.255.255",
                ];
                let from6 = ["::1", "ff02::1", "::ffff:10.0.0.1", "::"];
                let from = match v6_family {
                    true => from6.choose(&mut self.rng).expect("some"),
                    false => from.choose(&mut self.rng).expect("some"),
                };
                self.frame(
                    vnic,
                    direction,
                    (from, ends.1),
                    (17, vec![0, 9, 0, 53, 0, 8, 0, 0]),
                )
            }
        }
    }

    /// Flips, cuts, adds or overwrites.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self.rng.gen_range(0..6) {
            0 => bytes.truncate(self.rng.gen_range(0..bytes.len())),
            1 => {
                let more = self.rng.gen_range(1..30);
                bytes.extend((0..more).map(|_| self.rng.r#gen::<u8>()));
            }
            2 => {
                let at = self.rng.gen_range(0..bytes.len());
                bytes[at] = self.rng.r#gen();
            }
            _ => {
                for _ in 0..self.rng.gen_range(1..4) {
                    let at = self.rng.gen_range(0..bytes.len());
                    bytes[at] ^= 1 << self.rng.gen_range(0..8);
                }
            }
        }
    }
}

/// Flags of a TCP segment that seldom make sense.
pub(crate) fn odd_flags(rng: &mut StdRng) -> u8 {
    let odd = [
        0,
        SYN | FIN,
        SYN | RST,
        FIN,
        FIN | RST | ACK,
        SYN | ACK,
        SYN,
        RST,
        RST | ACK,
        0x08,
        0x3f,
        ACK | 0xc8,
    ];
    *odd.choose(rng).expect("there are some")
}
