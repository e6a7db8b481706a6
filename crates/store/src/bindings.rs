//! The binding log: the newest of each guest and vnic is in force, all are kept.

use crate::{StoreError, Tx, from_sql, to_sql};
use lictor_types::{Epoch, GuestId, VnicId};

/// A signed binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRow {
    /// Its place in the log, unique over all guests.
    pub epoch: Epoch,
    /// The guest.
    pub guest: GuestId,
    /// The envelope in JSON.
    pub envelope: String,
}

/// A signed attestation of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationRow {
    /// The vnic.
    pub vnic: VnicId,
    /// Grows with each attestation of this vnic.
    pub sequence: u64,
    /// The envelope in JSON.
    pub envelope: String,
}

impl Tx {
    /// Appends a binding.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the epoch is taken.
    pub fn add_binding(&self, binding: &BindingRow) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO bindings (epoch, guest, envelope) VALUES (?1, ?2, ?3)",
            (
                to_sql(binding.epoch.0)?,
                binding.guest.as_str(),
                &binding.envelope,
            ),
        )?;
        self.bump_revision()
    }

    /// Appends an attestation.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the vnic has one with this number.
    pub fn add_attestation(&self, attestation: &AttestationRow) -> Result<(), StoreError> {
        self.inner.execute(
            "INSERT INTO attestations (vnic, sequence, envelope) VALUES (?1, ?2, ?3)",
            (
                attestation.vnic.0,
                to_sql(attestation.sequence)?,
                &attestation.envelope,
            ),
        )?;
        self.bump_revision()
    }

    /// The newest binding of each guest, in the order of guests.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn newest_bindings(&self) -> Result<Vec<BindingRow>, StoreError> {
        self.bindings(
            "SELECT epoch, guest, envelope FROM bindings AS b WHERE epoch =
             (SELECT max(epoch) FROM bindings WHERE guest = b.guest) ORDER BY guest",
        )
    }

    /// Every binding ever, in the order of epochs.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn all_bindings(&self) -> Result<Vec<BindingRow>, StoreError> {
        self.bindings("SELECT epoch, guest, envelope FROM bindings ORDER BY epoch")
    }

    fn bindings(&self, sql: &str) -> Result<Vec<BindingRow>, StoreError> {
        let mut statement = self.inner.prepare_cached(sql)?;
        let rows = statement
            .query_map([], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(2)?,
                ))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter()
            .map(|(epoch, guest, envelope)| {
                let guest = guest.parse().map_err(corrupt)?;
                Ok(BindingRow {
                    epoch: Epoch(from_sql(epoch)),
                    guest,
                    envelope,
                })
            })
            .collect()
    }

    /// The newest attestation of each vnic, in the order of vnics.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn newest_attestations(&self) -> Result<Vec<AttestationRow>, StoreError> {
        let mut statement = self.inner.prepare_cached(
            "SELECT vnic, sequence, envelope FROM attestations AS a WHERE sequence =
             (SELECT max(sequence) FROM attestations WHERE vnic = a.vnic) ORDER BY vnic",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(AttestationRow {
                vnic: VnicId(row.get(0)?),
                sequence: from_sql(row.get(1)?),
                envelope: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

pub(crate) fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        detail: error.to_string(),
    }
}
