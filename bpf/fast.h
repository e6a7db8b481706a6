/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packets that nearly all traffic consists of, read in place: untagged IPv4 without options or
 * IPv6 without extension headers, whole, with UDP or with TCP that has no options but time stamps,
 * or those of a SYN as the usual stacks lay them out. Everything that is unusual in any way is left
 * to parse.h, so this reads nothing that it would not read alike.
 *
 * The compiler copies octet by octet what it thinks may lie anywhere, and whoever reads that back
 * as a word waits for each octet. Every machine that this runs on reads words of a packet from
 * anywhere, so addresses are read as words.
 */
#ifndef LICTOR_FAST_H
#define LICTOR_FAST_H

#include "parse.h"

static __always_inline __be32 word_at(const void *octets)
{
	return *(const __be32 *)octets;
}

static __always_inline __u64 long_at(const void *octets)
{
	return *(const __u64 *)octets;
}

/* Octets behind the header, or zero. */
static __always_inline __u32 plain_ipv4(const struct __sk_buff *skb, const struct ipv4 *header)
{
	__u32 length = bpf_ntohs(header->length);

	if (header->version_length != 0x45 || length <= sizeof(*header) ||
	    length > skb->len - ETHER_BYTES || header->fragment & bpf_htons(0x3fff) ||
	    header->source[0] >= 224 || header->source[0] == 127)
		return 0;
	return length - sizeof(*header);
}

/* The same. Group, loopback, v4-mapped: none of them has a beginning other than zeroes or ff. */
static __always_inline __u32 plain_ipv6(const struct __sk_buff *skb, const struct ipv6 *header)
{
	__u32 length = bpf_ntohs(header->length);

	if (*(const __u8 *)header >> 4 != 6 ||
	    length > skb->len - ETHER_BYTES - sizeof(*header) || header->source[0] == 0xff ||
	    !word_at(header->source) || !word_at(header->destination))
		return 0;
	return length;
}

/* Octets of payload plus one, or zero. */
static __always_inline __u32
plain_tcp(const struct tcp *header, __u32 l4_bytes, const void *end)
{
	__u32 bytes = (header->offset >> 4) * 4;

	if (bytes < sizeof(*header) || bytes > l4_bytes || header->flags & FLAG_SYN)
		return 0;
	/* There may be blocks that are acknowledged selectively. */
	if (bytes > sizeof(*header) && !only_timestamps(header, bytes, end))
		return 0;
	return l4_bytes - bytes + 1;
}

/* Octets of payload plus one if the options of a SYN lie as Linux or as Windows lays them out: the
 * segment size, then what the tracker wants to know, and time stamps. Zero if not.
 */
static __always_inline __u32
plain_syn(struct packet *p, const struct tcp *header, __u32 l4_bytes, const void *end)
{
	__u32 bytes = (header->offset >> 4) * 4;
	const __be32 *option = (const void *)(header + 1);
	__u32 scale;

	if (bytes > l4_bytes || (const void *)(option + 3) > end ||
	    bpf_ntohl(option[0]) >> 16 != (TCP_OPTION_SIZE << 8 | 4))
		return 0;
	if (bytes == sizeof(*header) + 12 &&
	    option[2] == bpf_htonl(TCP_OPTION_NOTHING << 24 | TCP_OPTION_NOTHING << 16 |
				   TCP_OPTION_SACK_PERMITTED << 8 | 2))
		scale = bpf_ntohl(option[1]);
	else if (bytes == sizeof(*header) + 20 && (const void *)(option + 5) <= end &&
		 option[1] == bpf_htonl(TCP_OPTION_SACK_PERMITTED << 24 | 2 << 16 |
					TCP_OPTION_TIMESTAMPS << 8 | TIMESTAMPS_BYTES))
		scale = bpf_ntohl(option[4]);
	else
		return 0;
	if (scale >> 8 != (TCP_OPTION_NOTHING << 16 | TCP_OPTION_SCALE << 8 | 3))
		return 0;
	p->scale = scale_plus_one(scale);
	p->sack_permitted = 1;
	return l4_bytes - bytes + 1;
}

static __always_inline int
plain_udp(const struct __sk_buff *skb, const struct udp *header, __u32 l4_bytes)
{
	__u32 length = bpf_ntohs(header->length);

	return !skb->gso_size && length >= sizeof(*header) && length <= l4_bytes;
}

static __always_inline void
fast_segment(struct packet *p, const struct tcp *header, __u32 payload)
{
	p->sequence = bpf_ntohl(header->sequence);
	p->acknowledgement = bpf_ntohl(header->acknowledgement);
	p->window = bpf_ntohs(header->window);
	p->flags = header->flags;
	p->payload = payload;
}

static __always_inline int
fast_l4(const struct __sk_buff *skb, struct packet *p, const void *at, const void *end)
{
	const struct udp *ports = at; /* TCP begins with the same */
	const struct tcp *tcp = at;
	__u32 payload;

	if ((const void *)(ports + 1) > end)
		return 0;
	p->source_port = bpf_ntohs(ports->source);
	p->destination_port = bpf_ntohs(ports->destination);
	if (p->protocol == IP_UDP)
		return plain_udp(skb, ports, p->l4_bytes);
	if (p->protocol != IP_TCP || (const void *)(tcp + 1) > end)
		return 0;
	payload = tcp->flags & FLAG_SYN ? plain_syn(p, tcp, p->l4_bytes, end) :
					  plain_tcp(tcp, p->l4_bytes, end);
	if (!payload)
		return 0;
	fast_segment(p, tcp, payload - 1);
	return 1;
}

static __always_inline int
fast_ipv4(const struct __sk_buff *skb, struct packet *p, const struct ipv4 *header, const void *end)
{
	if ((const void *)(header + 1) > end)
		return 0;
	p->l4_bytes = plain_ipv4(skb, header);
	if (!p->l4_bytes)
		return 0;
	map_word(p->source, word_at(header->source));
	map_word(p->destination, word_at(header->destination));
	p->family = 4;
	p->protocol = header->protocol;
	p->hops = header->ttl;
	p->l4 = ETHER_BYTES + sizeof(*header);
	return fast_l4(skb, p, header + 1, end);
}

static __always_inline int
fast_ipv6(const struct __sk_buff *skb, struct packet *p, const struct ipv6 *header, const void *end)
{
	if ((const void *)(header + 1) > end)
		return 0;
	p->l4_bytes = plain_ipv6(skb, header);
	if (!p->l4_bytes)
		return 0;
	copy16(p->source, header->source);
	copy16(p->destination, header->destination);
	p->family = 6;
	p->protocol = header->next;
	p->hops = header->hops;
	p->l4 = ETHER_BYTES + sizeof(*header);
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
	copy_mac(p->ether_source, header->source);
	copy_mac(p->ether_destination, header->destination);
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
