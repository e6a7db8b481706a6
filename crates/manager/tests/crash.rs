//! The manager is killed while it writes: whatever it acknowledged is there afterwards.

mod support;

use clap::Parser;
use lictor_evidence::merkle::leaf_hash;
use lictor_evidence::{Checkpoint, Note, Tree};
use lictor_manager::{Args, Manager, ManagerError, init, run, token};
use lictor_store::{Options, Store};
use lictor_wire::api::{Role, TokenRequest};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{AgentLog, Client, Keys, Pair, TestClock, enrol};

const CHILD_DIR: &str = "LICTOR_TEST_MANAGER_DIR";
/// How long each manager lives before it is killed.
const LIVES_MS: [u64; 6] = [30, 60, 90, 45, 75, 120];
/// Entries after which a life is long enough, also if the kill is late.
const ENTRIES_PER_LIFE_MAX: usize = 2_000;

/// A manager in a process of its own, killed without warning when dropped.
struct Victim {
    process: Child,
    address: SocketAddr,
}

impl Victim {
    fn start(dir: &Path) -> Self {
        let program = std::env::current_exe().expect("the path of this test");
        let mut process = Command::new(program)
            .args([
                "--exact",
                "the_manager_in_a_process_of_its_own",
                "--nocapture",
            ])
            .env(CHILD_DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test can start itself");
        let output = process.stdout.take().expect("it is a pipe");
        let address = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listening on ")?.1.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{:?}", process.wait()));
        Self { process, address }
    }

    /// SIGKILL, at whatever instruction it is.
    fn kill(&mut self) {
        self.process.kill().expect("it runs until now");
        self.process.wait().expect("it has ended");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It has ended already unless the test panicked.
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Runs the manager if the test above asks for it; otherwise checks that the command refuses a
/// directory without one.
#[test]
fn the_manager_in_a_process_of_its_own() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let asked = std::env::var_os(CHILD_DIR);
    let dir = asked.as_deref().map_or(empty.path(), Path::new);
    let dir_text = dir.to_str().expect("a plain path");
    let arguments = [
        "manager",
        "run",
        "--dir",
        dir_text,
        "--listen",
        "127.0.0.1:0",
    ];
    let result = run(Args::parse_from(arguments), &mut std::io::stdout());
    let missing = |error: &ManagerError| {
        let said = error.to_string();
        said.contains(dir_text) && said.contains("`lictor manager init` makes one")
    };
    let refused = result.as_ref().is_err_and(missing);
    assert!(asked.is_some() || refused, "{result:?}");
}

fn identity(dir: &Path, address: SocketAddr, role: Role, keys: &Keys) -> Pair {
    let request = TokenRequest {
        role,
        name: "a".into(),
        minutes: 10,
    };
    let token = token(dir, &request, &TestClock::default().clock()).expect("a token");
    let agent_key = (role == Role::Agent).then(|| keys.agent.verify_key());
    enrol(&Client::new(dir, address, None), &token.token, agent_key).expect("enrolled")
}

/// Sends one entry after the other until the manager is gone; returns what was acknowledged.
fn send_until_killed(client: &Client, log: &mut AgentLog, mut next: usize) -> usize {
    for _ in 0..ENTRIES_PER_LIFE_MAX {
        if log.texts().len() == next {
            log.add_alarm("one more");
        }
        let batch = serde_json::to_vec(&log.batch(next)).expect("JSON");
        let Ok((status, answer)) = client.send("POST", "/v1/evidence", &batch) else {
            return next;
        };
        assert_eq!(status, 200, "{answer}");
        next = usize::try_from(answer["next"].as_u64().expect("a number")).expect("fits");
    }
    next
}

/// Every entry that the manager has, under its own signature.
fn whole_log(client: &Client, trust: &lictor_wire::Trust) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    loop {
        let path = format!("/v1/log/entries?first={}", texts.len());
        let more: lictor_wire::api::Entries =
            serde_json::from_value(client.ok("GET", &path, &())).expect("entries");
        if more.entries.is_empty() {
            break;
        }
        texts.extend(more.entries);
    }
    let note = client.ok("GET", "/v1/log/checkpoint", &());
    let signed = Checkpoint::verify(note.as_str().expect("a text"), &trust.manager);
    let signed = signed.expect("it verifies");
    let tree = Tree::from_leaves(texts.iter().map(|text| leaf_hash(text.as_bytes())));
    assert_eq!((signed.size, signed.root), (tree.len(), tree.root()));
    texts
}

#[test]
fn nothing_acknowledged_is_lost_when_the_manager_is_killed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keys = Keys::new();
    let clock = TestClock::default().clock();
    let (trust, _) = init(dir.path(), keys.init(), &clock).expect("a new manager");
    let mut victim = Victim::start(dir.path());
    let agent = identity(dir.path(), victim.address, Role::Agent, &keys);
    let auditor = identity(dir.path(), victim.address, Role::Auditor, &keys);
    let (mut log, mut acknowledged) = (AgentLog::new(&keys.agent), 0);
    for life_ms in LIVES_MS {
        let client = Client::new(dir.path(), victim.address, Some(agent.clone()));
        let before = acknowledged;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| send_until_killed(&client, &mut log, before));
            std::thread::sleep(Duration::from_millis(life_ms));
            victim.kill();
            acknowledged = sender.join().expect("every answer was an acknowledgement");
        });
        victim = Victim::start(dir.path());
        let reader = Client::new(dir.path(), victim.address, Some(auditor.clone()));
        let stored = whole_log(&reader, &trust);
        let theirs: Vec<_> = stored
            .iter()
            .filter(|text| text.contains(r#""host":"a""#))
            .cloned()
            .collect();
        assert!(
            theirs.len() >= acknowledged,
            "{} of {acknowledged}",
            theirs.len()
        );
        assert_eq!(theirs[..], log.texts()[..theirs.len()]);
    }
    assert!(
        acknowledged > LIVES_MS.len(),
        "it was killed before it wrote: {acknowledged}"
    );
}

#[test]
fn a_second_manager_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = TestClock::default();
    init(dir.path(), Keys::new().init(), &clock.clock()).expect("a new manager");
    let _first = Manager::open(dir.path(), clock.clock()).expect("the manager opens");
    let error = Manager::open(dir.path(), clock.clock())
        .err()
        .expect("must be refused");
    assert!(
        error.to_string().contains("another manager runs"),
        "{error}"
    );
}

#[test]
fn a_second_init_leaves_the_first_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = TestClock::default().clock();
    init(dir.path(), Keys::new().init(), &clock).expect("a new manager");
    let before = std::fs::read(dir.path().join("trust.json")).expect("the trust file");
    let error = init(dir.path(), Keys::new().init(), &clock).expect_err("must be refused");
    let said = error.to_string();
    assert!(said.contains("log.key"), "{said}");
    assert!(said.contains("choose another --dir"), "{said}");
    assert_eq!(
        std::fs::read(dir.path().join("trust.json")).expect("the trust file"),
        before
    );
}

#[test]
fn a_log_that_is_behind_or_beside_its_checkpoint_is_not_continued() {
    for (size, root) in [(5, "later entries"), (0, "another past")] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let clock = TestClock::default().clock();
        init(dir.path(), Keys::new().init(), &clock).expect("a new manager");
        let key = std::fs::read_to_string(dir.path().join("log.key")).expect("the log's key");
        let key: lictor_wire::SigningKey = key.parse().expect("a key");
        let root = lictor_types::Digest::of(root.as_bytes());
        let signed = Checkpoint {
            origin: key.name().to_string(),
            size,
            root,
        };
        let mut note = Note::new(signed.to_string()).expect("a note");
        note.sign(&key);
        let path = dir.path().join("store.db");
        let mut store = Store::open(&path, Options::default()).expect("the store opens");
        store
            .write(|tx| tx.set_checkpoint(size, &note.to_string()))
            .expect("the checkpoint is stored");
        drop(store);
        let error = Manager::open(dir.path(), clock)
            .err()
            .expect("must be refused");
        assert!(
            matches!(error, ManagerError::RolledBack { .. }),
            "{size}: {error}"
        );
    }
}
