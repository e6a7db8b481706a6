/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may play the server: DHCP (RFC 2131) and DHCPv6 (RFC 8415). A client has no address yet and
 * asks a group, so that no session fits; each message is judged by itself instead.
 */
#ifndef LICTOR_GUARD_H
#define LICTOR_GUARD_H

#include "antispoof.h"

#define DHCP_SERVER_PORT 67
#define DHCP_CLIENT_PORT 68
#define DHCP6_CLIENT_PORT 546
#define DHCP6_SERVER_PORT 547
#define BOOTP_REQUEST 1
#define BOOTP_REPLY 2
#define BOOTP_HARDWARE_AT 28

/* The port of servers that a message goes to (`to_server`) or comes from, or zero. */
static __always_inline __u16 dhcp_server_port(const struct packet *p, int to_server)
{
	__u16 server = to_server ? p->destination_port : p->source_port;
	__u16 client = to_server ? p->source_port : p->destination_port;

	if (p->protocol != IP_UDP)
		return 0;
	if (p->family == 4)
		return server == DHCP_SERVER_PORT && client == DHCP_CLIENT_PORT ? server : 0;
	return server == DHCP6_SERVER_PORT && client == DHCP6_CLIENT_PORT ? server : 0;
}

/* RFC 2131, 4.1: whoever has no address yet sends from 0.0.0.0. IPv6 has a link-local one. */
static __always_inline int has_no_address(const struct packet *p)
{
	return p->family == 4 && !((const __u32 *)p->source)[3];
}

/* Whether a guest that is no server speaks as one, or as a relay of one. */
static __always_inline int plays_server(const struct vnic_config *config, const struct packet *p)
{
	return p->protocol == IP_UDP && !(config->roles & ROLE_DHCP_SERVER) &&
	       (p->source_port == DHCP_SERVER_PORT || p->source_port == DHCP6_SERVER_PORT);
}

/* A message of a client, or one for it: it names a station of the vnic. */
static __always_inline int
bootp_check(struct __sk_buff *skb, const struct vnic_config *config, const struct packet *p,
	    int to_server)
{
	__u8 head[BOOTP_HARDWARE_AT + 6];
	__u32 at = p->l4 + sizeof(struct udp);

	if (p->l4_bytes < sizeof(struct udp) + sizeof(head) ||
	    bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return REASON_TRUNCATED;
	if (to_server && head[0] == BOOTP_REPLY)
		return REASON_ROGUE_SERVER;
	/* Ethernet, and the length of its addresses. */
	if (head[0] != (to_server ? BOOTP_REQUEST : BOOTP_REPLY) || head[1] != 1 || head[2] != 6)
		return REASON_BAD_HEADER;
	return own_mac(config, &head[BOOTP_HARDWARE_AT]) ? 0 : REASON_SPOOFED_HARDWARE;
}

/* RFC 8415, 7.3: advertisements, replies and the wish for a reconfiguration come from servers;
 * relays' messages pass between servers only.
 */
static __always_inline int
dhcp6_check(struct __sk_buff *skb, const struct packet *p, int to_server)
{
	__u8 type;

	if (p->l4_bytes < sizeof(struct udp) + 4 ||
	    bpf_skb_load_bytes(skb, p->l4 + sizeof(struct udp), &type, 1))
		return REASON_TRUNCATED;
	switch (type) {
	case 2:
	case 7:
	case 10:
		return to_server ? REASON_ROGUE_SERVER : 0;
	case 1:
	case 3:
	case 4:
	case 5:
	case 6:
	case 8:
	case 9:
	case 11:
		return to_server ? 0 : REASON_BAD_HEADER;
	}
	return REASON_BAD_HEADER;
}

static __always_inline int
dhcp_check(struct __sk_buff *skb, const struct vnic_config *config, const struct packet *p,
	   int to_server)
{
	return p->family == 4 ? bootp_check(skb, config, p, to_server) :
				dhcp6_check(skb, p, to_server);
}

#endif
