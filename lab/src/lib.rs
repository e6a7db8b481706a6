//! The laboratory: hosts as network namespaces with a tenant fabric and a separate management
//! fabric, real QEMU guests, guests that are namespaces on a veth, clients that hold and check TCP
//! counter streams, captured and injected frames.
//!
//! The demo, the tests and the benches share it. A [`Lab`] leaves nothing behind: its guard cleans
//! up on a return and on a panic, a signal handler on Ctrl-C and SIGTERM, the kernel ends its
//! processes when the owner dies, and the next lab removes what a killed owner left.
#![forbid(unsafe_code)]

pub mod command;
pub mod debian;
pub mod demo;
pub mod frame;
mod freezer;
pub mod guest;
pub mod host;
pub mod image;
mod initramfs;
pub mod libvirt;
pub mod machine;
pub mod netns;
pub mod qcow2;
pub mod qmp;
mod residue;
pub mod site;
pub mod stream;
pub mod trial;
mod tripwire;
pub mod wait;

pub use command::Process;
pub use frame::{Capture, Frame, Way, inject};
pub use freezer::Freezer;
pub use guest::{
    GuestSpec, Landing, MigrateOptions, MigrateReport, Nic, NsGuest, QemuGuest, Service, Vnic,
};
pub use host::{Host, Lab, Node};
pub use image::Image;
pub use libvirt::Libvirt;
pub use machine::{Machine, Said};
pub use netns::Netns;
pub use qmp::{Event, Qmp};
pub use residue::clean_stale;
pub use stream::{
    ConnectOutcome, CounterServer, CounterStream, EchoServer, StreamLog, StreamReport, connect,
    udp_request, udp_send,
};
pub use trial::{Run, Trial, TrialReport};
pub use tripwire::Tripwire;

/// Says whether a test that needs root may run.
///
/// # Panics
/// Without root, unless `LICTOR_SKIP_PRIVILEGED=1` is set; then it prints that the test is skipped.
#[must_use]
pub fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var("LICTOR_SKIP_PRIVILEGED").is_ok_and(|value| value == "1"),
        "this test needs root; run it as root, or set LICTOR_SKIP_PRIVILEGED=1 to leave it out"
    );
    eprintln!("SKIPPED: this test needs root and LICTOR_SKIP_PRIVILEGED=1 is set");
    false
}

/// Whether the long variants of tests are wanted, too: `LICTOR_FULL=1`.
#[must_use]
pub fn full() -> bool {
    std::env::var("LICTOR_FULL").is_ok_and(|value| value == "1")
}
