//! How often another host may ask for what costs a look at the kernel or an entry of evidence: a
//! host that has been broken into must not fill this one's log.

use crate::input::Now;
use lictor_types::HostId;
use std::collections::BTreeMap;

/// Moves that one host may ask for in one window; what is beyond gets no answer.
pub(crate) const ASKS_MAX: u32 = 60;
/// The window.
const WINDOW_US: u64 = 60_000_000;

/// Asks of each host in its window. Only hosts of the roster can ask, so it stays as small.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    windows: BTreeMap<HostId, (Now, u32)>,
}

/// Whether an ask is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Yes,
    /// The first of a window that is not: worth an alarm.
    NotAnyMore,
    No,
}

impl Allowance {
    pub(crate) fn ask(&mut self, host: &HostId, now: Now) -> Heard {
        let (since, count) = self.windows.entry(host.clone()).or_insert((now, 0));
        if now.since_us(*since) >= WINDOW_US {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        match *count {
            ..=ASKS_MAX => Heard::Yes,
            one if one == ASKS_MAX + 1 => Heard::NotAnyMore,
            _ => Heard::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_asks_too_often_is_not_heard_until_its_window_has_passed() {
        let host = |name| HostId::new(name).expect("a valid name");
        let at = |us| Now { ms: 0, us };
        let mut allowance = Allowance::default();
        for number in 0..ASKS_MAX {
            assert_eq!(allowance.ask(&host("a"), at(1)), Heard::Yes, "{number}");
        }
        assert_eq!(allowance.ask(&host("a"), at(2)), Heard::NotAnyMore);
        assert_eq!(allowance.ask(&host("a"), at(WINDOW_US)), Heard::No);
        assert_eq!(allowance.ask(&host("b"), at(2)), Heard::Yes);
        assert_eq!(allowance.ask(&host("a"), at(WINDOW_US + 1)), Heard::Yes);
    }
}
