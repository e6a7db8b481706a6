//! A conversation of one vnic, and the table of them.

use crate::parse::IP_SCTP;
use crate::sctp::Tags;
use crate::tcp::Side;
use lictor_types::{
    Direction, Epoch, Generation, RuleId, SessionKey, SessionRecord, TcpState, VnicId,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A tracked conversation. Arrays are from the guest, toward it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) state: TcpState,
    pub(crate) opened: Direction,
    /// The guest at the other end, if this host had it when the session was judged.
    pub(crate) peer: Option<VnicId>,
    /// It was answered, and so counts against the quota and is pushed out by nobody.
    pub(crate) promoted: bool,
    pub(crate) rule: RuleId,
    pub(crate) generation: Generation,
    pub(crate) epochs: (Epoch, Epoch),
    /// The load of tables that allowed it; none after an import, so that its next packet is judged.
    pub(crate) version: Option<u64>,
    pub(crate) last_seen: Duration,
    pub(crate) expires: Duration,
    pub(crate) packets: [u64; 2],
    pub(crate) bytes: [u64; 2],
    /// Of TCP.
    pub(crate) sides: [Side; 2],
    /// Of SCTP.
    pub(crate) tags: [Tags; 2],
}

impl Session {
    /// At its very moment of expiry a session is over.
    pub(crate) fn live(&self, now: Duration) -> bool {
        self.expires > now
    }
}

/// The sessions of one vnic. Its quota counts those that were answered; the others have a table of
/// their own in the program, from which new ones push out the oldest. That is not modelled: a
/// comparison has to stay below its size.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    rows: BTreeMap<SessionKey, Session>,
    max: usize,
}

/// There was no room.
#[derive(Debug)]
pub(crate) struct Full;

impl Table {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            max,
        }
    }

    pub(crate) fn live(&mut self, key: &SessionKey, now: Duration) -> Option<&mut Session> {
        self.rows.get_mut(key).filter(|session| session.live(now))
    }

    /// A session begins, or comes from another host.
    pub(crate) fn insert(
        &mut self,
        key: SessionKey,
        session: Session,
        now: Duration,
    ) -> Result<(), Full> {
        if session.promoted && !self.has_room(now) {
            return Err(Full);
        }
        self.rows.insert(key, session);
        Ok(())
    }

    /// Whether one more may be promoted.
    pub(crate) fn has_room(&self, now: Duration) -> bool {
        let counted = |session: &&Session| session.promoted && session.live(now);
        self.rows.values().filter(counted).count() < self.max
    }

    pub(crate) fn remove(&mut self, key: &SessionKey) {
        self.rows.remove(key);
    }

    pub(crate) fn contains(&self, key: &SessionKey) -> bool {
        self.rows.contains_key(key)
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    pub(crate) fn sweep(&mut self, now: Duration) {
        self.rows.retain(|_, session| session.live(now));
    }

    pub(crate) fn records(&self, now: Duration) -> Vec<SessionRecord> {
        let live = self.rows.iter().filter(|(_, session)| session.live(now));
        live.map(|(key, session)| record(*key, session, now))
            .collect()
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn record(key: SessionKey, session: &Session, now: Duration) -> SessionRecord {
    SessionRecord {
        key,
        opened: session.opened,
        state: session.state,
        rule: session.rule,
        generation: session.generation,
        local_epoch: session.epochs.0,
        remote_epoch: session.epochs.1,
        idle_ms: milliseconds(now.saturating_sub(session.last_seen)),
        expires_in_ms: milliseconds(session.expires.saturating_sub(now)),
        packets: session.packets,
        bytes: session.bytes,
        tcp: match key.protocol {
            IP_SCTP => session.tags.map(|tags| tags.record()),
            _ => session.sides.map(|side| side.record()),
        },
    }
}

/// A session that another host hands over.
pub(crate) fn taken_in(record: &SessionRecord, now: Duration) -> Session {
    let ago = Duration::from_millis(record.idle_ms.into());
    Session {
        state: record.state,
        opened: record.opened,
        peer: None,
        promoted: !record.state.half_open(),
        rule: record.rule,
        generation: record.generation,
        epochs: (record.local_epoch, record.remote_epoch),
        version: None,
        last_seen: now.saturating_sub(ago),
        expires: now + Duration::from_millis(record.expires_in_ms.into()),
        packets: record.packets,
        bytes: record.bytes,
        sides: record.tcp.map(|end| Side::of_record(&end)),
        tags: record.tcp.map(|end| Tags::of_record(&end)),
    }
}
