//! Hosts and guests of the demo: a and b are protected, c is not.

use super::fabric::Port;
use super::summary::MoveRow;
use super::{Options, evidence};
use crate::guest::{NsGuest, QemuGuest, Service, Vnic};
use crate::host::Host;
use crate::site::pci::{BATCH, CLIENT, CORP, DB, WEB};
use crate::site::{Agent, Arrival, Draft, Guest, Signed, Site};
use crate::wait;
use anyhow::{Context, Result, bail};
use lictor_types::{Generation, VnicState};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How long anything may take that needs a guest.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Numbers of a stream that show that it flows.
pub(super) const FLOWS: usize = 20;

/// TCP ports, as the policy's services name them.
pub(super) const PORTAL: u16 = 8443;
pub(super) const PG: u16 = 5432;
pub(super) const SSH: u16 = 22;

pub(super) const ALL: [Guest; 5] = [WEB, DB, CORP, BATCH, CLIENT];

/// Where the guests start.
const PLACES: &[(&str, &[&str])] = &[("a", &["web", "db", "corp"]), ("b", &["batch", "client"])];

/// Where a guest listens.
pub(super) fn at(guest: &Guest, port: u16) -> SocketAddr {
    SocketAddr::from((guest.address(), port))
}

/// Everything that the steps work on. Guests go before their hosts: fields drop in this order.
#[derive(Debug)]
pub struct World {
    /// What the fabric carried, out of each host.
    pub(super) fabric: Fabric,
    pub(super) web: QemuGuest,
    pub(super) db: QemuGuest,
    pub(super) batch: QemuGuest,
    pub(super) corp: NsGuest,
    pub(super) client: NsGuest,
    pub(super) a: Host,
    pub(super) b: Host,
    pub(super) c: Host,
    pub(super) moves: Vec<MoveRow>,
    pub(super) policies: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) generation: Generation,
    pub(super) site: Site,
}

/// A capture on the fabric's port of each host, from before the first guest.
#[derive(Debug)]
pub(super) struct Fabric {
    pub(super) a: Port,
    pub(super) b: Port,
    pub(super) c: Port,
}

impl World {
    /// Builds everything, and says what was seen of it.
    pub(super) fn build(options: &Options) -> Result<(Self, String)> {
        let mut site = Site::new(options.programs.clone(), "demo")?;
        let a = site.protected_host("a")?;
        let b = site.protected_host("b")?;
        let c = site.lab().host("c")?;
        let policy = options.policies.join("policy.lictor");
        let release = Draft::compile(&site, &policy, 1, &ALL)?;
        publish(&site, &release)?;
        for guest in &ALL {
            site.bind(guest)?;
        }
        wait_for_bindings(&site)?;
        let fabric = Fabric {
            a: Port::watch(&site, &a)?,
            b: Port::watch(&site, &b)?,
            c: Port::watch(&site, &c)?,
        };
        let corp = namespace_guest(&site, &a, &CORP)?;
        let client = namespace_guest(&site, &b, &CLIENT)?;
        let (web, db, batch) = boot_all(&site, &a, &b)?;
        let world = Self {
            fabric,
            web,
            db,
            batch,
            corp,
            client,
            a,
            b,
            c,
            moves: Vec::new(),
            policies: options.policies.clone(),
            folder: options.folder.clone(),
            generation: release.generation(),
            site,
        };
        let saw = world.standing()?;
        Ok((world, saw))
    }

    /// Every vnic forwards, and was attached before its first packet.
    fn standing(&self) -> Result<String> {
        for (host, guests) in PLACES {
            for guest in *guests {
                self.wait_open(host, guest)?;
            }
        }
        let agents: Vec<_> = self.site.agents().map(Agent::name).collect();
        Ok(format!(
            "{} guests attached before their first packet, by the agents of {}; release {} read \
             back from both kernels",
            ALL.len(),
            agents.join(" and "),
            self.generation,
        ))
    }

    /// Waits until a guest's vnic forwards on a host.
    pub(super) fn wait_open(&self, host: &str, guest: &str) -> Result<()> {
        let agent = self.site.agent(host)?;
        wait::seldom("a vnic that forwards", LIMIT, || {
            let open = agent.guest(guest)?.is_some_and(|report| {
                report
                    .vnics
                    .iter()
                    .all(|vnic| vnic.state == VnicState::Open)
            });
            Ok(open.then_some(()))
        })
        .with_context(|| format!("{guest} on {host}: {:?}", agent.guest(guest)))
    }

    /// Waits until a guest's QEMU asks the agent of a host.
    pub(super) fn wait_interlock(&self, host: &str, guest: &str) -> Result<()> {
        let agent = self.site.agent(host)?;
        wait::seldom("an interlock", LIMIT, || {
            let guarded = agent.guest(guest)?.is_some_and(|report| report.interlocked);
            Ok(guarded.then_some(()))
        })
        .with_context(|| format!("{guest} on {host}"))
    }

    /// Waits for a step of the evidence; see [`evidence::find`].
    pub(super) fn evidence<T>(
        &self,
        (what, since): (&str, usize),
        wanted: impl Fn(&lictor_evidence::Entry) -> Option<T>,
    ) -> Result<T> {
        evidence::find(&self.site, (what, since), wanted)
    }
}

/// Attaches a guest's vnic, and insists that it had carried nothing before.
pub(super) fn attach(
    site: &Site,
    host: &str,
    (guest, vnic): (&Guest, &Vnic),
    arrival: Arrival,
) -> Result<()> {
    let addresses = [IpAddr::V4(guest.address())];
    let attached = site.agent(host)?.attach(vnic, &addresses, arrival)?;
    if !attached.before_first_packet || attached.excess_frames > 0 {
        bail!(
            "{} was not attached before its first packet: {attached:?}",
            guest.name
        );
    }
    Ok(())
}

fn namespace_guest(site: &Site, host: &Host, guest: &Guest) -> Result<NsGuest> {
    host.namespace_guest(&guest.spec(&[]), |vnic| {
        attach(site, host.node().name(), (guest, vnic), Arrival::Start)
    })
}

/// Boots a guest whose vnic is attached before its tap can carry anything.
pub(super) fn boot(
    site: &Site,
    host: &Host,
    guest: &Guest,
    services: &[Service],
) -> Result<QemuGuest> {
    let booted = host.boot(&guest.spec(services), |vnic| {
        attach(site, host.node().name(), (guest, vnic), Arrival::Start)
    })?;
    booted.wait_up(LIMIT)?;
    Ok(booted)
}

/// What batch runs, on whichever host.
pub(super) fn batch_services() -> [Service; 1] {
    [Service::Stream(at(&DB, PG))]
}

/// Two processors boot three guests faster at once than one after the other.
fn boot_all(site: &Site, a: &Host, b: &Host) -> Result<(QemuGuest, QemuGuest, QemuGuest)> {
    let web = [
        Service::Counter(PORTAL),
        Service::Counter(SSH),
        Service::Stream(at(&DB, PG)),
    ];
    std::thread::scope(|scope| {
        let db = scope.spawn(|| boot(site, a, &DB, &[Service::Counter(PG)]));
        let web = scope.spawn(move || boot(site, a, &WEB, &web));
        let batch = scope.spawn(|| boot(site, b, &BATCH, &batch_services()));
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<QemuGuest>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let (db, web, batch) = (join(db), join(web), join(batch));
        Ok((web?, db?, batch?))
    })
}

/// Publishes a release with both signatures and waits until every agent enforces it.
pub(super) fn publish(site: &Site, release: &Draft) -> Result<()> {
    let file = release.sign(site, Signed::ByBoth)?;
    site.publish(&file)?
        .done()
        .context("a release with two signatures")?;
    wait_for_generation(site, release.generation())
}

/// Waits until what every agent read back from its kernel is this release.
pub(super) fn wait_for_generation(site: &Site, generation: Generation) -> Result<()> {
    for agent in site.agents() {
        wait::seldom("an agent that enforces the release", LIMIT, || {
            let status = agent.status()?;
            let same = status.tables_expected == status.tables_found;
            Ok((status.generation == generation && same).then_some(()))
        })
        .with_context(|| format!("host {}: {}", agent.name(), agent.log()))?;
    }
    Ok(())
}

fn wait_for_bindings(site: &Site) -> Result<()> {
    // Each binding has the next epoch.
    let newest = ALL.len() as u64;
    for agent in site.agents() {
        wait::seldom("an agent with all bindings", LIMIT, || {
            Ok((agent.status()?.epoch.0 == newest).then_some(()))
        })
        .with_context(|| format!("host {}: {}", agent.name(), agent.log()))?;
    }
    Ok(())
}

impl World {
    /// How a person looks around in it.
    #[must_use]
    pub fn how_to_enter(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("It is still up. Enter a host or a guest with\n");
        let hosts = [&self.a, &self.b, &self.c].map(|host| (host.node().name(), host.netns()));
        let guests = [("corp", self.corp.netns()), ("client", self.client.netns())];
        for (name, netns) in hosts.into_iter().chain(guests) {
            writeln!(text, "  {name:<8} nsenter --net={}", netns.path().display())
                .expect("a String takes all");
        }
        for agent in self.site.agents() {
            let (name, socket) = (agent.name(), agent.socket());
            writeln!(text, "agent {name}  {}", socket.display()).expect("a String takes all");
        }
        let manager = self.site.manager();
        let (url, dir) = (manager.url(), manager.dir());
        write!(text, "manager  {url}, its directory is {}", dir.display())
            .expect("a String takes all");
        text
    }
}
