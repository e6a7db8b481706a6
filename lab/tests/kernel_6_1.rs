//! The data plane on Debian 12's own kernel, the oldest that is promised: every test of
//! `crates/datapath`, and those of the agent's core, once more in a guest. Run by themselves they
//! test the machine's kernel.

use lictor_lab::{Image, Run, Trial, TrialReport, image, privileged};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Whose tests, in cargo's words.
const SUITES: [&[&str]; 2] = [
    &["--package", "lictor-datapath"],
    &["--package", "lictor-agent", "--test", "host"],
];
/// What those tests call.
const TOOLS: [&str; 2] = ["ip", "tc"];
/// What a host loads on demand, and a guest without modprobe must have loaded.
const DRIVERS: [&str; 5] = ["veth", "bridge", "tun", "cls_bpf", "sch_ingress"];
/// A guest under TCG on a busy machine; it ends by itself long before.
const LIMIT: Duration = Duration::from_secs(480);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn attempt(programs: Vec<PathBuf>, arguments: &[&str]) -> TrialReport {
    Image::build(&image::cache()).expect("the guest image");
    let trial = Trial {
        programs,
        arguments: words(arguments),
        tools: words(&TOOLS),
        drivers: words(&DRIVERS),
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    trial.run(folder.path(), LIMIT).expect("the guest ends")
}

/// The test programs of a suite, built as cargo builds them for this machine.
fn test_programs(suite: &[&str]) -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--locked", "--no-run", "--message-format=json"])
        .args(suite)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .expect("cargo can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo: {said}");
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("cargo writes JSON"))
        .filter(|message: &Value| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

/// How many tests a program has, by its own word.
fn tests_of(program: &Path) -> usize {
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .expect("a test program can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.ends_with(": test")).count()
}

/// What is wrong with a run: every test passed, and none was left out but for want of tcx.
fn faults(run: &Run, tests: usize) -> Vec<String> {
    let summary = format!("test result: ok. {tests} passed; 0 failed; 0 ignored;");
    let mut faults = Vec::new();
    if run.status != 0 || !run.output.contains(&summary) {
        let (name, status) = (&run.name, run.status);
        faults.push(format!("{name} ended with {status}, expected `{summary}`"));
    }
    let left_out = run
        .output
        .lines()
        .filter(|line| line.contains("NOT TESTED"));
    let unexpected = left_out.filter(|line| !line.contains("no tcx"));
    faults.extend(unexpected.map(|line| format!("{}: {line}", run.name)));
    faults
}

#[test]
fn data_plane_and_agent_pass_their_tests_on_the_oldest_kernel() {
    if !privileged() {
        return;
    }
    let suites = SUITES.map(test_programs);
    for (suite, programs) in SUITES.iter().zip(&suites) {
        let tests: usize = programs.iter().map(|program| tests_of(program)).sum();
        assert!(tests > 0, "no tests in {suite:?}: {programs:?}");
    }
    let programs = suites.concat();
    let tests: Vec<_> = programs.iter().map(|program| tests_of(program)).collect();
    let report = attempt(programs, &["--nocapture", "--test-threads=1"]);
    assert!(report.kernel.starts_with("6.1."), "{}", report.kernel);
    let mut wrong = Vec::new();
    for (run, tests) in report.runs.iter().zip(&tests) {
        eprintln!("{} on {}:\n{}", run.name, report.kernel, run.output);
        wrong.extend(faults(run, *tests));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_program_that_fails_in_the_guest_is_reported_with_its_words() {
    if !privileged() {
        return;
    }
    let report = attempt(vec!["/bin/false".into(), "/bin/cat".into()], &["/nothing"]);
    assert_eq!((report.runs[0].status, report.runs[1].status), (1, 1));
    assert!(
        report.runs[1].output.contains("/nothing: No such file"),
        "{}",
        report.runs[1].output
    );
}
