//! SCTP: the verification tags and states of an association, as far as the first chunk of each
//! packet shows (RFC 9260).

use crate::session::Session;
use crate::tcp::Track;
use lictor_types::{Direction, TcpEnd, TcpState};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

const FLAG_KNOWN: u8 = 1;
const FLAG_NOTED: u8 = 32;

/// The head of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    /// The verification tag.
    pub(crate) tag: u32,
    /// Of the first chunk.
    pub(crate) kind: u8,
    /// The sender knows no tag of its own and gives back the receiver's (8.5.1).
    pub(crate) reflected: bool,
    /// The tag that an INIT or INIT-ACK wants; zero if it is cut.
    pub(crate) wanted: u32,
}

/// What one side's packets carry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tags {
    carries: Option<u32>,
    /// This side has named another tag, to begin anew.
    noted: Option<u32>,
}

impl Tags {
    pub(crate) fn of_record(end: &TcpEnd) -> Self {
        Self {
            carries: (end.flags & FLAG_KNOWN != 0).then_some(end.end),
            noted: (end.flags & FLAG_NOTED != 0).then_some(end.acked),
        }
    }

    pub(crate) fn record(&self) -> TcpEnd {
        let flag = |tag: Option<u32>, flag| if tag.is_some() { flag } else { 0 };
        TcpEnd {
            end: self.carries.unwrap_or(0),
            acked: self.noted.unwrap_or(0),
            flags: flag(self.carries, FLAG_KNOWN) | flag(self.noted, FLAG_NOTED),
            ..TcpEnd::default()
        }
    }
}

impl Chunk {
    /// 8.5.1: an INIT has no verification tag, everything else has one. A tag is never zero.
    pub(crate) fn impossible(&self) -> bool {
        match self.kind {
            INIT => self.tag != 0 || self.wanted == 0,
            INIT_ACK => self.tag == 0 || self.wanted == 0,
            _ => self.tag == 0,
        }
    }

    /// An association begins with an INIT, another path of one with a HEARTBEAT (8.3).
    pub(crate) fn opens(&self) -> bool {
        matches!(self.kind, INIT | HEARTBEAT)
    }

    fn ends(&self) -> bool {
        matches!(self.kind, ABORT | SHUTDOWN_COMPLETE)
    }
}

fn other(direction: Direction) -> usize {
    1 - direction as usize
}

/// Both sides' tags, as the packet that opens the session shows them.
pub(crate) fn first(chunk: &Chunk, opener: Direction) -> [Tags; 2] {
    let mut tags = [Tags::default(); 2];
    match chunk.kind {
        INIT => tags[other(opener)].carries = Some(chunk.wanted),
        _ => tags[opener as usize].carries = Some(chunk.tag),
    }
    tags
}

/// Judges a packet of a live session and moves the session.
pub(crate) fn track(session: &mut Session, chunk: &Chunk, direction: Direction) -> Track {
    if chunk.impossible() {
        return Track::Invalid;
    }
    if chunk.kind == INIT {
        return init(session, chunk, direction);
    }
    if !verified(session, chunk, direction) {
        return anew(session, chunk, direction);
    }
    if chunk.ends() {
        session.state = TcpState::Closed;
        return Track::Fits;
    }
    let track = match session.state {
        TcpState::Unreplied | TcpState::SynReceived => half_open(session, chunk, direction),
        _ => standing(session, chunk),
    };
    if track != Track::Invalid {
        session.tags[direction as usize].carries = Some(chunk.tag);
    }
    track
}

/// Once more, from the other side too, or from one that has restarted (5.2).
fn init(session: &mut Session, chunk: &Chunk, direction: Direction) -> Track {
    match session.state {
        TcpState::TimeWait | TcpState::Closed => Track::Reopens,
        TcpState::Unreplied => {
            session.tags[other(direction)].carries = Some(chunk.wanted);
            Track::Fits
        }
        TcpState::SynReceived | TcpState::Established | TcpState::FinWait => {
            session.tags[direction as usize].noted = Some(chunk.wanted);
            Track::Passes
        }
    }
}

/// Whether the tag is the one that this side's packets carry, or may be learnt: until an INIT is
/// answered, whoever sent it knows none.
fn verified(session: &Session, chunk: &Chunk, direction: Direction) -> bool {
    let carries = session.tags[direction as usize].carries;
    let of_other = session.tags[other(direction)].carries;
    if chunk.ends() && chunk.reflected {
        return of_other.is_none_or(|tag| tag == chunk.tag);
    }
    let asks = direction == session.opened && session.state == TcpState::Unreplied;
    match carries {
        Some(tag) => tag == chunk.tag,
        None => !(asks && of_other.is_some()),
    }
}

/// What belongs to an association that begins anew beside the one that is known.
fn anew(session: &mut Session, chunk: &Chunk, direction: Direction) -> Track {
    let (own, other) = (direction as usize, other(direction));
    if session.tags[other].noted != Some(chunk.tag) {
        return Track::Invalid;
    }
    match (chunk.kind, session.tags[own].noted) {
        (INIT_ACK, _) => {
            session.tags[own].noted = Some(chunk.wanted);
            Track::Passes
        }
        (ABORT, _) => Track::Passes,
        (COOKIE_ECHO, Some(of_own)) => {
            let tags = |carries| Tags {
                carries: Some(carries),
                noted: None,
            };
            session.tags[own] = tags(chunk.tag);
            session.tags[other] = tags(of_own);
            Track::Fits
        }
        _ => Track::Invalid,
    }
}

/// Before an association stands, or another path of it.
fn half_open(session: &mut Session, chunk: &Chunk, direction: Direction) -> Track {
    let unreplied = session.state == TcpState::Unreplied;
    match chunk.kind {
        INIT_ACK => {
            session.tags[other(direction)].carries = Some(chunk.wanted);
            session.state = TcpState::SynReceived;
            return Track::Fits;
        }
        COOKIE_ECHO | COOKIE_ACK if unreplied => return Track::Invalid,
        COOKIE_ECHO => return Track::Fits,
        COOKIE_ACK => {
            session.state = TcpState::Established;
            return Track::Fits;
        }
        _ => {}
    }
    if direction == session.opened {
        return match chunk.kind {
            HEARTBEAT => Track::Fits,
            _ => Track::Passes,
        };
    }
    // An INIT is answered by an INIT-ACK.
    let of_opener = session.tags[session.opened as usize].carries;
    let of_other = session.tags[other(session.opened)].carries;
    if unreplied && of_other.is_some() && of_opener.is_none() {
        return Track::Invalid;
    }
    session.state = TcpState::Established;
    Track::Fits
}

fn standing(session: &mut Session, chunk: &Chunk) -> Track {
    session.state = match (chunk.kind, session.state) {
        (INIT_ACK, _) => return Track::Passes,
        (SHUTDOWN, TcpState::Established) => TcpState::FinWait,
        (SHUTDOWN_ACK, TcpState::FinWait) => TcpState::TimeWait,
        (_, state) => state,
    };
    Track::Fits
}
