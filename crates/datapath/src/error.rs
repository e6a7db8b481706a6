//! Why the data plane could not do what was asked.

use lictor_types::{TableError, TimeoutError, VnicId};
use std::{io, path::PathBuf};

/// Every failure of this crate. Nothing is half done: the last good tables and every attached vnic
/// stay as they were.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not use BPF.
    #[error("the kernel refuses BPF to this process; run as root, or with CAP_BPF, CAP_NET_ADMIN")]
    Permission(#[source] io::Error),
    /// The kernel is too old or was built without a part that is needed.
    #[error("this kernel lacks {feature}; Linux 6.1 or newer with BPF and cls_bpf is needed")]
    Kernel {
        /// What is missing.
        feature: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The pin folder is not on a BPF file system.
    #[error("{path} is not on a BPF file system; run `mount -t bpf bpf {path}`")]
    NotBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// Another build's programs guard vnics here, and nobody but it can read their sessions.
    #[error(
        "{path} holds vnics ({vnics}) of another layout of the maps than v{own}; they stay guarded \
         as they are; put the build that attached them back, move or end their guests, then start \
         this one"
    )]
    Layout {
        /// Where its pins are.
        path: PathBuf,
        /// How many vnics are attached there.
        vnics: usize,
        /// The layout of this build.
        own: u32,
    },
    /// A pin is missing or of another layout.
    #[error("the pin {path} cannot be {action}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{action} failed")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Rows that no hash tells apart, which does not happen by chance.
    #[error("the tables cannot be arranged in buckets; nothing was loaded; load them again")]
    Crowded,
    /// A time-out is outside the limits; those before stay.
    #[error(transparent)]
    Timeouts(#[from] TimeoutError),
    /// The kernel refused the program.
    #[error("the kernel refused the firewall program of vnic {vnic}")]
    Program {
        /// For which vnic.
        vnic: VnicId,
        /// What the loader said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// There is no such device in this network namespace.
    #[error("device {device} is not in this network namespace; create it before attaching")]
    NoDevice {
        /// The device.
        device: String,
    },
    /// The vnic is not attached here.
    #[error("vnic {vnic} is not attached on this host; attach it first")]
    UnknownVnic {
        /// The vnic.
        vnic: VnicId,
    },
    /// The device belongs to another vnic, or the host has no room for one more.
    #[error("vnic {vnic} cannot be attached: {why}")]
    Refused {
        /// The vnic.
        vnic: VnicId,
        /// Why.
        why: String,
    },
    /// Another host says that more sessions come than a table of this vnic's size has slots.
    #[error("sessions come for vnic {vnic} from slot {slot}; a table of its size has {slots}")]
    Slot {
        /// The vnic.
        vnic: VnicId,
        /// The slot at the other host.
        slot: u32,
        /// How many there may be.
        slots: usize,
    },
    /// The tables do not fit or contradict themselves.
    #[error("the tables cannot be loaded; the last good ones stay")]
    Tables(#[from] TableError),
    /// A row cannot be expressed in the kernel's tables.
    #[error("{row}: {why}; nothing was loaded")]
    Row {
        /// The row.
        row: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What the kernel holds is not what was written.
    #[error("the kernel's {table} differ from what was written; the last good tables stay")]
    ReadBack {
        /// Which table.
        table: &'static str,
    },
    /// No tables have been loaded.
    #[error("no tables are loaded on this host; load a release first")]
    NothingLoaded,
}

/// What a system call that did not succeed is told as.
pub(crate) fn failed(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { action, source }
}
