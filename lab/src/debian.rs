//! A whole Debian as a guest's disk: systemd, libvirt, QEMU and AppArmor as their packages leave
//! them, and the kernel that the lab's other guests have.

use crate::command::run;
use crate::image;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// The release that the project is tested on: what is built on it runs in it.
const SUITE: &str = "bookworm";

/// What is installed beside the packages without which there is no Debian.
const PACKAGES: [&str; 11] = [
    "apparmor",
    "dbus",
    "iproute2",
    "kmod",
    "libelf1",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "qemu-system-x86",
    "systemd-sysv",
    "udev",
];

/// What no program reads.
const LEFT_OUT: [&str; 3] = ["doc", "locale", "man"];

/// The lab's own files in it: how the first process begins, and a shell for the lab.
const OWN: [(&str, &str, u32); 3] = [
    (INIT, include_str!("../guest/debian/init"), 0o755),
    (
        "/usr/lib/lictor-lab/shell",
        include_str!("../guest/debian/shell"),
        0o644,
    ),
    (
        "/usr/lib/systemd/system/lictor-lab-shell.service",
        include_str!("../guest/debian/lictor-lab-shell.service"),
        0o644,
    ),
];

/// The program that the kernel starts.
pub(crate) const INIT: &str = "/usr/lib/lictor-lab/init";

/// A name for the machine. Without one systemd takes the boot for the first, and enables all units.
const MACHINE_ID: &str = "6c6963746f72400080000000000000aa\n";

/// Bytes of the disk: three times what is in it. The file has holes.
const DISK_BYTES: u64 = 1_536 << 20;

/// Changes whenever anything that goes into the disk does.
fn recipe_digest() -> String {
    let files = OWN.map(|(path, text, _)| [path, text].concat());
    let parts = [SUITE, MACHINE_ID].into_iter().chain(PACKAGES);
    image::digest_of(parts.chain(files.iter().map(String::as_str)))
}

/// The cached disk, or a new one, from the packages of Debian's servers.
///
/// # Errors
/// A tool is missing or fails, such as for want of a network; the error names the next step.
pub fn disk(cache: &Path) -> Result<PathBuf> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let cache = cache.canonicalize()?;
    // Tests run at once, and each wants it first. The lock goes with the file.
    let turn = fs::File::create(cache.join("debian.lock"))?;
    turn.lock()?;
    let kernel = image::kernel_package(&cache)?;
    let version = image::kernel_version(&kernel)?;
    let name = format!("debian-{version}-{}", recipe_digest());
    let disk = cache.join(format!("{name}.ext4"));
    if disk.exists() {
        return Ok(disk);
    }
    let partial = cache.join(format!("{name}.partial-{}", std::process::id()));
    let made = make(&partial, (&kernel, &version)).and_then(|file| Ok(fs::rename(file, &disk)?));
    // Whatever came of it: nobody would take it up again.
    fs::remove_dir_all(&partial)?;
    made.map(|()| disk)
}

fn make(partial: &Path, (kernel, version): (&Path, &str)) -> Result<PathBuf> {
    let root = partial.join("root");
    fs::create_dir_all(&root)?;
    bootstrap(&root)?;
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules)?;
    let own = kernel.join("lib/modules").join(version);
    run("cp", &[Path::new("-a"), &own, &modules])?;
    run(
        "chroot",
        &[root.as_os_str(), "depmod".as_ref(), version.as_ref()],
    )?;
    for (path, text, mode) in OWN {
        write(&root, path, (text, mode))?;
    }
    write(&root, "/etc/machine-id", (MACHINE_ID, 0o444))?;
    let wants = root.join("etc/systemd/system/sysinit.target.wants");
    fs::create_dir_all(&wants)?;
    let (shell, _, _) = OWN[2];
    symlink(shell, wants.join("lictor-lab-shell.service"))?;
    let file = partial.join("disk");
    file_system(&root, &file, DISK_BYTES)?;
    Ok(file)
}

/// Installs the packages, with all that their scripts do.
fn bootstrap(root: &Path) -> Result<()> {
    let mut words = vec![
        "--quiet".to_owned(),
        "--mode=root".into(),
        "--variant=essential".into(),
        format!("--include={}", PACKAGES.join(",")),
    ];
    for part in LEFT_OUT {
        words.push(format!("--dpkgopt=path-exclude=/usr/share/{part}/*"));
    }
    words.push(SUITE.into());
    words.push(root.display().to_string());
    run("mmdebstrap", &words)
        .map(drop)
        .context("Debian cannot be unpacked for the lab; check the network and try again")
}

fn write(root: &Path, path: &str, (text, mode): (&str, u32)) -> Result<()> {
    let path = root.join(path.trim_start_matches('/'));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Makes a file with an ext4 file system that holds what is in a folder.
///
/// # Errors
/// It does not fit, or `mke2fs` is missing.
pub(crate) fn file_system(folder: &Path, file: &Path, bytes: u64) -> Result<()> {
    if file.exists() {
        bail!(
            "{} is there already; expected a name for a new file",
            file.display()
        );
    }
    fs::File::create(file)?.set_len(bytes)?;
    let path = std::env::var("PATH").unwrap_or_default();
    // Where Debian keeps the tools of root, who need not have it in the path.
    let words = [
        format!("PATH={path}:/usr/sbin:/sbin"),
        "mke2fs".into(),
        "-q".into(),
        "-t".into(),
        "ext4".into(),
        "-d".into(),
        folder.display().to_string(),
        file.display().to_string(),
    ];
    run("env", &words).map(drop)
}
