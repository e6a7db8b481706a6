//! Controls on the move.

use super::per_guest;
use crate::catalogue::Context;
use crate::facts::{Admission, At, RecordedMove, Stay, VnicChange};
use crate::finding::CLOCK_TOLERANCE_MS;
use crate::{Finding, Status};
use lictor_evidence::{GuestFacts, MoveOutcome, MoveRecord, PlacedBy};
use lictor_types::{Digest, HostId};

/// The guest's arrivals that somebody must have admitted: every one but its first start, and a
/// start at the same host it was at.
fn arrivals<'a>(context: Context<'a>, guest: &GuestFacts) -> Vec<(Option<&'a Stay>, &'a Stay)> {
    let stays: Vec<_> = context
        .facts
        .stays
        .iter()
        .filter(|s| s.guest == guest.guest)
        .collect();
    let mut found = Vec::new();
    let mut before: Option<&Stay> = None;
    for stay in stays {
        let elsewhere = before.is_some_and(|before| before.host != stay.host);
        let moved = !matches!(stay.by, PlacedBy::Start | PlacedBy::Found);
        if (elsewhere || moved) && context.counts(stay.since_ms) {
            found.push((before, stay));
        }
        before = Some(stay);
    }
    found
}

fn records<'a>(context: Context<'a>, guest: &GuestFacts) -> Vec<&'a At<RecordedMove>> {
    let ours =
        |at: &&At<RecordedMove>| at.value.record.guest == guest.guest && context.counts(at.time_ms);
    context.facts.moves.iter().filter(ours).collect()
}

/// When we last heard of the guest: the newest entry of the host it is at, or what the manager last
/// said if it is nowhere.
fn heard(context: Context<'_>, guest: &GuestFacts) -> Option<u64> {
    match context.facts.stay_now(&guest.guest) {
        Some(stay) => context
            .facts
            .heard
            .get(&stay.host)
            .copied()
            .max(Some(stay.since_ms)),
        None => super::confirmed(context),
    }
}

/// MOV-01.
pub(crate) fn admitted(context: Context<'_>) -> Vec<Finding> {
    per_guest(context, |context, guest| {
        let (arrivals, records) = (arrivals(context, guest), records(context, guest));
        if arrivals.is_empty() && records.is_empty() {
            return unmoved(context, guest);
        }
        let mut leave = Leave {
            context,
            guest,
            used: Vec::new(),
            faults: Vec::new(),
            unknown: Vec::new(),
        };
        arrivals
            .iter()
            .for_each(|(before, stay)| leave.for_arrival(*before, stay));
        records.iter().for_each(|at| leave.for_record(at));
        leave.check_controls();
        let told: Vec<_> = leave
            .used()
            .flat_map(|at| [Some(at.index), at.value.also])
            .collect();
        let Leave {
            used,
            faults,
            unknown,
            ..
        } = leave;
        let count = arrivals.len().max(records.len());
        let reason = "every move was admitted with every required control";
        judged(guest.guest.as_str(), (&faults, &unknown), reason)
            .saw(format!("{count} moves, {} admissions", used.len()))
            .wants(format!(
                "an admission for each move, with {}",
                guest.controls.join(", ")
            ))
            .from(arrivals.iter().map(|(_, stay)| stay.index))
            .from(records.iter().map(|at| at.index))
            .from(told.into_iter().flatten())
            .at(heard(context, guest))
    })
}

/// Faults first; without any, what is not known; without either, a pass.
fn judged(subject: &str, (faults, unknown): (&[String], &[String]), good: &str) -> Finding {
    match unknown.first() {
        Some(first) if faults.is_empty() => Finding::new(subject, Status::Unknown, first.clone()),
        _ => Finding::judged(subject, faults, good),
    }
}

/// What is wrong with the signatures of a record.
fn unsigned(moved: &RecordedMove) -> Option<String> {
    let to = &moved.record.to;
    let words = match moved.record.outcome {
        _ if moved.counts() => return None,
        MoveOutcome::Committed => format!("of the move to {to} is not signed by both ends"),
        MoveOutcome::Aborted => format!("that the move to {to} was called off is not its source's"),
        MoveOutcome::StateLost => format!("of the move to {to} is not signed by the target"),
    };
    Some(format!("the record {words}, but by {}", moved.signers))
}

/// Which admissions were used, and what was done without one.
struct Leave<'a> {
    context: Context<'a>,
    guest: &'a GuestFacts,
    used: Vec<u64>,
    faults: Vec<String>,
    unknown: Vec<String>,
}

impl Leave<'_> {
    fn used(&self) -> impl Iterator<Item = &At<Admission>> {
        self.admissions().filter(|at| self.used.contains(&at.index))
    }

    fn admissions(&self) -> impl Iterator<Item = &At<Admission>> {
        self.context
            .facts
            .admissions
            .iter()
            .filter(|at| at.value.guest == self.guest.guest)
    }

    /// A ticket is for one move: that of a move that was called off admits no later arrival.
    fn spent(&self, ticket: Digest) -> bool {
        self.context.facts.moves.iter().any(|at| {
            let record = &at.value.record;
            record.ticket == ticket && record.outcome == MoveOutcome::Aborted && at.value.counts()
        })
    }

    fn for_arrival(&mut self, before: Option<&Stay>, stay: &Stay) {
        let earliest_ms = before.map_or(0, |before| before.since_ms);
        let found = self.admissions().find(|at| {
            at.value.to == stay.host
                && at.time_ms + CLOCK_TOLERANCE_MS >= earliest_ms
                && at.time_ms <= stay.since_ms + CLOCK_TOLERANCE_MS
                && !self.used.contains(&at.index)
                && !self.spent(at.value.ticket)
        });
        match found.map(|at| at.index) {
            Some(index) => self.used.push(index),
            None => self
                .faults
                .push(format!("arrived at {} without an admission", stay.host)),
        }
    }

    fn for_record(&mut self, at: &At<RecordedMove>) {
        let record = &at.value.record;
        if let Some(why) = unsigned(&at.value) {
            self.unknown.push(why);
            return;
        }
        let found = self
            .admissions()
            .find(|admission| {
                admission.value.ticket == record.ticket && admission.value.to == record.to
            })
            .map(|admission| admission.index);
        match found {
            Some(index) if self.used.contains(&index) => {}
            Some(index) => self.used.push(index),
            None => {
                self.faults.push(format!(
                    "moved to {} on a ticket nobody admitted",
                    record.to
                ));
            }
        }
    }

    fn check_controls(&mut self) {
        let (mut faults, mut unknown) = (Vec::new(), Vec::new());
        for at in self.used() {
            let host = &at.value.to;
            let Some(controls) = &at.value.controls else {
                unknown.push(format!(
                    "no entry of {host} says which controls it had when it admitted the guest"
                ));
                continue;
            };
            let healthy = |name: &&String| {
                controls
                    .iter()
                    .any(|one| one.control == **name && one.healthy)
            };
            let missing = self.guest.controls.iter().filter(|name| !healthy(name));
            faults
                .extend(missing.map(|name| format!("admitted to {host} without a healthy {name}")));
        }
        self.faults.extend(faults);
        self.unknown.extend(unknown);
    }
}

fn unmoved(context: Context<'_>, guest: &GuestFacts) -> Finding {
    let subject = guest.guest.as_str();
    let Some(stay) = context
        .facts
        .stays
        .iter()
        .find(|stay| stay.guest == guest.guest)
    else {
        let reason = "no entry says where it is";
        return Finding::new(subject, Status::Unknown, reason).wants("a placement of the guest");
    };
    Finding::new(
        subject,
        Status::NotApplicable,
        "it did not move in the window",
    )
    .from([stay.index])
    .at(heard(context, guest))
}

/// What is known of time without a verdict.
#[derive(Default)]
struct Exposure {
    faults: Vec<String>,
    unknown: Vec<String>,
    evidence: Vec<u64>,
    error_ms: u64,
}

/// MOV-02.
pub(crate) fn no_gap(context: Context<'_>) -> Vec<Finding> {
    per_guest(context, |context, guest| {
        let mut exposure = Exposure::default();
        exposure.before_attach(context, guest);
        exposure.on_moves(context, guest);
        exposure.reported(context, guest);
        exposure.unknown.extend(unattached(context, guest));
        let Exposure {
            faults,
            unknown,
            evidence,
            error_ms,
        } = exposure;
        let subject = guest.guest.as_str();
        let finding = judged(subject, (&faults, &unknown), "no packet without a verdict");
        let observed = if !unknown.is_empty() && faults.is_empty() {
            format!("{} entries about it", evidence.len())
        } else if faults.is_empty() {
            format!(
                "0 ms, give or take {error_ms} ms, in {} entries",
                evidence.len()
            )
        } else {
            faults.join("; ")
        };
        finding
            .saw(observed)
            .wants("0 ms and 0 packets without a verdict")
            .from(evidence)
            .at(heard(context, guest))
    })
}

impl Exposure {
    fn before_attach(&mut self, context: Context<'_>, guest: &GuestFacts) {
        for at in context
            .facts
            .vnics
            .iter()
            .filter(|at| at.value.guest == guest.guest)
        {
            let VnicChange::Attached {
                before_first_packet,
                excess_frames,
                window_ms,
            } = at.value.change
            else {
                continue;
            };
            self.evidence.push(at.index);
            if context.counts(at.time_ms) && (!before_first_packet || excess_frames > 0) {
                let (vnic, host) = (at.value.vnic, &at.value.host);
                self.faults.push(format!(
                    "vnic {vnic} at {host} carried {excess_frames} frames in {window_ms} ms \
                     before it was attached"
                ));
            }
        }
    }

    fn on_moves(&mut self, context: Context<'_>, guest: &GuestFacts) {
        for at in records(context, guest) {
            self.evidence.push(at.index);
            let record = &at.value.record;
            let (to, lost_ms) = (&record.to, record.unprotected_ms);
            self.unknown.extend(unsigned(&at.value));
            self.error_ms = record.error_ms.max(self.error_ms);
            match record.unprotected_packets {
                _ if lost_ms > 0 => {
                    self.faults
                        .push(format!("unprotected for {lost_ms} ms on the move to {to}"));
                }
                Some(0) => {}
                Some(packets) => {
                    let text = format!("{packets} packets without a verdict on the move to {to}");
                    self.faults.push(text);
                }
                None => self
                    .unknown
                    .push(format!("nobody counted on the move to {to}")),
            }
        }
    }

    fn reported(&mut self, context: Context<'_>, guest: &GuestFacts) {
        let counts = |until_ms: Option<u64>| context.counts(until_ms.unwrap_or(context.now_ms));
        let gaps = context.facts.unprotected.iter();
        for at in gaps.filter(|at| at.value.guest == guest.guest && counts(at.value.until_ms)) {
            self.evidence.push(at.index);
            let gap = &at.value;
            let until_ms = gap.until_ms.unwrap_or(context.now_ms);
            let length_ms = until_ms.saturating_sub(gap.since_ms);
            let (cause, error_ms) = (&gap.cause, gap.error_ms);
            let open = if gap.until_ms.is_none() {
                ", still open"
            } else {
                ""
            };
            self.faults.push(format!(
                "unprotected for {length_ms} ms (give or take {error_ms}) by {cause}{open}"
            ));
        }
        let stays = context.facts.stays.iter();
        for stay in stays.filter(|stay| stay.guest == guest.guest && counts(stay.until_ms)) {
            if !stay.protected {
                self.evidence.push(stay.index);
                self.faults
                    .push(format!("was at {}, where no agent enforces", stay.host));
            }
        }
    }
}

/// A vnic of which no entry says how it was attached, at a host where the guest was protected.
fn unattached(context: Context<'_>, guest: &GuestFacts) -> Option<String> {
    if guest.vnics.is_empty() {
        return Some("the release names no vnic of it".into());
    }
    let facts = context.facts;
    if !facts.stays.iter().any(|stay| stay.guest == guest.guest) {
        return Some("no entry says where it is".into());
    }
    let seen = |host: &HostId, vnic| {
        facts.vnics.iter().any(|at| {
            at.value.guest == guest.guest
                && at.value.host == *host
                && at.value.vnic == vnic
                && matches!(at.value.change, VnicChange::Attached { .. })
        })
    };
    let ours = |stay: &&Stay| {
        stay.guest == guest.guest
            && stay.protected
            && context.counts(stay.until_ms.unwrap_or(context.now_ms))
    };
    let stays = facts.stays.iter().filter(ours);
    let mut missing = stays.flat_map(|stay| {
        let vnics = guest.vnics.iter().map(move |vnic| (&stay.host, *vnic));
        vnics.filter(|(host, vnic)| !seen(host, *vnic))
    });
    let (host, vnic) = missing.next()?;
    Some(format!(
        "no entry of {host} says how vnic {vnic} was attached"
    ))
}

/// MOV-03.
pub(crate) fn same_rules(context: Context<'_>) -> Vec<Finding> {
    per_guest(context, |context, guest| {
        let subject = guest.guest.as_str();
        let records = records(context, guest);
        let arrivals = arrivals(context, guest);
        if records.is_empty() && arrivals.is_empty() {
            return unmoved(context, guest);
        }
        let mut faults: Vec<_> = records
            .iter()
            .filter_map(|at| unsigned(&at.value))
            .collect();
        faults.extend(contradiction(&records));
        let ended: Vec<_> = records
            .iter()
            .filter(|at| at.value.took_place())
            .map(|at| &at.value.record)
            .collect();
        let mut excepted = Vec::new();
        for record in &ended {
            let fault = other_rules(record);
            match by_order(record, fault.as_deref()) {
                Some(text) => excepted.push(text),
                None => faults.extend(fault),
            }
        }
        let called_off = records.iter().filter(|at| !at.value.took_place()).count();
        let finding = match unrecorded(&arrivals, &ended) {
            Some(stay) if faults.is_empty() => {
                let reason = format!("no record of the move to {}", stay.host);
                Finding::new(subject, Status::Unknown, reason).from([stay.index])
            }
            None if faults.is_empty() && ended.is_empty() => {
                let reason = "no move took place in the window";
                Finding::new(subject, Status::NotApplicable, reason)
            }
            None if faults.is_empty() && !excepted.is_empty() => {
                Finding::new(subject, Status::Excepted, excepted.join("; "))
            }
            _ => Finding::judged(
                subject,
                &faults,
                "the same tables on both sides of each move",
            ),
        };
        finding
            .saw(format!(
                "{} recorded moves, {called_off} records beside them",
                ended.len()
            ))
            .wants("equal generation and digest, signed by both agents")
            .from(records.iter().map(|at| at.index))
            .at(heard(context, guest))
            .of(ended.last().map(|record| record.target.generation))
    })
}

/// One ticket is good for one end of the story.
fn contradiction(records: &[&At<RecordedMove>]) -> Option<String> {
    let counting: Vec<_> = records.iter().filter(|at| at.value.counts()).collect();
    let twice = counting.iter().enumerate().find(|(n, at)| {
        let ticket = at.value.record.ticket;
        counting[..*n]
            .iter()
            .any(|other| other.value.record.ticket == ticket)
    });
    twice.map(|(_, at)| {
        let to = &at.value.record.to;
        format!("two records of one move to {to} contradict each other")
    })
}

/// The cause of an order that lets a move go between two releases, as the policy language has it.
const RELEASE_STALE: &str = "release-stale";

/// What two persons took upon themselves for this move. An order excuses other rules at the target
/// only if that is a cause that it names.
fn by_order(record: &MoveRecord, fault: Option<&str>) -> Option<String> {
    let order = record.overridden.as_ref()?;
    let excuses = order.causes.iter().any(|cause| cause == RELEASE_STALE);
    match fault {
        Some(_) if !excuses => None,
        Some(fault) => Some(format!("{fault}; {order}")),
        None => Some(format!("moved to {} by an order: {order}", record.to)),
    }
}

fn other_rules(record: &MoveRecord) -> Option<String> {
    let (source, target, to) = (&record.source, &record.target, &record.to);
    if source.generation != target.generation {
        let (from, into) = (source.generation, target.generation);
        return Some(format!("moved to {to} from generation {from} into {into}"));
    }
    (source.tables != target.tables)
        .then(|| format!("other tables at {to} for the same generation"))
}

/// The first arrival that is left when each has taken a record of its own.
fn unrecorded<'a>(
    arrivals: &[(Option<&Stay>, &'a Stay)],
    ended: &[&MoveRecord],
) -> Option<&'a Stay> {
    let mut left: Vec<_> = ended.iter().map(|record| &record.to).collect();
    arrivals.iter().find_map(
        |(_, stay)| match left.iter().position(|to| **to == stay.host) {
            Some(place) => {
                left.swap_remove(place);
                None
            }
            None => Some(*stay),
        },
    )
}
