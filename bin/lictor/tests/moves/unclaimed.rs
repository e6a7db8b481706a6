//! A guest that somebody runs where no agent is: every host refuses it until an agent claims it.

use super::choices::wait_impaired;
use super::cut::{alarmed, disarmed};
use super::*;
use lictor_policy::{Cause, Choice};

#[test]
fn a_guest_that_no_agent_claims_is_refused_by_every_host_until_one_does() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let (mut world, _c, there) = disarmed()?;
    let report = world.db.migrate_to(&there, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    // Whoever has brought it round the protocol brings its links up, too.
    let nic = there.qmp().execute("query-rx-filter", json!({}))?;
    let nic = nic[0]["name"].as_str().context("a NIC with a name")?;
    let up = json!({ "name": nic, "up": true });
    there.qmp().execute("set_link", up)?;
    world.wait_reached(true)?;
    for agent in [world.a(), world.b()] {
        alarmed(agent, &DB, "no agent claims it")?;
        wait_impaired(agent, Cause::HostUnprotected, Choice::Block)?;
    }
    assert!(!world.reached()?, "{}", world.a().log());
    // What was established before is refused as well: nothing of it arrives any more.
    let before = world.stream.log().report().count;
    assert!(!world.reached()?);
    assert_eq!(world.stream.log().report().count, before);

    // It holds over a restart, and the word of one that has it ends it.
    world.site.restart_agent("a")?;
    assert!(!world.reached()?);
    let target = receive(world.b(), &DB)?;
    let report = there.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    wait_for(world.b(), &DB, |one| {
        one.custody > 1 && one.vnics[0].state == VnicState::Open
    })
    .with_context(|| world.b().log())?;
    alarmed(world.b(), &DB, "refused no longer: this host has it now")?;
    alarmed(world.a(), &DB, "refused no longer: host b claims it")?;
    world.wait_reached(true).with_context(|| world.a().log())
}
