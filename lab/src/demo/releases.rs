//! Releases that change what lives, and releases that nobody approved.

use super::decisions::{Wanted, find};
use super::world::{ALL, LIMIT, SSH, WEB, World, at, publish};
use super::{ensure, evidence};
use crate::site::{Agent, Answer, Draft, Person, Signed, key};
use crate::{CounterStream, wait};
use anyhow::{Context, Result, bail};
use lictor_evidence::Body;
use lictor_types::{Reason, Verdict};
use lictor_wire::Trust;
use lictor_wire::api::Role;
use std::time::Duration;

/// Numbers of another stream that pass while the revoked one must bring none.
const MEANWHILE: usize = 50;
/// What was on its way when the release was loaded has arrived after this.
const SETTLED: Duration = Duration::from_millis(200);

/// Version 2 of the policy lacks the rule pay/admin: the session that it had admitted ends.
pub(super) fn revoked(world: &mut World) -> Result<String> {
    let stream = CounterStream::hold(world.client.netns(), at(&WEB, SSH))?;
    stream.log().wait_for(MEANWHILE, LIMIT)?;
    let since = evidence::mark(&world.site)?;
    let admitted = Wanted {
        guest: "client",
        verdict: Verdict::Allow,
        reason: Reason::PolicyAllow,
        rule: "pay/admin",
        port: Some(SSH),
    };
    find(world, 0, admitted)?;
    let policy = world.policies.join("policy-revoked.lictor");
    let release = Draft::compile(&world.site, &policy, 2, &ALL)?;
    publish(&world.site, &release)?;
    world.release = release;
    std::thread::sleep(SETTLED);
    let before = stream.log().report().count;
    // Another stream is the clock: as many numbers again would have come on the revoked one.
    let other = world.web.stream().report().count;
    world.web.stream().wait_for(other + MEANWHILE, LIMIT)?;
    let after = stream.log().report().count;
    ensure(after == before, || {
        format!("{} numbers came after the rule was revoked", after - before)
    })?;
    let decision = world.evidence(("the end of the session", since), |entry| {
        match &entry.body {
            Body::SessionDecided(sample) => {
                let ports = [sample.source_port, sample.destination_port];
                let ssh = ports.contains(&SSH) && sample.reason == Reason::Revoked;
                ssh.then(|| format!("{} on {} at {}", sample.reason, entry.host, sample.guest))
            }
            _ => None,
        }
    })?;
    Ok(format!(
        "after {before} numbers client to web tcp/{SSH} got none while {MEANWHILE} passed from db \
         to web: {decision}; release 2 had two signatures"
    ))
}

/// The manager refuses the release with one signature. An agent does too, when a manager that was
/// taken over hands it out.
pub(super) fn one_signature(world: &mut World) -> Result<String> {
    let since = evidence::mark(&world.site)?;
    let next = world
        .release
        .renumbered(world.release.release().generation.0 + 1);
    let envelope = next.sign(&world.site.keys, Signed::ByAuthor)?;
    let reasons = match world.site.publish(&envelope)? {
        Answer::Refused { reasons, .. } => reasons.join("; "),
        Answer::Ok(published) => bail!("a release with one signature was published: {published:?}"),
    };
    ensure(reasons.contains("approval"), || {
        format!("refused for another reason: {reasons}")
    })?;
    world.evidence(
        ("the refusal at the manager", since),
        |entry| match &entry.body {
            Body::ReleaseRefused { reason } if reason.contains("approval") => Some(()),
            _ => None,
        },
    )?;
    let said = taken_over(world, &next)?;
    let same = if reasons.ends_with(&said) {
        "with the same words".to_owned()
    } else {
        said
    };
    Ok(format!(
        "the manager: {reasons}; an agent that a copy of the manager, with a changed trust file, \
         offers it: refused {same}"
    ))
}

/// Someone with root rights on the manager copies it, adds an accomplice's key to its trust file,
/// and publishes a release that the author and the accomplice have signed. The agent pinned whom it
/// believes when it was enrolled. It is an agent of its own host, so that the real ones go on.
fn taken_over(world: &World, release: &Draft) -> Result<String> {
    let mut copy = world.site.manager().copy(world.site.node("copy")?)?;
    copy.start()?;
    let host = world.site.lab().host("d")?;
    let mut agent = Agent::new(&host, world.site.programs());
    agent.enrol(&copy)?;
    let author = Person::enrol(
        &copy,
        &world.site.node("desk2")?,
        Role::PolicyAuthor,
        "ann2",
    )?;
    copy.stop()?;
    let accomplice = key("mallory")?;
    let mut trust: Trust = copy.trust()?;
    trust.approvers.push(accomplice.verify_key());
    std::fs::write(copy.trust_file(), serde_json::to_vec_pretty(&trust)?)?;
    copy.start()?;
    let mut envelope = release.sign(&world.site.keys, Signed::ByAuthor)?;
    envelope.add_signature(&accomplice)?;
    let published = author.must(|client| client.publish_release(&envelope))?;
    ensure(published.generation == release.release().generation, || {
        format!("the copy published {published:?}")
    })?;
    agent.start()?;
    let refusal = wait::until("an agent that refuses", LIMIT, || {
        Ok(agent.status()?.refused)
    })
    .with_context(|| agent.log())?;
    let enforced = agent.status()?.generation;
    ensure(
        refusal.contains("0 valid approval") && enforced.0 == 0,
        || format!("the agent enforces {enforced} and says: {refusal}"),
    )?;
    Ok(refusal)
}
