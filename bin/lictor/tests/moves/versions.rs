//! Agents of two versions in one cluster, whose guests move all the while.

use super::*;

/// How a cluster of two is upgraded, one agent after the other, and goes back again.
const UPGRADE: [(&str, Option<Format>); 6] = [
    ("b", Some(Format::Four)),
    ("a", Some(Format::Four)),
    ("b", None),
    ("a", None),
    ("a", Some(Format::Four)),
    ("a", None),
];

/// Formats alone tell the versions apart here: an older agent is one that knows no newer format.
/// What it said and wrote is held by the golden bytes of `lictor-wire`.
#[test]
fn guests_move_while_the_agents_of_their_cluster_are_upgraded_one_after_the_other() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    for (number, (host, format)) in (1..).zip(UPGRADE) {
        let case = format!("{host} speaks {format:?}");
        (world.site).replace_agent(host, format.map(Format::number))?;
        let [a, b] = [world.a(), world.b()];
        let (from, to) = if number % 2 == 1 { (a, b) } else { (b, a) };
        wait_for(from, &DB, |one| {
            one.interlocked && one.running == Some(true)
        })?;
        let there = migrate(&world.db, from, to).with_context(|| case.clone())?;
        world.db = there;
        world.stream_goes_on().with_context(|| case)?;
        assert_eq!(
            state(world.site.agent(to_name(number))?, &DB)?.0,
            number + 1
        );
    }
    for (record, signatures) in wait_recorded(world.a(), UPGRADE.len())? {
        assert_eq!((record.outcome, signatures), (MoveOutcome::Committed, 2));
        assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
    }
    Ok(())
}

/// Where the guest is after so many moves.
const fn to_name(number: u64) -> &'static str {
    if number % 2 == 1 { "b" } else { "a" }
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
