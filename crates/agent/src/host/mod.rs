//! What one host enforces: the release and bindings it has verified, the vnics it has attached,
//! and the evidence of both. One owner, one thread: nothing here is shared.

mod drift;
mod explain;
mod fresh;
mod handover;
mod heartbeat;
mod links;
mod listing;
mod proofs;
mod report;
mod vnics;

pub use handover::Arrival;
pub use heartbeat::Unproven;
pub use report::SAMPLES_PER_ROUND_MAX;
pub(crate) use report::judged_of;

use drift::Unrepaired;
use heartbeat::Proofs;
use links::Links;

use crate::clock::TOLERANCE_MS;
use crate::control::Controls;
use crate::custody::Custody;
use crate::state::{LogFile, StateDir};
use crate::{AgentError, Config};
use lictor_datapath::Datapath;
use lictor_evidence::{Body, Entry, Log, SigningKey};
use lictor_policy::Moment;
use lictor_types::{Generation, GuestId, HostTables, VnicId};
use lictor_wire::binding::{self, BindingLog};
use lictor_wire::release::{self, Floor};
use lictor_wire::{
    AddressAttestation, Binding, Bindings, Envelope, Freshness, RosterHost, Trust, VerifiedRelease,
    host_tables,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

/// The agent of one host, without sockets and without a clock: times are parameters.
#[derive(Debug)]
pub struct Host {
    _lock: File,
    config: Config,
    state: StateDir,
    key: SigningKey,
    trust: Trust,
    datapath: Datapath,
    log: Log<LogFile>,
    release: Option<VerifiedRelease>,
    bindings: Bindings,
    bindings_signed: BindingLog,
    custody: Custody,
    /// The last change of custody may not be on the disk.
    custody_unsaved: bool,
    /// What the kernel should hold.
    desired: HostTables,
    /// The hour for which that is: rules and observations have a last day, and windows open and
    /// close.
    planned: Option<Moment>,
    /// The latest that the clock has said.
    seen_ms: u64,
    refused: Option<String>,
    kernel: String,
    links: Links,
    unrepaired: Unrepaired,
    proofs: Proofs,
    controls: Controls,
    /// A release that was verified and is newer than the one that decides, and why it does not.
    newer: Option<(Generation, String)>,
    /// What witnesses have said last of which release is the newest.
    fresh: Option<Freshness>,
    /// Guests that go on without their sessions, and until when these may be taken up.
    lost: BTreeMap<GuestId, u64>,
    /// Packets that each vnic has refused for want of room, and those that did lately.
    refusals: BTreeMap<VnicId, u64>,
    full: BTreeMap<VnicId, String>,
    /// Why the last entry of evidence could not be written.
    unrecorded: Option<String>,
    /// When the log was read again after that.
    reopened_ms: u64,
    /// Of the newest entry that was here when the agent began.
    recorded_ms: u64,
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
        let lock = state.lock()?;
        Datapath::check_kernel()?;
        let mut datapath = Datapath::open(&config.pin_root)?;
        datapath.set_budget(config.sessions);
        datapath.set_steering(config.steering)?;
        datapath.set_timeouts(&config.timeouts)?;
        let log = Log::open(
            LogFile::open(&state, &key.verify_key())?,
            key.verify_key(),
            None,
        )?;
        let kernel = nix::sys::utsname::uname().map_or_else(
            |_| String::new(),
            |names| names.release().to_string_lossy().into_owned(),
        );
        let recorded_ms = newest_ms(&log)?;
        let round = Duration::from_millis(config.round_ms);
        let controls = Controls::watch(&config.controls, round);
        let custody = state.custody()?;
        let fresh = fresh::kept(&state, &trust)?;
        let mut host = Self {
            _lock: lock,
            config,
            state,
            custody,
            custody_unsaved: false,
            key,
            trust,
            datapath,
            log,
            release: None,
            bindings: Bindings::default(),
            bindings_signed: BindingLog::default(),
            desired: HostTables::empty(),
            planned: None,
            seen_ms: 0,
            refused: None,
            kernel,
            links: Links::new(now_ms),
            unrepaired: Unrepaired::new(),
            proofs: Proofs::default(),
            controls,
            newer: None,
            fresh,
            lost: BTreeMap::new(),
            refusals: BTreeMap::new(),
            full: BTreeMap::new(),
            unrecorded: None,
            reopened_ms: 0,
            recorded_ms,
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

    /// The agent's key.
    #[must_use]
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Whose signatures count here.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The release that is enforced, if there is one.
    #[must_use]
    pub const fn release(&self) -> Option<&VerifiedRelease> {
        self.release.as_ref()
    }

    /// The hosts that the release knows.
    #[must_use]
    pub fn roster(&self) -> Vec<RosterHost> {
        let release = self.release.as_ref();
        release.map_or_else(Vec::new, |verified| verified.release().roster.clone())
    }

    /// The number of the release that decides; zero if there is none.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.release
            .as_ref()
            .map_or(Generation(0), |known| known.release().generation)
    }

    /// Why evidence cannot be written now.
    #[must_use]
    pub fn unrecorded(&self) -> Option<&str> {
        self.unrecorded.as_deref()
    }

    /// When the newest entry was made that was here when the agent began.
    #[must_use]
    pub const fn recorded_ms(&self) -> u64 {
        self.recorded_ms
    }

    /// The bindings that are loaded.
    #[must_use]
    pub const fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The state directory.
    #[must_use]
    pub const fn state(&self) -> &StateDir {
        &self.state
    }

    /// The attestations of this host that the manager's log does not have yet: they belong to what
    /// is loaded all the same, because an address that was attested a moment ago must not vanish
    /// when the manager is slow, and they are what the manager must be told.
    #[must_use]
    pub fn missing_attestations(&self, log: &BindingLog) -> Vec<Envelope> {
        let theirs: Vec<AddressAttestation> = log.attestations.iter().filter_map(parse).collect();
        let bound: Vec<Binding> = log.bindings.iter().filter_map(parse).collect();
        let missing = |envelope: &&Envelope| {
            let Some(own) = parse::<AddressAttestation>(envelope) else {
                return false;
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
            own.host == self.config.host && newest && !known && still_bound
        };
        let own = self.bindings_signed.attestations.iter();
        own.filter(missing).cloned().collect()
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
        if let Err(error) = self.witnessed(&verified, floor) {
            return self.refuse(error.to_string(), true, now_ms);
        }
        let same_release = self
            .release
            .as_ref()
            .is_some_and(|known| known.digest() == verified.digest());
        if same_release && self.bindings_signed == *log {
            return Ok(Offered::Known);
        }
        let generation = verified.release().generation;
        if self.release.is_some() && generation > self.generation() {
            self.newer = Some((generation, "it is not loaded yet".into()));
        }
        let bindings = match binding::verify_since(log, &verified, &self.bindings) {
            Ok(bindings) => bindings,
            Err(error) => return self.refuse(error.to_string(), false, now_ms),
        };
        let now = self.moment(&verified, now_ms);
        let enforced = self.with_quarantine(&bindings);
        let desired = match host_tables(&verified, &enforced, &self.config.host, now) {
            Ok(tables) => tables,
            Err(error) => {
                return self.refuse(AgentError::from(error).chain(), true, now_ms);
            }
        };
        let digest = verified.digest();
        // The floor is durable before the kernel changes: generations never go back on a host.
        self.state
            .keep_release(envelope, Floor { generation, digest })?;
        self.load(desired)?;
        self.planned = Some(now);
        self.state.keep_bindings(log)?;
        self.refused = None;
        self.newer = None;
        self.bindings_signed = log.clone();
        self.bindings = bindings;
        self.release = Some(verified);
        self.record_loaded(same_release, now_ms)?;
        Ok(Offered::Loaded)
    }

    /// The hour of a plan. A clock that says less than it said before, than this host has recorded,
    /// or than the release was made at, is not believed: set back, it would open a window again.
    fn moment(&self, release: &VerifiedRelease, now_ms: u64) -> Moment {
        let floor = self.seen_ms.max(self.recorded_ms);
        let floor = floor.max(release.release().created_ms);
        let now = Moment::from_unix_seconds(now_ms / 1_000);
        match now_ms.saturating_add(TOLERANCE_MS) < floor {
            true => now.doubted(),
            false => now,
        }
    }

    /// Once for each distinct refusal: a manager that offers the same thing every second is no
    /// news.
    fn refuse(
        &mut self,
        reason: String,
        is_release: bool,
        now_ms: u64,
    ) -> Result<Offered, AgentError> {
        if let Some((_, why)) = &mut self.newer {
            why.clone_from(&reason);
        }
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

    /// Which guests are cut off here because no agent claims them has changed.
    pub(crate) fn replan(&mut self, now_ms: u64) -> Result<(), AgentError> {
        self.planned = None;
        self.plan_for_now(now_ms)
    }

    fn with_quarantine(&self, bindings: &Bindings) -> Bindings {
        let quarantined = self.custody.quarantined();
        bindings.with_quarantine(quarantined.map(|(guest, _)| guest.clone()))
    }

    /// A new day may be past the last one of a rule, or of a guest's observation, and with a new
    /// hour windows close and open: whether or not a manager is there to publish anything.
    fn plan_for_now(&mut self, now_ms: u64) -> Result<(), AgentError> {
        let Some(release) = &self.release else {
            return Ok(());
        };
        let now = self.moment(release, now_ms);
        self.seen_ms = self.seen_ms.max(now_ms);
        if self.planned == Some(now) {
            return Ok(());
        }
        let enforced = self.with_quarantine(&self.bindings);
        let desired = host_tables(release, &enforced, &self.config.host, now)?;
        if desired.digest() == self.desired.digest() {
            self.planned = Some(now);
            return Ok(());
        }
        self.load(desired)?;
        self.planned = Some(now);
        self.record_loaded(false, now_ms)
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
}

fn newest_ms(log: &Log<LogFile>) -> Result<u64, AgentError> {
    let Some(last) = log.size().checked_sub(1) else {
        return Ok(0);
    };
    Ok(Entry::from_bytes(&log.entry(last)?)?.time_ms)
}

/// Reads a payload that is verified again before anything is loaded.
fn parse<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> Option<T> {
    serde_json::from_slice(&envelope.unverified_payload().ok()?).ok()
}
