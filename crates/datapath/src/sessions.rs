//! Sessions on their way out of and into a vnic's table. Times leave as ages, so that two hosts'
//! clocks need not agree.

use crate::abi::{self, Session, SessionEnd, Slot, VnicConfig};
use crate::error::failed;
use crate::events::key_of;
use crate::link::has_segment;
use crate::slots::{BATCH, Earlier, Inserted, Newcomer, ticks};
use crate::sys;
use crate::tables::mapped;
use crate::{Error, vnic::Vnic};
use lictor_types::{
    Direction, Epoch, Generation, RuleId, SessionKey, SessionRecord, TcpEnd, TcpState, VnicState,
};
use std::collections::HashSet;

const MILLISECOND_NS: u64 = 1_000_000;

/// Why a session was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImportRefusal {
    /// It belongs to another L2 domain than the vnic.
    OtherSegment,
    /// It has expired on its way.
    Expired,
    /// The vnic's table is full.
    TableFull,
    /// The vnic already has a session under this key.
    Exists,
    /// Neither end of it is an address of the vnic.
    ForeignAddress,
}

/// What became of the records of one import.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReceipt {
    /// Sessions taken in.
    pub imported: u64,
    /// The others, each with the reason.
    pub refused: Vec<(SessionKey, ImportRefusal)>,
}

pub(crate) fn raw_key(key: &SessionKey) -> abi::SessionKey {
    abi::SessionKey {
        local: mapped(key.local),
        remote: mapped(key.remote),
        local_port: key.local_port,
        remote_port: key.remote_port,
        domain: key.segment.0 << 8 | u32::from(key.protocol),
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

/// Nanoseconds since the begin of a tick: never less than what has passed.
fn since(seen: u32, now: u64) -> u64 {
    // Processors may be a tick apart: what is about to happen has just happened.
    let ticks = ticks(now).wrapping_sub(seen).cast_signed().max(0);
    (u64::from(ticks.unsigned_abs()) << 20) + (now & 0xf_ffff)
}

fn milliseconds(ns: u64) -> u32 {
    u32::try_from(ns / MILLISECOND_NS).unwrap_or(u32::MAX)
}

/// `None` for a session that has expired or whose state no version of the program writes.
#[inline]
pub(crate) fn record(key: &abi::SessionKey, session: &Session, now: u64) -> Option<SessionRecord> {
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
        generation: Generation(session.generation.into()),
        local_epoch: Epoch(session.local_epoch.into()),
        remote_epoch: Epoch(session.remote_epoch.into()),
        idle_ms: milliseconds(since(session.seen, now)),
        expires_in_ms: milliseconds(left),
        packets: session.packets,
        bytes: session.bytes,
        tcp: [end_of(session, 0), end_of(session, 1)],
    })
}

/// Version zero: the first packet judges the session by this host's own release. Numbers that a
/// table here could not have are kept as the largest that it could: they are for people to read.
fn raw_session(record: &SessionRecord, now: u64) -> Session {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let last_seen = now.saturating_sub(u64::from(record.idle_ms) * MILLISECOND_NS);
    Session {
        expires_ns: now.saturating_add(u64::from(record.expires_in_ms) * MILLISECOND_NS),
        packets: record.packets,
        bytes: record.bytes,
        tcp: [raw_end(&record.tcp[0]), raw_end(&record.tcp[1])],
        seen: ticks(last_seen),
        version: 0,
        generation: number(record.generation.0),
        rule: record.rule.0,
        local_epoch: number(record.local_epoch.0),
        remote_epoch: number(record.remote_epoch.0),
        state: record.state as u8,
        opened: record.opened as u8,
        peer: 0,
        scale: record.tcp.map(|end| end.scale.min(14)),
        flags: record.tcp.map(|end| end.flags),
    }
}

/// Whether a record may be taken in at all.
pub(crate) fn refused(record: &SessionRecord, config: &VnicConfig) -> Option<ImportRefusal> {
    if !has_segment(config, record.key.segment) {
        return Some(ImportRefusal::OtherSegment);
    }
    (record.expires_in_ms == 0).then_some(ImportRefusal::Expired)
}

pub(crate) fn newcomer((record, hash): (&SessionRecord, u64), now: u64) -> Newcomer {
    Newcomer {
        hash,
        slot: Slot {
            key: raw_key(&record.key),
            session: raw_session(record, now),
        },
        // What was reset is on its way out; it needs no place among those that may not be lost.
        half_open: record.state.half_open(),
    }
}

/// The records of a batch that may be taken in, and as what.
fn newcomers<'a>(
    (batch, hashes): (&'a [SessionRecord], &[u64]),
    config: &VnicConfig,
    now: u64,
    receipt: &mut ImportReceipt,
) -> (Vec<&'a SessionRecord>, Vec<Newcomer>) {
    let mut wanted = Vec::with_capacity(batch.len());
    let mut newcomers = Vec::with_capacity(batch.len());
    for (record, hash) in batch.iter().zip(hashes) {
        if let Some(refusal) = refused(record, config) {
            receipt.refused.push((record.key, refusal));
            continue;
        }
        wanted.push(record);
        newcomers.push(newcomer((record, *hash), now));
    }
    (wanted, newcomers)
}

impl Vnic {
    /// The clock that the vnic's programs use.
    pub(crate) fn now(&self) -> Result<u64, Error> {
        let config = self.config()?;
        if config.clock_fixed_ns != 0 {
            return Ok(config.clock_fixed_ns);
        }
        Ok(sys::now_ns()
            .map_err(failed("reading the clock"))?
            .wrapping_add(config.clock_offset_ns))
    }

    /// Every session once, also those that are promoted meanwhile: the half-open ones are read
    /// first, so that each is found, and those of them that were found again are left out.
    pub(crate) fn export(&self) -> Result<Vec<SessionRecord>, Error> {
        let now = self.now()?;
        let (mut half_open, mut promoted) = (Vec::new(), HashSet::new());
        let mut records = Vec::with_capacity(self.sessions.expected());
        self.sessions
            .each_half_open(|key, session| half_open.extend(record(key, session, now)));
        self.sessions
            .each_lasting(|key, session| records.extend(record(key, session, now)));
        promoted.extend(half_open.iter().map(|record| record.key));
        promoted.retain(|key| self.sessions.lasts(&raw_key(key)));
        if !promoted.is_empty() {
            let known = records.iter().map(|record| record.key);
            let twice: HashSet<_> = known.filter(|key| promoted.contains(key)).collect();
            half_open.retain(|record| !twice.contains(&record.key));
        }
        records.append(&mut half_open);
        Ok(records)
    }

    pub(crate) fn import(&self, records: &[SessionRecord]) -> Result<ImportReceipt, Error> {
        let config = self.config()?;
        let mut receipt = ImportReceipt::default();
        let resting = self.take_in(records, &config, &mut receipt)?;
        if !resting.is_empty() {
            self.end_rest()?;
            for record in self.take_in(&resting, &config, &mut receipt)? {
                let refusal = ImportRefusal::TableFull;
                receipt.refused.push((record.key, refusal));
            }
        }
        if receipt.imported > 0 && config.state == VnicState::Open as u32 {
            let waiting = failed("waiting for the programs that run");
            self.sessions.settle(self.now()?).map_err(waiting)?;
        }
        Ok(receipt)
    }

    /// Gives those for which the quota has room and the table no place: those that ended rest.
    fn take_in(
        &self,
        records: &[SessionRecord],
        config: &VnicConfig,
        receipt: &mut ImportReceipt,
    ) -> Result<Vec<SessionRecord>, Error> {
        let now = self.now()?;
        let mut resting = Vec::new();
        let mut told = Vec::with_capacity(BATCH);
        self.in_batches((records, |record| record), |batch, hashes| {
            let (wanted, newcomers) = newcomers((batch, hashes), config, now, receipt);
            told.clear();
            let at = (config.sessions_max, now, Earlier::Stays);
            self.sessions.insert_batch(&newcomers, at, &mut told);
            for (record, told) in wanted.into_iter().zip(&told) {
                let refusal = match told {
                    Inserted::Done | Inserted::Replaced => {
                        receipt.imported += 1;
                        continue;
                    }
                    Inserted::NoPlace => {
                        resting.push(*record);
                        continue;
                    }
                    Inserted::Exists => ImportRefusal::Exists,
                    Inserted::QuotaFull => ImportRefusal::TableFull,
                };
                receipt.refused.push((record.key, refusal));
            }
        });
        Ok(resting)
    }

    /// Hands over records batch by batch, with what this vnic's tables make of their keys. When one
    /// is handed over the memory where it goes has come, and that of the next one is on its way.
    pub(crate) fn in_batches<'a, R>(
        &self,
        (records, record_of): (&'a [R], fn(&R) -> &SessionRecord),
        mut sink: impl FnMut(&'a [R], &[u64]),
    ) {
        let ask_for = |batch: &[R]| -> Vec<u64> {
            let hash = |record: &SessionRecord| self.sessions.hash(&raw_key(&record.key));
            let hashes: Vec<u64> = batch.iter().map(|one| hash(record_of(one))).collect();
            let half_open = batch.iter().map(|one| record_of(one).state.half_open());
            self.sessions.ask_for(hashes.iter().copied().zip(half_open));
            hashes
        };
        let mut batches = records.chunks(BATCH).peekable();
        let mut hashes = batches.peek().map(|first| ask_for(first));
        while let Some((batch, of_batch)) = batches.next().zip(hashes) {
            hashes = batches.peek().map(|next| ask_for(next));
            sink(batch, &of_batch);
        }
    }

    pub(crate) fn remove_sessions(&self, keys: &[SessionKey]) -> Result<u64, Error> {
        let now = self.now()?;
        let there = keys
            .iter()
            .filter(|key| self.sessions.remove(&raw_key(key), now));
        Ok(there.count() as u64)
    }

    /// Removes every session, so that others find as much room as in a new table.
    pub(crate) fn purge(&self) -> Result<u64, Error> {
        self.forget_fragments()?;
        let purged = self.sessions.remove_where(self.now()?, |_| true);
        if purged > 0 {
            self.end_rest()?;
        }
        Ok(purged)
    }

    pub(crate) fn end_rest(&self) -> Result<(), Error> {
        let waiting = failed("waiting for the programs that run");
        self.sessions.end_rest().map_err(waiting)
    }

    /// Removes what has expired. A session that revives while the sweep runs stays: its packet
    /// comes before the removal, or finds no session any more.
    pub(crate) fn sweep(&self) -> Result<u64, Error> {
        let now = self.now()?;
        let expired = |session: &Session| session.expires_ns <= now;
        Ok(self.sessions.remove_where(now, expired))
    }

    /// Goes on with such a sweep for a while.
    pub(crate) fn sweep_part(&self) -> Result<u64, Error> {
        let now = self.now()?;
        let expired = |session: &Session| session.expires_ns <= now;
        Ok(self.sessions.remove_some(now, expired))
    }

    pub(crate) fn sessions_held(&self) -> u64 {
        self.sessions.held()
    }

    pub(crate) fn session_count(&self) -> Result<u64, Error> {
        let now = self.now()?;
        let mut count = 0;
        self.sessions
            .each(|_, session| count += u64::from(session.expires_ns > now));
        Ok(count)
    }

    /// Goes on with a change of the quota that a crash cut off.
    pub(crate) fn finish_resize(&mut self) -> Result<(), Error> {
        let now = self.now()?;
        let resizing = failed("replacing a session table");
        self.sessions.finish_resize(now).map_err(resizing)
    }

    /// Another quota, while packets pass.
    pub(crate) fn resize(&mut self, quota: u32) -> Result<(), Error> {
        let now = self.now()?;
        let resizing = failed("replacing a session table");
        self.sessions.resize(quota, now).map_err(resizing)?;
        self.set_config(&abi::VnicConfig {
            sessions_max: quota,
            ..self.config()?
        })
    }
}
