/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From bytes to fields. bpf_skb_load_bytes (4.5) reads linear and paged data alike, so GSO packets
 * and packets whose headers lie in fragments need no bpf_skb_pull_data, which may copy.
 */
#ifndef LICTOR_PARSE_H
#define LICTOR_PARSE_H

#include "extension.h"

#define ETHER_BYTES 14
#define ETHER_TYPE_MIN 0x0600
#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_RARP 0x8035
#define TYPE_IPV6 0x86dd
#define TYPE_VLAN 0x8100 /* IEEE 802.1Q, a customer's tag */
#define TYPE_SERVICE_VLAN 0x88a8 /* IEEE 802.1ad, a provider's tag */
#define VLAN_ID_MASK 0x0fff

#define IP_ICMP 1
#define IP_TCP 6
#define IP_UDP 17
#define IP_ICMPV6 58
#define IP_SCTP 132
#define IP_UDPLITE 136

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

struct ether {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
};

struct vlan_tag {
	__be16 control;
	__be16 type;
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};
_Static_assert(sizeof(struct arp) == 28, "arp");

struct ipv4 {
	__u8 version_length;
	__u8 service;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6 {
	__be32 version_class_flow;
	__be16 length;
	__u8 next;
	__u8 hops;
	__u8 source[16];
	__u8 destination[16];
};

struct tcp {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

struct udp {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

/* The common header and the head of the first chunk (RFC 9260, 3). */
struct sctp {
	__be16 source;
	__be16 destination;
	__be32 tag;
	__be32 checksum;
	__u8 chunk;
	__u8 flags;
	__be16 length;
};

#define FRAGMENT_MORE 0x2000
#define FRAGMENT_OFFSET 0x1fff

/* One packet as far as it is understood. Addresses are 16 octets, IPv4 v4-mapped. */
struct packet {
	__u8 ether_source[6];
	__u8 ether_destination[6];
	__u16 ether_type; /* what follows the VLAN tag, if there is one */
	__u8 fragment; /* FRAGMENT_* */
	__u8 more_fragments;
	__u32 fragment_id;
	__u32 fragment_at; /* bytes of the datagram before this fragment */
	__u32 fragment_bytes; /* bytes of the datagram in it */
	__u32 segment; /* the vnic's own, or that of the VLAN */
	__u32 network; /* offset of the header that the EtherType names */
	__u32 l4_bytes; /* bytes of the transport header and its payload */
	__u32 l4; /* offset of the transport header */
	__u32 family; /* 4, 6, or 0: not IP */
	__u8 source[16];
	__u8 destination[16];
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 hops;
	__u8 icmp_type;
	__u8 icmp_code;
	__u32 sequence; /* of SCTP: the verification tag */
	__u32 acknowledgement; /* of SCTP: the tag that an INIT or INIT-ACK wants */
	__u32 payload; /* of TCP */
	__u16 window;
	__u8 flags; /* of SCTP: those of the first chunk */
	__u8 scale; /* of a SYN: window scale plus one; 0: none offered */
	__u8 chunk; /* of SCTP: the kind of the first one */
	__u8 sack_permitted; /* of a SYN */
	__u8 pad[2];
	__u32 sack_ahead; /* bytes from the acknowledgement to the highest edge of SACK blocks */
};

/* The compiler copies octet by octet what it thinks may lie anywhere, and whoever reads them back
 * as a word waits for each. Every machine that this runs on reads words from anywhere.
 */
static __always_inline void copy_mac(__u8 into[6], const __u8 from[6])
{
	__u16 *to = (__u16 *)into;

	to[0] = *(const __u16 *)from;
	to[1] = *(const __u16 *)(from + 2);
	to[2] = *(const __u16 *)(from + 4);
}

static __always_inline void copy16(__u8 into[16], const __u8 from[16])
{
	__u32 *to = (__u32 *)into;
	const __u32 *words = (const __u32 *)from;

	to[0] = words[0];
	to[1] = words[1];
	to[2] = words[2];
	to[3] = words[3];
}

static __always_inline int mapped_prefix(const __u8 address[16])
{
	const __u32 *words = (const __u32 *)address;

	return words[0] == 0 && words[1] == 0 && words[2] == bpf_htonl(0xffff);
}

static __always_inline void map_word(__u8 into[16], __be32 address)
{
	__u32 *words = (__u32 *)into;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address;
}

static __always_inline void map_ipv4(__u8 into[16], const __u8 from[4])
{
	__be32 address;

	__builtin_memcpy(&address, from, 4);
	map_word(into, address);
}

static __always_inline int same16(const __u8 a[16], const __u8 b[16])
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

#define TCP_OPTION_END 0
#define TCP_OPTION_NOTHING 1
#define TCP_OPTION_SIZE 2
#define TCP_OPTION_SCALE 3
#define TCP_OPTION_SACK_PERMITTED 4
#define TCP_OPTION_SACK 5
#define TCP_OPTION_TIMESTAMPS 8
#define TIMESTAMPS_BYTES 10
/* What is looked at, padding included. A segment with more is treated as one without the rest,
 * which only makes the window check stricter.
 */
#define TCP_OPTIONS_MAX 10
#define SACK_BLOCK_BYTES 8
/* All that fit into the 40 bytes of options. */
#define SACK_BLOCKS_MAX 4

/* The highest right edge of the blocks (RFC 2018, 3). What lies behind the acknowledgement was
 * received twice (RFC 2883).
 */
static __always_inline void
parse_sack(struct __sk_buff *skb, struct packet *p, __u32 at, __u32 bytes)
{
	__be32 edge;
	__u32 ahead;

	if (bytes % SACK_BLOCK_BYTES)
		return;
	for (__u32 i = 0; i < SACK_BLOCKS_MAX && i < bytes / SACK_BLOCK_BYTES; i++) {
		if (bpf_skb_load_bytes(skb, at + i * SACK_BLOCK_BYTES + 4, &edge, sizeof(edge)))
			return;
		ahead = bpf_ntohl(edge) - p->acknowledgement;
		if ((__s32)ahead > (__s32)p->sack_ahead)
			p->sack_ahead = ahead;
	}
}

/* Of a SYN, so that zero is none. RFC 7323, 2.3: a scale of more than 14 means 14. */
static __always_inline __u8 scale_plus_one(__u8 scale)
{
	return (scale > 14 ? 14 : scale) + 1;
}

static __always_inline void
parse_tcp_option(struct __sk_buff *skb, struct packet *p, const __u8 head[3], __u32 at)
{
	int syn = p->flags & FLAG_SYN;
	__u32 bytes = head[1] - 2;

	if (head[0] == TCP_OPTION_SCALE && bytes == 1 && syn)
		p->scale = scale_plus_one(head[2]);
	if (head[0] == TCP_OPTION_SACK_PERMITTED && !bytes && syn)
		p->sack_permitted = 1;
	if (head[0] == TCP_OPTION_SACK && !syn)
		parse_sack(skb, p, at + 2, bytes);
}

/* The options that the tracker knows. A malformed one ends the search; of one that comes twice the
 * last counts, as for most receivers. Once for the verifier.
 */
__noinline int parse_tcp_options(struct __sk_buff *skb, struct packet *p, __u32 at, __u32 end)
{
	__u8 head[3] = {};

	if (!p)
		return 0;
	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		if (at >= end || bpf_skb_load_bytes(skb, at, head, 1) ||
		    head[0] == TCP_OPTION_END)
			return 0;
		if (head[0] == TCP_OPTION_NOTHING) {
			at++;
			continue;
		}
		/* What follows the header is payload, not the rest of a cut option. */
		if (at + 2 > end || bpf_skb_load_bytes(skb, at, head, 2) || head[1] < 2 ||
		    at + head[1] > end)
			return 0;
		if (head[1] == 3 && bpf_skb_load_bytes(skb, at, head, 3))
			return 0;
		parse_tcp_option(skb, p, head, at);
		at += head[1];
	}
	return 0;
}

/* Whether a segment's options are those that nearly all have, and no more: RFC 7323, appendix A. */
static __always_inline int
only_timestamps(const struct tcp *header, __u32 bytes, const void *end)
{
	const __be32 *first = (const void *)(header + 1);

	return bytes == sizeof(*header) + 2 + TIMESTAMPS_BYTES && (const void *)(first + 1) <= end &&
	       *first == bpf_htonl(TCP_OPTION_NOTHING << 24 | TCP_OPTION_NOTHING << 16 |
				   TCP_OPTION_TIMESTAMPS << 8 | TIMESTAMPS_BYTES);
}

static __always_inline int parse_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcp header;
	__u32 bytes;

	if (p->l4_bytes < sizeof(header) || bpf_skb_load_bytes(skb, p->l4, &header, sizeof(header)))
		return REASON_TRUNCATED;
	bytes = (header.offset >> 4) * 4;
	if (bytes < sizeof(header))
		return REASON_BAD_HEADER;
	if (bytes > p->l4_bytes)
		return REASON_TRUNCATED;
	p->source_port = bpf_ntohs(header.source);
	p->destination_port = bpf_ntohs(header.destination);
	p->sequence = bpf_ntohl(header.sequence);
	p->acknowledgement = bpf_ntohl(header.acknowledgement);
	p->window = bpf_ntohs(header.window);
	p->flags = header.flags;
	p->payload = p->l4_bytes - bytes;
	if (bytes > sizeof(header))
		parse_tcp_options(skb, p, p->l4 + sizeof(header), p->l4 + bytes);
	return 0;
}

/* A segmentation offload may leave the length of one segment in the header, and a fragment has
 * the length of the whole datagram.
 */
static __always_inline int length_is_exact(const struct __sk_buff *skb, const struct packet *p)
{
	return !skb->gso_size && !p->fragment;
}

/* UDP (RFC 768), and UDP-Lite (RFC 3828), whose length field says how much the checksum covers:
 * nothing less than the header, and zero for everything.
 */
static __always_inline int parse_udp(struct __sk_buff *skb, struct packet *p)
{
	struct udp header;
	__u16 length;

	if (p->l4_bytes < sizeof(header) || bpf_skb_load_bytes(skb, p->l4, &header, sizeof(header)))
		return REASON_TRUNCATED;
	length = bpf_ntohs(header.length);
	p->source_port = bpf_ntohs(header.source);
	p->destination_port = bpf_ntohs(header.destination);
	if (p->protocol == IP_UDPLITE && !length)
		return 0;
	if (length < sizeof(header) && !skb->gso_size)
		return p->protocol == IP_UDP ? REASON_TRUNCATED : REASON_BAD_HEADER;
	return length > p->l4_bytes && length_is_exact(skb, p) ? REASON_TRUNCATED : 0;
}

static __always_inline int parse_sctp(struct __sk_buff *skb, struct packet *p)
{
	struct sctp header;
	__be32 wanted;
	__u32 length, left = p->l4_bytes - 12;

	if (p->l4_bytes < sizeof(header) || bpf_skb_load_bytes(skb, p->l4, &header, sizeof(header)))
		return REASON_TRUNCATED;
	length = bpf_ntohs(header.length);
	if (length < 4)
		return REASON_BAD_HEADER;
	if (length > left && length_is_exact(skb, p))
		return REASON_TRUNCATED;
	p->source_port = bpf_ntohs(header.source);
	p->destination_port = bpf_ntohs(header.destination);
	p->chunk = header.chunk;
	p->flags = header.flags;
	p->sequence = bpf_ntohl(header.tag);
	/* INIT and INIT-ACK begin with the tag that is wanted (RFC 9260, 3.3.2 and 3.3.3). */
	if ((header.chunk == 1 || header.chunk == 2) && length >= 8 &&
	    p->l4_bytes >= sizeof(header) + 4 &&
	    !bpf_skb_load_bytes(skb, p->l4 + sizeof(header), &wanted, sizeof(wanted)))
		p->acknowledgement = bpf_ntohl(wanted);
	return 0;
}

static __always_inline int parse_icmp(struct __sk_buff *skb, struct packet *p)
{
	struct icmp header;

	/* ICMP belongs to one family each (RFC 4443, section 1). */
	if ((p->protocol == IP_ICMP) != (p->family == 4))
		return REASON_BAD_HEADER;
	if (p->l4_bytes < sizeof(header) || bpf_skb_load_bytes(skb, p->l4, &header, sizeof(header)))
		return REASON_TRUNCATED;
	p->icmp_type = header.type;
	p->icmp_code = header.code;
	p->source_port = bpf_ntohs(header.id);
	return 0;
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IP_TCP || protocol == IP_UDP || protocol == IP_SCTP ||
	       protocol == IP_UDPLITE;
}

static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *p)
{
	switch (p->protocol) {
	case IP_TCP:
		return parse_tcp(skb, p);
	case IP_UDP:
	case IP_UDPLITE:
		return parse_udp(skb, p);
	case IP_ICMP:
	case IP_ICMPV6:
		return parse_icmp(skb, p);
	case IP_SCTP:
		return parse_sctp(skb, p);
	}
	return 0;
}

/* The transport header of a whole packet or of a first fragment, which must have all of it: what
 * lies in the next fragment can't be judged (RFC 1858, RFC 7112).
 */
static __always_inline int parse_transport(struct __sk_buff *skb, struct packet *p)
{
	int reason;

	if (p->fragment == FRAGMENT_LATER)
		return 0;
	reason = parse_l4(skb, p);
	return p->fragment && reason == REASON_TRUNCATED ? REASON_TINY_FRAGMENT : reason;
}

/* Whether a fragment is one that a sender may make; `head` is what each one repeats. Reassembled,
 * a datagram has at most 65,535 bytes. The second fragment of a sender that splits after eight
 * bytes would hold the rest of the transport header (RFC 3128).
 */
static __always_inline int fragment_check(const struct packet *p, __u32 head)
{
	__u32 bytes = p->fragment_bytes;

	if (!bytes || (p->more_fragments && bytes & 7))
		return REASON_BAD_FRAGMENT;
	if (p->fragment_at == 8)
		return REASON_TINY_FRAGMENT;
	return head + p->fragment_at + bytes > 65535 ? REASON_BAD_FRAGMENT : 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct ipv4 header;
	__u32 length, bytes, frame = skb->len - p->network;
	__u16 fragment;
	int reason;

	if (bpf_skb_load_bytes(skb, p->network, &header, sizeof(header)))
		return REASON_TRUNCATED;
	bytes = (header.version_length & 15) * 4;
	if (header.version_length >> 4 != 4 || bytes < sizeof(header))
		return REASON_BAD_HEADER;
	length = bpf_ntohs(header.length);
	/* BIG TCP leaves the length of a super-packet at zero. */
	if (!length && skb->gso_size)
		length = frame;
	if (length < bytes || length > frame)
		return REASON_TRUNCATED;
	if (bytes > sizeof(header)) {
		reason = ipv4_options(skb, p->network + sizeof(header), p->network + bytes);
		if (reason)
			return reason;
	}
	/* RFC 1122, 3.2.1.3: neither a group nor the loopback network may be a source. */
	if (header.source[0] >= 224 || header.source[0] == 127)
		return REASON_BAD_HEADER;
	map_ipv4(p->source, header.source);
	map_ipv4(p->destination, header.destination);
	p->family = 4;
	p->protocol = header.protocol;
	p->hops = header.ttl;
	p->l4 = p->network + bytes;
	p->l4_bytes = length - bytes;
	fragment = bpf_ntohs(header.fragment);
	if (fragment & (FRAGMENT_MORE | FRAGMENT_OFFSET)) {
		p->fragment_at = (fragment & FRAGMENT_OFFSET) * 8;
		p->fragment_bytes = p->l4_bytes;
		p->more_fragments = !!(fragment & FRAGMENT_MORE);
		p->fragment = p->fragment_at ? FRAGMENT_LATER : FRAGMENT_FIRST;
		p->fragment_id = bpf_ntohs(header.id);
		reason = fragment_check(p, bytes);
		if (reason)
			return reason;
	}
	return parse_transport(skb, p);
}

static __always_inline int parse_extensions(struct __sk_buff *skb, struct packet *p, __u32 left)
{
	struct chain chain = { .at = p->l4, .left = left, .next = p->protocol };
	int reason = follow_extensions(skb, &chain);

	p->protocol = chain.next;
	p->l4 = chain.at;
	p->l4_bytes = chain.left;
	p->fragment = chain.fragment;
	p->more_fragments = chain.more_fragments;
	p->fragment_at = chain.fragment_at;
	p->fragment_bytes = chain.fragment_bytes;
	p->fragment_id = chain.fragment_id;
	/* RFC 7112: a first fragment has all headers. */
	if (reason)
		return p->fragment == FRAGMENT_FIRST && reason == REASON_TRUNCATED ?
			       REASON_TINY_FRAGMENT : reason;
	return p->fragment ? fragment_check(p, chain.repeated - p->network - sizeof(struct ipv6)) :
			     0;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6 header;
	__u32 length, frame = skb->len - p->network;
	const __u32 *source = (const __u32 *)p->source;
	int reason;

	if (bpf_skb_load_bytes(skb, p->network, &header, sizeof(header)))
		return REASON_TRUNCATED;
	if ((bpf_ntohl(header.version_class_flow) >> 28) != 6)
		return REASON_BAD_HEADER;
	frame -= sizeof(header);
	length = bpf_ntohs(header.length);
	if (!length && skb->gso_size)
		length = frame;
	if (length > frame)
		return REASON_TRUNCATED;
	__builtin_memcpy(p->source, header.source, 16);
	__builtin_memcpy(p->destination, header.destination, 16);
	/* RFC 4291, 2.5.3 and 2.7: neither a group nor loopback may be a source. A v4-mapped address
	 * on the wire would be taken for the IPv4 address it contains.
	 */
	if (p->source[0] == 0xff || mapped_prefix(p->source) || mapped_prefix(p->destination))
		return REASON_BAD_HEADER;
	if (!source[0] && !source[1] && !source[2] && source[3] == bpf_htonl(1))
		return REASON_BAD_HEADER;
	p->family = 6;
	p->protocol = header.next;
	p->hops = header.hops;
	p->l4 = p->network + sizeof(header);
	p->l4_bytes = length;
	if (is_extension(header.next)) {
		reason = parse_extensions(skb, p, length);
		if (reason)
			return reason;
	}
	return parse_transport(skb, p);
}

static __always_inline int is_tag(__u16 ether_type)
{
	return ether_type == TYPE_VLAN || ether_type == TYPE_SERVICE_VLAN;
}

/* The VLAN of a tagged frame, whose tag is in it or was taken off by the device. A frame with
 * VLAN 0 belongs to no VLAN: its tag carries a priority only (IEEE 802.1Q, 6.9). A second tag and
 * a provider's tag lead to networks that no binding can name. Zero, or the reason to deny.
 */
static __always_inline int
parse_tag(struct __sk_buff *skb, const struct vnic_config *config, struct packet *p)
{
	struct vlan_tag tag;
	__u16 vlan;

	if (skb->vlan_present) {
		if (skb->vlan_proto != bpf_htons(TYPE_VLAN) || is_tag(p->ether_type))
			return REASON_VLAN;
		vlan = skb->vlan_tci & VLAN_ID_MASK;
	} else {
		if (bpf_skb_load_bytes(skb, ETHER_BYTES, &tag, sizeof(tag)))
			return REASON_TRUNCATED;
		if (p->ether_type != TYPE_VLAN || is_tag(bpf_ntohs(tag.type)))
			return REASON_VLAN;
		vlan = bpf_ntohs(tag.control) & VLAN_ID_MASK;
		p->ether_type = bpf_ntohs(tag.type);
		p->network = ETHER_BYTES + sizeof(tag);
	}
	if (!vlan)
		return 0;
	for (int i = 0; i < VLANS_MAX; i++) {
		if (config->vlans[i].id == vlan) {
			p->segment = config->vlans[i].segment;
			return 0;
		}
	}
	return REASON_VLAN;
}

/* Zero, or the reason to deny. */
static __always_inline int
parse(struct __sk_buff *skb, const struct vnic_config *config, struct packet *p)
{
	struct ether header;
	int reason;

	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return REASON_TRUNCATED;
	__builtin_memcpy(p->ether_source, header.source, 6);
	__builtin_memcpy(p->ether_destination, header.destination, 6);
	p->ether_type = bpf_ntohs(header.type);
	p->network = ETHER_BYTES;
	p->segment = config->segment;
	if (skb->vlan_present || is_tag(p->ether_type)) {
		reason = parse_tag(skb, config, p);
		if (reason)
			return reason;
	}
	switch (p->ether_type) {
	case TYPE_ARP:
	case TYPE_RARP:
		return 0;
	case TYPE_IPV4:
		return parse_ipv4(skb, p);
	case TYPE_IPV6:
		return parse_ipv6(skb, p);
	}
	/* Smaller numbers are lengths (IEEE 802.3, 3.2.6), whose frames name no protocol here. */
	return p->ether_type < ETHER_TYPE_MIN ? REASON_ETHER_TYPE : 0;
}

#endif
