//! What an entry can say. The list only grows: a kind or a field is never given a new meaning.

use crate::facts::{GuestFacts, ReleaseFacts};
use crate::{Envelope, VerifyKey};
use lictor_types::{
    Digest, Direction, Epoch, Generation, GuestId, HostId, Mode, Reason, Verdict, VnicId, VnicName,
    VnicState,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Something that a guest needs from its host, and how it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlFact {
    /// `firewall`, `ids`, `monitor`, `time`, ...
    pub control: String,
    /// Who provides it and in which version.
    pub version: String,
    /// Whether a heartbeat of real work was seen, not merely that it is installed.
    pub healthy: bool,
}

/// A vnic's counters. Packets seen are packets allowed plus packets denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnicCounters {
    /// Packets that got a verdict.
    pub seen: u64,
    /// Packets forwarded.
    pub allowed: u64,
    /// Packets dropped.
    pub denied: u64,
    /// Packets that the device itself counted since attach, both directions.
    pub device: u64,
}

/// What the kernel said about one vnic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnicReadback {
    /// The vnic.
    pub vnic: VnicId,
    /// Its guest.
    pub guest: GuestId,
    /// Whether both programs are attached and first in order.
    pub hooks_ok: bool,
    /// Its state.
    pub state: VnicState,
    /// Its counters.
    pub counters: VnicCounters,
}

/// What the kernel of a host holds, against what was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readback {
    /// The release that should be loaded.
    pub generation: Generation,
    /// Digest of the tables that were loaded.
    pub expected: Digest,
    /// Digest of the tables that the kernel gave back.
    pub found: Digest,
    /// Each vnic.
    pub vnics: Vec<VnicReadback>,
}

/// One end of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveSide {
    /// The release loaded there.
    pub generation: Generation,
    /// Digest of what the kernel enforces for this guest: the part of the host's tables that
    /// concerns the guest's identity, the same on every host of one release.
    pub tables: Digest,
}

/// Sessions of a move.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveSessions {
    /// Sent by the source.
    pub sent: u64,
    /// Accepted by the target.
    pub accepted: u64,
    /// Refused by the target, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveOutcome {
    /// The guest runs at the target.
    Committed,
    /// The guest went on at the source.
    Aborted,
    /// The source was lost before its last delta.
    StateLost,
}

/// Why a move was admitted although something spoke against it: an order of two persons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overridden {
    /// The digest of the order.
    pub order: Digest,
    /// The causes that it names.
    pub causes: Vec<String>,
    /// Who signed it, the author first.
    pub signers: Vec<String>,
    /// Why.
    pub justification: String,
    /// When it lapses, in milliseconds of Unix time.
    pub expires_ms: u64,
}

impl fmt::Display for Overridden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (causes, signers) = (self.causes.join(", "), self.signers.join(" and "));
        write!(
            f,
            "{causes} overridden by {signers}: {}",
            self.justification
        )
    }
}

/// What both ends agree a move did. Its canonical bytes are the payload of the envelope that both
/// agents sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRecord {
    /// The digest of the ticket.
    pub ticket: Digest,
    /// Who moved.
    pub guest: GuestId,
    /// From where.
    pub from: HostId,
    /// To where.
    pub to: HostId,
    /// Who asked.
    pub asked_by: String,
    /// The source's side.
    pub source: MoveSide,
    /// The target's side.
    pub target: MoveSide,
    /// The sessions.
    pub sessions: MoveSessions,
    /// How the sessions were copied; not there in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<MoveCopied>,
    /// What was counted of the guest until it was fenced; not there in older records, nor if the
    /// guest stayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<MoveCounted>,
    /// Which reasons against it were overridden; not there in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
    /// When the target began to hold the guest's vnics.
    pub hold_since_ms: u64,
    /// When the source fenced them.
    pub fenced_ms: u64,
    /// When the target opened them.
    pub opened_ms: u64,
    /// How long packets waited: opened minus fenced, in microseconds by one clock.
    pub pause_us: u64,
    /// How long the guest could be reached without a verdict.
    pub unprotected_ms: u64,
    /// Packets in that time; `None` if nobody can know.
    pub unprotected_packets: Option<u64>,
    /// How far those times may be off.
    pub error_ms: u64,
    /// How it ended.
    pub outcome: MoveOutcome,
}

/// What it took to copy a guest's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveCopied {
    /// Rounds while the guest ran.
    pub rounds: u64,
    /// Sessions sent in all of them and in the pause, each as often as it was sent.
    pub records: u64,
    /// Those of the pause alone.
    pub last_records: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What was counted of a guest's vnics on all hosts where it has been, and went along with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveCounted {
    /// Packets that got a verdict.
    pub judged: u64,
    /// Rules that decided something.
    pub rules: u64,
    /// The digest over all of it.
    pub digest: Digest,
}

/// The payload type under which both agents sign a [`MoveRecord`].
pub const MOVE_RECORD_TYPE: &str = "application/vnd.lictor.move-record.v1+json";

impl MoveRecord {
    /// The bytes that both agents sign.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a move record has only string keys")
    }
}

/// Why a guest is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacedBy {
    /// It was first seen, or started, there.
    Start,
    /// A move brought it there.
    Move,
    /// The cluster restarted it there after a failure.
    Restart,
    /// A snapshot was reverted.
    Revert,
    /// It was cloned.
    Clone,
    /// It was there when somebody looked; nobody knows why.
    Found,
}

/// A sampled decision on a new session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSample {
    /// Whose vnic.
    pub guest: GuestId,
    /// Which vnic.
    pub vnic: VnicId,
    /// Seen from the guest.
    pub direction: Direction,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// By which rule; empty for the default deny.
    pub rule: String,
    /// The IP protocol number.
    pub protocol: u8,
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Sender's port, or 0.
    pub source_port: u16,
    /// Receiver's port, or 0.
    pub destination_port: u16,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRole {
    /// Signs a host's log and its ends of moves.
    Agent,
    /// Writes policy.
    Author,
    /// Approves policy.
    Approver,
    /// Binds labels inside a delegation.
    ScopeOwner,
    /// Signs the manager's log.
    Manager,
    /// Cosigns checkpoints.
    Witness,
}

/// A NIC of a guest whose frames pass without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnguardedNic {
    /// As the hypervisor calls it.
    pub nic: String,
    /// Why no hook guards it, and what to do.
    pub reason: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Body {
    /// An agent began to run.
    AgentStarted {
        /// Its version.
        version: String,
        /// The release it found loaded in the kernel.
        generation: Generation,
    },
    /// An agent ended; enforcement stays.
    AgentStopped {
        /// Why.
        cause: String,
    },
    /// What a host is and has.
    HostFacts {
        /// Its controls.
        controls: Vec<ControlFact>,
        /// Its kernel.
        kernel: String,
        /// Its agent.
        agent: String,
        /// Its clock against its time source, in microseconds; `None` if it has none.
        time_offset_us: Option<i64>,
    },
    /// The agent verified and loaded a release.
    ReleaseLoaded {
        /// Its number.
        generation: Generation,
        /// Its digest.
        release: Digest,
        /// The author's key name.
        author: String,
        /// The approvers' key names.
        approvers: Vec<String>,
        /// Digest of the host's tables as compiled.
        tables_expected: Digest,
        /// Digest of the host's tables as the kernel gave them back.
        tables_found: Digest,
    },
    /// A release was not loaded; the last good one stays.
    ReleaseRefused {
        /// Why.
        reason: String,
    },
    /// Witnesses said which release is the newest.
    FreshnessStated {
        /// Its number.
        generation: Generation,
        /// Its digest.
        release: Digest,
        /// When the statement lapses, in milliseconds of Unix time.
        expires_ms: u64,
        /// The key names of those who signed it.
        signers: Vec<String>,
    },
    /// Bindings were loaded.
    BindingsLoaded {
        /// Their epoch.
        epoch: Epoch,
        /// How many.
        count: u32,
    },
    /// A binding was not loaded.
    BindingRefused {
        /// Why.
        reason: String,
    },
    /// The programs were attached to a vnic.
    VnicAttached {
        /// Its guest.
        guest: GuestId,
        /// The vnic.
        vnic: VnicId,
        /// Its device.
        device: VnicName,
        /// By which way the agent learnt of it: `hook`, `asked`, `created`, `netlink`, ...
        how: String,
        /// Whether the device had carried nothing before.
        before_first_packet: bool,
        /// Frames that the device had carried before.
        excess_frames: u64,
        /// How long it could carry frames before.
        window_ms: u64,
    },
    /// A vnic changed its state.
    VnicState {
        /// Its guest.
        guest: GuestId,
        /// The vnic.
        vnic: VnicId,
        /// Before.
        from: VnicState,
        /// After.
        to: VnicState,
        /// Why.
        cause: String,
    },
    /// Somebody on the host said what a denial does at the hypervisor's own device.
    HostMode {
        /// The device.
        device: String,
        /// Before.
        from: Mode,
        /// After.
        to: Mode,
        /// Seconds until a trial ends by itself; zero otherwise.
        trial_s: u64,
    },
    /// A vnic is gone.
    VnicDetached {
        /// Its guest.
        guest: GuestId,
        /// The vnic.
        vnic: VnicId,
        /// Why.
        cause: String,
    },
    /// Which NICs of a guest no hook guards from now on. None: that is over.
    NicsUnguarded {
        /// Who.
        guest: GuestId,
        /// They.
        nics: Vec<UnguardedNic>,
    },
    /// What the kernel holds and counts.
    Readback(Readback),
    /// The kernel does not hold what was loaded.
    Drift {
        /// What differs.
        subject: String,
        /// What was loaded.
        expected: String,
        /// What was found.
        found: String,
        /// Whether the agent put it right.
        repaired: bool,
    },
    /// Both ends admitted a move.
    MoveAdmitted {
        /// The digest of the ticket.
        ticket: Digest,
        /// Who moves.
        guest: GuestId,
        /// From where.
        from: HostId,
        /// To where.
        to: HostId,
        /// The target's controls when it was admitted.
        controls: Vec<ControlFact>,
        /// Which reasons against it were overridden; not there in older entries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overridden: Option<Box<Overridden>>,
    },
    /// A move was refused.
    MoveRefused {
        /// Who was to move.
        guest: GuestId,
        /// From where.
        from: HostId,
        /// To where.
        to: HostId,
        /// Every reason.
        reasons: Vec<String>,
    },
    /// A move ended.
    MoveRecorded {
        /// What it did.
        record: Box<MoveRecord>,
        /// The record, signed by both agents.
        signed: Box<Envelope>,
    },
    /// A guest is at a host.
    GuestPlaced {
        /// Who.
        guest: GuestId,
        /// Where.
        at: HostId,
        /// Why there.
        by: PlacedBy,
        /// Whether an agent enforces there.
        protected: bool,
    },
    /// A guest is no longer at a host.
    GuestLeft {
        /// Who.
        guest: GuestId,
        /// Where it was.
        at: HostId,
    },
    /// From here a guest is reachable without a verdict.
    UnprotectedOpened {
        /// Who.
        guest: GuestId,
        /// Why protection is impaired.
        cause: String,
        /// What its owner chose for that.
        choice: String,
        /// Since when.
        since_ms: u64,
        /// How far that may be off.
        error_ms: u64,
    },
    /// A guest is under a verdict again.
    UnprotectedClosed {
        /// Who.
        guest: GuestId,
        /// Why protection was impaired.
        cause: String,
        /// What its owner had chosen for that.
        choice: String,
        /// Since when.
        since_ms: u64,
        /// Until when.
        until_ms: u64,
        /// How far those may be off.
        error_ms: u64,
    },
    /// Protection of a guest is impaired from here on, and what its owner chose for that holds.
    ImpairmentOpened {
        /// Who.
        guest: GuestId,
        /// Why.
        cause: String,
        /// What holds now.
        choice: String,
        /// What was found.
        detail: String,
        /// Since when.
        since_ms: u64,
    },
    /// That is over, or another choice holds from here on.
    ImpairmentClosed {
        /// Who.
        guest: GuestId,
        /// Why it was.
        cause: String,
        /// What held.
        choice: String,
        /// Since when.
        since_ms: u64,
        /// Until when.
        until_ms: u64,
    },
    /// Somebody must look.
    Alarm {
        /// About what.
        subject: String,
        /// Why.
        text: String,
    },
    /// A guest was saved to a file: what leaves that way comes back as another epoch.
    SnapshotTaken {
        /// Who.
        guest: GuestId,
        /// Sessions in it.
        sessions: u64,
    },
    /// A sampled decision on a new session.
    SessionDecided(Box<SessionSample>),
    /// A key was pinned.
    KeyEnrolled {
        /// For what.
        role: KeyRole,
        /// The host, for an agent's key.
        for_host: Option<HostId>,
        /// The key.
        key: VerifyKey,
    },
    /// A host's signed checkpoint, kept where the host cannot reach it.
    CheckpointAnchored {
        /// The host.
        of: HostId,
        /// The signed checkpoint, as text.
        checkpoint: String,
    },
    /// What a release means, in facts that checks can be re-run on.
    ReleaseFacts(Box<ReleaseFacts>),
    /// An evidence pack was made: this entry binds its manifest to the log.
    PackBuilt {
        /// Digest of the manifest's bytes.
        manifest: Digest,
    },
    /// A guest was bound, bound anew or retired after its release was published. Repeating the
    /// release's facts for each binding would make the log grow with their product.
    GuestBound {
        /// The release that the binding lies inside.
        release: Digest,
        /// The binding's number.
        epoch: Epoch,
        /// Who.
        guest: GuestId,
        /// What the guest is from now on; `None` if it is retired.
        facts: Option<Box<GuestFacts>>,
    },
    /// Leave for one enrolment was given.
    TokenIssued {
        /// What its holder will be.
        role: String,
        /// The name that the holder's certificate will carry.
        name: String,
        /// Who asked for it, by the name in their certificate.
        by: String,
        /// When it lapses.
        expires_ms: u64,
    },
    /// A certificate was issued: somebody was enrolled.
    CertificateIssued {
        /// What its holder is.
        role: String,
        /// Its holder's name.
        name: String,
        /// SHA-256 of its DER bytes.
        certificate: Digest,
        /// When it lapses.
        expires_ms: u64,
    },
}

impl Body {
    /// The name of the kind, as it is written.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::AgentStarted { .. } => "agent-started",
            Self::AgentStopped { .. } => "agent-stopped",
            Self::HostFacts { .. } => "host-facts",
            Self::ReleaseLoaded { .. } => "release-loaded",
            Self::ReleaseRefused { .. } => "release-refused",
            Self::FreshnessStated { .. } => "freshness-stated",
            Self::BindingsLoaded { .. } => "bindings-loaded",
            Self::BindingRefused { .. } => "binding-refused",
            Self::VnicAttached { .. } => "vnic-attached",
            Self::VnicState { .. } => "vnic-state",
            Self::HostMode { .. } => "host-mode",
            Self::VnicDetached { .. } => "vnic-detached",
            Self::NicsUnguarded { .. } => "nics-unguarded",
            Self::Readback(_) => "readback",
            Self::Drift { .. } => "drift",
            Self::MoveAdmitted { .. } => "move-admitted",
            Self::MoveRefused { .. } => "move-refused",
            Self::MoveRecorded { .. } => "move-recorded",
            Self::GuestPlaced { .. } => "guest-placed",
            Self::GuestLeft { .. } => "guest-left",
            Self::UnprotectedOpened { .. } => "unprotected-opened",
            Self::UnprotectedClosed { .. } => "unprotected-closed",
            Self::ImpairmentOpened { .. } => "impairment-opened",
            Self::ImpairmentClosed { .. } => "impairment-closed",
            Self::Alarm { .. } => "alarm",
            Self::SnapshotTaken { .. } => "snapshot-taken",
            Self::SessionDecided(_) => "session-decided",
            Self::KeyEnrolled { .. } => "key-enrolled",
            Self::CheckpointAnchored { .. } => "checkpoint-anchored",
            Self::ReleaseFacts(_) => "release-facts",
            Self::PackBuilt { .. } => "pack-built",
            Self::GuestBound { .. } => "guest-bound",
            Self::TokenIssued { .. } => "token-issued",
            Self::CertificateIssued { .. } => "certificate-issued",
        }
    }
}
