/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What may stand between an IP header and the transport header: options and extension headers. Few
 * packets have any, so that these are functions of their own, which the verifier looks at once.
 */
#ifndef LICTOR_EXTENSION_H
#define LICTOR_EXTENSION_H

#include "abi.h"

#define IP6_HOP_BY_HOP 0
#define IP6_ROUTING 43
#define IP6_FRAGMENT 44
#define IP6_AUTHENTICATION 51
#define IP6_NONE 59
#define IP6_DESTINATION 60
#define IP6_MOBILITY 135
#define IP6_HIP 139
#define IP6_SHIM 140

#define IPV4_OPTION_END 0
#define IPV4_OPTION_NOTHING 1
#define IPV4_OPTION_ROUTER_ALERT 148

#define IPV6_OPTION_PAD1 0
#define IPV6_OPTION_PADN 1
#define IPV6_OPTION_TUNNEL_LIMIT 4
#define IPV6_OPTION_ROUTER_ALERT 5
#define IPV6_OPTION_JUMBO 0xc2

#define FRAGMENT_NOT 0
#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 fragment;
	__be32 id;
};

/* Where a chain of extension headers leads. */
struct chain {
	__u32 at;
	__u32 left; /* bytes of the packet from there on */
	__u32 fragment_at;
	__u32 fragment_bytes;
	__u32 fragment_id;
	__u32 repeated; /* where what each fragment repeats ends, the fragment header left out */
	__u8 next;
	__u8 fragment;
	__u8 more_fragments;
	__u8 pad;
};

/* IPv4 options. Source routes carry a packet past the check of its destination; whatever else
 * records, stamps or labels has no receiver here (RFC 7126). What is left is padding and the
 * router alert of IGMP (RFC 2113). Zero, or the reason to deny.
 */
__noinline int ipv4_options(struct __sk_buff *skb, __u32 at, __u32 end)
{
	__u8 option[4] = {};

	for (int i = 0; i < IPV4_OPTIONS_BYTES_MAX; i++) {
		if (at >= end)
			return 0;
		if (bpf_skb_load_bytes(skb, at, option, 1))
			return REASON_TRUNCATED;
		if (option[0] == IPV4_OPTION_END)
			return 0;
		if (option[0] == IPV4_OPTION_NOTHING) {
			at++;
			continue;
		}
		if (option[0] != IPV4_OPTION_ROUTER_ALERT || at + 4 > end ||
		    bpf_skb_load_bytes(skb, at, option, 4) || option[1] != 4)
			return REASON_IP_OPTION;
		at += 4;
	}
	return at >= end ? 0 : REASON_IP_OPTION;
}

/* The options of a hop-by-hop or destination header: padding, the router alert of MLD (RFC 2711)
 * and the limit of nested tunnels (RFC 2473). The others change what a packet means: a home address
 * is another source, a jumbo payload another length. The sender of a super-packet, which is one of
 * this host's kernel, may say its length in a jumbo option.
 */
__noinline int ipv6_options(struct __sk_buff *skb, __u32 at, __u32 end)
{
	__u8 option[2] = {};

	for (int i = 0; i < IPV6_OPTIONS_MAX; i++) {
		if (at == end)
			return 0;
		if (bpf_skb_load_bytes(skb, at, option, 1))
			return REASON_TRUNCATED;
		if (option[0] == IPV6_OPTION_PAD1) {
			at++;
			continue;
		}
		if (at + 2 > end || bpf_skb_load_bytes(skb, at, option, 2))
			return REASON_IP_OPTION;
		if (option[0] != IPV6_OPTION_PADN && option[0] != IPV6_OPTION_TUNNEL_LIMIT &&
		    option[0] != IPV6_OPTION_ROUTER_ALERT &&
		    !(option[0] == IPV6_OPTION_JUMBO && skb->gso_size))
			return REASON_IP_OPTION;
		at += 2 + option[1];
		if (at > end)
			return REASON_IP_OPTION;
	}
	return at == end ? 0 : REASON_IP_OPTION;
}

static __always_inline int is_extension(__u8 next)
{
	switch (next) {
	case IP6_HOP_BY_HOP:
	case IP6_ROUTING:
	case IP6_FRAGMENT:
	case IP6_AUTHENTICATION:
	case IP6_DESTINATION:
	case IP6_MOBILITY:
	case IP6_HIP:
	case IP6_SHIM:
		return 1;
	}
	return 0;
}

/* Type 0 is forbidden (RFC 5095). Any other one with segments left leads elsewhere than the
 * destination says; without, it is only a record of where the packet was (RFC 8200, 4.4).
 */
static __always_inline int routing_check(struct __sk_buff *skb, __u32 at)
{
	__u8 header[4];

	if (bpf_skb_load_bytes(skb, at, header, sizeof(header)))
		return REASON_TRUNCATED;
	return header[2] == 0 || header[3] != 0 ? REASON_EXTENSION_HEADER : 0;
}

/* A fragment header; what a later fragment holds is no header. Zero, or the reason to deny. */
static __always_inline int fragment_header(struct __sk_buff *skb, struct chain *chain)
{
	struct fragment_header header;
	__u16 fragment;

	if (chain->left < sizeof(header) || bpf_skb_load_bytes(skb, chain->at, &header, sizeof(header)))
		return REASON_TRUNCATED;
	chain->repeated = chain->at;
	chain->next = header.next;
	chain->at += sizeof(header);
	chain->left -= sizeof(header);
	fragment = bpf_ntohs(header.fragment);
	/* RFC 6946: neither offset nor more fragments is a whole packet. */
	if (!(fragment & ~6))
		return 0;
	chain->fragment_at = fragment & ~7;
	chain->fragment_bytes = chain->left;
	chain->more_fragments = fragment & 1;
	chain->fragment_id = bpf_ntohl(header.id);
	chain->fragment = chain->fragment_at ? FRAGMENT_LATER : FRAGMENT_FIRST;
	return 0;
}

/* A header with a length and whatever its kind asks for. Zero, or the reason to deny. */
static __always_inline int extension_header(struct __sk_buff *skb, struct chain *chain)
{
	__u8 header[2], kind = chain->next;
	__u32 bytes;
	int reason = 0;

	if (chain->left < 8 || bpf_skb_load_bytes(skb, chain->at, header, sizeof(header)))
		return REASON_TRUNCATED;
	/* RFC 4302, 2.2: this one counts in fours, less two. */
	bytes = kind == IP6_AUTHENTICATION ? ((__u32)header[1] + 2) * 4 : ((__u32)header[1] + 1) * 8;
	if (bytes > chain->left)
		return REASON_TRUNCATED;
	if (kind == IP6_ROUTING)
		reason = routing_check(skb, chain->at);
	else if (kind == IP6_AUTHENTICATION)
		/* The fixed part has twelve bytes, and all of it is a multiple of eight in IPv6. */
		reason = bytes < 12 || bytes & 7 ? REASON_BAD_HEADER : 0;
	else
		reason = ipv6_options(skb, chain->at + 2, chain->at + bytes);
	chain->at += bytes;
	chain->left -= bytes;
	chain->next = header[0];
	return reason;
}

/* Mobility, HIP and Shim6 headers carry nothing behind them today and say so in their next header
 * (RFC 6275, RFC 7401, RFC 5533): they are protocols. With something behind they are refused.
 */
static __always_inline int terminal_header(struct __sk_buff *skb, const struct chain *chain)
{
	__u8 next;

	if (chain->left < 8 || bpf_skb_load_bytes(skb, chain->at, &next, 1))
		return REASON_TRUNCATED;
	return next == IP6_NONE ? 0 : REASON_EXTENSION_HEADER;
}

static __always_inline __u32 extension_bit(__u8 next)
{
	switch (next) {
	case IP6_ROUTING:
		return 1;
	case IP6_FRAGMENT:
		return 2;
	case IP6_AUTHENTICATION:
		return 4;
	}
	return 0;
}

/* Follows the headers that may precede a transport header (RFC 8200, 4.1). Zero, or the reason to
 * deny.
 */
__noinline int follow_extensions(struct __sk_buff *skb, struct chain *chain)
{
	__u32 seen = 0, bit;
	int reason;

	if (!chain)
		return REASON_TRUNCATED;
	for (int i = 0; i <= EXTENSION_HEADERS_MAX; i++) {
		if (!is_extension(chain->next))
			return 0;
		if (chain->next >= IP6_MOBILITY)
			return terminal_header(skb, chain);
		/* Only directly after the IPv6 header. */
		if (chain->next == IP6_HOP_BY_HOP && i)
			return REASON_BAD_HEADER;
		/* Once each. */
		bit = extension_bit(chain->next);
		if (seen & bit)
			return REASON_EXTENSION_HEADER;
		seen |= bit;
		reason = chain->next == IP6_FRAGMENT ? fragment_header(skb, chain) :
						       extension_header(skb, chain);
		if (reason || chain->fragment == FRAGMENT_LATER)
			return reason;
	}
	return REASON_EXTENSION_HEADER;
}

#endif
