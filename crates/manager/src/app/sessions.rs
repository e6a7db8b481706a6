//! Live sessions, which hosts list when somebody asks. They are held in memory for a moment and
//! written nowhere: another manager, or this one after a restart, asks again.

use super::{App, Peer};
use crate::error::AppError;
use crate::limits::{LISTINGS_BYTES_MAX, SESSIONS_ASKED_MS_MAX};
use lictor_store::StoreError;
use lictor_types::HostId;
use lictor_wire::api::{SessionListing, SessionsAsked, SessionsListed};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

/// When somebody asked last, and what hosts have listed since somebody asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    asked_ms: Option<u64>,
    listings: BTreeMap<HostId, (Arc<SessionsListed>, usize)>,
}

/// When a listing came.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    listed_ms: u64,
}

impl Asked {
    /// Forgets what nobody waits for any more.
    fn at(&mut self, now_ms: u64) {
        let over = |asked: u64| now_ms.saturating_sub(asked) > SESSIONS_ASKED_MS_MAX;
        if self.asked_ms.is_some_and(over) {
            *self = Self::default();
        }
    }

    fn wanted(&self, host: &HostId) -> bool {
        let listed = self.listings.get(host).map(|(one, _)| one.listed_ms);
        self.asked_ms
            .is_some_and(|asked| listed.is_none_or(|listed| listed < asked))
    }
}

impl App {
    /// Asks every host that has an agent.
    pub(crate) fn ask_sessions(&self) -> Result<SessionsAsked, AppError> {
        let hosts = self.inventory()?.hosts.into_iter();
        let hosts = hosts.filter(|host| host.key.is_some());
        let asked_ms = self.now_ms();
        self.asked()?.asked_ms = Some(asked_ms);
        Ok(SessionsAsked {
            asked_ms,
            hosts: hosts.map(|host| host.host).collect(),
        })
    }

    /// Whether a host is still to list its sessions.
    pub(super) fn sessions_wanted(&self, host: &HostId) -> Result<bool, AppError> {
        Ok(self.asked()?.wanted(host))
    }

    /// Keeps what an agent lists of its own host. `bytes` is how long its message was.
    pub(crate) fn list_sessions(
        &self,
        (peer, host): (&Peer, &str),
        listing: SessionListing,
        bytes: usize,
    ) -> Result<Listed, AppError> {
        peer.must_be_host(&listing.host)?;
        if host != listing.host.as_str() {
            let listed = &listing.host;
            let what = format!("the path names {host}, the listing {listed}; expected one host");
            return Err(AppError::Malformed(what));
        }
        let listed_ms = self.now_ms();
        let mut asked = self.asked()?;
        if !asked.wanted(&listing.host) {
            let what = "nobody asks for this host's sessions now";
            return Err(AppError::Conflict(what.into()));
        }
        let others = asked
            .listings
            .iter()
            .filter(|(one, _)| **one != listing.host);
        let held: usize = others.map(|(_, (_, bytes))| bytes).sum();
        if held + bytes > LISTINGS_BYTES_MAX {
            return Err(AppError::Storage(StoreError::Full));
        }
        let host = listing.host.clone();
        let listing = Arc::new(SessionsListed { listed_ms, listing });
        asked.listings.insert(host, (listing, bytes));
        Ok(Listed { listed_ms })
    }

    /// What a host has listed since somebody asked.
    pub(crate) fn sessions_of(&self, host: &str) -> Result<Arc<SessionsListed>, AppError> {
        let asked = self.asked()?;
        let mut listings = asked.listings.iter();
        let found = listings.find(|(one, _)| one.as_str() == host);
        let missing = || AppError::NotFound(format!("{host} has listed no sessions; ask for them"));
        found.map(|(_, (one, _))| one.clone()).ok_or_else(missing)
    }

    fn asked(&self) -> Result<MutexGuard<'_, Asked>, AppError> {
        let broken =
            |_| AppError::Internal("an earlier call broke off; restart the manager".into());
        let mut asked = self.sessions.lock().map_err(broken)?;
        asked.at(self.now_ms());
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_asked_once_and_what_nobody_waits_for_is_forgotten() {
        let host: HostId = "a".parse().expect("a name");
        let listing = |listed_ms| {
            let listing = SessionListing {
                host: host.clone(),
                pages: Vec::new(),
                left_out: 0,
            };
            (Arc::new(SessionsListed { listed_ms, listing }), 9)
        };
        let mut asked = Asked::default();
        assert!(!asked.wanted(&host), "nobody asked");
        asked.asked_ms = Some(100);
        assert!(asked.wanted(&host));
        asked.listings.insert(host.clone(), listing(100));
        assert!(!asked.wanted(&host), "it has answered");
        asked.asked_ms = Some(101);
        assert!(asked.wanted(&host), "somebody asked again");
        asked.at(101 + SESSIONS_ASKED_MS_MAX);
        assert_eq!(asked.listings.len(), 1, "at the limit");
        asked.at(102 + SESSIONS_ASKED_MS_MAX);
        assert!(
            asked.listings.is_empty() && !asked.wanted(&host),
            "beyond it"
        );
    }
}
