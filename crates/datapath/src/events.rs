//! What the programs report.

use crate::sys;
use crate::tables::unmapped;
use crate::{Error, abi};
use libbpf_rs::{MapHandle, RingBufferBuilder};
use lictor_types::{
    Direction, Generation, Reason, RuleId, Segment, SessionKey, Verdict, VnicId, Would,
};
use std::path::Path;
use std::time::Duration;

/// A new session or a denial, as the kernel saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// At which vnic.
    pub vnic: VnicId,
    /// Seen from the guest.
    pub direction: Direction,
    /// What happened to the packet.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// By which rule; [`RuleId::DEFAULT`] if by none.
    pub rule: RuleId,
    /// Of the release that was in force; zero where there was none.
    pub generation: Generation,
    /// The conversation. Unspecified addresses where the packet was not understood so far.
    pub key: SessionKey,
    /// The packet's EtherType.
    pub ether_type: u16,
    /// Its length in bytes.
    pub length: u32,
    /// What would have happened, were it not for observe mode.
    pub would: Option<Would>,
}

/// What the program says of observe mode.
pub(crate) fn would_of(verdict: u8, rule: u32) -> Option<Would> {
    Verdict::from_number(verdict).map(|verdict| Would {
        verdict,
        rule: RuleId(rule),
    })
}

impl Event {
    fn of(raw: &abi::Event) -> Option<Self> {
        let direction = if raw.direction == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        Some(Self {
            time_ns: raw.time_ns,
            vnic: VnicId(raw.vnic),
            direction,
            verdict: if raw.verdict == 0 {
                Verdict::Deny
            } else {
                Verdict::Allow
            },
            reason: Reason::from_number(raw.reason)?,
            rule: RuleId(raw.rule),
            generation: Generation(raw.generation),
            key: key_of(&raw.key),
            ether_type: raw.ether_type,
            length: raw.length,
            would: would_of(raw.would, raw.would_rule),
        })
    }
}

#[inline]
pub(crate) fn key_of(key: &abi::SessionKey) -> SessionKey {
    SessionKey {
        segment: Segment(key.domain >> 8),
        protocol: key.domain as u8,
        local: unmapped(key.local),
        remote: unmapped(key.remote),
        local_port: key.local_port,
        remote_port: key.remote_port,
    }
}

/// Hands every waiting event to `sink`, after waiting at most `timeout` for the first. Returns how
/// many there were.
pub(crate) fn poll(
    ring: &Path,
    timeout: Duration,
    sink: &mut dyn FnMut(Event),
) -> Result<usize, Error> {
    let reading = |source: libbpf_rs::Error| Error::System {
        action: "reading events",
        source: std::io::Error::other(source),
    };
    let map = MapHandle::from_pinned_path(ring).map_err(reading)?;
    let mut found = 0;
    let mut builder = RingBufferBuilder::new();
    builder
        .add(&map, |bytes: &[u8]| {
            if let Some(event) = sys::from_bytes::<abi::Event>(bytes).and_then(|e| Event::of(&e)) {
                found += 1;
                sink(event);
            }
            0
        })
        .map_err(reading)?;
    let buffer = builder.build().map_err(reading)?;
    buffer.poll(timeout).map_err(reading)?;
    // The kernel wakes a waiter only when the ring was empty: take what arrived before.
    buffer.consume().map_err(reading)?;
    drop(buffer);
    Ok(found)
}
