//! `lictor policy lint`: what is wrong with rules that are all legal.

use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::texts::{self, Files};
use crate::{CliError, files};
use clap::Args;
use lictor_analysis::{LintCode, LintFinding, LintInput, lint};
use lictor_policy::{Date, Policy, sarif_log, sarif_place};
use lictor_types::RuleId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What `lictor policy lint` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Lint {
    #[command(flatten)]
    files: Files,
    /// The day for which rules count as expired or not; today if not given.
    #[arg(long)]
    date: Option<Date>,
    /// Packets by rule, as a JSON object of names (`tier/rule`) and numbers, summed over all hosts
    /// since the policy was loaded: without it no rule is called unused.
    #[arg(long, value_name = "JSON")]
    counters: Option<PathBuf>,
}

pub(crate) fn run(args: &Lint, now_ms: u64) -> Result<Answer, CliError> {
    let policy = texts::read_sound(&args.files)?;
    let date = args.date.unwrap_or(Date::from_unix_seconds(now_ms / 1_000));
    let hits = args
        .counters
        .as_deref()
        .map(|path| read_hits(path, &policy));
    let input = LintInput {
        hits: hits.transpose()?,
    };
    let findings = lint(&policy, date, &input);
    let file = args.files.first();
    let name = |finding: &LintFinding| finding.file.clone().unwrap_or_else(|| file.clone());
    let rows = findings.iter().map(|finding| {
        [
            Cell::toned(tone(finding.code), finding.code.name()),
            (&finding.rule).into(),
            format!("{}:{}", name(finding), finding.line).into(),
            Cell::optional(finding.owner.as_ref()),
            (&finding.message).into(),
        ]
    });
    let head = ["finding", "rule", "place", "owner", "what"];
    let page = match findings.len() {
        0 => Page::default().line(format!("{} rules: nothing found", policy.rules().count())),
        _ => Page::default().table(head, rows),
    };
    let value = json!({
        "policy": policy.name, "version": policy.version, "date": date,
        "rules": policy.rules().count(), "findings": findings,
    });
    let ending = match findings.is_empty() {
        true => Ending::Done,
        false => Ending::No,
    };
    let sarif = log(&findings, &name);
    Ok(Answer::new(page, &value).sarif(sarif).ending(ending))
}

const fn tone(code: LintCode) -> Tone {
    match code {
        LintCode::Contradicting | LintCode::HalfApplied | LintCode::EmptySelector => Tone::Bad,
        _ => Tone::Doubt,
    }
}

fn log(findings: &[LintFinding], name: &dyn Fn(&LintFinding) -> String) -> Value {
    let codes: BTreeSet<&str> = findings.iter().map(|finding| finding.code.name()).collect();
    let result = |finding: &LintFinding| {
        json!({
            "ruleId": finding.code.name(),
            "level": "warning",
            "message": { "text": format!("{}: {}", finding.rule, finding.message) },
            "locations": [sarif_place(&name(finding), finding.line)],
        })
    };
    sarif_log(&codes, findings.iter().map(result).collect())
}

/// Every name must be a rule's: a counter of something else would make a rule look unused.
fn read_hits(path: &Path, policy: &Policy) -> Result<BTreeMap<RuleId, u64>, CliError> {
    let bytes = files::read(path, files::RELEASE_BYTES_MAX)?;
    let wrong = |error: serde_json::Error| {
        let what = format!("{error}; expected an object of rules and numbers of packets");
        CliError::file(path, what)
    };
    let counted: BTreeMap<String, u64> = serde_json::from_slice(&bytes).map_err(wrong)?;
    let known: BTreeMap<&str, RuleId> = policy
        .rules()
        .map(|(_, rule)| (rule.name.as_str(), rule.id))
        .collect();
    let mut hits = BTreeMap::new();
    for (name, packets) in counted {
        let Some(id) = known.get(name.as_str()) else {
            let what = format!("the policy has no rule {name}; expected names such as tier/rule");
            return Err(CliError::file(path, what));
        };
        hits.insert(*id, packets);
    }
    Ok(hits)
}
