//! The target's end of a move.

use super::Message;

/// What happened at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The source said something.
    Peer(Message),
    /// The connection to the source is lost.
    PeerLost,
    /// The guest's vnics are attached in hold and the interlock object is in its QEMU.
    Attached,
    /// QEMU gives the guest's state: the guest does not run yet. The shell has checked the record's
    /// signature and its ticket.
    Load,
    /// QEMU gives a state that does not belong to this ticket.
    LoadForeign,
    /// The received sessions differ from what the record promises, or are more than may come.
    Mismatch,
    /// The guest's vnics could not be opened.
    NotOpened,
    /// Load() has waited long enough.
    Deadline,
    /// The guest runs here.
    GuestResumed,
    /// The guest's process ended here.
    GuestGone,
}

/// What the target's shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Tell the source.
    Tell(Message),
    /// Compare count and digest with the record; report [`Event::Mismatch`] if they differ.
    Check,
    /// Open the guest's vnics; report [`Event::NotOpened`] if that fails.
    Open,
    /// Answer Load(): QEMU goes on.
    AnswerLoaded,
    /// Answer Load() with an error: QEMU ends here, the source goes on.
    AnswerFailed,
    /// Hold the guest's vnics and purge the sessions that came.
    HoldAndPurge,
    /// Take custody durably and sign the record.
    TakeCustody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Admitted,
    /// In hold. `delta`: what changed has arrived. `loading`: Load() waits for an answer.
    Held {
        delta: bool,
        loading: bool,
    },
    /// Load() waits for the source's grant.
    Asking,
    /// Open; the guest may begin to run at any moment.
    Open,
    Done,
    Aborted,
}

/// The target's end. It begins when both ends have signed the ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    state: State,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            state: State::Admitted,
        }
    }
}

impl Target {
    /// The end of an agent that was killed when it had the source's grant: the vnics may be open,
    /// and the guest may run.
    #[must_use]
    pub const fn opened() -> Self {
        Self { state: State::Open }
    }

    /// The end of an agent that was killed when the guest had come, before its record was made.
    #[must_use]
    pub const fn arrived() -> Self {
        Self { state: State::Done }
    }

    /// Whether the move has ended, well or not.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.state, State::Done | State::Aborted)
    }

    /// Whether sessions of the source count: only between hold and the end of what changed. What
    /// comes later is in no record that the source signed.
    #[must_use]
    pub const fn takes_sessions(&self) -> bool {
        matches!(self.state, State::Held { delta: false, .. })
    }

    /// Whether the guest may come to run here without another word of this end: a source that asks
    /// must not take it back. A commit that was asked for counts, because its answer may be here
    /// already, unread.
    #[must_use]
    pub const fn may_run(&self) -> bool {
        matches!(self.state, State::Asking | State::Open | State::Done)
    }

    /// Whether the vnics are open for a guest that has not run here yet.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Takes an event, changes state, and says what to do, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match self.state {
            State::Admitted => self.admitted(event),
            State::Held { delta, loading } => self.held(event, delta, loading),
            State::Asking => self.asking(event),
            State::Open => self.open(event),
            // A late grant of a source that has not heard of the failure yet: it must not wait.
            State::Aborted if event == Event::Peer(Message::Granted) => {
                vec![Action::Tell(Message::Released)]
            }
            State::Aborted if matches!(event, Event::Load | Event::LoadForeign) => {
                vec![Action::AnswerFailed]
            }
            State::Done | State::Aborted => Vec::new(),
        }
    }

    fn admitted(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Attached => {
                self.state = State::Held {
                    delta: false,
                    loading: false,
                };
                vec![Action::Tell(Message::Ready)]
            }
            Event::Peer(Message::Abort) | Event::PeerLost => {
                self.state = State::Aborted;
                Vec::new()
            }
            Event::Load | Event::LoadForeign => self.fail(true),
            Event::GuestGone => self.fail(false),
            _ => Vec::new(),
        }
    }

    fn held(&mut self, event: Event, delta: bool, loading: bool) -> Vec<Action> {
        match event {
            Event::Peer(Message::Delta) if loading => self.ask(),
            Event::Peer(Message::Delta) => {
                self.state = State::Held {
                    delta: true,
                    loading,
                };
                Vec::new()
            }
            Event::Load if delta => self.ask(),
            Event::Load => {
                self.state = State::Held {
                    delta,
                    loading: true,
                };
                Vec::new()
            }
            Event::LoadForeign => self.fail(true),
            Event::Deadline if loading => self.fail(true),
            Event::Mismatch | Event::PeerLost | Event::GuestGone | Event::Peer(Message::Abort) => {
                self.fail(loading)
            }
            _ => Vec::new(),
        }
    }

    fn ask(&mut self) -> Vec<Action> {
        self.state = State::Asking;
        vec![Action::Check, Action::Tell(Message::Commit)]
    }

    fn asking(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Peer(Message::Granted) => {
                self.state = State::Open;
                vec![Action::Open, Action::AnswerLoaded]
            }
            Event::Mismatch
            | Event::Deadline
            | Event::PeerLost
            | Event::GuestGone
            | Event::Peer(Message::Refused | Message::Abort) => self.fail(true),
            _ => Vec::new(),
        }
    }

    fn open(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::GuestResumed => {
                self.state = State::Done;
                vec![Action::TakeCustody, Action::Tell(Message::Complete)]
            }
            // Only while the guest has not run here may the source go on with its own copy of it.
            Event::GuestGone => {
                self.state = State::Aborted;
                vec![Action::HoldAndPurge, Action::Tell(Message::Released)]
            }
            // Better at the source with its network than here without.
            Event::NotOpened => {
                self.state = State::Aborted;
                vec![
                    Action::AnswerFailed,
                    Action::HoldAndPurge,
                    Action::Tell(Message::Released),
                ]
            }
            _ => Vec::new(),
        }
    }

    fn fail(&mut self, loading: bool) -> Vec<Action> {
        self.state = State::Aborted;
        let mut actions = vec![Action::Tell(Message::Nack)];
        // QEMU's answer depends on nothing that could fail before it.
        if loading {
            actions.push(Action::AnswerFailed);
        }
        actions.push(Action::HoldAndPurge);
        actions
    }
}
