//! Processor time, and the processor that is used.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

/// What the calling thread has used of a processor since it began, in the kernel and outside.
///
/// # Errors
/// The kernel has no such clock.
pub fn thread() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("no thread clock")?;
    Ok(Duration::from(now))
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// There is no such processor.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("cannot stay on processor {cpu}"))
}

/// The processor that was idle the most in the last moment.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub fn idlest() -> Result<usize> {
    const LOOK: Duration = Duration::from_millis(60);
    let before = idle_ticks()?;
    std::thread::sleep(LOOK);
    let after = idle_ticks()?;
    let idle = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.saturating_sub(*before));
    let best = idle.enumerate().max_by_key(|(_, ticks)| *ticks);
    best.map(|(cpu, _)| cpu)
        .context("/proc/stat names no processor")
}

fn idle_ticks() -> Result<Vec<u64>> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    Ok(text
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .filter_map(|line| line.split_whitespace().nth(4)?.parse().ok())
        .collect())
}

/// What the kernel's thread for deferred packets has used on a processor. Work that overflows from
/// the sender's own time lands there, and belongs to the cost of its packets.
///
/// # Errors
/// There is no such thread, or it cannot be read.
pub fn deferred(cpu: usize) -> Result<Duration> {
    static THREADS: OnceLock<HashMap<usize, u32>> = OnceLock::new();
    let id = THREADS.get_or_init(deferred_threads).get(&cpu);
    let id = id.with_context(|| format!("there is no thread ksoftirqd/{cpu} in /proc"))?;
    let path = format!("/proc/{id}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let used = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    Ok(Duration::from_nanos(
        used.with_context(|| format!("{path} has no number"))?,
    ))
}

fn deferred_threads() -> HashMap<usize, u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            let cpu = name.trim().strip_prefix("ksoftirqd/")?.parse().ok()?;
            Some((cpu, id))
        })
        .collect()
}
