//! Fragments follow the verdict of the first one of their datagram. Each begins where the one
//! before ended or later, so that none can overlap what the receiver has (RFC 5722); one that comes
//! after its successor is lost, as any packet may be.

use crate::extension::Fragment;
use crate::parse::{Ip, Segment as TcpSegment, Transport};
use lictor_types::{Direction, Reason, RuleId, Segment, SessionKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// RFC 8200, 4.5 gives a receiver 60 s; those that are in use give up after 30.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a receiver reassembles by: RFC 791, 3.2, and RFC 8200, 4.5, by which the protocol that a
/// later fragment names is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    segment: Segment,
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: Option<u8>,
}

impl Key {
    pub(crate) fn of(
        ip: &Ip<'_>,
        fragment: Fragment,
        segment: Segment,
        direction: Direction,
    ) -> Self {
        Self {
            segment,
            direction,
            source: ip.source,
            destination: ip.destination,
            id: fragment.id,
            protocol: ip.source.is_ipv4().then_some(ip.protocol),
        }
    }
}

/// A datagram that is under way in pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    expires: Duration,
    /// Bytes up to the end of the last fragment that passed.
    end: usize,
    /// The conversation that it belongs to.
    pub(crate) session: SessionKey,
    pub(crate) rule: RuleId,
    /// Of the tables that allowed it.
    pub(crate) version: u64,
    /// Of TCP: the number of the datagram's first byte, were it payload.
    sequence: Option<u32>,
}

/// The TCP numbers of a datagram's bytes. SYN and FIN come before and after all of the payload (RFC
/// 9293, 3.4).
fn first_number(segment: &TcpSegment, fragment: Fragment) -> u32 {
    let headers = fragment.bytes as u32 - segment.payload;
    let flags = u32::from(segment.flags.syn()) + u32::from(segment.flags.fin());
    segment.sequence.wrapping_sub(headers).wrapping_add(flags)
}

impl Datagram {
    /// Takes a later fragment in, unless it begins before the end of another one.
    pub(crate) fn advance(&mut self, fragment: Fragment) -> Result<(), Reason> {
        if fragment.at < self.end {
            return Err(Reason::BadFragment);
        }
        self.end = fragment.at + fragment.bytes;
        Ok(())
    }

    /// The TCP sequence number after its last byte so far.
    pub(crate) fn sent(&self) -> Option<u32> {
        self.sequence
            .map(|first| first.wrapping_add(self.end as u32))
    }
}

/// The datagrams of one vnic whose first fragment was allowed. The kernel's table is bounded and
/// forgets the oldest; the model is not given as many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fragments(BTreeMap<Key, Datagram>);

impl Fragments {
    pub(crate) fn live(&mut self, key: &Key, now: Duration) -> Option<&mut Datagram> {
        self.0
            .get_mut(key)
            .filter(|datagram| datagram.expires > now)
    }

    /// A first fragment that was allowed.
    pub(crate) fn remember(
        &mut self,
        (key, ip, fragment): (Key, &Ip<'_>, Fragment),
        (session, rule, version): (SessionKey, RuleId, u64),
        now: Duration,
    ) {
        let sequence = match &ip.transport {
            Transport::Tcp(segment) => Some(first_number(segment, fragment)),
            _ => None,
        };
        let datagram = Datagram {
            expires: now + TIMEOUT,
            end: fragment.bytes,
            session,
            rule,
            version,
            sequence,
        };
        self.0.insert(key, datagram);
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
