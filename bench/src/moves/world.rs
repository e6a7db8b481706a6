//! Two hosts with agents and two without, a guest on each pair, and a stream to both guests.

use super::lane::{Guarded, Plain};
use anyhow::{Context, Result, ensure};
use lictor_lab::site::{Agent, Draft, Guest, Signed, Site};
use lictor_lab::{CounterStream, Image, NsGuest, Service, image, wait};
use lictor_types::VnicState;
use std::net::SocketAddr;
use std::time::Duration;

/// The guest that moves between hosts with agents.
pub(super) const DB: Guest = Guest {
    name: "db",
    number: 11,
    labels: &[("app", "db")],
    vnics: 1,
};
/// The same, between hosts without.
pub(super) const PLAIN: Guest = Guest {
    name: "plain",
    number: 12,
    labels: &[("app", "db")],
    vnics: 1,
};
/// Reads from both of them, from outside of all hosts.
const READER: Guest = Guest {
    name: "reader",
    number: 10,
    labels: &[],
    vnics: 1,
};

/// Anybody may talk to the guest on this port: that is what its sessions are about.
pub(super) const LOAD_PORT: u16 = 7;
const STREAM_PORT: u16 = 5_432;
/// As many sessions as a bench moves, and room beside them.
const QUOTA: u32 = 1 << 20;
pub(super) const SERVICES: [Service; 1] = [Service::Counter(STREAM_PORT)];
pub(super) const LIMIT: Duration = Duration::from_secs(120);

const POLICY: &str = "policy \"bench\" version 1\n\
    label app : string required\n\
    service load = udp/7\n\
    service stream = tcp/5432\n\
    tier app unordered allow-only owner \"bench@example.com\" {\n\
      allow load { from any to app:db service load justification \"load\" expires 2035-01-01 }\n\
      allow read { from any to app:db service stream justification \"read\" expires 2035-01-01 }\n\
    }\n";

/// Everything that moves are measured in.
pub(super) struct World {
    pub(super) guarded: Guarded,
    pub(super) plain: Plain,
    pub(super) streams: Vec<CounterStream>,
    pub(super) reader: NsGuest,
    pub(super) site: Site,
}

impl World {
    /// Builds it; both guests run and their streams flow.
    pub(super) fn build() -> Result<Self> {
        eprintln!("bench: two hosts with agents, two without");
        Image::build(&image::cache())?;
        let site = site()?;
        let reader = site.lab().client(&READER.spec(&[]))?;
        let guarded = Guarded::boot(&site)?;
        let plain = Plain::boot(&site)?;
        let mut streams = Vec::new();
        for guest in [DB, PLAIN] {
            streams.push(stream(&reader, &guest)?);
        }
        Ok(Self {
            guarded,
            plain,
            streams,
            reader,
            site,
        })
    }

    /// What is lost on a stream shows in every figure.
    pub(super) fn streams_are_whole(&self) -> Result<()> {
        for stream in &self.streams {
            let count = stream.log().report().count;
            let report = stream.log().wait_for(count + 10, LIMIT)?;
            let whole = report.contiguous && report.ended.is_none();
            ensure!(whole, "a stream to a guest broke: {report:?}");
        }
        Ok(())
    }
}

/// Reads from a guest.
pub(super) fn stream(reader: &NsGuest, guest: &Guest) -> Result<CounterStream> {
    let to = SocketAddr::from((guest.address(), STREAM_PORT));
    let stream = CounterStream::hold(reader.netns(), to)?;
    stream.log().wait_for(20, LIMIT)?;
    Ok(stream)
}

fn site() -> Result<Site> {
    let mut site = crate::datapath::agent::site()?;
    for name in ["a", "b"] {
        // Rounds that come closer while a guest migrates leave less for the pause than its goal
        // asks for.
        site.protected_host_with(name, |agent| agent.with_line("copy_rest_ms = 1000"))?;
    }
    let policy = site.people.author.dir().join("bench.lictor");
    std::fs::write(&policy, POLICY)?;
    let draft = Draft::compile(&site, &policy, 1, &[DB])?;
    let release = draft.sign(&site, Signed::ByBoth)?;
    site.publish(&release)?
        .done()
        .context("the bench's release")?;
    site.bind_with_quota(&DB, QUOTA)?;
    for agent in site.agents() {
        wait::until("the release and every binding", LIMIT, || {
            let status = agent.status()?;
            Ok((status.generation.0 == 1 && status.epoch.0 == 1).then_some(()))
        })
        .with_context(|| agent.log())?;
    }
    Ok(site)
}

/// Waits for a guest's vnic to forward.
pub(super) fn open(agent: &Agent) -> Result<()> {
    wait::until("a vnic that forwards", LIMIT, || {
        let report = agent.guest(DB.name)?;
        let mut vnics = report.into_iter().flat_map(|report| report.vnics);
        Ok(vnics
            .any(|vnic| vnic.state == VnicState::Open)
            .then_some(()))
    })
    .with_context(|| agent.log())
}
