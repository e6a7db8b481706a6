//! `lictor policy prove`: whether each intent holds over an estate, and if not, why and what to
//! change.

use crate::connectivity::read_estate;
use crate::output::{Answer, Cell, Ending, Page, Tone};
use crate::texts::{self, Files};
use crate::{CliError, Setting, files};
use clap::Args;
use lictor_analysis::{
    Counterexample, EndName, Finding, Hop, Likelihood, Outcome, Placed, Prover, Remedy, RuleName,
    SaidHow, Words,
};
use lictor_policy::{Date, sarif_log, sarif_place};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What `lictor policy prove` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Prove {
    /// The policy: a file, a directory of files, or several files by repeating this.
    #[arg(long = "policy", value_name = "FILE", required = true)]
    policy: Vec<PathBuf>,
    /// The estate, in JSON or TOML: guests with labels and addresses, and hosts.
    #[arg(long, value_name = "FILE")]
    estate: PathBuf,
    /// Only these intents.
    #[arg(long, value_name = "NAME")]
    intent: Vec<String>,
    /// The day for which rules count as expired or not; today if not given.
    #[arg(long)]
    date: Option<Date>,
    /// Where the certificates of all results go, for `lictor-checker`. They are checked at once.
    #[arg(long, value_name = "FILE", conflicts_with = "intent")]
    certificate: Option<PathBuf>,
}

/// Writes the certificates, after a checker that shares no code with the prover has seen them.
fn certify(prover: &mut Prover, path: &Path) -> Result<(usize, usize), CliError> {
    let document = serde_json::to_vec(&prover.certify()?).expect("only string keys");
    let wrong = |why| CliError::file(path, format!("{why}; do not rely on it, and report it"));
    let checked = lictor_checker::check(&document).map_err(wrong)?;
    files::write_new(path, &document)?;
    Ok(checked)
}

pub(crate) fn run(args: &Prove, setting: &Setting) -> Result<Answer, CliError> {
    let policy = Arc::new(texts::read_sound(&Files::of(args.policy.clone()))?);
    let estate = Arc::new(read_estate(&args.estate)?);
    let today = Date::from_unix_seconds(setting.now_ms / 1_000);
    let date = args.date.unwrap_or(today);
    let known = |name: &&String| policy.intents.iter().all(|one| one.name != **name);
    if let Some(unknown) = args.intent.iter().find(known) {
        let names = policy.intents.iter().map(|one| one.name.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let what = match names.as_str() {
            "" => format!("the policy has no intent {unknown}, nor any other"),
            names => format!("the policy has no intent {unknown}; expected one of {names}"),
        };
        return Err(CliError::argument("--intent", what));
    }
    let asked: Vec<usize> = (0..policy.intents.len())
        .filter(|place| {
            args.intent.is_empty() || args.intent.contains(&policy.intents[*place].name)
        })
        .collect();
    let mut prover = Prover::new(policy.clone(), estate.clone(), date)?;
    let findings = prove(&mut prover, &asked);
    let checked = args.certificate.as_deref();
    let checked = checked.map(|path| certify(&mut prover, path)).transpose()?;
    let failed = findings.iter().filter(|one| is_failed(one)).count();
    let quarantined: Vec<&str> = estate.quarantined(&policy).collect();
    let mut page = match policy.intents.is_empty() {
        true => Page::default().line("The policy states no intents: nothing was proved."),
        false => page(&findings),
    };
    if !quarantined.is_empty() {
        page = page.line(format!("in quarantine: {}", quarantined.join(", ")));
    }
    if !estate.fabric_trusted {
        let what =
            "The estate does not declare its fabric trusted: outside addresses may be forged.";
        page = page.line(Cell::toned(Tone::Doubt, what));
    }
    if let Some((held, failed)) = checked {
        let what = format!("certificates checked: {held} held, {failed} failed");
        page = page.line(Cell::toned(Tone::Good, what));
    }
    let value = json!({
        "certificates_checked": checked.map(|(held, failed)| held + failed),
        "policy": policy.name, "version": policy.version, "date": date,
        "held": findings.len() - failed, "failed": failed,
        "fabric_trusted": estate.fabric_trusted, "quarantined": quarantined,
        "intents": findings,
    });
    let ending = if failed > 0 { Ending::No } else { Ending::Done };
    let sarif = sarif(&findings, &args.policy);
    Ok(Answer::new(page, &value).ending(ending).sarif(sarif))
}

/// Proves one intent after the other. Who waits for long at a terminal sees how far it is.
fn prove(prover: &mut Prover, asked: &[usize]) -> Vec<Finding> {
    const SILENT: Duration = Duration::from_secs(1);
    let (start, mut errors) = (Instant::now(), std::io::stderr());
    let shows = errors.is_terminal();
    let mut shown = false;
    let mut findings = Vec::new();
    for (done, intent) in asked.iter().enumerate() {
        if shows && start.elapsed() > SILENT {
            shown = true;
            // Progress is no result: who can't see it misses nothing.
            let _ = write!(errors, "\rproving {} of {}", done + 1, asked.len());
        }
        findings.push(prover.finding(*intent));
    }
    if shown {
        let _ = writeln!(errors);
    }
    findings
}

fn is_failed(finding: &Finding) -> bool {
    matches!(finding.outcome, Outcome::Failed { .. })
}

fn page(findings: &[Finding]) -> Page {
    let rows = findings.iter().map(|one| {
        let state = match &one.outcome {
            Outcome::Held { vacuous: false } => Cell::toned(Tone::Good, "HELD"),
            Outcome::Held { vacuous: true } => Cell::toned(Tone::Doubt, "HELD, of nobody"),
            Outcome::Failed { .. } => Cell::toned(Tone::Bad, "FAILED"),
        };
        [
            one.intent.as_str().into(),
            state,
            one.statement.as_str().into(),
        ]
    });
    let mut page = Page::default().table(["intent", "outcome", "statement"], rows);
    for one in findings {
        if let Outcome::Failed {
            counterexample,
            remedy,
        } = &one.outcome
        {
            page = page.section(&format!("{} fails", one.intent));
            page = told(page, counterexample);
            page = changed(page, remedy);
        }
    }
    page
}

fn told(page: Page, counterexample: &Counterexample) -> Page {
    match counterexample {
        Counterexample::Path {
            hops,
            likelihood,
            placement,
            failed_hosts,
            spoofable,
            forged_by,
        } => {
            let page = page.line(likely(*likelihood, hops.len()));
            let page = sessions(page, hops);
            let page = match (forged_by, spoofable) {
                (Some(by), _) => page.line(format!(
                    "the first packet's source is forged; it comes from {}",
                    by.name
                )),
                (None, true) => page.line("its first address may be forged by anybody outside"),
                (None, false) => page,
            };
            placed(page, placement, failed_hosts)
        }
        Counterexample::Denied {
            hop,
            likelihood,
            placement,
            failed_hosts,
        } => {
            let page = page.line(likely(*likelihood, 1));
            placed(
                sessions(page, std::slice::from_ref(hop)),
                placement,
                failed_hosts,
            )
        }
        Counterexample::Lacks {
            guest,
            host,
            control,
        } => page.line(format!(
            "{} may be on {host}, which lacks {control}",
            guest.name
        )),
        Counterexample::Nowhere { guest } => {
            page.line(format!("nobody knows where {} is", guest.name))
        }
        Counterexample::Together { one, other, host } => page.line(format!(
            "{} and {} may both be on {host}",
            one.name, other.name
        )),
    }
}

fn likely(likelihood: Likelihood, sessions: usize) -> Cell {
    let many = if sessions == 1 { "session" } else { "sessions" };
    match likelihood {
        Likelihood::Confirmed => Cell::toned(Tone::Bad, format!("CONFIRMED by {sessions} {many}:")),
        Likelihood::Possible => Cell::toned(
            Tone::Doubt,
            format!("POSSIBLE: each of {sessions} {many} can be, all at once perhaps not:"),
        ),
    }
}

fn sessions(page: Page, hops: &[Hop]) -> Page {
    let rows = hops.iter().map(|hop| {
        [
            end(&hop.from).into(),
            end(&hop.to).into(),
            packet(hop).into(),
            said(&hop.egress),
            said(&hop.ingress),
        ]
    });
    page.table(["from", "to", "packet", "egress", "ingress"], rows)
}

fn end(end: &EndName) -> String {
    match &end.host {
        Some(host) => format!("{} on {host}", end.name),
        None => end.name.clone(),
    }
}

/// The packet as `lictor explain --packet` takes it, as far as its addresses are known.
fn packet(hop: &Hop) -> String {
    let one = &hop.packet;
    let (Some(source), Some(destination)) = (one.source, one.destination) else {
        return one.service.clone();
    };
    match one.source_port {
        Some(port) => {
            let (from, to) = ((source, port), (destination, one.port));
            let text = |(address, port): (std::net::IpAddr, u16)| {
                std::net::SocketAddr::new(address, port).to_string()
            };
            format!("{} {} > {}", one.protocol, text(from), text(to))
        }
        None => format!("{} {source} > {destination}", one.service),
    }
}

fn said(said: &SaidHow) -> Cell {
    let why = match (&said.rule, said.because) {
        (Some(rule), _) => by(rule),
        (None, Words::Outside) => "nobody enforces there".into(),
        (None, Words::Observed) => "only observed".into(),
        (None, Words::HostUnprotected) => "host without firewall, owner lets it run".into(),
        (None, Words::HostUnprotectedBlock) => "host without firewall, cut".into(),
        (None, Words::Quarantine) => "quarantine".into(),
        (None, Words::DefaultDeny | Words::Rule) => "default deny".into(),
    };
    let word = if said.allows { "allow" } else { "deny" };
    Cell::toned(Tone::Plain, format!("{word}: {why}"))
}

fn by(rule: &RuleName) -> String {
    match &rule.owner {
        Some(owner) => format!("{} ({owner})", rule.name),
        None => rule.name.clone(),
    }
}

fn placed(mut page: Page, placement: &[Placed], failed: &[String]) -> Page {
    for one in placement.iter().filter(|one| one.moved) {
        page = page.line(format!("when {} is on {}", one.guest, one.host));
    }
    if !failed.is_empty() {
        page = page.line(format!("after these hosts failed: {}", failed.join(", ")));
    }
    page
}

fn changed(page: Page, remedy: &Remedy) -> Page {
    match remedy {
        Remedy::Rules { rules } => {
            let rows = rules.iter().map(|rule| {
                let place = match &rule.file {
                    Some(file) => format!("{file}:{}", rule.line),
                    None => format!("line {}", rule.line),
                };
                [
                    rule.name.as_str().into(),
                    Cell::optional(rule.owner.as_ref()),
                    place.into(),
                ]
            });
            page.line("as few rules as it takes to change:")
                .table(["rule", "owner", "place"], rows)
        }
        Remedy::Otherwise { what } => page.line(format!("to change: {what}")),
    }
}

/// The failed intents as SARIF 2.1.0. Of a policy in several files an intent's file is not known.
fn sarif(findings: &[Finding], files: &[PathBuf]) -> Value {
    let results: Vec<Value> = findings
        .iter()
        .filter(|one| is_failed(one))
        .map(|one| {
            let text = format!("{} does not hold: {}", one.intent, one.statement);
            let mut result = json!({
                "ruleId": "intent-failed", "level": "error", "message": { "text": text },
                "properties": { "finding": one },
            });
            let only = match files {
                [file] if file.is_file() => Some(file.display().to_string()),
                _ => None,
            };
            if let Some(file) = one.file.clone().or(only) {
                result["locations"] = json!([sarif_place(&file, one.line)]);
            }
            result
        })
        .collect();
    sarif_log(&BTreeSet::from(["intent-failed"]), results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Colour, Output};
    use std::fs;

    const POLICY: &str = "policy \"p\" version 1
label zone : one-of cde corp dmz required
set psp = 203.0.113.16/28
tier t allow-only owner \"net@example.com\" {
  allow out from zone:corp to zone:dmz service tcp/443
  allow in from zone:dmz to zone:cde service tcp/22
}
assert far : never path from zone:corp to zone:cde within 1 hops
assert near : never path from zone:corp to zone:cde
assert jump : never path from zone:corp to zone:cde except via zone:dmz service tcp/443
assert only : only zone:dmz reaches zone:cde service tcp/22
assert live : always path from zone:dmz to zone:cde service tcp/22 on any-host
";
    const ESTATE: &str = r#"{ "fabric_trusted": true,
        "guests": [
          { "name": "office", "labels": { "zone": "corp" }, "addresses": ["10.0.0.1"] },
          { "name": "jump", "labels": { "zone": "dmz" }, "addresses": ["10.0.0.2"],
            "host": "h1", "may_run_on": ["h1", "h2"] },
          { "name": "cards", "labels": { "zone": "cde" } } ],
        "hosts": [ { "name": "h1", "controls": ["firewall"] }, { "name": "h2" } ] }"#;

    fn prove(intents: &[&str]) -> Answer {
        let folder = tempfile::tempdir().expect("a folder");
        let (policy, estate) = (folder.path().join("p.lictor"), folder.path().join("e.json"));
        fs::write(&policy, POLICY).expect("written");
        fs::write(&estate, ESTATE).expect("written");
        let args = Prove {
            policy: vec![policy],
            estate,
            intent: intents.iter().map(|one| (*one).to_owned()).collect(),
            date: None,
            certificate: Some(folder.path().join("c.json")).filter(|_| intents.is_empty()),
        };
        let setting = Setting {
            now_ms: 1_790_000_000_000,
            user: "test".into(),
            colour: Colour::Off,
        };
        run(&args, &setting).expect("sound")
    }

    #[test]
    fn what_holds_ends_well_and_what_fails_is_told_hop_by_hop() {
        let check = |intent: &str, held: bool, texts: &[&str]| {
            let answer = prove(&[intent]);
            assert_eq!(answer.ending == Ending::Done, held, "{intent}");
            let text = answer.text(Output::Table, Colour::Off).expect("a page");
            for expected in texts {
                assert!(
                    text.contains(expected),
                    "{intent}: no {expected:?} in\n{text}"
                );
            }
        };
        check("far", true, &["HELD"]);
        check("jump", true, &["HELD"]);
        check("only", true, &["HELD"]);
        check(
            "near",
            false,
            &[
                "CONFIRMED by 2 sessions",
                "tcp 10.0.0.1:49152 > 10.0.0.2:443",
                "jump on h1",
                "allow: t/in (net@example.com)",
                "as few rules as it takes",
                "line 5",
            ],
        );
        // A move to a host without the firewall cuts the guest, as is the default.
        check(
            "live",
            false,
            &["when jump is on h2", "host without firewall, cut"],
        );
    }

    #[test]
    fn programs_get_the_same_and_reviews_the_lines() {
        let answer = prove(&[]);
        assert_eq!(
            (&answer.value["held"], &answer.value["failed"]),
            (&json!(3), &json!(2))
        );
        assert_eq!(answer.value["certificates_checked"], 5);
        let hop = &answer.value["intents"][1]["counterexample"]["hops"][1];
        assert_eq!(hop["ingress"]["rule"]["name"], "t/in");
        let sarif = answer.text(Output::Sarif, Colour::Off).expect("a log");
        assert!(sarif.contains("\"startLine\": 9"), "{sarif}");
    }

    #[test]
    fn of_several_files_each_intent_is_shown_in_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let intents = POLICY.find("assert").expect("intents");
        let args = Prove {
            policy: vec![
                file("rules", &POLICY[..intents]),
                file("intents", &POLICY[intents..]),
            ],
            estate: file("e.json", ESTATE),
            intent: vec!["near".into()],
            date: None,
            certificate: None,
        };
        let setting = Setting {
            now_ms: 1_790_000_000_000,
            user: "test".into(),
            colour: Colour::Off,
        };
        let answer = run(&args, &setting).expect("sound");
        let sarif = answer.text(Output::Sarif, Colour::Off).expect("a log");
        let log: Value = serde_json::from_str(&sarif).expect("JSON");
        let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().expect("a place");
        assert!(uri.ends_with("/intents"), "{uri}");
        assert_eq!(place["region"]["startLine"], 2);
    }
}
