//! Sessions on their way out of and into a vnic's table. Times leave as ages, so that two hosts'
//! clocks need not agree.

use crate::abi::{self, Session, SessionEnd};
use crate::events::key_of;
use crate::sys::{self, Map};
use crate::tables::mapped;
use crate::{Error, vnic::Vnic};
use lictor_types::{
    Direction, Epoch, Generation, RuleId, SessionKey, SessionRecord, TcpEnd, TcpState,
};
use nix::libc;
use std::collections::HashSet;

const MILLISECOND_NS: u64 = 1_000_000;

/// A moment of one vnic's clock. Sessions touched since then are what a later export must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub(crate) u64);

/// What happened to a vnic's sessions since a mark.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// New, or with a packet since the mark.
    pub touched: Vec<SessionRecord>,
    /// Known before, and no longer there.
    pub gone: Vec<SessionKey>,
}

/// Why a session was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportRefusal {
    /// It belongs to another L2 domain than the vnic.
    OtherSegment,
    /// It has expired on its way.
    Expired,
    /// The vnic's table is full.
    TableFull,
    /// The vnic already has a session under this key.
    Exists,
}

/// What became of the records of one import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReceipt {
    /// Sessions taken in.
    pub imported: u64,
    /// The others, each with the reason.
    pub refused: Vec<(SessionKey, ImportRefusal)>,
}

fn failed(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { action, source }
}

pub(crate) fn raw_key(key: &SessionKey) -> abi::SessionKey {
    abi::SessionKey {
        local: mapped(key.local),
        remote: mapped(key.remote),
        segment: key.segment.0,
        local_port: key.local_port,
        remote_port: key.remote_port,
        protocol: key.protocol,
        pad: [0; 3],
    }
}

fn end_of(session: &Session, side: usize) -> TcpEnd {
    let end = &session.tcp[side];
    TcpEnd {
        end: end.end,
        end_max: end.end_max,
        window_max: end.window_max,
        acked: end.acked,
        scale: session.scale[side],
        flags: session.flags[side],
    }
}

fn raw_end(end: &TcpEnd) -> SessionEnd {
    SessionEnd {
        end: end.end,
        end_max: end.end_max,
        window_max: end.window_max,
        acked: end.acked,
    }
}

fn milliseconds(ns: u64) -> u32 {
    u32::try_from(ns / MILLISECOND_NS).unwrap_or(u32::MAX)
}

/// `None` for a session that has expired or whose state no version of the program writes.
fn record(key: &abi::SessionKey, session: &Session, now: u64) -> Option<SessionRecord> {
    let left = session
        .expires_ns
        .checked_sub(now)
        .filter(|left| *left > 0)?;
    Some(SessionRecord {
        key: key_of(key),
        opened: if session.opened == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        },
        state: TcpState::from_number(session.state)?,
        rule: RuleId(session.rule),
        generation: Generation(session.generation),
        local_epoch: Epoch(session.local_epoch),
        remote_epoch: Epoch(session.remote_epoch),
        idle_ms: milliseconds(now.saturating_sub(session.last_seen_ns)),
        expires_in_ms: milliseconds(left),
        packets: session.packets,
        bytes: session.bytes,
        tcp: [end_of(session, 0), end_of(session, 1)],
    })
}

/// Version zero: the first packet judges the session by this host's own release.
fn raw_session(record: &SessionRecord, now: u64) -> Session {
    Session {
        last_seen_ns: now.saturating_sub(u64::from(record.idle_ms) * MILLISECOND_NS),
        expires_ns: now.saturating_add(u64::from(record.expires_in_ms) * MILLISECOND_NS),
        version: 0,
        generation: record.generation.0,
        local_epoch: record.local_epoch.0,
        remote_epoch: record.remote_epoch.0,
        packets: record.packets,
        bytes: record.bytes,
        tcp: [raw_end(&record.tcp[0]), raw_end(&record.tcp[1])],
        rule: record.rule.0,
        state: record.state as u8,
        opened: record.opened as u8,
        scale: record.tcp.map(|end| end.scale.min(14)),
        flags: record.tcp.map(|end| end.flags),
        pad: [0; 6],
    }
}

impl Vnic {
    /// The clock that the vnic's programs use.
    pub(crate) fn now(&self) -> Result<u64, Error> {
        let offset = self.config()?.clock_offset_ns;
        Ok(sys::now_ns()
            .map_err(failed("reading the clock"))?
            .wrapping_add(offset))
    }

    fn rows(&self) -> Result<Vec<(abi::SessionKey, Session)>, Error> {
        self.sessions.rows().map_err(failed("reading sessions"))
    }

    pub(crate) fn export(&self) -> Result<Vec<SessionRecord>, Error> {
        let now = self.now()?;
        Ok(self
            .rows()?
            .iter()
            .filter_map(|(key, value)| record(key, value, now))
            .collect())
    }

    pub(crate) fn export_changed(
        &self,
        since: Mark,
        known: &HashSet<SessionKey>,
    ) -> Result<Changes, Error> {
        let now = self.now()?;
        let mut changes = Changes::default();
        let mut alive = HashSet::new();
        for (key, session) in self.rows()? {
            let Some(record) = record(&key, &session, now) else {
                continue;
            };
            alive.insert(record.key);
            // The clock is coarse: a packet within the mark's own tick counts as later.
            if session.last_seen_ns >= since.0 || !known.contains(&record.key) {
                changes.touched.push(record);
            }
        }
        changes.gone = known.difference(&alive).copied().collect();
        Ok(changes)
    }

    pub(crate) fn import(&self, records: &[SessionRecord]) -> Result<ImportReceipt, Error> {
        let (now, segment) = (self.now()?, self.config()?.segment);
        let mut receipt = ImportReceipt::default();
        for record in records {
            let refusal = if record.key.segment.0 != segment {
                Some(ImportRefusal::OtherSegment)
            } else if record.expires_in_ms == 0 {
                Some(ImportRefusal::Expired)
            } else {
                insert(&self.sessions, record, now)?
            };
            match refusal {
                Some(refusal) => receipt.refused.push((record.key, refusal)),
                None => receipt.imported += 1,
            }
        }
        Ok(receipt)
    }

    pub(crate) fn remove_sessions(&self, keys: &[SessionKey]) -> Result<u64, Error> {
        let mut removed = 0;
        for key in keys {
            let there = self
                .sessions
                .remove(&raw_key(key))
                .map_err(failed("removing a session"))?;
            removed += u64::from(there);
        }
        Ok(removed)
    }

    pub(crate) fn purge(&self) -> Result<u64, Error> {
        let keys: Vec<SessionKey> = self.rows()?.iter().map(|(key, _)| key_of(key)).collect();
        self.remove_sessions(&keys)
    }

    /// Removes what has expired. A session that revives while the sweep runs is looked at again
    /// before it is removed.
    pub(crate) fn sweep(&self) -> Result<u64, Error> {
        let now = self.now()?;
        let mut removed = 0;
        for (key, session) in self.rows()? {
            if session.expires_ns > now {
                continue;
            }
            let again = self
                .sessions
                .get(&key)
                .map_err(failed("reading a session"))?;
            if again.is_some_and(|session| session.expires_ns <= now) {
                let there = self
                    .sessions
                    .remove(&key)
                    .map_err(failed("removing a session"))?;
                removed += u64::from(there);
            }
        }
        Ok(removed)
    }

    pub(crate) fn session_count(&self) -> Result<u64, Error> {
        let now = self.now()?;
        Ok(self
            .rows()?
            .iter()
            .filter(|(_, session)| session.expires_ns > now)
            .count() as u64)
    }
}

fn insert(
    sessions: &Map<abi::SessionKey, Session>,
    record: &SessionRecord,
    now: u64,
) -> Result<Option<ImportRefusal>, Error> {
    let no_exist = u64::from(libbpf_sys::BPF_NOEXIST);
    match sessions.set(&raw_key(&record.key), &raw_session(record, now), no_exist) {
        Ok(()) => Ok(None),
        Err(error) => match error.raw_os_error() {
            Some(libc::EEXIST) => Ok(Some(ImportRefusal::Exists)),
            Some(libc::E2BIG | libc::ENOMEM) => Ok(Some(ImportRefusal::TableFull)),
            _ => Err(failed("importing a session")(error)),
        },
    }
}
