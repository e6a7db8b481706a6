//! Moves: what hosts' evidence means for where guests are, and the list of all moves. A record
//! counts as far as it is signed: a move that took place by both ends, one that was called off by
//! the source, one whose source was lost by the target.

use super::log::Journal;
use super::{App, unprotected};
use crate::error::AppError;
use crate::limits::MOVES_PER_ANSWER_MAX;
use lictor_evidence::{Body, Entry, Envelope, MoveOutcome, MoveRecord};
use lictor_store::{DepartureRow, PlacementRow, Tx};
use lictor_types::{Digest, GuestId, HostId};
use lictor_wire::api::{MoveEntry, MoveResult, MoveSigners};
use lictor_wire::{VerifiedRelease, VerifyKey};

impl App {
    /// The newest moves, the oldest of them first.
    pub(crate) fn moves(&self) -> Result<Vec<MoveEntry>, AppError> {
        let now_ms = self.now_ms();
        let rows = self
            .lock()?
            .store
            .read(|tx| tx.moves(MOVES_PER_ANSWER_MAX))?;
        let so_far = |text: &String| {
            let mut entry = parse(text)?;
            let lasts = entry.unprotected_until_ms.is_none();
            if entry.outcome == MoveResult::Unprotected && lasts {
                entry.unprotected_ms = now_ms.saturating_sub(entry.time_ms);
            }
            Ok(entry)
        };
        rows.iter().map(so_far).collect()
    }
}

fn parse(text: &str) -> Result<MoveEntry, AppError> {
    serde_json::from_str(text)
        .map_err(|error| AppError::Internal(format!("a stored move cannot be read: {error}")))
}

/// The move that is listed under a key.
pub(super) fn find(tx: &Tx, key: &str) -> Result<Option<MoveEntry>, AppError> {
    tx.find_move(key)?.as_deref().map(parse).transpose()
}

/// Lists a move, or what has become of it.
pub(super) fn put(tx: &Tx, key: &str, entry: &MoveEntry) -> Result<(), AppError> {
    let text =
        serde_json::to_string(entry).map_err(|error| AppError::Internal(error.to_string()))?;
    Ok(tx.put_move(key, &text)?)
}

/// What entries of one host's log change beside the log itself.
pub(super) struct Effects<'a> {
    pub(super) tx: &'a Tx,
    pub(super) journal: &'a mut Journal,
    pub(super) host: &'a HostId,
    pub(super) release: Option<&'a VerifiedRelease>,
}

impl Effects<'_> {
    /// Takes one entry, which the manager's log has under this number. A host speaks of itself
    /// only.
    pub(super) fn entry(&mut self, number: u64, entry: &Entry) -> Result<(), AppError> {
        let time_ms = self.not_after_now(entry.time_ms);
        match &entry.body {
            Body::MoveRecorded { record, signed } => self.recorded(record, signed),
            Body::MoveRefused {
                guest,
                from,
                to,
                reasons,
            } if self.host == from || self.host == to => {
                let ends = (Some(from.clone()), to.clone());
                let mut refused = bare_entry(guest, ends, (MoveResult::Refused, time_ms));
                refused.reasons.clone_from(reasons);
                put(self.tx, &format!("refused/{number}"), &refused)
            }
            Body::GuestPlaced {
                guest,
                at,
                protected,
                ..
            } if self.host == at => {
                let row = PlacementRow {
                    guest: guest.clone(),
                    host: at.clone(),
                    since_ms: time_ms,
                    error_ms: 0,
                };
                if self.placed(&row)? && *protected {
                    unprotected::close(self.tx, self.journal, &row)?;
                }
                Ok(())
            }
            Body::GuestLeft { guest, at } if self.host == at => {
                let row = DepartureRow {
                    guest: guest.clone(),
                    host: at.clone(),
                    since_ms: time_ms,
                };
                self.tx.set_departure(&row)?;
                unprotected::widen(self.tx, &row)
            }
            _ => Ok(()),
        }
    }

    /// A host whose clock runs ahead must not overtake everybody else's word for as long.
    fn not_after_now(&self, time_ms: u64) -> u64 {
        time_ms.min(self.journal.now_ms())
    }

    /// Keeps where a guest is and says `true`, unless something newer is known.
    fn placed(&self, row: &PlacementRow) -> Result<bool, AppError> {
        let known = self.tx.placement(&row.guest)?;
        if known.is_some_and(|known| known.since_ms > row.since_ms) {
            return Ok(false);
        }
        self.tx.add_placement(row)?;
        Ok(true)
    }

    fn recorded(&mut self, record: &MoveRecord, signed: &Envelope) -> Result<(), AppError> {
        let MoveRecord {
            guest, from, to, ..
        } = record;
        if self.host != from && self.host != to {
            let host = self.host;
            return self.alarm(guest, format!("{host} tells of a move from {from} to {to}"));
        }
        let key = format!("record/{}", Digest::of(&record.canonical_bytes()));
        // Both ends bring the same record: it is one move, with the signatures of both copies.
        let known = find(self.tx, &key)?.and_then(|entry| entry.signers);
        let (source, target) = (self.keys_of(from)?, self.keys_of(to)?);
        let signers = record
            .signers(signed, &source, &target)
            .and(known.unwrap_or_default());
        put(self.tx, &key, &record_entry(record, signers))?;
        if !signers.suffice_for(record.outcome) {
            let text = format!(
                "the record of its move from {from} to {to} is signed by {signers}; it does not \
                 count"
            );
            return self.alarm(guest, text);
        }
        if record.outcome == MoveOutcome::Aborted {
            return Ok(());
        }
        let row = PlacementRow {
            guest: guest.clone(),
            host: to.clone(),
            since_ms: self.not_after_now(record.opened_ms),
            error_ms: record.error_ms,
        };
        if self.placed(&row)? {
            unprotected::close(self.tx, self.journal, &row)?;
        }
        Ok(())
    }

    /// The key that the host's agent has enrolled with, and the one that the release names.
    fn keys_of(&self, host: &HostId) -> Result<Vec<VerifyKey>, AppError> {
        let enrolled = self.tx.host(host)?.and_then(|row| row.key);
        let enrolled = enrolled.and_then(|text| text.parse().ok());
        let release = self.release.map(VerifiedRelease::release);
        let roster = release.and_then(|release| release.host(host));
        let roster = roster.map(|host| host.key.clone());
        Ok(enrolled.into_iter().chain(roster).collect())
    }

    fn alarm(&mut self, guest: &GuestId, text: String) -> Result<(), AppError> {
        self.journal.add(Body::Alarm {
            subject: format!("guest {guest}"),
            text,
        })
    }
}

/// A move of which nothing was measured.
pub(super) fn bare_entry(
    guest: &GuestId,
    (from, to): (Option<HostId>, HostId),
    (outcome, time_ms): (MoveResult, u64),
) -> MoveEntry {
    MoveEntry {
        guest: guest.clone(),
        from,
        to,
        outcome,
        time_ms,
        asked_by: None,
        ticket: None,
        signers: None,
        sessions: None,
        pause_us: None,
        unprotected_ms: 0,
        unprotected_until_ms: None,
        error_ms: 0,
        reasons: Vec::new(),
    }
}

fn record_entry(record: &MoveRecord, signers: MoveSigners) -> MoveEntry {
    let (outcome, time_ms) = match record.outcome {
        MoveOutcome::Committed => (MoveResult::Committed, record.opened_ms),
        MoveOutcome::StateLost => (MoveResult::StateLost, record.opened_ms),
        MoveOutcome::Aborted => (MoveResult::Aborted, record.fenced_ms),
    };
    let ends = (Some(record.from.clone()), record.to.clone());
    MoveEntry {
        asked_by: Some(record.asked_by.clone()),
        ticket: Some(record.ticket),
        signers: Some(signers),
        sessions: Some(record.sessions.clone()),
        pause_us: Some(record.pause_us),
        unprotected_ms: record.unprotected_ms,
        error_ms: record.error_ms,
        reasons: record.overridden.iter().map(ToString::to_string).collect(),
        ..bare_entry(&record.guest, ends, (outcome, time_ms))
    }
}
