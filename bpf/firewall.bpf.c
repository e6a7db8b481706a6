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
#include "session.h"
#include "terms.h"
#include "fragment.h"
#include "icmp.h"
#include "live.h"
#include "verdict.h"
#include "answer.h"

/* Once for the verifier, and out of the way of the packets that the fast path understands. */
__noinline int
parse_slowly(struct __sk_buff *skb, const struct vnic_config *config, struct packet *p)
{
	if (!config || !p)
		return REASON_TRUNCATED;
	__builtin_memset(p, 0, sizeof(*p));
	return parse(skb, config, p);
}

/* What the policy says of the conversation in the context. */
__noinline int
judge(struct context *c, const struct vnic_config *config, __u8 direction, __u16 icmp)
{
	if (!c || !config)
		return 0;
	__builtin_memset(&c->judgement, 0, sizeof(c->judgement));
	policy_judge(&c->tables, config, &c->key, direction, icmp, &c->own, &c->judgement);
	return 0;
}

/* Where the other end is now; looked up when the tables change, as they do when a guest comes. */
static __always_inline void session_locate(const struct context *c, struct session *session)
{
	__u32 place = local_place(c->judgement.remote_vnic);
	const struct local *local = local_at(place);

	session->peer = local && local->vnic == c->judgement.remote_vnic ? place : 0;
}

/* A conversation whose tables changed is judged again, in the direction in which it was opened. */
static __always_inline int
revalidate(const struct vnic_config *config, struct table_info *info, struct context *c,
	   struct session *session)
{
	/* Of ICMP, only an echo makes a session (RFC 792: its code is zero). */
	__u16 echo = icmp_port(c->key.protocol == IP_ICMP ? 8 : 128, 0);

	if (session->version == c->tables.version)
		return 0;
	judge(c, config, session->opened, echo);
	if (c->judgement.reason >= REASON_DENY_FIRST) {
		session_delete(c, info);
		return REASON_REVOKED;
	}
	session->rule = c->judgement.rule;
	session->generation = tables_generation(&c->tables);
	session->local_epoch = c->judgement.local_epoch;
	session->remote_epoch = c->judgement.remote_epoch;
	session->version = c->tables.version;
	session_locate(c, session);
	return 0;
}

/* A later fragment: its datagram's first one was allowed, and still is. */
__noinline int follow(const struct vnic_config *config, struct table_info *info, struct context *c)
{
	struct session *session = 0;
	struct fragment *fragment;
	int reason;

	if (!config || !info || !c)
		return REASON_FRAGMENT;
	fragment = fragment_find(c);
	if (!fragment)
		return REASON_FRAGMENT;
	c->key = fragment->session;
	if (fragment->version != c->tables.version || c->key.protocol == IP_TCP)
		session = session_find(c, info).session;
	if (fragment->version != c->tables.version) {
		if (!session || session->expires_ns <= c->now)
			return REASON_FRAGMENT;
		reason = revalidate(config, info, c, session);
		if (reason)
			return reason;
		fragment->version = session->version;
		fragment->rule = session->rule;
	}
	c->judgement.rule = fragment->rule;
	reason = fragment_advance(c, fragment);
	if (reason)
		return reason;
	if (session && c->key.protocol == IP_TCP)
		fragment_extend(c, fragment, session);
	if (!c->packet.more_fragments)
		fragment_forget(c);
	return REASON_FRAGMENT_FOLLOWS;
}

/* Whether it quotes a packet, whose key is then in the context. */
__noinline int quotes(struct __sk_buff *skb, struct context *c)
{
	if (!c)
		return 0;
	return related_key(skb, &c->packet, c->packet.segment, c->direction, &c->key);
}

/* An ICMP error: the packet that it quotes must be of a live session. */
static __always_inline int related(struct __sk_buff *skb, const struct vnic_config *config,
				   struct table_info *info, struct context *c)
{
	struct session *session;
	int reason;

	if (!quotes(skb, c))
		return REASON_UNRELATED;
	if (c->direction == DIRECTION_INGRESS &&
	    claims_local(skb, &c->tables, c->packet.source))
		return REASON_SPOOFED_LOCAL;
	session = session_find(c, info).session;
	if (!session || session->expires_ns <= c->now)
		return REASON_UNRELATED;
	reason = revalidate(config, info, c, session);
	if (reason)
		return reason;
	c->judgement.rule = session->rule;
	return REASON_RELATED;
}

/* Whether the tables still allow the session, and the packet comes from where its other end is. */
static __always_inline int
holds(struct __sk_buff *skb, const struct vnic_config *config, struct table_info *info,
      struct context *c, struct session *session)
{
	int reason = revalidate(config, info, c, session);

	if (reason)
		return reason;
	c->judgement.rule = session->rule;
	if (c->direction == DIRECTION_INGRESS && peer_elsewhere(skb, session->peer))
		return REASON_SPOOFED_LOCAL;
	c->peer = session->peer;
	return 0;
}

/* What a packet that was tracked is to its session, or zero if it begins anew. */
static __always_inline int
tracked(struct __sk_buff *skb, struct context *c, struct session *session, int track)
{
	int reason;

	if (track == TRACK_REOPEN)
		return 0;
	reason = track_reason(track, c->key.protocol);
	if (reason)
		return reason;
	session_update(session, c->direction, skb->len, c->now);
	session_renew(session, track, c->key.protocol, c->now);
	return REASON_SESSION;
}

/* The packet of a live session, or zero if it begins anew. */
static __always_inline int
established(struct __sk_buff *skb, const struct vnic_config *config, struct table_info *info,
	    struct context *c, struct session *session)
{
	int reason = holds(skb, config, info, c, session);

	if (reason)
		return reason;
	return tracked(skb, c, session, session_track(session, &c->packet, c->direction));
}

/* The opener's own packet ends the handshake of TCP, and that of SCTP if both began at once. */
static __always_inline int may_answer(const struct context *c, const struct session *half)
{
	return half->opened != c->direction || c->key.protocol == IP_TCP ||
	       c->key.protocol == IP_SCTP;
}

/* Whether a packet that was tracked has ended the handshake. */
static __always_inline int
ends_handshake(const struct context *c, const struct session *session, int track)
{
	return track != TRACK_REOPEN && !track_reason(track, c->key.protocol) &&
	       session->state > STATE_SYN_RECEIVED && session->state != STATE_CLOSED;
}

/* An answer to a session without one. What ends the handshake happens to a copy that is promoted,
 * and if there is no room for it the session has stayed as it was: no other processor takes it for
 * answered meanwhile. What ends nothing happens to the session itself, because a copy that is
 * written back would undo what another processor did. A guest answers forged SYNs too, so that TCP
 * is promoted by the end of its handshake.
 */
static __always_inline int
answered(struct __sk_buff *skb, const struct vnic_config *config, struct table_info *info,
	 struct context *c, struct session *half)
{
	int track, ends, reason = holds(skb, config, info, c, half);

	if (reason)
		return reason;
	c->fresh = *half;
	track = session_track(&c->fresh, &c->packet, c->direction);
	ends = ends_handshake(c, &c->fresh, track);
	if (ends)
		half = &c->fresh;
	else
		track = session_track(half, &c->packet, c->direction);
	reason = tracked(skb, c, half, track);
	if (!ends || reason != REASON_SESSION)
		return reason;
	return session_promote(c, info, config->sessions_max) ? reason : REASON_SESSION_TABLE_FULL;
}

/* The session that the packet at hand makes, under what was judged of it. */
static __always_inline void
session_make(struct __sk_buff *skb, struct context *c, __u8 opened, __u8 state)
{
	struct session *new = &c->fresh;
	__u8 own = c->direction & 1;

	__builtin_memset(new, 0, sizeof(*new));
	new->state = state;
	new->opened = opened;
	new->rule = c->judgement.rule;
	new->version = c->tables.version;
	new->generation = tables_generation(&c->tables);
	new->local_epoch = c->judgement.local_epoch;
	new->remote_epoch = c->judgement.remote_epoch;
	new->seen = ticks(c->now);
	session_locate(c, new);
	new->expires_ns = c->now + session_timeout_ns(c->packet.protocol, state);
	new->packets[own] = 1;
	new->bytes[own] = skb->len;
}

/* Who is taken to have opened a conversation whose host has died before it could say what it had:
 * one more than the direction, or zero if it is not taken up. The policy is asked as if the sender
 * of the segment had, then as if the other end had.
 */
__noinline int adopt(const struct vnic_config *config, struct context *c)
{
	if (!config || !c || !terms_adopt(c))
		return 0;
	if (c->judgement.reason == REASON_POLICY_ALLOW)
		return 1 + (c->direction & 1);
	judge(c, config, !(c->direction & 1), 0);
	return c->judgement.reason == REASON_POLICY_ALLOW ? 1 + !(c->direction & 1) : 0;
}

/* Until both ends were heard such a session is as liberal as one that arrives without windows. */
static __always_inline int
adopted(struct __sk_buff *skb, const struct vnic_config *config, struct table_info *info,
	struct context *c, __u8 opened)
{
	session_make(skb, c, opened, STATE_ESTABLISHED);
	session_track(&c->fresh, &c->packet, c->direction);
	if (!session_promote(c, info, config->sessions_max))
		return REASON_SESSION_TABLE_FULL;
	c->new_session = 1;
	return c->judgement.reason == REASON_POLICY_ALLOW ? REASON_ADOPTED : c->judgement.reason;
}

/* One that begins, in the table of those without an answer. */
static __always_inline int
opened(struct __sk_buff *skb, struct table_info *info, struct context *c)
{
	struct session *new = &c->fresh;
	int inserted;

	session_make(skb, c, c->direction, STATE_UNREPLIED);
	if (c->packet.protocol == IP_TCP)
		tcp_syn_seen(new, c->direction & 1, &c->packet);
	if (c->packet.protocol == IP_SCTP)
		sctp_first(new, &c->packet);
	inserted = half_insert(c, info->buckets[TABLE_HALF_OPEN]);
	if (inserted == INSERT_FULL)
		return REASON_SESSION_TABLE_FULL;
	c->new_session = inserted == INSERT_DONE;
	return c->judgement.reason;
}

static __always_inline int
begin(struct __sk_buff *skb, const struct vnic_config *config, struct table_info *info,
      struct context *c)
{
	const struct packet *p = &c->packet;
	int kind = icmp_kind(p->protocol, p->icmp_type), opener = 0;

	judge(c, config, c->direction, icmp_port(p->icmp_type, p->icmp_code));
	/* Spoofing is told apart from a missing session: the address comes first. */
	if (c->judgement.reason >= REASON_SPOOFED_MAC)
		return c->judgement.reason;
	if (c->direction == DIRECTION_INGRESS && from_elsewhere(skb, c->judgement.remote_vnic))
		return REASON_SPOOFED_LOCAL;
	if (p->protocol == IP_TCP) {
		if (tcp_flags_impossible(p->flags))
			return REASON_TCP_FLAGS;
		if ((p->flags & (FLAG_SYN | FLAG_ACK)) != FLAG_SYN) {
			opener = adopt(config, c);
			if (!opener)
				return REASON_NO_SESSION;
		}
	}
	if (p->protocol == IP_SCTP && sctp_impossible(p))
		return REASON_SCTP_INVALID;
	if (kind == ICMP_REPLY || (p->protocol == IP_SCTP && !sctp_opens(p)))
		return REASON_NO_SESSION;
	if (c->proves)
		return c->judgement.reason;
	terms_keep(c);
	rule_limit(c);
	c->begins = 1;
	/* A message that nobody answers leaves nothing behind. */
	if (c->judgement.reason >= REASON_DENY_FIRST || kind == ICMP_OTHER)
		return c->judgement.reason;
	return opener ? adopted(skb, config, info, c, opener - 1) : opened(skb, info, c);
}

/* A message between a client and a server of DHCP: by the rule under which the guest, if it is the
 * client, may reach the server, or the client may reach the guest. Whoever has no address yet is
 * known by the vnic's link-local one.
 */
__noinline int dhcp(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	int egress, to_server, reason;
	struct session_key *key;
	const struct packet *p;

	if (!config || !c)
		return REASON_TRUNCATED;
	p = &c->packet;
	key = &c->key;
	egress = c->direction == DIRECTION_EGRESS;
	to_server = !!dhcp_server_port(p, 1);
	if (egress == to_server) {
		reason = dhcp_check(skb, config, p, to_server);
		if (reason)
			return reason;
	}
	if (egress && !has_no_address(p) &&
	    !address_bound(&c->tables, config, p->source))
		return REASON_SPOOFED_ADDRESS;
	link_local(config, key->local);
	__builtin_memcpy(key->remote, egress ? p->destination : p->source, 16);
	key->segment = p->segment;
	key->protocol = IP_UDP;
	key->local_port = egress ? p->source_port : p->destination_port;
	key->remote_port = egress ? p->destination_port : p->source_port;
	/* What a server answers, the client may have asked. */
	judge(c, config, egress == to_server ? DIRECTION_EGRESS : DIRECTION_INGRESS, 0);
	if (c->judgement.reason >= REASON_SPOOFED_MAC)
		return c->judgement.reason;
	if (!egress && from_elsewhere(skb, c->judgement.remote_vnic))
		return REASON_SPOOFED_LOCAL;
	return c->judgement.reason == REASON_POLICY_ALLOW ? REASON_DHCP : c->judgement.reason;
}

__noinline int arp(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	if (!config || !c)
		return REASON_TRUNCATED;
	return arp_check(skb, &c->packet, &c->tables, config, c->direction);
}

/* Neighbour discovery. Zero for every other message of ICMPv6. */
__noinline int neighbour(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	if (!config || !c)
		return REASON_TRUNCATED;
	return nd_check(skb, &c->tables, config, &c->packet, c->direction);
}

/* The reason for what only a server may say, or a client and a server say to each other. A server's
 * own answers are ordinary conversations. Zero for everything else.
 */
static __always_inline int
guarded(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	const struct packet *p = &c->packet;
	int egress = c->direction == DIRECTION_EGRESS;

	if (egress && plays_server(config, p))
		return REASON_ROGUE_SERVER;
	if (dhcp_server_port(p, egress) ||
	    (!egress && config->roles & ROLE_DHCP_SERVER && dhcp_server_port(p, 1)))
		return dhcp(skb, config, c);
	return 0;
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
sessions_and_policy(struct __sk_buff *skb, const struct vnic_config *config,
		    struct table_info *info, struct context *c)
{
	struct packet *p = &c->packet;
	int reason, kind = icmp_kind(p->protocol, p->icmp_type);
	struct found found;

	if (kind == ICMP_ERROR)
		return related(skb, config, info, c);
	session_key_of(p, p->segment, c->direction, &c->key);
	if (kind == ICMP_ECHO || kind == ICMP_REPLY) {
		c->key.local_port = p->source_port;
		c->key.remote_port = echo_side(kind, c->direction);
	}
	/* A router's advertisement names a group; the vnic's own link-local address stands in. */
	if (c->direction == DIRECTION_INGRESS && p->protocol == IP_ICMPV6 &&
	    p->icmp_type == ND_ROUTER_ADVERTISEMENT && p->destination[0] == 0xff)
		link_local(config, c->key.local);

	/* 5. A live session. An expired one is a miss, and makes room for its successor. */
	found = session_find(c, info);
	if (found.session && !c->proves) {
		if (found.session->expires_ns <= c->now)
			reason = 0;
		else if (found.where == FOUND_HALF_OPEN && may_answer(c, found.session))
			reason = answered(skb, config, info, c, found.session);
		else
			reason = established(skb, config, info, c, found.session);
		if (reason == REASON_SESSION && found.where == FOUND_HALF_OPEN)
			half_heard(c, info->buckets[TABLE_HALF_OPEN]);
		if (reason)
			return reason;
		session_delete(c, info);
	}
	/* 6. A miss: the ends' bindings, the peer's identity, the atom, the decision. 7. Insert. */
	return begin(skb, config, info, c);
}

static __always_inline int
decide(struct __sk_buff *skb, const struct vnic_config *config, struct context *c)
{
	struct table_info *info = bpf_map_lookup_elem(&session_table, &(__u32){ 0 });
	struct packet *p = &c->packet;
	int reason;

	if (!info)
		return REASON_HOLD;
	/* 1. The vnic's state: unless it is open, everything is dropped and counted. */
	reason = closed_reason(*(volatile __u32 *)&config->state);
	if (reason)
		return reason;
	/* 2. Parse. What is not understood is denied. */
	if (!parse_fast(skb, config, p)) {
		reason = parse_slowly(skb, config, p);
		if (reason)
			return reason;
	}
	/* 3. The MAC, whose liar is not worth a look-up. */
	reason = mac_check(config, p, c->direction);
	if (reason)
		return reason;
	/* 4. The link's own protocols; all but the announcement ask who has an address. */
	if (p->ether_type == TYPE_RARP)
		return rarp_check(skb, p, config, c->direction);
	tables_read(&c->tables);
	c->tables.segment = p->segment;
	if (!c->tables.version)
		return REASON_NO_RELEASE;
	if (p->ether_type == TYPE_ARP)
		return arp(skb, config, c);
	if (!p->family) {
		policy_judge_ether(&c->tables, config, c->direction, p->ether_type, &c->judgement);
		rule_limit(c);
		return c->judgement.reason;
	}
	if (p->fragment) {
		reason = p->fragment == FRAGMENT_LATER ? follow(config, info, c) :
							 fragment_first(c);
		if (reason)
			return reason;
	}
	if (p->protocol == IP_ICMPV6) {
		reason = neighbour(skb, config, c);
		if (reason)
			return reason;
	}
	reason = guarded(skb, config, c);
	if (!reason)
		reason = sessions_and_policy(skb, config, info, c);
	if (p->fragment && reason < REASON_DENY_FIRST)
		fragment_remember(c);
	return reason;
}

/* Whether what is denied is dropped. */
static __always_inline int enforces(const struct vnic_config *config, __u64 now)
{
	return config->mode == MODE_ENFORCE ||
	       (config->mode == MODE_TRIAL && now < config->trial_until_ns);
}

/* The long way, for whatever is not the packet of a live session as most are. */
static __always_inline int
process(struct __sk_buff *skb, __u8 direction, __u64 hash, __u64 absent)
{
	__u32 zero = 0;
	struct vnic_config *config = bpf_map_lookup_elem(&vnic, &zero);
	struct context *c = bpf_map_lookup_elem(&scratch, &zero);
	int reason, verdict;

	if (!config || !c)
		return RETURN_DENY;
	/* All but the session that the packet may open. */
	__builtin_memset(c, 0, offsetof(struct context, fresh));
	c->trace.hash = hash;
	c->trace.absent = absent;
	c->direction = direction;
	c->vnic = config->vnic;
	c->now = clock_now(config, &zero);
	c->proves = terms_proof(skb);
	reason = decide(skb, config, c);
	if (c->proves)
		return proven(skb, c, reason);
	if (reason >= REASON_DENY_FIRST && may_be_answer(&c->packet) && answer_expected(skb, c)) {
		reason = REASON_ANSWER;
		c->judgement.rule = 0;
	}
	if (direction == DIRECTION_INGRESS)
		steer_seen(config, c->now);
	c->passes = reason >= REASON_DENY_FIRST && !enforces(config, c->now);
	verdict = finish(skb, c, reason);
	/* DHCP and other EtherTypes have no answer. */
	if (verdict == RETURN_DENY && reason == REASON_REJECTED && c->begins)
		return answer(skb, c);
	if (direction == DIRECTION_EGRESS && reason == REASON_SESSION &&
	    c->packet.network == ETHER_BYTES && !skb->vlan_present)
		return live_way(skb, config, &(struct way){ c->peer, c->now });
	return verdict;
}

/* Apart from the programs, so that these are short and their code stays in the processor's cache.
 */
__noinline int process_from_guest(struct __sk_buff *skb, __u64 hash, __u64 absent)
{
	return process(skb, DIRECTION_EGRESS, hash, absent);
}

__noinline int process_toward_guest(struct __sk_buff *skb, __u64 hash, __u64 absent)
{
	return process(skb, DIRECTION_INGRESS, hash, absent);
}

/* The one place where hooks become directions: what a tap or a host-side veth receives is what the
 * guest sent. The hypervisor's own device is the other way round, and is attached so.
 */
SEC("tc")
int from_guest(struct __sk_buff *skb) /* attached to the device's ingress hook */
{
	struct trace trace = {};
	int verdict = live(skb, DIRECTION_EGRESS, &trace);

	return verdict == LIVE_NOT ? process_from_guest(skb, trace.hash, trace.absent) : verdict;
}

SEC("tc")
int toward_guest(struct __sk_buff *skb) /* attached to the device's egress hook */
{
	struct trace trace = {};
	int verdict = live(skb, DIRECTION_INGRESS, &trace);

	return verdict == LIVE_NOT ? process_toward_guest(skb, trace.hash, trace.absent) : verdict;
}

char _license[] SEC("license") = "Dual BSD/GPL";
