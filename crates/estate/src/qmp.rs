//! A QEMU monitor, as an agent needs it: whether the guest runs, when that changes, and the object
//! that makes QEMU ask the agent before a guest leaves and before it runs.
//!
//! The socket is the agent's own: QEMU serves one client on each, and the management layer has
//! another.

use lictor_types::GuestId;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of one message from QEMU. A longer one ends the connection.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// How long QEMU may take for one command. `object-add` took up to 20 ms in measurements.
pub const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// Between two attempts to connect: QEMU opens its socket some time after the tap exists.
const RETRY: Duration = Duration::from_millis(20);
/// How long a migration may take to end: longer than a Load() may wait.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Why a monitor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens there.
    #[error("{} cannot be reached; is the guest's QEMU running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What answers there does not speak QMP.
    #[error("{} does not greet as QEMU does", path.display())]
    Greeting {
        /// The socket.
        path: PathBuf,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {text}")]
    Refused {
        /// The command.
        command: String,
        /// What QEMU says.
        text: String,
    },
    /// QEMU has ended or hung up.
    #[error("QEMU's monitor is closed, {command} has no answer")]
    Closed {
        /// The command.
        command: String,
    },
    /// QEMU is stuck.
    #[error("QEMU has not answered {command} within {} ms", REPLY_LIMIT.as_millis())]
    Late {
        /// The command.
        command: String,
    },
}

/// Whether a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Its processors run.
    Running,
    /// It waits for its state from another host.
    Incoming,
    /// Its state has left for another host.
    Migrated,
    /// Its processors stand still for any other reason.
    Stopped,
}

impl RunState {
    fn of(answer: &Value) -> Self {
        let status = answer["status"].as_str().unwrap_or_default();
        match (answer["running"].as_bool(), status) {
            (Some(true), _) => Self::Running,
            (_, "inmigrate") => Self::Incoming,
            (_, "postmigrate") => Self::Migrated,
            _ => Self::Stopped,
        }
    }
}

/// How migrations of a guest go, as its QEMU is set now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The target can say that it did not take the guest.
    pub return_path: bool,
    /// The guest may run at the target before all of it is there.
    pub post_copy: bool,
}

impl Way {
    fn of(answer: &Value) -> Self {
        let capabilities = answer.as_array();
        let is = |name: &str| {
            let mut all = capabilities.into_iter().flatten();
            all.any(|one| one["capability"] == name && one["state"] == true)
        };
        Self {
            return_path: is("return-path"),
            post_copy: is("postcopy-ram"),
        }
    }
}

/// What QEMU says without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The processors stand still.
    Stopped,
    /// The processors run.
    Resumed,
    /// The guest has switched itself off or was told to.
    Shutdown,
    /// A migration's state, as QEMU names it: `active`, `device`, `completed`, `failed`, ...
    Migration(String),
    /// The monitor is closed: QEMU has ended. Nothing comes after it.
    Closed,
}

impl Event {
    fn of(message: &Value) -> Option<Self> {
        Some(match message["event"].as_str()? {
            "STOP" => Self::Stopped,
            "RESUME" => Self::Resumed,
            "SHUTDOWN" => Self::Shutdown,
            "MIGRATION" => Self::Migration(
                message["data"]["status"]
                    .as_str()
                    .unwrap_or_default()
                    .into(),
            ),
            _ => return None,
        })
    }
}

type Answer = Result<Value, String>;

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    answers: HashMap<u64, SyncSender<Answer>>,
    closed: bool,
}

/// A connection to one guest's QEMU. Dropping it closes the connection and changes nothing in QEMU.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    waiting: Arc<Mutex<Waiting>>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The reader's thread ends with the connection; a closed one needs no closing.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Monitor {
    /// Connects and hands every event to `sink`, in order, [`Event::Closed`] last. Tries again
    /// until `limit` has passed.
    ///
    /// # Errors
    /// [`QmpError::Connect`], [`QmpError::Greeting`], [`QmpError::Refused`].
    pub fn connect(
        path: &Path,
        limit: Duration,
        sink: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, QmpError> {
        let stream = reach(path, limit)?;
        let failed = |source| QmpError::Connect {
            path: path.into(),
            source,
        };
        let mut reader = BufReader::new(stream.try_clone().map_err(failed)?);
        stream.set_read_timeout(Some(REPLY_LIMIT)).map_err(failed)?;
        let greeting = next(&mut reader).filter(|message| message.get("QMP").is_some());
        if greeting.is_none() {
            return Err(QmpError::Greeting { path: path.into() });
        }
        stream.set_read_timeout(None).map_err(failed)?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let shared = Arc::clone(&waiting);
        std::thread::spawn(move || listen(reader, &shared, sink));
        let monitor = Self { stream, waiting };
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`QmpError::Refused`], [`QmpError::Closed`], [`QmpError::Late`].
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let closed = || QmpError::Closed {
            command: command.into(),
        };
        let (sender, receiver) = sync_channel(1);
        let number = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return Err(closed());
            }
            waiting.next += 1;
            let number = waiting.next;
            waiting.answers.insert(number, sender);
            number
        };
        let message = json!({ "execute": command, "arguments": arguments, "id": number });
        let text = format!("{message}\n");
        (&self.stream)
            .write_all(text.as_bytes())
            .map_err(|_| closed())?;
        match receiver.recv_timeout(REPLY_LIMIT) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(text)) => Err(QmpError::Refused {
                command: command.into(),
                text,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(closed()),
            Err(RecvTimeoutError::Timeout) => {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.answers.remove(&number);
                Err(QmpError::Late {
                    command: command.into(),
                })
            }
        }
    }

    /// Whether the guest runs now.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub fn run_state(&self) -> Result<RunState, QmpError> {
        let answer = self.execute("query-status", &json!({}))?;
        Ok(RunState::of(&answer))
    }

    /// Makes QEMU say of migrations when they begin and end.
    ///
    /// # Errors
    /// As for [`Self::execute`]; QEMU refuses while one is under way.
    pub fn announce_migrations(&self) -> Result<(), QmpError> {
        let events = json!([{ "capability": "events", "state": true }]);
        let capabilities = json!({ "capabilities": events });
        self.execute("migrate-set-capabilities", &capabilities)
            .map(drop)
    }

    /// How a migration goes that has begun.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub fn way(&self) -> Result<Way, QmpError> {
        let answer = self.execute("query-migrate-capabilities", &json!({}))?;
        Ok(Way::of(&answer))
    }

    /// Ends a migration; the guest goes on here. It is no error if there is none.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub fn cancel_migration(&self) -> Result<(), QmpError> {
        self.execute("migrate_cancel", &json!({})).map(drop)
    }

    /// Makes QEMU hand the guest's state through the agent's socket: from then on the guest cannot
    /// leave without being asked for, and cannot arrive where nobody answers. An object of an
    /// earlier life of the agent is replaced: QEMU never connects again to a socket that went away.
    ///
    /// # Errors
    /// As for [`Self::execute`]; QEMU refuses if nobody listens on the socket.
    pub fn interlock(&self, guest: &GuestId, socket: &Path) -> Result<(), QmpError> {
        if self.address(guest)?.is_some() {
            self.settle_migration()?;
        }
        self.release(guest)?;
        let address = address_of(socket);
        let object = json!({ "qom-type": "dbus-vmstate", "id": id(guest), "addr": address });
        self.execute("object-add", &object).map(drop)
    }

    /// QEMU takes one interlock at a time, so that between the old one and the new one it has none:
    /// no guest may leave in that moment. A migration that has not asked the old one yet is ended,
    /// as it could only fail; one that has is waited for. What comes in needs neither.
    fn settle_migration(&self) -> Result<(), QmpError> {
        if self.run_state()? == RunState::Incoming {
            return Ok(());
        }
        let end = Instant::now() + SETTLE_LIMIT;
        loop {
            let answer = self.execute("query-migrate", &json!({}))?;
            match answer["status"].as_str() {
                Some("setup" | "wait-unplug" | "active" | "pre-switchover") => {
                    self.cancel_migration()?;
                }
                Some("device" | "cancelling") => {}
                _ => return Ok(()),
            }
            if Instant::now() > end {
                let command = "migrate_cancel".into();
                return Err(QmpError::Late { command });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Whether QEMU has the interlock, with this socket: somebody may have taken it out, or put
    /// another in under its name.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub fn is_interlocked(&self, guest: &GuestId, socket: &Path) -> Result<bool, QmpError> {
        let address = self.address(guest)?;
        Ok(address.is_some_and(|address| address == address_of(socket)))
    }

    /// The address of the interlock that QEMU has.
    fn address(&self, guest: &GuestId) -> Result<Option<Value>, QmpError> {
        let path = format!("/objects/{}", id(guest));
        let asked = json!({ "path": path, "property": "addr" });
        match self.execute("qom-get", &asked) {
            Ok(address) => Ok(Some(address)),
            Err(QmpError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the interlock out. It is no error if there is none.
    ///
    /// # Errors
    /// [`QmpError::Closed`], [`QmpError::Late`].
    pub fn release(&self, guest: &GuestId) -> Result<(), QmpError> {
        match self.execute("object-del", &json!({ "id": id(guest) })) {
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The name of the interlock in QEMU and in the migration stream: the same on every host.
#[must_use]
pub fn id(guest: &GuestId) -> String {
    format!("lictor-{guest}")
}

fn address_of(socket: &Path) -> String {
    format!("unix:path={}", socket.display())
}

fn reach(path: &Path, limit: Duration) -> Result<UnixStream, QmpError> {
    let end = Instant::now() + limit;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < end => std::thread::sleep(RETRY),
            Err(source) => {
                return Err(QmpError::Connect {
                    path: path.into(),
                    source,
                });
            }
        }
    }
}

/// The next message; `None` if the connection has ended or what came is no message.
fn next(reader: &mut BufReader<UnixStream>) -> Option<Value> {
    let mut line = String::new();
    let length = reader
        .take(LINE_BYTES_MAX as u64)
        .read_line(&mut line)
        .ok()?;
    if length == 0 {
        return None;
    }
    serde_json::from_str(&line).ok()
}

fn listen(
    mut reader: BufReader<UnixStream>,
    waiting: &Mutex<Waiting>,
    mut sink: impl FnMut(Event),
) {
    while let Some(message) = next(&mut reader) {
        if let Some(event) = Event::of(&message) {
            sink(event);
        }
        let Some(number) = message["id"].as_u64() else {
            continue;
        };
        let answer = match message.get("error") {
            Some(error) => Err(error["desc"].as_str().unwrap_or_default().to_owned()),
            None => Ok(message["return"].clone()),
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.answers.remove(&number) {
            // Whoever asked has given up waiting.
            let _ = sender.try_send(answer);
        }
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.closed = true;
    waiting.answers.clear();
    drop(waiting);
    sink(Event::Closed);
}
