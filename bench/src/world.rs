//! Who is there: two guests on one bridge, far prefixes behind the second, rules about them. The
//! conversations are numbered, here as in `bench/bpf/injector.bpf.c`.

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use lictor_types::{
    AddressEntry, AtomId, AtomRange, Decision, Direction, Epoch, Generation, HostTables,
    IdentityId, Mac, Protocol, RuleId, Segment, SessionKey, SessionRecord, TcpEnd, TcpState,
    Verdict, VnicId,
};
use std::net::{IpAddr, Ipv4Addr};

/// The L2 domain of everything here.
pub const SEGMENT: Segment = Segment(1);
/// The port that every rule allows toward its far prefix.
pub const PORT_ALLOWED: u16 = 80;
/// A port that no rule names.
pub const PORT_DENIED: u16 = 81;
/// Ports of the servers of the end-to-end loads, allowed between the two guests.
pub const PORTS_SERVED: [u16; 2] = [7_001, 7_004];
/// Conversations that have a number of their own.
pub const FLOWS_MAX: u32 = 1 << 20;
/// Far prefixes that fit.
pub const PREFIXES_MAX: u32 = 131_072;

/// The first address of the first far prefix.
pub const FAR_FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const PREFIX_ADDRESSES: u32 = 64;
const PREFIX_BITS: u8 = 26;
const HOSTS: u32 = 32;
const PORTS: u32 = 32_768;
const PORT_FIRST: u16 = 1_024;

/// One of the two guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one whose packets are injected.
    Near,
    /// The one that gets them.
    Far,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Near, Self::Far];

    /// Its vnic.
    #[must_use]
    pub const fn vnic(self) -> VnicId {
        match self {
            Self::Near => VnicId(1),
            Self::Far => VnicId(2),
        }
    }

    /// Its MAC.
    #[must_use]
    pub const fn mac(self) -> Mac {
        match self {
            Self::Near => Mac([0x52, 0x54, 0, 0, 0, 1]),
            Self::Far => Mac([0x52, 0x54, 0, 0, 0, 2]),
        }
    }

    /// Its own address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::Near => Ipv4Addr::new(10, 77, 0, 1),
            Self::Far => Ipv4Addr::new(10, 77, 0, 2),
        }
    }

    const fn identity(self) -> IdentityId {
        match self {
            Self::Near => IdentityId(1),
            Self::Far => IdentityId(2),
        }
    }
}

/// The far prefix with this number.
#[must_use]
pub fn prefix(index: u32) -> Ipv4Net {
    let first = Ipv4Addr::from(u32::from(FAR_FIRST) + index % PREFIXES_MAX * PREFIX_ADDRESSES);
    Ipv4Net::new_assert(first, PREFIX_BITS)
}

/// The far address and the near port of one conversation.
#[must_use]
pub fn ends(index: u32, prefixes: u32) -> (Ipv4Addr, u16) {
    let host = 1 + index / PORTS % HOSTS;
    let far = u32::from(prefix(index % prefixes).addr()) + host;
    let port = PORT_FIRST + u16::try_from(index % PORTS).expect("less than 32768");
    (Ipv4Addr::from(far), port)
}

/// Whose vnics are protected. An end without one counts as a peer elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protected {
    /// The near guest's. Its peers in the far prefixes are elsewhere.
    Near,
    /// The far guest's. The far prefixes are elsewhere and ask it.
    Far,
    /// Both. The far prefixes' addresses are the far guest's own.
    Both,
}

impl Protected {
    /// The guests whose vnics they are.
    #[must_use]
    pub const fn sides(self) -> &'static [Side] {
        match self {
            Self::Near => &[Side::Near],
            Self::Far => &[Side::Far],
            Self::Both => &Side::BOTH,
        }
    }
}

fn address(prefix: Ipv4Net, identity: IdentityId, vnic: Option<VnicId>) -> AddressEntry {
    AddressEntry {
        segment: SEGMENT,
        prefix: IpNet::V4(prefix),
        identity,
        vnic,
        epoch: Epoch(1),
        kind: lictor_types::AddressKind::Own,
        observe: false,
    }
}

fn decision(ends: (IdentityId, IdentityId), direction: Direction, rule: RuleId) -> Decision {
    Decision {
        local: ends.0,
        peer: ends.1,
        direction,
        atom: AtomId(1),
        verdict: Verdict::Allow,
        rule,
        log: false,
        limit: 0,
        log_limit: 0,
        would: None,
    }
}

/// One rule for each far prefix, and one for what the guests' own stacks say to each other.
#[must_use]
pub fn tables(rules: u32, protected: Protected) -> HostTables {
    let own = |side: Side| {
        let vnic = protected.sides().contains(&side).then_some(side.vnic());
        address(Ipv4Net::from(side.address()), side.identity(), vnic)
    };
    let (near, far) = (Side::Near, Side::Far);
    let mut tables = HostTables {
        generation: Generation(1),
        epoch: Epoch(1),
        addresses: vec![own(near), own(far)],
        atoms: atoms(),
        ..HostTables::empty()
    };
    for (one, other) in [(near, far), (far, near)] {
        let ends = (one.identity(), other.identity());
        for direction in [Direction::Egress, Direction::Ingress] {
            tables.decisions.push(decision(ends, direction, RuleId(1)));
        }
    }
    for index in 0..rules {
        about(&mut tables, index, protected);
    }
    tables
}

/// One far prefix and its rule.
fn about(tables: &mut HostTables, index: u32, protected: Protected) {
    let (prefix, identity, rule) = (prefix(index), IdentityId(10 + index), RuleId(2 + index));
    let first = u32::from(prefix.addr()) + 1;
    match protected {
        Protected::Near | Protected::Far => {
            tables.addresses.push(address(prefix, identity, None));
        }
        Protected::Both => tables.addresses.extend((first..first + HOSTS).map(|own| {
            let own = Ipv4Net::from(Ipv4Addr::from(own));
            address(own, identity, Some(Side::Far.vnic()))
        })),
    }
    let near = Side::Near.identity();
    if protected == Protected::Far {
        let asked = (Side::Far.identity(), identity);
        let decision = decision(asked, Direction::Ingress, rule);
        tables.decisions.push(decision);
        return;
    }
    let asks = decision((near, identity), Direction::Egress, rule);
    tables.decisions.push(asks);
    if protected == Protected::Both {
        let asked = decision((identity, near), Direction::Ingress, rule);
        tables.decisions.push(asked);
    }
}

/// The allowed ports are one atom, whatever protocol.
fn atoms() -> Vec<AtomRange> {
    let served = (PORTS_SERVED[0], PORTS_SERVED[1]);
    [(PORT_ALLOWED, PORT_ALLOWED), served]
        .into_iter()
        .flat_map(|(first, last)| {
            [Protocol::Tcp, Protocol::Udp].map(|protocol| AtomRange {
                protocol,
                first,
                last,
                atom: AtomId(1),
            })
        })
        .collect()
}

/// Established conversations as one guest's table holds them.
#[must_use]
pub fn sessions(side: Side, flows: u32, prefixes: u32) -> Vec<SessionRecord> {
    (0..flows)
        .map(|index| session(side, ends(index, prefixes)))
        .collect()
}

fn session(side: Side, (far, port): (Ipv4Addr, u16)) -> SessionRecord {
    const LASTING_MS: u32 = 3_600_000;
    let near = (IpAddr::V4(Side::Near.address()), port);
    let far = (IpAddr::V4(far), PORT_ALLOWED);
    let (opened, local, remote) = match side {
        Side::Near => (Direction::Egress, near, far),
        Side::Far => (Direction::Ingress, far, near),
    };
    SessionRecord {
        key: SessionKey {
            segment: SEGMENT,
            protocol: 17,
            local: local.0,
            remote: remote.0,
            local_port: local.1,
            remote_port: remote.1,
        },
        opened,
        state: TcpState::Established,
        rule: RuleId(1),
        generation: Generation(1),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(1),
        idle_ms: 0,
        expires_in_ms: LASTING_MS,
        packets: [1, 1],
        bytes: [60, 60],
        tcp: [TcpEnd::default(); 2],
    }
}

/// A UDP frame of the smallest Ethernet size from the near guest.
///
/// # Errors
/// Never for these constants.
pub fn datagram(port: u16) -> Result<Vec<u8>> {
    const PAYLOAD: u16 = 18;
    let mut segment = Vec::new();
    segment.extend(PORT_FIRST.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend((8 + PAYLOAD).to_be_bytes());
    // No checksum: RFC 768 allows it, and the far port changes with each copy.
    segment.extend([0, 0]);
    segment.extend([0; PAYLOAD as usize]);
    packet(17, Side::Far.address(), &segment)
}

/// A bare SYN toward the far guest; the injector gives it a source and its checksum.
///
/// # Errors
/// Never for these constants.
pub fn syn(port: u16) -> Result<Vec<u8>> {
    const DATA_OFFSET: u8 = 5 << 4;
    const SYN: u8 = 2;
    let mut segment = Vec::new();
    segment.extend(PORT_FIRST.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend([0; 8]);
    segment.extend([DATA_OFFSET, SYN]);
    segment.extend(64_240_u16.to_be_bytes());
    segment.extend([0; 4]);
    packet(6, Side::Far.address(), &segment)
}

fn packet(protocol: u8, to: Ipv4Addr, segment: &[u8]) -> Result<Vec<u8>> {
    const HEADER: usize = 20;
    let length = u16::try_from(HEADER + segment.len())?;
    let mut frame = Vec::new();
    frame.extend(Side::Far.mac().0);
    frame.extend(Side::Near.mac().0);
    frame.extend([8, 0]);
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(Side::Near.address().octets());
    frame.extend(to.octets());
    frame.extend(segment);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn conversations_are_distinct_and_stay_in_their_prefix() {
        for prefixes in [1, 10, 1_000] {
            let mut seen = HashSet::new();
            for index in (0..FLOWS_MAX).step_by(97) {
                let (far, port) = ends(index, prefixes);
                assert!(prefix(index % prefixes).contains(&far), "{far}");
                assert!(seen.insert((far, port)), "{index} of {prefixes}");
            }
        }
    }

    #[test]
    fn tables_are_sound() {
        for protected in [Protected::Near, Protected::Far, Protected::Both] {
            tables(10, protected).canonical().expect("canonical");
        }
        let many = tables(100_000, Protected::Near).canonical();
        assert!(many.expect("canonical").decisions.len() > 100_000);
    }

    #[test]
    fn frames_have_the_lengths_they_state() {
        for frame in [
            datagram(PORT_ALLOWED).expect("made"),
            syn(PORT_ALLOWED).expect("made"),
        ] {
            let stated = u16::from_be_bytes([frame[16], frame[17]]);
            assert_eq!(frame.len(), 14 + usize::from(stated));
        }
        assert_eq!(datagram(PORT_ALLOWED).expect("made").len(), 60);
    }
}
