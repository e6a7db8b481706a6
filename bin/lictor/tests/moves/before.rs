//! What is said before anyone tries to move a guest.

use super::stages::Fabric;
use super::*;
use lictor_types::{GuestId, HostId};
use lictor_wire::local::Request;

/// What `lictor move check` says: the reasons, and how many controls the target has named.
pub(super) fn check(agent: &Agent, guest: &str, host: &str) -> Result<(Vec<Refusal>, usize)> {
    let request = Request::MoveCheck {
        guest: GuestId::new(guest)?,
        target: HostId::new(host)?,
    };
    match agent.ask(&request)? {
        Response::Checked { reasons, controls } => Ok((reasons, controls.len())),
        other => bail!("not checked: {other:?}"),
    }
}

pub(super) fn kinds(reasons: &[Refusal]) -> Result<Vec<String>> {
    let mut kinds = Vec::new();
    for reason in reasons {
        let value = serde_json::to_value(reason)?;
        kinds.push(value["reason"].as_str().unwrap_or_default().to_owned());
    }
    Ok(kinds)
}

#[test]
fn every_reason_of_both_ends_is_said_before_anyone_tries_and_nothing_is_recorded() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = site()?;
    alike(&site)?;
    let a = site.agent("a")?;
    // The guest runs nowhere, and b has nothing against it.
    let (reasons, controls) = check(a, DB.name, "b")?;
    assert_eq!(kinds(&reasons)?, ["not-in-custody", "not-in-custody"]);
    assert!(controls >= 1, "b has told its controls");
    // A guest that nobody has bound is unknown at both ends, and said once.
    let (reasons, _) = check(a, "nobody", "b")?;
    let unknown = ["not-in-custody", "not-in-custody", "guest-unknown"];
    assert_eq!(kinds(&reasons)?, unknown);
    let (reasons, controls) = check(a, DB.name, "c")?;
    assert_eq!(controls, 0);
    assert!(reasons.contains(&Refusal::HostUnknown), "{reasons:?}");
    let db = boot(a, &DB, &[])?;
    wait_for(a, &DB, |one| one.interlocked)?;
    assert_eq!(check(a, DB.name, "b")?.0, []);
    let refused = |body: &Body| matches!(body, Body::MoveRefused { .. });
    for host in ["a", "b"] {
        assert!(!evidence(site.agent(host)?)?.iter().any(refused));
    }
    site.agent("b")?.pause()?;
    let (reasons, _) = check(site.agent("a")?, DB.name, "b")?;
    assert_eq!(kinds(&reasons)?, ["host-unprotected"]);
    site.agent("b")?.go_on()?;
    site.restart_agent("b")?;
    drop(db);
    Ok(())
}

/// Both hosts of the lab are one machine with one kernel.
fn alike(site: &Site) -> Result<()> {
    let mut last = String::new();
    let words = ["cluster", "parity", "--guest", DB.name, "--output", "json"];
    wait::until("hosts that are alike", LIMIT, || {
        // It ends with 1 as long as they differ.
        let Ok(text) = site.people.auditor.types(&words) else {
            return Ok(None);
        };
        last.clone_from(&text);
        let parity: Value = serde_json::from_str(&text)?;
        let hosts = parity["hosts"].as_array().map_or(0, Vec::len);
        let heard = parity["hosts"][0]["evidence"].as_u64().unwrap_or_default();
        Ok((parity["alike"] == true && hosts == 2 && heard > 0).then_some(()))
    })
    .with_context(|| last)
}

/// Whether a move of db was given up for this cause, and an alarm says so.
pub(super) fn given_up(agent: &Agent, part: &str) -> Result<()> {
    let status = agent.wait_for_phase(DB.name, &[MovePhase::Aborted], LIMIT)?;
    let cause = status.cause.unwrap_or_default();
    assert!(cause.contains(part), "{cause}");
    wait_body(agent, |body| match body {
        Body::Alarm { subject, text } => subject == "guest db" && *text == cause,
        _ => false,
    })
}

#[test]
fn a_post_copy_is_ended_before_its_guest_is_stopped() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let fabric = Fabric::watch(&world.site)?;
    let target = copied(world.a(), world.b())?;
    // Of the source alone: not every kernel lets a target take memory like that.
    let capability = json!([{ "capability": "postcopy-ram", "state": true }]);
    let capabilities = json!({ "capabilities": capability });
    (world.db.qmp()).execute("migrate-set-capabilities", capabilities)?;
    // The target's QEMU takes no such migration and ends: its agent does not get to say so before
    // the other one has looked.
    world.b().pause()?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_ne!(report.status, "completed", "{report:?}");
    world.stream_goes_on()?;
    given_up(world.a(), "as a post-copy")?;
    world.b().go_on()?;
    assert_eq!(state(world.a(), &DB)?, (1, VnicState::Open));
    fabric.forwarded_in_turn(&DB, &["a"]);
    Ok(())
}
