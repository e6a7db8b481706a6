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

/// A guest that left a host, as the host's agent said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepartureRow {
    /// The guest.
    pub guest: GuestId,
    /// The host that it left.
    pub host: HostId,
    /// When, in milliseconds of Unix time.
    pub since_ms: u64,
}

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

    /// The last placement of one guest.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn placement(&self, guest: &GuestId) -> Result<Option<PlacementRow>, StoreError> {
        const SQL: &str = "SELECT guest, host, since_ms, error_ms FROM placements
             WHERE guest = ?1 ORDER BY id DESC LIMIT 1";
        self.inner
            .query_row(SQL, [guest.as_str()], columns)
            .optional()?
            .map(parse)
            .transpose()
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

    /// The open unprotected interval of a guest.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn unprotected_of(&self, guest: &GuestId) -> Result<Option<UnprotectedRow>, StoreError> {
        const SQL: &str =
            "SELECT guest, host, since_ms, error_ms FROM unprotected WHERE guest = ?1";
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

    /// Says anew how far off the beginning of an open unprotected interval may be.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn set_unprotected_error(&self, guest: &GuestId, error_ms: u64) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE unprotected SET error_ms = ?2 WHERE guest = ?1";
        self.inner
            .execute(SQL, (guest.as_str(), to_sql(error_ms)?))?;
        Ok(())
    }

    /// Keeps when a guest left a host, unless a later departure is known.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn set_departure(&self, row: &DepartureRow) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO departures (guest, host, since_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (guest) DO UPDATE
             SET host = excluded.host, since_ms = excluded.since_ms
             WHERE excluded.since_ms >= departures.since_ms",
            (row.guest.as_str(), row.host.as_str(), to_sql(row.since_ms)?),
        )?;
        Ok(())
    }

    /// When a guest last left a host.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn departure(&self, guest: &GuestId) -> Result<Option<DepartureRow>, StoreError> {
        const SQL: &str = "SELECT host, since_ms FROM departures WHERE guest = ?1";
        let found: Option<(String, i64)> = self
            .inner
            .query_row(SQL, [guest.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        found
            .map(|(host, since)| {
                Ok(DepartureRow {
                    guest: guest.clone(),
                    host: host.parse().map_err(corrupt)?,
                    since_ms: from_sql(since),
                })
            })
            .transpose()
    }

    /// Lists a move under its key, or replaces what is listed there.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_move(&self, key: &str, body: &str) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO moves (key, body) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET body = excluded.body";
        self.inner.execute(SQL, (key, body))?;
        Ok(())
    }

    /// The move that is listed under a key.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn find_move(&self, key: &str) -> Result<Option<String>, StoreError> {
        const SQL: &str = "SELECT body FROM moves WHERE key = ?1";
        let found = self.inner.query_row(SQL, [key], |row| row.get(0));
        Ok(found.optional()?)
    }

    /// The last `count` moves, in the order in which they became known.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn moves(&self, count: u32) -> Result<Vec<String>, StoreError> {
        let mut statement = self
            .inner
            .prepare_cached("SELECT body FROM moves ORDER BY number DESC LIMIT ?1")?;
        let mut rows: Vec<String> = statement
            .query_map([count], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        rows.reverse();
        Ok(rows)
    }
}
