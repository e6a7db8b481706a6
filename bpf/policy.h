/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The release: who has an address, which atom a port is in, what is decided. */
#ifndef LICTOR_POLICY_H
#define LICTOR_POLICY_H

#include "hash.h"
#include "maps.h"

/* The tables that one packet is judged by, fixed at its start. */
struct tables {
	__u64 version;
	__u32 slot;
	__u32 segment; /* in which the packet is */
};

/* What the policy says. The rule that decides and what it says, and the rule that would have
 * decided otherwise, were it not for observe mode.
 */
struct judgement {
	__u32 local_epoch;
	__u32 remote_epoch;
	__u32 rule;
	__u32 would_rule;
	__u32 limit;
	__u32 remote_vnic; /* 0: the other end is no guest */
	__u16 log_limit;
	__u8 reason;
	__u8 log;
	__u8 would; /* a verdict, if `has_would` */
	__u8 has_would;
	__u8 observe; /* the guest is in observe mode */
	__u8 pad;
};

static __always_inline void tables_read(struct tables *tables)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&active, &zero);
	/* Volatile: one load, so that slot and version belong together. */
	__u64 raw = value ? *(volatile __u64 *)value : 0;

	tables->version = raw >> ACTIVE_VERSION_SHIFT;
	tables->slot = raw & ACTIVE_SLOT_MASK;
}

static __always_inline __u64 tables_generation(const struct tables *tables)
{
	__u32 slot = tables->slot;
	struct release_info *info = bpf_map_lookup_elem(&release_info, &slot);

	return info ? info->generation : 0;
}

static __always_inline __u32 fixed_index(__u64 hash, __u32 buckets)
{
	return ((hash >> 32) * buckets) >> 32;
}

static __always_inline void
address_mask(struct address_key *key, const __u8 address[16], __u32 bits)
{
	const __u64 *from = (const __u64 *)address;
	__u64 *into = (__u64 *)key->address;
	__u64 high = bits >= 64 ? ~0ULL : ~(~0ULL >> bits);
	__u64 low = bits <= 64 ? 0 : bits >= 128 ? ~0ULL : ~(~0ULL >> (bits - 64));

	into[0] = from[0] & bpf_cpu_to_be64(high);
	into[1] = from[1] & bpf_cpu_to_be64(low);
	key->prefix_bits = ADDRESS_PREFIX_BASE + bits;
}

/* The row of exactly this prefix. What can be looked up again is not remembered over a look-up:
 * there is no room for it on the stack.
 */
static __always_inline const struct address_value *
address_among(const __u32 *slot, const struct address_key *key)
{
	const struct release_info *info = bpf_map_lookup_elem(&release_info, slot);
	const __u32 *words = (const __u32 *)key;
	const __u64 *wanted = (const __u64 *)key;
	__u32 index;
	__u64 sum;

	if (!info)
		return 0;
	sum = info->fixed_keys[FIXED_KEYS];
#pragma unroll
	for (__u32 i = 0; i < FIXED_KEYS; i++)
		sum += info->fixed_keys[i] * words[i];
	if (key->prefix_bits == ADDRESS_PREFIX_BASE + 128)
		index = fixed_index(hash_mixed(sum), info->host_buckets);
	else
		index = info->host_buckets + FIXED_STEPS - 1 +
			fixed_index(hash_mixed(sum), info->prefix_buckets);
#pragma clang loop unroll(disable)
	for (__u32 step = 0; step < FIXED_STEPS; step++, index++) {
		void *inner = bpf_map_lookup_elem(&hosts, slot);
		const struct address_bucket *bucket;

		bucket = inner ? bpf_map_lookup_elem(inner, &index) : 0;
		if (!bucket)
			return 0;
#pragma unroll
		for (__u32 i = 0; i < ADDRESS_BUCKET_ENTRIES; i++) {
			const __u64 *its = (const __u64 *)&bucket->entries[i].key;

			if (its[2] == wanted[2] && its[1] == wanted[1] && its[0] == wanted[0])
				return &bucket->entries[i].value;
		}
		if (!bucket->passed)
			return 0;
	}
	return 0;
}

struct address {
	__u8 octets[16];
};

static __always_inline int
address_take(const struct address_value *value, struct address_value *found)
{
	if (value)
		*found = *value;
	return !!value;
}

/* The longest prefix that has the address, if any has. A policy has few lengths of them, so each of
 * those is looked for by its hash; with many, those below the full one are in a trie.
 */
__noinline int address_search(const struct tables *tables, __u32 segment,
			      const struct address *address, struct address_value *found)
{
	struct address_key wanted = {}, *key = &wanted;
	__u32 slot, v6;

	if (!tables || !address || !found)
		return 0;
	/* In memory and nowhere else, or the compiler keeps its words on the stack once more. */
	barrier_var(key);
	slot = tables->slot;
	v6 = !mapped_prefix(address->octets);
	key->place = segment | (v6 ? 6 : 4) << ADDRESS_FAMILY_SHIFT;
	address_mask(key, address->octets, 128);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i <= PREFIX_LENGTHS_MAX; i++) {
		const struct release_info *info;

		if (address_take(address_among(&slot, key), found))
			return 1;
		info = bpf_map_lookup_elem(&release_info, &slot);
		if (!info || i >= info->lengths[v6 & 1].count)
			return 0;
		if (info->lengths[v6 & 1].count == PREFIX_LENGTHS_TRIE) {
			void *inner = bpf_map_lookup_elem(&addresses, &slot);

			return inner && address_take(bpf_map_lookup_elem(inner, key), found);
		}
		if (i < PREFIX_LENGTHS_MAX)
			address_mask(key, address->octets, info->lengths[v6 & 1].bits[i]);
	}
	return 0;
}

static __always_inline int address_find(const struct tables *tables, __u32 segment,
					const __u8 address[16], struct address_value *found)
{
	return address_search(tables, segment, (const struct address *)address, found);
}

/* Who was last asked for at a vnic. Nearly always it is the one address that its guest has. */
struct known {
	__u64 version;
	__u32 segment;
	__u32 pad;
	__u8 address[16];
	struct address_value value;
	__u8 stand_in[16]; /* for a group that it hears */
	struct address_value remote; /* of the packet at hand: there is no room for it on the stack */
};

static __always_inline const struct address_value *
own_find(const struct tables *tables, __u32 segment, const __u8 address[16], struct known *own)
{
	if (own->version == tables->version && own->segment == segment &&
	    same16(own->address, address))
		return &own->value;
	own->version = 0;
	if (!address_find(tables, segment, address, &own->value))
		return 0;
	own->version = tables->version;
	own->segment = segment;
	copy16(own->address, address);
	return &own->value;
}

/* Whether nobody but this vnic may use the address. */
static __always_inline int
only_its_own(const struct address_value *value, const struct vnic_config *config)
{
	return !(value->flags & ADDRESS_SHARED) && value->vnic == config->vnic;
}

/* Whether packets from and to the address are this vnic's. */
static __always_inline int
may_use(const struct address_value *value, const struct vnic_config *config)
{
	if (!(value->flags & ADDRESS_SHARED))
		return value->vnic == config->vnic;
	for (int i = 0; i < SHARED_MAX; i++)
		if (config->shared[i] && config->shared[i] == value->vnic)
			return 1;
	return 0;
}

/* Whether this vnic may say on the link that the address is its. */
static __always_inline int
address_bound(const struct tables *tables, const struct vnic_config *config,
	      const __u8 address[16])
{
	struct address_value value = {};

	return address_find(tables, tables->segment, address, &value) &&
	       !(value.flags & ADDRESS_ROUTED) && may_use(&value, config);
}

/* Whether nobody else may say so. A shared address is announced by whoever has it now. */
static __always_inline int
address_own(const struct tables *tables, const struct vnic_config *config, const __u8 address[16])
{
	struct address_value value = {};

	return address_find(tables, tables->segment, address, &value) &&
	       only_its_own(&value, config);
}

/* The address that modified EUI-64 makes of the vnic's MAC (RFC 4291, appendix A). It is bound to
 * every vnic, and so tells its identity where a packet names a group instead.
 */
static __always_inline void link_local(const struct vnic_config *config, __u8 into[16])
{
	__builtin_memset(into, 0, 16);
	into[0] = 0xfe;
	into[1] = 0x80;
	into[8] = config->mac[0] ^ 2;
	into[9] = config->mac[1];
	into[10] = config->mac[2];
	into[11] = 0xff;
	into[12] = 0xfe;
	into[13] = config->mac[3];
	into[14] = config->mac[4];
	into[15] = config->mac[5];
}

/* A multicast group, or all stations of the link (RFC 919). */
static __always_inline int is_group(const __u8 address[16])
{
	const __u32 *words = (const __u32 *)address;

	if (!mapped_prefix(address))
		return address[0] == 0xff;
	return address[12] >> 4 == 14 || words[3] == 0xffffffff;
}

static __always_inline __u32 protocol_class(__u8 protocol)
{
	switch (protocol) {
	case IP_TCP:
		return PROTOCOL_TCP;
	case IP_UDP:
		return PROTOCOL_UDP;
	case IP_ICMP:
		return PROTOCOL_ICMP;
	case IP_ICMPV6:
		return PROTOCOL_ICMPV6;
	case IP_SCTP:
		return PROTOCOL_SCTP;
	case IP_UDPLITE:
		return PROTOCOL_UDPLITE;
	}
	return PROTOCOL_OTHER;
}

/* What stands in the port's place of an ICMP message. */
static __always_inline __u16 icmp_port(__u8 type, __u8 code)
{
	return type << 8 | code;
}

/* What stands in the port's place of a decision: the destination port as the opener sent it, type
 * and code of an ICMP message, or the number of any other protocol.
 */
static __always_inline __u16
policy_port(const struct session_key *key, __u8 direction, __u16 icmp)
{
	switch (key->protocol) {
	case IP_TCP:
	case IP_UDP:
	case IP_SCTP:
	case IP_UDPLITE:
		return direction == DIRECTION_EGRESS ? key->remote_port : key->local_port;
	case IP_ICMP:
	case IP_ICMPV6:
		return icmp;
	}
	return key->protocol;
}

static __always_inline __u16 atom_find(const struct tables *tables, __u32 class, __u16 port)
{
	__u32 index = (class * 65536 + port) / ATOM_BLOCK_PORTS;
	__u32 slot = tables->slot;
	void *inner = bpf_map_lookup_elem(&atoms, &slot);
	struct atom_block *block = inner ? bpf_map_lookup_elem(inner, &index) : 0;

	return block ? block->ports[port % ATOM_BLOCK_PORTS] & ATOM_MASK : 0;
}

/* What a policy is asked: between whom, and on which atom in which direction. */
struct question {
	__u32 local;
	__u32 peer;
	__u32 what;
};

/* The row that says exactly this. */
static __always_inline const struct decision *
decision_among(const __u32 *slot, const struct release_info *info, struct question *question)
{
	const __u64 *keys = info->fixed_keys;
	__u64 sum = keys[FIXED_KEYS] + keys[0] * question->local + keys[1] * question->peer +
		    keys[2] * question->what;
	__u32 index = fixed_index(hash_mixed(sum), info->decision_buckets);

#pragma clang loop unroll(disable)
	for (__u32 step = 0; step < FIXED_STEPS; step++, index++) {
		void *inner = bpf_map_lookup_elem(&decisions, slot);
		struct decision_bucket *bucket;

		bucket = inner ? bpf_map_lookup_elem(inner, &index) : 0;
		if (!bucket)
			return 0;
#pragma unroll
		for (__u32 i = 0; i < DECISION_BUCKET_ENTRIES; i++) {
			const struct decision *its = &bucket->entries[i];

			if (its->peer == question->peer && its->local == question->local &&
			    its->what == question->what)
				return its;
		}
		if (!bucket->entries[0].passed)
			return 0;
	}
	return 0;
}

/* The row that answers a question: the first that there is, from the exact one to that of any peer
 * and any atom. Atom zero is no atom and never matches.
 */
static __noinline const struct decision *
decision_find(const struct tables *tables, __u32 local, __u32 peer, __u32 what)
{
	__u32 slot = tables->slot;
	const struct decision *found;

	if (!(what & ATOM_MASK))
		return 0;
	for (__u32 shape = 0; shape < DECISION_SHAPES; shape++) {
		struct release_info *info = bpf_map_lookup_elem(&release_info, &slot);
		struct question question = { local, peer, what };

		if (!info)
			return 0;
		if (!(info->shapes >> shape & 1))
			continue;
		if (shape & DECISION_SHAPE_ANY_PEER)
			question.peer = DECISION_ANY_PEER;
		if (shape & DECISION_SHAPE_ANY_ATOM)
			question.what |= DECISION_ANY_ATOM;
		found = decision_among(&slot, info, &question);
		if (found)
			return found;
	}
	return 0;
}

/* The atom's part of a question. */
static __always_inline __u32 asked(__u8 direction, __u16 atom)
{
	return atom | (__u32)direction << DECISION_DIRECTION_SHIFT;
}

static __always_inline void
decide_by(const struct tables *tables, const struct question *question, struct judgement *out)
{
	const struct decision *decision = decision_find(tables, question->local, question->peer,
							question->what);

	if (!decision) {
		out->reason = REASON_DEFAULT_DENY;
		return;
	}
	out->rule = decision->rule;
	out->log = decision->log;
	out->limit = decision->limit;
	out->log_limit = decision->log_limit;
	if (decision->would != VERDICT_NONE) {
		out->has_would = 1;
		out->would = decision->would;
		out->would_rule = decision->would_rule;
	}
	if (decision->verdict == VERDICT_ALLOW)
		out->reason = REASON_POLICY_ALLOW;
	else if (decision->verdict == VERDICT_REJECT)
		out->reason = REASON_REJECTED;
	else
		out->reason = decision->rule ? REASON_POLICY_DENY : REASON_DEFAULT_DENY;
}

/* What policy does not allow passes where the guest is in observe mode, and is told apart. */
static __always_inline void observe(struct judgement *judgement)
{
	if (!judgement->observe || judgement->reason < REASON_DENY_FIRST)
		return;
	judgement->has_would = 1;
	judgement->would = judgement->reason == REASON_REJECTED ? VERDICT_REJECT : VERDICT_DENY;
	judgement->would_rule = judgement->rule;
	judgement->rule = 0;
	judgement->reason = REASON_OBSERVED;
}

/* The verdict on a conversation in the direction in which it is, or was, opened. Both ends'
 * bindings are looked up first: an address that is not this vnic's own has no identity to judge by.
 */
static __always_inline void
policy_judge(const struct tables *tables, const struct vnic_config *config,
	     const struct session_key *key, __u8 direction, __u16 icmp, struct known *known,
	     struct judgement *out)
{
	const struct address_value *local, *remote = &known->remote;
	struct question question = {};
	const __u8 *own = key->local;

	/* What is for a group is for the guest, if a rule lets it hear the sender. */
	if (direction == DIRECTION_INGRESS && is_group(own)) {
		link_local(config, known->stand_in);
		own = known->stand_in;
	}
	local = own_find(tables, key->segment, own, known);
	if (!local || !may_use(local, config)) {
		out->reason = direction == DIRECTION_EGRESS ? REASON_SPOOFED_ADDRESS :
							      REASON_FOREIGN_ADDRESS;
		return;
	}
	out->local_epoch = local->epoch;
	out->observe = !!(local->flags & ADDRESS_OBSERVE);
	question.local = local->identity;
	if (address_find(tables, key->segment, key->remote, &known->remote)) {
		/* The guest's own address as the sender of what comes toward it. */
		if (direction == DIRECTION_INGRESS && only_its_own(remote, config)) {
			out->reason = REASON_SPOOFED_ADDRESS;
			return;
		}
		out->remote_epoch = remote->epoch;
		out->remote_vnic = remote->flags & ADDRESS_SHARED ? 0 : remote->vnic;
		question.peer = remote->identity;
	}
	question.what = asked(direction, atom_find(tables, protocol_class(key->protocol),
						   policy_port(key, direction, icmp)));
	decide_by(tables, &question, out);
	observe(out);
}

/* The verdict on a frame that is neither IP nor one of the link's own protocols. It has no
 * addresses: the guest is known by its vnic, the other end is nobody in particular. Only a rule
 * that names the EtherType speaks of it, so what no rule names keeps its own reason.
 */
static __always_inline void
policy_judge_ether(const struct tables *tables, const struct vnic_config *config,
		   __u8 direction, __u16 ether_type, struct judgement *out)
{
	struct question question = {};
	struct address_value local = {};
	__u8 own[16];

	link_local(config, own);
	out->reason = REASON_ETHER_TYPE;
	if (!address_find(tables, tables->segment, own, &local) || !only_its_own(&local, config))
		return;
	out->local_epoch = local.epoch;
	question.local = local.identity;
	question.what = asked(direction, atom_find(tables, PROTOCOL_ETHER, ether_type));
	decide_by(tables, &question, out);
	out->observe = !!(local.flags & ADDRESS_OBSERVE);
	if (out->reason == REASON_DEFAULT_DENY)
		out->reason = REASON_ETHER_TYPE;
	else
		observe(out);
}

#endif
