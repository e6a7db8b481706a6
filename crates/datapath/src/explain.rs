//! What the loaded program would do with a packet, without leaving a trace: a second instance of it
//! runs, with the host's tables and time-outs, and with copies of the vnic's own state.

use crate::abi::VnicConfig;
use crate::shared::Shared;
use crate::vnic::{self, Vnic};
use crate::{Error, TestVerdict};
use lictor_types::{
    AddressEntry, AtomId, Decision, Direction, HostTables, Mac, Probe, ProbeFlags, ProbeKind,
    Segment, SessionKey, SessionRecord, TcpEnd, VnicId,
};
use std::net::IpAddr;
use std::path::Path;

/// The other end, if it is nobody's vnic on this host: a locally administered address.
pub(crate) const STRANGER: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
/// The folder of the second instance. Zero is no vnic, so that what a crash leaves is removed.
const FOLDER: &str = "vnics/0";

/// What would become of a packet, and what it would meet on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// From the guest or toward it.
    pub direction: Direction,
    /// What the program says.
    pub answer: TestVerdict,
    /// The live session that it would belong to, as it stands.
    pub session: Option<SessionRecord>,
    /// What the tables know of the guest's own end.
    pub local: Option<AddressEntry>,
    /// What they know of the other end.
    pub remote: Option<AddressEntry>,
    /// The atom of its port.
    pub atom: Option<AtomId>,
    /// What the tables decide on a new session.
    pub decision: Option<Decision>,
}

/// Whose vnic it is, and where.
pub(crate) struct Asked<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) shared: &'a Shared,
    pub(crate) vnic: &'a Vnic,
    /// The MAC and the device of another vnic of this host.
    pub(crate) neighbour: &'a dyn Fn(VnicId) -> Option<(Mac, u32)>,
}

fn address(tables: &HostTables, segment: Segment, address: IpAddr) -> Option<AddressEntry> {
    let covers = |row: &&AddressEntry| row.segment == segment && row.prefix.contains(&address);
    let rows = tables.addresses.iter().filter(covers);
    rows.max_by_key(|row| row.prefix.prefix_len()).copied()
}

fn atom(tables: &HostTables, probe: &Probe) -> Option<AtomId> {
    let (class, port) = probe.service();
    let holds = |row: &&lictor_types::AtomRange| {
        row.protocol == class && (row.first..=row.last).contains(&port)
    };
    tables.atoms.iter().find(holds).map(|row| row.atom)
}

/// The ends as the guest sees them: its own, then the other.
fn ends(probe: &Probe, direction: Direction) -> (IpAddr, IpAddr) {
    match direction {
        Direction::Egress => (probe.source(), probe.destination()),
        Direction::Ingress => (probe.destination(), probe.source()),
    }
}

/// What the tables decide between two ends, which they may not know.
fn decision(tables: &HostTables, found: &Explanation) -> Option<Decision> {
    let identity = |row: Option<AddressEntry>| row.map(|row| row.identity).unwrap_or_default();
    let decides = |row: &&Decision| {
        row.direction == found.direction
            && Some(row.atom) == found.atom
            && row.local == identity(found.local)
            && row.peer == identity(found.remote)
    };
    tables.decisions.iter().find(decides).copied()
}

fn key(probe: &Probe, segment: Segment, direction: Direction) -> SessionKey {
    let egress = direction == Direction::Egress;
    let (from, to) = match probe.kind() {
        ProbeKind::Tcp { from, to, .. }
        | ProbeKind::Udp { from, to }
        | ProbeKind::Sctp { from, to } => (from, to),
        ProbeKind::Icmp { kind, .. } => {
            // An echo by its identifier, which is zero here, and by who asked.
            let asks = matches!(kind, 8 | 128);
            let side = if asks == egress { 1 } else { 2 };
            if egress { (0, side) } else { (side, 0) }
        }
        ProbeKind::Other { .. } => (0, 0),
    };
    let (source, destination) = (probe.source(), probe.destination());
    let ends = match egress {
        true => [(source, from), (destination, to)],
        false => [(destination, to), (source, from)],
    };
    SessionKey {
        segment,
        protocol: probe.protocol(),
        local: ends[0].0,
        remote: ends[1].0,
        local_port: ends[0].1,
        remote_port: ends[1].1,
    }
}

/// Numbers as the session's sender would choose them next.
fn segment(probe: (u16, u16, ProbeFlags), own: TcpEnd, other: TcpEnd) -> Vec<u8> {
    let (from, to, flags) = probe;
    let acknowledges = flags.bits() & 0x10 != 0;
    let ack = if acknowledges { other.end } else { 0 };
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend(own.end.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags.bits()]);
    bytes.extend(u16::MAX.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

pub(crate) fn body(
    probe: &Probe,
    session: Option<&SessionRecord>,
    direction: Direction,
) -> Vec<u8> {
    match probe.kind() {
        ProbeKind::Tcp { from, to, flags } => {
            let [egress, ingress] = session.map(|session| session.tcp).unwrap_or_default();
            match direction {
                Direction::Egress => segment((from, to, flags), egress, ingress),
                Direction::Ingress => segment((from, to, flags), ingress, egress),
            }
        }
        ProbeKind::Udp { from, to } => {
            let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
            bytes.extend([0, 8, 0, 0]);
            bytes
        }
        ProbeKind::Sctp { from, to } => {
            let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
            // An INIT (RFC 9260, 3.3.2) that wants the tag 1.
            bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1]);
            bytes.extend([0; 12]);
            bytes
        }
        ProbeKind::Icmp { kind, code } => vec![kind, code, 0, 0, 0, 0, 0, 1],
        ProbeKind::Other { .. } => vec![0; 8],
    }
}

pub(crate) fn frame(probe: &Probe, (to, from): (Mac, Mac), body: &[u8]) -> Vec<u8> {
    let mut bytes = [&to.0[..], &from.0].concat();
    match (probe.source(), probe.destination()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x08, 0x00, 0x45, 0]);
            bytes.extend((20 + body.len() as u16).to_be_bytes());
            bytes.extend([0, 0, 0, 0, 64, probe.protocol(), 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (source, destination) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((body.len() as u16).to_be_bytes());
            // Neighbour discovery travels with the largest hop limit only (RFC 4861, 7.1).
            bytes.extend([probe.protocol(), 255]);
            bytes.extend(octets(source));
            bytes.extend(octets(destination));
        }
    }
    bytes.extend(body);
    bytes
}

/// Runs a second instance of the vnic's program on the packet.
pub(crate) fn run(
    asked: &Asked<'_>,
    tables: &HostTables,
    (probe, direction): (&Probe, Option<Direction>),
) -> Result<Explanation, Error> {
    let config = asked.vnic.config()?;
    let domain = Segment(config.segment);
    let is_own = |row: AddressEntry| row.vnic == Some(VnicId(config.vnic));
    let direction = direction.unwrap_or_else(|| {
        match address(tables, domain, probe.source()).is_some_and(is_own) {
            true => Direction::Egress,
            false => Direction::Ingress,
        }
    });
    let (own, other) = ends(probe, direction);
    let (local, remote) = (address(tables, domain, own), address(tables, domain, other));
    let wanted = key(probe, domain, direction);
    let sessions = asked.vnic.export()?;
    let session = sessions.into_iter().find(|one| one.key == wanted);
    let neighbour = remote.and_then(|row| row.vnic);
    let neighbour = neighbour.filter(|vnic| vnic.0 != config.vnic);
    let (mac, device) = neighbour.and_then(asked.neighbour).unwrap_or((STRANGER, 0));
    let macs = match direction {
        Direction::Egress => (mac, Mac(config.mac)),
        Direction::Ingress => (Mac(config.mac), mac),
    };
    let body = body(probe, session.as_ref(), direction);
    let frame = frame(probe, macs, &body);
    let device = if direction == Direction::Ingress {
        device
    } else {
        0
    };
    let folder = asked.folder.join(FOLDER);
    vnic::remove_pins(&folder)?;
    let answer = second(asked, &folder, &config, session.as_ref())
        .and_then(|second| second.test_run(direction, &frame, device));
    vnic::remove_pins(&folder)?;
    let mut found = Explanation {
        direction,
        answer: answer?,
        session,
        local,
        remote,
        atom: atom(tables, probe),
        decision: None,
    };
    found.decision = decision(tables, &found);
    Ok(found)
}

/// The second instance, with copies of what the first keeps for itself. It hangs on no device.
fn second(
    asked: &Asked<'_>,
    folder: &Path,
    config: &VnicConfig,
    session: Option<&SessionRecord>,
) -> Result<Vnic, Error> {
    let spec = asked.vnic.status()?.spec;
    let lend = |name: &str| match name {
        // What is counted and reported stays with the second instance.
        "host_counters" | "events" => None,
        _ => asked.shared.fd(name),
    };
    let second = Vnic::load_with(folder, &lend, &spec)?;
    second.set_config(config)?;
    second.copy_rules(asked.vnic)?;
    second.write_terms(&asked.vnic.terms()?)?;
    second.import(session.map_or(&[], std::slice::from_ref))?;
    Ok(second)
}
