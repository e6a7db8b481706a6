/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The release: who has an address, which atom a port is in, what is decided. */
#ifndef LICTOR_POLICY_H
#define LICTOR_POLICY_H

#include "maps.h"

/* The tables that one packet is judged by, fixed at its start. */
struct tables {
	__u64 version;
	__u64 generation;
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

static __always_inline void
address_mask(struct address_key *key, const __u8 address[16], __u32 bits)
{
	const __u32 *from = (const __u32 *)address;
	__u32 *into = (__u32 *)key->address;

#pragma unroll
	for (__u32 i = 0; i < 4; i++) {
		__u32 left = bits > 32 * i ? bits - 32 * i : 0;
		__u32 mask = left >= 32 ? ~0U : ~(~0U >> left);

		into[i] = from[i] & bpf_htonl(mask);
	}
	key->prefix_bits = ADDRESS_PREFIX_BASE + bits;
}

/* The longest prefix that has the address. A trie grows deep with the prefixes, and each step waits
 * for memory; a policy has few lengths of them, so each of those is tried by its hash instead.
 */
static __noinline struct address_value *
address_find(const struct tables *tables, __u32 segment, const __u8 address[16])
{
	__u32 slot = tables->slot, v6 = !mapped_prefix(address);
	struct release_info *info = bpf_map_lookup_elem(&release_info, &slot);
	void *inner = bpf_map_lookup_elem(&hosts, &slot);
	struct address_key key = {};
	struct address_value *value;
	const struct prefix_lengths *lengths;

	if (!info || !inner)
		return 0;
	lengths = &info->lengths[v6];
	key.segment = segment;
	key.family = v6 ? 6 : 4;
	address_mask(&key, address, 128);
	value = bpf_map_lookup_elem(inner, &key);
	if (value)
		return value;
	if (lengths->count == PREFIX_LENGTHS_TRIE) {
		inner = bpf_map_lookup_elem(&addresses, &slot);
		return inner ? bpf_map_lookup_elem(inner, &key) : 0;
	}
	for (__u32 i = 0; i < PREFIX_LENGTHS_MAX && i < lengths->count; i++) {
		address_mask(&key, address, lengths->bits[i]);
		value = bpf_map_lookup_elem(inner, &key);
		if (value)
			return value;
	}
	return 0;
}

/* Who was last asked for at a vnic. Nearly always it is the one address that its guest has. */
struct known {
	__u64 version;
	__u32 segment;
	__u32 pad;
	__u8 address[16];
	struct address_value value;
	__u8 stand_in[16]; /* for a group that it hears */
};

static __always_inline const struct address_value *
own_find(const struct tables *tables, __u32 segment, const __u8 address[16], struct known *own)
{
	const struct address_value *found;

	if (own->version == tables->version && own->segment == segment &&
	    same16(own->address, address))
		return &own->value;
	found = address_find(tables, segment, address);
	if (!found)
		return 0;
	own->version = tables->version;
	own->segment = segment;
	copy16(own->address, address);
	own->value = *found;
	return found;
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
	struct address_value *value = address_find(tables, tables->segment, address);

	return value && !(value->flags & ADDRESS_ROUTED) && may_use(value, config);
}

/* Whether nobody else may say so. A shared address is announced by whoever has it now. */
static __always_inline int
address_own(const struct tables *tables, const struct vnic_config *config, const __u8 address[16])
{
	struct address_value *value = address_find(tables, tables->segment, address);

	return value && only_its_own(value, config);
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

/* The row of a question, if there is one. Atom zero is no atom and never matches. */
static __always_inline void
decide_by(const struct tables *tables, const struct decision_key *wanted, struct judgement *out)
{
	struct decision_value *decision;
	__u32 slot = tables->slot;
	void *inner = bpf_map_lookup_elem(&decisions, &slot);

	decision = inner && wanted->atom ? bpf_map_lookup_elem(inner, wanted) : 0;
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
	const struct address_value *local, *remote;
	struct decision_key wanted = {};
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
	wanted.local = local->identity;
	remote = address_find(tables, key->segment, key->remote);
	if (remote) {
		/* The guest's own address as the sender of what comes toward it. */
		if (direction == DIRECTION_INGRESS && only_its_own(remote, config)) {
			out->reason = REASON_SPOOFED_ADDRESS;
			return;
		}
		out->remote_epoch = remote->epoch;
		out->remote_vnic = remote->flags & ADDRESS_SHARED ? 0 : remote->vnic;
		wanted.peer = remote->identity;
	}
	wanted.direction = direction;
	wanted.atom = atom_find(tables, protocol_class(key->protocol),
				policy_port(key, direction, icmp));
	decide_by(tables, &wanted, out);
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
	struct decision_key wanted = {};
	struct address_value *local;
	__u8 own[16];

	link_local(config, own);
	local = address_find(tables, tables->segment, own);
	out->reason = REASON_ETHER_TYPE;
	if (!local || !only_its_own(local, config))
		return;
	out->local_epoch = local->epoch;
	wanted.local = local->identity;
	wanted.direction = direction;
	wanted.atom = atom_find(tables, PROTOCOL_ETHER, ether_type);
	decide_by(tables, &wanted, out);
	out->observe = !!(local->flags & ADDRESS_OBSERVE);
	if (out->reason == REASON_DEFAULT_DENY)
		out->reason = REASON_ETHER_TYPE;
	else
		observe(out);
}

#endif
