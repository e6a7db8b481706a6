//! The agent as a process on a lab host, with guests on both sides of a rule: what two persons
//! signed is enforced from the first packet, and goes on when the agent is killed.

use anyhow::{Context, Result};
use lictor_agent::state::{self, StateDir};
use lictor_lab::site::pci::{CORP, DB, WEB};
use lictor_lab::site::{Agent, Arrival, Guest, PEER_PORT, Programs, key};
use lictor_lab::{ConnectOutcome, CounterServer, CounterStream, Host, Lab, NsGuest, connect};
use lictor_policy::{CompileInput, Date, Labels, compile, parse};
use lictor_types::{DeploymentId, Digest, Generation, HostId, Segment, VnicState};
use lictor_wire::binding::BindingLog;
use lictor_wire::release::{self, Floor};
use lictor_wire::{Delegation, Proved, Release, RosterHost, SigningKey, Trust};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// A denied connection is one that gets no answer: as long as a first SYN waits for its second.
const DENIED: Duration = Duration::from_millis(1_500);

const GUESTS: [Guest; 3] = [WEB, DB, CORP];

/// An agent on a host, with nothing in its state directory.
fn agent_on(host: &Host) -> Result<Agent> {
    // No test here verifies a pack.
    let programs = Programs {
        lictor: env!("CARGO_BIN_EXE_lictor").into(),
        verify: "lictor-verify".into(),
    };
    let agent = Agent::new(host, &programs);
    agent.configure(None)?;
    Ok(agent)
}

/// Who signs what a host without a manager has in its state directory.
struct Signers {
    author: SigningKey,
    approver: SigningKey,
    owner: SigningKey,
    own: SigningKey,
    deployment: DeploymentId,
}

impl Signers {
    fn trust(&self) -> Trust {
        Trust {
            deployment: self.deployment.clone(),
            authors: vec![self.author.verify_key()],
            approvers: vec![self.approver.verify_key()],
            approvals_required: 1,
            manager: self.author.verify_key(),
            freshness: None,
        }
    }

    /// Leaves a release where the agent looks for it when it starts.
    fn leave_release(&self, agent: &Agent, generation: u64) -> Result<()> {
        let release = release_for(agent.host(), self, Generation(generation))?;
        let mut envelope = release.sign(&self.author);
        envelope.add_signature(&self.approver)?;
        let verified = release::verify(&envelope, &self.trust(), None)?;
        let floor = Floor {
            generation: Generation(generation),
            digest: verified.digest(),
        };
        let state = StateDir::new(&agent.state_dir());
        Ok(state.keep_release(&envelope, floor)?)
    }
}

/// A host without a manager, whose state directory holds a release and bindings that two persons
/// signed: all that an agent needs.
fn enrolled(host: &Host) -> Result<(Agent, Signers)> {
    let agent = agent_on(host)?;
    let state = StateDir::new(&agent.state_dir());
    let signers = Signers {
        author: key("author")?,
        approver: key("approver")?,
        owner: key("owner")?,
        own: key("agent-a")?,
        deployment: DeploymentId::new("lab")?,
    };
    signers.leave_release(&agent, 1)?;
    let deployment = &signers.deployment;
    let bindings = GUESTS.iter().map(|guest| guest.binding(deployment));
    let bindings: Result<Vec<_>> = bindings.collect();
    let bindings = bindings?
        .iter()
        .map(|binding| binding.sign(&signers.owner))
        .collect();
    state.write_json(state::TRUST, &signers.trust())?;
    state.write(state::KEY, signers.own.to_private_text().as_bytes())?;
    state.keep_bindings(&BindingLog {
        bindings,
        attestations: Vec::new(),
    })?;
    Ok((agent, signers))
}

fn release_for(host: &Host, signers: &Signers, generation: Generation) -> Result<Release> {
    let text = include_bytes!("../../../examples/pci/policy.lictor");
    let (policy, diagnostics) = parse("policy.lictor", text);
    let policy = policy.with_context(|| format!("{diagnostics:?}"))?;
    let sets: Vec<Labels> = GUESTS.iter().map(Guest::labels).collect();
    let date = Date::new(2026, 11, 24).context("a day")?;
    let input = CompileInput {
        label_sets: sets.clone(),
        date,
    };
    Ok(Release {
        format: release::FORMAT,
        deployment: signers.deployment.clone(),
        generation,
        created_ms: 1,
        policy: compile(&policy, &input)?,
        roster: vec![RosterHost {
            host: HostId::new("a")?,
            cluster: "main".into(),
            key: signers.own.verify_key(),
            peer: (host.node().management(), PEER_PORT).into(),
        }],
        delegations: vec![Delegation {
            key: signers.owner.verify_key(),
            labels: sets,
            guests_max: 8,
            prefixes: vec!["10.77.0.0/16".parse()?],
            segments: vec![Segment(1)],
        }],
        // As its author says: the agent takes two persons' word for it.
        proved: Some(Proved {
            estate: Digest::of(b"as many guests as this test has"),
            held: policy.intents.iter().map(|one| one.name.clone()).collect(),
            excepted: Vec::new(),
        }),
    })
}

fn start(agent: &Agent, guest: &Guest) -> Result<NsGuest> {
    agent.host().namespace_guest(&guest.spec(&[]), |vnic| {
        let addresses = [IpAddr::V4(guest.address())];
        let attached = agent.attach(vnic, &addresses, Arrival::Start)?;
        assert!(attached.before_first_packet, "{attached:?}");
        assert_eq!(attached.state, VnicState::Open);
        Ok(())
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
    let (mut agent, _) = enrolled(&lab.host("a")?)?;
    agent.start()?;
    let web = start(&agent, &WEB)?;
    let db = start(&agent, &DB)?;
    let corp = start(&agent, &CORP)?;
    let _server = CounterServer::start(db.netns(), 5432)?;
    let _other = CounterServer::start(db.netns(), 5433)?;
    let pg = SocketAddr::from((DB.address(), 5432));
    let unnamed = SocketAddr::from((DB.address(), 5433));

    let stream = CounterStream::hold(web.netns(), pg)?;
    stream.log().wait_for(20, LIMIT)?;
    denied(&corp, pg)?;
    denied(&web, unnamed)?;

    agent.kill()?;
    let before = stream.log().report().count;
    stream.log().wait_for(before + 50, LIMIT)?;
    denied(&corp, pg)?;
    agent.start()?;
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
fn readers_see_live_sessions_and_which_of_them_a_new_policy_would_cut() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (mut agent, _) = enrolled(&lab.host("a")?)?;
    agent.start()?;
    let web = start(&agent, &WEB)?;
    let db = start(&agent, &DB)?;
    let _server = CounterServer::start(db.netns(), 5432)?;
    let stream = CounterStream::hold(web.netns(), SocketAddr::from((DB.address(), 5432)))?;
    stream.log().wait_for(20, LIMIT)?;

    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let socket = agent.socket().display().to_string();
    let lictor = |words: &[&str]| -> Result<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lictor"));
        let output = command.args(words).args(["--output", "json"]).output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).context(errors)
    };
    let (counters, sessions) = (path("counters.json"), path("sessions.json"));
    let counted = lictor(&["host", "counters", "--out", &counters, "--socket", &socket])?;
    assert!(counted["pay/app-db"].as_u64() > Some(0), "{counted}");
    assert_eq!(counted["pay/batch-db"], 0, "{counted}");
    lictor(&["host", "sessions", "--out", &sessions, "--socket", &socket])?;

    let old = include_str!("../../../examples/pci/policy.lictor");
    let new = old.replace(
        "from tier:web & app:pay  to tier:db",
        "from tier:app  to tier:db",
    );
    for (text, expected) in [(old, 0), (&new, 2)] {
        let policy = path("policy.lictor");
        std::fs::write(&policy, text)?;
        let words = [
            "policy",
            "simulate",
            "--policy",
            &policy,
            "--sessions",
            &sessions,
        ];
        let told = lictor(&words)?;
        // Both ends of the one conversation.
        assert_eq!(told["cut"], expected, "{told}");
        for group in told["groups"].as_array().context("a list")? {
            assert_eq!(group["admitted_by"], "pay/app-db", "{told}");
            assert_eq!(group["reason"], "default-deny", "{told}");
        }
    }
    let report = stream.log().report();
    assert!(report.contiguous && report.ended.is_none(), "{report:?}");
    Ok(())
}

#[test]
fn trap_7_every_packet_that_a_device_carried_got_a_verdict() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (mut agent, _) = enrolled(&lab.host("a")?)?;
    agent.start()?;
    let web = start(&agent, &WEB)?;
    let db = start(&agent, &DB)?;
    {
        let _server = CounterServer::start(db.netns(), 5432)?;
        let stream = CounterStream::hold(web.netns(), SocketAddr::from((DB.address(), 5432)))?;
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

/// What a guest's own stack has counted.
#[derive(Debug, Clone, Copy)]
struct Carried {
    sent: u64,
    received: u64,
    /// TCP segments that were sent again.
    resent: u64,
}

fn carried(guest: &NsGuest) -> Result<Carried> {
    let read = |file: &str| {
        guest.netns().run(|| {
            Ok(std::fs::read_to_string(format!(
                "/proc/thread-self/net/{file}"
            ))?)
        })
    };
    let (devices, tcp) = (read("dev")?, read("snmp")?);
    let mut own = devices.lines().filter_map(|line| line.split_once(':'));
    let (_, counts) = own
        .find(|(name, _)| name.trim() == "eth0")
        .context("a guest has eth0")?;
    let number = |words: &str, place: usize| -> Result<u64> {
        let word = words.split_whitespace().nth(place);
        Ok(word.context("a counter")?.parse()?)
    };
    let mut rows = tcp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (
        rows.next().context("names")?,
        rows.next().context("values")?,
    );
    let place = names
        .split_whitespace()
        .position(|name| name == "RetransSegs");
    Ok(Carried {
        received: number(counts, 1)?,
        sent: number(counts, 9)?,
        resent: number(values, place.context("RetransSegs")?)?,
    })
}

/// The agent is killed, comes back, and loads another release, while a number goes from guest to
/// guest every ten milliseconds.
#[test]
fn trap_6_no_packet_is_lost_or_unjudged_while_the_agent_dies_restarts_and_reloads() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (mut agent, signers) = enrolled(&lab.host("a")?)?;
    agent.start()?;
    let (web, db) = (start(&agent, &WEB)?, start(&agent, &DB)?);
    {
        let _server = CounterServer::start(db.netns(), 5432)?;
        let stream = CounterStream::hold(web.netns(), SocketAddr::from((DB.address(), 5432)))?;
        let mut count = 0;
        for generation in 2..=4 {
            count += 40;
            stream.log().wait_for(count, LIMIT)?;
            agent.kill()?;
            signers.leave_release(&agent, generation)?;
            count = stream.log().report().count + 40;
            stream.log().wait_for(count, LIMIT)?;
            agent.start()?;
            assert_eq!(agent.status()?.generation, Generation(generation));
            count = stream.log().report().count;
        }
        let report = stream.log().wait_for(count + 40, LIMIT)?;
        assert!(report.contiguous && report.ended.is_none(), "{report:?}");
    }
    // The connection is closed; its last acknowledgements need a moment.
    std::thread::sleep(Duration::from_millis(300));
    let status = agent.status()?;
    assert_eq!(status.guests.len(), 2);
    for (name, guest) in [("web", &web), ("db", &db)] {
        let report = status.guests.iter().find(|one| one.guest.as_str() == name);
        let vnic = &report.context("a guest")?.vnics[0];
        let own = carried(guest)?;
        assert_eq!(own.resent, 0, "{name}: nothing was lost: {own:?}");
        assert!(own.sent > 200, "{name}: {own:?}");
        assert_eq!(own.sent, vnic.device[0], "{name} sent: {vnic:?}");
        assert_eq!(vnic.device[0], vnic.judged[0], "{name} judged: {vnic:?}");
        assert_eq!(vnic.allowed[1], vnic.device[1], "{name} let in: {vnic:?}");
        assert_eq!(vnic.device[1], own.received, "{name} received: {vnic:?}");
    }
    Ok(())
}

#[test]
fn an_agent_that_nobody_enrolled_ends_with_the_next_step() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut agent = agent_on(&lab.host("a")?)?;
    let error = agent.start().expect_err("nobody enrolled it");
    let text = format!("{error:#}");
    assert!(text.contains("lictor agent enroll"), "{text}");
    Ok(())
}
