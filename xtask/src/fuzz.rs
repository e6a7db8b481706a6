//! `fuzz`: a comparison that goes on for as long as is wanted, each time with other seeds.

use crate::steps::cargo;
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// What can be fuzzed.
pub(crate) const NAMES: [&str; 3] = ["datapath", "policy", "import"];
/// The longest run, in minutes: a week.
pub(crate) const MINUTES_MAX: u64 = 10_080;
/// The test that goes on: package, program and name.
fn test(name: &str) -> [&'static str; 3] {
    match name {
        "policy" => [
            "lictor-policy",
            "fuzz",
            "spoiled_policies_are_refused_or_mean_what_they_say",
        ],
        "import" => [
            "lictor-import",
            "fuzz",
            "spoiled_files_are_refused_or_make_a_sound_policy",
        ],
        _ => [
            "lictor-datapath",
            "differential",
            "kernel_and_model_give_the_same_verdict_reason_rule_events_sessions_and_counters",
        ],
    }
}

/// Compares the loaded program with the model, or gives spoiled texts to the policy's reader or the
/// importers. What makes a difference or a panic is written to a file.
///
/// # Errors
/// If there is such a thing, or the test cannot be built or run.
pub(crate) fn run(name: &str, minutes: u64, seed: Option<u64>) -> Result<()> {
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() << 20,
    };
    let folder = crate::root()?.join("target/fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join(format!("{name}-{seed}.txt"));
    eprintln!("{minutes} minutes from seed {seed} on");
    let env = [
        ("LICTOR_SEED", seed.to_string()),
        ("LICTOR_FUZZ_SECONDS", (minutes * 60).to_string()),
        ("LICTOR_FUZZ_FILE", file.display().to_string()),
    ];
    let [package, program, test] = test(name);
    let arguments = [
        "test",
        "--locked",
        "-p",
        package,
        "--test",
        program,
        test,
        "--",
        "--exact",
        "--nocapture",
    ];
    let result = cargo(&arguments, &env);
    if file.exists() {
        bail!("{name}: see {}", file.display());
    }
    result
}
