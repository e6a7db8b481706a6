//! What impairs the protection of guests, how long each has lasted, and what is recorded of it.
//! Pure: what holds now goes in, evidence comes out. What is open is kept over the agent's death,
//! so that the next life ends what this one began.

use lictor_evidence::Body;
use lictor_policy::{Cause, Choice};
use lictor_types::GuestId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a cause must have been gone before it is over: what comes and goes each second is one.
pub(crate) const LINGER_MS: u64 = 10_000;
const MINUTE_MS: u64 = 60_000;
/// Guests that an alarm names; the others are counted.
const NAMED_MAX: usize = 8;

/// What holds for a guest now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) guest: GuestId,
    pub(crate) cause: Cause,
    pub(crate) choice: Choice,
    pub(crate) detail: String,
    /// Since when, as far as that is known.
    pub(crate) since_ms: u64,
}

/// What is open, as the next life of the agent finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    guest: GuestId,
    cause: Cause,
    choice: Choice,
    since_ms: u64,
    /// When it was last found.
    seen_ms: u64,
}

#[derive(Debug)]
struct Open {
    choice: Choice,
    since_ms: u64,
    seen_ms: u64,
    /// Whole minutes that were told.
    minutes: u64,
}

/// All that holds.
#[derive(Debug, Default)]
pub(crate) struct Impairments {
    open: BTreeMap<(Cause, GuestId), Open>,
    /// What is open is not what was kept last.
    changed: bool,
    kept_ms: u64,
    /// What ended while no agent looked, and is to be recorded.
    ended: Vec<Body>,
}

impl Impairments {
    /// What an earlier life of the agent had open. What is not found again ends when it was last
    /// known; what is goes on, unless nobody looked for too long.
    pub(crate) fn resumed(kept: Vec<Kept>, now_ms: u64) -> Self {
        let open = kept.into_iter().map(|one| {
            let open = Open {
                choice: one.choice,
                since_ms: one.since_ms,
                seen_ms: one.seen_ms,
                minutes: one.seen_ms.saturating_sub(one.since_ms) / MINUTE_MS,
            };
            ((one.cause, one.guest), open)
        });
        let mut resumed = Self {
            open: open.collect(),
            ..Self::default()
        };
        let mut ended = Vec::new();
        resumed.close(now_ms, &mut ended);
        resumed.ended = ended;
        resumed
    }

    /// What is to be kept for the next life; nothing if that was done lately and nothing changed.
    pub(crate) fn to_keep(&self, now_ms: u64) -> Option<Vec<Kept>> {
        let old = now_ms.saturating_sub(self.kept_ms) >= LINGER_MS;
        if !self.changed && (self.open.is_empty() || !old) {
            return None;
        }
        let kept = self.open.iter().map(|((cause, guest), open)| Kept {
            guest: guest.clone(),
            cause: *cause,
            choice: open.choice,
            since_ms: open.since_ms,
            seen_ms: open.seen_ms,
        });
        Some(kept.collect())
    }

    /// That is on the disk.
    pub(crate) const fn kept(&mut self, now_ms: u64) {
        self.changed = false;
        self.kept_ms = now_ms;
    }

    /// Takes what was found now. Each that begins or ends is recorded, and so is a change of the
    /// choice that holds; each cause is alarmed when it begins and with each minute that it stays
    /// open, for all of its guests together.
    pub(crate) fn round(&mut self, found: Vec<Found>, now_ms: u64) -> Vec<Body> {
        let mut bodies = std::mem::take(&mut self.ended);
        let mut began: BTreeMap<Cause, (String, Choice, BTreeSet<GuestId>)> = BTreeMap::new();
        for one in found {
            let key = (one.cause, one.guest.clone());
            let known = self.open.get_mut(&key);
            if let Some(open) = known.filter(|open| open.choice == one.choice) {
                open.seen_ms = now_ms;
                continue;
            }
            if let Some(other) = self.open.remove(&key) {
                bodies.push(closed(&key, &other, now_ms));
            }
            let alarm = began.entry(one.cause);
            let (_, _, guests) = alarm.or_insert((one.detail.clone(), one.choice, BTreeSet::new()));
            guests.insert(one.guest.clone());
            let open = Open {
                choice: one.choice,
                since_ms: one.since_ms.min(now_ms),
                seen_ms: now_ms,
                minutes: 0,
            };
            bodies.push(Body::ImpairmentOpened {
                guest: one.guest,
                cause: one.cause.name().into(),
                choice: one.choice.name().into(),
                detail: one.detail,
                since_ms: open.since_ms,
            });
            self.open.insert(key, open);
            self.changed = true;
        }
        for (cause, (detail, choice, guests)) in began {
            let who = named(&guests);
            bodies.push(alarm(cause, format!("{detail}; {choice} holds for {who}")));
        }
        self.close(now_ms, &mut bodies);
        self.count(now_ms, &mut bodies);
        bodies
    }

    fn close(&mut self, now_ms: u64, bodies: &mut Vec<Body>) {
        let over = |open: &Open| now_ms.saturating_sub(open.seen_ms) >= LINGER_MS;
        let gone = self.open.extract_if(.., |_, open| over(open));
        let before = bodies.len();
        bodies.extend(gone.map(|(key, open)| closed(&key, &open, open.seen_ms)));
        self.changed |= bodies.len() > before;
    }

    fn count(&mut self, now_ms: u64, bodies: &mut Vec<Body>) {
        let mut told: BTreeMap<Cause, (u64, BTreeSet<GuestId>)> = BTreeMap::new();
        for ((cause, guest), open) in &mut self.open {
            let minutes = now_ms.saturating_sub(open.since_ms) / MINUTE_MS;
            if minutes > open.minutes {
                open.minutes = minutes;
                let (longest, guests) = told.entry(*cause).or_default();
                *longest = minutes.max(*longest);
                guests.insert(guest.clone());
            }
        }
        for (cause, (minutes, guests)) in told {
            let text = format!("open for {minutes} min at {}", named(&guests));
            bodies.push(alarm(cause, text));
        }
    }
}

fn closed((cause, guest): &(Cause, GuestId), open: &Open, until_ms: u64) -> Body {
    Body::ImpairmentClosed {
        guest: guest.clone(),
        cause: cause.name().into(),
        choice: open.choice.name().into(),
        since_ms: open.since_ms,
        until_ms: until_ms.max(open.since_ms),
    }
}

fn alarm(cause: Cause, text: String) -> Body {
    let subject = format!("protection: {cause}");
    Body::Alarm { subject, text }
}

fn named(guests: &BTreeSet<GuestId>) -> String {
    let names: Vec<String> = guests
        .iter()
        .take(NAMED_MAX)
        .map(ToString::to_string)
        .collect();
    match guests.len().saturating_sub(NAMED_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} others", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(guest: &str, choice: Choice) -> Found {
        Found {
            guest: GuestId::new(guest).expect("a name"),
            cause: Cause::ManagerUnreachable,
            choice,
            detail: "silent".into(),
            since_ms: 1_000,
        }
    }

    /// What is recorded, in a word and its numbers.
    fn told(bodies: Vec<Body>) -> Vec<String> {
        let one = |body: Body| match body {
            Body::ImpairmentOpened {
                guest,
                choice,
                since_ms,
                ..
            } => {
                format!("opened {guest} {choice} {since_ms}")
            }
            Body::ImpairmentClosed {
                guest,
                choice,
                since_ms,
                until_ms,
                ..
            } => {
                format!("closed {guest} {choice} {since_ms} {until_ms}")
            }
            Body::Alarm { text, .. } => text,
            other => panic!("{other:?}"),
        };
        bodies.into_iter().map(one).collect()
    }

    #[test]
    fn each_is_recorded_when_it_begins_and_ends_and_alarmed_with_each_minute() {
        let mut impairments = Impairments::default();
        let agents = Choice::MovesByAgents;
        let mut check = |found: &[Found], now_ms, expected: &[&str]| {
            assert_eq!(
                told(impairments.round(found.to_vec(), now_ms)),
                expected,
                "{now_ms}"
            );
        };
        let (a, b) = (found("a", agents), found("b", agents));
        let both = [a.clone(), b];
        check(&[], 1_000, &[]);
        check(
            &both,
            2_000,
            &[
                "opened a moves-by-agents 1000",
                "opened b moves-by-agents 1000",
                "silent; moves-by-agents holds for a, b",
            ],
        );
        check(&both, 60_999, &[]);
        check(&both, 61_000, &["open for 1 min at a, b"]);
        check(&both, 62_000, &[]);
        check(std::slice::from_ref(&a), 62_000 + LINGER_MS - 1, &[]);
        check(
            &[a],
            62_000 + LINGER_MS,
            &["closed b moves-by-agents 1000 62000"],
        );
        check(
            &[found("a", Choice::NoMoves)],
            73_000,
            &[
                "closed a moves-by-agents 1000 73000",
                "opened a no-moves 1000",
                "silent; no-moves holds for a",
                "open for 1 min at a",
            ],
        );
        check(&[], 73_000 + LINGER_MS, &["closed a no-moves 1000 73000"]);
    }

    #[test]
    fn what_was_open_at_a_kill_goes_on_or_ends_when_it_was_last_known() {
        let agents = Choice::MovesByAgents;
        let both = [found("a", agents), found("b", agents)];
        let mut first = Impairments::default();
        assert_eq!(first.to_keep(2_000), None);
        first.round(both.to_vec(), 2_000);
        assert_eq!(first.to_keep(2_000).expect("two began").len(), 2);
        first.kept(2_000);
        assert_eq!(first.to_keep(2_000 + LINGER_MS - 1), None);
        first.round(both.to_vec(), 70_000);
        let kept = first.to_keep(70_000).expect("it is time again");

        let resumed = |now_ms, found: &[Found]| {
            let mut next = Impairments::resumed(kept.clone(), now_ms);
            let bodies = told(next.round(found.to_vec(), now_ms));
            assert!(bodies.is_empty() || next.to_keep(now_ms).is_some());
            bodies
        };
        let none: [&str; 0] = [];
        assert_eq!(resumed(70_000 + LINGER_MS - 1, &both), none);
        assert_eq!(
            resumed(70_000 + LINGER_MS, &both[..1]),
            [
                "closed a moves-by-agents 1000 70000",
                "closed b moves-by-agents 1000 70000",
                "opened a moves-by-agents 1000",
                "silent; moves-by-agents holds for a",
                "open for 1 min at a",
            ]
        );
    }

    #[test]
    fn an_alarm_names_some_guests_and_counts_the_others() {
        let mut impairments = Impairments::default();
        let many = (0..NAMED_MAX + 2).map(|n| found(&format!("g{n:02}"), Choice::NoMoves));
        let bodies = told(impairments.round(many.collect(), 2_000));
        let last = bodies.last().expect("an alarm");
        assert!(last.ends_with("g06, g07 and 2 others"), "{last}");
    }
}
