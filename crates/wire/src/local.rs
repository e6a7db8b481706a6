//! What is said on an agent's own Unix socket: one JSON object a line, one answer a line. The
//! socket is the host's door: who can open it is root there or in its group.

use crate::api::HostReport;
use crate::{Envelope, MoreAddress, Refusal};
use lictor_evidence::ControlFact;
use lictor_policy::{End, Labels};
use lictor_types::{
    Digest, Direction, Generation, GuestId, HostId, Mode, Probe, Reason, RuleId, SessionKey,
    TcpState, Verdict, VnicId, VnicName, VnicState, Would,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The socket's name in the agent's run directory.
pub const SOCKET: &str = "agent.sock";
/// Bytes of one line. A longer one closes the connection.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Rules of one answer; the rest is asked for again.
pub const RULES_PER_ANSWER_MAX: usize = 4_096;
/// Bytes that the sessions of one answer may take; the rest is asked for again.
pub const SESSIONS_BYTES_MAX: usize = LINE_BYTES_MAX / 2;

/// Where an agent waits for a guest's QEMU: the interlock's socket in its run directory.
#[must_use]
pub fn interlock_socket(run_dir: &Path, guest: &GuestId) -> PathBuf {
    run_dir.join(format!("guest-{guest}.sock"))
}

/// The folder of monitors in an agent's run directory: QEMU itself makes sockets there.
#[must_use]
pub fn monitors(run_dir: &Path) -> PathBuf {
    run_dir.join("qemu")
}

/// Where a guest's QEMU waits for the agent, if libvirt starts it: its monitor's socket.
#[must_use]
pub fn monitor_socket(run_dir: &Path, guest: &GuestId) -> PathBuf {
    monitors(run_dir).join(format!("{guest}.sock"))
}

/// What a caller on the host may ask of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Attach to a device before it can carry traffic.
    Attach(Attach),
    /// Let go of a vnic whose device is gone or will go.
    Detach {
        /// The vnic's name.
        name: VnicName,
    },
    /// Say what a denial does at the hypervisor's own device.
    HostMode {
        /// From the next packet on.
        mode: Mode,
        /// Seconds until a trial ends by itself.
        trial_s: u64,
    },
    /// Say everything about this host.
    Status,
    /// Say what the loaded program would do with a packet that nobody sends.
    Explain {
        /// The vnic's name.
        vnic: VnicName,
        /// The packet.
        packet: Probe,
        /// Which way it goes; without it, from the guest if its source is the guest's.
        #[serde(default)]
        direction: Option<Direction>,
    },
    /// Say how many packets each rule of the loaded release has met on this host's vnics.
    RuleCounters {
        /// How many rules, in the order of their names, were told before.
        first: usize,
    },
    /// List the live sessions of a vnic in the order of their keys. Nothing is changed.
    Sessions {
        /// The vnic's name.
        vnic: VnicName,
        /// The last one that was told before.
        #[serde(default)]
        after: Option<SessionKey>,
    },
    /// Admit a move, or say every reason against it.
    MoveAdmit {
        /// The guest.
        guest: GuestId,
        /// Where it is to go.
        target: HostId,
        /// Who asks, as the management layer names them.
        asked_by: String,
    },
    /// Say every reason against a move that nobody has begun yet.
    MoveCheck {
        /// The guest.
        guest: GuestId,
        /// Where it may go.
        target: HostId,
    },
    /// Say how far a guest is that was admitted to come here: `Move`, or `Unexpected`.
    MoveExpected {
        /// The guest.
        guest: GuestId,
    },
    /// Ask the host that has a guest to hand it over, because it is about to come here. Answered
    /// when both ends have decided: `Move`, `Refused`, or `Unexpected` if no host has it.
    MoveWanted {
        /// The guest.
        guest: GuestId,
    },
    /// Say how far a move is.
    MoveStatus {
        /// The guest.
        guest: GuestId,
    },
    /// Let a guest come without its sessions from a host whose agent is broken.
    Evacuate {
        /// The order of two persons, see [`crate::evacuation`].
        order: Envelope,
    },
    /// Admit one move of a guest that is here although something speaks against it.
    Override {
        /// The order of two persons, see [`crate::overriding`].
        order: Envelope,
    },
    /// Give a move up that has not been fenced. Of a container also one that has been, at the end
    /// where it is to go on or where it has not run yet.
    MoveAbandon {
        /// The guest.
        guest: GuestId,
    },
    /// Do what nobody but who moves a container can tell the time of.
    Container {
        /// The guest.
        guest: GuestId,
        /// What.
        step: ContainerStep,
    },
}

/// A step of a container's move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ContainerStep {
    /// It stands still and leaves: fence its vnics, send what is left.
    Fence {
        /// Its cgroup, if the agent is to see for itself that it is frozen.
        #[serde(default)]
        cgroup: Option<PathBuf>,
    },
    /// It is about to run here: open its vnics, with what its source has signed.
    Open {
        /// What the fence was answered with there.
        record: Envelope,
    },
    /// It runs here.
    Complete,
}

/// A device and what the management layer knows about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The device on this host.
    pub device: String,
    /// The vnic's name, when the device is called otherwise.
    #[serde(default)]
    pub name: Option<VnicName>,
    /// Where QEMU offers the agent a QMP socket; none for a container.
    #[serde(default)]
    pub qmp: Option<PathBuf>,
    /// The addresses that the management layer has given to the guest.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Addresses of another kind, and those in VLANs.
    #[serde(default)]
    pub more: Vec<MoreAddress>,
    /// The guest comes from another host instead of starting here.
    #[serde(default)]
    pub incoming: bool,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// The programs are on the device.
    Attached(Attached),
    /// The vnic was let go.
    Detached,
    /// What a denial does at the hypervisor's own device now.
    HostMode {
        /// From the next packet on.
        mode: Mode,
    },
    /// Everything about this host.
    Status(Box<HostReport>),
    /// What the loaded program says.
    Explained(Box<Explained>),
    /// Some rules and how many packets they have met.
    RuleCounters(RuleCounters),
    /// Some live sessions of a vnic.
    Sessions(Box<SessionPage>),
    /// Both ends signed a ticket.
    Admitted {
        /// What names it in records and evidence.
        ticket: Digest,
        /// When it lapses, in milliseconds of Unix time.
        deadline_ms: u64,
    },
    /// What speaks against a move; with no reason it would be admitted now.
    Checked {
        /// All of them.
        reasons: Vec<Refusal>,
        /// The target's controls, as it saw them work; none if it was not heard.
        controls: Vec<ControlFact>,
    },
    /// The move is refused, with every reason.
    Refused {
        /// All of them.
        reasons: Vec<Refusal>,
    },
    /// No move of that guest to this host is under way.
    Unexpected,
    /// How far a move is.
    Move(MoveStatus),
    /// The move was given up.
    Abandoned,
    /// The container's vnics are shut here.
    Fenced {
        /// What its target must be shown, signed by this host.
        record: Envelope,
    },
    /// The container's vnics are open: it may run.
    Opened,
    /// The container is this host's.
    Completed,
    /// The order counts.
    Ordered {
        /// The order's digest.
        order: Digest,
        /// The guest.
        guest: GuestId,
        /// When the order lapses, in milliseconds of Unix time.
        expires_ms: u64,
    },
    /// The request failed.
    Error {
        /// Place, expectation and next step.
        error: String,
    },
}

/// How many packets rules have met, since the vnics that are here were attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleCounters {
    /// The digest of the text that the loaded release was compiled of.
    pub source: Digest,
    /// The release's number.
    pub generation: Generation,
    /// Packets by rule, `tier/rule`; also those that it would have decided in observe mode.
    pub packets: BTreeMap<String, u64>,
    /// How many rules there are.
    pub total: usize,
}

/// Live sessions of one vnic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionPage {
    /// The host.
    pub host: HostId,
    /// The guest.
    pub guest: GuestId,
    /// The guest's labels, as they are bound.
    pub labels: Labels,
    /// The release's number.
    pub generation: Generation,
    /// The sessions.
    pub sessions: Vec<LiveSession>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// A live session, as a reader needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveSession {
    /// Its key, from the guest's point of view.
    pub key: SessionKey,
    /// Who opened it: `egress` if the guest did.
    pub opened: Direction,
    /// Where it stands.
    pub state: TcpState,
    /// The other end: a guest with its labels, or an address.
    pub remote: End,
    /// The rule that admitted it, `tier/rule`; none in observe mode.
    pub rule: Option<String>,
    /// Packets both ways.
    pub packets: u64,
}

/// What the loaded program of a vnic says of a packet, and what the packet met on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explained {
    /// The vnic.
    pub vnic: VnicName,
    /// The packet.
    pub packet: Probe,
    /// From the guest or toward it.
    pub direction: Direction,
    /// What happens to it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// By which rule.
    pub rule: Option<RuleId>,
    /// What the rule is called.
    pub rule_name: Option<String>,
    /// What would happen, were it not for observe mode.
    pub would: Option<Would>,
    /// Step by step, for people.
    pub steps: Vec<ExplainedStep>,
}

/// One step of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainedStep {
    /// Which.
    pub step: String,
    /// What was found.
    pub says: String,
}

/// How an attachment went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// The guest that the vnic belongs to.
    pub guest: GuestId,
    /// The vnic.
    pub vnic: VnicId,
    /// Whether it forwards; a new one is in hold.
    pub state: VnicState,
    /// `tcx` or `clsact`.
    pub hook: String,
    /// Whether the device had carried nothing before.
    pub before_first_packet: bool,
    /// Frames that the device had carried before.
    pub excess_frames: u64,
}

/// How far a move is. The management layer starts the migration at `Copied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MovePhase {
    /// The ticket is signed; the target has no device yet.
    Admitted,
    /// The first full copy is on its way.
    Copying,
    /// The first full copy is at the target.
    Copied,
    /// The guest is stopped and its vnics are fenced.
    Fenced,
    /// The target may open; this host waits to hear that the guest runs there.
    Committed,
    /// The guest runs at the target and the record is signed.
    Done,
    /// The guest went on here.
    Aborted,
}

/// A move as one of its ends knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveStatus {
    /// The guest.
    pub guest: GuestId,
    /// How far.
    pub phase: MovePhase,
    /// Sessions sent or received so far, the last delta included.
    pub sessions_sent: u64,
    /// Why it was given up, if it was.
    #[serde(default)]
    pub cause: Option<String>,
}
