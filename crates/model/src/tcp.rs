//! TCP: what a segment may be, given both ends' windows, and what it changes.
//!
//! The bounds are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter"
//! (2000), as Linux's connection tracking applies them.

use crate::parse::{SCALE_MAX, Segment};
use crate::session::Session;
use lictor_types::{Direction, TcpEnd, TcpState};

/// What an acknowledgement may lag behind at least, in bytes: the largest unscaled window and a
/// segment.
const ACK_LAG_MIN: u32 = 66_000;

const FLAG_KNOWN: u8 = 1;
const FLAG_FIN: u8 = 2;
const FLAG_SCALE_KNOWN: u8 = 4;
const FLAG_SCALE_OFFERED: u8 = 8;

/// What the tracker says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    /// It belongs to the conversation and has moved it.
    Fits,
    /// It passes, because its receiver must see it, and changes nothing.
    Passes,
    /// It begins another conversation under the same key.
    Reopens,
    /// It is outside.
    Invalid,
}

/// A sequence number; the order wraps (RFC 9293, 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seq(u32);

impl Seq {
    fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// Bytes from `other` on to here, if here is later.
    fn beyond(self, other: Self) -> Option<u32> {
        let distance = self.0.wrapping_sub(other.0);
        (distance != 0 && distance < 1 << 31).then_some(distance)
    }

    fn after(self, other: Self) -> bool {
        self.beyond(other).is_some()
    }
}

/// What is known of the sequence space of one side.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// One past the last byte that this side has sent.
    sent: Seq,
    /// One past the last byte that the other side lets it send.
    allowed: Seq,
    /// The largest window that this side has advertised, scaled, in bytes.
    largest: u32,
}

/// One side of a conversation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Side {
    window: Option<Window>,
    /// Nobody told us, as after an import: then the largest is assumed.
    scale: Option<u8>,
    /// Its SYN carried the option.
    scale_offered: bool,
    fin: bool,
}

impl Side {
    /// A side as its SYN, with or without an acknowledgement, shows it. Windows of a SYN are never
    /// scaled (RFC 7323, 2.2).
    pub(crate) fn of_syn(segment: &Segment) -> Self {
        let sent = Seq(segment.sequence).plus(length(segment));
        let largest = u32::from(segment.window).max(1);
        Self {
            window: Some(Window {
                sent,
                allowed: sent.plus(largest),
                largest,
            }),
            scale: Some(segment.scale.unwrap_or(0)),
            scale_offered: segment.scale.is_some(),
            fin: false,
        }
    }

    /// The window that a segment of this side advertises, in bytes.
    fn advertised(&self, segment: &Segment) -> u32 {
        let scale = match segment.flags.syn() {
            true => 0,
            false => self.scale.unwrap_or(SCALE_MAX),
        };
        u32::from(segment.window) << scale
    }

    pub(crate) fn of_record(end: &TcpEnd) -> Self {
        let has = |flag| end.flags & flag != 0;
        Self {
            window: has(FLAG_KNOWN).then_some(Window {
                sent: Seq(end.end),
                allowed: Seq(end.end_max),
                largest: end.window_max,
            }),
            scale: has(FLAG_SCALE_KNOWN).then_some(end.scale.min(SCALE_MAX)),
            scale_offered: has(FLAG_SCALE_OFFERED),
            fin: has(FLAG_FIN),
        }
    }

    pub(crate) fn record(&self) -> TcpEnd {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let flags = flag(self.window.is_some(), FLAG_KNOWN)
            | flag(self.fin, FLAG_FIN)
            | flag(self.scale.is_some(), FLAG_SCALE_KNOWN)
            | flag(self.scale_offered, FLAG_SCALE_OFFERED);
        let Some(window) = self.window else {
            return TcpEnd {
                flags,
                ..TcpEnd::default()
            };
        };
        TcpEnd {
            end: window.sent.0,
            end_max: window.allowed.0,
            window_max: window.largest,
            scale: self.scale.unwrap_or(SCALE_MAX),
            flags,
        }
    }
}

/// What a segment takes of the sequence space: SYN and FIN count as a byte each.
fn length(segment: &Segment) -> u32 {
    segment.payload + u32::from(segment.flags.syn()) + u32::from(segment.flags.fin())
}

/// The two sides, by who sent the segment.
struct Pair<'a> {
    sender: &'a mut Side,
    receiver: &'a mut Side,
}

fn pair(sides: &mut [Side; 2], sender: Direction) -> Pair<'_> {
    let [egress, ingress] = sides;
    match sender {
        Direction::Egress => Pair {
            sender: egress,
            receiver: ingress,
        },
        Direction::Ingress => Pair {
            sender: ingress,
            receiver: egress,
        },
    }
}

/// Judges a segment of a live session and moves the session.
pub(crate) fn track(session: &mut Session, segment: &Segment, direction: Direction) -> Track {
    let flags = segment.flags;
    let by_opener = direction == session.opened;
    let opener_known = session.sides[session.opened as usize].window.is_some();
    if flags.impossible() {
        return Track::Invalid;
    }
    if session.state == TcpState::Unreplied && opener_known {
        return match by_opener {
            true => opener_before_answer(session, segment),
            false => answer(session, segment),
        };
    }
    if flags.opens() {
        return match session.state {
            TcpState::TimeWait | TcpState::Closed => Track::Reopens,
            // RFC 5961, 4.2: the receiver challenges it and tells us by its answer.
            _ if by_opener => Track::Passes,
            _ => Track::Invalid,
        };
    }
    // Only the answering side acknowledges with a SYN.
    if flags.syn() && by_opener {
        return Track::Invalid;
    }
    let mut pair = pair(&mut session.sides, direction);
    if !inside_or_learnt(&mut pair, segment) {
        return Track::Invalid;
    }
    let both_fin = pair.receiver.fin;
    pair.sender.fin |= flags.fin();
    session.state = match session.state {
        _ if flags.rst() => TcpState::Closed,
        // A reset is the end; only a SYN begins anew.
        TcpState::Closed => TcpState::Closed,
        _ if flags.fin() && both_fin => TcpState::TimeWait,
        _ if flags.fin() => TcpState::FinWait,
        TcpState::Unreplied | TcpState::SynReceived if by_opener => TcpState::Established,
        state => state,
    };
    Track::Fits
}

/// The opener speaks again before it got an answer: the SYN once more, or a reset.
fn opener_before_answer(session: &mut Session, segment: &Segment) -> Track {
    let opener = &mut session.sides[session.opened as usize];
    if segment.flags.opens() {
        *opener = Side::of_syn(segment);
        return Track::Fits;
    }
    if !segment.flags.rst() {
        return Track::Invalid;
    }
    // A reset elsewhere answers a stale SYN-ACK that was let through; the SYN still stands.
    let sent = opener.window.map(|window| window.sent);
    if sent == Some(Seq(segment.sequence)) {
        session.state = TcpState::Closed;
    }
    Track::Passes
}

/// What the other side says to a SYN: an answer, a refusal, or leftovers of an older conversation
/// that the opener must see so that it can reset them.
fn answer(session: &mut Session, segment: &Segment) -> Track {
    let flags = segment.flags;
    let Pair {
        sender: opener,
        receiver: other,
    } = pair(&mut session.sides, session.opened);
    let acknowledged = Seq(segment.acknowledgement);
    let acknowledges = opener
        .window
        .is_some_and(|window| window.sent == acknowledged);
    if flags.rst() {
        if !flags.ack() || !acknowledges {
            return Track::Invalid;
        }
        session.state = TcpState::Closed;
        return Track::Fits;
    }
    if flags.opens() {
        return Track::Invalid;
    }
    if !flags.syn() || !acknowledges {
        return Track::Passes;
    }
    *other = Side::of_syn(segment);
    // RFC 7323, 2.2: scaling holds only if both sides offered it.
    if !(opener.scale_offered && other.scale_offered) {
        opener.scale = Some(0);
        other.scale = Some(0);
    }
    if let Some(window) = &mut opener.window {
        window.allowed = acknowledged.plus(u32::from(segment.window).max(1));
    }
    session.state = TcpState::SynReceived;
    Track::Fits
}

fn inside_or_learnt(pair: &mut Pair<'_>, segment: &Segment) -> bool {
    match (pair.sender.window, pair.receiver.window) {
        (Some(sender), Some(receiver)) => {
            inside(&sender, &receiver, segment) && {
                advance(pair, (sender, receiver), segment);
                true
            }
        }
        _ => {
            learn(pair, segment);
            true
        }
    }
}

/// The four bounds.
fn inside(sender: &Window, receiver: &Window, segment: &Segment) -> bool {
    let first = Seq(segment.sequence);
    let last = first.plus(length(segment));
    let acknowledged = match segment.flags.ack() {
        true => Seq(segment.acknowledgement),
        false => receiver.sent,
    };
    let lag = sender.largest.max(ACK_LAG_MIN);
    // Not beyond what the receiver lets the sender send,
    !first.after(sender.allowed)
        // not before what the receiver may still want again,
        && last.after(sender.sent.minus(receiver.largest).minus(1))
        // nothing acknowledged that was never sent,
        && !acknowledged.after(receiver.sent)
        // nor anything long forgotten.
        && acknowledged.after(receiver.sent.minus(lag).minus(1))
}

/// What a segment inside the windows does to them. A reset moves nothing.
fn advance(pair: &mut Pair<'_>, windows: (Window, Window), segment: &Segment) {
    let (mut sender, mut receiver) = windows;
    if segment.flags.rst() {
        return;
    }
    let last = Seq(segment.sequence).plus(length(segment));
    let acknowledged = match segment.flags.ack() {
        true => Seq(segment.acknowledgement),
        false => receiver.sent,
    };
    let advertised = pair.sender.advertised(segment);
    if last.after(sender.sent) {
        sender.sent = last;
    }
    if let Some(over) = last.beyond(sender.allowed) {
        receiver.largest = receiver.largest.wrapping_add(over);
    }
    sender.largest = sender.largest.max(advertised);
    // A closed window still lets one byte through: the probe (RFC 9293, 3.8.6.1).
    if !receiver.allowed.after(acknowledged.plus(advertised)) {
        receiver.allowed = acknowledged.plus(advertised.max(1));
    }
    pair.sender.window = Some(sender);
    pair.receiver.window = Some(receiver);
}

/// A window that nobody told us: learn from this segment and let it pass.
fn learn(pair: &mut Pair<'_>, segment: &Segment) {
    let last = Seq(segment.sequence).plus(length(segment));
    let advertised = pair.sender.advertised(segment);
    pair.sender.window = Some(match pair.sender.window {
        Some(window) if last.after(window.sent) => Window {
            sent: last,
            ..window
        },
        Some(window) => window,
        None => Window {
            sent: last,
            allowed: last.plus(advertised.max(1)),
            largest: advertised.max(1),
        },
    });
    let allowed = Seq(segment.acknowledgement).plus(advertised);
    if let Some(window) = pair.receiver.window.as_mut()
        && segment.flags.ack()
        && allowed.after(window.allowed)
    {
        window.allowed = allowed;
    }
}
