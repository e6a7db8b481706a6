//! The memory of agents while sessions go from one to the other. What they map of the kernel's
//! tables is the tables' and not theirs, so only anonymous pages count.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(5);

/// Bytes of a process's own.
pub(super) fn own(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes: u64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} has no RssAnon"))?;
    Ok(kilobytes * 1_024)
}

/// Looks at processes again and again.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Watch {
    /// Each process, and what it has when idle.
    pub(super) fn begin(idle: Vec<(u32, u64)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                for (pid, idle) in &idle {
                    most = most.max(own(*pid)?.saturating_sub(*idle));
                }
                std::thread::sleep(LOOK);
            }
            Ok(most)
        });
        Self { stop, thread }
    }

    /// The most that any of them had over what it has when idle.
    pub(super) fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
