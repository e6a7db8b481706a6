/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Steering: a packet of a session between two guests of this host goes straight to the other one's
 * device instead of through the bridge. The other one's own program judges it there as always
 * (bpf_redirect_peer would go past it). The bridge must have been going to deliver it there: that
 * is what each condition is about.
 */
#ifndef LICTOR_STEER_H
#define LICTOR_STEER_H

#include "antispoof.h"
#include "table.h"

/* The bridge would have dropped what is too long; a super-packet is cut to fit its route. */
static __always_inline int steer_fits(const struct __sk_buff *skb, const struct local *peer)
{
	return skb->gso_size || skb->len <= peer->mtu + ETHER_BYTES;
}

/* The packet of a live session that may be steered. Its frame has no VLAN tag. */
struct way {
	__u32 peer; /* of the session, as there */
	__u64 now;
};

/* Both are ports of one bridge which may talk to each other, and the other one has seen a packet
 * of late: a device that vanished takes nothing, and the bridge knows first where its guest is now.
 */
static __always_inline int
steer_allowed(const struct way *way, const struct local *own, const struct local *peer)
{
	if (!own->bridge || own->bridge != peer->bridge || peer->state != VNIC_OPEN)
		return 0;
	return ticks_since(peer->alive, ticks(way->now)) <= STEER_ALIVE_TICKS;
}

/* Whether the frame is for the other one's station, as the bridge would look it up. */
static __always_inline int steer_names(const struct __sk_buff *skb, const struct local *peer)
{
	const struct ether *header = (const void *)(long)skb->data;

	return (const void *)(header + 1) <= (const void *)(long)skb->data_end &&
	       same_mac(header->destination, peer->mac);
}

/* A bridge forgets a station that it has not heard for a while, and then sends what is for it to
 * everyone. So now and then a packet goes its way.
 */
static __always_inline int steer_refreshes(const struct way *way, struct local *own)
{
	__u32 now = ticks(way->now);

	if (ticks_since(own->bridged, now) < own->refresh)
		return 0;
	own->bridged = now;
	return 1;
}

/* Returns TC_ACT_REDIRECT if the packet was sent on its way, or zero. */
static __always_inline int
steer(struct __sk_buff *skb, const struct vnic_config *config, const struct way *way)
{
	__u32 place = config->place - 1, there = way->peer - 1;
	struct local *own, *peer;

	if (!config->place || !way->peer)
		return 0;
	own = bpf_map_lookup_elem(&locals, &place);
	peer = bpf_map_lookup_elem(&locals, &there);
	if (!own || !peer || !steer_allowed(way, own, peer))
		return 0;
	if (!steer_names(skb, peer) || !steer_fits(skb, peer) ||
	    steer_refreshes(way, own))
		return 0;
	return bpf_redirect(peer->ifindex, 0);
}

/* Who is steered to must have been heard of. */
static __always_inline void steer_seen(const struct vnic_config *config, __u64 now)
{
	__u32 place = config->place - 1;
	struct local *own = config->place ? bpf_map_lookup_elem(&locals, &place) : 0;

	/* Written once a tick: the line is read by every other guest that sends to this one. */
	if (own && own->alive != ticks(now))
		own->alive = ticks(now);
}

#endif
