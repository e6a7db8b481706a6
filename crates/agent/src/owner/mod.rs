//! The owner of a host: one thread, one queue. It joins the host's core, the guests' QEMUs, the
//! other agents and the two state machines of a move; it never waits for any of them.

mod admit;
mod arrived;
mod arriving;
mod check;
mod container;
mod copy;
mod cut;
mod doubts;
mod evacuated;
mod impaired;
mod judged;
mod leaving;
mod nics;
mod overriding;
mod record;
mod reopened;
mod starts;
mod stuck;
mod unclaimed;
mod wanted;
mod way;

use crate::allowance::Allowance;
use crate::clock::Clock;
use crate::guests::{AGAIN_LIMIT, Order, Post, Watch};
use crate::impaired::{Impairments, Kept};
use crate::input::{Answer, Fetched, Input, Now, Reply, Upload, Wants};
use crate::libvirt::QemuGroup;
use crate::peer::{Incoming, Links, Loss, Roster};
use crate::{AgentError, Host, Offered, Unproven};
use arriving::Arriving;
use leaving::Leaving;
use lictor_estate::qmp::RunState;
use lictor_evidence::{Body, EvidenceError};
use lictor_policy::{Cause, Choice};
use lictor_types::{Digest, GuestId, HostId};
use lictor_wire::local::{MovePhase, Request, Response, interlock_socket};
use lictor_wire::peer::{Control, Frame, Step};
use starts::{Departure, Start};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// How often the kernel is read back when nobody waits for it.
const SECOND_US: u64 = 1_000_000;
/// Host facts are repeated so often that an auditor's freshness limit is met many times over.
const FACTS_EVERY_US: u64 = 60 * SECOND_US;
/// For how long a guest that stands still keeps the disk and long work away.
const PAUSE_MAX_US: u64 = 5 * SECOND_US;
/// How often what the other end of a move has not confirmed is said again.
const REPEAT_EVERY_US: u64 = SECOND_US;
/// How long after a monitor has failed it is tried again.
const WATCH_AGAIN_US: u64 = 10 * SECOND_US;
/// Entries of evidence that wait in memory, for a pause to end or for a disk that has room again.
/// Beyond that they are counted, and the count is recorded.
const LATER_MAX: usize = 65_536;

/// The owner.
#[derive(Debug)]
pub(crate) struct Owner {
    host: Host,
    links: Links,
    roster: Roster,
    qemu: QemuGroup,
    inputs: SyncSender<Input>,
    watches: BTreeMap<GuestId, Watch>,
    /// Guests whose QEMU could not be asked, and when to try again.
    blind: BTreeMap<GuestId, u64>,
    claims: BTreeMap<GuestId, Start>,
    /// Guests that could not be opened though they run here.
    unsettled: BTreeSet<GuestId>,
    /// Guests whose links were taken down because they migrate without their interlock.
    cut: BTreeSet<GuestId>,
    leaving: BTreeMap<GuestId, Leaving>,
    arriving: BTreeMap<GuestId, Arriving>,
    /// Guests that come, and whose move nobody has asked for.
    asking: BTreeMap<GuestId, wanted::Asking>,
    parked: BTreeMap<GuestId, wanted::Parked>,
    /// Until when guests that have left a host without a move may be claimed.
    unclaimed: BTreeMap<GuestId, u64>,
    /// Evidence that waits until no guest stands still.
    later: VecDeque<(Body, u64)>,
    left_out: u64,
    /// When something was noted last.
    noted_ms: u64,
    allowance: Allowance,
    checks: BTreeMap<Digest, check::Check>,
    watched: u64,
    next_round: Now,
    next_repeat: Now,
    next_look: Now,
    next_beat: Now,
    facts: Option<Now>,
    impairments: Impairments,
    /// As the last heartbeat found.
    unproven: Vec<Unproven>,
    clock: Clock,
    heard_manager: Now,
    /// Why no release and no binding is taken.
    refused_change: Option<Cause>,
}

/// What an owner is made of.
pub(crate) struct Parts {
    pub(crate) host: Host,
    pub(crate) links: Links,
    pub(crate) roster: Roster,
    pub(crate) qemu: QemuGroup,
    pub(crate) inputs: SyncSender<Input>,
}

impl Owner {
    /// Takes up what an earlier life of the agent has left.
    pub(crate) fn new(parts: Parts, impaired: Vec<Kept>, now: Now) -> Self {
        let clock = Clock::new(now, parts.host.recorded_ms());
        let impairments = Impairments::resumed(impaired, now.ms);
        let mut owner = Self {
            host: parts.host,
            links: parts.links,
            roster: parts.roster,
            qemu: parts.qemu,
            inputs: parts.inputs,
            watches: BTreeMap::new(),
            blind: BTreeMap::new(),
            claims: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            cut: BTreeSet::new(),
            leaving: BTreeMap::new(),
            arriving: BTreeMap::new(),
            asking: BTreeMap::new(),
            parked: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            later: VecDeque::new(),
            left_out: 0,
            noted_ms: 0,
            allowance: Allowance::default(),
            checks: BTreeMap::new(),
            watched: 0,
            next_round: now,
            next_repeat: now,
            next_look: now,
            next_beat: now,
            facts: None,
            impairments,
            unproven: Vec::new(),
            clock,
            heard_manager: now,
            refused_change: None,
        };
        owner.roster.set(owner.host.roster());
        owner.resume(now);
        owner
    }

    /// Handles one input; what fails is logged, because the others must go on.
    pub(crate) fn handle(&mut self, input: Input, now: Now) {
        let result = match input {
            Input::Call(request, reply) => self.call(&request, reply, now),
            Input::Peer(Incoming::Frame(from, frame)) => self.frame(&from, *frame, now),
            Input::Peer(Incoming::Lost(from, loss)) => self.lost(&from, loss, now),
            Input::News {
                guest,
                number,
                news,
            } => self.news(&guest, number, news, now),
            Input::Save { guest, reply } => self.save(&guest, Answer::Qemu(reply), now),
            Input::Load {
                guest,
                state,
                reply,
            } => self.load(&guest, &state, Answer::Qemu(reply), now),
            Input::Round {
                fetched,
                wants,
                reply,
            } => self.round_with_manager(fetched, wants, &reply, now),
        };
        warn("an input", result);
        self.tick(now);
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Now) {
        warn("deadlines", self.deadlines(now));
        if self.in_pause(now) {
            self.rounds_due(now, |one| one.machine.is_saving());
            return;
        }
        self.rounds_due(now, |_| true);
        if self.waits_for_pause(now) {
            return;
        }
        warn("evidence", self.flush());
        if self.next_round.us <= now.us {
            let round_ms = self.host.config().round_ms;
            self.next_round.us = now.us + round_ms * 1_000;
            warn("round", self.round(now));
        }
    }

    /// How long nothing will be due.
    pub(crate) fn idle(&self, now: Now) -> Duration {
        let rounds = self.next_round.us.min(self.next_repeat.us);
        let claims = self.claims.values().map(|claim| claim.deadline_us);
        let loads = self.arriving.values().filter_map(Arriving::deadline_us);
        let asked = self.leaving.values().filter_map(Leaving::deadline_us);
        let wanted = self.asking.values().map(|one| one.deadline_us);
        let parked = self.parked.values().map(|one| one.deadline_us);
        let wanted = wanted.chain(parked);
        let next = claims
            .chain(loads)
            .chain(asked)
            .chain(wanted)
            .min()
            .unwrap_or(rounds);
        // A guest that stands still puts rounds off; they are due again a moment later.
        Duration::from_micros(next.min(rounds).saturating_sub(now.us).max(1_000))
    }

    /// Whether a guest stands still for a move: then nothing may be in its way. But a guest that is
    /// stopped again and again must not keep the host from being looked after.
    fn in_pause(&self, now: Now) -> bool {
        if now.us.saturating_sub(self.next_round.us) >= PAUSE_MAX_US {
            return false;
        }
        let recent = |since: Option<Now>| since.is_some_and(|at| now.since_us(at) < PAUSE_MAX_US);
        let leaving = self.leaving.values().any(|one| recent(one.pause_since()));
        leaving || self.arriving.values().any(|one| recent(one.pause_since()))
    }

    /// Whether sessions are copied, or a guest may be stopped at any moment. What takes long is
    /// done seldom then, because the copy would wait for it, or the guest stand still.
    fn waits_for_pause(&self, now: Now) -> bool {
        let overdue = now.us.saturating_sub(self.next_round.us) >= PAUSE_MAX_US;
        let phases = [MovePhase::Copying, MovePhase::Copied];
        let leaves = |one: &Leaving| phases.contains(&one.machine.phase());
        let awaited =
            self.leaving.values().any(leaves) || self.arriving.values().any(Arriving::is_awaited);
        awaited && !overdue
    }

    fn deadlines(&mut self, now: Now) -> Result<(), AgentError> {
        self.checks_due(now);
        self.asking_due(now);
        self.parked_due(now);
        warn("claims", self.claims_due(now));
        warn("moves away", self.leaving_due(now));
        warn("moves here", self.arriving_due(now));
        if self.next_repeat.us <= now.us {
            self.next_repeat.us = now.us + REPEAT_EVERY_US;
            self.repeat_leaving();
            self.repeat_stuck(now);
            self.repeat_doubts();
            self.repeat_evacuations();
            self.repeat_unclaimed(now);
            self.repeat_arriving()?;
        }
        Ok(())
    }

    /// What cannot be written stays, and is tried again; what can never be written is counted.
    fn flush(&mut self) -> Result<(), AgentError> {
        while let Some((body, ms)) = self.later.front() {
            match self.host.record(body.clone(), *ms) {
                Err(AgentError::Evidence(EvidenceError::Entry(what))) => {
                    tracing::warn!(what, "an entry of evidence cannot be written");
                    self.left_out += 1;
                }
                written => written?,
            }
            self.later.pop_front();
        }
        if self.left_out > 0 {
            let subject = format!("host {}", self.host.config().host);
            let text = format!("{} entries of evidence are missing here", self.left_out);
            self.host
                .record(Body::Alarm { subject, text }, self.noted_ms)?;
            self.left_out = 0;
        }
        Ok(())
    }

    fn note(&mut self, body: Body, now: Now) {
        self.noted_ms = now.ms;
        if self.later.len() < LATER_MAX {
            self.later.push_back((body, now.ms));
        } else {
            self.left_out += 1;
        }
    }

    fn note_all(&mut self, bodies: Vec<Body>, now: Now) {
        bodies.into_iter().for_each(|body| self.note(body, now));
    }

    fn alarm(&mut self, guest: &GuestId, text: impl Into<String>, now: Now) {
        let (subject, text) = (format!("guest {guest}"), text.into());
        self.note(Body::Alarm { subject, text }, now);
    }

    /// Repairs what differs from what was approved, and lets go of guests whose devices are gone.
    fn reconcile(&mut self, now: Now) -> Result<(), AgentError> {
        for guest in self.host.reconcile(now.ms)? {
            let gone = self.gone(&guest, Departure::DeviceGone, now);
            warn("letting go of a guest", gone);
        }
        Ok(())
    }

    /// What an event should have brought about and did not, because something failed then.
    fn catch_up(&mut self, now: Now) {
        warn("custody", self.host.save_custody());
        let blind = self
            .blind
            .iter()
            .filter(|(_, again_us)| **again_us <= now.us);
        let blind: Vec<GuestId> = blind.map(|(guest, _)| guest.clone()).collect();
        for guest in blind {
            self.blind.insert(guest.clone(), u64::MAX);
            let qmp = self.host.custody().qmp(&guest).map(Path::to_path_buf);
            let watched = self.watches.contains_key(&guest);
            if let Some(qmp) = qmp.filter(|_| !watched) {
                let watched = self.watch(&guest, (&qmp, AGAIN_LIMIT), now);
                warn("watching a guest again", watched);
            }
        }
        self.ask_for_nics(now);
        for guest in std::mem::take(&mut self.unsettled) {
            warn("opening what should be open", self.settle(&guest, now));
        }
    }

    /// Each part stands alone: what fails in one is no reason to leave out the others.
    fn round(&mut self, now: Now) -> Result<(), AgentError> {
        warn(
            "what passed without an agent",
            self.host.record_passed(now.ms),
        );
        warn("reconcile", self.reconcile(now));
        warn("protection", self.protect(now));
        self.catch_up(now);
        match self.host.attach_strays(now.ms) {
            Ok(strays) => {
                let text = "its device was here before anybody asked for it: it is in hold until \
                            its attachment is asked for";
                strays.iter().for_each(|guest| self.alarm(guest, text, now));
            }
            Err(error) => warn("looking for strays", Err(error)),
        }
        warn("collect", self.host.collect(now.ms));
        let due = |at: Now| now.since_us(at) >= FACTS_EVERY_US;
        if self.facts.is_none_or(due) {
            self.facts = Some(now);
            self.host.record_facts(now.ms)?;
        }
        Ok(())
    }

    fn round_with_manager(
        &mut self,
        fetched: Option<Box<Fetched>>,
        wants: Wants,
        reply: &Reply<Option<Box<Upload>>>,
        now: Now,
    ) -> Result<(), AgentError> {
        if self.in_pause(now) {
            let _ = reply.send(None);
            return Ok(());
        }
        let mut attestations = Vec::new();
        if let Some(fetched) = fetched {
            self.heard_manager(now);
            if let Some(freshness) = &fetched.freshness {
                warn("freshness", self.host.witness(freshness));
            }
            if self.may_change(now)? {
                warn("offer", self.offer(&fetched, now));
            }
            attestations = self.host.missing_attestations(&fetched.bindings);
        }
        self.flush()?;
        let evidence = match wants.next_entry {
            Some(next_entry) => self.host.evidence_from(next_entry)?,
            None => None,
        };
        let report = self.report(now)?;
        let sessions = wants.sessions.then(|| self.host.all_sessions());
        let upload = Upload {
            attestations,
            report,
            evidence,
            sessions: sessions.transpose()?,
        };
        // The thread that talks with the manager may have ended.
        let _ = reply.send(Some(Box::new(upload)));
        Ok(())
    }

    /// A move is for one release: what has not been fenced is given up when another one is loaded.
    fn offer(&mut self, fetched: &Fetched, now: Now) -> Result<(), AgentError> {
        let before = self
            .host
            .release()
            .map(lictor_wire::VerifiedRelease::digest);
        let mut log = fetched.bindings.clone();
        log.attestations
            .extend(self.host.missing_attestations(&fetched.bindings));
        if self.host.offer(&fetched.release, &log, now.ms)? != Offered::Loaded {
            return Ok(());
        }
        self.roster.set(self.host.roster());
        self.facts = None;
        let after = self
            .host
            .release()
            .map(lictor_wire::VerifiedRelease::digest);
        if before != after {
            self.abandon_all("another release was loaded", now)?;
        }
        let waiting: Vec<GuestId> = self.claims.keys().cloned().collect();
        for guest in waiting {
            self.settle(&guest, now)?;
        }
        Ok(())
    }

    fn report(&self, now: Now) -> Result<lictor_wire::api::HostReport, AgentError> {
        let mut report = self.host.report(now.ms)?;
        for guest in &mut report.guests {
            let Some(watch) = self.watches.get(&guest.guest) else {
                continue;
            };
            guest.interlocked = watch.guarded;
            guest.unguarded.clone_from(&watch.unguarded);
            guest.running = watch.state.map(|state| state == RunState::Running);
        }
        Ok(report)
    }

    fn call(
        &mut self,
        request: &Request,
        reply: Reply<Response>,
        now: Now,
    ) -> Result<(), AgentError> {
        let answer = match request {
            Request::Attach(attach) => return self.attach(attach, reply, now),
            Request::MoveAdmit {
                guest,
                target,
                asked_by,
            } => {
                let wanted = admit::Wanted {
                    guest: guest.clone(),
                    target: target.clone(),
                    asked_by: asked_by.clone(),
                };
                return self.admit(wanted, reply, now);
            }
            Request::MoveCheck { guest, target } => {
                let wanted = admit::Wanted {
                    guest: guest.clone(),
                    target: target.clone(),
                    asked_by: "a check".into(),
                };
                return self.move_check(&wanted, reply, now);
            }
            Request::Detach { name } => self.detach(name, now),
            Request::HostMode { mode, trial_s } => self
                .host
                .set_host_mode(*mode, *trial_s, now.ms)
                .map(|mode| Response::HostMode { mode }),
            Request::Status => self.report(now).map(|one| Response::Status(Box::new(one))),
            Request::Explain {
                vnic,
                packet,
                direction,
            } => self
                .host
                .explain(vnic, packet, *direction)
                .map(|one| Response::Explained(Box::new(one))),
            Request::MoveWanted { guest } => {
                self.move_wanted(guest, reply, now);
                return Ok(());
            }
            Request::MoveExpected { guest } => Ok(self.move_expected(guest)),
            Request::RuleCounters { first } => {
                let counters = self.host.rule_counters(*first);
                counters.map(Response::RuleCounters)
            }
            Request::Sessions { vnic, after } => self
                .host
                .sessions(vnic, after.as_ref())
                .map(|page| Response::Sessions(Box::new(page))),
            Request::MoveStatus { guest } => self.move_status(guest),
            Request::Evacuate { order } => self.evacuate(order, now),
            Request::Override { order } => self.present_override(order, now),
            Request::MoveAbandon { guest } => self.move_abandon(guest, now),
            Request::Container { guest, step } => {
                return self.container_steps(guest, step, reply, now);
            }
        };
        let answer = answer.unwrap_or_else(|error| Response::Error {
            error: error.chain(),
        });
        // A caller that has gone away needs no answer.
        let _ = reply.send(answer);
        Ok(())
    }

    fn frame(&mut self, from: &HostId, frame: Frame, now: Now) -> Result<(), AgentError> {
        match frame {
            Frame::Sessions {
                ticket,
                vnic,
                chunk,
            } => self.sessions(from, (ticket, vnic), &chunk, now),
            Frame::Control(Control::Custody { guest }) => self.custody_asked(from, guest, now),
            Frame::Control(Control::CustodyHeld {
                guest,
                held,
                epoch,
                cut,
            }) => {
                self.was_cut(&guest, cut);
                self.custody_told(from, &guest, (held, epoch), now)
            }
            Frame::Control(Control::Admit {
                format,
                bindings,
                ticket,
            }) => self.asked(from, (format, bindings), ticket, now),
            Frame::Control(Control::Admitted { ticket, controls }) => {
                self.admitted(from, &ticket, controls, now)
            }
            Frame::Control(Control::NotAdmitted { ticket, reasons }) => {
                self.not_admitted(from, ticket, reasons, now)
            }
            Frame::Control(Control::Check {
                format,
                bindings,
                ticket,
            }) => self.asked_to_check(from, (format, bindings), &ticket, now),
            Frame::Control(Control::Checked {
                ticket,
                reasons,
                controls,
            }) => {
                self.checked(from, &ticket, (reasons, controls));
                Ok(())
            }
            Frame::Control(Control::Evacuated { order }) => self.evacuated(from, &order, now),
            Frame::Control(Control::Unclaimed { guest, epoch }) => {
                self.unclaimed_told(from, &guest, epoch, now)
            }
            Frame::Control(Control::Wanted { guest }) => self.wanted(from, guest, now),
            Frame::Control(Control::NotHandedOver { guest, reasons }) => {
                self.not_handed_over(from, &guest, reasons, now);
                Ok(())
            }
            Frame::Control(Control::Move { ticket, step }) => self.step(from, ticket, step, now),
        }
    }

    /// A step belongs to the move that its ticket names, and only if the right host says it.
    fn step(
        &mut self,
        from: &HostId,
        ticket: Digest,
        step: Step,
        now: Now,
    ) -> Result<(), AgentError> {
        if let Some(guest) = self.leaving_by(from, ticket) {
            return self.leaving_step(&guest, step, now);
        }
        if let Some(guest) = self.arriving_by(from, ticket) {
            return self.arriving_step(&guest, step, now);
        }
        self.stray_step(from, ticket, step, now)
    }

    fn lost(&mut self, host: &HostId, loss: Loss, now: Now) -> Result<(), AgentError> {
        self.checks_lost(host, loss);
        self.asking_lost(host, now);
        warn("claims", self.claim_lost(host, now));
        warn("moves away", self.leaving_lost(host, loss, now));
        self.arriving_lost(host, now)
    }

    fn say(&self, host: &HostId, control: Control) {
        let sent = self.links.send(host, Frame::Control(control));
        warn("telling another agent", sent);
    }

    fn tell(&self, host: &HostId, ticket: Digest, step: Step) {
        self.say(host, Control::Move { ticket, step });
    }

    /// Whether QEMU must ask before this guest moves: unless its owner chose otherwise.
    fn guards(&self, guest: &GuestId, now: Now) -> bool {
        let cause = Cause::HostUnprotected;
        self.host.choice(guest, cause, now.ms) != Choice::AllowWithAlarm
    }

    fn watch(
        &mut self,
        guest: &GuestId,
        (qmp, limit): (&Path, Duration),
        now: Now,
    ) -> Result<(), AgentError> {
        // The older watch takes its socket with it, so it goes first.
        self.watches.remove(guest);
        self.watched += 1;
        let post = Post {
            guest: guest.clone(),
            number: self.watched,
            qmp: qmp.into(),
            limit,
            socket: interlock_socket(&self.host.config().run_dir, guest),
            group: self.qemu,
            inputs: self.inputs.clone(),
        };
        let wanted = self.guards(guest, now) || self.arriving.contains_key(guest);
        let watch = Watch::begin(post, wanted.then_some(Order::Guard), now)?;
        self.watches.insert(guest.clone(), watch);
        Ok(())
    }
}

fn warn(what: &str, result: Result<(), AgentError>) {
    if let Err(error) = result {
        tracing::warn!(what, error = error.chain(), "failed");
    }
}
