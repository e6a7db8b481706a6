//! A host that boots: Debian with its own kernel, systemd, AppArmor and libvirt, all as their
//! packages leave them, and Lictor as an administrator installs it.

use anyhow::{Context as _, Result, ensure};
use lictor_lab::libvirt::QEMU_USER;
use lictor_lab::site::pci::{BATCH, DB};
use lictor_lab::site::{Draft, Guest, PEER_PORT, Programs, Signed, Site, command, vnic_name};
use lictor_lab::{Image, Machine, image, wait};
use lictor_types::VnicState;
use lictor_wire::api::{GuestReport, HostReport};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const LICTOR: &str = env!("CARGO_BIN_EXE_lictor");

/// Without hardware virtualization, beside other work.
const LIMIT: Duration = Duration::from_secs(600);
const HOST: &str = "a";
const AGENT: &str = "lictor-agent.service";
const LIBVIRT: &str = "libvirtd.service";
const CONFIG: &str = "etc/lictor/agent.toml";
const STATE: &str = "var/lib/lictor/agent";
/// What AppArmor's profile of each QEMU has of ours.
const SNIPPET: &str = "/etc/apparmor.d/local/abstractions/libvirt-qemu";
/// An agent that is not ready before somebody says so.
const SLOW: &str = "etc/systemd/system/lictor-agent.service.d/slow.conf";
const GO: &str = "/run/go";

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    let folder = path.parent().context("it lies in a folder")?;
    std::fs::create_dir_all(folder)?;
    Ok(std::fs::write(path, text)?)
}

/// What an administrator has brought to the host: a network, the program and its configuration,
/// what `lictor host install` writes, and what the agent has got from its manager.
fn install(root: &Path) -> Result<()> {
    let address = enrolled(&root.join(STATE))?;
    network(root, address)?;
    // An unoptimised program without hardware virtualization would be busy with its rounds.
    let config = format!(
        "host = \"{HOST}\"\nstate_dir = \"/{STATE}\"\nrun_dir = \"/run/lictor\"\n\
         qemu_group = \"{QEMU_USER}\"\npin_root = \"/sys/fs/bpf/lictor\"\n\
         peer = \"{address}:{PEER_PORT}\"\nround_ms = 10000\n"
    );
    write(root, CONFIG, &config)?;
    let program = root.join("usr/bin/lictor");
    std::fs::create_dir_all(program.parent().context("it lies in a folder")?)?;
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&program).arg(LICTOR);
    command::output(strip)?;
    let mut install = Command::new(LICTOR);
    install.args(["host", "install", "--root"]).arg(root);
    command::output(install)?;
    let mut enable = Command::new("systemctl");
    enable.arg("--root").arg(root).args(["enable", AGENT]);
    command::output(enable).map(drop)
}

/// Defines a guest as `virsh define` and `virsh autostart` do; `words` go to `lictor hook domain`.
fn autostart(root: &Path, guest: &Guest, words: &[&str]) -> Result<()> {
    let plain = root.join("plain.xml");
    std::fs::write(&plain, domain(guest)?)?;
    let mut hook = Command::new(LICTOR);
    hook.args(["hook", "domain"]).args(words);
    hook.stdin(std::fs::File::open(&plain)?);
    let defined = command::output(hook)?;
    std::fs::remove_file(plain)?;
    let file = format!("etc/libvirt/qemu/{}.xml", guest.name);
    write(root, &file, &defined)?;
    let folder = root.join("etc/libvirt/qemu/autostart");
    std::fs::create_dir_all(&folder)?;
    let link = folder.join(format!("{}.xml", guest.name));
    Ok(symlink(Path::new("/").join(file), link)?)
}

/// The state directory of an agent that was enrolled and has the release and all bindings.
fn enrolled(state: &Path) -> Result<Ipv4Addr> {
    Image::build(&image::cache())?;
    let programs = Programs {
        lictor: LICTOR.into(),
        // No test here verifies a pack.
        verify: "lictor-verify".into(),
    };
    let mut site = Site::new(programs, "boot")?;
    let host = site.protected_host(HOST)?;
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pci/policy.lictor");
    let guests = [DB, BATCH];
    let release = Draft::compile(&site, &policy, 1, &guests)?.sign(&site, Signed::ByBoth)?;
    site.publish(&release)?.done()?;
    guests.iter().try_for_each(|guest| site.bind(guest))?;
    let agent = site.agent(HOST)?;
    wait::until("the release and every binding", LIMIT, || {
        let status = agent.status()?;
        let newest = guests.len() as u64;
        Ok((status.generation.0 == 1 && status.epoch.0 == newest).then_some(()))
    })?;
    site.kill_agent(HOST)?;
    std::fs::create_dir_all(state)?;
    let from = site.agent(HOST)?.state_dir();
    for entry in std::fs::read_dir(&from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        ensure!(kind.is_file(), "{:?} is no plain file", entry.path());
        std::fs::copy(entry.path(), state.join(entry.file_name()))?;
    }
    Ok(host.node().management())
}

/// A bridge for the guests that has the host's address too; its port keeps it up.
fn network(root: &Path, address: Ipv4Addr) -> Result<()> {
    let files = [
        ("br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n".to_owned()),
        (
            "port0.netdev",
            "[NetDev]\nName=port0\nKind=dummy\n".to_owned(),
        ),
        (
            "br0.network",
            format!("[Match]\nName=br0\n[Network]\nAddress={address}/24\n"),
        ),
        (
            "port0.network",
            "[Match]\nName=port0\n[Network]\nBridge=br0\n".to_owned(),
        ),
    ];
    for (name, text) in files {
        write(root, &format!("etc/systemd/network/{name}"), &text)?;
    }
    // The agent does not wait for its address, so that nothing here waits for the network.
    let folder = root.join("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&folder)?;
    let unit = "systemd-networkd.service";
    symlink(format!("/lib/systemd/system/{unit}"), folder.join(unit))?;
    Ok(())
}

/// A guest that has no disk and boots nothing: its QEMU runs all the same.
fn domain(guest: &Guest) -> Result<String> {
    let (name, mac, address) = (guest.name, guest.mac(), guest.address());
    let vnic = vnic_name(name, 0)?;
    Ok(format!(
        "<domain type='qemu'><name>{name}</name>\
         <uuid>{uuid}</uuid>\
         <metadata><l:addresses xmlns:l='urn:lictor:guest'>\
         <l:address vnic='{vnic}'>{address}</l:address></l:addresses></metadata>\
         <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <controller type='usb' model='none'/><interface type='bridge'><mac address='{mac}'/>\
         <source bridge='br0'/><target dev='{vnic}'/><model type='virtio'/>\
         <rom enabled='no'/></interface><memballoon model='none'/></devices></domain>",
        uuid = uuid(guest),
    ))
}

fn uuid(guest: &Guest) -> String {
    let mac = guest.mac().to_string().replace(':', "");
    format!("6c696374-6f72-4001-8000-{mac}")
}

/// A machine, and what its administrator looks at.
struct Host {
    machine: Machine,
    // What the machine runs on.
    _folder: TempDir,
}

/// When a unit began to start and when it had started, by the machine's clock, in microseconds.
#[derive(Debug)]
struct Started {
    began: u64,
    active: u64,
}

/// How a test changes what an administrator has installed.
type Change = fn(&Path) -> Result<()>;

impl Host {
    fn boot(guests: &[(&Guest, &[&str])], change: Change) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let payload = folder.path().join("payload");
        std::fs::create_dir_all(&payload)?;
        install(&payload)?;
        for (guest, words) in guests {
            autostart(&payload, guest, words)?;
        }
        change(&payload)?;
        let machine = Machine::boot(folder.path(), &payload)?;
        Ok(Self {
            machine,
            _folder: folder,
        })
    }

    fn property(&mut self, unit: &str, name: &str) -> Result<String> {
        let line = format!("systemctl show --property {name} --value {unit}");
        Ok(self.machine.done(&line)?.trim().to_owned())
    }

    fn number(&mut self, unit: &str, name: &str) -> Result<u64> {
        let text = self.property(unit, name)?;
        text.parse()
            .with_context(|| format!("{unit}: {name}={text}"))
    }

    fn started(&mut self, unit: &str) -> Result<Started> {
        Ok(Started {
            began: self.number(unit, "InactiveExitTimestampMonotonic")?,
            active: self.number(unit, "ActiveEnterTimestampMonotonic")?,
        })
    }

    /// Types a line again and again until what it prints is what is waited for.
    fn until(&mut self, line: &str, found: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        // Each look takes processor time from what is waited for.
        let patient = format!("sleep 1; {line}");
        let text = wait::until(line, LIMIT, || {
            let said = self.machine.types(&patient)?;
            said.text.trim().clone_into(&mut last);
            Ok(found(&last).then(|| last.clone()))
        });
        text.with_context(|| format!("it said {last:?}"))
            .with_context(|| self.journal())
    }

    fn journal(&mut self) -> String {
        let line = format!("journalctl --no-pager --lines 60 --unit {AGENT} --unit {LIBVIRT}");
        self.machine
            .types(&line)
            .map_or_else(|error| format!("{error:#}"), |said| said.text)
    }

    /// Waits until a guest runs with its network and could leave: its interlock is connected.
    fn wait_movable(&mut self, guest: &Guest) -> Result<()> {
        self.until("lictor host status --output json", |text| {
            let report = serde_json::from_str::<HostReport>(text);
            // No report while the agent is started again.
            report.is_ok_and(|report| report.guests.iter().any(|one| movable(one, guest)))
        })
        .map(drop)
    }

    /// QEMU's process, which must be Debian's user in libvirt's profile for this guest.
    fn confined(&mut self, guest: &Guest) -> Result<String> {
        let name = guest.name;
        let pid = format!("/run/libvirt/qemu/{name}.pid");
        let line = format!("p=/proc/$(cat {pid}); stat -c %U $p; cat $p/attr/current; cat {pid}");
        let text = self.machine.done(&line)?;
        let words: Vec<_> = text.split_whitespace().collect();
        let profile = format!("libvirt-{}", uuid(guest));
        assert_eq!(words[..3], [QEMU_USER, &profile, "(enforce)"], "{text}");
        Ok(words[3..].concat())
    }
}

fn movable(report: &GuestReport, guest: &Guest) -> bool {
    let open = |one: &GuestReport| one.vnics.iter().all(|vnic| vnic.state == VnicState::Open);
    let running = report.running == Some(true) && open(report);
    report.guest.as_str() == guest.name && report.interlocked && running
}

/// An agent that is not ready before somebody says so, however long that takes.
fn slow(root: &Path) -> Result<()> {
    let text = format!(
        "[Service]\nTimeoutStartSec=infinity\nExecStart=\n\
         ExecStart=/bin/sh -c 'until [ -e {GO} ]; do sleep 1; done; \
         exec /usr/bin/lictor agent run --config /{CONFIG}'\n"
    );
    write(root, SLOW, &text)
}

/// An agent that cannot begin.
fn broken(root: &Path) -> Result<()> {
    let text = std::fs::read_to_string(root.join(CONFIG))?;
    write(root, CONFIG, &text.replace("host = ", "hots = "))
}

#[test]
fn libvirt_starts_after_the_agent_and_its_confined_guest_stays_movable() -> Result<()> {
    if !wanted() {
        return Ok(());
    }
    let mut host = Host::boot(&[(&DB, &[])], slow)?;
    let enabled = host
        .machine
        .done("cat /sys/module/apparmor/parameters/enabled")?;
    assert_eq!(enabled.trim(), "Y");
    waits_for_the_agent(&mut host)?;
    host.machine.done(&format!("touch {GO}"))?;
    host.until(&format!("systemctl is-active {LIBVIRT}"), |text| {
        text == "active"
    })?;
    let (agent, libvirt) = (host.started(AGENT)?, host.started(LIBVIRT)?);
    assert!(
        agent.began < agent.active && agent.active <= libvirt.began,
        "{agent:?} {libvirt:?}"
    );
    host.wait_movable(&DB)?;
    let qemu = host.confined(&DB)?;
    for way in ["restart", "kill --signal KILL"] {
        let before = host.number(AGENT, "MainPID")?;
        host.machine.done(&format!("systemctl {way} {AGENT}"))?;
        let line = format!("systemctl show --property MainPID --value {AGENT}");
        host.until(&line, |pid| pid != "0" && pid != before.to_string())?;
        host.wait_movable(&DB)?;
    }
    assert_eq!(host.confined(&DB)?, qemu, "the guest's QEMU is the same");
    denied_without_its_lines(&mut host)
}

/// Minutes without hardware virtualization.
fn wanted() -> bool {
    if !lictor_lab::full() {
        eprintln!("no machine is booted: LICTOR_FULL=1 does that, too");
        return false;
    }
    lictor_lab::privileged()
}

/// All else has started. Whoever calls libvirt, whose socket is there, waits too.
fn waits_for_the_agent(host: &mut Host) -> Result<()> {
    let jobs = host.until("systemctl list-jobs --no-legend", |text| {
        let running: Vec<_> = text.lines().filter(|job| job.contains("running")).collect();
        running.len() == 1 && running[0].contains(AGENT)
    })?;
    let waits = |job: &str| job.contains(LIBVIRT) && job.contains("waiting");
    assert!(jobs.lines().any(waits), "{jobs}");
    assert_eq!(host.property(LIBVIRT, "ActiveState")?, "inactive", "{jobs}");
    // Its answer comes when libvirt has looked at its QEMUs; that it starts nothing now is all.
    host.machine
        .done("(virsh list >/dev/null 2>&1 &)")
        .map(drop)
}

/// The same guest on the same host, but for the lines that were installed for AppArmor. Debian 12's
/// kernel asks AppArmor when a program makes a socket, and not when it connects to one.
fn denied_without_its_lines(host: &mut Host) -> Result<()> {
    let (name, profile) = (DB.name, format!("libvirt-{}", uuid(&DB)));
    host.machine.done(&format!("virsh destroy {name}"))?;
    host.machine.done(&format!(": > {SNIPPET}"))?;
    let said = host.machine.types(&format!("virsh start {name}"))?;
    let socket = format!("/run/lictor/qemu/{name}.sock");
    let refused = said.text.contains(&format!("{socket}: Permission denied"));
    assert!(said.status != 0 && refused, "{said:?}");
    let denied = host
        .machine
        .done("journalctl --boot --no-pager --grep DENIED")?;
    let rule = format!("profile=\"{profile}\" name=\"{socket}\"");
    assert!(denied.contains(&rule), "{denied}");
    Ok(())
}

#[test]
fn without_an_agent_libvirt_starts_only_guests_whose_owner_allows_it() -> Result<()> {
    if !wanted() {
        return Ok(());
    }
    let guests: [(&Guest, &[&str]); 2] = [(&DB, &[]), (&BATCH, &["--monitor-only"])];
    let mut host = Host::boot(&guests, broken)?;
    host.until(&format!("systemctl is-active {LIBVIRT}"), |text| {
        text == "active"
    })?;
    assert_eq!(host.started(AGENT)?.active, 0, "it was never ready");
    let state = |guest: &Guest| format!("virsh domstate {}", guest.name);
    host.until(&state(&BATCH), |text| text == "running")?;
    host.confined(&BATCH)?;
    let refused = format!("journalctl --no-pager --unit {LIBVIRT} --grep hook");
    host.until(&refused, |text| {
        text.contains("lictor db prepare begin") && text.contains("agent.sock")
    })?;
    assert_eq!(host.machine.done(&state(&DB))?.trim(), "shut off");

    // Systemd gives up a unit after five attempts within ten seconds unless it is told otherwise.
    assert_eq!(host.property(AGENT, "StartLimitIntervalUSec")?, "0");
    let restarts = format!("systemctl show --property NRestarts --value {AGENT}");
    host.until(&restarts, |text| {
        text.parse().is_ok_and(|count: u32| count > 5)
    })?;
    host.machine
        .done(&format!("sed -i 's/^hots/host/' /{CONFIG}"))?;
    host.until(&format!("systemctl is-active {AGENT}"), |text| {
        text == "active"
    })?;
    assert_eq!(host.machine.done(&state(&DB))?.trim(), "shut off");
    host.machine.done(&format!("virsh start {}", DB.name))?;
    host.wait_movable(&DB)?;
    host.confined(&DB).map(drop)
}
