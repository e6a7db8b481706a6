//! Hosts as their agents report them, and the inventory made of reports, bindings and placements.

use super::bindings::{check, stored_log};
use super::{App, Peer, State};
use crate::error::AppError;
use crate::limits::REPORT_AGE_MS_MAX;
use lictor_store::{HostRow, PlacementRow, Tx};
use lictor_types::{Generation, GuestId, HostId, VnicState};
use lictor_wire::VerifyKey;
use lictor_wire::api::{GuestEntry, HostEntry, HostReport, Inventory, Reported};
use std::collections::BTreeMap;

impl App {
    /// Keeps what an agent says of its own host. Where guests are, and since when, is for evidence.
    pub(crate) fn report(
        &self,
        peer: &Peer,
        host: &str,
        report: &HostReport,
    ) -> Result<Reported, AppError> {
        peer.must_be_host(&report.host)?;
        if host != report.host.as_str() {
            return Err(AppError::Malformed(format!(
                "the path names {host}, the report {}; expected one host",
                report.host
            )));
        }
        let text =
            serde_json::to_string(report).map_err(|error| AppError::Internal(error.to_string()))?;
        let now_ms = self.now_ms();
        let sessions_wanted = self.sessions_wanted(&report.host)?;
        let mut state = self.lock()?;
        state.store.write(|tx| {
            tx.set_report(&report.host, &text, now_ms)?;
            let next = tx.host_log(&report.host)?.map_or(0, |log| log.next);
            Ok(Reported {
                next,
                sessions_wanted,
            })
        })
    }

    /// Hosts and guests. What is not known to be protected is shown as unprotected.
    pub(crate) fn inventory(&self) -> Result<Inventory, AppError> {
        let now_ms = self.now_ms();
        let mut state = self.lock()?;
        let release = state.release.clone();
        let State { store, .. } = &mut *state;
        store.read(|tx| {
            let hosts = host_entries(tx, now_ms)?;
            let Some(release) = release else {
                return Ok(Inventory {
                    hosts,
                    guests: Vec::new(),
                });
            };
            let bindings = check(stored_log(tx)?, &release)?;
            let places = Places::gather(tx, &hosts)?;
            let guests = bindings.guests().map(|binding| {
                let (host, protected) = places.of(&binding.guest);
                GuestEntry {
                    guest: binding.guest.clone(),
                    labels: binding.labels.clone(),
                    host,
                    protected,
                }
            });
            Ok(Inventory {
                hosts,
                guests: guests.collect(),
            })
        })
    }
}

/// Whether the host, as reported, enforces exactly what it should.
fn enforces(report: &HostReport) -> bool {
    report.hooks_ok
        && report.generation != Generation(0)
        && report.tables_expected == report.tables_found
}

fn host_entries(tx: &Tx, now_ms: u64) -> Result<Vec<HostEntry>, AppError> {
    tx.hosts()?
        .into_iter()
        .map(|row| {
            let evidence = tx.host_log(&row.host)?.map_or(0, |log| log.next);
            host_entry(row, evidence, now_ms)
        })
        .collect()
}

fn host_entry(row: HostRow, evidence: u64, now_ms: u64) -> Result<HostEntry, AppError> {
    let broken = |what: &str| AppError::Internal(format!("the stored {what} cannot be read"));
    let key: Option<VerifyKey> = row
        .key
        .map(|key| key.parse().map_err(|_| broken("agent's key")))
        .transpose()?;
    let report: Option<HostReport> = row
        .report
        .map(|report| serde_json::from_str(&report).map_err(|_| broken("report")))
        .transpose()?;
    let fresh = row
        .reported_ms
        .is_some_and(|then| now_ms.saturating_sub(then) <= REPORT_AGE_MS_MAX);
    let protected = key.is_some() && fresh && report.as_ref().is_some_and(enforces);
    Ok(HostEntry {
        host: row.host,
        protected,
        key,
        report,
        heard_ms: row.reported_ms,
        evidence,
    })
}

/// Where guests are: an open unprotected interval first, then the report with the newest custody,
/// then the last placement.
struct Places {
    unprotected: BTreeMap<GuestId, HostId>,
    reported: BTreeMap<GuestId, (u64, HostId, bool)>,
    placed: BTreeMap<GuestId, HostId>,
}

impl Places {
    fn gather(tx: &Tx, hosts: &[HostEntry]) -> Result<Self, AppError> {
        let mut reported: BTreeMap<GuestId, (u64, HostId, bool)> = BTreeMap::new();
        for host in hosts {
            for guest in host.report.iter().flat_map(|report| &report.guests) {
                let open = guest.vnics.iter().any(|vnic| vnic.state == VnicState::Open);
                let known = reported.get(&guest.guest).map(|(custody, ..)| *custody);
                if open && known.is_none_or(|known| known < guest.custody) {
                    // One NIC past the hooks, and the guest is not protected.
                    let protected = host.protected && guest.unguarded.is_empty();
                    let place = (guest.custody, host.host.clone(), protected);
                    reported.insert(guest.guest.clone(), place);
                }
            }
        }
        let by_guest = |rows: Vec<PlacementRow>| {
            rows.into_iter()
                .map(|row| (row.guest, row.host))
                .collect::<BTreeMap<_, _>>()
        };
        Ok(Self {
            unprotected: by_guest(tx.unprotected()?),
            reported,
            placed: by_guest(tx.placements()?),
        })
    }

    fn of(&self, guest: &GuestId) -> (Option<HostId>, bool) {
        if let Some(host) = self.unprotected.get(guest) {
            return (Some(host.clone()), false);
        }
        if let Some((_, host, protected)) = self.reported.get(guest) {
            return (Some(host.clone()), *protected);
        }
        // A placement says where a guest is; only a report says that it is enforced there.
        (self.placed.get(guest).cloned(), false)
    }
}
