//! Limits that more than one crate must agree on. Units are last in each name.

/// Sessions per vnic unless its binding says otherwise.
pub const SESSIONS_PER_VNIC_DEFAULT: u32 = 16_384;
/// Sessions of all vnics of a host together, unless the host says otherwise: about 3.2 GB.
pub const SESSIONS_PER_HOST_DEFAULT: u64 = 16_777_216;
/// Vnics that one host may protect.
pub const VNICS_PER_HOST_MAX: u32 = 1_024;
/// Vnics of one guest.
pub const VNICS_PER_GUEST_MAX: usize = 16;
/// NICs of one guest that are named in one entry of evidence; the others are counted.
pub const NICS_TOLD_MAX: usize = 32;
/// Address entries in one host's tables.
pub const ADDRESSES_PER_HOST_MAX: u32 = 262_144;
/// Decisions in one host's tables: a release that needs more is refused, never cut.
pub const DECISIONS_PER_HOST_MAX: u32 = 262_144;
/// Port atoms over all protocols. The table is indexed by protocol class and port; 0 is no atom and
/// the largest number stands for all of them.
pub const ATOMS_MAX: u32 = 65_534;
/// Rules of which one vnic keeps counters and limits, at most; 4,096 it keeps whatever their
/// numbers.
pub const RULES_PER_VNIC_MAX: u32 = 6_144;
/// Events that one vnic reports in one second; what is more is counted as lost.
pub const EVENTS_PER_VNIC_PER_SECOND: u32 = 1_024;
/// The largest generation, epoch and count of loads that the kernel's tables hold.
pub const KERNEL_NUMBER_MAX: u64 = u32::MAX as u64;
/// Rules in one policy.
pub const RULES_MAX: usize = 65_536;
/// Bytes of policy text in one document.
pub const POLICY_TEXT_BYTES_MAX: usize = 16 << 20;
/// Bytes of one evidence entry: the tile format's length prefix is 16 bits wide.
pub const EVIDENCE_ENTRY_BYTES_MAX: usize = 65_535;
/// Bytes in one message between an agent and a manager, or between two agents.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of the record that `Save()` returns: QEMU refuses more than 1 MiB for each id.
pub const VMSTATE_BYTES_MAX: usize = 1 << 20;
/// Rules, reasons and packets wait at most this long in Load() before it fails and QEMU rolls back.
pub const LOAD_DEADLINE_MS: u64 = 2_000;
