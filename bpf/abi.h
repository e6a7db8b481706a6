/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Everything that the kernel program and Rust share. crates/datapath/src/abi.rs mirrors it, and a
 * test parses this file and compares the numbers. Structs have explicit padding and a fixed size:
 * padding that nobody names would carry kernel stack into map keys. Integers are in host order
 * unless a comment says otherwise.
 */
#ifndef LICTOR_ABI_H
#define LICTOR_ABI_H

#include <linux/types.h>

/* Pins live below a folder of this name: a program of another layout never adopts them. */
#define LICTOR_ABI 8

/* Relative to the guest, always. */
#define DIRECTION_EGRESS 0
#define DIRECTION_INGRESS 1

#define VNIC_HOLD 0
#define VNIC_OPEN 1
#define VNIC_HANDED_OVER 2
#define VNIC_CUT 3

#define VERDICT_DENY 0
#define VERDICT_ALLOW 1
#define VERDICT_REJECT 2
#define VERDICT_NONE 255 /* rules in observe mode would have done nothing else */

/* Append-only, equal to crates/types/src/reason.rs. */
#define REASON_POLICY_ALLOW 1
#define REASON_SESSION 2
#define REASON_NEIGHBOUR 3
#define REASON_ANNOUNCEMENT 4
#define REASON_RELATED 5
#define REASON_OBSERVED 6
#define REASON_ANSWER 7
#define REASON_FRAGMENT_FOLLOWS 8
#define REASON_DHCP 9
#define REASON_ADOPTED 10
#define REASON_POLICY_DENY 16
#define REASON_DEFAULT_DENY 17
#define REASON_NO_RELEASE 18
#define REASON_HOLD 19
#define REASON_HANDED_OVER 20
#define REASON_CUT 21
#define REASON_REJECTED 22
#define REASON_LIMITED 23
#define REASON_UNPROVEN 24
#define REASON_STALE 25
#define REASON_SPOOFED_MAC 32
#define REASON_SPOOFED_ADDRESS 33
#define REASON_SPOOFED_NEIGHBOUR 34
#define REASON_FOREIGN_MAC 35
#define REASON_FOREIGN_ADDRESS 36
#define REASON_SPOOFED_LOCAL 37
#define REASON_SPOOFED_HARDWARE 38
#define REASON_ROGUE_SERVER 39
#define REASON_TRUNCATED 48
#define REASON_ETHER_TYPE 49
#define REASON_BAD_HEADER 50
#define REASON_FRAGMENT 51
#define REASON_EXTENSION_HEADER 52
#define REASON_VLAN 53
#define REASON_IP_OPTION 54
#define REASON_BAD_FRAGMENT 55
#define REASON_TINY_FRAGMENT 56
#define REASON_NO_SESSION 64
#define REASON_TCP_INVALID 65
#define REASON_SESSION_TABLE_FULL 66
#define REASON_UNRELATED 67
#define REASON_REVOKED 68
#define REASON_TCP_WINDOW 80
#define REASON_TCP_FLAGS 81
#define REASON_SCTP_INVALID 82

/* Reasons below this allow, all others deny. */
#define REASON_DENY_FIRST 16
/* Counters per direction: each packet has one reason, so what was seen is their sum. */
#define COUNTERS_PER_DIRECTION 128
/* Of those, the packets that were steered. */
#define COUNTER_STEERED 0

#define PROTOCOL_TCP 0
#define PROTOCOL_UDP 1
#define PROTOCOL_ICMP 2
#define PROTOCOL_ICMPV6 3
#define PROTOCOL_OTHER 4
#define PROTOCOL_SCTP 5
#define PROTOCOL_UDPLITE 6
#define PROTOCOL_ETHER 7
#define PROTOCOL_CLASSES 8

#define STATE_UNREPLIED 1
#define STATE_SYN_RECEIVED 2
#define STATE_ESTABLISHED 3
#define STATE_FIN_WAIT 4
#define STATE_TIME_WAIT 5
#define STATE_CLOSED 6

/* An ICMP echo has no ports: the identifier is the local one, and this is the remote one. */
#define ECHO_GUEST_ASKED 1
#define ECHO_GUEST_WAS_ASKED 2

/* Time-outs without a packet, in seconds, unless a host sets others.
 * Established TCP: RFC 5382 REQ-5 asks for at least 2 hours and 4 minutes.
 * UDP: RFC 4787 REQ-5 asks for at least 2 minutes. ICMP: RFC 5508 REQ-2 asks for 60 seconds.
 */
#define TIMEOUT_TCP_UNREPLIED_S 60
#define TIMEOUT_TCP_SYN_RECEIVED_S 60
#define TIMEOUT_TCP_ESTABLISHED_S 7440
#define TIMEOUT_TCP_FIN_WAIT_S 240
#define TIMEOUT_TCP_TIME_WAIT_S 60
#define TIMEOUT_TCP_CLOSED_S 10
#define TIMEOUT_UDP_UNREPLIED_S 30
#define TIMEOUT_UDP_ESTABLISHED_S 180
#define TIMEOUT_ICMP_S 60
#define TIMEOUT_SCTP_UNREPLIED_S 60
#define TIMEOUT_SCTP_SYN_RECEIVED_S 60
#define TIMEOUT_SCTP_ESTABLISHED_S 600
#define TIMEOUT_SCTP_FIN_WAIT_S 60
#define TIMEOUT_SCTP_TIME_WAIT_S 60
#define TIMEOUT_SCTP_CLOSED_S 10
#define TIMEOUT_OTHER_UNREPLIED_S 60
#define TIMEOUT_OTHER_ESTABLISHED_S 600
/* `timeouts`: a host's own, by these places. TCP and SCTP have one for each state. */
#define TIMEOUT_TCP 0
#define TIMEOUT_SCTP 8
#define TIMEOUT_UDP 16 /* unreplied, then established */
#define TIMEOUT_ICMP 18
#define TIMEOUT_OTHER 19
#define TIMEOUTS 24
struct timeouts {
	__u32 seconds[TIMEOUTS];
};
_Static_assert(sizeof(struct timeouts) == 96, "timeouts");

#define EXTENSION_HEADERS_MAX 4
#define IPV4_OPTIONS_BYTES_MAX 40
#define IPV6_OPTIONS_MAX 8
#define ND_OPTIONS_MAX 6
#define EVENTS_BYTES 1048576
/* A flooded guest must not push the events of its neighbours out of the shared ring. */
#define EVENTS_PER_VNIC_PER_SECOND 1024
#define RULES_FULL_NS 1000000000 /* until it is tried again to keep one more */
/* Answers to rejected packets that one vnic gets and gives in one second. */
#define ANSWERS_PER_SECOND 100
/* Answers on their way that are known by their bytes, a power of two, and for how long. */
#define ANSWER_MARKS 64
#define ANSWER_NS 1000000000
/* Times that a limit's second is tried to be written: another processor may be faster. */
#define LIMIT_TRIES 8

#define SLOTS 2
/* `active` is one aligned 8-byte value, so that a switch can't be seen half done: bit 0 is the
 * slot, the rest is the version, which only grows. Version 0 means that nothing was loaded.
 */
#define ACTIVE_SLOT_MASK 1
#define ACTIVE_VERSION_SHIFT 1

/* `addresses`: the longest prefix wins. The prefix counts segment and family too. The family keeps
 * a prefix such as ::/0 from covering IPv4, whose addresses are v4-mapped (RFC 4291, 2.5.5.2).
 */
#define ADDRESS_PREFIX_BASE 32
#define ADDRESS_FAMILY_SHIFT 24
struct address_key {
	__u32 prefix_bits;
	__u32 place; /* the segment; above it 4 or 6 */
	__u8 address[16];
};
_Static_assert(sizeof(struct address_key) == 24, "address_key");

struct address_value {
	__u32 identity;
	__u32 vnic; /* 0: outside every guest; of a shared address the group */
	__u32 epoch;
	__u32 flags; /* ADDRESS_* */
};
_Static_assert(sizeof(struct address_value) == 16, "address_value");
#define ADDRESS_OBSERVE 1 /* the guest is in observe mode */
#define ADDRESS_ROUTED 2 /* behind the guest, which forwards and claims nothing on the link */
#define ADDRESS_SHARED 4 /* every vnic of a group may use and claim it */

/* `hosts` and `decisions` never change within a release, so the loader arranges them once: buckets
 * of two cache lines in an array, found without a pointer to follow. An entry whose bucket is full
 * lies in the next, and a search ends at a bucket that nobody passed.
 *
 * `hosts` has two parts, each searched by itself: the addresses of full length, and behind them
 * the prefixes. Whoever is known by a prefix is looked for in the first part as well, which is
 * small and at hand where most are known so.
 */
#define FIXED_STEPS 4 /* buckets that an entry may lie in; a loader needs more of them otherwise */
#define FIXED_KEYS 6
#define ADDRESS_BUCKET_ENTRIES 3
struct address_entry {
	struct address_key key; /* all zero: none */
	struct address_value value;
};
_Static_assert(sizeof(struct address_entry) == 40, "address_entry");

struct address_bucket {
	struct address_entry entries[ADDRESS_BUCKET_ENTRIES];
	__u32 passed; /* whether an entry lies further on */
	__u32 pad;
};
_Static_assert(sizeof(struct address_bucket) == 128, "address_bucket");

/* `atoms`: the index is class * 64 + port / 1024, because a read-back of one entry a port takes a
 * tenth of a second. The flag marks the first port of a row, so that a read-back gives the rows as
 * they were loaded.
 */
#define ATOM_BLOCK_PORTS 1024
#define ATOM_BLOCKS (PROTOCOL_CLASSES * 65536 / ATOM_BLOCK_PORTS)
#define ATOM_MASK 0xffff
#define ATOM_FIRST 0x80000000
#define ATOM_PRESENT 0x40000000

struct atom_block {
	__u32 ports[ATOM_BLOCK_PORTS];
};
_Static_assert(sizeof(struct atom_block) == 4096, "atom_block");

/* A question that nothing more exact answers is answered by a row with one of these. */
#define DECISION_ANY_PEER 0xffffffff /* the unknown one, too */
#define DECISION_ANY_ATOM 0xffff /* but not what is in no atom */
/* A row's shape tells in which places it says "any"; the lower one is asked first. */
#define DECISION_SHAPE_ANY_ATOM 1
#define DECISION_SHAPE_ANY_PEER 2
#define DECISION_SHAPES 4
#define DECISION_DIRECTION_SHIFT 16
struct decision {
	__u32 local;
	__u32 peer;
	__u32 what; /* the atom, above it the direction; 0: there is no row here */
	__u32 rule; /* 0: the default deny, of which only rules in observe mode say something */
	__u32 would_rule;
	__u32 limit; /* new sessions in one second; 0: as many as come */
	__u16 log_limit; /* events in one second; 0: as many as the vnic may */
	__u8 verdict;
	__u8 log;
	__u8 would; /* a verdict, or VERDICT_NONE */
	__u8 passed; /* of a bucket's first row: whether another lies further on */
	__u8 pad[2];
};
_Static_assert(sizeof(struct decision) == 32, "decision");

#define DECISION_BUCKET_ENTRIES 4
struct decision_bucket {
	struct decision entries[DECISION_BUCKET_ENTRIES];
};
_Static_assert(sizeof(struct decision_bucket) == 128, "decision_bucket");

/* The lengths of one family's prefixes below the full one, longest first, of the 128 bits that an
 * address has here. As many as these are looked for one after the other, each by its hash; a family
 * with more has its prefixes in the trie.
 */
#define PREFIX_LENGTHS_MAX 4
#define PREFIX_LENGTHS_TRIE 255
struct prefix_lengths {
	__u8 count;
	__u8 bits[7];
};
_Static_assert(sizeof(struct prefix_lengths) == 8, "prefix_lengths");

struct release_info {
	__u64 generation;
	__u64 epoch;
	__u8 digest[32];
	__u32 addresses;
	__u32 atoms;
	__u32 decisions;
	__u32 shapes; /* a bit for each shape that a row has */
	struct prefix_lengths lengths[2]; /* of IPv4, of IPv6 */
	__u64 fixed_keys[FIXED_KEYS + 1]; /* of this release's hash */
	/* At which a search may begin; FIXED_STEPS - 1 more follow them. */
	__u32 host_buckets;
	__u32 prefix_buckets;
	__u32 decision_buckets;
	__u32 pad;
};
_Static_assert(sizeof(struct release_info) == 152, "release_info");

/* What the policy decided under a rule: packets that opened a session or were denied, and the
 * sessions. Packets inside a session are counted in the session only, which keeps the established
 * path at one entry.
 */
struct rule_state {
	__u64 packets;
	__u64 bytes;
	__u64 sessions;
	__u64 observed; /* packets that the rule would have decided, were it not for observe mode */
	__u64 limit; /* a second of the vnic's clock in the upper half, what was used of it below */
	__u64 log_limit; /* likewise, for events */
};
_Static_assert(sizeof(struct rule_state) == 48, "rule_state");

/* `first_rules`: the first two rules that come by one of these sets have their place there for
 * good, and are found without a kernel hash. Those that come later are in `rules`, and leave a bit
 * here: where a policy has many more rules than are kept, most searches there would be for nothing.
 */
#define FIRST_RULE_SETS 1024
#define FIRST_RULES_SHIFT 22
#define FIRST_RULES_MIX 0x9e3779b1
#define FIRST_RULES_EACH 2
#define LATER_RULES_MIX 0x85ebca6b
#define LATER_RULES_SHIFT 26
#define LATER_RULES 4096
#define RULE_SLOT_TAKEN 0x100000000 /* above the rule's number; zero: nobody's */
struct rule_slot {
	__u64 rule;
	struct rule_state state;
	__u64 later; /* of a set's first slot: a bit for each rule that went on to `rules` */
};
_Static_assert(sizeof(struct rule_slot) == 64, "rule_slot");

struct rule_set {
	struct rule_slot slots[FIRST_RULES_EACH];
};
_Static_assert(sizeof(struct rule_set) == 128, "rule_set");

#define HOST_EVENTS_LOST 0
#define HOST_RULES_UNCOUNTED 1
#define HOST_EVENTS_LIMITED 2 /* not reported, because their rule's limit was reached */
#define HOST_COUNTERS 3

#define VLANS_MAX 4
#define MORE_MACS_MAX 3
#define SHARED_MAX 4
#define ROLE_ROUTER 1
#define ROLE_DHCP_SERVER 2

struct vlan {
	__u32 segment;
	__u16 id; /* 0: none */
	__u16 pad;
};
_Static_assert(sizeof(struct vlan) == 8, "vlan");

struct vnic_config {
	__u32 state;
	__u32 vnic;
	__u32 segment;
	__u32 ifindex;
	__u8 mac[6];
	__u8 roles; /* ROLE_* */
	__u8 pad;
	__u64 clock_offset_ns; /* added to the clock: a test moves time without waiting */
	__u64 clock_fixed_ns; /* not zero: this is the clock, for tests that compare times */
	__u64 attached_at_ns;
	__u64 device_base[2]; /* the device's packets at attach, from the guest and toward it */
	__u32 sessions_max;
	__u32 hook; /* HOOK_* */
	__u8 device[16];
	__u8 name[16];
	struct vlan vlans[VLANS_MAX];
	__u8 more_macs[MORE_MACS_MAX][8]; /* six of them count; all zero: none */
	__u32 shared[SHARED_MAX]; /* groups of vnics whose addresses it may use; 0: none */
	__u32 place; /* one more than its place in `locals`; 0: it has none yet */
	__u16 endpoint; /* ENDPOINT_* */
	__u16 mode; /* MODE_* */
	__u64 trial_until_ns; /* of MODE_TRIAL */
};
_Static_assert(sizeof(struct vnic_config) == 192, "vnic_config");
#define ENDPOINT_GUEST 0
/* The hypervisor's own stack: what its device receives goes toward it. */
#define ENDPOINT_HOST 1
#define MODE_ENFORCE 0
/* What would be denied passes, and is counted under its reason all the same. */
#define MODE_OBSERVE 1
/* Enforced until a moment, then observed: who has cut himself off gets back in without help. */
#define MODE_TRIAL 2

/* `terms`: on which a conversation may begin at a vnic. Times are of the vnic's clock. */
#define TERMS_STALE 1 /* none may: a newer release is known than the one that decides */
struct terms {
	__u64 lease_until_ns; /* none may from then on; 0: whether or not anybody proves verdicts */
	__u64 adopt_until_ns; /* until then one that is under way may be taken up */
	__u64 proof; /* what the agent's own packets carry, so that they leave no trace */
	__u32 flags; /* TERMS_* */
	__u32 pad;
};
_Static_assert(sizeof(struct terms) == 32, "terms");

/* `locals`: the vnics of this host, each at a place that it keeps while it is attached. Whenever
 * one
 * comes or goes the version of the tables grows, so that every session looks anew where its peer
 * is.
 */
#define LOCALS_MAX 1024
struct local {
	__u32 vnic; /* 0: the place is free */
	__u32 ifindex;
	__u32 state; /* VNIC_*, as in its own value */
	__u32 mtu; /* of the device, when it was attached */
	__u32 bridge; /* ifindex of the bridge by which it may be steered to and from; 0: none */
	__u32 refresh; /* ticks after which a packet must go through the bridge again */
	__u8 mac[6];
	__u8 pad[2];
	__u32 bridged; /* tick of the last packet from it that went through the bridge on purpose */
	__u32 alive; /* tick of the last packet toward it */
};
_Static_assert(sizeof(struct local) == 40, "local");
/* Steering stops this long after the other end's device has taken its last packet. */
#define STEER_ALIVE_TICKS 512

/* `local_places`: from a vnic to its place in `locals`. An entry is the vnic, and above it one more
 * than its place; zero where nobody ever was, so that a search ends there. A kernel hash would take
 * longer than all else that is asked of a new session's peer.
 */
#define LOCAL_PLACE_SHIFT 19 /* of 32 bits: 8,192 entries at which a search begins */
#define LOCAL_PLACE_MIX 0x9e3779b1
#define LOCAL_PLACE_STEPS 16
#define LOCAL_PLACES 8207 /* those at the end have some behind them, too */

#define HOOK_TCX 1
#define HOOK_CLSACT 2

/* `clock`: the time at a tick of the kernel's, so that one packet of each tick asks for it. */
struct clock {
	__u64 jiffies;
	__u64 now_ns;
	__u64 pad[6];
};
_Static_assert(sizeof(struct clock) == 64, "clock");

struct counter {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct counter) == 16, "counter");

struct event_budget {
	__u64 second;
	__u64 used;
};
_Static_assert(sizeof(struct event_budget) == 16, "event_budget");

/* The number of an L2 domain has 24 bits, as in VXLAN (RFC 7348), so that the key is five words. */
#define SEGMENT_MAX 0xffffff
struct session_key {
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 protocol : 8;
	__u32 segment : 24;
};
_Static_assert(sizeof(struct session_key) == 40, "session_key");

/* `fragments`: one row for each datagram that is under way in pieces. */
#define FRAGMENTS_MAX 1024
/* RFC 8200, 4.5 gives a receiver 60 s; those that are in use give up after 30. */
#define FRAGMENT_TIMEOUT_S 30
struct fragment_key {
	__u8 source[16];
	__u8 destination[16];
	__u32 id;
	__u32 segment;
	__u8 protocol;
	__u8 direction;
	__u8 pad[2];
};
_Static_assert(sizeof(struct fragment_key) == 44, "fragment_key");

struct fragment {
	__u64 expires_ns;
	struct session_key session; /* of the conversation that it belongs to */
	__u32 end; /* bytes of the datagram up to the end of the last one that passed */
	__u32 rule;
	__u32 version; /* of the tables that allowed it */
	__u32 sequence; /* of TCP: the number of the datagram's first byte, were it payload */
};
_Static_assert(sizeof(struct fragment) == 64, "fragment");

#define END_KNOWN 1
#define END_FIN 2
#define END_SCALE_KNOWN 4
#define END_SCALE_OFFERED 8
#define END_ACKED 16 /* `acked` is what this end has acknowledged */
#define END_NOTED 32 /* `acked` is the end of a SYN of its own that was let through */
#define END_SACK 64 /* its SYN let the other end acknowledge blocks, or nobody told us */
struct session_end {
	__u32 end;
	__u32 end_max;
	__u32 window_max;
	__u32 acked;
};
_Static_assert(sizeof(struct session_end) == 16, "session_end");

struct session {
	__u64 expires_ns;
	__u64 packets[2];
	__u64 bytes[2];
	struct session_end tcp[2];
	__u32 seen; /* ticks of 2^20 ns, of the last packet; it wraps after 52 days */
	__u32 version; /* of the tables that allowed it; 0: the next packet decides again */
	__u32 generation;
	__u32 rule;
	__u32 local_epoch;
	__u32 remote_epoch;
	__u8 state;
	__u8 opened;
	__u16 peer; /* one more than the remote end's place in `locals`; 0: not on this host */
	__u8 scale[2];
	__u8 flags[2]; /* END_* */
};
_Static_assert(sizeof(struct session) == 104, "session");

/* `sessions`: three tables of buckets (table.h). Two take turns when one is replaced by a larger
 * one, the third holds conversations without an answer. Behind them lies, in values of the same
 * size, when each bucket of the first two was heard of.
 */
#define TABLE_HALF_OPEN 2
#define TABLES 3
#define TABLE_HEARD 3
#define HEARD_SHIFT 8 /* of so many buckets one value tells: 2^8 */
#define BUCKET_SLOTS 7
/* Buckets that a key may lie in. At full quota one insertion of a hundred thousand passes eight. */
#define BUCKET_STEPS 16
/* A step goes at most a sixteenth around all buckets, and more than half of that. */
#define STRIDE_MAX 0x10000000
#define STRIDE_SHIFT 5
#define HASH_WORDS 10
#define HASH_MIX 0x9fb21c651e98df25
#define SLOT_EMPTY 0
#define SLOT_CLAIMED 1
#define SLOT_LIVE 2
#define SLOT_DEAD 3
/* A control word: tag, time of death, buckets passed, state. */
#define CONTROL_STATE_MASK 0xf
#define CONTROL_PASSED_SHIFT 4
#define CONTROL_PASSED_MASK 0xf
#define CONTROL_STAMP_SHIFT 8
#define CONTROL_STAMP_MASK 0xffffff
/* Ticks until the slot of a session that ended is taken again: longer than any program runs. */
#define SLOT_REST_TICKS 32
/* Buckets that are swept before a session is refused for want of room. */
#define SWEEP_WHEN_FULL 32
/* Promotions for each of which no bucket is swept, but for the last. */
#define SWEEP_EVERY 4

struct slot {
	struct session_key key;
	struct session session;
};
_Static_assert(sizeof(struct slot) == 144, "slot");

struct bucket {
	__u64 control[BUCKET_SLOTS];
	__u32 passed; /* sessions that found this bucket full; of a half-open one: whose turn it is */
	__u32 heard; /* ticks, when a session was found or put in last; not of half-open ones */
	struct slot slots[BUCKET_SLOTS];
	__u64 pad2[2];
};
_Static_assert(sizeof(struct bucket) == 1088, "bucket");
_Static_assert(sizeof(struct bucket) >= sizeof(__u32) << HEARD_SHIFT, "heard");

#define TABLE_CURRENT_MASK 1
#define TABLE_DRAINING 2
struct table_info {
	__u64 hash_keys[HASH_WORDS + 1];
	__u32 buckets[TABLES];
	__u32 current; /* bit 0: the table that takes new sessions; bit 1: the other still has some */
	__u32 promotions; /* half-open sessions that were answered; it wraps */
	__u32 copied; /* somebody wants to know which buckets were heard of */
	__u32 pad[4];
	__u32 live; /* sessions in both, without the half-open; written often, so on a line apart */
	__u32 hand; /* the bucket that is swept next */
	__u32 pad2[14];
};
_Static_assert(sizeof(struct table_info) == 192, "table_info");

struct event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 generation;
	struct session_key key;
	__u32 vnic;
	__u32 rule;
	__u32 would_rule;
	__u32 length;
	__u16 ether_type;
	__u8 direction;
	__u8 verdict;
	__u8 reason;
	__u8 would;
	__u8 pad[2];
};
_Static_assert(sizeof(struct event) == 80, "event");

/* What a test run reads back from __sk_buff.cb. */
#define CB_REASON 0
#define CB_RULE 1
#define CB_WOULD_RULE 2
#define CB_WOULD 3

#endif
