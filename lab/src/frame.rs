//! Raw frames: injected with any source, captured with their time.

use crate::netns::Netns;
use anyhow::{Context, Result};
use lictor_types::Mac;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A capture keeps this many frames and counts the rest.
pub const CAPTURE_MAX: usize = 1_000_000;

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of RARP, with which QEMU announces a guest that has moved.
pub const RARP: u16 = 0x8035;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

const HEAD: usize = 128;

/// Which way a frame passed the captured device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It came out of the device: from whatever is at the device's other end.
    Received,
    /// It went into the device.
    Sent,
}

/// `sll_pkttype` of a frame that the captured device sends (packet(7)).
const PACKET_OUTGOING: u8 = 4;

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Which way.
    pub way: Way,
    /// When it passed, by the kernel's wall clock: frames of several captures, and QEMU's events,
    /// can be put in order by it.
    pub wall: SystemTime,
    /// Who sent it, by its header.
    pub source: Mac,
    /// Whom it is for.
    pub destination: Mac,
    /// Such as [`IPV4`].
    pub ethertype: u16,
    /// Its whole length.
    pub length: usize,
    /// Its first 128 bytes.
    pub head: Vec<u8>,
}

/// A socket that receives all frames of one device and can send any, and the device's number. Until
/// it is bound it receives those of every device: whoever reads looks at the number.
fn open(netns: &Netns, device: &str) -> Result<(OwnedFd, usize)> {
    netns.run(|| {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("cannot open a packet socket; the lab needs root")?;
        let address = link_address(device)?;
        bind(fd.as_raw_fd(), &address).with_context(|| format!("cannot bind to {device}"))?;
        Ok((fd, address.ifindex()))
    })
}

fn link_address(device: &str) -> Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device} here"))
}

/// Sends frames as they are, from a device in a namespace.
///
/// # Errors
/// No such device, or it is down.
pub fn inject(netns: &Netns, device: &str, frames: &[Vec<u8>]) -> Result<()> {
    let (fd, _) = open(netns, device)?;
    for frame in frames {
        send(fd.as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("cannot send a frame on {device}"))?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Caught {
    frames: Vec<Frame>,
    missed: usize,
}

/// Records every frame that passes a device, both ways, until it drops.
#[derive(Debug)]
pub struct Capture {
    caught: Arc<Mutex<Caught>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Capture {
    /// Starts to record.
    ///
    /// # Errors
    /// No such device.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        let (fd, device) = open(netns, device)?;
        // So that the thread notices its stop flag on a silent device.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        let caught = Arc::new(Mutex::new(Caught::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&caught), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Some((passed, bytes)) = receive(&fd, &mut buffer)
                    && passed.device == Some(device)
                {
                    keep(&shared, passed, bytes);
                }
            }
        });
        Ok(Self {
            caught,
            stop,
            thread: Some(thread),
        })
    }

    /// The frames so far.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.caught
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .frames
            .clone()
    }

    /// How many frames came after [`CAPTURE_MAX`] was reached.
    #[must_use]
    pub fn missed(&self) -> usize {
        self.caught
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .missed
    }

    /// The frames that bear this source address.
    #[must_use]
    pub fn from_mac(&self, source: Mac) -> Vec<Frame> {
        let mut frames = self.frames();
        frames.retain(|frame| frame.source == source);
        frames
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            eprintln!("lab: a capture thread panicked");
        }
    }
}

/// How a frame passed the device.
#[derive(Debug, Clone, Copy)]
struct Passed {
    device: Option<usize>,
    way: Way,
    wall: SystemTime,
}

/// The next frame, if one comes before the socket's time-out.
fn receive<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> Option<(Passed, &'a [u8])> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let (length, passed) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let (flags, fd) = (MsgFlags::empty(), fd.as_raw_fd());
        let message = recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut control), flags).ok()?;
        let outgoing = message
            .address
            .is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
        let way = if outgoing { Way::Sent } else { Way::Received };
        let stamp = message.cmsgs().ok()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
            _ => None,
        });
        let wall = SystemTime::UNIX_EPOCH + stamp?;
        let device = message.address.map(|from| from.ifindex());
        (message.bytes, Passed { device, way, wall })
    };
    Some((passed, &buffer[..length]))
}

fn keep(caught: &Mutex<Caught>, passed: Passed, bytes: &[u8]) {
    let Some(frame) = parse(passed, bytes) else {
        return;
    };
    let mut caught = caught.lock().unwrap_or_else(PoisonError::into_inner);
    if caught.frames.len() < CAPTURE_MAX {
        caught.frames.push(frame);
    } else {
        caught.missed += 1;
    }
}

fn parse(passed: Passed, bytes: &[u8]) -> Option<Frame> {
    let destination = bytes.get(0..6)?.try_into().ok()?;
    let source = bytes.get(6..12)?.try_into().ok()?;
    let ethertype = u16::from_be_bytes(bytes.get(12..14)?.try_into().ok()?);
    Some(Frame {
        way: passed.way,
        wall: passed.wall,
        source: Mac(source),
        destination: Mac(destination),
        ethertype,
        length: bytes.len(),
        head: bytes[..bytes.len().min(HEAD)].to_vec(),
    })
}

/// What an injected datagram says about itself, true or not.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<A> {
    /// Ethernet source and destination.
    pub mac: (Mac, Mac),
    /// IP source and destination.
    pub ip: (A, A),
    /// UDP source and destination ports.
    pub port: (u16, u16),
}

fn ethernet(mac: (Mac, Mac), ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend_from_slice(&mac.1.0);
    frame.extend_from_slice(&mac.0.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("an injected payload fits a datagram")
}

/// A UDP header and payload, summed with a pseudo header (RFC 768, RFC 8200 section 8.1).
fn udp(port: (u16, u16), payload: &[u8], addresses: &[u8]) -> Vec<u8> {
    let total = length(8 + payload.len());
    let mut segment = Vec::new();
    for word in [port.0, port.1, total, 0] {
        segment.extend_from_slice(&word.to_be_bytes());
    }
    segment.extend_from_slice(payload);
    let mut pseudo = addresses.to_vec();
    pseudo.extend_from_slice(&[0, 17]);
    pseudo.extend_from_slice(&total.to_be_bytes());
    pseudo.extend_from_slice(&segment);
    // A sum of zero would mean "no checksum".
    let sum = match checksum(&pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| (u32::from(pair[0]) << 8) + pair.get(1).map_or(0, |b| u32::from(*b));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// A UDP datagram over IPv4, whole with its Ethernet header.
#[must_use]
pub fn udp4(datagram: &Datagram<Ipv4Addr>, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (datagram.ip.0.octets(), datagram.ip.1.octets());
    let segment = udp(datagram.port, payload, &[source, destination].concat());
    let mut header = vec![0x45, 0];
    header.extend_from_slice(&length(20 + segment.len()).to_be_bytes());
    header.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend_from_slice(&source);
    header.extend_from_slice(&destination);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [ethernet(datagram.mac, IPV4), header, segment].concat()
}

/// A UDP datagram over IPv6, whole with its Ethernet header.
#[must_use]
pub fn udp6(datagram: &Datagram<Ipv6Addr>, payload: &[u8]) -> Vec<u8> {
    let addresses = [datagram.ip.0.octets(), datagram.ip.1.octets()].concat();
    let segment = udp(datagram.port, payload, &addresses);
    let mut header = vec![0x60, 0, 0, 0];
    header.extend_from_slice(&length(segment.len()).to_be_bytes());
    header.extend_from_slice(&[17, 64]);
    header.extend_from_slice(&addresses);
    [ethernet(datagram.mac, IPV6), header, segment].concat()
}

/// An ARP reply that claims `ip` for `claimed`, sent from `mac.0`.
#[must_use]
pub fn arp_reply(mac: (Mac, Mac), claimed: Mac, ip: (Ipv4Addr, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(mac, ARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend_from_slice(&claimed.0);
    frame.extend_from_slice(&ip.0.octets());
    frame.extend_from_slice(&mac.1.0);
    frame.extend_from_slice(&ip.1.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_example_of_rfc_1071() {
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    #[test]
    fn a_frame_parses_to_what_it_was_made_of() {
        let (from, to) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let datagram = Datagram {
            mac: (from, to),
            ip: (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)),
            port: (1, 2),
        };
        let passed = Passed {
            device: None,
            way: Way::Received,
            wall: SystemTime::UNIX_EPOCH,
        };
        let frame = parse(passed, &udp4(&datagram, b"hello")).expect("long enough");
        assert_eq!((frame.source, frame.destination), (from, to));
        assert_eq!((frame.ethertype, frame.length), (IPV4, 14 + 20 + 8 + 5));
        assert!(
            parse(passed, &[0; 13]).is_none(),
            "a cut Ethernet header is no frame"
        );
    }
}
