//! Releases that change what lives, and releases that nobody approved.

use super::decisions::{Wanted, find};
use super::world::{ALL, LIMIT, SSH, World, at, publish};
use super::{ensure, evidence};
use crate::site::pci::WEB;
use crate::site::{Agent, Answer, Draft, Person, Signed, key_file, read_key};
use crate::{CounterStream, wait};
use anyhow::{Context, Result, bail};
use lictor_evidence::Body;
use lictor_types::{Reason, Verdict};
use lictor_wire::api::Role;
use lictor_wire::{Envelope, Trust};
use std::path::Path;
use std::time::Duration;

/// The policy's second version, without the rule pay/admin.
const REVOKED: &str = "policy-revoked.lictor";
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
    let policy = world.policies.join(REVOKED);
    let release = Draft::compile(&world.site, &policy, 2, &ALL)?;
    publish(&world.site, &release)?;
    world.generation = release.generation();
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
    let policy = world.policies.join(REVOKED);
    let next = Draft::compile(&world.site, &policy, world.generation.0 + 1, &ALL)?;
    let file = next.sign(&world.site, Signed::ByAuthor)?;
    let words = match world.site.publish(&file)? {
        Answer::Refused(words) => words,
        Answer::Ok(()) => bail!("a release with one signature was published"),
    };
    ensure(words.contains("0 valid approval"), || {
        format!("refused for another reason: {words}")
    })?;
    world.evidence(
        ("the refusal at the manager", since),
        |entry| match &entry.body {
            Body::ReleaseRefused { reason } if reason.contains("approval") => Some(()),
            _ => None,
        },
    )?;
    let said = taken_over(world, (&next, &file))?;
    Ok(format!(
        "{words}; an agent to which a copy of the manager, with a changed trust file, offers it \
         refuses too: {said}"
    ))
}

/// Someone with root rights on the manager copies it, adds an accomplice's key to its trust file,
/// and publishes a release that the author and the accomplice have signed. The agent pinned whom it
/// believes when it was enrolled. It is an agent of its own host, so that the real ones go on.
fn taken_over(world: &World, (release, file): (&Draft, &Path)) -> Result<String> {
    let (site, programs) = (&world.site, world.site.programs());
    let mut copy = site.manager().copy(site.node("copy")?)?;
    copy.start()?;
    let host = site.lab().host("d")?;
    let mut agent = Agent::new(&host, programs);
    agent.enrol(&copy)?;
    let desk = site.node("desk2")?;
    let role = (Role::PolicyAuthor, "ann2");
    let author = Person::enrol((&copy, &desk), programs, role, None)?;
    copy.stop()?;
    let accomplice = read_key(&key_file(&desk, programs, "mallory")?)?;
    let mut trust: Trust = copy.trust()?;
    trust.approvers.push(accomplice.verify_key());
    std::fs::write(copy.trust_file(), serde_json::to_vec_pretty(&trust)?)?;
    copy.start()?;
    // Not with the command, which would refuse to add a signature that agents do not count.
    let mut envelope: Envelope = serde_json::from_slice(&std::fs::read(file)?)?;
    envelope.add_signature(&accomplice)?;
    let published = author.call(|client| client.publish_release(&envelope))?;
    ensure(published.generation == release.generation(), || {
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
