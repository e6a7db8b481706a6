//! The guest's image: Debian's cloud kernel, unpacked and not installed, and a busybox initramfs.

use crate::command::run;
use crate::initramfs::Archive;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const INIT: &str = include_str!("../guest/init");
const COUNTER: &str = include_str!("../guest/counter");
const STREAM: &str = include_str!("../guest/stream");
const BUSYBOX: &str = "/usr/bin/busybox";

/// The drivers that the guest needs; what they need themselves is read from them, as it differs
/// between kernels.
const DRIVERS: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Ends a walk through needs that go in a circle.
const MODULES_MAX: usize = 64;

/// A kernel and an initramfs that boot in about two seconds under TCG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The kernel as a PVH ELF file; QEMU starts it faster than the compressed one.
    pub kernel: PathBuf,
    /// The busybox initramfs.
    pub initramfs: PathBuf,
}

/// Where the lab keeps what it downloads and builds: `LICTOR_LAB_CACHE`, or `target/lab-cache`.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("LICTOR_LAB_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab-cache"),
        PathBuf::from,
    )
}

/// Changes whenever anything that goes into the image does.
fn recipe_digest() -> String {
    digest_of([INIT, COUNTER, STREAM, BUSYBOX, &DRIVERS.join(" ")])
}

/// Names what is made of these parts: another name for other parts, or another order.
pub(crate) fn digest_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Image {
    /// The image of today's recipe, if it was built.
    #[must_use]
    pub fn cached(cache: &Path) -> Option<Self> {
        let folder = cache.join(format!("guest-{}", recipe_digest()));
        let image = Self {
            kernel: folder.join("vmlinux"),
            initramfs: folder.join("initramfs"),
        };
        (image.kernel.exists() && image.initramfs.exists()).then_some(image)
    }

    /// The image in [`cache`].
    ///
    /// # Errors
    /// It was not built yet.
    pub fn load() -> Result<Self> {
        let cache = cache();
        Self::cached(&cache).with_context(|| {
            format!(
                "no guest image in {}; `cargo xtask setup` builds it",
                cache.display()
            )
        })
    }

    /// The cached image, or a new one: downloads the kernel package when it is not there yet.
    ///
    /// # Errors
    /// apt cannot find or fetch the kernel, or a tool is missing; the error names the next step.
    pub fn build(cache: &Path) -> Result<Self> {
        if let Some(image) = Self::cached(cache) {
            return Ok(image);
        }
        std::fs::create_dir_all(cache)
            .with_context(|| format!("cannot make {}", cache.display()))?;
        // Tests run at once, and each wants it first. The lock goes with the file.
        let turn = std::fs::File::create(cache.join("lock")).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        let _turn = turn.with_context(|| format!("cannot lock {}", cache.display()))?;
        if let Some(image) = Self::cached(cache) {
            return Ok(image);
        }
        let package = kernel_package(cache)?;
        let version = kernel_version(&package)?;
        let name = format!("guest-{}", recipe_digest());
        let partial = cache.join(format!("{name}.partial-{}", std::process::id()));
        std::fs::create_dir_all(&partial)?;
        extract_vmlinux(&package.join(format!("boot/vmlinuz-{version}")), &partial)?;
        std::fs::write(partial.join("initramfs"), initramfs(cache)?)?;
        // The rename makes the image appear whole or not at all; a rival's equal one is as good.
        if std::fs::rename(&partial, cache.join(&name)).is_err() {
            std::fs::remove_dir_all(&partial)?;
        }
        Self::cached(cache).context("the guest image vanished while it was built")
    }
}

/// The folder of the unpacked kernel package, downloaded at first use.
pub(crate) fn kernel_package(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("kernel");
    if folder.join("boot").exists() {
        return Ok(folder);
    }
    let depends = run("apt-cache", &["depends", "linux-image-cloud-amd64"])?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"))
        .context("apt knows no linux-image-*-cloud-amd64; run `apt-get update` and try again")?;
    let partial = cache.join(format!("kernel.partial-{}", std::process::id()));
    std::fs::create_dir_all(&partial)?;
    download(package, &partial)?;
    if std::fs::rename(&partial, &folder).is_err() {
        std::fs::remove_dir_all(&partial)?;
    }
    Ok(folder)
}

fn download(package: &str, folder: &Path) -> Result<()> {
    // The unprivileged download user of apt may not write below the work tree.
    let output = std::process::Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(folder)
        .output()
        .context("cannot run apt-get; the guest image needs Debian's package manager")?;
    if !output.status.success() {
        bail!(
            "apt cannot download {package}: {}; check the network and run `apt-get update`",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    for entry in std::fs::read_dir(folder)?.flatten() {
        let archive = entry.path();
        if archive
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            run("dpkg", &[Path::new("-x"), &archive, folder])?;
            std::fs::remove_file(archive)?;
            return Ok(());
        }
    }
    bail!("apt downloaded no package file for {package}")
}

pub(crate) fn kernel_version(package: &Path) -> Result<String> {
    for entry in std::fs::read_dir(package.join("boot"))?.flatten() {
        if let Some(version) = entry.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
            return Ok(version.to_owned());
        }
    }
    bail!(
        "{} holds no boot/vmlinuz-*; remove it and run setup again",
        package.display()
    )
}

/// Cuts the compressed kernel out of a bzImage (Documentation/arch/x86/boot.rst).
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |offset: usize| {
        let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the unpacked size, not part of the LZ4 stream.
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}

fn extract_vmlinux(bzimage: &Path, folder: &Path) -> Result<()> {
    let image = std::fs::read(bzimage).with_context(|| format!("no {}", bzimage.display()))?;
    let payload = payload(&image)
        .with_context(|| format!("{} is not a Linux boot image", bzimage.display()))?;
    let packed = folder.join("vmlinux.lz4");
    let unpacked = folder.join("vmlinux");
    std::fs::write(&packed, payload)?;
    run("lz4", &[Path::new("-dqf"), &packed, &unpacked])
        .context("the kernel is not packed with LZ4 as Debian's cloud kernels are")?;
    std::fs::remove_file(packed)?;
    Ok(())
}

fn initramfs(cache: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    base(&mut archive, INIT)?;
    archive.file("counter", COUNTER.as_bytes());
    archive.file("stream", STREAM.as_bytes());
    drivers(&mut archive, cache, &DRIVERS.map(str::to_owned))?;
    Ok(archive.finish())
}

/// What every guest has: busybox, a console, and its script as the first process.
pub(crate) fn base(archive: &mut Archive, init: &str) -> Result<()> {
    for folder in ["bin", "dev"] {
        archive.directory(folder);
    }
    archive.device("dev/console", (5, 1));
    let busybox = std::fs::read(BUSYBOX)
        .with_context(|| format!("no {BUSYBOX}; `cargo xtask setup` installs busybox-static"))?;
    archive.file("bin/busybox", &busybox);
    archive.file("init", init.as_bytes());
    Ok(())
}

/// Adds drivers with all that they need, and `modules/order`, which the guest's script loads.
pub(crate) fn drivers(archive: &mut Archive, cache: &Path, names: &[String]) -> Result<()> {
    let package = kernel_package(cache)?;
    let modules = package.join(format!("lib/modules/{}", kernel_version(&package)?));
    archive.directory("modules");
    let mut order = String::new();
    for (name, data) in load_order(&modules, names)? {
        archive.file(&format!("modules/{name}.ko"), &data);
        order.push_str(&format!("{name}.ko\n"));
    }
    archive.file("modules/order", order.as_bytes());
    Ok(())
}

/// The drivers with all that they need, each after its needs.
fn load_order(modules: &Path, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
    let list = modules.join("modules.order");
    let list = std::fs::read_to_string(&list).with_context(|| format!("no {}", list.display()))?;
    let mut loaded: Vec<(String, Vec<u8>)> = Vec::new();
    // A depth-first walk: a module is looked at twice, before and after its needs.
    let mut stack: Vec<String> = names.iter().rev().cloned().collect();
    while let Some(name) = stack.pop() {
        if loaded.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let data = module(modules, &list, &name)?;
        let missing: Vec<_> = needs(&data)
            .into_iter()
            .filter(|need| loaded.iter().all(|(other, _)| other != need))
            .collect();
        if missing.is_empty() {
            loaded.push((name, data));
        } else {
            stack.push(name);
            stack.extend(missing);
        }
        if stack.len() > MODULES_MAX {
            bail!("the drivers' needs do not end; expected fewer than {MODULES_MAX} modules");
        }
    }
    Ok(loaded)
}

fn module(modules: &Path, list: &str, name: &str) -> Result<Vec<u8>> {
    let path = list
        .lines()
        .find(|line| {
            let file = line.rsplit('/').next().unwrap_or(line);
            file.strip_suffix(".ko")
                .is_some_and(|stem| stem.replace('-', "_") == name)
        })
        .with_context(|| format!("the kernel package has no module {name}"))?;
    let path = modules.join(path);
    std::fs::read(&path).with_context(|| format!("no {}", path.display()))
}

/// A module names its needs in its .modinfo section: `depends=virtio,virtio_ring`, ended by a zero.
fn needs(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[start + key.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_its_needs() {
        let check = |info: &[u8], expected: &[&str]| assert_eq!(needs(info), expected);
        check(
            b"license=GPL\0depends=virtio_ring,virtio\0name=x\0",
            &["virtio_ring", "virtio"],
        );
        check(b"license=GPL\0depends=\0name=x\0", &[]);
        check(b"softdepends=y\0", &[]);
    }

    #[test]
    fn a_cut_boot_image_has_no_payload() {
        assert!(payload(&[0; 0x1f0]).is_none());
        assert!(
            payload(&[0xff; 0x300]).is_none(),
            "the header points past the end"
        );
    }
}
