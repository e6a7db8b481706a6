//! Everything that reaches the owner of a host, in one queue: callers on the host, other agents,
//! QEMUs, and the thread that talks with the manager.

use crate::guests::News;
use crate::peer::Incoming;
use lictor_types::GuestId;
use lictor_wire::Envelope;
use lictor_wire::api::{EvidenceBatch, HostReport, SessionListing};
use lictor_wire::binding::BindingLog;
use lictor_wire::local::{Request, Response};
use std::sync::mpsc::SyncSender;

/// Where an answer goes.
pub(crate) type Reply<T> = SyncSender<T>;

/// Who waits, with a guest that stands still, for what only a move's end can say.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// Its QEMU.
    Qemu(Reply<Result<T, String>>),
    /// Whoever moves a container, at the agent's socket.
    Caller(Reply<Response>, fn(T) -> Response),
}

impl<T> Answer<T> {
    /// Both may have given up and hung up.
    pub(crate) fn send(&self, answer: Result<T, String>) {
        match self {
            Self::Qemu(reply) => drop(reply.send(answer)),
            Self::Caller(reply, said) => {
                let answer = answer.map_or_else(|error| Response::Error { error }, said);
                let _ = reply.send(answer);
            }
        }
    }
}

/// Where the state of a guest goes that travels with it.
pub(crate) type SaveReply = Answer<Vec<u8>>;

/// Where it is said whether a guest may run.
pub(crate) type LoadReply = Answer<()>;

/// One moment by two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Milliseconds of Unix time: what people and records use.
    pub(crate) ms: u64,
    /// Microseconds of a clock that only goes forward: what spans are measured by.
    pub(crate) us: u64,
}

impl Now {
    pub(crate) const fn since_us(self, earlier: Self) -> u64 {
        self.us.saturating_sub(earlier.us)
    }
}

/// What the manager has.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) release: Envelope,
    pub(crate) freshness: Option<Envelope>,
    pub(crate) bindings: BindingLog,
}

/// What the manager wants, as far as it has said so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wants {
    /// How much of this host's evidence it has, once that is known.
    pub(crate) next_entry: Option<u64>,
    /// Whether somebody asks it for the live sessions of this host.
    pub(crate) sessions: bool,
}

/// What the manager is to get.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) attestations: Vec<Envelope>,
    pub(crate) report: HostReport,
    pub(crate) evidence: Option<EvidenceBatch>,
    /// The live sessions, if somebody asked the manager for them.
    pub(crate) sessions: Option<SessionListing>,
}

#[derive(Debug)]
pub(crate) enum Input {
    /// Somebody on this host asks.
    Call(Box<Request>, Reply<Response>),
    /// Another agent says something.
    Peer(Incoming),
    /// The thread of a guest's QEMU says something.
    News {
        guest: GuestId,
        number: u64,
        news: News,
    },
    /// A QEMU has stopped its guest and asks what travels with it.
    Save {
        guest: GuestId,
        reply: Reply<Result<Vec<u8>, String>>,
    },
    /// A QEMU asks whether its guest may run with this.
    Load {
        guest: GuestId,
        state: Vec<u8>,
        reply: Reply<Result<(), String>>,
    },
    /// A round with the manager: what it has, and what it wants.
    /// Nothing comes back while a guest stands still for a move.
    Round {
        fetched: Option<Box<Fetched>>,
        wants: Wants,
        reply: Reply<Option<Box<Upload>>>,
    },
}
