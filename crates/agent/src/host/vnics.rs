//! Attaching vnics, opening and closing them.

use super::{Host, Offered};
use crate::AgentError;
use crate::nics::Hooked;
use lictor_datapath::{Attachment, How, VnicSpec};
use lictor_evidence::Body;
use lictor_types::{Endpoint, GuestId, Link, Mode, VnicId, VnicName, VnicState};
use lictor_wire::binding::{self, BindingLog};
use lictor_wire::local::{Attach, Attached};
use lictor_wire::{AddressAttestation, Binding, VnicBinding};
use std::time::Duration;

/// The longest trial of the host's own rules.
const HOST_TRIAL_S_MAX: u64 = 3_600;

impl Host {
    /// Attaches a bound vnic to its device, in hold, and attests its addresses. A vnic that was
    /// attached to this device before keeps its state.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if no binding names the vnic or an address lies outside its
    /// delegation; nothing is attached then.
    pub fn attach(&mut self, request: &Attach, now_ms: u64) -> Result<Attached, AgentError> {
        self.attach_as(request, "asked", now_ms)
    }

    /// The same for a guest that two persons let in beyond the host's budget of sessions: what it
    /// takes is missing to whoever comes after it.
    ///
    /// # Errors
    /// As for [`Host::attach`].
    pub(crate) fn attach_beyond(
        &mut self,
        request: &Attach,
        now_ms: u64,
    ) -> Result<Attached, AgentError> {
        self.datapath.set_budget(u64::MAX);
        let attached = self.attach(request, now_ms);
        self.datapath.set_budget(self.config.sessions);
        attached
    }

    /// Attaches every bound vnic whose device is here although nobody has asked: somebody went
    /// around the door. They stay in hold; returned are their guests.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn attach_strays(&mut self, now_ms: u64) -> Result<Vec<GuestId>, AgentError> {
        self.links.look(now_ms)?;
        let mut strays = Vec::new();
        for binding in self.bindings.guests() {
            let here = binding.may_run_on(&self.config.host);
            for vnic in binding.vnics.iter().filter(|_| here) {
                if self.links.has(vnic.name.as_str()) && !self.datapath.has(vnic.vnic) {
                    strays.push((binding.guest.clone(), vnic.name.clone()));
                }
            }
        }
        for (_, name) in &strays {
            let request = Attach {
                device: name.to_string(),
                name: None,
                qmp: None,
                addresses: Vec::new(),
                more: Vec::new(),
                incoming: true,
            };
            self.attach_as(&request, "found", now_ms)?;
        }
        Ok(strays.into_iter().map(|(guest, _)| guest).collect())
    }

    fn attach_as(
        &mut self,
        request: &Attach,
        how: &str,
        now_ms: u64,
    ) -> Result<Attached, AgentError> {
        let (binding, vnic) = self.bound(request)?;
        if let Some(reason) = self.refuse_here(&binding) {
            return Err(AgentError::Refused(reason));
        }
        let attested = self.attest(&binding, &vnic, request)?;
        let spec = VnicSpec {
            endpoint: self.endpoint_of(&request.device),
            ..spec_of(&vnic, &request.device)
        };
        let attachment = self.datapath.attach(&spec)?;
        if spec.endpoint == Endpoint::Host && !attachment.adopted {
            self.restore_host_mode(spec.vnic)?;
        }
        let named = (how, request.device.as_str());
        self.record_attached((&binding, &vnic), named, &attachment, now_ms)?;
        if let Some(log) = &attested {
            let release = self.state.release()?;
            let release =
                release.ok_or_else(|| AgentError::Refused("no release is kept".into()))?;
            if let Offered::Refused(reason) = self.offer(&release, log, now_ms)? {
                return Err(AgentError::Refused(format!(
                    "the vnic stays in hold: {reason}"
                )));
            }
        }
        Ok(Attached {
            guest: binding.guest.clone(),
            vnic: vnic.vnic,
            state: self.datapath.state(vnic.vnic)?,
            hook: hook_name(attachment.how).into(),
            before_first_packet: before_first_packet(&attachment),
            excess_frames: attachment.packets_before.iter().sum(),
        })
    }

    fn endpoint_of(&self, device: &str) -> Endpoint {
        if self.config.host_device.as_deref() == Some(device) {
            Endpoint::Host
        } else {
            Endpoint::Guest
        }
    }

    /// What was confirmed before the host was started again holds again.
    fn restore_host_mode(&self, vnic: VnicId) -> Result<(), AgentError> {
        if self.state.host_mode()? == Mode::Enforce {
            self.datapath
                .set_mode(vnic, Mode::Enforce, Duration::ZERO)?;
        }
        Ok(())
    }

    /// Says what a denial does at the hypervisor's own device. What is to outlive the host's next
    /// start is written before it holds.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if that device is not attached, or a trial would last no time.
    pub fn set_host_mode(
        &mut self,
        mode: Mode,
        trial_s: u64,
        now_ms: u64,
    ) -> Result<Mode, AgentError> {
        if mode == Mode::Trial && !(1..=HOST_TRIAL_S_MAX).contains(&trial_s) {
            return Err(AgentError::Refused(format!(
                "a trial of {trial_s} s; expected 1 to {HOST_TRIAL_S_MAX}"
            )));
        }
        let attached = self.datapath.vnics()?;
        let host = attached
            .iter()
            .find(|status| status.spec.endpoint == Endpoint::Host);
        let host = host.ok_or_else(|| {
            AgentError::Refused(
                "the hypervisor's own device is not attached; name it as `host_device` in the \
                 agent's configuration, publish a binding for it, and attach it"
                    .into(),
            )
        })?;
        let kept = match mode {
            Mode::Enforce => Mode::Enforce,
            Mode::Observe | Mode::Trial => Mode::Observe,
        };
        self.state.keep_host_mode(kept)?;
        let trial = Duration::from_secs(if mode == Mode::Trial { trial_s } else { 0 });
        self.datapath.set_mode(host.spec.vnic, mode, trial)?;
        let body = Body::HostMode {
            device: host.spec.device.clone(),
            from: host.mode,
            to: mode,
            trial_s: trial.as_secs(),
        };
        self.record(body, now_ms)?;
        Ok(mode)
    }

    /// Whether a device is the hypervisor's own: it belongs to no guest, and nobody claims it.
    pub(crate) fn is_own(&self, device: &str) -> bool {
        self.endpoint_of(device) == Endpoint::Host
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
    ) -> Result<Option<BindingLog>, AgentError> {
        let known = self.bindings.attestation(vnic.vnic);
        let same = known.is_some_and(|known| {
            known.host == self.config.host
                && known.addresses == request.addresses
                && known.more == request.more
        });
        if same || (request.addresses.is_empty() && request.more.is_empty()) {
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
            more: request.more.clone(),
        }
        .sign(&self.key);
        let mut log = self.bindings_signed.clone();
        log.attestations.push(envelope);
        binding::verify_since(&log, release, &self.bindings)
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok(Some(log))
    }

    /// A device that could carry nothing before has no window: it was down, or no port of a bridge.
    fn record_attached(
        &mut self,
        (binding, vnic): (&Binding, &VnicBinding),
        (how, device): (&str, &str),
        attachment: &Attachment,
        now_ms: u64,
    ) -> Result<(), AgentError> {
        self.links.look(now_ms)?;
        let carried = !before_first_packet(attachment) && attachment.was_up;
        let since_ms = self.links.since_ms(device, now_ms);
        let body = Body::VnicAttached {
            guest: binding.guest.clone(),
            vnic: vnic.vnic,
            device: vnic.name.clone(),
            how: how.into(),
            before_first_packet: before_first_packet(attachment),
            excess_frames: attachment.packets_before.iter().sum(),
            window_ms: if carried { now_ms - since_ms } else { 0 },
        };
        self.record(body, now_ms)
    }

    /// How many vnics are attached here.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn attached(&self) -> Result<usize, AgentError> {
        Ok(self.datapath.vnics()?.len())
    }

    /// How many sessions of the host's budget no vnic has.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub(crate) fn sessions_left(&self) -> Result<u64, AgentError> {
        Ok(self.datapath.budget_left()?)
    }

    /// The guest's vnics that are attached here, by number.
    #[must_use]
    pub fn vnics_of(&self, guest: &GuestId) -> Vec<VnicId> {
        let binding = self.bindings.guest(guest).into_iter();
        let bound = binding.flat_map(|binding| &binding.vnics);
        let bound = bound.map(|vnic| vnic.vnic);
        bound.filter(|vnic| self.datapath.has(*vnic)).collect()
    }

    /// The devices and addresses of the guest's vnics that are attached here.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub(crate) fn hooked(&self, guest: &GuestId) -> Result<Vec<Hooked>, AgentError> {
        let vnics = self.vnics_of(guest).into_iter();
        vnics
            .map(|vnic| {
                let spec = self.datapath.status(vnic)?.spec;
                Ok(Hooked {
                    device: spec.device,
                    mac: spec.mac,
                })
            })
            .collect()
    }

    /// Whether the guest has vnics here, and all are a container's.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub(crate) fn has_veths_only(&self, guest: &GuestId) -> Result<bool, AgentError> {
        let vnics = self.vnics_of(guest);
        for vnic in &vnics {
            if !self.datapath.is_veth(*vnic)? {
                return Ok(false);
            }
        }
        Ok(!vnics.is_empty())
    }

    /// The states of the guest's vnics that are attached here.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn states_of(&self, guest: &GuestId) -> Result<Vec<VnicState>, AgentError> {
        let vnics = self.vnics_of(guest);
        let states = vnics.iter().map(|vnic| Ok(self.datapath.state(*vnic)?));
        states.collect()
    }

    /// Brings every vnic of the guest into one state, and returns what to record: nothing here
    /// waits for a disk, as a guest may stand still meanwhile.
    ///
    /// # Errors
    /// [`AgentError::Datapath`].
    pub fn set_state(
        &self,
        guest: &GuestId,
        to: VnicState,
        cause: &str,
    ) -> Result<Vec<Body>, AgentError> {
        let mut changes = Vec::new();
        for vnic in self.vnics_of(guest) {
            let status = self.datapath.status(vnic)?;
            let from = status.state;
            // Nothing that holds for guests may cut the host off from those who look after it.
            if from == to || status.spec.endpoint == Endpoint::Host {
                continue;
            }
            self.datapath.set_state(vnic, to)?;
            changes.push(Body::VnicState {
                guest: guest.clone(),
                vnic,
                from,
                to,
                cause: cause.into(),
            });
        }
        Ok(changes)
    }

    /// Opens every vnic that the guest's binding has, or says why none may be: a guest that came
    /// with one of them missing would run without part of its network. The caller holds what was
    /// opened before an error.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the guest is not bound, or a vnic's programs are not on its
    /// device; [`AgentError::Datapath`].
    pub(crate) fn open_whole(&self, guest: &GuestId, cause: &str) -> Result<Vec<Body>, AgentError> {
        let refused = |what: String| AgentError::Refused(what);
        let binding = self.bindings.guest(guest);
        let binding = binding.ok_or_else(|| refused(format!("guest {guest} is not bound")))?;
        let statuses = binding
            .vnics
            .iter()
            .map(|vnic| Ok(self.datapath.status(vnic.vnic)?));
        let statuses = statuses.collect::<Result<Vec<_>, AgentError>>()?;
        if let Some(status) = statuses.iter().find(|status| !status.hooks.attached()) {
            let (vnic, device) = (&status.spec.name, &status.spec.device);
            return Err(refused(format!(
                "vnic {vnic} cannot be opened: its device {device} is gone, or its programs are \
                 not on it; the guest needs all {} of its vnics",
                statuses.len()
            )));
        }
        let mut changes = Vec::new();
        for status in statuses {
            let (vnic, from) = (status.spec.vnic, status.state);
            if from == VnicState::Open || status.spec.endpoint == Endpoint::Host {
                continue;
            }
            self.datapath.set_state(vnic, VnicState::Open)?;
            changes.push(Body::VnicState {
                guest: guest.clone(),
                vnic,
                from,
                to: VnicState::Open,
                cause: cause.into(),
            });
        }
        Ok(changes)
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
}

fn spec_of(vnic: &VnicBinding, device: &str) -> VnicSpec {
    VnicSpec {
        vnic: vnic.vnic,
        name: vnic.name.clone(),
        device: device.into(),
        mac: vnic.mac,
        segment: vnic.segment,
        sessions_max: vnic.sessions_max,
        // A link that cannot be is refused with its binding.
        link: vnic.link.link().unwrap_or(Link::PLAIN),
        endpoint: Endpoint::Guest,
    }
}

/// An adopted vnic was attached by an earlier life of the agent; what it carried since was judged.
fn before_first_packet(attachment: &Attachment) -> bool {
    attachment.adopted || (attachment.packets_before == [0, 0] && !attachment.was_enslaved)
}

pub(super) const fn hook_name(how: How) -> &'static str {
    match how {
        How::Tcx => "tcx",
        How::Clsact => "clsact",
    }
}
