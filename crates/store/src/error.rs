//! What can go wrong with the disk, told apart by what its reader must do next.

use rusqlite::ErrorCode;

/// Why the store did not do as asked. Nothing of the failed transaction was stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the write lock.
    #[error("the store is locked by another process; retry, or end that process")]
    Busy,
    /// No space is left, or the file's own limit is reached.
    #[error("the store is full; free space on its disk, then retry")]
    Full,
    /// The file is damaged.
    #[error("the store is damaged ({detail}); restore it from a backup, do not start over it")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// A newer version wrote the file.
    #[error("the store has schema {found}, this version knows {known}; run the newer version")]
    Newer {
        /// The schema found.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
    /// A number does not fit.
    #[error("the number {value} is too large to be stored; expected at most 2^63 - 1")]
    Range {
        /// The number.
        value: u64,
    },
    /// A row that must be unique is there already.
    #[error("it is stored already under the same number")]
    Exists,
    /// Log entries must be appended without a gap.
    #[error("the next log entry is {expected}, not {found}")]
    Gap {
        /// The only number that may follow.
        expected: u64,
        /// The number offered.
        found: u64,
    },
    /// Anything else that SQLite says.
    #[error("the store failed")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt {
                detail: error.to_string(),
            },
            Some(ErrorCode::ConstraintViolation) => Self::Exists,
            _ => Self::Sqlite(error),
        }
    }
}
