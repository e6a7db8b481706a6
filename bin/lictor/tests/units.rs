//! What `lictor host install` tells systemd, held against systemd itself.

use anyhow::{Context as _, Result, ensure};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const UNITS: &str = "usr/lib/systemd/system";
/// Where this machine's own units are, which ours hang on.
const OWN: &str = "/usr/lib/systemd/system";
/// Of libvirt 9.0's unit in Debian 12, all that says when it starts and what.
const LIBVIRTD: &str = "\
[Unit]
Wants=systemd-machined.service
After=network.target firewalld.service iptables.service ip6tables.service dbus.service
After=iscsid.service apparmor.service local-fs.target remote-fs.target
After=systemd-logind.service systemd-machined.service xencommons.service
[Service]
Type=notify
ExecStart=/usr/sbin/libvirtd
";
const STARTED: [&str; 2] = ["lictor-agent", "libvirtd"];

/// A file system with this machine's units, libvirt's, and what our command installs.
fn installed(root: &Path) -> Result<()> {
    let units = root.join(UNITS);
    let parent = units.parent().context("it has one")?;
    std::fs::create_dir_all(parent)?;
    let copied = Command::new("cp").args(["-a", OWN]).arg(&units).status()?;
    ensure!(
        copied.success(),
        "{OWN} cannot be copied; `cargo xtask setup` installs systemd's units"
    );
    std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    std::fs::write(units.join("libvirtd.service"), LIBVIRTD)?;
    for program in ["usr/bin/lictor", "usr/sbin/libvirtd"] {
        let path = root.join(program);
        std::fs::create_dir_all(path.parent().context("it has one")?)?;
        std::fs::write(&path, "#!/bin/sh\n")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lictor"))
        .args(["host", "install", "--root"])
        .arg(root)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants)?;
    for unit in STARTED {
        let name = format!("{unit}.service");
        let ours = Path::new("/etc/systemd/system").join(&name);
        let packaged = Path::new("/").join(UNITS).join(&name);
        let inside = root.join(ours.strip_prefix("/")?);
        let target = if inside.exists() { ours } else { packaged };
        std::os::unix::fs::symlink(target, wants.join(name))?;
    }
    Ok(())
}

/// What systemd would have to say of a boot of that file system.
fn boot(root: &Path) -> Result<String> {
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--root"])
        .arg(root)
        .args(["multi-user.target", "lictor-agent.service"])
        .output()
        .context("cannot run systemd-analyze; `cargo xtask setup` installs systemd")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let ours = |line: &&str| STARTED.iter().any(|unit| line.contains(unit));
    Ok(said.lines().filter(ours).collect::<Vec<_>>().join("\n"))
}

#[test]
fn systemd_takes_the_agents_unit_and_starts_libvirt_only_after_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    installed(folder.path())?;
    assert_eq!(boot(folder.path())?, "");
    // Whoever wants it the other way round is in a circle with what was installed.
    let more = folder
        .path()
        .join("etc/systemd/system/lictor-agent.service.d");
    std::fs::create_dir_all(&more)?;
    std::fs::write(more.join("later.conf"), "[Unit]\nAfter=libvirtd.service\n")?;
    let said = boot(folder.path())?;
    assert!(said.contains("Found ordering cycle"), "{said}");
    Ok(())
}
