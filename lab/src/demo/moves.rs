//! Guests that move, or may not.

use super::summary::MoveRow;
use super::world::{LIMIT, World, attach, batch_services, boot};
use super::{ensure, evidence, millis};
use crate::guest::{MigrateOptions, MigrateReport, QemuGuest};
use crate::site::pci::{BATCH, DB};
use crate::site::{Agent, Arrival};
use crate::stream::{StreamLog, StreamReport};
use crate::wait;
use anyhow::{Context, Result, bail};
use lictor_client::Client;
use lictor_evidence::{Body, MoveOutcome, MoveRecord};
use lictor_types::VnicState;
use lictor_wire::api::{GuestReport, MoveEntry, MoveResult, VnicReport};
use lictor_wire::local::{MovePhase, Response};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Numbers of a stream that show that it goes on.
const GOES_ON: usize = 50;

/// What QEMU's time stamps may be off: they are cut to a millisecond on the way.
const STAMP_MS: u64 = 1;

/// A stream must bring more numbers, in order and on the same connection.
fn goes_on(stream: &StreamLog, whose: &str) -> Result<StreamReport> {
    let count = stream.report().count;
    let report = stream
        .wait_for(count + GOES_ON, LIMIT)
        .with_context(|| format!("the stream of {whose}"))?;
    ensure(report.contiguous && report.ended.is_none(), || {
        format!("the stream of {whose} broke: {report:?}")
    })?;
    Ok(report)
}

fn both_go_on(world: &World) -> Result<()> {
    goes_on(world.web.stream(), "web")?;
    goes_on(world.batch.stream(), "batch").map(drop)
}

/// QEMU asks the agent of a guest before it leaves and before it runs, unless its owner chose
/// otherwise in the signed policy.
pub(super) fn interlocked(world: &mut World) -> Result<String> {
    world.wait_interlock("a", "web")?;
    world.wait_interlock("a", "db")?;
    let batch = known(world.site.agent("b")?, "batch")?;
    ensure(!batch.interlocked && batch.running == Some(true), || {
        format!("batch should run without an interlock: {batch:?}")
    })?;
    Ok("web and db have it; batch has not, as its owner chose allow-with-alarm".into())
}

/// A snapshot asks the same object in QEMU that a move asks, and must fence nothing.
pub(super) fn snapshot(world: &mut World) -> Result<String> {
    let since = evidence::mark(&world.site)?;
    let before = known(world.site.agent("a")?, "db")?;
    world.db.snapshot("demo")?;
    both_go_on(world)?;
    let sessions = world.evidence(("a snapshot of db", since), |entry| match &entry.body {
        Body::SnapshotTaken { guest, sessions } if guest.as_str() == "db" => Some(*sessions),
        _ => None,
    })?;
    let fenced = world.site.evidence_from(since)?.into_iter().any(|entry| {
        let Body::VnicState { guest, to, .. } = &entry.body else {
            return false;
        };
        guest.as_str() == "db" && *to == VnicState::HandedOver
    });
    let after = known(world.site.agent("a")?, "db")?;
    let state = vnic(&after)?.state;
    ensure(
        state == VnicState::Open && after.custody == before.custody && !fenced,
        || format!("db was {before:?}, and is {after:?} after its snapshot"),
    )?;
    Ok(format!(
        "both streams go on without a hole, db's vnic was not fenced; recorded as a snapshot with \
         {sessions} sessions in it"
    ))
}

fn known(agent: &Agent, guest: &str) -> Result<GuestReport> {
    agent
        .guest(guest)?
        .with_context(|| format!("the agent of {} does not know {guest}", agent.name()))
}

fn vnic(report: &GuestReport) -> Result<&VnicReport> {
    let vnic = report.vnics.first();
    vnic.with_context(|| format!("{} has no vnic there", report.guest))
}

/// db moves from a to b while two guests hold a stream of it.
pub(super) fn db(world: &mut World) -> Result<String> {
    let since = evidence::mark(&world.site)?;
    let begin = Instant::now();
    let source_agent = world.site.agent("a")?;
    match source_agent.admit("db", "b")? {
        Response::Admitted { .. } => {}
        other => bail!("the move is not admitted: {other:?}"),
    }
    let target = world.b.receive(&DB.spec(&[]), |vnic| {
        attach(&world.site, "b", (&DB, vnic), Arrival::Incoming)
    })?;
    let ready = [MovePhase::Copied, MovePhase::Aborted];
    let status = source_agent.wait_for_phase("db", &ready, LIMIT)?;
    ensure(status.phase == MovePhase::Copied, || {
        format!("it ended before it began: {status:?}")
    })?;
    let report = migrate(&world.db, &target, "completed")?;
    // From here on the guest lives at the target; its source is kept until its counters are read.
    let source = std::mem::replace(&mut world.db, target);
    let ended = [MovePhase::Done, MovePhase::Aborted];
    let status = world.site.agent("a")?.wait_for_phase("db", &ended, LIMIT)?;
    ensure(status.phase == MovePhase::Done, || {
        format!("the agents did not commit: {status:?}")
    })?;
    world.wait_open("b", "db")?;
    both_go_on(world)?;
    let gap = world.web.stream().report_since(begin).largest_gap;
    let record = recorded(world, since)?;
    ensure(record.outcome == MoveOutcome::Committed, || {
        format!("{record:?}")
    })?;
    let reconciled = reconcile(world, &record)?;
    source.quit()?;
    // A guest that has arrived must be able to leave again under a verdict.
    world.wait_interlock("b", "db")?;
    let entry = listed(world, ("db", MoveResult::Committed))?;
    ensure(entry.sessions.as_ref() == Some(&record.sessions), || {
        format!("the manager lists {entry:?}, the record says {record:?}")
    })?;
    let row = row_of(&entry, gap);
    let saw = format!(
        "{} of {} sessions handed over, QEMU's pause {}, longest silence of web's stream {} ms, \
         unprotected {} ms; {reconciled}",
        row.sessions_accepted,
        row.sessions_sent,
        report
            .pause
            .map_or("unknown".into(), |pause| format!("{} ms", millis(pause))),
        millis(gap),
        record.unprotected_ms,
    );
    world.moves.push(row);
    Ok(saw)
}

fn migrate(source: &QemuGuest, target: &QemuGuest, wanted: &str) -> Result<MigrateReport> {
    let report = source.migrate_to(target, &MigrateOptions::default())?;
    ensure(report.status == wanted, || {
        format!("expected a migration that is {wanted}: {report:?}")
    })?;
    Ok(report)
}

fn recorded(world: &World, since: usize) -> Result<MoveRecord> {
    world.evidence(
        ("the signed record of the move", since),
        |entry| match &entry.body {
            Body::MoveRecorded { record, .. } if record.guest.as_str() == "db" => {
                Some((**record).clone())
            }
            _ => None,
        },
    )
}

/// How the manager lists a move, from what both agents or the hypervisor told it.
fn listed(world: &World, (guest, outcome): (&str, MoveResult)) -> Result<MoveEntry> {
    let auditor = &world.site.people.auditor;
    let found = wait::seldom("a move in the manager's list", LIMIT, || {
        let moves = auditor.call(Client::moves)?;
        let mut newest = moves.into_iter().rev();
        Ok(newest.find(|entry| entry.guest.as_str() == guest && entry.outcome == outcome))
    });
    found.with_context(|| format!("{guest}, {}", outcome.name()))
}

fn row_of(entry: &MoveEntry, gap: Duration) -> MoveRow {
    let sessions = entry.sessions.clone().unwrap_or_default();
    MoveRow {
        guest: entry.guest.to_string(),
        from: entry
            .from
            .as_ref()
            .map_or("unknown".into(), ToString::to_string),
        to: entry.to.to_string(),
        outcome: entry.outcome.name().into(),
        sessions_sent: sessions.sent,
        sessions_accepted: sessions.accepted,
        sessions_refused: sessions.refused.values().sum(),
        stream_gap_ms: Some(millis(gap)),
        unprotected_ms: Some(entry.unprotected_ms),
        error_ms: Some(entry.error_ms),
    }
}

/// The lab's own view of a move, against what agents and kernel say:
///
/// * at the source, whose guest stands still, the device has carried exactly the packets that got
///   a verdict;
/// * at the target, whose guest goes on, all that the device had carried at one look had got a
///   verdict at the next;
/// * no more frames of the guest came out of a host than its program had let pass;
/// * none came out of the source after the first one out of the target, and none out of c.
fn reconcile(world: &World, record: &MoveRecord) -> Result<String> {
    // The frames are counted before the counters are read, which only grow.
    let from_a = world.fabric.a.frames_of(DB.mac())?;
    let from_b = world.fabric.b.frames_of(DB.mac())?;
    let from_c = world.fabric.c.frames_of(DB.mac())?.len();
    let source = counters(world, "a")?;
    let (earlier, target) = (counters(world, "b")?, counters(world, "b")?);
    let unjudged = [
        source.device[0].abs_diff(source.judged[0]),
        earlier.device[0].saturating_sub(target.judged[0]),
    ];
    ensure(unjudged == [0, 0], || {
        format!("packets of db without a verdict on a and b: {unjudged:?}")
    })?;
    let sides = [
        ("a", &from_a, source.allowed[0]),
        ("b", &from_b, target.allowed[0]),
    ];
    for (host, frames, allowed) in sides {
        let count = frames.len() as u64;
        ensure(count <= allowed, || {
            format!("{count} frames of db came out of {host}, {allowed} were allowed")
        })?;
    }
    let first = from_b.first().context("no frame of db came out of b")?.wall;
    let late = from_a.iter().filter(|frame| frame.wall > first).count();
    ensure((late, from_c) == (0, 0), || {
        format!("{late} frames of db came out of a after its move, {from_c} out of c")
    })?;
    ensure(record.unprotected_ms == 0, || {
        format!("the record says {record:?}")
    })?;
    Ok(format!(
        "the lab's capture agrees: {} frames of db out of a ({} allowed), then {} out of b ({} \
         allowed), none out of a after the first out of b; on a, {} packets carried and {} judged",
        from_a.len(),
        source.allowed[0],
        from_b.len(),
        target.allowed[0],
        source.device[0],
        source.judged[0],
    ))
}

/// What an agent reads from its kernel about db's vnic now.
fn counters(world: &World, host: &str) -> Result<VnicReport> {
    let report = known(world.site.agent(host)?, "db")?;
    vnic(&report).cloned()
}

/// db may not go to c: its agent refuses, and a migration that nobody asked for fails too.
pub(super) fn refused(world: &mut World) -> Result<String> {
    let since = evidence::mark(&world.site)?;
    let begin = Instant::now();
    let from = world.db.host().node().name().to_owned();
    let reasons = match world.site.agent(&from)?.admit("db", "c")? {
        Response::Refused { reasons } => reasons,
        other => bail!("expected every reason against the move: {other:?}"),
    };
    world.evidence(("the refusal", since), |entry| match &entry.body {
        Body::MoveRefused { guest, to, .. } if guest.as_str() == "db" && to.as_str() == "c" => {
            Some(())
        }
        _ => None,
    })?;
    let target = world.c.receive(&DB.spec(&[]), |_| Ok(()))?;
    let report = migrate(&world.db, &target, "failed")?;
    drop(target);
    both_go_on(world)?;
    world.wait_open(&from, "db")?;
    let frames = world.fabric.c.frames_of(DB.mac())?.len();
    ensure(frames == 0, || {
        format!("{frames} frames of db came out of c")
    })?;
    let gap = world.web.stream().report_since(begin).largest_gap;
    let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    let entry = listed(world, ("db", MoveResult::Refused))?;
    world.moves.push(row_of(&entry, gap));
    Ok(format!(
        "refused: {}; a migration all the same rolls back ({}), the stream goes on after {} ms, \
         no frame of db out of c",
        reasons.join("; "),
        report
            .error
            .unwrap_or_else(|| format!("QEMU says {}", report.status)),
        millis(gap)
    ))
}

/// batch goes where no agent is, as its owner allowed; the hypervisor's connector reports it.
pub(super) fn batch_leaves(world: &mut World) -> Result<String> {
    let since = evidence::mark(&world.site)?;
    let begin = Instant::now();
    let target = world.c.receive(&BATCH.spec(&[]), |_| Ok(()))?;
    let mark = world.batch.qmp().mark();
    migrate(&world.batch, &target, "completed")?;
    let stop = stamp(&world.batch, mark, "STOP")?;
    let resume = stamp(&target, 0, "RESUME")?;
    let source = std::mem::replace(&mut world.batch, target);
    // It ran without a verdict from some moment between its stop and its first event at c.
    let error_ms = millis(resume.saturating_sub(stop)) + STAMP_MS;
    place(world, "c", (whole_millis(resume), error_ms))?;
    source.quit()?;
    both_go_on(world)?;
    let gap = world.batch.stream().report_since(begin).largest_gap;
    let (choice, since_ms) =
        world.evidence(("the open interval", since), |entry| match &entry.body {
            Body::UnprotectedOpened {
                guest,
                choice,
                since_ms,
                ..
            } if guest.as_str() == "batch" => Some((choice.clone(), *since_ms)),
            _ => None,
        })?;
    ensure(since_ms == whole_millis(resume), || {
        format!("the interval begins at {since_ms}")
    })?;
    world.evidence(("the alarm", since), |entry| match &entry.body {
        Body::Alarm { subject, .. } if subject.contains("batch") => Some(()),
        _ => None,
    })?;
    let entry = listed(world, ("batch", MoveResult::Unprotected))?;
    // How long it will have been is known when it is back.
    world.moves.push(MoveRow {
        unprotected_ms: None,
        ..row_of(&entry, gap)
    });
    Ok(format!(
        "without interlock; choice {choice}, alarm and open interval in evidence since its RESUME \
         at c, give or take {error_ms} ms (QEMU's pause); its stream to db goes on after {} ms, \
         still judged at db",
        millis(gap)
    ))
}

/// batch is restarted on b: the unprotected time ends, and its length is known.
pub(super) fn batch_returns(world: &mut World) -> Result<String> {
    let since = evidence::mark(&world.site)?;
    let on = world.batch.host().node().name();
    ensure(on == "c", || format!("batch is on {on}: it never left"))?;
    let unjudged = world.fabric.c.frames_of(BATCH.mac())?.len();
    world.batch.qmp().execute("quit", serde_json::json!({}))?;
    let limit = Duration::from_secs(10);
    world.batch.process().wait(limit)?;
    // It began to run under a verdict somewhere between these two moments.
    let (begin, started) = (Instant::now(), SystemTime::now());
    world.batch = boot(&world.site, &world.b, &BATCH, &batch_services())?;
    let started_ms = whole_millis(started.duration_since(UNIX_EPOCH)?);
    place(world, "b", (started_ms, millis(begin.elapsed())))?;
    world.wait_open("b", "batch")?;
    let (since_ms, until_ms, error_ms) =
        world.evidence(("the closed interval", since), |entry| match &entry.body {
            Body::UnprotectedClosed {
                guest,
                since_ms,
                until_ms,
                error_ms,
                ..
            } if guest.as_str() == "batch" => Some((*since_ms, *until_ms, *error_ms)),
            _ => None,
        })?;
    let length = until_ms
        .checked_sub(since_ms)
        .context("an interval that ends before it begins")?;
    let entry = listed(world, ("batch", MoveResult::Unprotected))?;
    ensure(
        (entry.unprotected_ms, entry.error_ms) == (length, error_ms),
        || format!("the manager lists {entry:?}, the evidence says {length} ms +-{error_ms}"),
    )?;
    let row = world
        .moves
        .iter_mut()
        .rev()
        .find(|row| row.guest == BATCH.name);
    let row = row.context("batch was never seen to leave")?;
    (row.unprotected_ms, row.error_ms) = (Some(entry.unprotected_ms), Some(entry.error_ms));
    ensure(length > 0 && unjudged > 0, || {
        format!("{length} ms and {unjudged} frames without a verdict cannot be right")
    })?;
    Ok(format!(
        "unprotected for {length} ms, give or take {error_ms} ms, by placement events; the lab's \
         capture saw {unjudged} frames of batch out of c"
    ))
}

fn place(world: &World, host: &str, (since_ms, error_ms): (u64, u64)) -> Result<()> {
    let (since, error) = (since_ms.to_string(), error_ms.to_string());
    let words = [
        ["placement", "report"],
        ["--guest", BATCH.name],
        ["--host", host],
        ["--since-ms", &since],
        ["--error-ms", &error],
    ];
    world.site.people.connector.types(&words.concat()).map(drop)
}

/// When QEMU says that something happened, since 1970.
fn stamp(guest: &QemuGuest, mark: usize, event: &str) -> Result<Duration> {
    let found = wait::until("an event of QEMU", LIMIT, || {
        let events = guest.qmp().events();
        Ok(events
            .into_iter()
            .skip(mark)
            .find(|other| other.name == event))
    });
    Ok(found.with_context(|| event.to_owned())?.at)
}

fn whole_millis(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
