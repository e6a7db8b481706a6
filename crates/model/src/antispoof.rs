//! Who may say what on the link: MAC addresses, ARP (RFC 826, RFC 5227), neighbour discovery (RFC
//! 4861, RFC 4862) and the announcement that QEMU sends (RFC 903).

use crate::locals::Locals;
use crate::parse::{Content, IP_ICMPV6, Ip, Message, Packet, Transport, bytes_at};
use crate::policy::{Place, Tables};
use crate::verdict::Vnic;
use lictor_types::{Direction, Mac, Reason, Role, VnicId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use Direction::{Egress, Ingress};

/// Options of a neighbour message.
const ND_OPTIONS_MAX: usize = 6;

const ROUTER_SOLICITATION: u8 = 133;
pub(crate) const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Queries, reports and farewells of MLD (RFC 2710, RFC 3810).
const LISTENERS: [u8; 4] = [130, 131, 132, 143];

/// Truth about a neighbour, or a lie.
fn truth(holds: bool) -> Reason {
    if holds {
        Reason::Neighbour
    } else {
        Reason::SpoofedNeighbour
    }
}

/// A guest sends with its own MAC only, and hears its own, all stations, all nodes (ff02::1) and
/// the solicited-node groups, for which a solicitation must prove itself by its target.
pub(crate) fn mac(vnic: &Vnic, packet: &Packet<'_>, direction: Direction) -> Result<(), Reason> {
    if direction == Egress {
        return match vnic.is(packet.from) {
            true => Ok(()),
            false => Err(Reason::SpoofedMac),
        };
    }
    let Content::Ip(ip) = &packet.content else {
        let heard = vnic.is(packet.to) || packet.to == Mac([0xff; 6]);
        return heard.then_some(()).ok_or(Reason::ForeignMac);
    };
    let heard = match packet.to.0 {
        to if vnic.is(Mac(to)) || to == [0xff; 6] => true,
        [0x33, 0x33, 0, 0, 0, 1] => ip.source.is_ipv6(),
        // All routers (ff02::2), and all DHCP agents and servers (ff02::1:2).
        [0x33, 0x33, 0, 0, 0, 2] => ip.source.is_ipv6() && vnic.link.has(Role::Router),
        [0x33, 0x33, 0, 1, 0, 2] => ip.source.is_ipv6() && vnic.link.has(Role::DhcpServer),
        [0x33, 0x33, 0xff, ..] => is_solicitation(ip),
        // Of any other group that the packet is for, the policy decides.
        to => group_mac(ip.destination) == Some(to),
    };
    heard.then_some(()).ok_or(Reason::ForeignMac)
}

/// The station address of a group (RFC 1112, 6.4; RFC 2464, 7).
fn group_mac(group: IpAddr) -> Option<[u8; 6]> {
    match group {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            Some([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        _ => None,
    }
}

fn is_solicitation(ip: &Ip<'_>) -> bool {
    let solicits = |m: &Message<'_>| m.kind == SOLICITATION;
    ip.protocol == IP_ICMPV6 && matches!(&ip.transport, Transport::Icmp(m) if solicits(m))
}

/// An ARP body for IPv4 over Ethernet.
struct Arp {
    operation: u16,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
}

fn read_arp(body: &[u8]) -> Result<Arp, Reason> {
    let body: [u8; 28] = bytes_at(body, 0).ok_or(Reason::Truncated)?;
    // Ethernet, IPv4, and the lengths of their addresses.
    if body[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(Reason::BadHeader);
    }
    let mac = |at| bytes_at(&body, at).map(Mac).ok_or(Reason::Truncated);
    let ipv4 = |at| bytes_at::<4>(&body, at).ok_or(Reason::Truncated);
    Ok(Arp {
        operation: u16::from_be_bytes([body[6], body[7]]),
        sender_mac: mac(8)?,
        sender: ipv4(14)?.into(),
        target_mac: mac(18)?,
        target: ipv4(24)?.into(),
    })
}

/// What stands at this vnic, and where a packet is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Station<'a> {
    pub(crate) place: Place,
    pub(crate) vnic: &'a Vnic,
    pub(crate) locals: &'a Locals,
    /// By whose device the packet came in.
    pub(crate) came_by: Option<VnicId>,
}

impl Station<'_> {
    /// Whether a packet toward the guest, in the name of this address, did not come from there.
    fn claimed(self, tables: &Tables, address: IpAddr) -> bool {
        let owner = tables.vnic_of(self.place.segment, address);
        self.locals.lies(owner, self.came_by)
    }
}

/// QEMU announces a resumed guest in a reversed ARP for its own station. It needs no release: it
/// moves the bridges' knowledge of the MAC and nothing else.
pub(crate) fn rarp(body: &[u8], vnic: &Vnic, direction: Direction) -> Reason {
    if bytes_at::<28>(body, 0).is_none() {
        return Reason::Truncated;
    }
    if direction == Ingress {
        return Reason::EtherType;
    }
    match read_arp(body) {
        // RFC 903: a request for the sender's own address.
        Ok(arp) if arp.operation != 3 => Reason::BadHeader,
        Ok(arp) if vnic.is(arp.sender_mac) && arp.target_mac == arp.sender_mac => {
            Reason::Announcement
        }
        Ok(_) => Reason::SpoofedNeighbour,
        Err(reason) => reason,
    }
}

pub(crate) fn arp(
    body: &[u8],
    tables: &Tables,
    station: Station<'_>,
    direction: Direction,
) -> Reason {
    let arp = match read_arp(body) {
        Ok(arp) if matches!(arp.operation, 1 | 2) => arp,
        Ok(_) => return Reason::BadHeader,
        Err(reason) => return reason,
    };
    let bound = |address: Ipv4Addr| tables.bound(station.place, address.into());
    let own = station.vnic.is(arp.sender_mac);
    match direction {
        Egress if !own => Reason::SpoofedNeighbour,
        // RFC 5227, 2.1.1: a probe asks without claiming.
        Egress if arp.sender.is_unspecified() => truth(arp.operation == 1),
        Egress => truth(bound(arp.sender)),
        // The guest's own address or station in a stranger's mouth.
        Ingress if own || tables.only(station.place, arp.sender.into()) => Reason::SpoofedNeighbour,
        Ingress if station.claimed(tables, arp.sender.into()) => Reason::SpoofedLocal,
        Ingress if bound(arp.target) || arp.target == arp.sender => Reason::Neighbour,
        Ingress => Reason::ForeignAddress,
    }
}

/// Whether it is one of those that ask and tell about neighbours.
pub(crate) fn is_neighbour_message(ip: &Ip<'_>) -> bool {
    let kinds = ROUTER_SOLICITATION..=REDIRECT;
    ip.protocol == IP_ICMPV6
        && matches!(&ip.transport, Transport::Icmp(message) if kinds.contains(&message.kind))
}

/// The reason for a neighbour message; none if the policy is to decide.
pub(crate) fn nd(
    packet: &Packet<'_>,
    tables: &Tables,
    station: Station<'_>,
    direction: Direction,
) -> Option<Reason> {
    let Content::Ip(ip) = &packet.content else {
        return None;
    };
    let Transport::Icmp(message) = &ip.transport else {
        return None;
    };
    // RFC 2710, 3: listeners and their routers do not speak beyond the link.
    if ip.protocol == IP_ICMPV6 && LISTENERS.contains(&message.kind) && ip.hops != 1 {
        return Some(Reason::BadHeader);
    }
    if !is_neighbour_message(ip) {
        return None;
    }
    // RFC 4861, 6.1 and 7.1: whoever is not on the link can't send 255.
    if ip.hops != 255 || message.code != 0 {
        return Some(Reason::BadHeader);
    }
    let bound = |address| tables.bound(station.place, address);
    // Nobody has the unspecified address, whatever prefix is bound.
    let from_own = !ip.source.is_unspecified() && bound(ip.source);
    let alone = !ip.source.is_unspecified() && tables.only(station.place, ip.source);
    let routes = station.vnic.link.has(Role::Router);
    let reason = match (message.kind, direction) {
        (ROUTER_ADVERTISEMENT, Ingress) => return None,
        // A router's are the policy's to allow.
        (ROUTER_ADVERTISEMENT, Egress) if routes => {
            match options(message.bytes, 16, station.vnic, direction) {
                Ok(()) => return None,
                Err(reason) => Err(reason),
            }
        }
        (ROUTER_ADVERTISEMENT, Egress) | (REDIRECT, _) => Err(Reason::SpoofedNeighbour),
        // Only routers are asked who routes, and not in the name of the guest or one elsewhere.
        (ROUTER_SOLICITATION, Ingress) if !routes => Err(Reason::ForeignAddress),
        (ROUTER_SOLICITATION, Ingress) if alone => Err(Reason::SpoofedNeighbour),
        (ROUTER_SOLICITATION, Ingress) if station.claimed(tables, ip.source) => {
            Err(Reason::SpoofedLocal)
        }
        (ROUTER_SOLICITATION, Ingress) => {
            options(message.bytes, 8, station.vnic, direction).map(|()| Reason::Neighbour)
        }
        (ROUTER_SOLICITATION, Egress) => options(message.bytes, 8, station.vnic, direction)
            .map(|()| truth(ip.source.is_unspecified() || from_own)),
        _ => target(message, station.vnic, direction).map(|target| match direction {
            Egress => said(ip, message.kind, from_own, bound(target.into())),
            Ingress => heard(packet.to, ip, (message.kind, target), |address| Owner {
                own: bound(address),
                alone: tables.only(station.place, address),
                elsewhere: station.claimed(tables, address),
            }),
        }),
    };
    Some(reason.unwrap_or_else(|reason| reason))
}

/// The target of a solicitation or an advertisement whose options tell the truth.
fn target(message: &Message<'_>, vnic: &Vnic, direction: Direction) -> Result<Ipv6Addr, Reason> {
    let octets: [u8; 16] = bytes_at(message.bytes, 8).ok_or(Reason::Truncated)?;
    let target = Ipv6Addr::from(octets);
    // RFC 4861, 4.3: no group. A v4-mapped one would be taken for the IPv4 address it contains.
    if target.is_multicast() || target.to_ipv4_mapped().is_some() {
        return Err(Reason::BadHeader);
    }
    options(message.bytes, 24, vnic, direction)?;
    Ok(target)
}

/// Whether the options speak of the right station: from the guest its own, toward it any but its
/// own.
fn options(bytes: &[u8], at: usize, vnic: &Vnic, direction: Direction) -> Result<(), Reason> {
    let mut rest = bytes.get(at..).ok_or(Reason::Truncated)?;
    for _ in 0..ND_OPTIONS_MAX {
        if rest.is_empty() {
            return Ok(());
        }
        let [kind, units, mac @ ..]: [u8; 8] = bytes_at(rest, 0).ok_or(Reason::Truncated)?;
        // RFC 4861, 4.6: a length of zero is to be discarded.
        if units == 0 {
            return Err(Reason::BadHeader);
        }
        let names_station = matches!(kind, 1 | 2);
        if names_station && vnic.is(Mac(mac)) != (direction == Egress) {
            return Err(Reason::SpoofedNeighbour);
        }
        rest = rest
            .get(usize::from(units) * 8..)
            .ok_or(Reason::Truncated)?;
    }
    rest.is_empty().then_some(()).ok_or(Reason::BadHeader)
}

/// From the guest: whoever advertises, or asks whether an address is free (RFC 4862, 5.4), speaks
/// of an address of its own; an advertisement has a sender.
fn said(ip: &Ip<'_>, kind: u8, from_own: bool, target_own: bool) -> Reason {
    let unspecified = ip.source.is_unspecified();
    truth(match kind {
        ADVERTISEMENT => !unspecified && from_own && target_own,
        _ if unspecified => target_own,
        _ => from_own,
    })
}

/// Whose address a message speaks of.
#[derive(Debug, Clone, Copy)]
struct Owner {
    /// One that the guest may claim.
    own: bool,
    /// The guest's and nobody else's.
    alone: bool,
    /// That of a guest by whose device the message did not come in.
    elsewhere: bool,
}

/// Toward the guest: nobody speaks as the guest or for its address, nor for a guest of this host
/// but that one; a question must be about its address, an answer is for it or for all.
fn heard(
    to: Mac,
    ip: &Ip<'_>,
    (kind, target): (u8, Ipv6Addr),
    owner: impl Fn(IpAddr) -> Owner,
) -> Reason {
    let (source, of_target) = (owner(ip.source), owner(target.into()));
    if !ip.source.is_unspecified() && source.alone {
        return Reason::SpoofedNeighbour;
    }
    if source.elsewhere {
        return Reason::SpoofedLocal;
    }
    if kind == ADVERTISEMENT {
        return match ip.destination {
            _ if of_target.alone => Reason::SpoofedNeighbour,
            _ if of_target.elsewhere => Reason::SpoofedLocal,
            to if to.is_multicast() || owner(to).own => Reason::Neighbour,
            _ => Reason::ForeignAddress,
        };
    }
    // A group's MAC must be that of the target (RFC 4291, 2.7.1), or anyone could listen in.
    let group = to.0[0] == 0x33 && to.0[2] == 0xff;
    if group && to.0[3..] != target.octets()[13..] {
        return Reason::ForeignMac;
    }
    match of_target.own {
        true => Reason::Neighbour,
        false => Reason::ForeignAddress,
    }
}
