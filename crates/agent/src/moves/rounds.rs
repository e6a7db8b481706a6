//! How a guest's sessions are copied while it runs: in rounds, each of what changed since the one
//! before, until a round is small or there have been enough; and again and again from then on, so
//! that little is left when the guest stands still. Pure: what was sent and taken in, and what to
//! do next.

use lictor_wire::sessions::CHUNK_RECORDS_MAX;

/// Chunks that may be on their way: what they weigh waits in the memory of both agents.
pub const WINDOW_CHUNKS: u64 = 16;
/// How often a target says what it has taken in, in chunks.
pub const TAKEN_EVERY_CHUNKS: u64 = 4;
/// A round of no more than this leaves little for the pause.
pub const SMALL_RECORDS: u64 = CHUNK_RECORDS_MAX as u64;
/// A guest whose sessions change faster than they can be copied moves all the same.
pub const ROUNDS_MAX: u64 = 8;
/// How long it takes from one round to the next once the migration may begin, and at most while it
/// goes on: see [`Rounds::pace`].
pub const REST_US: u64 = 1_000_000;

/// How long a target may say nothing about what it was sent. A link that is cut loses no
/// connection: without this the move would wait for as long as its ticket is good.
pub const SILENCE_US: u64 = 10_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Sending,
    /// All of a round was sent, and is not taken in yet.
    Sent,
    Resting {
        until_us: u64,
    },
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until the target says something or a moment has come.
    Wait,
    /// Send a chunk of the round.
    Send,
    /// What changes is little, or there have been enough rounds: the migration may begin. Said
    /// once.
    Copied,
    /// The target has been silent for [`SILENCE_US`]: give the move up.
    Silent,
}

/// The rounds of one move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rounds {
    state: State,
    copied: bool,
    /// Chunks.
    sent: u64,
    taken: u64,
    /// Whole rounds.
    rounds: u64,
    /// Of the round that goes on, or was the last.
    records: u64,
    /// The target has not said yet how it stands with what ended last.
    asked: bool,
    /// It has been waited for since then.
    since_us: Option<u64>,
    /// From the end of a round to the next one.
    rest_us: u64,
    /// When the round that goes on, or was the last, began.
    began_us: u64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            state: State::Idle,
            copied: false,
            sent: 0,
            taken: 0,
            rounds: 0,
            records: 0,
            asked: false,
            since_us: None,
            rest_us: REST_US,
            began_us: 0,
        }
    }
}

impl Rounds {
    /// The first round may begin.
    pub fn begin(&mut self) {
        if self.state == State::Idle {
            self.state = State::Sending;
        }
    }

    /// How long to rest between rounds from now on: while the hypervisor copies the guest's memory
    /// its stop may come at any moment, and what changes in a rest is left for the pause.
    pub fn pace(&mut self, rest_us: u64, now_us: u64) {
        self.rest_us = rest_us;
        if let State::Resting { until_us } = &mut self.state {
            *until_us = (*until_us).min(now_us + rest_us);
        }
    }

    /// Whole rounds so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.rounds
    }

    /// When the next round is due, if only time is waited for.
    #[must_use]
    pub const fn due_us(&self) -> Option<u64> {
        match self.state {
            State::Resting { until_us } => Some(until_us),
            State::Idle | State::Sending | State::Sent => None,
        }
    }

    /// Some of the round was sent, in so many chunks.
    pub fn sent(&mut self, chunks: u64, records: u64) {
        self.sent += chunks;
        self.records += records;
    }

    /// The round was sent to its end. Gives its number.
    pub fn ended(&mut self) -> u64 {
        self.rounds += 1;
        self.state = State::Sent;
        self.asked = true;
        self.rounds
    }

    /// The target has taken in so many chunks since the move began. It may lie.
    pub fn taken(&mut self, chunks: u64) {
        self.taken = chunks.clamp(self.taken, self.sent);
        self.asked = false;
        self.since_us = None;
    }

    /// What to do at this moment.
    pub fn next(&mut self, now_us: u64) -> Next {
        if self.asked || self.taken < self.sent {
            let since_us = *self.since_us.get_or_insert(now_us);
            if now_us.saturating_sub(since_us) >= SILENCE_US {
                return Next::Silent;
            }
        }
        match self.state {
            State::Resting { until_us } if until_us <= now_us => self.round(now_us),
            State::Idle | State::Resting { .. } => Next::Wait,
            State::Sending => self.room(),
            State::Sent if self.taken < self.sent => Next::Wait,
            State::Sent if self.copied || self.enough() => {
                let until_us = now_us + self.rest_after(now_us);
                self.state = State::Resting { until_us };
                let first = !std::mem::replace(&mut self.copied, true);
                if first { Next::Copied } else { Next::Wait }
            }
            State::Sent => self.round(now_us),
        }
    }

    const fn enough(&self) -> bool {
        self.records <= SMALL_RECORDS || self.rounds >= ROUNDS_MAX
    }

    /// As long as the round took, at least: however close they are, rounds take no more than half
    /// of an agent's time.
    fn rest_after(&self, now_us: u64) -> u64 {
        let took_us = now_us.saturating_sub(self.began_us);
        self.rest_us.max(took_us.min(REST_US))
    }

    fn round(&mut self, now_us: u64) -> Next {
        self.state = State::Sending;
        self.began_us = now_us;
        self.records = 0;
        self.room()
    }

    const fn room(&self) -> Next {
        match self.sent - self.taken {
            0..WINDOW_CHUNKS => Next::Send,
            _ => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = CHUNK_RECORDS_MAX as u64;

    /// Copies a guest of whose sessions each round finds as many as listed. Gives the rounds until
    /// the migration may begin.
    fn check(sizes: &[u64], rounds_expected: u64) {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.next(0), Next::Wait, "nothing before it begins");
        rounds.begin();
        let mut sizes = sizes.iter().copied();
        let mut left = sizes.next().expect("at least one round");
        let mut all = 0;
        loop {
            match rounds.next(0) {
                Next::Send => {
                    let part = left.min(CHUNK);
                    left -= part;
                    let chunks = part.div_ceil(CHUNK);
                    all += chunks;
                    rounds.sent(chunks, part);
                    if left == 0 {
                        rounds.ended();
                        left = sizes.next().unwrap_or_default();
                    }
                }
                Next::Wait => rounds.taken(all),
                Next::Copied => break,
                Next::Silent => panic!("the target answers: {rounds:?}"),
            }
        }
        assert_eq!(rounds.count(), rounds_expected, "{rounds:?}");
    }

    #[test]
    fn rounds_go_on_until_one_is_small_or_there_have_been_enough() {
        check(&[0], 1);
        check(&[CHUNK], 1);
        check(&[CHUNK + 1], 2);
        check(&[1_000_000, 10_000, 100], 3);
        check(&[1_000_000; 20], ROUNDS_MAX);
    }

    #[test]
    fn no_more_is_on_its_way_than_the_window_and_what_a_target_makes_up_does_not_widen_it() {
        let mut rounds = Rounds::default();
        rounds.begin();
        let chunks = |rounds: &mut Rounds| {
            let mut sent = 0;
            while rounds.next(0) == Next::Send {
                rounds.sent(1, CHUNK);
                sent += 1;
            }
            assert_eq!(rounds.next(0), Next::Wait);
            sent
        };
        assert_eq!(chunks(&mut rounds), WINDOW_CHUNKS);
        rounds.taken(TAKEN_EVERY_CHUNKS);
        assert_eq!(chunks(&mut rounds), TAKEN_EVERY_CHUNKS);
        rounds.taken(u64::MAX);
        rounds.taken(0);
        assert_eq!(chunks(&mut rounds), WINDOW_CHUNKS);
    }

    #[test]
    fn a_guest_that_may_migrate_gets_a_round_a_second() {
        let mut rounds = Rounds::default();
        rounds.begin();
        rounds.ended();
        assert_eq!(rounds.next(5), Next::Copied);
        assert_eq!(rounds.due_us(), Some(5 + REST_US));
        assert_eq!(rounds.next(4 + REST_US), Next::Wait);
        assert_eq!(rounds.next(5 + REST_US), Next::Send);
        rounds.ended();
        assert_eq!(rounds.next(9 + REST_US), Next::Wait);
        assert_eq!(rounds.due_us(), Some(9 + 2 * REST_US));
    }

    #[test]
    fn rounds_come_closer_while_the_guest_migrates_but_never_one_upon_the_other() {
        const CLOSE_US: u64 = 100_000;
        let mut rounds = Rounds::default();
        rounds.begin();
        rounds.ended();
        assert_eq!(rounds.next(5), Next::Copied);
        rounds.pace(CLOSE_US, 10);
        assert_eq!(rounds.due_us(), Some(10 + CLOSE_US));
        let began = 10 + CLOSE_US;
        for (took, rest) in [
            (7, CLOSE_US),
            (3 * CLOSE_US, 3 * CLOSE_US),
            (2 * REST_US, REST_US),
        ] {
            let mut rounds = rounds.clone();
            assert_eq!(rounds.next(began), Next::Send);
            rounds.ended();
            assert_eq!(rounds.next(began + took), Next::Wait);
            assert_eq!(rounds.due_us(), Some(began + took + rest), "{took}");
        }
        // A migration that fails brings the longer rest back, after the one that goes on.
        rounds.pace(REST_US, 20);
        assert_eq!(rounds.due_us(), Some(began), "no rest becomes longer");
    }

    #[test]
    fn a_target_that_says_nothing_is_waited_for_only_so_long() {
        let mut rounds = Rounds::default();
        rounds.begin();
        rounds.ended();
        assert_eq!(rounds.next(5), Next::Copied);
        assert_ne!(rounds.next(4 + SILENCE_US), Next::Silent);
        let mut heard = rounds.clone();
        heard.taken(0);
        assert_ne!(heard.next(5 + SILENCE_US), Next::Silent);
        assert_eq!(rounds.next(5 + SILENCE_US), Next::Silent);
    }
}
