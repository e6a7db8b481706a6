//! Conversations as tables of packets: what passes, what it is called otherwise, and where the
//! conversation stands. Each table is run on the loaded program and on the model.

mod common;

use common::packets::{ACK, BACK, FIN, OUT, RST, SYN, icmp, ip, udp};
use common::{Bench, VNIC, model, privileged};
use lictor_datapath::Datapath;
use lictor_model::{Firewall, Frame};
use lictor_types::{Direction, TcpState, Timeouts};
use std::time::Duration;

use Direction::{Egress, Ingress};
use TcpState::{Closed, Established, FinWait, SynReceived, TimeWait, Unreplied};

const NOTHING: &[u8] = &[];
const SCALE_7: &[u8] = &[1, 3, 3, 7];
const NEW: &str = "allow policy-allow";
const PASSES: &str = "allow session";
const OUTSIDE: &str = "deny tcp-window";
const INVALID: &str = "deny tcp-invalid";

/// A TCP segment between the guest's port 4000 and its peer's port 80, or the other way round.
#[derive(Clone, Copy)]
struct Segment {
    from: Direction,
    /// The guest's port and its peer's.
    ports: [u16; 2],
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    payload: usize,
    options: &'static [u8],
}

const fn segment(from: Direction, flags: u8, seq: u32, ack: u32) -> Segment {
    Segment {
        from,
        ports: [4_000, 80],
        flags,
        seq,
        ack,
        window: 1_000,
        payload: 0,
        options: NOTHING,
    }
}

/// From the guest.
const fn out(flags: u8, seq: u32, ack: u32) -> Segment {
    segment(Egress, flags, seq, ack)
}

/// Toward the guest.
const fn back(flags: u8, seq: u32, ack: u32) -> Segment {
    segment(Ingress, flags, seq, ack)
}

impl Segment {
    /// The guest is the server.
    const fn served(self) -> Self {
        Self {
            ports: [80, 4_000],
            ..self
        }
    }

    const fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    const fn payload(self, payload: usize) -> Self {
        Self { payload, ..self }
    }

    const fn options(self, options: &'static [u8]) -> Self {
        Self { options, ..self }
    }

    fn frame(&self) -> Vec<u8> {
        let (ends, ports) = match self.from {
            Egress => (OUT, self.ports),
            Ingress => (BACK, [self.ports[1], self.ports[0]]),
        };
        let mut bytes = ports.map(u16::to_be_bytes).concat();
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.options);
        bytes.resize(bytes.len() + self.payload, 0);
        ip(self.from, ends, 6, &bytes)
    }
}

/// One line of a table.
enum Line {
    /// A packet and its verdict.
    Packet(&'static str, Direction, Vec<u8>, &'static str),
    /// Where the only session stands; none is left otherwise.
    Stands(Option<TcpState>),
    /// Time passes, in seconds.
    Waits(u64),
    /// The sessions go to another host, which is not told the windows.
    Moves,
}

use Line::{Moves, Packet, Stands, Waits};

fn tcp(what: &'static str, segment: Segment, expected: &'static str) -> Line {
    Packet(what, segment.from, segment.frame(), expected)
}

const fn stands(state: TcpState) -> Line {
    Stands(Some(state))
}

/// Moves a firewall: what one lets out, it takes in again without windows.
fn forget(records: &mut [lictor_types::SessionRecord]) {
    for record in records {
        record.tcp = Default::default();
    }
}

fn on_model(lines: &[Line]) {
    let (mut firewall, mut now): (Firewall, _) = (model(), Duration::ZERO);
    for (number, line) in lines.iter().enumerate() {
        match line {
            Packet(what, direction, bytes, expected) => {
                let answer = firewall.judge(&Frame {
                    direction: *direction,
                    at: now,
                    bytes,
                    came_by: None,
                });
                let found = format!("{} {}", answer.verdict, answer.reason);
                assert_eq!(found, *expected, "the model on line {number}, {what}");
            }
            Stands(expected) => {
                let states: Vec<_> = firewall.sessions(now).iter().map(|s| s.state).collect();
                let expected: Vec<_> = expected.iter().copied().collect();
                assert_eq!(states, expected, "the model at line {number}");
            }
            Waits(seconds) => now += Duration::from_secs(*seconds),
            Moves => {
                let mut records = firewall.sessions(now);
                forget(&mut records);
                firewall.purge();
                firewall.import(&records, now);
            }
        }
    }
}

fn on_kernel(lines: &[Line]) {
    let bench = Bench::new();
    let datapath = &bench.datapath;
    for (number, line) in lines.iter().enumerate() {
        match line {
            Packet(what, direction, bytes, expected) => {
                bench.check(
                    &format!("line {number}, {what}"),
                    *direction,
                    bytes,
                    expected,
                );
            }
            Stands(expected) => {
                let sessions = datapath.export(VNIC).expect("exports");
                let states: Vec<_> = sessions.iter().map(|session| session.state).collect();
                let expected: Vec<_> = expected.iter().copied().collect();
                assert_eq!(states, expected, "the program at line {number}");
            }
            Waits(seconds) => {
                let by = Duration::from_secs(*seconds);
                datapath.advance_clock(VNIC, by).expect("advances");
            }
            Moves => {
                let mut records = datapath.export(VNIC).expect("exports");
                forget(&mut records);
                datapath.purge(VNIC).expect("purges");
                datapath.import(VNIC, &records).expect("imports");
            }
        }
    }
}

fn check(lines: &[Line]) {
    on_model(lines);
    if privileged() {
        on_kernel(lines);
    }
}

/// The guest, which begins at 100, has connected to a server, which begins at 500.
fn connected() -> Vec<Line> {
    vec![
        tcp("SYN", out(SYN, 100, 0), NEW),
        stands(Unreplied),
        tcp("SYN-ACK", back(SYN | ACK, 500, 101), PASSES),
        stands(SynReceived),
        tcp("ACK", out(ACK, 101, 501), PASSES),
        stands(Established),
    ]
}

fn after(mut before: Vec<Line>, lines: Vec<Line>) -> Vec<Line> {
    before.extend(lines);
    before
}

// The six scenarios of the kernel's own selftests of connection tracking, as packets.

/// A segment that was acknowledged long ago comes again: the acknowledgement was lost, and whoever
/// drops it lets both sides wait for ever.
#[test]
fn conntrack_ack_loss_stall() {
    let mut lines = vec![
        tcp("SYN", back(SYN, 0, 0).served().window(32_792), NEW),
        tcp(
            "SYN-ACK",
            out(SYN | ACK, 0, 1).served().window(65_535),
            PASSES,
        ),
        tcp("ACK", back(ACK, 1, 1).served().window(65_535), PASSES),
    ];
    for part in 0..46 {
        let at = 1 + part * 1_460;
        let data = back(ACK, at, 1).served().payload(1_460).window(257);
        lines.push(tcp("data", data, PASSES));
        lines.push(tcp(
            "ACK",
            out(ACK, 1, at + 1_460).served().window(65_535),
            PASSES,
        ));
    }
    let again = back(ACK, 1, 1).served().payload(1_460).window(257);
    lines.push(tcp("the first data again", again, PASSES));
    lines.push(tcp(
        "ACK",
        out(ACK, 1, 67_161).served().window(65_535),
        PASSES,
    ));
    let forged = back(ACK, 0u32.wrapping_sub(70_000), 1).served();
    lines.push(tcp("older than that", forged, OUTSIDE));
    lines.push(stands(Established));
    check(&lines);
}

/// The guest has connected and read 3,000 bytes.
fn has_read() -> Vec<Line> {
    let mut lines = vec![
        tcp("SYN", out(SYN, 0, 0).window(65_535), NEW),
        tcp("SYN-ACK", back(SYN | ACK, 0, 1).window(65_535), PASSES),
        tcp("ACK", out(ACK, 1, 1).window(65_535), PASSES),
    ];
    for at in [1, 1_001, 2_001] {
        let data = back(ACK, at, 1).payload(1_000).window(65_535);
        lines.push(tcp("data", data, PASSES));
    }
    for at in [1_001, 2_001, 3_001] {
        lines.push(tcp("ACK", out(ACK, 1, at).window(65_535), PASSES));
    }
    lines
}

/// Once a side has closed, a reset need not be exact.
#[test]
fn conntrack_inexact_rst() {
    let data = out(ACK, 1, 3_001).payload(1_000).window(65_535);
    check(&after(
        has_read(),
        vec![
            tcp("data", data, PASSES),
            tcp("FIN", back(FIN | ACK, 3_001, 1_001).window(65_535), PASSES),
            tcp("ACK", out(ACK, 1_001, 3_002).window(65_535), PASSES),
            stands(FinWait),
            tcp("reset", out(RST | ACK, 1_001, 3_002), PASSES),
            stands(Closed),
            tcp(
                "a reset without state",
                back(RST, 2_001, 0).window(0),
                PASSES,
            ),
            stands(Closed),
        ],
    ));
}

/// A reset outside the window, or behind what was acknowledged, is none.
#[test]
fn conntrack_rst_invalid() {
    let data = out(ACK, 1, 3_001).payload(1_000).window(65_535);
    check(&after(
        has_read(),
        vec![
            tcp("before the window", back(RST, 0, 0), OUTSIDE),
            stands(Established),
            tcp("beyond the window", back(RST, 1_000_000, 0), OUTSIDE),
            stands(Established),
            tcp("acknowledged long ago", back(RST, 42, 0), OUTSIDE),
            stands(Established),
            tcp("data", data, PASSES),
            tcp("ACK", back(ACK, 3_001, 1_001).window(65_535), PASSES),
            tcp("one too few", back(RST | ACK, 3_000, 1_001), OUTSIDE),
            stands(Established),
            tcp("exactly the next", back(RST | ACK, 3_001, 1_001), PASSES),
            stands(Closed),
        ],
    ));
}

/// A peer that still has an older conversation challenges the SYN; the guest resets that one.
#[test]
fn conntrack_syn_challenge_ack() {
    check(&[
        tcp("SYN", out(SYN, 0, 0).options(SCALE_7), NEW),
        tcp("challenge", back(ACK, 145_824_453, 643_160_523), PASSES),
        tcp("another reset", out(RST, 7, 0), OUTSIDE),
        tcp("reset", out(RST, 643_160_523, 0), PASSES),
        stands(Unreplied),
        tcp("SYN again", out(SYN, 0, 0).options(SCALE_7), PASSES),
        tcp("SYN-ACK", back(SYN | ACK, 0, 1).window(250), PASSES),
        tcp("ACK", out(ACK, 1, 1), PASSES),
        stands(Established),
    ]);
}

/// A SYN-ACK for an older conversation does not spoil the new one.
#[test]
fn conntrack_synack_old() {
    check(&[
        tcp("SYN", out(SYN, 0, 0).options(SCALE_7), NEW),
        tcp("old", back(SYN | ACK, 145_824_453, 643_160_523), PASSES),
        tcp("SYN again", out(SYN, 0, 0).options(SCALE_7), PASSES),
        stands(Unreplied),
        tcp("SYN-ACK", back(SYN | ACK, 145_758_918, 1), PASSES),
        tcp("data", out(ACK, 1, 145_758_919).payload(1), PASSES),
        stands(Established),
    ]);
}

/// The client has forgotten an established conversation and begins anew with its ports.
#[test]
fn conntrack_synack_reuse() {
    check(&[
        tcp("SYN", back(SYN, 0, 0).served().options(SCALE_7), NEW),
        tcp(
            "SYN-ACK",
            out(SYN | ACK, 0, 1).served().options(SCALE_7),
            PASSES,
        ),
        tcp("ACK", back(ACK, 1, 1).served(), PASSES),
        tcp("data", back(ACK, 1, 1).served().payload(100), PASSES),
        tcp("ACK", out(ACK, 1, 101).served(), PASSES),
        tcp("SYN", back(SYN, 2_000, 0).served().options(SCALE_7), PASSES),
        stands(Established),
        tcp("challenge", out(ACK, 1, 101).served(), PASSES),
        tcp("reset", back(RST, 101, 1).served(), PASSES),
        stands(Closed),
        tcp("SYN again", back(SYN, 2_000, 0).served(), NEW),
        tcp("SYN-ACK", out(SYN | ACK, 9_000, 2_001).served(), PASSES),
        stands(SynReceived),
    ]);
}

// More of TCP.

/// RFC 9293, 3.5: both send a SYN, and both a SYN-ACK.
#[test]
fn both_may_open_at_once() {
    let crossing = || {
        vec![
            tcp("SYN", out(SYN, 100, 0), NEW),
            tcp("SYN the other way", back(SYN, 500, 0), PASSES),
            stands(Unreplied),
            tcp("and again", back(SYN, 500, 0), PASSES),
            tcp("too early", out(ACK, 101, 501), INVALID),
            tcp("SYN-ACK", out(SYN | ACK, 100, 501), PASSES),
            tcp("of another", out(SYN | ACK, 100, 777), INVALID),
        ]
    };
    check(&after(
        crossing(),
        vec![
            tcp("SYN-ACK the other way", back(SYN | ACK, 500, 101), PASSES),
            tcp("SYN-ACK again", out(SYN | ACK, 100, 501), PASSES),
            tcp("ACK", out(ACK, 101, 501), PASSES),
            stands(Established),
            tcp("data", back(ACK, 501, 101).payload(10), PASSES),
        ],
    ));
    check(&after(
        crossing(),
        vec![
            tcp("ACK", back(ACK, 501, 101), PASSES),
            stands(Established),
            tcp("data", out(ACK, 101, 501).payload(10), PASSES),
            tcp("data", back(ACK, 501, 111).payload(10), PASSES),
        ],
    ));
}

/// RFC 7413: data comes with the SYN, and the server takes all of it, some or none.
#[test]
fn a_syn_may_carry_data() {
    for acknowledged in [101, 120, 151] {
        check(&[
            tcp("SYN with 50 bytes", out(SYN, 100, 0).payload(50), NEW),
            tcp("too little", back(SYN | ACK, 400, 100), PASSES),
            stands(Unreplied),
            tcp("too much", back(SYN | ACK, 400, 152), PASSES),
            stands(Unreplied),
            tcp("SYN-ACK", back(SYN | ACK, 500, acknowledged), PASSES),
            tcp(
                "data at once",
                back(ACK, 501, acknowledged).payload(600),
                PASSES,
            ),
            tcp("more", back(ACK, 1_101, acknowledged).payload(300), PASSES),
            tcp("beyond the window", back(ACK, 1_600, acknowledged), OUTSIDE),
            stands(SynReceived),
            tcp(
                "the rest",
                out(ACK, acknowledged, 1_401).payload(50),
                PASSES,
            ),
            stands(Established),
        ]);
    }
}

/// The handshake ends with an acknowledgement of the answer, which a forger does not know.
#[test]
fn a_handshake_ends_with_what_was_answered() {
    check(&[
        tcp("SYN", out(SYN, 100, 0), NEW),
        tcp("ACK before the answer", out(ACK, 101, 0), INVALID),
        tcp("FIN before it", back(FIN | ACK, 500, 101), INVALID),
        tcp("SYN-ACK", back(SYN | ACK, 500, 101), PASSES),
        tcp("ACK of another", out(ACK, 101, 500), OUTSIDE),
        stands(SynReceived),
        tcp("SYN-ACK again", back(SYN | ACK, 500, 101), PASSES),
        tcp("SYN again", out(SYN, 100, 0), PASSES),
        tcp("another answer to it", back(SYN | ACK, 900, 101), PASSES),
        tcp("ACK of the first", out(ACK, 101, 501), OUTSIDE),
        tcp("ACK", out(ACK, 101, 901), PASSES),
        stands(Established),
    ]);
}

/// After a time-out the client may choose another number, larger or smaller.
#[test]
fn a_syn_may_come_again_with_another_number() {
    check(&[
        tcp("SYN", out(SYN, 100_000, 0), NEW),
        tcp("larger", out(SYN, 200_000, 0), PASSES),
        tcp("answer to the first", back(SYN | ACK, 500, 100_001), PASSES),
        stands(Unreplied),
        tcp("refusal of it", back(RST | ACK, 0, 100_001), OUTSIDE),
        tcp("smaller", out(SYN, 300, 0), PASSES),
        stands(Unreplied),
        tcp("refusal of that", back(RST | ACK, 0, 301), PASSES),
        stands(Unreplied),
        tcp("answer", back(SYN | ACK, 500, 301), PASSES),
        stands(SynReceived),
        tcp("ACK", out(ACK, 301, 501), PASSES),
        stands(Established),
    ]);
    check(&[
        tcp("SYN", out(SYN, 100_000, 0), NEW),
        tcp("forged", out(SYN, 300, 0), PASSES),
        tcp("answer to the first", back(SYN | ACK, 500, 100_001), PASSES),
        tcp("ACK", out(ACK, 100_001, 501), PASSES),
        stands(Established),
    ]);
    check(&[
        tcp("SYN", out(SYN, 100, 0), NEW),
        tcp("refused", back(RST | ACK, 0, 101), PASSES),
        stands(Closed),
    ]);
    check(&[
        tcp("SYN", out(SYN, 100, 0), NEW),
        tcp("given up", out(RST, 101, 0), PASSES),
        stands(Closed),
    ]);
}

/// The server has restarted and knows nothing; the client begins anew with its old ports.
#[test]
fn a_server_that_forgot_answers_a_late_syn() {
    for (what, number) in [("larger", 900_000), ("smaller", 7)] {
        check(&after(
            connected(),
            vec![
                tcp(what, out(SYN, number, 0), PASSES),
                stands(Established),
                tcp("to another SYN", back(SYN | ACK, 60, number + 2), PASSES),
                stands(Established),
                tcp("to this one", back(SYN | ACK, 60, number + 1), PASSES),
                stands(SynReceived),
                tcp("ACK", out(ACK, number + 1, 61), PASSES),
                stands(Established),
                tcp("data", back(ACK, 61, number + 1).payload(100), PASSES),
            ],
        ));
    }
    check(&after(
        connected(),
        vec![
            tcp("SYN", out(SYN, 7, 0), PASSES),
            tcp("refused", back(RST | ACK, 0, 8), PASSES),
            stands(Closed),
            tcp("anew", out(SYN, 9, 0), NEW),
        ],
    ));
    // Whoever only guesses that there was a SYN changes nothing.
    check(&after(
        connected(),
        vec![
            tcp("forged", out(SYN, 7, 0), PASSES),
            tcp("challenge", back(ACK, 501, 101), PASSES),
            tcp("data", out(ACK, 101, 501).payload(10), PASSES),
            tcp("to the forged one", back(SYN | ACK, 60, 8), PASSES),
            stands(Established),
            tcp("a SYN from the server", back(SYN, 7, 0), INVALID),
        ],
    ));
}

/// RFC 5961, 3.2: in the window but not exactly next, a reset closes nothing by itself.
#[test]
fn a_reset_in_doubt_ends_a_session_only_if_nothing_follows() {
    let doubtful = || {
        after(
            connected(),
            vec![
                tcp("data", back(ACK, 501, 101).payload(100), PASSES),
                tcp("ACK", out(ACK, 101, 601), PASSES),
                tcp("in the window", back(RST, 700, 0), PASSES),
                stands(Established),
                Waits(9),
            ],
        )
    };
    check(&after(
        doubtful(),
        vec![
            tcp("challenge", out(ACK, 101, 601), PASSES),
            Waits(7_000),
            stands(Established),
        ],
    ));
    check(&after(doubtful(), vec![Waits(2), Stands(None)]));
    // With its last bytes still under way, a sender's reset has the number after them.
    check(&after(
        connected(),
        vec![
            tcp("data", back(ACK, 501, 101).payload(100), PASSES),
            tcp("reset after it", back(RST, 601, 0), PASSES),
            stands(Closed),
        ],
    ));
}

/// RFC 9293, 3.8: keep-alives repeat an old number, probes of a closed window begin at its end.
#[test]
fn keep_alives_and_probes_pass() {
    check(&after(
        connected(),
        vec![
            tcp("all the window", out(ACK, 101, 501).payload(1_000), PASSES),
            tcp("closes it", back(ACK, 501, 1_101).window(0), PASSES),
            tcp("probe", out(ACK, 1_101, 501).payload(1), PASSES),
            tcp("probe once more", out(ACK, 1_101, 501).payload(1), PASSES),
            tcp("beyond", out(ACK, 1_103, 501).payload(1), OUTSIDE),
            tcp("still closed", back(ACK, 501, 1_101).window(0), PASSES),
            tcp("opens it", back(ACK, 501, 1_102).window(900), PASSES),
            tcp("data", out(ACK, 1_102, 501).payload(100), PASSES),
            tcp("ACK", back(ACK, 501, 1_202), PASSES),
            Waits(7_200),
            tcp("keep-alive", back(ACK, 500, 1_202), PASSES),
            tcp("answer", out(ACK, 1_202, 501), PASSES),
            tcp("with a byte", out(ACK, 1_201, 501).payload(1), PASSES),
            tcp("answer", back(ACK, 501, 1_202), PASSES),
            stands(Established),
        ],
    ));
}

/// RFC 2018: an acknowledgement far behind that names later blocks is a report of loss.
#[test]
fn an_old_acknowledgement_with_blocks_is_a_report_of_loss() {
    const SACK: &[u8] = &[1, 1, 5, 10, 0, 1, 0x11, 0x70, 0, 1, 0x38, 0x80];
    check(&[
        tcp("SYN", out(SYN, 0, 0).window(65_535).options(SCALE_7), NEW),
        tcp("SYN-ACK", back(SYN | ACK, 0, 1).options(SCALE_7), PASSES),
        tcp("ACK", out(ACK, 1, 1).window(1_000), PASSES),
        tcp("data", back(ACK, 1, 1).payload(1_000), PASSES),
        tcp("data", back(ACK, 119_001, 1).payload(1_000), PASSES),
        tcp("first lost", out(ACK, 1, 1).options(SACK), PASSES),
        tcp("again", back(ACK, 1, 1).payload(1_000), PASSES),
        tcp("never sent", out(ACK, 1, 120_002).options(SACK), OUTSIDE),
        stands(Established),
    ]);
}

/// The guest has a segment of a server, which begins at 0, and the one after the next. With these
/// options of both SYNs it says so.
fn selective(
    (of_guest, of_server): (&'static [u8], &'static [u8]),
    blocks: &'static [u8],
    (said, next): (&'static str, &'static str),
) {
    check(&[
        tcp("SYN", out(SYN, 0, 0).options(of_guest), NEW),
        tcp("SYN-ACK", back(SYN | ACK, 0, 1).options(of_server), PASSES),
        tcp("ACK", out(ACK, 1, 1), PASSES),
        tcp("first", back(ACK, 1, 1).payload(500), PASSES),
        tcp("third", back(ACK, 1_001, 1).payload(500), PASSES),
        tcp("blocks", out(ACK, 1, 501).options(blocks), said),
        tcp(
            "as far as that allows",
            back(ACK, 2_501, 1).payload(500),
            next,
        ),
    ]);
}

/// RFC 2018: they count if whoever hears them has permitted them, and name what was sent.
#[test]
fn acknowledged_blocks_move_the_window_where_they_are_permitted() {
    const PERMITTED: &[u8] = &[1, 1, 4, 2];
    // From 1,001 to 1,501, and a byte more; from 1 to 501, twice received; that and the third.
    const THIRD: &[u8] = &[1, 1, 5, 10, 0, 0, 3, 233, 0, 0, 5, 221];
    const BEYOND: &[u8] = &[1, 1, 5, 10, 0, 0, 3, 233, 0, 0, 5, 222];
    const TWICE: &[u8] = &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 1, 245];
    const BOTH: &[u8] = &[
        1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 1, 245, 0, 0, 3, 233, 0, 0, 5, 221,
    ];
    const CUT: &[u8] = &[1, 1, 5, 11, 0, 0, 3, 233, 0, 0, 5, 221];
    let both = (PERMITTED, PERMITTED);
    selective(both, THIRD, (PASSES, PASSES));
    selective((NOTHING, PERMITTED), THIRD, (PASSES, PASSES));
    selective((PERMITTED, NOTHING), THIRD, (PASSES, OUTSIDE));
    selective(both, BOTH, (PASSES, PASSES));
    selective(both, TWICE, (PASSES, OUTSIDE));
    selective(both, CUT, (PASSES, OUTSIDE));
    selective(both, BEYOND, (OUTSIDE, OUTSIDE));
    selective((PERMITTED, NOTHING), BEYOND, (PASSES, OUTSIDE));
}

/// RFC 9293, 3.6: one side may close and still be sent data; each FIN may come again.
#[test]
fn one_side_may_close_alone() {
    check(&after(
        connected(),
        vec![
            tcp("FIN", out(FIN | ACK, 101, 501), PASSES),
            stands(FinWait),
            tcp("ACK", back(ACK, 501, 102), PASSES),
            tcp("data", back(ACK, 501, 102).payload(500), PASSES),
            tcp("ACK", out(ACK, 102, 1_001), PASSES),
            tcp("FIN again", out(FIN | ACK, 101, 501), PASSES),
            stands(FinWait),
            Waits(239),
            tcp("data", back(ACK, 1_001, 102).payload(500), PASSES),
            tcp("FIN back", back(FIN | ACK, 1_501, 102), PASSES),
            stands(TimeWait),
            tcp("FIN back again", back(FIN | ACK, 1_501, 102), PASSES),
            tcp("last ACK", out(ACK, 102, 1_502), PASSES),
            tcp("a reset then", back(RST, 1_502, 0), PASSES),
            stands(TimeWait),
        ],
    ));
}

/// RFC 1122, 4.2.2.13: the ports of a closed conversation may be used again, by either side.
#[test]
fn ports_are_used_again_after_the_end() {
    let ended = || {
        after(
            connected(),
            vec![
                tcp("FIN", out(FIN | ACK, 101, 501), PASSES),
                tcp("FIN back", back(FIN | ACK, 501, 102), PASSES),
                tcp("last ACK", out(ACK, 102, 502), PASSES),
                stands(TimeWait),
            ],
        )
    };
    check(&after(
        ended(),
        vec![
            tcp("a higher number", out(SYN, 90_000, 0), NEW),
            stands(Unreplied),
            tcp("SYN-ACK", back(SYN | ACK, 7, 90_001), PASSES),
        ],
    ));
    check(&after(
        ended(),
        vec![
            tcp("a lower number", out(SYN, 1, 0), NEW),
            tcp("challenge", back(ACK, 502, 102), PASSES),
            tcp("reset", out(RST, 102, 0), PASSES),
            tcp("again", out(SYN, 1, 0), PASSES),
            tcp("SYN-ACK", back(SYN | ACK, 9_000, 2), PASSES),
            stands(SynReceived),
        ],
    ));
    // Port 4000 of the guest is not open to anyone.
    check(&after(
        ended(),
        vec![
            tcp(
                "from the other side",
                back(SYN, 9_000, 0),
                "deny default-deny",
            ),
            Stands(None),
        ],
    ));
}

/// Windows that a move lost are learnt; a reset meanwhile cannot be checked.
#[test]
fn after_a_move_the_windows_are_learnt() {
    check(&after(
        connected(),
        vec![
            Moves,
            tcp("keep-alive", out(ACK, 5_000, 77_000), PASSES),
            tcp("answer", back(ACK, 77_000, 5_001), PASSES),
            tcp("and again", back(ACK, 77_000, 5_001), PASSES),
            tcp("far away", back(ACK, 0x7700_0000, 5_001), OUTSIDE),
            stands(Established),
        ],
    ));
    check(&after(
        connected(),
        vec![
            Moves,
            tcp("reset", back(RST, 501, 0), PASSES),
            stands(Established),
            Waits(11),
            Stands(None),
        ],
    ));
    check(&[
        tcp("SYN", out(SYN, 100, 0), NEW),
        Moves,
        tcp("SYN-ACK", back(SYN | ACK, 500, 101), PASSES),
        stands(SynReceived),
        tcp("ACK", out(ACK, 101, 501), PASSES),
        stands(Established),
    ]);
}

/// Each time-out, at its end and a second before.
#[test]
fn each_state_has_its_time() {
    let fin = || tcp("FIN", out(FIN | ACK, 101, 501), PASSES);
    let fin_back = || tcp("FIN back", back(FIN | ACK, 501, 102), PASSES);
    let syn = || tcp("SYN", out(SYN, 100, 0), NEW);
    let syn_ack = || tcp("SYN-ACK", back(SYN | ACK, 500, 101), PASSES);
    let reset = || tcp("reset", back(RST, 501, 0), PASSES);
    for (seconds, state, lines) in [
        (60, Unreplied, vec![syn()]),
        (60, SynReceived, vec![syn(), syn_ack()]),
        (7_440, Established, connected()),
        (240, FinWait, after(connected(), vec![fin()])),
        (60, TimeWait, after(connected(), vec![fin(), fin_back()])),
        (10, Closed, after(connected(), vec![reset()])),
    ] {
        check(&ends_after(seconds, state, lines));
    }
}

/// Lives a second before the time-out, and no longer.
fn ends_after(seconds: u64, state: TcpState, lines: Vec<Line>) -> Vec<Line> {
    let end = [Waits(seconds - 1), stands(state), Waits(2), Stands(None)];
    lines.into_iter().chain(end).collect()
}

/// A host may set other time-outs; a session has them from its next packet on.
#[test]
fn a_host_sets_its_own_times() {
    if !privileged() {
        return;
    }
    let bench = Bench::new();
    let datapath = &bench.datapath;
    assert_eq!(datapath.timeouts().expect("reads"), Timeouts::default());
    let timeouts = Timeouts {
        udp_established: 1_000,
        tcp_established: 604_800,
        ..Timeouts::default()
    };
    datapath.set_timeouts(&timeouts).expect("sets");
    assert_eq!(datapath.timeouts().expect("reads"), timeouts);
    let never = Timeouts {
        icmp: 0,
        ..timeouts
    };
    let error = datapath.set_timeouts(&never).expect_err("zero is no time");
    assert_eq!(
        error.to_string(),
        "the time-out icmp is 0 s; expected 1 to 604800: choose one in between"
    );
    let again = Datapath::open(bench.bpffs.path()).expect("opens");
    assert_eq!(
        again.timeouts().expect("reads"),
        timeouts,
        "they outlive the process"
    );
    let [query, answer] = [(Egress, OUT, (5_000, 53)), (Ingress, BACK, (53, 5_000))]
        .map(|(from, ends, ports)| ip(from, ends, 17, &udp(ports)));
    bench.check("a query", Egress, &query, NEW);
    bench.check("an answer", Ingress, &answer, PASSES);
    let by = Duration::from_secs(999);
    datapath.advance_clock(VNIC, by).expect("advances");
    bench.check("before the end", Ingress, &answer, PASSES);
    datapath.advance_clock(VNIC, by).expect("advances");
    assert_eq!(datapath.session_count(VNIC).expect("counts"), 1);
    let by = Duration::from_secs(2);
    datapath.advance_clock(VNIC, by).expect("advances");
    assert_eq!(datapath.session_count(VNIC).expect("counts"), 0);
}

// Datagrams and errors.

fn ask(ends: (&str, &str)) -> Line {
    let frame = ip(Egress, ends, 17, &udp((5_000, 53)));
    Packet("a query", Egress, frame, NEW)
}

fn told(expected: &'static str) -> Line {
    let frame = ip(Ingress, BACK, 17, &udp((53, 5_000)));
    Packet("an answer", Ingress, frame, expected)
}

/// A datagram is a question until there is an answer.
#[test]
fn udp_is_answered_or_soon_forgotten() {
    let again = || {
        let frame = ip(Egress, OUT, 17, &udp((5_000, 53)));
        Packet("again", Egress, frame, PASSES)
    };
    check(&ends_after(30, Unreplied, vec![ask(OUT)]));
    check(&ends_after(
        30,
        Unreplied,
        vec![ask(OUT), Waits(29), again()],
    ));
    check(&ends_after(180, Established, vec![ask(OUT), told(PASSES)]));
    check(&[
        ask(OUT),
        Waits(31),
        told("deny default-deny"),
        ask(OUT),
        told(PASSES),
    ]);
    let other_port = ip(Ingress, BACK, 17, &udp((54, 5_000)));
    check(&[
        ask(OUT),
        Packet("another port", Ingress, other_port, "deny default-deny"),
        stands(Unreplied),
    ]);
}

/// An error passes with the conversation that it quotes, and keeps it no longer alive.
#[test]
fn icmp_errors_belong_to_what_they_quote() {
    const RELATED: &str = "allow related";
    const UNRELATED: &str = "deny unrelated";
    let error = |from, body: &[u8], expected| {
        let frame = ip(Ingress, (from, "10.0.0.1"), 1, &icmp(3, 4, 0, &body[14..]));
        Packet("an error", Ingress, frame, expected)
    };
    let syn = out(SYN, 100, 0).frame();
    let answer = back(SYN | ACK, 500, 101).frame();
    let query = ip(Egress, OUT, 17, &udp((5_000, 53)));
    let ping = ip(Egress, OUT, 1, &icmp(8, 0, 77, &[0; 8]));
    let unheard = ip(Egress, OUT, 1, &icmp(8, 0, 78, &[0; 8]));
    let router = "203.0.113.1";
    check(&[
        error(router, &syn, UNRELATED),
        tcp("SYN", out(SYN, 100, 0), NEW),
        error(router, &syn, RELATED),
        error("10.0.0.2", &syn, RELATED),
        error(router, &answer, UNRELATED),
        stands(Unreplied),
        Waits(59),
        error(router, &syn, RELATED),
        Waits(2),
        error(router, &syn, UNRELATED),
        Stands(None),
    ]);
    check(&[
        ask(OUT),
        error(router, &query, RELATED),
        Packet("ping", Egress, ping.clone(), NEW),
        error(router, &ping, RELATED),
        error(router, &unheard, UNRELATED),
    ]);
}

/// An echo is answered once asked, by the same identifier.
#[test]
fn an_echo_answers_a_question() {
    let ping = |kind, id, from: Direction| {
        let ends = if from == Egress { OUT } else { BACK };
        ip(from, ends, 1, &icmp(kind, 0, id, &[0; 8]))
    };
    check(&[
        Packet("unasked", Ingress, ping(0, 7, Ingress), "deny no-session"),
        Packet("asked", Egress, ping(8, 7, Egress), NEW),
        Packet(
            "of another",
            Ingress,
            ping(0, 8, Ingress),
            "deny no-session",
        ),
        Packet("answered", Ingress, ping(0, 7, Ingress), PASSES),
        stands(Established),
        Packet("asked back", Ingress, ping(8, 7, Ingress), NEW),
        Packet("answered", Egress, ping(0, 7, Egress), PASSES),
    ]);
}

// SCTP. The guest's tag is 70, its peer's 90: packets from the guest carry 90.

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const DATA: u8 = 0;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const OTHER_TAG: &str = "deny sctp-invalid";

/// One chunk: its kind and flags, the packet's tag and, of an INIT, the tag that it wants.
fn chunk(from: Direction, (kind, flags): (u8, u8), (tag, wants): (u32, u32)) -> Vec<u8> {
    let (ends, ports) = match from {
        Egress => (OUT, [4_000u16, 80]),
        Ingress => (BACK, [80, 4_000]),
    };
    let mut bytes = ports.map(u16::to_be_bytes).concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, flags, 0, 8]);
    bytes.extend(wants.to_be_bytes());
    ip(from, ends, 132, &bytes)
}

fn says(what: &'static str, kind: u8, tag: u32, expected: &'static str) -> Line {
    Packet(what, Egress, chunk(Egress, (kind, 0), (tag, 0)), expected)
}

fn hears(what: &'static str, kind: u8, tag: u32, expected: &'static str) -> Line {
    Packet(what, Ingress, chunk(Ingress, (kind, 0), (tag, 0)), expected)
}

fn begins(from: Direction, kind: u8, tags: (u32, u32), expected: &'static str) -> Line {
    let what = if kind == INIT { "INIT" } else { "INIT-ACK" };
    Packet(what, from, chunk(from, (kind, 0), tags), expected)
}

fn associated() -> Vec<Line> {
    vec![
        begins(Egress, INIT, (0, 70), NEW),
        stands(Unreplied),
        hears("data too early", DATA, 70, OTHER_TAG),
        says("a cookie too early", COOKIE_ECHO, 90, OTHER_TAG),
        begins(Ingress, INIT_ACK, (71, 90), OTHER_TAG),
        begins(Ingress, INIT_ACK, (70, 90), PASSES),
        stands(SynReceived),
        says("another's cookie", COOKIE_ECHO, 91, OTHER_TAG),
        says("cookie", COOKIE_ECHO, 90, PASSES),
        stands(SynReceived),
        hears("taken", COOKIE_ACK, 70, PASSES),
        stands(Established),
        says("data", DATA, 90, PASSES),
        hears("data", DATA, 70, PASSES),
        hears("data of another", DATA, 90, OTHER_TAG),
    ]
}

/// RFC 9260, 5.1 and 9.2.
#[test]
fn sctp_begins_and_ends_in_four_steps() {
    check(&after(
        associated(),
        vec![
            says("shut down", SHUTDOWN, 90, PASSES),
            stands(FinWait),
            hears("the rest", DATA, 70, PASSES),
            hears("agreed", SHUTDOWN_ACK, 70, PASSES),
            stands(TimeWait),
            says("complete", SHUTDOWN_COMPLETE, 90, PASSES),
            stands(Closed),
            begins(Egress, INIT, (0, 71), NEW),
        ],
    ));
}

/// RFC 9260, 8.5.1: who gives back the receiver's tag says so.
#[test]
fn sctp_aborts_with_either_tag() {
    let abort = |flags, tag| chunk(Ingress, (ABORT, flags), (tag, 0));
    check(&after(
        associated(),
        vec![
            Packet("of another", Ingress, abort(0, 71), OTHER_TAG),
            Packet("not marked", Ingress, abort(0, 90), OTHER_TAG),
            Packet("not its own", Ingress, abort(1, 70), OTHER_TAG),
            stands(Established),
            Packet("given back", Ingress, abort(1, 90), PASSES),
            stands(Closed),
        ],
    ));
    check(&[
        begins(Egress, INIT, (0, 70), NEW),
        Packet("refused", Ingress, abort(0, 70), PASSES),
        stands(Closed),
    ]);
}

/// RFC 9260, 5.2: a side that has restarted, and both sides at once.
#[test]
fn sctp_begins_anew_and_from_both_sides() {
    check(&after(
        associated(),
        vec![
            begins(Egress, INIT, (0, 75), PASSES),
            hears("data all the same", DATA, 70, PASSES),
            begins(Ingress, INIT_ACK, (76, 95), OTHER_TAG),
            begins(Ingress, INIT_ACK, (75, 95), PASSES),
            says("with the old tag", DATA, 90, PASSES),
            says("not yet", DATA, 95, OTHER_TAG),
            says("cookie", COOKIE_ECHO, 95, PASSES),
            stands(Established),
            hears("taken", COOKIE_ACK, 75, PASSES),
            hears("of before", DATA, 70, OTHER_TAG),
        ],
    ));
    check(&[
        begins(Egress, INIT, (0, 70), NEW),
        begins(Ingress, INIT, (0, 90), PASSES),
        begins(Egress, INIT_ACK, (90, 70), PASSES),
        hears("cookie", COOKIE_ECHO, 70, PASSES),
        says("taken", COOKIE_ACK, 90, PASSES),
        stands(Established),
    ]);
}

/// RFC 9260, 8.3: another path of an association begins with a heartbeat.
#[test]
fn sctp_takes_another_path() {
    check(&[
        says("data", DATA, 90, "deny no-session"),
        says("no tag", HEARTBEAT, 0, OTHER_TAG),
        says("heartbeat", HEARTBEAT, 90, NEW),
        stands(Unreplied),
        says("another's", HEARTBEAT, 91, OTHER_TAG),
        hears("answer", HEARTBEAT_ACK, 70, PASSES),
        stands(Established),
        hears("data of another", DATA, 71, OTHER_TAG),
    ]);
    check(&after(
        associated(),
        vec![
            Moves,
            hears("any tag is learnt", DATA, 77, PASSES),
            hears("and kept", DATA, 78, OTHER_TAG),
        ],
    ));
}

#[test]
fn each_state_of_sctp_has_its_time() {
    let shut = || says("shut down", SHUTDOWN, 90, PASSES);
    let agreed = || hears("agreed", SHUTDOWN_ACK, 70, PASSES);
    let aborted = || hears("aborted", ABORT, 70, PASSES);
    let asked = || begins(Egress, INIT, (0, 70), NEW);
    let answered = || begins(Ingress, INIT_ACK, (70, 90), PASSES);
    for (seconds, state, lines) in [
        (60, Unreplied, vec![asked()]),
        (60, SynReceived, vec![asked(), answered()]),
        (600, Established, associated()),
        (60, FinWait, after(associated(), vec![shut()])),
        (60, TimeWait, after(associated(), vec![shut(), agreed()])),
        (10, Closed, after(associated(), vec![aborted()])),
    ] {
        check(&ends_after(seconds, state, lines));
    }
}
