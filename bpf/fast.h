/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packets that nearly all traffic consists of, read in place: untagged IPv4 without options or
 * IPv6 without extension headers, whole, with UDP or with TCP that is no SYN and has no options
 * but time stamps. Everything that is unusual in any way is left to parse.h, so this reads nothing
 * that it would not read alike.
 */
#ifndef LICTOR_FAST_H
#define LICTOR_FAST_H

#include "parse.h"

static __always_inline int fast_tcp(struct packet *p, const struct tcp *header, const void *end)
{
	__u32 bytes = (header->offset >> 4) * 4;

	if (bytes < sizeof(*header) || bytes > p->l4_bytes || header->flags & FLAG_SYN)
		return 0;
	/* There may be blocks that are acknowledged selectively. */
	if (bytes > sizeof(*header) && !only_timestamps(header, bytes, end))
		return 0;
	p->source_port = bpf_ntohs(header->source);
	p->destination_port = bpf_ntohs(header->destination);
	p->sequence = bpf_ntohl(header->sequence);
	p->acknowledgement = bpf_ntohl(header->acknowledgement);
	p->window = bpf_ntohs(header->window);
	p->flags = header->flags;
	p->payload = p->l4_bytes - bytes;
	return 1;
}

static __always_inline int
fast_udp(const struct __sk_buff *skb, struct packet *p, const struct udp *header)
{
	__u32 length = bpf_ntohs(header->length);

	if (skb->gso_size || length < sizeof(*header) || length > p->l4_bytes)
		return 0;
	p->source_port = bpf_ntohs(header->source);
	p->destination_port = bpf_ntohs(header->destination);
	return 1;
}

static __always_inline int
fast_l4(const struct __sk_buff *skb, struct packet *p, const void *at, const void *end)
{
	if (p->protocol == IP_TCP && at + sizeof(struct tcp) <= end)
		return fast_tcp(p, at, end);
	if (p->protocol == IP_UDP && at + sizeof(struct udp) <= end)
		return fast_udp(skb, p, at);
	return 0;
}

static __always_inline int
fast_ipv4(const struct __sk_buff *skb, struct packet *p, const struct ipv4 *header, const void *end)
{
	__u32 length;

	if ((const void *)(header + 1) > end || header->version_length != 0x45)
		return 0;
	length = bpf_ntohs(header->length);
	if (length < sizeof(*header) || length > skb->len - ETHER_BYTES ||
	    header->fragment & bpf_htons(0x3fff) || header->source[0] >= 224 ||
	    header->source[0] == 127)
		return 0;
	map_ipv4(p->source, header->source);
	map_ipv4(p->destination, header->destination);
	p->family = 4;
	p->protocol = header->protocol;
	p->hops = header->ttl;
	p->l4 = ETHER_BYTES + sizeof(*header);
	p->l4_bytes = length - sizeof(*header);
	return fast_l4(skb, p, header + 1, end);
}

static __always_inline int
fast_ipv6(const struct __sk_buff *skb, struct packet *p, const struct ipv6 *header, const void *end)
{
	const __u32 *words;
	__u32 length;

	if ((const void *)(header + 1) > end || *(const __u8 *)header >> 4 != 6)
		return 0;
	length = bpf_ntohs(header->length);
	if (!length || length > skb->len - ETHER_BYTES - sizeof(*header))
		return 0;
	/* Group, loopback, v4-mapped: none of them has a beginning other than zeroes or ff. */
	words = (const __u32 *)header->source;
	if (header->source[0] == 0xff || !words[0])
		return 0;
	words = (const __u32 *)header->destination;
	if (!words[0])
		return 0;
	__builtin_memcpy(p->source, header->source, 16);
	__builtin_memcpy(p->destination, header->destination, 16);
	p->family = 6;
	p->protocol = header->next;
	p->hops = header->hops;
	p->l4 = ETHER_BYTES + sizeof(*header);
	p->l4_bytes = length;
	return fast_l4(skb, p, header + 1, end);
}

/* Whether the packet was understood. If not, what was written is overwritten by parse(). */
static __always_inline int
parse_fast(const struct __sk_buff *skb, const struct vnic_config *config, struct packet *p)
{
	const void *data = (const void *)(long)skb->data, *end = (const void *)(long)skb->data_end;
	const struct ether *header = data;

	if ((const void *)(header + 1) > end || skb->vlan_present)
		return 0;
	__builtin_memcpy(p->ether_source, header->source, 6);
	__builtin_memcpy(p->ether_destination, header->destination, 6);
	p->ether_type = bpf_ntohs(header->type);
	p->segment = config->segment;
	p->network = ETHER_BYTES;
	if (header->type == bpf_htons(TYPE_IPV4))
		return fast_ipv4(skb, p, (const void *)(header + 1), end);
	if (header->type == bpf_htons(TYPE_IPV6))
		return fast_ipv6(skb, p, (const void *)(header + 1), end);
	return 0;
}

#endif
