//! The laboratory itself: guests boot, streams hold across a move, nothing stays behind.
//! These tests need root; see `lictor_lab::privileged`.

use lictor_lab::*;
use lictor_types::Mac;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BOOT: Duration = Duration::from_secs(60);

fn spec(name: &str, number: u8, services: &[Service]) -> GuestSpec {
    GuestSpec {
        name: name.into(),
        mac: Mac([0x52, 0x54, 0, 0x77, 0, number]),
        addresses: vec![(v4(number), 16), (v6(number), 64)],
        gateways: vec![],
        services: services.to_vec(),
        more: Vec::new(),
    }
}

fn v4(number: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, number])
}

fn v6(number: u8) -> IpAddr {
    IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)])
}

fn open(_: &Vnic) -> anyhow::Result<()> {
    Ok(())
}

fn image() {
    Image::build(&image::cache()).expect("the guest image");
}

#[test]
fn a_guest_keeps_its_streams_in_a_live_migration_and_survives_a_snapshot() {
    if !privileged() {
        return;
    }
    image();
    let lab = Lab::new().expect("lab");
    let (a, b) = (
        lab.host("a").expect("host a"),
        lab.host("b").expect("host b"),
    );
    let client = lab.client(&spec("client", 100, &[])).expect("client");
    let _db = CounterServer::start(client.netns(), 7000).expect("counter in a namespace");
    let services = [
        Service::Counter(5000),
        Service::Echo(5001),
        Service::Stream(SocketAddr::new(v6(100), 7000)),
    ];
    let web = spec("web", 10, &services);
    let source = a.boot(&web, open).expect("boot");
    source.wait_up(BOOT).expect("up");

    let hold = |ip| CounterStream::hold(client.netns(), SocketAddr::new(ip, 5000)).expect("stream");
    let (four, six) = (hold(v4(10)), hold(v6(10)));
    let own = lab.guest_stream("web");
    for log in [four.log(), six.log(), &own] {
        log.wait_for(20, BOOT).expect("the stream flows");
    }
    let capture = Capture::start(lab.fabric(), &b.fabric_port()).expect("capture");

    let target = b.receive(&web, open).expect("receive");
    let report = source
        .migrate_to(&target, &MigrateOptions::default())
        .expect("migrate");
    assert_eq!(report.status, "completed", "{report:?}");
    source.quit().expect("the source ends");
    for (name, log) in [
        ("IPv4", four.log()),
        ("IPv6", six.log()),
        ("the guest's own", &own),
    ] {
        let moved = log.report().count;
        let whole = log
            .wait_for(moved + 50, BOOT)
            .expect("the stream goes on after the move");
        assert!(
            whole.contiguous && whole.ended.is_none(),
            "{name}: {whole:?}"
        );
        eprintln!(
            "{name}: largest gap {:?}, pause {:?}",
            whole.largest_gap, report.pause
        );
    }
    let announced = capture.from_mac(web.mac);
    assert!(
        announced.iter().any(|f| f.ethertype == frame::RARP),
        "QEMU announces the guest"
    );

    target
        .snapshot("before")
        .expect("a snapshot of the running guest");
    let numbers = own.report().count;
    own.wait_for(numbers + 20, BOOT)
        .expect("the guest goes on after its snapshot");
    target
        .restore("before")
        .expect("the guest returns to its snapshot");
    let status = target
        .qmp()
        .execute("query-status", serde_json::json!({}))
        .expect("status");
    assert_eq!(status["status"], "running");
    target.quit().expect("the target ends");
}

#[test]
fn a_guest_whose_target_dies_goes_on_at_the_source() {
    if !privileged() {
        return;
    }
    image();
    let lab = Lab::new().expect("lab");
    let (a, b) = (
        lab.host("a").expect("host a"),
        lab.host("b").expect("host b"),
    );
    let client = lab.client(&spec("client", 100, &[])).expect("client");
    let web = spec("web", 10, &[Service::Counter(5000)]);
    let source = a.boot(&web, open).expect("boot");
    source.wait_up(BOOT).expect("up");
    let to = SocketAddr::new(v4(10), 5000);
    let stream = CounterStream::hold(client.netns(), to).expect("stream");
    let mut target = b.receive(&web, open).expect("receive");
    let options = MigrateOptions {
        pause_before_switchover: true,
        ..MigrateOptions::default()
    };
    let mark = source.qmp().mark();
    source
        .start_migration(&target, &options)
        .expect("the migration starts");
    source
        .qmp()
        .wait(mark, BOOT, |event| event.status() == Some("pre-switchover"))
        .expect("paused before the switch");
    target.process().kill().expect("the target dies");
    let go = serde_json::json!({ "state": "pre-switchover" });
    source
        .qmp()
        .execute("migrate-continue", go)
        .expect("continue");
    let report = source
        .finish_migration(&target, mark, &options)
        .expect("an end");
    assert_eq!(report.status, "failed", "{report:?}");
    let seen = stream.log().report().count;
    let report = stream
        .log()
        .wait_for(seen + 50, BOOT)
        .expect("the stream goes on");
    assert!(report.contiguous, "{report:?}");
}

#[test]
fn two_labs_side_by_side_use_the_same_names_and_addresses() {
    if !privileged() {
        return;
    }
    let make = || {
        let lab = Lab::new().expect("lab");
        let host = lab.host("a").expect("host");
        let mut seen = None;
        let guest = host.namespace_guest(&spec("web", 10, &[]), |vnic| {
            let text = vnic.netns.ip(&format!("link show {}", vnic.device))?;
            seen = Some(text.contains("master") || text.contains(",UP"));
            Ok(())
        });
        assert_eq!(
            seen,
            Some(false),
            "the hook comes before the bridge and before up"
        );
        (
            guest.expect("guest"),
            lab.client(&spec("client", 100, &[])).expect("client"),
            lab,
        )
    };
    let (first, second) = (make(), make());
    let _server = CounterServer::start(first.0.netns(), 5000).expect("server");
    let to = |ip| SocketAddr::new(ip, 5000);
    for ip in [v4(10), v6(10)] {
        let stream = CounterStream::hold(first.1.netns(), to(ip)).expect("stream");
        let report = stream.log().wait_for(10, BOOT).expect("numbers");
        assert!(report.contiguous, "{report:?}");
        let other = connect(second.1.netns(), to(ip), BOOT).expect("attempt");
        assert_eq!(
            other,
            ConnectOutcome::Refused,
            "the second lab's guest has no server"
        );
    }
}

#[test]
fn injected_frames_arrive_as_they_were_written() {
    if !privileged() {
        return;
    }
    let lab = Lab::new().expect("lab");
    let host = lab.host("a").expect("host");
    let guest = host
        .namespace_guest(&spec("web", 10, &[]), open)
        .expect("guest");
    let client = lab.client(&spec("client", 100, &[])).expect("client");
    let capture = Capture::start(lab.fabric(), &host.fabric_port()).expect("capture");
    let liar = Mac([2, 0, 0, 0, 0, 9]);
    let datagram = frame::Datagram {
        mac: (liar, client.spec().mac),
        ip: ([192, 0, 2, 9].into(), [10, 77, 0, 100].into()),
        port: (1, 2),
    };
    let frames = [
        frame::udp4(&datagram, b"one"),
        frame::udp4(&datagram, b"two"),
    ];
    inject(guest.netns(), "eth0", &frames).expect("inject");
    let end = Instant::now() + Duration::from_secs(5);
    while capture.from_mac(liar).len() < 2 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let caught: Vec<_> = capture
        .from_mac(liar)
        .into_iter()
        .map(|frame| frame.head)
        .collect();
    assert_eq!(caught, frames);
}

/// Starts the example that makes a lab, and ends it in the given way.
fn residue_after(ending: &str, end: impl FnOnce(u32)) {
    if !privileged() {
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_lab-victim"));
    let mut child = Command::new(program)
        .arg(ending)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let pid = child.id();
    let mut ready = String::new();
    let output = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut ready).expect("ready");
    let process: u32 = ready
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("a pid, not {ready:?}"));
    assert!(
        !residue(pid, process).is_empty(),
        "the victim has made something to clean up"
    );
    end(pid);
    child.wait().expect("the victim ends");
    if ending == "kill" {
        assert!(
            !residue(pid, process).is_empty(),
            "SIGKILL gives no chance to clean up"
        );
        clean_stale().expect("the next lab cleans up");
    }
    let end = Instant::now() + Duration::from_secs(5);
    while !residue(pid, process).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        residue(pid, process),
        Vec::<String>::new(),
        "after {ending}"
    );
}

fn residue(owner: u32, process: u32) -> Vec<String> {
    let mut found = Vec::new();
    let folder = format!("/run/lictor-lab/{owner}-");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&folder))
            .map(str::to_owned),
    );
    for (root, prefix) in [("/run/netns", "lictor-"), ("/run/lictor-lab", "")] {
        let prefix = format!("{prefix}{owner}-");
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.extend(name.starts_with(&prefix).then_some(name));
        }
    }
    // A dead process that nobody has reaped yet has no program any more.
    if std::fs::read_link(format!("/proc/{process}/exe")).is_ok() {
        found.push(format!("process {process}"));
    }
    found
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, signal).expect("the victim runs");
}

#[test]
fn nothing_stays_after_ctrl_c() {
    residue_after("wait", |pid| send(pid, Signal::SIGINT));
}

#[test]
fn nothing_stays_after_sigterm() {
    residue_after("wait", |pid| send(pid, Signal::SIGTERM));
}

#[test]
fn nothing_stays_after_a_panic() {
    residue_after("panic", |_| ());
}

#[test]
fn the_next_lab_removes_what_a_killed_owner_left() {
    residue_after("kill", |pid| send(pid, Signal::SIGKILL));
}

#[test]
fn a_setting_of_the_machine_comes_back_with_the_end_of_the_lab() {
    if !privileged() {
        return;
    }
    let path = Path::new("/proc/sys/kernel/printk_ratelimit_burst");
    let read = || std::fs::read_to_string(path).expect("every Linux has it");
    let former = read();
    let lab = Lab::new().expect("lab");
    for value in ["17", "18"] {
        lab.machine_setting(path, value).expect("root may");
        assert_eq!(read().trim(), value);
    }
    drop(lab);
    assert_eq!(read(), former);
}
