//! One side of a TCP conversation.

use crate::parse::{SCALE_MAX, Segment};
use lictor_types::TcpEnd;

const FLAG_KNOWN: u8 = 1;
const FLAG_FIN: u8 = 2;
const FLAG_SCALE_KNOWN: u8 = 4;
const FLAG_SCALE_OFFERED: u8 = 8;
const FLAG_ACKED: u8 = 16;
const FLAG_NOTED: u8 = 32;
const FLAG_SACK_PERMITTED: u8 = 64;

/// A sequence number; the order wraps (RFC 9293, 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seq(pub(super) u32);

impl Seq {
    pub(super) fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    pub(super) fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// Bytes from `other` on to here, if here is later.
    pub(super) fn beyond(self, other: Self) -> Option<u32> {
        let distance = self.0.wrapping_sub(other.0);
        (distance != 0 && distance < 1 << 31).then_some(distance)
    }

    pub(super) fn after(self, other: Self) -> bool {
        self.beyond(other).is_some()
    }
}

/// What is known of the sequence space of one side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// One past the last byte that this side has sent.
    pub(super) sent: Seq,
    /// One past the last byte that the other side lets it send. Before the answer to a SYN, what
    /// an answer acknowledges at least: data that came with the SYN may be left out (RFC 7413).
    pub(super) allowed: Seq,
    /// The largest window that this side has advertised, scaled, in bytes.
    pub(super) largest: u32,
}

/// What a side has said of the other's sequence space, or a SYN that takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Acked {
    #[default]
    Nothing,
    /// It expects this number next.
    Upto(Seq),
    /// It has sent a SYN that ends here, and only the answer tells whether it begins anew.
    Noted(Seq),
}

/// One side of a conversation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Side {
    pub(super) window: Option<Window>,
    pub(super) acked: Acked,
    /// Nobody told us, as after an import: then the largest is assumed.
    pub(super) scale: Option<u8>,
    /// Its SYN carried the option.
    pub(super) scale_offered: bool,
    /// Its SYN let the other side acknowledge blocks, or nobody told us.
    pub(super) sack_permitted: bool,
    pub(super) fin: bool,
}

impl Side {
    /// A side as its SYN, with or without an acknowledgement, shows it. Windows of a SYN are never
    /// scaled (RFC 7323, 2.2).
    pub(crate) fn of_syn(segment: &Segment) -> Self {
        let allowed = Seq(segment.sequence).plus(1);
        Self {
            window: Some(Window {
                sent: allowed.plus(segment.payload),
                allowed,
                largest: u32::from(segment.window).max(1),
            }),
            acked: Acked::Nothing,
            scale: Some(segment.options.scale.unwrap_or(0)),
            scale_offered: segment.options.scale.is_some(),
            sack_permitted: segment.options.sack_permitted,
            fin: false,
        }
    }

    /// It has sent up to here: the window check saw no more than the first fragment of a segment.
    pub(crate) fn sent_up_to(&mut self, last: u32) {
        if let Some(window) = &mut self.window
            && Seq(last).after(window.sent)
        {
            window.sent = Seq(last);
        }
    }

    /// The window that a segment of this side advertises, in bytes.
    pub(super) fn advertised(&self, segment: &Segment) -> u32 {
        let scale = match segment.flags.syn() {
            true => 0,
            false => self.scale.unwrap_or(SCALE_MAX),
        };
        u32::from(segment.window) << scale
    }

    /// How far beyond its acknowledgement a segment of the other side acknowledges this side's
    /// bytes in blocks, if it may.
    pub(super) fn sack_ahead(&self, segment: &Segment) -> u32 {
        match self.sack_permitted || self.window.is_none() {
            true => segment.options.sack_ahead,
            false => 0,
        }
    }

    /// It acknowledges this much; it never takes back.
    pub(super) fn acknowledge(&mut self, upto: Seq) {
        self.acked = match self.acked {
            Acked::Upto(acked) if !upto.after(acked) => Acked::Upto(acked),
            _ => Acked::Upto(upto),
        };
    }

    /// Whether a segment of the other side acknowledges the SYN that was let through.
    pub(super) fn noted(&self, segment: &Segment) -> bool {
        segment.flags.ack() && self.acked == Acked::Noted(Seq(segment.acknowledgement))
    }

    /// Whether a segment of the other side acknowledges this side's first SYN.
    pub(super) fn answered_by(&self, segment: &Segment) -> bool {
        let acknowledged = Seq(segment.acknowledgement);
        segment.flags.ack()
            && self.window.is_some_and(|window| {
                !window.allowed.after(acknowledged) && !acknowledged.after(window.sent)
            })
    }

    pub(crate) fn of_record(end: &TcpEnd) -> Self {
        let has = |flag| end.flags & flag != 0;
        Self {
            window: has(FLAG_KNOWN).then_some(Window {
                sent: Seq(end.end),
                allowed: Seq(end.end_max),
                largest: end.window_max,
            }),
            acked: match (has(FLAG_ACKED), has(FLAG_NOTED)) {
                (_, true) => Acked::Noted(Seq(end.acked)),
                (true, false) => Acked::Upto(Seq(end.acked)),
                (false, false) => Acked::Nothing,
            },
            scale: has(FLAG_SCALE_KNOWN).then_some(end.scale.min(SCALE_MAX)),
            scale_offered: has(FLAG_SCALE_OFFERED),
            sack_permitted: has(FLAG_SACK_PERMITTED),
            fin: has(FLAG_FIN),
        }
    }

    pub(crate) fn record(&self) -> TcpEnd {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let (acked, of_acked) = match self.acked {
            Acked::Nothing => (0, 0),
            Acked::Upto(acked) => (acked.0, FLAG_ACKED),
            Acked::Noted(acked) => (acked.0, FLAG_NOTED),
        };
        let flags = flag(self.window.is_some(), FLAG_KNOWN)
            | flag(self.fin, FLAG_FIN)
            | flag(self.scale.is_some(), FLAG_SCALE_KNOWN)
            | flag(self.scale_offered, FLAG_SCALE_OFFERED)
            | flag(self.sack_permitted, FLAG_SACK_PERMITTED)
            | of_acked;
        let Some(window) = self.window else {
            return TcpEnd {
                acked,
                flags,
                ..TcpEnd::default()
            };
        };
        TcpEnd {
            end: window.sent.0,
            end_max: window.allowed.0,
            window_max: window.largest,
            acked,
            scale: self.scale.unwrap_or(SCALE_MAX),
            flags,
        }
    }
}

/// What a segment takes of the sequence space: SYN and FIN count as a byte each.
pub(super) fn length(segment: &Segment) -> u32 {
    segment.payload + u32::from(segment.flags.syn()) + u32::from(segment.flags.fin())
}
