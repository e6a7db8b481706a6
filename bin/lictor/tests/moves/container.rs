//! Containers: a namespace with a process in a cgroup, which is frozen, unplugged from its host,
//! plugged in at the next one and thawed. It is the same process before and after, as if it had
//! been checkpointed and restored: CRIU of Debian 12 (3.17) does not start on the kernels of today.

use super::choices::{site_with, weaker};
use super::stages::Fabric;
use super::*;
use lictor_lab::site::command;
use lictor_lab::{Freezer, Landing, Process};

/// Web on host a, and a container db there that serves a counter.
struct Contained {
    _watched: Watched,
    stream: CounterStream,
    freezer: Freezer,
    _serves: Process,
    db: NsGuest,
    web: NsGuest,
    site: Site,
}

/// As the guests in QEMU do it: a line of one more each 10 ms to whoever connects.
fn serve(guest: &NsGuest) -> Result<Process> {
    let mut counter = guest.netns().command("busybox");
    counter.args(["nc", "-ll", "-p", &PG.to_string(), "-e", "/bin/sh", "-c"]);
    counter.arg("n=0; while echo $n; do n=$((n + 1)); sleep 0.01; done");
    Process::start("a counter", counter)
}

impl Contained {
    fn new(site: Site) -> Result<Self> {
        let watched = Watched::begin(&site, &DB)?;
        let a = site.agent("a")?;
        let (web, db) = (plug_in(a, &WEB)?, plug_in(a, &DB)?);
        let serves = serve(&db)?;
        let freezer = Freezer::hold(&db, serves.pid())?;
        let to = SocketAddr::from((DB.address(), PG));
        let stream = wait::until("a counter that answers", LIMIT, || {
            Ok(CounterStream::hold(web.netns(), to).ok())
        })?;
        stream.log().wait_for(20, LIMIT)?;
        Ok(Self {
            _watched: watched,
            stream,
            freezer,
            _serves: serves,
            db,
            web,
            site,
        })
    }

    fn agents(&self) -> [&Agent; 2] {
        ends(&self.site)
    }

    fn goes_on(&self) -> Result<()> {
        let count = self.stream.log().report().count;
        let report = self.stream.log().wait_for(count + 50, LIMIT)?;
        assert!(report.contiguous && report.ended.is_none(), "{report:?}");
        Ok(())
    }

    /// What `lictor move` says at the agent of a host.
    fn lictor(&self, agent: &Agent, words: &str) -> Result<(bool, String)> {
        let program = &self.site.programs().lictor;
        let mut lictor = agent.host().node().command(&program.to_string_lossy());
        lictor.arg("move").args(words.split_whitespace());
        lictor.arg("--socket").arg(agent.socket());
        let output = command::run(lictor)?;
        Ok((output.status.success(), command::words(&output)))
    }

    fn does(&self, agent: &Agent, words: &str) -> Result<()> {
        let (done, said) = self.lictor(agent, words)?;
        assert!(done, "{words}: {said}; {}", agent.log());
        Ok(())
    }

    fn refuses(&self, agent: &Agent, words: &str, part: &str) -> Result<()> {
        let (done, said) = self.lictor(agent, words)?;
        assert!(!done && said.contains(part), "{words}: {said}");
        Ok(())
    }

    fn receive(&self, to: &Agent) -> Result<Landing> {
        to.host().receive_namespace(&self.db, |vnic| {
            let attached = to.attach(vnic, &addresses(&DB), Arrival::Incoming)?;
            assert_eq!(attached.state, VnicState::Hold);
            Ok(())
        })
    }

    /// The file that goes along with the container.
    fn record(&self, number: usize) -> String {
        let folder = self.site.lab().host("c").expect("a host more");
        let file = format!("db-{number}.save");
        folder.node().folder().join(file).display().to_string()
    }

    /// Up to the fence, with the container standing still.
    fn fence(&self, (from, to): (&Agent, &Agent), number: usize) -> Result<Landing> {
        self.does(from, &format!("admit db --to {}", to.name()))?;
        let landing = self.receive(to)?;
        self.does(from, "status db --wait copied")?;
        self.freezer.freeze()?;
        let (cgroup, record) = (self.freezer.path().display(), self.record(number));
        self.does(from, &format!("fence db --cgroup {cgroup} --out {record}"))?;
        assert_eq!(state(from, &DB)?.1, VnicState::HandedOver);
        Ok(landing)
    }

    fn open(&self, to: &Agent, number: usize) -> Result<()> {
        self.does(to, &format!("open db --record {}", self.record(number)))
    }
}

#[test]
fn a_container_takes_its_sessions_along_there_and_back() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = Contained::new(site()?)?;
    let fabric = Fabric::watch(&world.site)?;
    for number in [1, 2] {
        let [a, b] = world.agents();
        let (from, to) = if number == 1 { (a, b) } else { (b, a) };
        let landing = world.fence((from, to), number)?;
        world.open(to, number)?;
        assert_eq!(state(to, &DB)?.1, VnicState::Open);
        world.db.unplug()?;
        world.db.land(landing)?;
        world.freezer.thaw()?;
        let [a, b] = world.agents();
        let (from, to) = if number == 1 { (a, b) } else { (b, a) };
        world.does(to, "complete db")?;
        world.does(from, "status db --wait done")?;
        world.goes_on()?;
        assert_eq!(state(to, &DB)?, (number as u64 + 1, VnicState::Open));
    }
    // Next to web only its announcements come to the fabric.
    assert!(fabric.stays_of(&DB).contains(&"b"));
    fabric.forwarded_in_turn(&DB, &["a", "b", "a"]);
    let [a, b] = world.agents();
    let (at_a, at_b) = (wait_recorded(a, 2)?, wait_recorded(b, 2)?);
    assert_eq!(at_a, at_b, "both ends keep the same records");
    for (record, signatures) in &at_a {
        assert_eq!((record.outcome, *signatures), (MoveOutcome::Committed, 2));
        assert!(record.sessions.sent >= 1, "{record:?}");
        assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
        assert_eq!(record.unprotected_packets, Some(0), "{record:?}");
    }
    Ok(())
}

/// Where somebody gives the move up, and all that must be true afterwards follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    Admitted,
    Copied,
    Fenced,
    /// At the target, then at the source.
    Opened,
    /// At the source, which must wait for the target.
    OpenedSourceFirst,
    /// The source's agent is killed while the container is fenced.
    FencedSourceKilled,
}

impl GivenUp {
    const ALL: [Self; 6] = [
        Self::Admitted,
        Self::Copied,
        Self::Fenced,
        Self::Opened,
        Self::OpenedSourceFirst,
        Self::FencedSourceKilled,
    ];
}

fn give_up(world: &mut Contained, at: GivenUp, number: usize) -> Result<()> {
    let [a, b] = world.agents();
    if matches!(at, GivenUp::Admitted | GivenUp::Copied) {
        world.does(a, "admit db --to b")?;
        let _landing = (at == GivenUp::Copied)
            .then(|| world.receive(b))
            .transpose()?;
        if at == GivenUp::Copied {
            world.does(a, "status db --wait copied")?;
            let (cgroup, record) = (world.freezer.path().display(), world.record(number));
            let words = format!("fence db --cgroup {cgroup} --out {record}");
            world.refuses(a, &words, "is not frozen")?;
        }
        return world.does(a, "abandon db");
    }
    let _landing = world.fence((a, b), number)?;
    match at {
        GivenUp::Opened => {
            world.open(b, number)?;
            world.does(b, "abandon db")?;
            world.does(a, "abandon db")?;
        }
        GivenUp::OpenedSourceFirst => {
            world.open(b, number)?;
            world.refuses(a, "abandon db", "was let open it")?;
            assert_eq!(state(a, &DB)?.1, VnicState::HandedOver);
            world.does(b, "abandon db")?;
        }
        GivenUp::FencedSourceKilled => {
            world.site.restart_agent("a")?;
            let [a, b] = world.agents();
            // What it had said before counts no more, and it asks until it knows that.
            let words = format!("open db --record {}", world.record(number));
            let (opened, _) = world.lictor(b, &words)?;
            assert!(!opened, "opened without the source's leave");
            wait::until("a source that has heard its target", LIMIT, || {
                let (done, _) = world.lictor(a, "abandon db")?;
                Ok(done.then_some(()))
            })?;
        }
        _ => world.does(a, "abandon db")?,
    }
    Ok(())
}

#[test]
fn a_container_whose_move_is_given_up_goes_on_at_its_source() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = Contained::new(site()?)?;
    for (number, at) in (1..).zip(GivenUp::ALL) {
        give_up(&mut world, at, number).with_context(|| format!("{at:?}"))?;
        world.freezer.thaw()?;
        let [a, b] = world.agents();
        wait_for(a, &DB, |one| one.vnics[0].state == VnicState::Open)
            .with_context(|| format!("{at:?}; {}", a.log()))?;
        world.goes_on().with_context(|| format!("{at:?}"))?;
        let records = wait_recorded(a, number)?;
        assert_eq!(records.len(), number, "{at:?}: {records:?}");
        assert_eq!(records[number - 1].0.outcome, MoveOutcome::Aborted);
        // Its device at the target has gone with the attempt.
        let left = b.guest(DB.name)?.map_or(0, |one| one.custody);
        assert_eq!(left, 0, "{at:?}");
    }
    Ok(())
}

#[test]
fn a_container_is_opened_by_its_own_record_only_and_a_restarted_target_completes_its_move()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = Contained::new(site()?)?;
    let [a, b] = world.agents();
    // The record of an attempt that was given up opens nothing later.
    drop(world.fence((a, b), 1)?);
    world.does(a, "abandon db")?;
    world.freezer.thaw()?;
    world.goes_on()?;
    let landing = world.fence((a, b), 2)?;
    let words = format!("open db --record {}", world.record(1));
    world.refuses(b, &words, "another move")?;
    // Its source has heard that, and does not wait for anybody.
    wait_for(a, &DB, |one| one.vnics[0].state == VnicState::Open)?;
    world.freezer.thaw()?;
    world.goes_on()?;
    drop(landing);

    let landing = world.fence((a, b), 3)?;
    world.open(b, 3)?;
    world.site.restart_agent("b")?;
    world.db.unplug()?;
    world.db.land(landing)?;
    world.freezer.thaw()?;
    let [a, b] = world.agents();
    assert_eq!(state(b, &DB)?.1, VnicState::Open);
    world.does(b, "complete db")?;
    world.does(a, "status db --wait done")?;
    world.goes_on()?;
    let (at_a, at_b) = (wait_recorded(a, 3)?, wait_recorded(b, 1)?);
    assert_eq!(at_a.last(), at_b.last(), "both ends keep the same record");
    assert_eq!(state(b, &DB)?.1, VnicState::Open);
    Ok(())
}

/// Somebody starts it at another host, with nothing of its firewall: what was established goes on
/// if its owner chose so.
#[test]
fn a_container_that_is_started_elsewhere_begins_anew_or_is_adopted() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let lines = [String::new(), weaker("state-lost", "adopt")];
    for (adopts, lines) in [false, true].into_iter().zip(lines) {
        let mut world = Contained::new(site_with(&[WEB, DB], &lines)?)?;
        world.freezer.freeze()?;
        let [_, b] = world.agents();
        world.db.unplug()?;
        let landing = b.host().receive_namespace(&world.db, |vnic| {
            b.attach(vnic, &addresses(&DB), Arrival::Start).map(drop)
        })?;
        world.db.land(landing)?;
        let [a, b] = world.agents();
        wait_for(b, &DB, |one| one.vnics[0].state == VnicState::Open)
            .with_context(|| format!("{}; {}", a.log(), b.log()))?;
        let before = world.stream.log().report().count;
        world.freezer.thaw()?;
        if adopts {
            world.goes_on()?;
            continue;
        }
        let to = SocketAddr::from((DB.address(), PG));
        let anew = CounterStream::hold(world.web.netns(), to)?;
        // As long as the old one would have taken for as much.
        anew.log().wait_for(200, LIMIT)?;
        assert_eq!(world.stream.log().report().count, before);
    }
    Ok(())
}
