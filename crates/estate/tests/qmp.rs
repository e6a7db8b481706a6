//! The monitor against a socket that answers as QEMU does.

use lictor_estate::nics::Link;
use lictor_estate::qmp::{Event, Monitor, QmpError, RunState, id};
use lictor_types::GuestId;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

/// Greets, then answers each command with what `reply` makes of its name; ends with the client.
fn qemu(path: &Path, reply: fn(&str) -> Vec<Value>) -> JoinHandle<Vec<Value>> {
    let listener = UnixListener::bind(path).expect("a free path");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        say(&stream, &json!({ "QMP": { "version": {} } }));
        let mut commands = Vec::new();
        for line in BufReader::new(&stream).lines() {
            let command: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            let name = command["execute"].as_str().expect("a name").to_owned();
            commands.push(command.clone());
            for mut message in reply(&name) {
                if message.get("event").is_none() {
                    message["id"] = command["id"].clone();
                }
                say(&stream, &message);
            }
            if name == "quit" {
                break;
            }
        }
        commands
    })
}

fn say(mut stream: &UnixStream, message: &Value) {
    writeln!(stream, "{message}").expect("the client listens");
}

fn connect(path: &Path) -> (Monitor, Receiver<Event>) {
    let (sender, events) = channel();
    let sink = move |event| sender.send(event).expect("the test listens");
    (
        Monitor::connect(path, LIMIT, sink).expect("connected"),
        events,
    )
}

fn guest() -> GuestId {
    GuestId::new("web").expect("a valid name")
}

#[test]
fn events_between_answers_arrive_in_order_and_the_end_comes_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let server = qemu(&path, |name| match name {
        "quit" => vec![
            json!({ "event": "STOP", "data": {} }),
            json!({ "event": "MIGRATION", "data": { "status": "completed" } }),
            json!({ "event": "RTC_CHANGE", "data": {} }),
            json!({ "return": {} }),
            json!({ "event": "SHUTDOWN", "data": {} }),
        ],
        _ => vec![json!({ "event": "RESUME" }), json!({ "return": {} })],
    });
    let (monitor, events) = connect(&path);
    monitor.execute("quit", &json!({})).expect("an answer");
    server.join().expect("ends");
    let seen: Vec<Event> = events.iter().collect();
    let expected = [
        Event::Resumed,
        Event::Stopped,
        Event::Migration("completed".into()),
        Event::Shutdown,
        Event::Closed,
    ];
    assert_eq!(seen, expected);
    let late = monitor.execute("query-status", &json!({}));
    assert!(matches!(late, Err(QmpError::Closed { .. })), "{late:?}");
}

#[test]
fn the_run_state_is_what_query_status_says() {
    let check = |reply: fn(&str) -> Vec<Value>, expected: RunState| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let server = qemu(&path, reply);
        let (monitor, _events) = connect(&path);
        assert_eq!(monitor.run_state().expect("an answer"), expected);
        drop(monitor);
        server.join().expect("ends");
    };
    check(
        |_| vec![json!({ "return": { "running": true, "status": "running" } })],
        RunState::Running,
    );
    check(
        |_| vec![json!({ "return": { "running": false, "status": "inmigrate" } })],
        RunState::Incoming,
    );
    check(
        |_| vec![json!({ "return": { "running": false, "status": "postmigrate" } })],
        RunState::Migrated,
    );
    check(
        |_| vec![json!({ "return": { "running": false, "status": "paused" } })],
        RunState::Stopped,
    );
    check(|_| vec![json!({ "return": {} })], RunState::Stopped);
}

#[test]
fn an_interlock_replaces_the_one_of_an_earlier_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let server = qemu(&path, |name| match name {
        "object-del" => vec![json!({ "error": { "class": "GenericError", "desc": "not found" } })],
        _ => vec![json!({ "return": {} })],
    });
    let (monitor, _events) = connect(&path);
    let socket = folder.path().join("guest-web.sock");
    monitor.interlock(&guest(), &socket).expect("added");
    drop(monitor);
    let commands = server.join().expect("ends");
    let names: Vec<_> = commands
        .iter()
        .filter_map(|one| one["execute"].as_str())
        .collect();
    let asked = [
        "qmp_capabilities",
        "qom-get",
        "query-status",
        "query-migrate",
    ];
    assert_eq!(names, [&asked[..], &["object-del", "object-add"]].concat());
    let added = &commands[5]["arguments"];
    assert_eq!(added["id"], id(&guest()));
    assert_eq!(added["qom-type"], "dbus-vmstate");
    assert_eq!(added["addr"], format!("unix:path={}", socket.display()));
}

/// It stands in a QEMU whose migration has come so far, and then ends.
#[test]
fn an_interlock_is_replaced_when_no_migration_could_end_without_one() {
    static STATES: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let check = |states: &[&'static str], expected: &[&str]| {
        let mut left = STATES.lock().expect("not poisoned");
        left.clear();
        left.extend(states.iter().rev());
        drop(left);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let server = qemu(&path, |name| {
            let mut answer = json!({});
            if name == "query-migrate" {
                answer["status"] = json!(STATES.lock().expect("not poisoned").pop());
            }
            vec![json!({ "return": answer })]
        });
        let (monitor, _events) = connect(&path);
        monitor
            .interlock(&guest(), Path::new("/run/guest-web.sock"))
            .expect("replaced");
        drop(monitor);
        let commands = server.join().expect("ends");
        let names = commands.iter().filter_map(|one| one["execute"].as_str());
        let names: Vec<_> = names.skip(3).collect();
        assert_eq!(names, expected, "{states:?}");
    };
    let (ask, cancel) = ("query-migrate", "migrate_cancel");
    let put = ["object-del", "object-add"];
    check(&["failed"], &[&[ask][..], &put].concat());
    // It has not asked yet, and would be told nothing.
    for state in ["setup", "active", "pre-switchover"] {
        check(
            &[state, "cancelling", "cancelled"],
            &[&[ask, cancel, ask, ask][..], &put].concat(),
        );
    }
    // It has asked: its target decides.
    check(&["device", "completed"], &[&[ask, ask][..], &put].concat());
}

/// What the monitor finds of an interlock whose address QEMU tells like that.
fn check_interlocked(told: fn(&str) -> Vec<Value>, expected: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let server = qemu(&path, told);
    let (monitor, _events) = connect(&path);
    let found = monitor.is_interlocked(&guest(), Path::new("/run/guest-web.sock"));
    assert_eq!(found.expect("an answer"), expected);
    drop(monitor);
    let commands = server.join().expect("ends");
    let asked = json!({ "path": "/objects/lictor-web", "property": "addr" });
    assert_eq!(commands[1]["arguments"], asked);
}

#[test]
fn an_interlock_counts_if_it_is_there_and_asks_at_the_agents_own_socket() {
    check_interlocked(
        |_| vec![json!({ "return": "unix:path=/run/guest-web.sock" })],
        true,
    );
    check_interlocked(
        |_| vec![json!({ "return": "unix:path=/tmp/other.sock" })],
        false,
    );
    check_interlocked(
        |name| match name {
            "qom-get" => vec![json!({ "error": { "desc": "Device not found" } })],
            _ => vec![json!({ "return": {} })],
        },
        false,
    );
}

#[test]
fn links_are_set_of_every_emulated_nic() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let server = qemu(&path, |name| match name {
        "human-monitor-command" => vec![json!({
            "return": "nic0: index=0,type=nic,model=virtio,macaddr=52:54:00:00:00:01\r\n \\ \
                       net0: index=0,type=tap,ifname=tap0\r\n"
        })],
        _ => vec![json!({ "return": {} })],
    });
    let (monitor, _events) = connect(&path);
    assert_eq!(monitor.set_links(Link::Down).expect("set"), ["nic0"]);
    assert_eq!(monitor.set_links(Link::Up).expect("set"), ["nic0"]);
    drop(monitor);
    let commands = server.join().expect("ends");
    let set = commands.iter().filter(|one| one["execute"] == "set_link");
    let set: Vec<_> = set.map(|one| &one["arguments"]).collect();
    let wanted = [false, true].map(|up| json!({ "name": "nic0", "up": up }));
    assert_eq!(set, wanted.iter().collect::<Vec<_>>());
}

#[test]
fn a_refusal_carries_what_qemu_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let server = qemu(&path, |name| match name {
        "object-add" => vec![json!({ "error": { "desc": "failed to connect to DBus" } })],
        _ => vec![json!({ "return": {} })],
    });
    let (monitor, _events) = connect(&path);
    let error = monitor.interlock(&guest(), &path).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "QEMU refused object-add: failed to connect to DBus"
    );
    drop(monitor);
    server.join().expect("ends");
}

#[test]
fn nobody_and_somebody_else_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qmp");
    let nobody = Monitor::connect(&path, Duration::from_millis(50), drop);
    assert!(
        matches!(nobody, Err(QmpError::Connect { .. })),
        "{nobody:?}"
    );
    let listener = UnixListener::bind(&path).expect("a free path");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream
            .write_all(b"SSH-2.0\r\n")
            .expect("the client listens");
    });
    let greeted = Monitor::connect(&path, LIMIT, drop);
    assert!(
        matches!(greeted, Err(QmpError::Greeting { .. })),
        "{greeted:?}"
    );
    other.join().expect("ends");
}
