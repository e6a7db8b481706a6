//! Network devices, asked over rtnetlink in the calling thread's network namespace.
//! `/sys/class/net` shows the namespace of the mount, which may be another one.

use crate::kind::Kind;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_AGEING_TIME: u16 = 4;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const BR_STATE_FORWARDING: u8 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// The parents of clsact's two filter chains: TC_H_CLSACT with minor FFF2 and FFF3.
const CLSACT_PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
const HEADER: usize = 16;
const MESSAGE_BYTES_MAX: usize = 65_536;

/// A device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) ifindex: u32,
    pub(crate) kind: Kind,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) enslaved: bool,
    /// The device that it is a port of; zero: none.
    pub(crate) master: u32,
    pub(crate) port: Option<BridgePort>,
    pub(crate) bridge: Option<Bridge>,
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

/// What a bridge makes of one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BridgePort {
    pub(crate) forwarding: bool,
    pub(crate) isolated: bool,
}

/// A bridge's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) vlan_filtering: bool,
    /// Hundredths of a second until it forgets a station.
    pub(crate) ageing: u32,
}

/// The nested attributes of one kind of link, `kind_at` names the kind and `data_at` has them.
fn link_data(info: &[u8], kind_at: u16, data_at: u16, kind: &[u8]) -> Option<Vec<(u16, Vec<u8>)>> {
    let found = attributes(info);
    let value = |wanted| {
        found
            .iter()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, v)| *v)
    };
    let is = value(kind_at).is_some_and(|name| name.strip_suffix(&[0]).unwrap_or(name) == kind);
    let data = value(data_at).filter(|_| is)?;
    Some(
        attributes(data)
            .into_iter()
            .map(|(kind, v)| (kind, v.to_vec()))
            .collect(),
    )
}

fn bridge_port(info: &[u8]) -> Option<BridgePort> {
    let data = link_data(info, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, b"bridge")?;
    let octet = |wanted| {
        data.iter()
            .find(|(kind, _)| *kind == wanted)?
            .1
            .first()
            .copied()
    };
    Some(BridgePort {
        forwarding: octet(IFLA_BRPORT_STATE) == Some(BR_STATE_FORWARDING),
        // What cannot be read is taken for the stricter.
        isolated: octet(IFLA_BRPORT_ISOLATED) != Some(0),
    })
}

fn bridge(info: &[u8]) -> Option<Bridge> {
    let data = link_data(info, IFLA_INFO_KIND, IFLA_INFO_DATA, b"bridge")?;
    let value = |wanted| {
        data.iter()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, v)| v.as_slice())
    };
    Some(Bridge {
        vlan_filtering: value(IFLA_BR_VLAN_FILTERING).and_then(|v| v.first()) != Some(&0),
        ageing: value(IFLA_BR_AGEING_TIME).map_or(0, |v| word(v, 0)),
    })
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<OwnedFd> {
    let flags = (NLM_F_REQUEST | flags).to_ne_bytes();
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags);
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(body);
    let route = SockProtocol::NetlinkRoute;
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        route,
    )?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    Ok(netlink)
}

/// The messages of one datagram as (kind, body). Stops at the first that contradicts its length.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        found.push((kind, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let octets = bytes
        .get(at..at + 8)
        .and_then(|slice| slice.try_into().ok());
    octets.map_or(0, u64::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let octets = bytes
        .get(at..at + 4)
        .and_then(|slice| slice.try_into().ok());
    octets.map_or(0, u32::from_ne_bytes)
}

fn failure(body: &[u8]) -> io::Error {
    io::Error::from_raw_os_error(-(word(body, 0) as i32))
}

/// The device of this name, or `None`.
pub(crate) fn find(name: &str) -> io::Result<Option<Device>> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Ok(None);
    }
    let mut body = vec![0; 16];
    body.extend(attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat()));
    ask(&body)
}

/// The device of this number, or `None`.
pub(crate) fn find_index(ifindex: u32) -> io::Result<Option<Device>> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    ask(&body)
}

fn ask(body: &[u8]) -> io::Result<Option<Device>> {
    let netlink = request(RTM_GETLINK, 0, body)?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    for (kind, body) in messages(&buffer[..length]) {
        match kind {
            NLMSG_ERROR if word(body, 0) as i32 == -libc::ENODEV => return Ok(None),
            NLMSG_ERROR => return Err(failure(body)),
            RTM_NEWLINK => return Ok(Some(device(body))),
            _ => {}
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "rtnetlink answered without a link",
    ))
}

/// Of a link's nested attributes and its hardware type.
fn kind(link_info: &[u8], hardware: u32) -> Kind {
    let found = attributes(link_info);
    let name = found.iter().find(|(kind, _)| *kind == IFLA_INFO_KIND);
    let text = name.and_then(|(_, text)| std::str::from_utf8(text).ok());
    Kind::of(
        text.map(|text| text.trim_end_matches('\0')),
        hardware as u16,
    )
}

fn device(body: &[u8]) -> Device {
    let attributes = attributes(body.get(16..).unwrap_or_default());
    let value = |wanted| {
        attributes
            .iter()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, v)| *v)
    };
    let stats = value(IFLA_STATS64).unwrap_or_default();
    Device {
        ifindex: word(body, 4),
        kind: kind(
            value(IFLA_LINKINFO).unwrap_or_default(),
            word(body, 0) >> 16,
        ),
        mtu: value(IFLA_MTU).map_or(0, |bytes| word(bytes, 0)),
        up: word(body, 8) & libc::IFF_UP as u32 != 0,
        enslaved: value(IFLA_MASTER).is_some(),
        master: value(IFLA_MASTER).map_or(0, |bytes| word(bytes, 0)),
        port: bridge_port(value(IFLA_LINKINFO).unwrap_or_default()),
        bridge: bridge(value(IFLA_LINKINFO).unwrap_or_default()),
        rx_packets: number(stats, 0),
        tx_packets: number(stats, 8),
        rx_bytes: number(stats, 16),
        tx_bytes: number(stats, 24),
    }
}

/// How many clsact filters run before or beside the place of ours: those with its priority or a
/// smaller number, ours (handle 1 at that priority) left out.
pub(crate) fn foreign_filters(ifindex: u32, egress: bool, priority: u32) -> io::Result<u32> {
    let mut body = vec![0; 4];
    body.extend(ifindex.to_ne_bytes());
    body.extend(0u32.to_ne_bytes());
    body.extend(CLSACT_PARENTS[usize::from(egress)].to_ne_bytes());
    body.extend(0u32.to_ne_bytes());
    let netlink = request(RTM_GETTFILTER, NLM_F_DUMP, &body)?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let mut foreign = 0;
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(foreign),
                NLMSG_ERROR if word(body, 0) as i32 == -libc::EINVAL => return Ok(foreign),
                NLMSG_ERROR => return Err(failure(body)),
                RTM_NEWTFILTER => {
                    let (handle, place) = (word(body, 8), word(body, 16) >> 16);
                    // A filter without a handle only describes its chain.
                    if handle != 0 && place <= priority && (handle, place) != (1, priority) {
                        foreign += 1;
                    }
                }
                _ => {}
            }
        }
    }
}
