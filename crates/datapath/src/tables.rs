//! A release in the kernel's maps: built beside the active one, read back, then switched to.

use crate::Error;
use crate::abi::{
    self, AddressBucket, AddressEntry as AddressRow, AddressKey, AddressValue, AtomBlock,
    Decision as DecisionRow, DecisionBucket, Plain, PrefixLengths, ReleaseInfo,
};
use crate::error::failed;
use crate::events::would_of;
use crate::fixed::{self, Bucket, Fixed};
use crate::shared::{ADDRESSES_INNER, ATOMS_INNER, DECISIONS_INNER, HOSTS_INNER, Shared};
use crate::sys::{self, Map, Shape};
use ipnet::IpNet;
use lictor_types::{
    AddressEntry, AddressKind, AtomId, AtomRange, Decision, Digest, Direction, Epoch, Generation,
    HostTables, IdentityId, Protocol, RuleId, Segment, SharedId, Verdict, VnicId,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;

/// The tables that the kernel decides by from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Counts loads on this host; sessions of another version are judged again.
    pub version: u64,
    /// Of the tables as they were read back.
    pub digest: Digest,
}

type Rows<K, V> = (Vec<K>, Vec<V>);

struct Image {
    /// Prefixes of a family that has many lengths of them.
    addresses: Rows<AddressKey, AddressValue>,
    /// What is found by its hash: addresses of full length, and prefixes of few lengths.
    hosts: Hosts,
    atoms: Rows<u32, AtomBlock>,
    decisions: Fixed<DecisionBucket>,
    info: ReleaseInfo,
}

pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[inline]
pub(crate) fn unmapped(octets: [u8; 16]) -> IpAddr {
    let address = Ipv6Addr::from(octets);
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
}

impl Image {
    fn of(tables: &HostTables) -> Result<Self, Error> {
        let rows: Vec<_> = tables
            .addresses
            .iter()
            .map(address_row)
            .collect::<Result<_, _>>()?;
        let lengths = [4, 6].map(|family| prefix_lengths(&rows, family));
        let hashed = |key: &AddressKey| {
            is_whole(key)
                || lengths[usize::from(family(key) == 6)].count != abi::PREFIX_LENGTHS_TRIE
        };
        let (hashed, in_trie): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| hashed(&row.key));
        let (whole, prefixes): (Vec<_>, Vec<_>) =
            hashed.into_iter().partition(|row| is_whole(&row.key));
        let decisions = tables.decisions.iter().map(decision_row);
        let decisions: Vec<_> = decisions.collect::<Result<_, _>>()?;
        let shapes = decisions.iter().fold(0, |all, row| all | 1 << shape(row));
        let (fixed_keys, [whole, prefixes], decisions) =
            fixed::arrange([&whole, &prefixes], &decisions).ok_or(Error::Crowded)?;
        kernel_number("generation", tables.generation.0)?;
        kernel_number("epoch", tables.epoch.0)?;
        let info = ReleaseInfo {
            generation: tables.generation.0,
            epoch: tables.epoch.0,
            digest: tables.digest().0,
            addresses: tables.addresses.len() as u32,
            atoms: tables.atoms.len() as u32,
            decisions: tables.decisions.len() as u32,
            shapes,
            lengths,
            fixed_keys,
            host_buckets: whole.homes,
            prefix_buckets: prefixes.homes,
            decision_buckets: decisions.homes,
            pad: 0,
        };
        Ok(Self {
            addresses: in_trie.iter().map(|row| (row.key, row.value)).unzip(),
            hosts: Hosts { whole, prefixes },
            atoms: atom_blocks(&tables.atoms)?,
            decisions,
            info,
        })
    }
}

/// Both parts of `hosts`.
struct Hosts {
    whole: Fixed<AddressBucket>,
    prefixes: Fixed<AddressBucket>,
}

impl Hosts {
    fn buckets(self) -> Vec<AddressBucket> {
        let Self { whole, prefixes } = self;
        [whole.buckets, prefixes.buckets].concat()
    }

    /// The parts as they were read back, if each row is in the part where it is looked for.
    fn read(mut buckets: Vec<AddressBucket>, info: &ReleaseInfo) -> Option<Self> {
        let first = fixed::len_of(info.host_buckets);
        let behind = (first <= buckets.len()).then(|| buckets.split_off(first))?;
        let hosts = Self {
            whole: Fixed::read(buckets, info.host_buckets, &info.fixed_keys)?,
            prefixes: Fixed::read(behind, info.prefix_buckets, &info.fixed_keys)?,
        };
        let apart = hosts.whole.rows().all(|row| is_whole(&row.key))
            && !hosts.prefixes.rows().any(|row| is_whole(&row.key));
        apart.then_some(hosts)
    }

    fn rows(&self) -> impl Iterator<Item = &AddressRow> {
        self.whole.rows().chain(self.prefixes.rows())
    }
}

const WHOLE_BITS: u32 = abi::ADDRESS_PREFIX_BASE + 128;

fn is_whole(key: &AddressKey) -> bool {
    key.prefix_bits == WHOLE_BITS
}

fn family(key: &AddressKey) -> u32 {
    key.place >> abi::ADDRESS_FAMILY_SHIFT
}

/// The lengths of a family's prefixes below the full one, or that they are too many.
fn prefix_lengths(rows: &[AddressRow], wanted: u32) -> PrefixLengths {
    let of_family = rows.iter().filter(|row| family(&row.key) == wanted);
    let bits: BTreeSet<u32> = of_family
        .map(|row| row.key.prefix_bits)
        .filter(|bits| *bits != WHOLE_BITS)
        .collect();
    if bits.len() > abi::PREFIX_LENGTHS_MAX {
        return PrefixLengths {
            count: abi::PREFIX_LENGTHS_TRIE,
            bits: [0; 7],
        };
    }
    let mut lengths = PrefixLengths {
        count: bits.len() as u8,
        bits: [0; 7],
    };
    for (place, length) in lengths.bits.iter_mut().zip(bits.iter().rev()) {
        *place = (length - abi::ADDRESS_PREFIX_BASE) as u8;
    }
    lengths
}

fn atom_blocks(ranges: &[AtomRange]) -> Result<Rows<u32, AtomBlock>, Error> {
    let mut blocks = vec![AtomBlock::default(); abi::ATOM_BLOCKS];
    for range in ranges {
        if range.atom == AtomId::ANY {
            let row = format!("atom {} {}-{}", range.protocol, range.first, range.last);
            return Err(Error::Row {
                row,
                why: "its number stands for any atom",
            });
        }
        if range.first > range.last || range.last > range.protocol.port_max() {
            let row = format!("atom {} {}-{}", range.protocol, range.first, range.last);
            return Err(Error::Row {
                row,
                why: "the range is empty or beyond the protocol",
            });
        }
        let class = range.protocol as usize * 65_536;
        for port in range.first..=range.last {
            let place = class + usize::from(port);
            let block = &mut blocks[place / abi::ATOM_BLOCK_PORTS];
            block.ports[place % abi::ATOM_BLOCK_PORTS] =
                u32::from(range.atom.0) | abi::ATOM_PRESENT;
        }
        let place = class + usize::from(range.first);
        let block = &mut blocks[place / abi::ATOM_BLOCK_PORTS];
        block.ports[place % abi::ATOM_BLOCK_PORTS] |= abi::ATOM_FIRST;
    }
    Ok(((0..abi::ATOM_BLOCKS as u32).collect(), blocks))
}

fn address_row(entry: &AddressEntry) -> Result<AddressRow, Error> {
    let prefix = entry.prefix;
    let row = || format!("address {prefix} in segment {}", entry.segment);
    if prefix.addr() != prefix.trunc().addr() {
        return Err(Error::Row {
            row: row(),
            why: "there are bits beyond the prefix",
        });
    }
    if matches!(prefix.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(Error::Row {
            row: row(),
            why: "write it as the IPv4 prefix that it is",
        });
    }
    let holder = match entry.kind {
        AddressKind::Own => true,
        AddressKind::Routed => entry.vnic.is_some(),
        AddressKind::Shared(group) => entry.vnic.is_none() && group.0 != 0,
    };
    if !holder {
        return Err(Error::Row {
            row: row(),
            why: "a routed prefix needs a vnic, a shared one a group above 0 and no vnic",
        });
    }
    let v4 = prefix.addr().is_ipv4();
    let bits = u32::from(prefix.prefix_len()) + if v4 { 96 } else { 0 };
    let key = AddressKey {
        prefix_bits: abi::ADDRESS_PREFIX_BASE + bits,
        place: entry.segment.0 | (if v4 { 4 } else { 6 }) << abi::ADDRESS_FAMILY_SHIFT,
        address: mapped(prefix.addr()),
    };
    let value = AddressValue {
        identity: entry.identity.0,
        vnic: match entry.kind {
            AddressKind::Shared(group) => group.0,
            AddressKind::Own | AddressKind::Routed => entry.vnic.map_or(0, |vnic| vnic.0),
        },
        epoch: kernel_number("epoch", entry.epoch.0)?,
        flags: address_flags(entry),
    };
    Ok(AddressRow { key, value })
}

fn address_flags(entry: &AddressEntry) -> u32 {
    let observe = if entry.observe {
        abi::ADDRESS_OBSERVE
    } else {
        0
    };
    observe
        | match entry.kind {
            AddressKind::Own => 0,
            AddressKind::Routed => abi::ADDRESS_ROUTED,
            AddressKind::Shared(_) => abi::ADDRESS_SHARED,
        }
}

/// Sessions keep these numbers in 32 bits: a larger one is refused, never cut.
fn kernel_number(what: &str, number: u64) -> Result<u32, Error> {
    u32::try_from(number).map_err(|_| Error::Row {
        row: format!("{what} {number}"),
        why: "numbers above 4294967295 do not fit into the kernel's tables",
    })
}

fn decision_row(decision: &Decision) -> Result<DecisionRow, Error> {
    if decision.atom == AtomId::NONE {
        return Err(Error::Row {
            row: format!("decision of {} about {}", decision.local, decision.peer),
            why: "it is about no atom, and would never hold",
        });
    }
    let direction = decision.direction as u32;
    Ok(DecisionRow {
        local: decision.local.0,
        peer: decision.peer.0,
        what: u32::from(decision.atom.0) | direction << abi::DECISION_DIRECTION_SHIFT,
        rule: decision.rule.0,
        would_rule: decision.would.map_or(0, |would| would.rule.0),
        limit: decision.limit,
        log_limit: decision.log_limit,
        verdict: decision.verdict as u8,
        log: decision.log.into(),
        would: decision
            .would
            .map_or(abi::VERDICT_NONE, |would| would.verdict as u8),
        passed: 0,
        pad: [0; 2],
    })
}

/// In which places a row says "any".
fn shape(row: &DecisionRow) -> u32 {
    let atom = row.what & abi::ATOM_MASK == u32::from(AtomId::ANY.0);
    let peer = row.peer == IdentityId::ANY.0;
    u32::from(atom) * abi::DECISION_SHAPE_ANY_ATOM + u32::from(peer) * abi::DECISION_SHAPE_ANY_PEER
}

fn build<K: Plain, V: Plain>(shape: &Shape, rows: &Rows<K, V>) -> Result<Map<K, V>, Error> {
    let wanted = shape.entries.max(rows.0.len() as u32);
    let shape = Shape {
        entries: wanted,
        ..*shape
    };
    let map = sys::map_create(&shape, None)
        .and_then(Map::new)
        .map_err(failed("creating a map for the new tables"))?;
    map.fill(&rows.0, &rows.1)
        .map_err(failed("filling the new tables"))?;
    Ok(map)
}

fn build_fixed<B: Bucket>(shape: &Shape, buckets: Vec<B>) -> Result<Map<u32, B>, Error> {
    let indexes = (0..buckets.len() as u32).collect();
    build(shape, &(indexes, buckets))
}

fn read_buckets<B: Bucket>(outer: &Map<u32, u32>, slot: u32) -> Result<Vec<B>, Error> {
    let rows = rows::<u32, B>(outer, slot)?.into_iter();
    Ok(rows.map(|(_, bucket)| bucket).collect())
}

impl Shared {
    fn active(&self) -> Result<(u64, u32), Error> {
        let raw = self
            .active
            .get(&0)
            .map_err(failed("reading the active slot"))?
            .unwrap_or(0);
        Ok((raw >> 1, (raw & 1) as u32))
    }

    /// Loads tables whole or not at all.
    pub(crate) fn load(&self, tables: &HostTables) -> Result<Loaded, Error> {
        let tables = tables.clone().canonical()?;
        let image = Image::of(&tables)?;
        let (version, slot) = self.active()?;
        let (version, slot) = (version + 1, 1 - slot);
        kernel_number("load", version)?;
        let addresses = build(&ADDRESSES_INNER, &image.addresses)?;
        let hosts = build_fixed(&HOSTS_INNER, image.hosts.buckets())?;
        let atoms = build(&ATOMS_INNER, &image.atoms)?;
        let decisions = build_fixed(&DECISIONS_INNER, image.decisions.buckets)?;
        // A program that began before the last switch may still read the slot that is replaced.
        sys::wait_for_programs().map_err(failed("waiting for running programs"))?;
        let place = |outer: &Map<u32, u32>, fd: i32| {
            outer
                .set(&slot, &(fd as u32), 0)
                .map_err(failed("placing the new tables"))
        };
        place(&self.addresses, addresses.fd().as_raw_fd())?;
        place(&self.hosts, hosts.fd().as_raw_fd())?;
        place(&self.atoms, atoms.fd().as_raw_fd())?;
        place(&self.decisions, decisions.fd().as_raw_fd())?;
        let info = &image.info;
        self.release_info
            .set(&slot, info, 0)
            .map_err(failed("placing the new tables"))?;
        let digest = self.read_slot(slot)?.digest();
        if digest != tables.digest() {
            return Err(Error::ReadBack { table: "tables" });
        }
        // One aligned 8-byte store: no packet sees the new version with the old slot.
        self.active
            .set(&0, &(version << 1 | u64::from(slot)), 0)
            .map_err(failed("switching to the new tables"))?;
        Ok(Loaded { version, digest })
    }

    /// Lets every session be judged again by the tables that are active, at its next packet.
    pub(crate) fn touch(&self) -> Result<(), Error> {
        let (version, slot) = self.active()?;
        if version == 0 {
            return Ok(());
        }
        self.active
            .set(&0, &((version + 1) << 1 | u64::from(slot)), 0)
            .map_err(failed("having sessions judged again"))
    }

    /// The active tables as the kernel has them.
    pub(crate) fn read_back(&self) -> Result<HostTables, Error> {
        match self.active()? {
            (0, _) => Err(Error::NothingLoaded),
            (_, slot) => self.read_slot(slot),
        }
    }

    fn read_slot(&self, slot: u32) -> Result<HostTables, Error> {
        let reading = failed("reading the tables back");
        let info = self
            .release_info
            .get(&slot)
            .map_err(&reading)?
            .unwrap_or_default();
        let unsound = || Error::ReadBack { table: "buckets" };
        let hosts = Hosts::read(read_buckets(&self.hosts, slot)?, &info).ok_or_else(unsound)?;
        let decisions = read_buckets(&self.decisions, slot)?;
        let decisions =
            Fixed::<DecisionBucket>::read(decisions, info.decision_buckets, &info.fixed_keys)
                .ok_or_else(unsound)?;
        let mut addresses = rows(&self.addresses, slot)?;
        addresses.extend(hosts.rows().map(|row| (row.key, row.value)));
        let tables = HostTables {
            generation: Generation(info.generation),
            epoch: Epoch(info.epoch),
            addresses: read_addresses(addresses)?,
            atoms: read_atoms(rows(&self.atoms, slot)?),
            decisions: decisions
                .rows()
                .map(read_decision)
                .collect::<Result<_, _>>()?,
        };
        let shapes = decisions.rows().fold(0, |all, row| all | 1 << shape(row));
        if shapes != info.shapes {
            return Err(Error::ReadBack {
                table: "kinds of decisions",
            });
        }
        let counts = (
            tables.addresses.len(),
            tables.atoms.len(),
            tables.decisions.len(),
        );
        let expected = (
            info.addresses as usize,
            info.atoms as usize,
            info.decisions as usize,
        );
        if counts != expected {
            return Err(Error::ReadBack {
                table: "row counts",
            });
        }
        Ok(tables.canonical()?)
    }
}

fn rows<K: Plain, V: Plain>(outer: &Map<u32, u32>, slot: u32) -> Result<Vec<(K, V)>, Error> {
    let reading = failed("reading the tables back");
    let Some(inner) = sys::inner_map(outer, slot).map_err(&reading)? else {
        return Err(Error::ReadBack { table: "slots" });
    };
    Map::new(inner).and_then(|map| map.rows()).map_err(reading)
}

fn read_addresses(rows: Vec<(AddressKey, AddressValue)>) -> Result<Vec<AddressEntry>, Error> {
    rows.into_iter()
        .map(|(key, value)| {
            let v4 = family(&key) == 4;
            let address = if v4 {
                unmapped(key.address)
            } else {
                IpAddr::V6(key.address.into())
            };
            let base = abi::ADDRESS_PREFIX_BASE + if v4 { 96 } else { 0 };
            let length = key
                .prefix_bits
                .checked_sub(base)
                .and_then(|bits| bits.try_into().ok());
            let prefix = length.and_then(|bits| IpNet::new(address, bits).ok());
            let kind = match value.flags & (abi::ADDRESS_ROUTED | abi::ADDRESS_SHARED) {
                0 => AddressKind::Own,
                abi::ADDRESS_ROUTED => AddressKind::Routed,
                _ => AddressKind::Shared(SharedId(value.vnic)),
            };
            Ok(AddressEntry {
                segment: Segment(key.place & abi::SEGMENT_MAX),
                prefix: prefix.ok_or(Error::ReadBack { table: "addresses" })?,
                identity: IdentityId(value.identity),
                vnic: (kind == AddressKind::Routed || kind == AddressKind::Own)
                    .then_some(VnicId(value.vnic))
                    .filter(|vnic| vnic.0 != 0),
                kind,
                epoch: Epoch(value.epoch.into()),
                observe: value.flags & abi::ADDRESS_OBSERVE != 0,
            })
        })
        .collect()
}

fn read_atoms(mut rows: Vec<(u32, AtomBlock)>) -> Vec<AtomRange> {
    rows.sort_unstable_by_key(|(index, _)| *index);
    let mut ranges: Vec<AtomRange> = Vec::new();
    for (index, block) in &rows {
        let place = *index as usize * abi::ATOM_BLOCK_PORTS;
        let Some(protocol) = Protocol::ALL.get(place / 65_536) else {
            continue;
        };
        for (offset, value) in block.ports.iter().enumerate() {
            if value & abi::ATOM_PRESENT == 0 {
                continue;
            }
            let port = ((place + offset) % 65_536) as u16;
            match ranges.last_mut() {
                Some(last) if value & abi::ATOM_FIRST == 0 => last.last = port,
                _ => ranges.push(AtomRange {
                    protocol: *protocol,
                    first: port,
                    last: port,
                    atom: AtomId((value & abi::ATOM_MASK) as u16),
                }),
            }
        }
    }
    ranges
}

fn read_decision(row: &DecisionRow) -> Result<Decision, Error> {
    let unknown = Error::ReadBack { table: "decisions" };
    let direction = match row.what >> abi::DECISION_DIRECTION_SHIFT {
        0 => Direction::Egress,
        1 => Direction::Ingress,
        _ => return Err(unknown),
    };
    Ok(Decision {
        local: IdentityId(row.local),
        peer: IdentityId(row.peer),
        direction,
        atom: AtomId((row.what & abi::ATOM_MASK) as u16),
        verdict: Verdict::from_number(row.verdict).ok_or(unknown)?,
        rule: RuleId(row.rule),
        log: row.log != 0,
        limit: row.limit,
        log_limit: row.log_limit,
        would: would_of(row.would, row.would_rule),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prefix: &str) -> AddressRow {
        let entry = AddressEntry {
            segment: Segment(1),
            prefix: prefix.parse().expect("a prefix"),
            identity: IdentityId(2),
            vnic: None,
            kind: AddressKind::Own,
            epoch: Epoch(1),
            observe: false,
        };
        address_row(&entry).expect("a row")
    }

    #[test]
    fn a_row_in_the_part_where_nobody_looks_for_it_is_not_sound() {
        let (whole, prefix) = ([row("10.0.0.1/32")], [row("10.0.0.0/24")]);
        for (parts, sound) in [
            ([&whole[..], &prefix[..]], true),
            ([&whole, &[]], true),
            ([&[], &prefix], true),
            ([&prefix, &whole], false),
            ([&prefix, &[]], false),
            ([&[], &whole], false),
        ] {
            let arranged = fixed::arrange(parts, &[]).expect("room");
            let (fixed_keys, [whole, prefixes], _) = arranged;
            let info = ReleaseInfo {
                fixed_keys,
                host_buckets: whole.homes,
                prefix_buckets: prefixes.homes,
                ..ReleaseInfo::default()
            };
            let buckets = Hosts { whole, prefixes }.buckets();
            assert_eq!(Hosts::read(buckets, &info).is_some(), sound, "{parts:?}");
        }
    }
}
