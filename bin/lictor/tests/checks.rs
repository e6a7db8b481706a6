//! What the manager lets people know of a real site: that an auditor's checks pass when all is in
//! order, and fail once it is not, each by what really happened there; and which sessions live.

use anyhow::{Context, Result};
use lictor_lab::site::pci::{CORP, DB, WEB};
use lictor_lab::site::{Arrival, Draft, Guest, Programs, Signed, Site};
use lictor_lab::{CounterServer, CounterStream, NsGuest, privileged, wait};
use lictor_types::Generation;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const POLICY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/pci/policy.lictor"
);
/// More than the minute after which a host records again what its kernel holds.
const LIMIT: Duration = Duration::from_secs(120);

fn start(site: &Site, guest: &Guest) -> Result<NsGuest> {
    let agent = site.agent("a")?;
    agent.host().namespace_guest(&guest.spec(&[]), |vnic| {
        let addresses = [IpAddr::V4(guest.address())];
        agent.attach(vnic, &addresses, Arrival::Start).map(drop)
    })
}

fn publish(site: &Site, release: &Path) -> Result<()> {
    let said = site.publish(release)?.done();
    said.with_context(|| release.display().to_string())
}

/// Only an agent's first report brings its address into the roster.
fn in_roster(site: &Site, host: &str) -> Result<()> {
    let author = &site.people.author;
    wait::until("a host in the roster", LIMIT, || {
        let roster = author.types(&["host", "roster"])?;
        Ok(roster.contains(&format!("host = \"{host}\"")).then_some(()))
    })
}

fn enforced(site: &Site, generation: u64) -> Result<()> {
    let agent = site.agent("a")?;
    let what = format!("generation {generation} on a");
    wait::until(&what, LIMIT, || {
        let status = agent.status()?;
        let bound = status.epoch.0 > 0;
        Ok((bound && status.generation == Generation(generation)).then_some(()))
    })
}

/// A site with host a, whose agent enforces the first release and knows these guests.
fn enforcing(name: &str, guests: &[Guest]) -> Result<Site> {
    let programs = Programs {
        lictor: env!("CARGO_BIN_EXE_lictor").into(),
        // `audit pack` verifies what it fetched by itself.
        verify: "lictor-verify".into(),
    };
    let mut site = Site::new(programs, name)?;
    site.protected_host("a")?;
    in_roster(&site, "a")?;
    let draft = Draft::compile(&site, Path::new(POLICY), 1, guests)?;
    publish(&site, &draft.sign(&site, Signed::ByBoth)?)?;
    for guest in guests {
        site.bind(guest)?;
    }
    enforced(&site, 1)?;
    Ok(site)
}

/// A pack that the auditor fetched, and what its report says: check, status, subject.
struct Report(BTreeSet<(String, String, String)>);

impl Report {
    fn fetch(site: &Site, name: &str) -> Result<Self> {
        let auditor = &site.people.auditor;
        let pack = auditor.dir().join(name);
        auditor.types(&["audit", "pack", "--out", &pack.display().to_string()])?;
        let report: Value = serde_json::from_slice(&std::fs::read(pack.join("report.json"))?)?;
        let findings = report["findings"].as_array().context("no findings")?;
        let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or("").to_owned();
        let finding = |one: &Value| {
            (
                word(one, "check"),
                word(one, "status"),
                word(one, "subject"),
            )
        };
        Ok(Self(findings.iter().map(finding).collect()))
    }

    fn says(&self, (check, status, subject): (&str, &str, &str)) -> bool {
        self.0
            .contains(&(check.into(), status.into(), subject.into()))
    }

    /// Waits for a pack that says all of this: what a host writes reaches the manager in rounds.
    fn wait_for(site: &Site, name: &str, expected: &[(&str, &str, &str)]) -> Result<()> {
        let mut last = BTreeSet::new();
        let mut number = 0;
        let held = wait::until("the report", LIMIT, || {
            number += 1;
            let report = Self::fetch(site, &format!("{name}-{number}"))?;
            let all = expected.iter().all(|one| report.says(*one));
            last = report.0;
            Ok(all.then_some(()))
        });
        held.with_context(|| format!("expected {expected:#?} in {last:#?}"))
    }
}

/// The policy with a last day that has passed for every rule, compiled as of a day before it.
fn overdue(site: &Site) -> Result<PathBuf> {
    let author = &site.people.author;
    let text = std::fs::read_to_string(POLICY)?.replace("expires 2029-12-31", "expires 2020-01-01");
    let policy = author.dir().join("overdue.lictor");
    std::fs::write(&policy, text)?;
    let release = author.dir().join("overdue.json");
    let path = |path: &Path| path.display().to_string();
    author.types(&[
        "policy",
        "compile",
        &path(&policy),
        "--site",
        // As `Draft::compile` left it.
        &path(&author.dir().join("site.toml")),
        "--estate",
        &path(&author.dir().join("estate.json")),
        "--generation",
        "2",
        "--date",
        "2019-12-01",
        "--out",
        &path(&release),
    ])?;
    let (file, keys) = (path(&release), &site.keys);
    author.types(&["policy", "sign", &file, "--key", &path(&keys.author)])?;
    let approver = &site.people.approver;
    approver.types(&["policy", "approve", &file, "--key", &path(&keys.approver)])?;
    Ok(release)
}

/// The hypervisor's word that a guest runs on a host that has no agent.
fn placed_on_c(site: &Site, guest: &str) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let since = since.to_string();
    let connector = &site.people.connector;
    let words = ["placement", "report", "--guest", guest, "--host", "c"];
    let times = ["--since-ms", &since, "--error-ms", "10"];
    connector
        .types(&[words.as_slice(), &times].concat())
        .map(drop)
}

#[test]
fn checks_pass_in_order_and_fail_by_what_really_happened() -> Result<()> {
    if !privileged() {
        return Ok(());
    }
    let mut site = enforcing("checks", &[WEB, DB, CORP])?;
    let _web = start(&site, &WEB)?;
    let db = start(&site, &DB)?;
    // A host records what its kernel holds when its agent starts, and once a minute.
    site.restart_agent("a")?;
    let in_order = [
        ("COR-01", "PASS", "a"),
        ("COR-02", "PASS", "a"),
        ("ENF-01", "PASS", "db, vnic 11"),
        ("ENF-05", "PASS", "a"),
        ("RUL-01", "PASS", "release 1"),
        ("RUL-02", "PASS", "release 1"),
        ("CHG-01", "PASS", "a"),
        ("LOG-01", "PASS", "a"),
        ("LOG-01", "PASS", "manager"),
    ];
    Report::wait_for(&site, "in-order", &in_order)?;

    let _corp = start(&site, &CORP)?;
    drop(db);
    placed_on_c(&site, "db")?;
    publish(&site, &overdue(&site)?)?;
    enforced(&site, 2)?;
    let violated = [
        ("COR-01", "FAIL", "a"),
        ("ENF-01", "FAIL", "db, vnic 11"),
        ("MOV-01", "FAIL", "db"),
        ("RUL-02", "FAIL", "release 2"),
        ("ENF-05", "PASS", "a"),
    ];
    Report::wait_for(&site, "violated", &violated)
}

#[test]
fn every_host_is_asked_over_the_manager_which_live_sessions_a_new_policy_would_cut() -> Result<()> {
    if !privileged() {
        return Ok(());
    }
    let mut site = enforcing("live", &[WEB, DB])?;
    let (web, db) = (start(&site, &WEB)?, start(&site, &DB)?);
    let _server = CounterServer::start(db.netns(), 5432)?;
    let stream = CounterStream::hold(web.netns(), SocketAddr::from((DB.address(), 5432)))?;
    stream.log().wait_for(20, LIMIT)?;

    let policy = site.people.author.dir().join("new.lictor");
    let simulate = |site: &Site, wait: &str| -> Result<Value> {
        let mut simulate = site.people.author.lictor();
        simulate.args(["policy", "simulate", "--live", "--wait", wait]);
        simulate.args(["--output", "json", "--policy"]).arg(&policy);
        let output = simulate.output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).context(errors)
    };
    let old = std::fs::read_to_string(POLICY)?;
    let new = old.replace("tier:web & app:pay  to tier:db", "tier:app  to tier:db");
    for (text, cut) in [(&old, 0), (&new, 2)] {
        std::fs::write(&policy, text)?;
        let told = simulate(&site, "120")?;
        // Both ends of the one conversation.
        let sessions = (&told["kept"], &told["cut"]);
        assert_eq!(sessions, (&json!(2 - cut), &json!(cut)), "{told}");
        let unknown = (&told["not_heard"], &told["left_out"]);
        assert_eq!(unknown, (&json!([]), &json!(0)), "{told}");
    }
    // A host that is silent is named: what lives there is not known.
    site.kill_agent("a")?;
    let told = simulate(&site, "1")?;
    let told = (&told["kept"], &told["not_heard"]);
    assert_eq!(told, (&json!(0), &json!(["a"])));
    Ok(())
}
