//! Compiles `bpf/injector.bpf.c` with clang, as `crates/datapath` does its program: the packets are
//! made in the kernel, by programs that need nothing but its public headers.

use std::{env, path::Path, path::PathBuf, process::Command};

fn main() {
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("bpf/injector.bpf.c");
    println!("cargo:rerun-if-changed={}", source.display());
    let object = PathBuf::from(variable("OUT_DIR")).join("injector.bpf.o");
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"]);
    clang.args(["-Wall", "-Wextra", "-Werror"]);
    clang.arg("-I").arg(variable("DEP_BPF_INCLUDE"));
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let multiarch = format!("/usr/include/{architecture}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        clang.arg("-I").arg(multiarch);
    }
    clang.arg("-c").arg(&source).arg("-o").arg(&object);
    let status = clang.status().unwrap_or_else(|error| {
        panic!("clang cannot be started ({error}); run `cargo xtask setup`, which installs it")
    });
    assert!(
        status.success(),
        "clang refused {}; its messages are above",
        source.display()
    );
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
