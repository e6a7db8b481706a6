//! `setup`: what the build, the lab and the tests need beyond Rust.

use anyhow::{Context, Result, bail};
use lictor_lab::Image;
use lictor_lab::libvirt::QEMU_USER;
use std::path::Path;
use std::process::Command;

/// Debian's name of a package, and what it is for.
const PACKAGES: [(&str, &str); 22] = [
    (
        "apparmor",
        "parses what `lictor host install` writes for it",
    ),
    ("busybox-static", "everything inside the lab's guests"),
    ("clang", "compiles the BPF programs"),
    ("conntrack", "moves sessions as the bench's rival does"),
    ("e2fsprogs", "makes the disks of the lab's machines"),
    ("ethtool", "turns offloads off in the bench"),
    ("gcc", "links, and compiles SQLite and libbpf"),
    ("iptables", "the bench's rival on many hypervisors"),
    ("iproute2", "namespaces, links and bridges of the lab"),
    ("libelf-dev", "libbpf reads object files with it"),
    ("libvirt-clients", "migrates guests as people do"),
    ("libvirt-daemon", "starts guests as hypervisors do"),
    ("libvirt-daemon-driver-qemu", "the same"),
    (
        "linux-libc-dev",
        "the kernel's headers for the BPF programs",
    ),
    ("lz4", "unpacks the guest's kernel"),
    ("make", "builds libbpf"),
    ("mmdebstrap", "unpacks the Debian that machines boot"),
    ("nftables", "the bench's rival, and what others flush"),
    ("pkg-config", "libbpf's build finds libelf and zlib with it"),
    ("qemu-system-x86", "runs the lab's real guests"),
    (
        "systemd",
        "says whether the units that we install are sound",
    ),
    ("zlib1g-dev", "libelf needs it"),
];

/// Installs what is missing and builds the guest image. Silent parts have nothing to do.
pub(crate) fn run() -> Result<()> {
    let missing = missing(&installed()?);
    if !missing.is_empty() {
        install(&missing)?;
    }
    if !succeeds(&["getent", "passwd", QEMU_USER])? {
        make_qemu_user()?;
    }
    let cache = lictor_lab::image::cache();
    if Image::cached(&cache).is_some() {
        eprintln!(
            "setup: {} packages and the guest image are in place",
            PACKAGES.len()
        );
        return Ok(());
    }
    eprintln!(
        "setup: building the guest image in {} (Debian's cloud kernel)",
        cache.display()
    );
    build_image(&cache)?;
    eprintln!("setup: done");
    Ok(())
}

/// Without its user libvirt's driver refuses to begin. Debian's package that makes it brings much
/// else that a lab has no use for.
fn make_qemu_user() -> Result<()> {
    eprintln!("setup: making the user {QEMU_USER}, as whom libvirt runs QEMU");
    let shell = "/usr/sbin/nologin";
    let made = succeeds(&[
        "useradd",
        "--system",
        "--user-group",
        "--shell",
        shell,
        QEMU_USER,
    ]);
    if !made.context("Debian's package `passwd` has useradd")? {
        bail!(
            "the user {QEMU_USER} cannot be made; run `cargo xtask setup` as root, or first: sudo \
             useradd --system --user-group --shell {shell} {QEMU_USER}"
        );
    }
    Ok(())
}

fn succeeds(words: &[&str]) -> Result<bool> {
    let mut command = Command::new(words[0]);
    // What it prints is no result of this task.
    let output = command.args(&words[1..]).output();
    let output = output.with_context(|| format!("cannot run {}", words[0]))?;
    Ok(output.status.success())
}

/// The lists of packages may be absent or old on a machine that needed no package from us.
fn build_image(cache: &Path) -> Result<()> {
    let Err(first) = Image::build(cache) else {
        return Ok(());
    };
    eprintln!("setup: {first:#}");
    update()?;
    Image::build(cache)?;
    Ok(())
}

/// The names of all installed packages among ours.
fn installed() -> Result<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"]);
    query.args(PACKAGES.map(|(name, _)| name));
    // It fails when one of the packages is unknown, and still lists the others.
    let output = query.output().with_context(|| {
        let names = PACKAGES.map(|(name, _)| name).join(" ");
        format!("this is no Debian system; install the likes of: {names}")
    })?;
    Ok(parse_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_installed(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
        .collect()
}

fn missing(installed: &[String]) -> Vec<(&'static str, &'static str)> {
    let here = |name: &str| installed.iter().any(|other| other == name);
    PACKAGES
        .into_iter()
        .filter(|(name, _)| !here(name))
        .collect()
}

fn install(missing: &[(&str, &str)]) -> Result<()> {
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    eprintln!("setup: installing with apt");
    for (name, why) in missing {
        eprintln!("  {name:<16} {why}");
    }
    if !is_root()? {
        bail!(
            "only root can install packages; run `cargo xtask setup` as root, or first: \
             sudo apt-get install --no-install-recommends {}",
            names.join(" ")
        );
    }
    update()?;
    let mut args = vec!["-q", "-y", "--no-install-recommends", "install"];
    args.extend(&names);
    apt(&args)
}

fn update() -> Result<()> {
    if !is_root()? {
        bail!("only root can refresh apt's lists; run `sudo apt-get update`, then setup again");
    }
    apt(&["-q", "update"])
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Its progress belongs beside ours, so that a task's own output stays clean.
        .stdout(std::io::stderr())
        .status()
        .context("cannot run apt-get; setup installs packages on Debian and its kin only")?;
    if !status.success() {
        bail!(
            "`apt-get {}` ended with {status}; check the network and /etc/apt/sources.list*, \
             then run `cargo xtask setup` again",
            args.join(" ")
        );
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(user.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_as_missing_unless_it_is_fully_installed() {
        let all = PACKAGES
            .map(|(name, _)| format!("installed {name}"))
            .join("\n");
        assert!(missing(&parse_installed(&all)).is_empty());
        let names = |text: &str| -> Vec<_> {
            missing(&parse_installed(text))
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(
            names(&all.replace("installed clang", "config-files clang")),
            ["clang"]
        );
        assert_eq!(
            names(&all.replace("installed lz4", "not-installed lz4")),
            ["lz4"]
        );
        assert_eq!(names("").len(), PACKAGES.len());
    }
}
