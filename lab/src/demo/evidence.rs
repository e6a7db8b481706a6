//! Looking for something in the evidence that the manager has collected.

use super::world::LIMIT;
use crate::site::Site;
use crate::wait;
use anyhow::{Context, Result};
use lictor_evidence::Entry;

/// How much evidence there is now: what comes later is news.
pub(super) fn mark(site: &Site) -> Result<usize> {
    Ok(site.evidence_from(0)?.len())
}

/// Waits for the first entry after a mark that is wanted.
pub(super) fn find<T>(
    site: &Site,
    (what, since): (&str, usize),
    wanted: impl Fn(&Entry) -> Option<T>,
) -> Result<T> {
    wait::seldom("evidence", LIMIT, || {
        Ok(site.evidence_from(since)?.iter().find_map(&wanted))
    })
    .with_context(|| what.to_owned())
}
