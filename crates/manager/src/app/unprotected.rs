//! Time that a guest spends where no agent enforces. Its ends come from events only: what a
//! management layer says with its error, and what agents say of the guest's leaving and arriving.

use super::log::Journal;
use super::moves::{bare_entry, find, put};
use crate::error::AppError;
use lictor_evidence::Body;
use lictor_policy::{Cause, Choice};
use lictor_store::{DepartureRow, PlacementRow, Tx};
use lictor_types::{GuestId, HostId};
use lictor_wire::api::MoveResult;

/// The only choice under which a guest may run where no agent enforces.
pub(super) const ALLOWED: Choice = Choice::AllowWithAlarm;

fn key(guest: &GuestId, since_ms: u64) -> String {
    format!("unprotected/{guest}/{since_ms}")
}

/// Begins the unprotected time of a guest, unless it runs already. `before` is where the guest was
/// said to be until now.
pub(super) fn open(
    tx: &Tx,
    journal: &mut Journal,
    placed: &PlacementRow,
    before: Option<PlacementRow>,
) -> Result<(), AppError> {
    let guest = &placed.guest;
    let left = tx.departure(guest)?;
    // A departure that the last placement does not follow is the one that led here.
    let left = left.filter(|left| before.as_ref().is_none_or(|b| b.since_ms <= left.since_ms));
    let mut row = placed.clone();
    if let Some(left) = &left {
        row.error_ms = error_ms(&row, left);
    }
    if !tx.open_unprotected(&row)? {
        return Ok(());
    }
    let from = match left {
        Some(left) => Some(left.host),
        None => protected(tx, before.map(|before| before.host))?,
    };
    let ends = (from, row.host.clone());
    let mut entry = bare_entry(guest, ends, (MoveResult::Unprotected, row.since_ms));
    entry.error_ms = row.error_ms;
    put(tx, &key(guest, row.since_ms), &entry)?;
    journal.add(Body::UnprotectedOpened {
        guest: guest.clone(),
        cause: Cause::HostUnprotected.name().into(),
        choice: ALLOWED.name().into(),
        since_ms: row.since_ms,
        error_ms: row.error_ms,
    })
}

fn protected(tx: &Tx, host: Option<HostId>) -> Result<Option<HostId>, AppError> {
    let Some(host) = host else { return Ok(None) };
    let key = tx.host(&host)?.and_then(|row| row.key);
    Ok(key.map(|_| host))
}

/// The management layer says when the guest began to run there, the old host's agent when it left.
/// They are two views of one event, so where they differ by more than the stated error, the error
/// is what they differ by.
fn error_ms(placed: &PlacementRow, left: &DepartureRow) -> u64 {
    placed.error_ms.max(placed.since_ms.abs_diff(left.since_ms))
}

/// The old host's word may come after the placement, as its evidence travels by itself.
pub(super) fn widen(tx: &Tx, left: &DepartureRow) -> Result<(), AppError> {
    let guest = &left.guest;
    let Some(mut row) = tx.unprotected_of(guest)? else {
        return Ok(());
    };
    // A backlog tells of earlier departures first: each begins again from the stated error.
    let placed = tx.placement(guest)?;
    if let Some(placed) = placed.filter(|placed| placed.since_ms == row.since_ms) {
        row = placed;
    }
    let key = key(guest, row.since_ms);
    let Some(mut entry) = find(tx, &key)? else {
        return Ok(());
    };
    if entry.from.as_ref().is_some_and(|from| *from != left.host) {
        return Ok(());
    }
    entry.from = Some(left.host.clone());
    entry.error_ms = error_ms(&row, left);
    tx.set_unprotected_error(guest, entry.error_ms)?;
    put(tx, &key, &entry)
}

/// Ends the unprotected time of a guest, if it runs and this placement is not older.
pub(super) fn close(tx: &Tx, journal: &mut Journal, placed: &PlacementRow) -> Result<(), AppError> {
    let guest = &placed.guest;
    let open = tx.unprotected_of(guest)?;
    let Some(open) = open.filter(|open| open.since_ms <= placed.since_ms) else {
        return Ok(());
    };
    tx.close_unprotected(guest)?;
    let (since_ms, until_ms) = (open.since_ms, placed.since_ms);
    let error_ms = open.error_ms.max(placed.error_ms);
    let key = key(guest, since_ms);
    if let Some(mut entry) = find(tx, &key)? {
        entry.unprotected_ms = until_ms - since_ms;
        entry.unprotected_until_ms = Some(until_ms);
        entry.error_ms = error_ms;
        put(tx, &key, &entry)?;
    }
    journal.add(Body::UnprotectedClosed {
        guest: guest.clone(),
        cause: Cause::HostUnprotected.name().into(),
        choice: ALLOWED.name().into(),
        since_ms,
        until_ms,
        error_ms,
    })
}
