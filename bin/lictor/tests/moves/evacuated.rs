//! A host whose agent is broken lets no guest go by itself. Two persons do.

use super::cut::disarm;
use super::*;
use std::path::PathBuf;

/// The order of these two, as they type it, and with how many signatures.
fn order(site: &Site, to: &str, signatures: usize) -> Result<PathBuf> {
    let what = ["--from", "a", "--justification", "the agent of a is dead"];
    orders::write(site, ("evacuation", to), &what, signatures)
}

fn present(agent: &Agent, site: &Site, file: &Path) -> Result<(bool, String)> {
    orders::present(agent, site, ("evacuation", file))
}

fn refused(agent: &Agent, site: &Site, file: &Path, part: &str) -> Result<()> {
    orders::refused(agent, site, ("evacuation", file), part)
}

/// Waits for an alarm that says this.
fn alarmed(agent: &Agent, part: &str) -> Result<()> {
    wait_body(agent, |body| match body {
        Body::Alarm { text, .. } => text.contains(part),
        _ => false,
    })
    .with_context(|| format!("{part}; {}", agent.log()))
}

#[test]
fn a_guest_leaves_a_host_whose_agent_is_broken_by_the_order_of_two_and_only_once() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    world.site.kill_agent("a")?;
    disarm(&world.db, DB.name)?;
    let target = receive(world.b(), &DB)?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    // It is not known whether a has it: it runs, and nobody hears it.
    let b = world.b();
    let silent = "host a, which may have it, has not answered";
    alarmed(b, silent)?;
    assert_eq!(state(b, &DB)?, (0, VnicState::Hold));

    let site = &world.site;
    refused(b, site, &order(site, "b", 1)?, "it has ann")?;
    refused(b, site, &order(site, "c", 2)?, "is for host c, this is b")?;
    assert_eq!(state(b, &DB)?, (0, VnicState::Hold));
    let good = order(site, "b", 2)?;
    let (done, words) = present(b, site, &good)?;
    assert!(done, "{words}");
    wait_for(b, &DB, |one| one.vnics[0].state == VnicState::Open)?;
    let records = wait_recorded(b, 1)?;
    let (record, signatures) = &records[0];
    assert_eq!((record.outcome, *signatures), (MoveOutcome::StateLost, 1));
    assert_eq!((record.sessions.sent, record.sessions.accepted), (0, 0));
    for part in ["ann and ben", "the agent of a is dead"] {
        assert!(record.asked_by.contains(part), "{record:?}");
    }
    refused(b, site, &good, "was used before")?;

    // Its last host comes back, sees that the guest is gone, and hears of it.
    world.db = target;
    let refusal = world.b().admit(DB.name, "a")?;
    let waits = matches!(&refusal, Response::Refused { reasons }
        if reasons.iter().any(|one| one.to_string().contains("has not heard of that yet")));
    assert!(waits, "{refusal:?}");
    world.site.restart_agent("a")?;
    wait::until("a host that has heard", LIMIT, || {
        let there = world.a().guest(DB.name)?;
        let custody = there.map_or(0, |one| one.custody);
        Ok((custody == 0).then_some(()))
    })?;
    wait_for(world.b(), &DB, |one| one.custody > 1)?;
    assert_eq!(state(world.b(), &DB)?.1, VnicState::Open);
    let _here = migrate(&world.db, world.b(), world.a())?;
    refused(world.b(), &world.site, &good, "was used before")
}

/// The agent of its host lives, and does not know that the guest has gone: it was never told where
/// its QEMU answers.
#[test]
fn a_host_that_believes_to_have_a_guest_lets_go_of_it_by_the_order_of_two() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = site()?;
    let [a, b] = ends(&site);
    let db = a.host().boot_with(&DB.spec(&SERVICES), &[], |vnic| {
        let mut blind = vnic.clone();
        blind.qmp = None;
        a.attach(&blind, &addresses(&DB), Arrival::Start).map(drop)
    })?;
    db.wait_up(LIMIT)?;
    // The order is there before the guest, and outlives the agent that it was shown to.
    let (done, words) = present(b, &site, &order(&site, "b", 2)?)?;
    assert!(done, "{words}");
    site.restart_agent("b")?;
    let [a, b] = ends(&site);
    let target = receive(b, &DB)?;
    let report = db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    alarmed(b, "no QEMU monitor of the guest")?;
    alarmed(b, "without having been handed over")?;
    wait_for(b, &DB, |one| one.vnics[0].state == VnicState::Open).with_context(|| b.log())?;
    assert_eq!(state(a, &DB)?, (0, VnicState::Hold));
    alarmed(a, "it was evacuated to host b by order")?;
    let records = wait_recorded(b, 1)?;
    assert_eq!(records[0].0.outcome, MoveOutcome::StateLost);
    // Its device is made anew.
    drop(db);
    let _here = migrate(&target, b, a)?;
    Ok(())
}
