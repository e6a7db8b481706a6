//! Sessions on their way from one host to another: a versioned header, then one record after the
//! other, each of which says only what differs from the one before. Whole chunks are checked before
//! anything of them is used.
//!
//! A record begins with the distance of its slot from the one before and a word in which each bit
//! stands for a field that follows; numbers that are mostly small are LEB128, others little-endian.

use lictor_types::{
    Digest, Direction, Epoch, Generation, RuleId, Segment, SessionKey, SessionRecord, TcpEnd,
    TcpState,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The only format that this version reads and writes.
pub const FORMAT: u16 = 3;
/// Records in one chunk.
pub const CHUNK_RECORDS_MAX: usize = 4_096;
/// Bytes of the longest record: every field differs and every number is as large as it can be.
pub const RECORD_BYTES_MAX: usize = 174;
/// Bytes of the shortest: only its slot differs, which is the next one.
const RECORD_BYTES_MIN: usize = 3;
const MAGIC: [u8; 4] = *b"LSES";
const HEADER_BYTES: usize = 16;

/// What a record differs in from the one before; the first of a chunk from [`NOTHING`].
mod differs {
    pub(super) const LOCAL: u16 = 1 << 0;
    pub(super) const REMOTE: u16 = 1 << 1;
    pub(super) const SEGMENT: u16 = 1 << 2;
    pub(super) const LOCAL_PORT: u16 = 1 << 3;
    pub(super) const REMOTE_PORT: u16 = 1 << 4;
    /// Protocol, who opened it, state.
    pub(super) const KIND: u16 = 1 << 5;
    pub(super) const RULE: u16 = 1 << 6;
    /// Generation and both epochs.
    pub(super) const ADMITTED: u16 = 1 << 7;
    pub(super) const IDLE: u16 = 1 << 8;
    pub(super) const EXPIRES: u16 = 1 << 9;
    pub(super) const PACKETS: u16 = 1 << 10;
    pub(super) const BYTES: u16 = 1 << 11;
    pub(super) const TCP: [u16; 2] = [1 << 12, 1 << 13];
    pub(super) const ALL: u16 = (1 << 14) - 1;
}

const NOTHING: SessionRecord = SessionRecord {
    key: SessionKey {
        segment: Segment(0),
        protocol: 0,
        local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        remote: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        local_port: 0,
        remote_port: 0,
    },
    opened: Direction::Egress,
    state: TcpState::Established,
    rule: RuleId(0),
    generation: Generation(0),
    local_epoch: Epoch(0),
    remote_epoch: Epoch(0),
    idle_ms: 0,
    expires_in_ms: 0,
    packets: [0; 2],
    bytes: [0; 2],
    tcp: [NO_END; 2],
};
const NO_END: TcpEnd = TcpEnd {
    end: 0,
    end_max: 0,
    window_max: 0,
    acked: 0,
    scale: 0,
    flags: 0,
};

/// A session, and the slot where it lies at the host that it comes from.
pub type SlotRecord = (u32, SessionRecord);

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
    /// A field has a value outside its range, or is cut off.
    #[error("record {index} of a session chunk has an impossible {field}")]
    Field {
        /// Which record.
        index: usize,
        /// Which field.
        field: &'static str,
    },
}

fn differences(record: &SessionRecord, before: &SessionRecord) -> u16 {
    let (key, other) = (&record.key, &before.key);
    let kind = |one: &SessionRecord| (one.key.protocol, one.opened, one.state);
    let admitted = |one: &SessionRecord| (one.generation, one.local_epoch, one.remote_epoch);
    let fields = [
        (differs::LOCAL, key.local != other.local),
        (differs::REMOTE, key.remote != other.remote),
        (differs::SEGMENT, key.segment != other.segment),
        (differs::LOCAL_PORT, key.local_port != other.local_port),
        (differs::REMOTE_PORT, key.remote_port != other.remote_port),
        (differs::KIND, kind(record) != kind(before)),
        (differs::RULE, record.rule != before.rule),
        (differs::ADMITTED, admitted(record) != admitted(before)),
        (differs::IDLE, record.idle_ms != before.idle_ms),
        (
            differs::EXPIRES,
            record.expires_in_ms != before.expires_in_ms,
        ),
        (differs::PACKETS, record.packets != before.packets),
        (differs::BYTES, record.bytes != before.bytes),
        (differs::TCP[0], record.tcp[0] != before.tcp[0]),
        (differs::TCP[1], record.tcp[1] != before.tcp[1]),
    ];
    let set = fields
        .into_iter()
        .map(|(bit, differs)| u16::from(differs) * bit);
    set.fold(0, |all, bit| all | bit)
}

/// Writes a record behind the one before.
struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.0.push(4);
                self.0.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                self.0.push(6);
                self.0.extend(v6.octets());
            }
        }
    }

    fn key(&mut self, key: &SessionKey, set: u16) {
        if set & differs::LOCAL != 0 {
            self.address(key.local);
        }
        if set & differs::REMOTE != 0 {
            self.address(key.remote);
        }
        if set & differs::SEGMENT != 0 {
            self.number(key.segment.0.into());
        }
        if set & differs::LOCAL_PORT != 0 {
            self.0.extend(key.local_port.to_le_bytes());
        }
        if set & differs::REMOTE_PORT != 0 {
            self.0.extend(key.remote_port.to_le_bytes());
        }
    }

    fn record(&mut self, record: &SessionRecord, set: u16) {
        self.0.extend(set.to_le_bytes());
        self.key(&record.key, set);
        if set & differs::KIND != 0 {
            let (opened, state) = (record.opened as u8, record.state as u8);
            self.0.extend([record.key.protocol, opened, state]);
        }
        let numbers = [
            (differs::RULE, [Some(record.rule.0.into()), None, None]),
            (
                differs::ADMITTED,
                [
                    Some(record.generation.0),
                    Some(record.local_epoch.0),
                    Some(record.remote_epoch.0),
                ],
            ),
            (differs::IDLE, [Some(record.idle_ms.into()), None, None]),
            (
                differs::EXPIRES,
                [Some(record.expires_in_ms.into()), None, None],
            ),
            (
                differs::PACKETS,
                [Some(record.packets[0]), Some(record.packets[1]), None],
            ),
            (
                differs::BYTES,
                [Some(record.bytes[0]), Some(record.bytes[1]), None],
            ),
        ];
        for (bit, numbers) in numbers {
            if set & bit != 0 {
                numbers
                    .into_iter()
                    .flatten()
                    .for_each(|one| self.number(one));
            }
        }
        for (bit, end) in differs::TCP.into_iter().zip(&record.tcp) {
            if set & bit != 0 {
                for number in [end.end, end.end_max, end.window_max, end.acked] {
                    self.0.extend(number.to_le_bytes());
                }
                self.0.extend([end.scale, end.flags]);
            }
        }
    }
}

/// A whole chunk with its digest: sessions of one table, as they are sent and as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    bytes: Vec<u8>,
    digest: Digest,
}

impl Chunk {
    /// Encodes sessions of one table, in the order of their slots.
    ///
    /// # Panics
    /// If there are more than [`CHUNK_RECORDS_MAX`], a slot does not come after the one before, or
    /// the table has a number beyond 255: the caller cuts and sorts.
    #[must_use]
    pub fn of(table: u32, records: &[SlotRecord]) -> Self {
        let count = records.len();
        assert!(count <= CHUNK_RECORDS_MAX, "the caller cuts into chunks");
        let table = u8::try_from(table).expect("a vnic has a handful of tables");
        let mut bytes = vec![0; HEADER_BYTES];
        let (mut next, mut before) = (0, &NOTHING);
        for (slot, record) in records {
            let slot = u64::from(*slot);
            let distance = slot.checked_sub(next).expect("the caller sorts by slot");
            let mut writer = Writer(&mut bytes);
            writer.number(distance);
            writer.record(record, differences(record, before));
            (next, before) = (slot + 1, record);
        }
        let length = (bytes.len() - HEADER_BYTES) as u32;
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[6] = table;
        bytes[8..12].copy_from_slice(&(count as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        let digest = Digest::of(&bytes);
        Self { bytes, digest }
    }

    /// Takes what came; see [`Chunk::records`].
    ///
    /// # Errors
    /// [`ChunkError`] if a length or the format is impossible.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChunkError> {
        let mut reader = Reader(bytes);
        let short = ChunkError::Length {
            found: bytes.len(),
            expected: HEADER_BYTES,
        };
        let header = reader.take::<HEADER_BYTES>().ok_or(short)?;
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (count, length) = (word(8) as usize, word(12) as usize);
        let known = header[..4] == MAGIC
            && header[4..6] == FORMAT.to_le_bytes()
            && header[7] == 0
            && count <= CHUNK_RECORDS_MAX
            && (count * RECORD_BYTES_MIN..=count * RECORD_BYTES_MAX).contains(&length);
        if !known {
            return Err(ChunkError::Format);
        }
        let (found, expected) = (bytes.len(), HEADER_BYTES + length);
        if found != expected {
            return Err(ChunkError::Length { found, expected });
        }
        let (bytes, digest) = (bytes.to_vec(), Digest::of(bytes));
        Ok(Self { bytes, digest })
    }

    /// Its records, in the order of their slots, each of which comes once.
    ///
    /// # Errors
    /// [`ChunkError::Field`] if a field is impossible.
    pub fn records(&self) -> Result<Vec<SlotRecord>, ChunkError> {
        let count = self.count() as usize;
        let mut reader = Reader(&self.bytes[HEADER_BYTES..]);
        let mut records = Vec::with_capacity(count);
        let (mut next, mut before) = (0_u64, NOTHING);
        for index in 0..count {
            let impossible = |field| ChunkError::Field { index, field };
            let distance = reader.number().map_err(|()| impossible("slot"))?;
            let slot = next
                .checked_add(distance)
                .and_then(|slot| u32::try_from(slot).ok())
                .ok_or_else(|| impossible("slot"))?;
            before = reader.record(&before).map_err(impossible)?;
            next = u64::from(slot) + 1;
            records.push((slot, before));
        }
        if !reader.0.is_empty() {
            let (found, expected) = (self.bytes.len(), self.bytes.len() - reader.0.len());
            return Err(ChunkError::Length { found, expected });
        }
        Ok(records)
    }

    /// The table where they lie at the host that they come from.
    #[must_use]
    pub fn table(&self) -> u32 {
        self.bytes[6].into()
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        let count = [8, 9, 10, 11].map(|at| self.bytes[at]);
        u32::from_le_bytes(count).into()
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

/// Takes fields off the front, each by the name with which an impossible one is refused.
struct Reader<'a>(&'a [u8]);

type Field<T> = Result<T, &'static str>;

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    /// At most 64 bits, in no more bytes than they need.
    fn number(&mut self) -> Result<u64, ()> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take().ok_or(())?;
            let part = u64::from(byte & 0x7f);
            let last = byte & 0x80 == 0;
            let overlong = last && part == 0 && shift > 0;
            if part << shift >> shift != part || overlong {
                return Err(());
            }
            number |= part << shift;
            if last {
                return Ok(number);
            }
        }
        Err(())
    }

    fn long(&mut self, field: &'static str) -> Field<u64> {
        self.number().map_err(|()| field)
    }

    fn half(&mut self, field: &'static str) -> Field<u32> {
        u32::try_from(self.long(field)?).map_err(|_| field)
    }

    fn port(&mut self, field: &'static str) -> Field<u16> {
        self.take().map(u16::from_le_bytes).ok_or(field)
    }

    /// One address has one form, so that a key has one.
    fn address(&mut self, field: &'static str) -> Field<IpAddr> {
        match self.take().ok_or(field)? {
            [4] => Ok(Ipv4Addr::from(self.take::<4>().ok_or(field)?).into()),
            [6] => {
                let address = Ipv6Addr::from(self.take::<16>().ok_or(field)?);
                match address.to_ipv4_mapped() {
                    Some(_) => Err(field),
                    None => Ok(address.into()),
                }
            }
            _ => Err(field),
        }
    }

    fn record(&mut self, before: &SessionRecord) -> Field<SessionRecord> {
        let mut record = *before;
        let set = self.take().map(u16::from_le_bytes).ok_or("field list")?;
        if set & !differs::ALL != 0 {
            return Err("field list");
        }
        self.key(&mut record, set)?;
        if set & differs::RULE != 0 {
            record.rule = RuleId(self.half("rule")?);
        }
        if set & differs::ADMITTED != 0 {
            record.generation = Generation(self.long("generation")?);
            record.local_epoch = Epoch(self.long("epoch")?);
            record.remote_epoch = Epoch(self.long("epoch")?);
        }
        if set & differs::IDLE != 0 {
            record.idle_ms = self.half("age")?;
        }
        if set & differs::EXPIRES != 0 {
            record.expires_in_ms = self.half("life")?;
        }
        if set & differs::PACKETS != 0 {
            record.packets = [self.long("packet count")?, self.long("packet count")?];
        }
        if set & differs::BYTES != 0 {
            record.bytes = [self.long("byte count")?, self.long("byte count")?];
        }
        for (bit, end) in differs::TCP.into_iter().zip(&mut record.tcp) {
            if set & bit != 0 {
                *end = self.tcp_end()?;
            }
        }
        Ok(record)
    }

    /// And what belongs to the kind of a session.
    fn key(&mut self, record: &mut SessionRecord, set: u16) -> Field<()> {
        let key = &mut record.key;
        if set & differs::LOCAL != 0 {
            key.local = self.address("address")?;
        }
        if set & differs::REMOTE != 0 {
            key.remote = self.address("address")?;
        }
        if set & differs::SEGMENT != 0 {
            key.segment = Segment(self.half("segment")?);
        }
        if set & differs::LOCAL_PORT != 0 {
            key.local_port = self.port("port")?;
        }
        if set & differs::REMOTE_PORT != 0 {
            key.remote_port = self.port("port")?;
        }
        if set & differs::KIND != 0 {
            let [protocol, opened, state] = self.take().ok_or("protocol")?;
            record.key.protocol = protocol;
            record.opened = match opened {
                0 => Direction::Egress,
                1 => Direction::Ingress,
                _ => return Err("direction"),
            };
            record.state = TcpState::from_number(state).ok_or("state")?;
        }
        Ok(())
    }

    fn tcp_end(&mut self) -> Field<TcpEnd> {
        let mut number = || self.take().map(u32::from_le_bytes).ok_or("window");
        let (end, end_max) = (number()?, number()?);
        let (window_max, acked) = (number()?, number()?);
        let [scale, flags] = self.take().ok_or("window scale")?;
        if scale > 14 {
            return Err("window scale");
        }
        Ok(TcpEnd {
            end,
            end_max,
            window_max,
            acked,
            scale,
            flags,
        })
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
            tcp: [end(14), end(0)],
        }
    }

    fn end(scale: u8) -> TcpEnd {
        TcpEnd {
            end: 1,
            end_max: 2,
            window_max: 3,
            acked: 4,
            scale,
            flags: 1,
        }
    }

    /// As large as it can be.
    fn widest() -> SessionRecord {
        let all = TcpEnd {
            end: u32::MAX,
            end_max: u32::MAX,
            window_max: u32::MAX,
            acked: u32::MAX,
            scale: 14,
            flags: u8::MAX,
        };
        SessionRecord {
            key: SessionKey {
                segment: Segment(u32::MAX),
                protocol: u8::MAX,
                local: "2001:db8::1".parse().expect("valid"),
                remote: "2001:db8::2".parse().expect("valid"),
                local_port: u16::MAX,
                remote_port: u16::MAX,
            },
            opened: Direction::Ingress,
            state: TcpState::TimeWait,
            rule: RuleId(u32::MAX),
            generation: Generation(u64::MAX),
            local_epoch: Epoch(u64::MAX),
            remote_epoch: Epoch(u64::MAX),
            idle_ms: u32::MAX,
            expires_in_ms: u32::MAX,
            packets: [u64::MAX; 2],
            bytes: [u64::MAX; 2],
            tcp: [all; 2],
        }
    }

    #[test]
    fn a_chunk_decodes_to_what_was_encoded() {
        let check = |records: &[SlotRecord]| {
            let sent = Chunk::of(2, records);
            let came = Chunk::from_bytes(sent.bytes()).expect("a chunk");
            assert_eq!((&came, came.table()), (&sent, 2));
            assert_eq!(came.count(), records.len() as u64);
            assert_eq!(came.records().as_deref(), Ok(records));
        };
        check(&[]);
        check(&[(0, record(1))]);
        check(&[(u32::MAX, widest())]);
        check(&[(3, NOTHING), (4, widest()), (9, NOTHING), (10, NOTHING)]);
        let many = (0..CHUNK_RECORDS_MAX as u32).map(|slot| (slot, record(slot as u16)));
        check(&Vec::from_iter(many));
    }

    #[test]
    fn records_are_as_long_as_what_they_say() {
        let check = |records: &[SlotRecord], last: usize| {
            let chunk = Chunk::of(0, records);
            let without = Chunk::of(0, &records[..records.len() - 1]);
            assert_eq!(chunk.bytes().len() - without.bytes().len(), last);
        };
        check(&[(u32::MAX, widest())], RECORD_BYTES_MAX);
        check(&[(5, widest()), (6, widest())], RECORD_BYTES_MIN);
        check(&[(5, record(1)), (6, record(2))], RECORD_BYTES_MIN + 2);
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let chunk = Chunk::of(0, &[(1, record(1)), (2, widest())]);
        let bytes = chunk.bytes();
        for length in 0..bytes.len() {
            let part = Chunk::from_bytes(&bytes[..length]);
            assert!(part.is_err(), "{length} bytes must be refused");
            let Some(body) = length.checked_sub(HEADER_BYTES) else {
                continue;
            };
            // A source may lie in the header as well.
            let mut lying = bytes[..length].to_vec();
            lying[12..16].copy_from_slice(&(body as u32).to_le_bytes());
            let read = Chunk::from_bytes(&lying).and_then(|chunk| chunk.records());
            assert!(read.is_err(), "{length} bytes must be refused");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        let read = Chunk::from_bytes(&longer);
        assert!(matches!(read, Err(ChunkError::Length { .. })));
        longer[12..16].copy_from_slice(&((bytes.len() + 1 - HEADER_BYTES) as u32).to_le_bytes());
        let read = Chunk::from_bytes(&longer).and_then(|chunk| chunk.records());
        assert!(matches!(read, Err(ChunkError::Length { .. })));
    }

    /// Places in the only record of a chunk in slot 0: its distance, its fields, the local address.
    const FIELDS: usize = HEADER_BYTES + 1;
    const LOCAL: usize = FIELDS + 2;

    #[test]
    fn impossible_fields_are_named() {
        let check = |at: usize, value: u8, field: &'static str| {
            let mut bytes = Chunk::of(0, &[(0, record(1))]).bytes().to_vec();
            bytes[at] = value;
            let chunk = Chunk::from_bytes(&bytes).expect("its header is right");
            let expected = ChunkError::Field { index: 0, field };
            assert_eq!(chunk.records(), Err(expected));
        };
        check(FIELDS + 1, 0x7f, "field list");
        check(LOCAL, 5, "address");
        // Both addresses, segment and ports.
        let kind = LOCAL + 5 + 17 + 1 + 4;
        check(kind + 1, 2, "direction");
        check(kind + 2, 0, "state");
        check(kind + 2, 7, "state");
        let last = Chunk::of(0, &[(0, record(1))]).bytes().len() - 2;
        check(last, 15, "window scale");
    }

    #[test]
    fn a_number_has_one_form_and_at_most_64_bits() {
        let check = |bytes: &[u8], expected: Result<u64, ()>| {
            assert_eq!(Reader(bytes).number(), expected, "{bytes:x?}");
        };
        check(&[0], Ok(0));
        check(&[0xff, 1], Ok(255));
        check(&[0x80, 0], Err(()));
        check(&[0x80], Err(()));
        let most = [[0xff; 9].as_slice(), &[1]].concat();
        check(&most, Ok(u64::MAX));
        let beyond = [[0xff; 9].as_slice(), &[2]].concat();
        check(&beyond, Err(()));
        check(&[0x80; 11], Err(()));
    }

    #[test]
    fn a_slot_beyond_the_last_number_is_refused() {
        let mut bytes = Chunk::of(0, &[(u32::MAX, NOTHING), (u32::MAX, NOTHING)][..1])
            .bytes()
            .to_vec();
        bytes.extend([0, 0, 0]);
        bytes[8] = 2;
        bytes[12] += 3;
        let chunk = Chunk::from_bytes(&bytes).expect("its header is right");
        let field = "slot";
        assert_eq!(chunk.records(), Err(ChunkError::Field { index: 1, field }));
    }

    #[test]
    fn more_records_than_a_chunk_holds_are_refused_before_they_are_read() {
        let mut bytes = Chunk::of(0, &[(0, record(1))]).bytes().to_vec();
        bytes[8..12].copy_from_slice(&(CHUNK_RECORDS_MAX as u32 + 1).to_le_bytes());
        assert_eq!(Chunk::from_bytes(&bytes), Err(ChunkError::Format));
    }

    #[test]
    fn the_digest_sees_every_record_its_slot_and_its_table() {
        let of = |table, records: &[SlotRecord]| Chunk::of(table, records).digest();
        let one = of(0, &[(1, record(1)), (2, record(2))]);
        assert_eq!(one, of(0, &[(1, record(1)), (2, record(2))]));
        for other in [
            of(1, &[(1, record(1)), (2, record(2))]),
            of(0, &[(1, record(2)), (2, record(1))]),
            of(0, &[(1, record(1)), (3, record(2))]),
            of(0, &[(1, record(1))]),
        ] {
            assert_ne!(one, other);
        }
    }
}
