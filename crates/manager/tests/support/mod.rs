//! A manager on the loopback, people and agents that call it, and a small installation to talk of.
#![allow(dead_code, reason = "each test file uses its own part")]

use lictor_evidence::{Body, Entry, KeyName, Log as HostLog, MemoryStorage, Source};
use lictor_manager::{Clock, Init, Manager, init, token};
use lictor_policy::{Cause, Choice, ChoiceRow, Compiled, Date, Identity, Labels, Log};
use lictor_types::{Digest, Epoch, Generation, GuestId, HostId, IdentityId, Segment, VnicId};
use lictor_wire::api::{EnrollRequest, Enrolled, EvidenceBatch, Role, TokenRequest};
use lictor_wire::{
    AddressAttestation, Binding, Delegation, Envelope, Release, RosterHost, SigningKey, Trust,
    VerifyKey, VnicBinding,
};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

pub(crate) fn key(name: &str) -> SigningKey {
    SigningKey::generate(
        KeyName::new(name).expect("a valid name"),
        &mut rand::thread_rng(),
    )
}

pub(crate) fn host(name: &str) -> HostId {
    HostId::new(name).expect("a valid name")
}

pub(crate) fn guest(name: &str) -> GuestId {
    GuestId::new(name).expect("a valid name")
}

pub(crate) fn labels(zone: &str) -> Labels {
    Labels::from([("zone".to_owned(), zone.to_owned())])
}

/// The keys of one installation.
pub(crate) struct Keys {
    pub(crate) author: SigningKey,
    pub(crate) approver: SigningKey,
    pub(crate) owner: SigningKey,
    pub(crate) agent: SigningKey,
    pub(crate) other_agent: SigningKey,
    pub(crate) witness: SigningKey,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            author: key("author"),
            approver: key("approver"),
            owner: key("owner"),
            agent: key("agent-a"),
            other_agent: key("agent-b"),
            witness: key("witness"),
        }
    }

    pub(crate) fn init(&self) -> Init {
        Init {
            deployment: "test".parse().expect("a valid name"),
            authors: vec![self.author.verify_key()],
            approvers: vec![self.approver.verify_key()],
            approvals: 1,
            witnesses: vec![self.witness.verify_key()],
            witnesses_required: 1,
            names: vec!["127.0.0.1".into()],
        }
    }

    pub(crate) fn release(&self, generation: u64) -> Release {
        Release {
            format: 1,
            deployment: "test".parse().expect("a valid name"),
            generation: Generation(generation),
            created_ms: 1,
            policy: compiled(),
            roster: [("a", &self.agent), ("b", &self.other_agent)]
                .map(|(name, key)| RosterHost {
                    host: host(name),
                    cluster: "main".into(),
                    key: key.verify_key(),
                    peer: "127.0.0.1:7443".parse().expect("an address"),
                })
                .into(),
            delegations: vec![Delegation {
                key: self.owner.verify_key(),
                labels: vec![labels("cde"), labels("corp")],
                guests_max: 4,
                prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
                segments: vec![Segment(1)],
            }],
            proved: None,
        }
    }

    pub(crate) fn signed(&self, release: &Release) -> Envelope {
        let mut envelope = release.sign(&self.author);
        envelope.add_signature(&self.approver).expect("another key");
        envelope
    }

    pub(crate) fn binding(&self, name: &str, zone: &str, number: u32) -> Binding {
        Binding {
            deployment: "test".parse().expect("a valid name"),
            epoch: Epoch(u64::from(number)),
            guest: guest(name),
            labels: labels(zone),
            vnics: vec![VnicBinding {
                vnic: VnicId(number),
                name: format!("{name}-0").parse().expect("a valid name"),
                mac: format!("52:54:00:00:00:{number:02x}")
                    .parse()
                    .expect("a MAC"),
                segment: Segment(1),
                sessions_max: 1_000,
                link: lictor_wire::LinkBinding::default(),
            }],
            hosts: Vec::new(),
            retired: false,
            isolated: None,
        }
    }

    pub(crate) fn attestation(&self, name: &str, vnic: u32, address: &str) -> AddressAttestation {
        AddressAttestation {
            deployment: "test".parse().expect("a valid name"),
            host: host("a"),
            guest: guest(name),
            vnic: VnicId(vnic),
            sequence: 1,
            addresses: vec![address.parse().expect("an address")],
            more: Vec::new(),
        }
    }
}

/// `cde` is blocked on hosts without an agent, `corp` may run there with an alarm.
fn compiled() -> Compiled {
    let identity = |id, zone| Identity {
        id: IdentityId(id),
        labels: vec![labels(zone)],
        quarantine: false,
        sensitive: zone == "cde",
        selectors: Vec::new(),
    };
    Compiled {
        policy: "test".into(),
        version: 1,
        source: Digest::of(b"test"),
        date: Date::new(2026, 11, 24).expect("a day"),
        rules: Vec::new(),
        identities: vec![identity(11, "cde"), identity(12, "corp")],
        prefixes: Vec::new(),
        atoms: Vec::new(),
        selectors: Vec::new(),
        world: Vec::new(),
        services: Vec::new(),
        lines: Vec::new(),
        baseline_log: Log::New,
        controls: Vec::new(),
        observed: Vec::new(),
        choices: vec![ChoiceRow {
            identity: IdentityId(12),
            cause: Cause::HostUnprotected,
            choice: Choice::AllowWithAlarm,
            owner: "corp".into(),
            justification: None,
            expires: None,
        }],
        computed: Vec::new(),
        intents: Vec::new(),
        expired: Vec::new(),
    }
}

/// The system's clock, which a test can put forward.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Arc::new(move || {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970");
            u64::try_from(since.as_millis()).expect("fits") + ahead.load(Ordering::SeqCst)
        })
    }

    pub(crate) fn forward(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("fits");
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

/// A manager in this process. It ends when it is dropped.
pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) keys: Keys,
    pub(crate) trust: Trust,
    pub(crate) clock: TestClock,
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (keys, clock) = (Keys::new(), TestClock::default());
        let (trust, _) = init(dir.path(), keys.init(), &clock.clock()).expect("a new manager");
        let manager = Manager::open(dir.path(), clock.clock()).expect("the manager opens");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || runtime.block_on(manager.serve(listener, stopped)));
        Self {
            dir,
            keys,
            trust,
            clock,
            address,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn token(&self, role: Role, name: &str) -> String {
        let request = TokenRequest {
            role,
            name: name.into(),
            minutes: 10,
        };
        token(self.dir.path(), &request, &self.clock.clock())
            .expect("a token")
            .token
    }

    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.dir.path(), self.address, None)
    }

    /// Enrols and returns the holder of the certificate.
    pub(crate) fn enrol(&self, role: Role, name: &str) -> Client {
        let key = if name == "b" {
            &self.keys.other_agent
        } else {
            &self.keys.agent
        };
        let agent_key = (role == Role::Agent).then(|| key.verify_key());
        let token = self.token(role, name);
        let identity = enrol(&self.anonymous(), &token, agent_key).expect("enrolled");
        Client::new(self.dir.path(), self.address, Some(identity))
    }

    /// With release 1 and two guests: `db` in `cde`, `pc` in `corp`.
    pub(crate) fn with_release(&self) {
        let author = self.enrol(Role::PolicyAuthor, "ann");
        author.ok(
            "POST",
            "/v1/releases",
            &self.keys.signed(&self.keys.release(1)),
        );
        let owner = self.enrol(Role::ScopeOwner, "olga");
        for binding in [
            self.keys.binding("db", "cde", 1),
            self.keys.binding("pc", "corp", 2),
        ] {
            owner.ok("POST", "/v1/bindings", &binding.sign(&self.keys.owner));
        }
    }

    /// The kinds of all entries in the manager's log.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let reader = self.enrol(Role::Auditor, "reader");
        let answer = reader.ok("GET", "/v1/log/entries", &());
        let texts = answer["entries"].as_array().expect("a list").iter();
        texts
            .map(|text| Entry::from_bytes(text.as_str().expect("a text").as_bytes()))
            .collect::<Result<_, _>>()
            .expect("entries of this version")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the manager panicked"
            );
        }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

pub(crate) fn enrol(
    client: &Client,
    token: &str,
    agent_key: Option<VerifyKey>,
) -> Result<Pair, (u16, Value)> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    let request_pem = request.pem().expect("a PEM text");
    let request = EnrollRequest {
        token: token.into(),
        request_pem,
        agent_key,
    };
    let (status, answer) = client.call("POST", "/v1/enroll", &request);
    if status != 200 {
        return Err((status, answer));
    }
    let enrolled: Enrolled = serde_json::from_value(answer).expect("an answer");
    Ok(Pair {
        certificate_pem: enrolled.certificate_pem,
        key_pem: key.serialize_pem(),
    })
}

/// Someone who calls the manager.
pub(crate) struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
}

impl Client {
    pub(crate) fn new(dir: &Path, address: SocketAddr, identity: Option<Pair>) -> Self {
        let authority = std::fs::read(dir.join("authority.pem")).expect("the authority");
        let root = Certificate::from_pem(&authority).expect("a certificate");
        let identity = identity.map(|identity| {
            let certificate = Certificate::from_pem(identity.certificate_pem.as_bytes());
            let key = PrivateKey::from_pem(identity.key_pem.as_bytes()).expect("a key");
            ClientCert::new_with_certs(&[certificate.expect("a certificate")], key)
        });
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .client_cert(identity)
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            // A refused request's connection is closed with its body unread: no second use.
            .max_idle_connections(0)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build();
        Self {
            agent: config.new_agent(),
            address,
        }
    }

    /// Calls, or says why there is no answer.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<(u16, Value), ureq::Error> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address));
        let mut response = if method == "GET" {
            self.agent.run(request.body(()).expect("a request"))?
        } else {
            self.agent
                .run(request.body(body.to_vec()).expect("a request"))?
        };
        let bytes = response.body_mut().read_to_vec()?;
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok((response.status().as_u16(), value))
    }

    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        body: &impl serde::Serialize,
    ) -> (u16, Value) {
        let body = serde_json::to_vec(body).expect("JSON");
        self.send(method, path, &body).expect("an answer")
    }

    #[track_caller]
    pub(crate) fn ok(&self, method: &str, path: &str, body: &impl serde::Serialize) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// The call must fail with this status, and the answer must say why.
    #[track_caller]
    pub(crate) fn refused(
        &self,
        (method, path): (&str, &str),
        body: &impl serde::Serialize,
        (status, why): (u16, &str),
    ) {
        let (found, answer) = self.call(method, path, body);
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(
            answer.to_string().contains(why),
            "expected {why:?} in {answer}"
        );
    }
}

/// A host's own log, as its agent keeps it.
pub(crate) struct AgentLog {
    host: HostId,
    key: SigningKey,
    log: HostLog<MemoryStorage>,
    texts: Vec<String>,
}

impl AgentLog {
    pub(crate) fn new(key: &SigningKey) -> Self {
        Self::of("a", key)
    }

    pub(crate) fn of(name: &str, key: &SigningKey) -> Self {
        let log = HostLog::open(MemoryStorage::default(), key.verify_key(), None);
        Self {
            host: host(name),
            key: key.clone(),
            log: log.expect("a new log"),
            texts: Vec::new(),
        }
    }

    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn add(&mut self, body: Body) {
        self.add_at(1_000 + self.texts.len() as u64, body);
    }

    pub(crate) fn add_at(&mut self, time_ms: u64, body: Body) {
        let seq = self.texts.len() as u64;
        let entry = Entry::new(Source::Host(self.host.clone()), seq, time_ms, body);
        let bytes = entry.to_bytes().expect("it fits");
        self.log.append(&bytes).expect("stored");
        self.texts.push(String::from_utf8(bytes).expect("a text"));
    }

    pub(crate) fn add_alarm(&mut self, text: &str) {
        self.add(Body::Alarm {
            subject: "test".into(),
            text: text.into(),
        });
    }

    /// Everything from `first` on, under a new checkpoint.
    pub(crate) fn batch(&mut self, first: usize) -> EvidenceBatch {
        EvidenceBatch {
            host: self.host.clone(),
            first: first as u64,
            entries: self.texts[first..].to_vec(),
            checkpoint: self.log.checkpoint(&self.key).expect("signed"),
            proof: Vec::new(),
        }
    }

    /// The first `count` of them, with the proof that the checkpoint covers them.
    pub(crate) fn part(&mut self, first: usize, count: usize) -> EvidenceBatch {
        let mut batch = self.batch(first);
        batch.entries.truncate(count);
        let (end, size) = ((first + count) as u64, self.log.size());
        batch.proof = self.log.consistency(end, size).expect("a part of it");
        batch
    }
}
