/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From bytes to fields. bpf_skb_load_bytes (4.5) reads linear and paged data alike, so GSO packets
 * and packets whose headers lie in fragments need no bpf_skb_pull_data, which may copy.
 */
#ifndef LICTOR_PARSE_H
#define LICTOR_PARSE_H

#include "abi.h"

#define ETHER_BYTES 14
#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_RARP 0x8035
#define TYPE_IPV6 0x86dd

#define IP_ICMP 1
#define IP_TCP 6
#define IP_UDP 17
#define IP_ICMPV6 58
#define IP_SCTP 132
#define IP_UDPLITE 136
#define IP6_HOP_BY_HOP 0
#define IP6_ROUTING 43
#define IP6_FRAGMENT 44
#define IP6_AUTHENTICATION 51
#define IP6_DESTINATION 60
#define IP6_MOBILITY 135
#define IP6_HIP 139
#define IP6_SHIM 140

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

struct ether {
	__u8 destination[6];
	__u8 source[6];
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

/* One packet as far as it is understood. Addresses are 16 octets, IPv4 v4-mapped. */
struct packet {
	__u8 ether_source[6];
	__u8 ether_destination[6];
	__u16 ether_type;
	__u16 pad;
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
	__u32 sequence;
	__u32 acknowledgement;
	__u32 payload; /* of TCP */
	__u16 window;
	__u8 flags;
	__u8 scale; /* of a SYN: window scale plus one; 0: none offered */
};

static __always_inline int mapped_prefix(const __u8 address[16])
{
	const __u32 *words = (const __u32 *)address;

	return words[0] == 0 && words[1] == 0 && words[2] == bpf_htonl(0xffff);
}

static __always_inline void map_ipv4(__u8 into[16], const __u8 from[4])
{
	__u32 *words = (__u32 *)into;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	__builtin_memcpy(&words[3], from, 4);
}

static __always_inline int same16(const __u8 a[16], const __u8 b[16])
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

/* The scale option of a SYN (RFC 7323). At most ten options are looked at: a SYN with more is
 * treated as one without, which only makes the window check stricter.
 */
static __always_inline __u8 parse_scale(struct __sk_buff *skb, __u32 at, __u32 end)
{
	__u8 option[3] = {};

	for (int i = 0; i < 10; i++) {
		if (at >= end || bpf_skb_load_bytes(skb, at, option, 1))
			return 0;
		if (option[0] == 0)
			return 0;
		if (option[0] == 1) {
			at++;
			continue;
		}
		/* What follows the header is payload, not the rest of a cut option. */
		if (at + 2 > end || bpf_skb_load_bytes(skb, at, option, 2) || option[1] < 2)
			return 0;
		if (option[0] == 3) {
			if (option[1] != 3 || at + 3 > end ||
			    bpf_skb_load_bytes(skb, at, option, 3))
				return 0;
			/* RFC 7323, 2.3: more than 14 means 14. */
			return (option[2] > 14 ? 14 : option[2]) + 1;
		}
		at += option[1];
	}
	return 0;
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
	if (p->flags & FLAG_SYN)
		p->scale = parse_scale(skb, p->l4 + sizeof(header), p->l4 + bytes);
	return 0;
}

static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *p)
{
	struct udp udp;
	struct icmp icmp;

	switch (p->protocol) {
	case IP_TCP:
		return parse_tcp(skb, p);
	case IP_UDP:
		if (p->l4_bytes < sizeof(udp) || bpf_skb_load_bytes(skb, p->l4, &udp, sizeof(udp)))
			return REASON_TRUNCATED;
		/* A segmentation offload may leave the length of one segment in the header. */
		if (!skb->gso_size && (bpf_ntohs(udp.length) < sizeof(udp) ||
				       bpf_ntohs(udp.length) > p->l4_bytes))
			return REASON_TRUNCATED;
		p->source_port = bpf_ntohs(udp.source);
		p->destination_port = bpf_ntohs(udp.destination);
		return 0;
	case IP_ICMP:
	case IP_ICMPV6:
		/* ICMP belongs to one family each (RFC 4443, section 1). */
		if ((p->protocol == IP_ICMP) != (p->family == 4))
			return REASON_BAD_HEADER;
		if (p->l4_bytes < sizeof(icmp) || bpf_skb_load_bytes(skb, p->l4, &icmp, sizeof(icmp)))
			return REASON_TRUNCATED;
		p->icmp_type = icmp.type;
		p->icmp_code = icmp.code;
		p->source_port = bpf_ntohs(icmp.id);
		return 0;
	}
	return 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct ipv4 header;
	__u32 length, bytes, frame = skb->len - ETHER_BYTES;

	if (bpf_skb_load_bytes(skb, ETHER_BYTES, &header, sizeof(header)))
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
	/* More fragments, or an offset: without reassembly the ports can't be trusted. */
	if (header.fragment & bpf_htons(0x3fff))
		return REASON_FRAGMENT;
	/* RFC 1122, 3.2.1.3: neither a group nor the loopback network may be a source. */
	if (header.source[0] >= 224 || header.source[0] == 127)
		return REASON_BAD_HEADER;
	map_ipv4(p->source, header.source);
	map_ipv4(p->destination, header.destination);
	p->family = 4;
	p->protocol = header.protocol;
	p->hops = header.ttl;
	p->l4 = ETHER_BYTES + bytes;
	p->l4_bytes = length - bytes;
	return parse_l4(skb, p);
}

/* Follows the headers that may precede a transport header. Routing headers can carry a packet past
 * the check of its destination (RFC 5095); AH and mobility are not followed either.
 */
static __always_inline int parse_extensions(struct __sk_buff *skb, struct packet *p, __u32 left)
{
	__u8 option[2];
	__u32 bytes;

	for (int i = 0; i <= EXTENSION_HEADERS_MAX; i++) {
		switch (p->protocol) {
		case IP6_FRAGMENT:
			return REASON_FRAGMENT;
		case IP6_ROUTING:
		case IP6_AUTHENTICATION:
		case IP6_MOBILITY:
		case IP6_HIP:
		case IP6_SHIM:
			return REASON_EXTENSION_HEADER;
		case IP6_HOP_BY_HOP:
			/* RFC 8200, 4.1: only directly after the IPv6 header. */
			if (i)
				return REASON_BAD_HEADER;
			break;
		case IP6_DESTINATION:
			break;
		default:
			p->l4_bytes = left;
			return 0;
		}
		if (left < 8 || bpf_skb_load_bytes(skb, p->l4, option, 2))
			return REASON_TRUNCATED;
		bytes = ((__u32)option[1] + 1) * 8;
		if (bytes > left)
			return REASON_TRUNCATED;
		left -= bytes;
		p->l4 += bytes;
		p->protocol = option[0];
	}
	return REASON_EXTENSION_HEADER;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6 header;
	__u32 length, frame = skb->len - ETHER_BYTES;
	const __u32 *source = (const __u32 *)p->source;
	int reason;

	if (bpf_skb_load_bytes(skb, ETHER_BYTES, &header, sizeof(header)))
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
	p->l4 = ETHER_BYTES + sizeof(header);
	reason = parse_extensions(skb, p, length);
	return reason ? reason : parse_l4(skb, p);
}

/* Zero, or the reason to deny. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	struct ether header;

	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return REASON_TRUNCATED;
	__builtin_memcpy(p->ether_source, header.source, 6);
	__builtin_memcpy(p->ether_destination, header.destination, 6);
	p->ether_type = bpf_ntohs(header.type);
	/* A tag that the device took off the frame: the segment would be another one. */
	if (skb->vlan_present)
		return REASON_ETHER_TYPE;
	switch (p->ether_type) {
	case TYPE_ARP:
	case TYPE_RARP:
		return 0;
	case TYPE_IPV4:
		return parse_ipv4(skb, p);
	case TYPE_IPV6:
		return parse_ipv6(skb, p);
	}
	return REASON_ETHER_TYPE;
}

#endif
