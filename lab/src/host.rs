//! A lab: its fabrics, and what stands on them.
//!
//! Two fabrics, so that tenants' traffic and the management's do not mix: `tenant` joins the hosts'
//! tenant bridges, `mgmt` carries agents, managers and QEMU's migration streams. Devices live in
//! the lab's own namespaces from their first moment, so their short names never meet another lab's.

use crate::command::line;
use crate::netns::Netns;
use crate::residue::{self, Tag};
use crate::stream::StreamLog;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One lab can hold this many hosts, nodes and clients: its management prefix is a /24.
pub const PORTS_MAX: u8 = 250;

/// The prefix length of the management fabric.
pub const MANAGEMENT_PREFIX: u8 = 24;

/// A running lab. It goes away when the last of its hosts, guests and clones has dropped.
#[derive(Debug, Clone)]
pub struct Lab(Arc<LabInner>);

#[derive(Debug)]
struct LabInner {
    tag: Tag,
    fabric: Netns,
    ports: AtomicU8,
    logs: Mutex<HashMap<String, StreamLog>>,
}

impl Drop for LabInner {
    fn drop(&mut self) {
        if let Err(error) = residue::close(&self.tag) {
            eprintln!("lab: {error:#}");
        }
    }
}

/// A namespace on the management fabric, with a folder and a BPF file system of its own.
#[derive(Debug, Clone)]
pub struct Node(Arc<NodeInner>);

#[derive(Debug)]
struct NodeInner {
    lab: Lab,
    name: String,
    netns: Netns,
    management: Ipv4Addr,
    folder: PathBuf,
}

impl Drop for NodeInner {
    fn drop(&mut self) {
        let mount = self.folder.join("bpf");
        if let Err(error) = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("lab: cannot unmount {}: {error}", mount.display());
        }
    }
}

/// A node with a hypervisor: it also has a tenant bridge with an uplink to the tenant fabric.
#[derive(Debug, Clone)]
pub struct Host {
    node: Node,
}

/// The name of every host's tenant bridge.
pub const TENANT_BRIDGE: &str = "br0";

/// The name of every host's uplink, the bridge port toward the tenant fabric.
pub const UPLINK: &str = "up0";

/// The name of every node's device on the management fabric.
pub const MANAGEMENT: &str = "mgmt0";

impl Lab {
    /// Makes a lab with empty fabrics, after removing what dead owners left.
    ///
    /// # Errors
    /// The caller is not root, or the kernel refuses a namespace or a bridge.
    pub fn new() -> Result<Self> {
        let tag = residue::open()?;
        let fabric = match Netns::create(&format!("{}fabric", tag.prefix)) {
            Ok(fabric) => fabric,
            Err(error) => {
                residue::close(&tag)?;
                return Err(error);
            }
        };
        let lab = Self(Arc::new(LabInner {
            tag,
            fabric,
            ports: AtomicU8::new(0),
            logs: Mutex::default(),
        }));
        lab.quiet(lab.fabric())?;
        for (bridge, last) in [("tenant", 1), ("mgmt", 2)] {
            let mac = format!("02:6c:00:ff:00:0{last}");
            lab.fabric().ip(&format!(
                "link add {bridge} address {mac} type bridge forward_delay 0 ageing_time 30000"
            ))?;
            lab.fabric()
                .ip(&format!("link set {bridge} promisc on up"))?;
        }
        Ok(lab)
    }

    /// The namespace of the fabrics. Its bridge `tenant` sees every frame between hosts.
    #[must_use]
    pub fn fabric(&self) -> &Netns {
        &self.0.fabric
    }

    /// The lab's folder, removed with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.tag.folder
    }

    /// Changes a setting of the whole machine, such as `/proc/sys/net/netfilter/nf_conntrack_max`,
    /// until the lab goes away, however it does.
    ///
    /// # Errors
    /// The kernel does not have it or refuses the value.
    pub fn machine_setting(&self, path: &Path, value: &str) -> Result<()> {
        residue::set(&self.0.tag, path, value)
    }

    /// A node on the management fabric, for a manager or an auditor.
    ///
    /// # Errors
    /// The name is taken or too long, or the lab is full.
    pub fn node(&self, name: &str) -> Result<Node> {
        let (netns, port) = self.namespace(name)?;
        let folder = self.folder().join("nodes").join(name);
        let mount = folder.join("bpf");
        std::fs::create_dir_all(&mount)
            .with_context(|| format!("cannot make {}", mount.display()))?;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), &mount, Some("bpf"), flags, None::<&str>)
            .with_context(|| format!("cannot mount a BPF file system on {}", mount.display()))?;
        let management = Ipv4Addr::new(10, 255, 0, port);
        let node = Node(Arc::new(NodeInner {
            lab: self.clone(),
            name: name.into(),
            netns,
            management,
            folder,
        }));
        let netns = node.netns();
        self.quiet(netns)?;
        self.plug(netns, MANAGEMENT, &format!("m{port}"), "mgmt")?;
        netns.ip(&format!(
            "addr add {management}/{MANAGEMENT_PREFIX} dev {MANAGEMENT}"
        ))?;
        netns.ip(&format!("link set {MANAGEMENT} up"))?;
        Ok(node)
    }

    /// A host: a node with a tenant bridge on the tenant fabric.
    ///
    /// # Errors
    /// As for [`Lab::node`].
    pub fn host(&self, name: &str) -> Result<Host> {
        let node = self.node(name)?;
        let port = node.management().octets()[3];
        // A Linux bridge without a pinned address takes its lowest port's, so that a joining tap
        // would change it and leave neighbours with a stale entry.
        node.netns().ip(&format!(
            "link add {TENANT_BRIDGE} address 02:6c:00:00:00:{port:02x} type bridge \
             forward_delay 0"
        ))?;
        node.netns().ip(&format!("link set {TENANT_BRIDGE} up"))?;
        self.plug(node.netns(), UPLINK, &format!("t{port}"), "tenant")?;
        node.netns()
            .ip(&format!("link set {UPLINK} master {TENANT_BRIDGE} up"))?;
        Ok(Host { node })
    }

    /// Makes a namespace of this lab and gives it a port number.
    pub(crate) fn namespace(&self, name: &str) -> Result<(Netns, u8)> {
        let number = self.0.ports.fetch_add(1, Ordering::Relaxed);
        if number >= PORTS_MAX {
            bail!("the lab is full: it has {PORTS_MAX} hosts, nodes and namespace guests");
        }
        let netns = Netns::create(&format!("{}{name}", self.0.tag.prefix))?;
        Ok((netns, number + 1))
    }

    /// A veth from `device` in `netns` to `port` on one of the fabric's bridges.
    pub(crate) fn plug(&self, netns: &Netns, device: &str, port: &str, bridge: &str) -> Result<()> {
        let fabric = self.fabric().name();
        line(&format!(
            "ip link add {device} netns {} type veth peer name {port} netns {fabric}",
            netns.name()
        ))?;
        self.fabric()
            .ip(&format!("link set {port} master {bridge} up"))?;
        Ok(())
    }

    /// No IPv6 where only bridges stand: its announcements would be counted as guests' traffic.
    fn quiet(&self, netns: &Netns) -> Result<()> {
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
    }

    /// What the guest of this name received on its own counter stream, on whichever host it runs.
    #[must_use]
    pub fn guest_stream(&self, guest: &str) -> StreamLog {
        let mut logs = self.0.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry(guest.into()).or_default().clone()
    }
}

impl Node {
    /// The lab it belongs to.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.0.lab
    }

    /// Its name within the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// Its address on the management fabric.
    #[must_use]
    pub fn management(&self) -> Ipv4Addr {
        self.0.management
    }

    /// The port of the management fabric's bridge that leads to this node, in the fabric's
    /// namespace.
    #[must_use]
    pub fn management_port(&self) -> String {
        format!("m{}", self.0.management.octets()[3])
    }

    /// Its own folder, for sockets, state and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Its own BPF file system.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.0.folder.join("bpf")
    }

    /// A command inside its namespace that is killed when the lab's owner dies.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.netns().command(program)
    }
}

impl Host {
    /// The host as a node of the management fabric.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        self.node.netns()
    }

    /// The port of the tenant fabric's bridge that leads to this host, in the fabric's namespace.
    #[must_use]
    pub fn fabric_port(&self) -> String {
        format!("t{}", self.node.management().octets()[3])
    }

    /// Joins a prepared device to the tenant bridge and switches it on.
    pub(crate) fn join(&self, device: &str) -> Result<()> {
        self.netns()
            .ip(&format!("link set {device} master {TENANT_BRIDGE} up"))?;
        Ok(())
    }
}
