//! What was measured, for people and for programs.

use anyhow::{Context, Result};
use serde::Serialize;

/// The machine and how busy it was: no figure means anything without it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Memory in MB.
    pub memory: u64,
    /// Processes that wanted to run, averaged over the last minute, at the start.
    pub load: f64,
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn here() -> Result<Self> {
        let read = |path: &str| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
        };
        let cpus = read("/proc/cpuinfo")?;
        let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().into());
        let cpu = cpus.lines().find(|line| line.starts_with("model name"));
        let memory = read("/proc/meminfo")?;
        let memory = memory.split_whitespace().nth(1).unwrap_or_default();
        let load = read("/proc/loadavg")?;
        let load = load.split_whitespace().next().unwrap_or_default();
        Ok(Self {
            cpu: cpu.and_then(value).unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism()?.get(),
            kernel: nix::sys::utsname::uname()?
                .release()
                .to_string_lossy()
                .into_owned(),
            memory: memory.parse::<u64>().context("/proc/meminfo")? / 1_024,
            load: load.parse().context("/proc/loadavg")?,
        })
    }
}

/// The middle of some values, and how far apart they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let of = |values: &[f64]| Spread::of(values).map(|spread| spread.median);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
