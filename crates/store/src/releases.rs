//! Releases: each number once.

use crate::{StoreError, Tx, from_sql, to_sql};
use lictor_types::{Digest, Generation};
use rusqlite::{OptionalExtension, Row};

/// A stored release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRow {
    /// Its number.
    pub generation: Generation,
    /// The digest of the signed bytes.
    pub digest: Digest,
    /// The envelope in JSON.
    pub envelope: String,
}

fn row(row: &Row<'_>) -> rusqlite::Result<(i64, String, String)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn parse((generation, digest, envelope): (i64, String, String)) -> Result<ReleaseRow, StoreError> {
    let digest = digest
        .parse()
        .map_err(|detail| StoreError::Corrupt { detail })?;
    Ok(ReleaseRow {
        generation: Generation(from_sql(generation)),
        digest,
        envelope,
    })
}

impl Tx {
    /// Stores a release.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if its number or its digest is stored already.
    pub fn add_release(&self, release: &ReleaseRow) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO releases (generation, digest, envelope) VALUES (?1, ?2, ?3)",
            (
                to_sql(release.generation.0)?,
                release.digest.to_string(),
                &release.envelope,
            ),
        )?;
        self.bump_revision()
    }

    /// The release with the greatest number.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn newest_release(&self) -> Result<Option<ReleaseRow>, StoreError> {
        const SQL: &str =
            "SELECT generation, digest, envelope FROM releases ORDER BY generation DESC LIMIT 1";
        self.inner
            .query_row(SQL, [], row)
            .optional()?
            .map(parse)
            .transpose()
    }

    /// Stores the statement of which release is the newest, in the place of the one before.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be stored.
    pub fn set_freshness(&self, envelope: &str) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO freshness (id, envelope) VALUES (0, ?1)
             ON CONFLICT (id) DO UPDATE SET envelope = excluded.envelope",
            [envelope],
        )?;
        self.bump_revision()
    }

    /// The statement of which release is the newest.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn freshness(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT envelope FROM freshness";
        Ok(self.inner.query_row(sql, [], |row| row.get(0)).optional()?)
    }

    /// Every release, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn releases(&self) -> Result<Vec<ReleaseRow>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT generation, digest, envelope FROM releases ORDER BY generation",
        )?;
        let rows = statement
            .query_map([], row)?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter().map(parse).collect()
    }
}
