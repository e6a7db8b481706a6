//! A guest that starts on a host, and of which nobody knows yet whose it is: a pure machine. Each
//! host answers who asks; of two hosts that claim a guest at once the one with the smaller name
//! gets it.

use crate::custody::EPOCH_JUMP_MAX;
use lictor_types::HostId;
use std::collections::BTreeSet;

/// What a host knows about a guest that it would like to have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The newest epoch that this host knew of itself.
    known: u64,
    newest: u64,
    waiting: BTreeSet<HostId>,
    unheard: BTreeSet<HostId>,
    held_by: Option<HostId>,
}

/// Where a claim stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody has not spoken yet.
    Waiting,
    /// This host has the guest, or claims it with more right.
    HeldBy(HostId),
    /// It is ours.
    Ours {
        /// In this epoch.
        epoch: u64,
        /// Without a word from these.
        unheard: BTreeSet<HostId>,
    },
}

/// What the word of a host means that was not heard when custody was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing: nobody waits for it.
    None,
    /// It does not have the guest.
    Settled,
    /// It has the guest, and this host had not asked before it took it.
    Lost,
}

/// Takes the word of a host into account that may have had a guest which was taken here.
pub fn doubted(doubts: &mut BTreeSet<HostId>, from: &HostId, held: bool) -> Doubt {
    if !doubts.contains(from) {
        return Doubt::None;
    }
    if held {
        return Doubt::Lost;
    }
    doubts.remove(from);
    Doubt::Settled
}

/// Who comes first when another host asks for a guest that is claimed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// This host: its answer is that it has the guest.
    Own,
    /// The other one: it must be asked in turn before this claim can end.
    Other,
}

impl Claim {
    /// Begins with the newest epoch that is known here. Nobody is asked yet.
    #[must_use]
    pub const fn new(known: u64) -> Self {
        Self {
            known,
            newest: known,
            waiting: BTreeSet::new(),
            unheard: BTreeSet::new(),
            held_by: None,
        }
    }

    /// These hosts are being asked, all of them anew.
    pub fn ask(&mut self, others: BTreeSet<HostId>) {
        self.waiting = others;
        self.unheard.clear();
        self.held_by = None;
    }

    /// A host that was asked has answered. What nobody asked for does not count.
    pub fn told(&mut self, from: &HostId, held: bool, epoch: u64) {
        if !self.waiting.remove(from) {
            return;
        }
        let believed = epoch.min(self.known.saturating_add(EPOCH_JUMP_MAX));
        self.newest = self.newest.max(believed);
        if held {
            self.held_by = Some(from.clone());
        } else if self.held_by.as_ref() == Some(from) {
            self.held_by = None;
        }
    }

    /// Another host asks for the same guest. It may have begun after it had answered this one: then
    /// its answer was true, and is not any more.
    ///
    /// Whoever has said that the guest is its own has more right than its name gives it.
    pub fn asked(&mut self, own: &HostId, from: &HostId) -> First {
        if own < from && self.held_by.as_ref() != Some(from) {
            return First::Own;
        }
        self.unheard.remove(from);
        self.waiting.insert(from.clone());
        First::Other
    }

    /// A host cannot be reached. Says whether this claim had waited for it.
    pub fn lost(&mut self, host: &HostId) -> bool {
        let waited = self.waiting.remove(host);
        if waited {
            self.unheard.insert(host.clone());
        }
        waited
    }

    /// Nobody is waited for any longer.
    pub fn late(&mut self) {
        self.unheard.append(&mut self.waiting);
    }

    /// Where it stands.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if !self.waiting.is_empty() {
            return Outcome::Waiting;
        }
        match &self.held_by {
            Some(host) => Outcome::HeldBy(host.clone()),
            None => Outcome::Ours {
                epoch: self.newest.saturating_add(1),
                unheard: self.unheard.clone(),
            },
        }
    }
}
