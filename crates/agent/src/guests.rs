//! The QEMU of each guest here: one thread for each, which connects, puts the interlock in, and
//! says how the guest runs. The owner never waits for a QEMU.

use crate::AgentError;
use crate::error::chain;
use crate::input::{Input, Now};
use crate::interlock::{Connected, Interlock, Keeper};
use crate::libvirt::QemuGroup;
use lictor_estate::nics::{Link, Nic};
use lictor_estate::qmp::{Event, Monitor, QmpError, RunState, Way};
use lictor_evidence::UnguardedNic;
use lictor_types::{GuestId, LOAD_DEADLINE_MS};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// How long a guest's QEMU may take to open its monitor after the vnic was attached.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(120);
/// How long one may take that was there before: it listens for as long as it lives, so that one
/// that does not has ended while nobody looked, and its guest may have to go on elsewhere.
pub(crate) const AGAIN_LIMIT: Duration = Duration::from_secs(2);
/// How often a QEMU is asked while its guest stands still: that is how a migration that nobody
/// announced is seen to have ended.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// How long QEMU may wait for the owner's answer: the owner's own deadline comes first.
const ANSWER_LIMIT: Duration = Duration::from_millis(2 * LOAD_DEADLINE_MS);

/// What the thread of a guest says.
#[derive(Debug)]
pub(crate) enum News {
    /// QEMU has the interlock.
    Guarded,
    /// QEMU has no interlock any more.
    Unguarded,
    /// What its NICs are plugged into, or why QEMU does not say.
    Nics(Result<Vec<Nic>, String>),
    /// It migrates without the interlock: the NICs whose links were taken down, or why not.
    Cut(Result<Vec<String>, String>),
    /// Its NICs have their links.
    Connected,
    /// How the guest runs, when asked.
    State(RunState),
    /// What QEMU says by itself.
    Event(Event),
    /// How a migration goes that has begun.
    Way(Way),
    /// The monitor cannot be used.
    Failed(String),
}

/// What the owner wants of a guest's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Put the interlock in.
    Guard,
    /// Take the interlock out.
    Unguard,
    /// Take the links of its NICs down, if QEMU does not have the interlock.
    CutUnlessGuarded,
    /// Give its NICs their links again.
    Connect,
    /// Say what its NICs are plugged into.
    Look,
    /// Say how the guest runs, until it runs again or has left.
    Follow,
    /// Say how the migration goes that has begun.
    Way,
    /// End the migration.
    Cancel,
}

/// One guest's QEMU, as the owner knows it. Dropping it hangs up and changes nothing in QEMU.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Tells news of this watch from those of an earlier one.
    pub(crate) number: u64,
    /// Whether QEMU has the interlock.
    pub(crate) guarded: bool,
    /// How the guest ran when it was last heard of.
    pub(crate) state: Option<RunState>,
    /// When that changed last.
    pub(crate) since: Now,
    /// It waited for its guest, and the hosts that may have it were asked.
    pub(crate) wanted: bool,
    /// Its NICs that no hook guards, as of the last look.
    pub(crate) unguarded: Vec<UnguardedNic>,
    orders: Sender<Order>,
    _interlock: Interlock,
}

/// What a watch needs to begin.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) guest: GuestId,
    pub(crate) number: u64,
    /// QEMU's monitor.
    pub(crate) qmp: PathBuf,
    /// How long that may take to answer.
    pub(crate) limit: Duration,
    /// The agent's socket for this guest.
    pub(crate) socket: PathBuf,
    /// Who may connect to it.
    pub(crate) group: QemuGroup,
    pub(crate) inputs: SyncSender<Input>,
}

impl Watch {
    /// Listens on the guest's socket and connects to its QEMU in the background.
    pub(crate) fn begin(post: Post, first: Option<Order>, now: Now) -> Result<Self, AgentError> {
        let keeper = Door {
            inputs: post.inputs.clone(),
        };
        let interlock = Interlock::serve(&post.guest, &post.socket, post.group, Arc::new(keeper))?;
        let connected = interlock.connected();
        let (orders, receiver) = channel();
        let number = post.number;
        let watch = Self {
            number,
            guarded: false,
            state: None,
            since: now,
            wanted: false,
            unguarded: Vec::new(),
            orders,
            _interlock: interlock,
        };
        first.into_iter().for_each(|order| watch.order(order));
        std::thread::spawn(move || post.run(&receiver, &connected));
        Ok(watch)
    }

    /// Asks the guest's thread for something; if that has ended, it has said so.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

impl Post {
    fn tell(&self, news: News) {
        let (guest, number) = (self.guest.clone(), self.number);
        let input = Input::News {
            guest,
            number,
            news,
        };
        // The owner may have ended.
        let _ = self.inputs.send(input);
    }

    fn run(&self, orders: &Receiver<Order>, connected: &Connected) {
        let sink = {
            let post = self.clone();
            move |event| post.tell(News::Event(event))
        };
        let monitor = match Monitor::connect(&self.qmp, self.limit, sink) {
            Ok(monitor) => monitor,
            Err(error) => return self.failed(&error),
        };
        if let Err(error) = self.serve(&monitor, orders, connected) {
            self.failed(&error);
        }
    }

    /// That QEMU has ended is the last event of its monitor. A command that was in flight then
    /// learns of it a moment earlier, and must not make one that may run on of it: what is going on
    /// with the guest would not end.
    fn failed(&self, error: &QmpError) {
        if !matches!(error, QmpError::Closed { .. }) {
            self.tell(News::Failed(chain(error)));
        }
    }

    /// A QEMU that refuses to tell is no reason to hang up.
    fn look(&self, monitor: &Monitor) -> Result<(), QmpError> {
        let nics = match monitor.nics() {
            Err(QmpError::Refused { command, text }) => Err(format!("{command}: {text}")),
            found => Ok(found?),
        };
        self.tell(News::Nics(nics));
        Ok(())
    }

    /// Whoever took the interlock out has another socket of the same QEMU: only it knows.
    fn cut_unless_guarded(&self, monitor: &Monitor) -> Result<(), QmpError> {
        if monitor.is_interlocked(&self.guest, &self.socket)? {
            return Ok(());
        }
        let cut = match monitor.set_links(Link::Down) {
            Err(QmpError::Refused { command, text }) => Err(format!("{command}: {text}")),
            cut => Ok(cut?),
        };
        self.tell(News::Cut(cut));
        Ok(())
    }

    fn serve(
        &self,
        monitor: &Monitor,
        orders: &Receiver<Order>,
        connected: &Connected,
    ) -> Result<(), QmpError> {
        self.tell(News::State(monitor.run_state()?));
        match monitor.announce_migrations() {
            Err(QmpError::Refused { text, .. }) => {
                let guest = &self.guest;
                tracing::warn!(%guest, text, "its QEMU does not say when it migrates");
            }
            announced => announced?,
        }
        self.look(monitor)?;
        let mut follow = false;
        loop {
            let order = if follow {
                orders.recv_timeout(FOLLOW_EVERY)
            } else {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match order {
                Ok(Order::Guard) => {
                    // One that its command line has brought stays: a state that is loaded at this
                    // moment must not find it taken out.
                    if !connected.is() {
                        monitor.interlock(&self.guest, &self.socket)?;
                    }
                    self.tell(News::Guarded);
                }
                Ok(Order::Unguard) => {
                    monitor.release(&self.guest)?;
                    connected.set(false);
                    self.tell(News::Unguarded);
                }
                Ok(Order::CutUnlessGuarded) => self.cut_unless_guarded(monitor)?,
                Ok(Order::Connect) => {
                    monitor.set_links(Link::Up)?;
                    self.tell(News::Connected);
                }
                Ok(Order::Look) => self.look(monitor)?,
                Ok(Order::Follow) => follow = true,
                Ok(Order::Way) => self.tell(News::Way(monitor.way()?)),
                Ok(Order::Cancel) => monitor.cancel_migration()?,
                Err(RecvTimeoutError::Timeout) => {
                    let state = monitor.run_state()?;
                    follow = !matches!(state, RunState::Running | RunState::Migrated);
                    if !follow {
                        self.tell(News::State(state));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}

/// Passes what QEMU asks to the owner and waits for its answer.
struct Door {
    inputs: SyncSender<Input>,
}

impl Door {
    fn ask<T>(
        &self,
        input: impl FnOnce(SyncSender<Result<T, String>>) -> Input,
    ) -> Result<T, String> {
        let (reply, answer) = sync_channel(1);
        let ended = || "the agent is ending".to_owned();
        self.inputs.send(input(reply)).map_err(|_| ended())?;
        match answer.recv_timeout(ANSWER_LIMIT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
            Err(RecvTimeoutError::Timeout) => {
                let limit_ms = ANSWER_LIMIT.as_millis();
                Err(format!("the agent has not answered within {limit_ms} ms"))
            }
        }
    }
}

impl Keeper for Door {
    fn save(&self, guest: &GuestId) -> Result<Vec<u8>, String> {
        let guest = guest.clone();
        self.ask(|reply| Input::Save { guest, reply })
    }

    fn load(&self, guest: &GuestId, state: &[u8]) -> Result<(), String> {
        let (guest, state) = (guest.clone(), state.to_vec());
        self.ask(|reply| Input::Load {
            guest,
            state,
            reply,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    /// Answers what QEMU is asked when a monitor is opened, and ends in the midst of this command.
    fn ends_at(command: &'static str, listener: &UnixListener) {
        let (stream, _) = listener.accept().expect("a client");
        writeln!(&stream, "{}", json!({ "QMP": {} })).expect("greeted");
        for line in BufReader::new(&stream).lines() {
            let asked: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            if asked["execute"] == command {
                return;
            }
            let answer = json!({ "return": { "running": true }, "id": asked["id"] });
            writeln!(&stream, "{answer}").expect("answered");
        }
    }

    /// What the owner hears of a QEMU that ends like that.
    fn told(command: &'static str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let qmp = folder.path().join("qmp");
        let listener = UnixListener::bind(&qmp).expect("a free path");
        let qemu = std::thread::spawn(move || ends_at(command, &listener));
        let (inputs, told) = sync_channel(16);
        let post = Post {
            guest: GuestId::new("db").expect("a valid name"),
            number: 1,
            qmp,
            limit: START_LIMIT,
            socket: folder.path().join("socket"),
            group: QemuGroup::default(),
            inputs,
        };
        let (orders, receiver) = channel();
        orders.send(Order::Follow).expect("the receiver is here");
        post.run(&receiver, &Connected::default());
        drop(post);
        qemu.join().expect("it ends");
        let news = told.iter().map(|input| match input {
            Input::News { news, .. } => format!("{news:?}"),
            other => format!("{other:?}"),
        });
        news.collect()
    }

    #[test]
    fn a_qemu_that_ends_in_the_midst_of_a_command_has_ended_and_is_not_one_that_cannot_be_asked() {
        let closed = format!("{:?}", News::Event(Event::Closed));
        for command in ["qmp_capabilities", "query-status", "human-monitor-command"] {
            assert_eq!(told(command).last(), Some(&closed), "at {command}");
            let failed = |one: &String| one.starts_with("Failed");
            assert!(!told(command).iter().any(failed), "at {command}");
        }
    }
}
