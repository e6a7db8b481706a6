//! Placements that a management layer reports, and what the owner of a guest chose for hosts
//! without an agent.

use super::{App, unprotected, unprotected::ALLOWED};
use crate::error::AppError;
use lictor_evidence::{Body, PlacedBy};
use lictor_policy::{Cause, Choice, Date};
use lictor_store::PlacementRow;
use lictor_types::GuestId;
use lictor_wire::VerifiedRelease;
use lictor_wire::api::Placement;
use serde::Serialize;

/// What became of a placement.
#[derive(Debug, Serialize)]
pub(crate) struct Placed {
    /// Whether an agent is enrolled on that host.
    protected: bool,
    /// What the owner chose, where none is.
    choice: Option<Choice>,
}

impl App {
    /// Keeps a placement and says what it means.
    pub(crate) fn place(&self, placement: &Placement) -> Result<Placed, AppError> {
        let Placement {
            guest,
            host,
            since_ms,
            error_ms,
        } = placement;
        let row = PlacementRow {
            guest: guest.clone(),
            host: host.clone(),
            since_ms: *since_ms,
            error_ms: *error_ms,
        };
        let now_ms = self.now_ms();
        let mut state = self.lock()?;
        let release = state.release.clone();
        state.change(now_ms, |tx, journal| {
            tx.know_host(host)?;
            let before = tx.placement(guest)?;
            refuse_stale(before.as_ref(), &row)?;
            tx.add_placement(&row)?;
            let protected = tx.host(host)?.is_some_and(|row| row.key.is_some());
            journal.add(Body::GuestPlaced {
                guest: guest.clone(),
                at: host.clone(),
                by: PlacedBy::Found,
                protected,
            })?;
            if protected {
                unprotected::close(tx, journal, &row)?;
                return Ok(Placed {
                    protected,
                    choice: None,
                });
            }
            let labels = super::bindings::labels_of(tx, guest)?;
            let choice = choice(release.as_deref(), labels.as_ref(), now_ms);
            if choice == ALLOWED {
                unprotected::open(tx, journal, &row, before)?;
            }
            journal.add(alarm(guest, placement, choice))?;
            Ok(Placed {
                protected,
                choice: Some(choice),
            })
        })
    }
}

/// A report that was overtaken must not put a guest back where it no longer is.
fn refuse_stale(known: Option<&PlacementRow>, new: &PlacementRow) -> Result<(), AppError> {
    let latest_ms = new.since_ms.saturating_add(new.error_ms);
    let overtaken = known.filter(|known| latest_ms < known.since_ms.saturating_sub(known.error_ms));
    let Some(known) = overtaken else {
        return Ok(());
    };
    let PlacementRow {
        guest,
        host,
        since_ms,
        ..
    } = known;
    Err(AppError::Conflict(format!(
        "since_ms {}: {guest} is known to be on {host} since {since_ms}; report where it is now",
        new.since_ms
    )))
}

/// The owner's choice; where nothing is known of the guest, the strictest.
fn choice(
    release: Option<&VerifiedRelease>,
    labels: Option<&lictor_policy::Labels>,
    now_ms: u64,
) -> Choice {
    let cause = Cause::HostUnprotected;
    let known = release.zip(labels).and_then(|(release, labels)| {
        let policy = &release.release().policy;
        let today = Date::from_unix_seconds(now_ms / 1_000);
        Some(policy.choice_on(policy.identity_of(labels)?, cause, today))
    });
    known.unwrap_or(cause.default_choice())
}

fn alarm(guest: &GuestId, placement: &Placement, choice: Choice) -> Body {
    let Placement {
        host,
        since_ms,
        error_ms,
        ..
    } = placement;
    let what = if choice == ALLOWED {
        "its owner allows that with an alarm, packets are not judged"
    } else {
        "its owner chose block: it must not run there, stop it or move it back"
    };
    Body::Alarm {
        subject: format!("guest {guest}"),
        text: format!(
            "placed on {host}, where no agent enforces, since {since_ms} ms (give or take \
             {error_ms} ms); {what}"
        ),
    }
}
