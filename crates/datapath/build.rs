//! Compiles `bpf/firewall.bpf.c` with clang. The programs need no kernel-internal structure, so the
//! kernel's public headers and the helper headers that libbpf-sys installs are enough.

use std::{env, path::Path, path::PathBuf, process::Command};

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let source = manifest.join("../../bpf");
    println!("cargo:rerun-if-changed={}", source.display());
    let object = PathBuf::from(variable("OUT_DIR")).join("firewall.bpf.o");
    // libbpf-sys names its headers to those that depend on it (`links = "bpf"`).
    let helpers = variable("DEP_BPF_INCLUDE");
    let mut clang = Command::new("clang");
    clang.args([
        "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
    ]);
    clang.arg("-I").arg(helpers);
    // Debian keeps <asm/types.h> in the folder of the architecture.
    let multiarch = format!(
        "/usr/include/{}-linux-gnu",
        variable("CARGO_CFG_TARGET_ARCH")
    );
    if Path::new(&multiarch).is_dir() {
        clang.arg("-I").arg(multiarch);
    }
    clang
        .arg("-c")
        .arg(source.join("firewall.bpf.c"))
        .arg("-o")
        .arg(&object);
    let status = clang.status().unwrap_or_else(|error| {
        panic!("clang cannot be started ({error}); run `cargo xtask setup`, which installs it")
    });
    assert!(
        status.success(),
        "clang refused bpf/firewall.bpf.c; its messages are above"
    );
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
