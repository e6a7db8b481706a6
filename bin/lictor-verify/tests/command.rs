//! The command as an assessor runs it.

use lictor_audit::{Profile, Report};
use lictor_evidence::pack::{Draft, Files};
use lictor_evidence::{Body, Entry, KeyName, Log, MemoryStorage, SigningKey, Source, TrustPolicy};
use rand::{SeedableRng as _, rngs::StdRng};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const NOW_MS: u64 = 1_800_000_000_000;

fn key(seed: u64) -> SigningKey {
    let name = KeyName::new("lictor.test/manager").expect("valid");
    SigningKey::generate(name, &mut StdRng::seed_from_u64(seed))
}

fn pack() -> Files {
    pack_with(|_| {})
}

/// A pack that its manager signed, with an edited report.
fn pack_with(edit: impl Fn(&mut Report)) -> Files {
    let alarm = Body::Alarm {
        subject: "vnic 7".into(),
        text: "look here".into(),
    };
    let host: Source = "h1".parse().expect("valid");
    let entries = [Entry::new(host, 0, NOW_MS, alarm)];
    let public = key(1).verify_key();
    let mut report = Report::new(&entries, &public, NOW_MS, Profile::default()).expect("short");
    edit(&mut report);
    let draft = Draft::new(report.files(), &TrustPolicy::log_only(public.clone())).expect("usable");
    let mut log = Log::open(MemoryStorage::default(), public, None).expect("new");
    log.append(&entries[0].to_bytes().expect("fits"))
        .expect("appends");
    let bound = Entry::new(Source::Manager, 0, NOW_MS, draft.entry());
    log.append(&bound.to_bytes().expect("fits"))
        .expect("appends");
    let checkpoint = log.checkpoint(&key(1)).expect("signs");
    draft
        .finish(&log.entries().expect("in memory"), &checkpoint)
        .expect("verifies")
}

fn write(root: &Path, files: &Files) {
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    }
}

fn run(pack: &Path, more: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_lictor-verify");
    Command::new(program)
        .arg(pack)
        .args(more)
        .output()
        .expect("the program starts")
}

fn expect(output: &Output, code: i32, words: &str) {
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    let all = String::from_utf8_lossy(&all);
    assert_eq!(output.status.code(), Some(code), "{all}");
    assert!(all.contains(words), "{all} lacks {words}");
}

#[test]
fn a_genuine_pack_exits_0_and_an_altered_one_exits_1_and_names_the_entry() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut files = pack();
    write(directory.path(), &files);
    let vkey = key(1).verify_key().to_string();
    expect(
        &run(directory.path(), &["--key", &vkey, "--recheck"]),
        0,
        "VERIFIED",
    );
    expect(
        &run(directory.path(), &["--output", "json"]),
        0,
        "\"key_was_given\": false",
    );
    let bundle = files.get_mut("tile/entries/000.p/2").expect("present");
    let offset = bundle
        .windows(4)
        .position(|part| part == b"look")
        .expect("the alarm's text");
    bundle[offset] ^= 1;
    write(directory.path(), &files);
    let output = run(directory.path(), &["--key", &vkey, "--recheck"]);
    expect(&output, 1, "entry 0 (alarm of h1, seq 0)");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_report_that_its_entries_contradict_exits_1_without_being_asked() {
    let directory = tempfile::tempdir().expect("a directory");
    write(
        directory.path(),
        &pack_with(|report| report.findings[0].status = lictor_audit::Status::Pass),
    );
    expect(
        &run(directory.path(), &[]),
        1,
        "report.json: MOV-01 of deployment says PASS; the entries say UNKNOWN",
    );
}

#[test]
fn another_key_a_missing_directory_or_a_foreign_file_exits_1() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &pack());
    let other = key(2).verify_key().to_string();
    expect(
        &run(directory.path(), &["--key", &other]),
        1,
        "policy.txt: it trusts",
    );
    expect(&run(&directory.path().join("absent"), &[]), 1, "absent");
    fs::write(directory.path().join("note.txt"), "hello").expect("a file");
    expect(&run(directory.path(), &[]), 1, "note.txt: not listed");
}

#[test]
fn a_link_in_a_pack_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &pack());
    std::os::unix::fs::symlink("/dev/null", directory.path().join("link")).expect("a link");
    expect(
        &run(directory.path(), &[]),
        1,
        "link: neither a file nor a directory",
    );
}

#[test]
fn wrong_usage_exits_2() {
    let directory = tempfile::tempdir().expect("a directory");
    expect(&run(directory.path(), &["--key", "nonsense"]), 2, "--key");
    expect(&run(directory.path(), &["--shrug"]), 2, "--shrug");
}
