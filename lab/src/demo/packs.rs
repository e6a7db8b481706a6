//! The evidence pack, its report, and the assessor's program.

use super::ensure;
use super::world::World;
use crate::site::command;
use anyhow::{Context, Result};
use lictor_evidence::Entry;
use std::path::{Path, PathBuf};
use std::process::Output;

/// The pack's folder, the report for people and the one for programs, below the demo's folder.
pub(super) const PACK: &str = "pack";
pub(super) const REPORT: &str = "report.html";
const REPORT_JSON: &str = "report.json";
const FLIPPED: &str = "pack-flipped";

/// The auditor fetches a pack and runs its checks again with the log's key, learnt elsewhere.
pub(super) fn accepted(world: &mut World) -> Result<String> {
    let folder = world.folder.join(PACK);
    let mut fetch = world.site.people.auditor.lictor();
    fetch.args(["audit", "pack", "--out"]).arg(&folder);
    command::output(fetch)?;
    for name in [REPORT, REPORT_JSON] {
        std::fs::copy(folder.join(name), world.folder.join(name))
            .with_context(|| format!("the pack has no {name}"))?;
    }
    let output = verify(world, &folder)?;
    let words = command::words(&output);
    ensure(
        output.status.success() && words.contains("VERIFIED"),
        || words.clone(),
    )?;
    let first = words.lines().next().unwrap_or_default();
    let compared = words.lines().last().unwrap_or_default();
    Ok(format!("lictor-verify: {first}; {compared}"))
}

/// One bit of one entry of a copy is changed: the program refuses the pack and names the entry.
pub(super) fn flipped(world: &mut World) -> Result<String> {
    let (pack, copy) = (world.folder.join(PACK), world.folder.join(FLIPPED));
    copy_folder(&pack, &copy)?;
    let bundle = first_bundle(&copy)?;
    let mut bytes = std::fs::read(&bundle)?;
    let (number, kind, place) = victim(&bytes).context("the first bundle has no decision")?;
    bytes[place] ^= 1;
    std::fs::write(&bundle, &bytes)?;
    let output = verify(world, &copy)?;
    let words = command::words(&output);
    let named = words.contains(&format!("entry {number} ({kind}"));
    ensure(!output.status.success() && named, || {
        format!("expected a refusal that names entry {number}: {words}")
    })?;
    Ok(format!(
        "lictor-verify: {}",
        words.lines().next().unwrap_or_default()
    ))
}

fn verify(world: &World, folder: &Path) -> Result<Output> {
    let mut verify = std::process::Command::new(&world.site.programs().verify);
    let key = world.site.manager().trust()?.manager;
    verify
        .arg(folder)
        .args(["--recheck", "--key", &key.to_string()]);
    command::run(verify)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let mut open = vec![(from.to_path_buf(), to.to_path_buf())];
    while let Some((from, to)) = open.pop() {
        std::fs::create_dir_all(&to)?;
        let entries = std::fs::read_dir(&from).with_context(|| format!("no {}", from.display()))?;
        for entry in entries.flatten() {
            let place = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push((entry.path(), place));
            } else {
                std::fs::copy(entry.path(), place)?;
            }
        }
    }
    Ok(())
}

/// The bundle that holds the log's first entries: whole, or partial while the log is short.
fn first_bundle(pack: &Path) -> Result<PathBuf> {
    let folder = pack.join("tile/entries");
    let whole = folder.join("000");
    if whole.is_file() {
        return Ok(whole);
    }
    let partial = std::fs::read_dir(folder.join("000.p"))?.flatten().next();
    Ok(partial.context("the pack has no entries")?.path())
}

/// The last decision in a bundle: the entry's number, its kind, and a byte of its text. A bundle
/// is a run of entries, each after its length in two bytes (C2SP tlog-tiles).
fn victim(bundle: &[u8]) -> Option<(usize, &'static str, usize)> {
    let (mut place, mut number, mut found) = (0, 0, None);
    while let Some(length) = bundle.get(place..place + 2) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let text = bundle.get(place + 2..place + 2 + length)?;
        let entry = Entry::from_bytes(text).ok()?;
        if entry.body.kind() == "session-decided" {
            // The first digit of a number in it: the entry reads on as one, with another meaning.
            let digit = text.windows(8).position(|part| part == b"time_ms\"")? + 9;
            found = Some((number, "session-decided", place + 2 + digit));
        }
        place += 2 + length;
        number += 1;
    }
    found
}
