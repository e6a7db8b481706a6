//! `test-kernel`: the data plane's tests on the oldest kernel that will do, in a guest.

use crate::setup;
use crate::steps::{Steps, cargo};
use anyhow::Result;

pub(crate) fn steps(steps: &mut Steps) -> Result<()> {
    steps.run("setup", setup::run)?;
    let cache = lictor_lab::image::cache();
    std::fs::create_dir_all(&cache)?;
    let cache = cache.canonicalize()?.display().to_string();
    // All suites, the long ones too.
    let env = [("LICTOR_LAB_CACHE", cache), ("LICTOR_FULL", "1".to_owned())];
    let build = ["test", "--locked", "-p", "lictor-datapath", "--no-run"];
    steps.run("build", || cargo(&build, &env))?;
    let trial = [
        "test",
        "--locked",
        "-p",
        "lictor-lab",
        "--test",
        "kernel_6_1",
        "--",
        "--nocapture",
    ];
    steps.run("linux-6.1", || cargo(&trial, &env))
}
