/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The refusal of a packet that a rule rejects: TCP gets a reset, what can be answered by ICMP an
 * "administratively prohibited". The packet itself is rewritten and sent back by the vnic's own
 * device, toward the guest or, as if the guest had sent it, through whatever the device is a port
 * of:
 * no VLAN, route or bridge needs to be known. There our other program meets it, and knows it by its
 * bytes. What can't be answered is a plain denial.
 */
#ifndef LICTOR_ANSWER_H
#define LICTOR_ANSWER_H

#include "context.h"
#include "icmp.h"
#include "rules.h"

#define FLAGS_STORE (BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH)
#define ANSWER_HOPS 64
#define DO_NOT_FRAGMENT 0x4000
#define QUOTE_BYTES 8 /* of the transport header, as RFC 792 asks */
#define UDP_CHECKSUM_AT 6
#define TCP_CHECKSUM_AT 16
#define TCP_HEADER_WORDS 5
#define ICMP_UNREACHABLE 3
#define ICMP_PROHIBITED 13 /* RFC 1812, 5.2.7.1 */
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PROHIBITED 1 /* RFC 4443, 3.1 */

/* As RFC 1071 sums it; the order of the parts does not matter. */
struct pseudo_header {
	__u8 source[16];
	__u8 destination[16];
	__be32 bytes;
	__be32 protocol;
};

struct answer {
	union {
		struct {
			struct ipv4 ip;
			struct tcp tcp;
		} tcp4;
		struct {
			struct ipv6 ip;
			struct tcp tcp;
		} tcp6;
		struct {
			struct ipv4 ip;
			struct icmp icmp;
			__u8 quote[sizeof(struct ipv4) + QUOTE_BYTES];
		} icmp4;
		struct {
			struct ipv6 ip;
			struct icmp icmp;
			__u8 quote[sizeof(struct ipv6) + QUOTE_BYTES];
		} icmp6;
	};
	struct pseudo_header pseudo;
	__u8 macs[12];
};

/* What an answer is known by where it passes. */
struct answer_mark {
	__u8 local[16];
	__u8 remote[16];
	__u8 head[20]; /* of TCP all of its header, else the first eight bytes and zeros */
	__u32 l4_bytes;
	__u64 until_ns;
};
_Static_assert(sizeof(struct answer_mark) == 64, "answer_mark");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answer_scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ANSWER_MARKS);
	__type(key, __u32);
	__type(value, struct answer_mark);
} answer_marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} answer_limit SEC(".maps");

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Both orders of the ends sum to the same. The prefix of a v4-mapped address sums to nothing: twice
 * 0xffff (RFC 1071, 2).
 */
static __always_inline __u64
pseudo_sum(struct answer *a, const struct packet *p, __u32 bytes, __u8 protocol)
{
	__builtin_memcpy(a->pseudo.source, p->source, 16);
	__builtin_memcpy(a->pseudo.destination, p->destination, 16);
	a->pseudo.bytes = bpf_htonl(bytes);
	a->pseudo.protocol = bpf_htonl(protocol);
	return (__u32)bpf_csum_diff(0, 0, (__be32 *)&a->pseudo, sizeof(a->pseudo), 0);
}

/* Whether the sender leaves the checksum to the device: then only the pseudo header is summed so
 * far, and the device will sum what we write. No helper tells; one packet of 65,536 is mistaken,
 * and its answer is lost.
 */
static __always_inline int
checksum_is_partial(struct __sk_buff *skb, struct answer *a, const struct packet *p)
{
	__u32 at = p->protocol == IP_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT;
	__u16 there;

	if (p->protocol != IP_TCP && p->protocol != IP_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4 + at, &there, sizeof(there)))
		return 0;
	return there == folded(pseudo_sum(a, p, p->l4_bytes, p->protocol));
}

static __always_inline void
answer_ipv4(struct ipv4 *ip, const struct packet *p, __u32 bytes, __u8 protocol)
{
	ip->version_length = 0x45;
	ip->length = bpf_htons(bytes);
	ip->fragment = bpf_htons(DO_NOT_FRAGMENT);
	ip->ttl = ANSWER_HOPS;
	ip->protocol = protocol;
	__builtin_memcpy(ip->source, &p->destination[12], 4);
	__builtin_memcpy(ip->destination, &p->source[12], 4);
	ip->checksum = ~folded((__u32)bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline void
answer_ipv6(struct ipv6 *ip, const struct packet *p, __u32 bytes, __u8 protocol)
{
	ip->version_class_flow = bpf_htonl(6u << 28);
	ip->length = bpf_htons(bytes);
	ip->next = protocol;
	ip->hops = ANSWER_HOPS;
	__builtin_memcpy(ip->source, p->destination, 16);
	__builtin_memcpy(ip->destination, p->source, 16);
}

/* RFC 9293, 3.10.7.1: the numbers of a reset where no connection is. It answers a SYN. */
static __always_inline void
answer_tcp(struct answer *a, struct tcp *tcp, const struct packet *p, int partial)
{
	__u64 sum = pseudo_sum(a, p, sizeof(*tcp), IP_TCP);

	tcp->source = bpf_htons(p->destination_port);
	tcp->destination = bpf_htons(p->source_port);
	tcp->acknowledgement = bpf_htonl(p->sequence + p->payload + 1);
	tcp->offset = TCP_HEADER_WORDS << 4;
	tcp->flags = FLAG_RST | FLAG_ACK;
	tcp->checksum = partial ? folded(sum) :
				  (__u16)~folded((__u32)bpf_csum_diff(0, 0, (__be32 *)tcp,
								      sizeof(*tcp), sum));
}

/* A device that sums from where UDP began writes its sum where an ICMP message has nothing. */
static __always_inline void
answer_icmpv6(struct answer *a, const struct packet *p, int partial)
{
	struct icmp *icmp = &a->icmp6.icmp;
	__u32 bytes = sizeof(*icmp) + sizeof(a->icmp6.quote);
	__u64 sum = pseudo_sum(a, p, bytes, IP_ICMPV6);

	icmp->type = ICMPV6_UNREACHABLE;
	icmp->code = ICMPV6_PROHIBITED;
	icmp->checksum = ~folded((__u32)bpf_csum_diff(0, 0, (__be32 *)icmp, bytes, sum));
	if (partial)
		icmp->sequence = folded(sum);
}

static __always_inline void answer_icmp(struct answer *a)
{
	struct icmp *icmp = &a->icmp4.icmp;
	__u32 bytes = sizeof(*icmp) + sizeof(a->icmp4.quote);

	icmp->type = ICMP_UNREACHABLE;
	icmp->code = ICMP_PROHIBITED;
	icmp->checksum = ~folded((__u32)bpf_csum_diff(0, 0, (__be32 *)icmp, bytes, 0));
}

/* Whether a packet may be answered: RFC 1122, 3.2.2 names what an error must not answer. What
 * carries options or headers that would have to be taken out is left alone, and so is SCTP, whose
 * checksum a device may write into the middle of an answer.
 */
static __always_inline int answerable(const struct __sk_buff *skb, const struct packet *p)
{
	const __u32 *source = (const __u32 *)p->source;
	int kind = icmp_kind(p->protocol, p->icmp_type);
	__u32 header = p->family == 4 ? sizeof(struct ipv4) : sizeof(struct ipv6);

	if (skb->gso_size || skb->vlan_present || p->network != ETHER_BYTES || p->fragment)
		return 0;
	if (!p->family || p->l4 != ETHER_BYTES + header || p->l4_bytes < QUOTE_BYTES ||
	    p->protocol == IP_SCTP)
		return 0;
	if (p->ether_destination[0] & 1 || p->destination[0] == 0xff)
		return 0;
	if (p->family == 4 && (p->destination[12] >= 224 || !source[3]))
		return 0;
	if (!(source[0] | source[1] | source[2] | source[3]))
		return 0;
	return kind == ICMP_NOT || kind == ICMP_ECHO;
}

static __always_inline __u32 answer_place(const struct answer_mark *mark)
{
	const __u32 *head = (const __u32 *)mark->head, *remote = (const __u32 *)mark->remote;

	return ((head[0] ^ head[1] ^ remote[3]) * 0x9e3779b1u) >> 16 & (ANSWER_MARKS - 1);
}

/* The mark of the packet that the buffer holds now, of which the guest's ends are known. */
static __always_inline int
answer_mark_of(struct __sk_buff *skb, const struct session_key *key, __u32 at, __u32 bytes,
	       struct answer_mark *mark)
{
	int tcp = bytes == sizeof(struct tcp);

	__builtin_memset(mark, 0, sizeof(*mark));
	__builtin_memcpy(mark->local, key->local, 16);
	__builtin_memcpy(mark->remote, key->remote, 16);
	mark->l4_bytes = bytes;
	return tcp ? bpf_skb_load_bytes(skb, at, mark->head, sizeof(mark->head)) :
		     bpf_skb_load_bytes(skb, at, mark->head, sizeof(struct icmp));
}

/* Writes the answer over the packet. Returns whether that could be done. */
static __always_inline int
answer_write(struct __sk_buff *skb, struct answer *a, const struct packet *p)
{
	int partial = checksum_is_partial(skb, a, p), tcp = p->protocol == IP_TCP;

	__builtin_memcpy(a->macs, p->ether_source, 6);
	__builtin_memcpy(&a->macs[6], p->ether_destination, 6);
	if (p->family == 4 && tcp) {
		answer_ipv4(&a->tcp4.ip, p, sizeof(a->tcp4), IP_TCP);
		answer_tcp(a, &a->tcp4.tcp, p, partial);
		return !bpf_skb_change_tail(skb, ETHER_BYTES + sizeof(a->tcp4), 0) &&
		       !bpf_skb_store_bytes(skb, ETHER_BYTES, &a->tcp4, sizeof(a->tcp4),
					    FLAGS_STORE);
	}
	if (tcp) {
		answer_ipv6(&a->tcp6.ip, p, sizeof(struct tcp), IP_TCP);
		answer_tcp(a, &a->tcp6.tcp, p, partial);
		return !bpf_skb_change_tail(skb, ETHER_BYTES + sizeof(a->tcp6), 0) &&
		       !bpf_skb_store_bytes(skb, ETHER_BYTES, &a->tcp6, sizeof(a->tcp6),
					    FLAGS_STORE);
	}
	if (p->family == 4) {
		if (bpf_skb_load_bytes(skb, ETHER_BYTES, a->icmp4.quote, sizeof(a->icmp4.quote)))
			return 0;
		answer_ipv4(&a->icmp4.ip, p, sizeof(a->icmp4), IP_ICMP);
		answer_icmp(a);
		return !bpf_skb_change_tail(skb, ETHER_BYTES + sizeof(a->icmp4), 0) &&
		       !bpf_skb_store_bytes(skb, ETHER_BYTES, &a->icmp4, sizeof(a->icmp4),
					    FLAGS_STORE);
	}
	if (bpf_skb_load_bytes(skb, ETHER_BYTES, a->icmp6.quote, sizeof(a->icmp6.quote)))
		return 0;
	answer_ipv6(&a->icmp6.ip, p, sizeof(struct icmp) + sizeof(a->icmp6.quote), IP_ICMPV6);
	answer_icmpv6(a, p, partial);
	return !bpf_skb_change_tail(skb, ETHER_BYTES + sizeof(a->icmp6), 0) &&
	       !bpf_skb_store_bytes(skb, ETHER_BYTES, &a->icmp6, sizeof(a->icmp6), FLAGS_STORE);
}

/* Turns a rejected packet into its answer. Returns what the program is to return. */
__noinline int answer(struct __sk_buff *skb, struct context *c)
{
	__u32 zero = 0, place, bytes;
	struct answer_mark mark, *slot;
	struct answer *a = bpf_map_lookup_elem(&answer_scratch, &zero);
	__u64 *limit = bpf_map_lookup_elem(&answer_limit, &zero);

	if (!c || !a || !limit || !answerable(skb, &c->packet) ||
	    !limit_take(limit, c->now, ANSWERS_PER_SECOND))
		return RETURN_DENY;
	__builtin_memset(a, 0, sizeof(*a));
	if (!answer_write(skb, a, &c->packet) ||
	    bpf_skb_store_bytes(skb, 0, a->macs, sizeof(a->macs), FLAGS_STORE))
		return RETURN_DENY;
	bytes = sizeof(struct tcp);
	if (c->packet.protocol != IP_TCP)
		bytes = sizeof(struct icmp) + (c->packet.family == 4 ? sizeof(a->icmp4.quote) :
								       sizeof(a->icmp6.quote));
	if (answer_mark_of(skb, &c->key, c->packet.l4, bytes, &mark))
		return RETURN_DENY;
	mark.until_ns = c->now + ANSWER_NS;
	place = answer_place(&mark);
	slot = bpf_map_lookup_elem(&answer_marks, &place);
	if (!slot)
		return RETURN_DENY;
	*slot = mark;
	return bpf_redirect(skb->ifindex, c->direction == DIRECTION_INGRESS ? BPF_F_INGRESS : 0);
}

static __always_inline int may_be_answer(const struct packet *p)
{
	if (p->protocol == IP_TCP)
		return p->flags & FLAG_RST;
	return icmp_kind(p->protocol, p->icmp_type) == ICMP_ERROR;
}

/* Whether a packet that would be denied is an answer of ours on its way, which it is once. */
__noinline int answer_expected(struct __sk_buff *skb, struct context *c)
{
	struct answer_mark mark, *slot;
	struct session_key key = {};
	const struct packet *p;
	__u32 place;
	int egress;

	if (!c)
		return 0;
	p = &c->packet;
	egress = c->direction == DIRECTION_EGRESS;
	__builtin_memcpy(key.local, egress ? p->source : p->destination, 16);
	__builtin_memcpy(key.remote, egress ? p->destination : p->source, 16);
	if (answer_mark_of(skb, &key, p->l4, p->l4_bytes, &mark))
		return 0;
	place = answer_place(&mark);
	slot = bpf_map_lookup_elem(&answer_marks, &place);
	if (!slot || slot->until_ns <= c->now || slot->l4_bytes != mark.l4_bytes ||
	    !same16(slot->local, mark.local) || !same16(slot->remote, mark.remote))
		return 0;
	for (__u32 i = 0; i < sizeof(mark.head); i++)
		if (slot->head[i] != mark.head[i])
			return 0;
	slot->until_ns = 0;
	return 1;
}

#endif
