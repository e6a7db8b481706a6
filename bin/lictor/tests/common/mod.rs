//! Agents as processes on lab hosts, enrolled with what two persons signed, without a manager.

use anyhow::{Context, Result, bail};
use lictor_agent::state::{self, StateDir};
use lictor_evidence::{Body, Entry, KeyName, recover};
use lictor_lab::{GuestSpec, Host, NsGuest, Process, QemuGuest, Service, Vnic};
use lictor_policy::{CompileInput, Date, Labels, compile, parse};
use lictor_types::{
    DeploymentId, Epoch, Generation, GuestId, HostId, Mac, Segment, VnicId, VnicName, VnicState,
};
use lictor_wire::api::{GuestReport, HostReport};
use lictor_wire::binding::BindingLog;
use lictor_wire::local::{Attach, Attached, MovePhase, MoveStatus, Request, Response, SOCKET};
use lictor_wire::release::{self, Floor};
use lictor_wire::{
    AddressAttestation, Binding, Delegation, Envelope, Release, RosterHost, SigningKey, Trust,
    VnicBinding,
};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A guest's name, the last octet of its addresses and its vnic's number, and its labels.
type Guest = (&'static str, u8, &'static [(&'static str, &'static str)]);

pub(crate) const WEB: u8 = 10;
pub(crate) const DB: u8 = 11;
pub(crate) const CORP: u8 = 12;
pub(crate) const BATCH: u8 = 13;

const GUESTS: [Guest; 4] = [
    (
        "web",
        WEB,
        &[("zone", "cde"), ("tier", "web"), ("app", "pay")],
    ),
    ("db", DB, &[("zone", "cde"), ("tier", "db"), ("app", "pay")]),
    ("corp", CORP, &[("zone", "corp"), ("app", "office")]),
    (
        "batch",
        BATCH,
        &[("zone", "cde"), ("tier", "batch"), ("app", "pay")],
    ),
];

pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

pub(crate) fn name_of(number: u8) -> &'static str {
    let found = GUESTS.iter().find(|(_, other, _)| *other == number);
    found.map_or("unbound", |(name, _, _)| name)
}

pub(crate) fn guest_id(number: u8) -> GuestId {
    GuestId::new(name_of(number)).expect("a valid name")
}

fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0x77, 0, number])
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn key(name: &str) -> Result<SigningKey> {
    Ok(SigningKey::generate(
        KeyName::new(name)?,
        &mut rand::thread_rng(),
    ))
}

pub(crate) fn spec(number: u8, services: &[Service]) -> GuestSpec {
    GuestSpec {
        name: name_of(number).into(),
        mac: mac(number),
        addresses: vec![(IpAddr::V4(address(number)), 16)],
        gateways: Vec::new(),
        services: services.to_vec(),
    }
}

/// An enrolled host whose state directory holds a release and bindings that two persons signed.
pub(crate) struct Agent {
    pub(crate) folder: PathBuf,
    pub(crate) host: Host,
}

/// The persons of an installation.
struct Persons {
    author: SigningKey,
    approver: SigningKey,
    owner: SigningKey,
    deployment: DeploymentId,
}

/// Enrols these hosts with one release that knows all of them.
pub(crate) fn enrolled(hosts: &[&Host]) -> Result<Vec<Agent>> {
    let persons = Persons {
        author: key("author")?,
        approver: key("approver")?,
        owner: key("owner")?,
        deployment: DeploymentId::new("lab")?,
    };
    let keys = hosts
        .iter()
        .map(|host| key(&format!("agent-{}", host.node().name())))
        .collect::<Result<Vec<_>>>()?;
    let release = release_for(hosts, &keys, &persons)?;
    let log = bindings(&keys[0], hosts[0], &persons)?;
    let with_keys = hosts.iter().zip(&keys);
    with_keys
        .map(|(host, key)| {
            let agent = Agent::unenrolled(host)?;
            agent.enrol(key, &persons, (&release, &log))?;
            Ok(agent)
        })
        .collect()
}

impl Agent {
    pub(crate) fn unenrolled(host: &Host) -> Result<Self> {
        let agent = Self {
            folder: host.node().folder().join("agent"),
            host: host.clone(),
        };
        std::fs::create_dir_all(&agent.folder)?;
        std::fs::write(agent.config_file(), agent.config())?;
        Ok(agent)
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    fn name(&self) -> &str {
        self.host.node().name()
    }

    fn enrol(
        &self,
        key: &SigningKey,
        persons: &Persons,
        (release, log): (&Release, &BindingLog),
    ) -> Result<()> {
        let state = StateDir::new(&self.folder.join("state"));
        let trust = Trust {
            deployment: persons.deployment.clone(),
            authors: vec![persons.author.verify_key()],
            approvers: vec![persons.approver.verify_key()],
            approvals_required: 1,
            manager: persons.author.verify_key(),
        };
        let mut envelope = release.sign(&persons.author);
        envelope.add_signature(&persons.approver)?;
        let verified = release::verify(&envelope, &trust, None)?;
        let floor = Floor {
            generation: release.generation,
            digest: verified.digest(),
        };
        state.write_json(state::TRUST, &trust)?;
        state.write(state::KEY, key.to_private_text().as_bytes())?;
        state.keep_release(&envelope, floor)?;
        state.keep_bindings(log)?;
        Ok(())
    }

    fn config(&self) -> String {
        let folder = self.folder.display();
        format!(
            "host = \"{}\"\nstate_dir = \"{folder}/state\"\nrun_dir = \"{folder}/run\"\n\
             pin_root = \"{}\"\npeer = \"{}:7443\"\nround_ms = 100\n",
            self.name(),
            self.host.node().bpffs().display(),
            self.host.node().management(),
        )
    }

    pub(crate) fn start(&self) -> Result<Process> {
        let mut command = self.host.node().command(env!("CARGO_BIN_EXE_lictor"));
        command.args(["agent", "run", "--config"]);
        command.arg(self.config_file());
        let process = Process::start("the agent", command)?;
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if self.ask(&Request::Status).is_ok() {
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the agent does not answer on its socket")
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Response> {
        let mut stream = UnixStream::connect(self.folder.join("run").join(SOCKET))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }

    pub(crate) fn attach(&self, vnic: &Vnic, number: u8, incoming: bool) -> Result<Attached> {
        let request = Request::Attach(Attach {
            device: vnic.device.clone(),
            name: Some(VnicName::new(format!("{}-0", vnic.guest))?),
            qmp: vnic.qmp.clone(),
            addresses: vec![IpAddr::V4(address(number))],
            incoming,
        });
        match self.ask(&request)? {
            Response::Attached(attached) => Ok(attached),
            other => bail!("not attached: {other:?}"),
        }
    }

    pub(crate) fn status(&self) -> Result<HostReport> {
        match self.ask(&Request::Status)? {
            Response::Status(report) => Ok(*report),
            other => bail!("no status: {other:?}"),
        }
    }

    /// What the agent says of one guest, if it has vnics here.
    pub(crate) fn guest(&self, number: u8) -> Result<Option<GuestReport>> {
        let guest = guest_id(number);
        let guests = self.status()?.guests;
        Ok(guests.into_iter().find(|one| one.guest == guest))
    }

    /// Waits until the agent says this of a guest.
    pub(crate) fn wait_for(&self, number: u8, wanted: impl Fn(&GuestReport) -> bool) -> Result<()> {
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < LIMIT {
            last = self.guest(number)?;
            if last.as_ref().is_some_and(&wanted) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!(
            "host {} never said so of {}: {last:?}",
            self.name(),
            name_of(number)
        )
    }

    /// A guest in a namespace, attached before its device can carry anything.
    pub(crate) fn namespace_guest(&self, number: u8) -> Result<NsGuest> {
        self.host.namespace_guest(&spec(number, &[]), |vnic| {
            let attached = self.attach(vnic, number, false)?;
            assert!(attached.before_first_packet, "{attached:?}");
            assert_eq!(attached.state, VnicState::Open);
            Ok(())
        })
    }

    /// A guest in QEMU, likewise; its vnic opens when it runs.
    pub(crate) fn boot(&self, number: u8, services: &[Service]) -> Result<QemuGuest> {
        let guest = self.host.boot(&spec(number, services), |vnic| {
            let attached = self.attach(vnic, number, false)?;
            assert!(attached.before_first_packet, "{attached:?}");
            Ok(())
        })?;
        guest.wait_up(LIMIT)?;
        self.wait_for(number, |one| one.vnics[0].state == VnicState::Open)?;
        Ok(guest)
    }

    /// A QEMU that waits for a guest.
    pub(crate) fn receive(&self, number: u8, services: &[Service]) -> Result<QemuGuest> {
        self.host.receive(&spec(number, services), |vnic| {
            let attached = self.attach(vnic, number, true)?;
            assert_eq!(attached.state, VnicState::Hold);
            Ok(())
        })
    }

    pub(crate) fn admit(&self, number: u8, target: &str) -> Result<Response> {
        self.ask(&Request::MoveAdmit {
            guest: guest_id(number),
            target: HostId::new(target)?,
            asked_by: "the test".into(),
        })
    }

    pub(crate) fn wait_phase(&self, number: u8, wanted: MovePhase) -> Result<MoveStatus> {
        let start = Instant::now();
        loop {
            let guest = guest_id(number);
            let status = match self.ask(&Request::MoveStatus { guest })? {
                Response::Move(status) => status,
                other => bail!("no move: {other:?}"),
            };
            if status.phase == wanted {
                return Ok(status);
            }
            if start.elapsed() > LIMIT {
                bail!("the move stays at {status:?}, not at {wanted:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that the agent has recorded, read from its disk.
    pub(crate) fn evidence(&self) -> Result<Vec<Body>> {
        let bytes = std::fs::read(self.folder.join("state/evidence.log"))?;
        let entries = recover(&bytes, None)?.entries;
        entries
            .iter()
            .map(|entry| Ok(serde_json::from_slice::<Entry>(entry)?.body))
            .collect()
    }
}

fn release_for(hosts: &[&Host], keys: &[SigningKey], persons: &Persons) -> Result<Release> {
    let text = include_bytes!("../../../../examples/pci/policy.lictor");
    let (policy, diagnostics) = parse("policy.lictor", text);
    let policy = policy.with_context(|| format!("{diagnostics:?}"))?;
    let sets: Vec<Labels> = GUESTS.iter().map(|(_, _, pairs)| labels(pairs)).collect();
    let date = Date::new(2026, 11, 24).context("a day")?;
    let input = CompileInput {
        label_sets: sets.clone(),
        date,
    };
    let roster = hosts.iter().zip(keys).map(|(host, key)| {
        Ok(RosterHost {
            host: HostId::new(host.node().name())?,
            cluster: "main".into(),
            key: key.verify_key(),
            peer: format!("{}:7443", host.node().management()).parse()?,
        })
    });
    Ok(Release {
        format: release::FORMAT,
        deployment: persons.deployment.clone(),
        generation: Generation(1),
        created_ms: 1,
        policy: compile(&policy, &input)?,
        roster: roster.collect::<Result<_>>()?,
        delegations: vec![Delegation {
            key: persons.owner.verify_key(),
            labels: sets,
            guests_max: 8,
            prefixes: vec!["10.77.0.0/16".parse()?],
            segments: vec![Segment(1)],
        }],
    })
}

/// Every guest is bound, and the first host has said which addresses they have: without a manager
/// nobody else could tell.
fn bindings(key: &SigningKey, host: &Host, persons: &Persons) -> Result<BindingLog> {
    let (mut bound, mut attested) = (Vec::<Envelope>::new(), Vec::<Envelope>::new());
    for (name, number, pairs) in &GUESTS {
        let vnic = VnicId(u32::from(*number));
        let guest = GuestId::new(*name)?;
        let binding = Binding {
            deployment: persons.deployment.clone(),
            epoch: Epoch(u64::from(*number)),
            guest: guest.clone(),
            labels: labels(pairs),
            vnics: vec![VnicBinding {
                vnic,
                name: VnicName::new(format!("{name}-0"))?,
                mac: mac(*number),
                segment: Segment(1),
                sessions_max: 1_024,
            }],
            hosts: Vec::new(),
            retired: false,
        };
        bound.push(binding.sign(&persons.owner));
        let addresses = AddressAttestation {
            deployment: persons.deployment.clone(),
            host: HostId::new(host.node().name())?,
            guest,
            vnic,
            sequence: 1,
            addresses: vec![IpAddr::V4(address(*number))],
        };
        attested.push(addresses.sign(key));
    }
    Ok(BindingLog {
        bindings: bound,
        attestations: attested,
    })
}
