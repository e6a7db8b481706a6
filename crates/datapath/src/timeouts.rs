//! Time-outs as the programs have them: one array, a place for each protocol and state.

use crate::abi::{
    HostTimeouts, TIMEOUT_ICMP, TIMEOUT_OTHER, TIMEOUT_SCTP, TIMEOUT_TCP, TIMEOUT_UDP,
};
use lictor_types::{TcpState, Timeouts};

const fn state(base: usize, state: TcpState) -> usize {
    base + state as usize
}

/// Where the program looks for each, in the order of [`Timeouts::named`].
const PLACES: [usize; 17] = [
    state(TIMEOUT_TCP, TcpState::Unreplied),
    state(TIMEOUT_TCP, TcpState::SynReceived),
    state(TIMEOUT_TCP, TcpState::Established),
    state(TIMEOUT_TCP, TcpState::FinWait),
    state(TIMEOUT_TCP, TcpState::TimeWait),
    state(TIMEOUT_TCP, TcpState::Closed),
    state(TIMEOUT_SCTP, TcpState::Unreplied),
    state(TIMEOUT_SCTP, TcpState::SynReceived),
    state(TIMEOUT_SCTP, TcpState::Established),
    state(TIMEOUT_SCTP, TcpState::FinWait),
    state(TIMEOUT_SCTP, TcpState::TimeWait),
    state(TIMEOUT_SCTP, TcpState::Closed),
    TIMEOUT_UDP,
    TIMEOUT_UDP + 1,
    TIMEOUT_ICMP,
    TIMEOUT_OTHER,
    TIMEOUT_OTHER + 1,
];

impl HostTimeouts {
    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        let mut raw = Self::default();
        for (place, (_, seconds)) in PLACES.into_iter().zip(timeouts.named()) {
            raw.seconds[place] = seconds;
        }
        raw
    }

    pub(crate) fn read(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        for (place, (name, _)) in PLACES.into_iter().zip(Timeouts::default().named()) {
            timeouts.set(name, self.seconds[place]);
        }
        timeouts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_back_as_it_was_set() {
        let mut timeouts = Timeouts::default();
        assert_eq!(timeouts.named().len(), PLACES.len());
        for (place, (name, _)) in Timeouts::default().named().into_iter().enumerate() {
            timeouts.set(name, 1_000 + place as u32);
        }
        assert_eq!(HostTimeouts::of(&timeouts).read(), timeouts);
    }
}
