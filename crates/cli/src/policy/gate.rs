//! A failed intent blocks the release, unless an approver has signed an exception that names it and
//! has not expired.

use crate::connectivity::read_estate;
use crate::output::{Answer, Page};
use crate::texts::{self, Files};
use crate::{CliError, files, key};
use clap::Args;
use lictor_analysis::{Prover, Verdict};
use lictor_policy::{Date, Intent, Policy};
use lictor_types::{DeploymentId, Digest};
use lictor_wire::gate::{EXCEPTION_TYPE, EXCEPTIONS_MAX, For};
use lictor_wire::{Envelope, Exception, Proved, Trust};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `lictor policy compile` takes for its intents.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Gate {
    /// The estate over which every intent must hold. A policy that states intents needs it: no
    /// manager and no agent takes a release with intents that nobody proved.
    #[arg(long, value_name = "FILE")]
    estate: Option<PathBuf>,
    /// An exception for an intent that does not hold, as `lictor policy except` writes it.
    #[arg(long, value_name = "FILE", requires = "estate")]
    exception: Vec<PathBuf>,
}

/// What `lictor policy except` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Except {
    #[command(flatten)]
    files: Files,
    /// The intent that need not hold.
    #[arg(long)]
    intent: String,
    /// The installation.
    #[arg(long)]
    deployment: DeploymentId,
    /// Who answers for it.
    #[arg(long)]
    owner: String,
    /// Why.
    #[arg(long)]
    justification: String,
    /// The last day on which it counts.
    #[arg(long)]
    expires: Date,
    /// The key file of an approver.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where it goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn except(args: &Except) -> Result<Answer, CliError> {
    let policy = texts::read_sound(&args.files)?;
    let intent = policy.intents.iter().find(|one| one.name == args.intent);
    let intent = intent.ok_or_else(|| {
        let what = format!("the policy has no intent {}", args.intent);
        CliError::argument("--intent", what)
    })?;
    if args.owner.is_empty() || args.justification.is_empty() {
        let what = "expected a name and a reason; nobody can answer for an empty one";
        return Err(CliError::argument("--owner/--justification", what));
    }
    let exception = Exception {
        deployment: args.deployment.clone(),
        policy: policy.name.clone(),
        intent: intent.name.clone(),
        statement: intent.statement(),
        owner: args.owner.clone(),
        justification: args.justification.clone(),
        expires: args.expires,
    };
    let payload = serde_json::to_vec(&exception).expect("only string keys");
    let envelope = Envelope::sign(EXCEPTION_TYPE, &payload, &[&key::read(&args.key)?]);
    let bytes = serde_json::to_vec_pretty(&envelope).expect("only string keys");
    files::write_new(&args.out, &bytes)?;
    let page = Page::default().fields([
        ("intent", exception.intent.as_str().into()),
        ("statement", exception.statement.as_str().into()),
        ("owner", exception.owner.as_str().into()),
        ("expires", exception.expires.into()),
    ]);
    Ok(Answer::new(page, &exception))
}

/// What a release is made for.
pub(crate) struct Release<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) deployment: &'a DeploymentId,
    pub(crate) date: Date,
}

/// What the gate let through, for people.
pub(crate) enum Passed {
    /// The policy states nothing.
    NoIntents,
    /// What goes into the release, and for people who excepts what.
    Proved(Proved, Vec<String>),
}

/// Proves every intent of a release.
pub(crate) fn pass(
    gate: &Gate,
    release: &Release<'_>,
    trust: Option<&Trust>,
) -> Result<Passed, CliError> {
    let intents = &release.policy.intents;
    let path = match &gate.estate {
        _ if intents.is_empty() => return Ok(Passed::NoIntents),
        None => {
            let names: Vec<&str> = intents.iter().map(|one| one.name.as_str()).collect();
            let what = format!(
                "the policy states intents ({}), and no agent takes a release with intents that \
                 nobody proved; name the estate over which they have to hold",
                names.join(", ")
            );
            return Err(CliError::argument("--estate", what));
        }
        Some(path) => path,
    };
    let policy = Arc::new(release.policy.clone());
    let estate = read_estate(path)?;
    let digest = Digest::of(&serde_json::to_vec(&estate).expect("only string keys"));
    let mut prover = Prover::new(policy, Arc::new(estate), release.date)?;
    let verdicts = prover.verdicts();
    let exceptions = read(&gate.exception, release, trust)?;
    let (mut held, mut excepted) = (Vec::new(), Vec::new());
    let (mut told, mut blocking) = (Vec::new(), Vec::new());
    for (intent, verdict) in intents.iter().zip(&verdicts) {
        if *verdict == Verdict::Held {
            held.push(intent.name.clone());
            continue;
        }
        let Some((envelope, one)) = exceptions.iter().find(|(_, one)| names(one, intent)) else {
            blocking.push(intent.name.as_str());
            continue;
        };
        excepted.push(envelope.clone());
        told.push(format!(
            "{} is excepted until {} by {}: {}",
            one.intent, one.expires, one.owner, one.justification
        ));
    }
    if blocking.is_empty() {
        let proved = Proved {
            estate: digest,
            held,
            excepted,
        };
        return Ok(Passed::Proved(proved, told));
    }
    let what = format!(
        "these intents do not hold over it: {}; `lictor policy prove` shows why and what to \
         change, or an approver signs an exception with `lictor policy except`; nothing is written",
        blocking.join(", ")
    );
    Err(CliError::file(path, what))
}

fn names(exception: &Exception, intent: &Intent) -> bool {
    exception.intent == intent.name && exception.statement == intent.statement()
}

/// Exceptions that count: signed by an approver, for this policy and installation, not expired.
fn read(
    paths: &[PathBuf],
    release: &Release<'_>,
    trust: Option<&Trust>,
) -> Result<Vec<(Envelope, Exception)>, CliError> {
    if paths.len() > EXCEPTIONS_MAX {
        let found = paths.len();
        let what = format!("{found} exceptions; a release carries at most {EXCEPTIONS_MAX}");
        return Err(CliError::argument("--exception", what));
    }
    let read = |path: &PathBuf| {
        let trust = trust.ok_or_else(|| {
            let what = "nobody says who the approvers are; expected --manager-dir or LICTOR_DIR \
                        with the trust file";
            CliError::argument("--exception", what)
        })?;
        read_one(path, release, trust)
    };
    paths.iter().map(read).collect()
}

fn read_one(
    path: &Path,
    release: &Release<'_>,
    trust: &Trust,
) -> Result<(Envelope, Exception), CliError> {
    let envelope = files::read_json(path, "an exception as `lictor policy except` writes it")?;
    let wanted = For {
        deployment: release.deployment,
        policy: &release.policy.name,
        day: release.date,
    };
    let one = Exception::verify(&envelope, &trust.approvers, wanted);
    let one = one.map_err(|error| CliError::file(path, error.to_string()))?;
    Ok((envelope, one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_evidence::SigningKey;
    use std::fs;

    const POLICY: &str = "policy \"p\" version 1
label zone : one-of cde corp required
tier t allow-only { allow a from zone:corp to zone:cde service tcp/22 }
assert office : never path from zone:corp to zone:cde
assert live : always path from zone:corp to zone:cde service tcp/22
";
    const ESTATE: &str = r#"{ "guests": [ { "name": "a", "labels": { "zone": "corp" } },
        { "name": "b", "labels": { "zone": "cde" } } ] }"#;

    /// Passes the gate with an exception for an intent, signed by one of two keys.
    fn check(exception: Option<(&str, &str, bool)>, date: &str, expected: Result<usize, &str>) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let approver = SigningKey::generate("ann".parse().expect("a name"), &mut rand::rngs::OsRng);
        let other = SigningKey::generate("bob".parse().expect("a name"), &mut rand::rngs::OsRng);
        let deployment: DeploymentId = "prod".parse().expect("a deployment");
        let (policy, _) = lictor_policy::parse("p", POLICY.as_bytes());
        let policy = policy.expect("sound");
        fs::write(file("estate"), ESTATE).expect("written");
        let mut gate = Gate {
            estate: Some(file("estate")),
            exception: Vec::new(),
        };
        if let Some((intent, expires, by_approver)) = exception {
            let own = policy.intents.iter().find(|one| one.name == intent);
            let exception = Exception {
                deployment: deployment.clone(),
                policy: "p".into(),
                intent: intent.into(),
                statement: own.map(Intent::statement).unwrap_or_default(),
                owner: "net@example.com".into(),
                justification: "RSK-1".into(),
                expires: expires.parse().expect("a date"),
            };
            let payload = serde_json::to_vec(&exception).expect("plain");
            let key = if by_approver { &approver } else { &other };
            let envelope = Envelope::sign(EXCEPTION_TYPE, &payload, &[key]);
            fs::write(file("e"), serde_json::to_vec(&envelope).expect("plain")).expect("written");
            gate.exception.push(file("e"));
        }
        let trust = Trust {
            deployment: deployment.clone(),
            authors: vec![other.verify_key()],
            approvers: vec![approver.verify_key()],
            approvals_required: 1,
            manager: other.verify_key(),
            freshness: None,
        };
        let release = Release {
            policy: &policy,
            deployment: &deployment,
            date: date.parse().expect("a date"),
        };
        match (pass(&gate, &release, Some(&trust)), expected) {
            (Ok(Passed::Proved(proved, told)), Ok(expected)) => {
                assert_eq!((proved.held.len(), told.len()), (expected, 2 - expected));
                assert_eq!(proved.excepted.len(), told.len());
            }
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            (found, expected) => panic!("{:?}, expected {expected:?}", found.map(|_| ())),
        }
    }

    #[test]
    fn a_failed_intent_passes_only_with_an_exception_that_counts() {
        let day = "2026-11-28";
        check(None, day, Err("do not hold over it: office;"));
        check(Some(("office", "2026-12-31", true)), day, Ok(1));
        check(Some(("office", "2026-11-28", true)), day, Ok(1));
        check(
            Some(("office", "2026-11-27", true)),
            day,
            Err("it expired after"),
        );
        check(Some(("office", "2026-12-31", false)), day, Err("sign"));
        check(
            Some(("live", "2026-12-31", true)),
            day,
            Err("hold over it: office;"),
        );
    }
}
