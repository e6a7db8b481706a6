//! The programs of others that the bench runs. Those that are missing are named before anything is
//! built.

use anyhow::{Result, bail};
use std::ffi::OsStr;

/// Each program and Debian's package that has it.
const TOOLS: [(&str, &str); 7] = [
    ("bridge", "iproute2"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iptables-legacy-restore", "iptables"),
    ("nft", "nftables"),
    ("tc", "iproute2"),
];

/// Looks for every tool along a search path such as `PATH`.
///
/// # Errors
/// One is missing; all that are missing are named with their packages.
pub fn check(path: &OsStr) -> Result<()> {
    let here = |name: &str| std::env::split_paths(path).any(|folder| folder.join(name).exists());
    let missing: Vec<_> = TOOLS
        .iter()
        .filter(|(name, _)| !here(name))
        .map(|(name, package)| format!("{name} (package {package})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the bench compares with tools that are not here: {}; `cargo xtask setup` installs them",
        missing.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let error = check(OsStr::new("/nowhere")).expect_err("nothing is there");
        let text = error.to_string();
        for (name, package) in TOOLS {
            assert!(
                text.contains(&format!("{name} (package {package})")),
                "{text}"
            );
        }
    }
}
