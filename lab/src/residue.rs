//! What a lab leaves when its owner dies, and how it is taken away.
//!
//! Everything a lab makes is named after its folder `/run/lictor-lab/<pid>-<start>-<number>`:
//! mounts lie below it, namespaces begin with its tag. So the folder alone says what to remove;
//! there is no list that could be out of date. Removal is idempotent, as two labs may start at
//! once.

use crate::command::{close_gate, run_ungated};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

const ROOT: &str = "/run/lictor-lab";

/// The folder of one lab and the names that follow from it.
#[derive(Debug, Clone)]
pub(crate) struct Tag {
    pub(crate) folder: PathBuf,
    pub(crate) prefix: String,
}

impl Tag {
    fn new(pid: u32, start: u64, number: u32) -> Self {
        Self {
            folder: Path::new(ROOT).join(format!("{pid}-{start}-{number}")),
            prefix: format!("lictor-{pid}-{number}-"),
        }
    }
}

static LIVE: Mutex<Vec<Tag>> = Mutex::new(Vec::new());

fn live() -> std::sync::MutexGuard<'static, Vec<Tag>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a process started, in clock ticks since boot: with its id it names the process for good.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold blanks and brackets; the fields after its last bracket may not.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Registers a new lab of this process, with its folder made.
pub(crate) fn open() -> Result<Tag> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    catch_signals();
    clean_stale()?;
    let pid = std::process::id();
    let start = start_time(pid).context("cannot read this process's start time from /proc")?;
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let tag = Tag::new(pid, start, number);
    let _making = crate::command::making();
    std::fs::create_dir_all(&tag.folder)
        .with_context(|| format!("cannot make {}; the lab needs root", tag.folder.display()))?;
    live().push(tag.clone());
    Ok(tag)
}

/// Takes a lab away and forgets it.
pub(crate) fn close(tag: &Tag) -> Result<()> {
    remove(tag)?;
    live().retain(|other| other.folder != tag.folder);
    Ok(())
}

fn catch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = || {
            let _closed = close_gate();
            for tag in live().clone() {
                if let Err(error) = remove(&tag) {
                    eprintln!("lab: {error:#}");
                }
            }
            std::process::exit(130);
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("lab: cannot catch Ctrl-C ({error}); the next lab would clean up");
        }
    });
}

/// Removes what labs of dead owners left. Every new lab does this first.
///
/// # Errors
/// The lab's folder cannot be read, or something cannot be removed.
pub fn clean_stale() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(ROOT) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let parts: Vec<_> = name
            .to_string_lossy()
            .split('-')
            .map(str::to_owned)
            .collect();
        let [pid, start, number] = parts.as_slice() else {
            continue;
        };
        let (Ok(pid), Ok(start), Ok(number)) = (pid.parse(), start.parse(), number.parse()) else {
            continue;
        };
        if start_time(pid) != Some(start) {
            remove(&Tag::new(pid, start, number))?;
        }
    }
    Ok(())
}

/// Where a lab keeps the former values of the machine's own settings, one file for each.
const SETTINGS: &str = "settings";

/// Changes a setting of the whole machine, after its former value is kept beside the lab.
pub(crate) fn set(tag: &Tag, path: &Path, value: &str) -> Result<()> {
    let _making = crate::command::making();
    let at = || format!("the setting {}", path.display());
    let former = std::fs::read_to_string(path).with_context(at)?;
    let folder = tag.folder.join(SETTINGS);
    std::fs::create_dir_all(&folder).with_context(at)?;
    let file = folder.join(path.display().to_string().replace('/', "\\"));
    // The first of several changes knows what the machine had.
    if !file.exists() {
        std::fs::write(&file, former.trim()).with_context(at)?;
    }
    std::fs::write(path, value).with_context(at)
}

fn restore(tag: &Tag) {
    let kept = std::fs::read_dir(tag.folder.join(SETTINGS));
    for entry in kept.into_iter().flatten().flatten() {
        let path = entry.file_name().to_string_lossy().replace('\\', "/");
        let former = std::fs::read_to_string(entry.path());
        if let Err(error) = former.and_then(|value| std::fs::write(&path, value)) {
            eprintln!("lab: {path} keeps the lab's value: {error}");
        }
    }
}

/// Ends processes, unmounts, removes namespaces, then the folder: in the order in which each would
/// hold on to the next. Runs without the gate, as the signal handler holds it.
fn remove(tag: &Tag) -> Result<()> {
    restore(tag);
    for namespace in namespaces(&tag.prefix) {
        // Another lab may remove the same stale one at this moment; then both calls may fail.
        if let Ok(pids) = run_ungated("ip", &["netns", "pids", &namespace]) {
            pids.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .for_each(end);
        }
        let _ = run_ungated("ip", &["netns", "del", &namespace]);
    }
    crate::freezer::remove(&tag.prefix);
    for mount in mounts(&tag.folder) {
        let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
    }
    match std::fs::remove_dir_all(&tag.folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", tag.folder.display()))
        }
        _ => Ok(()),
    }
}

fn end(pid: i32) {
    // The closing lab's own threads may still be inside one of its namespaces.
    if u32::try_from(pid).is_ok_and(|pid| pid != std::process::id()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

fn namespaces(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn mounts(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points.filter(|point| point.starts_with(folder)).collect()
}
