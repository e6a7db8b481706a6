//! Whether this host's time can be believed. Pure: it is told the time and says what is wrong.

use crate::input::Now;

/// How far the time may be from where it should be. A time service corrects less than that, or
/// nobody should believe what it says.
pub(crate) const TOLERANCE_MS: u64 = 60_000;

/// What the time should be: it goes on from where it was when the agent began, and is never before
/// what this host has recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Now,
    /// Of the newest entry of evidence that was here when the agent began.
    recorded_ms: u64,
}

impl Clock {
    pub(crate) const fn new(began: Now, recorded_ms: u64) -> Self {
        Self { began, recorded_ms }
    }

    /// Why the time cannot be believed, if it cannot.
    pub(crate) fn doubt(&self, now: Now) -> Option<String> {
        let (found, recorded) = (now.ms, self.recorded_ms);
        if found.saturating_add(TOLERANCE_MS) < recorded {
            return Some(format!(
                "it is {found} ms by this host's clock, but its evidence has an entry of \
                 {recorded} ms; set the clock"
            ));
        }
        let expected = self
            .began
            .ms
            .saturating_add(now.since_us(self.began) / 1_000);
        (found.abs_diff(expected) > TOLERANCE_MS).then(|| {
            format!(
                "it is {found} ms by this host's clock and should be about {expected} ms by the \
                 time since the agent began; set the clock, and if it was wrong before start the \
                 agent again"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_jumps_or_lies_before_what_was_recorded_is_not_believed() {
        let at = |ms, us| Now { ms, us };
        let began = at(1_000_000, 5);
        let check = |recorded_ms, now, doubted: bool| {
            let doubt = Clock::new(began, recorded_ms).doubt(now);
            assert_eq!(doubt.is_some(), doubted, "{recorded_ms} {now:?}: {doubt:?}");
        };
        let hour = 3_600_000;
        let later = |off: i64| {
            let ms = (1_000_000_i64 + hour as i64 + off).cast_unsigned();
            at(ms, 5 + hour * 1_000)
        };
        let limit = TOLERANCE_MS.cast_signed();
        check(0, began, false);
        check(1_000_000 + TOLERANCE_MS, began, false);
        check(1_000_001 + TOLERANCE_MS, began, true);
        check(0, later(0), false);
        check(0, later(limit), false);
        check(0, later(limit + 1), true);
        check(0, later(-limit), false);
        check(0, later(-limit - 1), true);
    }
}
