//! Libvirt on the lab's hosts: a real daemon for each, in namespaces of its own, which starts QEMU
//! as Debian does: as the user `libvirt-qemu`, with the owners of files changed to it.

use crate::command::Process;
use crate::guest::{GuestSpec, MEMORY_KIB, QEMU, UP};
use crate::host::{Host, TENANT_BRIDGE};
use crate::image::{self, Image};
use crate::site::{command, vnic_name};
use crate::wait;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// The user that Debian's libvirt runs QEMU as, and the group.
pub const QEMU_USER: &str = "libvirt-qemu";

/// The id of [`QEMU_USER`].
///
/// # Errors
/// `cargo xtask setup` has not made it yet.
pub fn qemu_uid() -> Result<u32> {
    let user = nix::unistd::User::from_name(QEMU_USER)?;
    let user = user.with_context(|| format!("no user {QEMU_USER}; run `cargo xtask setup`"))?;
    Ok(user.uid.as_raw())
}

const LIMIT: Duration = Duration::from_secs(60);

const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";

/// Folders of a host that stand where libvirt looks.
const FOLDERS: [(&str, &str); 4] = [
    ("etc/libvirt", "/etc/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("run", "/run/libvirt"),
];

/// Where a host's guests have their files, as libvirt and QEMU see it.
pub const IMAGES: &str = "/var/lib/libvirt/images";

/// A libvirt daemon on a host. It ends when this drops, and every QEMU that it has started.
#[derive(Debug)]
pub struct Libvirt {
    host: Host,
    folder: PathBuf,
    _process: Process,
}

impl Host {
    /// The file system in which this host's libvirt looks for its configuration and its hooks.
    #[must_use]
    pub fn libvirt_root(&self) -> PathBuf {
        self.node().folder().join("libvirt")
    }

    /// Starts libvirt. Hooks that are to be called lie in [`Host::libvirt_root`] before.
    ///
    /// # Errors
    /// No image, or the daemon does not answer in time; its log is in the error.
    pub fn libvirt(&self) -> Result<Libvirt> {
        let folder = self.libvirt_root();
        for (own, _) in FOLDERS {
            fs::create_dir_all(folder.join(own))?;
        }
        configure(self, &folder)?;
        let images = images(&folder);
        fs::create_dir_all(&images)?;
        // Libvirt gives what a guest boots from to QEMU's user, so it is a copy.
        let image = Image::load()?;
        fs::copy(&image.kernel, images.join(KERNEL))?;
        fs::copy(&image.initramfs, images.join(INITRAMFS))?;
        // What every QEMU of this machine can do is the same for all labs, and takes long to ask.
        let cache = image::cache().join("libvirt");
        fs::create_dir_all(&cache)?;
        let cache = cache.canonicalize()?;
        let init = folder.join("init");
        executable(&init, &init_script(self, &folder, &cache))?;
        let mut daemon = self.node().command("unshare");
        daemon
            .args("--mount --uts --pid --fork --kill-child=KILL --mount-proc".split(' '))
            .arg(&init)
            .stderr(fs::File::create(folder.join("stderr"))?);
        let libvirt = Libvirt {
            host: self.clone(),
            folder,
            _process: Process::start(&format!("libvirt of {}", self.node().name()), daemon)?,
        };
        wait::until("libvirt", LIMIT, || {
            let answer = libvirt.virsh(&["uri"])?;
            Ok(answer.status.success().then_some(()))
        })
        .with_context(|| libvirt.log())?;
        Ok(libvirt)
    }
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn images(folder: &Path) -> PathBuf {
    folder.join("lib/images")
}

/// Only what tells this daemon from another one on the same machine, and what a lab does not have:
/// cgroups, a security module, devices.
fn configure(host: &Host, folder: &Path) -> Result<()> {
    let address = host.node().management();
    let port = address.octets()[3];
    fs::write(
        folder.join("etc/libvirt/libvirtd.conf"),
        format!(
            "host_uuid = \"6c696374-6f72-4000-8000-0000000000{port:02x}\"\nlisten_tls = 0\n\
             listen_tcp = 1\nlisten_addr = \"{address}\"\nauth_tcp = \"none\"\n\
             auth_unix_rw = \"none\"\nlog_outputs = \"2:file:/var/log/libvirt/libvirtd.log\"\n"
        ),
    )?;
    fs::write(
        folder.join("etc/libvirt/qemu.conf"),
        format!(
            "user = \"{QEMU_USER}\"\ngroup = \"{QEMU_USER}\"\nsecurity_driver = \"none\"\n\
             cgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\n\
             migration_address = \"{address}\"\nmigration_host = \"{address}\"\n"
        ),
    )?;
    fs::write(
        folder.join("hosts"),
        format!("127.0.0.1 localhost\n{address} {}\n", host.node().name()),
    )?;
    fs::write(folder.join("resolv.conf"), "")?;
    Ok(())
}

/// Libvirt gives a guest whole MiB of memory; the lab's guests need a little more for a reason that
/// [`MEMORY_KIB`] tells. So libvirt's own memory is left unused.
fn memory() -> (String, String) {
    let words = [
        "-object".into(),
        format!("memory-backend-ram,id=odd,size={MEMORY_KIB}K"),
        "-machine".into(),
        "memory-backend=odd".into(),
        "-m".into(),
        format!("{MEMORY_KIB}K"),
    ];
    let words = words
        .map(|word| format!("<q:arg value='{word}'/>"))
        .concat();
    let unused = format!("<memory unit='MiB'>{}</memory>", MEMORY_KIB >> 10);
    let schema = "http://libvirt.org/schemas/domain/qemu/1.0";
    let commandline = format!("<q:commandline xmlns:q='{schema}'>{words}</q:commandline>");
    (unused, commandline)
}

/// Devices of libvirt's host. KVM is not among them: the lab's guests do without it everywhere, and
/// where QEMU's user may not open it libvirt would ask QEMU anew what it can, at every command.
const DEVICES: &str = "null zero full random urandom tty net/tun";

/// The first process of its namespace must reap every QEMU that has made itself a daemon, which
/// bash does. A name that cannot be looked up would stall libvirt.
fn init_script(host: &Host, folder: &Path, cache: &Path) -> String {
    let own = FOLDERS.map(|(own, there)| (folder.join(own), there));
    let cache = (cache.to_path_buf(), "/var/cache/libvirt");
    let mut binds = String::new();
    for (own, there) in own.into_iter().chain([cache]) {
        let own = own.display();
        let _ = writeln!(binds, "mkdir -p {there}\nmount --bind '{own}' {there}");
    }
    let folder = folder.display();
    format!(
        "#!/bin/bash\nset -e\nhostname {name}\nmount --make-rprivate /\n{binds}\
         mkdir {folder}/dev\nmount -t tmpfs dev {folder}/dev\n\
         mkdir {folder}/dev/net {folder}/dev/pts {folder}/dev/shm\n\
         for device in {DEVICES}; do\n  touch {folder}/dev/$device\n  \
         mount --bind /dev/$device {folder}/dev/$device\ndone\n\
         mount --rbind /dev/pts {folder}/dev/pts\nmount --rbind {folder}/dev /dev\n\
         mount --bind {folder}/hosts /etc/hosts\nmount --bind {folder}/resolv.conf \
         /etc/resolv.conf\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\nset +e\n\
         libvirtd --listen --pid-file /run/libvirt/libvirtd.pid &\nwait $!\n",
        name = host.node().name()
    )
}

impl Libvirt {
    /// The host that it runs on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Where other daemons reach it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+tcp://{}/system", self.host.node().management())
    }

    /// What the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let files = ["stderr", "log/libvirtd.log"].map(|file| self.folder.join(file));
        files
            .map(|file| fs::read_to_string(file).unwrap_or_default())
            .concat()
    }

    /// What QEMU and libvirt have logged of a guest.
    #[must_use]
    pub fn guest_log(&self, guest: &str) -> String {
        let file = self.folder.join(format!("log/qemu/{guest}.log"));
        fs::read_to_string(file).unwrap_or_default()
    }

    /// Runs virsh on this host to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn virsh(&self, words: &[&str]) -> Result<Output> {
        let socket = self.folder.join("run/libvirt-sock");
        let mut virsh = self.host.node().command("virsh");
        virsh
            .arg("--connect")
            .arg(format!("qemu:///system?socket={}", socket.display()))
            .args(words);
        command::run(virsh)
    }

    /// The same, and it must succeed.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn done(&self, words: &[&str]) -> Result<String> {
        let output = self.virsh(words)?;
        if !output.status.success() {
            bail!(
                "virsh {words:?}: {}; {}",
                command::words(&output),
                self.log()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Migrates a guest that runs here; `more` are further words for virsh.
    ///
    /// # Errors
    /// Virsh cannot be started. What it refuses is an answer.
    pub fn migrate(&self, guest: &str, to: &Self, more: &[&str]) -> Result<Output> {
        let uri = to.uri();
        self.virsh(&[&["migrate", "--live", guest, uri.as_str()], more].concat())
    }

    /// The XML of a guest with one interface, whose tap libvirt makes.
    ///
    /// # Errors
    /// The guest's name is too long.
    pub fn domain(&self, spec: &GuestSpec, devices: &str) -> Result<String> {
        let vnic = vnic_name(&spec.name, 0)?;
        let (memory, commandline) = memory();
        let mut addresses = String::new();
        for (address, _) in &spec.addresses {
            let _ = write!(addresses, "<l:address vnic='{vnic}'>{address}</l:address>");
        }
        Ok(format!(
            "<domain type='qemu'><name>{name}</name>\
             <uuid>6c696374-6f72-4001-8000-{uuid}</uuid>\
             <metadata><l:addresses xmlns:l='urn:lictor:guest'>{addresses}</l:addresses></metadata>\
             {memory}<vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{IMAGES}/{KERNEL}</kernel>\
             <initrd>{IMAGES}/{INITRAMFS}</initrd><cmdline>{words}</cmdline></os>\
             <features><acpi/></features>\
             <on_reboot>destroy</on_reboot><devices><emulator>/usr/bin/{QEMU}</emulator>\
             <controller type='usb' model='none'/><interface type='bridge'>\
             <mac address='{mac}'/><source bridge='{TENANT_BRIDGE}'/><target dev='{vnic}'/>\
             <model type='virtio'/><rom enabled='no'/></interface>\
             <serial type='file'><source path='{IMAGES}/{name}.serial'/></serial>\
             <memballoon model='none'/>{devices}</devices>{commandline}</domain>",
            name = spec.name,
            uuid = spec.mac.to_string().replace(':', ""),
            words = spec.kernel_words(),
            mac = spec.mac,
        ))
    }

    /// The folder that is [`IMAGES`] on this host.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        images(&self.folder)
    }

    /// Waits until a guest has its addresses and services.
    ///
    /// # Errors
    /// It has not in time; its console is in the error.
    pub fn wait_up(&self, guest: &str) -> Result<()> {
        let console = || {
            let bytes = fs::read(self.images().join(format!("{guest}.serial"))).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        wait::until("a guest", LIMIT, || {
            Ok(console().contains(UP).then_some(()))
        })
        .with_context(|| format!("{}; {}", console(), self.guest_log(guest)))
    }

    /// Whether a guest runs here.
    ///
    /// # Errors
    /// Virsh cannot be started.
    pub fn runs(&self, guest: &str) -> Result<bool> {
        let state = self.virsh(&["domstate", guest])?;
        Ok(String::from_utf8_lossy(&state.stdout).trim() == "running")
    }
}
