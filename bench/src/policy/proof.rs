//! How long all intents of a policy take, and how much memory.

use super::world::{self, Size};
use super::{Extent, Measured};
use crate::clock;
use anyhow::{Context, Result, ensure};
use lictor_analysis::{Prover, Verdict};
use std::sync::Arc;

/// Times that a proof is made. The least counts: neighbours only ever add.
const ROUNDS: usize = 3;
/// Behaviours of ports that the world must have.
const BEHAVIOURS_MIN: usize = 1_400;

/// 10 k guests, 10 k rules.
///
/// # Errors
/// The world is not what it should be.
pub fn proof(extent: Extent) -> Measured {
    timed(match extent {
        Extent::Full => Size::TEN,
        Extent::Quick => Size::SMALL,
    })
}

/// 5 k guests, 50 k rules.
///
/// # Errors
/// The world is not what it should be.
pub fn proof_50k(extent: Extent) -> Measured {
    timed(match extent {
        Extent::Full => Size::FIFTY,
        Extent::Quick => Size::SMALL,
    })
}

fn timed(size: Size) -> Measured {
    let (policy, estate) = (
        Arc::new(world::policy(size)?),
        Arc::new(world::estate(size)),
    );
    let date = world::today()?;
    let mut least = f64::MAX;
    let mut note = String::new();
    for _ in 0..ROUNDS {
        let start = clock::thread()?;
        let mut prover = Prover::new(policy.clone(), estate.clone(), date)?;
        let verdicts = prover.verdicts();
        least = least.min((clock::thread()? - start).as_secs_f64());
        note = said(&prover, &verdicts);
        if size != Size::SMALL {
            let nodes = prover.universe().nodes().len();
            ensure!(nodes >= estate.guests.len(), "only {nodes} classes");
            let found = prover.behaviours();
            ensure!(found >= BEHAVIOURS_MIN, "only {found} behaviours");
        }
    }
    Ok((least, Some(note)))
}

fn said(prover: &Prover, verdicts: &[Verdict]) -> String {
    let failed: Vec<&str> = prover
        .policy()
        .intents
        .iter()
        .zip(verdicts)
        .filter(|(_, verdict)| **verdict != Verdict::Held)
        .map(|(intent, _)| intent.name.as_str())
        .collect();
    format!(
        "{} classes, {} rules, {} behaviours of ports, {} intents, not held: {}",
        prover.universe().nodes().len(),
        prover.policy().rules().count(),
        prover.behaviours(),
        verdicts.len(),
        failed.join(" ")
    )
}

/// The argument with which this program measures its own memory.
pub const MEMORY_CHILD: &str = "policy-memory";

/// The most memory that a process has had which did nothing else than this proof.
///
/// # Errors
/// The process cannot be run.
pub fn memory(extent: Extent) -> Measured {
    let program = std::env::current_exe().context("this program's own path")?;
    let mut command = std::process::Command::new(program);
    command.arg(MEMORY_CHILD);
    if extent == Extent::Quick {
        command.arg("--quick");
    }
    let output = command.output().context("the process that is measured")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    let text = String::from_utf8(output.stdout).context("its figure")?;
    let bytes: f64 = text.trim().parse().context("its figure")?;
    Ok((bytes / 1e9, None))
}

/// What the process of [`memory`] does: a proof, and then it says its peak in bytes.
///
/// # Errors
/// The world is not what it should be.
pub fn memory_child(extent: Extent) -> Result<u64> {
    proof(extent)?;
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.split_whitespace().next());
    let peak: u64 = peak.context("VmHWM of /proc/self/status")?.parse()?;
    Ok(peak * 1_024)
}
