//! Entries, sorted by what they are about. Claims count only out of the mouth that may make them:
//! a host speaks of itself, the manager of releases and keys.

use crate::nics::NicsFact;
use crate::stays::{Claim, Placement, stays};
use lictor_evidence::{
    Body, ControlFact, Entry, EvidenceError, GuestFacts, HostChain, KeyRole, MoveOutcome,
    MoveRecord, MoveSigners, Readback, ReleaseFacts, Source, VerifyKey, host_chains,
};
use lictor_types::{Digest, Generation, GuestId, HostId, VnicId};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::stays::Stay;

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

/// A guest that was bound, bound anew or retired after its release was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The release.
    pub release: Digest,
    /// Who.
    pub guest: GuestId,
    /// What it is from then on; `None` if it is retired.
    pub facts: Option<GuestFacts>,
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

/// Leave for a move, as told by one end or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The ticket.
    pub ticket: Digest,
    /// Who.
    pub guest: GuestId,
    /// To where.
    pub to: HostId,
    /// The target's controls, by its own word; `None` until it has spoken.
    pub controls: Option<Vec<ControlFact>>,
    /// The other end's entry about the same ticket, if both have told of it.
    pub also: Option<u64>,
}

/// A recorded move and who has signed it, once, whoever brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedMove {
    /// What it did.
    pub record: MoveRecord,
    /// Which ends' enrolled keys have signed exactly this record, in any copy of it.
    pub signers: MoveSigners,
}

impl RecordedMove {
    /// Whether as many ends have signed as its outcome needs.
    #[must_use]
    pub const fn counts(&self) -> bool {
        self.signers.suffice_for(self.record.outcome)
    }

    /// Whether it counts and the guest ran at the target afterwards.
    #[must_use]
    pub fn took_place(&self) -> bool {
        self.counts() && self.record.outcome != MoveOutcome::Aborted
    }
}

/// A move that was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedMove {
    /// Who.
    pub guest: GuestId,
    /// From where.
    pub from: HostId,
    /// To where.
    pub to: HostId,
    /// Every reason.
    pub reasons: Vec<String>,
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
    /// Guests bound since, in the order of the log.
    pub bound: Vec<At<Bound>>,
    /// The newest release with all that was bound since.
    newest: Option<At<ReleaseFacts>>,
    /// Releases on hosts.
    pub loads: Vec<At<Load>>,
    /// Where guests were, by guest and time.
    pub stays: Vec<Stay>,
    /// Vnics attached and detached.
    pub vnics: Vec<At<VnicFact>>,
    /// NICs that no hook guards.
    pub nics: Vec<At<NicsFact>>,
    /// Moves admitted.
    pub admissions: Vec<At<Admission>>,
    /// Moves that ended.
    pub moves: Vec<At<RecordedMove>>,
    /// Moves that were refused.
    pub refusals: Vec<At<RefusedMove>>,
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
        gather.of_moves();
        let mut facts = gather.facts;
        facts.newest = facts.with_bound();
        facts.stays = stays(gather.placements);
        facts.chains = host_chains(entries)?;
        facts.entries = entries.len() as u64;
        facts.times = entries.iter().map(|entry| entry.time_ms).collect();
        facts.last_ms = facts.times.iter().copied().max().unwrap_or_default();
        Ok(facts)
    }

    /// The newest release, with the guests that were bound since it was published.
    #[must_use]
    pub const fn release(&self) -> Option<&At<ReleaseFacts>> {
        self.newest.as_ref()
    }

    fn with_bound(&self) -> Option<At<ReleaseFacts>> {
        let mut newest = self.releases.last()?.clone();
        let mut guests: BTreeMap<_, _> = std::mem::take(&mut newest.value.guests)
            .into_iter()
            .map(|guest| (guest.guest.clone(), guest))
            .collect();
        for at in self.bound.iter().filter(|at| at.index > newest.index) {
            match &at.value.facts {
                _ if at.value.release != newest.value.digest => {}
                Some(facts) => drop(guests.insert(at.value.guest.clone(), facts.clone())),
                None => drop(guests.remove(&at.value.guest)),
            }
        }
        newest.value.guests = guests.into_values().collect();
        Some(newest)
    }

    /// The entry that says what a guest is now: its last binding, or the newest release.
    #[must_use]
    pub fn said_by(&self, guest: &GuestId) -> Option<u64> {
        let bound = self.bound.iter().filter(|at| at.value.guest == *guest);
        let release = self.newest.as_ref().map(|release| release.index);
        bound.map(|at| at.index).max().max(release)
    }

    /// All that was ever said of what a guest is, with the times, in the order of the log; `None`
    /// where it is not among the guests of a release, or is retired.
    #[must_use]
    pub fn said_of(&self, guest: &GuestId) -> Vec<(u64, Option<&GuestFacts>)> {
        let releases = self.releases.iter().map(|at| {
            let mut guests = at.value.guests.iter();
            let facts = guests.find(|one| one.guest == *guest);
            (at.index, at.time_ms, facts)
        });
        let bound = self.bound.iter().filter(|at| at.value.guest == *guest);
        let bound = bound.map(|at| (at.index, at.time_ms, at.value.facts.as_ref()));
        let mut said: Vec<_> = releases.chain(bound).collect();
        said.sort_by_key(|(index, ..)| *index);
        said.into_iter()
            .map(|(_, time_ms, facts)| (time_ms, facts))
            .collect()
    }

    /// The guests that an assessor counts in, by the newest release. One that was in scope before
    /// stays in the history of the releases, and a change of its label is a change of policy.
    pub fn in_scope(&self) -> impl Iterator<Item = &GuestFacts> {
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
        let bound = self.bound.iter().map(|at| &at.value.guest);
        let published = published.map(|guest| &guest.guest);
        published.chain(bound).chain(placed).collect()
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
        if let Body::GuestBound {
            release,
            guest,
            facts,
            ..
        } = body
        {
            let value = Bound {
                release: *release,
                guest: guest.clone(),
                facts: facts.as_deref().cloned(),
            };
            self.facts.bound.push(At {
                index,
                time_ms,
                value,
            });
        }
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
                let nics = NicsFact::of((index, time_ms), host, body);
                self.facts.nics.extend(nics);
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
                let (guest, host) = (guest.clone(), at.clone());
                self.placements.push(Placement {
                    index,
                    time_ms,
                    guest,
                    host,
                    claim: Claim::Placed(*by, *protected),
                });
            }
            Body::GuestLeft { guest, at } if may_speak_of(at) => {
                let (guest, host) = (guest.clone(), at.clone());
                self.placements.push(Placement {
                    index,
                    time_ms,
                    guest,
                    host,
                    claim: Claim::Left,
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
                ..
            } if may_speak_of(to) || may_speak_of(from) => {
                let controls = may_speak_of(to).then(|| controls.clone());
                let value = Admission {
                    ticket: *ticket,
                    guest: guest.clone(),
                    to: to.clone(),
                    controls,
                    also: None,
                };
                self.of_admission(At {
                    index,
                    time_ms,
                    value,
                });
            }
            Body::MoveRefused {
                guest,
                from,
                to,
                reasons,
            } if may_speak_of(to) || may_speak_of(from) => {
                let (guest, from, to) = (guest.clone(), from.clone(), to.clone());
                let value = RefusedMove {
                    guest,
                    from,
                    to,
                    reasons: reasons.clone(),
                };
                self.facts.refusals.push(At {
                    index,
                    time_ms,
                    value,
                });
            }
            Body::MoveRecorded { record, signed }
                if may_speak_of(&record.to) || may_speak_of(&record.from) =>
            {
                let keys = |host| self.keys.get(host).map_or(&[][..], Vec::as_slice);
                let signers = record.signers(signed, keys(&record.from), keys(&record.to));
                let value = RecordedMove {
                    record: (**record).clone(),
                    signers,
                };
                self.of_record(At {
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

    /// Both ends tell of one admission. Only the target knows its controls, and it is the time that
    /// came first that let the guest leave.
    fn of_admission(&mut self, new: At<Admission>) {
        let same = |known: &&mut At<Admission>| {
            let (known, new) = (&known.value, &new.value);
            (known.ticket, &known.guest, &known.to) == (new.ticket, &new.guest, &new.to)
        };
        let Some(known) = self.facts.admissions.iter_mut().find(same) else {
            self.facts.admissions.push(new);
            return;
        };
        known.time_ms = known.time_ms.min(new.time_ms);
        known.value.also.get_or_insert(new.index);
        if known.value.controls.is_none() {
            known.value.controls = new.value.controls;
        }
    }

    /// Both ends bring the same record: one move, signed by whoever has signed any copy.
    fn of_record(&mut self, new: At<RecordedMove>) {
        let mut moves = self.facts.moves.iter_mut();
        match moves.find(|known| known.value.record == new.value.record) {
            Some(known) => known.value.signers = known.value.signers.and(new.value.signers),
            None => self.facts.moves.push(new),
        }
    }

    /// A record that counts says where the guest was from then on, also if the target's own word
    /// about it never came.
    fn of_moves(&mut self) {
        let moves = self.facts.moves.iter().filter(|at| at.value.took_place());
        self.placements.extend(moves.map(|at| Placement {
            index: at.index,
            time_ms: at.value.record.opened_ms,
            guest: at.value.record.guest.clone(),
            host: at.value.record.to.clone(),
            claim: Claim::Moved,
        }));
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
