//! What may stand between an IP header and the transport header: options and extension headers.

use crate::parse::{bytes_at, u16_at};
use lictor_types::Reason;

/// IPv6 headers that are followed to the transport header.
const EXTENSION_HEADERS_MAX: usize = 4;
/// Options of one IPv6 header, padding included.
const IPV6_OPTIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NONE: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM: u8 = 140;

/// Which part of a datagram a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// Bytes of the datagram before it.
    pub(crate) at: usize,
    /// Bytes of the datagram in it.
    pub(crate) bytes: usize,
    /// Others come after it.
    pub(crate) more: bool,
}

impl Fragment {
    pub(crate) fn first(self) -> bool {
        self.at == 0
    }

    /// Whether a sender may make it; `head` is what each fragment of the datagram repeats.
    /// Reassembled, a datagram has at most 65,535 bytes. The second fragment of a sender that
    /// splits after eight bytes would hold the rest of the transport header (RFC 3128).
    pub(crate) fn check(self, head: usize) -> Result<(), Reason> {
        let whole_units = !self.more || self.bytes.is_multiple_of(8);
        if self.bytes == 0 || !whole_units {
            return Err(Reason::BadFragment);
        }
        if self.at == 8 {
            return Err(Reason::TinyFragment);
        }
        match head + self.at + self.bytes {
            0..=65_535 => Ok(()),
            _ => Err(Reason::BadFragment),
        }
    }
}

/// IPv4 options: padding and the router alert of IGMP (RFC 2113). Source routes carry a packet past
/// the check of its destination; whatever else records, stamps or labels has no receiver here
/// (RFC 7126).
pub(crate) fn ipv4_options(mut options: &[u8]) -> Result<(), Reason> {
    loop {
        match options {
            [] | [0, ..] => return Ok(()),
            [1, rest @ ..] | [148, 4, _, _, rest @ ..] => options = rest,
            _ => return Err(Reason::IpOption),
        }
    }
}

/// The options of a hop-by-hop or destination header: padding, the limit of nested tunnels (RFC
/// 2473) and the router alert of MLD (RFC 2711). The others change what a packet means: a home
/// address is another source, a jumbo payload another length.
fn ipv6_options(mut options: &[u8]) -> Result<(), Reason> {
    for _ in 0..IPV6_OPTIONS_MAX {
        match options {
            [] => return Ok(()),
            [0, rest @ ..] => options = rest,
            [1 | 4 | 5, length, rest @ ..] => {
                options = rest.get(usize::from(*length)..).ok_or(Reason::IpOption)?;
            }
            _ => return Err(Reason::IpOption),
        }
    }
    options.is_empty().then_some(()).ok_or(Reason::IpOption)
}

/// Where a chain of extension headers leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) protocol: u8,
    pub(crate) body: &'a [u8],
    pub(crate) fragment: Option<Fragment>,
    /// Bytes of the headers that each fragment repeats.
    pub(crate) repeated: usize,
}

fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM
    )
}

impl<'a> Chain<'a> {
    /// Follows the headers that may precede a transport header (RFC 8200, 4.1). An error comes with
    /// how far it got: a first fragment that ends inside its headers is a tiny one.
    pub(crate) fn follow(next: u8, body: &'a [u8]) -> (Self, Result<(), Reason>) {
        let mut chain = Self {
            protocol: next,
            body,
            fragment: None,
            repeated: 0,
        };
        let end = chain.walk(body.len());
        (chain, end)
    }

    fn walk(&mut self, whole: usize) -> Result<(), Reason> {
        let mut seen = Vec::new();
        for place in 0..=EXTENSION_HEADERS_MAX {
            let kind = self.protocol;
            match kind {
                _ if !is_extension(kind) => return Ok(()),
                MOBILITY | HIP | SHIM => return self.terminal(),
                // Only directly after the IPv6 header.
                HOP_BY_HOP if place > 0 => return Err(Reason::BadHeader),
                // Once each.
                ROUTING | FRAGMENT | AUTHENTICATION if seen.contains(&kind) => {
                    return Err(Reason::ExtensionHeader);
                }
                FRAGMENT => {
                    self.repeated = whole - self.body.len();
                    self.fragment_header()?;
                    if self.fragment.is_some_and(|fragment| !fragment.first()) {
                        return Ok(());
                    }
                }
                _ => self.header()?,
            }
            seen.push(kind);
        }
        Err(Reason::ExtensionHeader)
    }

    fn fragment_header(&mut self) -> Result<(), Reason> {
        let header: [u8; 8] = bytes_at(self.body, 0).ok_or(Reason::Truncated)?;
        self.protocol = header[0];
        self.body = &self.body[header.len()..];
        let place = u16::from_be_bytes([header[2], header[3]]);
        // RFC 6946: neither offset nor more fragments is a whole packet.
        if place & !6 == 0 {
            return Ok(());
        }
        self.fragment = Some(Fragment {
            id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            at: usize::from(place & !7),
            bytes: self.body.len(),
            more: place & 1 != 0,
        });
        Ok(())
    }

    /// A header with a length and whatever its kind asks for.
    fn header(&mut self) -> Result<(), Reason> {
        let start: [u8; 8] = bytes_at(self.body, 0).ok_or(Reason::Truncated)?;
        // RFC 4302, 2.2: the authentication header counts in fours, less two.
        let bytes = match self.protocol {
            AUTHENTICATION => (usize::from(start[1]) + 2) * 4,
            _ => (usize::from(start[1]) + 1) * 8,
        };
        let header = self.body.get(..bytes).ok_or(Reason::Truncated)?;
        match self.protocol {
            // Type 0 is forbidden (RFC 5095); with segments left the packet goes elsewhere than its
            // destination says (RFC 8200, 4.4).
            ROUTING if start[2] == 0 || start[3] != 0 => return Err(Reason::ExtensionHeader),
            ROUTING => {}
            // Twelve bytes are fixed, and all of it is a multiple of eight in IPv6.
            AUTHENTICATION if bytes < 12 || !bytes.is_multiple_of(8) => {
                return Err(Reason::BadHeader);
            }
            AUTHENTICATION => {}
            _ => ipv6_options(&header[2..])?,
        }
        self.protocol = start[0];
        self.body = &self.body[bytes..];
        Ok(())
    }

    /// Mobility, HIP and Shim6 headers carry nothing behind them and say so in their next header
    /// (RFC 6275, RFC 7401, RFC 5533): they are protocols. With something behind they are refused.
    fn terminal(&self) -> Result<(), Reason> {
        match bytes_at::<8>(self.body, 0) {
            None => Err(Reason::Truncated),
            Some([NONE, ..]) => Ok(()),
            Some(_) => Err(Reason::ExtensionHeader),
        }
    }
}

/// The fragment that an IPv4 header says it is (RFC 791).
pub(crate) fn ipv4_fragment(header: &[u8; 20], bytes: usize) -> Option<Fragment> {
    let place = u16_at(header, 6)?;
    (place & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16::from_be_bytes([header[4], header[5]])),
        at: usize::from(place & 0x1fff) * 8,
        bytes,
        more: place & 0x2000 != 0,
    })
}
