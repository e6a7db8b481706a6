//! How long a session lives without a packet, by protocol and state.

use crate::TcpState;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The shortest time-out, in seconds.
pub const TIMEOUT_MIN_S: u32 = 1;
/// The longest time-out, in seconds: a week. A session's age is kept in a number that wraps after
/// 52 days.
pub const TIMEOUT_MAX_S: u32 = 604_800;

const IP_ICMP: u8 = 1;
const IP_TCP: u8 = 6;
const IP_UDP: u8 = 17;
const IP_ICMPV6: u8 = 58;
const IP_SCTP: u8 = 132;
const IP_UDP_LITE: u8 = 136;

/// A time-out outside the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the time-out {name} is {seconds} s; expected {TIMEOUT_MIN_S} to {TIMEOUT_MAX_S}: \
     choose one in between"
)]
pub struct TimeoutError {
    /// Which one.
    pub name: &'static str,
    /// What was asked for.
    pub seconds: u32,
}

macro_rules! timeouts {
    ($($(#[$doc:meta])* $name:ident = $seconds:literal;)*) => {
        /// Seconds without a packet after which a session is over. The default is what a host has
        /// until it sets its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Timeouts {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self { $($name: $seconds,)* }
            }
        }

        impl Timeouts {
            /// Each with its name, in the order of the fields.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u32)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Sets the one with this name. Whether there is one.
            pub fn set(&mut self, name: &str, seconds: u32) -> bool {
                match name {
                    $(stringify!($name) => self.$name = seconds,)*
                    _ => return false,
                }
                true
            }
        }
    };
}

timeouts! {
    /// A SYN was seen.
    tcp_unreplied = 60;
    /// A SYN-ACK was seen.
    tcp_syn_received = 60;
    /// Both ways. RFC 5382, REQ-5 asks for at least 2 hours and 4 minutes.
    tcp_established = 7_440;
    /// One FIN was seen.
    tcp_fin_wait = 240;
    /// Both FIN were seen.
    tcp_time_wait = 60;
    /// Reset.
    tcp_closed = 10;
    /// An INIT or the HEARTBEAT of another path was seen.
    sctp_unreplied = 60;
    /// An INIT-ACK was seen.
    sctp_syn_received = 60;
    /// Both ways. Heartbeats come every 30 s (RFC 9260, 16).
    sctp_established = 600;
    /// A SHUTDOWN was seen.
    sctp_fin_wait = 60;
    /// A SHUTDOWN-ACK was seen.
    sctp_time_wait = 60;
    /// Aborted, or shut down.
    sctp_closed = 10;
    /// Without an answer.
    udp_unreplied = 30;
    /// Both ways. RFC 4787, REQ-5 asks for at least 2 minutes.
    udp_established = 180;
    /// RFC 5508, REQ-2 asks for at least 60 seconds.
    icmp = 60;
    /// Another protocol, without an answer.
    other_unreplied = 60;
    /// Another protocol, both ways.
    other_established = 600;
}

impl Timeouts {
    /// Whether each lies within the limits.
    ///
    /// # Errors
    /// [`TimeoutError`] names the first that does not.
    pub fn check(&self) -> Result<(), TimeoutError> {
        let limits = TIMEOUT_MIN_S..=TIMEOUT_MAX_S;
        match self.named().into_iter().find(|(_, s)| !limits.contains(s)) {
            Some((name, seconds)) => Err(TimeoutError { name, seconds }),
            None => Ok(()),
        }
    }

    /// Of a session of this IP protocol in this state.
    #[must_use]
    pub fn of(&self, protocol: u8, state: TcpState) -> Duration {
        use TcpState::{Closed, Established, FinWait, SynReceived, TimeWait, Unreplied};
        let seconds = match (protocol, state) {
            (IP_TCP, Unreplied) => self.tcp_unreplied,
            (IP_TCP, SynReceived) => self.tcp_syn_received,
            (IP_TCP, Established) => self.tcp_established,
            (IP_TCP, FinWait) => self.tcp_fin_wait,
            (IP_TCP, TimeWait) => self.tcp_time_wait,
            (IP_TCP, Closed) => self.tcp_closed,
            (IP_SCTP, Unreplied) => self.sctp_unreplied,
            (IP_SCTP, SynReceived) => self.sctp_syn_received,
            (IP_SCTP, Established) => self.sctp_established,
            (IP_SCTP, FinWait) => self.sctp_fin_wait,
            (IP_SCTP, TimeWait) => self.sctp_time_wait,
            (IP_SCTP, Closed) => self.sctp_closed,
            (IP_UDP | IP_UDP_LITE, Unreplied) => self.udp_unreplied,
            (IP_UDP | IP_UDP_LITE, _) => self.udp_established,
            (IP_ICMP | IP_ICMPV6, _) => self.icmp,
            (_, Unreplied) => self.other_unreplied,
            _ => self.other_established,
        };
        Duration::from_secs(seconds.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kept_at_both_ends() {
        let with = |seconds| Timeouts {
            icmp: seconds,
            ..Timeouts::default()
        };
        assert_eq!(Timeouts::default().check(), Ok(()));
        for good in [1, 604_800] {
            assert_eq!(with(good).check(), Ok(()));
        }
        for seconds in [0, 604_801] {
            let name = "icmp";
            assert_eq!(with(seconds).check(), Err(TimeoutError { name, seconds }));
        }
    }

    #[test]
    fn each_is_set_by_its_name() {
        let mut timeouts = Timeouts::default();
        for (place, (name, _)) in Timeouts::default().named().into_iter().enumerate() {
            assert!(timeouts.set(name, 100 + place as u32), "{name}");
        }
        let seconds: Vec<_> = timeouts.named().into_iter().map(|(_, s)| s).collect();
        assert_eq!(seconds, (100..117).collect::<Vec<_>>());
        assert!(!timeouts.set("forever", 1));
    }
}
