//! Hosts: the agent's key, pinned when it enrols, and its last report.

use crate::{StoreError, Tx, bindings::corrupt, from_sql, to_sql};
use lictor_types::HostId;
use rusqlite::{OptionalExtension, Row};

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRow {
    /// The host.
    pub host: HostId,
    /// Its agent's key as text; none if no agent ever enrolled.
    pub key: Option<String>,
    /// Its last report in JSON.
    pub report: Option<String>,
    /// When that was received, in milliseconds of Unix time by the manager's clock.
    pub reported_ms: Option<u64>,
}

type Columns = (String, Option<String>, Option<String>, Option<i64>);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn parse((host, key, report, reported): Columns) -> Result<HostRow, StoreError> {
    let host = host.parse().map_err(corrupt)?;
    Ok(HostRow {
        host,
        key,
        report,
        reported_ms: reported.map(from_sql),
    })
}

impl Tx {
    /// Pins the key of a host's agent, or forgets it.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn set_host_key(&self, host: &HostId, key: Option<&str>) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO hosts (host, key) VALUES (?1, ?2)
             ON CONFLICT (host) DO UPDATE SET key = excluded.key",
            (host.as_str(), key),
        )?;
        Ok(())
    }

    /// Makes a host known without a key: a placement has named it.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn know_host(&self, host: &HostId) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO hosts (host) VALUES (?1) ON CONFLICT (host) DO NOTHING";
        self.inner.execute(SQL, [host.as_str()])?;
        Ok(())
    }

    /// Keeps a host's newest report.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn set_report(&self, host: &HostId, report: &str, now: u64) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO hosts (host, report, reported_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (host) DO UPDATE
             SET report = excluded.report, reported_ms = excluded.reported_ms",
            (host.as_str(), report, to_sql(now)?),
        )?;
        Ok(())
    }

    /// A host.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn host(&self, host: &HostId) -> Result<Option<HostRow>, StoreError> {
        const SQL: &str = "SELECT host, key, report, reported_ms FROM hosts WHERE host = ?1";
        self.inner
            .query_row(SQL, [host.as_str()], columns)
            .optional()?
            .map(parse)
            .transpose()
    }

    /// Every host, in the order of names.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let mut statement = self
            .inner
            .prepare_cached("SELECT host, key, report, reported_ms FROM hosts ORDER BY host")?;
        let rows = statement
            .query_map([], columns)?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(parse).collect()
    }
}
