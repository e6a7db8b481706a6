//! The demo's flows as a test: the real programs, real guests, every step asserted.

use anyhow::{Context, Result};
use lictor_lab::demo::{self, Audience, Options, Step};
use lictor_lab::site::Programs;
use lictor_lab::{Image, image, privileged};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Prints each step, so that a failed run can be read.
struct Narrator;

impl Audience for Narrator {
    fn begins(&mut self, name: &str) {
        eprintln!("... {name}");
    }

    fn ended(&mut self, step: &Step) {
        let mark = if step.ok { "ok" } else { "FAILED" };
        eprintln!("{mark} after {} ms: {}", step.took_ms, step.detail);
    }
}

/// Cargo gives a test the programs of its own package only; the assessor's is another package's.
fn verify_program(lictor: &Path) -> Result<PathBuf> {
    let folder = lictor.parent().context("a program lies in a folder")?;
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "-p", "lictor-verify"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let status = build.status()?;
    anyhow::ensure!(
        status.success(),
        "cargo cannot build lictor-verify: {status}"
    );
    Ok(folder.join("lictor-verify"))
}

#[test]
fn every_step_of_the_demo_is_shown() -> Result<()> {
    if !privileged() {
        return Ok(());
    }
    Image::build(&image::cache())?;
    let lictor = PathBuf::from(env!("CARGO_BIN_EXE_lictor"));
    let folder = tempfile::tempdir()?;
    let options = Options {
        programs: Programs {
            verify: verify_program(&lictor)?,
            lictor,
        },
        policies: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pci"),
        folder: folder.path().join("demo"),
    };
    let shown = demo::run(&options, &mut Narrator)?;
    let summary = &shown.summary;
    let failed: Vec<_> = summary.steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.is_empty(), "not shown: {failed:#?}");
    assert_eq!(summary.steps.len(), demo::steps().count());
    check_moves(summary);
    check_files(&options, summary)
}

/// What the summary says of moves, beyond that its steps held.
fn check_moves(summary: &demo::Summary) {
    let moves: Vec<_> = summary
        .moves
        .iter()
        .map(|row| {
            (
                row.guest.as_str(),
                row.from.as_str(),
                row.to.as_str(),
                row.outcome.as_str(),
            )
        })
        .collect();
    let expected = [
        ("db", "a", "b", "committed"),
        ("db", "b", "c", "refused"),
        ("batch", "b", "c", "unprotected"),
    ];
    assert_eq!(moves, expected);
    let [db, refused, batch] = summary.moves.as_slice() else {
        panic!("three moves were just compared");
    };
    assert!(
        db.sessions_sent >= 2,
        "web and batch hold a stream each: {db:?}"
    );
    assert_eq!(db.sessions_accepted, db.sessions_sent, "{db:?}");
    assert_eq!(
        (db.sessions_refused, db.unprotected_ms),
        (0, Some(0)),
        "{db:?}"
    );
    assert_eq!(refused.unprotected_ms, Some(0), "{refused:?}");
    assert!(batch.unprotected_ms.is_some_and(|ms| ms > 0), "{batch:?}");
    assert!(batch.error_ms.is_some_and(|ms| ms > 0), "{batch:?}");
}

/// What is written is what was returned, and report and pack are where it says.
fn check_files(options: &Options, summary: &demo::Summary) -> Result<()> {
    let text = std::fs::read_to_string(options.folder.join(demo::SUMMARY))?;
    assert_eq!(serde_json::from_str::<demo::Summary>(&text)?, *summary);
    let page = std::fs::read_to_string(&summary.report)?;
    assert!(page.contains("<html"), "the report is a page");
    assert!(Path::new(&summary.pack).join("manifest.json").is_file());
    Ok(())
}
