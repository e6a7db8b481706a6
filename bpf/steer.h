/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Steering: a packet of a session between two guests of this host goes straight to the other one's
 * device instead of through the bridge. The other one's own program judges it there as always
 * (bpf_redirect_peer would go past it). The bridge must have been going to deliver it there: that
 * is what each condition is about.
 */
#ifndef LICTOR_STEER_H
#define LICTOR_STEER_H

#include "context.h"
#include "locals.h"

/* The bridge would have dropped what is too long; a super-packet is cut to fit its route. */
static __always_inline int steer_fits(const struct __sk_buff *skb, const struct local *peer)
{
	return skb->gso_size || skb->len <= peer->mtu + ETHER_BYTES;
}

/* Both are ports of one bridge which may talk to each other, and the other one has seen a packet
 * of late: a device that vanished takes nothing, and the bridge knows first where its guest is now.
 */
static __always_inline int
steer_allowed(const struct context *c, const struct local *own, const struct local *peer)
{
	if (!own->bridge || own->bridge != peer->bridge || peer->state != VNIC_OPEN)
		return 0;
	return ticks(c->now) - peer->alive <= STEER_ALIVE_TICKS;
}

/* A bridge forgets a station that it has not heard for a while, and then sends what is for it to
 * everyone. So now and then a packet goes its way.
 */
static __always_inline int steer_refreshes(const struct context *c, struct local *own)
{
	__u32 now = ticks(c->now);

	if (now - own->bridged < own->refresh)
		return 0;
	own->bridged = now;
	return 1;
}

/* Returns TC_ACT_REDIRECT if the packet was sent on its way, or zero. */
static __always_inline int
steer(struct __sk_buff *skb, const struct vnic_config *config, const struct context *c)
{
	__u32 place = config->place - 1, there = c->peer - 1;
	struct local *own, *peer;

	if (!config->place || !c->peer || c->packet.network != ETHER_BYTES)
		return 0;
	own = bpf_map_lookup_elem(&locals, &place);
	peer = bpf_map_lookup_elem(&locals, &there);
	if (!own || !peer || !steer_allowed(c, own, peer))
		return 0;
	if (!same_mac(c->packet.ether_destination, peer->mac) || !steer_fits(skb, peer) ||
	    steer_refreshes(c, own))
		return 0;
	return bpf_redirect(peer->ifindex, 0);
}

/* Who is steered to must have been heard of. */
static __always_inline void steer_seen(const struct vnic_config *config, const struct context *c)
{
	__u32 place = config->place - 1;
	struct local *own = config->place ? bpf_map_lookup_elem(&locals, &place) : 0;

	/* Written once a tick: the line is read by every other guest that sends to this one. */
	if (own && own->alive != ticks(c->now))
		own->alive = ticks(c->now);
}

#endif
