//! The data plane on Debian 12's own kernel, the oldest that is promised: the integration tests of
//! `crates/datapath`, and those of the agent's core, once more in a guest. Run by themselves they
//! test the machine's kernel.
//!
//! The guest has no hardware virtualization, in which the programs take ten times as long to load.
//! So `cargo xtask test` leaves [`LONG`] out; `cargo xtask test-kernel` and `test-full`, which set
//! `LICTOR_FULL=1`, leave out nothing.

use lictor_lab::{Image, Run, Trial, TrialReport, image, privileged};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Files of integration tests below the workspace: a folder of them, or one.
const SUITES: [&str; 2] = ["crates/datapath/tests", "crates/agent/tests/host.rs"];
/// Those of them that take as long as all others together: the tables of conversations, which are
/// arithmetic within one program; `explain`, which loads the program for each question; the agent's
/// rounds, which the other suites have in parts.
const LONG: [&str; 3] = [
    "crates/agent/tests/host.rs",
    "crates/datapath/tests/explain.rs",
    "crates/datapath/tests/tracking.rs",
];
/// What those tests call.
const TOOLS: [&str; 3] = ["bridge", "ip", "tc"];
/// What a host loads on demand, and a guest without modprobe must have loaded.
const DRIVERS: [&str; 5] = ["veth", "bridge", "tun", "cls_bpf", "sch_ingress"];
/// A guest under TCG on a busy machine; it ends by itself long before.
const LIMIT: Duration = Duration::from_secs(1_800);

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

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the workspace is here")
}

/// The files that are to run, in the order of their names.
fn chosen() -> Vec<PathBuf> {
    let full = lictor_lab::full();
    let mut files = SUITES.map(sources).concat();
    if !full {
        eprintln!("without {LONG:?}: `cargo xtask test-kernel` runs them too");
        let long = LONG.map(|file| root().join(file));
        files.retain(|file| !long.contains(file));
    }
    files.sort();
    files
}

/// The files that cargo makes programs of: a test in one file, or the main file of its folder.
fn sources(suite: &str) -> Vec<PathBuf> {
    let path = root().join(suite);
    if path.is_file() {
        return vec![path];
    }
    let entries = std::fs::read_dir(&path).expect("a suite is a file or a folder");
    let program = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("readable").path();
        let main = path.join("main.rs");
        match path.extension().is_some_and(|extension| extension == "rs") {
            true => Some(path),
            false => main.is_file().then_some(main),
        }
    };
    entries.filter_map(program).collect()
}

/// What cargo calls the test of a file.
fn target(source: &Path) -> &OsStr {
    let named = match source.ends_with("main.rs") {
        true => source.parent().and_then(Path::file_name),
        false => source.file_stem(),
    };
    named.expect("a test has a name")
}

/// The programs of these files. Of the whole workspace, because cargo then takes what a run of all
/// tests has built; of one crate alone it would build most of it again with other features.
fn test_programs(sources: &[PathBuf]) -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["test", "--locked", "--no-run", "--workspace"])
        .arg("--message-format=json")
        .current_dir(root());
    // Cargo tells a test about its package; build scripts such as ring's take that for news about
    // theirs and run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    for source in sources {
        command.arg("--test").arg(target(source));
    }
    let output = command.output().expect("cargo can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo: {said}");
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let messages: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("cargo writes JSON"))
        .collect();
    let program = |source: &PathBuf| {
        let of = |message: &&Value| message["target"]["src_path"].as_str() == source.to_str();
        let found = messages.iter().filter(of).find_map(|message| {
            let executable = message["executable"].as_str();
            executable.map(PathBuf::from)
        });
        found.unwrap_or_else(|| panic!("cargo built nothing of {}", source.display()))
    };
    sources.iter().map(program).collect()
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
    let programs = test_programs(&chosen());
    let tests: Vec<_> = programs.iter().map(|program| tests_of(program)).collect();
    assert!(
        tests.iter().all(|tests| *tests > 0),
        "{programs:?}: {tests:?}"
    );
    let report = attempt(programs, &["--nocapture", "--test-threads=2"]);
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
