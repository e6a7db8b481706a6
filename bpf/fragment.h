/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments follow the verdict of the first one of their datagram. Each begins where the one before
 * ended or later, so that none can overlap what the receiver has (RFC 5722); one that comes after
 * its successor is lost, as any packet may be.
 */
#ifndef LICTOR_FRAGMENT_H
#define LICTOR_FRAGMENT_H

#include "session.h"

/* What a receiver reassembles by: RFC 791, 3.2, and RFC 8200, 4.5, by which the protocol that a
 * later fragment names is nothing.
 */
static __always_inline void fragment_key(const struct context *c, struct fragment_key *key)
{
	const struct packet *p = &c->packet;

	copy16(key->source, p->source);
	copy16(key->destination, p->destination);
	key->id = p->fragment_id;
	key->segment = p->segment;
	key->protocol = p->family == 4 ? p->protocol : 0;
	key->direction = c->direction;
}

/* The datagram of a fragment, if its first one was allowed not too long ago. By itself, because the
 * key takes stack, and before Linux 6.5 a key may not lie in the context.
 */
static __noinline struct fragment *fragment_find(const struct context *c)
{
	struct fragment_key key = {};
	struct fragment *fragment;

	fragment_key(c, &key);
	fragment = bpf_map_lookup_elem(&fragments, &key);
	return fragment && fragment->expires_ns > c->now ? fragment : 0;
}

/* RFC 6980: neighbour discovery is never fragmented. */
static __always_inline int fragment_of_nd(const struct packet *p)
{
	return p->protocol == IP_ICMPV6 && p->icmp_type >= 133 && p->icmp_type <= 137;
}

/* A first fragment before it is judged. Zero, or the reason to deny. */
__noinline int fragment_first(struct context *c)
{
	if (!c || fragment_of_nd(&c->packet) || fragment_find(c))
		return REASON_BAD_FRAGMENT;
	return 0;
}

/* A first fragment that was allowed under the key and rule in the context. Without room for it the
 * others are denied, as if it had not been seen.
 */
__noinline int fragment_remember(struct context *c)
{
	struct fragment_key key = {};
	struct fragment fresh = {};
	const struct packet *p;

	if (!c)
		return 0;
	p = &c->packet;
	fresh.expires_ns = c->now + FRAGMENT_TIMEOUT_S * SECOND_NS;
	fresh.session = c->key;
	fresh.end = p->fragment_bytes;
	fresh.rule = c->judgement.rule;
	fresh.version = c->tables.version;
	/* SYN and FIN come before and after all of the payload (RFC 9293, 3.4). */
	if (p->protocol == IP_TCP)
		fresh.sequence = p->sequence - (p->fragment_bytes - p->payload) +
				 !!(p->flags & FLAG_SYN) + !!(p->flags & FLAG_FIN);
	fragment_key(c, &key);
	bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
	return 0;
}

__noinline int fragment_forget(struct context *c)
{
	struct fragment_key key = {};

	if (!c)
		return 0;
	fragment_key(c, &key);
	return bpf_map_delete_elem(&fragments, &key);
}

/* Takes a later fragment in, unless it begins before the end of another one. Of two processors with
 * a fragment of one datagram each, one loses its.
 */
static __always_inline int fragment_advance(const struct context *c, struct fragment *fragment)
{
	const struct packet *p = &c->packet;
	__u32 end = *(volatile __u32 *)&fragment->end, next = p->fragment_at + p->fragment_bytes;

	if (p->fragment_at < end ||
	    __sync_val_compare_and_swap(&fragment->end, end, next) != end)
		return REASON_BAD_FRAGMENT;
	return 0;
}

/* The window check saw the first fragment's payload only; the rest of the segment is known now. */
static __always_inline void
fragment_extend(const struct context *c, const struct fragment *fragment, struct session *session)
{
	__u8 own = c->direction & 1;
	struct session_end *sender = &session->tcp[own];
	__u32 last = fragment->sequence + c->packet.fragment_at + c->packet.fragment_bytes;

	if (session->state >= STATE_ESTABLISHED && session->expires_ns > c->now &&
	    session->flags[own] & END_KNOWN && after(last, sender->end))
		sender->end = last;
}

#endif
