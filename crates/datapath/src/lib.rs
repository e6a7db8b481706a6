//! Load, attach, pin, read and write the kernel program and its maps.
//!
//! One [`Datapath`] per host, bound to a pin folder on a BPF file system. The pins outlive the
//! process: enforcement goes on without it, and [`Datapath::open`] finds everything again. All that
//! names a device acts in the calling thread's network namespace. `docs/data-plane.md` has the walk
//! of a packet and the layout of the maps.

mod abi;
mod error;
mod events;
mod explain;
mod fixed;
mod host;
mod kind;
mod link;
mod locals;
mod mirror;
mod netdev;
mod rounds;
mod sessions;
mod shared;
mod slots;
mod sys;
mod tables;
mod tally;
mod terms;
mod timeouts;
mod vnic;

pub use error::Error;
pub use events::Event;
pub use explain::Explanation;
pub use host::Datapath;
pub use mirror::{Mirror, SlotRecord};
pub use rounds::{Part, Told};
pub use sessions::{ImportReceipt, ImportRefusal};
pub use shared::{Features, mount_bpffs};
pub use tables::Loaded;
pub use terms::{Lease, Terms, proof_frame};
pub use vnic::{
    Attachment, Count, DeviceCounters, DirectionCounters, HookState, Hooks, How, RuleCount,
    TestVerdict, VnicCounters, VnicSpec, VnicStatus,
};

/// The compiled program, made by `build.rs` from `bpf/firewall.bpf.c`.
pub(crate) const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/firewall.bpf.o"));
