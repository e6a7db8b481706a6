//! Sessions on their way from one host to another: fixed little-endian records behind a versioned
//! header, so that a chunk can be checked before anything of it is used.

use lictor_types::{
    Digest, Direction, Epoch, Generation, RuleId, Segment, SessionKey, SessionRecord, TcpEnd,
    TcpState,
};
use std::net::{IpAddr, Ipv6Addr};

/// The only format that this version reads and writes.
pub const FORMAT: u16 = 2;
/// Bytes of one record.
pub const RECORD_BYTES: usize = 152;
/// Records in one chunk.
pub const CHUNK_RECORDS_MAX: usize = 4_096;
const MAGIC: [u8; 4] = *b"LSES";
const HEADER_BYTES: usize = 12;
const KEY_BYTES: usize = 42;
/// Bytes of a ticket's digest that go into a fingerprint.
const TICKET_BYTES: usize = 12;

/// Why a chunk is refused. Nothing of it is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Too short, too long, or not ours.
    #[error("a session chunk of {found} bytes, expected {expected}")]
    Length {
        /// Bytes found.
        found: usize,
        /// Bytes that the header promises.
        expected: usize,
    },
    /// Not a session chunk, or of another format.
    #[error("not a session chunk in format {FORMAT}")]
    Format,
    /// A field has a value outside its range.
    #[error("record {index} of a session chunk has an impossible {field}")]
    Field {
        /// Which record.
        index: usize,
        /// Which field.
        field: &'static str,
    },
}

/// Encodes at most [`CHUNK_RECORDS_MAX`] records.
///
/// # Panics
/// If there are more records than fit in one chunk: the caller cuts with `chunks`.
#[must_use]
pub fn encode(records: &[SessionRecord]) -> Vec<u8> {
    assert!(
        records.len() <= CHUNK_RECORDS_MAX,
        "the caller cuts into chunks"
    );
    let mut bytes = Vec::with_capacity(HEADER_BYTES + records.len() * RECORD_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((RECORD_BYTES as u16).to_le_bytes());
    bytes.extend((records.len() as u32).to_le_bytes());
    for record in records {
        encode_record(record, &mut bytes);
    }
    bytes
}

fn encode_record(record: &SessionRecord, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    encode_key(&record.key, bytes);
    bytes.extend([record.opened as u8, record.state as u8]);
    bytes.extend(record.rule.0.to_le_bytes());
    for number in [
        record.generation.0,
        record.local_epoch.0,
        record.remote_epoch.0,
    ] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(record.idle_ms.to_le_bytes());
    bytes.extend(record.expires_in_ms.to_le_bytes());
    for number in record.packets.iter().chain(&record.bytes) {
        bytes.extend(number.to_le_bytes());
    }
    for end in &record.tcp {
        for number in [end.end, end.end_max, end.window_max, end.acked] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([end.scale, end.flags, 0, 0]);
    }
    bytes.resize(start + RECORD_BYTES, 0);
}

fn encode_key(key: &SessionKey, bytes: &mut Vec<u8>) {
    for address in [key.local, key.remote] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend(key.segment.0.to_le_bytes());
    bytes.extend(key.local_port.to_le_bytes());
    bytes.extend(key.remote_port.to_le_bytes());
    bytes.push(key.protocol);
    bytes.push(0);
}

/// Decodes a whole chunk.
///
/// # Errors
/// [`ChunkError`] if a length, the format or a field is impossible.
pub fn decode(bytes: &[u8]) -> Result<Vec<SessionRecord>, ChunkError> {
    if bytes.len() < HEADER_BYTES {
        return Err(ChunkError::Length {
            found: bytes.len(),
            expected: HEADER_BYTES,
        });
    }
    let mut reader = Reader(bytes);
    let known = reader.take::<4>() == MAGIC
        && u16::from_le_bytes(reader.take()) == FORMAT
        && usize::from(u16::from_le_bytes(reader.take())) == RECORD_BYTES;
    let count = u32::from_le_bytes(reader.take()) as usize;
    if !known || count > CHUNK_RECORDS_MAX {
        return Err(ChunkError::Format);
    }
    let expected = HEADER_BYTES + count * RECORD_BYTES;
    if bytes.len() != expected {
        return Err(ChunkError::Length {
            found: bytes.len(),
            expected,
        });
    }
    reader
        .0
        .chunks_exact(RECORD_BYTES)
        .enumerate()
        .map(|(i, b)| decode_record(i, b))
        .collect()
}

fn decode_record(index: usize, bytes: &[u8]) -> Result<SessionRecord, ChunkError> {
    let impossible = |field| ChunkError::Field { index, field };
    let mut reader = Reader(bytes);
    let key = reader.key();
    let opened = match reader.take::<1>() {
        [0] => Direction::Egress,
        [1] => Direction::Ingress,
        _ => return Err(impossible("direction")),
    };
    let [state] = reader.take();
    let state = TcpState::from_number(state).ok_or_else(|| impossible("state"))?;
    let rule = RuleId(u32::from_le_bytes(reader.take()));
    let [generation, local_epoch, remote_epoch] =
        std::array::from_fn(|_| u64::from_le_bytes(reader.take()));
    let idle_ms = u32::from_le_bytes(reader.take());
    let expires_in_ms = u32::from_le_bytes(reader.take());
    let packets = std::array::from_fn(|_| u64::from_le_bytes(reader.take()));
    let octets = std::array::from_fn(|_| u64::from_le_bytes(reader.take()));
    let tcp = std::array::from_fn(|_| reader.tcp_end());
    if tcp.iter().any(|end| end.scale > 14) {
        return Err(impossible("window scale"));
    }
    Ok(SessionRecord {
        key,
        opened,
        state,
        rule,
        generation: Generation(generation),
        local_epoch: Epoch(local_epoch),
        remote_epoch: Epoch(remote_epoch),
        idle_ms,
        expires_in_ms,
        packets,
        bytes: octets,
        tcp,
    })
}

/// A session's name in one move: keyed with the move's ticket, whose nonce no guest knows, so that
/// no guest can make two sessions of one name. Never zero.
#[must_use]
pub fn fingerprint(ticket: &Digest, key: &SessionKey) -> u64 {
    // One block of the hash: a million of these are made for a large guest.
    let mut bytes = Vec::with_capacity(TICKET_BYTES + KEY_BYTES);
    bytes.extend(&ticket.0[..TICKET_BYTES]);
    encode_key(key, &mut bytes);
    let digest = Digest::of(&bytes).0;
    let number = u64::from_le_bytes(std::array::from_fn(|at| digest[at]));
    number.max(1)
}

/// A whole chunk, checked, with its digest: as it is sent and as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    bytes: Vec<u8>,
    digest: Digest,
}

impl Chunk {
    /// Encodes at most [`CHUNK_RECORDS_MAX`] records.
    ///
    /// # Panics
    /// As [`encode`].
    #[must_use]
    pub fn of(records: &[SessionRecord]) -> Self {
        let bytes = encode(records);
        let digest = Digest::of(&bytes);
        Self { bytes, digest }
    }

    /// Takes what came.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChunkError> {
        decode(bytes)?;
        let (bytes, digest) = (bytes.to_vec(), Digest::of(bytes));
        Ok(Self { bytes, digest })
    }

    /// Its records.
    ///
    /// # Panics
    /// Never: they were checked when the chunk was made.
    #[must_use]
    pub fn records(&self) -> Vec<SessionRecord> {
        decode(&self.bytes).expect("checked when it was made")
    }

    /// How many they are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        ((self.bytes.len() - HEADER_BYTES) / RECORD_BYTES) as u64
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of its bytes.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

/// Takes fixed fields off the front; lengths were checked before.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_at(N);
        self.0 = tail;
        head.try_into().expect("split at N")
    }

    fn key(&mut self) -> SessionKey {
        let [local, remote] =
            std::array::from_fn(|_| Ipv6Addr::from(self.take::<16>()).to_canonical());
        let segment = Segment(u32::from_le_bytes(self.take()));
        let local_port = u16::from_le_bytes(self.take());
        let remote_port = u16::from_le_bytes(self.take());
        let [protocol, _] = self.take();
        SessionKey {
            segment,
            protocol,
            local,
            remote,
            local_port,
            remote_port,
        }
    }

    fn tcp_end(&mut self) -> TcpEnd {
        let [end, end_max, window_max, acked] =
            std::array::from_fn(|_| u32::from_le_bytes(self.take()));
        let [scale, flags, _, _] = self.take();
        TcpEnd {
            end,
            end_max,
            window_max,
            acked,
            scale,
            flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(port: u16) -> SessionRecord {
        SessionRecord {
            key: SessionKey {
                segment: Segment(7),
                protocol: 6,
                local: "10.1.0.10".parse().expect("valid"),
                remote: "2001:db8::1".parse().expect("valid"),
                local_port: port,
                remote_port: 443,
            },
            opened: Direction::Ingress,
            state: TcpState::Established,
            rule: RuleId(0x0102_0304),
            generation: Generation(9),
            local_epoch: Epoch(3),
            remote_epoch: Epoch(4),
            idle_ms: 12,
            expires_in_ms: 3_600_000,
            packets: [1, 2],
            bytes: [u64::MAX, 4],
            tcp: [
                TcpEnd {
                    end: 1,
                    end_max: 2,
                    window_max: 3,
                    acked: 4,
                    scale: 14,
                    flags: 1,
                },
                TcpEnd {
                    end: 5,
                    end_max: 6,
                    window_max: 7,
                    acked: 8,
                    scale: 0,
                    flags: 3,
                },
            ],
        }
    }

    #[test]
    fn a_chunk_decodes_to_what_was_encoded() {
        for count in [0, 1, CHUNK_RECORDS_MAX] {
            let records: Vec<_> = (0..count).map(|port| record(port as u16)).collect();
            let bytes = encode(&records);
            assert_eq!(bytes.len(), HEADER_BYTES + count * RECORD_BYTES);
            assert_eq!(decode(&bytes), Ok(records));
        }
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let bytes = encode(&[record(1), record(2)]);
        for length in 0..bytes.len() {
            assert!(
                decode(&bytes[..length]).is_err(),
                "{length} bytes must be refused"
            );
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(decode(&longer), Err(ChunkError::Length { .. })));
    }

    #[test]
    fn impossible_fields_are_named() {
        let check = |offset: usize, value: u8, field: &'static str| {
            let mut bytes = encode(&[record(1)]);
            bytes[HEADER_BYTES + offset] = value;
            assert_eq!(decode(&bytes), Err(ChunkError::Field { index: 0, field }));
        };
        check(42, 2, "direction");
        check(43, 0, "state");
        check(43, 7, "state");
        check(128, 15, "window scale");
        check(148, 15, "window scale");
    }

    #[test]
    fn more_records_than_a_chunk_holds_are_refused_before_they_are_read() {
        let mut bytes = encode(&[record(1)]);
        bytes[8..12].copy_from_slice(&(CHUNK_RECORDS_MAX as u32 + 1).to_le_bytes());
        assert_eq!(decode(&bytes), Err(ChunkError::Format));
    }

    #[test]
    fn a_chunk_that_came_is_what_was_sent_or_is_refused() {
        let sent = Chunk::of(&[record(1), record(2)]);
        assert_eq!(sent.records(), [record(1), record(2)]);
        assert_eq!(Chunk::from_bytes(sent.bytes()), Ok(sent.clone()));
        assert_ne!(sent.digest(), Chunk::of(&[record(2), record(1)]).digest());
        let cut = &sent.bytes()[1..];
        assert!(Chunk::from_bytes(cut).is_err());
    }

    #[test]
    fn a_fingerprint_depends_on_every_field_of_the_key_and_on_the_ticket() {
        let ticket = Digest::of(b"ticket");
        let key = record(1).key;
        let others = [
            SessionKey {
                segment: Segment(8),
                ..key
            },
            SessionKey {
                protocol: 17,
                ..key
            },
            SessionKey {
                local: key.remote,
                ..key
            },
            SessionKey {
                remote: key.local,
                ..key
            },
            SessionKey {
                local_port: 2,
                ..key
            },
            SessionKey {
                remote_port: 80,
                ..key
            },
        ];
        let mut all: Vec<_> = others.iter().map(|key| fingerprint(&ticket, key)).collect();
        all.push(fingerprint(&ticket, &key));
        all.push(fingerprint(&Digest::of(b"another"), &key));
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(fingerprint(&ticket, &key), fingerprint(&ticket, &key));
    }
}
