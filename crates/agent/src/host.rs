//! What one host enforces: the release and bindings it has verified, the vnics it has attached,
//! and the evidence of both. One owner, one thread: nothing here is shared.

use crate::state::{LogFile, StateDir};
use crate::{AgentError, Config};
use lictor_datapath::{Attachment, Datapath, Event, How, VnicSpec, VnicStatus};
use lictor_evidence::{Body, ControlFact, Entry, Log, SessionSample, SigningKey, Source};
use lictor_types::{Direction, HostTables, VnicName, VnicState};
use lictor_wire::api::{ControlState, EvidenceBatch, GuestReport, HostReport, VnicReport};
use lictor_wire::binding::{self, BindingLog};
use lictor_wire::local::{Attach, Attached};
use lictor_wire::release::{self, Floor};
use lictor_wire::{
    AddressAttestation, Binding, Bindings, Envelope, Trust, VerifiedRelease, VnicBinding,
    host_tables,
};

use std::time::Duration;

/// Decisions recorded in one round.
pub const SAMPLES_PER_ROUND_MAX: usize = 64;

/// The agent of one host, without sockets and without a clock: times are parameters.
#[derive(Debug)]
pub struct Host {
    config: Config,
    state: StateDir,
    key: SigningKey,
    trust: Trust,
    datapath: Datapath,
    log: Log<LogFile>,
    release: Option<VerifiedRelease>,
    bindings: Bindings,
    bindings_signed: BindingLog,
    /// What the kernel should hold.
    desired: HostTables,
    refused: Option<String>,
    kernel: String,
}

/// What happened to something that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It was verified and loaded.
    Loaded,
    /// It is what is loaded already.
    Known,
    /// It was refused whole; the last good one stays.
    Refused(String),
}

impl Host {
    /// Opens the state directory and adopts what is pinned in the kernel; then verifies and loads
    /// the last good release again. A host needs no manager for that.
    ///
    /// # Errors
    /// [`AgentError`] if the host is not enrolled, a file is broken, or the kernel lacks something.
    pub fn open(config: Config, now_ms: u64) -> Result<Self, AgentError> {
        let state = StateDir::new(&config.state_dir);
        let (trust, key) = (state.trust()?, state.key()?);
        Datapath::check_kernel()?;
        let datapath = Datapath::open(&config.pin_root)?;
        let log = Log::open(
            LogFile::open(&state, &key.verify_key())?,
            key.verify_key(),
            None,
        )?;
        let kernel = nix::sys::utsname::uname().map_or_else(
            |_| String::new(),
            |names| names.release().to_string_lossy().into_owned(),
        );
        let mut host = Self {
            config,
            state,
            key,
            trust,
            datapath,
            log,
            release: None,
            bindings: Bindings::default(),
            bindings_signed: BindingLog::default(),
            desired: HostTables::empty(),
            refused: None,
            kernel,
        };
        let generation = host.found()?.generation;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        host.record(
            Body::AgentStarted {
                version,
                generation,
            },
            now_ms,
        )?;
        if let Some(envelope) = host.state.release()? {
            host.offer(&envelope, &host.state.bindings()?, now_ms)?;
        }
        Ok(host)
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The state directory.
    #[must_use]
    pub const fn state(&self) -> &StateDir {
        &self.state
    }

    /// The manager's binding log with the attestations of this host that it does not have yet: an
    /// address that was attested a moment ago must not vanish because the manager is slow.
    #[must_use]
    pub fn with_own_attestations(&self, mut log: BindingLog) -> BindingLog {
        let theirs: Vec<AddressAttestation> = log.attestations.iter().filter_map(parse).collect();
        let bound: Vec<Binding> = log.bindings.iter().filter_map(parse).collect();
        for envelope in &self.bindings_signed.attestations {
            let Some(own) = parse::<AddressAttestation>(envelope) else {
                continue;
            };
            let newest = self.bindings.attestation(own.vnic) == Some(&own);
            let known = theirs
                .iter()
                .any(|other| other.vnic == own.vnic && other.sequence >= own.sequence);
            // A retired guest or one that may not run here any more has no addresses here.
            let still_bound = bound.iter().any(|binding| {
                binding.guest == own.guest
                    && !binding.retired
                    && binding.may_run_on(&self.config.host)
                    && binding.vnics.iter().any(|vnic| vnic.vnic == own.vnic)
            });
            if own.host == self.config.host && newest && !known && still_bound {
                log.attestations.push(envelope.clone());
            }
        }
        log
    }

    /// Verifies a release and the bindings that go with it, and loads both whole or not at all.
    ///
    /// # Errors
    /// [`AgentError`] only for failures of this host; what is refused is an [`Offered::Refused`].
    pub fn offer(
        &mut self,
        envelope: &Envelope,
        log: &BindingLog,
        now_ms: u64,
    ) -> Result<Offered, AgentError> {
        let floor = self.state.floor()?;
        let verified = match release::verify(envelope, &self.trust, floor) {
            Ok(verified) => verified,
            Err(error) => return self.refuse(error.to_string(), true, now_ms),
        };
        let same_release = self
            .release
            .as_ref()
            .is_some_and(|known| known.digest() == verified.digest());
        if same_release && self.bindings_signed == *log {
            return Ok(Offered::Known);
        }
        let bindings = match binding::verify(log, &verified, self.bindings.epoch()) {
            Ok(bindings) => bindings,
            Err(error) => return self.refuse(error.to_string(), false, now_ms),
        };
        let desired = match host_tables(&verified, &bindings, &self.config.host) {
            Ok(tables) => tables,
            Err(error) => {
                return self.refuse(AgentError::from(error).chain(), true, now_ms);
            }
        };
        let digest = verified.digest();
        let generation = verified.release().generation;
        // The floor is durable before the kernel changes: generations never go back on a host.
        self.state
            .keep_release(envelope, Floor { generation, digest })?;
        self.load(desired)?;
        self.state.keep_bindings(log)?;
        self.refused = None;
        self.bindings_signed = log.clone();
        self.bindings = bindings;
        self.release = Some(verified);
        self.record_loaded(same_release, now_ms)?;
        Ok(Offered::Loaded)
    }

    /// Once for each distinct refusal: a manager that offers the same thing every second is no
    /// news.
    fn refuse(
        &mut self,
        reason: String,
        is_release: bool,
        now_ms: u64,
    ) -> Result<Offered, AgentError> {
        if self.refused.as_ref() != Some(&reason) {
            let text = reason.clone();
            let body = if is_release {
                Body::ReleaseRefused { reason: text }
            } else {
                Body::BindingRefused { reason: text }
            };
            self.refused = Some(reason.clone());
            self.record(body, now_ms)?;
        }
        Ok(Offered::Refused(reason))
    }

    /// What the kernel holds: nothing before the first load, which denies everything.
    fn found(&self) -> Result<HostTables, AgentError> {
        match self.datapath.read_back() {
            Err(lictor_datapath::Error::NothingLoaded) => Ok(HostTables::empty()),
            found => Ok(found?),
        }
    }

    /// The data plane builds the new tables beside the old ones, reads them back, and only then
    /// switches.
    fn load(&mut self, desired: HostTables) -> Result<(), AgentError> {
        if self.found()?.digest() != desired.digest() {
            self.datapath.load(&desired)?;
        }
        self.desired = desired;
        Ok(())
    }

    fn record_loaded(&mut self, same_release: bool, now_ms: u64) -> Result<(), AgentError> {
        let Some(verified) = self.release.clone() else {
            return Ok(());
        };
        if !same_release {
            let name = |key: &lictor_wire::VerifyKey| key.name().to_string();
            let body = Body::ReleaseLoaded {
                generation: verified.release().generation,
                release: verified.digest(),
                author: name(verified.author()),
                approvers: verified.approvers().iter().map(name).collect(),
                tables_expected: self.desired.digest(),
                tables_found: self.found()?.digest(),
            };
            self.record(body, now_ms)?;
        }
        let count = u32::try_from(self.bindings.guests().count()).unwrap_or(u32::MAX);
        self.record(
            Body::BindingsLoaded {
                epoch: self.bindings.epoch(),
                count,
            },
            now_ms,
        )
    }

    /// Attaches a bound vnic to its device, in hold, attests its addresses, and opens it unless it
    /// waits for a guest from another host. Returns the attestation for the manager, if there is a
    /// new one.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if no binding names the vnic or an address lies outside its
    /// delegation; nothing is attached then.
    pub fn attach(
        &mut self,
        request: &Attach,
        now_ms: u64,
    ) -> Result<(Attached, Option<Envelope>), AgentError> {
        let (binding, vnic) = self.bound(request)?;
        if let Some(reason) = self.refuse_here(&binding) {
            return Err(AgentError::Refused(reason));
        }
        let attestation = self.attest(&binding, &vnic, request)?;
        let spec = spec_of(&vnic, &request.device);
        let attachment = self.datapath.attach(&spec)?;
        self.record_attached(&binding, &vnic, &attachment, now_ms)?;
        if let Some((envelope, log)) = &attestation {
            let release = self.state.release()?;
            let release =
                release.ok_or_else(|| AgentError::Refused("no release is kept".into()))?;
            if let Offered::Refused(reason) = self.offer(&release, log, now_ms)? {
                return Err(AgentError::Refused(format!(
                    "the vnic stays in hold: {reason}"
                )));
            }
            debug_assert!(self.bindings_signed.attestations.contains(envelope));
        }
        let state = self.datapath.state(vnic.vnic)?;
        if state == VnicState::Hold && !request.incoming {
            self.open_vnic(&binding, &vnic, now_ms)?;
        }
        let attached = Attached {
            guest: binding.guest.clone(),
            vnic: vnic.vnic,
            state: self.datapath.state(vnic.vnic)?,
            hook: hook_name(attachment.how).into(),
            before_first_packet: before_first_packet(&attachment),
            excess_frames: attachment.packets_before.iter().sum(),
        };
        Ok((attached, attestation.map(|(envelope, _)| envelope)))
    }

    fn bound(&self, request: &Attach) -> Result<(Binding, VnicBinding), AgentError> {
        let name = match &request.name {
            Some(name) => name.clone(),
            None => VnicName::new(request.device.clone())
                .map_err(|error| AgentError::Refused(error.to_string()))?,
        };
        let (binding, vnic) = self.bindings.by_name(&name).ok_or_else(|| {
            AgentError::Refused(format!(
                "no binding names vnic {name}; publish a binding for it, then attach \
                 again"
            ))
        })?;
        Ok((binding.clone(), vnic.clone()))
    }

    fn refuse_here(&self, binding: &Binding) -> Option<String> {
        let host = &self.config.host;
        (!binding.may_run_on(host))
            .then(|| format!("the binding of {} does not list host {host}", binding.guest))
    }

    /// Signs the addresses that the management layer gave, and checks the log that would follow as
    /// a whole, before anything is attached.
    fn attest(
        &self,
        binding: &Binding,
        vnic: &VnicBinding,
        request: &Attach,
    ) -> Result<Option<(Envelope, BindingLog)>, AgentError> {
        let known = self.bindings.attestation(vnic.vnic);
        let same = known.is_some_and(|known| {
            known.host == self.config.host && known.addresses == request.addresses
        });
        if same || request.addresses.is_empty() {
            return Ok(None);
        }
        let Some(release) = &self.release else {
            return Ok(None);
        };
        let envelope = AddressAttestation {
            deployment: self.trust.deployment.clone(),
            host: self.config.host.clone(),
            guest: binding.guest.clone(),
            vnic: vnic.vnic,
            sequence: known.map_or(1, |known| known.sequence + 1),
            addresses: request.addresses.clone(),
        }
        .sign(&self.key);
        let mut log = self.bindings_signed.clone();
        log.attestations.push(envelope.clone());
        binding::verify(&log, release, self.bindings.epoch())
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok(Some((envelope, log)))
    }

    fn record_attached(
        &mut self,
        binding: &Binding,
        vnic: &VnicBinding,
        attachment: &Attachment,
        now_ms: u64,
    ) -> Result<(), AgentError> {
        let body = Body::VnicAttached {
            guest: binding.guest.clone(),
            vnic: vnic.vnic,
            device: vnic.name.clone(),
            how: "asked".into(),
            before_first_packet: before_first_packet(attachment),
            excess_frames: attachment.packets_before.iter().sum(),
            window_ms: 0,
        };
        self.record(body, now_ms)
    }

    fn open_vnic(
        &mut self,
        binding: &Binding,
        vnic: &VnicBinding,
        now_ms: u64,
    ) -> Result<(), AgentError> {
        let (from, to) = (self.datapath.state(vnic.vnic)?, VnicState::Open);
        self.datapath.set_state(vnic.vnic, to)?;
        let (guest, vnic) = (binding.guest.clone(), vnic.vnic);
        let cause = "the guest runs here".to_owned();
        self.record(
            Body::VnicState {
                guest,
                vnic,
                from,
                to,
                cause,
            },
            now_ms,
        )
    }

    /// Lets a vnic go.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if it is not attached here.
    pub fn detach(&mut self, name: &VnicName, now_ms: u64) -> Result<(), AgentError> {
        let found = self
            .datapath
            .vnics()?
            .into_iter()
            .find(|status| status.spec.name == *name);
        let status = found
            .ok_or_else(|| AgentError::Refused(format!("vnic {name} is not attached here")))?;
        let vnic = status.spec.vnic;
        self.datapath.detach(vnic)?;
        if let Some((binding, _)) = self.bindings.by_name(name) {
            let guest = binding.guest.clone();
            self.record(
                Body::VnicDetached {
                    guest,
                    vnic,
                    cause: "asked".into(),
                },
                now_ms,
            )?;
        }
        Ok(())
    }

    /// Reads everything back and repairs what differs, with evidence of both.
    ///
    /// # Errors
    /// [`AgentError`] if the kernel cannot be read or repaired.
    pub fn reconcile(&mut self, now_ms: u64) -> Result<(), AgentError> {
        let found = self.found()?.digest();
        let expected = self.desired.digest();
        if self.release.is_some() && found != expected {
            self.datapath.load(&self.desired.clone())?;
            self.drift(
                "the tables of this host",
                expected.to_string(),
                found.to_string(),
                now_ms,
            )?;
        }
        for status in self.datapath.vnics()? {
            if !status.hooks.intact() {
                self.repair(&status, now_ms)?;
            }
        }
        Ok(())
    }

    /// Gives room back that expired sessions hold, and records decisions on new sessions: at most
    /// [`SAMPLES_PER_ROUND_MAX`] of them, because a flood must not fill the log. Counters in
    /// the kernel count every packet all the same.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn collect(&mut self, now_ms: u64) -> Result<(), AgentError> {
        for status in self.datapath.vnics()? {
            self.datapath.sweep(status.spec.vnic)?;
        }
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

    fn repair(&mut self, status: &VnicStatus, now_ms: u64) -> Result<(), AgentError> {
        let subject = format!("the hooks of vnic {}", status.spec.name);
        match self.datapath.attach(&status.spec) {
            Ok(_) => self.drift(
                &subject,
                "first in order".into(),
                "not intact".into(),
                now_ms,
            ),
            // The device went with its guest.
            Err(lictor_datapath::Error::NoDevice { .. }) => {
                self.datapath.detach(status.spec.vnic)?;
                let Some((binding, _)) = self.bindings.by_name(&status.spec.name) else {
                    return Ok(());
                };
                let (guest, vnic) = (binding.guest.clone(), status.spec.vnic);
                let cause = "its device is gone".to_owned();
                self.record(Body::VnicDetached { guest, vnic, cause }, now_ms)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn drift(
        &mut self,
        subject: &str,
        expected: String,
        found: String,
        now_ms: u64,
    ) -> Result<(), AgentError> {
        let subject = subject.to_owned();
        self.record(
            Body::Drift {
                subject,
                expected,
                found,
                repaired: true,
            },
            now_ms,
        )
    }

    /// Appends to the evidence log, durably.
    ///
    /// # Errors
    /// [`AgentError::Evidence`] if it may not be on disk.
    pub fn record(&mut self, body: Body, now_ms: u64) -> Result<(), AgentError> {
        let source = Source::Host(self.config.host.clone());
        let entry = Entry::new(source, self.log.size(), now_ms, body);
        self.log.append(&entry.to_bytes()?)?;
        Ok(())
    }

    /// The entries from `first` on that the manager does not have yet, with the checkpoint that
    /// covers them; `None` if there are none.
    ///
    /// # Errors
    /// [`AgentError::Evidence`].
    pub fn evidence_from(&mut self, first: u64) -> Result<Option<EvidenceBatch>, AgentError> {
        let size = self.log.size();
        if first >= size {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for index in first..size {
            let bytes = self.log.entry(index)?;
            let text = String::from_utf8(bytes)
                .map_err(|error| AgentError::Refused(format!("entry {index}: {error}")))?;
            entries.push(text);
        }
        let checkpoint = self.log.checkpoint(&self.key)?;
        Ok(Some(EvidenceBatch {
            host: self.config.host.clone(),
            first,
            entries,
            checkpoint,
        }))
    }

    /// The firewall counts as healthy when what the kernel holds is what was approved, and every
    /// hook is in its place: read back, not remembered.
    fn controls(&self, tables_match: bool, hooks_ok: bool) -> Vec<ControlState> {
        vec![ControlState {
            name: "firewall".into(),
            provider: "lictor".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            healthy: self.release.is_some() && tables_match && hooks_ok,
        }]
    }

    /// Records what this host is and has.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn record_facts(&mut self, report: &HostReport, now_ms: u64) -> Result<(), AgentError> {
        let fact = |control: &ControlState| ControlFact {
            control: control.name.clone(),
            version: format!("{} {}", control.provider, control.version),
            healthy: control.healthy,
        };
        let controls = report.controls.iter().map(fact).collect();
        let (kernel, agent) = (report.kernel.clone(), report.agent_version.clone());
        self.record(
            Body::HostFacts {
                controls,
                kernel,
                agent,
                time_offset_us: None,
            },
            now_ms,
        )
    }

    /// Everything about this host, read from the kernel now.
    ///
    /// # Errors
    /// [`AgentError::Datapath`] if the kernel cannot be read.
    pub fn report(&self, now_ms: u64) -> Result<HostReport, AgentError> {
        let statuses = self.datapath.vnics()?;
        let hooks_ok = statuses.iter().all(|status| status.hooks.intact());
        let (expected, found) = (self.desired.digest(), self.found()?.digest());
        let mut guests = Vec::new();
        for binding in self.bindings.guests() {
            let mut vnics = Vec::new();
            for status in &statuses {
                if binding
                    .vnics
                    .iter()
                    .any(|vnic| vnic.vnic == status.spec.vnic)
                {
                    vnics.push(self.vnic_report(status)?);
                }
            }
            if !vnics.is_empty() {
                guests.push(GuestReport {
                    guest: binding.guest.clone(),
                    custody: 0,
                    interlocked: false,
                    running: None,
                    vnics,
                });
            }
        }
        Ok(HostReport {
            host: self.config.host.clone(),
            time_ms: now_ms,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel: self.kernel.clone(),
            hook: hook_name(Datapath::check_kernel().map_or(How::Clsact, |features| {
                if features.tcx { How::Tcx } else { How::Clsact }
            }))
            .into(),
            generation: self.desired.generation,
            release: self.release.as_ref().map(VerifiedRelease::digest),
            epoch: self.bindings.epoch(),
            tables_expected: expected,
            tables_found: found,
            hooks_ok,
            controls: self.controls(expected == found, hooks_ok),
            guests,
            refused: self.refused.clone(),
            peer: self.config.peer,
        })
    }

    fn vnic_report(&self, status: &VnicStatus) -> Result<VnicReport, AgentError> {
        let vnic = status.spec.vnic;
        let counters = self.datapath.counters(vnic)?;
        let both = [&counters.egress, &counters.ingress];
        let device = self.datapath.device_counters(vnic)?;
        Ok(VnicReport {
            vnic,
            name: status.spec.name.clone(),
            segment: status.spec.segment,
            state: status.state,
            addresses: self.bindings.addresses(vnic).to_vec(),
            sessions: self.datapath.session_count(vnic)?,
            judged: both.map(|direction| direction.seen.packets),
            allowed: both.map(|direction| direction.allowed().packets),
            device: [device.from_guest.packets, device.toward_guest.packets],
        })
    }
}

/// Reads a payload that is verified again before anything is loaded.
fn parse<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> Option<T> {
    serde_json::from_slice(&envelope.unverified_payload().ok()?).ok()
}

fn spec_of(vnic: &VnicBinding, device: &str) -> VnicSpec {
    VnicSpec {
        vnic: vnic.vnic,
        name: vnic.name.clone(),
        device: device.into(),
        mac: vnic.mac,
        segment: vnic.segment,
        sessions_max: vnic.sessions_max,
    }
}

const fn hook_name(how: How) -> &'static str {
    match how {
        How::Tcx => "tcx",
        How::Clsact => "clsact",
    }
}

/// An adopted vnic was attached by an earlier life of the agent; what it carried since was judged.
fn before_first_packet(attachment: &Attachment) -> bool {
    attachment.adopted || (attachment.packets_before == [0, 0] && !attachment.was_enslaved)
}
