//! Each cause for which protection is impaired, brought about at a real agent, and what its guests'
//! owners chose for that.

use super::before::{check, kinds};
use super::choices::{configure, policy_with, site_with, wait_impaired, weaker};
use super::*;
use lictor_evidence::{Source, frame};
use lictor_lab::{Process, command};
use lictor_policy::{Cause, Choice};
use lictor_types::HostId;
use std::process::Command;

/// An agent answers another one 60 such questions a minute.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(1_500);

fn stricter(cause: &str, choice: &str) -> String {
    format!("when {cause} for tier:db choose {choice} owner \"payments@example.com\"\n")
}

/// Waits until these are the reasons against a move of this guest from a to b.
pub(super) fn wait_reasons(site: &Site, guest: &Guest, expected: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    let a = site.agent("a")?;
    wait::until("these reasons", LIMIT, || {
        last = check(a, guest.name, "b")?.0;
        if kinds(&last)? == expected {
            return Ok(Some(()));
        }
        std::thread::sleep(BETWEEN_QUESTIONS);
        Ok(None)
    })
    .with_context(|| format!("{expected:?}: {last:?}; {}", a.log()))
}

#[test]
fn no_session_begins_at_a_guest_whose_verdicts_nobody_proves_if_its_owner_chose_so() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lines = stricter("engine-hung", "block-new-sessions");
    let mut site = site_with(&[WEB, DB], &lines)?;
    configure(&mut site, "a", "lease_s = 5")?;
    let world = world_on(site)?;
    world.wait_reached(true)?;
    // The agent hangs: it says nothing, and proves nothing. What is established goes on.
    world.a().pause()?;
    world.wait_reached(false)?;
    world.stream_goes_on()?;
    world.a().go_on()?;
    world.wait_reached(true)?;
    wait_impaired(world.a(), Cause::EngineHung, Choice::BlockNewSessions)?;
    world.stream_goes_on()
}

#[test]
fn a_guest_moves_to_a_host_that_lacks_a_control_only_if_its_owner_chose_so() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let requires = ["db", "batch"].map(|tier| format!("require tier:{tier} controls firewall ids"));
    let lines = requires.join("\n") + "\n" + &weaker("ids-missing", "allow-with-expiry");
    let mut site = site_with(&[WEB, DB, BATCH], &lines)?;
    let mut sleep = Command::new("sleep");
    sleep.arg("3600");
    let mut ids = Process::start("an intrusion detection", sleep)?;
    let pid_file = site.people.author.dir().join("ids.pid");
    std::fs::write(&pid_file, ids.pid().to_string())?;
    let probe = format!(
        "[[controls]]\nname = \"ids\"\nprovider = \"test\"\nversion = \"1\"\n\
         probe = {{ process = {{ pid_file = \"{}\", comm = \"sleep\" }} }}",
        pid_file.display()
    );
    configure(&mut site, "b", &probe)?;
    let mut world = world_on(site)?;
    let batch = boot(world.a(), &BATCH, &[])?;
    wait_reasons(&world.site, &BATCH, &[])?;
    ids.kill()?;
    wait_reasons(&world.site, &BATCH, &["control-missing"])?;
    wait_reasons(&world.site, &DB, &[])?;
    let there = migrate(&world.db, world.a(), world.b())?;
    world.db = there;
    world.stream_goes_on()?;
    wait_impaired(world.b(), Cause::IdsMissing, Choice::AllowWithExpiry)?;
    wait_body(world.b(), |body| match body {
        Body::MoveAdmitted { controls, .. } => controls
            .iter()
            .any(|one| one.control == "ids" && !one.healthy),
        _ => false,
    })?;
    drop(batch);
    Ok(())
}

/// A log that nobody can write to, root neither.
pub(super) struct Shut(PathBuf);

impl Shut {
    pub(super) fn new(file: PathBuf) -> Result<Self> {
        command::run("chattr", &["+i".as_ref(), file.as_os_str()])?;
        Ok(Self(file))
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        let opened = command::run("chattr", &["-i".as_ref(), self.0.as_os_str()]);
        if let Err(error) = opened {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn a_host_that_cannot_write_evidence_takes_no_change_and_lets_nobody_go() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let a = world.a();
    wait_reasons(&world.site, &DB, &[])?;
    let shut = Shut::new(a.state_dir().join("evidence.log"))?;
    // Something is to be recorded.
    assert!(matches!(a.admit(DB.name, "c")?, Response::Refused { .. }));
    wait_reasons(&world.site, &DB, &["impaired"])?;
    let Response::Refused { reasons } = a.admit(DB.name, "b")? else {
        bail!("it is admitted");
    };
    let full =
        |one: &Refusal| matches!(one, Refusal::Impaired { cause, .. } if cause == "evidence-full");
    assert!(reasons.iter().any(full), "{reasons:?}");
    world.stream_goes_on()?;
    drop(shut);
    wait_reasons(&world.site, &DB, &[])?;
    wait_impaired(a, Cause::EvidenceFull, Choice::RefuseChanges)?;
    // What could not be written was kept.
    for host in ["c", "b"] {
        wait_body(
            a,
            |body| matches!(body, Body::MoveRefused { to, .. } if to.as_str() == host),
        )?;
    }
    wait_body(a, |body| match body {
        Body::Alarm { text, .. } => text.contains("no binding is taken: evidence-full"),
        _ => false,
    })
}

#[test]
fn a_host_whose_clock_went_back_takes_guests_only_if_their_owners_chose_so() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lines = weaker("time-untrusted", "allow");
    let mut world = world_on(site_with(&[WEB, DB, BATCH], &lines)?)?;
    let batch = boot(world.a(), &BATCH, &[])?;
    wait_reasons(&world.site, &BATCH, &[])?;
    // The clock of b was an hour ahead when this was recorded, and is right now.
    let log = world.b().state_dir().join("evidence.log");
    world.site.kill_agent("b")?;
    let known = recover(&std::fs::read(&log)?, None)?.entries;
    let last = Entry::from_bytes(known.last().context("it has recorded something")?)?;
    let text = "the clock was an hour ahead".to_owned();
    let subject = "host b".to_owned();
    let source = Source::Host(HostId::new("b")?);
    let later_ms = last.time_ms + 3_600_000;
    let entry = Entry::new(
        source,
        known.len() as u64,
        later_ms,
        Body::Alarm { subject, text },
    );
    let mut file = std::fs::OpenOptions::new().append(true).open(&log)?;
    file.write_all(&frame(&entry.to_bytes()?)?)?;
    world.site.restart_agent("b")?;
    wait_reasons(&world.site, &BATCH, &["impaired"])?;
    wait_reasons(&world.site, &DB, &[])?;
    let there = migrate(&world.db, world.a(), world.b())?;
    world.db = there;
    world.stream_goes_on()?;
    wait_impaired(world.b(), Cause::TimeUntrusted, Choice::Allow)?;
    drop(batch);
    Ok(())
}

#[test]
fn under_a_release_that_cannot_be_loaded_no_session_begins_and_two_persons_let_the_guest_go()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lines = stricter("release-stale", "block-new-sessions");
    let mut world = world_on(site_with(&[WEB, DB], &lines)?)?;
    world.wait_reached(true)?;
    // What must be durable before it is loaded cannot be written there.
    let state = world.a().state_dir();
    let obstacle = state.join("floor.partial");
    std::fs::create_dir(&obstacle)?;
    let policy = policy_with(&world.site, &lines)?;
    let draft = Draft::compile(&world.site, &policy, 2, &[WEB, DB])?;
    let release = draft.sign(&world.site, Signed::ByBoth)?;
    world.site.publish(&release)?.done()?;
    wait::until("the newer release at b", LIMIT, || {
        Ok((world.b().status()?.generation.0 == 2).then_some(()))
    })?;
    world.wait_reached(false)?;
    world.stream_goes_on()?;
    wait_impaired(world.a(), Cause::ReleaseStale, Choice::BlockNewSessions)?;
    wait_reasons(&world.site, &DB, &["release-differs"])?;
    let what = [
        "--cause",
        "release-stale",
        "--justification",
        "host a cannot load it",
    ];
    let order = orders::write(&world.site, ("override", "b"), &what, 2)?;
    let (done, words) = orders::present(world.a(), &world.site, ("override", &order))?;
    assert!(done, "{words}");
    let there = migrate(&world.db, world.a(), world.b())?;
    world.db = there;
    // Its sessions go on under the rules of b, and others begin again.
    world.stream_goes_on()?;
    world.wait_reached(true)?;
    let records = wait_recorded(world.b(), 1)?;
    let (record, _) = &records[0];
    let generations = (record.source.generation.0, record.target.generation.0);
    assert_eq!(generations, (1, 2));
    let overridden = record.overridden.as_ref().context("an order was used")?;
    assert_eq!(overridden.causes, ["release-stale"]);
    std::fs::remove_dir(&obstacle)?;
    wait::until("the newer release at a", LIMIT, || {
        Ok((world.a().status()?.generation.0 == 2).then_some(()))
    })
    .with_context(|| world.a().log())
}
