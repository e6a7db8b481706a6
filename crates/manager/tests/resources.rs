//! Releases, bindings, evidence and placements: what is stored, what is refused, what is told.

mod support;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lictor_evidence::{
    Body, Checkpoint, Envelope, MOVE_RECORD_TYPE, MoveOutcome, MoveRecord, MoveSessions, MoveSide,
    Source,
};
use lictor_types::{Digest, Generation, HostId};
use lictor_wire::api::{Placement, Role};
use serde_json::json;
use support::{AgentLog, Server, guest, host, key};

/// The kinds of the manager's own entries, in order.
fn told(server: &Server) -> Vec<&'static str> {
    let own = server
        .entries()
        .into_iter()
        .filter(|entry| entry.host == Source::Manager);
    let (numbers, kinds): (Vec<_>, Vec<_>) =
        own.map(|entry| (entry.seq, entry.body.kind())).unzip();
    assert!(
        numbers.iter().copied().eq(0..numbers.len() as u64),
        "without a gap: {numbers:?}"
    );
    kinds
}

#[test]
fn a_release_needs_both_signatures_the_deployment_and_a_new_number() {
    let server = Server::start();
    let keys = &server.keys;
    let author = server.enrol(Role::PolicyAuthor, "ann");
    let post = ("POST", "/v1/releases");
    author.refused(
        post,
        &keys.release(1).sign(&keys.author),
        (422, "0 valid approval(s)"),
    );
    author.refused(
        post,
        &keys.release(1).sign(&keys.approver),
        (422, "no valid signature"),
    );
    let mut elsewhere = keys.release(1);
    elsewhere.deployment = "other".parse().expect("a valid name");
    author.refused(post, &keys.signed(&elsewhere), (422, "deployment other"));
    author.refused(("GET", "/v1/release"), &(), (404, "no release"));
    let second = keys.signed(&keys.release(2));
    let published = author.ok("POST", "/v1/releases", &second);
    assert_eq!(
        author.ok("POST", "/v1/releases", &second),
        published,
        "it may be sent again"
    );
    author.refused(post, &keys.signed(&keys.release(1)), (422, "generation 1"));
    let mut twin = keys.release(2);
    twin.created_ms += 1;
    author.refused(post, &keys.signed(&twin), (422, "was already seen as"));
    let newest = author.ok("GET", "/v1/release", &());
    assert_eq!(newest["generation"], 2);
    let kinds = told(&server);
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!(
        (count("release-refused"), count("release-facts")),
        (5, 1),
        "{kinds:?}"
    );
}

#[test]
fn a_release_under_which_the_bindings_fail_is_refused() {
    let server = Server::start();
    server.with_release();
    let author = server.enrol(Role::PolicyAuthor, "ann");
    let mut narrow = server.keys.release(2);
    narrow.delegations[0].guests_max = 1;
    let post = ("POST", "/v1/releases");
    author.refused(
        post,
        &server.keys.signed(&narrow),
        (422, "has bound 2 guests"),
    );
    assert_eq!(author.ok("GET", "/v1/release", &())["generation"], 1);
}

#[test]
fn bindings_are_delegated_and_only_ever_newer() {
    let server = Server::start();
    let keys = &server.keys;
    let owner = server.enrol(Role::ScopeOwner, "olga");
    let post = ("POST", "/v1/bindings");
    let first = keys.binding("db", "cde", 1);
    owner.refused(
        post,
        &first.sign(&keys.owner),
        (409, "no release is published"),
    );
    server.with_release();
    let before = owner.ok("GET", "/v1/bindings", &());
    for (binding, signer, refusal) in [
        (first.clone(), &keys.owner, (409, "2 is stored")),
        (
            keys.binding("pc", "corp", 2),
            &keys.owner,
            (409, "2 is stored"),
        ),
        (
            keys.binding("www", "dmz", 3),
            &keys.owner,
            (422, "may not bind the labels"),
        ),
        (
            keys.binding("www", "corp", 3),
            &keys.author,
            (422, "not signed by a key"),
        ),
    ] {
        owner.refused(post, &binding.sign(signer), refusal);
    }
    assert_eq!(
        owner.ok("GET", "/v1/bindings", &()),
        before,
        "nothing was stored"
    );
    owner.ok(
        "POST",
        "/v1/bindings",
        &keys.binding("www", "corp", 3).sign(&keys.owner),
    );
    let after = owner.ok("GET", "/v1/bindings", &());
    assert!(after["revision"].as_u64() > before["revision"].as_u64());
    assert_eq!(after["log"]["bindings"].as_array().map(Vec::len), Some(3));
}

#[test]
fn attestations_come_from_the_hosts_own_agent_and_lapse_with_the_guest() {
    let server = Server::start();
    server.with_release();
    let keys = &server.keys;
    let agent = server.enrol(Role::Agent, "a");
    let post = ("POST", "/v1/attestations");
    let good = keys.attestation("db", 1, "10.1.0.10");
    let mut foreign = good.clone();
    foreign.host = host("b");
    agent.refused(
        post,
        &foreign.sign(&keys.agent),
        (403, "does not speak for b"),
    );
    agent.refused(
        post,
        &good.sign(&keys.owner),
        (422, "signature by the roster's key"),
    );
    let outside = keys.attestation("db", 1, "10.2.0.10");
    agent.refused(
        post,
        &outside.sign(&keys.agent),
        (422, "outside the delegated prefixes"),
    );
    let published = agent.ok("POST", "/v1/attestations", &good.sign(&keys.agent));
    let again = agent.ok("POST", "/v1/attestations", &good.sign(&keys.agent));
    assert_eq!(again, published, "the same one may be sent again");
    let other = keys.attestation("db", 1, "10.1.0.11");
    agent.refused(post, &other.sign(&keys.agent), (409, "greater one"));
    let stolen = keys.attestation("pc", 2, "10.1.0.10");
    agent.refused(post, &stolen.sign(&keys.agent), (422, "is claimed by"));
    let count = || {
        let document = agent.ok("GET", "/v1/bindings", &());
        document["log"]["attestations"].as_array().map(Vec::len)
    };
    assert_eq!(count(), Some(1));
    let mut retired = keys.binding("db", "cde", 3);
    retired.retired = true;
    let owner = server.enrol(Role::ScopeOwner, "olga");
    owner.ok("POST", "/v1/bindings", &retired.sign(&keys.owner));
    assert_eq!(count(), Some(0), "or agents would refuse the whole log");
}

#[test]
fn evidence_is_stored_once_in_order_and_under_the_hosts_signature() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let mut log = AgentLog::new(&server.keys.agent);
    ["zero", "one", "two"]
        .into_iter()
        .for_each(|text| log.add_alarm(text));
    let post = ("POST", "/v1/evidence");
    let whole = log.batch(0);
    agent.refused(post, &log.batch(1), (409, "0 is next"));
    let mut elsewhere = whole.clone();
    elsewhere.host = host("b");
    agent.refused(post, &elsewhere, (403, "does not speak for b"));
    let mut cut = whole.clone();
    cut.entries.pop();
    agent.refused(post, &cut, (422, "the entries give 2"));
    let mut forged = AgentLog::new(&key("agent-a"));
    ["zero", "one", "two"]
        .into_iter()
        .for_each(|text| forged.add_alarm(text));
    agent.refused(post, &forged.batch(0), (422, "does not verify"));
    let mut garbled = whole.clone();
    garbled.entries[1].push(' ');
    agent.refused(post, &garbled, (400, "entry 1 of a is refused"));
    assert_eq!(agent.ok("POST", "/v1/evidence", &whole)["next"], 3);
    assert_eq!(
        agent.ok("POST", "/v1/evidence", &whole)["next"],
        3,
        "it may come again"
    );
    let mut rewritten = AgentLog::new(&server.keys.agent);
    ["zero", "ONE", "two", "three"]
        .into_iter()
        .for_each(|text| rewritten.add_alarm(text));
    agent.refused(post, &rewritten.batch(0), (409, "its log was rewritten"));
    log.add_alarm("three");
    assert_eq!(
        agent.ok("POST", "/v1/evidence", &log.batch(1))["next"],
        4,
        "it may overlap"
    );
    let entries = server.entries();
    let theirs: Vec<_> = entries
        .iter()
        .filter(|entry| entry.host == Source::Host(host("a")))
        .map(|entry| String::from_utf8(entry.to_bytes().expect("it fits")).expect("a text"))
        .collect();
    assert_eq!(theirs, log.texts(), "verbatim and in order");
    // The log begins with the keys of manager, author and approver; the agent's is the fourth.
    let expected = ["key-enrolled"; 4]
        .into_iter()
        .chain(["checkpoint-anchored"; 2]);
    assert!(expected.eq(told(&server)), "{:?}", told(&server));
}

#[test]
fn the_checkpoint_covers_everything_that_was_acknowledged() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let mut log = AgentLog::new(&server.keys.agent);
    log.add_alarm("zero");
    agent.ok("POST", "/v1/evidence", &log.batch(0));
    let entries = server.entries();
    let reader = server.enrol(Role::Auditor, "eve");
    let note = reader.ok("GET", "/v1/log/checkpoint", &());
    let note = note.as_str().expect("a text");
    let checkpoint = Checkpoint::verify(note, &server.trust.manager).expect("it verifies");
    let leaves = entries
        .iter()
        .map(|entry| lictor_evidence::merkle::leaf_hash(&entry.to_bytes().expect("it fits")));
    let tree = lictor_evidence::Tree::from_leaves(leaves);
    assert_eq!(
        (checkpoint.size, checkpoint.root),
        (tree.len(), tree.root())
    );
}

fn report(server: &Server, host: &HostId, open: bool) -> serde_json::Value {
    let digest = "0".repeat(64);
    let state = if open { "open" } else { "handed-over" };
    json!({
        "host": host, "time_ms": (server.clock.clock())(), "agent_version": "1", "kernel": "6.12",
        "hook": "tcx", "generation": Generation(1), "release": null, "epoch": 2,
        "tables_expected": digest, "tables_found": digest, "hooks_ok": true, "controls": [],
        "guests": [{ "guest": "pc", "custody": 1, "vnics": [{
            "vnic": 2, "name": "pc-0", "segment": 1, "state": state, "addresses": [],
            "sessions": 0, "judged": [0, 0], "allowed": [0, 0], "device": [0, 0],
        }] }],
        "refused": null, "peer": "127.0.0.1:7443",
    })
}

#[test]
fn a_report_comes_from_the_host_itself_and_fills_the_inventory() {
    let server = Server::start();
    server.with_release();
    let agent = server.enrol(Role::Agent, "a");
    let foreign = report(&server, &host("b"), true);
    agent.refused(
        ("PUT", "/v1/hosts/b"),
        &foreign,
        (403, "does not speak for b"),
    );
    let own = report(&server, &host("a"), true);
    agent.refused(("PUT", "/v1/hosts/b"), &own, (400, "expected one host"));
    agent.ok("PUT", "/v1/hosts/a", &own);
    let auditor = server.enrol(Role::Auditor, "eve");
    let shown = |guest: usize| {
        let inventory = auditor.ok("GET", "/v1/inventory", &());
        let entry = &inventory["guests"][guest];
        (
            entry["guest"].clone(),
            entry["host"].clone(),
            entry["protected"].clone(),
        )
    };
    assert_eq!(shown(0), (json!("db"), json!(null), json!(false)));
    assert_eq!(shown(1), (json!("pc"), json!("a"), json!(true)));
    let silent = std::time::Duration::from_millis(lictor_manager::REPORT_AGE_MS_MAX + 1_000);
    server.clock.forward(silent);
    assert_eq!(
        shown(1),
        (json!("pc"), json!("a"), json!(false)),
        "silence is no protection"
    );
}

#[test]
fn a_guest_on_a_host_without_an_agent_is_alarmed_as_its_owner_chose() {
    let server = Server::start();
    server.with_release();
    let agent = server.enrol(Role::Agent, "a");
    let connector = server.enrol(Role::Connector, "libvirt");
    let place = |name: &str, on: &str, since_ms| {
        let placement = Placement {
            guest: guest(name),
            host: host(on),
            since_ms,
            error_ms: 50,
        };
        connector.ok("POST", "/v1/placements", &placement)
    };
    let before = told(&server).len();
    assert_eq!(place("db", "bare", 1_000)["choice"], "block");
    assert_eq!(told(&server)[before..], ["guest-placed", "alarm"]);
    let before = told(&server).len();
    assert_eq!(place("pc", "bare", 2_000)["choice"], "allow-with-alarm");
    assert_eq!(
        told(&server)[before..],
        ["guest-placed", "unprotected-opened", "alarm"]
    );
    assert_eq!(
        place("nobody", "bare", 2_000)["choice"],
        "block",
        "unknown is strictest"
    );
    let auditor = server.enrol(Role::Auditor, "eve");
    let inventory = auditor.ok("GET", "/v1/inventory", &());
    assert_eq!(inventory["hosts"][1]["host"], "bare");
    assert_eq!(inventory["hosts"][1]["protected"], false);
    assert_eq!(inventory["guests"][1]["host"], "bare");
    agent.ok("PUT", "/v1/hosts/a", &report(&server, &host("a"), false));
    assert_ne!(
        told(&server).last(),
        Some(&"unprotected-closed"),
        "the guest has left there"
    );
    agent.ok("PUT", "/v1/hosts/a", &report(&server, &host("a"), true));
    let entries = server.entries();
    let last = entries.last().expect("entries");
    let Body::UnprotectedClosed {
        guest: closed,
        since_ms,
        until_ms,
        error_ms,
        ..
    } = &last.body
    else {
        panic!("expected the end of the unprotected time, found {last:?}");
    };
    assert_eq!((closed, *since_ms, *error_ms), (&guest("pc"), 2_000, 50));
    assert!(*until_ms > *since_ms);
}

#[test]
fn a_pack_verifies_and_names_a_flipped_byte() {
    let server = Server::start();
    server.with_release();
    let agent = server.enrol(Role::Agent, "a");
    let mut log = AgentLog::new(&server.keys.agent);
    ["zero", "one"]
        .into_iter()
        .for_each(|text| log.add_alarm(text));
    agent.ok("POST", "/v1/evidence", &log.batch(0));
    let auditor = server.enrol(Role::Auditor, "eve");
    let pack: lictor_wire::api::Pack =
        serde_json::from_value(auditor.ok("GET", "/v1/pack", &())).expect("a pack");
    let mut files: lictor_evidence::pack::Files = pack
        .files
        .into_iter()
        .map(|(path, text)| (path, STANDARD.decode(text).expect("base64")))
        .collect();
    let verify = |files: &_| lictor_evidence::pack::verify(files, Some(&server.trust.manager));
    let verified = verify(&files).expect("it verifies");
    assert_eq!(
        verified.entries.last().map(|entry| entry.body.kind()),
        Some("pack-built")
    );
    assert!(
        verified.chains.iter().all(|chain| chain.faults.is_empty()),
        "{:?}",
        verified.chains
    );
    let path = "releases/1.json";
    files.get_mut(path).expect("the release is carried")[0] ^= 1;
    let error = verify(&files).expect_err("one bit is flipped");
    assert!(error.to_string().contains(path), "{error}");
}

#[test]
fn a_recorded_move_is_listed() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let side = MoveSide {
        generation: Generation(1),
        tables: Digest::of(b"tables"),
    };
    let record = MoveRecord {
        ticket: Digest::of(b"ticket"),
        guest: guest("db"),
        from: host("a"),
        to: host("b"),
        asked_by: "ops".into(),
        source: side.clone(),
        target: side,
        sessions: MoveSessions::default(),
        hold_since_ms: 1,
        fenced_ms: 2,
        opened_ms: 3,
        pause_us: 1_000,
        unprotected_ms: 0,
        unprotected_packets: Some(0),
        error_ms: 1,
        outcome: MoveOutcome::Committed,
    };
    let bytes = record.canonical_bytes();
    let signed = Envelope::sign(MOVE_RECORD_TYPE, &bytes, &[&server.keys.agent]);
    let mut log = AgentLog::new(&server.keys.agent);
    log.add_alarm("before");
    log.add(Body::MoveRecorded {
        record: Box::new(record.clone()),
        signed: Box::new(signed),
    });
    agent.ok("POST", "/v1/evidence", &log.batch(0));
    let auditor = server.enrol(Role::Auditor, "eve");
    let moves: Vec<MoveRecord> =
        serde_json::from_value(auditor.ok("GET", "/v1/moves", &())).expect("move records");
    assert_eq!(moves, [record]);
}
