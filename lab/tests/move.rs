//! The interlock with a real QEMU: what the agent says at Save() and Load() decides whether a guest
//! leaves and whether it runs. These tests need root; see `lictor_lab::privileged`.

use lictor_agent::interlock::{Interlock, Keeper};
use lictor_agent::libvirt::QemuGroup;
use lictor_estate::qmp::{Event, Monitor, RunState};
use lictor_lab::*;
use lictor_types::{GuestId, Mac};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const ADDRESS: [u8; 4] = [10, 77, 0, 10];

/// Writes down what it is asked, and refuses what it is told to.
#[derive(Default)]
struct Notes {
    saves: Mutex<u32>,
    loads: Mutex<Vec<Vec<u8>>>,
    refuse_load: bool,
}

impl Keeper for Notes {
    fn save(&self, guest: &GuestId) -> Result<Vec<u8>, String> {
        *self.saves.lock().expect("not poisoned") += 1;
        Ok(format!("the record of {guest}").into_bytes())
    }

    fn load(&self, _: &GuestId, state: &[u8]) -> Result<(), String> {
        let mut loads = self.loads.lock().expect("not poisoned");
        loads.push(state.to_vec());
        if self.refuse_load {
            return Err("the sessions did not arrive".into());
        }
        Ok(())
    }
}

impl Notes {
    fn saves(&self) -> u32 {
        *self.saves.lock().expect("not poisoned")
    }

    fn loads(&self) -> Vec<Vec<u8>> {
        self.loads.lock().expect("not poisoned").clone()
    }
}

/// One host's end of the interlock.
struct End {
    notes: Arc<Notes>,
    monitor: Monitor,
    events: Receiver<Event>,
    socket: PathBuf,
    interlock: Option<Interlock>,
}

fn name() -> GuestId {
    GuestId::new("web").expect("a valid name")
}

impl End {
    fn new(guest: &QemuGuest, notes: Notes) -> Self {
        let notes = Arc::new(notes);
        let socket = guest.host().node().folder().join("guest-web.sock");
        let keeper: Arc<dyn Keeper> = notes.clone();
        let interlock =
            Interlock::serve(&name(), &socket, QemuGroup::default(), keeper).expect("listens");
        let path = guest.vnic().qmp.clone().expect("QEMU offers a socket");
        let (sender, events) = channel();
        let sink = move |event| drop(sender.send(event));
        let monitor = Monitor::connect(&path, LIMIT, sink).expect("QEMU answers");
        monitor.interlock(&name(), &socket).expect("QEMU connects");
        Self {
            notes,
            monitor,
            events,
            socket,
            interlock: Some(interlock),
        }
    }

    /// As after a restart of the agent: the old socket is gone, QEMU is told of a new one.
    fn again(&mut self) {
        self.interlock = None;
        let keeper: Arc<dyn Keeper> = self.notes.clone();
        let group = QemuGroup::default();
        let interlock = Interlock::serve(&name(), &self.socket, group, keeper).expect("listens");
        self.monitor
            .interlock(&name(), &self.socket)
            .expect("QEMU connects again");
        self.interlock = Some(interlock);
    }

    fn wait_for(&self, wanted: &Event) {
        while self.events.recv_timeout(LIMIT).expect("an event") != *wanted {}
    }

    /// A QEMU that says "completed" is in `finish-migrate` for a moment longer.
    fn wait_until(&self, wanted: RunState) {
        let begin = Instant::now();
        loop {
            let state = self.monitor.run_state().expect("asked");
            if state == wanted {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "{state:?}, not {wanted:?}");
            sleep(Duration::from_millis(10));
        }
    }
}

struct World {
    _client: NsGuest,
    stream: CounterStream,
    source: QemuGuest,
    target: QemuGuest,
    _lab: Lab,
}

fn world() -> World {
    Image::build(&image::cache()).expect("the guest image");
    let lab = Lab::new().expect("lab");
    let (a, b) = (
        lab.host("a").expect("host a"),
        lab.host("b").expect("host b"),
    );
    let spec = |name: &str, number: u8, services: &[Service]| GuestSpec {
        name: name.into(),
        mac: Mac([0x52, 0x54, 0, 0x77, 0, number]),
        addresses: vec![(IpAddr::from([10, 77, 0, number]), 16)],
        gateways: vec![],
        services: services.to_vec(),
        more: Vec::new(),
    };
    let client = lab.client(&spec("client", 100, &[])).expect("client");
    let web = spec("web", 10, &[Service::Counter(5000)]);
    let source = a.boot(&web, |_| Ok(())).expect("boot");
    source.wait_up(LIMIT).expect("up");
    let to = SocketAddr::new(IpAddr::from(ADDRESS), 5000);
    let stream = CounterStream::hold(client.netns(), to).expect("stream");
    stream.log().wait_for(20, LIMIT).expect("the stream flows");
    let target = b.receive(&web, |_| Ok(())).expect("receive");
    World {
        _client: client,
        stream,
        source,
        target,
        _lab: lab,
    }
}

impl World {
    fn stream_goes_on(&self) {
        let count = self.stream.log().report().count;
        let report = self
            .stream
            .log()
            .wait_for(count + 20, LIMIT)
            .expect("numbers");
        assert!(report.contiguous, "{report:?}");
    }
}

#[test]
fn the_sources_record_reaches_the_target_before_the_guest_runs_there() {
    if !privileged() {
        return;
    }
    let world = world();
    let mut source = End::new(&world.source, Notes::default());
    let target = End::new(&world.target, Notes::default());
    assert_eq!(
        source.monitor.run_state().expect("asked"),
        RunState::Running
    );
    assert_eq!(
        target.monitor.run_state().expect("asked"),
        RunState::Incoming
    );
    // A guest can still leave after the agent was killed and started again.
    source.again();
    let report = world
        .source
        .migrate_to(&world.target, &MigrateOptions::default())
        .expect("migrate");
    assert_eq!(report.status, "completed", "{report:?}");
    source.wait_for(&Event::Stopped);
    target.wait_for(&Event::Resumed);
    assert_eq!(source.notes.saves(), 1);
    assert_eq!(target.notes.loads(), [b"the record of web".to_vec()]);
    source.wait_until(RunState::Migrated);
    world.stream_goes_on();
}

#[test]
fn a_refused_load_keeps_the_guest_at_its_source() {
    if !privileged() {
        return;
    }
    let world = world();
    let source = End::new(&world.source, Notes::default());
    let refuse = Notes {
        refuse_load: true,
        ..Notes::default()
    };
    let target = End::new(&world.target, refuse);
    let report = world
        .source
        .migrate_to(&world.target, &MigrateOptions::default())
        .expect("an end");
    assert_eq!(report.status, "failed", "{report:?}");
    source.wait_for(&Event::Resumed);
    target.wait_for(&Event::Closed);
    assert_eq!(target.notes.loads().len(), 1);
    world.stream_goes_on();
}

#[test]
fn a_guest_with_an_interlock_cannot_arrive_where_no_agent_is() {
    if !privileged() {
        return;
    }
    let world = world();
    let source = End::new(&world.source, Notes::default());
    let report = world
        .source
        .migrate_to(&world.target, &MigrateOptions::default())
        .expect("an end");
    assert_eq!(report.status, "failed", "{report:?}");
    source.wait_for(&Event::Resumed);
    world.stream_goes_on();
}

#[test]
fn a_snapshot_asks_the_agent_too() {
    if !privileged() {
        return;
    }
    let world = world();
    let source = End::new(&world.source, Notes::default());
    world.source.snapshot("one").expect("a snapshot");
    assert_eq!(source.notes.saves(), 1);
    world.source.restore("one").expect("restored");
    assert_eq!(source.notes.loads(), [b"the record of web".to_vec()]);
}
