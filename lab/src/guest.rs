//! Guests: real ones in QEMU on a tap, and namespaces on a veth.

use crate::command::{Process, line};
use crate::host::{Host, Lab};
use crate::image::Image;
use crate::netns::Netns;
use crate::qcow2;
use crate::qmp::Qmp;
use crate::stream::StreamLog;
use anyhow::{Context, Result, bail};
use lictor_types::Mac;
use serde_json::json;
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A device name has 15 characters, of which the lab's prefix takes 4.
pub const NAME_MAX: usize = 11;
/// One digit tells a guest's devices apart.
pub const NICS_MAX: usize = 10;

/// A guest's memory: 96 MiB and a little more. The little matters: QEMU before 9.0 takes a fast
/// path through its dirty bitmap for memory of a multiple of 256 KiB, and on that path TCG forgets
/// pages that a guest writes during a migration; the guest then crashes at the target.
pub(crate) const MEMORY_KIB: u32 = 96 * 1_024 + 136;
pub(crate) const QEMU: &str = "qemu-system-x86_64";
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);
pub(crate) const UP: &str = "LICTOR-GUEST-UP";

/// What a QEMU guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Sends `0`, `1`, ... to whoever connects to this TCP port, one line every 10 ms.
    Counter(u16),
    /// Sends back what arrives on this TCP port.
    Echo(u16),
    /// Opens a TCP connection to a counter and hands each line to the lab, for ever.
    Stream(SocketAddr),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counter(port) => write!(f, "counter@{port}"),
            Self::Echo(port) => write!(f, "echo@{port}"),
            Self::Stream(to) => write!(f, "stream@{}@{}", to.ip(), to.port()),
        }
    }
}

/// A guest's further NIC, on a vnic of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A guest with one vnic, or, in QEMU, several.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// At most [`NAME_MAX`] characters.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses with prefix lengths, IPv4 and IPv6.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its default routes, one per IP version.
    pub gateways: Vec<IpAddr>,
    /// What it runs; a namespace guest runs nothing by itself.
    pub services: Vec<Service>,
    /// Its NICs beyond the first; a namespace guest has none.
    pub more: Vec<Nic>,
}

impl GuestSpec {
    pub(crate) fn kernel_words(&self) -> String {
        let join = |words: Vec<String>| words.join(",");
        let of_nic = |addresses: &Vec<(IpAddr, u8)>| {
            let words = addresses
                .iter()
                .map(|(ip, prefix)| format!("{ip}/{prefix}"));
            join(words.collect())
        };
        let further = self.more.iter().map(|nic| of_nic(&nic.addresses));
        let addresses: Vec<_> = std::iter::once(of_nic(&self.addresses))
            .chain(further)
            .collect();
        format!(
            "console=ttyS0 quiet nokaslr panic=-1 no_timer_check lictor.addr={} lictor.gw={} \
             lictor.run={}",
            addresses.join("+"),
            join(self.gateways.iter().map(ToString::to_string).collect()),
            join(self.services.iter().map(ToString::to_string).collect()),
        )
    }

    /// The Ethernet address of each NIC, in order.
    fn macs(&self) -> Vec<Mac> {
        let further = self.more.iter().map(|nic| nic.mac);
        std::iter::once(self.mac).chain(further).collect()
    }

    /// The name of the tap of a NIC.
    fn tap(&self, number: usize) -> String {
        let name = &self.name;
        match number {
            0 => format!("tap-{name}"),
            _ => format!("tap{number}{name}"),
        }
    }

    fn check(&self) -> Result<()> {
        if self.more.len() + 1 > NICS_MAX {
            bail!("guest {} has more than {NICS_MAX} NICs", self.name);
        }
        if self.name.is_empty() || self.name.len() > NAME_MAX {
            bail!(
                "guest name {:?} must have 1 to {NAME_MAX} characters",
                self.name
            );
        }
        Ok(())
    }
}

/// A guest's interface on its host, as the caller sees it before it can carry traffic.
#[derive(Debug, Clone)]
pub struct Vnic {
    /// The guest's name.
    pub guest: String,
    /// Which of the guest's NICs it is, from 0.
    pub number: usize,
    /// The namespace that the device stands in: its host's.
    pub netns: Netns,
    /// The tap's or veth's name.
    pub device: String,
    /// The guest's Ethernet address.
    pub mac: Mac,
    /// Where QEMU will offer the agent its QMP socket; for a namespace guest, none.
    pub qmp: Option<PathBuf>,
}

/// Removes the device when the guest is gone.
#[derive(Debug)]
struct Device {
    netns: Netns,
    name: String,
}

impl Drop for Device {
    fn drop(&mut self) {
        // The namespace, and the device with it, may be gone already.
        let _ = self.netns.ip(&format!("link del {}", self.name));
    }
}

/// A guest in QEMU: q35, TCG, 96 MiB.
#[derive(Debug)]
pub struct QemuGuest {
    spec: GuestSpec,
    host: Host,
    vnics: Vec<Vnic>,
    folder: PathBuf,
    stream: StreamLog,
    qmp: Qmp,
    // The process ends before its taps go: fields drop in this order.
    process: Process,
    _devices: Vec<Device>,
}

/// How a live migration is made.
#[derive(Debug, Clone)]
pub struct MigrateOptions {
    /// In bytes per second. QEMU's default would make the pause several times longer.
    pub bandwidth: u64,
    /// How much pause QEMU may plan for.
    pub downtime: Duration,
    /// Without it the source cannot learn that the target failed to load.
    pub return_path: bool,
    /// Stop in state `pre-switchover` until `migrate-continue`.
    pub pause_before_switchover: bool,
    /// When to give up waiting.
    pub limit: Duration,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self {
            bandwidth: 1 << 30,
            downtime: Duration::from_millis(10),
            return_path: true,
            pause_before_switchover: false,
            limit: Duration::from_secs(60),
        }
    }
}

/// How a live migration went.
#[derive(Debug, Clone)]
pub struct MigrateReport {
    /// `completed`, `failed` or `cancelled`.
    pub status: String,
    /// From the source's STOP to the first RESUME on either side, by QEMU's clock.
    pub pause: Option<Duration>,
    /// QEMU's reason when it failed.
    pub error: Option<String>,
}

impl Host {
    /// Boots a guest. `before_bridge` runs for each tap when all exist and before any joins the
    /// bridge and goes up: the moment to attach a firewall.
    ///
    /// # Errors
    /// No image, a refused device or callback, or QEMU does not start.
    pub fn boot(
        &self,
        spec: &GuestSpec,
        before_bridge: impl FnMut(&Vnic) -> Result<()>,
    ) -> Result<QemuGuest> {
        self.qemu(spec, &[], before_bridge)
    }

    /// As [`Host::boot`], with more arguments for QEMU.
    ///
    /// # Errors
    /// As for [`Host::boot`].
    pub fn boot_with(
        &self,
        spec: &GuestSpec,
        more: &[&str],
        before_bridge: impl FnMut(&Vnic) -> Result<()>,
    ) -> Result<QemuGuest> {
        self.qemu(spec, more, before_bridge)
    }

    /// Starts a QEMU that waits for a guest to migrate in; see [`QemuGuest::migrate_to`].
    ///
    /// # Errors
    /// As for [`Host::boot`].
    pub fn receive(
        &self,
        spec: &GuestSpec,
        before_bridge: impl FnMut(&Vnic) -> Result<()>,
    ) -> Result<QemuGuest> {
        self.qemu(spec, &["-incoming", "defer"], before_bridge)
    }

    fn qemu(
        &self,
        spec: &GuestSpec,
        more: &[&str],
        mut before_bridge: impl FnMut(&Vnic) -> Result<()>,
    ) -> Result<QemuGuest> {
        spec.check()?;
        in_path(QEMU, &std::env::var_os("PATH").unwrap_or_default())?;
        let image = Image::load()?;
        let folder = self.node().folder().join("guests").join(&spec.name);
        // A guest that was here before has left its sockets and its log.
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let (mut vnics, mut devices) = (Vec::new(), Vec::new());
        for (number, mac) in spec.macs().into_iter().enumerate() {
            let (vnic, device) = self.tap(spec, (number, mac), &folder)?;
            vnics.push(vnic);
            devices.push(device);
        }
        for vnic in &vnics {
            before_bridge(vnic).context("before the tap joined the bridge")?;
        }
        for vnic in &vnics {
            self.join(&vnic.device)?;
        }
        let snapshots = folder.join("snapshots.qcow2");
        qcow2::create(&snapshots)?;
        let mut command = self.node().command(QEMU);
        command.args(qemu_args(spec, &image, &folder)).args(more);
        command.stderr(std::fs::File::create(folder.join("stderr"))?);
        let process = Process::start(&format!("QEMU of {}", spec.name), command)?;
        let qmp = Qmp::connect(&folder.join("lab.qmp"), CONNECT_LIMIT).with_context(|| {
            format!(
                "QEMU said: {}",
                std::fs::read_to_string(folder.join("stderr")).unwrap_or_default()
            )
        })?;
        let stream = self.node().lab().guest_stream(&spec.name);
        stream.collect(&folder.join("data"))?;
        Ok(QemuGuest {
            spec: spec.clone(),
            host: self.clone(),
            vnics,
            folder,
            stream,
            qmp,
            process,
            _devices: devices,
        })
    }

    /// Makes the tap of one NIC.
    fn tap(
        &self,
        spec: &GuestSpec,
        (number, mac): (usize, Mac),
        folder: &Path,
    ) -> Result<(Vnic, Device)> {
        let vnic = Vnic {
            guest: spec.name.clone(),
            number,
            netns: self.netns().clone(),
            device: spec.tap(number),
            mac,
            qmp: Some(folder.join("agent.qmp")),
        };
        self.netns()
            .ip(&format!("tuntap add dev {} mode tap vnet_hdr", vnic.device))?;
        let device = Device {
            netns: self.netns().clone(),
            name: vnic.device.clone(),
        };
        Ok((vnic, device))
    }
}

/// Asked before anything is made: started without it, a guest would only be waited for.
fn in_path(program: &str, path: &OsStr) -> Result<()> {
    let here = std::env::split_paths(path).any(|folder| folder.join(program).is_file());
    if !here {
        bail!("{program} is in no folder of PATH; install it with `cargo xtask setup`");
    }
    Ok(())
}

fn qemu_args(spec: &GuestSpec, image: &Image, folder: &Path) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    // Memory that is touched for the first time while a guest stands still would be waited for.
    let fixed = "-accel tcg -M q35,memory-backend=ram -nodefaults -no-user-config -display none \
                 -no-reboot";
    let mut args: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("-m", format!("{MEMORY_KIB}K"));
    let memory = format!("memory-backend-ram,id=ram,size={MEMORY_KIB}K,prealloc=on");
    option("-object", memory);
    option("-kernel", image.kernel.display().to_string());
    option("-initrd", image.initramfs.display().to_string());
    option("-append", spec.kernel_words());
    option("-serial", format!("file:{}", at("serial")));
    option(
        "-chardev",
        format!("socket,id=data,path={},server=on,wait=off", at("data")),
    );
    option("-serial", "chardev:data".into());
    for (number, mac) in spec.macs().into_iter().enumerate() {
        let tap = spec.tap(number);
        let net = format!("tap,id=n{number},ifname={tap},script=no,downscript=no");
        option("-netdev", net);
        option(
            "-device",
            format!("virtio-net-pci,netdev=n{number},romfile=,mac={mac}"),
        );
    }
    // A guest that leaves has its disk flushed while it stands still. Of this one nothing must
    // outlive the machine, and the wait for a disk that others write to is no part of a move.
    option(
        "-blockdev",
        format!(
            "qcow2,node-name=snapshots,cache.no-flush=on,file.driver=file,file.cache.no-flush=on,\
             file.filename={}",
            at("snapshots.qcow2")
        ),
    );
    for name in ["lab.qmp", "agent.qmp"] {
        option("-qmp", format!("unix:{},server=on,wait=off", at(name)));
    }
    args
}

impl QemuGuest {
    /// What it was started from.
    #[must_use]
    pub fn spec(&self) -> &GuestSpec {
        &self.spec
    }

    /// The host that this QEMU runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its first interface on the host.
    #[must_use]
    pub fn vnic(&self) -> &Vnic {
        &self.vnics[0]
    }

    /// All its interfaces on the host, in order.
    #[must_use]
    pub fn vnics(&self) -> &[Vnic] {
        &self.vnics
    }

    /// The lab's own QMP connection.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// The QEMU process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The numbers that the guest's own counter stream brought it, across its moves.
    #[must_use]
    pub fn stream(&self) -> &StreamLog {
        &self.stream
    }

    /// What the guest printed on its console.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("serial")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the guest has its addresses and services.
    ///
    /// # Errors
    /// It has not come up in time; its console is in the error.
    pub fn wait_up(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        while !self.console().contains(UP) {
            if start.elapsed() > limit {
                bail!(
                    "guest {} is not up after {limit:?}: {}",
                    self.spec.name,
                    self.console()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(start.elapsed())
    }

    /// Sets capabilities and parameters for a migration, on either side.
    ///
    /// # Errors
    /// QEMU refuses one.
    pub fn prepare(&self, options: &MigrateOptions) -> Result<()> {
        let capability = |name: &str, state: bool| json!({ "capability": name, "state": state });
        let capabilities = [
            capability("events", true),
            capability("return-path", options.return_path),
            capability("pause-before-switchover", options.pause_before_switchover),
        ];
        self.qmp.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": capabilities }),
        )?;
        let parameters = json!({
            "max-bandwidth": options.bandwidth,
            "downtime-limit": u64::try_from(options.downtime.as_millis())?,
        });
        self.qmp.execute("migrate-set-parameters", parameters)?;
        Ok(())
    }

    /// Prepares both sides and starts to migrate over the management fabric, without waiting.
    ///
    /// # Errors
    /// QEMU on either side refuses.
    pub fn start_migration(&self, target: &Self, options: &MigrateOptions) -> Result<()> {
        static PORT: AtomicU16 = AtomicU16::new(0);
        // Each host has its own address; the port only tells two moves to one host apart.
        let port = 20_000 + PORT.fetch_add(1, Ordering::Relaxed) % 20_000;
        self.prepare(options)?;
        target.prepare(options)?;
        let uri = format!("tcp:{}:{port}", target.host.node().management());
        target
            .qmp
            .execute("migrate-incoming", json!({ "uri": uri }))?;
        self.qmp.execute("migrate", json!({ "uri": uri }))?;
        Ok(())
    }

    /// Migrates to a QEMU made by [`Host::receive`] and waits for the end. The guest runs on
    /// exactly one side then; drop the other.
    ///
    /// # Errors
    /// QEMU refuses, or there is no end in time. A migration that failed is not an error here.
    pub fn migrate_to(&self, target: &Self, options: &MigrateOptions) -> Result<MigrateReport> {
        let mark = self.qmp.mark();
        self.start_migration(target, options)?;
        self.finish_migration(target, mark, options)
    }

    /// Waits for the end of a migration whose events began at `mark`.
    ///
    /// # Errors
    /// As for [`QemuGuest::migrate_to`].
    pub fn finish_migration(
        &self,
        target: &Self,
        mark: usize,
        options: &MigrateOptions,
    ) -> Result<MigrateReport> {
        let end = self.qmp.wait(mark, options.limit, |event| {
            event.name == "MIGRATION"
                && matches!(event.status(), Some("completed" | "failed" | "cancelled"))
        })?;
        let status = end.status().unwrap_or_default().to_owned();
        let resumed = if status == "completed" {
            let resume = target
                .qmp
                .wait(0, options.limit, |event| event.name == "RESUME")?;
            Some(resume.at)
        } else {
            let events = self.qmp.events();
            events
                .iter()
                .skip(mark)
                .find(|e| e.name == "RESUME")
                .map(|event| event.at)
        };
        let events = self.qmp.events();
        let stop = events.iter().skip(mark).find(|event| event.name == "STOP");
        let pause = stop
            .zip(resumed)
            .map(|(stop, resumed)| resumed.saturating_sub(stop.at));
        let query = self.qmp.execute("query-migrate", json!({}))?;
        let error = query["error-desc"].as_str().map(str::to_owned);
        Ok(MigrateReport {
            status,
            pause,
            error,
        })
    }

    /// Saves the running guest's state on its own disk, as a hypervisor's snapshot does.
    ///
    /// # Errors
    /// QEMU refuses, or its job fails.
    pub fn snapshot(&self, tag: &str) -> Result<()> {
        self.snapshot_job("snapshot-save", tag)
    }

    /// Returns to a state that [`QemuGuest::snapshot`] saved.
    ///
    /// # Errors
    /// As for [`QemuGuest::snapshot`].
    pub fn restore(&self, tag: &str) -> Result<()> {
        self.snapshot_job("snapshot-load", tag)
    }

    fn snapshot_job(&self, command: &str, tag: &str) -> Result<()> {
        let mark = self.qmp.mark();
        let arguments = json!({
            "job-id": tag, "tag": tag, "vmstate": "snapshots", "devices": ["snapshots"],
        });
        self.qmp.execute(command, arguments)?;
        self.qmp.wait(mark, SNAPSHOT_LIMIT, |event| {
            event.name == "JOB_STATUS_CHANGE"
                && event.status() == Some("concluded")
                && event.data["id"] == tag
        })?;
        let jobs = self.qmp.execute("query-jobs", json!({}))?;
        self.qmp.execute("job-dismiss", json!({ "id": tag }))?;
        let job = jobs
            .as_array()
            .into_iter()
            .flatten()
            .find(|job| job["id"] == tag);
        match job.and_then(|job| job["error"].as_str()) {
            Some(error) => bail!("{command} of {}: {error}", self.spec.name),
            None => Ok(()),
        }
    }

    /// Ends QEMU in an orderly way and removes the tap.
    ///
    /// # Errors
    /// QEMU does not go in time.
    pub fn quit(mut self) -> Result<()> {
        self.qmp.execute("quit", json!({}))?;
        self.process.wait(Duration::from_secs(10))?;
        Ok(())
    }
}

/// A guest that is a network namespace with one end of a veth.
#[derive(Debug)]
pub struct NsGuest {
    spec: GuestSpec,
    vnic: Vnic,
    _device: Device,
    netns: Netns,
}

impl NsGuest {
    /// The namespace, to run clients and servers in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &GuestSpec {
        &self.spec
    }

    /// Its interface on the host; for a [`Lab::client`], on the fabric.
    #[must_use]
    pub fn vnic(&self) -> &Vnic {
        &self.vnic
    }

    fn make(lab: &Lab, outside: &Netns, spec: &GuestSpec) -> Result<Self> {
        spec.check()?;
        let (netns, _) = lab.namespace(&format!("g-{}", spec.name))?;
        let device = format!("veth{}", spec.name);
        line(&format!(
            "ip link add {device} netns {} type veth peer name eth0 address {} netns {}",
            outside.name(),
            spec.mac,
            netns.name()
        ))?;
        let vnic = Vnic {
            guest: spec.name.clone(),
            number: 0,
            netns: outside.clone(),
            device: device.clone(),
            mac: spec.mac,
            qmp: None,
        };
        let guard = Device {
            netns: outside.clone(),
            name: device,
        };
        let guest = Self {
            spec: spec.clone(),
            vnic,
            _device: guard,
            netns,
        };
        guest.address()?;
        Ok(guest)
    }

    /// Brings its device up, with its addresses.
    fn address(&self) -> Result<()> {
        // The lab gives every address once, so a wait for duplicates would only cost time.
        self.netns.sysctl("net/ipv6/conf/eth0/accept_dad", "0")?;
        self.netns.sysctl("net/ipv6/conf/eth0/accept_ra", "0")?;
        self.netns.ip("link set eth0 up")?;
        for (ip, prefix) in &self.spec.addresses {
            self.netns.ip(&format!("addr add {ip}/{prefix} dev eth0"))?;
        }
        Ok(())
    }

    /// A route needs its link to be up, so this comes after the bridge.
    fn routes(&self) -> Result<()> {
        for gateway in &self.spec.gateways {
            let version = if gateway.is_ipv6() { "-6" } else { "-4" };
            line(&format!(
                "ip {version} -n {} route add default via {gateway}",
                self.netns.name()
            ))?;
        }
        Ok(())
    }
}

impl Host {
    /// Makes a namespace guest. `before_bridge` as in [`Host::boot`].
    ///
    /// # Errors
    /// A refused device or callback.
    pub fn namespace_guest(
        &self,
        spec: &GuestSpec,
        before_bridge: impl FnOnce(&Vnic) -> Result<()>,
    ) -> Result<NsGuest> {
        let guest = NsGuest::make(self.node().lab(), self.netns(), spec)?;
        before_bridge(&guest.vnic).context("before the veth joined the bridge")?;
        self.join(&guest.vnic.device)?;
        guest.routes()?;
        Ok(guest)
    }
}

/// A device of a container at the host that it comes to: the far end lies in the container, without
/// an address and down.
#[derive(Debug)]
pub struct Landing {
    vnic: Vnic,
    device: Device,
}

/// What the container's end of a [`Landing`] is called until it takes its place.
const COMING: &str = "coming";

impl Host {
    /// Makes the device by which a container that runs elsewhere will be plugged in here.
    /// `before_bridge` as in [`Host::boot`].
    ///
    /// # Errors
    /// A refused device or callback.
    pub fn receive_namespace(
        &self,
        guest: &NsGuest,
        before_bridge: impl FnOnce(&Vnic) -> Result<()>,
    ) -> Result<Landing> {
        let vnic = Vnic {
            netns: self.netns().clone(),
            ..guest.vnic.clone()
        };
        line(&format!(
            "ip link add {} netns {} type veth peer name {COMING} address {} netns {}",
            vnic.device,
            self.netns().name(),
            vnic.mac,
            guest.netns.name()
        ))?;
        let device = Device {
            netns: self.netns().clone(),
            name: vnic.device.clone(),
        };
        before_bridge(&vnic).context("before the veth joined the bridge")?;
        self.join(&vnic.device)?;
        Ok(Landing { vnic, device })
    }
}

impl NsGuest {
    /// Unplugs the container from its host: its device there goes.
    ///
    /// # Errors
    /// It has none.
    pub fn unplug(&self) -> Result<()> {
        self.netns.ip("link del eth0").map(drop)
    }

    /// Plugs a container that was unplugged in where it has come to. What runs in it keeps its
    /// sockets, as after a checkpoint that was restored.
    ///
    /// # Errors
    /// A refused device.
    pub fn land(&mut self, landing: Landing) -> Result<()> {
        self.netns.ip(&format!("link set {COMING} name eth0"))?;
        (self.vnic, self._device) = (landing.vnic, landing.device);
        self.address()?;
        self.routes()
    }
}

impl Lab {
    /// A machine on the tenant fabric itself, behind no host: a client outside the estate.
    ///
    /// # Errors
    /// A refused device.
    pub fn client(&self, spec: &GuestSpec) -> Result<NsGuest> {
        let guest = NsGuest::make(self, self.fabric(), spec)?;
        self.fabric()
            .ip(&format!("link set {} master tenant up", guest.vnic.device))?;
        guest.routes()?;
        Ok(guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named_with_the_next_step() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let error = in_path(QEMU, folder.path().as_os_str()).expect_err("there is none");
        assert!(error.to_string().contains("cargo xtask setup"), "{error}");
        std::fs::write(folder.path().join(QEMU), "").expect("written");
        in_path(QEMU, folder.path().as_os_str()).expect("there is one");
    }
}
