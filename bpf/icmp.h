/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP: which messages ask, answer or complain, and which conversation a complaint is about. */
#ifndef LICTOR_ICMP_H
#define LICTOR_ICMP_H

#include "session.h"

#define ICMP_NOT 0
#define ICMP_ECHO 1
#define ICMP_REPLY 2
#define ICMP_ERROR 3
#define ICMP_OTHER 4

/* RFC 792 and RFC 4443, section 4; errors are those that quote a packet and are still sent. */
static __always_inline int icmp_kind(__u8 protocol, __u8 type)
{
	if (protocol == IP_ICMP) {
		switch (type) {
		case 8:
			return ICMP_ECHO;
		case 0:
			return ICMP_REPLY;
		case 3:
		case 11:
		case 12:
			return ICMP_ERROR;
		}
		return ICMP_OTHER;
	}
	if (protocol != IP_ICMPV6)
		return ICMP_NOT;
	switch (type) {
	case 128:
		return ICMP_ECHO;
	case 129:
		return ICMP_REPLY;
	case 1:
	case 2:
	case 3:
	case 4:
		return ICMP_ERROR;
	}
	return ICMP_OTHER;
}

static __always_inline __u16 echo_side(int kind, __u8 direction)
{
	int guest_asked = (kind == ICMP_ECHO) == (direction == DIRECTION_EGRESS);

	return guest_asked ? ECHO_GUEST_ASKED : ECHO_GUEST_WAS_ASKED;
}

/* The key of the conversation that an ICMP error speaks of. The inner packet went the other way.
 * Only the addressee of the inner packet or a router may complain, and only to its sender (RFC
 * 1122, 3.2.2). The guest is no router.
 */
static __always_inline int
quoted_key(struct __sk_buff *skb, const struct packet *p, __u32 segment, __u8 direction,
	   struct session_key *key)
{
	/* Toward the guest an error quotes what the guest sent, from it what it was sent. */
	int quotes_own = direction == DIRECTION_INGRESS;
	__u8 *source = quotes_own ? key->local : key->remote;
	__u8 *destination = quotes_own ? key->remote : key->local;
	__u32 at = p->l4 + sizeof(struct icmp);
	__be16 ports[4] = {};
	struct chain chain = {};
	int kind;

	if (p->family == 4) {
		struct ipv4 header;

		if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)) ||
		    header.version_length >> 4 != 4 || (header.version_length & 15) < 5)
			return 0;
		/* Only a first fragment has ports. */
		if (header.fragment & bpf_htons(0x1fff))
			return 0;
		map_ipv4(source, header.source);
		map_ipv4(destination, header.destination);
		key->protocol = header.protocol;
		at += (header.version_length & 15) * 4;
	} else {
		struct ipv6 header;

		if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)) ||
		    bpf_ntohl(header.version_class_flow) >> 28 != 6)
			return 0;
		__builtin_memcpy(source, header.source, 16);
		__builtin_memcpy(destination, header.destination, 16);
		at += sizeof(header);
		chain.at = at;
		chain.left = p->l4 + p->l4_bytes - at;
		chain.next = header.next;
		if (at > p->l4 + p->l4_bytes || follow_extensions(skb, &chain) ||
		    chain.fragment == FRAGMENT_LATER)
			return 0;
		key->protocol = chain.next;
		at = chain.at;
	}
	/* Bytes after the IP packet's end are no part of the quote. */
	if (at + sizeof(ports) > p->l4 + p->l4_bytes ||
	    bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return 0;
	key->segment = segment;
	if (has_ports(key->protocol)) {
		key->local_port = bpf_ntohs(quotes_own ? ports[0] : ports[1]);
		key->remote_port = bpf_ntohs(quotes_own ? ports[1] : ports[0]);
	}
	kind = icmp_kind(key->protocol, bpf_ntohs(ports[0]) >> 8);
	if (kind == ICMP_ECHO || kind == ICMP_REPLY) {
		key->local_port = bpf_ntohs(ports[2]);
		key->remote_port = echo_side(kind, !direction);
	} else if (kind != ICMP_NOT) {
		return 0;
	}
	if (direction == DIRECTION_INGRESS)
		return same16(key->local, p->destination);
	/* Without the second half a guest could tell anybody anything in an error's body. */
	return same16(key->local, p->source) && same16(key->remote, p->destination);
}

/* As quoted_key, and no half of a key is left for the event of an error that is not understood. */
static __always_inline int
related_key(struct __sk_buff *skb, const struct packet *p, __u32 segment, __u8 direction,
	    struct session_key *key)
{
	if (quoted_key(skb, p, segment, direction, key))
		return 1;
	__builtin_memset(key, 0, sizeof(*key));
	return 0;
}

#endif
