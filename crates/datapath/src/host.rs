//! The data plane of one host.

use crate::error::failed;
use crate::link::link_of;
use crate::sessions::ImportReceipt;
use crate::shared::{self, Features, Shared};
use crate::sys;
use crate::tables::Loaded;
use crate::vnic::{self, RuleCount, Vnic};
use crate::{
    Attachment, DeviceCounters, Error, Event, Explanation, Hooks, How, TestVerdict, VnicCounters,
    VnicSpec, VnicStatus, abi, events, explain, netdev,
};
use lictor_types::{
    Direction, Endpoint, HostTables, Mac, Mode, Probe, RuleId, SESSIONS_PER_HOST_DEFAULT,
    SessionKey, SessionRecord, Tallies, Tally, Timeouts, VNICS_PER_HOST_MAX, VnicId, VnicState,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One host's data plane, bound to a pin folder. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Datapath {
    folder: PathBuf,
    shared: Shared,
    vnics: BTreeMap<VnicId, Vnic>,
    how: How,
    cpus: usize,
    budget: u64,
    steering: bool,
}

impl Datapath {
    /// Whether this kernel and this process can carry the data plane.
    ///
    /// # Errors
    /// [`Error::Permission`] or [`Error::Kernel`], each with the next step.
    pub fn check_kernel() -> Result<Features, Error> {
        shared::check_kernel()
    }

    /// Opens or makes the pins below a folder on a BPF file system, and finds the vnics that were
    /// attached before. Changes nothing for those. What a crash left half made is removed: it was
    /// never reported as attached.
    ///
    /// # Errors
    /// As [`Datapath::check_kernel`]; [`Error::NotBpffs`]; [`Error::Pin`].
    pub fn open(pin_root: &Path) -> Result<Self, Error> {
        libbpf_rs::set_print(None);
        let features = Self::check_kernel()?;
        let folder = shared::folders(pin_root)?;
        let shared = Shared::open(&folder)?;
        let mut vnics = BTreeMap::new();
        let reading = failed("listing the vnics' pins");
        for entry in fs::read_dir(folder.join("vnics")).map_err(&reading)? {
            let path = entry.map_err(&reading)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.parse().ok()) else {
                continue;
            };
            match Vnic::open(&path) {
                Ok(mut vnic) if vnic.config()?.vnic == id => {
                    vnic.finish_resize()?;
                    vnics.insert(VnicId(id), vnic);
                }
                _ => vnic::remove_pins(&path)?,
            }
        }
        let known = vnics.iter().map(|(id, vnic)| Ok((*id, vnic.config()?)));
        shared.restore_locals(&known.collect::<Result<_, Error>>()?)?;
        let cpus = sys::possible_cpus().map_err(failed("counting CPUs"))?;
        let how = if features.tcx { How::Tcx } else { How::Clsact };
        Ok(Self {
            folder,
            shared,
            vnics,
            how,
            cpus,
            budget: SESSIONS_PER_HOST_DEFAULT,
            steering: false,
        })
    }

    /// Attaches new vnics by clsact even where the kernel has tcx.
    pub fn prefer_clsact(&mut self) {
        self.how = How::Clsact;
    }

    pub(crate) fn vnic(&self, vnic: VnicId) -> Result<&Vnic, Error> {
        self.vnics.get(&vnic).ok_or(Error::UnknownVnic { vnic })
    }

    /// Attaches a vnic's programs to its device, in hold. Again with the same device: whatever is
    /// missing of the hooks is repaired, another quota is taken over; state and sessions stay. With
    /// another device (or a new one of the same name): the old attachment and its sessions are
    /// removed first.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::Refused`], [`Error::Program`]; nothing is attached then.
    pub fn attach(&mut self, spec: &VnicSpec) -> Result<Attachment, Error> {
        let found = netdev::find(&spec.device).map_err(failed("reading the device"))?;
        let device = found.ok_or_else(|| Error::NoDevice {
            device: spec.device.clone(),
        })?;
        self.check(spec, &device)?;
        if let Some(vnic) = self.vnics.get(&spec.vnic) {
            let config = vnic.config()?;
            let same = vnic::is_device(&config, &spec.device, device.ifindex)
                && config.mac == spec.mac.0
                && vnic::endpoint_of(&config) == spec.endpoint
                && config.segment == spec.segment.0
                && link_of(&config) == spec.link;
            if same {
                if config.sessions_max != spec.sessions_max {
                    self.resize(spec.vnic, spec.sessions_max)?;
                }
                let vnic = self.vnic(spec.vnic)?;
                vnic.locate(self.shared.set_local(&config, Some(device.mtu))?)?;
                vnic.hang(device.ifindex, vnic::how_of(&config))?;
                return vnic.attachment(&config, &device, true);
            }
            self.detach(spec.vnic)?;
        }
        let folder = self.folder.join("vnics").join(spec.vnic.to_string());
        vnic::remove_pins(&folder)?;
        let how = self.how;
        let attached = Vnic::load(&folder, &self.shared, spec).and_then(|vnic| {
            let attached = vnic.attach(spec, &device, how).and_then(|attachment| {
                let place = self.shared.set_local(&vnic.config()?, Some(device.mtu))?;
                vnic.locate(place).map(|()| attachment)
            });
            match attached {
                Ok(attachment) => Ok((vnic, attachment)),
                Err(error) => vnic.detach().and(Err(error)),
            }
        });
        match attached {
            Ok((vnic, attachment)) => {
                self.look_at_bridge(spec.vnic, &vnic)?;
                self.vnics.insert(spec.vnic, vnic);
                Ok(attachment)
            }
            Err(error) => {
                self.shared.remove_local(spec.vnic)?;
                vnic::remove_pins(&folder).and(Err(error))
            }
        }
    }

    fn check(&self, spec: &VnicSpec, device: &netdev::Device) -> Result<(), Error> {
        let refused = |why: String| {
            Err(Error::Refused {
                vnic: spec.vnic,
                why,
            })
        };
        if spec.vnic.0 == 0 {
            return refused("zero is no vnic".into());
        }
        // The hypervisor's own device may be any.
        if let (Endpoint::Guest, Some(why)) = (spec.endpoint, device.kind.unhookable()) {
            return refused(format!("{} cannot be guarded: {why}", spec.device));
        }
        if spec.sessions_max == 0 {
            return refused("its quota of sessions is zero; give it at least one".into());
        }
        if spec.segment.0 > abi::SEGMENT_MAX {
            return refused(format!(
                "segment {} is beyond {}, the largest number of an L2 domain",
                spec.segment,
                abi::SEGMENT_MAX
            ));
        }
        self.check_budget(spec.vnic, spec.sessions_max)?;
        let mut vlans = spec.link.vlans.iter().flatten();
        if let Some(vlan) = vlans.find(|vlan| vlan.segment.0 > abi::SEGMENT_MAX) {
            let (id, segment, max) = (vlan.id, vlan.segment, abi::SEGMENT_MAX);
            return refused(format!(
                "VLAN {id} leads to segment {segment}; the largest number is {max}"
            ));
        }
        if spec.mac.0[0] & 1 == 1 {
            return refused(format!("{} names a group of stations, not one", spec.mac));
        }
        for (other, vnic) in &self.vnics {
            let config = vnic.config()?;
            if *other != spec.vnic && vnic::is_device(&config, &spec.device, device.ifindex) {
                return refused(format!(
                    "{} belongs to vnic {other}; detach it",
                    spec.device
                ));
            }
        }
        let new = !self.vnics.contains_key(&spec.vnic);
        if new && self.vnics.len() >= VNICS_PER_HOST_MAX as usize {
            return refused(format!(
                "this host protects {VNICS_PER_HOST_MAX} vnics already"
            ));
        }
        Ok(())
    }

    /// Switches steering between the guests of this host on or off, and looks at their bridges.
    ///
    /// # Errors
    /// As [`Datapath::refresh_steering`].
    pub fn set_steering(&mut self, on: bool) -> Result<u32, Error> {
        self.steering = on;
        self.refresh_steering()
    }

    /// Looks again at which bridge each vnic is a port of, and says how many vnics may be steered
    /// to and from: those whose port forwards and is not isolated, on a bridge that does not filter
    /// VLANs and forgets stations. Call it whenever that may have changed; until then the kernel
    /// goes by the last look. It acts on the bridges of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn refresh_steering(&self) -> Result<u32, Error> {
        let mut steered = 0;
        for (id, vnic) in &self.vnics {
            steered += u32::from(self.look_at_bridge(*id, vnic)?);
        }
        Ok(steered)
    }

    /// Whether the vnic may be steered to and from.
    fn look_at_bridge(&self, id: VnicId, vnic: &Vnic) -> Result<bool, Error> {
        let found = if self.steering {
            vnic.steering_bridge()?
        } else {
            None
        };
        let found = found.unwrap_or_default();
        self.shared.set_local_bridge(id, found)?;
        Ok(found.0 != 0)
    }

    /// How many sessions all vnics of the host may have together. Those that are attached stay,
    /// whatever they have.
    pub fn set_budget(&mut self, sessions: u64) {
        self.budget = sessions;
    }

    /// What is left of the budget for another vnic.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn budget_left(&self) -> Result<u64, Error> {
        Ok(self.budget.saturating_sub(self.quotas(None)?))
    }

    /// The quotas of all vnics but one.
    fn quotas(&self, but: Option<VnicId>) -> Result<u64, Error> {
        let mut sum = 0;
        for (id, vnic) in &self.vnics {
            if Some(*id) != but {
                sum += u64::from(vnic.config()?.sessions_max);
            }
        }
        Ok(sum)
    }

    fn check_budget(&self, vnic: VnicId, quota: u32) -> Result<(), Error> {
        let left = self.budget.saturating_sub(self.quotas(Some(vnic))?);
        if u64::from(quota) <= left {
            return Ok(());
        }
        let why = format!(
            "a quota of {quota} sessions does not fit: {left} of the host's budget of {} are left; \
             lower the quota, or raise the host's budget",
            self.budget
        );
        Err(Error::Refused { vnic, why })
    }

    /// Gives a vnic room for more or fewer sessions while packets pass. Every session stays; where
    /// there are more than a lower quota allows, only new ones are refused.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`]; [`Error::Refused`] beyond the host's budget; [`Error::System`],
    /// after which the old table stays in use.
    pub fn resize(&mut self, vnic: VnicId, quota: u32) -> Result<(), Error> {
        self.vnic(vnic)?;
        self.check_budget(vnic, quota)?;
        let found = self.vnics.get_mut(&vnic);
        found.ok_or(Error::UnknownVnic { vnic })?.resize(quota)
    }

    /// Bytes that the kernel keeps for a vnic's session tables, and how many sessions fit.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn session_memory(&self, vnic: VnicId) -> Result<(u64, u32), Error> {
        let vnic = self.vnic(vnic)?;
        Ok((vnic.sessions.bytes(), vnic.config()?.sessions_max))
    }

    /// Takes the programs off the device and forgets the vnic with its sessions. The device, if it
    /// is still there, forwards unprotected from then on.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::Pin`].
    pub fn detach(&mut self, vnic: VnicId) -> Result<(), Error> {
        self.vnic(vnic)?;
        self.shared.remove_local(vnic)?;
        self.vnic(vnic)?.detach()?;
        self.vnics.remove(&vnic);
        Ok(())
    }

    /// Every attached vnic, with its hooks as the kernel has them now.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel cannot be asked.
    pub fn vnics(&self) -> Result<Vec<VnicStatus>, Error> {
        self.vnics.values().map(Vnic::status).collect()
    }

    /// Whether a vnic is attached. Nothing is read for it: it is asked while guests stand still.
    #[must_use]
    pub fn has(&self, vnic: VnicId) -> bool {
        self.vnics.contains_key(&vnic)
    }

    /// Whether a vnic's device is the host's side of a veth pair, as a container has it.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn is_veth(&self, vnic: VnicId) -> Result<bool, Error> {
        self.vnic(vnic)?.is_veth()
    }

    /// Reads back whether both programs are attached, and first.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn verify_hooks(&self, vnic: VnicId) -> Result<Hooks, Error> {
        self.vnic(vnic)?.hooks()
    }

    /// Loads tables whole or not at all: built beside the active ones, read back, compared, then
    /// switched to by one store.
    ///
    /// # Errors
    /// [`Error::Tables`], [`Error::Row`], [`Error::ReadBack`], [`Error::System`]; the last good
    /// tables stay in each case.
    pub fn load(&mut self, tables: &HostTables) -> Result<Loaded, Error> {
        self.shared.load(tables)
    }

    /// The active tables, from the kernel's maps. Their digest equals what was loaded.
    ///
    /// # Errors
    /// [`Error::NothingLoaded`], [`Error::ReadBack`], [`Error::System`].
    pub fn read_back(&self) -> Result<HostTables, Error> {
        self.shared.read_back()
    }

    /// Sets this host's time-outs. A live session keeps the time that it has until its next packet.
    ///
    /// # Errors
    /// [`Error::Timeouts`] names the one that is outside the limits; [`Error::System`].
    pub fn set_timeouts(&self, timeouts: &Timeouts) -> Result<(), Error> {
        timeouts.check()?;
        self.shared.set_timeouts(timeouts)
    }

    /// This host's time-outs, as the programs have them.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn timeouts(&self) -> Result<Timeouts, Error> {
        self.shared.timeouts()
    }

    /// Sets whether a vnic forwards. The next packet obeys.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn set_state(&self, vnic: VnicId, state: VnicState) -> Result<(), Error> {
        let vnic = self.vnic(vnic)?;
        let config = abi::VnicConfig {
            state: state as u32,
            ..vnic.config()?
        };
        // Others forget where it is before it is closed, and learn it after it has opened.
        if state != VnicState::Open {
            self.shared.set_local(&config, None)?;
        }
        vnic.set_config(&config)?;
        match state {
            VnicState::Open => self.shared.set_local(&config, None).map(drop),
            _ => Ok(()),
        }
    }

    /// One vnic as it is.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn status(&self, vnic: VnicId) -> Result<VnicStatus, Error> {
        self.vnic(vnic)?.status()
    }

    /// Whether a vnic forwards.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn state(&self, vnic: VnicId) -> Result<VnicState, Error> {
        Ok(self.vnic(vnic)?.status()?.state)
    }

    /// Says what a denial does at a vnic from the next packet on. `trial` is how long
    /// [`Mode::Trial`] lasts before the kernel itself goes back to observing, whether or not
    /// anybody is left to tell it; [`Mode::Enforce`] confirms.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn set_mode(&self, vnic: VnicId, mode: Mode, trial: Duration) -> Result<(), Error> {
        self.vnic(vnic)?.set_mode(mode, trial)
    }

    /// Moves a vnic's clock forward, so that a test need not wait for a time-out.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn advance_clock(&self, vnic: VnicId, by: Duration) -> Result<(), Error> {
        let vnic = self.vnic(vnic)?;
        let config = vnic.config()?;
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let clock_offset_ns = config.clock_offset_ns.saturating_add(by);
        vnic.set_config(&abi::VnicConfig {
            clock_offset_ns,
            ..config
        })
    }

    /// Stops a vnic's clock at a moment, so that a test may compare times exactly.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn fix_clock(&self, vnic: VnicId, at: Duration) -> Result<(), Error> {
        let vnic = self.vnic(vnic)?;
        vnic.set_config(&abi::VnicConfig {
            clock_fixed_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            ..vnic.config()?
        })
    }

    /// Every live session of a vnic.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn export(&self, vnic: VnicId) -> Result<Vec<SessionRecord>, Error> {
        self.vnic(vnic)?.export()
    }

    /// The keys of a vnic's sessions, some of them perhaps twice.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`].
    pub fn each_key(&self, vnic: VnicId, sink: impl FnMut(SessionKey)) -> Result<(), Error> {
        self.vnic(vnic)?.each_key(sink);
        Ok(())
    }

    /// Takes sessions in. Each is judged by this host's release at its first packet.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`]. A record that does not fit is no error: the
    /// receipt names it.
    pub fn import(&self, vnic: VnicId, records: &[SessionRecord]) -> Result<ImportReceipt, Error> {
        self.vnic(vnic)?.import(records)
    }

    /// Removes sessions and says how many of them were there.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn remove_sessions(&self, vnic: VnicId, keys: &[SessionKey]) -> Result<u64, Error> {
        self.vnic(vnic)?.remove_sessions(keys)
    }

    /// Removes every session of a vnic.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn purge(&self, vnic: VnicId) -> Result<u64, Error> {
        self.vnic(vnic)?.purge()
    }

    /// Removes sessions that have expired, which otherwise hold their place until the same
    /// conversation begins again.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn sweep(&self, vnic: VnicId) -> Result<u64, Error> {
        self.vnic(vnic)?.sweep()
    }

    /// Goes on with such a sweep where the last one has left off, for a few milliseconds at most:
    /// what a host does each second must not take longer for a guest with many sessions.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn sweep_part(&self, vnic: VnicId) -> Result<u64, Error> {
        self.vnic(vnic)?.sweep_part()
    }

    /// How many sessions a vnic's tables hold, as the program counts them: also those that have
    /// expired and were not taken out yet. Takes as long for a million as for one.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`].
    pub fn sessions_held(&self, vnic: VnicId) -> Result<u64, Error> {
        Ok(self.vnic(vnic)?.sessions_held())
    }

    /// How many live sessions a vnic has, by a look at each.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn session_count(&self, vnic: VnicId) -> Result<u64, Error> {
        self.vnic(vnic)?.session_count()
    }

    /// A vnic's counters by direction and reason.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn counters(&self, vnic: VnicId) -> Result<VnicCounters, Error> {
        self.vnic(vnic)?.counters(self.cpus)
    }

    /// What each rule decided at the vnics that are attached now, together.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn rule_counters(&self) -> Result<BTreeMap<RuleId, RuleCount>, Error> {
        let mut sums: BTreeMap<RuleId, RuleCount> = BTreeMap::new();
        for vnic in self.vnics.values() {
            for (rule, count) in vnic.rule_counters()? {
                let sum = sums.entry(rule).or_default();
                *sum = sum.plus(count);
            }
        }
        Ok(sums)
    }

    /// What each rule decided at one vnic.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn rule_counters_of(&self, vnic: VnicId) -> Result<BTreeMap<RuleId, RuleCount>, Error> {
        self.vnic(vnic)?.rule_counters()
    }

    /// What was counted of a vnic here and, as far as that came along with its guest, elsewhere.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn tally(&self, vnic: VnicId) -> Result<Tallies, Error> {
        self.vnic(vnic)?.tally(self.cpus)
    }

    /// Adds what was counted elsewhere to a vnic's tally; the kernel's counters stay as they are.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn add_tally(&self, vnic: VnicId, counted: &Tallies) -> Result<(), Error> {
        self.vnic(vnic)?.change_brought(counted, Tally::plus)
    }

    /// Takes off a vnic's tally what goes along with its guest; see [`Self::add_tally`].
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::System`].
    pub fn take_tally(&self, vnic: VnicId, counted: &Tallies) -> Result<(), Error> {
        self.vnic(vnic)?.change_brought(counted, Tally::minus)
    }

    /// Events that found no room, and decisions that no rule counter could count.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn lost(&self) -> Result<(u64, u64), Error> {
        Ok((
            self.host_counter(abi::HOST_EVENTS_LOST)?,
            self.host_counter(abi::HOST_RULES_UNCOUNTED)?,
        ))
    }

    /// Events that were not reported because their rule may report no more in one second.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn events_limited(&self) -> Result<u64, Error> {
        self.host_counter(abi::HOST_EVENTS_LIMITED)
    }

    fn host_counter(&self, index: u32) -> Result<u64, Error> {
        let value = self.shared.host_counters.get(&index);
        let value = value.map_err(failed("reading counters"))?;
        Ok(value.unwrap_or_default())
    }

    /// The device's own counters, so that verdicts can be reconciled with it.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::NoDevice`], [`Error::System`].
    pub fn device_counters(&self, vnic: VnicId) -> Result<DeviceCounters, Error> {
        self.vnic(vnic)?.device_counters()
    }

    /// Waits at most `timeout` for events, hands each to `sink` and says how many there were. One
    /// reader per host: two would share the events between them.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn poll_events(
        &mut self,
        timeout: Duration,
        mut sink: impl FnMut(Event),
    ) -> Result<usize, Error> {
        events::poll(&self.folder.join("events"), timeout, &mut sink)
    }

    /// A vnic's program of one direction, for whoever measures it. To run it is all that a caller
    /// may do with it.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`].
    pub fn program(&self, vnic: VnicId, direction: Direction) -> Result<BorrowedFd<'_>, Error> {
        Ok(self.vnic(vnic)?.program(direction))
    }

    /// As [`Datapath::test_run`], for a frame that comes in by another local vnic's device.
    ///
    /// # Errors
    /// As [`Datapath::test_run`]; [`Error::UnknownVnic`] for either.
    pub fn test_run_from(
        &self,
        from: VnicId,
        vnic: VnicId,
        direction: Direction,
        packet: &[u8],
    ) -> Result<TestVerdict, Error> {
        let by = self.vnic(from)?.config()?.ifindex;
        self.vnic(vnic)?.test_run(direction, packet, by)
    }

    /// What the loaded program would do with a packet, and what that would meet on its way. Nothing
    /// is counted, reported or remembered: a second instance of the program runs. Without a
    /// direction the packet is the guest's own if its source is.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`], [`Error::NothingLoaded`], [`Error::ReadBack`], [`Error::System`].
    pub fn explain(
        &self,
        vnic: VnicId,
        probe: &Probe,
        direction: Option<Direction>,
    ) -> Result<Explanation, Error> {
        let neighbour = |vnic| {
            let config = self.vnics.get(&vnic)?.config().ok()?;
            Some((Mac(config.mac), config.ifindex))
        };
        let asked = explain::Asked {
            folder: &self.folder,
            shared: &self.shared,
            vnic: self.vnic(vnic)?,
            neighbour: &neighbour,
        };
        explain::run(&asked, &self.read_back()?, (probe, direction))
    }

    /// Runs a vnic's own program on a frame that nobody sent, as if it came from the uplink. It
    /// counts, and it opens and advances sessions as any packet does; nothing is forwarded.
    ///
    /// # Errors
    /// [`Error::UnknownVnic`]; [`Error::System`] for a frame shorter than an Ethernet header.
    pub fn test_run(
        &self,
        vnic: VnicId,
        direction: Direction,
        packet: &[u8],
    ) -> Result<TestVerdict, Error> {
        self.vnic(vnic)?.test_run(direction, packet, 0)
    }
}
