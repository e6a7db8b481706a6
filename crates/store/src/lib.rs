//! The manager's durable state. One concrete API over SQLite: what happens inside one
//! [`Store::write`] is stored whole or not at all, and is on disk before the call returns.
//!
//! The store keeps signed documents as the bytes that were signed and knows only the numbers that
//! order them. What they mean, and whether they may be stored, is the manager's business.
#![forbid(unsafe_code)]

mod bindings;
mod error;
mod hosts;
mod log;
mod placements;
mod releases;
mod schema;
mod trust;

pub use bindings::{AttestationRow, BindingRow};
pub use error::StoreError;
pub use hosts::HostRow;
pub use log::HostLog;
pub use placements::{DepartureRow, PlacementRow, UnprotectedRow};
pub use releases::ReleaseRow;
pub use trust::{CertificateRow, TokenRow};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long a call waits for another process that holds the lock, in milliseconds.
    pub busy_wait_ms: u64,
    /// The most pages of 4 KiB that the file may have; a write beyond is refused as
    /// [`StoreError::Full`].
    pub pages_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        // 2^30 pages are 4 TiB: beyond any disk that one embedded manager is meant for.
        Self {
            busy_wait_ms: 5_000,
            pages_max: 1 << 30,
        }
    }
}

/// The manager's durable state.
#[derive(Debug)]
pub struct Store {
    tx: Tx,
}

/// What happens inside a transaction: the whole vocabulary of the store. Only [`Store::write`] and
/// [`Store::read`] lend it, so that nothing happens outside one.
#[derive(Debug)]
pub struct Tx {
    inner: Connection,
}

impl Store {
    /// Opens a store, creates or migrates its schema and checks that the file is whole.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be opened, is corrupt, or comes from a newer version.
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_millis(options.busy_wait_ms))?;
        // WAL with FULL: each commit is synced before it returns, so that nothing acknowledged is
        // lost with the power. NORMAL would sync only at checkpoints.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update_and_check(
            None,
            "max_page_count",
            options.pages_max,
            |_| Ok(()),
        )?;
        let state: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if state != "ok" {
            return Err(StoreError::Corrupt { detail: state });
        }
        schema::migrate(&mut connection)?;
        Ok(Self {
            tx: Tx { inner: connection },
        })
    }

    /// Runs a transaction that may change things. If `body` fails, nothing of it is stored.
    ///
    /// # Errors
    /// What `body` returns, or [`StoreError`] if it cannot be begun or made durable.
    pub fn write<T, E: From<StoreError>>(
        &mut self,
        body: impl FnOnce(&Tx) -> Result<T, E>,
    ) -> Result<T, E> {
        // IMMEDIATE takes the write lock at once: a deferred one could read, then fail to upgrade.
        let guard = self.begin(TransactionBehavior::Immediate)?;
        let value = body(&self.tx)?;
        guard.commit().map_err(StoreError::from)?;
        Ok(value)
    }

    /// Runs a transaction over one consistent state; what it changes is thrown away.
    ///
    /// # Errors
    /// What `body` returns, or [`StoreError`] if it cannot be begun.
    pub fn read<T, E: From<StoreError>>(
        &mut self,
        body: impl FnOnce(&Tx) -> Result<T, E>,
    ) -> Result<T, E> {
        let _rolls_back_when_dropped = self.begin(TransactionBehavior::Deferred)?;
        body(&self.tx)
    }

    /// `&mut self` in the callers rules out a transaction within a transaction.
    fn begin(&self, behavior: TransactionBehavior) -> Result<Transaction<'_>, StoreError> {
        Ok(Transaction::new_unchecked(&self.tx.inner, behavior)?)
    }
}

impl Tx {
    /// A number that grows with every change that agents must hear of.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn revision(&self) -> Result<u64, StoreError> {
        let value: i64 = self
            .inner
            .query_row("SELECT value FROM revision", [], |row| row.get(0))?;
        Ok(from_sql(value))
    }

    /// In the same transaction as the change itself, so that no reader sees one without the other.
    fn bump_revision(&self) -> Result<(), StoreError> {
        self.inner
            .execute("UPDATE revision SET value = value + 1", [])?;
        Ok(())
    }
}

/// SQLite's integers are signed.
fn to_sql(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Range { value })
}

/// Only [`to_sql`] writes the columns that this reads, so the sign bit is never set.
fn from_sql(value: i64) -> u64 {
    value.unsigned_abs()
}
