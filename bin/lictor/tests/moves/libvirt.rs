//! Guests of real libvirt daemons, whose hooks are those that `lictor host install` writes. Libvirt
//! makes the taps, and QEMU runs as the user that Debian's libvirt has for it.

use super::before::given_up;
use super::stages::Fabric;
use super::*;
use lictor_lab::Libvirt;
use lictor_lab::libvirt::{IMAGES, qemu_uid};
use lictor_lab::site::command;
use std::os::unix::fs::MetadataExt as _;
use std::process::Output;

/// An empty disk for db on each host.
const DISK: &str = "db.qcow2";

/// Hosts a and b with libvirt, db on a, and a stream from web to it.
struct Virtual {
    // The daemons and their QEMUs end before the lab does.
    a: Libvirt,
    b: Libvirt,
    fabric: Fabric,
    stream: CounterStream,
    web: NsGuest,
    site: Site,
}

fn virtual_world(definition: &Definition) -> Result<Virtual> {
    let mut site = empty_site()?;
    let (a, b) = (site.libvirt_host("a")?, site.libvirt_host("b")?);
    publish(&site, &[WEB, DB])?;
    let fabric = Fabric::watch(&site)?;
    let agent = site.agent("a")?;
    let web = plug_in(agent, &WEB)?;
    for libvirt in [&a, &b] {
        lictor_lab::qcow2::create(&libvirt.images().join(DISK))?;
    }
    define(&site, &a, (&DB, definition))?;
    a.done(&["start", DB.name]).with_context(|| agent.log())?;
    a.wait_up(DB.name)?;
    wait_for(agent, &DB, |one| {
        one.interlocked && one.running == Some(true) && one.vnics[0].state == VnicState::Open
    })?;
    let stream = hold_stream(&web, DB.address())?;
    Ok(Virtual {
        a,
        b,
        fabric,
        stream,
        web,
        site,
    })
}

/// How an administrator defines db.
#[derive(Debug, Default)]
struct Definition {
    /// Further words for `lictor hook domain`.
    words: &'static [&'static str],
    /// Further devices.
    devices: String,
}

fn define(
    site: &Site,
    libvirt: &Libvirt,
    (guest, definition): (&Guest, &Definition),
) -> Result<()> {
    let folder = libvirt.host().libvirt_root();
    let (plain, defined) = (folder.join("plain.xml"), folder.join("defined.xml"));
    std::fs::write(
        &plain,
        libvirt.domain(&guest.spec(&SERVICES), &definition.devices)?,
    )?;
    let agent = site.agent(libvirt.host().node().name())?;
    let mut hook = agent
        .host()
        .node()
        .command(&site.programs().lictor.to_string_lossy());
    hook.args(["hook", "domain"])
        .args(definition.words)
        .arg("--socket")
        .arg(agent.socket())
        .stdin(std::fs::File::open(plain)?);
    std::fs::write(&defined, command::output(hook)?)?;
    libvirt
        .done(&["define", &defined.display().to_string()])
        .map(drop)
}

fn refused(output: &Output, part: &str) {
    let words = command::words(output);
    assert!(!output.status.success() && words.contains(part), "{words}");
}

impl Virtual {
    fn agent(&self, libvirt: &Libvirt) -> Result<&Agent> {
        self.site.agent(libvirt.host().node().name())
    }

    fn stream_goes_on(&self) -> Result<()> {
        let count = self.stream.log().report().count;
        let report = self.stream.log().wait_for(count + 50, LIMIT)?;
        assert!(report.contiguous && report.ended.is_none(), "{report:?}");
        Ok(())
    }

    /// Moves db with a move that both agents admit, and virsh.
    fn moves(&self, (from, to): (&Libvirt, &Libvirt), how: &[&str]) -> Result<()> {
        admitted(self.agent(from)?, &DB, self.agent(to)?.name())?;
        self.migrates((from, to), how)
    }

    /// Moves db with virsh alone.
    fn migrates(&self, (from, to): (&Libvirt, &Libvirt), how: &[&str]) -> Result<()> {
        let (source, target) = (self.agent(from)?, self.agent(to)?);
        let migrated = from.migrate(DB.name, to, how)?;
        let words = || {
            let logs = [source.log(), target.log(), to.guest_log(DB.name)].concat();
            format!("{how:?}: {}; {logs}", command::words(&migrated))
        };
        assert!(migrated.status.success(), "{}", words());
        source
            .wait_for_phase(DB.name, &[MovePhase::Done], LIMIT)
            .with_context(words)?;
        wait_for(target, &DB, |one| one.vnics[0].state == VnicState::Open).with_context(words)?;
        self.stream_goes_on().with_context(words)
    }
}

#[test]
fn virsh_migrates_a_guest_with_its_sessions_and_is_refused_with_the_reason() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    // The interlock comes by the agent's monitor where the guest starts, and by the hook where it
    // comes to.
    let words = &["--monitor-only"];
    let world = virtual_world(&Definition {
        words,
        ..Definition::default()
    })?;
    let (a, b) = (&world.a, &world.b);
    // Whoever could admit it does not answer.
    world.agent(a)?.pause()?;
    let answer = a.migrate(DB.name, b, &[])?;
    world.agent(a)?.go_on()?;
    let words = "guest db was not admitted to come here: the source has no custody: host a, which \
                 may have it, has not answered";
    refused(&answer, words);
    world.stream_goes_on()?;
    no_way_back(&world)?;

    // QEMU is not root, and has made the socket on which the agent asks it.
    let monitor = world.agent(a)?.folder().join("run/qemu/db.sock");
    assert_eq!(std::fs::metadata(monitor)?.uid(), qemu_uid()?);
    world.moves((a, b), &[])?;
    assert!(b.runs(DB.name)? && !a.runs(DB.name)?);
    world.moves((b, a), &["--p2p"])?;
    assert!(a.runs(DB.name)? && !b.runs(DB.name)?);
    // And with virsh alone: the hook of the target asks.
    world.migrates((a, b), &["--p2p"])?;
    assert!(b.runs(DB.name)? && !a.runs(DB.name)?);
    let (at_a, at_b) = (
        wait_recorded(world.agent(a)?, 5)?,
        wait_recorded(world.agent(b)?, 3)?,
    );
    // What was given up is recorded by its source alone: the move for which a had asked too late,
    // and the one without a way back.
    let aborted = |one: &(MoveRecord, usize)| one.0.outcome == MoveOutcome::Aborted;
    assert!(at_a[..2].iter().all(aborted), "{at_a:?}");
    assert_eq!(at_a[2..], at_b, "both ends keep the same records");
    for (record, signatures) in &at_b {
        assert_eq!(*signatures, 2, "{record:?}");
        assert_eq!(record.outcome, MoveOutcome::Committed);
        assert!(record.sessions.sent >= 1, "{record:?}");
        assert_eq!(record.sessions.accepted, record.sessions.sent, "{record:?}");
    }
    (world.fabric).forwarded_in_turn(&DB, &["a", "b", "a", "b"]);
    Ok(())
}

/// Libvirt migrates without a way back when it tunnels.
fn no_way_back(world: &Virtual) -> Result<()> {
    let (a, b) = (&world.a, &world.b);
    let agent = world.agent(a)?;
    admitted(agent, &DB, "b")?;
    let answer = a.migrate(DB.name, b, &["--p2p", "--tunnelled"])?;
    assert!(!answer.status.success(), "{answer:?}");
    assert!(a.runs(DB.name)? && !b.runs(DB.name)?);
    world.stream_goes_on()?;
    given_up(agent, "without return-path")
}

#[test]
fn no_guest_comes_or_starts_where_no_agent_answers() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut world = virtual_world(&Definition::default())?;
    world.site.kill_agent("b")?;
    let (a, b) = (&world.a, &world.b);
    let answer = world.agent(a)?.admit(DB.name, "b")?;
    assert!(
        matches!(&answer, Response::Refused { reasons }
            if matches!(reasons.as_slice(), [Refusal::HostUnprotected { .. }])),
        "{answer:?}"
    );
    for how in [&[][..], &["--p2p"]] {
        let answer = a.migrate(DB.name, b, how)?;
        refused(&answer, "agent.sock");
        assert!(a.runs(DB.name)? && !b.runs(DB.name)?);
    }
    define(&world.site, b, (&DB, &Definition::default()))?;
    refused(&b.virsh(&["start", DB.name])?, "agent.sock");
    world.stream_goes_on()?;

    // The source's agent is started again while the guest runs, and then the target's.
    world.site.restart_agent("a")?;
    world.site.restart_agent("b")?;
    wait_for(world.agent(&world.a)?, &DB, |one| {
        one.interlocked && one.running == Some(true)
    })?;
    world.moves(
        (&world.a, &world.b),
        &["--p2p", "--persistent", "--undefinesource"],
    )?;
    world.fabric.forwarded_in_turn(&DB, &["a", "b"]);
    Ok(())
}

/// By the signed policy that the agent has left on its disk.
#[test]
fn a_guest_whose_owner_allows_it_starts_where_no_agent_answers_and_that_is_recorded_later()
-> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let mut site = empty_site()?;
    let a = site.libvirt_host("a")?;
    publish(&site, &[DB, BATCH])?;
    let words = &["--monitor-only"];
    let alone = Definition {
        words,
        ..Definition::default()
    };
    for guest in [&DB, &BATCH] {
        define(&site, &a, (guest, &alone))?;
    }
    site.kill_agent("a")?;
    refused(&a.virsh(&["start", DB.name])?, "agent.sock");
    a.done(&["start", BATCH.name])?;
    assert!(a.runs(BATCH.name)? && !a.runs(DB.name)?);
    // What somebody has changed is not what was signed.
    let release = site.agent("a")?.state_dir().join("release.json");
    let signed = std::fs::read_to_string(&release)?;
    std::fs::write(&release, signed.replacen("sig\":\"", "sig\":\"AAAA", 2))?;
    a.done(&["destroy", BATCH.name])?;
    refused(&a.virsh(&["start", BATCH.name])?, "does not count");
    std::fs::write(&release, signed)?;

    site.restart_agent("a")?;
    let agent = site.agent("a")?;
    wait_body(agent, |body| match body {
        Body::GuestPlaced {
            guest, protected, ..
        } => guest.as_str() == BATCH.name && !protected,
        _ => false,
    })?;
    wait_body(agent, |body| match body {
        Body::Alarm { text, .. } => text.contains("no agent answered when libvirt started it"),
        _ => false,
    })?;
    let left: Vec<_> = ["passed.jsonl", "passed.taken"]
        .into_iter()
        .filter(|name| agent.state_dir().join(name).exists())
        .collect();
    assert_eq!(left, Vec::<&str>::new());
    Ok(())
}

#[test]
fn what_is_saved_comes_back_to_its_host_without_its_sessions_and_to_no_other() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let world = virtual_world(&Definition {
        devices: format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
             <source file='{IMAGES}/{DISK}'/><target dev='vda' bus='virtio'/></disk>"
        ),
        ..Definition::default()
    })?;
    let (a, b) = (&world.a, &world.b);
    let agent = world.agent(a)?;
    let comes_back = |how: &[&str], before: u64| -> Result<u64> {
        a.done(how)?;
        wait_for(agent, &DB, |one| {
            let running = one.running == Some(true) && one.interlocked;
            running && one.custody > before && one.vnics[0].state == VnicState::Open
        })
        .with_context(|| format!("{how:?}; {}", agent.log()))?;
        let _stream = hold_stream(&world.web, DB.address())?;
        Ok(state(agent, &DB)?.0)
    };

    // A snapshot fences nothing. The guest goes back to it in another epoch.
    a.done(&["snapshot-create-as", DB.name, "one"])?;
    world.stream_goes_on()?;
    let epoch = state(agent, &DB)?.0;
    let epoch = comes_back(&["snapshot-revert", DB.name, "one"], epoch)?;

    let saved = format!("{IMAGES}/saved");
    a.done(&["save", DB.name, &saved])?;
    wait::until("a host without the guest", LIMIT, || {
        let custody = agent.guest(DB.name)?.map_or(0, |one| one.custody);
        Ok((custody == 0).then_some(()))
    })?;
    std::fs::copy(a.images().join("saved"), b.images().join("saved"))?;
    let answer = b.virsh(&["restore", &saved])?;
    assert!(!answer.status.success(), "{answer:?}");
    assert!(!b.runs(DB.name)?);
    wait_body(world.agent(b)?, |body| {
        matches!(body, Body::Alarm { subject, text } if subject == "guest db"
            && text.contains("this host has not admitted a move of the guest"))
    })?;
    comes_back(&["restore", &saved], epoch)?;
    let taken = |body: &&Body| matches!(body, Body::SnapshotTaken { .. });
    assert!(evidence(agent)?.iter().filter(taken).count() >= 2);
    world.fabric.forwarded_in_turn(&DB, &["a"]);
    Ok(())
}

#[test]
fn apparmor_takes_what_install_writes_for_it() -> Result<()> {
    if !lictor_lab::privileged() {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let mut install = std::process::Command::new(env!("CARGO_BIN_EXE_lictor"));
    install.args(["host", "install", "--root"]).arg(root.path());
    command::output(install)?;
    // Debian's own profile includes the file like this.
    let base = root.path().join("etc/apparmor.d");
    let profile = base.join("profile");
    let include = "profile lictor-test {\n  #include <local/abstractions/libvirt-qemu>\n}\n";
    std::fs::write(&profile, include)?;
    let parse = |more: &[&str]| {
        let mut parser = std::process::Command::new("apparmor_parser");
        parser.args(["--skip-kernel-load", "--skip-cache", "--base"]);
        parser.arg(&base).args(more).arg(&profile);
        command::output(parser).context("`cargo xtask setup` installs apparmor")
    };
    assert_eq!(parse(&[])?, "");
    let rules = parse(&["--preprocess"])?;
    for rule in [
        "/run/lictor/guest-*.sock rw,",
        "/run/lictor/qemu/*.sock rw,",
    ] {
        assert!(rules.contains(rule), "{rules}");
    }
    Ok(())
}
