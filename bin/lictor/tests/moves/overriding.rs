//! Reasons against a move that two persons override: for one guest, one target, some causes, once.

use super::before::{check, kinds};
use super::choices::{CHOICES, configure, site_with};
use super::impaired::{Shut, wait_reasons};
use super::*;
use lictor_evidence::{Envelope, Overridden};
use lictor_lab::site::{command, read_key};
use lictor_policy::Cause;
use lictor_wire::local::Request;
use lictor_wire::{Order as _, Override};

/// To the example's policy: db needs what no host here has.
const NEEDS_IDS: &str = "require tier:db controls firewall ids monitor\n";
const WHY: &str = "the last host with intrusion detection is on fire";

fn order(site: &Site, to: &str, causes: &[&str], signatures: usize) -> Result<PathBuf> {
    let mut what = vec!["--justification", WHY];
    what.extend(causes.iter().flat_map(|cause| ["--cause", *cause]));
    orders::write(site, ("override", to), &what, signatures)
}

fn taken(agent: &Agent, site: &Site, file: &Path) -> Result<()> {
    let (done, words) = orders::present(agent, site, ("override", file))?;
    assert!(done, "{words}");
    Ok(())
}

fn refused(agent: &Agent, site: &Site, file: &Path, part: &str) -> Result<()> {
    orders::refused(agent, site, ("override", file), part)
}

/// Shows the agent this order as it lies in the file, but good for another time.
fn lapsed(agent: &Agent, site: &Site, file: &Path) -> Result<()> {
    let envelope: Envelope = serde_json::from_slice(&std::fs::read(file)?)?;
    let mut order = Override::unverified(&envelope)?;
    order.expires_ms = order.issued_ms - 1;
    let keys = [&site.keys.author, &site.keys.approver];
    let [author, approver] = keys.map(|file| read_key(file).expect("made with the site"));
    let bytes = order.canonical_bytes();
    let order = Envelope::sign(Override::PAYLOAD_TYPE, &bytes, &[&author, &approver]);
    let answer = agent.ask(&Request::Override { order })?;
    let said = matches!(&answer, Response::Error { error } if error.contains("the order is good"));
    assert!(said, "{answer:?}");
    Ok(())
}

fn reasons(agent: &Agent) -> Result<Vec<String>> {
    let Response::Refused { reasons } = agent.admit(DB.name, "b")? else {
        bail!("it is admitted");
    };
    kinds(&reasons)
}

/// What evidence at this host says of the order that was used.
fn overridden(agent: &Agent) -> Result<Vec<Overridden>> {
    let bodies = evidence(agent)?.into_iter();
    let found = bodies.filter_map(|body| match body {
        Body::MoveAdmitted { overridden, .. } => overridden.map(|one| *one),
        Body::MoveRecorded { record, .. } => record.overridden,
        _ => None,
    });
    Ok(found.collect())
}

#[test]
fn a_refusal_is_overridden_by_the_order_of_two_for_what_it_names_and_only_once() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world_on(site_with(&[WEB, DB], NEEDS_IDS)?)?;
    let (site, a, b) = (&world.site, world.a(), world.b());
    let missing = ["control-missing"; 2];
    assert_eq!(kinds(&check(a, DB.name, "b")?.0)?, missing);
    let both = ["ids-missing", "monitor-missing"];

    // Who has not signed, where, for what, until when.
    refused(a, site, &order(site, "b", &both, 1)?, "it has ann")?;
    let good = order(site, "b", &both, 2)?;
    refused(
        b,
        site,
        &good,
        "present it to the agent of the host where that guest runs",
    )?;
    lapsed(a, site, &good)?;
    let mut write = site.people.author.lictor();
    write
        .args(["move", "override", "write", DB.name, "--to", "b"])
        .args(["--cause", Cause::HostUnprotected.name()])
        .args(["--justification", WHY, "--deployment", "moves"])
        .arg("--key")
        .arg(&site.keys.author)
        .args(["--out", "/nowhere"]);
    let output = command::run(write)?;
    let words = command::words(&output);
    assert!(
        words.contains("cannot be overridden; expected some of"),
        "{words}"
    );
    assert_eq!(reasons(a)?, missing);

    // Another host, and not all that speaks against it.
    taken(a, site, &order(site, "c", &both, 2)?)?;
    assert_eq!(reasons(a)?, missing);
    taken(a, site, &order(site, "b", &["ids-missing"], 2)?)?;
    assert_eq!(reasons(a)?, missing[..1]);

    // It is known after a restart, and a check uses nothing up.
    taken(a, site, &good)?;
    world.site.restart_agent("a")?;
    wait_for(world.a(), &DB, |one| one.interlocked)?;
    assert_eq!(check(world.a(), DB.name, "b")?.0, []);
    let there = migrate(&world.db, world.a(), world.b())?;
    world.db = there;
    world.stream_goes_on()?;
    for agent in [world.a(), world.b()] {
        let records = wait_recorded(agent, 1)?;
        let (record, signatures) = &records[0];
        assert_eq!((record.outcome, *signatures), (MoveOutcome::Committed, 2));
        let told = overridden(agent)?;
        assert_eq!(told.len(), 2, "admitted and recorded: {told:?}");
        assert_eq!(told[0], told[1]);
        assert_eq!(told[0].causes, both);
        assert_eq!(told[0].signers, ["ann", "ben"]);
        assert_eq!(told[0].justification, WHY);
    }

    // It comes back by another order, and the first one is worth nothing any more.
    taken(world.b(), &world.site, &order(&world.site, "a", &both, 2)?)?;
    let here = migrate(&world.db, world.b(), world.a())?;
    world.db = here;
    refused(world.a(), &world.site, &good, "was used before")?;
    assert_eq!(reasons(world.a())?, missing);
    world.stream_goes_on()
}

fn told_by_both(world: &World, causes: &[&str]) -> Result<()> {
    for agent in [world.a(), world.b()] {
        let records = wait_recorded(agent, 1)?;
        let (record, signatures) = &records[0];
        assert_eq!((record.outcome, *signatures), (MoveOutcome::Committed, 2));
        let told = record.overridden.as_ref().context("the order")?;
        assert_eq!(told.causes, causes);
    }
    Ok(())
}

#[test]
fn an_order_lets_a_guest_go_without_the_manager_to_a_host_that_has_no_room_for_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world_on(site_with(&[WEB, DB], CHOICES)?)?;
    // Less than one guest's quota.
    configure(
        &mut world.site,
        "b",
        "manager_silence_s = 5\nsessions = 1024",
    )?;
    configure(&mut world.site, "a", "manager_silence_s = 5")?;
    wait_for(world.a(), &DB, |one| one.interlocked)?;
    world.site.kill_manager()?;
    wait_reasons(&world.site, &DB, &["impaired", "impaired", "no-room"])?;
    let causes = ["manager-unreachable", "state-full"];
    let silence = order(&world.site, "b", &causes[..1], 2)?;
    taken(world.a(), &world.site, &silence)?;
    wait_reasons(&world.site, &DB, &["no-room"])?;
    taken(
        world.a(),
        &world.site,
        &order(&world.site, "b", &causes, 2)?,
    )?;
    wait_reasons(&world.site, &DB, &[])?;
    let there = migrate(&world.db, world.a(), world.b())?;
    world.db = there;
    world.stream_goes_on()?;
    told_by_both(&world, &causes)
}

/// What both have signed is durable before the move is over: it waits for the disk.
#[test]
fn an_order_lets_a_guest_leave_a_host_that_cannot_record_it_until_it_can() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let (a, b) = (world.a(), world.b());
    let shut = Shut::new(a.state_dir().join("evidence.log"))?;
    // Something is to be recorded.
    assert!(matches!(a.admit(DB.name, "c")?, Response::Refused { .. }));
    wait_reasons(&world.site, &DB, &["impaired"])?;
    let full = ["evidence-full"];
    taken(a, &world.site, &order(&world.site, "b", &full, 2)?)?;
    let target = copied(a, b)?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    wait_for(b, &DB, |one| {
        one.custody == 2 && one.vnics[0].state == VnicState::Open
    })?;
    world.stream_goes_on()?;
    assert_eq!(a.move_status(DB.name)?.phase, MovePhase::Committed);
    drop(shut);
    a.wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)?;
    told_by_both(&world, &full)
}
