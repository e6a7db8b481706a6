//! The interlock: the agent as the D-Bus peer of a guest's QEMU. QEMU calls Save() when the guest
//! has stopped to leave, and Load() before it runs; while either is unanswered the guest stands
//! still. There is no bus: QEMU's `dbus-vmstate` connects to a socket of the guest's own.

use crate::AgentError;
use crate::awake::keep_awake;
use crate::libvirt::QemuGroup;
use lictor_types::{GuestId, VMSTATE_BYTES_MAX};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use zbus::connection::Builder;
use zbus::fdo;

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
    connected: Connected,
    stop: Option<oneshot::Sender<()>>,
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

impl Drop for Interlock {
    fn drop(&mut self) {
        self.stop.take();
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
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(path).map_err(failed)?
        };
        group.admit(path)?;
        let (stop, stopped) = oneshot::channel();
        let guest = guest.clone();
        let connected = Connected::default();
        let seen = connected.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, guest, (keeper, seen)) => {}
                    _ = stopped => {}
                }
            });
            // A Save() or Load() that nobody waits for any more may still run.
            runtime.shutdown_background();
        });
        Ok(Self {
            path: path.into(),
            connected,
            stop: Some(stop),
        })
    }

    pub(crate) fn connected(&self) -> Connected {
        self.connected.clone()
    }
}

/// One QEMU connects, and again when the object was replaced: the newest connection counts.
async fn accept(
    listener: UnixListener,
    guest: GuestId,
    (keeper, connected): (Arc<dyn Keeper>, Connected),
) {
    let mut current = None;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%guest, %error, "the guest's interlock cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let state = VmState {
            guest: guest.clone(),
            keeper: Arc::clone(&keeper),
        };
        match connect(stream, state).await {
            Ok(connection) => {
                drop(current.replace(connection));
                connected.set(true);
            }
            Err(error) => tracing::warn!(%guest, %error, "what connected is no QEMU"),
        }
    }
}

async fn connect(stream: tokio::net::UnixStream, state: VmState) -> zbus::Result<zbus::Connection> {
    Builder::unix_stream(stream)
        .server(zbus::Guid::generate())?
        .p2p()
        .serve_at("/org/qemu/VMState1", state)?
        .serve_at("/org/freedesktop/DBus", Bus)?
        .build()
        .await
}

struct VmState {
    guest: GuestId,
    keeper: Arc<dyn Keeper>,
}

impl VmState {
    /// The keeper may wait for another host; the connection must go on meanwhile.
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn Keeper, &GuestId) -> Result<T, String> + Send + 'static,
    ) -> fdo::Result<T> {
        let (guest, keeper) = (self.guest.clone(), Arc::clone(&self.keeper));
        tokio::task::spawn_blocking(move || what(keeper.as_ref(), &guest))
            .await
            .map_err(|error| fdo::Error::Failed(error.to_string()))?
            .map_err(fdo::Error::Failed)
    }
}

#[zbus::interface(name = "org.qemu.VMState1")]
impl VmState {
    /// The same on every host: QEMU finds the state in its stream by it.
    #[zbus(property)]
    fn id(&self) -> String {
        format!("lictor-{}", self.guest)
    }

    async fn save(&self) -> fdo::Result<Vec<u8>> {
        let state = self.ask(Keeper::save).await?;
        if state.len() > VMSTATE_BYTES_MAX {
            let (found, max) = (state.len(), VMSTATE_BYTES_MAX);
            let text = format!("the record has {found} bytes, QEMU takes {max}");
            return Err(fdo::Error::Failed(text));
        }
        Ok(state)
    }

    async fn load(&self, state: Vec<u8>) -> fdo::Result<()> {
        self.ask(move |keeper, guest| keeper.load(guest, &state))
            .await
    }
}

/// What GLib asks of a bus before it talks to anybody on it.
struct Bus;

/// QEMU's own name and the agent's, as a bus would give them.
const QEMU: &str = ":1.1";
const AGENT: &str = ":1.0";
/// `DBUS_START_REPLY_ALREADY_RUNNING` of the D-Bus specification.
const ALREADY_RUNNING: u32 = 2;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> String {
        QEMU.into()
    }

    fn list_queued_owners(&self, _name: String) -> Vec<String> {
        vec![AGENT.into()]
    }

    fn get_name_owner(&self, _name: String) -> String {
        AGENT.into()
    }

    fn name_has_owner(&self, _name: String) -> bool {
        true
    }

    fn start_service_by_name(&self, _name: String, _flags: u32) -> u32 {
        ALREADY_RUNNING
    }

    /// What GLib says first whenever QEMU is about to ask.
    fn add_match(&self, _rule: String) {
        keep_awake();
    }

    fn remove_match(&self, _rule: String) {}
}
