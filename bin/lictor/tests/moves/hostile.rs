//! A source that lies: a host of the roster with a key of its own, whose agent is not ours any
//! more. It speaks to a real agent with a real QEMU that waits for the guest. Truncated and
//! overlong frames end the connection before anything is read: see the tests of `lictor-wire`.

use super::*;
use lictor_agent::peer::{CONNECTIONS_MAX, Incoming, Links, Loss, Roster};
use lictor_agent::state::StateDir;
use lictor_lab::site::{PEER_PORT, read_key};
use lictor_policy::Cause;
use lictor_types::{
    Counted, Digest, Direction, Epoch, Generation, GuestId, HostId, RuleId, Segment, SessionKey,
    SessionRecord, Tally, TcpEnd, TcpState, VnicId,
};
use lictor_wire::peer::{Control, FORMAT, Format, Frame, Step};
use lictor_wire::sessions::{CHUNK_RECORDS_MAX, Chunk};
use lictor_wire::{Envelope, Order as _, Override, Release, SigningKey, Ticket};
use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;
use std::time::{SystemTime, UNIX_EPOCH};

/// A host that was taken over: a, unless another one is named.
struct Liar {
    host: lictor_lab::Host,
    key: SigningKey,
    roster: Roster,
    links: Links,
    incoming: Receiver<Incoming>,
    generation: Generation,
    release: Digest,
    deployment: lictor_types::DeploymentId,
}

fn name(host: &str) -> HostId {
    HostId::new(host).expect("a valid name")
}

impl Liar {
    /// Takes the place of the agent of a host.
    fn take_over(site: &mut Site, name: &str) -> Result<Self> {
        let status = site.agent(name)?.status()?;
        let state = site.agent(name)?.state_dir();
        let host = site.agent(name)?.host().clone();
        site.kill_agent(name)?;
        let envelope: Envelope =
            serde_json::from_slice(&std::fs::read(state.join("release.json"))?)?;
        let release: Release = serde_json::from_slice(&envelope.unverified_payload()?)?;
        let (key, roster) = (StateDir::new(&state).key()?, Roster::default());
        roster.set(release.roster);
        let address = SocketAddr::from((host.node().management(), PEER_PORT));
        let opened = host
            .netns()
            .run(|| Ok(Links::open(&key, address, roster.clone(), Format::NEWEST)?))?;
        let (links, incoming) = opened;
        Ok(Self {
            host,
            key,
            roster,
            links,
            incoming,
            generation: status.generation,
            release: status.release.context("a release is loaded")?,
            deployment: site.deployment().clone(),
        })
    }

    fn ticket(&self, nonce: u8) -> Result<Ticket> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now_ms = u64::try_from(now)?;
        Ok(Ticket {
            deployment: self.deployment.clone(),
            guest: GuestId::new(DB.name)?,
            source: name("a"),
            target: name("b"),
            custody: 1,
            nonce: format!("{nonce:032x}"),
            asked_by: "nobody".into(),
            issued_ms: now_ms,
            deadline_ms: now_ms + 600_000,
            generation: self.generation,
            release: self.release,
            overriding: None,
        })
    }

    fn send(&self, frame: Frame) -> Result<()> {
        let (to, links) = (name("b"), &self.links);
        self.host.netns().run(|| Ok(links.send(&to, frame)?))
    }

    fn step(&self, ticket: Digest, step: Step) -> Result<()> {
        self.send(Frame::Control(Control::Move { ticket, step }))
    }

    /// What b says next that matters here.
    fn hear<T>(&self, wanted: impl Fn(Control) -> Option<T>) -> Result<T> {
        loop {
            let next = self.incoming.recv_timeout(LIMIT);
            match next.context("b says nothing more")? {
                Incoming::Frame(_, frame) => {
                    if let Frame::Control(control) = *frame
                        && let Some(found) = wanted(control)
                    {
                        return Ok(found);
                    }
                }
                Incoming::Lost(host, _) => bail!("the connection to {host} is lost"),
            }
        }
    }

    /// Offers a ticket. Gives the reasons against it.
    fn offer(&self, ticket: &Ticket) -> Result<Vec<Refusal>> {
        let offered = Control::Admit {
            format: FORMAT,
            bindings: Epoch(0),
            ticket: ticket.sign(&self.key),
        };
        self.send(Frame::Control(offered))?;
        self.hear(|control| match control {
            Control::Admitted { .. } => Some(Vec::new()),
            Control::NotAdmitted { reasons, .. } => Some(reasons),
            _ => None,
        })
    }

    /// Waits until b has everything in its place for the guest.
    fn ready(&self) -> Result<()> {
        self.hear(|control| match control {
            Control::Move {
                step: Step::Ready, ..
            } => Some(()),
            _ => None,
        })
    }

    /// Why b has given the move up.
    fn nack(&self) -> Result<String> {
        self.hear(|control| match control {
            Control::Move {
                step: Step::Nack { cause },
                ..
            } => Some(cause),
            _ => None,
        })
    }
}

fn session(guest: &Guest, port: u16, number: u16) -> SessionRecord {
    SessionRecord {
        key: SessionKey {
            segment: Segment(1),
            protocol: 6,
            local: guest.address().into(),
            remote: WEB.address().into(),
            local_port: port,
            remote_port: number,
        },
        opened: Direction::Ingress,
        state: TcpState::Established,
        rule: RuleId(1),
        generation: Generation(1),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(1),
        idle_ms: 0,
        expires_in_ms: 60_000,
        packets: [1, 1],
        bytes: [1, 1],
        tcp: [TcpEnd::default(); 2],
    }
}

/// What a liar does.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Sessions that never end.
    Endless,
    /// Sessions for a vnic of another guest.
    OtherVnic,
    /// Sessions that went, of a vnic of another guest.
    OtherGone,
    /// Counters for a vnic of another guest.
    OtherCounters,
}

const LIES: [(Lie, &str); 4] = [
    (Lie::Endless, "a table of its size has"),
    (Lie::OtherVnic, "is none that guest db has here"),
    (Lie::OtherGone, "is none that guest db has here"),
    (Lie::OtherCounters, "is none that guest db has here"),
];

impl Liar {
    fn lie(&self, ticket: Digest, lie: Lie) -> Result<()> {
        let (own, other) = (VnicId(DB.number.into()), VnicId(WEB.number.into()));
        match lie {
            Lie::Endless => {
                // A few more than it takes, or this test would never end either.
                for part in 0..12 {
                    let slots = part * CHUNK_RECORDS_MAX as u32..;
                    let numbers = 0..CHUNK_RECORDS_MAX as u16;
                    let many = numbers.map(|number| session(&DB, 1_000 + part as u16, number));
                    let many: Vec<_> = slots.zip(many).collect();
                    let chunk = Chunk::of(0, &many);
                    let (ticket, vnic) = (ticket, own);
                    self.send(Frame::Sessions {
                        ticket,
                        vnic,
                        chunk,
                    })?;
                }
                Ok(())
            }
            Lie::OtherVnic => self.send(Frame::Sessions {
                ticket,
                vnic: other,
                chunk: Chunk::of(0, &[(0, session(&WEB, PG, 1))]),
            }),
            Lie::OtherGone => {
                let (vnic, table, slots) = (other, 0, vec![0]);
                self.step(ticket, Step::Gone { vnic, table, slots })
            }
            Lie::OtherCounters => {
                let rows = vec![(Counted::Rule(RuleId(1)), Tally::default())];
                self.step(ticket, Step::Counted { vnic: other, rows })
            }
        }
    }
}

fn sessions_at(agent: &Agent) -> Result<u64> {
    let report = agent.guest(DB.name)?;
    let vnics = report.into_iter().flat_map(|one| one.vnics);
    Ok(vnics.map(|vnic| vnic.sessions).sum())
}

#[test]
fn a_source_that_lies_gets_nothing_past_its_target_and_no_ticket_twice() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = site()?;
    let fabric = super::stages::Fabric::watch(&site)?;
    let liar = Liar::take_over(&mut site, "a")?;
    for (nonce, (lie, cause)) in (1..).zip(LIES) {
        let ticket = liar.ticket(nonce)?;
        assert_eq!(liar.offer(&ticket)?, [], "{lie:?}");
        let b = site.agent("b")?;
        let waits = receive(b, &DB)?;
        let digest = ticket.digest();
        liar.ready()?;
        liar.lie(digest, lie)?;
        let said = liar.nack()?;
        assert!(said.contains(cause), "{lie:?}: {said}");
        assert_eq!(sessions_at(b)?, 0, "{lie:?}");
        assert_eq!(state(b, &DB)?, (0, VnicState::Hold), "{lie:?}");
        drop(waits);
    }
    // A session of another address is refused by name; the guest's own is taken.
    let ticket = liar.ticket(9)?;
    assert_eq!(liar.offer(&ticket)?, []);
    let waits = receive(site.agent("b")?, &DB)?;
    liar.ready()?;
    let mixed = [(0, session(&DB, PG, 1)), (1, session(&WEB, PG, 2))];
    liar.send(Frame::Sessions {
        ticket: ticket.digest(),
        vnic: VnicId(DB.number.into()),
        chunk: Chunk::of(0, &mixed),
    })?;
    wait::until("the guest's own session", LIMIT, || {
        Ok((sessions_at(site.agent("b")?)? == 1).then_some(()))
    })?;
    drop(waits);
    // The same ticket again, and after a restart of the target too.
    let twice = |liar: &Liar| -> Result<()> {
        let reasons = liar.offer(&ticket)?;
        let busy = |one: &Refusal| matches!(one, Refusal::Busy { .. });
        assert!(reasons.iter().any(busy), "{reasons:?}");
        Ok(())
    };
    twice(&liar)?;
    site.restart_agent("b")?;
    while liar.incoming.try_recv().is_ok() {}
    twice(&liar)?;
    assert_eq!(fabric.stays_of(&DB), Vec::<&str>::new());
    Ok(())
}

/// A target believes an order by its own trust file, whatever its source has made of it.
#[test]
fn an_order_in_a_ticket_counts_only_as_its_target_sees_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = site()?;
    let keys = [&site.keys.author, &site.keys.approver];
    let [author, approver] = keys.map(|file| read_key(file).expect("made with the site"));
    let fabric = super::stages::Fabric::watch(&site)?;
    let liar = Liar::take_over(&mut site, "a")?;
    let good = Override {
        deployment: liar.deployment.clone(),
        guest: GuestId::new(DB.name)?,
        to: name("b"),
        causes: BTreeSet::from([Cause::IdsMissing]),
        justification: "a test".into(),
        issued_ms: liar.ticket(0)?.issued_ms,
        expires_ms: liar.ticket(0)?.deadline_ms,
    };
    let offer = |nonce, change: &dyn Fn(&mut Override), keys: &[&SigningKey]| {
        let mut order = good.clone();
        change(&mut order);
        let bytes = order.canonical_bytes();
        let mut ticket = liar.ticket(nonce)?;
        let envelope = Envelope::sign(Override::PAYLOAD_TYPE, &bytes, keys);
        ticket.overriding = Some(Box::new(envelope));
        let reasons = liar.offer(&ticket)?;
        Ok::<_, anyhow::Error>(reasons.iter().map(Refusal::to_string).collect::<Vec<_>>())
    };
    let both = [&author, &approver];
    let refused = |nonce, change: &dyn Fn(&mut Override), keys: &[&SigningKey], part: &str| {
        let reasons = offer(nonce, change, keys)?;
        let said = reasons.iter().any(|one| one.contains(part));
        assert!(said, "{part:?}: {reasons:?}");
        Ok::<_, anyhow::Error>(())
    };
    refused(1, &|_| {}, &[&author], "it has ann")?;
    refused(2, &|_| {}, &[&author, &liar.key], "it has ann")?;
    let other = |order: &mut Override| order.to = name("c");
    refused(3, &other, &both, "it is for a move of db to c")?;
    let lapsed = |order: &mut Override| order.expires_ms = 1;
    refused(4, &lapsed, &both, "the order is good until 1 ms")?;
    assert_eq!(offer(5, &|_| {}, &both)?, Vec::<String>::new());
    refused(6, &|_| {}, &both, "was used before")?;
    assert_eq!(fabric.stays_of(&DB), Vec::<&str>::new());
    Ok(())
}

impl Liar {
    /// Asks b for a word.
    fn asks(&self) -> Result<()> {
        let guest = GuestId::new(DB.name)?;
        self.send(Frame::Control(Control::Custody { guest }))
    }

    /// One more connection to b, beside those that it has.
    fn another(&self) -> Result<Links> {
        let address = SocketAddr::from((self.host.node().management(), 0));
        let (key, roster, guest) = (&self.key, self.roster.clone(), GuestId::new(DB.name)?);
        self.host.netns().run(|| {
            let (links, _) = Links::open(key, address, roster, Format::NEWEST)?;
            links.send(&name("b"), Frame::Control(Control::Custody { guest }))?;
            Ok(links)
        })
    }
}

/// Connections that other agents have at this one.
fn connections(agent: &Agent) -> Result<usize> {
    let mut ss = agent.host().node().command("ss");
    let port = format!(":{PEER_PORT}");
    ss.args(["-Htn", "state", "established", "sport", "=", &port]);
    Ok(lictor_lab::site::command::output(ss)?.lines().count())
}

/// Its host has every place at b, and is not on the network any more: nobody says so.
#[test]
fn a_host_that_dies_without_a_word_keeps_no_place_at_the_others() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = site_on(&["a", "b", "c"], &[WEB, DB])?;
    let [dying, other] = ["a", "c"].map(|host| Liar::take_over(&mut site, host));
    let (dying, other, b) = (dying?, other?, site.agent("b")?);
    wait::until("no connection", LIMIT, || {
        Ok((connections(b)? == 0).then_some(()))
    })?;
    let places = (0..CONNECTIONS_MAX).map(|_| dying.another());
    let _places = places.collect::<Result<Vec<_>>>()?;
    wait::until("no place that is left", LIMIT, || {
        Ok((connections(b)? == CONNECTIONS_MAX).then_some(()))
    })?;
    other.asks()?;
    let refused = other.incoming.recv_timeout(LIMIT)?;
    assert_eq!(refused, Incoming::Lost(name("b"), Loss::Link));

    let port = dying.host.node().management_port();
    (site.lab().fabric()).ip(&format!("link set {port} down"))?;
    wait::until("no connection of a dead host", LIMIT, || {
        Ok((connections(b)? == 0).then_some(()))
    })?;
    wait::until("an agent that hears another host", LIMIT, || {
        other.asks()?;
        let told = other.incoming.recv_timeout(LIMIT)?;
        Ok(matches!(told, Incoming::Frame(..)).then_some(()))
    })
}
