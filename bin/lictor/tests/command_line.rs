//! What people type, on the real binary: against a real manager, and against a real agent.

use anyhow::Result;
use lictor_client::{Client, Credentials};
use lictor_lab::site::{Draft, Guest, Programs, Signed, Site};
use lictor_lab::wait;
use lictor_types::{Digest, Epoch, Generation, HostId};
use lictor_wire::api::HostReport;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const LICTOR: &str = env!("CARGO_BIN_EXE_lictor");
/// The guests of the story, on hosts with an agent.
const ESTATE: &str = r#"
hosts = [{ name = "a", controls = ["firewall"] }, { name = "b", controls = ["firewall"] }]
guests = [
  { name = "web", labels = { zone = "cde", app = "pay", tier = "web" } },
  { name = "db", labels = { zone = "cde", app = "pay", tier = "db" } },
]
"#;
const POLICY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/pci/policy.lictor"
);

/// Splits at spaces: no argument of these tests has one.
fn lictor(line: &str) -> Command {
    let mut command = Command::new(LICTOR);
    command
        .args(line.split_whitespace())
        .env_remove("LICTOR_DIR");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(line: &str, output: &Output) -> String {
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{line}:\n{out}{error}");
    out
}

#[track_caller]
fn ok(line: &str) -> String {
    let output = lictor(line).output().expect("the binary runs");
    succeeded(line, &output)
}

#[track_caller]
fn json(line: &str) -> Value {
    let out = ok(&format!("{line} --output json"));
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}:\n{out}"))
}

/// Ends with 1 and says each of the parts.
#[track_caller]
fn refused(line: &str, parts: &[&str]) {
    let output = lictor(line).output().expect("the binary runs");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}:\n{said}");
    for part in parts {
        assert!(said.contains(part), "{line}: expected {part:?} in\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// A manager as a process on the loopback. It ends when it drops.
struct Manager {
    process: Child,
    url: String,
    dir: PathBuf,
    admin_token: String,
}

impl Manager {
    fn start(dir: &Path, (author, approver, witness): (&str, &str, &str)) -> Self {
        let made = json(&format!(
            "manager init --dir {} --deployment shop --author {author} --approver {approver} \
             --witness {witness}",
            dir.display()
        ));
        let line = format!("manager run --dir {} --listen 127.0.0.1:0", dir.display());
        let mut process = lictor(&line)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the manager starts");
        let mut listening = String::new();
        let out = process.stdout.take().expect("its output");
        BufReader::new(out)
            .read_line(&mut listening)
            .expect("a line");
        let address = listening.trim().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("{listening:?}"));
        Self {
            url: format!("https://{address}"),
            process,
            dir: dir.into(),
            admin_token: made["token"].as_str().expect("a token").into(),
        }
    }

    fn authority(&self) -> PathBuf {
        self.dir.join("authority.pem")
    }

    fn enroll(&self, token: &str, dir: &Path) -> String {
        let (url, authority) = (&self.url, self.authority());
        format!(
            "enroll --manager {url} --authority {} --token {token} --dir {}",
            authority.display(),
            dir.display()
        )
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with keys of three persons, a manager, and a directory for each role.
struct World {
    manager: Manager,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let key = |name: &str| {
            let file = folder.path().join(format!("{name}.key"));
            let made = json(&format!("key new --name {name} --out {}", file.display()));
            made["key"].as_str().expect("a key").to_owned()
        };
        let (ann, ben, will) = (key("ann"), key("ben"), key("will"));
        key("olga");
        let dir = folder.path().join("manager");
        std::fs::create_dir(&dir).expect("a directory");
        let manager = Manager::start(&dir, (&ann, &ben, &will));
        let world = Self { manager, folder };
        ok(&world.manager.enroll(
            &world.manager.admin_token,
            &world.folder.path().join("platform-admin"),
        ));
        for role in [
            "policy-author",
            "policy-approver",
            "scope-owner",
            "auditor",
            "connector",
            "witness",
        ] {
            world.enroll(role);
        }
        world
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Arguments that make the caller one of a role.
    fn by(&self, role: &str) -> String {
        format!("--manager-dir {}", self.path(role))
    }

    fn token(&self, role: &str, name: &str) -> String {
        let by = self.by("platform-admin");
        ok(&format!("token --role {role} --name {name} {by}"))
            .trim()
            .to_owned()
    }

    fn enroll(&self, role: &str) {
        let token = self.token(role, &format!("the-{role}"));
        let dir = self.folder.path().join(role);
        let said = ok(&self.manager.enroll(&token, &dir));
        for part in [role, &format!("the-{role}"), "log fingerprint", "ann+"] {
            assert!(said.contains(part), "expected {part:?} in\n{said}");
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    /// Enrols the agent of host a, and says of it what an agent would: only a report brings its
    /// address into the roster.
    fn host(&self) {
        let state = self.path("agent-a");
        let config = self.write(
            "agent.toml",
            &format!(
                "host = \"a\"\nstate_dir = \"{state}\"\nrun_dir = \"{state}/run\"\n\
                 pin_root = \"{state}/pins\"\npeer = \"127.0.0.1:7443\"\nmanager = \"{}\"\n",
                self.manager.url
            ),
        );
        let (token, authority) = (self.token("agent", "a"), self.manager.authority());
        ok(&format!(
            "agent enroll --config {config} --authority {} --token {token}",
            authority.display()
        ));
        let by = self.by("auditor");
        let before = ok(&format!("host roster {by}"));
        assert!(
            before.contains("# a is left out: its agent has not reported"),
            "{before}"
        );
        let read = |name: &str| std::fs::read(format!("{state}/{name}")).expect(name);
        let credentials = Credentials {
            certificate: &read("certificate.pem"),
            key: &read("certificate.key"),
            authority: &read("authority.pem"),
        };
        let client = Client::new(&self.manager.url, &credentials).expect("credentials");
        client.report(&report()).expect("it is taken");
    }

    /// The site file, with the roster as the manager's inventory gives it.
    fn site(&self) -> String {
        let by = self.by("policy-author");
        let roster = ok(&format!("host roster --cluster rack-1 {by}"));
        let owner = json(&format!("key show {}", self.path("olga.key")));
        let owner = owner["key"].as_str().expect("a key");
        self.write(
            "site.toml",
            &format!(
                "deployment = \"shop\"\n\n{roster}\n[[delegations]]\nkey = \"{owner}\"\n\
                 guests_max = 4\nprefixes = [\"10.77.0.0/16\"]\nsegments = [1]\nlabels = [\n\
                 \x20 {{ zone = \"cde\", app = \"pay\", tier = \"web\" }},\n\
                 \x20 {{ zone = \"cde\", app = \"pay\", tier = \"db\" }},\n\
                 \x20 {{ zone = \"cde\", app = \"pay\", tier = \"batch\" }},\n\
                 \x20 {{ zone = \"corp\" }},\n]\n"
            ),
        )
    }

    fn compile(&self, generation: u64, site: &str) -> String {
        let out = self.path(&format!("release-{generation}.json"));
        let estate = self.write("estate.toml", ESTATE);
        let compile = format!("policy compile {POLICY} --site {site} --out {out}");
        refused(
            &format!("{compile} --generation {generation}"),
            &["--estate"],
        );
        ok(&format!(
            "{compile} --generation {generation} --estate {estate}"
        ));
        out
    }

    fn sign(&self, release: &str) {
        let (ann, ben) = (self.path("ann.key"), self.path("ben.key"));
        let (author, approver) = (self.by("policy-author"), self.by("policy-approver"));
        ok(&format!("policy sign {release} --key {ann} {author}"));
        ok(&format!("policy approve {release} --key {ben} {approver}"));
    }

    /// A guest file; its vnic's number also makes its MAC.
    fn guest(&self, name: &str, (number, labels): (u32, &str)) -> String {
        self.write(
            &format!("{name}.toml"),
            &format!(
                "guest = \"{name}\"\nlabels = {{ {labels} }}\nhosts = [\"a\"]\n\n[[vnic]]\n\
                 number = {number}\nname = \"{name}-0\"\nmac = \"52:54:00:00:00:{number:02x}\"\n\
                 segment = 1\n"
            ),
        )
    }
}

fn report() -> HostReport {
    HostReport {
        host: HostId::new("a").expect("a name"),
        time_ms: 1,
        agent_version: "test".into(),
        kernel: "test".into(),
        hook: "tcx".into(),
        generation: Generation(0),
        release: None,
        epoch: Epoch(0),
        tables_expected: Digest::of(b""),
        tables_found: Digest::of(b""),
        hooks_ok: true,
        controls: Vec::new(),
        guests: Vec::new(),
        refused: None,
        peer: "127.0.0.1:7443".parse().expect("an address"),
    }
}

const DB: (u32, &str) = (11, "zone = \"cde\", app = \"pay\", tier = \"db\"");
const BATCH: (u32, &str) = (12, "zone = \"cde\", app = \"pay\", tier = \"batch\"");

#[test]
fn from_a_policy_text_to_a_pack_that_an_assessor_verifies() {
    let world = World::new();
    world.host();
    let site = world.site();
    release_by_two_persons(&world, &site);
    freshness(&world);
    guests(&world);
    placements(&world);
    evidence(&world);
}

/// Each way in which a release does not count, then the one in which it does.
fn release_by_two_persons(world: &World, site: &str) {
    let (ann, ben, olga) = ("ann.key", "ben.key", "olga.key").map_paths(world);
    let (author, approver) = (world.by("policy-author"), world.by("policy-approver"));
    let release = world.compile(2, site);
    let publish = format!("policy publish {release} {author}");
    refused(&publish, &["no valid signature of an author", "ann"]);
    refused(
        &format!("policy approve {release} --key {ben} {approver}"),
        &["no author has signed it", "lictor policy sign"],
    );
    refused(
        &format!("policy sign {release} --key {olga} {author}"),
        &[
            "--key",
            "olga+",
            "is no author of shop; expected one of ann+",
        ],
    );
    let signed = ok(&format!("policy sign {release} --key {ann} {author}"));
    let digest = json(&format!("policy show {release}"))["digest"].clone();
    let digest = digest.as_str().expect("a digest").to_owned();
    assert!(signed.contains(&digest), "{signed}");
    refused(
        &publish,
        &["0 valid approval(s)", "have an approver sign it"],
    );
    refused(
        &format!("policy approve {release} --key {ann} {approver}"),
        &["is no approver of shop; expected one of ben+"],
    );
    let approved = ok(&format!("policy approve {release} --key {ben} {approver}"));
    assert!(
        approved.contains("an agent loads this release"),
        "{approved}"
    );
    refused(
        &format!("policy approve {release} --key {ben} {approver}"),
        &["has signed already"],
    );
    let published = json(&publish);
    assert_eq!(published["digest"], digest.as_str());

    let old = world.compile(1, site);
    world.sign(&old);
    refused(
        &format!("policy publish {old} {author}"),
        &["generation 1", "generation 2 was already enforced"],
    );
    let seen = ok(&format!("policy show {release} {author}"));
    for part in [
        "pay/app-db",
        "tier=batch",
        "allow-with-alarm",
        "rack-1",
        "olga+",
        "10.77.0.0/16",
        "valid, by an author",
        "valid, by an approver",
    ] {
        assert!(seen.contains(part), "expected {part:?} in\n{seen}");
    }
    let unsure = ok(&format!("policy show {release}"));
    assert!(unsure.contains("not checked: no trust file"), "{unsure}");
    altered_signature(world, &release);
    let fetched = world.path("fetched.json");
    ok(&format!("policy fetch --out {fetched} {author}"));
    assert_eq!(
        json(&format!("policy show {fetched}"))["digest"],
        digest.as_str()
    );
}

trait MapPaths {
    fn map_paths(self, world: &World) -> (String, String, String);
}

impl MapPaths for (&str, &str, &str) {
    fn map_paths(self, world: &World) -> (String, String, String) {
        (world.path(self.0), world.path(self.1), world.path(self.2))
    }
}

/// Only a witness says which release is the newest.
fn freshness(world: &World) {
    let (release, said) = (world.path("release-2.json"), world.path("freshness.json"));
    let (ann, will) = (world.path("ann.key"), world.path("will.key"));
    let by = world.by("witness");
    let write = format!("policy freshness write {release} --out {said} {by}");
    let doubted = ok(&format!("{write} --key {ann}"));
    assert!(
        doubted.contains("0 valid signature(s), expected 1 of will"),
        "{doubted}"
    );
    let publish = format!("policy freshness publish {said} {by}");
    refused(
        &publish,
        &["the statement of freshness is refused", "of will"],
    );
    let auditor = world.by("auditor");
    let signed = ok(&format!("policy freshness sign {said} --key {will} {by}"));
    assert!(signed.contains("agents believe this statement"), "{signed}");
    refused(
        &format!("policy freshness publish {said} {auditor}"),
        &["auditor"],
    );
    let published = json(&publish);
    assert_eq!(published["counts"], true);
    assert_eq!(published["freshness"]["generation"], 2);
    let unsigned = world.compile(3, &world.path("site.toml"));
    refused(
        &format!("policy freshness write {unsigned} --key {will} --out {said} {by}"),
        &["no valid signature of an author"],
    );
}

/// The signatures of one release under the bytes of another.
fn altered_signature(world: &World, release: &str) {
    let other = world.path("release-1.json");
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
    };
    let (mut mixed, signed) = (read(&other), read(release));
    mixed["signatures"] = signed["signatures"].clone();
    let mixed = world.write("mixed.json", &mixed.to_string());
    refused(
        &format!("policy show {mixed} {}", world.by("policy-author")),
        &["NOT VALID"],
    );
}

fn guests(world: &World) {
    let (owner, olga) = (world.by("scope-owner"), world.path("olga.key"));
    let bind = |file: &str| format!("guest bind {file} --key {olga} {owner}");
    ok(&bind(&world.guest("db", DB)));
    let bound = json(&bind(&world.guest("batch", BATCH)));
    assert_eq!(bound["binding"]["epoch"], 2);
    refused(
        &bind(&world.guest("spy", (13, "zone = \"dmz\", tier = \"client\""))),
        &["olga may not bind the labels", "spy"],
    );
    refused(
        &bind(&world.guest("twin", (11, "zone = \"corp\""))),
        &["vnic 11 is bound to db and twin"],
    );
    refused(
        &format!(
            "guest bind {} --key {} {owner}",
            world.path("db.toml"),
            world.path("ann.key")
        ),
        &["not signed by a key that the release delegates to"],
    );
    let listed = json(&format!("guest list {owner}"));
    let names: Vec<_> = listed.as_array().expect("a list").iter().collect();
    assert_eq!(names.len(), 2, "{listed}");
    assert_eq!(names[0]["guest"], "batch");
    assert_eq!(names[0]["protected"], false);

    let asked = "explain --from batch --to db --service tcp/5432";
    let explained = json(&format!("{asked} --policy {POLICY} {owner}"));
    assert_eq!(explained["rule"]["name"], "pay/batch-db");
    assert_eq!(explained["rule"]["owner"], "payments@example.com");
    let log = world.path("bindings.json");
    ok(&format!("guest export --out {log} {owner}"));
    let release = world.path("release-2.json");
    let explained = json(&format!(
        "{asked} --policy {POLICY} --release {release} --bindings {log}"
    ));
    assert_eq!(explained["verdict"], "allow");
    assert_eq!(explained["by"].as_array().expect("a list").len(), 2);
    refused(
        &format!("explain --from nobody --to db --service tcp/1 --release {release} {owner}"),
        &["no binding names the guest nobody"],
    );

    ok(&format!("guest retire batch --key {olga} {owner}"));
    let left = ok(&format!("guest list {owner}"));
    assert!(left.contains("db-0") && !left.contains("batch"), "{left}");
    refused(
        &format!("guest retire batch --key {olga} {owner}"),
        &["batch is not bound"],
    );
    ok(&bind(&world.path("batch.toml")));
}

fn placements(world: &World) {
    let connector = world.by("connector");
    let report = |guest: &str, host: &str, since_ms: u64| {
        format!(
            "placement report --guest {guest} --host {host} --since-ms {since_ms} --error-ms 5 \
             {connector}"
        )
    };
    assert_eq!(json(&report("db", "a", 1_000))["protected"], true);
    assert_eq!(json(&report("db", "c", 2_000))["choice"], "block");
    assert_eq!(
        json(&report("batch", "c", 2_000))["choice"],
        "allow-with-alarm"
    );
    refused(
        &format!(
            "placement report --guest db --host a --since-ms 1 --error-ms 1 {}",
            world.by("auditor")
        ),
        &["403", "is not for auditor; expected connector"],
    );
    let moves = ok(&format!("move list {}", world.by("auditor")));
    assert!(
        moves.contains("batch") && moves.contains("unprotected"),
        "{moves}"
    );
    let hosts = json(&format!("host list {}", world.by("auditor")));
    let names: Vec<_> = hosts.as_array().expect("a list").iter().collect();
    let names: Vec<_> = names.iter().map(|host| host["host"].clone()).collect();
    assert_eq!(names, ["a", "c"]);
}

fn evidence(world: &World) {
    let pack = world.path("pack");
    let auditor = world.by("auditor");
    let fetched = ok(&format!("audit pack --out {pack} {auditor}"));
    assert!(fetched.starts_with("VERIFIED"), "{fetched}");
    assert!(!fetched.contains("came out of the pack"), "{fetched}");
    refused(
        &format!("audit pack --out {pack} {auditor}"),
        &["it is there already"],
    );
    let (page, data) = (world.path("report.html"), world.path("report.json"));
    let said = ok(&format!(
        "audit report --pack {pack} --html {page} --json {data}"
    ));
    assert!(said.contains("what does not pass"), "{said}");
    let read = |path: &str| std::fs::read(path).expect("a file");
    assert_eq!(read(&data), read(&format!("{pack}/report.json")));
    assert_eq!(read(&page), read(&format!("{pack}/report.html")));
    ok(&format!("audit verify {pack} --recheck"));

    let bundle = format!("{pack}/tile/entries/000.p");
    let folder = std::fs::read_dir(&bundle).expect("a partial bundle");
    let file = folder.map(|file| file.expect("a file").path()).next();
    let file = file.expect("a file");
    let mut bytes = std::fs::read(&file).expect("a bundle");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    refused(
        &format!("audit verify {pack}"),
        &["NOT VERIFIED", "tile/entries/000.p"],
    );
    refused(
        &format!("audit report --pack {pack} --html {page}.2 --json {data}.2"),
        &["NOT VERIFIED"],
    );
    assert!(!Path::new(&format!("{page}.2")).exists());
}

#[test]
fn a_certificate_of_another_authority_is_not_let_in() {
    let (here, there) = (World::new(), World::new());
    let foreign = here.path("foreign");
    std::fs::create_dir(&foreign).expect("a directory");
    for name in ["certificate.pem", "certificate.key", "trust.json"] {
        let from = there.path(&format!("policy-author/{name}"));
        std::fs::copy(from, format!("{foreign}/{name}")).expect("copied");
    }
    for name in ["authority.pem", "manager.json"] {
        let from = here.path(&format!("policy-author/{name}"));
        std::fs::copy(from, format!("{foreign}/{name}")).expect("copied");
    }
    let by = here.by("foreign");
    refused(
        &format!("host list {by}"),
        &["gave no answer", "one of its authority"],
    );
    // The other way round: a caller does not believe a manager of another authority.
    let (token, url) = (here.token("auditor", "x"), &here.manager.url);
    refused(
        &format!(
            "enroll --manager {url} --authority {} --token {token} --dir {}",
            there.manager.authority().display(),
            here.path("x")
        ),
        &["gave no answer"],
    );
    // The token was not spent on that, is good once, and nobody is enrolled over somebody else.
    let dir = here.folder.path().join("x");
    ok(&here.manager.enroll(&token, &dir));
    refused(
        &here.manager.enroll(&token, &dir),
        &["is enrolled here already"],
    );
    refused(
        &here.manager.enroll(&token, &here.folder.path().join("y")),
        &["the token was used already"],
    );
}

#[test]
fn bad_input_is_answered_with_place_expectation_and_next_step() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("written");
    let policy = std::fs::read_to_string(POLICY).expect("the example");
    write(
        "unknown.lictor",
        &policy.replace("to scope:cde", "to zome:cde"),
    );
    let cut = |part: &str| policy.replacen(part, "", 1);
    write("ownerless.lictor", &cut("owner \"payments@example.com\" "));
    write("site.toml", "deployment = \"shop\"\n");
    write("empty.json", "{}");
    ok(&format!("key new --name ann --out {}", path("ann.key")));

    let check = |line: &str, parts: &[&str]| {
        let line = line.replace('@', &format!("{}/", folder.path().display()));
        refused(&line, parts);
    };
    check(
        "policy check @unknown.lictor",
        &["unknown.lictor:17", "zome", "zone"],
    );
    check(
        "policy check @ownerless.lictor",
        &["ownerless.lictor:", "owner"],
    );
    check(
        "policy check @none.lictor",
        &["none.lictor", "check the path"],
    );
    check(
        "key new --name ann --out @ann.key",
        &["ann.key", "choose another path"],
    );
    check("key show @site.toml", &["site.toml", "chmod 600"]);
    check(
        "policy show @empty.json",
        &["not a release", "lictor policy compile"],
    );
    check("policy publish @empty.json", &["not a release"]);
    check(
        "guest list",
        &["--manager-dir", "LICTOR_DIR", "lictor enroll"],
    );
    check(
        "guest list --manager-dir @",
        &["manager.json", "check the path"],
    );
    check("audit verify @", &["NOT VERIFIED"]);
    check(
        "host status --socket @agent.sock",
        &["agent.sock", "name it with --socket"],
    );
    check(
        "agent run --config @none.toml",
        &["none.toml", "check the path"],
    );
    check(
        "agent run --config @site.toml",
        &["site.toml", "docs/operations.md has an example"],
    );
    let compile = format!("policy compile {POLICY} --site @site.toml --out @r.json");
    check(
        &format!("{compile} --generation 1"),
        &["site.toml", "lictor host roster", "no label set is known"],
    );
    check(
        &format!("{compile} --generation 0"),
        &["--generation", "expected 1 or more"],
    );
    check(
        "policy compile @unknown.lictor --site @site.toml --generation 1 --out @r.json",
        &["the policy has errors", "unknown.lictor:17"],
    );
    check(
        &format!("explain --policy {POLICY} --from zome=cde --to 192.0.2.1 --service tcp/1"),
        &[
            "--from",
            "declares no label zome; expected one of app, tier, zone",
        ],
    );
    check(
        &format!("explain --policy {POLICY} --from db --to zone=cde --service tcp/1"),
        &["db is a guest's name", "--bindings"],
    );
    assert!(!folder.path().join("r.json").exists());
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = lictor(&format!("policy check {POLICY}"));
    let status = command.stdout(writer).status().expect("the binary runs");
    assert!(status.success(), "{status}");
}

#[test]
fn nobody_but_root_speaks_to_the_agent() {
    if !lictor_lab::privileged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let socket = folder.path().join("agent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let line = format!("host status --socket {}", socket.display());
    let mut command = lictor(&line);
    let output = command.uid(65_534).gid(65_534).output().expect("it runs");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("run this as root"), "{error}");
}

/// Gives a folder and what lies in it to another user.
fn give_away(path: &Path, user: u32) {
    std::os::unix::fs::chown(path, Some(user), Some(user)).expect("root may");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory") {
            give_away(&entry.expect("an entry").path(), user);
        }
    }
}

#[test]
fn an_enrolled_agent_without_rights_or_a_bpf_file_system_says_what_is_needed() {
    if !lictor_lab::privileged() {
        return;
    }
    let world = World::new();
    world.host();
    let line = format!("agent run --config {}", world.path("agent.toml"));
    refused(&line, &["is not on a BPF file system", "mount -t bpf bpf"]);
    give_away(world.folder.path(), 65_534);
    let output = lictor(&line).uid(65_534).gid(65_534).output();
    let output = output.expect("it runs");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("run as root, or with CAP_BPF"), "{error}");
}

#[test]
fn an_agent_that_may_not_or_cannot_begin_says_what_to_do_and_takes_nothing() {
    if !lictor_lab::privileged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("its owner may");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("run")).expect("a directory");
    std::fs::create_dir(path("state")).expect("a directory");
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(path("state"), closed).expect("its owner may");
    let _running = std::os::unix::net::UnixListener::bind(path("run/agent.sock")).expect("bound");
    let config = format!(
        "host = \"a\"\nstate_dir = \"{}\"\nrun_dir = \"{}\"\npin_root = \"{}\"\n\
         peer = \"127.0.0.1:0\"\n",
        path("state"),
        path("run"),
        path("pins")
    );
    std::fs::write(path("agent.toml"), config).expect("written");
    let line = format!("agent run --config {}", path("agent.toml"));
    let output = lictor(&line).uid(65_534).gid(65_534).output();
    let error = text(&output.expect("it runs").stderr);
    assert!(error.contains("run this as root"), "{error}");
    refused(&line, &["trust.json is missing", "lictor agent enroll"]);
    assert!(Path::new(&path("run/agent.sock")).exists());
}

#[test]
fn completions_and_manual_pages_come_out_of_the_same_definitions() {
    let completions = ok("completions bash");
    for command in ["policy", "approve", "--manager-dir", "--output"] {
        assert!(completions.contains(command), "{command}");
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    ok(&format!("man --out {}", folder.path().display()));
    let page = std::fs::read_to_string(folder.path().join("lictor-policy-sign.1"));
    assert!(page.expect("a page").contains("as its author"));
}

/// A site with host a, whose agent enforces a release and knows the guest db.
fn site_with_a_guest() -> Result<(Site, Guest)> {
    let programs = Programs {
        lictor: LICTOR.into(),
        // No part of this test verifies a pack.
        verify: "lictor-verify".into(),
    };
    let mut site = Site::new(programs, "command-line")?;
    site.protected_host("a")?;
    // Only the agent's first report brings its address into the roster.
    let author = &site.people.author;
    wait::until("a host in the roster", Duration::from_secs(60), || {
        let roster = author.types(&["host", "roster"])?;
        Ok(roster.contains("host = \"a\"").then_some(()))
    })?;
    let db = Guest {
        name: "db",
        number: 11,
        labels: &[("zone", "cde"), ("tier", "db"), ("app", "pay")],
        vnics: 1,
    };
    let release = Draft::compile(&site, Path::new(POLICY), 1, &[db])?;
    let release = release.sign(&site, Signed::ByBoth)?;
    site.publish(&release)?.done()?;
    site.bind(&db)?;
    let agent = site.agent("a")?;
    wait::until(
        "the release and the binding",
        Duration::from_secs(60),
        || {
            let status = agent.status()?;
            Ok((status.generation.0 == 1 && status.epoch.0 == 1).then_some(()))
        },
    )?;
    Ok((site, db))
}

#[test]
fn the_agent_of_a_host_is_asked_on_its_own_socket() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let (site, db) = site_with_a_guest()?;
    let agent = site.agent("a")?;
    let socket = format!("--socket {}", agent.socket().display());
    refused(
        &format!("host attach --device lo --name no-0 --address 10.77.0.11 {socket}"),
        &["agent.sock", "no-0"],
    );
    refused(&format!("host detach --name db-0 {socket}"), &["db-0"]);
    let guest = agent.host().namespace_guest(&db.spec(&[]), |vnic| {
        let (device, address) = (&vnic.device, db.address());
        let attached = json(&format!(
            "host attach --device {device} --name db-0 --address {address} {socket}"
        ));
        assert_eq!(attached["guest"], "db");
        assert_eq!(attached["before_first_packet"], true);
        Ok(())
    })?;
    let status = json(&format!("host status {socket}"));
    assert_eq!(status["host"], "a");
    assert_eq!(status["guests"][0]["vnics"][0]["name"], "db-0");
    let shown = ok(&format!("host status {socket}"));
    for part in ["tables as compiled  yes", "db-0", "10.77.0.11"] {
        assert!(shown.contains(part), "expected {part:?} in\n{shown}");
    }
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (counters, sessions) = (path("counters.json"), path("sessions.json"));
    ok(&format!("host counters --out {counters} {socket}"));
    // Nothing has spoken with the guest yet.
    refused(
        &format!("policy lint {POLICY} --counters {counters}"),
        &["unused", "pay/app-db"],
    );
    let added = path("two-hosts.json");
    ok(&format!(
        "host counters --add {counters} --out {added} {socket}"
    ));
    let listed = json(&format!("host sessions --out {sessions} {socket}"));
    assert_eq!(listed["vnics"], 1);
    let simulate = format!("policy simulate --policy {POLICY} --sessions {sessions}");
    assert_eq!(json(&simulate)["cut"], 0);
    refused(
        &format!("move admit db --to b --asked-by alice {socket}"),
        &["admitted  no", "not in the release's roster"],
    );
    refused(&format!("move status db --wait copied {socket}"), &["db"]);
    refused(&format!("move abandon db {socket}"), &["db"]);
    refused(
        &format!("move fence db --out {sessions}.save {socket}"),
        &["cannot be fenced now"],
    );
    refused(
        &format!("move fence db --out {sessions} {socket}"),
        &["exists already"],
    );
    refused(
        &format!("move open db --record {sessions} {socket}"),
        &["lictor move fence"],
    );
    // While the device is there: of one that is gone the agent lets go by itself.
    let detached = json(&format!("host detach --name db-0 {socket}"));
    assert_eq!(detached["detached"], "db-0");
    drop(guest);
    Ok(())
}
