//! What owners chose for the case that protection is impaired, with real agents and a real guest.

use super::before::{check, kinds};
use super::*;
use lictor_policy::{Cause, Choice};

/// To the example's policy: db stays where it is while the manager is silent.
pub(super) const CHOICES: &str = "\
    when manager-unreachable for tier:db choose no-moves owner \"payments@example.com\"\n";
/// How long the manager must be silent for that.
const SILENCE_S: u64 = 5;

/// A site whose policy is the example's with these lines more.
pub(super) fn site_with(guests: &[Guest], lines: &str) -> Result<Site> {
    let mut site = empty_site()?;
    site.protected_host("a")?;
    site.protected_host("b")?;
    publish_policy(&site, guests, policy_with(&site, lines)?.as_path())?;
    Ok(site)
}

/// The example's policy with these lines more, as a file.
pub(super) fn policy_with(site: &Site, lines: &str) -> Result<PathBuf> {
    let policy = site.people.author.dir().join("policy.lictor");
    std::fs::write(&policy, std::fs::read_to_string(example())? + lines)?;
    Ok(policy)
}

/// Waits until this is recorded: the cause, and the choice that holds for db.
pub(super) fn wait_impaired(agent: &Agent, cause: Cause, choice: Choice) -> Result<()> {
    wait_body(agent, |body| match body {
        Body::ImpairmentOpened {
            guest,
            cause: held,
            choice: chosen,
            ..
        } => {
            let found = [guest.as_str(), held.as_str(), chosen.as_str()];
            found == [DB.name, cause.name(), choice.name()]
        }
        _ => false,
    })
    .with_context(|| format!("{cause} {choice}; {}", agent.log()))
}

/// That the owner of db chose less than the default, as the policy language wants it said.
pub(super) fn weaker(cause: &str, choice: &str) -> String {
    format!(
        "when {cause} for tier:db choose {choice} owner \"payments@example.com\"\n  \
         justification \"a test\" expires 2029-12-31\n"
    )
}

/// Starts an agent again with lines more in its configuration.
pub(super) fn configure(site: &mut Site, host: &str, lines: &str) -> Result<()> {
    let config = site.agent(host)?.config();
    let mut file = std::fs::OpenOptions::new().append(true).open(config)?;
    writeln!(file, "{lines}")?;
    site.restart_agent(host)
}

#[test]
fn a_guest_stays_while_the_manager_is_silent_if_its_owner_chose_so_and_that_is_recorded()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = site_with(&[WEB, DB], CHOICES)?;
    configure(&mut site, "a", &format!("manager_silence_s = {SILENCE_S}"))?;
    let db = boot(site.agent("a")?, &DB, &[])?;
    wait_for(site.agent("a")?, &DB, |one| one.interlocked)?;
    assert_eq!(check(site.agent("a")?, DB.name, "b")?.0, []);

    site.kill_manager()?;
    let a = site.agent("a")?;
    wait_impaired(a, Cause::ManagerUnreachable, Choice::NoMoves)?;
    assert_eq!(kinds(&check(a, DB.name, "b")?.0)?, ["impaired"]);
    let refused = a.admit(DB.name, "b")?;
    let Response::Refused { reasons } = refused else {
        bail!("not refused: {refused:?}");
    };
    let [Refusal::Impaired { cause, detail }] = reasons.as_slice() else {
        bail!("other reasons: {reasons:?}");
    };
    assert_eq!(cause, Cause::ManagerUnreachable.name());
    assert!(detail.ends_with("its owner chose no-moves"), "{detail}");
    wait_body(a, |body| match body {
        Body::Alarm { subject, .. } => subject == "protection: manager-unreachable",
        _ => false,
    })?;
    // Enforcement goes on: its sessions are nobody's business but its own.
    assert_eq!(state(a, &DB)?.1, VnicState::Open);

    // An agent that is killed has begun something whose end its next life must tell: there the
    // manager's silence is not long enough.
    let config = a.config();
    site.kill_agent("a")?;
    let longer = std::fs::read_to_string(&config)?.replace(
        &format!("manager_silence_s = {SILENCE_S}"),
        "manager_silence_s = 3600",
    );
    std::fs::write(&config, longer)?;
    site.restart_agent("a")?;
    wait_body(site.agent("a")?, |body| match body {
        Body::ImpairmentClosed {
            guest,
            cause,
            since_ms,
            until_ms,
            ..
        } => {
            let ours = guest.as_str() == DB.name && cause == Cause::ManagerUnreachable.name();
            ours && since_ms <= until_ms
        }
        _ => false,
    })?;
    drop(db);
    Ok(())
}
