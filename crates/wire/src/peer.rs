//! What two agents say to each other: frames of a length, a kind and a body. Control is JSON,
//! sessions are the binary chunks of [`crate::sessions`]. Nothing here is believed because of its
//! bytes alone: the connection proves whose key sent it, and tickets and records carry signatures
//! of their own.

mod format;

pub use format::Format;

use crate::sessions::{Chunk, ChunkError};
use crate::{Envelope, Refusal};
use format::Four;
use lictor_evidence::{ControlFact, MoveSide};
use lictor_types::{Counted, Digest, Epoch, Generation, GuestId, Tallies, Tally, VnicId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The newest format that this version speaks, see [`Format`].
pub const FORMAT: u32 = Format::NEWEST.number();
/// Bytes before a frame's body: its length, the kind included, and the kind.
pub const HEADER_BYTES: usize = 5;
/// Bytes of a session frame before its chunk: the ticket and the vnic.
const SESSIONS_HEAD_BYTES: usize = 36;
/// Bytes of one frame after its length: the longest lists below fit. Frames of another host wait in
/// memory for the owner, so they are no longer than they must be.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Slots in one list of those that are empty now; a longer list is sent as several.
pub const GONE_MAX: usize = 65_536;
/// Rows in one list of what was counted; a longer list is sent as several.
pub const COUNTED_ROWS_MAX: usize = 4_096;

const KIND_CONTROL: u8 = 1;
const KIND_SESSIONS: u8 = 2;

/// What one agent says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Control {
    /// Does this guest run under your custody?
    Custody {
        /// The guest.
        guest: GuestId,
    },
    /// The answer to [`Control::Custody`].
    CustodyHeld {
        /// The guest.
        guest: GuestId,
        /// Whether it does.
        held: bool,
        /// The newest custody epoch that the speaker knows of.
        epoch: u64,
        /// Whether it took the guest's links down before the guest left it. Not in format 4.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    },
    /// The source asks the target to admit a move; its own signature is on the ticket.
    Admit {
        /// The number of the format in which this is said.
        format: u32,
        /// What the source's bindings say is newest.
        bindings: Epoch,
        /// The ticket, signed by the source.
        ticket: Envelope,
    },
    /// The target admits it: the ticket, signed by both.
    Admitted {
        /// The ticket.
        ticket: Envelope,
        /// The target's controls, as it saw them work.
        controls: Vec<ControlFact>,
    },
    /// The target does not admit it, with every reason.
    NotAdmitted {
        /// The ticket's digest.
        ticket: Digest,
        /// All of them.
        reasons: Vec<Refusal>,
    },
    /// The source asks what the target would have against a move, which nobody has begun.
    Check {
        /// The number of the format in which this is said.
        format: u32,
        /// What the source's bindings say is newest.
        bindings: Epoch,
        /// A ticket as it would be, signed by the source.
        ticket: Envelope,
    },
    /// The answer to [`Control::Check`]: nothing is admitted by it.
    Checked {
        /// The ticket's digest.
        ticket: Digest,
        /// All of them.
        reasons: Vec<Refusal>,
        /// The target's controls, as it saw them work.
        controls: Vec<ControlFact>,
    },
    /// A QEMU waits here for this guest, or is about to, and nobody has asked for its move. If it
    /// is yours, ask me to admit it. Not in format 4.
    Wanted {
        /// The guest.
        guest: GuestId,
    },
    /// The answer to [`Control::Wanted`] of who does not ask. Not in format 4.
    NotHandedOver {
        /// The guest.
        guest: GuestId,
        /// What speaks against it there; nothing, if the guest is not there.
        reasons: Vec<Refusal>,
    },
    /// The guest that this order names was taken here by it, or is about to be; the answer is
    /// [`Control::CustodyHeld`]. Not in format 4.
    Evacuated {
        /// The order, signed by two persons.
        order: Envelope,
    },
    /// This guest has left me without a move, and no agent claims it. Not in format 4.
    Unclaimed {
        /// The guest.
        guest: GuestId,
        /// The custody epoch that has ended with that.
        epoch: u64,
    },
    /// One step of an admitted move.
    Move {
        /// The ticket's digest.
        ticket: Digest,
        /// The step.
        step: Step,
    },
}

/// A step of an admitted move. The order is that of the agent's two state machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Target: the vnics are in hold and the interlock is in place.
    Ready,
    /// Source: what changes while the guest runs is little enough now.
    Copied,
    /// Source: these slots of a table of sessions are empty now.
    Gone {
        /// The vnic.
        vnic: VnicId,
        /// The table.
        table: u32,
        /// At most [`GONE_MAX`].
        slots: Vec<u32>,
    },
    /// Source: this round of all vnics is complete; the guest still runs.
    Round {
        /// Which, from 1 on.
        number: u64,
    },
    /// Target: so many chunks of sessions were taken in since the move began.
    Taken {
        /// All of them.
        chunks: u64,
    },
    /// Source: this was counted of a vnic until it was fenced.
    Counted {
        /// The vnic.
        vnic: VnicId,
        /// At most [`COUNTED_ROWS_MAX`].
        rows: Vec<(Counted, Tally)>,
    },
    /// Source: what changed since the last round is complete, the vnics are fenced.
    Delta,
    /// Target: may I open?
    Commit,
    /// Source: yes, and from now on I stay shut until you release me.
    Granted {
        /// How long the vnics have been fenced, by the source's own clock.
        fenced_us: u64,
    },
    /// Source: no; the guest goes on here.
    Refused,
    /// Target: I failed before a grant; the guest goes on at your side.
    Nack {
        /// Why.
        cause: String,
    },
    /// Target: I had your grant, but my guest ended without having run.
    Released,
    /// Target: the guest runs here, and this record is signed by me.
    Complete {
        /// The move record.
        record: Envelope,
        /// The [`SaveRecord`] that the source signed: it tells a source that was restarted what it
        /// had promised.
        save: Envelope,
    },
    /// Source: the record with both signatures.
    Recorded {
        /// The move record.
        record: Envelope,
    },
    /// Source: the move is given up.
    Abort {
        /// Why.
        cause: String,
    },
}

/// The payload type under which the source signs a [`SaveRecord`].
pub const SAVE_TYPE: &str = "application/vnd.lictor.save.v1+json";

/// What Save() returns and QEMU carries to Load(): small, signed, and bound to one ticket or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SaveRecord {
    /// The guest leaves under a ticket; its vnics are fenced.
    Move {
        /// The ticket's digest.
        ticket: Digest,
        /// The guest.
        guest: GuestId,
        /// The custody epoch that ends with this record.
        custody: u64,
        /// Sessions that the target must have now.
        count: u64,
        /// The digest of all that was said of them, see [`crate::Transcript`].
        digest: Digest,
        /// The digest of what was counted, see [`counted_digest`]; not there in older records.
        #[serde(default)]
        counted: Option<Digest>,
        /// When the vnics were fenced, in milliseconds of Unix time.
        fenced_ms: u64,
        /// What the source enforces for the guest.
        source: MoveSide,
    },
    /// Somebody takes a snapshot: nothing is fenced, and no sessions travel.
    Snapshot {
        /// The guest.
        guest: GuestId,
        /// The custody epoch in which it was taken.
        custody: u64,
        /// When, in milliseconds of Unix time.
        taken_ms: u64,
        /// The release then.
        generation: Generation,
    },
}

/// The digest over what was counted of all vnics of a guest; one of which nothing was counted is
/// not sent, and does not matter.
#[must_use]
pub fn counted_digest(counted: &BTreeMap<VnicId, Tallies>) -> Digest {
    let listed: Vec<(VnicId, Vec<_>)> = counted
        .iter()
        .filter(|(_, tallies)| !tallies.is_empty())
        .map(|(vnic, tallies)| (*vnic, tallies.iter().collect()))
        .collect();
    Digest::of(&serde_json::to_vec(&listed).expect("a list has no keys"))
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// JSON.
    Control(Control),
    /// Sessions that are new or have changed.
    Sessions {
        /// The ticket's digest.
        ticket: Digest,
        /// The vnic.
        vnic: VnicId,
        /// At most [`crate::sessions::CHUNK_RECORDS_MAX`] of them.
        chunk: Chunk,
    },
}

/// Why a frame is refused. The connection is closed then.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is impossible.
    #[error("a frame of {found} bytes; expected 1 to {FRAME_BYTES_MAX}")]
    Length {
        /// What the header says.
        found: usize,
    },
    /// The kind is not known.
    #[error("a frame of kind {0}; expected 1 or 2")]
    Kind(u8),
    /// The control message cannot be read.
    #[error("a control message cannot be read: {0}")]
    Control(String),
    /// The format has no words for it.
    #[error("format {0} has no words for this message")]
    Unsayable(u32),
    /// The session chunk cannot be read.
    #[error("a session chunk cannot be read")]
    Sessions(#[from] ChunkError),
}

impl Frame {
    /// The frame's bytes in a format, header included.
    ///
    /// # Errors
    /// [`FrameError::Unsayable`] if the format does not know such a message.
    ///
    /// # Panics
    /// Never: every message has a JSON form.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, FrameError> {
        let (kind, body) = match self {
            Self::Control(control) => (KIND_CONTROL, said(control, format)?),
            Self::Sessions {
                ticket,
                vnic,
                chunk,
            } => {
                let mut body = ticket.0.to_vec();
                body.extend(vnic.0.to_le_bytes());
                body.extend(chunk.bytes());
                (KIND_SESSIONS, body)
            }
        };
        let length = u32::try_from(body.len() + 1).expect("limits keep frames far below 4 GiB");
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(body);
        Ok(bytes)
    }

    /// How many bytes follow the length, for a reader that has read the first four.
    ///
    /// # Errors
    /// [`FrameError::Length`], before anything is allocated.
    pub fn length(header: [u8; 4]) -> Result<usize, FrameError> {
        let found = u32::from_le_bytes(header) as usize;
        if found == 0 || found > FRAME_BYTES_MAX {
            return Err(FrameError::Length { found });
        }
        Ok(found)
    }

    /// Reads the bytes that follow the length, in a format.
    ///
    /// # Errors
    /// [`FrameError`]; nothing of the frame is used then.
    pub fn decode(format: Format, bytes: &[u8]) -> Result<Self, FrameError> {
        let (kind, body) = bytes.split_first().ok_or(FrameError::Length { found: 0 })?;
        match *kind {
            KIND_CONTROL => heard(format, body)
                .map(Self::Control)
                .map_err(|error| FrameError::Control(error.to_string())),
            KIND_SESSIONS => {
                let (head, chunk) = body
                    .split_first_chunk::<SESSIONS_HEAD_BYTES>()
                    .ok_or(FrameError::Length { found: bytes.len() })?;
                let mut ticket = [0; 32];
                ticket.copy_from_slice(&head[..32]);
                let vnic = u32::from_le_bytes([head[32], head[33], head[34], head[35]]);
                Ok(Self::Sessions {
                    ticket: Digest(ticket),
                    vnic: VnicId(vnic),
                    chunk: Chunk::from_bytes(chunk)?,
                })
            }
            kind => Err(FrameError::Kind(kind)),
        }
    }
}

fn said(control: &Control, format: Format) -> Result<Vec<u8>, FrameError> {
    let json = match format {
        Format::Five => serde_json::to_vec(control),
        Format::Four => {
            let four = Four::of(control.clone());
            serde_json::to_vec(&four.ok_or(FrameError::Unsayable(format.number()))?)
        }
    };
    Ok(json.expect("control has only string keys"))
}

fn heard(format: Format, body: &[u8]) -> Result<Control, serde_json::Error> {
    match format {
        Format::Five => serde_json::from_slice(body),
        Format::Four => serde_json::from_slice::<Four>(body).map(Control::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::{CHUNK_RECORDS_MAX, RECORD_BYTES_MAX};
    use lictor_types::{
        Direction, Reason, RuleId, Segment, SessionKey, SessionRecord, TcpEnd, TcpState,
    };
    use std::net::IpAddr;

    fn record(port: u16) -> SessionRecord {
        SessionRecord {
            key: SessionKey {
                segment: Segment(1),
                protocol: 6,
                local: IpAddr::from([10, 77, 0, 10]),
                remote: IpAddr::from([10, 77, 0, 100]),
                local_port: port,
                remote_port: 40_000,
            },
            opened: Direction::Ingress,
            state: TcpState::Established,
            rule: RuleId(7),
            generation: Generation(3),
            local_epoch: Epoch(1),
            remote_epoch: Epoch(2),
            idle_ms: 5,
            expires_in_ms: 60_000,
            packets: [1, 2],
            bytes: [3, 4],
            tcp: [TcpEnd::default(); 2],
        }
    }

    fn tally(number: u64) -> Tally {
        Tally {
            packets: number,
            bytes: number,
            sessions: number,
            observed: number,
        }
    }

    fn frames() -> Vec<Frame> {
        let step = |step| {
            Frame::Control(Control::Move {
                ticket: Digest::of(b"ticket"),
                step,
            })
        };
        vec![
            Frame::Control(Control::Custody {
                guest: GuestId::new("web").expect("a valid name"),
            }),
            step(Step::Ready),
            step(Step::Gone {
                vnic: VnicId(4),
                table: 2,
                slots: vec![1, u32::MAX],
            }),
            step(Step::Counted {
                vnic: VnicId(4),
                rows: vec![
                    (Counted::Steered(Direction::Egress), tally(1)),
                    (
                        Counted::Reason(Direction::Ingress, Reason::Session),
                        tally(2),
                    ),
                    (Counted::Rule(RuleId(7)), tally(u64::MAX)),
                ],
            }),
            step(Step::Granted { fenced_us: 812 }),
            Frame::Control(Control::NotAdmitted {
                ticket: Digest::of(b"ticket"),
                reasons: vec![Refusal::HostUnknown, Refusal::GuestUnknown],
            }),
            Frame::Sessions {
                ticket: Digest::of(b"ticket"),
                vnic: VnicId(4),
                chunk: Chunk::of(0, &[(1, record(1)), (2, record(2))]),
            },
            step(Step::Round { number: 1 }),
            step(Step::Taken { chunks: 9 }),
        ]
    }

    #[test]
    fn a_frame_decodes_to_what_was_encoded() {
        for frame in frames() {
            let bytes = frame.encode(Format::NEWEST).expect("it has words");
            let header = bytes[..4].try_into().expect("four bytes");
            assert_eq!(Frame::length(header), Ok(bytes.len() - 4));
            assert_eq!(Frame::decode(Format::NEWEST, &bytes[4..]), Ok(frame));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for frame in frames() {
            let bytes = frame.encode(Format::NEWEST).expect("it has words");
            for length in 4..bytes.len() {
                let part = &bytes[4..length];
                assert!(
                    Frame::decode(Format::NEWEST, part).is_err(),
                    "{length} bytes of {frame:?}"
                );
            }
        }
    }

    #[test]
    fn lengths_outside_the_limit_are_refused_before_they_are_read() {
        let check = |found: usize, ok: bool| {
            let header = u32::try_from(found).expect("fits").to_le_bytes();
            assert_eq!(Frame::length(header).is_ok(), ok, "{found}");
        };
        check(0, false);
        check(1, true);
        check(FRAME_BYTES_MAX, true);
        check(FRAME_BYTES_MAX + 1, false);
        assert_eq!(
            Frame::decode(Format::NEWEST, &[9, 1]),
            Err(FrameError::Kind(9))
        );
    }

    #[test]
    fn the_longest_lists_fit_into_a_frame() {
        const _: () = assert!(CHUNK_RECORDS_MAX * RECORD_BYTES_MAX + 1_024 <= FRAME_BYTES_MAX);
        let widest = (0..CHUNK_RECORDS_MAX as u32).map(|slot| (slot, record(slot as u16)));
        let widest = Vec::from_iter(widest);
        let longest = [
            Frame::Control(Control::Move {
                ticket: Digest::of(b"ticket"),
                step: Step::Gone {
                    vnic: VnicId(u32::MAX),
                    table: u32::MAX,
                    slots: vec![u32::MAX; GONE_MAX],
                },
            }),
            Frame::Control(Control::Move {
                ticket: Digest::of(b"ticket"),
                step: Step::Counted {
                    vnic: VnicId(u32::MAX),
                    rows: vec![
                        (Counted::Rule(RuleId(u32::MAX)), tally(u64::MAX));
                        COUNTED_ROWS_MAX
                    ],
                },
            }),
            Frame::Sessions {
                ticket: Digest::of(b"ticket"),
                vnic: VnicId(u32::MAX),
                chunk: Chunk::of(0, &widest),
            },
        ];
        for frame in longest {
            let length = frame.encode(Format::NEWEST).expect("it has words").len() - 4;
            assert!(length <= FRAME_BYTES_MAX, "{length}");
        }
    }

    #[test]
    fn the_digest_of_what_was_counted_sees_every_vnic_row_and_number() {
        let of = |vnic: u32, rule: u32, number: u64| {
            let tallies = Tallies::from([(Counted::Rule(RuleId(rule)), tally(number))]);
            counted_digest(&BTreeMap::from([(VnicId(vnic), tallies)]))
        };
        let one = of(1, 1, 1);
        assert_eq!(one, of(1, 1, 1));
        for other in [of(2, 1, 1), of(1, 2, 1), of(1, 1, 2)] {
            assert_ne!(one, other);
        }
        let silent = BTreeMap::from([(VnicId(1), Tallies::new())]);
        assert_eq!(counted_digest(&silent), counted_digest(&BTreeMap::new()));
    }
}
