//! A small blocking client of QEMU's machine protocol, with time-stamped events.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// Something that QEMU reported.
#[derive(Debug, Clone)]
pub struct Event {
    /// Such as `STOP`, `RESUME`, `MIGRATION`.
    pub name: String,
    /// What came with it; `null` if nothing did.
    pub data: Value,
    /// QEMU's own time stamp, since the Unix epoch.
    pub at: Duration,
}

impl Event {
    /// The `status` that a `MIGRATION` event carries.
    #[must_use]
    pub fn status(&self) -> Option<&str> {
        self.data.get("status").and_then(Value::as_str)
    }
}

#[derive(Debug, Default)]
struct Events {
    list: Mutex<(Vec<Event>, bool)>,
    changed: Condvar,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, (Vec<Event>, bool)> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    replies: Mutex<mpsc::Receiver<Value>>,
    events: Arc<Events>,
}

impl Qmp {
    /// Connects as soon as the socket is there, and negotiates.
    ///
    /// # Errors
    /// The socket does not appear within the limit, or the greeting is not QMP's.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let start = Instant::now();
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if start.elapsed() > limit => {
                    return Err(error)
                        .with_context(|| format!("QEMU does not answer on {}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut reader = BufReader::new(socket.try_clone()?);
        let mut greeting = String::new();
        reader.read_line(&mut greeting)?;
        if !greeting.contains("\"QMP\"") {
            bail!(
                "{} does not speak QMP; it said {greeting:?}",
                path.display()
            );
        }
        let events = Arc::new(Events::default());
        let (sender, replies) = mpsc::channel();
        let shared = Arc::clone(&events);
        std::thread::spawn(move || read(reader, &sender, &shared));
        let qmp = Self {
            socket,
            replies: Mutex::new(replies),
            events,
        };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns its answer.
    ///
    /// # Errors
    /// QEMU refuses (its words are in the error), is gone, or does not answer in 30 s.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        (&self.socket)
            .write_all(line.as_bytes())
            .with_context(|| format!("QMP {command}"))?;
        let mut reply = replies
            .recv_timeout(REPLY_LIMIT)
            .with_context(|| format!("QEMU gave no answer to {command}"))?;
        if let Some(error) = reply.get("error") {
            bail!(
                "QEMU refuses {command}: {}",
                error["desc"].as_str().unwrap_or("no reason")
            );
        }
        Ok(reply["return"].take())
    }

    /// How many events have come so far; pass it to [`Qmp::wait`] to look at later ones only.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.events.lock().0.len()
    }

    /// All events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().0.clone()
    }

    /// Whether QEMU has closed the connection.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.events.lock().1
    }

    /// Waits for the first event after `mark` that the test accepts.
    ///
    /// # Errors
    /// None came in time, or QEMU has gone.
    pub fn wait(
        &self,
        mark: usize,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let end = Instant::now() + limit;
        let mut events = self.events.lock();
        loop {
            if let Some(event) = events.0.iter().skip(mark).find(|event| wanted(event)) {
                return Ok(event.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if events.1 || left.is_zero() {
                let names: Vec<_> = events
                    .0
                    .iter()
                    .skip(mark)
                    .map(|e| e.name.as_str())
                    .collect();
                let why = if events.1 {
                    "QEMU has gone"
                } else {
                    "time is up"
                };
                bail!("the awaited event did not come ({why}); these did: {names:?}");
            }
            let waited = self.events.changed.wait_timeout(events, left);
            events = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the reader thread; a socket that is closed already needs nothing.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn read(reader: BufReader<UnixStream>, replies: &mpsc::Sender<Value>, events: &Events) {
    for line in reader.lines() {
        let Ok(message) = line
            .map_err(anyhow::Error::from)
            .and_then(|line| serde_json::from_str::<Value>(&line).context("not JSON"))
        else {
            break;
        };
        match event(&message) {
            Some(event) => {
                events.lock().0.push(event);
                events.changed.notify_all();
            }
            // The client may be dropped while an answer is on its way.
            None => drop(replies.send(message)),
        }
    }
    events.lock().1 = true;
    events.changed.notify_all();
}

fn event(message: &Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    let stamp = &message["timestamp"];
    let seconds = stamp["seconds"].as_u64().unwrap_or_default();
    let micros = stamp["microseconds"].as_u64().unwrap_or_default();
    let at = Duration::from_secs(seconds) + Duration::from_micros(micros);
    Some(Event {
        name,
        data: message["data"].clone(),
        at,
    })
}
