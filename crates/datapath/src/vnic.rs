//! One vnic: its pair of programs, its maps, its two hooks.

use crate::abi::{
    self, Counter, EventBudget, Fragment, FragmentKey, RuleSet, RuleState, Terms, VnicConfig,
};
use crate::error::failed;
use crate::events::would_of;
use crate::kind::Kind;
use crate::link::{link_of, with_link};
use crate::shared::Shared;
use crate::slots::Slots;
use crate::sys::{self, Given, Hook, Map, Mapped, Shape};
use crate::terms::new_proof;
use crate::{Error, PROGRAM, netdev};
use libbpf_rs::MapCore;
use lictor_types::{
    Direction, Endpoint, Link, Mac, Mode, RULES_PER_VNIC_MAX, Reason, RuleId, Segment, Verdict,
    VnicId, VnicName, VnicState, Would,
};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is to be protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VnicSpec {
    /// Its number, the same on every host. Not zero.
    pub vnic: VnicId,
    /// Its name, for people.
    pub name: VnicName,
    /// The tap, or the host's side of the veth pair.
    pub device: String,
    /// The guest's MAC.
    pub mac: Mac,
    /// The L2 domain.
    pub segment: Segment,
    /// The quota of sessions.
    pub sessions_max: u32,
    /// Whose device it is.
    pub endpoint: Endpoint,
    /// What it may be on its link beyond that.
    pub link: Link,
}

/// By which mechanism the programs hang on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Pinned links (Linux 6.6).
    Tcx,
    /// Filters with a fixed priority and handle.
    Clsact,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets; a super-packet of an offload counts once.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// The network device's own counters, as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCounters {
    /// Received by the device: every packet that the egress program has seen.
    pub from_guest: Count,
    /// Sent by the device: what the ingress program allowed.
    pub toward_guest: Count,
}

/// How an attachment began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The mechanism.
    pub how: How,
    /// The device's packets at that moment, [from the guest, toward it]: anything above zero went
    /// by unprotected.
    pub packets_before: [u64; 2],
    /// The device was up already.
    pub was_up: bool,
    /// The device was a port of a bridge already.
    pub was_enslaved: bool,
    /// Programs of others that run before ours, over both hooks: drift.
    pub foreign: u32,
    /// The vnic was attached to this device before, and has kept its state and sessions.
    pub adopted: bool,
}

/// One hook as read back from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookState {
    /// Our program is there.
    pub attached: bool,
    /// Programs of others that run before it.
    pub foreign_before: u32,
}

/// Both hooks of a vnic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hooks {
    /// What the guest sends.
    pub egress: HookState,
    /// What goes toward the guest.
    pub ingress: HookState,
}

impl Hooks {
    /// Both are attached and first.
    #[must_use]
    pub fn intact(&self) -> bool {
        let first = HookState {
            attached: true,
            foreign_before: 0,
        };
        self.egress == first && self.ingress == first
    }

    /// Both are attached.
    #[must_use]
    pub fn attached(&self) -> bool {
        self.egress.attached && self.ingress.attached
    }
}

/// A vnic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VnicStatus {
    /// What was asked for.
    pub spec: VnicSpec,
    /// The device's number when it was attached.
    pub ifindex: u32,
    /// Whether it forwards.
    pub state: VnicState,
    /// What a denial does.
    pub mode: Mode,
    /// By which mechanism it is attached.
    pub how: How,
    /// What the device had counted when it was attached, [from the guest, toward it].
    pub packets_before: [u64; 2],
    /// What the kernel says of the hooks now.
    pub hooks: Hooks,
}

/// One direction's counters since the vnic was attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectionCounters {
    /// Everything that the program has seen.
    pub seen: Count,
    /// Of those, what was steered past the bridge.
    pub steered: Count,
    /// By reason; those that never happened are left out.
    pub reasons: Vec<(Reason, Count)>,
}

impl DirectionCounters {
    /// Under this reason.
    #[must_use]
    pub fn reason(&self, wanted: Reason) -> Count {
        let found = self.reasons.iter().find(|(reason, _)| *reason == wanted);
        found.map_or_else(Count::default, |(_, count)| *count)
    }

    /// Everything that was forwarded.
    #[must_use]
    pub fn allowed(&self) -> Count {
        self.sum(|reason| (reason as u8) < Reason::PolicyDeny as u8)
    }

    /// Everything that was dropped.
    #[must_use]
    pub fn denied(&self) -> Count {
        self.sum(|reason| reason as u8 >= Reason::PolicyDeny as u8)
    }

    fn sum(&self, wanted: impl Fn(Reason) -> bool) -> Count {
        let chosen = self.reasons.iter().filter(|(reason, _)| wanted(*reason));
        chosen.fold(Count::default(), |sum, (_, count)| Count {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        })
    }
}

/// A vnic's counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VnicCounters {
    /// From the guest.
    pub egress: DirectionCounters,
    /// Toward the guest.
    pub ingress: DirectionCounters,
}

/// What a rule decided: packets that opened a session or were denied. Packets inside a session are
/// counted in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCount {
    /// Packets that the rule judged.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sessions that it opened.
    pub sessions: u64,
    /// Packets that it would have decided, were it not for observe mode.
    pub observed: u64,
}

impl RuleCount {
    fn of(state: &RuleState) -> Self {
        Self {
            packets: state.packets,
            bytes: state.bytes,
            sessions: state.sessions,
            observed: state.observed,
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
            sessions: self.sessions.saturating_add(other.sessions),
            observed: self.observed.saturating_add(other.observed),
        }
    }
}

/// What the program says of a packet that nobody sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestVerdict {
    /// Allow or deny.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// By which rule.
    pub rule: RuleId,
    /// What would have happened, were it not for observe mode.
    pub would: Option<Would>,
    /// The refusal that is sent back, if a rule rejects the packet and it can be answered.
    pub answer: Option<Vec<u8>>,
}

/// An attached vnic, by its pins.
#[derive(Debug)]
pub(crate) struct Vnic {
    folder: PathBuf,
    pub(crate) config: Map<u32, VnicConfig>,
    pub(crate) terms: Map<u32, Terms>,
    pub(crate) sessions: Slots,
    fragments: Map<FragmentKey, Fragment>,
    counters: Map<u32, Counter>,
    first_rules: Mapped<RuleSet>,
    rules: Map<u32, RuleState>,
    pub(crate) brought: Map<u64, [u64; 4]>,
    programs: [OwnedFd; 2],
}

const HUNDREDTH_NS: u64 = 10_000_000;
const PROGRAM_NAMES: [&str; 2] = ["from_guest", "toward_guest"];
const LINK_NAMES: [&str; 2] = ["link_from_guest", "link_toward_guest"];
const MAP_NAMES: [&str; 10] = [
    BROUGHT.name,
    "vnic",
    "terms",
    "fragments",
    "sessions",
    "session_table",
    "counters",
    "event_budget",
    "first_rules",
    "rules",
];
/// What was counted of the guest before it came here; no program knows of it.
const BROUGHT: Shape = Shape {
    kind: libbpf_sys::BPF_MAP_TYPE_HASH,
    name: "brought",
    key: size_of::<u64>(),
    value: size_of::<[u64; 4]>(),
    entries: 2 * abi::COUNTERS_PER_DIRECTION + RULES_PER_VNIC_MAX,
    flags: libbpf_sys::BPF_F_NO_PREALLOC,
};
/// Where the programs hang, that for egress first. What a guest's device receives comes from the
/// guest; what the host's own device receives goes toward the host.
const fn hooks_of(endpoint: Endpoint) -> [Hook; 2] {
    match endpoint {
        Endpoint::Guest => [Hook::Ingress, Hook::Egress],
        Endpoint::Host => [Hook::Egress, Hook::Ingress],
    }
}

pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

fn fixed(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = text.len().min(15);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

fn loose(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(16);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

impl Vnic {
    /// Opens the pins of a vnic that was attached before.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let pin = |name: &str| {
            let path = folder.join(name);
            sys::open_pin(&path).map_err(|source| Error::Pin {
                path,
                action: "opened",
                source,
            })
        };
        let sized = failed("checking the maps of a vnic");
        Ok(Self {
            folder: folder.to_owned(),
            config: Map::new(pin("vnic")?).map_err(&sized)?,
            terms: Map::new(pin("terms")?).map_err(&sized)?,
            sessions: Slots::open(pin("sessions")?, pin("session_table")?).map_err(&sized)?,
            fragments: Map::new(pin("fragments")?).map_err(&sized)?,
            counters: Map::new(pin("counters")?).map_err(&sized)?,
            first_rules: Mapped::new(pin("first_rules")?.as_fd()).map_err(&sized)?,
            rules: Map::new(pin("rules")?).map_err(&sized)?,
            brought: Map::new(pin(BROUGHT.name)?).map_err(&sized)?,
            programs: [pin(PROGRAM_NAMES[0])?, pin(PROGRAM_NAMES[1])?],
        })
    }

    /// Loads the pair of programs and pins them with their maps. Nothing is attached yet.
    pub(crate) fn load(folder: &Path, shared: &Shared, spec: &VnicSpec) -> Result<Self, Error> {
        Self::load_with(folder, &|name| shared.fd(name), spec)
    }

    /// As [`Self::load`], with only those shared maps that are lent; the others are its own.
    pub(crate) fn load_with<'a>(
        folder: &Path,
        lend: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
        spec: &VnicSpec,
    ) -> Result<Self, Error> {
        let making = |source| Error::Pin {
            path: folder.to_owned(),
            action: "made",
            source,
        };
        fs::create_dir(folder).map_err(making)?;
        let refused = |source| Error::Program {
            vnic: spec.vnic,
            source,
        };
        let sessions =
            Slots::create(spec.sessions_max).map_err(failed("making the session tables"))?;
        let mut object = libbpf_rs::ObjectBuilder::default()
            .open_memory(PROGRAM)
            .map_err(refused)?;
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if let Some(fd) = lend(&name) {
                map.reuse_fd(fd).map_err(refused)?;
            } else if name == "sessions" {
                map.reuse_fd(sessions.outer_fd()).map_err(refused)?;
            } else if name == "session_table" {
                map.reuse_fd(sessions.info_fd()).map_err(refused)?;
            }
        }
        let mut object = object.load().map_err(refused)?;
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if MAP_NAMES.contains(&name.as_str()) {
                map.pin(folder.join(name)).map_err(refused)?;
            }
        }
        for mut program in object.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            program.pin(folder.join(name)).map_err(refused)?;
        }
        let budget = sys::open_pin(&folder.join("event_budget"))
            .and_then(Map::<u32, EventBudget>::new)
            .map_err(failed("checking the maps of a vnic"))?;
        drop(budget);
        sys::map_create(&BROUGHT, None)
            .and_then(|brought| sys::pin(brought.as_fd(), &folder.join(BROUGHT.name)))
            .map_err(failed("making the map of what a guest brings along"))?;
        let vnic = Self::open(folder)?;
        vnic.write_terms(&Terms {
            proof: new_proof(),
            ..Terms::default()
        })?;
        Ok(vnic)
    }

    /// Forgets the datagrams that are under way in pieces.
    pub(crate) fn forget_fragments(&self) -> Result<(), Error> {
        let reading = failed("reading the table of fragments");
        for (key, _) in self.fragments.rows().map_err(&reading)? {
            self.fragments.remove(&key).map_err(&reading)?;
        }
        Ok(())
    }

    /// Takes over how far another vnic's rules are: their counts and what their limits have left.
    pub(crate) fn copy_rules(&self, from: &Self) -> Result<(), Error> {
        let copying = failed("copying what rules have counted");
        for index in 0..from.first_rules.len() {
            let set: RuleSet = from.first_rules.load(index, 0);
            self.first_rules.store(index, 0, &set);
        }
        for (rule, state) in from.rules.rows().map_err(&copying)? {
            self.rules.set(&rule, &state, 0).map_err(&copying)?;
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> Result<VnicConfig, Error> {
        let config = self.config.get(&0).map_err(failed("reading a vnic"))?;
        Ok(config.unwrap_or_default())
    }

    pub(crate) fn set_config(&self, config: &VnicConfig) -> Result<(), Error> {
        self.config
            .set(&0, config, 0)
            .map_err(failed("writing a vnic"))
    }

    /// What a denial does from the next packet on; a trial lasts for some time.
    pub(crate) fn set_mode(&self, mode: Mode, trial: Duration) -> Result<(), Error> {
        let now = self.now()?;
        let lasts = u64::try_from(trial.as_nanos()).unwrap_or(u64::MAX);
        let mode = match mode {
            Mode::Enforce => abi::MODE_ENFORCE,
            Mode::Observe => abi::MODE_OBSERVE,
            Mode::Trial => abi::MODE_TRIAL,
        };
        self.set_config(&VnicConfig {
            mode,
            trial_until_ns: now.saturating_add(lasts),
            ..self.config()?
        })
    }

    /// Notes where in `locals` the vnic is.
    pub(crate) fn locate(&self, place: u32) -> Result<(), Error> {
        let config = self.config()?;
        if config.place == place {
            return Ok(());
        }
        self.set_config(&VnicConfig { place, ..config })
    }

    /// The bridge by which the vnic may be steered to and from, and the ticks after which a packet
    /// must go through it: a quarter of the time after which it forgets a station. And the MTU.
    pub(crate) fn steering_bridge(&self) -> Result<Option<(u32, u32, u32)>, Error> {
        let config = self.config()?;
        let reading = failed("reading the bridge of a vnic");
        let device = netdev::find(&loose(&config.device)).map_err(&reading)?;
        let Some(device) = device.filter(|device| device.ifindex == config.ifindex) else {
            return Ok(None);
        };
        let usable = device
            .port
            .is_some_and(|port| port.forwarding && !port.isolated);
        if !usable || !device.up {
            return Ok(None);
        }
        let master = netdev::find_index(device.master).map_err(&reading)?;
        let bridge = master.and_then(|master| master.bridge);
        let fit = bridge.filter(|bridge| !bridge.vlan_filtering && bridge.ageing > 0);
        Ok(fit.map(|bridge| {
            let quarter = u64::from(bridge.ageing) * HUNDREDTH_NS / 4;
            let refresh = crate::slots::ticks(quarter).max(1);
            (device.master, refresh, device.mtu)
        }))
    }

    /// Begins in hold, then attaches: a packet that meets the program meets a closed vnic.
    pub(crate) fn attach(
        &self,
        spec: &VnicSpec,
        device: &netdev::Device,
        how: How,
    ) -> Result<Attachment, Error> {
        // A hypervisor that begins in hold would be cut off from whoever is to open it.
        let (state, endpoint, mode) = match spec.endpoint {
            Endpoint::Guest => (VnicState::Hold, abi::ENDPOINT_GUEST, abi::MODE_ENFORCE),
            Endpoint::Host => (VnicState::Open, abi::ENDPOINT_HOST, abi::MODE_OBSERVE),
        };
        let config = VnicConfig {
            state: state as u32,
            endpoint,
            mode,
            vnic: spec.vnic.0,
            segment: spec.segment.0,
            ifindex: device.ifindex,
            mac: spec.mac.0,
            attached_at_ns: sys::now_ns().map_err(failed("reading the clock"))?,
            device_base: [device.rx_packets, device.tx_packets],
            sessions_max: spec.sessions_max,
            hook: if how == How::Tcx {
                abi::HOOK_TCX
            } else {
                abi::HOOK_CLSACT
            },
            device: fixed(&spec.device),
            name: fixed(spec.name.as_str()),
            ..VnicConfig::default()
        };
        self.set_config(&with_link(config, &spec.link))?;
        self.hang(device.ifindex, how)?;
        let mut config = self.config()?;
        // Read again: a packet may have passed between the first look and the attachment.
        let after = netdev::find(&spec.device).map_err(failed("reading the device"))?;
        if let Some(after) = after.filter(|after| after.ifindex == device.ifindex) {
            config.device_base = [after.rx_packets, after.tx_packets];
            self.set_config(&config)?;
        }
        self.attachment(&config, device, false)
    }

    /// Attaches whichever hook is missing.
    pub(crate) fn hang(&self, ifindex: u32, how: How) -> Result<(), Error> {
        let attaching = failed("attaching to the device");
        let places = hooks_of(endpoint_of(&self.config()?));
        let hooks = self.hooks_on(ifindex, how);
        for (index, hook) in places.into_iter().enumerate() {
            if [hooks.egress, hooks.ingress][index].attached {
                continue;
            }
            let program = self.programs[index].as_fd();
            match how {
                How::Clsact => sys::clsact_attach(program, ifindex, hook).map_err(&attaching)?,
                How::Tcx => {
                    let path = self.folder.join(LINK_NAMES[index]);
                    unpin(&path)?;
                    let link = sys::tcx_attach(program, ifindex, hook).map_err(&attaching)?;
                    sys::pin(link.as_fd(), &path).map_err(|source| Error::Pin {
                        path,
                        action: "made",
                        source,
                    })?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn attachment(
        &self,
        config: &VnicConfig,
        device: &netdev::Device,
        adopted: bool,
    ) -> Result<Attachment, Error> {
        let hooks = self.hooks()?;
        Ok(Attachment {
            how: how_of(config),
            packets_before: config.device_base,
            was_up: device.up,
            was_enslaved: device.enslaved,
            foreign: hooks.egress.foreign_before + hooks.ingress.foreign_before,
            adopted,
        })
    }

    /// Whether its device is there and a veth.
    pub(crate) fn is_veth(&self) -> Result<bool, Error> {
        let ifindex = self.config()?.ifindex;
        let device = netdev::find_index(ifindex).map_err(failed("reading the device"))?;
        Ok(device.is_some_and(|device| device.kind == Kind::Veth))
    }

    /// The hooks as the kernel has them, if the device is still the one that was attached.
    pub(crate) fn hooks(&self) -> Result<Hooks, Error> {
        let config = self.config()?;
        let device = netdev::find(&loose(&config.device)).map_err(failed("reading the device"))?;
        if device.is_none_or(|device| device.ifindex != config.ifindex) {
            return Ok(Hooks::default());
        }
        Ok(self.hooks_on(config.ifindex, how_of(&config)))
    }

    fn hooks_on(&self, ifindex: u32, how: How) -> Hooks {
        // What cannot be read is reported as not attached: never take silence for protection.
        let state = |index: usize| self.hook(ifindex, how, index).unwrap_or_default();
        Hooks {
            egress: state(0),
            ingress: state(1),
        }
    }

    fn hook(&self, ifindex: u32, how: How, index: usize) -> io::Result<HookState> {
        let id = sys::prog_id(self.programs[index].as_fd())?;
        let hook = hooks_of(self.config().map_or(Endpoint::Guest, |c| endpoint_of(&c)))[index];
        if how == How::Tcx {
            let programs = sys::tcx_programs(ifindex, hook)?;
            let place = programs.iter().position(|program| *program == id);
            return Ok(HookState {
                attached: place.is_some(),
                foreign_before: place.unwrap_or(0) as u32,
            });
        }
        let attached = sys::clsact_program(ifindex, hook)? == Some(id);
        let egress = hook == Hook::Egress;
        // Programs at tcx, where the kernel has it, run before every filter.
        let before = sys::tcx_programs(ifindex, hook).map_or(0, |programs| programs.len() as u32);
        let filters = netdev::foreign_filters(ifindex, egress, sys::CLSACT_PRIORITY)?;
        Ok(HookState {
            attached,
            foreign_before: before + filters,
        })
    }

    /// Takes the programs off the device and removes every pin.
    pub(crate) fn detach(&self) -> Result<(), Error> {
        let config = self.config()?;
        if how_of(&config) == How::Clsact && config.ifindex != 0 {
            let places = hooks_of(endpoint_of(&config));
            for (index, hook) in places.into_iter().enumerate() {
                let ours = sys::prog_id(self.programs[index].as_fd()).ok();
                let there = sys::clsact_program(config.ifindex, hook).ok().flatten();
                // Interface numbers are used again: leave a filter that is not ours.
                if there.is_some() && there == ours {
                    sys::clsact_detach(config.ifindex, hook)
                        .map_err(failed("detaching from the device"))?;
                }
            }
        }
        remove_pins(&self.folder)
    }

    pub(crate) fn status(&self) -> Result<VnicStatus, Error> {
        let config = self.config()?;
        let vnic = VnicId(config.vnic);
        let broken = |why: String| Error::Refused { vnic, why };
        Ok(VnicStatus {
            spec: VnicSpec {
                vnic,
                name: VnicName::new(loose(&config.name)).map_err(|e| broken(e.to_string()))?,
                device: loose(&config.device),
                mac: Mac(config.mac),
                segment: Segment(config.segment),
                sessions_max: config.sessions_max,
                link: link_of(&config),
                endpoint: endpoint_of(&config),
            },
            mode: mode_of(&config),
            ifindex: config.ifindex,
            state: VnicState::from_number(config.state)
                .ok_or_else(|| broken("its pinned state is not a state".into()))?,
            how: how_of(&config),
            packets_before: config.device_base,
            hooks: self.hooks()?,
        })
    }

    pub(crate) fn counters(&self, cpus: usize) -> Result<VnicCounters, Error> {
        let [egress, ingress] = DIRECTIONS.map(|direction| self.direction(direction, cpus));
        Ok(VnicCounters {
            egress: egress?,
            ingress: ingress?,
        })
    }

    fn direction(&self, direction: Direction, cpus: usize) -> Result<DirectionCounters, Error> {
        let read = |index: u32| -> Result<Count, Error> {
            let index = direction as u32 * abi::COUNTERS_PER_DIRECTION + index;
            let values = self.counters.get_per_cpu(&index, cpus);
            let values = values.map_err(failed("reading counters"))?;
            Ok(Count {
                packets: values.iter().map(|value| value.packets).sum(),
                bytes: values.iter().map(|value| value.bytes).sum(),
            })
        };
        let mut counters = DirectionCounters {
            steered: read(abi::COUNTER_STEERED)?,
            ..DirectionCounters::default()
        };
        for reason in Reason::ALL {
            let count = read(*reason as u32)?;
            if count.packets > 0 {
                // An answer in the guest's name was sent by no guest, and no device received it.
                if (*reason, direction) != (Reason::Answer, Direction::Egress) {
                    counters.seen.packets += count.packets;
                    counters.seen.bytes += count.bytes;
                }
                counters.reasons.push((*reason, count));
            }
        }
        Ok(counters)
    }

    /// What each rule decided at this vnic.
    pub(crate) fn rule_counters(&self) -> Result<BTreeMap<RuleId, RuleCount>, Error> {
        let reading = failed("reading counters");
        let sets = (0..self.first_rules.len()).map(|set| self.first_rules.load::<RuleSet>(set, 0));
        let first = sets.flat_map(|set| set.slots);
        let taken = first.filter(|slot| slot.rule & abi::RULE_SLOT_TAKEN != 0);
        let first = taken.map(|slot| (slot.rule as u32, slot.state));
        let rows = first.chain(self.rules.rows().map_err(&reading)?);
        let count = |(rule, state): (u32, RuleState)| (RuleId(rule), RuleCount::of(&state));
        Ok(rows.map(count).collect())
    }

    pub(crate) fn device_counters(&self) -> Result<DeviceCounters, Error> {
        let config = self.config()?;
        let name = loose(&config.device);
        let device = netdev::find(&name).map_err(failed("reading the device"))?;
        let device = device.ok_or(Error::NoDevice { device: name })?;
        let received = Count {
            packets: device.rx_packets,
            bytes: device.rx_bytes,
        };
        let sent = Count {
            packets: device.tx_packets,
            bytes: device.tx_bytes,
        };
        let (from_guest, toward_guest) = match endpoint_of(&config) {
            Endpoint::Guest => (received, sent),
            Endpoint::Host => (sent, received),
        };
        Ok(DeviceCounters {
            from_guest,
            toward_guest,
        })
    }

    pub(crate) fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        self.programs[direction as usize].as_fd()
    }

    pub(crate) fn test_run(
        &self,
        direction: Direction,
        packet: &[u8],
        ingress_ifindex: u32,
    ) -> Result<TestVerdict, Error> {
        let given = Given {
            ingress_ifindex,
            ..Given::default()
        };
        self.run(direction, packet, given)
    }

    pub(crate) fn run(
        &self,
        direction: Direction,
        packet: &[u8],
        given: Given,
    ) -> Result<TestVerdict, Error> {
        let program = self.program(direction);
        let run = sys::test_run(program, packet, given)
            .map_err(failed("running the program on a packet"))?;
        let (returned, [reason, rule, would_rule, would]) = (run.returned, run.words);
        let unknown = || {
            let source = io::Error::other(format!("the program answered {returned}, {reason}"));
            Error::System {
                action: "running the program on a packet",
                source,
            }
        };
        let verdict = match returned {
            // TC_ACT_REDIRECT: steered, or turned into its own answer.
            7 if reason == Reason::Rejected as u32 => Verdict::Deny,
            // What proves a verdict goes nowhere, whatever is said of it.
            2 if given.proof != 0 && reason < Reason::PolicyDeny as u32 => Verdict::Allow,
            -1 | 7 => Verdict::Allow,
            2 => Verdict::Deny,
            _ => return Err(unknown()),
        };
        let known = u8::try_from(reason).ok().and_then(Reason::from_number);
        Ok(TestVerdict {
            verdict,
            reason: known.ok_or_else(unknown)?,
            rule: RuleId(rule),
            would: would_of(u8::try_from(would).unwrap_or(abi::VERDICT_NONE), would_rule),
            answer: (returned == 7 && reason == Reason::Rejected as u32).then_some(run.packet),
        })
    }
}

pub(crate) fn endpoint_of(config: &VnicConfig) -> Endpoint {
    if config.endpoint == abi::ENDPOINT_HOST {
        Endpoint::Host
    } else {
        Endpoint::Guest
    }
}

/// What holds at this moment is the kernel's to say: a trial that is over is observed again.
fn mode_of(config: &VnicConfig) -> Mode {
    let over = || {
        let now = sys::now_ns().map(|now| now.wrapping_add(config.clock_offset_ns));
        now.is_ok_and(|now| now >= config.trial_until_ns)
    };
    match config.mode {
        abi::MODE_OBSERVE => Mode::Observe,
        abi::MODE_TRIAL if over() => Mode::Observe,
        abi::MODE_TRIAL => Mode::Trial,
        _ => Mode::Enforce,
    }
}

pub(crate) fn how_of(config: &VnicConfig) -> How {
    if config.hook == abi::HOOK_CLSACT {
        How::Clsact
    } else {
        How::Tcx
    }
}

pub(crate) fn is_device(config: &VnicConfig, name: &str, ifindex: u32) -> bool {
    config.ifindex == ifindex && config.device == fixed(name)
}

fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            path: path.to_owned(),
            action: "removed",
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Removes a vnic's folder; a link goes first, and at once instead of when the kernel gets to it.
pub(crate) fn remove_pins(folder: &Path) -> Result<(), Error> {
    for name in LINK_NAMES {
        let path = folder.join(name);
        if let Ok(link) = sys::open_pin(&path) {
            sys::link_detach(link.as_raw_fd());
        }
        unpin(&path)?;
    }
    for name in MAP_NAMES.into_iter().chain(PROGRAM_NAMES) {
        unpin(&folder.join(name))?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            path: folder.to_owned(),
            action: "removed",
            source: error,
        }),
        _ => Ok(()),
    }
}
