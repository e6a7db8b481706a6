//! What the lab itself sees of the fabric: every frame that came out of a host.

use super::ensure;
use crate::host::Host;
use crate::netns::Netns;
use crate::site::Site;
use crate::{Capture, Frame, Way};
use anyhow::{Context, Result};
use lictor_types::Mac;

/// A capture on the fabric's port of one host.
#[derive(Debug)]
pub(super) struct Port {
    device: String,
    fabric: Netns,
    /// Frames that the port had received before the capture began.
    before: u64,
    capture: Capture,
}

impl Port {
    /// Begins to record; nothing but guests sends on this fabric.
    pub(super) fn watch(site: &Site, host: &Host) -> Result<Self> {
        let (device, fabric) = (host.fabric_port(), site.lab().fabric().clone());
        let capture = Capture::start(&fabric, &device)?;
        let before = received(&fabric, &device)?;
        Ok(Self {
            device,
            fabric,
            before,
            capture,
        })
    }

    /// Every frame that came out of the host, after making sure that the capture has missed none:
    /// it has at least as many as the kernel's own counter of the port said a moment before.
    pub(super) fn frames(&self) -> Result<Vec<Frame>> {
        let counted = received(&self.fabric, &self.device)?.saturating_sub(self.before);
        // A frame is counted before the capture's own thread has read it.
        let caught = crate::wait::until("the capture to catch up", super::world::LIMIT, || {
            let frames = self.capture.frames();
            let came = frames.iter().filter(|frame| frame.way == Way::Received);
            Ok((came.count() as u64 >= counted).then_some(frames))
        });
        let mut frames =
            caught.with_context(|| format!("of {counted} frames on {}", self.device))?;
        let missed = self.capture.missed();
        ensure(missed == 0, || {
            format!(
                "the capture on {} is full: {missed} frames are missing",
                self.device
            )
        })?;
        frames.retain(|frame| frame.way == Way::Received);
        Ok(frames)
    }

    /// Those that bear this sender.
    pub(super) fn frames_of(&self, mac: Mac) -> Result<Vec<Frame>> {
        let mut frames = self.frames()?;
        frames.retain(|frame| frame.source == mac);
        Ok(frames)
    }
}

/// Frames that a port of the fabric has received, by the kernel's counter.
fn received(fabric: &Netns, device: &str) -> Result<u64> {
    let text = fabric.ip(&format!("-j -s link show dev {device}"))?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["rx"]["packets"]
        .as_u64()
        .with_context(|| format!("`ip` shows no counters of {device}"))
}
