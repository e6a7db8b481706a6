//! The interlock: the agent as the D-Bus peer of a guest's QEMU. QEMU calls Save() when the guest
//! has stopped to leave, and Load() before it runs; while either is unanswered the guest stands
//! still. There is no bus: QEMU's `dbus-vmstate` connects to a socket of the guest's own.
//!
//! A thread of its own reads each connection and answers at once: QEMU's client asks six questions
//! before it calls, waits for the answer of nearly each, and the guest stands still meanwhile.

use crate::AgentError;
use crate::dbus::{Answer, Call, DbusError, Method, Said, Talk};
use crate::libvirt::QemuGroup;
use lictor_types::{GuestId, VMSTATE_BYTES_MAX};
use nix::sys::socket::{Shutdown, shutdown};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// QEMU's own name and the agent's, as a bus would give them.
const QEMU: &str = ":1.1";
const AGENT: &str = ":1.0";
/// `DBUS_START_REPLY_ALREADY_RUNNING` of the D-Bus specification.
const ALREADY_RUNNING: u32 = 2;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_millis(1_500);
/// Answers for which GLib does not wait go along with the next one, or after this time: each would
/// wake its thread in the middle of the next question.
const UNWANTED_AFTER: Duration = Duration::from_millis(20);
/// How long to wait when the system has no room for one more connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What stands behind the interlock.
pub trait Keeper: Send + Sync + 'static {
    /// The guest has stopped: what shall travel with it? Also called for snapshots.
    ///
    /// # Errors
    /// Why it must not leave; QEMU's target fails then and the guest goes on here.
    fn save(&self, guest: &GuestId) -> Result<Vec<u8>, String>;

    /// The guest is about to run with this.
    ///
    /// # Errors
    /// Why it must not; QEMU ends here then and the guest goes on where it was.
    fn load(&self, guest: &GuestId, state: &[u8]) -> Result<(), String>;
}

/// A guest's socket. Dropping it hangs up and removes the socket.
#[derive(Debug)]
pub struct Interlock {
    path: PathBuf,
    listener: Arc<UnixListener>,
    seat: Seat,
    connected: Connected,
}

/// Whether a QEMU has connected to a guest's socket since it was made or since that was forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connected(Arc<AtomicBool>);

impl Connected {
    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, connected: bool) {
        self.0.store(connected, Ordering::Release);
    }
}

/// The one connection that counts: QEMU connects again when its object was replaced.
#[derive(Debug, Clone, Default)]
struct Seat(Arc<Mutex<Sitter>>);

#[derive(Debug, Default)]
enum Sitter {
    #[default]
    Nobody,
    Qemu(UnixStream),
    /// The interlock was dropped.
    Closed,
}

impl Seat {
    /// Hangs up on whoever was there. Says whether the newcomer may stay.
    fn take(&self, sitter: Sitter) -> bool {
        let mut seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*seat, Sitter::Closed) {
            return false;
        }
        if let Sitter::Qemu(before) = std::mem::replace(&mut *seat, sitter) {
            // It may have hung up by itself.
            let _ = before.shutdown(std::net::Shutdown::Both);
        }
        true
    }

    fn is_closed(&self) -> bool {
        let seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*seat, Sitter::Closed)
    }
}

impl Drop for Interlock {
    fn drop(&mut self) {
        self.seat.take(Sitter::Closed);
        // Wakes the thread that accepts; a listener that is down already has none.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        // Somebody may have tidied the run directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Interlock {
    /// Listens on the socket; a QEMU of this group may be told of it from now on.
    ///
    /// # Errors
    /// [`AgentError::File`] if the socket cannot be made.
    pub fn serve(
        guest: &GuestId,
        path: &Path,
        group: QemuGroup,
        keeper: Arc<dyn Keeper>,
    ) -> Result<Self, AgentError> {
        let failed = |error: std::io::Error| AgentError::file(path, error.to_string());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let listener = Arc::new(UnixListener::bind(path).map_err(failed)?);
        group.admit(path)?;
        let (seat, connected) = (Seat::default(), Connected::default());
        let door = Door {
            guest: guest.clone(),
            id: format!("lictor-{guest}"),
            keeper,
            seat: seat.clone(),
            connected: connected.clone(),
        };
        let accepting = Arc::clone(&listener);
        std::thread::spawn(move || door.accept(&accepting));
        Ok(Self {
            path: path.into(),
            listener,
            seat,
            connected,
        })
    }

    pub(crate) fn connected(&self) -> Connected {
        self.connected.clone()
    }
}

/// What every connection to a guest's socket needs.
#[derive(Clone)]
struct Door {
    guest: GuestId,
    /// The same on every host: QEMU finds the state in its stream by it.
    id: String,
    keeper: Arc<dyn Keeper>,
    seat: Seat,
    connected: Connected,
}

/// Why a conversation has ended before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Said(#[from] DbusError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Door {
    fn accept(&self, listener: &UnixListener) {
        let guest = &self.guest;
        while !self.seat.is_closed() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let door = self.clone();
                    std::thread::spawn(move || {
                        if let Err(error) = door.converse(&stream) {
                            let guest = &door.guest;
                            tracing::warn!(%guest, %error, "its interlock: no QEMU, or hung up");
                        }
                    });
                }
                Err(_) if self.seat.is_closed() => {}
                Err(error) => {
                    tracing::warn!(%guest, %error, "the guest's interlock cannot accept");
                    std::thread::sleep(ACCEPT_AGAIN);
                }
            }
        }
    }

    /// Until either end hangs up.
    fn converse(&self, mut stream: &UnixStream) -> Result<(), Broken> {
        let (mut talk, mut out, mut buffer) = (Talk::default(), Vec::new(), [0; 16_384]);
        let (mut begun, since) = (false, Instant::now());
        stream.set_read_timeout(Some(HANDSHAKE_LIMIT))?;
        loop {
            // Bytes that trickle must not keep a thread.
            if !begun && since.elapsed() >= HANDSHAKE_LIMIT {
                return Err(std::io::Error::from(ErrorKind::TimedOut).into());
            }
            let late = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock && begun;
            let length = match stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if late(&error) => {
                    send(stream, &mut out)?;
                    stream.set_read_timeout(None)?;
                    continue;
                }
                length => length?,
            };
            let Some(read) = buffer.get(..length).filter(|read| !read.is_empty()) else {
                return Ok(());
            };
            talk.push(read);
            let mut waits = false;
            while let Some(said) = talk.next()? {
                match said {
                    Said::Greeting(answer) => {
                        out.extend(answer.as_bytes());
                        waits = true;
                    }
                    Said::Begun => {
                        begun = true;
                        stream.set_read_timeout(None)?;
                        if !self.seat.take(Sitter::Qemu(stream.try_clone()?)) {
                            return Ok(());
                        }
                        self.connected.set(true);
                    }
                    Said::Call(call) => {
                        waits |= call.method != Method::Match;
                        self.answer(&call, &mut talk, &mut out);
                    }
                }
            }
            if waits {
                send(stream, &mut out)?;
            } else if !out.is_empty() {
                stream.set_read_timeout(Some(UNWANTED_AFTER))?;
            }
        }
    }

    fn answer(&self, call: &Call, talk: &mut Talk, out: &mut Vec<u8>) {
        let mut say = |answer: Answer<'_>| talk.answer(call, answer, out);
        match &call.method {
            Method::Hello => say(Answer::Text(QEMU)),
            Method::OwnersOf => say(Answer::Texts(&[AGENT])),
            Method::OwnerOf => say(Answer::Text(AGENT)),
            Method::HasOwner => say(Answer::Truth),
            Method::Start => say(Answer::Number(ALREADY_RUNNING)),
            Method::Match => say(Answer::Nothing),
            Method::Properties => say(Answer::Property("Id", &self.id)),
            Method::Save => match self.keeper.save(&self.guest).and_then(fits) {
                Ok(state) => say(Answer::Bytes(&state)),
                Err(why) => say(Answer::Failed(&why)),
            },
            Method::Load(state) => match self.keeper.load(&self.guest, state) {
                Ok(()) => say(Answer::Nothing),
                Err(why) => say(Answer::Failed(&why)),
            },
            Method::Other(name) => say(Answer::Unknown(&format!("{name} is not known here"))),
        }
    }
}

fn fits(state: Vec<u8>) -> Result<Vec<u8>, String> {
    if state.len() > VMSTATE_BYTES_MAX {
        let (found, max) = (state.len(), VMSTATE_BYTES_MAX);
        return Err(format!("the record has {found} bytes, QEMU takes {max}"));
    }
    Ok(state)
}

/// Says what is to be said.
fn send(mut stream: &UnixStream, out: &mut Vec<u8>) -> std::io::Result<()> {
    stream.write_all(out)?;
    out.clear();
    Ok(())
}
