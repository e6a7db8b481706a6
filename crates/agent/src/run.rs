//! The shell: a control socket, a manager that is asked every round, and one thread that owns the
//! host.

use crate::manager::Manager;
use crate::{AgentError, Config, Host};
use lictor_wire::Envelope;
use lictor_wire::local::{LINE_BYTES_MAX, Request, Response, SOCKET};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Requests that wait for the owner; more wait in their sockets.
const QUEUE_MAX: usize = 64;

type Call = (Request, SyncSender<Response>);

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the agent for ever. Ending it, in whatever way, changes nothing in the kernel.
///
/// # Errors
/// [`AgentError`] if it cannot begin: not enrolled, a broken file, a kernel that lacks something.
pub fn run(config: Config) -> Result<(), AgentError> {
    let round = Duration::from_millis(config.round_ms);
    let calls = listen(&config)?;
    let mut host = Host::open(config, now_ms())?;
    let manager = match &host.config().manager {
        Some(url) => Some(Manager::open(url, host.state())?),
        None => None,
    };
    let mut rounds = Rounds {
        manager,
        next_entry: 0,
        unsent: Vec::new(),
        facts: None,
    };
    loop {
        let begin = Instant::now();
        rounds.one(&mut host);
        serve_until(&mut host, &mut rounds, &calls, begin + round);
    }
}

/// What a round remembers of the one before.
struct Rounds {
    manager: Option<Manager>,
    next_entry: u64,
    unsent: Vec<Envelope>,
    facts: Option<(u64, Vec<lictor_wire::api::ControlState>)>,
}

/// Host facts are repeated so often that an auditor's freshness limit is met many times over.
const FACTS_EVERY_MS: u64 = 60_000;

impl Rounds {
    /// Each part stands alone: a manager that refuses a report still gets the evidence of it.
    fn one(&mut self, host: &mut Host) {
        warn("reconcile", host.reconcile(now_ms()));
        warn("collect", host.collect(now_ms()));
        if let Some(manager) = self.manager.clone() {
            warn("fetch", fetch(host, &manager));
            warn("attest", self.attest(&manager));
            warn("report", self.report(host, &manager));
            warn("evidence", self.evidence(host, &manager));
        }
    }

    fn attest(&mut self, manager: &Manager) -> Result<(), AgentError> {
        while let Some(envelope) = self.unsent.first() {
            manager.attest(envelope)?;
            self.unsent.remove(0);
        }
        Ok(())
    }

    fn report(&mut self, host: &mut Host, manager: &Manager) -> Result<(), AgentError> {
        let now_ms = now_ms();
        let report = host.report(now_ms)?;
        let stale = self.facts.as_ref().is_none_or(|(since, controls)| {
            now_ms.saturating_sub(*since) > FACTS_EVERY_MS || *controls != report.controls
        });
        if stale {
            host.record_facts(&report, now_ms)?;
            self.facts = Some((now_ms, report.controls.clone()));
        }
        manager.report(&report)
    }

    fn evidence(&mut self, host: &mut Host, manager: &Manager) -> Result<(), AgentError> {
        while let Some(batch) = host.evidence_from(self.next_entry)? {
            self.next_entry = manager.evidence(&batch)?.next;
        }
        Ok(())
    }
}

fn fetch(host: &mut Host, manager: &Manager) -> Result<(), AgentError> {
    let Some(document) = manager.release()? else {
        return Ok(());
    };
    let bindings = manager.bindings()?;
    let log = host.with_own_attestations(bindings.log);
    host.offer(&document.envelope, &log, now_ms())?;
    Ok(())
}

fn warn(what: &str, result: Result<(), AgentError>) {
    if let Err(error) = result {
        tracing::warn!(what, error = error.chain(), "a part of this round failed");
    }
}

fn serve_until(host: &mut Host, rounds: &mut Rounds, calls: &Receiver<Call>, end: Instant) {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match calls.recv_timeout(left) {
            Ok((request, reply)) => {
                // A caller that has gone away needs no answer.
                let _ = reply.send(answer(host, rounds, &request));
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn answer(host: &mut Host, rounds: &mut Rounds, request: &Request) -> Response {
    let result = match request {
        Request::Attach(attach) => host
            .attach(attach, now_ms())
            .map(|(attached, attestation)| {
                rounds.unsent.extend(attestation);
                Response::Attached(attached)
            }),
        Request::Detach { name } => host.detach(name, now_ms()).map(|()| Response::Detached),
        Request::Status => host
            .report(now_ms())
            .map(|report| Response::Status(Box::new(report))),
        Request::MoveAdmit { .. } | Request::MoveStatus { .. } | Request::MoveAbandon { .. } => {
            Err(AgentError::Refused(
                "this agent does not hand sessions over yet; restart the guest at the target"
                    .into(),
            ))
        }
    };
    result.unwrap_or_else(|error| Response::Error {
        error: error.chain(),
    })
}

/// Opens the control socket for root only, and gives each connection a thread.
fn listen(config: &Config) -> Result<Receiver<Call>, AgentError> {
    let path = config.run_dir.join(SOCKET);
    let failed = |error: std::io::Error| AgentError::file(&path, error.to_string());
    std::fs::create_dir_all(&config.run_dir).map_err(failed)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, owner_only).map_err(failed)?;
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || connection(stream, &sender));
        }
    });
    Ok(receiver)
}

/// One JSON object a line in, one out, until the caller hangs up or sends a line that is too long.
fn connection(stream: UnixStream, calls: &SyncSender<Call>) {
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
            Ok(request) => ask(request, calls),
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

fn ask(request: Request, calls: &SyncSender<Call>) -> Response {
    let (reply, answer) = sync_channel(1);
    let gone = || Response::Error {
        error: "the agent is ending".into(),
    };
    if calls.send((request, reply)).is_err() {
        return gone();
    }
    answer.recv().unwrap_or_else(|_| gone())
}
