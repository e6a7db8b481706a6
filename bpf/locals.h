/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the guests of this host are. A packet from one of them comes in by its device; one that
 * comes in otherwise, from the uplink or another guest, lies about its source.
 */
#ifndef LICTOR_LOCALS_H
#define LICTOR_LOCALS_H

#include "policy.h"

/* Where in `locals` a vnic is, plus one; 0: not on this host. */
static __always_inline __u32 local_place(__u32 vnic)
{
	__u32 index = vnic * LOCAL_PLACE_MIX >> LOCAL_PLACE_SHIFT;

	if (!vnic)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 step = 0; step < LOCAL_PLACE_STEPS; step++, index++) {
		__u64 *entry = bpf_map_lookup_elem(&local_places, &index);
		/* Volatile: one load, so that both halves belong together. */
		__u64 here = entry ? *(volatile __u64 *)entry : 0;

		if (!here)
			return 0;
		if ((__u32)here == vnic)
			return here >> 32;
	}
	return 0;
}

static __always_inline const struct local *local_at(__u32 place)
{
	__u32 index = place - 1;

	return place ? bpf_map_lookup_elem(&locals, &index) : 0;
}

/* The place of a guest that this host has custody of, or nothing. In hold a guest may still run
 * on the host that it comes from, and a handed-over one runs where it has gone.
 */
static __always_inline const struct local *local_find(__u32 vnic)
{
	const struct local *local = local_at(local_place(vnic));
	__u32 state = local && local->vnic == vnic ? local->state : VNIC_HOLD;

	return state == VNIC_OPEN || state == VNIC_CUT ? local : 0;
}

/* Whether a packet toward the guest comes from this vnic and did not come in by its device. A
 * bridge leaves the device of arrival in the packet.
 */
static __always_inline int from_elsewhere(const struct __sk_buff *skb, __u32 vnic)
{
	const struct local *local = local_find(vnic);

	return local && local->ifindex != skb->ingress_ifindex;
}

/* As above, for the other end of a session, which knows its place. */
static __always_inline int peer_elsewhere(const struct __sk_buff *skb, __u32 place)
{
	const struct local *local = local_at(place);

	return local && local->vnic &&
	       (local->state == VNIC_OPEN || local->state == VNIC_CUT) &&
	       local->ifindex != skb->ingress_ifindex;
}

/* As above, for whoever has this address. */
static __always_inline int
claims_local(const struct __sk_buff *skb, const struct tables *tables, const __u8 address[16])
{
	struct address_value owner = {};

	return address_find(tables, tables->segment, address, &owner) &&
	       !(owner.flags & ADDRESS_SHARED) && from_elsewhere(skb, owner.vnic);
}

#endif
