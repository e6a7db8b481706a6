//! Bindings and attestations: the whole log that would result is verified before one is stored.

use super::facts::guest_bound;
use super::{App, Peer, State, envelope_json, parse_envelope};
use crate::error::AppError;
use lictor_policy::Labels;
use lictor_store::{AttestationRow, BindingRow, StoreError, Tx};
use lictor_types::{Digest, Epoch, Generation, GuestId};
use lictor_wire::api::{BindingDocument, Published};
use lictor_wire::binding::{ATTESTATION_TYPE, BindingLog, verify};
use lictor_wire::{AddressAttestation, Binding, Envelope, VerifiedRelease};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

impl App {
    /// The newest bindings, and the attestations that hold under them and the newest release.
    pub(crate) fn binding_document(&self) -> Result<BindingDocument, AppError> {
        let mut state = self.lock()?;
        let release = state.release.clone();
        let (revision, stored) = state
            .store
            .read(|tx| Ok::<_, AppError>((tx.revision()?, stored_log(tx)?)))?;
        let log = match release {
            Some(release) => in_force(stored, &release)?,
            None => stored,
        };
        Ok(BindingDocument { revision, log })
    }

    /// Stores a binding that is newer than all others and lies inside its signer's delegation.
    pub(crate) fn publish_binding(&self, envelope: &Envelope) -> Result<Published, AppError> {
        let mut state = self.lock()?;
        let release = state.release_or_refuse()?;
        let binding: Binding = unverified(envelope, "binding")?;
        let stored = state.store.read(stored_log)?;
        let mut bindings = Vec::new();
        let mut newest = Epoch::default();
        for other in stored.bindings {
            let found: Binding = unverified(&other, "stored binding")?;
            newest = newest.max(found.epoch);
            if found.guest != binding.guest {
                bindings.push(other);
            }
        }
        if binding.epoch <= newest {
            let (guest, epoch) = (&binding.guest, binding.epoch);
            return Err(AppError::Conflict(format!(
                "the binding of {guest} has epoch {epoch}, but {newest} is stored; sign it again \
                 with a greater one"
            )));
        }
        bindings.push(envelope.clone());
        let log = BindingLog {
            bindings,
            attestations: stored.attestations,
        };
        check(log, &release)?;
        let bound = guest_bound(&release, &binding);
        let row = BindingRow {
            epoch: binding.epoch,
            guest: binding.guest,
            envelope: envelope_json(envelope)?,
        };
        state.change(self.now_ms(), |tx, journal| {
            tx.add_binding(&row)?;
            // Checks must know guests that are bound after the release.
            journal.add(bound)
        })?;
        published(envelope)
    }

    /// Stores the addresses that an agent attests for a vnic of a guest that may run on its host.
    pub(crate) fn publish_attestation(
        &self,
        peer: &Peer,
        envelope: &Envelope,
    ) -> Result<Published, AppError> {
        let attestation: AddressAttestation = unverified(envelope, "attestation")?;
        peer.must_be_host(&attestation.host)?;
        let mut state = self.lock()?;
        let release = state.release_or_refuse()?;
        let stored = state.store.read(stored_log)?;
        let mut attestations = Vec::new();
        for other in stored.attestations {
            let found: AddressAttestation = unverified(&other, "stored attestation")?;
            if found.vnic != attestation.vnic {
                attestations.push(other);
            } else if found == attestation {
                return published(envelope);
            } else if found.sequence >= attestation.sequence {
                let (vnic, newest) = (found.vnic, found.sequence);
                return Err(AppError::Conflict(format!(
                    "the attestation of vnic {vnic} has number {}, but {newest} is stored; sign \
                     it again with a greater one",
                    attestation.sequence
                )));
            }
        }
        attestations.push(envelope.clone());
        let log = BindingLog {
            bindings: stored.bindings,
            attestations,
        };
        let verified = check(log, &release)?;
        // What no longer holds is left out of the log, so that its absence must be asked for.
        if verified.attestation(attestation.vnic) != Some(&attestation) {
            let AddressAttestation {
                host, guest, vnic, ..
            } = &attestation;
            return Err(AppError::Refused {
                what: format!("the addresses of vnic {vnic} are refused, nothing was stored"),
                reasons: vec![format!(
                    "expected a signature by the roster's key of {host}, and a binding of \
                     {guest} with this vnic that may run there"
                )],
            });
        }
        let row = AttestationRow {
            vnic: attestation.vnic,
            sequence: attestation.sequence,
            envelope: envelope_json(envelope)?,
        };
        state.store.write(|tx| tx.add_attestation(&row))?;
        published(envelope)
    }
}

impl State {
    fn release_or_refuse(&self) -> Result<std::sync::Arc<VerifiedRelease>, AppError> {
        self.release.clone().ok_or_else(|| {
            AppError::Conflict("no release is published yet; bindings need its delegations".into())
        })
    }
}

fn published(envelope: &Envelope) -> Result<Published, AppError> {
    let payload = envelope.unverified_payload().map_err(|error| {
        AppError::Malformed(format!("the envelope's payload cannot be read: {error}"))
    })?;
    Ok(Published {
        generation: Generation(0),
        digest: Digest::of(&payload),
    })
}

/// Reads a payload in order to find its place; [`check`] verifies it before it is stored.
fn unverified<T: DeserializeOwned>(envelope: &Envelope, what: &str) -> Result<T, AppError> {
    let malformed = |error: &dyn std::fmt::Display| {
        AppError::Malformed(format!("the {what} cannot be read: {error}"))
    };
    let payload = envelope
        .unverified_payload()
        .map_err(|error| malformed(&error))?;
    serde_json::from_slice(&payload).map_err(|error| malformed(&error))
}

/// The newest envelope of each guest and each vnic.
pub(super) fn stored_log(tx: &Tx) -> Result<BindingLog, AppError> {
    let bindings = tx
        .newest_bindings()?
        .into_iter()
        .map(|row| parse_envelope(&row.envelope));
    let attestations = tx
        .newest_attestations()?
        .into_iter()
        .map(|row| parse_envelope(&row.envelope));
    Ok(BindingLog {
        bindings: bindings.collect::<Result<_, StoreError>>()?,
        attestations: attestations.collect::<Result<_, StoreError>>()?,
    })
}

/// The labels that a guest is bound to.
pub(super) fn labels_of(tx: &Tx, guest: &GuestId) -> Result<Option<Labels>, AppError> {
    let Some(row) = tx
        .newest_bindings()?
        .into_iter()
        .find(|row| row.guest == *guest)
    else {
        return Ok(None);
    };
    let binding: Binding = unverified(&parse_envelope(&row.envelope)?, "stored binding")?;
    Ok((!binding.retired).then_some(binding.labels))
}

/// Verifies a log after leaving out the attestations that lapsed.
pub(super) fn check(
    log: BindingLog,
    release: &VerifiedRelease,
) -> Result<lictor_wire::Bindings, AppError> {
    let log = in_force(log, release)?;
    verify(&log, release, Epoch::default()).map_err(|refused| AppError::Refused {
        what: "the bindings that would result are refused, nothing was stored".into(),
        reasons: refused.reasons,
    })
}

/// Leaves out the attestations of guests and vnics that are gone, and of hosts that may no longer
/// speak for them. An agent refuses a log whole, so one that lapsed must not stay in it.
pub(super) fn in_force(log: BindingLog, release: &VerifiedRelease) -> Result<BindingLog, AppError> {
    let mut guests: BTreeMap<GuestId, Binding> = BTreeMap::new();
    for envelope in &log.bindings {
        let binding: Binding = unverified(envelope, "binding")?;
        guests.insert(binding.guest.clone(), binding);
    }
    let mut attestations = Vec::new();
    for envelope in log.attestations {
        let attestation: AddressAttestation = unverified(&envelope, "attestation")?;
        let AddressAttestation {
            host, guest, vnic, ..
        } = &attestation;
        let bound = guests.get(guest).is_some_and(|binding| {
            !binding.retired
                && binding.may_run_on(host)
                && binding.vnics.iter().any(|entry| entry.vnic == *vnic)
        });
        let key = release.release().host(host).map(|entry| entry.key.clone());
        let signed = key.is_some_and(|key| envelope.verify(ATTESTATION_TYPE, &[key]).is_ok());
        if bound && signed {
            attestations.push(envelope);
        }
    }
    Ok(BindingLog {
        bindings: log.bindings,
        attestations,
    })
}
