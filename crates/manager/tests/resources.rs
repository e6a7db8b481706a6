//! Releases, bindings, evidence and placements: what is stored, what is refused, what is told.

mod support;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lictor_evidence::{Body, Checkpoint, Source};
use lictor_policy::IntentText;
use lictor_types::{Digest, Generation, HostId};
use lictor_wire::api::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, Role, TokenRequest};
use lictor_wire::gate::EXCEPTION_TYPE;
use lictor_wire::{Envelope, Exception, Freshness, Proved};
use serde_json::json;
use support::{AgentLog, Server, host, key};

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
fn a_statement_of_freshness_is_a_witnesss_and_only_ever_newer() {
    let server = Server::start();
    let keys = &server.keys;
    let witness = server.enrol(Role::Witness, "will");
    let post = ("POST", "/v1/freshness");
    let release = keys.release(1);
    let author = server.enrol(Role::PolicyAuthor, "ann");
    author.ok("POST", "/v1/releases", &keys.signed(&release));
    let newest = || witness.ok("GET", "/v1/release", &())["freshness"].clone();
    assert_eq!(newest(), serde_json::Value::Null);
    let now_ms = (server.clock.clock())();
    let said = |issued_ms| Freshness::of(&release, issued_ms, 60_000);
    let by_witness = |issued_ms| said(issued_ms).sign(&[&keys.witness]);
    witness.refused(
        post,
        &said(now_ms).sign(&[&keys.author]),
        (422, "0 valid signature(s)"),
    );
    witness.refused(post, &by_witness(now_ms - 70_000), (422, "it lapsed"));
    let first = by_witness(now_ms - 10);
    let published = witness.ok("POST", "/v1/freshness", &first);
    assert_eq!(
        witness.ok("POST", "/v1/freshness", &first),
        published,
        "it may be sent again"
    );
    assert_eq!(newest(), json!(first));
    witness.refused(post, &by_witness(now_ms - 11), (422, "written later"));
    let second = by_witness(now_ms);
    witness.ok("POST", "/v1/freshness", &second);
    assert_eq!(newest(), json!(second));
    let stated = told(&server)
        .into_iter()
        .filter(|kind| *kind == "freshness-stated");
    assert_eq!(stated.count(), 2);
}

#[test]
fn a_release_with_an_intent_that_nobody_proved_or_excepts_any_more_is_refused() {
    let server = Server::start();
    let keys = &server.keys;
    let author = server.enrol(Role::PolicyAuthor, "ann");
    let post = ("POST", "/v1/releases");
    let (name, text) = ("far".to_owned(), "never path from a to b".to_owned());
    let mut release = keys.release(1);
    release.policy.intents = vec![IntentText { name, text }];
    author.refused(post, &keys.signed(&release), (422, "are not proved"));
    let exception = |expires: &str| {
        let exception = Exception {
            deployment: release.deployment.clone(),
            policy: release.policy.policy.clone(),
            intent: "far".into(),
            statement: "never path from a to b".into(),
            owner: "net@example.com".into(),
            justification: "RSK-1".into(),
            expires: expires.parse().expect("a date"),
        };
        let payload = serde_json::to_vec(&exception).expect("plain");
        Envelope::sign(EXCEPTION_TYPE, &payload, &[&keys.approver])
    };
    let proved = |held: &[&str], excepted: Vec<Envelope>| {
        let mut release = release.clone();
        // Its own day lies far back: an agent would take the exception.
        release.policy.date = "2020-01-01".parse().expect("a date");
        release.proved = Some(Proved {
            estate: Digest::of(b"an estate"),
            held: held.iter().map(|name| (*name).to_owned()).collect(),
            excepted,
        });
        keys.signed(&release)
    };
    let ended = proved(&[], vec![exception("2020-12-31")]);
    author.refused(post, &ended, (422, "it expired after 2020-12-31"));
    author.ok("POST", "/v1/releases", &proved(&["far"], Vec::new()));
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
    // The log begins with the keys of manager, author and approver; the agent's is the fourth. The
    // reader enrols each time that the log is read.
    let expected = ["key-enrolled"; 3]
        .into_iter()
        .chain(["certificate-issued", "key-enrolled"])
        .chain(["checkpoint-anchored"; 2])
        .chain(["certificate-issued"; 2]);
    assert!(expected.eq(told(&server)), "{:?}", told(&server));
}

#[test]
fn a_long_log_comes_in_parts_that_the_host_has_signed() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let mut log = AgentLog::new(&server.keys.agent);
    (0..7).for_each(|n| log.add_alarm(&format!("entry {n}")));
    let post = ("POST", "/v1/evidence");
    let first = log.part(0, 3);
    let mut unproven = first.clone();
    unproven.proof.pop();
    agent.refused(post, &unproven, (422, "not shown to be the first of 7"));
    let mut changed = AgentLog::new(&server.keys.agent);
    (0..7).for_each(|n| changed.add_alarm(&format!("other {n}")));
    let mut mixed = first.clone();
    mixed.entries = changed.part(0, 3).entries;
    agent.refused(post, &mixed, (422, "not shown to be the first of 7"));
    assert_eq!(agent.ok("POST", "/v1/evidence", &first)["next"], 3);
    assert_eq!(agent.ok("POST", "/v1/evidence", &first)["next"], 3);
    assert!(
        !told(&server).contains(&"checkpoint-anchored"),
        "not whole yet"
    );
    // The first part was under a checkpoint over seven entries: the other four are bound by it.
    let mut forked = AgentLog::new(&server.keys.agent);
    (0..3).for_each(|n| forked.add_alarm(&format!("entry {n}")));
    forked.add_alarm("fork");
    agent.refused(post, &forked.batch(3), (409, "its log was rewritten"));
    (4..9).for_each(|n| forked.add_alarm(&format!("entry {n}")));
    agent.refused(post, &forked.batch(3), (409, "its log was rewritten"));
    assert_eq!(agent.ok("POST", "/v1/evidence", &log.part(3, 2))["next"], 5);
    assert_eq!(agent.ok("POST", "/v1/evidence", &log.batch(5))["next"], 7);
    let texts: Vec<_> = server
        .entries()
        .into_iter()
        .filter(|entry| entry.host == Source::Host(host("a")))
        .map(|entry| String::from_utf8(entry.to_bytes().expect("it fits")).expect("a text"))
        .collect();
    assert_eq!(texts, log.texts());
    let anchored = |kind: &&str| *kind == "checkpoint-anchored";
    assert_eq!(told(&server).into_iter().filter(anchored).count(), 1);
}

#[test]
fn a_batch_is_taken_at_its_limits_and_refused_beyond() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let mut log = AgentLog::new(&server.keys.agent);
    (0..=BATCH_ENTRIES_MAX).for_each(|_| log.add_alarm(""));
    let post = ("POST", "/v1/evidence");
    agent.refused(post, &log.batch(0), (413, "send at most 4096 at once"));
    let most = log.part(0, BATCH_ENTRIES_MAX);
    assert_eq!(
        agent.ok("POST", "/v1/evidence", &most)["next"],
        BATCH_ENTRIES_MAX
    );
    let first = log.texts().len();
    let long = "x".repeat(60_000);
    let mut bytes = 0;
    while bytes < BATCH_BYTES_MAX {
        log.add_alarm(&long);
        bytes += log.texts().last().map_or(0, String::len);
    }
    let rest = log.texts().len() - first;
    assert_eq!(
        agent.ok("POST", "/v1/evidence", &log.part(first - 1, 1))["next"],
        first
    );
    agent.refused(
        post,
        &log.batch(first),
        (413, "send at most 8388608 at once"),
    );
    let room = BATCH_BYTES_MAX - (bytes - log.texts().last().map_or(0, String::len));
    let most = log.part(first, rest - 1);
    assert!(room < 65_535, "one entry less is the most that fits");
    assert_eq!(
        agent.ok("POST", "/v1/evidence", &most)["next"],
        first + rest - 1
    );
}

#[test]
fn every_enrolment_is_in_the_log_and_so_is_who_gave_leave() {
    let server = Server::start();
    let admin = server.enrol(Role::PlatformAdmin, "root");
    let request = TokenRequest {
        role: Role::Auditor,
        name: "eve".into(),
        minutes: 5,
    };
    let token = admin.ok("POST", "/v1/tokens", &request);
    let token = token["token"].as_str().expect("a token");
    let pair = support::enrol(&server.anonymous(), token, None).expect("enrolled");
    let pem = x509_parser::pem::parse_x509_pem(pair.certificate_pem.as_bytes()).expect("PEM");
    let expected = Digest::of(&pem.1.contents);
    let entries = server.entries();
    let given = entries.iter().any(|entry| {
        matches!(&entry.body, Body::TokenIssued { role, name, by, .. }
            if role == "auditor" && name == "eve" && by == "root")
    });
    assert!(given, "{entries:#?}");
    let enrolled = |wanted: &str| {
        let mut found = entries.iter().filter_map(|entry| match &entry.body {
            Body::CertificateIssued {
                role,
                name,
                certificate,
                ..
            } if name == wanted => Some((role.clone(), *certificate)),
            _ => None,
        });
        found.next().expect("it is in the log")
    };
    assert_eq!(enrolled("eve"), ("auditor".to_owned(), expected));
    assert_eq!(enrolled("root").0, "platform-admin");
}

#[test]
fn a_guest_bound_after_the_release_is_in_its_newest_facts() {
    let server = Server::start();
    server.with_release();
    let newest = || {
        let entries = server.entries();
        let facts = lictor_audit::Facts::from_entries(&entries).expect("short entries");
        let release = facts.release().expect("published").clone();
        let in_scope: Vec<_> = facts
            .in_scope()
            .map(|guest| guest.guest.to_string())
            .collect();
        let guests: Vec<_> = release
            .value
            .guests
            .iter()
            .map(|g| g.guest.to_string())
            .collect();
        (release.value.generation, guests, in_scope)
    };
    let both = vec!["db".to_owned(), "pc".to_owned()];
    assert_eq!(newest(), (Generation(1), both, vec!["db".to_owned()]));
    let owner = server.enrol(Role::ScopeOwner, "olga");
    let keys = &server.keys;
    let later = keys.binding("www", "cde", 3).sign(&keys.owner);
    owner.ok("POST", "/v1/bindings", &later);
    let mut gone = keys.binding("db", "cde", 4);
    gone.retired = true;
    owner.ok("POST", "/v1/bindings", &gone.sign(&keys.owner));
    let now = vec!["pc".to_owned(), "www".to_owned()];
    assert_eq!(newest(), (Generation(1), now, vec!["www".to_owned()]));
}

#[test]
fn the_checkpoint_covers_everything_that_was_acknowledged() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent, "a");
    let mut log = AgentLog::new(&server.keys.agent);
    log.add_alarm("zero");
    agent.ok("POST", "/v1/evidence", &log.batch(0));
    // Enrolments are entries too, so the reader of the checkpoint comes first.
    let reader = server.enrol(Role::Auditor, "eve");
    let entries = server.entries();
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
    let recheck = |files: &_| {
        let key = Some(&server.trust.manager);
        lictor_audit::verify::verify(files, key, lictor_audit::verify::Recheck::Reported)
    };
    let outcome = recheck(&files).expect("the report is what its entries say");
    assert!(outcome.compared);
    let findings = outcome.findings.expect("they were run");
    for check in lictor_audit::CHECKS {
        assert!(
            findings.iter().any(|one| one.check == check.id),
            "{}",
            check.id
        );
    }
    let page = String::from_utf8_lossy(&files[lictor_audit::REPORT_HTML]);
    assert!(page.contains("LOG-01") && page.contains("@media print"));
    let path = "releases/1.json";
    files.get_mut(path).expect("the release is carried")[0] ^= 1;
    let error = verify(&files).expect_err("one bit is flipped");
    assert!(error.to_string().contains(path), "{error}");
}
