//! Live migrations of real QEMU guests between hosts with agents: sessions go along, and what is
//! not handed over does not move.

use anyhow::{Context as _, Result, bail};
use lictor_evidence::{Body, Entry, MoveOutcome, MoveRecord, recover};
use lictor_lab::site::pci::{BATCH, DB, WEB};
use lictor_lab::site::{Agent, Arrival, Draft, Guest, Programs, Signed, Site};
use lictor_lab::{
    ConnectOutcome, CounterStream, Image, MigrateOptions, NsGuest, QemuGuest, Service, connect,
    image, wait,
};
use lictor_types::VnicState;
use lictor_wire::Refusal;
use lictor_wire::api::GuestReport;
use lictor_wire::local::{MovePhase, Response};
use lictor_wire::peer::Format;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[path = "moves/before.rs"]
mod before;
#[path = "moves/choices.rs"]
mod choices;
#[path = "moves/container.rs"]
mod container;
#[path = "moves/cut.rs"]
mod cut;
#[path = "moves/ended.rs"]
mod ended;
#[path = "moves/evacuated.rs"]
mod evacuated;
#[path = "moves/held.rs"]
mod held;
#[path = "moves/hostile.rs"]
mod hostile;
#[path = "moves/impaired.rs"]
mod impaired;
#[path = "moves/libvirt.rs"]
mod libvirt;
#[path = "moves/orders.rs"]
mod orders;
#[path = "moves/overriding.rs"]
mod overriding;
#[path = "moves/post_copy.rs"]
mod post_copy;
#[path = "moves/product.rs"]
mod product;
#[path = "moves/rounds.rs"]
mod rounds;
#[path = "moves/several.rs"]
mod several;
#[path = "moves/stages.rs"]
mod stages;
#[path = "moves/traps.rs"]
mod traps;
#[path = "moves/unasked.rs"]
mod unasked;
#[path = "moves/unclaimed.rs"]
mod unclaimed;
#[path = "moves/versions.rs"]
mod versions;

use stages::Watched;

const LIMIT: Duration = Duration::from_secs(60);
const PG: u16 = 5432;
/// Longer than a connection takes that nobody refuses.
const PATIENCE: Duration = Duration::from_secs(3);

/// Hosts a and b with agents, web on a as a namespace guest, db on a in QEMU, and a stream from one
/// to the other.
struct World {
    _watched: Watched,
    stream: CounterStream,
    db: QemuGuest,
    web: NsGuest,
    site: Site,
}

const SERVICES: [Service; 1] = [Service::Counter(PG)];

fn site() -> Result<Site> {
    site_of(&[WEB, DB, BATCH])
}

/// A site with these guests bound; each may run on either host.
fn site_of(guests: &[Guest]) -> Result<Site> {
    site_on(&["a", "b"], guests)
}

/// The same, with an agent on each of these hosts.
fn site_on(hosts: &[&str], guests: &[Guest]) -> Result<Site> {
    let mut site = empty_site()?;
    for host in hosts {
        site.protected_host(host)?;
    }
    publish(&site, guests)?;
    Ok(site)
}

/// The agents of hosts a and b.
fn ends(site: &Site) -> [&Agent; 2] {
    ["a", "b"].map(|host| site.agent(host).expect("made with the site"))
}

/// A manager and people, and no host.
fn empty_site() -> Result<Site> {
    Image::build(&image::cache())?;
    let programs = Programs {
        lictor: env!("CARGO_BIN_EXE_lictor").into(),
        // No test here verifies a pack.
        verify: "lictor-verify".into(),
    };
    Site::new(programs, "moves")
}

/// Brings a release and the bindings of these guests to every agent.
fn publish(site: &Site, guests: &[Guest]) -> Result<()> {
    publish_policy(site, guests, &example())
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pci/policy.lictor")
}

fn publish_policy(site: &Site, guests: &[Guest], policy: &Path) -> Result<()> {
    let release = Draft::compile(site, policy, 1, guests)?.sign(site, Signed::ByBoth)?;
    site.publish(&release)?.done()?;
    guests.iter().try_for_each(|guest| site.bind(guest))?;
    for agent in site.agents() {
        wait::until("the release and every binding", LIMIT, || {
            let status = agent.status()?;
            let newest = guests.len() as u64;
            Ok((status.generation.0 == 1 && status.epoch.0 == newest).then_some(()))
        })
        .with_context(|| format!("{:?}; {}", agent.status(), agent.log()))?;
    }
    Ok(())
}

fn world() -> Result<World> {
    world_on(site()?)
}

fn world_on(site: Site) -> Result<World> {
    let watched = Watched::begin(&site, &DB)?;
    let a = site.agent("a")?;
    let web = plug_in(a, &WEB)?;
    let db = boot(a, &DB, &SERVICES)?;
    wait_for(a, &DB, |one| one.interlocked)?;
    let stream = hold_stream(&web, DB.address())?;
    Ok(World {
        _watched: watched,
        stream,
        db,
        web,
        site,
    })
}

/// A guest in a namespace; its vnic opens at once.
fn plug_in(agent: &Agent, guest: &Guest) -> Result<NsGuest> {
    agent.host().namespace_guest(&guest.spec(&[]), |vnic| {
        let attached = agent.attach(vnic, &addresses(guest), Arrival::Start)?;
        assert_eq!(attached.state, VnicState::Open);
        Ok(())
    })
}

/// A stream from a counter to a guest in a namespace, which has begun.
fn hold_stream(from: &NsGuest, to: Ipv4Addr) -> Result<CounterStream> {
    let stream = CounterStream::hold(from.netns(), SocketAddr::from((to, PG)))?;
    stream.log().wait_for(20, LIMIT)?;
    Ok(stream)
}

fn addresses(guest: &Guest) -> [IpAddr; 1] {
    [IpAddr::V4(guest.address())]
}

/// Boots a guest; its vnic opens when it runs.
fn boot(agent: &Agent, guest: &Guest, services: &[Service]) -> Result<QemuGuest> {
    boot_with(agent, guest, services, &[])
}

/// The same, with more arguments for QEMU.
fn boot_with(
    agent: &Agent,
    guest: &Guest,
    services: &[Service],
    more: &[&str],
) -> Result<QemuGuest> {
    let spec = guest.spec(services);
    let booted = agent.host().boot_with(&spec, more, |vnic| {
        let attached = agent.attach(vnic, &addresses(guest), Arrival::Start)?;
        assert!(attached.before_first_packet, "{attached:?}");
        Ok(())
    })?;
    booted.wait_up(LIMIT)?;
    wait_for(agent, guest, |one| {
        one.running == Some(true) && one.vnics[0].state == VnicState::Open
    })?;
    Ok(booted)
}

/// A QEMU that waits for a guest.
fn receive(agent: &Agent, guest: &Guest) -> Result<QemuGuest> {
    agent.host().receive(&guest.spec(&SERVICES), |vnic| {
        let attached = agent.attach(vnic, &addresses(guest), Arrival::Incoming)?;
        assert_eq!(attached.state, VnicState::Hold);
        Ok(())
    })
}

fn wait_for(agent: &Agent, guest: &Guest, wanted: impl Fn(&GuestReport) -> bool) -> Result<()> {
    let mut last = None;
    wait::until("a report of the guest", LIMIT, || {
        last = agent.guest(guest.name)?;
        Ok(last.as_ref().is_some_and(&wanted).then_some(()))
    })
    .with_context(|| format!("{} at {}: {last:?}", guest.name, agent.name()))
}

fn state(agent: &Agent, guest: &Guest) -> Result<(u64, VnicState)> {
    let one = agent.guest(guest.name)?.context("it is attached here")?;
    Ok((one.custody, one.vnics[0].state))
}

/// Everything that an agent has recorded, from its disk.
fn evidence(agent: &Agent) -> Result<Vec<Body>> {
    evidence_in(&evidence_file(agent))
}

fn evidence_file(agent: &Agent) -> PathBuf {
    agent.state_dir().join("evidence.log")
}

fn evidence_in(file: &Path) -> Result<Vec<Body>> {
    let bytes = std::fs::read(file)?;
    let entries = recover(&bytes, None)?.entries;
    entries
        .iter()
        .map(|entry| Ok(serde_json::from_slice::<Entry>(entry)?.body))
        .collect()
}

/// The records of moves at this host, each with its number of signatures.
fn recorded(agent: &Agent) -> Result<Vec<(MoveRecord, usize)>> {
    let bodies = evidence(agent)?.into_iter();
    let records = bodies.filter_map(|body| match body {
        Body::MoveRecorded { record, signed } => Some((*record, signed.signatures().len())),
        _ => None,
    });
    Ok(records.collect())
}

/// Evidence is written when the guest does not stand still any more.
fn wait_recorded(agent: &Agent, count: usize) -> Result<Vec<(MoveRecord, usize)>> {
    wait::until("the move records", LIMIT, || {
        let records = recorded(agent)?;
        Ok((records.len() >= count).then_some(records))
    })
}

fn wait_body(agent: &Agent, wanted: impl Fn(&Body) -> bool) -> Result<()> {
    wait::until("an entry of evidence", LIMIT, || {
        Ok(evidence(agent)?.iter().any(&wanted).then_some(()))
    })
}

impl World {
    fn a(&self) -> &Agent {
        self.site.agent("a").expect("made with the world")
    }

    fn b(&self) -> &Agent {
        self.site.agent("b").expect("made with the world")
    }

    /// Whether a new connection from web to db is answered.
    fn reached(&self) -> Result<bool> {
        let to = SocketAddr::from((DB.address(), PG));
        let outcome = connect(self.web.netns(), to, PATIENCE)?;
        Ok(matches!(outcome, ConnectOutcome::Connected(_)))
    }

    fn wait_reached(&self, wanted: bool) -> Result<()> {
        wait::until("a guest that is reached, or not", LIMIT, || {
            Ok((self.reached()? == wanted).then_some(()))
        })
    }

    fn stream_goes_on(&self) -> Result<()> {
        let count = self.stream.log().report().count;
        let report = self.stream.log().wait_for(count + 50, LIMIT)?;
        assert!(report.contiguous && report.ended.is_none(), "{report:?}");
        Ok(())
    }
}

fn admitted(from: &Agent, guest: &Guest, to: &str) -> Result<()> {
    match from.admit(guest.name, to)? {
        Response::Admitted { .. } => Ok(()),
        other => bail!("not admitted: {other:?}"),
    }
}

/// Brings db's move so far that its migration may begin, and returns the QEMU that waits for it.
fn copied(from: &Agent, to: &Agent) -> Result<QemuGuest> {
    admitted(from, &DB, to.name())?;
    let target = receive(to, &DB)?;
    from.wait_for_phase(DB.name, &[MovePhase::Copied], LIMIT)?;
    Ok(target)
}

/// Moves db and returns its new QEMU.
fn migrate(guest: &QemuGuest, from: &Agent, to: &Agent) -> Result<QemuGuest> {
    let target = copied(from, to)?;
    let report = guest.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    from.wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)?;
    wait_for(to, &DB, |one| one.vnics[0].state == VnicState::Open)
        .with_context(|| format!("the guest's console: {}", target.console()))?;
    Ok(target)
}

#[test]
fn trap_12_a_live_session_follows_the_guest_and_its_numbers_are_the_kernels() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let there = migrate(&world.db, world.a(), world.b())?;
    world.stream_goes_on()?;
    assert_eq!(state(world.a(), &DB)?, (0, VnicState::HandedOver));
    // Its QEMU ends, its tap goes.
    world.db = there;
    let here = migrate(&world.db, world.b(), world.a())?;
    world.db = here;
    world.stream_goes_on()?;

    let (at_a, at_b) = (wait_recorded(world.a(), 2)?, wait_recorded(world.b(), 2)?);
    assert_eq!(at_a, at_b, "both ends keep the same records");
    counted_once(&world, &at_a)?;
    for (record, signatures) in &at_a {
        assert_eq!(*signatures, 2, "{record:?}");
        assert_eq!(record.outcome, MoveOutcome::Committed);
        assert!(record.sessions.sent >= 1, "{record:?}");
        assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
        assert_eq!(record.source, record.target, "{record:?}");
        assert_eq!(record.unprotected_packets, Some(0), "{record:?}");
        assert!(record.pause_us > 0, "{record:?}");
        let copied = record.copied.context("how it was copied")?;
        assert!(copied.rounds >= 1, "{record:?}");
        assert!(copied.records >= record.sessions.sent, "{record:?}");
        assert!(copied.last_records <= record.sessions.sent, "{record:?}");
    }
    assert_eq!(state(world.a(), &DB)?, (3, VnicState::Open));
    Ok(())
}

/// What was counted of db went along with it: its host tells of every packet of all its stays, the
/// host that it left of none but those that came after the fence, and each record of no fewer than
/// the one before.
fn counted_once(world: &World, records: &[(MoveRecord, usize)]) -> Result<()> {
    let judged = |record: &MoveRecord| record.counted.as_ref().map_or(0, |one| one.judged);
    let told: Vec<u64> = records.iter().map(|(record, _)| judged(record)).collect();
    assert!(0 < told[0] && told[0] < told[1], "{told:?}");
    let report = world.a().guest(DB.name)?.context("db is on a")?;
    let vnic = &report.vnics[0];
    let (counted, here): (u64, u64) = (vnic.counted.iter().sum(), vnic.judged.iter().sum());
    assert!(counted > told[1], "{vnic:?}; {told:?}");
    // Its device was made anew for this stay, and what it counts is of this stay alone.
    assert!(
        counted - told[1] <= here && here < counted,
        "{vnic:?}; {told:?}"
    );
    Ok(())
}

#[test]
fn a_move_to_a_host_without_an_agent_is_refused_and_rolls_back() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let c = world.site.lab().host("c")?;
    let answer = world.a().admit(DB.name, "c")?;
    let unknown = [Refusal::HostUnknown];
    assert!(
        matches!(&answer, Response::Refused { reasons } if *reasons == unknown),
        "{answer:?}"
    );
    // Somebody migrates it all the same.
    let target = c.receive(&DB.spec(&SERVICES), |_| Ok(()))?;
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "failed", "{report:?}");
    world.stream_goes_on()?;
    assert_eq!(state(world.a(), &DB)?, (1, VnicState::Open));
    wait_body(
        world.a(),
        |body| matches!(body, Body::MoveRefused { to, .. } if to.as_str() == "c"),
    )
}

#[test]
fn a_target_that_dies_after_the_copy_leaves_the_guest_as_it_was_at_the_source() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let target = copied(world.a(), world.b())?;
    drop(target);
    world
        .a()
        .wait_for_phase(DB.name, &[MovePhase::Aborted], LIMIT)?;
    world.stream_goes_on()?;
    let records = wait_recorded(world.a(), 1)?;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].0.outcome, MoveOutcome::Aborted);
    // The guest can move afterwards.
    let _there = migrate(&world.db, world.a(), world.b())?;
    world.stream_goes_on()
}

#[test]
fn a_snapshot_fences_nothing() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    world.db.snapshot("one")?;
    world.stream_goes_on()?;
    assert_eq!(state(world.a(), &DB)?, (1, VnicState::Open));
    wait_body(world.a(), |body| matches!(body, Body::SnapshotTaken { .. }))?;
    let fenced = |body: &Body| {
        matches!(
            body,
            Body::VnicState {
                to: VnicState::HandedOver,
                ..
            }
        )
    };
    assert!(!evidence(world.a())?.iter().any(fenced));
    Ok(())
}

#[test]
fn a_guest_whose_owner_allows_it_moves_to_an_unprotected_host_and_that_is_recorded() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = world()?;
    let batch = boot(world.a(), &BATCH, &[])?;
    let interlocked = world.a().guest("batch")?.map(|one| one.interlocked);
    assert_eq!(interlocked, Some(false));
    let c = world.site.lab().host("c")?;
    let target = c.receive(&BATCH.spec(&[]), |_| Ok(()))?;
    let report = batch.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "completed", "{report:?}");
    wait_for(world.a(), &BATCH, |one| {
        one.custody == 0 && one.vnics[0].state == VnicState::Hold
    })?;
    wait_body(
        world.a(),
        |body| matches!(body, Body::GuestLeft { guest, .. } if guest.as_str() == "batch"),
    )?;
    wait_body(
        world.a(),
        |body| matches!(body, Body::Alarm { subject, .. } if subject == "guest batch"),
    )
}

/// The program at the other end of a vhost-user port, as far as it takes for QEMU to plug a NIC in:
/// it has no feature but that it is a device of virtio 1. It ends with its client.
fn vhost_user(path: &Path) -> Result<()> {
    const HEADER_BYTES: usize = 12;
    const VERSION_AND_REPLY: u32 = 1 | 4;
    const NEEDS_REPLY: u32 = 8;
    // Features, protocol features, the number of queues; each is a number of 64 bits.
    const FEATURES: u32 = 1;
    const ASKS: [u32; 3] = [FEATURES, 15, 17];
    const VIRTIO_1: u64 = 1 << 32;
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut port, _) = listener.accept()?;
        loop {
            let mut header = [0; HEADER_BYTES];
            port.read_exact(&mut header)?;
            let (words, _) = header.as_chunks::<4>();
            let [request, flags, bytes] = [0, 1, 2].map(|at| u32::from_le_bytes(words[at]));
            port.read_exact(&mut vec![0; bytes as usize])?;
            if ASKS.contains(&request) || flags & NEEDS_REPLY != 0 {
                let head = [request, VERSION_AND_REPLY, 8].map(u32::to_le_bytes);
                let answer = if request == FEATURES { VIRTIO_1 } else { 0 };
                let answer = answer.to_le_bytes();
                port.write_all(&[head.as_flattened(), &answer].concat())?;
            }
        }
    });
    Ok(())
}

fn unguarded(agent: &Agent, guest: &Guest) -> Result<Vec<String>> {
    let report = agent.guest(guest.name)?.context("it is attached here")?;
    let nics = report.unguarded.into_iter();
    Ok(nics
        .map(|one| format!("{}: {}", one.nic, one.reason))
        .collect())
}

#[test]
fn a_nic_past_the_hooks_is_told_and_recorded_and_keeps_its_guest_from_moving() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let site = site()?;
    let (a, folder) = (site.agent("a")?, tempfile::tempdir()?);
    // The user's network of QEMU from the start, and room for another NIC.
    let more = "-netdev user,id=past -device virtio-net-pci,netdev=past,id=slow,romfile= \
                -device pcie-root-port,id=room";
    let more: Vec<_> = more.split_whitespace().collect();
    let db = boot_with(a, &DB, &[], &more)?;
    wait_for(a, &DB, |one| one.unguarded.len() == 1)?;
    let told = unguarded(a, &DB)?;
    assert!(
        told[0].starts_with("slow: a network of QEMU's kind `user`"),
        "{told:?}"
    );

    // The manager tells it apart from a guest that has only its tap.
    let _batch = boot(a, &BATCH, &[])?;
    let words = ["guest", "list", "--output", "json"];
    wait::until("what the manager says of both", LIMIT, || {
        let listed: Vec<Value> = serde_json::from_str(&site.people.auditor.types(&words)?)?;
        let protected = |guest: &Guest| {
            let mut ours = listed.iter().filter(|one| one["guest"] == guest.name);
            ours.find(|one| one["host"] == "a")
                .map(|one| one["protected"] == true)
        };
        let both = (protected(&BATCH), protected(&DB));
        Ok((both == (Some(true), Some(false))).then_some(()))
    })?;

    // It must not drive the NIC: nobody at its other end would answer.
    db.qmp().execute("stop", json!({}))?;
    let port = folder.path().join("port");
    vhost_user(&port)?;
    let address = json!({ "type": "unix", "data": { "path": port } });
    let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
    let chardev = json!({ "id": "port", "backend": backend });
    db.qmp().execute("chardev-add", chardev)?;
    let netdev = json!({ "type": "vhost-user", "id": "far", "chardev": "port" });
    db.qmp().execute("netdev_add", netdev)?;
    let device =
        json!({ "driver": "virtio-net-pci", "id": "fast", "bus": "room", "netdev": "far" });
    db.qmp().execute("device_add", device)?;
    wait_for(a, &DB, |one| one.unguarded.len() == 2)?;
    let told = unguarded(a, &DB)?.join("; ");
    assert!(
        told.contains("fast: a vhost-user port hands frames"),
        "{told}"
    );

    let recorded = |count| {
        wait_body(a, move |body| {
            matches!(body, Body::NicsUnguarded { guest, nics }
                if guest.as_str() == DB.name && nics.len() == count)
        })
    };
    recorded(1)?;
    recorded(2)?;
    let answer = a.admit(DB.name, "b")?;
    let Response::Refused { reasons } = &answer else {
        bail!("admitted: {answer:?}");
    };
    assert!(
        matches!(reasons.as_slice(), [Refusal::Unguarded { detail }] if *detail == told),
        "{reasons:?}"
    );
    Ok(())
}

#[test]
fn a_guest_can_leave_after_its_agent_was_killed_and_started_again() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    world.site.restart_agent("a")?;
    wait_for(world.a(), &DB, |one| {
        one.interlocked && one.running == Some(true)
    })?;
    let _there = migrate(&world.db, world.a(), world.b())?;
    world.stream_goes_on()
}

#[test]
fn an_agent_that_is_killed_in_the_middle_of_a_move_gives_it_up_and_the_guest_can_move_later()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = world()?;
    let target = copied(world.a(), world.b())?;
    world.site.restart_agent("a")?;
    wait_for(world.a(), &DB, |one| {
        one.interlocked && one.running == Some(true)
    })?;
    let records = wait_recorded(world.a(), 1)?;
    assert_eq!(records[0].0.outcome, MoveOutcome::Aborted, "{records:?}");
    // The ticket is spent: what the target waits for does not come any more.
    let report = world.db.migrate_to(&target, &MigrateOptions::default())?;
    assert_eq!(report.status, "failed", "{report:?}");
    drop(target);
    world.stream_goes_on()?;
    let _there = migrate(&world.db, world.a(), world.b())?;
    world.stream_goes_on()
}
