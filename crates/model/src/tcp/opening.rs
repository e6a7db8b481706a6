//! How a TCP conversation begins: a SYN and its answer, two SYNs at once, and what comes between.

use super::side::{Acked, Seq, Side, Window, length};
use super::{Pair, Track, pair};
use crate::parse::Segment;
use crate::session::Session;
use lictor_types::TcpState;

/// The largest window that needs no scale, in bytes.
const WINDOW_UNSCALED_MAX: u32 = 65_535;

/// The opener speaks again before it got an answer: the SYN once more, a SYN-ACK to the other's
/// SYN, or a reset.
pub(super) fn opener_again(session: &mut Session, segment: &Segment) -> Track {
    let Pair {
        sender: opener,
        receiver: other,
    } = pair(&mut session.sides, session.opened);
    let flags = segment.flags;
    if flags.rst() {
        let at = Seq(segment.sequence);
        if opener.window.is_some_and(|window| window.sent == at) {
            session.state = TcpState::Closed;
            return Track::Passes;
        }
        // It answers a stale segment that was let through; the SYN still stands.
        return match other.acked == Acked::Upto(at) {
            true => Track::Passes,
            false => Track::Outside,
        };
    }
    if flags.opens() {
        let end = Seq(segment.sequence).plus(length(segment));
        return syn_again(opener, segment).unwrap_or_else(|| {
            opener.acked = Acked::Noted(end);
            Track::Passes
        });
    }
    // Both opened at once (RFC 9293, figure 7).
    match flags.syn() && other.answered_by(segment) {
        true => Track::Fits,
        false => Track::Invalid,
    }
}

/// A side's SYN again. `None` if it is of an older number: it may be forged, or of another user of
/// the port.
fn syn_again(side: &mut Side, segment: &Segment) -> Option<Track> {
    let window = side.window.as_mut()?;
    let least = Seq(segment.sequence).plus(1);
    if least == window.allowed {
        let end = least.plus(segment.payload);
        if end.after(window.sent) {
            window.sent = end;
        }
        return Some(Track::Fits);
    }
    least.after(window.allowed).then(|| {
        *side = Side::of_syn(segment);
        Track::Fits
    })
}

/// What the other side says to a SYN: an answer, a refusal, a SYN of its own, or leftovers of an
/// older conversation that the opener must see so that it can reset them.
pub(super) fn answer(session: &mut Session, segment: &Segment) -> Track {
    let flags = segment.flags;
    let Pair {
        sender: opener,
        receiver: other,
    } = pair(&mut session.sides, session.opened);
    let answers = opener.answered_by(segment);
    let answers_noted = opener.noted(segment);
    if flags.rst() {
        if answers {
            session.state = TcpState::Closed;
            return Track::Fits;
        }
        return match answers_noted {
            true => Track::Passes,
            false => Track::Outside,
        };
    }
    if flags.opens() {
        if other.window.is_some() {
            return syn_again(other, segment).unwrap_or(Track::Invalid);
        }
        *other = Side::of_syn(segment);
        return Track::Fits;
    }
    if flags.fin() {
        return Track::Invalid;
    }
    if flags.syn() && answers {
        return begin(session, segment);
    }
    if flags.syn() && answers_noted {
        return begin_anew(session, segment);
    }
    let next = Seq(segment.sequence);
    if answers && other.window.is_some_and(|window| window.sent == next) {
        return crossed(session, segment);
    }
    other.acked = Acked::Upto(Seq(segment.acknowledgement));
    Track::Passes
}

/// RFC 7323, 2.2: scaling holds only if both sides offered it.
fn agree_on_scale(sides: &mut [Side; 2]) {
    if !sides.iter().all(|side| side.scale_offered) {
        sides.iter_mut().for_each(|side| side.scale = Some(0));
    }
}

/// The SYN-ACK that answers the opener's SYN.
fn begin(session: &mut Session, segment: &Segment) -> Track {
    let Pair {
        sender: opener,
        receiver: other,
    } = pair(&mut session.sides, session.opened);
    let acknowledged = Seq(segment.acknowledgement);
    *other = Side::of_syn(segment);
    other.acked = Acked::Upto(acknowledged);
    opener.acked = Acked::Upto(Seq(segment.sequence).plus(1));
    if let (Some(of_opener), Some(of_other)) = (&mut opener.window, &mut other.window) {
        // With Fast Open data may follow before the handshake ends.
        of_other.allowed = of_other.allowed.plus(of_opener.largest);
        of_opener.allowed = acknowledged.plus(u32::from(segment.window).max(1));
    }
    agree_on_scale(&mut session.sides);
    session.state = TcpState::SynReceived;
    Track::Fits
}

/// The answer to a SYN of which only its end is known.
fn begin_anew(session: &mut Session, segment: &Segment) -> Track {
    let end = Seq(segment.acknowledgement);
    session.sides[session.opened as usize] = Side {
        window: Some(Window {
            sent: end,
            allowed: end,
            largest: WINDOW_UNSCALED_MAX,
        }),
        acked: Acked::Nothing,
        scale: None,
        // Who answers with a scale was offered one.
        scale_offered: true,
        sack_permitted: true,
        fin: false,
    };
    begin(session, segment)
}

/// Both opened at once, and the other side acknowledges the opener's SYN-ACK.
fn crossed(session: &mut Session, segment: &Segment) -> Track {
    agree_on_scale(&mut session.sides);
    let Pair {
        sender: opener,
        receiver: other,
    } = pair(&mut session.sides, session.opened);
    let acknowledged = Seq(segment.acknowledgement);
    let advertised = other.advertised(segment);
    if let (Some(of_opener), Some(of_other)) = (&mut opener.window, &mut other.window) {
        of_opener.allowed = acknowledged.plus(advertised);
        of_other.allowed = of_other.allowed.plus(of_opener.largest);
        opener.acked = Acked::Upto(of_other.sent);
    }
    other.acknowledge(acknowledged);
    session.state = TcpState::Established;
    Track::Fits
}

/// A SYN-ACK where there is an answer already, or where the SYN was forgotten by a move.
pub(super) fn late_answer(session: &mut Session, segment: &Segment, by_opener: bool) -> Track {
    let opener = &session.sides[session.opened as usize];
    if by_opener {
        return match session.state {
            TcpState::Unreplied => Track::Invalid,
            _ => Track::Passes,
        };
    }
    let Some(window) = opener.window else {
        return match session.state <= TcpState::SynReceived {
            true => begin_anew(session, segment),
            false => unknown(session, segment),
        };
    };
    if opener.noted(segment) {
        return begin_anew(session, segment);
    }
    // A server that keeps no state answers the same SYN with another number.
    let other_number = match opener.acked {
        Acked::Nothing => true,
        Acked::Upto(at) | Acked::Noted(at) => at != Seq(segment.sequence).plus(1),
    };
    let same_syn = window.sent == Seq(segment.acknowledgement);
    match session.state == TcpState::SynReceived && same_syn && other_number {
        true => begin(session, segment),
        false => Track::Passes,
    }
}

fn unknown(session: &mut Session, segment: &Segment) -> Track {
    let opener = &session.sides[session.opened as usize];
    match opener.noted(segment) {
        true => begin_anew(session, segment),
        false => Track::Passes,
    }
}
