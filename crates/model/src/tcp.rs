//! TCP: what a segment may be, given both ends' windows, and what it changes.
//!
//! The bounds are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter"
//! (2000), as Linux's connection tracking applies them.

mod opening;
mod side;

use crate::parse::Segment;
use crate::session::Session;
use lictor_types::{Direction, TcpState};
pub(crate) use side::Side;
use side::{Acked, Seq, Window, length};

/// What an acknowledgement may lag behind at least, in bytes: the largest unscaled window and a
/// segment.
const ACK_LAG_MIN: u32 = 66_000;

/// What the tracker says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    /// It belongs to the conversation and has moved it.
    Fits,
    /// It passes, because its receiver must see it, and changes nothing.
    Passes,
    /// A reset that its receiver may or may not obey: it passes, and if nothing follows the
    /// conversation is soon over.
    InDoubt,
    /// It begins another conversation under the same key.
    Reopens,
    /// The conversation has no place for it now.
    Invalid,
    /// It is outside the windows.
    Outside,
    /// Nobody combines these flags.
    Impossible,
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
        return Track::Impossible;
    }
    if session.state == TcpState::Unreplied && opener_known {
        return match by_opener {
            true => opening::opener_again(session, segment),
            false => opening::answer(session, segment),
        };
    }
    if flags.opens() {
        return late_syn(session, segment, by_opener);
    }
    if flags.syn() {
        return opening::late_answer(session, segment, by_opener);
    }
    if flags.rst() {
        return reset(session, segment, direction);
    }
    let pair = pair(&mut session.sides, direction);
    let windows = pair.sender.window.zip(pair.receiver.window);
    if let Some((sender, receiver)) = &windows {
        match place(&pair, (sender, receiver), segment) {
            Place::Inside => {}
            Place::Late => return Track::Passes,
            Place::Outside => return Track::Outside,
        }
    }
    if by_opener && session.state <= TcpState::SynReceived {
        // Who forges SYNs does not know which answer to acknowledge.
        if let (Some(_), Acked::Upto(least)) = (windows, pair.sender.acked)
            && least.after(Seq(segment.acknowledgement))
        {
            return Track::Outside;
        }
        session.state = TcpState::Established;
    }
    match windows {
        Some(windows) => advance(pair, windows, segment),
        None => learn(pair, segment),
    }
    if flags.fin() {
        finish(session, direction);
    }
    Track::Fits
}

fn finish(session: &mut Session, direction: Direction) {
    let pair = pair(&mut session.sides, direction);
    pair.sender.fin = true;
    session.state = match (session.state, pair.receiver.fin) {
        // A reset is the end; only a SYN begins anew.
        (TcpState::Closed, _) => TcpState::Closed,
        (_, true) => TcpState::TimeWait,
        (_, false) => TcpState::FinWait,
    };
}

/// A SYN where there is an answer already, or where the first was forgotten by a move.
fn late_syn(session: &mut Session, segment: &Segment, by_opener: bool) -> Track {
    let opener = &mut session.sides[session.opened as usize];
    let end = Seq(segment.sequence).plus(length(segment));
    match session.state {
        TcpState::TimeWait | TcpState::Closed => Track::Reopens,
        _ if !by_opener => Track::Invalid,
        TcpState::Unreplied => {
            *opener = Side::of_syn(segment);
            Track::Fits
        }
        // The same again, because the answer was lost.
        TcpState::SynReceived if opener.window.is_some_and(|window| window.sent == end) => {
            Track::Passes
        }
        // RFC 5961, 4: the receiver challenges it, unless it has lost the conversation.
        TcpState::SynReceived | TcpState::Established | TcpState::FinWait => {
            opener.acked = Acked::Noted(end);
            Track::Passes
        }
    }
}

/// RFC 5961, 3.2: a reset closes if its number is exactly the next; another one inside the window
/// is challenged by a receiver that is up to date.
fn reset(session: &mut Session, segment: &Segment, direction: Direction) -> Track {
    if matches!(session.state, TcpState::TimeWait | TcpState::Closed) {
        // The ports may be in use again, and what is known outdated.
        return Track::Passes;
    }
    let pair = pair(&mut session.sides, direction);
    let refuses = pair.receiver.noted(segment);
    if !refuses {
        let Some((sender, receiver)) = pair.sender.window.zip(pair.receiver.window) else {
            return Track::InDoubt;
        };
        // A reset is never late.
        if place(&pair, (&sender, &receiver), segment) != Place::Inside {
            return Track::Outside;
        }
        let at = Seq(segment.sequence);
        let mut exact = at == sender.sent;
        if let Acked::Upto(expected) = pair.receiver.acked {
            if expected.after(at) {
                return Track::Outside;
            }
            exact |= at == expected;
        }
        // Once a side has said that it will send no more, its state may be gone.
        if !exact && session.state == TcpState::Established {
            return Track::InDoubt;
        }
    }
    session.state = TcpState::Closed;
    Track::Fits
}

/// Where a segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    /// Its receiver has had it, or must tell its sender so: were it dropped, each might wait for
    /// the other.
    Late,
    Outside,
}

/// Up to where a segment acknowledges anything, in blocks or in all; what it does not say is taken
/// as the most.
fn acknowledged(segment: &Segment, receiver: &Side, sent: Seq) -> Seq {
    // Some reset with an acknowledgement of zero.
    let nothing = segment.flags.rst() && segment.acknowledgement == 0;
    match segment.flags.ack() && !nothing {
        true => Seq(segment.acknowledgement).plus(receiver.sack_ahead(segment)),
        false => sent,
    }
}

/// The four bounds.
fn place(pair: &Pair<'_>, windows: (&Window, &Window), segment: &Segment) -> Place {
    let (sender, receiver) = windows;
    let first = Seq(segment.sequence);
    let last = first.plus(length(segment));
    let acknowledged = acknowledged(segment, pair.receiver, receiver.sent);
    // Not beyond what the receiver lets the sender send, nothing acknowledged that was never sent.
    if first.after(sender.allowed) || acknowledged.after(receiver.sent) {
        return Place::Outside;
    }
    let lag = sender.largest.max(ACK_LAG_MIN);
    // Nothing that the receiver can't want again, nothing acknowledged that is long forgotten.
    let wanted = last.after(sender.sent.minus(receiver.largest).minus(1));
    let fresh = acknowledged.after(receiver.sent.minus(lag).minus(1));
    let within_twice = |end: Seq, at: Seq, window: u32| {
        end.beyond(at)
            .is_none_or(|by| u64::from(by) <= 2 * u64::from(window.max(ACK_LAG_MIN)))
    };
    match wanted && fresh {
        true => Place::Inside,
        false
            if within_twice(sender.sent, last, receiver.largest)
                && within_twice(receiver.sent, acknowledged, sender.largest)
                && !segment.flags.rst() =>
        {
            Place::Late
        }
        false => Place::Outside,
    }
}

/// What a segment inside the windows does to them. It is neither a SYN nor a reset, and so it
/// acknowledges.
fn advance(pair: Pair<'_>, windows: (Window, Window), segment: &Segment) {
    let (mut sender, mut receiver) = windows;
    let last = Seq(segment.sequence).plus(length(segment));
    let acknowledged = Seq(segment.acknowledgement);
    let advertised = pair.sender.advertised(segment);
    // From the highest block on, as in Linux: a receiver may take what it holds out of its window.
    let ahead = pair.receiver.sack_ahead(segment);
    let edge = acknowledged.plus(ahead);
    if last.after(sender.sent) {
        sender.sent = last;
    }
    if let Some(over) = last.beyond(sender.allowed) {
        receiver.largest = receiver.largest.wrapping_add(over);
    }
    sender.largest = sender.largest.max(advertised.wrapping_add(ahead));
    // A closed window still lets one byte through: the probe (RFC 9293, 3.8.6.1).
    if !receiver.allowed.after(edge.plus(advertised)) {
        receiver.allowed = edge.plus(advertised.max(1));
    }
    pair.sender.window = Some(sender);
    pair.receiver.window = Some(receiver);
    pair.sender.acknowledge(acknowledged);
}

/// A window that nobody told us: learn from this segment and let it pass.
fn learn(pair: Pair<'_>, segment: &Segment) {
    let last = Seq(segment.sequence).plus(length(segment));
    let advertised = pair.sender.advertised(segment);
    let acknowledged = Seq(segment.acknowledgement);
    let edge = acknowledged.plus(pair.receiver.sack_ahead(segment));
    if pair.sender.window.is_none() {
        pair.sender.sack_permitted = true;
    }
    pair.sender.window = Some(match pair.sender.window {
        Some(window) if last.after(window.sent) => Window {
            sent: last,
            ..window
        },
        Some(window) => window,
        None => {
            // What the other side has acknowledged was sent.
            let sent = match pair.receiver.acked {
                Acked::Upto(acked) if acked.after(last) => acked,
                _ => last,
            };
            Window {
                sent,
                allowed: sent.plus(advertised.max(1)),
                largest: advertised.max(1),
            }
        }
    });
    if let Some(window) = pair.receiver.window.as_mut() {
        let allowed = edge.plus(advertised);
        if allowed.after(window.allowed) {
            window.allowed = allowed;
        }
        if edge.after(window.sent) {
            window.sent = edge;
        }
    }
    pair.sender.acknowledge(acknowledged);
}
