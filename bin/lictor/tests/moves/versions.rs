//! Agents of two versions in one cluster, whose guests move all the while.

use super::*;

/// How a cluster of three goes back, one agent after the other, and is upgraded again. The guest
/// goes round once each way: between new and old, old and new, old and old.
const UPGRADE: [(&str, Option<Format>); 6] = [
    ("b", Some(Format::Four)),
    ("a", Some(Format::Four)),
    ("c", Some(Format::Four)),
    ("b", None),
    ("a", None),
    ("c", None),
];
const HOSTS: [&str; 3] = ["a", "b", "c"];

/// Formats alone tell the versions apart here: an older agent is one that knows no newer format.
/// What it said and wrote is held by the golden bytes of `lictor-wire`.
#[test]
fn guests_move_while_the_agents_of_their_cluster_are_upgraded_one_after_the_other() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world_on(site_on(&HOSTS, &[WEB, DB, BATCH])?)?;
    for (number, (host, format)) in (1..).zip(UPGRADE) {
        let case = format!("{host} speaks {format:?}");
        (world.site).replace_agent(host, format.map(Format::number))?;
        let way = HOSTS.into_iter().cycle().skip(number - 1);
        let way: Vec<_> = way.take(2).map(|host| world.site.agent(host)).collect();
        let [Ok(from), Ok(to)] = way.as_slice() else {
            bail!("a host without an agent: {way:?}");
        };
        wait_for(from, &DB, |one| {
            one.interlocked && one.running == Some(true)
        })?;
        let there = migrate(&world.db, from, to).with_context(|| case.clone())?;
        world.db = there;
        world.stream_goes_on().with_context(|| case)?;
        let here = world.site.agent(HOSTS[number % HOSTS.len()])?;
        assert_eq!(state(here, &DB)?.0, number as u64 + 1);
    }
    // Each host had a part in two of three moves.
    let recorded_each = 2 * UPGRADE.len() / HOSTS.len();
    for agent in world.site.agents() {
        for (record, signatures) in wait_recorded(agent, recorded_each)? {
            assert_eq!((record.outcome, signatures), (MoveOutcome::Committed, 2));
            assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
        }
    }
    Ok(())
}

/// An older target has no words for a guest that it has found on its way, and refuses it as it did.
#[test]
fn a_migration_that_nobody_has_asked_for_ends_at_a_target_of_the_older_format() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let older = Some(Format::Four.number());
    world.site.replace_agent("b", older)?;
    let target = receive(world.b(), &DB)?;
    wait_for(world.b(), &DB, |one| one.interlocked)?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "failed", "{report:?}");
    world.stream_goes_on()?;
    assert_eq!(state(world.a(), &DB)?, (1, VnicState::Open));
    assert_eq!(state(world.b(), &DB)?, (0, VnicState::Hold));
    Ok(())
}
