/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The stateful firewall of one vnic. Entry points and the order of the steps only; each step has
 * its header. Nothing here is newer than Linux 6.1: map-in-map with inner maps of different size
 * (5.10), bpf_ktime_get_coarse_ns (5.11), ring buffer (5.8), bounded loops (5.3). tcx (6.6) is a
 * matter of attaching, the programs do not know it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "parse.h"
#include "maps.h"
#include "policy.h"
#include "session.h"
#include "icmp.h"
#include "antispoof.h"
#include "verdict.h"

/* A conversation whose tables changed is judged again, in the direction in which it was opened. */
static __always_inline int
revalidate(const struct vnic_config *config, struct context *c, struct session *session)
{
	__u8 type = c->key.protocol == IP_ICMP ? 8 : 128;

	if (session->version == c->tables.version)
		return 0;
	policy_judge(&c->tables, config, &c->key, session->opened, type, &c->judgement);
	if (c->judgement.reason != REASON_POLICY_ALLOW) {
		session_delete(&c->key);
		return REASON_REVOKED;
	}
	session->rule = c->judgement.rule;
	session->generation = tables_generation(&c->tables);
	session->local_epoch = c->judgement.local_epoch;
	session->remote_epoch = c->judgement.remote_epoch;
	session->version = c->tables.version;
	return 0;
}

static __always_inline int related(struct __sk_buff *skb, const struct vnic_config *config,
				   struct context *c)
{
	struct session *session;
	int reason;

	if (!related_key(skb, &c->packet, config->segment, c->direction, &c->key))
		return REASON_UNRELATED;
	session = session_lookup(&c->key);
	if (!session || session->expires_ns <= c->now)
		return REASON_UNRELATED;
	reason = revalidate(config, c, session);
	if (reason)
		return reason;
	c->judgement.rule = session->rule;
	return REASON_RELATED;
}

/* The packet of a live session, or zero if it begins anew. */
static __always_inline int
established(struct __sk_buff *skb, const struct vnic_config *config, struct context *c,
	    struct session *session)
{
	int track, reason = revalidate(config, c, session);

	if (reason)
		return reason;
	c->judgement.rule = session->rule;
	track = session_track(session, &c->packet, c->direction);
	if (track == TRACK_REOPEN)
		return 0;
	if (track_reason(track))
		return track_reason(track);
	session_update(session, c->direction, skb->len, c->now);
	session_renew(session, track, c->key.protocol, c->now);
	return REASON_SESSION;
}

static __always_inline int
begin(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	const struct packet *p = &c->packet;
	int kind = icmp_kind(p->protocol, p->icmp_type);
	struct session *new = &c->fresh;
	__u8 own = c->direction & 1;

	__builtin_memset(&c->judgement, 0, sizeof(c->judgement));
	policy_judge(&c->tables, config, &c->key, c->direction, p->icmp_type, &c->judgement);
	/* Spoofing is told apart from a missing session: the address comes first. */
	if (c->judgement.reason >= REASON_SPOOFED_MAC)
		return c->judgement.reason;
	if (p->protocol == IP_TCP) {
		if (tcp_flags_impossible(p->flags))
			return REASON_TCP_FLAGS;
		if ((p->flags & (FLAG_SYN | FLAG_ACK)) != FLAG_SYN)
			return REASON_NO_SESSION;
	}
	if (kind == ICMP_REPLY)
		return REASON_NO_SESSION;
	/* A message that nobody answers leaves nothing behind. */
	if (c->judgement.reason != REASON_POLICY_ALLOW || kind == ICMP_OTHER)
		return c->judgement.reason;
	new->state = STATE_UNREPLIED;
	new->opened = c->direction;
	new->rule = c->judgement.rule;
	new->version = c->tables.version;
	new->generation = c->tables.generation;
	new->local_epoch = c->judgement.local_epoch;
	new->remote_epoch = c->judgement.remote_epoch;
	new->last_seen_ns = c->now;
	new->expires_ns = c->now + session_timeout_ns(p->protocol, STATE_UNREPLIED);
	new->packets[own] = 1;
	new->bytes[own] = skb->len;
	if (p->protocol == IP_TCP)
		tcp_syn_seen(new, own, p);
	if (session_insert(&c->key, new))
		return REASON_SESSION_TABLE_FULL;
	c->new_session = 1;
	return REASON_POLICY_ALLOW;
}

static __always_inline int closed_reason(__u32 state)
{
	switch (state) {
	case VNIC_OPEN:
		return 0;
	case VNIC_HANDED_OVER:
		return REASON_HANDED_OVER;
	case VNIC_CUT:
		return REASON_CUT;
	}
	return REASON_HOLD;
}

static __always_inline int
sessions_and_policy(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	struct packet *p = &c->packet;
	int reason, kind = icmp_kind(p->protocol, p->icmp_type);
	struct session *session;

	if (kind == ICMP_ERROR)
		return related(skb, config, c);
	session_key_of(p, config->segment, c->direction, &c->key);
	if (kind == ICMP_ECHO || kind == ICMP_REPLY) {
		c->key.local_port = p->source_port;
		c->key.remote_port = echo_side(kind, c->direction);
	}
	/* A router's advertisement names a group; the vnic's own link-local address stands in. */
	if (c->direction == DIRECTION_INGRESS && p->protocol == IP_ICMPV6 &&
	    p->icmp_type == ND_ROUTER_ADVERTISEMENT && p->destination[0] == 0xff)
		link_local(config, c->key.local);

	/* 5. A live session. An expired one is a miss, and makes room for its successor. */
	session = session_lookup(&c->key);
	if (session) {
		reason = 0;
		if (session->expires_ns > c->now)
			reason = established(skb, config, c, session);
		if (reason)
			return reason;
		session_delete(&c->key);
	}
	/* 6. A miss: the ends' bindings, the peer's identity, the atom, the decision. 7. Insert. */
	c->tables.generation = tables_generation(&c->tables);
	return begin(skb, config, c);
}

static __always_inline int
decide(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	struct packet *p = &c->packet;
	int reason;

	/* 1. The vnic's state: unless it is open, everything is dropped and counted. */
	reason = closed_reason(*(volatile __u32 *)&config->state);
	if (reason)
		return reason;
	/* 2. Parse. What is not understood is denied. */
	reason = parse(skb, p);
	if (reason)
		return reason;
	/* 3. The MAC, whose liar is not worth a look-up. */
	reason = mac_check(config, p, c->direction);
	if (reason)
		return reason;
	/* 4. The link's own protocols; all but the announcement ask who has an address. */
	if (p->ether_type == TYPE_RARP)
		return rarp_check(skb, config, c->direction);
	tables_read(&c->tables);
	if (!c->tables.version)
		return REASON_NO_RELEASE;
	if (p->ether_type == TYPE_ARP)
		return arp_check(skb, &c->tables, config, c->direction);
	if (p->protocol == IP_ICMPV6) {
		reason = nd_check(skb, &c->tables, config, p, c->direction);
		if (reason)
			return reason;
	}
	return sessions_and_policy(skb, config, c);
}

static __always_inline int process(struct __sk_buff *skb, __u8 direction)
{
	__u32 zero = 0;
	struct vnic_config *config = bpf_map_lookup_elem(&vnic, &zero);
	struct context *c = bpf_map_lookup_elem(&scratch, &zero);

	if (!config || !c)
		return RETURN_DENY;
	__builtin_memset(c, 0, sizeof(*c));
	c->direction = direction;
	c->vnic = config->vnic;
	c->now = bpf_ktime_get_coarse_ns() + config->clock_offset_ns;
	return finish(skb, c, decide(skb, config, c));
}

/* The one place where hooks become directions: what a tap or a host-side veth receives is what the
 * guest sent.
 */
SEC("tc")
int from_guest(struct __sk_buff *skb) /* attached to the device's ingress hook */
{
	return process(skb, DIRECTION_EGRESS);
}

SEC("tc")
int toward_guest(struct __sk_buff *skb) /* attached to the device's egress hook */
{
	return process(skb, DIRECTION_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
