//! Questions that no rule allows, asked of both guests all the time, and a capture on the fabric
//! that sees whether one is answered: a guest answers a datagram to a closed port, if it gets it.

use super::world::{DB, PLAIN};
use anyhow::{Result, ensure};
use lictor_lab::frame::{Datagram, udp4};
use lictor_lab::{Capture, GuestSpec, Lab, NsGuest, inject};
use lictor_types::Mac;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(5);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 200]);
/// Nobody listens there, and no rule allows it.
const CLOSED: u16 = 9;
const IPV4: u16 = 0x0800;

/// Asks until it drops.
pub(super) struct Probes {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    capture: Capture,
    _outsider: NsGuest,
}

/// Answers to the outsider.
pub(super) struct Answers {
    pub(super) frames: u64,
    /// From the first to the last.
    pub(super) span_ms: f64,
}

impl Probes {
    pub(super) fn begin(lab: &Lab) -> Result<Self> {
        let spec = GuestSpec {
            name: "outsider".into(),
            mac: MAC,
            addresses: vec![(IpAddr::V4(ADDRESS), 16)],
            gateways: Vec::new(),
            services: Vec::new(),
            more: Vec::new(),
        };
        let outsider = lab.client(&spec)?;
        let device = outsider.vnic().device.clone();
        let capture = Capture::start(lab.fabric(), &device)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, netns) = (Arc::clone(&stop), outsider.netns().clone());
        let frames: Vec<_> = [DB, PLAIN]
            .map(|guest| question(guest.mac(), guest.address()))
            .into();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = inject(&netns, "eth0", &frames) {
                    eprintln!("bench: a question was not asked: {error:#}");
                    return;
                }
                std::thread::sleep(EVERY);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
            capture,
            _outsider: outsider,
        })
    }

    /// How many frames were captured so far.
    pub(super) fn mark(&self) -> usize {
        self.capture.frames().len()
    }

    /// What a guest has said to the outsider since a mark, ARP apart.
    pub(super) fn answers(&self, of: Mac, since: usize) -> Result<Answers> {
        let missed = self.capture.missed();
        ensure!(
            missed == 0,
            "the capture is full: {missed} frames are missing"
        );
        let running = self
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        ensure!(running, "nobody asks any more");
        let frames = self.capture.frames();
        let mut asked = 0_u64;
        let mut times = Vec::new();
        for frame in frames
            .iter()
            .skip(since)
            .filter(|frame| frame.ethertype == IPV4)
        {
            asked += u64::from(frame.source == MAC);
            if frame.source == of {
                times.push(frame.wall);
            }
        }
        ensure!(asked > 0, "the capture saw no question");
        let first = times.iter().min();
        let span = first
            .zip(times.iter().max())
            .and_then(|(first, last)| last.duration_since(*first).ok());
        Ok(Answers {
            frames: times.len() as u64,
            span_ms: span.map_or(0.0, |span| span.as_secs_f64() * 1e3),
        })
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn question(to: Mac, ip: Ipv4Addr) -> Vec<u8> {
    let datagram = Datagram {
        mac: (MAC, to),
        ip: (ADDRESS, ip),
        port: (CLOSED, CLOSED),
    };
    udp4(&datagram, b"may I?")
}
