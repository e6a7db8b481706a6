//! What was counted of a vnic wherever its guest has been. The kernel counts from zero on each
//! host, and its counters must stay equal to the device's own; what came along with the guest lies
//! beside them in a map that no program writes.
//!
//! What goes to another host is taken off here and added there: all hosts together have counted
//! what happened, and nothing twice, however often a guest comes and goes.

use crate::abi;
use crate::error::failed;
use crate::vnic::{DIRECTIONS, RuleCount, Vnic};
use crate::{Count, Error};
use lictor_types::{Counted, Direction, Reason, RuleId, Tallies, Tally};

/// Above the number of a rule, or of a counter as in `counters`.
const KIND_SHIFT: u32 = 32;
const KIND_COUNTER: u64 = 0;
const KIND_RULE: u64 = 1;

fn key_of(counted: Counted) -> u64 {
    let counter = |direction: Direction, index: u32| {
        KIND_COUNTER << KIND_SHIFT
            | u64::from(direction as u32 * abi::COUNTERS_PER_DIRECTION + index)
    };
    match counted {
        Counted::Steered(direction) => counter(direction, abi::COUNTER_STEERED),
        Counted::Reason(direction, reason) => counter(direction, reason as u32),
        Counted::Rule(rule) => KIND_RULE << KIND_SHIFT | u64::from(rule.0),
    }
}

/// `None` for what this version does not count.
fn counted_of(key: u64) -> Option<Counted> {
    let number = key as u32;
    if key >> KIND_SHIFT == KIND_RULE {
        return Some(Counted::Rule(RuleId(number)));
    }
    let direction = *DIRECTIONS.get((number / abi::COUNTERS_PER_DIRECTION) as usize)?;
    match number % abi::COUNTERS_PER_DIRECTION {
        abi::COUNTER_STEERED => Some(Counted::Steered(direction)),
        index => {
            let reason = Reason::from_number(u8::try_from(index).ok()?)?;
            Some(Counted::Reason(direction, reason))
        }
    }
}

fn of_count(count: Count) -> Tally {
    Tally {
        packets: count.packets,
        bytes: count.bytes,
        ..Tally::default()
    }
}

fn of_rule(count: RuleCount) -> Tally {
    Tally {
        packets: count.packets,
        bytes: count.bytes,
        sessions: count.sessions,
        observed: count.observed,
    }
}

impl Vnic {
    /// What was counted here and what came along.
    pub(crate) fn tally(&self, cpus: usize) -> Result<Tallies, Error> {
        let mut tallies = self.counted_here(cpus)?;
        for (counted, brought) in self.brought()? {
            let tally = tallies.entry(counted).or_default();
            *tally = tally.plus(brought);
        }
        tallies.retain(|_, tally| *tally != Tally::default());
        Ok(tallies)
    }

    fn counted_here(&self, cpus: usize) -> Result<Tallies, Error> {
        let counters = self.counters(cpus)?;
        let both = DIRECTIONS
            .into_iter()
            .zip([counters.egress, counters.ingress]);
        let mut tallies = Tallies::new();
        for (direction, counters) in both {
            tallies.insert(Counted::Steered(direction), of_count(counters.steered));
            let reasons = counters.reasons.into_iter();
            tallies.extend(
                reasons
                    .map(|(reason, count)| (Counted::Reason(direction, reason), of_count(count))),
            );
        }
        let rules = self.rule_counters()?.into_iter();
        tallies.extend(rules.map(|(rule, count)| (Counted::Rule(rule), of_rule(count))));
        Ok(tallies)
    }

    fn brought(&self) -> Result<Tallies, Error> {
        let rows = self.brought.rows().map_err(failed("reading counters"))?;
        let rows = rows.into_iter().filter_map(|(key, words)| {
            let [packets, bytes, sessions, observed] = words;
            let tally = Tally {
                packets,
                bytes,
                sessions,
                observed,
            };
            Some((counted_of(key)?, tally))
        });
        Ok(rows.collect())
    }

    /// Changes what came along by each of these.
    pub(crate) fn change_brought(
        &self,
        by: &Tallies,
        change: impl Fn(Tally, Tally) -> Tally,
    ) -> Result<(), Error> {
        let before = self.brought()?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (counted, tally) in by {
            let before = before.get(counted).copied().unwrap_or_default();
            let after = change(before, *tally);
            keys.push(key_of(*counted));
            values.push([after.packets, after.bytes, after.sessions, after.observed]);
        }
        let writing = failed("writing what a guest brought along");
        self.brought.fill(&keys, &values).map_err(writing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_back_as_what_it_was_written_for() {
        let both = DIRECTIONS.into_iter().flat_map(|direction| {
            let reasons = Reason::ALL.iter();
            let reasons = reasons.map(move |reason| Counted::Reason(direction, *reason));
            reasons.chain([Counted::Steered(direction)])
        });
        let rules = [0, 1, u32::MAX].map(|rule| Counted::Rule(RuleId(rule)));
        for counted in both.chain(rules) {
            assert_eq!(counted_of(key_of(counted)), Some(counted));
        }
        assert_eq!(counted_of(u64::from(2 * abi::COUNTERS_PER_DIRECTION)), None);
    }
}
