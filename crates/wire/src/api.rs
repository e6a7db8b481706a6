//! The manager's HTTP API: routes, who may call them, and the JSON that they take and give. All of
//! it runs over mutual TLS but `enroll`, where a one-time token stands for the certificate.

use crate::binding::BindingLog;
use crate::local::SessionPage;
use crate::{Envelope, Trust, VerifyKey};
use lictor_evidence::MoveSessions;
pub use lictor_evidence::{MoveSigners, UnguardedNic};
use lictor_policy::Labels;
use lictor_types::{
    Digest, Epoch, Generation, GuestId, HostId, Mode, Segment, VnicId, VnicName, VnicState,
};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What a certificate lets its holder do. Pairs that exclude each other are in the threat model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Installs and enrols; owns neither policy nor evidence.
    PlatformAdmin,
    /// Proposes releases.
    PolicyAuthor,
    /// Approves releases.
    PolicyApprover,
    /// Binds labels that decide scope.
    ScopeOwner,
    /// Reads everything, writes nothing.
    Auditor,
    /// The agent of one host.
    Agent,
    /// Reports placements from a management layer.
    Connector,
    /// Says which release is the newest, apart from the manager.
    Witness,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 8] = [
        Self::PlatformAdmin,
        Self::PolicyAuthor,
        Self::PolicyApprover,
        Self::ScopeOwner,
        Self::Auditor,
        Self::Agent,
        Self::Connector,
        Self::Witness,
    ];

    /// The name as certificates and the command line write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform-admin",
            Self::PolicyAuthor => "policy-author",
            Self::PolicyApprover => "policy-approver",
            Self::ScopeOwner => "scope-owner",
            Self::Auditor => "auditor",
            Self::Agent => "agent",
            Self::Connector => "connector",
            Self::Witness => "witness",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// One route: the only list of what the manager answers, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// GET, POST or PUT.
    pub method: &'static str,
    /// The path; `{host}` and the like stand for one part.
    pub path: &'static str,
    /// Who may call it. Empty means that no certificate is needed.
    pub roles: &'static [Role],
    /// What it does, in a few words.
    pub what: &'static str,
}

const EVERYBODY: &[Role] = &Role::ALL;
const READERS: &[Role] = &[
    Role::PlatformAdmin,
    Role::PolicyAuthor,
    Role::PolicyApprover,
    Role::ScopeOwner,
    Role::Auditor,
];

/// Every route of the manager. The server is built from this list and a test calls each as each
/// role.
pub const ROUTES: &[Route] = &[
    route(
        "POST",
        "/v1/enroll",
        &[],
        "exchange a one-time token for a certificate",
    ),
    route(
        "POST",
        "/v1/tokens",
        &[Role::PlatformAdmin],
        "issue a one-time token",
    ),
    route(
        "GET",
        "/v1/trust",
        EVERYBODY,
        "deployment, authors, approvers, the log's key",
    ),
    route("GET", "/v1/release", EVERYBODY, "the newest release"),
    route(
        "POST",
        "/v1/releases",
        &[Role::PolicyAuthor, Role::PolicyApprover],
        "publish a release",
    ),
    route(
        "POST",
        "/v1/freshness",
        &[Role::Witness, Role::PolicyAuthor, Role::PolicyApprover],
        "publish a statement of which release is the newest",
    ),
    route("GET", "/v1/bindings", EVERYBODY, "the binding log"),
    route(
        "POST",
        "/v1/bindings",
        &[Role::ScopeOwner],
        "publish a binding",
    ),
    route(
        "POST",
        "/v1/attestations",
        &[Role::Agent],
        "publish attested addresses",
    ),
    route(
        "PUT",
        "/v1/hosts/{host}",
        &[Role::Agent],
        "report a host's state",
    ),
    route(
        "POST",
        "/v1/sessions",
        READERS,
        "ask every host for its live sessions",
    ),
    route(
        "PUT",
        "/v1/hosts/{host}/sessions",
        &[Role::Agent],
        "list a host's live sessions, which somebody asked for",
    ),
    route(
        "GET",
        "/v1/hosts/{host}/sessions",
        READERS,
        "a host's live sessions, as it listed them last",
    ),
    route("GET", "/v1/inventory", READERS, "hosts and guests"),
    route(
        "POST",
        "/v1/evidence",
        &[Role::Agent],
        "append a host's evidence",
    ),
    route(
        "POST",
        "/v1/placements",
        &[Role::Connector],
        "report where a guest is",
    ),
    route("GET", "/v1/moves", READERS, "moves and unprotected stays"),
    route(
        "GET",
        "/v1/log/checkpoint",
        READERS,
        "the newest signed checkpoint",
    ),
    route("GET", "/v1/log/entries", READERS, "evidence entries"),
    route("GET", "/v1/pack", &[Role::Auditor], "an evidence pack"),
    route("GET", "/v1/health", EVERYBODY, "whether the manager works"),
];

const fn route(
    method: &'static str,
    path: &'static str,
    roles: &'static [Role],
    what: &'static str,
) -> Route {
    Route {
        method,
        path,
        roles,
        what,
    }
}

/// What every failed call answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What is wrong, with place, expectation and next step.
    pub error: String,
    /// Further reasons, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Asks for a one-time token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What the holder will be.
    pub role: Role,
    /// The name that the certificate will carry; for an agent the host's name.
    pub name: String,
    /// Minutes until the token lapses.
    pub minutes: u32,
}

/// A one-time token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The secret. It is shown once and kept only as a digest.
    pub token: String,
}

/// Exchanges a token for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The token.
    pub token: String,
    /// A PKCS #10 request in PEM; only its public key is used.
    pub request_pem: String,
    /// For an agent: the key that signs its evidence and its tickets.
    #[serde(default)]
    pub agent_key: Option<VerifyKey>,
}

/// A certificate and what the holder needs to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The certificate.
    pub certificate_pem: String,
    /// The authority's certificate.
    pub authority_pem: String,
    /// Whom to believe. The caller compares it with what it was given by hand.
    pub trust: Trust,
}

/// The newest release, as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseDocument {
    /// Its number.
    pub generation: Generation,
    /// The signed bytes. Whoever loads them verifies them again.
    pub envelope: Envelope,
    /// The newest statement of which release is the newest, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Envelope>,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The number of the release, or zero for a binding.
    pub generation: Generation,
    /// The digest of the signed bytes.
    pub digest: Digest,
}

/// The binding log and its revision: a number that grows with every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingDocument {
    /// Grows with every change.
    pub revision: u64,
    /// The newest envelope of each guest and vnic.
    pub log: BindingLog,
}

/// A control on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlState {
    /// `firewall`, `ids`, `monitor`, `time`, ...
    pub name: String,
    /// Who provides it.
    pub provider: String,
    /// Its version.
    pub version: String,
    /// Whether it was seen to work, not merely to be installed.
    pub healthy: bool,
}

/// One vnic as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnicReport {
    /// Its number.
    pub vnic: VnicId,
    /// Its device.
    pub name: VnicName,
    /// The L2 domain.
    pub segment: Segment,
    /// Whether it forwards.
    pub state: VnicState,
    /// What a denial does there.
    #[serde(default)]
    pub mode: Mode,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Sessions in its tables, also those that have expired and were not taken out yet.
    pub sessions: u64,
    /// Packets that the program judged, from the guest and toward it.
    pub judged: [u64; 2],
    /// Packets that it let pass, from the guest and toward it.
    pub allowed: [u64; 2],
    /// Packets that the device counted, from the guest and toward it.
    pub device: [u64; 2],
    /// Packets that were judged on all hosts where the guest has been, from it and toward it.
    #[serde(default)]
    pub counted: [u64; 2],
}

/// One guest as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestReport {
    /// The guest.
    pub guest: GuestId,
    /// Its custody epoch on this host; zero while this host has no custody.
    pub custody: u64,
    /// Whether its QEMU asks the agent before the guest leaves and before it runs.
    #[serde(default)]
    pub interlocked: bool,
    /// Whether it runs here, as its QEMU says; `None` where there is nobody to ask.
    #[serde(default)]
    pub running: Option<bool>,
    /// Its interfaces.
    pub vnics: Vec<VnicReport>,
    /// Its NICs that no hook guards: with one of them it is not protected.
    #[serde(default)]
    pub unguarded: Vec<UnguardedNic>,
}

/// What an agent says of its host, whole, every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostReport {
    /// The host.
    pub host: HostId,
    /// When, in milliseconds of Unix time by the host's clock.
    pub time_ms: u64,
    /// The agent's version.
    pub agent_version: String,
    /// The kernel's release.
    pub kernel: String,
    /// `tcx` or `clsact`.
    pub hook: String,
    /// The release enforced; zero if none.
    pub generation: Generation,
    /// Its digest.
    pub release: Option<Digest>,
    /// The newest binding loaded.
    pub epoch: Epoch,
    /// What the kernel should hold.
    pub tables_expected: Digest,
    /// What was read back from it.
    pub tables_found: Digest,
    /// Whether every hook is attached and first in order.
    pub hooks_ok: bool,
    /// The controls that this host has.
    pub controls: Vec<ControlState>,
    /// The guests here.
    pub guests: Vec<GuestReport>,
    /// Why the last thing offered was refused, if it was.
    #[serde(default)]
    pub refused: Option<String>,
    /// Where its agent listens for other agents.
    pub peer: SocketAddr,
}

/// A host as the manager knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The host.
    pub host: HostId,
    /// Whether an agent enforces there.
    pub protected: bool,
    /// The agent's key.
    pub key: Option<VerifyKey>,
    /// Its last report.
    pub report: Option<HostReport>,
    /// When that was received, in milliseconds of Unix time by the manager's clock.
    #[serde(default)]
    pub heard_ms: Option<u64>,
    /// Entries of its evidence that the manager has.
    #[serde(default)]
    pub evidence: u64,
}

/// A guest as the manager knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestEntry {
    /// The guest.
    pub guest: GuestId,
    /// Its labels.
    pub labels: Labels,
    /// Where it was last seen.
    pub host: Option<HostId>,
    /// Whether an agent protects it there.
    pub protected: bool,
}

/// Hosts and guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Every host.
    pub hosts: Vec<HostEntry>,
    /// Every guest.
    pub guests: Vec<GuestEntry>,
}

/// Bytes of all entries in one batch, before they are written as JSON texts. JSON at most doubles
/// them, so that a full batch stays within half of `MESSAGE_BYTES_MAX` and half is room to spare.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 4_096;
/// Hashes in the proof of one batch: one for each bit of a log's size, and one to begin with.
pub const BATCH_PROOF_HASHES_MAX: usize = 65;

/// A part of a host's log, and the proof that the host signed it.
///
/// An agent takes batches from [`next_batch`](crate::next_batch), beginning at the number that the
/// manager answered last (0 if it does not know), sends each, and goes on from the number in the
/// answer until there is none left. Each part is verified and durable when it is acknowledged: the
/// agent need not keep its place, and an answer that was lost costs one repetition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceBatch {
    /// The host.
    pub host: HostId,
    /// The number of the first entry.
    pub first: u64,
    /// The entries' canonical bytes, which are JSON texts: at most [`BATCH_ENTRIES_MAX`] of them
    /// and at most [`BATCH_BYTES_MAX`] bytes in all.
    pub entries: Vec<String>,
    /// The host's signed checkpoint over its whole log: these entries, those before, and any that
    /// follow in later batches.
    pub checkpoint: String,
    /// If the checkpoint covers more than the last entry here: the consistency proof (RFC 9162,
    /// section 2.1.4) from the log up to that entry to the checkpoint. Empty in the last batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<Digest>,
}

/// What a report is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// The number that the next batch of evidence must begin with.
    pub next: u64,
    /// Whether somebody asks for the host's live sessions, and it has not listed them since.
    #[serde(default)]
    pub sessions_wanted: bool,
}

/// Every host was asked for its live sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsAsked {
    /// When, by the manager's clock: what was listed since is an answer.
    pub asked_ms: u64,
    /// Which hosts have an agent.
    pub hosts: Vec<HostId>,
}

/// Bytes of a host's sessions that are listed; the rest is counted.
pub const LISTING_BYTES_MAX: usize = 8 << 20;

/// The live sessions of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionListing {
    /// The host.
    pub host: HostId,
    /// By vnic, and of one with many sessions in several pages.
    pub pages: Vec<SessionPage>,
    /// Sessions that did not fit.
    pub left_out: u64,
}

/// The live sessions of one host, and when the manager got them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsListed {
    /// By the manager's clock.
    pub listed_ms: u64,
    /// What the host said.
    pub listing: SessionListing,
}

/// How far a host's evidence is stored durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceAccepted {
    /// The number that the next batch must begin with.
    pub next: u64,
}

/// How a move ended, as the manager lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveResult {
    /// The guest runs at the target, with its sessions.
    Committed,
    /// The guest went on at the source.
    Aborted,
    /// The source was lost before its last delta.
    StateLost,
    /// It was refused before it began.
    Refused,
    /// The guest went to a host without an agent, as its owner allows.
    Unprotected,
}

impl MoveResult {
    /// The name as it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::StateLost => "state-lost",
            Self::Refused => "refused",
            Self::Unprotected => "unprotected",
        }
    }
}

/// One move, once, whoever told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveEntry {
    /// Who moved.
    pub guest: GuestId,
    /// From where; `None` if nobody knows.
    pub from: Option<HostId>,
    /// To where.
    pub to: HostId,
    /// How it ended.
    pub outcome: MoveResult,
    /// When: the opening at the target, the fence of a move that was called off, the refusal, or
    /// the beginning of an unprotected stay, in milliseconds of Unix time.
    pub time_ms: u64,
    /// Who asked, as far as a record says so.
    #[serde(default)]
    pub asked_by: Option<String>,
    /// The digest of its ticket, if it had one.
    #[serde(default)]
    pub ticket: Option<Digest>,
    /// Who has signed its record; `None` where there is no record to sign.
    #[serde(default)]
    pub signers: Option<MoveSigners>,
    /// Sessions sent, accepted and refused; `None` if none were handed over.
    #[serde(default)]
    pub sessions: Option<MoveSessions>,
    /// How long packets waited, in microseconds; `None` if nothing was handed over.
    #[serde(default)]
    pub pause_us: Option<u64>,
    /// How long the guest could be reached without a verdict, in milliseconds; while an unprotected
    /// stay lasts, until now.
    pub unprotected_ms: u64,
    /// When an unprotected stay ended, in milliseconds of Unix time; `None` while it lasts, and for
    /// every other outcome.
    #[serde(default)]
    pub unprotected_until_ms: Option<u64>,
    /// How far each of those times may be off, in milliseconds.
    pub error_ms: u64,
    /// Why it was refused: every reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Where a management layer says that a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The guest.
    pub guest: GuestId,
    /// The host, protected or not.
    pub host: HostId,
    /// When the guest began to run there, in milliseconds of Unix time.
    pub since_ms: u64,
    /// How far off that time may be.
    pub error_ms: u64,
}

/// Entries of the manager's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entries {
    /// The number of the first.
    pub first: u64,
    /// Their canonical bytes, which are JSON texts.
    pub entries: Vec<String>,
}

/// An evidence pack: paths and contents in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Every file of the pack.
    pub files: std::collections::BTreeMap<String, String>,
}
