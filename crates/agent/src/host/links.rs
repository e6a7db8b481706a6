//! The network devices of a host and since when each may have been there: how long a vnic that
//! nobody announced could carry frames without a verdict.

use crate::AgentError;
use std::collections::BTreeMap;

/// Every device, by name: its number, and the latest moment at which it was surely absent.
#[derive(Debug)]
pub(super) struct Links {
    devices: BTreeMap<String, (u32, u64)>,
    looked_ms: u64,
}

impl Links {
    /// Devices that are there at the first look may be as old as the host's uptime.
    pub(super) fn new(now_ms: u64) -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split('.').next().and_then(|text| text.parse().ok());
        // Without an uptime nothing is known: since ever.
        let uptime_ms = seconds.map_or(now_ms, |seconds: u64| seconds.saturating_mul(1_000));
        Self {
            devices: BTreeMap::new(),
            looked_ms: now_ms.saturating_sub(uptime_ms),
        }
    }

    /// Lists the devices of this network namespace.
    pub(super) fn look(&mut self, now_ms: u64) -> Result<(), AgentError> {
        let listed = nix::net::if_::if_nameindex().map_err(|error| {
            AgentError::Refused(format!("the network devices cannot be listed: {error}"))
        })?;
        let mut devices = BTreeMap::new();
        for device in &listed {
            let name = device.name().to_string_lossy().into_owned();
            let known = self.devices.get(&name).copied();
            let same = known.filter(|(index, _)| *index == device.index());
            devices.insert(name, same.unwrap_or((device.index(), self.looked_ms)));
        }
        self.devices = devices;
        self.looked_ms = now_ms;
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.devices.contains_key(name)
    }

    /// The latest moment at which a device was surely absent.
    pub(super) fn since_ms(&self, name: &str, now_ms: u64) -> u64 {
        let found = self.devices.get(name);
        found.map_or(now_ms, |(_, since_ms)| (*since_ms).min(now_ms))
    }
}
