//! The mirror of `bpf/abi.h`. A test parses the header and compares.

pub(crate) const ABI: u32 = 1;
pub(crate) const COUNTERS_PER_DIRECTION: u32 = 128;
pub(crate) const SLOTS: u32 = 2;
pub(crate) const ADDRESS_PREFIX_BASE: u32 = 64;
pub(crate) const ATOM_ENTRIES: u32 = 5 * 65_536;
pub(crate) const ATOM_MASK: u32 = 0xffff;
pub(crate) const ATOM_FIRST: u32 = 0x8000_0000;
pub(crate) const ATOM_PRESENT: u32 = 0x4000_0000;
pub(crate) const RULE_COUNTERS_MAX: u32 = 131_072;
pub(crate) const EVENTS_BYTES: u32 = 1_048_576;
pub(crate) const HOST_EVENTS_LOST: u32 = 0;
pub(crate) const HOST_RULES_UNCOUNTED: u32 = 1;
pub(crate) const HOST_COUNTERS: u32 = 2;
pub(crate) const HOOK_TCX: u32 = 1;
pub(crate) const HOOK_CLSACT: u32 = 2;

/// A value that crosses into the kernel as bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding that is not a field, and every bit pattern is a value.
pub(crate) unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident($size:literal) { $($field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(crate) struct $name { $(pub(crate) $field: $kind,)* }
        const _: () = assert!(size_of::<$name>() == $size && size_of::<$name>() == 0 $(+ size_of::<$kind>())*);
        // SAFETY: repr(C); the assertion above shows that the fields fill the whole size; they are
        // integers and arrays of integers or other plain structs.
        unsafe impl Plain for $name {}
    )*};
}

// SAFETY: integers have neither padding nor forbidden values.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

plain! {
    AddressKey(28) { prefix_bits: u32, segment: u32, family: u32, address: [u8; 16], }
    AddressValue(16) { identity: u32, vnic: u32, epoch: u64, }
    DecisionKey(12) { local: u32, peer: u32, atom: u16, direction: u8, pad: u8, }
    DecisionValue(8) { rule: u32, verdict: u8, log: u8, pad: [u8; 2], }
    ReleaseInfo(64) {
        generation: u64, epoch: u64, digest: [u8; 32],
        addresses: u32, atoms: u32, decisions: u32, pad: u32,
    }
    RuleCounter(24) { packets: u64, bytes: u64, sessions: u64, }
    VnicConfig(96) {
        state: u32, vnic: u32, segment: u32, ifindex: u32,
        mac: [u8; 6], pad: [u8; 2],
        clock_offset_ns: u64, attached_at_ns: u64, device_base: [u64; 2],
        sessions_max: u32, hook: u32, device: [u8; 16], name: [u8; 16],
    }
    Counter(16) { packets: u64, bytes: u64, }
    EventBudget(16) { second: u64, used: u64, }
    SessionKey(44) {
        local: [u8; 16], remote: [u8; 16], segment: u32,
        local_port: u16, remote_port: u16, protocol: u8, pad: [u8; 3],
    }
    SessionEnd(16) {
        end: u32, end_max: u32, window_max: u32, scale: u8, flags: u8, pad: [u8; 2],
    }
    Session(120) {
        last_seen_ns: u64, expires_ns: u64, version: u64, generation: u64,
        local_epoch: u64, remote_epoch: u64, packets: [u64; 2], bytes: [u64; 2],
        tcp: [SessionEnd; 2], rule: u32, state: u8, opened: u8, pad: [u8; 2],
    }
    Event(80) {
        time_ns: u64, generation: u64, key: SessionKey,
        vnic: u32, rule: u32, length: u32, ether_type: u16,
        direction: u8, verdict: u8, reason: u8, pad: [u8; 3],
    }
}
