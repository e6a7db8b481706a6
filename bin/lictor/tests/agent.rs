//! The agent as a process on a lab host, with guests on both sides of a rule: what two persons
//! signed is enforced from the first packet, and goes on when the agent is killed.

use anyhow::{Context, Result};
use lictor_agent::state::{self, StateDir};
use lictor_lab::site::pci::{CORP, DB, WEB};
use lictor_lab::site::{Agent, Arrival, Guest, PEER_PORT, Programs, key};
use lictor_lab::{ConnectOutcome, CounterServer, CounterStream, Host, Lab, NsGuest, connect};
use lictor_policy::{CompileInput, Date, Labels, compile, parse};
use lictor_types::{DeploymentId, Generation, HostId, Segment, VnicState};
use lictor_wire::binding::BindingLog;
use lictor_wire::release::{self, Floor};
use lictor_wire::{Delegation, Release, RosterHost, SigningKey, Trust};
use std::net::{IpAddr, SocketAddr};
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

/// A host without a manager, whose state directory holds a release and bindings that two persons
/// signed: all that an agent needs.
fn enrolled(host: &Host) -> Result<Agent> {
    let agent = agent_on(host)?;
    let state = StateDir::new(&agent.state_dir());
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
    let mut envelope = release_for(host, (&own, &owner), deployment.clone())?.sign(&author);
    envelope.add_signature(&approver)?;
    let verified = release::verify(&envelope, &trust, None)?;
    let floor = Floor {
        generation: Generation(1),
        digest: verified.digest(),
    };
    let bindings = GUESTS.iter().map(|guest| guest.binding(&deployment));
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
    Ok(agent)
}

fn release_for(
    host: &Host,
    (own, owner): (&SigningKey, &SigningKey),
    deployment: DeploymentId,
) -> Result<Release> {
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
        deployment,
        generation: Generation(1),
        created_ms: 1,
        policy: compile(&policy, &input)?,
        roster: vec![RosterHost {
            host: HostId::new("a")?,
            cluster: "main".into(),
            key: own.verify_key(),
            peer: (host.node().management(), PEER_PORT).into(),
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
    let mut agent = enrolled(&lab.host("a")?)?;
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
fn every_packet_that_a_device_carried_got_a_verdict() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut agent = enrolled(&lab.host("a")?)?;
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
