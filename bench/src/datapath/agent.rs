//! A real agent process, beside a real manager, and its memory.

use anyhow::{Context, Result, ensure};
use lictor_lab::site::pci::WEB;
use lictor_lab::site::{Agent, Arrival, Draft, Programs, Signed, Site};
use lictor_lab::wait;
use lictor_types::VnicState;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// The example that its release is compiled from.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pci/policy.lictor");
const LIMIT: Duration = Duration::from_secs(30);

/// A site of the programs beside this one.
pub(crate) fn site() -> Result<Site> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program lies in a folder")?;
    let programs = Programs {
        lictor: folder.join("lictor"),
        verify: folder.join("lictor-verify"),
    };
    ensure!(
        programs.lictor.exists(),
        "there is no {}; run this by `cargo xtask bench`, which builds it",
        programs.lictor.display()
    );
    Site::new(programs, "bench")
}

/// Resident bytes of an agent that enforces a release on one vnic.
///
/// # Errors
/// The site cannot be built, or the vnic does not come to forward.
pub fn resident() -> Result<f64> {
    let mut site = site()?;
    let host = site.protected_host("a")?;
    let draft = Draft::compile(&site, Path::new(POLICY), 1, &[WEB])?;
    let release = draft.sign(&site, Signed::ByBoth)?;
    site.publish(&release)?
        .done()
        .context("the bench's release")?;
    site.bind(&WEB)?;
    let agent = site.agent("a")?;
    let known = |agent: &Agent| -> Result<bool> {
        let status = agent.status()?;
        Ok(status.generation == draft.generation() && status.epoch.0 > 0)
    };
    wait::until("an agent with release and binding", LIMIT, || {
        Ok(known(agent)?.then_some(()))
    })?;
    let _guest = host.namespace_guest(&WEB.spec(&[]), |vnic| {
        let address = IpAddr::V4(WEB.address());
        agent.attach(vnic, &[address], Arrival::Start).map(drop)
    })?;
    wait::until("a vnic that forwards", LIMIT, || {
        let report = agent.guest(WEB.name)?;
        let mut vnics = report.into_iter().flat_map(|report| report.vnics);
        Ok(vnics
            .any(|vnic| vnic.state == VnicState::Open)
            .then_some(()))
    })
    .with_context(|| agent.log())?;
    let path = format!("/proc/{}/status", agent.pid()?);
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: f64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} has no VmRSS"))?;
    Ok(kilobytes * 1_024.0)
}
