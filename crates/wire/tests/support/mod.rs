//! One small installation that the tests of this crate share.
#![allow(
    dead_code,
    reason = "each test file uses its own part of the installation"
)]

use lictor_evidence::KeyName;
use lictor_policy::{
    Action, At, Compiled, Date, Identity, Labels, LineRow, Log, Mode, OnExpiry, PrefixRow,
    RuleInfo, ServiceRow,
};
use lictor_types::{
    AtomId, AtomRange, DeploymentId, Digest, Epoch, Generation, GuestId, HostId, IdentityId,
    Protocol, RuleId, Segment, VnicId,
};
use lictor_wire::{
    AddressAttestation, Binding, Delegation, Release, RosterHost, SigningKey, Trust, VnicBinding,
};

pub(crate) const DB: IdentityId = IdentityId(11);
pub(crate) const CORP: IdentityId = IdentityId(12);
pub(crate) const SET: IdentityId = IdentityId(13);

pub(crate) struct Installation {
    pub(crate) author: SigningKey,
    pub(crate) approver: SigningKey,
    pub(crate) owner: SigningKey,
    pub(crate) stranger: SigningKey,
    pub(crate) agent_a: SigningKey,
    pub(crate) agent_b: SigningKey,
    pub(crate) manager: SigningKey,
}

pub(crate) fn key(name: &str) -> SigningKey {
    SigningKey::generate(
        KeyName::new(name).expect("a valid name"),
        &mut rand::thread_rng(),
    )
}

pub(crate) fn labels(zone: &str) -> Labels {
    Labels::from([("zone".to_owned(), zone.to_owned())])
}

pub(crate) fn host(name: &str) -> HostId {
    HostId::new(name).expect("a valid name")
}

pub(crate) fn guest(name: &str) -> GuestId {
    GuestId::new(name).expect("a valid name")
}

fn deployment() -> DeploymentId {
    DeploymentId::new("test").expect("a valid name")
}

impl Installation {
    pub(crate) fn new() -> Self {
        Self {
            author: key("author"),
            approver: key("approver"),
            owner: key("owner"),
            stranger: key("stranger"),
            agent_a: key("agent-a"),
            agent_b: key("agent-b"),
            manager: key("manager"),
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust {
            deployment: deployment(),
            authors: vec![self.author.verify_key()],
            approvers: vec![self.approver.verify_key(), self.author.verify_key()],
            approvals_required: 1,
            manager: self.manager.verify_key(),
            freshness: None,
        }
    }

    pub(crate) fn release(&self, generation: u64) -> Release {
        let roster_host = |name: &str, key: &SigningKey| RosterHost {
            host: host(name),
            cluster: "main".into(),
            key: key.verify_key(),
            peer: "127.0.0.1:7443".parse().expect("valid"),
        };
        Release {
            format: 1,
            deployment: deployment(),
            generation: Generation(generation),
            created_ms: 1,
            policy: compiled(),
            roster: vec![
                roster_host("a", &self.agent_a),
                roster_host("b", &self.agent_b),
            ],
            delegations: vec![Delegation {
                key: self.owner.verify_key(),
                labels: vec![labels("cde"), labels("corp")],
                guests_max: 2,
                prefixes: vec!["10.1.0.0/16".parse().expect("valid")],
                segments: vec![Segment(1)],
            }],
            proved: None,
        }
    }

    pub(crate) fn signed(&self, generation: u64) -> lictor_wire::Envelope {
        let mut envelope = self.release(generation).sign(&self.author);
        envelope.add_signature(&self.approver).expect("another key");
        envelope
    }

    pub(crate) fn binding(&self, name: &str, zone: &str, number: u32) -> Binding {
        Binding {
            deployment: deployment(),
            epoch: Epoch(u64::from(number)),
            guest: guest(name),
            labels: labels(zone),
            vnics: vec![VnicBinding {
                vnic: VnicId(number),
                name: format!("{name}-0").parse().expect("valid"),
                mac: format!("52:54:00:00:00:{number:02x}")
                    .parse()
                    .expect("valid"),
                segment: Segment(1),
                sessions_max: 1_000,
                link: lictor_wire::LinkBinding::default(),
            }],
            hosts: Vec::new(),
            retired: false,
            isolated: None,
        }
    }

    pub(crate) fn attestation(&self, name: &str, number: u32, address: &str) -> AddressAttestation {
        AddressAttestation {
            deployment: deployment(),
            host: host("a"),
            guest: guest(name),
            vnic: VnicId(number),
            sequence: 1,
            addresses: vec![address.parse().expect("valid")],
            more: Vec::new(),
        }
    }
}

/// From `zone:corp` to `zone:cde`, as an application rule.
pub(crate) fn line(rule: u32) -> LineRow {
    LineRow {
        rule: RuleId(rule),
        stage: u32::MAX,
        from: 1,
        to: 0,
        service: 0,
    }
}

pub(crate) fn rule(id: u32, action: Action) -> RuleInfo {
    RuleInfo {
        id: RuleId(id),
        name: format!("pay/portal{id}"),
        tier: "pay".into(),
        order: 0,
        action,
        from: "zone:corp".into(),
        to: "zone:cde".into(),
        service: "tcp/80".into(),
        at: At::Both,
        owner: None,
        justification: None,
        requirements: Vec::new(),
        review_days: None,
        expires: None,
        during: None,
        log: Log::Off,
        log_limit: None,
        limit: None,
        mode: Mode::Enforce,
        on_expiry: OnExpiry::Drop,
        touches_sensitive: false,
        file: None,
        line: 1,
        text: String::new(),
    }
}

fn compiled() -> Compiled {
    let identity = |id, zone: Option<&str>| Identity {
        id,
        labels: zone.map(labels).into_iter().collect(),
        quarantine: false,
        sensitive: false,
        selectors: match zone {
            Some("cde") => vec![0],
            Some(_) => vec![1],
            None => Vec::new(),
        },
    };
    Compiled {
        policy: "test".into(),
        version: 1,
        source: Digest::of(b"test"),
        date: Date::new(2026, 11, 24).expect("a day"),
        rules: vec![rule(5, Action::Allow)],
        identities: vec![
            identity(DB, Some("cde")),
            identity(CORP, Some("corp")),
            identity(SET, None),
        ],
        prefixes: vec![
            PrefixRow {
                prefix: "10.9.0.0/16".parse().expect("valid"),
                identity: SET,
            },
            PrefixRow {
                prefix: "10.1.0.10/32".parse().expect("valid"),
                identity: SET,
            },
        ],
        atoms: vec![AtomRange {
            protocol: Protocol::Tcp,
            first: 80,
            last: 80,
            atom: AtomId(1),
        }],
        selectors: vec!["zone:cde".into(), "zone:corp".into()],
        world: Vec::new(),
        services: vec![ServiceRow {
            service: "tcp/80".into(),
            atoms: vec![AtomId(1)],
        }],
        lines: vec![line(5)],
        baseline_log: Log::New,
        controls: Vec::new(),
        choices: Vec::new(),
        observed: Vec::new(),
        computed: Vec::new(),
        intents: Vec::new(),
        expired: Vec::new(),
    }
}
