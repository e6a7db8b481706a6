//! The mirror of `bpf/abi.h`. A test parses the header and compares.

use lictor_types::{MORE_MACS_MAX, SHARED_PER_VNIC_MAX, VLANS_PER_VNIC_MAX, VNICS_PER_HOST_MAX};

pub(crate) const ABI: u32 = 8;
pub(crate) const COUNTERS_PER_DIRECTION: u32 = 128;
pub(crate) const COUNTER_STEERED: u32 = 0;
pub(crate) const PREFIX_LENGTHS_MAX: usize = 4;
pub(crate) const PREFIX_LENGTHS_TRIE: u8 = 255;
pub(crate) const SLOTS: u32 = 2;
pub(crate) const ADDRESS_PREFIX_BASE: u32 = 32;
pub(crate) const ADDRESS_FAMILY_SHIFT: u32 = 24;
pub(crate) const FIXED_STEPS: usize = 4;
pub(crate) const FIXED_KEYS: usize = 6;
pub(crate) const ADDRESS_BUCKET_ENTRIES: usize = 3;
pub(crate) const DECISION_BUCKET_ENTRIES: usize = 4;
pub(crate) const DECISION_DIRECTION_SHIFT: u32 = 16;
pub(crate) const DECISION_SHAPE_ANY_ATOM: u32 = 1;
pub(crate) const DECISION_SHAPE_ANY_PEER: u32 = 2;
pub(crate) const ATOM_BLOCK_PORTS: usize = 1_024;
pub(crate) const ATOM_BLOCKS: usize = 8 * 65_536 / ATOM_BLOCK_PORTS;
pub(crate) const ATOM_MASK: u32 = 0xffff;
pub(crate) const ATOM_FIRST: u32 = 0x8000_0000;
pub(crate) const ATOM_PRESENT: u32 = 0x4000_0000;
pub(crate) const ADDRESS_OBSERVE: u32 = 1;
pub(crate) const ADDRESS_ROUTED: u32 = 2;
pub(crate) const ADDRESS_SHARED: u32 = 4;
pub(crate) const VERDICT_NONE: u8 = 255;
pub(crate) const EVENTS_BYTES: u32 = 1_048_576;
pub(crate) const HOST_EVENTS_LOST: u32 = 0;
pub(crate) const HOST_RULES_UNCOUNTED: u32 = 1;
pub(crate) const HOST_EVENTS_LIMITED: u32 = 2;
pub(crate) const HOST_COUNTERS: u32 = 3;
pub(crate) const SEGMENT_MAX: u32 = 0xff_ffff;
pub(crate) const TABLE_HALF_OPEN: u32 = 2;
pub(crate) const TABLES: u32 = 3;
pub(crate) const TABLE_HEARD: u32 = 3;
pub(crate) const HEARD_SHIFT: u32 = 8;
pub(crate) const BUCKET_SLOTS: usize = 7;
pub(crate) const BUCKET_STEPS: u32 = 16;
pub(crate) const STRIDE_MAX: u32 = 0x1000_0000;
pub(crate) const STRIDE_SHIFT: u32 = 5;
pub(crate) const HASH_WORDS: usize = 10;
pub(crate) const HASH_MIX: u64 = 0x9fb2_1c65_1e98_df25;
pub(crate) const SLOT_CLAIMED: u64 = 1;
pub(crate) const SLOT_LIVE: u64 = 2;
pub(crate) const SLOT_DEAD: u64 = 3;
pub(crate) const CONTROL_STATE_MASK: u64 = 0xf;
pub(crate) const CONTROL_PASSED_SHIFT: u32 = 4;
pub(crate) const CONTROL_PASSED_MASK: u64 = 0xf;
pub(crate) const CONTROL_STAMP_SHIFT: u32 = 8;
pub(crate) const CONTROL_STAMP_MASK: u32 = 0xff_ffff;
pub(crate) const SLOT_REST_TICKS: u32 = 32;
pub(crate) const TABLE_CURRENT_MASK: u32 = 1;
pub(crate) const TABLE_DRAINING: u32 = 2;
pub(crate) const TIMEOUT_TCP: usize = 0;
pub(crate) const TIMEOUT_SCTP: usize = 8;
pub(crate) const TIMEOUT_UDP: usize = 16;
pub(crate) const TIMEOUT_ICMP: usize = 18;
pub(crate) const TIMEOUT_OTHER: usize = 19;
pub(crate) const TIMEOUTS: usize = 24;
pub(crate) const LOCALS_MAX: u32 = VNICS_PER_HOST_MAX;
pub(crate) const LOCAL_PLACE_SHIFT: u32 = 19;
pub(crate) const LOCAL_PLACE_MIX: u32 = 0x9e37_79b1;
pub(crate) const LOCAL_PLACE_STEPS: u32 = 16;
pub(crate) const LOCAL_PLACES: u32 = 8_207;
pub(crate) const FIRST_RULES_EACH: usize = 2;
pub(crate) const RULE_SLOT_TAKEN: u64 = 0x1_0000_0000;
pub(crate) const ENDPOINT_GUEST: u16 = 0;
pub(crate) const ENDPOINT_HOST: u16 = 1;
pub(crate) const MODE_ENFORCE: u16 = 0;
pub(crate) const MODE_OBSERVE: u16 = 1;
pub(crate) const MODE_TRIAL: u16 = 2;
pub(crate) const TERMS_STALE: u32 = 1;
pub(crate) const HOOK_TCX: u32 = 1;
pub(crate) const HOOK_CLSACT: u32 = 2;

/// Spreads the upper half of a keyed sum over all bits, as `bpf/abi.h` says.
#[inline]
pub(crate) fn hash_mixed(mut sum: u64) -> u64 {
    sum ^= sum >> 32;
    sum = sum.wrapping_mul(HASH_MIX);
    sum ^ (sum >> 29)
}

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
        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$kind>())*);
        // SAFETY: repr(C); the assertion above shows that the fields fill the whole size; they are
        // integers and arrays of integers or other plain structs.
        unsafe impl Plain for $name {}
    )*};
}

// SAFETY: integers have neither padding nor forbidden values.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

// SAFETY: as above.
unsafe impl Plain for [u64; 4] {}

/// The atoms of a run of ports.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AtomBlock {
    pub(crate) ports: [u32; ATOM_BLOCK_PORTS],
}

impl Default for AtomBlock {
    fn default() -> Self {
        Self {
            ports: [0; ATOM_BLOCK_PORTS],
        }
    }
}

// SAFETY: one array of integers.
unsafe impl Plain for AtomBlock {}

plain! {
    AddressKey(24) { prefix_bits: u32, place: u32, address: [u8; 16], }
    AddressValue(16) { identity: u32, vnic: u32, epoch: u32, flags: u32, }
    AddressEntry(40) { key: AddressKey, value: AddressValue, }
    AddressBucket(128) {
        entries: [AddressEntry; ADDRESS_BUCKET_ENTRIES], passed: u32, pad: u32,
    }
    Decision(32) {
        local: u32, peer: u32, what: u32, rule: u32, would_rule: u32, limit: u32, log_limit: u16,
        verdict: u8, log: u8, would: u8, passed: u8, pad: [u8; 2],
    }
    DecisionBucket(128) { entries: [Decision; DECISION_BUCKET_ENTRIES], }
    PrefixLengths(8) { count: u8, bits: [u8; 7], }
    ReleaseInfo(152) {
        generation: u64, epoch: u64, digest: [u8; 32],
        addresses: u32, atoms: u32, decisions: u32, shapes: u32,
        lengths: [PrefixLengths; 2], fixed_keys: [u64; FIXED_KEYS + 1],
        host_buckets: u32, prefix_buckets: u32, decision_buckets: u32, pad: u32,
    }
    RuleState(48) {
        packets: u64, bytes: u64, sessions: u64, observed: u64, limit: u64, log_limit: u64,
    }
    RuleSlot(64) { rule: u64, state: RuleState, later: u64, }
    RuleSet(128) { slots: [RuleSlot; FIRST_RULES_EACH], }
    Vlan(8) { segment: u32, id: u16, pad: u16, }
    VnicConfig(192) {
        state: u32, vnic: u32, segment: u32, ifindex: u32,
        mac: [u8; 6], roles: u8, pad: u8,
        clock_offset_ns: u64, clock_fixed_ns: u64, attached_at_ns: u64, device_base: [u64; 2],
        sessions_max: u32, hook: u32, device: [u8; 16], name: [u8; 16],
        vlans: [Vlan; VLANS_PER_VNIC_MAX], more_macs: [[u8; 8]; MORE_MACS_MAX],
        shared: [u32; SHARED_PER_VNIC_MAX], place: u32,
        endpoint: u16, mode: u16, trial_until_ns: u64,
    }
    Terms(32) { lease_until_ns: u64, adopt_until_ns: u64, proof: u64, flags: u32, pad: u32, }
    HostTimeouts(96) { seconds: [u32; TIMEOUTS], }
    Clock(64) { jiffies: u64, now_ns: u64, pad: [u64; 6], }
    Local(40) {
        vnic: u32, ifindex: u32, state: u32, mtu: u32, bridge: u32, refresh: u32,
        mac: [u8; 6], pad: [u8; 2], bridged: u32, alive: u32,
    }
    FragmentKey(44) {
        source: [u8; 16], destination: [u8; 16], id: u32, segment: u32,
        protocol: u8, direction: u8, pad: [u8; 2],
    }
    Fragment(64) {
        expires_ns: u64, session: SessionKey,
        end: u32, rule: u32, version: u32, sequence: u32,
    }
    Counter(16) { packets: u64, bytes: u64, }
    EventBudget(16) { second: u64, used: u64, }
    SessionKey(40) {
        local: [u8; 16], remote: [u8; 16], local_port: u16, remote_port: u16, domain: u32,
    }
    SessionEnd(16) {
        end: u32, end_max: u32, window_max: u32, acked: u32,
    }
    Session(104) {
        expires_ns: u64, packets: [u64; 2], bytes: [u64; 2], tcp: [SessionEnd; 2],
        seen: u32, version: u32, generation: u32, rule: u32, local_epoch: u32, remote_epoch: u32,
        state: u8, opened: u8, peer: u16, scale: [u8; 2], flags: [u8; 2],
    }
    Slot(144) { key: SessionKey, session: Session, }
    Bucket(1088) {
        control: [u64; BUCKET_SLOTS], passed: u32, heard: u32,
        slots: [Slot; BUCKET_SLOTS], pad2: [u64; 2],
    }
    TableInfo(192) {
        hash_keys: [u64; HASH_WORDS + 1], buckets: [u32; TABLES as usize], current: u32,
        promotions: u32, copied: u32, pad: [u32; 4], live: u32, hand: u32, pad2: [u32; 14],
    }
    Event(80) {
        time_ns: u64, generation: u64, key: SessionKey,
        vnic: u32, rule: u32, would_rule: u32, length: u32, ether_type: u16,
        direction: u8, verdict: u8, reason: u8, would: u8, pad: [u8; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_types::{
        AtomId, Direction, IdentityId, Protocol, Reason, Role, TcpState, Timeouts, Verdict,
        VnicState,
    };
    use std::collections::BTreeMap;

    const HEADER: &str = include_str!("../../../bpf/abi.h");

    /// The numbers that the header defines.
    fn defines() -> BTreeMap<&'static str, u64> {
        let lines = HEADER
            .lines()
            .filter_map(|line| line.strip_prefix("#define "));
        lines
            .filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                let value = value.split(" /*").next()?.trim();
                let parsed = match value.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => value.parse(),
                };
                Some((name, parsed.ok()?))
            })
            .collect()
    }

    fn check(name: &str, expected: impl Into<u64>) {
        assert_eq!(
            defines().get(name).copied(),
            Some(expected.into()),
            "{name}"
        );
    }

    #[test]
    fn reasons_equal_those_of_the_header() {
        let reasons: BTreeMap<String, u64> = Reason::ALL
            .iter()
            .map(|reason| {
                (
                    reason.name().replace('-', "_").to_uppercase(),
                    *reason as u64,
                )
            })
            .collect();
        let header: BTreeMap<String, u64> = defines()
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("REASON_")?.to_owned(), value)))
            .filter(|(name, _)| name != "DENY_FIRST")
            .collect();
        assert_eq!(reasons, header);
        check("REASON_DENY_FIRST", Reason::PolicyDeny as u8);
    }

    #[test]
    fn words_equal_those_of_the_header() {
        check("DIRECTION_EGRESS", Direction::Egress as u8);
        check("DIRECTION_INGRESS", Direction::Ingress as u8);
        check("VERDICT_DENY", Verdict::Deny as u8);
        check("VERDICT_ALLOW", Verdict::Allow as u8);
        check("VERDICT_REJECT", Verdict::Reject as u8);
        check("VNIC_HOLD", VnicState::Hold as u32);
        check("VNIC_OPEN", VnicState::Open as u32);
        check("VNIC_HANDED_OVER", VnicState::HandedOver as u32);
        check("VNIC_CUT", VnicState::Cut as u32);
        check("STATE_UNREPLIED", TcpState::Unreplied as u8);
        check("STATE_SYN_RECEIVED", TcpState::SynReceived as u8);
        check("STATE_ESTABLISHED", TcpState::Established as u8);
        check("STATE_FIN_WAIT", TcpState::FinWait as u8);
        check("STATE_TIME_WAIT", TcpState::TimeWait as u8);
        check("STATE_CLOSED", TcpState::Closed as u8);
        for protocol in Protocol::ALL {
            let name = format!("PROTOCOL_{}", protocol.to_string().to_uppercase());
            check(&name, protocol as u8);
        }
    }

    #[test]
    fn timeouts_equal_those_of_the_header() {
        for (name, seconds) in Timeouts::default().named() {
            check(&format!("TIMEOUT_{}_S", name.to_uppercase()), seconds);
        }
    }

    #[test]
    fn numbers_equal_those_of_the_header() {
        check("LICTOR_ABI", ABI);
        check("COUNTERS_PER_DIRECTION", COUNTERS_PER_DIRECTION);
        check("COUNTER_STEERED", COUNTER_STEERED);
        check("PREFIX_LENGTHS_MAX", PREFIX_LENGTHS_MAX as u64);
        check("PREFIX_LENGTHS_TRIE", PREFIX_LENGTHS_TRIE);
        check("SLOTS", SLOTS);
        check("ADDRESS_PREFIX_BASE", ADDRESS_PREFIX_BASE);
        check("ADDRESS_FAMILY_SHIFT", ADDRESS_FAMILY_SHIFT);
        check("FIXED_STEPS", FIXED_STEPS as u64);
        check("FIXED_KEYS", FIXED_KEYS as u64);
        check("ADDRESS_BUCKET_ENTRIES", ADDRESS_BUCKET_ENTRIES as u64);
        check("DECISION_BUCKET_ENTRIES", DECISION_BUCKET_ENTRIES as u64);
        check("DECISION_DIRECTION_SHIFT", DECISION_DIRECTION_SHIFT);
        check("DECISION_SHAPE_ANY_ATOM", DECISION_SHAPE_ANY_ATOM);
        check("DECISION_SHAPE_ANY_PEER", DECISION_SHAPE_ANY_PEER);
        check("DECISION_ANY_PEER", IdentityId::ANY.0);
        check("DECISION_ANY_ATOM", AtomId::ANY.0);
        check("ATOM_MASK", ATOM_MASK);
        check("ATOM_FIRST", ATOM_FIRST);
        check("ATOM_PRESENT", ATOM_PRESENT);
        let first = defines()["FIRST_RULE_SETS"] * FIRST_RULES_EACH as u64;
        check(
            "LATER_RULES",
            u64::from(lictor_types::RULES_PER_VNIC_MAX) - first,
        );
        let events = lictor_types::EVENTS_PER_VNIC_PER_SECOND;
        check("EVENTS_PER_VNIC_PER_SECOND", events);
        check("ADDRESS_OBSERVE", ADDRESS_OBSERVE);
        check("ADDRESS_ROUTED", ADDRESS_ROUTED);
        check("ADDRESS_SHARED", ADDRESS_SHARED);
        check("VERDICT_NONE", VERDICT_NONE);
        check("HOST_EVENTS_LIMITED", HOST_EVENTS_LIMITED);
        check("EVENTS_BYTES", EVENTS_BYTES);
        check("HOST_EVENTS_LOST", HOST_EVENTS_LOST);
        check("HOST_RULES_UNCOUNTED", HOST_RULES_UNCOUNTED);
        check("HOST_COUNTERS", HOST_COUNTERS);
        check("SEGMENT_MAX", SEGMENT_MAX);
        check("TABLE_HALF_OPEN", TABLE_HALF_OPEN);
        check("TABLES", TABLES);
        check("TABLE_HEARD", TABLE_HEARD);
        check("HEARD_SHIFT", HEARD_SHIFT);
        check("BUCKET_SLOTS", BUCKET_SLOTS as u64);
        check("BUCKET_STEPS", BUCKET_STEPS);
        check("STRIDE_MAX", STRIDE_MAX);
        check("STRIDE_SHIFT", STRIDE_SHIFT);
        check("HASH_WORDS", HASH_WORDS as u64);
        check("HASH_MIX", HASH_MIX);
        check("SLOT_CLAIMED", SLOT_CLAIMED);
        check("SLOT_LIVE", SLOT_LIVE);
        check("SLOT_DEAD", SLOT_DEAD);
        check("CONTROL_STATE_MASK", CONTROL_STATE_MASK);
        check("CONTROL_PASSED_SHIFT", CONTROL_PASSED_SHIFT);
        check("CONTROL_PASSED_MASK", CONTROL_PASSED_MASK);
        check("CONTROL_STAMP_SHIFT", CONTROL_STAMP_SHIFT);
        check("CONTROL_STAMP_MASK", CONTROL_STAMP_MASK);
        check("SLOT_REST_TICKS", SLOT_REST_TICKS);
        check("TABLE_CURRENT_MASK", TABLE_CURRENT_MASK);
        check("TABLE_DRAINING", TABLE_DRAINING);
        check("LOCALS_MAX", LOCALS_MAX);
        check("LOCAL_PLACE_SHIFT", LOCAL_PLACE_SHIFT);
        check("LOCAL_PLACE_MIX", LOCAL_PLACE_MIX);
        check("LOCAL_PLACE_STEPS", LOCAL_PLACE_STEPS);
        check("LOCAL_PLACES", LOCAL_PLACES);
        check("FIRST_RULES_EACH", FIRST_RULES_EACH as u64);
        check("RULE_SLOT_TAKEN", RULE_SLOT_TAKEN);
        check("ENDPOINT_GUEST", ENDPOINT_GUEST);
        check("ENDPOINT_HOST", ENDPOINT_HOST);
        check("MODE_ENFORCE", MODE_ENFORCE);
        check("MODE_OBSERVE", MODE_OBSERVE);
        check("MODE_TRIAL", MODE_TRIAL);
        check("TERMS_STALE", TERMS_STALE);
        check("HOOK_TCX", HOOK_TCX);
        check("TIMEOUT_TCP", TIMEOUT_TCP as u64);
        check("TIMEOUT_SCTP", TIMEOUT_SCTP as u64);
        check("TIMEOUT_UDP", TIMEOUT_UDP as u64);
        check("TIMEOUT_ICMP", TIMEOUT_ICMP as u64);
        check("TIMEOUT_OTHER", TIMEOUT_OTHER as u64);
        check("TIMEOUTS", TIMEOUTS as u64);
        check("HOOK_CLSACT", HOOK_CLSACT);
        check("VLANS_MAX", VLANS_PER_VNIC_MAX as u64);
        check("MORE_MACS_MAX", MORE_MACS_MAX as u64);
        check("SHARED_MAX", SHARED_PER_VNIC_MAX as u64);
        check("ROLE_ROUTER", Role::Router as u8);
        check("ROLE_DHCP_SERVER", Role::DhcpServer as u8);
        check(
            "PROTOCOL_CLASSES",
            (ATOM_BLOCKS * ATOM_BLOCK_PORTS / 65_536) as u64,
        );
        check("ATOM_BLOCK_PORTS", ATOM_BLOCK_PORTS as u64);
    }
}
