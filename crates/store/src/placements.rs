//! Where guests are said to be, which of them run unprotected, and the moves on record.

use crate::{StoreError, Tx, bindings::corrupt, from_sql, to_sql};
use lictor_types::{GuestId, HostId};
use rusqlite::{OptionalExtension, Row};

/// Where a management layer said that a guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRow {
    /// The guest.
    pub guest: GuestId,
    /// The host.
    pub host: HostId,
    /// Since when, in milliseconds of Unix time.
    pub since_ms: u64,
    /// How far off that time may be.
    pub error_ms: u64,
}

/// A guest that runs where no agent enforces: the same facts, until they end.
pub type UnprotectedRow = PlacementRow;

type Columns = (String, String, i64, i64);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn parse((guest, host, since, error): Columns) -> Result<PlacementRow, StoreError> {
    Ok(PlacementRow {
        guest: guest.parse().map_err(corrupt)?,
        host: host.parse().map_err(corrupt)?,
        since_ms: from_sql(since),
        error_ms: from_sql(error),
    })
}

impl Tx {
    /// Appends a placement.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn add_placement(&self, placement: &PlacementRow) -> Result<(), StoreError> {
        let PlacementRow {
            guest,
            host,
            since_ms,
            error_ms,
        } = placement;
        self.inner.execute(
            "INSERT INTO placements (guest, host, since_ms, error_ms) VALUES (?1, ?2, ?3, ?4)",
            (
                guest.as_str(),
                host.as_str(),
                to_sql(*since_ms)?,
                to_sql(*error_ms)?,
            ),
        )?;
        Ok(())
    }

    /// The last placement of each guest, in the order of guests.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn placements(&self) -> Result<Vec<PlacementRow>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT guest, host, since_ms, error_ms FROM placements AS p WHERE id =
             (SELECT max(id) FROM placements WHERE guest = p.guest) ORDER BY guest",
        )?;
        let rows = statement
            .query_map([], columns)?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(parse).collect()
    }

    /// Opens an unprotected interval of a guest, unless one is open.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn open_unprotected(&self, row: &UnprotectedRow) -> Result<bool, StoreError> {
        let PlacementRow {
            guest,
            host,
            since_ms,
            error_ms,
        } = row;
        let changed = self.inner.execute(
            "INSERT INTO unprotected (guest, host, since_ms, error_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (guest) DO NOTHING",
            (
                guest.as_str(),
                host.as_str(),
                to_sql(*since_ms)?,
                to_sql(*error_ms)?,
            ),
        )?;
        Ok(changed == 1)
    }

    /// Closes the unprotected interval of a guest and returns it, if one was open.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn close_unprotected(&self, guest: &GuestId) -> Result<Option<UnprotectedRow>, StoreError> {
        const SQL: &str = "DELETE FROM unprotected WHERE guest = ?1
             RETURNING guest, host, since_ms, error_ms";
        self.inner
            .query_row(SQL, [guest.as_str()], columns)
            .optional()?
            .map(parse)
            .transpose()
    }

    /// Every guest whose unprotected interval is open, in the order of guests.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn unprotected(&self) -> Result<Vec<UnprotectedRow>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT guest, host, since_ms, error_ms FROM unprotected ORDER BY guest",
        )?;
        let rows = statement
            .query_map([], columns)?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(parse).collect()
    }

    /// Notes that a log entry is the record of a move.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn add_move(&self, entry: u64, body: &str) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO moves (entry, body) VALUES (?1, ?2)";
        self.inner.execute(SQL, (to_sql(entry)?, body))?;
        Ok(())
    }

    /// The last `count` move records, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn moves(&self, count: u32) -> Result<Vec<String>, StoreError> {
        let mut statement = self
            .inner
            .prepare_cached("SELECT body FROM moves ORDER BY entry DESC LIMIT ?1")?;
        let mut rows: Vec<String> = statement
            .query_map([count], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        rows.reverse();
        Ok(rows)
    }
}
