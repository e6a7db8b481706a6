//! Entries, sorted by what they are about. Claims count only out of the mouth that may make them:
//! a host speaks of itself, the manager of releases and keys.

use lictor_evidence::{
    Body, ControlFact, Entry, Envelope, EvidenceError, HostChain, KeyRole, MOVE_RECORD_TYPE,
    MoveRecord, PlacedBy, Readback, ReleaseFacts, Source, VerifyKey, host_chains,
};
use lictor_types::{Digest, Generation, GuestId, HostId, VnicId};
use std::collections::{BTreeMap, BTreeSet};

/// A fact with the entry that states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The entry's index.
    pub index: u64,
    /// The entry's time.
    pub time_ms: u64,
    /// The fact.
    pub value: T,
}

/// A release on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Where.
    pub host: HostId,
    /// Its number.
    pub generation: Generation,
    /// Its digest.
    pub release: Digest,
    /// The author's key name, as the agent verified it.
    pub author: String,
    /// The approvers' key names, as the agent verified them.
    pub approvers: Vec<String>,
}

/// A guest at a host for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// Who.
    pub guest: GuestId,
    /// Where.
    pub host: HostId,
    /// Why there.
    pub by: PlacedBy,
    /// Whether an agent enforces there.
    pub protected: bool,
    /// Since when.
    pub since_ms: u64,
    /// Until when; `None` if it still is there.
    pub until_ms: Option<u64>,
    /// The entry that says so.
    pub index: u64,
}

/// A vnic under or out of the programs' control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VnicFact {
    /// Where.
    pub host: HostId,
    /// Whose.
    pub guest: GuestId,
    /// Which.
    pub vnic: VnicId,
    /// The change.
    pub change: VnicChange,
}

/// What happened to a vnic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VnicChange {
    /// The programs were attached.
    Attached {
        /// Whether the device had carried nothing before.
        before_first_packet: bool,
        /// Frames that it had carried before.
        excess_frames: u64,
        /// How long it could carry frames before.
        window_ms: u64,
    },
    /// It is gone.
    Detached,
}

/// Leave for a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The ticket.
    pub ticket: Digest,
    /// Who.
    pub guest: GuestId,
    /// To where.
    pub to: HostId,
    /// The target's controls.
    pub controls: Vec<ControlFact>,
}

/// A recorded move and who has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedMove {
    /// What it did.
    pub record: MoveRecord,
    /// Whether both ends' enrolled keys have signed exactly this record.
    pub signed_by_both: bool,
}

/// Time without a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprotected {
    /// Who.
    pub guest: GuestId,
    /// Why.
    pub cause: String,
    /// Since when.
    pub since_ms: u64,
    /// Until when; `None` while it lasts.
    pub until_ms: Option<u64>,
    /// How far those may be off.
    pub error_ms: u64,
}

/// A difference between what was loaded and what the kernel held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftFact {
    /// Where.
    pub host: HostId,
    /// What differed.
    pub subject: String,
    /// Whether it was put right.
    pub repaired: bool,
}

/// Everything that checks look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// How many entries there are.
    pub entries: u64,
    /// The newest entry's time.
    pub last_ms: u64,
    /// Releases as published; whole ones only.
    pub releases: Vec<At<ReleaseFacts>>,
    /// Releases on hosts.
    pub loads: Vec<At<Load>>,
    /// Where guests were, by guest and time.
    pub stays: Vec<Stay>,
    /// Vnics attached and detached.
    pub vnics: Vec<At<VnicFact>>,
    /// Moves admitted.
    pub admissions: Vec<At<Admission>>,
    /// Moves that ended.
    pub moves: Vec<At<RecordedMove>>,
    /// Time without a verdict.
    pub unprotected: Vec<At<Unprotected>>,
    /// What kernels gave back, with the host.
    pub readbacks: Vec<At<(HostId, Readback)>>,
    /// Differences.
    pub drifts: Vec<At<DriftFact>>,
    /// Hosts' own logs.
    pub chains: Vec<HostChain>,
    /// The time of each host's newest entry.
    pub heard: BTreeMap<HostId, u64>,
    /// Entries of the manager that do not follow each other.
    pub manager_gaps: Vec<u64>,
    /// The manager's newest entry.
    pub manager_last: Option<(u64, u64)>,
    /// The time of each entry, for `collected_at`.
    times: Vec<u64>,
}

/// A claim about a placement, before stays are made of them.
struct Placement {
    index: u64,
    time_ms: u64,
    guest: GuestId,
    host: HostId,
    /// `None` when the guest left.
    arrived: Option<(PlacedBy, bool)>,
}

#[derive(Default)]
struct Gather {
    facts: Facts,
    keys: BTreeMap<HostId, Vec<VerifyKey>>,
    parts: Vec<ReleaseFacts>,
    placements: Vec<Placement>,
    manager_seq: u64,
}

impl Facts {
    /// Sorts entries. The position in the slice is the index in the manager's log.
    ///
    /// # Errors
    /// [`EvidenceError`] if an entry is too long to have been logged.
    pub fn from_entries(entries: &[Entry]) -> Result<Self, EvidenceError> {
        let mut gather = Gather::default();
        for entry in entries {
            gather.key(entry);
        }
        for (index, entry) in (0..).zip(entries) {
            gather.entry(index, entry);
        }
        let mut facts = gather.facts;
        facts.stays = stays(gather.placements);
        facts.chains = host_chains(entries)?;
        facts.entries = entries.len() as u64;
        facts.times = entries.iter().map(|entry| entry.time_ms).collect();
        facts.last_ms = facts.times.iter().copied().max().unwrap_or_default();
        Ok(facts)
    }

    /// The newest release as published.
    #[must_use]
    pub fn release(&self) -> Option<&At<ReleaseFacts>> {
        self.releases.last()
    }

    /// The guests that an assessor counts in, by the newest release. One that was in scope before
    /// stays in the history of the releases, and a change of its label is a change of policy.
    pub fn in_scope(&self) -> impl Iterator<Item = &lictor_evidence::GuestFacts> {
        let guests = self
            .release()
            .into_iter()
            .flat_map(|release| &release.value.guests);
        guests.filter(|guest| guest.in_scope)
    }

    /// Where a guest is now.
    #[must_use]
    pub fn stay_now(&self, guest: &GuestId) -> Option<&Stay> {
        self.stays
            .iter()
            .rev()
            .find(|stay| stay.guest == *guest)
            .filter(|s| s.until_ms.is_none())
    }

    /// The newest release that each host has loaded.
    #[must_use]
    pub fn loaded(&self) -> BTreeMap<&HostId, &At<Load>> {
        let mut loaded: BTreeMap<&HostId, &At<Load>> = BTreeMap::new();
        for load in &self.loads {
            let newest = loaded.entry(&load.value.host).or_insert(load);
            if load.time_ms >= newest.time_ms {
                *newest = load;
            }
        }
        loaded
    }

    /// The newest read-back of a host: one entry, or several of the same time if it has many vnics.
    #[must_use]
    pub fn readback(&self, host: &HostId) -> Vec<&At<(HostId, Readback)>> {
        let of_host = || self.readbacks.iter().filter(|at| at.value.0 == *host);
        let newest = of_host().map(|at| at.time_ms).max();
        of_host().filter(|at| Some(at.time_ms) == newest).collect()
    }

    /// The time of an entry.
    #[must_use]
    pub fn time_of(&self, index: u64) -> Option<u64> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.times.get(index))
            .copied()
    }

    /// All guests ever placed or published.
    #[must_use]
    pub fn guests(&self) -> BTreeSet<&GuestId> {
        let published = self
            .releases
            .iter()
            .flat_map(|release| &release.value.guests);
        let placed = self.stays.iter().map(|stay| &stay.guest);
        published.map(|guest| &guest.guest).chain(placed).collect()
    }
}

impl Gather {
    fn key(&mut self, entry: &Entry) {
        let enrolled = (&entry.host, &entry.body);
        if let (
            Source::Manager,
            Body::KeyEnrolled {
                role: KeyRole::Agent,
                for_host: Some(host),
                key,
            },
        ) = enrolled
        {
            self.keys.entry(host.clone()).or_default().push(key.clone());
        }
    }

    fn entry(&mut self, index: u64, entry: &Entry) {
        let time_ms = entry.time_ms;
        match &entry.host {
            Source::Manager => {
                if entry.seq != self.manager_seq {
                    self.facts.manager_gaps.push(index);
                }
                self.manager_seq = entry.seq + 1;
                self.facts.manager_last = Some((index, time_ms));
                self.of_manager(index, time_ms, &entry.body);
            }
            Source::Host(host) => {
                let heard = self.facts.heard.entry(host.clone()).or_default();
                *heard = time_ms.max(*heard);
                self.of_host((index, time_ms), host, &entry.body);
            }
        }
        self.of_placement((index, time_ms), &entry.host, &entry.body);
        self.of_anyone((index, time_ms), &entry.host, &entry.body);
    }

    fn of_manager(&mut self, index: u64, time_ms: u64, body: &Body) {
        let Body::ReleaseFacts(part) = body else {
            return;
        };
        if part.part == 0 {
            self.parts.clear();
        }
        self.parts.push((**part).clone());
        if part.part + 1 == part.parts
            && let Some(value) = ReleaseFacts::join(&self.parts)
        {
            self.facts.releases.push(At {
                index,
                time_ms,
                value,
            });
        }
    }

    fn of_host(&mut self, (index, time_ms): (u64, u64), host: &HostId, body: &Body) {
        match body {
            Body::ReleaseLoaded {
                generation,
                release,
                author,
                approvers,
                ..
            } => {
                let value = Load {
                    host: host.clone(),
                    generation: *generation,
                    release: *release,
                    author: author.clone(),
                    approvers: approvers.clone(),
                };
                self.facts.loads.push(At {
                    index,
                    time_ms,
                    value,
                });
            }
            Body::Readback(readback) => {
                let value = (host.clone(), readback.clone());
                self.facts.readbacks.push(At {
                    index,
                    time_ms,
                    value,
                });
            }
            Body::Drift {
                subject, repaired, ..
            } => {
                let (host, subject) = (host.clone(), subject.clone());
                let value = DriftFact {
                    host,
                    subject,
                    repaired: *repaired,
                };
                self.facts.drifts.push(At {
                    index,
                    time_ms,
                    value,
                });
            }
            _ => {
                let vnic = vnic_fact(host, body).map(|value| At {
                    index,
                    time_ms,
                    value,
                });
                self.facts.vnics.extend(vnic);
            }
        }
    }

    fn of_placement(&mut self, (index, time_ms): (u64, u64), source: &Source, body: &Body) {
        let may_speak_of = |host: &HostId| source.host().is_none_or(|speaker| speaker == host);
        match body {
            Body::GuestPlaced {
                guest,
                at,
                by,
                protected,
            } if may_speak_of(at) => {
                let (guest, host, arrived) = (guest.clone(), at.clone(), Some((*by, *protected)));
                self.placements.push(Placement {
                    index,
                    time_ms,
                    guest,
                    host,
                    arrived,
                });
            }
            Body::GuestLeft { guest, at } if may_speak_of(at) => {
                let (guest, host) = (guest.clone(), at.clone());
                self.placements.push(Placement {
                    index,
                    time_ms,
                    guest,
                    host,
                    arrived: None,
                });
            }
            _ => {}
        }
    }

    fn of_anyone(&mut self, (index, time_ms): (u64, u64), source: &Source, body: &Body) {
        let may_speak_of = |host: &HostId| source.host().is_none_or(|speaker| speaker == host);
        match body {
            Body::MoveAdmitted {
                ticket,
                guest,
                to,
                from,
                controls,
            } if may_speak_of(to) || may_speak_of(from) => {
                let (guest, to, controls) = (guest.clone(), to.clone(), controls.clone());
                let value = Admission {
                    ticket: *ticket,
                    guest,
                    to,
                    controls,
                };
                self.facts.admissions.push(At {
                    index,
                    time_ms,
                    value,
                });
            }
            Body::MoveRecorded { record, signed } => {
                let signed_by_both = self.signed_by_both(record, signed);
                let value = RecordedMove {
                    record: (**record).clone(),
                    signed_by_both,
                };
                self.facts.moves.push(At {
                    index,
                    time_ms,
                    value,
                });
            }
            _ => {
                if let Some(value) = unprotected(body) {
                    self.of_gap(At {
                        index,
                        time_ms,
                        value,
                    });
                }
            }
        }
    }

    /// The closing entry tells the whole interval, so it replaces the opening one.
    fn of_gap(&mut self, gap: At<Unprotected>) {
        if gap.value.until_ms.is_some() {
            self.facts.unprotected.retain(|open| {
                let (open, closed) = (&open.value, &gap.value);
                open.until_ms.is_some()
                    || open.guest != closed.guest
                    || open.cause != closed.cause
                    || open.since_ms != closed.since_ms
            });
        }
        self.facts.unprotected.push(gap);
    }

    fn signed_by_both(&self, record: &MoveRecord, signed: &Envelope) -> bool {
        [&record.from, &record.to].into_iter().all(|host| {
            let keys = self.keys.get(host).map_or(&[][..], Vec::as_slice);
            signed
                .verify(MOVE_RECORD_TYPE, keys)
                .is_ok_and(|verified| verified.payload == record.canonical_bytes())
        })
    }
}

fn vnic_fact(host: &HostId, body: &Body) -> Option<VnicFact> {
    let (guest, vnic, change) = match body {
        Body::VnicAttached {
            guest,
            vnic,
            before_first_packet,
            excess_frames,
            window_ms,
            ..
        } => {
            let change = VnicChange::Attached {
                before_first_packet: *before_first_packet,
                excess_frames: *excess_frames,
                window_ms: *window_ms,
            };
            (guest, vnic, change)
        }
        Body::VnicDetached { guest, vnic, .. } => (guest, vnic, VnicChange::Detached),
        _ => return None,
    };
    Some(VnicFact {
        host: host.clone(),
        guest: guest.clone(),
        vnic: *vnic,
        change,
    })
}

fn unprotected(body: &Body) -> Option<Unprotected> {
    let (guest, cause, since_ms, until_ms, error_ms) = match body {
        Body::UnprotectedOpened {
            guest,
            cause,
            since_ms,
            error_ms,
            ..
        } => (guest, cause, since_ms, None, error_ms),
        Body::UnprotectedClosed {
            guest,
            cause,
            since_ms,
            until_ms,
            error_ms,
            ..
        } => (guest, cause, since_ms, Some(*until_ms), error_ms),
        _ => return None,
    };
    Some(Unprotected {
        guest: guest.clone(),
        cause: cause.clone(),
        since_ms: *since_ms,
        until_ms,
        error_ms: *error_ms,
    })
}

fn stays(mut placements: Vec<Placement>) -> Vec<Stay> {
    placements.sort_by(|a, b| (&a.guest, a.time_ms, a.index).cmp(&(&b.guest, b.time_ms, b.index)));
    let mut stays: Vec<Stay> = Vec::new();
    for Placement {
        index,
        time_ms,
        guest,
        host,
        arrived,
    } in placements
    {
        let open = stays
            .last_mut()
            .filter(|stay| stay.guest == guest && stay.until_ms.is_none());
        match (open, arrived) {
            // Being told again where it is changes nothing, unless protection changed.
            (Some(stay), Some((PlacedBy::Found, protected)))
                if stay.host == host && stay.protected == protected => {}
            // The old host's farewell may arrive after the new host's welcome.
            (Some(stay), None) if stay.host != host => {}
            (open, arrived) => {
                if let Some(stay) = open {
                    stay.until_ms = Some(time_ms);
                }
                if let Some((by, protected)) = arrived {
                    let (since_ms, until_ms) = (time_ms, None);
                    stays.push(Stay {
                        guest,
                        host,
                        by,
                        protected,
                        since_ms,
                        until_ms,
                        index,
                    });
                }
            }
        }
    }
    stays
}
