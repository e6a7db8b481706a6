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

struct judgement {
	__u64 local_epoch;
	__u64 remote_epoch;
	__u32 rule;
	__u8 reason;
	__u8 log;
	__u8 pad[2];
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

static __always_inline struct address_value *
address_find(const struct tables *tables, __u32 segment, const __u8 address[16])
{
	struct address_key key = {};
	__u32 slot = tables->slot;
	void *inner = bpf_map_lookup_elem(&addresses, &slot);

	if (!inner)
		return 0;
	key.prefix_bits = ADDRESS_PREFIX_BASE + 128;
	key.segment = segment;
	key.family = mapped_prefix(address) ? 4 : 6;
	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(inner, &key);
}

static __always_inline int
address_bound(const struct tables *tables, const struct vnic_config *config,
	      const __u8 address[16])
{
	struct address_value *value = address_find(tables, tables->segment, address);

	return value && value->vnic == config->vnic;
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
	}
	return PROTOCOL_OTHER;
}

/* What stands in the port's place of a decision: the destination port as the opener sent it, the
 * type of an ICMP message, or the number of any other protocol.
 */
static __always_inline __u16
policy_port(const struct session_key *key, __u8 direction, __u8 icmp_type)
{
	switch (key->protocol) {
	case IP_TCP:
	case IP_UDP:
		return direction == DIRECTION_EGRESS ? key->remote_port : key->local_port;
	case IP_ICMP:
	case IP_ICMPV6:
		return icmp_type;
	}
	return key->protocol;
}

static __always_inline __u16 atom_find(const struct tables *tables, __u8 protocol, __u16 port)
{
	__u32 index = (protocol_class(protocol) * 65536 + port) / ATOM_BLOCK_PORTS;
	__u32 slot = tables->slot;
	void *inner = bpf_map_lookup_elem(&atoms, &slot);
	struct atom_block *block = inner ? bpf_map_lookup_elem(inner, &index) : 0;

	return block ? block->ports[port % ATOM_BLOCK_PORTS] & ATOM_MASK : 0;
}

/* The verdict on a conversation in the direction in which it is, or was, opened. Both ends'
 * bindings are looked up first: an address that is not this vnic's own has no identity to judge by.
 */
static __always_inline void
policy_judge(const struct tables *tables, const struct vnic_config *config,
	     const struct session_key *key, __u8 direction, __u8 icmp_type,
	     struct judgement *out)
{
	struct address_value *local, *remote;
	struct decision_key wanted = {};
	struct decision_value *decision;
	__u32 slot = tables->slot;
	void *inner;

	local = address_find(tables, key->segment, key->local);
	if (!local || local->vnic != config->vnic) {
		out->reason = direction == DIRECTION_EGRESS ? REASON_SPOOFED_ADDRESS :
							      REASON_FOREIGN_ADDRESS;
		return;
	}
	out->local_epoch = local->epoch;
	wanted.local = local->identity;
	remote = address_find(tables, key->segment, key->remote);
	if (remote) {
		/* The guest's own address as the sender of what comes toward it. */
		if (direction == DIRECTION_INGRESS && remote->vnic == config->vnic) {
			out->reason = REASON_SPOOFED_ADDRESS;
			return;
		}
		out->remote_epoch = remote->epoch;
		wanted.peer = remote->identity;
	}
	wanted.direction = direction;
	wanted.atom = atom_find(tables, key->protocol, policy_port(key, direction, icmp_type));
	inner = bpf_map_lookup_elem(&decisions, &slot);
	/* Atom zero is no atom and never matches. */
	decision = inner && wanted.atom ? bpf_map_lookup_elem(inner, &wanted) : 0;
	if (!decision) {
		out->reason = REASON_DEFAULT_DENY;
		return;
	}
	out->rule = decision->rule;
	out->log = decision->log;
	out->reason = decision->verdict == VERDICT_ALLOW ? REASON_POLICY_ALLOW :
							   REASON_POLICY_DENY;
}

#endif
