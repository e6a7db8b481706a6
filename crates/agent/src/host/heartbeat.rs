//! The heartbeat: each open vnic's program is asked about packets that nobody sends, and only if it
//! says of all of them what the plan says, a session may begin there for some time more.

use super::Host;
use super::proofs::{self, Proof};
use crate::AgentError;
use lictor_datapath::{DirectionCounters, Lease, Terms, VnicStatus};
use lictor_policy::{Cause, Choice};
use lictor_types::{Digest, Endpoint, GuestId, Reason, VnicId, VnicState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For how long conversations are taken up in their midst. A TCP whose segments were lost sends
/// them again within a minute or two; who says nothing for that long begins anew.
const ADOPT_MS: u64 = 120_000;

/// The proofs of each vnic under one load of tables.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    of: Option<(Digest, BTreeSet<VnicId>)>,
    proofs: BTreeMap<VnicId, Vec<Proof>>,
}

/// A guest whose verdicts are not proven, or were not for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// Who.
    pub guest: GuestId,
    /// What was found.
    pub detail: String,
    /// For how long its lease had been over.
    pub over: Duration,
}

impl Host {
    /// Proves the verdicts of every open vnic of a guest and renews its lease, if its owner chose
    /// one. Says where they are not proven.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn heartbeat(&mut self, now_ms: u64) -> Result<Vec<Unproven>, AgentError> {
        let statuses = self.datapath.vnics()?;
        self.choose_proofs(&statuses);
        let mut unproven = Vec::new();
        for status in &statuses {
            if status.spec.endpoint != Endpoint::Guest {
                continue;
            }
            let Some((binding, _)) = self.bindings.by_name(&status.spec.name) else {
                continue;
            };
            let guest = binding.guest.clone();
            let found = match status.state {
                VnicState::Open => self.prove(status.spec.vnic),
                // What forwards nothing needs no proof; the lease runs from its opening.
                VnicState::Hold | VnicState::HandedOver | VnicState::Cut => Ok(()),
            };
            self.look_for_room(status)?;
            let over = self.datapath.lease_over(status.spec.vnic)?;
            let terms = self.terms(&guest, found.is_ok(), now_ms);
            self.datapath.set_terms(status.spec.vnic, &terms)?;
            let detail = match (found, over) {
                (Err(detail), _) => detail,
                (Ok(()), Some(over)) => {
                    format!("nobody had proven its verdicts for {} ms", over.as_millis())
                }
                (Ok(()), None) => continue,
            };
            unproven.push(Unproven {
                guest,
                detail: format!("vnic {}: {detail}", status.spec.name),
                over: over.unwrap_or_default(),
            });
        }
        Ok(unproven)
    }

    fn choose_proofs(&mut self, statuses: &[VnicStatus]) {
        let here: BTreeSet<VnicId> = statuses.iter().map(|status| status.spec.vnic).collect();
        let tables = self.desired.digest();
        let known = self.proofs.of.as_ref();
        if known.is_some_and(|known| *known == (tables, here.clone())) {
            return;
        }
        let proofs = statuses.iter().map(|status| {
            let proofs = proofs::choose(&self.desired, &status.spec, &here);
            (status.spec.vnic, proofs)
        });
        self.proofs = Proofs {
            proofs: proofs.collect(),
            of: Some((tables, here)),
        };
    }

    fn prove(&self, vnic: VnicId) -> Result<(), String> {
        let proofs = self.proofs.proofs.get(&vnic).map_or(&[][..], Vec::as_slice);
        if proofs.is_empty() {
            return Err("the tables have no address of it, so that no packet proves them".into());
        }
        for proof in proofs {
            let asked = (proof.direction, proof.came_by);
            let found = self.datapath.prove(vnic, asked, &proof.frame);
            let found = found.map_err(|error| AgentError::from(error).chain())?;
            let (reason, rule) = proof.expected;
            if (found.reason, found.rule) != proof.expected {
                return Err(format!(
                    "of {} the program says {} by rule {}, the plan {reason} by rule {rule}",
                    proof.probe, found.reason, found.rule
                ));
            }
        }
        Ok(())
    }

    /// What the guest's owner chose, in the kernel's words.
    fn terms(&self, guest: &GuestId, proven: bool, now_ms: u64) -> Terms {
        let chose = |cause: Cause, choice: Choice| self.choice(guest, cause, now_ms) == choice;
        let leased = chose(Cause::EngineHung, Choice::BlockNewSessions);
        let stale = chose(Cause::ReleaseStale, Choice::BlockNewSessions);
        Terms {
            lease: match (leased, proven) {
                (false, _) => Lease::Free,
                (true, true) => Lease::For(Duration::from_secs(self.config.lease_s)),
                (true, false) => Lease::Kept,
            },
            stale: stale && self.stale(now_ms).is_some(),
            adopt: Duration::from_millis(self.adopts_for(guest, now_ms)),
        }
    }

    /// Notes which vnics have refused sessions for want of room since the last time.
    fn look_for_room(&mut self, status: &VnicStatus) -> Result<(), AgentError> {
        let vnic = status.spec.vnic;
        let counters = self.datapath.counters(vnic)?;
        let both = [&counters.egress, &counters.ingress];
        let count = |one: &&DirectionCounters| one.reason(Reason::SessionTableFull).packets;
        let refused: u64 = both.iter().map(count).sum();
        let before = self.refusals.insert(vnic, refused).unwrap_or(refused);
        self.full.remove(&vnic);
        if refused > before {
            let (name, quota) = (&status.spec.name, status.spec.sessions_max);
            let more = refused - before;
            let text =
                format!("vnic {name} refused {more} packets: its {quota} sessions are in use");
            self.full.insert(vnic, text);
        }
        Ok(())
    }

    /// Which vnic of a guest refuses sessions for want of room.
    pub(crate) fn full(&self, guest: &GuestId) -> Option<String> {
        let vnics = &self.bindings.guest(guest)?.vnics;
        let mut full = vnics.iter().filter_map(|vnic| self.full.get(&vnic.vnic));
        full.next().cloned()
    }

    /// The guests that have a vnic here.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub(crate) fn guests_here(&self) -> Result<BTreeSet<GuestId>, AgentError> {
        let statuses = self.datapath.vnics()?.into_iter();
        let guests = statuses.filter(|status| status.spec.endpoint == Endpoint::Guest);
        let bound = guests.filter_map(|status| self.bindings.by_name(&status.spec.name));
        Ok(bound.map(|(binding, _)| binding.guest.clone()).collect())
    }

    /// Before vnics of a guest open of whose sessions none is here: if its owner chose so,
    /// conversations are taken up in their midst for a while.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub(crate) fn begins(&mut self, guest: &GuestId, now_ms: u64) -> Result<(), AgentError> {
        for vnic in self.vnics_of(guest) {
            let held = self.datapath.state(vnic)? == VnicState::Hold;
            if held && self.datapath.sessions_held(vnic)? == 0 {
                self.lost_sessions(guest, now_ms)?;
            }
        }
        Ok(())
    }

    /// The sessions of a guest are gone, and it goes on: as [`Self::begins`].
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn lost_sessions(&mut self, guest: &GuestId, now_ms: u64) -> Result<(), AgentError> {
        self.lost.retain(|_, until_ms| *until_ms > now_ms);
        self.lost.insert(guest.clone(), now_ms + ADOPT_MS);
        if self.adopts_for(guest, now_ms) == 0 {
            return Ok(());
        }
        for vnic in self.vnics_of(guest) {
            let proven = self.datapath.lease_over(vnic)?.is_none();
            let terms = self.terms(guest, proven, now_ms);
            self.datapath.set_terms(vnic, &terms)?;
        }
        Ok(())
    }

    /// Milliseconds for which conversations of a guest are still taken up in their midst.
    pub(crate) fn adopts_for(&self, guest: &GuestId, now_ms: u64) -> u64 {
        let chosen = self.choice(guest, Cause::StateLost, now_ms) == Choice::Adopt;
        let until_ms = self.lost.get(guest).copied().filter(|_| chosen);
        until_ms.map_or(0, |until_ms| until_ms.saturating_sub(now_ms))
    }
}
