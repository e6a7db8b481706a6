//! What a host says of itself: what it enforces, what it counts, what it decided.

use super::Host;
use super::vnics::hook_name;
use crate::AgentError;
use crate::control::FIREWALL;
use crate::state::LogFile;
use lictor_datapath::{Datapath, DeviceCounters, Event, How, VnicStatus};
use lictor_evidence::{
    Body, Checkpoint, ControlFact, Entry, EvidenceError, Log, Readback, SessionSample, Source,
    VnicCounters, VnicReadback,
};
use lictor_types::{Counted, Digest, Direction, GuestId, Reason, Tallies, VnicId};
use lictor_wire::VerifiedRelease;
use lictor_wire::api::{ControlState, EvidenceBatch, GuestReport, HostReport, VnicReport};
use std::time::Duration;

/// How often a log is read again of which a write has failed.
const REOPEN_EVERY_MS: u64 = 1_000;

/// The kernel at one moment.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) tables: Digest,
    pub(super) vnics: Vec<VnicStatus>,
}

impl Look {
    fn hooks_ok(&self) -> bool {
        self.vnics.iter().all(|status| status.hooks.intact())
    }
}

fn control_fact(control: &ControlState) -> ControlFact {
    ControlFact {
        control: control.name.clone(),
        version: format!("{} {}", control.provider, control.version),
        healthy: control.healthy,
    }
}

/// Decisions recorded in one round.
pub const SAMPLES_PER_ROUND_MAX: usize = 64;

impl Host {
    /// Gives room back that expired sessions hold, and records decisions on new sessions: at most
    /// [`SAMPLES_PER_ROUND_MAX`] of them, because a flood must not fill the log. Counters in
    /// the kernel count every packet all the same.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn collect(&mut self, now_ms: u64) -> Result<(), AgentError> {
        for status in self.datapath.vnics()? {
            self.datapath.sweep_part(status.spec.vnic)?;
        }
        // Bridges and their ports change without telling anyone.
        self.datapath.refresh_steering()?;
        let (mut events, mut left_out) = (Vec::new(), 0_u64);
        self.datapath.poll_events(Duration::ZERO, |event| {
            if events.len() < SAMPLES_PER_ROUND_MAX {
                events.push(event);
            } else {
                left_out += 1;
            }
        })?;
        for event in &events {
            if let Some(sample) = self.sample(event) {
                self.record(Body::SessionDecided(Box::new(sample)), now_ms)?;
            }
        }
        if left_out > 0 {
            let subject = format!("host {}", self.config.host);
            let text = format!("{left_out} decisions of one round were counted but not recorded");
            self.record(Body::Alarm { subject, text }, now_ms)?;
        }
        Ok(())
    }

    /// An event in the words of evidence; `None` for a vnic whose binding is gone.
    fn sample(&self, event: &Event) -> Option<SessionSample> {
        let binding = self
            .bindings
            .guests()
            .find(|binding| binding.vnics.iter().any(|vnic| vnic.vnic == event.vnic))?;
        let release = self.release.as_ref();
        let rule = release.and_then(|verified| verified.release().policy.rule(event.rule));
        let local = (event.key.local, event.key.local_port);
        let remote = (event.key.remote, event.key.remote_port);
        let (from, to) = match event.direction {
            Direction::Egress => (local, remote),
            Direction::Ingress => (remote, local),
        };
        Some(SessionSample {
            guest: binding.guest.clone(),
            vnic: event.vnic,
            direction: event.direction,
            verdict: event.verdict,
            reason: event.reason,
            rule: rule.map_or_else(String::new, |rule| rule.name.clone()),
            protocol: event.key.protocol,
            source: from.0,
            destination: to.0,
            source_port: from.1,
            destination_port: to.1,
        })
    }

    /// Appends to the evidence log, durably.
    ///
    /// # Errors
    /// [`AgentError::Evidence`] if it may not be on disk.
    pub fn record(&mut self, body: Body, now_ms: u64) -> Result<(), AgentError> {
        if let Some(why) = &self.unrecorded {
            if now_ms.abs_diff(self.reopened_ms) < REOPEN_EVERY_MS {
                return Err(EvidenceError::Storage(why.clone()).into());
            }
            self.reopened_ms = now_ms;
            self.reopen_log()?;
        }
        let source = Source::Host(self.config.host.clone());
        let entry = Entry::new(source, self.log.size(), now_ms, body);
        let written = self.log.append(&entry.to_bytes()?);
        let lasting = written.as_ref().err();
        // What can never be written says nothing of the disk.
        let lasting = lasting.filter(|error| !matches!(error, EvidenceError::Entry(_)));
        self.unrecorded = lasting.map(ToString::to_string);
        Ok(written.map(drop)?)
    }

    /// A log of which a write has failed takes no more: what is on the disk is not known. It is
    /// read again, and must go on from what this host has signed.
    fn reopen_log(&mut self) -> Result<(), AgentError> {
        let key = self.key.verify_key();
        let signed = self.log.last_checkpoint();
        let signed = signed.map(|text| Checkpoint::verify(text, &key));
        let signed = signed.transpose()?;
        let file = LogFile::open(&self.state, &key)?;
        self.log = Log::open(file, key, signed.as_ref())?;
        Ok(())
    }

    /// As many entries from `first` on as one batch holds, with the checkpoint that covers them;
    /// `None` if there are none.
    ///
    /// # Errors
    /// [`AgentError::Evidence`].
    pub fn evidence_from(&mut self, first: u64) -> Result<Option<EvidenceBatch>, AgentError> {
        let (host, log) = (&self.config.host, &mut self.log);
        Ok(lictor_wire::next_batch(host, log, &self.key, first)?)
    }

    /// Reads the kernel once: its tables and every vnic.
    pub(super) fn look(&self) -> Result<Look, AgentError> {
        Ok(Look {
            tables: self.found()?.digest(),
            vnics: self.datapath.vnics()?,
        })
    }

    /// What a guest requires and other controls of this host do not give, each with the reason.
    pub(crate) fn missing(&self, guest: &GuestId) -> Vec<(String, String)> {
        let known = self.release.as_ref().zip(self.bindings.guest(guest));
        let required = known.and_then(|(release, binding)| {
            let policy = &release.release().policy;
            Some(policy.required_controls(policy.identity_of(&binding.labels)?))
        });
        let required = required.unwrap_or_default();
        let others = required
            .iter()
            .map(ToString::to_string)
            .filter(|name| name != FIREWALL);
        let states = self.controls.states();
        let missing = others.filter_map(|name| {
            let Some(state) = states.iter().find(|state| state.name == name) else {
                return Some((name, "the agent's configuration has none".to_owned()));
            };
            let why = self
                .controls
                .fault(&name)
                .unwrap_or_else(|| "it does not answer".into());
            (!state.healthy).then_some((name, why))
        });
        missing.collect()
    }

    /// The firewall counts as healthy when what the kernel holds is what was approved, and every
    /// hook is in its place: read back, not remembered.
    fn controls_of(&self, look: &Look) -> Vec<ControlState> {
        let matches = look.tables == self.desired.digest();
        let mut controls = vec![ControlState {
            name: FIREWALL.into(),
            provider: "lictor".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            healthy: self.release.is_some() && matches && look.hooks_ok(),
        }];
        controls.extend(self.controls.states());
        controls
    }

    /// The controls of this host, as they were seen to work now.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn controls(&self) -> Result<Vec<ControlFact>, AgentError> {
        let look = self.look()?;
        Ok(self.controls_of(&look).iter().map(control_fact).collect())
    }

    /// Records what this host is and has, and what its kernel holds.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn record_facts(&mut self, now_ms: u64) -> Result<(), AgentError> {
        let look = self.look()?;
        let facts = Body::HostFacts {
            controls: self.controls_of(&look).iter().map(control_fact).collect(),
            kernel: self.kernel.clone(),
            agent: env!("CARGO_PKG_VERSION").into(),
            time_offset_us: None,
        };
        let readback = Body::Readback(self.readback(&look)?);
        self.record(facts, now_ms)?;
        self.record(readback, now_ms)
    }

    fn readback(&self, look: &Look) -> Result<Readback, AgentError> {
        let mut vnics = Vec::new();
        for status in &look.vnics {
            let Some((binding, _)) = self.bindings.by_name(&status.spec.name) else {
                continue;
            };
            let counters = self.datapath.counters(status.spec.vnic)?;
            let Some(device) = self.device_counters(status.spec.vnic)? else {
                continue;
            };
            let both = [&counters.egress, &counters.ingress];
            let carried = device.from_guest.packets + device.toward_guest.packets;
            vnics.push(VnicReadback {
                vnic: status.spec.vnic,
                guest: binding.guest.clone(),
                hooks_ok: status.hooks.intact(),
                state: status.state,
                counters: VnicCounters {
                    seen: both.iter().map(|one| one.seen.packets).sum(),
                    allowed: both.iter().map(|one| one.allowed().packets).sum(),
                    denied: both.iter().map(|one| one.denied().packets).sum(),
                    device: carried.saturating_sub(status.packets_before.iter().sum()),
                },
            });
        }
        Ok(Readback {
            generation: self.desired.generation,
            expected: self.desired.digest(),
            found: look.tables,
            vnics,
        })
    }

    /// Everything about this host, read from the kernel now. How guests run is not known here.
    ///
    /// # Errors
    /// [`AgentError::Datapath`] if the kernel cannot be read.
    pub fn report(&self, now_ms: u64) -> Result<HostReport, AgentError> {
        let look = self.look()?;
        let features = Datapath::check_kernel();
        let hook = features.map_or(How::Clsact, |features| match features.tcx {
            true => How::Tcx,
            false => How::Clsact,
        });
        Ok(HostReport {
            host: self.config.host.clone(),
            time_ms: now_ms,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel: self.kernel.clone(),
            hook: hook_name(hook).into(),
            generation: self.desired.generation,
            release: self.release.as_ref().map(VerifiedRelease::digest),
            epoch: self.bindings.epoch(),
            tables_expected: self.desired.digest(),
            tables_found: look.tables,
            hooks_ok: look.hooks_ok(),
            controls: self.controls_of(&look),
            guests: self.guest_reports(&look)?,
            refused: self.refused.clone(),
            peer: self.config.peer,
        })
    }

    fn guest_reports(&self, look: &Look) -> Result<Vec<GuestReport>, AgentError> {
        let mut guests = Vec::new();
        for binding in self.bindings.guests() {
            let ours = |status: &&VnicStatus| {
                let number = status.spec.vnic;
                binding.vnics.iter().any(|vnic| vnic.vnic == number)
            };
            let vnics = look.vnics.iter().filter(ours);
            let vnics = vnics
                .filter_map(|status| self.vnic_report(status).transpose())
                .collect::<Result<Vec<_>, _>>()?;
            if vnics.is_empty() {
                continue;
            }
            let guest = &binding.guest;
            let held = self.custody.held(guest);
            guests.push(GuestReport {
                guest: guest.clone(),
                custody: if held { self.custody.epoch(guest) } else { 0 },
                interlocked: false,
                running: None,
                vnics,
                unguarded: Vec::new(),
            });
        }
        Ok(guests)
    }

    /// What a device has carried; `None` if it has just gone with its guest. That is no fault of
    /// the others' counters, and the next round lets its vnic go.
    fn device_counters(&self, vnic: VnicId) -> Result<Option<DeviceCounters>, AgentError> {
        match self.datapath.device_counters(vnic) {
            Ok(counters) => Ok(Some(counters)),
            Err(lictor_datapath::Error::NoDevice { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn vnic_report(&self, status: &VnicStatus) -> Result<Option<VnicReport>, AgentError> {
        let vnic = status.spec.vnic;
        // Before what was judged here, of which it is never to tell more.
        let counted = judged_of(&self.datapath.tally(vnic)?);
        let counters = self.datapath.counters(vnic)?;
        let both = [&counters.egress, &counters.ingress];
        let Some(device) = self.device_counters(vnic)? else {
            return Ok(None);
        };
        Ok(Some(VnicReport {
            vnic,
            name: status.spec.name.clone(),
            segment: status.spec.segment,
            state: status.state,
            mode: status.mode,
            addresses: self.bindings.addresses(vnic).to_vec(),
            sessions: self.datapath.sessions_held(vnic)?,
            judged: both.map(|direction| direction.seen.packets),
            allowed: both.map(|direction| direction.allowed().packets),
            device: [device.from_guest.packets, device.toward_guest.packets],
            counted,
        }))
    }
}

/// Packets that got a verdict, from the guest and toward it. An answer in the guest's name was sent
/// by no guest.
pub(crate) fn judged_of(tallies: &Tallies) -> [u64; 2] {
    let mut judged = [0; 2];
    for (counted, tally) in tallies {
        match counted {
            Counted::Reason(Direction::Egress, Reason::Answer) => {}
            Counted::Reason(direction, _) => judged[*direction as usize] += tally.packets,
            Counted::Steered(_) | Counted::Rule(_) => {}
        }
    }
    judged
}
