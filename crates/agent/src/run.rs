//! The shell: a control socket, links to other agents, a manager, and one thread that owns the
//! host and takes everything from one queue.

use crate::input::{Input, Now};
use crate::libvirt::QemuGroup;
use crate::owner::{Owner, Parts};
use crate::peer::{Links, Roster, Sink};
use crate::uplink::Uplink;
use crate::{AgentError, Config, Host, ready};
use lictor_wire::local::{LINE_BYTES_MAX, Request, Response, SOCKET};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Inputs that wait for the owner; more wait where they come from.
const QUEUE_MAX: usize = 1_024;

/// Reads both clocks.
fn now(began: Instant) -> Now {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}

/// Runs the agent for ever. Ending it, in whatever way, changes nothing in the kernel.
///
/// # Errors
/// [`AgentError`] if it cannot begin: not enrolled, a broken file, a kernel that lacks something.
pub fn run(config: Config) -> Result<(), AgentError> {
    let began = Instant::now();
    let (inputs, queue) = sync_channel(QUEUE_MAX);
    let qemu = QemuGroup::named(config.qemu_group.as_deref())?;
    let host = Host::open(config, now(began).ms)?;
    // Only now: an agent that cannot begin must not take the socket from one that runs.
    listen(host.config(), &inputs)?;
    qemu.open_monitors(&host.config().run_dir)?;
    let roster = Roster::default();
    let (peer, format) = (host.config().peer, host.config().format());
    let to_owner = inputs.clone();
    let sink = Sink::new(move |one| to_owner.send(Input::Peer(one)).is_ok());
    let links = Links::open_into(sink, (host.key(), peer), roster.clone(), format)?;
    if let Some(url) = host.config().manager.clone() {
        let uplink = Uplink::new(&url, &host, inputs.clone())?;
        std::thread::spawn(move || uplink.run());
    }
    let parts = Parts {
        host,
        links,
        roster,
        qemu,
        inputs,
    };
    let impaired = parts.host.kept_impaired()?;
    let mut owner = Owner::new(parts, impaired, now(began));
    ready::tell(std::env::var_os("NOTIFY_SOCKET").as_deref())?;
    loop {
        match queue.recv_timeout(owner.idle(now(began))) {
            Ok(input) => owner.handle(input, now(began)),
            Err(RecvTimeoutError::Timeout) => owner.tick(now(began)),
            // The owner itself holds a sender.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Opens the control socket for root only, and gives each connection a thread.
fn listen(config: &Config, inputs: &SyncSender<Input>) -> Result<(), AgentError> {
    let path = config.run_dir.join(SOCKET);
    let failed = |error: std::io::Error| AgentError::io(&path, &error);
    std::fs::create_dir_all(&config.run_dir).map_err(failed)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, owner_only).map_err(failed)?;
    let inputs = inputs.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let inputs = inputs.clone();
            std::thread::spawn(move || connection(stream, &inputs));
        }
    });
    Ok(())
}

/// One JSON object a line in, one out, until the caller hangs up or sends a line that is too long.
fn connection(stream: UnixStream, inputs: &SyncSender<Input>) {
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let limit = LINE_BYTES_MAX as u64;
        match (&mut reader).take(limit).read_line(&mut line) {
            Ok(length) if length > 0 && line.ends_with('\n') => {}
            _ => return,
        }
        let response = match serde_json::from_str::<Request>(&line) {
            Ok(request) => ask(request, inputs),
            Err(error) => Response::Error {
                error: format!("the request cannot be read: {error}"),
            },
        };
        let Ok(mut bytes) = serde_json::to_vec(&response) else {
            return;
        };
        bytes.push(b'\n');
        if writer.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn ask(request: Request, inputs: &SyncSender<Input>) -> Response {
    let (reply, answer) = sync_channel(1);
    let gone = || Response::Error {
        error: "the agent is ending".into(),
    };
    if inputs.send(Input::Call(Box::new(request), reply)).is_err() {
        return gone();
    }
    answer.recv().unwrap_or_else(|_| Response::Error {
        error: "the agent could not finish this; its log says why".into(),
    })
}
