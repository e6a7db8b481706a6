//! The guards: rules of nftables and iptables as their users write them, and Lictor. Each has the
//! same meaning: what is established passes, one port of each far prefix may be opened, the two
//! guests may talk, and nothing else passes.

use super::plant::{Guard, Iptables, Nft, Plant, Topology, port};
use crate::world::{self, PORT_ALLOWED, Protected, Side};
use anyhow::{Context, Result, bail};
use lictor_datapath::{Datapath, VnicSpec};
use lictor_types::{VnicName, VnicState};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

/// What the guests' own addresses lie in.
const GUESTS: &str = "10.77.0.0/16";
/// Sessions that a bench moves at once.
const QUOTA_MAX: u32 = 1 << 20;

/// Puts the guard of its topology into a plant whose ports are still down.
pub(crate) fn raise(plant: &Plant) -> Result<Option<Datapath>> {
    let topology = &plant.topology;
    match topology.guard {
        Guard::None => Ok(None),
        Guard::Hooks => hooks(plant).map(|()| None),
        Guard::Nft(form) => {
            hooks(plant)?;
            let rules = nft(topology.rules, form);
            feed(plant, ("nft", &["-f", "-"]), &rules).map(|()| None)
        }
        Guard::Iptables(style) => {
            hooks(plant)?;
            let rules = iptables(topology, style);
            feed(plant, ("iptables-legacy-restore", &[]), &rules).map(|()| None)
        }
        Guard::Lictor(protected) => lictor(plant, protected).map(Some),
        Guard::Steered => lictor(plant, Protected::Both).map(Some),
    }
}

fn hooks(plant: &Plant) -> Result<()> {
    let netns = plant.hypervisor.netns();
    netns.sysctl("net/bridge/bridge-nf-call-iptables", "1")
}

fn feed(plant: &Plant, (program, arguments): (&str, &[&str]), text: &str) -> Result<()> {
    let mut command = plant.hypervisor.command(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {program}; `cargo xtask setup` installs it"))?;
    let mut input = child.stdin.take().context("the child has an input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} refused the rules: {}", words.trim());
    }
    Ok(())
}

fn nft(rules: u32, form: Nft) -> String {
    let mut text = String::from("table ip guard {\n");
    if form == Nft::Set {
        let elements: Vec<_> = (0..rules)
            .map(|index| format!("{} . {PORT_ALLOWED}", world::prefix(index)))
            .collect();
        let _ = writeln!(
            text,
            "set open {{ typeof ip daddr . udp dport; flags interval; elements = {{ {} }} }}",
            elements.join(", ")
        );
    }
    text += "chain forward {\ntype filter hook forward priority 0; policy drop;\n";
    match form {
        Nft::Set => {
            text += "ct state vmap { established : accept, related : accept, invalid : drop }\n";
            text += "ip daddr . udp dport @open accept\n";
        }
        Nft::Linear => {
            text += "ct state established,related accept\nct state invalid drop\n";
            for index in 0..rules {
                let prefix = world::prefix(index);
                let _ = writeln!(text, "ip daddr {prefix} udp dport {PORT_ALLOWED} accept");
            }
        }
    }
    let _ = writeln!(text, "ip saddr {GUESTS} ip daddr {GUESTS} accept\n}}\n}}");
    text
}

const STATE: &str = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
const INVALID: &str = "-m conntrack --ctstate INVALID -j DROP";
const PHYSDEV: &str = "-A FORWARD -m physdev --physdev-is-bridged";

fn iptables(topology: &Topology, style: Iptables) -> String {
    let ports = Side::BOTH.map(port);
    let mut text = String::new();
    if style == Iptables::OpenStack {
        text += "*raw\n:PREROUTING ACCEPT\n";
        for (zone, port) in (1..).zip(ports) {
            for device in [port.to_owned(), format!("ln{port}")] {
                let _ = writeln!(
                    text,
                    "-A PREROUTING -m physdev --physdev-in {device} -j CT --zone {zone}"
                );
            }
        }
        text += "COMMIT\n";
    }
    text += "*filter\n:FORWARD ACCEPT\n:others -\n";
    for port in ports {
        let _ = writeln!(text, ":guest-{port} -");
    }
    if style == Iptables::Proxmox {
        let _ = writeln!(text, "-A FORWARD {INVALID}\n-A FORWARD {STATE}");
    }
    let others = match style {
        Iptables::Physdev { others } => others,
        Iptables::Proxmox | Iptables::OpenStack => 0,
    };
    for other in 0..others {
        for way in ["--physdev-out", "--physdev-in"] {
            let _ = writeln!(text, "{PHYSDEV} {way} tap{other} -j others");
        }
    }
    for port in ports {
        let _ = writeln!(text, "{PHYSDEV} --physdev-out {port} -j guest-{port}");
    }
    for port in ports {
        text += &chain(port, topology.rules, style);
    }
    text + "COMMIT\n"
}

fn chain(port: &str, rules: u32, style: Iptables) -> String {
    let chain = format!("-A guest-{port}");
    let mut text = String::new();
    if style != Iptables::Proxmox {
        let _ = writeln!(text, "{chain} {STATE}\n{chain} {INVALID}");
    }
    for index in 0..rules {
        let prefix = world::prefix(index);
        let _ = writeln!(
            text,
            "{chain} -d {prefix} -p udp --dport {PORT_ALLOWED} -j ACCEPT"
        );
    }
    let _ = writeln!(text, "{chain} -s {GUESTS} -d {GUESTS} -j ACCEPT");
    let _ = writeln!(text, "{chain} -j DROP");
    text
}

/// How Lictor is told of a guest's vnic.
pub(crate) fn spec(side: Side, quota: u32) -> Result<VnicSpec> {
    Ok(VnicSpec {
        vnic: side.vnic(),
        name: VnicName::new(port(side))?,
        device: port(side).into(),
        mac: side.mac(),
        segment: world::SEGMENT,
        sessions_max: quota,
        link: lictor_types::Link::PLAIN,
        endpoint: lictor_types::Endpoint::Guest,
    })
}

fn lictor(plant: &Plant, protected: Protected) -> Result<Datapath> {
    let topology = &plant.topology;
    let tables = world::tables(topology.rules, protected).canonical()?;
    let node = &plant.hypervisor;
    node.netns().run(|| {
        let mut datapath = Datapath::open(&node.bpffs())?;
        for side in protected.sides() {
            datapath.attach(&spec(*side, topology.quota)?)?;
        }
        datapath.load(&tables)?;
        for side in protected.sides() {
            datapath.set_state(side.vnic(), VnicState::Open)?;
        }
        Ok(datapath)
    })
}

/// Steers between both vnics, once their ports forward.
pub(crate) fn steer(plant: &mut Plant) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(10);
    let netns = plant.hypervisor.netns().clone();
    let datapath = plant.datapath.as_mut().context("Lictor guards it")?;
    let wanted = Side::BOTH.len() as u32;
    lictor_lab::wait::until("two ports that may be steered between", LIMIT, || {
        let steered = netns.run(|| Ok(datapath.set_steering(true)?))?;
        Ok((steered == wanted).then_some(()))
    })
}

/// Conntrack zones in which the guard looks a packet up.
fn zones(topology: &Topology) -> &'static [u32] {
    match topology.guard {
        Guard::Iptables(Iptables::OpenStack) => &[0, 1, 2],
        _ => &[0],
    }
}

/// Forgets every session.
pub(crate) fn clear(plant: &Plant) -> Result<()> {
    if let Some(datapath) = &plant.datapath {
        for side in plant.topology.protected() {
            datapath.purge(side.vnic())?;
        }
    }
    if plant.topology.tracked() {
        conntrack(plant, &["-F"])?;
    }
    Ok(())
}

/// Makes this many conversations established, and no others.
pub(crate) fn establish(plant: &Plant, flows: u32) -> Result<()> {
    clear(plant)?;
    let topology = &plant.topology;
    if let Some(datapath) = &plant.datapath {
        for side in topology.protected() {
            let sessions = world::sessions(*side, flows, topology.rules);
            let taken = datapath.import(side.vnic(), &sessions)?;
            if taken.imported != u64::from(flows) {
                let why = taken.refused.first();
                bail!(
                    "{} of {flows} sessions were taken in: {why:?}",
                    taken.imported
                );
            }
        }
    }
    if topology.tracked() {
        let file = conntrack_file(plant, flows)?;
        conntrack(plant, &["-R", &file])?;
    }
    Ok(())
}

/// The conversations as `conntrack -R` reads them.
pub(crate) fn conntrack_file(plant: &Plant, flows: u32) -> Result<String> {
    if flows > QUOTA_MAX {
        bail!("{flows} sessions; at most {QUOTA_MAX} have a number of their own");
    }
    let topology = &plant.topology;
    let path = plant.hypervisor.folder().join(format!("sessions-{flows}"));
    let text = path.display().to_string();
    if path.exists() {
        return Ok(text);
    }
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    let near = Side::Near.address();
    for zone in zones(topology) {
        let zone = match zone {
            0 => String::new(),
            zone => format!(" -w {zone}"),
        };
        for index in 0..flows {
            let (far, own) = world::ends(index, topology.rules);
            writeln!(
                file,
                "-A -t 3600 -u SEEN_REPLY,ASSURED -s {near} -d {far} -r {far} -q {near} -p udp \
                 --sport {own} --dport {PORT_ALLOWED} --reply-port-src {PORT_ALLOWED} \
                 --reply-port-dst {own}{zone}"
            )?;
        }
    }
    file.flush()?;
    Ok(text)
}

pub(crate) fn conntrack(plant: &Plant, arguments: &[&str]) -> Result<()> {
    let mut command = plant.hypervisor.command("conntrack");
    command.args(arguments);
    let output = lictor_lab::site::command::run(command)?;
    let words = lictor_lab::site::command::words(&output);
    if !output.status.success() {
        bail!(
            "conntrack {} ended with {}: {words}",
            arguments.join(" "),
            output.status
        );
    }
    Ok(())
}
