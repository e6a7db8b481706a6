//! A session as it leaves one host and enters another: nothing in it depends on the host.

use crate::{Direction, Epoch, Generation, RuleId, Segment};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What survives a move: never an interface index, never a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The L2 domain.
    pub segment: Segment,
    /// The IP protocol number.
    pub protocol: u8,
    /// The guest's own address.
    pub local: IpAddr,
    /// The other end's address.
    pub remote: IpAddr,
    /// The guest's port, or the identifier of an ICMP echo.
    pub local_port: u16,
    /// The other end's port. For an ICMP echo: 1 if the guest asked, 2 if it was asked.
    pub remote_port: u16,
}

/// Where a TCP conversation stands. UDP and ICMP use `Unreplied` and `Established`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum TcpState {
    /// One way so far: a SYN, or a datagram without an answer.
    Unreplied = 1,
    /// SYN answered by SYN-ACK.
    SynReceived = 2,
    /// Both ways.
    Established = 3,
    /// One side has sent FIN.
    FinWait = 4,
    /// Both sides have sent FIN.
    TimeWait = 5,
    /// Reset.
    Closed = 6,
}

impl TcpState {
    /// Whether a session in this state may be lost to a flood: there is no answer yet, or a guest
    /// that answers everybody gave it, or the conversation is over.
    #[must_use]
    pub const fn half_open(self) -> bool {
        matches!(self, Self::Unreplied | Self::SynReceived | Self::Closed)
    }

    /// The state with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Unreplied),
            2 => Some(Self::SynReceived),
            3 => Some(Self::Established),
            4 => Some(Self::FinWait),
            5 => Some(Self::TimeWait),
            6 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// One direction's part of the TCP window, as conntrack keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct TcpEnd {
    /// Highest sequence number sent, plus one.
    pub end: u32,
    /// Highest sequence number that the other side allows; before the answer to a SYN, the least
    /// that one may acknowledge.
    pub end_max: u32,
    /// Largest window this side has advertised, scaled.
    pub window_max: u32,
    /// Window scale of this side (RFC 7323), 0 to 14.
    pub scale: u8,
    /// Highest sequence number of the other side that this side has acknowledged, or one past a SYN
    /// of its own of which only the answer can tell whether it begins anew; see `flags`.
    pub acked: u32,
    /// Bit 0: the window is known. Bit 1: this side sent FIN. Bit 2: the scale is known. Bit 3: its
    /// SYN offered scaling. Bit 4: `acked` is what it acknowledged. Bit 5: `acked` is of a SYN.
    /// Bit 6: its SYN permitted selective acknowledgements.
    pub flags: u8,
}

/// A live session, with times relative to now so that two hosts' clocks need not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The conversation.
    pub key: SessionKey,
    /// Who opened it: `Egress` if the guest did.
    pub opened: Direction,
    /// Where it stands.
    pub state: TcpState,
    /// The rule that admitted it.
    pub rule: RuleId,
    /// The release that admitted it.
    pub generation: Generation,
    /// The guest's binding when it was admitted.
    pub local_epoch: Epoch,
    /// The other end's binding when it was admitted.
    pub remote_epoch: Epoch,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Milliseconds until it expires without another packet.
    pub expires_in_ms: u32,
    /// Packets from the guest and toward it.
    pub packets: [u64; 2],
    /// Bytes from the guest and toward it.
    pub bytes: [u64; 2],
    /// The window from the guest and toward it.
    pub tcp: [TcpEnd; 2],
}
