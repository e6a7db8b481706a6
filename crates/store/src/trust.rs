//! One-time tokens and the certificates issued for them.

use crate::{StoreError, Tx, from_sql, to_sql};
use rusqlite::OptionalExtension;

/// A one-time token; the secret itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// The digest of the secret.
    pub digest: [u8; 32],
    /// What the holder will be.
    pub role: String,
    /// The name that the certificate will carry.
    pub name: String,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
    /// When it was used.
    pub used_ms: Option<u64>,
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// The digest of its DER bytes, in hexadecimal.
    pub fingerprint: String,
    /// What its holder is.
    pub role: String,
    /// Its holder's name.
    pub name: String,
    /// When it lapses, in milliseconds of Unix time.
    pub not_after_ms: u64,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
}

impl Tx {
    /// Stores a token.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if its digest is stored already.
    pub fn add_token(&self, token: &TokenRow) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO tokens (digest, role, name, expires_ms) VALUES (?1, ?2, ?3, ?4)",
            (
                token.digest,
                &token.role,
                &token.name,
                to_sql(token.expires_ms)?,
            ),
        )?;
        Ok(())
    }

    /// Every token that was not used, also those that have lapsed. The caller compares digests in
    /// constant time, so this is no look-up by digest.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let mut statement = self
            .inner
            .prepare_cached("SELECT digest, role, name, expires_ms, used_ms FROM tokens")?;
        let rows = statement.query_map([], |row| {
            Ok(TokenRow {
                digest: row.get(0)?,
                role: row.get(1)?,
                name: row.get(2)?,
                expires_ms: from_sql(row.get(3)?),
                used_ms: row.get::<_, Option<i64>>(4)?.map(from_sql),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Marks a token as used. `false` means that it was used already, or is unknown.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn use_token(&self, digest: &[u8; 32], now_ms: u64) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE tokens SET used_ms = ?2 WHERE digest = ?1 AND used_ms IS NULL";
        Ok(self.inner.execute(SQL, (digest, to_sql(now_ms)?))? == 1)
    }

    /// Forgets tokens that lapsed before this time, so that the table stays small.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn forget_tokens(&self, before_ms: u64) -> Result<usize, StoreError> {
        const SQL: &str = "DELETE FROM tokens WHERE expires_ms < ?1";
        Ok(self.inner.execute(SQL, [to_sql(before_ms)?])?)
    }

    /// Remembers an issued certificate.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if it is known.
    pub fn add_certificate(&self, certificate: &CertificateRow) -> Result<(), StoreError> {
        let CertificateRow {
            fingerprint,
            role,
            name,
            not_after_ms,
            ..
        } = certificate;
        self.inner.execute(
            "INSERT INTO certificates (fingerprint, role, name, not_after_ms)
             VALUES (?1, ?2, ?3, ?4)",
            (fingerprint, role, name, to_sql(*not_after_ms)?),
        )?;
        Ok(())
    }

    /// The certificate with this fingerprint.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn certificate(&self, fingerprint: &str) -> Result<Option<CertificateRow>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT fingerprint, role, name, not_after_ms, revoked_ms FROM certificates
             WHERE fingerprint = ?1",
        )?;
        let found = statement.query_row([fingerprint], |row| {
            Ok(CertificateRow {
                fingerprint: row.get(0)?,
                role: row.get(1)?,
                name: row.get(2)?,
                not_after_ms: from_sql(row.get(3)?),
                revoked_ms: row.get::<_, Option<i64>>(4)?.map(from_sql),
            })
        });
        Ok(found.optional()?)
    }

    /// Revokes every certificate of a role and name, and says how many that were.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn revoke_certificates(
        &self,
        role: &str,
        name: &str,
        now_ms: u64,
    ) -> Result<usize, StoreError> {
        const SQL: &str = "UPDATE certificates SET revoked_ms = ?3
             WHERE role = ?1 AND name = ?2 AND revoked_ms IS NULL";
        Ok(self.inner.execute(SQL, (role, name, to_sql(now_ms)?))?)
    }
}
