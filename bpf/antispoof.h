/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may say what on the link: MAC addresses, ARP (RFC 826, RFC 5227), neighbour discovery (RFC
 * 4861, RFC 4862) and the announcement that QEMU sends. Each returns a reason.
 */
#ifndef LICTOR_ANTISPOOF_H
#define LICTOR_ANTISPOOF_H

#include "locals.h"

#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define MLD_QUERY 130
#define MLD_DONE 132
#define MLD_REPORT_2 143
#define ND_OPTION_SOURCE_MAC 1
#define ND_OPTION_TARGET_MAC 2

static __always_inline int same_mac(const __u8 a[6], const __u8 b[6])
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline int zero16(const __u8 address[16])
{
	const __u32 *words = (const __u32 *)address;

	return !(words[0] | words[1] | words[2] | words[3]);
}

static __always_inline int is_solicitation(const struct packet *p)
{
	return p->family == 6 && p->protocol == IP_ICMPV6 && p->icmp_type == ND_SOLICITATION;
}

static __always_inline int zero_mac(const __u8 mac[6])
{
	return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

/* Whether this is one of the vnic's own stations. */
static __always_inline int own_mac(const struct vnic_config *config, const __u8 mac[6])
{
	if (same_mac(mac, config->mac))
		return 1;
	for (int i = 0; i < MORE_MACS_MAX; i++)
		if (!zero_mac(config->more_macs[i]) && same_mac(mac, config->more_macs[i]))
			return 1;
	return 0;
}

/* Whether a station address is the one of the packet's group (RFC 1112, 6.4; RFC 2464, 7). */
static __always_inline int is_groups_mac(const struct packet *p)
{
	const __u8 *to = p->ether_destination, *group = p->destination;

	if (p->family == 6)
		return group[0] == 0xff && to[0] == 0x33 && to[1] == 0x33 && to[2] == group[12] &&
		       to[3] == group[13] && to[4] == group[14] && to[5] == group[15];
	return p->family == 4 && group[12] >> 4 == 14 && to[0] == 1 && !to[1] && to[2] == 0x5e &&
	       to[3] == (group[13] & 0x7f) && to[4] == group[14] && to[5] == group[15];
}

/* Zero, or the reason to deny. Groups that a guest may hear: all stations, all nodes (ff02::1), the
 * solicited-node group, which a solicitation must prove by its target (nd_check), and any other
 * that the packet is for, of which the policy decides.
 */
static __always_inline int
mac_check(const struct vnic_config *config, const struct packet *p, __u8 direction)
{
	const __u8 *to = p->ether_destination;

	if (direction == DIRECTION_EGRESS)
		return own_mac(config, p->ether_source) ? 0 : REASON_SPOOFED_MAC;
	if (own_mac(config, to))
		return 0;
	if (to[0] == 0xff && to[1] == 0xff && to[2] == 0xff && to[3] == 0xff && to[4] == 0xff &&
	    to[5] == 0xff)
		return 0;
	if (p->family != 6 || to[0] != 0x33 || to[1] != 0x33)
		return is_groups_mac(p) ? 0 : REASON_FOREIGN_MAC;
	if (!to[2] && !to[3] && !to[4] && to[5] == 1)
		return 0;
	/* All routers (ff02::2), and all DHCP agents and servers (ff02::1:2). */
	if (!to[2] && !to[3] && !to[4] && to[5] == 2)
		return config->roles & ROLE_ROUTER ? 0 : REASON_FOREIGN_MAC;
	if (!to[2] && to[3] == 1 && !to[4] && to[5] == 2)
		return config->roles & ROLE_DHCP_SERVER ? 0 : REASON_FOREIGN_MAC;
	if (to[2] == 0xff)
		return is_solicitation(p) ? 0 : REASON_FOREIGN_MAC;
	return is_groups_mac(p) ? 0 : REASON_FOREIGN_MAC;
}

static __always_inline int
arp_from_guest(const struct tables *tables, const struct vnic_config *config,
	       const struct arp *arp)
{
	__u8 sender[16];

	map_ipv4(sender, arp->sender);
	if (!own_mac(config, arp->sender_mac))
		return REASON_SPOOFED_NEIGHBOUR;
	/* RFC 5227, 2.1.1: a probe asks without claiming. */
	if (!(arp->sender[0] | arp->sender[1] | arp->sender[2] | arp->sender[3]))
		return arp->operation == bpf_htons(1) ? REASON_NEIGHBOUR : REASON_SPOOFED_NEIGHBOUR;
	return address_bound(tables, config, sender) ? REASON_NEIGHBOUR : REASON_SPOOFED_NEIGHBOUR;
}

static __always_inline int
arp_toward_guest(const struct __sk_buff *skb, const struct tables *tables,
		 const struct vnic_config *config, const struct arp *arp)
{
	__u8 sender[16];

	__u8 target[16];

	map_ipv4(sender, arp->sender);
	/* The guest's own address or station in a stranger's mouth. */
	if (own_mac(config, arp->sender_mac) || address_own(tables, config, sender))
		return REASON_SPOOFED_NEIGHBOUR;
	if (claims_local(skb, tables, sender))
		return REASON_SPOOFED_LOCAL;
	map_ipv4(target, arp->target);
	if (address_bound(tables, config, target) || same16(target, sender))
		return REASON_NEIGHBOUR;
	return REASON_FOREIGN_ADDRESS;
}

/* IPv4 over Ethernet. */
static __always_inline int arp_format(const struct arp *arp)
{
	return arp->hardware == bpf_htons(1) && arp->protocol == bpf_htons(TYPE_IPV4) &&
	       arp->hardware_bytes == 6 && arp->protocol_bytes == 4;
}

static __always_inline int
arp_check(struct __sk_buff *skb, const struct packet *p, const struct tables *tables,
	  const struct vnic_config *config, __u8 direction)
{
	struct arp arp;

	if (bpf_skb_load_bytes(skb, p->network, &arp, sizeof(arp)))
		return REASON_TRUNCATED;
	if (!arp_format(&arp) ||
	    (arp.operation != bpf_htons(1) && arp.operation != bpf_htons(2)))
		return REASON_BAD_HEADER;
	return direction == DIRECTION_EGRESS ? arp_from_guest(tables, config, &arp) :
					       arp_toward_guest(skb, tables, config, &arp);
}

/* QEMU announces a resumed guest in a reversed ARP (RFC 903) for its own station. It needs no
 * release: it moves the bridges' knowledge of the MAC and nothing else.
 */
static __always_inline int
rarp_check(struct __sk_buff *skb, const struct packet *p, const struct vnic_config *config,
	   __u8 direction)
{
	struct arp arp;

	if (bpf_skb_load_bytes(skb, p->network, &arp, sizeof(arp)))
		return REASON_TRUNCATED;
	if (direction == DIRECTION_INGRESS)
		return REASON_ETHER_TYPE;
	if (!arp_format(&arp) || arp.operation != bpf_htons(3))
		return REASON_BAD_HEADER;
	return own_mac(config, arp.sender_mac) && same_mac(arp.target_mac, arp.sender_mac) ?
		       REASON_ANNOUNCEMENT : REASON_SPOOFED_NEIGHBOUR;
}

/* Bytes before the options (RFC 4861, 4.1 and 4.2): solicitations for routers and their answers
 * have no target.
 */
static __always_inline __u32 nd_header(__u8 type)
{
	switch (type) {
	case ND_ROUTER_SOLICITATION:
		return 8;
	case ND_ROUTER_ADVERTISEMENT:
		return 16;
	}
	return 24;
}

/* Whether the options of a neighbour message speak of the right station: from the guest its own,
 * toward the guest any but its own. Zero, or the reason to deny.
 */
__noinline int nd_options(struct __sk_buff *skb, const struct packet *p,
			  const struct vnic_config *config, __u32 direction)
{
	__u8 option[8];
	__u32 at, end;

	if (!p || !config)
		return REASON_TRUNCATED;
	at = p->l4 + nd_header(p->icmp_type);
	end = p->l4 + p->l4_bytes;
	for (int i = 0; i < ND_OPTIONS_MAX; i++) {
		if (at == end)
			return 0;
		if (at + sizeof(option) > end ||
		    bpf_skb_load_bytes(skb, at, option, sizeof(option)))
			return REASON_TRUNCATED;
		/* RFC 4861, 4.6: a length of zero is to be discarded. */
		if (!option[1])
			return REASON_BAD_HEADER;
		if (option[0] == ND_OPTION_SOURCE_MAC || option[0] == ND_OPTION_TARGET_MAC)
			if (own_mac(config, &option[2]) != (direction == DIRECTION_EGRESS))
				return REASON_SPOOFED_NEIGHBOUR;
		at += option[1] * 8;
	}
	if (at > end)
		return REASON_TRUNCATED;
	return at == end ? 0 : REASON_BAD_HEADER;
}

static __always_inline int
nd_from_guest(const struct tables *tables, const struct vnic_config *config,
	      const struct packet *p, const __u8 target[16])
{
	int unspecified = zero16(p->source);

	if (!unspecified && !address_bound(tables, config, p->source))
		return REASON_SPOOFED_NEIGHBOUR;
	if (p->icmp_type == ND_ADVERTISEMENT || unspecified)
		return !(p->icmp_type == ND_ADVERTISEMENT && unspecified) &&
				       address_bound(tables, config, target) ?
			       REASON_NEIGHBOUR : REASON_SPOOFED_NEIGHBOUR;
	return REASON_NEIGHBOUR;
}

static __always_inline int
nd_toward_guest(const struct __sk_buff *skb, const struct tables *tables,
		const struct vnic_config *config, const struct packet *p, const __u8 target[16])
{
	const __u8 *to = p->ether_destination;
	int own = address_bound(tables, config, target);

	if (!zero16(p->source) && address_own(tables, config, p->source))
		return REASON_SPOOFED_NEIGHBOUR;
	if (claims_local(skb, tables, p->source))
		return REASON_SPOOFED_LOCAL;
	if (p->icmp_type == ND_ADVERTISEMENT) {
		if (address_own(tables, config, target))
			return REASON_SPOOFED_NEIGHBOUR;
		if (claims_local(skb, tables, target))
			return REASON_SPOOFED_LOCAL;
		if (p->destination[0] == 0xff)
			return REASON_NEIGHBOUR;
		return address_bound(tables, config, p->destination) ? REASON_NEIGHBOUR :
								       REASON_FOREIGN_ADDRESS;
	}
	/* A group's MAC must be that of the target (RFC 4291, 2.7.1), or anyone could listen in. */
	if (to[0] == 0x33 && to[2] == 0xff &&
	    (to[3] != target[13] || to[4] != target[14] || to[5] != target[15]))
		return REASON_FOREIGN_MAC;
	return own ? REASON_NEIGHBOUR : REASON_FOREIGN_ADDRESS;
}

/* Only routers are asked who routes, and not in the name of the guest or one that is elsewhere. */
static __always_inline int
router_asked(struct __sk_buff *skb, const struct tables *tables, const struct vnic_config *config,
	     const struct packet *p)
{
	int reason;

	if (!(config->roles & ROLE_ROUTER))
		return REASON_FOREIGN_ADDRESS;
	if (!zero16(p->source) && address_own(tables, config, p->source))
		return REASON_SPOOFED_NEIGHBOUR;
	if (claims_local(skb, tables, p->source))
		return REASON_SPOOFED_LOCAL;
	reason = nd_options(skb, p, config, DIRECTION_INGRESS);
	return reason ? reason : REASON_NEIGHBOUR;
}

/* The reason for a neighbour message; zero if the policy is to decide. */
static __always_inline int
nd_check(struct __sk_buff *skb, const struct tables *tables, const struct vnic_config *config,
	 const struct packet *p, __u8 direction)
{
	__u8 target[16] = {};
	int reason, has_target = p->icmp_type != ND_ROUTER_SOLICITATION;
	int listener = p->icmp_type == MLD_REPORT_2 ||
		       (p->icmp_type >= MLD_QUERY && p->icmp_type <= MLD_DONE);

	/* RFC 2710, 3: listeners and their routers do not speak beyond the link. */
	if (listener)
		return p->hops == 1 ? 0 : REASON_BAD_HEADER;
	if (p->icmp_type < ND_ROUTER_SOLICITATION || p->icmp_type > ND_REDIRECT)
		return 0;
	/* RFC 4861, 6.1 and 7.1: whoever is not on the link can't send 255. */
	if (p->hops != 255 || p->icmp_code)
		return REASON_BAD_HEADER;
	if (p->icmp_type == ND_ROUTER_ADVERTISEMENT && direction == DIRECTION_INGRESS)
		return 0;
	/* A router's are the policy's to allow. */
	if (p->icmp_type == ND_ROUTER_ADVERTISEMENT && config->roles & ROLE_ROUTER)
		return nd_options(skb, p, config, direction);
	if (p->icmp_type == ND_ROUTER_ADVERTISEMENT || p->icmp_type == ND_REDIRECT)
		return REASON_SPOOFED_NEIGHBOUR;
	if (!has_target && direction == DIRECTION_INGRESS)
		return router_asked(skb, tables, config, p);
	if (has_target && (p->l4_bytes < 24 ||
			   bpf_skb_load_bytes(skb, p->l4 + 8, target, sizeof(target))))
		return REASON_TRUNCATED;
	/* A v4-mapped target would be taken for the IPv4 address that it contains. */
	if (target[0] == 0xff || mapped_prefix(target))
		return REASON_BAD_HEADER;
	reason = nd_options(skb, p, config, direction);
	if (reason)
		return reason;
	if (!has_target)
		return zero16(p->source) || address_bound(tables, config, p->source) ?
			       REASON_NEIGHBOUR : REASON_SPOOFED_NEIGHBOUR;
	return direction == DIRECTION_EGRESS ? nd_from_guest(tables, config, p, target) :
					       nd_toward_guest(skb, tables, config, p, target);
}

#endif
