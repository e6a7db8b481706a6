//! `fuzz`: a comparison that goes on for as long as is wanted, each time with other seeds.

use crate::steps::cargo;
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// What can be fuzzed.
pub(crate) const NAMES: [&str; 1] = ["datapath"];
/// The longest run, in minutes: a week.
pub(crate) const MINUTES_MAX: u64 = 10_080;
const TEST: &str =
    "kernel_and_model_give_the_same_verdict_reason_rule_events_sessions_and_counters";

/// Compares the loaded program with the model. A difference is shrunk and written to a file.
///
/// # Errors
/// If there is a difference, or the test cannot be built or run.
pub(crate) fn run(minutes: u64, seed: Option<u64>) -> Result<()> {
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() << 20,
    };
    let folder = crate::root()?.join("target/fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join(format!("datapath-{seed}.txt"));
    eprintln!("{minutes} minutes from seed {seed} on");
    let env = [
        ("LICTOR_SEED", seed.to_string()),
        ("LICTOR_FUZZ_SECONDS", (minutes * 60).to_string()),
        ("LICTOR_FUZZ_FILE", file.display().to_string()),
    ];
    let arguments = [
        "test",
        "--locked",
        "-p",
        "lictor-datapath",
        "--test",
        "differential",
        TEST,
        "--",
        "--exact",
        "--nocapture",
    ];
    let result = cargo(&arguments, &env);
    if file.exists() {
        bail!("kernel and model differ; see {}", file.display());
    }
    result
}
