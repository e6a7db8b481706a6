//! A move as two state machines, one at each end. Both are pure: events in, actions out; no
//! socket, no clock, no kernel. The shell around them executes the actions and reports what
//! happened as events.
//!
//! The order that keeps a guest from being open twice; each step was needed in an experiment:
//!
//! 1. Both ends sign a ticket.
//! 2. The target holds.
//! 3. The source copies while the guest runs.
//! 4. In Save() the source fences and sends what changed.
//! 5. In Load() the target asks the source to commit, and opens only when that is granted.
//! 6. After granting, the source ignores its own guest's RESUME until the target releases it.
//! 7. The target's RESUME completes the move.

pub mod admission;
pub mod claim;
pub mod rounds;
pub mod source;
pub mod stage;
pub mod target;

/// What one end tells the other. Between two ends messages arrive in order or the connection is
/// lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// Target: the vnics are in hold and the interlock is in place.
    Ready,
    /// Source: the first full copy is complete.
    Copied,
    /// Source: what changed since the copy is complete, the vnics are fenced.
    Delta,
    /// Target: may I open?
    Commit,
    /// Source: yes, and from now on I stay shut until you release me.
    Granted,
    /// Source: no; the guest goes on here.
    Refused,
    /// Target: I failed before a grant; the guest goes on at your side.
    Nack,
    /// Target: I had your grant, but my guest ended without having run.
    Released,
    /// Target: the guest runs here.
    Complete,
    /// Source: the move is given up.
    Abort,
}
