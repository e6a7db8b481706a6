//! `lictor policy`: from a text to a release that two persons have signed.

mod diff;
mod explain;
mod gate;
mod lint;
mod prove;
pub(crate) mod scopes;
mod simulate;

use crate::caller::Caller;
use crate::connectivity::{self, Connectivity};
use crate::freshness::{self, FreshnessArgs};
use crate::import::{self, Import};
use crate::output::{Answer, Cell, Page, Printing, Tone};
use crate::release::{Draft, Part};
use crate::texts::{self, Files, Fmt};
use crate::{CliError, Setting, files, show, site};
use clap::{Args, Subcommand};
use lictor_policy::{CompileInput, Date, compile};
use lictor_types::Generation;
use lictor_wire::release::FORMAT;
use lictor_wire::{Release, Trust};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Check, compile, show, sign, approve and publish policy.
#[derive(Debug, Clone, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Say everything that is wrong with a policy. Ends with 1 if there are errors.
    Check(texts::Check),
    /// Print a policy text in its canonical layout, or in its JSON form.
    Fmt(Fmt),
    /// Compile a policy and a site into a release that nobody has signed yet.
    Compile(Compile),
    /// List every pair that may begin a session, with its ports.
    Connectivity(Connectivity),
    /// Say what two versions of a policy let pass differently, each with a packet. Ends with 1 if
    /// there is anything.
    Diff(diff::PolicyDiff),
    /// Say why a packet passes or not, by every tier and rule at both ends, or who can reach what.
    /// Ends with 1 if it does not pass, or nobody can.
    Explain(explain::Explain),
    /// Say which rules never decide, change nothing, contradict others, open too much or have no
    /// owner. Ends with 1 if there are any.
    Lint(lint::Lint),
    /// Say which live sessions a new policy would cut, and what it would refuse that the policy of
    /// now allows. Ends with 1 if there is anything.
    Simulate(simulate::Simulate),
    /// Prove each intent over an estate. Ends with 1 if one does not hold.
    Prove(prove::Prove),
    /// Sign that an intent need not hold for a time. For an approver.
    Except(gate::Except),
    /// Make a policy of another firewall's rules, with a report of what could not be said.
    Import(Import),
    /// Show all that a signature of a release stands for.
    Show {
        /// The release.
        release: PathBuf,
    },
    /// Sign a release as its author.
    Sign(Sign),
    /// Sign a release as an approver, who is another person.
    Approve(Sign),
    /// Hand a release to the manager, from which agents fetch it.
    Publish {
        /// The release.
        release: PathBuf,
    },
    /// Say which release is the newest, apart from the manager.
    Freshness(FreshnessArgs),
    /// Fetch the newest release from the manager.
    Fetch {
        /// Where it goes.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Clone, Args)]
struct Compile {
    #[command(flatten)]
    files: Files,
    /// The site: deployment, roster, delegations and label sets.
    #[arg(long, value_name = "TOML")]
    site: PathBuf,
    /// The release's number, greater than every one before.
    #[arg(long)]
    generation: Generation,
    /// The day for which rules count as expired or not; today if not given.
    #[arg(long)]
    date: Option<Date>,
    /// Where the release goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    gate: gate::Gate,
}

#[derive(Debug, Clone, Args)]
struct Sign {
    /// The release.
    release: PathBuf,
    /// The key file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

pub(crate) fn run(args: &PolicyArgs, setting: &Setting) -> Result<Answer, CliError> {
    match &args.action {
        Action::Check(args) => texts::check(args),
        Action::Fmt(args) => texts::fmt(args),
        Action::Compile(compile) => {
            let trust = args.caller.trust()?;
            compile_release(compile, setting.now_ms, trust.as_ref())
        }
        Action::Except(args) => gate::except(args),
        Action::Connectivity(args) => connectivity::run(args, setting.now_ms),
        Action::Diff(args) => diff::run(args, setting.now_ms),
        Action::Explain(args) => explain::run(args, setting),
        Action::Lint(args) => lint::run(args, setting.now_ms),
        Action::Simulate(one) => simulate::run(one, &args.caller, setting.now_ms),
        Action::Prove(args) => prove::run(args, setting),
        Action::Import(args) => import::run(args),
        Action::Show { release } => {
            let draft = Draft::read(release)?;
            Ok(show::release(&draft, args.caller.trust()?.as_ref()))
        }
        Action::Sign(one) => sign(one, Part::Author, &args.caller),
        Action::Approve(one) => sign(one, Part::Approver, &args.caller),
        Action::Publish { release } => publish(release, &args.caller),
        Action::Freshness(one) => freshness::run(one, &args.caller, setting.now_ms),
        Action::Fetch { out } => fetch(out, &args.caller),
    }
}

fn compile_release(args: &Compile, now_ms: u64, trust: Option<&Trust>) -> Result<Answer, CliError> {
    if args.generation == Generation(0) {
        let what = "0 means that none is loaded; expected 1 or more";
        return Err(CliError::argument("--generation", what));
    }
    let policy = texts::read_sound(&args.files)?;
    let site = site::read(&args.site, &policy)?;
    let label_sets: Vec<_> = site.label_sets().into_iter().collect();
    let date = args.date.unwrap_or(Date::from_unix_seconds(now_ms / 1_000));
    let input = CompileInput { label_sets, date };
    let release = gate::Release {
        policy: &policy,
        deployment: &site.deployment,
        date,
    };
    let (proved, told) = match gate::pass(&args.gate, &release, trust)? {
        gate::Passed::NoIntents => (None, Vec::new()),
        gate::Passed::Proved(proved, told) => (Some(proved), told),
    };
    let draft = Draft::new(Release {
        format: FORMAT,
        deployment: site.deployment,
        generation: args.generation,
        created_ms: now_ms,
        policy: compile(&policy, &input)?,
        roster: site.roster,
        delegations: site.delegations,
        proved,
    });
    let bytes = draft.to_bytes();
    if bytes.len() > files::RELEASE_BYTES_MAX {
        let (length, max) = (bytes.len(), files::RELEASE_BYTES_MAX);
        let what = format!("the release has {length} bytes, at most {max} can be sent; split it");
        return Err(CliError::file(&args.out, what));
    }
    files::write_new(&args.out, &bytes)?;
    let page = show::head(&draft, Page::default());
    let held = draft.release.proved.as_ref().map(|one| one.held.len());
    let page = proofs(held, told, quarantined(&draft, page)).line(
        "Nobody has signed it: read it with `lictor policy show`, then `lictor policy sign`.",
    );
    Ok(Answer::new(page, &show::head_value(&draft)))
}

/// How many intents hold, and who excepts the others.
fn proofs(held: Option<usize>, excepted: Vec<String>, page: Page) -> Page {
    let Some(held) = held else {
        return page;
    };
    let page = page.line(Cell::toned(Tone::Good, format!("{held} intents hold.")));
    let doubt = |page: Page, one| page.line(Cell::toned(Tone::Doubt, one));
    excepted.into_iter().fold(page, doubt)
}

/// Guests without a required label are cut off: legal, and seldom meant.
fn quarantined(draft: &Draft, mut page: Page) -> Page {
    let identities = draft.release.policy.identities.iter();
    for labels in identities
        .filter(|one| one.quarantine)
        .flat_map(|one| &one.labels)
    {
        let labels = site::text(labels);
        let text = format!("guests with {labels} lack a required label: nothing reaches them");
        page = page.line(Cell::toned(Tone::Doubt, text));
    }
    page
}

fn sign(args: &Sign, part: Part, caller: &Caller) -> Result<Answer, CliError> {
    let trust = caller.trust()?;
    let path = &args.release;
    let mut draft = Draft::read(path)?;
    draft.sign(path, part, (&args.key, trust.as_ref()))?;
    files::replace(path, &draft.to_bytes())?;
    let standing = draft.standing(trust.as_ref());
    let page = standing.page(show::head(&draft, Page::default()));
    let mut value = show::head_value(&draft);
    value["standing"] = json!(standing);
    Ok(Answer::new(page, &value))
}

fn publish(path: &Path, caller: &Caller) -> Result<Answer, CliError> {
    let draft = Draft::read(path)?;
    let published = caller.open()?.client.publish_release(&draft.envelope)?;
    let page = Page::default().fields([
        ("published", published.generation.into()),
        ("digest", published.digest.into()),
    ]);
    Ok(Answer::new(page, &published))
}

fn fetch(path: &Path, caller: &Caller) -> Result<Answer, CliError> {
    let identity = caller.open()?;
    let document = identity.client.release()?.ok_or_else(|| {
        let what = "the manager has no release yet; publish one with `lictor policy publish`";
        CliError::file(path, what)
    })?;
    // Written first and read again as any other file: what came is not believed.
    files::write_new(path, &files::json(&document.envelope))?;
    let draft = Draft::read(path)?;
    let standing = draft.standing(Some(&identity.trust));
    let page = standing.page(show::head(&draft, Page::default()));
    let mut value = show::head_value(&draft);
    value["standing"] = json!(standing);
    Ok(Answer::new(page, &value).ending(standing.ending()))
}
