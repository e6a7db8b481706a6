//! Evidence: the manager's own log, and how far each host's log is contained in it.

use crate::{StoreError, Tx, from_sql, to_sql};
use lictor_types::HostId;
use rusqlite::OptionalExtension;

/// How much of a host's log is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLog {
    /// The number that its next batch must begin with.
    pub next: u64,
    /// Its newest signed checkpoint.
    pub checkpoint: String,
}

impl Tx {
    /// The number of entries in the manager's log.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read, or if entries are missing from the middle.
    pub fn log_size(&self) -> Result<u64, StoreError> {
        const SQL: &str = "SELECT ifnull(max(number) + 1, 0) FROM entries";
        Ok(from_sql(self.inner.query_row(SQL, [], |row| row.get(0))?))
    }

    /// Appends entries. The first must have the number that [`Tx::log_size`] gives.
    ///
    /// # Errors
    /// [`StoreError::Gap`] if it has not.
    pub fn append_entries(&self, first: u64, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        let expected = self.log_size()?;
        if first != expected {
            return Err(StoreError::Gap {
                expected,
                found: first,
            });
        }
        let mut statement = self
            .inner
            .prepare_cached("INSERT INTO entries (number, bytes) VALUES (?1, ?2)")?;
        for (number, bytes) in (first..).zip(entries) {
            statement.execute((to_sql(number)?, bytes))?;
        }
        Ok(())
    }

    /// At most `count` entries from `first` on.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn entries(&self, first: u64, count: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT bytes FROM entries WHERE number >= ?1 ORDER BY number LIMIT ?2",
        )?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let rows = statement.query_map((to_sql(first)?, count), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The newest signed checkpoint of the manager's log and the size that it states.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn checkpoint(&self) -> Result<Option<(u64, String)>, StoreError> {
        const SQL: &str = "SELECT size, note FROM checkpoint";
        let found = self.inner.query_row(SQL, [], |row| {
            Ok((from_sql(row.get(0)?), row.get::<_, String>(1)?))
        });
        Ok(found.optional()?)
    }

    /// Keeps the newest checkpoint. Call it only once the entries that it covers are durable.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn set_checkpoint(&self, size: u64, note: &str) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO checkpoint (id, size, note) VALUES (1, ?1, ?2)
             ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note",
            (to_sql(size)?, note),
        )?;
        Ok(())
    }

    /// How much of a host's log is stored; none if nothing is.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn host_log(&self, host: &HostId) -> Result<Option<HostLog>, StoreError> {
        const SQL: &str = "SELECT next, checkpoint FROM host_logs WHERE host = ?1";
        let found = self.inner.query_row(SQL, [host.as_str()], |row| {
            Ok(HostLog {
                next: from_sql(row.get(0)?),
                checkpoint: row.get(1)?,
            })
        });
        Ok(found.optional()?)
    }

    /// Every host whose evidence is stored, with its log's state.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn host_logs(&self) -> Result<Vec<(String, HostLog)>, StoreError> {
        let mut statement = self
            .inner
            .prepare_cached("SELECT host, next, checkpoint FROM host_logs ORDER BY host")?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get(0)?,
                HostLog {
                    next: from_sql(row.get(1)?),
                    checkpoint: row.get(2)?,
                },
            ))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that the host's entries from its `next` on are the manager's entries from `first` on.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if one of them is noted already.
    pub fn advance_host_log(
        &self,
        host: &HostId,
        first: u64,
        log: &HostLog,
    ) -> Result<(), StoreError> {
        let old = self.host_log(host)?.map_or(0, |log| log.next);
        let mut statement = self.inner.prepare_cached(
            "INSERT INTO host_entries (host, sequence, entry) VALUES (?1, ?2, ?3)",
        )?;
        for (entry, sequence) in (first..).zip(old..log.next) {
            statement.execute((host.as_str(), to_sql(sequence)?, to_sql(entry)?))?;
        }
        self.inner.execute(
            "INSERT INTO host_logs (host, next, checkpoint) VALUES (?1, ?2, ?3)
             ON CONFLICT (host) DO UPDATE
             SET next = excluded.next, checkpoint = excluded.checkpoint",
            (host.as_str(), to_sql(log.next)?, &log.checkpoint),
        )?;
        Ok(())
    }

    /// At most `count` entries of a host from its own number `first` on.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn host_entries(
        &self,
        host: &HostId,
        first: u64,
        count: u64,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT bytes FROM host_entries JOIN entries ON number = entry
             WHERE host = ?1 AND sequence >= ?2 ORDER BY sequence LIMIT ?3",
        )?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let rows = statement.query_map((host.as_str(), to_sql(first)?, count), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
