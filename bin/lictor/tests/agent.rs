//! The agent as a process on a lab host, with guests on both sides of a rule: what two persons
//! signed is enforced from the first packet, and goes on when the agent is killed.

use anyhow::{Context, Result, bail};
use lictor_agent::state::{self, StateDir};
use lictor_evidence::KeyName;
use lictor_lab::{
    ConnectOutcome, CounterServer, CounterStream, GuestSpec, Host, Lab, NsGuest, Process, Vnic,
    connect,
};
use lictor_policy::{CompileInput, Date, Labels, compile, parse};
use lictor_types::{
    DeploymentId, Epoch, Generation, GuestId, HostId, Mac, Segment, VnicId, VnicName, VnicState,
};
use lictor_wire::api::HostReport;
use lictor_wire::binding::BindingLog;
use lictor_wire::local::{Attach, Attached, Request, Response, SOCKET};
use lictor_wire::release::{self, Floor};
use lictor_wire::{Binding, Delegation, Release, RosterHost, SigningKey, Trust, VnicBinding};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);
/// A denied connection is one that gets no answer: as long as a first SYN waits for its second.
const DENIED: Duration = Duration::from_millis(1_500);

/// A guest's name, the last octet of its addresses and its vnic's number, and its labels.
type Guest = (&'static str, u8, &'static [(&'static str, &'static str)]);

const GUESTS: [Guest; 3] = [
    (
        "web",
        10,
        &[("zone", "cde"), ("tier", "web"), ("app", "pay")],
    ),
    ("db", 11, &[("zone", "cde"), ("tier", "db"), ("app", "pay")]),
    ("corp", 12, &[("zone", "corp"), ("app", "office")]),
];

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
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

fn spec(name: &str, number: u8) -> GuestSpec {
    GuestSpec {
        name: name.into(),
        mac: mac(number),
        addresses: vec![(IpAddr::V4(address(number)), 16)],
        gateways: Vec::new(),
        services: Vec::new(),
    }
}

/// An enrolled host whose state directory holds a release and bindings that two persons signed.
struct Agent {
    folder: PathBuf,
    host: Host,
}

impl Agent {
    fn enrolled(host: &Host) -> Result<Self> {
        let agent = Self {
            folder: host.node().folder().join("agent"),
            host: host.clone(),
        };
        let state = StateDir::new(&agent.folder.join("state"));
        let (author, approver, owner) = (key("author")?, key("approver")?, key("owner")?);
        let own = key("agent-a")?;
        let deployment = DeploymentId::new("lab")?;
        let trust = Trust {
            deployment: deployment.clone(),
            authors: vec![author.verify_key()],
            approvers: vec![approver.verify_key()],
            approvals_required: 1,
            manager: author.verify_key(),
        };
        let mut envelope = release_for(&own, &owner, deployment.clone())?.sign(&author);
        envelope.add_signature(&approver)?;
        let verified = release::verify(&envelope, &trust, None)?;
        let floor = Floor {
            generation: Generation(1),
            digest: verified.digest(),
        };
        let bindings = GUESTS.iter().map(|guest| binding(guest, &deployment));
        let bindings: Result<Vec<_>> = bindings.collect();
        let bindings = bindings?
            .iter()
            .map(|binding| binding.sign(&owner))
            .collect();
        state.write_json(state::TRUST, &trust)?;
        state.write(state::KEY, own.to_private_text().as_bytes())?;
        state.keep_release(&envelope, floor)?;
        state.keep_bindings(&BindingLog {
            bindings,
            attestations: Vec::new(),
        })?;
        std::fs::write(agent.folder.join("agent.toml"), agent.config())?;
        Ok(agent)
    }

    fn config(&self) -> String {
        let folder = self.folder.display();
        format!(
            "host = \"a\"\nstate_dir = \"{folder}/state\"\nrun_dir = \"{folder}/run\"\n\
             pin_root = \"{}\"\npeer = \"{}:7443\"\nround_ms = 100\n",
            self.host.node().bpffs().display(),
            self.host.node().management(),
        )
    }

    fn start(&self) -> Result<Process> {
        let mut command = self.host.node().command(env!("CARGO_BIN_EXE_lictor"));
        command
            .args(["agent", "run", "--config"])
            .arg(self.folder.join("agent.toml"));
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

    fn ask(&self, request: &Request) -> Result<Response> {
        let mut stream = UnixStream::connect(self.folder.join("run").join(SOCKET))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }

    fn attach(&self, vnic: &Vnic, number: u8) -> Result<Attached> {
        let request = Request::Attach(Attach {
            device: vnic.device.clone(),
            name: Some(VnicName::new(format!("{}-0", vnic.guest))?),
            qmp: None,
            addresses: vec![IpAddr::V4(address(number))],
            incoming: false,
        });
        match self.ask(&request)? {
            Response::Attached(attached) => Ok(attached),
            other => bail!("not attached: {other:?}"),
        }
    }

    fn status(&self) -> Result<HostReport> {
        match self.ask(&Request::Status)? {
            Response::Status(report) => Ok(*report),
            other => bail!("no status: {other:?}"),
        }
    }

    fn guest(&self, (name, number): (&str, u8)) -> Result<NsGuest> {
        self.host.namespace_guest(&spec(name, number), |vnic| {
            let attached = self.attach(vnic, number)?;
            assert!(attached.before_first_packet, "{attached:?}");
            assert_eq!(attached.state, VnicState::Open);
            Ok(())
        })
    }
}

fn release_for(own: &SigningKey, owner: &SigningKey, deployment: DeploymentId) -> Result<Release> {
    let text = include_bytes!("../../../examples/pci/policy.lictor");
    let (policy, diagnostics) = parse("policy.lictor", text);
    let policy = policy.with_context(|| format!("{diagnostics:?}"))?;
    let sets: Vec<Labels> = GUESTS.iter().map(|(_, _, pairs)| labels(pairs)).collect();
    let date = Date::new(2026, 11, 24).context("a day")?;
    Ok(Release {
        format: release::FORMAT,
        deployment,
        generation: Generation(1),
        created_ms: 1,
        policy: compile(
            &policy,
            &CompileInput {
                label_sets: sets.clone(),
                date,
            },
        )?,
        roster: vec![RosterHost {
            host: HostId::new("a")?,
            cluster: "main".into(),
            key: own.verify_key(),
            peer: "10.255.0.1:7443".parse()?,
        }],
        delegations: vec![Delegation {
            key: owner.verify_key(),
            labels: sets,
            guests_max: 8,
            prefixes: vec!["10.77.0.0/16".parse()?],
            segments: vec![Segment(1)],
        }],
    })
}

fn binding((name, number, pairs): &Guest, deployment: &DeploymentId) -> Result<Binding> {
    Ok(Binding {
        deployment: deployment.clone(),
        epoch: Epoch(u64::from(*number)),
        guest: GuestId::new(*name)?,
        labels: labels(pairs),
        vnics: vec![VnicBinding {
            vnic: VnicId(u32::from(*number)),
            name: VnicName::new(format!("{name}-0"))?,
            mac: mac(*number),
            segment: Segment(1),
            sessions_max: 1_024,
        }],
        hosts: Vec::new(),
        retired: false,
    })
}

fn denied(from: &NsGuest, to: SocketAddr) -> Result<()> {
    let outcome = connect(from.netns(), to, DENIED)?;
    assert_eq!(outcome, ConnectOutcome::TimedOut);
    Ok(())
}

#[test]
fn rules_hold_between_guests_of_one_host_and_outlive_the_agent() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = Agent::enrolled(&lab.host("a")?)?;
    let mut process = agent.start()?;
    let web = agent.guest(("web", 10))?;
    let db = agent.guest(("db", 11))?;
    let corp = agent.guest(("corp", 12))?;
    let _server = CounterServer::start(db.netns(), 5432)?;
    let _other = CounterServer::start(db.netns(), 5433)?;
    let pg = SocketAddr::from((address(11), 5432));
    let unnamed = SocketAddr::from((address(11), 5433));

    let stream = CounterStream::hold(web.netns(), pg)?;
    stream.log().wait_for(20, LIMIT)?;
    denied(&corp, pg)?;
    denied(&web, unnamed)?;

    process.kill()?;
    let before = stream.log().report().count;
    stream.log().wait_for(before + 50, LIMIT)?;
    denied(&corp, pg)?;
    let _process = agent.start()?;
    let report = stream.log().wait_for(before + 150, LIMIT)?;
    assert!(report.contiguous && report.ended.is_none(), "{report:?}");

    let status = agent.status()?;
    assert_eq!(status.generation, Generation(1));
    assert_eq!(status.tables_expected, status.tables_found);
    assert!(status.hooks_ok);
    for guest in &status.guests {
        assert_eq!(guest.vnics[0].state, VnicState::Open, "{guest:?}");
    }
    Ok(())
}

#[test]
fn every_packet_that_a_device_carried_got_a_verdict() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = Agent::enrolled(&lab.host("a")?)?;
    let _process = agent.start()?;
    let web = agent.guest(("web", 10))?;
    let db = agent.guest(("db", 11))?;
    {
        let _server = CounterServer::start(db.netns(), 5432)?;
        let stream = CounterStream::hold(web.netns(), SocketAddr::from((address(11), 5432)))?;
        stream.log().wait_for(50, LIMIT)?;
    }
    // The connection is closed; its last acknowledgements need a moment.
    std::thread::sleep(Duration::from_millis(300));
    let status = agent.status()?;
    assert_eq!(status.guests.len(), 2);
    for guest in &status.guests {
        let vnic = &guest.vnics[0];
        assert!(vnic.judged[0] > 50, "{vnic:?}");
        assert_eq!(vnic.judged[0], vnic.device[0], "from the guest: {vnic:?}");
        assert_eq!(
            vnic.allowed[1], vnic.device[1],
            "toward the guest: {vnic:?}"
        );
    }
    Ok(())
}

#[test]
fn an_agent_that_nobody_enrolled_ends_with_the_next_step() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("a")?;
    let agent = Agent {
        folder: host.node().folder().join("agent"),
        host,
    };
    std::fs::create_dir_all(&agent.folder)?;
    let file = agent.folder.join("agent.toml");
    std::fs::write(&file, agent.config())?;
    let mut command = agent.host.node().command(env!("CARGO_BIN_EXE_lictor"));
    let output = command
        .args(["agent", "run", "--config"])
        .arg(&file)
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("lictor agent enroll"),
        "{error}"
    );
    Ok(())
}
