//! The agent as a process on a lab host, with guests on both sides of a rule: what two persons
//! signed is enforced from the first packet, and goes on when the agent is killed.

mod common;

use anyhow::Result;
use common::{Agent, CORP, DB, LIMIT, WEB, address, enrolled};
use lictor_lab::{ConnectOutcome, CounterServer, CounterStream, Lab, NsGuest, connect};
use lictor_types::{Generation, VnicState};
use std::net::SocketAddr;
use std::time::Duration;

/// A denied connection is one that gets no answer: as long as a first SYN waits for its second.
const DENIED: Duration = Duration::from_millis(1_500);

fn denied(from: &NsGuest, to: SocketAddr) -> Result<()> {
    let outcome = connect(from.netns(), to, DENIED)?;
    assert_eq!(outcome, ConnectOutcome::TimedOut);
    Ok(())
}

fn one_agent(lab: &Lab) -> Result<Agent> {
    let host = lab.host("a")?;
    Ok(enrolled(&[&host])?.remove(0))
}

#[test]
fn rules_hold_between_guests_of_one_host_and_outlive_the_agent() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = one_agent(&lab)?;
    let mut process = agent.start()?;
    let web = agent.namespace_guest(WEB)?;
    let db = agent.namespace_guest(DB)?;
    let corp = agent.namespace_guest(CORP)?;
    let _server = CounterServer::start(db.netns(), 5432)?;
    let _other = CounterServer::start(db.netns(), 5433)?;
    let pg = SocketAddr::from((address(DB), 5432));
    let unnamed = SocketAddr::from((address(DB), 5433));

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
        assert_eq!(guest.custody, 1, "{guest:?}");
    }
    Ok(())
}

#[test]
fn every_packet_that_a_device_carried_got_a_verdict() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = one_agent(&lab)?;
    let _process = agent.start()?;
    let web = agent.namespace_guest(WEB)?;
    let db = agent.namespace_guest(DB)?;
    {
        let _server = CounterServer::start(db.netns(), 5432)?;
        let stream = CounterStream::hold(web.netns(), SocketAddr::from((address(DB), 5432)))?;
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
    let agent = Agent::unenrolled(&lab.host("a")?)?;
    let mut command = agent.host.node().command(env!("CARGO_BIN_EXE_lictor"));
    let output = command
        .args(["agent", "run", "--config"])
        .arg(agent.config_file())
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("lictor agent enroll"),
        "{error}"
    );
    Ok(())
}
