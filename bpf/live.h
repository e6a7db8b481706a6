/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet of a live session, from the wire to the verdict, with nothing in memory but what it
 * must touch: no context is cleared, and hardly a function called. It says of a packet what the
 * long way of firewall.bpf.c says, or nothing: whatever is unusual in the packet, its session, the
 * tables or the vnic is left to the long way, and nothing but the time when a half-open session
 * was heard of has been written by then.
 */
#ifndef LICTOR_LIVE_H
#define LICTOR_LIVE_H

#include "clock.h"
#include "fast.h"
#include "guard.h"
#include "session.h"
#include "steer.h"
#include "verdict.h"

/* No verdict: the long way decides. */
#define LIVE_NOT 99

/* Two words as they lie behind each other. */
static __always_inline __u64 words(__u32 first, __u32 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u64)second << 32;
#else
	return (__u64)first << 32 | second;
#endif
}

/* Servers of DHCP are guarded (guard.h), and no client of theirs is busy. */
static __always_inline int live_port(__u16 port)
{
	return port != DHCP_SERVER_PORT && port != DHCP6_SERVER_PORT;
}

/* Whether the transport header is there and plain. */
static __always_inline int
live_l4(const struct __sk_buff *skb, const void *l4, __u32 l4_bytes, __u8 protocol)
{
	const void *end = (const void *)(long)skb->data_end;
	const struct tcp *tcp = l4;
	const struct udp *udp = l4;

	/* The options of a SYN are looked at when it is known to answer one. One that opens is not for
	 * here, but the look for its session is: what the long way does first is done while the
	 * processor waits for lines that nobody has touched for long.
	 */
	if (protocol == IP_TCP)
		return (const void *)(tcp + 1) <= end &&
		       (tcp->flags & FLAG_SYN || plain_tcp(tcp, l4_bytes, end));
	if (protocol != IP_UDP || (const void *)(udp + 1) > end)
		return 0;
	return plain_udp(skb, udp, l4_bytes) && live_port(bpf_ntohs(udp->source)) &&
	       live_port(bpf_ntohs(udp->destination));
}

/* What is constant about a packet, so that nothing of it takes room on the stack. */
struct live_packet {
	const void *network;
	const __u32 *zero; /* the key of every map of one value */
	int v6;
	__u8 direction;
};

/* Its ends as they lie in the packet. */
struct live_ends {
	const __u8 *local;
	const __u8 *remote;
	__u64 tail; /* what of the key (struct session_key) is not an address */
};

static __always_inline struct live_ends live_ends(const struct live_packet *p, __u32 segment)
{
	int egress = p->direction == DIRECTION_EGRESS;
	const struct ipv4 *ip4 = p->network;
	const struct ipv6 *ip6 = p->network;
	const __u8 *from = p->v6 ? ip6->source : ip4->source;
	const __u8 *to = p->v6 ? ip6->destination : ip4->destination;
	const struct udp *ports = p->v6 ? (const void *)(ip6 + 1) : (const void *)(ip4 + 1);
	__u16 source = bpf_ntohs(ports->source), destination = bpf_ntohs(ports->destination);
	struct session_key key = {
		.local_port = egress ? source : destination,
		.remote_port = egress ? destination : source,
		.protocol = p->v6 ? ip6->next : ip4->protocol,
		.segment = segment,
	};

	return (struct live_ends){ egress ? from : to, egress ? to : from, ((__u64 *)&key)[4] };
}

/* As table_hash() does, over the same words. */
static __always_inline __u64
live_hash(const struct table_info *info, const struct live_packet *p, __u32 segment)
{
	const struct live_ends ends = live_ends(p, segment);
	const __u32 *tail = (const __u32 *)&ends.tail;
	const __u64 *keys = info->hash_keys;
	__u64 sum = keys[HASH_WORDS] + keys[8] * tail[0] + keys[9] * tail[1];

	if (!p->v6) {
		sum += (keys[2] + keys[6]) * bpf_htonl(0xffff);
		sum += keys[3] * word_at(ends.local) + keys[7] * word_at(ends.remote);
		return hash_mixed(sum);
	}
	/* One after the other: all of them at once do not fit into the registers. */
#pragma unroll
	for (__u32 i = 0; i < 4; i++) {
		sum += keys[i] * word_at(ends.local + 4 * i);
		asm volatile("" : "+r"(sum));
		sum += keys[4 + i] * word_at(ends.remote + 4 * i);
		asm volatile("" : "+r"(sum));
	}
	return hash_mixed(sum);
}

static __always_inline int
live_same(const struct session_key *key, const struct live_packet *p, __u32 segment)
{
	const struct live_ends ends = live_ends(p, segment);
	const __u64 *its = (const __u64 *)key;

	if (its[4] != ends.tail)
		return 0;
	if (p->v6)
		return its[0] == long_at(ends.local) && its[1] == long_at(ends.local + 8) &&
		       its[2] == long_at(ends.remote) && its[3] == long_at(ends.remote + 8);
	return !its[0] && its[1] == words(bpf_htonl(0xffff), word_at(ends.local)) && !its[2] &&
	       its[3] == words(bpf_htonl(0xffff), word_at(ends.remote));
}

/* The bucket in which the session is if it found room at once. */
static __always_inline struct bucket *
live_bucket(const struct live_packet *p, __u32 segment, struct trace *trace)
{
	struct table_info *info = bpf_map_lookup_elem(&session_table, p->zero);
	__u32 current, table;

	if (!info)
		return 0;
	trace->hash = live_hash(info, p, segment);
	current = *(volatile __u32 *)&info->current;
	table = current & TABLE_CURRENT_MASK;
	/* Before the look: whatever is promoted after it is looked for again. */
	if (!(current & TABLE_DRAINING))
		trace->absent = trace_absent(info);
	return bucket_at(table, info->buckets[table], trace->hash, 0);
}

/* The place of that tag, or BUCKET_SLOTS. Another key has the same one in a bucket once in a
 * hundred million times.
 */
static __always_inline __u32 live_place(const struct bucket *bucket, __u64 hash)
{
	__u64 wanted = control_word(hash, 0, SLOT_LIVE);
	__u32 at = slot_preferred(hash);

	if ((bucket->control[at] & CONTROL_MATCH) == wanted)
		return at;
#pragma unroll
	for (__u32 i = 0; i < BUCKET_SLOTS; i++)
		if ((bucket->control[i] & CONTROL_MATCH) == wanted)
			return i;
	return BUCKET_SLOTS;
}

/* The session there, if its key is the packet's and the tables that allowed it hold. */
static __always_inline struct session *
live_at(struct bucket *bucket, __u32 place, const struct live_packet *p, __u32 segment)
{
	__u64 *tables = bpf_map_lookup_elem(&active, p->zero);
	struct live_packet again = *p;
	struct slot *slot;
	__u32 version;

	if (place >= BUCKET_SLOTS || !tables)
		return 0;
	slot = &bucket->slots[place];
	/* Read again: what is remembered over a look-up costs stack. */
	asm volatile("" : "+r"(again.network));
	version = *(volatile __u64 *)tables >> ACTIVE_VERSION_SHIFT;
	/* Version zero is that of tables which were never loaded, and of imported sessions. */
	if (!live_same(&slot->key, &again, segment) || !version || slot->session.version != version)
		return 0;
	return &slot->session;
}

/* A session that was answered and is not reset: the states between are next to each other. */
static __always_inline struct session *
live_session(const struct live_packet *p, __u32 segment, struct trace *trace, __u64 now)
{
	struct bucket *bucket = live_bucket(p, segment, trace);
	struct session *s;
	__u32 place;

	if (!bucket)
		return 0;
	place = live_place(bucket, trace->hash);
	if (place < BUCKET_SLOTS || *(volatile __u32 *)&bucket->passed)
		trace->absent = 0;
	s = live_at(bucket, place, p, segment);
	if (s && bucket_hear(bucket, now))
		way_hear(trace->hash, 0, now);
	return s && s->state >= STATE_ESTABLISHED && s->state <= STATE_TIME_WAIT ? s : 0;
}

/* Begins to fetch the slot that is likely to be the next session's, so that it is there when the
 * policy has been asked.
 */
static __always_inline void half_fetch(struct bucket *bucket)
{
	__u32 at = *(volatile __u32 *)&bucket->passed % BUCKET_SLOTS;
	const volatile __u64 *words;

	asm volatile("" : "+r"(at));
	if (at >= BUCKET_SLOTS)
		return;
	words = (const volatile __u64 *)&bucket->slots[at];
	(void)words[0];
	(void)words[8];
	(void)words[16];
}

/* Another datagram, as of a log that is sent, or the answer to a SYN, or the end of a handshake. */
static __always_inline int
live_half_goes_on(const struct session *s, __u8 direction, __u8 protocol)
{
	int opener = s->opened == direction;

	if (protocol == IP_UDP)
		return opener && s->state == STATE_UNREPLIED;
	return s->state == (opener ? STATE_SYN_RECEIVED : STATE_UNREPLIED);
}

/* One that is not established. */
static __always_inline struct session *
live_half(const struct live_packet *p, const struct vnic_config *config, __u8 protocol,
	  struct trace *trace, __u64 **control)
{
	struct table_info *info = bpf_map_lookup_elem(&session_table, p->zero);
	struct bucket *bucket;
	struct session *s;
	__u32 place;

	if (!info)
		return 0;
	bucket = bucket_at(TABLE_HALF_OPEN, info->buckets[TABLE_HALF_OPEN], trace->hash, 0);
	if (!bucket)
		return 0;
	place = live_place(bucket, trace->hash);
	if (place >= BUCKET_SLOTS) {
		trace->absent |= TRACE_ABSENT_HALF_OPEN;
		half_fetch(bucket);
		return 0;
	}
	s = live_at(bucket, place, p, config->segment);
	if (!s || !live_half_goes_on(s, p->direction, protocol))
		return 0;
	*control = &bucket->control[place];
	return s;
}

/* The answer to the opener's SYN. */
static __always_inline int
live_answer(struct session *s, struct packet *p, const struct tcp *header, __u32 l4_bytes,
	    const void *end)
{
	__u32 payload = plain_syn(p, header, l4_bytes, end);

	if (!payload || s->state != STATE_UNREPLIED ||
	    tcp_flags_impossible(header->flags))
		return 0;
	fast_segment(p, header, payload - 1);
	if (!tcp_answers(s, s->opened, p))
		return 0;
	tcp_answered(s, p);
	return 1;
}

/* The TCP header of a packet that was found plain, and the octets from there on. Whoever is a
 * function by itself, for want of stack, looks at the packet again.
 */
struct live_tcp {
	const struct tcp *header; /* or zero */
	__u32 bytes;
};

static __always_inline struct live_tcp live_tcp(const struct __sk_buff *skb, __u32 v6)
{
	const void *data = (const void *)(long)skb->data + ETHER_BYTES;
	const struct ipv4 *ip4 = data;
	const struct ipv6 *ip6 = data;
	const struct tcp *header = v6 ? (const void *)(ip6 + 1) : (const void *)(ip4 + 1);

	if ((const void *)(header + 1) > (const void *)(long)skb->data_end)
		return (struct live_tcp){};
	return (struct live_tcp){
		header, v6 ? bpf_ntohs(ip6->length) : bpf_ntohs(ip4->length) - sizeof(*ip4)
	};
}

/* A segment within the windows, the last one of its end among them, or the answer to a SYN. */
__noinline int live_segment(struct __sk_buff *skb, struct session *s, __u32 v6, __u32 own)
{
	const struct live_tcp tcp = live_tcp(skb, v6);
	const struct tcp *header = tcp.header;
	struct packet p = {};

	if (!s || !header)
		return 0;
	if (header->flags & FLAG_SYN)
		return live_answer(s, &p, header, tcp.bytes,
				   (const void *)(long)skb->data_end);
	if ((header->flags & (FLAG_RST | FLAG_ACK)) != FLAG_ACK ||
	    tcp_flags_impossible(header->flags) || s->state < STATE_ESTABLISHED ||
	    !(s->flags[0] & s->flags[1] & END_KNOWN))
		return 0;
	fast_segment(&p, header, tcp.bytes - (header->offset >> 4) * 4);
	if (tcp_window(s, own, &p) != TRACK_OK)
		return 0;
	tcp_pass(s, own & 1, &p);
	return 1;
}

static __always_inline void
live_tell(struct __sk_buff *skb, const struct session *s, __u8 direction)
{
	count(direction, REASON_SESSION, skb->len);
	skb->cb[CB_REASON] = REASON_SESSION;
	skb->cb[CB_RULE] = s->rule;
	skb->cb[CB_WOULD_RULE] = 0;
	skb->cb[CB_WOULD] = VERDICT_NONE;
}

/* What the packet did to its session, and what is counted and told of it. */
static __always_inline void
live_pass(struct __sk_buff *skb, struct session *s, __u8 direction, __u32 seconds, __u64 now)
{
	session_update(s, direction, skb->len, now);
	s->expires_ns = now + seconds * SECOND_NS;
	live_tell(skb, s, direction);
}

static __always_inline const struct slot *live_slot(const struct session *s)
{
	return (const void *)s - offsetof(struct slot, session);
}

/* The opener's segment that ends the handshake: one more than where the other end is, or zero. As
 * answered() in firewall.bpf.c does, with a copy; and what the long way fetches anew is known here.
 */
__noinline int
live_opened(struct __sk_buff *skb, const struct slot *half, __u32 v6, __u64 hash, __u64 now)
{
	const struct live_tcp tcp = live_tcp(skb, v6);
	const struct tcp *header = tcp.header;
	__u32 zero = 0;
	struct vnic_config *config = bpf_map_lookup_elem(&vnic, &zero);
	struct table_info *info = bpf_map_lookup_elem(&session_table, &zero);
	struct context *c = bpf_map_lookup_elem(&scratch, &zero);
	struct session *s;

	if (!half || !config || !info || !c || !header)
		return 0;
	fast_segment(&c->packet, header, tcp.bytes - (header->offset >> 4) * 4);
	c->packet.protocol = IP_TCP;
	c->key = half->key;
	c->fresh = half->session;
	s = &c->fresh;
	if (c->packet.flags & (FLAG_SYN | FLAG_RST) || s->state != STATE_SYN_RECEIVED ||
	    session_track(s, &c->packet, s->opened) != TRACK_OK || s->state <= STATE_SYN_RECEIVED)
		return 0;
	c->trace.hash = hash;
	c->now = now;
	session_update(s, s->opened, skb->len, now);
	s->expires_ns = now + session_timeout_ns(IP_TCP, s->state);
	if (!session_promote(c, info, config->sessions_max))
		return 0;
	live_tell(skb, s, s->opened);
	return s->peer + 1;
}

/* On, or straight to the other end's device. */
static __always_inline int
live_way(struct __sk_buff *skb, const struct vnic_config *config, const struct way *way)
{
	int steered = steer(skb, config, way);

	if (steered)
		count(DIRECTION_EGRESS, COUNTER_STEERED, skb->len);
	return steered ? steered : RETURN_ALLOW;
}

/* One more than where the other end is, if the packet passes; zero if that is not for here. */
static __always_inline __u32
live_passes(struct __sk_buff *skb, const struct live_packet *p, __u8 protocol, struct session *s,
	    __u32 place, __u64 now)
{
	struct timeouts *host = bpf_map_lookup_elem(&timeouts, p->zero);

	if (!host)
		return 0;
	if (protocol == IP_TCP) {
		if (!live_segment(skb, s, p->v6, p->direction))
			return 0;
		place = TIMEOUT_TCP + (s->state & 7);
	}
	live_pass(skb, s, p->direction, host->seconds[place], now);
	return s->peer + 1;
}

static __always_inline int live_judge(struct __sk_buff *skb, const struct vnic_config *config,
				      const struct live_packet *p, __u8 protocol,
				      struct trace *trace)
{
	__u64 now = clock_now(config, p->zero);
	struct session *s = live_session(p, config->segment, trace, now);
	__u64 *half = 0;
	__u32 peer;

	if (!s && trace->absent)
		s = live_half(p, config, protocol, trace, &half);
	if (!s || s->expires_ns <= now ||
	    (p->direction == DIRECTION_INGRESS && peer_elsewhere(skb, s->peer)))
		return LIVE_NOT;
	if (half && s->state == STATE_SYN_RECEIVED)
		peer = live_opened(skb, live_slot(s), p->v6, trace->hash, now);
	else
		peer = live_passes(skb, p, protocol, s, TIMEOUT_UDP + !half, now);
	if (!peer)
		return LIVE_NOT;
	if (half)
		half_hear(half, trace->hash, now);
	if (p->direction == DIRECTION_EGRESS)
		return live_way(skb, config, &(struct way){ peer - 1, now });
	steer_seen(config, now);
	return RETURN_ALLOW;
}

static __always_inline int
live_ipv4(struct __sk_buff *skb, const struct vnic_config *config, const struct ipv4 *header,
	  const __u32 *zero, __u8 direction, struct trace *trace)
{
	const struct live_packet p = { header, zero, 0, direction };
	__u32 bytes;

	if ((const void *)(header + 1) > (const void *)(long)skb->data_end)
		return LIVE_NOT;
	bytes = plain_ipv4(skb, header);
	if (!bytes || !live_l4(skb, header + 1, bytes, header->protocol))
		return LIVE_NOT;
	return live_judge(skb, config, &p, header->protocol, trace);
}

static __always_inline int
live_ipv6(struct __sk_buff *skb, const struct vnic_config *config, const struct ipv6 *header,
	  const __u32 *zero, __u8 direction, struct trace *trace)
{
	const struct live_packet p = { header, zero, 1, direction };
	__u32 bytes;

	if ((const void *)(header + 1) > (const void *)(long)skb->data_end)
		return LIVE_NOT;
	bytes = plain_ipv6(skb, header);
	if (!bytes || !live_l4(skb, header + 1, bytes, header->next))
		return LIVE_NOT;
	return live_judge(skb, config, &p, header->next, trace);
}

static __always_inline int live(struct __sk_buff *skb, __u8 direction, struct trace *trace)
{
	const void *data = (const void *)(long)skb->data, *end = (const void *)(long)skb->data_end;
	const struct ether *header = data;
	__u32 zero = 0;
	struct vnic_config *config = bpf_map_lookup_elem(&vnic, &zero);

	if (!config || *(volatile __u32 *)&config->state != VNIC_OPEN)
		return LIVE_NOT;
	if ((const void *)(header + 1) > end || skb->vlan_present)
		return LIVE_NOT;
	/* The vnic's first station. The others, and groups, are not busy. */
	if (!same_mac(direction == DIRECTION_EGRESS ? header->source : header->destination,
		      config->mac))
		return LIVE_NOT;
	if (header->type == bpf_htons(TYPE_IPV4))
		return live_ipv4(skb, config, (const void *)(header + 1), &zero, direction, trace);
	if (header->type == bpf_htons(TYPE_IPV6))
		return live_ipv6(skb, config, (const void *)(header + 1), &zero, direction, trace);
	return LIVE_NOT;
}

#endif
