//! The source's end of a move.

use super::Message;
use lictor_wire::local::MovePhase;

/// What happened at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Both ends have signed the ticket, and this end has it on its disk.
    Admitted,
    /// The target said something.
    Peer(Message),
    /// The first full copy has been sent.
    CopySent,
    /// QEMU asks for the guest's state: the guest is stopped.
    Save,
    /// QEMU has waited for that long enough.
    SaveLate,
    /// The guest runs here (again).
    GuestResumed,
    /// The guest's process ended here.
    GuestGone,
    /// The management layer gives the move up.
    Abandon,
    /// The ticket's deadline has passed.
    Lapsed,
}

/// What the source's shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Tell the target.
    Tell(Message),
    /// Send every session while the guest runs; report [`Event::CopySent`].
    SendCopy,
    /// Fence all the guest's vnics, send what changed, answer Save() with a signed move record.
    FenceAndSendDelta,
    /// Answer Save() with a snapshot record and fence nothing.
    AnswerSnapshot,
    /// Open the guest's vnics again, under a new custody epoch.
    Unfence,
    /// Purge this end's sessions, let the vnics go, give custody up, sign the record.
    Forget,
    /// The guest ended here and runs nowhere: hold its vnics, purge, give custody up.
    LetGo,
    /// The guest ended here and may run at the target, which nobody has heard of for as long as the
    /// ticket was good: give custody up, so that it can start elsewhere, and go on asking.
    Disown,
    /// Record that the guest did not leave.
    RecordAborted,
}

/// Whether the target was told that it may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Grant {
    Open,
    Given,
    /// Given and released, or refused: no later request is granted.
    Closed,
}

/// What is known of the guest here since its vnics were fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Guest {
    Still,
    Runs,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// The target has not signed yet: nothing that it says counts before it has.
    Asked,
    Admitted,
    Copying,
    Copied,
    Fenced {
        grant: Grant,
        guest: Guest,
    },
    /// The guest was let go and has ended here, and custody was given up. One that runs since then,
    /// here as elsewhere, is another life of it: whoever started that has asked every host, and
    /// this move neither opens nor ends it.
    Disowned,
    Done,
    Aborted,
}

/// Whether QEMU waits for the guest's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Saving {
    No,
    /// The migration was faster than the admission or the copy.
    Waits,
}

/// The source's end. It begins when this end has signed the ticket and asks the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    state: State,
    saving: Saving,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            state: State::Asked,
            saving: Saving::No,
        }
    }
}

impl Source {
    /// The end of an agent that was restarted and finds its guest fenced: whether it had granted a
    /// commit is forgotten, so it behaves as if it had.
    #[must_use]
    pub const fn restarted() -> Self {
        Self {
            state: State::Fenced {
                grant: Grant::Given,
                guest: Guest::Still,
            },
            saving: Saving::No,
        }
    }

    /// The end of an agent that was restarted after it had given custody up of a guest that was let
    /// go.
    #[must_use]
    pub const fn disowned() -> Self {
        Self {
            state: State::Disowned,
            saving: Saving::No,
        }
    }

    /// Whether QEMU waits, with the guest standing still, until everything is copied.
    #[must_use]
    pub const fn is_saving(&self) -> bool {
        matches!(self.saving, Saving::Waits)
    }

    /// Whether only the target can say who has the guest: it must be asked until it does.
    #[must_use]
    pub const fn must_ask(&self) -> bool {
        match self.state {
            State::Fenced { grant, guest } => match grant {
                Grant::Given => true,
                Grant::Open => matches!(guest, Guest::Gone),
                Grant::Closed => false,
            },
            State::Disowned => true,
            _ => false,
        }
    }

    /// Whether the guest has ended here while it was fenced, and it is not known where it is.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(
            self.state,
            State::Fenced {
                guest: Guest::Gone,
                ..
            }
        )
    }

    /// Whether the guest stays here, if it has not ended: its target does not have it, or it never
    /// got so far, and no commit is granted any more.
    #[must_use]
    pub const fn is_back(&self) -> bool {
        let closed = matches!(
            self.state,
            State::Fenced {
                grant: Grant::Closed,
                ..
            }
        );
        closed || matches!(self.state, State::Aborted)
    }

    /// How far the move is, as the management layer sees it.
    #[must_use]
    pub const fn phase(&self) -> MovePhase {
        match self.state {
            State::Asked | State::Admitted => MovePhase::Admitted,
            State::Copying => MovePhase::Copying,
            State::Copied => MovePhase::Copied,
            State::Disowned
            | State::Fenced {
                grant: Grant::Given,
                ..
            } => MovePhase::Committed,
            State::Fenced { .. } => MovePhase::Fenced,
            State::Done => MovePhase::Done,
            State::Aborted => MovePhase::Aborted,
        }
    }

    /// Takes an event, changes state, and says what to do, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        // These are answered alike in every state.
        match event {
            Event::Peer(Message::Commit) => return self.commit(),
            Event::Save => return self.save(),
            _ => {}
        }
        let mut actions = match self.state {
            State::Asked => self.asked(event),
            State::Admitted | State::Copying | State::Copied => self.before_fence(event),
            State::Fenced { grant, guest } => self.fenced(event, grant, guest),
            State::Disowned => self.outlived(event),
            State::Done | State::Aborted => Vec::new(),
        };
        if self.is_saving() {
            actions.extend(self.saved(event));
        }
        actions
    }

    /// QEMU waits: it gets its answer once the guest may leave, and what a snapshot gets if it may
    /// not, or has gone on meanwhile.
    fn saved(&mut self, event: Event) -> Vec<Action> {
        let late = matches!(event, Event::SaveLate | Event::GuestResumed);
        match self.state {
            State::Asked | State::Admitted | State::Copying if !late => return Vec::new(),
            _ => self.saving = Saving::No,
        }
        if late {
            return vec![Action::AnswerSnapshot];
        }
        self.save()
    }

    /// A commit is granted once, and only while the vnics are fenced. Without this question a
    /// cancelled migration whose Load() still runs would leave both ends open.
    fn commit(&mut self) -> Vec<Action> {
        match self.state {
            State::Fenced {
                grant: Grant::Open,
                guest,
            } => {
                self.state = State::Fenced {
                    grant: Grant::Given,
                    guest,
                };
                vec![Action::Tell(Message::Granted)]
            }
            _ => vec![Action::Tell(Message::Refused)],
        }
    }

    /// Save() is also what a snapshot calls. Only an admitted move whose copy is complete fences.
    /// One that may come so far is waited for: its migration may have begun before it.
    fn save(&mut self) -> Vec<Action> {
        match self.state {
            State::Asked | State::Admitted | State::Copying => {
                self.saving = Saving::Waits;
                Vec::new()
            }
            State::Copied => {
                self.state = State::Fenced {
                    grant: Grant::Open,
                    guest: Guest::Still,
                };
                vec![Action::FenceAndSendDelta, Action::Tell(Message::Delta)]
            }
            State::Fenced { .. } | State::Disowned | State::Done | State::Aborted => {
                vec![Action::AnswerSnapshot]
            }
        }
    }

    /// There is no move to record yet, but the target may have admitted one by now.
    fn asked(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Admitted => {
                self.state = State::Admitted;
                Vec::new()
            }
            Event::Abandon | Event::Lapsed | Event::GuestGone => {
                self.state = State::Aborted;
                vec![Action::Tell(Message::Abort)]
            }
            _ => Vec::new(),
        }
    }

    fn before_fence(&mut self, event: Event) -> Vec<Action> {
        match (self.state, event) {
            (State::Admitted, Event::Peer(Message::Ready)) => {
                self.state = State::Copying;
                vec![Action::SendCopy]
            }
            (State::Copying, Event::CopySent) => {
                self.state = State::Copied;
                vec![Action::Tell(Message::Copied)]
            }
            (_, Event::Peer(Message::Nack | Message::Released)) => {
                self.state = State::Aborted;
                vec![Action::RecordAborted]
            }
            (_, Event::Abandon | Event::Lapsed | Event::GuestGone) => {
                self.state = State::Aborted;
                vec![Action::Tell(Message::Abort), Action::RecordAborted]
            }
            _ => Vec::new(),
        }
    }

    fn fenced(&mut self, event: Event, grant: Grant, guest: Guest) -> Vec<Action> {
        match event {
            Event::Peer(Message::Complete) if grant == Grant::Given => {
                self.state = State::Done;
                vec![Action::Forget]
            }
            // The NACK comes before QEMU's own resume by half a millisecond: no packet is lost.
            Event::Peer(Message::Nack) if grant != Grant::Given => self.stay(guest),
            Event::Peer(Message::Released) if grant == Grant::Given && guest == Guest::Still => {
                self.state = State::Fenced {
                    grant: Grant::Closed,
                    guest,
                };
                Vec::new()
            }
            // Before a grant this answers a source whose guest is gone, see `must_ask`.
            Event::Peer(Message::Released) if guest != Guest::Still => self.stay(guest),
            Event::GuestResumed if grant == Grant::Given => {
                self.state = State::Fenced {
                    grant,
                    guest: Guest::Runs,
                };
                Vec::new()
            }
            // The back-up when the NACK is lost. QEMU's "failed" event comes too late for this.
            Event::GuestResumed => {
                let mut actions = self.stay(Guest::Runs);
                actions.push(Action::Tell(Message::Abort));
                actions
            }
            // Its state may be with the target already, which then runs it.
            Event::GuestGone if grant != Grant::Closed => {
                self.state = State::Fenced {
                    grant,
                    guest: Guest::Gone,
                };
                Vec::new()
            }
            Event::GuestGone => self.stay(Guest::Gone),
            Event::Lapsed if guest == Guest::Gone => self.lapsed(grant),
            _ => Vec::new(),
        }
    }

    /// No commit is granted any more; one that was may have brought the guest to life.
    fn lapsed(&mut self, grant: Grant) -> Vec<Action> {
        match grant {
            Grant::Given => {
                self.state = State::Disowned;
                vec![Action::Disown]
            }
            Grant::Open | Grant::Closed => self.stay(Guest::Gone),
        }
    }

    /// Only the record is still missing.
    fn outlived(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Peer(Message::Complete) => {
                self.state = State::Done;
                vec![Action::Forget]
            }
            Event::Peer(Message::Released) => {
                self.state = State::Aborted;
                vec![Action::RecordAborted]
            }
            _ => Vec::new(),
        }
    }

    fn stay(&mut self, guest: Guest) -> Vec<Action> {
        self.state = State::Aborted;
        let first = match guest {
            Guest::Still | Guest::Runs => Action::Unfence,
            Guest::Gone => Action::LetGo,
        };
        vec![first, Action::RecordAborted]
    }
}
