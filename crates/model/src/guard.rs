//! Who may play the server: DHCP (RFC 2131) and DHCPv6 (RFC 8415). A client has no address yet and
//! asks a group, so that no session fits; each message is judged by itself instead.

use crate::parse::{IP_UDP, Ip, Transport};
use crate::verdict::Vnic;
use lictor_types::{Direction, Mac, Reason, Role};
use std::net::IpAddr;

use Direction::{Egress, Ingress};

/// The ports of server and client.
const DHCP: (u16, u16) = (67, 68);
const DHCP6: (u16, u16) = (547, 546);

/// A message between a client and a server of DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) to_server: bool,
    /// Source and destination.
    pub(crate) ports: (u16, u16),
}

/// The message that this is, one that lies or may not be said, or none of them. A server's own
/// answers are ordinary conversations.
pub(crate) fn message(
    ip: &Ip<'_>,
    vnic: &Vnic,
    direction: Direction,
) -> Result<Option<Message>, Reason> {
    let Transport::Udp {
        source,
        destination,
        payload,
    } = ip.transport
    else {
        return Ok(None);
    };
    if ip.protocol != IP_UDP {
        return Ok(None);
    }
    let serves = vnic.link.has(Role::DhcpServer);
    if direction == Egress && !serves && (source == DHCP.0 || source == DHCP6.0) {
        return Err(Reason::RogueServer);
    }
    let ports = (source, destination);
    let (server, client) = if ip.source.is_ipv4() { DHCP } else { DHCP6 };
    let to_server = match ports == (client, server) {
        true => true,
        false if ports == (server, client) => false,
        false => return Ok(None),
    };
    match (direction, to_server) {
        // Of the guest as a client.
        (Egress, true) | (Ingress, false) => check(ip, vnic, payload, to_server)?,
        // Of the guest as a server.
        (Ingress, true) if serves => {}
        _ => return Ok(None),
    }
    Ok(Some(Message { to_server, ports }))
}

fn check(ip: &Ip<'_>, vnic: &Vnic, payload: &[u8], to_server: bool) -> Result<(), Reason> {
    match ip.source {
        IpAddr::V4(_) => bootp(vnic, payload, to_server),
        IpAddr::V6(_) => dhcp6(payload, to_server),
    }
}

/// A message of a client, or one for it: it names a station of the vnic.
fn bootp(vnic: &Vnic, payload: &[u8], to_server: bool) -> Result<(), Reason> {
    const REQUEST: u8 = 1;
    const REPLY: u8 = 2;
    let head: &[u8; 34] = payload.first_chunk().ok_or(Reason::Truncated)?;
    let [operation, hardware, length, ..] = *head;
    if to_server && operation == REPLY {
        return Err(Reason::RogueServer);
    }
    let expected = if to_server { REQUEST } else { REPLY };
    // Ethernet, and the length of its addresses.
    if [operation, hardware, length] != [expected, 1, 6] {
        return Err(Reason::BadHeader);
    }
    let [.., a, b, c, d, e, f] = *head;
    match vnic.is(Mac([a, b, c, d, e, f])) {
        true => Ok(()),
        false => Err(Reason::SpoofedHardware),
    }
}

/// RFC 8415, 7.3: advertisements, replies and the wish for a reconfiguration come from servers;
/// relays' messages pass between servers only.
fn dhcp6(payload: &[u8], to_server: bool) -> Result<(), Reason> {
    let [kind, ..]: &[u8; 4] = payload.first_chunk().ok_or(Reason::Truncated)?;
    match (kind, to_server) {
        (2 | 7 | 10, true) => Err(Reason::RogueServer),
        (2 | 7 | 10, false) | (1 | 3..=6 | 8 | 9 | 11, true) => Ok(()),
        _ => Err(Reason::BadHeader),
    }
}

/// RFC 2131, 4.1: whoever has no address yet sends from 0.0.0.0. In IPv6 there is a link-local one.
pub(crate) fn has_no_address(ip: &Ip<'_>) -> bool {
    matches!(ip.source, IpAddr::V4(address) if address.is_unspecified())
}
