//! What is measured: a hypervisor with two guests, wired in one way and guarded in one way.

use super::guard;
use crate::injector::Injector;
use crate::world::{Protected, Side};
use anyhow::{Context, Result};
use lictor_datapath::Datapath;
use lictor_lab::{Lab, Node};

/// How the guests' ports are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// One bridge.
    Bridge,
    /// A bridge of its own for each guest, joined to the main one by a veth pair, as Proxmox VE and
    /// OpenStack do so that their rules see bridged packets.
    Hybrid,
}

/// In what form nftables has its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nft {
    /// One after the other.
    Linear,
    /// One set of prefixes and ports.
    Set,
}

/// Whose rules iptables has, in the order in which that product writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iptables {
    /// A chain for each port, dispatched by physdev; each chain begins with the tracked state.
    Physdev {
        /// Further guests of the host, each with its two lines of dispatch.
        others: u32,
    },
    /// The tracked state first, then the chains.
    Proxmox,
    /// A conntrack zone for each port.
    OpenStack,
}

/// What stands in the way of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    None,
    /// The bridge hands its packets to the IP hooks, which have no rule.
    Hooks,
    /// nftables with conntrack, over `br_netfilter`.
    Nft(Nft),
    /// iptables with conntrack, over `br_netfilter`.
    Iptables(Iptables),
    /// Lictor on these vnics.
    Lictor(Protected),
    /// Lictor on both vnics, with what is established steered past the bridge.
    Steered,
}

/// One thing to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// Its name in tables and in JSON.
    pub id: &'static str,
    /// For people.
    pub what: &'static str,
    /// How it is wired.
    pub wiring: Wiring,
    /// What guards it.
    pub guard: Guard,
    /// Rules about as many far prefixes.
    pub rules: u32,
    /// The quota of a vnic, where the guard has one.
    pub quota: u32,
}

impl Topology {
    /// Whether packets that no rule names get through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.guard, Guard::None | Guard::Hooks)
    }

    /// Whose vnics are protected by Lictor.
    #[must_use]
    pub const fn protected(&self) -> &'static [Side] {
        match self.guard {
            Guard::Lictor(protected) => protected.sides(),
            Guard::Steered => Protected::Both.sides(),
            _ => &[],
        }
    }

    /// Whether the kernel's conntrack has a part in it.
    #[must_use]
    pub const fn tracked(&self) -> bool {
        matches!(self.guard, Guard::Nft(_) | Guard::Iptables(_))
    }
}

/// A topology that stands.
#[derive(Debug)]
pub struct Plant {
    /// What it is.
    pub topology: Topology,
    /// The namespace with the bridge.
    pub hypervisor: Node,
    guests: [Node; 2],
    /// Lictor's data plane, if it guards.
    pub datapath: Option<Datapath>,
}

/// The host's end of a guest's veth.
#[must_use]
pub const fn port(side: Side) -> &'static str {
    match side {
        Side::Near => "near",
        Side::Far => "far",
    }
}

/// The guest's own device.
pub const DEVICE: &str = "eth0";
const MAIN: &str = "br0";

impl Plant {
    /// Makes it. It goes with the lab.
    ///
    /// # Errors
    /// The caller is not root, or a tool is missing or refuses.
    pub fn build(lab: &Lab, topology: &Topology) -> Result<Self> {
        let node = |part: &str| lab.node(&format!("{}-{part}", topology.id));
        let mut plant = Self {
            topology: *topology,
            hypervisor: node("host")?,
            guests: [node("near")?, node("far")?],
            datapath: None,
        };
        for family in ["iptables", "ip6tables", "arptables"] {
            let key = format!("net/bridge/bridge-nf-call-{family}");
            plant.hypervisor.netns().sysctl(&key, "0").context(
                "the bench compares with filters over br_netfilter; load that module \
                 (`modprobe br_netfilter`) or use a kernel that has it",
            )?;
        }
        plant.bridge(MAIN)?;
        for side in Side::BOTH {
            plant.plug(side)?;
        }
        plant.datapath = guard::raise(&plant)?;
        for side in Side::BOTH {
            plant.ip(&format!("link set {} up", port(side)))?;
            plant.settle(side)?;
        }
        if topology.guard == Guard::Steered {
            guard::steer(&mut plant)?;
        }
        Ok(plant)
    }

    /// The namespace of a guest.
    #[must_use]
    pub const fn guest(&self, side: Side) -> &Node {
        match side {
            Side::Near => &self.guests[0],
            Side::Far => &self.guests[1],
        }
    }

    fn ip(&self, words: &str) -> Result<()> {
        self.hypervisor.netns().ip(words).map(drop)
    }

    fn bridge(&self, name: &str) -> Result<()> {
        self.ip(&format!(
            "link add {name} type bridge forward_delay 0 mcast_snooping 0"
        ))?;
        self.ip(&format!("link set {name} up"))
    }

    fn plug(&self, side: Side) -> Result<()> {
        let (port, guest) = (port(side), self.guest(side).netns().name());
        let mac = side.mac();
        self.ip(&format!(
            "link add {port} type veth peer name {DEVICE} address {mac} netns {guest}"
        ))?;
        let bridge = match self.topology.wiring {
            Wiring::Bridge => MAIN.to_owned(),
            Wiring::Hybrid => {
                let own = format!("fw{port}");
                self.bridge(&own)?;
                self.ip(&format!("link add ln{port} type veth peer name pr{port}"))?;
                self.ip(&format!("link set ln{port} master {own} up"))?;
                self.ip(&format!("link set pr{port} master {MAIN} up"))?;
                own
            }
        };
        self.ip(&format!("link set {port} master {bridge}"))
    }

    /// Addresses, neighbours and stations that nobody has to learn while something is measured.
    fn settle(&self, side: Side) -> Result<()> {
        let netns = self.guest(side).netns();
        let other = match side {
            Side::Near => Side::Far,
            Side::Far => Side::Near,
        };
        netns.ip(&format!("link set {DEVICE} up"))?;
        netns.ip(&format!("addr add {}/16 dev {DEVICE}", side.address()))?;
        let (to, mac) = (other.address(), other.mac());
        netns.ip(&format!(
            "neigh add {to} lladdr {mac} dev {DEVICE} nud permanent"
        ))?;
        netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        // A lost SYN must end a run with an error, not with minutes of silence.
        netns.sysctl("net/ipv4/tcp_syn_retries", "2")?;
        self.station(side)
    }

    fn station(&self, side: Side) -> Result<()> {
        let (own, mac) = (port(side), side.mac());
        let mut ways = vec![own.to_owned()];
        if self.topology.wiring == Wiring::Hybrid {
            let other = match side {
                Side::Near => port(Side::Far),
                Side::Far => port(Side::Near),
            };
            ways.extend([format!("pr{own}"), format!("ln{other}")]);
        }
        for way in ways {
            let mut command = self.hypervisor.command("bridge");
            command.args(["fdb", "replace", &mac.to_string(), "dev", &way]);
            command.args(["master", "static"]);
            lictor_lab::site::command::output(command)?;
        }
        Ok(())
    }

    /// Makes the near port take injected frames and the far guest count and drop them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_path(&self, injector: &Injector) -> Result<()> {
        let near = port(Side::Near);
        self.hypervisor.netns().run(|| injector.open_port(near))?;
        let far = self.guest(Side::Far).netns();
        far.run(|| injector.sink(DEVICE))
    }

    /// Undoes [`Plant::open_path`], for what uses the guests' own stacks.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn close_path(&self) -> Result<()> {
        self.ip(&format!("link set {} xdp off", port(Side::Near)))?;
        let mut command = self.guest(Side::Far).command("tc");
        command.args(["qdisc", "del", "dev", DEVICE, "clsact"]);
        lictor_lab::site::command::output(command).map(drop)
    }
}
